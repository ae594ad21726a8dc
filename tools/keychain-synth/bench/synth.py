"""Benchmark of `keychain-synth synth`: rows of 16K and 128K tokens over a pool of 480,000 documents.

    python tools/keychain-synth/bench/synth.py [--documents 480000] [--rows 40] [--quick]

The pool is $TENFOLD_DATA/2wiki_passages.json (or, without it, the shipped items' paragraphs), repeated with a suffix
until there are enough different documents; the questions are the shipped items. One JSON object a line, an object a
case, times in seconds, all in one process and on one thread:

- pool: reading, sorting out and tokenising the pool, a document. Floor: one encoding of the same texts. `memory` is what
  the process needed at most beyond an empty one, as a multiple of the corpus' bytes.
- row at 16,384 and 131,072: a finished row, its JSON line included. Floor: one encoding of the emitted prompts by the same
  call. Peer: a re-statement of the published pipeline's steps (not its code): list every
  document that is not the row's own by a scan with list membership, shuffle the list, take one document count for all
  rows, encode the whole, take ten documents off and encode again while it is too long, then insert pairs at stoppers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import resource
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import msgspec

from keychain_synth.corpus import Corpus, build
from keychain_synth.row import RowMaker, Shape
from keychain_synth.tokens import Tokenizer

EXAMPLES = Path(__file__).parents[1] / "examples"
QUESTIONS = [EXAMPLES / name for name in ("hotpot.json", "musique.jsonl", "2wiki.json")]


def machine() -> str:
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {os.cpu_count()} cores"


def show(case: str, ours: float, peer: float | None, floor: float, n: int, documents: int, **more: object) -> None:
    row = {
        "tool": "keychain-synth", "case": case, "ours": ours, "peer": peer,
        "peer_name": peer and "re-statement of the published pipeline", "unit": "s",
        "ratio": peer and peer / ours, "floor": floor, "floor_ratio": ours / floor, "n": n, **more,
    }  # fmt: skip
    rounded = {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in row.items()}
    command = f"python tools/keychain-synth/bench/synth.py --documents {documents}"
    print(json.dumps({**rounded, "machine": machine(), "command": command}), flush=True)


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def passages() -> list[dict[str, str]]:
    data = os.environ.get("TENFOLD_DATA")
    if data and (Path(data) / "2wiki_passages.json").is_file():
        return json.loads((Path(data) / "2wiki_passages.json").read_text())
    print("TENFOLD_DATA is not set: the pool is the shipped items' paragraphs", file=sys.stderr)
    return [
        {"title": title, "text": "".join(sentences)}
        for title, sentences in (each for item in json.loads(QUESTIONS[0].read_text()) for each in item["context"])
    ]


def write_pool(path: Path, count: int) -> int:
    """COUNT different documents; returns their bytes."""
    found, size = passages(), 0
    with open(path, "w") as file:
        for at in range(count):
            turn, which = divmod(at, len(found))
            each = found[which]
            line = {"title": f"{each['title']} ({turn})", "text": f"{each['text']} Copy {turn}."} if turn else each
            size += len(f"{line['title']}\n{line['text']}".encode())
            file.write(json.dumps(line) + "\n")
    return size


class Published:
    """The steps of the published pipeline, with its costs: lists, scans, whole encodings."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, length: int) -> None:
        self.tokenizer, self.length = tokenizer, length
        self.documents = ["\n".join(corpus.document(at)) for at in range(corpus.n_docs)]
        self.entries = [corpus.entry(at) for at in range(corpus.n_items)]
        self.count: int | None = None

    def prompt(self, own: list[str], count: int) -> str:
        others = [each for each in self.documents if each not in own]
        random.Random(42).shuffle(others)
        chosen = own + others[: count - len(own)]
        random.Random(42).shuffle(chosen)
        return "\n\n".join(f"Passage {at + 1}:\n{each}" for at, each in enumerate(chosen))

    def tokens(self, text: str) -> int:
        return len(self.tokenizer.encode(text, False))

    def row(self, index: int) -> str:
        entry = self.entries[index % len(self.entries)]
        own = [self.documents[at] for at in entry.docs]
        if self.count is None:  # found once, on the first row
            self.count = 10
            while self.tokens(self.prompt(own, self.count + 10)) < self.length:
                self.count += 10
        count = self.count
        text = self.prompt(own, count)
        while self.tokens(text) + 128 > self.length:
            count -= 10
            text = self.prompt(own, count)
        chains = 4 * self.length // 1024
        rng = random.Random(index)
        pairs = []
        for chain in range(chains):
            ids = [str(uuid.uuid4())[:8] for _ in range(4)]
            question = (entry if chain == 0 else rng.choice(self.entries)).question
            pairs += [f'{{"{key}": "{value}"}}.' for key, value in zip(ids, [*ids[1:], question], strict=True)]
        rng.shuffle(pairs)
        stops = [match.end() for match in re.finditer(r"[.?\n]", text)]
        for at, pair in sorted(zip(rng.sample(stops, len(pairs)), pairs, strict=True), reverse=True):
            text = f"{text[:at]} {pair}{text[at:]}"
        return json.dumps({"input": entry.question, "context": text, "length": self.tokens(text)})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--documents", type=int, default=480_000)
    parser.add_argument("--rows", type=int, default=60, help="rows of 16,384 tokens; an eighth of it of 131,072")
    parser.add_argument("--quick", action="store_true", help="20,000 documents and few rows")
    given = parser.parse_args()
    documents, rows = (20_000, 16) if given.quick else (given.documents, given.rows)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TENFOLD_CACHE"], cache = folder, os.environ.get("TENFOLD_CACHE")
        pool = Path(folder) / "pool.jsonl"
        size = write_pool(pool, documents)
        if cache is None:
            del os.environ["TENFOLD_CACHE"]
        tokenizer = Tokenizer("smollm2")
        os.environ["TENFOLD_CACHE"] = folder
        empty = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        started = time.perf_counter()
        corpus = build([str(each) for each in QUESTIONS], [str(pool)], "auto", tokenizer, quiet=True)
        took = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - empty
        sample = ["\n".join(corpus.document(at)) for at in range(0, corpus.n_docs, max(1, corpus.n_docs // 20_000))]
        floor = timed(lambda: tokenizer.counts(sample)) / len(sample)
        show("pool, a document", took / corpus.n_docs, None, floor, corpus.n_docs, documents,
             memory=peak / size, corpus_bytes=size)  # fmt: skip
        for length, count, peers in ((16_384, rows, 4), (131_072, max(2, rows // 8), 1)):
            maker = RowMaker(corpus, tokenizer, Shape(chains_per_k=min(4.0, corpus.n_items * 1024 / length)))
            maker.costs(length)
            # One after the other, so that what else the machine does weighs on both alike.
            ours = floor = 0.0
            for at in range(count):
                started = time.perf_counter()
                line = msgspec.json.encode(maker.make(at % corpus.n_items, length))  # as `jsonl.Output` does
                ours += time.perf_counter() - started
                prompt = tokenizer.render(json.loads(line)["messages"])
                floor += timed(lambda prompt=prompt: tokenizer.encode(prompt, False))
            published = Published(corpus, tokenizer, length)
            published.row(0)  # finds its document count
            peer = timed(lambda published=published, peers=peers: [published.row(at) for at in range(1, 1 + peers)])
            show(f"row at {length}", ours / count, peer / peers, floor / count, count, documents,
                 chains=maker.shape.n_chains(length))  # fmt: skip
            del published


if __name__ == "__main__":
    main()
