"""`alphabar train`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import command_line

if TYPE_CHECKING:
    from ..data.found import DataReport
    from ..training.session import Session

SHOWN = 10
EXAMPLES = {"text": '--prompt "..."', "map": "--map FILE", "image": "--image FILE"}


def train(
    data: Annotated[
        str | None,
        typer.Argument(help="A folder of pictures, a .npz or .npy file, or a built-in set: digits, fashion-mnist."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The run folder to make (or to go on with, with --resume).")
    ] = ...,  # type: ignore[assignment]
    preset: Annotated[
        str | None,
        typer.Option(
            help="What to start from: tiny, quick, small, ddpm, ddpm-cifar10, or auto (by the size of the pictures and the time)."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps in all.")] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Time to use instead: the speed is measured, then the steps are fixed. Default: 30 (2 for preset tiny)."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any setting, for example data.size=64. `alphabar settings` lists them."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A YAML file of settings, such as the config.yaml of a run.")
    ] = None,
    class_from: Annotated[
        str | None,
        typer.Option(
            help="Where classes come from: folder, label, a column of the metadata, none. Default: label where there is one."
        ),
    ] = None,
    cond: Annotated[
        str | None,
        typer.Option(
            metavar="KIND,KIND",
            help="What pictures are conditioned on: class,text,map,image, or none. Default: all that the data offers (folders only with class).",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="An image condition made from the pictures: super-resolution, colorize, inpaint, edges; or pair."
        ),
    ] = None,
    scale: Annotated[int | None, typer.Option(min=2, help="Of --task super-resolution. Default: 4.")] = None,
    maps: Annotated[Path | None, typer.Option(help="A folder with semantic maps of the pictures' names.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="A folder with conditioning pictures of the pictures' names.")
    ] = None,
    flip: Annotated[
        bool | None,
        typer.Option(
            "--flip/--no-flip",
            help="Mirror half of the pictures, with maps and pairs. Default: as the preset, never with text.",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16, or auto: what a short measurement finds faster here. Default: auto."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of weights, data order, times and noise. Default: 0.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint, exactly as if never stopped.")
    ] = False,
    init: Annotated[
        Path | None,
        typer.Option(
            "--init", metavar="RUN", help="Fine-tune: start a new run from the network and weights of this one."
        ),
    ] = None,
    accept_changed_data: Annotated[
        bool, typer.Option("--accept-changed-data", help="With --resume: go on although the data differs.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse data with unreadable pictures.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what was found and what would happen, then stop.")
    ] = False,
) -> None:
    """Train on your own pictures.

    Says what it found in the data and what it is going to do, then trains into the run folder. Ctrl-C saves; --resume goes on.
    """
    from ..errors import ConfigurationError
    from ..training.data import remove_cache
    from ..training.session import prepare
    from .watch import console, reading_bar, watch

    if data is None and not resume and config is None:
        raise ConfigurationError(
            "what should it train on? alphabar train DATA --out RUN, with DATA a folder of pictures, an array file, digits or fashion-mnist"
        )
    if steps is not None and minutes is not None:
        raise ConfigurationError("--steps and --minutes say the same thing twice; give one")
    settings = list(set_ or [])
    settings += [f"data.class_from={class_from}"] if class_from is not None else []
    settings += ["data.strict=true"] if strict else []
    settings += condition_settings(cond, class_from, task, scale, maps, images, flip)
    settings += [f"seed={seed}"] if seed is not None else []
    settings += [f"train.precision={precision}"] if precision is not None else []
    with reading_bar() as progress:
        session = prepare(
            data, out, preset=preset, steps=steps, minutes=minutes, settings=settings, config=config, resume=resume, init=init,
            accept_changed_data=accept_changed_data, progress=progress, command=command_line(),
        )  # fmt: skip
    describe_session(session)
    if dry_run:
        if not resume:
            remove_cache(out)
        console.print("dry run: nothing was trained or written")
        return
    watch(session)
    _say_what_next(session, out, data)


def condition_settings(
    cond: str | None,
    class_from: str | None,
    task: str | None,
    scale: int | None,
    maps: Path | None,
    images: Path | None,
    flip: bool | None,
) -> list[str]:
    """The options about conditions as settings. Raises ConfigurationError."""
    from ..errors import ConfigurationError

    names = [name.strip() for name in cond.split(",") if name.strip() != "none"] if cond is not None else None
    if names is not None and "class" in names and class_from == "none":
        raise ConfigurationError("--cond class but --class-from none; leave one of them out")
    if scale is not None and task != "super-resolution":
        raise ConfigurationError("--scale goes with --task super-resolution")
    if names is not None and (task or images) and "image" not in names:
        raise ConfigurationError(f"--task and --images are about the condition image; add it: --cond {cond},image")
    if names is not None and maps and "map" not in names:
        raise ConfigurationError(f"--maps is about the condition map; add it: --cond {cond},map")
    settings = [] if names is None else [f"data.conditions=[{', '.join(names)}]"]
    settings += [f"conditions.image.task={task}"] if task is not None else []
    settings += [f"conditions.image.scale={scale}"] if scale is not None else []
    settings += [f"conditions.map.folder={json.dumps(str(maps), ensure_ascii=False)}"] if maps is not None else []
    settings += [f"conditions.image.folder={json.dumps(str(images), ensure_ascii=False)}"] if images is not None else []
    return settings + ([] if flip is None else [f"data.flip={str(flip).lower()}"])


def describe_session(session: Session) -> None:
    """Print what was found and what is going to happen."""
    from .watch import console, duration

    if session.report is not None:
        for line in report_lines(session.report, session.config.data.class_from):
            console.print(line, markup=False)
    plan, train = session.plan, session.config.train
    console.print(
        f"model   preset {session.config.preset}, {plan.parameters / 1e6:.2f} M parameters; {plan.device}, {plan.precision}, {plan.threads} threads",
        markup=False,
    )
    if session.origin is not None:
        fresh = f"; new: {', '.join(session.fresh)}" if session.fresh else ""
        console.print(f"init    averaged weights of {session.origin.path}{fresh}", markup=False)
    start = f"from step {plan.first_step} " if plan.first_step else ""
    console.print(
        f"plan    {start}to step {plan.steps} of {train.batch_size} pictures ({plan.epochs:.1f} epochs), about {duration(plan.seconds)}"
    )


def report_lines(report: DataReport, class_from: str) -> list[str]:
    """The report on the data in lines."""
    channels, height, width = report.shape
    modes = ", ".join(f"{n} {mode}" for mode, n in report.modes.items())
    lines = [
        f"data    {report.source}: {report.count} pictures, {report.sizes} pixels ({modes})",
        f"shape   each becomes {height}x{width}, {channels} channel{'s' * (channels > 1)}; {len(report.held_out)} held out",
    ]
    if report.classes:
        shown = [f"{name} ({n})" for name, n in list(report.classes.items())[:20]]
        lines.append(f"classes {len(report.classes)}: {', '.join(shown)}{' ...' if len(report.classes) > 20 else ''}")
    elif report.folders > 1:
        lines.append(
            f"classes none; the pictures lie in {report.folders} sub-folders: --class-from folder would make them classes"
        )
    if class_from == "none" and not report.classes and not report.conditions and report.folders <= 1:
        lines.append("classes none: the model is unconditional")
    lines += [f"cond    {name}: {origin}" for name, origin in report.conditions.items()]
    lines += [f"found   {offer}, not used" for offer in report.unused]
    if report.animated:
        lines.append(f"note    {report.animated} animated, of which the first frame is taken")
    if report.enlarged:
        lines.append(f"note    {report.enlarged} smaller than {height}x{width} and enlarged")
    if report.other_files:
        lines.append(f"note    {report.other_files} files that are no pictures passed over")
    lines += [f"skipped {name}: {reason}" for name, reason in report.skipped[:SHOWN]]
    if len(report.skipped) > SHOWN:
        lines.append(f"skipped {len(report.skipped) - SHOWN} more, listed in data.json")
    if report.near_duplicates:
        shown = [f"{a} = {b}" for a, b in report.near_duplicates[:3]]
        lines.append(
            f"note    {len(report.near_duplicates)} pairs of near-duplicates ({', '.join(shown)}{' ...' if len(report.near_duplicates) > 3 else ''})"
        )
    return lines


def _say_what_next(session: Session, out: Path, data: str | None) -> None:
    from .watch import console

    run = shlex.quote(str(out))
    if session.stopped_early and not session.trainer.steps_done:
        console.print(
            f"stopped before the first step, so there is nothing to go on with; remove {run} to start anew",
            markup=False,
        )
        return
    if session.stopped_early:
        source = f"{shlex.quote(data)} " if data else ""
        console.print(
            f"stopped at step {session.trainer.steps_done}, saved; go on with: alphabar train {source}--out {run} --resume",
            markup=False,
        )
        return
    console.print(
        f"done: {session.trainer.steps_done} steps in {out}; look at previews/filmstrip.png and loss.png there",
        markup=False,
    )
    asked = "".join(f" {example}" for name, example in EXAMPLES.items() if name in session.config.conditions)
    console.print(f"next: alphabar sample {run}{asked or ' -n 64'} --out samples.png", markup=False)
