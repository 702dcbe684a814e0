"""Known defects of diffusion code, as edits of the source. Each must make the tests named with it fail (law 7)."""

from __future__ import annotations

from dataclasses import dataclass

GAUSSIAN, SCHEDULE, ANCESTRAL = "laws/test_gaussian.py", "laws/test_schedule.py", "laws/test_ancestral.py"
LOSS, PARAMETERIZATION = "laws/test_loss.py", "laws/test_parameterization.py"
EMA, TIMES, LOOP = "training/test_ema.py", "training/test_times.py", "training/test_loop.py"


@dataclass(frozen=True)
class Defect:
    """In `file` of src/alphabar the text `old`, which stands there once, becomes `new`; `tests` (and -k `pattern`) must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    pattern: str = ""


DEFECTS = [
    # schedules
    Defect("alpha_bar without its first factor", "schedule.py", "self.alpha.cumprod(0)]", "self.alpha.cumprod(0).roll(1)]", SCHEDULE),
    Defect("linear betas not scaled with T", "schedule.py", "scale * beta_start, scale * beta_end, steps", "beta_start, beta_end, steps", SCHEDULE),
    Defect("scaled linear without the square", "schedule.py", "beta_end**0.5, steps, dtype=torch.float64) ** 2", "beta_end**0.5, steps, dtype=torch.float64)", SCHEDULE),
    Defect("cosine without its cap", "schedule.py", "BETA_CAP = 0.999 ", "BETA_CAP = 0.99999999 ", SCHEDULE),
    Defect("zero terminal SNR off by the first value", "schedule.py", "* root[0] / (root[0] - root[-1])", "/ (root[0] - root[-1])", SCHEDULE),
    Defect("SNR upside down", "schedule.py", "return self.alpha_bar(t) / self.noise_variance(t)", "return self.noise_variance(t) / self.alpha_bar(t)", SCHEDULE),
    Defect("time read one step late", "schedule.py", "below = position.floor().clamp", "below = (position + 1).floor().clamp", SCHEDULE),
    Defect("time in float32", "schedule.py", 't = torch.as_tensor(t, dtype=torch.float64, device="cpu").detach()', 't = torch.as_tensor(t, dtype=torch.float32, device="cpu").double()', GAUSSIAN, "compose"),
    Defect("a last beta of 1 refused", "schedule.py", "bad[-1] = not 0 < float(betas[-1]) <= 1", "bad[-1] = not 0 < float(betas[-1]) < 1", SCHEDULE),
    # Gaussians
    Defect("noise scaled by its variance", "gaussian.py", "+ expand((1 - alpha_bar).sqrt(), eps) * eps", "+ expand(1 - alpha_bar, eps) * eps", GAUSSIAN, "compose"),
    Defect("step mean without the root", "gaussian.py", "expand((1 - beta).sqrt(), x_prev) * x_prev", "expand(1 - beta, x_prev) * x_prev", GAUSSIAN, "compose"),
    Defect("posterior coefficients swapped", "gaussian.py", "return expand(on_x_t, x_t) * x_t + expand(on_x_0, x_0) * x_0", "return expand(on_x_0, x_t) * x_t + expand(on_x_t, x_0) * x_0", GAUSSIAN),
    Defect("posterior mean with alpha_bar_t for alpha_bar_prev", "gaussian.py", "on_x_0 = alpha_bar_prev.sqrt()", "on_x_0 = alpha_bar.sqrt()", GAUSSIAN),
    Defect("posterior variance is beta", "gaussian.py", "return (1 - alpha_bar_prev) / (1 - alpha_bar) * stride_beta(alpha_bar, alpha_bar_prev)", "return stride_beta(alpha_bar, alpha_bar_prev)", GAUSSIAN),
    Defect("reverse mean with the wrong sign of eps", "gaussian.py", "return (x_t - expand(on_eps, eps) * eps)", "return (x_t + expand(on_eps, eps) * eps)", GAUSSIAN),
    Defect("reverse mean without the root of 1 - alpha_bar", "gaussian.py", "on_eps = (1 - alpha) / (1 - alpha_bar).sqrt()", "on_eps = (1 - alpha) / (1 - alpha_bar)", GAUSSIAN),
    Defect("log of a zero posterior variance", "gaussian.py", "    variance[0] = variance[1] if len(variance) > 1", "    variance[0] = variance[0] if len(variance) > 1", GAUSSIAN),
    Defect("learned variance between swapped ends", "gaussian.py", "return fraction * expand(log_beta, fraction) + (1 - fraction)", "return (1 - fraction) * expand(log_beta, fraction) + fraction", GAUSSIAN),
    Defect("KL without its logarithm", "gaussian.py", "0.5 * (log_variance_2 - log_variance_1 - 1", "0.5 * (-1", GAUSSIAN),
    Defect("likelihood with closed outer bins", "gaussian.py", "upper = torch.where(x_0 > 1 - 1 / 255, torch.ones_like(upper), upper)", "upper = upper * 1", GAUSSIAN),
    Defect("likelihood bins of half width", "gaussian.py", "(x_0 - mean + 1 / 255)", "(x_0 - mean)", GAUSSIAN),
    # parameterization
    Defect("v with swapped signs", "parameterization.py", "return expand(a, eps) * eps - expand(b, x_0) * x_0", "return expand(b, x_0) * x_0 - expand(a, eps) * eps", PARAMETERIZATION),
    Defect("x_0 from v adds", "parameterization.py", "return expand(a, x_t) * x_t - expand(b, v) * v", "return expand(a, x_t) * x_t + expand(b, v) * v", PARAMETERIZATION),
    Defect("x_0 from eps divides by alpha_bar", "parameterization.py", "return (x_t - expand(b, eps) * eps) / expand(a, x_t)", "return (x_t - expand(b, eps) * eps) / expand(a**2, x_t)", PARAMETERIZATION),
    # the denoiser
    Defect("the network told t instead of t - 1", "denoiser.py", "(self.schedule.steps or 0) - 1", "(self.schedule.steps or 0)", LOSS),
    Defect("zero terminal SNR with eps allowed", "denoiser.py", 'settings.prediction == "eps" and float(schedule.alpha_bar(1.0)) == 0', 'settings.prediction == "eps" and False', LOSS),
    Defect("variance fraction not mapped to 0..1", "denoiser.py", "return mean, (variance + 1) / 2", "return mean, variance / 2", LOSS),
    # the loss
    Defect("min-SNR weight of eps not divided", "loss.py", "return torch.where(snr > 0, on_x_0 / snr, 1.0)", "return on_x_0", LOSS),
    Defect("0 / 0 in the eps weight", "loss.py", "return torch.where(snr > 0, on_x_0 / snr, 1.0)", "return on_x_0 / snr", LOSS),
    Defect("v weight divided by SNR", "loss.py", "return on_x_0 / (snr + 1)", "return on_x_0 / snr", LOSS),
    Defect("min-SNR takes the maximum", "loss.py", "on_x_0 = snr.clamp(max=gamma)", "on_x_0 = snr.clamp(min=gamma)", LOSS),
    Defect("hybrid loss moves the mean", "loss.py", "predict(kind, output.detach(), x_t, a, b)", "predict(kind, output, x_t, a, b)", LOSS),
    Defect("bound in nats", "loss.py", ".mean(1) / math.log(2)", ".mean(1)", LOSS),
    Defect("no decoder at step one", "loss.py", "first = (k == 1)", "first = (k == 0)", LOSS),
    # sampling
    Defect("noise on the last step", "samplers/ancestral.py", "if s == 0:", "if s < 0:", ANCESTRAL),
    Defect("noise by its variance", "samplers/ancestral.py", "expand(posterior.sqrt(), prediction.x_0)", "expand(posterior, prediction.x_0)", ANCESTRAL),
    Defect("log variance without the half", "samplers/ancestral.py", "torch.exp(0.5 * learned_log_variance", "torch.exp(learned_log_variance", ANCESTRAL),
    Defect("leading instead of trailing times", "samplers/grids.py", "torch.arange(steps, -1, -1, dtype=torch.float64) / steps", "torch.arange(steps, -1, -1, dtype=torch.float64) / (steps + 1)", ANCESTRAL),
    Defect("eps not derived again after clipping", "samplers/clip.py", "return Prediction(x_0, eps, prediction.variance_fraction)", "return Prediction(x_0, prediction.eps, prediction.variance_fraction)", ANCESTRAL, "clipping"),
    Defect("dynamic threshold enlarges", "samplers/clip.py", ".clamp(min=1).reshape", ".reshape", ANCESTRAL, "dynamic"),
    Defect("noise keyed by the place in the batch", "samplers/base.py", '(seed, "sample", step) for seed in seeds', '(i, "sample", step) for i, seed in enumerate(seeds)', ANCESTRAL, "own_seed"),
    Defect("the same noise at every step", "samplers/base.py", '(seed, "sample", step) for seed', '(seed, "sample") for seed', ANCESTRAL, "moments"),
    # training
    Defect("average that skips buffers", "training/ema.py", "            average.copy_(buffer)", "            pass", EMA),
    Defect("average with its shares swapped", "training/ema.py", "weight = 1 - ema_decay(step, self.decay)", "weight = ema_decay(step, self.decay)", EMA),
    Defect("no warm-up of the average", "training/ema.py", "return min(decay, (1 + step) / (10 + step))", "return decay", EMA),
    Defect("the last step of the table never drawn", "training/times.py", "((u * schedule.steps).floor() + 1)", "(u * schedule.steps).floor()", TIMES),
    Defect("one time for the whole batch", "training/times.py", 'return to_grid(uniform([n], seed, "times", step), self.schedule), torch.ones(n', 'return to_grid(uniform([1], seed, "times", step).expand(n), self.schedule), torch.ones(n', TIMES),
    Defect("importance without weights", "training/times.py", "1 / (p[k] * self.bins)", "torch.ones(n, dtype=torch.float64)", TIMES),
    Defect("importance history not saved", "training/times.py", '        return {"losses": self.losses, "counts": self.counts}', '        return {"losses": self.losses * 0, "counts": self.counts * 0}', LOOP, "resume_is_exact"),
    Defect("noise from the global generator", "training/loop.py", 'eps = normal((n, *self.data.shape), config.seed, "noise", step)', "eps = torch.randn(n, *self.data.shape)", LOOP, "resume_is_exact"),
    Defect("data order that restarts at resume", "training/loop.py", 'return permutation(n, seed, "epoch", epoch)', 'return permutation(n, seed, "epoch", 0)', LOOP, "epoch"),
    Defect("accumulated parts not averaged", "training/loop.py", ".sum() / n\n", ".mean()\n", LOOP, "accumulation"),
    Defect("non-finite loss reaches the weights", "training/loop.py", "        check_finite(step + 1, loss, norm, t, squared_errors)\n", "", LOOP, "non_finite"),
    Defect("optimizer state not restored", "training/loop.py", "return torch.empty_like(parameter).copy_(value)", "return torch.zeros_like(parameter)", LOOP, "resume_is_exact"),
]  # fmt: skip
