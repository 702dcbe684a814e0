"""What the options of `alphabar sample` ask for, as inputs of the conditions by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from ..generation.pipeline import Pipeline


GOES_WITH = {"mask": "image", "instances": "map"}
"""Options whose files join those of another one to a pair."""


@dataclass(frozen=True)
class Options:
    """The options as they were given."""

    label: str | None = None
    prompts: Sequence[str] = ()
    prompts_file: Path | None = None
    map: Path | None = None
    image: Path | None = None
    mask: Path | None = None
    instances: Path | None = None
    own: Sequence[str] = ()


def inputs_of(options: Options, pipeline: Pipeline) -> dict[str, list[Any]]:
    """The inputs of each condition that is asked for, in their order. Raises ConfigurationError."""
    found: dict[str, list[Any]] = {}
    if options.label is not None:
        found["class"] = parse_classes(options.label, pipeline.classes)
    if options.prompts and options.prompts_file is not None:
        raise ConfigurationError("give --prompt or --prompts, not both")
    if options.prompts or options.prompts_file is not None:
        found["text"] = list(options.prompts) or read_prompts(Path(str(options.prompts_file)))
    files = {name: list_files(path, name) for name, path in (("map", options.map), ("image", options.image)) if path}
    for name, path in (("mask", options.mask), ("instances", options.instances)):
        if path is not None:
            if GOES_WITH[name] not in files:
                raise ConfigurationError(f"--{name} goes with --{GOES_WITH[name]}; give both")
            files[name] = list_files(path, name)
    matched: dict[str, list[Any]] = dict(match_by_name(files))
    for name, other in GOES_WITH.items():
        if name in matched:
            matched[other] = list(zip(matched[other], matched.pop(name), strict=True))
    found |= matched
    for text in options.own:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigurationError(f"--cond takes NAME=VALUE, for example angle=30; got {text!r}")
        found.setdefault(name, []).append(value)
    return found


def parse_classes(text: str, classes: Sequence[str]) -> list[str]:
    """'cat' -> [cat]; 'cat:3,dog:2' -> [cat, cat, cat, dog, dog]. A class whose own name holds : or , is known by it, the longest first."""
    if text in classes or not classes:
        return [text]
    known = "|".join(re.escape(name) for name in sorted(classes, key=len, reverse=True))
    item = re.compile(rf"\s*({known}|[^,]*?)\s*(?::\s*([^,:]*?)\s*)?(,|\Z)", re.DOTALL)
    found: list[str] = []
    for name, number, comma in (match.groups() for match in item.finditer(text)):
        if number is not None and not (number.isdecimal() and int(number)):
            raise ConfigurationError(f"--class takes NAME, or NAME:3,OTHER:5; got {text!r}")
        found += [name] * int(number or 1)
        if not comma:
            break
    return found


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
    from ..data.decode import EXTENSIONS

    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in EXTENSIONS and not p.name.startswith("."))
        if found:
            return found
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
        many = {name: [own[stem] for stem in sorted(own)] for name, own in stems.items()}
    return {name: many.get(name, paths * longest) for name, paths in files.items()}


def _by_stem(paths: Sequence[Path], name: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        if path.stem in found:
            raise ConfigurationError(
                f"--{name}: {found[path.stem].name} and {path.name} have the same name but for its ending; keep one of them"
            )
        found[path.stem] = path
    return found


def spread(found: Mapping[str, list[Any]], n: int | None, default: int) -> tuple[int, dict[str, list[Any]]]:
    """The number of pictures, and the inputs in turn for each: as many pictures as the longest list has, or -n."""
    counts = {name: len(inputs) for name, inputs in found.items() if len(inputs) > 1}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise ConfigurationError(f"{told}: they must be as many, or one for all")
    total = n or max(counts.values(), default=default)
    return total, {name: [inputs[i % len(inputs)] for i in range(total)] for name, inputs in found.items()}


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
