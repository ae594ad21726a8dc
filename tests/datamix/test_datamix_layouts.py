"""Corpora of other makers: saved datasets, plain files, pairs of Megatron, raw arrays, datatrove, each with its tokens and bytes."""

import gzip
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from datamix_folders import folder, written
from datamix_layouts import ids, jsonl, megatron, regmix, texts

from datamix.corpus import Corpus
from tenfold_shared import BadInput, Missing


def saved(path: Path, documents: list[str], field: str = "text") -> None:
    import datasets

    datasets.Dataset.from_dict({field: documents}).save_to_disk(str(path), num_shards=2)


def test_doremi_folders_of_datasets(tmp_path: Path) -> None:
    for name in ("web", "code"):
        saved(tmp_path / "flat" / name, texts(name, 30))
        saved(tmp_path / "nested" / "train" / name, texts(name, 30), "content")
        saved(tmp_path / "nested" / "validation" / name, texts(name, 4, 50), "content")
    folder(tmp_path / "flat", tmp_path / "a", layout="doremi")
    both = written(tmp_path / "a", "web", "train") + written(tmp_path / "a", "web", "valid")
    assert sorted(both) == sorted(texts("web", 30))
    folder(tmp_path / "nested", tmp_path / "b")
    assert written(tmp_path / "b", "web", "train") == texts("web", 30)
    assert written(tmp_path / "b", "web", "valid") == texts("web", 4, 50)


def test_saved_dataset_dict_and_its_token_ids(tmp_path: Path) -> None:
    import datasets

    for name in ("web", "code"):
        parts = {"train": texts(name, 9), "validation": texts(name, 3, 50), "test": texts(name, 2, 90)}
        whole = datasets.DatasetDict({key: datasets.Dataset.from_dict({"text": value}) for key, value in parts.items()})
        whole.save_to_disk(str(tmp_path / "in" / name))
        datasets.Dataset.from_dict({"input_ids": ids(len(name), 20)}).save_to_disk(str(tmp_path / "tokens" / name))
    folder(tmp_path / "in", tmp_path / "out")
    assert written(tmp_path / "out", "code", "train") == texts("code", 9)
    assert written(tmp_path / "out", "code", "valid") == texts("code", 3, 50)
    folder(tmp_path / "tokens", tmp_path / "ids")
    corpus = Corpus.load(tmp_path / "ids")
    total = sum(len(corpus.tokens("web", split)) for split in ("train", "valid"))
    assert total == sum(map(len, ids(3, 20)))


def test_plain_files_of_every_kind(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = tmp_path / "in"
    jsonl(source / "web" / "a.json.gz", texts("web", 20), "content")
    (source / "code").mkdir()
    pq.write_table(pa.table({"n": list(range(20)), "text": texts("code", 20)}), source / "code" / "b.parquet")
    (source / "books.txt").write_text("\n\n".join(texts("books", 40)))
    (source / "notes.pdf").write_bytes(b"%PDF")
    folder(source, tmp_path / "out", layout="plain")
    for name in ("web", "code"):
        both = written(tmp_path / "out", name, "train") + written(tmp_path / "out", name, "valid")
        assert sorted(both) == sorted(texts(name, 20))
    pieces = written(tmp_path / "out", "books", "train") + written(tmp_path / "out", "books", "valid")
    assert sorted("".join(pieces)) == sorted("\n\n".join(texts("books", 40)))
    assert all(piece.startswith("books document") for piece in pieces)


def test_megatron_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, code in (("web", 8), ("code", 4)):
        documents = [[one[:10], one[10:]] if i % 3 else [one] for i, one in enumerate(ids(code, 30, end=0))]
        megatron(tmp_path / "in" / f"{name}_text_document", documents, code)
    folder(tmp_path / "in", tmp_path / "out", layout="megatron")
    corpus = Corpus.load(tmp_path / "out")
    assert (corpus.listing.tokenizer, corpus.listing.dtype, corpus.listing.separator) == ("none", "uint16", 0)
    assert "sizes are counted in tokens" in capsys.readouterr().err
    for name, code in (("web", 8), ("code", 4)):
        found = [corpus.tokens(name, "train"), corpus.tokens(name, "valid")]
        parts = [part for array in found for part in np.split(array, np.flatnonzero(array == 0) + 1) if len(part)]
        assert sorted(part.tolist() for part in parts) == sorted(ids(code, 30, end=0))
        domain = corpus.domains[corpus.names.index(name)]
        assert domain.train.bytes == domain.train.tokens == len(found[0])


def test_raw_arrays_of_two_and_four_bytes_and_with_a_header(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = ids(1, 70, top=60_000)
    flat = [one for document in documents for one in document]
    source = tmp_path / "in"
    source.mkdir()
    np.array(flat, "<u2").tofile(source / "narrow.npy")
    np.array(flat, "<u4").tofile(source / "wide.npy")
    np.save(source / "code.npy", np.array(flat, np.int64))
    np.array([*flat, 99_999], "<u4").tofile(source / "large.npy")
    ends = np.cumsum([len(document) for document in documents])
    rows = "".join(
        f"{end - len(one)},{end},id{i},src,{i}\n" for i, (end, one) in enumerate(zip(ends, documents, strict=True))
    )
    (source / "wide.csv.gz").write_bytes(gzip.compress(rows.encode()))
    folder(source, tmp_path / "out")
    corpus = Corpus.load(tmp_path / "out")
    assert corpus.listing.dtype == "uint32" and corpus.listing.vocabulary == 100_000
    assert "nothing is put between them" in capsys.readouterr().err
    for name in ("narrow", "wide", "code", "large"):
        both = np.concatenate([corpus.tokens(name, "train"), corpus.tokens(name, "valid")])
        assert sorted(both.tolist()) == sorted([*flat, 99_999] if name == "large" else flat)
    held = corpus.tokens("wide", "valid").tolist()  # whole documents, by the bounds beside the array
    texts_of = [",".join(map(str, one)) for one in documents]
    assert sum(
        len(one) for one, text in zip(documents, texts_of, strict=True) if text in ",".join(map(str, held))
    ) == len(held)


def test_datatrove(tmp_path: Path) -> None:
    for name, width in (("web", "<u2"), ("code", "<u4")):
        documents = ids(len(name), 25, end=2)
        place = tmp_path / "in" / name
        place.mkdir(parents=True)
        np.concatenate(documents).astype(width).tofile(place / "00000.ds")
        np.cumsum([len(one) for one in documents]).astype("<u8").tofile(place / "00000.ds.index")
        (place / "00000.ds.metadata").write_text("gpt2|2\n1\n1 T")
    folder(tmp_path / "in", tmp_path / "out")
    corpus = Corpus.load(tmp_path / "out")
    assert corpus.listing.separator == 2
    assert sum(one.train.documents + one.valid.documents for one in corpus.domains) == 50


# ---------------------------------------------------------------- tokenizers


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.decoders import ByteLevel
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate([*alphabet, "<end>"])}, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = ByteLevel()
    place = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="<end>").save_pretrained(str(place))
    return str(place)


def test_a_models_tokens(tmp_path: Path, tokenizer: str) -> None:
    import transformers

    folder(regmix(tmp_path / "in"), tmp_path / "out", tokenizer=tokenizer)
    corpus = Corpus.load(tmp_path / "out")
    listing = corpus.listing
    assert (listing.tokenizer, listing.dtype, listing.vocabulary, listing.separator) == (tokenizer, "uint16", 257, 256)
    own = transformers.AutoTokenizer.from_pretrained(tokenizer)
    array = corpus.tokens("web", "valid")
    parts = [part[:-1].tolist() for part in np.split(array, np.flatnonzero(array == 256) + 1) if len(part)]
    assert [own.decode(part) for part in parts] == texts("web", 5, 100)
    assert corpus.domains[1].valid.bytes == sum(len(text.encode()) for text in texts("web", 5, 100))


def test_bytes_of_token_layouts_by_their_tokenizer(tmp_path: Path, tokenizer: str) -> None:
    import transformers

    own = transformers.AutoTokenizer.from_pretrained(tokenizer)
    for name in ("web", "code"):
        megatron(tmp_path / "in" / name, [[[*own.encode(text), 256]] for text in texts(name, 10)])
        np.array([t for text in texts(name, 10) for t in (*own.encode(text), 256)], "<u2").tofile(
            tmp_path / f"{name}.npy"
        )
    folder(tmp_path / "in", tmp_path / "out", tokenizer=tokenizer)
    (tmp_path / "raw").mkdir()
    for name in ("web", "code"):
        (tmp_path / f"{name}.npy").rename(tmp_path / "raw" / f"{name}.npy")
    folder(tmp_path / "raw", tmp_path / "npy", tokenizer=tokenizer)
    for output in ("out", "npy"):
        corpus = Corpus.load(tmp_path / output)
        assert (corpus.listing.tokenizer, corpus.listing.separator) == (tokenizer, 256)
        one = corpus.domains[0]
        assert one.train.documents + one.valid.documents == 10
        assert one.train.bytes + one.valid.bytes == sum(len(text.encode()) for text in texts("web", 10))
        assert one.train.tokens + one.valid.tokens == one.train.bytes + one.valid.bytes + 10
    megatron(tmp_path / "in" / "web", [[[1, 300]], [[2, 300]]])
    with pytest.raises(BadInput, match="has 257 tokens, and the ids go up to 300"):
        folder(tmp_path / "in", tmp_path / "bad", tokenizer=tokenizer)


def test_no_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = regmix(tmp_path / "in")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tokenizer.json").write_text("{")
    with pytest.raises(BadInput, match="broken: no tokenizer to be read"):
        folder(source, tmp_path / "out", tokenizer=str(tmp_path / "broken"))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(Missing, match=r"pip install 'datamix\[hf\]'"):
        folder(source, tmp_path / "out", tokenizer="smollm2")
    assert sorted(os.listdir(tmp_path)) == ["broken", "in"]


def test_indices_that_do_not_fit_their_tokens(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for name in ("web", "code"):
        megatron(source / name, [[one] for one in ids(1, 5)])
    index = (source / "web.idx").read_bytes()
    data = (source / "web.bin").read_bytes()
    table = struct.pack("<6q", 0, 1, 2, 3, 4, 5)
    for spoilt, tokens, words in (
        (b"nothing", data, "is no index of Megatron-LM"),
        (index[:9] + b"\x02" + index[10:], data, "version 2; this version reads 1"),
        (index[:17] + b"\x07" + index[18:], data, "type 7 is not of token ids"),
        (index[:-9], data, "is cut short"),
        (index, data[:-2], "points past the end of web.bin"),
        (index.replace(table, struct.pack("<6q", 0, 1, 2, 3, 4, 4)), data, "do not cover its sequences"),
    ):
        (source / "web.idx").write_bytes(spoilt)
        (source / "web.bin").write_bytes(tokens)
        with pytest.raises(BadInput, match=words):
            folder(source, tmp_path / "out")
    (source / "web.bin").unlink()
    with pytest.raises(BadInput, match=r"web.bin: no such file"):
        folder(source, tmp_path / "out")
