"""What alphabar asks of the machine."""

from __future__ import annotations

import os
import platform
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from alphabar.engine import speed
from alphabar.machine import available_memory, cache_folder
from alphabar.model import build_denoiser

from .training.small import config, pictures


@pytest.fixture
def homeless(tmp_path, monkeypatch) -> Path:
    """A user who has neither $HOME nor an entry in the password file; returns the folder of temporary files."""
    for name in ("ALPHABAR_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_the_cache_is_in_the_home_folder_unless_the_environment_names_another(tmp_path, monkeypatch):
    for name, value, expected in (
        ("HOME", tmp_path, tmp_path / ".cache" / "alphabar"),
        ("XDG_CACHE_HOME", tmp_path / "x", tmp_path / "x" / "alphabar"),
        ("ALPHABAR_CACHE", tmp_path / "a", tmp_path / "a"),
    ):
        for other in ("ALPHABAR_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(other, raising=False)
        monkeypatch.setenv(name, str(value))
        assert cache_folder() == expected


def test_without_a_home_folder_the_cache_is_a_temporary_folder_of_the_user(homeless):
    folder = cache_folder()
    assert folder == cache_folder() == homeless / f"alphabar-{os.getuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("trap", ["open to all", "link", "file"])
def test_a_temporary_cache_that_others_could_write_is_not_used(homeless, trap):
    usual = homeless / f"alphabar-{os.getuid()}"
    if trap == "open to all":
        usual.mkdir()
        usual.chmod(0o777)
    elif trap == "link":
        (homeless / "elsewhere").mkdir()
        usual.symlink_to(homeless / "elsewhere")
    else:
        usual.touch()
    folder = cache_folder()
    assert folder not in (usual, usual.resolve())
    assert folder == cache_folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_training_measures_its_speed_without_a_home_folder(homeless):
    denoiser = build_denoiser(config(pictures()), (1, 8, 8))
    speed.choose(denoiser, (1, 8, 8), speed.ways("auto", "native", fused_allowed=False))
    assert (cache_folder() / "speed.json").is_file()


GIB = 2**30


def tree(root: Path, files: dict[str, str]) -> tuple[Path, Path]:
    """Made-up /proc and /sys/fs/cgroup."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root / "proc", root / "cgroup"


MEMINFO = {"proc/meminfo": f"MemTotal: 9999 kB\nMemFree: 11 kB\nMemAvailable:  {8 * GIB // 1024} kB\n"}


def unified(folder: str, limit: int | str, current: int, stat: str = "file 9\n") -> dict[str, str]:
    """The files of a group of version 2."""
    files = {"memory.max": f"{limit}\n", "memory.current": f"{current}\n", "memory.stat": stat}
    return {f"cgroup/{folder}/{name}": text for name, text in files.items()}


def separate(folder: str, limit: int, usage: int, stat: str = "") -> dict[str, str]:
    """The files of a group of version 1."""
    files = {"memory.limit_in_bytes": f"{limit}\n", "memory.usage_in_bytes": f"{usage}\n", "memory.stat": stat}
    return {f"cgroup/memory/{folder}/{name}": text for name, text in files.items()}


V2 = {"proc/self/cgroup": "0::/user/job\n"}
V1 = {"proc/self/cgroup": "5:devices:/\n4:cpu,memory:/user/job\n0::/\n"}
CACHE = f"anon 7\ninactive_file {GIB}\nactive_file {GIB // 2}\nshmem {GIB}\n"
TOTALS = f"inactive_file 1\ntotal_inactive_file {GIB}\ntotal_active_file {GIB // 2}\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (MEMINFO, 8),
        (MEMINFO | V2, 8),
        (MEMINFO | V2 | unified("user/job", "max", GIB), 8),
        (MEMINFO | V2 | unified("user/job", 4 * GIB, GIB), 3),
        (MEMINFO | V2 | unified("user/job", 4 * GIB, 3 * GIB, CACHE), 2.5),
        (MEMINFO | V2 | unified("user/job", "max", GIB) | unified("user", 2 * GIB, GIB), 1),  # of a group around it
        (MEMINFO | V2 | unified("user/other", 2 * GIB, GIB), 8),
        (MEMINFO | V2 | unified("", 2 * GIB, GIB), 1),  # a container sees its own group as the root
        (MEMINFO | V2 | unified("user/job", GIB, 2 * GIB), 0),
        (MEMINFO | V2 | unified("unified/user/job", 2 * GIB, GIB), 1),
        (MEMINFO | V1 | separate("user/job", 2**63 - 4096, GIB), 8),
        (MEMINFO | V1 | separate("user/job", 4 * GIB, 3 * GIB, TOTALS), 2.5),
        (MEMINFO | V1 | separate("", 2 * GIB, GIB), 1),
    ],
)
def test_available_memory_is_that_of_the_system_within_its_control_groups(tmp_path, files, expected):
    assert available_memory(*tree(tmp_path, files)) == expected * GIB


def test_without_files_to_read_the_system_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sysconf", {"SC_AVPHYS_PAGES": 5, "SC_PAGE_SIZE": 4096}.__getitem__, raising=False)
    assert available_memory(*tree(tmp_path, {})) == 5 * 4096

    def unknown(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr("os.sysconf", unknown)
    assert available_memory(*tree(tmp_path, {})) == 4e9
    assert available_memory(*tree(tmp_path, V2 | unified("user/job", 2 * GIB, GIB))) == GIB


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
