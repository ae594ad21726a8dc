"""For seer-decode's tests: tiny configs, random tensors, and float64 loops that share no code with it."""

import contextlib
import io
import math
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

BIN = Path(sys.executable).parent / "seer-decode"


def seer(*args, env=None, timeout=120):
    return subprocess.run([str(BIN), *map(str, args)], capture_output=True, text=True, env=env, timeout=timeout)


def here(*args):
    """The command in this process, as an import of transformers takes seconds."""
    from seer_decode.cli import main

    out, err, handlers = (
        io.StringIO(),
        io.StringIO(),
        [(s, signal.getsignal(s)) for s in (signal.SIGTERM, signal.SIGINT)],
    )
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(arg) for arg in args], standalone_mode=False)
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def config(kind="llama", **more):
    """A config of 3 layers, 4 query heads on 2 stored ones, head_dim 8."""
    import transformers

    how = {
        "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 4096, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 0,
    } | more  # fmt: skip
    name = {"llama": "Llama", "qwen": "Qwen3", "mistral": "Mistral", "gemma": "Gemma3Text", "gemma2": "Gemma2"}[kind]
    return getattr(transformers, f"{name}Config")(**how)


def draw(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def qwen(layers=36, heads=32):
    """The shape of Qwen3-4B and 8B (36, 32), of Qwen3-14B (40, 40)."""
    return config(
        "qwen", num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=8, head_dim=128, hidden_size=2560,
        intermediate_size=9728, vocab_size=151936, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        max_position_embeddings=40960,
    )  # fmt: skip


def loop_scores(gate, queries, keys, positions, frequencies, factor):
    """z (Hkv, n, NB) by the definition, in float64 loops: one sequence, queries (Hq, n, D), keys (Hkv, m, D)."""
    shape = gate.shape
    q, k = queries.double().numpy(), keys.double().numpy()
    weight = {name: p.detach().double().numpy() for name, p in gate.named_parameters()}
    group, dim, wide = shape.group, shape.head_dim, shape.gate_dim

    def norm(x, name):
        if name not in weight:
            return x
        return x / math.sqrt(sum(v * v for v in x) / len(x) + 1e-6) * weight[name]

    def turn(x, position):
        if not shape.rope:
            return x
        out, half = np.zeros(wide), wide // 2
        for i in range(half):
            angle = position * frequencies[i]
            cos, sin = factor * math.cos(angle), factor * math.sin(angle)
            out[i] = x[i] * cos - x[i + half] * sin
            out[i + half] = x[i + half] * cos + x[i] * sin
        return out

    blocks = -(-k.shape[1] // shape.block)
    z = np.zeros((shape.kv_heads, q.shape[1], blocks))
    for h in range(shape.kv_heads):
        kg = []
        for b in range(blocks):
            rows = k[h, b * shape.block : (b + 1) * shape.block]
            pooled = []
            for kind in shape.key_pooling:
                for d in range(dim):
                    column = [row[d] for row in rows]
                    pooled.append({"max": max, "min": min, "avg": lambda c: sum(c) / len(c)}[kind](column))
            projected = np.array(
                [sum(pooled[i] * weight["key"][h, i, e] for i in range(len(pooled))) for e in range(wide)]
            )
            kg.append(turn(norm(projected, "key_norm"), b * shape.block))
        for t in range(q.shape[1]):
            heads = [q[h * group + j, t] for j in range(group)]
            mean = sum(heads) / group
            if shape.query_pooling == "Qproj":
                features = [sum(heads[j] @ weight["query"][h, j] for j in range(group))]
            elif shape.query_pooling == "Qavgproj":
                features = [mean @ weight["query"][h]]
            elif shape.query_pooling == "Qavg":
                features = [mean]
            else:
                features = heads
            for b in range(blocks):
                each = [turn(norm(f, "query_norm"), float(positions[t])) @ kg[b] / math.sqrt(wide) for f in features]
                z[h, t, b] = sum(each) / len(each)
    return z


def loop_truth(queries, keys, block):
    """(Hkv, n, NB) by softmax, max_pool1d and the sums, in float64, the whole map at once."""
    q, k = queries.double(), keys.double()
    heads, tokens, dim = q.shape
    stored, group, blocks = k.shape[0], heads // k.shape[0], -(-tokens // block)
    logits = q @ k.repeat_interleave(group, 0).transpose(1, 2) / math.sqrt(dim)
    logits = logits.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), -torch.inf)
    pooled = torch.nn.functional.max_pool1d(logits.softmax(-1), block, block, ceil_mode=True)
    pooled = pooled.unflatten(0, (stored, group)).amax(1)
    for t in range(tokens):
        for j in range(blocks):
            if j >= t // block:
                pooled[:, t, j] = 0
    sums = pooled.sum(-1, keepdim=True)
    return torch.where(sums > 0, pooled / sums, 0.0)
