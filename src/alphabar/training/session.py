"""A training session: data, plan, loop and run folder tied together, as a generator that the caller watches and may stop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.load import Progress
from ..data.pictures import TrainingData
from ..diffusion.objective import Objective
from ..errors import CheckpointError, ConfigurationError, DataError, NonFiniteError, StorageError
from ..model import count_parameters
from ..runs.checkpoint import Checkpoint, find_checkpoint, open_checkpoint, save_checkpoint
from ..runs.environment import describe_environment
from ..runs.folder import RunFolder, check_free, check_not_training, training_lock
from ..settings.conditions import read_condition
from ..settings.config import Config, Overrides, merge, resolve
from ..storage import write_json
from .data import OWN_DATA, RunData
from .origin import inherited, take_weights
from .recorder import Recorder, save_data_preview, save_preview, save_preview_conditions
from .resume import changed_config, check_conditions, resumed_conditions, resumed_data
from .settling import TIME_FOR_TRAINING, Settled, settle_preset, settle_resumed
from .step import StepReport, Trainer

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
        settled: Settled,
        source: RunData,
        start: Checkpoint | None = None,
        origin: Checkpoint | None = None,
        command: str = "",
        objective: Objective | None = None,
    ) -> None:
        self.out, self.start, self.origin, self.command = out, start, origin, command
        self.data, self.held_out, self.report = source.train, source.held_out, source.report
        self.fingerprint, self.notes = source.fingerprint, list(settled.notes)
        self.trainer = Trainer(settled.config, source.train, settled.denoiser, objective, settled.engine)
        self.seconds_per_step = settled.seconds + self.trainer.updater.rehearse()
        self.fresh: list[str] = []  # encoders that do not come from the origin
        if start is not None:
            self.trainer.load_state(
                start.step, start.tensors("model"), start.tensors("ema"), start.tensors("optimizer")
            )
        if origin is not None:
            self.fresh = take_weights(self.trainer.denoiser, origin)
            self.trainer.average.load_state_dict(self.trainer.denoiser.state_dict())
        if settled.config.train.steps is None:
            self.plan_minutes(settled.config.train.minutes)
        self.recorder: Recorder | None = None
        self._stop = False
        self._saved = self.trainer.steps_done if start else None

    @property
    def config(self) -> Config:
        """The whole configuration, with nothing left open."""
        return self.trainer.config

    def plan_minutes(self, minutes: float) -> None:
        """Set the number of steps to as many as fit into these minutes from here on."""
        more = max(1, int(minutes * 60 * TIME_FOR_TRAINING / self.seconds_per_step))
        self.trainer.plan_steps(self.trainer.steps_done + more)

    @property
    def plan(self) -> Plan:
        """Device, precision, size of the network, steps, epochs and the time that they should take."""
        train, done = self.config.train, self.trainer.steps_done
        left = max(0, (train.steps or 0) - done)
        return Plan(
            str(self.trainer.engine.device), str(self.trainer.engine.way), train.threads or 1, count_parameters(self.trainer.denoiser), done, train.steps or 0,
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
            with self.trainer.engine.stepping():
                save_preview(run, self.config, self.trainer.average, data, self.trainer.steps_done)
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
    objective: Objective | None = None,
) -> Session:
    """Read the data, settle every setting, measure the speed; return a session that is ready to run.

    data: a source as in `alphabar train`, or an object with the methods of `TrainingData`, then `held_out` may be given too;
    None with resume: what the run was made from. settings: {"train.batch_size": 64} or ["train.batch_size=64"], over those of
    the file `config`, over those of the preset. init: a run or checkpoint folder whose network and averaged weights to start
    from, as a new run. command: recorded in run.json as what made the run. objective: what is
    minimised, default: denoising; a run does not record it. Raises ConfigurationError, DataError or CheckpointError.
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
        return _resume(data, out, values, minutes, accept_changed_data, held_out, progress, objective)
    check_free(out)
    origin = None if init is None else find_checkpoint(Path(init))
    values = values if origin is None else merge(inherited(origin), values)
    source = RunData.read(data, held_out, values, out, progress)
    return Session(out, settle_preset(values, source), source, None, origin, command, objective)


def _resume(
    data: str | Path | TrainingData | None,
    out: Path,
    values: Mapping[str, Any],
    minutes: float | None,
    accept_changed_data: bool,
    held_out: TrainingData | None,
    progress: Progress | None,
    objective: Objective | None,
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
    if source.settings is not None:
        place = {"source": source.settings.source, "path": source.settings.path}
        config = config.model_copy(update={"data": config.data.model_copy(update=place)})
    if minutes is None and start.step >= (config.train.steps or 0):
        raise ConfigurationError(
            f"{out} has reached its {config.train.steps} steps already; give more --steps or --minutes to go on"
        )
    session = Session(out, settle_resumed(config, source.train), source, start, objective=objective)
    if minutes is not None:
        session.plan_minutes(minutes)
    return session


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
