"""Defects of the reading of pictures and pairs, of batches and of mirroring."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alphabar.data.conditioned import declared_folders
from alphabar.data.pictures import Rows
from alphabar.errors import DataError, UnusableData

from ..seeding import Defects

DEFECTS = Defects()
PAIRS, MAP = "data/test_conditions.py", "conditions/test_semantic_map.py"


@DEFECTS.seed("a wrong index skips its picture", "MapFiles.read", MAP, "ends_the_reading")
def _(original: Any) -> Any:
    def read(self: Any, *arguments: Any) -> Any:
        try:
            return original(self, *arguments)
        except UnusableData as error:
            raise DataError(str(error)) from None

    return read


@DEFECTS.seed("left and right stay in a mirrored map", "mirror", MAP, "left_and_right")
def _(original: Any) -> Any:
    return lambda values, mirrored, swap=None: original(values, mirrored)


@DEFECTS.seed("flip not applied to the map", "PictureSet.batch", PAIRS, "mirrors_picture_map_and_pair")
def _(original: Any) -> Any:
    def batch(self: Any, indices: np.ndarray, mirrored: np.ndarray | None = None) -> Any:
        return replace(original(self, indices, mirrored), cond=original(self, indices).cond)

    return batch


@DEFECTS.seed("protected pictures are mirrored", "PictureSet.batch", PAIRS, "protect")
def _(original: Any) -> Any:
    return lambda self, indices, mirrored=None: original(replace(self, fixed=None), indices, mirrored)


@DEFECTS.seed("text flipped by a preset", "choose_flip", PAIRS, "flip_is_off")
def _(original: Any) -> Any:
    return lambda values, conditions: original(values, {})


@DEFECTS.seed("words protect inside of other words", "words_pattern", PAIRS, "whole_words")
def _(original: Any) -> Any:
    return lambda words: re.compile("|".join(re.escape(word.casefold()) for word in words))


@DEFECTS.seed("memory counted apart", "allocate", "data/test_load.py", "shared_by")
def _(original: Any) -> Any:
    def allocate(shapes: Any, memory_gb: float | None, cache: Path | None) -> Any:
        return {name: original({name: shape}, memory_gb, cache)[name] for name, shape in shapes.items()}

    return allocate


@DEFECTS.seed("pairs matched by order", "find_pairs", PAIRS, "parallel_folders")
def _(original: Any) -> Any:
    def find_pairs(catalogue: Any, column: str, folder: str | None, usual: Any) -> Any:
        pairs = original(catalogue, column, folder, usual)
        if pairs is None or not pairs[0].startswith("folder "):
            return pairs
        paths = sorted((catalogue.folder / pairs[0].removeprefix("folder ")).rglob("*.*"))
        return pairs[0], lambda file: paths[catalogue.files.index(file)]

    return find_pairs


@DEFECTS.seed("a pair's path may lead out", "leads_out", PAIRS, "outside_of_the_folder")
def _(original: Any) -> Any:
    return lambda path: False


@DEFECTS.seed("pairs of any aspect", "check_same_aspect", PAIRS, "aspect")
def _(original: Any) -> Any:
    return lambda file, pair: None


@DEFECTS.seed("folders of the same names trained on", "list_pictures", PAIRS, "nobody_asked")
def _(original: Any) -> Any:
    return lambda folder, pairs: original(folder, declared_folders({}, folder))


@DEFECTS.seed("instance maps of any aspect", "aspects_differ", MAP, "an_instance_map")
def _(original: Any) -> Any:
    return lambda size, other: False


@DEFECTS.seed("values not split with their pictures", "subset", PAIRS, "both_sides")
def _(original: Any) -> Any:
    def first_values(name: str, chosen: Sequence[Any], data: Any) -> Any:
        return chosen if isinstance(chosen, Rows) else data.values[name][: len(chosen)]

    def subset(data: Any, mask: np.ndarray) -> Any:
        part = original(data, mask)
        return replace(part, values={name: first_values(name, chosen, data) for name, chosen in part.values.items()})

    return subset


@DEFECTS.seed("values left out of the fingerprint", "PictureSet.fingerprint", PAIRS, "fingerprint")
def _(original: Any) -> Any:
    def fingerprint(self: Any) -> str:
        return original(replace(self, values={name: np.zeros(values.shape) for name, values in self.values.items()}))

    return fingerprint


@DEFECTS.seed("files matched by order when asked", "match_by_name", "cli/test_conditions.py", "never_by_order")
def _(original: Any) -> Any:
    def match(files: Any) -> Any:
        return {name: files[name] if len(files[name]) > 1 else paths for name, paths in original(files).items()}

    return match
