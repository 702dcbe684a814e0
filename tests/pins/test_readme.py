"""Each command that both READMEs show runs, on small stand-ins for its data and its runs."""

from __future__ import annotations

import re
import shlex
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .cases import COLOURS, DATA, NARROW, NARROW_TEXT, SHAPES, draw, inside, options, run_command

COMMANDS = (DATA / "readme_commands.txt").read_text(encoding="utf-8").splitlines()
SNIPPETS = (DATA / "readme_snippets.txt").read_text(encoding="utf-8").splitlines()

STAND_INS = {
    "--minutes 30": "--minutes 0.0005",
    "--minutes M": "--minutes 0.0005",
    "--steps 5700": "--steps 1",
    "--steps N": "--steps 42",
    "--map FOLDER": "--map FOLDER/maps/circle",
    "--image FOLDER": "--image FOLDER/images/circle",
    "--mask FILE": "--mask mask.png",
    "--prompts FILE": "--prompts prompts.txt",
    "extractor DATA --out FILE": "extractor digits --pictures 40 --out new.safetensors",
    "--extractor FILE": "--extractor x.safetensors",
    "Sneaker": "7",
    "Bag": "3",
    "data.path=FOLDER": "data.path=fashion",
    "export RUN FOLDER": "export RUN exported",
    "import FOLDER": "import exported",
    "--cond NAME=VALUE": "--cond hint=FOLDER/conditioning/circle/0.png",
    "--cond NAME": "--cond hint --set conditions.hint.kind=image",
    "CHECKPOINT": "RUN/checkpoints/step-40",
    "DATA": "digits",
}
"""Placeholder -> what replaces it; placeholders that are not here are names of files in `prepared`."""

QUICK = NARROW | {
    "train.validation_pictures": 4,
    "train.preview_pictures": 1,
    "train.batch_size": 8,
}
NEW_RUN = ["--steps", "1", *options(QUICK | {"data.size": 8})]
RESUMED = ["--steps", "41"]
APPENDED = {
    "demo": ["--steps", "1"],
    "sample": ["--steps", "2"],
    "edit": ["--steps", "4"],
    "evaluate": ["-n", "8", "--steps", "2"],
    "likelihood": ["-n", "2", "--steps-bound", "3", "--steps-ode", "3"],
}
"""Options by command, for those that it does not name itself."""

RUN_OF = {
    "--prompt": "shapes-run",
    "--map": "map",
    "--mask FILE": "inpaint",
    "--image FOLDER": "image",
    "--guidance-text": "text,image",
    "NAME=VALUE": "hint",
    "--init": "folder-run",
    "fashion": "fashion-run",
}
"""What a command holds -> the run that it is given; digits-run otherwise."""

TRAINED = {
    "map": "FOLDER --cond map",
    "image": "FOLDER --cond image --task super-resolution --scale 2",
    "inpaint": "FOLDER --cond image --task inpaint",
    "text,image": "FOLDER --cond text,image",
    "hint": "FOLDER --cond hint --set conditions.hint.kind=image",
    "folder-run": "FOLDER",
    "fashion-run": "fashion-mnist --set data.path=fashion",
}
"""How the runs that are no fixtures are trained."""


def write_folder(folder: Path) -> None:
    """Pictures in folders by shape, with captions, a column, maps, pairs and hints."""
    lines = ["file_name,text,COLUMN,map_file_name,conditioning_image_file_name,hint_file_name"]
    for k in range(12):
        shape, colour = SHAPES[k % 3], list(COLOURS)[k // 3]
        picture, name = draw(shape, COLOURS[colour], 0, 0), f"{shape}/{k}.png"
        inside_shape = (picture != 255).any(2).astype(np.uint8)
        for kind, array in (("images", picture), ("maps", inside_shape), ("conditioning", inside_shape * 255)):
            save(folder / kind / name, array)
        lines.append(f"images/{name},a {colour} {shape},{colour},maps/{name},conditioning/{name},conditioning/{name}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_fashion(folder: Path) -> None:
    """The four files of the set, with 40 pictures of noise."""
    folder.mkdir()
    pictures = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        for name, array in (("images-idx3", pictures), ("labels-idx1", np.arange(40, dtype=np.uint8) % 10)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (folder / f"{part}-{name}-ubyte").write_bytes(header + array.tobytes())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """All files that the commands name; runs and what is made from them come into it when they are first needed."""
    folder = tmp_path_factory.mktemp("readme")
    write_folder(folder / "FOLDER")
    shutil.copytree(folder / "FOLDER" / "images", folder / "my-pictures")
    write_fashion(folder / "fashion")
    pictures = np.stack([draw(SHAPES[k % 3], COLOURS["red"], k % 2, k // 2 % 2) for k in range(12)])
    np.savez(folder / "pictures.npz", images=pictures)
    for k, name in enumerate(("x.png", "a.png", "b.png")):
        save(folder / name, draw(SHAPES[k], COLOURS["blue"], 0, 0))
    save(folder / "mask.png", np.kron(np.uint8([[0, 255], [0, 0]]), np.ones((4, 4), np.uint8)))
    (folder / "prompts.txt").write_text("a red circle\na blue cross\n")
    for name in ("digits-run", "shapes-run"):
        shutil.copytree(DATA / name, folder / name)
    return folder


def make_once(prepared: Path, name: str, *words: str) -> Path:
    """A file or folder of `prepared`, made by a command if it is not there yet."""
    if not (prepared / name).exists():
        with inside(prepared):
            run_command(*words)
    return prepared / name


def run_for(command: str, prepared: Path) -> Path:
    """The run that a command is given."""
    name = next((run for marker, run in RUN_OF.items() if marker in command), "digits-run")
    words = ["train", *shlex.split(TRAINED.get(name, "")), "--out", name]
    return make_once(prepared, name, *words, *without_named(of_new_run(words), words))


def needs(command: str) -> str | None:
    """The path of the run that must be there before the command."""
    if re.match(r"alphabar (sample|edit|evaluate|likelihood|export) ", command):
        return command.split()[2]
    return "RUN" if re.search(r"info (RUN|CHECKPOINT)|--(resume|init|config)", command) else None


def provide(command: str, place: Path, prepared: Path) -> None:
    """Put into `place` what the command needs."""
    for path in prepared.iterdir():
        (place / path.name).symlink_to(path)
    if (run := needs(command)) is not None:
        shutil.copytree(run_for(command, prepared), place / run)
    if "--extractor" in command:
        words = ("extractor", "digits", "--pictures", "40", "--out", "x.safetensors")
        file = make_once(prepared, "x.safetensors", *words)
        shutil.copy(file, place / "x.safetensors")
    if "import" in command:
        file = make_once(prepared, "exported", "export", "digits-run", "exported", "--to", "diffusers", "--no-grid")
        shutil.copytree(file, place / "exported")
    if "picture.png" in command:
        file = make_once(
            prepared, "picture.png", "sample", "digits-run", "-n", "1", "--steps", "1", "--out", "picture.png"
        )
        shutil.copy(file, place / "picture.png")


def stand_in(command: str) -> str:
    """The command with every placeholder replaced."""
    for placeholder, value in STAND_INS.items():
        command = command.replace(placeholder, value)
    return command


def words_of(command: str) -> list[str]:
    """The words that run: those of the command with their stand-ins, and what makes it quick."""
    words = shlex.split(stand_in(command))[1:]
    appended = APPENDED.get(words[0], [])
    if words[0] == "train":
        appended = RESUMED if "--resume" in words else of_new_run(words)
    return words + without_named(appended, words)


def of_new_run(words: list[str]) -> list[str]:
    """What makes a training quick."""
    text = options(NARROW_TEXT) if "FOLDER" in words else []
    path = options({"data.path": "fashion"}) if "fashion-mnist" in words else []
    return [*NEW_RUN, *text, *path]


def without_named(appended: list[str], words: list[str]) -> list[str]:
    """The options to append, without those that the command names itself."""
    named = {word.partition("=")[0] for word in words} - {"--set"}
    named |= {"--steps"} if "--minutes" in words else set()
    pairs = zip(appended[::2], appended[1::2], strict=True)
    return [w for pair in pairs if pair[0] not in named and pair[1].partition("=")[0] not in named for w in pair]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_runs(command, prepared, tmp_path, monkeypatch, run_words):
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "place"
    place.mkdir()
    provide(command, place, prepared)
    monkeypatch.chdir(place)
    if "demo" in command:  # its hundred pictures in a hundred steps take long
        monkeypatch.setattr("alphabar.tasks.running.demo.SAMPLING_STEPS", 2)
    run_words(*words_of(command))


def test_the_list_holds_all_that_the_readmes_show():
    assert len(SNIPPETS) > 50
    assert [snippet for snippet in SNIPPETS if not is_listed(snippet)] == []


def is_listed(snippet: str) -> bool:
    """Whether a command is in the list, or a part of one stands in a command of the list."""
    if snippet.startswith("alphabar"):
        return snippet in COMMANDS
    part = re.compile(rf"(?<!\S){re.escape(snippet.removeprefix('... '))}(?!\S)")
    return any(part.search(command) for command in COMMANDS)
