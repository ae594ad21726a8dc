"""Files, lines and tokens: by hand, and against a counter that reads tokens instead of a syntax tree."""

import importlib.util
import io
import sys
import time
import tokenize
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold_shared import Missing
from zerorepo.craft import size
from zerorepo.craft.size import Size, size_of

# ---------------------------------------------------------------- by hand

# Each rule: a file, and the units that count of it, as their lines that count.
RULES = {
    "an import": ("import os\nfrom a import (\n    b,  # c\n\n    # d\n    c,\n)\n", ["import os\n", "from a import (\n    b,  # c\n    c,\n)\n"]),
    "an assignment": ("a = 1\nb: int = 2\nc: str\n", ["a = 1\n", "b: int = 2\n", "c: str\n"]),
    "not one with an operator": ("a = 1\na += 1\n", ["a = 1\n"]),
    "not an expression": ('"""A module."""\nprint(1)\na = 1\ndel a\nassert 1\n', ["a = 1\n"]),
    "a function without its decorators": (
        "@cache\n@other(\n    1\n)\ndef f(a):\n    return a\n", ["def f(a):\n    return a\n"],
    ),
    "a coroutine": ("async def f():\n    pass\n", ["async def f():\n    pass\n"]),
    "no docstring": ('def f():\n    """One.\n\n    Two.\n    """\n    return 1\n', ["def f():\n    return 1\n"]),
    "no docstring of what is inside": (
        'class A:\n    """A."""\n\n    def f(self):\n        "f"\n        def g():\n            \'\'\'g\'\'\'\n            return 1\n',
        ["class A:\n    def f(self):\n        def g():\n            return 1\n"],
    ),
    "other strings": ('def f():\n    x = 1\n    """no docstring"""\n', ['def f():\n    x = 1\n    """no docstring"""\n']),
    "bytes are no docstring": ('def f():\n    b"x"\n', ['def f():\n    b"x"\n']),
    "an empty docstring stays": ('def f():\n    ""\n    return 1\n', ['def f():\n    ""\n    return 1\n']),
    "a docstring on the line of its def takes the line with it": ('def f(): "doc"\ndef g(): return 1\n', ["", "def g(): return 1\n"]),
    "no comment alone, but one behind code": ("def f():\n    # a\n    return 1  # b\n# c\n", ["def f():\n    return 1  # b\n"]),
    "a # in a string": ('a = """\n# no comment\n"""\n', ['a = """\n# no comment\n"""\n']),
    "no blank line, in a string neither": ('a = """x\n\n   \ny"""\n', ['a = """x\ny"""\n']),
    "assignments in a class twice": (
        "class A:\n    x = 1\n    y: int = (\n        # why\n        2\n    )\n    z += 1\n    def f(self):\n        w = 1\n",
        ["class A:\n    x = 1\n    y: int = (\n        2\n    )\n    z += 1\n    def f(self):\n        w = 1\n", "    x = 1\n", "    y: int = (\n        2\n    )\n"],
    ),
    "not those of a class in a class": (
        "class A:\n    class B:\n        x = 1\n", ["class A:\n    class B:\n        x = 1\n"],
    ),
    "not those under if in a class": ("class A:\n    if a:\n        x = 1\n", ["class A:\n    if a:\n        x = 1\n"]),
    "two on a line are the line twice": ("a = 1; b = 2\n", ["a = 1; b = 2\n"] * 2),
    "under if only functions and classes": (
        "if a:\n    import os\n    b = 1\n    def f():\n        return 1\n    class A:\n        x = 1\nelif c:\n    def g(): pass\nelse:\n    def h(): pass\n",
        ["    def f():\n        return 1\n", "    class A:\n        x = 1\n", "    def g(): pass\n", "    def h(): pass\n"],
    ),
    "under try, with, for, while, and deeper": (
        "try:\n    def a(): pass\nexcept E:\n    def b(): pass\nelse:\n    def c(): pass\nfinally:\n    def d(): pass\n"
        "with x:\n    def e(): pass\nfor i in y:\n    while z:\n        def f(): pass\n    else:\n        def g(): pass\n",
        [*(f"    def {name}(): pass\n" for name in "abcde"), "        def f(): pass\n", "        def g(): pass\n"],
    ),
    "there docstrings stay, comments do not": (
        'if a:\n    def f():\n        """doc"""\n\n        # c\n        return 1\n', ['    def f():\n        """doc"""\n        return 1\n'],
    ),
    "there a name counts once": (
        "try:\n    def f(): return 1\nexcept E:\n    def f(): return 2\n", ["    def f(): return 1\n"],
    ),
    "there the first of a name counts": (
        "if a:\n    def f(): return 1\nif b:\n    def f():\n        return 2\n", ["    def f(): return 1\n"],
    ),
    "one at the top goes before, wherever it stands": (
        "if a:\n    def f(): return 1\ndef f(): return 2\n", ["def f(): return 2\n"],
    ),
    "at the top a name may count twice": ("def f(): return 1\ndef f(): return 2\n", ["def f(): return 1\n", "def f(): return 2\n"]),
    "a class and a function of one name are two": (
        "class f: pass\nif a:\n    def f(): return 1\n", ["class f: pass\n", "    def f(): return 1\n"],
    ),
    "nothing under match or except*": (
        "match a:\n    case 1:\n        def f(): pass\ntry:\n    def g(): pass\nexcept* E:\n    def h(): pass\n", [],
    ),
    "no @doc(...) in a class": (
        "class A:\n    @doc(\n        'x'\n    )\n    @other('y')\n    @doc\n    def f(self): pass\n",
        ["class A:\n    @other('y')\n    @doc\n    def f(self): pass\n"],
    ),
    "any end of line": ("a = 1\r\nb = (\r    2)\r", ["a = 1\n", "b = (\n    2)\n"]),
    "no other end of line": ("a = 'x\x0cy\u2028z\x85'\nb = 1", ["a = 'x\x0cy\u2028z\x85'\n", "b = 1"]),
    "a byte order mark": ("\ufeffa = 1\n", ["a = 1\n"]),
    "text like a control token": ("a = '<|endoftext|>'\n", ["a = '<|endoftext|>'\n"]),
    "an escape that is none": ("a = '\\d'\n", ["a = '\\d'\n"]),
}  # fmt: skip


def tokens_of(texts):
    return sum(len(size._tokenizer().encode_ordinary(text)) for text in texts)


@pytest.mark.parametrize("rule", RULES)
def test_each_rule(rule):
    text, units = RULES[rule]
    lines = sum(len(io.StringIO(unit).readlines()) for unit in units)
    assert size_of({"a.py": text.encode()}) == Size(1, lines, tokens_of(units), [])


# The numbers of tokens that two other implementations of o200k_base give (PyPI: rs-bpe 0.1.0, bpe-openai 0.1.4).
@pytest.mark.parametrize(
    ("text", "count"),
    [("hello world", 2), ("<|endoftext|>", 7), ("def f(self, *args):\n    return None\n", 11), ("    " * 9 + "x", 2),
     ("naïve café — ПРИВЕТ 你好 🙂\n", 12), ("0123456789", 4), ("x" * 100, 13), ("\t\t\r\n\n  a_bC9'll", 8)],
)  # fmt: skip
def test_tokens_are_gpt_4os(text, count):
    assert tokens_of([text]) == count


# ---------------------------------------------------------------- what is left out


@pytest.mark.parametrize(
    "path",
    """docs/a.py doc/a.py a/scripts/b.py example/a.py examples/a.py benchmark.py benchmarks/x/a.py tests/a.py a/test.py
    testing/a.py build_tools/a.py resource/a.py resources/a.py demo.py demos/a.py get-pip.py getpip/a.py .venv/lib/a.py
    .pytest_cache/a.py test_a.py a/test_b/c.py unit_tests/a.py docs-v2/a.py my.tests/a.py a_test.py A/Docs/B.py
    py_dep_x/a.py .py_deps/a.py""".split(),
)
def test_a_path_keeps_a_file_out(path):
    found = size_of({path: b"a = 1\n", "kept.py": b"a = 1\n"})
    assert found[:2] == (1, 1) and [where for where, _ in found.left_out] == [path]


@pytest.mark.parametrize("path", "contest/a.py testa.py latest.py documents/a.py demonstrate.py a/tested.py".split())
def test_a_part_of_a_word_does_not(path):
    assert size_of({path: b"a = 1\n"})[:2] == (1, 1)


def test_only_python_counts_and_inits_where_they_are_asked_for():
    files = {"a/__init__.py": b"a = 1\nb = 2\n", "a/b.py": b"c = 1\n", "a/b.pyi": b"c: int\n", "README": b"a = 1\n"}
    assert size_of(files)[:2] == (1, 1) and size_of(files).left_out == [("a/__init__.py", "__init__.py")]
    assert size_of(files, inits=True)[:2] == (2, 3) and size_of(files, inits=True).left_out == []


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"a = '\xe9'\n", "not UTF-8: .* at byte 5"),
        (b"a = 1\nprint 'x'\n", "line 2: not Python"),
        (b"a = 1\0\n", "line 1: not Python"),
        (b"x = " + b"(" * 1_000_000, "not Python"),
        (b"x = " + b"-" * 1_000_000 + b"1", "nested too deep"),
        (b"x = a" + b".a" * 1_000_000, "nested too deep"),
        (b"if a: pass\n" + b"elif a: pass\n" * 100_000, "nested too deep"),
        (b"".join(b" " * n + b"if a:\n" for n in range(200)) + b" " * 200 + b"pass\n", "indentation"),
    ],
)
def test_what_cannot_be_read_is_left_out_with_the_reason(data, why):
    import re

    found = size_of({"a.py": data, "b.py": b"a = 1\n"})
    ((path, reason),) = found.left_out
    assert found[:2] == (1, 1) and path == "a.py" and re.search(why, reason)


@pytest.mark.parametrize(
    ("text", "loc"),
    [
        ("a=1;" * 50_000, 50_000),
        ("class A:\n" + "    a=1;b=2\n" * 20_000, 60_001),
        # 20,003 lines of the class, 20,001 assignments of two lines each; but the lines of 19,999 of them parse alone
        # too, as two strings of which the first is a docstring.
        ('class A:\n    x="""\n' + '"""; x="""\n' * 20_000 + '"""\n', 20_003 + 2 * 20_001 - 19_999),
        ("x=[\n" + "#\n1,\n" * 50_000 + "]\n", 50_002),
        ("if a: pass\n" + "elif a: pass\n" * 700 + "else:\n    def f(): pass\n", 1),
        ("x = '" + "a" * 1_000_000 + "'\n", 1),
    ],
)
def test_hostile_files_take_time_by_their_size(text, loc):
    begin = time.monotonic()
    assert size_of({"a.py": text.encode()})[:2] == (1, loc)
    assert time.monotonic() - begin < 20  # seconds; where a line is read again for each unit on it, minutes


def test_without_the_tokenizer_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "splintr", None)
    size._tokenizer.cache_clear()
    with pytest.raises(Missing, match=r"pip install 'zerorepo\[craft\]'"):
        size_of({})
    monkeypatch.undo()
    assert size_of({}) == Size(0, 0, 0, [])


# ---------------------------------------------------------------- another counter, from tokens

FLOW = ("if", "elif", "else", "try", "except", "finally", "with", "for", "while")
SKIPPED = (tokenize.NL, tokenize.COMMENT, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)


class Statement:
    """A logical line: its tokens, and the statements of the block under it."""

    def __init__(self, tokens):
        self.tokens, self.block = tokens, []
        self.words = [token.string for token in tokens[:2]]

    @property
    def kind(self):
        first = self.words[1] if self.words[0] == "async" else self.words[0]
        if first in ("def", "class", "@") or first in FLOW:
            return {"@": "decorator"}.get(first, "flow" if first in FLOW else first)
        return "simple"

    @property
    def last(self):
        return self.block[-1].last if self.block else self.tokens[-1].end[0]

    def parts(self, tokens=None):
        """The simple statements of a line, parted by ; outside brackets."""
        depth, parts = 0, [[]]
        for token in self.tokens if tokens is None else tokens:
            depth += (token.string in "([{") - (token.string in ")]}") if token.type == tokenize.OP else 0
            if token.string == ";" and not depth:
                parts.append([])
            else:
                parts[-1].append(token)
        return [part for part in parts if part]

    def inline(self):
        """The simple statements behind the colon of `class A: x = 1`."""
        depth = 0
        for at, token in enumerate(self.tokens):
            depth += (token.string in "([{") - (token.string in ")]}") if token.type == tokenize.OP else 0
            if token.string == ":" and not depth:
                return self.parts(self.tokens[at + 1 :])
        return []

    def inner(self):
        yield self
        for one in self.block:
            yield from one.inner()


def read(text):
    top = Statement([tokenize.TokenInfo(0, "", (0, 0), (0, 0), "")])
    stack, line, comments = [top], [], set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.INDENT:
            stack.append(stack[-1].block[-1])
        elif token.type == tokenize.DEDENT:
            stack.pop()
        elif token.type == tokenize.COMMENT and token.line[: token.start[1]].strip() == "":
            comments.add(token.start[0])
        elif token.type == tokenize.NEWLINE:
            stack[-1].block.append(Statement(line))
            line = []
        elif token.type not in (*SKIPPED, tokenize.ENDMARKER):
            line.append(token)
    return top.block, comments


def assigns(part):
    if part[0].string in ("import", "from", "return", "assert", "raise", "del", "print", "lambda", "yield"):
        return False
    depth = 0
    for token in part:
        depth += (token.string in "([{") - (token.string in ")]}") if token.type == tokenize.OP else 0
        if token.type == tokenize.OP and not depth and token.string in ("=", ":"):
            return True
    return False


def docstring_rows(unit):
    rows = set()
    for one in unit.inner():
        if one.kind in ("def", "class"):
            parts = one.block[0].parts() if one.block else one.inline()
            first = parts[0]
            if all(token.type == tokenize.STRING for token in first):
                value = "".join(token.string for token in first)
                if not value.lower().startswith(("b", "f", "rb", "br", "rf", "fr")) and value.strip("\"'rRuU"):
                    rows |= set(range(first[0].start[0], first[-1].end[0] + 1))
        if one.kind == "decorator" and [token.string for token in one.tokens[1:3]] == ["doc", "("]:
            rows |= set(range(one.tokens[0].start[0], one.last + 1))
    return rows


def brute(text):
    """(lines, tokens) of a file without except*."""
    statements, comments = read(text)
    lines = text.split("\n")
    units, met = [], set()

    def name(one):
        at = [token.string for token in one.tokens].index(one.kind)
        return one.kind, one.tokens[at + 1].string

    def rows(first, last, without=frozenset()):
        return [row for row in range(first, last + 1) if lines[row - 1].strip() and row not in comments | without]

    for one in statements:
        if one.kind == "simple":
            units += [rows(part[0].start[0], part[-1].end[0]) for part in one.parts()
                      if part[0].string in ("import", "from") or assigns(part)]  # fmt: skip
        elif one.kind in ("def", "class"):
            met.add(name(one))
            units.append(rows(one.tokens[0].start[0], one.last, docstring_rows(one)))
            if one.kind == "class":
                inside = one.inline() if not one.block else [
                    part for inner in one.block if inner.kind == "simple" for part in inner.parts()
                ]  # fmt: skip
                units += [rows(part[0].start[0], part[-1].end[0]) for part in inside if assigns(part)]

    def under(block):
        for one in block:
            if one.kind == "flow":
                under(one.block)
            elif one.kind in ("def", "class") and name(one) not in met:
                met.add(name(one))
                units.append(rows(one.tokens[0].start[0], one.last))

    for one in statements:
        if one.kind == "flow":
            under(one.block)
    texts = ["".join(lines[row - 1] + "\n" for row in unit) for unit in units]
    return sum(map(len, units)), tokens_of(texts)


@pytest.mark.parametrize("package", ["requests", "networkx", "click", "pytest", "_pytest"])
def test_another_counter_says_the_same_of_real_packages(package):
    spec = importlib.util.find_spec(package)
    folder = Path(spec.origin).parent
    paths = sorted(folder.rglob("*.py"))[:: 1 if package != "networkx" else 4]
    assert paths
    for path in paths:
        text = path.read_text("utf-8")
        if text and not size.aside(path.relative_to(folder.parent).as_posix(), True):
            if not text.endswith("\n"):
                text += "\n"
            found = size_of({"a.py": text.encode()})
            assert found[1:3] == brute(text), path
            assert not found.left_out


# ---------------------------------------------------------------- laws

PIECES = ["import os\n", "a = 1\n", "def f(x):\n    return x\n", "class A:\n    x = 1\n\n    def f(self):\n        return 1\n",
          "if a:\n    def g():\n        return 1\n", "print(1)\n", "a += 1\n"]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=8), st.data())
@settings(max_examples=60, deadline=None)
def test_what_says_nothing_changes_nothing(pieces, data):
    plain = "".join(pieces)
    dressed = []
    for line in plain.splitlines(keepends=True):
        indent = line[: len(line) - len(line.lstrip())]
        dressed += [
            indent + extra for extra in data.draw(st.lists(st.sampled_from(["\n", "# x\n", "   \n"]), max_size=2))
        ]
        dressed.append(line)
        if line.startswith(("def ", "class ")):
            dressed.append('    """Doc.\n\n    More.\n    """\n')
    assert size_of({"a.py": "".join(dressed).encode()}) == size_of({"a.py": plain.encode()})


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from(PIECES), min_size=1).map("".join), min_size=1)
)
@settings(max_examples=40, deadline=None)
def test_files_add_up_in_any_order(texts):
    files = {f"{name}.py": text.encode() for name, text in texts.items()}
    parts = [size_of({path: data}) for path, data in files.items()]
    whole = size_of(dict(reversed(files.items())))
    assert whole == Size(len(files), sum(one.loc for one in parts), sum(one.tokens for one in parts), [])
