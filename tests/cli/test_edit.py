"""`alphabar edit`: every kind of edit, where its results go, what is refused and how."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alphabar.errors import ConfigurationError
from alphabar.generation import editing
from alphabar.generation.images import read_record
from alphabar.generation.pipeline import load
from alphabar.randomness import derive_seeds
from alphabar.tasks import EditRequest
from alphabar.tasks.running.edit import animation_path, parse_ends, read_edit
from alphabar.training.session import prepare

from .test_conditions import TEXT, TINY, save


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of one step on coloured pictures of two classes with captions."""
    place, g = tmp_path_factory.mktemp("edit"), np.random.default_rng(0)
    for k in range(12):
        name = f"{'cat' if k % 2 else 'dog'}/{k}"
        save(place / "data" / f"{name}.png", g.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        (place / "data" / f"{name}.txt").write_text(f"thing {k}")
    settings = TINY | TEXT | {"data.conditions": ["class", "text"], "data.class_from": "folder"}
    list(prepare(place / "data", place / "run", steps=1, settings=settings).run())
    return place / "run"


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """Pictures to edit, masks, and things that are neither; the test runs beside them."""
    monkeypatch.chdir(tmp_path)
    g = np.random.default_rng(1)
    for name in ("one.png", "two.png", "many/b.png", "many/a.png", "many/c.jpg"):
        save(tmp_path / name, g.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    save(tmp_path / "large.png", g.integers(0, 256, (20, 16, 3), dtype=np.uint8))
    for i, name in enumerate(("mask.png", "masks/c.png", "masks/a.png", "masks/b.png")):
        mask = np.zeros((8, 8), np.uint8)
        mask[:, 2 * i : 2 * i + 2] = 255
        save(tmp_path / name, mask)
    save(tmp_path / "black.png", np.zeros((8, 8), np.uint8))
    save(tmp_path / "others/a.png", np.full((8, 8), 255, np.uint8))
    save(tmp_path / "others/z.png", np.full((8, 8), 255, np.uint8))
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("x")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing more")
    return tmp_path


@pytest.fixture
def edit(alphabar, run, files):
    """Edit in four steps; returns (the array that was written, what was said)."""

    def call(*arguments: object, out: str = "out.npy", steps: int = 4) -> tuple[np.ndarray, str]:
        code, said, error = alphabar("edit", run, "--out", files / out, "--steps", steps, *arguments)
        assert code == 0, error
        return (np.load(files / out) if out.endswith(".npy") else np.empty(0)), said

    return call


@pytest.fixture
def model(run):
    return load(run)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def levels(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


# kinds of edit


def test_a_mask_is_filled_and_the_rest_comes_back_exactly(edit, files):
    made, said = edit("--image", "one.png", "--mask", "mask.png", "-n", 3, "--resamplings", 2, "--jump", 2)
    assert made.shape == (3, 8, 8, 3)
    assert all(np.array_equal(picture[:, 2:], pixels(files / "one.png")[:, 2:]) for picture in made)
    assert all((picture[:, :2] != pixels(files / "one.png")[:, :2]).any() for picture in made)
    assert len({picture.tobytes() for picture in made}) == 3
    assert "3 pictures in" in said
    assert "inpaint, ancestral in 4 steps" in said


@pytest.mark.parametrize("masks", ["masks", "mask.png"])
def test_folders_of_pictures_and_masks_are_matched_by_name(edit, files, masks):
    made, _ = edit("--image", "many", "--mask", masks, "--resamplings", 1, "-n", 2)
    assert len(made) == 6
    for i, name in enumerate(("a.png", "a.png", "b.png", "b.png", "c.jpg", "c.jpg")):
        mask = np.asarray(Image.open(files / (f"masks/{name[0]}.png" if masks == "masks" else masks)))
        original = pixels(files / "many" / name)
        assert np.array_equal(made[i][mask == 0], original[mask == 0])
        assert (made[i][mask > 0] != original[mask > 0]).any()


def test_a_picture_is_started_from(edit, files):
    near, said = edit("--image", "one.png", "--strength", 0.04, steps=25)
    assert "1 picture in" in said
    assert "image to image, dpm++2m-sde in the last 1 of 25 steps" in said
    far, _ = edit("--image", "one.png", "--strength", 0.9, "-n", 2, out="far.npy")
    assert levels(near[0], pixels(files / "one.png")) < levels(far[0], pixels(files / "one.png"))
    assert (far[0] != far[1]).any()
    several, _ = edit("--image", "many", "--strength", 0.5, out="many.npy")
    assert len(several) == 3


def test_a_way_between_two_pictures_is_that_of_the_library(edit, model):
    made, said = edit("--image", "one.png", "--to", "two.png", steps=10)
    assert len(made) == 9
    assert "interpolate pictures, ddim in 10 steps" in said
    ends = editing.read_pictures(model, [Path("one.png"), Path("two.png")])
    assert levels(made, editing.interpolate(model.with_settings(steps=10), ends, 9).run().pictures) <= 1
    assert len(edit("--image", "one.png", "--to", "two.png", "-n", 3, out="few.npy")[0]) == 3


def test_variations_are_as_many_as_asked_and_those_of_the_library(edit, model):
    made, said = edit("--image", "one.png", "--variations", 3, "--strength", 0.6, "--seed", 5)
    assert "variations, ddim in 4 steps" in said
    assert made.shape == (3, 8, 8, 3)
    picture = editing.read_pictures(model, [Path("one.png")] * 3)
    same = editing.variations(model.with_settings(steps=4), picture, 0.6, derive_seeds(5, 3)).run().pictures
    assert levels(made, same) <= 1
    default, _ = edit("--image", "one.png", "--variations", 3, out="default.npy")
    plain, _ = edit("--image", "one.png", "--variations", 3, "--strength", 0.3, out="plain.npy")
    assert np.array_equal(default, plain)
    assert len(edit("--image", "many", "--variations", 2, out="many.npy")[0]) == 6


def test_a_way_between_seeds_needs_no_picture(edit, alphabar, run, files):
    made, said = edit("--seeds", "3, 8")
    assert len(made) == 9
    assert "interpolate seeds" in said
    alphabar("sample", run, "--seeds", "3,8", "--class", "cat", "--sampler", "ddim", "--steps", 4, "--out", "ends.npy")
    made, _ = edit("--seeds", "3,8", "-n", 2, "--class", "cat", out="cat.npy")
    assert levels(made, np.load(files / "ends.npy")) <= 1


def test_the_result_follows_class_prompt_guidance_seed_and_sampler(edit):
    arguments = ("--image", "one.png", "--strength", 0.8)
    plain, _ = edit(*arguments)
    again, _ = edit(*arguments, "--seed", 0, out="again.npy")
    assert np.array_equal(plain, again)
    for i, more in enumerate(
        (("--class", "cat"), ("--prompt", "thing 3"), ("--class", "cat", "--guidance", 5), ("--seed", 1), ("--sampler", "heun"), ("--raw-weights",))
    ):  # fmt: skip
        other, said = edit(*arguments, *more, out=f"{i}.npy")
        assert (other != plain).any(), more
        assert ("heun in the last 3 of 4 steps" in said) == ("heun" in more)


def test_a_result_does_not_depend_on_the_batch(edit):
    made = [
        edit("--image", "many", "--mask", "masks", "-n", 2, "--batch", batch, "--resamplings", 2, out=f"{batch}.npy")[0]
        for batch in (1, 4, 6)
    ]
    assert max(levels(made[0], other) for other in made[1:]) <= 1


def test_other_sizes_are_resized_and_that_is_said(edit, files):
    _, said = edit("--image", "large.png", "--strength", 0.5, "-n", 2)
    assert said.count("note: picture large.png is 20x16, resized and cropped to 8x8 as in training") == 1
    _, said = edit("--image", "one.png", "--strength", 0.5, out="same.npy")
    assert "note" not in said
    Image.new("L", (16, 16), 255).save(files / "wide.png")
    _, said = edit("--image", "one.png", "--mask", "wide.png", "--resamplings", 1, out="mask.npy")
    assert "note: mask wide.png is 16x16, resized to 8x8 as in training" in said


# where results go


def test_results_go_to_a_grid_a_folder_or_an_array_and_tell_how_they_were_made(edit, files):
    arguments = ("--image", "one.png", "--strength", 0.5, "-n", 3, "--class", "cat")
    array, _ = edit(*arguments)
    edit(*arguments, out="grid.png")
    edit(*arguments, out="folder")
    record = read_record(files / "grid.png")
    assert record["edit"] == "image to image"
    assert record["strength"] == 0.5
    assert record["classes"] == ["cat"] * 3
    assert record["picture"] == ["one.png"] * 3
    assert record["checkpoint"] == "step-1"
    grid = Image.open(files / "grid.png")
    assert grid.width > 2.5 * grid.height  # a row for each picture
    names = sorted(p.name for p in (files / "folder").iterdir())
    assert names == [*(f"{i:06d}-one-cat.png" for i in range(3)), "grid.png"]
    assert [pixels(files / "folder" / name).tolist() for name in names[:3]] == array.tolist()
    assert len({read_record(files / "folder" / name)["seed"] for name in names[:3]}) == 3


def test_results_name_the_files_that_they_are_made_from(edit, files):
    edit("--image", "many", "--mask", "masks", "-n", 2, "--batch", 2, "--resamplings", 1, out="filled")
    records = [read_record(path) for path in sorted((files / "filled").glob("0*.png"))]
    assert [record["picture"] for record in records] == [name for name in ("a.png", "b.png", "c.jpg") for _ in range(2)]
    assert [Path(record["mask"]).stem for record in records] == list("aabbcc")
    edit("--image", "one.png", "--to", "two.png", "-n", 3, out="way.png")
    record = read_record(files / "way.png")
    assert (record["picture"], record["to"]) == (["one.png"] * 3, ["two.png"] * 3)


@pytest.mark.parametrize(
    ("arguments", "frames"),
    [
        (("--image", "one.png", "--strength", 1.0), 5),
        (("--image", "one.png", "--mask", "mask.png", "--resamplings", 2, "--jump", 2), 11),
        (("--image", "one.png", "--variations", 2), 5),
        (("--image", "one.png", "--to", "two.png", "-n", 4), 6),  # there and back, each end held but not repeated
        (("--seeds", "1,2", "-n", 4), 6),
    ],
    ids=lambda v: str(v[0] if v[0] == "--seeds" else v[2]) if isinstance(v, tuple) else "",
)
def test_the_way_there_is_animated(edit, files, arguments, frames):
    _, said = edit(*arguments, "--animate", out="way.png")
    assert f"the way there in {files / 'way.webp'}" in said
    with Image.open(files / "way.webp") as film:
        assert film.is_animated
        assert frames <= film.n_frames + 2 <= frames + 4  # equal frames may have become one


def test_the_last_frame_of_a_filled_picture_is_the_result(edit, files):
    made, _ = edit("--image", "one.png", "--mask", "mask.png", "--resamplings", 1, "--animate", out="out.npy")
    with Image.open(files / "out.npy.webp") as film:
        film.seek(film.n_frames - 1)
        last = np.asarray(film.convert("RGB").resize((8, 8), Image.Resampling.BOX)).astype(int)
    assert np.abs(last - made[0]).mean() < 40  # of a lossy, magnified, framed picture


@pytest.mark.parametrize(
    ("out", "expected"),
    [("a/x.png", "a/x.webp"), ("x.npy", "x.npy.webp"), ("folder", "folder.webp"), ("v1.5", "v1.5.webp")],
)
def test_the_animation_lies_beside_the_result(out, expected):
    assert animation_path(Path(out)) == Path(expected)


# what is refused

ONE = ("--image", "one.png")
BAD = {
    "nothing": (ONE, "say what to do: --mask FILE (fill in), --strength S"),
    "nothing at all": ((), "or --seeds A,B without --image"),
    "two kinds": ((*ONE, "--mask", "mask.png", "--variations", 2), "--mask and --variations are different edits"),
    "three kinds": ((*ONE, "--mask", "mask.png", "--to", "two.png", "--seeds", "1,2"), "--mask and --to and --seeds"),
    "seeds of a picture": ((*ONE, "--seeds", "1,2"), "--seeds goes between two new pictures; leave --image out"),
    "mask of nothing": (("--mask", "mask.png"), "--mask needs the picture to edit: --image FILE"),
    "strength of nothing": (("--strength", 0.5), "--strength needs the picture to edit"),
    "variations of nothing": (("--variations", 2), "--variations needs the picture to edit"),
    "to from nothing": (("--to", "two.png"), "--to needs the picture to edit"),
    "strength of a mask": ((*ONE, "--mask", "mask.png", "--strength", 0.5), "or with --variations, not with --mask"),
    "strength of a way": ((*ONE, "--to", "two.png", "--strength", 0.5), "or with --variations, not with --to"),
    "strength of seeds": (("--seeds", "1,2", "--strength", 0.5), "or with --variations, not with --seeds"),
    "count twice": ((*ONE, "--variations", 2, "-n", 3), "--variations says how many already; leave -n out"),
    "no such picture": (("--image", "nowhere.png", "--strength", 0.5), "--image: nowhere.png does not exist"),
    "no such mask": ((*ONE, "--mask", "nowhere.png"), "--mask: nowhere.png does not exist"),
    "no such end": ((*ONE, "--to", "nowhere.png"), "--to: nowhere.png does not exist"),
    "empty folder": (("--image", "empty", "--strength", 0.5), "--image: there are no pictures in empty"),
    "masks of other names": (("--image", "many", "--mask", "others"), "matched by file name, but b is in one of them"),
    "many ends": (("--image", "many", "--to", "two.png"), "--image and --to take one picture each, got 4 together"),
    "one seed": (("--seeds", "3"), "--seeds takes two seeds, like 3,8; got '3'"),
    "three seeds": (("--seeds", "1,2,3"), "--seeds takes two seeds"),
    "no numbers": (("--seeds", "a,b"), "--seeds takes two seeds, like 3,8; got 'a,b'"),
    "a negative seed": (("--seeds", "-1,2"), "--seeds takes two seeds"),
    "a power for a seed": (("--seeds", "3²,2"), "--seeds takes two seeds"),
    "no strength": ((*ONE, "--strength", 0), "strength must lie in (0, 1], got 0"),
    "too strong": ((*ONE, "--strength", 1.5), "strength must lie in (0, 1], got 1.5"),
    "no strength of variations": ((*ONE, "--variations", 2, "--strength", 0), "strength must lie in (0, 1], got 0"),
    "nothing to fill": ((*ONE, "--mask", "black.png"), "a mask has nothing to fill: it must be white somewhere"),
    "sampler for a mask": ((*ONE, "--mask", "mask.png", "--sampler", "heun"), "sampler ancestral or ddim; got heun"),
    "unknown sampler": ((*ONE, "--strength", 0.5, "--sampler", "hein"), "did you mean 'heun'"),
    "unknown class": ((*ONE, "--strength", 0.5, "--class", "cow"), "does not know the class 'cow'"),
    "guidance of nothing": ((*ONE, "--strength", 0.5, "--guidance", 2), "--guidance strengthens --class or --prompt"),
    "too many steps": ((*ONE, "--strength", 0.5, "--steps", 26), "at most 25"),
    "broken picture": (("--image", "broken.png", "--strength", 0.5), "broken.png"),
    "unknown checkpoint": ((*ONE, "--strength", 0.5, "--checkpoint", 9), "there are: step-1"),
    "full folder": ((*ONE, "--strength", 0.5, "--out", "full"), "is a folder that is not empty"),
    "over its own picture": (
        ("--image", "one.png", "--strength", 0.5, "--out", "./one.png"),
        "is one of the pictures that are read",
    ),
    "over its own mask": (
        ("--image", "one.png", "--mask", "mask.png", "--out", "mask.png"),
        "mask.png is one of the pictures",
    ),
    "over the other end": (
        ("--image", "one.png", "--to", "two.png", "--out", "two.png"),
        "two.png is one of the pictures",
    ),
    "a grid as .jpg": ((*ONE, "--strength", 0.5, "--out", "x.jpg"), "a grid is written as .png"),
    "resamplings of another edit": (
        (*ONE, "--strength", 0.5, "--resamplings", 3, "--out", "x.png"),
        "--resamplings is for --mask",
    ),
    "a sampler of what goes by ddim": (
        ("--seeds", "3,8", "--sampler", "heun", "--out", "x.png"),
        "leave --sampler heun out",
    ),
    "a seed for what draws no noise": (
        ("--seeds", "3,8", "--seed", 0, "--out", "x.png"),
        "--seeds draws no noise and goes in one batch; leave --seed out",
    ),
    "batches of one way": ((*ONE, "--to", "two.png", "--batch", 2, "--out", "x.png"), "leave --batch out"),
    "an animation as result": ((*ONE, "--strength", 0.5, "--out", "x.webp"), "and --animate for .webp"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_done_exits_2_and_says_why(alphabar, run, files, case):
    arguments, expected = BAD[case]
    before = {path for path in files.rglob("*") if path.is_file()}
    code, _, error = alphabar("edit", run, "--out", "out.npy", *arguments)
    assert code == 2
    assert expected in " ".join(error.split())
    assert "Traceback" not in error
    assert {path for path in files.rglob("*") if path.is_file()} == before


def test_a_prompt_for_a_model_of_classes_only_is_refused(alphabar, files):
    pictures = files / "many"
    list(prepare(pictures, files / "plain", steps=1, settings=TINY | {"data.conditions": []}).run())
    code, _, error = alphabar(
        "edit", files / "plain", *ONE, "--strength", 0.5, "--prompt", "a cat", "--out", "x.npy", "--steps", 2
    )
    assert code == 2
    assert "not trained with text; it accepts: nothing (it is unconditional)" in error
    code, _, error = alphabar("edit", files / "plain", *ONE, "--strength", 0.5, "--out", "x.npy", "--steps", 2)
    assert code == 0, error


def test_two_ends_are_read_from_words():
    assert parse_ends("3,8") == (3, 8)
    assert parse_ends(" 0 , 12") == (0, 12)


def test_what_is_asked_for_is_read_with_its_defaults(files):
    def request(**given):
        return read_edit(EditRequest(run="run", out="x.png", **given))

    one, two = Path("one.png"), Path("two.png")
    assert (request(image=one, strength=0.5).kind, request(image=one, strength=0.5).n) == ("--strength", 1)
    assert request(image=one, variations=4).strength == 0.3
    assert request(image=one, variations=4).n == 4
    assert request(image=one, to=two).images == [one, two]
    assert (request(image=one, to=two).n, request(seeds="1,2").n, request(seeds="1,2", n=4).n) == (9, 9, 4)
    assert request(seeds="1,2").between == (1, 2)
    masked = request(image=Path("many"), mask=Path("masks"))
    assert [p.stem for p in masked.images] == [p.stem for p in masked.masks] == ["a", "b", "c"]
    assert request(image=Path("many"), mask=Path("mask.png")).masks == [Path("mask.png")] * 3
    with pytest.raises(ConfigurationError, match="say what to do"):
        request(image=one)
