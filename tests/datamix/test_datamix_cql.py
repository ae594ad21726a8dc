"""Conservative Q-learning: the bandit's fixed point, d3rlpy, known dynamics, and what the report says."""

import dataclasses
import math
import time

import numpy as np
import pytest
import torch
from datamix_dynamics import Fixed, final, forgetting, swarm, trajectory
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from datamix import correlation, cql, diagnose, sft, world
from datamix.agent import Agent
from datamix.simplex import Limits, Outputs
from tenfold_shared import BadInput


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


# ---------------------------------------------------------------- the bandit's fixed point


def minimised(beta, reward, alpha):
    q = torch.zeros(len(beta), dtype=torch.float64, requires_grad=True)
    beta, reward = torch.tensor(beta, dtype=torch.float64), torch.tensor(reward, dtype=torch.float64)
    optimiser = torch.optim.LBFGS(
        [q], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss():
        optimiser.zero_grad()
        found = cql.discrete_loss(q, beta, reward, alpha)
        found.backward()
        return found

    optimiser.step(loss)
    return q.detach().numpy()


@pytest.mark.parametrize(
    ("beta", "reward", "alpha", "want"),
    [
        ((0.9, 0.1), (0.0, 1.0), 0.1, (0.056374, 0.492633)),
        ((0.9, 0.1), (0.0, 1.0), 0.5, (0.151819, -0.366374)),
        ((0.9, 0.1), (0.0, 1.0), 2.0, (0.235058, -1.115520)),
        ((0.5, 0.3, 0.2), (0.0, 1.0, 2.0), 1.0, (0.502524, 0.839101, 0.985040)),
        ((0.5, 0.3, 0.2), (0.0, 1.0, 2.0), 1e-7, (0.0, 1.0, 2.0)),
        ((0.9, 0.1), (0.0, 1.0), 1e-7, (0.0, 1.0)),
    ],
)
def test_bandit_fixed_point(beta, reward, alpha, want):
    np.testing.assert_allclose(minimised(beta, reward, alpha), want, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.floats(0.01, 3))
def test_bandit_keeps_the_mean_and_is_stationary(seed, n, alpha):
    rng = np.random.default_rng(seed)
    beta, reward = rng.dirichlet(np.ones(n) * 3) * 0.9 + 0.1 / n, rng.normal(size=n)
    q = minimised(beta, reward, alpha)
    assert beta @ q == pytest.approx(beta @ reward, abs=1e-6)
    soft = np.exp(q - q.max()) / np.exp(q - q.max()).sum()
    np.testing.assert_allclose(alpha * (soft - beta) + beta * (q - reward), 0, atol=1e-6)


# ---------------------------------------------------------------- the conservative term on the simplex


def test_importance_form_estimates_the_integral():
    """∫ over the simplex of exp(k·y_0): by quadrature of its Beta marginal, times the volume 1/Γ(D); from all four kinds of points."""
    torch.manual_seed(0)
    d, k = 4, 3.0
    s = cql.Settings(samples=4000)
    mask = torch.ones(1, 2, d, dtype=torch.bool)
    held = Limits(
        mask & torch.tensor([True, True, False, False]), mask, torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.bool)
    )
    every = Outputs(torch.randn(1, 2, d) * 0.3, torch.zeros(1, 2), torch.full((1, 2), -0.2))
    drawn = cql.proposals(every, held, torch.tensor([[[0.3, 0.3, 0.2, 0.2]]]), cql.Settings(samples=4000, noise=0.5))
    q = k * drawn.y[..., 0]
    x = np.linspace(0, 1, 20001)
    want = math.log(np.trapezoid(np.exp(k * x) * stats.beta(1, d - 1).pdf(x), x) / math.gamma(d))
    assert float(cql.conservative(q, drawn.log_density, torch.zeros(1, 1))) == pytest.approx(want, abs=0.03)
    for kind in range(4):
        one = slice(kind * s.samples, (kind + 1) * s.samples)
        found = float(cql.conservative(q[..., one], drawn.log_density[..., one], torch.zeros(1, 1)))
        assert found == pytest.approx(want, abs=0.12), cql.KINDS[kind]


def test_effective_sample_size():
    assert float(cql.effective(torch.zeros(8))) == pytest.approx(1)
    assert float(cql.effective(torch.tensor([0.0, -1e4, -1e4, -1e4]))) == pytest.approx(0.25)
    w = torch.tensor([1.0, 2.0, 3.0])
    assert float(cql.effective(w.log())) == pytest.approx(36 / 14 / 3)
    assert float(cql.effective(w.log() + 500)) == pytest.approx(
        36 / 14 / 3, rel=1e-4
    )  # the density's unit does not matter


def test_rho_form_is_told_when_weights_say_too_little():
    """With many domains a narrow density varies by e^10 between its own points: the form changes, and the report says when and why."""
    quick = {"steps": 2, "warm_steps": 2, "held_out": 0.0, "critics": 1, "fitted_q_steps": 2}
    wide = swarm(forgetting(domains=(15, 15)), 4)
    s = cql.Settings(sft=sft.Settings(steps=3, splits=0), **quick)
    told = cql.train(wide, "set", s).report
    assert told["integral"] == "rho" and len(told["notes"]) == 1
    assert "step 0" in told["notes"][0] and "CQL(rho) form from here on" in told["notes"][0]
    sizes = told["effective_sample_size"][0]
    assert sizes["uniform"] == pytest.approx(1, abs=1e-3) and min(sizes[kind] for kind in cql.KINDS[:3]) < 0.2
    asked = cql.train(wide, "set", cql.Settings(sft=s.sft, integral="importance", **quick)).report
    assert asked["integral"] == "importance" and "not to be relied on" in asked["notes"][0]
    few = cql.train(swarm(forgetting(), 4), "set", s).report
    assert few["integral"] == "importance" and few["notes"] == []


@pytest.mark.deep
def test_d3rlpy_has_the_same_conservative_term():
    """The peer's own loss, its points and log-densities caught on their way to its Q-function, against ours on the same numbers; and the
    same for its discrete form."""
    import d3rlpy

    d3rlpy.seed(0)
    rng = np.random.default_rng(0)
    n, d = 16, 3
    observations, actions = (
        rng.normal(size=(n, 2)).astype(np.float32),
        rng.uniform(-0.9, 0.9, (n, d)).astype(np.float32),
    )
    data = d3rlpy.dataset.MDPDataset(
        observations, actions, rng.normal(size=n).astype(np.float32), np.ones(n, dtype=np.float32)
    )
    peer = d3rlpy.algos.CQLConfig(batch_size=n).create(device=False)
    peer.build_with_dataset(data)
    impl = peer.impl
    caught = []
    at_policy, at_random = impl._compute_policy_is_values, impl._compute_random_is_values
    impl._compute_policy_is_values = lambda **k: caught.append(at_policy(**k)) or caught[-1]
    impl._compute_random_is_values = lambda obs: caught.append(at_random(obs)) or caught[-1]
    x, a = torch.tensor(observations), torch.tensor(actions)
    want = impl._compute_conservative_loss(obs_t=x, act_t=a, obs_tp1=x + 0.1, returns_to_go=torch.zeros(n, 1))
    q = torch.cat([values for values, _ in caught], dim=2)  # [critics, n, 3 · samples]
    density = torch.cat([torch.as_tensor(logs).expand(q.shape[0], n, 10) for _, logs in caught], dim=2)
    own = impl._q_func_forwarder.compute_expected_q(x, a, "none")[..., 0]
    # Ours is an estimate of the integral, with 1/K; the peer's lacks it.
    ours = (cql.conservative(q, density, own) + math.log(q.shape[-1])).mean(1)
    torch.testing.assert_close(5.0 * (ours - 10.0), want, rtol=1e-5, atol=1e-4)

    discrete = d3rlpy.algos.DiscreteCQLConfig(batch_size=n).create(device=False)
    chosen = rng.integers(3, size=n)
    discrete.build_with_dataset(d3rlpy.dataset.MDPDataset(observations, chosen, np.ones(n, dtype=np.float32), np.ones(n, dtype=np.float32)))  # fmt: skip
    act = torch.tensor(chosen).view(-1, 1)
    want = discrete.impl._compute_conservative_loss(x, act)
    values = discrete.impl._q_func_forwarder.compute_expected_q(x)
    ours = cql.conservative(values, -math.log(3), values.gather(1, act)[:, 0]).mean()
    torch.testing.assert_close(ours, want, rtol=1e-5, atol=1e-5)


def learnt_values(w, reward, grid, steps=400, batch=128, **changed):
    """Q of mixtures (w, 1 - w) by cql's own learner after some steps on one-step runs, rewards put in the place of theirs. The peer's
    squared error lacks our half, so that half its conservative weight is the same."""
    still = [forgetting(domains=(1, 1), share=1.0, steps=1).run(Fixed([[share, 1 - share]])) for share in w]
    recorded = [trajectory(one, i) for i, one in enumerate(still)]
    some = sft.runs_of(recorded, {"task": (0.0, 1.0)})
    some.rewards = torch.tensor(reward).float()[:, None]
    some.returns = some.rewards[:, 0]
    agent = sft.train(recorded[:8], "set", sft.Settings(steps=2, splits=0))
    how = cql.Settings(**{"critic_lr": 3e-3, "weight": 0.25, "lagrange": False, "integral": "importance"} | changed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        learner = cql.Learner(agent, how, "set", {})
        for number in range(steps):
            learner.step(some.take(torch.randperm(len(w))[:batch]), torch.ones(batch), number)
    actions = torch.tensor(np.stack([grid, 1 - grid], axis=1)).float().view(1, 1, -1, 2)
    first = some.states.take(torch.tensor([0]))
    with torch.no_grad():
        q = torch.stack([one.value(one.encode(first)[:, :1], first, actions)[0, 0] for one in learner.critics])
    return q.mean(0).numpy()


def test_learner_is_pessimistic_about_what_data_lack():
    """The loop itself: where every action that was used was worth the same, only the conservative term tells used from unused ones."""
    w, grid = np.random.default_rng(0).uniform(0.3, 0.7, 200), np.array([0.02, 0.5, 0.98])
    low, used, high = learnt_values(
        w, np.ones(200), grid, steps=70, batch=64, samples=4, critics=1, critic_lr=1e-2, weight=1.0
    )
    assert used - low > 0.3 and used - high > 0.3, (low, used, high)


@pytest.mark.deep
def test_d3rlpy_ranks_actions_of_a_toy_alike():
    """One step, two domains: w in [0, 1] as a box action 2w - 1, return highest inside the data. Both trained critics must rank a grid of
    actions alike, and both must rate what the data lack below what the truth says."""
    import d3rlpy

    rng = np.random.default_rng(0)
    w = rng.uniform(0.2, 0.8, 400)
    reward = 4 * (1 - 8 * (w - 0.6) ** 2)
    grid = np.linspace(0.02, 0.98, 33)
    d3rlpy.seed(0)
    data = d3rlpy.dataset.MDPDataset(np.zeros((400, 1), np.float32), (2 * w - 1)[:, None].astype(np.float32), reward.astype(np.float32), np.ones(400, np.float32))  # fmt: skip
    peer = d3rlpy.algos.CQLConfig(batch_size=128, critic_learning_rate=3e-3, conservative_weight=0.5, alpha_learning_rate=0.0).create(device=False)  # fmt: skip
    peer.fit(
        data,
        n_steps=400,
        n_steps_per_epoch=400,
        show_progress=False,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
    )
    theirs = peer.predict_value(np.zeros((33, 1), np.float32), (2 * grid - 1)[:, None].astype(np.float32))

    ours = learnt_values(w, reward, grid)
    assert stats.spearmanr(ours, theirs).statistic > 0.8
    inside = (grid > 0.25) & (grid < 0.75)
    truth = 4 * (1 - 8 * (grid - 0.6) ** 2)
    for found in (ours, theirs):
        assert stats.spearmanr(found[inside], truth[inside]).statistic > 0.8
        assert 0.4 < grid[np.argmax(found)] < 0.8


# ---------------------------------------------------------------- known dynamics


@pytest.mark.parametrize("power", [1.0, 0.7])
def test_the_optimum_of_known_dynamics_is_one(power):
    """The oracle's oracle: its closed form is the simulation's score, and neither random schedules nor neighbours of the best beat it."""
    dynamics, rng = forgetting(power=power), np.random.default_rng(0)
    schedule, best = dynamics.best()
    assert dynamics.score(schedule) == pytest.approx(best, abs=1e-9)
    played = dynamics.run(Fixed(schedule))
    assert final(played) == pytest.approx(best, abs=1e-6)
    assert schedule[:, dynamics.source].sum() <= 2 + 1e-6
    for _ in range(300):
        other = rng.dirichlet(np.ones(4) * rng.choice([0.3, 1, 3]), 10)
        mixed = 0.8 * schedule + 0.2 * other if rng.random() < 0.5 else other
        assert final(dynamics.run(Fixed(mixed))) <= best + 1e-7
    still, static = dynamics.best(static=True)
    assert dynamics.score(still) == pytest.approx(static, abs=1e-9) and static < 0.85 * best
    grid = rng.dirichlet(np.ones(4), 300)
    assert max(dynamics.score(np.tile(w, (10, 1))) for w in grid if w[:2].sum() <= 0.2) <= static + 1e-7


@pytest.mark.deep
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cql_beats_its_warm_start_and_every_still_mixture(seed):
    """32 recorded runs of known dynamics whose best schedule replays late. CQL comes above the copy it starts from and above the best
    mixture that never changes, and reaches 80 % of the optimum in each of three instances; it does not reach 95 %."""
    dynamics = forgetting(seed=seed)
    runs = swarm(dynamics, 32, seed=seed)
    _, best = dynamics.best()
    _, static = dynamics.best(static=True)
    s = cql.Settings()
    kept, _ = cql.hold_out(runs, s.held_out, seed)
    copied = final(dynamics.run(sft.train(kept, "set", s.sft, seed)))
    began = time.process_time()
    agent = cql.train(runs, "set", s, seed)
    assert time.process_time() - began < 120
    found = final(dynamics.run(agent))
    assert found > copied and found > static, (copied, found, static, best)
    assert found > 0.8 * best, (found, best)


# ---------------------------------------------------------------- training

QUICK = cql.Settings(sft=sft.Settings(steps=4), steps=3, warm_steps=3, held_out=0.25, check=2, fitted_q_steps=3)


@pytest.fixture(scope="module")
def runs():
    return swarm(forgetting(), 8, seed=0, task="a") + swarm(forgetting(seed=1, domains=(2, 1)), 4, seed=1, task="b")


def test_a_trained_agent_can_be_asked_saved_and_diagnosed(runs, tmp_path):
    agent = cql.train(runs, "set", QUICK, seed=0)
    history = runs[0].history().upto(3)
    decision = agent.decide(history)
    assert decision.q == pytest.approx(agent.q(history, decision.weights), abs=1e-6)
    agent.save(tmp_path / "agent")
    found = Agent.load(tmp_path / "agent")
    np.testing.assert_array_equal(found.decide(history).weights, decision.weights)
    report = found.report
    assert found.name == "agent-cql" and found.card.critics == 2
    assert report["trajectories"] == {"given": 12, "used": 9, "held_out": 3}
    assert [one["step"] for one in report["effective_sample_size"]] == [0, 2]
    diagnosis = report["diagnosis"]
    assert diagnosis["runs"] == "held-out" and diagnosis["n"] == diagnosis["rank_correlation"]["n"] == 3
    assert all(math.isfinite(diagnosis[k]) for k in ("fitted_q", "data_return"))
    assert set(diagnosis["disagreement"]) == {"at_data", "at_policy"} and report["seconds"] > 0


def test_same_seed_same_agent(runs):
    one, two = (cql.train(runs, "set", QUICK, seed=3).tensors() for _ in range(2))
    assert all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize(
    "changed",
    [{"max_q_backup": True}, {"lagrange": False}, {"integral": "rho"}, {"critics": 4}, {"sft": sft.Settings(steps=4, density="logistic-normal")}],
)  # fmt: skip
def test_options(runs, changed):
    s = cql.Settings(
        **(
            {
                "sft": QUICK.sft,
                "steps": 3,
                "warm_steps": 3,
                "held_out": 0.0,
                "check": 2,
                "fitted_q_steps": 2,
                "batch": 64,
            }
            | changed
        )
    )
    agent = cql.train(runs, "set", s, seed=0)
    assert agent.decide(runs[0].history().upto(4)).weights.sum() == pytest.approx(1)
    assert all(math.isfinite(x) for x in agent.report["last"].values())
    assert agent.report["diagnosis"]["runs"] == "training"
    assert (agent.report["last"]["alpha"] == 1.0) == (not s.lagrange)
    assert len(agent.critics) == s.critics


def test_decoder_learns_too(runs):
    agent = cql.train(
        runs[:8],
        "decoder",
        cql.Settings(sft=sft.Settings(steps=3, sizes={"width": 32}), steps=2, warm_steps=2, fitted_q_steps=2),
        seed=0,
    )
    assert agent.card.domains == ["d0", "d1", "d2", "d3"] and agent.card.critic_sizes == {"width": 64, "domains": 4}
    assert agent.decide(runs[0].history()).q is not None
    with pytest.raises(BadInput, match="at least 1 and 2"):
        cql.train(runs, "set", cql.Settings(critics=0))


def test_max_q_backup_is_the_higher_target(runs):
    """The best of a policy's points is worth no less than the mean of them, by the same critics."""
    agent = sft.train(runs, "set", sft.Settings(steps=3, splits=0))
    kept = sft.runs_of(runs, sft.scales(runs))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = {}
        for name, s in (("centre", cql.Settings()), ("max", cql.Settings(max_q_backup=True))):
            torch.manual_seed(0)
            learner = cql.Learner(agent, s, "set", {})
            with torch.no_grad():
                every = agent.actor.act(agent.actor.encode(kept.states), kept.states)
            found[name] = learner.backup(every, kept.states.limits("lean"), kept)
    assert float((found["max"] - found["centre"]).mean()) > 0
    done = kept.done
    np.testing.assert_allclose(found["max"][done], kept.rewards[done])  # nothing follows the last step
    np.testing.assert_allclose(found["centre"][done], kept.rewards[done])


def test_held_out_runs_are_spread_and_leave_two_a_task(runs):
    kept, held = cql.hold_out(runs, 0.5, seed=0)
    assert len(held) == 6 and len(kept) == 6 and {one.task for one in held} == {"a", "b"}
    kept, held = cql.hold_out(runs, 0.99, seed=0)
    assert sorted(one.task for one in kept) == ["a", "a", "b", "b"]
    assert cql.hold_out(runs, 0.0, seed=0)[1] == []


def test_a_run_is_not_held_out_where_one_alone_would_be(runs):
    """One run says nothing of an agent: with six, none is kept from it, and the diagnosis is of all that it learned from."""
    for some, share in ((runs[:6], 0.2), (runs[:3], 0.9), (runs[:6], 0.1)):
        kept, held = cql.hold_out(some, share, seed=0)
        assert (kept, held) == (some, [])
    assert len(cql.hold_out(runs[:6], 0.3, seed=0)[1]) == 2
    report = cql.train(runs[:6], "set", dataclasses.replace(QUICK, held_out=0.2), seed=0).report
    assert report["trajectories"] == {"given": 6, "used": 6, "held_out": 0}
    assert (report["diagnosis"]["runs"], report["diagnosis"]["n"]) == ("training", 6)


@pytest.mark.parametrize(
    ("name", "value"), [("alpha", 0.0), ("alpha", -1.0), ("alpha", math.inf), ("temperature", 0.0)]
)
def test_multipliers_that_have_no_logarithm_are_refused(runs, name, value):
    with pytest.raises(BadInput, match=f"--{name} .*above 0"):
        cql.train(runs, "set", dataclasses.replace(QUICK, **{name: value}))


def test_the_command_refuses_alpha_0_and_tells_its_steps():
    from click.testing import CliRunner

    from datamix import cli

    refused = CliRunner().invoke(cli.main, ["train-agent", "swarm", "--algo", "cql", "--alpha", "0", "-o", "agent"])
    assert refused.exit_code == 2 and "--alpha" in refused.output and refused.exception.__class__ is SystemExit
    helped = " ".join(CliRunner().invoke(cli.main, ["train-agent", "--help"]).output.split())
    assert f"Steps of learning. [{cql.Settings().steps}]" in helped
    assert cql.Settings().steps == sft.Settings().steps == world.Settings().policy_steps


def test_report_says_how_far_multipliers_went(runs):
    """Adam moves a logarithm by about the rate a step, so that few steps at d3rlpy's rate leave both where they began."""
    told = cql.train(runs, "set", QUICK, seed=0).report["multipliers"]
    for name, start in (("alpha", 1.0), ("temperature", 0.1)):
        one = told[name]
        assert one["start"] == start and one["end"] != start
        assert one["factor"] == pytest.approx(math.exp(3e-4)) and abs(math.log(one["end"] / start)) <= 1.1 * 3e-4
    still = cql.train(runs, "set", dataclasses.replace(QUICK, lagrange=False), seed=0).report["multipliers"]
    assert still["alpha"] == {"start": 1.0, "end": 1.0, "factor": 1.0}


def test_returns_to_go_are_discounted():
    np.testing.assert_allclose(cql.to_go(torch.tensor([[1.0, 2.0, 4.0]]), 0.5), [[3.0, 4.0, 4.0]])


# ---------------------------------------------------------------- diagnosis


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=20))
def test_rank_correlation_against_scipy(pairs):
    x, y = np.array(pairs, dtype=float).T
    mine = correlation.spearman(x, y)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert mine is None
    else:
        assert mine == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)


def test_rank_correlation_interval():
    rng = np.random.default_rng(0)
    x = rng.normal(size=40)
    told = correlation.interval(x, x + rng.normal(size=40))
    assert told["low"] < told["value"] < told["high"] and told["n"] == 40 and told["low"] > 0
    perfect = correlation.interval(x, x)
    assert perfect["value"] == pytest.approx(1) and perfect["low"] == pytest.approx(1)
    assert correlation.interval(x[:2], x[:2])["value"] is None
    none = correlation.interval(rng.normal(size=8), rng.normal(size=8))
    assert none["high"] - none["low"] > 0.6  # eight runs say little, and it shows


def test_fitted_q_of_a_known_policy():
    """Still runs at five levels of source text, each rewarded for its level: what a policy is worth is the level that it plays."""
    dynamics = forgetting(share=1.0, steps=4)
    levels = np.linspace(0.1, 0.9, 5)
    still = [dynamics.run(Fixed(np.tile([s / 2, s / 2, (1 - s) / 2, (1 - s) / 2], (4, 1)))) for s in levels]
    runs = sft.runs_of([trajectory(one, i) for i, one in enumerate(still)], {"task": (0.0, 1.0)})
    runs.rewards = (runs.actions[..., :2].sum(-1) - 0.5) / 4
    for k in (1, 3):
        copied = [trajectory(still[k], i) for i in range(2)]
        agent = sft.train(copied, "set", sft.Settings(steps=50, splits=0, top=1.0))
        level = dynamics.run(agent).weights[:, :2].sum(1).mean()
        assert level == pytest.approx(levels[k], abs=0.1)
        assert diagnose.fitted_q(agent, runs, 1.0, 60) == pytest.approx(level - 0.5, abs=0.1)
