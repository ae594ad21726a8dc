"""Mixtures: points of the simplex over domains. Checks, and projections on what may be used; numpy alone.

Where it sits: below everything else of the tool. A mixture is a float64 array of D weights in the order of the corpus's domains, or a
map from names to weights where it comes from outside.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tenfold_shared import BadInput

Weights = NDArray[np.float64]
OFF_BY = 1e-3  # a sum this far from 1 is rounding of whoever wrote it


def checked(weights: Weights, where: str) -> Weights:
    """Weights that sum to 1. A sum within 1e-3 of 1 is mended, with a line on stderr. Raises BadInput for anything negative, not a
    number, or further off; `where` names the file and field."""
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 1 or weights.size == 0:
        raise BadInput(f"{where}: expected a weight for each domain")
    if not np.isfinite(weights).all():
        raise BadInput(f"{where}: expected numbers, got {weights[~np.isfinite(weights)][0]}")
    if (weights < 0).any():
        raise BadInput(f"{where}: expected weights of 0 or more, got {weights.min():g}")
    total = float(weights.sum())
    if abs(total - 1) > OFF_BY:
        raise BadInput(f"{where}: weights sum to {total:.6g}; expected 1")
    if abs(total - 1) > 1e-9:
        print(f"datamix: {where}: weights sum to {total:.6g}; divided by it", file=sys.stderr)
    return weights / total


def from_names(given: Mapping[str, float], names: Sequence[str], where: str) -> Weights:
    """A mixture from a map of names; a domain that is not named gets 0. Raises BadInput for one that the corpus lacks."""
    unknown = [name for name in given if name not in names]
    if unknown:
        raise BadInput(f"{where}: {unknown[0]}: no such domain; there are {', '.join(names)}")
    try:
        return checked(np.array([float(given.get(name, 0.0)) for name in names]), where)
    except (TypeError, ValueError):
        raise BadInput(f"{where}: expected a number for each domain") from None


def to_names(weights: Weights, names: Sequence[str]) -> dict[str, float]:
    """What is written: six decimals, enough for any number of domains that a run can tell apart."""
    return {name: round(float(w), 6) for name, w in zip(names, weights, strict=True)}


def entropy(weights: Weights) -> float:
    """In nats; 0 · log 0 = 0."""
    positive = weights[weights > 0]
    return float(-(positive * np.log(positive)).sum())


def capped(weights: Weights, most: Weights) -> Weights:
    """The mixture nearest in proportion whose shares stay below `most` [D]: what is cut goes to the others in proportion, until nothing
    is above. Where the caps sum to less than 1 they are scaled up to it."""
    if most.sum() <= 1:
        return most / most.sum()
    fixed = np.zeros(len(weights), dtype=bool)
    found = weights.copy()
    for _ in weights:
        over = (found > most) & ~fixed
        if not over.any():
            break
        fixed |= over
        rest = 1 - most[fixed].sum()
        free = np.where(fixed, 0, weights)
        if free.sum() <= 0:
            free = np.where(fixed, 0, 1.0)
        found = np.where(fixed, most, free * rest / free.sum())
    return found / found.sum()


def with_source_share(weights: Weights, source: NDArray[np.bool_], most: float) -> Weights:
    """At most a share `most` of source domains, what is cut going to the targets in proportion (evenly where they had nothing)."""
    share = float(weights[source].sum())
    if share <= most or source.all():
        return weights
    found = weights.copy()
    found[source] *= most / share
    target = ~source
    held = float(weights[target].sum())
    found[target] = (1 - most) * (weights[target] / held if held > 0 else 1 / target.sum())
    return found
