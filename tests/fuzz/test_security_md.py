"""SECURITY.md against the tree: every dangerous call is in its table, and what the table names is there.

A new subprocess, eval, pickle, template or URL in a function that the table does not list fails here: describe the path,
guard it, write the test, add the row.
"""

from __future__ import annotations

import ast
import functools
import json
import re
from pathlib import Path

import drive
import pytest
import sinks

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
_CODE = re.compile(r"`([^`]+)`")
_PLACE = re.compile(r"[a-z_]\w*(?:\.\w+)*:[\w.<>]+")


def rows() -> list[list[str]]:
    """Cells of the tables whose first column is a kind of sink."""
    found = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in TEXT.splitlines() if line.startswith("| ")
    ]
    return [row for row in found if row[0].strip() in sinks.KINDS]


def listed() -> dict[tuple[str, str], list[str]]:
    """(kind, place) -> its tests."""
    return {(row[0], place): _CODE.findall(row[-1]) for row in rows() for place in _CODE.findall(row[1])}


@functools.cache
def functions() -> dict[str, ast.AST]:
    """Each `module:function` of ours that there is, and `module:<module>`."""
    found: dict[str, ast.AST] = {}

    def walk(module: str, node: ast.AST, above: str) -> None:
        for one in ast.iter_child_nodes(node):
            inside = above
            if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inside = f"{above}.{one.name}".lstrip(".")
                found[f"{module}:{inside}"] = one
            walk(module, one, inside)

    for module, path in sinks.modules():
        tree = sinks.parsed(path)
        found[f"{module}:<module>"] = tree
        walk(module, tree, "")
    return found


def test_every_dangerous_call_is_listed():
    known = listed()
    missing = {
        f"{kind}: {place} ({', '.join(sorted({sink.what for sink in calls}))})"
        for (kind, place), calls in sinks.dangerous().items()
        if (kind, place) not in known
    }
    assert not missing, "SECURITY.md lists no path for: " + "; ".join(sorted(missing))


def test_every_listed_call_is_there():
    gone = {f"{kind}: {place}" for kind, place in listed() if (kind, place) not in sinks.dangerous()}
    assert not gone, "SECURITY.md lists what is not there any more: " + "; ".join(sorted(gone))


def test_every_place_is_a_function():
    named = {one for one in _CODE.findall(TEXT) if _PLACE.fullmatch(one)}
    assert len(named) > 100
    assert not named - set(functions())


def test_every_row_has_a_guard_and_a_test():
    for row in rows():
        assert len(row) == 5 and all(row), row
        assert _CODE.findall(row[1]) and all("::" in one for one in _CODE.findall(row[-1])), row


def test_every_test_that_is_named_is_there():
    named = {one for one in _CODE.findall(TEXT) if "::" in one}
    assert len(named) > 50
    for one in named:
        path, _, name = one.partition("::")
        tree = sinks.parsed(ROOT / path) if (ROOT / path).is_file() else ast.parse("")
        tests = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert name in tests, one


NEW = {
    "subprocess": "import subprocess\ndef f(x): subprocess.run([x])",
    "subprocess by another name": "from subprocess import Popen as start\ndef f(x): start([x])",
    "system": "import os\ndef f(x): os.system(x)",
    "shell": "import subprocess\ndef f(x): subprocess.run(x, shell=True)",
    "eval": "def f(x): return eval(x)",
    "exec in a method": "class A:\n  def f(self, x): exec(compile(x, 'x', 'exec'))",
    "pickle": "import pickle\ndef f(x): return pickle.load(x)",
    "pickle by another name": "from pickle import loads as read\ndef f(x): return read(x)",
    "torch": "import torch\ndef f(x): return torch.load(x)",
    "numpy": "import numpy as np\ndef f(x): return np.load(x, allow_pickle=True)",
    "yaml": "import yaml\ndef f(x): return yaml.load(x, yaml.Loader)",
    "trust": "def f(x): AutoModel.from_pretrained(x, trust_remote_code=True)",
    "archive": "import tarfile\ndef f(x): tarfile.open(x).extractall()",
    "native": "import ctypes\ndef f(x): return ctypes.CDLL(x)",
    "import": "import importlib\ndef f(x): return importlib.import_module(x)",
    "url": "import urllib.request\ndef f(x): return urllib.request.urlopen(x)",
    "template": "from string import Template\ndef f(x): return Template(x).substitute(a=1)",
    "xml": "from xml.etree import ElementTree\ndef f(x): return ElementTree.fromstring(x)",
}


@pytest.mark.parametrize("name", NEW)
def test_a_new_sink_is_seen(name):
    """In any of these ways: else the table would be whole only because the scanner is blind."""
    found = sinks.of_tree("m", ast.parse(NEW[name]))
    assert any(
        one.kind in sinks.DANGEROUS and one.where.startswith("m:") and "<module>" not in one.where for one in found
    )


@pytest.mark.parametrize("text", ["import re\nre.compile('a')", "model.eval()", "import importlib\nimportlib.import_module('json')", "AutoModel.load(x, trust_remote_code=False)"])  # fmt: skip
def test_what_is_no_sink_is_none(text):
    assert not [one for one in sinks.of_tree("m", ast.parse(text)) if one.kind in sinks.DANGEROUS]


def test_no_shell_and_no_code_of_models_by_default():
    assert not [sink for sink in sinks.sinks() if sink.kind in ("shell", "trust")]


def test_no_array_is_unpickled():
    """`np.load` leaves pickles alone unless it is told otherwise; `torch.load` must be told to."""
    for module, path in sinks.modules():
        for node in ast.walk(sinks.parsed(path)):
            if not isinstance(node, ast.Call):
                continue
            said = {one.arg: one.value.value for one in node.keywords if isinstance(one.value, ast.Constant)}
            assert said.get("allow_pickle") is not True, f"{module}:{node.lineno}"
            if ast.unparse(node.func).endswith("torch.load"):
                assert said.get("weights_only") is True, f"{module}:{node.lineno}"


def test_the_part_on_fuzzing_is_what_was_run():
    part = TEXT.partition("<!-- fuzz -->\n")[2].partition("<!-- /fuzz -->")[0]
    results = json.loads(drive.RESULTS.read_text())
    assert part == drive.table(results), "run `python tests/fuzz/drive.py --write`"
    import readers

    assert set(results) <= set(readers.READERS)
