"""Every formula of the derivation: its label, the formula itself, and the function that computes it.

The pages in docs/, `alphabar explain` and the proofs in tests/laws/test_derivation.py all read it from here.
"""

from __future__ import annotations

from dataclasses import dataclass

from .notation import to_latex, to_unicode

STEP_FORWARD = "sqrt(1 - beta[t])*x[t-1]"
NOISED = "sqrt(alpha_bar[t])*x[0] + sqrt(1 - alpha_bar[t])*eps"


@dataclass(frozen=True)
class Formula:
    """label: its name in both languages. source: the formula in the notation of `notation`. function: what computes it, in `alphabar`."""

    label: str
    source: str
    function: str

    @property
    def latex(self) -> str:
        """As LaTeX, without dollar signs."""
        return to_latex(self.source)

    @property
    def text(self) -> str:
        """As a line of Unicode."""
        return to_unicode(self.source)


_ALL = [
    # forward
    Formula("forward-step", f"q(x[t] | x[t-1]) == N(x[t], {STEP_FORWARD}, beta[t]*I)", "diffusion.gaussian.step_mean"),
    Formula("scaled-noise", "mu + sigma*eps is N(mu, sigma**2)", "diffusion.gaussian.diffuse_step"),
    Formula("forward-draw", f"x[t] == {STEP_FORWARD} + sqrt(beta[t])*eps[t]", "diffusion.gaussian.diffuse_step"),
    Formula("alpha", "alpha[t] == 1 - beta[t]", "diffusion.schedule.TableSchedule"),
    Formula(
        "two-steps",
        "x[t] == sqrt(alpha[t]*alpha[t-1])*x[t-2] + sqrt(alpha[t]*(1 - alpha[t-1]))*eps[t-1] + sqrt(1 - alpha[t])*eps[t]",
        "diffusion.gaussian.diffuse_step",
    ),
    Formula("sum-of-normals", "sigma_1*eps_1 + sigma_2*eps_2 is N(0, sigma_1**2 + sigma_2**2)", "diffusion.gaussian.diffuse_step"),
    Formula(
        "two-variances", "alpha[t]*(1 - alpha[t-1]) + 1 - alpha[t] == 1 - alpha[t]*alpha[t-1]", "diffusion.gaussian.stride_beta"
    ),
    Formula("alpha-bar", "alpha_bar[t] == prod_(s, 1, t, alpha[s])", "diffusion.schedule.TableSchedule"),
    Formula("alpha-bar-step", "alpha_bar[t] == alpha[t]*alpha_bar[t-1]", "diffusion.schedule.TableSchedule"),
    Formula("closed-form", f"x[t] == {NOISED}", "diffusion.gaussian.diffuse"),
    Formula("marginal", "q(x[t] | x[0]) == N(x[t], sqrt(alpha_bar[t])*x[0], (1 - alpha_bar[t])*I)", "diffusion.gaussian.diffuse"),
    Formula("snr", "SNR[t] == alpha_bar[t]/(1 - alpha_bar[t])", "diffusion.schedule.Schedule.snr"),
    # one step back
    Formula(
        "bayes",
        "q(x[t-1] | (x[t], x[0])) == q(x[t] | x[t-1])*q(x[t-1] | x[0])/q(x[t] | x[0])",
        "diffusion.gaussian.posterior_mean",
    ),
    Formula(
        "exponent",
        "q(x[t-1] | (x[t], x[0])) in exp(-((1/2)*((x[t] - sqrt(alpha[t])*x[t-1])**2/(1 - alpha[t])"
        " + (x[t-1] - sqrt(alpha_bar[t-1])*x[0])**2/(1 - alpha_bar[t-1])"
        " - (x[t] - sqrt(alpha_bar[t])*x[0])**2/(1 - alpha_bar[t]))))",
        "diffusion.gaussian.posterior_mean",
    ),
    Formula(
        "square",
        "(x[t-1] - mu)**2/sigma**2 == x[t-1]**2/sigma**2 - 2*mu/sigma**2*x[t-1] + mu**2/sigma**2",
        "diffusion.gaussian.posterior_mean",
    ),
    Formula(
        "square-coefficient",
        "1/sigma**2 == alpha[t]/(1 - alpha[t]) + 1/(1 - alpha_bar[t-1])",
        "diffusion.gaussian.posterior_variance",
    ),
    Formula(
        "linear-coefficient",
        "mu/sigma**2 == sqrt(alpha[t])/(1 - alpha[t])*x[t] + sqrt(alpha_bar[t-1])/(1 - alpha_bar[t-1])*x[0]",
        "diffusion.gaussian.posterior_mean",
    ),
    Formula(
        "posterior-variance",
        "beta_tilde[t] == (1 - alpha_bar[t-1])/(1 - alpha_bar[t])*beta[t]",
        "diffusion.gaussian.posterior_variance",
    ),
    Formula(
        "posterior-mean",
        "mu_tilde[t] == sqrt(alpha[t])*(1 - alpha_bar[t-1])/(1 - alpha_bar[t])*x[t]"
        " + sqrt(alpha_bar[t-1])*(1 - alpha[t])/(1 - alpha_bar[t])*x[0]",
        "diffusion.gaussian.posterior_mean",
    ),
    Formula("posterior", "q(x[t-1] | (x[t], x[0])) == N(x[t-1], mu_tilde[t], beta_tilde[t]*I)", "diffusion.gaussian.posterior_mean"),
    Formula(
        "x0-from-eps",
        "x[0] == (x[t] - sqrt(1 - alpha_bar[t])*eps)/sqrt(alpha_bar[t])",
        "diffusion.parameterization.x_0_from_eps",
    ),
    Formula(
        "mean-from-eps",
        "mu_tilde[t] == (x[t] - (1 - alpha[t])/sqrt(1 - alpha_bar[t])*eps)/sqrt(alpha[t])",
        "diffusion.gaussian.reverse_mean_from_eps",
    ),
    # training
    Formula(
        "best-guess",
        "eps_star(x[t], t) == E(q, eps | x[t])",
        "diffusion.loss.denoising_loss",
    ),
    Formula(
        "true-mean",
        "E(q, x[t-1] | x[t]) == (x[t] - (1 - alpha[t])/sqrt(1 - alpha_bar[t])*eps_star(x[t], t))/sqrt(alpha[t])",
        "diffusion.gaussian.reverse_mean_from_eps",
    ),
    Formula(
        "model",
        "p_theta(x[t-1] | x[t]) == N(x[t-1], mu_theta(x[t], t), sigma[t]**2*I)",
        "samplers.ancestral.Ancestral",
    ),
    Formula(
        "average-of-ways",
        "p_theta(x[0]) == E(q, p_theta(x['0:T'])/q(x['1:T'] | x[0]))",
        "evaluation.likelihood.variational_bound",
    ),
    Formula(
        "jensen",
        "-log(p_theta(x[0])) <= E(q, -log(p_theta(x['0:T'])/q(x['1:T'] | x[0])))",
        "evaluation.likelihood.variational_bound",
    ),
    Formula(
        "turned-round",
        "q(x[t] | x[t-1]) == q(x[t-1] | (x[t], x[0]))*q(x[t] | x[0])/q(x[t-1] | x[0])",
        "evaluation.likelihood.variational_bound",
    ),
    Formula(
        "bound-product",
        "p_theta(x['0:T'])/q(x['1:T'] | x[0])"
        " == p(x[T])/q(x[T] | x[0])*p_theta(x[0] | x[1])*prod_(t, 2, T, p_theta(x[t-1] | x[t])/q(x[t-1] | (x[t], x[0])))",
        "evaluation.likelihood.variational_bound",
    ),
    Formula(
        "bound",
        "E(q, -log(p_theta(x[0]))) <= L[T] + sum_(t, 2, T, L[t-1]) + L[0]",
        "evaluation.likelihood.variational_bound",
    ),
    Formula(
        "bound-step",
        "L[t-1] == E(q, KL(q(x[t-1] | (x[t], x[0])), p_theta(x[t-1] | x[t])))",
        "diffusion.loss.bound_term",
    ),
    Formula(
        "bound-ends",
        "L[T] + L[0] == E(q, KL(q(x[T] | x[0]), p(x[T])) - log(p_theta(x[0] | x[1])))",
        "evaluation.likelihood.variational_bound",
    ),
    Formula("kl-definition", "KL(p, q) == E(p, log(p/q))", "diffusion.gaussian.kl_divergence"),
    Formula(
        "squared-distance",
        "E(N(mu_1, sigma_1**2), (x - mu_2)**2) == sigma_1**2 + (mu_1 - mu_2)**2",
        "diffusion.gaussian.kl_divergence",
    ),
    Formula(
        "kl",
        "KL(N(mu_1, sigma_1**2), N(mu_2, sigma_2**2))"
        " == log(sigma_2/sigma_1) + (sigma_1**2 + (mu_1 - mu_2)**2)/(2*sigma_2**2) - 1/2",
        "diffusion.gaussian.kl_divergence",
    ),
    Formula(
        "model-mean",
        "mu_theta(x[t], t) == (x[t] - (1 - alpha[t])/sqrt(1 - alpha_bar[t])*eps_theta(x[t], t))/sqrt(alpha[t])",
        "diffusion.gaussian.reverse_mean_from_eps",
    ),
    Formula(
        "step-weight",
        "norm(mu_tilde[t] - mu_theta(x[t], t))**2/(2*sigma[t]**2)"
        " == beta[t]**2/(2*sigma[t]**2*alpha[t]*(1 - alpha_bar[t]))*norm(eps - eps_theta(x[t], t))**2",
        "diffusion.loss.bound_weight",
    ),
    Formula("simple-loss", "L_simple == E((t, x[0], eps), norm(eps - eps_theta(x[t], t))**2)", "diffusion.loss.denoising_loss"),
    Formula("v", "v == sqrt(alpha_bar[t])*eps - sqrt(1 - alpha_bar[t])*x[0]", "diffusion.parameterization.v_from_x_0_and_eps"),
    Formula("x0-from-v", "x[0] == sqrt(alpha_bar[t])*x[t] - sqrt(1 - alpha_bar[t])*v", "diffusion.parameterization.x_0_from_v"),
    Formula(
        "eps-from-v", "eps == sqrt(1 - alpha_bar[t])*x[t] + sqrt(alpha_bar[t])*v", "diffusion.parameterization.eps_from_v"
    ),
    # sampling
    Formula("ancestral", "x[t-1] == mu_theta(x[t], t) + sigma[t]*z", "samplers.ancestral.Ancestral"),
    Formula(
        "x0-guess",
        "x_hat[0](x[t]) == (x[t] - sqrt(1 - alpha_bar[t])*eps_theta(x[t], t))/sqrt(alpha_bar[t])",
        "diffusion.parameterization.x_0_from_eps",
    ),
    Formula("last-step", "x[0] == x_hat[0](x[1])", "samplers.ancestral.Ancestral"),
    # fast samplers
    Formula("x0-estimate", "x_hat[0] == (x[t] - b[t]*eps_hat)/a[t]", "diffusion.parameterization.x_0_from_eps"),
    Formula("stride-variance", "sigma**2 == b[s]**2/b[t]**2*(1 - a[t]**2/a[s]**2)", "samplers.ddim.DDIM"),
    Formula("score-of-one", "grad(x[t], log(q(x[t] | x[0]))) == -eps/b[t]", "diffusion.guidance.ClassifierGuided"),
    Formula("score", "grad(x[t], log(q(x[t]))) == -E(q, eps | x[t])/sqrt(1 - alpha_bar[t])", "diffusion.guidance.ClassifierGuided"),
    Formula(
        "ddim-family",
        "x[s] == a[s]*x_hat[0] + sqrt(b[s]**2 - sigma**2)*eps_hat + sigma*z",
        "samplers.ddim.DDIM",
    ),
    Formula("ddim", "x[s] == a[s]*x_hat[0] + b[s]*eps_hat", "samplers.coordinates.jump"),
    Formula("euler", "x[s]/a[s] == x[t]/a[t] + (b[s]/a[s] - b[t]/a[t])*eps_hat", "samplers.euler.Euler"),
    Formula("ode", "d_(x[t]/a[t]) == eps_hat*d_(b[t]/a[t])", "samplers.euler.Euler"),
    Formula("blurred", "partial(sigma, p) == sigma*laplace(p)", "samplers.euler.Euler"),
    Formula("carried", "partial(sigma, p) == div(sigma*p*grad(y, log(p)))", "samplers.euler.Euler"),
    Formula("data-ode", "d_(x[t]/b[t]) == x_hat[0]*d_(a[t]/b[t])", "samplers.coordinates.data_step"),
    Formula(
        "held-fixed",
        "x[s]/b[s] - x[t]/b[t] == (exp(lambda_[s]) - exp(lambda_[t]))*x_hat[0]",
        "samplers.coordinates.data_step",
    ),
    Formula("half-log-snr", "lambda_[t] == log(a[t]/b[t])", "samplers.coordinates.half_log_snr"),
    Formula("exponential-step", "x[s] == b[s]/b[t]*x[t] - a[s]*(exp(-h) - 1)*x_hat[0]", "samplers.coordinates.data_step"),
    Formula(
        "second-order",
        "x_hat[m] == (1 + 1/(2*r))*x_hat[t] - 1/(2*r)*x_hat[u]",
        "samplers.dpm_2m.extrapolated",
    ),
    Formula(
        "data-form",
        "x[s] == b[s]/b[t]*x[t] + a[s]*int_(u, 0, h, exp(u - h)*x_hat[0](lambda_[t] + u))",
        "samplers.coordinates.data_step",
    ),
    Formula(
        "noise-form",
        "x[s] == a[s]/a[t]*x[t] - b[s]*int_(u, 0, h, exp(h - u)*eps_hat(lambda_[t] + u))",
        "samplers.deis.DEIS",
    ),
    Formula(
        "learned-variance",
        "log(sigma[t]**2) == f*log(beta[t]) + (1 - f)*log(beta_tilde[t])",
        "diffusion.gaussian.learned_log_variance",
    ),
    Formula(
        "adaptive-error",
        "error == rms((high - low)/max(2/255, tolerance*abs(high)))",
        "samplers.adaptive.Adaptive.error",
    ),
    # editing
    Formula("stride", "beta == 1 - alpha_bar[t]/alpha_bar[s]", "diffusion.gaussian.stride_beta"),
    Formula("stride-up", "x[t] == sqrt(1 - beta)*x[s] + sqrt(beta)*z", "diffusion.gaussian.diffuse_step"),
    Formula("repaint", "x[s] == m*y[s] + (1 - m)*(a[s]*x[0] + b[s]*z)", "samplers.repaint.RePaint"),
    Formula(
        "inversion",
        "x[s] == a[s]/a[t]*x[t] + (b[s] - a[s]*b[t]/a[t])*eps_hat(x[s], s)",
        "samplers.ddim.DDIMInversion",
    ),
    Formula("slerp", "z == sin((1 - r)*w)/sin(w)*z[1] + sin(r*w)/sin(w)*z[2]", "generation.editing.slerp"),
    # likelihood
    Formula("v-flow", "d_(x) == v_hat*d_(phi)", "evaluation.likelihood.ode_log_density"),
    Formula(
        "change-of-variables",
        "log(p(x[0])) == log(N(x[T], 0, I)) + int_(phi, 0, pi/2, div(v_hat))",
        "evaluation.likelihood.ode_log_density",
    ),
    Formula("hutchinson", "div(v_hat) == E(u, u_top*J*u)", "evaluation.likelihood.with_divergence"),
    Formula("dequantized", "x == x[0] + (u - 1/2)*(2/255)", "evaluation.likelihood.dequantized"),
    Formula("bits", "bits == log(255/2)/log(2) - log(p(x))/(D*log(2))", "evaluation.likelihood.bits_per_dimension"),
    # conditions and guidance
    Formula("certainty", "log(p(y | x)) == log(p(x | y)) - log(p(x)) + log(p(y))", "diffusion.guidance.Guided"),
    Formula("guided-density", "p_w(x | y) in p(x)*p(y | x)**w", "diffusion.guidance.Guided"),
    Formula("guided-score", "grad(x, log(p_w(x | y))) == s + w*(s_y - s)", "diffusion.guidance.Guided"),
    Formula("guidance", "eps_hat == u + w*(c - u)", "diffusion.guidance.Guided"),
    Formula("nested-guidance", "eps_hat == u + w_1*(c_1 - u) + w_2*(c_12 - c_1)", "diffusion.guidance.Guided"),
    Formula(
        "classifier-guidance",
        "eps_hat == eps_theta(x[t], t) - w*sqrt(1 - alpha_bar[t])*grad(x[t], log(p(y | x[t])))",
        "diffusion.guidance.ClassifierGuided",
    ),
    # network
    Formula("time-embedding", "e[i] == sin(k*10000**(-i/(d/2 - 1)))", "networks.layers.sinusoidal_embedding"),
    # evaluation
    Formula(
        "frechet",
        "d**2 == norm(mu_1 - mu_2)**2 + Tr(S_1 + S_2 - 2*sqrt(S_1*S_2))",
        "evaluation.distances.frechet_distance",
    ),
    Formula("kernel", "k(x, y) == (x*y/n + 1)**3", "evaluation.distances.kernel_distance"),
    Formula(
        "kernel-distance", "d**2 == E((x, X), k(x, X)) + E((y, Y), k(y, Y)) - 2*E((x, y), k(x, y))",
        "evaluation.distances.kernel_distance",
    ),
]  # fmt: skip
FORMULAS = {formula.label: formula for formula in _ALL}
NAMED = [
    "eps is N(0, I)", "z == mu + sigma*eps", "alpha_bar[0] == 1", "p(x[T]) == N(0, I)", "x[T] is N(0, I)", "z is N(0, I)",
    "a[t] == sqrt(alpha_bar[t])", "b[t] == sqrt(1 - alpha_bar[t])", "eps_hat == eps_theta(x[t], t)", "y == x/a", "sigma == b/a", "phi == arctan(sigma)",
    "h == lambda_[s] - lambda_[t]", "r == (lambda_[t] - lambda_[u])/h", "u == eps_theta(x[t], t)", "c == eps_theta(x[t], t, y)",
    "s == grad(x, log(p(x)))", "s_y == grad(x, log(p(x | y)))", "k == w - 1",
]  # fmt: skip
"""Names that the sentences of the pages give to something."""
ASIDES = [
    "eps == (z - mu)/sigma", "(1 - beta[t])*1 + beta[t] == 1", "1 - alpha[t] == beta[t]",
    "(alpha[t] - alpha_bar[t] + 1 - alpha[t])/((1 - alpha[t])*(1 - alpha_bar[t-1])) == 1/beta_tilde[t]",
    "sqrt(alpha_bar[t-1]/alpha_bar[t]) == 1/sqrt(alpha[t])", "alpha[t] - alpha_bar[t] + beta[t] == 1 - alpha_bar[t]",
    "(alpha[t]*(1 - alpha_bar[t-1]) + beta[t])/(sqrt(alpha[t])*(1 - alpha_bar[t])) == 1/sqrt(alpha[t])",
    "alpha_bar[t] + 1 - alpha_bar[t] == 1", "(1 - alpha[1])/(1 - alpha_bar[1]) == 1", "x[t] == a[t]*x[0] + b[t]*eps", "a[t]**2 + b[t]**2 == 1", "v == a*eps - b*x[0]",
    "y == x[0] + sigma*eps", "eps_hat == (x[t] - a[t]*x_hat[0])/b[t]",
    "a[t]/b[t] == exp(lambda_[t])", "(1 + k)*c - k*u == u + w*(c - u)",
]  # fmt: skip
"""Steps that the sentences of the pages take by the way: true by the formulas and names above."""
