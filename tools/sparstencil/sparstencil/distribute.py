"""`torchrun … sparstencil run --decomp 2x1`: the grid in blocks, a process each.

Every `fuse` steps (1 by default) neighbours exchange a halo as deep as the stencil reaches in so many steps; between
exchanges the known halo shrinks by a step's reach at a time. While messages travel, the points that need none of them make
their first step. A point's arithmetic is that of the single process, and the result the same bit for bit.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sparstencil import fuse, runs, stepping
from sparstencil.boundary import INSIDE, Boundary, sources_of
from sparstencil.stencil import Stencil
from tenfold_shared import BadInput, Missing, TenfoldError

Slices = tuple[slice, ...]


@dataclass
class Block:
    """One rank's part. first, last: the places of the grid it owns along each axis; at: its place among the ranks."""

    shape: tuple[int, ...]
    ranks: tuple[int, ...]
    rank: int
    stencil: Stencil
    boundary: Boundary
    step: fuse.Step
    exchanged: int = 0  # messages sent, for tests
    early: int = 0  # points that made a step while messages travelled
    at: tuple[int, ...] = field(init=False)
    first: tuple[int, ...] = field(init=False)
    last: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.at = tuple(int(i) for i in np.unravel_index(self.rank, self.ranks))
        cuts = [[n * i // count for i in range(count + 1)] for n, count in zip(self.shape, self.ranks, strict=True)]
        self.first = tuple(cut[i] for cut, i in zip(cuts, self.at, strict=True))
        self.last = tuple(cut[i + 1] for cut, i in zip(cuts, self.at, strict=True))

    def own(self, grid: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(grid[tuple(slice(a, b) for a, b in zip(self.first, self.last, strict=True))])

    def check(self, depth: int, steps: int) -> None:
        """Raises BadInput where a block is, or with `valid` becomes in so many steps, thinner than a halo of `depth` of them."""
        for axis, (n, count) in enumerate(zip(self.shape, self.ranks, strict=True)):
            reach = max(self.stencil.hi[axis], -self.stencil.lo[axis])
            thin = n // count - (max(0, steps - depth) * reach if self.boundary.rules[axis] == "valid" else 0)
            # At the grid's own edges a block stands for the grid: mirror needs a point more than it reaches, and where nothing
            # beyond is read, one point is left to be computed.
            least = depth * reach + (self.boundary.rules[axis] in ("mirror", "fixed", "valid"))
            if count > 1 and thin < least:
                raise BadInput(
                    f"--decomp: blocks of {thin} points along axis {axis}; {depth} steps that reach {reach} points each need "
                    f"{least}; use fewer ranks or a smaller --fuse"
                )

    # ------------------------------------------------------------ halos

    def _neighbour(self, axis: int, side: int) -> bool:
        """Whether another rank's points, or our own around the torus, lie beyond a side of a cut axis."""
        inside = 0 <= self.at[axis] + side < self.ranks[axis]
        return self.ranks[axis] > 1 and (inside or self.boundary.rules[axis] == "wrap")

    def _directions(self) -> Iterator[tuple[int, ...]]:
        for way in itertools.product((-1, 0, 1), repeat=len(self.ranks)):
            if any(way) and all(side == 0 or self._neighbour(axis, side) for axis, side in enumerate(way)):
                yield way

    def _rank_at(self, way: tuple[int, ...]) -> int:
        place = [(i + d) % n for i, d, n in zip(self.at, way, self.ranks, strict=True)]
        return int(np.ravel_multi_index(place, self.ranks))

    def _depths(self, steps: int) -> list[tuple[int, int]]:
        """Halo before and after along each axis."""
        return [
            (
                -steps * low if self._neighbour(axis, -1) else 0,
                steps * high if self._neighbour(axis, 1) else 0,
            )
            for axis, (low, high) in enumerate(zip(self.stencil.lo, self.stencil.hi, strict=True))
        ]  # fmt: skip

    def start(self, state: np.ndarray, steps: int) -> tuple[np.ndarray, list[Any]]:
        """The block with room for its halos, and what is still on its way."""
        import torch
        import torch.distributed as dist

        depths = self._depths(steps)
        wide = np.empty([n + a + b for n, (a, b) in zip(state.shape, depths, strict=True)], dtype=state.dtype)
        wide[tuple(slice(a, a + n) for n, (a, _) in zip(state.shape, depths, strict=True))] = state
        pending: list[Any] = []
        for way in self._directions():
            give: list[slice] = []
            take: list[slice] = []
            for axis, (side, n, (before, after)) in enumerate(zip(way, state.shape, depths, strict=True)):
                low, high = -steps * self.stencil.lo[axis], steps * self.stencil.hi[axis]
                give.append(slice(n - low, n) if side > 0 else slice(0, high) if side < 0 else slice(0, n))
                take.append(
                    slice(before + n, before + n + after)
                    if side > 0
                    else slice(0, before)
                    if side < 0
                    else slice(before, before + n)
                )
            other = self._rank_at(way)
            tag = sum((side + 1) * 3**axis for axis, side in enumerate(way))
            back = sum((1 - side) * 3**axis for axis, side in enumerate(way))
            out = torch.from_numpy(np.ascontiguousarray(state[tuple(give)]))
            into = torch.empty([s.stop - s.start for s in take], dtype=out.dtype)
            if out.numel():
                pending.append((dist.isend(out, other, tag=tag), None, None, out))
                self.exchanged += 1
            if into.numel():
                pending.append((dist.irecv(into, other, tag=back), tuple(take), into, None))
        return wide, pending

    # ------------------------------------------------------------ steps

    def advance(self, state: np.ndarray, steps: int, depth: int) -> np.ndarray:
        """`steps` steps, `depth` of them to an exchange."""
        done = 0
        while done < steps:
            count = min(depth, steps - done)
            state = self._together(state, count, done)
            done += count
        return state

    def _together(self, state: np.ndarray, steps: int, done: int) -> np.ndarray:
        wide, pending = self.start(state, steps)
        depths = self._depths(steps)
        inner = self._inner(state) if pending else None
        for handle, where, into, _ in pending:
            handle.wait()
            if where is not None:
                wide[where] = into.numpy()
        for at in range(steps):
            wide = self._one(wide, depths, inner if at == 0 else None, done + at)
            depths = [
                (before + low if before else 0, after - high if after else 0)
                for (before, after), low, high in zip(depths, self.stencil.lo, self.stencil.hi, strict=True)
            ]
        return wide

    def _inner(self, state: np.ndarray) -> np.ndarray | None:
        """A step of the points that look at no other rank's, or None where there are none."""
        reach = [high - low for low, high in zip(self.stencil.lo, self.stencil.hi, strict=True)]
        if any(n <= r for n, r in zip(state.shape, reach, strict=True)):
            return None
        out = self.step(state, 1, Boundary.parse("valid", state.ndim))
        self.early += out.size
        return out

    def _one(self, wide: np.ndarray, depths: list[tuple[int, int]], inner: np.ndarray | None, done: int) -> np.ndarray:
        """One step of a block with halos: where a side is the grid's own, its rule; else the halo is used up by a step."""
        lo, hi = self.stencil.lo, self.stencil.hi
        padded, kept = wide, []
        for axis, (before, after) in enumerate(depths):
            rule, n = self.boundary.rules[axis], padded.shape[axis]
            low = 0 if before else -lo[axis]
            high = 0 if after else hi[axis]
            if rule in INSIDE:
                kept.append((low if rule == "fixed" else 0, high if rule == "fixed" else 0))
                continue
            kept.append((0, 0))
            if low or high:
                table = sources_of(rule, np.arange(-low, n + high), n)
                padded = padded.take(table.clip(0), axis=axis)
                if rule == "constant" and (table < 0).any():
                    where: list[Any] = [slice(None)] * padded.ndim
                    where[axis] = table < 0
                    padded[tuple(where)] = self.boundary.value
        out = self._valid(padded, wide, depths, inner)
        if any(a or b for a, b in kept):
            # The frozen ring: as it was, cut as the step has cut the other sides.
            cut = [
                slice(-lo[axis] if before else 0, wide.shape[axis] - (hi[axis] if after else 0))
                for axis, (before, after) in enumerate(depths)
            ]
            whole = wide[tuple(cut)].astype(out.dtype)
            whole[tuple(slice(a, n - b) for n, (a, b) in zip(whole.shape, kept, strict=True))] = out
            return whole
        return out

    def _valid(
        self, padded: np.ndarray, wide: np.ndarray, depths: list[tuple[int, int]], inner: np.ndarray | None
    ) -> np.ndarray:
        """The step of everything that `padded` has room for; what `inner` has already is not made again."""
        rule = Boundary.parse("valid", padded.ndim)
        if inner is None:
            return self.step(np.ascontiguousarray(padded), 1, rule)
        lo, hi = self.stencil.lo, self.stencil.hi
        size = [n + low - high for n, low, high in zip(padded.shape, lo, hi, strict=True)]
        # Where the early points stand in the result: a step's reach inside the block, which stands behind its halo, or
        # behind what the rule has put before it.
        begin = []
        for axis, (before, _) in enumerate(depths):
            added = 0 if before or self.boundary.rules[axis] in INSIDE else -lo[axis]
            begin.append(before + added)
        out = np.empty(size, dtype=inner.dtype)  # counts of 8 bits become wider
        box = [(b, b + n) for b, n in zip(begin, inner.shape, strict=True)]
        out[tuple(slice(a, b) for a, b in box)] = inner
        for slab in _around(size, box):
            need = tuple(slice(s.start, s.stop + high - low) for s, low, high in zip(slab, lo, hi, strict=True))
            out[slab] = self.step(np.ascontiguousarray(padded[need]), 1, rule)
        return out


def _around(size: list[int], box: list[tuple[int, int]]) -> Iterator[Slices]:
    """The rest of an array around a box, in slabs that do not overlap."""
    limits = [(0, n) for n in size]
    for axis, (a, b) in enumerate(box):
        for low, high in ((0, a), (b, size[axis])):
            if high > low:
                yield tuple(slice(low, high) if i == axis else slice(*limits[i]) for i in range(len(size)))
        limits[axis] = (a, b)


# ---------------------------------------------------------------- the verb under torchrun


def run(decomp: tuple[int, ...], **given: Any) -> int:
    """The verb; rank 0 says what is said and writes the result."""
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ):
        raise BadInput(f"--decomp: start with torchrun --nproc-per-node {math.prod(decomp)} -m sparstencil run …")
    try:
        import torch.distributed as dist
    except ImportError as error:
        raise Missing("torch is not installed: pip install torch") from error
    dist.init_process_group("gloo")
    try:
        rank = dist.get_rank()
        with ExitStack() as held:
            job, problem, wanted = None, None, True
            try:
                job = _prepared(decomp, dist.get_world_size(), **given)
                if rank == 0:
                    runs.tell(job)
                    wanted = held.enter_context(runs.claimed(job))
            except TenfoldError as error:
                problem = error
            if (code := _agreed(problem, wanted)) is not None:
                return code
            assert job is not None
            _made(job, decomp)
    finally:
        dist.destroy_process_group()
    return 0


def _prepared(decomp: tuple[int, ...], world: int, **given: Any) -> runs.Job:
    job = runs.prepared(**given)
    text, ndim = "x".join(map(str, decomp)), job.stencil.ndim
    if job.batch:
        raise BadInput(f"--decomp {text}: a batch is not cut into blocks; run its grids one by one")
    if len(decomp) != ndim or min(decomp) < 1:
        raise BadInput(f"--decomp {text}: expected {ndim} numbers of at least 1, one an axis")
    if math.prod(decomp) != world:
        raise BadInput(f"--decomp {text}: makes {math.prod(decomp)} blocks for {world} ranks")
    step = stepping.stepper(job.stencil, replace(job.how, fuse=None), job.chosen)
    Block(job.values.shape, decomp, 0, job.stencil, job.how.boundary, step).check(job.how.fuse or 1, job.how.steps)
    return job


def _agreed(problem: TenfoldError | None, wanted: bool) -> int | None:
    """None where all ranks can go on; else the exit code of all. Rank 0 raises the problem of the first that has one."""
    import torch.distributed as dist

    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, ((problem.code, str(problem)) if problem else None, wanted))
    first = next((rank for rank, (its, _) in enumerate(told) if its), None)
    if first is None:
        return None if told[0][1] else 0
    code, text = told[first][0]
    if dist.get_rank() > 0:
        return int(code)
    if problem is not None:
        raise problem
    raise (Missing if code == Missing.code else BadInput)(f"rank {first}: {text}")


def _made(job: runs.Job, decomp: tuple[int, ...]) -> None:
    """The steps, and on rank 0 the checkpoints and the result."""
    import torch.distributed as dist

    from tenfold_shared.progress import Progress

    how, chosen, rank, depth = job.how, job.chosen, dist.get_rank(), job.how.fuse or 1
    quietly = job if rank == 0 else replace(job, quiet=True)
    state, before = runs.begun(quietly)
    # The steps between exchanges are made one by one: what is fused is the exchange.
    step = stepping.stepper(job.stencil, replace(how, fuse=None), chosen)
    block = Block(state.shape, decomp, rank, job.stencil, how.boundary, step)
    started, clock, taken = time.time(), time.perf_counter(), before
    mine, whole = stepping.working(block.own(state), chosen.mode), None
    with Progress("run", how.steps, "steps", quietly.quiet or job.every is None) as progress:
        progress.update(before)
        while True:
            count = min(job.every or how.steps, how.steps - taken)
            mine = block.advance(mine, count, depth)
            taken += count
            whole = gathered(mine, block, dist.get_world_size())
            progress.update(count)
            if taken == how.steps:
                break
            if whole is not None and (checkpoint := job.checkpoint) is not None:
                checkpoint.save(whole, taken)
    if whole is not None:
        seconds = time.perf_counter() - clock
        out = stepping.finished(whole, job.values.dtype, chosen.mode)
        runs.finish(job, out, runs.recorded(job, out, started, seconds, before, decomp))


def gathered(mine: np.ndarray, block: Block, world: int) -> np.ndarray | None:
    """The whole grid on rank 0, None elsewhere."""
    import torch.distributed as dist

    parts: list[Any] | None = [None] * world if block.rank == 0 else None
    dist.gather_object(mine, parts)
    if parts is None:
        return None
    whole = np.empty(block.ranks, dtype=object)
    for rank, part in enumerate(parts):
        whole[np.unravel_index(rank, block.ranks)] = part
    return np.block(whole.tolist())
