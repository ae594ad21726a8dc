"""`apply`: live runs against a loop written by hand, kills, ranks, models of transformers, and bad input."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from datamix_agents import BUDGET, NAMES, SHORT, STATIC, TINY, lines, result, tree, verb
from datamix_corpus import make_corpus
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from datamix import apply, foreign, ranks, swarm
from datamix.agent import Agent
from datamix.baselines.static import StaticPolicy
from datamix.cli import main
from datamix.corpus import FILE
from datamix.foreign import Training
from datamix.history import Budget, Decision, History
from datamix.proxy import Held, Proxy
from datamix.stream import Mixer, Picker, Rows, key_of
from tenfold_shared import BadInput, Busy
from tenfold_shared.jsonl import Lock

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


@pytest.mark.parametrize("way", ["swarm", "from"])
def test_options_change_the_budget_of_a_swarm_one_by_one(corpus, recorded, mixed, tmp_path, way):
    """The recorded runs have 4 steps of 512 tokens and half of them source text at most."""
    data = [recorded] if way == "swarm" else [corpus.folder, "--from", recorded]
    for i, (words, changed) in enumerate([
        ([], {}), (["--steps", 8], {"steps": 8}), (["--run-tokens", 4096], {"run_tokens": 4096}),
        (["--source-budget", 0.1], {"source_budget": 0.1}), (["--max-epochs", 2, "--steps", 2], {"max_epochs": 2.0, "steps": 2}),
    ]):  # fmt: skip
        found = verb("plan", mixed, *data, *words, "-o", tmp_path / f"{i}.jsonl")
        assert found.exit_code == 0, found.stderr
        told = json.loads((tmp_path / f"{i}.jsonl.manifest.json").read_text())["options"]
        want = {"steps": 4, "run_tokens": 2048, "source_budget": 0.5, "max_epochs": 0.0} | changed
        assert {name: told[name] for name in want} == want
    found = verb("plan", mixed, *data, "--steps", 4096)
    assert found.exit_code == 2 and "--run-tokens 2048: is less than one token for each of --steps 4096" in found.stderr
    text = " ".join(verb("plan", "--help").stdout.split())
    assert "[the SWARM's, else 16]" in text and "[the SWARM's, else 131072]" in text and "default: 16" not in text


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


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--feedback", "f", "--weights-file", "w", "--proxy", "22k"],
            "--proxy goes without --feedback and --weights-file",
        ),
        (["--feedback", "f", "--weights-file", "w", "--model", "m"], "--model goes without"),
        (["--feedback", "f", "--weights-file", "w", "--lr", "1"], "--lr goes without"),
        (["--feedback", "f", "--weights-file", "w", "--schedule-only"], "--schedule-only goes without"),
        (["--feedback", "f", "--weights-file", "w", "--json"], "--json goes without"),
        (["--feedback", "f", "--weights-file", "w", "--seed", "0"], "--seed goes without"),
        (["--feedback", "f", "--weights-file", "w", "--base", "b"], "--base goes without"),
        (["--feedback", "f", "--weights-file", "w", "--plot", "p.png"], "expected the schedule's name"),
        (["--proxy", "22k", "--context", "512"], "--context goes with --model"),
        (["--proxy", "22k", "--batch-size", "8"], "--batch-size goes with --model"),
        (["--base", "b", "--dtype", "float32"], "--dtype goes with --model"),
        (["--proxy", "22k", "--model", "m"], "expected one of --model, --proxy"),
        ([], "expected one of --model, --proxy"),
        (["--feedback", "f"], "--feedback and --weights-file go together"),
    ],
)
def test_options_that_would_change_nothing_are_refused(words, told):
    found = verb("apply", "agent", "corpus", *words)
    assert found.exit_code == 2 and told in found.stderr and found.stderr.count("\n") == 1


def test_a_base_says_what_is_trained(corpus, base, mixed, tmp_path):
    """--base alone is enough: the shape is in the file. And the schedule is drawn."""
    words = ["--steps", 4, "--run-tokens", 2048, "--schedule-only", "--feedback-tokens", 128, "--json", "-q"]
    picture = tmp_path / "run.png"
    found = verb("apply", mixed, corpus.folder, "--base", base, *words, "-o", tmp_path / "run", "--plot", picture)
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)["steps"] == 4 and picture.read_bytes().startswith(b"\x89PNG")
    picture.unlink()
    again = verb("apply", mixed, corpus.folder, "--base", base, *words, "-o", tmp_path / "run", "--plot", picture)
    assert again.exit_code == 0 and picture.exists()  # of the run that is there


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
