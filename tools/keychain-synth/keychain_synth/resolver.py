"""A prompt read as a model would have to read it: its passages, its pairs, the key to begin with, and where that leads.

Sits under check.py and inspect.py. Works on the text alone and imports nothing of the code that made the row.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

Value = str | list[str]

_OPEN = re.compile(r'\{\s*"')
KEY = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{8}(?:[0-9a-f]{24})?")
_NAMED = re.compile(rf'"({KEY.pattern})"|(?<![\w-])({KEY.pattern})(?![\w-])')
_HEADER = re.compile(r"^Passage ([1-9][0-9]{0,8}):\n(.*)$", re.MULTILINE)


class Unresolved(ValueError):
    """The text does not lead to one question; the reason."""


class Found(msgspec.Struct, frozen=True):
    """A pair in the text: TEXT[begin:end] is its JSON."""

    key: str
    value: Value
    begin: int
    end: int

    @property
    def targets(self) -> Sequence[str]:
        return [self.value] if isinstance(self.value, str) else self.value


class Chain(msgspec.Struct, frozen=True):
    """What hangs on a key that no pair leads to: the question in the end, after how many pairs, all its keys."""

    head: str
    question: str
    steps: int
    keys: tuple[str, ...]


class Header(msgspec.Struct, frozen=True):
    """A passage's header: TEXT[begin:end] are its line and its title's."""

    begin: int
    end: int
    number: int
    title: str


def headers(text: str) -> list[Header]:
    return [Header(found.start(), found.end(), int(found[1]), found[2]) for found in _HEADER.finditer(text)]


def pairs_in(text: str) -> list[Found]:
    """Every JSON object in TEXT whose one entry has an id as its key, in the order of the text."""
    decoder = json.JSONDecoder()
    found, at = [], 0
    while match := _OPEN.search(text, at):
        try:
            value, end = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            at = match.end()
            continue
        if len(value) == 1:
            [(key, target)] = value.items()
            texts = [target] if isinstance(target, str) else target
            if KEY.fullmatch(key) and isinstance(texts, list) and all(isinstance(each, str) for each in texts):
                found.append(Found(key, target, match.start(), end))
        at = end
    return found


def outside(text: str, pairs: Sequence[Found]) -> Iterator[str]:
    """What stands between the pairs, their full stops and one space left out."""
    done = 0
    for pair in pairs:
        yield text[done : pair.begin]
        done = pair.end + text.startswith(".", pair.end)
        done += text.startswith(" ", done)
    yield text[done:]


def head_of(text: str, pairs: Sequence[Found]) -> str:
    """The key to begin with: the one named behind the pairs, or else in front of the passages. Other words that look
    like keys count only where none is a key of the text. Raises Unresolved."""
    keys, passages = {pair.key for pair in pairs}, headers(text)
    named: list[str] = []
    for part in (text[pairs[-1].end :], text[: passages[0].begin if passages else pairs[0].begin]):
        words = [one or other for one, other in _NAMED.findall(part)]
        found = dict.fromkeys(word for word in words if word in keys)
        if len(found) > 1:
            raise Unresolved(f"{len(found)} keys to begin with are named: {', '.join(found)}")
        if found:
            return next(iter(found))
        named += words
    if named:
        raise Unresolved(f"the key to begin with, {named[-1]}, has no pair")
    raise Unresolved("no key to begin with is named behind the text")


def table_of(pairs: Sequence[Found]) -> dict[str, Found]:
    table: dict[str, Found] = {}
    for pair in pairs:
        if pair.key in table:
            raise Unresolved(f"key {pair.key} stands there twice")
        table[pair.key] = pair
    return table


def follow(table: dict[str, Found], head: str) -> Chain:
    """From a key to the one question it leads to. Raises Unresolved."""
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
        if key not in table:
            if isinstance(table[head].value, str):
                raise Unresolved(f"the chain breaks off at {key}")
            continue  # a leaf of a tree that leads nowhere
        for target in table[key].targets:
            if KEY.fullmatch(target):
                ahead.append((target, depth + 1))
            else:
                ends.append((target, depth))
    if len(ends) != 1:
        raise Unresolved(f"expected one question at the end, found {len(ends)}")
    return Chain(head, *ends[0], tuple(key for key in seen if key in table))


def resolve(text: str) -> Chain:
    """The chain that the prompt asks for. Raises Unresolved."""
    pairs = pairs_in(text)
    if not pairs:
        raise Unresolved("there are no pairs in the text")
    return follow(table_of(pairs), head_of(text, pairs))


def chains_in(pairs: Sequence[Found]) -> list[Chain]:
    """All chains of a text: each id stands once as a key and, unless it begins a chain, once as a value. Raises
    Unresolved where that is not so."""
    table = table_of(pairs)
    ids = Counter(target for pair in pairs for target in pair.targets if KEY.fullmatch(target))
    for key, count in ids.items():
        if count > 1:
            raise Unresolved(f"{key} is the value of {count} pairs")
    found = []
    for key in table:
        if key not in ids:
            try:
                found.append(follow(table, key))
            except Unresolved as why:
                raise Unresolved(f"the chain that begins with {key}: {why}") from None
    reached = {key for chain in found for key in chain.keys}
    for key in table:
        if key not in reached:
            raise Unresolved(f"no chain leads to {key}")
    return found
