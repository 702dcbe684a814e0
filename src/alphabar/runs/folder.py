"""The run folder.

run.json            format version, alphabar's version, when and by which command it was made
config.yaml         the whole configuration; `alphabar train --config` repeats the run from it
environment.json    versions, machine, threads
data.json           what was found in the data, and which pictures are held out
data-preview.png    some training pictures as the network sees them
import.json         of a model that was imported: its configurations there, and what is not as it was
metrics.jsonl       a line a report: step, loss, validation loss, loss by noise level, rate, speed
loss.png            the same as curves
previews/           step-N.png: samples from the same noise; filmstrip.png: all of them
checkpoints/        step-N/, see `checkpoint.py`

Besides, `.lock` is locked while a process trains into the folder. The system frees it when the process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .. import __version__
from ..errors import CheckpointError
from ..settings.config import Config, read_yaml, to_yaml, validate
from ..storage import storage_errors, write_json, write_text

FORMAT = 2
READABLE = (1, 2)
NAMES_OF_1 = {"label": "class"}
"""By their names in format 1, the conditions that have another name now."""
LOCK = ".lock"


class RunFolder:
    """A run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, command: str = "") -> RunFolder:
        """Start a run. Raises CheckpointError if the folder exists and is not empty."""
        check_free(path)
        run = cls(path)
        write_json(
            run.path / "run.json",
            {
                "format": FORMAT,
                "alphabar": __version__,
                "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "command": command,
            },
        )
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run. Raises CheckpointError if it is none, or of a format that this alphabar does not know."""
        marker = path / "run.json"
        try:
            found = json.loads(marker.read_text())["format"]
        except (FileNotFoundError, NotADirectoryError):
            what = (
                "has no run.json, so it is not a run folder"
                if path.is_dir()
                else "does not exist"
                if not path.exists()
                else "is not a folder"
            )
            raise CheckpointError(f"{path} {what}; give the --out of an alphabar train") from None
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise CheckpointError(f"{marker} is damaged ({error}); it should say {{'format': {FORMAT}}}") from None
        if found not in READABLE:
            raise CheckpointError(
                f"{path} has run format {found}, this alphabar reads format {FORMAT}; use the alphabar that made it, or a newer one"
            )
        return cls(path)

    @property
    def config(self) -> Config:
        """The configuration that the run was made with."""
        return validate(Config, to_current(read_yaml(self.path / "config.yaml"), self.format))

    @property
    def format(self) -> int:
        """The format of the run folder, the current one where run.json is missing."""
        return int(self.read("run.json").get("format", FORMAT))

    def write_config(self, config: Config) -> None:
        """Write config.yaml."""
        write_text(self.path / "config.yaml", to_yaml(config))

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file of the run as values; empty if it is not there."""
        try:
            return json.loads((self.path / name).read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise CheckpointError(f"{self.path / name} is damaged: {error}") from None

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line that was cut off is passed over."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        rows = []
        for line in lines:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return rows

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl."""
        path = self.path / "metrics.jsonl"
        with storage_errors(path), path.open("a") as stream:
            stream.write(json.dumps(row) + "\n")

    def checkpoints(self) -> list[Path]:
        """The checkpoint folders by step, oldest first."""
        folder = self.path / "checkpoints"
        found = [
            (int(match[1]), path)
            for path in (folder.iterdir() if folder.is_dir() else ())
            if (match := re.fullmatch(r"step-(\d+)", path.name))
        ]
        return [path for _, path in sorted(found)]

    def latest_checkpoint(self) -> Path:
        """The newest checkpoint. Raises CheckpointError if there is none."""
        found = self.checkpoints()
        if not found:
            raise CheckpointError(
                f"{self.path} has no checkpoint yet; start anew with another --out, or remove the folder and leave --resume out"
            )
        return found[-1]


def to_current(config: Mapping[str, Any], written_as: int) -> dict[str, Any]:
    """The values of a configuration that a run of this format holds, with the conditions' names of the current format."""
    conditions = config.get("conditions")
    if written_as > 1 or not isinstance(conditions, Mapping):
        return dict(config)
    return {**config, "conditions": {NAMES_OF_1.get(name, name): values for name, values in conditions.items()}}


def is_cache(folder: Path) -> bool:
    """Whether it is the folder of decoded pictures beside a run (`training.data.CACHE`), with nothing else in it."""
    names = {path.name for path in folder.iterdir()} if folder.name == "cache" and folder.is_dir() else set()
    return "pictures.npy" in names and all(name.endswith(".npy") for name in names)


def check_free(path: Path) -> None:
    """Raise CheckpointError unless a run can start at this path: nothing is there, or what a reading of data that was stopped has left."""
    if path.exists() and not (path.is_dir() and all(entry.name == LOCK or is_cache(entry) for entry in path.iterdir())):
        hint = "choose another --out"
        if (path / "run.json").exists():
            begun = RunFolder(path).checkpoints()
            hint = f"go on with --resume, or {hint}" if begun else f"it has no checkpoint: remove it, or {hint}"
        raise CheckpointError(f"{path} exists already; {hint} (alphabar never writes over a run)")


@contextlib.contextmanager
def training_lock(path: Path) -> Iterator[None]:
    """A block in which no other process, and no other session of this one, trains into the folder; reading it stays free.

    Raises CheckpointError at once if another one does.
    """
    lock = FileLock(path / LOCK, timeout=0, thread_local=False)  # a generator may be closed by another thread
    with storage_errors(path / LOCK):
        path.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise CheckpointError(
                f"{path} is being trained by another process; wait for it to end, or stop it (Ctrl-C saves)"
            ) from None
    try:
        yield
    finally:
        lock.release()


def check_not_training(path: Path) -> None:
    """Raise CheckpointError if a process trains into the folder."""
    if (path / LOCK).exists():
        with training_lock(path):
            pass
