"""Files are whole or not there; a run folder says what it is."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from alphabar import storage as atomic
from alphabar.errors import CheckpointError, ConfigurationError, StorageError
from alphabar.generation.output import Samples, check_output, open_writer
from alphabar.runs.folder import RunFolder, check_free, check_not_training, training_lock
from alphabar.settings.config import nested, parse_override
from alphabar.storage import replacing, replacing_folder, write_bytes, write_text


def full_disk(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    write_bytes(path, b"old")
    monkeypatch.setattr(atomic.os, "fsync", full_disk)
    with pytest.raises(StorageError, match="no space left on the disk"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "step-1"
    with replacing_folder(path) as folder:
        write_bytes(folder / "a", b"1")
    real = atomic.os.replace

    def fails_second(source, target):
        if str(source).endswith(".tmp"):
            full_disk()
        real(source, target)

    monkeypatch.setattr(atomic.os, "replace", fails_second)
    with pytest.raises(StorageError), replacing_folder(path) as folder:
        (folder / "a").write_bytes(b"2")
    monkeypatch.undo()
    assert (path / "a").read_bytes() == b"1"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("writing", [replacing, replacing_folder])
def test_an_error_of_the_block_that_is_not_of_writing_stays_itself(tmp_path, writing):
    error = OSError(errno.EIO, "the camera is gone")
    with pytest.raises(OSError, match="the camera is gone") as caught, writing(tmp_path / "x"):
        raise error
    assert caught.value is error
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_full_disk_is_reported_wherever_the_block_writes(tmp_path, monkeypatch, size):
    """A small write fails when the buffer is flushed, a large one at once."""
    monkeypatch.setattr(Path, "with_name", lambda self, name: Path("/dev/full"))
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok: None)
    with (
        pytest.raises(StorageError, match=r"no space left on the disk for .*x\.npy"),
        replacing(tmp_path / "x.npy") as out,
    ):
        out.write(bytes(size))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"{}"])
def test_a_damaged_run_file_is_an_error_of_its_own(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged"):
        RunFolder.open(tmp_path)


def test_only_one_may_train_into_a_folder(tmp_path):
    run = tmp_path / "run"
    check_not_training(run)
    assert not run.exists()
    for _ in range(2):
        with training_lock(run):
            for again in (lambda: check_not_training(run), training_lock(run).__enter__):
                with pytest.raises(CheckpointError, match=r"run is being trained by another process; wait for it to"):
                    again()
        check_not_training(run)
    check_free(run)  # what a run leaves that ended before it began


def test_a_lock_may_be_freed_by_another_thread(tmp_path):
    """As when a web page stops a training that it did not start."""

    def training():
        with training_lock(tmp_path):
            yield

    generator = training()
    next(generator)
    thread = threading.Thread(target=generator.close)
    thread.start()
    thread.join()
    check_not_training(tmp_path)


def test_a_folder_that_cannot_be_locked_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write"), training_lock(tmp_path / "file" / "run"):
        pass


def test_a_file_is_no_run(tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is not a folder"):
        RunFolder.open(tmp_path / "x.png")


def test_an_animation_cannot_be_made_of_finished_samples(tmp_path):
    samples = Samples(np.zeros((1, 2, 2, 1), np.uint8), [0], [{}])
    with pytest.raises(ConfigurationError, match="an animation shows the way"):
        samples.save(tmp_path / "x.webp")
    assert not list(tmp_path.iterdir())


def test_samples_below_a_file_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigurationError, match="is a file"), open_writer(tmp_path / "file" / "out", 1):
        pass


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data.background=#ff0000", "#ff0000"),
        ("data.class_from=2020", "2020"),
        ("data.class_from=none", "none"),
        ("data.group=null", None),
        ("train.batch_size=64", 64),
        ("train.learning_rate=1e-4", "1e-4"),
        ("network.channels=[8, 16]", [8, 16]),
    ],
)
def test_overrides_keep_text_as_text(text, expected):
    assert parse_override(text)[1] == expected


def test_unknown_keys_are_named_with_the_nearest():
    with pytest.raises(ConfigurationError, match=r"did you mean 'train.batch_size'"):
        nested("train.batchsize", 1)
    with pytest.raises(ConfigurationError, match="unknown key 'sed'; did you mean 'seed'"):
        nested("sed", 1)


def test_a_device_or_a_pipe_is_not_replaced(tmp_path):
    pipe = tmp_path / "pipe.npy"
    os.mkfifo(pipe)
    for write in (
        lambda: write_text(pipe, "x"),
        lambda: replacing_folder(pipe).__enter__(),
        lambda: check_output(pipe),
    ):
        with pytest.raises(StorageError, match="is a device or a pipe"):
            write()
    assert pipe.is_fifo()
