"""Compiled kernels for the CPU: group normalisation, attention, convolutions by Winograd's algorithm (the .cpp files beside this one).

They are built by the machine's C++ compiler at their first use, in a few seconds, for its own processor, and kept in the cache folder.
Pictures are (N, C, H, W), channels last in memory, float32 or bfloat16; all else is float32.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ...machine import cache_folder, processor

FOLDER = Path(__file__).parent
COMPILERS = ("g++", "clang++", "c++")
COMMON = ["-O3", "-std=c++17", "-shared", "-fPIC", "-w"]
TARGETS = (["-march=native", "-fopenmp"], ["-mcpu=native", "-fopenmp"], ["-march=native"], ["-mcpu=native"])
FEWEST_CHANNELS = 16  # of a convolution: below that most of what the kernels multiply would be zeros
TYPES = (torch.float32, torch.bfloat16)
PLAIN, DOUBLED, HALVED, SINGLE = range(4)  # ways to convolve, as in winograd.cpp
TURNED = {PLAIN: PLAIN, DOUBLED: HALVED, SINGLE: SINGLE}  # the way back of each
Array = ctypes.c_long * 5


class Unavailable(OSError):
    """The kernels cannot be built here; the message says why."""


def library() -> ctypes.CDLL:
    """The kernels, built if they are not in the cache. Raises Unavailable."""
    found = load_once()
    if isinstance(found, str):
        raise Unavailable(found)
    return found


@cache
def load_once() -> ctypes.CDLL | str:
    """The kernels, or why there are none: a compiler that failed is not asked again by this process."""
    try:
        return load()
    except Unavailable as error:
        return str(error)


def load() -> ctypes.CDLL:
    """The kernels for `TARGETS`. Raises Unavailable."""
    compiler = find_compiler()
    key = hashlib.sha256(repr((source_hash(), COMMON, TARGETS, compiler, processor())).encode())
    path = cache_folder() / "kernels" / f"{key.hexdigest()[:16]}.so"
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            build(compiler, path)
        found = ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"the compiled kernels cannot be used: {error}") from error
    found.winograd_packed_floats.restype = ctypes.c_long
    return found


def source_hash() -> str:
    """Of the text of all kernels."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in (*sorted(FOLDER.glob("*.h")), *sources()))).hexdigest()


def sources() -> list[Path]:
    """The files to compile."""
    return sorted(FOLDER.glob("*.cpp"))


def find_compiler() -> str:
    """$CXX, or the first of the usual ones. Raises Unavailable if there is none."""
    for name in (os.environ.get("CXX"), *COMPILERS):
        if name and shutil.which(name):
            return name
    raise Unavailable(f"no C++ compiler was found (CXX, {', '.join(COMPILERS)})")


def build(compiler: str, path: Path) -> None:
    """Compile to a temporary name, then rename, so that no process loads half a file. Raises OSError."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made, errors = Path(folder) / path.name, ""
        for target in TARGETS:
            command = [compiler, *COMMON, *target, *map(str, sources()), "-o", str(made)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode == 0:
                made.replace(path)
                return
            errors = errors or result.stderr.strip()
        raise Unavailable(f"{compiler} failed: {errors[:500]}")


def serves(*pictures: Tensor) -> bool:
    """Whether the kernels take these (N, C, H, W): on a CPU, in float32 or bfloat16, all of one type."""
    return all(x.device.type == "cpu" and x.dtype in TYPES and x.dtype == pictures[0].dtype for x in pictures)


def last(x: Tensor) -> Tensor:
    """The same with channels last in memory."""
    return x.contiguous(memory_format=torch.channels_last)


def empty(like: Tensor, channels: int, way: int = PLAIN) -> Tensor:
    """Room for pictures of so many channels, channels last; of the size that this way to convolve gives."""
    n, _, height, width = like.shape
    if way == DOUBLED:
        height, width = 2 * height, 2 * width
    if way == HALVED:
        height, width = height // 2, width // 2
    return allocated((n, height, width, channels), like.dtype).permute(0, 3, 1, 2)


def allocated(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """An empty tensor that starts at a multiple of 64 bytes; it cannot be resized.

    Its memory is numpy's, who asks malloc for it. torch asks posix_memalign, and the GNU C library before 2.38 gives the block that one such
    request left to no other of its size (its bug 14581), so that a training would hold a tenth more.
    """
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.__array_interface__["data"][0] % 64
    return torch.from_numpy(memory[start : start + size]).view(dtype).view(shape)


def shape_of(x: Tensor, outputs: int = 0) -> ctypes.Array[ctypes.c_long]:
    """N, H, W, C, and the channels of what comes out."""
    n, channels, height, width = x.shape
    return Array(n, height, width, channels, outputs)


def pointer(x: Tensor | None) -> ctypes.c_void_p:
    """Where it lies in memory; null for None."""
    return ctypes.c_void_p(None if x is None else x.data_ptr())


def pointers(rows: Sequence[Tensor]) -> Any:
    """An array of where each lies."""
    return (ctypes.c_void_p * len(rows))(*(row.data_ptr() for row in rows))


def how(x: Tensor) -> tuple[int, int]:
    """Whether x is in low precision, and the number of threads: the last arguments of every kernel."""
    return int(x.dtype == torch.bfloat16), torch.get_num_threads()


def checked(failed: int) -> None:
    """Raise MemoryError where a kernel says that memory was short."""
    if failed:
        raise MemoryError("a compiled kernel found no memory for what it keeps in between: use a smaller batch")


# ---- Norms ----


def norm_coefficients(
    x: Tensor, gain: Tensor, bias: Tensor, offset: Tensor, groups: int, eps: float
) -> tuple[Tensor, ...]:
    """(A, B, offset less the group's mean, deviation of each channel's mean from its group's, 1 / standard deviation), each (N, C): the
    norm of x + offset with gain and bias (N, C) is A x + B."""
    out = [torch.empty(x.shape[:2]) for _ in range(5)]
    given = (pointer(x), shape_of(x), pointer(gain), pointer(bias), pointer(offset))
    library().norm_coefficients(*given, ctypes.c_long(groups), ctypes.c_float(eps), pointers(out), *how(x))
    return tuple(out)


def affine(x: Tensor, scale: Tensor, shift: Tensor, silu: bool) -> Tensor:
    """act(A x + B), A and B (N, C), act SiLU or nothing."""
    y = empty(x, x.shape[1])
    library().norm_affine(pointer(x), pointer(y), shape_of(x), pointer(scale), pointer(shift), int(silu), *how(x))
    return y


def norm_gradients(g: Tensor, x: Tensor, kept: Sequence[Tensor], groups: int, silu: bool) -> tuple[Tensor, ...]:
    """(P, Q, gradients of gain, bias and offset), each (N, C), from that of act(A x + B): the gradient of x is A g_z + P x + Q.

    kept: the gain, and what `norm_coefficients` gave.
    """
    out = [torch.empty(x.shape[:2]) for _ in range(5)]
    given = (pointer(g), pointer(x), shape_of(x), pointers(kept), ctypes.c_long(groups), int(silu))
    library().norm_gradients(*given, pointers(out), *how(x))
    return tuple(out)


def norm_backward(
    g: Tensor, x: Tensor, scale: Tensor, shift: Tensor, along_x: Tensor, constant: Tensor, silu: bool
) -> Tensor:
    """A g_z + P x + Q."""
    gx = empty(x, x.shape[1])
    rows = map(pointer, (scale, shift, along_x, constant))
    library().norm_backward(pointer(g), pointer(x), pointer(gx), shape_of(x), *rows, int(silu), *how(x))
    return gx


# ---- Attention ----


def attention(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """softmax(q k^T / sqrt(d)) v of qkv (N, 3 heads d, H, W), as (N, heads d, H, W), and lse (N, heads, H W), which the way back needs."""
    n, channels, height, width = qkv.shape
    out, lse = empty(qkv, channels // 3), torch.empty(n, heads, height * width)
    checked(library().attention(pointer(qkv), pointer(out), pointer(lse), heads_of(qkv, heads), *how(qkv)))
    return out, lse


def attention_gradients(g: Tensor, qkv: Tensor, out: Tensor, lse: Tensor) -> Tensor:
    """The gradient of qkv from that of `out`, both as `attention` gave."""
    made = empty(qkv, qkv.shape[1])
    given = map(pointer, (qkv, out, g, lse, made))
    checked(library().attention_gradients(*given, heads_of(qkv, lse.shape[1]), *how(qkv)))
    return made


def heads_of(qkv: Tensor, heads: int) -> ctypes.Array[ctypes.c_long]:
    """N, places, heads, and the channels of a head."""
    n, channels, height, width = qkv.shape
    return (ctypes.c_long * 4)(n, height * width, heads, channels // (3 * heads))


# ---- Convolutions ----


def fits(weight: Tensor) -> bool:
    """Whether a convolution of this weight (O, C, 3, 3) or (O, C, 1, 1) is worth these kernels."""
    return min(weight.shape[:2]) >= FEWEST_CHANNELS and weight.shape[2:] in ((3, 3), (1, 1))


def convolve(
    x: Tensor,
    kernel: Tensor,
    outputs: int,
    bias: Tensor | None = None,
    factor: Tensor | None = None,
    constant: Tensor | None = None,
    added: Tensor | None = None,
    way: int = PLAIN,
) -> Tensor:
    """The convolution of x, or of silu(factor x + constant) with both (N, C), with a kernel as `packed` makes it, plus `added`.

    PLAIN: 3x3, padded by 1. DOUBLED: the same of x with every pixel doubled in both directions. HALVED: the sums of PLAIN's outputs by
    2x2, of an even size. SINGLE: 1x1.
    """
    y = empty(x, outputs, way)
    if y.numel() == 0:
        return y
    shape, rows = shape_of(x, outputs), map(pointer, (factor, constant, kernel, bias))
    checked(library().winograd_convolve(way, pointer(x), pointer(y), pointer(added), shape, *rows, *how(x)))
    return y


def kernel_gradient(
    x: Tensor, g: Tensor, factor: Tensor | None = None, constant: Tensor | None = None, way: int = PLAIN
) -> Tensor:
    """The gradient of that convolution's weight, float32, from that of its outputs."""
    taps = 1 if way == SINGLE else 3
    w = allocated((g.shape[1], x.shape[1], taps, taps))
    if x.numel() == 0:
        return w.zero_()
    steps = (ctypes.c_long * 4)(*w.stride())
    given = (pointer(x), pointer(g), shape_of(x, g.shape[1]), pointer(factor), pointer(constant))
    checked(library().winograd_kernel_gradient(way, *given, pointer(w), steps, *how(x)))
    return w


def channel_sums(x: Tensor) -> Tensor:
    """The sum of each channel (C,) over pictures and places, float32: the gradient of a convolution's bias from that of its outputs."""
    sums = torch.empty(x.shape[:2])
    library().place_sums(pointer(x), shape_of(x), pointer(sums), *how(x))
    return sums.sum(0)


def packed(weight: Tensor, dtype: torch.dtype, way: int = PLAIN, turned: bool = False) -> Tensor:
    """The transformed weight (O, C, taps, taps) for pictures of this type; `turned` is that of the way back: turned around, C outputs.

    Of a weight that is not trained it is kept until the weight changes.
    """
    if weight.requires_grad or turned or weight.is_inference():  # those of inference mode count no versions
        return transformed(weight, dtype, way, turned)
    told = (weight._version, weight.data_ptr(), weight.dtype, dtype, way)
    kept, made = KEPT.get(weight, (None, None))
    if kept != told or made is None:
        made = transformed(weight, dtype, way, turned)
        KEPT[weight] = (told, made)
    return made


KEPT: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def forget_kept() -> None:
    """Make all of them anew at their next use: changes through `.data` count no versions."""
    KEPT.clear()


def transformed(weight: Tensor, dtype: torch.dtype, way: int, turned: bool) -> Tensor:
    """As `packed`, without keeping it."""
    weight, low = weight.detach().float(), int(dtype == torch.bfloat16)
    o, c, rows, columns = weight.shape
    of_o, of_c, of_row, of_column = weight.stride()
    start = weight.data_ptr()
    if turned:
        start += ((rows - 1) * of_row + (columns - 1) * of_column) * weight.element_size()
        o, c, of_o, of_c, of_row, of_column = c, o, of_c, of_o, -of_row, -of_column
    shape, steps = Array(0, 0, 0, c, o), (ctypes.c_long * 4)(of_o, of_c, of_row, of_column)
    made = allocated((library().winograd_packed_floats(way, shape, low),))
    library().winograd_pack(way, ctypes.c_void_p(start), steps, pointer(made), shape, low, torch.get_num_threads())
    return made
