"""The vote over the late iterations of all chains, and `dser vote` (reference 2.5).

Answers are one class where their canonical keys are equal; classes are then merged by pairwise equivalence
(tenfold_shared.answers), and merges are told. No answer never wins.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from typing import Any

import msgspec
import numpy as np

from dser import markov
from dser.log import Problem, emit, read_log
from tenfold_shared import answers

Record = dict[str, Any]
RULES = ("plurality", "passes", "accepted")
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
    ever the answer.
    """
    settings = problem.settings
    window = window or settings.window
    rule = rule or settings.rule
    end = settings.procedure.iterations if upto is None else upto
    cells: dict[int, list[str | None]] = {}
    passed: Counter[str] = Counter()
    reviewed: Counter[str] = Counter()
    for index in sorted(problem.chains):
        chain = problem.chains[index]
        row = chain.cells[: end + 1]
        if not row or (rule == "accepted" and chain.ended != "accepted"):
            continue
        if chain.ended and len(row) <= end:
            row = row + [row[-1]] * (end + 1 - len(row))
        cells[index] = row[-window:]
        for answer, verdict in zip(chain.cells[: end + 1], chain.verdicts, strict=False):
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
    effective = _effective(problem, cells, classes, winner, end)
    confidence = leads(np.array([votes[c] for c in order]), effective)
    speaker, iteration = _spokesman(cells, classes, winner, problem, end)
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


def _spokesman(
    cells: dict[int, list[str | None]], classes: Classes, winner: int, problem: Problem, end: int
) -> tuple[int, int]:
    """(chain, iteration) whose solution text stands for the vote."""
    found = None
    for index, row in cells.items():
        answer = row[-1]
        if answer is not None and classes.of[answer] == winner:
            return index, min(end, len(problem.chains[index].cells) - 1)
    for index in cells:
        own = problem.chains[index].cells[: end + 1]
        for n in range(len(own) - 1, -1, -1):
            answer = own[n]
            if found is None and answer is not None and classes.of.get(answer) == winner:
                found = (index, n)
    assert found is not None
    return found


def _effective(problem: Problem, cells: dict[int, list[str | None]], classes: Classes, winner: int, end: int) -> float:
    """Independent votes in the windows, from how often the problem's chains leave the leader and come to it.

    λ = 1 − (p to the leader) − (p from it), each with one pseudo-transition that mostly stays: what was never seen to
    move is taken to move seldom, and its window to be few votes.
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
        for row in cells.values()
        if (filled := sum(answer is not None for answer in row))
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
    """correct(task, answer) by tenfold_shared.answers, each distinct answer to the last gold once. None: there is no gold
    to hold it to."""

    def __init__(self, deadline: float = 2.0) -> None:
        self._last: tuple[str, str] | None = None
        self._known: dict[str, bool] = {}
        self.deadline = deadline

    def correct(self, task: Record | None, answer: str | None) -> bool | None:
        gold = (task or {}).get("answer")
        if gold in (None, "", []):
            return None
        if answer is None:
            return False
        match = ((task or {}).get("meta") or {}).get("match", "any")
        if self._last != (this := (json.dumps(gold), match)):
            self._last, self._known = this, {}
        if answer not in self._known:
            found = answers.grade(gold, f"\\boxed{{{answer}}}", deadline=self.deadline, match=match)
            self._known[answer] = found.grade == "correct"
        return self._known[answer]


def status_of(problem: Problem, ballot: Ballot, stopped: int | None, failed: bool, cut: bool) -> str:
    """done, early (stopped with --early-stop), partial (some chains failed), budget, no_answer."""
    if ballot.answer is None:
        return "failed" if failed else "no_answer"
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
    if threshold <= 0 or len(problem.chains) < problem.settings.chains:
        return None
    for level in range(problem.settings.window, problem.settings.procedure.iterations):
        if any(len(chain.cells) <= level and not chain.ended for chain in problem.chains.values()):
            return None
        if stop_iteration(problem, threshold, level):
            return level
    return None


def run(folder: str, *, window: int | None, rule: str | None, output: str | None, overwrite: bool) -> int:
    """The verb `vote`."""
    grader, records = Grader(), []
    for problem in read_log(folder):
        stopped = stopped_at(problem)
        ballot = vote(problem, window, rule, upto=stopped)
        unfinished = len(problem.chains) < problem.settings.chains or any(
            not chain.ended for chain in problem.chains.values()
        )
        status = status_of(problem, ballot, stopped, False, unfinished and stopped is None)
        if status == "budget":
            status = "unfinished"
        records.append(answer_record(problem, ballot, status, grader.correct(problem.task, ballot.answer), stopped))
    emit(iter(records), output, overwrite)
    return 0
