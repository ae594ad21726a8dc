"""`keychain-synth audit`: does every row keep its promise? Resolved from its prompt text alone.

The resolver reads a prompt as a model would have to: it finds the pairs in the text, the key to begin with in the
instruction behind them, and follows. It imports nothing of the code that made the row. What it finds is then held
against the row's own `meta`: the question and the number of pairs, offsets, slots, the token count.

shortcut_share: rows in which the true question is the only chain question whose gold documents are all in the text. A
model can then skip the chain and pick the one question that can be answered. Rows of the published construction
have next to nothing else; `synth --decoys answerable:M` is against it.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tenfold_shared import BadInput
from tenfold_shared.cli import Selection, print_table
from tenfold_shared.progress import Progress
from tenfold_shared.records import messages_of

Record = dict[str, Any]

_OPEN = re.compile(r'\{\s*"')
_KEY = re.compile(r"[0-9a-f]{8}(?:[0-9a-f]{24})?|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_QUOTED = re.compile(rf'"({_KEY.pattern})"|\b({_KEY.pattern})\b')
_HEADER = re.compile(r"^Passage (\d+):$", re.MULTILINE)
_NAMED = 20  # failed rows listed


class Unresolved(ValueError):
    """The text does not lead to one question; the reason."""


def prompt_text(record: Record) -> str:
    """What the user says, all turns joined; a raw prompt as it is."""
    return "\n\n".join(str(turn["content"]) for turn in messages_of(record) if turn.get("role") == "user")


def pairs_in(text: str) -> list[tuple[str, Any, int, int]]:
    """Every JSON object in TEXT whose one entry has an id as its key: (key, value, begin, end)."""
    decoder = json.JSONDecoder()
    found, at = [], 0
    while match := _OPEN.search(text, at):
        try:
            value, end = decoder.raw_decode(text, match.start())
        except ValueError:
            at = match.end()
            continue
        if len(value) == 1:
            [(key, target)] = value.items()
            texts = [target] if isinstance(target, str) else target
            if _KEY.fullmatch(key) and isinstance(texts, list) and all(isinstance(each, str) for each in texts):
                found.append((key, target, match.start(), end))
        at = end
    return found


def resolve(text: str) -> tuple[str, int, str]:
    """(question, pairs followed, head) of a prompt. Raises Unresolved."""
    pairs = pairs_in(text)
    if not pairs:
        raise Unresolved("there are no pairs in the text")
    after = text[max(end for *_, end in pairs) :]
    heads = [one or other for one, other in _QUOTED.findall(after)]
    if not heads:
        raise Unresolved("no key to begin with is named behind the text")
    table: dict[str, Any] = {}
    for key, value, *_ in pairs:
        if key in table:
            raise Unresolved(f"key {key} stands there twice")
        table[key] = value
    head = heads[-1]
    if head not in table:
        raise Unresolved(f"the key to begin with, {head}, has no pair")
    ends: list[tuple[str, int]] = []
    seen: set[str] = set()
    ahead = [(head, 1)]
    while ahead:
        key, depth = ahead.pop()
        if key in seen:
            raise Unresolved(f"the chain comes back to {key}")
        seen.add(key)
        value = table.get(key)
        if value is None:
            if depth > 1 and isinstance(table.get(head), str):
                raise Unresolved(f"the chain breaks off at {key}")
            continue  # a leaf of a tree that leads nowhere
        for target in [value] if isinstance(value, str) else value:
            if _KEY.fullmatch(target):
                ahead.append((target, depth + 1))
            else:
                ends.append((target, depth))
    if len(ends) != 1:
        raise Unresolved(f"expected one question at the end, found {len(ends)}")
    return ends[0][0], ends[0][1], head


def check(record: Record) -> list[str]:
    """What is wrong with one row; nothing where all is well. The reasons name what was expected and found."""
    meta = record.get("meta") or {}
    text = prompt_text(record)
    if not meta.get("hops"):
        question = meta.get("question")
        if not question or question not in text:
            return ["a plain row: its question does not stand in the prompt"]
        return [] if not pairs_in(text) else ["a plain row holds pairs"]
    try:
        question, steps, head = resolve(text)
    except Unresolved as why:
        return [str(why)]
    wrong = []
    if question != meta["question"]:
        wrong.append(f"the chain ends in {question!r}, expected {meta['question']!r}")
    if steps != meta["hops"]:
        wrong.append(f"followed {steps} pairs, expected {meta['hops']}")
    if head != meta["head"]:
        wrong.append(f"begins with {head}, expected {meta['head']}")
    told = [(pair["key"], pair["value"]) for pair in meta["pairs"]]
    seen = [(key, value) for key, value, *_ in pairs_in(text)]
    if told != seen:
        wrong.append(f"meta.pairs has {len(told)} pairs, the text {len(seen)}, and they are not the same")
    for pair in meta["pairs"]:
        span = text[pair["offset"] : pair["offset"] + pair["length"]]
        if json.dumps({pair["key"]: pair["value"]}, ensure_ascii=False) + "." != span.strip():
            wrong.append(f"meta.pairs: {pair['key']} is not at offset {pair['offset']}")
            break
    bare = text[: min((begin for *_, begin, _ in pairs_in(text)), default=0)]
    whole = "".join(_outside(text))
    if question in whole and question not in bare:
        wrong.append("the question stands in the text outside its pair")
    # Slots counted from the text's own headers.
    numbers = [int(number) for number in _HEADER.findall(text)]
    if numbers != list(range(1, len(numbers) + 1)):
        wrong.append(f"passages are not numbered from 1 to {len(numbers)}")
    return wrong


def _outside(text: str) -> Iterable[str]:
    done = 0
    for *_, begin, end in pairs_in(text):
        yield text[done:begin]
        done = end
    yield text[done:]


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

    def take(self, where: str, record: Record) -> None:
        meta = record.get("meta") or {}
        for name in ("tokens", "length", "reserve", "question"):
            if name not in meta:
                raise BadInput(f"{where}: meta.{name}: expected a row made by `keychain-synth synth`")
        self.rows += 1
        wrong = check(record)
        tokens = self.counted(record, meta)
        if tokens != meta["tokens"]:
            wrong.append(f"meta.tokens says {meta['tokens']}, the prompt has {tokens}")
        self.tokens.append(tokens)
        self.over += tokens + meta["reserve"] > meta["length"]
        if wrong:
            self.reasons.update(wrong[:1])
            if len(self.failed) < _NAMED:
                self.failed.append({"id": record["id"], "reason": "; ".join(wrong)})
        else:
            self.resolved += 1
        self.slots += [(slot, meta["documents"]) for slot in meta.get("gold_slots") or ()]
        if meta.get("hops"):
            self.chained += 1
            self.shortcuts += not any(decoy["answerable"] for decoy in meta["decoys"])
            values = [value for pair in meta["pairs"] for value in _listed(pair["value"])]
            self.heads += meta["head"] in values

    def counted(self, record: Record, meta: Record) -> int:
        """Tokens of the prompt, counted anew where a tokenizer is given."""
        if self.tokenizer is None:
            return meta["tokens"]
        if record.get("messages"):
            return len(self.tokenizer.encode(self.tokenizer.render(record["messages"]), False))
        return len(self.tokenizer.encode(record["prompt"], True))

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


def _listed(value: Any) -> Sequence[str]:
    return value if isinstance(value, list) else [value]


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
    """The verb; returns the exit code: 1 where a row fails or is over its length."""
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
        print(f"keychain-synth: {each['id']}: {each['reason']}", file=sys.stderr)
    return 1 if result["resolved"] < result["rows"] or result["over_budget"] else 0


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
