"""`datamix compare`: agents, rivals and controls on the same runs, paired.

    DIR/journal              every finished piece of work, so that the same command goes on after a kill
    DIR/bases, DIR/agents    bases of the tasks; agents trained for controls
    DIR/runs.jsonl           one run a line: task, method, seed, figures, mixture by step
    DIR/compare.json         the result, as printed by --json

Every method runs every task with every seed: the same base, the same order of text, the same picks (common random numbers). A rival that trains
proxies gets, for each task, as many tokens as the agent's swarm had in all. Figures are points, 100 · f̂, on text that no feedback has seen.

Controls are agents like the first one, from the same swarm, each alone and never averaged: `reward_shuffle`, with gains of other runs; `no_feedback`, trained and
used without losses. `null` agents are untrained ones with the same form of action. An agent that does not beat a control has not learned what the
control lacks, and the verdict says so.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from datamix import __version__
from datamix.corpus import FILE, Corpus
from datamix.figures import CONTROLS, show, summary_of
from datamix.history import Budget, Decision, History, Policy
from datamix.processes import Job, Processes, finish
from datamix.stream import key_of
from datamix.swarm import Task, base_of, draw_tasks, sha256_of
from tenfold_shared import BadInput
from tenfold_shared.jsonl import Journal, Lock, write_atomic
from tenfold_shared.progress import Progress
from tenfold_shared.redaction import redact

Record = dict[str, Any]
RIVALS = ("proportional", "best-fixed", "regmix", "regmix-d", "hand")
JSON = "agent.json"  # names the hash of an agent's weights
RESERVED = ("first", "methods", "controls", "best_rival", "verdict", "counts")  # what else the result holds


class Settings(msgspec.Struct, frozen=True):
    """What decides the result, beside corpus, agents and swarm. proxy_tokens 0: as many as the swarm had. members: how many agents a control has."""

    budget: Budget
    proxy: Record
    methods: list[str] = msgspec.field(default_factory=lambda: list(RIVALS))
    seeds: int = 5
    tasks: int = 0
    task_sources: int = 4
    task_targets: int = 2
    task_roles: str = "any"
    base_spread: float = 3.0
    proxy_tokens: int = 0
    controls: list[str] = msgspec.field(default_factory=lambda: list(CONTROLS))
    members: int = 3
    score_tokens: int = 12288
    feedback_tokens: int = 2048
    seed: int = 0


class Plan(msgspec.Struct):
    """What every process reads: enough to do any piece of the work."""

    corpus: str
    corpus_sha256: str
    settings: Settings
    tasks: list[Task]
    agents: dict[str, str]
    like: list[str]  # agents made as the first one was, but for the seed
    swarm: str | None
    swarm_sha256: str | None
    recipe: Record
    proxy_tokens: int
    schema: str = "compare-plan/1"


class HandSchedule:
    """No source text in the first half of a run, twice the budget's share in the second, evenly within roles: a rule in one line that needs
    nothing learned. Without a source budget: 20 % and 60 %."""

    name = "hand"

    def decide(self, history: History) -> Decision:
        limited = history.budget.source_share < 1
        low, high = (0.0, 2 * history.budget.source_share) if limited else (0.2, 0.6)
        share = low if len(history) < history.budget.steps / 2 else high
        if limited:
            share = min(share, history.source_left, 1.0)
        source = history.source
        return Decision(np.where(source, share / source.sum(), (1 - share) / (~source).sum()))


# ---------------------------------------------------------------- pieces of work, in any process


def read_plan(folder: str) -> Plan:
    return msgspec.json.decode((Path(folder) / "plan.json").read_bytes(), type=Plan)


def train_control(folder: str, kind: str, number: int) -> Record:
    """Agent `number` of a control, from the swarm, into DIR/agents."""
    import torch

    from datamix import swarms, train

    torch.set_num_threads(1)
    plan = read_plan(folder)
    how = msgspec.convert({k: v for k, v in plan.recipe.items() if k != "swarm_sha256"}, train.Settings)
    how = msgspec.structs.replace(
        how, seed=1000 + number, shuffle=kind == "reward_shuffle", feedback=kind != "no_feedback"
    )
    assert plan.swarm is not None
    agent, _ = train.make(swarms.read(plan.swarm), how)
    agent.card.report = train.timeless(agent.card.report)
    agent.save(Path(folder) / "agents" / f"{kind}-{number}")
    return {"report": agent.report}


def find_rival(folder: str, task: int, method: str) -> Record:
    """What a rival chooses for a task, having trained its proxies."""
    import torch

    from datamix.baselines import found_for
    from datamix.proxy import ProxyConfig

    torch.set_num_threads(1)
    plan = read_plan(folder)
    corpus, base = _task(Path(folder), plan, task)
    config = msgspec.convert(plan.settings.proxy, ProxyConfig)
    seed = key_of(plan.settings.seed, "rival", task) % 2**31
    told = {"feedback_tokens": plan.settings.feedback_tokens}
    found = found_for(method, corpus, config, base, plan.settings.budget, plan.proxy_tokens, seed, options=told)
    return {
        "weights": None if found.weights is None else [float(x) for x in found.weights],
        "schedule": None if found.schedule is None else [[float(x) for x in row] for row in found.schedule],
        "live": found.live is not None, "proxy_tokens": found.proxy_tokens,
    }  # fmt: skip


def run_one(folder: str, task: int, method: str, seed: int, found: Record | None) -> Record:
    """One run of a method. Figures of steer.Run.result, and the mixture by step."""
    import torch

    from datamix.proxy import Proxy, ProxyConfig
    from datamix.steer import Diverged, Run

    torch.set_num_threads(1)
    plan = read_plan(folder)
    settings = plan.settings
    corpus, base = _task(Path(folder), plan, task)
    proxy = Proxy(msgspec.convert(settings.proxy, ProxyConfig), corpus.listing.vocabulary, 0)
    proxy.restore(base)
    proxy.begin()
    run = Run(corpus, proxy, settings.budget, key_of(settings.seed, "compare", seed) % 2**31, feedback_tokens=settings.feedback_tokens, score_tokens=settings.score_tokens)  # fmt: skip
    told: Record = {"task": plan.tasks[task].name, "method": method, "seed": seed}
    try:
        run.begin()
        for _ in run.steps(policy_of(Path(folder), plan, method, found)):
            pass
    except Diverged as problem:
        return {**told, "status": "failed", "error": str(problem)}
    result = run.result()
    tokens = run.rows_a_step * proxy.context
    return {
        **told, "status": "done", **result, "source_bytes": _source_bytes(run.history, corpus, tokens),
        "weights": [{name: round(float(x), 4) for name, x in zip(corpus.names, row, strict=True)} for row in run.history.weights],
        "path": [round(float(x), 3) for x in 100 * _path(run.history)],
    }  # fmt: skip


def _path(history: History) -> Any:
    from datamix import history as h

    return h.score(history.gains, history.source)


def _source_bytes(history: History, corpus: Corpus, tokens: int) -> int:
    per_token = np.array([one.train.bytes / one.train.tokens for one in corpus.domains])
    return round(float((history.weights.sum(0) * tokens * per_token)[corpus.source].sum()))


def _task(root: Path, plan: Plan, number: int) -> tuple[Corpus, Any]:
    whole = Corpus.load(plan.corpus)
    task = plan.tasks[number]
    return whole.subset(task.sources, task.targets), base_of(root, plan.settings.proxy, "cpu", task, whole)


def make_base(folder: str, task: int) -> None:
    import torch

    torch.set_num_threads(1)
    _task(Path(folder), read_plan(folder), task)


def policy_of(root: Path, plan: Plan, method: str, found: Record | None) -> Policy:
    from datamix.baselines import settings_of, watcher
    from datamix.baselines.static import SchedulePolicy, StaticPolicy

    kind, _, number = method.rpartition("-")
    if method in plan.agents:
        from datamix.agent import Agent

        return Agent.load(plan.agents[method])
    if kind in CONTROLS:
        from datamix.agent import Agent

        return Agent.load(root / "agents" / method)
    if kind == "null":
        from datamix import world

        return world.null(
            world.Settings(form=plan.recipe.get("form") or "paced", split=plan.recipe.get("split") or "even"),
            int(number),
        )
    if method == "hand":
        return HandSchedule()
    assert found is not None
    if found["live"]:
        return watcher(method, settings_of(method, {}))
    if found["schedule"] is not None:
        return SchedulePolicy(method, np.array(found["schedule"]))
    return StaticPolicy(method, np.array(found["weights"]))


# ---------------------------------------------------------------- the verb


def run(
    folder: str, corpus_folder: str, agents: Sequence[str], swarm: str | None, settings: Settings, *, workers: int, overwrite: bool, as_json: bool, plot: str | None, quiet: bool,
) -> int:  # fmt: skip
    """Returns 1 where runs failed. Raises BadInput for agents, swarm and corpus that do not go together."""
    started, clock = datetime.now(UTC), time.monotonic()
    root = Path(folder)
    if not root.absolute().parent.is_dir():
        raise BadInput(f"{root}: the folder {root.absolute().parent} does not exist; create it first")
    if root.is_file():
        raise BadInput(f"{root}: is a file; expected a folder to write")
    lock = Lock(root.absolute().parent / f".{root.name}.lock", root)
    try:
        plan = _plan(corpus_folder, agents, swarm, settings)
        root.mkdir(exist_ok=True)
        identity = _identity(plan)
        journal = _journal(root, identity, overwrite)
        try:
            write_atomic(root / "plan.json", msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n")
            summary = _work(root, plan, journal, workers, quiet)
        finally:
            journal.close(remove=False)
        write_atomic(root / "compare.json", json.dumps(summary, indent=1).encode() + b"\n")
        manifest = {
            "schema": "manifest/1",
            **identity,
            "version": __version__,
            "argv": [redact(word) for word in sys.argv],
            "seed": settings.seed,
            "counts": summary["counts"],
            "status": "done",
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - clock, 3),
        }
        write_atomic(root / "manifest.json", json.dumps(manifest, indent=1).encode() + b"\n")
    finally:
        lock.release()
    if plot is not None:
        from datamix import plot as pictures

        pictures.comparison(root, plot)
    if as_json:
        print(json.dumps(summary))
    else:
        show(summary)
    return 1 if summary["counts"]["failed"] else 0


def _plan(corpus_folder: str, agents: Sequence[str], swarm: str | None, settings: Settings) -> Plan:
    from datamix import swarms
    from datamix.agent import Agent
    from datamix.baselines import NAMES

    corpus = Corpus.load(corpus_folder)
    known = [*(name for name in NAMES if name != "fixed"), "hand", "null"]
    for method in settings.methods:
        if method not in known:
            raise BadInput(f"--methods {method}: expected some of {', '.join(known)}")
    for control in settings.controls:
        if control not in CONTROLS:
            raise BadInput(f"--controls {control}: expected some of {', '.join(CONTROLS)}")
    tasks = draw_tasks(
        corpus,
        settings.tasks,
        settings.task_sources,
        settings.task_targets,
        settings.base_spread,
        key_of(settings.seed, "tasks") % 2**31,
        settings.task_roles,
        seen=_seen(swarm),
    )
    places = [Path(one).resolve() for one in agents]
    for one, place in zip(agents, places, strict=True):
        if places.count(place) > 1:
            raise BadInput(f"--agent {one}: is named twice; expected another folder for each --agent")
    hashed = None if swarm is None else sha256_of(Path(swarm) / swarms.TRAJECTORIES)
    named: dict[str, str] = {}
    like: list[str] = []
    recipe: Record = {}
    for one in agents:
        agent = Agent.load(one)
        for task in tasks:
            here = corpus.subset(task.sources, task.targets)
            agent.check(here.names, here.source)
        made = _made_with(one)
        name = Path(one).absolute().name
        if name in (*named, *known, *RESERVED) or name.rpartition("-")[0] in (*CONTROLS, "null"):
            name = next(f"agent-{i}" for i in range(1, len(agents) + 2) if f"agent-{i}" not in named)
        named[name] = str(Path(one).absolute())
        if len(named) == 1:
            recipe = made
        if made and _but_seed(made) == _but_seed(recipe):
            like.append(name)
        if swarm is not None and made.get("swarm_sha256") not in (None, hashed):
            raise BadInput(
                f"--swarm {swarm}: {one} was trained on another swarm; controls and the rivals' bytes go by the one that it was trained on"
            )
    if settings.controls and named and (swarm is None or not recipe):
        raise BadInput(
            "controls are agents trained on the swarm again: --swarm SWARM names it (and the agent has its manifest.json), or --controls none"
        )
    tokens = settings.proxy_tokens
    if swarm is not None and not tokens:
        tokens = sum(one.steps[-1].tokens_seen for one in swarms.read(swarm) if one.steps)
    if not tokens:
        tokens = 24 * settings.budget.tokens * settings.budget.steps
    corpus.verify()
    return Plan(
        str(corpus.folder.absolute()),
        sha256_of(corpus.folder / FILE),
        settings,
        tasks,
        named,
        like,
        swarm and str(Path(swarm).absolute()),
        hashed,
        recipe,
        tokens,
    )


def _seen(swarm: str | None) -> list[Task]:
    """The tasks that a swarm was made of: none of them is drawn again to be compared on."""
    from datamix import swarm as swarm_module

    if swarm is None or not (Path(swarm) / swarm_module.PLAN).exists():
        return []
    return swarm_module.read_plan(Path(swarm)).tasks


def _made_with(agent: str) -> Record:
    """The options of `train-agent` that made an agent, and its swarm's hash; empty where no manifest says."""
    try:
        manifest = json.loads((Path(agent) / "manifest.json").read_bytes())
        found: Record = dict(manifest["options"])
        found["swarm_sha256"] = manifest["inputs"][0]["sha256"]
    except (OSError, ValueError, KeyError, IndexError, TypeError, RecursionError):
        return {}
    found.pop("features", None)
    return found


def _but_seed(made: Record) -> Record:
    return {name: value for name, value in made.items() if name != "seed"}


def _identity(plan: Plan) -> Record:
    """What decides the result. Agents and swarms count by their content: one that was trained anew is another one."""
    options = msgspec.to_builtins(plan.settings)
    for name in ("budget", "proxy"):
        options |= {f"{name}.{key}": value for key, value in options.pop(name).items()}
    options |= {"agents": list(plan.agents), "proxy_tokens": plan.proxy_tokens, "recipe": plan.recipe}
    inputs = [{"path": plan.corpus, "sha256": plan.corpus_sha256}]
    inputs += [{"path": path, "sha256": sha256_of(Path(path) / JSON)} for path in plan.agents.values()]
    if plan.swarm is not None:
        inputs.append({"path": plan.swarm, "sha256": plan.swarm_sha256 or ""})
    return {"tool": "datamix", "verb": "compare", "options": options, "inputs": inputs}


def _journal(root: Path, identity: Record, overwrite: bool) -> Journal:
    from tenfold_shared.jsonl import difference

    path = root / "journal"
    if any(root.iterdir()):
        before = Journal.header(path)
        if before is None or before.get("verb") != "compare":
            raise BadInput(f"{root}: holds things that `datamix compare` did not make; choose another output")
        found = difference(before, identity)
        if found and not overwrite:
            raise BadInput(f"{root}: was begun with {found}; choose another output or add --overwrite")
        if overwrite:
            clear(root)
    return Journal(path, identity)


def clear(root: Path) -> None:
    import shutil

    for name in ("bases", "agents"):
        shutil.rmtree(root / name, ignore_errors=True)
    for name in ("journal", "plan.json", "runs.jsonl", "compare.json", "manifest.json"):
        (root / name).unlink(missing_ok=True)


def _work(root: Path, plan: Plan, journal: Journal, workers: int, quiet: bool) -> Record:
    settings, folder = plan.settings, str(root.absolute())
    controls = settings.controls if plan.agents else []
    made = [f"{kind}-{i}" for kind in controls for i in range(settings.members)]
    nulls = [f"null-{i}" for i in range(settings.members)] if "null" in settings.methods else []
    rivals = [name for name in settings.methods if name not in ("hand", "null")]
    plain = [*plan.agents, *(["hand"] if "hand" in settings.methods else []), *nulls, *made]
    count = len(made) + len(plan.tasks) * (len(rivals) + (len(rivals) + len(plain)) * settings.seeds)
    (root / "agents").mkdir(exist_ok=True)
    with Progress("compare", count, "piece", quiet) as bar, Processes(workers) as them:
        finish(folder, [(f"base {i}", make_base, (i,)) for i in range(len(plan.tasks))], None, them, lambda: None)
        finish(
            folder,
            [
                (f"train {name}", train_control, (name.rpartition("-")[0], int(name.rpartition("-")[2])))
                for name in made
            ],
            journal,
            them,
            bar.update,
        )
        finish(
            folder,
            [(f"rival {name} {i}", find_rival, (i, name)) for i in range(len(plan.tasks)) for name in rivals],
            journal,
            them,
            bar.update,
        )
        runs: list[Job] = []
        for i in range(len(plan.tasks)):
            for name in [*plain, *rivals]:
                found = journal.get(f"rival {name} {i}") if name in rivals else None
                runs += [(f"run {name} {i} {seed}", run_one, (i, name, seed, found)) for seed in range(settings.seeds)]
        finish(folder, runs, journal, them, bar.update)
    records = [journal.get(key) for key, _, _ in runs]
    write_atomic(root / "runs.jsonl", b"".join(json.dumps(one).encode() + b"\n" for one in records))
    proxies = {
        name: sum(journal.get(f"rival {name} {i}")["proxy_tokens"] for i in range(len(plan.tasks))) for name in rivals
    }
    return summary_of(plan, records, proxies)
