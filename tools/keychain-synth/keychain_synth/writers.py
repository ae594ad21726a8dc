"""Rows as lines of the forms that trainers and harnesses read: WRITERS, and what of a record each takes.

convert.py tells the forms; readers.py reads them back. A writer is (where, index, record, settings) -> line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from string import Template
from types import MappingProxyType
from typing import Any, NamedTuple

from keychain_synth.reward import with_reasoning
from keychain_synth.row import CHAIN, PLAIN, TREE
from tenfold_shared import BadInput
from tenfold_shared import records as shapes

Record = dict[str, Any]

# What a form cannot hold; of the first group, only without `task`.
LOSES = {
    "rows": "nothing",
    "verl": "ids, meta, and whether a prompt was raw",
    "messages": "ids, meta, and whether a prompt was raw",
    "ruler": "ids, meta, system prompts and earlier turns",
    "longbench": "meta, system prompts and the instruction around the text",
    "keychain": "ids, meta, system prompts and the instruction around the text",
    "openai-batch": "answers and meta",
}
FORMS = tuple(LOSES)
# The prefixes of data_source that select a reward in LoongRL, with the `ability` its scripts write beside them.
ABILITIES = {
    "custom_longcontextqa_": "longcontext_qa",
    "custom_longcontext_needle_qa_": "longcontext_qa",
    "custom_rulerniah_": "ruler_niah",
    "custom_sentence_needle_": "sentence_needle",
    "custom_mathqa_choice_": "math_qa_choices",
    "custom_math_": "math",
}


class Settings(NamedTuple):
    """template: of the prompts, to find the text within them; None tries the built-in ones. carry: write `task`.

    model, sampling: of the requests.
    """

    split: str = "train"
    data_source: str | None = None
    template: str | None = None
    carry: bool = True
    model: str = "model"
    sampling: Mapping[str, Any] = MappingProxyType({})


def place_of(record: Record) -> tuple[Record, str]:
    """What holds the record's long text, its last user turn or its raw prompt, and under which name."""
    if not record.get("messages"):
        return record, "prompt"
    return last_user(record["messages"]), "content"


def last_user(turns: Sequence[Record]) -> Record:
    """The turn itself; without one an empty one, which belongs to nothing."""
    return next((turn for turn in reversed(turns) if turn.get("role") == "user"), {})


def text_of(where: str, record: Record) -> str:
    holder, name = place_of(record)
    found = holder.get(name)
    if not isinstance(found, str):
        raise BadInput(f"{where}: messages: expected text in the last user turn; this form holds nothing else")
    return found


def shell(record: Record) -> str:
    """The record as JSON text, its long text null."""
    bare = {**record}
    if record.get("messages"):
        bare["messages"] = [dict(turn) for turn in record["messages"]]
    holder, name = place_of(bare)
    if isinstance(holder.get(name), str):
        holder[name] = None
    return json.dumps(bare, ensure_ascii=False)


def answers_of(record: Record) -> list[str]:
    answer = record.get("answer")
    return [] if answer is None else [answer] if isinstance(answer, str) else list(answer)


def question_of(record: Record) -> str:
    """The short question where the row tells it, else all the user says."""
    return (record.get("meta") or {}).get("question") or shapes.question_of(record)


def data_source(where: str, record: Record, given: str | None = None) -> str:
    """What selects the reward: as given, as in `meta`, or by what the row is. Raises BadInput."""
    meta = record.get("meta") or {}
    found = given or meta.get("data_source")
    if found:
        return found
    if meta.get("needles") is not None:
        return f"custom_rulerniah_{meta.get('kind') or 'needle'}"
    if meta.get("pairs") is not None:
        return f"custom_longcontext{'_needle_qa' if meta['pairs'] else 'qa'}_{meta.get('source') or 'qa'}"
    raise BadInput(
        f"{where}: meta.data_source: nothing says which reward this row has; give --data-source, such as custom_math_x"
    )


def ability(source: str) -> str:
    return next((name for prefix, name in ABILITIES.items() if source.startswith(prefix)), "other")


class Frame(NamedTuple):
    """A prompt in three parts: the text to be read, and what stands before and behind it."""

    before: str
    context: str
    after: str


def frame(where: str, record: Record, template: str | None) -> Frame:
    """Where in the prompt its text stands, by the template it was made from. Raises BadInput."""
    text, meta = text_of(where, record), record.get("meta") or {}
    for each in (CHAIN, TREE, PLAIN) if template is None else (template,):
        before, after = (
            Template(part).safe_substitute(head=meta.get("head"), question=meta.get("question"))
            for part in re.split(r"\$(?:context\b|\{context\})", each, maxsplit=1)
        )
        if text.startswith(before) and text.endswith(after) and len(text) >= len(before) + len(after):
            return Frame(before, text[len(before) : len(text) - len(after)], after)
    raise BadInput(
        f"{where}: the prompt is not of {'the built-in template' if template is None else '--template'}, so that its "
        "text cannot be told from the instruction; give the --template it was made with"
    )


def without_pairs(record: Record, found: Frame) -> str:
    """The context as it was before the chains were put into it, by the offsets in `meta`."""
    pieces, done, shift = [], 0, len(found.before)
    for pair in record["meta"].get("pairs") or ():
        begin = pair["offset"] - shift
        pieces.append(found.context[done:begin])
        done = begin + pair["length"]
    return "".join([*pieces, found.context[done:]])


def _length(record: Record) -> int:
    """Tokens with the reserve, as RULER and KeyChain count them; -1 where nobody counted."""
    meta = record.get("meta") or {}
    return -1 if meta.get("tokens") is None else meta["tokens"] + (meta.get("reserve") or 0)


def _rows(where: str, index: int, record: Record, settings: Settings) -> Record:
    return record


def _verl(where: str, index: int, record: Record, settings: Settings) -> Record:
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in shapes.messages_of(record)]
    if not all(isinstance(turn["content"], str) for turn in turns):
        raise BadInput(f"{where}: messages: expected text in every turn; a verl prompt holds nothing else")
    source = data_source(where, record, settings.data_source)
    # `match` is for our own compute_score; several answers of which all are wanted are otherwise told by the source.
    match = (record.get("meta") or {}).get("match")
    extra = {"split": settings.split, "index": index, "input_question": question_of(record), "match": match}
    if settings.carry:
        extra["task"] = shell(record)
    return {
        "data_source": source,
        "prompt": turns,
        "ability": ability(source),
        "reward_model": {"style": "rule", "ground_truth": answers_of(record)},
        "extra_info": extra,
    }


def _messages(where: str, index: int, record: Record, settings: Settings) -> Record:
    """Samples end in their response; a task's line ends with the user's turn."""
    turns = list(shapes.messages_of(record))
    line: Record = {"messages": turns, "answers": answers_of(record)}
    if "response" in record:
        line["messages"] = [
            *turns,
            {"role": "assistant", "content": with_reasoning(record["response"], record.get("reasoning"))},
        ]
    bare = {name: value for name, value in record.items() if name not in ("response", "reasoning")}
    return {**line, "task": shell(bare)} if settings.carry else line


def _openai_batch(where: str, index: int, record: Record, settings: Settings) -> Record:
    chat = bool(record.get("messages"))
    prompt = {"messages": record["messages"]} if chat else {"prompt": record["prompt"]}
    url = "/v1/chat/completions" if chat else "/v1/completions"
    body = {"model": settings.model, **prompt, **settings.sampling}
    return {"custom_id": record["id"], "method": "POST", "url": url, "body": body}


def _ruler(where: str, index: int, record: Record, settings: Settings) -> Record:
    """`others` is handed on by RULER's own pred/call_api.py, so that `task` comes back with the predictions too."""
    meta = record.get("meta") or {}
    line = {
        "index": index,
        "input": text_of(where, record),
        "outputs": answers_of(record),
        "length": _length(record),
        "length_w_model_temp": _length(record),
        "answer_prefix": "",
        "token_position_answer": _anchor(where, meta),
    }
    return {**line, "others": {"id": record["id"], "task": shell(record)}} if settings.carry else line


def _anchor(where: str, meta: Record) -> int:
    needles, anchor, gold = meta.get("needles"), meta.get("anchor"), meta.get("gold_tokens")
    if not needles:
        return gold[0] if gold else -1
    if anchor is None or not 0 <= anchor < len(needles):
        raise BadInput(f"{where}: meta.anchor: expected the number of one of its {len(needles)} needles")
    return needles[anchor]["token"]


def _longbench(where: str, index: int, record: Record, settings: Settings) -> Record:
    found = frame(where, record, settings.template)
    line = {
        "input": question_of(record),
        "context": found.context,
        "answers": answers_of(record),
        "length": _length(record),
        "dataset": (record.get("meta") or {}).get("source") or "keychain-synth",
        "language": "en",
        "all_classes": None,
        "_id": record["id"],
    }
    return {**line, **_framed(record, found)} if settings.carry else line


def _keychain(where: str, index: int, record: Record, settings: Settings) -> Record:
    found, meta = frame(where, record, settings.template), record.get("meta") or {}
    line = {
        "index": index,
        "input": question_of(record),
        "context": without_pairs(record, found) if meta.get("pairs") else found.context,
        "answers": answers_of(record),
        "length": _length(record),
    }
    if meta.get("pairs"):
        # A text value is another pair's key or a question; a tree's inner values are lists.
        known = {*(pair["key"] for pair in meta["pairs"]), meta.get("question")}
        values = (pair["value"] for pair in meta["pairs"])
        line["distract_questions"] = [each for each in values if isinstance(each, str) and each not in known]
        line["distractor_context"] = found.context
        if meta.get("head") is None:
            raise BadInput(f"{where}: meta.head: expected the key to begin with, is not there")
        line["chain_head_with_question"] = meta["head"]
    return {**line, **_framed(record, found)} if settings.carry else line


def _framed(record: Record, found: Frame) -> Record:
    return {"task": shell(record), "frame": [found.before, found.after]}


WRITERS: dict[str, Callable[[str, int, Record, Settings], Record]] = {
    "rows": _rows,
    "verl": _verl,
    "messages": _messages,
    "openai-batch": _openai_batch,
    "ruler": _ruler,
    "longbench": _longbench,
    "keychain": _keychain,
}
