"""Simulated steps: by hand, against engines written down again in another way, against all orders of admission, and within what no policy can beat."""

import itertools
import json
import math
import re
import subprocess
import sys
from collections import Counter, deque
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_roc import scheduler, simulate
from grpo_roc.cli import main
from grpo_roc.scheduler import Settings, blocks_of
from grpo_roc.simulate import Model
from grpo_roc.traces import CALLS, TOOL_MEAN, Segment, Trace, cut_mean, generate, read, trace_of
from tenfold_shared import BadInput

BIN = Path(sys.executable).parent / "grpo-roc"


def flat(rate=10.0, blocks=1000, prefill=math.inf):
    """An engine that is no slower for each however many decode."""
    return Model(lambda b: rate * b, blocks, 16, prefill)


def shared(rate=10.0, blocks=1000, prefill=math.inf):
    """An engine that does so many tokens a second, whoever they are for."""
    return Model(lambda b: rate, blocks, 16, prefill)


def trace(id, *segments, prompt=0, group=None):
    return Trace(id, tuple(Segment(*one) for one in segments), prompt, group)


def step(traces, engines, model, policy="kv", most=None, release_after=None, **told):
    return simulate.simulate(traces, engines, model, Settings(policy, most or max(one.length for one in traces), model.block, **told), release_after)  # fmt: skip


# ---------------------------------------------------------------- by hand


@pytest.mark.parametrize("policy", scheduler.POLICIES)
def test_one_alone(policy):
    """Prompt, two turns, a call and what it said, a last call that nobody reads."""
    one = trace("a", (30, 1.5, 20), (40, 0.25, 99), prompt=50)
    found = step([one], 2, flat(10, prefill=100), policy)
    assert found.makespan_s == pytest.approx(50 / 100 + 30 / 10 + 1.5 + 20 / 100 + 40 / 10 + 0.25)
    assert found.ends.keys() == {"a"} and found.prefilled_tokens == 70 and found.recomputed_tokens == 0
    assert max(found.busy) == pytest.approx((0.5 + 3 + 0.2 + 4) / found.makespan_s)


def test_many_share_an_engine():
    """Two that decode share the rate; once the short one is through the other has it alone."""
    found = step([trace("a", (30,)), trace("b", (90,))], 1, shared(10))
    assert found.ends == pytest.approx({"a": 6, "b": 12})
    found = step([trace("a", (30,)), trace("b", (90,))], 2, shared(10))
    assert found.ends == pytest.approx({"a": 3, "b": 9})


def test_a_prompt_of_a_group_is_computed_and_held_once():
    them = [trace(str(k), (16,), prompt=160, group="g") for k in range(4)]
    found = step(them, 1, flat(16, blocks=14, prefill=160), "least")
    # ten blocks of prompt and one for each; all is prefilled before anything is decoded
    assert found.prefilled_tokens == 160 and found.makespan_s == pytest.approx(2) and found.peak == [1.0]
    apart = [trace(str(k), (16,), prompt=160) for k in range(4)]
    assert step(apart, 1, flat(16, blocks=14, prefill=160), "least").makespan_s == pytest.approx(8)


def test_places_are_filled_one_after_the_other():
    """Two places on one engine, five of the same length: three rounds."""
    found = step([trace(str(k), (100,)) for k in range(5)], 1, flat(10, blocks=14), "kv")
    assert found.ends == pytest.approx({"0": 10, "1": 10, "2": 20, "3": 20, "4": 30}) and found.preemptions == 0


def test_a_full_engine_preempts_the_latest_and_computes_it_again():
    """Three blocks for two that need two each: at token 16 the second goes, comes back when the first is through, and has 16 tokens prefilled."""
    found = step([trace("a", (32,)), trace("b", (32,))], 1, flat(16, blocks=3, prefill=32), "least")
    assert found.ends == pytest.approx({"a": 2, "b": 2 + 16 / 32 + 1})
    assert (found.preemptions, found.recomputed_tokens, found.prefilled_tokens, found.dropped_in_tools) == (1, 16, 16, 0)  # fmt: skip


def test_what_waits_for_tools_is_dropped_first():
    """a waits from 1 s to 9 s with two blocks; b needs them at 2 s."""
    them = [trace("a", (32, 8.0, 16), (16,)), trace("b", (80,))]
    found = step(them, 1, flat(32, blocks=5, prefill=96), "least")
    assert (found.preemptions, found.dropped_in_tools, found.recomputed_tokens) == (0, 1, 32)
    assert found.ends == pytest.approx({"b": 2.5, "a": 9 + 48 / 96 + 0.5})


def test_a_place_is_given_away_during_a_long_call():
    them = [trace("a", (16, 100.0), (16,)), trace("b", (160,))]
    model = flat(16, blocks=10, prefill=16)
    held, given_away = (step(them, 1, model, "kv", most=160, release_after=after) for after in (None, 5.0))
    assert held.ends == pytest.approx({"a": 102, "b": 112})
    # b is sent at 6 s; a comes back at 101 s, and has 16 tokens computed again
    assert given_away.ends == pytest.approx({"b": 16, "a": 101 + 1 + 1}) and given_away.recomputed_tokens == 16
    assert [id for _, id, _ in given_away.sent] == ["a", "b", "a"]


def test_turns_wait_for_the_slowest_and_tools_for_each_other():
    them = [trace("a", (10, 3.0, 4), (10,)), trace("b", (40, 2.0), (20, 1.0))]
    found = simulate.in_turns(them, 2, flat(10))
    # 4 s for the longest first turn, 5 s of tools, 2 s, and the last tool
    assert found.makespan_s == pytest.approx(4 + 5 + 2 + 1) and found.ends == pytest.approx({"a": 11, "b": 12})
    assert found.busy == pytest.approx([2 / 12, 6 / 12])


# ---------------------------------------------------------------- engines written down again: every block that is taken is an event of its own


class Played:
    """One trajectory as the slow engines see it."""

    def __init__(self, one, block):
        self.one, self.segment, self.own, self.left = one, 0, 0.0, float(one.segments[0].decode)
        self.prefix = one.prompt // block if one.group is not None else 0  # blocks of its group's
        self.own = float(one.prompt - self.prefix * block)
        self.state, self.held, self.arrival, self.back = "new", 0, None, None


def slowly(traces, engines, model, admit):
    """Ends of all trajectories. admit(now, {id: end}): [(id, engine)] that arrive now, and when to ask again."""
    eps, block = 1e-6, model.block
    them = {one.id: Played(one, block) for one in traces}
    places = [{"waiting": [], "decoding": [], "tools": [], "stall": 0.0} for _ in range(engines)]
    now, ends, arrivals = 0.0, {}, itertools.count()

    def groups(place):
        return {p.one.group: p.prefix for p in place["decoding"] + place["tools"] if p.one.group is not None}

    def used(place):
        return sum(groups(place).values()) + sum(p.held for p in place["decoding"] + place["tools"])

    def take_in(place):
        place["waiting"].sort(key=lambda p: p.arrival)
        while place["waiting"]:
            p = place["waiting"][0]
            there = p.one.group is None or p.one.group in groups(place)
            need = math.floor(p.own / block + eps) + 1
            if used(place) + need + (0 if there else p.prefix) > model.blocks:
                return
            place["waiting"].remove(p)
            tokens = p.own + (0 if there else p.prefix * block)
            place["stall"] = max(place["stall"], now) + tokens / model.prefill
            p.held, p.state = need, "decoding"
            place["decoding"].append(p)

    def make_room(place):
        while used(place) > model.blocks:
            p = place["tools"].pop(0) if place["tools"] else place["decoding"].pop()
            if p.state == "decoding":
                lost = p.own - math.floor(p.own + eps)
                p.own, p.left, p.state = p.own - lost, p.left + lost, "waiting"
                place["waiting"].append(p)
            else:
                p.state = "gone"
            p.held = 0

    asked = 0.0
    while len(ends) < len(them):
        if asked is not None and asked <= now + 1e-12:
            sent, asked = admit(now, ends)
            for id, engine in sent:
                them[id].arrival, them[id].state, them[id].place = next(arrivals), "waiting", places[engine]
                places[engine]["waiting"].append(them[id])
            for place in places:
                take_in(place)
        coming = [] if asked is None else [asked]
        coming += [p.back[0] for p in them.values() if p.back is not None]
        for place in places:
            speed = model.rate(len(place["decoding"])) / len(place["decoding"]) if place["decoding"] else 0
            for p in place["decoding"]:
                ahead = min(p.left, max(p.held * block - p.own, 0.0))
                coming.append(max(now, place["stall"]) + ahead / speed)
        then = min(coming)
        for place in places:
            runs = max(0.0, then - max(now, place["stall"]))
            if place["decoding"]:
                speed = model.rate(len(place["decoding"])) / len(place["decoding"])
                for p in place["decoding"]:
                    p.own += runs * speed
                    p.left -= runs * speed
        now = then
        changed = False
        for place in places:
            for p in [p for p in place["decoding"] if p.left < eps]:
                place["decoding"].remove(p)
                p.own, p.left = float(round(p.own)), 0.0
                segment = p.one.segments[p.segment]
                p.segment += 1
                if p.segment == len(p.one.segments) and not segment.tool_s:
                    ends[p.one.id], p.held, changed = now, 0, True
                    continue
                p.held, p.state, p.back = (
                    blocks_of(round(p.own), block),
                    "tools",
                    (now + segment.tool_s, next(arrivals)),
                )
                place["tools"].append(p)
            for p in place["decoding"]:
                if p.own > p.held * block - eps:
                    p.held += 1
            make_room(place)
            take_in(place)
        for p in sorted(
            (p for p in them.values() if p.back is not None and p.back[0] <= now + 1e-9), key=lambda p: p.back
        ):
            p.back = None
            if p.segment == len(p.one.segments):
                ends[p.one.id], p.held, changed = now, 0, True
                if p in p.place["tools"]:
                    p.place["tools"].remove(p)
                take_in(p.place)
                continue
            read = p.one.segments[p.segment - 1].tool_tokens
            p.own, p.left = p.own + read, float(p.one.segments[p.segment].decode)
            if p.state == "tools":
                p.place["tools"].remove(p)
                p.held, p.state = math.floor(p.own / block + eps) + 1, "decoding"
                p.place["decoding"].append(p)
                p.place["stall"] = max(p.place["stall"], now) + read / model.prefill
                make_room(p.place)
            else:
                p.state = "waiting"
                p.place["waiting"].append(p)
            take_in(p.place)
        assert all(used(place) <= model.blocks for place in places)
        if changed and asked is None:
            asked = now
    return ends


def as_sent(sent):
    """What a simulation sent, when it did."""
    line = deque(sent)

    def admit(now, _):
        out = []
        while line and line[0][0] <= now + 1e-12:
            out.append(line.popleft()[1:])
        return out, line[0][0] if line else None

    return admit


segments = st.lists(
    st.tuples(st.integers(1, 70), st.sampled_from([0.0, 0.0, 0.37, 1.9]), st.integers(0, 20)), min_size=1, max_size=3
)
rates = st.sampled_from([lambda b: 16.0 * b, lambda b: 20.0, simulate.saturating(13.0, 2.5), lambda b: 7.0 * b**0.5])


@st.composite
def steps(draw, most=8, apart=False):
    traces = []
    for k in range(draw(st.integers(1, most))):
        group = draw(st.sampled_from([None, "g", "h"]))
        prompt = {"g": 40, "h": 16}.get(group, draw(st.integers(0, 30)))
        parts = draw(segments)
        if apart:  # no two things at one instant, of which either could come first
            parts = [
                (d, t + math.sqrt(2 + 5 * k + i) / 50 if t or i + 1 < len(parts) else t, n)
                for i, (d, t, n) in enumerate(parts)
            ]
        traces.append(trace(str(k), *parts, prompt=prompt, group=group))
    longest = max(one.prompt + one.length for one in traces)
    # reserved is prompt + L, of whichever trajectory
    least = blocks_of(max(one.prompt for one in traces) + max(one.length for one in traces), 16)
    blocks = draw(st.integers(max(least, blocks_of(longest, 16)), least + 12))
    return traces, draw(st.integers(1, 3)), Model(draw(rates), blocks, 16, draw(st.sampled_from([math.inf, 200.0])))


@settings(max_examples=300, deadline=None)
@given(told=steps(apart=True), policy=st.sampled_from(scheduler.POLICIES))
def test_engines_written_down_again_end_everything_at_the_same_time(told, policy):
    traces, engines, model = told
    found = step(traces, engines, model, policy)
    assert found.ends == pytest.approx(slowly(traces, engines, model, as_sent(found.sent)), rel=1e-6)


@settings(max_examples=200, deadline=None)
@given(told=steps(12), policy=st.sampled_from(scheduler.POLICIES), after=st.sampled_from([None, 0.2, 1.0]))
def test_what_holds_of_every_step(told, policy, after):
    traces, engines, model = told
    found = step(traces, engines, model, policy, release_after=after)
    assert found.ends.keys() == {one.id for one in traces} and found.makespan_s == max(found.ends.values())
    assert max(simulate.bounds(traces, engines, model).values()) <= found.makespan_s * (1 + 1e-9)
    assert all(0 < share <= 1 for share in found.peak if share) and max(found.busy) <= 1 + 1e-9
    again = Counter(id for _, id, _ in found.sent)
    assert again.keys() == found.ends.keys() and (after is not None or set(again.values()) == {1})
    if policy == "kv":
        assert found.preemptions == found.dropped_in_tools == 0
    if policy == "kv" and after is None:
        assert found.recomputed_tokens == 0
    assert found == step(traces, engines, model, policy, release_after=after)


# ---------------------------------------------------------------- all orders


def in_order(traces, engines, k, order, choices):
    """An admission that fills k places an engine in a given order; where several engines have one, `choices` say which."""
    line, picks, at = deque(order), deque(choices), {}

    def admit(now, ends):
        out = []
        while line:
            held = Counter(at[id] for id in at if id not in ends)
            free = [engine for engine in range(engines) if held[engine] < k]
            if not free:
                break
            engine = free[picks.popleft() % len(free)] if len(free) > 1 else free[0]
            at[line[0]] = engine
            out.append((line.popleft(), engine))
        return out, None

    return admit


@pytest.mark.parametrize("seed", range(6))
def test_kv_is_one_of_all_orders(seed):
    """Up to five trajectories on two engines of one or two places: every order, every choice of an engine."""
    rng = np.random.default_rng(seed)
    n, k = (5, 1) if seed % 2 else (4, 1 + seed // 4)
    traces = [
        trace(str(i), (int(rng.integers(5, 90)), float(rng.choice([0, 1.3])), 3), (int(rng.integers(1, 40)),))
        for i in range(n)
    ]
    most = max(one.length for one in traces)
    model = Model(simulate.saturating(10.0, 3.0), k * blocks_of(most, 16), 16, 300.0)
    found = step(traces, 2, model, "kv")
    assert scheduler.places(model.blocks, 0, most) == k
    possible = set()
    for order in itertools.permutations([one.id for one in traces]):
        for choices in itertools.product(range(2), repeat=n):
            ends = slowly(traces, 2, model, in_order(traces, 2, k, order, choices))
            possible.add(round(max(ends.values()), 6))
    assert round(found.makespan_s, 6) in possible
    assert max(simulate.bounds(traces, 2, model).values()) <= min(possible) + 1e-6


# ---------------------------------------------------------------- heavy tails


@pytest.mark.parametrize("seed", range(5))
def test_kv_beats_a_static_split_on_heavy_tails(seed):
    """An engine that a few trajectories fill (`slow` of bench/scheduler.py), 256 trajectories an engine."""
    traces = generate(512, seed=seed)
    model = Model(simulate.saturating(100, 4), 262_144 // 16, 16, 1250)
    found = {policy: step(traces, 2, model, policy, 12_288) for policy in ("static", "kv", "kv-quantile", "kv-mean")}
    static = found.pop("static")
    assert static.preemptions > 100 and found["kv"].preemptions == 0
    assert all(static.makespan_s > 1.05 * one.makespan_s for one in found.values())
    assert found["kv-mean"].recomputed_tokens < static.recomputed_tokens / 4


def test_made_up_traces_are_what_is_said():
    traces = generate(8192, mean=4096, seed=3)
    lengths = np.array([one.length for one in traces])
    # groups are drawn as wholes: 512 of them
    error = np.array([lengths[k : k + 16].mean() for k in range(0, 8192, 16)]).std() / math.sqrt(512)
    assert (
        abs(lengths.mean() - 4096) < 4 * error and lengths.max() == 12_288 and 0.01 < (lengths == 12_288).mean() < 0.1
    )
    calls = np.array([len(one.segments) - 1 for one in traces])
    waits = np.array([segment.tool_s for one in traces for segment in one.segments[:-1]])
    assert abs(calls.mean() - CALLS) < 0.1 and abs(waits.mean() - TOOL_MEAN) < 0.03
    assert waits.max() > 3 and all(one.segments[-1].tool_s == 0 for one in traces)
    assert {len({one.prompt for one in them}) for _, them in itertools.groupby(traces, lambda one: one.group)} == {1}
    assert generate(20, group_size=7, seed=1) == generate(20, group_size=7, seed=1)
    assert generate(20, seed=1) != generate(20, seed=2)
    assert [one.id for one in generate(9, group_size=4)] == ["0/0", "0/1", "0/2", "0/3", "1/0", "1/1", "1/2", "1/3", "2/0"]  # fmt: skip


@given(most=st.integers(1, 3000), mean=st.floats(0.5, 2000), seed=st.integers(0, 9))
def test_made_up_traces_keep_to_the_cap(most, mean, seed):
    for one in generate(5, group_size=2, mean=min(mean, most * 0.99), most=most, seed=seed):
        assert 1 <= one.length <= most and all(segment.decode >= 1 for segment in one.segments)


# ---------------------------------------------------------------- bounds


@given(rate=st.lists(st.floats(0.1, 100), min_size=1, max_size=12), at=st.floats(0, 1))
def test_the_concave_cover(rate, at):
    """Against all chords: the least concave function over points is, at x, the highest of the lines between two of them."""
    points = [(0.0, 0.0), *((float(b), r) for b, r in enumerate(rate, 1))]
    x = at * len(rate)
    chords = [
        r0 + (r1 - r0) * (x - b0) / (b1 - b0)
        for (b0, r0), (b1, r1) in itertools.combinations(points, 2)
        if b0 <= x <= b1
    ]
    assert simulate.concave(np.array(rate), x) == pytest.approx(max(chords))


def test_the_bound_of_the_cache_for_a_saturating_rate():
    """With r(b) = r1 b / (1 + b / H), r1 = r(b) / b + r(b) / H at every b, so that E T r1 >= A / C + W / H: found by the search, or better, as b is whole."""
    traces = [trace(str(k), (1000, 0.0, 24), (3000,)) for k in range(400)]
    model = Model(simulate.saturating(50.0, 20.0), 4000, 16)
    area, work = 400 * (1000**2 / 2 + 3000 * 1024 + 3000**2 / 2), 400 * 4000
    closed = (area / 64_000 + work / 20) / (4 * 50)
    found = simulate.bounds(traces, 4, model)["cache"]
    assert closed * (1 - 1e-3) < found < closed * 1.01
    assert found > 1.05 * simulate.bounds(traces, 4, model)["work"]


def test_cut_mean_against_a_sum():
    draws = np.minimum(np.exp(8 + 0.8 * np.random.default_rng(0).normal(size=400_000)), 5000)
    assert cut_mean(8, 0.8, 5000) == pytest.approx(draws.mean(), abs=4 * draws.std() / math.sqrt(len(draws)))


def test_measured_rates():
    rate = simulate.measured([(2, 20.0), (4, 30.0), (8, 40.0)])
    assert [rate(b) for b in (1, 2, 3, 4, 6, 8, 100)] == [10, 20, 25, 30, 35, 40, 40]


# ---------------------------------------------------------------- files


def record(**more):
    turns = [{"text": "", "tokens": 5, "calls": [{"wall_s": 0.2, "queue_s": 0.1}, {"wall_s": 0.25}]}, {"text": "", "tokens": 7, "calls": []}]  # fmt: skip
    return {"id": "p", "group": "p", "rollout": 3, "turns": turns, "usage": {"prompt_tokens": 9, "completion_tokens": 20}, **more}  # fmt: skip


def test_traces_of_trajectories():
    want = Trace("p/3", (Segment(5, pytest.approx(0.3), 8), Segment(7)), 9, "p")
    assert trace_of(record()) == want
    masked = record(loss_mask=[1] * 5 + [0] * 8 + [1] * 7)
    for turn in masked["turns"]:
        del turn["tokens"]
    assert trace_of(masked) == want
    ahead = trace_of(record(loss_mask=[0] * 4 + [1] * 5 + [0] * 8 + [1] * 7 + [0] * 2, prompt_tokens=5))
    assert ahead == Trace("p/3", (Segment(5, pytest.approx(0.3), 8), Segment(7, 0.0, 2)), 9, "p") and ahead.length == 20
    silent = record()
    silent["turns"][0] |= {"calls": [{"name": "p"}], "tool_tokens": 3}
    assert trace_of(silent, 0.7).segments[0] == Segment(5, 0.7, 3)
    del silent["rollout"], silent["group"]
    assert (trace_of(silent).id, trace_of(silent).group) == ("p", "p")


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({}, "id: expected a string"),
        ({"id": "a"}, "segments: expected a list of objects, one at least"),
        ({"id": "a", "segments": [{"decode": 0}]}, r"segments\[0\].decode: expected a whole number, 1 or more"),
        ({"id": "a", "segments": [{"decode": 1, "tool_s": -1}]}, r"segments\[0\].tool_s: expected seconds"),
        ({"id": "a", "segments": [{"decode": 1, "tool_s": float("inf")}]}, r"segments\[0\].tool_s: expected seconds"),
        ({"id": "a", "segments": [{"decode": 1}], "group": []}, "group: expected a string or whole number"),
        ({"id": "a", "segments": [{"decode": 1}], "prompt_tokens": True}, "prompt_tokens: expected a whole number"),
        ({"id": "a", "turns": []}, "turns: expected a list of objects"),
        ({"id": "a", "turns": [{"text": ""}]}, r"turns\[0\].tokens: expected a whole number"),
        (record(loss_mask=[1, 1, 1]), "loss_mask: expected a run of ones for each of 2 turns, found 1"),
        (record(turns=[{"tokens": 1, "calls": [{"wall_s": "x"}]}]), r"turns\[0\].calls\[0\].wall_s: expected seconds"),
    ],
)
def test_bad_traces_are_named(told, message):
    with pytest.raises(BadInput, match="f:1: " + message):
        read([("f:1", told)])


def test_traces_that_contradict_each_other():
    one = {"id": "a", "group": "g", "prompt_tokens": 4, "segments": [{"decode": 1}]}
    with pytest.raises(BadInput, match="f:2: id: a appears twice"):
        read([("f:1", one), ("f:2", one)])
    with pytest.raises(BadInput, match="f:2: prompt_tokens: 5, and others of group g have 4"):
        read([("f:1", one), ("f:2", {**one, "id": "b", "prompt_tokens": 5})])


# ---------------------------------------------------------------- the command


def here(*words, **more):
    return CliRunner().invoke(main, ["simulate", *map(str, words)], prog_name="grpo-roc", **more)


def test_from_made_up_traces_to_a_file_and_back(tmp_path):
    words = ("--cache-tokens", 65_536, "--engines", 3, "--json", "-q")
    made = here("--generate", 40, "--seed", 5, "--write-traces", tmp_path / "t.jsonl", *words)
    assert made.exit_code == 0, made.stderr
    read = subprocess.run([str(BIN), "simulate", str(tmp_path / "t.jsonl"), "--max-length", "12288", *map(str, words)], capture_output=True, text=True, timeout=120)  # fmt: skip
    assert read.returncode == 0 and json.loads(read.stdout) == json.loads(made.stdout)
    found = json.loads(made.stdout)
    assert found["trajectories"] == 40 and found["groups"] == 3 and found["places"] == 5
    assert [row["policy"] for row in found["policies"]] == list(simulate.POLICIES)
    for row in found["policies"]:
        assert row["makespan_s"] >= found["lower_bound_s"] and row["ratio"] >= row["cache_ratio"] >= 1
        assert len(row["busy"]) == len(row["peak"]) == 3
    table = here("--generate", 40, "--seed", 5, "--engines", 3, "--cache-tokens", 65_536, "--policy", "kv", "--policy", "static")  # fmt: skip
    kv = next(row for row in found["policies"] if row["policy"] == "kv")
    assert table.exit_code == 0 and f"{kv['makespan_s']:.1f}" in table.stdout and "turns" not in table.stdout


def test_a_rate_curve_and_a_history(tmp_path):
    (tmp_path / "rate.json").write_text("[[1, 50], [16, 400]]")
    (tmp_path / "old.jsonl").write_text("".join(json.dumps({"id": str(k), "segments": [{"decode": 500}]}) + "\n" for k in range(200)))  # fmt: skip
    words = ("--generate", 60, "--cache-tokens", 32_768, "--engines", 1, "--policy", "kv-mean", "--policy", "kv", "--json", "-q", "--rate-curve", tmp_path / "rate.json")  # fmt: skip
    cold, warm = (json.loads(here(*words, *more).stdout) for more in ((), ("--history", tmp_path / "old.jsonl")))
    assert cold["policies"][1] == warm["policies"][1] and cold["policies"][0]["running"] < warm["policies"][0]["running"]  # fmt: skip
    assert warm["bounds_s"]["work"] == pytest.approx(warm["decode_tokens"] / 400)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--generate", 5), "--cache-tokens"),
        (("--generate", 5, "--cache-tokens", 1000), "--cache-tokens 1000: a trajectory takes up to"),
        (("--generate", 5, "--cache-tokens", 99_999, "--mean-length", 9000, "--max-length", 9000), "--mean-length 9000: expected less than"),
        (("--generate", 5, "--cache-tokens", 99_999, "x.jsonl"), "--generate: makes traces in place of a file"),
        (("--generate", 5, "--cache-tokens", 99_999, "--rate-curve", "none.json"), "none.json: no such file"),
        (("--generate", 5, "--cache-tokens", 99_999, "--policy", "best"), "'best' is not one of"),
        (("--cache-tokens", 99_999, "--max-length", 3), "--max-length 3: a has 4 tokens beyond its prompt"),
    ],
)  # fmt: skip
def test_bad_usage_is_named(words, message):
    told = here(*words, input='{"id": "a", "segments": [{"decode": 4}]}\n')
    assert told.exit_code == 2 and message in told.stderr and "Traceback" not in told.stderr


@pytest.mark.parametrize("text", ["", "{}", "[]", "[[1]]", "[[0, 5]]", "[[2, 5], [1, 6]]", "[[1, 0]]", "[[1, -3]]", "[[1.5, 2]]"])  # fmt: skip
def test_rate_curves_that_are_none(text, tmp_path):
    (tmp_path / "rate.json").write_text(text)
    told = here("--generate", 5, "--cache-tokens", 99_999, "--rate-curve", tmp_path / "rate.json")
    assert told.exit_code == 2 and re.search(r"rate\.json: (.*; )?expected \[\[batch, tokens a second\]", told.stderr)


def test_an_empty_input_and_bad_lines(tmp_path):
    assert here("--cache-tokens", 100, input="").exit_code == 2
    lines = 'x\n{"id": "a", "segments": [{"decode": 4}]}\n{"id": "b"}\n'
    told = here("--cache-tokens", 100, "--skip-bad", 2, "--json", "-q", input=lines)
    assert told.exit_code == 0 and json.loads(told.stdout)["trajectories"] == 1
