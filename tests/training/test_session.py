"""A session from data to run folder: what it leaves, how it stops, how it goes on, what it refuses."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import alphabar
from alphabar import storage as atomic
from alphabar.errors import CheckpointError, ConfigurationError, DataError, NonFiniteError, StorageError
from alphabar.runs.checkpoint import is_whole, open_checkpoint
from alphabar.runs.folder import RunFolder
from alphabar.training import settling
from alphabar.training.session import prepare
from alphabar.training.updater import Updater

from .small import NETWORK, pictures, two_moons

FAST = {
    "network.channels": NETWORK["channels"], "network.blocks": 1, "network.attention": [False, True], "network.groups": 4, "schedule.steps": 50,
    "train.batch_size": 8, "train.preview_pictures": 2, "train.preview_steps": 2, "train.validation_pictures": 8, "train.report_every": 2,
}  # fmt: skip


def fast(out, steps=4, data="digits", **more):
    settings = FAST | more.pop("settings", {})
    return prepare(data, out, steps=steps, settings=settings, **more)


def tensors(run: Path, step: int) -> dict[str, torch.Tensor]:
    checkpoint = open_checkpoint(run / "checkpoints" / f"step-{step}")
    return {
        f"{part}.{name}": value
        for part in ("model", "ema", "optimizer")
        for name, value in checkpoint.tensors(part).items()
    }


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_leaves_all_that_is_promised(tmp_path):
    out = tmp_path / "run"
    session = fast(out, 4, settings={"train.preview_every": 2, "train.tensorboard": True})
    reports = list(session.run())
    assert [r.step for r in reports] == [1, 2, 3, 4]
    assert "step 4/4  loss" in str(reports[-1])
    for name in (
        "run.json",
        "config.yaml",
        "environment.json",
        "data.json",
        "data-preview.png",
        "metrics.jsonl",
        "loss.png",
        "previews/filmstrip.png",
    ):
        assert (out / name).stat().st_size > 0, name
    assert sorted(p.name for p in (out / "previews").iterdir()) == [
        "filmstrip.png",
        "step-0.png",
        "step-2.png",
        "step-4.png",
    ]
    assert list((out / "tensorboard").iterdir())
    assert is_whole(out / "checkpoints" / "step-4")
    rows = RunFolder.open(out).metrics()
    assert [row["step"] for row in rows] == [2, 4]
    assert all(
        math.isfinite(row["loss"]) and math.isfinite(row["validation_loss"]) and len(row["loss_by_time"]) == 10
        for row in rows
    )
    assert json.loads((out / "run.json").read_text())["format"] == 2
    assert not [p for p in out.rglob("*") if ".tmp" in p.name or ".old" in p.name]


def test_the_saved_configuration_is_whole_and_repeats_the_run(tmp_path):
    list(fast(tmp_path / "a", 3).run())
    list(prepare(None, tmp_path / "b", config=tmp_path / "a" / "config.yaml").run())
    assert_same(tensors(tmp_path / "a", 3), tensors(tmp_path / "b", 3))
    config = RunFolder.open(tmp_path / "a").config
    assert config.train.steps == 3
    assert config.train.threads == torch.get_num_threads()
    assert config.data.size == [8, 8]
    assert config.classes == [str(i) for i in range(10)]


@pytest.mark.parametrize("times", ["uniform", "importance"])
def test_a_resumed_run_is_the_run_that_never_stopped(tmp_path, times):
    list(fast(tmp_path / "straight", 6, settings={"loss.times": times}).run())
    list(fast(tmp_path / "halves", 3, settings={"loss.times": times}).run())
    second = prepare("digits", tmp_path / "halves", steps=6, resume=True)
    assert second.plan.first_step == 3
    list(second.run())
    assert_same(tensors(tmp_path / "straight", 6), tensors(tmp_path / "halves", 6))


def test_closing_the_generator_saves_and_another_session_goes_on(tmp_path):
    out = tmp_path / "run"
    for report in (session := fast(out, 6)).run():
        if report.step == 2:
            break
    assert session.stopped_early
    assert [p.name for p in RunFolder.open(out).checkpoints()] == ["step-2"]
    list(prepare(None, out, resume=True).run())
    list(fast(tmp_path / "straight", 6).run())
    assert_same(tensors(tmp_path / "straight", 6), tensors(out, 6))


def test_a_stop_request_ends_after_the_step_at_hand_with_a_checkpoint(tmp_path):
    session = fast(tmp_path / "run", 6)
    for _ in session.run():
        session.request_stop()
    assert session.trainer.steps_done == 1
    assert is_whole(tmp_path / "run" / "checkpoints" / "step-1")


def test_an_interrupt_in_the_middle_of_a_step_keeps_the_last_whole_checkpoint_only(tmp_path):
    session = fast(tmp_path / "run", 6, settings={"train.checkpoint_every": 2})
    session.trainer.updater.ema.update = interrupt_at(
        session.trainer.updater.ema.update, 3
    )  # weights moved, their average not
    with pytest.raises(KeyboardInterrupt):
        list(session.run())
    assert [p.name for p in RunFolder.open(tmp_path / "run").checkpoints()] == ["step-2"]


def test_an_interrupt_between_the_update_and_the_count_of_the_step_saves_nothing_of_it(tmp_path):
    """Weights and average are those of step 3, the number of steps is 2: saved, the run would go on as another one."""
    session = fast(tmp_path / "run", 6, settings={"train.checkpoint_every": 2})
    session.trainer.times.update = lambda t, losses: interrupt_at_step(session.trainer.steps_done, 2)
    with pytest.raises(KeyboardInterrupt):
        list(session.run())
    assert [p.name for p in RunFolder.open(tmp_path / "run").checkpoints()] == ["step-2"]


def interrupt_at_step(step, at):
    if step == at:
        raise KeyboardInterrupt


def interrupt_at(update, step):
    def wrapped(module, number):
        if number == step:
            raise KeyboardInterrupt
        update(module, number)

    return wrapped


def test_a_run_that_is_being_trained_is_not_trained_by_another(tmp_path):
    out = tmp_path / "run"
    generator = (session := fast(out, 6, settings={"train.checkpoint_every": 1})).run()
    next(generator)
    with pytest.raises(CheckpointError, match="is being trained by another process"):
        prepare(None, out, resume=True)
    with pytest.raises(CheckpointError, match="exists already"):
        fast(out, 6)
    assert len(alphabar.load(out).with_settings(steps=2).sample(1).pictures) == 1  # reading is free
    generator.close()
    late = prepare(None, out, resume=True)
    list(prepare(None, out, resume=True).run())
    with pytest.raises(CheckpointError, match="was trained by another process meanwhile; start again with --resume"):
        next(late.run())
    assert session.trainer.steps_done == 1
    assert [p.name for p in RunFolder.open(out).checkpoints()][-1] == "step-6"


def test_metrics_of_lost_work_are_dropped_at_resume(tmp_path):
    out = tmp_path / "run"
    list(fast(out, 6, settings={"train.checkpoint_every": 2}).run())
    shutil.rmtree(out / "checkpoints" / "step-6")
    list(prepare(None, out, resume=True).run())
    assert [row["step"] for row in RunFolder.open(out).metrics()] == [2, 4, 6]


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    list(fast(tmp_path / "run", 6, settings={"train.checkpoint_every": 1, "train.keep_checkpoints": 2}).run())
    assert [p.name for p in RunFolder.open(tmp_path / "run").checkpoints()] == ["step-5", "step-6"]


def test_minutes_fix_the_number_of_steps(tmp_path):
    session = prepare("digits", tmp_path / "run", minutes=0.05, settings=FAST)
    assert session.config.train.steps >= 1
    assert session.plan.seconds <= 0.05 * 60 * 1.5
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "seconds", "preset"),
    [
        ({"minutes": 10}, 1.0, "quick"),
        ({"minutes": 10}, 0.1, "small"),
        ({"minutes": 10, "preset": "auto"}, 1.0, "quick"),
        ({"minutes": 10, "preset": "small"}, 1.0, "small"),
        ({"steps": 3}, 1.0, "small"),
    ],
)
def test_short_minutes_take_the_quick_preset_unless_one_is_asked_for(given, seconds, preset, tmp_path, monkeypatch):
    monkeypatch.setattr(settling, "seconds_of", lambda denoiser, shape, way, most: seconds / most / settling.UPDATE)
    monkeypatch.setattr(Updater, "rehearse", lambda self: seconds * (1 - 1 / settling.UPDATE))
    config = prepare(np_file(tmp_path, 20), tmp_path / "run", **given).config
    assert config.preset == preset
    assert config.network.channels == {"quick": [16, 32, 64], "small": [24, 48, 96]}[preset]
    assert config.train.steps == given.get("steps") or int(10 * 60 * settling.TIME_FOR_TRAINING / seconds)


def test_a_run_folder_is_never_written_over(tmp_path):
    list(fast(tmp_path / "run", 1).run())
    with pytest.raises(CheckpointError, match=r"exists already; go on with --resume"):
        fast(tmp_path / "run", 1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious.txt").write_text("x")
    with pytest.raises(CheckpointError, match="exists already; choose another --out"):
        fast(tmp_path / "other", 1)


def test_resume_without_a_run_or_a_checkpoint_says_what_to_do(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        prepare("digits", tmp_path / "nowhere", resume=True)
    list(fast(tmp_path / "run", 1).run())
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        prepare("digits", tmp_path / "run", resume=True)


def test_resume_with_other_settings_is_refused_but_not_for_those_that_may_change(tmp_path):
    list(fast(tmp_path / "run", 1).run())
    with pytest.raises(ConfigurationError, match=r"train\.batch_size cannot change"):
        prepare(None, tmp_path / "run", resume=True, steps=2, settings={"train.batch_size": 16})
    with pytest.raises(ConfigurationError, match=r"schedule\.kind cannot change"):
        prepare(None, tmp_path / "run", resume=True, steps=2, settings={"schedule.kind": "cosine"})
    with pytest.raises(ConfigurationError, match="reached its 1 steps"):
        prepare(None, tmp_path / "run", resume=True)
    assert (
        prepare(
            None, tmp_path / "run", resume=True, steps=2, settings={"train.keep_checkpoints": 9}
        ).config.train.keep_checkpoints
        == 9
    )


def save_folder(folder: Path, n: int = 12, seed: int = 0) -> Path:
    g = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    for i in range(n):
        Image.fromarray(g.integers(0, 255, (8, 8), dtype=np.uint8)).save(folder / f"{i:02d}.PNG")
    return folder


def test_changed_data_is_an_error_with_a_way_to_accept_it(tmp_path):
    folder = save_folder(tmp_path / "data")
    list(fast(tmp_path / "run", 1, data=str(folder)).run())
    moved = folder.rename(tmp_path / "moved")
    list(
        prepare(str(moved), tmp_path / "run", resume=True, steps=2).run()
    )  # the same pictures elsewhere are the same data
    save_folder(moved, 13, seed=3)
    with pytest.raises(DataError, match="--accept-changed-data"):
        prepare(str(moved), tmp_path / "run", resume=True, steps=3)
    list(prepare(str(moved), tmp_path / "run", resume=True, steps=3, accept_changed_data=True).run())


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "checkpoint.json"])
@pytest.mark.parametrize(
    "damage", [truncate, Path.unlink, lambda p: p.write_bytes(b"")], ids=["truncated", "missing", "empty"]
)
def test_a_damaged_checkpoint_is_an_error_that_names_the_previous_good_one(two_checkpoints, name, damage):
    damage(two_checkpoints / "checkpoints" / "step-2" / name)
    with pytest.raises(CheckpointError, match="step-1 is whole"):
        prepare(None, two_checkpoints, resume=True, steps=3)
    shutil.rmtree(two_checkpoints / "checkpoints" / "step-2")
    assert prepare(None, two_checkpoints, resume=True, steps=3).plan.first_step == 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    list(fast(out, 2, settings={"train.checkpoint_every": 1}).run())
    return out


@pytest.fixture
def two_checkpoints(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_a_foreign_checkpoint_is_refused(two_checkpoints):
    checkpoint = two_checkpoints / "checkpoints" / "step-2"
    record = json.loads((checkpoint / "checkpoint.json").read_text())
    record["config"]["network"]["channels"] = [16, 16]
    (checkpoint / "checkpoint.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="does not fit the network"):
        alphabar.load(two_checkpoints)
    (checkpoint / "checkpoint.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        alphabar.load(two_checkpoints)
    (checkpoint / "checkpoint.json").write_text('{"hello": 1}')
    with pytest.raises(CheckpointError, match="step-1 is whole"):
        alphabar.load(two_checkpoints)


def test_a_run_of_a_future_format_is_refused(two_checkpoints):
    (two_checkpoints / "run.json").write_text('{"format": 99}')
    with pytest.raises(CheckpointError, match="run format 99"):
        alphabar.load(two_checkpoints)


def fill_disk(monkeypatch, after: int) -> None:
    """Every flush after this many fails as a full disk does."""
    real, count = os.fsync, iter(range(10**6))

    def fsync(handle):
        if next(count) >= after:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(atomic.os, "fsync", fsync)


def test_a_full_disk_harms_nothing_that_was_there(two_checkpoints, monkeypatch):
    session = prepare(
        None, two_checkpoints, resume=True, steps=4, settings={"train.report_every": 100, "train.preview_every": 100}
    )
    generator = session.run()
    next(generator)
    fill_disk(monkeypatch, 1)
    with pytest.raises(StorageError, match="no space left on the disk"):
        list(generator)
    monkeypatch.undo()
    assert [p.name for p in sorted((two_checkpoints / "checkpoints").iterdir())] == ["step-1", "step-2", "step-3"]
    assert all(is_whole(p) for p in RunFolder.open(two_checkpoints).checkpoints())
    list(prepare(None, two_checkpoints, resume=True, steps=4).run())


def test_a_non_finite_loss_keeps_the_state_before_it(tmp_path):
    session = fast(tmp_path / "run", 6)
    generator = session.run()
    next(generator)
    session.trainer.denoiser.network.conv_out.bias.register_hook(lambda g: g * math.nan)
    with pytest.raises(NonFiniteError, match="kept in"):
        list(generator)
    assert is_whole(tmp_path / "run" / "checkpoints" / "step-1")


def test_points_train_and_sample_from_python(tmp_path):
    settings = {"network.kind": "mlp", "network.width": 16, "train.batch_size": 32}
    for _ in alphabar.train(
        two_moons(64), tmp_path / "run", steps=2, settings=settings, held_out=two_moons(16, seed=1)
    ):
        pass
    pipeline = alphabar.load(tmp_path / "run")
    assert pipeline.shape == (2,)


def test_a_run_records_the_command_that_its_caller_gives_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["notebook", "--token", "secret"])
    for name, given in (("plain", {}), ("named", {"command": "my command"})):
        list(fast(tmp_path / name, 1, **given).run())
        assert RunFolder(tmp_path / name).read("run.json")["command"] == given.get("command", "")


def test_python_and_command_line_take_the_same_settings(tmp_path):
    with pytest.raises(ConfigurationError, match=r"did you mean 'train\.batch_size'"):
        prepare("digits", tmp_path / "run", settings={"train.batchsize": 3})
    with pytest.raises(ConfigurationError, match="did you mean 'tiny'"):
        prepare("digits", tmp_path / "run", preset="tinny")
    with pytest.raises(ConfigurationError, match="did you mean 'linear'"):
        prepare("digits", tmp_path / "run", settings=["schedule.kind=liner"])
    with pytest.raises(ConfigurationError, match="needs at least 2x2"):
        prepare(np_file(tmp_path, 1), tmp_path / "run", steps=1, preset="tiny")


def np_file(folder: Path, side: int) -> str:
    path = folder / "pictures.npy"
    np.save(path, np.random.default_rng(0).integers(0, 255, (30, side, side), dtype=np.uint8))
    return str(path)


def test_an_interrupt_while_gradients_are_taken_saves_the_state_before_the_step(tmp_path):
    session = fast(tmp_path / "run", 6)
    draw = session.trainer.times.draw

    def interrupted(n, seed, step):
        if step == 2:
            raise KeyboardInterrupt
        return draw(n, seed, step)

    session.trainer.times.draw = interrupted
    with pytest.raises(KeyboardInterrupt):
        list(session.run())
    assert [p.name for p in RunFolder.open(tmp_path / "run").checkpoints()] == ["step-2"]
    list(prepare(None, tmp_path / "run", resume=True).run())
    list(fast(tmp_path / "straight", 6).run())
    assert_same(tensors(tmp_path / "straight", 6), tensors(tmp_path / "run", 6))


def test_another_split_or_another_reading_of_the_data_is_refused_at_resume(tmp_path):
    list(fast(tmp_path / "run", 1).run())
    with pytest.raises(ConfigurationError, match=r"data\.held_out cannot change"):
        prepare(None, tmp_path / "run", resume=True, steps=2, settings={"data.held_out": 0.5})
    with pytest.raises(ConfigurationError, match=r"data\.flip cannot change"):
        prepare(None, tmp_path / "run", resume=True, steps=2, settings={"data.flip": True})


def test_resuming_with_the_same_file_keeps_the_planned_steps(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {source: digits}\ntrain: {minutes: 5}\n")
    generator = (session := prepare(None, tmp_path / "run", config=recipe, settings=FAST)).run()
    next(generator)
    generator.close()
    again = prepare(None, tmp_path / "run", config=recipe, resume=True)
    assert again.config.train.steps == session.config.train.steps


def test_a_configuration_with_classes_can_be_used_without_them(tmp_path):
    list(fast(tmp_path / "a", 1).run())
    session = prepare(
        "digits", tmp_path / "b", config=tmp_path / "a" / "config.yaml", settings=["data.class_from=none"]
    )
    assert session.config.classes == []


def test_a_run_on_data_given_from_python_says_so(tmp_path):
    for _ in alphabar.train(pictures(), tmp_path / "run", steps=1, settings=FAST):
        pass
    assert RunFolder.open(tmp_path / "run").config.data.source == "(given from Python)"
    with pytest.raises(DataError, match="given from Python"):
        prepare(None, tmp_path / "other", config=tmp_path / "run" / "config.yaml")
    with pytest.raises(ConfigurationError, match="go on from Python"):
        prepare(None, tmp_path / "run", resume=True, steps=2)
    list(prepare(pictures(), tmp_path / "run", resume=True, steps=2).run())


def test_a_cut_off_line_of_metrics_does_not_swallow_the_next_one(tmp_path):
    out = tmp_path / "run"
    list(fast(out, 2).run())
    with (out / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 3, "lo')
    list(prepare(None, out, resume=True, steps=4).run())
    assert [row["step"] for row in RunFolder.open(out).metrics()] == [2, 4]


@pytest.mark.parametrize(
    "settings",
    [["sample.variance=learned"], ["sample.steps=51"], ["data.background=#12"], {"train.steps": "many"}],
    ids=str,
)
def test_settings_that_cannot_work_are_refused_before_a_folder_is_made(tmp_path, settings):
    Image.new("RGBA", (8, 8)).save((tmp_path / "x").with_suffix(".png"))
    values = {**FAST, **(dict(pair.split("=") for pair in settings) if isinstance(settings, list) else settings)}
    with pytest.raises(ConfigurationError):
        prepare(str(tmp_path), tmp_path / "run", settings=values)
    assert not (tmp_path / "run").exists()


def test_a_section_that_is_no_section_is_an_error(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("data: my-pictures\n")
    with pytest.raises(ConfigurationError, match="data must be a section"):
        prepare(None, tmp_path / "run", config=path)


def test_points_cannot_be_written_as_pictures(tmp_path):
    settings = {"network.kind": "mlp", "network.width": 16, "train.batch_size": 32}
    for _ in alphabar.train(two_moons(64), tmp_path / "run", steps=1, settings=settings):
        pass
    with pytest.raises(ConfigurationError, match=r"use Pipeline\.states"):
        alphabar.load(tmp_path / "run").sample(4)


def test_a_folder_of_hundreds_of_mixed_pictures_trains_and_samples(tmp_path):
    """Sizes, modes and formats at random, some broken: it trains without a crash, and the broken ones are reported."""
    g = np.random.default_rng(0)
    folder, broken = tmp_path / "icons", set()
    folder.mkdir()
    for i in range(240):
        mode = ["L", "LA", "P", "RGB", "RGBA", "CMYK", "1", "I;16"][i % 8]
        ending = {"CMYK": "JPG", "I;16": "png"}.get(mode, ["png", "tiff", "PNG"][i % 3])
        height, width = int(g.integers(3, 90)), int(g.integers(3, 90))
        if mode == "I;16":
            image = Image.fromarray(g.integers(0, 65536, (height, width), dtype=np.uint16))
        else:
            image = Image.fromarray(g.integers(0, 256, (height, width, 4), dtype=np.uint8)).convert(mode)
        path = folder / f"{i:03d}.{ending}"
        image.save(path)
        if i % 40 == 0:
            path.write_bytes(path.read_bytes()[:30])
            broken.add(path.name)
    session = fast(tmp_path / "run", 3, data=str(folder), settings={"data.size": 20, "data.flip": True})
    assert {name for name, _ in session.report.skipped} == broken
    assert session.report.count == 240 - len(broken)
    list(session.run())
    assert alphabar.load(tmp_path / "run").sample(2).pictures.shape == (2, 20, 20, 3)


def test_previews_follow_the_length_that_a_run_has_now(tmp_path):
    out = tmp_path / "run"
    list(fast(out, 12, settings={"train.preview_every": None}).run())
    list(prepare(None, out, resume=True, steps=36).run())
    made = {int(path.stem.removeprefix("step-")) for path in (out / "previews").glob("step-*.png")}
    assert made == {0, *range(1, 13), *range(15, 37, 3)}


def test_a_run_inside_of_its_data_is_no_data(tmp_path):
    for i, picture in enumerate(np.random.default_rng(0).integers(0, 255, (12, 8, 8), dtype=np.uint8)):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    out = tmp_path / "runs" / "mine"
    list(fast(out, 2, data=str(tmp_path)).run())
    assert list(out.rglob("*.png"))
    session = prepare(None, out, resume=True, steps=3)
    assert len(session.data) + len(session.held_out or ()) == 12


def test_a_run_without_a_checkpoint_is_not_to_be_resumed(tmp_path):
    list(fast(tmp_path / "run", 1).run())
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(CheckpointError, match="it has no checkpoint: remove it, or choose another --out"):
        fast(tmp_path / "run", 1)


@pytest.mark.parametrize("minutes", [float("inf"), float("nan"), 0.0])
def test_minutes_that_are_no_time_are_refused(minutes, tmp_path):
    with pytest.raises(ConfigurationError, match=r"train\.minutes"):
        prepare("digits", tmp_path / "run", minutes=minutes, settings=FAST)


def test_a_non_finite_loss_names_the_metrics_where_there_are_some(tmp_path):
    wild = {"train.learning_rate": 1e30, "train.warm_up": 0, "train.clip_norm": 1e30}
    with pytest.raises(NonFiniteError, match=r"Look at loss_by_time in .*run/metrics\.jsonl"):
        list(fast(tmp_path / "run", 4, settings=wild).run())


def test_a_run_whose_kernels_cannot_be_built_here_says_so_and_keeps_its_configuration(tmp_path, monkeypatch):
    """It goes on by torch's own kernels, and on another machine by its own again."""
    list(fast(tmp_path / "run", 2).run())
    run = RunFolder.open(tmp_path / "run")
    for path in (run.path / "config.yaml", run.latest_checkpoint() / "checkpoint.json"):
        path.write_text(
            path.read_text()
            .replace("kernels: native", "kernels: fused")
            .replace('"kernels": "native"', '"kernels": "fused"')
        )
    assert run.config.train.kernels == "fused"
    monkeypatch.setattr(settling, "fused_fails", lambda: "there is no compiler")
    session = prepare(None, tmp_path / "run", resume=True, steps=3)
    assert "there is no compiler" in session.notes[0]
    assert session.trainer.engine.way.kernels == "native"
    list(session.run())
    assert run.config.train.kernels == "fused"
    assert open_checkpoint(run.latest_checkpoint()).config.train.kernels == "fused"
