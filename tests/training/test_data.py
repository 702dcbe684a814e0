"""The data of a run: what it fills into the settings, and what it leaves behind."""

from __future__ import annotations

from typing import Any

import pytest

from alphabar.errors import CheckpointError
from alphabar.runs.folder import check_free
from alphabar.training.data import RunData, choose_flip, remove_cache

from .small import pictures

TEXT, MAP = {"text": {}}, {"map": {}}


@pytest.mark.parametrize(
    ("own", "preset", "conditions", "flip"),
    [
        (None, None, {}, False),
        (None, "ddpm-cifar10", {}, True),
        (None, "ddpm-cifar10", MAP, True),
        (None, "ddpm-cifar10", MAP | TEXT, False),
        (True, None, TEXT, True),
        (True, "ddpm-cifar10", TEXT, True),
        (False, "ddpm-cifar10", MAP, False),
        (True, "auto", {}, True),
    ],
)
def test_a_preset_never_mirrors_pictures_with_captions(own, preset, conditions, flip):
    data = {} if own is None else {"flip": own}
    assert choose_flip({"data": data, "preset": preset}, conditions) is flip


@pytest.mark.parametrize(("conditions", "flip"), [({}, True), ({"text": {"width": 16, "layers": 0}}, False)])
def test_data_from_python_follow_the_same_rule(tmp_path, conditions, flip):
    values: dict[str, Any] = {"preset": "ddpm-cifar10", "conditions": conditions, "data": {}}
    source = RunData.read(pictures(), None, values, tmp_path, None)
    assert source.config(values).data.flip is flip


def test_a_dry_run_removes_nothing_of_the_users(tmp_path):
    (tmp_path / "out" / "cache").mkdir(parents=True)
    (tmp_path / "out" / "cache" / "precious").write_text("x")
    remove_cache(tmp_path / "out")
    assert (tmp_path / "out" / "cache" / "precious").exists()


def test_what_is_no_cache_of_ours_is_neither_built_on_nor_removed(tmp_path):
    mine = tmp_path / "out" / "cache" / "mine.npy"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"precious")
    remove_cache(tmp_path / "out")
    assert mine.read_bytes() == b"precious"
    with pytest.raises(CheckpointError, match="exists already"):
        check_free(tmp_path / "out")
    (mine.parent / "pictures.npy").write_bytes(b"")
    check_free(tmp_path / "out")  # left by a reading that was stopped
