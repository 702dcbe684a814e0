"""The machine: its processor, its devices and memory, and where it keeps what can be made again."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ConfigurationError

if TYPE_CHECKING:
    import torch


def cache_folder() -> Path:
    """Where what can be made again is kept: $ALPHABAR_CACHE, or alphabar in $XDG_CACHE_HOME or ~/.cache.

    A user without a home folder has it among the temporary files.
    """
    if folder := os.environ.get("ALPHABAR_CACHE"):
        return Path(folder)
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "alphabar"
    try:
        return Path.home() / ".cache" / "alphabar"
    except RuntimeError:
        return _temporary_cache(Path(tempfile.gettempdir()))


@cache
def _temporary_cache(parent: Path) -> Path:
    """A folder that this user alone can write, because kernels are loaded from it: the usual one, or a new one where that is not safe."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    path = parent / f"alphabar-{user}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
    except OSError:
        return Path(tempfile.mkdtemp(prefix="alphabar-", dir=parent))
    others_write = os.name == "posix" and bool(status.st_mode & 0o022)
    safe = stat.S_ISDIR(status.st_mode) and status.st_uid == user and not others_write
    return path if safe else Path(tempfile.mkdtemp(prefix="alphabar-", dir=parent))


FEW_BYTES = 4e9  # assumed where neither the system nor a control group says how much is available
UNIFIED = ("memory.max", "memory.current", ("inactive_file", "active_file"))  # control groups of version 2
SEPARATE = (
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)  # of version 1


def available_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes that this process can still take without swapping: MemAvailable of the system, within the limits of its control groups.

    Where the system has no /proc/meminfo it is the free memory, and 4 GB where that is not known either.
    """
    known = [_available_in_system(proc), *_left_in_groups(proc, cgroups)]
    return min((value for value in known if value is not None), default=FEW_BYTES)


def _available_in_system(proc: Path) -> float | None:
    kibibytes = _numbers(proc / "meminfo").get("MemAvailable:")
    if kibibytes is not None:
        return kibibytes * 1024.0
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return None


def _left_in_groups(proc: Path, cgroups: Path) -> list[float]:
    """What each control group around this process leaves, page cache that can be dropped counted as free."""
    left = []
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        roots, files = ((cgroups / "memory",), SEPARATE) if controllers else ((cgroups, cgroups / "unified"), UNIFIED)
        for root in roots:
            folder = root / group.lstrip("/")
            around = [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]
            left += [value for place in around if (value := _left_in_group(place, *files)) is not None]
    return left


def _left_in_group(folder: Path, limit: str, usage: str, cache: tuple[str, ...]) -> float | None:
    """limit - usage + cache of one control group, None where it has no limit."""
    limits, used = _lines(folder / limit), _lines(folder / usage)
    if not limits or not used or not limits[0].isdigit() or not used[0].isdigit():
        return None
    statistics = _numbers(folder / "memory.stat")
    return max(0.0, float(limits[0]) - float(used[0]) + sum(statistics.get(name, 0) for name in cache))


def _numbers(path: Path) -> dict[str, int]:
    """The lines "name number ..." of a file."""
    pairs = (line.split()[:2] for line in _lines(path))
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _lines(path: Path) -> list[str]:
    """The lines of a file, none where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def processor() -> str:
    """The processor's name and, where the system tells them, a hash of its features: machines of one name can differ in them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    features = hashlib.sha256(told.get("flags", told.get("Features", "")).encode()).hexdigest()[:8]
    return f"{told.get('model name', platform.machine())} {features}"


TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # the numbers of mallopt's parameters, malloc.h of the GNU C library
LARGEST_KEPT = 32 << 20  # bytes of a block, the most that it takes


def keep_freed_memory() -> bool:
    """Let the C library keep the memory that one training step frees for the next, and say whether it does (GNU only).

    As it comes it hands blocks back to the system, which then clears each page anew in the next step. What a process holds at its peak
    stays the same within a few percent.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(TRIM_THRESHOLD, 2**31 - 1)) and bool(mallopt(MMAP_THRESHOLD, LARGEST_KEPT))


def give_back_freed_memory() -> bool:
    """Hand what was freed back to the system after work that is not repeated, and say whether anything was (GNU only)."""
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (OSError, AttributeError, TypeError):
        return False


def pick_device(name: str) -> torch.device:
    """The device of this name; "auto" is CUDA, then MPS, then the CPU. Raises ConfigurationError if it is not there."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(
            f"the device {name!r} (--device, or train.device) cannot be used: {str(error).splitlines()[0]}; see `alphabar doctor`"
        ) from None
    return device


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """A block in which torch computes with so many threads (None: as many as outside), and with those of before afterwards."""
    import torch

    before = torch.get_num_threads()
    if count in (None, before):
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
