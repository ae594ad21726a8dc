"""One record of any form as token ids with a mark on what is to be predicted. dataset.py tells the forms and reads the files.

A prompt gets the special tokens that the tokenizer puts in front (a BOS), never those it puts behind. Prompt and
completion are tokenised apart, so that no token spans the two: generation too begins from the prompt's own tokens. A
completion or a document ends with the EOS token; a chat ends as its template ends it, `ids` as they are. Except for
`prompt`, whose text is taken as it is, a prompt ends without white space and the completion begins with it, since BPE
vocabularies have the space at the beginning of a word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import chain, pairwise
from string import Template
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tenfold_shared import BadInput
from tenfold_shared.cli import read_template
from tenfold_shared.jsonl import Record
from tenfold_shared.redaction import one_line

RESPONSE = "### Response:"
REFERENCES = (("mr", "ref"), ("meaning_representation", "human_reference"))
SENTENCES = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("premise", "hypothesis"),
    ("sentence",),
)  # pairs first: a question goes with a `sentence`
LABELS = ("label", "gold_label")
ABSENT: Any = object()
NO_TEXT = re.compile("[\0\ud800-\udfff]")  # a surrogate is half a character, or a byte that was no UTF-8 (`_tolerant`)


class Tokens(NamedTuple):
    """ids and target as in an Example, of any length; `front` special tokens begin it, and at `start` the completion
    (of a chat the last)."""

    ids: NDArray[np.int32]
    target: NDArray[np.bool_]
    front: int
    start: int


class Unusable(BadInput):
    """An option that no record can be read with, met only while reading them."""


class Encoder:
    """Records as token ids: a method a form, all of which raise BadInput that begins with WHERE."""

    def __init__(self, tokenizer: Any, vocab: int, template: str | None, eos: bool) -> None:
        self.tokenizer, self.vocab, self.template = tokenizer, vocab, template
        self.bos_id = getattr(tokenizer, "bos_token_id", None)
        self.eos_id = getattr(tokenizer, "eos_token_id", None) if eos else None
        self._front: list[int] | None = None
        self._templates: dict[tuple[str, ...], Template] = {}

    def ready(self, form: str, name: str) -> None:
        """Raises BadInput where no record of this form could be encoded."""
        if form == "auto":  # a file without a good record
            return
        if form != "ids" and self.tokenizer is None:
            raise BadInput(f"{name}: form {form}: needs a tokenizer; without one only `ids` can be read")
        if form == "chat" and not getattr(self.tokenizer, "chat_template", None):
            raise BadInput(f"{name}: the model's tokenizer has no chat template; --chat-template FILE gives one")
        if self.template is not None and form in ("chat", "ids", "text"):
            raise BadInput(
                f"--template {self.template}: {name} is of the form {form}, whose records have no prompt to fill in"
            )

    def __call__(self, form: str, where: str, record: Record) -> Tokens:
        found: Tokens = getattr(self, form)(where, record)
        if form != "ids" and (top := int(found.ids.max())) >= self.vocab:
            told = (
                f"expected token ids below the model's {self.vocab}, got {top} from the tokenizer; is it this model's?"
            )
            raise BadInput(f"{where}: {told}")
        return found

    # The forms.

    def prompt(self, where: str, record: Record) -> Tokens:
        field = "answer" if "answer" in record and "completion" not in record else "completion"
        prompt, completion = _string(where, record, "prompt"), _string(where, record, field)
        return self._pair(where, self._filled(prompt, "prompt", prompt=prompt), field, completion)

    def alpaca(self, where: str, record: Record) -> Tokens:
        if "instruction" not in record and "text" in record and self.template is None:
            prompt, mark, completion = _string(where, record, "text").partition(RESPONSE)
            if not mark:
                raise BadInput(f"{where}: text: expected `{RESPONSE}` in it, got {told_value(prompt)}")
            return self._pair(where, prompt + mark, "text", completion, what=f"some text after `{RESPONSE}`")
        instruction, output = _string(where, record, "instruction"), _string(where, record, "output")
        given = _string(where, record, "input") if record.get("input") is not None else ""
        parts = [("Instruction", instruction), *([("Input", given)] if given else [])]
        prompt = "".join(f"### {heading}:\n{text}\n\n" for heading, text in parts) + RESPONSE
        prompt = self._filled(prompt, "instruction", instruction=instruction, input=given)
        return self._pair(where, prompt, "output", output, lead="\n")

    def e2e(self, where: str, record: Record) -> Tokens:
        names = next(pair for pair in REFERENCES if set(pair) <= set(record))
        meaning, reference = (_string(where, record, name) for name in names)
        return self._pair(where, self._filled(f"{meaning} ||", "mr", mr=meaning), names[1], reference, lead=" ")

    def glue(self, where: str, record: Record) -> Tokens:
        names = next(names for names in SENTENCES if set(names) <= set(record))
        label = next(name for name in LABELS if name in record)
        said = {name: _string(where, record, name) for name in names}
        answer = _string(where, record, label)
        if answer.strip() == "-1":  # how test sets without labels are given away
            raise BadInput(f'{where}: {label}: expected a label, got "-1", which stands for none')
        prompt = "".join(f"{name}: {text}\n" for name, text in said.items()) + "label:"
        return self._pair(where, self._filled(prompt, names[0], **said), label, answer, lead=" ")

    def text(self, where: str, record: Record) -> Tokens:
        text = _string(where, record, "text")
        if not text.strip():
            raise BadInput(f"{where}: text: expected some text, got none")
        front = self._specials(text)
        ids = self._ended(front + self._tokens(text))
        if len(ids) < 2:
            raise BadInput(f"{where}: text: expected two tokens or more, got {len(ids)}")
        return _sequence([ids[:1], ids[1:]], len(front), 1)

    def ids(self, where: str, record: Record) -> Tokens:
        context, completion = (self._given(where, record, field) for field in ("context", "completion"))
        if not completion:
            raise BadInput(f"{where}: completion: expected some token ids, got none")
        if not context and len(completion) < 2:
            raise BadInput(f"{where}: completion: expected two ids or more after an empty context, got 1")
        return _sequence([context, completion], self._begins(context), len(context))

    def chat(self, where: str, record: Record) -> Tokens:
        """To be predicted is what the template adds for an assistant turn from the end of its generation prompt on."""
        messages = _turns(where, record)
        whole = self._render(where, messages)
        edges: list[int] = []
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            begun = self._render(where, messages[:number], add_generation_prompt=True)
            ended = self._render(where, messages[: number + 1])
            if not whole.startswith(ended):
                raise BadInput(
                    f"{where}: messages[{number}]: the chat template rewrites earlier turns once others follow, this "
                    "one too; --chat-template FILE with one that keeps every turn, or a record for each answer"
                )
            if not ended.startswith(begun) or ended == begun:
                raise BadInput(
                    f"{where}: messages[{number}]: the chat template rewrites earlier turns: what stands before this "
                    "answer is not what it gives to be continued; --chat-template FILE with one that keeps it"
                )
            edges += [len(begun), len(ended)]
        parts = self._parts(whole, edges)
        found = _sequence(parts, self._begins(parts[0]), sum(map(len, parts[: len(edges) - 1])))
        if not found.target.any():
            raise BadInput(f"{where}: messages: expected tokens to predict, got none")
        return found

    # What they share.

    def _pair(
        self, where: str, prompt: str, field: str, completion: str, *, lead: str = "", what: str = "some text"
    ) -> Tokens:
        if not completion.strip():
            raise BadInput(f"{where}: {field}: expected {what}, got none")
        completion = lead + completion
        front = self._specials(completion)
        before, after = front + self._tokens(prompt), self._ended(self._tokens(completion))
        if len(before) + len(after) < 2 or not after:
            after_what = "two tokens or more after an empty prompt" if after else "some tokens"
            raise BadInput(f"{where}: {field}: expected {after_what}, got {len(after) or 'none'}")
        return _sequence([before, after], len(front), len(before))

    def _tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _specials(self, text: str) -> list[int]:
        """What the tokenizer puts in front of every text, seen once on one that has tokens."""
        if self._front is None:
            for probe in ("a", text):
                if bare := self._tokens(probe):
                    full = list(self.tokenizer(probe, verbose=False)["input_ids"])
                    at = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
                    self._front = full[:at]
                    break
        return self._front or []

    def _begins(self, ids: list[int]) -> int:
        """1 where a BOS that nobody but the data put there begins it."""
        return int(self.bos_id is not None and ids[:1] == [self.bos_id])

    def _ended(self, ids: list[int]) -> list[int]:
        return ids if self.eos_id is None or ids[-1:] in ([], [self.eos_id]) else [*ids, self.eos_id]

    def _filled(self, built_in: str, needs: str, **fields: str) -> str:
        """The prompt by --template, or the built-in one."""
        if self.template is None:
            return built_in
        names = tuple(fields)
        if names not in self._templates:
            try:
                text = read_template(self.template, "", set(names), needs)
            except BadInput as error:
                raise Unusable(str(error)) from None
            self._templates[names] = Template(text.removesuffix("\n"))
        return self._templates[names].substitute(fields)

    def _given(self, where: str, record: Record, field: str) -> list[int]:
        given = record.get(field, ABSENT)
        if not isinstance(given, list):
            raise BadInput(f"{where}: {field}: expected a list of token ids, got {told_value(given)}")
        for at, one in enumerate(given):
            if type(one) is not int or not 0 <= one < self.vocab:  # True is an int to isinstance
                raise BadInput(
                    f"{where}: {field}[{at}]: expected a token id of 0 to {self.vocab - 1}, got {told_value(one)}"
                )
        return given

    def _render(self, where: str, messages: list[Record], **more: bool) -> str:
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, **more))
        except Exception as error:  # whatever a template raises of itself
            told = one_line(error, 160)
            raise BadInput(
                f"{where}: messages: the chat template does not take the first {len(messages)}: {told}"
            ) from None

    def _parts(self, text: str, edges: list[int]) -> list[list[int]]:
        """TEXT, cut at EDGES, as tokens part by part: those of the whole text, unless one of them spans an edge."""
        apart = [self._tokens(text[a:b]) for a, b in pairwise([0, *edges, len(text)])]
        whole = self._tokens(text)
        if list(chain.from_iterable(apart)) == whole:
            return apart
        # SentencePiece puts a space before any text, and so before every part; only the first one should have it.
        heads = [self._tokens(text[:edge]) for edge in edges]
        if all(whole[: len(head)] == head for head in heads):
            return [whole[a:b] for a, b in pairwise([0, *map(len, heads), len(whole)])]
        return apart


def _sequence(parts: Sequence[list[int]], front: int, start: int) -> Tokens:
    """Parts of which every second one is to be predicted."""
    ids = np.fromiter(chain.from_iterable(parts), np.int32)
    target = np.repeat(np.arange(len(parts)) % 2 == 1, [len(part) for part in parts])
    target[:1] = False  # nothing stands before it
    return Tokens(ids, target, front, start)


def object_of(where: str, record: Any) -> Record:
    if not isinstance(record, dict):
        raise BadInput(f"{where}: expected a JSON object, got {told_value(record)}")
    return record


def told_value(value: Any) -> str:
    """A value as an error message shows it: as JSON, on one line."""
    return "nothing" if value is ABSENT else one_line(json.dumps(value, default=str), 60)


def _string(where: str, record: Record, field: str, name: str | None = None) -> str:
    """A field that is text, called NAME in what is raised."""
    value = record.get(field, ABSENT)
    if not isinstance(value, str):
        raise BadInput(f"{where}: {name or field}: expected a string, got {told_value(value)}")
    if found := NO_TEXT.search(value):
        what = "a NUL character" if found[0] == "\0" else f"{told_value(found[0])}, which is no UTF-8"
        raise BadInput(f"{where}: {name or field}: expected text, got {what}")
    return value


def _turns(where: str, record: Record) -> list[Record]:
    messages = record.get("messages", ABSENT)
    if not isinstance(messages, list) or not messages:
        raise BadInput(f"{where}: messages: expected a list of turns, got {told_value(messages)}")
    for number, message in enumerate(messages):
        at = f"messages[{number}]"
        if not isinstance(message, dict):
            raise BadInput(f"{where}: {at}: expected an object with `role` and `content`, got {told_value(message)}")
        role = _string(where, message, "role", f"{at}.role")
        if not _string(where, message, "content", f"{at}.content").strip() and role == "assistant":
            raise BadInput(f"{where}: {at}.content: expected some text, got none")
    if all(message["role"] != "assistant" for message in messages):
        raise BadInput(f"{where}: messages: expected an assistant turn, got none")
    return messages
