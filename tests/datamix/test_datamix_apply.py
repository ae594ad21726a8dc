"""`apply` and `plan`: live runs against a loop written by hand, kills, ranks, models of transformers, schedules, and bad input."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from click.testing import CliRunner
from datamix_corpus import make_corpus, text_of
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from datamix import apply, build, foreign, mixture, plan, ranks, schedule, steered, swarm, swarms, world
from datamix.agent import Agent, Card
from datamix.baselines.static import StaticPolicy
from datamix.cli import main
from datamix.corpus import FILE, Corpus, Domain, Listing
from datamix.foreign import Foreign, Training, check_tokens
from datamix.history import Budget, Decision, History, Step, Trajectory
from datamix.proxy import Held, Proxy, ProxyConfig
from datamix.stream import Mixer, Picker, Rows, key_of
from tenfold_shared import BadInput, Busy
from tenfold_shared.jsonl import Lock

HERE = Path(__file__).parent
TINY = ProxyConfig(width=16, layers=1, heads=2, context=32, batch=8, base_updates=30, lr=3e-3, warmup=2)
TOML = "width = 16\nlayers = 1\nheads = 2\ncontext = 32\nbatch = 8\nbase_updates = 30\nwarmup = 2\n"
BUDGET = Budget(tokens=2 * 8 * 32, steps=4, source_share=0.5)
SHORT = {"feedback_tokens": 128, "score_tokens": 256, "quiet": True}
NAMES = ["alpha", "beta", "gamma", "delta"]
STATIC = {"alpha": 0.2, "beta": 0.1, "gamma": 0.1, "delta": 0.6}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("corpus"), 8000, targets=["gamma", "delta"], valid=2000)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("proxy") / "tiny.toml"
    path.write_text(TOML)
    return str(path)


@pytest.fixture(scope="module")
def base(corpus, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    made = Proxy(TINY, 256, 0)
    path.write_bytes(steered.base_file(made, steered.make_base(made, corpus, 0, True)))
    return str(path)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("mixture") / "mixture.json"
    path.write_bytes(schedule.static_file(STATIC, "by hand"))
    return str(path)


@pytest.fixture(scope="module")
def agents(recorded, tmp_path_factory) -> dict[str, str]:
    """Agents of each kind, hardly trained or not at all, by name."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("agents")
    roles = ["source", "source", "target", "target"]
    made = {
        "set": Agent(Card("set", "sft", {"width": 16, "heads": 2})),
        "blind": Agent(Card("set", "sft", {"width": 16, "heads": 2}, feedback=False)),
        "decoder": Agent(Card("decoder", "cql", {"domains": 4, "width": 16, "heads": 2}, domains=NAMES, roles=roles)),
    }
    how = world.Settings(members=2, hidden=8, world_steps=5, policy_steps=2, rollouts=4)
    made["model"], simulator = world.train(swarms.read(recorded), how, 0)
    for name, one in made.items():
        one.save(folder / name)
    simulator.save(folder / "model")
    return {name: str(folder / name) for name in made}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> str:
    """A swarm whose losses follow a rule: f̂ of a domain grows by a tenth of its share in each step."""
    folder = tmp_path_factory.mktemp("swarm")
    rng, runs = np.random.default_rng(0), []
    roles = dict(zip(NAMES, ["source", "source", "target", "target"], strict=True))
    for i in range(12):
        gain, steps = np.zeros(4), []
        for t in range(4):
            w = mixture.with_source_share(rng.dirichlet(np.ones(4)), np.array([True, True, False, False]), 0.5)
            gain = gain + 0.1 * w
            losses = {name: float(3 * (1 - g)) for name, g in zip(NAMES, gain, strict=True)}
            steps.append(Step(t, 512 * (t + 1), dict(zip(NAMES, map(float, w), strict=True)), losses))
        fixed = dict.fromkeys(NAMES, 8000), dict.fromkeys(NAMES, 3.0)
        runs.append(Trajectory(str(i), "all", "walk", i, roles, *fixed, Budget(512, 4, 0.5), steps))
    swarms.write(
        folder, runs, {"kind": "runs", "domains": NAMES, "metrics": NAMES}, {"tool": "datamix", "verb": "swarm"}
    )
    return str(folder)


@pytest.fixture(scope="module")
def losses(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("losses") / "losses.json"
    path.write_text(json.dumps(dict.fromkeys(NAMES, 2.5)))
    return str(path)


def lines(folder):
    return schedule.read(str(Path(folder) / "schedule.jsonl"))


def result(folder):
    return json.loads((Path(folder) / "result.json").read_text())


def tree(folder):
    """Bytes by name, without what has a clock in it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file() and p.name != "manifest.json"}  # fmt: skip


# ---------------------------------------------------------------- a live run


def test_a_run_is_the_loop_that_one_would_write(corpus, base, mixed, tmp_path):
    assert (
        apply.run(mixed, str(corpus.folder), budget=BUDGET, base=base, seed=5, output=str(tmp_path / "run"), **SHORT)
        == 0
    )
    proxy = Proxy(TINY, 256, 0)
    proxy.restore(load_file(base))
    proxy.begin()
    held, score = (Held(corpus, 32, n, half) for n, half in ((128, "feedback"), (256, "score")))
    mixer = Mixer(Rows(corpus, 32, key_of(5, "rows")), Picker(NAMES, 5, source=corpus.source, total_source=32))
    first, weights = proxy.evaluate(score), np.array(list(STATIC.values()))
    told = lines(tmp_path / "run")
    for t in range(4):
        rows, _ = mixer.draw(weights, 16)
        proxy.train(rows, 8)
        assert list(told[t].feedback.values()) == list(proxy.evaluate(held))
        assert told[t].weights == pytest.approx(STATIC) and told[t].tokens_seen == 512 * (t + 1)
    kept = load_file(tmp_path / "run/model/proxy.safetensors")
    assert torch.equal(kept["flat"], proxy.flat.detach())
    gain = 100 * (first - proxy.evaluate(score)) / first
    found = result(tmp_path / "run")
    assert found["score"] == pytest.approx((gain[:2].mean() + gain[2:].mean()) / 2)
    assert found["tokens"] == {name: int(n) * 32 for name, n in zip(NAMES, mixer.picker.taken, strict=True)}
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert [one["path"] for one in manifest["inputs"]] == [mixed, str(corpus.folder / FILE), base]
    assert not (tmp_path / "run.work").exists() and not list(tmp_path.glob(".run*"))


def test_a_base_is_made_as_the_swarm_makes_it_and_serves_rivals(corpus, config, mixed, tmp_path):
    run = {"budget": BUDGET, "seed": 3, **SHORT}
    assert apply.run(mixed, str(corpus.folder), proxy=config, output=str(tmp_path / "a"), **run) == 0
    settings = swarm.Settings(
        1, BUDGET, "walk", {"width": 16, "context": 32, "batch": 8, "base_updates": 30, "warmup": 2}, seed=3
    )
    swarm.begin(corpus, settings, tmp_path / "swarm", False)
    swarm.make_base(str(tmp_path / "swarm"), 0)
    theirs = load_file(tmp_path / "swarm/bases/all.safetensors")
    ours = load_file(tmp_path / "a/base.safetensors")
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    for i, path in enumerate(("a/base.safetensors", "swarm/bases/all.safetensors")):  # their shape is found
        assert (
            apply.run(mixed, str(corpus.folder), base=str(tmp_path / path), output=str(tmp_path / f"b{i}"), **run) == 0
        )
        assert result(tmp_path / f"b{i}")["rows_sha256"] == result(tmp_path / "a")["rows_sha256"]
        assert lines(tmp_path / f"b{i}") == lines(tmp_path / "a")
    proxy = str(tmp_path / "a/model/proxy.safetensors")  # a run's end can be gone on from
    assert apply.run(mixed, str(corpus.folder), base=proxy, output=str(tmp_path / "c"), **run) == 0
    assert result(tmp_path / "c")["base"] == result(tmp_path / "a")["feedback"]


@pytest.mark.parametrize("kind", ["set", "blind", "decoder", "model"])
def test_agents_steer_within_the_source_budget(corpus, base, agents, kind, tmp_path):
    budget = Budget(tokens=512, steps=3, source_share=0.2)
    assert (
        apply.run(agents[kind], str(corpus.folder), budget=budget, base=base, output=str(tmp_path / "r"), **SHORT) == 0
    )
    found = lines(tmp_path / "r")
    assert len(found) == 3 and all(sum(one.vector) == pytest.approx(1) for one in found)
    assert result(tmp_path / "r")["source_tokens"] <= 0.2 * 3 * 512
    history = History(
        NAMES, corpus.source, corpus.sizes, np.array(list(result(tmp_path / "r")["base"].values())), budget
    )
    want = Agent.load(agents[kind]).decide(history).weights
    assert found[0].vector == pytest.approx(want, abs=2e-6)


@given(share=st.floats(0, 1), weights=st.lists(st.floats(0.01, 1), min_size=4, max_size=4), seed=st.integers(0, 99))
def test_a_static_mixture_never_exceeds_the_budget(corpus, share, weights, seed):
    """Through the loop of a run, with a learner that learns nothing."""

    class Nothing:
        batch, context = 8, 32

        def train(self, rows, updates=None):
            return 1.0

        def evaluate(self, held):
            return np.ones(4)

        def state(self):
            return {}

        def restore(self, state):
            pass

    from datamix.steer import Run

    w = np.array(weights) / sum(weights)
    run = Run(corpus, Nothing(), Budget(512, 4, share), seed, feedback_tokens=64, score_tokens=64)
    run.begin()
    for _ in run.steps(StaticPolicy("s", w)):
        pass
    assert run.mixer.picker.taken[corpus.source].sum() <= share * 64 + 1e-6
    assert run.mixer.picker.taken.sum() == 64


# ---------------------------------------------------------------- kills, locks, the same command again

SCRIPT = """
import sys
from datamix import apply
from datamix.history import Budget
from tenfold_shared.cli import tool

@tool("datamix", "datamix", "x")
def main():
    pass

@main.command()
def go():
    corpus, agent, base, out, pause = sys.argv[2:7]
    if float(pause):  # a step that takes a while, so that a signal finds one under way
        import time
        from datamix.steer import Run
        step = Run.step
        def slow(self, decision):
            time.sleep(float(pause))
            return step(self, decision)
        Run.step = slow
    return apply.run(agent, corpus, budget=Budget(512, 12, 0.5), base=base, output=out, feedback_tokens=128, score_tokens=256, quiet=True)

main(["go"])
"""


def command(tmp_path, *words):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return [sys.executable, str(path), "go", *map(str, words)]


def started(words):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=env)


def test_kills_change_nothing(corpus, base, agents, tmp_path):
    """A SIGTERM, then a SIGKILL, then to the end: the bytes of a run that nothing disturbed."""
    run = {"budget": Budget(512, 12, 0.5), "base": base, **SHORT}
    assert apply.run(agents["set"], str(corpus.folder), output=str(tmp_path / "whole"), **run) == 0
    words = (corpus.folder, agents["set"], base, tmp_path / "killed")

    def steps():
        path = tmp_path / "killed.work/schedule.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    for how, at, code in ((signal.SIGTERM, 2, 143), (signal.SIGKILL, 6, -9)):
        process = started(command(tmp_path, *words, 0.1))
        until = time.monotonic() + 60
        while steps() < at and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
        assert process.returncode == code, err.decode()
        assert at <= steps() < 12 and not (tmp_path / "killed").exists()
    with open(tmp_path / "killed.work/schedule.jsonl", "ab") as stream:
        stream.write(b'{"schema":"mixture-sch')  # torn
    assert apply.run(agents["set"], str(corpus.folder), output=str(tmp_path / "killed"), **run) == 0
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    assert not (tmp_path / "killed.work").exists()


def test_time_that_runs_out_is_kept(corpus, config, mixed, tmp_path, capsys):
    run = {"budget": BUDGET, "proxy": config, **SHORT}
    assert apply.run(mixed, str(corpus.folder), output=str(tmp_path / "whole"), **run) == 0
    assert apply.run(mixed, str(corpus.folder), output=str(tmp_path / "a"), max_time=1e-9, **run) == 1
    assert "0 of 4 steps" in capsys.readouterr().err
    assert (tmp_path / "a.work/base.safetensors").exists()  # the base need not be made again
    made = os.stat(tmp_path / "a.work/base.safetensors").st_mtime_ns
    assert apply.run(mixed, str(corpus.folder), output=str(tmp_path / "a"), max_time=1e-9, **run) == 1
    assert os.stat(tmp_path / "a.work/base.safetensors").st_mtime_ns == made
    assert apply.run(mixed, str(corpus.folder), output=str(tmp_path / "a"), **run) == 0
    assert tree(tmp_path / "a") == tree(tmp_path / "whole")


def test_the_same_command_again_and_others(corpus, base, mixed, tmp_path, capsys):
    run = {"budget": BUDGET, "base": base, "feedback_tokens": 128, "score_tokens": 256}
    out = str(tmp_path / "r")
    assert apply.run(mixed, str(corpus.folder), output=out, as_json=True, **run) == 0
    first = json.loads(capsys.readouterr().out)
    stamp = os.stat(tmp_path / "r/model/proxy.safetensors").st_mtime_ns
    assert apply.run(mixed, str(corpus.folder), output=out, as_json=True, **run) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == first and "nothing to do" in told.err
    assert os.stat(tmp_path / "r/model/proxy.safetensors").st_mtime_ns == stamp
    with pytest.raises(BadInput, match="was made with --seed 0, this one has 1"):
        apply.run(mixed, str(corpus.folder), output=out, seed=1, **run)
    assert apply.run(mixed, str(corpus.folder), output=out, seed=1, overwrite=True, **run) == 0
    assert json.loads((tmp_path / "r/manifest.json").read_text())["seed"] == 1
    assert (
        apply.run(mixed, str(corpus.folder), output=str(tmp_path / "s"), schedule_only=True, max_time=None, **run) == 0
    )
    assert not (tmp_path / "s/model").exists() and (tmp_path / "s/result.json").exists()
    capsys.readouterr()
    lock = Lock(tmp_path / ".t.lock", tmp_path / "t")
    with pytest.raises(Busy):
        apply.run(mixed, str(corpus.folder), output=str(tmp_path / "t"), **run)
    lock.release()


def test_unfinished_work_of_other_options_is_kept(corpus, base, mixed, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    from datamix.steer import Run

    step = Run.step

    def two(self, decision):
        if len(self.history) == 2:
            raise Stop
        return step(self, decision)

    run = {"budget": BUDGET, "base": base, "output": str(tmp_path / "r"), **SHORT}
    with monkeypatch.context() as patch:
        patch.setattr(Run, "step", two)
        with pytest.raises(Stop):
            apply.run(mixed, str(corpus.folder), **run)
    with pytest.raises(BadInput, match=r"unfinished run was made with --proxy .*0.003"):
        apply.run(mixed, str(corpus.folder), lr=1e-3, **run)
    state = tmp_path / "r.work/state.safetensors"
    state.write_bytes(state.read_bytes()[:-10])  # not whole: begun again, with a word
    assert apply.run(mixed, str(corpus.folder), **run) == 0
    assert apply.run(mixed, str(corpus.folder), **{**run, "output": str(tmp_path / "s")}) == 0
    assert tree(tmp_path / "r") == tree(tmp_path / "s")


def test_a_loss_that_is_no_number_ends_the_run_with_its_work(corpus, base, mixed, tmp_path, monkeypatch, capsys):
    train = Proxy.train

    def broken(self, rows, updates=None):
        return float("nan") if self.updates >= 4 else train(self, rows, updates)

    run = {"budget": BUDGET, "base": base, "output": str(tmp_path / "r"), **SHORT}
    with monkeypatch.context() as patch:
        patch.setattr(Proxy, "train", broken)
        assert apply.run(mixed, str(corpus.folder), **run) == 1
    assert "training loss is no number in step 2; what was saved before is kept" in capsys.readouterr().err
    assert (tmp_path / "r.work/state.safetensors").exists() and not (tmp_path / "r").exists()
    assert apply.run(mixed, str(corpus.folder), **run) == 0  # and can be gone on with


# ---------------------------------------------------------------- several processes

RANKS = """
import json, os, sys
import datamix.agent, datamix.features, datamix.foreign, datamix.proxy, datamix.ranks, datamix.steer, transformers.models.llama.modeling_llama, torch.distributed
import torch._dynamo  # which an optimiser imports when it is made
from datamix import apply
from datamix.foreign import Training
from datamix.history import Budget
from datamix.stream import Mixer

def work(corpus, agent, out, kind, given):
    how = {"proxy": given} if kind == "proxy" else {"model": given, "training": Training(batch=8, context=32, micro=1, warmup=2, lr=1e-3)}
    draw, seen = Mixer.draw, []
    def noted(self, weights, n):
        rows, chosen = draw(self, weights, n)
        seen.append(chosen.tolist())
        return rows, chosen
    Mixer.draw = noted
    code = apply.run(agent, corpus, budget=Budget(512, 3, 0.5), output=out, feedback_tokens=128, score_tokens=256, quiet=True, **how)
    with open(f"{out}.rank{os.environ['RANK']}.json", "w") as stream:
        json.dump(seen[-3:], stream)  # a base of its own was drawn before
    return code

if os.environ.get("RANK"):  # torchrun is our parent
    sys.exit(work(*sys.argv[1:]))
# The processes that torchrun would start, forked, so that what they import is imported once.
import socket
for job in json.loads(sys.argv[1]):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(job["size"]):
        child = os.fork()
        if child == 0:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(job["size"]), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            code = 70
            try:
                code = work(*job["words"])
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    if any([os.waitpid(child, 0)[1] for child in children]):
        sys.exit(1)
"""
SIZES = (1, 2, 4)


def run_ranks(tmp_path, words, *, torchrun=None):
    """Processes that find the variables of torchrun; words: JSON of jobs, or one job's words for a real torchrun."""
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    call = [sys.executable, str(script)]
    if torchrun is not None:
        call[1:1] = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={torchrun}"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*call, *map(str, words)], capture_output=True, text=True, timeout=240, env=env)
    assert done.returncode == 0, done.stderr[-3000:]


def job(size, *words):
    return {"size": size, "words": list(map(str, words))}


def same_rows(tmp_path):
    first, picks = result(tmp_path / "n1"), json.loads((tmp_path / "n1.rank0.json").read_text())
    assert len(picks) == 3
    for n in SIZES:
        for rank in range(n):
            assert json.loads((tmp_path / f"n{n}.rank{rank}.json").read_text()) == picks
        assert result(tmp_path / f"n{n}")["rows_sha256"] == first["rows_sha256"]
        for one, other in zip(lines(tmp_path / f"n{n}"), lines(tmp_path / "n1"), strict=True):
            assert one.weights == pytest.approx(other.weights, abs=3e-6)
            assert one.feedback == pytest.approx(other.feedback, abs=1e-5)


def test_one_two_and_four_processes_are_one_run(corpus, config, tokens, model, agents, tmp_path):
    """The same rows on every rank of every world, the same schedule, and losses to rounding; proxies and models of transformers."""
    jobs = [job(n, corpus.folder, agents["set"], tmp_path / f"n{n}", "proxy", config) for n in SIZES]
    jobs.append(job(2, tokens.folder, agents["set"], tmp_path / "two", "model", model))
    run_ranks(tmp_path, [json.dumps(jobs)])
    same_rows(tmp_path)
    # What one process of torchrun does is what one without it does.
    run = {"budget": Budget(512, 3, 0.5), **SHORT}
    assert apply.run(agents["set"], str(corpus.folder), proxy=config, output=str(tmp_path / "alone"), **run) == 0
    assert tree(tmp_path / "alone") == tree(tmp_path / "n1")
    how = Training(batch=8, context=32, micro=1, warmup=2, lr=1e-3)
    assert (
        apply.run(agents["set"], str(tokens.folder), model=model, training=how, output=str(tmp_path / "one"), **run)
        == 0
    )
    assert result(tmp_path / "one")["rows_sha256"] == result(tmp_path / "two")["rows_sha256"]
    for one, other in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert one.feedback == pytest.approx(other.feedback, abs=2e-5)


@pytest.mark.deep
def test_torchrun_itself(corpus, config, agents, tmp_path):
    for n in SIZES:
        run_ranks(tmp_path, [corpus.folder, agents["set"], tmp_path / f"n{n}", "proxy", config], torchrun=n)
    same_rows(tmp_path)


class Three(ranks.Ranks):
    """A rank of three in one process; sums are made by whoever holds all three."""

    def __init__(self, rank):
        super().__init__()
        self.size, self.rank, self.sent = 3, rank, []

    def add(self, tensors):
        self.sent.append([x.clone() for x in tensors])


def test_slices_of_unequal_length_add_up_to_the_whole_gradient(corpus):
    """Eight rows over three ranks, and one row over three: weighted by rows, a rank without one gives zero."""
    rows, _ = Mixer(Rows(corpus, 32, 1), Picker(NAMES, 1)).draw(np.full(4, 0.25), 8)
    for n in (8, 1):
        whole = Proxy(TINY, 256, 0)
        loss = whole.backward(torch.from_numpy(rows[:n]))
        parts = []
        for rank in range(3):
            one = ranks.SharedProxy(Proxy(TINY, 256, 0), Three(rank))
            one.train(rows[:n])
            parts.append(one.ranks.sent)
        total = sum(sent[0][0] for sent in parts)
        assert torch.allclose(total, whole.gradient, atol=1e-7)
        assert float(sum(sent[1][0] for sent in parts)) == pytest.approx(loss, abs=1e-6)


# ---------------------------------------------------------------- models of transformers


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(tiny_models.save_model(tmp_path_factory.mktemp("model") / "m"))


@pytest.fixture(scope="module")
def tokens(model, tmp_path_factory) -> Corpus:
    """The same words in the tokens of the tiny model's tokenizer."""
    folder = tmp_path_factory.mktemp("tokens")
    encode = build.Tokens(model)
    domains = []
    for name in NAMES:
        parts = {}
        for split, size in (("train", 4000), ("valid", 1200)):
            text = text_of(name, size, part=split)
            texts = [text[i : i + 400] for i in range(0, len(text), 400)]
            parts[split] = build.write_texts(folder, name, split, texts, encode)
        domains.append(
            Domain(name, "target" if name in ("gamma", "delta") else "source", parts["train"], parts["valid"])
        )
    listing = Listing(
        domains, tokenizer=model, dtype=encode.dtype, vocabulary=encode.vocabulary, separator=encode.separator
    )
    import msgspec

    (folder / FILE).write_bytes(msgspec.json.encode(listing))
    return Corpus.load(folder)


HOW = Training(batch=8, context=32, warmup=2, lr=1e-3)


def test_a_model_trains_as_a_loop_of_torch_would(tokens, model):
    """Against transformers' own loss and torch's own AdamW."""
    ours = Foreign(
        tiny_models.make_lm(), None, Training(batch=4, context=32, micro=3, warmup=2, lr=1e-3, decay="cosine")
    )
    theirs = tiny_models.make_lm()
    matrices = [p for p in theirs.parameters() if p.ndim > 1]
    others = [p for p in theirs.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))
    rows, _ = Mixer(Rows(tokens, 32, 1), Picker(NAMES, 1)).draw(np.full(4, 0.25), 24)
    found = [ours.train(rows[:12], 6), ours.train(rows[12:])]
    rates = [0.5, 1.0, *(0.5 * (1 + np.cos(np.pi * k / 4)) for k in (1, 2, 3, 4))]
    want = []
    for i, rate in enumerate(rates):
        batch = torch.from_numpy(rows[4 * i : 4 * i + 4])
        logits = theirs(input_ids=batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        for group in adam.param_groups:
            group["lr"] = 1e-3 * rate
        adam.step()
        want.append(float(loss.detach()))
    assert found == pytest.approx([np.mean(want[:3]), np.mean(want[3:])], abs=1e-5)
    for (name, p), q in zip(ours.named, theirs.parameters(), strict=True):
        assert torch.allclose(p, q, atol=2e-5), name


def test_bits_per_byte_are_those_of_the_text(tokens):
    """The mean loss of all held-out tokens by hand, times tokens a byte."""
    one = Foreign(tiny_models.make_lm(), None, HOW)
    held = Held(tokens, 32, 200, "feedback")
    found, at = one.evaluate(held), 0
    with torch.no_grad():
        for d, n in enumerate(held.counts):
            rows = held.rows[at : at + n]
            at += n
            nats = float(
                one.model(input_ids=rows[:, :-1], labels=None)
                .logits.log_softmax(-1)
                .gather(2, rows[:, 1:, None])
                .mean()
            )
            part = tokens.domains[d].valid
            assert found[d] == pytest.approx(-nats / np.log(2) * part.tokens / part.bytes, rel=1e-5)


def test_a_restored_model_goes_on_to_the_same_bits(tokens):
    rows, _ = Mixer(Rows(tokens, 32, 1), Picker(NAMES, 1)).draw(np.full(4, 0.25), 64)
    one = Foreign(tiny_models.make_lm("gpt2"), None, HOW)  # tied embeddings
    one.train(rows[:32], 8)
    kept = one.state()
    one.train(rows[32:])
    other = Foreign(tiny_models.make_lm("gpt2"), None, HOW)
    other.restore(kept)
    other.train(rows[32:])
    assert all(torch.equal(x, other.state()[name]) for name, x in one.state().items())


def test_apply_on_a_model(tokens, model, agents, mixed, tmp_path):
    """A model folder comes out that transformers loads, in the checkpoint's type, and that learnt; a kill between steps costs nothing."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = {"budget": Budget(2 * 8 * 32, 3, 0.5), "model": model, "training": HOW, **SHORT}
    assert apply.run(agents["set"], str(tokens.folder), output=str(tmp_path / "r"), **run) == 0
    assert apply.run(agents["set"], str(tokens.folder), output=str(tmp_path / "s"), max_time=1e-9, **run) == 1
    assert apply.run(agents["set"], str(tokens.folder), output=str(tmp_path / "s"), **run) == 0
    assert tree(tmp_path / "r") == tree(tmp_path / "s")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "r/model")
    assert AutoTokenizer.from_pretrained(tmp_path / "r/model").encode("the dog") == tiny_models.make_tokenizer().encode(
        "the dog"
    )
    held = Held(tokens, 32, 128, "feedback")
    losses = dict(zip(NAMES, Foreign(again, None, HOW).evaluate(held), strict=True))
    assert losses == pytest.approx(lines(tmp_path / "r")[-1].feedback, rel=1e-6)
    assert result(tmp_path / "r")["score"] > 1


def test_a_corpus_in_other_tokens_is_refused(corpus, tokens, model, mixed, tmp_path):
    run = {"budget": BUDGET, "model": model, "training": HOW, "output": str(tmp_path / "r"), **SHORT}
    with pytest.raises(BadInput, match=rf"tokens of bytes, which are not those of {model}; .*--tokenizer {model}"):
        apply.run(mixed, str(corpus.folder), **run)
    check_tokens(tokens, tiny_models.make_tokenizer(), "of another name and the same tokens")
    bare = Corpus(tmp_path, tokens.listing)  # tokens without texts: by name
    check_tokens(bare, tiny_models.make_tokenizer(), model)
    with pytest.raises(BadInput, match="no texts, the model is x"):
        check_tokens(bare, tiny_models.make_tokenizer(), "x")
    with pytest.raises(BadInput, match="float16"):
        apply.run(mixed, str(tokens.folder), **run, dtype="float16")
    with pytest.raises(BadInput, match="leave out --proxy"):
        apply.run(mixed, str(tokens.folder), **run, proxy="22k")
    with pytest.raises(BadInput, match="weights are needed"):
        apply.run(mixed, str(tokens.folder), **{**run, "model": "http://host/v1"})


# ---------------------------------------------------------------- plans


def planned(capsys, *given, **more):
    assert plan.run(*given, **{"quiet": True, **more}) == 0
    return capsys.readouterr()


def test_a_plan_run_through_apply_uses_its_weights(corpus, base, agents, tmp_path):
    out = tmp_path / "schedule.jsonl"
    assert (
        plan.run(
            agents["model"],
            str(corpus.folder),
            budget=BUDGET,
            base=base,
            output=str(out),
            feedback_tokens=128,
            quiet=True,
        )
        == 0
    )
    told = schedule.read(str(out))
    assert len(told) == 4 and all(one.feedback is None for one in told)
    assert apply.run(str(out), str(corpus.folder), budget=BUDGET, base=base, output=str(tmp_path / "r"), **SHORT) == 0
    for one, other in zip(told, lines(tmp_path / "r"), strict=True):
        assert one.weights == pytest.approx(other.weights, abs=2e-6)
    counts = json.loads((tmp_path / "schedule.jsonl.manifest.json").read_text())["counts"]
    assert counts["feedback"] == "the world model of the agent" and set(counts["imagined"]["losses"]) == set(NAMES)
    # Its first mixture is the agent's, from the measured losses; then it is the world's rollout.
    start = np.array(list(result(tmp_path / "r")["base"].values()))
    history = History(NAMES, corpus.source, corpus.sizes, start, BUDGET)
    want = [weights for weights, _ in world.Simulator.load(agents["model"]).rollout(history)]
    assert np.array([one.vector for one in told]) == pytest.approx(np.array(want), abs=2e-6)


def test_recorded_runs_stand_in_for_feedback(corpus, recorded, agents, tmp_path, capsys):
    """Where f̂ moves by a known rule, what is imagined from recorded runs is near the rule, and the agent's decisions follow it."""
    out = tmp_path / "plan.jsonl"
    told = planned(
        capsys, agents["set"], str(corpus.folder), swarm=recorded, budget=BUDGET, output=str(out), as_json=True
    )
    counts = json.loads(told.out)
    assert counts["feedback"] == "by domain, mean of the 5 nearest of 12 recorded runs of the task all"
    weights = np.array([one.vector for one in schedule.read(str(out))])
    want = 3 * (1 - 0.1 * weights.sum(0))
    assert np.array(list(counts["imagined"]["losses"].values())) == pytest.approx(want, abs=0.2)
    history = History(NAMES, corpus.source, corpus.sizes, np.full(4, 3.0), BUDGET)
    stands, agent = plan.Recorded(swarms.read(recorded), history), Agent.load(agents["set"])
    for row in weights:
        decided = agent.decide(history).weights
        assert row == pytest.approx(decided, abs=2e-6)
        history.add(decided, stands.after(history, decided))
    # A swarm alone says all there is to know.
    alone = planned(capsys, agents["set"], recorded, output=str(tmp_path / "alone.jsonl"))
    assert not alone.out and len(schedule.read(str(tmp_path / "alone.jsonl"))) == 4


def test_the_nearest_run_of_one_is_that_run(recorded):
    """Along a recorded run's own mixtures, with one neighbour, its own losses come out; also read at another number of steps."""
    runs = swarms.read(recorded)
    one = runs[7].history()
    for steps in (4, 8):
        history = History(one.names, one.source, one.available, one.base, Budget(512, steps, 0.5))
        stands = plan.Recorded(runs, history, nearest=1)
        for t in range(steps):
            weights = one.weights[t * 4 // steps]
            history.add(weights, stands.after(history, weights))
        assert (
            history.losses[:: steps // 4]
            if steps < 4
            else history.losses[steps // 4 - 1 :: steps // 4] == pytest.approx(one.losses)
        )


def test_runs_over_other_domains_serve_by_role(recorded):
    runs = swarms.read(recorded)
    names = ["x", "y", "z"]
    source = np.array([False, True, True])
    history = History(names, source, np.full(3, 8000), np.array([2.0, 4.0, 5.0]), Budget(512, 4, 0.5))
    stands = plan.Recorded(runs, history, nearest=12)
    weights = np.array([0.6, 0.2, 0.2])
    gains = np.array([one.history().gains[1] for one in runs]).mean(0)
    want = history.base * (1 - np.array([gains[2:].mean(), gains[:2].mean(), gains[:2].mean()]))
    assert stands.after(history, weights) == pytest.approx(want)


def test_plans_that_need_no_feedback(corpus, agents, mixed, tmp_path, capsys):
    told = planned(capsys, mixed, str(corpus.folder), budget=BUDGET, output=None)
    found = [json.loads(line) for line in told.out.splitlines()]
    assert [one["weights"] for one in found] == [pytest.approx(STATIC)] * 4 and found[3]["tokens_seen"] == 2048
    tight = planned(capsys, mixed, str(corpus.folder), budget=Budget(512, 4, 0.1), output=None)
    shares = [json.loads(line)["weights"] for line in tight.out.splitlines()]
    assert all(one["alpha"] + one["beta"] == pytest.approx(0.1, abs=1e-5) for one in shares)
    blind = planned(capsys, agents["blind"], str(corpus.folder), budget=BUDGET, output=None)
    assert len(blind.out.splitlines()) == 4
    # Another length: stretched by tokens, the last stage twice as long as the first.
    two = tmp_path / "two.jsonl"
    halves = [
        schedule.line(0, 1000, {**dict.fromkeys(NAMES, 0.0), "gamma": 1.0}),
        schedule.line(1, 3000, {**dict.fromkeys(NAMES, 0.0), "delta": 1.0}),
    ]
    two.write_bytes(schedule.schedule_file(halves))
    six = planned(capsys, str(two), str(corpus.folder), budget=Budget(512, 6), output=None)
    assert [json.loads(line)["weights"]["gamma"] for line in six.out.splitlines()] == [1, 1, 0, 0, 0, 0]
    assert "stretched" in six.err


def test_a_plan_again_is_left_alone(corpus, mixed, tmp_path, capsys):
    out = tmp_path / "p.jsonl"
    first = planned(capsys, mixed, str(corpus.folder), budget=BUDGET, output=str(out), as_json=True)
    stamp = os.stat(out).st_mtime_ns
    again = planned(capsys, mixed, str(corpus.folder), budget=BUDGET, output=str(out), as_json=True)
    assert again.out == first.out and os.stat(out).st_mtime_ns == stamp
    with pytest.raises(BadInput, match="--budget-bytes 2048, this one has 2560"):
        plan.run(mixed, str(corpus.folder), budget=Budget(512, 5, 0.5), output=str(out))


def test_a_plan_says_what_its_critics_expect(corpus, agents, losses, capsys):
    """q of every line is the critics' at that state of the imagined run, as `apply` writes it of a real one."""
    told = planned(capsys, agents["model"], str(corpus.folder), budget=BUDGET, losses=losses, output=None)
    history = History(NAMES, corpus.source, corpus.sizes, np.full(4, 2.5), BUDGET)
    agent, rollout = Agent.load(agents["model"]), world.Simulator.load(agents["model"]).rollout(history)
    found = [json.loads(line)["q"] for line in told.out.splitlines()]
    assert len(found) == 4 and len(set(found)) > 1
    for q, (weights, after) in zip(found, rollout, strict=True):
        assert q == pytest.approx(agent.q(history, weights), abs=1e-4)
        history.add(weights, after)
    blind = planned(capsys, agents["blind"], str(corpus.folder), budget=BUDGET, output=None)
    assert all(json.loads(line)["q"] is None for line in blind.out.splitlines())  # without critics


def test_a_plan_notices_another_world(corpus, agents, losses, tmp_path, capsys):
    """The world is among the inputs, and is the agent's own."""
    folder, out = tmp_path / "agent", tmp_path / "p.jsonl"
    shutil.copytree(agents["model"], folder)
    run = {"budget": BUDGET, "losses": losses, "output": str(out)}
    planned(capsys, str(folder), str(corpus.folder), **run)
    listed = [Path(one["path"]).name for one in json.loads((tmp_path / "p.jsonl.manifest.json").read_text())["inputs"]]
    assert listed[:3] == ["agent.json", "agent.safetensors", "world.safetensors"]
    whole = bytearray((folder / "world.safetensors").read_bytes())
    whole[-1] ^= 1
    (folder / "world.safetensors").write_bytes(whole)
    with pytest.raises(BadInput, match=r"world\.safetensors: not an agent's world.*of another agent"):
        plan.run(str(folder), str(corpus.folder), **run)


def test_a_world_that_comes_to_no_mixture_is_told(corpus, agents, losses, monkeypatch, tmp_path):
    wrong = Decision(np.full(4, np.nan))
    monkeypatch.setattr(Agent, "decide", lambda self, history: wrong)
    with pytest.raises(BadInput, match="agent-model: step 0: expected numbers"):
        plan.run(agents["model"], str(corpus.folder), budget=BUDGET, losses=losses, output=str(tmp_path / "p"))
    assert not (tmp_path / "p").exists()


def test_losses_from_a_pipe_are_part_of_what_a_plan_is(corpus, agents, tmp_path, capsys):
    """A pipe is read once; what came out of it is in the manifest."""

    def run(loss):
        read, write = os.pipe()
        os.write(write, json.dumps(dict.fromkeys(NAMES, loss)).encode())
        os.close(write)
        try:
            return plan.run(agents["model"], str(corpus.folder), budget=BUDGET, losses=f"/dev/fd/{read}", output=str(tmp_path / "p"))  # fmt: skip
        finally:
            os.close(read)

    assert run(2.5) == run(2.5) == 0 and "nothing to do" in capsys.readouterr().err
    with pytest.raises(BadInput, match="was made with --losses"):
        run(3.5)


@pytest.mark.parametrize("way", ["swarm", "from"])
def test_options_change_the_budget_of_a_swarm_one_by_one(corpus, recorded, mixed, tmp_path, way):
    """The recorded runs have 4 steps of 512 tokens and half of them source text at most."""
    data = [recorded] if way == "swarm" else [corpus.folder, "--from", recorded]
    for i, (words, changed) in enumerate([
        ([], {}), (["--steps", 8], {"steps": 8}), (["--budget-bytes", 4096], {"budget_bytes": 4096}),
        (["--source-budget", 0.1], {"source_budget": 0.1}), (["--max-epochs", 2, "--steps", 2], {"max_epochs": 2.0, "steps": 2}),
    ]):  # fmt: skip
        found = verb("plan", mixed, *data, *words, "-o", tmp_path / f"{i}.jsonl")
        assert found.exit_code == 0, found.stderr
        told = json.loads((tmp_path / f"{i}.jsonl.manifest.json").read_text())["options"]
        want = {"steps": 4, "budget_bytes": 2048, "source_budget": 0.5, "max_epochs": 0.0} | changed
        assert {name: told[name] for name in want} == want
    found = verb("plan", mixed, *data, "--steps", 4096)
    assert (
        found.exit_code == 2 and "--budget-bytes 2048: is less than one token for each of --steps 4096" in found.stderr
    )
    text = " ".join(verb("plan", "--help").stdout.split())
    assert "[the SWARM's, else 16]" in text and "[the SWARM's, else 131072]" in text and "default: 16" not in text


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "place",
    ["agent/world.safetensors", "agent/new.jsonl", "swarm/plan.json", "swarm/a/../new", "losses.json", "link"],
)
def test_a_plan_is_not_written_over_an_input(agents, recorded, losses, tmp_path, place):
    """An input, or anything in the folder of one, whether or not it is there."""
    shutil.copytree(agents["model"], tmp_path / "agent")
    shutil.copytree(recorded, tmp_path / "swarm")
    shutil.copy(losses, tmp_path / "losses.json")
    (tmp_path / "swarm/plan.json").write_text("{}")
    (tmp_path / "swarm/a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "agent/agent.json")
    before = tree(tmp_path)
    words = [tmp_path / "agent", tmp_path / "swarm", "--losses", tmp_path / "losses.json", "-o", tmp_path / place]
    for more in ([], ["--overwrite"]):
        found = verb("plan", *words, *more)
        assert found.exit_code == 2 and "is within an input; choose another output" in found.stderr
    assert tree(tmp_path) == before


def test_what_apply_refuses(corpus, base, mixed, agents, tmp_path):
    other = make_corpus(tmp_path / "other", {"one": 5000, "two": 5000}, valid=2000)
    run = {"budget": BUDGET, "output": str(tmp_path / "r"), **SHORT}

    def refused(said, agent=mixed, data=corpus, **more):
        with pytest.raises(BadInput, match=said):
            apply.run(agent, str(data.folder), **{**run, **more})
        assert (
            not (tmp_path / "r").exists() and not (tmp_path / "r.work").exists() and not (tmp_path / ".r.lock").exists()
        )

    refused("was made for the 4 domains alpha", agents["decoder"], other, base=base)
    refused("alpha: no such domain; there are one, two", mixed, other, base=base)
    refused("no such file; expected an agent's folder", str(tmp_path / "none"), base=base)
    refused("no such file; expected an agent ", str(tmp_path), base=base)
    refused("what is to be trained")
    refused("expected one of 22k", proxy="23k")
    refused("is not a base of this proxy .*19456|is not a base of this proxy", base=base, proxy="22k")
    refused("no such file", base=str(tmp_path / "none.safetensors"), proxy="22k")
    refused("not a base", base=mixed)
    refused("--lr nan", base=base, lr=float("nan"))
    refused("fewer than one update", base=base, budget=Budget(100, 4))
    refused("--source-budget 1.5", base=base, budget=Budget(512, 4, 1.5))
    refused("expected 1 or more", base=base, budget=Budget(512, 0))
    refused("smallest target", base=base, budget=Budget(8192, 40, 0.5, max_epochs=1))
    refused("-o RUN", base=base, output=None)
    refused("does not exist", base=base, output=str(tmp_path / "no/where"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("x")
    for overwrite in (False, True):
        refused("did not make", base=base, output=str(tmp_path / "mine"), overwrite=overwrite)
    assert (tmp_path / "mine/file").read_text() == "x"

    class Wild:
        name = "wild"

        def decide(self, history):
            return Decision(np.array([0.5, np.nan, 0.2, 0.3]))

    refused("wild: step 0: expected numbers", Wild(), base=base)


def verb(*words):
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="datamix")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--feedback", "f", "--weights", "w", "--proxy", "22k"], "--proxy goes without --feedback and --weights"),
        (["--feedback", "f", "--weights", "w", "--model", "m"], "--model goes without"),
        (["--feedback", "f", "--weights", "w", "--lr", "1"], "--lr goes without"),
        (["--feedback", "f", "--weights", "w", "--schedule-only"], "--schedule-only goes without"),
        (["--feedback", "f", "--weights", "w", "--json"], "--json goes without"),
        (["--feedback", "f", "--weights", "w", "--seed", "0"], "--seed goes without"),
        (["--feedback", "f", "--weights", "w", "--base", "b"], "--base goes without"),
        (["--feedback", "f", "--weights", "w", "--plot", "p.png"], "expected the schedule's name"),
        (["--proxy", "22k", "--context", "512"], "--context goes with --model"),
        (["--proxy", "22k", "--batch-size", "8"], "--batch-size goes with --model"),
        (["--base", "b", "--dtype", "float32"], "--dtype goes with --model"),
        (["--proxy", "22k", "--model", "m"], "expected one of --model, --proxy"),
        ([], "expected one of --model, --proxy"),
        (["--feedback", "f"], "--feedback and --weights go together"),
    ],
)
def test_options_that_would_change_nothing_are_refused(words, told):
    found = verb("apply", "agent", "corpus", *words)
    assert found.exit_code == 2 and told in found.stderr and found.stderr.count("\n") == 1


def test_a_base_says_what_is_trained(corpus, base, mixed, tmp_path):
    """--base alone is enough: the shape is in the file. And the schedule is drawn."""
    words = ["--steps", 4, "--budget-bytes", 2048, "--schedule-only", "--feedback-tokens", 128, "--json", "-q"]
    picture = tmp_path / "run.png"
    found = verb("apply", mixed, corpus.folder, "--base", base, *words, "-o", tmp_path / "run", "--plot", picture)
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)["steps"] == 4 and picture.read_bytes().startswith(b"\x89PNG")
    picture.unlink()
    again = verb("apply", mixed, corpus.folder, "--base", base, *words, "-o", tmp_path / "run", "--plot", picture)
    assert again.exit_code == 0 and picture.exists()  # of the run that is there


def test_plans_watched_runs_and_swarms_are_drawn(corpus, config, mixed, tmp_path):
    budget = ["--steps", 3, "--budget-bytes", 1536]
    out = tmp_path / "s.jsonl"
    assert verb("plan", mixed, corpus.folder, *budget, "-o", out, "--plot", tmp_path / "plan.svg").exit_code == 0
    assert (tmp_path / "plan.svg").read_text().startswith("<?xml")
    found = verb("plan", mixed, corpus.folder, *budget, "--plot", tmp_path / "x.svg")
    assert found.exit_code == 2 and "--plot goes with -o FILE" in found.stderr
    feedback = tmp_path / "f.jsonl"
    feedback.write_text("".join(json.dumps({"step": t, "feedback": dict.fromkeys(NAMES, 3 - t / 10)}) + "\n" for t in range(4)))  # fmt: skip
    words = ["apply", mixed, corpus.folder, *budget, "--feedback", feedback, "--weights", tmp_path / "w.json"]
    found = verb(*words, "-o", out, "--plot", tmp_path / "watched.png")
    assert found.exit_code == 2 and "no schedule of this run" in found.stderr  # the plan's
    found = verb(*words, "-o", out, "--overwrite", "--plot", tmp_path / "watched.png")
    assert found.exit_code == 0, found.stderr
    assert (tmp_path / "watched.png").exists() and schedule.read(str(out))[0].feedback["alpha"] == 2.9
    words = ["swarm", corpus.folder, "--trajectories", 2, *budget, "--proxy", config, "-o", tmp_path / "swarm", "-q"]
    found = verb(*words, "--workers", 1, "--plot", tmp_path / "swarm.png")
    assert found.exit_code == 0 and (tmp_path / "swarm.png").exists(), found.stderr
    found = verb(*words, "--only", 1, "--plot", tmp_path / "one.png")
    assert found.exit_code == 2 and "leave out --only" in found.stderr


def test_messages_name_options_that_there_are(model):
    known = {name for verb in main.commands.values() for param in verb.params for name in param.opts}
    told = []
    for wrong in ({"micro": -1}, {"warmup": -1}, {"batch": 0}, {"lr": 0.0}):
        with pytest.raises(BadInput) as found:
            Training(**wrong).checked()
        told.append(str(found.value))
    told.append(str(foreign._told(RuntimeError("CUDA out of memory"))))
    assert "out of memory" in told[-1]
    assert {name for line in told for name in re.findall(r"--[a-z-]+", line)} <= known


def test_what_plan_refuses(corpus, base, recorded, agents, mixed, tmp_path):
    def refused(said, agent=agents["set"], data=str(corpus.folder), **more):
        with pytest.raises(BadInput, match=said):
            plan.run(agent, data, **{"budget": BUDGET, "output": str(tmp_path / "p"), **more})
        assert not list(tmp_path.glob("*p*"))

    losses = tmp_path / "losses.json"
    losses.write_text(json.dumps(dict.fromkeys(NAMES, 2.5)))
    refused("from recorded|has no world to plan in; name recorded runs", losses=str(losses))
    refused("decides from losses", agents["model"])
    refused("expected --steps", mixed, budget=None)
    refused("--proxy 22k: is the shape of --base FILE", mixed, proxy="22k")
    refused("no finished run of it; there are all", swarm=recorded, task="other")
    refused("without texts to measure", data=recorded, base=base)
    refused(
        "was made for",
        agents["decoder"],
        str(make_corpus(tmp_path / "other", {"one": 5000, "two": 5000}).folder),
        swarm=recorded,
    )
    for told, said in (
        ("[1]", "expected one object"),
        ('{"alpha": 1}', "beta: expected a number"),
        ('{"alphA": 1}', "alphA: no such domain"),
        (
            '{"alpha": 1, "beta": 2, "alpha": 1, "gamma": 1, "delta": 1}',
            "alpha: named twice; expected each domain once",
        ),
        (json.dumps(dict.fromkeys(NAMES, 1e300)), r"--losses .*losses\.json: alpha: expected at most 64 bits per byte"),
        (json.dumps({**dict.fromkeys(NAMES, 64), "gamma": 64.5}), "gamma: expected at most 64 bits per byte, got 64.5"),
    ):
        losses.write_text(told)
        refused(said, losses=str(losses))
    losses.write_text(json.dumps({**dict.fromkeys(NAMES, 2.5), "beta": -1}))
    refused("beta: expected a number above 0", losses=str(losses))
    refused("is a folder; expected a file of one JSON object", losses=str(corpus.folder))
    never = Budget(192, 4, 0.3, max_epochs=0.0001)
    refused("768 tokens are wanted and 3 may be used under --max-epochs 0.0001", mixed, budget=never)
    refused("gamma is the smallest target|delta is the smallest target", mixed, recorded, budget=never)
