"""Random numbers that are a function of their key and of nothing else.

A key is (seed, stream, index, step, ...), hashed to 128 bits, so that neighbouring seeds never overlap, a sample's noise does
not depend on the batch or the process that it is made in, and a resumed run draws what an uninterrupted one would have drawn.
Everything is drawn on the CPU by a counter-based generator (Philox, Salmon et al. 2011), so every device sees the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Key = int | str


def generator(*key: Key) -> np.random.Generator:
    """A fresh generator for this key: integers of any size and strings, for example (seed, "noise", step)."""
    return np.random.Generator(np.random.Philox(key=_philox_key(key)))


def _philox_key(key: tuple[Key, ...]) -> np.ndarray:
    return np.frombuffer(hashlib.blake2b(repr(key).encode(), digest_size=16).digest(), dtype="<u8")


def normal(shape: Sequence[int], *key: Key) -> Tensor:
    """Standard normal float32 numbers of this shape, on the CPU."""
    return torch.from_numpy(generator(*key).standard_normal(tuple(shape), dtype=np.float32))


def normal_rows(shape: Sequence[int], keys: Sequence[tuple[Key, ...]]) -> Tensor:
    """(len(keys), *shape) float32: row i is `normal(shape, *keys[i])`, at a fifth of the cost for many small rows."""
    out = np.empty((len(keys), *shape), np.float32)
    bits = np.random.Philox(key=0)
    rows, state = np.random.Generator(bits), bits.state
    for i, key in enumerate(keys):
        state["state"] = {"counter": np.zeros(4, np.uint64), "key": _philox_key(key)}
        bits.state = state
        rows.standard_normal(out=out[i], dtype=np.float32)
    return torch.from_numpy(out)


def uniform(shape: Sequence[int], *key: Key) -> Tensor:
    """Uniform float64 numbers in [0, 1) of this shape, on the CPU."""
    return torch.from_numpy(generator(*key).random(tuple(shape)))


def permutation(n: int, *key: Key) -> np.ndarray:
    """The numbers 0..n-1 in an order given by the key."""
    return generator(*key).permutation(n)


def derive_seeds(seed: int, n: int) -> list[int]:
    """n sample seeds of 48 bits from one seed. Each names its picture for good: alone, with the same class, it gives the same picture."""
    return [int(s) for s in generator(seed, "sample-seeds").integers(2**48, size=n)]
