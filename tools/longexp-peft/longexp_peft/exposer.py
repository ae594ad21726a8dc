"""What a model's feed-forward layers and heads use, measured on packed rows (arXiv 2510.15964, Shadowy-sparsity Exposer).

One dense pass; each layer is looked at inside its own call and only sums are kept: energies of neurons by tiles of 128 tokens, zeros by
token, document and row, and, for documents of four blocks or more, each head's attention by blocks, scored by the mass it puts there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from longexp_peft import patterns, select
from longexp_peft.attention import Chosen, block_mass
from longexp_peft.mlp import Rows, Side, Weights, pre_activation
from longexp_peft.pack import Row
from longexp_peft.sparse import TILE, Sparse

LEAST_BLOCKS = 4  # of a document whose attention is looked at: shorter ones cannot gain


@torch.no_grad()
def hidden_of(x: Tensor, w: Weights, u: Tensor | None = None) -> Tensor:
    """h (M, F) of every neuron: what the last matrix sees. u (M, r) of the first matrix's LoRA as the layer itself has it, its dropout
    among it; nothing is drawn at random here, which would move every mask that comes after."""
    first = w.gate or w.up
    h = w.function(pre_activation(x, first, _plain(x, first) if u is None else u))
    return h if w.gate is None else h * pre_activation(x, w.up, _plain(x, w.up))


def _plain(x: Tensor, side: Side) -> Tensor | None:
    """u without dropout."""
    return None if side.low is None else torch.nn.functional.linear(x, side.low[0])


def column_norms(w: Weights) -> Tensor:
    """‖W2[:, j]‖ float32 (F,)."""
    weight = w.down.weight.detach()
    return torch.linalg.vector_norm(
        weight, dim=1, dtype=weight.dtype if weight.dtype == torch.float64 else torch.float32
    )


class Layer:
    """One layer's sums. tiles: energies (F,) float32 of each tile of tokens; rows: of each row."""

    def __init__(self) -> None:
        self.tiles: list[Tensor] = []
        self.rows: list[Tensor] = []
        self.zeros = [[0.0, 0], [0.0, 0], [0.0, 0]]  # by token, document, row: sum of shares, count
        self.covered: Tensor | None = None  # (H, P): attention covered by each pattern, summed over documents
        self.exposed: Tensor | None = None  # (H,): share of n² that the fewest blocks with the mass take
        self.read: Tensor | None = None  # (P,) share of n² a pattern reads
        self.documents = 0

    def see(self, h: Tensor, norms: Tensor, lengths: Sequence[int]) -> None:
        active = (h != 0).float()
        device = h.device
        document = torch.repeat_interleave(
            torch.arange(len(lengths), device=device), torch.tensor(lengths, device=device)
        )
        which = torch.nn.functional.one_hot(document, len(lengths)).float().t()
        each = [1 - active.mean(), (which @ active == 0).float().mean(), (active.amax(0) == 0).float().mean()]
        for at, (share, n) in enumerate(zip(each, (len(h), len(lengths), 1), strict=True)):
            self.zeros[at][0] += float(share) * n
            self.zeros[at][1] += n
        squared = h.float().square_() * norms.square()
        tiles = torch.stack([part.sum(0) for part in squared.split(TILE)]).cpu()
        self.tiles += list(tiles)
        self.rows.append(tiles.sum(0))

    def attend(self, mass: Tensor, least: float) -> None:
        n = mass.shape[-1]
        masks = patterns.masks(n).to(mass.device)
        covered = (torch.einsum("pij,hij->hp", masks.float(), mass) / n).cpu()
        exposed = patterns.exposed(mass, least).float().mean((1, 2)).cpu()
        read = patterns.densities(n).float()
        if self.covered is None:
            self.covered, self.exposed, self.read = (
                torch.zeros_like(covered),
                torch.zeros_like(exposed),
                torch.zeros_like(read),
            )
        assert self.exposed is not None and self.read is not None
        self.covered += covered
        self.exposed += exposed
        self.read += read
        self.documents += 1

    # ------------------------------------------------------------ what it comes to

    def share_of_zeros(self) -> tuple[float, float, float]:
        token, document, row = (total / max(1, n) for total, n in self.zeros)
        return token, document, row

    def density(self, mass: float, by: Sequence[Tensor] | None = None) -> float:
        """The share of neurons that hold `mass` of a row's energy, a mean over rows, each with its own best set."""
        found = [select.density(one, mass) for one in (self.rows if by is None else by)]
        return sum(found) / max(1, len(found))

    def heads(self, least: float) -> list[dict[str, Any]]:
        """For each head the cheapest pattern with the mass, what it reads and loses, and the fewest blocks that would do."""
        if self.covered is None or self.read is None or self.exposed is None:
            return []
        covered, read = self.covered / self.documents, self.read / self.documents
        enough = covered >= least - 1e-6
        enough[:, 0] = True
        best = torch.where(enough, read, 2.0).argmin(1)
        return [
            {
                "pattern": patterns.NAMES[p], "density": round(float(read[p]), 4), "lost": round(1 - float(covered[h, p]), 5),
                "exposed": round(float(self.exposed[h]) / self.documents, 4),
            }
            for h, p in enumerate(best.tolist())
        ]  # fmt: skip


def order_of(layer: Layer, block: int) -> Tensor:
    """A permutation int64 (F,) that puts neurons which work together beside each other, and those with most energy first.

    Block by block: the neuron with most energy left, and the block − 1 that are most like it in where, tile by tile, their energy is
    (cosine of the roots). Blocks then stand by their energy. O(F² / block · tiles) operations.
    """
    where = torch.stack(layer.tiles, 1).sqrt()  # (F, tiles)
    total = where.square().sum(1)
    like = where / where.norm(dim=1, keepdim=True).clamp_min(1e-30)
    left = torch.ones(len(total), dtype=torch.bool)
    blocks: list[Tensor] = []
    for seed in total.argsort(descending=True, stable=True).tolist():
        if not left[seed]:
            continue
        if float(total[seed]) == 0:
            break
        near = like @ like[seed] + torch.where(left, 0.0, -4.0)
        near[seed] = 4.0
        # Neurons without any energy are like nothing; those with the more come first among equals.
        chosen = near.topk(min(block, int(left.sum()))).indices
        blocks.append(chosen)
        left[chosen] = False
    rest = left.nonzero()[:, 0]
    heat = torch.tensor([float(total[b].sum()) for b in blocks])
    ranked = [blocks[i] for i in heat.argsort(descending=True, stable=True).tolist() if len(blocks[i]) == block]
    short = [b for b in blocks if len(b) < block]
    return torch.cat([*ranked, *short, rest]) if blocks else torch.arange(len(total))


def measure(
    sparse: Sparse, rows: Sequence[Row], *, block: int, mass: float, attention_documents: int = 64,
    progress: Callable[[], None] = lambda: None,
) -> list[Layer]:  # fmt: skip
    """Every layer's sums over rows. attention_documents: so many long documents are looked at. sparse: of mode dense, attached here."""
    layers = [Layer() for _ in sparse.ffns]
    norms: dict[int, Tensor] = {}
    state: dict[str, Any] = {}

    def watch(layer: int, x: Tensor, w: Weights, chosen: Rows | None, u: Tensor | None) -> None:
        if layer not in norms:
            norms[layer] = column_norms(w)
        layers[layer].see(hidden_of(x, w), norms[layer], state["row"].lengths)

    def watch_attention(layer: int, q: Tensor, k: Tensor, scale: float, chosen: Chosen | None) -> None:
        begin = 0
        for length in state["row"].lengths:
            if length >= LEAST_BLOCKS * block - block + 1 and layers[layer].documents < attention_documents:
                part = slice(begin, begin + length)
                layers[layer].attend(block_mass(q[0, :, part], k[0, :, part], block, scale), mass)
            begin += length

    sparse.watch, sparse.watch_attention = watch, watch_attention
    try:
        with sparse.attached(), torch.no_grad():
            for row in rows:
                state["row"] = row
                sparse.hidden(row)
                progress()
    finally:
        sparse.watch = sparse.watch_attention = None
    return layers
