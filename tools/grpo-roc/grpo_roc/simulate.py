"""`grpo-roc simulate`: how long a step's rollouts take under each admission policy, on engines that are modelled.

An engine decodes all its trajectories at once, each at r(b) / b tokens a second where b decode; prefill stops it for tokens / prefill rate. A trajectory decodes a segment, waits for its tools, has what they say prefilled, and
so on. Its cache is whole blocks; the whole blocks of a prompt are there once for those of its group that are there. An engine admits by arrival what fits as it is. Where the cache is full at the next token, it
drops what waits for tools, longest waiting first, then preempts what began its turn last; what was dropped comes back by its first arrival and is computed anew.

`turns` is no admission: trajectories are dealt out anew each turn, all wait for the last to end its turn, and tools run one after another, as in TRL's loop; its prefill is free here.

Where it sits: scheduler.py decides what goes where; traces.py has what is played; here are engines, a clock and the verb.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from grpo_roc import scheduler
from grpo_roc.scheduler import Admission, Trajectory, blocks_of
from grpo_roc.traces import MOST, Segment, Trace, generate, read, record_of
from tenfold_shared import BadInput
from tenfold_shared.cli import Selection
from tenfold_shared.jsonl import read_text, write_atomic
from tenfold_shared.progress import Progress
from tenfold_shared.records import readable

Record = dict[str, Any]
Rate = Callable[[int], float]
Policy = scheduler.Name | Literal["turns"]
POLICIES: tuple[Policy, ...] = (*scheduler.POLICIES, "turns")
NEAR = 1e-6  # tokens: a float that is this near to a whole one is it


class Model(msgspec.Struct, frozen=True):
    """What engines are like. rate: tokens a second, all together, of b that decode at once, b >= 1; blocks: of the cache; block: tokens; prefill: tokens a second."""

    rate: Rate
    blocks: int
    block: int = 16
    prefill: float = 10_000.0


class Result(msgspec.Struct):
    """Of one policy. busy, peak: of each engine, shares of the time and of the cache; running: the most that decoded at once on one; sent: (seconds, id, engine); ends: seconds at which each was through."""

    policy: str
    makespan_s: float
    busy: list[float]
    peak: list[float]
    running: int
    preemptions: int
    dropped_in_tools: int
    prefilled_tokens: int
    recomputed_tokens: int
    sent: list[tuple[float, str, int]]
    ends: dict[str, float]


# ---------------------------------------------------------------- an engine


class _Stream:
    """A trajectory's state. context: tokens at the start of what it does now, its prompt's among them; left: to be decoded in this segment; computed: of the context, tokens that have been computed
    before; since, until: the engine's progress where its decoding began and will end; shift + progress: tokens of its own while it decodes; full: its own blocks when the segment ends; cached: they are
    there."""

    __slots__ = ("arrival", "cached", "computed", "context", "full", "left", "own_from", "segment", "shift", "since", "trace", "until")  # fmt: skip

    def __init__(self, trace: Trace, block: int) -> None:
        self.trace, self.context, self.segment, self.left = trace, trace.prompt, 0, trace.segments[0].decode
        self.own_from = trace.prompt // block * block if trace.group is not None else 0  # tokens before are the group's
        self.computed = self.arrival = self.full = 0
        self.since = self.until = self.shift = 0.0
        self.cached = False


class _Engine:
    """progress: tokens that a trajectory would have decoded, had it been there from the start; ready: when it is through with its prefill."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.decoding: dict[str, _Stream] = {}  # in the order in which they began their turns
        self.in_tools: dict[str, _Stream] = {}  # those that are cached, longest waiting first
        self.waiting: list[tuple[int, _Stream]] = []
        self.groups: dict[str, int] = {}
        self.prompts = 0  # blocks of the groups' prompts
        self.at = self.ready = self.busy = 0.0
        self.progress = 0.0
        self.version = self.arrivals = self.peak = self.running = 0
        self.preempted = self.dropped = self.prefilled = self.recomputed = 0

    # ---- time

    def advance(self, now: float) -> None:
        if self.decoding:
            b = len(self.decoding)
            self.progress += self.model.rate(b) / b * max(0.0, now - max(self.at, self.ready))
            self.busy += now - self.at
        self.at = now

    def used(self) -> int:
        """Blocks that are there, or are needed for the next token."""
        found, block, progress = self.prompts, self.model.block, self.progress
        for one in self.decoding.values():
            now = (one.shift + progress) // block + 1
            found += int(now) if now < one.full else one.full
        return found + sum(blocks_of(one.context - one.own_from, block) for one in self.in_tools.values())

    def coming(self, used: int) -> tuple[float, float] | None:
        """(seconds, progress) of what comes next here: a segment ends, or a block is needed that there is not. used: as `used` says."""
        if not self.decoding:
            return None
        b, block = len(self.decoding), self.model.block
        ahead = max(0.0, min(one.until for one in self.decoding.values()) - self.progress)
        free = self.model.blocks - used
        if b * (ahead / block + 1) > free:
            gaps = sorted(block - (one.shift + self.progress) % block + NEAR for one in self.decoding.values())
            full = free // b * block + gaps[free % b]  # as many as are free come before it
            if full < ahead - NEAR:
                ahead = full
        if ahead <= NEAR:  # what is through does not wait for prefill that came at this instant
            return self.at, self.progress + ahead
        return max(self.at, self.ready) + ahead * b / self.model.rate(b), self.progress + ahead

    # ---- what is there

    def _enter(self, one: _Stream) -> None:
        """Compute what is not cached, and decode."""
        cached = one.context
        if not one.cached:
            cached = 0
            group = one.trace.group
            if group is not None:
                if self.groups.get(group):
                    cached = one.own_from
                else:
                    self.prompts += one.own_from // self.model.block
                self.groups[group] = self.groups.get(group, 0) + 1
            one.cached = True
        self._compute(one.context - cached, max(0, one.computed - cached))
        one.computed = one.context
        one.since, one.until = self.progress, self.progress + one.left
        own = one.context - one.own_from
        one.shift, one.full = own - self.progress + NEAR, blocks_of(own + one.left, self.model.block)
        self.decoding[one.trace.id] = one
        self.running = max(self.running, len(self.decoding))

    def _compute(self, tokens: int, again: int) -> None:
        self.prefilled += tokens
        self.recomputed += again
        self.ready = max(self.ready, self.at) + tokens / self.model.prefill

    def arrive(self, one: _Stream) -> None:
        self.arrivals += 1
        one.arrival = self.arrivals
        self.queue(one)

    def queue(self, one: _Stream) -> None:
        heapq.heappush(self.waiting, (one.arrival, one))

    def admit(self) -> None:
        """By arrival, what fits as it is now."""
        used = self.used() if self.waiting else 0
        while self.waiting:
            one = self.waiting[0][1]
            needed = (one.context - one.own_from) // self.model.block + 1
            if one.trace.group is not None and not self.groups.get(one.trace.group):
                needed += one.own_from // self.model.block
            used += needed
            if used > self.model.blocks:
                return
            heapq.heappop(self.waiting)
            self._enter(one)

    def resume(self, one: _Stream) -> None:
        """Its tools are through, and its cache is there."""
        read = one.trace.segments[one.segment - 1].tool_tokens
        del self.in_tools[one.trace.id]
        one.context += read
        self._compute(read, 0)
        self._enter(one)

    def fit(self) -> None:
        """Drop and preempt until what is needed is there."""
        while self.used() > self.model.blocks:
            if self.in_tools:
                self.drop(next(iter(self.in_tools.values())))
                self.dropped += 1
                continue
            one = self.decoding[next(reversed(self.decoding))]
            done = int(self.progress - one.since + NEAR)
            del self.decoding[one.trace.id]
            one.context += done
            one.left -= done
            one.computed = one.context
            self.free(one)
            self.preempted += 1
            self.queue(one)

    def drop(self, one: _Stream) -> None:
        """What is cached of one that waits for its tools."""
        del self.in_tools[one.trace.id]
        self.free(one)

    def free(self, one: _Stream) -> None:
        one.cached = False
        group = one.trace.group
        if group is not None:
            self.groups[group] -= 1
            if not self.groups[group]:
                del self.groups[group]
                self.prompts -= one.own_from // self.model.block


# ---------------------------------------------------------------- a step


class _Step:
    """One run of all trajectories. Events are (seconds, order, what, of what, what makes it void)."""

    def __init__(self, traces: Sequence[Trace], engines: int, model: Model, settings: scheduler.Settings, release_after: float | None) -> None:  # fmt: skip
        self.model, self.settings = model, settings
        self.release_after = release_after if settings.policy.startswith("kv") else None  # the others promise no places
        self.engines = [_Engine(model) for _ in range(engines)]
        self.streams = {one.id: _Stream(one, model.block) for one in traces}
        self.admission = Admission([model.blocks] * engines, settings)
        for one in traces:
            self.admission.submit(Trajectory(one.id, one.prompt, one.group))
        self.now = 0.0
        self.events: list[tuple[float, int, str, Any, Any]] = []
        self.order = 0
        self.at: dict[str, int] = {}
        self.released: set[str] = set()
        self.sent: list[tuple[float, str, int]] = []
        self.ends: dict[str, float] = {}

    def push(self, when: float, what: str, of: Any, void: Any) -> None:
        self.order += 1
        heapq.heappush(self.events, (when, self.order, what, of, void))

    def run(self) -> Result:
        self.settle(set())
        while self.events:
            when, _, what, of, void = heapq.heappop(self.events)
            if what == "engine" and self.engines[of].version != void[0]:
                continue
            self.now = when
            index = of if what == "engine" else self.at[of]
            engine = self.engines[index]
            engine.advance(when)
            if what == "engine":
                engine.progress = void[1]
                engine.peak = max(engine.peak, min(engine.used(), engine.model.blocks))
                for one in [one for one in engine.decoding.values() if one.until <= engine.progress + NEAR]:
                    self.turn_ends(engine, one)
            elif what == "tools":
                self.tools_end(engine, self.streams[of])
            else:
                self.give_up(engine, self.streams[of])
            self.settle({index})
        assert len(self.ends) == len(self.streams), "a trajectory has not ended"
        return self.result()

    def turn_ends(self, engine: _Engine, one: _Stream) -> None:
        id, segment = one.trace.id, one.trace.segments[one.segment]
        del engine.decoding[id]
        one.context += one.left
        one.computed = one.context
        one.segment += 1
        last = one.segment == len(one.trace.segments)
        self.admission.grew(id, one.context - one.trace.prompt)
        if last and not segment.tool_s:
            self.end(engine, one)
            return
        one.left = 0 if last else one.trace.segments[one.segment].decode
        engine.in_tools[id] = one
        self.push(self.now + segment.tool_s, "tools", id, None)
        if self.release_after is not None and segment.tool_s > self.release_after and not last:
            self.push(self.now + self.release_after, "release", id, None)

    def give_up(self, engine: _Engine, one: _Stream) -> None:
        """Its place, as its tools take long."""
        if one.cached:
            engine.drop(one)
        self.released.add(one.trace.id)
        self.admission.release(one.trace.id)

    def tools_end(self, engine: _Engine, one: _Stream) -> None:
        id = one.trace.id
        if one.segment == len(one.trace.segments):
            engine.in_tools.pop(id, None)
            self.end(engine, one)
            return
        if one.cached:
            engine.resume(one)
        else:
            one.context += one.trace.segments[one.segment - 1].tool_tokens
            if id in self.released:
                self.released.remove(id)
                self.admission.back(id)
                return
            engine.queue(one)
        self.admission.grew(id, one.context - one.trace.prompt)

    def end(self, engine: _Engine, one: _Stream) -> None:
        if one.cached:
            engine.free(one)
        assert one.trace.id not in self.ends, "a trajectory has ended twice"
        self.ends[one.trace.id] = self.now
        self.admission.ended(one.trace.id)

    def settle(self, touched: set[int]) -> None:
        """Make room, admit, send, and say what comes next on the engines where something has changed."""
        for index in touched:
            self.engines[index].fit()
            self.engines[index].admit()
        arrived = set()
        if self.admission.waiting:
            for id, index in self.admission.next({index: self.engines[index].used() for index in touched}):
                engine, one = self.engines[index], self.streams[id]
                engine.advance(self.now)
                engine.arrive(one)
                self.at[id] = index
                self.sent.append((self.now, id, index))
                if one.context > one.trace.prompt:
                    self.admission.grew(id, one.context - one.trace.prompt)
                arrived.add(index)
        for index in sorted(touched | arrived):
            engine = self.engines[index]
            if index in arrived:
                engine.fit()
                engine.admit()
            engine.version += 1
            used = engine.used()
            assert used <= engine.model.blocks, "more is held than there is"
            engine.peak = max(engine.peak, used)
            coming = engine.coming(used)
            if coming is not None:
                self.push(coming[0], "engine", index, (engine.version, coming[1]))

    def result(self) -> Result:
        makespan = max(self.ends.values(), default=0.0)
        return Result(
            policy=self.settings.policy,
            makespan_s=makespan,
            busy=[one.busy / makespan if makespan else 0.0 for one in self.engines],
            peak=[one.peak / one.model.blocks for one in self.engines],
            running=max(one.running for one in self.engines),
            preemptions=sum(one.preempted for one in self.engines),
            dropped_in_tools=sum(one.dropped for one in self.engines),
            prefilled_tokens=sum(one.prefilled for one in self.engines),
            recomputed_tokens=sum(one.recomputed for one in self.engines),
            sent=self.sent,
            ends=self.ends,
        )


def simulate(traces: Sequence[Trace], engines: int, model: Model, settings: scheduler.Settings, release_after: float | None = None) -> Result:  # fmt: skip
    """One step under an admission policy. release_after: seconds of a tool call after which its trajectory's place is given away (kv policies). Raises ValueError where a trajectory is longer than
    settings.most, or fits no engine."""
    return _Step(traces, engines, model, settings, release_after).run()


def in_turns(traces: Sequence[Trace], engines: int, model: Model) -> Result:
    """A step in which nobody begins a turn before all have ended the last one, and tools run one after another. What was said before is prefilled at no cost."""
    free = msgspec.structs.replace(model, prefill=math.inf)
    busy = [0.0] * engines
    total = Result("turns", 0.0, busy, [0.0] * engines, 0, 0, 0, 0, 0, [], {})
    at = {one.id: one.prompt for one in traces}
    for turn in itertools.count():
        left = [one for one in traces if len(one.segments) > turn]
        if not left:
            break
        now = [Trace(one.id, (Segment(one.segments[turn].decode),), at[one.id]) for one in left]
        found = simulate(now, engines, free, scheduler.Settings("static", max(one.length for one in now), model.block))
        for index in range(engines):
            busy[index] += found.busy[index] * found.makespan_s
            total.peak[index] = max(total.peak[index], found.peak[index])
        total.running = max(total.running, found.running)
        total.preemptions += found.preemptions
        total.recomputed_tokens += found.recomputed_tokens
        total.makespan_s += found.makespan_s
        for one in left:
            segment = one.segments[turn]
            total.makespan_s += segment.tool_s
            at[one.id] += segment.decode + segment.tool_tokens
            if len(one.segments) == turn + 1:
                total.ends[one.id] = total.makespan_s
    total.busy = [seconds / total.makespan_s for seconds in busy]
    return total


# ---------------------------------------------------------------- rates and bounds


def saturating(one: float, half: float) -> Rate:
    """r(b) = one b / (1 + b / half) tokens a second: near one a trajectory where few decode, half of the most, one x half, at b = half."""
    return lambda b: one * b / (1 + b / half)


def measured(points: Sequence[tuple[int, float]]) -> Rate:
    """Straight lines between measured (b, tokens a second), ascending in b; in proportion below the first, constant after the last."""
    at, rates = [float(b) for b, _ in points], [r for _, r in points]
    return lambda b: rates[0] * b / at[0] if b < at[0] else float(np.interp(b, at, rates))


def bounds(traces: Sequence[Trace], engines: int, model: Model) -> dict[str, float]:
    """Seconds that no policy can be faster than.

    work     W / (E r(n / E)): all tokens at the rate of n trajectories evenly over E engines, r made concave from above
    longest  of one trajectory alone, with its tools and what is prefilled of what they say
    cache    Each token that is decoded with l tokens of its own before it takes l of the C tokens of a cache: A = sum of l over all tokens. An engine with b decoding does r(b) tokens a second, and at most
             C r(b) / b of A. So for all x, y >= 0 with x r(b) / b + y r(b) <= 1 for all b, E T >= x A / C + y W; the best such x is looked for, and any is a bound.
    """
    n = len(traces)
    b = np.arange(1, max(n, 1) + 1)
    rate = np.array([model.rate(int(k)) for k in b])
    work = sum(one.decoded for one in traces)
    area = 0.0
    for one in traces:
        own = one.prompt % model.block if one.group is not None else one.prompt
        for segment in one.segments:
            area += segment.decode * own + segment.decode**2 / 2
            own += segment.decode + segment.tool_tokens
    speed = rate / b
    shares = np.linspace(0, 1 / speed.max(), 513)
    dual = [x * area / (model.blocks * model.block) + work * ((1 - x * speed) / rate).min() for x in shares]
    alone = (
        one.decoded / speed.max() + sum(s.tool_s + s.tool_tokens / model.prefill for s in one.segments[:-1]) + one.segments[-1].tool_s
        for one in traces
    )  # fmt: skip
    return {
        "work": work / (engines * concave(rate, n / engines)) if n else 0.0,
        "longest": max(alone, default=0.0),
        "cache": max(dual) / engines,
    }


def concave(rate: np.ndarray[Any, Any], at: float) -> float:
    """The least concave function over (0, 0), (1, rate[0]), (2, rate[1]), ..., at a point."""
    hull: list[tuple[float, float]] = [(0.0, 0.0)]
    for b, r in enumerate(rate.tolist(), 1):
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (b - hull[-1][0]) <= (r - hull[-1][1]) * (
            hull[-1][0] - hull[-2][0]
        ):
            hull.pop()
        hull.append((b, r))
    return float(np.interp(at, [x for x, _ in hull], [y for _, y in hull]))


# ---------------------------------------------------------------- the verb


class Options(msgspec.Struct, frozen=True):
    """As on the command line; see there. policies: those asked for."""

    engines: int
    cache_tokens: int
    max_length: int | None = None
    block: int = 16
    policies: tuple[Policy, ...] = POLICIES
    rate_curve: str | None = None
    rate_alone: float = 100.0
    half_batch: float = 32.0
    prefill_rate: float = 10_000.0
    quantile: float = 0.4
    high_water: float = 0.9
    release_after: float | None = None
    tool_seconds: float = 0.3
    history: str | None = None
    generate: int | None = None
    group_size: int = 16
    mean_length: float = 4096.0
    seed: int = 0


def rate_of(options: Options) -> Rate:
    """Raises BadInput."""
    if options.rate_curve is None:
        return saturating(options.rate_alone, options.half_batch)
    where = f"--rate-curve {options.rate_curve}"
    try:
        points = msgspec.json.decode(read_text(options.rate_curve, where), type=list[tuple[int, float]])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{where}: {readable(error)}; expected [[batch, tokens a second], ...]") from None
    batches = [b for b, _ in points]
    if not points or batches != sorted(set(batches)) or batches[0] < 1 or not all(0 < r < math.inf for _, r in points):
        raise BadInput(f"{where}: expected [[batch, tokens a second], ...] with batches ascending from 1 or more, and rates above 0")  # fmt: skip
    return measured(points)


def traces_of(files: Sequence[str], selection: Selection, options: Options) -> list[Trace]:
    if options.generate is not None:
        if files:
            raise BadInput("--generate: makes traces in place of a file; leave out one of them")
        most = options.max_length or MOST
        if options.mean_length >= most:
            raise BadInput(f"--mean-length {options.mean_length:g}: expected less than --max-length {most}")
        made = generate(options.generate, group_size=options.group_size, mean=options.mean_length, most=most, seed=options.seed)  # fmt: skip
        return made if selection.limit is None else made[: selection.limit]
    source = selection.source(files, None)
    found = read(source, options.tool_seconds, source._tolerate)
    return found


def compare(traces: Sequence[Trace], options: Options, seen: Sequence[int], told: Progress | None = None) -> Record:
    """Every policy on the same traces: the verb's JSON. Raises BadInput where a trajectory is too long."""
    most = options.max_length or (max(one.length for one in traces) if options.generate is None else MOST)
    for one in traces:
        if one.length > most:
            raise BadInput(f"--max-length {most}: {one.id} has {one.length} tokens beyond its prompt")
    model = Model(rate_of(options), options.cache_tokens // options.block, options.block, options.prefill_rate)
    longest = max(one.prompt for one in traces) + most
    if blocks_of(longest, model.block) > model.blocks:
        raise BadInput(f"--cache-tokens {options.cache_tokens}: a trajectory takes up to {longest} (prompt and --max-length); an engine must hold one")  # fmt: skip
    least = bounds(traces, options.engines, model)
    bound = max(least["work"], least["longest"])
    rows = []
    for name in options.policies:
        if name == "turns":
            found = in_turns(traces, options.engines, model)
        else:
            settings = scheduler.Settings(name, most, options.block, options.quantile, options.high_water, tuple(seen))
            found = simulate(traces, options.engines, model, settings, options.release_after)
        row = {key: value for key, value in msgspec.to_builtins(found).items() if key not in ("sent", "ends")}
        row |= {"ratio": found.makespan_s / bound, "cache_ratio": found.makespan_s / max(bound, least["cache"])}
        rows.append(row)
        if told is not None:
            told.update()
    return {
        "trajectories": len(traces),
        "groups": len({one.group for one in traces if one.group is not None}),
        "decode_tokens": sum(one.decoded for one in traces),
        "tool_tokens": sum(one.length - one.decoded for one in traces),
        "tool_calls": sum(segment.tool_s > 0 for one in traces for segment in one.segments),
        "longest_tokens": max(one.length for one in traces),
        "max_length": most,
        "engines": options.engines,
        "cache_tokens": model.blocks * model.block,
        "places": scheduler.places(model.blocks, max(one.prompt for one in traces), most, model.block),
        "bounds_s": least,
        "lower_bound_s": bound,
        "policies": rows,
    }


def run(files: Sequence[str], selection: Selection, options: Options, *, write_traces: str | None, as_json: bool, quiet: bool) -> int:  # fmt: skip
    """The verb. Raises BadInput."""
    traces = traces_of(files, selection, options)
    if not traces:
        raise BadInput("input: expected at least one trace, got none")
    if write_traces is not None:
        write_atomic(write_traces, b"".join(msgspec.json.encode(record_of(one)) + b"\n" for one in traces))
    seen: list[int] = []
    if options.history is not None:
        past = Selection(None, None, None, selection.skip_bad).source([options.history], None)
        seen = [one.length for one in read(past, options.tool_seconds, past._tolerate)]
    with Progress("simulate", len(options.policies), "policy", quiet) as bar:
        found = compare(traces, options, seen, bar)
    if as_json:
        print(json.dumps(found))
        return 0
    from rich.table import Table

    from tenfold_shared.cli import print_table

    table = Table(title=f"{found['trajectories']} trajectories, {options.engines} engines of {found['cache_tokens']:,} tokens, K = {found['places']}; no policy can be faster than {found['lower_bound_s']:.1f} s")  # fmt: skip
    for column in ("policy", "makespan s", "x bound", "x bound with caches", "busy least", "busy mean", "peak", "at once", "preemptions", "recomputed tokens"):  # fmt: skip
        table.add_column(column, justify="left" if column == "policy" else "right")
    for row in found["policies"]:
        busy = row["busy"]
        table.add_row(
            row["policy"], f"{row['makespan_s']:.1f}", f"{row['ratio']:.2f}", f"{row['cache_ratio']:.2f}", f"{min(busy):.2f}", f"{sum(busy) / len(busy):.2f}", f"{max(row['peak']):.2f}",
            str(row["running"]), str(row["preemptions"]), f"{row['recomputed_tokens']:,}",
        )  # fmt: skip
    print_table(table)
    return 0
