"""Every formula of the derivation: the step to it from the ones before, in SymPy where it is algebra, in numbers where it is a limit or
an expectation; and the function that computes it gives what it says.

The formulas are those of `alphabar.explain.formulas`, which the pages show: a sign that is flipped there fails here.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

sympy = pytest.importorskip("sympy")

from alphabar.diffusion.gaussian import (  # noqa: E402
    diffuse,
    diffuse_step,
    kl_divergence,
    learned_log_variance,
    posterior_mean,
    posterior_variance,
    reverse_mean_from_eps,
    step_mean,
    stride_beta,
)
from alphabar.diffusion.guidance import ClassifierGuided, Guided  # noqa: E402
from alphabar.diffusion.loss import bound_weight, denoising_loss  # noqa: E402
from alphabar.diffusion.parameterization import Prediction, eps_from_v, v_from_x_0_and_eps, x_0_from_eps, x_0_from_v  # noqa: E402
from alphabar.diffusion.schedule import TableSchedule, linear_betas  # noqa: E402
from alphabar.evaluation.distances import frechet_distance, kernel_distance  # noqa: E402
from alphabar.evaluation.likelihood import bits_per_dimension, dequantized  # noqa: E402
from alphabar.explain.formulas import ASIDES, FORMULAS, NAMED  # noqa: E402
from alphabar.explain.notation import symbol, to_sentence, to_sympy  # noqa: E402
from alphabar.generation.editing import slerp  # noqa: E402
from alphabar.networks.cond import Cond  # noqa: E402
from alphabar.networks.layers import sinusoidal_embedding  # noqa: E402
from alphabar.randomness import uniform  # noqa: E402
from alphabar.samplers.adaptive import Adaptive  # noqa: E402
from alphabar.samplers.ancestral import Ancestral  # noqa: E402
from alphabar.samplers.base import Visit  # noqa: E402
from alphabar.samplers.coordinates import data_step, half_log_snr, jump, stride  # noqa: E402
from alphabar.samplers.ddim import DDIM, DDIMInversion  # noqa: E402
from alphabar.samplers.dpm_2m import extrapolated  # noqa: E402
from alphabar.samplers.euler import Euler  # noqa: E402
from alphabar.samplers.repaint import RePaint  # noqa: E402

ONE_STEP_EARLIER = {
    f"{name}[{t}]": f"{name}[{s}]"
    for name in ("x", "alpha", "beta", "eps", "alpha_bar")
    for t, s in (("t", "t-1"), ("t-1", "t-2"))
}


def sym(text: str) -> Any:
    """A symbol, or an expression in the notation of the formulas."""
    return to_sympy(text)


def said(label: str) -> Any:
    """The formula as SymPy has it: an equation, or a relation of two sides."""
    return to_sympy(FORMULAS[label].source)


def rhs(label: str) -> Any:
    return said(label).args[1]


def moved(expression: Any, renamed: dict[str, str]) -> Any:
    """With other indices, all at once."""
    return expression.subs({symbol(old): symbol(new) for old, new in renamed.items()}, simultaneous=True)


def in_alpha(expression: Any) -> Any:
    """beta_t and alpha_bar_t by alpha_t and alpha_bar_{t-1}: what the definitions say."""
    return expression.subs(symbol("alpha_bar[t]"), sym("alpha[t]*alpha_bar[t-1]")).subs(
        symbol("beta[t]"), sym("1 - alpha[t]")
    )


def equal(a: Any, b: Any) -> bool:
    """Whether two expressions are the same for all values."""
    return bool(sympy.simplify(sympy.expand(sympy.expand_log(a - b, force=True))) == 0)


def mean_and_variance(normal: Any) -> tuple[Any, Any]:
    """Of an N(m, v I) or N(x, m, v I), in one dimension."""
    mean, variance = normal.args[-2:]
    return mean, variance.subs(symbol("I"), 1)


def log_density(x: Any, mean: Any, variance: Any) -> Any:
    """log N(x; mean, variance) in one dimension."""
    return -((x - mean) ** 2) / (2 * variance) - sympy.log(2 * sympy.pi * variance) / 2


def log_quotient() -> Any:
    """The logarithm of the right side of Bayes' rule, from the three normal densities that stand in it."""
    forward, earlier = rhs("forward-step"), moved(rhs("marginal"), {"x[t]": "x[t-1]", "alpha_bar[t]": "alpha_bar[t-1]"})
    parts = [
        log_density(sym(x), *mean_and_variance(q))
        for x, q in (("x[t]", forward), ("x[t-1]", earlier), ("x[t]", rhs("marginal")))
    ]
    return parts[0] + parts[1] - parts[2]


# --- proofs -----------------------------------------------------------------------------------------------------------------------


def scaled_noise() -> None:
    """The density of mu + sigma eps by the change of variables, 1 / sigma times that of eps at (z - mu) / sigma."""
    z, (scaled, normal) = sympy.Symbol("z", real=True), said("scaled-noise").args
    eps = sympy.solve(scaled - z, symbol("eps"))[0]
    assert equal(log_density(eps, 0, 1) + sympy.log(sympy.diff(eps, z)), log_density(z, *mean_and_variance(normal)))


def forward_draw() -> None:
    """The mean plus the root of the variance times eps."""
    mean, variance = mean_and_variance(rhs("forward-step"))
    scaled = (
        said("scaled-noise")
        .args[0]
        .subs({symbol("mu"): mean, symbol("sigma"): sympy.sqrt(variance), symbol("eps"): symbol("eps[t]")})
    )
    assert equal(rhs("forward-draw"), scaled)


def two_steps() -> None:
    """The step to t - 1 put into the step to t."""
    step = rhs("forward-draw").subs(symbol("beta[t]"), sym("1 - alpha[t]"))
    both = step.subs(symbol("x[t-1]"), moved(step, ONE_STEP_EARLIER))
    assert equal(rhs("two-steps"), both)


def sum_of_normals() -> None:
    """Of independent summands the characteristic functions multiply; the product is that of the normal distribution on the right."""
    total, normal = said("sum-of-normals").args
    mean, variance = mean_and_variance(normal)
    u, e = sympy.symbols("u e", real=True)
    one = sympy.exp(-(u**2) / 2)  # of eps, checked here by its integral
    integral = sympy.integrate(
        sympy.exp(sympy.I * u * e - e**2 / 2) / sympy.sqrt(2 * sympy.pi), (e, -sympy.oo, sympy.oo)
    )
    assert sympy.simplify(integral - one) == 0
    assert equal(total, sum(total.coeff(symbol(eps)) * symbol(eps) for eps in ("eps_1", "eps_2")))
    product = sympy.prod([one.subs(u, u * total.coeff(symbol(eps))) for eps in ("eps_1", "eps_2")])
    assert sympy.simplify(product - sympy.exp(sympy.I * u * mean - variance * u**2 / 2)) == 0


def two_variances() -> None:
    """The squares of the factors before both noises, by the rule for sums."""
    steps = rhs("two-steps")
    left, right = said("two-variances").args
    assert equal(left, steps.coeff(symbol("eps[t-1]")) ** 2 + steps.coeff(symbol("eps[t]")) ** 2)
    assert equal(left, right)


def alpha_bar_step() -> None:
    """One more factor of the product; the product of none is 1."""
    test_alpha_bar_is_the_product()
    alpha = lambda t: symbol(f"alpha[{t}]")  # noqa: E731
    product = lambda t: sympy.prod([alpha(s) for s in range(1, t + 1)])  # noqa: E731
    for t in range(1, 6):
        step = {symbol("alpha_bar[t-1]"): product(t - 1), symbol("alpha[t]"): alpha(t)}
        assert equal(product(t), rhs("alpha-bar-step").subs(step)), t
    assert product(0) == 1


def closed_form() -> None:
    """True for t = 1; and if it is for t - 1, one more step makes it true for t."""
    first = rhs("closed-form").subs(symbol("alpha_bar[t]"), symbol("alpha[t]"))
    step = rhs("forward-draw").subs(symbol("beta[t]"), sym("1 - alpha[t]"))
    assert equal(first, step.subs({symbol("x[t-1]"): symbol("x[0]"), symbol("eps[t]"): symbol("eps")}))
    earlier = moved(rhs("closed-form"), {"alpha_bar[t]": "alpha_bar[t-1]"})
    both, whole = sympy.expand(step.subs(symbol("x[t-1]"), earlier)), in_alpha(rhs("closed-form"))
    assert equal(both.coeff(symbol("x[0]")), whole.coeff(symbol("x[0]")))
    merged = both.coeff(symbol("eps")) ** 2 + both.coeff(symbol("eps[t]")) ** 2  # independent, so variances add
    assert equal(merged, whole.coeff(symbol("eps")) ** 2)


def marginal() -> None:
    """Mean and variance of the closed form."""
    mean, variance = mean_and_variance(rhs("marginal"))
    form = rhs("closed-form")
    assert equal(mean, form.coeff(symbol("x[0]")) * symbol("x[0]"))
    assert equal(variance, form.coeff(symbol("eps")) ** 2)


def bayes() -> None:
    """Its right side is a density of x_{t-1}: what stands below is the integral of what stands above. In numbers, by quadrature."""
    assert str(said("bayes").args[0]).replace(" ", "") == "q(given(x[t-1],(x[t],x[0])))"
    values = {"alpha[t]": 0.8, "alpha_bar[t-1]": 0.6, "x[t]": 0.7, "x[0]": -0.4}
    log_q = in_alpha(log_quotient()).subs({symbol(k): v for k, v in values.items()})
    x = np.linspace(-12, 12, 24001)
    density = np.exp(sympy.lambdify(symbol("x[t-1]"), log_q, "numpy")(x))
    assert np.trapezoid(density, x) == pytest.approx(1, abs=1e-9)
    above = [str(part.func) + str(part.args[0]).replace(" ", "") for part in sympy.numer(rhs("bayes")).args]
    assert sorted(above) == ["qgiven(x[t-1],x[0])", "qgiven(x[t],x[t-1])"]
    assert str(sympy.denom(rhs("bayes"))).replace(" ", "") == "q(given(x[t],x[0]))"


def exponent() -> None:
    """The logarithm of the quotient differs from the exponent by a constant: its derivatives by x_{t-1}, x_t and x_0 are the same.

    The third term has a minus: it comes from below the line."""
    power = rhs("exponent").args[0]
    for x in ("x[t-1]", "x[t]", "x[0]"):
        difference = sympy.diff(in_alpha(log_quotient()) - in_alpha(power), symbol(x))
        assert equal(difference, sympy.Integer(0)), x


def square() -> None:
    left, right = said("square").args
    assert equal(left, right)


def inside() -> Any:
    """What stands in the exponent behind - 1/2, by powers of x_{t-1}."""
    return sympy.Poly(sympy.expand(-2 * rhs("exponent").args[0]), symbol("x[t-1]"))


def completed() -> Any:
    """The completed square by powers of x_{t-1}."""
    return sympy.Poly(rhs("square"), symbol("x[t-1]"))


def square_coefficient() -> None:
    left, right = said("square-coefficient").args
    assert equal(left, completed().coeff_monomial(symbol("x[t-1]") ** 2))
    assert equal(right, inside().coeff_monomial(symbol("x[t-1]") ** 2))


def linear_coefficient() -> None:
    """On both sides -2 times it: the factor that is easily lost."""
    left, right = said("linear-coefficient").args
    assert equal(-2 * left, completed().coeff_monomial(symbol("x[t-1]")))
    assert equal(-2 * right, inside().coeff_monomial(symbol("x[t-1]")))


def posterior_variance_proof() -> None:
    assert equal(in_alpha(rhs("posterior-variance")), in_alpha(1 / rhs("square-coefficient")))


def posterior_mean_proof() -> None:
    solved = rhs("linear-coefficient") / rhs("square-coefficient")
    assert equal(in_alpha(rhs("posterior-mean")), in_alpha(solved))


def posterior() -> None:
    """The whole density, its normalisation too: log of the quotient = log of this normal density."""
    mean, variance = mean_and_variance(rhs("posterior"))
    mean = mean.subs(symbol("mu_tilde[t]"), rhs("posterior-mean"))
    variance = variance.subs(symbol("beta_tilde[t]"), rhs("posterior-variance"))
    difference = in_alpha(log_quotient()) - in_alpha(log_density(symbol("x[t-1]"), mean, variance))
    values = {"alpha[t]": "7/10", "alpha_bar[t-1]": "2/5", "x[t]": "3/10", "x[0]": "-1/2"}
    for x in ("-1", "0", "2"):
        point = {symbol(k): sympy.Rational(v) for k, v in {**values, "x[t-1]": x}.items()}
        assert abs(sympy.N(difference.subs(point), 30)) < 1e-25


def x0_from_eps() -> None:
    solved = sympy.solve(symbol("x[t]") - rhs("closed-form"), symbol("x[0]"))
    assert equal(solved[0], rhs("x0-from-eps"))


def mean_from_eps() -> None:
    put_in = rhs("posterior-mean").subs(symbol("x[0]"), rhs("x0-from-eps"))
    assert equal(in_alpha(put_in), in_alpha(rhs("mean-from-eps")))


def best_guess() -> None:
    """Of all numbers m the mean has the least expected squared error: the derivative of sum p_i (e_i - m)^2 is 0 there, and rises."""
    p, e, m = sympy.symbols("p1:4", positive=True), sympy.symbols("e1:4", real=True), sympy.Symbol("m", real=True)
    total = sum(p)
    error = sum(p_i / total * (e_i - m) ** 2 for p_i, e_i in zip(p, e, strict=True))
    assert equal(sympy.solve(sympy.diff(error, m), m)[0], sum(p_i * e_i for p_i, e_i in zip(p, e, strict=True)) / total)
    assert equal(sympy.diff(error, m, 2), sympy.Integer(2))


def bound() -> None:
    """Data N(0, 1 / 4) and a model of any linear eps_theta = c x: left side, right side and all KLs in closed form."""
    betas = linear_betas(1000)[[300, 500, 700]] * 20
    alpha_bar = np.concatenate([[1.0], np.cumprod(1 - betas.numpy())])
    alpha, data = alpha_bar[1:] / alpha_bar[:-1], 0.25
    for c in (0.2, 0.6, 0.9):
        sigma_2 = 1 - alpha
        slope = [
            (1 - (1 - a) / math.sqrt(1 - ab) * c) / math.sqrt(a) for a, ab in zip(alpha, alpha_bar[1:], strict=True)
        ]
        variance = 1.0  # of p_theta(x_T), carried down to x_0
        for k, s in zip(slope[::-1], sigma_2[::-1], strict=True):
            variance = k**2 * variance + s
        left = 0.5 * (math.log(2 * math.pi * variance) + data / variance)
        ends = gauss_kl(alpha_bar[3] * data, 1 - alpha_bar[3], 1.0)  # L_T, with p(x_T) = N(0, 1)
        second = data * alpha_bar[1] + 1 - alpha_bar[1]  # of x_1
        error = data - 2 * slope[0] * math.sqrt(alpha_bar[1]) * data + slope[0] ** 2 * second
        ends += 0.5 * (math.log(2 * math.pi * sigma_2[0]) + error / sigma_2[0])  # L_0
        between = 0.0
        for t in (2, 3):
            tilde = (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]) * (1 - alpha[t - 1])
            on_x_t = math.sqrt(alpha[t - 1]) * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]) - slope[t - 1]
            on_x_0 = math.sqrt(alpha_bar[t - 1]) * (1 - alpha[t - 1]) / (1 - alpha_bar[t])
            along = on_x_t * math.sqrt(alpha_bar[t]) + on_x_0
            gap = along**2 * data + on_x_t**2 * (1 - alpha_bar[t])  # the expected squared distance of both means
            between += gauss_kl(gap, tilde, sigma_2[t - 1])
        assert left <= ends + between
        assert ends + between < left + 2  # and it is no empty bound
        assert ends + between == pytest.approx(by_ways(alpha, alpha_bar, slope, sigma_2, data), abs=1e-9)


def by_ways(alpha: Any, alpha_bar: Any, slope: list[float], variance: Any, data: float) -> float:
    """E_q[-log R] with R = p(x_0:3) / q(x_1:3 | x_0), from the moments of the noising alone: what `jensen` has on its right."""
    second = alpha_bar * data + 1 - alpha_bar  # E[x_t^2]
    total = 0.5 * (math.log(2 * math.pi) + second[3])  # -log p(x_3)
    for k in range(3):
        across = math.sqrt(alpha[k]) * second[k]  # E[x_k x_k+1]
        error = second[k] - 2 * slope[k] * across + slope[k] ** 2 * second[k + 1]
        total += 0.5 * (math.log(2 * math.pi * variance[k]) + error / variance[k])  # -log p(x_k | x_k+1)
        total -= 0.5 * (math.log(2 * math.pi * (1 - alpha[k])) + 1)  # log q(x_k+1 | x_k)
    return float(total)


def jensen() -> None:
    """p(x_0) is the average over q of R = p(x_0:T) / q(x_1:T | x_0), and -log is convex. On the chain of `bound`, with T = 2, by quadrature."""
    assert str(said("jensen").args[0]) == "-log(p_theta(x[0]))"
    assert str(rhs("jensen")).replace(" ", "") == "E(q,-log(p_theta(x['0:T'])/q(given(x['1:T'],x[0]))))"
    x = sympy.Symbol("x", positive=True)
    assert sympy.diff(-sympy.log(x), x, 2).is_positive
    grid, x_0 = np.linspace(-8, 8, 801), 0.4
    x_1, x_2 = grid[:, None], grid[None, :]
    normal = lambda x, m, v: np.exp(-((x - m) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v)  # noqa: E731
    model = normal(x_2, 0, 1) * normal(x_1, 0.7 * x_2, 0.4) * normal(x_0, 0.8 * x_1, 0.3)
    way = normal(x_1, math.sqrt(0.6) * x_0, 0.4) * normal(x_2, math.sqrt(0.3) * x_1, 0.7)
    mean = lambda f: np.trapezoid(np.trapezoid(way * f, grid), grid)  # noqa: E731
    exact = normal(x_0, 0, 0.3 + 0.8**2 * (0.4 + 0.7**2))
    assert mean(model / way) == pytest.approx(exact, rel=1e-6)
    assert -math.log(exact) <= mean(-np.log(model / way))


def average_of_ways() -> None:
    """The chain of `jensen`: the average over q of the quotient is what the integral over all ways gives."""
    jensen()
    (inside,) = rhs("average-of-ways").args[1:]
    assert str(said("average-of-ways").args[0]) == "p_theta(x[0])"
    assert rhs("jensen").args[0] == rhs("average-of-ways").args[0]
    assert rhs("jensen").args[1] == -sympy.log(inside)


def turned_round() -> None:
    """`bayes` solved for the step forward, with a symbol for each density."""
    q = lambda *key: sympy.Symbol(f"q{key}", positive=True)  # noqa: E731
    for t in (2, 5):
        back = q("back", t, t, 0)
        solved = sympy.solve(in_words(rhs("bayes"), t) - back, q("step", t, t - 1))[0]
        assert equal(in_words(rhs("turned-round"), t), solved)
        assert in_words(said("turned-round").args[0], t) == q("step", t, t - 1)


def bound_product() -> None:
    """Steps 2 to T of the noising turned round by Bayes' rule: the quotients cancel but for the ends. For T = 2, 3, 4."""
    assert str(said("bound-product").args[0]).replace(" ", "") == "p_theta(x['0:T'])/q(given(x['1:T'],x[0]))"
    q, p, end = (lambda *key: sympy.Symbol(f"q{key}", positive=True)), sympy.Function("p_theta"), sympy.Function("p")
    given = sympy.Function("given")
    state = lambda k: symbol(f"x[{k}]")  # noqa: E731
    for steps in (2, 3, 4):
        model = end(state(steps)) * sympy.prod([p(given(state(t - 1), state(t))) for t in range(1, steps + 1)])
        way = q(1, 0)
        for t in range(2, steps + 1):
            forward = in_words(rhs("bayes"), t)  # q(x_t-1 | x_t, x_0) = forward * q(x_t-1 | x_0) / q(x_t | x_0)
            way *= sympy.solve(forward - q("back", t, t, 0), q("step", t, t - 1))[0]
        claim = rhs("bound-product")
        product = claim.atoms(sympy.Product).pop()
        inside, (t, first, last) = product.args
        parts = [inside.subs({symbol("x[t-1]"): state(k - 1), symbol("x[t]"): state(k)}) for k in range(2, steps + 1)]
        assert (t, first, last) == (symbol("t"), 2, symbol("T"))
        written = (claim / product * sympy.prod(parts)).subs(symbol("x[T]"), state(steps))
        written = written.replace(sympy.Function("q"), lambda g: by_name(g, q))
        assert sympy.simplify(written - model / way) == 0


def in_words(expression: Any, t: int) -> Any:
    """Bayes' rule at step t with a symbol for each density: the step, and the states given x_0."""
    names = {"x[t]": f"x[{t}]", "x[t-1]": f"x[{t - 1}]"}
    q = lambda *key: sympy.Symbol(f"q{key}", positive=True)  # noqa: E731
    return moved(expression, names).replace(sympy.Function("q"), lambda g: by_name(g, q))


def by_name(given: Any, q: Callable[..., Any]) -> Any:
    """The symbol of q(x_t | x_t-1), of q(x_t | x_0) or of q(x_t-1 | x_t, x_0)."""
    state, known = given.args
    of = lambda x: int(str(x)[2:-1])  # noqa: E731
    if isinstance(known, sympy.Tuple):
        return q("back", of(state) + 1, *map(of, known))
    return q(of(state), 0) if of(known) == 0 else q("step", of(state), of(known))


def true_mean() -> None:
    """For two points of data, by quadrature: the mean of q(x_t-1 | x_t), proportional to q(x_t-1) q(x_t | x_t-1), against `best-guess` in
    the place of eps."""
    assert str(said("true-mean").args[0]).replace(" ", "") == "E(q,given(x[t-1],x[t]))"
    best = sympy.Function("eps_star")(symbol("x[t]"), symbol("t"))
    for before, alpha in ((0.9, 0.95), (0.5, 0.6), (0.2, 0.9)):
        x, density, _ = mixture(before)
        places, _, noise = mixture(before * alpha)
        for at in (4500, 6000, 6700):
            here = density * np.exp(-((places[at] - math.sqrt(alpha) * x) ** 2) / (2 * (1 - alpha)))
            mean = np.trapezoid(here * x, x) / np.trapezoid(here, x)
            values = {"x[t]": places[at], "alpha[t]": alpha, "alpha_bar[t]": before * alpha}
            claim = rhs("true-mean").subs(best, noise[at]).subs({symbol(k): v for k, v in values.items()})
            assert mean == pytest.approx(float(claim), abs=2e-4)


def gauss_kl(squared_distance: float, variance_1: float, variance_2: float) -> float:
    """The formula `kl` with an expected squared distance of the means."""
    values = {
        "sigma_1": math.sqrt(variance_1),
        "sigma_2": math.sqrt(variance_2),
        "mu_1": math.sqrt(squared_distance),
        "mu_2": 0.0,
    }
    return float(rhs("kl").subs({symbol(k): v for k, v in values.items()}))


def squared_distance() -> None:
    """By the density's integral over all x."""
    over, inside = said("squared-distance").args[0].args
    x, s, (mean, variance) = symbol("x"), sympy.Symbol("s", positive=True), mean_and_variance(over)
    density = sympy.exp(-((x - mean) ** 2) / (2 * s**2)) / (s * sympy.sqrt(2 * sympy.pi))
    assert equal(variance, symbol("sigma_1") ** 2)
    integral = sympy.integrate(
        sympy.expand(inside.subs(x, x + mean)) * density.subs(x, x + mean), (x, -sympy.oo, sympy.oo)
    )
    assert equal(integral, rhs("squared-distance").subs(symbol("sigma_1"), s))


def kl() -> None:
    """E[log p_1 - log p_2] with x = mu_1 + sigma_1 e, E[e] = 0, E[e^2] = 1."""
    assert str(rhs("kl-definition")) == "E(p, log(p/q))"
    e = sympy.Symbol("e", real=True)
    m_1, s_1, m_2, s_2 = (symbol(name) for name in ("mu_1", "sigma_1", "mu_2", "sigma_2"))
    s_1, s_2 = sympy.Symbol("s1", positive=True), sympy.Symbol("s2", positive=True)
    x = m_1 + s_1 * e
    inside = sympy.Poly(sympy.expand(log_density(x, m_1, s_1**2) - log_density(x, m_2, s_2**2)), e)
    expected = inside.coeff_monomial(1) + inside.coeff_monomial(e**2)
    assert equal(expected, rhs("kl").subs({symbol("sigma_1"): s_1, symbol("sigma_2"): s_2}))


def model_mean() -> None:
    """The mean with the network's guess in the place of the noise."""
    theta = sympy.Function("eps_theta")(symbol("x[t]"), symbol("t"))
    assert equal(rhs("model-mean"), rhs("mean-from-eps").subs(symbol("eps"), theta))


def step_weight() -> None:
    left, right = said("step-weight").args
    mu = sympy.Function("mu_theta")(symbol("x[t]"), symbol("t"))
    plain = lambda part: part.replace(sympy.Function("norm"), lambda x: x)  # noqa: E731  (in one dimension)
    means = plain(left).subs({symbol("mu_tilde[t]"): rhs("mean-from-eps"), mu: rhs("model-mean")})
    assert equal(in_alpha(means), in_alpha(plain(right)))


def x0_from_v() -> None:
    put_in = rhs("x0-from-v").subs({symbol("x[t]"): rhs("closed-form"), symbol("v"): rhs("v")})
    assert equal(put_in, symbol("x[0]"))


def eps_from_v_proof() -> None:
    put_in = rhs("eps-from-v").subs({symbol("x[t]"): rhs("closed-form"), symbol("v"): rhs("v")})
    assert equal(put_in, symbol("eps"))


def x0_guess() -> None:
    """The picture that belongs to a noise, with the guess in the place of the noise."""
    theta = sympy.Function("eps_theta")(symbol("x[t]"), symbol("t"))
    assert str(said("x0-guess").args[0]) == "x_hat[0](x[t])"
    assert equal(rhs("x0-guess"), rhs("x0-from-eps").subs(symbol("eps"), theta))


def last_step() -> None:
    """With alpha_bar_0 = 1 the posterior is a point: its mean is x_0 and its variance 0, so there is no noise to add."""
    at_the_end = {symbol("alpha_bar[t-1]"): 1, symbol("alpha_bar[t]"): symbol("alpha[t]")}
    assert equal(rhs("posterior-mean").subs(at_the_end), symbol("x[0]"))
    assert equal(rhs("posterior-variance").subs(at_the_end), sympy.Integer(0))
    assert str(said("last-step")).replace(" ", "") == "Eq(x[0],x_hat[0](x[1]))"


def mixture(alpha_bar: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For x_0 = -1 or 0.5 with weights 0.3 and 0.7: points x_t, the density there, and E[eps | x_t]."""
    x, a, b = np.linspace(-6, 6, 12001), math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    parts = [
        w * np.exp(-((x - a * m) ** 2) / (2 * b**2)) / math.sqrt(2 * math.pi) / b for w, m in ((0.3, -1), (0.7, 0.5))
    ]
    noise = sum(p * (x - a * m) / b for p, m in zip(parts, (-1, 0.5), strict=True))
    return x, parts[0] + parts[1], noise / (parts[0] + parts[1])


def x0_estimate() -> None:
    """The same in a_t and b_t."""
    guess = rhs("x0-guess").replace(sympy.Function("eps_theta"), lambda *_: symbol("eps_hat"))
    assert str(said("x0-estimate").args[0]) == "x_hat[0]"
    assert equal(in_levels(rhs("x0-estimate")), guess)


def in_levels(expression: Any) -> Any:
    """a and b by alpha_bar, as `NAMED` says."""
    levels = {
        f"{name}[{t}]": source
        for t in "ts"
        for name, source in (("a", f"sqrt(alpha_bar[{t}])"), ("b", f"sqrt(1 - alpha_bar[{t}])"))
    }
    return expression.subs({symbol(name): sym(source) for name, source in levels.items()})


def stride_variance() -> None:
    """The posterior's variance with s in the place of t - 1, and the stride's beta in that of beta_t."""
    wanted = moved(rhs("posterior-variance"), {"alpha_bar[t-1]": "alpha_bar[s]"}).subs(symbol("beta[t]"), rhs("stride"))
    left, right = said("stride-variance").args
    assert left == symbol("sigma") ** 2
    assert equal(in_levels(right), wanted)


def score_of_one() -> None:
    """The slope of the logarithm of the normal density `marginal`, at the x_t of the closed form."""
    assert str(said("score-of-one").args[0]) == "grad(x[t], log(q(given(x[t], x[0]))))"
    slope = sympy.diff(log_density(symbol("x[t]"), *mean_and_variance(rhs("marginal"))), symbol("x[t]"))
    assert equal(slope.subs(symbol("x[t]"), rhs("closed-form")), in_levels(rhs("score-of-one")))


def blurred() -> None:
    """For a normal density whose spread is sigma; each side is linear in p, so it holds for averages of such densities too. With more numbers than
    one the density is a product, and the second derivatives add up."""
    x, y, sigma = sympy.Symbol("x", real=True), sympy.Symbol("y", real=True), symbol("sigma")
    p = sympy.exp(log_density(x, 0, sigma**2) + log_density(y, 0, sigma**2))
    laplace = sympy.diff(p, x, 2) + sympy.diff(p, y, 2)
    assert str(said("blurred").args[0]) == "partial(sigma, p)"
    claim = rhs("blurred").replace(
        sympy.Function("laplace"), lambda density: laplace if str(density) == "p" else density
    )
    assert sympy.simplify(claim - sympy.diff(p, sigma)) == 0


def carried() -> None:
    """p grad log p is grad p, and its divergence is what `blurred` has: for any density."""
    y, p = sympy.Symbol("y", real=True), sympy.Function("density")
    assert said("carried").args[0] == said("blurred").args[0]
    gradient = {"y": lambda f: sympy.diff(f.subs(symbol("p"), p(y)), y)}
    flow = rhs("carried").replace(sympy.Function("grad"), lambda at, f: gradient[str(at)](f))
    flow = flow.replace(sympy.Function("div"), lambda f: sympy.diff(f.subs(symbol("p"), p(y)), y))
    assert equal(flow, rhs("blurred").replace(sympy.Function("laplace"), lambda _: sympy.diff(p(y), y, 2)))


def data_ode() -> None:
    """`ode` along any way of a and b, with eps_hat by x_0_hat, solved for the change of x / b."""
    way = sympy.Symbol("way")
    x, a, b = (sympy.Function(name)(way) for name in "xab")
    along = {symbol("x[t]"): x, symbol("a[t]"): a, symbol("b[t]"): b}
    change = lambda side: side.subs(along).replace(sympy.Function("d_"), lambda f: sympy.diff(f, way))  # noqa: E731
    noise = sympy.solve(x - sym("a[t]*x_hat[0] + b[t]*eps_hat").subs(along), symbol("eps_hat"))[0]
    of_ode, of_data = (change(said(label).args[0] - said(label).args[1]) for label in ("ode", "data-ode"))
    slope = sympy.solve(of_ode.subs(symbol("eps_hat"), noise), sympy.diff(x, way))[0]
    assert equal(of_data.subs(sympy.diff(x, way), slope), sympy.Integer(0))


def held_fixed() -> None:
    """`data-ode` from t to s: with x_0_hat fixed both sides are whole differences, of x / b and of a / b = exp(lambda)."""
    left, right = said("held-fixed").args
    ends = [
        side.replace(sympy.Function("d_"), lambda f: moved(f, {f"{n}[t]": f"{n}[s]" for n in "xab"}) - f)
        for side in said("data-ode").args
    ]
    assert equal(left, ends[0])
    lam = rhs("half-log-snr")
    values = {symbol("lambda_[t]"): lam, symbol("lambda_[s]"): moved(lam, {"a[t]": "a[s]", "b[t]": "b[s]"})}
    assert equal(right.subs(values), ends[1])


def score() -> None:
    """The gradient of log q(x_t) by differences, against the expectation."""
    expected = sympy.Symbol("expected")
    formula = rhs("score").replace(sympy.Function("E"), lambda *_: expected)
    for alpha_bar in (0.9, 0.5, 0.1):
        x, density, noise = mixture(alpha_bar)
        gradient = np.gradient(np.log(density), x)[5:-5]
        claim = sympy.lambdify((expected, symbol("alpha_bar[t]")), formula, "numpy")(noise, alpha_bar)[5:-5]
        np.testing.assert_allclose(gradient, claim, atol=2e-4)


def ddim_family() -> None:
    """If x_0_hat and eps_hat are right, x_s has the mean and the variance of q(x_s | x_0), whatever sigma is."""
    form = rhs("ddim-family")
    assert equal(form.coeff(symbol("x_hat[0]")), symbol("a[s]"))
    assert equal(form.coeff(symbol("eps_hat")) ** 2 + form.coeff(symbol("z")) ** 2, symbol("b[s]") ** 2)


def ddim() -> None:
    assert equal(rhs("ddim"), rhs("ddim-family").subs(symbol("sigma"), 0))


def euler() -> None:
    """The step of DDIM divided by a_s, with x_t = a_t x_0_hat + b_t eps_hat."""
    left, right = said("euler").args
    noised = sym("a[t]*x_hat[0] + b[t]*eps_hat")
    assert equal(left.subs(symbol("x[s]"), rhs("ddim")), right.subs(symbol("x[t]"), noised))


def ode() -> None:
    """The limit of ever smaller steps: with data N(0, 1 / 4) the flow keeps x_t / standard deviation of x_t, and Euler's error falls with
    the step. That the flow keeps the distributions are `blurred`, `carried` and `score`."""
    assert str(said("ode")).replace(" ", "") == "Eq(d_(x[t]/a[t]),eps_hat*d_(b[t]/a[t]))"
    errors = []
    for n in (50, 100, 200):
        sigma = np.linspace(3.0, 0.1, n + 1)
        y = 1.0
        for here, there in pairwise(sigma):
            y += (there - here) * here * y / (0.25 + here**2)  # E[eps | x] for this data
        errors.append(abs(y - math.sqrt((0.25 + 0.01) / (0.25 + 9.0))))
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.1)


def exponential_step() -> None:
    """The same step as DDIM's, with h = lambda_s - lambda_t."""
    lam = rhs("half-log-snr")
    h = moved(lam, {"a[t]": "a[s]", "b[t]": "b[s]"}) - lam
    noised = sym("a[t]*x_hat[0] + b[t]*eps_hat")
    step = rhs("exponential-step").subs({symbol("h"): h, symbol("x[t]"): noised})
    assert equal(sympy.simplify(sympy.expand_log(step)), rhs("ddim"))


def second_order() -> None:
    """Exact where x_0_hat is a line in lambda: u lies r h before t, m is the middle h / 2 after it."""
    p, q, h, r = sympy.symbols("p q h r")
    line = {"x_hat[t]": p, "x_hat[u]": p - q * r * h}
    found = rhs("second-order").subs({symbol("r"): r} | {symbol(k): v for k, v in line.items()})
    assert equal(found, p + q * h / 2)


def certainty() -> None:
    """Bayes' rule for two things, by their joint density."""
    joint, of_x, of_y = sympy.symbols("joint of_x of_y", positive=True)
    known = {"given(y, x)": joint / of_x, "given(x, y)": joint / of_y, "x": of_x, "y": of_y}
    left, right = (side.replace(sympy.Function("p"), lambda of: known[str(of)]) for side in said("certainty").args)
    assert equal(left, right)


def slopes() -> tuple[Any, Any, Any]:
    """Of log p(x), of log p(x | y), and of the logarithm of `guided-density`, by `certainty`."""
    x, given = sympy.Symbol("x", real=True), sympy.Function("C")
    prior = sympy.Function("P")(x)
    known = {"given(x, y)": given(x), "x": prior, "y": sympy.Symbol("of_y", positive=True)}
    sure = rhs("certainty").replace(sympy.Function("p"), lambda of: known[str(of)])
    density = rhs("guided-density").replace(
        sympy.Function("p"), lambda of: sympy.exp(sure) if str(of) == "given(y, x)" else known[str(of)]
    )
    return tuple(sympy.diff(sympy.log(each), x) for each in (prior, given(x), density))


def guided_score() -> None:
    s, s_y, guided = slopes()
    assert str(said("guided-score").args[0]) == "grad(x, log(p_w(given(x, y))))"
    assert str(said("guided-density").args[0]) == "p_w(given(x, y))"
    assert sympy.simplify(rhs("guided-score").subs({symbol("s"): s, symbol("s_y"): s_y}) - guided) == 0


def guidance() -> None:
    """An estimate of the noise is -b times a score."""
    b = sympy.Symbol("b", positive=True)
    eps = rhs("guidance").subs({symbol("u"): -b * symbol("s"), symbol("c"): -b * symbol("s_y")})
    assert str(said("guidance").args[0]) == "eps_hat"
    assert equal(eps, -b * rhs("guided-score"))


def nested_guidance() -> None:
    """All weights 1 give the estimate from both conditions, all 0 the one from none; one condition alone is plain guidance."""
    form = rhs("nested-guidance")
    assert equal(form.subs({symbol("w_1"): 1, symbol("w_2"): 1}), symbol("c_12"))
    assert equal(form.subs({symbol("w_1"): 0, symbol("w_2"): 0}), symbol("u"))
    assert equal(form.subs({symbol("w_2"): 0, symbol("c_1"): symbol("c"), symbol("w_1"): symbol("w")}), rhs("guidance"))


def classifier_guidance() -> None:
    """Guidance with the score of p(y | x_t) instead of the difference c - u: by the formula for the score c - u = -b gradient."""
    gradient = sympy.Symbol("gradient")
    form = rhs("classifier-guidance").replace(sympy.Function("grad"), lambda *_: gradient)
    u = sympy.Function("eps_theta")(symbol("x[t]"), symbol("t"))
    root = sympy.sqrt(1 - symbol("alpha_bar[t]"))
    plain = rhs("guidance").subs({symbol("c"): u - root * gradient, symbol("u"): u})
    assert equal(form, plain)


def frechet() -> None:
    """In one dimension the least E[(x - y)^2] of all ways to pair two normal distributions: y = mu_2 + sigma_2 / sigma_1 (x - mu_1)."""
    m_1, m_2 = sympy.symbols("m1 m2", real=True)
    s_1, s_2, e = sympy.Symbol("s1", positive=True), sympy.Symbol("s2", positive=True), sympy.Symbol("e", real=True)
    paired = sympy.Poly(sympy.expand((m_1 + s_1 * e - m_2 - s_2 * e) ** 2), e)
    expected = paired.coeff_monomial(1) + paired.coeff_monomial(e**2)
    form = rhs("frechet").replace(sympy.Function("norm"), lambda x: x).replace(sympy.Function("Tr"), lambda x: x)
    values = {symbol("mu_1"): m_1, symbol("mu_2"): m_2, symbol("S_1"): s_1**2, symbol("S_2"): s_2**2}
    assert equal(expected, form.subs(values))


def integral_forms() -> None:
    """Both solve `ode`: by h, d(x / b) = x_0_hat d(e^lambda) and d(x / a) = eps_hat d(e^-lambda), and at h = 0 they are x_t."""
    h, lam = symbol("h"), symbol("lambda_[t]")
    for label, sign, weight in (("data-form", 1, "b[s]"), ("noise-form", -1, "a[s]")):
        start, integral = (part / symbol(weight) for part in sympy.expand(rhs(label)).as_ordered_terms())
        if integral.has(symbol("x[t]")):
            start, integral = integral, start
        ratio = symbol("a[s]") / symbol("b[s]") if sign > 0 else symbol("b[s]") / symbol("a[s]")
        guess = sympy.Function("x_hat[0]" if sign > 0 else "eps_hat")
        assert equal(start, symbol("x[t]") / symbol(weight.replace("s", "t")))
        by_h = sympy.diff((integral / ratio * sympy.exp(sign * (lam + h))).doit(), h)
        assert equal(by_h, sign * guess(lam + h) * sympy.exp(sign * (lam + h)))
        assert integral.subs(h, 0).doit() == 0


def stride_proof() -> None:
    """From the closed form at s one step with this beta leads to the closed form at t."""
    up = rhs("stride-up").subs(symbol("x[s]"), sym("sqrt(alpha_bar[s])*x[0] + sqrt(1 - alpha_bar[s])*eps"))
    up = sympy.expand(up.subs(symbol("beta"), rhs("stride")))
    whole = rhs("closed-form")
    assert equal(up.coeff(symbol("x[0]")) ** 2, whole.coeff(symbol("x[0]")) ** 2)
    assert equal(up.coeff(symbol("eps")) ** 2 + up.coeff(symbol("z")) ** 2, whole.coeff(symbol("eps")) ** 2)


def repaint() -> None:
    """Where m is 0 the known picture at the noise of s, where it is 1 the sampler's step."""
    known = moved(rhs("closed-form"), {"eps": "z"}).subs(symbol("alpha_bar[t]"), symbol("a[s]") ** 2)
    squared = lambda part: sympy.expand(part.subs(symbol("b[s]"), sym("sqrt(1 - a[s]**2)")))  # noqa: E731
    a = sympy.Symbol("a", positive=True)
    assert equal(squared(rhs("repaint").subs(symbol("m"), 0)).subs(symbol("a[s]"), a), known.subs(symbol("a[s]"), a))
    assert equal(rhs("repaint").subs(symbol("m"), 1), symbol("y[s]"))


def inversion() -> None:
    """The step of DDIM from s down to t, solved for x_s."""
    down = moved(rhs("euler"), {"x[t]": "x[s]", "a[t]": "a[s]", "b[t]": "b[s]", "a[s]": "a[t]", "b[s]": "b[t]"})
    up = sympy.solve(down - symbol("x[t]") / symbol("a[t]"), symbol("x[s]"))[0]
    said_at_s = sympy.Function("eps_hat")(symbol("x[s]"), symbol("s"))
    assert equal(rhs("inversion").subs(said_at_s, symbol("eps_hat")), up)


def slerp_proof() -> None:
    """Of two vectors of length 1 at the angle w it makes one of length 1, and at r = 0 and 1 they themselves."""
    form, r, w = rhs("slerp"), symbol("r"), symbol("w")
    first, second = form.coeff(symbol("z[1]")), form.coeff(symbol("z[2]"))
    assert sympy.simplify(first**2 + second**2 + 2 * first * second * sympy.cos(w) - 1) == 0
    assert [sympy.simplify(part.subs(r, at)) for at in (0, 1) for part in (first, second)] == [1, 0, 0, 1]


def v_flow() -> None:
    """`ode` in the angle: a = cos phi, b = sin phi, x = a x_0_hat + b eps_hat, d(x / a) = eps_hat d(b / a)."""
    assert str(said("v-flow")) == "Eq(d_(x), v_hat*d_(phi))"
    phi = sympy.Symbol("phi")
    a, b = sympy.cos(phi), sympy.sin(phi)
    x, eps = sympy.Function("x")(phi), symbol("eps_hat")
    slope = sympy.solve(sympy.diff(x / a, phi) - eps * sympy.diff(b / a, phi), sympy.diff(x, phi))[0]
    v = rhs("v").subs({symbol("alpha_bar[t]"): a**2, symbol("eps"): eps, symbol("x[0]"): (x - b * eps) / a})
    known = {sympy.sqrt(a**2): a, sympy.sqrt(1 - a**2): b}
    assert sympy.simplify(slope - v.subs(known)) == 0


def change_of_variables() -> None:
    """For data N(0, s^2) the flow keeps x / deviation: the density that the formula gives is the known one."""
    phi, s, x = sympy.Symbol("phi", positive=True), sympy.Symbol("s", positive=True), sympy.Symbol("x", real=True)
    deviation = sympy.sqrt(sympy.cos(phi) ** 2 * s**2 + sympy.sin(phi) ** 2)
    divergence = sympy.diff(sympy.log(deviation), phi)  # of v_hat = x d log(deviation) / dphi
    right = rhs("change-of-variables")
    integral = right.atoms(sympy.Integral).pop()
    assert str(integral.args[0]) == "div(v_hat)"
    (name, low, high) = integral.args[1]
    assert name == symbol("phi")
    limits = {symbol("pi"): sympy.pi}
    low, high = (sympy.sympify(end).subs(limits) for end in (low, high))
    total = sympy.log(deviation).subs(phi, high) - sympy.log(deviation).subs(phi, low)
    assert sympy.simplify(sympy.diff(sympy.log(deviation), phi) - divergence) == 0
    end = right.coeff(integral) * total + log_density(x / s, 0, 1)  # x_T = x / s
    assert right.args[0].func == sympy.log or right.args[1].func == sympy.log
    assert sympy.simplify(sympy.expand_log(end - log_density(x, 0, s**2), force=True)) == 0


def hutchinson() -> None:
    """Over all vectors of signs, on a matrix of symbols: the mean of u^T J u is the trace."""
    assert str(said("hutchinson")) == "Eq(div(v_hat), E(u, J*u*u_top))"
    J = sympy.Matrix(3, 3, lambda i, j: sympy.Symbol(f"J{i}{j}"))
    signs = [sympy.Matrix(u) for u in np.stack(np.meshgrid(*[[-1, 1]] * 3), -1).reshape(-1, 3).tolist()]
    mean = sum(((u.T * J * u)[0] for u in signs), sympy.Integer(0)) / len(signs)
    assert sympy.expand(mean - J.trace()) == 0


def bits() -> None:
    """-log2 of the probability of a bin of width 2 / 255 in each of D numbers, divided by D."""
    p, dims = sympy.Symbol("p", positive=True), symbol("D")
    form = rhs("bits").replace(sympy.Function("p"), lambda x: p)
    expected = -(sympy.log(p) + dims * sympy.log(sympy.Rational(2, 255))) / (dims * sympy.log(2))
    assert sympy.simplify(sympy.expand_log(form - expected, force=True)) == 0


PROOFS: dict[str, Callable[[], None]] = {
    "data-form": integral_forms, "noise-form": integral_forms, "stride": stride_proof, "stride-up": stride_proof, "repaint": repaint,
    "inversion": inversion, "slerp": slerp_proof, "v-flow": v_flow, "change-of-variables": change_of_variables,
    "hutchinson": hutchinson, "bits": bits, "alpha-bar-step": alpha_bar_step, "average-of-ways": average_of_ways, "turned-round": turned_round,
    "squared-distance": squared_distance, "eps-from-v": eps_from_v_proof, "x0-guess": x0_guess, "x0-estimate": x0_estimate,
    "stride-variance": stride_variance, "score-of-one": score_of_one, "blurred": blurred, "carried": carried, "data-ode": data_ode,
    "held-fixed": held_fixed,
    "scaled-noise": scaled_noise, "forward-draw": forward_draw, "two-steps": two_steps, "sum-of-normals": sum_of_normals,
    "two-variances": two_variances, "closed-form": closed_form, "marginal": marginal, "bayes": bayes, "exponent": exponent,
    "square": square, "square-coefficient": square_coefficient, "linear-coefficient": linear_coefficient,
    "posterior-variance": posterior_variance_proof, "posterior-mean": posterior_mean_proof, "posterior": posterior,
    "x0-from-eps": x0_from_eps, "mean-from-eps": mean_from_eps, "best-guess": best_guess, "true-mean": true_mean,
    "jensen": jensen, "bound-product": bound_product, "bound": bound, "bound-step": bound,
    "bound-ends": bound, "kl": kl, "model-mean": model_mean, "step-weight": step_weight, "x0-from-v": x0_from_v,
    "last-step": last_step, "score": score, "ddim-family": ddim_family, "ddim": ddim, "euler": euler, "ode": ode,
    "exponential-step": exponential_step, "second-order": second_order, "guided-density": guided_score, "guided-score": guided_score, "certainty": certainty,
    "guidance": guidance, "nested-guidance": nested_guidance, "classifier-guidance": classifier_guidance, "frechet": frechet,
}  # fmt: skip
DEFINITIONS = {
    "forward-step", "alpha", "alpha-bar", "snr", "model", "simple-loss", "v", "ancestral", "half-log-snr", "kernel", "kernel-distance", "kl-definition",
    "learned-variance", "adaptive-error", "dequantized", "time-embedding",
}  # fmt: skip
"""What is laid down, not proved: held by the function that computes it, below."""


@pytest.mark.parametrize("label", PROOFS)
def test_the_step_to_each_formula(label):
    PROOFS[label]()


def test_every_formula_is_proved_or_laid_down_and_computed():
    assert set(FORMULAS) == set(PROOFS) | DEFINITIONS
    assert not set(PROOFS) & DEFINITIONS
    assert set(COMPUTED) >= DEFINITIONS - {
        "alpha-bar",
        "model",
        "kernel-distance",
        "kl-definition",
    }  # these have tests of their own below


@pytest.mark.parametrize("label", FORMULAS)
def test_its_function_exists(label):
    parts = FORMULAS[label].function.split(".")
    for i in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module("alphabar." + ".".join(parts[:i]))
        except ModuleNotFoundError:
            continue
        for part in parts[i:]:
            found = getattr(found, part)
        assert found.__doc__
        return
    pytest.fail(f"alphabar has no {FORMULAS[label].function}")


# --- what the functions give ------------------------------------------------------------------------------------------------------

SCHEDULE = TableSchedule(linear_betas(40))
K, S = 30, 12  # t is step 30; s, where a step may be any stride, is 12
VALUES: dict[str, float] = {
    "beta[t]": float(SCHEDULE.beta[K - 1]), "alpha[t]": float(SCHEDULE.alpha[K - 1]), "alpha_bar[t]": float(SCHEDULE.alpha_bars[K]),
    "alpha_bar[t-1]": float(SCHEDULE.alpha_bars[K - 1]), "a[t]": math.sqrt(SCHEDULE.alpha_bars[K]),
    "b[t]": math.sqrt(1 - SCHEDULE.alpha_bars[K]), "a[s]": math.sqrt(SCHEDULE.alpha_bars[S]), "b[s]": math.sqrt(1 - SCHEDULE.alpha_bars[S]),
    "x[0]": 0.3, "x[t-1]": -0.7, "x[t]": 1.1, "eps": 0.4, "eps[t]": 0.4, "v": 0.9, "x_hat[0]": 0.25, "z": -1.3, "sigma": 0.0,
    "mu_1": 0.2, "mu_2": -0.5, "sigma_1": 0.8, "sigma_2": 1.7, "S_1": 0.64, "S_2": 2.89, "u": 0.3, "c": -0.2, "c_1": -0.2, "c_12": 0.6,
    "w": 2.5, "w_1": 2.5, "w_2": 0.5, "r": 0.8, "x_hat[t]": 0.25, "x_hat[u]": -0.1,
}  # fmt: skip
VALUES["eps_hat"] = (VALUES["x[t]"] - VALUES["a[t]"] * VALUES["x_hat[0]"]) / VALUES["b[t]"]
VALUES["h"] = math.log(VALUES["a[s]"] / VALUES["b[s]"]) - math.log(VALUES["a[t]"] / VALUES["b[t]"])
VALUES |= {
    "x[s]": 0.8, "y[s]": -0.4, "m": 0.5, "f": 0.3, "tolerance": 0.05, "high": 0.9, "low": 0.7, "log_p": -1.7,
    "alpha_bar[s]": float(SCHEDULE.alpha_bars[S]), "beta": float(1 - SCHEDULE.alpha_bars[K] / SCHEDULE.alpha_bars[S]),
    "beta_tilde[t]": float(posterior_variance(SCHEDULE.alpha_bars[K], SCHEDULE.alpha_bars[K - 1])),
}  # fmt: skip
VALUES["sigma[t]"] = math.sqrt(float(posterior_variance(SCHEDULE.alpha_bars[K], SCHEDULE.alpha_bars[K - 1])))
TIME, BEFORE_T, EARLIER = (torch.tensor(k / 40, dtype=torch.float64) for k in (K, K - 1, S))


def tensor(name: str) -> torch.Tensor:
    """One of the values as a picture of one pixel."""
    return torch.full((1, 1), VALUES[name], dtype=torch.float64)


def number(name: str) -> torch.Tensor:
    return torch.tensor(VALUES[name], dtype=torch.float64)


class Says:
    """A denoiser that says what VALUES says."""

    schedule = SCHEDULE

    def __call__(self, x_t: torch.Tensor, t: Any, cond: Cond | None = None) -> Prediction:
        return Prediction(tensor("x_hat[0]"), tensor("eps_hat"))


class SaysByCondition:
    """A denoiser whose eps is the vector of the condition, as guidance asks for."""

    schedule = SCHEDULE

    def __call__(self, x_t: torch.Tensor, t: Any, cond: Cond | None = None) -> Prediction:
        assert cond is not None
        assert cond.vector is not None
        return Prediction(torch.zeros_like(x_t), cond.vector.to(x_t.dtype))


def guided(names: list[str], weights: list[str]) -> torch.Tensor:
    chain = [Cond(vector=tensor(name)) for name in names]
    return Guided(SaysByCondition(), chain, [VALUES[w] for w in weights])(tensor("x[t]"), TIME).eps


def step_of(sampler: Any, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    return sampler.step(Says(), tensor("x[t]"), t, s, lambda: tensor("z"))[0]


def classifier() -> torch.Tensor:
    """With log p(y | x) = c x + constant, so that its gradient is c."""
    found = ClassifierGuided(Says(), lambda x, t: (VALUES["c"] * x).flatten(1).sum(1), VALUES["w"])
    return found(tensor("x[t]"), TIME).eps


def second_order_step() -> torch.Tensor:
    lam = half_log_snr(SCHEDULE, TIME)
    c = stride(SCHEDULE, TIME, EARLIER)
    u = SCHEDULE.time(2 * (lam - VALUES["r"] * c.h))
    last = Visit(u, tensor("x[t]"), Prediction(tensor("x_hat[u]"), tensor("eps")))
    now = Visit(TIME, tensor("x[t]"), Prediction(tensor("x_hat[t]"), tensor("eps")))
    return extrapolated(Says(), now, [last], c)


def strided_variance() -> torch.Tensor:
    """The square of what stands before z in a stride of DDIM with eta = 1."""
    ends = [
        DDIM(eta=1).step(Says(), tensor("x[t]"), TIME, EARLIER, lambda z=z: torch.full((1, 1), z))[0]
        for z in (0.0, 1.0)
    ]
    return (ends[1] - ends[0]) ** 2


class Guesses(torch.nn.Module):
    """A denoiser in training whose output is always 0.4 - 0.7."""

    schedule = SCHEDULE

    class settings:
        prediction = "eps"

    def output(self, x_t: torch.Tensor, t: Any, cond: Cond | None) -> tuple[torch.Tensor, None]:
        return torch.full_like(x_t, VALUES["eps"] - 0.7), None


def simple_loss() -> torch.Tensor:
    from alphabar.settings.base import LossSettings

    return denoising_loss(Guesses(), tensor("x[0]"), TIME.reshape(1), tensor("eps"), None, LossSettings()).total  # type: ignore[arg-type]


def weighted_by_the_bound() -> torch.Tensor:
    """Its weight times the squared error, which is what the distance of both means is."""
    weighted = bound_weight(ALPHA_BAR, BEFORE, number("sigma[t]") ** 2) * 0.7**2
    mean = reverse_mean_from_eps(tensor("x[t]"), tensor("eps"), ALPHA_BAR, BEFORE)
    guess = reverse_mean_from_eps(tensor("x[t]"), tensor("eps") - 0.7, ALPHA_BAR, BEFORE)
    torch.testing.assert_close(weighted.reshape(1, 1), (mean - guess) ** 2 / (2 * number("sigma[t]") ** 2))
    return weighted


def repainted() -> torch.Tensor:
    """A step of RePaint where half is known; the sampler's own step is y_s."""

    class Steps(Ancestral):
        def step(self, denoiser: Any, x_t: Any, t: Any, s: Any, noise: Any, past: Any = ()) -> Any:
            return tensor("y[s]"), Visit(t, x_t, Says()(x_t, t))

    return RePaint(Steps(), tensor("x[0]"), tensor("m")).step(
        Says(), tensor("x[t]"), TIME, EARLIER, lambda *name: tensor("z")
    )[0]


ALPHA_BAR, BEFORE, A, B = (number(name) for name in ("alpha_bar[t]", "alpha_bar[t-1]", "a[t]", "b[t]"))
COMPUTED: dict[str, Callable[[], torch.Tensor]] = {
    "forward-step": lambda: step_mean(tensor("x[t-1]"), number("beta[t]")),
    "forward-draw": lambda: diffuse_step(tensor("x[t-1]"), number("beta[t]"), tensor("eps[t]")),
    "alpha": lambda: 1 - stride_beta(ALPHA_BAR, BEFORE),
    "closed-form": lambda: diffuse(tensor("x[0]"), ALPHA_BAR, tensor("eps")),
    "snr": lambda: SCHEDULE.snr(TIME),
    "posterior-variance": lambda: posterior_variance(ALPHA_BAR, BEFORE),
    "posterior-mean": lambda: posterior_mean(tensor("x[0]"), tensor("x[t]"), ALPHA_BAR, BEFORE),
    "x0-from-eps": lambda: x_0_from_eps(tensor("x[t]"), tensor("eps"), A, B),
    "mean-from-eps": lambda: reverse_mean_from_eps(tensor("x[t]"), tensor("eps"), ALPHA_BAR, BEFORE),
    "kl": lambda: kl_divergence(number("mu_1"), 2 * number("sigma_1").log(), number("mu_2"), 2 * number("sigma_2").log()),
    "v": lambda: v_from_x_0_and_eps(tensor("x[0]"), tensor("eps"), A, B),
    "x0-from-v": lambda: x_0_from_v(tensor("x[t]"), tensor("v"), A, B),
    "eps-from-v": lambda: eps_from_v(tensor("x[t]"), tensor("v"), A, B),
    "x0-estimate": lambda: x_0_from_eps(tensor("x[t]"), tensor("eps_hat"), A, B),
    "stride-variance": strided_variance,
    "step-weight": weighted_by_the_bound,
    "simple-loss": simple_loss,
    "ancestral": lambda: step_of(Ancestral(), TIME, BEFORE_T),
    "ddim-family": lambda: step_of(DDIM(eta=0), TIME, EARLIER),
    "ddim": lambda: jump(Prediction(tensor("x_hat[0]"), tensor("eps_hat")), number("a[s]"), number("b[s]")),
    "euler": lambda: step_of(Euler(), TIME, EARLIER) / VALUES["a[s]"],
    "half-log-snr": lambda: half_log_snr(SCHEDULE, TIME),
    "exponential-step": lambda: data_step(tensor("x[t]"), tensor("x_hat[0]"), stride(SCHEDULE, TIME, EARLIER)),
    "second-order": second_order_step,
    "guidance": lambda: guided(["u", "c"], ["w"]),
    "nested-guidance": lambda: guided(["u", "c_1", "c_12"], ["w_1", "w_2"]),
    "classifier-guidance": classifier,
    "frechet": lambda: torch.tensor(one_dimensional(VALUES["mu_1"], 0.8, VALUES["mu_2"], 1.7)),
    "kernel": lambda: torch.tensor(kernel_of(0.6, -1.1)),
    "stride": lambda: stride_beta(ALPHA_BAR, number("alpha_bar[s]")),
    "stride-up": lambda: diffuse_step(tensor("x[s]"), number("beta"), tensor("z")),
    "learned-variance": lambda: learned_log_variance(number("f"), number("beta_tilde[t]").log(), number("beta[t]").log()),
    "adaptive-error": lambda: Adaptive(VALUES["tolerance"]).error(tensor("low"), tensor("high")),
    "repaint": repainted,
    "inversion": lambda: DDIMInversion().step(Says(), tensor("x[t]"), TIME, EARLIER, lambda: tensor("z"))[0],
    "slerp": lambda: slerp(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([VALUES["r"]]))[0, 1],
    "dequantized": lambda: dequantized(tensor("x[0]"), seed=3),
    "bits": lambda: bits_per_dimension(number("log_p"), 2),
    "time-embedding": lambda: sinusoidal_embedding(torch.tensor([11.0]), 8)[0, 2],
}  # fmt: skip


OWN_VALUES: dict[str, dict[str, float]] = {
    "kernel": {"x": 0.6, "y": -1.1, "n": 1.0},
    "slerp": {"z[1]": 0.0, "z[2]": 2.0, "w": math.pi / 2},
    "dequantized": {"u": float(uniform([1], 3, "dequantize", 0))},
    "bits": {"D": 2.0},
    "time-embedding": {"k": 11.0, "i": 2.0, "d": 8.0},
}


def one_dimensional(mean_1: float, sd_1: float, mean_2: float, sd_2: float) -> float:
    """`frechet_distance` of two sets of numbers of exactly these means and standard deviations."""
    base = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]
    base = (base - base.mean()) / base.std()
    return frechet_distance(mean_1 + sd_1 * base, mean_2 + sd_2 * base)


def kernel_of(x: float, y: float) -> float:
    """k(x, y) out of the distance of sets in which all numbers are x, or y: k(x, x) + k(y, y) - 2 k(x, y)."""
    distance, _ = kernel_distance(
        torch.full((4, 1), x, dtype=torch.float64), torch.full((4, 1), y, dtype=torch.float64)
    )
    return ((x * x + 1) ** 3 + (y * y + 1) ** 3 - distance) / 2


@pytest.mark.parametrize("label", COMPUTED)
def test_the_function_gives_what_the_formula_says(label):
    formula = rhs(label)
    if label == "forward-step":
        formula = mean_and_variance(formula)[0]
    theta = sympy.Function("eps_theta")(symbol("x[t]"), symbol("t"))
    given = VALUES["eps_hat"] if label in ("classifier-guidance",) else VALUES["eps"] - 0.7
    mean = float(posterior_mean(tensor("x_hat[0]"), tensor("x[t]"), ALPHA_BAR, BEFORE))
    formula = formula.subs({theta: given, sympy.Function("mu_theta")(symbol("x[t]"), symbol("t")): mean})
    formula = formula.replace(sympy.Function("norm"), lambda x: x).replace(sympy.Function("Tr"), lambda x: x)
    formula = formula.replace(sympy.Function("E"), lambda over, inside: inside).replace(
        sympy.Function("grad"), lambda *_: VALUES["c"]
    )
    formula = formula.replace(sympy.Function("rms"), sympy.Abs).replace(sympy.Function("max"), sympy.Max)
    formula = formula.replace(sympy.Function("abs"), sympy.Abs).replace(sympy.Function("p"), lambda x: math.exp(-1.7))
    formula = formula.replace(sympy.Function("eps_hat"), lambda *at: symbol("eps_hat"))
    values = VALUES | OWN_VALUES.get(label, {})
    expected = float(formula.subs({symbol(name): value for name, value in values.items()}))
    assert float(COMPUTED[label]()) == pytest.approx(expected, rel=1e-5 if "guidance" in label else 1e-6)


def flipped(source: str) -> list[str]:
    """The formula with one of its signs, outside of indices, the other way round: one for each sign."""
    signs = [node for node in ast.walk(ast.parse(source, mode="eval")) if is_sign(node)]
    found = []
    for k in range(len(signs)):
        tree = ast.parse(source, mode="eval")
        node = [node for node in ast.walk(tree) if is_sign(node)][k]
        if isinstance(node, ast.BinOp):
            node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        else:
            node.op = ast.UAdd()  # type: ignore[attr-defined]
        found.append(ast.unparse(tree).replace("(+", "(").replace("== +", "== "))
    return found


def is_sign(node: ast.AST) -> bool:
    return isinstance(getattr(node, "op", None), ast.Add | ast.Sub | ast.USub)


STATED = {
    "forward-step": "q(given(x[t], x[t - 1]))",
    "exponent": "q(given(x[t - 1], (x[t], x[0])))",
    "posterior": "q(given(x[t - 1], (x[t], x[0]))) = N(x[t - 1]",
    "model": "p_theta(given(x[t - 1], x[t])) = N(x[t - 1]",
    "bound": "E(q, -log(p_theta(x[0]))) = L[0] + L[T] + Sum(L[t - 1], (t, 2, T))",
    "bound-step": "L[t - 1] = E(q, KL(q(given(x[t - 1], (x[t], x[0]))), p_theta(given(x[t - 1], x[t]))))",
    "bound-ends": "L[0] + L[T] = E(q, KL(q(given(x[T], x[0])), p(x[T])) - log(p_theta(given(x[0], x[1]))))",
    "ancestral": "x[t - 1]",
    "forward-draw": "x[t]",
    "alpha": "alpha[t]",
    "two-steps": "x[t]",
    "alpha-bar": "alpha_bar[t]",
    "alpha-bar-step": "alpha_bar[t]",
    "closed-form": "x[t]",
    "marginal": "q(given(x[t], x[0]))",
    "snr": "SNR[t]",
    "posterior-variance": "beta_tilde[t]",
    "posterior-mean": "mu_tilde[t]",
    "x0-from-eps": "x[0]",
    "mean-from-eps": "mu_tilde[t]",
    "best-guess": "eps_star(x[t], t) = E(q, given(eps, x[t]))",
    "kl-definition": "KL(p, q) = E(p, log(p/q))",
    "kl": "KL(N(mu_1, sigma_1**2), N(mu_2, sigma_2**2))",
    "model-mean": "mu_theta(x[t], t)",
    "simple-loss": "L_simple",
    "v": "v",
    "x0-from-v": "x[0]",
    "eps-from-v": "eps",
    "score": "grad(x[t], log(q(x[t]))) = -E(q, given(eps, x[t]))/sqrt(1 - alpha_bar[t])",
    "ddim-family": "x[s]",
    "ddim": "x[s]",
    "half-log-snr": "lambda_[t]",
    "exponential-step": "x[s]",
    "second-order": "x_hat[m]",
    "data-form": "x[s]",
    "noise-form": "x[s]",
    "learned-variance": "log(sigma[t]**2)",
    "adaptive-error": "error",
    "stride": "beta",
    "stride-up": "x[t]",
    "repaint": "x[s]",
    "inversion": "x[s]",
    "slerp": "z",
    "change-of-variables": "log(p(x[0]))",
    "dequantized": "x",
    "bits": "bits",
    "time-embedding": "e[i]",
    "nested-guidance": "eps_hat",
    "classifier-guidance": "eps_hat",
    "frechet": "d**2",
    "kernel": "k(x, y)",
    "kernel-distance": "d**2",
}
"""How these begin, as SymPy has them: what the proof, which is about the right side, is a proof of."""
RELATED = {"exponent": "In", "bound": "LtE", "guided-density": "In"}
"""What stands between both sides where it is no equality."""
SYMMETRIC = {("sum-of-normals", 0), ("ddim-family", 0)}  # + and - noise are distributed alike


def known_by_name() -> dict[Any, Any]:
    """What `NAMED` and the formulas say of each name that an aside may hold."""
    named = [each for each in map(sym, NAMED) if isinstance(each, sympy.Eq) and each.args[0].is_Symbol]
    return {each.args[0]: each.args[1] for each in named} | {
        symbol("x"): sym("a*x[0] + b*eps"), symbol("x[t]"): rhs("closed-form"), symbol("x_hat[0]"): rhs("x0-estimate"), symbol("v"): rhs("v"),
        symbol("a"): sym("sqrt(alpha_bar[t])"), symbol("b"): sym("sqrt(1 - alpha_bar[t])"),
        symbol("lambda_[t]"): rhs("half-log-snr"), symbol("beta_tilde[t]"): rhs("posterior-variance"),
        symbol("alpha_bar[1]"): sym("alpha[1]*alpha_bar[0]"),
    }  # fmt: skip


def follows(source: str) -> bool:
    """Whether both sides are the same once all names are put in."""
    left, right = to_sympy(source).args
    difference = left - right
    for _ in range(4):
        difference = difference.subs(known_by_name())
    return equal(in_alpha(difference), sympy.Integer(0))


@pytest.mark.parametrize("source", ASIDES)
def test_what_sentences_say_by_the_way(source):
    assert follows(source)
    assert not any(follows(wrong) for wrong in flipped(source))


def test_a_name_is_given_once():
    names = [source.split(" == ")[0].split(" is ")[0] for source in NAMED]
    assert len(set(names) - {"z"}) == len(names) - 2  # z is a noise on one page and a draw on another
    assert len({to_sentence(source) for source in NAMED + ASIDES}) == len(NAMED + ASIDES)


@pytest.mark.parametrize("label", STATED)
def test_what_is_stated_about_what(label):
    left, _, right = STATED[label].partition(" = ")
    assert type(said(label)).__name__ == RELATED.get(label, "Equality")
    assert str(said(label).args[0]) == left
    assert str(said(label).args[1]).startswith(right)


def holds(label: str) -> bool:
    try:
        if label in STATED:
            test_what_is_stated_about_what(label)
        if label in PROOFS:
            PROOFS[label]()
        if label in COMPUTED:
            test_the_function_gives_what_the_formula_says(label)
        if label == "kernel-distance":
            test_the_kernel_distance_is_the_formula()
    except Exception:  # a formula that cannot even be read is wrong too
        return False
    return True


@pytest.mark.parametrize("wrong", ["other", "({})**2", "{} + 1", "eps_hat*({})"])
@pytest.mark.parametrize("label", FORMULAS)
def test_another_left_side_is_noticed(label, wrong, monkeypatch):
    """No proof looks at the right side alone."""
    tree = ast.parse(FORMULAS[label].source, mode="eval").body
    assert isinstance(tree, ast.Compare)
    tree.left = ast.parse(wrong.format(ast.unparse(tree.left)), mode="eval").body
    monkeypatch.setitem(FORMULAS, label, dataclasses.replace(FORMULAS[label], source=ast.unparse(tree)))
    assert not holds(label)


FLIPPED = [
    (label, k)
    for label, formula in FORMULAS.items()
    for k in range(len(flipped(formula.source)))
    if (label, k) not in SYMMETRIC
]


@pytest.mark.parametrize(("label", "k"), FLIPPED)
def test_a_flipped_sign_is_noticed(label, k, monkeypatch):
    source = flipped(FORMULAS[label].source)[k]
    monkeypatch.setitem(FORMULAS, label, dataclasses.replace(FORMULAS[label], source=source))
    assert not holds(label), source


def test_alpha_bar_is_the_product():
    product = rhs("alpha-bar")
    assert str(product) == "Product(alpha[s], (s, 1, t))"
    for k in (1, 7, 40):
        assert float(SCHEDULE.alpha_bars[k]) == pytest.approx(math.prod(SCHEDULE.alpha[:k].tolist()), rel=1e-12)


def test_the_model_is_what_ancestral_sampling_draws_from():
    """Mean and variance of its steps, over many z."""
    mean, variance = mean_and_variance(rhs("model"))
    draws = torch.randn(20000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steps = torch.stack(
        [Ancestral().step(Says(), tensor("x[t]"), TIME, BEFORE_T, lambda z=z: z.reshape(1, 1))[0] for z in draws[:2000]]
    )
    expected = float(posterior_mean(tensor("x_hat[0]"), tensor("x[t]"), ALPHA_BAR, BEFORE))
    assert str(mean).replace(" ", "") == "mu_theta(x[t],t)"
    assert float(steps.mean()) == pytest.approx(expected, abs=4 * VALUES["sigma[t]"] / math.sqrt(2000))
    assert float(steps.var()) == pytest.approx(float(variance.subs(symbol("sigma[t]"), VALUES["sigma[t]"])), rel=0.15)


def test_the_kernel_distance_is_the_formula():
    """Averages over all pairs of two small sets, without a picture paired with itself."""
    form = rhs("kernel-distance")
    signs = sorted(str(term.as_coeff_Mul()[0]) for term in form.args)
    assert signs == ["-2", "1", "1"]
    generator = torch.Generator().manual_seed(1)
    x, y = (
        torch.randn(7, 3, generator=generator, dtype=torch.float64),
        torch.randn(7, 3, generator=generator, dtype=torch.float64) + 1,
    )
    k = sympy.lambdify((symbol("x"), symbol("y"), symbol("n")), rhs("kernel"), "math")
    table = lambda a, b: np.array([[k(1.0, float(p @ q), 3.0) for q in b] for p in a])  # noqa: E731
    off = ~np.eye(7, dtype=bool)
    expected = table(x, x)[off].mean() + table(y, y)[off].mean() - 2 * table(x, y).mean()
    assert kernel_distance(x, y)[0] == pytest.approx(expected, rel=1e-9)
