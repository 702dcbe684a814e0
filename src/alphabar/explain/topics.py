"""The short forms of the pages, in both languages, with the formulas that they stand on and the numbers of a schedule at a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..diffusion.schedule import TableSchedule

Numbers = dict[str, float]


@dataclass(frozen=True)
class Topic:
    """title, text: by language. formulas: labels. page: where the long form is. numbers: what a schedule gives at step t, by name."""

    title: dict[str, str]
    text: dict[str, str]
    formulas: list[str]
    page: str
    numbers: Callable[[TableSchedule, int], Numbers]


def forward_numbers(schedule: TableSchedule, t: int) -> Numbers:
    """Of one step and of all steps at once."""
    beta, alpha_bar = float(schedule.beta[t - 1]), float(schedule.alpha_bars[t])
    return {"βₜ": beta, "αₜ": 1 - beta, "ᾱₜ": alpha_bar, "√ᾱₜ": alpha_bar**0.5, "√(1 - ᾱₜ)": (1 - alpha_bar) ** 0.5}


def snr_numbers(schedule: TableSchedule, t: int) -> Numbers:
    """How much of the picture is left."""
    time = t / schedule.steps
    return {
        "ᾱₜ": float(schedule.alpha_bars[t]),
        "SNRₜ": float(schedule.snr(time)),
        "log SNRₜ": float(schedule.log_snr(time)),
    }


def posterior_numbers(schedule: TableSchedule, t: int) -> Numbers:
    """The coefficients of the step back, by the functions of the library."""
    import torch

    from ..diffusion.gaussian import posterior_mean, posterior_variance

    now, before = schedule.alpha_bars[t], schedule.alpha_bars[t - 1]
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    return {
        "ᾱₜ": float(now),
        "ᾱₜ₋₁": float(before),
        "A (μ̃ₜ = A xₜ + B x₀)": float(posterior_mean(zero, one, now, before)),
        "B": float(posterior_mean(one, zero, now, before)),
        "β̃ₜ": float(posterior_variance(now, before)),
        "βₜ": float(schedule.beta[t - 1]),
    }


def weight_numbers(schedule: TableSchedule, t: int) -> Numbers:
    """What the bound weighs the squared error of eps with, where DDPM takes 1; with the posterior's variance, which is 0 at t = 1."""
    from ..diffusion.gaussian import posterior_variance
    from ..diffusion.loss import bound_weight

    now, before = schedule.alpha_bars[t], schedule.alpha_bars[t - 1]
    weight = float(bound_weight(now, before, posterior_variance(now, before)))
    snr = {"SNRₜ": float(schedule.snr(t / schedule.steps))}
    return snr if math.isinf(weight) else {"βₜ² / (2 σₜ² αₜ (1 - ᾱₜ))": weight} | snr


def step_numbers(schedule: TableSchedule, t: int) -> Numbers:
    """A jump from t to half of t."""
    s = t // 2
    now, then = float(schedule.alpha_bars[t]), float(schedule.alpha_bars[s])
    return {
        "t": t,
        "s": s,
        "aₛ": then**0.5,
        "bₛ": (1 - then) ** 0.5,
        "σₜ = bₜ / aₜ": ((1 - now) / now) ** 0.5 if now else float("inf"),
        "λₜ": float(schedule.log_snr(t / schedule.steps)) / 2,
        "h = λₛ - λₜ": float(schedule.log_snr(s / schedule.steps) - schedule.log_snr(t / schedule.steps)) / 2,
    }


def embedding_numbers(schedule: TableSchedule, t: int) -> Numbers:
    """The first of the numbers that tell the network which step it is, of 128."""
    import torch

    from ..networks.layers import sinusoidal_embedding

    first = sinusoidal_embedding(torch.tensor([t - 1.0]), 128)[0, :4].tolist()
    return {"k": t - 1} | {f"e{sign}": value for sign, value in zip("₀₁₂₃", first, strict=True)}


TOPICS: dict[str, Topic] = {
    "forward": Topic(
        {"en": "Adding noise", "zh": "加噪"},
        {
            "en": "One step shrinks the picture a little and adds a little normal noise. The two factors are chosen so that a picture\n"
            "whose pixels have variance 1 keeps it. beta_t is preset: nothing is learned here.",
            "zh": "每一步把图片略微缩小，再加上一点正态噪声。两个系数的取法使得方差为 1 的图片在加噪后方差仍为 1。\nbeta_t 是预先设定的：这里没有任何东西需要学习。",
        },
        ["forward-step", "forward-draw", "alpha"],
        "derivation.md",
        forward_numbers,
    ),
    "closed-form": Topic(
        {"en": "All steps in one jump", "zh": "一步到位"},
        {
            "en": "Noises of independent steps add up to one noise whose variance is the sum of theirs. So t steps are one: a share of the\n"
            "picture and the rest noise. Training jumps to any t at once.",
            "zh": "相互独立的各步噪声相加，仍是一个正态噪声，方差等于各方差之和。于是 t 步可以合成一步：留下一部分图片，其余是噪声。\n训练时可以直接跳到任意的 t。",
        },
        ["closed-form", "alpha-bar", "snr"],
        "derivation.md",
        snr_numbers,
    ),
    "posterior": Topic(
        {"en": "One step back", "zh": "退回一步"},
        {
            "en": "If the clean picture were known, Bayes' rule would give the step back exactly: a normal distribution whose mean is a\n"
            "weighted sum of x_t and x_0, with a variance that depends on neither.",
            "zh": "假如干净的图片已知，贝叶斯公式就能精确给出退回一步的分布：一个正态分布，均值是 x_t 与 x_0 的加权和，方差与二者都无关。",
        },
        ["posterior", "posterior-mean", "posterior-variance"],
        "derivation.md",
        posterior_numbers,
    ),
    "training": Topic(
        {"en": "What is learned", "zh": "学习什么"},
        {
            "en": "The clean picture is not known, so a network guesses the noise in x_t, all of it since x_0 and not that of one step. The\n"
            "squared error of this guess, weighted and summed over the steps, bounds -log p up to two terms at the ends; DDPM leaves\n"
            "the weights out.",
            "zh": "干净的图片其实未知，所以让网络猜出 x_t 中的噪声：是自 x_0 以来的全部噪声，而不是某一步的噪声。\n这个猜测的平方误差加权后对各步求和，再加上两端的两项，就是 -log p 的上界；DDPM 把权重去掉了。",
        },
        ["simple-loss", "step-weight", "bound"],
        "derivation.md",
        weight_numbers,
    ),
    "sampling": Topic(
        {"en": "Making pictures", "zh": "生成图片"},
        {
            "en": "Start from noise and step back T times: mean by the network's guess, fresh noise on every step but the last, where the\n"
            "posterior's variance is 0.",
            "zh": "从噪声出发，退回 T 步：均值用网络的猜测算出，每一步再加新的噪声；最后一步除外，因为那里后验方差为 0。",
        },
        ["ancestral", "model-mean", "last-step"],
        "derivation.md",
        posterior_numbers,
    ),
    "fast": Topic(
        {"en": "Why ten steps are enough", "zh": "为什么十步就够"},
        {
            "en": "The training asks nothing of how steps follow each other, only of each noise level alone. So one may jump from t to any s, or\n"
            "solve a differential equation whose solution has the same distributions, with the methods made for such equations.",
            "zh": "训练只规定了每个噪声水平上的分布，并没有规定步与步之间怎样衔接。因此可以从 t 跳到任意的 s；\n或者解一个在每个时刻都有同样分布的微分方程，用专门为此设计的数值方法。",
        },
        ["ddim", "ode", "exponential-step"],
        "fast-samplers.md",
        step_numbers,
    ),
    "guidance": Topic(
        {"en": "Following a condition more closely", "zh": "更紧地跟随条件"},
        {
            "en": "A network that was trained with the condition hidden now and then knows both estimates, u without it and c with it. Going further along\n"
            "their difference samples where the condition is more certain: w = 1 is the plain model, w = 0 ignores the condition.",
            "zh": "训练时偶尔把条件藏起来，网络就同时会两种估计：不给条件的 u 和给条件的 c。沿着它们的差走得更远，样本就更符合条件：w = 1 是普通的条件模型，w = 0 忽略条件。",
        },
        ["guidance", "guided-density", "classifier-guidance"],
        "guidance.md",
        snr_numbers,
    ),
    "network": Topic(
        {"en": "The network", "zh": "网络"},
        {
            "en": "A U-Net: from picture and time to a picture of the same size. At the bottom each place sees the whole, which decides the form;\n"
            "skip connections carry the detail past it. The time reaches every block as sines and cosines of many frequencies.",
            "zh": "一个 U-Net：由图片和时间得到同样大小的图片。在底部每个位置都看到整张图片，由此决定形状；跳跃连接把细节从旁边送过去。\n时间先变成许多频率的正弦和余弦，再送到每一个块。",
        },
        ["time-embedding"],
        "network.md",
        embedding_numbers,
    ),
    "conditions": Topic(
        {"en": "Saying what to make", "zh": "说明要生成什么"},
        {
            "en": "A class, a text, a semantic map or a picture goes through an encoder that is trained along with the network. Each is hidden now\n"
            "and then in training, so one model works with and without it; guidance makes use of the difference.",
            "zh": "类别、文字、语义图或图片先经过编码器，它与网络一起训练。训练中每个条件不时被藏起来，\n于是同一个模型有没有条件都能用；引导利用的正是两者之差。",
        },
        ["guidance", "nested-guidance"],
        "conditions.md",
        lambda schedule, t: {},
    ),
    "how-long": Topic(
        {"en": "How long to train, and what goes wrong", "zh": "训练多久，哪里会出错"},
        {
            "en": "Look at the filmstrip: blurs first, then outlines, then detail. The loss hardly falls after the first minutes, as most of it is\n"
            "noise that nobody can guess. If the held-out loss rises while the other falls, the pictures are learned by heart.",
            "zh": "看胶片图：先是模糊的团块，再是轮廓，最后是细节。头几分钟之后损失几乎不再下降，因为其中大部分是谁也猜不到的噪声。\n如果训练损失下降而留出损失上升，就是在死记硬背。",
        },
        ["simple-loss", "snr"],
        "training.md",
        snr_numbers,
    ),
    "evaluation": Topic(
        {"en": "What the numbers mean", "zh": "这些数字说明什么"},
        {
            "en": "Both distances compare two sets of pictures by features of an extractor. They are 0 for equal distributions, but chance moves\n"
            "them for finite sets: look at the floor, the distance of other real pictures, and never compare across extractors.",
            "zh": "两种距离都用特征提取器的特征来比较两组图片。分布相同时距离为 0，但有限样本带有偶然误差：\n请对照参照值（另一组真实图片的距离），并且不要跨提取器比较。",
        },
        ["frechet", "kernel", "kernel-distance"],
        "evaluation.md",
        lambda schedule, t: {},
    ),
    "likelihood": Topic(
        {"en": "How likely pictures are", "zh": "图片有多大的可能"},
        {
            "en": "One network gives two models: a chain of random steps, whose likelihood is bounded step by step, and the flow of an ODE, whose\n"
            "likelihood follows from how it stretches space on the way. Neither number bounds the other. Both are told in bits per number.",
            "zh": "同一个网络给出两个模型：一串随机的步，它的负对数似然可以逐步求出上界；以及常微分方程的流，它的似然由途中空间的伸缩得出。\n两个数互不为界，都以每个数值多少比特来表示。",
        },
        ["bound", "change-of-variables", "bits"],
        "likelihood.md",
        snr_numbers,
    ),
}
LANGUAGES = ("en", "zh")
