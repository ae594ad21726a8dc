"""`keychain-synth inspect`: one row for people: its chain step by step, where its gold documents stand, in colour.

Reads what synth.py wrote; the way from the head to the question is followed in the text itself (resolver.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from keychain_synth.check import Meta, meta_of, text_of
from keychain_synth.resolver import Found, Unresolved, headers, pairs_in, resolve
from tenfold_shared import BadInput
from tenfold_shared.cli import Selection, print_table

Record = dict[str, Any]

_AROUND = 60  # characters shown on either side of a pair


def describe(record: Record, where: str) -> Record:
    """The object of `--json`: what the row is and each step of its chain, in the order it must be followed.

    `steps`: {key, value, depth (0 to 1 of the prompt), passage, offset, around}; `gold`: {slot, title, depth}.
    """
    try:
        meta, (text, _) = meta_of(record), text_of(record)
    except ValueError as why:
        raise BadInput(f"{where}: {why}; expected a row made by `keychain-synth synth`") from None
    passages = headers(text)
    told = {
        name: record["meta"].get(name)
        for name in ("source", "source_id", "type", "question", "question_hops", "length", "tokens", "reserve",
                     "documents", "hops", "structure", "id_format", "head")
    }  # fmt: skip
    told["id"], told["answer"] = record["id"], record.get("answer")
    told["gold"] = [
        {"slot": slot, "title": each.title, "depth": round(each.begin / len(text), 4)}
        for each in passages
        for slot in meta.gold_slots
        if each.number == slot + 1
    ]
    told["steps"] = [
        {"key": pair.key, "value": pair.value, "depth": round(pair.begin / len(text), 4), "offset": pair.begin,
         "passage": max((each.number for each in passages if each.begin <= pair.begin), default=None),
         "around": text[max(0, pair.begin - _AROUND) : pair.end + _AROUND]}
        for pair in _way(text, meta)
    ]  # fmt: skip
    told["decoys"] = len(meta.decoys)
    told["answerable_decoys"] = sum(decoy.answerable for decoy in meta.decoys)
    told["resolved"] = None
    if meta.hops:
        try:
            told["resolved"] = resolve(text).question == meta.question or "the chain ends in another question"
        except Unresolved as why:
            told["resolved"] = str(why)
    return told


def _way(text: str, meta: Meta) -> list[Found]:
    """The pairs from the head to the question; in a tree the ones on the way that has a question, from its end back."""
    pairs = {pair.key: pair for pair in pairs_in(text)}
    above = {target: pair.key for pair in pairs.values() for target in pair.targets}
    way: list[Found] = []
    key = above.get(meta.question)
    while key in pairs and len(way) <= len(pairs):
        way.append(pairs[key])
        if key == meta.head:
            break
        key = above.get(key)
    return way[::-1]


def coloured(record: Record, where: str, whole: bool) -> Any:
    """A rich object: the facts, the steps, and with `whole` the prompt with pairs and gold headers marked."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    told = describe(record, where)
    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for name in ("id", "source", "question", "answer", "head"):
        value = told[name]
        facts.add_row(name, Text(", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    facts.add_row("tokens", f"{told['tokens']} of {told['length']}, {told['reserve']} of them kept for the answer")
    facts.add_row("documents", f"{told['documents']}, gold at " + (", ".join(
        f"{each['slot'] + 1} ({each['depth']:.0%}) {each['title']}" for each in told["gold"]) or "none"))  # fmt: skip
    if told["hops"]:
        facts.add_row("decoys", f"{told['decoys']}, {told['answerable_decoys']} of them can be answered from the text")
        facts.add_row("resolved", "yes" if told["resolved"] is True else f"no: {told['resolved']}")
    steps = Table(title="The way to the question")
    for head in ("", "depth", "passage", "in the text"):
        steps.add_column(head, justify="right" if head != "in the text" else "left", overflow="fold")
    for at, step in enumerate(told["steps"], 1):
        around = Text(" ".join(step["around"].split()))
        around.highlight_regex(re.escape(json.dumps({step["key"]: step["value"]}, ensure_ascii=False)), "bold green")
        steps.add_row(str(at), f"{step['depth']:.0%}", str(step["passage"] or "–"), around)
    parts: list[Any] = [facts]
    if told["steps"]:
        parts.append(steps)
    if whole:
        text = Text(text_of(record)[0])
        for pair in record["meta"]["pairs"]:
            style = "bold green" if pair["chain"] == 0 else "dim cyan"
            text.stylize(style, pair["offset"], pair["offset"] + pair["length"])
        for each in told["gold"]:
            text.highlight_regex(rf"(?m)^Passage {each['slot'] + 1}:$", "bold yellow reverse")
        if told["head"]:
            text.highlight_regex(re.escape(told["head"]), "bold green")
        parts.append(text)
    return Group(*parts)


def run(files: Sequence[str], selection: Selection, *, row: str | None, whole: bool, as_json: bool) -> int:
    """The verb: the row called `row`, or the first."""
    for where, record in selection.source(files, "task"):
        if row is None or record["id"] == row:
            if as_json:
                print(json.dumps(describe(record, where), ensure_ascii=False))
            else:
                print_table(coloured(record, where, whole))
            return 0
    raise BadInput(
        f"--row {row}: no such id in these rows"
        if row
        else f"{', '.join(files) or '<stdin>'}: expected at least one row, got none"
    )
