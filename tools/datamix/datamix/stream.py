"""Rows of text drawn from domains under a mixture that may change at any time: the mixing loader.

Three things make a run exact. The k-th pick of a run is a pure function of seed, k and the weights at that moment, so that a change of
weights touches nothing already drawn and any number of ranks agree on the choice without talking. The n-th row of a domain is a pure
function of seed, domain and n, whatever is drawn from others, so that runs under different mixtures see the same text in the same order
(common random numbers). And so the whole state is a count a domain.

`Picker` chooses domains, `Rows` gathers tokens, `Mixer` is both for a loop of one's own; dataset.py has them for a torch DataLoader.
numpy alone.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from datamix.corpus import Corpus
from datamix.mixture import Weights
from tenfold_shared import BadInput

GOLDEN = 0.6180339887498949  # fractional part of the golden ratio: its multiples fill [0, 1) as evenly as any can
Order = Literal["even", "random"]
Counts = NDArray[np.int64]


def key_of(*parts: object) -> int:
    """64 bits from names and numbers, the same everywhere."""
    return int.from_bytes(hashlib.sha256("\0".join(map(str, parts)).encode()).digest()[:8], "little")


class Picker:
    """Which domain each row comes from.

    order `even`: pick k looks up frac(shift + k·golden ratio) in the cumulated weights, so that after n picks a domain has n·w of them to
    within a few; `random`: a uniform number of a counter-based generator in its place. limits [D]: rows a domain may give in all, or
    total_source: rows that source domains may give together; whoever has given all is left out and the others share its weight.
    """

    def __init__(
        self,
        names: list[str],
        seed: int,
        *,
        order: Order = "even",
        limits: Counts | None = None,
        source: NDArray[np.bool_] | None = None,
        total_source: int | None = None,
    ) -> None:
        self.names, self.seed, self.order = list(names), seed, order
        self.limits = (
            np.full(len(names), np.iinfo(np.int64).max) if limits is None else np.asarray(limits, dtype=np.int64)
        )
        self.source = np.zeros(len(names), dtype=bool) if source is None else source
        self.total_source = total_source
        self.taken: Counts = np.zeros(len(names), dtype=np.int64)
        self._shift = key_of(seed, "picks") / 2**64

    @property
    def picked(self) -> int:
        return int(self.taken.sum())

    def _uniform(self, start: int, n: int) -> NDArray[np.float64]:
        if self.order == "even":
            k = np.arange(start, start + n, dtype=np.float64)
            return np.asarray((self._shift + k * GOLDEN) % 1.0)
        # Philox hands out blocks of four 64-bit words a counter, in order: begin at the block that holds `start`.
        bits = np.random.Philox(key=key_of(self.seed, "picks"), counter=start // 4)
        skipped = start % 4
        words = bits.random_raw(skipped + n)[skipped:]
        return np.asarray((words >> np.uint64(11)) * 2.0**-53)

    def open(self, taken: Counts) -> NDArray[np.bool_]:
        """[D], domains that may still give a row."""
        found = taken < self.limits
        if self.total_source is not None and int(taken[self.source].sum()) >= self.total_source:
            found &= ~self.source
        return found

    def left(self) -> int:
        """How many rows may still be picked, whatever the weights."""
        room = [int(limit) - int(taken) for limit, taken in zip(self.limits, self.taken, strict=True)]
        of_source = sum(x for x, is_source in zip(room, self.source, strict=True) if is_source)
        if self.total_source is not None:
            of_source = min(of_source, self.total_source - int(self.taken[self.source].sum()))
        return of_source + sum(x for x, is_source in zip(room, self.source, strict=True) if not is_source)

    def pick(self, weights: Weights, n: int) -> NDArray[np.int64]:
        """The domains of the next n rows, [n]. Raises BadInput where no domain with weight has text left."""
        found = np.empty(n, dtype=np.int64)
        done = 0
        while done < n:
            may = self.open(self.taken)
            now = np.where(may, weights, 0.0)
            if now.sum() <= 0:
                now = may.astype(np.float64)  # what had weight is used up: the others evenly
            if now.sum() <= 0:
                raise BadInput(
                    f"{', '.join(self.names)}: every domain has given all it may; raise --max-epochs or --source-budget"
                )
            edges = np.cumsum(now)
            u = self._uniform(self.picked, n - done) * edges[-1]
            chosen = np.searchsorted(edges, u, side="right")
            np.minimum(chosen, np.flatnonzero(now)[-1], out=chosen)  # u may round up to the last edge
            taking = len(chosen)
            room = np.where(may, self.limits - self.taken, 0)
            for d in np.flatnonzero(np.bincount(chosen, minlength=len(now)) > room):
                taking = min(taking, int(np.flatnonzero(chosen == d)[room[d]]))
            if self.total_source is not None:
                of_source = np.flatnonzero(self.source[chosen])
                left = self.total_source - int(self.taken[self.source].sum())
                if len(of_source) > left:
                    taking = min(taking, int(of_source[left]))
            found[done : done + taking] = chosen[:taking]
            self.taken += np.bincount(chosen[:taking], minlength=len(now))
            done += taking
        return found


class Rows:
    """Rows of length + 1 tokens of every domain, in an order of its own an epoch. A row's first `length` tokens are read, its last
    `length` predicted. Raises BadInput for a domain shorter than one row."""

    def __init__(self, corpus: Corpus, length: int, seed: int) -> None:
        self.corpus, self.length, self.seed = corpus, length, seed
        self.arrays = [corpus.tokens(name, "train") for name in corpus.names]
        self.per_epoch: Counts = np.array([(len(a) - 1) // length for a in self.arrays], dtype=np.int64)
        for name, array, rows in zip(corpus.names, self.arrays, self.per_epoch, strict=True):
            if rows < 1:
                raise BadInput(
                    f"{corpus.folder}: {name}: {len(array)} tokens are fewer than one row of {length + 1}; add text or leave it out"
                )
        self._orders: list[tuple[int, NDArray[np.int64]]] = [(-1, np.empty(0, dtype=np.int64))] * len(self.arrays)
        # Every place a row can begin, as views: numpy then copies whole rows, 4 to 12 times as fast as by an index a token.
        self._windows = [np.lib.stride_tricks.sliding_window_view(np.asarray(a), length + 1) for a in self.arrays]

    def _starts(self, d: int, n: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the n-th rows of domain d begin."""
        epochs, places = np.divmod(n, self.per_epoch[d])
        found = np.empty(len(n), dtype=np.int64)
        for epoch in np.unique(epochs):
            if self._orders[d][0] != epoch:
                rng = np.random.Generator(np.random.Philox(key=key_of(self.seed, self.corpus.names[d], int(epoch))))
                slack = len(self.arrays[d]) - 1 - int(self.per_epoch[d]) * self.length
                order = rng.permutation(int(self.per_epoch[d])) * self.length + int(rng.integers(slack + 1))
                self._orders[d] = (int(epoch), order)
            here = epochs == epoch
            found[here] = self._orders[d][1][places[here]]
        return found

    def gather(self, chosen: NDArray[np.int64], before: Counts) -> NDArray[np.int64]:
        """Tokens [n, length + 1] of rows whose domains are `chosen` [n], where domain d has given before[d] rows already."""
        return self.at(chosen, before[chosen] + occurrences(chosen, len(before)))

    def at(self, chosen: NDArray[np.int64], n: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens [len(n), length + 1] of the n-th row (from 0) of each of the domains `chosen`."""
        found = np.empty((len(chosen), self.length + 1), dtype=np.int64)
        for d in np.unique(chosen):
            places = np.flatnonzero(chosen == d)
            starts = self._starts(int(d), n[places])
            found[places] = self._windows[d][starts]
        return found

    def limits(self, max_epochs: float) -> Counts | None:
        """Rows each domain may give under max_epochs (0 is no limit)."""
        return None if max_epochs <= 0 else np.floor(self.per_epoch * max_epochs).astype(np.int64)


def occurrences(chosen: NDArray[np.int64], domains: int) -> NDArray[np.int64]:
    """How often each pick's domain was picked before it within `chosen`, [n]."""
    order = np.argsort(chosen, kind="stable")
    counts = np.bincount(chosen, minlength=domains)
    found = np.empty(len(chosen), dtype=np.int64)
    found[order] = np.arange(len(chosen)) - np.repeat(np.cumsum(counts) - counts, counts)
    return found


class Mixer:
    """Picker and rows together: what the proxy trains on and what MixedDataset hands out."""

    def __init__(self, rows: Rows, picker: Picker) -> None:
        self.rows, self.picker = rows, picker

    def draw(self, weights: Weights, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The next n rows under a mixture: tokens [n, length + 1] and the domain of each [n]."""
        before = self.picker.taken.copy()
        chosen = self.picker.pick(weights, n)
        return self.rows.gather(chosen, before), chosen
