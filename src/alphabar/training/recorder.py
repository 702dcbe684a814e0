"""What training leaves in the run folder besides checkpoints: metrics, the loss curve, previews from the same noise."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.pictures import PictureSet, TrainingData, to_uint8
from ..diffusion.denoiser import Denoiser
from ..generation.images import filmstrip, grid, save_png
from ..generation.pipeline import Asked, Pipeline, with_conditions
from ..randomness import derive_seeds
from ..runs.folder import RunFolder
from ..samplers.base import last_state
from ..settings.config import Config
from ..storage import write_text
from .plots import save_loss_plot
from .step import StepReport

TIME_BUCKETS = 10
PREVIEW_SEED = 0
PLAIN_TILES, CONDITIONED_TILES = 64, 36
CLASS_ROWS, MOST_COLUMNS = 6, 16


class Recorder:
    """Averages step reports into lines of metrics.jsonl, and draws."""

    def __init__(self, run: RunFolder, config: Config) -> None:
        self.run, self.config = run, config
        self.last: dict[str, Any] = {}
        self.events = _tensorboard(run.path) if config.train.tensorboard else None
        self._restart()

    def _restart(self) -> None:
        self.reports: list[StepReport] = []
        self.started = time.monotonic()

    def take(self, report: StepReport) -> bool:
        """Take in a step; true if a line of metrics is due."""
        self.reports.append(report)
        return report.step % self.config.train.report_every == 0 or report.step == report.steps

    def write_line(self, validation_loss: float | None) -> dict[str, Any]:
        """Write the line of metrics of the steps since the last one."""
        reports, seconds = self.reports, time.monotonic() - self.started
        row: dict[str, Any] = {
            "step": reports[-1].step,
            "loss": float(np.mean([r.loss for r in reports])),
            "validation_loss": validation_loss,
            "loss_by_time": loss_by_time(reports),
            "gradient_norm": float(np.mean([r.gradient_norm for r in reports])),
            "learning_rate": reports[-1].learning_rate,
            "images_per_second": len(reports) * self.config.train.batch_size / max(seconds, 1e-9),
            "steps_per_second": len(reports) / max(seconds, 1e-9),
            "time": time.time(),
        }
        self.run.append_metrics(row)
        if self.events is not None:
            for key, value in row.items():
                if isinstance(value, float) and key != "time":
                    self.events.add_scalar(key, value, row["step"])
        self.last = row
        self._restart()
        return row

    def pause(self) -> PauseClock:
        """A block whose time does not count as training time."""
        return PauseClock(self)

    def rewind(self, step: int) -> None:
        """Drop lines of metrics beyond `step` (that work was lost and will be done again), and a line that was cut off."""
        path = self.run.path / "metrics.jsonl"
        kept = "".join(json.dumps(row) + "\n" for row in self.run.metrics() if row["step"] <= step)
        if path.exists() and path.read_text() != kept:
            write_text(path, kept)

    def plot(self) -> None:
        """Draw loss.png from metrics.jsonl."""
        rows = self.run.metrics()
        if rows:
            save_loss_plot(self.run.path / "loss.png", rows)

    def close(self) -> None:
        """Close what is open."""
        if self.events is not None:
            self.events.close()


class PauseClock:
    """Moves the recorder's clock on by the time that the block took."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __enter__(self) -> None:
        self.began = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self.recorder.started += time.monotonic() - self.began


def loss_by_time(reports: Sequence[StepReport], buckets: int = TIME_BUCKETS) -> list[float | None]:
    """The mean squared error on the target in each of ten equal parts of t in (0, 1], None where no t was drawn."""
    t = np.concatenate([r.times.numpy() for r in reports])
    errors = np.concatenate([r.squared_errors.double().numpy() for r in reports])
    bucket = np.clip(np.ceil(t * buckets - 1e-9).astype(int) - 1, 0, buckets - 1)
    sums, counts = np.bincount(bucket, errors, buckets), np.bincount(bucket, minlength=buckets)
    return [float(s / c) if c else None for s, c in zip(sums, counts, strict=True)]


def save_preview(
    run: RunFolder, config: Config, denoiser: Denoiser, data: TrainingData, step: int, seed: int = PREVIEW_SEED
) -> Path:
    """Sample previews/step-N.png from the same noise and conditions as always, and join all previews to previews/filmstrip.png."""
    n, most = config.train.preview_pictures, denoiser.schedule.steps or config.train.preview_steps
    pipeline = Pipeline(denoiser, data.shape, config.sample)
    pipeline = pipeline.with_settings(steps=min(config.train.preview_steps, most))
    seeds = derive_seeds(seed, n)
    last = last_state(pipeline.states(seeds, preview_conditions(pipeline, data, n)))
    path = run.path / "previews" / f"step-{step}.png"
    save_png(path, grid(to_uint8(last.x_t), columns=n), {"step": step, "seeds": seeds} | pipeline.sampling_record())
    save_filmstrip(run)
    return path


def preview_conditions(pipeline: Pipeline, data: TrainingData, n: int) -> Asked:
    """The conditions of a preview: the classes in turn, or, where there are other conditions, those of n pictures spread over the data."""
    if set(pipeline.conditions) <= {"class"}:
        return pipeline.ask(n, {})
    _, values = shown_values(pipeline.denoiser, data, preview_indices(data, n))
    return Asked(values, [{} for _ in range(n)])


def preview_indices(data: TrainingData, n: int) -> np.ndarray:
    """The n pictures whose conditions previews are made with; of a smaller set, some more than once."""
    return np.linspace(0, len(data) - 1, n).astype(np.int64)


def save_preview_conditions(run: RunFolder, data: TrainingData, denoiser: Denoiser, n: int) -> None:
    """Draw what the columns of the previews were asked for: previews/conditions.png."""
    pictures, values = shown_values(denoiser, data, preview_indices(data, n))
    save_png(run.path / "previews" / "conditions.png", grid(with_conditions(denoiser, pictures, values), columns=n))


def shown_values(
    denoiser: Denoiser, data: TrainingData, indices: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The pictures of these indices, uint8 (N, H, W, C), with the values of their conditions."""
    batch = data.batch(indices)
    values = denoiser.encoders.with_derived(batch, [(PREVIEW_SEED, "preview", i) for i in range(len(indices))])
    return to_uint8(batch.x_0), {name: np.asarray(value) for name, value in values.items()}


def save_filmstrip(run: RunFolder) -> None:
    """Join the previews by step."""
    from PIL import Image

    found = sorted((int(path.stem.split("-")[1]), path) for path in (run.path / "previews").glob("step-*.png"))
    rows = []
    for step, path in found:
        with Image.open(path) as image:
            array = np.asarray(image)
        rows.append((str(step), array[:, :, None] if array.ndim == 2 else array))
    same = [row for row in rows if row[1].shape == rows[-1][1].shape]
    save_png(run.path / "previews" / "filmstrip.png", filmstrip(same))


def save_data_preview(run: RunFolder, data: TrainingData, denoiser: Denoiser) -> None:
    """Draw some training pictures as the network sees them, each with its conditions; up to sixteen classes stand in columns."""
    if not denoiser.encoders.items():
        pictures, _ = shown_values(denoiser, data, spread_indices(data, PLAIN_TILES))
        save_png(run.path / "data-preview.png", grid(pictures, columns=math.ceil(math.sqrt(len(pictures)))))
        return
    by_class = indices_by_class(data)
    indices = spread_indices(data, CONDITIONED_TILES) if by_class is None else by_class.ravel()
    tiles = with_conditions(denoiser, *shown_values(denoiser, data, indices))
    save_png(run.path / "data-preview.png", grid(tiles, columns=None if by_class is None else by_class.shape[1]))


def spread_indices(data: TrainingData, n: int) -> np.ndarray:
    """Up to n indices spread over the data."""
    return np.linspace(0, len(data) - 1, min(n, len(data))).astype(np.int64)


def indices_by_class(data: TrainingData) -> np.ndarray | None:
    """Indices (rows, classes) of pictures of each class, up to six rows, or None for data without classes or with more than 16."""
    if not isinstance(data, PictureSet) or data.labels is None or len(data.classes) > MOST_COLUMNS:
        return None
    per_class = [np.flatnonzero(data.labels == i)[:CLASS_ROWS] for i in range(len(data.classes))]
    rows = min((len(found) for found in per_class), default=0)
    return np.stack([found[:rows] for found in per_class], axis=1) if rows else None


def _tensorboard(path: Path) -> Any:
    from ..errors import ConfigurationError

    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigurationError("train.tensorboard needs TensorBoard: pip install 'alphabar[tensorboard]'") from None
    return SummaryWriter(path / "tensorboard")
