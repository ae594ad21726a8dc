"""Issues with known answers, mined from releases on PyPI: a line of a changelog, and the functions that changed.

Used by ../claims.py alone. The rule is fixed here, before any ranking is computed, and looks at nothing but
the two releases and the changelog:

- Releases r0, r1 are neighbours in version order among the final releases of one package. The changelog is that
  of the last release that is named. Lines that SAYS_NOTHING finds to be of documentation, tests, typing, packaging
  or supported versions, and those of fewer than four words, are left out; a release counts where one line remains:
  only then do the line and the functions certainly belong together. Of these the newest `most` are taken.
- A function is a `def` that lies in no other `def`; its code is its syntax tree without docstrings, annotations
  and decorators of typing, so that reformatting, typing and documentation change nothing. A function counts where
  r0 has it and r1 has it otherwise or no more. Files of tests, docs, examples, vendored copies and generated
  tables are left out, and so are functions of which only a version string differs.
- A release counts where one to MOST_FUNCTIONS functions changed. These are the answer to its line.
- The issue's text is the line as written, without markup, links, issue numbers and thanks.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import re
import shutil
import subprocess
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

from packaging.version import InvalidVersion, Version

MOST_FUNCTIONS = 8


class Package(NamedTuple):
    """name on PyPI; its last release that is looked at; where that release keeps its changelog."""

    name: str
    last: str
    changelog: str


class Issue(NamedTuple):
    id: str  # package:r1
    package: str
    old: str  # the release to search
    new: str
    text: str
    answer: tuple[str, ...]  # ids `path:qualname` in the old release


# ---------------------------------------------------------------- releases


def releases(package: Package) -> list[str]:
    """Final releases up to the last one, oldest first."""
    told = _pip("index", "versions", package.name)
    line = next(line for line in told.splitlines() if line.startswith("Available versions:"))
    found = []
    for word in line.partition(":")[2].split(","):
        try:
            version = Version(word.strip())
        except InvalidVersion:
            continue
        if not version.is_prerelease and version <= Version(package.last):
            found.append((version, word.strip()))
    return [word for _, word in sorted(found)]


def fetch(name: str, version: str, folder: Path, form: str) -> Path | None:
    """The unpacked `wheel` or `sdist` of a release; None where PyPI has none of that form for any machine."""
    place = folder / f"{name}-{version}-{form}"
    if place.exists():
        return place
    if (folder / f"{place.name}.none").exists():
        return None
    loading = folder / f"{place.name}.loading"
    shutil.rmtree(loading, ignore_errors=True)
    loading.mkdir(parents=True)
    which = "--only-binary" if form == "wheel" else "--no-binary"
    try:
        _pip("download", "-q", "--no-deps", which, ":all:", "-d", str(loading), f"{name}=={version}")
    except subprocess.CalledProcessError as error:
        if "No matching distribution" not in error.stderr:
            raise
        shutil.rmtree(loading)
        (folder / f"{place.name}.none").touch()
        return None
    (archive,) = loading.iterdir()
    tree = loading / "tree"
    if archive.suffix == ".whl":
        zipfile.ZipFile(archive).extractall(tree)
        for info in tree.glob("*.dist-info"):
            shutil.rmtree(info)
    elif archive.suffix == ".zip":
        zipfile.ZipFile(archive).extractall(tree)
        (tree,) = tree.iterdir()
    else:
        with tarfile.open(archive) as packed:
            packed.extractall(tree, filter="data")
        (tree,) = tree.iterdir()
    tree.rename(place)
    shutil.rmtree(loading)
    return place


def _pip(*words: str) -> str:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


# ---------------------------------------------------------------- changelogs

# `## 1.2.3 (date)`, `v1.2.3`, `Release 1.2.3`, `pytest 1.2.3 release notes`, [1.2.3](link), `1.2.3 <link>`__
_VERSION = re.compile(r"^(?:#+\s*)?(?:[A-Za-z][\w-]*\s+)?[`\[]?v?(\d+(?:\.\d+)+(?:\.?post\d+)?)(?![\w.]*\d)", re.I)
_RULE = re.compile(r"^([-=~^*+#\"'`.])\1{2,}\s*$")
_BULLET = re.compile(r"^(\s*)(?:[-*+•]|\d+\.)\s+(\S.*)$")
SAYS_NOTHING = re.compile(
    r"\b(docs?|documentation|docstrings?|readme|changelog|typos?|tests?|testing|test suite|ci|tox|coverage|type hints?|typing|"
    r"type annotations?|annotations?|annotated|mypy|pyright|py\.typed|packag(?:e|ing) (?:metadata|data)|metadata|wheels?|sdist|"
    r"setup\.py|setup\.cfg|pyproject(?:\.toml)?|build system|build backend|license|maintain\w*|"
    r"(?:drop|dropped|drops|remove|removed|add|added|adds|end) (?:official )?support (?:for|of) (?:end-of-life )?(?:c?python|pypy)|"
    r"python \d\.\d+ (?:is|support)|supports? python|black|ruff|isort|pre-commit|github actions)\b",
    re.I,
)  # fmt: skip


def lines_of(text: str) -> dict[str, list[str]]:
    """Release to the lines (bullets, each with what is indented under it) of a changelog in reStructuredText,
    Markdown or plain text; the text as written."""
    rows = text.expandtabs(4).splitlines()
    found: dict[str, list[str]] = {}
    version, level, current = "", 0, None
    for at, row in enumerate(rows):
        following = rows[at + 1] if at + 1 < len(rows) else ""
        heading = _VERSION.match(row)
        if heading and (row.startswith("#") or _RULE.match(following)):
            version, current = heading[1], None
            found.setdefault(version, [])
            level = 99
            continue
        if not version:
            continue
        bullet = _BULLET.match(row)
        if _RULE.match(following) and row.startswith("CVE-"):  # a change told in paragraphs
            found[version].append(row)
            current = None
        elif _RULE.match(row) or row.startswith("#") or (_RULE.match(following) and row.strip() and not bullet):
            current = None
        elif bullet and len(bullet[1]) <= level:
            level = min(level, len(bullet[1]))
            current = [bullet[2]]
            found[version].append("")
        elif current is not None and row.strip() and (len(row) - len(row.lstrip())) > level:
            current.append(row.strip())
        elif row.strip() and not bullet:
            current = None
        if current:
            found[version][-1] = " ".join(current)
    return found


def plain(line: str) -> str:
    """A line without markup, links, issue numbers and thanks."""
    line = re.sub(r"^`?#\d+\s*(?:<[^>]*>)?`?_*:\s*", "", line)
    line = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", line)  # Markdown links
    line = re.sub(r":(?:issue|ticket|pr|pull|user|gh|ghsa|commit|bpo|cve)[\w-]*:`[^`]*`|[{](?:issue|pr|user)[}]`[^`]*`", "", line, flags=re.I)  # fmt: skip
    line = re.sub(r"`([^`<]*?)\s*<[^`>]*>`_*", r"\1", line)  # links of reStructuredText
    line = re.sub(r"[:{][a-z][\w:.+-]*[:}](?=`)", "", line)  # roles
    line = re.sub(r"`+~?!?([^`]*)`+_*", r"\1", line)
    line = re.sub(r"https?://\S+", "", line)
    line = re.sub(r"\*\*?([^*]+)\*\*?", r"\1", line)
    line = re.sub(r"\b(?:special )?thanks?\b[^.]*(?:\.|$)|\b(?:pull request|patch|reported|contributed|courtesy) (?:by|of|from)\b.*$", "", line, flags=re.I)  # fmt: skip
    line = re.sub(r"\(?(?:\b(?:issues?|pr|pull|bug|see|closes|fixes|refs?|gh)\b)?[ :-]*#\s?\d+(?:[,;/ and]*#\d+)*\)?:?", "", line.replace("\\_", "_"), flags=re.I)  # fmt: skip
    line = re.sub(r"\s+([.,;:])", r"\1", re.sub(r"\(\s*[,;.\s]*\)", "", line))
    return " ".join(line.split()).strip(" ,;:-")


# ---------------------------------------------------------------- what changed

_LEFT_OUT = re.compile(
    r"(?:^|/)(?:tests?|testing|docs?|examples?|benchmarks?|tools|scripts|_vendor|vendor|vendored|extern|packages|third_party)/"
    r"|(?:^|/)(?:test_[^/]*|[^/]*_test|conftest|setup|noxfile|_?version|__about__|__version__)\.py$"
)


def functions(tree: Path) -> list[str]:
    """`path:qualname` of the functions of a release, sorted (see the module's text)."""
    return sorted(name for file in sources(tree).values() for name in _functions_of(file, tree))


def changed(old: Path, new: Path) -> list[str]:
    """The functions of `old` that `new` has otherwise or no more, sorted."""
    before, after = sources(old), sources(new)
    found: list[str] = []
    for path, file in before.items():
        other = after.get(path)
        if other is not None and other.read_bytes() == file.read_bytes():
            continue
        now = {name: _digest(nodes) for name, nodes in _functions_of(other, new).items()} if other is not None else {}
        found += [name for name, nodes in _functions_of(file, old).items() if now.get(name) != _digest(nodes)]
    return sorted(found)


def sources(tree: Path) -> dict[str, Path]:
    """Path to file of the Python files that count."""
    files = {file.relative_to(tree).as_posix(): file for file in sorted(tree.rglob("*.py"))}
    return {path: file for path, file in files.items() if not _LEFT_OUT.search(path)}


def _functions_of(file: Path, tree: Path) -> dict[str, list[ast.AST]]:
    found: dict[str, list[ast.AST]] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            syntax = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return found  # Python 2, or no Python: nothing there can be an answer
    _collect(syntax, f"{file.relative_to(tree).as_posix()}:", found)
    return found


def _collect(node: ast.AST, above: str, found: dict[str, list[ast.AST]]) -> None:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            # Twice the same name (overloads, a property and its setter): one function with all their code.
            found.setdefault(above + child.name, []).append(child)
        elif isinstance(child, ast.ClassDef):
            _collect(child, f"{above}{child.name}.", found)
        elif isinstance(child, (ast.If, ast.Try, ast.With, ast.ExceptHandler, ast.For, ast.While)):
            _collect(child, above, found)


def _digest(nodes: list[ast.AST]) -> str:
    return hashlib.sha256("".join(ast.dump(_Bare().visit(node)) for node in nodes).encode()).hexdigest()


class _Bare(ast.NodeTransformer):
    """Code without docstrings, annotations, casts and version strings."""

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> ast.AST:
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            node.body = node.body[1:] or [ast.Pass()]
        if not isinstance(node, ast.ClassDef):
            node.returns = None
            for argument in ast.walk(node.args):
                if isinstance(argument, ast.arg):
                    argument.annotation = None
        if hasattr(node, "type_params"):
            node.type_params = []
        return self.generic_visit(node)

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _function

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return None if isinstance(node.target, ast.Name) else ast.copy_location(ast.Pass(), node)
        return self.generic_visit(ast.copy_location(ast.Assign(targets=[node.target], value=node.value), node))

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "cast" and len(node.args) == 2:
            return self.visit(node.args[1])
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, str) and re.fullmatch(r"v?\d+\.\d+(\.\d+)*\w*", node.value):
            node.value = "version"
        return node


def mine(package: Package, folder: Path, most: int) -> tuple[list[Issue], dict[str, int]]:
    """The issues of one package, and how many releases fell to which rule."""
    source = fetch(package.name, package.last, folder, "sdist")
    if source is None:
        raise RuntimeError(f"{package.name} {package.last}: PyPI has no source distribution of it")
    told: dict[str, list[str]] = {}
    for pattern in package.changelog.split():
        for file in sorted(source.glob(pattern)):
            told = {**lines_of(file.read_text(encoding="utf-8", errors="replace")), **told}
    if not told:
        raise RuntimeError(f"{package.name} {package.last}: no release found in {package.changelog}")
    lines = {Version(version): found for version, found in told.items()}
    ordered = releases(package)
    counts = dict.fromkeys(("releases", "one line", "no wheel", "no function", "too many functions", "kept"), 0)
    counts["releases"] = len(ordered)
    asked = []
    for old, new in itertools.pairwise(ordered):
        said = [text for text in map(plain, lines.get(Version(new), ())) if not SAYS_NOTHING.search(text)]
        said = [text for text in said if len(text.split()) >= 4]
        if len(said) == 1:
            asked.append((old, new, said[0]))
    issues: list[Issue] = []
    counts["one line"] = len(asked)
    for old, new, text in asked[-most:]:
        trees = [fetch(package.name, version, folder, "wheel") for version in (old, new)]
        if trees[0] is None or trees[1] is None:
            counts["no wheel"] += 1
            continue
        answer = tuple(changed(trees[0], trees[1]))
        if not 1 <= len(answer) <= MOST_FUNCTIONS:
            counts["no function" if not answer else "too many functions"] += 1
            continue
        counts["kept"] += 1
        issues.append(Issue(f"{package.name}:{new}", package.name, old, new, text, answer))
    return issues, counts
