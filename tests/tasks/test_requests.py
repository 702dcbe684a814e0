"""Requests: checked when they are made, the same as JSON and as a command, their options taken from the settings."""

from __future__ import annotations

import json
import shlex
import typing
from pathlib import Path

import pytest

import alphabar
from alphabar import tasks
from alphabar.cli import watch
from alphabar.errors import ConfigurationError
from alphabar.samplers.grids import GRIDS
from alphabar.samplers.methods import METHODS
from alphabar.settings.base import GridName, SamplerName, SampleSettings, VarianceName
from alphabar.settings.training import TrainSettings
from alphabar.tasks import (
    DemoRequest,
    DoctorRequest,
    EditRequest,
    EvaluateRequest,
    ExplainRequest,
    ExportRequest,
    ExtractorRequest,
    ImportRequest,
    InfoRequest,
    LikelihoodRequest,
    SampleRequest,
    SchemaRequest,
    SettingsRequest,
    TrainRequest,
)
from alphabar.tasks.fields import choices_of, constraints_of, help_of
from alphabar.tasks.registry import TASKS

from ..cli.running import run_command_line

REQUESTS = [
    SampleRequest(run="runs/mine", out="x.png", n=4),
    SampleRequest(
        run="a b", out="w.png", seeds=[3, 1], prompt=["a 'red' car", "--odd"], cond=["angle=30"], guidance={"text": 3.5, "angle": 2},
        guidance_interval=(0.1, 0.8), show_conditions=True, sampler="dpm++2m-sde", eta=0, device="cpu",
    ),
    SampleRequest(run="-strange", out="y.npy", label="cat:3,dog", guidance=[1, 2.5], guidance_class=0.1, raw_weights=True),
    TrainRequest(data="photos", out="runs/x", minutes=0.5, settings={"data.size": 64, "data.conditions": ["class"]}, flip=False),
    TrainRequest(out="runs/x", resume=True, steps=9, flip=True, seed=3, accept_changed_data=True),
    TrainRequest(config="c.yaml", out="r", cond="image", task="super-resolution", scale=2, precision="bfloat16", preset="quick"),
    EditRequest(run="r", out="o.png", image="a.png", strength=0.25, n=2, animate=True),
    EditRequest(run="r", out="o.png", seeds=(3, 8)),
    EvaluateRequest(what="r", n=16, by_steps=[5, 10], guidance=2, batch=4, split="training"),
    ExtractorRequest(data="d", out="e.safetensors", size=32, class_from="folder"),
    LikelihoodRequest(run="r", n=8, variance="beta", probes=3, out="l.json"),
    ExportRequest(run="r", out="o", to="onnx"),
    ExportRequest(run="r", out="o", to="diffusers", no_grid=True, license="mit"),
    ImportRequest(folder="f", out="r", size="8x12"),
    ExplainRequest(topic="posterior", t=3, lang="zh"),
    ExplainRequest(),
    InfoRequest(path="x.png"),
    SettingsRequest(prefix="train."),
    DoctorRequest(),
    DemoRequest(steps=3),
    SchemaRequest(task="train"),
]  # fmt: skip


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: shlex.join(r.command()[1:]))
def test_a_request_is_the_same_after_json_and_after_its_command(request_, monkeypatch, capsys):
    assert type(request_).model_validate_json(request_.model_dump_json()) == request_
    parsed: list[tasks.Request] = []
    monkeypatch.setattr(watch, "show", parsed.append)
    code, _, error = run_command_line(monkeypatch, capsys, *request_.command()[1:])
    assert code == 0, error
    assert parsed == [request_]


def test_a_command_names_only_what_differs_from_the_defaults():
    request = SampleRequest(run="runs/mine", out="x.png", n=4, guidance=2.0, device="auto")
    assert request.command() == ["alphabar", "sample", "runs/mine", "--out", "x.png", "-n", "4", "--guidance", "2"]
    assert TrainRequest(data="d", out="r", flip=False).command()[-1] == "--no-flip"
    assert InfoRequest(path="my run").command_line() == "alphabar info 'my run'"


def test_every_task_is_tried():
    assert {type(request).name for request in REQUESTS} == set(TASKS)
    for name, task in TASKS.items():
        assert task.request_class().name == name
        assert getattr(tasks, task.request) is task.request_class()
    assert alphabar.tasks is tasks


BAD = {
    "unknown key": (lambda: SampleRequest(run="r", out="o", stps=3), "unknown key 'stps' in SampleRequest; did you mean 'steps'"),
    "missing": (lambda: SampleRequest(run="r"), "out: field required"),
    "choice": (lambda: SampleRequest(run="r", out="o", sampler="dpm+2m"), "did you mean 'dpm++2m'"),
    "range": (lambda: SampleRequest(run="r", out="o", eta=2), "eta: input should be less than or equal to 1, got 2"),
    "no number": (lambda: SampleRequest(run="r", out="o", n="many"), "n: input should be a valid integer"),
    "seed and seeds": (lambda: SampleRequest(run="r", out="o", seed=1, seeds="2"), "--seed or --seeds, not both"),
    "nothing to train on": (lambda: TrainRequest(out="r"), "what should it train on?"),
    "two lengths": (lambda: TrainRequest(data="d", out="r", steps=1, minutes=1), "say the same thing twice"),
    "scale of nothing": (lambda: TrainRequest(data="d", out="r", scale=2), "--scale goes with --task super-resolution"),
    "grid of onnx": (lambda: ExportRequest(run="r", out="o", to="onnx", no_grid=True), "--no-grid is for --to diffusers"),
    "unknown task": (lambda: tasks.start(SchemaRequest(task="tran")), "unknown task 'tran'; did you mean 'train'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_refused_when_the_request_is_made(case):
    make, message = BAD[case]
    with pytest.raises(ConfigurationError) as error:
        make()
    assert message in str(error.value)


def test_a_request_is_frozen():
    request = InfoRequest(path="x")
    with pytest.raises(ValueError, match="frozen"):
        request.path = Path("y")


# --- settings stand once ------------------------------------------------------------------------------------------------------


def test_the_names_of_samplers_and_grids_are_those_that_exist():
    assert set(typing.get_args(SamplerName)) == {"auto", *METHODS}
    assert set(typing.get_args(GridName)) == set(GRIDS)
    for name in (*METHODS, *GRIDS):
        assert (
            name in SampleSettings.model_fields["sampler"].description + SampleSettings.model_fields["grid"].description
        )


@pytest.mark.parametrize("request_class", [task.request_class() for task in TASKS.values()], ids=list(TASKS))
def test_options_that_are_settings_agree_with_them(request_class):
    """In choices, limits and description."""
    for settings in (SampleSettings, TrainSettings):
        for name, field in settings.model_fields.items():
            option = request_class.model_fields.get(name)
            if option is None or not (option.description or "").startswith(field.description or "-"):
                continue
            assert choices_of(option.annotation) == choices_of(field.annotation), name
            assert constraints_of(option) == constraints_of(field), name
    names = {"sampler", "grid", "eta", "tolerance", "variance", "clip", "guidance_rescale", "guidance_interval"}
    for name in names & request_class.model_fields.keys():
        assert request_class.model_fields[name].description.startswith(SampleSettings.model_fields[name].description)


def test_choices_and_defaults_are_named_in_the_help():
    fields = SampleRequest.model_fields
    assert all(name in help_of(fields["sampler"]) for name in typing.get_args(SamplerName))
    assert all(name in help_of(fields["variance"]) for name in typing.get_args(VarianceName))
    assert help_of(fields["clip"]).endswith("or off. Default: static for pictures, off for points.")
    assert help_of(EvaluateRequest.model_fields["n"]).endswith("Default: 1000.")


# --- schema -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_the_schema_of_a_task_is_enough_for_a_form(name):
    schema = tasks.run(SchemaRequest(task=name)).data
    assert json.loads(json.dumps(schema)) == schema
    assert (schema["title"], schema["description"]) == (name, TASKS[name].summary)
    assert len(schema["examples"]) == 3
    properties = schema.get("properties", {})
    assert list(properties) == list(TASKS[name].request_class().model_fields)
    for field in properties.values():
        assert field["description"]
        assert field["panel"]


def test_the_schema_of_a_training_has_all_settings():
    schema = tasks.run(SchemaRequest(task="train")).data
    assert "learning_rate" in schema["settings"]["$defs"]["TrainSettings"]["properties"]
    assert schema["properties"]["flip"]["anyOf"] == [{"type": "boolean"}, {"type": "null"}]
    sampler = tasks.run(SchemaRequest(task="sample")).data["properties"]["sampler"]
    assert sampler["anyOf"][0]["enum"] == list(typing.get_args(SamplerName))
    assert sampler["metavar"] == "NAME"


def test_without_a_task_the_schema_lists_them():
    assert tasks.run(SchemaRequest()).data["tasks"].keys() == TASKS.keys()
