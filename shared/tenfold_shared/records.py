"""The four record shapes every verb reads and writes: task, sample, verdict, trajectory.

A record is a plain dict at run time, so that fields we do not know are carried through
untouched; the msgspec structs below only say what the fields we do know must look like.
`jsonl/source.py` calls `validate` on each line it reads. Documented for users in shared/README.md.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

Index = Annotated[int, msgspec.Meta(ge=0)]
Vote = Literal["yes", "no", "abstain"]


class RecordProblem(ValueError):
    """A record is not of its kind; the text is `field: what was expected`."""


class Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None


class Usage(msgspec.Struct):
    prompt_tokens: Index
    completion_tokens: Index


class Call(msgspec.Struct):
    """One tool call of a turn and what came back."""

    name: str
    arguments: Any
    status: str
    stdout: str | UnsetType = UNSET
    stderr: str | UnsetType = UNSET


class Turn(msgspec.Struct):
    text: str
    calls: list[Call] | UnsetType = UNSET


class Task(msgspec.Struct):
    """A question: chat `messages` or a raw `prompt`, and the gold `answer` where there is one."""

    id: str
    schema: str | UnsetType = UNSET
    messages: list[Message] | UnsetType = UNSET
    prompt: str | UnsetType = UNSET
    answer: str | list[str] | None | UnsetType = UNSET
    meta: dict[str, Any] | UnsetType = UNSET


class Sample(Task, kw_only=True):
    """One response to a task; `sample` counts from 0 within a task."""

    sample: Index
    response: str
    reasoning: str | None | UnsetType = UNSET
    finish_reason: Literal["stop", "length", "error"] | UnsetType = UNSET
    usage: Usage | UnsetType = UNSET
    model: str | UnsetType = UNSET
    error: str | UnsetType = UNSET


class Verdict(Sample, kw_only=True):
    """A sample and what judges added to it."""

    correct: bool | UnsetType = UNSET
    grade: Literal["correct", "wrong", "ungradable"] | UnsetType = UNSET
    grade_reason: str | UnsetType = UNSET
    votes: list[Vote] | UnsetType = UNSET
    judge: list[dict[str, Any]] | UnsetType = UNSET
    reward: float | UnsetType = UNSET


class Trajectory(Sample, kw_only=True):
    """A sample made of turns, with the token arrays a trainer needs (all of one length)."""

    group: str | int | UnsetType = UNSET
    rollout: Index | UnsetType = UNSET
    reward: float | UnsetType = UNSET
    turns: list[Turn] | UnsetType = UNSET
    prompt_ids: list[int] | UnsetType = UNSET
    token_ids: list[int] | UnsetType = UNSET
    loss_mask: list[int] | UnsetType = UNSET
    logprobs: list[float] | UnsetType = UNSET


KINDS: dict[str, type[msgspec.Struct]] = {
    "task": Task,
    "sample": Sample,
    "verdict": Verdict,
    "trajectory": Trajectory,
}
MAJOR = 1

# A later kind holds every field of the earlier ones, so it may stand where they are expected.
ACCEPTS = {
    "task": {"task", "sample", "verdict", "trajectory"},
    "sample": {"sample", "verdict", "trajectory"},
    "verdict": {"sample", "verdict", "trajectory"},
    "trajectory": {"trajectory"},
}


def schema(kind: str) -> str:
    """The value of the `schema` field of records we write, e.g. `task/1`."""
    return f"{kind}/{MAJOR}"


def validate(record: Any, kind: str) -> None:
    """Check the known fields of one decoded record.

    Raises RecordProblem with `field: expected …` (the caller adds file and line).
    """
    if not isinstance(record, dict):
        raise RecordProblem(f"record: expected a JSON object, got {_kind_of(record)}")
    check_schema(record, kind)
    try:
        msgspec.convert(record, KINDS[kind])
    except msgspec.ValidationError as error:
        raise RecordProblem(readable(error)) from None
    if kind == "task" and not record.get("messages") and "prompt" not in record:
        raise RecordProblem("messages: expected a chat list here, or a string in `prompt`; found neither")
    match = (record.get("meta") or {}).get("match", "any")
    if match not in ("any", "all"):
        raise RecordProblem(f'meta.match: expected "any" or "all", got {match!r}')


def check_schema(record: dict[str, Any], kind: str) -> None:
    """A record that declares a schema declares KIND's, or one that may stand in its place. Raises RecordProblem."""
    declared = record.get("schema")
    if declared is None:
        return
    name, _, version = str(declared).partition("/")
    if name not in KINDS or not version:
        raise RecordProblem(f"schema: expected {schema(kind)}, got {declared!r}")
    if version.split(".")[0] != str(MAJOR):
        raise RecordProblem(f"schema: {declared} is of another major version; this tool reads {schema(kind)}")
    if name not in ACCEPTS[kind]:
        raise RecordProblem(f"schema: expected {schema(kind)}, got {declared}")


def readable(error: Exception) -> str:
    """What was wrong with JSON, in the words of all tools: msgspec's `Expected `str`, got `int` - at `$.id`` as
    `id: expected str, got int`; bytes that are no JSON as such."""
    if isinstance(error, UnicodeDecodeError):
        return f"expected UTF-8: {error.reason} at byte {error.start}"
    if isinstance(error, RecursionError):
        return "JSON nested too deeply"
    if not isinstance(error, msgspec.ValidationError):
        return f"not JSON: {error}"
    text, _, path = str(error).partition(" - at `")
    field = path.rstrip("`").removeprefix("$").removeprefix(".")
    text = text.replace("`", "")
    if text.startswith("Object missing required field "):
        missing = text.removeprefix("Object missing required field ")
        return f"{field + '.' if field else ''}{missing}: required field is missing"
    if text.startswith("Object contains unknown field "):
        unknown = text.removeprefix("Object contains unknown field ")
        return f"{field + '.' if field else ''}{unknown}: unknown field"
    return f"{field or 'record'}: {text[:1].lower()}{text[1:]}"


def _kind_of(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def messages_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The chat of a task; a raw prompt reads as one user turn."""
    if record.get("messages"):
        return record["messages"]
    return [{"role": "user", "content": record.get("prompt", "")}]


def question_of(record: dict[str, Any]) -> str:
    """The last user turn as text: what a judge or a report shows as the problem."""
    for message in reversed(messages_of(record)):
        if message.get("role") == "user":
            content = message.get("content") or ""
            if isinstance(content, str):
                return content
            texts = (part.get("text") for part in content)
            return "".join(text for text in texts if isinstance(text, str))
    return ""
