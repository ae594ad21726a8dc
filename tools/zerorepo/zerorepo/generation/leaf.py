"""One leaf from stub to verified code, and one area's integration test: stage C of arXiv 2509.16198 (alg. 3 and 4).

Each is a generator that yields what it needs, an `Ask`, a list of them, or a `Run` of tests, and is sent the answer or
the verdict; it returns its result. It reads and writes nothing itself, so that building.py may run many at once, journal
every answer and verdict, and go on after a kill: the same replies give the same result.

Per leaf: a test is written and must fail on the stub; then at most TRIES times code is written and tested together with
the tests of the file's finished leaves. A failure is judged by a vote: code is written anew, a wrong test is written
anew, and what lies with the environment is run again, which also finds tests that are not deterministic.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from zerorepo.generation import prompts
from zerorepo.generation.asking import Answer, Ask
from zerorepo.generation.edits import Patch, apply, code_in, patch_of
from zerorepo.generation.order import INTEGRATION, Task
from zerorepo.generation.verdict import Verdict
from zerorepo.generation.votes import CAUSES, ROUNDS, majority
from zerorepo.graph import Graph
from zerorepo.lift import extract
from zerorepo.modules import dotted_name

TRIES = 8  # P1 §4.3: debugging iterations of a function
REMEDIES = 20  # P1 §4.3: mends of tests and environment
RERUNS = 3  # of a test whose verdict may not be its own
TESTS = "tests/units"
INTEGRATION_TESTS = "tests/integration"
LONGEST_NAME = 200  # characters of a test file's name, of 255 bytes
_PLAIN = re.compile(r"_?[A-Za-z0-9]+(?:_[A-Za-z0-9]+)*|__[a-z]+__")


class Run(NamedTuple):
    """Tests to run. changed: path to text, beside what stands in the tree the leaf is built on. turn: which of several runs
    of the same."""

    changed: Mapping[str, str]
    tests: Sequence[str]
    turn: int = 0


class Result(msgspec.Struct, frozen=True):
    """status: done or failed, with why. tests: path to text of the test that was accepted. patches: leaf and
    patch, in the order they are applied; of a leaf its own, of an integration test those of leaves that it made over. tries: codes written; remedies: tests written
    anew and reruns; votes: cause to how often it was found."""

    id: str
    status: str
    why: str = ""
    patches: list[tuple[str, Patch]] = []
    tests: dict[str, str] = {}
    tries: int = 0
    remedies: int = 0
    votes: dict[str, int] = {}
    tokens: int = 0
    models: tuple[str, ...] = ()


class Context(NamedTuple):
    """What a leaf is built on. texts: the tree as it stands, its prerequisites' code in it. regressions: tests that must
    hold as well. encodings: of files, where it is not UTF-8. stubs: the files as they were before any leaf."""

    graph: Graph
    system: str
    texts: Mapping[str, str]
    features: Mapping[str, list[str]]
    regressions: Sequence[str] = ()
    tries: int = TRIES
    encodings: Mapping[str, str] = {}
    stubs: Mapping[str, str] = {}

    def check(self, path: str, text: str) -> None:
        """Raises ValueError or SyntaxError where a file cannot hold the text."""
        ast.parse(text)
        text.encode(self.encodings.get(path, "utf-8"))


class NoAnswer(Exception):
    """The model did not answer at all: nothing is known of the leaf, and it stays pending."""


Effect = Ask | list[Ask] | Run
Making = Generator[Effect, Any, Any]


class _Log:
    """What a result tells of the way to it."""

    def __init__(self) -> None:
        self.tries = self.remedies = self.tokens = 0
        self.votes: dict[str, int] = {}
        self.models: set[str] = set()

    def heard(self, answer: Answer) -> None:
        if answer.finish == "error":
            raise NoAnswer(answer.text)
        self.tokens += answer.prompt_tokens + answer.completion_tokens
        self.models.add(answer.model)

    def result(self, task: Task, status: str, why: str = "", **more: Any) -> Result:
        return Result(
            task.id, status, why, tries=self.tries, remedies=self.remedies, votes=dict(sorted(self.votes.items())),
            tokens=self.tokens, models=tuple(sorted(self.models)), **more,
        )  # fmt: skip


def test_path(task: Task) -> str:
    """Where a task's test lies: a file each, so that no two are ever edited together, and of a name of its own, as pytest
    wants where folders are no packages."""
    if not task.is_leaf:
        return f"{INTEGRATION_TESTS}/test_integration_{_word([task.id.removeprefix(INTEGRATION).lstrip('#')])}.py"
    return f"{TESTS}/test_{_word([*task.path.removesuffix('.py').split('/'), '', *task.qualname.split('.')])}.py"


def _word(parts: Sequence[str]) -> str:
    """The parts as one word that a module can have for a name; where others could give the same, or it is too long for a
    file's name, a digest tells them apart."""
    word = "__".join("".join(c if c.isalnum() and c.isascii() else "_" for c in part) for part in parts)
    if len(word) <= LONGEST_NAME and all(part == "" or _PLAIN.fullmatch(part) for part in parts):
        return word
    return f"{word[:LONGEST_NAME]}_{hashlib.sha256('/'.join(parts).encode()).hexdigest()[:8]}"


def make_leaf(task: Task, context: Context) -> Making:
    """Build one leaf. Returns its Result; `failed` after as many tries and remedies as are allowed."""
    log = _Log()
    node = context.graph.by_id[task.id]
    what = f"the {node.kind} `{task.qualname}` of {task.path}"
    told = prompts.about(context.graph, node, context.texts, task.needs, context.features.get(task.id, ()))
    where = test_path(task)
    test, why = yield from _test(task, context, log, what, told, "", red={})
    if test is None:
        return log.result(task, "failed", f"no usable test: {why}")
    problem, source = "", context.texts[task.path]
    while log.tries < context.tries:
        again = f"\nThe last code was not right:\n{problem}\n" if problem else ""
        form = "the function" if node.kind == "function" else f"its class with {node.name} as the only method in it"
        ask = Ask("code", task.id, context.system, f"{prompts.CODE.format(what=what, form=form)}\n{told}\nIts test:\n```python\n{test}```\n{again}", log.tries)  # fmt: skip
        answer = yield ask
        log.heard(answer)
        log.tries += 1
        try:
            patch = patch_of(answer.whole, source, task.qualname)
            text = apply(source, task.qualname, patch)
            context.check(task.path, text)
        except (ValueError, SyntaxError, RecursionError) as error:
            problem = f"the answer was not usable: {error}"
            continue
        while True:  # the same code, against a test that may be written anew
            verdict = yield Run({task.path: text, where: test}, [where, *context.regressions])
            if verdict.result == "passed":
                return log.result(task, "done", patches=[(task.id, patch)], tests={where: test})
            problem = f"{_code(patch)}\nIts test: {verdict.result}\n{verdict.detail}"
            cause = yield from _cause(task, context, log, what, told, test, problem)
            if cause == "environment" and log.remedies < REMEDIES:
                log.remedies += 1
                cause = yield from _rerun(
                    Run({task.path: text, where: test}, [where, *context.regressions]), verdict, log
                )
                if cause == "passed":
                    return log.result(task, "done", patches=[(task.id, patch)], tests={where: test})
            if cause != "test" or log.remedies >= REMEDIES:
                break
            log.remedies += 1
            fresh, why = yield from _test(
                task, context, log, what, told, f"The test was found wrong:\n{problem}", red={}
            )
            if fresh is None or fresh == test:
                break
            test = fresh
    return log.result(task, "failed", f"{log.tries} tries: {_short(problem)}", tests={where: test})


def make_integration(task: Task, context: Context, members: Sequence[Task]) -> Making:
    """The integration test of an area whose leaves are settled. A test that fails by fault of the code has the leaves that
    are named written anew, each against its own test as well."""
    log = _Log()
    area = task.id.removeprefix(INTEGRATION)
    name = context.graph.by_id[area].name if area in context.graph.by_id else area
    told = "\n".join(_entry(context, one) for one in members)
    where = test_path(task)
    if not members:
        return log.result(task, "failed", "none of its leaves is done")
    ask_test = prompts.INTEGRATION.format(area=name)
    red = {one.path: context.stubs[one.path] for one in members}
    test, why = yield from _test(task, context, log, ask_test, told, "", red=red, role="integration")
    patches: list[tuple[str, Patch]] = []
    texts = dict(context.texts)
    while test is not None:
        changed = {path: text for path, text in texts.items() if context.texts.get(path) != text}
        verdict = yield Run({**changed, where: test}, [where, *context.regressions])
        if verdict.result == "passed":
            return log.result(task, "done", patches=patches, tests={where: test})
        why = f"{verdict.result}\n{verdict.detail}"
        cause = yield from _cause(task, context, log, f"the area {name}", told, test, why)
        if cause == "environment" and log.remedies < REMEDIES:
            log.remedies += 1
            cause = yield from _rerun(Run({**changed, where: test}, [where, *context.regressions]), verdict, log)
            if cause == "passed":
                return log.result(task, "done", patches=patches, tests={where: test})
        if cause == "test" and log.remedies < REMEDIES:
            log.remedies += 1
            test, why = yield from _test(task, context, log, ask_test, told, f"The test was found wrong:\n{why}", red=red, role="integration")  # fmt: skip
            continue
        if log.tries >= context.tries:
            break
        log.tries += 1
        for key in (yield from _located(task, context, log, name, members, test, why)):
            one = next(member for member in members if member.id == key)
            patch = yield from _rewritten(one, context, log, texts, test, why)
            if patch is not None:
                patches.append((key, patch))
                texts[one.path] = apply(texts[one.path], one.qualname, patch)
    return log.result(task, "failed", _short(why), tests={} if test is None else {where: test})


# ------------------------------------------------------------ steps


def _test(
    task: Task, context: Context, log: _Log, what: str, told: str, problem: str, *, red: Mapping[str, str], role: str = "test"
) -> Generator[Effect, Any, tuple[str | None, str]]:  # fmt: skip
    """A test that can be used and fails on the stub; else None and why not. red: files to put back for that, to their stubs."""
    where = test_path(task)
    module = dotted_name(task.path, context.texts) if task.is_leaf else ""
    head = prompts.TEST.format(what=what, module=module) if role == "test" else what
    while True:
        again = f"\n{problem}\n" if problem else ""
        answer = yield Ask(role, task.id, context.system, f"{head}\n{told}{again}", log.remedies)
        log.heard(answer)
        try:
            text = code_in(answer.whole)
            if not any(name.startswith("test") for name in _functions(text)):
                raise ValueError("it defines no function whose name begins with test_")
            problem = ""
        except ValueError as error:
            problem = f"An earlier answer was not usable: {error}"
        if not problem:
            text = text if text.endswith("\n") else text + "\n"
            verdict = yield Run({**red, where: text}, [where])
            if verdict.result == "failed":
                return text, ""
            if verdict.result == "passed":
                problem = (
                    f"An earlier test passed while what it tests was a stub, so it tests nothing:\n```python\n{text}```"
                )
            else:
                problem = f"An earlier test did not fail as a test does ({verdict.result}):\n```python\n{text}```\n{verdict.detail}"
        if log.remedies >= REMEDIES:
            return None, problem
        log.remedies += 1


def _cause(
    task: Task, context: Context, log: _Log, what: str, told: str, test: str, problem: str
) -> Generator[Effect, Any, str]:  # fmt: skip
    """Whose fault a failure is, by vote; undecided counts as code."""
    user = f"{prompts.JUDGE.format(what=what)}\n{told}\nThe test:\n```python\n{test}```\nWhat failed:\n{problem}\n"
    turn = log.tries * 100 + log.remedies
    answers = yield [Ask("judge", task.id, context.system, user, turn, sample) for sample in range(ROUNDS)]
    votes = []
    for answer in answers:
        log.heard(answer)
        votes.append(_vote(answer))
    found = majority(votes) or "code"
    log.votes[found] = log.votes.get(found, 0) + 1
    return found


def _vote(answer: Answer) -> str | None:
    try:
        value, problem = extract(answer.whole, ("cause",))
    except ValueError:
        return None
    cause = value.get("cause") if not problem else None
    return cause if cause in CAUSES else None


def _rerun(run: Run, verdict: Verdict, log: _Log) -> Generator[Effect, Any, str]:
    """Run the same again: passed; `test` where it fails now and then, so that its verdict is not to be trusted; else code."""
    for number in range(1, RERUNS + 1):
        again = yield run._replace(turn=10 * log.remedies + number)
        if again.result == "passed":
            return "test" if verdict.result == "failed" else "passed"
    return "code"


def _located(
    task: Task, context: Context, log: _Log, area: str, members: Sequence[Task], test: str, problem: str
) -> Generator[Effect, Any, list[str]]:  # fmt: skip
    """The leaves a model holds wrong; what it makes up is dropped, and where nothing is left, none."""
    offered = "\n".join(f"- {one.id}" for one in members)
    user = f"{prompts.LOCATE.format(area=area, offered=offered)}\nThe test:\n```python\n{test}```\nWhat failed:\n{problem}\n"
    answer = yield Ask("locate", task.id, context.system, user, log.tries)
    log.heard(answer)
    try:
        value, _ = extract(answer.whole, ("units",))
    except ValueError:
        return []
    named = value.get("units")
    known = {one.id for one in members}
    return [key for key in named if isinstance(key, str) and key in known][:3] if isinstance(named, list) else []


def _rewritten(
    task: Task, context: Context, log: _Log, texts: Mapping[str, str], test: str, problem: str
) -> Generator[Effect, Any, Patch | None]:  # fmt: skip
    node = context.graph.by_id[task.id]
    what = f"the {node.kind} `{task.qualname}` of {task.path}"
    told = prompts.about(context.graph, node, texts, task.needs, context.features.get(task.id, ()))
    form = "the function" if node.kind == "function" else f"its class with {node.name} as the only method in it"
    user = f"{prompts.CODE.format(what=what, form=form)}\n{told}\nAn integration test fails:\n```python\n{test}```\n{problem}\n"
    answer = yield Ask("code", task.id, context.system, user, 100 + log.tries)
    log.heard(answer)
    try:
        patch = patch_of(answer.whole, texts[task.path], task.qualname)
        context.check(task.path, apply(texts[task.path], task.qualname, patch))
    except (ValueError, SyntaxError, RecursionError):
        return None
    return patch


def _entry(context: Context, task: Task) -> str:
    node = context.graph.by_id[task.id]
    return f"`{task.id}`: {'; '.join(context.features.get(task.id, [])) or node.doc.partition(chr(10))[0]}\n```python\n{node.signature}\n```"


def _functions(text: str) -> list[str]:
    return [one.name for one in ast.walk(ast.parse(text)) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]


def _code(patch: Patch) -> str:
    return f"```python\n{''.join(line + chr(10) for line in patch.imports)}{patch.unit}```"


def _short(text: str) -> str:
    return json.dumps(" ".join(text.split())[-400:], ensure_ascii=False)[1:-1]
