from __future__ import annotations

import pytest
import torch
from torch import nn

from alphabar.training.ema import EMA, ema_decay


class WithBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.register_buffer("count", torch.zeros(1))


def test_decay_warms_up_to_its_value():
    assert ema_decay(1, 0.9999) == pytest.approx(2 / 11)
    assert ema_decay(90, 0.9999) == pytest.approx(0.91)
    assert ema_decay(10**6, 0.9999) == 0.9999


def test_the_average_is_the_recursion_and_buffers_are_copied():
    module = WithBuffer()
    ema, expected = EMA(module, 0.5), torch.zeros(3)
    for step in range(1, 30):
        module.weight.data.fill_(float(step))
        module.count.fill_(step)
        ema.update(module, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        torch.testing.assert_close(ema.module.weight.data, expected)
        assert ema.module.count.item() == step


def test_the_average_takes_no_gradient_and_stays_in_evaluation_mode():
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).train()
    ema = EMA(module, 0.9)
    assert not any(p.requires_grad for p in ema.module.parameters())
    assert not ema.module.training
