"""A network of one's own in the place of the U-Net."""

# ruff: noqa: I001

# region own
import torch
from alphabar.settings.config import finish
from alphabar.conditions.kinds import load_with_conditions
from alphabar.settings.data import DataSettings
from alphabar.diffusion.denoiser import Denoiser
from alphabar.diffusion.schedule import build_schedule
from alphabar.training.step import Trainer


class Network(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(channels + 1, 32, 3, padding=1),
            torch.nn.SiLU(),
            torch.nn.Conv2d(32, channels, 3, padding=1),
        )

    def forward(self, x, time, cond):  # x (N, C, H, W), time (N,) from 0 to T - 1, cond: the doors
        noise = (time / 1000).reshape(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
        return self.layers(torch.cat([x, noise], dim=1))


data = load_with_conditions(DataSettings(source="digits", class_from="none")).train
config = finish({"train": {"steps": 20}}, data.shape[1:])
denoiser = Denoiser(Network(data.shape[0]), build_schedule(config.schedule))
trainer = Trainer(config, data, denoiser)
for _ in range(20):
    print(trainer.step())
# endregion
