"""Final answers: the decision table row by row, math-verify as oracle, hostile input, deadlines."""

import json
import logging
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold_shared import answers
from tenfold_shared.answers import boxes, canonical, closed_forms, comparison, extract, grade, grade_many, grading, key

TOWER = "\\boxed{2003^{2002^{2001}}}"


def box(answer: str) -> str:
    return f"Therefore the answer is $\\boxed{{{answer}}}$."


# --- the decision table -----------------------------------------------------------------------------

TABLE = [
    ("42", box("41") + " Wait. " + box("42"), {}, "correct", ""),
    ("25", "\\boxed{25}, \\boxed{26}", {}, "wrong", ""),
    ("25", "\\boxed{25}, \\boxed{26}", {"box": "all"}, "wrong", ""),
    ("25, 26", "\\boxed{25}, \\boxed{26}", {"box": "all"}, "correct", ""),
    ("42", box("42") + " that is \\boxed{42", {}, "wrong", "no final answer"),
    ("42", "7 and then 42 but unknown", {}, "wrong", "no final answer"),
    ("42", "7 and then 42 but unknown", {"require_box": False}, "correct", ""),
    ("42", box("042"), {}, "correct", ""),
    ("42", box("42."), {}, "correct", ""),
    ("4", box("42."), {}, "wrong", ""),
    ("009", box("9"), {}, "correct", ""),
    ("1/3", box("0.333333"), {}, "correct", "tolerance"),
    ("1/3", box("0.33"), {}, "wrong", "tolerance"),
    ("10%", box("0.1"), {}, "correct", ""),
    ("10\\%", box("0.1"), {}, "correct", ""),
    ("10", box("10 cm"), {}, "correct", ""),
    ("(1,2)", box("1<x<2"), {}, "wrong", "representation"),
    ("6", box("3!"), {}, "correct", ""),
    ("3", box("3!"), {}, "wrong", ""),
    ("yes", box("yes"), {}, "correct", ""),
    ("yes", box("sey"), {}, "wrong", "text"),  # equal as products of symbols
    ("9", TOWER, {"deadline": 0.5}, "ungradable", "timeout after 0.5 s"),
]


@pytest.mark.parametrize(("gold", "text", "options", "outcome", "reason"), TABLE)
def test_decision_table(gold, text, options, outcome, reason):
    got = grade(gold, text, **options)
    assert got.grade == outcome, got
    assert reason in got.reason


@pytest.mark.parametrize(
    ("gold", "answer", "outcome"),
    [
        ("Half of 48 is 24. 48+24 = 72\n#### 72", "72", "correct"),
        ("She pays $1,080.\n#### 1,080", "1080", "correct"),
        ("#### 1,080", "1081", "wrong"),
        ("025", "25", "correct"),
        ("000", "0", "correct"),
        ("\\boxed{33}", "33", "correct"),
        ("So it is $\\boxed{\\frac{1}{2}}$.", "0.5", "correct"),
        ("$\\frac{3}{4}$", "0.75", "correct"),
        ("\\(\\frac{3}{4}\\)", "\\dfrac34", "correct"),
        ("$$x=5$$", "5", "correct"),
        (72, "72", "correct"),
        (0.5, "\\frac12", "correct"),
        ("\\text{Evelyn}", "Evelyn", "correct"),
        ("\\text{(C)}", "C", "correct"),
        ("C", "\\textbf{(C)}", "correct"),
        ("C", "\\text{D}", "wrong"),
        ("No", "\\text{no}.", "correct"),
        ("\\text{even}", "odd", "wrong"),
        ("12", "\\text{cannot be determined}", "wrong"),
        ("-5", "−5", "correct"),
        ("1000", "1,000", "correct"),
        ("\\sqrt{12}", "2\\sqrt{3}", "correct"),
        ("(x+1)^2", "x^2+2x+1", "correct"),
        (["1", "2"], "2", "correct"),
        (["1", "2"], "3", "wrong"),
        (None, "1", "ungradable"),
        ("", "1", "ungradable"),
        ("  $$ ", "1", "ungradable"),
        ([], "1", "ungradable"),
        ("\\frac{1}{", "1", "ungradable"),
        ("???", "???", "ungradable"),
        (["", "1"], "1", "ungradable"),
        ("\\boxed{7", "7", "ungradable"),
        ("7", "\\frac{", "ungradable"),
    ],
)
def test_gold_and_answer_formats(gold, answer, outcome):
    text = f"\\boxed {answer}" if answer == "\\frac{" else box(answer)
    if answer == "\\frac{":  # an answer math-verify cannot read
        text = box("\\frac{}{}")
    got = grade(gold, text)
    assert got.grade == outcome, got
    assert got.reason


def test_gold_comes_first():
    """verify is not symmetric: `x=1` answers 1, and 2x+z=1 is not answered by 1."""
    assert grade("1", box("2x+z=1")).grade == "correct"
    assert grade("2x+z=1", box("1")).grade == "wrong"


@pytest.mark.parametrize(
    ("gold", "text", "outcome"),
    [
        (["1", "2"], box("1, 2"), "correct"),
        (["1", "2"], box("2 \\text{ and } 1"), "correct"),
        (["1", "2"], box("\\{2, 1\\}"), "correct"),
        (["1", "2"], box("1") + " or " + box("2"), "correct"),
        (["1", "2"], box("1"), "wrong"),
        (["1", "2"], box("1, 2, 3"), "wrong"),
        (["1", "2"], box("1, 1"), "wrong"),
        (["1", "2"], box("1, 2, 3") + " no: " + box("1, 2"), "correct"),
        (["1", "2", "3"], box("1, 2, 3") + " no: " + box("1, 2"), "wrong"),
        (["1", "2"], box("1") + box("2") + box("3"), "wrong"),
        (["\\frac12", "1,000"], box("1{,}000, 0.5"), "correct"),
        (["(1,2)", "(3,4)"], box("(3,4), (1, 2)"), "correct"),
        (["(1,2)", "(3,4)"], box("(1,2), (4,3)"), "wrong"),
        (["2", "02"], box("2"), "correct"),
        (["\\sqrt{8}", "x+1"], box("1+x;2\\sqrt{2}"), "correct"),
        (["1", "2"], box("1, 2") + " \\boxed{", "wrong"),
        (["1", ""], box("1"), "ungradable"),
    ],
)
def test_match_all(gold, text, outcome):
    assert grade(gold, text, match="all").grade == outcome


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match=r"any\|all"):
        grade("1", box("1"), match="some")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"last\|first"):
        grade("1", box("1"), box="middle")  # type: ignore[arg-type]


# --- extraction -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "last", "first", "everything"),
    [
        ("\\boxed{1} then \\boxed{2}", "2", "1", "1, 2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}", "\\frac{1}{2}", "\\frac{1}{2}"),
        ("\\fbox{7}", "7", "7", "7"),
        ("\\boxed 7.", "7", "7", "7"),
        ("$\\boxed-7$", "-7", "-7", "-7"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}", "\\{1, 2\\}", "\\{1, 2\\}"),
        ("\\boxed{\\left\\{ 1 \\right.}", "\\left\\{ 1 \\right.", "\\left\\{ 1 \\right.", "\\left\\{ 1 \\right."),
        ("\\boxed{\\fbox{5}}", "5", "5", "5"),
        ("\\boxed {\n 5 \n}", "5", "5", "5"),
        ("\\boxed{5}, as it must be in \\boxed", "5", "5", "5"),
        ("\\boxed{5}, \\boxed", "5", "5", "5"),
        ("\\boxed{5}, not \\boxedfigure{6}", "5", "5", "5"),
        ("\\boxed{1} and \\boxed{2", None, None, None),
        ("\\boxed{", None, None, None),
        ("\\boxed{}", None, None, None),
        ("\\boxed{1} \\boxed{ }", None, "1", "1"),
        ("<think>\\boxed{1}</think>\\boxed{2}", "2", "2", "2"),
        ("\\boxed{1}</think> so 2", None, None, None),
        ("\\boxed{1</thinking>\\boxed{2}", "2", "2", "2"),
        ("a</think>\\boxed{1}</think>\\boxed{2}", "2", "2", "2"),
        ("[THINK]\\boxed{1}[/THINK] 2", None, None, None),
        ("nothing", None, None, None),
        ("", None, None, None),
    ],
)
def test_extract_boxes(text, last, first, everything):
    assert (extract(text), extract(text, "first"), extract(text, "all")) == (last, first, everything)
    assert ", ".join(boxes(text)) == (everything or "")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 5. The final answer is $\\frac{1}{2}$. Thanks for 3 questions.", "\\frac{1}{2}"),
        ("The answer to the question is 12 apples.\nI used 3 steps.", "12 apples"),
        ("**Final Answer:** 1.5", "1.5"),
        ("Answer: \\(x^2\\) holds for 3", "x^2"),
        ("answer: 7\nAnswer: 8", "8"),
        ("48/2 = 24, 24+48 = 72\n#### 1,072", "1072"),
        ("first 3, then 1,234.5 in all.", "1234.5"),
        ("it drops to -3/4", "-3/4"),
        ("answer: 5, boxed: \\boxed{6}", "6"),
        ("answer: 5, boxed: \\boxed{6", None),
        ("answer: 5 </think> no idea", None),
        ("no numbers here", None),
    ],
)
def test_extract_without_a_box(text, answer):
    assert extract(text, require_box=False) == answer


@given(
    st.lists(
        st.sampled_from(
            ["\\boxed{", "\\fbox{", "\\boxed {", "{", "}", "}", "\\{", "\\}", "\\\\", "1", " ", "</think>"]
        ),
        max_size=30,
    ).map("".join)
)
@settings(max_examples=500, deadline=None)
def test_extraction_agrees_with_a_brute_force_reader(text):
    """Oracle: the box command furthest right, braces counted character by character."""
    tail = text.split("</think>")[-1]
    commands = [at for at in range(len(tail)) if tail.startswith(("\\boxed", "\\fbox"), at)]
    expected = None
    if commands:
        at = start = tail.index("{", commands[-1])
        depth = 0
        while at < len(tail) and expected is None:
            if tail[at] == "\\":
                at += 1
            elif tail[at] in "{}":
                depth += 1 if tail[at] == "{" else -1
                if depth == 0:
                    expected = tail[start + 1 : at].strip()
            at += 1
    assert extract(text) == (expected or None)


# --- votes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("same", "canonical"),
    [
        (
            ["042", "42", "42.0", "\\frac{84}{2}", "$42$", "42 \\text{ cm}", "42 cm", "+42", " 42. ", "84/2", "x=42"],
            "42",
        ),
        (["\\frac{1}{2}", "\\dfrac12", "0.5", ".50", "1/2", "50\\%", "50%", "２/4"], "1/2"),
        (["-3", "−3", "-3.00", "-\\frac{6}{2}"], "-3"),
        (["1000", "1,000", "1{,}000", "\\$1,000"], "1000"),
        (["0", "-0", "000", "0.0"], "0"),
        (["Yes", "yes", "\\text{ Yes }", "\\textbf{yes}."], "yes"),
        (["2\\sqrt{3}", "2 \\sqrt{3}", "$2\\sqrt {3}$"], "2\\sqrt{3}"),
        (["(1,2)", "( 1, 2 )", "\\left(1, 2\\right)"], "(1,2)"),
    ],
)
def test_key_names_equal_answers_alike(same, canonical):
    assert {answer: key(answer) for answer in same} == dict.fromkeys(same, canonical)


def test_key_keeps_different_answers_apart():
    apart = [
        "1",
        "-1",
        "10",
        "0.1",
        "1/3",
        "0.333333",
        "x",
        "X",
        "(1,2)",
        "[1,2]",
        "2\\sqrt{3}",
        "3\\sqrt{2}",
        "yes",
        "no",
    ]
    assert len({key(answer) for answer in apart}) == len(apart)


@given(st.fractions(max_denominator=10**6))
@settings(deadline=None)
def test_key_of_a_fraction_is_its_exact_value(value):
    written = f"\\frac{{{value.numerator * 6}}}{{{value.denominator * 6}}}"
    assert Fraction(key(written)) == value == Fraction(key(str(value)))


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_key_is_total_and_stable(text):
    assert isinstance(key(text), str) and key(text) == key(" " + text + " ")


# --- math-verify as the oracle ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peer():
    """verify(gold, answer) of math-verify on the extracted answers, in this process."""
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)

    def decide(gold: str, answer: str) -> bool:
        gold_parsed, parsed = (parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in (gold, answer))
        return verify(gold_parsed, parsed, timeout_seconds=None)

    return decide


def written_number(rng: random.Random) -> str:
    n, d = rng.choice([rng.randrange(13), rng.randrange(1000), rng.randrange(10**6)]), rng.randrange(1, 12)
    sign = rng.choice(["", "", "-", "+", "−"])
    number = rng.choice(
        [f"{n}", f"{n:03d}", f"{n}.0", f"{n / 8}", f".{n}", f"{n}/{d}", f"{n:,}", f"\\frac{{{n}}}{{{d}}}",
         f"\\dfrac{{{n * 3}}}{{{d * 3}}}", f"\\frac{n % 10}{d % 10 or 1}", f"{n / 7:.{rng.randrange(1, 8)}f}",
         f"{n}\\%", f"{n}%", f"{n % 12}", f"{n % 12}.0000004", f"{n % 12}.000001", f"{n % 12 / 100}"]
    )  # fmt: skip
    unit = [
        "",
        "",
        "",
        " cm",
        "\\text{ cm}",
        "\\text{ square feet}",
        "^\\circ",
        "^{\\circ}",
        "\\mathrm{ cm}^2",
        " hours",
    ]
    return rng.choice(["", "", "", "\\$"]) + sign + number + rng.choice(unit)


def written_form(rng: random.Random) -> str:
    n, m, r = rng.randrange(1, 9), rng.randrange(1, 9), rng.choice([2, 3, 5, 8, 12])
    x, y = rng.sample("xyabn", 2)
    return rng.choice(
        [f"{n}\\sqrt{{{r}}}", f"{n} \\sqrt {{{r}}}", f"\\sqrt{{{n * n * r}}}", f"\\frac{{{n}}}{{\\sqrt{{{r}}}}}",
         f"{n}\\pi", f"\\frac{{{n}\\pi}}{{{m}}}", f"\\frac{{\\sqrt{{{r}}}}}{{{m}}}", f"{n}+\\sqrt{{{r}}}",
         f"\\sqrt{{{r}}} + {n}", f"{x}^2+{n}{x}+{m}", f"{m} + {n}{x} + {x}^{{2}}", f"({x}+{n})({x}+{m})",
         f"({x}+{n})^2", f"{n}{x}", f"{x}", f"{x} = {n}", f"\\frac{{{x}}}{{{n}}}", f"{x}/{n}", f"{n}{x}{y}",
         f"2^{{{n}}}", f"2^{n}", f"2^{{-{n}}}", f"{n} \\cdot {m}", f"\\frac{{1}}{{{n}}}{x}", f"{n}\\frac{{1}}{{{m}}}",
         f"{n}({m}-{x})", f"{n}({m})", f"({n})(\\frac{{1}}{{{m}}})", f"{n}!", f"{n}", "\\infty", f"{n}+{m}i"]
    )  # fmt: skip


def written_list(rng: random.Random) -> str:
    items = [rng.choice([str(rng.randrange(-2, 4)), f"\\frac{{{rng.randrange(1, 4)}}}{{2}}", "0.5"]) for _ in range(2)]
    opening, closing = rng.choice([("(", ")"), ("\\left(", "\\right)"), ("[", "]"), ("\\{", "\\}"), ("", "")])
    return opening + rng.choice([",", ", ", " , "]).join(items) + closing


def test_exact_paths_agree_with_math_verify(peer):
    """1,200 mixed pairs: what the exact paths decide, math-verify decides alike."""
    rng = random.Random(20250614)
    written = [kind(rng) for kind in (written_number, written_form, written_list) for _ in range(1500)]
    alike: dict[str, list[str]] = {}
    for answer in written:
        alike.setdefault(key(answer), []).append(answer)
    pairs = [tuple(rng.sample(written, 2)) for _ in range(400)]
    pairs += [tuple(rng.sample(written[at : at + 1500], 2)) for at in (0, 1500, 3000) for _ in range(150)]
    pairs += [tuple(rng.sample(group, 2)) for group in alike.values() if len(set(group)) > 1][:350]
    decided = {"correct": 0, "wrong": 0}
    for gold, answer in pairs:
        verdict = comparison.fast(gold, answer)
        if verdict:
            decided[verdict[0]] += 1
            assert (verdict[0] == "correct") == peer(gold, answer), (gold, answer, verdict)
    assert decided["correct"] >= 150 and decided["wrong"] >= 300, decided


def test_equal_closed_forms_agree_with_math_verify(peer):
    """Pairs our exact arithmetic calls equal though written differently."""
    rng = random.Random(4)
    groups: dict[tuple, set[str]] = {}
    for _ in range(4000):
        written = written_form(rng)
        form = closed_forms.closed_form(canonical.light(written))
        if form is not None:
            groups.setdefault(tuple(sorted(form.items())), set()).add(written)
    several = [sorted(group) for group in groups.values() if len(group) > 1]
    pairs = [(group[0], other) for group in several for other in group[1:]]
    assert len(pairs) >= 300
    for gold, answer in rng.sample(pairs, 300):
        verdict = comparison.fast(gold, answer)
        assert verdict is None or (verdict[0] == "correct") == peer(gold, answer), (gold, answer, verdict)


def test_grade_agrees_with_math_verify_end_to_end(peer):
    """What the exact paths leave to the worker, too."""
    rng = random.Random(7)
    items = []
    for _ in range(70):
        kind = rng.choice([written_form, written_list])
        items.append((kind(rng), kind(rng)))
    for (gold, answer), got in zip(items, grade_many((g, box(a), "any") for g, a in items), strict=True):
        assert (got.grade == "correct") == peer(gold, answer), (gold, answer, got)


@given(st.integers(-(10**9), 10**9), st.integers(1, 999), st.integers(-(10**9), 10**9), st.integers(1, 999))
@settings(deadline=None)
def test_closed_form_arithmetic_is_exact(a, b, c, d):
    written = f"\\frac{{{a}}}{{{b}}}+{abs(c)}/{d}-({abs(c)})/{d}"
    assert closed_forms.closed_form(written) == ({(1, ()): Fraction(a, b)} if a else {})


# --- deadlines ----------------------------------------------------------------------------------------


def test_towers_from_several_threads_at_once():
    """The worker is killed on time from any thread, and the graders stay usable."""
    towers = [f"\\boxed{{{base}^{{2002^{{2001}}}}}}" for base in range(2003, 2007)]
    seconds, grades = [], []

    def one(text: str) -> None:
        start = time.monotonic()
        grades.append(grade("9", text, deadline=0.4))
        seconds.append(time.monotonic() - start)

    grade("1", "\\boxed{\\log_2 5}")  # a worker is up
    threads = [threading.Thread(target=one, args=(tower,)) for tower in towers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [(g.grade, g.reason) for g in grades] == [("ungradable", "timeout after 0.4 s")] * 4
    assert max(seconds) < 30
    assert grade("\\log_2 8", box("3")).grade == "correct"


def test_tower_in_the_main_thread_is_on_time_and_remembered():
    grade("1", "\\boxed{\\log_2 7}")
    start = time.monotonic()
    first = grade("9", "\\boxed{7^{7^{7^{7^{7}}}}}", deadline=0.5)
    assert (first.grade, first.reason) == ("ungradable", "timeout after 0.5 s")
    assert time.monotonic() - start < 3
    start = time.monotonic()
    assert grade("9", "\\boxed{7^{7^{7^{7^{7}}}}}", deadline=0.5) == first
    assert time.monotonic() - start < 0.3


def test_grade_many_keeps_order_and_equals_grade():
    items = [(str(i), box([f"\\log_2 {2 ** (i % 9)}", str(i), f"x={i}"][i % 3]), "any") for i in range(90)]
    items.insert(5, ("9", "\\boxed{8^{8^{8^{8}}}}", "any"))
    many = list(grade_many(iter(items), workers=2, deadline=1.0))
    assert many[5].grade == "ungradable" and many[5].reason.startswith("timeout")
    with ThreadPoolExecutor(4) as threads:
        alone = list(threads.map(lambda item: grade(item[0], item[1], 1.0), items))
    assert [g.grade for g in many] == [g.grade for g in alone]
    assert [g.extracted for g in many] == [extract(text) for _, text, _ in items]


def test_importing_and_exact_grading_load_no_sympy():
    program = """
import sys, json
from tenfold_shared.answers import grade, key
outcomes = [grade(g, "\\\\boxed{%s}" % a).grade for g, a in [("1", "01"), ("1/2", "0.5"), ("2", "3"), ("yes", "no")]]
key("\\\\sqrt{2}")
print(json.dumps([outcomes, sorted(m for m in ("sympy", "math_verify", "torch") if m in sys.modules)]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [["correct", "correct", "wrong", "wrong"], []]


# --- hostile input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gold", "answer", "outcome"),
    [
        ("9", "{" * 20_000 + "9" + "}" * 20_000, "ungradable"),
        ("9", "9" * 5000, "wrong"),
        ("9" * 5000, "9" * 5000, "correct"),
        ("9" * 5000, "00" + "9" * 5000, "correct"),
        ("9" * 5000, "9" * 4999 + "8", "wrong"),
        ("9", "0" * 9000 + "9", "correct"),
        ("9", "1e999999999", "wrong"),
        ("9", "1e1000000000", "wrong"),
        ("0.1", "0." + "1" * 6000, None),
        ("9", "9\x00", None),
        ("9", "\u202e9", None),
        ("9", "٩", None),
        ("\x00", "\x00", "ungradable"),
        ("9", "(" * 300 + "9" + ")" * 300, None),
        ("9", "\\sqrt{" * 300 + "9" + "}" * 300, None),
        ("9", "9+" * 4000 + "9", None),
        ("9", "x" * 100_000, "wrong"),
    ],
)
def test_hostile_answers_end_in_a_grade(gold, answer, outcome):
    start = time.monotonic()
    got = grade(gold, box(answer), deadline=1.0)
    assert time.monotonic() - start < 30  # a worker may have to be started first
    assert got.grade == outcome if outcome else got.grade in ("correct", "wrong", "ungradable")


def test_exponents_are_never_expanded_in_this_process():
    """Each would take minutes or gigabytes; none may reach a worker through `key`, or be built here."""
    for bomb in (
        "1e1000000000",
        "10^{1000000000}",
        "1000000000!",
        "2003^{2002^{2001}}",
        "(9^{20})^{20}",
        "1e-999999999",
    ):
        start = time.monotonic()
        assert isinstance(key(bomb), str)
        comparison.fast("9", bomb)
        assert time.monotonic() - start < 1


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 1_000_000,
        "\\boxed{1}" * 200_000,
        "\\boxed" * 200_000,
        "\\boxed " * 200_000,
        "\\boxed{" + "{" * 1_000_000,
        "\\" * 1_000_000,
        "{}" * 600_000 + "\\boxed{1}",
        "</think>" * 200_000,
        "answer is " * 100_000,
        "answer" + " " * 1_000_000,
        "final answer " * 80_000,
        "1" * 1_000_000,
        "1," * 600_000,
        "#### " * 200_000,
        "\x00" * 1_000_000,
        "-" * 1_000_000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_extraction_is_linear(text):
    """Some 1 MB each; anything quadratic would take many minutes of processor time."""
    start = time.process_time()
    for box_ in ("last", "first", "all"):
        extract(text, box_)
        extract(text, box_, require_box=False)
    boxes(text)
    assert time.process_time() - start < 20


@given(st.text(alphabet="0123456789.,/\\{}()[]^_+-*=%$ abeixfrcsqtp!<>", max_size=40))
@settings(max_examples=500, deadline=None)
def test_exact_paths_never_raise(answer):
    for gold in ("7", "\\frac{1}{2}", "(1,2)", "x^2+1", "yes", "5\\%", answer[::-1]):
        verdict = comparison.fast(gold, answer)
        assert verdict is None or verdict[0] in ("correct", "wrong", "ungradable")
    key(answer)
    grading.parts_of(answer)


def test_long_runs_of_blanks_and_long_lists_take_no_time():
    for text in ("1" + " " * 100_000 + "1", ",".join("1" * 4000)):
        started = time.process_time()
        answers.grade("7", f"\\boxed{{{text}}}", deadline=0.5)
        answers.key(text)
        assert time.process_time() - started < 2.0  # a bound on hangs: this took 5 to 40 s


@pytest.mark.parametrize("answer", ["7) 4", "3 + 4)", '3 + 4)", "input": ""', "(4", "[4", "4]"])
def test_brackets_that_do_not_pair_are_no_answer(answer):
    """math-verify alone reads a part of these, and calls most of them 4."""
    assert grade("4", f"Answer: {answer}\nfinal \\boxed{{{answer}}}").grade == "ungradable"


@pytest.mark.parametrize(
    ("gold", "answer"), [("[0, 1)", "[0,1)"), ("(2x+1)(x-3)", "(x-3)(2x+1)"), ("\\left\\{x\\right.", "4")]
)
def test_brackets_of_two_kinds_may_pair(gold, answer):
    assert "do not pair" not in (grade(gold, box(answer)).reason or "")
