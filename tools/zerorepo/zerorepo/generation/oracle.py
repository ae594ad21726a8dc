"""`oracle:DIR` and `fault:DIR?q=0.3`: no model, but a hidden repository that answers as one would.

To show what the stages do with right answers, and with answers that are right now and then, they are asked the same
questions in the same words; the answers are read off the repository in DIR and given as text, so that they pass the
same readers and checks. Every completion names itself `oracle:` or `fault:`, which outputs and commits repeat.

A test is the hidden repository's own, where it has one at the place that a build gives it (tests/units/...); else it
compares the unit with the hidden one, syntax tree beside syntax tree, docstrings apart. `fault:` breaks an
implementation with probability 1 − q, independently at every try, by the seed, the leaf and the try alone.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from tenfold_shared import BadInput
from zerorepo.encode import encode
from zerorepo.features import words_of
from zerorepo.generation.leaf import test_path
from zerorepo.generation.order import INTEGRATION, Task, lexicographic
from zerorepo.generation.skeleton import STUB, Unit, decoded, fitted, stubs_of, units_of
from zerorepo.graph import Graph, Node
from zerorepo.lift import CHARACTERS_A_TOKEN
from zerorepo.modules import dotted_name, dotted_prefix
from zerorepo.sources import WorkTree

if TYPE_CHECKING:
    from tenfold_shared.generate import Completion, Request, Sampling

MODULES = 8  # of stage A at most
_OFFERED = re.compile(r"^- (.+)$", re.MULTILINE)


def open_oracle(uris: Iterable[str], seed: int) -> Oracle:
    """The back end of one `oracle:DIR` or `fault:DIR?q=Q`. Raises BadInput."""
    names = list(uris)
    if len(names) != 1:
        raise BadInput("--model: an oracle can be given once")
    scheme, _, rest = names[0].partition(":")
    folder, mark, query = rest.rpartition("?") if "?" in rest else (rest, "", "")
    q = 1.0
    if scheme == "fault":
        values = parse_qs(query).get("q", [])
        try:
            q = float(values[0]) if len(values) == 1 else -1.0
        except ValueError:
            q = -1.0
        if not 0 <= q <= 1:
            raise BadInput(f"{names[0]}: expected fault:DIR?q=Q, Q the probability that a try is right, 0 to 1")
    elif mark:
        raise BadInput(f"{names[0]}: expected oracle:DIR")
    return Oracle(
        Path(folder), seed, q, f"{scheme}:{Path(folder).resolve().name}{f'?q={q:g}' if scheme == 'fault' else ''}"
    )


def hidden(uri: str) -> str:
    """Digest of the Python files in the folder of an oracle's URI; `` where there is none."""
    scheme, _, rest = uri.partition(":")
    folder = Path(rest.rpartition("?")[0] if scheme == "fault" and "?" in rest else rest)
    if not folder.is_dir():
        return ""
    source = WorkTree(folder)
    digest = hashlib.sha256()
    for path, data in source.read(source.paths()):
        if path.endswith(".py") and isinstance(data, bytes):
            digest.update(path.encode("utf-8", "replace") + b"\0" + hashlib.sha256(data).digest())
    return digest.hexdigest()


class Oracle:
    """A Generator (tenfold_shared.generate) over a hidden repository. q: how often an implementation is right."""

    batch_size: int | None = None
    context: int | None = None

    def __init__(self, folder: Path, seed: int, q: float, model: str) -> None:
        self.model, self.seed, self.q = model, seed, q
        source = WorkTree(folder)
        if dotted_prefix(folder):
            raise BadInput(f"{folder}: a package; give the folder that holds it, as a repository does")
        self.graph: Graph = encode(source)
        self.texts: dict[str, str] = {}
        self._read: dict[str, dict[str, Unit]] = {}
        for path, data in source.read(source.paths()):
            if path.endswith(".py") and isinstance(data, bytes):
                try:
                    self.texts[path] = decoded(data)[0]
                except ValueError as error:
                    raise BadInput(f"{folder}/{path}: {error}") from None
        if not self.texts:
            raise BadInput(f"{folder}: no Python file in it; an oracle answers from a repository")

    def count_tokens(self, request: Request) -> int | None:
        return _tokens(json.dumps(request.messages))

    def close(self) -> None:
        pass

    def generate(self, requests: Iterable[Request | None], sampling: Sampling) -> Iterator[Completion]:
        from tenfold_shared.generate import Completion

        for request in requests:
            if request is None:
                continue
            role, subject, turn, sample = request.key.rsplit("|", 2)[0].split("|", 1) + request.key.rsplit("|", 2)[1:]
            user = str((request.messages or [{}])[-1].get("content", ""))
            text = self.answer(role, subject, int(turn), int(sample), user)
            yield Completion(
                request.key, text, "stop", _tokens(json.dumps(request.messages)), _tokens(text), self.model
            )

    def answer(self, role: str, subject: str, turn: int, sample: int, user: str) -> str:
        """The text for one question. Raises BadInput for what the hidden repository has no answer to."""
        found: Callable[..., Any] | None = getattr(self, f"_{role}", None)
        if found is None:
            raise BadInput(f"{self.model}: asked as {role}, which an oracle does not play")
        value = found(subject, turn, user)
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)

    # ------------------------------------------------------------ stage C

    def _test(self, subject: str, turn: int, user: str) -> str:
        path, _, qualname = subject.partition(":")
        own = test_path(Task(subject, path, qualname, ()))
        if own in self.texts:
            return _block(self.texts[own])
        digest = digest_of(self._unit(subject).definition)
        return _block(
            _LIKE.format(
                subject=subject, module=dotted_name(path, self.texts), path=path, qualname=qualname, digest=digest
            )
        )

    def _code(self, subject: str, turn: int, user: str) -> str:
        """The hidden unit, in its classes: the text as it stands, so that no string in it changes."""
        path, _, qualname = subject.partition(":")
        unit = self._unit(subject)
        text = self.texts[path][unit.start : unit.end]
        *outer, name = qualname.split(".")
        margin = re.match(r"[ \t]*", text)
        indent = margin[0] if margin else ""
        if not outer:
            text = fitted(text, name, "")
        for depth, holder in reversed(list(enumerate(outer))):
            text = f"{indent[: len(indent) * depth // len(outer)]}class {holder.partition('#')[0]}:\n{text}"
        return _block(text if self._right(subject, turn) else self._broken(text, subject, turn))

    def _judge(self, subject: str, turn: int, user: str) -> dict[str, str]:
        return {"cause": "code", "reason": "the test is the hidden repository's"}

    def _integration(self, subject: str, turn: int, user: str) -> str:
        own = test_path(Task(subject, "", "", ()))
        if own in self.texts:
            return _block(self.texts[own])
        area = subject.removeprefix(INTEGRATION).lstrip("#")
        files = sorted({path for path, found in self._areas.items() if found == area}) or sorted(self._areas)
        return _block(_TOGETHER.format(modules=sorted(dotted_name(path, self.texts) for path in files), stub=STUB))

    def _locate(self, subject: str, turn: int, user: str) -> dict[str, list[str]]:
        return {"units": _OFFERED.findall(user)[:3]}

    def _unit(self, subject: str) -> Unit:
        path, _, qualname = subject.partition(":")
        if path not in self._read:
            self._read[path] = units_of(self.texts[path]) if path in self.texts else {}
        found = self._read[path].get(qualname)
        if found is None:
            raise BadInput(f"{self.model}: {subject} is not in the hidden repository; is it of another version?")
        return found

    def _right(self, subject: str, turn: int) -> bool:
        return self.q >= 1 or _uniform(f"{self.seed}|{subject}|{turn}") < self.q

    def _broken(self, code: str, subject: str, turn: int) -> str:
        """One of several ways to be wrong: a result that never comes, an error, code that does not parse, still the stub."""
        ways = ["return None", 'raise RuntimeError("a fault, as asked for")', "return (((", STUB]
        return stubs_of(code, stub=ways[int(_uniform(f"kind|{self.seed}|{subject}|{turn}") * len(ways))])

    # ------------------------------------------------------------ stage A

    @cached_property
    def _areas(self) -> dict[str, str]:
        """File to its area: the folder below the package, else the file itself; the smallest go together, as at most MODULES
        are wanted."""
        files = sorted({node.path for node in self._units})
        area = {}
        for path in files:
            parts = path.removesuffix(".py").split("/")
            parts = parts[1:] if parts[0] == "src" and len(parts) > 2 else parts
            inner = parts[1:] if len(parts) > 1 else parts
            area[path] = " ".join(words_of(inner[0])) or inner[0]
        sizes: dict[str, int] = defaultdict(int)
        for name in area.values():
            sizes[name] += 1
        kept = sorted(sizes, key=lambda name: (-sizes[name], name))
        if len(kept) > MODULES:
            area = {path: name if name in kept[: MODULES - 1] else "common parts" for path, name in area.items()}
        return area

    @cached_property
    def _units(self) -> list[Node]:
        """What a feature stands for: functions and classes of a module, tests left out."""
        return [
            node
            for node in sorted(self.graph.nodes, key=lambda one: (one.path, one.span))
            if node.kind in ("class", "function") and "." not in node.qualname and not _of_tests(node.path)
        ]

    @cached_property
    def _features(self) -> dict[str, Node]:
        """Feature phrase to its unit; two units of one name are told apart by their file."""
        found: dict[str, Node] = {}
        for node in self._units:
            phrase: str = " ".join(words_of(node.name)) or node.name.lower()
            if len(phrase.split()) < 2:
                phrase = f"{'represent' if node.kind == 'class' else 'compute'} {phrase}"
            while phrase in found:
                phrase = f"{phrase} of {' '.join(words_of(node.path.rpartition('/')[2].removesuffix('.py')))}"
            found[phrase] = node
        return found

    def _missing(self, subject: str, turn: int, user: str) -> dict[str, Any]:
        groups: dict[str, list[str]] = defaultdict(list)
        for phrase, node in self._features.items():
            groups[self._areas[node.path]].append(phrase)
        return {"features": groups}

    def _exploit(self, subject: str, turn: int, user: str) -> dict[str, Any]:
        return {"paths": [path for path in _OFFERED.findall(user) if path.rpartition("/")[2] in self._features]}

    _explore = _exploit

    def _check(self, subject: str, turn: int, user: str) -> dict[str, Any]:
        return {"keep": [path for path in _OFFERED.findall(user) if path.rpartition("/")[2] in self._features]}

    def _modules(self, subject: str, turn: int, user: str) -> dict[str, Any]:
        sizes: dict[str, int] = defaultdict(int)
        for node in self._units:
            sizes[self._areas[node.path]] += 1
        return {
            "modules": [
                {"name": name, "purpose": f"what {name} needs", "size": size} for name, size in sorted(sizes.items())
            ]
        }

    def _place(self, subject: str, turn: int, user: str) -> dict[str, Any]:
        places = {}
        for path in _OFFERED.findall(user):
            node = self._features.get(path.rpartition("/")[2])
            if node is not None:
                stem = " ".join(words_of(node.path.rpartition("/")[2].removesuffix(".py"))) or "package"
                places[path] = f"{self._areas[node.path]}/{stem}/{'classes' if node.kind == 'class' else 'functions'}"
        return {"places": places}

    def _tidy(self, subject: str, turn: int, user: str) -> dict[str, Any]:
        return {"moves": {}}

    # ------------------------------------------------------------ stage B

    def _unit_of(self, leaf: str) -> Node | None:
        return self._features.get(leaf.rpartition("/")[2])

    def _folders(self, subject: str, turn: int, user: str) -> dict[str, Any]:
        """Each area's folder: the deepest that holds all of its files, bound there."""
        tree: dict[str, Any] = {}
        bound: dict[str, list[str]] = defaultdict(list)
        for area in sorted(set(self._areas.values())):
            folders = [path.split("/")[:-1] for path, name in self._areas.items() if name == area]
            common = folders[0]
            for other in folders[1:]:
                common = common[
                    : next(
                        (n for n, (a, b) in enumerate(zip(common, other, strict=False)) if a != b),
                        min(len(common), len(other)),
                    )
                ]
            bound["/".join(common)].append(area)
        inner = {
            folder for folder in bound if any(other != folder and other.startswith(folder + "/") for other in bound)
        }
        for folder, areas in sorted(bound.items()):
            here = tree
            parts = folder.split("/")
            for part in parts[:-1]:
                here = here.setdefault(part, {})
            if folder in inner:
                here.setdefault(parts[-1], {}).setdefault(".", []).extend(areas)
            else:
                here[parts[-1]] = areas
        return {"folders": tree}

    def _files(self, subject: str, turn: int, user: str) -> dict[str, Any]:
        found = {}
        for leaf in _OFFERED.findall(user):
            node = self._unit_of(leaf)
            if node is not None:
                found[leaf] = node.path
        return {"files": found}

    @cached_property
    def _flows(self) -> list[tuple[str, str]]:
        """(from, to) of areas, by imports; those that go both ways are left to the first in the alphabet."""
        pairs = set()
        for edge in self.graph.edges:
            if edge.type == "imports" and edge.src in self._areas and edge.dst in self._areas:
                one, other = self._areas[edge.dst], self._areas[edge.src]
                if one != other:
                    pairs.add((one, other))
        names = sorted(set(self._areas.values()))
        kept: set[tuple[str, str]] = set()
        for pair in sorted(pairs):
            before: dict[str, set[str]] = {name: {a for a, b in (*kept, pair) if b == name} for name in names}
            try:
                lexicographic(before, str)
            except ValueError:
                continue
            kept.add(pair)
        used = {name for pair in kept for name in pair}
        lone = [name for name in names if name not in used]
        for name in lone:  # every area has a part in the flow
            beside = next((one for one in names if one != name), None)
            if beside is not None:
                kept.add((name, beside) if beside not in lone or name < beside else (beside, name))
        return sorted(kept)

    def _flow(self, subject: str, turn: int, user: str) -> dict[str, Any]:
        return {
            "flow": [
                {
                    "source": one,
                    "target": other,
                    "data_id": f"{one} for {other}",
                    "data_type": "object",
                    "transformation": "used as it is",
                }
                for one, other in self._flows
            ]
        }

    def _bases(self, subject: str, turn: int, user: str) -> dict[str, Any]:
        return {"bases": []}

    def _order(self, subject: str, turn: int, user: str) -> dict[str, Any]:
        offered = _OFFERED.findall(user)
        wanted = set(offered)
        before: dict[str, set[str]] = {path: set() for path in offered}
        for edge in self.graph.edges:
            if edge.type == "imports" and edge.src in wanted and edge.dst in wanted and edge.src != edge.dst:
                before[edge.src].add(edge.dst)
        try:
            return {"order": lexicographic(before, str)}
        except ValueError:
            return {"order": sorted(offered)}

    def _interfaces(self, subject: str, turn: int, user: str) -> dict[str, Any]:
        """The file's skeleton: everything but bodies, which carries the features of its units."""
        features = [
            leaf
            for leaf in _OFFERED.findall(user)
            if (node := self._unit_of(leaf)) is not None and node.path == subject
        ]
        return {"interfaces": [{"features": features, "code": stubs_of(self.texts.get(subject, ""))}]}

    def _tasks(self, subject: str, turn: int, user: str) -> dict[str, Any]:
        return {"batches": [[key] for key in _OFFERED.findall(user)]}


# ------------------------------------------------------------ texts

_LIKE = '''"""The oracle's test of {subject}: the unit is the hidden repository's (syntax tree, docstrings apart)."""

import ast
import copy
import hashlib
import importlib
import sys


def units(body, outer=""):
    for one in body:
        if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            name = outer + one.name
            number = seen[name] = seen.get(name, 0) + 1
            name += f"#{{number}}" if number > 1 else ""
            yield name, one
            if isinstance(one, ast.ClassDef):
                yield from units(one.body, name + ".")
            continue
        for field in ("body", "handlers", "cases", "orelse", "finalbody"):
            if isinstance(getattr(one, field, None), list):
                yield from units(getattr(one, field), outer)


seen = {{}}


def test_it_is_the_hidden_one():
    importlib.import_module("{module}")
    with open("{path}", "rb") as stream:
        found = dict(units(ast.parse(stream.read()).body))["{qualname}"]
    for one in ast.walk(found):
        body = getattr(one, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            del body[0]
    assert hashlib.sha256(ast.dump(found).encode()).hexdigest() == "{digest}"
'''
_TOGETHER = '''"""The oracle's integration test: the area's modules can be imported together, and no function in them is a stub."""

import ast
import importlib
import inspect

import pytest


@pytest.mark.parametrize("name", {modules})
def test_it_is_written(name):
    tree = ast.parse(inspect.getsource(importlib.import_module(name)))
    assert "{stub}" not in [ast.unparse(one) for one in ast.walk(tree) if isinstance(one, ast.Raise)]
'''


def digest_of(definition: ast.AST) -> str:
    """Of a unit's syntax tree without docstrings, as the oracle's test computes it."""
    found = copy.deepcopy(definition)
    for one in ast.walk(found):
        body: Any = getattr(one, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            del body[0]
    return hashlib.sha256(ast.dump(found).encode()).hexdigest()


def _block(code: str) -> str:
    fence = "```" if "```" not in code else "~~~~"
    return f"{fence}python\n{code.rstrip()}\n{fence}\n"


def _uniform(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _tokens(text: str) -> int:
    """An estimate: nobody reads them."""
    return len(text) // CHARACTERS_A_TOKEN


def _of_tests(path: str) -> bool:
    return any(part in ("test", "tests") for part in path.split("/")) or path.rpartition("/")[2].startswith(
        ("test_", "conftest")
    )
