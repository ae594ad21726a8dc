"""`datamix train-agent`: an agent from a finished swarm, by one of three ways to learn.

    sft     weighted behaviour cloning alone (sft.py)
    cql     the paper's: that, then conservative Q-learning on the simplex (cql.py)
    model   that, then practice in an ensemble of learnt models (world.py): the default, as it is what wins here

Where it sits: below the command, above the three. The agent's folder holds its report; what it says is printed.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import msgspec

from datamix import features, swarms
from datamix.agent import Agent
from datamix.folder import Folder
from datamix.history import Trajectory
from datamix.simplex import Form
from datamix.swarm import sha256_of
from tenfold_shared import BadInput
from tenfold_shared.progress import Progress

Record = dict[str, Any]


class Settings(msgspec.Struct, frozen=True):
    """What decides an agent's bytes, beside the swarm. None: the method's own."""

    arch: str = "set"
    algo: str = "model"
    form: Form | None = None
    split: str | None = None
    feedback: bool = True
    shuffle: bool = False
    steps: int | None = None
    members: int | None = None
    caution: float | None = None
    alpha: float | None = None
    seed: int = 0


def make(runs: list[Trajectory], how: Settings, progress: Progress | None = None) -> tuple[Agent, Any]:
    """The agent, and the simulator of a model-based one (None for others). Raises BadInput for options that do not go together."""
    if how.shuffle:
        runs = shuffled_rewards([one for one in runs if one.status == "done"], how.seed)
    agent, simulator = _made(runs, how, progress)
    agent.card.report["shuffled_rewards"] = how.shuffle
    return agent, simulator


def _made(runs: list[Trajectory], how: Settings, progress: Progress | None) -> tuple[Agent, Any]:
    if how.algo == "model":
        from datamix import world

        if how.alpha is not None:
            raise BadInput("--alpha: is of --algo cql")
        if how.arch != "set":
            raise BadInput(
                f"--arch {how.arch}: --algo model has a set network of its own; use --algo cql or sft for a {how.arch}"
            )
        settings = world.Settings(feedback=how.feedback)
        if how.form is not None:
            settings = msgspec.structs.replace(settings, form=how.form)
        if how.split is not None:
            settings = msgspec.structs.replace(settings, split=how.split)
        if how.members is not None:
            settings = msgspec.structs.replace(settings, members=how.members)
        if how.caution is not None:
            settings = msgspec.structs.replace(settings, caution=how.caution)
        if how.steps is not None:
            settings = msgspec.structs.replace(settings, policy_steps=how.steps)
        return world.train(runs, settings, how.seed, progress.update if progress is not None else lambda: None)
    if how.members is not None or how.caution is not None or how.split is not None:
        raise BadInput("--members, --caution and --within: are of --algo model")
    if how.algo == "sft" and how.alpha is not None:
        raise BadInput("--alpha: is of --algo cql")
    from datamix import cql, sft

    cloning = sft.Settings(form=how.form or "lean", feedback=how.feedback)
    if how.algo == "sft":
        if how.steps is not None:
            cloning = dataclasses.replace(cloning, steps=how.steps)
        return sft.train(runs, how.arch, cloning, how.seed, progress), None
    if how.algo != "cql":
        raise BadInput(f"--algo {how.algo}: expected model, cql or sft")
    settings_cql = cql.Settings(sft=cloning)
    if how.steps is not None:
        settings_cql = dataclasses.replace(settings_cql, steps=how.steps)
    if how.alpha is not None:
        settings_cql = dataclasses.replace(settings_cql, alpha=how.alpha)
    return cql.train(runs, how.arch, settings_cql, how.seed, progress), None


def shuffled_rewards(runs: list[Trajectory], seed: int) -> list[Trajectory]:
    """The control: every run's losses, relative to its base, are another run's (role by role, step by step), so that what an agent is rewarded for has
    nothing to do with what was mixed."""
    import numpy as np

    rng = np.random.default_rng([seed % 2**63, 12])
    order = rng.permutation(len(runs))
    other = np.empty(len(runs), dtype=np.int64)
    other[order] = np.roll(order, 1)  # one after the other in a circle: nobody gets its own
    found = []
    for i, one in enumerate(runs):
        from_run = runs[int(other[i])]
        steps = []
        for t, step in enumerate(one.steps):
            there = from_run.steps[min(t, len(from_run.steps) - 1)].feedback
            pools = {role: [n for n, r in from_run.roles.items() if r == role] for role in ("source", "target")}
            places = {"source": 0, "target": 0}
            feedback = {}
            for name, role in one.roles.items():
                like = pools[role][places[role] % len(pools[role])]
                places[role] += 1
                feedback[name] = one.base[name] * there[like] / from_run.base[like]
            steps.append(msgspec.structs.replace(step, feedback=feedback))
        found.append(msgspec.structs.replace(one, steps=steps))
    return found


def run(swarm: str, how: Settings, *, output: str | None, overwrite: bool, as_json: bool, quiet: bool) -> int:
    """The verb. Raises BadInput for a swarm that is not finished or has nothing to learn from."""
    if output is None:
        raise BadInput("-o AGENT: expected a folder to write the agent to")
    if Path(swarm).is_file():
        raise BadInput(f"{swarm}: is a file; expected the folder of a swarm")
    import torch

    torch.set_num_threads(1)  # the same bytes whatever the machine, and as fast at this size
    runs = swarms.read(swarm)
    if swarms.about(swarm).get("kind") == "imported":
        raise BadInput(
            f"{swarm}: is an imported table of finished runs without steps; an agent needs a swarm of `datamix swarm`"
        )
    failed = sum(one.status != "done" for one in runs)
    inputs = [{"path": str(Path(swarm) / swarms.TRAJECTORIES), "sha256": sha256_of(Path(swarm) / swarms.TRAJECTORIES)}]
    decides = msgspec.to_builtins(how)
    for field, option in (("form", "pace"), ("split", "within"), ("steps", "train_steps")):  # named as the options are
        decides[option] = decides.pop(field)
    with Folder(
        output,
        "train-agent",
        decides | {"features": features.SPEC},
        inputs,
        seed=how.seed,
        overwrite=overwrite,
    ) as out:
        if out.finished is None:
            started = time.monotonic()
            with Progress("train-agent", None, "step", quiet) as bar:
                agent, simulator = make(runs, how, bar)
            agent.card.report = timeless(agent.card.report)
            agent.save(out.path)
            if simulator is not None:
                simulator.save(out.path)
            out.publish(
                {"runs": len(runs) - failed, "failed": failed, "seconds_training": round(time.monotonic() - started, 2)}
            )
    return tell(Path(output), as_json)


def timeless(report: Record) -> Record:
    """A report without how long things took, so that the same command gives the same bytes; the manifest has the time."""
    return {name: timeless(x) if isinstance(x, dict) else x for name, x in report.items() if name != "seconds"}


def tell(folder: Path, as_json: bool) -> int:
    agent = Agent.load(folder)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    summary = {
        "agent": str(folder),
        "arch": agent.card.arch,
        "algo": agent.card.algo,
        **manifest["counts"],
        "report": agent.report,
    }
    if as_json:
        print(json.dumps(summary))
        return 0
    from rich.table import Table

    from tenfold_shared.cli import print_table

    table = Table(title=f"{agent.card.algo} agent of {summary['runs']} runs in {summary['seconds_training']} s")
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in flat(agent.report):
        table.add_row(name, value)
    print_table(table)
    return 0


def flat(report: Record, prefix: str = "") -> list[tuple[str, str]]:
    """Nested numbers of a report as lines; lists are left to the JSON."""
    found: list[tuple[str, str]] = []
    for name, value in report.items():
        if isinstance(value, dict):
            found += flat(value, f"{prefix}{name}.")
        elif isinstance(value, float):
            found.append((prefix + name, f"{value:.4g}"))
        elif isinstance(value, bool | int | str):
            found.append((prefix + name, str(value)))
    return found
