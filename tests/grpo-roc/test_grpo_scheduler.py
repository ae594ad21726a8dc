"""Admission: places by hand, running sums against everything counted anew, the work of an event, a loop with real tasks."""

import asyncio
import math
import random
import sys
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_roc import scheduler
from grpo_roc.scheduler import POLICIES, Admission, Mean, Quantile, Settings, Trajectory, places


def filled(policy, capacities=(64,), n=20, most=100, prompt=12, **told):
    """n trajectories without groups, submitted to engines of so many blocks of 16."""
    found = Admission(list(capacities), Settings(policy, most, **told))
    for k in range(n):
        found.submit(Trajectory(str(k), prompt))
    return found


# ---------------------------------------------------------------- how many


@pytest.mark.parametrize(
    ("blocks", "prompt", "most", "block", "k"),
    [
        (64, 12, 100, 16, 9),  # 112 tokens are 7 blocks
        (64, 13, 100, 16, 8),  # 113 are 8
        (63, 13, 100, 16, 7),
        (16_384, 512, 12_288, 16, 20),
        (7, 0, 113, 16, 0),
    ],
)
def test_places(blocks, prompt, most, block, k):
    assert places(blocks, prompt, most, block) == k


def test_kv_holds_the_papers_k_and_sends_the_next_when_a_place_is_free():
    found = filled("kv", (64, 80))
    sent = found.next()
    # K is 9 and 11; each goes where there is most room, and all 20 fit
    assert Counter(engine for _, engine in sent) == {0: 9, 1: 11} and found.next() == []
    found = filled("kv", (64,), n=12)
    assert [id for id, _ in found.next()] == [str(k) for k in range(9)]
    for k, other in ((4, "9"), (0, "10"), (9, "11")):
        found.grew(str(k), 50)
        assert found.next() == []
        found.ended(str(k), 80)
        assert found.next() == [(other, 0)]
    assert found.waiting == 0 and found.in_flight == 9


def test_static_deals_equal_runs_and_least_goes_round():
    found = filled("static", (64, 64, 64), n=10)
    engines = [engine for _, engine in found.next()]
    assert engines == sorted(engines) and sorted(Counter(engines).values()) == [3, 3, 4]
    found = filled("least", (64, 64, 64), n=7)
    assert [engine for _, engine in found.next()] == [0, 1, 2, 0, 1, 2, 0]
    found.ended("1", 5)
    found.ended("4", 5)
    for id in ("x", "y", "z"):
        found.submit(Trajectory(id))
    assert found.next() == [("x", 1), ("y", 1), ("z", 1)]


@given(
    data=st.lists(st.one_of(st.integers(0, 50), st.sampled_from(["start", "stop"])), max_size=60),
    seen=st.lists(st.integers(0, 50), max_size=20),
    q=st.sampled_from([0.1, 0.4, 0.5, 0.75, 1.0]),
)
def test_a_place_is_the_stated_quantile_and_the_stated_mean(data, seen, q):
    quantile, mean = Quantile(50, q, seen), Mean(50, seen)
    ended, flying = list(seen), 0
    for what in data:
        if isinstance(what, int):
            ended.append(what)
            quantile.add(what)
            mean.add(what)
        else:
            step = 1 if what == "start" else -min(flying, 1)
            flying += step
            quantile.change(step)
            mean.change(step)
        every = sorted(ended + [50] * flying)
        rank = math.ceil(Fraction(str(q)) * len(every))
        assert quantile.value == (every[rank - 1] if every else 50)
        if sum(ended):
            assert mean.value == min(50, math.ceil(Fraction(sum(x * x for x in every), 2 * sum(every))))
        else:
            assert mean.value == 50


def test_the_mean_is_what_is_held_at_a_random_moment():
    """Trajectories that begin one after the other and grow by a token a step: what the one that is there holds, over all steps."""
    lengths = [3, 10, 10, 40]
    held = [age + 0.5 for length in lengths for age in range(length)]
    assert Mean(100, lengths).value == math.ceil(sum(held) / len(held))


def test_a_groups_prompt_is_counted_once():
    found = Admission([64], Settings("kv-mean", 160, seen=(64,) * 50))
    # a place is ceil((50 x 64^2 + f x 160^2) / (2 (50 x 64 + f x 160))) tokens with f in flight: 32, then 36, 39, 41, 44: 2, 3, 3, 3, 3 blocks; the prompt of 320 is 20
    for k in range(5):
        found.submit(Trajectory(f"a{k}", 320, "a"))
    assert len(found.next()) == 5 and found.reserved(0) == 20 + 2 + 3 + 3 + 3 + 3
    found.submit(Trajectory("b", 320, "b"))
    assert found.next() == [("b", 0)] and found.reserved(0) == 34 + 23
    for k in range(5):
        found.ended(f"a{k}", 64)
    assert found.reserved(0) == 23
    found.check()
    paper = Admission([64], Settings("kv", 160))  # the paper's own rule counts it for each: 30 blocks
    for k in range(5):
        paper.submit(Trajectory(f"a{k}", 320, "a"))
    assert len(paper.next()) == 2


# ---------------------------------------------------------------- when, and who


def test_nothing_is_sent_above_the_high_water_mark():
    found = filled("kv-mean", (100,), n=80, most=160, prompt=0, seen=(32,) * 1000, high_water=0.8)
    assert len(found.next()) == 50  # the first place is 16 tokens, the others a little more, and so two blocks
    found.ended("0", 32)
    assert found.next({0: 81}) == []  # there is a place, and no room
    assert found.next({0: 80}) != []
    for id in list(found._sent):
        found.ended(id, 32)
    assert found.next({0: 95}) != []  # what is empty is open, whatever a gauge says


def test_what_outgrows_its_place_fills_the_engine():
    found = filled("kv-mean", (20,), n=20, most=160, prompt=0, seen=(32,) * 1000, high_water=0.8)
    sent = [id for id, _ in found.next()]
    assert len(sent) == 10
    for id in sent:
        found.grew(id, 33)
    found.ended(sent[0], 40)
    assert found.next() == []  # 9 x 3 blocks are more than four fifths of 20
    for id in sent[1:]:
        found.ended(id, 40)
    assert found.next()


def test_groups_that_look_long_go_first():
    found = Admission([1000], Settings("kv-mean", 1000, seen=(100,) * 10_000, high_water=1.0))
    for k in range(3):
        for group in "ab":
            found.submit(Trajectory(f"{group}{k}", 0, group))
    # of each group one, in turns, as long as nothing is known
    assert [id for id, _ in found.next()][:2] == ["a0", "b0"]
    found = Admission([126], Settings("kv-mean", 1000, seen=(100,) * 10_000, high_water=1.0))
    for k in range(40):
        for group in "ab":
            found.submit(Trajectory(f"{group}{k}", 0, group))
    sent = [id for id, _ in found.next()]
    assert len(sent) < 60
    found.ended("a0", 20)
    found.ended("b0", 800)
    assert all(id[0] == "b" for id, _ in found.next())


@pytest.mark.parametrize(("flies", "of_a", "of_b", "first"), [(0, 50, 60, "a"), (700, 50, 90, "a"), (0, 50, 90, "b")])
def test_those_in_flight_count_for_their_group(flies, of_a, of_b, first):
    """With a mean of 100 everywhere: a, of which one has ended and one is under way, is taken for (its ended + max(its tokens, 100) + 100) / 3, and b for (both ended + 100) / 3."""
    found = Admission([10_000], Settings("kv-mean", 1000, seen=(100,) * 100_000))
    for id in ("a0", "a1", "b0", "b1"):
        found.submit(Trajectory(id, 0, id[0]))
    found.next()
    found.grew("a0", flies)
    for id, length in (("a1", of_a), ("b0", of_b), ("b1", of_b)):
        found.ended(id, length)
    for id in ("b2", "a2"):
        found.submit(Trajectory(id, 0, id[0]))
    assert found.next()[0] == (f"{first}2", 0)


def test_expected_lengths_are_believed():
    found = Admission([63], Settings("kv-mean", 1000))
    for id, expected in (("short", 10), ("long", 900), ("middle", 100)):
        found.submit(Trajectory(id, 0, id, expected))
    order = []
    for _ in range(3):
        [(id, _)] = found.next()
        order.append(id)
        found.ended(id, 0)
    assert order == ["long", "middle", "short"]


def test_a_place_is_released_and_taken_again():
    found = filled("kv", (14,), n=3)
    assert found.next() == [("0", 0), ("1", 0)]
    found.grew("0", 40)
    found.release("0")
    assert found.next() == [("2", 0)]
    found.back("0")
    assert found.next() == []
    found.check()
    found.ended("1", 1)
    assert found.next() == [("0", 0)]
    found.ended("0", 41)
    with pytest.raises(ValueError, match="not with an engine"):
        found.ended("0", 41)


@pytest.mark.parametrize("policy", POLICIES)
def test_an_engine_that_is_lost_gives_its_trajectories_back(policy):
    found = filled(policy, (28, 28), n=6)
    before = dict(found.next())
    gone = found.lost(1)
    assert gone == [id for id, engine in before.items() if engine == 1] and gone
    after = dict(found.next())
    found.check()
    while found.in_flight or found.waiting:
        for id in list(found._sent):
            found.ended(id)
        after |= dict(found.next())
    assert set(gone) <= set(after) and set(after.values()) == {0}
    with pytest.raises(ValueError, match="the last"):
        found.lost(0)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda a: a.submit(Trajectory("0")), "submitted twice"),
        (lambda a: a.submit(Trajectory("x", 10_000)), "needs 632 blocks"),
        (lambda a: (a.submit(Trajectory("x", 16, "g")), a.submit(Trajectory("y", 17, "g"))), "others of group g have 16"),
        (lambda a: a.grew("0", 101), "100 are the most"),
        (lambda a: (a.grew("0", 50), a.grew("0", 49)), "49 tokens after 50"),
        (lambda a: a.ended("19"), "not with an engine"),
        (lambda a: a.back("0"), "was not released"),
        (lambda a: Admission([], Settings("kv", 1)), "an engine at least"),
    ],
)  # fmt: skip
def test_what_cannot_be(what, message):
    found = filled("kv")
    found.next()
    with pytest.raises(ValueError, match=message):
        what(found)


# ---------------------------------------------------------------- any course of events


@settings(max_examples=150, deadline=None)
@given(
    policy=st.sampled_from(POLICIES),
    capacities=st.lists(st.integers(30, 90), min_size=1, max_size=4),
    n=st.integers(0, 25),
    grouped=st.booleans(),
    seen=st.lists(st.integers(0, 200), max_size=5),
    chance=st.randoms(use_true_random=False),
)
def test_sums_hold_and_everyone_ends_once(policy, capacities, n, grouped, seen, chance):
    found = Admission(capacities, Settings(policy, 200, high_water=0.7, seen=tuple(seen)))
    later = [Trajectory(str(k), 13 * (k % 4) if grouped else k, str(k % 4) if grouped else None) for k in range(n)]
    chance.shuffle(later)
    at, grown, away, ended, alive = {}, Counter(), set(), set(), set(range(len(capacities)))

    def send():
        for id, engine in found.next({k: chance.randrange(90) for k in alive} if chance.random() < 0.3 else None):
            assert id not in at and id not in ended and engine in alive
            at[id] = engine
        found.check()

    while later or at or away or found.waiting:
        kind = chance.random()
        if later and kind < 0.3:
            found.submit(later.pop())
        elif at and kind < 0.6:
            id = chance.choice(sorted(at))
            grown[id] = min(200, grown[id] + chance.randrange(60))
            found.grew(id, grown[id])
            assert found.engine_of(id) == at[id]
        elif at and kind < 0.8:
            id = chance.choice(sorted(at))
            found.ended(id)
            ended.add(id)
            del at[id]
        elif at and kind < 0.87:
            id = chance.choice(sorted(at))
            found.release(id)
            away.add(id)
            del at[id]
        elif away and kind < 0.97:
            found.back(away.pop())
        elif len(alive) > 1 and kind > 0.99:
            gone = chance.choice(sorted(alive))
            alive.remove(gone)
            assert set(found.lost(gone)) == {id for id, engine in at.items() if engine == gone}
            at = {id: engine for id, engine in at.items() if engine != gone}
        found.check()
        send()
        assert at or not found.waiting, "a standstill"
    assert ended == {str(k) for k in range(n)}


def lines_an_event(n, engines, policy):
    """Lines of scheduler.py run for each event of a step of n trajectories; what heapq and deque do in C is O(log n) and no line."""
    count = 0

    def trace(frame, what, _):
        nonlocal count
        if frame.f_code.co_filename != scheduler.__file__:
            return None
        if what == "line":
            count += 1
        return trace

    chance, events = random.Random(0), 0
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        found = Admission([200] * engines, Settings(policy, 1000))
        for k in range(n):
            found.submit(Trajectory(str(k), 20, str(k // 16)))
            events += 1
        running = [id for id, _ in found.next()]
        while running:
            place = chance.randrange(len(running))
            running[place], running[-1] = running[-1], running[place]
            id = running.pop()
            length = min(1000, int(chance.lognormvariate(5, 1)))
            found.grew(id, length // 2)
            found.ended(id, length)
            running += [id for id, _ in found.next()]
            events += 4
    finally:
        sys.settrace(before)
    return count / events


@pytest.mark.parametrize("policy", POLICIES)
def test_the_work_of_an_event_hardly_grows_with_trajectories_and_not_with_engines(policy):
    few, many, wide = (lines_an_event(n, e, policy) for n, e in ((200, 4), (6400, 4), (6400, 128)))
    assert many < 1.5 * few and wide < 1.5 * few and few < 60


# ---------------------------------------------------------------- in a loop


def test_a_loop_of_tasks_over_several_engines():
    """As a rollout loop uses it: a task a trajectory, and engines that would refuse more than they hold."""

    async def loop():
        admission = Admission([70, 70, 70], Settings("kv", 100))
        running, most, done = Counter(), Counter(), []
        tasks = set()

        async def trajectory(id, engine):
            running[engine] += 1
            most[engine] = max(most[engine], running[engine])
            for turn in range(1 + int(id) % 3):
                for _ in range(int(id) % 7):
                    await asyncio.sleep(0)
                admission.grew(id, 10 * (turn + 1))
            running[engine] -= 1
            done.append(id)
            admission.ended(id)
            send()

        def send():
            for id, engine in admission.next():
                task = asyncio.ensure_future(trajectory(id, engine))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

        for k in range(200):
            admission.submit(Trajectory(str(k), 12))
        send()
        while tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        admission.check()
        return most, done

    most, done = asyncio.run(loop())
    assert sorted(done, key=int) == [str(k) for k in range(200)]
    assert set(most.values()) == {places(70, 12, 100)} == {10}
