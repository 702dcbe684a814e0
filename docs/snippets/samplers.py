"""Choosing a sampler from Python. The tests run them in this order."""

# region samplers
import alphabar

pipeline = alphabar.load("runs/fashion")
pipeline.with_settings(sampler="heun", steps=20).sample(16).save("heun.png")
pipeline.with_settings(eta=0.5).sample(16).save("ddim.png")
for state in pipeline.with_settings(sampler="unipc", steps=10).states(seeds=[0, 1, 2]):
    print(state.step, state.t, state.x_t.shape, state.x_0_hat.shape)
# endregion
