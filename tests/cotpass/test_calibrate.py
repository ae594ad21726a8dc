"""`calibrate inject` and `report`: errors are what their label says, and shares are what a hand count gives."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from fractions import Fraction
from itertools import combinations

import pytest
from commandline import LoopbackModel, cotpass, read, write
from hypothesis import given, settings
from hypothesis import strategies as st

from cotpass import inject as module
from cotpass.cli import main
from cotpass.inject import NAMES, SEAM, Sample, equations, inject, segments, usable
from cotpass.reliability import Trial, fleiss_kappa, summary, wilson
from cotpass.steps import check_steps, vote
from tenfold_shared import BadInput, answers

PLUMS = {
    "id": "plums",
    "sample": 3,
    "messages": [{"role": "user", "content": "Tom buys 4 bags of 6 plums, eats 5 and sells the rest for $2 each."}],
    "answer": "38",
    "correct": True,
    "response": (
        "He has 4 * 6 = 24 plums.\nOf the 24 plums, 24 - 5 = 19 are left.\n"
        "He gets 19 × $2 = $38.\nThe answer is \\boxed{38}."
    ),
}
CAKES = {
    "id": "cakes",
    "sample": 0,
    "messages": [{"role": "user", "content": "What is 7 * 8 - 11?"}],
    "answer": "45",
    "correct": True,
    "response": "First 7 times 8 equals 56. Then 56 - 11 = 45. So it is \\boxed{45}.",
}


def sample_of(record):
    return usable([("f:1", record)], False, Counter())[0]


POOL = [sample_of(PLUMS), sample_of(CAKES)]


def made(record, kind, seed=0):
    return inject(sample_of(record), kind, POOL, seed)


# ---- reading


def test_segments_are_lines_or_sentences():
    assert segments("a\n\n  b c \nd") == [(0, 1), (5, 8), (10, 11)]
    text = "One. Two; three! Four"
    assert [text[s:e] for s, e in segments(text)] == ["One.", "Two;", "three!", "Four"]
    assert segments("") == segments(" \n ") == [] and segments("x") == [(0, 1)]


def test_equations_know_where_their_parts_stand():
    text = "So 3 + 4 = 7 apples. Then \\frac{1}{2} of 10 = 5, and 2 + 2 = 8 / 2 = 4."
    found = equations(text)
    assert [text[slice(*e.result)] if e.result else None for e in found] == ["7", "5", None, "4"]
    assert [text[e.left[0].start] for e in found] == ["3", "\\", "2", "8"]


# ---- the types, by hand


def test_each_type_by_hand():
    lines = PLUMS["response"].split("\n")
    for seed in range(6):
        record = made(PLUMS, "number-consistent", seed)
        first = record["response"].split("\n")
        new = int(record["response"][slice(record["meta"]["injection"]["start"], record["meta"]["injection"]["end"])])
        if record["meta"]["injection"]["position"] == 0:
            assert first[0] == f"He has 4 * 6 = {new} plums." and new != 24
            assert first[1] == f"Of the {new} plums, {new} - 5 = {new - 5} are left."
            rest = new - 5
        else:
            assert first[:2] == [lines[0], f"Of the 24 plums, 24 - 5 = {new} are left."]
            rest = new
        assert first[2:] == [f"He gets {rest} × $2 = ${2 * rest}.", f"The answer is \\boxed{{{2 * rest}}}."]
        assert record["correct"] is False and record["meta"]["injection"]["carried"] >= 3

    record = made(PLUMS, "number-inconsistent")
    changed = [(old, new) for old, new in zip(lines, record["response"].split("\n"), strict=True) if old != new]
    assert len(changed) == 1 and record["correct"] is True

    record = made(PLUMS, "step-deleted")
    where = record["meta"]["injection"]["position"]
    assert record["response"].split("\n") == lines[:where] + lines[where + 1 :] and where in (0, 1, 2)
    assert record["meta"]["injection"]["before"] == lines[where] + "\n"

    record = made(CAKES, "operator-swapped")
    swapped = ("7 plus 8 equals 56", "56 + 11 = 45")
    assert any(part in record["response"] for part in swapped) and record["correct"] is True

    record = made(PLUMS, "tail-cut")
    position = record["meta"]["injection"]["position"]
    assert record["response"] == "\n".join(lines[:position]) and position in (1, 2) and record["correct"] is False

    record = made(PLUMS, "final-answer")
    assert record["response"].split("\n")[:3] == lines[:3] and record["correct"] is False
    assert answers.extract(record["response"]) != "38"

    record = made(PLUMS, "splice")
    assert record["response"] == "First 7 times 8 equals 56. Then 56 - 11 = 45.\nThe answer is \\boxed{38}."
    assert record["correct"] is True and record["meta"]["injection"]["position"] is None

    record = made(PLUMS, "clean")
    assert record["response"] == PLUMS["response"] and record["meta"]["injection"]["right"] is True


@pytest.mark.parametrize("kind", NAMES)
def test_records_are_named_labelled_and_placed(kind):
    record = made({**PLUMS, "votes": ["yes"], "judge": [{}], "reward": 1.0, "mine": 7, "meta": {"a": 1}}, kind)
    injection = record["meta"]["injection"]
    assert record["id"] == f"plums#3/{kind}" and record["sample"] == 0 and record["schema"] == "verdict/1"
    assert injection["source"] == {"id": "plums", "sample": 3} and injection["right"] is (kind == "clean")
    assert (
        record["mine"] == 7 and record["meta"]["a"] == 1 and record["grade"] == ["wrong", "correct"][record["correct"]]
    )
    assert not {"votes", "judge", "reward"} & record.keys()
    if kind == "clean":
        assert injection["start"] is injection["end"] is injection["position"] is None
        return
    # Before and after the change nothing but what was carried differs; `before` puts it back.
    old, new, start, end = PLUMS["response"], record["response"], injection["start"], injection["end"]
    assert injection["type"] == kind and injection["of"] == 4 and 0 <= start <= end <= len(new)
    if kind not in ("number-consistent", "splice"):
        assert new[:start] + injection["before"] + new[end:] == old
    if kind != "splice":
        assert old.startswith(new[:start]) and 0 <= injection["position"] < 4


def test_separate_reasoning_is_the_text():
    record = {**PLUMS, "reasoning": PLUMS["response"].rsplit("\n", 1)[0], "response": "The answer is \\boxed{38}."}
    for kind in NAMES:
        new = inject(sample_of(record), kind, POOL, 0)
        assert "\x1d" not in new["response"] + new["reasoning"]
        injection = new["meta"]["injection"]
        if kind in ("number-inconsistent", "operator-swapped", "step-deleted"):
            assert injection["field"] == "reasoning" and new["response"] == record["response"]
            assert new["reasoning"][: injection["start"]] + injection["before"] + new["reasoning"][injection["end"] :] == record["reasoning"]  # fmt: skip
        if kind == "number-consistent":
            value = answers.extract(new["response"])
            assert value != "38" and f"${value}." in new["reasoning"]  # carried on into the response
        if kind == "final-answer":
            assert injection["field"] == "response" and new["reasoning"] == record["reasoning"]
            assert new["response"][: injection["start"]] == "The answer is \\boxed{"
        if kind == "tail-cut":
            assert new["response"] == "" and record["reasoning"].startswith(new["reasoning"])
        if kind == "splice":
            assert "7 times 8" in new["reasoning"] and new["response"] == record["response"]


@pytest.mark.parametrize(
    ("kind", "response"),
    [
        ("number-inconsistent", "I just know it: \\boxed{38}"),
        ("operator-swapped", "2 + 2 = 4, so \\boxed{4}"),  # 2 * 2 is 4 too, but 2 - 2 is not: see below
        ("number-consistent", "4 * 6 = 24\nThe answer is \\boxed{24}."),  # not used by a later equation
        ("number-consistent", "4 * 6 = 24\nAnd 24 - 5 = 19, as 20 - 1 = 19.\n\\boxed{19}"),  # 19 is found twice
        ("number-consistent", "3 + 3 = 6\n6 * 2 = 12\n\\boxed{12}"),  # 6 stands in the question
        ("step-deleted", "4 * 6 = 24\nThe answer is \\boxed{24}."),  # nothing would be left
        ("step-deleted", "4 * 6 = 24\n24 - 5 = 19\nAgain 25 - 6 = 19\n\\boxed{19}"),  # 24 alone can go
        ("tail-cut", "4 * 6 = 24, so \\boxed{24}"),
        ("final-answer", "So the answer is \\boxed{x + y}"),
        ("final-answer", "So the answer is 38"),
        ("splice", "\\boxed{38}"),
    ],
)
def test_types_that_cannot_apply_are_skipped(kind, response):
    record = {**PLUMS, "response": response}
    new = made(record, kind)
    if kind == "operator-swapped":
        assert new["response"] == "2 - 2 = 4, so \\boxed{4}"
    elif "Again" in response:
        assert new["response"] == response.removeprefix("4 * 6 = 24\n")
    else:
        assert new is None


def test_which_samples_are_used():
    rows = [
        PLUMS,
        {**PLUMS, "sample": 4, "correct": False},
        {**PLUMS, "sample": 5, "response": "4 * 6 = 25, so \\boxed{38}"},
        {**PLUMS, "sample": 6, "response": "Clearly \\boxed{38}"},
        {**PLUMS, "sample": 7, "finish_reason": "error", "error": "boom"},
    ]
    dropped = Counter()
    assert [s.record["sample"] for s in usable([("f:1", r) for r in rows], False, dropped)] == [3, 6]
    assert dropped == {"answer wrong": 1, "a written step is wrong": 1, "failed": 1}
    assert [s.record["sample"] for s in usable([("f:1", r) for r in rows], True, Counter())] == [3]


# ---- the types, on random chains


@st.composite
def responses(draw):
    """A correct chain of 2 to 6 equations in one of several styles, with prose between; and its question."""
    rng = draw(st.randoms(use_true_random=False))
    value, lines, given_ = rng.randint(12, 99), [], []
    given_.append(value)
    style = rng.choice(
        [
            "{} {} {} = {}",
            "{} {} {} = {} apples.",
            "So ${}$ {} ${}$ is equal to ${}$.",
            "we get {} {} {} = \\mathbf{{{}}}",
        ]
    )
    for _ in range(rng.randint(2, 6)):
        operand, sign = rng.randint(2, 12), rng.choice(["+", "-", "*", "×", "\\times", "/"])
        result = {"+": value + operand, "-": value - operand, "/": Fraction(value, operand)}.get(sign, value * operand)
        if result <= 0 or Fraction(result).denominator > 1:
            sign, result = "+", value + operand
        lines.append(style.format(value, sign, operand, result))
        if rng.random() < 0.3:
            lines.append(rng.choice(["Now the next step.", "", f"That makes {result} so far."]))
        given_.append(operand)
        value = int(result)
    joint = rng.choice(["\n", "\n\n", " "])
    lines.append(f"The answer is \\boxed{{{value}}}.")
    return {
        "id": "q",
        "sample": 0,
        "prompt": f"Work with {', then '.join(map(str, given_))}.",
        "answer": str(value),
        "correct": True,
        "response": joint.join(lines),
    }


@given(responses(), st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_injections_are_what_they_say(record, seed):
    old = check_steps(record["response"])
    if vote(old) != "yes":
        assert not usable([("f:1", record)], True, Counter())
        return
    sample = sample_of(record)
    for kind in NAMES:
        new = inject(sample, kind, POOL, seed)
        if new is None:
            continue
        report, injection = check_steps(new["response"]), new["meta"]["injection"]
        wrong = [step for step in report.steps if not step.holds]
        if kind == "clean":
            assert new["response"] == record["response"] and report == old and new["correct"]
        elif kind == "operator-swapped" or kind == "number-inconsistent":
            assert vote(report) == "no" and len(report.steps) == len(old.steps)
            at = injection["start"]
            assert any(step.at <= at <= step.at + 200 for step in wrong) and new["correct"]
        elif kind == "number-consistent":
            assert len(wrong) == 1 and len(report.steps) == len(old.steps) and injection["carried"] > 0
            assert wrong[0].at <= injection["start"] and not new["correct"]
            # The old value is nowhere after the change, unless it was given or is a value of another kind.
            changed = Fraction(injection["before"])
            assert changed not in [v for _, v in module._numbers(new["response"], injection["end"])]
        elif kind == "final-answer":
            assert report.steps == old.steps and not new["correct"]
        elif kind == "tail-cut":
            assert record["response"].startswith(new["response"]) and not new["correct"]
            assert len(report.steps) < len(old.steps)
        elif kind == "step-deleted":
            assert len(report.steps) < len(old.steps) and len(new["response"]) < len(record["response"])
        assert inject(sample, kind, POOL, seed) == new


def test_most_chains_take_every_type():
    """Guards the property test against a maker that gives up on everything."""
    found = Counter()
    rng = random.Random(0)
    for n in range(100):
        a, b, c = rng.randint(13, 40), rng.randint(3, 9), rng.randint(41, 60)
        record = {**PLUMS, "id": f"r{n}", "prompt": f"{a} and {b}, then {c}", "response": f"{a} * {b} = {a * b}\n{a * b} + {c} = {a * b + c}\n\\boxed{{{a * b + c}}}"}  # fmt: skip
        del record["messages"]
        for kind in NAMES:
            found[kind] += inject(sample_of(record), kind, POOL, 0) is not None
    assert all(found[kind] >= 95 for kind in NAMES), found


PIECES = ["3", "24", "1,000", "2.5", "½", " + ", "-", " × ", "\\times", " / ", "=", " = ", "\\approx", " is ", "\\frac{1}{2}",
          "\\boxed{", "}", "{", "(", ")", "%", "x", " apples", ". ", "\n", "\n\n", "So ", "²", "$", "…", "\x1c", "</think>"]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join), st.booleans(), st.integers(0, 3))
@settings(max_examples=300, deadline=None)
def test_no_text_breaks_it(text, apart, seed):
    record = {**PLUMS, "response": text, **({"reasoning": "4 * 6 = 24\n" + text} if apart else {})}
    for sample in usable([("f:1", record)], False, Counter()):
        for kind in NAMES:
            new = inject(sample, kind, [sample, *POOL], seed)
            if new is None:
                continue
            injection = new["meta"]["injection"]
            if kind != "clean":
                assert (new["response"], new.get("reasoning")) != (text, record.get("reasoning"))
                changed = new[injection["field"]]
                assert 0 <= injection["start"] <= injection["end"] <= len(changed)
            if kind in ("number-inconsistent", "number-consistent", "operator-swapped"):
                seen = check_steps(new.get("reasoning", "") + SEAM + new["response"] if apart else new["response"])
                assert vote(seen) == "no"


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"Line {i}: {i} + {i + 1} = {2 * i + 1}" for i in range(100, 700)) + "\n\\boxed{1399}",
        "\n".join(f"{1000 + 7 * i} + 7 = {1007 + 7 * i}" for i in range(300)) + "\n\\boxed{3100}",
        "1 + 1 = 2\n" + "\\boxed{" * 50_000,
        "2 + 2 = 4 " + "}" * 50_000 + "{" * 50_000 + "\\boxed{4}",
        "7 " * 50_000 + "\n3 + 3 = 6\n\\boxed{6}",
    ],
    ids=["lines", "chain", "boxes", "braces", "numbers"],
)
def test_a_long_text_is_no_trap(text):
    sample = Sample({**PLUMS, "response": text}, text, "")
    started = time.perf_counter()
    for kind in NAMES:
        inject(sample, kind, [sample, *POOL], 0)
    assert time.perf_counter() - started < 20


# ---- agreement and shares


def test_fleiss_kappa_by_hand():
    # Fleiss 1971's worked example: 10 subjects, 14 raters, 5 categories; kappa 0.210.
    table = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    assert fleiss_kappa(table) == pytest.approx(0.20993, abs=1e-5)
    # yyy, yyn, nnn: agreeing pairs 1, 1/3, 1; shares 5/9 and 4/9.
    agreeing, chance = 7 / 9, (25 + 16) / 81
    assert fleiss_kappa([[3, 0, 0], [2, 1, 0], [0, 3, 0]]) == pytest.approx((agreeing - chance) / (1 - chance))
    assert fleiss_kappa([[3, 0, 0], [0, 3, 0]]) == 1 and fleiss_kappa([[3, 0, 0]] * 4) is None
    assert fleiss_kappa([[1, 0, 0]]) is None and fleiss_kappa([]) is None
    with pytest.raises(BadInput):
        fleiss_kappa([[3, 0, 0], [1, 1, 0]])


@given(st.integers(2, 5).flatmap(lambda v: st.lists(st.lists(st.sampled_from("yna"), min_size=v, max_size=v), min_size=1, max_size=8)))  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_fleiss_kappa_counts_pairs(rows):
    pairs = [a == b for row in rows for a, b in combinations(row, 2)]
    everything = [vote for row in rows for vote in row]
    chance = sum((everything.count(c) / len(everything)) ** 2 for c in "yna")
    kappa = fleiss_kappa([[row.count(c) for c in "yna"] for row in rows])
    if len(set(everything)) == 1:
        assert kappa is None
    else:
        assert kappa == pytest.approx((sum(pairs) / len(pairs) - chance) / (1 - chance))


def test_wilson_against_the_literature():
    # Newcombe 1998, table I, method 3.
    for count, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)):  # fmt: skip
        score = wilson(count, n)
        assert (score["low"], score["high"]) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))
        assert score["value"] == count / n and score["n"] == n
    assert wilson(0, 0) == {"value": None, "low": None, "high": None, "n": 0}
    assert wilson(5, 5)["high"] == 1.0 and wilson(0, 5)["low"] == 0.0


def trial(kind, verdict, place=None, length=10, votes=None, ends=()):
    cast = votes or {True: (3, 0, 0), False: (1, 2, 0), None: (1, 1, 1)}[verdict]
    return Trial(kind, kind == "clean", cast, verdict, place, length, tuple(ends))


def test_report_by_hand():
    trials = [
        trial("tail-cut", False, 0.1, 10, ends=["stop", "length", "stop"]),
        trial("tail-cut", True, 0.5, 20),
        trial("splice", None, None, 30),
        trial("splice", False, None, 40),
        trial("clean", True, None, 50),
        trial("clean", None, None, 60),
    ]
    r = summary(trials)
    assert (r["n"], r["injected"], r["clean"], r["votes"]) == (6, 4, 2, 3)
    assert {name: (s["value"], s["n"], s["unjudged"]) for name, s in r["sensitivity"].items()} == {
        "overall": (0.5, 4, 1),
        "tail-cut": (0.5, 2, 0),
        "splice": (0.5, 2, 1),
    }
    assert (r["specificity"]["value"], r["fpr"]["value"], r["fnr"]["value"]) == (0.5, 0.25, 0.5)
    assert r["abstention"]["value"] == pytest.approx(2 / 18) and r["cap_rate"]["value"] == pytest.approx(1 / 3)
    assert {name: s["n"] for name, s in r["by_position"].items()} == {"first": 1, "middle": 1, "last": 0}
    assert [part["up_to"] for part in r["by_length"].values()] == [20, 40, 60]
    assert [part["sensitivity"]["n"] for part in r["by_length"].values()] == [2, 2, 0]
    assert r["by_length"]["long"]["specificity"]["value"] == 0.5
    table = [[3, 0, 0]] * 2 + [[1, 2, 0]] * 2 + [[1, 1, 1]] * 2
    assert r["kappa"] == pytest.approx(fleiss_kappa(table))
    assert r["fpr"]["value"] + r["sensitivity"]["overall"]["value"] + 1 / 4 == 1
    assert json.loads(json.dumps(r, allow_nan=False)) == r


# ---- the command


def graded(n=12):
    rng = random.Random(0)
    rows = []
    for i in range(n):
        a, b, c = rng.randint(13, 40), rng.randint(3, 9), rng.randint(41, 60)
        for j in range(2):
            tail = a * b + c + j
            rows.append({"id": f"t{i}", "prompt": f"Take {a} by {b} and add {c}.", "answer": str(a * b + c), "sample": j,
                         "response": f"{a} * {b} = {a * b}\nThen {a * b} + {c} = {tail}\nThe answer is \\boxed{{{tail}}}"})  # fmt: skip
    return rows


def test_grade_inject_judge_report(tmp_path):
    write(tmp_path / "s.jsonl", graded())
    assert cotpass("grade", tmp_path / "s.jsonl", "-o", tmp_path / "g.jsonl").returncode == 0
    result = cotpass("calibrate", "inject", tmp_path / "g.jsonl", "-o", tmp_path / "t.jsonl")
    assert result.returncode == 0 and "12 answer wrong" in result.stderr, result.stderr
    tests = read(tmp_path / "t.jsonl")
    assert Counter(r["meta"]["injection"]["type"] for r in tests) == dict.fromkeys(NAMES, 12)
    assert len({r["id"] for r in tests}) == 96
    manifest = json.loads((tmp_path / "t.jsonl.manifest.json").read_text())
    assert manifest["counts"]["made"]["splice"] == 12 and manifest["counts"]["left_out"] == {"answer wrong": 12}
    judged = cotpass("judge", tmp_path / "t.jsonl", "--judge", "steps", "--scope", "all", "-o", tmp_path / "j.jsonl")
    assert judged.returncode == 0, judged.stderr
    result = cotpass("calibrate", "report", tmp_path / "j.jsonl", "--json")
    assert result.returncode == 0, result.stderr
    r = json.loads(result.stdout)
    seen = {name: score["value"] for name, score in r["sensitivity"].items()}
    # What arithmetic shows is seen, what it cannot show is not.
    assert {name: seen[name] for name in ("number-inconsistent", "number-consistent", "operator-swapped")} == dict.fromkeys(("number-inconsistent", "number-consistent", "operator-swapped"), 1.0)  # fmt: skip
    assert seen["final-answer"] == seen["splice"] == seen["tail-cut"] == 0 and r["specificity"]["value"] == 1
    assert r["kappa"] is None and r["n"] == 96 and r["fnr"]["value"] == 0
    table = cotpass("calibrate", "report", tmp_path / "j.jsonl").stdout
    assert "number-inconsistent" in table and "100.0%" in table


def test_same_seed_same_bytes_and_a_filter(tmp_path):
    rows = [{**r, "correct": True} for r in graded() if r["sample"] == 0]
    write(tmp_path / "g.jsonl", rows)
    base = ["calibrate", "inject", tmp_path / "g.jsonl", "-q"]
    first = cotpass(*base)
    assert first.returncode == 0 and first.stderr == ""
    assert cotpass(*base, "--seed", 0).stdout == first.stdout != cotpass(*base, "--seed", 1).stdout
    piped = cotpass("calibrate", "inject", "-q", stdin=(tmp_path / "g.jsonl").read_text())
    assert piped.stdout == first.stdout
    # An injection depends on its own sample and type, not on what else is asked for.
    some = cotpass(*base, "--type", "tail-cut", "--type", "clean", "--per-type", 5)
    lines = first.stdout.splitlines()
    assert len(some.stdout.splitlines()) == 10 and set(some.stdout.splitlines()) < set(lines)
    assert cotpass(*base, "-o", tmp_path / "o.jsonl").returncode == 0
    assert (tmp_path / "o.jsonl").read_text() == first.stdout
    again = cotpass("calibrate", "inject", tmp_path / "g.jsonl", "-o", tmp_path / "o.jsonl")
    assert again.returncode == 0 and "complete already" in again.stderr
    other = cotpass(*base, "--seed", 1, "-o", tmp_path / "o.jsonl")
    assert other.returncode == 2 and "--seed 0, this one has 1" in other.stderr


def test_a_model_as_judge_with_caps_and_votes(tmp_path):
    write(tmp_path / "g.jsonl", [{**r, "correct": True} for r in graded(4) if r["sample"] == 0])
    assert cotpass("calibrate", "inject", tmp_path / "g.jsonl", "-o", tmp_path / "t.jsonl").returncode == 0
    with LoopbackModel(reply=lambda body: "\\boxed{yes}" if body["seed"] % 3 else "hm") as model:
        judged = cotpass("judge", tmp_path / "t.jsonl", "--model", model.uri, "--scope", "all", "-o", tmp_path / "j.jsonl")  # fmt: skip
    assert judged.returncode == 0, judged.stderr
    r = json.loads(cotpass("calibrate", "report", tmp_path / "j.jsonl", "--json").stdout)
    cast = Counter(v for row in read(tmp_path / "j.jsonl") for v in row["votes"])
    assert r["votes"] == 3 and r["abstention"]["value"] == pytest.approx(cast["abstain"] / cast.total())
    assert r["cap_rate"] == wilson(0, cast.total()) and -0.5 < r["kappa"] < 0.5
    assert r["sensitivity"]["overall"]["value"] == 0


@pytest.mark.parametrize(
    ("verb", "rows", "message"),
    [
        ("inject", [{"id": "a", "sample": 0, "response": "x"}], "in.jsonl:1: .*correct: .*cotpass grade"),
        ("inject", [{**PLUMS, "correct": False}], "right answer and no wrong step, got none .1 answer wrong"),
        ("inject", [], "got none .no records"),
        ("inject", [PLUMS, PLUMS], "in.jsonl:2: .*appears twice"),
        ("inject", [{**PLUMS, "response": 3}], "in.jsonl:1: response"),
        ("report", [PLUMS], "in.jsonl:1: .*meta.injection: .*calibrate inject"),
        ("report", [made(PLUMS, "clean")], "in.jsonl:1: .*not judged; .*--scope all"),
        ("report", [], "at least one judged test record"),
        ("report", [{**made(PLUMS, "clean"), "votes": ["yes"], "meta": {"injection": {"type": "clean"}}}], "meta.injection.right: expected true"),
        ("report", [{**made(PLUMS, "clean"), "votes": ["yes"]}, {**made(PLUMS, "splice"), "votes": ["yes"] * 2}], "expected 1 votes"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_two(tmp_path, verb, rows, message):
    import re

    write(tmp_path / "in.jsonl", rows)
    result = cotpass("calibrate", verb, tmp_path / "in.jsonl")
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and result.stdout == "", result.stderr
    assert re.search(message, result.stderr), result.stderr


def test_the_types_on_the_command_line_are_the_types():
    (option,) = [p for p in main.commands["calibrate"].commands["inject"].params if p.name == "types"]
    assert tuple(option.type.choices) == NAMES


@pytest.mark.parametrize("verb", [[], ["latent"], ["inject"], ["report"]])
def test_help_loads_no_library_that_takes_long_and_has_an_example(verb):
    result = cotpass("calibrate", *verb, "--help")
    assert result.returncode == 0 and "Example" in result.stdout
    code = (
        "import sys; from cotpass.cli import main; main(sys.argv[1:], standalone_mode=False);"
        "sys.exit(' '.join({'numpy', 'scipy', 'sympy', 'torch', 'transformers', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    told = subprocess.run([sys.executable, "-c", code, "calibrate", *verb, "--help"], capture_output=True, text=True)
    assert told.returncode == 0 and not told.stderr, told.stderr


def test_the_seam_is_white_space_to_every_reader():
    assert (
        SEAM.isspace()
        and check_steps(f"1 + 1 = 2{SEAM}2 + 2 = 4").steps == check_steps("1 + 1 = 2\n \n2 + 2 = 4").steps
    )
