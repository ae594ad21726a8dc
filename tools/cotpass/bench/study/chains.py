"""Arithmetic chains with four answers: problems whose every step of reasoning can be computed to be right or wrong.

Part of `make claims-cotpass` (training.py trains on these problems). A problem is a start and 2 to 4 operations, from
left to right, all values in 0..49. The answer is the band of ten that the result lies in, A (0 to 9) to E (40 to 49).

    prompt     07+05*03-04>
    response   07+05=12;12*03=36;36-04=32D.

There are five answers, so that wrong reasoning can be answered rightly by luck or by a near miss, as in benchmarks that
are graded by their final answers. Reasoning is right when each written step takes up the value before it, does the
problem's next operation and has the right result, and all operations are done; the answer given plays no part in it.

`carelessly` writes solutions as a mixed corpus has them: a result is now and then a near miss, more often in a
multiplication, and what follows builds on it. Standard library only.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any

VOCABULARY = "0123456789+-*=;>ABCDE.~"  # '.' ends a response, '~' pads
CODE = {letter: at for at, letter in enumerate(VOCABULARY)}
END, PAD = CODE["."], CODE["~"]
LETTERS = "ABCDE"
BAND = 10
TOP = BAND * len(LETTERS) - 1  # greatest value
LENGTHS = (2, 3, 4)
SLIP = {"+": 0.2, "-": 0.3, "*": 0.4}  # chance of a wrong result in a careless solution
_STEP = 9  # characters of a written step and its separator


@dataclass(frozen=True)
class Problem:
    start: int
    steps: tuple[tuple[str, int], ...]

    @property
    def values(self) -> list[int]:
        """The start and the value after each step."""
        values = [self.start]
        for sign, number in self.steps:
            values.append(apply(sign, values[-1], number))
        return values

    @property
    def letter(self) -> str:
        return LETTERS[self.values[-1] // BAND]

    @property
    def prompt(self) -> str:
        return f"{self.start:02}{''.join(f'{sign}{number:02}' for sign, number in self.steps)}>"

    @property
    def reasoning(self) -> str:
        """The right steps, as a response writes them."""
        values = self.values
        return ";".join(
            f"{values[at]:02}{sign}{number:02}={values[at + 1]:02}" for at, (sign, number) in enumerate(self.steps)
        )

    @property
    def solution(self) -> str:
        return f"{self.reasoning}{self.letter}."

    @property
    def question(self) -> str:
        words = {"+": "add", "-": "subtract", "*": "multiply by"}
        chain = ", ".join(f"{words[sign]} {number}" for sign, number in self.steps)
        return f"Start with {self.start}, {chain}. Is the result A) 0-9, B) 10-19, C) 20-29, D) 30-39 or E) 40-49?"


def apply(sign: str, left: int, right: int) -> int:
    return left + right if sign == "+" else left - right if sign == "-" else left * right


def longest(length: int) -> int:
    """Characters that a response to a problem of LENGTH operations may have: one step more than it needs."""
    return _STEP * (length + 1) + 1


CONTEXT = 2 + 3 * max(LENGTHS) + 1 + longest(max(LENGTHS))


def draw(rng: random.Random, length: int, letter: str) -> Problem:
    """A random problem of LENGTH operations with this answer."""
    while True:
        start = value = rng.randint(1, TOP)
        steps = []
        for _ in range(length):
            sign = rng.choice(["+"] * (value < TOP) + ["-"] * (value > 0) + ["*"] * (0 < value <= TOP // 2))
            most = {"+": TOP - value, "-": value, "*": min(9, TOP // max(value, 1))}[sign]
            number = rng.randint(2 if sign == "*" else 1, most)
            steps.append((sign, number))
            value = apply(sign, value, number)
        if LETTERS[value // BAND] == letter:
            return Problem(start, tuple(steps))


def draw_many(seed: int, count: int, without: frozenset[Problem] = frozenset()) -> list[Problem]:
    """COUNT different problems, lengths and answers in turn, none of `without`."""
    rng = random.Random(seed)
    found: dict[Problem, None] = {}
    while len(found) < count:
        turn, length = divmod(len(found), len(LENGTHS))
        problem = draw(rng, LENGTHS[length], LETTERS[turn % len(LETTERS)])
        if problem not in without:
            found.setdefault(problem)
    return list(found)


def carelessly(rng: random.Random, problem: Problem) -> str:
    """A solution in which results are wrong with the chances in SLIP, by up to 10 either way."""
    steps, value = [], problem.start
    for sign, number in problem.steps:
        right = min(max(apply(sign, value, number), 0), TOP)  # after a slip it may leave the range: a second slip
        result = right
        if rng.random() < SLIP[sign]:
            result = rng.choice([near for near in range(max(0, right - 10), min(TOP, right + 10) + 1) if near != right])
        steps.append(f"{value:02}{sign}{number:02}={result:02}")
        value = result
    return f"{';'.join(steps)}{LETTERS[value // BAND]}."


def check(problem: Problem, response: str) -> tuple[bool, bool]:
    """(reasoning right, answer right) of a response as the model wrote it, its '.' included."""
    return response[:-2] == problem.reasoning, response[-2:] == f"{problem.letter}."


def shown(response: str) -> str:
    """A response as text that people, and the steps judge, read: `7 + 5 = 12`, a line a step, the answer in a box."""
    match = re.fullmatch(r"(.*?)([A-E]?)\.?", response)
    assert match is not None  # any string matches
    steps, answer = match.groups()
    lines = re.sub(r"\b0(?=\d)", "", re.sub(r"([-+*=])", r" \1 ", steps)).split(";")
    return "\n".join([*lines, f"\\boxed{{{answer}}}"] if answer else lines)


def record(name: str, problem: Problem, sample: int, response: str) -> dict[str, Any]:
    """A verdict record: the computed check of the answer, and of the reasoning as its one vote."""
    reasoning, answer = check(problem, response)
    return {
        "schema": "verdict/1",
        "id": name,
        "prompt": problem.question,
        "answer": problem.letter,
        "sample": sample,
        "response": shown(response),
        "finish_reason": "stop" if response.endswith(".") else "length",
        "correct": answer,
        "grade": "correct" if answer else "wrong",
        "votes": ["yes" if reasoning else "no"],
        "judge": [{"model": "computed"}],
        "meta": {"steps": len(problem.steps)},
    }
