"""Build of the compiled kernels: compile the C++ files in `native/` for this processor, and keep the library in the cache folder.

One process builds at a time, and the others use its library. Beside each library stands its record: the hash of the library, the compiler
and its flags. A library that differs from its record is built again; one that another user could have written is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ..machine import cache_folder, processor

SOURCE_FOLDER = Path(__file__).parent / "native"
COMPILERS = ("g++", "clang++", "c++")
COMMON = ("-O3", "-std=c++17", "-shared", "-fPIC", "-Wall", "-Wextra")
TARGETS = (
    ("-march=native", "-fopenmp"),
    ("-mcpu=native", "-fopenmp"),
    ("-march=native", "-Wno-unknown-pragmas"),
    ("-mcpu=native", "-Wno-unknown-pragmas"),
)
"""Flags that are tried in turn: some compilers know only one of the two names of the processor, some have no OpenMP."""
BUILD_SECONDS = 120.0
"""The time limit of one run of the compiler."""


class Unavailable(OSError):
    """The kernels cannot be built or loaded here; the message gives the reason."""


@dataclass(frozen=True)
class Build:
    """The record of a library: its hash, the compiler, and the flags that worked."""

    sha256: str
    compiler: str
    flags: tuple[str, ...]

    @property
    def threaded(self) -> bool:
        """Whether the library uses several threads (OpenMP)."""
        return "-fopenmp" in self.flags


def source_files() -> list[Path]:
    """The files to compile."""
    return sorted(SOURCE_FOLDER.glob("*.cpp"))


def source_hash() -> str:
    """The hash of all C++ sources."""
    return hashlib.sha256(
        b"".join(path.read_bytes() for path in (*sorted(SOURCE_FOLDER.glob("*.h")), *source_files()))
    ).hexdigest()


def find_compiler() -> str:
    """$CXX, or the first of the usual compilers. Raises Unavailable if there is none."""
    for name in (os.environ.get("CXX"), *COMPILERS):
        if name and shutil.which(name):
            return name
    raise Unavailable(
        f"no C++ compiler was found; expected $CXX or one of {', '.join(COMPILERS)}: install one, for example the Debian package g++"
    )


def built_library() -> tuple[Path, Build]:
    """The path of the library for this machine and its record; it is built where the cache has none that is whole. Raises Unavailable."""
    compiler = find_compiler()
    key = hashlib.sha256(repr((source_hash(), COMMON, TARGETS, compiler, processor())).encode())
    try:
        path = cache_folder() / "kernels" / f"{key.hexdigest()[:16]}.so"
        make_private_folder(path.parent)
        record = read_build(path)
        return path, record or build_once(compiler, path)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        if isinstance(error, Unavailable):
            raise
        raise Unavailable(f"the compiled kernels cannot be built in the cache folder: {error}") from error


def make_private_folder(path: Path) -> None:
    """A folder that only its owner writes to. Raises Unavailable where it belongs to another user, OSError."""
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    if hasattr(os, "getuid") and path.stat().st_uid == os.getuid():
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~(stat.S_IWGRP | stat.S_IWOTH))
    check_private(path)


def check_private(path: Path) -> None:
    """Raise Unavailable where another user owns the file or folder or may write to it: its code would run as this user (POSIX only)."""
    if not hasattr(os, "getuid"):
        return
    status = path.stat()
    if status.st_uid not in (os.getuid(), 0):
        raise Unavailable(
            f"{path} belongs to user {status.st_uid}, expected user {os.getuid()}: it is not loaded; delete it, or set ALPHABAR_CACHE to a folder of yours"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Unavailable(
            f"{path} may be written by other users (mode {stat.S_IMODE(status.st_mode):o}), expected its owner only: it is not loaded; run chmod go-w on it, or delete it"
        )


def record_path(path: Path) -> Path:
    """The record beside a library."""
    return path.with_suffix(".json")


def read_build(path: Path) -> Build | None:
    """The record of a library that is whole; None where library or record is missing or damaged. Raises Unavailable for a foreign library."""
    if not path.is_file():
        return None
    check_private(path)
    try:
        values = json.loads(record_path(path).read_text(encoding="utf-8"))
        record = Build(str(values["sha256"]), str(values["compiler"]), tuple(map(str, values["flags"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if hashlib.sha256(path.read_bytes()).hexdigest() == record.sha256 else None


def build_once(compiler: str, path: Path) -> Build:
    """Build unless another process has done so while this one waited for it. Raises Unavailable, OSError."""
    try:
        with FileLock(path.with_suffix(".lock"), timeout=len(TARGETS) * BUILD_SECONDS):
            return read_build(path) or build(compiler, path)
    except Timeout:
        raise Unavailable(
            f"another process holds {path.with_suffix('.lock')} for more than {len(TARGETS) * BUILD_SECONDS:.0f} s; end it, then try again"
        ) from None


def build(compiler: str, path: Path) -> Build:
    """Compile with the first of TARGETS that works. The library appears under its name only when it is whole. Raises Unavailable, OSError."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        library, errors = Path(folder) / path.name, ""
        for target in TARGETS:
            flags = (*COMMON, *target)
            failure = compile_library(compiler, flags, library)
            if failure is None:
                library.chmod(0o755)
                record = Build(hashlib.sha256(library.read_bytes()).hexdigest(), compiler, flags)
                record_path(library).write_text(json.dumps(asdict(record)), encoding="utf-8")
                record_path(library).replace(record_path(path))
                library.replace(path)
                return record
            errors = errors or failure
    raise Unavailable(f"{compiler} failed: {errors[:500]}")


def compile_library(compiler: str, flags: tuple[str, ...], library: Path) -> str | None:
    """Run the compiler; None where it succeeds, otherwise its message. Raises Unavailable beyond the time limit."""
    command = [compiler, *flags, *map(str, source_files()), "-o", str(library)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BUILD_SECONDS)
    except subprocess.TimeoutExpired:
        raise Unavailable(
            f"{compiler} took more than {BUILD_SECONDS:.0f} s and was stopped; try again when the machine is less busy, or set CXX to another compiler"
        ) from None
    return None if result.returncode == 0 else result.stderr.strip()
