"""What harvest says of a task: names, categories, descriptions and words, by hand and by brute force."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerorepo.craft.grouping import (
    FEWEST,
    category_of,
    described,
    grouped,
    ids_of,
    in_words,
    no_algorithm,
    project_name,
    run_length,
    told_words,
)
from zerorepo.craft.harvest import leaving, source_of
from zerorepo.craft.package import Package
from zerorepo.craft.references import interfaces
from zerorepo.craft.suite import Case, TestFile

# ---------------------------------------------------------------- what a suite can be like

ONE = {"one/__init__.py": "", "one/core.py": "def double(x):\n    '''Twice it.'''\n    return 2 * x\n"}


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("path", "category"),
    [
        ("tests/test_a.py", "proj"),
        ("test_a.py", "proj"),
        ("pkg/tests/test_a.py", "pkg"),
        ("pkg/core/tests/test/test_a.py", "core"),
        ("tests/unit/test_a.py", "unit"),
        ("src/pkg/tests/deep/tests/test_a.py", "deep"),
    ],
)
def test_category(path: str, category: str) -> None:
    assert category_of(path, "proj") == category


@pytest.mark.parametrize(
    ("folder", "name"),
    [("boltons-26.2.0", "boltons"), ("scikit_learn-1.9.1", "scikit_learn"), ("x-2", "x-2"), ("a-v1.0rc1", "a"),
     ("requests", "requests"), ("py-2to3", "py-2to3")],
)  # fmt: skip
def test_project_name(folder: str, name: str) -> None:
    assert project_name(folder) == name


@pytest.mark.parametrize(
    ("name", "words"),
    [("test_lru_copy", "lru copy"), ("TestCaseInsensitiveDict", "case insensitive dict"), ("FooTestCase", "foo"),
     ("test", ""), ("testTestServer", "server"), ("test_test_case", ""), ("TTLCacheTest", "ttl cache")],
)  # fmt: skip
def test_told_words(name: str, words: str) -> None:
    assert " ".join(told_words(name)) == words


word = st.text("ab", min_size=1, max_size=4)


@given(st.lists(word, min_size=1, max_size=3), st.lists(word, max_size=6))
def test_run_length_by_brute_force(name: list[str], words: list[str]) -> None:
    sought = "".join(name)
    there = any("".join(words[i:j]) == sought for i in range(len(words)) for j in range(i + 1, len(words) + 1))
    counts = there and (len(sought) >= 3 or "".join(words) == sought)
    assert run_length("_".join(name), words) == (len(sought) if counts else 0)


CASES = [
    ("test_pickle", "", "", [], "pickling"),
    ("test_repr", "", "", ["__repr__"], "repr"),
    ("test_values", "TestPickle", "", [], "pickling"),
    ("test_values", "", "test_deprecated.py", [], "deprecation"),
    ("test_get_version", "", "", ["get_version"], ""),
    ("test_get_version", "", "", ["parse"], "version"),
    ("test_rsa_public_key", "", "", [], ""),
    ("test_public_api", "", "", [], "public api"),
    ("test_xs_doc_example", "", "", [], ""),
    ("test_docs", "", "", [], "documentation"),
    ("test_duck_typing_meta", "", "", [], ""),
    ("test_typing", "", "", [], "typing"),
    ("test_report_is_important", "", "", [], ""),
    ("test_deprecated_alias", "", "", ["warns_deprecated"], "deprecation"),
    ("test_no_warnings", "", "", [], "warning"),
    ("test_importing", "", "", [], "import"),
    ("test_benchmark_sums", "", "", [], "benchmark"),
]


@pytest.mark.parametrize(("name", "owner", "file", "reached", "reason"), CASES)
def test_no_algorithm(name: str, owner: str, file: str, reached: list[str], reason: str) -> None:
    assert no_algorithm(Case(name, owner, 1), f"tests/{file or 'test_it.py'}", reached) == reason


def test_what_most_tests_speak_of_is_no_reason() -> None:
    """A package about versions keeps the tests of them; fewer than FEWEST, or a small share, are not that."""
    package = Package({path: text.encode() for path, text in ONE.items()}, "one")

    def dropped(versions: int, others: int) -> int:
        names = [f"test_version_{at}" for at in range(versions)] + [f"test_other_{at}" for at in range(others)]
        text = "from one.core import double\n" + "".join(f"def {name}(): double(1)\n" for name in names)
        return len(grouped([TestFile("tests/test_it.py", text)], package, "one").dropped)

    assert dropped(FEWEST, 0) == 0
    assert dropped(FEWEST - 1, 0) == FEWEST - 1
    assert dropped(FEWEST, 9 * FEWEST) == FEWEST
    assert dropped(FEWEST, 9 * FEWEST - 1) == 0


def about(text: str, package: dict[str, str], case: str) -> str:
    held = Package({path: source.encode() for path, source in package.items()}, "p")
    found = grouped([TestFile("tests/test_it.py", text)], held, "p")
    return next(one.about for one in found.groups if any(each.id == case for each in one.cases))


KIN = {
    "p/__init__.py": "",
    "p/m.py": """
class Box:
    def update(self): pass
    def fill(self): pass
class Jar:
    def update(self): pass
    def seal(self): pass
class OddError(Exception): pass
def group_by(x): pass
def group(x): pass
def rare(x): pass
def common(x): pass
""",
}
ABOUT = [
    # The longest run; however it is cut into words.
    ("from p.m import *\ndef test_group_by_key(): group(1); group(2); group_by(3)\n", "test_group_by_key", "p.m.group_by"),
    ("from p.m import *\ndef test_groupby(): group(1); group_by(3)\n", "test_groupby", "p.m.group_by"),
    # A method by a value, of the class that the test is named after and not of another.
    ("from p.m import *\nx = Box(), Jar()\nclass TestJar:\n    def test_update(self): y = Jar(); y.update()\n",
     "TestJar::test_update", "p.m.Jar.update"),
    ("from p.m import *\nx = Box(), Jar()\nclass TestBox:\n    def test_update(self): y = Box(); y.update()\n",
     "TestBox::test_update", "p.m.Box.update"),
    # ... and not of another where its own class has it from elsewhere.
    ("from p.m import *\nx = Box(), Jar()\nclass TestJar:\n    def test_fill(self): y = Jar(); y.fill()\n",
     "TestJar::test_fill", "p.m.Jar"),
    # Not named: the class, not its method.
    ("from p.m import *\ndef test_it_all(): x = Box(); x.fill(); x.fill()\n", "test_it_all", "p.m.Box"),
    # By how often and how rare: `common` is in every test.
    ("from p.m import *\ndef test_1(): common(1)\ndef test_2(): common(1); common(2); rare(1)\ndef test_3(): common(1)\n"
     "def test_4(): common(1)\ndef test_5(): common(1)\ndef test_6(): common(1)\n", "test_2", "p.m.rare"),
    # What is expected is not what is tested.
    ("import pytest\nfrom p.m import *\ndef test_1(): rare(2)\ndef test_2():\n    with pytest.raises(OddError): rare(1)\n", "test_2", "p.m.rare"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "case", "name"), ABOUT)
def test_about(text: str, case: str, name: str) -> None:
    assert about(text, KIN, case) == name


def test_ids_differ() -> None:
    """Two files of one stem and category, two interfaces of one name."""
    package = Package({path: text.encode() for path, text in {
        "p/__init__.py": "", "p/a.py": "def run(): pass\n", "p/b.py": "def run(): pass\n",
    }.items()}, "p")  # fmt: skip
    text = "import p.a, p.b\ndef test_run(): p.a.run()\ndef test_other(): p.b.run()\n"
    files = [TestFile(path, text) for path in ("x/unit/test_it.py", "y/unit/test_it.py")]
    found = grouped(files, package, "p").groups
    assert sorted(ids_of(found, package, "p")) == [
        "p/x/unit/test_it/functions/p.a.run", "p/x/unit/test_it/functions/p.b.run",
        "p/y/unit/test_it/functions/p.a.run", "p/y/unit/test_it/functions/p.b.run",
    ]  # fmt: skip
    assert sorted(ids_of([one for one in found if one.file.startswith("x")], package, "p")) == [
        "p/unit/it/functions/p.a.run", "p/unit/it/functions/p.b.run",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("doc", "text"),
    [
        ("Return :class:`~a.b.LruCache` of ``some_name``.", "Return a b lru cache of some name."),
        ("Make it::", "Make it"),
        ("Add two numbers. >>> add(1, 2) 3", "Add two numbers."),
        ("See `the docs <http://x.y/z>`_ on HTTP and e.g. JSON.", "See the docs on HTTP and e.g. JSON."),
        ("Call frob() now", "Call frob now"),
        (" ".join(["word"] * 61), " ".join(["word"] * 60) + " ..."),
    ],
)
def test_in_words(doc: str, text: str) -> None:
    assert re.sub(r"_\b", "", in_words(doc)).replace("  ", " ") == text


def test_described_of_little() -> None:
    """No docstring, and a test that is called like what it tests."""
    package = Package({"p/__init__.py": b"", "p/m.py": b"def go_far(x): pass\n"}, "p")
    file = TestFile("tests/test_m.py", "from p.m import go_far\ndef test_go_far(): go_far(1)\n")
    (group,) = grouped([file], package, "p").groups
    (told,) = (one for one in interfaces({file.path: file.source}, package, {group.about}) if one.tested)
    assert described(group, told, package) == (
        "A function for go far, of m.",
        "Find what does this, and run its test: what goes by go far.",
    )


def test_source_of() -> None:
    assert source_of(b"# coding: cp1252\nx = '\x80'\n") == "# coding: utf-8\nx = '€'\n"
    assert source_of("\ufeffx = 1\n".encode()) == "x = 1\n"
    with pytest.raises(ValueError, match="encoding"):
        source_of(b"x = '\xff'\n")


def test_leaving() -> None:
    text = """
STATE, OTHER = 1, 2
X = 1
class TestA:
    def test_1(self): TestA.a = 1
    def test_2(self): type(self).b += 1
    def test_3(self): self.c = 1
    def test_4(self): TestB.d = 1
def test_5():
    global X, NEW
    X = 1
"""
    assert leaving(TestFile("test_a.py", text)) == {"TestA::test_1": {"a"}, "TestA::test_2": {"b"}, "test_5": {"X"}}
