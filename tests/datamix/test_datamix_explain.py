"""explain: ablations beside runs made by hand, correlations beside scipy's, Q beside Agent.q, the world beside its rollouts."""

import json
import shutil

import msgspec
import numpy as np
import pytest
import torch
from datamix_corpus import make_corpus
from datamix_explained import BUDGET, NAMES, PROXY, SETTINGS
from hypothesis import given
from hypothesis import strategies as st

from datamix import beliefs, correlation, explain, swarm, world
from datamix.agent import Agent, Card
from datamix.baselines.static import SchedulePolicy
from datamix.corpus import Corpus
from datamix.history import Budget, History
from datamix.proxy import Proxy
from datamix.steer import Run
from datamix.stream import key_of
from datamix.swarm import Task
from tenfold_shared import BadInput


def told(home, capsys, settings=SETTINGS, **given):
    options = {
        "corpus": None,
        "swarm": None,
        "output": None,
        "overwrite": False,
        "workers": 1,
        "as_json": True,
        "plot": None,
        "quiet": True,
    }
    capsys.readouterr()
    status = explain.run(str(home / given.pop("agent", "agent")), settings=settings, **options | given)
    return status, capsys.readouterr().out


# ---------------------------------------------------------------- leaving a domain out


def test_a_domains_share_goes_to_the_others_of_its_role():
    source = np.array([True, True, True, False])
    found = explain.left_out(np.array([[0.2, 0.3, 0.1, 0.4], [0.5, 0, 0, 0.5]]), source, 0)
    assert np.allclose(found, [[0, 0.45, 0.15, 0.4], [0, 0.25, 0.25, 0.5]])


def test_a_domain_alone_in_its_role_leaves_its_share_to_all():
    found = explain.left_out(np.array([[0.2, 0.6, 0.2]]), np.array([True, False, False]), 0)
    assert np.allclose(found, [[0, 0.75, 0.25]])


@given(st.integers(2, 8), st.integers(1, 5), st.integers(0, 10**6))
def test_what_is_left_is_a_mixture_in_the_same_proportions(domains, steps, seed):
    rng = np.random.default_rng(seed)
    schedule, source, d = rng.dirichlet(np.ones(domains), steps), rng.random(domains) < 0.5, int(rng.integers(domains))
    before = schedule.copy(), source.copy()
    found = explain.left_out(schedule, source, d)
    assert np.array_equal(schedule, before[0]) and np.array_equal(source, before[1])
    assert np.allclose(found.sum(1), 1) and (found >= 0).all() and (found[:, d] == 0).all()
    others = (source == source[d]) & (np.arange(domains) != d)
    if others.any():
        assert np.allclose(found[:, source].sum(1), schedule[:, source].sum(1))
        assert np.allclose(found[:, others] / schedule[:, others], found[:, others][:, :1] / schedule[:, others][:, :1])
        assert np.array_equal(found[:, source != source[d]], schedule[:, source != source[d]])


def test_the_one_target_of_a_limited_run_stays():
    one, two = np.array([True, True, False]), np.array([True, False, False])
    limited, free = Budget(1, 1, 0.5), Budget(1, 1)
    assert [explain.can_leave_out(one, d, limited) for d in range(3)] == [True, True, False]
    assert all(explain.can_leave_out(two, d, limited) for d in range(3))
    assert all(explain.can_leave_out(one, d, free) for d in range(3))


# ---------------------------------------------------------------- ablations


def score_by_hand(home, task, seed, policy):
    """The final score of a run of one of the swarm's tasks, put together here."""
    whole = Corpus.load(home / "corpus")
    corpus = whole.subset(task.sources, task.targets)
    proxy = Proxy(PROXY, 256, 0)
    proxy.restore(swarm.base_of(home / "swarm", msgspec.to_builtins(PROXY), "cpu", task, whole))
    proxy.begin()
    run = Run(corpus, proxy, BUDGET, key_of(0, "explain", seed) % 2**31, feedback_tokens=128, score_tokens=400)
    run.begin()
    decided = [decision.weights for decision, _ in run.steps(policy)]
    return run.result()["score"], np.array(decided)


def test_gains_are_differences_of_runs_made_by_hand(home, finished):
    tasks = swarm.read_plan(home / "swarm").tasks
    pairs = {(one["task"], one["domain"]): one for one in finished["ablation"]["pairs"]}
    assert set(pairs) == {(task.name, name) for task in tasks for name in [*task.sources, *task.targets]}
    task = tasks[1]
    domain = task.sources[0]
    gains, weights = [], []
    for seed in range(2):
        with_it, schedule = score_by_hand(home, task, seed, Agent.load(home / "agent"))
        again, _ = score_by_hand(home, task, seed, SchedulePolicy("again", schedule))
        assert again == with_it  # the schedule says all of a run
        without = schedule.copy()
        without[:, 1] += without[:, 0]
        without[:, 0] = 0
        gains.append(with_it - score_by_hand(home, task, seed, SchedulePolicy("without", without))[0])
        weights.append(schedule[:, 0].mean())
    found = pairs[task.name, domain]
    assert found["gain"] == pytest.approx(np.mean(gains), abs=1e-9)
    assert found["weight"] == pytest.approx(np.mean(weights), abs=1e-6)
    assert found["low"] < found["gain"] < found["high"]
    assert pairs[task.name, task.targets[0]]["gain"] is None  # the only target under a source budget


def test_domains_are_means_over_tasks(finished):
    pairs = [one for one in finished["ablation"]["pairs"] if one["gain"] is not None]
    by = finished["ablation"]["domains"]
    for name, one in by.items():
        bare, _, role = name.partition(" (")
        some = [pair for pair in pairs if pair["domain"] == bare and (not role or pair["role"] == role[:-1])]
        assert one["gain"] == pytest.approx(np.mean([pair["gain"] for pair in some]))
        assert one["tasks"] == len(some)
    assert sum(one["tasks"] for one in by.values()) == len(pairs) == finished["ablation"]["n"]


def made_up(weights, gains, sources=3, seeds=1, tasks=1):
    """A plan and runs with given mean weights and gains [tasks, D] in place of trained ones."""
    names = [f"d{i}" for i in range(weights.shape[1])]
    named = [Task(f"task-{i}", names[:sources], names[sources:], [1 / sources] * sources, 0) for i in range(tasks)]
    plan = explain.Plan("", "", "", "", Budget(1, 1), {}, named, None, msgspec.structs.replace(SETTINGS, seeds=seeds))
    own, without = {}, {}
    for i in range(tasks):
        for seed in range(seeds):
            own[i, seed] = {"status": "done", "score": 5.0, "decided": [weights[i].tolist()]}
            for d in range(len(names)):
                without[i, seed, d] = {"status": "done", "score": 5.0 - gains[i, d]}
    return plan, own, without


def test_correlation_is_scipys_over_pairs_and_within_roles():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(3)
    weights, gains = rng.dirichlet(np.ones(7), 3), rng.normal(size=(3, 7))
    gains[:, :3] += 5 * weights[:, :3]
    plan, own, without = made_up(weights, gains, tasks=3)
    found = explain.ablation_of(plan, own, own, without)
    assert found["spearman"] == pytest.approx(spearmanr(weights.round(6).ravel(), gains.ravel())[0])
    centred = [
        np.concatenate([np.concatenate([row[:3] - row[:3].mean(), row[3:] - row[3:].mean()]) for row in z])
        for z in (weights, gains)
    ]
    assert found["within_role"]["spearman"] == pytest.approx(spearmanr(*centred)[0])
    assert found["n"] == found["within_role"]["n"] == 21
    assert found["low"] < found["spearman"] < found["high"]


@pytest.mark.parametrize(("sign", "word"), [(1, "gives more"), (-1, "gives less")])
def test_an_agent_that_agrees_is_told_from_one_that_does_not(sign, word):
    weights = np.random.default_rng(0).dirichlet(np.ones(12), 3)
    plan, own, without = made_up(weights, sign * weights, tasks=3)
    found = explain.ablation_of(plan, own, own, without)
    assert found["spearman"] == pytest.approx(sign) and word in found["verdict"] and "within roles" in found["verdict"]
    plan, own, without = made_up(weights[:1], sign * weights[:1])
    found = explain.ablation_of(plan, own, own, without)
    assert "one task alone" in found["verdict"] and (found["low"], found["high"]) == (-1, 1)


def test_roles_are_no_agreement():
    """A fixed even mixture under a source budget: targets get more and are of more use, and all pairs correlate by that alone."""
    rng = np.random.default_rng(0)
    weights = np.tile([0.05] * 4 + [0.4] * 2, (6, 1))
    gains = np.where(np.arange(6) < 4, 0.5, 3.0) + 0.1 * rng.normal(size=(6, 6))
    plan, own, without = made_up(weights, gains, sources=4, tasks=6)
    found = explain.ablation_of(plan, own, own, without)
    assert found["spearman"] > 0.7 and found["low"] > 0
    assert found["within_role"]["spearman"] is None and "nothing can be said" in found["verdict"]
    split = weights * (1 + 0.3 * rng.random((6, 6)))  # not even, and not by use
    plan, own, without = made_up(split, gains, sources=4, tasks=6)
    found = explain.ablation_of(plan, own, own, without)
    assert found["spearman"] > 0.6 and "not been shown" in found["verdict"]


def test_intervals_are_over_tasks_and_not_over_their_domains():
    """Whether weights go with gains differs from task to task: many domains of few tasks do not make that certain."""
    rng = np.random.default_rng(1)
    weights = rng.dirichlet(np.ones(16), 5)
    signs = np.array([1, 1, 1, 1, -1])[:, None]
    plan, own, without = made_up(weights, signs * weights, sources=8, tasks=5)
    found = explain.ablation_of(plan, own, own, without)["within_role"]
    pairs = correlation.interval(rng.random(80), rng.random(80))
    assert found["tasks"] == 5 and found["n"] == 80
    assert found["high"] - found["low"] > 1.5 * (pairs["high"] - pairs["low"])
    tasks = np.repeat(np.arange(5), 16)
    x = rng.normal(size=80)
    told = correlation.interval(x, np.repeat(rng.normal(size=5), 16) + 0.1 * rng.normal(size=80), tasks)
    assert told["low"] <= told["value"] <= told["high"]


def test_noise_of_few_tasks_is_rarely_called_agreement():
    """Weights and gains without relation, three tasks: said in one of twenty at most, though the bootstrap over three is too sure."""
    said = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        plan, own, without = made_up(rng.dirichlet(np.ones(6), 3), rng.normal(size=(3, 6)), sources=4, tasks=3)
        said += "gives" in explain.ablation_of(plan, own, own, without)["verdict"]
    assert said <= 4


def test_chance_is_that_of_all_permutations():
    from itertools import permutations, product

    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    x, y, groups = rng.normal(size=7), rng.normal(size=7), [[0, 1, 2, 3], [4, 5, 6]]
    y[:4] += 2 * x[:4]
    value = abs(spearmanr(x, y).statistic)
    every = [y[[*one, *other]] for one, other in product(*map(permutations, groups))]
    want = np.mean([abs(spearmanr(x, each).statistic) >= value - 1e-12 for each in every])
    assert correlation.chance(x, y, groups, draws=4000) == pytest.approx(want, abs=0.03)
    assert correlation.chance(x, np.ones(7), groups) is None


def test_an_even_split_agrees_with_nothing_within_roles():
    weights = np.array([[0.1, 0.1, 0.1, 0.35, 0.35]]) + 1e-9
    found = explain.ablation_of(
        *(parts := made_up(weights, np.random.default_rng(0).normal(size=(1, 5))))[:2], parts[1], parts[2]
    )
    assert found["within_role"]["spearman"] is None and found["spearman"] is not None
    assert "nothing can be said" in found["verdict"]


def test_noise_is_not_called_agreement():
    rng = np.random.default_rng(0)
    plan, own, without = made_up(rng.dirichlet(np.ones(8), 2), rng.normal(size=(2, 8)), tasks=2)
    assert "not been shown" in explain.ablation_of(plan, own, own, without)["verdict"]


def test_failed_runs_are_left_out():
    weights = np.random.default_rng(0).dirichlet(np.ones(5), 1)
    plan, own, without = made_up(weights, weights, seeds=2)
    without[0, 0, 1] = {"status": "failed", "error": ""}
    without[0, 0, 2] = without[0, 1, 2] = {"status": "failed", "error": ""}
    pairs = explain.ablation_of(plan, own, own, without)["pairs"]
    assert pairs[1]["gain"] == pytest.approx(weights[0, 1]) and pairs[1]["low"] is None
    assert pairs[2]["gain"] is None


# ---------------------------------------------------------------- weights


def test_weights_are_means_of_decisions(home, finished):
    task = swarm.read_plan(home / "swarm").tasks[0]
    decided = np.mean([score_by_hand(home, task, seed, Agent.load(home / "agent"))[1] for seed in range(2)], axis=0)
    assert [one["step"] for one in finished["weights"]] == [0, 1, 2, 3]
    for row, one in zip(decided, finished["weights"], strict=True):
        assert one["domains"][task.name] == pytest.approx(dict(zip([*task.sources, *task.targets], row, strict=True)))
        assert one["source"] + one["target"] == pytest.approx(1)
        source = [
            sum(w for name, w in of.items() if finished["roles"][t][name] == "source")
            for t, of in one["domains"].items()
        ]
        assert one["source"] == pytest.approx(np.mean(source))
        assert 0 <= one["entropy"] <= np.log(3)


# ---------------------------------------------------------------- Q and the world


def history_of(domains, steps=3, sources=2, seed=0, share=0.3):
    rng = np.random.default_rng(seed)
    source = np.arange(domains) < sources
    found = History(
        [f"d{i}" for i in range(domains)],
        source,
        np.full(domains, 1e6),
        rng.uniform(2, 4, domains),
        Budget(1000, 8, share),
    )
    for _ in range(steps):
        w = rng.dirichlet(np.ones(domains))
        w[source] *= 0.1
        found.add(w / w.sum(), found.base - 0.1 * rng.random(domains))
    return found


def noisy(card):
    torch.manual_seed(0)
    agent = Agent(card)
    with torch.no_grad():
        for one in [agent.actor, *agent.critics]:
            for x in one.parameters():
                x.add_(0.3 * torch.randn_like(x))
    return agent


CARDS = {
    "set": Card(arch="set", algo="cql", critics=2),
    "decoder": Card(
        arch="decoder", algo="cql", sizes={"domains": 4, "width": 16}, critics=2, domains=["d0", "d1", "d2", "d3"]
    ),
    "pooled": Card(arch="pooled", algo="model", critics=1, critic_arch="pooled-value", critic_sizes={}),
}


@pytest.mark.parametrize("arch", list(CARDS))
def test_values_are_agents_q(arch):
    agent, history = noisy(CARDS[arch]), history_of(4)
    mixtures = np.random.default_rng(1).dirichlet(np.ones(4), 9)
    wanted = [agent.q(history, one) for one in mixtures]
    assert np.allclose(beliefs.values(agent, history, mixtures), wanted, atol=1e-5)
    assert np.ptp(wanted) > 1e-3


def test_q_runs_along_lines_through_the_decision():
    agent, history = noisy(CARDS["set"]), history_of(4)
    found = beliefs.q_of(agent, [history.upto(0), history])
    assert [one["step"] for one in found["states"]] == [0, 3] and "simplex" not in found["states"][0]
    one = found["states"][1]
    decided = agent.decide(history)
    assert one["decided_q"] == pytest.approx(decided.q, abs=1e-5)
    assert one["source_share"]["decided"] == pytest.approx(decided.weights[:2].sum())
    at = one["source_share"]["shares"][7]
    mixture = np.concatenate(
        [
            decided.weights[:2] / decided.weights[:2].sum() * at,
            decided.weights[2:] / decided.weights[2:].sum() * (1 - at),
        ]
    )
    assert one["source_share"]["q"][7] == pytest.approx(agent.q(history, mixture), abs=1e-5)
    assert one["domains"]["d2"]["q"][-1] == pytest.approx(agent.q(history, np.eye(4)[2]), abs=1e-5)
    left = history.source_left
    assert one["source_share"]["feasible"] == [share <= min(1, left) + 1e-9 for share in one["source_share"]["shares"]]
    assert (
        one["domains"]["d2"]["feasible"][-1] and found["states"][0]["domains"]["d2"]["q"] != one["domains"]["d2"]["q"]
    )


def test_three_domains_have_their_whole_simplex():
    agent, history = noisy(CARDS["set"]), history_of(3)
    found = beliefs.q_of(agent, [history])["states"][0]["simplex"]
    n = beliefs.Q_POINTS - 1
    assert len(found["weights"]) == (n + 1) * (n + 2) // 2 == len(found["q"])
    assert len({tuple(np.round(w, 9)) for w in found["weights"]}) == len(found["weights"])
    assert np.allclose(np.sum(found["weights"], 1), 1)
    k = found["weights"].index([0.5, 0.25, 0.25])
    assert found["q"][k] == pytest.approx(agent.q(history, np.array([0.5, 0.25, 0.25])), abs=1e-5)


def test_an_agent_without_critics_says_so():
    found = beliefs.q_of(Agent(Card(arch="set", algo="sft")), [history_of(4)])
    assert found == {"available": False, "why": "an agent of --algo sft has no critics"}


def test_the_worlds_effects_are_those_of_its_rollouts(home):
    simulator, agent = world.Simulator.load(home / "agent"), Agent.load(home / "agent")
    history = history_of(4, steps=2)
    decision = agent.decide(history)
    weights, losses = simulator.rollout(history, lambda _: decision)[0]
    assert np.array_equal(weights, decision.weights)
    wanted = 100 * ((history.base - losses) / history.base - history.gains[-1])
    found = beliefs.world_of(str(home / "agent"), agent, [history])["states"][0]
    assert list(found["decided"]["change"].values()) == pytest.approx(wanted, abs=1e-4)
    moved = 0.9 * decision.weights + 0.1 * np.eye(4)[1]
    _, other = simulator.rollout(history, lambda _: type(decision)(moved))[0]
    more = 100 * (losses - other) / history.base
    assert list(found["domains"]["d1"]["change"].values()) == pytest.approx(more, abs=1e-4)
    assert found["domains"]["d1"]["score"] == pytest.approx(more[:2].mean() / 2 + more[2:].mean() / 2, abs=1e-4)


def test_an_agent_without_a_world_has_none(home):
    assert beliefs.world_of(str(home / "agent"), noisy(CARDS["set"]), [history_of(4)]) is None


# ---------------------------------------------------------------- the verb


def test_result_has_all_parts(home, finished):
    assert finished["algo"] == "model" and finished["arch"] == "pooled" and finished["tasks"] == ["task-00", "task-01"]
    assert (
        finished["q"]["available"]
        and finished["q"]["unit"] == "points of the final score"
        and len(finished["q"]["states"]) == 3
    )
    assert [one["step"] for one in finished["world"]["states"]] == [0, 2, 3]
    assert finished["counts"] == {"runs": 2 * 2 * (1 + 2), "failed": 0, "tasks": 2, "seeds": 2}
    manifest = json.loads((home / "explained" / "manifest.json").read_bytes())
    assert (manifest["tool"], manifest["verb"], manifest["status"]) == ("datamix", "explain", "done")


def test_the_same_command_runs_nothing_again(home, finished, capsys, monkeypatch):
    def never(*given):
        raise AssertionError("a run was made again")

    monkeypatch.setattr(explain, "run_one", never)
    status, out = told(home, capsys, output=str(home / "explained"))
    assert status == 0 and json.loads(out) == finished


def test_a_torn_journal_goes_on(home, finished, tmp_path, capsys):
    folder = tmp_path / "again"
    shutil.copytree(home / "explained", folder)
    lines = (folder / "journal").read_bytes().splitlines(keepends=True)
    (folder / "journal").write_bytes(b"".join(lines[:6]) + lines[6][:20])
    (folder / "explain.json").unlink()
    status, out = told(home, capsys, output=str(folder))
    assert status == 0 and json.loads(out) == finished


def test_other_options_are_refused_and_overwrite_begins_anew(home, finished, tmp_path, capsys):
    folder = tmp_path / "again"
    shutil.copytree(home / "explained", folder)
    fewer = msgspec.structs.replace(SETTINGS, seeds=1, ablation="none")
    with pytest.raises(BadInput, match=r"was begun with .*; choose another output or add --overwrite"):
        told(home, capsys, fewer, output=str(folder))
    status, out = told(home, capsys, fewer, output=str(folder), overwrite=True)
    found = json.loads(out)
    assert status == 0 and found["counts"]["runs"] == 2 and found["ablation"] is None


def test_a_folder_of_others_is_left_alone(home, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("x")
    with pytest.raises(BadInput, match="holds things that `datamix explain` did not make"):
        told(home, capsys, output=str(tmp_path / "mine"), overwrite=True)
    assert (tmp_path / "mine" / "notes").read_text() == "x"


def test_the_mean_mixture_may_be_what_domains_are_left_out_of(home, capsys):
    how = msgspec.structs.replace(SETTINGS, ablation="mean", tasks=1, seeds=1)
    found = json.loads(told(home, capsys, how)[1])
    task = swarm.read_plan(home / "swarm").tasks[0]
    _, schedule = score_by_hand(home, task, 0, Agent.load(home / "agent"))
    mean = np.tile(schedule.mean(0), (4, 1))
    with_it, _ = score_by_hand(home, task, 0, SchedulePolicy("mean", mean))
    without = mean.copy()
    without[:, 1] += without[:, 0]
    without[:, 0] = 0
    lost, _ = score_by_hand(home, task, 0, SchedulePolicy("without", without))
    assert found["ablation"]["of"] == "mean" and found["counts"]["runs"] == 1 + 1 + 2
    assert found["ablation"]["pairs"][0]["gain"] == pytest.approx(with_it - lost, abs=1e-9)


def test_another_corpus_takes_the_swarms_budget_and_bases_of_its_own(home, tmp_path, capsys):
    make_corpus(tmp_path / "other", dict.fromkeys(("a", "b", "c"), 4000), targets=("c",), valid=1500, seed=5)
    how = msgspec.structs.replace(SETTINGS, tasks=0, seeds=1, ablation="none")
    found = json.loads(told(home, capsys, how, corpus=str(tmp_path / "other"), swarm=str(home / "swarm"))[1])
    assert found["tasks"] == ["all"] and found["roles"]["all"] == {"a": "source", "b": "source", "c": "target"}
    assert len(found["weights"]) == BUDGET.steps


def test_tasks_are_the_first_of_the_swarm_as_the_help_says(home):
    from click.testing import CliRunner

    from datamix import cli

    every = swarm.read_plan(home / "swarm").tasks
    for asked, want in ((1, every[:1]), (0, every)):
        settings = msgspec.structs.replace(SETTINGS, tasks=asked)
        assert explain.plan_of(str(home / "agent"), None, str(home / "swarm"), settings).tasks == want
    helped = " ".join(CliRunner().invoke(cli.main, ["explain", "--help"]).output.split())
    assert "The first so many tasks of the swarm, 0 all of them" in helped


def test_without_swarm_and_corpus_it_says_what_it_wants(home, tmp_path, capsys):
    shutil.copytree(home / "agent", tmp_path / "moved")
    (tmp_path / "moved" / "manifest.json").unlink()
    with pytest.raises(BadInput, match="expected --swarm SWARM or --corpus DIR"):
        told(tmp_path, capsys, agent="moved")


def test_too_few_domains_for_random_choices_are_told_in_its_own_words(home, tmp_path):
    """Its message names options that it has, and says what became of the swarm's tasks."""
    make_corpus(tmp_path / "two", dict.fromkeys(("web", "code"), 4000), targets=("code",), valid=1500)
    make_corpus(tmp_path / "same", dict.fromkeys(NAMES, 4000), targets=("math", "code"), valid=1500, seed=5)
    one = msgspec.structs.replace(SETTINGS, tasks=1)
    own = r"--tasks 1: a random choice is of 4 source and 2 target domains, and .* has {} domains; give --tasks 0 for the corpus as it stands"
    aside = r" \(the tasks of .*swarm were put aside, as {}"
    for corpus, with_swarm, words in (
        ("two", True, own.format(2) + aside.format(r"its domains differ: (math|books) is not in .*two\)$")),
        ("same", True, own.format(4) + aside.format(r"it was made of another corpus\)$")),
        ("two", False, own.format(2) + "$"),
    ):
        given = str(home / "swarm") if with_swarm else None
        with pytest.raises(BadInput, match=words) as error:
            explain.plan_of(str(home / "agent"), str(tmp_path / corpus), given, one)
        assert "--task-sources" not in str(error.value)
        none = msgspec.structs.replace(one, tasks=0)
        plan = explain.plan_of(str(home / "agent"), str(tmp_path / corpus), given, none)
        assert [task.name for task in plan.tasks] == ["all"]


def test_text_that_was_overwritten_is_not_explained_on(home, tmp_path):
    shutil.copytree(home / "corpus", tmp_path / "corpus")
    with open(tmp_path / "corpus" / "tokens" / "math.train.bin", "r+b") as stream:
        stream.write(b"altered")
    with pytest.raises(BadInput, match=r"math\.train\.bin: is not the file that corpus\.json names"):
        explain.plan_of(str(home / "agent"), str(tmp_path / "corpus"), str(home / "swarm"), SETTINGS)


def test_a_decoder_is_refused_on_other_domains(home, tmp_path, capsys):
    Agent(CARDS["decoder"]).save(tmp_path / "decoder")
    with pytest.raises(BadInput, match="was made for the 4 domains d0"):
        told(tmp_path, capsys, agent="decoder", swarm=str(home / "swarm"))


def test_tables_for_people(home, capsys):
    _, out = told(home, capsys, msgspec.structs.replace(SETTINGS, tasks=1, seeds=1), as_json=False)
    for words in ("gain of having it", "rank correlation", "weights over time", "Q before step 3"):
        assert words in out
