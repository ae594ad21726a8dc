"""What `craft score` asks a model, where one is given: `locate`, `vote` and `adapt` (RepoCraft, arXiv 2509.16198 app. D).

Beside the rules of locate.py and judging.py, by whose forms the answers are judged; scoring.py says when. All questions of a
kind go out at once, with one system message for the whole repository, so that a server's prefix cache holds.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from zerorepo.craft.judging import Sources
from zerorepo.craft.locate import Located, Locator, plain
from zerorepo.craft.package import Package
from zerorepo.craft.syntax import chain_of, parsed
from zerorepo.craft.tasks import Interface, Task
from zerorepo.generation import prompts
from zerorepo.generation.asking import Ask, Asker, expect_answer
from zerorepo.generation.votes import ROUNDS
from zerorepo.lift import extract
from zerorepo.outline import estimate, outline

Vote = str | None  # "yes", "no", or None of an answer that could not be read
MOST_UNIT = 10_000  # characters of the source of one unit
MOST_UNITS = 40_000  # of all units of one question
MOST_OFFERED = 20  # candidates of one interface
MOST_TOLD = 3_000  # characters of what went wrong
OVERVIEW_TOKENS = 6_000
_SKIPPING = frozenset("skip skipif skipunless skiptest xfail expectedfailure importorskip exit _exit".split())
_RULES = """You judge a Python repository by tests that were written for another project with the same purpose and other names. You are
shown parts of the repository. You do not write or change its code.
"""
LOCATE = """A test uses the interfaces below of another project. Say for each which unit of the repository stands for it: the one that
does the same, whatever it is called. Choose among the units offered below it; null where none of them does the same.
No two interfaces get the same unit.
Answer with one JSON object and nothing else: {"located": {"other.project.name": "repository.name", "another.name": null}}
"""
VOTE = """Say whether the code below implements what is described. It does where it computes what is asked for, under any names; it does
not where it is a stub, something else, or a part that leaves the point out.
Answer with one JSON object and nothing else: {"implements": true, "reason": "one sentence"} or {"implements": false, "reason": "..."}.
"""
ADAPT = """A test was written for another project. Rewrite it for the repository: imports, names and the form of calls as the
repository has them. It must ask the same as before: every test function keeps its name, every assertion stays, no expected value
changes, and nothing is skipped or expected to fail.
Answer with one JSON object and nothing else: {"code": "the whole test file"}.
"""


def overview(package: Package, most: int = OVERVIEW_TOKENS) -> str:
    """The system message: rules, then the repository's files with what they are for where that fits in `most` tokens, else
    the signatures that matter most."""
    whole = prompts.overview(package.graph, _texts(package))
    begin = whole.index("# The") if "# The" in whole else 0
    told = whole[begin:]
    if len(told) >= prompts.MOST_OVERVIEW - len(_RULES) or estimate(told) > most:
        told = "# Its most used interfaces\n" + outline(package.graph, most)
    return f"{_RULES}\n{told}"


def _texts(package: Package) -> dict[str, str]:
    return {path: data.decode("utf-8", "replace") for path, data in package.files.items() if path.endswith(".py")}


def _told(task: Task) -> str:
    parts = [task.alg_description.strip(), task.task_query.strip()]
    return "\n".join(dict.fromkeys(filter(None, parts)))


def _interface(one: Interface) -> str:
    lines = [f"# {one.name} ({one.kind})"]
    lines += [one.signature] if one.signature else []
    lines += [one.doc] if one.doc else []
    lines += [f"Features: {'; '.join(one.features)}"] if one.features else []
    return "\n".join(lines)


# ---------------------------------------------------------------- locate


class ModelLocator:
    """Localisation with a model: it chooses among the candidates of what no name decides. overview: the system message."""

    def __init__(self, locator: Locator, asker: Asker, overview: str) -> None:
        self.locator, self.asker, self.overview = locator, asker, overview

    def located_all(
        self, tasks: Sequence[Task], attempt: int, reasons: Mapping[str, Sequence[str]] | None = None
    ) -> list[Located | None]:
        """What stands for the interfaces of each task. reasons: by a task's id, why the last attempt lost the vote; they are
        in the question. None where a later attempt has nothing to choose, or the model gave no usable answer to it; the first
        attempt is then the rules' own."""
        found: list[Located | None] = []
        items: list[tuple[Ask, Callable[[dict[str, Any]], dict[str, str | None]], Sequence[str]]] = []
        asked: list[int] = []
        offers: list[dict[str, dict[str, str]]] = []
        for at, task in enumerate(tasks):
            base = self.locator.located(task, 0)
            found.append(base)
            offer = self._offer(task, base)
            if any(offer.values()):
                ask = Ask("locate", task.id, self.overview, self._question(task, offer, (reasons or {}).get(task.id, ())), attempt)  # fmt: skip
                items.append((ask, _Choices(offer), ("located",)))
                asked.append(at)
                offers.append(offer)
            elif attempt:
                found[at] = None
        for at, answer, offer in zip(asked, self.asker.checked_all(items), offers, strict=True):
            base = found[at]
            if answer is None:
                found[at] = None if attempt else base
            elif base is not None:
                found[at] = _merged(tasks[at], base, answer, offer)
        return found

    def _offer(self, task: Task, base: Located | None) -> dict[str, dict[str, str]]:
        """Of each interface that neither the user's map nor its own name decides, what may stand for it: name to how it is
        shown."""
        firm = {name for name, how in base.how.items() if how in ("renamed", "same")} if base is not None else set()
        taken = {base.names[name] for name in firm} if base is not None else set()
        offer = {}
        for one in task.interfaces:
            if one.name in firm or one.kind not in ("class", "function", "method"):
                continue
            offer[one.name] = {
                each.name: f"{each.node.signature}{': ' + each.node.doc[:160] if each.node.doc else ''}"
                for each in self.locator.candidates(one, task, MOST_OFFERED)
                if each.name not in taken
            }
        return offer

    def _question(self, task: Task, offer: Mapping[str, Mapping[str, str]], reasons: Sequence[str]) -> str:
        parts = [LOCATE, f"What the test is about: {_told(task)}"]
        for one in task.interfaces:
            if offer.get(one.name):
                parts.append(_interface(one) + "\nOffered:")
                parts += [f"- {name}\n  {told}" for name, told in offer[one.name].items()]
        if reasons:
            parts.append("The last choice was judged not to do what is asked for:\n" + "\n".join(reasons)[:MOST_TOLD])
        return "\n".join(parts)


class _Choices:
    """Checks an answer against what was offered."""

    def __init__(self, offer: Mapping[str, Mapping[str, str]]) -> None:
        self.offer = offer

    def __call__(self, value: dict[str, Any]) -> dict[str, str | None]:
        told = value.get("located")
        if not isinstance(told, dict):
            raise ValueError('expected {"located": {"name": "name of the repository" or null}}')
        chosen: dict[str, str | None] = {}
        owners: dict[str, str] = {}
        for name, new in told.items():
            if name not in self.offer:
                raise ValueError(f"{name[:200]} is none of the interfaces asked for: {', '.join(self.offer)[:600]}")
            if new is not None and (not isinstance(new, str) or new not in self.offer[name]):
                raise ValueError(
                    f"{str(new)[:200]} was not offered for {name}; choose one of the lines below it, or null"
                )
            if new is not None and new in owners:
                raise ValueError(f"{new} is given to {owners[new]} and to {name}; no two get the same unit")
            if new is not None:
                owners[new] = name
            chosen[name] = new
        left = [name for name, offered in self.offer.items() if offered and name not in chosen]
        if left:
            raise ValueError(f"no word on {', '.join(left)[:600]}; each interface needs a unit or null")
        return chosen


def _merged(
    task: Task, base: Located, answer: Mapping[str, str | None], offer: Mapping[str, Mapping[str, str]]
) -> Located:
    names, how, missing = {}, {}, []
    for one in task.interfaces:
        if offer.get(one.name):
            new = answer.get(one.name)
            if new is not None:
                names[one.name], how[one.name] = new, "model"
            else:
                missing.append(one.name)
        elif one.name in base.names:
            names[one.name], how[one.name] = base.names[one.name], base.how[one.name]
        elif one.name in base.missing:
            missing.append(one.name)
    return Located(names, how, missing)


# ---------------------------------------------------------------- vote


def model_votes(
    asker: Asker, tasks: Sequence[Task], located: Sequence[Located], package: Package, overview: str, attempt: int = 0
) -> list[tuple[list[Vote], list[str]]]:
    """(votes, reasons) of each task: ROUNDS answers to one question each. An answer that cannot be read is None, which is not
    cast; reasons are those of the votes against. What is not there at all needs no model: five times no. Raises Missing where
    the model did not answer at all: another start may do better."""
    sources = Sources(package)
    asks: list[Ask] = []
    at: list[int] = []
    told: list[tuple[list[Vote], list[str]]] = [([], []) for _ in tasks]
    for place, (task, found) in enumerate(zip(tasks, located, strict=True)):
        code = code_of(task, found, package, sources)
        if not code:
            told[place] = (["no"] * ROUNDS, ["nothing was located for it"])
            continue
        user = f"{VOTE}\n# What is described\n{_told(task)}\n{_wanted(task)}\n# The code\n{code}"
        asks += [Ask("vote", task.id, overview, user, attempt, sample) for sample in range(ROUNDS)]
        at += [place] * ROUNDS
    for place, ask, answer in zip(at, asks, asker.all(asks), strict=True):
        expect_answer(ask, answer)  # the silence of a server that is away is no vote that could not be read
        vote, reason = _read_vote(answer)
        told[place][0].append(vote)
        if vote == "no" and reason:
            told[place][1].append(reason)
    return told


def _read_vote(answer: Any) -> tuple[Vote, str]:
    try:
        value, problem = extract(answer.whole, ("implements",))
    except ValueError:
        return None, ""
    said, reason = value.get("implements"), value.get("reason")
    if problem or not isinstance(said, bool):
        return None, ""
    return "yes" if said else "no", str(reason)[:600] if isinstance(reason, str) else ""


def _wanted(task: Task) -> str:
    return "Capabilities:\n" + "\n".join(_interface(one) for one in task.tested)


def code_of(task: Task, located: Located, package: Package, sources: Sources | None = None, tested: bool = True) -> str:
    """What was located, each unit with its source, at most MOST_UNIT characters of one; '' where nothing was. tested: for the
    tested interfaces alone."""
    sources = sources or Sources(package)
    shown: dict[str, str] = {}
    room = MOST_UNITS
    for one in (task.tested or task.interfaces) if tested else task.interfaces:
        new = located.names.get(one.name)
        found = package.meaning(new) if new is not None else None
        if found is None or found.node is None or found.name in shown or found.kind == "module":
            continue
        text = sources.text(found.node)
        cut = min(MOST_UNIT, room)
        text = text if len(text) <= cut else f"{text[:cut]}\n# ... {len(text) - cut} more characters"
        room = max(0, room - len(text))
        shown[found.name] = f"`{plain(found.name)}`, for `{one.name}`, in {found.node.path}:\n```python\n{text}\n```"
    return "\n".join(shown.values())


# ---------------------------------------------------------------- adapt


class Adaptation(NamedTuple):
    """A test to be adapted. start: the version to begin with, by rule or the last one; wrong: what its run said, '' at first;
    step: how often a model was asked about this task before."""

    task: Task
    located: Located
    start: str
    wrong: str = ""
    step: int = 0


def adapt_all(asker: Asker, items: Sequence[Adaptation], package: Package, overview: str) -> list[str | None]:
    """One step for each: the test a model makes of it, None where it gave no usable one. A test that asks less than the
    original is refused (`adapted_fault`)."""
    sources = Sources(package)
    questions = []
    for one in items:
        task = one.task
        parts = [ADAPT, f"# The test\n```python\n{task.query_code}\n```", f"What it is about: {_told(task)}"]
        pairs = [f"{old} is {new}" for old, new in sorted(one.located.names.items())]
        pairs += [f"{old} has no counterpart that was found" for old in one.located.missing]
        parts += ["# Names", "\n".join(pairs), "# The repository's code", code_of(task, one.located, package, sources, False)]  # fmt: skip
        parts.append(f"# The version so far\n```python\n{one.start}\n```")
        if one.wrong:
            parts.append(f"# What went wrong with it\n{one.wrong[:MOST_TOLD]}")
        ask = Ask("adapt", task.id, overview, "\n".join(parts), one.step)
        questions.append((ask, _Adapted(task, package), ("code",)))
    return asker.checked_all(questions)


class _Adapted:
    def __init__(self, task: Task, package: Package) -> None:
        self.task, self.package = task, package

    def __call__(self, value: dict[str, Any]) -> str:
        code = value.get("code")
        if not isinstance(code, str) or not code.strip():
            raise ValueError('expected {"code": "the whole test file"}')
        if fault := adapted_fault(self.task, code, self.package):
            raise ValueError(fault)
        return code if code.endswith("\n") else code + "\n"


def adapted_fault(task: Task, code: str, package: Package) -> str:
    """Why a text is no adaptation of the task's test; '' where it is one. It must have the test's functions, as many
    assertions in each, import nothing of the real package by its own names, and skip nothing."""
    try:
        tree, gold = parsed(code), parsed(task.query_code)
    except ValueError as error:
        return f"it is no Python: {error}"
    before, after = _tests(gold), _tests(tree)
    for name in task.cases:
        key = name.partition("[")[0]
        if key in before and key not in after:
            return f"the test {key} is missing; every test keeps its name and class"
    if (had := _asserting(gold)) > (has := _asserting(tree)):
        return f"it has {has} assertions, the original has {had}; none may be dropped"
    for key in task.cases:
        name = key.partition("[")[0]
        if name in before and (had := _asserting(before[name])) > (has := _asserting(after[name])):
            return f"the test {name} has {has} assertions, the original has {had}; none may be dropped"
    own = set(package.top)
    for module in _imported(tree):
        if module in task.top and module not in own:
            return f"it imports {module}, which is the other project; the repository has {', '.join(sorted(own))[:300]}"
    more = _skips(tree) - _skips(gold)
    if more > 0:
        return "it skips tests or expects them to fail, which the original does not"
    return ""


def _tests(tree: ast.Module) -> dict[str, ast.AST]:
    """Tests by `Class::name` or `name`."""
    found: dict[str, ast.AST] = {}
    for one in ast.walk(tree):
        if isinstance(one, ast.ClassDef):
            for inner in one.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    found[f"{one.name}::{inner.name}"] = inner
        elif isinstance(one, ast.Module | ast.If | ast.Try | ast.With):
            for inner in one.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    found[inner.name] = inner
    return found


def _asserting(tree: ast.AST) -> int:
    """Assert statements, assert* methods and functions, and expectations of errors. `assert True` and other constants assert
    nothing."""
    count = 0
    for one in ast.walk(tree):
        if isinstance(one, ast.Assert):
            count += not isinstance(one.test, ast.Constant)
        elif isinstance(one, ast.Call):
            last = _last(one.func)
            count += last.lower().startswith("assert") or last in ("raises", "warns", "fail")
    return count


def _last(func: ast.expr) -> str:
    if isinstance(func, ast.Attribute):
        return func.attr
    return func.id if isinstance(func, ast.Name) else ""


def _imported(tree: ast.Module) -> list[str]:
    """First names of what is imported, by statement or by importlib."""
    found = []
    for one in ast.walk(tree):
        if isinstance(one, ast.Import):
            found += [alias.name.partition(".")[0] for alias in one.names]
        elif isinstance(one, ast.ImportFrom) and one.module and not one.level:
            found.append(one.module.partition(".")[0])
        elif isinstance(one, ast.Call) and _last(one.func) in ("import_module", "__import__", "importorskip"):
            found += [str(word.value).partition(".")[0] for word in one.args[:1] if isinstance(word, ast.Constant)]
    return found


def _skips(tree: ast.Module) -> int:
    """How often a test is skipped, expected to fail, or ended before its time."""
    chains = [chain_of(one) or [""] for one in ast.walk(tree) if isinstance(one, ast.Attribute | ast.Name)]
    return sum(chain[-1].lower() in _SKIPPING for chain in chains)
