"""Muon: its orthogonalisation against the singular value decomposition, its steps against torch's own, and AdamW for the rest."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from alphabar.networks.base import Network
from alphabar.networks.mlp import MLP
from alphabar.networks.unet import UNet
from alphabar.settings.networks import MLPSettings, UNetSettings
from alphabar.settings.training import TrainSettings
from alphabar.training.muon import Muon, list_matrices, orthogonalized
from alphabar.training.updater import build_optimizers


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16)])
def test_singular_vectors_stay_and_singular_values_come_near_1(shape):
    x = random(3, *shape)
    p, s, q = torch.linalg.svd(x, full_matrices=False)
    inside = p.mT @ orthogonalized(x) @ q.mT
    values = inside.diagonal(dim1=-2, dim2=-1)
    large = s > 0.02 * s[:, :1]
    assert ((values > 0.65) & (values < 1.25))[large].all()
    torch.testing.assert_close(inside - torch.diag_embed(values), torch.zeros_like(inside), atol=2e-4, rtol=0)


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16)])
def test_each_singular_value_goes_through_the_quintic_five_times(shape):
    x = random(3, *shape)
    p, s, q = torch.linalg.svd(x, full_matrices=False)
    values = s / s.norm(dim=1, keepdim=True)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    torch.testing.assert_close(orthogonalized(x), p @ torch.diag_embed(values) @ q, atol=1e-4, rtol=0)


def test_the_size_of_the_gradient_does_not_matter_and_zero_stays_zero():
    x = random(1, 6, 9)
    torch.testing.assert_close(orthogonalized(1e-3 * x), orthogonalized(x), atol=1e-5, rtol=1e-4)
    assert torch.equal(orthogonalized(torch.zeros(1, 4, 5)), torch.zeros(1, 4, 5))


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
def test_matrices_move_as_by_the_muon_of_torch(shape, decay):
    """Which computes in bfloat16, hence the tolerance."""
    ours, theirs = nn.Linear(shape[1], shape[0], bias=False), nn.Linear(shape[1], shape[0], bias=False)
    theirs.load_state_dict(ours.state_dict())
    one = Muon([ours.weight], lr=0.01, weight_decay=decay)
    other = torch.optim.Muon([theirs.weight], lr=0.01, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    before = ours.weight.detach().clone()
    for i in range(3):
        ours.weight.grad, theirs.weight.grad = random(*shape, seed=i), random(*shape, seed=i)
        one.step()
        other.step()
    moved = (theirs.weight - before).norm()
    assert (ours.weight - theirs.weight).norm() < 0.05 * moved


def test_a_convolution_moves_as_the_matrix_that_it_is():
    conv, flat = nn.Conv2d(6, 10, 3, bias=False), nn.Linear(54, 10, bias=False)
    with torch.no_grad():
        flat.weight.copy_(conv.weight.reshape(10, 54))
    for module in (conv, flat):
        optimizer = Muon([module.weight], lr=0.01)
        for i in range(2):
            module.weight.grad = random(10, 54, seed=i).reshape(module.weight.shape)
            optimizer.step()
    torch.testing.assert_close(conv.weight.reshape(10, 54), flat.weight, atol=1e-6, rtol=1e-5)


class Net(Network):
    """All that there is in a network; the names of its layers say nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.exit = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 1, 3)
        self.inner, self.norm = nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8)
        self.table, self.frozen = nn.Embedding(5, 8), nn.Linear(8, 8)
        self.frozen.requires_grad_(False)

    def ends(self):
        return self.entry, self.exit

    def forward(self, x, time, cond):
        return self.exit(self.inner(self.entry(x)))


def test_all_but_inner_weights_move_as_by_adamw():
    torch.manual_seed(0)
    net, other = Net(), Net()
    other.load_state_dict(net.state_dict())
    assert [p is net.inner.weight for p in list_matrices(net)] == [True]
    muon, rest = build_optimizers(net, TrainSettings(optimizer="muon", learning_rate=0.01, weight_decay=0.1))
    adam = torch.optim.AdamW([p for p in other.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1)
    for step in range(3):
        for module, optimizers in ((net, (muon, rest)), (other, (adam,))):
            for i, p in enumerate(module.parameters()):
                p.grad = random(*p.shape, seed=10 * step + i) if p.requires_grad else None
            for optimizer in optimizers:
                optimizer.step()
    for (name, a), b in zip(net.named_parameters(), other.parameters(), strict=True):
        if name == "inner.weight":
            assert not torch.allclose(a, b, atol=1e-4)
        else:
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    assert set(muon.state[net.inner.weight]) == {"momentum"}  # half of what AdamW keeps
    assert net.inner.weight.grad is not None


def test_the_ends_of_the_networks_are_no_inner_matrices():
    for network in (
        MLP(MLPSettings(width=8, layers=1), 2, 2),
        UNet(UNetSettings(channels=[8], attention=[False], groups=4), 1, 1),
    ):
        ends = {id(end.weight) for end in network.ends()}
        assert len(ends) == 2
        assert not ends & {id(weight) for weight in list_matrices(network)}


def test_weights_without_a_gradient_stay():
    net = Net()
    before = net.inner.weight.detach().clone()
    net.entry.weight.grad = torch.ones_like(net.entry.weight)
    for optimizer in build_optimizers(net, TrainSettings(optimizer="muon", learning_rate=0.01, weight_decay=0.1)):
        optimizer.step()
    assert torch.equal(net.inner.weight, before)


def test_a_closure_that_computes_gradients_anew_is_taken_first():
    """It moves the matrices exactly as gradients that were there before."""
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    one, other, x = Muon([ours.weight], lr=0.01), Muon([theirs.weight], lr=0.01), random(4, 5)

    def loss_of(module: nn.Module, optimizer: Muon) -> torch.Tensor:
        optimizer.zero_grad()
        loss = module(x).square().mean()
        loss.backward()
        return loss

    for _ in range(3):
        expected = loss_of(theirs, other)
        assert other.step() is None
        loss = one.step(lambda: loss_of(ours, one))
        assert torch.equal(loss, expected)
        assert torch.equal(ours.weight, theirs.weight)
        assert torch.equal(ours.bias, theirs.bias)
        assert torch.equal(ours.weight.grad, theirs.weight.grad)


def test_a_tied_weight_moves_once():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    assert len(list_matrices(nn.Sequential(first, second))) == 1
