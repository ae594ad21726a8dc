"""The sequences a distillation reads, as packed rows in a fixed order: which rows belong to which step, on which rank."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seer_decode.pack import pack, pieces
from seer_decode.text import Encoder, Reader
from tenfold_shared import BadInput
from tenfold_shared.cli import sha256_of
from tenfold_shared.jsonl import is_pipe


class Corpus(NamedTuple):
    """Sequences (n,) int32 and rows of their indices; `short` documents' ends had too few tokens, `cut` documents were longer
    than a row."""

    sequences: list[np.ndarray[Any, Any]]
    rows: list[list[int]]
    short: int
    cut: int

    @property
    def tokens(self) -> int:
        return sum(map(len, self.sequences))

    def batch(self, step: int, size: int, seed: int) -> list[list[Tensor]]:
        """The rows of a step, each the sequences in it: all rows in a fresh order, then again."""
        found = []
        for at in range(step * size, (step + 1) * size):
            epoch, place = divmod(at, len(self.rows))
            order = np.random.default_rng([seed, epoch]).permutation(len(self.rows))
            found.append([torch.from_numpy(self.sequences[i]).long() for i in self.rows[order[place]]])
        return found

    def digest(self) -> str:
        """sha256 of all tokens, sequence by sequence."""
        found = hashlib.sha256()
        for one in self.sequences:
            found.update(len(one).to_bytes(8, "little") + one.tobytes())
        return found.hexdigest()


def read(reader: Reader, encode: Encoder, width: int, block: int, wanted: int, packed: bool) -> Corpus:
    """Documents until `wanted` tokens are there, cut to sequences of at most `width` and packed where that is allowed. A sequence
    of a block or less has no target. Raises BadInput where none is left."""
    documents: list[np.ndarray[Any, Any]] = []
    held = 0
    for document in reader:
        ids = np.array(encode(document), dtype=np.int32)
        documents.append(ids)
        held += len(ids)
        if held >= wanted:
            break
    lengths = [len(ids) for ids in documents]
    found = pieces(lengths, width, block + 1)
    if not found:
        raise BadInput(
            f"{', '.join(reader.paths)}: no document has more than one block of {block} tokens ({len(documents)} documents, "
            f"{held} tokens)"
        )
    short = sum(-(-n // width) for n in lengths if n) - len(found) + lengths.count(0)
    sequences = [documents[number][begin:end] for number, begin, end in found]
    rows = pack([len(one) for one in sequences], width) if packed else [[i] for i in range(len(sequences))]
    return Corpus(sequences, rows, short, sum(n > width for n in lengths))


def inputs(reader: Reader, corpus: Corpus) -> list[dict[str, str]]:
    """Of each file its path and sha256, for a run's identity; what was read from a pipe is known by its tokens."""
    once = corpus.digest()
    return [
        {"path": path, "sha256": once if path == "-" or is_pipe(path) else sha256_of(path)} for path in reader.paths
    ]
