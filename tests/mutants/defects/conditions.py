"""Defects of the encoders of conditions, of maps and pictures as conditions, and of the networks' doors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from alphabar.conditions.base import hide
from alphabar.conditions.image import enlarge, load_input, reduce
from alphabar.conditions.semantic_map import NOTHING
from alphabar.conditions.text import PADDING, convolve, padded, pretrained_model, utf_8, words_of

from ..seeding import Defects

DEFECTS = Defects()
ENCODERS, TEXT, MAP, IMAGE = (f"conditions/test_{name}.py" for name in ("base", "text", "semantic_map", "image"))
DOORS = "networks/test_doors.py"

# semantic maps


@DEFECTS.seed("map resized with smoothing", "fit_nearest", MAP, "resized or resizing")
def _(original: Any) -> Any:
    def fit(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        image = Image.fromarray(array.astype(np.int32))
        return np.asarray(ImageOps.fit(image, size[::-1], Image.Resampling.BILINEAR)).astype(array.dtype)

    return fit


@DEFECTS.seed("palette converted to grey", "MapFiles._values", MAP, "palette")
def _(original: Any) -> Any:
    def values(self: Any, image: Image.Image, *arguments: Any) -> Any:
        return original(self, image if self.by_colour else image.convert("L"), *arguments)

    return values


@DEFECTS.seed("index check off by one", "MapFiles.__init__", MAP, "largest_class")
def _(original: Any) -> Any:
    def init(self: Any, settings: Any) -> None:
        original(self, settings.model_copy(update={"classes": [*settings.classes, "one too many"]}))

    return init


@DEFECTS.seed("the ignored index becomes a class", "MapFiles.indices", MAP, "ignored")
def _(original: Any) -> Any:
    def indices(self: Any, where: Any) -> np.ndarray:
        array = original(self, where)
        return np.where(array == NOTHING, 0, array).astype(array.dtype)

    return indices


DEFECTS.constant("indices of 2 bits stretched to 8", "STRETCHED", {"L;2": 1, "L;4": 17}, MAP, "2_and_4")

# captions


@DEFECTS.seed("token mask inverted", "WordFeatures.forward", TEXT, "padding")
def _(original: Any) -> Any:
    def forward(self: Any, texts: Sequence[str], device: Any) -> Any:
        features, mask = original(self, texts, device)
        return features, ~mask

    return forward


@DEFECTS.seed("padding attended to", "WordFeatures.__init__", TEXT, "padding")
def _(original: Any) -> Any:
    def init(self: Any, settings: Any) -> None:
        original(self, settings)
        self.transformer.register_forward_pre_hook(lambda module, args, masks: (args, {}), with_kwargs=True)

    return init


@DEFECTS.seed("mean over padding too", "TextEncoder.forward", TEXT, "padding")
def _(original: Any) -> Any:
    def forward(self: Any, values: Any, n: int, drop: Any = None) -> Any:
        cond, bias = original(self, values, n, drop), self.to_vector.bias
        share = cond.token_mask.float().mean(1, keepdim=True)
        return replace(cond, vector=(cond.vector - bias) * share + bias)

    return forward


@DEFECTS.seed("null token not used on drop", "hide", ENCODERS, "all_dropped")
def _(original: Any) -> Any:
    def keep_tokens(tensor: Any, drop: Any, null: Any = 0.0) -> Any:
        return tensor if tensor.ndim == 3 else original(tensor, drop, null)

    return keep_tokens


@DEFECTS.seed("a dropped caption keeps its length", "TextEncoder.forward", ENCODERS, "all_dropped")
def _(original: Any) -> Any:
    def forward(self: Any, values: Any, n: int, drop: Any = None) -> Any:
        return replace(original(self, values, n, drop), token_mask=original(self, values, n).token_mask)

    return forward


@DEFECTS.seed("caption cut at its end", "WordFeatures.forward", TEXT, "cut")
def _(original: Any) -> Any:
    def forward(self: Any, texts: Sequence[str], device: Any) -> Any:
        return original(self, [" ".join(words_of(text)[-self.length :]) for text in texts], device)

    return forward


@DEFECTS.seed("a word changed by the longest word beside it", "WordFeatures._spell", TEXT, "padding_does_not")
def _(original: Any) -> Any:
    def spell(self: Any, words: Sequence[str], device: Any) -> Any:
        ids = padded([list(utf_8(word)) for word in words], PADDING).to(device)
        return self.norm(convolve(self.spelling, self.embedding(ids), torch.ones_like(ids)).sum(1))

    return spell


@DEFECTS.seed("pretrained features computed again", "FrozenFeatures.forward", TEXT, "runs_once")
def _(original: Any) -> Any:
    def forward(self: Any, texts: Sequence[str], device: Any) -> Any:
        pretrained_model(self.folder)[2].clear()
        return original(self, texts, device)

    return forward


@DEFECTS.seed("pretrained model trained along", "FrozenFeatures.__init__", TEXT, "neither_saved")
def _(original: Any) -> Any:
    def init(self: Any, settings: Any) -> None:
        original(self, settings)
        pretrained_model(self.folder)[1].train().requires_grad_(True)

    return init


@DEFECTS.seed("another pretrained model not noticed", "weights_hash", TEXT, "are_remembered")
def _(original: Any) -> Any:
    return lambda folder: None if original(folder) is None else "0" * 12


# the contract of encoders, and labels


@DEFECTS.seed("hiding the wrong rows", "hide", ENCODERS, "dropping")
def _(original: Any) -> Any:
    return lambda tensor, drop, null=0.0: original(tensor, None if drop is None else ~drop, null)


@DEFECTS.seed("stacked padding counts", "stack", ENCODERS, "stacking")
def _(original: Any) -> Any:
    def lengthened(mask: Any, length: int) -> Any:
        return None if mask is None else F.pad(mask, (0, length - mask.shape[1]), value=True)

    def stack(conds: Any) -> Any:
        length = max((cond.tokens.shape[1] for cond in conds if cond.tokens is not None), default=0)
        return original([replace(cond, token_mask=lengthened(cond.token_mask, length)) for cond in conds])

    return stack


@DEFECTS.seed("vectors of several conditions not added", "Encoders.forward", ENCODERS, "one_module")
def _(original: Any) -> Any:
    def forward(self: Any, values: Any, n: int, drop: Any = None) -> Any:
        conds = [kind(values.get(name), n, (drop or {}).get(name)) for name, kind in self.items()]
        vectors = [cond.vector for cond in conds if cond.vector is not None]
        return replace(original(self, values, n, drop), vector=vectors[0] if vectors else None)

    return forward


@DEFECTS.seed("null class is the first class", "LabelEncoder.forward", ENCODERS, "all_dropped")
def _(original: Any) -> Any:
    def forward(self: Any, values: Any, n: int, drop: Any = None) -> Any:
        return original(self, None if values is None else hide(torch.as_tensor(values), drop, 0), n)

    return forward


# pictures


@DEFECTS.seed("known mask channel dropped", "ImageEncoder.forward", IMAGE, "told_from_a_grey")
def _(original: Any) -> Any:
    def forward(self: Any, values: Any, n: int, drop: Any = None) -> Any:
        cond = original(self, values, n, drop)
        return replace(cond, concat=torch.cat([cond.concat[:, :-1], 0 * cond.concat[:, -1:]], 1))

    return forward


@DEFECTS.seed("masks the wrong way around", "ImageEncoder.read", IMAGE, "what_training_made")
def _(original: Any) -> Any:
    def inverted(self: Any, given: Any) -> Any:
        return (given[0], 255 - load_input(given[1], self.size, 1)) if isinstance(given, tuple) else given

    return lambda self, inputs, notes: original(self, [inverted(self, given) for given in inputs], notes)


@DEFECTS.seed("strokes off by a pixel", "thickened", IMAGE, "strokes_say")
def _(original: Any) -> Any:
    return lambda marks, reach: original(np.pad(marks, ((0, 1), (0, 1)))[1:, 1:], reach)


@DEFECTS.seed("hidden pixels not hidden", "ImageEncoder.derive", IMAGE, "inpainting_hides")
def _(original: Any) -> Any:
    def derive(self: Any, x_0: Any, keys: Any) -> np.ndarray:
        values = original(self, x_0, keys)
        if self.settings.task == "inpaint":
            values[:, : self.channels] = x_0
        return values

    return derive


@DEFECTS.seed("one mask for all", "random_mask", IMAGE, "inpainting_hides")
def _(original: Any) -> Any:
    return lambda size, g: original(size, np.random.default_rng(0))


@DEFECTS.seed("augmentation when pictures are made", "ImageEncoder.read", IMAGE, "without_augmentation")
def _(original: Any) -> Any:
    def read(self: Any, inputs: Any, notes: list[str]) -> np.ndarray:
        values = original(self, inputs, notes)
        if self.settings.task == "super-resolution":
            values[:, : self.channels] *= 0.9
        return values

    return read


@DEFECTS.seed("augmentation not told", "ImageEncoder.derive", IMAGE, "told_to_the_network")
def _(original: Any) -> Any:
    def derive(self: Any, x_0: Any, keys: Any) -> np.ndarray:
        values = original(self, x_0, keys)
        values[:, -1] = 0
        return values

    return derive


@DEFECTS.seed("augmentation by its variance", "ImageEncoder.derive", IMAGE, "told_to_the_network")
def _(original: Any) -> Any:
    def derive(self: Any, x_0: Any, keys: Any) -> np.ndarray:
        values = original(self, x_0, keys)
        if self.settings.task == "super-resolution":
            s, x = values[:, -1:], values[:, : self.channels]
            signal = np.sqrt(1 - s**2) * enlarge(reduce(x_0, self.settings.scale), self.size).numpy()
            values[:, : self.channels] = signal + s * (x - signal)  # x is signal + s eps
        return values

    return derive


DEFECTS.constant("colours left in the grey picture", "LUMA", (0.333, 0.333, 0.334), IMAGE, "colorize")

# doors of the network


@DEFECTS.seed("SPADE without its 1 +", "Modulation.forward", DOORS)
def _(original: Any) -> Any:
    return lambda self, h, guide: original(self, h, guide) - h


@DEFECTS.seed("cross-attention ignores the mask", "CrossAttention.forward", DOORS)
def _(original: Any) -> Any:
    return lambda self, x, tokens, mask: original(self, x, tokens, None)


@DEFECTS.seed("cross-attention replaces its input", "CrossAttention.forward", DOORS)
def _(original: Any) -> Any:
    return lambda self, x, tokens, mask: original(self, x, tokens, mask) - x
