"""The toy's text task: a transformer of 0.1 million parameters made from nothing, which writes Python that is really run.

A prompt is `a ? b =` with a in 6..9, b in 1..4 and the true operator, `//` or `-`, hidden: whoever guesses is right half of the time, so that groups stay mixed for ever. (SFT and one of the two evaluations show
the operator, too.) The model calls the tool and copies its one digit into an answer block. It starts from an expert that spoils each call with probability 0.55, tries again, and answers twice 30 % of the
time. A spoilt call is short and the model has turns enough, so that errors cost next to no reward: `precondition` in toy.py sees to that.

What real training uses is used here: calls are found by dialogue.calls_in, run by env.environment.Environment, counted by transcript and penalty, chosen by selection, and trained on with objective.loss on the ids
and log-probabilities that were sampled. A program's result is kept by its text: few are written, and each always does the same.

Where it sits: toy.py starts `start` and `arm` in processes of their own. torch.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from grpo_roc import penalty, selection, verify
from grpo_roc.dialogue import calls_in
from grpo_roc.env.environment import Environment, Level, Program
from grpo_roc.objective import Clip, Stats, loss, token_logprobs
from grpo_roc.toy import Settings, drawn, measure
from grpo_roc.transcript import FINE, answers_of, calls_of, spoken
from tenfold_shared import Missing
from tenfold_shared.answers import extract
from tenfold_shared.jsonl import write_atomic

Record = dict[str, Any]
Tensor = torch.Tensor

# Each a token. Tags carry with them what always follows or comes before, so that text is what dialogue.py and verify.py read.
WORDS = {
    **{digit: digit for digit in "0123456789"},
    **{word: word for word in ("//", "-", "?", "=", "print(", ")", "prnt(", "pritn(", "error")},
    "<tool_call>": '<tool_call>{"name": "execute_python_code_with_standard_io", "arguments": {"code": "',
    "</tool_call>": '"}}</tool_call>',
    "<tool_response>": "<tool_response>",
    "</tool_response>": "</tool_response>",
    "<answer>": "<answer>\\boxed{",
    "</answer>": "}</answer>",
    "<|im_end|>": "",  # ends a turn
    "<pad>": "",
}
NUMBER = {word: number for number, word in enumerate(WORDS)}
TEXTS = list(WORDS.values())
END, PAD = NUMBER["<|im_end|>"], NUMBER["<pad>"]
SPOILT = ("prnt(", "pritn(")
OPERATORS = ("//", "-")
LIMIT = 84  # tokens of prompt and response together
PROMPT = 4
PROGRAMS: dict[str, tuple[str, str, str]] = {}  # what a program came to: status, stdout, stderr; of this process
WIDTH, LAYERS, HEADS = 64, 2, 4


def ids_of(words: str) -> list[int]:
    return [NUMBER[word] for word in words.split()]


def text_of(ids: Sequence[int]) -> str:
    return "".join(TEXTS[number] for number in ids)


# ---------------------------------------------------------------- the task


class Problem(msgspec.Struct, frozen=True):
    a: int
    b: int
    operator: str
    hidden: bool

    @property
    def ids(self) -> list[int]:
        return ids_of(f"{self.a} {'?' if self.hidden else self.operator} {self.b} =")

    @property
    def gold(self) -> int:
        return self.a // self.b if self.operator == "//" else self.a - self.b


def problems(rng: np.random.Generator, count: int, hidden: bool) -> list[Problem]:
    a, b, which = rng.integers(6, 10, count), rng.integers(1, 5, count), rng.integers(0, 2, count)
    return [Problem(int(x), int(y), OPERATORS[z], hidden) for x, y, z in zip(a, b, which, strict=True)]


class Tool:
    """The Python tool, started when a program comes that was not seen before."""

    def __init__(self, level: Level) -> None:
        self.level = level
        self._env: Environment | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._env is not None:
            self._env.__exit__(None, None, None)
            self._env = None

    def run(self, code: str) -> tuple[str, str, str]:
        """(status, stdout, stderr). Raises Missing where the environment itself fails."""
        if code not in PROGRAMS:
            if self._env is None:
                # No program of these loops: time enough that a busy machine stops none.
                self._env = Environment(level=self.level, workers=1, preload=("math",), timeout=60.0).__enter__()
            found = self._env.run(Program(code))
            if found.status == "infra":
                raise Missing(f"the Python tool failed: {found.detail}")
            PROGRAMS[code] = found.status, found.stdout, found.stderr
        return PROGRAMS[code]

    def calls(self, text: str) -> list[Record]:
        """Every call of a turn, made."""
        found = []
        for call in calls_in(text, ("python",)):
            status, stdout, stderr = ("invalid_call", "", call.problem) if call.problem else self.run(call.code)
            found.append({"name": call.name, "arguments": call.arguments, "status": status, "stdout": stdout, "stderr": stderr})  # fmt: skip
        return found


def shown(call: Record) -> list[int]:
    """What the model is shown of a call: up to four of the characters it knows, or `error`."""
    said = [NUMBER[one] for one in call["stdout"] if one in NUMBER][:4] if call["status"] in FINE else [NUMBER["error"]]
    return [NUMBER["<tool_response>"], *said, NUMBER["</tool_response>"]]


class Trajectory(msgspec.Struct):
    """ids [n] with the prompt, mask [n] of those sampled, logp [n] (0 where not sampled); what is chosen by; what is counted."""

    ids: list[int]
    mask: list[bool]
    logp: list[float]
    turns: list[Record]
    correct: bool = False
    penalty: float = 0.0
    calls: int = 0
    failed: int = 0
    blocks: int = 0

    @property
    def tokens(self) -> int:
        return sum(self.mask)

    def judge(self, gold: int, cut: bool) -> None:
        """Reward, penalties, counts. cut: it ran into the limit of tokens or turns."""
        block = None if cut else verify.last_block([spoken(turn["text"]) for turn in self.turns])
        said = None if block is None else extract(block)
        self.correct = said is not None and said.isdecimal() and int(said) == gold
        calls = calls_of(self.turns)
        self.penalty = penalty.of_turns(self.turns).total
        self.calls, self.failed, self.blocks = calls.counted, calls.failed, answers_of(self.turns).count


def expert(problem: Problem, tool: Tool, rng: np.random.Generator, settings: Settings) -> Trajectory:
    """One that spoils calls and tries again; the last call that its turns allow is sound. It guesses a hidden operator."""
    operator = OPERATORS[rng.integers(2)] if problem.hidden else problem.operator
    ids = problem.ids
    mask = [False] * len(ids)
    turns: list[Record] = []

    def say(words: list[int]) -> None:
        ids.extend([*words, END])
        mask.extend([True] * (len(words) + 1))
        turns.append({"text": text_of(words), "calls": tool.calls(text_of(words))})

    for left in reversed(range(settings.turns - 1)):
        spoilt = left > 0 and rng.random() < settings.spoilt
        program = SPOILT[rng.integers(2)] if spoilt else f"print( {problem.a} {operator} {problem.b} )"
        say(ids_of(f"<tool_call> {program} </tool_call>"))
        reply = shown(turns[-1]["calls"][0])
        ids.extend(reply)
        mask.extend([False] * len(reply))
        if not spoilt:
            break
    say([NUMBER["<answer>"], *reply[1:-1], NUMBER["</answer>"]] * (2 if rng.random() < settings.doubled else 1))
    found = Trajectory(ids, mask, [0.0] * len(ids), turns)
    found.judge(problem.gold, cut=False)
    return found


# ---------------------------------------------------------------- the model


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attend, self.join = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor, memory: Tensor | None, at: int) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.attend(self.first(x)).view(b, n, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        if memory is not None:
            memory[0, :, :, at : at + n], memory[1, :, :, at : at + n] = k, v
            k, v = memory[0, :, :, : at + n], memory[1, :, :, : at + n]
        if n > 1:
            seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            seen = torch.softmax(q @ k.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5, -1) @ v
        x = x + self.join(seen.transpose(1, 2).reshape(b, n, WIDTH))
        return x + self.down(functional.gelu(self.up(self.second(x))))


class Model(nn.Module):
    """Decoder: 2 layers of width 64, 4 heads, positions learned."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(len(WORDS), WIDTH), nn.Embedding(2 * LIMIT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.last, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(WORDS), bias=False)
        stream = torch.Generator().manual_seed(seed)
        for name, each in self.named_parameters():
            if each.dim() > 1:
                nn.init.normal_(each, std=0.1 if "blocks" not in name else each.shape[1] ** -0.5, generator=stream)
            elif name.endswith("bias"):
                nn.init.zeros_(each)

    def forward(self, ids: Tensor, places: Tensor, memory: Sequence[Tensor | None] = (None,) * LAYERS) -> Tensor:
        """Final states [B, n, d] of ids [B, n] at places [n] or [B, n]. memory: of each layer, [2, B, heads, LIMIT, d / heads], the keys and values of what came before, to which these are added; only from
        place 0, or a token at a time."""
        x = self.words(ids) + self.places(places)
        for block, one in zip(self.blocks, memory, strict=True):
            x = block(x, one, 0 if one is None else int(places[0]))
        found: Tensor = self.last(x)
        return found

    def logprobs(self, ids: Tensor, places: Tensor) -> Tensor:
        """log pi of ids [B, n] after the first of each, [B, n - 1]: all of a text at once."""
        hidden = self(ids[:, :-1], places[..., :-1])
        found, _ = token_logprobs(hidden.flatten(0, 1), self.head.weight, ids[:, 1:].flatten(), chunk=hidden.shape[0] * hidden.shape[1])  # fmt: skip
        return found.view(len(ids), -1)


def save(model: Model, path: Path) -> None:
    packed = io.BytesIO()
    arrays: dict[str, Any] = {name: one.numpy() for name, one in model.state_dict().items()}
    np.savez(packed, **arrays)
    write_atomic(path, packed.getvalue())


def load(path: Path) -> Model:
    model = Model()
    with np.load(path, allow_pickle=False) as arrays:
        model.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
    return model


@torch.no_grad()
def rollout(
    model: Model, wanted: Sequence[Problem], tool: Tool, stream: torch.Generator, settings: Settings
) -> list[Trajectory]:
    """A trajectory of each problem, at temperature 1. All are at the same place: what a tool says is put there in place of what would be sampled. One whose tool's words would not fit ends before them."""
    n = len(wanted)
    ids = torch.full((n, LIMIT), PAD)
    ids[:, :PROMPT] = torch.tensor([one.ids for one in wanted])
    given = torch.full((n, LIMIT), -1)
    logp, mask = torch.zeros(n, LIMIT), torch.zeros(n, LIMIT, dtype=torch.bool)
    found: list[Trajectory | None] = [None] * n
    turns: list[list[Record]] = [[] for _ in wanted]
    begin = [PROMPT] * n

    def end(row: int, length: int, cut: bool) -> None:
        one = Trajectory(ids[row, :length].tolist(), mask[row, :length].tolist(), logp[row, :length].tolist(), turns[row])  # fmt: skip
        one.judge(wanted[row].gold, cut)
        found[row] = one

    memory = [torch.zeros(2, n, HEADS, LIMIT, WIDTH // HEADS) for _ in range(LAYERS)]
    rows = torch.arange(n)
    alive = torch.ones(n, dtype=torch.bool)
    hidden = model(ids[:, :PROMPT], torch.arange(PROMPT), memory)[:, -1]
    for at in range(PROMPT, LIMIT):
        log = torch.log_softmax(hidden @ model.head.weight.T, -1)
        picked = torch.multinomial(log.exp(), 1, generator=stream)
        put = given[rows, at]
        token = torch.where(put >= 0, put, picked[:, 0])
        ids[rows, at] = token
        sampled = (put < 0) & alive[rows]
        mask[rows, at] = sampled
        logp[rows, at] = torch.where(sampled, log.gather(1, picked)[:, 0], 0.0)
        for row in rows[sampled & (token == END)].tolist():
            text = text_of(ids[row, begin[row] : at].tolist())
            calls = tool.calls(text)
            turns[row].append({"text": text, "calls": calls})
            reply = [number for call in calls for number in shown(call)]
            begin[row] = at + 1 + len(reply)
            if not calls or len(turns[row]) == settings.turns or begin[row] >= LIMIT:
                end(row, at + 1, cut=bool(calls))
                alive[row] = False
            else:
                given[row, at + 1 : begin[row]] = torch.tensor(reply)
        left = alive[rows]
        if not left.any():
            break
        if left.sum() <= 0.75 * len(rows):
            rows, token = rows[left], token[left]
            memory = [one[:, left, :, :].clone() for one in memory]
        if at + 1 < LIMIT:
            hidden = model(token[:, None], torch.tensor([at]), memory)[:, -1]
    for row in alive.nonzero()[:, 0].tolist():
        text = text_of(ids[row, begin[row] :].tolist())
        turns[row].append({"text": text, "calls": tool.calls(text)})
        end(row, LIMIT, cut=True)
    return [one for one in found if one is not None]


# ---------------------------------------------------------------- training


def padded(some: Sequence[Trajectory]) -> tuple[Tensor, Tensor, Tensor]:
    """ids, mask, logp [B, longest]."""
    longest = max(len(one.ids) for one in some)

    def full(rows: Sequence[Sequence[Any]], fill: Any) -> Tensor:
        return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])

    return (
        full([one.ids for one in some], PAD),
        full([one.mask for one in some], False),
        full([one.logp for one in some], 0.0),
    )


def by_length(some: Sequence[Trajectory], size: int) -> list[list[int]]:
    """Places, in micro-batches of like length."""
    order = sorted(range(len(some)), key=lambda k: len(some[k].ids))
    return [order[first : first + size] for first in range(0, len(order), size)]


def learn(seed: int, settings: Settings, tool: Tool, tick: Callable[[], None]) -> Model:
    """A model of the expert: Adam at 3e-3, falling to 0 along a cosine, on prompts half of which show their operator."""
    rng = drawn(seed, "sft")
    model = Model(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / settings.sft_steps))
    )
    for _ in range(settings.sft_steps):
        half = settings.sft_batch // 2
        wanted = [*problems(rng, half, True), *problems(rng, settings.sft_batch - half, False)]
        some = [expert(one, tool, rng, settings) for one in wanted]
        denominator = sum(one.tokens for one in some)
        optimizer.zero_grad()
        for places in by_length(some, (len(some) + 2) // 3):
            ids, mask, _ = padded([some[k] for k in places])
            # Anywhere among the positions, so that a long chain of errors ends at none that is new; however long it is, or where it begins would tell.
            shift = torch.from_numpy(rng.integers(0, LIMIT + 1, len(ids)))
            logp = model.logprobs(ids, torch.arange(ids.shape[1]) + shift[:, None])
            (-torch.where(mask[:, 1:], logp, 0.0).sum() / denominator).backward()
        optimizer.step()
        schedule.step()
        tick()
    return model


def start(seed: int, settings: Settings, folder: str, tick: Callable[[], None]) -> Record:
    """Train on the expert, write the weights, and look at what they do: {before, precondition}."""
    torch.set_num_threads(1)
    with Tool(settings.level) as tool:
        model = learn(seed, settings, tool, tick)
        save(model, Path(folder) / f"{seed}.npz")
        stream = torch.Generator().manual_seed(int(drawn(seed, "precondition").integers(2**31)))
        many = [
            one
            for part in range(4)
            for one in rollout(
                model, problems(drawn(seed, f"precondition {part}"), settings.evaluated, True), tool, stream, settings
            )
        ]
        return {
            "before": evaluate(model, seed, tool, settings),
            "precondition": [[one.failed, one.correct] for one in many],
        }


def evaluate(model: Model, seed: int, tool: Tool, settings: Settings) -> Record:
    """{hidden, visible}: what is sampled for prompts drawn anew, whose operator is hidden or shown."""
    found = {}
    for kind in ("hidden", "visible"):
        rng = drawn(seed, f"evaluate {kind}")
        stream = torch.Generator().manual_seed(int(rng.integers(2**31)))
        found[kind] = measured(
            rollout(model, problems(rng, settings.evaluated, kind == "hidden"), tool, stream, settings)
        )
    return found


def measured(some: Sequence[Trajectory]) -> Record:
    fields = ("correct", "calls", "failed", "blocks", "tokens")
    return measure(*([getattr(one, name) for one in some] for name in fields))


def arm(name: selection.Algo, seed: int, settings: Settings, folder: str, tick: Callable[[], None]) -> Record:
    """One arm: {steps: what was sampled in each, after}."""
    torch.set_num_threads(1)
    model = load(Path(folder) / f"{seed}.npz")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    steps = []
    with Tool(settings.level) as tool:
        for step in range(settings.steps):
            rng = drawn(seed, f"step {step}")
            each = [one for one in problems(rng, settings.prompts, True) for _ in range(settings.sampled(name))]
            stream = torch.Generator().manual_seed(int(rng.integers(2**31)))
            some = rollout(model, each, tool, stream, settings)
            steps.append({"step": step, **measured(some), **update(model, optimizer, some, name, seed, step, rng, settings)})  # fmt: skip
            tick()
        return {"steps": steps, "after": evaluate(model, seed, tool, settings)}


def update(
    model: Model,
    optimizer: torch.optim.Optimizer,
    some: Sequence[Trajectory],
    name: selection.Algo,
    seed: int,
    step: int,
    rng: np.random.Generator,
    settings: Settings,
) -> Record:
    """Choose of each group and train on it in minibatches of whole groups; counts of what was done. The denominator is a minibatch's sampled tokens, over all of its micro-batches."""
    size = settings.sampled(name)
    groups = []
    for g in range(settings.prompts):
        members = some[g * size : (g + 1) * size]
        rewards, penalties = [float(one.correct) for one in members], [one.penalty for one in members]
        kept = selection.keep(rewards, penalties, name, settings.group, group=f"{step}/{g}", seed=seed)
        groups.append([(members[one.index], one.advantage) for one in kept])
    stats = Stats()
    for part in np.array_split(rng.permutation(settings.prompts), 2):
        chosen = [one for g in part for one in groups[g]]
        if not chosen:
            continue
        total = sum(one.tokens for one, _ in chosen)
        optimizer.zero_grad()
        for places in by_length([one for one, _ in chosen], 64):
            ids, mask, old = padded([chosen[k][0] for k in places])
            advantage = torch.tensor([chosen[k][1] for k in places])
            value, told = loss(
                model.logprobs(ids, torch.arange(ids.shape[1])),
                old[:, 1:],
                advantage[:, None],
                mask[:, 1:],
                total,
                Clip(0.2, 0.28),
            )
            value.backward()
            stats.add(told)
        optimizer.step()
    count = max(stats.tokens, 1.0)
    return {
        "kept": sum(map(len, groups)),
        "groups": sum(map(bool, groups)),
        "clipped_low": stats.clipped_low / count,
        "clipped_high": stats.clipped_high / count,
        "kl": stats.kl / count,
    }
