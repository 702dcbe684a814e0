"""A training session: data, plan, loop and run folder tied together, as a generator that the caller watches and may stop."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..data.load import Progress
from ..engine.speed import fused_works, settle_way
from ..engine.ways import Way
from ..errors import CheckpointError, ConfigurationError, DataError, NonFiniteError, StorageError, unknown
from ..model import build_denoiser, count_parameters, pick_device
from ..runs.checkpoint import Checkpoint, find_checkpoint, open_checkpoint, save_checkpoint
from ..runs.environment import describe_environment, package_version
from ..runs.folder import RunFolder, check_free, check_not_training, training_lock
from ..settings.conditions import read_condition
from ..settings.config import FEW_STEPS, Config, Overrides, merge, resolve
from ..storage import write_json
from .data import OWN_DATA, RunData
from .loop import StepReport, Trainer, TrainingData
from .origin import inherited, take_weights
from .recorder import Recorder, save_data_preview, save_preview, save_preview_conditions
from .resume import changed_config, check_conditions, resumed_conditions, resumed_data

MEASURE_SECONDS, MEASURE_STEPS = 3.0, 20
ESTIMATE_SECONDS = 0.5  # enough where the speed only serves to estimate the time
TIME_FOR_TRAINING = 0.92  # the rest of the minutes goes to previews, validation, checkpoints
PREVIEWS = 12


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
        source: RunData,
        start: Checkpoint | None,
        seconds_per_step: float,
        origin: Checkpoint | None = None,
        command: str = "",
    ) -> None:
        self.out, self.config, self.start, self.origin, self.command = out, config, start, origin, command
        self.data, self.held_out, self.report = source.train, source.held_out, source.report
        self.fingerprint = source.fingerprint
        self.trainer = Trainer(config, source.train)
        if start is not None:
            self.trainer.load_state(
                start.step, start.tensors("model"), start.tensors("ema"), start.tensors("optimizer")
            )
        self.fresh: list[str] = []  # encoders that do not come from the origin
        if origin is not None:
            self.fresh = take_weights(self.trainer.denoiser, origin)
            self.trainer.ema.module.load_state_dict(self.trainer.denoiser.state_dict())
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
            str(self.trainer.device), str(Way(train.precision, train.kernels)), torch.get_num_threads(), count_parameters(self.trainer.denoiser), done, train.steps or 0,
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
        loss all save a checkpoint first, unless the weights are half way through an update or the disk is full.

        Raises CheckpointError where another process trains into the folder; meanwhile no other can.
        """
        with training_lock(self.out):
            yield from self._train()

    def _train(self) -> Iterator[StepReport]:
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
            kept = f", the state before it is kept in {run.path}/checkpoints" if self.trainer.steps_done else ""
            raise NonFiniteError(f"{error}. Look at loss_by_time in {run.path}/metrics.jsonl{kept}") from None
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
            if run.latest_checkpoint() != self.start.path:
                raise CheckpointError(f"{self.out} was trained by another process meanwhile; start again with --resume")
            Recorder(
                run,
                self.config.model_copy(update={"train": self.config.train.model_copy(update={"tensorboard": False})}),
            ).rewind(self.start.step)
        else:
            run = RunFolder.create(self.out, self.command)
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
            every = train.preview_every or max(1, report.steps // PREVIEWS)
            if report.step % every == 0 or report.step == report.steps:
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
    init: str | Path | None = None,
    accept_changed_data: bool = False,
    held_out: TrainingData | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Session:
    """Read the data, settle every setting, measure the speed; return a session that is ready to run.

    data: a source as in `alphabar train`, or an object with the methods of `TrainingData`, then `held_out` may be given too;
    None with resume: what the run was made from. settings: {"train.batch_size": 64} or ["train.batch_size=64"], over those of
    the file `config`, over those of the preset. init: a run or checkpoint folder whose network and averaged weights to start
    from, as a new run. command: recorded in run.json as what made the run. Raises ConfigurationError, DataError or CheckpointError.
    """
    out = Path(out)
    values = resolve(preset, Path(config) if config else None, settings)
    for key, value in (("steps", steps), ("minutes", minutes)):
        if value is not None:
            values = merge(values, {"train": {key: value} | ({"steps": None} if key == "minutes" else {})})
    if resume and init is not None:
        raise ConfigurationError(
            "--resume goes on with a run, --init starts a new one from another's weights; give one"
        )
    if resume:
        return _resume(data, out, values, minutes, accept_changed_data, held_out, progress)
    check_free(out)
    origin = None if init is None else find_checkpoint(Path(init))
    values = values if origin is None else merge(inherited(origin), values)
    source = RunData.read(data, held_out, values, out, progress)
    settled, seconds = settle_preset(values, source)
    return Session(out, settled, source, None, seconds, origin, command)


def settle_preset(values: Mapping[str, Any], source: RunData) -> tuple[Config, float]:
    """The configuration that is trained, and the seconds of a step: "auto" becomes the quick preset where the minutes are short for the small one."""
    chosen = source.config(values)
    check_before_start(chosen)
    settled, seconds = settle(chosen, source.train)
    of_minutes = chosen.train.steps is None and values.get("preset", "auto") == "auto"
    if of_minutes and settled.preset == "small" and (settled.train.steps or 0) < FEW_STEPS:
        return settle(source.config({**values, "preset": "quick"}), source.train)
    return settled, seconds


def settle(config: Config, data: TrainingData) -> tuple[Config, float]:
    """Fill in what only the machine can tell: threads, and the number of steps that fit into the minutes. Returns the speed too."""
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    config = with_speed(with_train(config, threads=torch.get_num_threads()), data)
    seconds = measure_step(config, data, ESTIMATE_SECONDS if config.train.steps else MEASURE_SECONDS)
    steps = config.train.steps or max(1, int(config.train.minutes * 60 * TIME_FOR_TRAINING / seconds))
    return with_train(config, steps=steps), seconds


def with_speed(config: Config, data: TrainingData) -> Config:
    """The configuration with precision and kernels settled: as given, or the fastest here that agree with plain float32."""
    train = config.train
    if len(data.shape) != 3 or len(data) == 0:
        plain = {"precision": "float32", "kernels": "native"}
        return with_train(config, **{key: value for key, value in plain.items() if getattr(train, key) == "auto"})
    denoiser = build_denoiser(config, data.shape).to(pick_device(train.device))
    if train.channels_last:
        denoiser = denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    denoiser.train()
    choice = settle_way(
        denoiser,
        data.shape,
        train.precision,
        train.kernels,
        lambda a_picture: train.steps * train.batch_size * a_picture if train.steps else train.minutes * 60,
    )
    return with_train(config, precision=choice.way.precision, kernels=choice.way.kernels)


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
    warm = sorted(taken[1:])  # the first one also loads and compiles what the others find ready
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
    start = last_checkpoint(out)
    saved = start.config.model_dump()
    if data is None and start.config.data.source == OWN_DATA:
        raise ConfigurationError(f"{out} was trained on data given from Python; go on from Python, with the same data")
    given = values.get("data") or {}
    own = resumed_data(saved["data"], given)
    conditions = resumed_conditions(saved["conditions"], values.get("conditions") or {}, given.get("conditions"))
    settled = {name: read_condition(name, v) for name, v in conditions.items()}
    config = changed_config(start.config, values).model_copy(update={"conditions": settled})
    source = RunData.read(data, held_out, {"data": own, "conditions": conditions}, out, progress)
    check_same_data(source, start, out, accept_changed_data)
    if config.train.kernels == "fused" and not fused_works():
        config = with_train(config, kernels="native")  # the same but for rounding
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
        place = {"source": source.settings.source, "path": source.settings.path}
        config = config.model_copy(update={"data": config.data.model_copy(update=place)})
    return Session(out, config, source, start, seconds)


def last_checkpoint(out: Path) -> Checkpoint:
    """The one that a training goes on from. Raises CheckpointError, and ConfigurationError if it holds weights only."""
    run = RunFolder.open(out)
    check_not_training(out)
    start = open_checkpoint(run.latest_checkpoint())
    for part in ("model", "ema", "optimizer"):
        if not start.tensors(part):  # a damaged file is found here, before the data is read
            raise ConfigurationError(
                f"{out} holds weights without a training to go on with; start a new run from them: alphabar train DATA --init {out} --out NEW"
            )
    return start


def check_same_data(source: RunData, start: Checkpoint, out: Path, accept_changed_data: bool) -> None:
    """Raise DataError for other data than the run was trained on, unless that is accepted, and for data that it cannot go on with."""
    if source.fingerprint != start.fingerprint and not accept_changed_data:
        raise DataError(
            f"the data (or which of it is held out) differs from what {out} was trained on; give the same data, or --accept-changed-data to go on with what is there"
        )
    if tuple(source.train.shape) != start.shape:
        raise DataError(
            f"the data has shape {tuple(source.train.shape)}, the run {start.shape}; give data of the same shape"
        )
    check_conditions(source, start.config)


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
