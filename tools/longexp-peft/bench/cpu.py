"""Fine-tuning steps and operators on this machine's CPU: an object a line (make bench-longexp-peft).

Planted OPT shapes (d 768, F 3072, 1,024 tokens a row) at an eighth and nine tenths of the neurons, where what can fire is known: the
ratio of a whole step beside its Amdahl bound, which stands as the floor. Then the operators alone: forward and backward of a
feed-forward layer on picked neurons beside the dense one, and of attention by blocks beside SDPA.
"""

import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from longexp_peft import patterns
from longexp_peft.attention import by_blocks
from longexp_peft.bench import machine
from longexp_peft.mlp import Side, Weights, feed_forward

TOOL = "longexp-peft"


def row(case: str, ours: float, peer: float, peer_name: str, bound: float, n: int, command: str, where: str) -> None:
    """ours, peer in ms; the floor is the peer's time over the bound."""
    floor = peer / bound
    told = {
        "tool": TOOL,
        "case": case,
        "ours": round(ours, 3),
        "peer": round(peer, 3),
        "peer_name": peer_name,
        "unit": "ms",
        "ratio": round(peer / ours, 3),
    }
    told |= {
        "floor": round(floor, 3),
        "floor_ratio": round(ours / floor, 3),
        "n": n,
        "machine": where,
        "command": command,
    }
    print(json.dumps(told), flush=True)


def steps(folder: Path) -> None:
    """Whole steps: every arm that a planted model's short documents allow."""
    shapes = [
        ("an eighth", ["--groups", "8"], 1),
        (
            "nine tenths",
            ["--groups", "10", "--ffn", "3070", "--vocab", "8200", "--length", "102", "--examples", "640"],
            9,
        ),
    ]
    for name, own, topics in shapes:
        model = folder / f"planted-{topics}"
        subprocess.run(["longexp-peft", "make-model", "planted", *own, "-o", str(model), "-q"], check=True)
        arms = "peft,dense,exact,predicted,static,svd,random"
        command = ["longexp-peft", "bench", "--model", str(model), "--topics", str(topics), "--batch-tokens", "1024", "--arms", arms, "--steps", "24", "--json", "-q"]  # fmt: skip
        told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        (folder / f"{model.name}.json").write_text(json.dumps(told, indent=1) + "\n")
        by_name = {one["arm"]: one for one in told["arms"]}
        yard = by_name[told["yardstick"]]
        for one in told["arms"]:
            if one["arm"] == told["yardstick"]:
                continue
            case = f"LoRA step, d 768, F 3072, 4 layers, 1,024 tokens, {name} of the neurons can fire: {one['arm']}, {100 * (one['density'] or 1):.1f} % computed, {100 * one['choosing']:.1f} % choosing, held-out loss {one['held_out']:.4f} (dense {yard['held_out']:.4f})"
            # The ratio is the median of ratios step by step, as the arms take turns.
            row(case, yard["ms"] / one["ratio"], yard["ms"], f"the faster dense one ({told['yardstick']})", one["bound"], 1024, " ".join(command[:-2]).replace(str(folder) + "/", ""), told["machine"])  # fmt: skip

    packing(folder)


def packing(folder: Path) -> None:
    """Documents as long as E2E's are (57 tokens on average, up to 93) in rows of 1,024 tokens, beside the same padded to the longest of a
    row: lossless, and no part of any ratio above."""
    draw = random.Random(0)
    lines = []
    for line in (folder / "planted-1/train.jsonl").read_text().splitlines():
        ids = json.loads(line)["context"][: draw.randint(21, 93)]
        lines.append(json.dumps({"context": ids[: len(ids) // 2], "completion": ids[len(ids) // 2 :]}))
    (folder / "short.jsonl").write_text("\n".join(lines) + "\n")
    command = [
        "longexp-peft",
        "bench",
        str(folder / "short.jsonl"),
        "--model",
        str(folder / "planted-1"),
        "--batch-tokens",
        "1024",
    ]
    command += ["--arms", "peft,dense,exact", "--steps", "6", "--json", "-q"]
    told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    found = told["packing"]
    row(f"step of documents of 57 tokens on average, packed, beside padded to the longest of the row ({found['tokens_factor']:.2f} times the tokens)", found["ms_packed"], found["ms_padded"], "transformers and peft, padded", found["tokens_factor"], 1024, " ".join(command[:-2]).replace(str(folder) + "/", ""), told["machine"])  # fmt: skip


def median(run: Callable[[], Any], other: Callable[[], Any], rounds: int = 9) -> tuple[float, float]:
    """Medians in ms of two, in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for at, one in enumerate((run, other)):
            begun = time.perf_counter()
            one()
            if number:
                times[at].append(1e3 * (time.perf_counter() - begun))
    return statistics.median(times[0]), statistics.median(times[1])


def operators() -> None:
    """Layers alone; the bound is 1 / density."""
    where = f"{machine(torch.nn.Linear(1, 1).weight)}"
    draw = torch.Generator().manual_seed(0)
    command = f"python tools/{TOOL}/bench/cpu.py"
    for d, m, dtype in ((768, 1024, torch.float32), (2048, 1024, torch.float32), (2048, 1024, torch.bfloat16)):
        f = 4 * d
        w1, w2 = (torch.randn(f, d, generator=draw).mul_(d**-0.5).to(dtype) for _ in range(2))
        w = Weights(Side(w1, torch.zeros(f, dtype=dtype)), Side(w2, torch.zeros(d, dtype=dtype)), None, "relu")
        x = torch.randn(m, d, generator=draw).to(dtype).requires_grad_()
        g = torch.randn(m, d, generator=draw).to(dtype)

        def dense(x: Any = x, g: Any = g, w: Any = w) -> None:
            h = torch.relu(torch.nn.functional.linear(x, w.up.weight, w.up.bias))
            torch.autograd.grad(torch.nn.functional.linear(h, w.down.weight.t(), w.down.bias), x, g)

        for density in (0.5, 0.25, 0.125):
            rows = torch.randperm(f, generator=draw)[: int(density * f)].sort().values
            ours, peer = median(
                lambda rows=rows, x=x, g=g, w=w: torch.autograd.grad(feed_forward(x, w, rows), x, g), dense
            )
            row(
                f"feed-forward layer, d {d}, F {f}, {m} tokens, {str(dtype)[6:]}, {density:g} of the neurons",
                ours,
                peer,
                "dense, autograd",
                1 / density,
                m,
                command,
                where,
            )
    for n, names in ((1024, ("w2", "w4")), (2048, ("w2", "w4", "w8")), (4096, ("w4", "w8", "w16"))):
        q, k, v = (torch.randn(12, n, 64, generator=draw).requires_grad_() for _ in range(3))
        g = torch.randn(12, n, 64, generator=draw)

        def sdpa(q: Any = q, k: Any = k, v: Any = v, g: Any = g) -> None:
            o = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
            torch.autograd.grad(o, (q, k, v), g)

        for name in names:
            chosen = torch.full((12,), patterns.NAMES.index(name))
            density = float(patterns.densities(n // 64)[chosen[0]])
            ours, peer = median(
                lambda q=q, k=k, v=v, g=g, chosen=chosen: torch.autograd.grad(
                    by_blocks(q, k, v, chosen, 64, 0.125), (q, k, v), g
                ),
                sdpa,
            )
            bound = float(patterns.densities(n // 64)[0]) / density
            row(
                f"attention of 12 heads of 64, {n} tokens, pattern {name}: {density:.3f} of all blocks",
                ours,
                peer,
                "SDPA, causal",
                bound,
                n,
                command,
                where,
            )


if __name__ == "__main__":
    operators()
    with tempfile.TemporaryDirectory() as made:
        steps(Path(made) if len(sys.argv) < 2 else Path(sys.argv[1]))
