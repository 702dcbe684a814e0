"""A training session: data, plan, loop and run folder tied together, as a generator that the caller watches and may stop."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..conditions.kinds import kind_of, read_settings
from ..config import Config, Overrides, finish, merge, preset_values, resolve, validate
from ..data.found import DataReport
from ..data.load import Progress, load_data
from ..data.pictures import PictureSet
from ..data.settings import DataSettings
from ..errors import ConfigurationError, DataError, NonFiniteError, StorageError, unknown
from ..model import count_parameters
from ..runs.atomic import write_json
from ..runs.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from ..runs.environment import describe_environment, package_version
from ..runs.folder import RunFolder, check_free
from .loop import StepReport, Trainer, TrainingData
from .recorder import Recorder, save_data_preview, save_preview, save_preview_conditions
from .settings import RESUMABLE

MEASURE_SECONDS, MEASURE_STEPS = 3.0, 20
LONG_STEP = 10.0  # seconds; of such steps one is enough
ESTIMATE_SECONDS = 0.5  # enough where the speed only serves to estimate the time
TIME_FOR_TRAINING = 0.92  # the rest of the minutes goes to previews, validation, checkpoints
PREVIEWS = 12
CACHE = Path("cache") / "pictures.npy"
OWN_DATA = "(given from Python)"
MAY_MOVE = {"source", "path", "memory_gb", "strict"}
"""Settings of the data that say where it is and how it is read, not what it is."""


@dataclass(frozen=True)
class Plan:
    """What is going to happen: printed before training starts."""

    device: str
    precision: str
    threads: int
    parameters: int
    first_step: int
    steps: int
    epochs: float
    seconds: float


class Session:
    """One sitting of a run. `run()` trains; `request_stop()` makes it save and end after the step at hand."""

    def __init__(
        self,
        out: Path,
        config: Config,
        train: TrainingData,
        held_out: TrainingData | None,
        report: DataReport | None,
        start: Checkpoint | None,
        seconds_per_step: float,
    ) -> None:
        self.out, self.config, self.data, self.held_out, self.report, self.start = (
            out,
            config,
            train,
            held_out,
            report,
            start,
        )
        self.fingerprint = report.fingerprint if report else train.fingerprint()
        self.trainer = Trainer(config, train)
        if start is not None:
            self.trainer.load_state(
                start.step, start.tensors("model"), start.tensors("ema"), start.tensors("optimizer")
            )
        self.seconds_per_step = seconds_per_step
        self.recorder: Recorder | None = None
        self._stop = False
        self._saved = self.trainer.steps_done if start else None

    @property
    def plan(self) -> Plan:
        """Device, precision, size of the network, steps, epochs and the time that they should take."""
        train, done = self.config.train, self.trainer.steps_done
        left = max(0, (train.steps or 0) - done)
        return Plan(
            str(self.trainer.device), train.precision, torch.get_num_threads(), count_parameters(self.trainer.denoiser), done, train.steps or 0,
            (train.steps or 0) * train.batch_size / len(self.data), left * self.seconds_per_step / TIME_FOR_TRAINING,
        )  # fmt: skip

    def request_stop(self) -> None:
        """End after the step at hand, with a checkpoint."""
        self._stop = True

    @property
    def stopped_early(self) -> bool:
        """Whether the run ended before its last step."""
        return self.trainer.steps_done < (self.config.train.steps or 0)

    def run(self) -> Iterator[StepReport]:
        """Train to train.steps, yielding a report a step. Closing the generator, an interrupt, a stop request and a non-finite
        loss all save a checkpoint first, unless the weights are half way through an update or the disk is full."""
        run = self._open_folder()
        self.recorder = recorder = Recorder(run, self.config)
        storable = True
        try:
            if self.trainer.steps_done == 0:
                self._preview(run)
            while self.stopped_early and not self._stop:
                report = self.trainer.step()
                self._record(run, recorder, report)
                yield report
        except NonFiniteError as error:
            kept = f". The state before it is kept in {run.path}/checkpoints" if self.trainer.steps_done else ""
            raise NonFiniteError(f"{error}{kept}") from None
        except StorageError:
            storable = False  # there is nowhere to save to; the last checkpoint stands
            raise
        finally:
            recorder.close()
            if storable and self.trainer.whole and self.trainer.steps_done and self._saved != self.trainer.steps_done:
                self._save(run)
        recorder.plot()

    def _open_folder(self) -> RunFolder:
        if self.start is not None:
            run = RunFolder.open(self.out)
            Recorder(
                run,
                self.config.model_copy(update={"train": self.config.train.model_copy(update={"tensorboard": False})}),
            ).rewind(self.start.step)
        else:
            run = RunFolder.create(self.out, " ".join(sys.argv))
            write_json(run.path / "environment.json", describe_environment())
            if len(self.data.shape) == 3:
                save_data_preview(run, self.data, self.trainer.denoiser)
        run.write_config(self.config)
        if self.report is not None:
            write_json(run.path / "data.json", self.report.to_json())
        return run

    def _record(self, run: RunFolder, recorder: Recorder, report: StepReport) -> None:
        train = self.config.train
        if recorder.take(report):
            with recorder.pause():
                loss = (
                    None
                    if self.held_out is None
                    else self.trainer.validation_loss(self.held_out, train.validation_pictures)
                )
            recorder.write_line(loss)
        with recorder.pause():
            if report.step % (train.preview_every or report.steps) == 0 or report.step == report.steps:
                self._preview(run)
                recorder.plot()
            if report.step % train.checkpoint_every == 0 or report.step == report.steps:
                self._save(run)

    def _preview(self, run: RunFolder) -> None:
        if len(self.data.shape) == 3:
            data = self.held_out if self.held_out is not None and len(self.held_out) else self.data
            save_preview(run, self.config, self.trainer.ema.module, data, self.trainer.steps_done)
            if self.trainer.steps_done == 0 and set(self.config.conditions) - {"class"}:
                save_preview_conditions(run, data, self.trainer.denoiser, self.config.train.preview_pictures)

    def _save(self, run: RunFolder) -> None:
        step = self.trainer.steps_done
        save_checkpoint(run, step, self.config, tuple(self.data.shape), self.fingerprint, self.trainer.state())
        self._saved = step


def train(data: str | Path | TrainingData, out: str | Path, **options: Any) -> Iterator[StepReport]:
    """Train on a folder, an array file, a built-in set or your own data, into the run folder `out`. Options as in `prepare`.

    Nothing happens until the generator is iterated; each item reports one step.
    """
    yield from prepare(data, out, **options).run()


def prepare(
    data: str | Path | TrainingData | None,
    out: str | Path,
    *,
    preset: str | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    settings: Overrides = (),
    config: str | Path | None = None,
    resume: bool = False,
    accept_changed_data: bool = False,
    held_out: TrainingData | None = None,
    progress: Progress | None = None,
) -> Session:
    """Read the data, settle every setting, measure the speed; return a session that is ready to run.

    data: a source as in `alphabar train`, or an object with the methods of `TrainingData`, then `held_out` may be given too;
    None with resume: what the run was made from. settings: {"train.batch_size": 64} or ["train.batch_size=64"], over those of
    the file `config`, over those of the preset. Raises ConfigurationError, DataError or CheckpointError.
    """
    out = Path(out)
    values = resolve(preset, Path(config) if config else None, settings)
    for key, value in (("steps", steps), ("minutes", minutes)):
        if value is not None:
            values = merge(values, {"train": {key: value} | ({"steps": None} if key == "minutes" else {})})
    if resume:
        return _resume(data, out, values, minutes, accept_changed_data, held_out, progress)
    check_free(out)
    source = _Data.read(data, held_out, values, out, progress)
    chosen = source.config(values)
    check_before_start(chosen)
    settled = settle(chosen, source.train)
    return Session(out, settled[0], source.train, source.held_out, source.report, None, settled[1])


@dataclass(frozen=True)
class _Data:
    train: TrainingData
    held_out: TrainingData | None
    report: DataReport | None
    settings: DataSettings | None
    conditions: Mapping[str, Mapping[str, Any]] | None = None

    @classmethod
    def read(
        cls,
        data: str | Path | TrainingData | None,
        held_out: TrainingData | None,
        values: Mapping[str, Any],
        out: Path,
        progress: Progress | None,
    ) -> _Data:
        """Load the source that is named, or take the object that is given as it is."""
        if data is not None and not isinstance(data, str | Path):
            return cls(data, held_out, None, None)
        own = values.get("data") or {}
        wanted = dict(preset_free(own, values.get("preset")))
        settings = validate(DataSettings, wanted | ({} if data is None else {"source": str(data)}))
        set_ = {name: v for name, v in (values.get("conditions") or {}).items() if v is not None}
        loaded = load_data(settings, out / CACHE, progress, set_)
        may_flip = own.get("flip") is not None or all(kind_of(n, v).mirrors for n, v in loaded.conditions.items())
        settled = loaded.settings.model_copy(update={"flip": bool(loaded.settings.flip) and may_flip})
        return cls(loaded.train, loaded.held_out, loaded.report, settled, loaded.conditions)

    def config(self, values: Mapping[str, Any]) -> Config:
        """The configuration with what the data says filled in."""
        filled = dict(values)
        own = {**(values.get("data") or {}), "source": OWN_DATA}
        filled["data"] = own if self.settings is None else self.settings.model_dump()
        found = self._own_conditions(values) if self.conditions is None else self.conditions
        filled["conditions"] = {name: read_settings(name, v).model_dump() for name, v in found.items() if v is not None}
        still = any(not kind_of(name, v).mirrors for name, v in filled["conditions"].items())
        if still and filled["data"].get("flip") is None:
            filled["data"] = {**filled["data"], "flip": False}
        if filled["conditions"]:
            filled["network"] = conditional_network(values)
        return finish(filled, self.train.shape[1:] or (1,))

    def _own_conditions(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The conditions of data given from Python: those that are set, and for a PictureSet all that it holds."""
        found = {name: v for name, v in (values.get("conditions") or {}).items() if v is not None}
        if not isinstance(self.train, PictureSet):
            return found
        own = found.pop("class", {})
        held = {"class": {**own, "classes": self.train.classes}} if self.train.labels is not None else {}
        for name, column in self.train.values.items():
            settings = found.get(name, {})
            held[name] = (
                kind_of(name, settings).settle(read_settings(name, settings), np.asarray(column[:])).model_dump()
            )
        wanted = (values.get("data") or {}).get("conditions")
        offered = held | {name: v for name, v in found.items() if name not in held}
        for name in wanted or ():
            if name not in offered:
                raise ConfigurationError(
                    f"data.conditions: the data has no {name!r}; it has: {', '.join(offered) or 'none'}"
                )
        return offered if wanted is None else {name: offered[name] for name in wanted}


def conditional_network(values: Mapping[str, Any]) -> dict[str, Any]:
    """The network's settings, with scale-shift normalisation (Dhariwal & Nichol 2021) unless they or the preset say otherwise."""
    own, preset = values.get("network") or {}, values.get("preset", "auto")
    under = {} if preset == "auto" else preset_values(str(preset)).get("network", {})
    open_ = own.get("kind", "unet") == "unet" and "time_mode" not in {**under, **own}
    return {**own, "time_mode": "scale_shift"} if open_ else dict(own)


def preset_free(data: Mapping[str, Any], preset: str | None) -> dict[str, Any]:
    """The data settings with those of a named preset under them ("auto" has none)."""
    return dict(data) if preset in (None, "auto") else merge(preset_values(str(preset)).get("data", {}), data)


def settle(config: Config, data: TrainingData) -> tuple[Config, float]:
    """Fill in what only the machine can tell: threads, and the number of steps that fit into the minutes. Returns the speed too."""
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    config = with_train(config, threads=torch.get_num_threads())
    seconds = measure_step(config, data, ESTIMATE_SECONDS if config.train.steps else MEASURE_SECONDS)
    steps = config.train.steps or max(1, int(config.train.minutes * 60 * TIME_FOR_TRAINING / seconds))
    return with_train(
        config, steps=steps, preview_every=config.train.preview_every or max(1, steps // PREVIEWS)
    ), seconds


def with_train(config: Config, **changes: Any) -> Config:
    """The configuration with other training settings."""
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def measure_step(config: Config, data: TrainingData, budget: float) -> float:
    """Seconds of one optimizer step, the median of those that fit into `budget` seconds, on a trainer that is thrown away."""
    if len(data) == 0:
        raise DataError("there is nothing to train on: all pictures are held out; lower data.held_out")
    trainer = Trainer(config, data)
    began, taken = time.monotonic(), list[float]()
    while len(taken) < 2 or (time.monotonic() - began < budget and len(taken) < MEASURE_STEPS):
        start = time.monotonic()
        trainer.step()
        taken.append(time.monotonic() - start)
        if taken[0] > LONG_STEP:
            break
    warm = sorted(taken[1:] or taken)
    return warm[len(warm) // 2]


def _resume(
    data: str | Path | TrainingData | None,
    out: Path,
    values: Mapping[str, Any],
    minutes: float | None,
    accept_changed_data: bool,
    held_out: TrainingData | None,
    progress: Progress | None,
) -> Session:
    run = RunFolder.open(out)
    start = open_checkpoint(run.latest_checkpoint())
    for part in ("model", "ema", "optimizer"):
        start.tensors(part)  # a damaged file is found before the data is read
    saved = start.config.model_dump()
    if data is None and start.config.data.source == OWN_DATA:
        raise ConfigurationError(f"{out} was trained on data given from Python; go on from Python, with the same data")
    check_data_settings(saved["data"], values.get("data") or {})
    wanted = {"data": merge(saved["data"], values.get("data") or {}), "conditions": saved["conditions"]}
    source = _Data.read(data, held_out, wanted, out, progress)
    fingerprint = source.report.fingerprint if source.report else source.train.fingerprint()
    if fingerprint != start.fingerprint and not accept_changed_data:
        raise DataError(
            f"the data (or which of it is held out) differs from what {out} was trained on; give the same data, or --accept-changed-data to go on with what is there"
        )
    if tuple(source.train.shape) != start.shape:
        raise DataError(
            f"the data has shape {tuple(source.train.shape)}, the run {start.shape}; give data of the same shape"
        )
    check_conditions(source, start.config)
    config = changed_config(start.config, values)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    seconds = measure_step(config, source.train, ESTIMATE_SECONDS if minutes is None else MEASURE_SECONDS)
    if minutes is not None:
        config = with_train(config, steps=start.step + max(1, int(minutes * 60 * TIME_FOR_TRAINING / seconds)))
    if start.step >= (config.train.steps or 0):
        raise ConfigurationError(
            f"{out} has reached its {config.train.steps} steps already; give more --steps or --minutes to go on"
        )
    if source.settings is not None:
        config = config.model_copy(
            update={
                "data": config.data.model_copy(update={"source": source.settings.source, "path": source.settings.path})
            }
        )
    return Session(out, config, source.train, source.held_out, source.report, start, seconds)


def check_data_settings(saved: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Raise ConfigurationError if a resumed run is asked to read its data in another way."""
    before = validate(DataSettings, saved)
    after = validate(DataSettings, merge(saved, changes))
    for name in DataSettings.model_fields:
        open_before = name in ("class_from", "flip", "conditions") and getattr(after, name) in ("auto", None)
        if name not in MAY_MOVE and not open_before and getattr(after, name) != getattr(before, name):
            raise ConfigurationError(f"data.{name} cannot change when a run goes on (it would be another run)")


def check_before_start(config: Config) -> None:
    """Raise ConfigurationError for settings that would only fail once the run folder exists, or when samples are made."""
    if config.sample.variance == "learned" and not config.diffusion.learned_variance:
        raise ConfigurationError("sample.variance=learned needs diffusion.learned_variance=true")
    if config.schedule.kind != "continuous_cosine" and (config.sample.steps or 0) > config.schedule.steps:
        raise ConfigurationError(
            f"sample.steps = {config.sample.steps} is more than schedule.steps = {config.schedule.steps}"
        )
    guidance = config.sample.guidance
    for name in guidance if isinstance(guidance, dict) else ():
        if name not in config.conditions:
            raise unknown("condition in sample.guidance", name, config.conditions)
    if config.train.tensorboard and package_version("tensorboard") is None:
        raise ConfigurationError("train.tensorboard needs TensorBoard: pip install 'alphabar[tensorboard]'")


def check_conditions(source: _Data, config: Config) -> None:
    """Raise DataError if the data's conditions, its classes among them, are not those that the run was trained with."""
    if source.conditions is None:
        own = source.train.classes if isinstance(source.train, PictureSet) else config.classes
        differ = ["class"] if own != config.classes else []
    else:
        found = {name: read_settings(name, v).model_dump() for name, v in source.conditions.items()}
        differ = [
            n for n in {**found, **config.conditions} if _meaning(found.get(n)) != _meaning(config.conditions.get(n))
        ]
    if differ:
        raise DataError(
            f"the data's {', '.join(differ)} is not that of the run (its classes: {', '.join(config.classes) or 'none'}); give data with the same conditions"
        )


def _meaning(settings: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The settings of a condition without those that say where it lies."""
    return (
        None if settings is None else {k: v for k, v in settings.items() if k not in ("column", "folder", "instances")}
    )


def changed_config(config: Config, values: Mapping[str, Any]) -> Config:
    """The saved configuration with the changes that a resumed run may make. Raises ConfigurationError for any other."""
    saved = config.model_dump()
    changes = {key: value for key, value in values.items() if key != "data"}
    if changes.get("preset") in ("auto", config.preset):
        changes.pop("preset")
    if isinstance(changes.get("train"), Mapping) and changes["train"].get("steps", 0) is None:
        changes["train"] = {key: value for key, value in changes["train"].items() if key != "steps"}
    changed = validate(Config, merge(saved, changes))
    for section, value in changed.model_dump().items():
        for key in (
            [key for key in value if value[key] != saved[section].get(key)]
            if isinstance(value, dict)
            else [""] * (value != saved[section])
        ):
            if section != "train" or key not in RESUMABLE:
                name = f"{section}.{key}".rstrip(".")
                raise ConfigurationError(
                    f"{name} cannot change when a run goes on (it would be another run); it may only for: train.{', train.'.join(sorted(RESUMABLE))}"
                )
    return changed


def remove_cache(out: Path) -> None:
    """Remove the decoded pictures and values beside a run, and the folders that held nothing else."""
    for path in (out / CACHE).parent.glob(f"*{CACHE.suffix}"):
        path.unlink()
    for folder in ((out / CACHE).parent, out):
        with contextlib.suppress(OSError):  # not empty, or never made
            folder.rmdir()
