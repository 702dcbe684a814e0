"""`alphabar evaluate` and `alphabar extractor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigurationError, DataError
from .options import Batch, Checkpoint, Device, RawWeights, Split

if TYPE_CHECKING:
    import numpy as np

    from ..evaluation.extractors import Extractor
    from ..evaluation.quality import RealSets
    from ..evaluation.run_evaluation import Evaluation, Judged
    from ..generation.pipeline import Pipeline


def evaluate(
    what: Annotated[Path, typer.Argument(help="A run folder, a folder of pictures, or a .npy or .npz file.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="Real pictures: a folder, a .npz or .npy file, or a built-in set, such as fashion-mnist-test. Default: what the run held out."
        ),
    ] = None,
    split: Split = None,
    training: Annotated[
        str | None,
        typer.Option(
            help="Of pictures without a run: what they were learned from, for the floor and to look for copies."
        ),
    ] = None,
    extractor: Annotated[
        Path | None,
        typer.Option(
            help="What sees the pictures: a file of `alphabar extractor`, a TorchScript or a torch.export (.pt2) file."
        ),
    ] = None,
    inception: Annotated[
        Path | None,
        typer.Option(
            help="The weights of the official Inception network, weights-inception-2015-12-05-6726825d.pth: then the distance is FID."
        ),
    ] = None,
    n: Annotated[
        int, typer.Option("-n", min=8, help="How many pictures on each side, as far as there are so many.")
    ] = 1000,
    sampler: Annotated[str | None, typer.Option(help="Of a run: the method. Default: as the run samples.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of a run: the number of steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Of a run: the guidance weight; 1 is unguided.")] = None,
    by_steps: Annotated[
        str | None, typer.Option(help="Of a run: measure at these numbers of steps too, like 5,10,20.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the samples, and of which real pictures.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The folder for report.html and evaluation.json. Default: the run's; of pictures, NAME-evaluation.",
        ),
    ] = None,
    checkpoint: Checkpoint = None,
    raw_weights: RawWeights = False,
    batch: Batch = None,
    device: Device = "auto",
) -> None:
    """Measure the quality of a run's samples, or of pictures, against real ones: distances with their floor, class accuracy, copies."""
    from ..evaluation.extractors import pick_extractor
    from ..evaluation.report import table_rows, write_report
    from ..evaluation.run_evaluation import evaluate as measure
    from ..generation.pipeline import load
    from ..storage import write_json, write_text
    from .watch import bars, console

    if not what.exists():
        raise ConfigurationError(
            f"{what} does not exist; give a run folder, a folder of pictures, or a .npy or .npz file"
        )
    run = run_of(what)
    folder = out or (what if run is not None else beside(what))
    check_folder(folder)
    chosen = pick_extractor(extractor, inception)
    others = dict[int, "np.ndarray"]()
    if run is None:
        refuse_of_pictures(
            data, {"split": split, "sampler": sampler, "steps": steps, "guidance": guidance, "by-steps": by_steps}
        )
        judged, real, source = gather_pictures(what, str(data), training, chosen, n, seed)
    else:
        if training is not None:
            raise ConfigurationError("--training is for pictures without a run; a run knows what it was trained on")
        counts = read_steps(by_steps)
        pipeline = load(run, checkpoint, raw_weights, device)
        pipeline = pipeline.with_settings(sampler=sampler, steps=steps, guidance=guidance)
        fewer = {k: pipeline.with_settings(steps=k) for k in counts}
        for way in (pipeline, *fewer.values()):
            way.times()  # what cannot be sampled is said now, not after hours
        real, source = gather_real(run, checkpoint, data, split, chosen, n, seed)
        judged = make_samples(pipeline, real, seed, batch)
        others = {k: make_samples(way, real, seed, batch).pictures for k, way in fewer.items()}
    if skipped := judged.record.get("skipped"):
        console.print(f"note: {skipped} unreadable files of {what} were skipped", markup=False)
    if len(real.reference) < n:
        console.print(
            f"note: {len(real.reference)} pictures on each side, as there are no more; -n asks for {n}", markup=False
        )
    with bars() as progress:
        task = progress.add_task("features", total=len(real.reference) * (3 + len(others)))
        found = measure(judged, real, chosen, source, seed, others, lambda k: progress.advance(task, k))
    for line in lines(found, table_rows(found)):
        console.print(line, markup=False)
    write_json(folder / "evaluation.json", found.to_json())
    write_text(folder / "report.html", write_report(found, f"Evaluation of {what.name}", run))
    console.print(f"all of it in {folder / 'report.html'} and evaluation.json beside it", markup=False)


def check_folder(folder: Path) -> None:
    """Raise ConfigurationError if a file is where the folder of the report would be."""
    for each in (folder, *folder.parents):
        if each.exists() and not each.is_dir():
            raise ConfigurationError(f"--out takes a folder for report.html and evaluation.json, got the file {each}")


def run_of(path: Path) -> Path | None:
    """The path if it is a run or a checkpoint."""
    return path if any((path / name).exists() for name in ("run.json", "checkpoint.json")) else None


def refuse_of_pictures(data: str | None, given: dict[str, object]) -> None:
    """Raise ConfigurationError for options that only a run can follow, and for missing real pictures."""
    for name, value in given.items():
        if value is not None:
            raise ConfigurationError(f"--{name} is for a run; these pictures are made already, leave it out")
    if data is None:
        raise ConfigurationError(
            "name the real pictures to compare with: --data FOLDER, a .npz or .npy file, or a built-in set"
        )


def beside(what: Path) -> Path:
    """Where the evaluation of pictures goes: NAME-evaluation, without the end of a file's name unless a folder is called so."""
    shared = what.is_dir() or what.with_suffix("").is_dir()
    return what.with_name(f"{what.name if shared else what.stem}-evaluation")


def read_steps(text: str | None) -> list[int]:
    """'5,10' -> [5, 10]. Raises ConfigurationError."""
    words = [] if text is None else [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and word.isascii() and int(word) for word in words):
        raise ConfigurationError(f"--by-steps takes numbers of steps, like 5,10,20; got {text!r}")
    return [int(word) for word in words]


def gather_pictures(
    what: Path, data: str, training: str | None, extractor: Extractor, n: int, seed: int
) -> tuple[Judged, RealSets, str]:
    """The pictures to be judged and the real ones beside them."""
    from ..evaluation.quality import FEWEST, choose_real
    from ..evaluation.run_evaluation import pictures_of, real_like
    from .watch import reading_bar

    with reading_bar() as progress:
        own = pictures_of(what, progress)
        if len(own.pictures) < FEWEST:
            raise DataError(
                f"{what} holds {len(own.pictures)} pictures, too few to measure; at least {FEWEST} are needed"
            )
        real = real_like(data, own.pictures, progress)
        learned = None if training is None else real_like(training, own.pictures, progress)
    return own, choose_real(real, learned, extractor, min(n, len(own.pictures)), seed), data


def gather_real(
    run: Path, checkpoint: str | None, data: str | None, split: str | None, extractor: Extractor, n: int, seed: int
) -> tuple[RealSets, str]:
    """The real pictures for a run, and what they are; that is printed."""
    from ..evaluation.run_evaluation import real_of_run
    from ..runs.checkpoint import find_checkpoint
    from .watch import console, reading_bar

    with reading_bar() as progress:
        real, source = real_of_run(find_checkpoint(run, checkpoint), data, split, extractor, n, seed, progress)
    told = f"data    {source}: {len(real.reference)} pictures, and {len(real.floor)} others for the floor"
    console.print(told, markup=False)
    if real.note:
        console.print(f"note: {real.note}", markup=False)
    return real, source


def make_samples(pipeline: Pipeline, real: RealSets, seed: int, batch: int | None) -> Judged:
    """As many samples as real pictures, under a bar."""
    from ..evaluation.run_evaluation import asked_of, samples_of
    from .watch import sampling_bar

    asked = asked_of(pipeline, real.reference, seed)
    size = batch or pipeline.fitting_batch(asked)
    with sampling_bar(-(-len(asked) // size), pipeline.steps) as update:
        return samples_of(pipeline, asked, seed, size, update)


def lines(found: Evaluation, rows: list[tuple[str, str, str, str]]) -> list[str]:
    """The table in the terminal."""
    record = found.record
    own = f"{record['n']} pictures on each side, extractor {record['extractor']} ({record['extractor_hash']})"
    made = f", {record['sampler']} in {record['steps']} steps" if "sampler" in record else ""
    head = f"{'':<24}{'samples':>18}{'real':>18}"
    table = [f"{name:<24}{value:>18}{floor:>18}" for name, value, floor, _ in rows]
    by_steps = [
        f"{f'kernel x 1000, {steps} steps':<24}{f'{1000 * of.kernel:.2f} ± {1000 * of.kernel_error:.2f}':>18}"
        for steps, of in sorted(found.by_steps.items())
    ]
    return [own + made, head, *table, *by_steps]


def extractor(
    data: Annotated[str, typer.Argument(help="Pictures with classes: a folder, a .npz file, or a built-in set.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .safetensors file to write.")],
    pictures: Annotated[
        int | None, typer.Option(min=2, help="How many are used; the others stay for comparisons. Default: a third.")
    ] = None,
    class_from: Annotated[
        str, typer.Option(help="folder, label, or a column of the metadata. Default: label, otherwise folder.")
    ] = "auto",
    size: Annotated[
        str | None, typer.Option(help="In pixels, like 32 or 32x48. Default: as training would choose.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the weights at the start and of the order.")] = 0,
) -> None:
    """Train a small classifier on data with classes, as the extractor of `alphabar evaluate`."""
    from ..conditions.kinds import load_with_conditions
    from ..evaluation.classifier import save_classifier, train_classifier
    from ..settings.base import validate
    from ..settings.data import DataSettings
    from .watch import bars, console, reading_bar

    if out.suffix.lower() != ".safetensors" or out.is_dir():
        raise ConfigurationError(f"--out takes the path of a .safetensors file to write, got {out}")
    if class_from == "auto" and Path(data).expanduser().is_dir():
        class_from = "folder"
    values = {"source": data, "held_out": 0.0, "class_from": class_from, "size": size}
    with reading_bar() as reading:
        loaded = load_with_conditions(validate(DataSettings, values), None, reading).train
    with bars() as progress:
        task = progress.add_task("training", total=None)
        made = train_classifier(
            loaded, data, pictures or max(2, len(loaded) // 3), seed,
            lambda done, total: progress.update(task, completed=done, total=total),
        )  # fmt: skip
    save_classifier(made, out)
    own = made.origin
    judged = "" if own.accuracy is None else f", right on {own.accuracy:.1%} of {own.judged_on} others"
    console.print(
        f"{out}: {len(own.classes)} classes, trained on {own.pictures} pictures of {data}{judged}; hash {made.hash}",
        markup=False,
    )
