"""`longexp-peft predictor train|eval`: predictors of a bundle, trained on a model's own layers, and how they do on other data.

Inputs of every layer are held for as many layers at a time as fit into `memory`; the forward is repeated for the others. The last
quarter of the rows trains nothing: on it each layer's `lost` is settled, so that 9 of 10 rows keep the energy asked for.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor

from longexp_peft import patterns, profile, select
from longexp_peft.attention import Chosen, block_mass
from longexp_peft.bundle import Bundle, reorder
from longexp_peft.exposer import LEAST_BLOCKS, column_norms, hidden_of
from longexp_peft.mlp import Rows, Weights
from longexp_peft.pack import Row
from longexp_peft.predictor import (
    AttentionLowRank,
    Svd,
    block_means,
    settle,
    settle_floor,
    token_energy,
    train_attention,
    train_low_rank,
)
from longexp_peft.profile import Reading
from longexp_peft.sparse import TILE, Sparse, Sparsity
from tenfold_shared import BadInput
from tenfold_shared.jsonl import Lock
from tenfold_shared.progress import Progress

Record = dict[str, Any]
MEMORY = 2 << 30  # bytes of inputs and energies that are held


class Settings(msgspec.Struct, frozen=True):
    """How predictors are made. positive: weight of what a token calls up against what it does not. noise: deviation of what is added
    to inputs in training, as a share of their root mean square. recall: energy that 9 of 10 held-out rows must keep."""

    kind: str = "lowrank"
    rank: int = 32
    block: int = 32
    steps: int = 600
    lr: float = 3e-3
    batch: int = 1024
    positive: float = 2.0
    noise: float = 0.05
    recall: float = 0.99
    seed: int = 0


class _Held:
    """What one layer shows: inputs, token energies by block, and where rows end; attention's block means and masses."""

    def __init__(self) -> None:
        self.x: list[Tensor] = []
        self.energy: list[Tensor] = []
        self.norms: Tensor | None = None
        self.w: Weights | None = None
        self.means: list[Tensor] = []
        self.masses: list[Tensor] = []


def gather(
    sparse: Sparse, rows: Sequence[Row], layers: range, block: int, attention_block: int | None, progress: Any
) -> dict[int, _Held]:
    """One dense pass that keeps what the layers show."""
    held = {layer: _Held() for layer in layers}
    state: dict[str, Any] = {}

    def watch(layer: int, x: Tensor, w: Weights, chosen: Rows | None, u: Tensor | None) -> None:
        if layer not in held:
            return
        one = held[layer]
        if one.norms is None:
            one.norms, one.w = column_norms(w).cpu(), w
        one.x.append(x.detach().cpu())
        one.energy.append(token_energy(hidden_of(x, w), column_norms(w), block).cpu())

    def watch_attention(layer: int, q: Tensor, k: Tensor, scale: float, chosen: Chosen | None) -> None:
        if layer not in held or attention_block is None:
            return
        assert sparse._run is not None
        x = sparse._run.inputs[layer]
        begin = 0
        for length in state["row"].lengths:
            if length >= (LEAST_BLOCKS - 1) * attention_block + 1 and len(held[layer].means) < 256:
                part = slice(begin, begin + length)
                held[layer].means.append(block_means(x[part], attention_block).cpu())
                held[layer].masses.append(block_mass(q[0, :, part], k[0, :, part], attention_block, scale).cpu())
            begin += length

    sparse.watch, sparse.watch_attention, sparse.keep_inputs = watch, watch_attention, attention_block is not None
    try:
        with sparse.attached(), torch.no_grad():
            for row in rows:
                state["row"] = row
                sparse.hidden(row)
                progress.update()
    finally:
        sparse.watch = sparse.watch_attention = None
        sparse.keep_inputs = False
    return held


def in_memory(sparse: Sparse, rows: Sequence[Row], block: int) -> list[range]:
    """Runs of layers that are looked at in one pass."""
    ffn = sparse.ffns[0]
    tokens = sum(r.tokens for r in rows)
    each = tokens * (ffn.hidden * sparse.outer.dtype.itemsize + 4 * -(-ffn.width // block))
    size = max(1, int(MEMORY // max(1, each)))
    count = len(sparse.ffns)
    return [range(begin, min(begin + size, count)) for begin in range(0, count, size)]


def train(
    bundle: Bundle, model: Any, rows: Sequence[Row], how: Settings, *, attention: bool = True, quiet: bool = True
) -> Record:
    """Predictors for every layer into BUNDLE, which is laid on MODEL already. Returns what they did, layer by layer."""
    sparse = Sparse(model, Sparsity())
    split = max(1, len(rows) - max(1, len(rows) // 4))
    if len(rows) < 2:
        raise BadInput(
            "predictor train: needs two rows of tokens at least, one to train on and one to settle on; give more data, or a smaller --batch-tokens"
        )
    told: list[Record] = []
    chunks = in_memory(sparse, rows, how.block)
    for name in [n for n in bundle.tensors if n.startswith(("predictor.", "attention."))]:
        del bundle.tensors[name]
    with Progress("predictor train", len(rows) * len(chunks) + len(sparse.ffns), "rows and layers", quiet) as progress:
        for chunk in chunks:
            held = gather(sparse, rows, chunk, how.block, bundle.attention_block if attention else None, progress)
            for layer in chunk:
                told.append(_layer(bundle, layer, held.pop(layer), split, how))
                progress.update()
    bundle.info["predictor"] = {
        **msgspec.to_builtins(how),
        "rows": len(rows),
        "batch_tokens": max(r.tokens for r in rows),
    }
    bundle._predictors.clear()
    return {"layers": told}


def _layer(bundle: Bundle, layer: int, held: _Held, split: int, how: Settings) -> Record:
    assert held.norms is not None and held.w is not None
    width = len(held.norms)
    losses: list[float] = []
    if how.kind == "svd":
        mean = torch.cat(held.x[:split]).float().mean(0)
        scorer: Any = Svd.of(held.w, mean.to(held.w.up.weight.device), how.rank, how.block, 0.0)
    else:
        scorer, losses = train_low_rank(
            torch.cat(held.x[:split]), torch.cat(held.energy[:split]), held.norms, rank=how.rank, block=how.block, width=width,
            noise=how.noise, positive=how.positive, steps=how.steps, lr=how.lr, batch=how.batch, seed=(how.seed * 1009 + layer) % (1 << 63),
        )  # fmt: skip
    energies = [e.double().sum(0) for e in held.energy[split:]]
    floor = 0.0
    if how.kind == "svd":
        scores = [scorer.scores(x.to(held.w.up.weight.device), held.w, None).cpu() for x in held.x[split:]]
        lost, fixed = settle(scores, energies, how.recall)
    else:
        shares = [scorer.shares(x.float()) for x in held.x[split:]]
        floor, lost, fixed = settle_floor(scorer, shares, held.energy[split:], how.recall, TILE)
        scores = [scorer.summed(one) for one in shares]
    kept = [select.smallest(s, lost) for s in scores]
    one = bundle.info["layers"][layer]
    one["lost"], one["fixed"], one["floor"] = lost, fixed, floor
    bundle.lost[layer] = lost
    for name, x in scorer.parts().items():
        bundle.tensors[f"predictor.{layer}.{name}"] = x.detach().cpu().contiguous()
    found: Record = {
        "layer": layer, "recall": round(sum(select.recall(e, k) for e, k in zip(energies, kept, strict=True)) / len(kept), 5),
        "density": round(sum(float(k.float().mean()) for k in kept) / len(kept), 4),
        "needed": round(sum(float(select.smallest(e, 1 - how.recall).float().mean()) for e in energies) / len(energies), 4), "lost": lost,
    }  # fmt: skip
    if losses:
        found["loss"] = [round(losses[0], 5), round(sum(losses[-20:]) / len(losses[-20:]), 5)]
    if len(held.means) >= 4:
        test = max(1, len(held.means) // 4)
        tensors, curve = train_attention(
            held.means[:-test], held.masses[:-test], rank=min(16, held.means[0].shape[1]), steps=how.steps // 2, lr=1e-2,
            seed=(how.seed * 1009 + layer) % (1 << 63), noise=how.noise,
        )  # fmt: skip
        for name, x in tensors.items():
            bundle.tensors[f"attention.{layer}.{name}"] = x.contiguous()
        found["attention"] = {**_attention_recall(AttentionLowRank(tensors, float(bundle.info["mass"])), held.means[-test:], held.masses[-test:]),
                              "loss": [round(curve[0], 5), round(sum(curve[-20:]) / len(curve[-20:]), 5)]}  # fmt: skip
    return found


def _attention_recall(predictor: AttentionLowRank, means: list[Tensor], masses: list[Tensor]) -> Record:
    from longexp_peft.predictor import _attention_scores

    covered, read = [], []
    for x, mass in zip(means, masses, strict=True):
        chosen = patterns.choose(_attention_scores(predictor.tensors, x).softmax(-1), predictor.mass)
        covered.append(float(patterns.covered(mass, chosen).mean()))
        read.append(float(patterns.densities(mass.shape[-1])[chosen].mean()))
    return {"covered": round(sum(covered) / len(covered), 5), "density": round(sum(read) / len(read), 4)}


def evaluate(bundle: Bundle, model: Any, rows: Sequence[Row], *, least: float, quiet: bool = True) -> list[Record]:
    """Recall, density and the least density that would do, by layer, of a bundle's predictors on rows."""
    sparse = Sparse(model, Sparsity())
    block = int(bundle.info["predictor"]["block"])
    told = []
    chunks = in_memory(sparse, rows, block)
    with Progress("predictor eval", len(rows) * len(chunks), "rows", quiet) as progress:
        for chunk in chunks:
            held = gather(sparse, rows, chunk, block, bundle.attention_block, progress)
            for layer in chunk:
                one, scorer = held.pop(layer), bundle.predictor(layer)
                assert one.w is not None
                recalls, densities, needed = [], [], []
                for x, energy in zip(one.x, one.energy, strict=True):
                    kept = select.smallest(scorer.scores(x.to(one.w.up.weight.device), one.w, None).cpu(), scorer.lost)
                    total = energy.double().sum(0)
                    recalls.append(select.recall(total, kept))
                    densities.append(float(kept.float().mean()))
                    needed.append(float(select.smallest(total, 1 - least).float().mean()))
                n = len(recalls)
                found: Record = {
                    "layer": layer, "recall": round(sum(recalls) / n, 5), "recall_worst": round(min(recalls), 5),
                    "density": round(sum(densities) / n, 4), "needed": round(sum(needed) / n, 4),
                }  # fmt: skip
                if one.means and f"attention.{layer}.q" in bundle.tensors:
                    found["attention"] = _attention_recall(bundle.attention_predictor(layer), one.means, one.masses)
                told.append(found)
    return told


def lay_on(bundle: Bundle, model: Any) -> None:
    """The bundle's order of neurons on a model that has no adapter."""
    from longexp_peft import shape

    for ffn in shape.feed_forwards(model):
        reorder(ffn, bundle.order(ffn.layer))


def run_train(
    folder: str, files: Sequence[str], reading: Reading, how: Settings, *, attention: bool, as_json: bool, quiet: bool
) -> int:
    """The verb `predictor train`; returns the exit code."""
    from pathlib import Path

    path = Path(folder)
    lock = Lock(path.with_name(f".{path.name}.lock"), path)
    try:
        bundle = Bundle.load(folder)
        found = profile.read(files, reading)
        bundle.check(found.model, folder)
        lay_on(bundle, found.model)
        told = train(bundle, found.model, found.rows, how, attention=attention, quiet=quiet)
        bundle.save(path)
    finally:
        lock.release()
    _show(told["layers"], folder, how.recall, as_json, quiet)
    return 0


def run_eval(folder: str, files: Sequence[str], reading: Reading, *, least: float, as_json: bool, quiet: bool) -> int:
    """The verb `predictor eval`: exit code 1 where a layer keeps less energy than asked for."""
    bundle = Bundle.load(folder)
    if bundle.info["predictor"] is None:
        raise BadInput(f"{folder}: has no predictors; run `longexp-peft predictor train {folder} DATA` first")
    found = profile.read(files, reading)
    bundle.check(found.model, folder)
    lay_on(bundle, found.model)
    bundle.to(found.model.device)
    told = evaluate(bundle, found.model, found.rows, least=least, quiet=quiet)
    _show(told, folder, least, as_json, quiet)
    below = [one["layer"] for one in told if one["recall"] < least]
    if below:
        print(
            f"longexp-peft: layers {', '.join(map(str, below))} keep less than {least:g} of the energy: train predictors on data like these",
            file=sys.stderr,
        )
    return 1 if below else 0


def _show(layers: list[Record], folder: str, least: float, as_json: bool, quiet: bool) -> None:
    mean = {key: sum(one[key] for one in layers) / len(layers) for key in ("recall", "density", "needed")}
    if as_json:
        print(json.dumps({"bundle": folder, "layers": layers, **{k: round(v, 5) for k, v in mean.items()}}))
    elif not quiet:
        print(
            f"longexp-peft: {folder}: recall of energy {mean['recall']:.4f} with {100 * mean['density']:.1f} % of the neurons; {least:g} needs "
            f"{100 * mean['needed']:.1f} % at least",
            file=sys.stderr,
        )
