"""Text from a model behind one protocol: transformers, vLLM, OpenAI-compatible servers, recordings.

Sits between the verbs of the tools, which know only `Request`, `Sampling` and `Completion`, and
`models.open_generator`, which picks one of the backends by URI. It loads no weights itself.

Every `generate` is lazy: it pulls requests as it has room and yields completions as they finish.
Closing the iterator cancels what is in flight; `generate` may be called again afterwards. Keys of
the requests in flight must differ. Where a request hangs on an earlier completion, its source yields
None for "nothing ready before another completion": the backend then goes on with what it has.

Here is the protocol. A file a backend: transformers.py (draws its tokens with sampler.py), vllm.py,
server.py, recording.py (--record and replay:); prompts.py makes token ids for the first two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import msgspec

from tenfold_shared import BadInput


class Request(msgspec.Struct):
    """One completion to make, from exactly one of three prompts.

    messages: chat list, sent through the model's chat template. prompt: text sent as it is (with the
    special tokens the tokenizer adds). prompt_ids: token ids sent as they are.
    seed: this request's own random stream, whatever batch or order it runs in.
    """

    key: str
    messages: list[dict[str, Any]] | None = None
    prompt: str | None = None
    prompt_ids: list[int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.messages is not None) + (self.prompt is not None) + (self.prompt_ids is not None) != 1:
            raise ValueError(f"{self.key}: expected exactly one of messages, prompt and prompt_ids")


def request_seed(seed: int, key: str) -> int:
    """A 63-bit seed of its own for each request of a run, whatever order or batch it runs in."""
    digest = hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


NO_MORE = object()  # what a source gives when it is over; None is "not yet"


class Sampling(msgspec.Struct, frozen=True):
    """How tokens are drawn. temperature 0 is greedy; top_p 1 and top_k 0 are off; top_k cuts first.

    logprobs: also give the drawn tokens' ids and their natural-log probabilities under the model's
    own distribution (temperature 1, nothing cut away).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    logprobs: bool = False

    def __post_init__(self) -> None:
        if "" in self.stop:
            raise BadInput("--stop: an empty text would end every completion before it begins")


class Completion(msgspec.Struct):
    """What came back for the request `key`. finish_reason: stop, length or error (then `error` says why).

    text ends before the first stop string. completion_tokens counts the end-of-text token too.
    reasoning: only where a server separates it. token_ids, logprobs: only with Sampling.logprobs.
    """

    key: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    model: str
    reasoning: str | None = None
    error: str | None = None
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None


class Generator(Protocol):
    """A backend. batch_size: static batches of so many consecutive requests, or None where order does not matter."""

    model: str
    batch_size: int | None
    context: int | None  # longest prompt and completion together, where it is known here

    def generate(self, requests: Iterable[Request | None], sampling: Sampling) -> Iterator[Completion]: ...

    def count_tokens(self, request: Request) -> int | None:
        """Prompt tokens the request would use; None where only the server knows."""

    def close(self) -> None: ...


def failed(key: str, model: str, why: str) -> Completion:
    return Completion(key, "", "error", 0, 0, model, error=why)
