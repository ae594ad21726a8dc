r"""`cotpass calibrate inject`: labelled tests for a judge, made from the user's own correct samples.

A sample with a right answer becomes one record for each type of error, with that one error in it, and a
`clean` one without any. The text is the response, after the `reasoning` where a record has one apart from it.
A *segment* is a line that is not blank (or, where there is one line only, a sentence).

    number-inconsistent  the result of one written equation is another number; nothing else changes, so that this
                         equation is false and what follows still rests on the right value
    number-consistent    the result of an equation is another number, and everything after it follows: wherever the
                         old value stands it is replaced, later equations that use it get the results that come
                         out, and so on to the final answer. Every written equation but the changed one is true
    operator-swapped     one operator on the left of an equation is another one (+ and −, × to +, ÷ to ×); its
                         result stays, so that the equation is false
    step-deleted         the only segment that derives a value is gone, while the value is used later; some
                         other reasoning is left
    tail-cut             the text ends before the value of its last equation is first found (without equations:
                         after at most two thirds of the segments), and the final answer is gone
    final-answer         the number in the last \boxed{} is another one; the reasoning before it stays
    splice               the reasoning is that of another problem; the sentence with the final answer stays
    clean                nothing

An error is a real one because `steps.py` reads the result again: after number-inconsistent and
operator-swapped the very equation does not hold; after number-consistent exactly one does not. Numbers are
renamed only where their origin is beyond doubt: a value that also stands in the question, or before the equation
that derives it, is left alone (unless only the final answer is left of it). What cannot be done to a sample is
skipped and counted.

Samples in which the steps rule finds a false equation are left out, since their reasoning is known to be
wrong; `--only-checked` asks that it found equations, and all of them true.
"""

from __future__ import annotations

import random
import re
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import islice, pairwise
from typing import Any, NamedTuple

import cotpass
from cotpass.judge import shown
from cotpass.notation import Token, chains
from cotpass.readers import once
from cotpass.steps import Step, check_steps, vote
from tenfold_shared import BadInput, answers
from tenfold_shared import records as shapes
from tenfold_shared.cli import Selection
from tenfold_shared.jsonl import Output
from tenfold_shared.progress import Progress

Record = dict[str, Any]
Span = tuple[int, int]

READINGS = 150  # of the text, while a changed number is carried on: one for each later equation that follows
TRIES = 8  # places or numbers tried for one injection before it is given up
SEAM = "\n\x1d\n"  # between a record's separate reasoning and its response: white space to every reader of text

_NUMBER = re.compile(r"(?<![\w.,])(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?![0-9]|[.,][0-9])")
_SENTENCE_END = re.compile(r"(?<=[.;!?])\s+(?=\S)")
_BRACE = re.compile(r"\\boxed\s*\{|[{}]")
_SWAPS = {
    "+": "-",
    "-": "+",
    "−": "+",
    "–": "+",
    "*": "+",
    "×": "+",
    "·": "+",
    "⋅": "+",
    "/": "*",
    "÷": "×",
    "∕": "*",
    "x": "+",
    "X": "+",
    "\\times": "+",
    "\\cdot": "+",
    "\\div": "\\times",
    "plus": "minus",
    "minus": "plus",
    "times": "plus",
    "multiplied by": "plus",
    "divided by": "times",
}


class Change(NamedTuple):
    """An injected error. text: the new text; start, end: the changed part in it (start = end: something is gone
    here); before: what stood there; at: its offset in the old text; carried: later places changed with it."""

    text: str
    start: int
    end: int
    before: str
    at: int
    carried: int = 0


class Sample(NamedTuple):
    """A usable record. text: its response, after its separate reasoning and SEAM where it has one."""

    record: Record
    text: str
    question: str


class Equation(NamedTuple):
    """One step of `check_steps` and where its parts stand. left: its left side's tokens, positions in the text;
    result: the span of its right side where that is one plain number, else None."""

    step: Step
    left: list[Token]
    result: Span | None


# ---------------------------------------------------------------- reading


def segments(text: str) -> list[Span]:
    """The segments of TEXT, [start, end) each, without the white space around them."""
    spans = [match.span() for match in re.finditer(r"[^\n]*\S[^\n]*", text)]
    if len(spans) == 1:
        start, end = spans[0]
        cuts = [match.span() for match in _SENTENCE_END.finditer(text, start, end)]
        starts, ends = [start, *(cut[1] for cut in cuts)], [*(cut[0] for cut in cuts), end]
        spans = list(zip(starts, ends, strict=True))
    return [
        (start + len(part) - len(part.lstrip()), start + len(part.rstrip()))
        for start, end in spans
        if (part := text[start:end])
    ]


def segment_of(spans: Sequence[Span], offset: int) -> int:
    """Index of the segment OFFSET lies in, or the next one (the last where there is none)."""
    return min(bisect_right(spans, offset, key=lambda span: span[1]), len(spans) - 1)


def equations(text: str) -> list[Equation]:
    """The steps of TEXT in reading order, with the places of their parts."""
    sides = {}
    for chain, offset in chains(text):
        plain = [[token for token in side if token.kind != "unit"] for side in chain.sides]
        for left, right in pairwise(plain):
            if left:
                placed = [token._replace(start=token.start + offset, end=token.end + offset) for token in left]
                result = right[0] if len(right) == 1 and right[0].kind == "num" else None
                span = (result.start + offset, result.end + offset) if result else None
                sides[placed[0].start] = placed, span if span and _NUMBER.fullmatch(text[slice(*span)]) else None
    return [Equation(step, *sides[step.at]) for step in check_steps(text).steps]


def _numbers(text: str, start: int = 0) -> Iterator[tuple[Span, Fraction]]:
    for match in _NUMBER.finditer(text, start):
        yield match.span(), Fraction(match.group().replace(",", ""))


def _boxes(text: str) -> list[Span]:
    """Contents of each \\boxed{…} that closes, in order."""
    found: list[Span] = []
    opened: list[int | None] = []  # where the content of a box begins; None for any other brace
    for match in _BRACE.finditer(text):
        if match.group() != "}":
            opened.append(match.end() if len(match.group()) > 1 else None)
        elif opened and (start := opened.pop()) is not None:
            found.append((start, match.start()))
    return sorted(found)


def _inside(span: Span, boxes: Sequence[Span]) -> bool:
    return any(start <= span[0] and span[1] <= end for start, end in boxes)


def _written(value: Fraction, like: str) -> str | None:
    """VALUE in the style of the number LIKE (thousands commas, decimals), or None where it cannot be exactly."""
    places = len(like.partition(".")[2])
    scaled = value * 10**places
    if value < 0 or scaled.denominator != 1 or len(str(scaled)) > 15:
        return None
    comma = "," if "," in like else ""
    whole, part = divmod(int(scaled), 10**places)
    return f"{whole:{comma}}" + (f".{part:0{places}}" if places else "")


def _others(like: str, taken: set[Fraction], rng: random.Random) -> Iterator[str]:
    """Plausible wrong values for the number LIKE, in its style: slips of a digit or two, none that is taken."""
    value, unit = Fraction(like.replace(",", "")), Fraction(1, 10 ** len(like.partition(".")[2]))
    deltas = [sign * size * unit for size in (1, 2, 3, 10) for sign in (1, -1)]
    rng.shuffle(deltas)
    for delta in deltas:
        text = _written(value + delta, like) if value + delta > 0 else None
        if text is not None and value + delta not in taken:
            yield text


def _replaced(text: str, span: Span, new: str) -> str:
    return text[: span[0]] + new + text[span[1] :]


# ---------------------------------------------------------------- the types


def number_inconsistent(sample: Sample, rng: random.Random) -> Change | None:
    text, boxes = sample.text, _boxes(sample.text)
    places = [e for e in equations(text) if e.step.holds and e.result and not _inside(e.result, boxes)]
    taken = {value for _, value in _numbers(text)} | {value for _, value in _numbers(sample.question)}
    for equation in rng.sample(places, len(places))[:TRIES]:
        assert equation.result is not None
        old = text[slice(*equation.result)]
        for new in _others(old, taken, rng):
            made = _replaced(text, equation.result, new)
            if _fails_at(made, equation.step.at):
                start = equation.result[0]
                return Change(made, start, start + len(new), old, start)
    return None


def number_consistent(sample: Sample, rng: random.Random) -> Change | None:
    text = sample.text
    known = equations(text)
    given = {value for _, value in _numbers(sample.question)}
    written = {value for _, value in _numbers(text)}
    first: dict[Fraction, int] = {}
    for (start, _), value in _numbers(text):
        first.setdefault(value, start)
    derived = {e.result: Fraction(text[slice(*e.result)].replace(",", "")) for e in known if e.result}
    # Values whose origin is one equation and nothing else, by the place where they are derived.
    sure = {span for span, value in derived.items() if value not in given and first.get(value) == span[0]}
    last_use = {value: i for i, later in enumerate(known) for token in later.left for value in _values(token)}
    boxes, places = _boxes(text), []
    for i, equation in enumerate(known):
        if equation.result not in sure or _inside(equation.result, boxes):
            continue
        if last_use.get(derived[equation.result], -1) > i:
            places.append(equation)
    readings = iter(range(READINGS))
    for equation in rng.sample(places, len(places))[:TRIES]:
        assert equation.result is not None
        old = text[slice(*equation.result)]
        for new in islice(_others(old, written | given, rng), TRIES // 2):
            made = _carried(text, equation, new, {derived[span] for span in sure}, written | given, readings)
            if made is not None:
                start = equation.result[0]
                return Change(made[0], start, start + len(new), old, start, made[1])
    return None


def _values(token: Token) -> list[Fraction]:
    return [Fraction(token.text.replace(",", ""))] if _NUMBER.fullmatch(token.text) else []


def _carried(
    text: str, equation: Equation, new: str, sure: set[Fraction], taken: set[Fraction], readings: Iterator[int]
) -> tuple[str, int] | None:
    """TEXT with the equation's result changed to NEW and everything after it following, and how many later places
    changed; None where it cannot follow. sure: values that may be renamed; taken: values in use, which no
    changed number may take, or it would be renamed with them; readings: how often TEXT may still be read."""
    assert equation.result is not None
    wanted = len(equations(text))
    start = equation.result[0]
    made = _replaced(text, equation.result, new)
    old, value = Fraction(text[slice(*equation.result)].replace(",", "")), Fraction(new.replace(",", ""))
    made, count = _renamed(made, start + len(new), old, value)
    if not made:
        return None
    changed, values = count, {value}
    for _ in readings:
        found = equations(made)
        if len(found) != wanted:
            return None
        wrong = [e for e in found if not e.step.holds and e.step.at != equation.step.at]
        if not wrong:
            break
        following = wrong[0]
        if following.step.at < equation.step.at or following.result is None:
            return None
        stood = made[slice(*following.result)]
        old, value = Fraction(stood.replace(",", "")), Fraction(following.step.left)
        put = _written(value, stood)
        # A value of doubtful origin may change where all that is left of it is the final answer.
        rest = [span for span, number in _numbers(made, following.result[1]) if number == old]
        doubtful = old not in sure and not all(_inside(span, _boxes(made)) for span in rest)
        if put is None or value <= 0 or doubtful or value in taken:
            return None
        made, count = _renamed(_replaced(made, following.result, put), following.result[0] + len(put), old, value)
        if not made:
            return None
        changed += 1 + count
        values.add(value)
    found = equations(made)
    failing = [e.step.at for e in found if not e.step.holds]
    if len(found) != wanted or failing != [equation.step.at] or not changed or _unchecked(made, start, values):
        return None
    return made, changed


def _unchecked(text: str, start: int, values: set[Fraction]) -> bool:
    """Whether one of the values stands, after START, in a written equality between numbers that is no step: what
    depends on it there cannot have followed."""
    steps = {step.at for step in check_steps(text).steps}
    for chain, offset in chains(text):
        numbers = [[token for token in side if token.kind == "num"] for side in chain.sides]
        concerned = any(
            offset + token.start >= start and values & set(_values(token)) for side in numbers for token in side
        )
        for side, both in zip(chain.sides, pairwise(numbers), strict=False):
            begin = next((token.start for token in side if token.kind != "unit"), 0)
            if concerned and all(both) and offset + begin not in steps:
                return True
    return False


def _renamed(text: str, start: int, old: Fraction, new: Fraction) -> tuple[str, int]:
    """Every number OLD from START on as NEW, each in its own style, and how many; the text is empty where one
    cannot be written so, or stands where it is not read as a number of its own, as in (24,5)."""
    spans = [span for span, value in _numbers(text, start) if value == old]
    for span in reversed(spans):
        put = _written(new, text[slice(*span)])
        if put is None:
            return "", 0
        text = _replaced(text, span, put)
    digits = str(old) if old.denominator == 1 else str(float(old))
    left = re.compile(rf"(?<![0-9.]){re.escape(digits)}(?![0-9]|\.[0-9])").search(text, start)
    return ("", 0) if left else (text, len(spans))


def operator_swapped(sample: Sample, rng: random.Random) -> Change | None:
    text = sample.text
    places = []
    for equation in equations(text):
        for before, token in pairwise(equation.left):
            binary = token.kind == "op" and before.kind in ("num", "close", "post")
            if equation.step.holds and binary and " ".join(text[token.start : token.end].lower().split()) in _SWAPS:
                places.append((equation, token))
    for equation, token in rng.sample(places, len(places))[:TRIES]:
        old = text[token.start : token.end]
        new = _SWAPS[" ".join(old.lower().split())]
        made = _replaced(text, (token.start, token.end), new)
        if _fails_at(made, equation.step.at):
            return Change(made, token.start, token.start + len(new), old, token.start)
    return None


def _fails_at(text: str, at: int) -> bool:
    return any(step.at == at and not step.holds for step in check_steps(text).steps)


def step_deleted(sample: Sample, rng: random.Random) -> Change | None:
    text = sample.text
    spans, boxes = segments(text), _boxes(text)
    given = {value for _, value in _numbers(sample.question)}
    first: dict[Fraction, int] = {}  # where a value first ends, and last begins
    last: dict[Fraction, int] = {}
    for span, value in _numbers(text):
        first.setdefault(value, span[1])
        last[value] = span[0]
    places = []
    known = equations(text)
    found = Counter(equation.step.right for equation in known)
    for equation in known:
        if equation.result is None or not equation.step.holds or found[equation.step.right] > 1:
            continue
        start, end = spans[segment_of(spans, equation.step.at)]
        value = Fraction(text[slice(*equation.result)].replace(",", ""))
        inside = start <= equation.step.at and equation.result[1] <= end
        boxed = any(start <= box[0] < end for box in boxes)
        earlier, later = first.get(value, end) <= start, last.get(value, start) >= end
        if len(spans) > 2 and inside and not boxed and later and not earlier and value not in given:
            places.append((start, end))
    if not places:
        return None
    start, end = rng.choice(sorted(set(places)))
    gap = re.compile(r"[ \t]*\n?").match(text, end)
    after = gap.end() if gap else end
    return Change(text[:start] + text[after:], start, start, text[start:after], start)


def tail_cut(sample: Sample, rng: random.Random) -> Change | None:
    text, spans = sample.text, segments(sample.text)
    steps = check_steps(text).steps
    most = 2 * len(spans) // 3
    if steps:
        # What the last equation finds may have been found before: a response often repeats its reasoning.
        most = segment_of(spans, next(step.at for step in steps if step.right == steps[-1].right))
    boxes = _boxes(text)
    if boxes:
        most = min(most, segment_of(spans, boxes[-1][0]))
    if most < 1:
        return None
    kept = rng.randint(1, most)
    end = spans[kept - 1][1]
    return Change(text[:end], end, end, text[end:], spans[kept][0])


def final_answer(sample: Sample, rng: random.Random) -> Change | None:
    text, boxes = sample.text, _boxes(sample.text)
    numbers = [
        (span, value) for span, value in _numbers(text) if boxes and boxes[-1][0] <= span[0] and span[1] <= boxes[-1][1]
    ]
    if not numbers:
        return None
    span, value = rng.choice(numbers)
    for new in _others(text[slice(*span)], {value}, rng):
        made = _replaced(text, span, new)
        if not _same_answer(text, made):
            return Change(made, span[0], span[0] + len(new), text[slice(*span)], span[0])
    return None


def _same_answer(one: str, other: str) -> bool:
    """Whether OTHER ends in the final answer of ONE; a box is asked of it where ONE has one."""
    boxed = bool(_boxes(one))
    first, second = (answers.extract(text, require_box=boxed) for text in (one, other))
    return first is not None and second is not None and answers.key(first) == answers.key(second)


def splice(sample: Sample, rng: random.Random, pool: Sequence[Sample]) -> Change | None:
    for _ in range(TRIES):
        donor = rng.choice(pool)
        if donor.record["id"] == sample.record["id"] or (donor.question and donor.question == sample.question):
            continue
        (body, _), (own, tail) = _parts(donor.text), _parts(sample.text)
        if body.strip() and own.strip() and tail and body.split() != own.split():
            body, tail = body.replace(SEAM, "\n"), tail.replace(SEAM, "\n")
            joint = SEAM if SEAM in sample.text else "\n" if "\n" in sample.text else " "
            return Change(body + joint + tail, 0, len(body), own.replace(SEAM, "\n"), 0)
    return None


def _parts(text: str) -> tuple[str, str]:
    """The reasoning, and the sentence with the final answer and what follows it (without a box: the last
    segment); the second is empty where reasoning cannot be told from answer."""
    spans, boxes = segments(text), _boxes(text)
    if not spans:
        return "", ""
    start = spans[-1][0]
    if boxes:
        start = spans[segment_of(spans, boxes[-1][0])][0]
        start = max([start, *(cut.end() for cut in _SENTENCE_END.finditer(text, start, boxes[-1][0]))])
    tail = text[start:]
    return text[:start].rstrip(), "" if check_steps(tail).steps else tail


Maker = Callable[[Sample, random.Random], Change | None]
TYPES: dict[str, Maker] = {
    "number-consistent": number_consistent,
    "number-inconsistent": number_inconsistent,
    "step-deleted": step_deleted,
    "operator-swapped": operator_swapped,
    "tail-cut": tail_cut,
    "final-answer": final_answer,
}
CLEAN, SPLICE = "clean", "splice"
NAMES = (*TYPES, SPLICE, CLEAN)


# ---------------------------------------------------------------- records


def usable(located: Iterable[tuple[str, Record]], only_checked: bool, dropped: Counter[str]) -> list[Sample]:
    """The samples to inject into; why others are not is counted in `dropped`. Raises BadInput on what is not
    graded and on a repeated (id, sample)."""
    found = []
    for at, record in once(located):
        if record.get("error") or record.get("finish_reason") == "error":
            dropped["failed"] += 1
            continue
        if "correct" not in record:
            raise BadInput(f"{at}: correct: expected true or false; run `cotpass grade` first")
        verdict = vote(check_steps(shown(record, "both"))) if record["correct"] else ""
        if not record["correct"]:
            dropped["answer wrong"] += 1
        elif verdict == "no":
            dropped["a written step is wrong"] += 1
        elif only_checked and verdict != "yes":
            dropped["no written step"] += 1
        else:
            reasoning = record.get("reasoning")
            text = reasoning + SEAM + record["response"] if reasoning else record["response"]
            if SEAM in record["response"] or SEAM in (reasoning or ""):
                dropped["a control character"] += 1
            else:
                found.append(Sample(record, text, shapes.question_of(record)))
    return found


def inject(sample: Sample, kind: str, pool: Sequence[Sample], seed: int) -> Record | None:
    """The test record of one type, or None where it cannot be made of this sample. Depends on the seed, the
    record and the type alone (splice: on the pool too).

    `id` is `ID#SAMPLE/TYPE`, `sample` 0, `correct` whether the final answer is still the old one. `meta.injection`:
    {type, right (the label: is the reasoning right), position (0-based segment; null for clean and splice), of
    (segments of the original text), field, start, end, before, carried, source: {id, sample}}. start and end are
    in characters of that field of the new record, null for clean; where something is gone they are equal.
    """
    source = sample.record
    rng = random.Random(f"{seed}/{kind}/{source['id']}/{source['sample']}")
    change = None
    if kind == SPLICE:
        change = splice(sample, rng, pool)
    elif kind != CLEAN:
        change = TYPES[kind](sample, rng)
    if change is None and kind != CLEAN:
        return None
    gone = ("votes", "judge", "reward", "grade_reason")
    record = {**{name: value for name, value in source.items() if name not in gone}, "schema": shapes.schema("verdict")}
    spans = segments(sample.text)
    injection: Record = {"type": kind, "right": kind == CLEAN, "position": None, "of": len(spans), "field": None}
    injection |= {"start": None, "end": None, "before": None, "carried": 0}
    if change is not None:
        first, seam, last = change.text.partition(SEAM)
        apart = bool(source.get("reasoning"))
        record |= {"reasoning": first, "response": last} if apart else {"response": change.text}
        in_response = apart and bool(seam) and change.start > len(first)
        shift = len(first) + len(seam) if in_response else 0
        injection |= {
            "position": None if kind == SPLICE else segment_of(spans, change.at),
            "field": "response" if in_response or not apart else "reasoning",
            "start": change.start - shift,
            "end": change.end - shift,
            "before": change.before.replace(SEAM, "\n"),
            "carried": change.carried,
        }
    record["correct"] = kind == CLEAN or _same_answer(source["response"], record["response"])
    record["grade"] = "correct" if record["correct"] else "wrong"
    record["grade_reason"] = f"made by calibrate inject: {kind}"
    record |= {"id": f"{source['id']}#{source['sample']}/{kind}", "sample": 0}
    injection["source"] = {"id": source["id"], "sample": source["sample"]}
    record["meta"] = {**(source.get("meta") or {}), "injection": injection}
    return record


def make(
    pool: Sequence[Sample], kinds: Sequence[str], per_type: int | None, seed: int, progress: Progress
) -> list[Record]:
    """The test records, in the order of the samples and, within one, of NAMES. per_type: at most so many of each
    type, from samples drawn at random."""
    made: list[tuple[int, int, Record]] = []
    for kind in kinds:
        order = list(range(len(pool)))
        if per_type is not None:
            random.Random(f"{seed}/{kind}").shuffle(order)
        found = 0
        for at in order:
            if found == per_type:
                break
            progress.update()
            record = inject(pool[at], kind, pool, seed)
            if record is not None:
                made.append((at, NAMES.index(kind), record))
                found += 1
    return [record for _, _, record in sorted(made, key=lambda one: one[:2])]


# ---------------------------------------------------------------- the verb


def run(
    files: Sequence[str],
    selection: Selection,
    *,
    types: tuple[str, ...],
    per_type: int | None,
    only_checked: bool,
    seed: int,
    output: str | None,
    overwrite: bool,
    quiet: bool,
) -> int:
    """The verb; returns the exit code."""
    kinds = [name for name in NAMES if not types or name in types]
    source = selection.source(files, "verdict", keep=output is not None)
    decides = {"types": kinds, "per_type": per_type, "only_checked": only_checked, "seed": seed, **selection.identity()}
    dropped: Counter[str] = Counter()
    with (
        Output(
            output,
            tool="cotpass",
            version=cotpass.__version__,
            verb="calibrate inject",
            options=decides,
            source=source,
            overwrite=overwrite,
        ) as out,
        Progress("calibrate inject", None, "tries", quiet) as progress,
    ):
        if out.finished:
            print(f"cotpass: {output}: complete already; nothing to do", file=sys.stderr)
            return 0
        pool = usable(source, only_checked, dropped)
        if not pool:
            told = ", ".join(f"{count} {why}" for why, count in sorted(dropped.items())) or "no records"
            raise BadInput(
                f"input: expected at least one sample with a right answer and no wrong step, got none ({told})"
            )
        records = make(pool, kinds, per_type, seed, progress)
        for record in records:
            out.write(record)
        counts = Counter(record["meta"]["injection"]["type"] for record in records)
        left = {kind: len(pool) - counts[kind] for kind in kinds if per_type is None and counts[kind] < len(pool)}
        out.finish(
            {
                "read": len(pool) + sum(dropped.values()),
                "written": len(records),
                "skipped_bad": source.bad,
                "made": {kind: counts[kind] for kind in kinds},
                "not_applicable": left,
                "left_out": dict(sorted(dropped.items())),
            },
            seed=seed,
        )
    if not quiet:
        print(
            f"cotpass: {len(records)} test records from {len(pool)} samples: {_listed(counts, kinds)}", file=sys.stderr
        )
        if left:
            print(f"cotpass: cannot be made of some samples: {_listed(left, kinds)}", file=sys.stderr)
        if dropped:
            print(f"cotpass: samples left out: {_listed(dropped, sorted(dropped))}", file=sys.stderr)
    return 0


def _listed(counts: Mapping[str, int], names: Sequence[str]) -> str:
    return ", ".join(f"{counts[name]} {name}" for name in names if counts.get(name))
