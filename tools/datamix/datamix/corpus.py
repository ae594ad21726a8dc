"""A corpus: a folder of domains, each a field's texts split into train and valid, with their tokens ready to be mapped into memory.

    DIR/corpus.json                        what is in it (below), with hashes
    DIR/train/<domain>-<shard>.jsonl       texts, {"text": ...} a line: the layout of RegMix, so that its scripts read it too
    DIR/valid/<domain>-<shard>.jsonl
    DIR/tokens/<domain>.train.bin, .valid.bin    token ids, little-endian, documents separated by `separator`

Bytes are the tokens unless a tokenizer was named. Made by corpora.py; everything that trains reads it through `Corpus`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from tenfold_shared import BadInput, unread

Role = Literal["source", "target"]
Split = Literal["train", "valid"]
FILE = "corpus.json"


class Part(msgspec.Struct):
    """One split of one domain. `bytes` of UTF-8 text without separators; `sha256` of the token file."""

    documents: int
    bytes: int
    tokens: int
    sha256: str


class Domain(msgspec.Struct):
    name: str
    role: Role
    train: Part
    valid: Part
    origin: str = ""  # where the texts are from, for people


LONGEST = 200  # bytes of a domain's name: its files' names have some more


class Listing(msgspec.Struct):
    """What corpus.json holds."""

    domains: list[Domain]
    schema: str = "corpus/1"
    tokenizer: str = "bytes"  # or the URI of a model
    dtype: Literal["uint8", "uint16", "uint32"] = "uint8"
    vocabulary: int = 256
    separator: int = 0  # the token between documents; no text holds byte 0


class Corpus:
    """An opened corpus. D domains in the order of corpus.json; `source` [D] is true for source domains."""

    def __init__(self, folder: Path, listing: Listing) -> None:
        self.folder, self.listing = folder, listing
        self.domains = listing.domains
        self.names = [one.name for one in listing.domains]
        self.source: NDArray[np.bool_] = np.array([one.role == "source" for one in listing.domains])
        self.sizes: NDArray[np.int64] = np.array([one.train.tokens for one in listing.domains], dtype=np.int64)

    @classmethod
    def load(cls, folder: str | Path) -> Corpus:
        """Raises BadInput where there is no corpus, it is not whole, or there is nothing to mix in it."""
        folder = Path(folder)
        path = folder / FILE
        try:
            listing = msgspec.json.decode(path.read_bytes(), type=Listing)
        except FileNotFoundError:
            hint = " (make one with `datamix corpora --from DIR -o CORPUS`)" if folder.is_dir() else ""
            raise BadInput(f"{path}: no such file; expected a corpus{hint}") from None
        except NotADirectoryError:
            raise BadInput(f"{folder}: is a file; expected the folder of a corpus") from None
        except (msgspec.DecodeError, OSError, UnicodeDecodeError, RecursionError) as error:
            raise BadInput(f"{path}: not a corpus: {error}") from None
        if listing.schema != "corpus/1":
            raise BadInput(f"{path}: schema: expected corpus/1, got {listing.schema!r}; make the corpus again")
        check_domains([(one.name, one.role) for one in listing.domains], str(path))
        found = cls(folder, listing)
        for one in listing.domains:
            for split, part in (("train", one.train), ("valid", one.valid)):
                file = found.file(one.name, "train" if split == "train" else "valid")
                want = part.tokens * np.dtype(listing.dtype).itemsize
                if not file.is_file() or file.stat().st_size != want:
                    raise BadInput(f"{file}: is not the {want} bytes that {FILE} names; make the corpus again")
                if part.tokens == 0:
                    raise BadInput(f"{path}: {one.name}: no {split} text; leave the domain out")
        return found

    def verify(self) -> None:
        """Whether the token files of these domains are the ones that corpus.json names, by their hashes; `load` compares sizes alone. Called
        once by every verb before it trains on text or measures on it, in the parent and not in each of its processes: it reads all of the
        text once, at the speed of the disk or of SHA-256 (some 0.4 to 2 GB a second on one core), whichever is slower. Raises BadInput for
        the first file that is another one."""
        for one in self.domains:
            splits: tuple[tuple[Split, Part], ...] = (("train", one.train), ("valid", one.valid))
            for split, part in splits:
                path = self.file(one.name, split)
                try:
                    with open(path, "rb") as stream:
                        found = hashlib.file_digest(stream, "sha256").hexdigest()
                except OSError as error:
                    raise unread(path, error, "make the corpus again") from None
                if found != part.sha256:
                    raise BadInput(
                        f"{path}: is not the file that {FILE} names (sha256): it was changed or is damaged; make the corpus again"
                    )

    def file(self, name: str, split: Split) -> Path:
        return self.folder / "tokens" / f"{name}.{split}.bin"

    def tokens(self, name: str, split: Split) -> NDArray[np.generic]:
        """Token ids of a split, [n], mapped read-only."""
        return np.memmap(self.file(name, split), dtype=np.dtype(self.listing.dtype).newbyteorder("<"), mode="r")

    def subset(self, sources: list[str], targets: list[str]) -> Corpus:
        """The same texts with other roles and fewer domains: sources first. Raises BadInput for unknown names."""
        by_name = {one.name: one for one in self.domains}
        for name in [*sources, *targets]:
            if name not in by_name:
                raise BadInput(f"{self.folder}: {name}: no such domain; there are {', '.join(self.names)}")
        chosen = [msgspec.structs.replace(by_name[name], role="source") for name in sources]
        chosen += [msgspec.structs.replace(by_name[name], role="target") for name in targets]
        check_domains([(one.name, one.role) for one in chosen], str(self.folder))
        return Corpus(self.folder, msgspec.structs.replace(self.listing, domains=chosen))


def check_domains(domains: list[tuple[str, str]], where: str) -> None:
    """Raises BadInput where there is nothing to mix, a role is missing, or names are not names of their own."""
    names = [name for name, _ in domains]
    if len(names) < 2:
        raise BadInput(f"{where}: {len(names)} domain: nothing to mix; expected two or more")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadInput(f"{where}: {twice}: named twice")
    for role in ("source", "target"):
        if role not in [found for _, found in domains]:
            raise BadInput(f"{where}: no {role} domain; expected at least one (--target NAME says which are targets)")
    for name in names:
        if not 0 < len(name.encode()) <= LONGEST or any(c in name for c in "/\\\0\n") or name.startswith("."):
            raise BadInput(f"{where}: {name!r}: not a domain's name; expected one that can be a file's name")


def ambiguous(names: list[str]) -> tuple[str, str] | None:
    """Two names of which one begins with the other: RegMix finds a domain's files by prefix and would read both as one."""
    for one in sorted(names):
        for other in names:
            if other != one and other.startswith(one):
                return one, other
    return None
