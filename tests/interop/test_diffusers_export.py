"""What is exported to diffusers makes the same pictures there from the same noise; what cannot is refused before it is written."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from alphabar import storage as atomic
from alphabar.diffusion.schedule import build_schedule
from alphabar.errors import ConfigurationError, StorageError
from alphabar.generation.pipeline import load
from alphabar.interop.diffusers_export import Export, export_notes, write_export
from alphabar.interop.scheduler_config import to_scheduler_config

from ..training.small import config
from .making import CLASSES, SEEDS, ancestral, make_run, same_noise  # noqa: F401

diffusers = pytest.importorskip("diffusers")

CUSTOM = np.linspace(0.01, 0.3, 12).tolist()
WHOLE_RUN = 1e-4  # the largest difference of a sampling run in float32


def export(run: Path, out: Path, **options: object) -> Path:
    """The pipeline folder of a run, without samples."""
    write_export(Export.open(run, **options), out)  # type: ignore[arg-type]
    return out


def diffusers_pictures(folder: Path, steps: int) -> torch.Tensor:
    """What DDPMPipeline makes, as float32 in [-1, 1]."""
    pipeline = diffusers.DDPMPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(batch_size=len(SEEDS), num_inference_steps=steps, output_type="np").images
    return torch.from_numpy(made).permute(0, 3, 1, 2) * 2 - 1


ADM = {"time_mode": "scale_shift", "head_channels": 4, "down_padding": "after", "norm_eps": 1e-6}
OTHER = {"sine_first": False, "frequency_shift": 0, "middle_attention": False, "blocks": 2, "dropout": 0.1}
CASES = {
    "linear": {},
    "a stride": {"steps": 7},
    "by the beta": {"sample": {"variance": "beta"}},
    "learned variance": {"diffusion": {"learned_variance": True}},
    "another network": {"network": ADM, "shape": (3, 8, 8)},
    "one more network": {"network": OTHER, "shape": (4, 8, 8)},
    "not square": {"shape": (3, 8, 12)},
    "scaled linear": {"schedule": {"kind": "scaled_linear", "beta_start": 8.5e-4, "beta_end": 0.012}},
    "cosine, v": {"schedule": {"kind": "cosine", "steps": 20}, "diffusion": {"prediction": "v"}, "steps": 20},
    "cosine, eps": {"schedule": {"kind": "cosine", "steps": 20}, "steps": 20},
    "sigmoid": {"schedule": {"kind": "sigmoid", "steps": 20}, "diffusion": {"prediction": "x_0"}, "steps": 20},
    "custom": {"schedule": {"kind": "custom", "betas": CUSTOM, "steps": 12}, "steps": 12},
    "zero terminal SNR": {"schedule": {"zero_terminal_snr": True}, "diffusion": {"prediction": "v"}},
    "dynamic clipping": {"sample": {"clip": "dynamic", "dynamic_quantile": 0.9}},
    "no clipping": {"sample": {"clip": "off"}, "diffusion": {"prediction": "v"}},
    "leading": {"sample": {"grid": "leading"}, "steps": 7},
    "linspace": {"sample": {"grid": "linspace"}, "steps": 7},
}


@pytest.mark.parametrize("case", CASES)
def test_ddpm_pipeline_makes_the_same_pictures(case, tmp_path, same_noise):  # noqa: F811
    sections = dict(CASES[case])
    steps, shape = sections.pop("steps", 50), sections.pop("shape", (1, 8, 8))
    run = make_run(tmp_path / "run", shape, **sections)
    ours = ancestral(run, steps)
    folder = export(run, tmp_path / "out")
    same_noise(shape)
    theirs = diffusers_pictures(folder, steps)
    assert float((ours.clamp(-1, 1) - theirs).abs().max()) < WHOLE_RUN
    assert float(ours.std()) > 0.05


def test_the_table_of_a_thousand_steps_as_published(tmp_path, same_noise):  # noqa: F811
    network = {"channels": [8], "attention": [True]}
    run = make_run(tmp_path / "run", (3, 4, 4), schedule={"steps": 1000}, network=network)
    ours = ancestral(run, 250)
    same_noise((3, 4, 4))
    theirs = diffusers_pictures(export(run, tmp_path / "out"), 250)
    assert float((ours.clamp(-1, 1) - theirs).abs().max()) < WHOLE_RUN


@pytest.mark.parametrize("time_mode", ["add", "scale_shift"])
def test_unet2dmodel_with_class_labels_makes_the_same_pictures(time_mode, tmp_path, same_noise):  # noqa: F811
    run = make_run(tmp_path / "run", conditions=CLASSES, network={"time_mode": time_mode})
    folder = export(run, tmp_path / "out")
    unet = diffusers.UNet2DModel.from_pretrained(folder / "unet")
    scheduler = diffusers.DDPMScheduler.from_pretrained(folder / "scheduler")
    assert unet.config.num_class_embeds == 4
    for labels, numbers in ((["newt", "cat"], [2, 0]), ([None, None], [3, 3])):
        draw = same_noise((1, 8, 8))
        x, classes = draw(), torch.tensor(numbers)
        scheduler.set_timesteps(50)
        with torch.no_grad():
            for t in scheduler.timesteps:
                x = scheduler.step(unet(x, t, class_labels=classes).sample, t, x).prev_sample
        ours = ancestral(run, 50, labels)
        assert float((ours - x).abs().max()) < WHOLE_RUN
    other = ancestral(run, 50, ["cat", "cat"])
    assert float((other - ours).abs().max()) > 0.01  # or the classes would prove nothing


def test_a_class_condition_of_another_name_is_the_class_too(tmp_path):
    run = make_run(tmp_path / "run", conditions={"species": CLASSES["class"] | {"kind": "class"}})
    unet = diffusers.UNet2DModel.from_pretrained(export(run, tmp_path / "out") / "unet")
    table = load(run).denoiser.encoders["species"].embedding.weight
    assert torch.equal(unet.class_embedding.weight, table)


def test_the_average_is_exported_unless_the_weights_of_training_are_asked_for(tmp_path, same_noise):  # noqa: F811
    run = make_run(tmp_path / "run")
    raw = export(run, tmp_path / "raw", raw_weights=True, checkpoint="6")
    same_noise((1, 8, 8))
    theirs = diffusers_pictures(raw, 50)
    assert float((ancestral(run, 50, raw_weights=True).clamp(-1, 1) - theirs).abs().max()) < WHOLE_RUN
    assert float((ancestral(run, 50).clamp(-1, 1) - theirs).abs().max()) > 0.01
    assert "the weights of training, step-6" in (raw / "README.md").read_text()


def test_diffusers_takes_every_field_and_every_weight(tmp_path, caplog):
    folder = export(make_run(tmp_path / "run", conditions=CLASSES), tmp_path / "out")
    diffusers.logging.enable_propagation()
    try:
        _, report = diffusers.UNet2DModel.from_pretrained(folder / "unet", output_loading_info=True)
        diffusers.DDPMScheduler.from_pretrained(folder / "scheduler")
    finally:
        diffusers.logging.disable_propagation()
    assert not any(report.values()), report
    assert "not expected" not in caplog.text
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "DDPMPipeline"
    assert set(os.listdir(folder)) == {"README.md", "model_index.json", "scheduler", "unet"}


BY_NAME = {
    "linear": ({"kind": "linear"}, "linear"),
    "another T": ({"kind": "linear", "steps": 400}, "linear"),
    "scaled": ({"kind": "scaled_linear", "beta_end": 0.012, "steps": 500}, "scaled_linear"),
    "cosine": ({"kind": "cosine", "steps": 300}, "squaredcos_cap_v2"),
    "sigmoid": ({"kind": "sigmoid"}, None),
    "zero SNR": ({"kind": "linear", "zero_terminal_snr": True}, None),
    "custom": ({"kind": "custom", "betas": CUSTOM, "steps": 12}, None),
}


@pytest.mark.parametrize("case", BY_NAME)
def test_a_schedule_goes_by_name_where_diffusers_means_the_same_by_it(case):
    values, name = BY_NAME[case]
    settings = config(schedule={"steps": 1000} | values, diffusion={"prediction": "v"})
    found = to_scheduler_config(settings.schedule, settings.diffusion, settings.sample)
    assert (found["trained_betas"] is None) == (name is not None)
    assert found["beta_schedule"] == (name or "linear")
    theirs = diffusers.DDPMScheduler.from_config(found)
    ours = build_schedule(settings.schedule)
    torch.testing.assert_close(theirs.betas.double(), ours.beta, rtol=0, atol=1e-7)  # theirs are float32
    torch.testing.assert_close(theirs.alphas_cumprod.double(), ours.alpha_bars[1:], rtol=0, atol=1e-6)


# --- the model card ---------------------------------------------------------------------------------------------------------------


def run_snippet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the code of a card from where its folder lies."""
    monkeypatch.chdir(folder.parent)
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.S)[1]
    found: dict = {}
    exec(code, found)
    assert [picture.size for picture in found["pictures"]] == [(8, 8)] * 4


def head(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def test_the_card_of_an_unconditional_model(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", (3, 8, 8), schedule={"steps": 30}, data={"source": "/home/me/secret/cats"})
    data = {"source": "/home/me/secret/cats", "count": 321, "sizes": "40x60 to 90x100"}
    (run / "data.json").write_text(json.dumps(data))
    model = Export.open(run)
    write_export(model, tmp_path / "cats", "cc-by-4.0", model.sample_grid())
    text = (tmp_path / "cats" / "README.md").read_text()
    assert head(tmp_path / "cats")["license"] == "cc-by-4.0"
    assert set(head(tmp_path / "cats")["tags"]) == {"diffusers", "alphabar", "unconditional-image-generation"}
    for expected in (
        "Data: cats, 321 pictures of 40x60 to 90x100.",
        "6 steps of 8 pictures",
        "8x8 pixels in colour",
        "kind: linear",
    ):
        assert expected in text
    assert "secret" not in text
    assert re.search(r"!\[16 samples, [\w+-]+ in 30 steps\]\(samples.png\)", text)
    with Image.open(tmp_path / "cats" / "samples.png") as image:
        assert image.mode == "RGB"
    run_snippet(tmp_path / "cats", monkeypatch)


def test_the_card_of_a_conditional_model(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", conditions=CLASSES, schedule={"steps": 30})
    folder = export(run, tmp_path / "by class")
    assert head(folder)["license"] == "unknown"
    assert head(folder)["alphabar"]["classes"] == ["cat", "dog", "newt"]
    assert "class-conditional" in head(folder)["tags"]
    text = (folder / "README.md").read_text()
    assert "0 cat, 1 dog, 2 newt. Number 3 is the null class" in text
    assert "samples.png" not in text
    run_snippet(folder, monkeypatch)


def test_many_classes_and_own_betas_do_not_flood_the_card(tmp_path):
    classes = {"class": {"classes": [f"kind {i}" for i in range(100)]}}
    run = make_run(tmp_path / "run", conditions=classes, schedule={"kind": "custom", "betas": CUSTOM, "steps": 12})
    text = (export(run, tmp_path / "out") / "README.md").read_text()
    assert "29 kind 29 ... 99 kind 99. Number 100 is" in text
    assert "betas: (12 numbers" in text


def test_what_carries_over_differently_is_said():
    notes = " ".join(
        export_notes(
            config(
                sample={"sampler": "ddim", "guidance": 2.0},
                diffusion={"learned_variance": True},
                conditions=CLASSES,
                train={"precision": "bfloat16"},
            )
        )
    )
    for expected in (
        "sampler=ddim is not carried over",
        "take all 50 steps",
        "guidance is not",
        "computes this network in bfloat16",
    ):
        assert expected in notes
    kept = export_notes(config(sample={"variance": "posterior"}, diffusion={"learned_variance": True}))
    assert kept[0].startswith("sample.variance=posterior is not carried over")
    assert not export_notes(config())


# --- refusals ---------------------------------------------------------------------------------------------------------------------

MAP = {"map": {"classes": ["sky", "sea"], "colours": ["#0000ff", "#00ff00"]}}
REFUSED = {
    "map": ((1, 8, 8), {"conditions": MAP}, r"condition map \(map\) has no door in UNet2DModel"),
    "text": ((1, 8, 8), {"conditions": {"text": {"width": 32, "layers": 1}}}, r"condition text \(text\) has no door"),
    "own name": ((1, 8, 8), {"conditions": {"scene": MAP["map"] | {"kind": "map"}}}, r"condition scene \(map\)"),
    "two classes": (
        (1, 8, 8),
        {"conditions": CLASSES | {"style": {"kind": "class", "classes": ["oil"]}}},
        "one class embedding, this model has the class conditions class, style",
    ),
    "patches": ((1, 8, 8), {"network": {"patch": 2}}, "network.patch=2: UNet2DModel works on pixels"),
    "odd size": ((1, 9, 8), {}, "needs sizes that are multiples of 2, these pictures are 9x8"),
    "points": ((2,), {"network": {"kind": "mlp", "width": 8}}, "makes points"),
    "continuous": (
        (1, 8, 8),
        {"schedule": {"kind": "continuous_cosine"}, "diffusion": {"time": "log_snr"}},
        "continuous_cosine has no table of steps",
    ),
    "log-SNR": ((1, 8, 8), {"diffusion": {"time": "log_snr"}}, "time=log_snr: diffusers' schedulers tell"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_diffusers_cannot_hold_is_refused(case, tmp_path):
    shape, sections, message = REFUSED[case]
    run = make_run(tmp_path / "run", shape, **sections)
    with pytest.raises(ConfigurationError, match=message):
        export(run, tmp_path / "out")
    assert os.listdir(tmp_path) == ["run"]


def test_all_reasons_are_told_at_once(tmp_path):
    run = make_run(tmp_path / "run", (1, 9, 9), conditions=MAP, diffusion={"time": "log_snr"})
    with pytest.raises(ConfigurationError, match=r"no door .* 9x9; diffusion.time=log_snr"):
        export(run, tmp_path / "out")


def test_nothing_is_written_over(tmp_path):
    run = make_run(tmp_path / "run")
    (tmp_path / "out").mkdir()
    export(run, tmp_path / "out")  # an empty folder is fine
    before = (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(ConfigurationError, match="exists already"):
        export(run, tmp_path / "out", raw_weights=True)
    assert (tmp_path / "out" / "README.md").read_text() == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigurationError, match="exists already"):
        export(run, tmp_path / "file")


def test_a_failed_export_leaves_nothing_behind(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(StorageError, match="no space left"):
        export(run, tmp_path / "out")
    assert os.listdir(tmp_path) == ["run"]


def test_the_export_reads_the_same_model_that_is_sampled(tmp_path):
    run = make_run(tmp_path / "run")
    assert Export.open(run).pipeline().record == load(run).record
