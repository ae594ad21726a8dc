"""The two penalties: a truth table made by hand, and the released scorer's traps, reproduced."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_roc import penalty
from grpo_roc.transcript import ERRORS, FINE, STATUSES, answers_of, calls_of, turns_of
from tenfold_shared.records import RecordProblem


def call(status, stdout="", **more):
    return {"name": "python", "arguments": {"code": "1"}, "status": status, "stdout": stdout, **more}


def turn(text="", *statuses):
    return {"text": text, "calls": [call(one) for one in statuses]}


ANSWER = "<reason>so</reason><answer>\\boxed{4}</answer>"
PROGRAM = '<tool_call>{"name": "python", "arguments": {"code": "print(\'<answer>4</answer>\')"}}</tool_call>'


@pytest.mark.parametrize(
    ("turns", "err", "form"),
    [
        ([turn(ANSWER)], 0.5, 0),  # no call; an answer in a single turn
        ([turn("", "ok"), turn("", "error"), turn(ANSWER, "ok_no_output")], 1 / 3, 0),
        ([turn("", "timeout"), turn(ANSWER)], 1, 0),
        ([turn("<tool_call>{oops</tool_call>", "invalid_call"), turn(ANSWER)], 1, 0),
        ([{"text": "", "calls": [call("ok", "standard error = 0.1")]}, turn(ANSWER)], 0, 0),
        ([turn("", "infra"), turn("", "error", "ok"), turn(ANSWER)], 0.5, 0),  # the environment's fault counts nowhere
        ([turn("", "infra"), turn(ANSWER)], 0, 0),
        ([turn("", "memory", "output_limit", "killed", "policy"), turn(ANSWER)], 1, 0),
        ([turn("4")], 0.5, 1),  # no block
        ([turn(""), turn(ANSWER + ANSWER)], 0.5, 0.5),
        ([turn(ANSWER), turn(ANSWER), turn(ANSWER), turn(ANSWER), turn(ANSWER)], 0.5, 4 / 5),
        ([turn(ANSWER * 5)], 0.5, 1),  # no more than 1
        ([turn("<answer>4")], 0.5, 1),
        ([turn("4</answer>")], 0.5, 1),
        ([turn("</answer><answer>")], 0.5, 1),
        ([turn("<answer><answer>4</answer></answer>")], 0.5, 1),
        ([turn("<answer>"), turn("</answer>")], 0.5, 1),  # a block is of one turn
        ([turn(ANSWER + "<answer>")], 0.5, 1),
        ([turn(PROGRAM, "ok"), turn(ANSWER)], 0, 0),  # a tag within a program's string is none
        ([turn("<tool_call>{ <answer>4</answer>", "invalid_call"), turn(ANSWER)], 1, 0),  # a call that never ends
        ([turn(ANSWER + "<tool_response><answer>5</answer></tool_response>", "ok")], 0, 0),  # made-up tool text
        ([turn("<reason>a</reason><reason>b</reason>" + ANSWER)], 0.5, 0),
    ],
)
def test_the_truth_table(turns, err, form):
    found = penalty.of_turns(turns)
    assert (found.err, found.format) == pytest.approx((err, form)) and found.total == pytest.approx(err + form)


@given(
    st.lists(
        st.tuples(st.text("<>/answer \\boxed{4}tol_c", max_size=40), st.lists(st.sampled_from(STATUSES), max_size=4)),
        min_size=1,
        max_size=6,
    )
)
def test_penalties_are_bounded(shape):
    turns = [turn(text, *statuses) for text, statuses in shape]
    found, calls = penalty.of_turns(turns), calls_of(turns)
    assert 0 <= found.err <= 1 and 0 <= found.format <= 1
    assert calls.failed <= calls.counted <= calls.made and answers_of(turns).count >= 0


def test_every_status_is_one_thing():
    assert FINE | ERRORS | {"infra"} == set(STATUSES) and not FINE & ERRORS


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "turns: expected a list"),
        ({"turns": []}, "turns: expected a list"),
        (
            {"turns": [{"text": "", "calls": [{"name": "x", "arguments": {}, "status": "fine"}]}]},
            r"turns\[0\]\.calls\[0\]\.status: expected one of ok, .* got 'fine'",
        ),
        ({"turns": [{"calls": []}]}, r"turns\[0\]\.text: expected a string"),
        ({"turns": [{"text": "", "calls": [7]}]}, r"turns\[0\]\.calls\[0\]: expected an object"),
        ({"turns": "none"}, "turns: expected a list"),
        ({"turns": [{"text": "", "calls": {}}]}, r"turns\[0\]\.calls: expected a list"),
    ],
)
def test_records_without_sound_turns_are_named(record, message):
    with pytest.raises(RecordProblem, match=message):
        turns_of(record)


# ---------------------------------------------------------------- as released


def rstar(*turns):
    return penalty.rstar(penalty.response_text(turns))


def test_the_released_scorer_takes_words_for_errors():
    fine = {"text": "", "calls": [call("ok", "standard error = 0.1")]}
    assert rstar(fine, turn(ANSWER)).err == 1 and penalty.of_turns([fine, turn(ANSWER)]).err == 0
    assert (
        rstar(turn("", "timeout"), turn(ANSWER)).err == 0
        and penalty.of_turns([turn("", "timeout"), turn(ANSWER)]).err == 1
    )
    raised = {"text": "", "calls": [call("error", stderr="ValueError: no")]}
    assert rstar(raised, turn(ANSWER)).err == 1
    # what is beyond 256 characters, from both ends, is not seen
    long = {"text": "", "calls": [call("error", "x" * 300, stderr="E" + "rror" + "y" * 300)]}
    assert rstar(long, turn(ANSWER)).err == 0 and penalty.of_turns([long, turn(ANSWER)]).err == 1


def test_the_released_scorer_does_not_see_the_first_header():
    assert rstar(turn(ANSWER)).format == 1
    three = [turn("", "ok"), turn(ANSWER), turn(ANSWER)]
    assert rstar(*three).format == 1 / 2 and penalty.of_turns(three).format == 1 / 3
    inside = [turn(PROGRAM, "ok"), turn(ANSWER)]
    assert rstar(*inside).format == 1 and penalty.of_turns(inside).format == 0


def test_a_response_as_the_released_trainer_decodes_it():
    got = penalty.response_text([{"text": "a", "calls": [call("ok", "7", wall_s=0.123)]}, turn("b")])
    assert got == (
        "a<|im_end|>\n<|im_start|>user\n<tool_response>\nTool call success\nstdout: 7\nexecution time: 0.12s\n</tool_response><|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
    )


@pytest.mark.parametrize(
    ("wall", "shown"), [(2, "2.00"), (0.5, "0.50"), (None, "0.00"), ("x", "0.00"), (10**400, "0.00")]
)
def test_a_time_that_is_none_is_shown_as_none(wall, shown):
    assert f"execution time: {shown}s" in penalty.tool_text(call("ok", wall_s=wall))
