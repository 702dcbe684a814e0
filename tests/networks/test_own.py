"""A network of one's own, the transformer of the pages, does what a built-in network does; only the user can load its file."""

from __future__ import annotations

import pickle
import shutil
import sys
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from PIL import Image

import alphabar
from alphabar.diffusion.denoiser import Denoiser
from alphabar.errors import CheckpointError, ConfigurationError, MissingRegistration
from alphabar.generation.pipeline import Pipeline
from alphabar.model import build_denoiser
from alphabar.networks import NETWORKS, Cond, Doors
from alphabar.networks.base import end_weights
from alphabar.runs.checkpoint import save_checkpoint
from alphabar.runs.folder import RunFolder
from alphabar.settings.config import finish

from ..cli.running import run_command_line
from ..registering import registrations_forgotten

M = TypeVar("M", bound=torch.nn.Module)
TRANSFORMER = Path(__file__).parents[2] / "docs" / "snippets" / "transformer.py"
PLUGIN = ("--plugin", TRANSFORMER)
SETTINGS = {
    "network.kind": "transformer", "network.heads": 1, "network.layers": 2, "data.conditions": ["class"], "schedule.steps": 25,
    "train.batch_size": 8, "train.preview_pictures": 2, "train.preview_steps": 2,
}  # fmt: skip
SETS = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}".replace("'", ""))]


@pytest.fixture(autouse=True)
def _forgotten():
    with registrations_forgotten():
        yield


@pytest.fixture
def command(monkeypatch, capsys):
    """Run a command line in which the transformer is registered only if the command names its file."""

    def run(*arguments: object) -> tuple[int, str]:
        with registrations_forgotten():
            code, out, error = run_command_line(monkeypatch, capsys, *arguments)
        return code, " ".join((out + error).split())

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of three steps, from Python. Nobody writes to it."""
    folder = tmp_path_factory.mktemp("own") / "run"
    with registrations_forgotten():
        alphabar.load_plugin(TRANSFORMER)
        for _ in alphabar.train("digits", out=folder, steps=3, settings=SETTINGS):
            pass
    return folder


@pytest.fixture
def transformer():
    """The plugin as a module."""
    return alphabar.load_plugin(TRANSFORMER)


def awake(module: M) -> M:
    """The module with random weights where it starts with zeros."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return module


# --- it does what a built-in network does --------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_command_line_trains_it_and_goes_on(optimizer, command, tmp_path):
    sets, run = [*SETS, "--set", f"train.optimizer={optimizer}"], tmp_path / "run"
    code, text = command("train", "digits", "--out", run, "--steps", 2, *sets, *PLUGIN)
    assert code == 0, text
    code, text = command("train", "digits", "--out", run, "--resume", "--steps", 4, *PLUGIN)
    assert code == 0, text
    assert command("train", "digits", "--out", tmp_path / "whole", "--steps", 4, *sets, *PLUGIN)[0] == 0
    alphabar.load_plugin(TRANSFORMER)
    resumed, whole = weights(run), weights(tmp_path / "whole")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    assert any("blocks.1" in name for name in whole)


def test_the_command_line_fine_tunes_it(trained, command, tmp_path):
    code, text = command("train", "digits", "--out", tmp_path / "tuned", "--init", trained, "--steps", 1, *PLUGIN)
    assert code == 0, text
    alphabar.load_plugin(TRANSFORMER)
    before, after = weights(trained), weights(tmp_path / "tuned")
    assert before.keys() == after.keys()
    assert all(
        torch.allclose(after[name], tensor, atol=0.05) for name, tensor in before.items()
    )  # a step moves them little
    assert not torch.equal(after["network.last.weight"], before["network.last.weight"])


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The averaged weights of the newest checkpoint."""
    return alphabar.load(run).denoiser.state_dict()


def test_the_command_line_samples_and_describes_it(trained, command, tmp_path):
    sample = ("sample", trained, "--seeds", "3,8", "--steps", 3, "--class", "7", *PLUGIN)
    for name in ("a.npz", "b.npz"):
        code, text = command(*sample, "--out", tmp_path / name)
        assert code == 0, text
    first, second = (np.load(tmp_path / name)["images"] for name in ("a.npz", "b.npz"))
    assert first.shape == (2, 8, 8, 1)
    assert np.array_equal(first, second)
    assert not np.array_equal(first[0], first[1])
    code, text = command("info", trained, *PLUGIN, *PLUGIN)
    assert code == 0, text
    assert "last step 3" in text


def save_awake(folder: Path) -> Denoiser:
    """A denoiser with random weights, saved as a run in this folder."""
    classes = {"class": {"classes": ["cat", "dog", "newt"]}}
    settings = finish({"network": {"kind": "transformer", "heads": 1, "layers": 2}, "conditions": classes}, (8, 8))
    denoiser = awake(build_denoiser(settings, (1, 8, 8)))
    run = RunFolder.create(folder, "made by a test")
    run.write_config(settings)
    weights = {"model": denoiser.state_dict(), "ema": denoiser.state_dict(), "optimizer": {}}
    save_checkpoint(run, 6, settings, (1, 8, 8), "", weights)
    return denoiser


def test_the_same_seeds_make_the_same_pictures_before_and_after_saving(transformer, tmp_path):
    before = Pipeline(save_awake(tmp_path / "run"), (1, 8, 8)).with_settings(steps=3).sample(seeds=[5, 9])
    after = alphabar.load(tmp_path / "run", device="cpu").with_settings(steps=3).sample(seeds=[5, 9])
    assert np.array_equal(before.pictures, after.pictures)
    assert not np.array_equal(before.pictures[0], before.pictures[1])


def test_nothing_is_pickled(transformer, trained, tmp_path, monkeypatch):
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("something is unpickled")

    for owner, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(owner, name, refuse)
    alphabar.load(trained).with_settings(steps=2).sample(1)
    files = {path.suffix for path in (trained / "checkpoints").rglob("*") if path.is_file()}
    assert files == {".json", ".safetensors"}


def test_onnx_computes_the_same_and_diffusers_refuses(transformer, command, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    denoiser, run = save_awake(tmp_path / "run").eval(), tmp_path / "run"
    code, text = command("export", run, tmp_path / "x.onnx", "--to", "onnx", *PLUGIN)
    assert code == 0, text
    inference = runtime.InferenceSession(tmp_path / "x.onnx")
    for n in (1, 3):
        x, time, labels = torch.randn(n, 1, 8, 8), torch.arange(n) * 7.0, np.arange(n)
        with torch.no_grad():
            ours = denoiser.network(x, time, denoiser.encode({"class": labels}, n)).numpy()
        (theirs,) = inference.run(["output"], {"x_t": x.numpy(), "time": time.numpy(), "class": labels})
        assert np.abs(ours).max() > 0.1
        assert np.abs(theirs - ours).max() < 1e-4  # rounding errors: sums in another order
    code, text = command("export", run, tmp_path / "d", "--to", "diffusers", *PLUGIN)
    assert code == 2
    assert "network.kind=transformer is a network of its own (use --to onnx)" in text
    assert not (tmp_path / "d").exists()


def test_muon_leaves_its_ends_alone(transformer):
    network = transformer.Transformer(transformer.TransformerSettings(heads=1), 1, 1, Doors())
    ends = end_weights(network)
    assert {name for name, weight in network.named_parameters() if weight in ends} == {
        "first.weight", "first.bias", "last.weight", "last.bias",
    }  # fmt: skip


# --- the network of the page ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", ["x", "time", "vector", "concat"])
def test_every_door_reaches_the_output_item_by_item(door, transformer):
    settings = transformer.TransformerSettings(heads=1, layers=2)
    network = awake(transformer.Transformer(settings, 3, 6, Doors(concat=2)))
    inputs = {"x": torch.randn(2, 3, 8, 4), "time": torch.tensor([3.0, 40.0])}
    inputs |= {"vector": torch.randn(2, 16), "concat": torch.randn(2, 2, 8, 4)}

    def output(values: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            return network(values["x"], values["time"], Cond(vector=values["vector"], concat=values["concat"]))

    changed = {**inputs, door: torch.stack([inputs[door][0], inputs[door][1] + 1])}
    difference = (output(changed) - output(inputs)).abs().flatten(1).amax(1)
    assert output(inputs).shape == (2, 6, 8, 4)
    assert difference[0] < 1e-4
    assert difference[1] > 1e-3


def test_each_patch_sees_all_others_and_knows_its_place(transformer):
    network = awake(transformer.Transformer(transformer.TransformerSettings(heads=1), 1, 1, Doors()))
    x, time = torch.zeros(1, 1, 8, 8), torch.zeros(1)
    with torch.no_grad():
        even = network(x, time, Cond())
        x[0, 0, 0, 0] = 2
        assert (network(x, time, Cond()) - even)[0, 0, 6:, 6:].abs().max() > 1e-4
    patches = torch.nn.functional.pixel_unshuffle(even, 2)[0].flatten(1).T
    assert torch.cdist(patches, patches).fill_diagonal_(9).min() > 1e-4


def test_a_missing_picture_is_nothing_known(transformer):
    network = awake(transformer.Transformer(transformer.TransformerSettings(heads=1), 1, 1, Doors(concat=2)))
    x, time = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 40.0])
    with torch.no_grad():
        assert torch.equal(network(x, time, Cond()), network(x, time, Cond(concat=torch.zeros(2, 2, 8, 8))))


def test_shapes_and_doors_that_do_not_fit_are_refused(transformer):
    settings = finish({"network": {"kind": "transformer", "patch": 3}}, (8, 8))
    with pytest.raises(
        ConfigurationError, match=r"multiples of network.patch=3, got \(1, 8, 8\); choose another patch"
    ):
        build_denoiser(settings, (1, 8, 8))
    with pytest.raises(ConfigurationError, match=r"takes pictures \(C, H, W\).* got \(2,\)"):
        build_denoiser(settings, (2,))
    by_map = {"map": {"classes": ["sky", "sea"], "colours": ["#0000ff", "#00ff00"]}}
    network = {"kind": "transformer"}
    expected = "network.kind=transformer takes conditions by concat and vector only, these need modulation; use network.kind=unet"
    with pytest.raises(ConfigurationError, match=expected):
        build_denoiser(finish({"network": network, "conditions": by_map}, (8, 8)), (1, 8, 8))
    beside = {"map": {**by_map["map"], "door": "concat"}}
    assert build_denoiser(finish({"network": network, "conditions": beside}, (8, 8)), (1, 8, 8)).network.concat == 2


def test_its_settings_are_checked_by_name(command, tmp_path):
    code, text = command("train", "digits", "--out", tmp_path / "x", *SETS, "--set", "network.headss=2", *PLUGIN)
    assert code == 2
    assert "did you mean 'network.heads'?" in text
    code, text = command("train", "digits", "--out", tmp_path / "x", *SETS, "--set", "network.patch=0", *PLUGIN)
    assert code == 2
    assert "network.patch" in text


# --- a stranger's run folder ----------------------------------------------------------------------------------------------------


def extractor(folder: Path) -> Path:
    """A file of something that sees pictures."""
    path = folder.parent / f"{folder.name}.pt"
    torch.jit.save(torch.jit.script(torch.nn.Flatten()), path)
    return path


def opening(run: Path, out: Path) -> list[tuple[object, ...]]:
    """All commands that open a run."""
    return [
        ("sample", run, "--out", out / "x.png"),
        ("info", run),
        ("info", run / "checkpoints" / "step-3"),
        ("evaluate", run, "--extractor", extractor(out)),
        ("likelihood", run),
        ("export", run, out / "x.onnx", "--to", "onnx"),
        ("export", run, out / "x", "--to", "diffusers"),
        ("edit", run, "--image", out / "in.png", "--strength", "0.5", "--out", out / "x.png"),
        ("train", "digits", "--out", run, "--resume", "--steps", 4),
        ("train", "digits", "--out", out / "x", "--init", run, "--steps", 1),
        ("train", "digits", "--out", out / "x", "--config", run / "config.yaml", "--steps", 1),
    ]


@pytest.mark.parametrize("number", range(11))
def test_without_the_plugin_every_command_says_which_registration_is_missing(number, trained, command, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "in.png")
    code, text = command(*opening(trained, tmp_path)[number])
    assert code == 2
    assert "network.kind: 'transformer' is not registered" in text
    assert "--plugin FILE.py" in text
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


def test_without_the_plugin_python_says_which_registration_is_missing(trained, tmp_path):
    for open_run in (
        alphabar.load,
        lambda run: alphabar.prepare(None, run, resume=True, steps=4),
        lambda run: alphabar.prepare("digits", tmp_path / "x", init=run, steps=1),
    ):
        with pytest.raises(MissingRegistration, match=r"'transformer' is not registered.*--plugin FILE\.py"):
            open_run(trained)


@pytest.mark.parametrize(
    "kind", ["evil", "evil.Network", "os.system", "./evil.py", "evil:Network", "alphabar_plugin_evil"]
)
def test_a_run_folder_imports_nothing(kind, trained, command, tmp_path, monkeypatch):
    """Neither a module beside it, nor a module of the kind's name, whatever the folder that the command runs in."""
    Image.new("L", (8, 8)).save(tmp_path / "in.png")
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    for path in [run / "config.yaml", *run.rglob("checkpoint.json")]:
        text = path.read_text()
        assert "transformer" in text
        path.write_text(text.replace("transformer", kind))
    for folder in (run, run / "checkpoints" / "step-3"):
        (folder / "evil.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    monkeypatch.chdir(run)
    monkeypatch.syspath_prepend(str(run))
    commands = opening(run, tmp_path)
    for arguments in commands:  # what the commands import by themselves is imported now
        command(*(trained if word == run else word for word in arguments))
    before = set(sys.modules)
    for arguments in commands:
        code, text = command(*arguments)
        assert code == 2, text
        assert f"network.kind: {kind!r} is not registered" in text
    assert set(sys.modules) == before
    assert not (tmp_path / "imported").exists()


def test_another_network_under_the_same_name_does_not_take_the_weights(transformer, trained):
    class Transformer(transformer.Transformer):
        def __init__(self, settings, in_channels, out_channels, doors):
            super().__init__(settings, in_channels, out_channels, doors)
            self.extra = torch.nn.Linear(2, 2)

    NETWORKS["transformer"] = type(NETWORKS["transformer"])(transformer.TransformerSettings, Transformer)
    with pytest.raises(CheckpointError, match=r"does not fit the network of its own configuration: .*extra"):
        alphabar.load(trained)
