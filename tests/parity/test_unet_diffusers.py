"""Law 3: a random diffusers UNet2DModel gives the same output here, parameter for parameter, name for name."""

from __future__ import annotations

import pytest
import torch

from alphabar.model import count_parameters
from alphabar.networks.cond import Cond
from alphabar.networks.unet import UNet
from alphabar.settings.config import finish
from alphabar.settings.networks import UNetSettings

diffusers = pytest.importorskip("diffusers")

BASE = {"channels": [16, 32, 32], "blocks": 2, "attention": [False, True, False], "groups": 8}
CASES = {
    "ddpm": {},
    "wide-heads": {"head_channels": 8, "blocks": 1},
    "heads-wider-than-a-level-without-attention": {"head_channels": 32, "blocks": 1},
    "scale-shift": {"time_mode": "scale_shift"},
    "padding-after": {"down_padding": "after", "norm_eps": 1e-6},
    "cosine-first": {"sine_first": False, "frequency_shift": 0},
    "no-middle-attention": {"middle_attention": False, "attention": [True, False, True]},
    "one-level": {"channels": [16], "attention": [True]},
}


def reference(settings: UNetSettings, in_channels: int = 3):
    """The same network as diffusers builds it."""
    flags = settings.attention
    return diffusers.UNet2DModel(
        in_channels=in_channels,
        out_channels=in_channels,
        block_out_channels=tuple(settings.channels),
        layers_per_block=settings.blocks,
        down_block_types=tuple("AttnDownBlock2D" if flag else "DownBlock2D" for flag in flags),
        up_block_types=tuple("AttnUpBlock2D" if flag else "UpBlock2D" for flag in reversed(flags)),
        attention_head_dim=settings.head_channels,
        norm_num_groups=settings.groups,
        attn_norm_num_groups=settings.groups,
        norm_eps=settings.norm_eps,
        freq_shift=settings.frequency_shift,
        flip_sin_to_cos=not settings.sine_first,
        downsample_padding=1 if settings.down_padding == "both" else 0,
        resnet_time_scale_shift={"add": "default", "scale_shift": "scale_shift"}[settings.time_mode],
        add_attention=settings.middle_attention,
    ).eval()


@pytest.mark.parametrize("case", CASES)
def test_outputs_equal_those_of_diffusers_in_both_directions(case):
    settings = UNetSettings(**(BASE | CASES[case]))
    ours, theirs = UNet(settings, 3, 3).eval(), reference(settings)
    assert {name: p.shape for name, p in ours.state_dict().items()} == {
        name: p.shape for name, p in theirs.state_dict().items()
    }
    x, time = torch.randn(2, 3, 16, 24), torch.tensor([3.0, 731.0])
    for source, target in ((theirs, ours), (ours, theirs)):
        torch.manual_seed(0)
        for p in source.parameters():  # norms start at 1 and 0, which would hide a swap
            p.data = torch.randn_like(p) * 0.1
        target.load_state_dict(source.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(ours(x, time, Cond()), theirs(x, time).sample, rtol=1e-4, atol=1e-4)


def test_the_cifar10_preset_is_the_published_network():
    """35.7 M parameters (Ho et al. 2020, app. B), with the names and shapes of google/ddpm-cifar10-32's configuration."""
    settings = finish({"preset": "ddpm-cifar10"}, [32, 32]).network
    with torch.device("meta"):
        ours = UNet(settings, 3, 3)
        theirs = reference(settings)
    assert count_parameters(ours) == 35_746_307
    assert {name: p.shape for name, p in ours.state_dict().items()} == {
        name: p.shape for name, p in theirs.state_dict().items()
    }
