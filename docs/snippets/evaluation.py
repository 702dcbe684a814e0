"""Measuring from Python. The tests run them in this order."""

# region evaluate
from pathlib import Path

import alphabar
from alphabar.evaluation.classifier import load_classifier
from alphabar.evaluation.run_evaluation import asked_of, evaluate, real_of_run, samples_of
from alphabar.runs.checkpoint import find_checkpoint

extractor = load_classifier(Path("fashion.safetensors"))
real, source = real_of_run(find_checkpoint(Path("runs/fashion")), "fashion-mnist-test", None, extractor, 2000, 0, None)
pipeline = alphabar.load("runs/fashion")
found = evaluate(samples_of(pipeline, asked_of(pipeline, real.reference, 0), 0), real, extractor, source)
print(found.found.kernel, "+-", found.found.kernel_error, "real:", found.floor.kernel)
# endregion
