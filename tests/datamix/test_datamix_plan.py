"""`plan`: schedules without feedback, from recorded runs or from the agents' world, and what it refuses."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from datamix_agents import BUDGET, NAMES, SHORT, STATIC, lines, result, tree, verb
from datamix_corpus import make_corpus

from datamix import apply, plan, schedule, swarms, world
from datamix.agent import Agent
from datamix.history import Budget, Decision, History
from tenfold_shared import BadInput


@pytest.fixture(scope="module")
def losses(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("losses") / "losses.json"
    path.write_text(json.dumps(dict.fromkeys(NAMES, 2.5)))
    return str(path)


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
    with pytest.raises(BadInput, match="--run-tokens 2048, this one has 2560"):
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


def test_plans_watched_runs_and_swarms_are_drawn(corpus, config, mixed, tmp_path):
    budget = ["--steps", 3, "--run-tokens", 1536]
    out = tmp_path / "s.jsonl"
    assert verb("plan", mixed, corpus.folder, *budget, "-o", out, "--plot", tmp_path / "plan.svg").exit_code == 0
    assert (tmp_path / "plan.svg").read_text().startswith("<?xml")
    found = verb("plan", mixed, corpus.folder, *budget, "--plot", tmp_path / "x.svg")
    assert found.exit_code == 2 and "--plot goes with -o FILE" in found.stderr
    feedback = tmp_path / "f.jsonl"
    feedback.write_text("".join(json.dumps({"step": t, "feedback": dict.fromkeys(NAMES, 3 - t / 10)}) + "\n" for t in range(4)))  # fmt: skip
    words = ["apply", mixed, corpus.folder, *budget, "--feedback", feedback, "--weights-file", tmp_path / "w.json"]
    found = verb(*words, "-o", out, "--plot", tmp_path / "watched.png")
    assert found.exit_code == 2 and "no schedule of this run" in found.stderr  # the plan's
    found = verb(*words, "-o", out, "--overwrite", "--plot", tmp_path / "watched.png")
    assert found.exit_code == 0, found.stderr
    assert (tmp_path / "watched.png").exists() and schedule.read(str(out))[0].feedback["alpha"] == 2.9
    words = ["swarm", corpus.folder, "--trajectories", 2, *budget, "--proxy", config, "-o", tmp_path / "swarm", "-q"]
    found = verb(*words, "--workers", 1, "--plot", tmp_path / "swarm.png")
    assert found.exit_code == 0 and (tmp_path / "swarm.png").exists(), found.stderr
    found = verb(*words, "--run", 1, "--plot", tmp_path / "one.png")
    assert found.exit_code == 2 and "leave out --run" in found.stderr


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
    refused("is a directory; expected a file of one JSON object", losses=str(corpus.folder))
    never = Budget(192, 4, 0.3, max_epochs=0.0001)
    refused("768 tokens are wanted and 3 may be used under --max-epochs 0.0001", mixed, budget=never)
    refused("gamma is the smallest target|delta is the smallest target", mixed, recorded, budget=never)
