"""Token ids of a request, where this process has the tokenizer; and which requests a model cannot take."""

from __future__ import annotations

from typing import Any

from tenfold_shared import BadInput
from tenfold_shared.generate import Request, Sampling
from tenfold_shared.redaction import one_line


class Refused(Exception):
    """This request cannot be done; the others can."""


def encode(tokenizer: Any, request: Request, model: str) -> list[int]:
    """Token ids of the prompt. Raises Refused, or BadInput where the model takes no messages at all."""
    if request.prompt_ids is not None:
        return list(request.prompt_ids)
    if request.prompt is not None:
        try:
            return list(tokenizer(request.prompt)["input_ids"])
        except (TypeError, ValueError) as error:  # half a surrogate pair
            raise Refused(f"the model's tokenizer refuses the prompt: {one_line(error)}") from None
    if not tokenizer.chat_template:
        raise BadInput(f"{model}: has no chat template; give records with `prompt` instead of `messages`")
    try:
        return list(tokenizer.apply_chat_template(request.messages, add_generation_prompt=True, return_dict=False))
    except Exception as error:  # a template is the model's own code, run on what the record holds
        raise Refused(f"the model's chat template refuses the messages: {one_line(error)}") from None


def tokens_of(tokenizer: Any, request: Request, model: str) -> int:
    """How many token ids `encode` gives; none of a request that it refuses."""
    try:
        return len(encode(tokenizer, request, model))
    except Refused:
        return 0


def admit(
    tokenizer: Any, request: Request, sampling: Sampling, model: str, vocab: int, context: int | None
) -> list[int]:
    """Token ids of a prompt the model can take, all of max_tokens included. Raises Refused."""
    ids = encode(tokenizer, request, model)
    if not ids:
        raise Refused("the prompt is empty")
    if not 0 <= min(ids) <= max(ids) < vocab:
        raise Refused(f"prompt_ids: expected ids from 0 to {vocab - 1}")
    if context is not None and len(ids) + sampling.max_tokens > context:
        raise Refused(
            f"the prompt's {len(ids)} tokens and max_tokens {sampling.max_tokens} exceed the model's context of {context}"
        )
    return ids
