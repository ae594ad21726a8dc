"""Models whose transitions are known: `--model sim:FILE`, and `dser simulate`, the theory beside its Monte Carlo.

A sim file is JSON: {"p_ic": .12, "p_ci": .05, "p_0": .2, "tpr": .7, "fpr": .4, "wrong": 3}, or {"skill": {"tpr",
"fpr", "ic_pass", "ic_fail", "ci_pass", "ci_fail"}, "p_0"}, or {"matrix": [[…]], "initial": […], "answers": […]} with
the right answer first; "problems": {ID: the same} tells problems apart, and "tokens" is what each call generates. It
is not a model, and every output says so.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import numpy as np

from dser import markov
from tenfold_shared import BadInput
from tenfold_shared.generate import Completion, Request, Sampling
from tenfold_shared.jsonl import read_text
from tenfold_shared.records import readable

Record = dict[str, Any]
_STATE = re.compile(r"sim:\\boxed\{(.*?)\}:sim", re.DOTALL)
_VERDICT = re.compile(r"sim review: VERDICT: (PASS|FAIL)")


class Skilled(msgspec.Struct, forbid_unknown_fields=True):
    tpr: float
    fpr: float
    ic_pass: float
    ic_fail: float
    ci_pass: float
    ci_fail: float


class World(msgspec.Struct, forbid_unknown_fields=True):
    """What a sim file says of a problem (see the module's text)."""

    p_ic: float | None = None
    p_ci: float | None = None
    p_0: float = 0.5
    tpr: float = 0.5
    fpr: float = 0.5
    wrong: int = 1
    skill: Skilled | None = None
    matrix: list[list[float]] | None = None
    initial: list[float] | None = None
    answers: list[str] | None = None
    tokens: int = 100


class SimFile(World):
    problems: dict[str, World] = {}


def read_sim(path: str) -> SimFile:
    """A sim file. Raises BadInput naming the field."""
    try:
        found = msgspec.json.decode(read_text(path), type=SimFile)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"sim:{path}: {readable(error)}") from None
    for name, world in [("", found), *found.problems.items()]:
        if not name and found.problems and world.p_ic is None and world.skill is None and world.matrix is None:
            continue
        _check(f"sim:{path}{': ' + name if name else ''}", world)
    return found


def _check(where: str, world: World) -> None:
    given = [world.p_ic is not None or world.p_ci is not None, world.skill is not None, world.matrix is not None]
    if sum(given) != 1:
        raise BadInput(f"{where}: expected one of p_ic with p_ci, skill, or matrix")
    if given[0] and (world.p_ic is None or world.p_ci is None):
        raise BadInput(f"{where}: expected both p_ic and p_ci")
    chances = {name: getattr(world, name) for name in ("p_ic", "p_ci", "p_0", "tpr", "fpr")}
    chances |= msgspec.structs.asdict(world.skill) if world.skill else {}
    for name, value in chances.items():
        if value is not None and not 0 <= value <= 1:
            raise BadInput(f"{where}: {name}: expected a chance from 0 to 1, got {value}")
    if world.wrong < 1 or world.tokens < 0:
        raise BadInput(f"{where}: expected at least one wrong answer and tokens of at least 0")
    if world.matrix is not None:
        size = len(markov.checked(world.matrix))
        for name, value in (("initial", world.initial), ("answers", world.answers)):
            if value is not None and len(value) != size:
                raise BadInput(f"{where}: {name}: expected {size} entries, one a state, got {len(value)}")
        if world.initial is None or abs(sum(world.initial) - 1) > 1e-6 or min(world.initial) < 0:
            raise BadInput(f"{where}: initial: expected a distribution over the {size} states")


class SimGenerator:
    """A `Generator` whose replies follow the file's transition chances; each depends on its request alone."""

    batch_size: int | None = None

    def __init__(self, path: str) -> None:
        self._file, self.model = read_sim(path), f"sim:{path}"
        self._golds: dict[str, str] = {}

    def tell(self, task: Record) -> None:
        """The problem's right answer: the simulated model must know what it is right or wrong about."""
        gold = task.get("answer")
        self._golds[task["id"]] = str(gold[0] if isinstance(gold, list) else gold) if gold else "1"

    def count_tokens(self, request: Request) -> int | None:
        return None

    def close(self) -> None:
        """Nothing is held."""

    def _world(self, name: str) -> tuple[World, list[str]]:
        world = self._file.problems.get(name, self._file)
        if world is self._file and world.p_ic is None and world.skill is None and world.matrix is None:
            raise BadInput(f"{self.model}: {name}: the file has no such problem and nothing for all of them")
        if world.answers is not None:
            return world, world.answers
        gold = self._golds.get(name, "1")
        count = len(world.matrix) - 1 if world.matrix is not None else world.wrong
        wrong = [str(int(gold) + j + 1) if gold.isdecimal() else f"wrong{j + 1}" for j in range(count)]
        return world, [gold, *wrong]

    def generate(self, requests: Iterable[Request | None], sampling: Sampling) -> Iterator[Completion]:
        for request in requests:
            if request is not None:
                yield self._reply(request)

    def _reply(self, request: Request) -> Completion:
        name, _, _, role = request.key.split("\x1f")
        world, known = self._world(name)
        draw = random.Random(request.seed)
        asked = str((request.messages or [{}])[-1].get("content"))
        states = _STATE.findall(asked)
        if role == "check":
            text = f"VERDICT: {(_VERDICT.findall(asked) or ['none'])[-1]}"
        elif role == "verify":
            right = states[-1] == known[0]
            rates = world.skill or world
            passed = draw.random() < (rates.tpr if right else rates.fpr)
            text = f"sim review: VERDICT: {'PASS' if passed else 'FAIL'}"
        else:
            text = f"sim:\\boxed{{{self._next(world, known, states, asked, draw)}}}:sim"
        return Completion(request.key, text, "stop", len(asked) // 4, world.tokens, self.model)

    @staticmethod
    def _next(world: World, known: list[str], states: list[str], asked: str, draw: random.Random) -> str:
        if world.matrix is not None:
            row = world.initial if not states else world.matrix[known.index(states[-1])]
            return draw.choices(known, row)[0]
        wrong = known[1:]
        if not states:
            return known[0] if draw.random() < world.p_0 else draw.choice(wrong)
        right = states[-1] == known[0]
        if world.skill is not None:
            verdicts = _VERDICT.findall(asked)
            kind = "pass" if verdicts and verdicts[-1] == "PASS" else "fail"
            p = getattr(world.skill, f"{'ci' if right else 'ic'}_{kind}")
        else:
            p = world.p_ci if right else world.p_ic
        if draw.random() >= p:
            return states[-1]
        return draw.choice(wrong) if right else known[0]


# ---------------------------------------------------------------- the verb


def run_windows(
    matrix: Any, initial: Any, chains: int, iterations: int, window: int, runs: int, seed: int, mute: int | None = None
) -> Any:
    """(runs,) of 1, 0 or a tie's share: whether state 0 has the most votes in the windows of simulated chains.

    mute: a state that stands for many answers and none, which never wins.
    """
    m = markov.checked(matrix).cumsum(1)
    m[:, -1] = 1.0
    start = np.asarray(initial, dtype=float).cumsum()
    start[-1] = 1.0
    rng = np.random.default_rng(seed)
    size = len(m)
    won = np.empty(runs)
    block = max(1, min(runs, 4_000_000 // max(1, chains)))
    for at in range(0, runs, block):
        count = min(block, runs - at)
        now = np.searchsorted(start, rng.random((count, chains)), side="right")
        votes = np.zeros((count, size), dtype=np.int32)
        for step in range(iterations + 1):
            if step:
                u = rng.random((count, chains, 1))
                now = (u >= m[now]).sum(-1)
            if step > iterations - window:
                for state in range(size):
                    votes[:, state] += (now == state).sum(1)
        if mute is not None:
            votes[:, mute] = -1
        best = votes.max(1)
        ties = (votes == best[:, None]).sum(1)
        won[at : at + count] = np.where((votes[:, 0] == best) & (best > 0), 1 / ties, 0.0)
    return won


def simulated(
    matrix: Any, initial: Any, chains: int, iterations: int, window: int, seed: int, runs: int = 20_000
) -> Record:
    """`{p_n, pi_c, lambda, majority, mc: {value, stderr}}` of a chain whose state 0 is the right answer.

    majority: P(right) of K independent votes at the last iteration, exact. mc: of the vote over the window, where a
    chain's votes hang together.
    """
    m = markov.checked(matrix)
    now, p_n = np.asarray(initial, dtype=float), []
    for step in range(iterations + 1):
        now = now @ m if step else now
        p_n.append(float(now[0]))
    try:
        pi = markov.stationary_of(m)
    except BadInput:
        pi = None
    two = len(m) == 2
    eigen = sorted(np.abs(np.linalg.eigvals(m)), reverse=True)
    won = run_windows(m, initial, chains, iterations, min(window, iterations + 1), runs, seed)
    return {
        "p_n": p_n,
        "pi_c": None if pi is None else float(pi[0]),
        "stationary": None if pi is None else pi.tolist(),
        "lambda": float(1 - m[1, 0] - m[0, 1]) if two else float(eigen[1]) if len(eigen) > 1 else 0.0,
        "two_state_condition": bool(m[1, 0] > m[0, 1]) if two else None,
        "plurality_condition": None if pi is None or len(pi) < 2 else bool(pi[0] > pi[1:].max()),
        "majority": markov.majority(p_n[-1], chains) if two else markov.plurality(now, chains),
        "mc": {"value": float(won.mean()), "stderr": float(won.std(ddof=1) / np.sqrt(len(won))), "runs": runs},
        "chains": chains,
        "iterations": iterations,
        "window": window,
        "simulated": True,
    }


def run(
    *,
    p_ic: float | None,
    p_ci: float | None,
    p_0: float,
    matrix: str | None,
    chains: int,
    iterations: int,
    window: int,
    runs: int,
    seed: int,
    as_json: bool,
) -> int:
    """The verb `simulate`."""
    if (matrix is None) == (p_ic is None or p_ci is None) or (matrix is not None and (p_ic, p_ci) != (None, None)):
        raise BadInput("simulate: expected --p-ic with --p-ci, or --matrix FILE")
    if matrix is not None:
        try:
            given = json.loads(read_text(matrix))
        except (ValueError, RecursionError) as error:
            raise BadInput(f"--matrix {matrix}: not JSON: {error}") from None
        table = given.get("matrix") if isinstance(given, dict) else given
        try:
            rows = markov.checked(table if table is not None else [])
        except BadInput as error:
            raise BadInput(f"--matrix {matrix}: {error}") from None
        initial = given.get("initial") if isinstance(given, dict) else None
        if initial is None:  # wrong at first with chance 1 − p_0, the wrong answers alike
            initial = [p_0, *[(1 - p_0) / max(1, len(rows) - 1)] * (len(rows) - 1)] if len(rows) > 1 else [1.0]
        try:
            start = msgspec.convert(initial, list[float])
        except msgspec.ValidationError as error:
            raise BadInput(f"--matrix {matrix}: initial: {error}") from None
        if len(start) != len(rows) or not all(p >= 0 for p in start) or not abs(sum(start) - 1) <= 1e-6:
            raise BadInput(f"--matrix {matrix}: initial: expected a distribution over the {len(rows)} states")
        initial = start
    else:
        assert p_ic is not None and p_ci is not None
        rows, initial = markov.checked([[1 - p_ci, p_ci], [p_ic, 1 - p_ic]]), [p_0, 1 - p_0]
    found = simulated(rows, initial, chains, iterations, window, seed, runs)
    if as_json:
        print(json.dumps(found))
    else:
        print_summary(found)
    return 0


def print_summary(found: Record) -> None:
    from rich.table import Table

    from tenfold_shared.cli import print_table

    table = Table("n", "P(correct)", title="simulated chain")
    shown = sorted({0, 1, 2, 3, 5, 10, 20, 40, 80, found["iterations"]})
    for n in shown:
        if n < len(found["p_n"]):
            table.add_row(str(n), f"{found['p_n'][n]:.4f}")
    print_table(table)
    pi = "the start decides" if found["pi_c"] is None else f"{found['pi_c']:.4f}"
    print(f"stationary P(correct): {pi}; lambda {found['lambda']:.4f}")
    print(f"{found['chains']} independent votes right: {found['majority']:.4f}")
    mc = found["mc"]
    print(f"vote of {found['chains']} chains, window {found['window']}: {mc['value']:.4f} ± {mc['stderr']:.4f}")
    sys.stdout.flush()
