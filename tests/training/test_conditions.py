"""Training with conditions: each kind and all at once train, save and go on exactly; what was learned follows what is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alphabar.data.pictures import PictureSet
from alphabar.errors import ConfigurationError, DataError
from alphabar.generation.pipeline import Pipeline, load
from alphabar.runs.checkpoint import open_checkpoint
from alphabar.runs.folder import RunFolder
from alphabar.training.session import prepare
from alphabar.training.step import Trainer

from .small import NETWORK, config

FAST = {
    "network.channels": NETWORK["channels"], "network.blocks": 1, "network.attention": [False, True], "network.groups": 4, "schedule.steps": 50,
    "network.token_dim": 16, "network.modulation_channels": 8, "train.batch_size": 8, "train.preview_pictures": 2, "train.preview_steps": 2,
    "train.validation_pictures": 4, "train.report_every": 2,
}  # fmt: skip
TEXT = {"conditions.text.width": 32, "conditions.text.layers": 1, "conditions.text.length": 16}

KINDS: dict[str, dict[str, Any]] = {
    "text": {"data.conditions": ["text"], **TEXT},
    "map": {"data.conditions": ["map"]},
    "map beside the input": {"data.conditions": ["map"], "conditions.map.door": "concat", "data.flip": True},
    "pair": {"data.conditions": ["image"]},
    "super-resolution": {"data.conditions": ["image"], "conditions.image.task": "super-resolution", "conditions.image.scale": 2},
    "colorize": {"data.conditions": ["image"], "conditions.image.task": "colorize", "data.channels": 3},
    "inpaint": {"data.conditions": ["image"], "conditions.image.task": "inpaint", "train.accumulate": 2},
    "all": {
        "data.conditions": ["class", "text", "map", "image", "fill"], "conditions.fill.kind": "image", "conditions.fill.task": "inpaint", **TEXT,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Folders as classes, captions, maps and pairs of 14 pictures."""
    folder, g = tmp_path_factory.mktemp("conditions"), np.random.default_rng(0)
    for k in range(14):
        name = f"{'猫' if k % 2 else 'dog'}/{k}"
        for where, array in (
            ("images", g.integers(0, 256, (8, 8, 3), dtype=np.uint8)),
            ("maps", g.integers(0, 3, (8, 8), dtype=np.uint8)),
            ("conditioning", g.integers(0, 256, (8, 8), dtype=np.uint8)),
        ):
            path = folder / where / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
        (folder / "images" / f"{name}.txt").write_text(f"{'一只猫' if k % 2 else 'a dog'}, {k}", encoding="utf-8")
    return folder


def tensors(run: Path, step: int) -> dict[str, torch.Tensor]:
    checkpoint = open_checkpoint(run / "checkpoints" / f"step-{step}")
    return {
        f"{part}.{name}": v for part in ("model", "ema", "optimizer") for name, v in checkpoint.tensors(part).items()
    }


@pytest.mark.parametrize("kind", KINDS, ids=lambda name: name.replace(" ", "-"))
def test_every_kind_trains_saves_and_goes_on_bit_for_bit(data, tmp_path, kind):
    """Law 4 with conditions: what is dropped, made and drawn is a function of the step."""
    settings = FAST | KINDS[kind]
    list(prepare(data, tmp_path / "straight", steps=4, settings=settings).run())
    list(prepare(data, tmp_path / "halves", steps=2, settings=settings).run())
    second = prepare(None, tmp_path / "halves", steps=4, resume=True)
    assert second.plan.first_step == 2
    list(second.run())
    one, other = tensors(tmp_path / "straight", 4), tensors(tmp_path / "halves", 4)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    with Image.open(tmp_path / "straight" / "data-preview.png") as picture:
        assert min(picture.size) > 48
    run = RunFolder.open(tmp_path / "straight")
    assert list(run.config.conditions) == KINDS[kind]["data.conditions"]
    assert run.config.network.time_mode == "scale_shift"  # as in ADM
    pipeline = load(tmp_path / "halves")
    samples = pipeline.with_settings(steps=2).sample(2)  # nothing asked: classes in turn, the rest null
    assert samples.pictures.shape == (2, 8, 8, 3)


def test_a_run_repeated_from_its_configuration_is_the_same_run(data, tmp_path):
    list(prepare(data, tmp_path / "a", steps=2, settings=FAST | KINDS["all"]).run())
    list(prepare(None, tmp_path / "b", config=tmp_path / "a" / "config.yaml").run())
    one, other = tensors(tmp_path / "a", 2), tensors(tmp_path / "b", 2)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_goes_on_only_with_the_same_conditions(data, tmp_path):
    list(prepare(data, tmp_path / "run", steps=1, settings=FAST | KINDS["text"]).run())
    for change, message in (
        ({"data.conditions": ["map"]}, r"data\.conditions cannot change"),
        ({"conditions.text.width": 64}, r"conditions\.text cannot change"),
        ({"data.flip": True}, r"data\.flip cannot change"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            prepare(None, tmp_path / "run", steps=2, settings=change, resume=True)


def test_a_changed_caption_is_noticed_at_resume(data, tmp_path):
    list(prepare(data, tmp_path / "run", steps=1, settings=FAST | KINDS["text"]).run())
    path = data / "images" / "dog" / "0.txt"
    kept = path.read_text()
    path.write_text("something else")
    try:
        with pytest.raises(DataError, match="--accept-changed-data"):
            prepare(None, tmp_path / "run", steps=2, resume=True)
        assert prepare(None, tmp_path / "run", steps=2, resume=True, accept_changed_data=True).plan.first_step == 1
    finally:
        path.write_text(kept)


def test_data_on_disk_train_as_data_in_memory(data, tmp_path):
    settings = FAST | KINDS["all"] | {"data.flip": True}
    list(prepare(data, tmp_path / "memory", steps=2, settings=settings).run())
    list(prepare(data, tmp_path / "disk", steps=2, settings=settings | {"data.memory_gb": 1e-9}).run())
    one, other = tensors(tmp_path / "memory", 2), tensors(tmp_path / "disk", 2)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_data_from_python_bring_their_conditions(tmp_path):
    """Those that the set holds, and tasks that are set besides."""
    data = pictures()
    data = replace(data, values={**data.values, "image": data.pictures, "depth": data.pictures[..., [0, 0, 0]]})
    settings = (
        FAST
        | TEXT
        | {"conditions.depth.kind": "image", "conditions.fill.kind": "image", "conditions.fill.task": "inpaint"}
    )
    list(prepare(data, tmp_path / "run", steps=2, settings=settings).run())
    conditions = RunFolder.open(tmp_path / "run").config.conditions
    assert set(conditions) == {"class", "text", "map", "image", "depth", "fill"}
    assert conditions["map"].classes == ["0", "1"]
    assert (conditions["image"].channels, conditions["depth"].channels) == (1, 3)
    list(prepare(data, tmp_path / "run", steps=3, resume=True).run())
    samples = load(tmp_path / "run").with_settings(steps=2).sample(
        prompt=["a", "b"], map=data.values["map"][0, ..., 0], conditions={"depth": np.zeros((8, 8, 3), np.uint8)}
    )  # fmt: skip
    assert samples.asked == [{"text": text, "map": "array", "depth": "array"} for text in "ab"]


# dropping


def pictures(n: int = 40) -> PictureSet:
    g = np.random.default_rng(0)
    return PictureSet(
        g.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8), np.arange(n) % 2, ["a", "b"], [str(i) for i in range(n)],
        {"text": np.array([f"number {i}" for i in range(n)], object), "map": g.integers(0, 2, (n, 8, 8, 1), dtype=np.uint8)},
    )  # fmt: skip


def test_each_condition_is_dropped_with_its_own_probability_and_on_its_own():
    conditions = {
        "class": {"classes": ["a", "b"], "dropout": 0.5},
        "text": {"dropout": 0.0, "width": 16, "layers": 0},
        "map": {"classes": ["x", "y"], "dropout": 0.25},
    }
    trainer = Trainer(config(None, conditions=conditions, train={"batch_size": 16, "drop_all": 0.0}), pictures())
    seen: dict[str, list[torch.Tensor]] = {"class": [], "text": [], "map": []}
    encode = trainer.denoiser.encode

    def watched(values: Any, n: int, drop: Any = None) -> Any:
        for name, mask in drop.items():
            seen[name].append(mask)
        return encode(values, n, drop)

    trainer.denoiser.encode = watched  # type: ignore[method-assign]
    for _ in range(40):
        trainer.step()
    dropped = {name: torch.cat(masks).float() for name, masks in seen.items()}
    assert all(len(d) == 640 for d in dropped.values())
    assert dropped["text"].sum() == 0
    assert dropped["class"].mean() == pytest.approx(0.5, abs=0.08)
    assert dropped["map"].mean() == pytest.approx(0.25, abs=0.07)
    together = (dropped["class"] * dropped["map"]).mean()
    assert together == pytest.approx(0.125, abs=0.05)  # independent of each other


def test_several_conditions_are_also_dropped_all_together_and_one_alone_is_not():
    """Guidance starts from the estimate without any: with 0.1 each, three would meet in a thousandth of the pictures."""
    several = {"class": {"classes": ["a", "b"], "dropout": 0.0}, "text": {"dropout": 0.0, "width": 16, "layers": 0}}
    train = {"batch_size": 2000, "drop_all": 0.3}
    masks = Trainer(config(None, conditions=several, train=train), pictures()).chance.dropped(0)
    assert torch.equal(masks["class"], masks["text"])
    assert masks["text"].double().mean().item() == pytest.approx(0.3, abs=0.05)
    alone = {"class": several["class"]}
    assert not Trainer(config(None, conditions=alone, train=train), pictures()).chance.dropped(0)["class"].any()


def test_what_is_made_from_a_picture_differs_by_step_and_not_by_batch():
    conditions = {"image": {"task": "inpaint"}}
    trainer = Trainer(config(None, conditions=conditions), pictures())
    batch = pictures().batch(np.arange(4))
    keys = [(0, 3, i) for i in range(4)]
    whole = trainer.denoiser.encoders.with_derived(batch, keys)["image"]
    part = trainer.denoiser.encoders.with_derived(pictures().batch(np.arange(2, 4)), keys[2:])["image"]
    np.testing.assert_array_equal(whole[2:], part)
    assert not np.array_equal(
        trainer.denoiser.encoders.with_derived(batch, [(0, 4, i) for i in range(4)])["image"], whole
    )


def test_steps_draw_anew_what_is_made_from_pictures(monkeypatch):
    plain = PictureSet(pictures(8).pictures)
    made = config(None, conditions={"image": {"task": "inpaint"}}, train={"batch_size": 8, "accumulate": 2})
    trainer = Trainer(made, plain)
    encoder = trainer.denoiser.encoders["image"]
    seen: list[tuple[Any, ...]] = []
    derive = encoder.derive
    monkeypatch.setattr(encoder, "derive", lambda x_0, keys: (seen.extend(keys), derive(x_0, keys))[1])
    for _ in range(3):
        trainer.step()
    assert len(set(seen)) == len(seen) == 24


# learning


def learned(data: PictureSet, conditions: dict[str, Any], steps: int) -> Pipeline:
    made = config(
        None, conditions=conditions, schedule={"steps": 40}, loss={"times": "stratified"},
        network={"channels": [8, 16], "time_mode": "scale_shift", "token_dim": 16, "modulation_channels": 8},
        train={"steps": steps, "batch_size": 16, "learning_rate": 4e-3, "ema_decay": 0.95}, diffusion={"prediction": "x_0"},
    )  # fmt: skip
    trainer = Trainer(made, data)
    for _ in range(steps):
        trainer.step()
    return Pipeline(trainer.average, data.shape).with_settings(steps=20)


def level(shade: np.ndarray) -> np.ndarray:
    """(n,) -> flat pictures (n, 8, 8, 1) of nearly that shade."""
    jitter = np.random.default_rng(1).integers(-20, 21, (len(shade), 8, 8, 1))
    return np.clip(np.broadcast_to(shade.reshape(-1, 1, 1, 1), (len(shade), 8, 8, 1)) + jitter, 0, 255).astype(np.uint8)


def test_a_text_model_makes_what_the_prompt_says():
    night = np.arange(32) % 2 == 0
    data = PictureSet(level(np.where(night, 30, 225)), names=[str(i) for i in range(32)],
                      values={"text": np.array(["night" if dark else "白天" for dark in night], object)})  # fmt: skip
    pipeline = learned(data, {"text": {"width": 32, "layers": 1, "length": 8}}, 80)
    asked = ["night", "白天", "白天", "night", "night", "白天"]
    samples = pipeline.sample(prompt=asked)
    means = samples.pictures.mean((1, 2, 3))
    assert [mean > 128 for mean in means] == [prompt == "白天" for prompt in asked]
    assert np.abs(means - 128).min() > 50
    assert [own["text"] for own in samples.asked] == asked


@pytest.mark.parametrize("door", ["modulation", "concat"])
def test_a_map_model_puts_things_where_the_map_says(door):
    g = np.random.default_rng(0)
    maps = (np.arange(8) < 4) ^ (g.random((64, 1, 1, 1)) < 0.5).transpose(0, 2, 1, 3)
    maps = np.broadcast_to(maps.reshape(64, 1, 8, 1), (64, 8, 8, 1)).astype(np.uint8)
    shades = np.clip(np.where(maps == 1, 225, 30) + g.integers(-20, 21, maps.shape), 0, 255).astype(np.uint8)
    data = PictureSet(shades, names=[str(i) for i in range(64)], values={"map": np.ascontiguousarray(maps)})
    pipeline = learned(data, {"map": {"classes": ["dark", "light"], "door": door}}, 80)
    left = np.broadcast_to(np.arange(8) < 4, (8, 8)).astype(np.uint8)
    made = pipeline.sample(map=[left, 1 - left, left]).pictures[..., 0].astype(float)
    differences = made[:, :, :4].mean((1, 2)) - made[:, :, 4:].mean((1, 2))
    assert (np.sign(differences) == [1, -1, 1]).all()
    assert np.abs(differences).min() > 80


def test_a_pair_model_follows_its_picture():
    g = np.random.default_rng(0)
    shades = level(g.integers(20, 236, 64))
    data = PictureSet(shades, names=[str(i) for i in range(64)], values={"image": shades})
    pipeline = learned(data, {"image": {"channels": 1}}, 140)
    asked = [np.full((8, 8), shade, np.uint8) for shade in (40, 90, 140, 200)]
    means = pipeline.sample(image=asked).pictures.mean((1, 2, 3))
    assert np.abs(means - [40, 90, 140, 200]).max() < 30
