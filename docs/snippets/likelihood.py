"""Bits per dimension from Python. The tests run them in this order."""

# region likelihood
from pathlib import Path

import alphabar
from alphabar.evaluation.pictures import real_pictures
from alphabar.evaluation.run_likelihood import Options, measure_likelihood
from alphabar.runs.checkpoint import find_checkpoint

real = real_pictures(find_checkpoint(Path("runs/fashion")), "fashion-mnist-test", n=32)
found = measure_likelihood(alphabar.load("runs/fashion"), real, Options(ode_steps=50, probes=2))
for name, (mean, error) in found.summary().items():
    print(name, mean, error)
print(found.bound.terms.shape, found.ode.shape)
# endregion
