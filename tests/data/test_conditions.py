"""Captions, maps and pairs of a folder or an array: found by the conventions of other tools, matched by name, reported by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alphabar.conditions.image import ImageReader
from alphabar.conditions.kinds import load_with_conditions
from alphabar.data.load import LoadedData
from alphabar.errors import ConfigurationError, DataError, UnusableData
from alphabar.settings.data import DataSettings
from alphabar.training.session import prepare

from .making import noise, npz, save, save_many, with_metadata


def load(
    source: Path | str, set_: dict[str, dict[str, Any]] | None = None, cache: Path | None = None, **settings: Any
) -> LoadedData:
    return load_with_conditions(DataSettings(source=str(source), **{"held_out": 0, **settings}), cache, conditions=set_)


def captioned(folder: Path, captions: dict[str, str | bytes | None]) -> Path:
    """Pictures and their captions beside them; None is no caption."""
    save_many(folder, list(captions))
    for name, caption in captions.items():
        if caption is not None:
            path = (folder / name).with_suffix(".txt")
            path.write_bytes(caption if isinstance(caption, bytes) else caption.encode())
    return folder


def texts(loaded: LoadedData) -> dict[str, str]:
    return dict(zip(loaded.train.names, loaded.train.values["text"], strict=True))


# captions


def test_captions_stand_in_a_text_file_beside_each_picture(tmp_path):
    captioned(tmp_path, {"a.png": "a red cat\n", "sub/b.png": "\ufeff  猫在左边 ", "c.d.png": "é 😀\r\nsecond line"})
    loaded = load(tmp_path)
    assert texts(loaded) == {
        "a.png": "a red cat",
        "sub/b.png": "猫在左边",
        "c.d.png": "é 😀\r\nsecond line".replace("\r\n", "\n"),
    }
    assert loaded.report.conditions == {"text": "a .txt file beside each"}
    assert loaded.settings.conditions == ["text"]
    assert loaded.train.values["text"].dtype == object


def test_missing_empty_and_unreadable_captions_are_reported_by_name_and_the_pictures_left_out(tmp_path):
    captioned(tmp_path, {"a.png": "one", "b.png": None, "c.png": " \n", "d.png": b"\xff\xfe\xfa", "e.png": "five"})
    loaded = load(tmp_path)
    assert texts(loaded) == {"a.png": "one", "e.png": "five"}
    skipped = dict(loaded.report.skipped)
    assert skipped["b.png"] == "has no caption b.txt"
    assert skipped["c.png"] == "its caption c.txt is empty"
    assert skipped["d.png"].startswith("its caption d.txt cannot be read: ")
    np.testing.assert_array_equal(loaded.train.pictures[1], noise(8, 8, 1, seed=4))
    with pytest.raises(
        DataError, match=r"3 of 5 pictures cannot be used; the first, b\.png, has no caption b\.txt; mend them"
    ):
        load(tmp_path, strict=True)


def test_what_few_pictures_have_is_not_taken_unless_asked(tmp_path):
    """A stray text file beside one picture must not throw away all others."""
    captioned(tmp_path, {"a.png": "0 0.5 0.5 1 1", "b.png": None, "c.png": None, "d.png": None})
    loaded = load(tmp_path)
    assert len(loaded.train) == 4
    assert loaded.report.conditions == {}
    assert loaded.report.unused == ["text (a .txt file beside each, 1 of 4)"]
    assert texts(load(tmp_path, conditions=["text"])) == {"a.png": "0 0.5 0.5 1 1"}


ROWS = [("0.png", "a cat, asleep"), ("1.png", "猫"), ("2.png", ""), ("3.png", "  dog "), ("4.png", "x")]


def metadata(folder: Path, kind: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"metadata.{kind}"
    match kind:
        case "csv":
            names = list(dict.fromkeys(name for row in rows for name in row))
            quoted = [
                '"' + str(row.get(n, "") if row.get(n) is not None else "").replace('"', '""') + '"'
                for row in rows
                for n in names
            ]
            lines = [",".join(quoted[i : i + len(names)]) for i in range(0, len(quoted), len(names))]
            path.write_text("\ufeff" + "\n".join([",".join(names), *lines]), encoding="utf-8")
        case "jsonl":
            path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
        case "parquet":
            pyarrow = pytest.importorskip("pyarrow")
            pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
    return folder


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("column", ["text", "bildtext"])
def test_captions_stand_in_a_column_of_the_metadata(tmp_path, kind, column):
    save_many(tmp_path, [name for name, _ in ROWS])
    metadata(tmp_path, kind, [{"file_name": name, column: text or None} for name, text in ROWS])
    loaded = load(tmp_path, {"text": {"column": column}})
    assert texts(loaded) == {"0.png": "a cat, asleep", "1.png": "猫", "3.png": "dog", "4.png": "x"}
    assert loaded.report.skipped == [("2.png", f"has no caption in column {column!r}")]
    assert loaded.report.conditions == {"text": f"column {column!r}, 4 of 5"}
    assert loaded.conditions["text"]["column"] == column


def test_metadata_go_before_text_files(tmp_path):
    captioned(tmp_path, {"0.png": "from the file", "1.png": "from the file"})
    (tmp_path / "metadata.csv").write_text("file_name,text\n0.png,from the column\n1.png,b\n")
    assert texts(load(tmp_path))["0.png"] == "from the column"


def test_captions_that_are_not_there_are_missed_when_asked_for(tmp_path):
    save_many(tmp_path, ["a.png", "b.png"])
    assert load(tmp_path).conditions == {}
    with pytest.raises(
        ConfigurationError, match=r"--cond text: the data has no such values; it needs a name\.txt beside each"
    ):
        load(tmp_path, conditions=["text"])
    with pytest.raises(ConfigurationError, match="--cond text"):
        load(tmp_path, {"text": {"column": "caption"}})


# pairs


def number(k: int, channels: int = 1) -> np.ndarray:
    """A picture that tells its number: one level all over, and one brighter row to be a picture."""
    picture = np.full((8, 8, channels), 10 * k, np.uint8)
    picture[k % 8] += 5
    return picture


def parallel(folder: Path, names: list[str], **folders: str) -> Path:
    """images/NAME.png, and for each further folder a picture of the same name in another file kind, which tells the same number."""
    for k, name in enumerate(names):
        save(folder / "images" / f"{name}.png", number(k))
        for other, ending in folders.items():
            save(folder / other / f"{name}.{ending}", number(k) if other != "maps" else np.full((8, 8), k, np.uint8))
    return folder


def assert_aligned(loaded: LoadedData) -> None:
    for part in (loaded.train, loaded.held_out):
        own = part.pictures[:][:, -1, 0, 0] // 10 if len(part) else []
        for name, values in part.values.items():
            told = values[:][:, -1, 0, 0] // (1 if name == "map" else 10)
            assert list(told) == list(own), name


NAMES = ["10", "9", "b", "a", "Ü 猫", "sub/1", "sub.x/1"]


@pytest.mark.parametrize("other", ["maps", "map", "conditioning", "conditioning_image", "conditioning_images"])
def test_parallel_folders_are_matched_by_name_in_spite_of_other_endings_and_order(tmp_path, other):
    parallel(tmp_path, NAMES, **{other: "bmp"})
    save(tmp_path / other / "0000.png", number(9))  # belongs to nobody, and would shift an order
    loaded = load(tmp_path)
    kind = "map" if other.startswith("map") else "image"
    assert list(loaded.conditions) == [kind]
    assert loaded.report.conditions == {kind: f"folder {other}"}
    assert len(loaded.train) == len(NAMES)
    assert loaded.report.skipped == []
    if other != "map":
        assert_aligned(loaded)


def test_a_map_and_a_picture_and_more_of_a_name_of_ones_own(tmp_path):
    parallel(tmp_path, ["a", "b", "c", "d"], maps="png", conditioning="bmp", depth="bmp", poses="png")
    set_ = {"map": {}, "image": {}, "depth": {"kind": "image"}, "pose": {"kind": "image"}}
    loaded = load(tmp_path, set_, conditions=["map", "pose", "image", "depth"], held_out=0.25)
    assert list(loaded.conditions) == ["map", "pose", "image", "depth"]
    assert loaded.report.conditions["depth"] == "folder depth"
    assert loaded.report.conditions["pose"] == "folder poses"
    assert len(loaded.held_out) == 1
    assert_aligned(loaded)


def test_a_folder_of_the_same_names_holds_pairs_though_nobody_asked_for_it(tmp_path):
    """Pictures of it would be trained on as if they were of the kind that is wanted."""
    parallel(tmp_path, ["a", "b", "sub/c"], maps="png", depth="bmp", poses="png")
    for set_, told in (({}, ["depth", "poses"]), ({"pose": {"kind": "image"}}, ["depth"])):
        loaded = load(tmp_path, set_)
        assert loaded.train.names == ["images/a.png", "images/b.png", "images/sub/c.png"]
        assert list(loaded.conditions) == ["map", *set_]
        assert loaded.report.unused == [f"folder {name} (names as in images)" for name in told]
    save(tmp_path / "more" / "d.png", number(4))  # of another name: a picture
    assert "more/d.png" in load(tmp_path, conditions=[]).train.names


def test_folders_that_are_classes_hold_pictures_though_their_names_are_alike(tmp_path):
    parallel(tmp_path, ["1", "2"], sketches="png")
    loaded = load(tmp_path, class_from="folder")
    assert loaded.report.classes == {"images": 2, "sketches": 2}
    parallel(tmp_path / "pairs", ["cat/1", "dog/2"], depth="png")
    assert load(tmp_path / "pairs", class_from="folder").report.classes == {"cat": 1, "dog": 1}


def test_a_link_to_the_pictures_is_no_folder_of_pairs(tmp_path):
    parallel(tmp_path, ["a", "b"])
    (tmp_path / "train").symlink_to(tmp_path / "images")
    assert len(load(tmp_path).train) == 2


def test_names_match_however_their_accents_are_written(tmp_path):
    save(tmp_path / "images" / "é.png", number(1))
    save(tmp_path / "maps" / "e\u0301.png", np.full((8, 8), 1, np.uint8))
    assert load(tmp_path, conditions=["map"]).train.names == ["images/é.png"]


def test_folders_of_pairs_go_with_metadata_too(tmp_path):
    parallel(tmp_path, ["a", "b"], maps="png")
    rows = [{"file_name": f"images/{name}.png", "text": f"picture {name}", "mood": "good"} for name in "ab"]
    loaded = load(metadata(tmp_path, "csv", rows))
    assert loaded.report.conditions == {"text": "column 'text'", "map": "folder maps"}
    assert loaded.report.unused == ["column 'mood'"]
    assert_aligned(load(tmp_path, conditions=["map"]))


def test_a_column_that_is_not_there_is_named_beside_those_that_are(tmp_path):
    rows = [{"file_name": "a.png", "caption": "x", "colour": "red"}]
    save_many(tmp_path, ["a.png"])
    metadata(tmp_path, "csv", rows)
    with pytest.raises(ConfigurationError, match=r"no column 'captoin'; there are columns caption, colour"):
        load(tmp_path, {"text": {"column": "captoin"}}, conditions=["text"])


def test_two_pairs_of_one_name_are_ambiguous(tmp_path):
    parallel(tmp_path, ["a", "b", "c"], conditioning="bmp")
    save(tmp_path / "conditioning" / "b.png", number(1))
    loaded = load(tmp_path)
    assert loaded.train.names == ["images/a.png", "images/c.png"]
    ((name, reason),) = loaded.report.skipped
    assert name == "images/b.png"
    assert reason.startswith("has more than one pair in ")
    assert reason.endswith("b.bmp, b.png")


def test_a_missing_pair_is_reported_by_name_and_its_picture_left_out(tmp_path):
    parallel(tmp_path, ["a", "b", "c"], maps="png")
    (tmp_path / "maps" / "b.png").unlink()
    loaded = load(tmp_path)
    assert loaded.train.names == ["images/a.png", "images/c.png"]
    assert loaded.report.skipped[0][0] == "images/b.png"
    assert loaded.report.skipped[0][1].startswith("has no pair: b.* is not in ")
    with pytest.raises(DataError, match=r"1 of 3 pictures cannot be used; the first, images/b\.png, has no pair"):
        load(tmp_path, strict=True)


COLUMNS = [
    ("conditioning_image_file_name", "image", {}),
    ("conditioning_image", "image", {}),
    ("map_file_name", "map", {}),
    ("depth_file_name", "depth", {"kind": "image"}),
    ("depth", "depth", {"kind": "image"}),
    ("label_file_name", "regions", {"kind": "map", "column": "label_file_name"}),
    ("sketch", "image", {"column": "sketch"}),
]


@pytest.mark.parametrize(("column", "condition", "settings"), COLUMNS)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_columns_name_the_pairs(tmp_path, column, condition, settings, kind):
    rows = []
    for k in range(5):
        save(tmp_path / f"{k}.png", number(k))
        save(
            tmp_path / "pairs" / f"z{9 - k}.bmp",
            number(k) if "map" not in (condition, settings.get("kind")) else np.full((8, 8), k, np.uint8),
        )
        rows.append({"file_name": f"{k}.png", column: f"pairs/z{9 - k}.bmp"})
    rows[3][column] = None
    rows[4][column] = "pairs/gone.bmp"
    loaded = load(metadata(tmp_path, kind, rows), {condition: settings})
    assert loaded.report.conditions == {condition: f"column {column!r}, 3 of 5"}
    assert loaded.train.names == ["0.png", "1.png", "2.png"]
    told = loaded.train.values[condition][:, -1, 0, 0]
    assert told.tolist() == ([0, 1, 2] if "map" in (condition, settings.get("kind")) else [0, 10, 20])
    assert dict(loaded.report.skipped) == {
        "3.png": f"has no pair in column {column!r}",
        "4.png": "its pair pairs/gone.bmp does not exist",
    }


@pytest.mark.parametrize("value", ["/etc/x.png", "../x.png", "a/../../x.png", "C:\\x.png", "..\\x.png"])
@pytest.mark.parametrize(("column", "condition", "settings"), COLUMNS)
def test_a_pair_outside_of_the_folder_is_refused(tmp_path, column, condition, settings, value):
    save(tmp_path / "x.png", number(0))
    folder = save_many(tmp_path / "data", ["0.png", "1.png"])
    metadata(folder, "jsonl", [{"file_name": "0.png", column: "1.png"}, {"file_name": "1.png", column: value}])
    with pytest.raises(DataError, match="leads out of the folder"):
        load(folder, {condition: settings})


def test_a_pair_of_another_aspect_is_reported(tmp_path):
    for name, size in (("a", (8, 12)), ("b", (8, 8)), ("c", (16, 24)), ("d", (9, 13))):
        save(tmp_path / "images" / f"{name}.png", noise(8, 12, 1, seed=ord(name)))
        save(tmp_path / "conditioning" / f"{name}.png", noise(*size, 1))
        save(tmp_path / "maps" / f"{name}.png", np.zeros(size, np.uint8))
    for kind in ("image", "map"):
        loaded = load(tmp_path, conditions=[kind])
        assert loaded.report.skipped == [("images/b.png", "its pair b.png is 8x8, itself 8x12: another aspect")]
        assert loaded.train.values[kind].shape == (3, 8, 12, 1)


def test_pairs_are_grey_if_all_are_and_otherwise_in_colour(tmp_path):
    parallel(tmp_path, ["a", "b", "c"], conditioning="png")
    assert load(tmp_path).conditions["image"]["channels"] == 1
    save(tmp_path / "conditioning" / "b.png", noise(8, 8, 3))
    assert load(tmp_path).conditions["image"]["channels"] == 3
    assert load(tmp_path).train.values["image"].shape == (3, 8, 8, 3)
    assert load(tmp_path, {"image": {"channels": 1}}).train.values["image"].shape == (3, 8, 8, 1)


def test_the_colour_behind_transparent_pairs_can_be_chosen(tmp_path):
    parallel(tmp_path, ["a", "b"])
    for name in "ab":
        save(tmp_path / "conditioning" / f"{name}.png", np.zeros((8, 8, 4), np.uint8))
    assert (load(tmp_path).train.values["image"] == 255).all()
    assert (load(tmp_path, {"image": {"background": "#102030"}}).train.values["image"] == [16, 32, 48]).all()


@pytest.mark.parametrize("place", ["inside", "outside", "inside, from here"])
@pytest.mark.parametrize(("key", "own"), [("map", "regions"), ("image", "sketches")])
def test_a_folder_can_be_named(tmp_path, monkeypatch, place, key, own):
    """Inside the data or anywhere; its pictures are never trained on themselves."""
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    for k, name in enumerate(["p/a", "p/b", "c"]):
        save(data / f"{name}.png", number(k))
        target = tmp_path / "elsewhere" / own if place == "outside" else data / own
        save(target / f"{name}.bmp", number(k) if key == "image" else np.full((8, 8), k, np.uint8))
    folder = {"inside": own, "outside": str(tmp_path / "elsewhere" / own), "inside, from here": f"data/{own}"}[place]
    loaded = load(data, {key: {"folder": folder}})
    assert sorted(loaded.train.names) == ["c.png", "p/a.png", "p/b.png"]
    assert loaded.report.skipped == []
    assert_aligned(loaded)
    assert loaded.report.conditions == {key: f"folder {own}"}


def test_a_named_folder_that_is_not_there_is_an_error(tmp_path):
    save_many(tmp_path, ["a.png"])
    with pytest.raises(ConfigurationError, match=r"there is no folder 'nowhere', neither in the data nor from here"):
        load(tmp_path, {"map": {"folder": "nowhere"}})


# arrays


def arrays(n: int = 12) -> dict[str, np.ndarray]:
    return {
        "images": np.stack([number(k) for k in range(n)]),
        "labels": np.arange(n) % 3,
        "text": np.array([f"图 {k}" for k in range(n)]),
        "map": np.stack([np.full((8, 8), k, np.uint8) for k in range(n)]),
        "conditioning_image": np.stack([number(k) for k in range(n)]),
        "ignored": np.zeros(3),
    }


def test_an_array_file_offers_its_further_arrays(tmp_path):
    loaded = load(npz(tmp_path, **arrays()), held_out=0.25)
    assert list(loaded.conditions) == ["class", "text", "map", "image"]
    assert loaded.report.conditions == {
        "text": "column 'text'",
        "map": "column 'map'",
        "image": "column 'conditioning_image'",
    }
    assert len(loaded.held_out) == 3
    for part in (loaded.train, loaded.held_out):
        own = part.pictures[:, -1, 0, 0] // 10
        assert list(part.values["text"]) == [f"图 {k}" for k in own]
        assert list(part.labels) == list(own % 3)
        assert all(isinstance(text, str) for text in part.values["text"])
    for name in ("map", "image"):
        told = loaded.train.values[name][:, -1, 0, 0] // (1 if name == "map" else 10)
        assert list(told) == list(loaded.train.pictures[:, -1, 0, 0] // 10)
    assert loaded.conditions["map"]["classes"] == [str(k) for k in range(12)]


def test_arrays_are_resized_with_their_pictures(tmp_path):
    given = arrays() | {"map": np.kron(arrays()["map"], np.ones((1, 4, 4), np.uint8))}
    loaded = load(npz(tmp_path, **given), size=4)
    assert loaded.train.values["map"].shape == (12, 4, 4, 1)
    assert loaded.train.values["image"].shape == (12, 4, 4, 1)
    assert loaded.train.values["map"][:, 0, 0, 0].tolist() == list(range(12))


@pytest.mark.parametrize("name", ["map", "conditioning_image"])
def test_an_array_of_another_aspect_is_refused(tmp_path, name):
    given = arrays() | {name: arrays()[name][:, :4]}
    with pytest.raises(DataError, match=r"picture #0: .*4x8, itself 8x8: another aspect"):
        load(npz(tmp_path, **given))


def test_an_array_of_another_length_is_told(tmp_path):
    given = arrays() | {"text": np.array(["a"] * 11)}
    assert "text (11 values for 12 pictures)" in load(npz(tmp_path, **given)).report.unused
    with pytest.raises(ConfigurationError, match=r"there are .*text \(11 values for 12 pictures\)"):
        load(npz(tmp_path, **given), conditions=["text"])


def test_a_bad_item_of_an_array_is_named(tmp_path):
    given = arrays()
    given["text"][2] = ""
    with pytest.raises(DataError, match=r"set\.npz, picture #2: has no caption in column 'text'"):
        load(npz(tmp_path, **given))
    assert len(load(npz(tmp_path, **given), conditions=["class", "map"]).train) == 12
    given = arrays()
    given["map"][5, 0, 0] = 40
    with pytest.raises(UnusableData, match=r"set\.npz, picture #5: map array: index 40 has no class"):
        load(npz(tmp_path, **given), {"map": {"classes": [str(k) for k in range(12)]}})


# what is used


@pytest.fixture
def everything(tmp_path) -> Path:
    """Folders as classes, captions, maps and pairs, all at once."""
    names = [f"{kind}/{k}" for k, kind in enumerate(["left", "right", "left", "right", "left", "right"])]
    parallel(tmp_path, names, maps="png", conditioning="bmp")
    for name in names:
        (tmp_path / "images" / f"{name}.txt").write_text(f"a thing {name}")
    return tmp_path


def test_all_that_is_offered_is_used_but_folders_only_when_asked(everything):
    loaded = load(everything)
    assert list(loaded.conditions) == loaded.settings.conditions == ["text", "map", "image"]
    assert loaded.report.unused == []
    assert loaded.train.labels is None
    loaded = load(everything, conditions=["class", "text", "map", "image"])
    assert loaded.train.classes == ["left", "right"]
    assert list(loaded.conditions) == ["class", "text", "map", "image"]


@pytest.mark.parametrize(
    ("asked", "unused"),
    [
        ([], ["text (a .txt file beside each)", "map (folder maps)", "image (folder conditioning)"]),
        (["class", "text"], ["map (folder maps)", "image (folder conditioning)"]),
        (["image", "map"], ["text (a .txt file beside each)"]),
    ],
)
def test_what_is_asked_for_is_used_in_its_order_and_the_rest_is_told(everything, asked, unused):
    loaded = load(everything, conditions=asked)
    assert list(loaded.conditions) == asked
    assert loaded.report.unused == unused
    assert set(loaded.train.values) == set(asked) - {"class"}
    assert sorted(loaded.train.names) == sorted(load(everything).train.names)  # maps never become pictures


def test_labels_that_are_left_out_are_told(tmp_path):
    loaded = load(npz(tmp_path, **arrays()), conditions=["text"])
    assert loaded.report.unused == [
        "ignored (3 values for 12 pictures)",
        "map (column 'map')",
        "image (column 'conditioning_image')",
        "class (labels)",
    ]
    assert loaded.train.labels is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["class"], "--cond class: the data has no such values; it needs labels, sub-folders"),
        (["map"], r"--cond map: the data has no such values; it needs a column 'map_file_name'"),
        (["image"], r"--cond image: the data has no such values; it needs a column 'conditioning_image_file_name'"),
        (["mpa"], "condition 'mpa' has the unknown kind 'mpa'; did you mean 'map'"),
        (["a-b"], "a condition cannot be called 'a-b'"),
    ],
)
def test_what_the_data_lacks_says_what_it_needs(tmp_path, asked, message):
    save_many(tmp_path, ["a.png", "b.png"])
    with pytest.raises(ConfigurationError, match=message):
        load(tmp_path, conditions=asked)


def test_a_task_needs_no_files(tmp_path):
    save_many(tmp_path, ["a.png", "b.png"])
    loaded = load(tmp_path, {"image": {"task": "edges"}})
    assert loaded.report.conditions == {"image": "made from the pictures"}
    assert list(loaded.conditions) == ["image"]
    assert loaded.train.values == {}


# mirroring


def marked(folder: Path) -> Path:
    """Pictures, maps and pairs whose left column alone is marked, with captions of left, right and neither."""
    for k, text in enumerate(["a cat", "the Left hand", "a dog", "turned RIGHT"]):
        array = np.zeros((8, 8), np.uint8)
        array[:, 0] = 1
        save(folder / "images" / f"{k}.png", array * 200 + np.arange(8, dtype=np.uint8)[:, None] * (k + 1))
        save(folder / "maps" / f"{k}.png", array)
        save(folder / "conditioning" / f"{k}.png", array * 100)
        (folder / "images" / f"{k}.txt").write_text(text)
    return folder


def side(values: Any) -> list[str]:
    """Where the brighter outer column is."""
    values = np.asarray(values).astype(float)
    return ["left" if one[..., 0].sum() > one[..., -1].sum() else "right" for one in values]


@pytest.mark.parametrize("swap", [[], [[0, 1]]])
def test_a_flip_mirrors_picture_map_and_pair_together(tmp_path, swap):
    data = load(marked(tmp_path), {"map": {"swap": swap}}, conditions=["map", "image"]).train
    batch = data.batch(np.arange(4), np.array([True, False, True, False]))
    assert side(batch.x_0[:, 0]) == side(batch.cond["image"][..., 0]) == ["right", "left", "right", "left"]
    maps = batch.cond["map"][..., 0]
    assert side(maps[[1, 3]]) == ["left", "left"]
    np.testing.assert_array_equal(maps[0], data.values["map"][0, :, ::-1, 0] ^ bool(swap))


def test_values_of_a_kind_that_makes_no_pictures_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageReader, "pictorial", False)
    data = load(marked(tmp_path), conditions=["map", "image"]).train
    batch = data.batch(np.arange(4), np.full(4, True))
    assert side(batch.cond["map"][..., 0]) == ["right"] * 4
    assert side(batch.cond["image"][..., 0]) == ["left"] * 4


def test_words_protect_pictures_from_the_flip(tmp_path):
    data = load(marked(tmp_path), flip_except=["left", "right"]).train
    assert data.fixed.tolist() == [False, True, False, True]
    batch = data.batch(np.arange(4), np.ones(4, bool))
    assert (
        side(batch.x_0[:, 0])
        == side(batch.cond["image"][..., 0])
        == side(batch.cond["map"][..., 0])
        == ["right", "left", "right", "left"]
    )


def test_words_protect_classes_too_and_follow_the_split(everything):
    loaded = load(everything, conditions=["class"], flip_except=["LEFT"], held_out=0.34)
    assert len(loaded.held_out) == 2
    for part in (loaded.train, loaded.held_out):
        assert part.fixed.tolist() == ["/left/" in name for name in part.names]


@pytest.mark.parametrize(
    ("words", "caption", "fixed"),
    [
        (["right"], "an outright lie", False),
        (["right"], "RIGHT, or wrong", True),
        (["left"], "leftover soup", False),
        (["left"], "hand_left_2", True),
        (["left"], "朝left走", True),
        (["Left Hand"], "the left hand", True),
        (["c++ (left)"], "in c++ (left) only", True),
        (["左"], "猫在左边", True),
        (["右"], "猫在左边", False),
        (["ЛЕВО"], "взгляд влево", True),
        (["links", "rechts"], "der Rechtsanwalt", False),
        (["links", "rechts"], "ganz rechts", True),
    ],
)
def test_words_that_protect_are_whole_words_in_any_case(tmp_path, words, caption, fixed):
    captioned(tmp_path, {"a.png": caption, "b.png": "a cat"})
    assert load(tmp_path, flip_except=words).train.fixed.tolist() == [fixed, False]


def test_words_without_captions_and_classes_are_an_error(tmp_path):
    save_many(tmp_path, ["a.png", "b.png"])
    with pytest.raises(ConfigurationError, match=r"data\.flip_except looks for words in captions and classes"):
        load(tmp_path, flip_except=["left"])


@pytest.mark.parametrize(
    ("settings", "preset", "flips"),
    [
        ({"data.conditions": []}, None, False),
        ({"data.conditions": []}, "ddpm-cifar10", True),
        ({"data.conditions": ["map", "image"]}, "ddpm-cifar10", True),
        ({"data.conditions": ["text"]}, "ddpm-cifar10", False),
        ({"data.conditions": ["map", "text"], "data.flip": True}, None, True),
        ({"data.conditions": ["text"], "data.flip": True}, "ddpm-cifar10", True),
        ({"data.conditions": ["map"], "data.flip": False}, "ddpm-cifar10", False),
        ({}, "ddpm-cifar10", False),
    ],
)
def test_the_flip_is_off_with_text_unless_it_is_asked_for(tmp_path, settings, preset, flips):
    small = {"network.channels": [8, 16], "network.blocks": 1, "network.groups": 4, "network.attention": [False, False], "data.size": 8, "train.steps": 1, "train.batch_size": 2}  # fmt: skip
    session = prepare(marked(tmp_path / "data"), tmp_path / "run", preset=preset, settings=small | settings)
    assert session.config.data.flip is flips


# keeping


def test_values_on_disk_are_those_in_memory(everything):
    inside = load(everything, held_out=0.34)
    outside = load(everything, cache=everything.parent / "cache" / "pictures.npy", memory_gb=1e-9, held_out=0.34)
    assert sorted(p.name for p in (everything.parent / "cache").iterdir()) == ["image.npy", "map.npy", "pictures.npy"]
    assert inside.report.fingerprint == outside.report.fingerprint
    for own, other in ((inside.train, outside.train), (inside.held_out, outside.held_out)):
        assert len(own)
        indices = np.arange(len(own))[::-1].copy()
        one, two = own.batch(indices, indices % 2 == 0), other.batch(indices, indices % 2 == 0)
        assert one.x_0.equal(two.x_0)
        assert one.cond.keys() == two.cond.keys() == {"text", "map", "image"}
        for name in one.cond:
            np.testing.assert_array_equal(one.cond[name], two.cond[name])
    assert not isinstance(outside.train.values["map"], np.ndarray)  # rows, fetched when asked for


def test_skipped_pictures_leave_no_hole_in_the_values(everything):
    (everything / "maps" / "left" / "2.png").unlink()
    (everything / "images" / "right" / "3.png").write_bytes(b"nothing")
    for cache in (None, everything.parent / "cache" / "pictures.npy"):
        loaded = load(everything, cache=cache, memory_gb=1e-9)
        assert len(loaded.train) == 4
        assert_numbers(loaded)


def assert_numbers(loaded: LoadedData) -> None:
    for part in (loaded.train, loaded.held_out):
        own = [int(Path(name).stem) for name in part.names]
        assert (part.pictures[:][:, -1, 0, 0] // 10).tolist() == own
        assert part.values["map"][:][:, -1, 0, 0].tolist() == own
        assert (part.values["image"][:][:, -1, 0, 0] // 10).tolist() == own
        assert [text.rsplit("/", 1)[1] for text in part.values["text"]] == [str(k) for k in own]


@pytest.mark.parametrize("fraction", [0.17, 0.34, 0.5])
def test_values_stay_with_their_pictures_on_both_sides_of_the_split(everything, fraction):
    loaded = load(everything, held_out=fraction)
    assert len(loaded.held_out) == round(6 * fraction)
    assert_numbers(loaded)


def test_the_fingerprint_changes_with_any_value(everything):
    before = load(everything).report.fingerprint
    assert load(everything).report.fingerprint == before
    text = everything / "images" / "left" / "0.txt"
    kept = text.read_text()
    text.write_text(kept + "!")
    assert load(everything).report.fingerprint != before
    text.write_text(kept)
    assert load(everything).report.fingerprint == before
    for folder, ending in (("maps", "png"), ("conditioning", "bmp")):
        path = everything / folder / "right" / f"1.{ending}"
        kept_bytes = path.read_bytes()
        array = np.asarray(Image.open(path)).copy()
        array[4, 4] = 3
        Image.fromarray(array).save(path)
        assert load(everything).report.fingerprint != before
        path.write_bytes(kept_bytes)
    assert load(everything, conditions=["text"]).report.fingerprint != before


def test_with_metadata_the_pairs_are_no_pictures_of_their_own(tmp_path):
    with_metadata(tmp_path, "file_name,conditioning_image_file_name\n0.png,1.png\n2.png,3.png\n")
    loaded = load(tmp_path)
    assert loaded.train.names == ["0.png", "2.png"]
    np.testing.assert_array_equal(loaded.train.values["image"][1], noise(8, 8, 1, seed=3))
