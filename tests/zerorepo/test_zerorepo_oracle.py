"""The oracle and its faults: how often it is right, that its wrong answers are wrong, that its tests tell."""

import ast
import math
import subprocess
import sys

import pytest
from zerorepo_skeletons import TALLYBOOK, tallybook

from tenfold_shared import BadInput
from tenfold_shared.generate import Request, Sampling
from zerorepo.generation.edits import apply, code_in, patch_of
from zerorepo.generation.oracle import digest_of, hidden, open_oracle
from zerorepo.generation.skeleton import bodies_of, stubs_of, units_of

SOURCES = tallybook()
LEAVES = [f"{path}:{name}" for path, text in SOURCES.items() for name, unit in units_of(text).items() if unit.is_leaf]


def oracle(q=None, seed=0, folder=TALLYBOOK):
    return open_oracle([f"oracle:{folder}" if q is None else f"fault:{folder}?q={q}"], seed)


@pytest.mark.parametrize(("q", "expected"), [(0.1, 0.5695), (0.2, 0.8322), (0.3, 0.9424), (0.5, 0.9961)])
def test_eight_tries_succeed_as_often_as_the_closed_form_says(q, expected):
    one = oracle(q)
    n = 8000
    done = sum(any(one._right(f"a.py:f{leaf}", turn) for turn in range(8)) for leaf in range(n))
    assert 1 - (1 - q) ** 8 == pytest.approx(expected, abs=1e-4)
    assert abs(done / n - expected) < 3 * math.sqrt(expected * (1 - expected) / n)


def test_tries_are_independent_of_each_other_and_of_the_order_asked():
    one, other = oracle(0.3), oracle(0.3)
    pairs = [(f"a.py:f{leaf}", turn) for leaf in range(2000) for turn in range(2)]
    told = {pair: one._right(*pair) for pair in pairs}
    assert told == {pair: other._right(*pair) for pair in reversed(pairs)}
    both = sum(told[name, 0] and told[name, 1] for name, turn in pairs if turn == 0) / 2000
    assert abs(both - 0.09) < 3 * math.sqrt(0.09 * 0.91 / 2000)
    third = oracle(0.3, seed=1)
    assert told != {pair: third._right(*pair) for pair in pairs}


@pytest.mark.parametrize("leaf", LEAVES)
def test_a_right_answer_is_the_hidden_unit(leaf):
    path, _, name = leaf.partition(":")
    stub = stubs_of(SOURCES[path])
    done = apply(stub, name, patch_of(oracle().answer("code", leaf, 0, 0, ""), stub, name))
    assert bodies_of(done)[name] == bodies_of(SOURCES[path])[name]


def test_a_wrong_answer_is_wrong_in_every_way_there_is():
    kinds = set()
    for leaf in LEAVES:
        path, _, name = leaf.partition(":")
        stub = stubs_of(SOURCES[path])
        for turn in range(8):
            answer = oracle(0).answer("code", leaf, turn, 0, "")
            try:
                done = apply(stub, name, patch_of(answer, stub, name))
            except ValueError as error:
                kinds.add(str(error).partition(":")[0][:20])
                continue
            body = units_of(done)[name].definition
            assert digest_of(body) != digest_of(units_of(SOURCES[path])[name].definition)
            kinds.add(ast.unparse(body.body[-1])[:20])
    assert len(kinds) >= 4


def test_its_own_tests_come_first_and_else_the_tree_is_compared(tmp_path):
    assert code_in(oracle().answer("test", "tallybook/reading/amounts.py:convert", 0, 0, "")).rstrip() == (TALLYBOOK / "tests/units/test_tallybook__reading__amounts____convert.py").read_text().rstrip()  # fmt: skip
    (tmp_path / "one.py").write_text('class A:\n    class B:\n        @property\n        def f(self):\n            """Doc."""\n            return 1\n\n        @f.setter\n        def f(self, x):\n            self.x = x\n')  # fmt: skip
    one = oracle(folder=tmp_path)
    for name in ("A.B.f", "A.B.f#2"):
        test = code_in(one.answer("test", f"one.py:{name}", 0, 0, ""))
        (tmp_path / "test_it.py").write_text(test)
        call = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "test_it.py"]

        def run(call=call):
            return subprocess.run(call, cwd=tmp_path, capture_output=True, env={"PYTHONPATH": str(tmp_path)}).returncode

        whole = (tmp_path / "one.py").read_text()
        assert run() == 0
        (tmp_path / "one.py").write_text(whole.replace('"""Doc."""', '"""Another."""'))
        assert run() == 0  # a docstring is no code
        (tmp_path / "one.py").write_text(stubs_of(whole))
        assert run() == 1
        (tmp_path / "one.py").write_text(whole)


ODD = '''class A:
    if True:
        class B:
            def f(self, x="""
  a"""):
                """Doc.

  outdented
                """
                return x + """
two
        lines"""

if True:
    def g():
        return f"""{1
}
  b"""
'''


@pytest.mark.parametrize("name", ["A.B.f", "g"])
def test_strings_over_lines_stay_as_they_are(tmp_path, name):
    (tmp_path / "one.py").write_text(ODD)
    one, stub = oracle(folder=tmp_path), stubs_of(ODD)
    answer = one.answer("code", f"one.py:{name}", 0, 0, "")
    done = apply(stub, name, patch_of(answer, stub, name))
    assert digest_of(units_of(done)[name].definition) == digest_of(units_of(ODD)[name].definition)


def test_what_it_has_no_answer_to_is_said():
    with pytest.raises(BadInput, match="not in the hidden repository"):
        oracle().answer("code", "tallybook/none.py:f", 0, 0, "")
    with pytest.raises(BadInput, match="does not play"):
        oracle().answer("poet", "x", 0, 0, "")
    with pytest.raises(BadInput, match="once"):
        open_oracle(["oracle:a", "oracle:b"], 0)


def test_completions_say_what_they_are():
    request = Request("code|tallybook/reading/amounts.py:convert|3|0", messages=[{"role": "user", "content": "x"}])
    for one, name in ((oracle(), "oracle:tallybook"), (oracle(0.25), "fault:tallybook?q=0.25")):
        (done,) = one.generate([None, request], Sampling())
        assert (done.model, done.finish_reason, done.key) == (name, "stop", request.key)
        assert str(TALLYBOOK.parent) not in done.text + done.model


def test_what_an_oracle_hides_is_a_part_of_a_run(tmp_path):
    (tmp_path / "one.py").write_text("x = 1\n")
    first = hidden(f"oracle:{tmp_path}")
    assert first == hidden(f"fault:{tmp_path}?q=0.3") != hidden(f"oracle:{tmp_path / 'none'}") == ""
    (tmp_path / "one.py").write_text("x = 2\n")
    assert hidden(f"oracle:{tmp_path}") != first
