"""Rows 1 to 3 of RESULTS.md of this tree beside another one, without the peers: one process a tree, their steps in turns.

    python benchmarks/before_and_after.py --other ../alphabar-before

For each row the median seconds of a step in both trees, the ratio other / this (above 1: this one is faster), and the peak memory of each
process. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROWS = {
    "1: training, ddpm-cifar10, 32 pictures": ("training", "ddpm-cifar10", 32),
    "2: training, the course's network, 128 pictures": ("training", "course", 128),
    "3: sampling, ddpm-cifar10, 32 pictures": ("sampling", "ddpm-cifar10", 32),
}
WORKER = """
import resource, sys, time
sys.path.insert(0, sys.argv[1])
import torch
from side_by_side import ours
kind, network, batch = sys.argv[2], sys.argv[3], int(sys.argv[4])
if kind == "training":
    step = ours(network, batch, "bfloat16", "fused").step
else:
    trainer = ours(network, 2, "bfloat16", "fused")
    try:
        from alphabar.generation.pipeline import Pipeline
        pipeline = Pipeline(trainer.average, trainer.data.shape).with_settings(sampler="ddim", steps=3).rounded()
    except ImportError:  # the tree before the rooms
        from alphabar.pipeline import Pipeline
        pipeline = Pipeline(trainer.ema.module, trainer.data.shape).with_settings(sampler="ddim", steps=3)
        pipeline.freeze()
    step = lambda: list(pipeline.states(list(range(batch))))
for line in sys.stdin:
    began = time.perf_counter()
    step()
    print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, flush=True)
"""


class Worker:
    """A process that does a step of a tree whenever it is asked to."""

    def __init__(self, tree: Path, kind: str, network: str, batch: int) -> None:
        words = [sys.executable, "-c", WORKER, str(tree / "benchmarks"), kind, network, str(batch)]
        environment = os.environ | {"PYTHONPATH": str(tree / "src")}
        self.memory = 0
        self.process = subprocess.Popen(
            words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def step(self) -> float:
        """Seconds of a step."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print("step", file=self.process.stdin, flush=True)
        seconds, memory = self.process.stdout.readline().split()
        self.memory = int(memory)
        return float(seconds)

    def end(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    """Print a line a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, required=True, help="the root of the other tree")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warm-up", type=int, default=3)
    options = parser.parse_args()
    for row, (kind, network, batch) in ROWS.items():
        other, this = (Worker(tree, kind, network, batch) for tree in (options.other.resolve(), ROOT))
        taken: dict[Worker, list[float]] = {other: [], this: []}
        for i in range(options.warm_up + options.rounds):
            for worker in (other, this) if i % 2 else (this, other):
                seconds = worker.step()
                if i >= options.warm_up:
                    taken[worker].append(seconds)
        before, after = (statistics.median(taken[worker]) for worker in (other, this))
        pairs = statistics.median(a / b for a, b in zip(taken[other], taken[this], strict=True))
        print(
            f"row {row}: {before:.3f} s before, {after:.3f} s after, before / after {before / after:.3f} (pairs {pairs:.3f}); "
            f"peak memory {other.memory} and {this.memory} MiB",
            flush=True,
        )
        other.end()
        this.end()


if __name__ == "__main__":
    main()
