"""Puts a corpus on disk: how documents are split, become token ids and are written, and the folder that appears whole or not at all.

Sits between corpora.py, which chooses the documents, and corpus.py, which says what the folder holds.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from datamix import __version__
from datamix.corpus import FILE, Corpus, Domain, Listing, Part, Role, Split, check_domains
from tenfold_shared import BadInput, Missing
from tenfold_shared.jsonl import Lock, difference
from tenfold_shared.redaction import redact

Ids = NDArray[np.generic]
Options = dict[str, Any]
Dtype = Literal["uint8", "uint16", "uint32"]

LEAST_VALID = 40_000  # bytes held out where the domain has five times as many
LEAST_PIECE = 2000  # bytes to which a held-out document is cut at the least

# ---------------------------------------------------------------- splits


class Division(NamedTuple):
    """Indices of documents; of a held-out document at most `longest` bytes are wanted, where documents may be cut."""

    train: list[int]
    valid: list[int]
    longest: int


def held_out(used: int, share: float) -> float:
    """Bytes to hold out of so many: the share asked for, at least 40 kB or a fifth."""
    return max(share * used, min(LEAST_VALID, used / 5))


def used_of(total: int, most: int | None, share: float) -> int:
    """Bytes that both splits are taken from: all there are, or as many as leave `most` to train on."""
    return total if most is None else min(total, int(most / (1 - share)))


def floor_decides(used: int, share: float) -> bool:
    """Whether more is held out of so many bytes than the share asked for."""
    return held_out(used, share) > share * used


def divide(sizes: Sequence[int], most: int | None, share: float, whole: bool = True) -> Division:
    """Which documents are held out and which are trained on. sizes: bytes, in the order of choice; most: bytes of train text. Held out
    are `share` of all text that is used, at least 40 kB or a fifth of it.

    Where documents are to stay whole, those that do not fit are passed over; where none fits to be held out, the smallest is. Else the
    caller cuts: a held-out document counts for a quarter of what is wanted at most, so that there are four or more, of any size, and the
    last train document is the one that does not fit.
    """
    wanted = held_out(used_of(sum(sizes), most, share), share)
    longest = max(LEAST_PIECE, int(wanted / 4))
    valid: list[int] = []
    held = 0
    for i, size in enumerate(sizes):
        if held >= 0.9 * wanted or len(valid) == len(sizes) - 1:
            break
        size = size if whole else min(size, longest)
        if held + size <= 1.1 * wanted or not whole:
            valid.append(i)
            held += size
    if not valid and len(sizes) > 1:
        valid = [min(range(len(sizes)), key=lambda i: sizes[i])]
    out = set(valid)
    train: list[int] = []
    taken = 0
    for i, size in enumerate(sizes):
        if most is not None and taken >= most:
            break
        if i not in out and (most is None or not whole or taken + size <= most):
            train.append(i)
            taken += size
    return Division(train, valid, longest)


# ---------------------------------------------------------------- tokens


class Form(Protocol):
    """What a corpus's tokens are. `separator` is the last token of each document, None: there is none; `added`: documents come without."""

    name: str
    dtype: Dtype
    vocabulary: int
    separator: int | None
    added: bool


class Encoder(Form, Protocol):
    def __call__(self, text: str) -> Ids: ...


class Found:
    """Tokens that were there, kept as they are; `name` is the tokenizer's where one was given, else "none"."""

    def __init__(self, name: str, vocabulary: int, separator: int | None, added: bool) -> None:
        self.name, self.vocabulary, self.separator, self.added = name, vocabulary, separator, added
        self.dtype: Dtype = "uint16" if vocabulary <= 1 << 16 else "uint32"


class Bytes:
    """The bytes of UTF-8; 0 stands between documents, as no text holds it."""

    name: str = "bytes"
    dtype: Dtype = "uint8"
    vocabulary: int = 256
    separator: int | None = 0
    added: bool = True

    def __call__(self, text: str) -> Ids:
        return np.frombuffer(text.encode(), dtype=np.uint8)


class Tokens:
    """A model's tokenizer; its end-of-sequence token stands between documents. Raises BadInput, Missing."""

    added: bool = True

    def __init__(self, uri: str) -> None:
        try:
            import transformers
        except ImportError:
            raise Missing(f"--tokenizer {uri}: transformers is not installed: pip install 'datamix[hf]'") from None
        from tenfold_shared.models import Checkpoint, resolve

        alone = (Path(uri) / "tokenizer.json").is_file()  # a folder of a tokenizer without a model
        where = Checkpoint(uri) if alone else resolve(uri)
        transformers.utils.logging.set_verbosity_error()
        try:
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                where.path, revision=where.revision or "main"
            )
        except Exception as error:  # its libraries have classes of their own for a broken file
            raise BadInput(
                f"--tokenizer {uri}: no tokenizer to be read: {' '.join(str(error).split())[:200]}"
            ) from None
        if self._tokenizer.eos_token_id is None:
            raise BadInput(f"--tokenizer {uri}: has no end-of-sequence token; one must stand between documents")
        self.name = uri
        self.separator: int | None = int(self._tokenizer.eos_token_id)
        self.vocabulary = max(len(self._tokenizer), self.separator + 1)
        self.dtype: Dtype = "uint16" if self.vocabulary <= 1 << 16 else "uint32"

    def __call__(self, text: str) -> Ids:
        return np.asarray(self._tokenizer.encode(text, add_special_tokens=False), dtype=self.dtype)

    def decode(self, ids: Ids) -> str:
        return str(self._tokenizer.decode(ids.tolist(), skip_special_tokens=True))


def encoder_of(tokenizer: str) -> Bytes | Tokens:
    return Bytes() if tokenizer == "bytes" else Tokens(tokenizer)


class Writer:
    """One split of one domain: its texts and its tokens, written as they come."""

    def __init__(self, folder: Path, name: str, split: Split, form: Form) -> None:
        self._dtype = np.dtype(form.dtype).newbyteorder("<")
        self._end = (
            b"" if form.separator is None or not form.added else np.array([form.separator], dtype=self._dtype).tobytes()
        )
        (folder / "tokens").mkdir(exist_ok=True)
        self._tokens = open(folder / "tokens" / f"{name}.{split}.bin", "wb")
        self._texts = folder / split / f"{name}-0.jsonl"
        self._lines: Any = None
        self._hash = hashlib.sha256()
        self.documents = self.bytes = self.written = 0

    def add(self, ids: Ids, text: str | None, size: int) -> None:
        """size: bytes of UTF-8 text, or tokens where no text is known."""
        data = ids.astype(self._dtype, copy=False).tobytes() + self._end
        self._tokens.write(data)
        self._hash.update(data)
        if text is not None:
            if self._lines is None:
                self._texts.parent.mkdir(exist_ok=True)
                self._lines = open(self._texts, "wb")
            self._lines.write(msgspec.json.encode({"text": text}) + b"\n")
        self.documents += 1
        self.bytes += size
        self.written += len(data)

    def close(self) -> Part:
        for stream in (self._tokens, self._lines):
            if stream is not None:
                stream.flush()
                os.fsync(stream.fileno())
                stream.close()
        return Part(self.documents, self.bytes, self.written // self._dtype.itemsize, self._hash.hexdigest())


def write_texts(folder: Path, name: str, split: Split, texts: Iterable[str], encode: Encoder) -> Part:
    writer = Writer(folder, name, split, encode)
    for text in texts:
        writer.add(encode(text), text, len(text.encode()))
    return writer.close()


# ---------------------------------------------------------------- all or nothing


class Build:
    """The output folder: locked, made beside itself under a name that starts with a dot, renamed when complete.

    identity: {tool, verb, options, inputs, ...}: what decides the bytes. `finished` is the manifest of the same command where that has
    completed. Raises BadInput for what is in the way, Busy where another run holds it.
    """

    def __init__(self, output: str, identity: Options, overwrite: bool) -> None:
        self.output = Path(output)
        self.identity, self._overwrite = identity, overwrite
        self._started, self._clock = datetime.now(UTC), time.monotonic()
        self.finished: Options | None = None
        self.folder = self._beside("tmp")

    def _beside(self, suffix: str) -> Path:
        return self.output.absolute().with_name(f".{self.output.absolute().name}.{suffix}")

    def __enter__(self) -> Self:
        parent = self.output.absolute().parent
        if not parent.is_dir():
            raise BadInput(f"{self.output}: the folder {parent} does not exist; create it first")
        self._lock = Lock(self._beside("lock"), self.output)
        try:
            self.finished = self._settle()
            if self.finished is None:
                shutil.rmtree(self.folder, ignore_errors=True)  # of a run that was killed
                self.folder.mkdir()
        except BaseException:
            self._lock.release()
            raise
        return self

    def _settle(self) -> Options | None:
        if self.output.exists() and not self.output.is_dir():
            raise BadInput(f"{self.output}: is a file; expected a folder to write")
        if not self.output.exists() or not any(self.output.iterdir()):
            return None
        try:
            manifest: Options = msgspec.json.decode((self.output / "manifest.json").read_bytes(), type=dict)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            manifest = {}
        if (manifest.get("tool"), manifest.get("verb")) != ("datamix", "corpora"):
            raise BadInput(f"{self.output}: holds things that `datamix corpora` did not make; choose another output")
        if self._overwrite:
            return None
        before, now = manifest.get("packages", {}), self.identity.get("packages", {})
        changed = difference({**manifest, "inputs": []}, {**self.identity, "inputs": []})
        if not changed and now:
            other = next((name for name in sorted(before | now) if before.get(name) != now.get(name)), None)
            changed = f"{other} {before.get(other, 'absent')}, now it is {now.get(other, 'absent')}" if other else None
        elif not changed:
            changed = difference(manifest, self.identity)
        if changed:
            raise BadInput(f"{self.output}: was made with {changed}; choose another output or add --overwrite")
        return manifest

    def publish(self, listing: Listing, counts: Options, inputs: list[dict[str, str]]) -> None:
        """Write the listing and the manifest, then put the folder in its place."""
        names = {"schema": "manifest/1", **self.identity, "inputs": inputs, "version": __version__}
        told = {
            **names,
            "argv": [redact(word) for word in sys.argv],
            "seed": self.identity["options"]["seed"],
            "counts": counts,
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._clock, 3),
        }
        for name, value in ((FILE, listing), ("manifest.json", told)):
            with open(self.folder / name, "wb") as stream:
                stream.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
        Corpus.load(self.folder)  # what cannot be opened is not published
        old = self._beside("old")
        shutil.rmtree(old, ignore_errors=True)
        if self.output.exists():
            os.rename(self.output, old)
        os.rename(self.folder, self.output)
        shutil.rmtree(old, ignore_errors=True)
        parent = os.open(self.output.absolute().parent, os.O_RDONLY)
        os.fsync(parent)
        os.close(parent)

    def __exit__(self, *exc: object) -> None:
        try:
            shutil.rmtree(self.folder, ignore_errors=True)
        finally:
            self._lock.release()


def report(folder: Path, counts: Options, as_json: bool) -> None:
    """The result on stdout: a table for people, or one JSON object."""
    corpus = Corpus.load(folder)
    listing = corpus.listing
    if as_json:
        domains = [msgspec.to_builtins(one) for one in listing.domains]
        about = {"tokenizer": listing.tokenizer, "vocabulary": listing.vocabulary}
        print(msgspec.json.encode({"output": str(folder), **about, "domains": domains, "counts": counts}).decode())
        return
    from rich.markup import escape
    from rich.table import Table

    from tenfold_shared.cli import print_table

    table = Table("domain", "role", "documents", "train bytes", "valid bytes", "from")
    for column in table.columns[2:5]:
        column.justify = "right"
    for one in listing.domains:
        documents = f"{one.train.documents}+{one.valid.documents}"
        table.add_row(
            escape(one.name), one.role, documents, f"{one.train.bytes:,}", f"{one.valid.bytes:,}", escape(one.origin)
        )
    print_table(table)


def roles_of(names: Sequence[str], targets: Sequence[str], where: str) -> dict[str, Role]:
    """Every domain's role. Raises BadInput for a target that is no domain, and where a role is missing."""
    for name in targets:
        if name not in names:
            raise BadInput(f"--target {name}: no such domain in {where}; there are {', '.join(names)}")
    roles: dict[str, Role] = {name: "target" if name in targets else "source" for name in names}
    check_domains(list(roles.items()), where)
    return roles


def check_place(output: str) -> None:
    """Raises BadInput for an output without a name, and for one inside a corpus, which would then not be what its manifest says."""
    if not output.strip():
        raise BadInput(f"-o {output!r}: expected the name of a folder to write")
    for around in Path(output).resolve().parents:
        if (around / FILE).is_file() and (around / "tokens").is_dir():
            raise BadInput(f"{output}: is inside the corpus {around}; choose a folder beside it")


def check_shares(max_bytes: int | None, valid_share: float) -> None:
    if max_bytes is not None and max_bytes < 1000:
        raise BadInput(f"--max-bytes {max_bytes}: expected 1000 or more a domain")
    if not 0 < valid_share <= 0.5:
        raise BadInput(f"--valid-share {valid_share:g}: expected a share above 0 and up to 0.5")


def listing_of(found: list[Domain], form: Form) -> Listing:
    """Sources first, as Corpus.subset has them."""
    return Listing(
        domains=sorted(found, key=lambda one: one.role != "source"),
        tokenizer=form.name,
        dtype=form.dtype,
        vocabulary=form.vocabulary,
        separator=form.separator or 0,
    )


def count(found: list[Domain], dropped: dict[str, int]) -> Options:
    parts = [part for one in found for part in (one.train, one.valid)]
    return {
        "domains": len(found),
        "documents": sum(part.documents for part in parts),
        "bytes": sum(part.bytes for part in parts),
        "dropped": dropped,
    }
