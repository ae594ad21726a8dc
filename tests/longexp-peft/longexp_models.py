"""For longexp-peft's tests: tiny models with neurons that are never active, examples, and float64 references that share no code."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from longexp_peft.dataset import Example

BIN = Path(sys.executable).parent / "longexp-peft"


ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # as conftest.py has it here: sums are in one order


def command(*args, timeout=180):
    return subprocess.run([str(BIN), *map(str, args)], capture_output=True, text=True, env=ONE_THREAD, timeout=timeout)


def here(*args):
    """The command in this process, as an import of transformers takes seconds."""
    from longexp_peft.cli import main

    out, err = io.StringIO(), io.StringIO()
    handlers = [(s, signal.getsignal(s)) for s in (signal.SIGTERM, signal.SIGINT)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(arg) for arg in args], standalone_mode=False)
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


VOCAB = 97


def make(kind="opt", quiet_share=0.75, **more):
    """A random model in float64 whose first bias keeps about `quiet_share` of the neurons at zero for every token (relu, relu2)."""
    import transformers

    torch.manual_seed(0)
    if kind in ("opt", "post-ln"):
        how = {
            "vocab_size": VOCAB, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
            "max_position_embeddings": 512, "word_embed_proj_dim": 32, "dropout": 0.0, "attention_dropout": 0.0, "init_std": 0.2,
            "do_layer_norm_before": kind == "opt",
        }  # fmt: skip
        if kind == "post-ln":
            how["word_embed_proj_dim"] = 16  # as OPT-350m has it: projections in and out
        model = transformers.OPTForCausalLM(transformers.OPTConfig(**how | more))
    elif kind == "gpt2":
        how = {
            "vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 64, "n_positions": 512, "initializer_range": 0.2,
            "activation_function": "relu", "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
        }  # fmt: skip
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**how | more))
    else:
        how = {
            "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2,
        }  # fmt: skip
        if kind == "arcee":  # relu2, no gate
            model = transformers.ArceeForCausalLM(transformers.ArceeConfig(**how | {"mlp_bias": True} | more))
        elif kind == "llama":
            model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**how | {"mlp_bias": True} | more))
        else:
            raise ValueError(kind)
    model = model.double().eval()
    with torch.no_grad():
        from longexp_peft.shape import bias, feed_forwards

        for ffn in feed_forwards(model):
            draw = torch.Generator().manual_seed(ffn.layer)
            b = bias(ffn.gate or ffn.up)
            quiet = torch.rand(ffn.width, generator=draw) < quiet_share
            b.copy_(torch.where(quiet, -50.0, 0.5 * torch.randn(ffn.width, generator=draw).double()))
            for other in (bias(ffn.down), bias(ffn.up) if ffn.gate is not None else None):
                if other is not None:
                    other.copy_(0.1 * torch.randn(len(other), generator=draw).double())
    return model


def example(tokens, targets, seed):
    draw = np.random.default_rng(seed)
    target = np.zeros(tokens, bool)
    target[tokens - targets :] = True
    return Example(draw.integers(3, VOCAB, tokens).astype(np.int32), target, f"example {seed}")


def examples():
    return [example(17, 5, 0), example(40, 20, 1), example(9, 3, 2), example(41, 2, 3), example(17, 16, 4)]


def alone(model, some):
    """Summed loss of examples read one at a time through the model's own forward, in float64."""
    total = 0.0
    for one in some:
        ids = torch.tensor(one.ids)[None].long()
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
        logp = logits[-len(one.ids) :].double().log_softmax(-1)  # virtual tokens have logits too
        for t in np.flatnonzero(one.target):
            total = total - logp[t - 1, int(one.ids[t])]
    return total


def stir(tuned, seed=1, size=0.05):
    """Adapters away from their zeros, in float64."""
    outer = tuned.peft if tuned.peft is not None else tuned.model
    outer.double()
    draw = torch.Generator().manual_seed(seed)
    for name in sorted(tuned.parameters):
        p = tuned.parameters[name]
        p.data = p.data.double() + size * torch.randn(p.shape, generator=draw, dtype=torch.float64)
    return tuned


def save(folder, kind="opt", dtype=torch.float32, **more):
    """A model folder with a word-level tokenizer, and pre-tokenised data beside it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    make(kind, **more).to(dtype).save_pretrained(folder)
    vocab = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{f"w{i}": i for i in range(3, VOCAB)}}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", unk_token="<unk>").save_pretrained(folder)
    draw = np.random.default_rng(0)
    for name, count in (("train.jsonl", 60), ("valid.jsonl", 12)):
        lines = []
        for _ in range(count):
            first, n = int(draw.integers(3, VOCAB)), int(draw.integers(12, 48))
            ids = [
                3 + (first + 7 * i) % (VOCAB - 3) for i in range(n)
            ]  # something to learn: every token follows from the last
            lines.append(json.dumps({"context": ids[: n // 2], "completion": ids[n // 2 :]}))
        Path(folder, name).write_text("\n".join(lines) + "\n")
    return folder
