"""Conditions on the command line: what is asked is made, recorded, and matched by name; what cannot be is said in a line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alphabar.errors import ConfigurationError
from alphabar.generation.images import read_record
from alphabar.runs.folder import RunFolder
from alphabar.tasks import SampleRequest
from alphabar.tasks.running.inputs import inputs_of, match_by_name, parse_classes, parse_guidance, read_prompts, spread
from alphabar.training.session import prepare

TINY = {
    "network.channels": [8, 16], "network.blocks": 1, "network.attention": [False, True], "network.groups": 4, "network.token_dim": 16,
    "network.modulation_channels": 8, "schedule.steps": 25, "train.batch_size": 8, "train.preview_pictures": 2, "train.preview_steps": 2,
    "train.validation_pictures": 4, "train.report_every": 2,
}  # fmt: skip
TEXT = {"conditions.text.width": 32, "conditions.text.layers": 1, "conditions.text.length": 16}
SETS = [word for key, value in TINY.items() for word in ("--set", f"{key}={json.dumps(value)}")]
CLASSES = ["a:b", "dog", "x, y", "猫"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Pictures in folders of odd names, captions, maps and pairs."""
    folder, g = tmp_path_factory.mktemp("data") / "pictures", np.random.default_rng(0)
    for k in range(16):
        name = f"{CLASSES[k % 4].replace(':', '_')}/{k}"
        for where, shape, high in (("images", (8, 8, 3), 256), ("maps", (8, 8), 3), ("conditioning", (8, 8), 256)):
            save(folder / where / f"{name}.png", g.integers(0, high, shape, dtype=np.uint8))
        (folder / "images" / f"{name}.txt").write_text(f"thing {k}", encoding="utf-8")
    return folder


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory) -> dict[str, Path]:
    """Runs of one step: of class, text and map; of two tasks; of nothing."""
    place = tmp_path_factory.mktemp("runs")
    wanted = {
        "all": {"data.conditions": ["class", "text", "map"], **TEXT},
        "inpaint": {"data.conditions": ["image"], "conditions.image.task": "inpaint"},
        "large": {
            "data.conditions": ["image"],
            "conditions.image.task": "super-resolution",
            "conditions.image.scale": 2,
        },
        "plain": {"data.conditions": []},
    }
    for name, settings in wanted.items():
        list(prepare(data, place / name, steps=1, settings=TINY | settings).run())
    return {name: place / name for name in wanted}


@pytest.fixture
def asked(alphabar, tmp_path):
    """Sample into a folder; returns (what was said, the record of each picture in order)."""

    def run(folder: Path, *arguments: object, steps: int = 2) -> tuple[str, list[dict]]:
        out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        code, said, error = alphabar("sample", folder, "--steps", steps, "--out", out, *arguments)
        assert code == 0, error
        return said, [read_record(p) for p in sorted(out.iterdir()) if p.name != "grid.png"]

    return run


# train


def test_train_finds_what_there_is_and_says_what_it_uses(alphabar, data, tmp_path):
    code, said, error = alphabar("train", data, "--out", tmp_path / "run", "--dry-run", "--steps", 1, *SETS)
    assert code == 0, error
    for line in (
        "cond    text: a .txt file beside each",
        "cond    map: folder maps",
        "cond    image: folder conditioning",
    ):
        assert line in said
    assert "--class-from folder would make them classes" in said
    code, said, _ = alphabar(
        "train", data, "--out", tmp_path / "run", "--dry-run", "--steps", 1, "--cond", "class,map", *SETS
    )
    assert "classes 4: a_b (4), dog (4), x, y (4), 猫 (4)" in said
    assert "cond    map: folder maps" in said
    assert "found   text (a .txt file beside each), not used" in said
    assert "found   image (folder conditioning), not used" in said
    code, said, _ = alphabar(
        "train", data, "--out", tmp_path / "run", "--dry-run", "--steps", 1, "--cond", "none", *SETS
    )
    assert "cond    " not in said
    assert not (tmp_path / "run").exists()


def test_a_dry_run_leaves_nothing_even_of_data_too_large_for_memory(alphabar, data, tmp_path):
    code, _, error = alphabar(
        "train", data, "--out", tmp_path / "run", "--dry-run", "--steps", 1, "--set", "data.memory_gb=1e-9", *SETS
    )
    assert code == 0, error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "image"),
    [
        (["--task", "super-resolution", "--scale", "2"], {"task": "super-resolution", "scale": 2}),
        (["--task", "colorize"], {"task": "colorize"}),
        (["--cond", "image", "--task", "inpaint"], {"task": "inpaint"}),
        (["--cond", "text,image", "--task", "edges", "--no-flip"], {"task": "edges"}),
    ],
)
def test_a_task_is_trained(alphabar, data, tmp_path, arguments, image):
    if "--cond" not in arguments:
        arguments = [*arguments, "--set", "data.conditions=[image]"]
    code, said, error = alphabar("train", data, "--out", tmp_path / "run", "--steps", 1, *arguments, *SETS)
    assert code == 0, error
    assert "cond    image: made from the pictures" in said
    settings = RunFolder.open(tmp_path / "run").config.conditions["image"]
    assert {key: getattr(settings, key) for key in image} == image


@pytest.mark.parametrize("name", ["regions", "2024", "a: b", "null", "[x]", "猫😀"])
def test_folders_of_maps_and_pictures_may_have_any_name(alphabar, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for k in range(4):
        save(tmp_path / "data" / f"{k}.png", np.random.default_rng(k).integers(0, 256, (8, 8, 3), dtype=np.uint8))
        save(tmp_path / "m" / name / f"{k}.png", np.full((8, 8), k % 3, np.uint8))
        save(tmp_path / name / f"{k}.png", np.full((8, 8), k, np.uint8))
    code, _, error = alphabar(
        "train", "data", "--out", "run", "--steps", 1, "--maps", f"m/{name}", "--images", name, "--flip", *SETS
    )
    assert code == 0, error
    config = RunFolder.open(tmp_path / "run").config
    assert config.conditions["map"].folder == f"m/{name}"
    assert config.conditions["image"].folder == name
    assert config.conditions["map"].classes == ["0", "1", "2"]
    assert config.data.flip is True


def test_flip_is_an_option_with_its_opposite(alphabar, data, tmp_path):
    for i, (option, expected) in enumerate((["--flip", True], ["--no-flip", False])):
        alphabar("train", data, "--out", tmp_path / str(i), "--steps", 1, "--cond", "map", option, *SETS)
        assert RunFolder.open(tmp_path / str(i)).config.data.flip is expected


BAD_TRAIN = {
    "scale alone": (["--scale", "2"], "--scale goes with --task super-resolution"),
    "task without image": (["--cond", "text", "--task", "colorize"], "add it: --cond text,image"),
    "images without image": (["--cond", "text", "--images", "x"], "add it: --cond text,image"),
    "maps without map": (["--cond", "text", "--maps", "x"], "add it: --cond text,map"),
    "class and no class": (["--cond", "class", "--class-from", "none"], "leave one of them out"),
    "class from without class": (
        ["--cond", "text", "--class-from", "folder"],
        "add class to it, or leave --class-from out",
    ),
    "unknown kind": (["--cond", "txt"], "did you mean 'text'"),
    "unknown task": (["--task", "denoise"], "conditions.image: task"),
    "no such folder": (["--maps", "nowhere"], "there is no folder 'nowhere'"),
    "own kind without values": (
        ["--cond", "depth", "--set", "conditions.depth.kind=image"],
        "--cond depth: the data has no such values",
    ),
    "colour of grey": (
        ["--cond", "image", "--task", "colorize", "--set", "data.channels=1"],
        "task=colorize needs pictures in colour",
    ),
    "network without pictures": (["--cond", "map", "--set", "network.kind=mlp"], "network.kind=mlp"),
}


@pytest.mark.parametrize("case", BAD_TRAIN)
def test_what_cannot_be_trained_exits_2_and_says_why(alphabar, data, tmp_path, case):
    arguments, expected = BAD_TRAIN[case]
    sets = SETS if case != "network without pictures" else []
    code, _, error = alphabar("train", data, "--out", tmp_path / "run", "--steps", 1, *arguments, *sets)
    assert code == 2
    assert expected in " ".join(error.split())
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


# sample


def test_classes_are_asked_by_name_and_number(asked, runs):
    _, records = asked(runs["all"], "--class", "猫:3,dog:2,a_b")
    assert [record["class"] for record in records] == ["猫"] * 3 + ["dog"] * 2 + ["a_b"]
    _, records = asked(runs["all"], "--class", "x, y", "-n", 2)
    assert [record["class"] for record in records] == ["x, y"] * 2
    _, records = asked(runs["all"], "-n", 5)
    assert [record["class"] for record in records] == ["a_b", "dog", "x, y", "猫", "a_b"]


def test_classes_with_colons_and_commas():
    assert parse_classes("a:b", CLASSES) == ["a:b"]
    assert parse_classes("a:b:2,dog", CLASSES) == ["a:b", "a:b", "dog"]
    assert parse_classes("x, y", CLASSES) == ["x, y"]
    assert parse_classes(" dog:2 , 猫:1 ", CLASSES) == ["dog", "dog", "猫"]
    assert parse_classes("3:2", ["3"]) == ["3", "3"]
    assert parse_classes("x, y:3,a:b:2,dog", CLASSES) == ["x, y"] * 3 + ["a:b"] * 2 + ["dog"]
    nested = ["a", "a, b", "b", "b:2"]
    assert parse_classes("a, b:2,b:2:3,a", nested) == ["a, b"] * 2 + ["b:2"] * 3 + ["a"]  # the longest first
    assert parse_classes("a:1,b", nested) == ["a", "b"]
    assert parse_classes("b, a,ab:2", nested) == ["b", "a", "ab", "ab"]  # what is unknown, the model refuses by name
    for wrong in ("dog:0", "dog:-1", "dog:x", "dog:", "dog:²", "x, y:0"):
        with pytest.raises(ConfigurationError, match=r"--class takes NAME, or NAME:3,OTHER:5"):
            parse_classes(wrong, CLASSES)


def test_prompts_are_repeated_or_read_from_a_file(asked, runs, tmp_path):
    long = " ".join("x" * 17)
    said, records = asked(runs["all"], "--prompt", "a cat", "--prompt", "一只猫", "--prompt", long)
    assert [record["text"] for record in records] == ["a cat", "一只猫", long]
    assert all("class" not in record for record in records)
    assert "note: text longer than 16 words is cut, as in training" in said
    assert "note: without class, map (not given)" in said
    (tmp_path / "prompts.txt").write_text("\ufeffone\n\n 二 \n", encoding="utf-8")
    said, records = asked(runs["all"], "--prompts", tmp_path / "prompts.txt", "-n", 4)
    assert [record["text"] for record in records] == ["one", "二", "one", "二"]
    assert "is cut" not in said


def test_prompts_of_a_file_are_its_lines(tmp_path):
    (tmp_path / "a.txt").write_text("one, two\r\nthree\r\n")
    assert read_prompts(tmp_path / "a.txt") == ["one, two", "three"]
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(ConfigurationError, match="holds no prompts; give one a line"):
        read_prompts(tmp_path / "a.txt")
    for bad in (tmp_path / "gone.txt", tmp_path):
        with pytest.raises(ConfigurationError, match="cannot read prompts from"):
            read_prompts(bad)


def test_a_map_or_a_folder_of_them(asked, runs, tmp_path):
    for name, size in (("b", 8), ("a", 16), ("c", 8)):
        save(tmp_path / "maps" / f"{name}.png", np.ones((size, size), np.uint8))
    (tmp_path / "maps" / "notes.txt").write_text("no map")
    said, records = asked(runs["all"], "--map", tmp_path / "maps")
    assert [record["map"] for record in records] == ["a.png", "b.png", "c.png"]
    assert "note: map a.png is 16x16, resized to 8x8 (nearest neighbour) as in training" in said
    said, records = asked(
        runs["all"], "--map", tmp_path / "maps" / "b.png", "--prompt", "x", "--prompt", "y", "--class", "dog"
    )
    assert [(record["map"], record["text"], record["class"]) for record in records] == [
        ("b.png", "x", "dog"),
        ("b.png", "y", "dog"),
    ]
    assert "note:" not in said


def test_pictures_and_masks_are_matched_by_name(asked, runs, tmp_path):
    for k, name in enumerate(["10", "9", "b"]):
        save(tmp_path / "pictures" / f"{name}.jpg", np.full((8, 8, 3), 80 * k, np.uint8))
        save(tmp_path / "masks" / f"{name}.png", np.full((8, 8), 255, np.uint8))
    _, records = asked(runs["inpaint"], "--image", tmp_path / "pictures", "--mask", tmp_path / "masks")
    assert [record["image"] for record in records] == ["10.jpg, 10.png", "9.jpg, 9.png", "b.jpg, b.png"]
    _, records = asked(runs["inpaint"], "--image", tmp_path / "pictures", "--mask", tmp_path / "masks" / "9.png")
    assert [record["image"] for record in records] == ["10.jpg, 9.png", "9.jpg, 9.png", "b.jpg, 9.png"]
    _, records = asked(
        runs["inpaint"], "--image", tmp_path / "pictures" / "b.jpg", "--mask", tmp_path / "masks", "-n", 4
    )
    assert [record["image"] for record in records] == ["b.jpg, 10.png", "b.jpg, 9.png", "b.jpg, b.png", "b.jpg, 10.png"]


def test_an_animation_ends_with_the_result_as_its_encoder_makes_it(runs, alphabar, tmp_path, monkeypatch):
    """Of inpainting: what is known is kept, in the last frame too."""
    shown: list[np.ndarray] = []
    monkeypatch.setattr(
        "alphabar.generation.images.grid", lambda pictures, *args: shown.append(pictures) or pictures[0]
    )
    known, mask = np.full((8, 8, 3), 77, np.uint8), np.zeros((8, 8), np.uint8)
    mask[:4] = 255
    save(tmp_path / "known.png", known)
    save(tmp_path / "mask.png", mask)
    code, _, error = alphabar(
        "sample", runs["inpaint"], "--image", tmp_path / "known.png", "--mask", tmp_path / "mask.png", "-n", 2,
        "--steps", 2, "--out", tmp_path / "way.webp",
    )  # fmt: skip
    assert code == 0, error
    assert (shown[-1][:, 4:] == 77).all()
    assert not (shown[-2][:, 4:] == 77).all()


def test_an_animation_by_guidance_has_a_column_a_weight(runs, alphabar, tmp_path):
    out = tmp_path / "weights.webp"
    code, _, error = alphabar(
        "sample", runs["all"], "--class", "dog", "-n", 2, "--guidance", "1,2,4", "--steps", 2, "--out", out
    )
    assert code == 0, error
    width, height = Image.open(out).size
    assert 1.3 < width / height < 1.7


def test_matching_is_by_name_and_never_by_order():
    def paths(folder: str, names: str) -> list[Path]:
        return [Path(folder) / name for name in names.split()]

    found = match_by_name(
        {"map": paths("m", "a.png b.png c.png"), "image": paths("i", "c.jpg b.jpg a.jpg"), "mask": paths("k", "x.png")}
    )
    assert [[p.stem for p in found[name]] for name in ("map", "image", "mask")] == [list("abc"), list("abc"), ["x"] * 3]
    with pytest.raises(
        ConfigurationError, match="--map and --image are matched by file name, but c is in one of them only"
    ):
        match_by_name({"map": paths("m", "a.png b.png"), "image": paths("i", "a.png b.png c.png")})
    with pytest.raises(ConfigurationError, match=r"--image: a\.jpg and a\.png have the same name but for its ending"):
        match_by_name({"map": paths("m", "a.png b.png"), "image": paths("i", "a.jpg a.png b.png")})
    assert len(match_by_name({"image": paths("i", "a.jpg a.png b.png")})["image"]) == 3  # alone, nothing is left out
    assert match_by_name({}) == {}


def test_a_small_picture_is_enlarged_and_another_size_is_said(asked, runs, tmp_path):
    save(tmp_path / "small.png", np.full((4, 4, 3), 99, np.uint8))
    save(tmp_path / "big.png", np.full((8, 8, 3), 99, np.uint8))
    said, _ = asked(runs["large"], "--image", tmp_path / "small.png", "-n", 2)
    assert "resized" not in said
    said, _ = asked(runs["large"], "--image", tmp_path / "big.png", "-n", 2)
    assert "note: picture big.png is 8x8, resized to 4x4 as in training" in said


# guidance


def test_guidance_is_recorded(asked, runs):
    _, (record, *_) = asked(
        runs["all"], "--prompt", "x", "--guidance", 2.5, "--guidance-rescale", 0.5, "--guidance-interval", "0.1,0.8"
    )
    assert (record["guidance"], record["guidance_rescale"], record["guidance_interval"]) == (2.5, 0.5, [0.1, 0.8])
    _, (record, *_) = asked(runs["all"], "--prompt", "x", "--class", "dog", "--guidance-text", 3, "--guidance-class", 0)
    assert record["guidance"] == {"class": 0.0, "text": 3.0}
    _, (record, *_) = asked(runs["all"], "--prompt", "x", "--guidance", 1)
    assert "guidance" not in record


def test_a_guidance_of_0_is_no_condition_and_1_is_plain(alphabar, runs, tmp_path):
    def made(*arguments: object) -> np.ndarray:
        out = tmp_path / "x.npy"
        code, _, error = alphabar("sample", runs["all"], "-n", 3, "--steps", 3, "--out", out, *arguments)
        assert code == 0, error
        array = np.load(out).astype(int)
        out.unlink()
        return array

    plain = made("--class", "dog", "--prompt", "x")
    assert np.abs(made("--class", "dog", "--prompt", "x", "--guidance", 1) - plain).max() <= 1
    assert (
        np.abs(
            made("--class", "猫", "--prompt", "y", "--guidance", 0)
            - made("--class", "dog", "--prompt", "x", "--guidance", 0)
        ).max()
        <= 1
    )
    assert np.abs(made("--class", "dog", "--prompt", "x", "--guidance-text", 0) - made("--class", "dog")).max() <= 1


def test_a_list_of_weights_makes_a_grid(alphabar, runs, tmp_path):
    out = tmp_path / "grid.png"
    code, said, error = alphabar(
        "sample", runs["all"], "--steps", 2, "--class", "dog:2,猫", "--guidance", "1,3", "--out", out
    )
    assert code == 0, error
    assert "6 pictures in" in said
    record = read_record(out)
    assert record["guidance"] == [1.0, 3.0] * 3
    assert record["classes"] == ["dog", "dog", "dog", "dog", "猫", "猫"]
    assert record["seeds"][::2] == record["seeds"][1::2]  # a row is one picture with other weights
    assert len(set(record["seeds"])) == 3
    code, _, error = alphabar(
        "sample",
        runs["all"],
        "--steps",
        2,
        "--prompt",
        "a",
        "--prompt",
        "b",
        "--guidance",
        "0,1,2",
        "--out",
        tmp_path / "g",
    )
    assert code == 0, error
    records = [read_record(p) for p in sorted((tmp_path / "g").iterdir()) if p.name != "grid.png"]
    assert [(r["text"], r["guidance"]) for r in records] == [(t, w) for t in "ab" for w in (0.0, 1.0, 2.0)]


def test_guidance_options_are_numbers_for_all_or_for_each():
    assert parse_guidance(None, {"text": None}) == (None, None)
    assert parse_guidance("0", {}) == (0.0, None)
    assert parse_guidance("1,2.5", {}) == (None, [1.0, 2.5])
    assert parse_guidance(None, {"text": 0.0, "map": None}) == ({"text": 0.0}, None)
    assert parse_guidance("angle=2, text=3", {}) == ({"angle": 2.0, "text": 3.0}, None)
    for wrong in ("1,text=2", "text=", "=", "", "1,"):
        with pytest.raises(ConfigurationError, match="--guidance takes a number"):
            parse_guidance(wrong, {})


def test_inputs_are_taken_in_turn_and_must_be_as_many():
    assert spread({}, None, 16) == (16, {})
    assert spread({"class": ["a"]}, None, 16) == (16, {"class": ["a"] * 16})
    assert spread({"class": ["a", "b"], "text": ["x"]}, None, 16) == (2, {"class": ["a", "b"], "text": ["x", "x"]})
    assert spread({"class": ["a", "b"]}, 3, 16) == (3, {"class": ["a", "b", "a"]})
    with pytest.raises(ConfigurationError, match="2 of class, 3 of text: they must be as many, or one for all"):
        spread({"class": ["a"] * 2, "text": ["x"] * 3}, None, 16)


# what cannot be asked

BAD_SAMPLE = {
    "not trained with text": ("inpaint", ["--prompt", "x"], "was not trained with text; it accepts: image"),
    "not trained with image": (
        "all",
        ["--image", "PICTURE"],
        "was not trained with image; it accepts: class, text, map",
    ),
    "not trained with anything": (
        "plain",
        ["--class", "dog"],
        "was not trained with class; it accepts: nothing (it is unconditional)",
    ),
    "own name": ("all", ["--cond", "age=3"], "was not trained with age; it accepts: class, text, map"),
    "own without value": ("all", ["--cond", "age"], "--cond takes NAME=VALUE"),
    "unknown class": ("all", ["--class", "dgo"], "does not know the class 'dgo'; did you mean 'dog'"),
    "class without number": ("all", ["--class", "dog:x"], "--class takes NAME, or NAME:3,OTHER:5; got 'dog:x'"),
    "prompts twice": ("all", ["--prompt", "x", "--prompts", "PROMPTS"], "--prompt or --prompts, not both"),
    "no such map": (
        "all",
        ["--map", "nowhere.png"],
        "--map: nowhere.png does not exist; give a picture or a folder of them",
    ),
    "no maps": ("all", ["--map", "EMPTY"], "--map: there are no pictures in"),
    "index out of range": (
        "all",
        ["--map", "WRONG"],
        "map wrong.png: index 9 has no class; known: 0..2 and 255 (ignored)",
    ),
    "mask without image": ("inpaint", ["--mask", "PICTURE"], "--mask goes with --image"),
    "inpainting without mask": ("inpaint", ["--image", "PICTURE"], "inpainting needs a picture and a mask"),
    "mask elsewhere": ("large", ["--image", "PICTURE", "--mask", "PICTURE"], "a mask goes with task=inpaint only"),
    "not as many": (
        "all",
        ["--prompt", "a", "--prompt", "b", "--class", "dog:3"],
        "3 of class, 2 of text: they must be as many, or one for all",
    ),
    "guidance of nothing": (
        "plain",
        ["--guidance", "1,2"],
        "this model is unconditional, so there is nothing to guide",
    ),
    "guidance of another": ("all", ["--prompt", "x", "--guidance-image", "2"], "was not trained with image"),
    "guidance twice": ("all", ["--guidance", "2", "--guidance-text", "2"], "or --guidance-NAME for each, not both"),
    "no number": (
        "all",
        ["--guidance", "high"],
        "several for a grid like 1,2,4, or one by name like text=3,angle=2; got 'high'",
    ),
    "no interval": ("all", ["--guidance-interval", "0.5"], "takes two times in 0..1, like 0.2,0.8; got '0.5'"),
    "interval backwards": ("all", ["--guidance-interval", "0.8,0.2"], "needs 0 <= from < to <= 1, got 0.8,0.2"),
    "too much rescaling": ("all", ["--guidance-rescale", "2"], "less than or equal"),
}


@pytest.mark.parametrize("case", BAD_SAMPLE)
def test_what_cannot_be_asked_exits_2_and_says_what_can(alphabar, runs, tmp_path, case):
    (tmp_path / "empty").mkdir()
    (tmp_path / "prompts.txt").write_text("a\n")
    places = {
        "PICTURE": save(tmp_path / "picture.png", np.zeros((8, 8, 3), np.uint8)),
        "WRONG": save(tmp_path / "wrong.png", np.full((8, 8), 9, np.uint8)),
        "EMPTY": tmp_path / "empty",
        "PROMPTS": tmp_path / "prompts.txt",
    }
    run, arguments, expected = BAD_SAMPLE[case]
    code, _, error = alphabar(
        "sample", runs[run], "--steps", 2, "--out", tmp_path / "x.png", *[places.get(word, word) for word in arguments]
    )
    assert code == 2
    assert expected in " ".join(error.split())
    assert "Traceback" not in error
    assert not (tmp_path / "x.png").exists()


# what is told


def test_info_tells_what_was_asked(alphabar, runs, tmp_path):
    save(tmp_path / "street.png", np.ones((8, 8), np.uint8))
    arguments = [
        "--class",
        "猫",
        "--prompt",
        "a red cat",
        "--map",
        tmp_path / "street.png",
        "--guidance-text",
        2,
        "-n",
        1,
    ]
    code, _, error = alphabar("sample", runs["all"], "--steps", 2, "--out", tmp_path / "out", *arguments)
    assert code == 0, error
    (picture,) = [p for p in (tmp_path / "out").iterdir() if p.name != "grid.png"]
    assert picture.name == "000000-猫-a_red_cat-street.png"
    _, said, _ = alphabar("info", picture)
    told = dict(line.split(maxsplit=1) for line in said.splitlines())
    assert told["class"] == "猫"
    assert told["text"] == "a red cat"
    assert told["map"] == "street.png"
    assert told["guidance"] == '{"text": 2.0}'
    _, said, _ = alphabar("info", tmp_path / "out" / "grid.png")
    assert '["a red cat"]' in said
    _, said, _ = alphabar("info", runs["all"] / "checkpoints" / "step-1")
    assert 'conditions    ["class", "text", "map"]' in said


def test_settings_lists_those_of_conditions(alphabar):
    _, said, _ = alphabar("settings", "conditions.")
    for key in (
        "conditions.text.length = 64",
        'conditions.map.door = "modulation"',
        "conditions.image.scale = 4",
        "conditions.class.dropout = 0.1",
    ):
        assert key in said


def test_what_was_asked_is_drawn_beside_the_pictures_of_a_grid(alphabar, runs, data, tmp_path):
    folder = data / "maps" / "dog"
    common = ("sample", runs["all"], "--map", folder, "--steps", 2, "--batch", 2)
    assert alphabar(*common, "--prompt", "a rather long caption", "--out", tmp_path / "plain.png")[0] == 0
    assert (
        alphabar(*common, "--prompt", "a rather long caption", "--show-conditions", "--out", tmp_path / "shown.png")[0]
        == 0
    )
    plain, shown = Image.open(tmp_path / "plain.png"), Image.open(tmp_path / "shown.png")
    assert shown.width > plain.width
    assert shown.height > plain.height
    code, _, error = alphabar(*common, "--show-conditions", "--out", tmp_path / "x.npy")
    assert code == 2
    assert "give a .png" in error


def test_instances_join_their_maps_by_name(tmp_path):
    for folder in ("maps", "objects"):
        for name in ("a", "b"):
            save(tmp_path / folder / f"{name}.png", np.zeros((8, 8), np.uint8))
    request = SampleRequest(run="run", out="x.png", map=tmp_path / "maps", instances=tmp_path / "objects")
    pairs = inputs_of(request, [])["map"]
    assert [(m.parent.name, i.parent.name, m.name == i.name) for m, i in pairs] == [("maps", "objects", True)] * 2
    with pytest.raises(ConfigurationError, match="--instances goes with --map"):
        inputs_of(SampleRequest(run="run", out="x.png", instances=tmp_path / "objects"), [])
