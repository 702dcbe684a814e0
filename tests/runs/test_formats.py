"""Runs of format 1 called the class condition "label"; a run of format 2 may have a condition of each name."""

from __future__ import annotations

import json

import pytest
import torch

from alphabar.runs.checkpoint import open_checkpoint, save_checkpoint
from alphabar.runs.folder import RunFolder
from alphabar.settings.conditions import read_condition

from ..training.small import config, pictures

NUMBERS = {"classes": ["0", "1"], "kind": "class"}


def written(path, names: list[str], run_format: int) -> RunFolder:
    """A run with a checkpoint whose conditions have these names, as that format holds it."""
    run = RunFolder.create(path)
    settings = config(pictures()).model_copy(
        update={"conditions": {name: read_condition(name, NUMBERS) for name in names}}
    )
    run.write_config(settings)
    tensors = {f"encoders.kinds.{name}.embedding.weight": torch.full((1,), float(i)) for i, name in enumerate(names)}
    part = tensors | {"network.label.weight": torch.zeros(1)}
    optimizer = {f"exp_avg.{name}": tensor for name, tensor in part.items()}
    made = save_checkpoint(run, 1, settings, (1, 8, 8), "", {"model": part, "ema": part, "optimizer": optimizer})
    for file in (run.path / "run.json", made / "checkpoint.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"format": run_format}))
    return RunFolder.open(path)


@pytest.mark.parametrize(
    ("names", "run_format", "expected"),
    [(["label"], 1, ["class"]), (["label"], 2, ["label"]), (["class", "label"], 2, ["class", "label"])],
)
def test_only_format_1_has_its_conditions_renamed(tmp_path, names, run_format, expected):
    run = written(tmp_path / "run", names, run_format)
    checkpoint = open_checkpoint(run.latest_checkpoint())
    assert list(run.config.conditions) == list(checkpoint.config.conditions) == expected
    tensors = [f"encoders.kinds.{name}.embedding.weight" for name in expected]
    for part, prefix in (("model", ""), ("ema", ""), ("optimizer", "exp_avg.")):
        assert sorted(checkpoint.tensors(part)) == sorted(f"{prefix}{n}" for n in [*tensors, "network.label.weight"])
