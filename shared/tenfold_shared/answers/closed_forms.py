"""Exact closed forms, and lists of them, compared without sympy.

Sums of terms  c * sqrt(r) * pi^k * x^i y^j ...  with c rational and r square-free: square roots of
distinct square-free integers are linearly independent over the rationals, and pi and the letters are
free, so two such sums are equal exactly when their terms are. Anything that a LaTeX reader could
take in two ways (1/2x, 2\\frac{1}{2}, x(y+1), 2^10, adjacent letters) is refused, never guessed.
"""

import itertools
import math
import re
from collections import Counter
from fractions import Fraction
from typing import Literal

Outcome = Literal["correct", "wrong", "ungradable"]
Verdict = tuple[Outcome, str]


_Term = tuple[int, tuple[tuple[str, int], ...]]  # (r, powers of pi and letters, sorted)
_Form = dict[_Term, Fraction]
_TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]+)(?![0-9.])|(?P<letter>[abknpqrxyz](?![A-Za-z]))"  # no letter that is a unit
    r"|(?P<op>\\(?:frac|sqrt|pi|cdot|times)(?![A-Za-z])|[-+*/^(){}]))\s*"
)
_MAX_TERMS, _MAX_BITS = 64, 2048


class _Refused(Exception):
    """Not a closed form this reader is certain of."""


def _one(value: int | Fraction, root: int = 1, powers: tuple[tuple[str, int], ...] = ()) -> _Form:
    return {(root, powers): Fraction(value)} if value else {}


def _plus(left: _Form, right: _Form, sign: int = 1) -> _Form:
    total = dict(left)
    for term, c in right.items():
        total[term] = total.get(term, Fraction(0)) + sign * c
    return {term: c for term, c in total.items() if c}


def _times(left: _Form, right: _Form) -> _Form:
    total: _Form = {}
    for (r1, p1), c1 in left.items():
        for (r2, p2), c2 in right.items():
            common = math.gcd(r1, r2)  # sqrt(r1) sqrt(r2) = common * sqrt(r1 r2 / common^2)
            powers = Counter(dict(p1))
            powers.update(dict(p2))
            shared = tuple(sorted((name, n) for name, n in powers.items() if n))
            term = (r1 * r2 // common**2, shared)
            total[term] = total.get(term, Fraction(0)) + c1 * c2 * common
    if len(total) > _MAX_TERMS or any(c.numerator.bit_length() > _MAX_BITS for c in total.values()):
        raise _Refused
    return {term: c for term, c in total.items() if c}


def _inverse(form: _Form) -> _Form:
    if len(form) != 1:
        raise _Refused  # zero, or a sum in the denominator
    ((root, powers), c), *_ = form.items()
    return {(root, tuple((name, -n) for name, n in powers)): 1 / (c * root)}


def _root(form: _Form) -> _Form:
    """sqrt of a rational number p/q >= 0, as sqrt(p q)/q with its square part taken out."""
    c = form.get((1, ()), Fraction(0))
    if form and (len(form) > 1 or c <= 0 or c.numerator * c.denominator > 10**6):
        raise _Refused
    inside, outside, d = c.numerator * c.denominator, 1, 2
    while d * d <= inside:
        while inside % (d * d) == 0:
            inside, outside = inside // (d * d), outside * d
        d += 1
    return _one(Fraction(outside, c.denominator), inside) if form else {}


class _Reader:
    """Recursive descent over `sum := [sign] product {sign product}`; LaTeX braces are the arguments'."""

    def __init__(self, text: str):
        self.tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(text):
            token = _TOKEN.match(text, at)
            if not token or len(self.tokens) > 200:
                raise _Refused
            self.tokens.append((token.lastgroup or "", token[token.lastgroup or 0]))
            at = token.end()
        self.tokens.append(("end", ""))
        self.at = 0

    def take(self, *wanted: str) -> str:
        """The next token if it is one of `wanted` (all: anything), else ""."""
        value = self.tokens[self.at][1]
        if value and (value in wanted or not wanted):
            self.at += 1
            return value
        return ""

    def whole(self) -> _Form:
        form = self.sum()
        if self.tokens[self.at][0] != "end":
            raise _Refused
        return form

    def sum(self) -> _Form:
        sign = self.take("+", "-")
        form = _plus({}, self.product(), -1 if sign == "-" else 1)
        while sign := self.take("+", "-"):
            form = _plus(form, self.product(), -1 if sign == "-" else 1)
        return form

    def product(self) -> _Form:
        before, form = self.power()
        divided = False
        while True:
            kind, value = self.tokens[self.at]
            if self.take("*", "\\cdot", "\\times"):
                before, factor = self.power()
                form = _times(form, factor)
            elif self.take("/"):
                before, factor = self.power()
                form, divided = _times(form, _inverse(factor)), True
            elif kind == "letter" or value in ("(", "\\sqrt", "\\pi", "\\frac"):
                called = before == "letter" and value == "("
                if divided or called or "\\frac" in (before, value):
                    raise _Refused
                before, factor = self.power()
                if form.keys() | factor.keys() <= {(1, ())}:
                    raise _Refused  # 2(1/2) is 1 or the mixed number 5/2
                form = _times(form, factor)
            elif kind == "number":
                raise _Refused
            else:
                return form

    def power(self) -> tuple[str, _Form]:
        kind, form = self.primary()
        if self.take("^"):
            negative = False
            if self.take("{"):
                negative = bool(self.take("-"))
                digits = self.number()
                if not self.take("}"):
                    raise _Refused
            else:
                digits = self.number()
                if len(digits) > 1:
                    raise _Refused  # 2^10: TeX raises to the 1 only
            if len(digits) > 2 or int(digits) > 20:
                raise _Refused
            base = _inverse(form) if negative else form
            form = _one(1)
            for _ in range(int(digits)):
                form = _times(form, base)
        return kind, form

    def number(self) -> str:
        kind, value = self.tokens[self.at]
        if kind != "number" or len(value) > 100:
            raise _Refused
        self.at += 1
        return value

    def primary(self) -> tuple[str, _Form]:
        kind, value = self.tokens[self.at]
        if kind == "number":
            return kind, _one(int(self.number()))
        self.take()
        if kind == "letter":
            return kind, _one(1, 1, ((value, 1),))
        if value == "\\pi":
            return kind, _one(1, 1, (("pi", 1),))
        if value == "\\sqrt":
            return kind, _root(self.argument())
        if value == "\\frac":
            over = self.argument()
            return value, _times(over, _inverse(self.argument()))
        if value == "(":
            form = self.sum()
            if self.take(")"):
                return value, form
        raise _Refused

    def argument(self) -> _Form:
        """A braced sum, or one digit as in \\sqrt3 and \\frac12 (never split off a longer number)."""
        if self.take("{"):
            form = self.sum()
            if self.take("}"):
                return form
            raise _Refused
        digits = self.number()
        if len(digits) > 1:
            raise _Refused
        return _one(int(digits))


def closed_form(answer: str) -> _Form | None:
    try:
        return _Reader(answer).whole() if len(answer) <= 400 else None
    except (_Refused, RecursionError):
        return None


def _value(form: _Form) -> float | None:
    """Float value of a form without letters."""
    total = 0.0
    for (root, powers), c in form.items():
        if any(name != "pi" for name, _ in powers) or abs(c) > 10**9:
            return None
        total += float(c) * math.sqrt(root) * math.pi ** dict(powers).get("pi", 0)
    return total


def compare_forms(gold: _Form, answer: _Form) -> Verdict | None:
    if gold == answer:
        return "correct", "equal closed forms"
    difference = _plus(gold, answer, -1)
    if any(name != "pi" for _, powers in difference for name, _ in powers):
        return "wrong", "different closed forms"
    # Numbers this close are for math-verify's numerical tolerance to judge.
    value = _value(difference)
    return ("wrong", "different closed forms") if value is not None and abs(value) > 1e-4 else None


def _list(answer: str) -> tuple[str, list[str]] | None:
    r"""("(" ordered | "[" ordered | "{" unordered, elements) of `(a, b)`, `[a, b]`, `\{a, b\}` or `a, b`."""
    kind = "{"
    if answer.startswith("\\{") and answer.endswith("\\}"):
        answer = answer[2:-2]
    elif answer[:1] in ("(", "[") and answer[-1:] == {"(": ")", "[": "]"}[answer[0]]:
        kind, answer = answer[0], answer[1:-1]
    if "," not in answer or any(char in answer for char in "()[];") or re.search(r",[0-9]{3}(?![0-9])", answer):
        return None
    return kind, answer.split(",")


def compare_lists(gold: str, answer: str) -> Verdict | None:
    """Verdict on lists of closed forms in the same brackets, or on a list and a single closed form."""
    golden, listed = _list(gold), _list(answer)
    items = [golden[1] if golden else [gold], listed[1] if listed else [answer]]
    if max(map(len, items)) > _MAX_TERMS:
        return None  # every pair would be looked at; the worker has a deadline
    forms, others = ([form for item in side if (form := closed_form(item)) is not None] for side in items)
    if [len(forms), len(others)] != [len(side) for side in items]:
        return None  # an element is no closed form
    if not (golden and listed):
        many = forms if golden else others
        apart = all(compare_forms(*two) for two in itertools.combinations(many, 2))
        # [5, 5] and {5, 5} are 5; a list of different numbers is no number.
        distinct = apart and all(many.count(form) == 1 for form in many)
        return ("wrong", "one value where the other is a list") if distinct and (golden or listed) else None
    if golden[0] != listed[0]:
        return None
    if golden[0] == "{":
        if any(forms.count(form) > 1 for form in forms) or any(others.count(form) > 1 for form in others):
            return None
        if len(forms) == len(others) and all(form in others for form in forms):
            return "correct", "equal sets"
    elif forms == others:
        return "correct", "equal lists"
    for form, other in itertools.product(forms, others):
        if form != other and not compare_forms(form, other):
            return None  # two elements within the tolerance of each other
    return "wrong", "different elements"
