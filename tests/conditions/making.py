"""Encoders of every kind at their smallest, and what may be asked of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from alphabar.conditions.base import Encoder, Sizes
from alphabar.conditions.kinds import build_encoders
from alphabar.data.pictures import to_signed
from alphabar.networks.cond import Cond

SHAPE = (3, 8, 8)
SIZES = Sizes(SHAPE, vector_dim=16, token_dim=12)
TEXT = {"length": 24, "width": 32, "layers": 1}


def encoder(name: str, shape: tuple[int, ...] = SHAPE, **settings: Any) -> Encoder:
    """A fresh encoder, always with the same weights."""
    torch.manual_seed(0)
    return build_encoders({name: settings}, Sizes(shape, 16, 12))[name].eval()


def noise(n: int = 3, height: int = 8, width: int = 8, channels: int = 3, seed: int = 0) -> np.ndarray:
    """(N, H, W, C) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, channels), dtype=np.uint8)


def signed(n: int = 3, channels: int = 3, seed: int = 0, size: int = 8) -> Tensor:
    """x_0 (n, C, size, size) of 8-bit pictures."""
    return to_signed(noise(n, size, size, channels, seed))


def indices(n: int = 3, classes: int = 4, seed: int = 0) -> np.ndarray:
    """Maps (n, 8, 8) uint8."""
    return np.random.default_rng(seed).integers(0, classes, (n, 8, 8), dtype=np.uint8)


def save_png(path: Path, picture: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture[..., 0] if picture.shape[2:] == (1,) else picture).save(path)
    return path


def save_palette(path: Path, array: np.ndarray, colours: list[tuple[int, int, int]]) -> Path:
    """A palette PNG of indices (H, W)."""
    image = Image.fromarray(array.astype(np.uint8), "L").convert("P")
    image.putdata([int(i) for i in array.ravel()])
    image.putpalette([value for colour in colours for value in colour])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


DOORS = ("vector", "tokens", "modulation", "concat")


def doors_of(cond: Cond) -> set[str]:
    return {name for name in DOORS if getattr(cond, name) is not None}


def assert_same(one: Cond, other: Cond, tolerance: float = 0.0) -> None:
    """Equal as far as a network can see: of the tokens, those that count."""
    assert doors_of(one) == doors_of(other)
    for name in doors_of(one) - {"tokens"}:
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=tolerance)
    if one.tokens is not None:
        assert one.token_mask.sum(1).tolist() == other.token_mask.sum(1).tolist()
        torch.testing.assert_close(one.tokens[one.token_mask], other.tokens[other.token_mask], rtol=0, atol=tolerance)


def rows(cond: Cond, chosen: list[int]) -> Cond:
    """Some items of a batch."""
    return Cond(**{n: None if (v := getattr(cond, n)) is None else v[chosen] for n in Cond.__dataclass_fields__})


# pretrained text models

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "blue", "circle", "on", "the", "left", "猫"]


def save_tokenizer(folder: Path, **options: Any) -> Path:
    """A tokenizer of a few words."""
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        **options,
    ).save_pretrained(folder)
    return folder


TOWER = {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
READER = TOWER | {"vocab_size": len(WORDS), "max_position_embeddings": 12}
T5 = {"vocab_size": len(WORDS), "d_model": 20, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}


def save_model(folder: Path, kind: str, seed: int = 0) -> Path:
    """A tiny model of random weights, of the kind that its class is called."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    if kind == "CLIPModel":
        seeing = TOWER | {"hidden_size": 12, "image_size": 8, "patch_size": 4}
        config = transformers.CLIPConfig(text_config=READER, vision_config=seeing, projection_dim=16)
    elif "T5" in kind:
        config = getattr(transformers, kind.partition("T5")[0] + "T5Config")(**T5, decoder_start_token_id=0)
    else:
        config = getattr(transformers, kind.removesuffix("Model").removesuffix("ForMaskedLM") + "Config")(**READER)
    getattr(transformers, kind)(config).save_pretrained(folder)
    return folder
