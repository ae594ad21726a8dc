"""For antkv's tests: tiny random models of several kinds, tensors, and dense float64 oracles that share no code with it."""

import subprocess
import sys
from pathlib import Path

import torch

BIN = Path(sys.executable).parent / "antkv"


def antkv(*args, stdin=None, env=None, timeout=300):
    return subprocess.run(
        [str(BIN), *map(str, args)], input=stdin, capture_output=True, text=True, env=env, timeout=timeout
    )


def tiny(kind="llama", seed=0, **more):
    """A random model in evaluation mode: 2 layers, width 64, head_dim 16, 2 stored heads (4 query heads)."""
    import transformers

    how = {
        "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 0,
    } | more  # fmt: skip
    config_of, model_of = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
        "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
        "gemma": (transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM),
        "phi": (transformers.PhiConfig, transformers.PhiForCausalLM),
    }[kind]
    torch.manual_seed(seed)
    model = model_of(config_of(**how)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                weight.mul_(6)  # attention that looks somewhere
    return model


def codebook(model, dim=4, centroids=16, rope="pre", seed=0, scale=1.0):
    """Books of random centroids for a model, and no text behind them."""
    from antkv.codebook import Codebook, Made, Model, weights_sha256
    from antkv.layers import full_layers

    of = Model.of(model.config)
    layers = full_layers(model.config)
    made = Made(
        of, dim, centroids, "head", rope, "bound2", 0.01, 0, 0, 0, [], weights_sha256(model), seed, "0", layers
    )  # fmt: skip
    draw = torch.Generator().manual_seed(seed)

    def table():
        return (scale * torch.randn(of.kv_heads, of.head_dim // dim, centroids, dim, generator=draw)).half()

    return Codebook(made, {i: table() for i in layers}, {i: table() for i in layers})


def dense(q, k, v, scale, start=None):
    """(A, O) in float64: A (B, Hq, n_q, n), queries the last positions, rows of padding 0."""
    q, k, v = q.double(), k.double(), v.double()
    batch, heads, n_q, _ = q.shape
    n, groups = k.shape[2], heads // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = q @ k.transpose(2, 3) * scale
    for b in range(batch):
        first = 0 if start is None else int(start[b])
        for i in range(n_q):
            for j in range(n):
                if j > n - n_q + i or j < first:
                    scores[b, :, i, j] = -torch.inf
    weights = torch.nan_to_num(torch.softmax(scores, -1), nan=0.0)
    return weights, weights @ v


def dense_factors(q, k, v, scale, squared, start=None):
    """FK, FV (or FK2, FV2) (B, Hkv, n) by the sums written out, in float64."""
    weights, out = dense(q, k, v, scale, start)
    groups = q.shape[1] // k.shape[1]
    apart = (v.double().repeat_interleave(groups, 1)[:, :, None] - out[:, :, :, None]).norm(dim=-1)
    terms = weights * apart * scale * q.double().norm(dim=-1)[..., None]
    power = 2 if squared else 1
    fk, fv = (terms**power).sum(2), (weights**power).sum(2)
    return fk.unflatten(1, (-1, groups)).sum(2), fv.unflatten(1, (-1, groups)).sum(2)
