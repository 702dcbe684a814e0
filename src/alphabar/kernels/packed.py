"""Transformed weights of convolutions that are kept while their weights do not change; safe in several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

LOCK = threading.Lock()
KEPT = WeakTensorKeyDictionary()
"""weight -> {form: (state of the weight, transformed weight)}; guarded by LOCK."""


def packed_weight(weight: Tensor, form: Hashable, transform: Callable[[], Tensor]) -> Tensor:
    """The transformed weight in this form: the kept one where the weight is as it was, otherwise a new one."""
    state = (weight._version, weight.data_ptr(), weight.dtype)
    with LOCK:
        kept_state, kept = KEPT.get(weight, {}).get(form, (None, None))
    if kept is not None and kept_state == state:
        return kept
    new = transform()
    with LOCK:
        KEPT.setdefault(weight, {})[form] = (state, new)
    return new


def forget_packed() -> None:
    """Transform all of them anew at their next use: changes through `.data` count no versions."""
    with LOCK:
        KEPT.clear()
