"""Writes problems.jsonl: word problems whose solution is a short chain of arithmetic steps.

    python tools/cotpass/examples/make_problems.py --count 16 --seed 0 > problems.jsonl

Each problem is a task record of one to three steps. Two worked examples stand before it as earlier turns of the
chat, so that small models see the form that is wanted: one equation a step, the answer in a box. `meta.steps` counts the
operations, `meta.chain` is the chain itself. Numbers are drawn so that every step stays a whole number.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

NAMES = ["Ana", "Ben", "Dina", "Emre", "Fay", "Hana", "Jo", "Lena"]
THINGS = ["apples", "shells", "stamps", "pencils", "marbles", "coins"]
HOW = "Write one equation a step, then the answer as \\boxed{number}."


def example(question: str, *steps: str, answer: int) -> list[dict[str, str]]:
    solution = "\n".join([*steps, f"The answer is \\boxed{{{answer}}}."])
    return [{"role": "user", "content": f"{question} {HOW}"}, {"role": "assistant", "content": solution}]


EXAMPLES = [
    *example("Rosa has 6 pears and picks 5 more. How many pears does Rosa have?", "6 + 5 = 11", answer=11),
    *example(
        "Tom buys 4 bags of 6 plums and eats 5 plums. How many plums are left?", "4 * 6 = 24", "24 - 5 = 19", answer=19
    ),
]

Problem = tuple[str, list[str], int]  # text, chain of equations, answer


def more(rng: random.Random, name: str, thing: str) -> Problem:
    a, b = rng.randint(3, 20), rng.randint(2, 9)
    text = f"{name} has {a} {thing} and gets {b} more. How many {thing} does {name} have?"
    return text, [f"{a} + {b} = {a + b}"], a + b


def fewer(rng: random.Random, name: str, thing: str) -> Problem:
    a, b = rng.randint(10, 30), rng.randint(2, 9)
    text = f"{name} has {a} {thing} and loses {b}. How many {thing} are left?"
    return text, [f"{a} - {b} = {a - b}"], a - b


def bags(rng: random.Random, name: str, thing: str) -> Problem:
    a, b = rng.randint(2, 9), rng.randint(2, 10)
    text = f"{name} buys {a} bags of {b} {thing}. How many {thing} does {name} buy?"
    return text, [f"{a} * {b} = {a * b}"], a * b


def shared(rng: random.Random, name: str, thing: str) -> Problem:
    friends, each, extra = rng.randint(2, 5), rng.randint(2, 9), rng.randint(2, 9)
    total = friends * each
    text = (
        f"{name} shares {total} {thing} fairly among {friends} friends. One of them already had {extra} {thing}. "
        f"How many {thing} does that friend have now?"
    )
    return text, [f"{total} / {friends} = {each}", f"{each} + {extra} = {each + extra}"], each + extra


def bus(rng: random.Random, name: str, thing: str) -> Problem:
    a, b, c = rng.randint(10, 30), rng.randint(2, 9), rng.randint(2, 9)
    text = f"A bus has {a} people. At a stop {b} get off and {c} get on. How many people are on the bus now?"
    return text, [f"{a} - {b} = {a - b}", f"{a - b} + {c} = {a - b + c}"], a - b + c


def bags_left(rng: random.Random, name: str, thing: str) -> Problem:
    a, b, c = rng.randint(2, 6), rng.randint(3, 9), rng.randint(2, 6)
    text = f"{name} buys {a} bags of {b} {thing} and gives {c} {thing} away. How many {thing} are left?"
    return text, [f"{a} * {b} = {a * b}", f"{a * b} - {c} = {a * b - c}"], a * b - c


def days(rng: random.Random, name: str, thing: str) -> Problem:
    a, b, c = rng.randint(2, 10), rng.randint(2, 5), rng.randint(2, 9)
    text = f"{name} finds {a} {thing} on each of {b} days, and then {c} more. How many {thing} did {name} find?"
    return text, [f"{a} * {b} = {a * b}", f"{a * b} + {c} = {a * b + c}"], a * b + c


def savings(rng: random.Random, name: str, thing: str) -> Problem:
    a, b, c, d = rng.randint(5, 20), rng.randint(2, 6), rng.randint(2, 4), rng.randint(2, 5)
    end = a + b * c - d
    text = f"{name} has {a} {thing}, finds {b} on each of {c} days, and gives {d} away. How many {thing} are left?"
    return text, [f"{b} * {c} = {b * c}", f"{a} + {b * c} = {a + b * c}", f"{a + b * c} - {d} = {end}"], end


KINDS: list[Callable[[random.Random, str, str], Problem]] = [
    more, fewer, bags, shared, bus, bags_left, days, savings
]  # fmt: skip


def problems(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """COUNT task records, the kinds in turn."""
    rng = random.Random(seed)
    for index in range(count):
        kind = KINDS[index % len(KINDS)]
        text, chain, answer = kind(rng, rng.choice(NAMES), rng.choice(THINGS))
        yield {
            "schema": "task/1",
            "id": f"{kind.__name__}-{index // len(KINDS)}",
            "messages": [*EXAMPLES, {"role": "user", "content": f"{text} {HOW}"}],
            "answer": str(answer),
            "meta": {"steps": len(chain), "chain": chain},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for record in problems(given.count, given.seed):
        print(json.dumps(record))


if __name__ == "__main__":
    main()
