"""What a run that goes on may be given: the same data and conditions, wherever they lie now, and nothing that means another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alphabar.conditions import text
from alphabar.conditions.kinds import read_settings
from alphabar.errors import ConfigurationError, DataError
from alphabar.runs.folder import RunFolder
from alphabar.training.resume import resumed_conditions, same_condition
from alphabar.training.session import prepare

from ..conditions.making import save_model, save_tokenizer
from .small import NETWORK

FAST = {
    "network.channels": NETWORK["channels"], "network.blocks": 1, "network.attention": [False, True], "network.groups": 4, "schedule.steps": 50,
    "network.token_dim": 16, "network.modulation_channels": 8, "train.batch_size": 4, "train.preview_pictures": 2, "train.preview_steps": 2,
    "train.validation_pictures": 2,
}  # fmt: skip
NAMES = "sky\nhouse\nroad\n"


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def place(tmp_path) -> Path:
    """Pictures with captions in data, their maps, pairs and objects elsewhere, and the names of the maps' classes."""
    g = np.random.default_rng(0)
    for k in range(8):
        save(tmp_path / "data" / f"{k}.png", g.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        save(tmp_path / "m" / f"{k}.png", g.integers(0, 3, (8, 8), dtype=np.uint8))
        save(tmp_path / "p" / f"{k}.png", g.integers(0, 256, (8, 8), dtype=np.uint8))
        (tmp_path / "data" / f"{k}.txt").write_text(f"a thing {k}")
    (tmp_path / "names.txt").write_text(NAMES)
    return tmp_path


def given(place: Path, maps: str = "m", pairs: str = "p", **more: Any) -> dict[str, Any]:
    """The settings that a user gives on the command line."""
    return {
        "data.conditions": ["map", "image"], "conditions.map.folder": str(place / maps), "conditions.image.folder": str(place / pairs),
        "conditions.map.classes": str(place / "names.txt"), **more,
    }  # fmt: skip


@pytest.fixture
def run(place) -> Path:
    list(prepare(place / "data", place / "run", steps=1, settings=FAST | given(place)).run())
    return place / "run"


def go_on(run: Path, steps: int, settings: dict[str, Any]) -> Any:
    return prepare(run.parent / "data", run, steps=steps, settings=settings, resume=True)


def test_the_same_command_goes_on(place, run):
    session = go_on(run, 2, FAST | given(place))
    assert session.plan.first_step == 1
    list(session.run())
    assert RunFolder.open(run).config.conditions["map"].classes == ["sky", "house", "road"]


def test_folders_of_maps_and_pairs_may_move(place, run):
    (place / "m").rename(place / "new maps")
    (place / "p").rename(place / "new pairs")
    with pytest.raises(ConfigurationError, match="there is no folder"):
        go_on(run, 2, {})
    list(go_on(run, 2, given(place, "new maps", "new pairs")).run())
    conditions = RunFolder.open(run).config.conditions
    assert conditions["map"].folder == str(place / "new maps")
    assert conditions["image"].folder == str(place / "new pairs")
    assert go_on(run, 3, {}).plan.first_step == 2  # they are found there from now on


def test_a_map_that_changed_on_the_way_is_noticed(place, run):
    (place / "m").rename(place / "n")
    save(place / "n" / "3.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match="--accept-changed-data"):
        go_on(run, 2, given(place, "n"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conditions.map.dropout": 0.5}, r"conditions\.map cannot change when a run goes on"),
        ({"conditions.map.door": "concat"}, r"conditions\.map cannot change"),
        ({"conditions.map.instances": "objects"}, r"conditions\.map cannot change"),
        ({"conditions.map.ignore": 0}, r"conditions\.map cannot change"),
        ({"conditions.image.task": "edges"}, r"conditions\.image cannot change"),
        ({"conditions.map": None}, "unknown key 'conditions.map'"),
        ({"conditions.depth.kind": "image", "data.conditions": None}, r"conditions\.depth cannot change"),
        ({"conditions.text.width": 32, "data.conditions": None}, r"conditions\.text cannot change"),
        ({"data.conditions": ["map"]}, r"data\.conditions cannot change"),
    ],
)
def test_what_would_make_another_run_is_refused(place, run, change, message):
    with pytest.raises(ConfigurationError, match=message):
        go_on(run, 2, given(place) | change)


def test_other_names_of_classes_are_refused(place, run):
    (place / "names.txt").write_text(NAMES.replace("road", "street"))
    with pytest.raises(ConfigurationError, match=r"conditions\.map cannot change"):
        go_on(run, 2, given(place))


def test_what_is_set_of_a_condition_that_is_not_used_has_no_effect():
    saved = {"text": read_settings("text", {}).model_dump()}
    unused = {"image": {"task": "edges"}}
    assert resumed_conditions(saved, unused, ["text"]) == saved
    with pytest.raises(ConfigurationError, match=r"conditions\.image cannot change"):
        resumed_conditions(saved, unused, None)
    with pytest.raises(ConfigurationError, match=r"conditions\.text must be a section"):
        resumed_conditions(saved, {"text": 3}, None)


def test_a_pretrained_text_model_may_move_but_not_become_another(place):
    model = save_model(save_tokenizer(place / "bert"), "BertModel")
    settings = {"data.conditions": ["text"], "conditions.text.pretrained": str(model)}
    list(prepare(place / "data", place / "run", steps=1, settings=FAST | settings).run())
    moved = settings | {"conditions.text.pretrained": str(model.rename(place / "moved"))}
    list(go_on(place / "run", 2, moved).run())
    assert RunFolder.open(place / "run").config.conditions["text"].pretrained == str(place / "moved")
    save_model(place / "moved", "BertModel", seed=1)
    with pytest.raises(ConfigurationError, match="this was trained with"):
        go_on(place / "run", 3, {})
    text.pretrained_model.cache_clear()


def test_runs_from_before_a_setting_existed_go_on(place):
    """A saved condition lacks what is younger than it; of a text model without a hash the folder must be the same."""
    found = read_settings("map", {"classes": ["a", "b"]}).model_dump()
    assert same_condition("map", {k: v for k, v in found.items() if k != "swap"}, found)
    assert not same_condition("map", {k: v for k, v in found.items() if k != "swap"}, found | {"swap": [[0, 1]]})
    folder = save_model(save_tokenizer(place / "bert"), "BertModel")
    now = read_settings("text", {"pretrained": str(folder)}).model_dump()
    then = {k: v for k, v in now.items() if k != "pretrained_hash"}
    assert same_condition("text", then, now)
    assert not same_condition("text", then | {"pretrained": "/elsewhere"}, now)
