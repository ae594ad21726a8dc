"""The chain as a state machine: calls and their number, policies, what is kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dser.chain import Chain, Procedure, Step, policy_of
from tenfold_shared import BadInput


def play(procedure, answer=None, verdict=None, **fields):
    """Run a chain on replies by rule: answer(n, role) and verdict(n); the calls made and the chain."""
    chain, calls = Chain(procedure), []
    while call := chain.next:
        calls.append(tuple(call))
        step = Step(id="a", chain=0, iteration=call.iteration, role=call.role)
        if call.role in ("verify", "check"):
            step.verdict = verdict(call.iteration) if verdict else "fail"
        else:
            step.answer = answer(call.iteration, call.role) if answer else str(call.iteration)
            step.text = f"{call.role} {call.iteration}"
        for name, value in fields.items():
            setattr(step, name, value(call) if callable(value) else value)
        chain.take(step)
    return chain, calls


@given(st.integers(0, 20))
def test_n_iterations_are_one_and_two_n_calls(n):
    chain, calls = play(Procedure(iterations=n), verdict=lambda i: "pass" if i % 2 else "unknown")
    assert len(calls) == 1 + 2 * n and chain.ended == "done"
    assert calls[0] == ("solve", 0) and calls[1::2] == [("verify", i) for i in range(n)]
    assert calls[2::2] == [("refine", i + 1) for i in range(n)]
    assert chain.cells == [str(i) for i in range(n + 1)] and chain.verdicts[-1] is None


def test_keep_on_pass_does_not_refine_what_passed():
    chain, calls = play(Procedure(iterations=4, policy="keep-on-pass"), verdict=lambda i: "fail" if i == 1 else "pass")
    assert [role for role, _ in calls].count("refine") == 1
    assert chain.cells == ["0", "0", "2", "2", "2"] and chain.carried == [False, True, False, True, True]


def test_stop_on_pass_needs_passes_in_a_row():
    verdicts = ["pass", "fail", "pass", "pass", "pass"]
    chain, calls = play(Procedure(iterations=9, policy="stop-on-pass", needed=2), verdict=lambda i: verdicts[i])
    assert chain.ended == "accepted" and calls[-1] == ("verify", 3)
    assert chain.cells == ["0", "0", "2", "2"]


def test_give_up_counts_fails_in_a_row():
    chain, _ = play(Procedure(iterations=30, policy="stop-on-pass", needed=5, give_up=10))
    assert chain.ended == "gave_up" and len([v for v in chain.verdicts if v]) == 10


def test_stop_on_stable_counts_equal_answers():
    given_ = ["1", "2", "2.0", "2", "2"]
    chain, _ = play(Procedure(iterations=9, policy="stop-on-stable", needed=2), answer=lambda n, role: given_[n])
    assert chain.ended == "stable" and len(chain.cells) == 4  # 2 and 2.0 are the same answer
    chain, _ = play(Procedure(iterations=5, policy="stop-on-stable", needed=1), answer=lambda n, role: None)
    assert chain.ended == "done"  # no answer is no stable answer


def test_unknown_is_a_fail_unless_told():
    how = Procedure(iterations=3, policy="stop-on-pass")
    assert play(how, verdict=lambda i: "unknown")[0].ended == "done"
    lenient = Procedure(iterations=3, policy="stop-on-pass", unknown_passes=True)
    assert play(lenient, verdict=lambda i: "unknown")[0].ended == "accepted"


def test_a_lost_solution_keeps_the_one_before():
    chain, calls = play(Procedure(iterations=2), kept=lambda call: call == ("refine", 1))
    assert chain.cells == ["0", "0", "2"] and chain.carried == [False, True, False]
    assert len(calls) == 5


def test_a_lost_first_solution_is_solved_again():
    chain, calls = play(Procedure(iterations=2), kept=lambda call: call == ("solve", 0))
    assert calls == [("solve", 0), ("solve", 1), ("verify", 1), ("refine", 2)]
    assert chain.cells == [None, "1", "2"]


def test_force_answer_follows_a_truncated_solution():
    chain, calls = play(
        Procedure(iterations=1, force_answer=True),
        kept=lambda call: call.role != "force" and call.role != "verify",
        truncated=lambda call: call.role in ("solve", "refine"),
        trace=lambda call: "so far" if call.role in ("solve", "refine") else None,
    )
    assert calls == [("solve", 0), ("force", 0), ("verify", 0), ("refine", 1), ("force", 1)]
    assert chain.solution == "force 1"


def test_improve_and_check_of_imo25():
    how = Procedure(iterations=30, policy="stop-on-pass", needed=5, improve=True, check=True, give_up=10)
    chain, calls = play(how, verdict=lambda i: "pass")
    assert calls[:4] == [("solve", 0), ("improve", 0), ("verify", 0), ("check", 0)]
    assert chain.ended == "accepted" and len(calls) == 2 + 2 * 5 and chain.cells[0] == "0"


def test_another_steps_result_is_refused():
    chain = Chain(Procedure())
    with pytest.raises(BadInput, match=r"expected solve of iteration 0 next, found refine of iteration 3"):
        chain.take(Step(id="a", chain=0, iteration=3, role="refine"))


@pytest.mark.parametrize(
    "text", ["never", "always:2", "stop-on-pass:0", "stop-on-pass:x", "keep-on-pass:1", "stop-on-pass:"]
)
def test_bad_policies(text):
    with pytest.raises(BadInput, match="--policy"):
        policy_of(text)


def test_policies():
    assert policy_of("stop-on-pass:3") == ("stop-on-pass", 3) and policy_of("stop-on-stable") == ("stop-on-stable", 1)
