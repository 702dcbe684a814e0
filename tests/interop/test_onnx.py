"""onnxruntime computes what the network does, for any batch; the metadata is enough to sample with numpy alone."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from alphabar.errors import ConfigurationError
from alphabar.generation.pipeline import Pipeline, load
from alphabar.interop.onnx_export import condition_inputs, export_onnx, sampler_facts
from alphabar.runs.checkpoint import find_checkpoint
from alphabar.samplers.base import seeded_noises

from .making import CLASSES, SEEDS, make_run

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_sampling.py"
SAME = 1e-4
ALL_DOORS = {
    "class": CLASSES["class"],
    "text": {"width": 32, "layers": 1},
    "map": {"classes": ["sky", "sea"], "colours": ["#0000ff", "#00ff00"]},
    "image": {"task": "super-resolution", "scale": 2},
}
CONTINUOUS = {"schedule": {"kind": "continuous_cosine"}, "diffusion": {"time": "log_snr", "prediction": "v"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def by_class(folder) -> Path:
    """A class-conditional model, (3, 9, 8), with its ONNX file beside it."""
    run = make_run(folder / "class", (3, 9, 8), conditions=CLASSES)
    export_onnx(run, folder / "class.onnx", licence="mit")
    return run


@pytest.fixture(scope="module")
def with_all(folder) -> Path:
    """A model with all kinds of conditions and a continuous schedule, with its ONNX file."""
    run = make_run(
        folder / "all",
        (3, 8, 8),
        conditions=ALL_DOORS,
        network={
            "channels": [8],
            "attention": [False],
        },  # there is attention to tokens in the middle; smaller exports faster
        **CONTINUOUS,
    )
    export_onnx(run, folder / "all.onnx", raw_weights=True)
    return run


def check_same(pipeline: Pipeline, path: Path, values: dict, n: int) -> None:
    """Of n random pictures with these conditions."""
    session, denoiser = onnxruntime.InferenceSession(path), pipeline.denoiser
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, *pipeline.shape, generator=generator)
    t = torch.rand(n, generator=generator, dtype=torch.float64)
    time = denoiser.network_time(t, x)
    with torch.no_grad():
        ours = denoiser.network(x, time, denoiser.encode(values, n)).numpy()
    inputs = {"x_t": x, "time": time, **condition_inputs(denoiser, values, n)}
    assert set(inputs) == {given.name for given in session.get_inputs()}
    theirs = session.run(["output"], {name: tensor.numpy() for name, tensor in inputs.items()})[0]
    assert theirs.shape == ours.shape
    assert float(np.abs(ours - theirs).max()) < SAME
    assert float(np.abs(ours).max()) > 0.1


@pytest.mark.parametrize("n", [1, 2, 5])
def test_onnxruntime_computes_the_same_for_any_batch(n, by_class, folder):
    pipeline = load(by_class, device="cpu")
    for labels in ([i % 4 for i in range(n)], [3] * n):
        check_same(pipeline, folder / "class.onnx", {"class": np.array(labels)}, n)
    check_same(pipeline, folder / "class.onnx", {}, n)


def test_all_doors_are_inputs(with_all, folder):
    pipeline = load(with_all, raw_weights=True, device="cpu")
    g = np.random.default_rng(0)
    for n in (1, 3):
        values = {
            "class": np.arange(n),
            "text": np.array(["a", "a longer caption", ""][:n], object),
            "map": g.integers(0, 3, (n, 8, 8, 1), dtype=np.uint8),
            "image": g.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8),
        }
        check_same(pipeline, folder / "all.onnx", values, n)
    check_same(pipeline, folder / "all.onnx", {}, 2)
    shapes = {given.name: given.shape for given in onnxruntime.InferenceSession(folder / "all.onnx").get_inputs()}
    assert set(shapes) == {"x_t", "time", "class", "vector", "tokens", "token_mask", "modulation", "concat"}
    assert isinstance(shapes["x_t"][0], str)
    assert shapes["x_t"][1:] == [3, 8, 8]


def test_the_facts_that_a_sampler_needs(tmp_path):
    run = make_run(tmp_path / "class", (3, 9, 8), conditions=CLASSES)
    found, denoiser = sampler_facts(load(run).denoiser, find_checkpoint(run)), load(run).denoiser
    assert found["shape"] == [3, 9, 8]
    assert found["classes"] == {"class": ["cat", "dog", "newt"]}
    assert found["null_class"] == {"class": 3}
    assert (found["prediction"], found["clip"], found["variance"]) == ("eps", "static", "posterior")
    np.testing.assert_array_equal(found["alpha_bars"], denoiser.schedule.alpha_bars)
    assert found["network_times"][1:] == list(range(50))


def test_the_facts_of_a_continuous_schedule(tmp_path):
    run = make_run(tmp_path / "all", (3, 8, 8), conditions=ALL_DOORS, **CONTINUOUS)
    found, denoiser = sampler_facts(load(run).denoiser, find_checkpoint(run)), load(run).denoiser
    assert len(found["alpha_bars"]) == len(found["network_times"]) == 1001
    assert found["alpha_bars"][500] == pytest.approx(float(denoiser.schedule.alpha_bar(0.5)))
    assert found["network_times"][500] == pytest.approx(500, abs=1e-3)  # half signal, half noise: log-SNR 0
    assert found["conditions"] == ["text", "map", "image"]


def test_the_metadata_hold_them(by_class, folder):
    session = onnxruntime.InferenceSession(folder / "class.onnx")
    found = json.loads(session.get_modelmeta().custom_metadata_map["alphabar"])
    own = {"weights": "ema", "model": find_checkpoint(by_class).hash("ema"), "license": "mit"}
    assert found == sampler_facts(load(by_class).denoiser, find_checkpoint(by_class)) | own


def test_the_file_holds_nothing_of_this_machine(by_class, folder):
    content = (folder / "class.onnx").read_bytes()
    assert b".py" not in content
    assert os.path.expanduser("~").encode() not in content
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)


# --- the example ------------------------------------------------------------------------------------------------------------------


def example():
    spec = importlib.util.spec_from_file_location("onnx_sampling", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_is_short_and_needs_numpy_and_onnxruntime_alone():
    text = EXAMPLE.read_text()
    assert len(text.splitlines()) <= 40
    tree = ast.parse(text)
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}


@pytest.mark.parametrize("steps", [50, 7])
def test_the_example_makes_the_pictures_of_the_pipeline(steps, by_class, folder):
    pipeline = load(by_class, device="cpu").with_settings(sampler="ancestral", steps=steps)
    ours = pipeline.sample(seeds=SEEDS).pictures.astype(int)
    noise = seeded_noises(SEEDS, (3, 9, 8))
    theirs = example().sample(folder / "class.onnx", 2, steps, lambda step: noise(step)().double().numpy())
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1  # a rounding apart


def test_the_example_runs_from_the_command_line(by_class, folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", str(folder / "class.onnx"), str(folder / "out.npy"), "3", "5"])
    exec(compile(EXAMPLE.read_text(), str(EXAMPLE), "exec"), {"__name__": "__main__"})
    pictures = np.load(folder / "out.npy")
    assert pictures.shape == (5, 9, 8, 3)
    assert len(np.unique(pictures.reshape(5, -1), axis=0)) == 5


@pytest.mark.parametrize("prediction", ["x_0", "v"])
def test_the_example_knows_every_prediction(prediction, folder, monkeypatch):
    """Whatever the network is: a session that answers with what a perfect one would say."""
    point, alpha_bar = 0.3, [1.0, 0.6, 0.2, 0.05]

    class Perfect:
        def __init__(self, path):
            pass

        def get_modelmeta(self):
            about = {"shape": [1, 2, 2], "classes": {}, "clip": "off", "prediction": prediction}
            about |= {"alpha_bars": alpha_bar, "network_times": [-1, 0, 1, 2]}
            return type("Meta", (), {"custom_metadata_map": {"alphabar": json.dumps(about)}})

        def run(self, names, inputs):
            x, a2 = inputs["x_t"].astype(float), alpha_bar[int(inputs["time"][0]) + 1]
            eps = (x - a2**0.5 * point) / (1 - a2) ** 0.5
            v = a2**0.5 * eps - (1 - a2) ** 0.5 * point
            mean = np.full_like(x, point) if prediction == "x_0" else v
            return [np.concatenate([mean, 100 * x], axis=1)]  # a learned variance stands behind the mean

    module = example()
    monkeypatch.setattr(module.onnxruntime, "InferenceSession", Perfect)
    assert (module.sample("", 4, 3) == round((point + 1) * 127.5)).all()


# --- refusals ---------------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_exported_is_refused_before_anything_is_written(tmp_path):
    points = make_run(tmp_path / "points", (2,), network={"kind": "mlp", "width": 8})
    with pytest.raises(ConfigurationError, match="makes points"):
        export_onnx(points, tmp_path / "x.onnx")
    named = make_run(tmp_path / "named", conditions={"time": {"kind": "class", "classes": ["day", "night"]}})
    with pytest.raises(ConfigurationError, match="class condition 'time' has the name of another input"):
        export_onnx(named, tmp_path / "x.onnx")
    for out in (tmp_path / "x.pt", tmp_path):
        with pytest.raises(ConfigurationError, match=r"needs a name that ends in .onnx"):
            export_onnx(points, out)
    assert sorted(os.listdir(tmp_path)) == ["named", "points"]


def test_nothing_is_written_over(by_class, tmp_path):
    (tmp_path / "x.onnx").write_text("mine")
    with pytest.raises(ConfigurationError, match="exists already"):
        export_onnx(by_class, tmp_path / "x.onnx")
    assert (tmp_path / "x.onnx").read_text() == "mine"


def test_without_its_packages_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'alphabar\[onnx\]'"):
        export_onnx(tmp_path, tmp_path / "x.onnx")
