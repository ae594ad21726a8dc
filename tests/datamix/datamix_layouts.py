"""Small folders in the layouts of others, written from their definitions or with their own libraries."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import zstandard


def texts(domain: str, n: int, start: int = 0) -> list[str]:
    """n documents of a domain, each different from all others."""
    return [
        "\n".join(f"{domain} document {i} line {j}: {i * 7919 + j * 104729} é" for j in range(12))
        for i in range(start, start + n)
    ]


def jsonl(path: Path, documents: list[str], field: str = "text") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps({field: text, "id": i}) + "\n" for i, text in enumerate(documents)).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data)
    if path.suffix == ".zst":
        data = zstandard.ZstdCompressor().compress(data)
    path.write_bytes(data)


def regmix(folder: Path, names: tuple[str, ...] = ("web", "code", "books")) -> Path:
    for name in names:
        jsonl(folder / "train" / f"{name}-00.jsonl", texts(name, 20))
        jsonl(folder / "train" / f"{name}-01.jsonl.gz", texts(name, 20, 20))
        jsonl(folder / "valid" / f"{name}-00.jsonl.zst", texts(name, 5, 100))
    return folder


def plain(folder: Path, names: tuple[str, ...] = ("web", "code", "books"), n: int = 30) -> Path:
    for name in names:
        (folder / name / "deep").mkdir(parents=True)
        for i, text in enumerate(texts(name, n)):
            (folder / name / ("deep" if i % 2 else ".") / f"{i:03d}.txt").write_text(text)
    return folder


def megatron(prefix: Path, documents: list[list[list[int]]], code: int = 8) -> None:
    """Documents of sequences of ids, as Megatron-LM's IndexedDatasetBuilder writes them."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    form = {4: "i", 8: "H"}[code]
    sequences = [sequence for document in documents for sequence in document]
    data = b"".join(struct.pack(f"<{len(one)}{form}", *one) for one in sequences)
    width = struct.calcsize(form)
    lengths = [len(one) for one in sequences]
    offsets = [width * sum(lengths[:i]) for i in range(len(lengths))]
    firsts = [0]
    for document in documents:
        firsts.append(firsts[-1] + len(document))
    index = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, code, len(sequences), len(firsts))
    index += struct.pack(f"<{len(lengths)}i", *lengths) + struct.pack(f"<{len(offsets)}q", *offsets)
    index += struct.pack(f"<{len(firsts)}q", *firsts)
    prefix.with_name(prefix.name + ".bin").write_bytes(data)
    prefix.with_name(prefix.name + ".idx").write_bytes(index)


def ids(seed: int, n: int, end: int | None = None, top: int = 5000) -> list[list[int]]:
    """n documents of token ids, each ending in `end` where one is given."""
    draw = np.random.default_rng(seed)
    return [[*draw.integers(1, top, 40 + i).tolist(), *([] if end is None else [end])] for i in range(n)]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file's bytes, but for the manifest's, which holds times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
