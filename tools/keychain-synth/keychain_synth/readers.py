"""Lines of the forms that trainers and harnesses read, as rows: READERS, and `sniff`, which knows a form by its fields.

convert.py tells the forms; writers.py writes them. A reader is (where, number, line) -> record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import Template
from typing import Annotated, Any, TypeVar

import msgspec

from keychain_synth.fields import checked
from keychain_synth.row import CHAIN, PLAIN, SYSTEM
from keychain_synth.writers import FORMS, last_user, place_of
from tenfold_shared import BadInput
from tenfold_shared import records as shapes

Record = dict[str, Any]
T = TypeVar("T")


class _Pair(msgspec.Struct):
    key: str
    value: str | list[str]
    offset: int
    length: int


class _Needle(msgspec.Struct):
    token: int


class _Meta(msgspec.Struct):
    """What the writers read of a row's meta."""

    question: str | None = None
    source: str | None = None
    data_source: str | None = None
    kind: str | None = None
    match: str | None = None
    head: str | None = None
    tokens: int | None = None
    reserve: int | None = None
    pairs: list[_Pair] | None = None
    needles: list[_Needle] | None = None
    anchor: int | None = None
    gold_tokens: list[int] | None = None


class _Row(msgspec.Struct):
    meta: _Meta | None = None
    answer: str | list[str] | None = None


def filled(where: str, task: Any, text: Any) -> Record:
    """A `shell` with its text put back."""
    try:
        record = msgspec.json.decode(task)  # and not json: half a surrogate pair could not be written again
        holder, name = place_of(record)
        if holder.get(name) is None:
            holder[name] = text
    except (TypeError, ValueError, AttributeError, RecursionError):
        raise BadInput(
            f"{where}: task: expected a record as JSON text, as `keychain-synth convert` writes it"
        ) from None
    return record


SIGNS: dict[str, Callable[[Record], bool]] = {
    "verl": lambda r: "reward_model" in r and "prompt" in r,
    "openai-batch": lambda r: "custom_id" in r and "body" in r,
    "ruler": lambda r: "outputs" in r and "input" in r,
    "longbench": lambda r: "context" in r and "input" in r and "_id" in r,
    "keychain": lambda r: "context" in r and "input" in r,
    "rows": lambda r: "id" in r and ("messages" in r or "prompt" in r),
    "messages": lambda r: "messages" in r,
}


def sniff(where: str, line: Record) -> str:
    """The form of a line. Raises BadInput."""
    found = next((form for form, looks_like in SIGNS.items() if looks_like(line)), None)
    if found is None:
        fields = ", ".join(sorted(line)[:8]) or "none"
        raise BadInput(
            f"{where}: no known form; expected rows or one of {', '.join(FORMS[1:])}; found the fields {fields}"
        )
    return found


def _task(identity: Any, prompt: Record, answer: list[str] | None, **meta: Any) -> Record:
    known = {name: value for name, value in meta.items() if value is not None}
    return {"schema": shapes.schema("task"), "id": str(identity), **prompt, "answer": answer, "meta": known}


class _Turn(msgspec.Struct):
    role: str
    content: Any = None


class _Rule(msgspec.Struct):
    ground_truth: str | float | list[str | float | None] | None


class _Extra(msgspec.Struct):
    index: Any = None
    input_question: str | None = None
    match: str | None = None
    task: str | None = None


class _Verl(msgspec.Struct):
    prompt: Annotated[list[_Turn], msgspec.Meta(min_length=1)]
    reward_model: _Rule
    extra_info: _Extra | None = None
    data_source: str = "verl"


class _Chat(msgspec.Struct):
    messages: Annotated[list[_Turn], msgspec.Meta(min_length=1)]
    answers: list[str] | None = None
    id: str | int | None = None
    task: str | None = None


class _Body(msgspec.Struct):
    messages: list[_Turn] | None = None
    prompt: str | None = None


class _Batched(msgspec.Struct):
    custom_id: str | int
    body: _Body


class _Others(msgspec.Struct):
    id: str | int | None = None
    task: str | None = None


class _Ruler(msgspec.Struct):
    input: str
    outputs: list[str | float]
    index: int | None = None
    length: int | None = None
    answer_prefix: str | None = None
    others: _Others | None = None


class _Context(msgspec.Struct):
    """LongBench's lines and KeyChain's."""

    input: str
    context: str
    answers: list[str] | None = None
    distractor_context: str | None = None
    chain_head_with_question: str | None = None
    dataset: str | None = None
    id: str | int | None = None
    index: int | None = None
    task: str | None = None
    frame: tuple[str, str] | None = None


def _line(where: str, line: Record, kind: type[T]) -> T:
    try:
        return checked(line, kind)
    except ValueError as why:
        raise BadInput(f"{where}: {why}") from None


def _from_verl(where: str, number: int, line: Record) -> Record:
    told = _line(where, line, _Verl)
    extra, gold, name = told.extra_info or _Extra(), told.reward_model.ground_truth, told.data_source
    if extra.task:
        return filled(where, extra.task, last_user(line["prompt"]).get("content"))
    answer = None if gold is None else _texts(gold if isinstance(gold, list) else [gold])
    several = "all" if name.startswith("custom_rulerniah_") and len(answer or ()) > 1 else extra.match
    identity = f"{name}-{number if extra.index is None else extra.index}"
    prompt = {"messages": line["prompt"]}
    return _task(identity, prompt, answer, data_source=name, question=extra.input_question, match=several)


def _texts(values: Sequence[str | float | None]) -> list[str]:
    """Answers as text; a whole number that came as a float as it is written."""
    return [str(int(each)) if isinstance(each, float) and each.is_integer() else str(each) for each in values
            if each is not None]  # fmt: skip


def _from_messages(where: str, number: int, line: Record) -> Record:
    """A line that ends in an assistant's turn is a sample; it is number 0 of its task, as nothing counts them."""
    told, turns = _line(where, line, _Chat), line["messages"]
    response: Record = {}
    if turns[-1]["role"] == "assistant":
        turns, response = turns[:-1], {"sample": 0, "response": turns[-1].get("content") or ""}
    if told.task:
        record = filled(where, told.task, last_user(turns).get("content"))
        # A task's own last turn may be the assistant's, too: the beginning of an answer.
        if response and "sample" not in record:
            return {**record, "messages": line["messages"]}
        return {**record, "response": response["response"]} if response else record
    record = _task(number if told.id is None else told.id, {"messages": turns}, told.answers)
    return {**record, "schema": shapes.schema("sample"), **response} if response else record


def _from_openai_batch(where: str, number: int, line: Record) -> Record:
    body = _line(where, line, _Batched).body
    if body.messages is None and body.prompt is None:
        raise BadInput(f"{where}: body: expected messages or prompt in it; results of a batch are for `score`")
    prompt = {name: line["body"][name] for name in ("messages", "prompt") if name in line["body"]}
    return {"schema": shapes.schema("task"), "id": str(line["custom_id"]), **prompt}


def _from_ruler(where: str, number: int, line: Record) -> Record:
    """RULER's `input` is the prompt as the model sees it, its chat template included: a raw prompt."""
    told = _line(where, line, _Ruler)
    others = told.others or _Others()
    if others.task:
        return filled(where, others.task, told.input)
    answer = _texts(told.outputs)
    names = (others.id, told.index, number)
    return _task(
        next(each for each in names if each is not None), {"prompt": told.input}, answer, match="all" if len(answer) > 1 else None,
        length=told.length, answer_prefix=told.answer_prefix or None,
    )  # fmt: skip


def _from_context(where: str, number: int, line: Record) -> Record:
    """LongBench and KeyChain: a text and a question, put into our template; the file has no instruction of its own."""
    told = _line(where, line, _Context)
    head = told.chain_head_with_question
    context = told.distractor_context if head else told.context
    if context is None:
        raise BadInput(f"{where}: distractor_context: expected, is not there")
    if told.task:
        before, after = told.frame or ("", "")
        return filled(where, told.task, before + context + after)
    text = Template(CHAIN if head else PLAIN).substitute(context=context, head=head, question=told.input)
    turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
    names = (told.id, line.get("_id"), told.index, number)
    return _task(
        next(each for each in names if each is not None), {"messages": turns}, told.answers, question=told.input,
        source=told.dataset, head=head,
    )  # fmt: skip


READERS: dict[str, Callable[[str, int, Record], Record]] = {
    "rows": lambda where, number, line: line,
    "verl": _from_verl,
    "messages": _from_messages,
    "openai-batch": _from_openai_batch,
    "ruler": _from_ruler,
    "longbench": _from_context,
    "keychain": _from_context,
}


def read(where: str, number: int, line: Record, form: str = "auto") -> Record:
    """One line of any form as a task record; number: of the line, where nothing else names it. Raises BadInput."""
    seen = sniff(where, line) if form == "auto" else form
    if form != "auto" and not SIGNS[form](line):
        raise BadInput(
            f"{where}: --form {form}: this line is of another form; found the fields {', '.join(sorted(line)[:8])}"
        )
    record = READERS[seen](where, number, line)
    try:
        shapes.validate(record, "sample" if "response" in record else "task")
    except shapes.RecordProblem as problem:
        raise BadInput(f"{where}: {problem}") from None
    _line(where, record, _Row)
    return record
