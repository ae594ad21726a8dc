"""One row of `synth` against the law of its construction, and its `meta` against its text.

Sits between resolver.py, which reads the prompt, and audit.py, which takes many rows. The law (LoongRL, arXiv 2510.19363
§3.1): chains of equal length, every id once a key and once a value, no pair leads to the head, each chain ends in a
question of its own, the row's own question stands in the prompt once, and pairs stand between words of passages' texts.
Of `meta` everything is checked that the text can bear out; that a title's passage is the right one of two of a name,
or that a decoy's documents are those of its question, it cannot.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import msgspec

from keychain_synth.fields import checked
from keychain_synth.resolver import (
    KEY,
    Chain,
    Found,
    Header,
    Unresolved,
    chains_in,
    follow,
    head_of,
    headers,
    outside,
    pairs_in,
    table_of,
)

Record = dict[str, Any]
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 32)]

_ID_LENGTHS = {"hex8": 8, "hex32": 32, "uuid": 36}
# What reads as an entry of a JSON object: a key and the beginning of a value.
_ENTRY = re.compile(rf"""["']({KEY.pattern})["']\s*:\s*(?:["'{{\[\d-]|null|true|false)""")
# Its own, like `_words`: nothing here is of the code that made the row.
_NO_TEXT_ANSWERS = {"yes", "no", "noanswer"}  # and comparisons: chosen by the question's wording
_COMPARISONS = {"comparison", "bridge_comparison"}


class Decoy(msgspec.Struct, frozen=True):
    id: str
    answerable: bool
    titles: list[str] = []


class Told(msgspec.Struct, frozen=True):
    """A pair as meta tells of it."""

    key: str
    value: str | list[str]
    offset: Count
    length: Count
    token: Count
    chain: Count


class Meta(msgspec.Struct, frozen=True):
    """What a row of `synth` says about itself, as far as its text can bear it out."""

    source_id: str
    type: str | None
    question: str
    length: Count
    reserve: Count
    tokens: Count
    documents: Count
    gold_slots: list[Count]
    gold_tokens: list[Count]
    gold_titles: list[str]
    hops: Count
    structure: Literal["chain", "tree"] | None
    id_format: Literal["hex8", "hex32", "uuid"] | None
    head: str | None
    pairs: list[Told]
    decoys: list[Decoy]
    fit: Literal["strict", "paper"] = "strict"


class Answer(msgspec.Struct, frozen=True):
    answer: Annotated[list[Annotated[str, msgspec.Meta(min_length=1)]], msgspec.Meta(min_length=1)]


def meta_of(record: Record) -> Meta:
    """Raises ValueError with the field and what was expected of it."""
    return checked(record.get("meta"), Meta, "meta")


def text_of(record: Record) -> tuple[str, str]:
    """(what the user says, what else is said: a system prompt). Raises ValueError for a prompt of another form."""
    if record.get("messages") and record.get("prompt"):
        raise ValueError("expected messages or prompt, found both")
    if not record.get("messages"):
        return record["prompt"], ""
    roles = [turn.get("role") for turn in record["messages"]]
    if roles not in (["user"], ["system", "user"]):
        raise ValueError(
            f"messages: expected one user turn, behind a system prompt or none, got {', '.join(map(str, roles))}"
        )
    contents = [turn.get("content") for turn in record["messages"]]
    if not all(isinstance(content, str) for content in contents):
        raise ValueError("messages: expected text in every turn")
    return contents[-1], "\n".join(contents[:-1])


def check(record: Record) -> list[str]:
    """What is wrong with one row; nothing where all is well. The reasons name what was expected and found."""
    try:
        meta = meta_of(record)
        answers = checked({"answer": record.get("answer")}, Answer).answer
        text, system = text_of(record)
    except ValueError as why:
        return [str(why)]
    pairs, passages = pairs_in(text), headers(text)
    wrong = [*_passages(passages, meta), *_answers("".join(outside(text, pairs)), answers, meta)]
    if not meta.hops:
        return [*wrong, *_plain(text, passages, pairs, meta)]
    try:
        wrong = [*_chains(text, system, pairs, meta), *wrong]
    except Unresolved as why:
        return [str(why), *wrong]
    return [*wrong, *_places(text, passages, pairs), *_told_pairs(text, pairs, meta)]


# ---------------------------------------------------------------- the text


def _plain(text: str, passages: Sequence[Header], pairs: Sequence[Found], meta: Meta) -> Iterator[str]:
    places = [found.start() for found in re.finditer(re.escape(meta.question), text)] if meta.question else []
    if not places:
        yield "a plain row: its question does not stand in the prompt"
    elif len(places) > 1 or (passages and passages[0].begin < places[0] < passages[-1].end):
        yield "a plain row: its question stands in the passages, or more than once"
    if pairs or meta.pairs or meta.decoys:
        yield "a plain row holds pairs"
    if meta.structure or meta.id_format or meta.head:
        yield "meta: a plain row has no structure, id_format or head"


def _chains(text: str, system: str, pairs: Sequence[Found], meta: Meta) -> Iterator[str]:
    """The law of the chains. Raises Unresolved where the text leads to no question."""
    if not pairs:
        raise Unresolved("there are no pairs in the text")
    table, head = table_of(pairs), head_of(text, pairs)
    values = Counter(target for pair in pairs for target in pair.targets)
    own = follow(table, head)
    if head != meta.head:
        yield f"begins with {head}, expected {meta.head}"
    if own.question != meta.question:
        yield f"the chain ends in {own.question!r}, expected {meta.question!r}"
    if head in values:
        yield f"a pair leads to the key to begin with, {head}"
    again = _ENTRY.search("".join(outside(text, pairs)).lower())
    if again and again[1] in table:
        yield f"key {again[1]} stands there again, in what is no pair"
    chains = chains_in(pairs)
    if len(chains) != 1 + len(meta.decoys):
        yield f"the text has {len(chains)} chains, expected one and {len(meta.decoys)} decoys"
    yield from _lengths(pairs, chains, meta)
    yield from _questions(text, system, pairs, chains, own)


def _lengths(pairs: Sequence[Found], chains: Sequence[Chain], meta: Meta) -> Iterator[str]:
    for chain in chains:
        if chain.steps != meta.hops:
            yield f"the chain that begins with {chain.head}: followed {chain.steps} pairs, expected {meta.hops}"
            return
    tree = meta.structure == "tree"
    each = 2 ** (meta.hops - 1) if tree else meta.hops
    for chain in chains:
        if len(chain.keys) != each:
            yield f"the chain that begins with {chain.head} has {len(chain.keys)} pairs, expected {each}"
            return
    for pair in pairs:
        inner = all(KEY.fullmatch(target) for target in pair.targets)
        if isinstance(pair.value, list) != (tree and inner) or (tree and inner and len(pair.targets) != 2):
            yield f"the pair of {pair.key}: expected {'two ids' if tree else 'an id'} in it, or a question"
            return
    lengths = {len(pair.key) for pair in pairs}
    if meta.structure is None or lengths != {_ID_LENGTHS.get(meta.id_format or "")}:
        yield f"meta: structure {meta.structure} and id_format {meta.id_format} are not those of the text"


def _questions(text: str, system: str, pairs: Sequence[Found], chains: Sequence[Chain], own: Chain) -> Iterator[str]:
    """Each chain ends in another question; the row's own stands in no other pair, and nowhere beside the pairs."""
    asked = Counter(chain.question.casefold() for chain in chains)
    question = own.question.casefold()
    for twice in (each for each, count in asked.items() if count > 1):
        yield f"{asked[twice]} chains end in {twice!r}"
    if not all(each.strip() for each in asked):
        yield "a chain ends in an empty question"
    if sum(question in target.casefold() for pair in pairs for target in pair.targets) > 1:
        yield "another pair's value holds the question"
    bare = "".join(outside(text, pairs)).casefold()
    forms = {
        question,
        json.dumps(own.question)[1:-1].casefold(),
        json.dumps(own.question, ensure_ascii=False)[1:-1].casefold(),
    }
    if any(_spaced(form) in _spaced(f"{system.casefold()}\n{bare}") for form in forms if form.strip()):
        yield "the question stands in the text outside its pair"


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _places(text: str, passages: Sequence[Header], pairs: Sequence[Found]) -> Iterator[str]:
    """Pairs stand in passages' texts, between words: not in front of the first one, nor in a header or title."""
    for pair in pairs:
        before = [each for each in passages if each.begin <= pair.begin]
        if not before:
            yield f"the pair of {pair.key} stands in front of the passages"
            return
        if pair.begin < before[-1].end:
            yield f"the pair of {pair.key} stands in the header of passage {before[-1].number}"
            return
        if not text[pair.begin - 1].isspace() or not re.match(r"\.(?:\s|$)", text[pair.end : pair.end + 2]):
            yield f"the pair of {pair.key} stands in a word, or has no full stop behind it"
            return


def _passages(found: Sequence[Header], meta: Meta) -> Iterator[str]:
    """Passages as the text's own headers tell them."""
    if [each.number for each in found] != list(range(1, len(found) + 1)):
        yield f"passages are not numbered from 1 to {len(found)}"
    if len(found) != meta.documents:
        yield f"meta.documents says {meta.documents}, the text has {len(found)} passages"
    if len({len(meta.gold_slots), len(meta.gold_tokens), len(meta.gold_titles)}) > 1:
        yield "meta.gold_slots, gold_tokens and gold_titles: expected equally many"
    for slot, title in zip(meta.gold_slots, meta.gold_titles, strict=False):
        there = found[slot].title if slot < len(found) else None
        if there != title:
            yield f"meta.gold_slots: expected {title!r} at {slot}, the text has {there!r}"
    if not meta.gold_slots or len(set(meta.gold_slots)) < len(meta.gold_slots):
        yield "meta.gold_slots: expected one or more, each once"
    by_slot = [token for _, token in sorted(zip(meta.gold_slots, meta.gold_tokens, strict=False))]
    for where in ([pair.token for pair in meta.pairs], by_slot):
        if where != sorted(where) or (where and where[-1] >= meta.tokens):
            yield f"meta: expected tokens of pairs and documents in the order of the text, from 0 to {meta.tokens - 1}"
    yield from _decoys({each.title for each in found}, meta)


def _decoys(titles: set[str], meta: Meta) -> Iterator[str]:
    names = [decoy.id for decoy in meta.decoys]
    if len(set(names)) < len(names) or meta.source_id in names:
        yield "meta.decoys: expected other questions than the row's own, each once"
    for decoy in meta.decoys:
        if decoy.answerable != bool(decoy.titles):
            yield f"meta.decoys: {decoy.id}: expected titles where it is answerable, and only there"
            return
        if decoy.answerable and not titles.issuperset(decoy.titles):
            yield f"meta.decoys: {decoy.id} is said to be answerable, and its documents are not in the text"
            return


def _answers(text: str, answers: Sequence[str], meta: Meta) -> Iterator[str]:
    """An answer stands in the gold documents, but where the question's wording has it. TEXT is without pairs."""
    if meta.type in _COMPARISONS or answers[0].casefold() in _NO_TEXT_ANSWERS:
        return
    begins = [each.begin for each in headers(text)] + [len(text)]
    gold = " ".join(_words(text[begins[slot] : begins[slot + 1]]) for slot in meta.gold_slots if slot + 1 < len(begins))
    if not any(_words(answer) in gold for answer in answers):
        yield f"answer: {answers[0]!r} stands in none of the gold documents"


def _words(text: str) -> str:
    """Words only: without case, accents and punctuation."""
    bare = "".join(each for each in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(each))
    return " ".join(re.findall(r"\w+", bare))


# ---------------------------------------------------------------- what meta tells of the pairs


def _told_pairs(text: str, pairs: Sequence[Found], meta: Meta) -> Iterator[str]:
    told = [(pair.key, pair.value) for pair in meta.pairs]
    if told != [(pair.key, pair.value) for pair in pairs]:
        yield f"meta.pairs has {len(told)} pairs, the text {len(pairs)}, and they are not the same"
        return
    for pair in meta.pairs:
        span = text[pair.offset : pair.offset + pair.length]
        bare = json.dumps({pair.key: pair.value}, ensure_ascii=False) + "."
        if span not in (f" {bare}", f"{bare} "):
            yield f"meta.pairs: {pair.key} is not at offset {pair.offset}, with one space beside it"
            return
    number = {pair.key: pair.chain for pair in meta.pairs}
    chains = chains_in(pairs)
    for chain in chains:
        same = {number[key] for key in chain.keys}
        if len(same) > 1 or (chain.head == meta.head) != (same == {0}):
            yield f"meta.pairs: expected one chain number in the chain that begins with {chain.head}, 0 in the row's own"
            return
    if set(number.values()) != set(range(len(chains))):
        yield f"meta.pairs: expected chain numbers from 0 to {len(chains) - 1}"
