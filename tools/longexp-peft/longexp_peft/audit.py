"""Checks of a run on itself: every N steps one layer, drawn at random, is also computed densely, and what its set lost is logged.

Recall below what was promised is answered: the layer's share that may stay outside is quartered (a static set grows by half), and after
three such answers the layer is dense for the rest of the run. In `exact` mode nothing may be lost: an active neuron outside the set
ends the run. Without audits a predictor that has drifted would cost quality in silence.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from longexp_peft import patterns, select
from longexp_peft.attention import Chosen, block_mass
from longexp_peft.exposer import column_norms, hidden_of
from longexp_peft.mlp import Rows, Weights
from longexp_peft.sparse import Sparse
from tenfold_shared import TenfoldError

Record = dict[str, Any]
RAISES = 3


class Broken(TenfoldError):
    """A check that the run makes on itself says no; what was saved before is kept."""


class Audit:
    """least: the energy recall that is to be kept. `report` of the last audited step, None between audits."""

    def __init__(self, sparse: Sparse, every: int, least: float, seed: int) -> None:
        self.sparse, self.every, self.least, self.seed = sparse, every, least, seed
        self.raises: dict[int, int] = {}
        self.static: dict[int, int] = {}
        self.layer: int | None = None
        self._seen: list[Record] = []
        self._attention: list[Record] = []

    def before(self, step: int) -> None:
        """Choose whether and where this step is looked at."""
        self.layer = None
        self._seen.clear()
        self._attention.clear()
        sparse = self.sparse
        among = sorted(sparse.allowed)
        if not self.every or step % self.every or not among or not sparse.skipping:
            sparse.watch = sparse.watch_attention = None
            return
        digest = hashlib.blake2b(f"{self.seed} {step}".encode(), digest_size=6).digest()
        self.layer = among[int.from_bytes(digest, "little") % len(among)]
        sparse.watch = self._watch
        sparse.watch_attention = self._watch_attention if sparse.how.attention == "blocks" else None

    def _watch(self, layer: int, x: Tensor, w: Weights, rows: Rows | None) -> None:
        if layer != self.layer:
            return
        h = hidden_of(x, w)
        energy = select.energies(h, column_norms(w))
        kept = torch.zeros(len(energy), dtype=torch.bool, device=energy.device)
        kept[slice(None) if rows is None else rows] = True
        outside = int(((h != 0).any(0) & ~kept).sum())
        self._seen.append(
            {"recall": select.recall(energy, kept), "density": float(kept.float().mean()), "active_outside": outside, "needed": select.density(energy, self.least)}
        )  # fmt: skip

    def _watch_attention(self, layer: int, q: Tensor, k: Tensor, scale: float, chosen: Chosen | None) -> None:
        if layer != self.layer or chosen is None:
            return
        run = self.sparse._run
        assert run is not None
        begin = run.virtual
        for number, length in enumerate(run.row.lengths):
            if number in chosen.by_document:
                part = slice(begin, begin + length)
                mass = block_mass(q[0, :, part], k[0, :, part], chosen.block, scale)
                found = patterns.covered(mass, chosen.by_document[number])
                self._attention.append({"lost": 1 - float(found.mean()), "worst": 1 - float(found.min())})
            begin += length

    def after(self) -> Record | None:
        """What the step showed, after its rows; changes what the layer may leave out. Raises Broken in exact mode."""
        sparse = self.sparse
        sparse.watch = sparse.watch_attention = None
        if self.layer is None or not self._seen:
            return None
        layer, how = self.layer, sparse.how
        worst = min(self._seen, key=lambda one: one["recall"])
        mean = sum(one["recall"] for one in self._seen) / len(self._seen)
        told: Record = {
            "layer": layer, "recall": round(mean, 6), "recall_worst": round(worst["recall"], 6),
            "density": round(sum(one["density"] for one in self._seen) / len(self._seen), 4),
            "needed": round(sum(one["needed"] for one in self._seen) / len(self._seen), 4), "action": "none",
        }  # fmt: skip
        if self._attention:
            told["attention_lost"] = round(sum(a["lost"] for a in self._attention) / len(self._attention), 5)
            told["attention_lost_worst_head"] = round(max(a["worst"] for a in self._attention), 5)
        if how.mode == "exact":
            if missing := sum(one["active_outside"] for one in self._seen):
                raise Broken(
                    f"audit: layer {layer}: {missing} active neurons are outside the exact set: this run is not lossless"
                )
        elif mean < self.least and not how.random:
            told["action"] = self._answer(layer)
        return told

    def _answer(self, layer: int) -> str:
        sparse = self.sparse
        self.raises[layer] = self.raises.get(layer, 0) + 1
        if self.raises[layer] > RAISES:
            sparse.allowed.discard(layer)
            return "dense"
        assert sparse.bundle is not None
        if sparse.how.mode == "static":
            one = sparse.bundle.info["layers"][layer]
            one["static"] = min(one["width"], max(one["static"] + 1, int(one["static"] * 1.5)))
            self.static[layer] = one["static"]
        else:
            sparse.bundle.lost[layer] /= 4
            one = sparse.bundle.info["layers"][layer]
            one["fixed"] = min(
                -(-one["width"] // sparse.bundle.info["predictor"]["block"]), int(one["fixed"] * 1.5) + 1
            )
            sparse.bundle._predictors.pop(layer, None)
        return "raised"

    # ------------------------------------------------------------ what a killed run continues from

    def state(self) -> Record:
        bundle = self.sparse.bundle
        return {
            "raises": self.raises, "static": self.static, "allowed": sorted(self.sparse.allowed),
            "lost": {} if bundle is None else bundle.lost, "fixed": {} if bundle is None else {n: one.get("fixed", 0) for n, one in enumerate(bundle.info["layers"])},
        }  # fmt: skip

    def restore(self, state: Record) -> None:
        self.raises = {int(k): v for k, v in state["raises"].items()}
        self.static = {int(k): v for k, v in state["static"].items()}
        self.sparse.allowed = set(state["allowed"])
        bundle = self.sparse.bundle
        if bundle is not None:
            bundle.lost = {int(k): v for k, v in state["lost"].items()}
            for layer, fixed in state["fixed"].items():
                bundle.info["layers"][int(layer)]["fixed"] = fixed
            for layer, size in self.static.items():
                bundle.info["layers"][layer]["static"] = size
            bundle._predictors.clear()
