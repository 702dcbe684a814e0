"""Guidance by a classifier, here one that likes bright pictures."""

# region classifier
import alphabar

pipeline = alphabar.load("runs/mine")


def log_probability(x_t, t):  # w log p(y | x_t) of each picture, up to a constant: here brighter is likelier
    return 6 * x_t.flatten(1).mean(1)


pipeline.sample(16, classifier=log_probability).save("bright.png")
# endregion
