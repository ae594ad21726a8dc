"""A policy's weights on their way to engines that hold them as vLLM does.

Where it sits: below engine_vllm.py and engine_server.py. torch and safetensors inside functions only.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tenfold_shared import BadInput

if TYPE_CHECKING:
    from torch import Tensor

SHARD = 4 << 30  # bytes of a file
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def with_head(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """A head that is the embedding has no weight of its own in what a model gives, but vLLM's `reload_weights` keeps an old one that is not given (0.32, CPU): it is given as well."""
    embedding, headless = None, True
    for name, value in weights:
        if name == EMBEDDING:
            embedding = value
        headless = headless and name != HEAD
        yield name, value.detach()
    if headless and embedding is not None:
        yield HEAD, embedding.detach()


@contextlib.contextmanager
def written(weights: Iterable[tuple[str, Tensor]], under: str) -> Iterator[str]:
    """A folder of safetensors, within another, that is there as long as the context. Raises BadInput where it cannot be written."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        Path(under).mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix="weights-", dir=under)
    except OSError as problem:
        raise BadInput(f"{under}: weights cannot be written there: {problem.strerror or problem}") from None
    part: dict[str, Tensor] = {}
    places: set[int] = set()
    size = count = 0

    def flush() -> None:
        nonlocal size, count
        try:
            save_file(part, Path(folder) / f"model-{count:05}.safetensors", metadata={"format": "pt"})
        except (OSError, SafetensorError) as problem:  # the latter for a full disk
            raise BadInput(f"{under}: weights cannot be written there: {problem}") from None
        part.clear()
        places.clear()
        size, count = 0, count + 1

    try:
        for name, value in with_head(weights):
            held = value.cpu().contiguous()
            if held.untyped_storage().data_ptr() in places:  # such a file has no tensors that share memory
                held = held.clone()
            places.add(held.untyped_storage().data_ptr())
            part[name] = held
            size += held.nbytes
            if size >= SHARD:
                flush()
        if part:
            flush()
        Path(folder).chmod(0o755)  # servers may run as somebody else
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
