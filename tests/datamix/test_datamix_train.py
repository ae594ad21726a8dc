"""`datamix train-agent`: folders that are a function of swarm and options, controls that are controls, and what is refused."""

import json
import os
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from datamix_dynamics import forgetting
from datamix_dynamics import swarm as sampled
from datamix_layouts import tree
from datamix_small import quick
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from datamix import folder, swarms, train
from datamix.agent import Agent
from tenfold_shared import BadInput, Busy
from tenfold_shared.jsonl import Lock

WAYS = [
    {"algo": "model"},
    {"algo": "model", "split": "even", "form": "free", "feedback": False},
    {"algo": "sft"},
    {"algo": "sft", "arch": "decoder", "shuffle": True},
    {"algo": "cql"},
    {"algo": "cql", "arch": "decoder", "alpha": 2.0},
]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    quick(monkeypatch, value=False)


def make(small, output, *, swarm=None, overwrite=False, **how):
    return train.run(
        str(swarm or small.swarm), train.Settings(**how), output=str(output), overwrite=overwrite, as_json=True, quiet=True
    )  # fmt: skip


# ---------------------------------------------------------------- the folder


@pytest.mark.parametrize("how", WAYS)
def test_the_same_command_gives_the_same_bytes_and_another_seed_others(small, tmp_path, how):
    for name in ("one", "two"):
        assert make(small, tmp_path / name, **how) == 0
    assert make(small, tmp_path / "other", **how, seed=1) == 0
    one, two, other = (tree(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one["agent.safetensors"] != other["agent.safetensors"]
    assert ("world.safetensors" in one) == (how["algo"] == "model")
    manifests = [json.loads((tmp_path / name / "manifest.json").read_bytes()) for name in ("one", "two")]
    for told in manifests:
        assert told["counts"].pop("seconds_training") >= 0
    same = ("tool", "verb", "options", "inputs", "seed", "counts", "status")
    assert [manifests[0][name] for name in same] == [manifests[1][name] for name in same]
    assert manifests[0]["options"]["features"] == "set/1" and manifests[0]["counts"] == {"runs": 16, "failed": 0}
    agent, history = Agent.load(tmp_path / "one"), swarms.read(small.swarm)[0].history().upto(2)
    weights = agent.decide(history).weights
    assert weights.sum() == pytest.approx(1) and weights.min() >= 0
    assert agent.card.feedback == how.get("feedback", True)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_finished_agent_is_told_again_and_another_one_refused(small, tmp_path, capsys):
    output = tmp_path / "agent"
    assert make(small, output, algo="sft") == 0
    first = capsys.readouterr().out
    before = (output / "agent.json").stat()
    assert make(small, output, algo="sft") == 0
    assert capsys.readouterr().out == first
    assert (output / "agent.json").stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(BadInput, match=r"--train-steps unset, this one has 3; .*--overwrite"):
        make(small, output, algo="sft", steps=3)
    with pytest.raises(BadInput, match="--algo"):
        make(small, output, algo="cql")
    assert make(small, output, algo="sft", steps=3, overwrite=True) == 0
    assert Agent.load(output).report["settings"]["steps"] == 3
    again = (output / "agent.json").stat()
    assert make(small, output, algo="sft", steps=3, overwrite=True) == 0  # anew, though it was the same
    assert (output / "agent.json").stat().st_mtime_ns > again.st_mtime_ns


def test_the_report_says_what_was_learnt(small, tmp_path, capsys):
    for algo in ("sft", "cql", "model"):
        assert make(small, tmp_path / algo, algo=algo) == 0
    told = {one["algo"]: one for one in map(json.loads, capsys.readouterr().out.splitlines())}
    assert told["model"]["arch"] == "pooled" and told["sft"]["arch"] == told["cql"]["arch"] == "set"
    assert all(one["runs"] == 16 and one["failed"] == 0 for one in told.values())
    report = told["sft"]["report"]
    assert report["trajectories"] == {"given": 16, "used": 16, "copied": 8}
    assert set(report["loss"]) == {"first", "last"}
    report = told["cql"]["report"]
    assert report["trajectories"]["used"] + report["trajectories"]["held_out"] == 16
    assert {"warm_start", "effective_sample_size", "diagnosis", "integral"} <= report.keys()
    assert {"rank_correlation", "fitted_q"} <= report["diagnosis"].keys()
    report = told["model"]["report"]
    assert (
        report["world"]["r2"] <= 1 and {"imagined", "doubt"} <= report["policy"].keys() and report["value"]["r2"] <= 1
    )
    assert all(one["report"]["parameters"] > 0 for one in told.values())


def test_people_get_a_table(small, tmp_path, capsys):
    assert make(small, tmp_path / "agent", algo="sft") == 0
    capsys.readouterr()
    assert train.tell(tmp_path / "agent", as_json=False) == 0
    told = capsys.readouterr().out
    assert "sft agent of 16 runs" in told and "loss.last" in told


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"algo": "model", "arch": "decoder"}, "--arch decoder: --algo model has a set network of its own"),
        ({"algo": "cql", "members": 3}, "--members, --caution and --within: are of --algo model"),
        ({"algo": "sft", "caution": 0.1}, "--members, --caution and --within"),
        ({"algo": "cql", "split": "even"}, "--members, --caution and --within"),
        ({"algo": "sft", "alpha": 1.0}, "--alpha: is of --algo cql"),
        ({"algo": "model", "alpha": 1.0}, "--alpha: is of --algo cql"),
        ({"algo": "dqn"}, "--algo dqn: expected model, cql or sft"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together(small, tmp_path, how, told):
    with pytest.raises(BadInput, match=told):
        make(small, tmp_path / "agent", **how)
    assert list(tmp_path.iterdir()) == []


def test_swarms_without_steps_or_without_runs_are_refused(small, tmp_path):
    imported = tmp_path / "imported"
    shutil.copytree(small.swarm, imported)
    about = json.loads((imported / "swarm.json").read_bytes())
    (imported / "swarm.json").write_text(json.dumps({**about, "kind": "imported"}))
    with pytest.raises(BadInput, match="imported table"):
        make(small, tmp_path / "agent", swarm=imported)
    with pytest.raises(BadInput, match=r"no trajectories\.jsonl"):
        make(small, tmp_path / "agent", swarm=small.corpus)
    with pytest.raises(BadInput, match="is a file; expected the folder of a swarm"):
        make(small, tmp_path / "agent", swarm=small.swarm / "trajectories.jsonl")
    few = tmp_path / "few"
    shutil.copytree(small.swarm, few)
    lines = (small.swarm / "trajectories.jsonl").read_bytes().splitlines(keepends=True)
    (few / "trajectories.jsonl").write_bytes(b"".join(lines[:3]))
    with pytest.raises(BadInput, match="3 finished runs"):
        make(small, tmp_path / "agent", swarm=few)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few", "imported"]


def at(*path_and_value):
    """An edit of a run: the field that the path names becomes the value; None takes it away."""
    *path, last, value = path_and_value

    def edit(run):
        for key in path:
            run = run[key]
        if value is None:
            del run[last]
        else:
            run[last] = value

    return edit


def renamed(*path):
    """An edit of a run: delta is called omega in one place."""

    def edit(run):
        for key in path:
            run = run[key]
        run["omega"] = run.pop("delta")

    return edit


ONE_ROLE = dict.fromkeys(("alpha", "beta", "gamma", "delta"), "source")
EDITS = [
    (at("base", "alpha", 0), r"base: alpha: expected a loss in 1e-06\.\.1e\+06, got 0"),
    (at("base", "alpha", 1e25), r"base: alpha: expected a loss in 1e-06\.\.1e\+06, got 1e\+25"),
    (at("base", "alpha", 1e-25), "base: alpha: expected a loss in"),
    (at("base", "alpha", -1.5), "base: alpha: expected a loss in"),
    (at("base", "alpha", None), "base: alpha: expected a number for each domain of roles, got none"),
    (renamed("base"), "base: delta: expected a number"),
    (at("base", "omega", 1.0), "base: omega: has no role; expected one of alpha, beta, gamma, delta"),
    (at("available", "beta", None), "available: beta: expected a number for each domain of roles, got none"),
    (at("available", "beta", -5), "available: beta: expected 1 token or more, got -5"),
    (at("available", "beta", 0), "available: beta: expected 1 token or more, got 0"),
    (at("available", "omega", 9), "available: omega: has no role"),
    (at("roles", ONE_ROLE), "roles: expected one target domain or more"),
    (at("roles", dict.fromkeys(ONE_ROLE, "target")), "roles: expected one source domain or more"),
    (at("steps", 2, "feedback", "gamma", -0.1), r"steps: step 2: feedback: gamma: expected a loss in 0\.\.1e\+06, got -0\.1"),
    (at("steps", 2, "feedback", "gamma", 1e25), "steps: step 2: feedback: gamma: expected a loss in 0"),
    (at("steps", 2, "feedback", "gamma", None), "steps: step 2: feedback: gamma: expected a number for each domain"),
    (renamed("steps", 2, "feedback"), "steps: step 2: feedback: delta: expected a number"),
    (at("steps", 2, "feedback", "omega", 1.0), "steps: step 2: feedback: omega: has no role"),
    (at("steps", 2, "step", 1), r"steps: step: expected 2, got 1; steps are numbered 0, 1, 2, \.\.\."),
    (at("steps", 0, "step", 1), "steps: step: expected 0, got 1"),
    (at("steps", 0, None), "steps: step: expected 0, got 1"),
    (at("steps", 5, None), "budget: steps: expected the 5 that the run has, got 6"),
    (at("budget", "steps", 5), "budget: steps: expected the 6 that the run has, got 5"),
    (at("budget", "steps", 7), "budget: steps: expected the 6 that the run has, got 7"),
    (at("budget", "steps", 0), "budget: steps: expected 1 or more, got 0"),
    (at("budget", "tokens", 0), "budget: tokens: expected 1 or more, got 0"),
    (at("budget", "source_share", 7), r"budget: source_share: expected a share in 0\.\.1, got 7"),
    (at("budget", "source_share", -0.1), r"budget: source_share: expected a share in 0\.\.1"),
    (at("budget", "max_epochs", -2), "budget: max_epochs: expected a number of 0 or more, got -2"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "told"), EDITS)
def test_an_edited_run_is_refused_by_line_and_field(small, tmp_path, edit, told):
    """Each of these made a traceback or an agent of numbers that no run has."""
    shutil.copytree(small.swarm, tmp_path / "swarm")
    path = tmp_path / "swarm" / "trajectories.jsonl"
    runs = [json.loads(line) for line in path.read_bytes().splitlines()]
    edit(runs[3])
    path.write_text("".join(json.dumps(run) + "\n" for run in runs))
    with pytest.raises(BadInput, match=rf"trajectories\.jsonl:4: {told}") as error:
        make(small, tmp_path / "agent", swarm=tmp_path / "swarm", algo="sft")
    assert "\n" not in str(error.value)
    assert [one.name for one in tmp_path.iterdir()] == ["swarm"]


def test_a_loss_of_nothing_and_a_failed_run_cut_short_are_read(small, tmp_path):
    shutil.copytree(small.swarm, tmp_path / "swarm")
    runs = swarms.read(small.swarm)
    runs[0].steps[-1].feedback["alpha"] = 0.0  # text that was learned by heart
    runs[1] = msgspec.structs.replace(runs[1], status="failed", error="x", steps=runs[1].steps[:3])
    (tmp_path / "swarm" / "trajectories.jsonl").write_bytes(b"".join(swarms.encode(one) + b"\n" for one in runs))
    assert len(swarms.read(tmp_path / "swarm")) == 16
    assert len(swarms.read(tmp_path / "swarm" / "trajectories.jsonl")) == 16


@pytest.mark.parametrize("after", range(5))
def test_a_kill_while_one_folder_replaces_another_loses_neither(tmp_path, after):
    """A process ends before its call number `after` that moves or removes a folder: one of the two is whole, and the next command finds it."""

    def made(text, overwrite):
        with folder.Folder(str(tmp_path / "out"), "v", {"text": text}, [], seed=None, overwrite=overwrite) as out:
            if out.finished is None:
                (out.path / "text").write_text(text)
                out.publish({"text": text})
            return out.finished

    def killed(function):
        def call(path, *rest, **more):
            if Path(path).name in ("out", ".out.tmp", ".out.old"):
                calls.append(path)
                if len(calls) > after:
                    os._exit(9)
            return function(path, *rest, **more)

        return call

    assert made("old", False) is None
    calls = []
    child = os.fork()
    if child == 0:
        os.rename, os.replace, shutil.rmtree = (killed(one) for one in (os.rename, os.replace, shutil.rmtree))
        made("new", True)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    places = [tmp_path / name for name in ("out", ".out.old")]
    whole = [path for path in places if (path / "manifest.json").exists()]
    text = (whole[0] / "text").read_text()
    assert text == ("old" if after < 3 else "new")
    assert made(text, False) == {"text": text}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_in_the_way_is_told(small, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is a file"):
        make(small, tmp_path / "file")
    with pytest.raises(BadInput, match="did not make"):
        make(small, small.swarm, overwrite=True)
    with pytest.raises(BadInput, match="does not exist"):
        make(small, tmp_path / "no" / "agent")
    with pytest.raises(BadInput, match="-o AGENT"):
        train.run(str(small.swarm), train.Settings(), output=None, overwrite=False, as_json=True, quiet=True)
    lock = Lock(tmp_path / ".agent.lock", tmp_path / "agent")
    with pytest.raises(Busy):
        make(small, tmp_path / "agent")
    lock.release()


def with_a_failed_run(small, folder):
    """The small swarm, its sixth run failed after two steps, its seventh before the first."""
    shutil.copytree(small.swarm, folder)
    runs = swarms.read(small.swarm)
    runs[5] = msgspec.structs.replace(runs[5], status="failed", error="x", steps=runs[5].steps[:2])
    runs[6] = msgspec.structs.replace(
        runs[6], status="failed", error="x", steps=[], base=dict.fromkeys(runs[6].base, 0.0)
    )
    (folder / "trajectories.jsonl").write_bytes(b"".join(swarms.encode(one) + b"\n" for one in runs))
    return folder


@pytest.mark.parametrize("how", [*WAYS[2:5], {"algo": "model", "shuffle": True}, {"algo": "cql", "shuffle": True}])
def test_failed_runs_are_counted_and_not_learned_from(small, tmp_path, capsys, how):
    assert make(small, tmp_path / "agent", swarm=with_a_failed_run(small, tmp_path / "swarm"), **how) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["runs"] == 14 and told["failed"] == 2


# ---------------------------------------------------------------- the control


def gains(one):
    return [{n: 1 - step.feedback[n] / one.base[n] for n in one.roles} for step in one.steps]


@hypothesis_settings(deadline=None, max_examples=30)
@given(n=st.integers(2, 9), seed=st.integers(0, 99))
def test_shuffled_rewards_are_those_of_another_run(n, seed):
    """Every run gets the gains of exactly one other, role by role; what it mixed stays."""
    runs = sampled(forgetting(steps=5, domains=(3, 2), seed=seed), n, seed)
    found = train.shuffled_rewards(runs, seed)
    own = [gains(one) for one in runs]
    givers = []
    for i, one in enumerate(found):
        assert [step.weights for step in one.steps] == [step.weights for step in runs[i].steps]
        assert one.base == runs[i].base
        mine = gains(one)
        alike = [j for j in range(n) if all(a == pytest.approx(b) for a, b in zip(mine, own[j], strict=True))]
        assert len(alike) == 1 and alike != [i]
        givers += alike
    assert sorted(givers) == list(range(n))


def test_shuffled_rewards_do_not_follow_the_mixture():
    """What a run gains on its targets follows how much of them it saw; shuffled, it does not."""
    runs = sampled(forgetting(steps=6, seed=3), 200, 3)

    def correlation(some):
        seen = [np.mean([step.weights["d2"] + step.weights["d3"] for step in one.steps]) for one in some]
        gained = [np.mean([gains(one)[-1][name] for name in ("d2", "d3")]) for one in some]
        return np.corrcoef(seen, gained)[0, 1]

    assert correlation(runs) > 0.5
    assert abs(correlation(train.shuffled_rewards(runs, 0))) < 0.2  # 2.8 standard deviations of chance


def test_shuffling_takes_any_number_of_domains_and_steps():
    """A giver with fewer domains or steps gives what it has: the domain of the same role, the last step."""
    runs = [*sampled(forgetting(steps=3, domains=(1, 1)), 3), *sampled(forgetting(steps=5, domains=(3, 2)), 3)]
    found = train.shuffled_rewards(runs, 4)
    values = {round(x, 9) for one in runs for step in gains(one) for x in step.values()}
    for one, before in zip(found, runs, strict=True):
        assert one.roles == before.roles and len(one.steps) == len(before.steps)
        assert {round(x, 9) for step in gains(one) for x in step.values()} <= values
