"""A swarm: the folder of finished runs under many mixtures that agents and regressions learn from.

    SWARM/trajectories.jsonl   one history.Trajectory a line
    SWARM/swarm.json           {"schema": "swarm/1", "kind": "runs" | "imported", "domains": [...], "metrics": [...]}
    SWARM/manifest.json        what made it

Own swarms have many steps a run and feedback by domain; imported ones (RegMix's and Olmix's tables) have one step of unknown length
and feedback by metric: metrics need not be domains, there is no base model, and `base` holds the mean of each metric over the swarm
under the task "imported", so that `Trajectory.history` is not for them. Read here for everybody; written by swarm.py and forms/.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from datamix.history import Floats, Trajectory
from datamix.schedule import pretty, tidy
from tenfold_shared import BadInput
from tenfold_shared.jsonl import decode_line, read_lines, write_atomic
from tenfold_shared.records import readable

TRAJECTORIES, ABOUT, MANIFEST = "trajectories.jsonl", "swarm.json", "manifest.json"
SCHEMA, TRAJECTORY = "swarm/1", "mixture-trajectory/1"
# Bits per byte: no model is as good or as bad, and from gains far beyond these networks learn weights that are no numbers.
SMALL, LARGE = 1e-6, 1e6
Table = tuple[list[str], list[str], Floats, list[str], Floats]


def read(folder: str | Path) -> list[Trajectory]:
    """All runs of a swarm, failed ones too (status says so). A file in place of the folder is read as trajectories.jsonl. Raises BadInput
    naming file, line and field for a folder that is no swarm, a run of another form, weights that are no mixture, numbers that no run can
    have (`_checked` says which), and an id that comes twice."""
    path = Path(folder)
    if path.is_dir():
        if not (path / TRAJECTORIES).is_file():
            raise BadInput(
                f"{path}: no {TRAJECTORIES} in it; expected a swarm (datamix swarm, or datamix import regmix)"
            )
        path = path / TRAJECTORIES
    imported = about(path.parent).get("kind") == "imported"
    found: list[Trajectory] = []
    ids: set[str] = set()
    for number, raw in read_lines(str(path)):
        where = f"{path}:{number}"
        one = _checked(_convert(decode_line(where, raw), where), where, imported)
        if one.id in ids:
            raise BadInput(f"{where}: id: {one.id}: comes twice; expected a name of its own for each run")
        ids.add(one.id)
        found.append(one)
    if not found:
        raise BadInput(f"{path}: no runs in it; is the swarm finished?")
    return found


def about(folder: str | Path) -> dict[str, Any]:
    """swarm.json; an empty map where there is none."""
    path = Path(folder) / ABOUT
    try:
        told = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        return {}
    except (msgspec.DecodeError, OSError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{path}: not a swarm's description: {error}") from None
    if told.get("schema", SCHEMA) != SCHEMA:
        raise BadInput(f"{path}: schema: expected {SCHEMA}, got {told['schema']!r}")
    return told


def table(folder: str | Path, task: str | None = None) -> Table:
    """A swarm as regressions see it: (ids [n], domain names [D], X [n, D], metric names [M], Y [n, M]).

    X is each run's mixture, for many steps the mean weighted by tokens; Y the losses after the last step, in bits per byte for own
    swarms and as they stood in the table for imported ones. Failed runs are left out. Raises BadInput where no run is left, where
    tasks have other domains (then `task` must choose), or where a run lacks a metric that others have.
    """
    runs = [one for one in read(folder) if one.status == "done" and (task is None or one.task == task)]
    if not runs:
        raise BadInput(f"{folder}: no finished run" + (f" of the task {task}" if task is not None else ""))
    names, metrics = list(runs[0].roles), list(runs[0].steps[-1].feedback)
    for one in runs:
        if set(one.roles) != set(names):
            odd = sorted(set(one.roles) ^ set(names))[0]
            raise BadInput(f"{folder}: {odd}: is a domain of only one of {runs[0].id} and {one.id}; choose one task")
        if set(one.steps[-1].feedback) != set(metrics):
            odd = sorted(set(one.steps[-1].feedback) ^ set(metrics))[0]
            raise BadInput(f"{folder}: {odd}: was measured in only one of {runs[0].id} and {one.id}")
    x = np.array([mean_mixture(one, names) for one in runs])
    y = np.array([[one.steps[-1].feedback[name] for name in metrics] for one in runs])
    return [one.id for one in runs], names, x, metrics, y


def mean_mixture(one: Trajectory, names: Sequence[str]) -> Floats:
    """The mixture of a whole run [D]: its steps weighted by their tokens (evenly where no length is known)."""
    weights = np.array([[step.weights.get(name, 0.0) for name in names] for step in one.steps])
    lengths = np.diff(np.array([0, *(step.tokens_seen for step in one.steps)], dtype=np.float64))
    if lengths.sum() <= 0:
        lengths = np.ones(len(one.steps))
    mean: NDArray[np.float64] = lengths @ weights / lengths.sum()
    return mean / mean.sum()


def encode(one: Trajectory) -> bytes:
    """A line of trajectories.jsonl without its end. Numbers that are none cannot be written: failed runs leave such losses out."""
    kept = [
        msgspec.structs.replace(s, feedback={k: v for k, v in s.feedback.items() if np.isfinite(v)}) for s in one.steps
    ]
    return msgspec.json.encode(msgspec.structs.replace(one, steps=kept))


def write(folder: str | Path, runs: Sequence[Trajectory], described: dict[str, Any], manifest: dict[str, Any] | None = None) -> None:  # fmt: skip
    """Writes a swarm, its manifest last: a folder without one is not finished (None: folder.Folder writes it). `described` is swarm.json
    without its schema."""
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    write_atomic(folder / TRAJECTORIES, b"".join(encode(one) + b"\n" for one in runs))
    write_atomic(folder / ABOUT, pretty({"schema": SCHEMA, **described}))
    if manifest is not None:
        write_atomic(folder / MANIFEST, pretty({"schema": "manifest/1", **manifest}))


def _convert(value: Any, where: str) -> Trajectory:
    if isinstance(value, dict) and value.get("schema", TRAJECTORY) != TRAJECTORY:
        raise BadInput(f"{where}: schema: expected {TRAJECTORY}, got {value['schema']!r}")
    try:
        return msgspec.convert(value, Trajectory)
    except msgspec.ValidationError as error:
        raise BadInput(f"{where}: {readable(error)}; expected a run of a swarm") from None


def _checked(one: Trajectory, where: str, imported: bool) -> Trajectory:
    """What everybody who reads runs relies on. Own runs have both roles, the same domains in roles, available, base and feedback, text and
    a base of every domain, and as many steps as the budget says (failed ones up to so many, and no base where it could not be measured).
    Imported ones have metrics in place of domains, no text, and perhaps no targets. A loss of 0 is a number: text may be learned by heart."""
    if not one.roles:
        raise BadInput(f"{where}: roles: empty; expected a role for each domain")
    for name, role in one.roles.items():
        if role not in ("source", "target"):
            raise BadInput(f"{where}: roles: {name}: {role!r}; expected source or target")
    if one.status not in ("done", "failed"):
        raise BadInput(f"{where}: status: {one.status!r}; expected done or failed")
    if one.status == "done" and not one.steps:
        raise BadInput(f"{where}: steps: empty; a run that is done has one or more")
    seen = 0
    for number, step in enumerate(one.steps):
        at = f"{where}: steps: step {step.step}"
        if step.step != number:
            raise BadInput(f"{where}: steps: step: expected {number}, got {step.step}; steps are numbered 0, 1, 2, ...")
        if unknown := [name for name in step.weights if name not in one.roles]:
            raise BadInput(f"{at}: weights: {unknown[0]}: has no role; expected one of {', '.join(one.roles)}")
        step.weights = tidy(step.weights, f"{at}: weights")
        if step.tokens_seen < seen:
            raise BadInput(f"{at}: tokens_seen: {step.tokens_seen}; expected {seen} or more")
        seen = step.tokens_seen
        for name, loss in step.feedback.items():
            if one.status == "done" and not np.isfinite(loss):
                raise BadInput(f"{at}: feedback: {name}: expected a number, got {loss}")
            if not imported and not 0 <= loss <= LARGE:
                raise BadInput(f"{at}: feedback: {name}: expected a loss in 0..{LARGE:g}, got {loss:g}")
        if not imported and one.status == "done":
            _same_domains(step.feedback, one, f"{at}: feedback")
    if not imported:
        _check_domains(one, where)
    _check_budget(one, where, 0 if imported else 1)
    return one


def _check_domains(one: Trajectory, where: str) -> None:
    for role in ("source", "target"):
        if one.steps and role not in one.roles.values():
            raise BadInput(f"{where}: roles: expected one {role} domain or more")
    _same_domains(one.available, one, f"{where}: available")
    _same_domains(one.base, one, f"{where}: base")
    for name, size in one.available.items():
        if size <= 0:
            raise BadInput(f"{where}: available: {name}: expected 1 token or more, got {size}")
    for name, loss in one.base.items():
        if one.steps and not SMALL <= loss <= LARGE:
            raise BadInput(f"{where}: base: {name}: expected a loss in {SMALL:g}..{LARGE:g}, got {loss:g}")


def _same_domains(field: dict[str, Any], one: Trajectory, at: str) -> None:
    if odd := [name for name in one.roles if name not in field]:
        raise BadInput(f"{at}: {odd[0]}: expected a number for each domain of roles, got none")
    if odd := [name for name in field if name not in one.roles]:
        raise BadInput(f"{at}: {odd[0]}: has no role; expected one of {', '.join(one.roles)}")


def _check_budget(one: Trajectory, where: str, least: int) -> None:
    """least: tokens of a step."""
    budget, at = one.budget, f"{where}: budget"
    if budget.tokens < least:
        raise BadInput(f"{at}: tokens: expected {least} or more, got {budget.tokens}")
    if budget.steps < 1:
        raise BadInput(f"{at}: steps: expected 1 or more, got {budget.steps}")
    if not 0 <= budget.source_share <= 1:
        raise BadInput(f"{at}: source_share: expected a share in 0..1, got {budget.source_share:g}")
    if not (np.isfinite(budget.max_epochs) and budget.max_epochs >= 0):
        raise BadInput(f"{at}: max_epochs: expected a number of 0 or more, got {budget.max_epochs:g}")
    n = len(one.steps)
    if n > budget.steps or (one.status == "done" and n < budget.steps):
        raise BadInput(f"{at}: steps: expected the {n} that the run has, got {budget.steps}")
