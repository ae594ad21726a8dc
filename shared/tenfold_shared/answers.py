r"""Final answers: find them in a response, name them for votes, grade them against a gold.

Sits on `pool.py`; every tool that grades calls `grade`. Three steps, each usable alone:
`extract` (cut the thinking, take the box), `key` (one canonical string per answer), `grade`
(exact comparison where it is certain, math-verify in a killable worker process otherwise).

Decisions follow math-verify 0.9 on the extracted answer, `verify(gold, answer)` in that order. The
exact paths (numbers with units, words, sums of roots, powers of pi and letters, lists of them)
answer only what they are certain math-verify decides alike; the rest goes to the worker.
Decisions differ from it on purpose in four places:
- an answer counts only inside a complete `\boxed{}` (or `\fbox{}`) after the last closing think
  tag; an unterminated last box is no answer (`require_box=False` admits phrases and numbers);
- a gold made of words ("yes", `\text{Evelyn}`) is compared as text, never as a product of symbols;
- integers of any length are compared exactly, and a full stop that ends the answer is dropped;
- where math-verify could not read the gold or the answer, or the deadline passed, the grade is
  "ungradable" (not correct, and counted apart), where math-verify says False.

The tolerance is math-verify's: a decimal equals a number that is the same after both are rounded to
6 decimals, so 0.333333 answers 1/3 and 0.33 does not. A percentage equals its value and, when both
are integers, its number: 10\% is answered by 0.1 and by 10. Units after a number are ignored.
"""

import itertools
import math
import os
import re
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from tenfold_shared.pool import DeadlineExceeded, Pool, WorkerDied, WorkerError

Outcome = Literal["correct", "wrong", "ungradable"]
Gold = str | int | float | list[str] | None
Verdict = tuple[Outcome, str]

MAX_ANSWER = 10_000  # characters; a longer answer is compared as text only
_MEMO_SIZE = 1 << 14
_WORKER_BYTES = 4 << 30  # address space of a grading worker: a tower of powers meets this or the clock


class Grade(msgspec.Struct, frozen=True):
    """`grade`; `reason`, one line for people; `extracted`, the final answer as written, or None."""

    grade: Outcome
    reason: str
    extracted: str | None = None


# --- extraction -----------------------------------------------------------------------------------
# Every scan below is linear: str.rfind, or a regular expression that cannot backtrack over the text.

_THINK_ENDS = (
    "</think>",
    "</thinking>",
    "</thought>",
    "</thoughts>",
    "</reasoning>",
    "</seed:think>",
    "[/THINK]",
    "<|end_of_thought|>",
    "◁/think▷",
)
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_BRACE = re.compile(r"\\[\s\S]|[{}]")
_BARE = re.compile(r"(?:[-+−]?\.?[0-9]|[-+−]?\\[A-Za-z]|[A-Za-z](?![^\s$.,;:]))[^\s$]*")
_FINAL_PHRASE = re.compile(r"(?i)final answer[^\n.:=]{0,60}?(?:\bis\b|[:=])[\s:*]*")
_PHRASE = re.compile(r"(?i)\banswer(?:\*\*)?(?:[^\n.:=]{0,60}?\bis\b|\s?[:=])[\s:*]*")
_ANY_NUMBER = re.compile(r"[-−]?(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)(?:/[0-9]+)?(?:\\?%)?")
_DIGIT_COMMA = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")


def after_thinking(text: str) -> str:
    """The text after the last closing think tag (`</think>` and the common variants)."""
    cut = max((at + len(tag) for tag in _THINK_ENDS if (at := text.rfind(tag)) >= 0), default=0)
    return text[cut:]


def _box_at(text: str, match: re.Match[str]) -> tuple[str, int] | None:
    """(content, end) of the box whose command `match` found; end -1 if it never closes.

    None for a mention without content, as in "put it in \\boxed".
    """
    start = match.end()
    if text[start : start + 1] != "{":
        bare = _BARE.match(text, start)  # \boxed 7
        return (bare.group().rstrip(".,;:!*"), bare.end()) if bare else None
    depth = 0
    for brace in _BRACE.finditer(text, start):
        if brace.group() in "{}":
            depth += 1 if brace.group() == "{" else -1
            if depth == 0:
                return text[start + 1 : brace.start()].strip(), brace.end()
    return "", -1


def _last_box(text: str) -> str | None:
    """Content of the box that starts last: "" if it is empty or never closes; None without a box."""
    at = len(text)
    while (at := max(text.rfind("\\boxed", 0, at), text.rfind("\\fbox", 0, at))) >= 0:
        match = _BOX.match(text, at)
        if match and (box := _box_at(text, match)):
            return box[0]
    return None


def boxes(text: str) -> list[str]:
    """Contents of all outermost boxes after the thinking, in order, empty ones left out.

    Fails closed: if any of them never closes, the list is empty.
    """
    text, at, found = after_thinking(text), 0, []
    while match := _BOX.search(text, at):
        content, at = _box_at(text, match) or ("", match.end())
        if at < 0:
            return []
        inner = _last_box(content)
        found.append(content if inner is None else inner)
    return [content for content in found if content]


def extract(text: str, box: Literal["last", "first", "all"] = "last", require_box: bool = True) -> str | None:
    r"""The final answer of a response, or None if it has none.

    Looks after the last closing think tag for `\boxed{...}`, `\fbox{...}` or `\boxed 7`. `box` takes
    the "last", the "first", or "all" joined by ", " (`boxes` gives the list). An unterminated or
    empty last box is no answer, even after a complete one. Only where the text has no box at all,
    `require_box=False` takes, in order, what follows the last "final answer is" or "answer:", GSM8K's
    `#### n`, the last number.
    """
    text = after_thinking(text)
    last = _last_box(text)
    if last is not None:
        if box == "last":
            return last or None
        found = boxes(text)
        return ", ".join(found if box == "all" else found[:1]) or None
    return None if require_box else _unboxed(text)


def _unboxed(text: str) -> str | None:
    for phrase in (_FINAL_PHRASE, _PHRASE):
        if matches := deque(phrase.finditer(text), maxlen=1):
            rest = text[matches[0].end() : matches[0].end() + MAX_ANSWER].split("\n", 1)[0].strip(" *")
            for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
                if rest.startswith(opening) and closing in rest[len(opening) :]:
                    rest = rest[len(opening) :].split(closing, 1)[0]
                    break
            else:
                rest = re.split(r"[.!;](?:\s|$)", rest, maxsplit=1)[0]
            if rest := rest.strip(" *.,;:!"):
                return rest
    _, marker, tail = text.rpartition("####")
    if marker and (line := tail[:MAX_ANSWER].strip().split("\n", 1)[0].strip()):
        return _DIGIT_COMMA.sub("", line)
    if matches := deque(_ANY_NUMBER.finditer(text), maxlen=1):
        return _DIGIT_COMMA.sub("", matches[0].group()).rstrip(",")
    return None


# --- canonical forms ------------------------------------------------------------------------------

_PLAIN_UNITS = "cm|mm|km|m|kg|g|ft|feet|inches|inch|miles|mph|hours|minutes|seconds|days|years|degrees|units|meters"
_UNIT = re.compile(
    r"(?<=[0-9}])\s*(?:\\(?:text|mathrm|mbox)\s*\{(?P<words>[A-Za-z./ ]*)\}(?:\^[0-9])?"
    rf"|(?:{_PLAIN_UNITS})|\^\{{?\\circ\}}?)$"
)
_NOT_UNIT = re.compile(r"\b(?:and|or)\b|perc|pct|inf|sqrt")  # words math-verify reads before it drops units
_INTEGER = r"[0-9]+|[1-9][0-9]{0,2}(?:,[0-9]{3})+"
_NUMERAL = re.compile(
    rf"(?P<sign>[-+−]?)(?:(?P<integer>{_INTEGER})|(?P<decimal>[0-9]*\.[0-9]+)"
    r"|(?P<over>[0-9]+)/(?P<under>[0-9]+)"
    r"|\\[dtc]?frac(?:\{(?P<over2>-?[0-9]+)\}\{(?P<under2>[0-9]+)\}|(?P<over3>[0-9])(?P<under3>[0-9])))"
    r"(?P<percent>\s*\\?%)?"
)
_RUN = re.compile(r"\s{2,}")  # before _SPACE, which would try each start of a long run
_SPACE = re.compile(r"(?<=[-+=(){}\[\]^_*/<>])\s+|(?<!\\)\s+(?=[-+=(){}\[\]^_*/<>\\])")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{([^{}\\]*)\}")
_WORDS = re.compile(r"[^\W\d_]+(?:[ '’-]+[^\W\d_]+)*")
_MATH_WORDS = frozenset({"infinity", "infty", "sqrt", "percent", "percentage", "none", "empty"})
_SHORT_WORDS = frozenset({"yes", "no", "true", "false", "even", "odd", "red"})


class _Numeral(msgspec.Struct, frozen=True):
    """A written number: its exact value, as written (10% has value 10), and how it was written."""

    value: Fraction
    decimal: bool
    percent: bool
    digits: int


def _light(answer: str) -> str:
    """Drop what math-verify drops first: dollars, \\left and \\right, thin spaces, fraction styles."""
    answer = _RUN.sub(" ", answer.strip())
    if any(char in answer for char in "\\${"):
        answer = answer.replace("\\$", "").replace("$", "").replace("\\!", "").replace("{,}", ",")
        answer = re.sub(r"\\(?:left|right)(?=[(\[)\]])", "", answer)
        answer = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", answer)
    return _SPACE.sub("", answer).strip()


def _numeral(answer: str) -> _Numeral | None:
    """The number a lightly normalised answer is, or None. Never expands an exponent or a long numeral."""
    unit = _UNIT.search(answer[-60:])
    if unit and not _NOT_UNIT.search(unit["words"] or "") and not ("circ" in unit.group() and "," in answer):
        answer = answer[: len(answer) - len(unit.group())]
    match = _NUMERAL.fullmatch(answer) if len(answer) <= 400 else None
    if not match:
        return None
    found = match.groupdict()
    over = found["over"] or found["over2"] or found["over3"]
    if over:
        under = int(found["under"] or found["under2"] or found["under3"])
        if under == 0 or found["percent"]:
            return None
        value = Fraction(int(over), under)
    else:
        value = Fraction((found["decimal"] or found["integer"]).replace(",", ""))
    return _Numeral(
        -value if found["sign"] in ("-", "−") and found["sign"] else value,
        bool(found["decimal"]),
        bool(found["percent"]),
        sum(map(str.isdigit, answer)),
    )


def _integer_digits(answer: str) -> str | None:
    """Sign and digits, without leading zeros, of an integer of any length; `int` is never asked."""
    match = re.fullmatch(r"([-+−]?)0*([0-9]+)", answer)
    return match and ("-" if match[1] in ("-", "−") else "") + match[2]


def _words(answer: str) -> str | None:
    r"""Case-folded words of a text answer (`\text{Yes}.` is "yes"), or None if it is not plain words."""
    plain = " ".join(_TEXT.sub(r"\1", answer).split()).strip(" .()").casefold()
    return plain if _WORDS.fullmatch(plain) else None


def _is_text(words: str) -> bool:
    """Whether words mean themselves; two or three letters may be a product of variables."""
    return words in _SHORT_WORDS or (
        any(len(word) > 3 for word in words.split()) and _MATH_WORDS.isdisjoint(words.split())
    )


def key(answer: str) -> str:
    r"""Canonical form of an answer, for votes (maj@K, Cons@K): equal strings are one vote.

    Numbers give their exact value: `042`, `42.0`, `\frac{84}{2}`, `$42$`, `42 \text{ cm}` are all
    "42"; 0.5 is "1/2"; 10\% is "1/10". Words are case-folded. Anything else gives its LaTeX with
    spacing, styles and a leading `x=` removed. Deterministic, linear, never calls sympy.
    """
    text = _light(answer.translate(_ASCII_DIGITS)).rstrip(".")
    text = re.sub(r"^[A-Za-z]\s*=(?!=)", "", text).strip()
    number = _numeral(text)
    if number:
        return str(number.value / 100 if number.percent else number.value)
    words = _words(text)
    if words and len(words) > 1:
        return words
    text = re.sub(r"\\[,;: ]|\\q?quad(?![A-Za-z])", "", _TEXT.sub(r"\1", text))
    return _integer_digits(text) or "".join(text.split())


_ASCII_DIGITS = {0x2212: "-"} | {start + d: str(d) for start in (0xFF10, 0x0660, 0x06F0) for d in range(10)}


# --- exact closed forms ---------------------------------------------------------------------------
# Sums of terms  c * sqrt(r) * pi^k * x^i y^j ...  with c rational and r square-free: square roots of
# distinct square-free integers are linearly independent over the rationals, and pi and the letters are
# free, so two such sums are equal exactly when their terms are. Anything that a LaTeX reader could
# take in two ways (1/2x, 2\frac{1}{2}, x(y+1), 2^10, adjacent letters) is refused, never guessed.

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


def _form(answer: str) -> _Form | None:
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


def _compare_forms(gold: _Form, answer: _Form) -> Verdict | None:
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


def _compare_lists(gold: str, answer: str) -> Verdict | None:
    """Verdict on lists of closed forms in the same brackets, or on a list and a single closed form."""
    golden, listed = _list(gold), _list(answer)
    items = [golden[1] if golden else [gold], listed[1] if listed else [answer]]
    if max(map(len, items)) > _MAX_TERMS:
        return None  # every pair would be looked at; the worker has a deadline
    forms, others = ([form for item in side if (form := _form(item)) is not None] for side in items)
    if [len(forms), len(others)] != [len(side) for side in items]:
        return None  # an element is no closed form
    if not (golden and listed):
        many = forms if golden else others
        apart = all(_compare_forms(*two) for two in itertools.combinations(many, 2))
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
        if form != other and not _compare_forms(form, other):
            return None  # two elements within the tolerance of each other
    return "wrong", "different elements"


# --- comparison -----------------------------------------------------------------------------------


def _fast(gold: str, answer: str) -> Verdict | None:
    """Verdict where the exact paths are certain to decide as math-verify (or as documented) would."""
    if gold == answer:
        return "correct", "identical"
    gold, answer = _light(gold), _light(answer)
    if gold and gold == answer:
        return "correct", "identical after normalisation"
    golden, number = _numeral(gold), _numeral(answer)
    if golden and number:
        return _compare_numerals(golden, number)
    if (digits := _integer_digits(gold)) and (others := _integer_digits(answer)):  # too long for the above
        return ("correct", "equal integers") if digits == others else ("wrong", "different integers")
    gold_words, words = _words(gold), _words(answer)
    if gold_words and (_is_text(gold_words) or len(gold_words) == 1) and gold_words == words:
        return "correct", "equal text"
    if gold_words and _is_text(gold_words):
        return "wrong", "different text"
    if golden and words and _is_text(words):
        return "wrong", "text where the gold is a number"
    if verdict := _compare_closed(gold, golden, answer, number):
        return verdict
    if len(answer) > MAX_ANSWER:
        return "ungradable", f"answer of {len(answer)} characters, at most {MAX_ANSWER} are read as mathematics"
    return None


def _compare_closed(gold: str, golden: _Numeral | None, answer: str, number: _Numeral | None) -> Verdict | None:
    """Verdict on closed forms, lists of them, or a closed form and a number."""
    # `x = 5` answers 5, and 5 answers `x = 5`; two equations are math-verify's to compare.
    if ("=" in gold) != ("=" in answer):
        gold, answer = (re.sub(r"^[a-z]\s*=", "", text) for text in (gold, answer))
        golden, number = golden or _numeral(gold), number or _numeral(answer)
    if (golden and golden.percent) or (number and number.percent):
        return None
    form, other = _form(gold), _form(answer)
    if form is not None and other is not None:
        verdict = _compare_forms(form, other)
        # math-verify compares a lone letter by its string: x^{1} is for it to judge.
        return None if verdict and verdict[0] == "correct" and min(len(gold), len(answer)) == 1 else verdict
    for numeral, closed in ((golden, other), (number, form)):
        if numeral and closed is not None:
            return _compare_forms({(1, ()): numeral.value} if numeral.value else {}, closed)
    return _compare_lists(gold, answer)


def _compare_numerals(gold: _Numeral, answer: _Numeral) -> Verdict | None:
    same = gold.value == answer.value
    if gold.percent or answer.percent:
        whole = gold.value.denominator == answer.value.denominator == 1
        integers = whole and not (gold.decimal or answer.decimal)
        certain = same and (gold.percent == answer.percent or integers)
        if certain:
            return "correct", "equal percentages"
        # Each side may mean its number or a hundredth of it; wrong when no reading comes close.
        readings = ([n.value, n.value / 100] if n.percent else [n.value] for n in (gold, answer))
        near = any(abs(a - b) < Fraction(1, 1000) for a, b in itertools.product(*readings))
        return None if near else ("wrong", "different percentages")
    if not (gold.decimal or answer.decimal):
        return ("correct", "equal numbers") if same else ("wrong", "different numbers")
    if max(gold.digits, answer.digits) > 15:
        return None  # beyond double precision math-verify's rounding decides
    if same:
        return "correct", "equal numbers"
    if abs(gold.value - answer.value) > Fraction(2, 10**6):
        return "wrong", "different numbers (tolerance: rounded to 6 decimals)"
    return None


def _warm_up() -> None:
    """Worker set-up: import math-verify and pay its first-call costs (grammar tables, caches)."""
    import logging

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that we turned its timer off
    _symbolic(["\\frac{1}{2}", "x^2+1"])


def _symbolic(pair: list[str]) -> Verdict:
    """Runs in a pool worker: math-verify on (gold, answer), its SIGALRM timers off."""
    from math_verify import parse, verify
    from sympy import Set, Tuple

    gold, answer = (parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in pair)
    if verify(gold, answer, timeout_seconds=None):
        return "correct", "equal by math-verify"
    if all(isinstance(item, str) for item in gold):
        return "ungradable", "math-verify cannot read the gold"
    if all(isinstance(item, str) for item in answer):
        return "ungradable", "math-verify cannot read the answer"
    if any(isinstance(item, (Set, Tuple)) for item in (*gold, *answer)) and (
        verify(gold, answer, strict=False, allow_set_relation_comp=True, timeout_seconds=None)
        or verify(answer, gold, strict=False, allow_set_relation_comp=True, timeout_seconds=None)
    ):
        return "wrong", "representation: the same values in another form (interval, inequality, set, tuple)"
    return "wrong", "different by math-verify"


class _Memo:
    """Least-recently-used verdicts by (gold, answer, deadline): large-K files repeat answers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str, float], Verdict] = OrderedDict()

    def get(self, pair: tuple[str, str, float]) -> Verdict | None:
        with self._lock:
            if pair in self._kept:
                self._kept.move_to_end(pair)
            return self._kept.get(pair)

    def put(self, pair: tuple[str, str, float], verdict: Verdict) -> None:
        with self._lock:
            self._kept[pair] = verdict
            if len(self._kept) > _MEMO_SIZE:
                self._kept.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()


_memo = _Memo()


def forget() -> None:
    """Empty the memo of verdicts (benchmarks; nothing else needs it)."""
    _memo.clear()


_pools: dict[int, Pool] = {}
_pools_lock = threading.Lock()


def _pool(workers: int) -> Pool:
    """The grading pool of this process with so many workers, made when first needed."""
    with _pools_lock:
        pool = _pools.get(workers)
        if pool is None or pool.pid != os.getpid():
            name = "tenfold_shared.answers:"
            pool = Pool(name + "_symbolic", workers, memory_bytes=_WORKER_BYTES, setup=name + "_warm_up")
            _pools[workers] = pool
        return pool


class _NeedsWorker(Exception):
    """The exact paths and the memo do not decide this pair."""


def _compare(gold: str, answer: str, deadline: float, workers: int) -> Verdict:
    """Verdict on one pair; `workers` 0 means: without a worker, else raise _NeedsWorker."""
    known = _fast(gold, answer) or _memo.get((gold, answer, deadline))
    if known:
        return known
    if not workers:
        raise _NeedsWorker
    verdict: Verdict
    try:
        outcome, reason = _pool(workers).call([gold, answer], deadline)
        golden, number = _numeral(_light(gold)), _numeral(_light(answer))
        if outcome == "correct" and golden and number and golden.decimal + number.decimal:
            reason = "equal within the tolerance (rounded to 6 decimals)"
        verdict = outcome, reason
    except DeadlineExceeded:
        verdict = "ungradable", f"timeout after {deadline:.1f} s"
    except WorkerError as error:
        verdict = "ungradable", f"math-verify failed: {error}"[:200]
    except WorkerDied as error:
        verdict = "ungradable", f"math-verify crashed: {error}"
    _memo.put((gold, answer, deadline), verdict)
    return verdict


# --- grading --------------------------------------------------------------------------------------


def _golds(gold: Gold) -> list[str] | Grade:
    """The gold answers in bare form, or the ungradable Grade that says what is wrong with them."""
    listed = gold if isinstance(gold, list) else [gold]
    bare = []
    for item in listed:
        text = "" if item is None else str(item)
        if "####" in text:  # GSM8K: the worked solution, then "#### 1,080"
            text = _DIGIT_COMMA.sub("", text.rpartition("####")[2])
        if "box" in text and (boxed := _last_box(text)) is not None:
            text = boxed
        text = text.strip()
        for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
            if len(text) > 2 * len(opening) and text.startswith(opening) and text.endswith(closing):
                text = text[len(opening) : -len(closing)].strip()
        if not text.strip("$\\{}()[]|.,;:?!*#-+=/<>_^'\"` \t\r\n\0"):
            return Grade("ungradable", "gold is empty" if not text else f"gold {text[:40]!r} holds no answer")
        depth, lowest = 0, 0
        for brace in _BRACE.finditer(text):
            depth += {"{": 1, "}": -1}.get(brace.group(), 0)
            lowest = min(lowest, depth)
        if depth or lowest:
            return Grade("ungradable", f"gold {text[:40]!r} has unbalanced braces")
        bare.append(text)
    return bare or Grade("ungradable", "gold is empty")


def _parts(answer: str) -> list[str]:
    r"""The answers in a list such as `1, 2 \text{ and } 3` or `\{1, 2\}`, each once, split outside brackets."""
    answer = answer.strip().strip("$").strip()
    answer = re.sub(r"\\(?:left|right)(?=\\?[{}()\[\]])", "", answer)
    if answer.startswith("\\{") and answer.endswith("\\}"):
        answer = answer[2:-2]
    answer = _DIGIT_COMMA.sub("", answer.replace("{,}", ""))
    answer = re.sub(r"\\text\s*\{\s*(?:and|or)\s*\}|\b(?:and|or)\b", ",", answer)
    parts, depth, start = [], 0, 0
    for at, char in enumerate(answer):
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char in ",;" and depth <= 0 and answer[at - 1 : at] != "\\":
            parts.append(answer[start:at])
            start = at + 1
    parts.append(answer[start:])
    return list({key(part): part.strip() for part in parts if part.strip()}.values())


def _match_all(golds: list[str], parts: list[str], deadline: float, workers: int) -> Verdict:
    """Correct when golds and parts pair off exactly, nothing missing and nothing extra."""
    if len(golds) != len(parts):
        return "wrong", f"{len(parts)} answers where {len(golds)} are required"
    left = list(parts)
    for gold in golds:
        verdicts = [_compare(gold, part, deadline, workers) for part in left]
        hits = [at for at, (outcome, _) in enumerate(verdicts) if outcome == "correct"]
        if not hits:
            doubts = [v for v in verdicts if v[0] == "ungradable"]
            return doubts[0] if doubts else ("wrong", f"{gold[:40]} is missing")
        del left[hits[0]]
    return "correct", f"all {len(golds)} answers"


def _grade(gold: Gold, text: str, deadline: float, match: str, box: Any, require_box: bool, workers: int) -> Grade:
    if match not in ("any", "all") or box not in ("last", "first", "all"):
        raise ValueError(f"match={match!r}, box={box!r}: expected any|all and last|first|all")
    golds = _golds(gold)
    extracted = extract(text, box, require_box)
    if isinstance(golds, Grade):
        return Grade("ungradable", golds.reason, extracted)
    if extracted is None:
        return Grade("wrong", "no final answer" + (" in a complete box" if require_box else ""), None)
    if match == "all":
        golds = list({key(item): item for item in golds}.values())
        verdict = _match_all(golds, _parts(extracted), deadline, workers)
        listed = boxes(text)
        if verdict[0] != "correct" and box == "last" and all(len(_parts(item)) == 1 for item in listed):
            # One answer a box: "\boxed{1} and \boxed{2}".
            each = list({key(item): item for item in listed}.values())
            if len(each) > 1:
                verdict = _match_all(golds, each, deadline, workers)
                extracted = ", ".join(each)
    else:
        verdicts: list[Verdict] = []
        for item in golds:
            # A full stop that ends the box is punctuation; math-verify cannot read "5.".
            final = extracted.rstrip()
            plain = final[:-1] if final.endswith(".") and not final.endswith("..") else extracted
            verdicts.append(_compare(item, plain, deadline, workers))
            if verdicts[-1][0] == "correct":
                break
        # Any right one wins; else a doubt outweighs a no.
        order = ("correct", "ungradable", "wrong")
        verdict = min(verdicts, key=lambda v: order.index(v[0]))
    return Grade(*verdict, extracted)


def grade(
    gold: Gold,
    text: str,
    deadline: float = 2.0,
    *,
    match: str = "any",
    box: str = "last",
    require_box: bool = True,
) -> Grade:
    r"""Grade a response against its gold answer; any thread may call.

    `gold`: an answer, or a list of them: `match` "any" takes any as right; "all" wants every one of
    them in the comma-separated content of the box, or one in each of several boxes, and nothing
    more. A gold may be wrapped in `\boxed{}` or `$...$`, or be a GSM8K solution ending `#### n`.
    `deadline`: seconds of wall clock for each symbolic comparison; past it the worker is killed and
    the grade is "ungradable" with reason "timeout after 2.0 s". `box`, `require_box`: see `extract`.
    A response without a final answer is "wrong"; an empty or unreadable gold, a parse failure and a
    timeout are "ungradable". Raises ValueError for an unknown `match` or `box`.
    """
    return _grade(gold, text, deadline, match, box, require_box, 2)


class Comparison(NamedTuple):
    """A final answer to be graded."""

    gold: Gold
    text: str
    match: str = "any"


Key = TypeVar("Key")
Settled = TypeVar("Settled")


def grade_in_turn(
    items: Iterable[tuple[Key, Settled | Comparison]], workers: int = 2, deadline: float = 2.0, **how: Any
) -> Iterator[tuple[Key, Settled | Grade]]:
    """(key, a comparison, or what is settled without one) -> (key, its grade, or what was settled), in input order.

    how: `box` and `require_box` of `grade_many`, which grades the comparisons.
    """
    waiting: deque[tuple[Key, Settled | None]] = deque()  # None: its grade is to come

    def comparisons() -> Iterator[Comparison]:
        for key, item in items:
            waiting.append((key, None if isinstance(item, Comparison) else item))
            if isinstance(item, Comparison):
                yield item

    def ready() -> Iterator[tuple[Key, Settled | Grade]]:
        while waiting and (known := waiting[0][1]) is not None:
            yield waiting.popleft()[0], known

    for graded in grade_many(comparisons(), workers, deadline, **how):
        yield from ready()
        yield waiting.popleft()[0], graded
    yield from ready()


def grade_many(
    items: Iterable[tuple[Gold, str, str]],
    workers: int = 2,
    deadline: float = 2.0,
    *,
    box: str = "last",
    require_box: bool = True,
) -> Iterator[Grade]:
    """Grades of (gold, response, match) in input order, `workers` symbolic comparisons at a time.

    Reads at most a few hundred items ahead of what it yields. Same grades as `grade`.
    """
    window: deque[Grade | Future[Grade]] = deque()
    with ThreadPoolExecutor(workers) as threads:
        for gold, text, match in items:
            try:
                window.append(_grade(gold, text, deadline, match, box, require_box, 0))
            except _NeedsWorker:
                window.append(threads.submit(_grade, gold, text, deadline, match, box, require_box, workers))
            while window and (len(window) > 256 or isinstance(window[0], Grade) or window[0].done()):
                ready = window.popleft()
                yield ready if isinstance(ready, Grade) else ready.result()
        for ready in window:
            yield ready if isinstance(ready, Grade) else ready.result()
