"""The U-Net: sizes, channels, doors, and refusals. Its outputs are compared with diffusers' in tests/parity."""

from __future__ import annotations

import pytest
import torch

from alphabar.errors import ConfigurationError
from alphabar.model import build_denoiser, count_parameters
from alphabar.networks.cond import Cond, Doors
from alphabar.networks.layers import sinusoidal_embedding
from alphabar.networks.unet import UNet, from_patches, to_patches
from alphabar.settings.config import PRESETS, finish
from alphabar.settings.networks import UNetSettings

SMALL = UNetSettings(channels=[8, 16, 16], blocks=1, attention=[False, True, False], groups=4)


@pytest.mark.parametrize("padding", ["both", "after"])
@pytest.mark.parametrize("size", [(28, 28), (27, 33), (5, 4), (9, 31)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_any_size_and_one_to_four_channels_come_back_as_they_went_in(size, channels, padding):
    network = UNet(SMALL.model_copy(update={"down_padding": padding}), channels, channels)
    x = torch.randn(2, channels, *size)
    assert network(x, torch.tensor([3.0, 900.0]), Cond()).shape == x.shape


@pytest.mark.parametrize(("patch", "size"), [(2, (28, 28)), (2, (27, 33)), (3, (13, 14)), (4, (16, 17))])
def test_patches_hold_every_pixel_and_come_back(patch, size):
    x = torch.arange(2 * 3 * size[0] * size[1], dtype=torch.float32).reshape(2, 3, *size)
    squares = to_patches(x, patch)
    assert squares.shape == (2, 3 * patch**2, -(-size[0] // patch), -(-size[1] // patch))
    place = squares[:, :, 1, 2].reshape(2, 3, patch, patch)
    torch.testing.assert_close(place, x[:, :, patch : 2 * patch, 2 * patch : 3 * patch], rtol=0, atol=0)
    torch.testing.assert_close(from_patches(squares, patch, size), x, rtol=0, atol=0)
    last = squares[0, :, -1, -1].reshape(3, patch, patch)  # what is added repeats the last row and column
    assert bool((last[:, -1, -1] == x[0, :, -1, -1]).all())


@pytest.mark.parametrize("size", [(28, 28), (27, 33)])
def test_a_network_of_patches_takes_any_size_and_the_input_door(size):
    network = UNet(SMALL.model_copy(update={"patch": 2}), 3, 3, Doors(concat=2))
    x, time = torch.randn(2, 3, *size), torch.tensor([3.0, 900.0])
    plain = network(x, time, Cond(concat=torch.zeros(2, 2, *size)))
    assert plain.shape == x.shape
    assert not torch.allclose(plain, network(x, time, Cond(concat=torch.ones(2, 2, *size))))
    with pytest.raises(ConfigurationError, match="of patches of 2, which needs at least 8x8"):
        network(x[..., :7], time, Cond())


def test_too_small_a_picture_is_refused_with_the_least_size():
    with pytest.raises(ConfigurationError, match="needs at least 4x4"):
        UNet(SMALL, 1, 1)(torch.zeros(1, 1, 3, 8), torch.zeros(1), Cond())
    with pytest.raises(ConfigurationError, match="needs at least 4x4"):
        build_denoiser(finish({"preset": "small"}, [2, 2]), (1, 2, 2))


def test_time_and_vector_reach_the_output():
    network = UNet(SMALL, 1, 1)
    x = torch.randn(1, 1, 8, 8).expand(2, -1, -1, -1)
    by_time = network(x, torch.tensor([1.0, 500.0]), Cond())
    assert not torch.allclose(by_time[0], by_time[1])
    by_vector = network(x, torch.tensor([1.0, 1.0]), Cond(vector=torch.randn(2, network.vector_dim)))
    assert not torch.allclose(by_vector[0], by_vector[1])


def test_every_parameter_gets_a_gradient():
    network = UNet(
        UNetSettings(channels=[8, 16], blocks=2, attention=[True, True], groups=4, time_mode="scale_shift"), 3, 3
    )
    network(torch.randn(2, 3, 8, 8), torch.tensor([1.0, 2.0]), Cond()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_groups_must_divide_the_channels():
    with pytest.raises(ConfigurationError, match=r"network\.groups = 5 must divide"):
        UNetSettings(channels=[8], attention=[False], groups=5)


def test_attention_needs_a_flag_for_each_resolution():
    with pytest.raises(ConfigurationError, match="each of the 2 resolutions"):
        UNetSettings(channels=[32, 32], attention=[True])


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_build_and_run(preset):
    config = finish({"preset": preset}, [32, 32])
    with torch.device("meta"):
        count = count_parameters(UNet(config.network, 3, 3))
    limits = {
        "tiny": (0.5e6, 1.2e6),
        "quick": (0.5e6, 1e6),
        "small": (1e6, 4e6),
        "ddpm": (1e6, 4e6),
        "ddpm-cifar10": (35.6e6, 35.8e6),
    }
    assert limits[preset][0] < count < limits[preset][1]


def test_the_sinusoidal_embedding_has_the_order_and_divisor_of_ddpm():
    emb = sinusoidal_embedding(torch.tensor([2.0]), 8)
    frequencies = 10000 ** (-torch.arange(4) / 3)
    torch.testing.assert_close(
        emb[0], torch.cat([(2 * frequencies).sin(), (2 * frequencies).cos()]), rtol=1e-5, atol=1e-6
    )
    assert sinusoidal_embedding(torch.tensor([2.0]), 7).shape == (1, 7)


def test_weights_are_a_function_of_the_seed():
    one, same, other = (
        build_denoiser(finish({"seed": seed, "preset": "tiny"}, [8, 8]), (1, 8, 8)) for seed in (1, 1, 2)
    )
    assert torch.equal(one.network.conv_in.weight, same.network.conv_in.weight)
    assert not torch.equal(one.network.conv_in.weight, other.network.conv_in.weight)
