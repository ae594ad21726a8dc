r"""`cotpass judge --judge steps`: every arithmetic step written in a response, checked exactly.

The second judge, beside the model of `judge.py`: no model, no floating point, one pass over the text.
It reads equations as people and language models write them and decides each in rational numbers:

    3 + 4 = 7           $2.50 × 4 = $10         \frac{3}{4} \cdot 12 = 9        20% of 50 is 10
    5 apples + 3 apples = 8 apples              48 / 2 = 24 = 4 * 6             7 times 8 equals 56
    17 / 5 = 3 remainder 2                      3^2 + 4^2 = 25 = 5²             (100 - 10) x 2 = 180

A *step* is one `=` (or `≈`, `equals`, `is`, …) with a number on both sides and an operation in its chain.

When a step holds
- Both sides have the same exact value; or the chain runs on as in `3 + 4 = 7 + 5 = 12`, which says that 3 + 4
  is 7 and 7 + 5 is 12.
- A decimal answers a value that no finite decimal has, or an amount of money, when it is the value
  correctly rounded to the places shown: `10 / 3 = 3.33`, not `3.3333` for 3.34 and not `10 / 3 = 3`.
  After `≈` any correct rounding holds, of whole numbers to the digits before their zeros.
- Percentages: `50 + 20% = 60` may mean a fifth of 50; `15 / 60 × 100 = 25%` may mean 25.
- `2/3 ÷ 3/4 = 8/9`: beside `/`, `÷` may bind less.

What is no step, because it cannot be decided
- a side with a letter, a function or anything else unknown in it (`2x + 3 = 7`, `\binom{5}{2} = 10`); of
  `x = 3 + 4 = 7` the second `=` is a step;
- `1 hour + 30 minutes = 90 minutes`: a sum in two units of one measure;
- cents beside `$`, and numbers that a word behind them changes (`1.5 million`, `3 dozen`, `9 AM`, `2 (mod 5)`);
- a plain fraction or percentage said to be a whole number (`1/4 = 25` students, `20% = 8`), and a quantity that
  a sentence ends with and that the calculation does not match (`at 60 mph = 3 * 60`);
- numbers whose arithmetic would take thousands of digits.

It sees arithmetic only. A response that computes the wrong thing correctly passes, and one that reasons
in words alone has nothing to check: the vote is then `abstain`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import msgspec

from cotpass.notation import MEASURES, Chain, Side, chains, is_mixed, singular

_CENTS = {"cent", "cents", "penny", "pennies", "pence", "dime", "dimes", "nickel", "nickels", "quarters"}
MAX_DIGITS = 40  # of one written number
MAX_BITS = 4096  # of a value on the way
MAX_DEPTH = 40  # of parentheses
MAX_SHOWN = 200  # characters of a step's text that are kept


class Step(msgspec.Struct, frozen=True):
    """One written equality. at: its offset in the text, in characters. left, right: exact values."""

    text: str
    at: int
    holds: bool
    left: str
    right: str


class Steps(msgspec.Struct, frozen=True):
    """All steps in reading order, and the index of the first that does not hold (None: all hold)."""

    steps: list[Step]
    first_wrong: int | None


def vote(report: Steps) -> str:
    """yes: there are steps and all hold; no: one does not; abstain: nothing to check."""
    if not report.steps:
        return "abstain"
    return "yes" if report.first_wrong is None else "no"


def check_steps(text: str) -> Steps:
    """Find and decide every arithmetic step of TEXT. Takes time linear in its length; never raises."""
    steps = [step for chain, offset in chains(text) for step in _check(chain, text, offset)]
    return Steps(steps, next((i for i, step in enumerate(steps) if not step.holds), None))


# ---------------------------------------------------------------- values


class _Unreadable(Exception):
    """A side that is no number we can compute."""


class _Literal(NamedTuple):
    """A side that is one written number. readings: (value, unit of its last place); 25% may mean 1/4 or 25."""

    readings: tuple[tuple[Fraction, Fraction], ...]
    places: int
    truncated: bool  # 0.666...


class _Value(NamedTuple):
    """What a side says. exact: its readings, the plain one first. leading: the number it begins with, where
    more follows. share: it is a fraction below 1 or a percentage and nothing else."""

    exact: tuple[Fraction, ...]
    literal: _Literal | None
    leading: _Value | None
    operation: bool
    share: bool


def _number(text: str) -> Fraction:
    text = text.replace("{,}", "").replace("\\,", "").replace(",", "").rstrip("…")
    if len(text) > MAX_DIGITS:
        raise _Unreadable
    whole, _, part = text.rpartition(" ")
    return Fraction(whole or 0) + Fraction(part)


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise _Unreadable
    return value


class _Parser:
    """Recursive descent over one side:

        sum := product {+|- product}      product := signed {*|/|÷ signed | (sum)}      signed := [+|-] power
        power := postfix [^ signed]       postfix := primary {% | !}
        primary := number | (sum) | frac{sum}{sum} | sqrt{sum}

    relative: read `a ± b%` as a share of a; `shares` says whether that occurred. loose: let ÷ bind less than /,
    as in 2/3 ÷ 3/4.
    """

    def __init__(self, side: Side, relative: bool = False, loose: bool = False) -> None:
        self.side, self.relative, self.loose = list(side), relative, loose
        self.at = self.depth = self.operations = 0
        self.shares = False

    def value(self) -> Fraction:
        found = self.sum()
        if self.at < len(self.side):
            raise _Unreadable
        return found

    def peek(self) -> tuple[str, str]:
        return self.side[self.at][:2] if self.at < len(self.side) else ("end", "")

    def operation(self) -> None:
        self.at += 1
        self.operations += 1

    def sum(self) -> Fraction:
        total, percent = self.product()
        while self.peek() in (("op", "+"), ("op", "-")):
            sign = 1 if self.peek()[1] == "+" else -1
            self.operation()
            term, share = self.product()
            of_total = share and not percent
            self.shares |= of_total
            total = _bounded(total + sign * term * (total if of_total and self.relative else 1))
        return total

    def product(self) -> tuple[Fraction, bool]:
        """The product's value, and whether it is a percentage and nothing else."""
        total, percent = self.factors("*/" if self.loose else "*/÷")
        while self.loose and self.peek() == ("op", "÷"):
            self.operation()
            divisor, _ = self.factors("*/")
            if divisor == 0:
                raise _Unreadable
            total, percent = _bounded(total / divisor), False
        return total, percent

    def factors(self, signs: str) -> tuple[Fraction, bool]:
        start, divided = self.at, False
        total = self.signed()
        percent = self.side[self.at - 1].text == "%" and self.at - start == 2
        while True:
            kind, text = self.peek()
            if kind == "op" and text in signs:
                self.operation()
                factor = self.signed()
                if text != "*" and factor == 0:
                    raise _Unreadable
                total = _bounded(total * factor if text == "*" else total / factor)
                divided |= text != "*"
            elif kind in ("open", "frac", "sqrt") and not divided:  # 2(3 + 4); 1/2(3) has two readings
                self.operations += 1
                total = _bounded(total * self.signed())
            else:
                return total, percent
            percent = False

    def signed(self) -> Fraction:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Unreadable
        kind, text = self.peek()
        if kind == "op" and text in "+-":
            self.at += 1
            found = -self.signed() if text == "-" else self.signed()
        else:
            found = self.power()
        self.depth -= 1
        return found

    def power(self) -> Fraction:
        base = self.primary()
        while self.peek()[0] == "post":
            if self.peek()[1] == "%":
                base /= 100
            elif base.denominator != 1 or not 0 <= base <= 200:
                raise _Unreadable
            else:
                base = Fraction(math.factorial(int(base)))
            self.operation()
        if self.peek() != ("op", "^"):
            return base
        self.operation()
        exponent = self.signed()
        size = max(base.numerator.bit_length(), base.denominator.bit_length())
        if exponent.denominator != 1 or size * abs(exponent) > MAX_BITS or (base == 0 and exponent <= 0):
            raise _Unreadable
        return base ** int(exponent)

    def primary(self) -> Fraction:
        kind, text = self.peek()
        self.at += 1
        if kind == "num":
            if is_mixed(self.side, self.at - 1):
                part = Fraction(int(self.side[self.at].text), int(self.side[self.at + 2].text))
                self.at += 3
                return _number(text) + part
            return _number(text)
        if kind == "open":
            found = self.sum()
            if self.peek()[0] != "close":
                raise _Unreadable
            self.at += 1
            return found
        if kind == "frac":
            self.operations += 1
            over, under = self.argument(), self.argument()
            if under == 0:
                raise _Unreadable
            return over / under
        if kind == "sqrt":
            self.operations += 1
            return _root(self.argument())
        raise _Unreadable

    def argument(self) -> Fraction:
        r"""A group in braces, or as LaTeX reads `\frac12`: one digit each. Nested without end, it counts as depth."""
        kind, text = self.peek()
        if kind == "num" and text.isdecimal() and len(text) > 1 and self.side[self.at - 1].kind == "frac":
            token = self.side[self.at]
            self.side[self.at : self.at + 1] = [token._replace(text=text[0]), token._replace(text=text[1:])]
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Unreadable
        found = self.primary()
        self.depth -= 1
        return found


def _root(value: Fraction) -> Fraction:
    if value < 0:
        raise _Unreadable
    over, under = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if over * over != value.numerator or under * under != value.denominator:
        raise _Unreadable  # irrational: no exact value to compare
    return Fraction(over, under)


def _value(side: Side) -> _Value | None:
    """The side's readings (its units already taken out), or None where it is no number."""
    if not side:
        return None
    parser = _Parser(side)
    try:
        plain = parser.value()
        exact = [plain]
        if parser.shares:
            exact.append(_Parser(side, relative=True).value())
        if {"/", "÷"} <= {token.text for token in side}:
            exact.append(_Parser(side, loose=True).value())
    except _Unreadable:
        return None
    kinds = [token.kind for token in side]
    if kinds.count("num") == kinds.count("post") and all(t.kind == "num" or t.text in "%+-" for t in side):
        exact.append(plain * 100)  # 100% - 20% = 80
    unsigned = side[1:] if side[0].text in ("+", "-") else side
    number = unsigned[0].text if unsigned[0].kind == "num" else ""
    percent = len(unsigned) == 2 and unsigned[1].text == "%"
    literal = None
    if number and "/" not in number and (len(unsigned) == 1 or percent):
        places = len(number.rstrip("…").partition(".")[2])
        unit = Fraction(1, 10**places)
        readings = ((plain, unit / 100), (plain * 100, unit)) if percent else ((plain, unit),)
        literal = _Literal(readings, places, number.endswith("…"))
    leading = _value(side[:1]) if number and len(side) > 1 and unsigned is side else None
    written = kinds == ["num", "op", "num"] and side[1].text == "/" and all(t.text.isdecimal() for t in side[::2])
    fraction = written or (kinds[0] == "frac" and kinds.count("num") == 2) or (len(side) == 1 and "/" in number)
    return _Value(tuple(exact), literal, leading, parser.operations > 0, percent or (fraction and abs(plain) < 1))


# ---------------------------------------------------------------- the decision


def _check(chain: Chain, text: str, offset: int) -> Iterator[Step]:
    """The steps of one chain, decided. offset: of the chain's positions in TEXT."""
    sides = [[token for token in side if token.kind != "unit"] for side in chain.sides]
    values = [_value(side) for side in sides]
    if not any(value and value.operation for value in values):
        return
    last = chain.sides[-1] or [chain.relations[-1]]
    first = (chain.sides[0] or [chain.relations[0]])[0].start
    span = text[max(0, offset + first - 2) : offset + last[-1].end + 8]
    units = {token.text for side in chain.sides for token in side if token.kind == "unit"}
    money = any(sign in span for sign in ("$", "€", "£", "dollar", "euro"))
    if _mixes_units(chain) or (money and units & _CENTS):
        return
    for at, relation in enumerate(chain.relations):
        left, right = values[at], values[at + 1]
        if left is None:
            continue
        rough, goes_on = relation.text == "~", at + 2 < len(sides)
        start, end = offset + sides[at][0].start, offset + sides[at + 1][-1].end if sides[at + 1] else 0
        if right is None:
            divided = _division(sides[at], sides[at + 1])
            if divided is None:
                continue
            divisor, quotient, rest = divided
            holds = left.exact[0] == quotient + rest / divisor and 0 <= rest < divisor
            shown = f"{quotient} remainder {rest}"
        else:
            hundred = len(left.exact) > 1 or any(token.text == "100" for token in sides[at])
            if right.literal and len(right.literal.readings) > 1 and not hundred:
                # Only what was multiplied by 100, or percentages before, may say 25 with 25%.
                plain = right.literal._replace(readings=right.literal.readings[:1])
                right = right._replace(exact=right.exact[:1], literal=plain)
            holds = (
                _same(left, right, rough, money)
                or _same(right, left, rough, False)
                or (goes_on and right.leading is not None and _same(left, right.leading, rough, money))
            )
            quantity = left.literal is not None and len(sides[at]) < len(chain.sides[at])
            if not holds and (
                _is_unsaid_share(left, right)
                or _is_unsaid_share(right, left)
                or (at == 0 and left.share and sides[0][-1].text == "%" and right.literal is None)
                or (quantity and (at == 0 or not right.operation))
            ):
                continue  # 20% = 8; at 60 mph = 3 * 60; 3 weeks = 21 days
            shown = str(right.exact[0])
        written = " ".join(text[start : min(end, start + MAX_SHOWN)].split())
        yield Step(written, start, holds, str(left.exact[0]), shown)


def _is_unsaid_share(share: _Value, other: _Value) -> bool:
    """`20% = 8`, `1/4 = 25`: a share of something that is not written, so that nothing can be decided."""
    whole = other.literal is not None and not other.operation and other.exact[0].denominator == 1
    return share.share and whole


def _same(value: _Value, other: _Value, rough: bool, money: bool) -> bool:
    """Whether a reading of VALUE is one of OTHER, or OTHER is one written number that VALUE rounds to."""
    literal = other.literal
    if set(value.exact) & set(other.exact) and not (literal and literal.truncated):
        return True
    if literal is None:
        return False
    for exact in value.exact:
        for written, unit in literal.readings:
            if literal.truncated:
                if 0 <= abs(exact) - abs(written) < unit and exact * written >= 0:
                    return True
                continue
            cents = money and literal.places == 2
            if not (rough or (literal.places > 0 and (cents or _is_endless(exact)))):
                continue
            while rough and literal.places == 0 and written and written % (unit * 10) == 0:
                unit *= 10  # after ≈ the zeros that end 330 000 are not digits
            if abs(exact - written) * 2 <= unit:
                return True
    return False


def _is_endless(value: Fraction) -> bool:
    """Whether the value has no finite decimal."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest != 1


def _division(left: Side, right: Side) -> tuple[Fraction, Fraction, Fraction] | None:
    """(divisor, quotient, rest) of `17 / 5 = 3 remainder 2`, or None."""
    if [t.kind for t in left] != ["num", "op", "num"] or left[1].text not in "/÷":
        return None
    if [t.kind for t in right] != ["num", "rem", "num"]:
        return None
    try:
        divisor, quotient, rest = (_number(token.text) for token in (left[2], right[0], right[2]))
    except _Unreadable:
        return None
    return divisor, quotient, rest


def _mixes_units(chain: Chain) -> bool:
    """A sum in two different units of one measure."""
    tokens = [token for side in chain.sides for token in side]
    if not any(token.kind == "op" and token.text in "+-" for token in tokens):
        return False
    seen: dict[str, str] = {}
    for token in tokens:
        measure = MEASURES.get(token.text) if token.kind == "unit" else None
        if measure and seen.setdefault(measure, singular(token.text)) != singular(token.text):
            return True
    return False
