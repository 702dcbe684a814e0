"""Pictures that are the same or nearly so."""

from __future__ import annotations

import hashlib
import math
import shutil
import tempfile

import numpy as np
from PIL import Image

from ..errors import StorageError

THUMBNAIL, PART = 16, 4
MAX_RMS = 2.5  # of 255 levels: what recompression and rescaling leave
MOST = 16  # pairs that a picture may have with later ones; all N^2 of a film's frames would connect nothing more
BLOCK, WINDOW = 256, 2048  # pictures that are compared at once with how many others
IN_MEMORY = 1 << 27  # bytes of thumbnails; more lie in a temporary file


def near_duplicates(pictures: np.ndarray, max_rms: float = MAX_RMS) -> np.ndarray:
    """Pairs (P, 2) of indices i < j whose thumbnails differ by at most `max_rms` grey levels, root mean square.

    pictures (N, H, W, C) uint8. Of several equal thumbnails each is paired with the first, and only the first with others.
    Sums over parts of a picture, each divided by the root of the part's size, are no further apart than the pictures are. So
    none is missed by looking only at those whose sums over the whole are near, of these at those whose sums over the four quarters
    are, and then over 4x4.
    """
    if len(pictures) < 2:
        return np.zeros((0, 2), np.int64)
    thumbnails = _thumbnails(pictures)
    first, copies = _equal(thumbnails)
    pairs = np.concatenate([copies, np.sort(_near(thumbnails, first, max_rms), axis=1)])
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _thumbnails(pictures: np.ndarray) -> np.ndarray:
    """Those of all pictures (N, C, h, w) uint8."""
    shape = (len(pictures), *thumbnail(np.asarray(pictures[0])).shape)
    out = np.empty(shape, np.uint8) if math.prod(shape) <= IN_MEMORY else _in_a_file(shape)
    for i in range(len(pictures)):
        out[i] = thumbnail(np.asarray(pictures[i]))
    return out


def _in_a_file(shape: tuple[int, ...]) -> np.ndarray:
    """An array that lies in a file without a name, gone when the array is. StorageError: no room for it."""
    needed, free = math.prod(shape), shutil.disk_usage(tempfile.gettempdir()).free
    if needed > free:  # writing to a map that the disk cannot hold would end the process
        raise StorageError(
            f"{tempfile.gettempdir()}: the search for near-duplicates needs {needed / 1e9:.3g} GB for a while, {free / 1e9:.3g} GB "
            "are free; make room, or name another folder in the environment variable TMPDIR"
        )
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.uint8, "w+", shape=shape)


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """The picture (H, W, C) reduced to (C, 16, 16) uint8, or its own size where that is less."""
    side = (min(THUMBNAIL, picture.shape[1]), min(THUMBNAIL, picture.shape[0]))
    channels = [Image.fromarray(channel) for channel in np.moveaxis(picture, -1, 0)]
    return np.stack([np.asarray(channel.resize(side, Image.Resampling.BOX)) for channel in channels])


def _equal(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The index of the first of each kind, and pairs (P, 2) of it with each later one that equals it."""
    n = len(thumbnails)
    keys = np.array([hashlib.blake2b(t.tobytes(), digest_size=16).digest() for t in thumbnails], "V16")
    _, first, kind = np.unique(keys, return_index=True, return_inverse=True)
    pairs = np.stack([first[kind], np.arange(n)], axis=1)
    return first, pairs[pairs[:, 0] != pairs[:, 1]]


def _near(thumbnails: np.ndarray, chosen: np.ndarray, max_rms: float) -> np.ndarray:
    """Pairs (P, 2) of the chosen thumbnails, which differ from each other, that differ by at most max_rms."""
    whole, quarters, parts = (_sums(thumbnails, chosen, side) for side in (THUMBNAIL, THUMBNAIL // 2, PART))
    radius = max_rms * np.sqrt(thumbnails[0].size) + 0.5  # more, as float32 rounds; what is too much is dropped below
    key = whole.sum(1) / np.sqrt(thumbnails.shape[1])
    order = np.argsort(key, kind="stable")
    key, quarters, parts, order = key[order], (quarters - quarters.mean(0))[order], parts[order], chosen[order]
    pairs = [np.zeros((0, 2), np.int64)]
    for start in range(0, len(parts), BLOCK):
        size = min(BLOCK, len(parts) - start)
        end = int(np.searchsorted(key, key[start + size - 1] + radius, side="right"))
        i, j = _candidates(quarters[start:end], parts[start:end], size, radius)
        i, j = order[start + i], order[start + j]
        rms = np.sqrt(((thumbnails[i].astype(np.float32) - thumbnails[j]) ** 2).mean((1, 2, 3)))
        pairs.append(np.stack([i, j], axis=1)[rms <= max_rms])
    return np.concatenate(pairs)


def _sums(thumbnails: np.ndarray, chosen: np.ndarray, side: int) -> np.ndarray:
    """`_part_sums` of the chosen thumbnails, piece by piece."""
    pieces = np.array_split(chosen, -(-len(chosen) // WINDOW))
    return np.concatenate([_part_sums(thumbnails[piece], side) for piece in pieces])


def _part_sums(thumbnails: np.ndarray, side: int) -> np.ndarray:
    """Sums over each side x side part of (N, C, h, w), divided by the root of its size: (N, C * parts) float32."""
    height, width = thumbnails.shape[2:]
    rows, columns = np.arange(0, height, side), np.arange(0, width, side)
    sums = np.add.reduceat(np.add.reduceat(thumbnails, rows, axis=2, dtype=np.float32), columns, axis=3)
    sizes = np.outer(np.diff(rows, append=height), np.diff(columns, append=width))
    return (sums / np.sqrt(sizes)).reshape(len(thumbnails), -1).astype(np.float32)


def _candidates(quarters: np.ndarray, parts: np.ndarray, size: int, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of one of the first `size` rows and a later row, the sums over whose quarters and over whose parts are within the radius:
    rows and columns, at most MOST of a row."""
    rows, columns = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    squares, one = (quarters**2).sum(1), np.ones(len(quarters), np.float32)
    own = np.column_stack([quarters[:size], (radius**2 - squares[:size]) / 2, one[:size]]).astype(np.float32)
    others = np.column_stack([quarters, one, squares / -2]).astype(np.float32).T
    for start in range(0, len(quarters), WINDOW):
        nearness = own @ others[:, start : start + WINDOW]  # (radius^2 - distance^2) / 2
        if start < size:
            nearness[np.arange(size)[:, None] >= start + np.arange(nearness.shape[1])] = -1
        if nearness.max() < 0:
            continue
        i, j = np.nonzero(nearness >= 0)
        near = ((parts[i] - parts[start + j]) ** 2).sum(1) <= radius**2
        rows.append(i[near])
        columns.append(start + j[near])
    i, j = np.concatenate(rows), np.concatenate(columns)
    order = np.argsort(i, kind="stable")
    i, j = i[order], j[order]
    kept = np.arange(len(i)) - np.searchsorted(i, i) < MOST
    return i[kept], j[kept]


def components(n: int, pairs: np.ndarray) -> np.ndarray:
    """For each of n things the smallest index of those that pairs connect it with. Shape (n,)."""
    root = np.arange(n)
    for i, j in pairs:
        a, b = _find(root, i), _find(root, j)
        root[max(a, b)] = min(a, b)
    return np.array([_find(root, i) for i in range(n)], dtype=np.int64)


def _find(root: np.ndarray, i: int) -> int:
    while root[i] != i:
        root[i] = root[root[i]]
        i = root[i]
    return i
