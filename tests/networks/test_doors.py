"""The doors inside the network: each changes nothing at the start, and later what it should and no more."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alphabar.networks.cond import Cond, Doors
from alphabar.networks.layers import CrossAttention, Modulation, place_embedding
from alphabar.networks.unet import UNet
from alphabar.settings.networks import UNetSettings


def awake(module: torch.nn.Module) -> torch.nn.Module:
    """The module with random weights where it starts with zeros."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def unet(doors: Doors) -> UNet:
    torch.manual_seed(0)
    settings = UNetSettings(
        channels=[8, 16], blocks=1, attention=[False, True], groups=4, token_dim=12, modulation_channels=8
    )
    return UNet(settings, 3, 3, doors).eval()


def test_modulation_scales_by_one_plus_gamma_and_shifts_place_by_place():
    """Park et al. 2019, eq. 1."""
    h, guide = torch.randn(2, 8, 6, 6), torch.zeros(2, 3, 6, 6)
    fresh = Modulation(8, 3, 5)
    assert torch.equal(fresh(h, guide), h)  # gamma and beta start at 0
    layer = awake(Modulation(8, 3, 5))
    gamma, beta = layer.scale_shift(torch.relu(layer.shared(guide))).chunk(2, dim=1)
    torch.testing.assert_close(layer(h, guide), h * (1 + gamma) + beta)
    other = guide.clone()
    other[:, :, 0, 0] = 1
    changed = (layer(h, other) - layer(h, guide)).abs().amax((0, 1)) > 1e-6
    assert changed[:3, :3].any()
    assert not changed[3:].any()
    assert not changed[:, 3:].any()


def test_cross_attention_sees_the_tokens_that_count_and_no_others():
    x, tokens = torch.randn(2, 8, 4, 4), torch.randn(2, 5, 12)
    mask = torch.tensor([[True, True, False, False, False], [True] * 5])
    fresh, places = CrossAttention(8, 12, 4, 4, 1e-5), place_embedding(4, 4, 8).T.view(8, 4, 4)
    assert torch.equal(fresh(x, tokens, mask), x + places)  # what it reads starts at 0
    layer = awake(CrossAttention(8, 12, 4, 4, 1e-5))
    out = layer(x, tokens, mask)
    garbage = torch.where(mask[..., None], tokens, torch.full_like(tokens, 50.0))
    torch.testing.assert_close(layer(x, garbage, mask), out)
    torch.testing.assert_close(layer(x[:1], tokens[:1, :2], None), out[:1])
    order = [3, 1, 4, 0, 2]
    torch.testing.assert_close(layer(x, tokens[:, order], mask[:, order]), out)  # tokens are a set
    assert not torch.allclose(layer(x, tokens, None)[:1], out[:1])


FULL = Doors(concat=2, modulation=3, tokens=True)


def full_cond(n: int = 2) -> Cond:
    g = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    return Cond(draw(n, 32), draw(n, 5, 12), torch.ones(n, 5, dtype=torch.bool), draw(n, 3, 8, 8), draw(n, 2, 8, 8))


@pytest.mark.parametrize("door", ["vector", "tokens", "modulation", "concat"])
def test_every_door_reaches_the_output_item_by_item(door):
    network, cond = awake(unet(FULL)), full_cond()
    x, time = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 40.0])
    values = getattr(cond, door).clone()
    values[1] = -values[1]
    changed = Cond(**{name: getattr(cond, name) for name in Cond.__dataclass_fields__} | {door: values})
    with torch.no_grad():
        difference = (network(x, time, changed) - network(x, time, cond)).abs().flatten(1).amax(1)
    assert difference[0] < 1e-4
    assert difference[1] > 1e-2


def test_a_place_is_known_by_its_embedding_and_cross_attention_is_told_of_it():
    places = place_embedding(5, 7, 16)
    assert places.shape == (35, 16)
    assert torch.cdist(places, places).fill_diagonal_(9).min() > 0.1  # no two places look alike
    assert torch.equal(places.reshape(5, 7, 16)[:, 0, :8], places.reshape(5, 7, 16)[:, 3, :8])  # half tells the row
    assert torch.cdist(place_embedding(1, 1, 7), place_embedding(1, 1, 7)).shape == (
        1,
        1,
    )  # any size, any number of channels
    assert (place_embedding(8, 8, 32).std(0) > 0.3).float().mean() > 0.9  # nearly every channel tells places apart
    layer = awake(CrossAttention(16, 12, None, 4, 1e-5))
    out = layer(torch.zeros(1, 16, 5, 7), torch.randn(1, 4, 12), None)
    assert (
        torch.cdist(out[0].flatten(1).T, out[0].flatten(1).T).fill_diagonal_(9).min() > 1e-4
    )  # of a picture that is even


def test_what_tokens_and_modulation_say_changes_nothing_at_the_start():
    network, cond = unet(FULL), full_cond()
    x, time = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 40.0])
    with torch.no_grad():
        one = network(x, time, cond)
        other = network(x, time, Cond(cond.vector, cond.tokens + 1, cond.token_mask, None, cond.concat))
    assert torch.equal(one, other)


def test_a_missing_picture_is_nothing_known():
    network = awake(unet(Doors(concat=2)))
    x, time = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 40.0])
    with torch.no_grad():
        torch.testing.assert_close(network(x, time, Cond()), network(x, time, Cond(concat=torch.zeros(2, 2, 8, 8))))


def test_a_network_without_doors_has_no_weights_for_them():
    names = {name.split(".")[0] for name, _ in unet(Doors()).named_parameters()}
    plain = {name for name, _ in unet(Doors()).named_parameters()}
    assert names == {"conv_in", "time_embedding", "down_blocks", "mid_block", "up_blocks", "conv_norm_out", "conv_out"}
    assert not [name for name in plain if "cross" in name or "modulation" in name]
    full = {name for name, _ in unet(FULL).named_parameters()}
    assert plain < full
    assert all("cross_attentions" in name or "modulation" in name for name in full - plain)
