"""One row: documents filled to the token, key chains put into them, and everything an audit needs beside it.

Sits between corpus.py (texts and their token counts) and synth.py (the verb); chains.py makes and places the pairs.
LoongRL, arXiv 2510.19363 §3.1; what is done otherwise than in the published code stands in the README.

How a row of L tokens is made with one encoding of its text. Every document's tokens are known from the corpus, and
`Costs` says what is paid around them (headers, pairs), measured once a run on a text of this length. Fillers are
drawn until the sum reaches L minus a margin of 0.2 %, the last ones so that little stays free. Then the finished
prompt is rendered and encoded, and where it is over L (rare), the smallest filler that suffices goes and the text is
made and encoded again. So what is written was counted as it stands, template and reserve included.

A row depends on the seed, its question's id, its length and the corpus; not on other rows.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import random
import uuid
from collections.abc import Iterator, Sequence
from functools import cached_property
from string import Template
from typing import Any

import msgspec
import numpy as np

from keychain_synth import chains
from keychain_synth.chains import Pair
from keychain_synth.corpus import Corpus, Entry, content_words
from keychain_synth.items import YES_NO
from keychain_synth.reward import two_way
from keychain_synth.tokens import Tokenizer
from tenfold_shared.jsonl import read_text

Row = dict[str, Any]

SYSTEM = "First think step by step between <think> and </think>. Then give only the final answer inside \\boxed{}."
CHAIN = """Read the text below.

$context

One question is hidden in the text, and there is only one right way to it. The text holds pairs of the form \
{"key": "value"}. Begin with the key "$head": its value is the next key, and so on, until a value is a question. \
Find that question by following the pairs one after the other, then answer it from the text."""
TREE = """Read the text below.

$context

One question is hidden in the text, and there is only one right way to it. The text holds pairs of the form \
{"key": ["key", "key"]} or {"key": "question"}. Begin with the key "$head": its pair holds two further keys, and so \
on; some keys have no pair. Exactly one way ends in a question. Find it by following the pairs, then answer it from \
the text."""
PLAIN = """Read the text below.

$context

Answer this question from the text: $question"""

_SIGMA, _CLAMP, _TRIES = 0.30, 0.95, 50  # of the order core-gaussian
_MARGIN = 0.002  # of L, left free of estimates
_DRAWS = 60  # fillers looked at for what is left in the end
_LONG_QUESTION = 256  # tokens; longer ones are no decoys
_SHORT = 0.05  # of L: where more is left than this, all documents are looked at


def read_system(given: str | None) -> str | None:
    """--system-file: the built-in prompt, that of a file, or none. Raises BadInput."""
    if given is None or given == "none":
        return None if given else SYSTEM
    return read_text(given, f"--system-file {given}")


class Shape(msgspec.Struct, frozen=True):
    """What rows are to be like; the options of `synth`, in their words."""

    reserve: int = 128
    chains_per_k: float = 4
    chains: int | None = None
    hops: int = 4
    id_format: str = "hex8"
    structure: str = "chain"
    order: str = "uniform"
    decoys: str = "plain"
    answerable: int = 0
    fit: str = "strict"
    plain: bool = False
    messages: bool = True
    leak_guard: bool = True
    seed: int = 0
    system: str | None = SYSTEM
    template: str = CHAIN

    def n_chains(self, length: int) -> int:
        """4 a thousand tokens by default: 64 at 16K, 512 at 128K."""
        if self.plain:
            return 0
        return self.chains if self.chains is not None else max(1, round(self.chains_per_k * length / 1024))


class Draft(msgspec.Struct):
    """What is to go into a row: documents by index, the pairs already shuffled."""

    entry: Entry
    length: int
    own: list[int]
    fillers: list[int]
    head: str | None
    pairs: list[Pair]
    decoys: list[Entry]


class Placed(msgspec.Struct, frozen=True):
    """Documents in their order: the text, each one's slot, and (document, header's start, text's start, its end)."""

    text: str
    slots: dict[int, int]
    starts: list[tuple[int, int, int, int]]


class Unfit(Exception):
    """This question makes no row: (reason, detail)."""


class Costs(msgspec.Struct, frozen=True):
    """Tokens beside the documents' own: a document's header and gap, an inner pair, a last pair without its question."""

    document: float
    inner: float
    last: float


class RowMaker:
    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, shape: Shape) -> None:
        self.corpus, self.tokenizer, self.shape = corpus, tokenizer, shape
        self._costs: dict[int, Costs] = {}

    def make(self, index: int, length: int) -> Row:
        """The task record of one question. Raises Unfit."""
        entry, shape = self.corpus.entry(index), self.shape
        if entry.question.casefold() in self.own_text:
            raise Unfit("question-in-template", "the prompt's own text holds the question")
        rng = self.stream(entry.id, length)
        own = list(dict.fromkeys(entry.docs))  # a paragraph that stands there twice is one document
        decoys = self.decoys(rng, entry, index, shape.n_chains(length) - 1) if not shape.plain else []
        for decoy in decoys[: shape.answerable]:
            own += [doc for doc in gold_of(decoy) if doc not in own]
        head: str | None = None
        pairs: list[Pair] = []
        if not shape.plain:
            questions = [entry, *decoys]
            head, pairs = chains.make(
                rng, [each.question for each in questions], shape.hops, shape.id_format, shape.structure
            )
            rng.shuffle(pairs)
        costs = self.costs(length)
        tokens = self.corpus.tokens
        spent: float = (
            shape.reserve if shape.fit == "paper" else shape.reserve + self.fixed + entry.tokens * shape.plain
        )
        spent += sum(int(tokens[doc]) for doc in own) + costs.document * len(own)
        if shape.fit == "strict" and pairs:
            n_last = 1 + len(decoys)
            spent += (len(pairs) - n_last) * costs.inner + n_last * costs.last
            spent += entry.tokens + sum(each.tokens for each in decoys)
        room = length - spent - (_MARGIN * length if shape.fit == "strict" else 0)
        fillers = self.fill(rng, entry, own, room, costs.document, length)
        return self.fitted(rng, Draft(entry, length, own, fillers, head, pairs, decoys))

    @cached_property
    def own_text(self) -> str:
        """What every prompt says besides its context, case-folded."""
        fields = dict.fromkeys(("context", "head", "question"), "\0")
        return f"{self.shape.system or ''}\n{Template(self.shape.template).safe_substitute(fields)}".casefold()

    def stream(self, *name: Any) -> random.Random:
        digest = hashlib.blake2b(repr((self.shape.seed, *name)).encode(errors="replace"), digest_size=16).digest()
        return random.Random(int.from_bytes(digest, "little"))

    # ---- what goes in

    def decoys(self, rng: random.Random, entry: Entry, index: int, count: int) -> list[Entry]:
        """Other items with questions of their own; the first `answerable` of them may be answered beside the row's."""
        chosen: list[Entry] = []
        spare: list[Entry] = []  # no decoys to be answered, but ones to be asked
        question = entry.question.casefold()
        asked = {question}
        order = self.near(entry, index) if self.shape.decoys == "near" else None
        for other in self.others(rng, order):
            if len(chosen) >= self.shape.answerable and len(chosen) + len(spare) >= count:
                break
            candidate = self.corpus.entry(other)
            folded = candidate.question.casefold()
            # The row's question would stand in the text twice; or one decoy would take the place of many documents.
            if folded in asked or question in folded or candidate.tokens > _LONG_QUESTION:
                continue
            asked.add(folded)
            wanted = len(chosen) < self.shape.answerable
            (spare if wanted and not self.answerable(entry, candidate) else chosen).append(candidate)
        if len(chosen) < self.shape.answerable:
            raise Unfit("few-questions", f"{self.shape.answerable} decoys with other answers and documents are wanted, "
                        f"there are {len(chosen)}")  # fmt: skip
        chosen = (chosen + spare)[:count]
        if len(chosen) < count:
            raise Unfit("few-questions", f"{count + 1} chains need as many different questions, there are {len(asked)}")
        return chosen

    def answerable(self, entry: Entry, decoy: Entry) -> bool:
        """Whether the decoy's gold documents may stand beside the row's own: another answer, whichever is the longer;
        no two documents of one title; nothing that a filler may not hold."""
        if any(two_way(one, other) for one in entry.answers for other in decoy.answers):
            return False
        titles = {self.corpus.document(doc)[0].casefold(): doc for doc in entry.docs}
        for doc in gold_of(decoy):
            title, text = self.corpus.document(doc)
            if titles.get(title.casefold(), doc) != doc or self.gives_away(entry, title, text):
                return False
        return True

    def gives_away(self, entry: Entry, title: str, text: str) -> bool:
        """Whether a document that is not the row's own holds its question, or (leak guard) one of its answers together
        with the name of a gold document."""
        folded = f"{title}\n{text}".casefold()
        if entry.question.casefold() in folded:
            return True
        if not self.shape.leak_guard:
            return False
        answers = [each.casefold() for each in entry.answers if each.casefold() not in YES_NO]
        if not any(answer in folded for answer in answers):
            return False
        gold = [self.corpus.document(doc)[0].casefold() for doc in gold_of(entry)]
        return any(name and name in folded for name in gold)

    def others(self, rng: random.Random, order: Iterator[int] | None) -> Iterator[int]:
        """Items, each once: the near ones first where there is an order, then at random."""
        seen = set()
        for other in order or ():
            seen.add(other)
            yield other
        total = self.corpus.n_items
        while len(seen) < total // 2:
            other = rng.randrange(total)
            if other not in seen:
                seen.add(other)
                yield other
        rest = [other for other in range(total) if other not in seen]
        rng.shuffle(rest)
        yield from rest

    def near(self, entry: Entry, index: int) -> Iterator[int]:
        """Items whose questions share the rarest words with this one, the nearest first."""
        score: dict[int, float] = {}
        for word in set(content_words(entry.question)):
            items = self.corpus.words.get(word, ())
            for other in items:
                score[other] = score.get(other, 0.0) + 1.0 / len(items)
        score.pop(index, None)
        return iter(sorted(score, key=lambda other: (-score[other], other)))

    def fill(
        self, rng: random.Random, entry: Entry, own: Sequence[int], room: float, cost: float, length: int
    ) -> list[int]:
        """Documents that fit into `room` tokens together with their headers, each of which costs `cost`."""
        corpus = self.corpus
        titles = {corpus.document(doc)[0].casefold() for doc in own}
        taken = set(own)
        chosen: list[int] = []

        def take(doc: int) -> bool:
            nonlocal room
            needed = int(corpus.tokens[doc]) + cost
            if doc in taken or needed > room or not corpus.filler[doc]:
                return False
            title, text = corpus.document(doc)
            if (title and title.casefold() in titles) or self.gives_away(entry, title, text):
                return False
            taken.add(doc)
            titles.add(title.casefold())
            chosen.append(doc)
            room -= needed
            return True

        misses = 0
        # The last draws look for one that fits the rest; a pool that is used up ends it too.
        while room > cost and misses < _DRAWS + 4 * len(chosen) ** 0.5 and len(taken) < corpus.n_docs:
            misses = 0 if take(rng.randrange(corpus.n_docs)) else misses + 1
        if room > _SHORT * length:  # drawing found no more: look at each that fits, once
            rest = np.flatnonzero(corpus.filler & (corpus.tokens + cost <= room)).tolist()
            rng.shuffle(rest)
            for doc in rest:
                take(doc)
        return chosen

    # ---- what comes out

    def fitted(self, rng: random.Random, draft: Draft) -> Row:
        """The row, with fillers taken away until its encoded prompt is within L."""
        shape, fillers = self.shape, draft.fillers
        while True:
            placed = self.place(rng, draft.own, fillers)
            try:
                context, spans = self.inserted(rng, placed, draft.pairs)
            except ValueError as error:
                raise Unfit("few-places", str(error)) from None
            content = self.content(draft.entry, context, draft.head)
            rendered, special = self.rendered(content)
            encoding = self.tokenizer.encode(rendered, special)
            counted = encoding if shape.fit == "strict" else self.tokenizer.encode(placed.text, False)
            over = len(counted) + shape.reserve - draft.length
            if over <= 0:
                return self.row(draft, placed, spans, content, context, rendered, encoding)
            if not fillers:
                raise Unfit("too-long", f"its own documents, chains and the template need "
                            f"{len(encoding) + shape.reserve} tokens of {draft.length}")  # fmt: skip
            lengths = [int(self.corpus.tokens[doc]) for doc in fillers]
            enough = [at for at, tokens in enumerate(lengths) if tokens >= over]
            del fillers[min(enough, key=lengths.__getitem__) if enough else lengths.index(max(lengths))]

    def place(self, rng: random.Random, own: Sequence[int], fillers: Sequence[int]) -> Placed:
        order = self.order(rng, own, fillers)
        pieces, starts, size = [], [], 0
        for slot, doc in enumerate(order):
            title, text = self.corpus.document(doc)
            header = f"Passage {slot + 1}:\n{title}\n"
            starts.append((doc, size, size + len(header), size + len(header) + len(text)))
            pieces.append(header + text)
            size += len(pieces[-1]) + 2
        return Placed("\n\n".join(pieces), {doc: slot for slot, doc in enumerate(order)}, starts)

    def order(self, rng: random.Random, own: Sequence[int], fillers: Sequence[int]) -> list[int]:
        total = len(own) + len(fillers)
        if self.shape.order == "uniform":
            both = [*own, *fillers]
            rng.shuffle(both)
            return both
        slots: dict[int, int] = {}
        for doc in own:
            for _ in range(_TRIES):
                place = min(max(rng.gauss(0.0, _SIGMA), -_CLAMP), _CLAMP)
                slot = round((place + _CLAMP) / (2 * _CLAMP) * (total - 1))
                if slot not in slots:
                    break
            else:
                slot = rng.choice([free for free in range(total) if free not in slots])
            slots[slot] = doc
        rest = iter(rng.sample(list(fillers), len(fillers)))
        return [slots[slot] if slot in slots else next(rest) for slot in range(total)]

    def inserted(self, rng: random.Random, placed: Placed, pairs: Sequence[Pair]) -> tuple[str, list[dict[str, Any]]]:
        """Pairs at different places drawn without replacement from all safe ones. Raises ValueError for too few."""
        if not pairs:
            return placed.text, []
        places = []
        for doc, _, start, end in placed.starts:
            if end > start:
                places.append((start, True))
                places += [(start + at, False) for at in self.corpus.points(doc)]
        if len(places) < len(pairs):
            raise ValueError(f"{len(pairs)} pairs need as many places between sentences, the text has {len(places)}")
        return chains.insert(placed.text, sorted(rng.sample(places, len(pairs))), pairs)

    def content(self, entry: Entry, context: str, head: str | None) -> str:
        return Template(self.shape.template).substitute(context=context, head=head, question=entry.question)

    def rendered(self, content: str) -> tuple[str, bool]:
        """(the prompt as the model sees it, whether the tokenizer adds its own special tokens)."""
        if not self.shape.messages:
            return content, True
        return self.tokenizer.render(self.messages(content)), False

    def messages(self, content: str) -> list[dict[str, str]]:
        system = [{"role": "system", "content": self.shape.system}] if self.shape.system else []
        return [*system, {"role": "user", "content": content}]

    def row(
        self, draft: Draft, placed: Placed, spans: list[dict[str, Any]], content: str, context: str, rendered: str,
        encoding: Any,
    ) -> Row:  # fmt: skip
        shape, entry, corpus = self.shape, draft.entry, self.corpus
        shift = content.index(context) if context else 0
        into = shift + (self.tokenizer.place_of(content, rendered) if shape.messages else 0)
        grown = [0, *itertools.accumulate(span["length"] for span in spans)]
        edges = [span["offset"] - before for span, before in zip(spans, grown, strict=False)]
        gold = list(dict.fromkeys(gold_of(entry)))
        # Headers of gold documents in the text without pairs, then in the one with them.
        bare = [placed.starts[placed.slots[doc]][1] for doc in gold]
        places = [offset + grown[bisect.bisect_left(edges, offset)] for offset in bare]
        at = [into + place for place in [*(span["offset"] for span in spans), *places]]
        tokens = self.tokenizer.tokens_at(encoding, at, len(rendered))
        inside = set(draft.own) | set(draft.fillers)
        pairs = [
            {"key": span["key"], "value": span["value"], "offset": span["offset"] + shift, "length": span["length"],
             "token": token, "chain": span["chain"]}
            for span, token in zip(spans, tokens, strict=False)
        ]  # fmt: skip
        meta = {
            "source": entry.source,
            "source_id": entry.id,
            "type": entry.type,
            "question": entry.question,
            "question_hops": entry.hops,
            "length": draft.length,
            "reserve": shape.reserve,
            "fit": shape.fit,
            "tokens": len(encoding),
            "documents": len(inside),
            "gold_slots": [placed.slots[doc] for doc in gold],
            "gold_tokens": tokens[len(spans) :],
            "gold_titles": [corpus.document(doc)[0] for doc in gold],
            "hops": 0 if shape.plain else shape.hops,
            "structure": None if shape.plain else shape.structure,
            "id_format": None if shape.plain else shape.id_format,
            "head": draft.head,
            "pairs": pairs,
            "decoys": [self.told(each, inside) for each in draft.decoys],
        }
        prompt: Row = {"messages": self.messages(content)} if shape.messages else {"prompt": content}
        return {"schema": "task/1", "id": entry.id, **prompt, "answer": list(entry.answers), "meta": meta}

    def told(self, decoy: Entry, inside: set[int]) -> dict[str, Any]:
        """A decoy in meta; one that can be answered from the text with the titles of its gold documents."""
        gold = gold_of(decoy)
        if not inside.issuperset(gold):
            return {"id": decoy.id, "answerable": False}
        titles = list(dict.fromkeys(self.corpus.document(doc)[0] for doc in gold))
        return {"id": decoy.id, "answerable": True, "titles": titles}

    # ---- what things cost

    @cached_property
    def fixed(self) -> int:
        """Tokens of the prompt without context and question."""
        head = "0" * 8 if self.shape.id_format == "hex8" else str(uuid.UUID(int=0))
        content = Template(self.shape.template).substitute(context="", head=head, question="")
        rendered, special = self.rendered(content)
        return len(self.tokenizer.encode(rendered, special))

    def costs(self, length: int) -> Costs:
        """Measured on a text of about this length, the same in every process of a run."""
        if length not in self._costs:
            self._costs[length] = self.measure(length)
        return self._costs[length]

    def measure(self, length: int) -> Costs:
        rng = random.Random(0)
        corpus, tokenizer = self.corpus, self.tokenizer
        docs, size = [], 0
        for doc in rng.sample(range(corpus.n_docs), min(corpus.n_docs, max(16, length // 20))):
            docs.append(doc)
            size += int(corpus.tokens[doc]) + 8
            if size >= length:
                break
        placed = self.place(rng, docs, [])
        bare = len(tokenizer.encode(placed.text, False))
        document = (bare - sum(int(corpus.tokens[doc]) for doc in docs)) / len(docs)
        if self.shape.plain:
            return Costs(document, 0.0, 0.0)
        tree = self.shape.structure == "tree"
        # As many inner pairs alone, then last pairs alone, as there is room for.
        found = []
        for last in (False, True):
            entry = corpus.entry(0)
            taken: set[str] = set()

            def fresh(taken: set[str] = taken) -> str:
                return chains.new_id(rng, self.shape.id_format, taken)

            places = sum(len(self.corpus.points(doc)) for doc in docs) + len(docs)
            pairs = [
                Pair(fresh(), entry.question if last else ([fresh(), fresh()] if tree else fresh()), 0, last)
                for _ in range(max(1, min(400, places // 2)))
            ]
            context, _ = self.inserted(rng, placed, pairs)
            each = (len(tokenizer.encode(context, False)) - bare) / len(pairs)
            found.append(each - (entry.tokens if last else 0))
        return Costs(document, found[0], found[1])


def gold_of(entry: Entry) -> list[int]:
    return [doc for doc, gold in zip(entry.docs, entry.gold, strict=True) if gold]
