"""The model judge: what it is shown, how its verdict is read, what becomes of a failed vote."""

import pytest

from cotpass import judge
from cotpass.judge import Settings, assemble, issues, plan, prompt, shown, verdict, wanted
from tenfold_shared import BadInput

RECORD = {
    "id": "a",
    "sample": 0,
    "messages": [{"role": "user", "content": "What is $1 + $2?"}],
    "response": "<think>1 + 2 = 3</think>\nIt costs $3. \\boxed{3}",
    "answer": "GOLD-7391",
    "correct": True,
}


@pytest.mark.parametrize(
    ("text", "finish", "vote"),
    [
        ("fine. \\boxed{yes}", "stop", "yes"),
        ("fine. \\boxed{ No }", "stop", "no"),
        ("\\boxed{YES}", "stop", "yes"),
        ("\\boxed{\\text{yes}}", "stop", "yes"),
        ("\\boxed{**no**.}", "stop", "no"),
        ("first \\boxed{no}, rather \\boxed{yes}", "stop", "yes"),
        ("<think>\\boxed{yes}</think> hence \\boxed{no}", "stop", "no"),
        ("<think>a</think>b<think>\\boxed{yes}</think> hmm", "stop", "abstain"),
        ("\\boxed{yes}", "length", "abstain"),
        ("\\boxed{yes/no}", "stop", "abstain"),
        ("\\boxed{yes or no}", "stop", "abstain"),
        ("\\boxed{maybe}", "stop", "abstain"),
        ("yes", "stop", "abstain"),
        ("\\boxed{yes", "stop", "abstain"),
        ("", "stop", "abstain"),
        ("\\boxed{yes} and the sum is \\boxed{3}", "stop", "abstain"),
    ],
)
def test_verdict(text, finish, vote):
    assert verdict(text, finish) == vote


def test_issues_and_classes():
    text = "ISSUE (calculation error): 3*4 is 12\n- ISSUE (Omission): step 2\nISSUE(weird): x\nno issue here"
    assert issues(text) == [
        {"class": "calculation error", "text": "3*4 is 12"},
        {"class": "omission/incompleteness", "text": "step 2"},
        {"class": "other", "text": "x"},
    ]


def test_prompt_holds_problem_and_whole_response_but_never_the_gold():
    text = prompt(RECORD, Settings())
    assert RECORD["response"] in text and "What is $1 + $2?" in text
    assert "GOLD-7391" not in text and "\\boxed{yes}" in text
    assert prompt(RECORD, Settings(template="$$5 ${question}|$response")) == f"$5 What is $1 + $2?|{RECORD['response']}"


@pytest.mark.parametrize(
    ("cot", "expected"),
    [("both", RECORD["response"]), ("think", "<think>1 + 2 = 3"), ("final", "\nIt costs $3. \\boxed{3}")],
)
def test_cot_parts(cot, expected):
    assert shown(RECORD, cot) == expected
    plain = {**RECORD, "response": "no tags"}
    assert shown(plain, cot) == "no tags"  # without tags all of it is the reasoning


def test_separate_reasoning_is_put_back():
    record = {**RECORD, "response": "3", "reasoning": "1+2=3"}
    assert shown(record, "both") == "<think>\n1+2=3\n</think>\n3"
    assert shown(record, "final").strip() == "3"


def test_scope_and_ungraded_records():
    wrong = {**RECORD, "correct": False}
    assert wanted("f:1", RECORD, "correct") and not wanted("f:1", wrong, "correct") and wanted("f:1", wrong, "all")
    assert not wanted("f:1", {**RECORD, "error": "x"}, "all")
    ungraded = {k: v for k, v in RECORD.items() if k != "correct"}
    with pytest.raises(BadInput, match=r"f:1: correct: .*cotpass grade"):
        wanted("f:1", ungraded, "correct")


def test_votes_are_separate_requests_with_seeds_of_their_own():
    requests = plan("f:1", RECORD, Settings(votes=3, seed=1))
    assert [suffix for suffix, _ in requests] == ["/0", "/1", "/2"]
    assert len({r.seed for _, r in requests}) == 3 and requests[0][1].key == "a#0/0"
    assert plan("f:1", RECORD, Settings(seed=2))[0][1].seed != requests[0][1].seed


def completion(text, **more):
    base = {"text": text, "finish_reason": "stop", "prompt_tokens": 5, "completion_tokens": 2, "model": "m"}
    return {**base, **more}


def test_assemble_keeps_raw_text_and_failed_votes_abstain():
    (made,) = assemble(
        RECORD, [completion("\\boxed{yes}"), completion("", error="500", finish_reason="error"), completion("?")]
    )
    assert made["votes"] == ["yes", "abstain", "abstain"] and made["schema"] == "verdict/1"
    assert made["judge"][0]["text"] == "\\boxed{yes}" and made["judge"][1]["error"] == "500"
    assert "error" not in made
    (left,) = assemble(RECORD, [])
    assert "votes" not in left


def test_steps_judge_reads_the_whole_response():
    ((suffix, text),) = judge.plan_steps("f:1", RECORD, Settings())
    assert suffix == "/steps" and text == RECORD["response"]
    ((_, report),) = judge.execute_steps(iter([("k", "1 + 2 = 3 and 2 * 3 = 7")]))
    (made,) = judge.assemble_steps(RECORD, [report])
    assert made["votes"] == ["no"] and made["judge"][0]["first_wrong"] == 1 and len(made["judge"][0]["steps"]) == 2
