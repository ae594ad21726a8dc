"""Folders of text or tokens as others lay them out: which files make which domain, and the documents in a file.

A folder is read in two steps. `find` names domains and their files: by folder, or by a file's name without its shard number; with a split
of its own where there are `train` and `valid` folders, above the domains or in each. `documents` then reads any file by its suffix:

    .jsonl .json (.gz .zst)   an object a line, its `text` or `content`           RegMix, the Pile, Dolma
    .txt .md (.gz .zst)       a document a file; paragraphs where it is the only file of its domain
    .parquet                  column `text`, `content` or `input_ids`
    .arrow with state.json    the same, of datasets' save_to_disk                  DoReMi
    .idx with .bin            token ids of Megatron-LM's indexed datasets
    .npy                      token ids, with numpy's header or, as OLMo has them, without; OLMo's .csv.gz beside says where documents end
    .ds with .ds.index        token ids of datatrove, which nanotron reads
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from datamix.corpus import Split
from tenfold_shared import BadInput, Missing, unread
from tenfold_shared.jsonl import decode_line, read_lines, read_text

Ids = NDArray[np.generic]
LAYOUTS = ("auto", "regmix", "doremi", "plain", "megatron", "npy", "datatrove")
VALID = ("valid", "validation", "val")
FIELDS = ("text", "content")
FORMS = {"jsonl": "json", "ndjson": "json", "json": "json", "txt": "txt", "text": "txt", "md": "txt", "parquet": "parquet",
         "arrow": "arrow", "idx": "megatron", "npy": "npy", "ds": "datatrove"}  # fmt: skip
ABOUT = (
    "state.json",
    "dataset_info.json",
    "dataset_dict.json",
    "corpus.json",
    "manifest.json",
)  # JSON, and no documents
BESIDE = (
    (".bin", ".idx"),
    (".csv.gz", ".npy"),
    (".ds.index", ".ds"),
    (".ds.metadata", ".ds"),
)  # belong to a file that is read
SHARD = re.compile(r"(.+?)-(?:\d+|\d+-of-\d+)")
PIECE = 2000  # bytes at least that paragraphs of a domain's only file are gathered to
BLOCKS = 64  # of an array that does not say where documents end
MAGIC = b"MMIDIDX\x00\x00"
MEGATRON = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}


class Given(NamedTuple):
    """A domain's files, sorted; `valid` is empty where it has no split of its own."""

    name: str
    train: tuple[Path, ...]
    valid: tuple[Path, ...]

    def files(self, split: Split) -> tuple[Path, ...]:
        return self.train if split == "train" else self.valid

    @property
    def alone(self) -> bool:
        """Whether the domain is one file of plain text, so that its paragraphs are the documents."""
        return len(self.train) == 1 and not self.valid and form(self.train[0]) == "txt"


class Document(NamedTuple):
    """`where` names file and line; text, or token ids [n] where the layout holds those."""

    where: str
    text: str | None
    ids: Ids | None


class Tolerance:
    """Malformed documents are passed over, with a line on stderr, until there are more than `most`."""

    def __init__(self, most: int, quiet: bool = False) -> None:
        self.most, self.quiet = most, quiet
        self.bad = 0

    def __call__(self, error: BadInput) -> None:
        self.bad += 1
        if self.bad > self.most:
            raise error
        if not self.quiet:
            print(f"skipped: {error}", file=sys.stderr)


# ---------------------------------------------------------------- which files


def form(path: Path) -> str | None:
    """How a file is read, by its suffix; None where it is not."""
    if path.name in ABOUT:
        return None
    name = re.sub(r"\.(gz|zst)$", "", path.name)
    found = FORMS.get(name.rpartition(".")[2]) if "." in name else None
    return found if name == path.name or found in ("json", "txt") else None


def beside(path: Path) -> bool:
    """Whether a file belongs to another, which is read."""
    own = ((path.name.removesuffix(mine), other) for mine, other in BESIDE if path.name.endswith(mine))
    return path.name in ABOUT or any(path.with_name(stem + other).exists() for stem, other in own)


def companions(path: Path) -> list[Path]:
    """The files that are read together with one."""
    names = {
        "megatron": (path.with_suffix(".bin"),),
        "npy": (bounds_of(path),),
        "datatrove": (path.with_name(path.name + ".index"),),
    }
    return [one for one in names.get(str(form(path)), ()) if one.exists() or form(path) != "npy"]


def bounds_of(path: Path) -> Path:
    """Where OLMo writes the documents' bounds of an array."""
    return path.with_name(path.name.removesuffix(".npy") + ".csv.gz")


def domain_of(path: Path) -> str:
    """A file's domain: its name without suffixes, shard numbers and what Megatron's preprocessing adds."""
    name = re.sub(r"\.(gz|zst)$", "", path.name)
    name = name.rpartition(".")[0] or name
    name = re.sub(r"_(text|content)_(document|sentence)$", "", name)
    found = SHARD.fullmatch(name)
    return found[1] if found else name


def find(folder: Path, layout: str) -> tuple[str, list[Given], list[Path]]:
    """The layout's name, the domains in order of their names, and the files that were passed over. Raises BadInput for a missing
    folder, one of another layout, a domain without files, and valid text without train text."""
    if layout not in LAYOUTS:
        raise BadInput(f"--layout {layout}: expected one of {', '.join(LAYOUTS)}")
    if not folder.is_dir():
        raise BadInput(
            f"{folder}: {'is a file' if folder.exists() else 'no such folder'}; expected a folder of domains"
        )
    passed: list[Path] = []
    if (folder / "train").is_dir():
        train = _domains(folder / "train", passed)
        split = next((name for name in VALID if (folder / name).is_dir()), None)
        valid = _domains(folder / split, passed) if split else {}
    else:
        train, valid = _domains(folder, passed), {}
    parts: dict[str, tuple[list[Path], list[Path]]] = {
        name: (files, valid.pop(name, [])) for name, files in train.items()
    }
    for name in valid:
        raise BadInput(f"{folder}: {name}: has valid text and no train text; add train text or leave it out")
    found = []
    for name, (files, held) in sorted(parts.items()):
        inner = _own_split(folder / name, files) if not held else None
        if inner is not None:
            files, held = inner
        if not files:
            raise BadInput(f"{folder}: {name}: empty: no file in it is text or tokens; fill it or move it away")
        found.append(Given(name, tuple(sorted(files)), tuple(sorted(held))))
    if not found:
        raise BadInput(
            f"{folder}: no domains; expected a folder or a file each (.txt, .jsonl, .parquet, ...), or train/ and valid/"
        )
    here = _layout(folder, found)
    if layout not in ("auto", here):
        raise BadInput(f"--layout {layout}: {folder} is laid out as {here}")
    return here, found, passed


def _domains(root: Path, passed: list[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for entry in sorted(root.iterdir()):
        if entry.name.startswith((".", "_")):
            continue
        if entry.is_dir():
            files = _below(entry, passed)
            found.setdefault(entry.name, []).extend(files)
        elif form(entry) is not None:
            found.setdefault(domain_of(entry), []).append(entry)
        elif not beside(entry):
            passed.append(entry)
    return found


def _below(folder: Path, passed: list[Path]) -> list[Path]:
    """The files of a domain's folder. Of a folder that save_to_disk wrote, those that its state names."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        listed = _listed(Path(place)) if "state.json" in names else None
        for name in sorted(names):
            path = Path(place) / name
            if name.startswith((".", "_")) or beside(path):
                continue
            if form(path) is None or (listed is None and form(path) == "arrow"):
                passed.append(path)
            elif listed is None or name in listed:
                found.append(path)
        for name in sorted(listed or ()):
            if name not in names:
                raise BadInput(
                    f"{Path(place) / 'state.json'}: names {name}, which is not there; is the folder complete?"
                )
    return found


def _listed(folder: Path) -> set[str]:
    path = folder / "state.json"
    try:
        files = msgspec.json.decode(path.read_bytes())["_data_files"]
        return {os.path.basename(entry["filename"]) for entry in files}
    except (OSError, msgspec.DecodeError, KeyError, TypeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{path}: _data_files: expected what datasets' save_to_disk writes: {error}") from None


def _own_split(folder: Path, files: list[Path]) -> tuple[list[Path], list[Path]] | None:
    """DOMAIN/train and DOMAIN/valid, as a saved DatasetDict has them."""
    train = [path for path in files if folder in path.parents and path.relative_to(folder).parts[0] == "train"]
    valid = [path for path in files if folder in path.parents and path.relative_to(folder).parts[0] in VALID]
    return (train, valid) if train else None


def _layout(folder: Path, found: list[Given]) -> str:
    forms = {str(form(path)) for one in found for path in (*one.train, *one.valid)}
    tokens = forms & {"megatron", "npy", "datatrove"}
    if len(tokens) > 1 or (tokens and tokens != forms):
        raise BadInput(f"{folder}: holds {' and '.join(sorted(forms))} files; expected text or one kind of tokens")
    if tokens:
        return tokens.pop()
    if forms == {"arrow"}:
        return "doremi"
    flat = all(
        path.parent.name in ("train", *VALID) and path.parent.parent == folder for one in found for path in one.train
    )
    return "regmix" if forms == {"json"} and flat else "plain"


# ---------------------------------------------------------------- documents


def documents(given: Given, split: Split, bad: Tolerance, separator: int | None = None) -> Iterator[Document]:
    """A split's documents in the order of its files. separator: the token that ends documents of an array that has no index.
    Raises BadInput, Missing."""
    for path in given.files(split):
        kind = form(path)
        if kind == "json":
            yield from _json(path, bad)
        elif kind == "txt":
            yield from _paragraphs(path) if given.alone else [Document(str(path), read_text(str(path)), None)]
        elif kind in ("parquet", "arrow"):
            yield from _table(path, bad)
        elif kind == "megatron":
            yield from _megatron(path)
        elif kind == "npy":
            yield from _npy(path, separator)
        else:
            yield from _datatrove(path)


def _json(path: Path, bad: Tolerance) -> Iterator[Document]:
    for number, line in read_lines(str(path)):
        where = f"{path}:{number}"
        try:
            record: Any = decode_line(where, line)
            if not isinstance(record, dict):
                raise BadInput(f"{where}: expected a JSON object with `text`")
            text = next((record[name] for name in FIELDS if name in record), None)
            if not isinstance(text, str):
                raise BadInput(
                    f"{where}: text: expected a string, got {'nothing' if text is None else type(text).__name__}"
                )
        except BadInput as error:
            bad(error)
            continue
        yield Document(where, text, None)


def _paragraphs(path: Path) -> Iterator[Document]:
    """Pieces of a file, each of whole paragraphs and 2 kB or more, but for the last."""
    held: list[str] = []
    size, start = 0, 1
    for number, line in enumerate(io.StringIO(read_text(str(path))), 1):
        held.append(line)
        size += len(line)
        if size >= PIECE and not line.strip():
            yield Document(f"{path}:{start}", "".join(held), None)
            held, size, start = [], 0, number + 1
    if held:
        yield Document(f"{path}:{start}", "".join(held), None)


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise Missing("pyarrow: not installed: pip install 'datamix[arrow]'") from None
    return pyarrow


def _table(path: Path, bad: Tolerance) -> Iterator[Document]:
    pa = _arrow()
    row = 0
    try:
        with contextlib.ExitStack() as stack:
            if path.suffix == ".parquet":
                file = stack.enter_context(pa.parquet.ParquetFile(path))
                column = _column(path, file.schema_arrow.names)
                batches = file.iter_batches(1024, columns=[column])
            else:
                batches = stack.enter_context(pa.ipc.open_stream(stack.enter_context(pa.memory_map(str(path)))))
                column = _column(path, batches.schema.names)
            for batch in batches:
                batch.validate(
                    full=True
                )  # Arrow's own form is taken as it lies: offsets that lead out would be followed
                for value in batch.column(batch.schema.get_field_index(column)):
                    row += 1
                    told = value.as_py() if column != "input_ids" else None
                    if isinstance(told, str):
                        yield Document(f"{path}:{row}", told, None)
                    elif column == "input_ids" and value.is_valid and hasattr(value, "values"):
                        ids = value.values.to_numpy(zero_copy_only=False)
                        yield Document(f"{path}:{row}", None, _ids(ids, f"{path}:{row}: input_ids"))
                    else:
                        wanted = "a list of token ids" if column == "input_ids" else "a string"
                        bad(
                            BadInput(
                                f"{path}:{row}: {column}: expected {wanted}, got {value.type if value.is_valid else 'null'}"
                            )
                        )
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise BadInput(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}; is the file complete?") from None


def _column(path: Path, names: list[str]) -> str:
    found = next((name for name in (*FIELDS, "input_ids") if name in names), None)
    if found is None:
        raise BadInput(f"{path}: expected a column text, content or input_ids; there are {', '.join(names) or 'none'}")
    return found


def _ids(values: Any, where: str) -> Ids:
    ids = np.asarray(values)
    if ids.ndim != 1 or (ids.size and (ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() > 0xFFFFFFFF)):
        raise BadInput(f"{where}: expected token ids: whole numbers from 0 to 2^32 - 1")
    return ids


def _bytes(path: Path) -> Any:
    """A file as bytes, mapped read-only."""
    try:
        return np.memmap(path, dtype=np.uint8, mode="r") if path.stat().st_size else np.empty(0, dtype=np.uint8)
    except OSError as error:
        raise unread(path, error) from None


def _megatron(path: Path) -> Iterator[Document]:
    """Megatron-LM, core/datasets/indexed_dataset.py: magic, u64 version 1, u8 type, u64 sequences S, u64 entries of the document table;
    then i32 lengths [S], i64 offsets in bytes [S], i64 first sequence of each document and S at the end."""
    index = _bytes(path)
    if len(index) < 34 or index[:9].tobytes() != MAGIC:
        raise BadInput(f"{path}: is no index of Megatron-LM; expected it to begin with MMIDIDX")
    version, code = int.from_bytes(index[9:17], "little"), int(index[17])
    if version != 1:
        raise BadInput(f"{path}: version {version}; this version reads 1")
    if code not in MEGATRON:
        raise BadInput(f"{path}: type {code} is not of token ids; expected one of {', '.join(map(str, MEGATRON))}")
    dtype = np.dtype(MEGATRON[code])
    count, ends = int.from_bytes(index[18:26], "little"), int.from_bytes(index[26:34], "little")
    if len(index) < 34 + 12 * count + 8 * ends:
        raise BadInput(f"{path}: is cut short: {count} sequences and {ends} documents do not fit in it")
    lengths = np.frombuffer(index, "<i4", count, 34).astype(np.int64)
    offsets = np.frombuffer(index, "<i8", count, 34 + 4 * count)
    firsts = np.frombuffer(index, "<i8", ends, 34 + 12 * count)
    data = _bytes(path.with_suffix(".bin"))
    if count and (lengths.min() < 0 or offsets.min() < 0 or (offsets + lengths * dtype.itemsize).max() > len(data)):
        raise BadInput(f"{path}: points past the end of {path.with_suffix('.bin').name}; do the two belong together?")
    if ends and (firsts[0] != 0 or firsts[-1] != count or (np.diff(firsts) < 0).any()):
        raise BadInput(f"{path}: its documents do not cover its sequences; expected a table from 0 to {count}")
    for number, (first, last) in enumerate(itertools.pairwise(firsts), 1):
        parts = [data[offsets[i] : offsets[i] + lengths[i] * dtype.itemsize].view(dtype) for i in range(first, last)]
        if parts:
            yield Document(f"{path}:{number}", None, _ids(np.concatenate(parts), f"{path}:{number}"))


def _npy(path: Path, separator: int | None) -> Iterator[Document]:
    raw = _bytes(path)
    if raw[:6].tobytes() == b"\x93NUMPY":
        try:
            ids = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError, SyntaxError, TokenError, OverflowError) as error:
            raise BadInput(f"{path}: not an array of numpy: {error}") from None
    else:
        ids = raw_ids(raw, str(path))
    ids = _ids(ids, str(path))
    if bounds_of(path).is_file():
        bounds = _csv_bounds(bounds_of(path), len(ids))
    elif separator is not None:
        ends = np.flatnonzero(np.asarray(ids) == separator) + 1
        cuts = [0, *ends.tolist(), *([len(ids)] if not len(ends) or ends[-1] != len(ids) else [])]
        bounds = list(itertools.pairwise(cuts))
    else:
        cuts = sorted({len(ids) * i // BLOCKS for i in range(BLOCKS + 1)})
        bounds = list(itertools.pairwise(cuts))
    for start, end in bounds:
        yield Document(f"{path}:{start}", None, np.asarray(ids[start:end]))


def raw_ids(raw: Any, where: str) -> Ids:
    """An array without a header. Its width is not written anywhere: read as 32 bits, ids are below 2^20 only where they were written so,
    as else the upper half of each would be an id of its own, and nearly always above 15."""
    if len(raw) % 2:
        raise BadInput(f"{where}: {len(raw)} bytes: expected token ids of 2 or 4 bytes")
    if len(raw) and len(raw) % 4 == 0:
        wide = raw.view("<u4")
        if int(wide.max()) < 1 << 20:
            return np.asarray(wide)
    return np.asarray(raw.view("<u2"))


def _csv_bounds(path: Path, tokens: int) -> list[tuple[int, int]]:
    """OLMo's metadata: start and end of each document, its id and origin."""
    found = []
    try:
        for number, row in enumerate(csv.reader(io.StringIO(read_text(str(path)), newline="")), 1):
            try:
                start, end = int(row[0]), int(row[1])
            except (ValueError, IndexError):
                raise BadInput(f"{path}:{number}: expected start,end,...") from None
            if not 0 <= start <= end <= tokens:
                raise BadInput(f"{path}:{number}: {start} to {end} is not within the {tokens} tokens of its array")
            found.append((start, end))
    except csv.Error as error:
        raise BadInput(f"{path}: expected start,end,... a line: {error}") from None
    return found


def _datatrove(path: Path) -> Iterator[Document]:
    """.ds: ids of 2 or 4 bytes without a header; .ds.index: u64 end of each document; .ds.metadata's second line ends in the width."""
    raw = _bytes(path)
    ends = _bytes(path.with_name(path.name + ".index"))
    if len(ends) % 8:
        raise BadInput(f"{path}.index: {len(ends)} bytes: expected 8 a document")
    cuts = [0, *ends.view("<u8").astype(np.int64).tolist()]
    width = len(raw) // cuts[-1] if cuts[-1] else 0
    if width not in (2, 4) or cuts[-1] * width != len(raw) or any(a > b for a, b in itertools.pairwise(cuts)):
        raise BadInput(f"{path}: {len(raw)} bytes for the {cuts[-1]} tokens of its index; do the two belong together?")
    ids = raw.view(f"<u{width}")
    for number, (start, end) in enumerate(itertools.pairwise(cuts), 1):
        yield Document(f"{path}:{number}", None, np.asarray(ids[start:end]))
