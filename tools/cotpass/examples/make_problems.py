"""Writes problems.jsonl: word problems whose solution is a short chain of arithmetic steps.

    python tools/cotpass/examples/make_problems.py --count 16 --seed 0 > problems.jsonl

Each problem is a task record. A worked example stands before it as an earlier turn of the chat, so that
small models see the form that is wanted: one equation a step, the answer in a box. `meta.steps` counts the
operations, `meta.chain` is the chain itself. Numbers are drawn so that every step stays a whole number.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

NAMES = ["Ana", "Ben", "Chen", "Dina", "Emre", "Fay", "Goran", "Hana", "Idris", "Jo", "Kofi", "Lena"]
HOW = "Solve it step by step. Write one equation a step, and give the answer as \\boxed{number}."
EXAMPLE = [
    {
        "role": "user",
        "content": f"Rosa picks 4 baskets of 6 pears. She gives 5 pears to Tom. How many pears are left? {HOW}",
    },
    {
        "role": "assistant",
        "content": "Pears picked: 4 * 6 = 24\nPears left: 24 - 5 = 19\nThe answer is \\boxed{19}.",
    },
]

Problem = tuple[str, list[str], int]  # text, chain of equations, answer


def eggs(rng: random.Random, name: str) -> Problem:
    a, b, c = rng.randint(3, 9), rng.randint(4, 12), rng.randint(2, 9)
    text = f"{name} buys {a} boxes of {b} eggs and uses {c} eggs for a cake. How many eggs are left?"
    return text, [f"{a} * {b} = {a * b}", f"{a * b} - {c} = {a * b - c}"], a * b - c


def bus(rng: random.Random, name: str) -> Problem:
    a, b, c = rng.randint(15, 40), rng.randint(3, 12), rng.randint(2, 15)
    text = f"A bus leaves with {a} people. At the first stop {b} get off and {c} get on. How many people are on the bus now?"
    return text, [f"{a} - {b} = {a - b}", f"{a - b} + {c} = {a - b + c}"], a - b + c


def shop(rng: random.Random, name: str) -> Problem:
    a, b, c = rng.randint(2, 6), rng.randint(3, 9), rng.randint(60, 99)
    text = f"{name} has {c} coins and buys {a} books for {b} coins each. How many coins does {name} have then?"
    return text, [f"{a} * {b} = {a * b}", f"{c} - {a * b} = {c - a * b}"], c - a * b


def pages(rng: random.Random, name: str) -> Problem:
    a, b, c = rng.randint(5, 20), rng.randint(3, 7), rng.randint(10, 30)
    text = (
        f"{name} reads {a} pages on each of {b} days, and then {c} pages more. How many pages has {name} read in all?"
    )
    return text, [f"{a} * {b} = {a * b}", f"{a * b} + {c} = {a * b + c}"], a * b + c


def share(rng: random.Random, name: str) -> Problem:
    friends, each, extra = rng.randint(2, 6), rng.randint(3, 9), rng.randint(2, 12)
    total = friends * each
    text = (
        f"{name} shares {total} sweets fairly among {friends} friends. One friend already had {extra} sweets. "
        "How many sweets does that friend have now?"
    )
    return text, [f"{total} / {friends} = {each}", f"{each} + {extra} = {each + extra}"], each + extra


def savings(rng: random.Random, name: str) -> Problem:
    a, b, c, d = rng.randint(20, 60), rng.randint(3, 9), rng.randint(2, 6), rng.randint(5, 15)
    end = a + b * c - d
    text = f"{name} has {a} coins, earns {b} coins on each of {c} days, and spends {d} coins. How many coins are there now?"
    return text, [f"{b} * {c} = {b * c}", f"{a} + {b * c} = {a + b * c}", f"{a + b * c} - {d} = {end}"], end


def garden(rng: random.Random, name: str) -> Problem:
    a, b, c = rng.randint(3, 9), rng.randint(5, 12), rng.randint(2, 4)
    text = f"A garden has {a} rows of {b} tulips. {name} plants {c} times as many roses. How many roses are there?"
    return text, [f"{a} * {b} = {a * b}", f"{a * b} * {c} = {a * b * c}"], a * b * c


def farm(rng: random.Random, name: str) -> Problem:
    a, b, c = rng.randint(10, 30), rng.randint(2, 9), rng.randint(2, 9)
    text = (
        f"A farm has {a} sheep and {b} fewer goats than sheep. {c} sheep are sold. How many animals does the farm have?"
    )
    goats = a - b
    return (
        text,
        [f"{a} - {b} = {goats}", f"{a} + {goats} = {a + goats}", f"{a + goats} - {c} = {a + goats - c}"],
        (a + goats - c),
    )


KINDS: list[Callable[[random.Random, str], Problem]] = [eggs, bus, shop, pages, share, savings, garden, farm]


def problems(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """COUNT task records, the kinds in turn."""
    rng = random.Random(seed)
    for index in range(count):
        kind = KINDS[index % len(KINDS)]
        text, chain, answer = kind(rng, rng.choice(NAMES))
        yield {
            "schema": "task/1",
            "id": f"{kind.__name__}-{index // len(KINDS)}",
            "messages": [*EXAMPLE, {"role": "user", "content": f"{text} {HOW}"}],
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
