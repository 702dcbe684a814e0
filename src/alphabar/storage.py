"""Files that are either whole or not there: written to a temporary name, flushed, then renamed."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .errors import StorageError

NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a StorageError that says what could not be written and what to do."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if error.errno in NO_SPACE:
            raise StorageError(
                f"no space left on the disk for {path}; nothing that stood there was harmed: free some space, then go on"
            ) from None
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; nothing that stood there was harmed"
        ) from None


def check_ordinary(path: Path) -> None:
    """Raise StorageError where a device or a pipe stands: a file would take its place."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise StorageError(f"{path} is a device or a pipe, no ordinary file; give the path of a file or folder")


class _TemporaryFile(io.FileIO):
    """A file to write, whose errors name the path that it will have."""

    def __init__(self, temporary: Path, path: Path) -> None:
        super().__init__(temporary, "wb")
        self.path = path

    def write(self, content: Any) -> int:
        """Write some bytes. Raises StorageError."""
        with storage_errors(self.path):
            return super().write(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A binary stream that becomes the file `path` when the block ends well, and leaves nothing behind when it does not.

    Raises StorageError for what writing raises; other errors of the block stay as they are.
    """
    check_ordinary(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = io.BufferedWriter(_TemporaryFile(temporary, path))
        with stream:
            yield stream
            stream.flush()
            with storage_errors(path):
                os.fsync(stream.fileno())
        with storage_errors(path):
            os.replace(temporary, path)
            _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file, or leave what stood there. Raises StorageError."""
    with replacing(path) as stream:
        stream.write(content)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode())


def write_json(path: Path, values: Any) -> None:
    """`write_text` of indented JSON."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends well, and is removed when it does not.

    The files in it must have been flushed (`write_bytes` does). Raises StorageError for the folder itself; errors of the block stay
    as they are.
    """
    check_ordinary(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        with storage_errors(path):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        yield temporary
        with storage_errors(path):
            _sync_folder(temporary)
            if path.exists():
                os.replace(path, old)
            os.replace(temporary, path)
            _sync_folder(path.parent)
            shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not path.exists():
            with storage_errors(path):
                os.replace(old, path)
        raise


def _sync_folder(path: Path) -> None:
    with contextlib.suppress(OSError):  # not every system lets a folder be opened
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
