"""`keychain-synth audit`: does every row keep its promise? Resolved from its prompt text alone.

resolver.py reads a prompt, check.py holds it against the law of the construction and the row's own `meta`; here rows are
taken one by one and summed up.

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
from collections.abc import Sequence
from typing import Any

from keychain_synth.check import Meta, check, meta_of, text_of
from keychain_synth.resolver import headers, pairs_in
from tenfold_shared import BadInput
from tenfold_shared.cli import Selection, print_table
from tenfold_shared.progress import Progress

Record = dict[str, Any]

_NAMED = 20  # failed rows listed


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
            meta, (text, _) = meta_of(record), text_of(record)
        except ValueError:
            pass  # which `check` has told
        else:
            self.measure(record, meta, text, wrong)
        if wrong:
            self.reasons.update(wrong[:1])
            if len(self.failed) < _NAMED:
                self.failed.append({"id": record["id"], "where": where, "reason": "; ".join(wrong)})
        else:
            self.resolved += 1

    def measure(self, record: Record, meta: Meta, text: str, wrong: list[str]) -> None:
        """What is summed up over rows; a token count that is not what meta says, or over the length, is added to
        `wrong`."""
        tokens = meta.tokens
        if self.tokenizer is not None:
            places = [pair.token for pair in meta.pairs], meta.gold_tokens
            try:
                tokens, *counted = self.counted(record, meta, text)
            except BadInput as why:
                wrong.append(str(why))
                return
            if tokens != meta.tokens:
                wrong.append(f"meta.tokens says {meta.tokens}, the prompt has {tokens}")
            elif counted != list(places):
                wrong.append("meta: token, gold_tokens: the pairs and gold documents do not begin at these tokens")
        self.tokens.append(tokens)
        if tokens + meta.reserve > meta.length:
            self.over += 1
            if meta.fit == "strict":
                wrong.append(f"{tokens} tokens and {meta.reserve} for the answer are over the length, {meta.length}")
        self.slots += [(slot, meta.documents) for slot in meta.gold_slots]
        if meta.hops:
            self.chained += 1
            titles = {each.title for each in headers(text)}
            self.shortcuts += not any(decoy.answerable and titles.issuperset(decoy.titles) for decoy in meta.decoys)
            self.heads += any(meta.head in pair.targets for pair in pairs_in(text))

    def counted(self, record: Record, meta: Meta, text: str) -> tuple[int, list[int], list[int]]:
        """(tokens of the prompt, the tokens in which the pairs' spans begin, and the gold documents' headers)."""
        if record.get("messages"):
            rendered, special = self.tokenizer.render(record["messages"]), False
            shift = self.tokenizer.place_of(text, rendered)
        else:
            rendered, special, shift = text, True, 0
        encoding = self.tokenizer.encode(rendered, special)
        begins = [each.begin for each in headers(text)]
        places = [shift + pair.offset for pair in meta.pairs]
        places += [shift + begins[slot] for slot in meta.gold_slots if slot < len(begins)]
        tokens = self.tokenizer.tokens_at(encoding, places, len(rendered))
        return len(encoding), tokens[: len(meta.pairs)], tokens[len(meta.pairs) :]

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
            if words is not None and record.get("messages") and not words.chats:
                raise BadInput(f"--tokenizer {tokenizer}: has no chat template, and these rows are chats")
            audit.take(where, record)
    if not audit.rows:
        raise BadInput(f"{', '.join(files) or '<stdin>'}: expected at least one row, got none")
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
