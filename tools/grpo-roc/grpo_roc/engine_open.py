"""Engines by their URIs, for every verb that samples.

    (nothing)                       this process's transformers, over the policy itself
    vllm:  vllm:MODEL               vLLM in this process, over the policy's own folder or another
    http://HOST:PORT/v1#NAME        a server (several: of one NAME)

Where it sits: above the engines; below evaluate.py and train.py, which know no engine by its kind.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from grpo_roc.dialogue import Dialogue
from grpo_roc.engine_protocol import Engine, Lost
from tenfold_shared import BadInput, Missing
from tenfold_shared.redaction import redact

if TYPE_CHECKING:
    from torch import Tensor

SERVERS = ("http://", "https://")
PROBE = "The sum of 1 and 1 is"


def open_engines(
    uris: Sequence[str],
    *,
    dialogue: Dialogue,
    slots: int,
    capacity: int,
    temperature: float,
    model: Any = None,
    source: str = "",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    exact: bool = True,
    folder: str | None = None,
    share: int = 1,
    memory: float | None = None,
    api_key_env: str = "OPENAI_API_KEY",
    seed: int = 0,
) -> list[Engine]:
    """dialogue: the policy's. slots: trajectories at a time in this process's transformers, or at a server that does not tell its cache. capacity: tokens of a trajectory at most, and one. model: the policy's, for
    this process's transformers. source: the policy's URI, for a bare `vllm:`. exact: log-probabilities must be those that were drawn with (training, written tokens). folder: where weights for servers are written,
    on a disk that they see; None where none will be (servers that take none are then fine). share: processes that use the same servers, each of which takes its part of their caches. memory: vLLM's share of a GPU.

    Raises BadInput, Missing.
    """
    served = [uri for uri in uris if uri.startswith(SERVERS)]
    inside = [uri for uri in uris if uri.startswith("vllm:")]
    other = [uri for uri in uris if uri not in served and uri not in inside]
    if other:
        raise BadInput(
            f"--rollout-engine {redact(other[0])}: expected vllm:, vllm:MODEL or http(s)://HOST:PORT/v1#NAME"
        )
    if len(inside) > 1:
        raise BadInput("--rollout-engine: one vLLM engine in this process; more are servers of their own (vllm serve)")
    engines: list[Engine] = []
    try:
        if not uris:
            from grpo_roc.engine import LocalEngine

            engines.append(LocalEngine(model, dialogue.ends, slots=slots, capacity=capacity, temperature=temperature))
        if served:
            from grpo_roc import engine_server

            how = engine_server.Settings(
                dialogue.ends, capacity, tuple(dialogue.encode(PROBE)), temperature, slots, share, exact, folder, (os.environ.get(api_key_env) or "").strip(), api_key_env
            )  # fmt: skip
            for url, name in servers(served):
                engines.append(engine_server.ServerEngine(url, name, how))
        if inside:
            from grpo_roc.engine_vllm import VllmEngine

            uri = inside[0] if inside[0] != "vllm:" else f"vllm:{source}"
            engines.append(
                VllmEngine(
                    uri,
                    dialogue.ends,
                    capacity=capacity,
                    temperature=temperature,
                    dtype=dtype,
                    trust_remote_code=trust_remote_code,
                    memory=memory,
                    seed=seed,
                )
            )
    except BaseException:
        for engine in engines:
            engine.close()
        raise
    return engines


def servers(uris: Sequence[str]) -> list[tuple[str, str]]:
    """(base address, name) of each. Raises BadInput where names differ, or an address is none."""
    found = []
    for uri in uris:
        try:
            parts = urlsplit(uri)
            valid = bool(parts.hostname) and not parts.query and (parts.port is None or parts.port > 0)
        except ValueError:
            valid = False
        if not valid:
            raise BadInput(f"{redact(uri)}: expected http(s)://HOST:PORT/v1#NAME")
        found.append((parts._replace(fragment="").geturl(), parts.fragment))
    names = {name for _, name in found}
    if len(names) > 1:
        raise BadInput("every server needs the same #NAME: different models must not be mixed")
    if len({url for url, _ in found}) < len(found):
        raise BadInput(f"{redact(uris[0])}: a server is given twice")
    return found


def push(
    engines: Sequence[Engine],
    weights: Iterable[tuple[str, Tensor]],
    tell: Callable[[str], None] = lambda _: None,
    *,
    first: bool = True,
) -> None:
    """The policy as it is now to every engine, between batches. Servers read one folder, written once. One that is lost by it is told of, one that was lost and is there again takes part again. first: False in a
    process whose servers get them from another, for which it waits. Raises Missing where none is left."""
    from grpo_roc.engine_server import ServerEngine, load_servers

    served = [engine for engine in engines if isinstance(engine, ServerEngine) and first]
    inside = [engine for engine in engines if not isinstance(engine, ServerEngine)]
    # asked for to the end whoever needs them: processes may gather them together
    held = weights if len(inside) + bool(served) == 1 else list(weights)
    lost: list[tuple[str, str]] = []
    for engine in inside:
        try:
            engine.load(held)
        except Lost as gone:
            lost.append((engine.name, str(gone)))
    if served:
        lost += [(engine.name, why) for engine, why in load_servers(served, held)]
    for name, why in lost:
        tell(f"{name}: {why}; it has no part in what follows")
    # what another process gives weights to may be lost here and there again: `follow` tells
    if all(engine.lost for engine in engines) and (first or len(inside) == len(engines)):
        raise Missing("; ".join(f"{name}: {why}" for name, why in lost) + "; no engine is left")


def follow(engines: Sequence[Engine], lost: Sequence[str], *, first: bool) -> None:
    """After `push`, in a process whose servers get their weights from another. lost: why each engine of that one is gone, "" while it is not. A server without these weights has no part here either; one that has them
    takes part again, if it can be reached. Raises Missing where none is left."""
    from grpo_roc.engine_server import ServerEngine

    if first:
        return
    for engine, why in zip(engines, lost, strict=True):
        if isinstance(engine, ServerEngine):
            engine.follow(why)
    if all(engine.lost for engine in engines):
        raise Missing("; ".join(f"{engine.name}: {engine.lost}" for engine in engines) + "; no engine is left")
