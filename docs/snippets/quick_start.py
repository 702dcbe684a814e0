"""Train on a folder and make pictures: all of it."""

# region whole
import alphabar

for report in alphabar.train("my-pictures", out="runs/mine", minutes=30):
    print(report)
pipeline = alphabar.load("runs/mine")
pipeline.sample(64).save("new.png")
pipeline.with_settings(sampler="ddim", steps=20).sample(16, seed=7).save("sixteen.png")
# endregion
