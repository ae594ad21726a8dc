"""The training half of a step beside TRL's GRPOTrainer: the same model, trajectories, threads and float32, each in a process of its own: an object a line (make bench-grpo-roc).

Two groups of eight trajectories: a system text of 270 tokens that all begin with, 20 and 36 tokens of a problem, responses of 30 to 200 tokens of which a third is a tool's (not trained on). The ids are made up: no part of a
training step asks what they are. A step is forward and backward of all 16, the clip of the gradient and AdamW; nothing is sampled. Tokens are those of the trajectories, prompts included, nothing padded.

TRL: its own trainer, given the trajectories by a `rollout_func`; token-mean loss (dapo), no reference model, one update a generation (so no pass for old log-probabilities), no gradient checkpointing, fused AdamW. It has no padding-free mode for GRPO, and without Triton its head scores every position; `TRL, responses only` is the same with the scoring that it has on a GPU.
Before anything is timed the loss and the gradients of both are compared: more than 1e-4 apart is a failure.

The floor: 6 times the weights of the layers for each token of our packs, 6 times the head's for each token that is trained on, at the rate of the fastest of a few float32 products of matrices here. `--only CASE` for one case,
`--quick` for a look.
"""

import argparse
import functools
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import env
import numpy as np

from grpo_roc import roc

row = functools.partial(env.row, command="python tools/grpo-roc/bench/train_step.py")
GROUPS, SIZE, SHARED = 2, 8, 270
CASES = {"smollm2": "SmolLM2-135M", "tiny": "two layers, 0.1M weights"}
MICRO = {
    "smollm2": (4,),
    "tiny": (4, 16),
}  # trajectories of a micro-batch of TRL's; 8 of the first model take as long, and nearly twice the memory
PASS = 4096  # tokens of a pass of ours, as by default
STEPS = {"smollm2": 2, "tiny": 4}
APART = 1e-4
Record = dict[str, Any]


def trajectories(vocabulary: int) -> list[Record]:
    """In order of group and rollout: {prompt, response, mask, advantage}."""
    rng = random.Random(0)

    def ids(count: int) -> list[int]:
        return [rng.randrange(10, vocabulary) for _ in range(count)]

    shared, found = ids(SHARED), []
    for group in range(GROUPS):
        prompt = shared + ids(20 + 16 * group)
        rewards = [float(k < 3 + group) for k in range(SIZE)]
        for advantage in roc.advantages(np.array(rewards)):
            length = rng.randrange(30, 201)
            first = length // 3
            mask = [not first <= k < first + length // 3 for k in range(length)]
            found.append({"prompt": prompt, "response": ids(length), "mask": mask, "advantage": float(advantage)})
    return found


def model_of(name: str) -> tuple[Any, Any]:
    import torch

    from tenfold_shared.models import load_causal_lm

    if name == "smollm2":
        model, tokenizer = load_causal_lm("smollm2", "float32", "cpu")
        return model.requires_grad_(True), tokenizer
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    words = {f"w{k}": k for k in range(512)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocab=words, unk_token="w1")), eos_token="w0"
    )
    return LlamaForCausalLM(config), tokenizer


def peak() -> int:
    """Bytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Kept:
    """Gradients of the first step, to a file; seconds that this took."""

    def __init__(self, model: Any, path: str) -> None:
        self.model, self.path, self.seconds = model, path, 0.0

    def take(self) -> None:
        if not self.path:
            return
        from safetensors.torch import save_file

        began = time.perf_counter()
        save_file({name: one.grad.contiguous() for name, one in self.model.named_parameters()}, self.path)
        self.path, self.seconds = "", time.perf_counter() - began


# ---------------------------------------------------------------- ours


def ours(name: str, steps: int, gradients: str) -> Record:
    from grpo_roc.objective import Clip
    from grpo_roc.packing import Piece, pack
    from grpo_roc.policy import Example, Optimisation, Policy

    model, _ = model_of(name)
    model.train()
    loaded = peak()
    policy = Policy(model, Optimisation(norm=1e9, most=PASS))
    examples = [Example(one["prompt"], one["response"], one["mask"], one["advantage"]) for one in trajectories(model.config.vocab_size)]  # fmt: skip
    kept = Kept(model, gradients)
    policy.optimizer.register_step_pre_hook(lambda *_: kept.take())
    seconds, losses = [], []
    for _ in range(steps):
        kept.seconds, began = 0.0, time.perf_counter()
        losses.append(policy.update(examples, Clip()).loss)
        seconds.append(time.perf_counter() - began - kept.seconds)
    packs = pack([Piece(k, one.prompt, one.response, one.mask) for k, one in enumerate(examples)], PASS)
    head = model.get_output_embeddings().weight.numel()
    layers = sum(one.numel() for one in model.parameters()) - head
    return {
        "seconds": seconds, "loss": losses[0], "peak": peak(), "loaded": loaded, "packed": sum(len(one.tokens) for one in packs),
        "flop": 6 * layers * sum(len(one.tokens) for one in packs) + 6 * head * sum(len(one.targets) for one in packs),
    }  # fmt: skip


# ---------------------------------------------------------------- TRL


def trl(name: str, steps: int, gradients: str, micro: int, *, responses_only: bool) -> Record:
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    warnings.simplefilter("ignore")
    import trl.trainer.utils
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    if responses_only:
        trl.trainer.utils._use_triton = lambda device: (
            True
        )  # asked there of which positions alone; the kernels ask elsewhere
    model, tokenizer = model_of(name)
    loaded = peak()
    given = trajectories(model.config.vocab_size)
    kept = Kept(model, gradients)
    seconds: list[float] = []
    losses: list[float] = []

    class Trainer(GRPOTrainer):
        """Keeps what its own way of making batches costs out of the step's time, and each step's loss."""

        other = 0.0

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            began = time.perf_counter()
            found = super()._generate_and_score_completions(inputs)
            self.other += time.perf_counter() - began
            return found

        def _compute_loss(self, model: Any, inputs: Any) -> Any:
            found = super()._compute_loss(model, inputs)
            losses[-1] += float(found.detach())
            return found

    class Clock(TrainerCallback):
        began = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            trainer.other, kept.seconds = 0.0, 0.0
            losses.append(0.0)
            self.began = time.perf_counter()

        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            kept.take()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - self.began - trainer.other - kept.seconds)

    def recorded(prompts: list[str], trainer: Any) -> Record:
        seen = [0] * GROUPS
        chosen = []
        for prompt in prompts:
            group = int(prompt)
            chosen.append(given[group * SIZE + seen[group]])
            seen[group] += 1
        return {
            "prompt_ids": [one["prompt"] for one in chosen],
            "completion_ids": [one["response"] for one in chosen],
            "logprobs": [[0.0] * len(one["response"]) for one in chosen],
            "env_mask": [[int(trained) for trained in one["mask"]] for one in chosen],
            "advantage": [one["advantage"] for one in chosen],
        }

    def advantage(advantage: list[float], **_: Any) -> list[float]:
        return advantage

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model, processing_class=tokenizer, reward_funcs=advantage, rollout_func=recorded, callbacks=[Clock()], train_dataset=Dataset.from_dict({"prompt": [str(k) for k in range(GROUPS)]}),
            args=GRPOConfig(
                folder, use_cpu=True, bf16=False, gradient_checkpointing=False, per_device_train_batch_size=micro, gradient_accumulation_steps=GROUPS * SIZE // micro, num_generations=SIZE,
                max_steps=steps, loss_type="dapo", scale_rewards="none", epsilon=0.2, epsilon_high=0.28, beta=0.0, num_iterations=1, learning_rate=1e-6, max_grad_norm=1e9, optim="adamw_torch_fused",
                report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
            ),
        )  # fmt: skip
        trainer.train()
    return {"seconds": seconds, "loss": losses[0], "peak": peak(), "loaded": loaded}


# ---------------------------------------------------------------- both


def product_rate() -> float:
    """Operations a second of float32 products of matrices, the best of a few sizes that a model has."""
    import torch

    best = 0.0
    for shape in ((1024, 576, 1536), (1024, 1536, 576), (1024, 1024, 1024), (2048, 2048, 2048)):
        a, b = torch.randn(shape[0], shape[1]), torch.randn(shape[1], shape[2])
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(4):
                a @ b
            best = max(best, 4 * 2 * shape[0] * shape[1] * shape[2] / (time.perf_counter() - began))
    return best


def child(name: str, kind: str, steps: int, gradients: str = "", micro: int = 0) -> Record:
    command = [sys.executable, __file__, "--child", kind, "--only", name, "--steps", str(steps), "--micro", str(micro)]
    done = subprocess.run([*command, "--gradients", gradients], stdout=subprocess.PIPE, text=True, check=True)
    found: Record = json.loads(done.stdout.splitlines()[-1])
    return found


def apart(left: str, right: str) -> float:
    """Norm of the difference of two files of gradients over that of the second's."""
    from safetensors import safe_open

    with safe_open(left, "pt") as a, safe_open(right, "pt") as b:
        names = list(b.keys())
        if set(a.keys()) != set(names):
            raise SystemExit("the two have gradients for different weights")
        norm = sum(float(b.get_tensor(name).double().square().sum()) for name in names)
        return (sum(float((a.get_tensor(name) - b.get_tensor(name)).double().square().sum()) for name in names) / norm) ** 0.5  # fmt: skip


def compared(name: str, quick: bool) -> bool:
    steps = 1 if quick else STEPS[name]
    given = trajectories(512)
    tokens = sum(len(one["prompt"]) + len(one["response"]) for one in given)
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{k}.safetensors") for k in range(2)]
        rate = product_rate()
        mine = child(name, "ours", steps, paths[0])
        found = {micro: child(name, "trl", steps, paths[1] if micro == MICRO[name][0] else "", micro) for micro in MICRO[name]}  # fmt: skip
        micro, theirs = min(found.items(), key=lambda one: min(one[1]["seconds"]))
        gap = apart(paths[0], paths[1])
    loss_gap = abs(mine["loss"] - theirs["loss"]) / abs(theirs["loss"])
    row(
        f"{CASES[name]}: loss and gradients of one step", gap, "of the norm", n=len(given), only=name, peer_name="TRL GRPOTrainer, dapo", loss_apart=loss_gap
    )  # fmt: skip
    if max(gap, loss_gap) > APART:
        print(f"loss {loss_gap:.2e} and gradients {gap:.2e} apart from TRL's, more than {APART:g}", file=sys.stderr)
        return False
    peers = {f"TRL GRPOTrainer, micro-batches of {micro}": theirs}
    peers["TRL, responses only"] = child(name, "trl-responses", steps, micro=micro)
    seconds = min(mine["seconds"])
    floor = mine["flop"] / rate
    for peer_name, peer in peers.items():
        other = min(peer["seconds"])
        row(
            f"{CASES[name]}: training step", tokens / seconds, "tokens/s", peer=tokens / other, peer_name=peer_name, ratio=other / seconds, floor=tokens / floor, floor_ratio=floor / seconds,
            n=tokens, only=name, seconds=seconds, peer_seconds=other, peak_bytes=mine["peak"], peer_peak_bytes=peer["peak"], packed=mine["packed"], product_flop_s=rate,
        )  # fmt: skip
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(CASES))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--child", choices=["ours", "trl", "trl-responses"], help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--micro", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--gradients", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child == "ours":
        print(json.dumps(ours(given.only, given.steps, given.gradients)))
        return 0
    if given.child:
        print(json.dumps(trl(given.only, given.steps, given.gradients, given.micro, responses_only=given.child == "trl-responses")))  # fmt: skip
        return 0
    fine = [compared(name, given.quick) for name in CASES if given.only in (None, name)]
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(main())
