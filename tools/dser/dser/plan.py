"""`dser plan`: how many chains of how many iterations a budget buys, and which split of it is most often right.

From a run's logs: each problem's answer-level chain (trace.answer_chain) is simulated with the K chains of N
iterations that the tokens allow, for a ladder of N; the best is told.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from dser.log import Problem, read_log
from dser.simulate import run_windows
from dser.trace import AnswerChain, Trace, answer_chain
from dser.vote import Grader
from tenfold_shared import BadInput

Record = dict[str, Any]
LADDER = (0, 1, 2, 3, 5, 8, 10, 15, 20, 30, 40, 60, 80)
MOST_CHAINS = 512
DRAWS = 200_000  # chain-iterations a problem and rung


def plan_of(problems: Iterable[Problem], budget: int, seed: int = 0, count: int | None = None) -> Record:
    """`{chains, iterations, tokens, p_correct, ladder}` for `budget` tokens, prompts and replies as `solve` counts them,
    over `count` problems (by default as many as the log holds). What an iteration costs is the mean of those run, under
    their policy. Raises BadInput without gold answers, right ones, iterations, or money for one chain."""
    grader = Grader()
    settings, model = None, ""
    chains_of: list[AnswerChain | None] = []
    spent, begun, begins, turns = 0, 0, 0, 0  # tokens, those of solutions 0, how many these are, iterations after them
    any_problem = False
    for problem in problems:
        any_problem = True
        trace = Trace(problem, grader)
        if not trace.graded:
            continue
        settings, model = settings or trace.settings, model or trace.model
        if trace.settings != settings:
            raise BadInput("plan: the log holds runs of different settings; plan from one at a time")
        chains_of.append(answer_chain(trace))
        spent += trace.tokens + sum(trace.prompted.values())
        begun += sum(trace.lengths[0][1::2]) if trace.lengths else 0
        begins += int((trace.codes[:, 0] != -2).sum())
        turns += int((trace.codes[:, 1:] != -2).sum())
    if not any_problem:
        raise BadInput("input: expected at least one step of `dser solve`, got none")
    if settings is None:
        raise BadInput("plan: the run has no gold answers, so that nothing is known of right and wrong")
    if not settings.procedure.iterations:
        raise BadInput("plan: the run has no iterations, so that nothing is known of transitions")
    if settings.procedure.policy.startswith("stop"):
        raise BadInput(
            f"plan: chains of {settings.procedure.policy} end by themselves, so that longer ones are not known; plan from a "
            "run with --policy always or keep-on-pass"
        )
    if not any(chains_of):
        raise BadInput("plan: the right answer was never given, so that no split of the tokens is better than another")
    if not begun:
        raise BadInput("plan: the run tells no token counts; the server gave no usage")
    first, more = begun / begins, (spent - begun) / max(1, turns)
    each = budget / (count or len(chains_of))
    rungs = []
    for n in LADDER:
        price = first + n * more
        chains = min(MOST_CHAINS, int(each / price))
        if chains < 1:
            continue
        window = min(settings.window, n + 1)
        right = [_right(chain, chains, n, window, seed) for chain in chains_of]
        rungs.append(
            {
                "iterations": n,
                "chains": chains,
                "tokens": round(chains * price * (count or len(chains_of))),
                "p_correct": round(float(np.mean([p for p, _ in right])), 5),
                "stderr": round(math.sqrt(sum(e * e for _, e in right)) / len(right), 5),
            }
        )
    if not rungs:
        raise BadInput(
            f"--budget-tokens {budget}: does not buy one solution for each problem; {math.ceil(first)} tokens each are needed"
        )
    best = max(rungs, key=lambda rung: (rung["p_correct"], -rung["tokens"]))
    return {
        **{key: best[key] for key in ("chains", "iterations", "tokens", "p_correct")},
        "window": min(settings.window, best["iterations"] + 1),
        "budget": budget,
        "problems": count or len(chains_of),
        "tokens_per_chain": {"first": round(first, 2), "iteration": round(more, 2)},
        "most_chains": MOST_CHAINS,
        "longest_seen": settings.procedure.iterations,
        "ladder": rungs,
        "simulated": model.startswith("sim:"),
    }


def _right(chain: AnswerChain | None, chains: int, iterations: int, window: int, seed: int) -> tuple[float, float]:
    """(P(the vote is right), its Monte Carlo error) of a problem. 0 where the right answer was never given."""
    if chain is None:
        return 0.0, 0.0
    runs = int(np.clip(DRAWS // (chains * (iterations + 1)), 24, 400))
    mute = len(chain.matrix) - 1
    won = run_windows(chain.matrix, chain.start, chains, iterations, window, runs, seed, mute=mute)
    return float(won.mean()), float(won.std(ddof=1) / math.sqrt(runs))


def run(folder: str, *, tokens: int, problems: int | None, seed: int, as_json: bool) -> int:
    """The verb `plan`."""
    found = plan_of(read_log(folder), tokens, seed, problems)
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return 0
    from rich.table import Table

    from tenfold_shared.cli import print_table

    table = Table(
        "iterations", "chains", "tokens", "P(vote right)", title=f"{tokens} tokens, {found['problems']} problems"
    )
    for rung in found["ladder"]:
        best = rung["iterations"] == found["iterations"]
        row = [rung["iterations"], rung["chains"], rung["tokens"], f"{rung['p_correct']:.4f} ± {rung['stderr']:.4f}"]
        table.add_row(*map(str, row), style="bold" if best else None)
    print_table(table)
    told = (
        ""
        if found["iterations"] <= found["longest_seen"]
        else " (longer than what was run: it assumes that nothing changes)"
    )
    sys.stdout.write(f"best: --chains {found['chains']} --iterations {found['iterations']}{told}\n")
    return 0
