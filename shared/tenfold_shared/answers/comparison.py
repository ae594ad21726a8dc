"""Whether one answer equals one gold: by the exact paths where they are certain, else by math-verify in a worker."""

import itertools
import os
import re
import threading
from collections import OrderedDict
from fractions import Fraction

from tenfold_shared.answers.canonical import Numeral, integer_digits, is_text, light, number_of, words_of
from tenfold_shared.answers.closed_forms import Verdict, closed_form, compare_forms, compare_lists
from tenfold_shared.answers.extraction import MAX_ANSWER
from tenfold_shared.pool import DeadlineExceeded, Pool, WorkerDied, WorkerError

_MEMO_SIZE = 1 << 14
_WORKER_BYTES = 4 << 30  # address space of a grading worker: a tower of powers meets this or the clock


def fast(gold: str, answer: str) -> Verdict | None:
    """Verdict where the exact paths are certain to decide as math-verify (or as documented) would."""
    if gold == answer:
        return "correct", "identical"
    gold, answer = light(gold), light(answer)
    if gold and gold == answer:
        return "correct", "identical after normalisation"
    golden, number = number_of(gold), number_of(answer)
    if golden and number:
        return _compare_numerals(golden, number)
    if (digits := integer_digits(gold)) and (others := integer_digits(answer)):  # too long for the above
        return ("correct", "equal integers") if digits == others else ("wrong", "different integers")
    gold_words, words = words_of(gold), words_of(answer)
    if gold_words and (is_text(gold_words) or len(gold_words) == 1) and gold_words == words:
        return "correct", "equal text"
    if gold_words and is_text(gold_words):
        return "wrong", "different text"
    if golden and words and is_text(words):
        return "wrong", "text where the gold is a number"
    if verdict := _compare_closed(gold, golden, answer, number):
        return verdict
    if len(answer) > MAX_ANSWER:
        return "ungradable", f"answer of {len(answer)} characters, at most {MAX_ANSWER} are read as mathematics"
    if not _paired(answer) and _paired(gold):
        return "ungradable", "the answer's brackets do not pair"
    return None


def _paired(text: str) -> bool:
    """As many brackets are opened as closed, in whatever order and kind: [0, 1) is an interval, and so is ]0, 1[. Of text
    without it math-verify reads some part: 4 of `7) 4`."""
    opened = sum(map(text.count, ("(", "[", "{", "\\left.")))
    return opened == sum(map(text.count, (")", "]", "}", "\\right.")))


def _compare_closed(gold: str, golden: Numeral | None, answer: str, number: Numeral | None) -> Verdict | None:
    """Verdict on closed forms, lists of them, or a closed form and a number."""
    # `x = 5` answers 5, and 5 answers `x = 5`; two equations are math-verify's to compare.
    if ("=" in gold) != ("=" in answer):
        gold, answer = (re.sub(r"^[a-z]\s*=", "", text) for text in (gold, answer))
        golden, number = golden or number_of(gold), number or number_of(answer)
    if (golden and golden.percent) or (number and number.percent):
        return None
    form, other = closed_form(gold), closed_form(answer)
    if form is not None and other is not None:
        verdict = compare_forms(form, other)
        # math-verify compares a lone letter by its string: x^{1} is for it to judge.
        return None if verdict and verdict[0] == "correct" and min(len(gold), len(answer)) == 1 else verdict
    for numeral, closed in ((golden, other), (number, form)):
        if numeral and closed is not None:
            return compare_forms({(1, ()): numeral.value} if numeral.value else {}, closed)
    return compare_lists(gold, answer)


def _compare_numerals(gold: Numeral, answer: Numeral) -> Verdict | None:
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


def warm_up() -> None:
    """Worker set-up: import math-verify and pay its first-call costs (grammar tables, caches)."""
    import logging

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that we turned its timer off
    symbolic(["\\frac{1}{2}", "x^2+1"])


def symbolic(pair: list[str]) -> Verdict:
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
            pool = Pool(f"{__name__}:symbolic", workers, memory_bytes=_WORKER_BYTES, setup=f"{__name__}:warm_up")
            _pools[workers] = pool
        return pool


class NeedsWorker(Exception):
    """The exact paths and the memo do not decide this pair."""


def compare(gold: str, answer: str, deadline: float, workers: int) -> Verdict:
    """Verdict on one pair; `workers` 0 means: without a worker, else raise NeedsWorker."""
    known = fast(gold, answer) or _memo.get((gold, answer, deadline))
    if known:
        return known
    if not workers:
        raise NeedsWorker
    verdict: Verdict
    try:
        outcome, reason = _pool(workers).call([gold, answer], deadline)
        golden, number = number_of(light(gold)), number_of(light(answer))
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
