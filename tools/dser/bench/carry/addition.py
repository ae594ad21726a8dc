"""The exact-answer task of `make claims-dser`: ten-digit sums written most significant digit first, as text.

A problem is its two operands interleaved column by column, then `=`; the leading column sums to at most 8, so that
every answer has ten digits. A digit depends on carries from columns not yet written, through a run of columns that
each sum to nine. A review states, column by column, the carry that arrives from the right *as the solution under
review stands*, which takes one neighbour only, and a verdict P or F. No label is taken from the sum of a problem.

Beside it the corrupted solutions, noisy reviews and targets that training.py learns from. Arrays: a, b are (n, 10)
digits, most significant first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = 10
ALPHABET = "0123456789=?>;PF"
CODE = {symbol: code for code, symbol in enumerate(ALPHABET)}
EQUALS, QUERY, BRIEF, END, PASS, FAIL = (CODE[symbol] for symbol in "=?>;PF")

Digits = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Noise:
    """How weak the taught critique is: chances of a wrong label, and what solutions are reviewed.

    carry_beside_nine, carry: of a wrong carry next to a column of nine, and elsewhere. digit: of a broken digit of an
    output. verdict: of a flipped verdict. scrambled: share of reviewed solutions that are mostly random. unchanged:
    share of passed solutions that the refinement copies.
    """

    carry_beside_nine: float = 0.02
    carry: float = 0.003
    digit: float = 0.002
    verdict: float = 0.10
    scrambled: float = 0.4
    unchanged: float = 0.5


def total(a: Digits, b: Digits) -> Digits:
    """(n, 10) digits of the sums."""
    out, carry = np.zeros_like(a), np.zeros(len(a), dtype=np.int64)
    for column in range(COLUMNS - 1, -1, -1):
        here = a[:, column] + b[:, column] + carry
        out[:, column], carry = here % 10, here // 10
    return out


def _operands(sums: Digits, rng: np.random.Generator) -> tuple[Digits, Digits]:
    """Two digits a column with the given column sums (0 to 18)."""
    low, high = np.maximum(0, sums - 9), np.minimum(9, sums)
    a = low + (rng.random(sums.shape) * (high - low + 1)).astype(np.int64)
    return a, sums - a


def _others(shape: tuple[int, ...], rng: np.random.Generator) -> Digits:
    """Column sums of two random digits, nine excepted."""
    sums = rng.integers(0, 10, shape) + rng.integers(0, 10, shape)
    while (nines := sums == 9).any():
        sums[nines] = rng.integers(0, 10, nines.sum()) + rng.integers(0, 10, nines.sum())
    return sums


def _lead(n: int, rng: np.random.Generator) -> Digits:
    return rng.integers(0, 9, n)


def normal(n: int, rng: np.random.Generator) -> tuple[Digits, Digits]:
    """Problems as in training: an inner column sums to nine with chance .2, at most two such in a row."""
    sums = _others((n, COLUMNS), rng)
    run = np.zeros(n, dtype=np.int64)
    for column in range(1, COLUMNS):
        nine = (rng.random(n) < 0.2) & (run < 2)
        sums[nine, column] = 9
        run = np.where(nine, run + 1, 0)
    sums[:, 0] = _lead(n, rng)
    return _operands(sums, rng)


def hard(n: int, rng: np.random.Generator) -> tuple[Digits, Digits]:
    """Problems with a run of four and a run of three columns of nine, a depth never seen in training."""
    sums = _others((n, COLUMNS), rng)
    for row in range(n):
        first, second = (4, 3) if rng.random() < 0.5 else (3, 4)
        # Column 0 leads; nine columns hold both runs and at least one column right of each.
        slack = COLUMNS - 1 - 7 - 2
        before = int(rng.integers(0, slack + 1))
        between = 1 + int(rng.integers(0, slack - before + 1))
        at = 1 + before
        sums[row, at : at + first] = 9
        at += first + between
        sums[row, at : at + second] = 9
    sums[:, 0] = _lead(n, rng)
    return _operands(sums, rng)


def corrupted(a: Digits, b: Digits, noise: Noise, rng: np.random.Generator) -> Digits:
    """Solutions to review: none, 8 % or 25 % of the columns wrong (mostly by the other carry), or mostly random."""
    n = len(a)
    out = total(a, b)
    rate = rng.choice([0.0, 0.08, 0.25], n)[:, None]
    wrong = rng.random(out.shape) < rate
    carry = (out - a - b) % 10
    other = (a + b + 1 - carry) % 10
    random = rng.integers(0, 10, out.shape)
    out = np.where(wrong, np.where(rng.random(out.shape) < 0.8, other, random), out)
    scramble = (rng.random(n) < noise.scrambled)[:, None] & (rng.random(out.shape) < 0.8)
    return np.where(scramble, random, out)


def arriving(a: Digits, b: Digits, solution: Digits) -> Digits:
    """(n, 10) carries that arrive from the right-hand neighbour as `solution` stands; the last column gets none."""
    sums = a + b
    gives = (sums >= 10) | ((sums == 9) & (solution == 0))
    return np.concatenate([gives[:, 1:], np.zeros((len(a), 1), dtype=bool)], 1).astype(np.int64)


def reviewed(a: Digits, b: Digits, solution: Digits, noise: Noise, rng: np.random.Generator) -> tuple[Digits, Digits]:
    """(carries (n, 10), passed (n,)): the review of `solution` as it is taught, errors included."""
    carries = arriving(a, b, solution)
    beside = np.concatenate([(a + b == 9)[:, 1:], np.zeros((len(a), 1), dtype=bool)], 1)
    flip = rng.random(carries.shape) < np.where(beside, noise.carry_beside_nine, noise.carry)
    carries = carries ^ flip
    passed = ((a + b + carries) % 10 == solution).all(1)
    return carries, (passed ^ (rng.random(len(a)) < noise.verdict)).astype(np.int64)


def refined(
    a: Digits, b: Digits, solution: Digits, carries: Digits, passed: Digits, noise: Noise, rng: np.random.Generator
) -> Digits:
    """The taught refinement: every column anew with the stated carry; after a pass, often the solution as it was."""
    out = broken((a + b + carries) % 10, noise, rng)
    copy = (passed == 1) & (rng.random(len(a)) < noise.unchanged)
    return np.where(copy[:, None], solution, out)


def broken(digits: Digits, noise: Noise, rng: np.random.Generator) -> Digits:
    return np.where(rng.random(digits.shape) < noise.digit, rng.integers(0, 10, digits.shape), digits)


def interleaved(a: Digits, b: Digits) -> Digits:
    """(n, 20) codes of the problems' text, without the `=`."""
    return np.stack([a, b], 2).reshape(len(a), 2 * COLUMNS)


def text_of(digits: Sequence[int]) -> str:
    return "".join(map(str, digits))


def write_problems(path: Path, name: str, problems: tuple[Digits, Digits]) -> None:
    """Task records; the answer is the sum's ten digits."""
    a, b = problems
    with open(path, "w", encoding="utf-8") as out:
        for row, (problem, answer) in enumerate(zip(interleaved(a, b), total(a, b), strict=True)):
            task = {"id": f"{name}-{row}", "prompt": text_of(problem), "answer": text_of(answer)}
            out.write(json.dumps({"schema": "task/1", **task}) + "\n")
