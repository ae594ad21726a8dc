"""Traces of trajectories for `grpo-roc simulate`: how much each decodes, and what its tools take; read from records, or made up.

Where it sits: below simulate.py. Nothing is drawn by chance but by `generate`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import numpy as np

from tenfold_shared import BadInput
from tenfold_shared.records import RecordProblem

Record = dict[str, Any]


class Segment(msgspec.Struct, frozen=True):
    """decode: tokens; tool_s: seconds until what it asked for is there; tool_tokens: of what is then read."""

    decode: int
    tool_s: float = 0.0
    tool_tokens: int = 0


class Trace(msgspec.Struct, frozen=True):
    id: str
    segments: tuple[Segment, ...]
    prompt: int = 0
    group: str | None = None

    @property
    def decoded(self) -> int:
        return sum(one.decode for one in self.segments)

    @property
    def length(self) -> int:
        """Tokens beyond the prompt; nobody reads what the last tools say."""
        return self.decoded + sum(one.tool_tokens for one in self.segments[:-1])


def read(located: Iterable[tuple[str, Record]], tool_seconds: float = 0.3, tolerate: Callable[[BadInput], None] | None = None) -> list[Trace]:  # fmt: skip
    """Traces of {id, group?, prompt_tokens?, segments: [{decode, tool_s?, tool_tokens?}]} or of trajectory records. tool_seconds: of a trajectory's call that does not say how long it took.
    tolerate: told of a record that is none; without it, or where it raises, that is BadInput."""
    found: list[Trace] = []
    seen: set[str] = set()
    prompts: dict[str, int] = {}
    for where, record in located:
        try:
            one = trace_of(record, tool_seconds)
            if one.id in seen:
                raise RecordProblem(f"id: {one.id} appears twice; ids must be unique")
            if one.group is not None and prompts.setdefault(one.group, one.prompt) != one.prompt:
                raise RecordProblem(
                    f"prompt_tokens: {one.prompt}, and others of group {one.group} have {prompts[one.group]}"
                )
        except RecordProblem as problem:
            error = BadInput(f"{where}: {problem}")
            if tolerate is None:
                raise error from None
            tolerate(error)
            continue
        seen.add(one.id)
        found.append(one)
    return found


def trace_of(record: Record, tool_seconds: float = 0.3) -> Trace:
    """Raises RecordProblem."""
    turns = record.get("turns")
    group = record.get("group", None if turns is None else record.get("id"))
    name = record.get("id")
    if turns is not None and record.get("rollout") is not None:
        name = f"{group}/{record['rollout']}"
    for field, value, kind in (("id", name, str | int), ("group", group, str | int | None)):
        if isinstance(value, bool) or not isinstance(value, kind):
            raise RecordProblem(f"{field}: expected a string or whole number")
    if turns is not None:
        prompt, segments = _of_turns(record, turns, tool_seconds)
    else:
        prompt, segments = _whole(record, "prompt_tokens", 0), []
        for where, one in _objects(record, "segments"):
            waits, read = _seconds(one, "tool_s", 0.0, where), _whole(one, "tool_tokens", 0, where)
            segments.append(Segment(_whole(one, "decode", None, where, 1), waits, read))
    return Trace(str(name), tuple(segments), prompt, None if group is None else str(group))


def _of_turns(record: Record, turns: Any, tool_seconds: float) -> tuple[int, list[Segment]]:
    """(tokens of the prompt, segments) of a trajectory. A turn's tokens are its `tokens`; what its tools say is `tool_tokens`, else a run of zeros of the loss mask, else an equal part of what
    `usage` counts beyond the turns. Calls of a turn run at the same time."""
    listed = _objects(record, "turns")
    usage = record["usage"] if isinstance(record.get("usage"), dict) else {}
    prompt = _whole(record, "prompt_tokens", _whole(usage, "prompt_tokens", 0, "usage."))
    mask = record.get("loss_mask")
    if isinstance(mask, list) and mask:
        runs = [(bool(bit), sum(1 for _ in run)) for bit, run in itertools.groupby(mask)]
        runs = [(False, 0), *runs] if runs[0][0] else runs  # zeros before the first turn are the prompt's
        prompt += runs[0][1]
        spoken, shown = [n for bit, n in runs if bit], [n for bit, n in runs[1:] if not bit]
        if len(spoken) != len(turns):
            raise RecordProblem(
                f"loss_mask: expected a run of ones for each of {len(turns)} turns, found {len(spoken)}"
            )
    else:
        spoken = [_whole(turn, "tokens", None, where, 1) for where, turn in listed]
        rest = _whole(usage, "completion_tokens", sum(spoken), "usage.") - sum(spoken)
        shown = [max(rest, 0) // max(len(turns) - 1, 1)] * (len(turns) - 1)
    segments = []
    for (where, turn), tokens, read in zip(listed, spoken, [*shown, 0][: len(turns)], strict=True):
        waits = [
            _seconds(call, "wall_s", tool_seconds, at) + _seconds(call, "queue_s", 0.0, at)
            for at, call in _objects(turn, "calls", where, least=0)
        ]
        segments.append(Segment(tokens, max(waits, default=0.0), _whole(turn, "tool_tokens", read, where)))
    return prompt, segments


def _objects(of: Record, name: str, where: str = "", least: int = 1) -> list[tuple[str, Record]]:
    """(where, object) of a list of them."""
    listed = of.get(name) or []
    if not isinstance(listed, list) or len(listed) < least or not all(isinstance(one, dict) for one in listed):
        raise RecordProblem(f"{where}{name}: expected a list of objects{', one at least' if least else ''}")
    return [(f"{where}{name}[{k}].", one) for k, one in enumerate(listed)]


def _whole(of: Record, name: str, default: int | None, where: str = "", least: int = 0) -> int:
    value = of.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise RecordProblem(f"{where}{name}: expected a whole number, {least} or more")
    return value


def _seconds(of: Record, name: str, default: float, where: str) -> float:
    value = of.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise RecordProblem(f"{where}{name}: expected seconds, 0 or more")
    return float(value)


MOST = 12_288  # tokens of a response
CALLS, TURNS = 2.75, 10  # the paper's 45,000 calls of 16,384 trajectories; turns at most
TOOL_MEAN, TOOL_SIGMA, TOOL_MOST, TOOL_TOKENS = 0.3, 1.2, 10.0, 64
BETWEEN, WITHIN = 0.7, 0.4  # standard deviations of log-length between groups and within one


def generate(n: int, *, group_size: int = 16, mean: float = 4096, most: int = MOST, seed: int = 0) -> list[Trace]:
    """Heavy-tailed traces, made up: log-normal lengths cut at `most`, with this mean once cut, exp(mu + BETWEEN z_group + WITHIN z): problems differ more than answers to one problem. Calls: Poisson of mean CALLS, so
    many seconds each as a log-normal of mean TOOL_MEAN, cut. Prompts of 100 to 599 tokens."""
    rng, sigma = np.random.default_rng(seed), math.hypot(BETWEEN, WITHIN)
    low, high = -20.0, math.log(most) + 20
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if cut_mean(middle, sigma, most) < mean else (low, middle)
    found: list[Trace] = []
    for group in range(math.ceil(n / group_size)):
        shift, prompt = rng.normal(), int(rng.integers(100, 600))
        for rollout in range(min(group_size, n - len(found))):
            length = max(1, min(most, round(math.exp(low + BETWEEN * shift + WITHIN * rng.normal()))))
            calls = min(int(rng.poisson(CALLS)), TURNS - 1, length // (2 * TOOL_TOKENS))
            spoken = length - calls * TOOL_TOKENS - calls - 1
            parts = [int(share * spoken) for share in rng.dirichlet(np.full(calls + 1, 2.0))]
            parts[-1] += spoken - sum(parts)
            waits = np.minimum(rng.lognormal(math.log(TOOL_MEAN) - TOOL_SIGMA**2 / 2, TOOL_SIGMA, calls), TOOL_MOST)
            segments = [Segment(part + 1, round(float(wait), 4), TOOL_TOKENS) for part, wait in zip(parts, waits, strict=False)]  # fmt: skip
            found.append(Trace(f"{group}/{rollout}", (*segments, Segment(parts[-1] + 1)), prompt, str(group)))
    return found


def cut_mean(mu: float, sigma: float, most: float) -> float:
    """E min(X, most) of a log-normal X."""

    def below(z: float) -> float:
        return math.erfc(-z / math.sqrt(2)) / 2

    z = (math.log(most) - mu) / sigma
    return math.exp(mu + sigma**2 / 2) * below(z - sigma) + most * below(-z)


def record_of(one: Trace) -> Record:
    """A trace as it is read."""
    segments = [msgspec.to_builtins(segment) for segment in one.segments]
    return {"id": one.id, "group": one.group, "prompt_tokens": one.prompt, "segments": segments}
