"""`keychain-synth audit`: does every row keep its promise? Resolved from its prompt text alone.

resolver.py reads the prompt. What it finds must keep the law of the construction (reference: LoongRL, arXiv 2510.19363
§3.1): chains of equal length, every id once a key and once a value, no pair leads to the head, each chain ends in a
question of its own, and the row's own question stands in the text once. Then it is held against the row's `meta`: every
field that the text can bear out.

shortcut_share: rows in which the true question is the only chain question whose gold documents are all in the text. A
model can then skip the chain and pick the one question that can be answered. Rows of the published construction
have next to nothing else; `synth --decoys answerable:M` is against it. A decoy counts as answerable where meta says so
and the titles that meta names for it stand over passages of the text.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from keychain_synth.fields import checked
from keychain_synth.resolver import (
    Chain,
    Found,
    Unresolved,
    chains_in,
    follow,
    head_of,
    headers,
    outside,
    pairs_in,
    prompt_text,
    table_of,
)
from tenfold_shared import BadInput
from tenfold_shared.cli import Selection, print_table
from tenfold_shared.progress import Progress

Record = dict[str, Any]

_NAMED = 20  # failed rows listed


class Decoy(msgspec.Struct, frozen=True):
    id: str
    answerable: bool
    titles: list[str] = []


class Told(msgspec.Struct, frozen=True):
    """A pair as meta tells of it."""

    key: str
    value: str | list[str]
    offset: int
    length: int
    token: int
    chain: int


class Meta(msgspec.Struct, frozen=True):
    """What a row of `synth` says about itself, as far as its text can bear it out."""

    question: str
    length: int
    reserve: int
    tokens: int
    documents: int
    gold_slots: list[int]
    gold_tokens: list[int]
    gold_titles: list[str]
    hops: int
    structure: str | None
    head: str | None
    pairs: list[Told]
    decoys: list[Decoy]
    fit: str = "strict"


def meta_of(record: Record) -> Meta:
    """Raises ValueError with the field and what was expected of it."""
    return checked(record.get("meta"), Meta, "meta")


def check(record: Record) -> list[str]:
    """What is wrong with one row; nothing where all is well. The reasons name what was expected and found."""
    try:
        meta = meta_of(record)
    except ValueError as why:
        return [str(why)]
    text = prompt_text(record)
    pairs = pairs_in(text)
    wrong = list(_passages(text, meta))
    if meta.hops:
        try:
            wrong = [*_chains(text, pairs, meta), *wrong]
        except Unresolved as why:
            return [str(why), *wrong]
        return [*wrong, *_told_pairs(text, pairs, meta)]
    if not meta.question or meta.question not in text:
        wrong.append("a plain row: its question does not stand in the prompt")
    if pairs or meta.pairs or meta.decoys:
        wrong.append("a plain row holds pairs")
    return wrong


def _chains(text: str, pairs: Sequence[Found], meta: Meta) -> Iterator[str]:
    """The law of the chains. Raises Unresolved where the text leads to no question."""
    if not pairs:
        raise Unresolved("there are no pairs in the text")
    head = head_of(text, pairs)
    values = Counter(target for pair in pairs for target in pair.targets)
    own = follow(table_of(pairs), head)
    if head != meta.head:
        yield f"begins with {head}, expected {meta.head}"
    if own.question != meta.question:
        yield f"the chain ends in {own.question!r}, expected {meta.question!r}"
    if head in values:
        yield f"a pair leads to the key to begin with, {head}"
    chains = chains_in(pairs)
    if len(chains) != 1 + len(meta.decoys):
        yield f"the text has {len(chains)} chains, expected one and {len(meta.decoys)} decoys"
    for chain in chains:
        if chain.steps != meta.hops:
            yield f"the chain that begins with {chain.head}: followed {chain.steps} pairs, expected {meta.hops}"
            break
    if meta.structure == "chain" and len(pairs) != len(chains) * meta.hops:
        yield f"the text has {len(pairs)} pairs, expected {len(chains)} chains of {meta.hops}"
    yield from _questions(text, pairs, chains, own)


def _questions(text: str, pairs: Sequence[Found], chains: Sequence[Chain], own: Chain) -> Iterator[str]:
    """Each chain ends in another question; the row's own stands in no other pair, and not beside the pairs."""
    asked = Counter(chain.question.casefold() for chain in chains)
    question = own.question.casefold()
    for twice in (each for each, count in asked.items() if count > 1):
        yield f"{asked[twice]} chains end in {twice!r}"
    if sum(question in target.casefold() for pair in pairs for target in pair.targets) > 1:
        yield "another pair's value holds the question"
    passages = headers(text)
    begin = passages[0][0] if passages else 0
    if question in "\n".join(outside(text, pairs))[begin:].casefold():
        yield "the question stands in the text outside its pair"


def _passages(text: str, meta: Meta) -> Iterator[str]:
    """Passages as the text's own headers tell them."""
    found = headers(text)
    numbers = [number for _, number, _ in found]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"passages are not numbered from 1 to {len(numbers)}"
    if len(found) != meta.documents:
        yield f"meta.documents says {meta.documents}, the text has {len(found)} passages"
    if len({len(meta.gold_slots), len(meta.gold_tokens), len(meta.gold_titles)}) > 1:
        yield "meta.gold_slots, gold_tokens and gold_titles: expected equally many"
    for slot, title in zip(meta.gold_slots, meta.gold_titles, strict=False):
        there = found[slot][2] if 0 <= slot < len(found) else None
        if there != title:
            yield f"meta.gold_slots: expected {title!r} at {slot}, the text has {there!r}"
    if not meta.gold_slots or len(set(meta.gold_slots)) < len(meta.gold_slots):
        yield "meta.gold_slots: expected one or more, each once"
    for where in ([pair.token for pair in meta.pairs], sorted(meta.gold_tokens)):
        if where != sorted(where) or (where and not 0 <= where[0] <= where[-1] < meta.tokens):
            yield f"meta: expected tokens of pairs and documents in rising order, from 0 to {meta.tokens - 1}"
    titles = {title for *_, title in found}
    for decoy in meta.decoys:
        if decoy.answerable and not (decoy.titles and titles.issuperset(decoy.titles)):
            yield f"meta.decoys: {decoy.id} is said to be answerable, and its documents are not in the text"
            break


def _told_pairs(text: str, pairs: Sequence[Found], meta: Meta) -> Iterator[str]:
    told = [(pair.key, pair.value) for pair in meta.pairs]
    if told != [(pair.key, pair.value) for pair in pairs]:
        yield f"meta.pairs has {len(told)} pairs, the text {len(pairs)}, and they are not the same"
        return
    for pair in meta.pairs:
        span = text[pair.offset : pair.offset + pair.length]
        if json.dumps({pair.key: pair.value}, ensure_ascii=False) + "." != span.strip():
            yield f"meta.pairs: {pair.key} is not at offset {pair.offset}"
            break
    number = {pair.key: pair.chain for pair in meta.pairs}
    for chain in chains_in(pairs):
        same = {number[key] for key in chain.keys}
        if len(same) > 1 or (chain.head == meta.head) != (same == {0}):
            yield f"meta.pairs: expected one chain number in the chain that begins with {chain.head}, 0 in the row's own"
            break


# ---------------------------------------------------------------- many rows


class Audit:
    """Takes rows one by one; `summary` is the object of `--json`."""

    def __init__(self, tokenizer: Any = None) -> None:
        self.tokenizer = tokenizer
        self.rows = self.resolved = self.over = self.shortcuts = self.chained = self.heads = 0
        self.failed: list[Record] = []
        self.reasons: Counter[str] = Counter()
        self.tokens: list[int] = []
        self.slots: list[tuple[int, int]] = []
        self.ids: set[str] = set()

    def take(self, where: str, record: Record) -> None:
        if "question" not in (record.get("meta") or {}):
            raise BadInput(f"{where}: meta.question: expected a row made by `keychain-synth synth`")
        self.rows += 1
        wrong = check(record)
        if record["id"] in self.ids:
            wrong.append(f"id {record['id']!r}: stands in these rows twice")
        self.ids.add(record["id"])
        try:
            self.measure(record, meta_of(record), wrong)
        except ValueError:
            pass  # which `check` has told
        if wrong:
            self.reasons.update(wrong[:1])
            if len(self.failed) < _NAMED:
                self.failed.append({"id": record["id"], "where": where, "reason": "; ".join(wrong)})
        else:
            self.resolved += 1

    def measure(self, record: Record, meta: Meta, wrong: list[str]) -> None:
        """What is summed up over rows; a token count that is not what meta says, or over the length, is added to
        `wrong`."""
        tokens = meta.tokens
        if self.tokenizer is not None:
            tokens, places = self.counted(record, meta)
            if tokens != meta.tokens:
                wrong.append(f"meta.tokens says {meta.tokens}, the prompt has {tokens}")
            elif places != [pair.token for pair in meta.pairs]:
                wrong.append("meta.pairs: token: the pairs do not begin at these tokens")
        self.tokens.append(tokens)
        if tokens + meta.reserve > meta.length:
            self.over += 1
            if meta.fit == "strict":
                wrong.append(f"{tokens} tokens and {meta.reserve} for the answer are over the length, {meta.length}")
        self.slots += [(slot, meta.documents) for slot in meta.gold_slots]
        if meta.hops:
            self.chained += 1
            titles = {title for *_, title in headers(prompt_text(record))}
            self.shortcuts += not any(decoy.answerable and titles.issuperset(decoy.titles) for decoy in meta.decoys)
            self.heads += any(meta.head in pair.targets for pair in pairs_in(prompt_text(record)))

    def counted(self, record: Record, meta: Meta) -> tuple[int, list[int]]:
        """(tokens of the prompt, the token in which each pair's span begins), counted anew."""
        content = prompt_text(record)
        if record.get("messages"):
            if not self.tokenizer.chats:
                raise BadInput(f"--tokenizer {self.tokenizer.name}: has no chat template, and these rows are chats")
            rendered, special = self.tokenizer.render(record["messages"]), False
        else:
            rendered, special = record["prompt"], True
        encoding = self.tokenizer.encode(rendered, special)
        shift = self.tokenizer.place_of(content, rendered)
        return len(encoding), self.tokenizer.tokens_at(
            encoding, [pair.offset + shift for pair in meta.pairs], len(rendered)
        )

    def summary(self) -> Record:
        return {
            "rows": self.rows,
            "resolved": self.resolved,
            "failed": self.failed,
            "shortcut_share": self.shortcuts / self.chained if self.chained else None,
            "over_budget": self.over,
            "tokens": {
                "min": min(self.tokens, default=None),
                "median": statistics.median(self.tokens) if self.tokens else None,
                "max": max(self.tokens, default=None),
                "counted": self.tokenizer is not None,
            },
            "slot_ks_p": uniform_p([(slot, total) for slot, total in self.slots if total > 1]),
            "head_as_value": self.heads,
        }


def uniform_p(slots: Sequence[tuple[int, int]]) -> float | None:
    """p of a Kolmogorov-Smirnov test that slot s of n lies uniformly; None for no slots.

    Slots are whole numbers: each is spread evenly over its own cell [s/n, (s+1)/n) by a fixed sequence, which makes
    uniform slots uniform on [0, 1) exactly. The p is asymptotic (Smirnov 1948), within 0.01 from 40 slots on, and
    takes the gold documents of one row as independent.
    """
    if not slots:
        return None
    golden = (math.sqrt(5) - 1) / 2
    values = sorted((slot + (0.5 + at * golden) % 1) / total for at, (slot, total) in enumerate(slots))
    n = len(values)
    distance = max(max((at + 1) / n - value, value - at / n) for at, value in enumerate(values))
    scaled = (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n)) * distance
    if scaled < 0.2:
        return 1.0
    total = sum((-1) ** (k - 1) * math.exp(-2 * k * k * scaled * scaled) for k in range(1, 101))
    return min(1.0, max(0.0, 2 * total))


# ---------------------------------------------------------------- the verb


def run(files: Sequence[str], selection: Selection, *, tokenizer: str | None, as_json: bool, quiet: bool) -> int:
    """The verb; returns the exit code: 1 where a row fails, and a `--fit strict` row over its length does."""
    words = None
    if tokenizer:
        from keychain_synth.tokens import Tokenizer

        words = Tokenizer(tokenizer)
    audit = Audit(words)
    with Progress("audit", None, "rows", quiet) as progress:
        for where, record in progress.over(selection.source(files, "task")):
            audit.take(where, record)
    if not audit.rows:
        raise BadInput(f"{', '.join(files) or '<stdin>'}: expected rows, got none")
    result = audit.summary()
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print_table(human_table(result))
    for each in result["failed"]:
        print(f"keychain-synth: {each['where']}: id {each['id']!r}: {each['reason']}", file=sys.stderr)
    return 1 if result["resolved"] < result["rows"] else 0


def human_table(result: Record) -> Any:
    from rich.table import Table

    table = Table(title="Rows, resolved from their text alone", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    tokens = result["tokens"]
    table.add_row("rows", str(result["rows"]))
    table.add_row("resolved", str(result["resolved"]))
    table.add_row("over their length", str(result["over_budget"]))
    table.add_row("tokens, least – median – most", f"{tokens['min']} – {tokens['median']:g} – {tokens['max']}")
    table.add_row("tokens counted anew", "yes" if tokens["counted"] else "no: give --tokenizer")
    if result["shortcut_share"] is not None:
        table.add_row("only the true question can be answered", f"{result['shortcut_share']:.1%}")
        table.add_row("head is another pair's value", str(result["head_as_value"]))
    if result["slot_ks_p"] is not None:
        table.add_row("gold slots uniform, KS test p", f"{result['slot_ks_p']:.3f}")
    return table
