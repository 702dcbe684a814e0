"""The mathematics of the derivation: schedules, Gaussians, parameterizations, the denoiser, its loss and its guidance."""
