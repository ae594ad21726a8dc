"""`datamix explain`: what an agent does, whether that agrees with what domains are good for, and what it believes.

Four looks at an agent. Weights over time: of its own runs on some tasks, by role and domain. Ablation: each run is made again with one domain
left out, its share going to the others of its role; the domain's gain is the score with it less the score without, on text that no feedback
has seen. Whether the agent gives much to what is of use is judged by the rank correlation of gains with its mean weights within roles, both
less the mean of their task and role: how much a role gets is the source budget's and the action form's doing, and how much a role is of use
the score's, so that over all pairs even a fixed mixture seems to agree (that figure is given beside it). Q over the simplex: what its
critics say of other mixtures at the first, middle and last decision. The world of a model-based agent: what it expects of one step that leans
to one domain.

    DIR/journal, plan.json, bases    unfinished work, in -o DIR (in a temporary folder without it)
    DIR/explain.json                 the result, as printed by --json

Where it sits: beside compare.py, whose way of doing pieces of work it uses, and above beliefs.py, which has the last two looks.
"""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from datamix import __version__, needs
from datamix.corpus import FILE, Corpus
from datamix.history import Budget, Floats, History
from datamix.mixture import entropy
from datamix.processes import Job, finish
from datamix.stream import key_of
from datamix.swarm import Plan as SwarmPlan
from datamix.swarm import Task, base_of, draw_tasks, read_plan
from tenfold_shared import BadInput
from tenfold_shared.cli import sha256_of
from tenfold_shared.jsonl import Journal, Lock, difference, write_atomic
from tenfold_shared.progress import Progress

Record = dict[str, Any]


class Settings(msgspec.Struct, frozen=True):
    """What decides the result, beside agent, corpus and swarm. budget, proxy None: the swarm's, else 16 steps of 8192 tokens and preset 22k.
    tasks: how many of the swarm's tasks, else of random choices of domains (0: the corpus as it stands, or all of the swarm's). ablation:
    `schedule` leaves a domain out of the agent's mixtures step by step, `mean` out of their mean, `none` runs no ablation."""

    budget: Budget | None = None
    proxy: Record | None = None
    tasks: int = 3
    task_sources: int = 4
    task_targets: int = 2
    base_spread: float = 3.0
    seeds: int = 3
    ablation: Literal["schedule", "mean", "none"] = "schedule"
    feedback_tokens: int = 2048
    score_tokens: int = 12288
    seed: int = 0


class Plan(msgspec.Struct):
    """What every process reads. bases: the swarm whose bases are used, None for own ones."""

    agent: str
    agent_sha256: str
    corpus: str
    corpus_sha256: str
    budget: Budget
    proxy: Record
    tasks: list[Task]
    bases: str | None
    settings: Settings
    schema: str = "explain-plan/1"


# ---------------------------------------------------------------- runs


def left_out(schedule: Floats, source: Any, d: int) -> Floats:
    """Mixtures [T, D] without domain d: its share goes to the others of its role in proportion (evenly where they have nothing), to all others
    where it is alone in its role."""
    found = schedule.copy()
    others = source == source[d]
    others[d] = False
    if not others.any():
        others = np.arange(len(source)) != d
    found[:, d] = 0
    held = found[:, others].sum(1, keepdims=True)
    split = np.where(held > 0, found[:, others] / np.maximum(held, 1e-300), 1 / others.sum())
    found[:, others] += schedule[:, [d]] * split
    return found


def can_leave_out(source: Any, d: int, budget: Budget) -> bool:
    """The one target of a run whose source text is limited cannot be left out: nothing else may be used in its place."""
    return bool(source[d] or (~source).sum() > 1 or budget.source_share >= 1)


def run_one(folder: str, task: int, seed: int, without: int | None, schedule: list[list[float]] | None) -> Record:
    """A run of a task: the agent's own (schedule None), or of a schedule, with domain `without` left out of it. The same seed is the same text in the
    same order."""
    import torch

    from datamix.agent import Agent
    from datamix.baselines.static import SchedulePolicy
    from datamix.history import Policy
    from datamix.proxy import Proxy, ProxyConfig
    from datamix.steer import Diverged, Run

    torch.set_num_threads(1)
    plan = msgspec.json.decode((Path(folder) / "plan.json").read_bytes(), type=Plan)
    whole, how = Corpus.load(plan.corpus), plan.settings
    one = plan.tasks[task]
    corpus = whole.subset(one.sources, one.targets)
    proxy = Proxy(msgspec.convert(plan.proxy, ProxyConfig), corpus.listing.vocabulary, 0)
    proxy.restore(_base(Path(folder), plan, one, whole))
    proxy.begin()
    policy: Policy
    if schedule is None:
        policy = Agent.load(plan.agent)
    else:
        rows = np.array(schedule)
        policy = SchedulePolicy("schedule", rows if without is None else left_out(rows, corpus.source, without))
    run = Run(corpus, proxy, plan.budget, key_of(how.seed, "explain", seed) % 2**31, feedback_tokens=how.feedback_tokens, score_tokens=how.score_tokens)  # fmt: skip
    decided: list[list[float]] = []
    try:
        run.begin()
        for decision, _ in run.steps(policy):
            decided.append([float(x) for x in decision.weights])
    except Diverged as problem:
        return {"status": "failed", "error": str(problem)}
    history = run.history
    return {"status": "done", **run.result(), "decided": decided, "used": history.weights.tolist(), "losses": history.losses.tolist(), "base": history.base.tolist()}  # fmt: skip


def make_base(folder: str, task: int) -> None:
    import torch

    torch.set_num_threads(1)
    plan = msgspec.json.decode((Path(folder) / "plan.json").read_bytes(), type=Plan)
    _base(Path(folder), plan, plan.tasks[task], Corpus.load(plan.corpus))


def _base(root: Path, plan: Plan, task: Task, whole: Corpus) -> Any:
    there = plan.bases is not None and (Path(plan.bases) / "bases" / f"{task.name}.safetensors").exists()
    return base_of(Path(str(plan.bases)) if there else root, plan.proxy, "cpu", task, whole)


# ---------------------------------------------------------------- the verb


def run(
    agent: str, *, corpus: str | None, swarm: str | None, settings: Settings, output: str | None, overwrite: bool, workers: int, as_json: bool, plot: str | None, quiet: bool,
) -> int:  # fmt: skip
    """Returns 1 where runs failed. Without corpus and swarm, the swarm that the agent's manifest names. Raises BadInput for what does not go together."""
    needs.plots(plot, [agent, corpus, swarm, output])
    plan = plan_of(agent, corpus, swarm, settings)
    with ExitStack() as held:
        if output is None:
            root = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="datamix-explain-")))
        else:
            root = Path(output)
            if not root.absolute().parent.is_dir():
                raise BadInput(f"{root}: the folder {root.absolute().parent} does not exist; create it first")
            if root.exists() and not root.is_dir():
                raise BadInput(f"{root}: is a file; expected a folder to write")
            held.callback(Lock(root.absolute().parent / f".{root.name}.lock", root).release)
            root.mkdir(exist_ok=True)
        identity: Record = {"tool": "datamix", "verb": "explain", "options": msgspec.to_builtins(plan), "inputs": []}
        journal = _journal(root, identity, overwrite)
        held.callback(journal.close, remove=False)
        write_atomic(root / "plan.json", msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n")
        summary = _work(root, plan, journal, workers, quiet)
        if output is not None:
            write_atomic(root / "explain.json", json.dumps(summary, indent=1).encode() + b"\n")
            manifest = {"schema": "manifest/1", **identity, "version": __version__, "argv": sys.argv, "seed": settings.seed, "counts": summary["counts"], "status": "done"}  # fmt: skip
            write_atomic(root / "manifest.json", json.dumps(manifest, indent=1).encode() + b"\n")
    if plot is not None:
        from datamix import plot as pictures

        pictures.explanation(summary, plot)
    if as_json:
        print(json.dumps(summary))
    else:
        show(summary)
    return 1 if summary["counts"]["failed"] else 0


def plan_of(agent: str, corpus: str | None, swarm: str | None, settings: Settings) -> Plan:
    """Which tasks, bases, budget and proxy. Raises BadInput."""
    from datamix.agent import Agent
    from datamix.proxy import PRESETS, Proxy, ProxyConfig
    from datamix.steer import check_budget

    loaded = Agent.load(agent)
    if corpus is None and swarm is None:
        swarm = _swarm_of(agent)
        if swarm is None:
            raise BadInput(
                f"{agent}: the swarm it learned from is not where it was; expected --swarm SWARM or --corpus DIR"
            )
    before = None if swarm is None else read_plan(Path(swarm))
    budget, proxy, tasks, bases = settings.budget, settings.proxy, None, None
    if before is not None:
        corpus = corpus or before.corpus
        budget, proxy = budget or before.settings.budget, proxy or before.settings.proxy
        if sha256_of_corpus(corpus) == before.corpus_sha256:
            tasks = before.tasks[: settings.tasks or None]
            bases = str(Path(str(swarm)).absolute()) if proxy == before.settings.proxy else None
    budget, proxy = budget or Budget(8192, 16), proxy or msgspec.to_builtins(PRESETS["22k"])
    whole = Corpus.load(str(corpus))
    if tasks is None:
        if settings.tasks and settings.task_sources + settings.task_targets > len(whole.names):
            raise BadInput(_too_few(settings, whole, swarm, before))
        tasks = draw_tasks(whole, settings.tasks, settings.task_sources, settings.task_targets, settings.base_spread, key_of(settings.seed, "tasks") % 2**31)  # fmt: skip
    learner = Proxy(msgspec.convert(proxy, ProxyConfig), whole.listing.vocabulary, 0)
    for task in tasks:
        here = whole.subset(task.sources, task.targets)
        loaded.check(here.names, here.source)
        check_budget(here, learner, budget)
    whole.verify()
    return Plan(str(Path(agent).absolute()), loaded.card.sha256, str(whole.folder.absolute()), sha256_of_corpus(str(corpus)), budget, proxy, tasks, bases, settings)  # fmt: skip


def _too_few(how: Settings, whole: Corpus, swarm: str | None, before: SwarmPlan | None) -> str:
    """What is said where a corpus has too few domains for random choices of them."""
    said = (
        f"--tasks {how.tasks}: a random choice is of {how.task_sources} source and {how.task_targets} target domains, and {whole.folder} has "
        f"{len(whole.names)} domains; give --tasks 0 for the corpus as it stands"
    )
    if before is None:
        return said
    other = [name for task in before.tasks for name in (*task.sources, *task.targets) if name not in whole.names]
    why = f"its domains differ: {other[0]} is not in {whole.folder}" if other else "it was made of another corpus"
    return f"{said} (the tasks of {swarm} were put aside, as {why})"


def sha256_of_corpus(corpus: str) -> str:
    path = Path(corpus) / FILE
    return sha256_of(str(path)) if path.is_file() else ""  # Corpus.load says what is wrong with it


def _swarm_of(agent: str) -> str | None:
    """The swarm that an agent's manifest names, where it still is."""
    try:
        told = json.loads((Path(agent) / "manifest.json").read_bytes())
        folder = Path(told["inputs"][0]["path"]).parent
    except (OSError, ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None
    return str(folder) if (folder / "plan.json").is_file() else None


def _journal(root: Path, identity: Record, overwrite: bool) -> Journal:
    path = root / "journal"
    before = Journal.header(path)
    found = None if before is None else difference(before, identity)
    if before is None and any(root.iterdir()):
        raise BadInput(f"{root}: holds things that `datamix explain` did not make; choose another output")
    if found and not overwrite:
        raise BadInput(f"{root}: was begun with {found}; choose another output or add --overwrite")
    if found or overwrite:
        import shutil

        shutil.rmtree(root / "bases", ignore_errors=True)
        for name in ("journal", "plan.json", "explain.json", "manifest.json"):
            (root / name).unlink(missing_ok=True)
    return Journal(path, identity)


def _work(root: Path, plan: Plan, journal: Journal, workers: int, quiet: bool) -> Record:
    folder, how = str(root.absolute()), plan.settings
    pairs = [(i, seed) for i in range(len(plan.tasks)) for seed in range(how.seeds)]
    sources = [np.arange(len(one.sources) + len(one.targets)) < len(one.sources) for one in plan.tasks]
    drops = [
        (i, seed, d) for i, seed in pairs for d in range(len(sources[i])) if can_leave_out(sources[i], d, plan.budget)
    ]
    drops = [] if how.ablation == "none" else drops
    means = pairs if how.ablation == "mean" else []
    with Progress("explain", len(pairs) + len(means) + len(drops), "run", quiet) as bar:
        finish(folder, [(f"base {i}", make_base, (i,)) for i in range(len(plan.tasks))], None, workers, lambda: None)
        finish(
            folder,
            [(f"agent {i} {seed}", run_one, (i, seed, None, None)) for i, seed in pairs],
            journal,
            workers,
            bar.update,
        )
        jobs: list[Job] = []
        schedules: dict[tuple[int, int], list[list[float]]] = {}
        for i, seed in pairs:
            own = journal.get(f"agent {i} {seed}")
            if own["status"] == "done":
                rows = np.array(own["decided"])
                schedules[i, seed] = (
                    np.tile(rows.mean(0), (len(rows), 1)) if how.ablation == "mean" else rows
                ).tolist()
        jobs = [
            (f"mean {i} {seed}", run_one, (i, seed, None, schedules[i, seed]))
            for i, seed in means
            if (i, seed) in schedules
        ]
        jobs += [
            (f"without {i} {seed} {d}", run_one, (i, seed, d, schedules[i, seed]))
            for i, seed, d in drops
            if (i, seed) in schedules
        ]
        finish(folder, jobs, journal, workers, bar.update)
    own = {pair: journal.get(f"agent {pair[0]} {pair[1]}") for pair in pairs}
    whole = {
        pair: journal.get(f"mean {pair[0]} {pair[1]}") if pair in means and pair in schedules else own[pair]
        for pair in pairs
    }
    without = {(i, seed, d): journal.get(f"without {i} {seed} {d}") for i, seed, d in drops if (i, seed) in schedules}
    return summary_of(plan, own, whole, without)


# ---------------------------------------------------------------- figures


def summary_of(plan: Plan, own: dict[Any, Record], whole: dict[Any, Record], without: dict[Any, Record]) -> Record:
    """own, whole: runs by (task, seed), of the agent and of what domains are left out of; without: by (task, seed, domain)."""
    from datamix import beliefs
    from datamix.agent import Agent

    agent = Agent.load(plan.agent)
    records = [*own.values(), *without.values(), *(one for pair, one in whole.items() if one is not own[pair])]
    done = {pair: one for pair, one in own.items() if one["status"] == "done"}
    found: Record = {
        "agent": plan.agent, "arch": agent.card.arch, "algo": agent.card.algo, "tasks": [task.name for task in plan.tasks],
        "roles": {task.name: roles_of(task) for task in plan.tasks},
        "score": None if not done else float(np.mean([one["score"] for one in done.values()])),
    }  # fmt: skip
    found["ablation"] = None if plan.settings.ablation == "none" else ablation_of(plan, own, whole, without)
    found["weights"] = weights_of(plan, done)
    found["q"], found["world"] = {"available": False, "why": "every run of the agent failed"}, None
    if done:
        task, seed = min(done)
        history = history_of(plan, task, done[task, seed])
        at = sorted({0, len(history) // 2, len(history) - 1})
        found["q"] = beliefs.q_of(agent, [history.upto(t) for t in at]) | {"task": plan.tasks[task].name}
        found["world"] = beliefs.world_of(plan.agent, agent, [history.upto(t) for t in at])
    failed = sum(one["status"] != "done" for one in records)
    found["counts"] = {"runs": len(records), "failed": failed, "tasks": len(plan.tasks), "seeds": plan.settings.seeds}
    return found


def roles_of(task: Task) -> dict[str, str]:
    return dict.fromkeys(task.sources, "source") | dict.fromkeys(task.targets, "target")


def history_of(plan: Plan, task: int, told: Record) -> History:
    one = plan.tasks[task]
    corpus = Corpus.load(plan.corpus).subset(one.sources, one.targets)
    found = History(corpus.names, corpus.source, corpus.sizes, np.array(told["base"]), plan.budget)
    for weights, losses in zip(told["used"], told["losses"], strict=True):
        found.add(np.array(weights), np.array(losses))
    return found


def ablation_of(plan: Plan, own: dict[Any, Record], whole: dict[Any, Record], without: dict[Any, Record]) -> Record:
    """Pairs (task, domain): the agent's mean weight, and the score with the domain less the one without, mean over seeds with its interval. Their
    rank correlation, over all pairs and within roles (both less the mean of their task and role). Gains of one task share the run with all
    domains, so that the bootstrap draws whole tasks; p permutes gains within task and role, which is what few tasks allow to say."""
    from datamix import correlation
    from datamix.figures import interval

    pairs: list[Record] = []
    for i, task in enumerate(plan.tasks):
        for d, (name, role) in enumerate(roles_of(task).items()):
            seeds = [seed for seed in range(plan.settings.seeds) if own[i, seed]["status"] == "done"]
            weights = [np.array(own[i, seed]["decided"])[:, d].mean() for seed in seeds]
            gains = [
                whole[i, seed]["score"] - without[i, seed, d]["score"]
                for seed in seeds
                if _both(whole, without, (i, seed, d))
            ]
            gain: Record = interval(gains) if gains else {"mean": None, "low": None, "high": None}
            weight = None if not weights else round(float(np.mean(weights)), 6)
            pairs.append({"task": task.name, "domain": name, "role": role, "weight": weight, "gain": gain["mean"], "low": gain["low"], "high": gain["high"]})  # fmt: skip
    known = [one for one in pairs if one["gain"] is not None]
    x, y = (np.array([one[key] for one in known], dtype=np.float64) for key in ("weight", "gain"))
    groups = [
        [k for k, one in enumerate(known) if (one["task"], one["role"]) == group]
        for group in sorted({(one["task"], one["role"]) for one in known})
    ]
    groups = [group for group in groups if len(group) > 1]
    inside = np.array([k for group in groups for k in group], dtype=np.int64)
    less_x, less_y = (
        np.concatenate([z[group] - z[group].mean() for group in groups] or [np.zeros(0)]).round(6) for z in (x, y)
    )
    tasks = np.array([one["task"] for one in known])
    all_pairs, within = correlation.interval(x, y, tasks), correlation.interval(less_x, less_y, tasks[inside])
    within["tasks"] = len(set(tasks[inside]))
    places = np.split(np.arange(len(inside)), np.cumsum([len(group) for group in groups])[:-1])
    within["p"] = correlation.chance(less_x, less_y, [place.tolist() for place in places])
    by_name: dict[str, list[Record]] = {}
    for one in known:
        both = len({other["role"] for other in known if other["domain"] == one["domain"]}) > 1
        by_name.setdefault(f"{one['domain']} ({one['role']})" if both else one["domain"], []).append(one)
    domains = {name: {key: float(np.mean([one[key] for one in some])) for key in ("weight", "gain")} | {"tasks": len(some)} for name, some in by_name.items()}  # fmt: skip
    return {
        "of": plan.settings.ablation, "spearman": all_pairs["value"], "low": all_pairs["low"], "high": all_pairs["high"], "n": len(known),
        "within_role": {"spearman": within.pop("value"), **within}, "domains": domains, "pairs": pairs, "verdict": verdict(within),
    }  # fmt: skip


def _both(whole: dict[Any, Record], without: dict[Any, Record], key: tuple[int, int, int]) -> bool:
    return key in without and whole[key[:2]]["status"] == "done" and without[key]["status"] == "done"


def verdict(within: Record) -> str:
    """Of the correlation within roles. Agreement is said where the interval over tasks leaves out 0 and so does chance: with two or three
    tasks the bootstrap alone is too sure."""
    if within["p"] is None:
        return "within roles weights or gains do not differ, or too few domains could be left out: nothing can be said of agreement"
    if within["tasks"] < 2:
        return "one task alone: nothing can be said of agreement in others; give --tasks 2 or more"
    if within["low"] > 0 and within["p"] < 0.05:
        return "within roles, the agent gives more to domains that are of more use"
    if within["high"] < 0 and within["p"] < 0.05:
        return "within roles, the agent gives less to domains that are of more use"
    return "within roles, the agent's weights have not been shown to go with what domains are of use for"


def weights_of(plan: Plan, done: dict[Any, Record]) -> list[Record]:
    """By step: the source's and target's share and the entropy of decided mixtures, means over runs; each task's domains, means over seeds."""
    found: list[Record] = []
    rows = {
        i: np.array([one["decided"] for (task, _), one in done.items() if task == i])
        for i in sorted({i for i, _ in done})
    }
    for t in range(plan.budget.steps if done else 0):
        source = [float(row[: len(plan.tasks[i].sources)].sum()) for i, runs in rows.items() for row in runs[:, t]]
        entropies = [entropy(row) for runs in rows.values() for row in runs[:, t]]
        told: Record = {
            "step": t,
            "source": float(np.mean(source)),
            "target": 1 - float(np.mean(source)),
            "entropy": float(np.mean(entropies)),
        }
        tasks = {
            plan.tasks[i].name: dict(zip(roles_of(plan.tasks[i]), runs[:, t].mean(0).tolist(), strict=True))
            for i, runs in rows.items()
        }
        found.append(told | {"domains": tasks})
    return found


# ---------------------------------------------------------------- for people


def show(summary: Record) -> None:
    from rich.table import Table

    from tenfold_shared.cli import print_table

    counts = summary["counts"]
    table = Table(
        title=f"{summary['algo']} agent, {counts['tasks']} tasks, {counts['seeds']} seeds; points (100 × relative gain of held-out loss)"
    )
    for column in ("task", "domain", "role", "mean weight", "gain of having it", "95 %"):
        table.add_column(column, justify="left" if column in ("task", "domain", "role") else "right")
    for one in (summary["ablation"] or {"pairs": []})["pairs"]:
        span = "" if one["low"] is None else f"[{one['low']:+.2f}, {one['high']:+.2f}]"
        gain = "" if one["gain"] is None else f"{one['gain']:+.2f}"
        table.add_row(
            one["task"], one["domain"], one["role"], "" if one["weight"] is None else f"{one['weight']:.3f}", gain, span
        )
    if summary["ablation"] is not None:
        print_table(table)
        print(
            f"rank correlation of weight and gain within roles: {_span(summary['ablation']['within_role'])}; "
            f"over all pairs, which the source budget alone makes agree: {_span(summary['ablation'])}"
        )
        print(summary["ablation"]["verdict"])
    steps = Table(title="weights over time")
    for column in ("step", "source", "target", "entropy"):
        steps.add_column(column, justify="right")
    for one in summary["weights"]:
        steps.add_row(str(one["step"]), f"{one['source']:.3f}", f"{one['target']:.3f}", f"{one['entropy']:.3f}")
    print_table(steps)
    if not summary["q"]["available"]:
        print(f"Q: {summary['q']['why']}")
        return
    for one in summary["q"]["states"]:
        line = one["source_share"]
        can = [k for k, feasible in enumerate(line["feasible"]) if feasible]
        best = max(can, key=lambda k: line["q"][k])
        own = one["source_share"]["decided"]
        print(f"Q before step {one['step']}: highest at a source share of {line['shares'][best]:.2f} ({line['q'][best]:.2f}); decided {own:.2f} ({one['decided_q']:.2f})")  # fmt: skip


def _span(one: Record) -> str:
    return (
        "none"
        if one["spearman"] is None
        else f"{one['spearman']:+.2f} [{one['low']:+.2f}, {one['high']:+.2f}], {one['n']} pairs"
    )
