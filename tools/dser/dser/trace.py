"""One problem's chains as arrays, and the few numbers that the report keeps of them.

`Trace` is made, asked and dropped problem by problem; what has to wait for the others is in its `Outline`, whose size
depends on the number of iterations alone.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from dser import estimates as est
from dser import markov
from dser.log import Problem, Settings
from dser.vote import Classes, Grader, ended_by, stopped_at, vote

CHAIN_DRAWS = 400


class Trace:
    """A problem's chains as arrays. states (K, N+1): 1 right, 0 wrong, -1 not there; codes (K, N+1): answer classes,
    -1 no answer, -2 not there; verdicts (K, N+1): 1 pass, 0 fail, 2 unknown, -1 none; filled: states and codes with
    chains that a policy ended kept to the end."""

    def __init__(self, problem: Problem, grader: Grader) -> None:
        settings = problem.settings
        self.name, self.settings, self.model = problem.name, settings, problem.model
        self.stopped = stopped_at(problem)
        last = settings.procedure.iterations if self.stopped is None else self.stopped
        shape = (settings.chains, settings.procedure.iterations + 1)
        counted = Counter(
            answer for chain in problem.chains.values() for answer in chain.cells[: last + 1] if answer is not None
        )
        classes = Classes(counted)
        self.classes = len(classes.shown)
        right = {answer: grader.correct(problem.task, answer) for answer in counted}
        self.graded = problem.gold not in (None, "", [])
        # A class is right where its commonest spelling is.
        self.right_class = np.array([bool(right[shown]) for shown in classes.shown], dtype=bool)
        self.codes = np.full(shape, -2, dtype=np.int32)
        self.verdicts = np.full(shape, -1, dtype=np.int8)
        self.filled = self.codes.copy()
        told = {"pass": 1, "fail": 0, "unknown": 2, None: -1}
        of: dict[str | None, int] = {**dict.fromkeys(classes.of, 0), None: -1}
        of.update(classes.of)
        for index, chain in problem.chains.items():
            row = [of[answer] for answer in chain.cells[: last + 1]]
            self.codes[index, : len(row)] = self.filled[index, : len(row)] = row
            reviews = [told[verdict] for verdict in chain.verdicts[: last + 1]]
            if self.stopped is not None:
                reviews[self.stopped :] = [-1] * len(reviews[self.stopped :])  # made or not, it counts for nothing
            self.verdicts[index, : len(row)] = reviews
            if row and (chain.ended or self.stopped is not None):
                self.filled[index, len(row) :] = row[-1]
        self.states, self.filled_states = self._states(self.codes), self._states(self.filled)
        ballot = vote(problem, upto=self.stopped)
        self.vote_right = bool(grader.correct(problem.task, ballot.answer)) if self.graded else None
        self.tie, self.merges = ballot.tie, len(ballot.merges)
        self.generated, self.prompted, self.counts = problem.generated, problem.prompted, problem.counts
        self.unfinished = sum(not chain.ended for chain in problem.chains.values()) if self.stopped is None else 0
        self.unfinished += settings.chains - len(problem.chains)
        ended = [ended_by(chain, self.stopped) for chain in problem.chains.values()]
        self.ended = Counter(why for why in ended if why)
        self.lengths = problem.lengths

    def _states(self, codes: Any) -> Any:
        lookup = np.concatenate([self.right_class, [False]]).astype(np.int8)  # -1, no answer, is wrong
        return np.where(codes == -2, -1, lookup[codes] if self.graded else -1).astype(np.int8)

    @property
    def passing(self) -> tuple[int, ...]:
        """The verdicts that count as a pass."""
        return (1, 2) if self.settings.procedure.unknown_passes else (1,)

    @property
    def tokens(self) -> int:
        return sum(self.generated.values())

    def skill_counts(self) -> tuple[Any, Any]:
        """Reviews (2, 3): state x (fail, pass, unknown); refinements (2, 2, 2): passed x from x to, an unknown verdict as
        the run took it."""
        s, v = self.states[:, :-1], self.verdicts[:, :-1]
        after = self.states[:, 1:]
        out = np.zeros((2, 3), dtype=np.int64)  # state x (fail, pass, unknown)
        moved = np.zeros((2, 2, 2), dtype=np.int64)  # passed x from x to
        refined = self._refined()
        for state in (0, 1):
            for verdict in (0, 1, 2):
                here = (s == state) & (v == verdict)
                out[state, verdict] = here.sum()
                for to in (0, 1):
                    moved[int(verdict in self.passing), state, to] += (here & refined & (after == to)).sum()
        # The reviews of the last iteration, where a policy ended the chain there.
        tail = self.verdicts[:, -1]
        for state in (0, 1):
            for verdict in (0, 1, 2):
                out[state, verdict] += ((self.states[:, -1] == state) & (tail == verdict)).sum()
        return out, moved

    def _refined(self) -> Any:
        """Where a verdict was followed by a refinement: always, or on a fail only."""
        v = self.verdicts[:, :-1]
        if self.settings.procedure.policy in ("always", "stop-on-stable"):
            return np.ones(v.shape, dtype=bool)
        return (v >= 0) & ~np.isin(v, self.passing)


def plurality_right(codes: Any, right_class: Any) -> float:
    """Share of the most-voted classes that is right: 1, 0, or a tie's part. codes: any shape, below 0 no vote."""
    votes = np.bincount(codes[codes >= 0].ravel(), minlength=len(right_class))
    if not votes.sum():
        return 0.0
    best = votes == votes.max()
    return float((best & right_class).sum() / best.sum())


class AnswerChain(NamedTuple):
    """A problem's answers as a Markov chain: state 0 the right classes, then the commonest wrong ones, last everything
    else and no answer. matrix: (J+1, J+1), rows add up to 1; start: (J+1,), iteration 0."""

    matrix: Any
    start: Any


def answer_chain(trace: Trace, most: int = 12) -> AnswerChain | None:
    """From the problem's own transitions, with half a transition of prior (and half a cell, of the start) that is spread
    as all its cells are. None where the right answer was never given."""
    if not trace.right_class.any():
        return None
    codes = trace.codes
    seen = np.bincount(codes[codes >= 0].ravel(), minlength=trace.classes)
    wrong = [c for c in np.argsort(-seen, kind="stable") if not trace.right_class[c] and seen[c]][: most - 1]
    size = len(wrong) + 2
    states = np.full(trace.classes + 2, size - 1)  # codes -1 and -2 index from the end
    states[:-2][trace.right_class] = 0
    for at, c in enumerate(wrong):
        states[c] = at + 1
    mapped, there = states[codes], codes != -2
    share = np.bincount(mapped[there].ravel(), minlength=size) + 0.5
    both = there[:, :-1] & there[:, 1:]
    table = np.zeros((size, size))
    np.add.at(table, (mapped[:, :-1][both], mapped[:, 1:][both]), 1)
    table += 0.5 * share / share.sum()
    start = np.bincount(mapped[:, 0][there[:, 0]], minlength=size) + 0.5 * share / share.sum()
    return AnswerChain(table / table.sum(1, keepdims=True), start / start.sum())


def plurality_holds(trace: Trace) -> float:
    """Whether the right answer has the largest part of the problem's answer-level stationary distribution.

    Where no answer was ever seen to change there is no such thing: whether it leads at iteration 0, a tie in parts."""
    chain = answer_chain(trace)
    if chain is None:
        return 0.0
    before, after = trace.codes[:, :-1], trace.codes[:, 1:]
    if not ((before != after) & (before != -2) & (after != -2)).any():
        return plurality_right(trace.codes[:, 0], trace.right_class)
    pi = markov.stationary_of(chain.matrix)
    wrong = pi[1:-1]  # the last state is `no answer` and the rare ones, which never win
    return float(not len(wrong) or pi[0] > wrong.max())


def first_pass(trace: Trace) -> tuple[float, float]:
    """(mean accuracy, vote right) had each chain stopped at its first passing review; the path to it is the same."""
    passed = np.isin(trace.verdicts, trace.passing)
    at = np.where(passed.any(1), passed.argmax(1), (trace.codes != -2).sum(1) - 1).clip(0)
    rows = np.arange(len(at))
    states = trace.states[rows, at]
    return float((states == 1).mean()), plurality_right(trace.codes[rows, at], trace.right_class)


class Outlines:
    """What the report keeps of the problems it has read: a row each, totals, and the states of a few.

    Totals: roles (calls, tokens and mishaps by role), ended and unfinished chains, own (chains by how many cells of their
    window they made), and by iteration moved and changed (answers), empty (no answer), made (cells), lengths (calls,
    tokens, truncated, prompt tokens), hits (chains that were right for the first time). runs and spent: stays in I and in C, and the
    cells in them; last: chains, and those right at their last cell. by_chain: transitions (replicates, 2, 2) with each
    chain drawn a Poisson number of times.

    rows: (problems,) structured array. graded, tied, early: flags; merges, classes: counts of answers; changed, moved,
    settled: of answers and chains; and where there is a gold answer transitions (2, 2), reviews (2, 3) and moves
    (2, 2, 2) as `Trace` counts them, by iteration accuracy, leads and window_leads (the vote of it alone, and of the
    window up to it) and answered (N+1,), plurality and vote, gate (accuracy and vote had each chain stopped at its
    first passing review), ends (2, 2): chains there and right, of the first and last iteration. samples (samples drawn,
    their tokens, their vote) and reference are the comparisons', NaN where there is none.
    """

    def __init__(self, settings: Settings, model: str, keep: int) -> None:
        n = settings.procedure.iterations + 1
        self.settings, self.model = settings, model
        fields = [("graded", "?"), ("tied", "?"), ("early", "?"), ("vote", "?")]
        fields += [(name, "i8") for name in ("merges", "classes", "changed", "moved", "tokens")]
        fields += [("settled", "f8"), ("plurality", "f8"), ("reference", "f8")]
        shaped = [("transitions", "i8", (2, 2)), ("reviews", "i8", (2, 3)), ("moves", "i8", (2, 2, 2))]
        shaped += [(name, "f8", (n,)) for name in ("accuracy", "leads", "window_leads", "answered")]
        shaped += [("gate", "f8", (2,)), ("ends", "i8", (2, 2)), ("samples", "f8", (3,))]
        self._table = np.zeros(64, dtype=np.dtype([*fields, *shaped]))
        self._filled = 0
        self._keep, self._stride, self._graded = keep, 1, 0
        self.states: list[tuple[int, Any]] = []
        self.changed, self.moved, self.empty, self.made, self.hits = np.zeros((5, n), dtype=np.int64)
        self.lengths = np.zeros((n, 4), dtype=np.int64)
        self.runs, self.spent, self.last = np.zeros((3, 2), dtype=np.int64)
        self.by_chain = np.zeros((CHAIN_DRAWS, 2, 2))
        self._rng = np.random.default_rng(20251017)
        self.own: Counter[int] = Counter()
        self.ended: Counter[str] = Counter()
        self.roles: dict[str, Counter[str]] = {}
        self.unfinished = 0

    @property
    def rows(self) -> Any:
        return self._table[: self._filled]

    def add(self, trace: Trace) -> Any:
        """The new row, filled but for the comparisons."""
        if self._filled == len(self._table):
            self._table = np.concatenate([self._table, np.zeros_like(self._table)])
        row = self._table[self._filled]
        self._filled += 1
        row["graded"], row["tied"], row["early"] = trace.graded, trace.tie, trace.stopped is not None
        row["merges"], row["classes"], row["tokens"] = trace.merges, trace.classes, trace.tokens
        before, after = trace.codes[:, :-1], trace.codes[:, 1:]
        both = (before != -2) & (after != -2)
        changed = (before != after) & both
        row["changed"], row["moved"] = changed.sum(), both.sum()
        self.changed[1:] += changed.sum(0)
        self.moved[1:] += both.sum(0)
        self.empty += (trace.codes == -1).sum(0)
        self.made += (made := trace.codes != -2).sum(0)
        for n, of_one in enumerate(trace.lengths[: len(self.lengths)]):
            self.lengths[n] += of_one
        last = trace.codes.shape[1] - 1 if trace.stopped is None else trace.stopped
        since = max(0, last + 1 - self.settings.window)
        self.own.update(np.maximum(1, made[:, since:].sum(1))[made[:, 0]].tolist())
        tail = trace.filled[:, -self.settings.window :]
        row["settled"] = ((tail == tail[:, :1]).all(1) & (tail[:, 0] >= 0)).mean()
        row["reference"] = row["samples"] = np.nan
        self.unfinished += trace.unfinished
        self.ended.update(trace.ended)
        for role, counts in trace.counts.items():
            total = self.roles.setdefault(role, Counter())
            total.update(counts)
            total["generated_tokens"] += trace.generated[role]
            total["prompt_tokens"] += trace.prompted[role]
        if trace.graded:
            self._grade(row, trace)
        return row

    def _grade(self, row: Any, trace: Trace) -> None:
        row["vote"], row["plurality"] = trace.vote_right, plurality_holds(trace)
        row["transitions"] = est.transitions(trace.states)
        row["reviews"], row["moves"] = trace.skill_counts()
        there = trace.filled_states >= 0
        with np.errstate(invalid="ignore", divide="ignore"):
            row["accuracy"] = np.where(there, trace.filled_states, 0).sum(0) / there.sum(0)
        row["answered"] = (trace.filled >= 0).mean(0)
        for n in range(trace.filled.shape[1]):
            since = max(0, n + 1 - self.settings.window)
            row["leads"][n] = plurality_right(trace.filled[:, n], trace.right_class)
            row["window_leads"][n] = plurality_right(trace.filled[:, since : n + 1], trace.right_class)
        row["gate"] = first_pass(trace)
        for at, n in enumerate((0, -1)):
            column = trace.filled_states[:, n]
            row["ends"][at] = (column >= 0).sum(), (column == 1).sum()
        states = trace.states
        for state in (0, 1):
            here = states == state
            self.spent[state] += here.sum()
            self.runs[state] += here[:, 0].sum() + (here[:, 1:] & ~here[:, :-1]).sum()
        right = states == 1
        self.hits += np.bincount(right.argmax(1)[right.any(1)], minlength=len(self.hits))
        length = (states >= 0).sum(1)
        begun = length > 0
        self.last += begun.sum(), right[begun, length[begun] - 1].sum()
        drawn = self._rng.poisson(1.0, (CHAIN_DRAWS, len(states)))
        self.by_chain += np.tensordot(drawn, est.transitions(states[:, None]), 1)
        if self._graded % self._stride == 0:  # every first, second, fourth … one, as many as `keep` to twice that
            self.states.append((self._graded, trace.states))
            if len(self.states) > 2 * self._keep:
                self.states, self._stride = self.states[::2], 2 * self._stride
        self._graded += 1
