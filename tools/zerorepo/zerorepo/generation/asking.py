"""Asking a model: what every stage of generation says to it and hears from it goes through here.

Sits between the stages, which make an `Ask` of a role, a subject and messages, and the back ends of
tenfold_shared.generate or the oracle beside this file. An answer is data that may be wrong: it is read tolerantly,
checked by the caller's function, and asked for again with what was wrong with it. Every answer is in the journal
before anything is made of it, so that a run that is killed goes on without asking twice.

Messages are redacted before they are sent, hence before they are recorded. They begin with one system message that
stays the same over a stage, so that a server's prefix cache holds.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from tenfold_shared import Missing
from tenfold_shared.cli import Backend
from tenfold_shared.jsonl import Journal
from tenfold_shared.redaction import redact
from zerorepo.lift import extract

if TYPE_CHECKING:
    from tenfold_shared.generate import Completion, Generator, Request, Sampling

TRIES = 3  # answers that may be unusable before a subject is given up
LONGEST = 200_000  # characters of an answer that are looked at
NOT_A_MODEL = ("oracle:", "fault:")
_SECRETS = re.compile(
    r"\b(?:sk|rk|pk)-[A-Za-z0-9_-]{16,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bAKIA[0-9A-Z]{16}\b|\bxox[abpr]-[A-Za-z0-9-]{10,}"
    r"|\bhf_[A-Za-z0-9]{20,}|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?-----END [A-Z ]*PRIVATE KEY-----"
    r"|(?i:\bauthorization:\s*)\S+(?:\s+\S+)?"
)
# What our back ends say of a question that would be refused however often it is asked: that one subject is given up.
_REFUSED = re.compile(
    r"HTTP 4(?:00|13|22)\b|exceed the model's context|(?:tokenizer|chat template) refuses|the prompt is empty"
)
Value = TypeVar("Value")


class OverBudget(Exception):
    """--budget-tokens is spent, or --max-time over; what was asked so far is in the journal."""


class Ask(NamedTuple):
    """A question. role: what the model is to be; subject: the id it is about; turn: how often it was asked before;
    sample: which of several answers to the same words, of a vote."""

    role: str
    subject: str
    system: str
    user: str
    turn: int = 0
    sample: int = 0

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [{"role": "system", "content": clean(self.system)}, {"role": "user", "content": clean(self.user)}]

    @property
    def key(self) -> str:
        """Of the request; the oracle reads it."""
        return f"{self.role}|{self.subject}|{self.turn}|{self.sample}"


class Answer(NamedTuple):
    """finish: stop, length (cut off: never taken for a whole), or error with its reason as text."""

    text: str
    finish: str
    model: str
    request: str
    prompt_tokens: int
    completion_tokens: int

    @property
    def whole(self) -> str:
        """The text after any thinking. Raises ValueError where the answer was cut off, failed or is endless."""
        if self.finish == "length":
            raise ValueError("the answer was cut off at --max-tokens")
        if self.finish != "stop":
            raise ValueError(f"no answer: {self.text}")
        if len(self.text) > LONGEST:
            raise ValueError(f"the answer has {len(self.text):,} characters; at most {LONGEST:,} are read")
        return self.text.rpartition("</think>")[2]


class Spent(msgspec.Struct):
    """What one role cost."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Asker:
    """One model for all roles of a run. journal: where answers are kept, None to keep none; end: of time.monotonic(),
    after which nothing more is asked.

    `refused`: subject to what was wrong with its last answer, of those given up. `models`: who answered.
    """

    def __init__(
        self, generator: Generator, sampling: Sampling, seed: int = 0, journal: Journal | None = None,
        budget: int | None = None, end: float | None = None,
    ) -> None:  # fmt: skip
        self.end = end
        self.generator, self.sampling, self.seed, self.journal, self.budget = generator, sampling, seed, journal, budget
        self.refused: dict[str, str] = {}
        self.models: set[str] = set()
        self.spent: defaultdict[str, Spent] = defaultdict(Spent)
        self._counted: set[str] = set()

    def known(self, ask: Ask) -> Answer | None:
        """The answer, where the journal has it."""
        name = self._name(ask)
        if self.journal is None or name not in self.journal:
            return None
        answer = Answer(*self.journal.get(name))
        self._count(ask, answer)
        return answer

    def stream(self, asks: Iterator[tuple[Any, Ask] | None]) -> Iterator[tuple[Any, Answer]]:
        """(tag, answer) of each (tag, ask), as they come. None in `asks`: nothing ready before another answer.

        Raises OverBudget before it asks more than the budget allows.
        """
        sent: dict[str, tuple[Any, Ask]] = {}  # by the request's key

        def requests() -> Iterator[Request | None]:
            for item in asks:
                if item is not None:
                    self._afford()
                    sent[item[1].key] = item
                yield None if item is None else self._request(item[1])

        for done in self.generator.generate(requests(), self.sampling):
            tag, ask = sent.pop(done.key)
            answer = self._heard(self._name(ask), done)
            self._count(ask, answer)
            yield tag, answer

    def all(self, asks: Sequence[Ask]) -> list[Answer]:
        """The answers in the order of the questions."""
        found: dict[int, Answer] = {}
        for at, ask in enumerate(asks):
            if (answer := self.known(ask)) is not None:
                found[at] = answer
        for at, answer in self.stream((at, ask) for at, ask in enumerate(asks) if at not in found):
            found[at] = answer
        return [found[at] for at in range(len(asks))]

    def checked(self, ask: Ask, check: Callable[[dict[str, Any]], Value], wanted: Iterable[str] = ()) -> Value | None:
        """What `check` makes of the JSON object in the answer; None after TRIES unusable ones. See `checked_all`."""
        return self.checked_all([(ask, check, tuple(wanted))])[0]

    def checked_all(
        self, items: Sequence[tuple[Ask, Callable[[dict[str, Any]], Value], Sequence[str]]]
    ) -> list[Value | None]:
        """The same for many independent questions at once.

        check: raises ValueError saying what is wrong with the object; the words are sent with the next try. wanted:
        keys that the object should have, which tells it from others in the text. Raises Missing where the model did not
        answer at all: another start may do better.
        """
        found: list[Value | None] = [None] * len(items)
        open_: dict[int, str] = dict.fromkeys(range(len(items)), "")
        for turn in range(TRIES):
            asks = {at: again(items[at][0], why, turn) for at, why in open_.items()}
            for at, answer in zip(asks, self.all(list(asks.values())), strict=True):
                ask, check, wanted = items[at]
                expect_answer(ask, answer)
                try:
                    value, problem = extract(answer.whole, wanted)
                    if problem:
                        raise ValueError(problem)
                    found[at] = check(value)
                    del open_[at]
                except ValueError as error:
                    open_[at] = str(error)
            if not open_:
                break
        for at, why in open_.items():
            self.refused[f"{items[at][0].role} {items[at][0].subject}"] = why
        return found

    # ------------------------------------------------------------ keeping

    def _name(self, ask: Ask) -> str:
        asked = msgspec.json.encode([ask.role, ask.subject, ask.messages, self._seed(ask), self.sampling])
        return hashlib.sha256(asked).hexdigest()[:24]

    def _seed(self, ask: Ask) -> int:
        """Of the seed, the turn and the sample: another answer to the same words."""
        return self.seed + 1_000_003 * ask.turn + 7_919 * ask.sample

    def _request(self, ask: Ask) -> Request:
        from tenfold_shared.generate import Request

        return Request(key=ask.key, messages=ask.messages, seed=self._seed(ask))

    def _afford(self) -> None:
        if self.budget is not None and self.tokens >= self.budget:
            raise OverBudget(f"--budget-tokens: {self.tokens:,} of {self.budget:,} are spent")
        if self.is_late:
            raise OverBudget("--max-time is over")

    @property
    def is_late(self) -> bool:
        return self.end is not None and time.monotonic() > self.end

    def _heard(self, name: str, done: Completion) -> Answer:
        text = f"{done.error}" if done.finish_reason == "error" else done.text
        answer = Answer(text, done.finish_reason, done.model, name, done.prompt_tokens, done.completion_tokens)
        if self.journal is not None and answer.finish != "error":
            self.journal.put(name, answer)
        return answer

    def _count(self, ask: Ask, answer: Answer) -> None:
        if answer.request in self._counted or answer.finish == "error":
            return
        self._counted.add(answer.request)
        self.models.add(answer.model)
        spent = self.spent[ask.role]
        spent.calls += 1
        spent.prompt_tokens += answer.prompt_tokens
        spent.completion_tokens += answer.completion_tokens

    @property
    def tokens(self) -> int:
        return sum(one.prompt_tokens + one.completion_tokens for one in self.spent.values())


def expect_answer(ask: Ask, answer: Answer) -> None:
    """Raises Missing where nobody answered: others may later."""
    if answer.finish == "error" and not _REFUSED.search(answer.text):
        raise Missing(f"{ask.role} {ask.subject}: no answer: {answer.text}; what was answered is kept, the same command goes on")  # fmt: skip


def again(ask: Ask, problem: str, turn: int) -> Ask:
    """The same question after an unusable answer."""
    if not problem:
        return ask._replace(turn=turn)
    return ask._replace(user=f"{ask.user}\n\nAn earlier answer was not usable: {problem[:2000]}", turn=turn)


@lru_cache(
    maxsize=64
)  # a question is read for its name, for sending and for the answer; its overview by all of a stage
def clean(text: str) -> str:
    """Without credentials in URLs, and without what looks like a key."""
    return _SECRETS.sub("[redacted]", redact(text))


def label(models: Iterable[str]) -> str:
    """Who answered, in words that stand in every output: what is no model is called so."""
    names = sorted(models)
    told = [
        f"{name} (no model: it reads a hidden repository)" if name.startswith(NOT_A_MODEL) else name for name in names
    ]
    return ", ".join(told) or "nothing was asked"


def identity(backend: Backend) -> dict[str, Any]:
    """What of a back end decides its answers; of an oracle, what it hides."""
    told = backend.identity()
    if backend.model and backend.model[0].startswith(NOT_A_MODEL):
        from zerorepo.generation.oracle import hidden

        told["hidden"] = hidden(backend.model[0])
    return told


def open_generator(backend: Backend, seed: int) -> Generator:
    """The back end that --model names, `oracle:DIR` and `fault:DIR?q=0.3` included. Raises Missing or BadInput."""
    if not backend.model or not backend.model[0].startswith(NOT_A_MODEL):
        return backend.open(seed)
    from tenfold_shared.generate.recording import Recorder
    from zerorepo.generation.oracle import open_oracle

    oracle = open_oracle(backend.model, seed)
    return oracle if backend.record is None else Recorder(oracle, backend.record)
