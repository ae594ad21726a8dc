r"""Arithmetic as people write it: from text to chains of equalities, before anything is computed.

Under `steps.py`, which decides what is read here. Signs become tokens first (`_tokens`: which asterisk is a
product, which dash a bullet), then words (`_read_words`: operator, relation, unit, unknown operand, or prose,
which ends an expression). What lies between two ends and holds an `=` is a chain. Everything here reads
each character a bounded number of times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

PIECE = 1 << 16  # characters after which a long text is cut, at the next place that ends an expression
LONGEST = 1 << 18


class Token(NamedTuple):
    """kind: num, op (+ - * / ^), post (% !), open, close, frac, sqrt, rel (= ~), rem, unit, unknown, word, break."""

    kind: str
    text: str
    start: int
    end: int


_NUMBER = r"(?:[1-9][0-9]{0,2}(?:(?:,|\{,\}|\\,)[0-9]{3}){1,12}(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_SCAN = re.compile(
    rf"""
      (?P<space>(?:[^\S\n]|[$€£¥&])+ | \\[$&] | \\[,;:!>\ ] | \\q?quad(?![A-Za-z]) | \\[()\[\]]
          | \\(?:left|right|displaystyle|big|Big|bigg|Bigg)(?![A-Za-z]) | \\\\)
    | (?P<line>\n\s*)
    | (?P<clock>[0-9]+:[0-9][0-9:.]* | [0-9]+\.[0-9]+(?:\.[0-9]+)+)
    | (?P<rule>-{{3,}} | _{{3,}} | ={{3,}} | \*{{3,}})
    | (?P<num>{_NUMBER})
    | (?P<vulgar>[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])
    | (?P<raised>[⁰¹²³⁴⁵⁶⁷⁸⁹]+)
    | (?P<power>\*\* | \^)
    | (?P<rel>=> | ==?>? | ≈ | ≃ | ≅ | \\(?:approx|simeq|sim)(?![A-Za-z]) | ~=)
    | (?P<op>[-+*/−–×·⋅∙÷∕✕] | \\(?:times|cdot|div|ast)(?![A-Za-z]))
    | (?P<post>\\?%)
    | (?P<bang>!)
    | (?P<frac>\\[dtc]?frac(?![A-Za-z]))
    | (?P<sqrt>\\sqrt(?![A-Za-z])(?!\s*\[) | √)
    | (?P<boxed>\\(?:boxed|fbox|mathbf|bm)(?![A-Za-z])\s*(?=\{{))
    | (?P<environment>\\(?:begin|end)\s*\{{[^{{}}]*\}})
    | (?P<label>\\(?:text|textbf|textit|mathrm|mbox|operatorname)\s*\{{(?P<inside>[^{{}}]*)\}}(?:\s*\^\s*(?:[0-9]|\{{[0-9]\}}))?)
    | (?P<command>\\[A-Za-z]+)
    | (?P<open>[(\[{{])
    | (?P<close>[)\]}}])
    | (?P<word>[^\W\d_]+(?:['’-][^\W\d_]+)*)
    | (?P<dots>\.\.\.|…|\\[lc]?dots(?![A-Za-z]))
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_VULGAR = dict(
    zip("½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞", "1/2 1/3 2/3 1/4 3/4 1/5 2/5 3/5 4/5 1/6 5/6 1/8 3/8 5/8 7/8".split(), strict=True)
)
_RAISED = {ord(sign): str(digit) for digit, sign in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
_OPS = {"−": "-", "–": "-", "×": "*", "·": "*", "⋅": "*", "∙": "*", "✕": "*", "∕": "/"}
_OPS |= {"\\times": "*", "\\cdot": "*", "\\ast": "*", "\\div": "÷"}
_WORD_OPS = {"plus": "+", "minus": "-", "times": "*"}
_TWO_WORD_OPS = {("multiplied", "by"): "*", ("divided", "by"): "÷"}
_EQUALS = {"equals", "equal", "is", "gives", "makes", "are", "becomes", "yields"}
_ROUGHLY = {"about", "approximately", "roughly", "around"}
# "is 7 more than" says something else than "is 7".
_COMPARED = {
    "more",
    "less",
    "fewer",
    "greater",
    "larger",
    "smaller",
    "times",
    "older",
    "younger",
    "percent",
    "or",
    "to",
}
# Words that end a quantity; all others may belong to its unit ("5 red apples + ...", "60 miles per hour x ...").
_STOP = set(
    "and so then is are was were has have had because since but or which that this therefore thus hence if when to "
    "from with he she they it we i you the not as can will would gives makes equals equal after before while into "
    "than there where who also at by for in on".split()
)
# Words that take part in the arithmetic of the number after them; "a total of 3 + 4" is not among them.
_BINDING = set(
    "twice double doubled triple thrice half halve quarter negative square squared cube cubed root log ln exp sin cos "
    "tan max min gcd lcm mod factorial choose".split()
)
_PARTS = set(
    "half third thirds quarter quarters fourth fourths fifth fifths sixth sixths seventh eighth eighths ninth tenth "
    "tenths sum product difference quotient ratio square cube root logarithm percent percentage fraction average mean".split()
)
_LABELS = set(
    "step part case question problem example equation eq day week no number item option line row page section "
    "chapter figure table round level grade".split()
)
_SHORT_UNITS = set("cm mm km kg mg ml cl dl ft in hr lb oz mi yd kw hz gb mb kb tb".split())
# Words behind a number that change its value: 2.5 million is not 2.5 of something.
_CHANGING = set("hundred thousand million billion trillion dozen dozens half am pm o'clock squared cubed".split())
# Units of one measure: their sums need a conversion, which is not written where we could check it.
MEASURES = {
    name: measure
    for measure, names in {
        "time": "second seconds sec secs minute minutes min mins hour hours hr hrs day days week weeks month months year years",
        "length": "mm cm m km meter meters metre metres kilometer kilometers centimeter centimeters inch inches foot feet ft yard yards yd mile miles mi",
        "mass": "mg g kg gram grams kilogram kilograms pound pounds lb lbs ounce ounces oz ton tons tonne tonnes",
        "volume": "ml cl dl liter liters litre litres cup cups pint pints quart quarts gallon gallons",
        "money": "dollar dollars cent cents quarter quarters dime dimes nickel nickels penny pennies pence",
        "count": "dozen dozens pair pairs",
    }.items()
    for name in names.split()
}


def singular(unit: str) -> str:
    found = {
        "feet": "foot",
        "inches": "inch",
        "pennies": "penny",
        "hrs": "hour",
        "hr": "hour",
        "lbs": "pound",
        "lb": "pound",
    }
    return found.get(unit) or unit.removesuffix("s")


def _tokens(text: str) -> list[Token]:
    """TEXT as tokens: signs are decided here, words in `_read_words`, where their neighbours are known."""
    found: list[Token] = []
    for match in _SCAN.finditer(text):
        kind, sign, start, end = str(match.lastgroup), match.group(), match.start(), match.end()
        if kind == "inside":
            kind = "label"
        if kind in ("space", "boxed"):
            continue
        if kind == "line":
            found.append(Token("line", "\n", start, end))
        elif kind == "power":
            found.append(_power(text, start, end, sign))
        elif kind == "op":
            found.append(_operator(text, found, start, end, sign))
        elif kind == "rel":
            rough = sign not in ("=", "==")
            arrow = sign.endswith(">")
            found.append(Token("break" if arrow else "rel", "~" if rough else "=", start, end))
        elif kind == "raised":
            # After a number it is a power; after a unit (cm²) part of it.
            after = found and found[-1].end == start and found[-1].kind in ("num", "close")
            if after:
                found += [Token("op", "^", start, start), Token("num", sign.translate(_RAISED), start, end)]
        elif kind == "vulgar":
            if found and found[-1].kind == "num" and found[-1].text.isdecimal() and start - found[-1].end <= 1:
                whole = found.pop()
                found.append(Token("num", f"{whole.text} {_VULGAR[sign]}", whole.start, end))
            else:
                found.append(Token("num", _VULGAR[sign], start, end))
        elif kind == "post":
            found.append(Token("post", "%", start, end))
        elif kind == "bang":
            # A factorial only inside a calculation; at a sentence's end it is an exclamation mark.
            inside = re.compile(r"[ \t]*(?:[-+*/=×)]|\\(?:times|cdot))").match(text, end)
            glued = found and found[-1].end == start and found[-1].kind in ("num", "close")
            equals = text[end : end + 1] == "="  # 5 != 6, or 5!=120: two readings, no step
            found.append(Token("unknown" if equals else "post" if inside and glued else "break", "!", start, end))
        elif kind == "label":
            words = re.sub(r"\^.*", "", match["inside"]).split()
            plain = bool(words) and all(re.fullmatch(r"[^\W\d_]+[.,]?", word) for word in words)
            known = found and found[-1].kind in ("num", "close", "post", "unit")
            joined = "".join(word.strip(".,").lower() for word in words)
            if plain and joined in ("remainder", "r") and known:
                found.append(Token("rem", joined, start, end))
            elif plain and known and words[0].lower() not in _STOP:
                found.append(Token("unit", words[-1].lower(), start, end))
            else:
                found.append(Token("break" if plain and words[0].lower() in _STOP else "unknown", sign, start, end))
        elif kind == "command":
            relation = sign in (
                "\\neq",
                "\\ne",
                "\\le",
                "\\leq",
                "\\ge",
                "\\geq",
                "\\lt",
                "\\gt",
                "\\implies",
                "\\therefore",
            )
            found.append(Token("break" if relation or "arrow" in sign else "unknown", sign, start, end))
        elif kind == "dots":
            decimal = found and found[-1].kind == "num" and found[-1].end == start and "." in found[-1].text
            if decimal:
                found[-1] = found[-1]._replace(text=found[-1].text + "…", end=end)
            else:
                found.append(Token("break", sign, start, end))
        elif kind == "clock":
            found.append(Token("unknown", sign, start, end))
        elif kind == "other" and sign == "_":
            found.append(Token("unknown", sign, start, end))  # 1011_2
        elif kind in ("other", "environment", "rule"):
            found.append(Token("break", sign, start, end))
        else:
            found.append(Token(kind, sign, start, end))
    return _read_words(_read_lines(found, text), text)


def _power(text: str, start: int, end: int, sign: str) -> Token:
    """`**` between two operands is a power, elsewhere bold type."""
    if sign == "^":
        return Token("op", "^", start, end)
    tight = bool(re.fullmatch(r"[0-9)]", text[start - 1 : start])) and bool(re.match(r"-?[0-9(]", text[end : end + 2]))
    spaced = text[start - 1 : start] == " " and text[end : end + 1] == " "
    return Token("op" if tight or spaced else "emphasis", "^", start, end)


def _operator(text: str, found: Sequence[Token], start: int, end: int, sign: str) -> Token:
    """An operator; an asterisk of emphasis, a bullet or a dash between clauses is none."""
    before, after = text[start - 1 : start] or "\n", text[end : end + 1] or "\n"
    bullet = (not found or found[-1].kind == "line") and after.isspace()
    if sign == "*" and before.isspace() != after.isspace():
        return Token("emphasis", sign, start, end)
    if bullet and sign in "-*+–−":
        return Token("break", sign, start, end)
    if sign in "-–" and after.isspace():
        following = re.compile(r"\s*([^\W\d_]+)").match(text, end)
        if following and following[1].lower() in _STOP:
            return Token("break", sign, start, end)
    return Token("op", _OPS.get(sign, sign), start, end)


_NUMBERING = re.compile(r"[0-9]{1,3}[.)](?:\s|\*)")


def _read_lines(tokens: list[Token], text: str) -> list[Token]:
    """Line ends break, except beside an `=` or after an operator; `1.` and `2)` that begin a line go."""
    kept: list[Token] = []
    plain = [token for token in tokens if token.kind != "emphasis"]
    for at, token in enumerate(plain):
        begins = at == 0 or plain[at - 1].kind == "line"
        following = plain[at + 1] if at + 1 < len(plain) else None
        if token.kind == "line":
            relation_next = following is not None and following.kind == "rel"
            unfinished = bool(kept) and kept[-1].kind in ("rel", "op")
            if not (relation_next or (unfinished and text.count("\n", token.start, token.end) == 1)):
                kept.append(token._replace(kind="break"))
        elif begins and token.kind == "num" and _NUMBERING.match(text, token.start):
            kept.append(token._replace(kind="break"))
        else:
            kept.append(token)
    return kept


def _read_words(tokens: list[Token], text: str) -> list[Token]:
    """Decide what each word is: operator, relation, unit, unknown operand, or the end of an expression."""
    read: list[Token] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        if token.kind == "num" and _attached(tokens, at):
            read.append(token._replace(kind="unknown"))
            at += 1
            continue
        if token.kind == "num" and _bound(read, tokens, at):
            read.append(token._replace(kind="unknown"))
            at += 1
            continue
        if token.kind == "open" and (aside := _words_in_brackets(tokens, at)):
            # "5 (apples) + 3": a unit; elsewhere an aside that ends the expression.
            known = bool(read) and read[-1].kind in ("num", "close", "post", "unit")
            read.append(
                Token("unit" if known else "break", tokens[aside - 1].text.lower(), token.start, tokens[aside].end)
            )
            at = aside + 1
            continue
        if token.kind != "word":
            read.append(token)
            at += 1
            continue
        made, at = _word(read, tokens, at, text)
        read.append(made)
    return read


def _attached(tokens: list[Token], at: int) -> bool:
    """A number glued behind a word or an underscore is a name (x2, A_1), not a number; 3x4 is a product."""
    if not at or tokens[at - 1].end != tokens[at].start:
        return False
    before = tokens[at - 1]
    product = before.text in "xX" and at > 1 and tokens[at - 2].kind in ("num", "close", "post", "word")
    if before.text == ",":  # 1,5 or (1,2)
        return at > 1 and tokens[at - 2].kind == "num" and tokens[at - 2].end == before.start
    return (before.kind == "word" and before.text.isascii() and not product) or before.text in ("_", "#", "@")


def _bound(read: list[Token], tokens: list[Token], at: int) -> bool:
    """Whether the words before a number take part in its value (twice 5, half of 10) or label it (Step 2)."""
    if read and read[-1].kind == "op":
        return False  # 25 percent of 80
    words = []
    for back in range(at - 1, max(-1, at - 3), -1):
        if tokens[back].kind != "word":
            break
        words.append(tokens[back].text.lower())
    if not words:
        return False
    if words[0] in _BINDING or words[0] in _LABELS:
        return True
    return words[0] == "of" and len(words) > 1 and words[1] in _PARTS


def _words_in_brackets(tokens: list[Token], at: int) -> int:
    """Index of the bracket that closes one holding a few words and nothing else, or 0."""
    for end in range(at + 1, min(at + 6, len(tokens))):
        if tokens[end].kind == "close":
            return end if end > at + 1 else 0
        if tokens[end].kind != "word" or len(tokens[end].text) == 1:
            return 0
    return 0


def _word(read: list[Token], tokens: list[Token], at: int, text: str) -> tuple[Token, int]:
    """The token that the word at AT (and perhaps its successors) stands for, and where to go on."""
    token = tokens[at]
    word = token.text.lower()
    previous = read[-1] if read else None
    following = tokens[at + 1] if at + 1 < len(tokens) else None
    known = previous is not None and previous.kind in ("num", "close", "post", "unit")
    operand_next = following is not None and (following.kind in ("num", "open", "frac", "sqrt"))
    glued = previous is not None and previous.end == token.start

    if word == "x" and known and operand_next and not (glued and following and following.kind == "open"):
        return token._replace(kind="op", text="*"), at + 1
    if word in ("r", "remainder") and known and following and following.kind == "num":
        return token._replace(kind="rem"), at + 1
    if known and operand_next and word in _WORD_OPS:
        return token._replace(kind="op", text=_WORD_OPS[word]), at + 1
    if known and following and (word, following.text.lower()) in _TWO_WORD_OPS:
        return token._replace(kind="op", text=_TWO_WORD_OPS[word, following.text.lower()], end=following.end), at + 2
    if word == "of" and operand_next and _is_part(read):
        return token._replace(kind="op", text="*"), at + 1
    if word in ("percent", "pct") and previous is not None and previous.kind == "num":
        return token._replace(kind="post", text="%"), at + 1
    if known and word in _EQUALS:
        return _said_equal(tokens, at)
    if word in ("mod", "modulo") or (known and word in _CHANGING):
        return token._replace(kind="unknown"), at + 1
    if glued and known and previous is not None:
        # 5cm is a quantity, 5x and 3ab are products with something unknown; letters outside ASCII count things.
        unit = not word.isascii() or len(word) > 2 or word in _SHORT_UNITS
        return token._replace(kind="unit" if unit else "unknown", text=word), at + 1
    if known and word not in _STOP and len(word) > 1 and (end := _unit_ends(tokens, at)):
        return Token("unit", tokens[end - 1].text.lower(), token.start, tokens[end - 1].end), end
    if known and word in MEASURES and following and following.kind == "num":
        return token._replace(kind="unit", text=word), at + 1  # 1 hour 30 minutes
    if following and following.kind == "open" and following.start == token.end:
        return token._replace(kind="unknown"), at + 1  # f(3)
    beside = (previous is not None and previous.kind == "op") or (following is not None and following.kind == "op")
    if (
        previous is not None
        and previous.kind == "op"
        and previous.text == "/"
        and len(word) > 1
        and previous.end == token.start
    ):
        read.pop()  # miles/hour, $5/box
        return token._replace(kind="unit", text="per"), at + 1
    if beside and word not in _STOP:
        return token._replace(kind="unknown"), at + 1
    if len(word) == 1 and word.isascii() and word not in "ai" and known:
        return token._replace(kind="unknown"), at + 1  # 3 n = 12
    return token._replace(kind="break"), at + 1


def _is_part(read: list[Token]) -> bool:
    """Whether what was read ends in a fraction or a percentage, which `of` multiplies."""
    if not read:
        return False
    if read[-1].kind == "post":
        return read[-1].text == "%"
    if read[-1].kind == "num" and "/" in read[-1].text:
        return True
    over = len(read) >= 3 and read[-1].kind == "num" and read[-2].text == "/" and read[-3].kind == "num"
    if over:
        return True
    # \frac{1}{2} of 10
    depth, groups = 0, 0
    for back in range(len(read) - 1, max(-1, len(read) - 12), -1):
        if read[back].kind == "close":
            depth += 1
        elif read[back].kind == "open":
            depth -= 1
            groups += depth == 0
        elif read[back].kind == "frac" and depth == 0:
            return groups == 2
        elif depth == 0:
            return False
    return False


def _said_equal(tokens: list[Token], at: int) -> tuple[Token, int]:
    """`is`, `equals`, `is equal to`, `is about`: a relation where a plain number follows."""
    token, end, rough = tokens[at], at + 1, False
    while end < len(tokens) and tokens[end].kind == "word" and end < at + 4:
        word = tokens[end].text.lower()
        if word in _ROUGHLY:
            rough = True
        elif word not in ("equal", "to", "exactly"):
            break
        end += 1
    sign = end < len(tokens) and tokens[end].kind == "op" and tokens[end].text == "-"
    number = end + sign
    if number < len(tokens) and tokens[number].kind in ("num", "frac", "open"):
        after = tokens[number + 1] if number + 1 < len(tokens) else None
        if not (after and after.kind == "word" and after.text.lower() in _COMPARED):
            return token._replace(kind="rel", text="~" if rough else "=", end=tokens[end - 1].end), end
    return token._replace(kind="break"), at + 1


def _unit_ends(tokens: list[Token], at: int) -> int:
    """Index after the unit's words when the calculation goes on behind them, else 0 (prose)."""
    for end in range(at + 1, min(at + 5, len(tokens))):
        kind, word = tokens[end].kind, tokens[end].text.lower()
        if kind in ("rel", "close") or (kind == "op" and tokens[end].text != "^") or (kind == "word" and word == "x"):
            return end
        if kind == "word" and word in _EQUALS | set(_WORD_OPS) | {"multiplied", "divided"}:
            return end
        if kind != "word" or word in _STOP or len(word) == 1:
            return 0
    return 0


# ---------------------------------------------------------------- chains and sides

Side = list[Token]


class Chain(NamedTuple):
    """Sides of a written chain of equalities and the relations between them."""

    sides: list[Side]
    relations: list[Token]


_CUT = re.compile(r"(?:[.;,:]\s|(?<!\s)\n)\s*+(?=[^\W\d_])")


def chains(text: str) -> Iterator[tuple[Chain, int]]:
    """The chains of TEXT in reading order, each with the offset that its tokens' positions count from.

    A text without any place that ends an expression is cut all the same, every LONGEST characters, so that
    memory stays bounded; the chains beside such a cut are left out.
    """
    start, forced = 0, False
    while start < len(text):
        cut = _CUT.search(text, start + PIECE, start + LONGEST)
        end = cut.end() if cut else min(start + LONGEST, len(text))
        found = list(_chains(_tokens(text[start:end])))
        after_forced, forced = forced, cut is None and end < len(text)
        for chain in found[after_forced : len(found) - forced]:
            yield chain, start
        start = end


def _chains(tokens: list[Token]) -> Iterator[Chain]:
    piece: list[Token] = []
    for token in [*tokens, Token("break", "", 0, 0)]:
        if token.kind != "break":
            piece.append(token)
            continue
        if any(part.kind == "rel" for part in piece):
            yield _split(piece)
        piece = []


def _split(piece: list[Token]) -> Chain:
    sides: list[list[Token]] = [[]]
    relations = []
    for token in piece:
        if token.kind == "rel":
            relations.append(token)
            sides.append([])
        else:
            sides[-1].append(token)
    first, last = _suffix(sides[0]), _prefix(sides[-1])
    return Chain([first, *sides[1:-1], last], relations)


def _suffix(side: Side) -> Side:
    """The part of a chain's first side that the relation is about: after a bracket without its partner
    ("2) 3 + 4", "(3 + 4 = 7)") or a number that stands beside another one ("5 $3 + 4")."""
    lonely = max(_unpaired(side), default=-1)
    side = side[lonely + 1 :]
    cut = max(_beside(side), default=0)
    if cut and side[cut - 1].text in MEASURES and cut + 1 < len(side) and side[cut + 1].text in MEASURES:
        return [side[cut]._replace(kind="unknown")]  # 1 hour 30 minutes
    return side[cut:]


def _prefix(side: Side) -> Side:
    """The part of a chain's last side that the relation is about; see `_suffix`."""
    side = side[: min(_unpaired(side), default=len(side))]
    return side[: min(_beside(side), default=len(side))]


def _unpaired(side: Side) -> list[int]:
    """Indices of brackets without a partner on this side."""
    opened: list[int] = []
    closed: list[int] = []
    for at, token in enumerate(side):
        if token.kind == "open":
            opened.append(at)
        elif token.kind == "close":
            if opened:
                opened.pop()
            else:
                closed.append(at)
    return closed + opened


def _beside(side: Side) -> list[int]:
    """Indices of numbers outside brackets that follow another number (or its unit) directly."""
    depth, found = 0, []
    for at, token in enumerate(side):
        depth += (token.kind == "open") - (token.kind == "close")
        after = at and token.kind == "num" and side[at - 1].kind in ("num", "unit")
        if after and depth == 0 and not is_mixed(side, at - 1):
            found.append(at)
    return found


def is_mixed(side: Side, at: int) -> bool:
    """Whether a mixed number such as 2 1/2 begins at AT: the fraction is written without spaces."""
    if at + 3 >= len(side) or not (side[at].text.isdecimal() and side[at + 1].text.isdecimal()):
        return False
    over, slash, under = side[at + 1 : at + 4]
    tight = slash.text == "/" and over.end == slash.start and slash.end == under.start and under.text.isdecimal()
    return tight and len(over.text) <= 3 and len(under.text) <= 3 and int(over.text) < int(under.text)
