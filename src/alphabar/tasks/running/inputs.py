"""From the options of a sampling request to the inputs of the conditions, the seeds and the guidance weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...data.decode import EXTENSIONS
from ...errors import ConfigurationError
from ..sample import SampleRequest

PARTNER = {"mask": "image", "instances": "map"}
"""Options whose files join those of another one to a pair."""


def inputs_of(request: SampleRequest, classes: Sequence[str]) -> dict[str, list[Any]]:
    """The inputs of each condition that the request names, in their order. Raises ConfigurationError."""
    inputs: dict[str, list[Any]] = {}
    if request.label is not None:
        inputs["class"] = parse_classes(request.label, classes)
    if request.prompt or request.prompts is not None:
        inputs["text"] = list(request.prompt) or read_prompts(Path(str(request.prompts)))
    inputs |= files_of(request)
    for text in request.cond:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigurationError(f"--cond takes NAME=VALUE, for example angle=30; got {text!r}")
        inputs.setdefault(name, []).append(value)
    return inputs


def files_of(request: SampleRequest) -> dict[str, list[Any]]:
    """The files of maps and images by condition; with masks and instances as pairs. Raises ConfigurationError."""
    files = {name: list_files(path, name) for name, path in (("map", request.map), ("image", request.image)) if path}
    for name, path in (("mask", request.mask), ("instances", request.instances)):
        if path is not None:
            if PARTNER[name] not in files:
                raise ConfigurationError(f"--{name} goes with --{PARTNER[name]}; give both")
            files[name] = list_files(path, name)
    matched: dict[str, list[Any]] = dict(match_by_name(files))
    for name, partner in PARTNER.items():
        if name in matched:
            matched[partner] = list(zip(matched[partner], matched.pop(name), strict=True))
    return matched


def parse_classes(text: str, classes: Sequence[str]) -> list[str]:
    """'cat' -> [cat]; 'cat:3,dog:2' -> [cat, cat, cat, dog, dog]. A class whose name holds : or , is matched whole, the longest first."""
    if text in classes or not classes:
        return [text]
    known = "|".join(re.escape(name) for name in sorted(classes, key=len, reverse=True))
    item = re.compile(rf"\s*({known}|[^,]*?)\s*(?::\s*([^,:]*?)\s*)?(,|\Z)", re.DOTALL)
    names: list[str] = []
    for name, number, comma in (match.groups() for match in item.finditer(text)):
        if number is not None and not (number.isdecimal() and int(number)):
            raise ConfigurationError(f"--class takes NAME, or NAME:3,OTHER:5; got {text!r}")
        names += [name] * int(number or 1)
        if not comma:
            break
    return names


def read_prompts(path: Path) -> list[str]:
    """One prompt a line; empty lines are passed over. Raises ConfigurationError."""
    try:
        prompts = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read prompts from {path}: {error}") from None
    if not prompts:
        raise ConfigurationError(f"{path} holds no prompts; give one a line")
    return prompts


def list_files(path: Path, name: str) -> list[Path]:
    """The file, or the pictures of the folder in the order of their names. Raises ConfigurationError if there are none."""
    if path.is_dir():
        pictures = sorted(p for p in path.iterdir() if p.suffix.lower() in EXTENSIONS and not p.name.startswith("."))
        if pictures:
            return pictures
        raise ConfigurationError(f"--{name}: there are no pictures in {path}")
    if not path.is_file():
        raise ConfigurationError(f"--{name}: {path} does not exist; give a picture or a folder of them")
    return [path]


def match_by_name(files: Mapping[str, list[Path]]) -> dict[str, list[Path]]:
    """Several folders matched by the names of their files, never by order; a single file goes with each file of the others."""
    many = {name: paths for name, paths in files.items() if len(paths) > 1}
    longest = max((len(paths) for paths in files.values()), default=0)
    if len(many) > 1:
        stems = {name: _by_stem(paths, name) for name, paths in many.items()}
        first, *others = stems
        for name in others:
            differ = sorted(set(stems[first]) ^ set(stems[name]))
            if differ:
                raise ConfigurationError(
                    f"--{first} and --{name} are matched by file name, but {differ[0]} is in one of them only"
                )
        many = {name: [by_stem[stem] for stem in sorted(by_stem)] for name, by_stem in stems.items()}
    return {name: many.get(name, paths * longest) for name, paths in files.items()}


def _by_stem(paths: Sequence[Path], name: str) -> dict[str, Path]:
    by_stem: dict[str, Path] = {}
    for path in paths:
        if path.stem in by_stem:
            raise ConfigurationError(
                f"--{name}: {by_stem[path.stem].name} and {path.name} have the same name but for its ending; keep one of them"
            )
        by_stem[path.stem] = path
    return by_stem


def spread(inputs: Mapping[str, list[Any]], n: int | None, default: int) -> tuple[int, dict[str, list[Any]]]:
    """The number of pictures, and the inputs in turn for each: as many pictures as the longest list has, or -n."""
    counts = {name: len(values) for name, values in inputs.items() if len(values) > 1}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise ConfigurationError(f"{listed}: they must be as many, or one for all")
    total = n or max(counts.values(), default=default)
    return total, {name: [values[i % len(values)] for i in range(total)] for name, values in inputs.items()}


def parse_guidance(text: str | None, by_name: Mapping[str, float | None]) -> tuple[Any, list[float] | None]:
    """(--guidance W, NAME=W,... and --guidance-NAME W as a setting, None if none is given; the weights of a list W1,W2,... for a grid)."""
    named = {name: weight for name, weight in by_name.items() if weight is not None}
    words, weights = text.split(",") if text is not None else [], list[float]()
    try:
        if all("=" in word for word in words):
            pairs = {name.strip(): float(weight) for name, _, weight in (word.partition("=") for word in words)}
            twice = sorted(set(pairs) & set(named))
            if twice:
                raise ConfigurationError(
                    f"the guidance of {twice[0]} is given twice; give --guidance or --guidance-{twice[0]}"
                )
            named |= pairs
        else:
            weights = [float(word) for word in words]
    except ValueError:
        raise ConfigurationError(
            f"--guidance takes a number, several for a grid like 1,2,4, or one by name like text=3,angle=2; got {text!r}"
        ) from None
    if named and weights:
        raise ConfigurationError("give --guidance for all conditions, or --guidance-NAME for each, not both")
    if len(weights) > 1:
        return None, weights
    return (weights[0] if weights else named or None), None


def parse_seeds(n: int | None, text: str) -> list[int]:
    """'0-3,7' -> [0, 1, 2, 3, 7]. Raises ConfigurationError if it is not such a list, or n disagrees with it."""
    seeds: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            seeds += range(int(first), int(last) + 1) if dash else [int(first)]
    except ValueError:
        seeds = []
    if not seeds:
        raise ConfigurationError(f"--seeds takes numbers and ranges, like 0-63 or 5,7,20-29; got {text!r}")
    if n is not None and n != len(seeds):
        raise ConfigurationError(f"-n {n} but {len(seeds)} seeds; leave -n out")
    return seeds


def parse_interval(text: str | None) -> tuple[float, float] | None:
    """'0.2,0.8' -> (0.2, 0.8). Raises ConfigurationError."""
    if text is None:
        return None
    try:
        low, high = (float(word) for word in text.split(","))
        return low, high
    except ValueError:
        raise ConfigurationError(f"--guidance-interval takes two times in 0..1, like 0.2,0.8; got {text!r}") from None
