"""Transcripts for the cold start: conversations in which the tool is called as it must be, without reasoning (arXiv 2508.20722, section 4.1).

`made` writes them: small problems, each with a program that solves it, which is run; what it printed is the tool's response and, boxed, the answer. `examples` makes tokens of them, and of those of others, which
sft_forms.py reads.

Where it sits: below sft.py, above sft_forms.py; `write` is `sft --make-data --write-data`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grpo_roc.dialogue import PYTHON, Dialogue, response, wrapped
from grpo_roc.env.environment import Environment, Program, Result, Settings
from grpo_roc.rollout import outcome, stream
from grpo_roc.sft_forms import chat_of
from grpo_roc.transcript import turns_of
from tenfold_shared import BadInput
from tenfold_shared.jsonl import write_atomic
from tenfold_shared.records import RecordProblem

if TYPE_CHECKING:
    from grpo_roc.policy import Example

Record = dict[str, Any]
Rng = np.random.Generator


def _number(rng: Rng, low: int, high: int) -> int:
    return int(rng.integers(low, high))


def _arithmetic(rng: Rng) -> tuple[str, str]:
    a, b, c = (_number(rng, 2, 100) for _ in range(3))
    form = [
        f"{a} * {b} + {c}",
        f"{a} + {b} * {c}",
        f"({a} + {b}) * {c}",
        f"{a} * {b} - {c}",
        f"{a} + {b}",
        f"{a} - {b}",
        f"{a} * {b}",
    ][_number(rng, 0, 7)]
    return f"What is {form}?", f"print({form})"


def _remainder(rng: Rng) -> tuple[str, str]:
    a, b, m = _number(rng, 2, 50), _number(rng, 2, 200), _number(rng, 3, 100)
    return f"What is the remainder when {a}^{b} is divided by {m}?", f"print(pow({a}, {b}, {m}))"


def _divisor(rng: Rng) -> tuple[str, str]:
    a, b = _number(rng, 10, 1000), _number(rng, 10, 1000)
    return f"What is the greatest common divisor of {a} and {b}?", f"import math\nprint(math.gcd({a}, {b}))"


def _primes(rng: Rng) -> tuple[str, str]:
    n = _number(rng, 10, 500)
    return (
        f"How many primes are smaller than {n}?",
        f"n = {n}\nprint(sum(all(k % d for d in range(2, int(k ** 0.5) + 1)) for k in range(2, n)))",
    )


def _squares(rng: Rng) -> tuple[str, str]:
    n, power = _number(rng, 5, 60), _number(rng, 1, 4)
    what = {1: "numbers", 2: "squares", 3: "cubes"}[power]
    return (
        f"What is the sum of the {what} from 1 to {n}{'' if power == 1 else f' (each to the power of {power})'}?",
        f"print(sum(k ** {power} for k in range(1, {n} + 1)))",
    )


def _digits(rng: Rng) -> tuple[str, str]:
    n = _number(rng, 5, 40)
    return f"What is the sum of the digits of {n}!?", f"import math\nprint(sum(map(int, str(math.factorial({n})))))"


def _shop(rng: Rng) -> tuple[str, str]:
    things = [("pencils", "cents"), ("apples", "cents"), ("tickets", "euros"), ("books", "euros")]
    what, coin = things[_number(rng, 0, len(things))]
    n, price, given = _number(rng, 2, 30), _number(rng, 2, 40), _number(rng, 1200, 3000)
    return (
        f"Someone buys {n} {what} at {price} {coin} each and pays with {given} {coin}. How many {coin} come back?",
        f"print({given} - {n} * {price})",
    )


def _multiples(rng: Rng) -> tuple[str, str]:
    n, a, b = _number(rng, 50, 2000), _number(rng, 2, 12), _number(rng, 13, 30)
    return (
        f"How many numbers from 1 to {n} are multiples of {a} or of {b}?",
        f"print(sum(k % {a} == 0 or k % {b} == 0 for k in range(1, {n} + 1)))",
    )


def _words(rng: Rng) -> tuple[str, str]:
    words = ["banana", "parallel", "mississippi", "assessment", "committee", "bookkeeper", "independence", "necessary"]
    word = words[_number(rng, 0, len(words))]
    letter = word[_number(rng, 0, len(word))]
    return f"How often does the letter {letter} stand in {word}?", f"print({word!r}.count({letter!r}))"


KINDS: dict[str, Callable[[Rng], tuple[str, str]]] = {
    "arithmetic": _arithmetic, "remainder": _remainder, "divisor": _divisor, "primes": _primes, "sums": _squares, "digits": _digits, "shop": _shop, "multiples": _multiples, "letters": _words,
}  # fmt: skip


def problems(count: int, seed: int, kinds: Sequence[str] = tuple(KINDS)) -> Iterator[tuple[str, str, str]]:
    """(kind, problem, program), each problem once, kinds in turn."""
    rng = stream(seed, "transcripts")
    seen: set[str] = set()
    tries = 0
    while len(seen) < count:
        kind = kinds[len(seen) % len(kinds)] if tries < 50 else kinds[int(rng.integers(len(kinds)))]
        text, program = KINDS[kind](rng)
        if text in seen:
            tries += 1
            if tries > 1000:
                raise BadInput(
                    f"--make-data {count}: there are only about {len(seen)} problems of the kinds {', '.join(kinds)}"
                )
            continue
        tries = 0
        seen.add(text)
        yield kind, text, program


def made(
    count: int, seed: int, submit: Callable[[Program], Future[Result]], kinds: Sequence[str] = tuple(KINDS)
) -> Iterator[Record]:
    """Trajectory records whose one call was run here. Raises BadInput where a program failed, which is a fault of ours."""
    waiting = [(kind, text, program, submit(Program(program))) for kind, text, program in problems(count, seed, kinds)]
    for number, (kind, text, program, call) in enumerate(waiting):
        result = call.result()
        if result.status != "ok":
            raise BadInput(f"the program for {text!r} came to {result.status}: {result.stderr[-200:]}")
        told = {"name": PYTHON["function"]["name"], "arguments": {"code": program, "input": ""}, **outcome(result)}
        answer = result.stdout.strip()
        first = f"I compute this with a program.</reason>\n<tool_call>\n{json.dumps({'name': told['name'], 'arguments': told['arguments']})}\n</tool_call>"
        yield {
            "id": f"{kind}-{number}",
            "prompt": text,
            "answer": answer,
            "turns": [{"text": first, "calls": [told]}, {"text": f"<answer>\\boxed{{{answer}}}</answer>", "calls": []}],
        }


def chat(record: Record, where: str, dialogue: Dialogue, shown: int) -> list[Record]:
    """A transcript as messages of a chat template: ours ({prompt, turns}) as rollouts would have had it, others ({messages, tools}) with their own system text and tools. Raises BadInput."""
    if record.get("messages") is not None and record.get("turns") is None:
        return chat_of(record)
    prompt = record.get("prompt")
    try:
        turns = turns_of(record)
    except RecordProblem as problem:
        raise BadInput(f"{where}: {problem}") from None
    if not isinstance(prompt, str):
        raise BadInput(f"{where}: expected `prompt` and `turns` [{{text, calls}}] (see `grpo-roc sft --help`)")
    messages = dialogue.messages(prompt)
    for number, turn in enumerate(turns):
        # what the prompt of a rollout has opened already
        text = turn["text"] if number else dialogue.opened + turn["text"].removeprefix(dialogue.opened)
        messages.append({"role": "assistant", "content": text})
        if number + 1 < len(turns):
            results = [response(call, shown) for call in turn.get("calls") or ()]
            messages.append({"role": "user", "content": wrapped(results)})
    return messages


def examples(record: Record, where: str, dialogue: Dialogue, shown: int) -> Example:
    """A transcript as tokens: every turn of the model's, with the tokens that end it, is learnt; the rest is seen. What follows the last of them is left out. A first turn that begins with the opened
    reasoning has that from the prompt, as in rollouts. Raises BadInput, also where the template rewrites earlier turns of this conversation."""
    from jinja2 import TemplateError

    from grpo_roc.policy import Example  # and with it torch, which those that only make transcripts do without

    messages = chat(record, where, dialogue, shown)
    try:
        whole = rendered(dialogue, messages, False)
        spans = [
            (rendered(dialogue, messages[:k], True), rendered(dialogue, messages[: k + 1], False))
            for k, message in enumerate(messages)
            if message["role"] == "assistant"
        ]
    except TemplateError as problem:
        raise BadInput(f"{where}: the chat template refuses it: {str(problem)[:160]}") from None
    end = dialogue.encode(dialogue.ending) or [dialogue.tokenizer.eos_token_id]
    pieces: list[tuple[list[int], bool]] = []
    at = 0
    for number, (before, after) in enumerate(spans):
        if not after.startswith(before) or not whole.startswith(after) or len(before) < at:
            raise BadInput(f"{where}: the chat template rewrites earlier turns of this conversation, or puts text of its own into them; use one that only appends")  # fmt: skip
        start, stop = len(before), after.rfind(dialogue.ending) if dialogue.ending else len(after)
        if stop < start:
            raise BadInput(
                f"{where}: the chat template does not end turn {number + 1} as it ends others ({dialogue.ending!r})"
            )
        if not number and after.startswith(dialogue.opened, start):
            start += len(dialogue.opened)
        pieces.append((dialogue.encode(whole[at:start]), False))
        pieces.append((dialogue.encode(whole[start:stop]) + end, True))
        at = stop + len(dialogue.ending)
    if not pieces:
        raise BadInput(f"{where}: no turn of the assistant's: nothing could be learnt")
    (prompt, _), *rest = pieces
    tokens = [token for ids, _ in rest for token in ids]
    return Example(prompt, tokens, [learnt for ids, learnt in rest for _ in ids], 0.0)


def rendered(dialogue: Dialogue, messages: Sequence[Record], generation: bool) -> str:
    found: str = dialogue.tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=generation
    )
    return found


def write(count: int | None, seed: int, kinds: tuple[str, ...], path: str, level: Any, workers: int, overwrite: bool, quiet: bool) -> int:  # fmt: skip
    """Returns the exit code. Raises BadInput and Missing."""
    if count is None:
        raise BadInput("--write-data goes with --make-data N")
    if Path(path).exists() and not overwrite:
        raise BadInput(f"{path}: exists; choose another output or add --overwrite")
    with Environment(Settings(level=level, workers=workers)) as env:
        lines = [json.dumps(one).encode() + b"\n" for one in made(count, seed, env.submit, kinds)]
    write_atomic(path, b"".join(lines))
    if not quiet:
        print(f"grpo-roc: {count} transcripts", file=sys.stderr)
    return 0
