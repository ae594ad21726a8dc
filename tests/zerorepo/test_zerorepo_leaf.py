"""One leaf's way, told by the answers and verdicts it is given: what it asks next, when it is done, when it gives up."""

import json

import pytest

from zerorepo.encode import encode
from zerorepo.generation.asking import Answer, Ask
from zerorepo.generation.edits import apply
from zerorepo.generation.leaf import REMEDIES, TRIES, Context, NoAnswer, Run, make_integration, make_leaf
from zerorepo.generation.leaf import test_path as path_of_test
from zerorepo.generation.order import Task, plan
from zerorepo.generation.skeleton import stubs_of
from zerorepo.generation.verdict import Verdict
from zerorepo.graph import Edge, Node
from zerorepo.sources import Held

CODE = '''"""Sums."""


def double(x: int) -> int:
    """Twice x."""
    return 2 * x


def triple(x: int) -> int:
    """Three times x."""
    return double(x) + x
'''
TEST = "from sums import double\n\n\ndef test_double():\n    assert double(2) == 4\n"


def context(**more):
    texts = {"sums.py": stubs_of(CODE)}
    graph = encode(Held({"sums.py": CODE.encode()}))
    for node in graph.nodes:
        if node.kind == "function":
            node.status = "stubbed"
    graph.nodes += [
        Node(id="#sums", kind="area", name="sums"),
        Node(id="#sums/a", kind="feature", name="double numbers", path="sums.py", qualname="double"),
    ]
    graph.edges += [
        Edge(src=".", dst="#sums", type="contains"),
        Edge(src="#sums", dst="#sums/a", type="contains"),
    ]
    return Context(graph, "THE STABLE PART", texts, {"sums.py:double": ["double numbers"]}, **more)


def tasks():
    return {task.id: task for task in plan(context().graph).tasks}


def say(text, finish="stop"):
    return Answer(text, finish, "a model", "key", 10, 5)


def block(code):
    return say(f"```python\n{code}```\n")


def saw(result, detail=""):
    return Verdict(result, {}, None, detail, 0.0)


def unit(body):
    return block(f'def double(x: int) -> int:\n    """Twice x."""\n    {body}\n')


def votes(*causes):
    return [say(json.dumps({"cause": cause, "reason": "so"}) if cause else "I do not know") for cause in causes]


class Way:
    """The effects of a leaf, one by one, each asserted by its kind."""

    def __init__(self, making):
        self.making, self.asks, self.result = making, [], None
        self.effect = next(making)

    def reply(self, value):
        if isinstance(self.effect, Ask):
            self.asks.append(self.effect)
        elif isinstance(self.effect, list):
            self.asks += self.effect
        try:
            self.effect = self.making.send(value)
        except StopIteration as ended:
            self.effect, self.result = None, ended.value

    def ask(self, role, answer):
        assert isinstance(self.effect, Ask) and self.effect.role == role, self.effect
        asked = self.effect
        self.reply(answer)
        return asked

    def run(self, verdict):
        assert isinstance(self.effect, Run), self.effect
        ran = self.effect
        self.reply(verdict)
        return ran

    def vote(self, *causes):
        assert isinstance(self.effect, list) and [one.role for one in self.effect] == ["judge"] * 5
        assert len({one.sample for one in self.effect}) == 5
        self.reply(votes(*causes))


def leaf(**more):
    return Way(make_leaf(tasks()["sums.py:double"], context(**more)))


def coded(body):
    """A leaf whose test is red and whose first code has this body."""
    way = leaf()
    way.ask("test", block(TEST))
    way.run(saw("failed"))
    way.ask("code", unit(body))
    return way


WHERE = "tests/units/test_sums____double.py"


def test_red_then_green_is_done():
    way = leaf()
    way.ask("test", block(TEST))
    red = way.run(saw("failed"))
    assert red.changed == {WHERE: TEST} and red.tests == [WHERE]  # the stub stands
    way.ask("code", unit("return 2 * x"))
    green = way.run(saw("passed"))
    assert "return 2 * x" in green.changed["sums.py"] and green.changed[WHERE] == TEST
    done = way.result
    assert (done.status, done.tries, done.remedies, done.tests) == ("done", 1, 0, {WHERE: TEST})
    assert done.models == ("a model",) and done.tokens == 30
    assert apply(stubs_of(CODE), "double", dict(done.patches)["sums.py:double"]).count("return 2 * x") == 1


def test_a_test_that_passes_on_the_stub_is_no_test():
    way = leaf()
    way.ask("test", block("def test_nothing():\n    assert True\n"))
    way.run(saw("passed"))
    again = way.ask("test", block(TEST))
    assert "passed while what it tests was a stub" in again.user and "assert True" in again.user
    way.run(saw("failed"))
    way.ask("code", unit("return 2 * x"))
    way.run(saw("passed"))
    assert (way.result.status, way.result.remedies, way.result.tries) == ("done", 1, 1)


@pytest.mark.parametrize("verdict", ["error", "none", "skipped", "timeout", "killed", "usage"])
def test_red_is_a_failing_test_and_nothing_else(verdict):
    way = leaf()
    way.ask("test", block(TEST))
    way.run(saw(verdict, "what it said"))
    again = way.ask("test", block(TEST))
    assert f"did not fail as a test does ({verdict})" in again.user and "what it said" in again.user


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (say("No."), "no Python block"),
        (block("x = 1\n"), "no function whose name begins with test_"),
        (block("def test_a(:\n"), "line 1"),
        (say(f"```python\n{TEST}```", "length"), "cut off"),
        (say("```python\n" + "x = 1\n" * 40000 + "```"), "characters"),
    ],
)
def test_an_answer_that_is_no_test_is_asked_for_again_with_words(answer, why):
    way = leaf()
    way.ask("test", answer)
    assert why in way.ask("test", block(TEST)).user


def test_no_answer_is_no_answer_to_anything():
    way = leaf()
    with pytest.raises(NoAnswer, match="down"):
        way.ask("test", say("down", "error"))


def test_tests_are_written_anew_so_often_and_no_more():
    way = leaf()
    for _ in range(REMEDIES + 1):
        way.ask("test", say("No."))
    assert way.result.status == "failed" and "no usable test" in way.result.why
    assert way.result.remedies == REMEDIES == 20


def test_a_wrong_code_is_told_what_failed_and_written_again_until_tries_are_over():
    way = leaf()
    way.ask("test", block(TEST))
    way.run(saw("failed"))
    turns = []
    for number in range(TRIES):
        asked = way.ask("code", unit(f"return {number}"))
        turns.append(asked.turn)
        assert (f"return {number - 1}" in asked.user and "assert 0 == 4" in asked.user) == (number > 0)
        way.run(saw("failed", "assert 0 == 4"))
        way.vote("code", "code", "code", "test", None)
    assert turns == list(range(8))
    assert way.result.status == "failed" and way.result.tries == 8 and "8 tries" in way.result.why
    assert way.result.votes == {"code": 8} and way.result.patches == []


@pytest.mark.parametrize(
    "answer",
    [
        say("No."),
        block("def other():\n    return 1\n"),
        say("```python\ndef double(x: int", "length"),
        unit("return " + "+".join(["x"] * 1500)),  # deeper than Python's own tools go
    ],
)
def test_an_answer_that_is_no_edit_is_a_try(answer):
    way = leaf(tries=2)
    way.ask("test", block(TEST))
    way.run(saw("failed"))
    way.ask("code", answer)
    assert "not usable" in way.ask("code", answer).user
    assert (way.result.status, way.result.tries) == ("failed", 2)


def test_a_test_that_most_find_wrong_is_written_anew_and_the_code_kept():
    way = leaf()
    way.ask("test", block(TEST.replace("4", "5")))
    way.run(saw("failed"))
    way.ask("code", unit("return 2 * x"))
    way.run(saw("failed", "assert 4 == 5"))
    way.vote("test", "test", "test", "code", "code")
    assert "found wrong" in way.ask("test", block(TEST)).user
    way.run(saw("failed"))  # red on the stub once more
    green = way.run(saw("passed"))
    assert green.changed[WHERE] == TEST and "return 2 * x" in green.changed["sums.py"]
    assert (way.result.status, way.result.tries, way.result.remedies, way.result.votes) == ("done", 1, 1, {"test": 1})


@pytest.mark.parametrize(
    "cast", [("test", "test", "code", "code", None), ("test", "test", None, None, None), (None,) * 5]
)
def test_without_a_majority_and_a_quorum_the_code_is_written_again(cast):
    way = coded("return 0")
    way.run(saw("failed"))
    way.vote(*cast)
    way.ask("code", unit("return 2 * x"))


def test_the_environment_is_given_another_chance():
    way = coded("return 2 * x")
    first = way.run(saw("timeout"))
    way.vote(*["environment"] * 5)
    second = way.run(saw("timeout"))
    third = way.run(saw("passed"))
    assert first.changed == second.changed == third.changed and len({first.turn, second.turn, third.turn}) == 3
    assert way.result.status == "done" and way.result.remedies == 1


def test_a_test_that_fails_now_and_then_is_written_anew():
    way = coded("return 2 * x")
    way.run(saw("failed"))
    way.vote(*["environment"] * 5)
    way.run(saw("passed"))  # the same code and test: not to be trusted
    assert "found wrong" in way.ask("test", block(TEST + "# anew\n")).user


def test_an_environment_that_stays_broken_is_the_codes_affair():
    way = coded("return 2 * x")
    way.run(saw("error"))
    way.vote(*["environment"] * 5)
    for _ in range(3):
        way.run(saw("error"))
    way.ask("code", unit("return x + x"))


def test_finished_leaves_of_the_file_are_tested_with_it():
    way = leaf(regressions=["tests/units/test_sums____other.py"])
    way.ask("test", block(TEST))
    assert way.run(saw("failed")).tests == [WHERE]
    way.ask("code", unit("return 2 * x"))
    assert way.run(saw("passed")).tests == [WHERE, "tests/units/test_sums____other.py"]


def test_all_prompts_of_the_stage_begin_with_the_same_part():
    way = coded("return 0")
    way.run(saw("failed"))
    way.vote(*["code"] * 5)
    way.ask("code", unit("return 2 * x"))
    assert {one.messages[0]["content"] for one in way.asks} == {"THE STABLE PART"}
    assert {one.role for one in way.asks} == {"test", "code", "judge"}


# ---------------------------------------------------------------- integration


def together():
    found = tasks()
    stubs = {"sums.py": stubs_of(CODE)}
    members = [found["sums.py:double"], found["sums.py:triple"]]
    return Way(make_integration(found["integration:#sums"], context(stubs=stubs), members))


def test_an_area_is_tested_as_a_whole():
    way = together()
    asked = way.ask("integration", block(TEST))
    assert "sums.py:double" in asked.user and "sums.py:triple" in asked.user
    red = way.run(saw("failed"))
    assert red.changed["sums.py"] == stubs_of(CODE)
    assert way.run(saw("passed")).tests == ["tests/integration/test_integration_sums.py"]
    assert way.result.status == "done" and way.result.patches == []


def test_an_integration_test_that_passes_on_stubs_is_no_test():
    way = together()
    way.ask("integration", block("def test_it():\n    assert 1\n"))
    way.run(saw("passed"))
    assert "tests nothing" in way.ask("integration", block(TEST)).user


def test_an_area_without_a_leaf_that_is_done_is_not_asked_about():
    with pytest.raises(StopIteration) as ended:
        next(make_integration(tasks()["integration:#sums"], context(), []))
    assert ended.value.value.status == "failed"


def test_a_leaf_that_is_named_is_written_over():
    way = together()
    way.ask("integration", block(TEST))
    way.run(saw("failed"))
    way.run(saw("failed", "assert 0 == 4"))
    way.vote(*["code"] * 5)
    way.ask("locate", say('{"units": ["sums.py:double", "sums.py:made_up", 7]}'))
    way.ask("code", unit("return x + x"))
    last = way.run(saw("passed"))
    assert "return x + x" in last.changed["sums.py"]
    assert way.result.status == "done" and [key for key, _ in way.result.patches] == ["sums.py:double"]


def test_an_area_is_given_up_after_its_tries():
    way = together()
    way.ask("integration", block(TEST))
    way.run(saw("failed"))
    for _ in range(TRIES):
        way.run(saw("failed"))
        way.vote(*["code"] * 5)
        way.ask("locate", say("nothing"))
    way.run(saw("failed"))
    way.vote(*["code"] * 5)
    assert way.result.status == "failed"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a.py:求和", "a.py:求积"), ("a.py:A.b", "a.py:A__b"), ("a.py:f#2", "a.py:f_2"), ("a-b.py:f", "a_b.py:f"),
        ("a/b.py:f", "a__b.py:f"), ("integration:#读取", "integration:#写入"), ("integration:#a b", "integration:#a_b"),
        (f"a.py:{'f' * 240}", f"a.py:{'f' * 240}g"),
    ],
)  # fmt: skip
def test_no_two_tasks_share_a_test_file(one, other):
    tasks = [Task(key, key.partition(":")[0], key.partition(":")[2], ()) for key in (one, other)]
    first, second = map(path_of_test, tasks)
    assert first != second and max(len(path.rpartition("/")[2]) for path in (first, second)) < 255


def test_every_task_has_a_test_file_of_its_own():
    paths = [path_of_test(task) for task in tasks().values()]
    assert len(set(paths)) == len(paths)
