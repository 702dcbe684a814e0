"""One way to write a formula, and three to read it: LaTeX for the pages, Unicode for the terminal, SymPy for the proofs.

A formula is an expression of Python's grammar, read but never run: `x[t] == sqrt(alpha_bar[t])*x[0] + sqrt(1 - alpha_bar[t])*eps`.
Square brackets are indices, `|` is "given". Relations: `==` is =, `is` is "distributed as", `in` is "proportional to", `<=` as
it stands. `N(m, v)` is a normal distribution, `N(x, m, v)` its density at x, `E(over, f)` an expectation, `norm(f)` a Euclidean length, `grad(x, f)` a gradient,
`partial(s, f)` a partial derivative by s, `laplace(f)` the sum of second derivatives,
`sum_(k, m, n, f)`, `prod_(k, m, n, f)` and `int_(k, m, n, f)` run over k from m to n. Imports no torch, and SymPy only for the proofs.
"""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

SYMBOLS: dict[str, tuple[str, str]] = {
    "alpha_bar": (r"\bar\alpha", "ᾱ"),
    "beta_tilde": (r"\tilde\beta", "β̃"),
    "mu_tilde": (r"\tilde\mu", "μ̃"),
    "eps_theta": (r"\epsilon_\theta", "ε_θ"),
    "mu_theta": (r"\mu_\theta", "μ_θ"),
    "p_theta": (r"p_\theta", "p_θ"),
    "eps_hat": (r"\hat\epsilon", "ε̂"),
    "x_hat": (r"\hat x", "x̂"),
    "lambda_": (r"\lambda", "λ"),
    "SNR": (r"\mathrm{SNR}", "SNR"),
    "L_simple": (r"L_\mathrm{simple}", "L_simple"),
    "Tr": (r"\mathrm{Tr}", "Tr"),
    "eps_star": (r"\epsilon^*", "ε*"),
    "c_12": ("c_{1,2}", "c₁,₂"),
    "phi": (r"\varphi", "φ"),
    "pi": (r"\pi", "π"),
    "v_hat": (r"\hat v", "v̂"),
    "u_top": (r"u^\top", "uᵀ"),
    "sin": (r"\sin", "sin"),
    "arctan": (r"\arctan", "arctan"),
    "div": (r"\mathrm{div}", "div"),
    "rms": (r"\mathrm{rms}", "rms"),
    "max": (r"\max", "max"),
    "error": (r"\mathrm{error}", "error"),
    "tolerance": (r"\mathrm{tolerance}", "tolerance"),
    "high": (r"x_\mathrm{high}", "high"),
    "low": (r"x_\mathrm{low}", "low"),
    "bits": (r"\mathrm{bits}", "bits"),
    **{name: (f"\\{name}", sign) for name, sign in (("alpha", "α"), ("beta", "β"), ("mu", "μ"), ("sigma", "σ"))},
    "eps": (r"\epsilon", "ε"),
}
"""Names that are written otherwise: in LaTeX, in Unicode. A letter with a number, such as w_1, becomes a letter with an index."""

RELATIONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Eq: ("=", "="),
    ast.Is: (r"\sim", "~"),
    ast.In: (r"\propto", "∝"),
    ast.LtE: (r"\le", "≤"),
}
LOW = dict(zip("0123456789+-=()aehijklmnoprstuvx", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", strict=True))
HIGH = dict(zip("0123456789+-=()nixyzt", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱˣʸᶻᵗ", strict=True))
ADDED, DIVIDED, MULTIPLIED, SIGNED, RAISED, ATOM = range(1, 7)  # from loose to tight
LEVELS: dict[type[ast.operator], int] = {
    ast.Add: ADDED, ast.Sub: ADDED, ast.BitOr: 0, ast.Mult: MULTIPLIED, ast.Div: DIVIDED, ast.Pow: RAISED,
}  # fmt: skip


@dataclass(frozen=True)
class Written:
    """A part as text, and how tightly it holds together: what binds tighter puts parentheses around it."""

    text: str
    level: int = ATOM


def parse(source: str) -> ast.expr:
    """The expression. Raises SyntaxError."""
    return ast.parse(source.strip(), mode="eval").body


class Form(NamedTuple):
    """How a function of so many arguments is written: a template, how tightly the whole holds, and how tightly its last argument must."""

    template: str
    level: int = ATOM
    inner: int = 0


class Writer(ABC):
    """What LaTeX and Unicode have in common."""

    column: ClassVar[int]
    given: ClassVar[str]
    dot: ClassVar[str]
    forms: ClassVar[dict[tuple[str, int], Form]]
    """By name and number of arguments; what is not here is a name before parentheses."""

    def write(self, node: ast.expr) -> str:
        """The whole as text."""
        return self.visit(node).text

    def visit(self, node: ast.expr) -> Written:
        """One part as text."""
        match node:
            case ast.Compare(left, ops, comparators):
                words = [self.write(left)]
                for op, right in zip(ops, comparators, strict=True):
                    words += [RELATIONS[type(op)][self.column], self.write(right)]
                return Written(" ".join(words), 0)
            case ast.Constant(value):
                return Written(str(value))
            case ast.Name(name):
                return Written(self.name(name))
            case ast.Subscript(ast.Name(name), index):
                return Written(self.index(self.name(name), self.write(index).replace(" - ", "-")))
            case ast.UnaryOp(ast.USub(), operand):
                return Written("-" + self.within(operand, MULTIPLIED), SIGNED if self.column else ADDED)
            case ast.BinOp():
                return self.operation(node)
            case ast.Call(ast.Name(name), args):
                return self.call(name, args)
            case ast.Call(ast.Subscript() as head, args):
                return Written(f"{self.write(head)}({', '.join(map(self.write, args))})")
            case ast.Tuple(elts):
                return Written(", ".join(map(self.write, elts)), 0)
        raise SyntaxError(f"a formula cannot hold {ast.unparse(node)!r}")

    def within(self, node: ast.expr, level: int) -> str:
        """The part, in parentheses if it holds less tightly than `level`."""
        part = self.visit(node)
        return part.text if part.level >= level else self.bracket(part.text)

    def operation(self, node: ast.BinOp) -> Written:
        """Two parts joined by an operator."""
        level = LEVELS[type(node.op)]
        match node.op:
            case ast.Add():
                return Written(f"{self.within(node.left, ADDED)} + {self.within(node.right, ADDED)}", level)
            case ast.Sub():
                return Written(f"{self.within(node.left, ADDED)} - {self.within(node.right, DIVIDED)}", level)
            case ast.BitOr():
                return Written(f"{self.write(node.left)} {self.given} {self.write(node.right)}", level)
            case ast.Mult():
                return self.product(node)
            case ast.Div():
                return self.fraction(node)
            case ast.Pow():
                return self.power(node)
        raise SyntaxError(f"a formula cannot hold {ast.unparse(node)!r}")

    def call(self, name: str, args: list[ast.expr]) -> Written:
        """A function of its arguments."""
        form = self.forms.get((name, len(args)))
        if form is None:
            return Written(self.name(name) + self.around(", ".join(map(self.write, args))))
        words = [*map(self.write, args[:-1]), self.within(args[-1], form.inner)]
        return Written(form.template.format(*words), form.level)

    def name(self, name: str) -> str:
        """A name as it is written."""
        if name in SYMBOLS:
            return SYMBOLS[name][self.column]
        letter, _, rest = name.partition("_")
        return self.index(self.name(letter), rest) if rest else letter

    def product(self, node: ast.BinOp) -> Written:
        """Two factors side by side; a dot between two numbers."""
        left, right = self.within(node.left, MULTIPLIED), self.within(node.right, SIGNED)
        return Written(f"{left} {self.dot} {right}" if right[0].isdigit() else f"{left} {right}", MULTIPLIED)

    @abstractmethod
    def index(self, text: str, index: str) -> str:
        """A lower index."""

    @abstractmethod
    def bracket(self, text: str) -> str:
        """Parentheses."""

    def around(self, arguments: str) -> str:
        """The parentheses of a function."""
        return f"({arguments})"

    @abstractmethod
    def fraction(self, node: ast.BinOp) -> Written:
        """A quotient."""

    @abstractmethod
    def power(self, node: ast.BinOp) -> Written:
        """An upper index."""


class Latex(Writer):
    """For the pages."""

    column, given, dot = 0, r"\mid", r"\cdot"
    forms: ClassVar = {
        ("sqrt", 1): Form(r"\sqrt{{{0}}}"),
        ("exp", 1): Form(r"\exp {0}", SIGNED, ATOM),
        ("log", 1): Form(r"\log {0}", SIGNED, ATOM),
        ("norm", 1): Form(r"\left\lVert {0} \right\rVert"),
        ("d_", 1): Form(r"\mathrm{{d}}{0}", SIGNED, ATOM),
        ("N", 2): Form(r"\mathcal{{N}}\left({0}, {1}\right)"),
        ("N", 3): Form(r"\mathcal{{N}}\left({0};\, {1}, {2}\right)"),
        ("E", 2): Form(r"\mathbb{{E}}_{{{0}}}\left[{1}\right]"),
        ("KL", 2): Form(r"D_\mathrm{{KL}}\left({0} \,\Vert\, {1}\right)"),
        ("abs", 1): Form(r"\left| {0} \right|"),
        ("int_", 4): Form(r"\int_{{{1}}}^{{{2}}} {3}\, \mathrm{{d}}{0}", SIGNED, MULTIPLIED),
        ("grad", 2): Form(r"\nabla_{{{0}}} {1}", SIGNED, SIGNED),
        ("partial", 2): Form(r"\frac{{\partial {1}}}{{\partial {0}}}", SIGNED, ATOM),
        ("laplace", 1): Form(r"\nabla^2 {0}", SIGNED, ATOM),
        ("sum_", 4): Form(r"\sum_{{{0}={1}}}^{{{2}}} {3}", ADDED, ADDED),
        ("prod_", 4): Form(r"\prod_{{{0}={1}}}^{{{2}}} {3}", SIGNED, SIGNED),
    }

    def index(self, text: str, index: str) -> str:
        """A lower index."""
        stem, theta, _ = text.partition(r"_\theta")
        if theta:
            return f"{stem}_{{\\theta, {index}}}"
        return f"{text}_{index}" if len(index) == 1 else f"{text}_{{{index}}}"

    def bracket(self, text: str) -> str:
        """Parentheses that grow."""
        return rf"\left({text}\right)"

    def around(self, arguments: str) -> str:
        """The parentheses of a function, which grow around a fraction."""
        return self.bracket(arguments) if r"\frac" in arguments else super().around(arguments)

    def fraction(self, node: ast.BinOp) -> Written:
        """One above the other."""
        return Written(rf"\frac{{{self.write(node.left)}}}{{{self.write(node.right)}}}", SIGNED)

    def power(self, node: ast.BinOp) -> Written:
        """An upper index."""
        return Written(f"{self.within(node.left, ATOM)}^{{{self.write(node.right)}}}", RAISED)


class InSentence(Latex):
    """For the sentences of the pages: as high as a line of text."""

    def bracket(self, text: str) -> str:
        """Parentheses that do not grow."""
        return f"({text})"

    def fraction(self, node: ast.BinOp) -> Written:
        """On one line."""
        return Written(f"{self.within(node.left, MULTIPLIED)} / {self.within(node.right, SIGNED)}", DIVIDED)


class Unicode(Writer):
    """For the terminal."""

    column, given, dot = 1, "|", "·"
    forms: ClassVar = {
        ("sqrt", 1): Form("√{0}", ATOM, ATOM),
        ("norm", 1): Form("‖{0}‖"),
        ("d_", 1): Form("d{0}", SIGNED, ATOM),
        ("N", 3): Form("N({0}; {1}, {2})"),
        ("KL", 2): Form("KL({0} ‖ {1})"),
        ("abs", 1): Form("|{0}|"),
        ("int_", 4): Form("∫[{0}={1}..{2}] {3} d{0}", SIGNED, MULTIPLIED),
        ("grad", 2): Form("∇{0} {1}", SIGNED, SIGNED),
        ("partial", 2): Form("∂{1}/∂{0}", DIVIDED, ATOM),
        ("laplace", 1): Form("∇²{0}", SIGNED, ATOM),
        ("sum_", 4): Form("Σ[{0}={1}..{2}] {3}", ADDED, ADDED),
        ("prod_", 4): Form("Π[{0}={1}..{2}] {3}", SIGNED, SIGNED),
    }

    def call(self, name: str, args: list[ast.expr]) -> Written:
        """A function of its arguments; over what an expectation runs is an index."""
        if name == "E":
            return Written(f"{self.index('E', self.write(args[0]))}[{self.write(args[1])}]")
        return super().call(name, args)

    def index(self, text: str, index: str) -> str:
        """Small signs below the line, or _ where there are none."""
        if all(sign in LOW for sign in index.replace(" ", "")):
            return text + "".join(LOW[sign] for sign in index.replace(" ", ""))
        return f"{text}_{index}" if len(index) == 1 else f"{text}_({index})"

    def bracket(self, text: str) -> str:
        """Parentheses."""
        return f"({text})"

    def fraction(self, node: ast.BinOp) -> Written:
        """On one line."""
        return Written(f"{self.within(node.left, MULTIPLIED)} / {self.within(node.right, SIGNED)}", DIVIDED)

    def power(self, node: ast.BinOp) -> Written:
        """Small signs above the line, or ^ where there are none."""
        exponent = self.write(node.right)
        high = "".join(HIGH.get(sign, "") for sign in exponent)
        raised = high if len(high) == len(exponent) else f"^{self.within(node.right, ATOM)}"
        return Written(self.within(node.left, ATOM) + raised, RAISED)


def to_latex(source: str) -> str:
    """As LaTeX, without dollar signs."""
    return Latex().write(parse(source))


def to_sentence(source: str) -> str:
    """As LaTeX for a sentence, without dollar signs."""
    return InSentence().write(parse(source))


def to_unicode(source: str) -> str:
    """As one line of text."""
    return Unicode().write(parse(source))


def to_sympy(source: str) -> Any:
    """As a SymPy object: an equation for `==`, another relation as a function of both sides, otherwise an expression. Names with indices are symbols of their own: `x[t-1]`."""
    return _sympy(parse(source))


def symbol(name: str) -> Any:
    """The SymPy symbol that a name, with or without indices, becomes; alpha, beta and their kin are positive, all are real."""
    import sympy

    name = ast.unparse(ast.parse(name, mode="eval"))
    base = name.split("[")[0]
    positive = base in ("alpha", "alpha_bar", "beta", "beta_tilde", "sigma", "a", "b", "SNR")
    return sympy.Symbol(name, real=True, positive=True if positive else None)


def _sympy(node: ast.expr) -> Any:
    import sympy

    match node:
        case ast.Compare(left, [ast.Eq()], [right]):
            return sympy.Eq(_sympy(left), _sympy(right), evaluate=False)
        case ast.Compare(left, [relation], [right]):
            return sympy.Function(type(relation).__name__)(_sympy(left), _sympy(right))
        case ast.Constant(value):
            return sympy.nsimplify(value)
        case ast.Name() | ast.Subscript():
            return symbol(ast.unparse(node))
        case ast.UnaryOp(ast.USub(), operand):
            return -_sympy(operand)
        case ast.BinOp(left, ast.BitOr(), right):
            return sympy.Function("given")(_sympy(left), _sympy(right))
        case ast.BinOp(left, op, right):
            a, b = _sympy(left), _sympy(right)
            return {
                ast.Add: a.__add__,
                ast.Sub: a.__sub__,
                ast.Mult: a.__mul__,
                ast.Div: a.__truediv__,
                ast.Pow: a.__pow__,
            }[type(op)](b)
        case ast.Call(ast.Name("prod_" | "sum_" | "int_" as name), args):
            k, first, last, inside = map(_sympy, args)
            whole = {"prod_": sympy.Product, "sum_": sympy.Sum, "int_": sympy.Integral}[name]
            return whole(inside, (k, first, last))
        case ast.Call(ast.Subscript() as head, args):
            return sympy.Function(ast.unparse(head))(*map(_sympy, args))
        case ast.Call(ast.Name(name), args):
            known = {"sqrt": sympy.sqrt, "exp": sympy.exp, "log": sympy.log, "sin": sympy.sin}
            return known.get(name, sympy.Function(name))(*map(_sympy, args))
        case ast.Tuple(elts):
            return sympy.Tuple(*map(_sympy, elts))
    raise SyntaxError(f"no algebra with {ast.unparse(node)!r}")
