"""`datamix swarm`: many short runs of proxies under sampled schedules, to learn from.

    SWARM/plan.json               what is to be run: the settings, tasks and the corpus's hash
    SWARM/bases/<task>.safetensors    base models, shared by the runs of a task
    SWARM/runs/00007/             one run: state after its last whole step, then trajectory.json
    SWARM/trajectories.jsonl, swarm.json, manifest.json    written by collect (swarms.py reads them)

A task is a choice of domains with a base of its own. Each run is a pure function of the plan and its number, in a folder of its own, so
that runs go to any number of processes, machines (`--run I`) or Ray workers in any order, and go on after a kill from their last step.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from datamix import __version__, samplers, swarms
from datamix.corpus import FILE, Corpus
from datamix.history import Budget, Step, Trajectory
from datamix.processes import Job, Processes
from datamix.stream import key_of
from tenfold_shared import BadInput, cli
from tenfold_shared.jsonl import Lock, write_atomic
from tenfold_shared.progress import Progress

PLAN, STATE, TRAJECTORY = "plan.json", "state.safetensors", "trajectory.json"
Record = dict[str, Any]


class Task(msgspec.Struct, frozen=True):
    """Domains in order, sources first, and how their base is made: shares of the source domains, and a seed."""

    name: str
    sources: list[str]
    targets: list[str]
    mixture: list[float]
    seed: int


class Settings(msgspec.Struct, frozen=True):
    """What decides a swarm's bytes. tasks 0: one task, the corpus as it stands, its base trained on the sources evenly."""

    trajectories: int
    budget: Budget
    sampler: str
    proxy: Record
    tasks: int = 0
    task_sources: int = 4
    task_targets: int = 2
    task_roles: str = "any"
    base_spread: float = 3.0
    feedback_tokens: int = 2048
    device: str = "cpu"
    seed: int = 0


class Plan(msgspec.Struct):
    corpus: str
    corpus_sha256: str
    settings: Settings
    tasks: list[Task]
    schema: str = "swarm-plan/1"
    version: str = __version__


def draw_tasks(
    corpus: Corpus,
    n: int,
    sources: int,
    targets: int,
    spread: float,
    seed: int,
    roles: str = "any",
    seen: Sequence[Task] = (),
) -> list[Task]:
    """n tasks of randomly chosen domains; roles `any`: each may be either; `kept`: sources are drawn from the corpus's sources, targets from its targets. Bases see the
    sources in shares drawn from Dirichlet(spread): the smaller, the weaker a base is in some. n = 0: the corpus as it stands, evenly. No choice
    of domains comes twice, and none of `seen` comes. Raises BadInput where there are too few domains."""
    of = {role: [one.name for one in corpus.domains if one.role == role] for role in ("source", "target")}
    if n == 0:
        k = len(of["source"])
        return [Task("all", of["source"], of["target"], [1 / k] * k, key_of(seed, "base", "all") % 2**32)]
    enough = (
        sources + targets <= len(corpus.names)
        if roles == "any"
        else sources <= len(of["source"]) and targets <= len(of["target"])
    )
    if sources < 1 or targets < 1 or not enough:
        raise BadInput(
            f"--task-sources {sources} and --task-targets {targets}: {corpus.folder} has {len(of['source'])} source and {len(of['target'])} target "
            f"domains{'' if roles == 'any' else ', whose roles are kept'}; expected no more of them"
        )
    taken = {(frozenset(one.sources), frozenset(one.targets)) for one in seen}
    found = []
    for i in range(n):
        rng = np.random.default_rng([seed, 1, i])
        for _ in range(1000):
            if roles == "any":
                chosen = [corpus.names[j] for j in rng.permutation(len(corpus.names))[: sources + targets]]
            else:
                chosen = [of["source"][j] for j in rng.permutation(len(of["source"]))[:sources]]
                chosen += [of["target"][j] for j in rng.permutation(len(of["target"]))[:targets]]
            choice = (frozenset(chosen[:sources]), frozenset(chosen[sources:]))
            if choice not in taken:
                break
        else:
            raise BadInput(
                f"--tasks {n}: {corpus.folder} has no more choices of {sources} and {targets} domains that are new; expected fewer tasks"
            )
        taken.add(choice)
        shares = rng.dirichlet(np.full(sources, spread))
        found.append(
            Task(
                f"task-{i:02d}",
                chosen[:sources],
                chosen[sources:],
                [float(x) for x in shares],
                int(rng.integers(2**32)),
            )
        )
    return found


def sha256_of(path: Path) -> str:
    return cli.sha256_of(str(path))


def read_plan(folder: Path) -> Plan:
    path = folder / PLAN
    try:
        return msgspec.json.decode(path.read_bytes(), type=Plan)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; expected the folder of `datamix swarm`") from None
    except NotADirectoryError:
        raise BadInput(f"{folder}: is a file; expected the folder of `datamix swarm`") from None
    except (msgspec.DecodeError, OSError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{path}: not a swarm's plan: {error}") from None


def samplers_of(settings: Settings) -> list[str]:
    """The sampler of every run; a longer swarm begins like a shorter one."""
    return samplers.assign(samplers.parse_mix(settings.sampler), settings.trajectories, settings.seed)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait for whoever else makes this file; `path` is there only while somebody does."""
    while True:
        with open(path, "w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            if not path.exists() or path.stat().st_ino != os.fstat(stream.fileno()).st_ino:
                continue  # whoever had it has removed it since we opened it
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def base_of(folder: Path, proxy: Record, device: str, task: Task, corpus: Corpus) -> dict[str, Any]:
    """The state of a task's base in folder/bases, made where it is not there yet. corpus: the whole one."""
    from safetensors.torch import load_file, save

    from datamix.proxy import ProxyConfig, train_base

    path = folder / "bases" / f"{task.name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        with _alone(path.with_suffix(".lock")):
            if not path.exists():
                config = msgspec.convert(proxy, ProxyConfig)
                here = corpus.subset(task.sources, task.targets)
                mixture = np.array([*task.mixture, *[0.0] * len(task.targets)])
                base = train_base(config, here, mixture, task.seed, device)
                write_atomic(path, save({name: x.contiguous() for name, x in base.state().items()}))
    return load_file(path)


def run_one(folder: str, number: int, threads: int = 1) -> str:
    """Run `number` (from 0) of a plan, from where it stopped; returns its status. Everything it needs is in the folder and the corpus.
    Where another process is at this run, it is waited for."""
    with _alone(_lock_of(Path(folder), number)):
        return _run_one(folder, number, threads)


def _lock_of(root: Path, number: int) -> Path:
    (root / "runs").mkdir(parents=True, exist_ok=True)
    return root / "runs" / f".{number:05d}.lock"


def _run_one(folder: str, number: int, threads: int) -> str:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save

    from datamix.proxy import Proxy, ProxyConfig
    from datamix.steer import Diverged, Run

    torch.set_num_threads(threads)
    root = Path(folder)
    plan = read_plan(root)
    settings = plan.settings
    here = root / "runs" / f"{number:05d}"
    if (here / TRAJECTORY).exists():
        return _run_of(root, number).status
    whole = Corpus.load(plan.corpus)
    task = plan.tasks[number % len(plan.tasks)]
    corpus = whole.subset(task.sources, task.targets)
    base = base_of(root, settings.proxy, settings.device, task, whole)
    here.mkdir(parents=True, exist_ok=True)
    seed = samplers.trajectory_seed(settings.seed, number) % 2**31
    config = msgspec.convert(settings.proxy, ProxyConfig)
    proxy = Proxy(config, corpus.listing.vocabulary, 0, settings.device)
    proxy.restore(base)
    proxy.begin()
    run = Run(
        corpus,
        proxy,
        settings.budget,
        seed,
        feedback_tokens=settings.feedback_tokens,
        score_tokens=settings.feedback_tokens,
    )
    sampler = samplers_of(settings)[number]
    policy = samplers.make(
        sampler, corpus.names, corpus.source, corpus.sizes / corpus.sizes.sum(), seed, settings.budget
    )
    steps: list[Step] = []
    status, error = "done", None
    try:
        state = here / STATE
        try:
            saved = load_file(state) if state.exists() else None
        except SafetensorError:
            saved = None  # torn by a crash of the machine: begin this run again
        if saved is None:
            run.begin()
        else:
            steps = msgspec.json.decode(bytes(saved.pop("steps").numpy()), type=list[Step])
            run.restore(saved)
            for t in range(len(steps)):
                policy.decide(run.history.upto(t))  # a policy is asked once a step, in order: bring it to where it was
        for _, step in run.steps(policy):
            steps.append(step)
            told = torch.frombuffer(bytearray(msgspec.json.encode(steps)), dtype=torch.uint8)
            _replace(state, save({**run.state(), "steps": told}))
    except Diverged as problem:
        status, error = "failed", str(problem)
    base_losses = run.history.base if hasattr(run, "history") else np.full(len(corpus.names), 0.0)
    found = Trajectory(
        id=f"{number:05d}", task=task.name, sampler=sampler, seed=seed,
        roles={one.name: one.role for one in corpus.domains}, available={one.name: one.train.tokens for one in corpus.domains},
        base=dict(zip(corpus.names, (float(x) for x in base_losses), strict=True)), budget=settings.budget, steps=steps, status=status, error=error,
    )  # fmt: skip
    write_atomic(here / TRAJECTORY, msgspec.json.encode(found))
    (here / STATE).unlink(missing_ok=True)
    return status


def _run_of(root: Path, number: int) -> Trajectory:
    """A finished run. Raises BadInput where its file is not what was written."""
    path = root / "runs" / f"{number:05d}" / TRAJECTORY
    try:
        return msgspec.json.decode(path.read_bytes(), type=Trajectory)
    except (msgspec.DecodeError, OSError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(
            f"{path}: not a run: {error}; remove its folder and run it again with --run {number + 1}"
        ) from None


def _replace(path: Path, data: bytes) -> None:
    """Whole or not at all against a kill; not flushed to the disk, as a run that a crash of the machine costs is short."""
    beside = path.with_suffix(".tmp")
    beside.write_bytes(data)
    os.replace(beside, path)


def begin(corpus: Corpus, settings: Settings, folder: Path, overwrite: bool) -> Plan:
    """Write the plan, or see that what is there is the same one. Raises BadInput for another plan or another's folder."""
    samplers.parse_mix(settings.sampler)
    tasks = draw_tasks(
        corpus,
        settings.tasks,
        settings.task_sources,
        settings.task_targets,
        settings.base_spread,
        settings.seed,
        settings.task_roles,
    )
    plan = Plan(str(corpus.folder.absolute()), sha256_of(corpus.folder / FILE), settings, tasks)
    _check_sizes(corpus, plan)
    if folder.is_file():
        raise BadInput(f"{folder}: is a file; expected a folder to write")
    moved = False
    if folder.exists() and any(folder.iterdir()):
        before = read_plan(folder) if (folder / PLAN).exists() else None
        if before is None:
            raise BadInput(f"{folder}: holds things that `datamix swarm` did not make; choose another output")
        if found := _difference(before, plan):
            if not overwrite:
                raise BadInput(f"{folder}: was begun with {found}; choose another output or add --overwrite")
            clear(folder)
        elif overwrite and (folder / swarms.MANIFEST).exists():
            clear(folder)
        moved = before.corpus != plan.corpus  # the same texts: other machines may see them under another path
    folder.mkdir(parents=True, exist_ok=True)
    if moved or not (folder / PLAN).exists():
        write_atomic(folder / PLAN, msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n")
    return plan


def clear(folder: Path) -> None:
    """Remove what a swarm made, and nothing else. Raises Busy where a single run is at work in it."""
    for path in (folder / "runs").glob(".*.lock"):
        Lock(path, folder).release()
    for name in ("bases", "runs"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (swarms.TRAJECTORIES, swarms.ABOUT, swarms.MANIFEST, PLAN):
        (folder / name).unlink(missing_ok=True)


def _check_sizes(corpus: Corpus, plan: Plan) -> None:
    """See before hours of work that every task's rows, feedback and budget can be had."""
    from datamix.proxy import Held, Proxy, ProxyConfig
    from datamix.steer import check_budget
    from datamix.stream import Rows

    config = msgspec.convert(plan.settings.proxy, ProxyConfig)
    proxy = Proxy(config, corpus.listing.vocabulary, 0)
    for task in plan.tasks:
        here = corpus.subset(task.sources, task.targets)
        check_budget(here, proxy, plan.settings.budget)
        Rows(here, config.context, 0)
        Held(here, config.context, plan.settings.feedback_tokens, "feedback")


def _difference(before: Plan, now: Plan) -> str | None:
    if before.corpus_sha256 != now.corpus_sha256:
        return f"another corpus ({before.corpus})"
    one, other = msgspec.to_builtins(before.settings), msgspec.to_builtins(now.settings)
    for told in (one, other):
        for part in ("budget", "proxy"):
            told |= {f"{part}.{name}": value for name, value in told.pop(part).items()}
    for name in one | other:
        if one.get(name) != other.get(name):
            return f"{name} {one.get(name)}, this one is {other.get(name)}"
    return None


def run(
    folder: str, corpus_folder: str, settings: Settings, *, workers: int, only: int | None, ray: str | None, overwrite: bool, as_json: bool, quiet: bool,
    plot: str | None = None,
) -> int:  # fmt: skip
    """The verb. Returns 1 where runs failed. With only (from 1): that run and nothing else. plot: a picture of the runs that are done."""
    corpus = Corpus.load(corpus_folder)
    root = Path(folder)
    if not root.absolute().parent.is_dir():
        raise BadInput(f"{root}: the folder {root.absolute().parent} does not exist; create it first")
    if only is not None:
        if not 1 <= only <= settings.trajectories:
            raise BadInput(f"--run {only}: expected a run from 1 to {settings.trajectories}")
        if overwrite:
            raise BadInput(
                "--run: goes without --overwrite, which would remove the other runs; remove the folder first"
            )
    corpus.verify()
    if only is not None:
        with _alone(root.absolute().parent / f".{root.name}.plan.lock"):
            begin(corpus, settings, root, overwrite=False)
        lock = Lock(_lock_of(root, only - 1), root)
        try:
            status = _run_one(folder, only - 1, 1)
        finally:
            lock.release()
        if as_json:
            print(json.dumps({"run": only, "status": status}))
        elif status != "done":
            print(f"datamix: {root}: run {only} failed: {_run_of(root, only - 1).error}", file=sys.stderr)
        return 0 if status == "done" else 1
    lock = Lock(root.absolute().parent / f".{root.name}.lock", root)
    try:
        started, clock = datetime.now(UTC), time.monotonic()
        begin(corpus, settings, root, overwrite)
        if (root / swarms.MANIFEST).exists():
            code = _tell(root, as_json)
        else:
            with Progress("swarm", settings.trajectories, "run", quiet) as bar:
                _run_all(folder, settings.trajectories, workers, ray, bar.update)
            code = _collect(root, as_json, started, time.monotonic() - clock)
        if plot is not None and any(one.status == "done" for one in swarms.read(root)):
            from datamix import plot as pictures

            pictures.swarm(root, plot)
        return code
    finally:
        lock.release()


def _run_all(folder: str, n: int, workers: int, ray: str | None, tick: Callable[[], None]) -> None:
    """Bases are begun first, as runs of one task wait for theirs; then every run."""
    tasks = len(read_plan(Path(folder)).tasks)
    if ray is not None:
        _run_on_ray(folder, n, tasks, ray, tick)
        return
    jobs: list[Job] = [(f"base {i}", make_base, (folder, i)) for i in range(min(tasks, n))]
    jobs += [(f"run {i}", run_one, (folder, i)) for i in range(n)]
    with Processes(workers) as them:
        them.each(jobs, lambda key, found: tick() if key.startswith("run") else None)


def make_base(folder: str, task: int) -> None:
    import torch

    torch.set_num_threads(1)
    plan = read_plan(Path(folder))
    base_of(Path(folder), plan.settings.proxy, plan.settings.device, plan.tasks[task], Corpus.load(plan.corpus))


def _run_on_ray(folder: str, n: int, tasks: int, address: str, tick: Callable[[], None]) -> None:
    """Each run a Ray task of one CPU; the folder and the corpus must be on storage that every node sees. address `local`: here."""
    from tenfold_shared import Missing

    try:
        import ray
    except ImportError:
        raise Missing("ray: not installed: pip install 'datamix[ray]'") from None
    root = str(Path(folder).absolute())
    begun = not ray.is_initialized()
    if begun:
        ray.init(address=None if address == "local" else address, include_dashboard=False, log_to_driver=False)
    try:
        remote_base, remote_run = ray.remote(num_cpus=1)(make_base), ray.remote(num_cpus=1)(run_one)
        ray.get([remote_base.remote(root, i) for i in range(min(tasks, n))])
        waiting = [remote_run.remote(root, number) for number in range(n)]
        while waiting:
            done, waiting = ray.wait(waiting)
            ray.get(done)
            tick()
    finally:
        if begun:
            ray.shutdown()


def collect(folder: str, *, as_json: bool) -> int:
    """Write trajectories.jsonl of a swarm whose runs are all there. Raises BadInput naming those that are not, and Busy where `swarm run` is
    at it."""
    root = Path(folder)
    read_plan(root)
    lock = Lock(root.absolute().parent / f".{root.name}.lock", root)
    try:
        return _collect(root, as_json, datetime.now(UTC), 0.0)
    finally:
        lock.release()


def _collect(root: Path, as_json: bool, started: datetime, seconds: float) -> int:
    plan = read_plan(root)
    n = plan.settings.trajectories
    missing = [i + 1 for i in range(n) if not (root / "runs" / f"{i:05d}" / TRAJECTORY).exists()]
    if missing:
        some = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        raise BadInput(f"{root}: {len(missing)} of {n} runs are not finished: {some}; run them with --run I")
    lines = [(root / "runs" / f"{i:05d}" / TRAJECTORY).read_bytes() for i in range(n)]
    write_atomic(root / swarms.TRAJECTORIES, b"".join(line + b"\n" for line in lines))
    runs = [_run_of(root, i) for i in range(n)]
    names = sorted({name for one in runs for name in one.roles})
    about = {
        "schema": "swarm/1",
        "kind": "runs",
        "domains": names,
        "metrics": names,
        "tasks": [task.name for task in plan.tasks],
    }
    write_atomic(root / swarms.ABOUT, json.dumps(about, indent=1).encode() + b"\n")
    failed = [one for one in runs if one.status != "done"]
    tokens = sum(one.steps[-1].tokens_seen for one in runs if one.steps)
    counts = {"runs": n, "failed": len(failed), "tasks": len(plan.tasks), "tokens": tokens}
    manifest = {
        "schema": "manifest/1", "tool": "datamix", "verb": "swarm", "version": __version__, "argv": sys.argv,
        "options": msgspec.to_builtins(plan.settings), "inputs": [{"path": plan.corpus, "sha256": plan.corpus_sha256}], "seed": plan.settings.seed,
        "counts": counts, "status": "done", "started": started.isoformat(timespec="seconds"), "seconds": round(seconds, 3),
    }  # fmt: skip
    write_atomic(root / swarms.MANIFEST, json.dumps(manifest, indent=2).encode() + b"\n")
    for one in failed:
        print(f"datamix: {root}: run {int(one.id) + 1} failed and is left out: {one.error}", file=sys.stderr)
    return _tell(root, as_json)


def _tell(root: Path, as_json: bool) -> int:
    """What a finished swarm holds: returns by task and sampler."""
    from datamix import history as h

    manifest = json.loads((root / swarms.MANIFEST).read_bytes())
    runs = [one for one in swarms.read(root) if one.status == "done"]
    by: dict[str, list[float]] = {}
    for one in runs:
        by.setdefault(one.sampler, []).append(100 * float(h.rewards(one.history()).sum()))
    summary = {**manifest["counts"], "returns": {name: {"n": len(x), "mean": float(np.mean(x)), "best": max(x), "worst": min(x)} for name, x in sorted(by.items())}}  # fmt: skip
    if as_json:
        print(json.dumps(summary))
    else:
        from rich.table import Table

        from tenfold_shared.cli import print_table

        table = Table(
            title=f"{summary['runs']} runs of {summary['tasks']} tasks, {summary['failed']} failed, {summary['tokens']:,} tokens"
        )
        for column in ("sampler", "runs", "mean return", "best", "worst"):
            table.add_column(column, justify="left" if column == "sampler" else "right")
        for name, x in summary["returns"].items():
            table.add_row(name, str(x["n"]), f"{x['mean']:.2f}", f"{x['best']:.2f}", f"{x['worst']:.2f}")
        print_table(table)
    return 1 if manifest["counts"]["failed"] else 0
