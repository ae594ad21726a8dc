"""Drawing parts of a feature tree: TempTransform, BaseSample and RejectSample (arXiv 2509.16198 §2.2 and app. A).

ontology.py holds the tree; proposal.py offers what is drawn here to the model, so that a project is not made of the
most frequent features alone. Everything is a function of the tree, the numbers below and a numpy generator.

TempTransform flattens the frequencies of siblings: q_i ∝ exp(log(p_i + 1e-9) / t), p_i = f_i / Σ f, which is p_i^(1/t)
renormalised; from |t| = 100 on, uniform. BaseSample draws conditions[d] children, without replacement and in proportion
to q, of every node drawn at depth d, from the root down. RejectSample draws again while too much of a draw was seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tenfold_shared import BadInput

if TYPE_CHECKING:
    from zerorepo.generation.ontology import Ontology

CONDITIONS = (5, 8, 5, 4, 5)  # children drawn at each depth: what the paper's own code explores with
TEMPERATURE = 10.0
UNIFORM_FROM = 100.0
TRIES = 100
OVERLAP = 0.0
_LEAST = 1e-9

Floats = NDArray[np.float64]
Nodes = NDArray[np.int64]


class Drawn(NamedTuple):
    """nodes: all that was drawn, ascending, the root left out; leaves: those of them where the draw ends; overlap: share
    of the leaves that were seen before, from 0 to 1; tries: draws it took."""

    nodes: Nodes
    leaves: Nodes
    overlap: float = 0.0
    tries: int = 1


def temp_transform(frequencies: Sequence[float] | Floats, temperature: float) -> Floats:
    """q (n,) of frequencies (n,) of siblings: sums to 1. Raises BadInput for a temperature of 0 and a negative or
    infinite frequency."""
    counts = np.asarray(frequencies, np.float64)
    if (counts < 0).any() or not np.isfinite(counts).all():
        raise BadInput("frequencies: expected numbers from 0")
    logits = _logits(counts, np.full(len(counts), counts.sum()), temperature)
    weights = np.exp(logits - logits.max(initial=0.0 if not len(logits) else -np.inf))
    return weights / weights.sum()


def _logits(counts: Floats, totals: Floats, temperature: float) -> Floats:
    """log q (n,) up to a constant for all siblings. totals (n,): the sum over each one's siblings."""
    if temperature == 0 or not np.isfinite(temperature):
        raise BadInput(f"temperature: expected a number other than 0, got {temperature}")
    if abs(temperature) >= UNIFORM_FROM:
        return np.zeros(len(counts))
    shares = np.divide(counts, totals, out=np.zeros(len(counts)), where=totals > 0)
    return np.log(shares + _LEAST) / temperature


class Sampler:
    """Draws from one tree at one temperature. roots: the nodes of level 1 that are drawn from, None for all of them.

    Raises BadInput where there is nothing to draw from, or a number is out of its range.
    """

    def __init__(
        self,
        ontology: Ontology,
        temperature: float = TEMPERATURE,
        conditions: Sequence[int] = CONDITIONS,
        roots: Nodes | None = None,
    ) -> None:
        if not conditions or any(count < 1 for count in conditions):
            raise BadInput("conditions: expected numbers from 1, one a depth, such as 5,8,5,4,5")
        self._tree, self._conditions = ontology, tuple(conditions)
        self._roots = ontology.children(0) if roots is None else np.sort(np.asarray(roots, np.int64))
        if not len(self._roots):
            raise BadInput("ontology: it has no node to draw")
        counts = ontology.frequency.astype(np.float64)
        totals = np.zeros(len(counts))
        np.add.at(totals, ontology.parent[1:], counts[1:])
        self._log_q = _logits(counts, totals[ontology.parent], temperature)
        own = counts[self._roots]  # siblings of level 1 are those that can be drawn
        self._log_q[self._roots] = _logits(own, np.full(len(own), own.sum()), temperature)

    def base_sample(self, random: np.random.Generator) -> Drawn:
        """One draw. It ends at a leaf of the tree or at the depth of the last condition, whichever comes first."""
        tree = self._tree
        drawn: list[Nodes] = []
        ends: list[Nodes] = []
        below, owner = self._roots, np.zeros(len(self._roots), np.int64)
        for count in self._conditions:
            chosen = below[self._first(random, below, owner, count)]
            drawn.append(chosen)
            has = tree.fanout[chosen] > 0
            ends.append(chosen[~has])
            frontier = chosen[has]
            sizes = tree.fanout[frontier]
            owner = np.repeat(np.arange(len(frontier)), sizes)
            begins = np.repeat(tree.first[frontier] - np.concatenate([[0], np.cumsum(sizes)[:-1]])[: len(sizes)], sizes)
            below = tree.below[begins + np.arange(len(owner))]
            if not len(below):
                break
        else:
            ends.append(frontier)
        return Drawn(np.sort(np.concatenate(drawn)), np.sort(np.concatenate(ends)))

    def _first(self, random: np.random.Generator, nodes: Nodes, owner: Nodes, count: int) -> NDArray[np.bool_]:
        """Which of `nodes` are among the `count` drawn of those with the same owner, owners ascending.

        The first of a race in which each arrives after an exponential time of rate q: to take them in that order is to
        draw without replacement in proportion to q.
        """
        times = np.log(random.standard_exponential(len(nodes))) - self._log_q[nodes]
        order = np.lexsort((times, owner))
        begin = np.searchsorted(owner, owner)  # where each owner's children begin; the order keeps owners together
        among = np.empty(len(nodes), bool)
        among[order] = np.arange(len(nodes)) - begin[order] < count
        return among

    def reject_sample(
        self,
        random: np.random.Generator,
        seen: NDArray[np.bool_],
        overlap: float = OVERLAP,
        tries: int = TRIES,
    ) -> Drawn:
        """The first draw of which a share of at most `overlap` of the leaves was seen; after `tries` draws the one with
        the least, the earliest of equals. seen: (nodes + 1,), by node.

        (The paper's own code accepts only strictly below its default of 0, hence never.)
        """
        if tries < 1 or not 0 <= overlap <= 1:
            raise BadInput(f"tries and overlap: expected 1 or more and 0 to 1, got {tries} and {overlap}")
        best: Drawn | None = None
        for number in range(1, tries + 1):
            found = self.base_sample(random)
            share = float(seen[found.leaves].mean())
            if share <= overlap:
                return found._replace(overlap=share, tries=number)
            if best is None or share < best.overlap:
                best = found._replace(overlap=share)
        assert best is not None
        return best._replace(tries=tries)
