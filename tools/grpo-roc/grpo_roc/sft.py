"""`grpo-roc sft`: the cold start, by which a model learns how the tool is called, and no reasoning (arXiv 2508.20722, section 4.1).

Maximum likelihood of the model's own turns, a mean over the tokens of a batch; AdamW with a warm-up and a cosine to nothing. The result is a folder that transformers opens. What is under way lies beside it, in
NAME.work, and the same command goes on after a kill.

Where it sits: above transcripts.py and policy.py.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec

import grpo_roc
from grpo_roc.dialogue import Dialogue
from grpo_roc.env.environment import Environment
from grpo_roc.env.environment import Settings as EnvironmentSettings
from grpo_roc.policy import Example, Optimisation, Policy, for_training
from grpo_roc.ranks import Ranks
from grpo_roc.rollout import stream
from grpo_roc.runs import held, read_lines, settle
from grpo_roc.transcripts import examples, made
from tenfold_shared import BadInput
from tenfold_shared.jsonl import Source, difference, write_atomic
from tenfold_shared.progress import Progress

Record = dict[str, Any]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Settings(msgspec.Struct, frozen=True):
    """warmup_share: share of all updates; max_tokens: of a transcript, longer ones are left out and counted."""

    make_data: int = 0
    kinds: tuple[str, ...] = ()
    epochs: float = 3.0
    batch: int = 16
    lr: float = 5e-6
    warmup_share: float = 0.04
    max_tokens: int = 4096
    most: int = 4096
    held_out: float = 0.05
    tools: tuple[str, ...] = ("python",)
    shown: int = 4096
    checkpointing: bool = False
    seed: int = 0


def with_template(tokenizer: Any, model: Any) -> bool:
    """Gives a tokenizer without a chat template ChatML's, and the model the tokens that it lacks; whether it did."""
    if getattr(tokenizer, "chat_template", None):
        return False
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]})
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))
    tokenizer.chat_template = CHATML
    return True


def rate(step: int, total: int, how: Settings) -> float:
    """Of update `step`, from 1."""
    rising = max(1, round(how.warmup_share * total))
    if step <= rising:
        return how.lr * step / rising
    return how.lr * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(total - rising, 1)))


def batches(count: int, how: Settings) -> list[list[int]]:
    """Numbers of examples of each update: every epoch has all once, in an order of its own."""
    order: list[int] = []
    whole = math.ceil(how.epochs)
    for epoch in range(whole):
        order += stream(how.seed, "epoch", epoch).permutation(count).tolist()
    order = order[: max(1, round(how.epochs * count))]
    return [order[k : k + how.batch] for k in range(0, len(order), how.batch)]


def loss_of(policy: Policy, held: Sequence[Example]) -> float:
    """Mean loss of a token, without learning."""
    logp, _ = policy.logprobs(held)
    values = [
        value
        for each, one in zip(logp, held, strict=True)
        for value, learnt in zip(each, one.mask, strict=True)
        if learnt
    ]
    return -sum(values) / len(values)


def run(
    model: str, records: Iterable[tuple[str, Record]], how: Settings, identity: Record, output: str, *, level: Any, workers: int, dtype: str, device: str, save_every: int, overwrite: bool, max_time: float | None,
    trust_remote_code: bool, quiet: bool,
) -> int:  # fmt: skip
    """The verb; returns the exit code: 1 where time ran out. Raises BadInput, Missing and Busy."""
    import torch

    final = Path(output)
    work = final.with_name(f"{final.name}.work")
    # a kill after the model was written and before its manifest leaves both, and the same command goes on
    own = (work / "run.json").exists() and (final / "config.json").exists()
    if final.exists() and not own and not (final / "manifest.json").exists() and any(final.iterdir()):
        raise BadInput(f"{final}: holds things that this verb did not write; choose another folder")
    if (final / "manifest.json").exists() and not overwrite:
        found = difference(json.loads((final / "manifest.json").read_bytes()), json.loads(json.dumps(identity)))
        if found is None:
            print(f"grpo-roc: {final}: complete already; nothing to do", file=sys.stderr)
            return 0
        raise BadInput(f"{final}: was made with {found}; choose another output or add --overwrite")
    until = None if max_time is None else time.monotonic() + max_time
    with Ranks().joined(device) as ranks, held(work) if ranks.first else nullcontext():
        state = ranks.same(settle(work, identity, overwrite) if ranks.first else "")

        def tell(line: str) -> None:
            if ranks.first:
                print(f"grpo-roc: {line}", file=sys.stderr)

        torch.manual_seed(how.seed)
        source = str(work / "checkpoint") if state == "resume" else model
        lm, tokenizer, compute = for_training(source, dtype, ranks.device(device), trust_remote_code, ranks)
        if with_template(tokenizer, lm):
            tell("the tokenizer has no chat template: it is given ChatML's")
        dialogue = Dialogue(tokenizer, how.tools)
        rows = len(lm.get_input_embeddings().weight)
        if dialogue.highest >= rows:
            lm.resize_token_embeddings(len(tokenizer))
            tell(
                f"the model has {rows} rows in its embedding, and the tokenizer {len(tokenizer)} tokens: it is made larger"
            )
        skipped = 0
        if how.make_data:
            with Environment(EnvironmentSettings(level=level, workers=workers)) as env:
                given = [
                    (f"problem {k}", one) for k, one in enumerate(made(how.make_data, how.seed, env.submit, how.kinds))
                ]
        else:
            given = list(records)
            skipped = records.bad if isinstance(records, Source) else 0
            if skipped:
                tell(f"{skipped} records are no transcripts and are left out")
        every = [examples(record, where, dialogue, how.shown) for where, record in given]
        fit = [one for one in every if len(one.prompt) + len(one.response) <= how.max_tokens]
        if len(fit) < len(every):
            tell(
                f"{len(every) - len(fit)} of {len(every)} transcripts have more than {how.max_tokens} tokens and are left out"
            )
        apart = min(round(how.held_out * len(fit)), 256)
        order = stream(how.seed, "held out").permutation(len(fit))
        test, train = [fit[k] for k in order[:apart]], [fit[k] for k in order[apart:]]
        if not train:
            raise BadInput("no transcript is left to learn from")
        policy = Policy(
            lm, Optimisation(lr=how.lr, most=how.most, checkpointing=how.checkpointing, compute=compute), ranks=ranks
        )
        steps = batches(len(train), how)
        lm.train()
        done = 0
        log = work / "log.jsonl"
        if state == "resume":
            done = policy.restore(work / "checkpoint")["done"]
        if ranks.first:
            kept = [line for line in read_lines(log) if line["step"] <= done]
            write_atomic(log, b"".join(json.dumps(line).encode() + b"\n" for line in kept))
        first = loss_of(policy, test) if test else None
        with Progress("sft", len(steps), "updates", quiet or not ranks.first) as progress:
            progress.update(done)
            for number in range(done, len(steps)):
                if ranks.same(until is not None and time.monotonic() > until):
                    policy.save(work / "checkpoint", tokenizer, {"done": number})
                    tell(f"time is up after update {number} of {len(steps)}; the same command goes on")
                    return 1
                loss = policy.fit([train[k] for k in steps[number]], rate(number + 1, len(steps), how))
                if not math.isfinite(loss):
                    raise BadInput(
                        f"update {number + 1}: the loss is {loss}; lower --lr, or train in float32 (--dtype float32)"
                    )
                if ranks.first:
                    line = {"step": number + 1, "loss": round(loss, 9), "lr": rate(number + 1, len(steps), how)}
                    with open(log, "ab") as out:
                        out.write(json.dumps(line).encode() + b"\n")
                progress.update()
                if (number + 1) % save_every == 0 and number + 1 < len(steps):
                    policy.save(work / "checkpoint", tokenizer, {"done": number + 1})
        last = loss_of(policy, test) if test else None
        policy.save(final, tokenizer, {}, optimizer=False, dtype=compute)
        if not ranks.first:
            return 0
        counts = {
            "transcripts": len(fit),
            "left_out": len(every) - len(fit),
            "skipped": skipped,
            "updates": len(steps),
            "held_out_loss": last,
        }
        write_atomic(final / "log.jsonl", log.read_bytes())
        write_atomic(
            final / "manifest.json",
            json.dumps({**identity, "version": grpo_roc.__version__, "counts": counts}, indent=1).encode(),
        )
        if not quiet and last is not None:
            before = "" if first is None or done else f"{first:.3f} before, "
            tell(f"{len(train)} transcripts, {len(steps)} updates; held-out loss of a token: {before}{last:.3f} after")
        shutil.rmtree(work)
    return 0
