"""Answers: 500 whole numbers in every dress, towers of powers within their deadline, callers of any thread."""

import random
import threading
import time

import pytest

from grpo_roc import verify


def graded(*records, **how):
    settings = verify.Settings(**{"workers": 1, **how})
    return [one for _, one in verify.execute(settings, ((str(i), record) for i, record in enumerate(records)))]


def said(words, **more):
    return {"response": f"<reason>so</reason><answer>{words}</answer>", **more}


def dresses(n):
    text, grouped = str(n), f"{n:,}"
    return [
        text, grouped, f"{text}.0", f"{text}.00", f"{text}.", f" {text} ", f"${text}$", f"{text}\\text{{ cm}}", f"\\text{{{text}}}", f"+{text}" if n >= 0 else text,
        f"{'-' if n < 0 else ''}0{abs(n)}", f"\\frac{{{2 * n}}}{{2}}", f"x={text}", f"{text}\\,\\mathrm{{m}}",
    ]  # fmt: skip


def test_five_hundred_whole_numbers_are_never_misjudged():
    """Each as its own dress, and beside a near miss: none accepted falsely, none refused falsely."""
    rng = random.Random(0)
    numbers = [0, 1, -1, 7, 42, 1000, 1234, -999, 10**9, 999_999_999_999] + [
        rng.randrange(-(10**6), 10**7) for _ in range(490)
    ]
    right, wrong = [], []
    for i, n in enumerate(numbers):
        options = dresses(n)
        right.append(said(f"\\boxed{{{options[i % len(options)]}}}", answer=str(n)))
        other = n + rng.choice([-1, 1, 10])
        wrong.append(said(f"\\boxed{{{dresses(other)[i % len(options)]}}}", answer=str(n)))
    assert len(numbers) == 500
    missed = [
        (one["answer"], one["response"]) for one, told in zip(right, graded(*right), strict=True) if not told["correct"]
    ]
    taken = [
        (one["answer"], one["response"])
        for one, told in zip(wrong, graded(*wrong), strict=True)
        if told["grade"] != "wrong"
    ]
    assert missed == [] and taken == []


@pytest.mark.parametrize(
    ("record", "grade", "reason"),
    [
        (said("\\boxed{4}", answer="4"), "correct", ""),
        (said("\\boxed{5} no: \\boxed{4}", answer="4"), "correct", ""),  # the last box
        (said("4", answer="4"), "wrong", ""),
        ({"response": "\\boxed{4}", "answer": "4"}, "wrong", "no answer block"),
        ({"response": "\\boxed{4} <answer>\\boxed{5}</answer>", "answer": "4"}, "wrong", ""),
        (said("\\boxed{4}", answer="4", finish_reason="length"), "wrong", "truncated"),
        (said("\\boxed{4}"), "ungradable", "no gold"),
        (said("\\boxed{4}", answer="4", error="engine died"), "ungradable", "engine died"),
        ({"answer": "4"}, "ungradable", "no response"),
        (said("\\boxed{4}", gts="4"), "correct", ""),
        (said("\\boxed{4}", reward_model={"style": "rule", "ground_truth": 4}), "correct", ""),
        (
            {
                "turns": [
                    {"text": "<tool_call><answer>\\boxed{5}</answer></tool_call>"},
                    {"text": "<answer>\\boxed{4}</answer>"},
                ],
                "answer": "4",
            },
            "correct",
            "",
        ),
        (
            {"turns": [{"text": "<answer>\\boxed{4}</answer>"}, {"text": "print('<answer>')"}], "answer": "4"},
            "correct",
            "",
        ),
        (said("\\boxed{\\frac{1}{2}}", answer="0.5"), "correct", ""),
        # a box in the prose before a block, of which the tag is spoken of
        ({"response": "<answer> tags: \\boxed{5}. <answer>4</answer>", "answer": "5"}, "wrong", ""),
        ({"response": "<answer>\\boxed{4}</answer> or \\boxed{5}</answer>", "answer": "4"}, "correct", ""),
        # a block begins and ends in one turn, as for the penalty
        ({"turns": [{"text": "<answer>\\boxed{4}"}, {"text": "</answer>"}], "answer": "4"}, "wrong", "no answer block"),
        # a call that never ends is of its turn alone
        (
            {
                "output": "<tool_call>{oopsuser\n<tool_response>\nFailed to decode tool call: x\n</tool_response>\nassistant\n<answer>\\boxed{4}</answer>",
                "gts": "4",
            },
            "correct",
            "",
        ),
        # chats, TRL's too
        (
            {
                "messages": [
                    {"role": "user", "content": "q"},
                    {"role": "assistant", "content": "<answer>\\boxed{4}</answer>"},
                ],
                "answer": "4",
            },
            "correct",
            "",
        ),
        (
            {
                "prompt": "q",
                "completion": [{"role": "assistant", "content": "<answer>\\boxed{4}</answer>"}],
                "answer": "4",
            },
            "correct",
            "",
        ),
        ({"prompt": "q", "completion": "<answer>\\boxed{4}</answer>", "answer": "4"}, "correct", ""),
        (said("\\boxed{100000000000000000000}", answer=1e20), "correct", ""),
        (said("\\boxed{0.0000001}", answer=1e-7), "correct", ""),
        # shapes that are none
        ({"turns": "abc", "answer": "4"}, "ungradable", "turns: expected a list"),
        ({"turns": [5], "answer": "4"}, "ungradable", "turns: expected a list"),
        ({"turns": [{"text": 5}], "answer": "4"}, "ungradable", "turns: expected strings"),
        ({"messages": [{"role": "assistant", "content": 5}], "answer": "4"}, "ungradable", "expected text"),
        (said("\\boxed{4}", answer="4", meta=[1]), "correct", ""),
        (said("\\boxed{4}", answer="4", meta={"match": "some"}), "ungradable", "meta.match: expected"),
        (said("\\boxed{4}", answer={"a": 4}), "ungradable", "gold answer: expected"),
        (said("\\boxed{(x+1)^2}", answer="x^2+2x+1"), "correct", ""),
    ],
)
def test_what_counts(record, grade, reason):
    (told,) = graded(record)
    assert told["grade"] == grade and told["correct"] == (grade == "correct") and reason in told["grade_reason"]


def test_the_released_scope_takes_any_box():
    stray = {"response": "it may be \\boxed{4}", "answer": "4"}
    assert [graded(stray, scope=scope)[0]["grade"] for scope in ("answer", "response")] == ["wrong", "correct"]


def test_a_tower_of_powers_costs_its_deadline_and_no_more():
    towers = [said(f"\\boxed{{{one}}}", answer="x+1") for one in ("9^{9^{9^{9}}}", "10^{10^{10}}+x")]
    began = time.monotonic()
    told = graded(*towers, said("\\boxed{1+x}", answer="x+1"), deadline=1.0)
    assert time.monotonic() - began < 30
    assert [one["correct"] for one in told] == [False, False, True]


def test_any_thread_may_ask():
    """Where a signal is used for the deadline, threads other than the first get an exception, taken for a wrong answer."""
    found = {}

    def ask(n):
        found[n] = graded(said("\\boxed{\\sqrt{8}}", answer="2\\sqrt{2}"), said("\\boxed{(x-1)(x+1)}", answer="x^2-1"))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert all([told["grade"] for told in found[n]] == ["correct", "correct"] for n in range(3))


def test_a_record_keeps_its_reward():
    told = graded(said("\\boxed{4}", answer="4"))
    assert verify.assemble({"reward": 0.0}, told)[0]["reward"] == 0.0
    assert verify.assemble({}, told)[0]["reward"] == verify.assemble({"reward": None}, told)[0]["reward"] == 1.0
    assert verify.assemble({"reward": "0.3"}, told)[0]["reward"] == "0.3"  # nothing of a record is lost


@pytest.mark.parametrize(
    "gold,box,any_,number",
    [
        ("4307", "59 * 73", True, False),
        ("4307", "59 \\times 73", True, False),
        ("4307", "4307", True, True),
        ("4307", "$4,307$", True, True),
        ("4307", "x = 4307", True, True),
        ("-12", "-12", True, True),
        ("42", "\\frac{84}{2}", True, True),  # a number, in whatever form
        ("24", "4!", True, False),
        ("1024", "2^{10}", True, False),
        ("1/2", "2/4", True, True),
        ("2^{10}", "2^{10}", True, True),  # the gold is no whole number
        ("42", "42\\text{ cm}", True, True),
        ("42", "43", False, False),
    ],
)
def test_an_expression_may_be_refused_where_a_number_is_the_answer(gold, box, any_, number):
    record = {"answer": gold, "turns": [{"text": f"<answer>\\boxed{{{box}}}</answer>", "calls": []}]}
    forms: list[verify.Form] = ["any", "number"]
    for form, wanted in zip(forms, (any_, number), strict=True):
        [(_, found)] = verify.execute(verify.Settings(form=form), iter([("", record)]))
        assert found["correct"] is wanted, (form, found)
