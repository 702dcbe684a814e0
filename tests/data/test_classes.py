"""Classes from folders, columns and labels: named, ordered, and each with its own picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from alphabar.errors import ConfigurationError, DataError

from .making import load, noise, npz, save_many, with_metadata

COLOUR = np.stack([noise(16, 24, 3, seed) for seed in range(20)])


def test_pictures_that_the_metadata_list_but_nobody_has_are_reported(tmp_path):
    with_metadata(tmp_path, "file_name,kind\n0.png,a\ngone.png,a\n3.png,b\n")
    loaded = load(tmp_path, class_from="kind", held_out=0)
    assert loaded.train.names == ["0.png", "3.png"]
    assert loaded.report.skipped == [("gone.png", "is no file")]
    assert loaded.report.classes == {"a": 1, "b": 1}
    assert (loaded.train.labels == [0, 1]).all()
    with pytest.raises(DataError, match=r"1 of 3 pictures cannot be used; the first, gone\.png, is no file; mend"):
        load(tmp_path, strict=True)


def test_a_column_becomes_classes_and_each_label_stays_with_its_picture(tmp_path):
    rows = "file_name,kind\n" + "".join(f"{k}.png,{['cat', 'dog', '猫'][k % 3]}\n" for k in range(12))
    loaded = load(with_metadata(tmp_path, rows), class_from="kind", held_out=0.25)
    assert loaded.train.classes == loaded.held_out.classes == ["cat", "dog", "猫"]
    assert loaded.report.classes == {"cat": 4, "dog": 4, "猫": 4}
    assert loaded.settings.class_from == "kind"
    for part in (loaded.train, loaded.held_out):
        assert len(part) in (3, 9)
        for k, name in enumerate(part.names):
            number = int(Path(name).stem)
            assert part.labels[k] == number % 3
            np.testing.assert_array_equal(part.pictures[k], noise(8, 8, 1, seed=number))


def test_an_unknown_column_suggests_the_nearest(tmp_path):
    with_metadata(tmp_path, "file_name,kind,person\n0.png,a,x\n1.png,b,y\n")
    with pytest.raises(
        ConfigurationError, match=r"--class-from kinde: no such column.*did you mean 'kind'\? known: kind, person$"
    ):
        load(tmp_path, class_from="kinde")
    with pytest.raises(ConfigurationError, match=r"data\.group persons: no such column.*did you mean 'person'"):
        load(tmp_path, group="persons")


@pytest.mark.parametrize(("option", "value"), [("class_from", "kind"), ("group", "kind")])
def test_an_empty_value_in_a_column_that_is_needed_is_refused(tmp_path, option, value):
    with_metadata(tmp_path, "file_name,kind\n0.png,a\n1.png,\n2.png\n")
    with pytest.raises(DataError, match=r"column 'kind' is empty for 2 pictures, the first 1\.png; fill it in"):
        load(tmp_path, **{option: value})
    assert load(tmp_path).report.count == 3  # not needed, not minded


def test_columns_of_jsonl_may_hold_anything(tmp_path):
    save_many(tmp_path, ["0.png", "1.png", "2.png", "3.png"])
    rows = [{"file_name": f"{k}.png", "age": value, "box": [k // 2, 1]} for k, value in enumerate([10, 9, False, 10])]
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    loaded = load(tmp_path, class_from="age", group="box", held_out=0.5)
    assert loaded.train.classes == ["9", "10", "False"]
    assert {len(loaded.train), len(loaded.held_out)} == {2}
    assert load(tmp_path, class_from="box").report.classes == {"[0, 1]": 2, "[1, 1]": 2}


def in_folders(folder: Path) -> Path:
    return save_many(
        folder, [f"{kind}/{k}.png" for k, kind in enumerate(["10", "9", "10", "-1", "9.5", "b", "a", "²", "--5"])]
    )


def test_folders_become_classes_only_if_asked(tmp_path):
    in_folders(tmp_path)
    for loaded in (load(tmp_path), load(tmp_path, class_from="none")):
        assert loaded.train.labels is None
        assert loaded.train.classes == []
        assert loaded.settings.class_from == "none"
        assert loaded.report.classes == {}
        assert loaded.report.folders == 8


def test_class_names_that_are_numbers_are_sorted_as_numbers_before_the_others(tmp_path):
    loaded = load(in_folders(tmp_path), class_from="folder", held_out=0)
    assert loaded.train.classes == ["-1", "9", "9.5", "10", "--5", "a", "b", "²"]
    assert loaded.train.labels.dtype == np.int64
    assert all(
        loaded.train.classes[label] == name.split("/")[0]
        for label, name in zip(loaded.train.labels, loaded.train.names, strict=True)
    )


def test_the_innermost_folder_names_the_class(tmp_path):
    save_many(tmp_path, ["train/cat/0.png", "test/cat/1.png", "test/dog/2.png"])
    assert load(tmp_path, class_from="folder").report.classes == {"cat": 2, "dog": 1}


def test_pictures_in_no_folder_have_no_class(tmp_path):
    save_many(tmp_path, ["cat/0.png", "1.png", "2.png"])
    with pytest.raises(
        DataError, match=r"--class-from folder: 2 pictures lie in no sub-folder, the first 1\.png; move them"
    ):
        load(tmp_path, class_from="folder")


@pytest.mark.parametrize(("class_from", "offer"), [("label", "folder"), ("kind", "folder")])
def test_a_folder_without_metadata_has_no_columns(tmp_path, class_from, offer):
    save_many(tmp_path, ["cat/0.png"])
    with pytest.raises(
        ConfigurationError, match=rf"--class-from {class_from}: this data has no metadata columns; it offers: {offer}"
    ):
        load(tmp_path, class_from=class_from)


def test_labels_of_an_array_become_classes_unless_refused(tmp_path):
    labels = np.array([7, 100, 7, -2] * 5)
    path = npz(tmp_path, images=COLOUR, labels=labels)
    loaded = load(path, held_out=0)
    assert loaded.train.classes == ["-2", "7", "100"]
    assert [loaded.train.classes[k] for k in loaded.train.labels] == labels.astype(str).tolist()
    assert loaded.settings.class_from == "label"
    assert load(path, class_from="label").settings.class_from == "label"
    assert load(path, class_from="none").train.labels is None
    for class_from in ("folder", "kind"):
        with pytest.raises(ConfigurationError, match="it offers: label"):
            load(path, class_from=class_from)


def test_words_may_be_labels(tmp_path):
    path = npz(tmp_path, images=COLOUR[:3], labels=np.array(["dog", "cat", "dog"]))
    assert load(path, held_out=0).report.classes == {"cat": 1, "dog": 2}


def test_an_array_without_labels_offers_nothing(tmp_path):
    np.save(tmp_path / "x.npy", COLOUR)
    assert load(tmp_path / "x.npy").train.labels is None
    with pytest.raises(ConfigurationError, match=r"--class-from label: .*it offers: nothing"):
        load(tmp_path / "x.npy", class_from="label")
