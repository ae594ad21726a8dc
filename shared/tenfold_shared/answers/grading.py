"""The grade of a response: golds and answers made bare, matched any or all, one after the other or many at a time."""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import msgspec

from tenfold_shared.answers.canonical import key
from tenfold_shared.answers.closed_forms import Outcome, Verdict
from tenfold_shared.answers.comparison import NeedsWorker, compare
from tenfold_shared.answers.extraction import BRACE, DIGIT_COMMA, boxes, extract, last_box

Gold = str | int | float | list[str] | None


class Grade(msgspec.Struct, frozen=True):
    """`grade`; `reason`, one line for people; `extracted`, the final answer as written, or None."""

    grade: Outcome
    reason: str
    extracted: str | None = None


def _golds(gold: Gold) -> list[str] | Grade:
    """The gold answers in bare form, or the ungradable Grade that says what is wrong with them."""
    listed = gold if isinstance(gold, list) else [gold]
    bare = []
    for item in listed:
        text = "" if item is None else str(item)
        if "####" in text:  # GSM8K: the worked solution, then "#### 1,080"
            text = DIGIT_COMMA.sub("", text.rpartition("####")[2])
        if "box" in text and (boxed := last_box(text)) is not None:
            text = boxed
        text = text.strip()
        for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
            if len(text) > 2 * len(opening) and text.startswith(opening) and text.endswith(closing):
                text = text[len(opening) : -len(closing)].strip()
        if not text.strip("$\\{}()[]|.,;:?!*#-+=/<>_^'\"` \t\r\n\0"):
            return Grade("ungradable", "gold is empty" if not text else f"gold {text[:40]!r} holds no answer")
        depth, lowest = 0, 0
        for brace in BRACE.finditer(text):
            depth += {"{": 1, "}": -1}.get(brace.group(), 0)
            lowest = min(lowest, depth)
        if depth or lowest:
            return Grade("ungradable", f"gold {text[:40]!r} has unbalanced braces")
        bare.append(text)
    return bare or Grade("ungradable", "gold is empty")


def parts_of(answer: str) -> list[str]:
    r"""The answers in a list such as `1, 2 \text{ and } 3` or `\{1, 2\}`, each once, split outside brackets."""
    answer = answer.strip().strip("$").strip()
    answer = re.sub(r"\\(?:left|right)(?=\\?[{}()\[\]])", "", answer)
    if answer.startswith("\\{") and answer.endswith("\\}"):
        answer = answer[2:-2]
    answer = DIGIT_COMMA.sub("", answer.replace("{,}", ""))
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
        verdicts = [compare(gold, part, deadline, workers) for part in left]
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
        verdict = _match_all(golds, parts_of(extracted), deadline, workers)
        listed = boxes(text)
        if verdict[0] != "correct" and box == "last" and all(len(parts_of(item)) == 1 for item in listed):
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
            verdicts.append(compare(item, plain, deadline, workers))
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
        for name, item in items:
            waiting.append((name, None if isinstance(item, Comparison) else item))
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
            except NeedsWorker:
                window.append(threads.submit(_grade, gold, text, deadline, match, box, require_box, workers))
            while window and (len(window) > 256 or isinstance(window[0], Grade) or window[0].done()):
                ready = window.popleft()
                yield ready if isinstance(ready, Grade) else ready.result()
        for ready in window:
            yield ready if isinstance(ready, Grade) else ready.result()
