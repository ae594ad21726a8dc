"""What a trajectory did: its turns, its tool calls with what became of them, its answer blocks.

Where it sits: below penalty.py, resample.py and the environment, which all speak of calls by the statuses here. Everything is counted by
structure, never by searching tool text for words: a clean printout of "standard error = 0.1" is no error, and a timeout that says
nothing of an error is one (the paper's section 2.1).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from tenfold_shared.records import RecordProblem

Record = dict[str, Any]

# What a call may come to. infra is the environment's fault, not the model's: it is retried, and counts nowhere.
STATUSES = (
    "ok",
    "ok_no_output",
    "error",
    "timeout",
    "memory",
    "output_limit",
    "killed",
    "invalid_call",
    "policy",
    "infra",
)
FINE = frozenset({"ok", "ok_no_output"})
ERRORS = frozenset(STATUSES) - FINE - {"infra"}

_TAG = re.compile(r"</?answer>")
_CALL = re.compile(r"<tool_call>.*?(?:</tool_call>|\Z)", re.DOTALL)  # one that is never closed goes on to the end
_RESPONSE = re.compile(r"<tool_response>.*?(?:</tool_response>|\Z)", re.DOTALL)


class Answers(msgspec.Struct, frozen=True):
    """count: answer blocks; sound: every tag is one of a pair, none inside another, and there is a block at all."""

    count: int
    sound: bool


class Calls(msgspec.Struct, frozen=True):
    """made: calls of whatever outcome; counted: those that were the model's doing; failed: of these, how many did not run to an end."""

    made: int
    counted: int
    failed: int


def turns_of(record: Record) -> list[Record]:
    """The record's turns. Raises RecordProblem where it has none, or a call's status is unknown."""
    turns = record.get("turns")
    if not isinstance(turns, list) or not turns:
        raise RecordProblem(
            "turns: expected a list of {text, calls}, at least one; for verl dumps and TRL rollouts see --form"
        )
    for t, turn in enumerate(turns):
        if not isinstance(turn, dict) or not isinstance(turn.get("text"), str):
            raise RecordProblem(f"turns[{t}].text: expected a string")
        calls = turn.get("calls")
        if calls is None:
            continue
        if not isinstance(calls, list):
            raise RecordProblem(f"turns[{t}].calls: expected a list")
        for c, call in enumerate(calls):
            if not isinstance(call, dict):
                raise RecordProblem(f"turns[{t}].calls[{c}]: expected an object")
            if call.get("status") not in STATUSES:
                raise RecordProblem(
                    f"turns[{t}].calls[{c}].status: expected one of {', '.join(STATUSES)}, got {call.get('status')!r}"
                )
    found: list[Record] = turns
    return found


def calls_of(turns: Sequence[Record]) -> Calls:
    statuses = [call["status"] for turn in turns for call in turn.get("calls") or ()]
    counted = [status for status in statuses if status != "infra"]
    return Calls(len(statuses), len(counted), sum(status in ERRORS for status in counted))


def spoken(text: str) -> str:
    """A turn's text without tool calls and anything that is dressed as a tool's response: tags inside a program's strings are no tags."""
    return _RESPONSE.sub("", _CALL.sub("", text))


def answers_of(turns: Sequence[Record]) -> Answers:
    """Answer blocks of the assistant's own words; a block begins and ends in one turn."""
    count, sound = 0, True
    for turn in turns:
        tags = _TAG.findall(spoken(turn["text"]))
        pairs = len(tags) // 2
        count += sum(tags[k : k + 2] == ["<answer>", "</answer>"] for k in range(len(tags) - 1))
        sound = sound and tags == ["<answer>", "</answer>"] * pairs
    return Answers(count, sound and count > 0)
