"""`longexp-peft bench`: ways to fine-tune the same adapter on the same rows, in one run, step by step in turn.

Every arm begins with the same adapter and reads the same packed rows; one base model serves all, and the arms' adapters are put in and
out of it. The yardstick is the faster of two dense ones: transformers' own modules with peft, and this tool's dense mode; both attend
by SDPA inside each document and make logits at label positions alone. A ratio stands beside the loss it came with and beside what
the operations left out allow (amdahl.py). Packing is measured by itself: the same examples padded to the longest.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from longexp_peft import amdahl, calibrate, head, patterns, predict, profile, shape
from longexp_peft.bundle import Bundle
from longexp_peft.methods import Method, Tuned, attach
from longexp_peft.pack import Row
from longexp_peft.profile import Read, Reading
from longexp_peft.sparse import Sparse, Sparsity
from tenfold_shared import BadInput
from tenfold_shared.progress import Progress

Record = dict[str, Any]
ARMS = (
    "peft", "dense", "exact", "predicted", "static", "predicted-attention", "svd", "random", "blocks", "bigbird", "longformer",
    "random-attention",
)  # fmt: skip


class Settings(msgspec.Struct, frozen=True):
    """steps are timed, after `warmup` that are not. svd_rank: of SparseLoRA's predictor."""

    arms: tuple[str, ...] = ARMS
    steps: int = 20
    warmup: int = 2
    lr: float = 1e-3
    svd_rank: int = 8
    break_even: float = 0.8
    attention_break_even: float | None = None
    padded_steps: int = 3
    seed: int = 0


class Stock(Sparse):
    """transformers' feed-forward modules as they are, with packed attention: the dense arm that owes us nothing but packing."""

    def _patch(self, ffn: shape.Ffn) -> None:
        pass

    def _unpatch(self, ffn: shape.Ffn) -> None:
        pass


class Fixed(Bundle):
    """A bundle in which every head has one pattern, and no neuron is skipped."""

    def __init__(self, base: Bundle, name: str, heads: int) -> None:
        super().__init__(base.info, base.tensors)
        self._pattern = torch.full((heads,), patterns.numbers([name])[0])

    def patterns(self, layer: int) -> Tensor | None:
        return self._pattern

    def static(self, layer: int) -> slice:
        return slice(0, self.info["layers"][layer]["width"])


class Arm:
    """One way: its engine, its adapter, its optimiser, and what its steps took and lost."""

    def __init__(self, name: str, engine: Sparse, tuned: Tuned, lr: float) -> None:
        self.name, self.engine = name, engine
        self.own = [nn.Parameter(p.detach().clone()) for p in tuned.parameters.values()]
        self.adam = torch.optim.AdamW(self.own, lr=lr, weight_decay=0.0)
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.densities: list[dict[int, float]] = []
        self.attention: list[dict[int, float]] = []
        self.spent: list[float] = []

    def step(self, tuned: Tuned, row: Row) -> None:
        """One step on a row; the adapter is put in first and its gradients taken out after."""
        for p, mine in zip(tuned.parameters.values(), self.own, strict=True):
            p.data, p.grad = mine.data, None
        self.engine.spent = 0.0
        with self.engine.attached():
            _wait(row)
            begun = time.perf_counter()
            loss = self.engine.loss(row, tuned.prompt()) / len(row.labels)
            loss.backward()
            for p, mine in zip(tuned.parameters.values(), self.own, strict=True):
                mine.grad = p.grad
            self.adam.step()
            self.adam.zero_grad(set_to_none=True)
            _wait(row)
            self.seconds.append(time.perf_counter() - begun)
        self.losses.append(float(loss.detach()))
        self.densities.append(dict(self.engine.densities))
        self.attention.append(dict(self.engine.attention_densities))
        self.spent.append(self.engine.spent)

    @torch.no_grad()
    def held_out(self, tuned: Tuned, engine: Sparse, rows: Sequence[Row]) -> float:
        """Loss a target of rows that were not trained on, dense."""
        for p, mine in zip(tuned.parameters.values(), self.own, strict=True):
            p.data = mine.data
        with engine.attached():
            prompt = tuned.prompt()
            each = [engine.losses(row, prompt).double() for row in rows]
        return float(torch.cat(each).mean())


def _wait(row: Row) -> None:
    if row.ids.is_cuda:
        torch.cuda.synchronize()


def engine_of(name: str, model: Any, bundle: Bundle, svd: Bundle | None, how: Settings) -> Sparse:
    """The engine of an arm. Raises BadInput for one that this model or bundle cannot have."""
    mlp: Record = {"break_even": how.break_even, "attention_break_even": how.attention_break_even, "seed": how.seed}
    heads = shape.plain(model).config.get_text_config().num_attention_heads
    if name == "peft":
        return Stock(model, Sparsity())
    if name == "dense":
        return Sparse(model, Sparsity())
    if name in ("exact", "predicted", "static"):
        return Sparse(model, Sparsity(mode=name, **mlp), bundle)
    if name == "predicted-attention":
        return Sparse(model, Sparsity(mode="predicted", attention="blocks", **mlp), bundle)
    if name == "svd":
        return Sparse(model, Sparsity(mode="predicted", **mlp), svd)
    if name == "random":
        return Sparse(model, Sparsity(mode="predicted", random=True, **mlp), bundle)
    # Attention alone: all neurons, and blocks whether they pay or not, for every arm of this kind.
    every: Record = {**mlp, "break_even": 0.0, "attention_break_even": 1.0, "attention": "blocks"}
    if name in patterns.FIELD:
        return Sparse(model, Sparsity(mode="static", **every), Fixed(bundle, patterns.FIELD[name], heads))
    if name == "blocks":
        return Sparse(model, Sparsity(mode="predicted", **every), bundle)
    if name == "random-attention":  # patterns drawn among those that cost about as much as the predicted ones
        return Sparse(model, Sparsity(mode="predicted", random=True, **every), bundle)
    raise BadInput(f"--arms {name}: expected some of {', '.join(ARMS)}")


def compare(
    found: Read, bundle: Bundle, method: Method, how: Settings, *, uri: str, held: Sequence[Row], quiet: bool = True
) -> Record:  # fmt: skip
    """All arms on the rows of `found`, which are gone through again where steps are more. The bundle is laid on the model here."""
    model = found.model
    rows = found.rows
    zeros = all(f.zeros for f in shape.feed_forwards(model))
    left_out = {}
    arms_wanted = list(how.arms)
    if not zeros and "exact" in arms_wanted:
        arms_wanted.remove("exact")
        left_out["exact"] = "the activation has no exact zeros"
    long = any(name.startswith("attention.") for name in bundle.tensors)
    for name in ("predicted-attention", "blocks", "bigbird", "longformer", "random-attention"):
        if name in arms_wanted and not (long and bundle.patterns(0) is not None):
            arms_wanted.remove(name)
            left_out[name] = f"no document has 4 blocks of {bundle.attention_block} tokens"
    tuned = attach(model, method, uri)
    tuned.reorder([bundle.order(f.layer) for f in shape.feed_forwards(model)])
    svd = None
    if "svd" in arms_wanted:
        svd = Bundle(json.loads(json.dumps(bundle.info)), dict(bundle.tensors))
        predict.train(svd, model, rows, predict.Settings(kind="svd", rank=how.svd_rank, block=bundle.info["predictor"]["block"]), attention=False)  # fmt: skip
        svd.to(model.device)
    bundle.to(model.device)
    arms = [Arm(name, engine_of(name, model, bundle, svd, how), tuned, how.lr) for name in arms_wanted]
    if not any(a.name in ("peft", "dense") for a in arms):
        raise BadInput("--arms: expected peft or dense among them, which the others are measured by")
    total = how.steps + how.warmup
    with Progress("bench", total * len(arms), "steps", quiet) as progress:
        for number in range(total):
            row = rows[number % len(rows)]
            # Each arm goes first in turn: what a step leaves in the caches helps or hurts the next one.
            for at in range(len(arms)):
                arms[(at + number) % len(arms)].step(tuned, row)
                progress.update()
    dense_engine = Sparse(model, Sparsity())
    yardstick = min(
        (a for a in arms if a.name in ("peft", "dense")), key=lambda a: statistics.median(a.seconds[how.warmup :])
    )
    first = tuned.first
    gated = shape.feed_forwards(model)[0].gate is not None
    told = []
    timed = [rows[(how.warmup + i) % len(rows)] for i in range(how.steps)]
    dense_ops = [amdahl.parts(model, r.lengths, len(r.labels), first=first) for r in timed]
    for arm in arms:
        ratios = [a / b for a, b in zip(yardstick.seconds[how.warmup :], arm.seconds[how.warmup :], strict=True)]
        mode = arm.engine.how.mode
        ops = [
            amdahl.parts(
                model, r.lengths, len(r.labels), first=first, mlp={k: amdahl.left(mode, v, gated) for k, v in d.items()}, attention=a
            )
            for r, d, a in zip(timed, arm.densities[how.warmup :], arm.attention[how.warmup :], strict=True)
        ]  # fmt: skip
        bound = sum(p.total for p in dense_ops) / sum(p.total for p in ops)
        ratio = statistics.median(ratios)
        spent = statistics.median(
            a / b for a, b in zip(arm.spent[how.warmup :], arm.seconds[how.warmup :], strict=True)
        )
        told.append({
            "arm": arm.name, "ms": round(1e3 * statistics.median(arm.seconds[how.warmup :]), 2), "ratio": round(ratio, 3), "bound": round(bound, 3),
            "of_bound": round(ratio / bound, 3), "density": _mean(arm.densities[how.warmup :]), "attention_density": _mean(arm.attention[how.warmup :]),
            "choosing": round(spent, 4), "flop": round(sum(p.total for p in ops) / len(ops)), "loss_first": round(arm.losses[0], 6),
            "loss_last": round(statistics.mean(arm.losses[-max(1, how.steps // 4) :]), 6),
            "held_out": round(arm.held_out(tuned, dense_engine, held), 6) if held else None,
            "losses_apart": round(max(abs(a - b) for a, b in zip(arm.losses, yardstick.losses, strict=True)), 8),
        })  # fmt: skip
    result: Record = {
        "model": uri, "method": method.name, "yardstick": yardstick.name, "arms": told, "left_out": left_out,
        "tokens": statistics.mean(r.tokens for r in timed), "documents": statistics.mean(len(r.lengths) for r in timed),
        "labels": statistics.mean(len(r.labels) for r in timed), "steps": how.steps, "shares": dense_ops[0].shares(), "machine": machine(model),
        "dtype": str(model.dtype).removeprefix("torch."),
    }  # fmt: skip
    if how.padded_steps:
        result["packing"] = packing(tuned, timed[: how.padded_steps], yardstick)
    return result


def _mean(seen: Sequence[dict[int, float]]) -> float | None:
    every = [value for one in seen for value in one.values()]
    return round(statistics.mean(every), 4) if every else None


def packing(tuned: Tuned, rows: Sequence[Row], yardstick: Arm) -> Record | None:
    """The same documents padded to the longest, through transformers and peft as they are, SDPA, logits at label positions too; in turn
    with the yardstick, forward and backward of both."""
    if tuned.how.name in ("prefix", "ptuning"):
        return None
    outer, ours, theirs = shape.plain(tuned.model), [], []
    real = padded = 0
    for p, mine in zip(tuned.parameters.values(), yardstick.own, strict=True):
        p.data = mine.data

    def timed(row: Row, loss: Callable[[], Tensor]) -> float:
        _wait(row)
        begun = time.perf_counter()
        (loss() / len(row.labels)).backward()
        _wait(row)
        for p in tuned.parameters.values():
            p.grad = None
        return time.perf_counter() - begun

    for row in [rows[0], *rows]:
        ids, mask = padded_batch(row)
        flat = mask.flatten().nonzero()[:, 0][row.at]

        def stock(row: Row = row, ids: Tensor = ids, mask: Tensor = mask, flat: Tensor = flat) -> Tensor:
            hidden = shape.decoder(tuned.model)(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            return head.loss_sum(hidden.flatten(0, 1).index_select(0, flat), row.labels, outer.get_output_embeddings())

        before = outer.config._attn_implementation
        outer.set_attn_implementation("sdpa")
        theirs.append(timed(row, stock))
        outer.set_attn_implementation(before)
        with yardstick.engine.attached():
            ours.append(timed(row, lambda row=row: yardstick.engine.loss(row)))  # type: ignore[misc]
        real, padded = real + sum(row.lengths), padded + ids.numel()
    taken, packed = statistics.median(theirs[1:]), statistics.median(ours[1:])
    return {
        "ms_padded": round(1e3 * taken, 2),
        "ms_packed": round(1e3 * packed, 2),
        "ratio": round(taken / packed, 3),
        "tokens_factor": round(padded / real, 3),
    }


def padded_batch(row: Row) -> tuple[Tensor, Tensor]:
    """ids and mask (documents, longest) of a row's documents."""
    width = max(row.lengths)
    ids = torch.zeros(len(row.lengths), width, dtype=torch.long, device=row.ids.device)
    mask = torch.zeros_like(ids)
    for i, part in enumerate(row.ids.split(list(row.lengths))):
        ids[i, : len(part)], mask[i, : len(part)] = part, 1
    return ids, mask


def machine(model: Any) -> str:
    if model.device.type == "cuda":
        return torch.cuda.get_device_name(model.device)
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as told:
        name = next((line.split(":", 1)[1].strip() for line in told if line.startswith("model name")), name)
    return f"{name}, {torch.get_num_threads()} threads"


# ---------------------------------------------------------------- the verb


def run(
    files: Sequence[str], reading: Reading, how: Settings, method: Method, *, bundle: str | None, block: int, attention_block: int,
    topics: int, plot: str | None, as_json: bool, quiet: bool,
) -> int:  # fmt: skip
    """The verb; returns the exit code."""
    from longexp_peft import needs

    needs.plots(plot, files)
    with sample(files, reading, topics) as paths:
        found = profile.read(paths, reading)
    # By the seed, so that seeds differ in what is held out and in the order, as well as in the adapter's beginning.
    order = torch.randperm(len(found.rows), generator=torch.Generator().manual_seed(how.seed)).tolist()
    found = found._replace(rows=[found.rows[i] for i in order])
    quarter = max(1, len(found.rows) // 4)
    if len(found.rows) < 4:
        raise BadInput(
            f"bench: {len(found.rows)} rows of {reading.batch_tokens} tokens are too few; give more data, or a smaller --batch-tokens"
        )
    held, rows = found.rows[-quarter:], found.rows[:-quarter]
    found = found._replace(rows=rows)
    prepared = time.monotonic()
    if bundle is not None:
        ready = Bundle.load(bundle, found.model)
        if ready.info["predictor"] is None:
            raise BadInput(f"{bundle}: has no predictors; run `longexp-peft predictor train {bundle} DATA` first")
    else:
        with Progress(
            "calibrate", len(rows) + len(shape.feed_forwards(found.model)), "rows and layers", quiet
        ) as progress:
            ready = calibrate.made(
                found, block=block, attention_block=attention_block, mass=0.98, lost=0.01, progress=progress
            )
        predict.lay_on(ready, found.model)
        predict.train(ready, found.model, rows, predict.Settings(block=block, seed=how.seed), quiet=quiet)
        for ffn in shape.feed_forwards(found.model):  # back, as `compare` lays the order on
            calibrate_back(ready, ffn)
    prepared = time.monotonic() - prepared
    told = compare(found, ready, method, how, uri=reading.uri, held=held, quiet=quiet)
    told["preparation_seconds"] = round(prepared, 1)
    if plot is not None:
        from longexp_peft.plot import draw_bench

        draw_bench(told, plot)
    if as_json:
        print(json.dumps(told))
        return 0
    show(told)
    return 0


def calibrate_back(bundle: Bundle, ffn: shape.Ffn) -> None:
    from longexp_peft.bundle import reorder

    reorder(ffn, bundle.order(ffn.layer).argsort())


def show(told: Record) -> None:
    from rich.table import Table

    from tenfold_shared.cli import print_table

    table = Table(
        title=f"{told['model']}, {told['method']}: {told['tokens']:.0f} tokens a step in {told['documents']:.0f} documents, {told['dtype']}, {told['machine']}"
    )
    for name in (
        "arm",
        "ms a step",
        "ratio",
        "at most",
        "of it",
        "neurons",
        "blocks",
        "choosing",
        "loss at last",
        "held out",
    ):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for one in told["arms"]:
        cells = [one["arm"], f"{one['ms']:.1f}", f"{one['ratio']:.2f}", f"{one['bound']:.2f}", f"{one['of_bound']:.2f}"]
        cells += ["-" if one[k] is None else f"{one[k]:.3f}" for k in ("density", "attention_density")]
        cells += [
            f"{100 * one['choosing']:.1f} %",
            f"{one['loss_last']:.4f}",
            "-" if one["held_out"] is None else f"{one['held_out']:.4f}",
        ]
        table.add_row(*cells)
    print_table(table)
    if told.get("packing"):
        print(
            f"packing: the same examples padded take {told['packing']['ratio']:.2f} times the yardstick's time, with {told['packing']['tokens_factor']:.2f} times the tokens"
        )
    for name, why in told["left_out"].items():
        print(f"{name}: left out, {why}")


def rows_of_topics(model: str, width: int, topics: int, path: str) -> None:
    """A planted model's train.jsonl in such an order that every row of `width` tokens has documents of so many topics, each line once
    at most. Raises BadInput."""
    with open(os.path.join(model, "train.jsonl"), "rb") as stream:
        lines = [(json.loads(line), line) for line in stream]
    by_topic: dict[int, list[bytes]] = {}
    for one, line in lines:
        by_topic.setdefault(one["topic"], []).append(line)
    each = width // max(len(one["context"]) + len(one["completion"]) for one, _ in lines)
    if not 1 <= topics <= min(each, len(by_topic)):
        raise BadInput(
            f"--topics {topics}: expected 1 to {min(each, len(by_topic))}: the model has {len(by_topic)}, a row {each} documents"
        )
    names, begin, found = sorted(by_topic), 0, []
    while True:
        chosen = [names[(begin + i) % len(names)] for i in range(topics)]
        row = [by_topic[chosen[i % topics]].pop() for i in range(each) if by_topic[chosen[i % topics]]]
        if len(row) < each:
            break
        found += row
        begin += topics
    with open(path, "wb") as stream:
        stream.writelines(found)


@contextlib.contextmanager
def sample(files: Sequence[str], reading: Reading, topics: int = 1) -> Iterator[Sequence[str]]:
    """The files; without any, a planted model's own data, or the language reference that comes with Python."""
    if files:
        yield files
        return
    import tempfile
    from pydoc_data import topics as reference

    with tempfile.TemporaryDirectory() as folder:
        own = os.path.join(reading.uri, "planted.json")
        if os.path.exists(own):
            path = os.path.join(folder, "rows.jsonl")
            rows_of_topics(reading.uri, reading.batch_tokens, topics, path)
            yield [path]
            return
        path = os.path.join(folder, "reference.txt")
        with open(path, "w", encoding="utf-8") as stream:
            stream.write("\n\n".join(reference.topics[name] for name in sorted(reference.topics)))
        print("longexp-peft: no data given: the language reference that comes with Python is read", file=sys.stderr)
        yield [path]
