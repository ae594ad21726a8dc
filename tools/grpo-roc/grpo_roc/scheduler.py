"""Which trajectory goes to which engine, and when: admission by the room that engines have in their KV caches (the paper's section 3.2 and Fig. 7).

    static       trajectories are dealt out up front in equal runs, as they come; an engine queues what it cannot hold
    least        each goes at once to the engine with the fewest in flight
    kv           the paper's: an engine holds at most K = floor(blocks / ceil((prompt + L) / block)) trajectories of at most L tokens; the next one goes out as soon as a place is free
    kv-quantile  as kv, but a place is as long as a quantile of the lengths seen so far
    kv-mean      as kv, but a place is as long as what a trajectory holds on average over its life, sum l^2 / (2 sum l) over the lengths l seen so far

The last two also count a group's prompt once, send first what looks longest, and send nothing to an engine that is filled above a high-water mark, so that those inside can outgrow their places.
A trajectory stays with its engine until it ends: its cache is there. Engines of all policies but kv can fill up, and then preempt, as vLLM and SGLang do.

Where it sits: below the rollout loop, which has engines and a clock, and simulate.py, which has models of them. There is no clock, thread or chance here: a loop tells what happened and sends what
`next` returns. An event costs O(log n) steps for n trajectories, whatever the number of engines.

    admission.submit(Trajectory("p7/0", prompt=312, group="p7"))
    for id, engine in admission.next():        # and again after each of the events below
        start(id, engine)
    admission.grew("p7/0", 1024)               # when a turn has ended, say
    admission.ended("p7/0", 2048)
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec

Name = Literal["static", "least", "kv", "kv-quantile", "kv-mean"]
POLICIES: tuple[Name, ...] = ("static", "least", "kv", "kv-quantile", "kv-mean")


def blocks_of(tokens: int, block: int) -> int:
    """Blocks that hold so many tokens."""
    return -(-tokens // block)


def places(blocks: int, prompt: int, most: int, block: int = 16) -> int:
    """K: how many trajectories, of a prompt and at most `most` tokens more each, a cache holds for certain."""
    return blocks // blocks_of(prompt + most, block)


class Trajectory(msgspec.Struct, frozen=True):
    """What is known before it starts. prompt: tokens; group: of those that share the prompt; expected: tokens, where somebody knows."""

    id: str
    prompt: int = 0
    group: str | None = None
    expected: float | None = None


class Settings(msgspec.Struct, frozen=True):
    """most: L, tokens that a trajectory may add to its prompt, the tools' among them. block: tokens. quantile: of kv-quantile. high_water: share of a cache, of kv-quantile and kv-mean; as are seen, lengths
    from before, such as the last step's; longer ones than most count as most."""

    policy: Name
    most: int
    block: int = 16
    quantile: float = 0.4
    high_water: float = 0.9
    seen: tuple[int, ...] = ()


# ---------------------------------------------------------------- how long a place is


class Most:
    """A place is as long as the longest."""

    def __init__(self, most: int) -> None:
        self.value = most

    def change(self, in_flight: int) -> None:
        """So many more are in flight."""

    def add(self, length: int) -> None:
        """One has ended."""


class Quantile:
    """The ceil(q n)-th smallest of n lengths, those in flight counted as `most`: the short ones end first, and what has ended alone would look short. O(log n) an event: lengths are in two
    heaps, those up to the one asked for and those above."""

    def __init__(self, most: int, q: float, seen: Sequence[int] = ()) -> None:
        self.q, self.most, self.in_flight = q, most, 0
        self._low: list[int] = []  # negated: the largest on top
        self._high: list[int] = []
        for length in seen:
            self.add(length)

    def change(self, in_flight: int) -> None:
        self.in_flight += in_flight
        self._balance()

    def add(self, length: int) -> None:
        heapq.heappush(self._high, -heapq.heappushpop(self._low, -length))
        self._balance()

    def _rank(self) -> int:
        return math.ceil(self.q * (len(self._low) + len(self._high) + self.in_flight) - 1e-9)

    def _balance(self) -> None:
        rank = self._rank()
        while self._high and len(self._low) < rank:
            heapq.heappush(self._low, -heapq.heappop(self._high))
        while len(self._low) > rank:
            heapq.heappush(self._high, -heapq.heappop(self._low))

    @property
    def value(self) -> int:
        return min(self.most, -self._low[0]) if 0 < self._rank() <= len(self._low) else self.most


class Mean:
    """What a trajectory holds on average while it grows steadily from 0 to its length, over those that are there at a random moment: E[l^2] / (2 E[l]). Those in flight count as `most`."""

    def __init__(self, most: int, seen: Sequence[int] = ()) -> None:
        self.most, self.in_flight = most, 0
        self._sum, self._squares = sum(seen), sum(length * length for length in seen)

    def change(self, in_flight: int) -> None:
        self.in_flight += in_flight

    def add(self, length: int) -> None:
        self._sum += length
        self._squares += length * length

    @property
    def value(self) -> int:
        if not self._sum:
            return self.most
        total = self._sum + self.in_flight * self.most
        return min(self.most, math.ceil((self._squares + self.in_flight * self.most**2) / (2 * total)))


# ---------------------------------------------------------------- who is next


class _Fifo:
    """In the order of submission."""

    def __init__(self) -> None:
        self._waiting: deque[Trajectory] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Trajectory]:
        return iter(self._waiting)

    def push(self, one: Trajectory) -> None:
        self._waiting.append(one)

    def peek(self) -> Trajectory:
        return self._waiting[0]

    def pop(self) -> Trajectory:
        return self._waiting.popleft()

    def news(self, name: str | None, flying: int = 0, tokens: int = 0, ended: int = 0, through: int = 0) -> None:
        """Nothing hangs on it here."""


class _Group(msgspec.Struct):
    """flying, tokens: its trajectories in flight and what they have so far; ended, through: those that have ended and their tokens; version: of its one valid entry in the heap."""

    waiting: deque[Trajectory]
    order: int
    flying: int = 0
    tokens: int = 0
    ended: int = 0
    through: int = 0
    version: int = 0


class _Longest:
    """From the group whose trajectories look longest, and of equals from that of which fewest have been sent; in a group in the order of submission.

    With m the mean of all that have ended, a group's mean is taken to be (tokens of its ended + max(tokens of those in flight, m for each) + m) / (sent + 1): drawn towards m by one observation. Those in
    flight are not left out, or a group of which only the short ones are through would look short.
    """

    def __init__(self, seen: Sequence[int]) -> None:
        self._groups: dict[str | None, _Group] = {}
        self._heap: list[tuple[float, int, int, int, str | None]] = []
        self._size = 0
        self._through, self._ended = sum(seen), len(seen)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Trajectory]:
        return itertools.chain.from_iterable(group.waiting for group in self._groups.values())

    def _expected(self, group: _Group) -> float:
        if group.waiting[0].expected is not None:
            return group.waiting[0].expected
        mean = self._through / max(self._ended, 1)
        flying = max(group.tokens, group.flying * mean)
        return (group.through + flying + mean) / (group.ended + group.flying + 1)

    def _enter(self, name: str | None) -> None:
        """Enter a group anew."""
        group = self._groups[name]
        group.version += 1
        if group.waiting:
            key = -round(self._expected(group), 6)
            heapq.heappush(self._heap, (key, group.ended + group.flying, group.order, group.version, name))
        if len(self._heap) > 4 * len(self._groups) + 64:  # mostly entries made earlier, and as many events to pay
            self._heap = [entry for entry in self._heap if entry[3] == self._groups[entry[4]].version]
            heapq.heapify(self._heap)

    def push(self, one: Trajectory) -> None:
        group = self._groups.setdefault(one.group, _Group(deque(), len(self._groups)))
        group.waiting.append(one)
        self._size += 1
        if len(group.waiting) == 1:
            self._enter(one.group)

    def peek(self) -> Trajectory:
        while self._heap[0][3] != self._groups[self._heap[0][4]].version:
            heapq.heappop(self._heap)  # of an entry made earlier: paid for by its push
        return self._groups[self._heap[0][4]].waiting[0]

    def pop(self) -> Trajectory:
        one = self.peek()
        self._groups[one.group].waiting.popleft()
        self._size -= 1
        self._enter(one.group)
        return one

    def news(self, name: str | None, flying: int = 0, tokens: int = 0, ended: int = 0, through: int = 0) -> None:
        """What has changed in a group's sums."""
        self._ended += ended
        self._through += through
        group = self._groups[name]
        group.flying += flying
        group.tokens += tokens
        group.ended += ended
        group.through += through
        self._enter(name)


# ---------------------------------------------------------------- where there is room


class _Engine(msgspec.Struct):
    """blocks, reserved and used are blocks of its cache; groups: how many of each group are here; places: members at most; version: of its one valid entry in the heap of engines."""

    blocks: int
    members: dict[str, None]
    groups: dict[str, int]
    places: float = math.inf
    reserved: int = 0
    used: int = 0
    version: int = 0
    lost: bool = False


class _Sent(msgspec.Struct):
    """reserved: blocks of its own, without those of a prompt that is counted for its group."""

    told: Trajectory
    engine: int
    reserved: int
    tokens: int = 0


class Admission:
    """capacities: blocks of each engine's cache; limits: trajectories that each may have at a time, whatever they hold (none given: any number; static does not heed them). Raises ValueError for what cannot be: an
    id submitted twice or unknown, a trajectory that an engine could never hold, two prompts of one group."""

    def __init__(self, capacities: Sequence[int], settings: Settings, limits: Sequence[int] = ()) -> None:
        if not capacities or settings.most < 1 or settings.block < 1:
            raise ValueError("expected an engine at least, and at least a token of a block and of a longest trajectory")
        self.settings = settings
        self._learns = settings.policy in ("kv-quantile", "kv-mean")
        self._place: Most | Quantile | Mean = Most(settings.most)
        self._waiting: _Fifo | _Longest = _Fifo()
        if self._learns:
            seen = [min(length, settings.most) for length in settings.seen]
            self._waiting = _Longest(seen)
            mean = settings.policy == "kv-mean"
            self._place = Mean(settings.most, seen) if mean else Quantile(settings.most, settings.quantile, seen)
        self._engines = [_Engine(blocks, {}, {}) for blocks in capacities]
        for engine, places in zip(self._engines, limits, strict=bool(limits)):
            engine.places = places
        self._least = min(capacities)
        self._first: deque[Trajectory] = deque()  # those that have been with an engine before
        self._kept: dict[str, int] = {}  # and their tokens
        self._sent: dict[str, _Sent] = {}
        self._released: dict[str, _Sent] = {}
        self._known: set[str] = set()
        self._prompts: dict[str, int] = {}
        self._heap: list[tuple[int, int, int]] = []
        for index in range(len(self._engines)):
            self._enter(index)

    # ------------------------------------------------ events

    def submit(self, one: Trajectory) -> None:
        """A trajectory that may start."""
        if one.id in self._known:
            raise ValueError(f"{one.id}: submitted twice")
        promised = self.settings.most if self.settings.policy.startswith("kv") else 0
        needed = blocks_of(one.prompt + promised, self.settings.block)
        if needed > self._least:
            raise ValueError(f"{one.id}: needs {needed} blocks at its longest, and an engine has {self._least}")
        if one.group is not None and self._prompts.setdefault(one.group, one.prompt) != one.prompt:
            raise ValueError(
                f"{one.id}: has a prompt of {one.prompt} tokens, and others of group {one.group} have {self._prompts[one.group]}"
            )
        self._known.add(one.id)
        self._waiting.push(one)

    def next(self, used: Mapping[int, int] | None = None) -> list[tuple[str, int]]:
        """What goes out now: (id, engine). used: blocks of engines' caches that are measured to be in use; elsewhere it is what `grew` told."""
        for place, blocks in (used or {}).items():
            self._engines[place].used = blocks
            self._enter(place)
        if self.settings.policy == "static":
            return self._deal() if self.waiting else []
        found = []
        while self.waiting:
            one = self._first[0] if self._first else self._waiting.peek()
            index = self._room(one)
            if index is None:
                break
            if self._first:
                self._first.popleft()
            else:
                self._waiting.pop()
            self._send(one, index)
            found.append((one.id, index))
        return found

    def grew(self, id: str, tokens: int) -> None:
        """It has so many tokens now beyond its prompt."""
        sent = self._in_flight(id)
        if not sent.tokens <= tokens <= self.settings.most:
            raise ValueError(f"{id}: {tokens} tokens after {sent.tokens}, and {self.settings.most} are the most")
        self._engines[sent.engine].used += self._own(sent.told, tokens) - self._own(sent.told, sent.tokens)
        self._waiting.news(sent.told.group, tokens=tokens - sent.tokens)
        sent.tokens = tokens
        if self._learns:
            self._enter(sent.engine)

    def ended(self, id: str, tokens: int | None = None) -> None:
        """It is through, with so many tokens beyond its prompt (those that it had last); its place is free."""
        if tokens is not None:
            self.grew(id, tokens)
        sent = self._leave(id)
        self._place.add(sent.tokens)
        self._waiting.news(sent.told.group, ended=1, through=sent.tokens)

    def release(self, id: str) -> None:
        """Its place is free while it waits for something long; what it had in the cache is lost."""
        self._released[id] = self._leave(id)

    def back(self, id: str) -> None:
        """A released one wants to go on: `next` sends it, to any engine, before those that have not begun."""
        if id not in self._released:
            raise ValueError(f"{id}: was not released")
        self._again(self._released.pop(id))

    def withdraw(self, id: str) -> None:
        """One that has been with an engine, and waits to be sent again, is not to go on."""
        found = [one for one in self._first if one.id == id]
        if not found:
            raise ValueError(f"{id}: does not wait to be sent again")
        self._first.remove(found[0])
        del self._kept[id]

    def lost(self, index: int) -> list[str]:
        """An engine is gone. Its trajectories, returned, are sent to others by `next`. Raises ValueError where it was the last."""
        engine = self._engines[index]
        if engine.lost or sum(not one.lost for one in self._engines) == 1:
            raise ValueError(f"engine {index}: is lost already, or the last")
        gone = list(engine.members)
        for id in gone:
            self._again(self._leave(id))
        engine.lost = True
        self._enter(index)
        return gone

    # ------------------------------------------------ what is known

    @property
    def waiting(self) -> int:
        return len(self._first) + len(self._waiting)

    @property
    def in_flight(self) -> int:
        return len(self._sent)

    def engine_of(self, id: str) -> int:
        return self._in_flight(id).engine

    def reserved(self, index: int) -> int:
        """Blocks of an engine that are promised."""
        return self._engines[index].reserved

    def reserve(self, one: Trajectory) -> int:
        """Blocks of a place for it now, its prompt's among them."""
        return blocks_of(one.prompt + self._place.value, self.settings.block)

    # ------------------------------------------------ inside

    def _in_flight(self, id: str) -> _Sent:
        if id not in self._sent:
            raise ValueError(f"{id}: is not with an engine")
        return self._sent[id]

    def _shared(self, one: Trajectory) -> int:
        """Whole blocks of its prompt, where they are counted once for its group."""
        return one.prompt // self.settings.block if self._learns and one.group is not None else 0

    def _own(self, one: Trajectory, tokens: int) -> int:
        return blocks_of(one.prompt + tokens, self.settings.block) - self._shared(one)

    def _needed(self, one: Trajectory) -> int:
        """Blocks of a place for it now, without a prompt's that is counted for its group."""
        return max(self.reserve(one) - self._shared(one), self._own(one, self._kept.get(one.id, 0)))

    def _room(self, one: Trajectory) -> int | None:
        """The engine with most room, where that is enough (least: with the fewest in flight)."""
        while self._heap and self._heap[0][2] != self._engines[self._heap[0][1]].version:
            heapq.heappop(self._heap)  # of an entry made earlier: paid for by its push
        if not self._heap:
            return None
        index = self._heap[0][1]
        engine = self._engines[index]
        needed = self._needed(one) + (0 if one.group in engine.groups else self._shared(one))
        return index if self.settings.policy == "least" or needed <= engine.blocks - engine.reserved else None

    def _enter(self, index: int) -> None:
        """Enter an engine anew, unless it is gone, has as many as it may have, or is filled above the high-water mark."""
        engine = self._engines[index]
        engine.version += 1
        full = self._learns and engine.members and engine.used > self.settings.high_water * engine.blocks
        if not engine.lost and not full and len(engine.members) < engine.places:
            key = len(engine.members) if self.settings.policy == "least" else engine.reserved - engine.blocks
            heapq.heappush(self._heap, (key, index, engine.version))
        if len(self._heap) > 4 * len(self._engines) + 64:  # mostly entries made earlier, and as many events to pay
            self._heap = [entry for entry in self._heap if entry[2] == self._engines[entry[1]].version]
            heapq.heapify(self._heap)

    def _deal(self) -> list[tuple[str, int]]:
        """All that wait, in equal runs over the engines."""
        alive = [index for index, engine in enumerate(self._engines) if not engine.lost]
        batch = [*self._first, *self._waiting]
        self._first.clear()
        self._waiting = _Fifo()
        found = []
        for place, one in enumerate(batch):
            index = alive[place * len(alive) // len(batch)]
            self._send(one, index)
            found.append((one.id, index))
        return found

    def _send(self, one: Trajectory, index: int) -> None:
        engine, own = self._engines[index], self._needed(one)
        tokens = self._kept.pop(one.id, 0)
        if one.group is not None:
            if one.group not in engine.groups:
                engine.reserved += self._shared(one)
                engine.used += self._shared(one)
            engine.groups[one.group] = engine.groups.get(one.group, 0) + 1
        self._sent[one.id] = _Sent(one, index, own, tokens)
        engine.members[one.id] = None
        engine.reserved += own
        engine.used += self._own(one, tokens)
        self._place.change(1)
        self._waiting.news(one.group, flying=1, tokens=tokens)
        self._enter(index)

    def _leave(self, id: str) -> _Sent:
        sent = self._in_flight(id)
        del self._sent[id]
        engine, one = self._engines[sent.engine], sent.told
        del engine.members[id]
        engine.reserved -= sent.reserved
        freed = self._own(one, sent.tokens)
        if one.group is not None:
            engine.groups[one.group] -= 1
            if not engine.groups[one.group]:
                del engine.groups[one.group]
                engine.reserved -= self._shared(one)
                freed += self._shared(one)
        engine.used = max(0, engine.used - freed)  # a measured use may have been less
        self._place.change(-1)
        self._waiting.news(one.group, flying=-1, tokens=-sent.tokens)
        self._enter(sent.engine)
        return sent

    def _again(self, sent: _Sent) -> None:
        self._kept[sent.told.id] = sent.tokens
        self._first.append(sent.told)

    def check(self) -> None:
        """Count everything again from the start. Raises AssertionError where the running sums differ, or where more is promised than there is. For tests: O(n)."""
        for index, engine in enumerate(self._engines):
            here = {id: one for id, one in self._sent.items() if one.engine == index}
            assert list(here) == list(engine.members), "members"
            prompts = {one.told.group: self._shared(one.told) for one in here.values() if one.told.group is not None}
            assert engine.reserved == sum(one.reserved for one in here.values()) + sum(prompts.values()), "reserved"
            assert set(engine.groups) == set(prompts), "groups"
            assert not (engine.lost and here), "sent to an engine that is gone"
            if self.settings.policy != "static":
                assert len(here) <= engine.places, "more are here than may be"
            if self.settings.policy not in ("static", "least"):
                assert engine.reserved <= engine.blocks, "more is promised than there is"
        waiting = [one.id for one in (*self._first, *self._waiting)]
        assert len(waiting) == len(set(waiting)) == self.waiting, "waiting"
        assert set(self._kept) == {one.id for one in self._first}, "kept"
        places = [set(waiting), set(self._sent), set(self._released)]
        assert all(not a & b for a, b in itertools.combinations(places, 2)), "in two places"
