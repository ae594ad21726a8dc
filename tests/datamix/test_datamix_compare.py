"""Comparisons: what is printed follows from the runs, the runs are paired, rivals keep to their tokens, and a kill changes nothing."""

import json
import shutil
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from datamix_small import BUDGET, PROXY, quick
from datamix_small import run as run_swarm
from scipy import stats

from datamix import compare, figures, train
from datamix.agent import Agent
from datamix.baselines.static import StaticPolicy
from datamix.corpus import Corpus
from datamix.history import Budget, History
from datamix.proxy import Proxy
from datamix.steer import Run
from datamix.stream import key_of
from datamix.swarm import base_of, read_plan
from tenfold_shared import BadInput, Busy
from tenfold_shared.jsonl import Lock

FIGURES = ("score", "auc", "source", "target", "source_bytes")


@pytest.fixture(scope="module")
def agents(small, tmp_path_factory):
    """Folders of small agents: `agent` (model-based) and `other`, of another seed; `cloned`; and `paper`, a decoder for the swarm's own domains."""
    folder = tmp_path_factory.mktemp("agents")
    with pytest.MonkeyPatch.context() as patch:
        quick(patch, value=False)
        ways = {
            "agent": {},
            "other": {"seed": 1},
            "cloned": {"algo": "sft"},
            "paper": {"algo": "sft", "arch": "decoder"},
        }
        for name, how in ways.items():
            made = train.run(
                str(small.swarm),
                train.Settings(**how),
                output=str(folder / name),
                overwrite=False,
                as_json=True,
                quiet=True,
            )
            assert made == 0
    return folder


def settings(**changed):
    told = {
        "budget": BUDGET, "proxy": msgspec.to_builtins(PROXY), "methods": ["proportional", "hand"], "seeds": 2, "controls": [],
        "members": 2, "score_tokens": 256, "feedback_tokens": 256,
    }  # fmt: skip
    return compare.Settings(**{**told, **changed})


def run(small, folder, agents=(), *, swarm=True, workers=1, overwrite=False, as_json=True, plot=None, **changed):
    return compare.run(
        str(folder), str(small.corpus), [str(one) for one in agents], str(small.swarm) if swarm else None, settings(**changed),
        workers=workers, overwrite=overwrite, as_json=as_json, plot=None if plot is None else str(plot), quiet=True,
    )  # fmt: skip


def result(folder):
    return json.loads((folder / "compare.json").read_bytes())


def runs_of(folder):
    return [json.loads(line) for line in (folder / "runs.jsonl").read_bytes().splitlines()]


THREE = ("agent", "other", "cloned")
TWO_TASKS = {"tasks": 2, "task_sources": 2, "task_targets": 1}
WHOLE = {**TWO_TASKS, "seeds": 2, "methods": ["proportional", "best-fixed", "hand", "null"], "controls": ["reward_shuffle", "no_feedback"], "proxy_tokens": 12 * 1152}  # fmt: skip


@pytest.fixture(scope="module")
def whole(small, agents, tmp_path_factory):
    """A comparison with all that there can be."""
    folder = tmp_path_factory.mktemp("whole") / "compared"
    with pytest.MonkeyPatch.context() as patch:
        quick(patch, value=False)
        assert run(small, folder, [agents / name for name in THREE], **WHOLE) == 0
    return folder


# ---------------------------------------------------------------- figures from runs


def test_the_result_has_every_figure_of_the_contract(whole):
    told = result(whole)
    names = [*THREE, "proportional", "best-fixed", "hand"]
    assert set(names) == set(told["methods"])
    for name in names:
        assert told[name] == told["methods"][name]
        assert set(FIGURES) <= told[name].keys()
        assert told[name]["failed"] == 0
        if name != "agent":
            assert told[name]["diff"]["low"] < told[name]["diff"]["mean"] < told[name]["diff"]["high"]
    assert told["first"] == "agent" and "diff" not in told["agent"]
    assert set(told["controls"]) == {"reward_shuffle", "no_feedback", "null"}
    for kind, one in told["controls"].items():
        assert list(one["each"]) == [f"{kind}-0", f"{kind}-1"] and isinstance(one["loses"], bool)
    assert told["counts"] == {"runs": 2 * 2 * 12, "failed": 0, "tasks": 2, "seeds": 2, "proxy_tokens_a_task": 12 * 1152}
    assert told["best_rival"] == max(names[3:], key=lambda name: told[name]["score"])
    manifest = json.loads((whole / "manifest.json").read_bytes())
    assert manifest["verb"] == "compare" and manifest["status"] == "done" and len(manifest["inputs"]) == 5


def test_means_and_intervals_are_scipys(whole):
    """From runs.jsonl: means over runs; differences over seeds, of means over tasks, and the other way round."""
    told, runs = result(whole), runs_of(whole)
    table = {}
    for one in runs:
        table.setdefault(one["method"], {}).setdefault(one["task"], []).append(one)
    grid = {
        name: np.array([[r["score"] for r in sorted(rs, key=lambda r: r["seed"])] for _, rs in sorted(by.items())])
        for name, by in table.items()
    }
    assert all(x.shape == (2, 2) for x in grid.values())
    for name, one in told["methods"].items():
        mine = [r for r in runs if r["method"] == name]
        for field in FIGURES:
            assert one[field] == pytest.approx(np.mean([r[field] for r in mine]))
        if name == "agent":
            continue
        difference = grid["agent"] - grid[name]
        for found, values in ((one["diff"], difference.mean(0)), (one["diff"]["over_tasks"], difference.mean(1))):
            want = stats.ttest_1samp(values, 0).confidence_interval(0.95)
            assert found["mean"] == pytest.approx(difference.mean())
            assert (found["low"], found["high"]) == pytest.approx((want.low, want.high))
            assert found["n"] == len(values)
        assert one["diff"]["tasks"] == pytest.approx(dict(zip(sorted(table[name]), difference.mean(1), strict=True)))
    for kind, one in told["controls"].items():
        each = np.array([grid[f"{kind}-{i}"].mean() for i in range(2)])
        assert list(one["each"].values()) == pytest.approx(each) and one["score"] == pytest.approx(each.mean())
        true = np.array([grid[name].mean() for name in ("agent", "other")])  # alike but for the seed
        assert list(one["true"].values()) == pytest.approx(true)
        low, high = welch_by_hand(true, each)
        assert (one["diff"]["low"], one["diff"]["high"]) == pytest.approx((low, high))
        assert one["diff"]["mean"] == pytest.approx(true.mean() - each.mean()) and one["loses"] == (low > 0)
        want = stats.ttest_1samp(each - grid["proportional"].mean(), 0).confidence_interval(0.95)
        assert (one["advantage"]["low"], one["advantage"]["high"]) == pytest.approx((want.low, want.high))


def welch_by_hand(mine, theirs):
    """Unequal variances, degrees of freedom by Satterthwaite."""
    a, b = np.var(mine, ddof=1) / len(mine), np.var(theirs, ddof=1) / len(theirs)
    freedom = (a + b) ** 2 / (a**2 / (len(mine) - 1) + b**2 / (len(theirs) - 1))
    half = stats.t.ppf(0.975, freedom) * np.sqrt(a + b)
    mean = np.mean(mine) - np.mean(theirs)
    return mean - half, mean + half


def test_a_runs_figures_are_its_own(whole, small):
    corpus = Corpus.load(small.corpus)
    density = {one.name: one.train.bytes / one.train.tokens for one in corpus.domains}
    tasks = {task.name: task for task in compare.read_plan(str(whole)).tasks}
    for one in runs_of(whole):
        assert one["score"] == pytest.approx((one["source"] + one["target"]) / 2)
        assert one["auc"] == pytest.approx(np.mean(one["path"][1:]), abs=1e-3) and one["path"][0] == 0
        task = tasks[one["task"]]
        assert one["source"] == pytest.approx(np.mean([one["domains"][name] for name in task.sources]))
        assert one["target"] == pytest.approx(np.mean([one["domains"][name] for name in task.targets]))
        used = sum(row[name] * 192 * density[name] for row in one["weights"] for name in task.sources)
        assert one["source_bytes"] == pytest.approx(used, abs=2)
        tokens = sum(row[name] * 192 for row in one["weights"] for name in task.sources)
        assert one["source_tokens"] == pytest.approx(tokens, abs=1) and tokens <= 0.3 * 6 * 192 + 1
        assert len(one["weights"]) == 6 and all(
            sum(row.values()) == pytest.approx(1, abs=1e-3) for row in one["weights"]
        )


def test_a_run_is_steers_by_hand(whole, small):
    """Proportional, written out: the task's base, the seed, what is measured on text that no feedback has seen."""
    plan = compare.read_plan(str(whole))
    corpus = Corpus.load(small.corpus)
    for one in [r for r in runs_of(whole) if r["method"] == "proportional"][::2]:
        task = next(task for task in plan.tasks if task.name == one["task"])
        here = corpus.subset(task.sources, task.targets)
        proxy = Proxy(PROXY, 256, 5)
        proxy.restore(base_of(whole, msgspec.to_builtins(PROXY), "cpu", task, corpus))
        proxy.begin()
        live = Run(
            here, proxy, BUDGET, key_of(0, "compare", one["seed"]) % 2**31, feedback_tokens=256, score_tokens=256
        )
        live.begin()
        for _ in live.steps(StaticPolicy("p", here.sizes / here.sizes.sum())):
            pass
        want = live.result()
        assert one["domains"] == pytest.approx(want.pop("domains"))
        assert {name: one[name] for name in want} == pytest.approx(want)


def test_the_same_agent_under_two_names_does_the_same(small, agents, tmp_path):
    """Common random numbers: nothing but the policy tells runs apart."""
    shutil.copytree(agents / "agent", tmp_path / "twin")
    assert run(small, tmp_path / "out", [agents / "agent", tmp_path / "twin"], methods=[], seeds=3) == 0
    told = result(tmp_path / "out")
    assert {name: told["agent"][name] for name in FIGURES} == {name: told["twin"][name] for name in FIGURES}
    assert (told["twin"]["diff"]["low"], told["twin"]["diff"]["high"]) == (0, 0)
    by = {}
    for one in runs_of(tmp_path / "out"):
        by.setdefault(one.pop("method"), []).append(one)
    assert by["agent"] == by["twin"] and len({one["score"] for one in by["agent"]}) == 3
    assert told["best_rival"] is None


def test_controls_are_agents_of_their_own(whole, small):
    """Each from the swarm by the agent's recipe with a seed of its own; one kind is shown no losses."""
    recipe = compare.read_plan(str(whole)).recipe
    assert recipe["algo"] == "model" and "features" not in recipe
    found = {path.name: Agent.load(path) for path in sorted((whole / "agents").iterdir())}
    assert set(found) == {"reward_shuffle-0", "reward_shuffle-1", "no_feedback-0", "no_feedback-1"}
    for name, agent in found.items():
        assert agent.report["shuffled_rewards"] == name.startswith("reward")
        assert agent.card.feedback == name.startswith("reward")
        assert agent.report["seed"] == 1000 + int(name[-1])
    assert len({agent.card.sha256 for agent in found.values()}) == 4


# ---------------------------------------------------------------- what is said of figures


def test_intervals():
    x = np.random.default_rng(0).normal(2, 1, 7)
    want = stats.t.interval(0.95, 6, x.mean(), stats.sem(x))
    found = figures.interval(x)
    assert (found["low"], found["high"]) == pytest.approx(want) and found["n"] == 7
    assert figures.interval([3.0]) == {"mean": 3.0, "low": None, "high": None, "n": 1}


def test_pairs_are_what_both_finished():
    mine = {("a", 0): 3.0, ("a", 1): 5.0, ("b", 0): 1.0}
    other = {("a", 0): 1.0, ("b", 0): 1.0, ("b", 1): 9.0}
    found = figures.paired(mine, other)
    assert found["mean"] == pytest.approx(1.0) and found["n"] == 1 and found["low"] is None  # seed 0 alone: (2 + 0) / 2
    assert found["tasks"] == {"a": 2.0, "b": 0.0}
    want = stats.ttest_1samp([2.0, 0.0], 0).confidence_interval(0.95)
    assert (found["over_tasks"]["low"], found["over_tasks"]["high"]) == pytest.approx((want.low, want.high))


def found_with(low, high, **controls):
    """A result as verdicts read it; controls: the interval of the agents less those of a control."""
    diff = {"mean": 0.0, "low": low, "high": high, "n": 5}
    return {
        "first": "agent", "best_rival": "hand", "methods": {"agent": {"score": 1.0}, "hand": {"score": 1.0, "diff": diff}},
        "controls": {name: {"diff": {"low": x[0], "high": x[1]}} for name, x in controls.items()},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (found_with(0.1, 0.9), ["the agent beats the best rival, hand"]),
        (found_with(-0.9, -0.1), ["the best rival, hand, beats the agent"]),
        (found_with(-0.1, 0.4), ["the agent and the best rival, hand, cannot be told apart"]),
        (found_with(0.0, 0.4), ["the agent and the best rival, hand, cannot be told apart"]),
        (found_with(None, None), ["one seed: nothing can be said of hand"]),
        (
            found_with(0.1, 0.9, reward_shuffle=(0.2, 0.5), no_feedback=(-0.1, 0.3)),
            [
                "the agent beats the best rival, hand",
                "agents trained without true rewards do worse",
                "agents trained without true feedback cannot be told apart from it: the agent has not been shown to learn from feedback",
            ],
        ),
        (
            {**found_with(0, 0, reward_shuffle=(-2, -1), no_feedback=(None, None)), "best_rival": None},
            [
                "agents trained without true rewards do better than it: the agent has not been shown to learn from rewards",
                "too few agents to say what true feedback adds (two or more of each are needed)",
            ],
        ),
        ({**found_with(0, 0), "methods": {"agent": {"score": None}}}, ["no run of agent finished: nothing can be said of it"]),
    ],
)  # fmt: skip
def test_verdicts(found, said):
    assert figures.verdict(found).split("; ") == said


def test_people_get_a_table_and_the_verdict(whole, small, agents, capsys, monkeypatch):
    quick(monkeypatch, value=False)
    before = (whole / "compare.json").read_bytes()
    picture = whole.parent / "compare.png"
    assert run(small, whole, [agents / name for name in THREE], as_json=False, plot=picture, **WHOLE) == 0
    told = capsys.readouterr().out
    assert "agent less it" in told and "best-fixed" in told and "reward_shuffle (each of 2)" in told
    assert result(whole)["verdict"] in told.replace("\n", " ")
    assert (whole / "compare.json").read_bytes() == before
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_no_verdict_is_no_line_and_little_text_is_told_in_bytes(capsys):
    def method(source):
        return {"score": 1.0, "auc": 1.0, "source": 1.0, "target": 1.0, "source_bytes": source}

    def shown(**more):
        few = {"agent": method(0), "some": method(412.4), "more": method(9999.4), "most": method(10_600.0)}
        figures.show({"counts": {"tasks": 1, "seeds": 1}, "first": "agent", "methods": few, "controls": {}, **more})
        return capsys.readouterr().out

    told = shown(verdict="")
    assert told == shown() and told.rstrip("\n") + "\n" == told
    assert shown(verdict="it is so") == told + "it is so\n"
    for words in ("source text", " 0 B ", " 412 B ", " 9999 B ", " 11 kB "):
        assert words in told


# ---------------------------------------------------------------- tokens of rivals


@pytest.mark.parametrize("method", ["best-fixed", "doremi", "doge", "aioli", "regmix-d"])
def test_rivals_keep_to_the_tokens_of_the_swarm(small, tmp_path, monkeypatch, method):
    """Counted where a proxy learns; the budget is the swarm's whole."""
    assert run(small, tmp_path / "out", methods=["proportional"], seeds=1) == 0
    plan = compare.read_plan(str(tmp_path / "out"))
    assert plan.proxy_tokens == 16 * 6 * 192
    counted, backward = [], Proxy.backward

    def counting(self, rows, weights=None):
        counted.append(rows[:, 1:].numel())
        return backward(self, rows, weights)

    monkeypatch.setattr(Proxy, "backward", counting)
    found = compare.find_rival(str(tmp_path / "out"), 0, method)
    assert 0 < sum(counted) <= found["proxy_tokens"] <= plan.proxy_tokens
    told = found["weights"] if found["schedule"] is None else found["schedule"]
    assert np.asarray(told).sum(-1) == pytest.approx(1, abs=1e-3)
    policy = compare.policy_of(tmp_path / "out", plan, method, found)
    history = Run(Corpus.load(small.corpus), Proxy(PROXY, 256, 0), BUDGET, 0, feedback_tokens=64, score_tokens=64)
    history.begin()
    assert policy.decide(history.history).weights.sum() == pytest.approx(1)


def test_rivals_of_a_comparison_use_the_feedback_text_that_it_names(small, tmp_path, monkeypatch):
    from datamix.baselines import bench

    seen, usual = [], bench.Held

    def held(corpus, context, tokens, half):
        seen.append((tokens, half))
        return usual(corpus, context, tokens, half)

    monkeypatch.setattr(bench, "Held", held)
    assert run(small, tmp_path / "out", methods=["best-fixed"], seeds=1) == 0
    assert seen and set(seen) == {(256, "feedback")}


def test_without_a_swarm_the_tokens_are_those_of_24_runs(small, tmp_path):
    assert run(small, tmp_path / "out", swarm=False, methods=["proportional"], seeds=1) == 0
    assert result(tmp_path / "out")["counts"]["proxy_tokens_a_task"] == 24 * 6 * 192
    assert "verdict" not in result(tmp_path / "out")


def test_the_hand_schedule_keeps_its_source_text_for_the_second_half(small, tmp_path):
    assert run(small, tmp_path / "out", methods=["hand"], seeds=1) == 0
    rows = runs_of(tmp_path / "out")[0]["weights"]
    shares = [sum(row[name] for name in ("alpha", "beta", "gamma")) for row in rows]
    assert shares[:3] == [0, 0, 0] and shares[3:] == pytest.approx([0.6] * 3, abs=0.1)
    history = History(["a", "b"], np.array([True, False]), np.full(2, 1e9), np.ones(2), Budget(1, 4))
    for share in (0.2, 0.2, 0.6, 0.6):  # without a budget
        weights = compare.HandSchedule().decide(history).weights
        assert weights == pytest.approx([share, 1 - share])
        history.add(weights, np.ones(2))


# ---------------------------------------------------------------- kills, and what is in the way


class Cut(Exception):
    """Stands in for a kill."""


CUT = {"methods": ["best-fixed", "hand"], "controls": ["no_feedback"], "members": 2, "proxy_tokens": 9 * 1152}


@pytest.fixture(scope="module")
def unbroken(small, agents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "out"
    with pytest.MonkeyPatch.context() as patch:
        quick(patch, value=False)
        assert run(small, folder, [agents / "agent"], **CUT) == 0
    return folder


@pytest.mark.parametrize("after", [0, 2, 8])
def test_a_comparison_goes_on_after_a_kill(small, agents, unbroken, tmp_path, monkeypatch, after):
    """While controls are trained, before and between runs."""
    quick(monkeypatch, value=False)
    put, count = compare.Journal.put, []

    def cut(self, key, found):
        if len(count) == after:
            raise Cut
        put(self, key, found)
        count.append(key)

    with monkeypatch.context() as patch:
        patch.setattr(compare.Journal, "put", cut)
        with pytest.raises(Cut):
            run(small, tmp_path / "broken", [agents / "agent"], **CUT)
    assert not (tmp_path / "broken" / "compare.json").exists()
    with open(tmp_path / "broken" / "journal", "ab") as torn:
        torn.write(b'["run hand 0 1",{"task"')
    worked = []
    for name in ("train_control", "find_rival", "run_one"):
        usual = getattr(compare, name)
        monkeypatch.setattr(
            compare, name, lambda *args, usual=usual, name=name: (worked.append((name, *args[1:4])), usual(*args))[1]
        )
    assert run(small, tmp_path / "broken", [agents / "agent"], **CUT) == 0
    assert len(worked) == 2 + 1 + 5 * 2 - after  # nothing twice
    for name in ("compare.json", "runs.jsonl"):
        assert (tmp_path / "broken" / name).read_bytes() == (unbroken / name).read_bytes()


@pytest.mark.deep
def test_processes_give_the_same_result(small, agents, tmp_path):
    told = {**TWO_TASKS, "methods": ["best-fixed", "hand"], "proxy_tokens": 9 * 1152}
    for workers in (1, 2):
        assert run(small, tmp_path / str(workers), [agents / "cloned"], workers=workers, **told) == 0
    for name in ("compare.json", "runs.jsonl"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


@pytest.mark.parametrize(
    ("agent", "changed", "told"),
    [
        (None, {"methods": ["luck"]}, r"--methods luck: expected some of proportional, .*hand, null"),
        (None, {"methods": ["fixed"]}, "--methods fixed"),
        ("agent", {"controls": ["placebo"]}, "--controls placebo: expected some of reward_shuffle, no_feedback"),
        ("agent", {"controls": ["no_feedback"], "swarm": False}, "controls are agents trained on the swarm again: --swarm SWARM"),
        ("paper", TWO_TASKS, r"agent \(decoder\): was made for the 4 domains alpha, beta, gamma, delta"),
        (None, {"tasks": 1, "task_sources": 4, "task_targets": 1}, "--task-sources 4 and --task-targets 1"),
        ("missing", {}, r"agent\.json: no such file"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_before_any_work(small, agents, tmp_path, agent, changed, told):
    with pytest.raises(BadInput, match=told):
        run(small, tmp_path / "out", [] if agent is None else [agents / agent], **changed)
    assert list(tmp_path.iterdir()) == []


def test_an_agent_named_twice_is_refused(small, agents, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(agents / "agent")
    monkeypatch.chdir(agents)
    for other in (agents / "agent", "agent", "./cloned/../agent", tmp_path / "link"):
        with pytest.raises(BadInput, match="is named twice; expected another folder for each --agent"):
            run(small, tmp_path / "out", [agents / "agent", agents / "other", other])
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_text_that_was_overwritten_is_not_compared_on(small, tmp_path):
    shutil.copytree(small.corpus, tmp_path / "corpus")
    with open(tmp_path / "corpus" / "tokens" / "delta.valid.bin", "r+b") as stream:
        stream.write(b"altered")
    here = SimpleNamespace(corpus=tmp_path / "corpus", swarm=small.swarm)
    with pytest.raises(BadInput, match=r"delta\.valid\.bin: is not the file that corpus\.json names"):
        run(here, tmp_path / "out", methods=["hand"], seeds=1)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_other_options_or_other_agents_in_the_same_folder_are_refused(small, agents, tmp_path):
    shutil.copytree(agents / "cloned", tmp_path / "mine")
    out = tmp_path / "out"
    assert run(small, out, [tmp_path / "mine"], seeds=1) == 0
    before = (out / "compare.json").read_bytes()
    for changed, told in (
        ({"seeds": 2}, "--seeds 1, this one has 2"),
        ({"budget": Budget(192, 6, 0.5)}, r"--budget\.source-share 0\.3, this one has 0\.5"),
        ({"proxy": msgspec.to_builtins(msgspec.structs.replace(PROXY, lr=0.1))}, r"--proxy\.lr"),
        ({"swarm": False, "proxy_tokens": 16 * 6 * 192}, "3 input files, this one has 2"),
    ):
        with pytest.raises(BadInput, match=told + ".*--overwrite"):
            run(small, out, [tmp_path / "mine"], **{"seeds": 1, **changed})
    shutil.rmtree(tmp_path / "mine")
    shutil.copytree(agents / "agent", tmp_path / "mine")  # the same name, another agent
    with pytest.raises(BadInput, match=r"--recipe|other content of the input .*mine"):
        run(small, out, [tmp_path / "mine"], seeds=1)
    assert (out / "compare.json").read_bytes() == before
    assert run(small, out, [tmp_path / "mine"], seeds=1, overwrite=True) == 0
    assert (out / "compare.json").read_bytes() != before
    assert len(runs_of(out)) == 3


def test_tasks_of_the_swarm_are_not_compared_on(small, agents, tmp_path):
    """A swarm of two tasks: with kept roles there are three choices of two sources, and one is left."""
    told = {"task_sources": 2, "task_targets": 1, "task_roles": "kept"}
    assert run_swarm(tmp_path / "swarm", small.corpus, trajectories=4, tasks=2, **told) == 0
    here = SimpleNamespace(corpus=small.corpus, swarm=tmp_path / "swarm")
    assert run(here, tmp_path / "out", tasks=1, methods=["hand"], seeds=1, **told) == 0
    tasks = compare.read_plan(str(tmp_path / "out")).tasks
    seen = [set(task.sources) for task in read_plan(tmp_path / "swarm").tasks]
    assert len(seen) == 2 and set(tasks[0].sources) not in seen
    with pytest.raises(BadInput, match=r"--tasks 2: .*no more choices"):
        run(here, tmp_path / "more", tasks=2, methods=["hand"], seeds=1, **told)
    with pytest.raises(BadInput, match="was trained on another swarm"):
        run(here, tmp_path / "more", [agents / "cloned"], methods=["hand"], seeds=1)


def test_an_agent_trained_anew_is_another_input(small, agents, tmp_path):
    shutil.copytree(agents / "cloned", tmp_path / "mine")
    out = tmp_path / "out"
    assert run(small, out, [tmp_path / "mine"], seeds=1) == 0
    shutil.copytree(agents / "agent", tmp_path / "other")
    for name in ("agent.json", "agent.safetensors"):
        shutil.copy(tmp_path / "other" / name, tmp_path / "mine" / name)
    with pytest.raises(BadInput, match=r"other content of the input .*mine"):
        run(small, out, [tmp_path / "mine"], seeds=1)


def test_what_is_in_the_way_is_told(small, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is a file"):
        run(small, tmp_path / "file")
    with pytest.raises(BadInput, match="does not exist"):
        run(small, tmp_path / "no" / "out")
    for overwrite in (False, True):
        with pytest.raises(BadInput, match="did not make"):
            run(small, small.corpus, overwrite=overwrite)
    lock = Lock(tmp_path / ".out.lock", tmp_path / "out")
    with pytest.raises(Busy):
        run(small, tmp_path / "out")
    lock.release()


@pytest.mark.parametrize(
    "name",
    ["agent", "methods", "controls", "counts", "verdict", "first", "best_rival", "hand", "null-0", "no_feedback-1"],
)
def test_an_agent_may_have_any_name(small, agents, tmp_path, name):
    """Names that the result has other things under are not taken from an agent's folder."""
    shutil.copytree(agents / "cloned", tmp_path / "in" / name)
    assert run(small, tmp_path / "out", [tmp_path / "in" / name], seeds=1) == 0
    told = result(tmp_path / "out")
    first = told["first"]
    assert first == (name if name == "agent" else "agent-1") and told[first]["score"] == told["methods"][first]["score"]
    assert set(told["methods"]) == {first, "proportional", "hand"} and told["counts"]["runs"] == 3
    assert isinstance(told["verdict"], str) and told["controls"] == {}


def test_two_agents_of_one_name_are_two(small, agents, tmp_path):
    shutil.copytree(agents / "cloned", tmp_path / "in" / "agent")
    assert run(small, tmp_path / "out", [agents / "agent", tmp_path / "in" / "agent"], seeds=1, methods=[]) == 0
    assert set(result(tmp_path / "out")["methods"]) == {"agent", "agent-1"}


@pytest.mark.parametrize("fails", ["hand", "cloned"])
def test_failed_runs_are_counted_and_left_out(small, agents, tmp_path, monkeypatch, capsys, fails):
    usual = compare.run_one

    def run_one(folder, task, method, seed, found):
        if method == fails:
            return {
                "task": "all",
                "method": method,
                "seed": seed,
                "status": "failed",
                "error": "the training loss is no number in step 1",
            }
        return usual(folder, task, method, seed, found)

    monkeypatch.setattr(compare, "run_one", run_one)
    picture = tmp_path / "out.png"
    assert run(small, tmp_path / "out", [agents / "cloned"], as_json=False, plot=picture) == 1
    said = capsys.readouterr().out
    told = result(tmp_path / "out")
    assert told["counts"]["failed"] == 2 and told[fails]["failed"] == 2 and told[fails]["score"] is None
    assert "diff" not in told[fails]
    if fails == "hand":
        assert told["best_rival"] == "proportional" and told["proportional"]["diff"]["n"] == 2
    else:
        assert told["verdict"] == "no run of cloned finished: nothing can be said of it" and told["verdict"] in said
    assert picture.exists()


def test_a_rate_beyond_reason_fails_runs_and_breaks_nothing(small, tmp_path, capsys):
    wild = msgspec.to_builtins(msgspec.structs.replace(PROXY, lr=1e39, warmup=0))
    assert run(small, tmp_path / "out", methods=["proportional"], seeds=2, proxy=wild) == 1
    assert json.loads(capsys.readouterr().out)["counts"]["failed"] == 2
    assert all("is no number" in one["error"] for one in runs_of(tmp_path / "out"))
