"""What diffusers has written computes the same here; what alphabar cannot hold, and what tries to run code, is refused."""

from __future__ import annotations

import io
import json
import os
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from alphabar.diffusion.schedule import build_schedule
from alphabar.errors import AlphabarError, CheckpointError, ConfigurationError
from alphabar.generation.pipeline import load
from alphabar.interop.diffusers_export import Export, write_export
from alphabar.interop.diffusers_import import Import, read_import, write_import
from alphabar.runs.checkpoint import find_checkpoint, is_whole
from alphabar.runs.folder import RunFolder

from .making import CLASSES, ancestral, config_of, make_run, random_tensors, same_noise  # noqa: F401

diffusers = pytest.importorskip("diffusers")

ONE_CALL = 1e-5
TINY = {
    "sample_size": 8,
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
DDPM = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "clip_sample": True,
}


def small_unet(**changes: object):
    """A tiny UNet2DModel with random weights."""
    unet = diffusers.UNet2DModel(**TINY | changes).eval()
    unet.load_state_dict(random_tensors(unet))
    return unet


def save_pipeline(folder: Path, unet, scheduler=None) -> Path:
    """A pipeline as diffusers itself saves it."""
    diffusers.DDPMPipeline(unet, scheduler or diffusers.DDPMScheduler()).save_pretrained(folder)
    return folder


def plain_pipeline(
    folder: Path, unet_config: dict | None = None, scheduler: dict | None = None, weights: bool = True
) -> Path:
    """A pipeline folder of JSON files that may say anything, with the weights of a tiny network."""
    for name, values in (("unet/config.json", unet_config), ("scheduler/scheduler_config.json", scheduler)):
        (folder / name).parent.mkdir(parents=True)
        base = {"_class_name": "UNet2DModel", **TINY} if name.startswith("unet") else DDPM
        (folder / name).write_text(json.dumps(base | (values or {})))
    if weights:
        safetensors.torch.save_file(
            random_tensors(small_unet()), folder / "unet" / "diffusion_pytorch_model.safetensors"
        )
    return folder


def imported(folder: Path, out: Path, **options: object) -> Import:
    found = read_import(folder, **options)  # type: ignore[arg-type]
    write_import(found, out, "a test")
    return found


def largest_difference(run: Path, unet, times=(0, 3, 999), labels: list[int] | None = None) -> float:
    """Of the outputs of both networks."""
    pipeline, worst = load(run, device="cpu"), 0.0
    steps = pipeline.denoiser.schedule.steps
    x = torch.randn(2, *pipeline.shape, generator=torch.Generator().manual_seed(5))
    values = {} if labels is None else {"class": np.array(labels)}
    more = {} if labels is None else {"class_labels": torch.tensor(labels)}
    with torch.no_grad():
        for k in times:
            ours, _ = pipeline.denoiser.output(x, (k + 1) / steps, pipeline.denoiser.encode(values, 2))
            theirs = unet(x, k, **more).sample
            worst = max(worst, float((ours - theirs).abs().max()))
            assert 0.1 < float(theirs.std()) < 10  # or it would prove nothing
    return worst


# --- the published repositories ---------------------------------------------------------------------------------------------------

PUBLISHED = {
    "_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "act_fn": "silu", "attention_head_dim": None,
    "center_input_sample": False, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "in_channels": 3,
    "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-06, "norm_num_groups": 32, "out_channels": 3,
    "time_embedding_type": "positional",
}  # fmt: skip
CIFAR10 = PUBLISHED | {
    "block_out_channels": [128, 256, 256, 256],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "sample_size": 32,
}
# The 256-pixel networks have 128, 128, 256, 256, 512, 512 channels; here a quarter of them, and 64 pixels.
CELEBAHQ = PUBLISHED | {
    "block_out_channels": [32, 32, 64, 64, 128, 128],
    "down_block_types": ["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4,
    "sample_size": 64,
}
OLD_SCHEDULER = {
    "_class_name": "DDPMScheduler", "_diffusers_version": "0.1.1", "beta_end": 0.02, "beta_schedule": "linear",
    "beta_start": 0.0001, "clip_sample": True, "num_train_timesteps": 1000, "trained_betas": None,
    "variance_type": "fixed_small",
}  # fmt: skip
REPOSITORIES = {
    "ddpm-cifar10-32": (CIFAR10, "fixed_large", ".bin"),
    "ddpm-celebahq-256": (CELEBAHQ, "fixed_small", ".safetensors"),
    "ddpm-church-256": (CELEBAHQ, "fixed_small", ".bin"),
}
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def old_name(name: str) -> str:
    for new, old in OLD_NAMES.items():
        name = name.replace(f".{new}.", f".{old}.")
    return name


def trained_like(name: str, p: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers of a size that neither fades nor explodes from layer to layer; norms are near 1."""
    noise = torch.randn(p.shape, generator=generator)
    if p.ndim > 1:
        return noise / p[0].numel() ** 0.5
    return 0.2 * noise + float("norm" in name and name.endswith("weight"))


def flat_folder(folder: Path, config: dict, variance: str, suffix: str) -> Path:
    """What a repository of 2022 holds: all in one folder, attention by its old names, random weights. Written without diffusers."""
    folder.mkdir()
    index = {
        "_class_name": "DDPMPipeline",
        "_diffusers_version": "0.1.1",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    for name, values in (
        ("model_index.json", index),
        ("config.json", config),
        ("scheduler_config.json", OLD_SCHEDULER | {"variance_type": variance}),
    ):
        (folder / name).write_text(json.dumps(values))
    with torch.device("meta"):
        unet = diffusers.UNet2DModel.from_config(config)
    g = torch.Generator().manual_seed(0)
    weights = {old_name(n): trained_like(n, p, g) for n, p in unet.state_dict().items()}
    assert any("proj_attn" in name for name in weights)
    path = folder / f"diffusion_pytorch_model{suffix}"
    torch.save(weights, path) if suffix == ".bin" else safetensors.torch.save_file(weights, path)
    return folder


@pytest.mark.parametrize("name", REPOSITORIES)
def test_published_repositories(name, tmp_path):
    config, variance, suffix = REPOSITORIES[name]
    folder = flat_folder(tmp_path / name, config, variance, suffix)
    found = imported(folder, tmp_path / "run")
    unet = diffusers.UNet2DModel.from_pretrained(folder, use_safetensors=suffix == ".safetensors").eval()
    assert largest_difference(tmp_path / "run", unet, times=[400]) < ONE_CALL
    assert found.config.sample.variance == ("beta" if variance == "fixed_large" else None)
    assert (found.config.schedule.kind, found.config.schedule.steps) == ("linear", 1000)
    assert not found.notes


def test_ddpm_cifar10_is_the_preset_of_that_name(tmp_path):
    from alphabar.settings.config import finish

    folder = flat_folder(tmp_path / "x", CIFAR10 | {"block_out_channels": [32] * 4}, "fixed_large", ".bin")
    ours = finish({"preset": "ddpm-cifar10", "network": {"channels": [32] * 4, "dropout": 0.0}}, [32, 32])
    found = read_import(folder).config
    assert (found.network, found.schedule, found.diffusion) == (ours.network, ours.schedule, ours.diffusion)


# --- what diffusers saves today ---------------------------------------------------------------------------------------------------

NETWORKS = {
    "as it is": {},
    "one head": {"attention_head_dim": None},
    "cosine first": {"flip_sin_to_cos": True, "freq_shift": 0},
    "sine first": {"flip_sin_to_cos": False, "freq_shift": 1},
    "padding after": {"downsample_padding": 0},
    "scale and shift": {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 4},
    "no attention in the middle": {"add_attention": False, "resnet_time_scale_shift": "scale_shift"},
    "swish": {"act_fn": "swish", "norm_eps": 1e-6, "dropout": 0.3},
    "grey, not square": {"in_channels": 1, "out_channels": 1, "sample_size": (8, 12)},
    "blocks": {
        "layers_per_block": 2,
        "down_block_types": ["AttnDownBlock2D"] * 2,
        "up_block_types": ["AttnUpBlock2D"] * 2,
    },
}


@pytest.mark.parametrize("case", NETWORKS)
def test_networks_compute_the_same(case, tmp_path):
    unet = small_unet(**NETWORKS[case])
    imported(save_pipeline(tmp_path / "theirs", unet), tmp_path / "run")
    assert largest_difference(tmp_path / "run", unet) < ONE_CALL


def test_a_class_conditional_network(tmp_path):
    unet = small_unet(num_class_embeds=3)
    found = imported(save_pipeline(tmp_path / "theirs", unet), tmp_path / "run")
    assert largest_difference(tmp_path / "run", unet, labels=[2, 0]) < ONE_CALL
    assert found.config.classes == ["class_0", "class_1", "class_2"]
    assert "'no class' is the mean of all" in found.notes[0]
    table = found.tensors["encoders.kinds.class.embedding.weight"]
    torch.testing.assert_close(table[3], table[:3].mean(0))
    assert load(tmp_path / "run").with_settings(steps=3).sample(2, label="class_1").classes == ["class_1"] * 2


def test_float16_weights_become_float32(tmp_path):
    folder = plain_pipeline(tmp_path / "theirs", weights=False)
    half = {name: tensor.half() for name, tensor in random_tensors(small_unet()).items()}
    torch.save(half, folder / "unet" / "diffusion_pytorch_model.bin")
    assert {tensor.dtype for tensor in read_import(folder).tensors.values()} == {torch.float32}


SCHEDULERS = {
    "DDPM": (diffusers.DDPMScheduler, {}),
    "DDPM, another T": (diffusers.DDPMScheduler, {"num_train_timesteps": 200, "beta_end": 0.3}),
    "scaled linear": (diffusers.DDPMScheduler, {"beta_schedule": "scaled_linear", "beta_start": 8.5e-4}),
    "cosine, v": (diffusers.DDPMScheduler, {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}),
    "sigmoid of GeoDiff": (diffusers.DDPMScheduler, {"beta_schedule": "sigmoid"}),
    "own betas": (
        diffusers.DDPMScheduler,
        {"trained_betas": np.linspace(0.01, 0.4, 9).tolist(), "num_train_timesteps": 9},
    ),
    "zero SNR": (
        diffusers.DDIMScheduler,
        {"rescale_betas_zero_snr": True, "prediction_type": "sample", "timestep_spacing": "trailing"},
    ),
    "DDIM": (diffusers.DDIMScheduler, {"clip_sample": False}),
    "PNDM": (diffusers.PNDMScheduler, {}),
    "DPM-Solver": (diffusers.DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "Euler": (diffusers.EulerDiscreteScheduler, {}),
    "Heun": (diffusers.HeunDiscreteScheduler, {}),
    "UniPC": (diffusers.UniPCMultistepScheduler, {"prediction_type": "v_prediction"}),
}
KINDS = {
    "DDPM": "linear", "DDPM, another T": "linear", "scaled linear": "scaled_linear", "cosine, v": "cosine",
    "sigmoid of GeoDiff": "custom", "own betas": "custom", "zero SNR": "linear",
}  # fmt: skip


@pytest.mark.parametrize("case", SCHEDULERS)
def test_schedulers_become_schedules(case, tmp_path):
    kind, options = SCHEDULERS[case]
    scheduler = kind(**options)
    found = read_import(save_pipeline(tmp_path / "theirs", small_unet(), scheduler))
    schedule = build_schedule(found.config.schedule)
    theirs = scheduler.alphas_cumprod.double()
    torch.testing.assert_close(schedule.alpha_bars[1:], theirs, rtol=0, atol=1e-6)  # theirs is float32
    predictions = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}
    assert found.config.diffusion.prediction == predictions[scheduler.config.prediction_type]
    clips = scheduler.config.get("clip_sample", False)
    assert found.config.sample.clip == ("static" if clips else "off")
    assert found.config.schedule.kind == KINDS.get(case, "linear")
    assert found.config.schedule.zero_terminal_snr == (case == "zero SNR")
    assert any("samples with its own methods" in note for note in found.notes) == (
        not case.startswith(("DDPM", "scaled", "cosine", "sigmoid", "own"))
    )


CLIPS = {
    "static": ({"clip_sample": True}, ("static", 0.995)),
    "by default": ({"clip_sample": ...}, ("static", 0.995)),
    "off": ({"clip_sample": False}, ("off", 0.995)),
    "thresholding up to 1 is static": ({"clip_sample": False, "thresholding": True}, ("static", 0.995)),
    "dynamic": ({"thresholding": True, "sample_max_value": 1e9, "dynamic_thresholding_ratio": 0.9}, ("dynamic", 0.9)),
}


@pytest.mark.parametrize("case", CLIPS)
def test_clipping(case, tmp_path):
    fields, expected = CLIPS[case]
    folder = plain_pipeline(tmp_path / "theirs", scheduler=fields if ... not in fields.values() else {})
    if ... in fields.values():
        path = folder / "scheduler" / "scheduler_config.json"
        path.write_text(json.dumps({key: value for key, value in DDPM.items() if key not in fields}))
    found = read_import(folder).config.sample
    assert (found.clip, found.dynamic_quantile) == expected


VARIANCES = {"fixed_small": None, "fixed_small_log": None, "fixed_large": "beta", "fixed_large_log": "beta"}


@pytest.mark.parametrize("name", VARIANCES)
def test_variances(name, tmp_path):
    found = read_import(plain_pipeline(tmp_path / "theirs", scheduler={"variance_type": name}))
    assert found.config.sample.variance == VARIANCES[name]


@pytest.mark.parametrize("variance", ["fixed_large", "learned_range"])
def test_a_whole_run_of_imported_weights(variance, tmp_path, same_noise):  # noqa: F811
    scheduler = diffusers.DDPMScheduler(50, beta_end=0.3, variance_type=variance, timestep_spacing="trailing")
    unet = small_unet(out_channels=6 if variance == "learned_range" else 3)
    folder = save_pipeline(tmp_path / "theirs", unet, scheduler)
    found = imported(folder, tmp_path / "run")
    assert found.config.diffusion.learned_variance == (variance == "learned_range")
    ours = ancestral(tmp_path / "run", 50)
    same_noise((3, 8, 8))
    pipeline = diffusers.DDPMPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(batch_size=2, num_inference_steps=50, output_type="np").images
    theirs = torch.from_numpy(theirs).permute(0, 3, 1, 2) * 2 - 1
    assert float((ours.clamp(-1, 1) - theirs).abs().max()) < 1e-4


# --- there and back ---------------------------------------------------------------------------------------------------------------

BACK = {
    "plain": {},
    "classes": {"conditions": CLASSES},
    "all else": {
        "network": {"time_mode": "scale_shift", "head_channels": 4, "down_padding": "after", "sine_first": False},
        "diffusion": {"prediction": "v", "learned_variance": True},
        "schedule": {"kind": "cosine"},
        "sample": {"clip": "dynamic", "dynamic_quantile": 0.9},
    },
    "by the beta": {"sample": {"variance": "beta", "clip": "off"}, "schedule": {"kind": "scaled_linear"}},
}


@pytest.mark.parametrize("case", BACK)
def test_there_and_back_changes_nothing(case, tmp_path):
    run = make_run(tmp_path / "run", (3, 8, 8), **BACK[case])
    write_export(Export.open(run), tmp_path / "theirs")
    imported(tmp_path / "theirs", tmp_path / "back")
    before, after = find_checkpoint(run), find_checkpoint(tmp_path / "back")
    assert_same_weights(before.tensors("ema"), after.tensors("model"))
    assert_same_weights(before.tensors("ema"), after.tensors("ema"))
    assert (after.step, after.shape) == (0, (3, 8, 8))
    assert before.config.classes == after.config.classes
    for name in ("network", "diffusion"):
        assert getattr(before.config, name) == getattr(after.config, name), name
    clip = before.config.sample.clip_for(3)  # what a scheduler says is no default any more
    assert after.config.sample == before.config.sample.model_copy(update={"clip": clip})
    tables = [build_schedule(found.config.schedule).beta for found in (before, after)]
    torch.testing.assert_close(*tables, rtol=0, atol=1e-8)
    assert before.config.schedule.kind == after.config.schedule.kind


def assert_same_weights(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_run_is_a_run_as_any_other(tmp_path):
    found = imported(plain_pipeline(tmp_path / "theirs"), tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    assert config_of(tmp_path / "run") == found.config
    assert [path.name for path in run.checkpoints()] == ["step-0"]
    assert is_whole(run.latest_checkpoint())
    assert run.read("import.json")["scheduler"]["beta_end"] == 0.02
    assert run.read("run.json")["command"] == "a test"
    assert load(tmp_path / "run").with_settings(steps=3).sample(2).pictures.shape == (2, 8, 8, 3)
    assert found.config.data.size == [8, 8]
    assert found.config.data.channels == 3


def test_the_size_is_asked_for_where_it_is_open(tmp_path):
    folder = plain_pipeline(tmp_path / "theirs", {"sample_size": None})
    with pytest.raises(ConfigurationError, match="does not say the size of its pictures; give it as --size"):
        read_import(folder)
    assert read_import(folder, [8, 12]).shape == (3, 8, 12)
    whole = plain_pipeline(tmp_path / "whole", {"sample_size": [8, 8]})
    assert read_import(whole, [8, 8]).shape == (3, 8, 8)
    with pytest.raises(ConfigurationError, match=r"sample_size \[8, 8\], got --size \[8, 12\]"):
        read_import(whole, [8, 12])


@pytest.mark.parametrize(
    "card",
    ["", "no head", "---\n- a list\n---\n", "---\nalphabar: 3\n---\n", "---\n: [\n---\n", "---\nalphabar: {classes: [a, a]}\n---\n", "---\nalphabar: {classes: [a, 2], null_class: 2}\n---\n"],
)  # fmt: skip
def test_a_card_that_is_not_ours_names_no_classes(card, tmp_path):
    folder = save_pipeline(tmp_path / "theirs", small_unet(num_class_embeds=3))
    (folder / "README.md").write_text(card)
    assert read_import(folder).config.classes == ["class_0", "class_1", "class_2"]


def test_a_table_of_classes_of_another_shape_is_refused_by_name(tmp_path):
    folder = save_pipeline(tmp_path / "theirs", small_unet(num_class_embeds=3))
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    for damaged in (torch.zeros(()), torch.zeros(3), torch.zeros(3, 5)):
        safetensors.torch.save_file(tensors | {"class_embedding.weight": damaged}, path)
        with pytest.raises(CheckpointError, match=r"embedding\.weight"):
            read_import(folder)


# --- refusals ---------------------------------------------------------------------------------------------------------------------

BAD_NETWORKS = {
    "centred input": ({"center_input_sample": True}, "center_input_sample is true, but alphabar's U-Net has false"),
    "fourier": ({"time_embedding_type": "fourier"}, 'time_embedding_type is "fourier"'),
    "scaled middle": ({"mid_block_scale_factor": 1.41}, "mid_block_scale_factor is 1.41, but"),
    "no middle": ({"mid_block_type": None}, "mid_block_type is null"),
    "relu": ({"act_fn": "relu"}, 'act_fn is "relu", but alphabar\'s U-Net has "silu" or "swish"'),
    "resnet sampling": ({"downsample_type": "resnet", "upsample_type": "resnet"}, "downsample_type .*upsample_type"),
    "padding": ({"downsample_padding": 2}, "downsample_padding is 2"),
    "time mode": ({"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift is"),
    "class times": ({"class_embed_type": "timestep"}, 'class_embed_type is "timestep"'),
    "no classes": ({"num_class_embeds": 0}, "num_class_embeds must be 1 or more, got 0"),
    "skip blocks": ({"down_block_types": ["SkipDownBlock2D", "DownBlock2D"]}, "has no SkipDownBlock2D, only DownBlock2D"),
    "cross attention": ({"up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"]}, "has no CrossAttnUpBlock2D"),
    "other levels": ({"up_block_types": ["UpBlock2D", "AttnUpBlock2D"]}, "attention stands on other levels"),
    "up on the way down": ({"down_block_types": ["UpBlock2D", "DownBlock2D"]}, "the way down needs Down blocks"),
    "blocks are no list": ({"down_block_types": "DownBlock2D"}, "must be lists"),
    "channels": ({"block_out_channels": [8]}, "a number for each of down_block_types"),
    "middle without norm": ({"resnet_time_scale_shift": "scale_shift"}, "attn_norm_num_groups is null"),
    "middle with another norm": ({"attn_norm_num_groups": 2}, "attn_norm_num_groups is 2, but"),
    "embedding": ({"time_embedding_dim": 64}, "time_embedding_dim is 64"),
    "latents": ({"in_channels": 8, "out_channels": 8}, "in_channels is 8, but pictures have 1 to 4"),
    "out channels": ({"out_channels": 4}, "out_channels is 4, but must be in_channels = 3, or twice that"),
    "groups": ({"norm_num_groups": 3}, "groups = 3 must divide"),
    "heads": ({"attention_head_dim": 5}, "head_channels = 5 must divide the channels"),
    "too small": ({"sample_size": 1}, "too small"),
    "layers": ({"layers_per_block": "two"}, "blocks: input should be a valid integer"),
    "size": ({"sample_size": "big"}, "makes no sense"),
    "class": ({"_class_name": "UNet2DConditionModel"}, "describes a UNet2DConditionModel; alphabar imports UNet2DModel only"),
}  # fmt: skip
BAD_SCHEDULERS = {
    "flow": ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler is no scheduler of a table"),
    "Karras": ({"_class_name": "KarrasVeScheduler"}, "no scheduler of a table of betas"),
    "prediction": ({"prediction_type": "flow_prediction"}, "prediction_type is 'flow_prediction', alphabar has epsilon"),
    "flow sigmas": ({"use_flow_sigmas": True}, "told another time"),
    "continuous time": ({"timestep_type": "continuous"}, "told another time"),
    "learned": ({"variance_type": "learned"}, "variance_type is 'learned', alphabar has fixed_small"),
    "no channels for it": ({"variance_type": "learned_range"}, "the network puts out just the channels of a picture"),
    "range": ({"clip_sample_range": 2.0}, r"clip_sample_range is 2.0, but pictures here lie in \[-1, 1\]"),
    "limit": ({"thresholding": True, "sample_max_value": 1.5}, "upper limit sample_max_value = 1.5"),
    "no number": ({"clip_sample_range": "wide"}, 'clip_sample_range must be a number, got "wide"'),
    "no beta": ({"beta_start": None}, r"beta_start must lie in \(0, 1\), got null"),
    "beta": ({"beta_end": 1.5}, r"beta_end must lie in \(0, 1\), got 1.5"),
    "no steps": ({"num_train_timesteps": 0}, "num_train_timesteps must be 1 or more, got 0"),
    "betas": ({"trained_betas": [0.1, 0.2]}, "trained_betas must be 1000 numbers"),
    "betas out of range": ({"trained_betas": [0.1, 1.2], "num_train_timesteps": 2}, r"beta must lie in \(0, 1\)"),
    "laplace": ({"beta_schedule": "laplace"}, "beta_schedule 'laplace' is unknown"),
    "eps at zero SNR": ({"rescale_betas_zero_snr": True}, "eps prediction cannot start from zero terminal SNR"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_NETWORKS)
def test_networks_that_alphabar_has_not_are_refused(case, tmp_path):
    fields, message = BAD_NETWORKS[case]
    with pytest.raises(AlphabarError, match=message):
        read_import(plain_pipeline(tmp_path / "theirs", fields))


@pytest.mark.parametrize("case", BAD_SCHEDULERS)
def test_schedulers_that_alphabar_has_not_are_refused(case, tmp_path):
    fields, message = BAD_SCHEDULERS[case]
    with pytest.raises(AlphabarError, match=message):
        read_import(plain_pipeline(tmp_path / "theirs", scheduler=fields))


def test_all_reasons_are_told_at_once(tmp_path):
    folder = plain_pipeline(tmp_path / "theirs", {"act_fn": "gelu", "center_input_sample": True})
    with pytest.raises(ConfigurationError, match=r"center_input_sample is true.*; act_fn is"):
        read_import(folder)


def test_channels_for_a_variance_need_a_scheduler_that_uses_them(tmp_path):
    folder = save_pipeline(tmp_path / "theirs", small_unet(out_channels=6))
    with pytest.raises(ConfigurationError, match="'fixed_small', but the network puts out twice the channels"):
        read_import(folder)


def test_unknown_fields_are_ignored_as_diffusers_does_and_named(tmp_path):
    found = read_import(plain_pipeline(tmp_path / "theirs", {"a_new_field": 3}))
    assert "were ignored, as diffusers does: a_new_field" in found.notes[0]


def test_folders_that_are_none(tmp_path):
    with pytest.raises(CheckpointError, match="is not a folder; give a pipeline folder"):
        read_import(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"has no unet/config.json or config.json"):
        read_import(tmp_path)
    folder = plain_pipeline(tmp_path / "theirs", weights=False)
    with pytest.raises(
        CheckpointError, match=r"has no diffusion_pytorch_model.safetensors, .bin or .pt but nothing like it"
    ):
        read_import(folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"index.json; save it as one file"):
        read_import(folder)
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": "LDMPipeline", "vqvae": ["diffusers", "VQModel"]})
    )
    with pytest.raises(ConfigurationError, match="the pipeline LDMPipeline also has vqvae"):
        read_import(folder)
    for content in (b"[]", b"{", b"\xff\xfe"):
        (folder / "scheduler" / "scheduler_config.json").write_bytes(content)
        (folder / "model_index.json").unlink(missing_ok=True)
        with pytest.raises(CheckpointError, match=r"scheduler_config.json"):
            read_import(folder)
    (folder / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(CheckpointError, match="without it nobody knows which noise"):
        read_import(folder)


def test_weights_of_another_network_are_refused(tmp_path):
    folder = plain_pipeline(tmp_path / "theirs", {"block_out_channels": [8, 8]})
    with pytest.raises(CheckpointError, match="does not fit the network of its own configuration"):
        read_import(folder)


def test_nothing_is_written_over(tmp_path):
    found = read_import(plain_pipeline(tmp_path / "theirs"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("x")
    with pytest.raises(ConfigurationError, match="exists already"):
        write_import(found, tmp_path / "run")
    assert os.listdir(tmp_path / "run") == ["mine"]


# --- files that try to run code ---------------------------------------------------------------------------------------------------


class Evil:
    """Its unpickling makes a folder: what a malicious file would do, and worse."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def evil_zip(target: Path) -> bytes:
    stream = io.BytesIO()
    torch.save({"conv_in.weight": torch.zeros(1), "x": Evil(target)}, stream)
    return stream.getvalue()


def evil_legacy(target: Path) -> bytes:
    stream = io.BytesIO()
    torch.save({"x": Evil(target)}, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def evil_plain(target: Path) -> bytes:
    return pickle.dumps({"x": Evil(target)})


def evil_old(target: Path) -> bytes:
    return pickle.dumps({"x": Evil(target)}, protocol=0)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".safetensors"])
@pytest.mark.parametrize("make", [evil_zip, evil_legacy, evil_plain])
def test_a_file_that_tries_to_run_code_is_refused(make, suffix, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # which a careless environment may have
    folder, target = plain_pipeline(tmp_path / "theirs", weights=False), tmp_path / "made"
    path = folder / "unet" / f"diffusion_pytorch_model{suffix}"
    path.write_bytes(make(target))
    with pytest.raises(CheckpointError, match=r"refused and nothing in it was run|not a safetensors file"):
        read_import(folder)
    assert not target.exists()
    load_it = pickle.load if make is evil_plain else partial(torch.load, weights_only=False)
    with io.BytesIO(path.read_bytes()) as stream:
        load_it(stream)
    assert target.exists()  # the file is as evil as it should be


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make", [evil_zip, evil_legacy, evil_plain, evil_old])
def test_the_error_names_what_the_file_would_call(make, tmp_path):
    folder = plain_pipeline(tmp_path / "theirs", weights=False)
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(make(tmp_path / "made"))
    with pytest.raises(CheckpointError, match=r"it would call (posix|nt)\.mkdir; use a .safetensors file"):
        read_import(folder)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut off"])
def test_damaged_weights_are_an_error_of_their_own(content, tmp_path):
    for suffix in (".bin", ".safetensors"):
        folder = plain_pipeline(tmp_path / suffix[1:], weights=False)
        (folder / "unet" / f"diffusion_pytorch_model{suffix}").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"damaged|cannot be read as weights|refused"):
            read_import(folder)


@pytest.mark.parametrize("value", [[1, 2], {"a": 3}, torch.zeros(2)])
def test_a_file_of_something_else_is_refused(value, tmp_path):
    folder = plain_pipeline(tmp_path / "theirs", weights=False)
    torch.save(value, folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="does not hold tensors by name"):
        read_import(folder)
