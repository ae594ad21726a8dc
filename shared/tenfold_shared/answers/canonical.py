"""Canonical forms of an answer: its number, its words, and `key`, the one string it has in a vote."""

import re
from fractions import Fraction

import msgspec

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


class Numeral(msgspec.Struct, frozen=True):
    """A written number: its exact value, as written (10% has value 10), and how it was written."""

    value: Fraction
    decimal: bool
    percent: bool
    digits: int


def light(answer: str) -> str:
    """Drop what math-verify drops first: dollars, \\left and \\right, thin spaces, fraction styles."""
    answer = _RUN.sub(" ", answer.strip())
    if any(char in answer for char in "\\${"):
        answer = answer.replace("\\$", "").replace("$", "").replace("\\!", "").replace("{,}", ",")
        answer = re.sub(r"\\(?:left|right)(?=[(\[)\]])", "", answer)
        answer = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", answer)
    return _SPACE.sub("", answer).strip()


def number_of(answer: str) -> Numeral | None:
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
    return Numeral(
        -value if found["sign"] in ("-", "−") and found["sign"] else value,
        bool(found["decimal"]),
        bool(found["percent"]),
        sum(map(str.isdigit, answer)),
    )


def integer_digits(answer: str) -> str | None:
    """Sign and digits, without leading zeros, of an integer of any length; `int` is never asked."""
    match = re.fullmatch(r"([-+−]?)0*([0-9]+)", answer)
    return match and ("-" if match[1] in ("-", "−") else "") + match[2]


def words_of(answer: str) -> str | None:
    r"""Case-folded words of a text answer (`\text{Yes}.` is "yes"), or None if it is not plain words."""
    plain = " ".join(_TEXT.sub(r"\1", answer).split()).strip(" .()").casefold()
    return plain if _WORDS.fullmatch(plain) else None


def is_text(words: str) -> bool:
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
    text = light(answer.translate(_ASCII_DIGITS)).rstrip(".")
    text = re.sub(r"^[A-Za-z]\s*=(?!=)", "", text).strip()
    number = number_of(text)
    if number:
        return str(number.value / 100 if number.percent else number.value)
    words = words_of(text)
    if words and len(words) > 1:
        return words
    text = re.sub(r"\\[,;: ]|\\q?quad(?![A-Za-z])", "", _TEXT.sub(r"\1", text))
    return integer_digits(text) or "".join(text.split())


_ASCII_DIGITS = {0x2212: "-"} | {start + d: str(d) for start in (0xFF10, 0x0660, 0x06F0) for d in range(10)}
