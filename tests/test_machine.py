"""What alphabar asks of the machine."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

# Both start from the library's documented first thresholds, set by hand: by itself it moves them with what was freed before.
PROGRAM = """
import ctypes, resource, sys
import torch
from alphabar.machine import MMAP_THRESHOLD, TRIM_THRESHOLD, keep_freed_memory
for threshold in (TRIM_THRESHOLD, MMAP_THRESHOLD):
    assert ctypes.CDLL(None).mallopt(threshold, 128 << 10)
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    blocks = [torch.ones(2**20) for _ in range(8)]
    while blocks:
        blocks.pop()  # the last first, so that the end of the heap is free
work()
work()
before = faults()
for _ in range(10):
    work()
print(faults() - before)
"""


def page_faults(how):
    found = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(found.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the GNU C library only")
def test_freed_memory_is_taken_again_without_the_system():
    """80 blocks of 4 MiB have 81,920 pages."""
    assert page_faults("kept") < 2_000 < page_faults("as it comes")


HOLED = """
import numpy as np
from alphabar.machine import give_back_freed_memory
def held():
    status = open("/proc/self/status").read()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")))
blocks = [np.ones(2_000, np.uint8) for _ in range(20_000)]
last = np.ones(2_000, np.uint8)  # behind the others, so that the heap does not end where they do
before = held()
del blocks
freed = held()
assert give_back_freed_memory()
print(before - freed, before - held())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the GNU C library only")
def test_freed_memory_goes_back_to_the_system():
    """40 MB in blocks before one that stays, in KiB."""
    found = subprocess.run([sys.executable, "-c", HOLED], capture_output=True, text=True, check=True)
    by_itself, given_back = map(int, found.stdout.split())
    assert by_itself < 10_000
    assert given_back > 30_000
