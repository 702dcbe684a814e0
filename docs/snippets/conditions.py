"""Each kind of condition: train, then ask for pictures. The tests run them in this order."""

# ruff: noqa: E402

# region classes
import alphabar

for report in alphabar.train("fashion-mnist", out="runs/fashion", minutes=30, settings={"data.conditions": ["class"]}):
    print(report)
pipeline = alphabar.load("runs/fashion")
pipeline.sample(16, label="Sneaker", guidance=2).save("sneakers.png")
pipeline.sample(label=["Bag", "Dress", None]).save("three.png")
# endregion

# region captions
import alphabar

for report in alphabar.train("data/shapes-en", out="runs/shapes", config="recipes/shapes-text.yaml"):
    print(report)
pipeline = alphabar.load("runs/shapes")
pipeline.sample(16, prompt="a red circle left of a blue cross", guidance=2).save("shapes.png")
# endregion

# region maps
from pathlib import Path

import alphabar

for report in alphabar.train("data/layers", out="runs/layers", config="recipes/layers-map.yaml"):
    print(report)
maps = sorted(Path("data/layers-test/maps").glob("*.png"))[:64]
alphabar.load("runs/layers").sample(map=maps).save("layers.png")
# endregion

# region enlarge
import alphabar
from alphabar.data.builtin_sets import load_fashion_mnist

for report in alphabar.train("fashion-mnist", out="runs/super", config="recipes/fashion-mnist-super-resolution.yaml"):
    print(report)
pictures, _, _ = load_fashion_mnist(part="t10k")
small = pictures[:64].reshape(64, 7, 4, 7, 4).mean((2, 4)).round().astype("uint8")
alphabar.load("runs/super").sample(image=list(small)).save("super.png")
# endregion

# region colours
from pathlib import Path

import alphabar

for report in alphabar.train("data/noto", out="runs/colours", config="recipes/noto-colorize.yaml"):
    print(report)
pictures = sorted(Path("data/noto-test").glob("*.png"))[:64]
alphabar.load("runs/colours").sample(image=pictures).save("colours.png")
# endregion

# region pairs
from pathlib import Path

import alphabar

for report in alphabar.train("data/pairs", out="runs/pairs", config="recipes/emoji-pairs.yaml"):
    print(report)
pictures = sorted(Path("data/pairs-test/conditioning").glob("*.png"))[:48]
alphabar.load("runs/pairs").sample(image=pictures, guidance=2).save("pairs.png")
# endregion

# region several
import alphabar

pipeline = alphabar.load("runs/noto")
pipeline.sample(8, prompt="red apple", image="grey.png", guidance={"text": 3, "image": 1}).save("both.png")
# endregion

# region interval
pipeline = alphabar.load("runs/shapes").with_settings(guidance_rescale=0.7, guidance_interval=(0.2, 0.8))
pipeline.sample(8, prompt="a red circle above a green square", guidance=4).save("guided.png")
# endregion

# region classifier
import torch
from torch import nn

import alphabar
from alphabar.data.builtin_sets import load_fashion_mnist
from alphabar.data.pictures import to_signed
from alphabar.diffusion.gaussian import diffuse

pictures, labels, names = load_fashion_mnist()
pipeline = alphabar.load("runs/fashion-unconditional")
schedule = pipeline.denoiser.schedule
classifier = nn.Sequential(
    nn.Conv2d(1, 32, 3, 2), nn.SiLU(), nn.Conv2d(32, 64, 3, 2), nn.SiLU(), nn.Flatten(), nn.Linear(2304, 10)
)
# endregion

# region noisy
optimizer = torch.optim.AdamW(classifier.parameters(), 1e-3)
for _ in range(2000):
    chosen, t = torch.randint(len(labels), (128,)), torch.rand(128)
    x_0 = to_signed(pictures[chosen])
    x_t = diffuse(x_0, schedule.alpha_bar(t).float(), torch.randn_like(x_0))
    loss = nn.functional.cross_entropy(classifier(x_t), torch.from_numpy(labels[chosen]))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
# endregion


# region guided
def log_probability(x_t, t):  # w log p(y | x_t), (N,)
    return 2.0 * classifier(x_t).log_softmax(1)[:, names.index("Sneaker")]


pipeline.sample(16, classifier=log_probability).save("sneakers.png")
# endregion

# region kinds
alphabar.load_plugin("angle.py")
# endregion

# region angles
pipeline = alphabar.load("runs/bars")
pipeline.sample(conditions={"angle": [0, 30, 60, None]}, guidance={"angle": 2}).save("angles.png")
# endregion
