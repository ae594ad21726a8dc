"""`MixedDataset`: a torch IterableDataset over a corpus whose mixture can be changed while it is read, with exact state.

Sits on stream.py. The rows of a run are one global sequence: pick k depends on seed, k and the weights in force at k alone, and goes to
rank k % world_size. So any world size reads the same sequence, and the state is a position, a count a domain and the changes of weights.

What is exact, and where prefetching matters:

- num_workers=0: a change takes effect at the next row that is read from the dataset. (A loader that fetches one batch ahead, as
  accelerate's does, has read that batch already.) `state_dict()` is the state after the last row read.
- num_workers=W: workers draw ahead, each its share of the same sequence, and agree on the position at which a change takes effect: the
  first that none has claimed. So rows, their number a domain and the budget stay exact, the change comes later by what was prefetched.
  With batch_size=B equal to the loader's, the batches are those of num_workers=0; otherwise the same rows come in another order within W
  batches. The main process does not know what was read: `state_dict(position)` wants the rows consumed, over all ranks.
- A loader that is iterated a second time goes on where the dataset is: after the last row read for num_workers=0, and at the last loaded
  state for workers.
"""

from __future__ import annotations

import multiprocessing
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.context import get_spawning_popen
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from datamix.corpus import Corpus
from datamix.mixture import Weights, checked, from_names
from datamix.stream import Counts, Order, Picker, Rows, key_of, occurrences
from tenfold_shared import BadInput

SCHEMA = "mixed-dataset/1"
RING = 256  # changes that a worker may be behind
AHEAD = 1 << 20  # tokens gathered at once, at most


class MixedDataset(IterableDataset[Any]):
    """Rows of `length` tokens from a corpus's train text.

    Yields {input_ids [length], labels [length] (the same: transformers shifts them itself), domain (its number)}, int64; with `pairs`
    tuples (x, y), each [length], y one token on. weights: [D] or a map of names. max_epochs: how often a domain may be seen (0: no
    limit); source_budget: tokens that source domains may give in all, all ranks together (None: no limit). block: rows picked at once.
    Endless until no domain may give more, then BadInput. Raises BadInput for weights that are no mixture and domains shorter than a row.
    """

    def __init__(
        self,
        corpus: Corpus,
        length: int,
        weights: Weights | Mapping[str, float],
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        order: Order = "even",
        max_epochs: float = 0.0,
        source_budget: int | None = None,
        block: int = 1024,
        pairs: bool = False,
        batch_size: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise BadInput(f"rank {rank}: expected one below the world size, {world_size}")
        if min(length, block, batch_size) < 1:
            raise BadInput("length, block and batch_size: expected 1 or more")
        self.corpus, self.length, self.seed, self.order = corpus, length, seed, order
        self.rank, self.world_size, self.pairs, self.batch_size = rank, world_size, pairs, batch_size
        self.max_epochs, self.source_budget = max_epochs, source_budget
        self._block = max(1, min(block, AHEAD // length))
        self._rows = Rows(corpus, length, key_of(seed, "rows"))
        self._picker = self._new_picker(np.zeros(len(corpus.names), dtype=np.int64))
        self._anchor = self._shadow = self._picker.taken.copy()
        self._at = [0]  # positions from which ...
        self._mixtures = [self._weights(weights)]  # ... these are in force
        self._lock: Any = multiprocessing.RLock()
        self._spawns = False
        self._ring = torch.zeros(RING, len(corpus.names) + 1, dtype=torch.float64).share_memory_()
        self._shared = torch.zeros(2, dtype=torch.int64).share_memory_()  # changes written, position claimed by workers
        self._seen = 0
        self._clear()

    # ------------------------------------------------------------ mixtures

    @property
    def names(self) -> list[str]:
        return self.corpus.names

    @property
    def weights(self) -> Weights:
        """The mixture that the next change has not yet replaced: the last one set."""
        return self._mixtures[-1].copy()

    @property
    def position(self) -> int:
        """Rows of the global sequence that have been read, counting as many on every rank as on this one. Workers are not counted."""
        return int(self._before.sum()) + min(self._handed * self.world_size, len(self._chosen))

    @property
    def next_change(self) -> int:
        """The first position at which a change can still take effect."""
        return max(self.position, int(self._shared[1]))

    @contextmanager
    def hold(self) -> Iterator[int]:
        """Workers claim nothing while this is held; gives `next_change`. For ranks that agree on the largest one before they set it."""
        with self._lock:
            yield self.next_change

    def set_weights(self, weights: Weights | Mapping[str, float], at: int | None = None) -> int:
        """Change the mixture from position `at` of the global sequence on, by default the next that nobody has read or claimed. Returns
        the position. Raises BadInput for weights that are no mixture and a position that is gone. Under several ranks every one sets
        the same weights at the same position; where all have read as many rows, the default is that."""
        mixture = self._weights(weights)
        with self._lock:
            first = max(self.next_change, self._at[-1])
            at = first if at is None else at
            if at < first:
                raise BadInput(f"position {at} is gone: rows up to {first} are drawn or already have later weights")
            self._note(at, mixture)
            slot = int(self._shared[0]) % RING
            self._ring[slot, 0] = at
            self._ring[slot, 1:] = torch.from_numpy(mixture)
            self._shared[0] += 1
            self._seen = int(self._shared[0])
        self._rewind()
        return at

    def _weights(self, weights: Weights | Mapping[str, float]) -> Weights:
        if isinstance(weights, Mapping):
            return from_names(weights, self.names, "weights")
        if len(weights) != len(self.names):
            raise BadInput(f"weights: {len(weights)} numbers; expected one for each of the {len(self.names)} domains")
        return checked(weights, "weights")

    def _note(self, at: int, mixture: Weights) -> None:
        if self._at[-1] == at:
            self._mixtures[-1] = mixture
        else:
            self._at.append(at)
            self._mixtures.append(mixture)

    def _sync(self) -> None:
        """In a worker: take over what the main process has set since."""
        written = int(self._shared[0])
        if written - self._seen > RING:
            raise BadInput(
                f"a worker is more than {RING} changes of weights behind; change them less often, or use num_workers=0"
            )
        for i in range(self._seen, written):
            row = self._ring[i % RING].numpy().copy()
            self._note(int(row[0]), row[1:])
        self._seen = written

    # ------------------------------------------------------------ picks

    def _new_picker(self, taken: Counts) -> Picker:
        total = None if self.source_budget is None else self.source_budget // self.length
        picker = Picker(
            self.names,
            self.seed,
            order=self.order,
            limits=self._rows.limits(self.max_epochs),
            source=self.corpus.source,
            total_source=total,
        )
        picker.taken = taken.copy()
        return picker

    def _pick(self, picker: Picker, n: int) -> NDArray[np.int64]:
        """The next n picks, each under the weights in force at its position."""
        found = []
        while n > 0:
            k = picker.picked
            i = bisect_right(self._at, k) - 1
            until = self._at[i + 1] - k if i + 1 < len(self._at) else n
            found.append(picker.pick(self._mixtures[i], min(n, until)))
            n -= len(found[-1])
        return found[0] if len(found) == 1 else np.concatenate(found or [np.empty(0, dtype=np.int64)])

    def _clear(self) -> None:
        """Nothing is picked ahead."""
        self._before = self._picker.taken.copy()
        self._chosen = np.empty(0, dtype=np.int64)
        self._tokens = torch.empty(0, self.length + 1, dtype=torch.int64)
        self._domains = torch.empty(0, dtype=torch.int64)
        self._handed = 0

    def _rewind(self) -> None:
        """Give back what was picked and not read."""
        read = self._chosen[: self._handed * self.world_size]
        self._picker.taken = self._before + np.bincount(read, minlength=len(self.names))
        self._clear()

    def _fill(self, rows: int) -> None:
        """Pick for the next `rows` rows of this rank, and gather them."""
        self._clear()
        self._chosen, mine, numbers = self._share(rows)
        self._tokens = torch.from_numpy(self._rows.at(mine, numbers))
        self._domains = torch.from_numpy(mine)

    def _share(self, rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The next world_size · rows picks (fewer where text ends): all domains, this rank's domains, and their row numbers there."""
        before = self._picker.taken.copy()
        first = self._picker.picked
        chosen = self._pick(self._picker, max(min(rows * self.world_size, self._picker.left()), 1))
        own = slice((self.rank - first) % self.world_size, None, self.world_size)
        numbers = before[chosen] + occurrences(chosen, len(before))
        return chosen, chosen[own], numbers[own]

    # ------------------------------------------------------------ rows

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        return self._alone() if info is None else self._as_worker(info.id, info.num_workers)

    def _alone(self) -> Iterator[Any]:
        while True:
            while self._handed >= len(self._tokens):
                self._fill(self._block)
            self._handed += 1
            yield self._row(self._tokens[self._handed - 1], self._domains[self._handed - 1])

    def _row(self, row: Tensor, domain: Tensor) -> Any:
        if self.pairs:
            return row[:-1], row[1:]
        return {"input_ids": row[:-1], "labels": row[:-1].clone(), "domain": domain}

    def draw(self, n: int) -> dict[str, Tensor]:
        """The next n rows of this rank at once: tokens [n, length + 1], domain [n]. What a loop of one's own uses in a loader's place."""
        tokens, domains = [], []
        while n > 0:
            while self._handed >= len(self._tokens):
                self._fill(max(self._block, n))
            taking = min(n, len(self._tokens) - self._handed)
            tokens.append(self._tokens[self._handed : self._handed + taking])
            domains.append(self._domains[self._handed : self._handed + taking])
            self._handed += taking
            n -= taking
        return {"tokens": torch.cat(tokens), "domain": torch.cat(domains)}

    def _as_worker(self, worker: int, workers: int) -> Iterator[Any]:
        """Worker w of W: of this rank's rows, those of every W-th batch. All workers make all picks, in claims of the same length."""
        self._rewind()
        rows = self.batch_size * workers * -(-16 // self.batch_size)
        mine = (np.arange(rows) // self.batch_size) % workers == worker
        while True:
            with self._lock:
                self._sync()
                self._shared[1] = max(int(self._shared[1]), self._picker.picked + rows * self.world_size)
            _, domains, numbers = self._share(rows)
            here = mine[: len(domains)]
            tokens = torch.from_numpy(self._rows.at(domains[here], numbers[here]))
            for row, domain in zip(tokens, torch.from_numpy(domains[here]), strict=True):
                yield self._row(row, domain)

    # ------------------------------------------------------------ state

    @property
    def changes(self) -> list[tuple[int, dict[str, float]]]:
        """Every (position, weights) that was set, the first at the beginning."""
        return [
            (at, dict(zip(self.names, map(float, weights), strict=True)))
            for at, weights in zip(self._at, self._mixtures, strict=True)
        ]

    def set_changes(self, changes: list[Any]) -> None:
        """Take over the changes of an earlier run, `changes` as it was there. For a loader that replays what was read (as
        transformers.Trainer does when it resumes): the position stays. Raises BadInput for what are no changes."""
        try:
            at = [int(position) for position, _ in changes]
            mixtures = [self._weights(weights) for _, weights in changes]
        except (TypeError, ValueError):
            raise BadInput("state: changes: expected a list of [position, weights]") from None
        if not at or sorted(set(at)) != at:
            raise BadInput("state: changes: expected positions that grow")
        self._at, self._mixtures = at, mixtures
        self._rewind()

    def taken_at(self, position: int) -> Counts:
        """Rows that each domain had given, [D], after `position` rows of the global sequence. Raises BadInput for one not yet drawn."""
        if position > self.next_change or position < int(self._anchor.sum()):
            raise BadInput(
                f"position {position}: this run has drawn rows {int(self._anchor.sum())} to {self.next_change}"
            )
        if position < int(self._shadow.sum()):
            self._shadow = self._anchor
        picker = self._new_picker(self._shadow)
        while (n := position - picker.picked) > 0:
            self._pick(picker, min(n, 1 << 20))
        self._shadow = picker.taken
        return self._shadow.copy()

    def state_dict(self, position: int | None = None) -> dict[str, Any]:
        """What goes into a checkpoint, plain JSON: the state after `position` rows of the global sequence have been consumed, by default
        after those read. Changes that are set for later positions are in it. Raises BadInput where workers read and no position is given."""
        if position is None:
            if int(self._shared[1]) > self.position:
                raise BadInput(
                    "state_dict: workers draw ahead; name the rows consumed over all ranks, state_dict(position=N)"
                )
            position = self.position
        first = bisect_right(self._at, position) - 1
        return {
            "schema": SCHEMA, "seed": self.seed, "length": self.length, "order": self.order, "position": position,
            "taken": dict(zip(self.names, map(int, self.taken_at(position)), strict=True)),
            "changes": [list(one) for one in self.changes[max(first, 0) :]],
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there, with any world size. Not while workers run. Raises BadInput for the state of another run."""
        own = {"schema": SCHEMA, "seed": self.seed, "length": self.length, "order": self.order}
        for name, value in own.items():
            if state.get(name) != value:
                raise BadInput(f"state: {name}: {state.get(name)!r}; this dataset has {value!r}")
        taken = state.get("taken")
        if not isinstance(taken, Mapping) or set(taken) != set(self.names):
            raise BadInput(f"state: taken: expected a count for each of {', '.join(self.names)}")
        self.set_changes(state.get("changes") or [])
        self._picker.taken = np.array([int(taken[name]) for name in self.names], dtype=np.int64)
        self._anchor = self._shadow = self._picker.taken.copy()
        self._shared[1] = 0
        self._clear()

    def __getstate__(self) -> dict[str, Any]:
        """For a worker that is spawned: memory maps are opened anew there, the lock and the shared numbers stay shared. A copy made
        for another purpose has its own."""
        found = {name: value for name, value in self.__dict__.items() if name != "_rows"}
        if get_spawning_popen() is None:
            return {
                **found,
                "_lock": None,
                "_spawns": False,
                "_ring": self._ring.clone(),
                "_shared": self._shared.clone(),
            }
        if not self._spawns:  # a lock made for forks may not be handed to a spawned process
            self._lock, self._spawns = multiprocessing.get_context("spawn").RLock(), True
        return {**found, "_lock": self._lock}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._rows = Rows(self.corpus, self.length, key_of(self.seed, "rows"))
        if self._lock is None:
            self._lock = multiprocessing.RLock()
            self._ring, self._shared = self._ring.share_memory_(), self._shared.share_memory_()
