"""Rows of `make gpu-check` for grpo-roc, in about two minutes: an update, sampling, and whole steps of the loop.

They need `grpo-roc[hf]` installed beside torch, as the loop is the tool's own; without it each row says so.

- update: `Policy.update` over groups of 16 trajectories with a prompt that all share, for models of SmolLM2-135M's and 1.7B's shapes with random weights, products in bfloat16. floor_ratio: seconds over 6 operations a
  weight and token that is read at the measured rate of a large product. baseline: the same loss over rows of their own, padded, as many at a time as the pass's tokens allow, logits in chunks all the same: what packing
  brings. max_rel_err: of the loss, against the baseline's.
- sampling: a step of decoding of `LocalEngine`, so many trajectories at a time. floor_ratio: over reading weights and keys and values once.
- loop: a small model made from nothing, its cold start on transcripts that are made, then the same steps with `roc` and with `grpo`: seconds of a step by part (push, generate, update), reward, and the error share of
  calls in right trajectories, step by step. With SMOLLM2=1 and its weights installed it is SmolLM2-135M. ok says that the loop ran, its numbers were numbers and its engine's log-probabilities the trainer's; what was
  learnt in so few steps is reported as it is.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

Record = dict[str, Any]
Timer = Callable[[Callable[[], Any]], float]
LOSS = 2e-2  # relative: bfloat16, summed in another order
GAP = 0.1  # mean difference of a token's log-probability between engine and trainer, in bfloat16
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """A decoder's, of Llama's kind."""

    name: str
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int = 49152


@dataclass(frozen=True)
class Size:
    """What is run; the test makes it small."""

    shapes: tuple[Shape, ...] = (
        Shape("SmolLM2-135M", 576, 1536, 30, 9, 3),
        Shape("SmolLM2-1.7B", 2048, 8192, 24, 32, 32),
    )
    groups: int = 8
    members: int = 16
    prompt: int = 320
    begin: int = 280
    responses: tuple[int, int] = (128, 768)
    most: int = 16384
    slots: int = 128
    context: int = 1024
    small: Shape = Shape("6 layers of 384", 384, 1024, 6, 6, 6, 0)
    cold: int = 4096
    epochs: float = 2.0
    steps: int = 12
    prompts: int = 16
    group: int = 8
    tokens: int = 400
    device: str = "cuda"
    compute: str = "bfloat16"


def rows(timer: Timer, copy: float, size: Size | None = None) -> Iterator[Callable[[], Record]]:
    """copy: bytes a second that the card copies at. Each call gives a row."""
    how = size or Size()
    for shape in how.shapes:
        yield lambda shape=shape: update(how, shape, timer)
        yield lambda shape=shape: sampling(how, shape, timer, copy)
    for algo in ("roc", "grpo"):
        yield lambda algo=algo: loop(how, algo)


def row(kernel: str, case: str, **more: Any) -> Record:
    blank = {"max_rel_err": None, "ms": None, "floor_ratio": None, "baseline": None, "baseline_ratio": None}
    return {"kernel": f"grpo-roc {kernel}", "case": case, **blank, **more}


def model_of(shape: Shape, device: str, positions: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.inner, num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        max_position_embeddings=positions, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    with torch.device(device):
        return LlamaForCausalLM(config)


def matmul_rate(size: Size, timer: Timer) -> float:
    """Operations a second of a large product in the type that is computed in."""
    side = 8192 if size.device == "cuda" else 256
    a = torch.randn(side, side, device=size.device, dtype=getattr(torch, size.compute))
    return 2 * side**3 / timer(lambda: a @ a)


# ---------------------------------------------------------------- an update


def update(size: Size, shape: Shape, timer: Timer) -> Record:
    from grpo_roc import objective
    from grpo_roc.policy import Example, Optimisation, Policy

    draw = torch.Generator().manual_seed(1)

    def ids(count: int) -> list[int]:
        found: list[int] = torch.randint(0, shape.vocabulary, (count,), generator=draw).tolist()
        return found

    begin = ids(size.begin)
    examples = []
    for _ in range(size.groups):
        prompt = begin + ids(size.prompt - size.begin)
        for k in range(size.members):
            length = int(torch.randint(*size.responses, (), generator=draw))
            examples.append(Example(prompt, ids(length), [True] * length, 1.0 if k % 2 else -1.0))
    model = model_of(shape, size.device, size.prompt + size.responses[1])
    policy = Policy(model, Optimisation(most=size.most, lr=1e-9, compute=size.compute, checkpointing=True))
    clip = objective.Clip()
    told = policy.update(examples, clip)
    ours = timer(lambda: policy.update(examples, clip))
    read = sum(len(one.tokens) for one in policy.packs(examples))
    alone = padded(policy, examples, size)
    other = timer(lambda: padded(policy, examples, size))
    weights = sum(one.numel() for one in policy.parameters)
    floor = 6 * weights * read / matmul_rate(size, timer)
    sampled = sum(len(one.response) for one in examples)
    peak = torch.cuda.max_memory_allocated() / 2**30 if size.device == "cuda" else None
    apart = abs(told.entropy - alone) / abs(alone)
    return row(
        "update", f"{shape.name}, {len(examples)} trajectories, {sampled} tokens", max_rel_err=apart, ms=1e3 * ours, floor_ratio=ours / floor, baseline="rows of their own, padded", baseline_ratio=other / ours,
        tokens_s=sampled / ours, read_tokens=read, peak_gib=peak, ok=apart < LOSS,
    )  # fmt: skip


def padded(policy: Any, examples: list[Any], size: Size) -> float:
    """Forward and backward of rows with a prompt each, padded to the longest of a micro-batch, then the optimizer's step; the mean entropy of a token, which is compared (the loss of a first update is nearly 0)."""
    from grpo_roc import objective

    model = policy.model
    order = sorted(examples, key=lambda one: len(one.prompt) + len(one.response))
    tokens = sum(len(one.response) for one in examples)
    total = 0.0
    policy.optimizer.zero_grad(set_to_none=True)
    while order:
        width = len(order[-1].prompt) + len(order[-1].response)
        some, order = order[-max(1, size.most // width) :], order[: -max(1, size.most // width)]
        ids = torch.zeros(len(some), width, dtype=torch.long)
        seen = torch.zeros(len(some), width, dtype=torch.bool)
        learnt = torch.zeros(len(some), width, dtype=torch.bool)
        for k, one in enumerate(some):
            whole = one.prompt + one.response
            ids[k, : len(whole)] = torch.tensor(whole)
            seen[k, : len(whole)] = True
            learnt[k, len(one.prompt) - 1 : len(whole) - 1] = True
        ids, seen, learnt = (one.to(size.device) for one in (ids, seen, learnt))
        gains = torch.tensor([one.advantage for one in some], device=size.device)[:, None].expand_as(ids)[learnt]
        with torch.autocast(size.device, getattr(torch, size.compute), enabled=size.compute != "float32"):
            states = model.base_model(input_ids=ids, attention_mask=seen.long(), use_cache=False).last_hidden_state
            logp, entropies = objective.token_logprobs(states[learnt], model.get_output_embeddings().weight, ids.roll(-1, 1)[learnt], entropy=True)  # fmt: skip
        part, _ = objective.loss(logp, logp.detach(), gains, torch.ones_like(logp, dtype=torch.bool), tokens)
        part.backward()
        total += float(entropies.sum())
    torch.nn.utils.clip_grad_norm_(policy.parameters, 1.0)
    policy.optimizer.step()
    return total / tokens


# ---------------------------------------------------------------- sampling


def sampling(size: Size, shape: Shape, timer: Timer, copy: float) -> Record:
    import numpy as np

    from grpo_roc.engine import LocalEngine

    model = model_of(shape, size.device, size.context).to(getattr(torch, size.compute)).eval()
    engine = LocalEngine(model, frozenset(), slots=size.slots, capacity=size.context)
    rng = np.random.default_rng(0)
    held = size.context // 2
    for k in range(size.slots):
        engine.start(
            f"{k}", rng.integers(0, shape.vocabulary, held).tolist(), size.context - held, np.random.default_rng(k)
        )
    engine.poll()
    seconds = timer(engine.poll)
    weights = sum(one.numel() * one.element_size() for one in model.parameters())
    token = 2 * shape.layers * shape.kv_heads * (shape.hidden // shape.heads) * 2
    floor = (weights + size.slots * held * token) / (
        copy / 2
    )  # what is read and not written moves at up to the copy's bytes
    return row(
        "sampling", f"{shape.name}, {size.slots} at a time, {held} tokens each", ms=1e3 * seconds, floor_ratio=seconds / floor, tokens_s=size.slots / seconds, ok=True
    )  # fmt: skip


# ---------------------------------------------------------------- the loop


def tokenizer_of() -> Any:
    """Bytes, and the marks of a turn."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {symbol: k for k, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    marks = ["<|im_start|>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<answer>", "</answer>", "<reason>", "</reason>"]  # fmt: skip
    found = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>")
    found.add_tokens(marks)
    found.chat_template = CHATML
    return found


def prepared(size: Size, folder: Path) -> str:
    """The model that the loop begins with: its URI."""
    if os.environ.get("SMOLLM2"):
        return "smollm2"
    tokenizer = tokenizer_of()
    shape = size.small
    sized = Shape(
        shape.name, shape.hidden, shape.inner, shape.layers, shape.heads, shape.kv_heads, 64 * -(-len(tokenizer) // 64)
    )
    model_of(sized, "cpu", 4096).save_pretrained(folder / "start")
    tokenizer.save_pretrained(folder / "start")
    return str(folder / "start")


def loop(size: Size, algo: str) -> Record:
    from grpo_roc.cli import main
    from grpo_roc.env import isolation

    level = next((one for one in isolation.LEVELS if one not in isolation.probe()), "rlimit-only")
    common = ["--level", level, "--device", size.device, "--dtype", size.compute, "-q"]

    def run(*words: object) -> None:
        code = main.main([str(word) for word in words], prog_name="grpo-roc", standalone_mode=False)
        if code:
            raise RuntimeError(f"{words[0]}: exit code {code}")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.monotonic()
        run("sft", "--make-data", size.cold, "--kinds", "arithmetic,shop", "--model", prepared(size, folder), "--epochs", size.epochs, "--transcripts", 64, "--lr", 1e-3, "--pass-tokens", 32768, "-o", folder / "cold", *common)  # fmt: skip
        cold = time.monotonic() - began
        run("sft", "--make-data", 8 * size.prompts, "--kinds", "arithmetic", "--seed", 1, "--write-data", folder / "made.jsonl", "-q")  # fmt: skip
        tasks = [json.loads(line) for line in (folder / "made.jsonl").read_text().splitlines()]
        (folder / "tasks.jsonl").write_text("".join(json.dumps({name: one[name] for name in ("id", "prompt", "answer")}) + "\n" for one in tasks))  # fmt: skip
        run("train", folder / "tasks.jsonl", "--model", folder / "cold", "--algo", algo, "--steps", size.steps, "--prompts", size.prompts, "--group-size", size.group, "--max-tokens", size.tokens, "--max-turns", 4, "--max-prompt", 2048, "--lr", 1e-4, "--warmup", 2, "--noise-error", 0.1, "--pass-tokens", size.most, "--slots", size.slots, "-o", folder / "run", *common)  # fmt: skip
        metrics, timings = (
            [json.loads(line) for line in (folder / "run" / f"{name}.jsonl").read_text().splitlines()]
            for name in ("metrics", "timings")
        )
        held = json.loads((folder / "cold" / "manifest.json").read_text())["counts"]["held_out_loss"]
    parts = {name: sum(one[name] for one in timings) / len(timings) for name in ("push_s", "generate_s", "train_s")}
    gaps = [one["logprob_gap/mean"] for one in metrics if "logprob_gap/mean" in one]
    curve = {name: [one.get(name) for one in metrics] for name in ("reward/mean", "errors/correct", "calls/mean")}
    return row(
        "loop", f"{size.small.name}, {algo}, {size.prompts} prompts of {size.group}", ms=1e3 * sum(parts.values()), seconds=parts, cold_start_s=cold, held_out_loss=held, level=level,
        sampled_tokens_s=sum(one["sampled_tokens_s"] for one in timings) / len(timings), gap=max(gaps, default=None), **curve, ok=bool(gaps) and max(gaps) < GAP,
    )  # fmt: skip
