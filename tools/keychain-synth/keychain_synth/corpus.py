"""Questions and documents on disk, with their token counts, shared by all processes of a run.

Sits between items.py and row.py. `build` reads the question files and pools once, takes duplicates out, counts every
document's and question's tokens, and leaves a folder in the cache that is named by what went in (contents, format,
tokenizer): the next run with the same files starts at once. Workers map the folder's files; nothing of the corpus is
copied into them.

    docs.bin   title, newline, text of each document, one after the other     docs.npy    offsets, int64 (D+1,)
    tokens.npy tokens of each document alone, int32 (D,)                      filler.npy  may fill a row, bool (D,)
    points.npy where a pair may stand behind a sentence, in characters of     places.npy  offsets into it, int64 (D+1,)
               each document's text, int32
    items.bin  one msgpack `Entry` after the other                            items.npy   offsets, int64 (N+1,)
    about.json counts, what was dropped, where and why

A document is no filler when another one has the same text, or when it holds what looks like a pair. Control tokens in
texts are broken up by a space (`Tokenizer.defuse`), and so are lines that would pass for a passage's header. A question
that one of its own documents holds, or that looks like a key, is dropped: no chain could hide it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from array import array
from collections import Counter
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from keychain_synth import book, chains
from keychain_synth.items import Dropped, Item, located_items, read_passages
from keychain_synth.tokens import Tokenizer
from tenfold_shared import BadInput, Missing
from tenfold_shared.cache import cache_dir
from tenfold_shared.cli import sha256_of
from tenfold_shared.jsonl import write_atomic
from tenfold_shared.progress import Progress

VERSION = 5  # of the folder's layout
_BATCH = 4096  # texts tokenised at once
PAIR_LIKE = re.compile(r'\{\s*"[^"{}]*"\s*:')
_ID_LIKE = re.compile(r"[0-9a-f-]{8,36}|passage [0-9]+:?", re.IGNORECASE)
_HEADER_LIKE = re.compile(r"^(Passage \d+):$", re.MULTILINE)
# Not questions that make no row: twins by design, and documents of a pool.
UNCOUNTED = ("unanswerable", "passage", "passage-pair-like")


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """An item as row.py needs it: docs are indices of its documents, gold says which of them support the answer."""

    id: str
    question: str
    answers: tuple[str, ...]
    docs: tuple[int, ...]
    gold: tuple[bool, ...]
    hops: int | None
    source: str
    type: str | None
    tokens: int


class Corpus:
    """A folder that `build` left, mapped. Documents and items by index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about: dict[str, Any] = json.loads((folder / "about.json").read_text())

        def mapped(name: str) -> Any:  # as a plain array: np.memmap takes several times as long to index
            return np.asarray(np.load(folder / name, mmap_mode="r"))

        self._offsets, self._entries, self._places = mapped("docs.npy"), mapped("items.npy"), mapped("places.npy")
        self.tokens, self.filler, self._points = mapped("tokens.npy"), mapped("filler.npy"), mapped("points.npy")
        self._docs = _mapped(folder / "docs.bin")
        self._items = _mapped(folder / "items.bin")
        self._decoder = msgspec.msgpack.Decoder(Entry)
        whole = self._offsets[-1] == self._docs.size and self._entries[-1] == self._items.size
        if not whole or self.about.keys() < {"documents", "items", "questions", "dropped", "drops"}:
            raise ValueError("its files do not belong together")

    @property
    def n_docs(self) -> int:
        return len(self.tokens)

    @property
    def n_items(self) -> int:
        return len(self._entries) - 1

    @lru_cache(maxsize=4096)  # noqa: B019 -- a process has one corpus; a row asks for a document twice
    def document(self, index: int) -> tuple[str, str]:
        """(title, text)."""
        raw = self._docs[self._offsets[index] : self._offsets[index + 1]].tobytes().decode()
        title, _, text = raw.partition("\n")
        return title, text

    def points(self, index: int) -> list[int]:
        """Offsets in the document's text behind which a pair may stand (`chains.points`)."""
        return self._points[self._places[index] : self._places[index + 1]].tolist()

    def entry(self, index: int) -> Entry:
        return self._decoder.decode(self._items[self._entries[index] : self._entries[index + 1]].tobytes())

    @cached_property
    def words(self) -> dict[str, list[int]]:
        """Items by the content words of their questions; words of more than 2 % of the questions left out."""
        found: dict[str, list[int]] = {}
        for index in range(self.n_items):
            for word in set(content_words(self.entry(index).question)):
                found.setdefault(word, []).append(index)
        most = max(20, self.n_items // 50)
        return {word: items for word, items in found.items() if len(items) <= most}


def content_words(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text.casefold()) if len(word) > 2]


def _mapped(path: Path) -> Any:
    return np.asarray(np.memmap(path, np.uint8, mode="r")) if path.stat().st_size else np.empty(0, np.uint8)


def identity(paths: Sequence[str]) -> list[dict[str, str]]:
    """`[{path, sha256}]` of files; a pool may be the book by name."""
    return [{"path": path, "sha256": sha256_of(book.file() if path == book.NAME else path)} for path in paths]


def build(
    questions: Sequence[str], pools: Sequence[str], form: str, tokenizer: Tokenizer, quiet: bool,
    inputs: Sequence[dict[str, str]] | None = None,
) -> Corpus:  # fmt: skip
    """The corpus of these files, from the cache where it is there.

    inputs: their `identity`, where it is known. Raises BadInput for files that cannot be read, and where no question is
    left.
    """
    inputs = inputs or identity([*questions, *pools])
    files = [[Path(each["path"]).name, each["sha256"]] for each in inputs]  # a name's suffix says how a file is read
    named = json.dumps([VERSION, form, tokenizer.digest, tokenizer.controls, len(questions), files])
    folder = cache_dir() / "keychain-synth" / hashlib.sha256(named.encode()).hexdigest()[:24]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(folder.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be building the same one
        if not (folder / "about.json").is_file():
            aside = folder.with_name(folder.name + ".part")
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            try:
                _Builder(aside, tokenizer, quiet).run(questions, pools, form)
            except OSError as error:
                raise Missing(
                    f"{aside}: cannot be written: {error.strerror}; TENFOLD_CACHE names another cache"
                ) from None
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(aside, folder)
    try:
        return Corpus(folder)
    except (OSError, ValueError, IndexError) as error:
        raise BadInput(f"{folder}: this folder of the cache is damaged, delete it: {error}") from None


class _Builder:
    def __init__(self, folder: Path, tokenizer: Tokenizer, quiet: bool) -> None:
        self.folder, self.tokenizer, self.quiet = folder, tokenizer, quiet
        self.known: dict[bytes, int] = {}
        self.texts: set[bytes] = set()
        self.filler = bytearray()
        self.offsets, self.entries = [0], [0]
        self.dropped: Counter[str] = Counter()
        self.drops: list[dict[str, Any]] = []
        self.file = 0
        self.asked: set[bytes] = set()
        self.ids: set[bytes] = set()

    def run(self, questions: Sequence[str], pools: Sequence[str], form: str) -> None:
        with open(self.folder / "docs.bin", "wb") as self.docs, open(self.folder / "items.bin", "wb") as self.items:
            with Progress("read", None, "questions", self.quiet) as progress:
                waiting: list[tuple[Item, list[int]]] = []
                for self.file, path in enumerate(questions):
                    for where, found in located_items(path, form):
                        progress.update()
                        usable = found if isinstance(found, Dropped) else self.usable(where, found)
                        if isinstance(usable, Dropped):
                            self.drop(usable)
                            continue
                        waiting.append((usable, [self.add(each.title, each.text) for each in usable.paragraphs]))
                        if len(waiting) == _BATCH:
                            self.put(waiting)
                            waiting = []
                self.put(waiting)
            with Progress("read", None, "documents", self.quiet) as progress:
                for self.file, path in enumerate(pools, len(questions)):
                    held = 0
                    for passage in book.passages() if path == book.NAME else read_passages(path):
                        progress.update()
                        if isinstance(passage, Dropped):
                            self.drop(passage)
                        else:
                            held += bool(PAIR_LIKE.search("\n".join(passage)))
                            self.add(*passage)
                    if held:
                        self.drop(Dropped(path, None, "passage-pair-like", f"{held} passages hold what looks like a pair; "
                                          "they fill no row"))  # fmt: skip
        if len(self.entries) == 1:
            why = (
                ", ".join(f"{count} {reason}" for reason, count in self.dropped.most_common()) or "the files are empty"
            )
            raise BadInput(f"{', '.join(questions)}: no question is left to make rows of: {why}")
        np.save(self.folder / "docs.npy", np.array(self.offsets, np.int64))
        np.save(self.folder / "items.npy", np.array(self.entries, np.int64))
        np.save(self.folder / "filler.npy", np.frombuffer(bytes(self.filler), np.uint8).astype(bool))
        self.known.clear()
        self.texts.clear()
        tokens, points, places = self.count()
        np.save(self.folder / "tokens.npy", tokens)
        np.save(self.folder / "points.npy", points)
        np.save(self.folder / "places.npy", places)
        about = {"documents": len(self.offsets) - 1, "fillers": int(sum(self.filler)), "items": len(self.entries) - 1,
                 "questions": len(self.asked), "dropped": dict(sorted(self.dropped.items())), "drops": self.drops}  # fmt: skip
        write_atomic(self.folder / "about.json", json.dumps(about, ensure_ascii=False).encode())

    def drop(self, found: Dropped) -> None:
        self.dropped[found.reason] += 1
        if found.reason != "unanswerable":  # in MuSiQue's full files every question has such a twin
            # The file by its number: the next run with the same contents may call it otherwise.
            place = re.search(r":\d+$|\[\d+\]$", found.where)
            self.drops.append({"file": self.file, "place": place[0] if place else "", "id": found.id,
                               "reason": found.reason, "detail": found.detail})  # fmt: skip

    def usable(self, where: str, item: Item) -> Item | Dropped:
        """The item with its question as it will stand in prompts, or why a row with it could not be told apart."""
        at = f"id {item.id!r}"
        question = " ".join(item.question.split())
        texts = [f"{' '.join(each.title.split())}\n{each.text}" for each in item.paragraphs]
        if any(PAIR_LIKE.search(text) for text in (*texts, question)):
            return Dropped(
                where, item.id, "pair-like", f"{at}: a paragraph, or the question, holds what looks like a pair"
            )
        if any(question.casefold() in text.casefold() for text in texts):
            return Dropped(where, item.id, "question-in-text", f"{at}: a paragraph of its own holds the question")
        if _ID_LIKE.fullmatch(question):
            return Dropped(where, item.id, "id-like", f"{at}: the question {question!r} looks like a key or a header")
        name = _hash(item.id)
        if name in self.ids:
            return Dropped(where, item.id, "duplicate-id", f"{at}: stands in more than one file")
        self.ids.add(name)
        return msgspec.structs.replace(item, question=self.tokenizer.defuse(question))

    def add(self, title: str, text: str) -> int:
        """Index of the document, written if it is new."""
        title, text = (
            _HEADER_LIKE.sub(r"\1 :", self.tokenizer.defuse(each)) for each in (" ".join(title.split()), text.strip())
        )
        raw = f"{title}\n{text}".encode(errors="replace")
        name = _hash(raw)
        if name in self.known:
            return self.known[name]
        index = self.known[name] = len(self.filler)
        body = _hash(" ".join(text.casefold().split()))
        self.filler.append(bool(text) and body not in self.texts and not PAIR_LIKE.search(raw.decode()))
        self.texts.add(body)
        self.docs.write(raw)
        self.offsets.append(self.offsets[-1] + len(raw))
        return index

    def put(self, batch: Sequence[tuple[Item, list[int]]]) -> None:
        questions = [item.question for item, _ in batch]
        for (item, docs), question, tokens in zip(batch, questions, self.tokenizer.counts(questions), strict=True):
            gold = tuple(each.supporting for each in item.paragraphs)
            raw = msgspec.msgpack.encode(Entry(item.id, question, tuple(map(self.tokenizer.defuse, item.answers)), tuple(docs), gold, item.hops,
                                               item.source, item.type, tokens))  # fmt: skip
            self.items.write(raw)
            self.entries.append(self.entries[-1] + len(raw))
            self.asked.add(_hash(question.casefold()))

    def count(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(tokens, points, places): of every document, read back in batches."""
        total = len(self.offsets) - 1
        tokens, places = np.zeros(total, np.int32), np.zeros(total + 1, np.int64)
        points = array("i")
        with (
            Progress("tokenise", total, "documents", self.quiet) as progress,
            open(self.folder / "docs.bin", "rb") as file,
        ):
            for start in range(0, total, _BATCH):
                end = min(start + _BATCH, total)
                raw = file.read(self.offsets[end] - self.offsets[start])
                base = self.offsets[start]
                texts = [raw[self.offsets[i] - base : self.offsets[i + 1] - base].decode() for i in range(start, end)]
                tokens[start:end] = self.tokenizer.counts(texts)
                for at, text in enumerate(texts, start + 1):
                    points.extend(chains.points(text.partition("\n")[2]))
                    places[at] = len(points)
                progress.update(end - start)
        return tokens, np.frombuffer(points, np.int32) if points else np.empty(0, np.int32), places


def _hash(what: str | bytes) -> bytes:
    return hashlib.blake2b(what.encode(errors="replace") if isinstance(what, str) else what, digest_size=8).digest()
