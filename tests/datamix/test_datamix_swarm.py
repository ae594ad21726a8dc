"""Swarms: runs are what a hand-written loop gives, whoever runs them, in whatever order, and however often they are cut off."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from math import comb
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from datamix_corpus import make_corpus
from datamix_small import BIN, BUDGET, PROXY, SIZES, proxy_file, run, settings
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from datamix import samplers, swarm, swarms
from datamix.corpus import Corpus
from datamix.history import Budget, Decision, rewards
from datamix.processes import Processes
from datamix.proxy import Held, Proxy, train_base
from datamix.steer import Run
from datamix.stream import Picker, Rows, key_of
from tenfold_shared import BadInput, Busy, Missing
from tenfold_shared.jsonl import Lock

RUNS = 6  # of the swarms that are made here


def trajectories(folder):
    return (Path(folder) / "trajectories.jsonl").read_bytes()


def results(folder):
    """Every byte that a swarm says something with."""
    files = [folder / "trajectories.jsonl", folder / "swarm.json", *sorted((folder / "bases").glob("*.safetensors"))]
    return {path.name: path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def six(small, tmp_path_factory):
    """A swarm of two tasks made in one process without a break."""
    folder = tmp_path_factory.mktemp("six") / "swarm"
    assert run(folder, small.corpus, trajectories=RUNS, tasks=2, task_sources=2, task_targets=1) == 0
    return folder


TWO_TASKS = {"trajectories": RUNS, "tasks": 2, "task_sources": 2, "task_targets": 1}


# ---------------------------------------------------------------- what a run is


@pytest.mark.parametrize("number", [0, 3, 9])
def test_a_trajectory_is_what_the_proxy_gives_by_hand(small, number):
    """The proxy's own updates and losses, row by row, without steer.Run, under the mixtures that the trajectory names."""
    one = swarms.read(small.swarm)[number]
    corpus = Corpus.load(small.corpus)
    names = corpus.names
    task = swarm.read_plan(small.swarm).tasks[0]
    assert task.mixture == pytest.approx([1 / 3] * 3)
    proxy = train_base(PROXY, corpus, np.array([*task.mixture, 0.0]), task.seed)
    rows = Rows(corpus, PROXY.context, key_of(one.seed, "rows"))
    held = Held(corpus, PROXY.context, 256, "feedback")
    taken = np.zeros(len(names), dtype=np.int64)

    def bits():
        with torch.no_grad():
            nats = proxy.losses(held.rows).mean(1).double().numpy()
        parts = np.split(nats, np.cumsum(held.counts)[:-1])
        per_byte = [d.valid.tokens / d.valid.bytes / np.log(2) for d in corpus.domains]
        return [float(part.mean() * factor) for part, factor in zip(parts, per_byte, strict=True)]

    assert [one.base[name] for name in names] == pytest.approx(bits(), rel=1e-5)
    limit = int(BUDGET.source_share * 12 * BUDGET.steps)
    picker = Picker(names, one.seed, source=corpus.source, total_source=limit)
    policy = samplers.make(one.sampler, names, corpus.source, corpus.sizes / corpus.sizes.sum(), one.seed, BUDGET)
    history = one.history()
    for t, step in enumerate(one.steps):
        chosen = picker.pick(policy.decide(history.upto(t)).weights, 12)
        shares = np.bincount(chosen, minlength=len(names)) / 12
        assert [step.weights[name] for name in names] == pytest.approx(shares, abs=1e-6)
        tokens = rows.gather(chosen, taken)
        taken += np.bincount(chosen, minlength=len(names))
        for batch in torch.from_numpy(tokens).split(PROXY.batch):
            proxy.lr, proxy.decay, proxy.warmup = PROXY.lr, PROXY.decay, PROXY.warmup
            proxy.backward(batch)
            proxy.apply()
        assert step.tokens_seen == (t + 1) * 12 * PROXY.context
        assert [step.feedback[name] for name in names] == pytest.approx(bits(), rel=1e-5)
    assert taken[corpus.source].sum() <= limit


def test_rewards_telescope_to_the_final_score(small, capsys):
    assert run(small.swarm, small.corpus) == 0  # a finished one: told again, nothing done
    told = json.loads(capsys.readouterr().out)
    by_sampler = {}
    for one in swarms.read(small.swarm):
        history = one.history()
        gain = {n: 1 - one.steps[-1].feedback[n] / one.base[n] for n in one.roles}
        source = np.mean([gain[n] for n, role in one.roles.items() if role == "source"])
        target = np.mean([gain[n] for n, role in one.roles.items() if role == "target"])
        assert rewards(history).sum() == pytest.approx((source + target) / 2, abs=1e-12)
        by_sampler.setdefault(one.sampler, []).append(50 * (source + target))
    assert told["runs"] == 16 and told["failed"] == 0 and told["tokens"] == 16 * 6 * 12 * 16
    assert set(told["returns"]) == set(by_sampler)
    for name, x in by_sampler.items():
        want = {"n": len(x), "mean": np.mean(x), "best": max(x), "worst": min(x)}
        assert told["returns"][name] == pytest.approx(want)


class Deaf:
    """A learner that learns nothing and keeps what it was given."""

    batch, context = 4, 16

    def __init__(self):
        self.rows = []

    def train(self, rows, updates=None):
        self.rows.append(rows)
        return 1.0

    def evaluate(self, held):
        return np.ones(len(held.counts))


@hypothesis_settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 99), share=st.floats(0.4, 1))
def test_two_policies_see_the_same_nth_row_of_every_domain(small, seed, share):
    corpus = Corpus.load(small.corpus)
    seen = []
    for weights in ([0.1, 0.2, 0.3, 0.4], [0.3, 0.3, 0.3, 0.1]):
        learner = Deaf()
        live = Run(corpus, learner, Budget(192, 6, share), seed)
        live.begin()
        by_domain = {d: [] for d in range(4)}
        while len(live.history) < 6:
            before = live.mixer.picker.taken.copy()
            live.step(Decision(np.array(weights)))
            taken = live.mixer.picker.taken - before
            rows = learner.rows[-1]
            assert len(rows) == taken.sum() == 12
            where = domains_of(corpus, rows)
            assert np.bincount(where, minlength=4).tolist() == taken.tolist()
            for row, d in zip(rows, where, strict=True):
                by_domain[d].append(row.tolist())
        seen.append(by_domain)
    for d in range(4):
        n = min(len(one[d]) for one in seen)
        assert n > 0 and seen[0][d][:n] == seen[1][d][:n]


def domains_of(corpus, rows):
    """Which domain's text holds a row: texts are so unlike that 17 bytes stand in one alone."""
    texts = [bytes(corpus.tokens(name, "train").astype(np.uint8)) for name in corpus.names]
    found = []
    for row in rows:
        holders = [d for d, text in enumerate(texts) if bytes(row.astype(np.uint8)) in text]
        assert len(holders) == 1
        found.append(holders[0])
    return np.array(found)


def test_a_longer_swarm_begins_like_a_shorter_one(small, tmp_path):
    folder = tmp_path / "swarm"
    assert run(folder, small.corpus, trajectories=4) == 0
    assert trajectories(folder).splitlines() == trajectories(small.swarm).splitlines()[:4]


@hypothesis_settings(deadline=None, max_examples=30)
@given(
    n=st.integers(1, 8),
    sources=st.integers(1, 4),
    targets=st.integers(1, 4),
    roles=st.sampled_from(["any", "kept"]),
    seed=st.integers(0, 99),
)
def test_tasks_are_choices_of_domains(small, n, sources, targets, roles, seed):
    """Every choice once, by counting: more tasks than there are choices are refused."""
    corpus = Corpus.load(small.corpus)
    choices = comb(4, sources) * comb(4 - sources, targets) if roles == "any" else comb(3, sources) * comb(1, targets)
    if n > choices:
        with pytest.raises(
            BadInput, match=f"--tasks {n}" if choices else f"--task-sources {sources} and --task-targets {targets}"
        ):
            swarm.draw_tasks(corpus, n, sources, targets, 3.0, seed, roles)
        return
    tasks = swarm.draw_tasks(corpus, n, sources, targets, 3.0, seed, roles)
    assert [task.name for task in tasks] == [f"task-{i:02d}" for i in range(n)]
    assert len({(frozenset(task.sources), frozenset(task.targets)) for task in tasks}) == n
    for task in tasks:
        assert len(set(task.sources) | set(task.targets)) == sources + targets == len(task.sources) + len(task.targets)
        assert len(task.mixture) == sources and sum(task.mixture) == pytest.approx(1) and min(task.mixture) >= 0
        if roles == "kept":
            assert task.targets == ["delta"]
    assert tasks[: n - 1] == swarm.draw_tasks(corpus, n - 1 or 1, sources, targets, 3.0, seed, roles)[: n - 1]
    if n < choices:
        others = swarm.draw_tasks(corpus, choices - n, sources, targets, 3.0, seed + 1, roles, seen=tasks)
        assert len({(frozenset(one.sources), frozenset(one.targets)) for one in [*tasks, *others]}) == choices


# ---------------------------------------------------------------- who runs it, and how often it is cut off


def test_processes_and_single_runs_give_the_same_bytes(small, six, tmp_path, capsys):
    two, single = tmp_path / "two", tmp_path / "single"
    assert run(two, small.corpus, workers=2, **TWO_TASKS) == 0
    capsys.readouterr()
    for number in reversed(range(1, RUNS + 1)):
        assert run(single, small.corpus, only=number, **TWO_TASKS) == 0
        assert json.loads(capsys.readouterr().out) == {"run": number, "status": "done"}
        if number > 1:
            with pytest.raises(
                BadInput, match=rf"{number - 1} of {RUNS} runs are not finished: 1.*run them with --run I"
            ):
                swarm.collect(str(single), as_json=True)
    assert not (single / "trajectories.jsonl").exists()
    assert swarm.collect(str(single), as_json=True) == 0
    assert results(two) == results(single) == results(six)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["single", "two"]  # no locks are left
    assert not [*tmp_path.rglob("*.lock"), *tmp_path.rglob("*.tmp"), *tmp_path.rglob("state.safetensors")]


@pytest.mark.deep
def test_ray_gives_the_same_bytes(small, six, tmp_path):
    assert run(tmp_path / "swarm", small.corpus, ray="local", **TWO_TASKS) == 0
    assert results(tmp_path / "swarm") == results(six)


class Cut(Exception):
    """Stands in for a kill."""


@pytest.mark.parametrize("after", range(1, 7))
@pytest.mark.parametrize("number", [1, 15])
def test_a_run_goes_on_from_any_step(small, tmp_path, monkeypatch, number, after):
    """In a folder with the base of the swarm, a run is cut after any of its steps and goes on to the same trajectory."""
    shutil.copytree(small.swarm / "bases", tmp_path / "bases")
    shutil.copy(small.swarm / "plan.json", tmp_path)
    whole, count = swarm._replace, []

    def cut(path, data):
        whole(path, data)
        count.append(1)
        if len(count) == after:
            raise Cut

    monkeypatch.setattr(swarm, "_replace", cut)
    with pytest.raises(Cut):
        swarm.run_one(str(tmp_path), number)
    assert swarm.run_one(str(tmp_path), number) == "done"
    assert len(count) == BUDGET.steps  # no step twice
    here = tmp_path / "runs" / f"{number:05d}"
    assert [path.name for path in here.iterdir()] == ["trajectory.json"]
    assert (here / "trajectory.json").read_bytes() == trajectories(small.swarm).splitlines()[number]


def test_a_torn_state_is_not_trusted(small, tmp_path):
    shutil.copytree(small.swarm / "bases", tmp_path / "bases")
    shutil.copy(small.swarm / "plan.json", tmp_path)
    here = tmp_path / "runs" / "00002"
    here.mkdir(parents=True)
    (here / "state.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{torn")
    assert swarm.run_one(str(tmp_path), 2) == "done"
    assert (here / "trajectory.json").read_bytes() == trajectories(small.swarm).splitlines()[2]


def command(small, folder, *more):
    return [
        str(BIN), "swarm", str(small.corpus), "--trajectories", str(RUNS), "--tasks", "2", "--task-sources", "2", "--task-targets", "1",
        "--steps", "6", "--run-tokens", "1152", "--source-budget", "0.3", "--feedback-tokens", "256", "--proxy", str(small.proxy), "-q", "-o", str(folder), *more,
    ]  # fmt: skip


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "never happened"
        time.sleep(0.01)


def children(pid):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split()
    return [int(one) for one in found]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_swarm_goes_on_to_the_same_bytes(small, six, tmp_path):
    """SIGKILL of the command alone, in the middle: its processes end by themselves, and the same command goes on."""
    folder = tmp_path / "swarm"
    running = subprocess.Popen(command(small, folder, "--workers", "2"), start_new_session=True, stdout=subprocess.PIPE)
    until(lambda: list(folder.glob("runs/*/state.safetensors")) or list(folder.glob("runs/*/trajectory.json")))
    workers = children(running.pid)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert len(workers) >= 2
    until(lambda: not any(map(alive, workers)), 15)
    assert not (folder / "trajectories.jsonl").exists()
    assert run(folder, small.corpus, **TWO_TASKS) == 0
    assert results(folder) == results(six)


@pytest.mark.deep
def test_a_swarm_killed_at_any_moment_goes_on_to_the_same_bytes(small, six, tmp_path):
    """SIGKILL of the whole process group a little later each time, until one start is not killed."""
    folder, kills = tmp_path / "swarm", 0
    for wait in 2 * 1.3 ** np.arange(14):
        running = subprocess.Popen(
            command(small, folder, "--workers", "2"), start_new_session=True, stdout=subprocess.PIPE
        )
        try:
            assert running.wait(wait) == 0
            break
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            kills += 1
    assert kills
    assert results(folder) == results(six)


@pytest.mark.deep
def test_a_terminated_swarm_says_so_and_keeps_its_work(small, six, tmp_path):
    folder = tmp_path / "swarm"
    running = subprocess.Popen(command(small, folder, "--workers", "2"), stderr=subprocess.PIPE, text=True)
    until(lambda: list(folder.glob("runs/*/state.safetensors")) or list(folder.glob("runs/*/trajectory.json")))
    workers = children(running.pid)
    running.terminate()
    _, told = running.communicate(timeout=30)
    assert running.returncode == 143 and told.count("\n") == 1 and "the same command continues" in told
    until(lambda: not any(map(alive, workers)), 15)
    for number in range(RUNS):
        swarm.run_one(str(folder), number)
    assert swarm.collect(str(folder), as_json=True) == 0
    assert trajectories(folder) == trajectories(six)


# ---------------------------------------------------------------- what goes wrong


def test_a_run_that_diverges_is_marked_counted_and_left_out(small, tmp_path, monkeypatch, capsys):
    """One of four: its training loss is no number in its third step."""
    whole, where = swarm.run_one, []
    train = Proxy.train

    def run_one(folder, number, threads=1):
        where[:] = [number, 0]
        return whole(folder, number, threads)

    def diverging(self, rows, updates=None):
        if where and updates is not None and updates == BUDGET.steps * 3:
            where[1] += 1
            if where == [2, 3]:
                with torch.no_grad():
                    self.flat[0] = float("nan")
        return train(self, rows, updates)

    monkeypatch.setattr(swarm, "run_one", run_one)
    monkeypatch.setattr(Proxy, "train", diverging)
    folder = tmp_path / "swarm"
    assert run(folder, small.corpus, trajectories=4) == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["failed"] == 1
    assert "run 3 failed and is left out: the training loss is no number in step 2" in told.err
    runs = swarms.read(folder)
    assert [one.status for one in runs] == ["done", "done", "failed", "done"] and len(runs[2].steps) == 2
    lines, want = trajectories(folder).splitlines(), trajectories(small.swarm).splitlines()
    assert [lines[i] for i in (0, 1, 3)] == [want[i] for i in (0, 1, 3)]
    assert runs[2].steps == swarms.read(small.swarm)[2].steps[:2]
    assert run(folder, small.corpus, trajectories=4) == 1  # told again
    assert run(folder, small.corpus, trajectories=4, only=3) == 1


def test_rates_beyond_reason_fail_every_run_and_nothing_breaks(small, tmp_path, capsys):
    wild = msgspec.to_builtins(msgspec.structs.replace(PROXY, lr=1e39, warmup=0))
    assert run(tmp_path / "swarm", small.corpus, trajectories=3, proxy=wild) == 1
    told = capsys.readouterr()
    summary = json.loads(told.out)
    assert summary["failed"] == 3 and summary["returns"] == {}
    assert told.err.count("is no number") == 3
    with pytest.raises(BadInput, match="no finished run"):
        swarms.table(tmp_path / "swarm")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"seed": 1}, "seed 0, this one is 1"),
        ({"budget": Budget(192, 7, 0.3)}, r"budget\.steps 6, this one is 7"),
        ({"trajectories": 17}, "trajectories 16, this one is 17"),
        ({"sampler": "walk"}, "sampler ramp=2.*, this one is walk"),
        (
            {"proxy": msgspec.to_builtins(msgspec.structs.replace(PROXY, lr=1e-3))},
            r"proxy\.lr 0\.003, this one is 0\.001",
        ),
    ],
)
def test_another_plan_in_the_same_folder_is_refused(small, changed, told):
    before = results(small.swarm)
    with pytest.raises(BadInput, match=told + ".*--overwrite"):
        run(small.swarm, small.corpus, **changed)
    assert results(small.swarm) == before


def test_another_corpus_is_refused_and_the_same_one_elsewhere_is_not(small, tmp_path):
    folder, moved = tmp_path / "swarm", tmp_path / "moved"
    shutil.copytree(small.corpus, tmp_path / "first")
    assert run(folder, tmp_path / "first", trajectories=2, only=1) == 0
    (tmp_path / "first").rename(moved)
    assert run(folder, moved, trajectories=2) == 0
    assert trajectories(folder).splitlines() == trajectories(small.swarm).splitlines()[:2]
    make_corpus(tmp_path / "other", SIZES, valid=1500, seed=1)
    with pytest.raises(BadInput, match="another corpus"):
        run(folder, tmp_path / "other", trajectories=2)


@pytest.mark.parametrize("only", [None, 1])
def test_text_that_was_overwritten_is_not_trained_on(small, tmp_path, only):
    shutil.copytree(small.corpus, tmp_path / "corpus")
    with open(tmp_path / "corpus" / "tokens" / "beta.train.bin", "r+b") as stream:
        stream.write(b"altered")
    with pytest.raises(BadInput, match=r"beta\.train\.bin: is not the file that corpus\.json names"):
        run(tmp_path / "swarm", tmp_path / "corpus", only=only)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_overwrite_replaces_what_a_swarm_made_and_nothing_else(small, tmp_path):
    folder = tmp_path / "swarm"
    assert run(folder, small.corpus, trajectories=2) == 0
    (folder / "notes.txt").write_text("mine")
    assert run(folder, small.corpus, trajectories=2, seed=5, overwrite=True) == 0
    assert trajectories(folder).splitlines() != trajectories(small.swarm).splitlines()[:2]
    assert (folder / "notes.txt").read_text() == "mine"
    old = (folder / "runs" / "00000" / "trajectory.json").stat().st_mtime_ns
    assert run(folder, small.corpus, trajectories=2, seed=5, overwrite=True) == 0  # anew, though it was the same
    assert (folder / "runs" / "00000" / "trajectory.json").stat().st_mtime_ns > old
    with pytest.raises(BadInput, match="--run: goes without --overwrite"):
        run(folder, small.corpus, trajectories=2, seed=5, overwrite=True, only=1)


def test_what_is_in_the_way_is_told(small, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is a file"):
        run(tmp_path / "file", small.corpus)
    with pytest.raises(BadInput, match="did not make"):
        run(small.corpus, small.corpus)
    with pytest.raises(BadInput, match="does not exist"):
        run(tmp_path / "no" / "swarm", small.corpus)
    for only in (0, 17):
        with pytest.raises(BadInput, match=rf"--run {only}: expected a run from 1 to 16"):
            run(tmp_path / "swarm", small.corpus, only=only)
    with pytest.raises(BadInput, match=r"plan\.json: no such file"):
        swarm.collect(str(tmp_path), as_json=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_damaged_run_or_plan_is_named(small, tmp_path):
    folder = tmp_path / "swarm"
    shutil.copytree(small.swarm, folder)
    (folder / "runs" / "00004" / "trajectory.json").write_bytes(b'{"id": "00004"')
    with pytest.raises(BadInput, match=r"00004/trajectory\.json: not a run.*--run 5"):
        swarm.collect(str(folder), as_json=True)
    (folder / "plan.json").write_bytes(b"{")
    with pytest.raises(BadInput, match=r"plan\.json: not a swarm's plan"):
        run(folder, small.corpus)


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        (Budget(8, 6, 0.3), "--run-tokens: 8 tokens a step are fewer than one update of 4 rows of 16"),
        (Budget(1920, 20, 0.3, 1.0), "delta is the smallest target"),
        (Budget(1920, 20, 1.0, 0.5), "--max-epochs 0.5"),
    ],
)
def test_budgets_that_cannot_be_had_are_told_before_any_work(small, tmp_path, budget, told):
    with pytest.raises(BadInput, match=told):
        run(tmp_path / "swarm", small.corpus, budget=budget)
    assert list(tmp_path.iterdir()) == []


def test_no_domain_is_seen_more_often_than_max_epochs(small, tmp_path):
    """11,520 tokens of 4000 + 3000 + 5000 + 4000, each at most once."""
    budget = Budget(1920, 6, 1.0, 1.0)
    assert run(tmp_path / "swarm", small.corpus, trajectories=8, budget=budget, feedback_tokens=64) == 0
    sizes = {one.name: one.train.tokens for one in Corpus.load(small.corpus).domains}
    for one in swarms.read(tmp_path / "swarm"):
        for name, size in sizes.items():
            assert sum(step.weights[name] for step in one.steps) * 1920 <= size + 1e-2


def test_a_second_start_is_told_to_wait(small, tmp_path):
    folder = tmp_path / "swarm"
    lock = Lock(tmp_path / ".swarm.lock", folder)
    with pytest.raises(Busy) as told:
        run(folder, small.corpus)
    assert told.value.code == 75
    lock.release()
    assert run(folder, small.corpus, trajectories=2, only=1) == 0
    lock = Lock(folder / "runs" / ".00001.lock", folder)
    with pytest.raises(Busy):
        run(folder, small.corpus, trajectories=2, only=2)
    lock.release()


def test_a_run_that_another_process_is_at_is_waited_for(small, tmp_path):
    """`swarm run` beside `--run`: the one takes the other's result and does not write into its folder."""
    folder = tmp_path / "swarm"
    assert run(folder, small.corpus, trajectories=2, only=1) == 0
    lock = Lock(folder / "runs" / ".00001.lock", folder)
    codes = []
    thread = threading.Thread(target=lambda: codes.append(run(folder, small.corpus, trajectories=2)))
    thread.start()
    thread.join(1.0)
    assert thread.is_alive() and not (folder / "runs" / "00001").exists()
    done = small.swarm / "runs" / "00001"
    shutil.copytree(done, folder / "runs" / "00001")
    wanted = (done / "trajectory.json").read_bytes()
    lock.release()
    thread.join(60)
    assert codes == [0] and trajectories(folder).splitlines()[1] == wanted
    assert not [*tmp_path.rglob("*.lock")]


def test_nobody_gathers_or_clears_what_others_are_at(small, tmp_path):
    folder = tmp_path / "swarm"
    for number in (1, 2):
        assert run(folder, small.corpus, trajectories=2, only=number) == 0
    lock = Lock(tmp_path / ".swarm.lock", folder)
    with pytest.raises(Busy):
        swarm.collect(str(folder), as_json=True)
    lock.release()
    lock = Lock(folder / "runs" / ".00001.lock", folder)
    with pytest.raises(Busy):
        run(folder, small.corpus, trajectories=3, overwrite=True)
    lock.release()
    assert swarm.collect(str(folder), as_json=True) == 0


def test_a_process_that_is_killed_is_told_in_one_line():
    jobs = [("first", os.getpid, ()), ("second", signal.raise_signal, (signal.SIGKILL,))]
    with pytest.raises(Missing, match=r"a process was killed.*fewer --workers"), Processes(2) as them:
        them.each(jobs, lambda key, found: None)


def test_processes_are_started_once_and_give_every_result():
    found = {}
    with Processes(2) as them:
        for name in ("a", "b"):
            them.each([(f"{name}{i}", os.getpid, ()) for i in range(4)], found.__setitem__)
    assert sorted(found) == ["a0", "a1", "a2", "a3", "b0", "b1", "b2", "b3"]
    assert len(set(found.values())) <= 2 and os.getpid() not in found.values()
    with Processes(1) as them:
        them.each([("here", os.getpid, ())], found.__setitem__)
    assert found["here"] == os.getpid()


def test_an_unknown_sampler_is_refused(small, tmp_path):
    with pytest.raises(BadInput, match="no such sampler"):
        run(tmp_path / "swarm", small.corpus, sampler="walk,lucky")


def test_a_proxy_file_says_what_it_says(tmp_path):
    from datamix.proxy import config_of

    assert config_of(str(proxy_file(tmp_path / "p.toml"))) == PROXY
    assert settings().proxy == msgspec.to_builtins(PROXY)
