"""Seconds from the command to the first training step, for pictures of several sizes, of this tree beside another one.

    python benchmarks/first_step.py --other ../alphabar-before --sizes 28 64 128 256

Both trees are run in turns, each in a process of its own, with an empty cache of measured speeds but the same built kernels. A line a
size: the median seconds of each tree.
"""

from __future__ import annotations

import argparse
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import sys, alphabar
for report in alphabar.train(sys.argv[1], sys.argv[2], minutes=30, settings={"data.size": int(sys.argv[3])}):
    print("first step", flush=True)
    sys.stdin.read()
"""


def first_step(tree: Path, data: Path, size: int, folder: Path, limit: float) -> float:
    """Seconds until the first step of a training is done; infinite if it is not within the limit."""
    cache = folder / f"cache-{tree.name}"
    (cache / "speed.json").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as out:
        environment = os.environ | {"PYTHONPATH": str(tree / "src"), "ALPHABAR_CACHE": str(cache)}
        words = [sys.executable, "-c", PROGRAM, str(data), f"{out}/run", str(size)]
        began = time.monotonic()
        process = subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            wait_for_line(process, limit)
            return time.monotonic() - began
        except TimeoutError:
            return float("inf")
        finally:
            process.kill()
            process.wait()


def wait_for_line(process: subprocess.Popen[str], limit: float) -> None:
    """Wait until the process prints a line. Raises TimeoutError, or RuntimeError if it ends without one."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], limit)
    if not ready:
        raise TimeoutError
    if not process.stdout.readline():
        raise RuntimeError("the training ended before its first step")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, required=True, help="the root of the other tree")
    parser.add_argument("--sizes", type=int, nargs="+", default=[28, 64, 128, 256])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds after which a training is given up")
    options = parser.parse_args()
    trees = (options.other.resolve(), ROOT)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size in options.sizes:
            data = folder / f"{size}.npy"
            np.save(data, np.random.default_rng(0).integers(0, 256, (300, size, size, 3), dtype=np.uint8))
            if size == options.sizes[0]:  # builds the kernels
                for tree in trees:
                    first_step(tree, data, 28, folder, options.limit)
            taken: dict[Path, list[float]] = {tree: [] for tree in trees}
            for _ in range(options.rounds):
                for tree in trees:
                    taken[tree].append(first_step(tree, data, size, folder, options.limit))
            shown = ", ".join(f"{tree.name} {statistics.median(taken[tree]):.1f} s" for tree in trees)
            print(f"{size} px: {shown}", flush=True)


if __name__ == "__main__":
    main()
