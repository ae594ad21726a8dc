"""The vote over the late iterations of all chains, and `dser vote`.

Answers are one class where their canonical keys are equal; classes are then merged by pairwise equivalence
(tenfold_shared.answers), and merges are told. No answer never wins.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from dser import markov
from dser.chain import Chain
from dser.log import Problem, emit, read_log
from tenfold_shared import BadInput, answers

Record = dict[str, Any]
RULES = ("plurality", "passes", "accepted")
MOST_KNOWN = 10_000  # graded pairs that are remembered
MOST_PAIRS = 200  # equivalences asked for a problem; the likeliest answers first


class Classes:
    """The classes of a problem's distinct answers: `of[answer]` is a class number, `shown[class]` its commonest text.

    merges: pairs of keys that were found equal beyond their spelling. Order of chains and iterations plays no part.
    """

    def __init__(self, counted: Counter[str], deadline: float = 2.0) -> None:
        keys = {answer: answers.key(answer) for answer in counted}
        weight: Counter[str] = Counter()
        for answer, count in counted.items():
            weight[keys[answer]] += count
        order = sorted(weight, key=lambda key: (-weight[key], key))
        parent = {key: key for key in order}
        self.merges: list[tuple[str, str]] = []
        plain = {key: bool(_PLAIN.fullmatch(key)) for key in order}
        pairs = ((a, b) for a, b in itertools.combinations(order, 2) if not (plain[a] and plain[b]))
        for a, b in itertools.islice(pairs, MOST_PAIRS):
            if _root(parent, a) != _root(parent, b) and _equal(a, b, deadline):
                parent[_root(parent, b)] = _root(parent, a)
                self.merges.append((a, b))
        roots = {key: at for at, key in enumerate(key for key in order if _root(parent, key) == key)}
        self.of = {answer: roots[_root(parent, key)] for answer, key in keys.items()}
        spelled: dict[int, Counter[str]] = {}
        for answer, count in counted.items():
            spelled.setdefault(self.of[answer], Counter())[answer] += count
        self.shown = [_commonest(spelled[number]) for number in range(len(roots))]


def _commonest(spellings: Counter[str]) -> str:
    return min(spellings, key=lambda answer: (-spellings[answer], len(answer), answer))


_PLAIN = re.compile(r"-?\d+")


def _root(parent: dict[str, str], key: str) -> str:
    while parent[key] != key:
        key = parent[key]
    return key


def _equal(a: str, b: str, deadline: float) -> bool:
    first, second = sorted((a, b))
    return answers.grade(first, f"\\boxed{{{second}}}", deadline=deadline).grade == "correct"


class Ballot(msgspec.Struct):
    """A problem's vote. counts: one entry a class, most votes first: answer, votes, chains, passes. chain: the
    lowest-numbered chain whose latest answer is the vote (else that has it in its window); iteration: where.
    confidence: chance that the leader leads in truth, given effective votes (Dirichlet, union bound over rivals).
    """

    answer: str | None
    counts: list[Record]
    votes: float
    effective_votes: float
    confidence: float
    tie: bool
    chain: int | None
    iteration: int | None
    merges: list[tuple[str, str]]


def vote(
    problem: Problem, window: int | None = None, rule: str | None = None, upto: int | None = None, deadline: float = 2.0
) -> Ballot:
    """The vote over the last `window` iterations of each chain, counting iterations up to `upto` only.

    A chain that a policy ended keeps its last answer to the end: its window is filled with it. rule: plurality counts
    cells; passes weighs an answer by the share of its reviews that passed; accepted counts chains that stop-on-pass
    accepted only. Ties: more chains, then more passes, then the earliest chain. Nothing that was not in a cell is
    ever the answer. Of iteration `upto` no review counts: whether it was made before a problem was stopped there is
    chance.
    """
    settings = problem.settings
    window = window or settings.window
    rule = rule or settings.rule
    end = settings.procedure.iterations if upto is None else upto
    cells: dict[int, list[str | None]] = {}
    own: dict[int, int] = {}  # cells of the window that the chain made, the others are filled with its last
    passed: Counter[str] = Counter()
    reviewed: Counter[str] = Counter()
    for index in sorted(problem.chains):
        chain = problem.chains[index]
        row = chain.cells[: end + 1]
        ended = ended_by(chain, upto)
        if not row or (rule == "accepted" and ended != "accepted"):
            continue
        own[index] = min(len(row), window)
        if ended and len(row) <= end:
            own[index] = max(0, len(row) - max(0, end + 1 - window))
            row = row + [row[-1]] * (end + 1 - len(row))
        cells[index] = row[-window:]
        for answer, verdict in zip(chain.cells[: end + 1], chain.verdicts[:upto], strict=False):
            if answer is not None and verdict in ("pass", "fail"):
                reviewed[answer] += 1
                passed[answer] += verdict == "pass"
    counted = Counter(answer for row in cells.values() for answer in row if answer is not None)
    classes = Classes(counted, deadline)
    size = len(classes.shown)
    votes, chains = np.zeros(size), np.zeros(size, dtype=int)
    passes, reviews, first = np.zeros(size, dtype=int), np.zeros(size, dtype=int), np.full(size, 1 << 30)
    for answer in counted:
        passes[classes.of[answer]] += passed[answer]
        reviews[classes.of[answer]] += reviewed[answer]
    for index, row in cells.items():
        seen = Counter(classes.of[answer] for answer in row if answer is not None)
        for found, count in seen.items():
            votes[found] += count
            chains[found] += 1
            first[found] = min(first[found], index)
    weighed = votes * (passes + 0.5) / (reviews + 1) if rule == "passes" else votes
    order = sorted(range(size), key=lambda c: (-weighed[c], -chains[c], -passes[c], first[c]))
    counts = [
        {
            "answer": classes.shown[c],
            "votes": int(votes[c]) if rule != "passes" else round(float(weighed[c]), 3),
            "chains": int(chains[c]),
            "passes": int(passes[c]),
        }
        for c in order
    ]
    if not order:
        return Ballot(None, [], 0, 0.0, 0.0, False, None, None, [])
    winner = order[0]
    tie = len(order) > 1 and weighed[order[1]] == weighed[winner]
    effective = _effective(problem, cells, own, classes, winner, end)
    confidence = leads(np.array([votes[c] for c in order]), effective)
    speaker, iteration = _spokesman(cells, own, classes, winner, problem, end)
    return Ballot(
        classes.shown[winner],
        counts,
        int(votes.sum()),
        round(effective, 2),
        round(confidence, 4),
        bool(tie),
        speaker,
        iteration,
        classes.merges,
    )


def ended_by(chain: Chain, upto: int | None) -> str | None:
    """Why the chain had ended before iteration `upto`; at it, nobody knows whether its last review was made."""
    return chain.ended if upto is None or len(chain.cells) <= upto else None


def _spokesman(
    cells: dict[int, list[str | None]], own: dict[int, int], classes: Classes, winner: int, problem: Problem, end: int
) -> tuple[int, int]:
    """(chain, iteration) whose solution text stands for the vote: the lowest chain that holds it now, else the lowest
    that has it in its window."""

    def of(answer: str | None) -> int | None:
        return None if answer is None else classes.of[answer]

    for index, row in cells.items():
        if of(row[-1]) == winner:
            return index, min(end, len(problem.chains[index].cells) - 1)
    for index, row in cells.items():
        last = min(end, len(problem.chains[index].cells) - 1)
        for back, answer in enumerate(reversed(row[: max(1, own[index])])):
            if of(answer) == winner:
                return index, last - back
    raise AssertionError("the vote's winner is in no window")


def _effective(
    problem: Problem, cells: dict[int, list[str | None]], own: dict[int, int], classes: Classes, winner: int, end: int
) -> float:
    """Independent votes in the windows, from how often the problem's chains leave the leader and come to it.

    λ = 1 − (p to the leader) − (p from it), each with one pseudo-transition that mostly stays: what was never seen to
    move is taken to move seldom, and its window to be few votes. Cells that are copies of an ended chain's last answer
    add nothing to it.
    """
    moved = np.array([[0.9, 0.1], [0.1, 0.9]])
    for index in cells:
        row = problem.chains[index].cells[: end + 1]
        led = [answer is not None and classes.of.get(answer, -1) == winner for answer in row]
        for before, after in itertools.pairwise(led):
            moved[int(before), int(after)] += 1
    lam = 1 - moved[0, 1] / moved[0].sum() - moved[1, 0] / moved[1].sum()
    lam = float(np.clip(lam, 0.0, 0.999))
    return sum(
        markov.effective_votes(filled, lam)
        for index, row in cells.items()
        if (filled := sum(answer is not None for answer in row[: max(1, own[index])]))
    )


def leads(votes: np.ndarray[Any, Any], effective: float) -> float:
    """Lower bound of P(the first share is the largest | votes scaled to `effective`), with half a vote of prior for
    each answer and for one not yet seen: 1 − Σ_j P(θ_j > θ_1), each a Beta tail. 0 without any vote."""
    from scipy.special import betainc

    total = votes.sum()
    if total <= 0:
        return 0.0
    scaled = np.append(votes * (effective / total), 0.0) + 0.5
    return float(max(0.0, 1 - betainc(scaled[0], scaled[1:], 0.5).sum()))


def answer_record(problem: Problem, ballot: Ballot, status: str, correct: bool | None, stopped: int | None) -> Record:
    """A line of answers.jsonl."""
    record: Record = {
        "schema": "answer/1",
        "id": problem.name,
        "answer": ballot.answer,
        "votes": ballot.counts,
        "effective_votes": ballot.effective_votes,
        "confidence": ballot.confidence,
        "tie": ballot.tie,
        "status": status,
        "chain": ballot.chain,
        "iteration": ballot.iteration,
        "generated_tokens": sum(problem.generated.values()),
        "prompt_tokens": sum(problem.prompted.values()),
    }
    if problem.gold is not None:
        record |= {"gold": problem.gold, "correct": correct}
    if stopped is not None:
        record["stopped_at"] = stopped
    if ballot.merges:
        record["merged"] = [list(pair) for pair in ballot.merges]
    return record


class Grader:
    """correct(task, answer) by tenfold_shared.answers, of late pairs each once. None: there is no gold to hold it to."""

    def __init__(self, deadline: float = 2.0) -> None:
        self._known: dict[tuple[str, str, str], bool] = {}
        self.deadline = deadline

    def correct(self, task: Record | None, answer: str | None) -> bool | None:
        gold = (task or {}).get("answer")
        if gold in (None, "", []):
            return None
        if answer is None:
            return False
        match = ((task or {}).get("meta") or {}).get("match", "any")
        key = (json.dumps(gold), match, answer)
        if key not in self._known:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            found = answers.grade(gold, f"\\boxed{{{answer}}}", deadline=self.deadline, match=match)
            self._known[key] = found.grade == "correct"
        return self._known[key]


def status_of(problem: Problem, ballot: Ballot, stopped: int | None, failed: bool, cut: bool) -> str:
    """done, early (stopped with --early-stop), partial (some chains failed), budget, no_answer."""
    if ballot.answer is None:
        return "failed" if failed else "budget" if cut else "no_answer"
    if failed:
        return "partial"
    if stopped is not None:
        return "early"
    return "budget" if cut else "done"


def stop_iteration(problem: Problem, threshold: float, level: int) -> bool:
    """Whether --early-stop ends a problem at iteration `level`, of which all chains have a cell or have ended.

    Not before a whole window lies behind: what the first iterations agree on is what self-consistency would say. And
    the leader must be the same over the window's older half.
    """
    window = problem.settings.window
    if level < window or threshold <= 0:
        return False
    now = vote(problem, upto=level)
    if now.answer is None or now.tie or now.confidence < threshold:
        return False
    half = vote(problem, window=max(1, window // 2), upto=level - window // 2)
    return half.answer is not None and not half.tie and answers.key(half.answer) == answers.key(now.answer)


def stopped_at(problem: Problem) -> int | None:
    """The iteration at which --early-stop ended the problem, found again from its chains; None where it did not."""
    threshold = problem.settings.early_stop
    if threshold <= 0 or len(problem.chains.keys() | problem.failed.keys()) < problem.settings.chains:
        return None
    for level in range(problem.settings.window, problem.settings.procedure.iterations):
        if any(
            len(chain.cells) <= level and not chain.ended and index not in problem.failed
            for index, chain in problem.chains.items()
        ):
            return None
        if stop_iteration(problem, threshold, level):
            return level
    return None


def outcome(
    problem: Problem, grader: Grader, stopped: int | None, window: int | None = None, rule: str | None = None
) -> tuple[Ballot, Record, bool]:
    """(the vote, its line of answers.jsonl, whether calls were left to make) of a problem as it stands."""
    ballot = vote(problem, window, rule, upto=stopped)
    failures = [error for _, error in sorted(problem.failed.items())]
    cut = stopped is None and any(
        index not in problem.failed and (index not in problem.chains or not problem.chains[index].ended)
        for index in range(problem.settings.chains)
    )
    status = status_of(problem, ballot, stopped, bool(failures), cut)
    record = answer_record(problem, ballot, status, grader.correct(problem.task, ballot.answer), stopped)
    if failures:
        record |= {"failed_chains": len(failures), "error": failures[0]}
    return ballot, record, cut


def run(folder: str, *, window: int | None, rule: str | None, output: str | None, overwrite: bool) -> int:
    """The verb `vote`."""
    grader = Grader()

    def voted() -> Iterator[Record]:
        problem = None
        for problem in read_log(folder):
            policy = problem.settings.procedure.policy
            if rule == "accepted" and policy != "stop-on-pass":
                raise BadInput(f"--vote accepted: chains of {policy} are never accepted; only stop-on-pass:M has such")
            _, record, _ = outcome(problem, grader, stopped_at(problem), window, rule)
            if record["status"] == "budget":
                record["status"] = "unfinished"  # the steps do not tell what kept them from going on
            yield record
        if problem is None:
            raise BadInput(f"{folder}: expected at least one step of `dser solve`, got none")

    emit(voted(), output, overwrite)
    return 0
