"""Law 1, the schedules: their published values, their limits, and time between the grid points."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphabar.diffusion.schedule import (
    ContinuousCosineSchedule,
    TableSchedule,
    build_schedule,
    cosine_betas,
    linear_betas,
    rescale_zero_terminal_snr,
    scaled_linear_betas,
    sigmoid_betas,
)
from alphabar.errors import ConfigurationError
from alphabar.settings.base import ScheduleSettings

KINDS = ["linear", "scaled_linear", "cosine", "sigmoid"]
TABLES = [
    ScheduleSettings(kind=kind, steps=steps, zero_terminal_snr=zero)
    for kind in KINDS
    for steps in (50, 1000)
    for zero in (False, True)
]


def test_linear_has_the_values_of_ddpm():
    beta = linear_betas(1000)
    assert beta[0].item() == pytest.approx(1e-4)
    assert beta[-1].item() == pytest.approx(0.02)
    assert beta.dtype == torch.float64
    torch.testing.assert_close(beta.diff(), torch.full((999,), (0.02 - 1e-4) / 999, dtype=torch.float64))


def test_linear_scales_with_steps_so_that_the_end_stays_equally_noisy():
    ends = [TableSchedule(linear_betas(steps)).log_snr(1.0).item() for steps in (100, 1000, 4000)]
    assert max(ends) - min(ends) < 1.2
    assert linear_betas(100)[0].item() == pytest.approx(1e-3)


def test_scaled_linear_is_linear_in_the_root():
    root = scaled_linear_betas(1000).sqrt()
    assert root[0].item() ** 2 == pytest.approx(8.5e-4)
    assert root[-1].item() ** 2 == pytest.approx(0.012)
    torch.testing.assert_close(root.diff(), root.diff()[:1].expand(999))


def test_cosine_follows_its_formula_until_the_cap():
    schedule = TableSchedule(cosine_betas(1000))
    f = torch.cos((torch.linspace(0, 1, 1001, dtype=torch.float64) + 0.008) / 1.008 * math.pi / 2) ** 2
    torch.testing.assert_close(schedule.alpha_bars[:999], (f / f[0])[:999], rtol=1e-9, atol=0)
    assert schedule.beta.max().item() == 0.999


def test_sigmoid_is_symmetric_about_the_middle():
    alpha_bars = TableSchedule(sigmoid_betas(1000)).alpha_bars
    torch.testing.assert_close(alpha_bars[:999], 1 - alpha_bars.flip(0)[:999], rtol=0, atol=1e-5)
    assert alpha_bars[500].item() == pytest.approx(0.5, abs=1e-5)


def test_zero_terminal_snr_ends_at_zero_and_keeps_the_first_step():
    before = linear_betas(1000)
    after = rescale_zero_terminal_snr(before)
    assert after[-1].item() == 1.0
    assert after[0].item() == pytest.approx(before[0].item(), rel=1e-9)
    assert (after[:-1] < 1).all()


@pytest.mark.parametrize("settings", TABLES, ids=lambda s: f"{s.kind}-{s.steps}-{s.zero_terminal_snr}")
def test_tables_are_exact_at_grid_points_and_monotone_between(settings):
    schedule = build_schedule(settings)
    steps = schedule.steps
    assert steps == settings.steps
    grid = torch.arange(steps + 1, dtype=torch.float64) / steps
    assert torch.equal(schedule.alpha_bar(grid), schedule.alpha_bars)
    assert schedule.alpha_bar(0.0) == 1
    assert schedule.noise_variance(0.0) == 0
    fine = torch.linspace(0, 1, 3 * steps + 7, dtype=torch.float64)
    alpha_bar = schedule.alpha_bar(fine)
    assert (alpha_bar.diff() < 0).all()
    torch.testing.assert_close(alpha_bar + schedule.noise_variance(fine), torch.ones_like(fine), rtol=0, atol=1e-14)
    assert (schedule.log_snr(1.0) == -math.inf) == settings.zero_terminal_snr


def test_log_snr_is_linear_between_grid_points():
    schedule = TableSchedule(linear_betas(100))
    left, right = schedule.log_snr(0.40), schedule.log_snr(0.41)
    assert schedule.log_snr(0.4025).item() == pytest.approx((0.75 * left + 0.25 * right).item(), rel=1e-12)


@given(st.floats(0, 1))
def test_signal_and_noise_preserve_variance(t):
    for schedule in (TableSchedule(linear_betas(50)), ContinuousCosineSchedule()):
        assert (schedule.signal(t) ** 2 + schedule.noise(t) ** 2).item() == pytest.approx(1, abs=1e-12)


def test_snr_is_the_ratio_of_variances():
    schedule = TableSchedule([0.1, 0.2])
    assert schedule.snr(1.0).item() == pytest.approx(0.72 / 0.28)
    assert schedule.log_snr(0.5).item() == pytest.approx(math.log(0.9 / 0.1))


def test_first_table_index_is_step_one():
    schedule = TableSchedule([0.1, 0.2, 0.3])
    assert schedule.alpha_bar(1 / 3).item() == pytest.approx(0.9)
    assert schedule.alpha_bar(1.0).item() == pytest.approx(0.9 * 0.8 * 0.7)


@pytest.mark.parametrize("betas", [[], [0.0, 0.1], [0.1, 1.0, 0.1], [0.1, 1.1], [-0.1], [float("nan"), 0.1], [[0.1]]])
def test_bad_betas_are_refused(betas):
    with pytest.raises(ConfigurationError, match="beta"):
        TableSchedule(betas)


def test_one_is_allowed_for_the_last_beta_only():
    assert TableSchedule([0.1, 1.0]).alpha_bar(1.0) == 0


def test_linear_refuses_too_few_steps_and_names_the_limit():
    with pytest.raises(ConfigurationError, match="more than 20 steps"):
        linear_betas(20)
    assert linear_betas(21).max() < 1


@pytest.mark.parametrize("t", [-0.01, 1.01, float("nan")])
def test_time_outside_its_range_is_refused(t):
    with pytest.raises(ConfigurationError, match=r"\[0, 1\]"):
        TableSchedule([0.1]).alpha_bar(t)


@pytest.mark.parametrize("name", ["betas.npy", "betas.txt", "betas.json", "betas.csv"])
def test_custom_betas_come_from_a_file(tmp_path, name):
    values = [0.1, 0.25, 0.5]
    path = tmp_path / name
    if name.endswith(".npy"):
        np.save(path, values)
    else:
        path.write_text(
            {"betas.txt": "0.1\n0.25\n0.5\n", "betas.json": "[0.1, 0.25, 0.5]", "betas.csv": "0.1,0.25,0.5"}[name]
        )
    settings = ScheduleSettings(kind="custom", betas=str(path))
    assert settings.steps == 3
    assert settings.betas == values  # the numbers themselves are saved with the run
    assert build_schedule(settings).beta.tolist() == values


def test_custom_betas_come_from_an_array():
    assert build_schedule(ScheduleSettings(kind="custom", betas=np.array([0.1, 0.2]))).steps == 2


def test_missing_betas_file_is_named():
    with pytest.raises(ConfigurationError, match=r"no file 'nowhere\.npy'"):
        ScheduleSettings(kind="custom", betas="nowhere.npy")


def test_continuous_cosine_is_the_cosine():
    schedule = ContinuousCosineSchedule(max_log_snr=40.0)
    assert schedule.alpha_bar(0.3).item() == pytest.approx(math.cos(0.15 * math.pi) ** 2, abs=1e-6)
    assert schedule.alpha_bar(0.0) == 1


def test_a_single_time_is_that_of_many_however_often_it_is_asked_for(monkeypatch):
    """Single times are remembered: a caller may change what it got, and the memory does not grow without end."""
    monkeypatch.setattr("alphabar.diffusion.schedule.KEPT_TIMES", 3)
    table = TableSchedule(linear_betas(50))
    times = torch.tensor([0.0, 0.013, 0.4, 0.777, 1.0], dtype=torch.float64)
    for _ in range(3):
        for t, a, b in zip(times, table.alpha_bar(times), table.noise_variance(times), strict=True):
            for asked in (t, float(t)):
                assert torch.equal(table.alpha_bar(asked), a)
                assert torch.equal(table.noise_variance(asked), b)
            table.alpha_bar(t).zero_()
    assert len(table._known) <= 3


def test_a_file_without_betas_is_told(tmp_path):
    (tmp_path / "betas.txt").write_text("\n")
    with pytest.raises(ConfigurationError, match=r"schedule\.betas holds no numbers"):
        ScheduleSettings(kind="custom", betas=str(tmp_path / "betas.txt"))


def test_a_time_is_known_while_another_thread_forgets_all():
    """The table of known times is cleared when it is full: here by another thread, between the look and the answer."""
    schedule = TableSchedule(linear_betas(1000))

    class Forgetful(dict):
        def __contains__(self, key):
            there = super().__contains__(key)
            self.clear()
            return there

        def get(self, key, default=None):
            value = super().get(key, default)
            self.clear()
            return value

    schedule._known = Forgetful()
    expected = schedule.alpha_bars[500]
    for _ in range(3):
        assert schedule.alpha_bar(0.5) == expected
