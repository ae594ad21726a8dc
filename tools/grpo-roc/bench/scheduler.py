"""Admission policies on modelled engines, beside a static split, least in flight and a barrier after each turn; and what an admission costs here: an object a line (make bench-grpo-roc).

Traces are made up (generate: log-normal lengths of mean 4096 cut at 12,288, groups of 16, 2.75 calls of 0.3 s with a long tail). Makespans are simulated seconds, means over seeds; `ratio` is the mean of the
seeds' ratios and `ratio_least` the least of them; `floor` is max(all tokens at the best rate over all engines, the longest trajectory alone), `floor_with_caches` also counts what caches can hold.

    gpu    256 trajectories an engine; r(b) = 100 b / (1 + b / 32) tokens/s, prefill 10,000: assumed of a 14B model in bf16 on an 80 GB GPU, 43 GB of it cache
    slow   the same, r(b) = 100 b / (1 + b / 4), prefill 1250: an engine that a few trajectories fill
    loose  64 an engine on the first kind: everything fits at once
    tight  64 an engine, caches of 49,152: four places an engine by the paper's rule

`--only CASE` for one case, `--quick` for a look.
"""

import argparse
import functools
import time
from collections import deque
from typing import Any

import env

from grpo_roc import scheduler, simulate
from grpo_roc.scheduler import Admission, Settings, Trajectory
from grpo_roc.simulate import Model
from grpo_roc.traces import Trace, generate

row = functools.partial(env.row, command="python tools/grpo-roc/bench/scheduler.py")
MOST, ENGINES, SEEDS = 12_288, 8, 5
KNOWN = "kv-mean, last step's lengths known"
KINDS = {
    "gpu": (2048, 262_144, 32.0, 10_000.0),
    "slow": (2048, 262_144, 4.0, 1250.0),
    "loose": (512, 262_144, 32.0, 10_000.0),
    "tight": (512, 49_152, 32.0, 10_000.0),
}


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def policies(kind: str, quick: bool) -> None:
    """Every policy on the same traces."""
    n, cache, half, prefill = KINDS[kind]
    n = n // 8 if quick else n
    engines, seeds = (1 if quick else ENGINES), (2 if quick else SEEDS)
    model = Model(simulate.saturating(100.0, half), cache // 16, 16, prefill)
    found: dict[str, list[float]] = {}
    floors: list[float] = []
    caches: list[float] = []
    for seed in range(seeds):
        traces = generate(n, most=MOST, seed=seed)
        before = tuple(one.length for one in generate(n, most=MOST, seed=1000 + seed))
        bounds = simulate.bounds(traces, engines, model)
        floors.append(max(bounds["work"], bounds["longest"]))
        caches.append(max(bounds.values()))
        for name in scheduler.POLICIES:
            found.setdefault(name, []).append(one(traces, engines, model, Settings(name, MOST)))
        found.setdefault(KNOWN, []).append(one(traces, engines, model, Settings("kv-mean", MOST, seen=before)))  # fmt: skip
        found.setdefault("turns", []).append(simulate.in_turns(traces, engines, model).makespan_s)
    peers = {"static": "static split", "least": "least in flight", "turns": "barrier after each turn"}
    for name, ours in found.items():
        for other, peer_name in peers.items():
            if name in ("least", "turns", other) or (name == "static" and other != "turns"):
                continue
            if other == "turns" and name not in ("static", KNOWN):
                continue
            ratios = [theirs / mine for theirs, mine in zip(found[other], ours, strict=True)]
            row(
                f"{kind}: {name}", mean(ours), "s (simulated)", peer=mean(found[other]), peer_name=peer_name, ratio=mean(ratios), floor=mean(floors),
                floor_ratio=mean([a / b for a, b in zip(ours, floors, strict=True)]), n=n, only=kind, ratio_least=min(ratios),
                floor_with_caches=mean([a / b for a, b in zip(ours, caches, strict=True)]), seeds=seeds,
            )  # fmt: skip


def one(traces: list[Trace], engines: int, model: Model, settings: Settings) -> float:
    return simulate.simulate(traces, engines, model, settings).makespan_s


def cost(quick: bool) -> None:
    """The paper's step, 16,384 trajectories on 64 engines: an event of the admission, and the whole simulation."""
    n, engines = (512, 8) if quick else (16_384, 64)
    traces = generate(n, most=MOST)
    began, events = time.perf_counter(), 0
    admission = Admission([262_144 // 16] * engines, Settings("kv-mean", MOST))
    for each in traces:
        admission.submit(Trajectory(each.id, each.prompt, each.group))
        events += 1
    lengths = {each.id: each.length for each in traces}
    running = deque(id for id, _ in admission.next())
    while running:
        id = running.popleft()
        admission.grew(id, lengths[id] // 2)
        admission.ended(id, lengths[id])
        running.extend(id for id, _ in admission.next())
        events += 3
    seconds = time.perf_counter() - began
    row(
        f"kv-mean, {n} trajectories on {engines} engines, an event", 1e6 * seconds / events, "us", n=events, only="cost"
    )
    model = Model(simulate.saturating(100.0, 32.0), 262_144 // 16)
    began = time.perf_counter()
    simulated = one(traces, engines, model, Settings("kv-mean", MOST))
    seconds = time.perf_counter() - began
    row(f"{n} trajectories on {engines} engines simulated", seconds, "s", peer=simulated, peer_name="what is simulated", ratio=simulated / seconds, n=n, only="cost")  # fmt: skip


CASES: dict[str, Any] = {**{kind: (lambda quick, kind=kind: policies(kind, quick)) for kind in KINDS}, "cost": cost}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(CASES))
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    for name, case in CASES.items():
        if given.only in (None, name):
            case(given.quick)


if __name__ == "__main__":
    main()
