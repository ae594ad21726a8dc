"""Small corpora made on the spot, for the tests of datamix: a Markov chain over words for each domain, learnable in a few steps.

A domain's words are partly its own and partly everyone's, so that training on one helps and hurts the others as real fields do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from datamix.corpus import FILE, Corpus, Domain, Listing, Part

LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz"))


def text_of(name: str, characters: int, seed: int = 0, *, part: str = "train", words: int = 24, shared: int = 8) -> str:
    """ASCII text of a domain, at least `characters` long: its chain depends on the name and seed, the path through it on `part` too."""
    chain = np.random.default_rng(_number(seed, name))
    common = np.random.default_rng(_number(seed, "common"))
    vocabulary = _words(common, shared) + _words(chain, words - shared)
    follows = np.cumsum(chain.dirichlet(np.full(words, 0.15), size=words), axis=1)
    walk = np.random.default_rng(_number(seed, name, part)).random(characters // 3 + 1)
    at, made, length = 0, [], 0
    for u in walk:
        at = min(int(np.searchsorted(follows[at], u)), words - 1)
        made.append(vocabulary[at])
        length += len(vocabulary[at]) + 1
        if length >= characters:
            break
    return " ".join(made)


def make_corpus(
    folder: Path,
    sizes: Mapping[str, int] | int = 20_000,
    *,
    targets: Sequence[str] | None = None,
    valid: int = 4_000,
    document: int = 500,
    seed: int = 0,
) -> Corpus:
    """A corpus/1 folder of bytes. sizes: characters of train text a domain, or that number D of times named a, b, c, d of 20,000 or so
    (an int is the size of each of four). targets: by default the last domain is the target. Two calls make the same bytes."""
    if isinstance(sizes, int):
        sizes = dict.fromkeys(("alpha", "beta", "gamma", "delta"), sizes)
    chosen = list(sizes)[-1:] if targets is None else list(targets)
    for sub in ("train", "valid", "tokens"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    domains = []
    for name, size in sizes.items():
        parts = {}
        for split, wanted in (("train", size), ("valid", valid)):
            text = text_of(name, wanted, seed, part=split)
            documents = [text[i : i + document].strip() for i in range(0, len(text), document)]
            lines = "".join(json.dumps({"text": one}) + "\n" for one in documents)
            (folder / split / f"{name}-0.jsonl").write_text(lines, encoding="utf-8")
            tokens = b"".join(one.encode() + b"\0" for one in documents)
            (folder / "tokens" / f"{name}.{split}.bin").write_bytes(tokens)
            digest = hashlib.sha256(tokens).hexdigest()
            parts[split] = Part(len(documents), len(tokens) - len(documents), len(tokens), digest)
        role = "target" if name in chosen else "source"
        domains.append(Domain(name, role, parts["train"], parts["valid"], origin="made by a test"))
    (folder / FILE).write_bytes(msgspec.json.encode(Listing(domains=domains)))
    return Corpus.load(folder)


def _words(rng: np.random.Generator, n: int) -> list[str]:
    return ["".join(rng.choice(LETTERS, int(rng.integers(2, 8)))) for _ in range(n)]


def _number(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256("\0".join(map(str, parts)).encode()).digest()[:8], "little")
