"""The Inception network of the Frechet inception distance, for the well-known weights that a user has at hand.

Written out after the graph that Heusel et al. (2017) published: Inception v3 (Szegedy et al. 2016) as it was trained in 2015, whose
pooling branches leave the padding out of the average, and whose last block takes the maximum there. Names of parameters are those
of torchvision's Inception v3, which the weights file uses. Only run on random weights here.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigurationError

SIZE = 299
CLASSES = 1008
FEATURES = 2048
WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
Pair = int | tuple[int, int]


class Conv(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, before: int, width: int, kernel: Pair, stride: int = 1, padding: Pair = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, width, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """Apply."""
        return F.relu(self.bn(self.conv(x)))


def average(x: Tensor) -> Tensor:
    """The mean of 3x3 places, of those that are inside."""
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class BlockA(nn.Module):
    """35x35: 1x1, 5x5, twice 3x3, pooling."""

    def __init__(self, before: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(before, 64, 1)
        self.branch5x5_1 = Conv(before, 48, 1)
        self.branch5x5_2 = Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Conv(before, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, padding=1)
        self.branch_pool = Conv(before, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Side by side."""
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(average(x))], 1)


class BlockB(nn.Module):
    """35x35 -> 17x17."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.branch3x3 = Conv(before, 384, 3, 2)
        self.branch3x3dbl_1 = Conv(before, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Side by side."""
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), three, F.max_pool2d(x, 3, 2)], 1)


class BlockC(nn.Module):
    """17x17: 1x1, 7x7 as 1x7 and 7x1, the same twice, pooling."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        row: dict[str, Any] = {"kernel": (1, 7), "padding": (0, 3)}
        column: dict[str, Any] = {"kernel": (7, 1), "padding": (3, 0)}
        self.branch1x1 = Conv(before, 192, 1)
        self.branch7x7_1 = Conv(before, width, 1)
        self.branch7x7_2 = Conv(width, width, **row)
        self.branch7x7_3 = Conv(width, 192, **column)
        self.branch7x7dbl_1 = Conv(before, width, 1)
        self.branch7x7dbl_2 = Conv(width, width, **column)
        self.branch7x7dbl_3 = Conv(width, width, **row)
        self.branch7x7dbl_4 = Conv(width, width, **column)
        self.branch7x7dbl_5 = Conv(width, 192, **row)
        self.branch_pool = Conv(before, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Side by side."""
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), seven, twice, self.branch_pool(average(x))], 1)


class BlockD(nn.Module):
    """17x17 -> 8x8."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.branch3x3_1 = Conv(before, 192, 1)
        self.branch3x3_2 = Conv(192, 320, 3, 2)
        self.branch7x7x3_1 = Conv(before, 192, 1)
        self.branch7x7x3_2 = Conv(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = Conv(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = Conv(192, 192, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Side by side."""
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, F.max_pool2d(x, 3, 2)], 1)


class BlockE(nn.Module):
    """8x8: 1x1, 3x3 as 1x3 beside 3x1, the same after a 3x3, pooling by average, or by maximum in the last block."""

    def __init__(self, before: int, maximum: bool) -> None:
        super().__init__()
        self.maximum = maximum
        self.branch1x1 = Conv(before, 320, 1)
        self.branch3x3_1 = Conv(before, 384, 1)
        self.branch3x3_2a = Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = Conv(before, 448, 1)
        self.branch3x3dbl_2 = Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = Conv(before, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Side by side."""
        three = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, 1, 1) if self.maximum else average(x)
        return torch.cat(
            [
                self.branch1x1(x), self.branch3x3_2a(three), self.branch3x3_2b(three),
                self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice), self.branch_pool(pooled),
            ], 1,
        )  # fmt: skip


class Inception(nn.Module):
    """x (N, 3, 299, 299) in [-1, 1] -> the features (N, 2048) before the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3)
        self.Mixed_5b = BlockA(192, 32)
        self.Mixed_5c = BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(768, 128)
        self.Mixed_6c = BlockC(768, 160)
        self.Mixed_6d = BlockC(768, 160)
        self.Mixed_6e = BlockC(768, 192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b = BlockE(1280, maximum=False)
        self.Mixed_7c = BlockE(2048, maximum=True)
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """To the features."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean((2, 3))


class InceptionExtractor:
    """The features of FID. `official` is true if the file's SHA-256 begins as its name says; only then is a distance called FID."""

    def __init__(self, model: nn.Module, digest: str, official: bool) -> None:
        self.model, self.hash, self.official = model.eval().requires_grad_(False), digest[:12], official
        self.name = "Inception of FID" if official else "Inception of FID, with weights that are not the official ones"

    def __call__(self, pictures: np.ndarray) -> Tensor:
        """(N, H, W, C) uint8 of 1 or 3 channels -> (N, 2048) float32."""
        if pictures.shape[-1] not in (1, 3):
            raise ConfigurationError(f"Inception takes grey or colour pictures, got {pictures.shape[-1]} channels")
        x = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float()
        return self.model((resize_bilinear(x.expand(-1, 3, -1, -1), SIZE) - 128) / 128)


def resize_bilinear(x: Tensor, size: int) -> Tensor:
    """x (N, C, H, W) -> (N, C, size, size) as the published graph does it: output i looks at i H / size, not at pixel centres."""
    for axis in (2, 3):
        length = x.shape[axis]
        at = torch.arange(size, dtype=torch.float32) * (length / size)
        low = at.floor().long().clamp(max=length - 1)
        high = (low + 1).clamp(max=length - 1)
        share = (at - low).reshape(-1, *[1] * (3 - axis))
        x = torch.lerp(x.index_select(axis, low), x.index_select(axis, high), share)
    return x


def load_inception(path: Path) -> InceptionExtractor:
    """From a weights file, of which every key and every shape must be right.

    Raises ConfigurationError if it is another network's, or if its SHA-256 does not begin as its name says.
    """
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigurationError(f"--inception: cannot read {path}: {error.strerror}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ConfigurationError(
            f"--inception: {path} is not a file of weights ({str(error).splitlines()[0]}); it should be {WEIGHTS}"
        ) from None
    told = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    if told is not None and not digest.startswith(told[1]):
        raise ConfigurationError(
            f"--inception: {path} should have a SHA-256 that begins with {told[1]}, it begins with {digest[:8]}; it is damaged, get it again"
        )
    with torch.device("meta"):
        model = Inception()
    check_weights(model, tensors, path)
    model.load_state_dict(tensors, assign=True, strict=False)
    return InceptionExtractor(model.float(), digest, digest.startswith(WEIGHTS.split("-")[-1].removesuffix(".pth")))


def check_weights(model: nn.Module, tensors: Any, path: Path) -> None:
    """Raise ConfigurationError at the first name or shape that is not the network's; counters of batches may be absent."""
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ConfigurationError(f"--inception: {path} does not hold tensors by name; it should be {WEIGHTS}")
    counter = "num_batches_tracked"
    expected = {name: value.shape for name, value in model.state_dict().items()}
    wrong = [name for name in expected if name not in tensors and not name.endswith(counter)]
    wrong += [name for name in tensors if name not in expected]
    wrong += [name for name in tensors if name in expected and tensors[name].shape != expected[name]]
    if wrong:
        raise ConfigurationError(
            f"--inception: {path} is another network's: {wrong[0]} is missing, unknown or of another shape ({len(wrong)} in all); it should be {WEIGHTS}"
        )
