"""An extractor for the data at hand: a small classifier of its classes. What its last layer sees are the features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..data.pictures import PictureSet, to_signed
from ..errors import ConfigurationError, DataError
from ..randomness import generator
from ..storage import write_bytes

FORMAT = "alphabar-extractor-2"
FEATURES = 128
EPOCHS, BATCH, RATE = 8, 128, 2e-3
SMALLEST = 8


@dataclass(frozen=True)
class Origin:
    """What a classifier was made from."""

    source: str
    shape: list[int]
    classes: list[str]
    pictures: int
    seed: int
    accuracy: float | None = None
    judged_on: int = 0


class Classifier(nn.Module):
    """Pictures -> features (N, 128) -> a score for each class (N, classes)."""

    scale: Tensor

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        widths, layers = [32, 64, 128, 128], list[nn.Module]()
        for before, width, stride in zip([channels, *widths], widths, [1, 2, 2, 1], strict=False):
            layers += [nn.Conv2d(before, width, 3, stride, 1), nn.GroupNorm(8, width), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(3), nn.Flatten())
        self.narrow = nn.Linear(9 * widths[-1], FEATURES)
        self.head = nn.Linear(FEATURES, classes)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) in [-1, 1] -> the features, of unit mean square over what the classifier was trained on."""
        return F.relu(self.narrow(self.body(x))) / self.scale


class ClassifierExtractor:
    """A trained classifier as an extractor of features; it also names the class of a picture. seen: `picture_keys` of what it learned from."""

    official = False

    def __init__(self, model: Classifier, origin: Origin, digest: str, seen: np.ndarray) -> None:
        self.model, self.origin, self.hash, self.seen = model.eval().requires_grad_(False), origin, digest, seen
        self.name = f"classifier of {origin.source}"

    def __call__(self, pictures: np.ndarray) -> Tensor:
        """(N, H, W, C) uint8 -> (N, 128) float32."""
        channels, height, width = self.origin.shape
        if pictures.shape[1:] != (height, width, channels):
            raise ConfigurationError(
                f"this extractor was trained on {height}x{width} pictures with {channels} channels, got {pictures.shape[1:]}; "
                "make one for these pictures: alphabar extractor DATA --out FILE"
            )
        return self.model(to_signed(pictures))

    def labels(self, features: Tensor) -> np.ndarray:
        """Features (N, 128) -> the number of the likeliest class (N,)."""
        return self.model.head(features.float() * self.model.scale).argmax(1).numpy()

    def knew(self, keys: np.ndarray) -> np.ndarray:
        """Of `picture_keys` (N,), which are of pictures (N,) bool that it was trained on: they must not serve as real ones."""
        return np.isin(keys, self.seen)


def picture_keys(pictures: np.ndarray) -> np.ndarray:
    """A hash of each picture's pixels (N,) uint64: it chooses pictures in a way that can be repeated from the pictures alone."""
    digests = [hashlib.blake2b(np.ascontiguousarray(p).data, digest_size=8).digest() for p in pictures]
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


def train_classifier(
    data: PictureSet, source: str, count: int, seed: int = 0, on_epoch: Callable[[int, int], None] | None = None
) -> ClassifierExtractor:
    """A classifier of the `count` pictures with the least keys, judged on up to 10,000 of the others.

    The same data, count and seed give the same weights on one machine. Raises DataError for data without two classes.
    """
    check(data, source, count)
    keys = picture_keys(np.asarray(data.pictures[:]))
    order = np.argsort(keys, kind="stable")
    chosen, others = order[:count], order[count : count + 10_000]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Classifier(data.shape[0], len(data.classes))
    _fit(model, data, np.sort(chosen), seed, on_epoch or (lambda done, total: None))
    _normalise(model, data, np.sort(chosen))
    origin = Origin(source, list(data.shape), list(data.classes), count, seed)
    extractor = ClassifierExtractor(model, origin, digest_of(model), np.sort(keys[chosen]))
    assert data.labels is not None
    if len(others):
        right = [
            extractor.labels(extractor(data.pictures[part])) == data.labels[part]
            for part in np.array_split(np.sort(others), -(-len(others) // 500))
        ]
        accuracy = float(np.concatenate(right).mean())
        extractor.origin = Origin(**asdict(origin) | {"accuracy": accuracy, "judged_on": len(others)})
    return extractor


def check(data: PictureSet, source: str, count: int) -> None:
    """Raise DataError for data that no classifier can be made of."""
    if data.labels is None or len(data.classes) < 2:
        raise DataError(
            f"{source} has no classes, so no classifier can be trained on it; name them with --class-from, or use --inception FILE or an --extractor of your own"
        )
    if min(data.shape[1:]) < SMALLEST:
        raise DataError(
            f"pictures of {data.shape[1]}x{data.shape[2]} are too small; the least is {SMALLEST}x{SMALLEST}"
        )
    if not 2 <= count <= len(data):
        raise DataError(f"--pictures must be 2 to {len(data)}, the number of pictures in {source}, got {count}")


def _fit(
    model: Classifier, data: PictureSet, chosen: np.ndarray, seed: int, on_epoch: Callable[[int, int], None]
) -> None:
    steps, step = EPOCHS * -(-len(chosen) // BATCH), 0
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.2)
    for epoch in range(EPOCHS):
        order = generator(seed, "extractor", epoch).permutation(chosen)
        for part in np.array_split(order, -(-len(order) // BATCH)):
            batch = data.batch(part)
            loss = F.cross_entropy(model.head(model(batch.x_0)), batch.cond["class"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
        on_epoch(epoch + 1, EPOCHS)


@torch.no_grad()
def _normalise(model: Classifier, data: PictureSet, chosen: np.ndarray) -> None:
    """Set the scale of the features, on which a kernel distance depends with its sixth power."""
    squares = [model(data.batch(part).x_0).square().mean(1) for part in np.array_split(chosen, -(-len(chosen) // 500))]
    model.scale.copy_(torch.cat(squares).mean().sqrt().clamp(min=1e-6))


def digest_of(model: nn.Module) -> str:
    """Twelve hex digits that name the weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def save_classifier(extractor: ClassifierExtractor, path: Path) -> None:
    """Into a safetensors file with its origin and the keys of what it saw. The same extractor gives the same bytes."""
    tensors = {name: tensor.contiguous() for name, tensor in extractor.model.state_dict().items()}
    tensors["seen"] = torch.from_numpy(extractor.seen.view(np.int64))
    told = {"format": FORMAT, "check": check_sum(extractor), "origin": asdict(extractor.origin)}
    write_bytes(path, save(tensors, {"alphabar": json.dumps(told)}))  # one key, as several are written in any order


def load_classifier(path: Path) -> ClassifierExtractor:
    """From the file that `save_classifier` wrote. Raises ConfigurationError for any other file."""
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        told = read_metadata(metadata)
        origin, seen = Origin(**told["origin"]), tensors.pop("seen").numpy().view(np.uint64)
        model = Classifier(origin.shape[0], len(origin.classes))
        model.load_state_dict(tensors)
        found = ClassifierExtractor(model, origin, digest_of(model), seen)
        if told.get("check", check_sum(found)) != check_sum(found):
            raise ValueError("it is damaged: its content is not what was written")
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise ConfigurationError(
            f"{path} is no extractor of alphabar ({str(error).splitlines()[0]}); make one: alphabar extractor DATA --out FILE"
        ) from None
    return found


def check_sum(extractor: ClassifierExtractor) -> str:
    """Twelve hex digits of the weights, of the keys of what they have seen, and of what is told of them."""
    told = extractor.hash + json.dumps(asdict(extractor.origin), sort_keys=True)
    return hashlib.sha256(told.encode() + extractor.seen.astype("<u8").tobytes()).hexdigest()[:12]


def read_metadata(metadata: dict[str, str]) -> dict[str, Any]:
    """The format, the origin and, but for files of earlier versions, the check sum. Raises ValueError for another format."""
    if "alphabar" in metadata:
        told: dict[str, Any] = json.loads(metadata["alphabar"])
    else:
        told = {"format": metadata.get("format"), "origin": json.loads(metadata.get("origin", "null"))}
    if told["format"] != FORMAT:
        raise ValueError(f"its format is {told['format']}, expected {FORMAT}")
    return told
