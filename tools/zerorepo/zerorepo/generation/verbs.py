"""The verbs `plan`, `build`, `run` and `status`: what they read and write, and what they say.

The work is in order.py, building.py and, for `run`, the two stages before.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tenfold_shared import BadInput
from tenfold_shared.cli import Backend, sha256_of
from tenfold_shared.jsonl import Journal
from tenfold_shared.progress import Progress
from zerorepo.generation import history
from zerorepo.generation.asking import Ask, Asker, OverBudget, identity, label, open_generator
from zerorepo.generation.building import Builder, Built, features_of
from zerorepo.generation.folder import MANIFEST, RPG, Folder, digest_of, manifest_of
from zerorepo.generation.leaf import make_leaf
from zerorepo.generation.order import Plan, batches, leaves_of, plan
from zerorepo.generation.outcome import commits_of, counted, finished
from zerorepo.generation.skeleton import Unit, decoded, units_of
from zerorepo.generation.spec import Spec, spec_of
from zerorepo.graph import Graph, one_line, read_bytes
from zerorepo.lift import CHARACTERS_A_TOKEN
from zerorepo.modules import import_root
from zerorepo.publish import publish
from zerorepo.validate import problems

if TYPE_CHECKING:
    from tenfold_shared.generate import Sampling
    from zerorepo.generation.designing import Fault
    from zerorepo.generation.runner import Where

Record = dict[str, Any]
PLAN_KEY = "plan"  # journal entry: ids of all tasks, for `status`
SHOWN = 20


class Testing(msgspec.Struct, frozen=True):
    """The options that say how tests run."""

    tries: int
    test_time: float
    test_memory: int
    python: str | None
    workers: int
    ray: str | None
    unsafe_no_sandbox: bool

    def where(self, files: Mapping[str, bytes]) -> Where:
        """Raises Missing where no sandbox, pytest or git can be had, before anything is asked."""
        from tenfold_shared import sandbox
        from zerorepo.generation.runner import Where
        from zerorepo.generation.verdict import check

        check(self.python or sys.executable)
        history.check()

        if not self.unsafe_no_sandbox:
            sandbox.check()
        limits = sandbox.Limits(wall_s=self.test_time, memory_mb=self.test_memory)
        return Where(limits, self.python or sys.executable, roots_of(files), self.unsafe_no_sandbox)

    def identity(self) -> Record:
        """What of it decides a verdict."""
        return {
            "tries": self.tries,
            "test_time": self.test_time,
            "test_memory": self.test_memory,
            "python": self.python,
            "unsafe_no_sandbox": self.unsafe_no_sandbox,
        }


def roots_of(files: Mapping[str, bytes]) -> tuple[str, ...]:
    """Folders of a tree that imports begin at, the tree itself first."""
    found = {import_root(path, files) for path in files if path.endswith(".py") and not path.startswith("tests/")}
    return tuple(sorted(found | {""}))


# ------------------------------------------------------------ plan


def run_plan(skeleton: str, *, form: str, output: str | None, overwrite: bool, quiet: bool, **_: Any) -> int:
    """The verb `plan`."""
    place = Path(skeleton)
    name = place / RPG if place.is_dir() else place
    graph = _sound(name)
    found = plan(graph)
    data = {"json": _as_json, "make": _as_make, "dot": _as_dot}[form](found)
    publish("plan", data.encode(), output, inputs=[name.read_bytes()], options={"to": form}, overwrite=overwrite)
    if not quiet:
        leaves = sum(task.is_leaf for task in found.tasks)
        rounds = batches(found.tasks)
        print(
            f"zerorepo: {leaves} leaves, {len(rounds)} batches, the widest of {max(map(len, rounds), default=0)}",
            file=sys.stderr,
        )
    for circle in found.cycles:
        print(f"zerorepo: call each other in a circle, built by their place in the file: {', '.join(circle[:SHOWN])}", file=sys.stderr)  # fmt: skip
    if found.relaxed:
        print(
            "zerorepo: calls contradict the order of files or the data flow, which were left out of account",
            file=sys.stderr,
        )
    return 0


def _as_json(found: Plan) -> str:
    told = {
        "tasks": [{"id": task.id, "needs": list(task.needs)} for task in found.tasks],
        "batches": [[task.id for task in batch] for batch in batches(found.tasks)],
        "cycles": found.cycles,
        "relaxed": found.relaxed,
    }
    return json.dumps(told, indent=1, ensure_ascii=False) + "\n"


def _as_make(found: Plan) -> str:
    """A target for each task; `BUILD` is the command, called with the task's id."""
    number = {task.id: f"task-{n}" for n, task in enumerate(found.tasks)}
    lines = ["BUILD ?= echo", f".PHONY: all {' '.join(number.values())}", f"all: {' '.join(number.values())}"]
    for task in found.tasks:
        lines.append(f"{number[task.id]}: {' '.join(number[need] for need in task.needs)}".rstrip())
        quoted = task.id.replace("$", "$$").replace("'", "'\\''")
        lines.append(f"\t$(BUILD) '{quoted}'")
    return "\n".join(lines) + "\n"


def _as_dot(found: Plan) -> str:
    lines = ["digraph plan {", "  rankdir=LR;"]
    name = {task.id: json.dumps(task.id, ensure_ascii=False) for task in found.tasks}  # DOT knows no \\u
    lines += [f"  {one};" for one in name.values()]
    lines += [f"  {name[need]} -> {name[task.id]};" for task in found.tasks for need in task.needs]
    return "\n".join([*lines, "}"]) + "\n"


# ------------------------------------------------------------ build


def _unchanged(folder: Path) -> None:
    """Raises BadInput where an earlier, unfinished build has been worked on: it would be lost."""
    head = ((manifest_of(folder) or {}).get("counts") or {}).get("head")
    if head and history.touched(folder, head):
        raise BadInput(
            f"{folder}: has commits or changes since it was built; move it away, or add --overwrite to lose them"
        )


def run_build(
    skeleton: str, *, backend: Backend, sampling: Sampling, testing: Testing, seed: int, output: str | None, overwrite: bool,
    budget_tokens: int | None, max_time: float | None, dry_run: bool, as_json: bool, quiet: bool, **_: Any,
) -> int:  # fmt: skip
    """The verb `build`. Exit 1 where leaves failed or time ran out."""
    files, graph = read_skeleton(skeleton)
    if dry_run:
        return _dry(files, graph, as_json)
    if not backend.model:
        raise BadInput("build: expected --model URI, which writes the tests and the code")
    where = testing.where(files)
    known = [{"path": skeleton, "sha256": digest_of(files)}]
    options = {**_asked(backend, sampling, seed), **testing.identity()}
    with Folder(output, verb="build", options=options, inputs=known, overwrite=overwrite) as out:
        if out.finished is not None:
            return _again(out.path, out.finished, as_json, quiet)
        if not overwrite:
            _unchanged(out.path)
        generator = open_generator(backend, seed)
        try:
            asker = Asker(generator, sampling, seed, out.journal, budget_tokens)
            built, counts = build(out, files, graph, asker, where, testing, max_time, backend.concurrency, quiet)
        finally:
            generator.close()
    return _told(out.path, built.status, counts, as_json, quiet)


def build(
    out: Folder, files: Mapping[str, bytes], graph: Graph, asker: Asker, where: Where, testing: Testing,
    max_time: float | None, concurrency: int, quiet: bool,
    lost: Mapping[str, str] | None = None, told: Mapping[str, Any] | None = None,
) -> tuple[Built, Record]:  # fmt: skip
    """Stage C on a skeleton, published as a repository. lost: what earlier stages gave up, with why; told: what else
    they have to say."""
    from zerorepo.generation.runner import LocalRunner, RayRunner, Runner

    runner: Runner = (
        LocalRunner(where, testing.workers) if testing.ray is None else RayRunner(where, testing.ray, testing.workers)
    )
    try:
        builder = Builder(files, graph, asker, runner, tries=testing.tries, concurrency=concurrency, max_time=max_time, quiet=quiet)  # fmt: skip
        if PLAN_KEY not in out.journal:
            out.journal.put(PLAN_KEY, [task.id for task in builder.plan.tasks])
        built = builder.run()
    finally:
        runner.close()
    final = finished(files, graph, builder, built)
    counts = {**(told or {}), **counted(built, asker, lost or {})}
    head = ""

    def render(folder: Path) -> None:
        nonlocal head
        head = history.write(folder, commits_of(files, graph, builder, built, final))
        counts["head"] = head

    counts["commits"] = len(list(commits_of(files, graph, builder, built, final)))
    out.publish(render, counts, seed=asker.seed, status=built.status, keep_journal=built.status != "done")
    return built, counts


def read_skeleton(folder: str) -> tuple[dict[str, bytes], Graph]:
    """Files and graph of a skeleton. Raises BadInput where it is none or its graph is not sound."""
    place = Path(folder)
    if not place.is_dir():
        raise BadInput(f"{folder}: expected a folder with {RPG} and stubs, as `zerorepo design` or `rebuild` writes")
    graph = _sound(place / RPG)
    if not leaves_of(graph):
        raise BadInput(f"{place / RPG}: no leaf to build: no function in it has status stubbed")
    files = {path: data for path, data in files_of(place) if path != MANIFEST}
    units: dict[str, Mapping[str, Unit]] = {}
    for node in leaves_of(graph):
        if node.path not in files:
            raise BadInput(f"{place / node.path}: missing; {RPG} has leaves in it")
        if node.path not in units:
            try:
                units[node.path] = units_of(decoded(files[node.path])[0])
            except ValueError as error:
                raise BadInput(f"{place / node.path}: {error}") from None
        unit = units[node.path].get(node.qualname)
        if unit is None or not unit.is_leaf or not node.path.endswith(".py"):
            raise BadInput(
                f"{place / node.path}: no function {node.qualname} of a module is there; {RPG} has it as a leaf"
            )
    return files, graph


_GITS = (".git", "git~1")  # what git itself refuses to hold, by any way to write it


def files_of(place: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of a skeleton, sorted; git's own and what Python leaves behind left out. Raises BadInput for a link."""
    for folder, inside, names in os.walk(place):
        inside[:] = sorted(name for name in inside if name.lower() not in (*_GITS, "__pycache__"))
        for name in sorted(
            [
                *(name for name in names if name.lower() not in _GITS),
                *(one for one in inside if os.path.islink(os.path.join(folder, one))),
            ]
        ):
            full = Path(folder, name)
            if full.is_symlink() or not full.is_file():
                raise BadInput(f"{full}: no regular file; a skeleton is made of files and folders alone")
            yield full.relative_to(place).as_posix(), full.read_bytes()


def _sound(path: Path) -> Graph:
    data = path.read_bytes() if path.is_file() else b""
    graph = Graph.load(path)
    found = problems(data, name=str(path))
    if found:
        raise BadInput(
            f"{path}: {found[0].code}: {found[0].message}; `zerorepo validate {path}` names all that is wrong"
        )
    return graph


# ------------------------------------------------------------ run


def run_run(
    spec: str, *, backend: Backend, sampling: Sampling, testing: Testing, ontology: str | None, rounds: int, embeddings: str,
    break_cycles: bool, seed: int, output: str | None, overwrite: bool, budget_tokens: int | None, max_time: float | None,
    dry_run: bool, as_json: bool, quiet: bool, **_: Any,
) -> int:  # fmt: skip
    """The verb `run`: the three stages with one journal. Exit 1 where features or leaves were lost on the way."""
    if dry_run:
        from zerorepo.generation import sampling as drawing
        from zerorepo.generation.proposal import OFFER
        from zerorepo.generation.proposing import run_propose

        code = run_propose(
            spec, ontology=ontology, rounds=rounds, conditions=drawing.CONDITIONS, smoothing=drawing.TEMPERATURE,
            overlap=drawing.OVERLAP, tries=drawing.TRIES, offer=OFFER, embeddings=embeddings, backend=backend,
            sampling=sampling, seed=seed, budget_tokens=None, dry_run=True, output=None, overwrite=False, plot=None,
            as_json=as_json, quiet=quiet,
        )  # fmt: skip
        print(
            "zerorepo: this is stage A alone; what `design` and `build` ask hangs on its answers, their --dry-run tells",
            file=sys.stderr,
        )
        return code
    if not backend.model:
        raise BadInput("run: expected --model URI: a model, replay:FILE or oracle:DIR answers all three stages")
    testing.where({})
    end = None if max_time is None else time.monotonic() + max_time
    data = read_bytes(spec)
    wanted = spec_of(data, "<stdin>" if spec == "-" else spec)
    from tenfold_shared import sandbox
    from zerorepo.generation.stripping import import_fault

    inputs = [{"path": spec, "sha256": hashlib.sha256(data).hexdigest()}]
    inputs += [{"path": ontology, "sha256": sha256_of(ontology)}] if ontology is not None else []
    options = {**_asked(backend, sampling, seed), **testing.identity(), "rounds": rounds, "embeddings": embeddings if ontology else None}  # fmt: skip
    with Folder(output, verb="run", options=options, inputs=inputs, overwrite=overwrite) as out:
        if out.finished is not None:
            # --break-cycles is no part of what a run is: a refused one goes on with it
            if out.finished["counts"].get("dropped") and not break_cycles:
                raise BadInput(
                    f"{output}: was made with --break-cycles; repeat it, choose another output or add --overwrite"
                )
            return _again(out.path, out.finished, as_json, quiet)
        if not overwrite:
            _unchanged(out.path)
        generator = open_generator(backend, seed)
        try:
            asker = Asker(generator, sampling, seed, out.journal, budget_tokens, end)
            try:
                where = testing.where({})
                fault = partial(import_fault, run=sandbox.run, python=where.python, unsafe=testing.unsafe_no_sandbox)
                stages = _before_code(
                    wanted, fault, spec, ontology, rounds, embeddings, break_cycles, seed, asker, quiet
                )
            except OverBudget as error:
                status = "time" if asker.is_late else "budget"
                print(f"zerorepo: {error}; more of it goes on: {out.path} is not begun yet", file=sys.stderr)
                if as_json:
                    print(json.dumps({"output": str(out.path), "status": status, "answered_by": label(asker.models)}))
                return int(status == "time")
            asker.end = None  # stage C looks at the clock itself
            files, graph, lost, told_before = stages
            built, counts = build(
                out,
                files,
                graph,
                asker,
                testing.where(files),
                testing,
                None if end is None else end - time.monotonic(),
                backend.concurrency,
                quiet,
                lost,
                told_before,
            )
        finally:
            generator.close()
    return _told(out.path, built.status, counts, as_json, quiet)


def _before_code(
    wanted: Spec, fault: Fault, spec: str, ontology: str | None, rounds: int, embeddings: str, break_cycles: bool, seed: int,
    asker: Asker, quiet: bool,
) -> tuple[dict[str, bytes], Graph, dict[str, str], Record]:  # fmt: skip
    """Stages A and B: files and graph of a skeleton, what was lost on the way and why, and what to tell."""
    from zerorepo.generation import implementation
    from zerorepo.generation.ontology import Ontology, open_index
    from zerorepo.generation.proposal import Proposal
    from zerorepo.generation.proposal import Settings as Choosing

    tree = index = None
    if ontology is not None:
        tree = Ontology.load(ontology)
        index = open_index(tree, ontology, embeddings)
    proposed = Proposal(wanted, tree, asker, Choosing(rounds, seed=seed), index)
    with Progress("propose", rounds, "rounds", quiet) as progress:
        proposed.run(progress.update)
    made = implementation.design(
        proposed.graph(), asker, implementation.Settings(break_cycles), name=spec, quiet=quiet, fault=fault
    )
    if made.report.stopped:
        raise OverBudget(made.report.stopped)
    for edge in made.report.dropped:
        print(f"zerorepo: dropped to break a circle: {one_line(edge['src'])} -{edge['type']}-> {one_line(edge['dst'])}", file=sys.stderr)  # fmt: skip
    lost = dict.fromkeys(proposed.unplaced, "no place in the plan") | dict.fromkeys(
        made.report.uncovered, "no interface"
    )
    told = {"features": len(proposed.chosen), "areas": sum(node.kind == "area" for node in made.graph.nodes), "refused": dict(sorted(asker.refused.items())), "dropped": made.report.dropped}  # fmt: skip
    return {**made.files, RPG: made.graph.dumps()}, made.graph, lost, told


# ------------------------------------------------------------ status


def run_status(folder: str, *, as_json: bool, **_: Any) -> int:
    """The verb `status`: of a build under way from its journal, of a finished one from its manifest. Exit 1 where leaves failed
    or are to be built."""
    place = Path(folder)
    journal = place.with_name(f".{place.name}.journal")
    manifest = manifest_of(place)
    if (Journal.header(journal) or {}).get("verb") in ("build", "run"):
        told = _under_way(journal)
    elif manifest is not None and "failed" in manifest.get("counts", {}):
        counts = manifest["counts"]
        told = {"state": manifest.get("status", "done"), "leaves": counts["leaves"], "done": counts["done"], "failed": counts["failed"], "pending": counts["pending"], "answered_by": counts["answered_by"]}  # fmt: skip
    else:
        raise BadInput(f"{folder}: no build: neither {journal.name} beside it nor a {MANIFEST} in it tells of one")
    if as_json:
        print(json.dumps(told, ensure_ascii=False))
    else:
        print(
            f"{folder}: {told['state']}: {told['done']} of {told['leaves']} leaves done, {len(told['failed'])} failed, {len(told['pending'])} pending"
        )
        print(f"answers: {told['answered_by']}")
        for key, why in told["failed"].items():
            print(f"failed  {one_line(key)}  {one_line(why)[:160]}")
        for key in told["pending"][:SHOWN]:
            print(f"pending {one_line(key)}")
        if len(told["pending"]) > SHOWN:
            print(f"and {len(told['pending']) - SHOWN} more")
    return 1 if told["failed"] or told["pending"] or not told["leaves"] else 0


def _under_way(path: Path) -> Record:
    """Read beside a run that may be writing: a torn last line is passed over."""
    ids: list[str] = []
    results: dict[str, Record] = {}
    models: set[str] = set()
    with open(path, "rb") as stream:
        stream.readline()
        for line in stream:
            if not line.endswith(b"\n"):
                break
            key, value = msgspec.json.decode(line)
            if key == PLAN_KEY:
                ids = value
            elif key.startswith("result|"):
                results[key.partition("|")[2]] = value
                models.update(value.get("models", ()))
    done = [key for key in ids if results.get(key, {}).get("status") == "done"]
    return {
        "state": "unfinished" if ids else "not planned yet", "leaves": sum(not key.startswith("integration:") for key in ids),
        "done": sum(not key.startswith("integration:") for key in done),
        "failed": {key: results[key].get("why", "") for key in ids if results.get(key, {}).get("status") == "failed"},
        "pending": [key for key in ids if key not in results], "answered_by": label(models),
    }  # fmt: skip


# ------------------------------------------------------------ saying


def _told(path: Path, status: str, counts: Record, as_json: bool, quiet: bool) -> int:
    if as_json:
        print(json.dumps({"output": str(path), "status": status, **counts}, ensure_ascii=False))
    for key, why in counts["failed"].items():
        print(f"zerorepo: failed: {one_line(key)}: {one_line(why)[:200]}", file=sys.stderr)
    if counts["together"]:
        print(f"zerorepo: each test holds alone, but not all of them in one process: {one_line(counts['together'])[:200]}", file=sys.stderr)  # fmt: skip
    if status in ("time", "error"):
        print(
            f"zerorepo: {'--max-time is over' if status == 'time' else 'the model did not answer'}; {len(counts['pending'])} are left, the same command goes on",
            file=sys.stderr,
        )
    if not quiet:
        budget = "; the budget is spent, a larger one goes on" if status == "budget" else ""
        print(
            f"{path}: {counts['done']} of {counts['leaves']} leaves done, {counts['commits']} commits; answers: {counts['answered_by']}{budget}",
            file=sys.stderr,
        )
    return 1 if counts["failed"] or status == "time" else 0


def _again(path: Path, manifest: Record, as_json: bool, quiet: bool) -> int:
    counts = manifest["counts"]
    if as_json:
        print(json.dumps({"output": str(path), "status": manifest["status"], **counts}, ensure_ascii=False))
    if not quiet:
        print(f"zerorepo: {path}: complete already; nothing to do", file=sys.stderr)
    return 1 if counts["failed"] else 0


def _dry(files: Mapping[str, bytes], graph: Graph, as_json: bool) -> int:
    """Calls at least, and the first prompt: every leaf asks for a test and for its code."""
    from zerorepo.generation import prompts
    from zerorepo.generation.leaf import Context
    from zerorepo.generation.states import States

    found = plan(graph)
    states = States(files, found, {})
    system = prompts.overview(graph, states.texts)
    size = 0
    first = None
    for task in found.tasks:
        if task.is_leaf:
            ask = next(make_leaf(task, Context(graph, system, states.texts, features_of(graph))))
            assert isinstance(ask, Ask)
            first = first or ask
            size += sum(len(message["content"]) for message in ask.messages) // CHARACTERS_A_TOKEN
    leaves = sum(task.is_leaf for task in found.tasks)
    told = {"leaves": leaves, "areas": len(found.tasks) - leaves, "calls_at_least": leaves + len(found.tasks), "prompt_tokens_at_least": 2 * size, "shared_prefix_tokens": len(system) // CHARACTERS_A_TOKEN}  # fmt: skip
    if as_json:
        print(json.dumps(told))
        return 0
    for name, value in told.items():
        print(f"{name}: {value}")
    if first is not None:
        print("\nthe first prompt:\n")
        for message in first.messages:
            print(f"[{message['role']}]\n{message['content']}")
    return 0


def _asked(backend: Backend, sampling: Sampling, seed: int) -> Record:
    return {**identity(backend), **msgspec.to_builtins(sampling), "seed": seed}
