"""What each test of a suite is about, and so which tests make one task (arXiv 2509.16198 app. D).

Under harvest.py, over suite.py and package.py. There a language model groups the tests of a file by algorithm, drops those
that test none, and describes the rest; here all three are done by rule, from names and docstrings, offline and the same every
time. A test is about one function, class or method of the package; tests of one file and one class that are about the same
one are a task.
"""

from __future__ import annotations

import ast
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from zerorepo.craft.beside import support_of
from zerorepo.craft.package import TESTS, Meaning, Package
from zerorepo.craft.references import Use, uses_of
from zerorepo.craft.suite import Case, TestFile
from zerorepo.craft.syntax import parsed
from zerorepo.craft.tasks import FUNCTIONS, Interface
from zerorepo.features import words_of
from zerorepo.modules import dotted_name

SHORTEST = 3  # letters of a name that counts where it is found inside a longer one
DOC_WORDS = 60  # of a docstring in a description
NAMED = 8  # tests that a description tells of
# Words of a test's, its class's or its file's name that say it is about no algorithm, and what a count calls them.
_WORDS = {
    "version": "version", "versions": "version", "import": "import", "imports": "import", "importable": "import",
    "importing": "import", "pickle": "pickling", "pickles": "pickling", "pickled": "pickling", "pickling": "pickling",
    "pickleable": "pickling", "picklable": "pickling", "unpickle": "pickling", "unpickling": "pickling", "repr": "repr",
    "reprs": "repr", "docs": "documentation", "doc": "documentation", "docstring": "documentation",
    "docstrings": "documentation", "warn": "warning", "warns": "warning", "warning": "warning", "warnings": "warning",
    "typing": "typing", "benchmark": "benchmark", "benchmarks": "benchmark",
}  # fmt: skip
_BEGINNINGS = {"deprecat": "deprecation"}
# Runs of words: the one that says it, and those in which a word of _WORDS says nothing.
_RUNS: dict[tuple[str, ...], str] = {("public", "api"): "public api"}
_HARMLESS: set[tuple[str, ...]] = {("doc", "example"), ("doc", "examples"), ("docs", "example"), ("docs", "examples"), ("docstring", "example"),
             ("docstring", "examples"), ("duck", "typing")}  # fmt: skip
NOTHING = "reaches nothing of the package"
COROUTINE = "coroutine that needs a plugin of pytest"
# A word that so large a share of a suite's tests has, and so many, is what the package is about: `version` of semver's.
SUBJECT, FEWEST = 0.1, 10
_FRAME = ("test", "tests", "testcase", "testcases")  # words at the ends of a name that say it is a test's
_EXPECTED = ("Error", "Exception", "Warning")  # ends of the names of classes that a test rather expects than tests
_CONSTRUCTORS = ("__init__", "__new__", "__post_init__")
_VERSION = re.compile(r"[-_]v?\d+(\.\d+)+[\w.+-]*$")
# What of a docstring is no sentence: roles and marks of RST, code.
_ROLE = re.compile(r":[\w:+-]+:(?=`)")
_MARKS = str.maketrans("", "", "`*~")
_LINK = re.compile(r"<[^<>`]*>")
_DOCTEST = re.compile(r">>>.*|::\s*$", re.DOTALL)
_IDENTIFIER = re.compile(r"\b(?!e\.g\b|i\.e\b)[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+\b(?:\(\))?|\b\w*_\w*\b(?:\(\))?|\b[a-z]+[A-Z]\w*\b(?:\(\))?|\b[A-Z]+[a-z]+[A-Z]\w*\b(?:\(\))?|\b[A-Za-z]\w*\(\)")  # fmt: skip


class Group(NamedTuple):
    """The tests of a task. about: canonical name of the interface they are about. module: their class, or `functions`."""

    category: str
    file: str
    module: str
    about: str
    cases: list[Case]


class Dropped(NamedTuple):
    """A test that makes no task. file, case: which one; reason: a word or two."""

    file: str
    case: str
    reason: str


class Grouping(NamedTuple):
    """tests: how many there are in all, dropped ones among them."""

    groups: list[Group]
    dropped: list[Dropped]
    tests: int


def project_name(folder: str) -> str:
    """The name of a project by the folder it lies in: `boltons` of `boltons-26.2.0`."""
    return _VERSION.sub("", folder) or folder


def category_of(path: str, project: str) -> str:
    """The deepest folder of a test file that is not called test or tests; for a suite at the top, the project's name."""
    return next((folder for folder in reversed(path.split("/")[:-1]) if folder not in TESTS), project)


def grouped(
    files: Sequence[TestFile], package: Package, project: str, step: Callable[[], object] = lambda: None
) -> Grouping:
    """The tests of a suite as tasks to be, in order of file and place. step: called once a file, when it has been read."""
    suite = _Suite(files, package, step)
    subjects = _subjects(files)
    found: dict[tuple[str, str, str], list[Case]] = defaultdict(list)
    dropped: list[Dropped] = []
    for file in files:
        for case in file.cases:
            about = suite.about(file, case)
            reason = NOTHING
            if about is not None:
                reason = COROUTINE if file.needs_plugin(case) else no_algorithm(case, file.path, suite.last_names(file, case), subjects)  # fmt: skip
            if reason or about is None:
                dropped.append(Dropped(file.path, case.id, reason))
            else:
                found[file.path, case.owner or FUNCTIONS, about].append(case)
    groups = [
        Group(category_of(path, project), path, module, about, cases) for (path, module, about), cases in found.items()
    ]
    return Grouping(groups, dropped, sum(len(file.cases) for file in files))


# ---------------------------------------------------------------- what a test is about


class _Suite:
    """What the tests of a suite reach, each and together."""

    def __init__(self, files: Sequence[TestFile], package: Package, step: Callable[[], object]) -> None:
        self.package = package
        self.kinds = {package.dotted(node): node.kind for node in package.units}
        self.classes: dict[str, list[str]] = {}  # of the package that a test file names
        self.reached: dict[tuple[str, str], Counter[str]] = {}
        # What fixtures that every test of a file gets reach: no test is about that.
        self._unasked: dict[str, Counter[str]] = {}
        for file in files:
            uses = file.uses(package)
            self.classes[file.path] = sorted({one.meaning.name for one in uses if one.meaning.kind == "class"})
            for case in file.cases:
                self.reached[file.path, case.id] = self._reached(file, case)
            step()
        together = Counter(name for found in self.reached.values() for name in found)
        self.rarity = {name: math.log((1 + len(self.reached)) / count) for name, count in together.items()}

    def _reached(self, file: TestFile, case: Case) -> Counter[str]:
        """What of the package's own units a test names; if nothing, what the helpers and fixtures of its file do; if nothing,
        those of the files beside it."""
        found = self._units(file.reached(case.id, self.package))
        if not found:
            found = self._units(file.reached(case.id, self.package, deep=True))
        if not found:
            source = file.pruned([case.id])
            if file.path not in self._unasked:
                self._unasked[file.path] = Counter(one.name for one in self._beside(file, ""))
            uses = self._beside(file, source)
            found = self._units(Counter(one.name for one in uses) - self._unasked[file.path])
            # What they hand to the test is a value there: its methods are known by name.
            classes = sorted({one.name for one in uses if one.kind == "class" and one.name in found})
            for node in ast.walk(parsed(source)) if classes else ():
                if isinstance(node, ast.Attribute) and not node.attr.startswith("__"):
                    has = (self.package.meaning(f"{one}.{node.attr}") for one in classes)
                    found.update(
                        {one.name for one in has if one is not None and one.kind == "method" and one.name in self.kinds}
                    )
        return found

    def _beside(self, file: TestFile, source: str) -> list[Meaning]:
        """What the files beside a test name of the package, cut down to what the test asks of them."""
        beside = (one for one in support_of(file.path, source, self.package) if one.path.endswith(".py"))
        return [use.meaning for one in beside for use in _uses(one.path, one.text or "", self.package)]

    def _units(self, names: Mapping[str, int]) -> Counter[str]:
        return Counter({name: count for name, count in names.items() if name in self.kinds})

    def last_names(self, file: TestFile, case: Case) -> list[str]:
        """Last parts of the names that a test reaches."""
        return [name.rpartition(".")[2] for name in self.reached[file.path, case.id]]

    def about(self, file: TestFile, case: Case) -> str | None:
        """Canonical name of what a test is about; None where it reaches nothing.

        Of the functions, classes and methods that it reaches: the one whose name is the longest run of words in the test's
        name; else in its class's name; else in the file's; else the one that it names most, rare ones counting more (inverse
        document frequency over the suite), exceptions last. A method stands for itself where the test's or the class's name
        has it, else for its class. Of equals: the one whose class is named nearby, then the more frequent, then the first
        by name.
        """
        named = (told_words(case.name), told_words(case.owner), told_words(stem_of(file.path)))
        around = tuple(word for words in named for word in words)
        tested = [one for one in self.classes[file.path] if any(self._run(one, words) for words in named[:2])]
        reached = self._kin(self.reached[file.path, case.id], tested)
        if not reached:
            return None
        weight = {name: count * self.rarity.get(name, 0.0) for name, count in reached.items()}

        def order(name: str, run: int) -> tuple[float, ...]:
            owner = self._class_of(name)
            return run, run_length(owner.rpartition(".")[2], around) if owner else 0, weight[name]

        for at, words in enumerate(named):
            runs = {name: run for name in reached if (run := self._run(name, words))}
            if runs:
                best = max(sorted(runs), key=lambda name: order(name, runs[name]))
                return best if at < 2 else self._standing(best)
        told: dict[str, float] = defaultdict(float)
        for name, each in weight.items():
            told[self._standing(name)] += each
        return max(sorted(told), key=lambda name: (not name.endswith(_EXPECTED), told[name]))

    def _kin(self, reached: Counter[str], classes: Sequence[str]) -> Counter[str]:
        """Without the methods that none of the named classes has. A method called on a value is known by its name alone: in a
        test that is named after a class it is not taken for another's."""
        if not classes or not reached:
            return reached
        found: Counter[str] = Counter()
        for name, count in reached.items():
            last = name.rpartition(".")[2]
            has = (self.package.meaning(f"{one}.{last}") for one in classes)
            if self.kinds[name] != "method" or any(one is not None and one.name == name for one in has):
                found[name] = count
        return found or Counter(one for one in classes if one in self.kinds) or reached

    def _run(self, name: str, words: Sequence[str]) -> int:
        last = name.rpartition(".")[2]
        return 0 if last in _CONSTRUCTORS else run_length(last, words)

    def _standing(self, name: str) -> str:
        return self._class_of(name) or name

    def _class_of(self, name: str) -> str:
        """The class of a method; "" for anything else."""
        owner = name.rpartition(".")[0]
        return owner if self.kinds[name] == "method" and owner in self.kinds else ""


def _uses(path: str, text: str, package: Package) -> Sequence[Use]:
    try:
        return uses_of(text, path, package)
    except ValueError:  # a conftest that is no Python reaches nothing
        return ()


@cache
def told_words(name: str) -> tuple[str, ...]:
    """Words of a test's, class's or file's name, without those at its ends that say it is a test."""
    words = words_of(name)
    if words[-2:] == ["test", "case"]:
        del words[-2:]
    while words and words[0] in _FRAME:
        del words[0]
    while words and words[-1] in _FRAME:
        del words[-1]
    return tuple(words)


def run_length(name: str, words: Sequence[str]) -> int:
    """Letters of an identifier where its words stand one after another in `words`, however either is cut into words
    (`groupby` in group, by); 0 where they do not. Fewer than SHORTEST letters count only where they are all there is."""
    sought = "".join(words_of(name))
    if not sought:
        return 0
    for first in range(len(words)):
        text = ""
        for last in range(first, len(words)):
            text += words[last]
            if len(text) >= len(sought):
                break
        if text == sought:
            alone = len(sought) == sum(map(len, words))
            return len(sought) if len(sought) >= SHORTEST or alone else 0
    return 0


def stem_of(path: str) -> str:
    """Name of a test file without suffix and the mark of a test: what `Task.leaf` has it by."""
    stem = path.rpartition("/")[2].removesuffix(".py")
    return stem.removeprefix("test_").removesuffix("_test")


def no_algorithm(case: Case, path: str, reached: Iterable[str] = (), subjects: Container[str] = ()) -> str:
    """Why a test is about no algorithm, by the names of itself, its class and its file; "" where nothing says so. reached:
    last names of what it reaches: where a word is part of one that a name tells in full (`get_version`), it is what is
    tested. subjects: reasons that are none in this suite."""
    reached = [name for name in reached if not name.startswith("__")]
    for words in (told_words(case.name), told_words(case.owner), told_words(stem_of(path))):
        covered = {at for name in reached for at in _places(name, words)}
        for at in range(len(words)):
            reason = _reason(words, at)
            if reason and reason not in subjects and at not in covered:
                return reason
    return ""


def _reason(words: Sequence[str], at: int) -> str:
    """What a word says that a test is about instead of an algorithm; "" for most."""
    if tuple(words[at : at + 2]) in _HARMLESS or tuple(words[max(0, at - 1) : at + 1]) in _HARMLESS:
        return ""
    begun = (told for begin, told in _BEGINNINGS.items() if words[at].startswith(begin))
    return _WORDS.get(words[at]) or next(begun, "") or _RUNS.get(tuple(words[at : at + 2]), "")


def _subjects(files: Sequence[TestFile]) -> set[str]:
    """Reasons that so many of a suite's tests have in their own names that they are what the package is about."""
    words = [told_words(case.name) for file in files for case in file.cases]
    counted = Counter(reason for one in words for reason in {_reason(one, at) for at in range(len(one))} if reason)
    return {reason for reason, count in counted.items() if count >= FEWEST and count > SUBJECT * len(words)}


def _places(name: str, words: Sequence[str]) -> range:
    """Where in `words` the words of an identifier stand one after another; an empty range where they do not."""
    sought = "".join(words_of(name))
    for first in range(len(words)):
        text = ""
        for last in range(first, len(words)):
            text += words[last]
            if text == sought:
                return range(first, last + 1)
            if len(text) > len(sought):
                break
    return range(0)


# ---------------------------------------------------------------- names and descriptions


def capability(about: str, package: Package) -> str:
    """A readable phrase of what is tested: `lru copy` of `boltons.cacheutils.LRU.copy`."""
    return " ".join(word for part in qualname_of(about, package).split(".") for word in words_of(part))


def qualname_of(about: str, package: Package) -> str:
    found = package.meaning(about)
    return found.node.qualname if found is not None and found.node is not None else about.rpartition(".")[2]


def ids_of(groups: Sequence[Group], package: Package, project: str) -> list[str]:
    """An id for each: project/category/file/class or functions/interface. Where two would be the same, the interface's
    whole name and then the file's whole path tell them apart."""
    ways = [
        [
            "/".join((project, one.category, stem_of(one.file), one.module, qualname_of(one.about, package))),
            "/".join((project, one.category, stem_of(one.file), one.module, one.about)),
            "/".join((project, one.file.removesuffix(".py"), one.module, one.about)),
        ]
        for one in groups
    ]
    for way in range(2):
        counted = Counter(names[way] for names in ways)
        for names in ways:
            if counted[names[way]] == 1:
                names[way + 1] = names[way]
    return [names[-1] for names in ways]


def described(group: Group, interface: Interface, package: Package) -> tuple[str, str]:
    """(alg_description, task_query): what is tested, told in words, without the identifiers of the package."""
    kind = {"class": "A class", "method": "An operation of a class"}.get(interface.kind, "A function")
    cap = capability(group.about, package)
    node = (package.meaning(group.about) or (None, None, None))[2]
    area = " ".join(words_of(dotted_name(node.path, package.files).rpartition(".")[2])) if node is not None else ""
    told = in_words(interface.doc)
    names = _told_of(group.cases, group.about.rpartition(".")[2])
    parts = [f"{kind} for {cap}" + (f", of {area}." if area and area != cap else ".")]
    if told:
        parts.append(_ended(told))
    if names:
        parts.append(f"Its tests look at: {'; '.join(names)}.")
    count = len(group.cases)
    goal = _lowered(_first_sentence(told)) or f"what goes by {cap}"
    query = f"Find what does this, and run {'its test' if count == 1 else f'its {count} tests'}: {goal}."
    if names:
        query += f" It is to hold for: {'; '.join(names)}."
    return " ".join(parts), query


def in_words(doc: str) -> str:
    """A docstring's first paragraph as sentences: marks of RST taken off, code left out, identifiers told in words, at most
    DOC_WORDS words."""
    text = _LINK.sub("", _ROLE.sub("", _DOCTEST.sub("", doc))).translate(_MARKS)
    text = _IDENTIFIER.sub(lambda found: " ".join(words_of(found[0])), text)
    words = text.split()
    return " ".join(words[:DOC_WORDS]) + (" ..." if len(words) > DOC_WORDS else "")


def _told_of(cases: Iterable[Case], name: str) -> list[str]:
    """What the names of tests say beyond the name of what they test, each once."""
    found: dict[str, None] = {}
    for case in cases:
        words = list(told_words(case.name))
        at = _places(name, words)
        left = words[: at.start] + words[at.stop :] if len(at) else words
        if left:
            found.setdefault(" ".join(left))
    return list(found)[:NAMED]


def _first_sentence(text: str) -> str:
    return re.split(r"[.!?](?:\s|$)", text, maxsplit=1)[0].strip().removesuffix(":")


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _ended(text: str) -> str:
    text = text.rstrip(" :;,")
    return text if text.endswith((".", "!", "?")) else text + "."
