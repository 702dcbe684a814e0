"""Pictures that are the same or nearly so."""

from __future__ import annotations

import numpy as np
from PIL import Image

THUMBNAIL, PART = 16, 4
MAX_RMS = 2.5  # of 255 levels: what recompression and rescaling leave
MOST = 16  # pairs that a picture may have with later ones; all N^2 of a film's frames would connect nothing more
BLOCK = 256


def near_duplicates(pictures: np.ndarray, max_rms: float = MAX_RMS) -> np.ndarray:
    """Pairs (P, 2) of indices i < j whose thumbnails differ by at most `max_rms` grey levels, root mean square.

    pictures (N, H, W, C) uint8. Of several equal thumbnails each is paired with the first, and only the first with others.
    Sums over parts of a picture, each divided by the root of the part's size, are no further apart than the pictures are. So
    none is missed by looking only at those whose sums over the whole are near, and then at those whose sums over 4x4 are.
    """
    if len(pictures) < 2:
        return np.zeros((0, 2), np.int64)
    thumbnails = np.stack([thumbnail(picture) for picture in pictures])
    first, copies = _equal(thumbnails)
    pairs = np.concatenate([copies, np.sort(first[_near(thumbnails[first], max_rms)], axis=1)])
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """The picture (H, W, C) reduced to (C, 16, 16) uint8, or its own size where that is less."""
    side = (min(THUMBNAIL, picture.shape[1]), min(THUMBNAIL, picture.shape[0]))
    channels = [Image.fromarray(channel) for channel in np.moveaxis(picture, -1, 0)]
    return np.stack([np.asarray(channel.resize(side, Image.Resampling.BOX)) for channel in channels])


def _equal(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The index of the first of each kind, and pairs (P, 2) of it with each later one that equals it."""
    n = len(thumbnails)
    rows = thumbnails.reshape(n, -1).view(np.dtype((np.void, thumbnails[0].size))).ravel()
    _, first, kind = np.unique(rows, return_index=True, return_inverse=True)
    pairs = np.stack([first[kind], np.arange(n)], axis=1)
    return first, pairs[pairs[:, 0] != pairs[:, 1]]


def _near(thumbnails: np.ndarray, max_rms: float) -> np.ndarray:
    """Pairs (P, 2) of different thumbnails (N, C, h, w) that differ by at most max_rms."""
    whole, parts = _sums(thumbnails, THUMBNAIL).sum(1) / np.sqrt(thumbnails.shape[1]), _sums(thumbnails, PART)
    radius = max_rms * np.sqrt(thumbnails[0].size) + 0.5  # more, as float32 rounds; what is too much is dropped below
    order = np.argsort(whole, kind="stable")
    whole, parts = whole[order], parts[order]
    pairs = []
    for start in range(0, len(parts), BLOCK):
        block = slice(start, start + BLOCK)
        window = slice(start, np.searchsorted(whole, whole[block][-1] + radius, side="right"))
        i, j = _first_of_each_row(_within(parts[block], parts[window], radius))
        i, j = order[start + i], order[start + j]
        rms = np.sqrt(((thumbnails[i].astype(np.float32) - thumbnails[j]) ** 2).mean((1, 2, 3)))
        pairs.append(np.stack([i, j], axis=1)[rms <= max_rms])
    return np.concatenate(pairs)


def _sums(thumbnails: np.ndarray, side: int) -> np.ndarray:
    """Sums over each side x side part of (N, C, h, w), divided by the root of its size: (N, C * parts) float32."""
    height, width = thumbnails.shape[2:]
    rows, columns = np.arange(0, height, side), np.arange(0, width, side)
    sums = np.add.reduceat(np.add.reduceat(thumbnails, rows, axis=2, dtype=np.float32), columns, axis=3)
    sizes = np.outer(np.diff(rows, append=height), np.diff(columns, append=width))
    return (sums / np.sqrt(sizes)).reshape(len(thumbnails), -1).astype(np.float32)


def _within(a: np.ndarray, b: np.ndarray, radius: float) -> np.ndarray:
    """Whether |a_i - b_j| <= radius, (n, m) bool, as a_i b_j >= (|a_i|^2 + |b_j|^2 - radius^2) / 2."""
    near: np.ndarray = a @ b.T >= ((a**2).sum(1) - radius**2)[:, None] / 2 + (b**2).sum(1) / 2
    return near


def _first_of_each_row(near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where near (n, m) holds right of the diagonal, at most MOST times in a row: rows and columns."""
    near[:, : len(near)] = np.triu(near[:, : len(near)], k=1)
    i, j = np.nonzero(near)
    rank = np.arange(len(i)) - np.searchsorted(i, i)
    return i[rank < MOST], j[rank < MOST]


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
