"""Pictures that are the same or nearly so."""

from __future__ import annotations

import numpy as np
from PIL import Image

THUMBNAIL = 16
PROJECTIONS, WINDOW = 4, 2
MAX_RMS = 2.5  # of 255 levels: what recompression and rescaling leave


def near_duplicates(pictures: np.ndarray, max_rms: float = MAX_RMS) -> np.ndarray:
    """Pairs (P, 2) of indices i < j whose thumbnails differ by at most `max_rms` grey levels, root mean square.

    pictures (N, H, W, C) uint8. Near pictures lie near each other on any line, so candidates are neighbours in the order of
    their projections on a few random lines: N log N work, exact copies always found, near ones almost always.
    """
    features = np.stack([thumbnail(picture) for picture in pictures]) if len(pictures) else np.zeros((0, 1), np.float32)
    lines = np.random.Generator(np.random.Philox(key=0)).standard_normal((features.shape[1], PROJECTIONS)).astype(np.float32)
    pairs = []
    for order in np.argsort(features @ lines, axis=0, kind="stable").T:
        for shift in range(1, min(WINDOW + 1, len(order))):
            i, j = order[:-shift], order[shift:]
            close = np.sqrt(((features[i] - features[j]) ** 2).mean(1)) <= max_rms
            pairs.append(np.stack([np.minimum(i, j)[close], np.maximum(i, j)[close]], axis=1))
    return np.unique(np.concatenate(pairs), axis=0) if pairs else np.zeros((0, 2), np.int64)


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """The picture (H, W, C) reduced to at most 16x16 a channel, flat, float32 in 0..255."""
    side = (min(THUMBNAIL, picture.shape[1]), min(THUMBNAIL, picture.shape[0]))
    channels = [np.asarray(Image.fromarray(channel).resize(side, Image.Resampling.BOX)) for channel in np.moveaxis(picture, -1, 0)]
    return np.stack(channels).astype(np.float32).ravel()


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
