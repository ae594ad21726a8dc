"""`make gpu-capacity`: the whole prefill of 840,000 tokens on one card, and 32 decoding steps after it.

    python3 tools/antkv/bench/gpu/capacity.py [--tokens N] [--chunk N] [--every SECONDS] [--max-time SECONDS]

A model of LLaMA-3-8B's shape with random weights reads random hidden states chunk by chunk through antkv's own layers at
1 bit with 1 % anchors: every chunk attends to all that is cached, is scored, and is encoded as it leaves the window. What is
measured is memory and time, not text. (`make gpu-check` has the last chunk alone, over a cache that is filled without work.)

The cache is saved every --every seconds in <OUT>/antkv-capacity.work; the same command goes on from there after a kill, to the
same cache. --max-time stops with the work saved, exit 1. Result: <OUT>/<gpu>-capacity.json, OUT by default kernels/results.
Needs torch, triton, cupy, numpy, transformers and this checkout; exit 3 without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[3] / "kernels"), str(HERE.parents[3] / "shared")]

import torch  # noqa: E402
from rows import Record, Size, Weights  # noqa: E402
from torch import Tensor  # noqa: E402


def layers_of(size: Size) -> list[Any]:
    """Empty layers with random books."""
    from antkv.cache import AntLayer, Settings

    draw = torch.Generator().manual_seed(1)
    book = (2, size.kv_heads, size.dim // size.sub, size.centroids, size.sub)
    kept = Settings(window=size.window, block=size.block, dtype=size.dtype)
    layers = []
    for at in range(size.layers):
        keys, values = torch.randn(book, generator=draw)
        layers.append(AntLayer(at, (keys, values), None, kept))
    return layers


def chunks(size: Size, chunk: int, done: int) -> Iterator[Tensor]:
    """Hidden states (1, n, hidden) from token `done` on, the prefill and then single tokens; the same whatever `done` is."""
    ends = [*range(chunk, size.held, chunk), *range(size.held, size.held + size.steps + 1)]
    first = 0
    for number, end in enumerate(ends):
        if end > done:
            draw = torch.Generator(device=size.device).manual_seed(number)
            yield torch.randn(1, end - first, size.hidden, generator=draw, dtype=size.dtype, device=size.device)
        first = end


def save(layers: list[Any], work: Path, seconds: float) -> None:
    """The cache as it stands, under its own name when it is whole; older ones go."""
    from safetensors.torch import save_file

    length = layers[0].length
    aside = work / ".saving"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for at, layer in enumerate(layers):
        names = [name for name in layer.TENSORS if name != "at_v"]  # one list serves keys and values
        save_file({name: getattr(layer, name).contiguous() for name in names}, str(aside / f"{at}.safetensors"))
    state = {"length": length, "closed": layers[0].closed, "seconds": seconds}
    (aside / "state.json").write_text(json.dumps(state))
    final = work / str(length)
    shutil.rmtree(final, ignore_errors=True)
    aside.rename(final)
    for old in work.iterdir():
        if old != final:
            shutil.rmtree(old)


def restore(layers: list[Any], work: Path, size: Size) -> float:
    """Seconds already spent; the layers as they were saved, or empty."""
    from safetensors.torch import load_file

    saved = sorted((p for p in work.glob("[0-9]*") if (p / "state.json").exists()), key=lambda p: int(p.name))
    if not saved:
        return 0.0
    state = json.loads((saved[-1] / "state.json").read_text())
    nothing = torch.zeros(1, size.kv_heads, 1, size.dim, dtype=size.dtype, device=size.device)
    for at, layer in enumerate(layers):
        layer.lazy_initialization(nothing, nothing)
        for name, tensor in load_file(str(saved[-1] / f"{at}.safetensors"), device=size.device).items():
            setattr(layer, name, tensor)
        layer.at_v = layer.at_k
        layer.length, layer.closed = state["length"], state["closed"]
    return float(state["seconds"])


def fill(size: Size, chunk: int, work: Path, every: float, until: float) -> tuple[list[Any], Record | None]:
    """The layers, and the result; None where time ran out with the work saved."""
    layers = layers_of(size)
    spent = restore(layers, work, size)
    if layers[0].length:
        print(f"going on at token {layers[0].length}", file=sys.stderr, flush=True)
    torch.manual_seed(0)
    weights = Weights(size)
    begun = saved = time.monotonic()
    step_seconds: list[float] = []
    finite = True

    def attend(at: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        pending, _ = layers[at].update(k, v)
        return layers[at].attend(q, pending, None, size.dim**-0.5)

    with torch.inference_mode():
        for x in chunks(size, chunk, layers[0].length):
            started = time.monotonic()
            finite &= bool(torch.isfinite(weights.run(x, attend)).all())  # waits for the card
            now = time.monotonic()
            if x.shape[1] == 1:
                step_seconds.append(now - started)
            if now - saved > every or now > until:
                save(layers, work, spent + now - begun)
                saved = time.monotonic()
                print(
                    f"{layers[0].length} of {size.held} tokens, {spent + now - begun:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
                if now > until and layers[0].length < size.held + size.steps:
                    return layers, None
    peak = torch.cuda.max_memory_allocated() if size.device == "cuda" else None
    length = layers[0].length
    return layers, {
        "tokens": length,
        "seconds": spent + time.monotonic() - begun,
        "step_seconds": sorted(step_seconds)[len(step_seconds) // 2] if step_seconds else None,
        "cache_bytes": sum(sum(layer.parts().values()) for layer in layers),
        "weight_bytes": weights.nbytes,
        "peak_bytes": peak,  # of this run, from where it went on
        "bar": 80e9,
        "bar_met": peak is not None and peak < 80e9,
        "ok": finite and length == size.held + size.steps,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=840_000)
    parser.add_argument("--chunk", type=int, default=4096)
    parser.add_argument("--every", type=float, default=120.0, metavar="SECONDS")
    parser.add_argument("--max-time", type=float, default=float("inf"), metavar="SECONDS")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device; the capacity is not yet measured", file=sys.stderr)
        return 3
    folder = Path(os.environ.get("OUT") or HERE.parents[3] / "kernels" / "results")
    work = folder / "antkv-capacity.work"
    size = Size(batch=1, held=given.tokens)
    _, result = fill(size, given.chunk, work, given.every, time.monotonic() + given.max_time)
    if result is None:
        print("time ran out; the same command goes on", file=sys.stderr)
        return 1
    name = torch.cuda.get_device_name()
    file = folder / (re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower() + "-capacity.json")
    file.write_text(
        json.dumps({"gpu": name, "torch": torch.__version__, "command": "make gpu-capacity", **result}, indent=1) + "\n"
    )
    shutil.rmtree(work, ignore_errors=True)
    print(json.dumps(result))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
