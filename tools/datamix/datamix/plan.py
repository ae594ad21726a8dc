"""`datamix plan`: a whole schedule without a live model, in the form that `datamix apply`, the exports and foreign trainers read.

An agent decides from what a run measures, and here is none, so something has to stand in for it:

    world      a model-based agent plans in the world that it learnt (world.Simulator)
    swarm      for other agents, recorded runs (--from SWARM): at each step, how losses moved in the runs whose mixtures were most like
               the plan's so far
    nothing    an agent that is shown no losses, a schedule or a mixture: budget and clock are all it needs

Losses before the first step are measured (--base, --model), given (--losses FILE), or the recorded runs'. What stood in for feedback is in
the manifest; the lines' `feedback` is null, as nothing was measured. Where it sits: beside apply.py; steered.py opens policies and models for both.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from datamix import __version__, needs, schedule, swarms
from datamix.baselines.static import SchedulePolicy, StaticPolicy
from datamix.corpus import FILE, Corpus, Domain, Listing, Part
from datamix.history import Budget, Decision, Floats, History, Policy, Trajectory
from datamix.mixture import checked, to_names
from datamix.samplers import check_text
from datamix.schedule import keep_inputs
from datamix.steered import budget_of, check_budget, open_policy, open_steered, told_budget
from tenfold_shared import BadInput
from tenfold_shared.jsonl import Output, Source, read_text

if TYPE_CHECKING:
    from datamix.world import Simulator

Record = dict[str, Any]
NEAREST = 5  # recorded runs that stand in for a measurement, at most
MOST = 64.0  # bits per byte: no model is as bad, and numbers without bounds make schedules of no numbers


class Planned(msgspec.Struct):
    """decisions, one a step; losses [T, D] as they were imagined, None where nothing was; how: what stood in for feedback, in words."""

    decisions: list[Decision]
    losses: Floats | None
    how: str


# ---------------------------------------------------------------- what stands in for a live run


def from_world(simulator: Simulator, agent: Policy, start: History) -> Planned:
    """A model-based agent's own rollout, each decision with its critics' value. Raises BadInput where it decides what is no mixture."""
    decisions: list[Decision] = []

    def decide(history: History) -> Decision:
        decision = agent.decide(history)
        decisions.append(Decision(checked(decision.weights, f"{agent.name}: step {len(history)}"), decision.q))
        return decisions[-1]

    losses = np.array([one for _, one in simulator.rollout(start, decide)])
    return Planned(decisions, losses, "the world model of the agent")


def from_clock(policy: Policy, start: History) -> Planned:
    """A policy that needs no losses: they stay what they were."""
    history = start.upto(0)
    return Planned(
        _decided(policy, history, lambda weights: history.losses[-1] if len(history) else history.base),
        None,
        "none was needed",
    )


class Recorded:
    """Runs of one task, to say what a step did to losses. f̂ moves as it did, on average, in the `nearest` runs whose mixtures up to and
    with that step were nearest to the plan's: by domain where they have the plan's domains, else by role. Runs of other lengths are read at
    the same share of their way."""

    def __init__(self, runs: Sequence[Trajectory], start: History, nearest: int = NEAREST) -> None:
        self.start, self.nearest = start, nearest
        self.by_domain = all(set(one.roles) == set(start.names) for one in runs)
        histories = [one.history() for one in runs]
        self.used = [self._seen(one, one.weights).cumsum(0) for one in histories]
        self.gains = [self._seen(one, one.gains, mean=True) for one in histories]

    def _seen(self, one: History, values: Floats, mean: bool = False) -> Floats:
        """[t, D] in the plan's order of domains; by role [t, 2], sums of weights or means of gains."""
        if self.by_domain:
            return values[:, [one.names.index(name) for name in self.start.names]]
        return _roles(values, one.source, mean)

    def after(self, history: History, weights: Floats) -> Floats:
        """Losses [D] after one more step under a mixture."""
        t, steps = len(history), history.budget.steps
        used = np.vstack([history.weights, weights[None]])
        path = (used if self.by_domain else _roles(used, history.source, False)).sum(0) / (t + 1)
        distances, moves = [], []
        for theirs, gains in zip(self.used, self.gains, strict=True):
            n = len(theirs)
            before, now = (s / steps * n for s in (t, t + 1))
            distances.append(np.linalg.norm(_at(np.vstack([np.zeros_like(theirs[:1]), theirs]), now) / now - path))
            moves.append(_at(gains, now) - _at(gains, before))
        chosen = np.argsort(distances, kind="stable")[: self.nearest]
        move = np.mean([moves[i] for i in chosen], axis=0)
        if not self.by_domain:
            move = np.where(history.source, move[0], move[1])
        last = history.losses[-1] if t else history.base
        return np.asarray(last - move * history.base)


def _roles(values: Floats, source: NDArray[np.bool_], mean: bool) -> Floats:
    """[t, D] -> [t, 2]: of source domains, of target domains."""
    parts = [values[:, mask].mean(1) if mean else values[:, mask].sum(1) for mask in (source, ~source)]
    return np.stack(parts, axis=1)


def _at(values: Floats, place: float) -> Floats:
    """Row `place` of values, between two rows a mean of both."""
    low = min(int(place + 1e-9), len(values) - 1)
    high = min(low + 1, len(values) - 1)
    share = max(place - low, 0.0)
    return np.asarray(values[low] * (1 - share) + values[high] * share)


def from_swarm(policy: Policy, start: History, runs: Sequence[Trajectory], task: str) -> Planned:
    """With recorded runs in place of measurements."""
    recorded = Recorded(runs, start)
    history = start.upto(0)
    decisions = _decided(policy, history, lambda weights: recorded.after(history, weights))
    kind = "domain" if recorded.by_domain else "role"
    how = f"by {kind}, mean of the {min(NEAREST, len(runs))} nearest of {len(runs)} recorded runs of the task {task}"
    return Planned(decisions, history.losses, how)


def _decided(policy: Policy, history: History, losses: Any) -> list[Decision]:
    """Fill a history: decide, then losses(weights)."""
    found = []
    while len(history) < history.budget.steps:
        decision = policy.decide(history)
        decision = Decision(checked(decision.weights, f"{policy.name}: step {len(history)}"), decision.q)
        history.add(decision.weights, losses(decision.weights))
        found.append(decision)
    return found


# ---------------------------------------------------------------- what it starts from


def recorded_runs(folder: str, task: str | None, names: Sequence[str] | None) -> tuple[str, list[Trajectory]]:
    """The runs of a task of a swarm; without a name the task whose domains are `names`, else the only one. Raises BadInput."""
    if swarms.about(folder).get("kind") == "imported":
        raise BadInput(f"{folder}: is an imported table without steps; a plan needs a swarm of `datamix swarm`")
    runs = [one for one in swarms.read(folder) if one.status == "done"]
    tasks: dict[str, list[Trajectory]] = {}
    for one in runs:
        tasks.setdefault(one.task, []).append(one)
    if task is None:
        fitting = [name for name, some in tasks.items() if names is None or set(some[0].roles) == set(names)]
        if len(fitting) != 1:
            fitting = fitting or list(tasks)
        if len(fitting) > 1:
            raise BadInput(f"{folder}: --task: expected one of {', '.join(fitting)}")
        if not fitting:
            raise BadInput(f"{folder}: no finished run")
        task = fitting[0]
    if task not in tasks:
        raise BadInput(f"{folder}: --task {task}: no finished run of it; there are {', '.join(tasks)}")
    return task, tasks[task]


def _as_corpus(folder: str, runs: Sequence[Trajectory]) -> Corpus:
    """What a swarm knows of its corpus: names, roles and sizes, and no text."""
    one = runs[0]
    part = Part(0, 0, 0, "")
    domains = [Domain(name, "source" if role == "source" else "target", Part(0, 0, one.available[name], ""), part) for name, role in one.roles.items()]  # fmt: skip
    return Corpus(Path(folder), Listing(domains))


def read_losses(path: str, names: Sequence[str]) -> Floats:
    """A JSON file {domain: bits per byte}, [D]. Raises BadInput for what is none, a domain without a loss or named twice, one that is not there,
    and a loss out of bounds."""
    if Path(path).is_dir():
        raise BadInput(
            f"--losses {path}: is a directory; expected a file of one JSON object, bits per byte of every domain"
        )
    text = read_text(path)
    try:
        told = msgspec.json.decode(text, type=dict[str, float])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"--losses {path}: expected one object of numbers, bits per byte a domain: {error}") from None
    pairs = json.loads(text, object_pairs_hook=list, parse_int=float)  # of a key that stands twice a dict keeps one
    keys = [name for name, _ in pairs]
    for name in told:
        if keys.count(name) > 1:
            raise BadInput(f"--losses {path}: {name}: named twice; expected each domain once")
        if name not in names:
            raise BadInput(f"--losses {path}: {name}: no such domain; there are {', '.join(names)}")
    for name in names:
        if name not in told:
            raise BadInput(f"--losses {path}: {name}: expected a number, bits per byte")
        if not (np.isfinite(told[name]) and told[name] > 0):
            raise BadInput(f"--losses {path}: {name}: expected a number above 0, got {told[name]}")
        if told[name] > MOST:
            raise BadInput(f"--losses {path}: {name}: expected at most {MOST:g} bits per byte, got {told[name]:g}")
    return np.array([told[name] for name in names])


def _measured(corpus: Corpus, feedback_tokens: int, model: Record) -> tuple[Floats, list[Path]]:
    needs.torch() if model["model"] is None else needs.models()
    from datamix.proxy import Held
    from datamix.ranks import Ranks

    if not corpus.domains[0].valid.tokens:
        raise BadInput(f"{corpus.folder}: is a swarm, without texts to measure a model on; give the corpus")
    corpus.verify()
    steered = open_steered(corpus, Ranks(), training=None, lr=None, decay=None, **model)
    found = steered.learner.evaluate(Held(corpus, steered.learner.context, feedback_tokens, "feedback"))
    if not np.isfinite(found).all():
        raise BadInput(f"{steered.name}: its loss on {corpus.names[int(np.argmin(np.isfinite(found)))]} is no number")
    return np.asarray(found), [Path(model["base"])] if model["base"] else []


# ---------------------------------------------------------------- the verb


def run(
    agent: str | Policy, data: str, *, output: str | None, budget: Budget | None = None, swarm: str | None = None, task: str | None = None,
    losses: str | None = None, model: str | None = None, proxy: str | None = None, base: str | None = None, feedback_tokens: int = 2048,
    dtype: str = "auto", device: str = "auto", trust_remote_code: bool = False, seed: int = 0, overwrite: bool = False,
    as_json: bool = False, quiet: bool = False, plot: str | None = None, changed: Record | None = None,
) -> int:  # fmt: skip
    """The verb. agent: as in apply.run. data: a corpus, or a swarm, whose task gives domains, sizes, losses and, without `budget`, the
    budget. swarm: recorded runs that stand in for feedback (--from). changed: fields of steered.told_budget that differ from a swarm's budget.
    The schedule goes to `output` with a manifest, or to stdout; plot: its picture, which wants `output`. Raises BadInput for an agent that
    needs feedback where nothing stands in for it, for max_epochs that the text cannot keep, and for an output within an input."""
    keep_inputs(output, [agent if isinstance(agent, str) else None, data, swarm, losses, model, proxy, base])
    folder = Path(data)
    is_swarm = (folder / swarms.TRAJECTORIES).exists() and not (folder / FILE).exists()
    swarm = swarm or (data if is_swarm else None)
    runs: list[Trajectory] = []
    inputs: list[Path] = []
    if is_swarm:
        task, runs = recorded_runs(data, task, None)
        corpus = _as_corpus(data, runs)
    else:
        corpus = Corpus.load(data)
        inputs.append(folder / FILE)
    if swarm is not None:
        if not runs or swarm != data:
            task, runs = recorded_runs(swarm, task, corpus.names)
        inputs.append(Path(swarm) / swarms.TRAJECTORIES if Path(swarm).is_dir() else Path(swarm))
        budget = budget or budget_of(told_budget(runs[0].budget) | (changed or {}))
    if budget is None:
        raise BadInput("plan: expected --steps and --run-tokens, or --from SWARM, whose budget is taken")
    check_budget(budget)
    check_text(corpus, budget)
    if proxy is not None and base is None:
        raise BadInput(f"--proxy {proxy}: is the shape of --base FILE; expected that too")
    policy, files = open_policy(agent, corpus, budget.steps)
    wanted = _wanted(policy)
    simulator = None
    if wanted == "world":
        from datamix.world import WORLD, Simulator

        simulator = Simulator.load(str(agent))
        files.append(Path(str(agent)) / WORLD)
    inputs = [*files, *inputs]
    start, piped = np.ones(len(corpus.names)), None
    if losses is not None:
        start = read_losses(losses, corpus.names)
        if Path(losses).is_file():
            inputs.append(Path(losses))
        else:  # a pipe, which cannot be read again for its hash
            piped = to_names(start, corpus.names)
    elif model is not None or base is not None:
        how = {
            "model": model,
            "proxy": proxy,
            "base": base,
            "dtype": dtype,
            "device": device,
            "trust_remote_code": trust_remote_code,
        }
        start, more = _measured(corpus, feedback_tokens, how)
        inputs += more
    elif runs and set(runs[0].roles) == set(corpus.names):
        start = np.array([np.mean([one.base[name] for one in runs]) for name in corpus.names])
    elif wanted != "nothing":
        raise BadInput(
            f"plan: {policy.name} decides from losses; give those before the first step with --losses FILE, --base or --model"
        )
    if wanted == "swarm" and not runs:
        raise BadInput(
            f"plan: {policy.name} decides from what a run measures, and has no world to plan in; name recorded runs with --from SWARM, or "
            "steer a live run with `datamix apply`"
        )
    options = {
        "policy": policy.name, **told_budget(budget), "task": task, "model": model,
        "proxy": proxy, "feedback_tokens": feedback_tokens if model is not None or base is not None else None, "seed": seed,
        "dtype": dtype if model is not None else None, "losses": piped,
    }  # fmt: skip
    source = Source([str(path) for path in inputs], None)
    with Output(
        output, tool="datamix", version=__version__, verb="plan", options=options, source=source, overwrite=overwrite
    ) as out:
        if out.finished:
            if not quiet:
                print(f"datamix: {output}: complete already; nothing to do", file=sys.stderr)
            if as_json:
                print(json.dumps(json.loads(out.manifest_path.read_bytes())["counts"]))
            _draw(output, plot)
            return 0
        history = History(corpus.names, corpus.source, corpus.sizes, start, budget)
        if simulator is not None:
            planned = from_world(simulator, policy, history)
        elif wanted == "swarm":
            planned = from_swarm(policy, history, runs, str(task))
        else:
            planned = from_clock(policy, history)
        for one in lines_of(planned, corpus.names, budget):
            out.write_line(schedule.write_line(one))
        counts = _counts(planned, history, corpus)
        out.finish(counts, seed=seed)
    if as_json:
        print(json.dumps(counts), file=sys.stdout if out.path is not None else sys.stderr)
    _draw(output, plot)
    return 0


def _draw(output: str | None, plot: str | None) -> None:
    if plot is not None:
        from datamix import plot as pictures

        pictures.schedule(str(output), plot)


def _wanted(policy: Policy) -> str:
    """What must stand in for a live run: `nothing`, `world` or `swarm`."""
    from datamix.agent import Agent

    if isinstance(policy, StaticPolicy | SchedulePolicy):
        return "nothing"
    if isinstance(policy, Agent):
        if policy.card.algo == "model":
            return "world"
        return "swarm" if policy.card.feedback else "nothing"
    return "swarm"


def lines_of(planned: Planned, names: Sequence[str], budget: Budget) -> list[schedule.Line]:
    found = []
    for t, decision in enumerate(planned.decisions):
        found.append(
            schedule.line(t, (t + 1) * budget.tokens, to_names(decision.weights, list(names)), None, decision.q)
        )
    return found


def _counts(planned: Planned, start: History, corpus: Corpus) -> Record:
    """For the manifest: how it was made, and what was imagined of its end."""
    weights = np.array([one.weights for one in planned.decisions])
    found: Record = {
        "steps": len(weights), "tokens": len(weights) * start.budget.tokens, "feedback": planned.how,
        "source_share": round(float(weights[:, corpus.source].sum() / len(weights)), 6), "mean": to_names(weights.mean(0), corpus.names),
    }  # fmt: skip
    if planned.losses is not None:
        from datamix import history as h

        gain = h.gains(start.base, planned.losses[-1])
        found["imagined"] = {
            "score": round(100 * float(h.score(gain, corpus.source)), 4),
            "losses": dict(zip(corpus.names, (float(x) for x in planned.losses[-1]), strict=True)),
        }
    return found
