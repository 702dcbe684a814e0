"""Sample an ONNX file of alphabar's (alphabar export RUN model.onnx --to onnx) with numpy and onnxruntime alone.

Run: python examples/onnx_sampling.py model.onnx pictures.npy [steps] [how many]
"""

import json
import sys
from itertools import pairwise

import numpy as np
import onnxruntime


def sample(path, n=16, steps=50, noise=None):
    """Ancestral sampling with the posterior variance: n pictures (n, H, W, C) uint8, the classes taking turns."""
    session = onnxruntime.InferenceSession(path)
    about = json.loads(session.get_modelmeta().custom_metadata_map["alphabar"])
    alpha_bar, network_time = np.array(about["alpha_bars"]), about["network_times"]  # of t = k / T, k = 0..T
    classes = {name: np.arange(n) % len(names) for name, names in about["classes"].items()}
    noise = noise or (lambda step: np.random.default_rng([0, step]).standard_normal((n, *about["shape"])))
    grid = np.linspace(len(alpha_bar) - 1, 0, steps + 1).round().astype(int)
    x = noise(0)
    for i, (t, s) in enumerate(pairwise(grid), start=1):
        time = np.full(n, network_time[t], np.float32)
        output = session.run(None, {"x_t": x.astype(np.float32), "time": time, **classes})[0][:, : about["shape"][0]]
        a, b = alpha_bar[t] ** 0.5, (1 - alpha_bar[t]) ** 0.5
        match about["prediction"]:
            case "eps":
                output = (x - b * output) / a
            case "v":
                output = a * x - b * output
        x_0 = output if about["clip"] == "off" else output.clip(-1, 1)
        alpha = alpha_bar[t] / alpha_bar[s]
        x = (alpha_bar[s] ** 0.5 * (1 - alpha) * x_0 + alpha**0.5 * (1 - alpha_bar[s]) * x) / b**2
        x += ((1 - alpha_bar[s]) / b**2 * (1 - alpha)) ** 0.5 * noise(i)  # 0 on the last step
    return ((x.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8).transpose(0, 2, 3, 1)


if __name__ == "__main__":
    np.save(sys.argv[2], sample(sys.argv[1], steps=int((sys.argv[3:] or [50])[0]), n=int((sys.argv[4:] or [16])[0])))
