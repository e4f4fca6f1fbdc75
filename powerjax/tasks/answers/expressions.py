r"""Parses LaTeX or plain text to sympy, by recursive descent.

sympy's own readers of plain text evaluate it as Python, which must not be done with what a model
wrote. This one knows a fixed list of names and refuses all others. It reads what final answers of
school mathematics hold: numbers and mixed numbers, `\frac12`, `\sqrt[3]{x}`, powers, functions,
`|x|`, `\binom`, factorials and implied products. Its input is in lower case, as
`answers.simplified` returns it.
"""

from __future__ import annotations

import re

import sympy

MAX_POWER_BITS = 100_000  # of the longest power of a rational that is worked out

_FUNCTIONS = {
    **{name: getattr(sympy, name) for name in ("sin", "cos", "tan", "sec", "csc", "cot", "exp")},
    **{name: getattr(sympy, name) for name in ("sinh", "cosh", "tanh", "log")},
    **{"arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan, "ln": sympy.log},
    **{"asin": sympy.asin, "acos": sympy.acos, "atan": sympy.atan},
}
_CONSTANTS = {"pi": sympy.pi, "inf": sympy.oo, "infty": sympy.oo, "infinity": sympy.oo}
_CONSTANTS |= {"e": sympy.E, "i": sympy.I}
_GREEK = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "theta", "lambda", "mu", "nu"),
    *("rho", "sigma", "tau", "phi", "varphi", "psi", "omega", "eta", "zeta", "xi", "kappa", "ell"),
)
_PLUS_MINUS = sympy.Symbol("±")  # one symbol: all signs of an expression are the same

_NUMBER = re.compile(r"\d+(?:\.\d+)?|\.\d+")
_MIXED = re.compile(
    r"(\d+)(?: *\\frac *(?:\{ *(\d+) *\}|(\d)) *(?:\{ *(\d+) *\}|(\d))| +(\d+)/(\d+))"
)
_WORD = re.compile(r"\\?[a-z]+|\\.")
_DELIMITED = {"lfloor": ("rfloor", sympy.floor), "lceil": ("rceil", sympy.ceiling)}


def parse(text: str) -> sympy.Expr:
    """Returns the expression. Raises ValueError if the text is not one that it reads."""
    reader = _Reader(text)
    value = reader.sum()
    if reader.peek():
        raise ValueError(f"cannot read {reader.rest()!r}")
    return value


class _Reader:
    """A position in a text (`at`), and a method for each rule of the grammar.

    Each of these methods returns the value of what it read, and moves the position past it.
    `bars` counts the open `|`: inside of one, the next `|` closes it.
    """

    def __init__(self, text: str):
        self.text, self.at, self.bars = text, 0, 0

    def rest(self) -> str:
        return self.text[self.at :]

    def peek(self) -> str:
        """Returns the next token: a number, a word, a command or a sign; "" at the end."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        for kind in (_NUMBER, _WORD):
            if match := kind.match(self.text, self.at):
                return match[0]
        return self.text[self.at : self.at + 1]

    def take(self, *tokens: str) -> str:
        """Passes over the next token and returns it, if it is one of these; else returns ""."""
        token = self.peek()
        if token and token in tokens:
            self.at += len(token)
            return token
        return ""

    def expect(self, token: str) -> None:
        if not self.take(token):
            raise ValueError(f"expected {token!r} at {self.rest()!r}")

    def sum(self) -> sympy.Expr:
        value = self.product()
        while sign := self.take("+", "-", "\\pm", "\\mp"):
            term = self.product()
            value += {"+": 1, "-": -1, "\\pm": _PLUS_MINUS, "\\mp": -_PLUS_MINUS}[sign] * term
        return value

    def product(self) -> sympy.Expr:
        value = self.signed()
        while True:
            if self.take("*", "\\cdot", "\\times", "\\ast"):
                value *= self.signed()
            elif self.take("/", "\\div"):
                value /= self.signed()
            elif self.starts_factor():
                value *= self.power()
            else:
                return value

    def signed(self) -> sympy.Expr:
        sign = self.take("+", "-", "\\pm", "\\mp")
        if not sign:
            return self.power()
        return {"+": 1, "-": -1, "\\pm": _PLUS_MINUS, "\\mp": -_PLUS_MINUS}[sign] * self.signed()

    def starts_factor(self, functions: bool = True) -> bool:
        token = self.peek()
        if not token or token in "+-*/^_!=,<>)]}&:;'\"":
            return False
        if token == "|":
            return not self.bars
        name = token.lstrip("\\")
        if name in ("rfloor", "rceil", "cdot", "times", "div", "ast", "pm", "mp"):
            return False
        return functions or name not in _FUNCTIONS

    def power(self) -> sympy.Expr:
        value = self.atom()
        while self.take("!"):
            value = sympy.factorial(value)
        if self.take("^"):
            value = _power(value, self.exponent())
        return value

    def exponent(self) -> sympy.Expr:
        if self.peek() == "{":
            return self.group()
        sign = -1 if self.take("-") else 1
        return sign * self.power()

    def group(self) -> sympy.Expr:
        opening = self.take("{", "(", "[")
        if not opening:
            raise ValueError(f"expected a group at {self.rest()!r}")
        bars, self.bars = self.bars, 0
        value = self.sum()
        self.bars = bars
        self.expect({"{": "}", "(": ")", "[": "]"}[opening])
        return value

    def argument(self) -> sympy.Expr:
        """Reads a command's argument: a group, a command, or one digit or letter, as in TeX."""
        token = self.peek()
        if token == "{":
            return self.group()
        if token.startswith("\\"):
            return self.atom()
        self.at += 1
        if token[:1].isdigit():
            return sympy.Integer(token[0])
        if token[:1].isalpha():
            return _CONSTANTS.get(token[0], sympy.Symbol(token[0]))
        raise ValueError(f"expected an argument at {token!r}")

    def atom(self) -> sympy.Expr:
        token = self.peek()
        if token in ("(", "{", "["):
            return self.group()
        if token == "|" or token in ("\\lvert", "\\vert"):
            return self.absolute()
        if _NUMBER.fullmatch(token):
            return self.number(token)
        if not _WORD.fullmatch(token):
            raise ValueError(f"cannot read {self.rest()!r}")
        self.at += len(token)
        return self.named(token.lstrip("\\"), is_command=token.startswith("\\"))

    def absolute(self) -> sympy.Expr:
        self.take("|", "\\lvert", "\\vert")
        self.bars += 1
        value = self.sum()
        self.bars -= 1
        if not self.take("|", "\\rvert", "\\vert"):
            raise ValueError(f"expected | at {self.rest()!r}")
        return sympy.Abs(value)

    def number(self, token: str) -> sympy.Expr:
        mixed = _MIXED.match(self.text, self.at)
        if mixed:
            self.at = mixed.end()
            whole, *parts = (int(part) for part in mixed.groups() if part)
            return whole + sympy.Rational(*parts)
        self.at += len(token)
        if self.take("_"):  # a numeral in another base stays a symbol
            return sympy.Symbol(f"{token}_{self.argument()}")
        return sympy.Rational(token)

    def named(self, name: str, is_command: bool) -> sympy.Expr:
        if name == "frac":
            numerator = self.argument()
            return numerator / self.argument()
        if name == "sqrt":
            return self.root(is_command)
        if name in ("binom", "dbinom", "tbinom"):
            top = self.argument()
            return sympy.binomial(top, self.argument())
        if name in _FUNCTIONS:
            return self.function(name)
        if name in _DELIMITED:
            closing, rounded = _DELIMITED[name]
            value = self.sum()
            self.expect("\\" + closing)
            return rounded(value)
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name in _GREEK or len(name) == 1:
            return self.symbol(name)
        if len(name) == 2 and not is_command:  # xy is a product; longer words are words
            self.at -= 1
            return self.symbol(name[0])
        raise ValueError(f"unknown name {name!r}")

    def symbol(self, name: str) -> sympy.Expr:
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        return sympy.Symbol(f"{name}_{self.argument()}" if self.take("_") else name)

    def root(self, is_command: bool) -> sympy.Expr:
        degree = sympy.Integer(2)
        if self.peek() == "[":
            degree = self.group()
        plain = not is_command or self.peek() == "("
        return _power(self.atom() if plain else self.argument(), 1 / degree)

    def function(self, name: str) -> sympy.Expr:
        base = self.argument() if name == "log" and self.take("_") else None
        exponent = self.exponent() if self.take("^") else None
        if self.peek() in ("(", "{"):
            value = self.group()
        else:
            value = self.power()
            while self.starts_factor(functions=False):
                value *= self.power()
        value = _FUNCTIONS[name](value) if base is None else sympy.log(value, base)
        if exponent == -1:
            raise ValueError(f"{name}^-1 may be an inverse or a reciprocal")
        return value if exponent is None else value**exponent


def _power(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
    """Returns base^exponent. Raises ValueError if sympy would work out too long a number."""
    if base.is_Rational and exponent.is_Rational and base not in (0, 1, -1):
        bits = max(abs(base.p), base.q).bit_length()
        if abs(exponent) * bits > MAX_POWER_BITS:
            raise ValueError(f"{base}^{exponent} is too large to work out")
    return base**exponent
