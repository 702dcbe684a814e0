"""What sees pictures for a comparison: the three kinds of extractors, and features that are kept for the next time."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..data.pictures import to_signed
from ..errors import ConfigurationError, StorageError
from ..machine import cache_folder
from ..storage import write_bytes
from .classifier import load_classifier
from .inception import load_inception

BATCH = 250


class Extractor(Protocol):
    """Pictures (N, H, W, C) uint8 -> features (N, D). `hash` names its weights. `official`: its Frechet distance is FID."""

    name: str
    hash: str
    official: bool

    def __call__(self, pictures: np.ndarray) -> Tensor:
        """The features."""
        ...


class ScriptExtractor:
    """A TorchScript or torch.export file of one's own: x (N, C, H, W) float32 in [-1, 1] -> (N, D)."""

    official = False

    def __init__(self, model: Callable[[Tensor], Tensor], name: str, digest: str) -> None:
        self.model, self.name, self.hash = model, name, digest

    def __call__(self, pictures: np.ndarray) -> Tensor:
        """The features. Raises ConfigurationError if the file does not take such pictures, or gives something else."""
        try:
            found = self.model(to_signed(pictures))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ConfigurationError(
                f"{self.name} does not take pictures of shape {(len(pictures), *pictures.shape[3:], *pictures.shape[1:3])}: "
                f"{str(error).strip().splitlines()[-1]}"
            ) from None
        if not isinstance(found, Tensor) or found.ndim < 2 or found.shape[:1] != pictures.shape[:1]:
            raise ConfigurationError(f"{self.name} must give a tensor (N, D) with a row a picture")
        return found.flatten(1).float()


def load_extractor(path: Path) -> Extractor:
    """An extractor of `alphabar extractor` (.safetensors), a torch.export file (.pt2) or a TorchScript file. Raises ConfigurationError."""
    if not path.is_file():
        raise ConfigurationError(f"--extractor: {path} does not exist; make one: alphabar extractor DATA --out FILE")
    if path.suffix.lower() == ".safetensors":
        return load_classifier(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    try:
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")  # torch's own, of a file that the error speaks of
            if path.suffix.lower() == ".pt2":
                model = torch.export.load(path).module()
            else:
                model = torch.jit.load(str(path), map_location="cpu").eval()
    except Exception as error:  # both raise many kinds for foreign files
        raise ConfigurationError(
            f"--extractor: {path} is no TorchScript or torch.export file ({first_sentence(error)})"
        ) from None
    return ScriptExtractor(model, path.name, digest)


def first_sentence(error: Exception) -> str:
    """What it says first, or its kind if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A block in which torch.export logs nothing from this thread; other threads and other loggers stay as they are.

    Of a foreign file it logs the whole trace, where one line of an error is enough.
    """
    logger, thread = logging.getLogger("torch.export"), threading.get_ident()

    def of_another_thread(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger.addFilter(of_another_thread)
    try:
        yield
    finally:
        logger.removeFilter(of_another_thread)


def pick_extractor(extractor: Path | None, inception: Path | None) -> Extractor:
    """The one that is asked for. Raises ConfigurationError for none and for two."""
    if (extractor is None) == (inception is None):
        raise ConfigurationError(
            "name what sees the pictures: --extractor FILE (alphabar extractor DATA --out FILE makes one for data with classes; "
            "TorchScript and torch.export files are taken too), or --inception FILE; not both"
        )
    return load_inception(inception) if inception is not None else load_extractor(Path(str(extractor)))


@torch.no_grad()
def features(
    extractor: Extractor, pictures: np.ndarray, on_batch: Callable[[int], None] | None = None, keep: bool = False
) -> Tensor:
    """Features (N, D) float32 of pictures (N, H, W, C) uint8, batch by batch.

    keep: those of data are kept in the cache folder under the pictures' and the extractor's hash, and found there the next time.
    """
    path = cache_folder() / "features" / f"{content_hash(pictures)}-{extractor.hash}.npy" if keep else None
    if path is not None and (found := _read(path, len(pictures))) is not None:
        return found
    parts = []
    for start in range(0, len(pictures), BATCH):
        parts.append(extractor(np.asarray(pictures[start : start + BATCH])))
        if on_batch is not None:
            on_batch(len(parts[-1]))
    result = torch.cat(parts)
    if path is not None:
        stream = io.BytesIO()
        np.save(stream, result.numpy())
        with contextlib.suppress(StorageError):  # what cannot be kept is made again the next time
            write_bytes(path, stream.getvalue())
    return result


def _read(path: Path, n: int) -> Tensor | None:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None  # not there, or cut off: made again
    good = isinstance(found, np.ndarray) and found.dtype == np.float32 and found.ndim == 2 and len(found) == n
    return torch.from_numpy(found) if good and np.isfinite(found).all() else None


def content_hash(pictures: np.ndarray) -> str:
    """Sixteen hex digits of what the pictures hold, their size included."""
    digest = hashlib.sha256(repr(pictures.shape).encode())
    for start in range(0, len(pictures), 4096):
        digest.update(np.ascontiguousarray(pictures[start : start + 4096]).data)
    return digest.hexdigest()[:16]
