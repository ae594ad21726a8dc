"""Checks of a run on itself: every N steps one layer, drawn at random, is also computed densely, and what its set lost is logged.

Recall below what was promised is answered: the layer's share that may stay outside is quartered (a static set grows by half), and after
three such answers the layer is dense for the rest of the run. Attention that loses more than twice what its patterns were chosen for
becomes dense. A predicted set that is half as large again as what was needed is answered too: more may stay outside. In `exact` mode
nothing may be lost: an active neuron outside the set, or an output that is not the dense layer's, ends the run. Under torchrun all
ranks look at one layer and answer the worst of what they saw. Without audits a predictor that has drifted would cost quality in
silence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from longexp_peft import patterns, select
from longexp_peft.attention import Chosen, block_mass
from longexp_peft.exposer import column_norms, hidden_of
from longexp_peft.mlp import Rows, Side, Weights, feed_forward
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

    @torch.no_grad()
    def _watch(self, layer: int, x: Tensor, w: Weights, rows: Rows | None, u: Tensor | None) -> None:
        if layer != self.layer:
            return
        h = hidden_of(x, w, u)
        energy = select.energies(h, column_norms(w))
        kept = torch.zeros(len(energy), dtype=torch.bool, device=energy.device)
        kept[slice(None) if rows is None else rows] = True
        outside = int(((h != 0).any(0) & ~kept).sum())
        apart = 0.0
        if self.sparse.how.mode == "exact":
            still = _without_dropout(w)
            whole, part = (feed_forward(x, still, r, None, u) for r in (None, rows))
            apart = float((whole - part).abs().max() / whole.abs().max().clamp_min(1e-30))
        self._seen.append(
            {"recall": select.recall(energy, kept), "density": float(kept.float().mean()), "active_outside": outside, "apart": apart, "needed": select.density(energy, self.least)}
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

    def look(self) -> Record | None:
        """What the step showed, after its rows; nothing is changed yet."""
        sparse = self.sparse
        sparse.watch = sparse.watch_attention = None
        if self.layer is None or not self._seen:
            return None
        told: Record = {
            "layer": self.layer, "recall": _mean(self._seen, "recall"), "recall_worst": min(one["recall"] for one in self._seen),
            "density": _mean(self._seen, "density"), "needed": _mean(self._seen, "needed"),
            "active_outside": sum(one["active_outside"] for one in self._seen), "apart": max(one["apart"] for one in self._seen),
        }  # fmt: skip
        if self._attention:
            told["attention_lost"] = _mean(self._attention, "lost")
            told["attention_lost_worst_head"] = max(a["worst"] for a in self._attention)
        return told

    def answer(self, seen: Sequence[Record | None]) -> Record | None:
        """The worst of what all ranks saw, with the answer to it, which every rank gives. Raises Broken in exact mode."""
        some = [one for one in seen if one is not None]
        if not some:
            return None
        sparse, layer = self.sparse, some[0]["layer"]
        told: Record = dict(min(some, key=lambda one: one["recall"]))
        told["active_outside"], told["apart"] = (max(one[k] for one in some) for k in ("active_outside", "apart"))
        told["action"] = "none"
        if sparse.how.mode == "exact":
            exact = 1e-3 if sparse.outer.dtype in (torch.float32, torch.float64) else 0.1
            if told["active_outside"] or not told["apart"] < exact:
                raise Broken(
                    f"audit: layer {layer}: {told['active_outside']} active neurons are outside the exact set, its output is {told['apart']:.2g} off: "
                    "this run is not lossless"
                )
        elif not sparse.how.random:
            if told["recall"] < self.least:
                told["action"] = self._raise(layer)
            elif (
                sparse.how.mode == "predicted"
                and not self.raises.get(layer)
                and told["density"] > 1.5 * told["needed"] + 0.02
            ):
                assert sparse.bundle is not None
                sparse.bundle.lost[layer] = min(0.5, 2 * sparse.bundle.lost[layer])
                told["action"] = "lowered"
            if (
                sparse.bundle is not None
                and told.get("attention_lost", 0.0) > 2 * (1 - float(sparse.bundle.info["mass"])) + 1e-3
            ):
                sparse.attends_densely.add(layer)
                told["attention_action"] = "dense"
        return {k: round(v, 6) if isinstance(v, float) else v for k, v in told.items()}

    def _raise(self, layer: int) -> str:
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
            "attends_densely": sorted(self.sparse.attends_densely),
            "lost": {} if bundle is None else bundle.lost, "fixed": {} if bundle is None else {n: one.get("fixed", 0) for n, one in enumerate(bundle.info["layers"])},
        }  # fmt: skip

    def restore(self, state: Record) -> None:
        self.raises = {int(k): v for k, v in state["raises"].items()}
        self.static = {int(k): v for k, v in state["static"].items()}
        self.sparse.allowed, self.sparse.attends_densely = set(state["allowed"]), set(state["attends_densely"])
        bundle = self.sparse.bundle
        if bundle is not None:
            bundle.lost = {int(k): v for k, v in state["lost"].items()}
            for layer, fixed in state["fixed"].items():
                bundle.info["layers"][int(layer)]["fixed"] = fixed
            for layer, size in self.static.items():
                bundle.info["layers"][layer]["static"] = size
            bundle._predictors.clear()


def _mean(seen: list[Record], key: str) -> float:
    return sum(one[key] for one in seen) / len(seen)


def _without_dropout(w: Weights) -> Weights:
    """The layer's weights with nothing drawn at random."""

    def still(side: Side) -> Side:
        return side if side.low is None else side._replace(low=(*side.low[:3], nn.Identity()))

    return w._replace(up=still(w.up), down=still(w.down), gate=None if w.gate is None else still(w.gate))
