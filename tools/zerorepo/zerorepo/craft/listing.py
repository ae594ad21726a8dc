"""craft sample and craft tasks: fewer tasks, and what a file of them holds. Above tasks.py, which has the record.

Sampling (arXiv 2509.16198 §4.1, app. D): in each category some test files, in each file some modules (a test class each, and all
plain functions of the file together), in each module some capabilities; a capability is a task. Nothing of that is drawn twice.
"""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from tenfold_shared import BadInput
from tenfold_shared.jsonl import Output, Source, decode_line, read_lines
from zerorepo.craft.tasks import Gold, Task, read_tasks
from zerorepo.graph import one_line

PASSED_OVER = ("base", "issue")
NEAREST = 3


class TaskLines(Source):
    """Task files as a Source that can also give each line as it stands."""

    def lines(self) -> Iterator[tuple[str, bytes]]:
        """(file:line, bytes without the line's end) of each line that is not blank."""
        for path in self.paths:
            name = "<stdin>" if path == "-" else path
            real = self._spools[path].name if path in self._spools else path
            for number, line in read_lines(real):
                yield f"{name}:{number}", line.removesuffix(b"\n")


# ------------------------------------------------------------ sample


def drawn(tasks: Sequence[Task], *, files: int, classes: int, caps: int, seed: int) -> list[Task]:
    """A sample: in each category of a project at most `files` test files, in each file at most `classes` modules, in each
    module at most `caps` tasks; all from 0, uniform and without replacement, in the order of `tasks`, whose ids differ.

    Files whose stem has `base` or `issue` in it, and such modules, are passed over, letter case counting, as in the paper's own
    code. What is taken are the names with the smallest hashes of seed, place and name: so a category's draw does not depend on
    other categories, a file's not on other files, and a larger sample holds the smaller ones of its seed.
    """
    tree: dict[tuple[str, str], dict[str, dict[str, list[str]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for task in tasks:
        if not passed_over(task):
            tree[task.project, task.category][task.file][task.module].append(task.id)
    kept: set[str] = set()
    for (project, category), by_file in tree.items():
        for file in _first(by_file, files, seed, project, category):
            for module in _first(by_file[file], classes, seed, project, category, file):
                kept.update(_first(by_file[file][module], caps, seed, project, category, file, module))
    return [task for task in tasks if task.id in kept]


def passed_over(task: Task) -> bool:
    """Whether no sample holds it, because of its file's stem or its module."""
    stem = task.file.rpartition("/")[2].removesuffix(".py")
    return any(word in name for word in PASSED_OVER for name in (stem, task.module))


def _first(names: Iterable[str], most: int, seed: int, *place: str) -> list[str]:
    def rank(name: str) -> bytes:
        return hashlib.sha256(msgspec.json.encode([seed, *place, name])).digest()

    return sorted(names, key=rank)[:most]


def run_sample(
    tasks: str, *, files: int, classes: int, caps: int, sound: bool, seed: int,
    output: str | None, overwrite: bool, as_json: bool, quiet: bool, **_: Any,
) -> int:  # fmt: skip
    """The verb. Lines are written as they were read. Raises BadInput also for --sound on tasks that were never run on the
    package itself, and where no task is left."""
    from zerorepo import __version__

    to_file = output not in (None, "-")
    source = TaskLines([tasks], None, keep=to_file)
    decides = {"files": files, "classes": classes, "caps": caps, "sound": sound, "seed": seed}
    with Output(
        output, tool="zerorepo", version=__version__, verb="craft sample", options=decides, source=source, overwrite=overwrite
    ) as out:  # fmt: skip
        if out.finished:
            if not quiet:
                print(f"zerorepo: {output}: complete already; nothing to do", file=sys.stderr)
            return 0
        lines: list[bytes] = []
        places: list[str] = []

        def records() -> Iterator[tuple[str, Any]]:
            for where, line in source.lines():
                lines.append(line)
                places.append(where)
                yield where, decode_line(where, line)

        read = read_tasks(records(), "<stdin>" if tasks == "-" else tasks)
        left = _sound(read, places) if sound else read
        taken = drawn(left, files=files, classes=classes, caps=caps, seed=seed)
        counts = {"read": len(read), **({"sound": len(left)} if sound else {}),
                  "passed_over": sum(map(passed_over, left)), "written": len(taken)}  # fmt: skip
        if not taken:
            raise BadInput(f"{source.paths[0]}: no task is left: {_told(counts)}")
        ids = {task.id for task in taken}
        for task, line in zip(read, lines, strict=True):
            if task.id in ids:
                out.write_line(line)
        out.finish(counts, seed=seed)
    if as_json:
        print(msgspec.json.encode(counts).decode(), file=sys.stdout if to_file else sys.stderr)
    elif not quiet:
        print(f"zerorepo: {_told(counts)}", file=sys.stderr)
    return 0


def _sound(tasks: Sequence[Task], places: Sequence[str]) -> list[Task]:
    for task, where in zip(tasks, places, strict=True):
        if task.gold is None:
            raise BadInput(f"{where}: {task.id}: gold: missing, so --sound has nothing to go by: these tasks are of `craft harvest --unchecked`; harvest without it")  # fmt: skip
    return [task for task in tasks if task.gold is not None and task.gold.passed]


def _told(counts: Mapping[str, int]) -> str:
    sound = f", {counts['sound']} of them passed by the package itself" if "sound" in counts else ""
    return (
        f"{counts['read']} tasks read{sound}, {counts['passed_over']} passed over for `base` or `issue` in a name, "
        f"{counts['written']} drawn"
    )


# ------------------------------------------------------------ tasks


def taxonomy(tasks: Sequence[Task]) -> dict[str, Any]:
    """What tasks there are: `projects`, each with its `categories`, its `total`, and `paper`, the published counts where it is
    one of the paper's six; and `total` over the projects. Projects and categories in the order of their first task.

    Counts: files, classes (modules), capabilities, functions (tests by name), tasks; gold: how many tasks were run on the
    package itself (`checked`), passed there, and were voted for.
    """
    by_project: dict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        by_project[task.project].append(task)
    return {
        "projects": [_project(name, members) for name, members in by_project.items()],
        "total": _total(tasks),
    }


def _project(name: str, tasks: Sequence[Task]) -> dict[str, Any]:
    from zerorepo.craft.paper import project_of

    by_category: dict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        by_category[task.category].append(task)
    published = project_of(tasks[0].top)
    paper = None if published is None else {
        key: getattr(published, key) for key in ("name", "paraphrase", "categories", "leaves", "tasks")
    }  # fmt: skip
    return {
        "project": name,
        "top": tasks[0].top,
        "categories": [{"category": one, **_counts(members)} for one, members in by_category.items()],
        "total": _total(tasks),
        "paper": paper,
    }


def _total(tasks: Sequence[Task]) -> dict[str, Any]:
    return {
        "categories": len({(task.project, task.category) for task in tasks}),
        "leaves": len({(task.project, task.leaf) for task in tasks}),
        **_counts(tasks),
    }


def _counts(tasks: Sequence[Task]) -> dict[str, Any]:
    golds: list[Gold] = [task.gold for task in tasks if task.gold is not None]
    modules = [(task.project, task.file, task.module) for task in tasks]
    return {
        "files": len({(task.project, task.file) for task in tasks}),
        "classes": len(set(modules)),
        "capabilities": len({(*module, task.cap) for module, task in zip(modules, tasks, strict=True)}),
        "functions": len(
            {(*module, name) for module, task in zip(modules, tasks, strict=True) for name in task.functions}
        ),
        "tasks": len(tasks),
        "gold": {
            "checked": len(golds),
            "passed": sum(one.passed for one in golds),
            "voted": sum(one.voted for one in golds),
        },
    }


def run_tasks(tasks: str, *, wanted: str | None, as_json: bool, quiet: bool, **_: Any) -> int:
    """The verb. Raises BadInput for what is no task, and for an id that is none, with the nearest."""
    from tenfold_shared.cli import print_table

    read = read_tasks(Source([tasks], None), "<stdin>" if tasks == "-" else tasks)
    if wanted is not None:
        _show(_one(read, wanted), as_json)
        return 0
    found = taxonomy(read)
    if as_json:
        print(msgspec.json.encode(found).decode())
        return 0
    print_table(_table(found))
    for one in found["projects"]:
        if one["paper"] is not None:
            paper, total = one["paper"], one["total"]
            sides = [
                f"{side['categories']} categories, {side['leaves']} leaves, {side['tasks']} tasks"
                for side in (total, paper)
            ]
            print(f"{one_line(one['project'])}: here {sides[0]}; in the paper, of {paper['name']} as {paper['paraphrase']}: {sides[1]}")  # fmt: skip
    return 0


def _table(found: Mapping[str, Any]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    projects = found["projects"]
    several = len(projects) > 1
    table = Table()
    for name in (*(["project"] if several else []), "category"):
        table.add_column(name)
    for name in (*_COLUMNS, "gold passed", "gold voted"):
        table.add_column(name, justify="right")

    def add(names: Sequence[str], counts: Mapping[str, Any], end: bool) -> None:
        gold = counts["gold"]
        some = gold["checked"] and gold["checked"] < counts["tasks"]  # files of both kinds, put together
        of = f" of {gold['checked']:,}" if some else ""
        golds = [f"{gold[key]:,}{of}" if gold["checked"] else "–" for key in ("passed", "voted")]
        table.add_row(*(escape(one_line(name)) for name in names), *(f"{counts[key]:,}" for key in _COLUMNS), *golds, end_section=end)  # fmt: skip

    for project in projects:
        mark = [project["project"]] if several else []
        lines = project["categories"]
        for at, line in enumerate(lines, 1):
            add([*mark, line["category"]], line, at == len(lines))
        if several:
            add([*mark, f"total: {len(lines)} categories"], project["total"], True)
    total = found["total"]
    add([*(["total"] if several else []), f"{'' if several else 'total: '}{total['categories']:,} categories"], total, True)  # fmt: skip
    return table


_COLUMNS = ("files", "classes", "capabilities", "functions", "tasks")


def _one(tasks: Sequence[Task], wanted: str) -> Task:
    import difflib

    by_id = {task.id: task for task in tasks}
    if wanted in by_id:
        return by_id[wanted]
    inside = [name for name in by_id if wanted and wanted in name]
    near = difflib.get_close_matches(wanted, by_id, NEAREST, 0.3)
    shown = list(dict.fromkeys([*inside, *near]))[:NEAREST]
    raise BadInput(f"--show {wanted}: no task of this id" + (f"; nearest: {', '.join(shown)}" if shown else ""))


def _show(task: Task, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(task).decode())
        return
    print(one_line(task.id))
    facts = [
        ("project", f"{task.project}, imported as {', '.join(task.top)}"),
        ("place", f"{task.leaf}: {task.file}, {task.module}, {task.cap}"),
        ("tests", ", ".join(task.cases)),
        ("support", ", ".join(one.path for one in task.support) or "none"),
        ("gold", _gold(task.gold)),
    ]
    for name, text in facts:
        print(f"  {name:<8} {one_line(text)}")
    for title, text in (("description", task.alg_description), ("query", task.task_query)):
        print(f"\n{title}\n{_lines(text, '  ')}")
    print("\ninterfaces")
    for one in task.interfaces:
        mark = "*" if one.tested else " "
        reached = f"  (as {', '.join(one.written)})" if one.written and one.written != [one.name] else ""
        print(f"  {mark} {one.kind:<8} {one_line(one.name + reached)}")
        if one.signature:
            print(_lines(one.signature, " " * 13))
    if any(one.tested for one in task.interfaces):
        print("  * what the test is about")
    print("\ntest")
    _print_code(_lines(task.query_code))


def _gold(gold: Gold | None) -> str:
    if gold is None:
        return "never run on the package itself"
    told = f"{'passed' if gold.passed else 'not passed'}, {'voted for' if gold.voted else 'voted down'}"
    return told + (f": {gold.reason}" if gold.reason else "")


def _lines(text: str, indent: str = "") -> str:
    """Text of others as it may go to a terminal; tabs and line ends stay."""
    safe = ("\t".join(map(one_line, line.split("\t"))) for line in text.split("\n"))
    return "\n".join(indent + line if line else "" for line in safe).rstrip("\n")


def _print_code(code: str) -> None:
    if not sys.stdout.isatty():
        print(code)
        return
    from rich.syntax import Syntax

    from tenfold_shared.cli import print_table

    print_table(Syntax(code, "python", background_color="default", word_wrap=True))
