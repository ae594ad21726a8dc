"""What a method loses on a text: its last tokens decoded with some of the cache, beside the same tokens decoded with all of it.

A window is prefilled once, dense; then each method decodes the window's end over the same keys and values, teacher-forced, every
token choosing its own blocks (stepwise.py). Needles are windows of the same text with statements of numbers in it and a question
for one of them at the end, which is decoded as the answer is.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor

from seer_decode.cache import Method, SeerCache, attached
from seer_decode.gate import Gates
from seer_decode.select import Policy
from tenfold_shared import BadInput

PLACES = (
    "Lisbon",
    "Oslo",
    "Prague",
    "Dublin",
    "Vienna",
    "Athens",
    "Warsaw",
    "Geneva",
    "Cairo",
    "Lima",
    "Tokyo",
    "Quito",
)
DIGITS = 5


class Case(NamedTuple):
    """A method at a policy; gates for `seer` alone."""

    method: Method
    policy: Policy
    gates: Gates | None = None


class Tally(msgspec.Struct):
    """Of a case, window by window, means over its decoded tokens: nll, KL(dense ‖ sparse) in nats, whether the likeliest token is
    the dense one, tokens read a stored head, and the share of dense attention's mass and of its block maxima in what was read.
    needles: whether each answer was found."""

    nll: list[float] = msgspec.field(default_factory=list)
    kl: list[float] = msgspec.field(default_factory=list)
    agree: list[float] = msgspec.field(default_factory=list)
    read: list[float] = msgspec.field(default_factory=list)
    mass: list[float] = msgspec.field(default_factory=list)
    peak: list[float] = msgspec.field(default_factory=list)
    needles: list[bool] = msgspec.field(default_factory=list)
    spread: float = 0.0  # of one window's nll, for its error where it is the only one


class Needle(NamedTuple):
    """Token ids, of which the last `decoded` are question and answer, and the last `answer` the answer."""

    ids: list[int]
    decoded: int
    answer: int


def windows(ids: Sequence[int], length: int, count: int | None) -> list[list[int]]:
    """Contiguous pieces of `length` ids, evenly over the text, as many as there are for None. Raises BadInput for too few ids."""
    there = len(ids) // length
    if not there:
        raise BadInput(f"the text has {len(ids)} tokens, fewer than one window of {length}")
    if count is not None and there < count:
        raise BadInput(f"--windows {count}: the text has {len(ids)} tokens, {there} windows of {length}")
    count = there if count is None else count
    return [list(ids[at * length : (at + 1) * length]) for at in (i * there // count for i in range(count))]


def needles(tokenizer: Any, ids: Sequence[int], length: int, count: int, seed: int) -> list[Needle]:
    """Windows of the text with three statements of a place's number at random depths, and a question for one of them."""
    found, draw = [], random.Random(seed)

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    for _ in range(count):
        places = draw.sample(PLACES, 3)
        numbers = ["".join(draw.choices("123456789", k=DIGITS)) for _ in places]
        said = [
            encode(f"\n\nThe secret number of {p} is {n}. Remember it.\n\n")
            for p, n in zip(places, numbers, strict=True)
        ]
        which = draw.randrange(3)
        question, answer = encode(f"\n\nThe secret number of {places[which]} is"), encode(f" {numbers[which]}")
        room = length - len(question) - len(answer) - sum(map(len, said))
        if room < 1:
            raise BadInput(f"--length {length}: too short for a needle; --needles 0 leaves them out")
        begin = draw.randrange(max(1, len(ids) - room))
        hay = list(ids[begin : begin + room])
        for at, part in zip(sorted(draw.sample(range(len(hay) + 1), 3), reverse=True), said, strict=True):
            hay[at:at] = part
        found.append(Needle(hay + question + answer, len(question) + len(answer), len(answer)))
    return found


class Study:
    """The model, and what decoding every case costs on windows of ids."""

    def __init__(self, model: Any, cases: Sequence[Case], *, dense_layers: int = 0, seed: int = 0) -> None:
        self.model, self.cases, self.seed, self.dense_layers = model, list(cases), seed, dense_layers
        self.tallies = [Tally() for _ in self.cases]
        self.dense = Tally()

    @torch.inference_mode()
    def _decoded(self, ids: Sequence[int], count: int) -> Iterator[tuple[Case | None, Tensor, SeerCache]]:
        """Of the last `count` ids, dense (case None) and then of every case: log-probabilities before each (count, V)."""
        device = self.model.device
        given = torch.tensor([ids], device=device)
        before = len(ids) - count - 1
        with attached(self.model):
            cache = SeerCache(self.model, Policy("dense"), "dense", seed=self.seed, dense_layers=self.dense_layers)
            self.model(given[:, :before], past_key_values=cache, logits_to_keep=1)
            cache.activate_past_recording()  # sliding layers forget what is taken back, unless told before
            cache.stepwise = True
            for case in (None, *self.cases):
                if case is not None:
                    cache.become(case.policy, case.method, case.gates)
                cache.seen.clear()
                at = torch.arange(before, len(ids) - 1, device=device)[None]
                logits = self.model(given[:, before:-1], past_key_values=cache, position_ids=at).logits[0]
                logs = logits.float().log_softmax(-1)
                if not bool(torch.isfinite(logs).all()):
                    raise BadInput("the model's logits hold NaN or infinity; try --dtype float32")
                cache.crop(-count)
                yield case, logs, cache

    def window(self, ids: Sequence[int], count: int) -> None:
        """Add a window whose last `count` tokens are decoded."""
        truth, target = None, torch.tensor(ids[-count:])[:, None]
        for number, (case, logs, cache) in enumerate(self._decoded(ids, count)):
            nll = -logs.gather(1, target.to(logs.device))[:, 0]
            tally = self.dense if case is None else self.tallies[number - 1]
            truth = logs if truth is None else truth
            tally.nll.append(float(nll.mean()))
            tally.spread = float(nll.std() / count**0.5) if count > 1 else 0.0
            tally.kl.append(float((truth.exp() * (truth - logs)).sum(-1).mean()))
            tally.agree.append(float((truth.argmax(-1) == logs.argmax(-1)).float().mean()))
            for name in ("read", "mass", "peak"):
                getattr(tally, name).append(float(torch.stack([getattr(layer, name) for layer in cache.seen]).mean()))

    def needle(self, one: Needle) -> None:
        """Add a needle: found where every token of the answer is the likeliest after those before it."""
        target = torch.tensor(one.ids[-one.answer :])
        for number, (case, logs, _) in enumerate(self._decoded(one.ids, one.decoded)):
            tally = self.dense if case is None else self.tallies[number - 1]
            tally.needles.append(bool(torch.equal(logs[-one.answer :].argmax(-1).cpu(), target)))
