"""The compiled functions, called with tensors: pictures are (N, C, H, W), channels last in memory, float32 or bfloat16; all else is float32.

These functions know no gradients, and they trust their callers; `on_cpu.py` checks arguments, `operators.py` gives the gradients.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .library import library
from .packed import packed_weight

TYPES = (torch.float32, torch.bfloat16)
PLAIN, DOUBLED, HALVED, SINGLE = range(4)  # kinds of convolution, as in winograd.cpp
BACKWARD_KIND = {PLAIN: PLAIN, DOUBLED: HALVED, SINGLE: SINGLE}
"""The kind of the convolution that gives the gradient of the input."""
Sizes = ctypes.c_long * 5
Four = ctypes.c_long * 4
Five = ctypes.c_void_p * 5
Six = ctypes.c_void_p * 6


def channels_last(x: Tensor) -> Tensor:
    """The same numbers with channels last in memory."""
    return x.contiguous(memory_format=torch.channels_last)


def result_size(x: Tensor, outputs: int, kind: int) -> tuple[int, int, int, int]:
    """The shape (N, O, H', W') of a convolution of x."""
    n, _, height, width = x.shape
    if kind == DOUBLED:
        height, width = 2 * height, 2 * width
    if kind == HALVED:
        height, width = height // 2, width // 2
    return n, outputs, height, width


def empty_pictures(like: Tensor, channels: int, kind: int = PLAIN) -> Tensor:
    """Memory for pictures of so many channels, channels last, of the size that this kind of convolution gives."""
    n, channels, height, width = result_size(like, channels, kind)
    return allocated((n, height, width, channels), like.dtype).permute(0, 3, 1, 2)


def allocated(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """An empty tensor that starts at a multiple of 64 bytes; it cannot be resized.

    numpy requests its memory, by malloc. torch uses posix_memalign, and the GNU C library before 2.38 gives the block that one such
    request left to no other of its size (its bug 14581), so that a training would hold a tenth more.
    """
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.__array_interface__["data"][0] % 64
    return torch.from_numpy(memory[start : start + size]).view(dtype).view(shape)


def sizes(x: Tensor, outputs: int = 0) -> ctypes.Array[ctypes.c_long]:
    """N, H, W, C, and the channels of the result."""
    n, channels, height, width = x.shape
    return Sizes(n, height, width, channels, outputs)


def pointer(x: Tensor | None) -> int | None:
    """The address of its first number; None (a null pointer) for None."""
    return None if x is None else x.data_ptr()


def mode(x: Tensor) -> tuple[int, int]:
    """Whether x is in low precision, and the number of threads: the last arguments of every kernel."""
    return int(x.dtype == torch.bfloat16), torch.get_num_threads()


def check_memory(failed: int) -> None:
    """Raise MemoryError where a kernel reports that memory was short."""
    if failed:
        raise MemoryError("a compiled kernel found no memory for its intermediate results: use a smaller batch")


# ---- Norms ----


def norm_coefficients(x: Tensor, gain: Tensor, bias: Tensor, offset: Tensor, groups: int, eps: float) -> Tensor:
    """The rows A, B, offset less the group's mean, deviation of each channel's mean from its group's, and 1 / standard deviation:
    (5, N, C). The norm of x + offset with gain and bias (N, C) is A x + B."""
    rows = torch.empty(5, *x.shape[:2])
    inputs = (x.data_ptr(), sizes(x), gain.data_ptr(), bias.data_ptr(), offset.data_ptr())
    library().norm_coefficients(*inputs, groups, eps, Five(*row_pointers(rows)), *mode(x))
    return rows


def row_pointers(rows: Tensor) -> Sequence[int]:
    """The address of each row of a contiguous float32 tensor."""
    start, step = rows.data_ptr(), 4 * rows.stride(0)
    return [start + i * step for i in range(rows.shape[0])]


def affine(x: Tensor, scale: Tensor, shift: Tensor, silu: bool) -> Tensor:
    """act(A x + B), A and B (N, C), act SiLU or the identity."""
    y = empty_pictures(x, x.shape[1])
    rows = scale.data_ptr(), shift.data_ptr()
    library().norm_affine(x.data_ptr(), y.data_ptr(), sizes(x), *rows, silu, *mode(x))
    return y


def norm_gradients(
    g: Tensor, x: Tensor, gain: Tensor, coefficients: Tensor, groups: int, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """P and Q (N, C), and the gradients of gain, bias and offset (3, N, C), from that of act(A x + B). The gradient of x is
    A g_z + P x + Q. coefficients: the result of `norm_coefficients`."""
    n, channels, _, _ = x.shape
    along_x, constant, rows = torch.empty(n, channels), torch.empty(n, channels), torch.empty(3, n, channels)
    saved = Six(gain.data_ptr(), *row_pointers(coefficients))
    inputs = (g.data_ptr(), x.data_ptr(), sizes(x), saved, groups, silu)
    outputs = Five(along_x.data_ptr(), constant.data_ptr(), *row_pointers(rows))
    library().norm_gradients(*inputs, outputs, *mode(x))
    return along_x, constant, rows


def norm_backward(
    g: Tensor, x: Tensor, scale: Tensor, shift: Tensor, along_x: Tensor, constant: Tensor, silu: bool
) -> Tensor:
    """A g_z + P x + Q."""
    gx = empty_pictures(x, x.shape[1])
    rows = [row.data_ptr() for row in (scale, shift, along_x, constant)]
    library().norm_backward(g.data_ptr(), x.data_ptr(), gx.data_ptr(), sizes(x), *rows, silu, *mode(x))
    return gx


# ---- Attention ----


def attention(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """softmax(q k^T / sqrt(d)) v of qkv (N, 3 heads d, H, W), as (N, heads d, H, W), and lse (N, heads, H W) for the backward pass."""
    n, channels, height, width = qkv.shape
    out, lse = empty_pictures(qkv, channels // 3), torch.empty(n, heads, height * width)
    pointers = qkv.data_ptr(), out.data_ptr(), lse.data_ptr()
    check_memory(library().attention(*pointers, head_sizes(qkv, heads), *mode(qkv)))
    return out, lse


def attention_gradients(g: Tensor, qkv: Tensor, out: Tensor, lse: Tensor) -> Tensor:
    """The gradient of qkv from that of `out`; out and lse are the result of `attention`."""
    gradient = empty_pictures(qkv, qkv.shape[1])
    pointers = [v.data_ptr() for v in (qkv, out, g, lse, gradient)]
    check_memory(library().attention_gradients(*pointers, head_sizes(qkv, lse.shape[1]), *mode(qkv)))
    return gradient


def head_sizes(qkv: Tensor, heads: int) -> ctypes.Array[ctypes.c_long]:
    """N, places, heads, and the channels of a head."""
    n, channels, height, width = qkv.shape
    return Four(n, height * width, heads, channels // (3 * heads))


# ---- Convolutions ----


def convolve(
    x: Tensor,
    kernel: Tensor,
    outputs: int,
    bias: Tensor | None = None,
    factor: Tensor | None = None,
    constant: Tensor | None = None,
    added: Tensor | None = None,
    kind: int = PLAIN,
) -> Tensor:
    """The convolution of x, or of silu(factor x + constant) with both (N, C), with a kernel of `packed`, plus `added`.

    PLAIN: 3x3, padded by 1. DOUBLED: the same of x with every pixel doubled in both directions. HALVED: the sums of PLAIN's outputs by
    2x2, of an even size. SINGLE: 1x1.
    """
    y = empty_pictures(x, outputs, kind)
    if y.numel() == 0:
        return y
    rows = map(pointer, (factor, constant, kernel, bias))
    pointers = x.data_ptr(), y.data_ptr(), pointer(added)
    check_memory(library().winograd_convolve(kind, *pointers, sizes(x, outputs), *rows, *mode(x)))
    return y


def kernel_gradient(
    x: Tensor, g: Tensor, factor: Tensor | None = None, constant: Tensor | None = None, kind: int = PLAIN
) -> Tensor:
    """The gradient of that convolution's weight, float32, from that of its outputs."""
    taps = 1 if kind == SINGLE else 3
    w = allocated((g.shape[1], x.shape[1], taps, taps))
    if x.numel() == 0:
        return w.zero_()
    rows = pointer(factor), pointer(constant), w.data_ptr()
    inputs = x.data_ptr(), g.data_ptr(), sizes(x, g.shape[1])
    check_memory(library().winograd_kernel_gradient(kind, *inputs, *rows, Four(*w.stride()), *mode(x)))
    return w


def channel_sums(x: Tensor) -> Tensor:
    """The sum of each channel (C,) over pictures and places, float32: the gradient of a convolution's bias from that of its outputs."""
    sums = torch.empty(x.shape[:2])
    library().place_sums(x.data_ptr(), sizes(x), sums.data_ptr(), *mode(x))
    return sums.sum(0)


def packed(weight: Tensor, dtype: torch.dtype, kind: int = PLAIN, turned: bool = False) -> Tensor:
    """The transformed weight (O, C, taps, taps) for pictures of this type; `turned` is that of the backward pass: turned around, C outputs.

    That of a weight without gradient is kept until the weight changes.
    """
    if weight.requires_grad or turned or weight.is_inference():  # those of inference mode count no versions
        return transformed(weight, dtype, kind, turned)
    return packed_weight(weight, (dtype, kind), lambda: transformed(weight, dtype, kind, False))


def transformed(weight: Tensor, dtype: torch.dtype, kind: int, turned: bool) -> Tensor:
    """As `packed`, always computed anew."""
    weight, low = weight.detach().float(), int(dtype == torch.bfloat16)
    o, c, rows, columns = weight.shape
    of_o, of_c, of_row, of_column = weight.stride()
    start = weight.data_ptr()
    if turned:
        start += ((rows - 1) * of_row + (columns - 1) * of_column) * weight.element_size()
        o, c, of_o, of_c, of_row, of_column = c, o, of_c, of_o, -of_row, -of_column
    shape, steps = Sizes(0, 0, 0, c, o), Four(of_o, of_c, of_row, of_column)
    memory = allocated((library().winograd_packed_floats(kind, shape, low),))
    library().winograd_pack(kind, start, steps, memory.data_ptr(), shape, low, torch.get_num_threads())
    return memory
