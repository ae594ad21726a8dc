"""What is asked and read: prefixes, thinking in all its forms, verdicts, answers, loops, fitting a context."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dser import prompts
from dser.chain import Chain, Procedure
from dser.prompts import Prompts, Reading
from tenfold_shared import BadInput
from tenfold_shared.generate import Completion

TASK = {"id": "a", "prompt": "What is 1 + 1?"}
CHAIN = Chain(Procedure())


def reply(text, finish="stop", reasoning=None):
    return Completion("k", text, finish, 1, 1, "m", reasoning=reasoning)


def test_verify_and_refine_share_their_first_bytes():
    made = [Prompts().messages(role, TASK, CHAIN, "S" * 50, "R")[-1]["content"] for role in ("verify", "refine")]
    shared = len(made[0]) - len(made[0].lstrip()) or next(
        i for i, (a, b) in enumerate(zip(*made, strict=False)) if a != b
    )
    assert "S" * 50 in made[0][:shared] and TASK["prompt"] in made[0][:shared]
    assert "R" not in made[0] or "review" not in made[0]


def test_a_tasks_own_turns_stay():
    task = {
        "id": "a",
        "messages": [
            {"role": "system", "content": "Be terse."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi"},
            {"role": "user", "content": "1 + 1?"},
        ],
    }
    turns = Prompts().messages("verify", task, CHAIN, "2", "")
    assert turns[:3] == task["messages"][:3] and "1 + 1?" in turns[3]["content"] and len(turns) == 4
    assert Prompts(system="New").messages("solve", task, CHAIN, "", "")[0]["content"] == "New"


@pytest.mark.parametrize(
    ("text", "finish", "reasoning", "expected"),
    [
        ("<think>2?</think>It is 2.", "stop", None, ("It is 2.", False)),
        ("2?</think>It is 2.", "stop", None, ("It is 2.", False)),  # the template opened the tag
        ("<think>a</think>b<think>c</think>d", "stop", None, ("d", False)),
        ("It is 2.", "stop", "2?", ("It is 2.", False)),  # the server separates it
        ("", "length", "2? or", (None, True)),
        ("<think>2? or", "length", None, (None, True)),
        ("2? or", "length", None, (None, True)),  # may be inside a tag that the template opened
        ("<think>2? or", "stop", None, (None, True)),  # never closed
        ("a</think>half of it", "length", None, ("half of it", True)),
        ("half of it", "length", "thought", ("half of it", True)),
        ("", "stop", None, (None, False)),
        ("a</think>  ", "stop", None, (None, False)),
    ],
)
def test_solution_text(text, finish, reasoning, expected):
    assert prompts.solution_text(reply(text, finish, reasoning), "tags") == expected


def test_models_that_never_think():
    assert prompts.solution_text(reply("half of it", "length"), "none") == ("half of it", True)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{2}", "2"), (r"\boxed{1} no, \boxed{\frac{1}{2}}", r"\frac{1}{2}"), (r"\boxed{}", None),
        ("it is 2", None), (r"\boxed{{x}^{2}}", "{x}^{2}"), ("", None),
    ],
)  # fmt: skip
def test_answers(text, answer):
    assert prompts.answer_of(text, Reading()) == answer


def test_a_box_inside_the_thinking_is_no_answer():
    text, _ = prompts.solution_text(reply(r"<think>\boxed{7}</think>It is seven."), "tags")
    assert prompts.answer_of(text, Reading()) is None


def test_answer_pattern():
    how = Reading(require_box=False, answer="[0-9]{3}")
    assert prompts.answer_of("123", how) == "123" and prompts.answer_of("12", how) is None


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("fine\nVERDICT: PASS", "pass"), ("**Verdict:** fail", "fail"), ("VERDICT: FAIL, no: VERDICT: PASS", "pass"),
        ("I would pass it", "unknown"), ("", "unknown"), (None, "unknown"), ("yes, correct", "unknown"),
    ],
)  # fmt: skip
def test_verdicts(text, verdict):
    assert prompts.verdict_of(text, Reading()) == verdict


def test_loops():
    assert prompts.loops("so " + "wait, no. " * 30) and prompts.loops("a" * 90) and prompts.loops("0123456789" * 9)
    assert not prompts.loops("A proof that ends. " * 3) and not prompts.loops("") and not prompts.loops("aaaa")


@given(st.text("ab", max_size=60), st.text("abc", min_size=1, max_size=9))
def test_loops_finds_repeats(head, unit):
    assert prompts.loops(head + unit * 81)


def fit(solution, review, room):
    def build(s, r):
        return [{"role": "user", "content": f"P|{s}|{r}"}]

    return prompts.fitted(build, solution, review, lambda turns: len(turns[0]["content"]) <= room, Reading())


def test_fitting_cuts_the_review_first_then_the_head_of_the_solution():
    solution, review = "s" * 900 + r"\boxed{5}", "r" * 900 + "\nVERDICT: FAIL"
    assert fit(solution, review, 5000)[1] is None
    turns, cut = fit(solution, review, 1400)
    assert cut["solution"] == 0 and cut["review"] > 0 and solution in turns[0]["content"]
    assert turns[0]["content"].endswith("VERDICT: FAIL") and turns[0]["content"].startswith("P|")
    turns, cut = fit(solution, review, 700)
    assert cut["solution"] > 0 and r"\boxed{5}" in turns[0]["content"] and len(turns[0]["content"]) <= 700
    turns, _ = fit(solution, review, 10)  # hopeless: the shortest there is, with the problem whole
    assert turns[0]["content"].startswith("P|") and r"\boxed{5}" in turns[0]["content"]


@given(st.integers(0, 600), st.integers(0, 600), st.integers(3, 1300))
def test_fitting_keeps_within_the_room_or_at_the_least(solution, review, room):
    turns, cut = fit("s" * solution, "r" * review, room)
    size = len(turns[0]["content"])
    assert size <= room or size <= 3 + prompts.LEAST_REVIEW + prompts.LEAST_SOLUTION
    assert (cut is None) == (3 + solution + review <= room)


def test_the_verdicts_line_stays_wherever_it_is():
    for tail in ("", "\nI hope this helps!", "\nMore on step 3: " + "x" * 300):
        review = "Step 2 is wrong. " * 80 + "\nVERDICT: FAIL" + tail
        short = prompts.cut_review(review, 200, Reading())
        assert len(short) <= 200 and "VERDICT: FAIL" in short and short.startswith("Step 2 is wrong.")
    assert prompts.cut_review("y" * 500 + "\nthe last line", 100, Reading()).endswith("the last line")


def test_markers_named_more_than_once():
    text = "Summary: see the Detailed Solution.\n**2. Detailed Solution:**\nProof \\boxed{3}\nThis ends the Detailed Solution section."
    assert prompts.after_marker(text, "Detailed Solution").startswith("Proof \\boxed{3}")
    report = "Summary\nCritical Error in step 2.\n## Detailed Verification\nStep 1 holds."
    asked = Prompts(imo25=True).messages("refine", TASK, CHAIN, "s", report)[-1]["content"]
    assert "Critical Error in step 2." in asked and "Step 1 holds." not in asked
    assert prompts.before_marker("no such heading", "Detailed Verification") == "no such heading"


def test_the_marker_of_imo25():
    text = "Summary: done\n### Detailed Solution ###\nBy induction."
    assert prompts.after_marker(text, "Detailed Solution") == "By induction."
    assert prompts.after_marker("no such heading", "Detailed Solution") == "no such heading"
    asked = Prompts(imo25=True).messages("verify", TASK, CHAIN, text, "")[-1]["content"]
    assert "By induction." in asked and "Summary: done" not in asked


def test_templates_are_checked(tmp_path):
    good = tmp_path / "v.txt"
    good.write_text("$problem=$solution?\n")
    made = Prompts([f"verify={good}"])
    assert made.messages("verify", TASK, CHAIN, "2", "")[-1]["content"] == "What is 1 + 1?=2?" and made.hashes["verify"]
    for text, word in (("$reviw", "not a field"), ("nothing", "expected \\$solution"), ("$", "names nothing")):
        bad = tmp_path / "bad.txt"
        bad.write_text(text)
        with pytest.raises(BadInput, match=word):
            Prompts([f"refine={bad}"])
    with pytest.raises(BadInput, match="ROLE=FILE"):
        Prompts(["judge=x"])


def test_an_empty_review_is_told_in_our_own_words_only(tmp_path):
    own = tmp_path / "r.txt"
    own.write_text("$problem=$solution?$review>")
    assert Prompts([f"refine={own}"]).messages("refine", TASK, CHAIN, "2", "")[-1]["content"] == "What is 1 + 1?=2?>"
    assert prompts.NO_REVIEW in Prompts().messages("refine", TASK, CHAIN, "2", "")[-1]["content"]
