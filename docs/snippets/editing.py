"""Editing with a trained model. The tests run them in this order."""

# ruff: noqa: E402

# region pictures
from pathlib import Path

from PIL import Image

from alphabar.data.builtin_sets import load_fashion_mnist

Path("pictures").mkdir()
for i, picture in enumerate(load_fashion_mnist(part="t10k")[0][:5]):
    Image.fromarray(picture[..., 0]).save(f"pictures/{i}.png")
mask = Image.new("L", (28, 28))
mask.paste(255, (0, 14, 28, 28))
mask.save("mask.png")
# endregion

# region inpaint
import alphabar
from alphabar.generation import editing

pipeline = alphabar.load("runs/fashion").with_settings(steps=50)
pictures = editing.read_pictures(pipeline, ["pictures/0.png", "pictures/1.png"])
masks = editing.read_masks(pipeline, ["mask.png", "mask.png"])
editing.inpaint(pipeline, pictures, masks, seeds=[1, 2], resamplings=5, jump=5).run().save("filled.png")
# endregion

# region image
import alphabar
from alphabar.generation import editing

pipeline = alphabar.load("runs/fashion")
pictures = editing.read_pictures(pipeline, ["pictures/0.png", "pictures/1.png"])
bags = pipeline.ask(2, {"class": "Bag"})
for strength in (0.3, 0.5, 0.7):
    editing.image_to_image(pipeline, pictures, strength, [1, 2], bags).run().save(f"bags-{strength}.png")
# endregion

# region interpolate
import alphabar
from alphabar.generation import editing

pipeline = alphabar.load("runs/fashion").with_settings(steps=50)
ends = editing.read_pictures(pipeline, ["pictures/0.png", "pictures/1.png"])
editing.interpolate(pipeline, ends, 9).run().save("between.png")
# endregion

# region seeds
import alphabar
from alphabar.generation import editing

pipeline = alphabar.load("runs/fashion")
dresses = pipeline.ask(9, {"class": "Dress"})
editing.interpolate_seeds(pipeline, (3, 8), 9, dresses).run().save("dresses.png")
# endregion

# region variations
import alphabar
from alphabar.generation import editing

pipeline = alphabar.load("runs/fashion").with_settings(steps=50)
pictures = editing.read_pictures(pipeline, ["pictures/1.png"] * 8)
editing.variations(pipeline, pictures, 0.3, seeds=range(8)).run().save("like-1.png")
# endregion

# region states
import alphabar
from alphabar.generation import editing

pipeline = alphabar.load("runs/fashion")
pictures = editing.read_pictures(pipeline, ["pictures/0.png"])
for state in editing.image_to_image(pipeline, pictures, 0.5, seeds=[1]).states:
    print(state.step, state.t, state.x_t.shape)
# endregion
