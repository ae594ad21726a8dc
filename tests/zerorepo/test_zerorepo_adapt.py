"""Tests rewritten to other names: what a rewritten source reaches is what the original reached, seen by running both."""

import ast
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerorepo.craft.adapt import Names, adapted

# What stands under each dotted name of the real package, and where the same thing stands in the other repository.
PLACES = {
    "oak.core.grow": "elm.trunk.rise",
    "oak.core.Leaf": "elm.foliage.Blade",
    "oak.core.LIMIT": "elm.trunk.MOST",
    "oak.util.deep.count": "elm.tools.tally",
    "oak.util.trim": "elm.tools.trim",
    "oak.plant": "elm.start.sow",
}
MODULES = {"oak": "elm", "oak.core": "elm.trunk", "oak.util": "elm.tools", "oak.util.deep": "elm.tools"}
KEPT = {"oak.core.same": "oak.core.same"}


class Leaf:
    def turn(self) -> str:
        return "turned"

    def spin(self) -> str:  # what `turn` is called in the other repository
        return "turned"


VALUES: dict[str, Any] = {name: (Leaf if name.endswith("Leaf") else object()) for name in PLACES}
NAMES = Names({**PLACES, **MODULES}, {"turn": "spin"}, frozenset({*PLACES, *MODULES}), frozenset(MODULES))


@contextmanager
def modules(values: dict[str, Any]) -> Iterator[None]:
    """Modules that hold these values under their dotted names; nothing else of the two packages can be imported."""
    made: dict[str, ModuleType] = {}
    for dotted in values:
        parts = dotted.split(".")
        for at in range(1, len(parts)):
            name = ".".join(parts[:at])
            made.setdefault(name, ModuleType(name)).__path__ = []
    for name, module in made.items():
        above, _, last = name.rpartition(".")
        if above:
            setattr(made[above], last, module)
    for dotted, value in values.items():
        module, _, last = dotted.rpartition(".")
        setattr(made[module], last, value)
    gone = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in ("oak", "elm")}
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            sys.modules.pop(name, None)
        sys.modules.update(gone)


def reached(source: str, values: dict[str, Any]) -> list[Any]:
    """What a source collects in `found`."""
    space: dict[str, Any] = {"found": []}
    with modules(values):
        exec(compile(source, "test", "exec"), space)
    return space["found"]


def both(source: str) -> tuple[list[Any], list[Any]]:
    new = adapted(source, NAMES)
    assert not any(name in new for name in ("oak.", "import oak", "from oak")), new
    return reached(source, VALUES), reached(new, {PLACES[name]: value for name, value in VALUES.items()})


# ------------------------------------------------------------ by hand


CASES = {
    "from": "from oak.core import grow, LIMIT as most\nfound += [grow, most]",
    "from, several modules": "from oak.core import grow, Leaf\nfrom oak import plant\nfound += [grow, Leaf, plant]",
    "import": "import oak.core\nfound += [oak.core.grow, oak.core.LIMIT]",
    "import as": "import oak.core as c\nfound += [c.grow, c.Leaf, c.LIMIT]",
    "deep chain": "import oak.util.deep\nfound += [oak.util.deep.count, oak.util.trim]",
    "a module of a package": "from oak import util\nfound += [util.trim, util.deep.count]",
    "several on a line": "import os, oak.core, sys\nfound += [oak.core.grow, os.sep, sys.maxsize]",
    "inside a function": "def f():\n    from oak.core import grow\n    return grow\nfound.append(f())",
    "with parentheses": "from oak.core import (\n    grow,  # a comment\n    Leaf,\n)\nfound += [grow, Leaf]",
    "a star": "from oak.core import *\nfound += [grow, Leaf]",
    "method of a value": "from oak.core import Leaf\nfound += [Leaf().turn(), Leaf.turn(Leaf())]",
    "method through the module": "import oak.core as c\nfound += [c.Leaf().turn(), c.Leaf.turn]",
    "overridden": "from oak.core import Leaf\nclass Mine(Leaf):\n    def turn(self):\n        return 7\nfound.append(Mine().turn())",
    "getattr": "import oak.core as c\nfound += [getattr(c, 'grow'), getattr(c.Leaf(), 'turn')()]",
    "import by name": "import importlib\nfound.append(importlib.import_module('oak.core').LIMIT is not None)",
    "wide characters": "from oak.core import grow; import oak.util as ü; found += ['é', grow, ü.trim, 'ä']; found.append(ü.trim)",
    "tabs": "if True:\n\timport oak.core\n\tfound.append(oak.core.grow)",
}


@pytest.mark.parametrize(
    "name", [name for name in CASES if name not in ("method through the module", "import by name")]
)
def test_the_same_things_are_reached(name: str) -> None:
    before, after = both(CASES[name])
    assert before and before == after


def test_a_method_through_a_module_is_the_other_name() -> None:
    before, after = both(CASES["method through the module"])
    assert before == ["turned", Leaf.turn] and after == ["turned", Leaf.spin]


def test_a_method_that_a_class_has_from_another_changes_by_its_own_name_alone() -> None:
    places = {"oak.core.Leaf": "elm.foliage.Blade", "oak.core.Leaf.turn": "elm.base.Part.spin", "oak.core": "elm.trunk"}
    names = Names(places, {}, frozenset(places), frozenset({"oak.core"}), frozenset({"oak.core.Leaf.turn"}))
    values = {"elm.foliage.Blade": Leaf, "elm.trunk.MOST": 1}
    for source in (
        "from oak.core import Leaf\nfound.append(Leaf.turn(Leaf()))",
        "import oak.core as c\nfound.append(c.Leaf.turn(c.Leaf()))",
    ):
        assert reached(adapted(source, names), values) == ["turned"]
        assert ".spin(" in adapted(source, names)


def test_a_parameter_that_hides_an_import_is_left_alone() -> None:
    source = (
        "import oak.core as c\ndef f(c):\n    return c.grow\ndef g():\n    c = 5\n    return c\nfound += [c.grow]\n"
    )
    new = adapted(source, NAMES)
    assert "def f(c):\n    return c.grow" in new and "c = 5\n    return c" in new
    assert reached(new, {PLACES[name]: value for name, value in VALUES.items()}) == [VALUES["oak.core.grow"]]


FOREIGN = """import os, json, pytest
from collections import OrderedDict
from oak.core import Leaf
here = []
late = None
def f():
    global late
    late = Leaf()
    word = "a"
    word = str(word)
    other = Leaf()
    other = []
    return other.turn
def g(param, here=here):
    return param.turn, here.turn, late.turn, Leaf().turn
os.turn(", ".turn([]), {}.turn(), [].turn, f"{here}".turn, json.turn.turn)
OrderedDict.turn, getattr(os, "turn"), word.turn, here.turn
class Mine(OrderedDict):
    def turn(self):
        pass
"""


def test_attributes_of_what_is_not_the_packages_stay() -> None:
    """A method `join` of the package that is called `unite` elsewhere is no reason for `os.path.unite`, nor `", ".unite`."""
    new = adapted(FOREIGN, NAMES)
    renamed = {
        "other.turn",
        "param.turn",
        "here.turn, late.turn, Leaf().turn",
        "word.turn",
    }  # of f's `word` nothing is known at the top
    expected = FOREIGN.replace("from oak.core import Leaf", "from elm.foliage import Blade as Leaf")
    for one in renamed:
        expected = expected.replace(one, one.replace("turn", "spin"))
    assert new == expected


HIDING = {
    "comprehension": ("x = [c for c in [1]]\n    return c.grow", True),
    "inside a comprehension": ("return [c.grow for c in []]", False),
    "except": ("try:\n        pass\n    except ValueError as c:\n        pass\n    return c.grow", False),
    "match": ("match 1:\n        case [c]:\n            pass\n    return c.grow", False),
    "function": ("def c():\n        pass\n    return c.grow", False),
    "class": ("class c:\n        pass\n    return c.grow", False),
}


@pytest.mark.parametrize("name", HIDING)
def test_what_hides_an_import(name: str) -> None:
    body, reaches = HIDING[name]
    new = adapted(f"import oak.core as c\ndef f():\n    {body}\n", NAMES)
    assert ("c.rise" in new or "_elm_trunk_rise" in new) == reaches and ("c.grow" in new) != reaches, new


def test_what_is_set_is_set_where_it_lives() -> None:
    """Also of a variable the value at the time: a name that an import binds would be a copy."""
    source = "import oak\nimport oak.core\noak.core.LIMIT = 7\ndef f():\n    return oak.core.LIMIT\noak.core.LIMIT += 1\nfound.append(f())\n"
    names = NAMES._replace(variables=frozenset({"oak.core.LIMIT"}))
    places = {"oak.core.LIMIT": "elm.deep.trunk.MOST", "oak": "elm", "oak.core": "elm.other"}
    for one in (names, names._replace(places=places)):
        new = adapted(source, one)
        values = {one.places["oak.core.LIMIT"]: 1, "elm.other.x": 1}
        assert reached(source, {"oak.core.LIMIT": 1}) == reached(new, values) == [8], new


def test_a_star_of_which_nothing_is_used() -> None:
    new = adapted("try:\n    from oak.core import *\nexcept ImportError:\n    pass\n", NAMES)
    ast.parse(new)
    assert "oak" not in new


def test_mock_patch_takes_the_new_place() -> None:
    new = adapted(
        'from unittest import mock\nfrom oak.core import Leaf\nmock.patch("oak.core.grow")\nmock.patch.object(Leaf, "turn")\n',
        NAMES,
    )
    assert 'mock.patch("elm.trunk.rise")' in new and 'mock.patch.object(Leaf, "spin")' in new


def test_a_string_that_may_be_a_file_stays() -> None:
    new = adapted('from oak.core import grow\nx = ["oak.txt", "oak.core", "oak.core.grow.cache", "oak"]\n', NAMES)
    assert '["oak.txt", "elm.trunk", "elm.trunk.rise.cache", "oak"]' in new


def test_other_words_stay() -> None:
    source = 'import oakum\nfrom oakum.core import grow\nx = "oak.core is a module"\ny = {"turn": 1}["turn"]\nfound = oakum.core.grow\n'
    assert adapted(source, NAMES) == source


def test_what_has_no_counterpart_stays_and_fails_at_its_import() -> None:
    names = Names(
        {"oak": "elm", "oak.core": "elm.trunk"},
        {},
        frozenset({"oak", "oak.core", "oak.core.lost"}),
        frozenset({"oak", "oak.core"}),
    )
    for source in ("from oak.core import lost\n", "import oak.core as c\nc.lost\n"):
        with pytest.raises(ImportError if source.startswith("from") else (ImportError, AttributeError)):
            reached(adapted(source, names), {"elm.trunk.rise": 1})


def test_without_changes_not_a_byte_changes() -> None:
    for source in CASES.values():
        assert adapted(source, Names({}, {}, NAMES.written, NAMES.modules)) == source
        same = Names({name: name for name in NAMES.places}, {"turn": "turn"}, NAMES.written, NAMES.modules)
        assert adapted(source, same) == source


def test_no_python_is_told() -> None:
    with pytest.raises(ValueError, match="line 1"):
        adapted("def (:\n", NAMES)


# ------------------------------------------------------------ any way of naming things


@st.composite
def sources(draw: st.DrawFn) -> str:
    """A file that names things of the package in any mix of ways, at module level and inside functions."""
    lines, uses = [], []
    for at in range(draw(st.integers(1, 6))):
        dotted = draw(st.sampled_from(sorted(PLACES)))
        module, _, last = dotted.rpartition(".")
        parts = module.split(".")
        style = draw(st.sampled_from(["from", "from as", "import", "import as", "package", "package as"]))
        if style == "from":
            line, use = f"from {module} import {last}", last
        elif style == "from as":
            line, use = f"from {module} import {last} as n{at}", f"n{at}"
        elif style == "import":
            line, use = f"import {module}", dotted
        elif style == "import as":
            line, use = f"import {module} as m{at}", f"m{at}.{last}"
        elif len(parts) == 1:
            line, use = f"import {parts[0]} as p{at}", f"p{at}.{last}"
        elif style == "package":
            line, use = f"from {'.'.join(parts[:-1])} import {parts[-1]}", f"{parts[-1]}.{last}"
        else:
            line, use = f"from {'.'.join(parts[:-1])} import {parts[-1]} as q{at}", f"q{at}.{last}"
        if draw(st.booleans()):
            lines.append(f"def f{at}():\n    {line}\n    return {use}\nfound.append(f{at}())")
        else:
            lines.append(line)
            uses.append(f"found.append({use})")
    return "\n".join([*lines, *draw(st.permutations(uses))]) + "\n"


@settings(max_examples=400, deadline=None)
@given(sources())
def test_any_mix_of_imports_reaches_the_same_things(source: str) -> None:
    before, after = both(source)
    assert before == after


@settings(max_examples=100, deadline=None)
@given(sources())
def test_the_rest_of_the_syntax_is_untouched(source: str) -> None:
    """As many statements other than imports, and the same constants."""

    def shape(text: str) -> tuple[int, list[Any]]:
        tree = ast.parse(text)
        nodes = [
            one
            for one in ast.walk(tree)
            if isinstance(one, ast.stmt) and not isinstance(one, (ast.Import, ast.ImportFrom))
        ]
        return len(nodes), sorted(repr(one.value) for one in ast.walk(tree) if isinstance(one, ast.Constant))

    assert shape(adapted(source, NAMES)) == shape(source)


def test_long_expressions_are_no_matter_of_depth() -> None:
    source = (
        "from oak.core import LIMIT\nfound.append("
        + " or ".join(["LIMIT"] * 3)
        + ")\nx = "
        + " + ".join(["1"] * 900)
        + "\n"
    )
    before, after = both(source)
    assert before == after
