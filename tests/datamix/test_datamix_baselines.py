"""The rivals: each rule against its closed form, brute force or public tables."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from datamix_rivals import SOURCE, simulate
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import spearmanr

from datamix.baselines import aioli, doge, doremi, objective, odm, olmix, regmix, regmix_d, static
from datamix.history import Budget, History, score
from datamix.history import gains as gains_of
from datamix.mixture import with_source_share
from tenfold_shared import BadInput

# ---------------------------------------------------------------- RegMix on its public tables


def table_of(folder: Path, name: str):
    with open(folder / name, newline="") as stream:
        head, *rows = csv.reader(stream)
    return head[1:], np.array([[float(x) for x in row[1:]] for row in rows])


@pytest.fixture(scope="module")
def pile(regmix):
    """Training runs and the three test sets, as {which: (x, y)}, with the metrics' names."""
    names, x = table_of(regmix, "train_mixture_1m.csv")
    metrics, y = table_of(regmix, "train_pile_loss_1m.csv")
    found = {"train": (x, y)}
    for size in ("1m", "60m", "1B"):
        found[size] = table_of(regmix, f"test_mixture_{size}.csv")[1], table_of(regmix, f"test_pile_loss_{size}.csv")[1]
    return names, metrics, found


@pytest.fixture(scope="module")
def forests(pile):
    return regmix.fit("lightgbm", *pile[2]["train"])


@pytest.mark.parametrize(
    ("size", "trees", "linear", "ridge"), [("1m", 98.96, 83.1, 97.1), ("60m", 98.41, 83.0, 96.8), ("1B", 94.84, 70.9, 91.7)]
)  # fmt: skip
def test_regmix_tables_reach_the_stated_rank_correlations(pile, forests, size, trees, linear, ridge):
    _, _, tables = pile
    x, y = tables[size]
    assert 100 * regmix.spearman(forests.predict(x), y).mean() == pytest.approx(trees, abs=0.02)
    for kind, want in (("linear", linear), ("ridge", ridge)):
        fitted = regmix.fit(kind, *tables["train"])
        assert 100 * regmix.spearman(fitted.predict(x), y).mean() == pytest.approx(want, abs=0.06)


PILE = [
    0.11328527, 0.07960865, 0.00391349, 0.1853759, 0.05108136, 0.01596293, 0.10175077, 0.00370752, 0.06652935, 0.00175077, 0.02708548,
    0.23686921, 0.01184346, 0.00792997, 0.00803296, 0.03882595, 0.04644696,
]  # fmt: skip  # shares of the Pile in RegMix's notebook


def test_optimum_for_pile_cc_is_pile_cc_then_ubuntu(pile, forests):
    names, metrics, _ = pile
    wanted = objective.choose("metric/the_pile_pile_cc_val_loss", metrics, None, None)
    drawn = regmix.candidates(np.array(PILE), 20_000, 42)
    weights, _ = regmix.propose(forests, wanted, drawn, 26)  # the notebook's share of its 100,000
    order = np.argsort(-weights)
    assert [names[i] for i in order[:2]] == ["train_the_pile_pile_cc", "train_the_pile_ubuntu_irc"]
    assert 0.85 < weights[order[0]] < 0.92 and 0.03 < weights[order[1]] < 0.09


@pytest.mark.deep
def test_optimum_for_pile_cc_with_all_samples(pile, forests):
    names, metrics, _ = pile
    wanted = objective.choose("metric/the_pile_pile_cc_val_loss", metrics, None, None)
    weights, _ = regmix.propose(forests, wanted, regmix.candidates(np.array(PILE), 100_000, 42))
    assert weights[names.index("train_the_pile_pile_cc")] == pytest.approx(0.88, abs=0.02)
    assert weights[names.index("train_the_pile_ubuntu_irc")] == pytest.approx(0.06, abs=0.015)


def test_rank_correlation_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, (40, 3)).astype(float), rng.random((40, 3))
    want = [spearmanr(a[:, i], b[:, i]).statistic for i in range(3)]
    np.testing.assert_allclose(regmix.spearman(a, b), want, atol=1e-12)
    assert regmix.spearman(np.ones((5, 1)), rng.random((5, 1))).tolist() == [0.0]


def test_ridge_is_least_squares_with_rows_that_ask_for_zeros():
    """Linear's penalties against lstsq on the augmented table, features raw and standardised."""
    rng = np.random.default_rng(0)
    x, y = rng.random((30, 5)) * np.array([1, 10, 0.1, 3, 1]), rng.normal(size=(30, 2))
    at = rng.random((4, 5))
    for scaled in (False, True):
        scale = x.std(axis=0) if scaled else np.ones(5)
        a = np.vstack([(x - x.mean(axis=0)) / scale, np.sqrt(3.0) * np.eye(5)])
        slope = np.linalg.lstsq(a, np.vstack([y - y.mean(axis=0), np.zeros((5, 2))]), rcond=None)[0]
        want = (at - x.mean(axis=0)) / scale @ slope + y.mean(axis=0)
        np.testing.assert_allclose(regmix.Linear(x, y, penalty=3.0, scaled=scaled).predict(at), want, rtol=1e-9)


def test_candidates_are_dirichlet():
    prior = np.array([0.6, 0.3, 0.1, 0.0])
    drawn = regmix.candidates(prior, 200_000, 1)
    np.testing.assert_allclose(drawn.sum(axis=1), 1)
    assert (drawn[:, 3] == 0).all()
    np.testing.assert_allclose(drawn.mean(axis=0), prior, atol=0.005)
    np.testing.assert_allclose(drawn.var(axis=0), prior * (1 - prior) / 2, atol=0.005)  # strength 1


def test_small_swarms_can_be_split_and_cross_validation_stops_early():
    rng = np.random.default_rng(0)
    x = rng.dirichlet(np.ones(4), 24)
    y = 3 - x[:, :1]
    fitted = regmix.fit_trees(x, y, 200)
    assert regmix.spearman(fitted.predict(x), y)[0] > 0.9
    noise = regmix.fit_trees(x, rng.random((24, 1)), 200, cv=3)
    assert noise.boosters[0].current_iteration() < 200


@given(st.integers(0, 999), st.floats(0, 1))
def test_projecting_many_is_projecting_each(seed, share):
    drawn = np.random.default_rng(seed).dirichlet(np.full(4, 0.1), 12)
    drawn[0], drawn[1] = [0.5, 0.5, 0, 0], [0, 0, 0, 1]
    want = [with_source_share(w, SOURCE, share) for w in drawn]
    np.testing.assert_allclose(regmix.feasible(drawn, SOURCE, share), want, atol=1e-15)


def test_regmix_finds_the_best_static_mixture_under_a_budget():
    """Quadratic losses with a known optimum inside, projected candidates: the answer is near it and never above the budget."""
    best = np.array([0.3, 0.1, 0.1, 0.5])
    rng = np.random.default_rng(0)
    x = regmix.feasible(rng.dirichlet(np.ones(4), 300), SOURCE, 0.4)
    y = 1 + ((x - best) ** 2).sum(axis=1, keepdims=True)
    fitted = regmix.fit("lightgbm", x, y, 300)
    drawn = regmix.feasible(regmix.candidates(np.full(4, 0.25), 20_000, 0, (1.0, 5.0)), SOURCE, 0.4)
    weights, _ = regmix.propose(fitted, objective.choose("mean", ["one"], None, None), drawn)
    assert weights[SOURCE].sum() <= 0.4 + 1e-9
    grid = regmix.feasible(rng.dirichlet(np.ones(4), 20_000), SOURCE, 0.4)
    assert ((weights - best) ** 2).sum() < ((grid - best) ** 2).sum(axis=1).min() + 0.01


# ---------------------------------------------------------------- Olmix


def law_of(seed: int, metrics: int, domains: int) -> olmix.LogLinear:
    rng = np.random.default_rng(seed)
    return olmix.LogLinear(0.5 + rng.random(metrics), rng.normal(0, 1.0, (metrics, domains)))


def test_law_is_recovered():
    law = law_of(3, 3, 4)
    x = np.random.default_rng(1).dirichlet(np.ones(4), 60)
    found = olmix.fit(x, law.predict(x))
    np.testing.assert_allclose(found.c, law.c, atol=1e-4)
    np.testing.assert_allclose(found.a, law.a, atol=1e-3)


def simplex(n: int):
    """All points of the 3-simplex with denominators n."""
    i, j = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    kept = i + j <= n
    return np.stack([i[kept], j[kept], n - i[kept] - j[kept]], axis=1) / n


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("caps", "share"), [(None, 1.0), (np.array([0.5, 0.3, 1.0]), 1.0), (None, 0.2), (np.array([0.9, 0.1, 0.95]), 0.4)]
)
def test_proposer_is_the_minimum_of_a_fine_grid(seed, caps, share):
    law, v, prior, source = (
        law_of(seed, 2, 3),
        np.array([0.7, 0.3]),
        np.array([0.5, 0.2, 0.3]),
        np.array([True, True, False]),
    )
    w, gap = olmix.propose(law, v, prior, 0.1, caps, source, share)
    grid = simplex(400)
    grid = grid[
        (grid[:, :2].sum(axis=1) <= share + 1e-9) & ((grid <= caps + 1e-9).all(axis=1) if caps is not None else True)
    ]

    def value(x):
        return law.predict(x) @ v + 0.1 * (x * np.log(np.maximum(x, 1e-12) / prior)).sum(axis=1)

    assert w.sum() == pytest.approx(1) and w[:2].sum() <= share + 1e-7 and (caps is None or (w <= caps + 1e-7).all())
    assert value(w[None])[0] <= value(grid).min() + 1e-9
    assert np.abs(w - grid[value(grid).argmin()]).max() < 0.01
    assert gap < 1e-5


def test_proposer_with_an_endless_divergence_is_the_prior_and_without_losses_too():
    prior = np.array([0.5, 0.2, 0.3])
    np.testing.assert_allclose(olmix.propose(law_of(0, 1, 3), np.zeros(1), prior)[0], prior, atol=1e-5)
    np.testing.assert_allclose(olmix.propose(law_of(0, 1, 3), np.ones(1), prior, 1e5)[0], prior, atol=1e-4)


def test_proposer_and_law_refuse():
    with pytest.raises(BadInput, match="no mixture keeps within"):
        olmix.propose(law_of(0, 1, 3), np.ones(1), np.ones(3) / 3, caps=np.array([0.1, 0.1, 0.1]))
    with pytest.raises(BadInput, match="needs 5 or more"):
        olmix.fit(np.ones((4, 3)) / 3, np.ones((4, 1)))


# ---------------------------------------------------------------- DoReMi, DoGE, Aioli, ODM


def test_doremi_update_is_the_stated_one():
    np.testing.assert_allclose(
        doremi.update(np.array([0.5, 0.5]), np.array([1.0, 0.0]), 1, 1e-4), [0.731035, 0.268965], atol=5e-7
    )


@given(st.lists(st.floats(0, 50), min_size=2, max_size=8), st.floats(0.01, 5), st.floats(0, 0.1))
def test_doremi_update_is_a_mixture_with_a_floor(scores, eta, eps):
    w = doremi.update(np.full(len(scores), 1 / len(scores)), np.array(scores), eta, eps)
    assert w.sum() == pytest.approx(1) and w.min() >= eps / len(scores) - 1e-12
    assert w[int(np.argmax(scores))] == w.max()


def test_doremi_scores_cut_at_zero_by_token_and_keep_the_last_of_the_missing():
    excess = np.array([[1.0, -3.0], [2.0, 0.0], [-1.0, 5.0]])
    found = doremi.scores(excess, np.array([0, 0, 2]), np.array([9.0, 7.0, 9.0]))
    np.testing.assert_allclose(found, [(1 + 0 + 2 + 0) / 4, 7.0, 2.5])


def test_doge_scores_are_those_of_gradients_by_autograd():
    """A small softmax regression in float64: the scores from the formula with one autograd call a pair of domains."""
    torch.manual_seed(0)
    x, y, domain = torch.randn(12, 5, dtype=torch.float64), torch.randint(0, 3, (12,)), torch.arange(12) % 4
    w = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    losses = [torch.nn.functional.cross_entropy(x[domain == d] @ w, y[domain == d]) for d in range(4)]
    gradients = [torch.autograd.grad(one, w, retain_graph=True)[0] for one in losses]
    wanted = np.array([0.4, 0.8, 0.8, 2.0])
    norms = np.mean([float(g.norm()) for g in gradients]) + 1e-6
    brute = [
        sum(wanted[k] * float((gradients[d] * gradients[k]).sum()) for k in range(4)) * 0.01 / norms for d in range(4)
    ]
    stacked = np.array([g.reshape(-1).numpy() for g in gradients])
    np.testing.assert_allclose(doge.scores(stacked, wanted, 0.01, -np.inf, np.inf), brute, rtol=1e-12)
    np.testing.assert_allclose(doge.scores(stacked, wanted, 0.01), np.clip(brute, 0, 0.05), rtol=1e-12)
    # along a direction of the wanted gradient the loss Σ wanted·loss falls by <g_d, Σ wanted g>: the finite difference
    with torch.no_grad():
        moved = w - 1e-6 * gradients[1]
        after = [torch.nn.functional.cross_entropy(x[domain == d] @ moved, y[domain == d]) for d in range(4)]
    drop = float(sum(wanted[d] * (losses[d].detach() - after[d]) for d in range(4))) / 1e-6
    assert doge.scores(stacked, wanted, norms, -np.inf, np.inf)[1] == pytest.approx(drop, rel=1e-4)


def test_doge_update():
    found = doge.update(np.array([0.5, 0.5]), np.array([0.05, 0.0]), 0.05)
    np.testing.assert_allclose(found, [np.e / (np.e + 1), 1 / (np.e + 1)])


@pytest.mark.parametrize("factor", [1.0, 0.625, 0.4])
@pytest.mark.parametrize("sweeps", [1, 3])
def test_aioli_recovers_the_matrix_of_a_linear_law(factor, sweeps):
    rng = np.random.default_rng(7)
    matrix = rng.normal(size=(5, 4))  # more losses than domains
    now = rng.random(5) * 10
    before = now.copy()

    def train(weights, updates):
        nonlocal now
        now = now - updates * matrix @ weights
        return now

    found = aioli.learn(train, before, 4, rng, sweeps=sweeps, steps=4, factor=factor)
    np.testing.assert_allclose(found, 4 * matrix, atol=1e-12)


def test_aioli_update_and_normalisation():
    a = np.array([[1.0, -1.0], [0.0, 2.0]])
    want = (a + 1) / 6
    np.testing.assert_allclose(aioli.normalised(a), want)
    raw = np.exp(0.5 * want.sum(axis=0)) / 2
    np.testing.assert_allclose(aioli.update(np.full(2, 0.5), want, 0.5), raw / raw.sum())
    np.testing.assert_allclose(aioli.normalised(np.zeros((2, 2))), np.full((2, 2), 0.25))
    with pytest.raises(BadInput, match="factor"):
        aioli.smoothed(4, 0.25)


def test_odm_is_the_repositorys_bandit():
    """The published updater with all arms drawn, written as it is there: dictionaries aside."""
    rng = np.random.default_rng(0)
    k, losses = 4, rng.random((30, 4)) * 3
    bandit = odm.Exp3(np.full(k, 1 / k))
    p, r, eps = np.full(k, 1 / k), np.zeros(k), 1 / k
    for t, row in enumerate(losses, 1):
        r = r + row / 10 / p
        before, eps = eps, min(1 / k, np.sqrt(np.log(k) / (k * t)))
        scale = (1 - k * eps) / np.exp(r * before).sum()
        p = np.exp(r * before) * scale + eps
        np.testing.assert_allclose(bandit.update(row, np.ones(k, bool)), p, rtol=1e-10)
    assert p.sum() == pytest.approx(1)


def history(steps=16, share=1.0, names=("a", "b", "c", "t"), source=SOURCE, base=2.0):
    return History(list(names), source, np.full(len(names), 1000), np.full(len(names), base), Budget(1, steps, share))


def test_odm_policy_gives_more_to_a_domain_with_more_loss_and_keeps_the_budget():
    run, policy = history(share=0.4), odm.OdmPolicy()
    np.testing.assert_allclose(policy.decide(run).weights, with_source_share(np.full(4, 0.25), SOURCE, 0.4))
    for _ in range(15):
        run.add(policy.decide(run).weights, np.array([1.0, 9.0, 1.0, 1.0]))
    w = policy.decide(run).weights
    assert w[1] > w[0] == pytest.approx(w[2]) and run.weights[:, SOURCE].sum() <= 0.4 * 16 + 1e-9
    average = odm.OdmPolicy(alpha=0.9)
    assert average.decide(run).weights[1] > average.decide(run).weights[0]


def test_loss_softmax_is_that():
    run = history()
    run.add(np.full(4, 0.25), np.array([1.0, 2.0, 3.0, 0.5]))
    want = np.exp(np.array([1.0, 2.0, 3.0, 0.5]) / 2)
    np.testing.assert_allclose(odm.LossSoftmaxPolicy(2).decide(run).weights, want / want.sum())


# ---------------------------------------------------------------- static ones, objectives, RegMix-D


def test_static_mixtures():
    sizes = np.array([100, 300, 400, 200])
    np.testing.assert_allclose(static.proportional(sizes, SOURCE), [0.1, 0.3, 0.4, 0.2])
    np.testing.assert_allclose(static.proportional(sizes, SOURCE, 0.4), [0.05, 0.15, 0.2, 0.6])
    np.testing.assert_allclose(static.uniform(SOURCE, 0.3), [0.1, 0.1, 0.1, 0.7])
    np.testing.assert_allclose(static.temperature(sizes, 1, SOURCE), [0.1, 0.3, 0.4, 0.2])
    np.testing.assert_allclose(static.temperature(sizes, 1e9, SOURCE), np.full(4, 0.25))
    roots = np.sqrt(sizes)
    np.testing.assert_allclose(static.temperature(sizes, 2, SOURCE), roots / roots.sum())
    np.testing.assert_allclose(static.fixed(0.4, sizes, SOURCE), [0.2, 0.2, 0.2, 0.4])
    np.testing.assert_allclose(static.fixed(0.4, sizes, SOURCE, "proportional"), [0.075, 0.225, 0.3, 0.4])
    assert static.grid(1.0) == [round(0.1 * i, 1) for i in range(1, 10)] and static.grid(0.25) == [0.75, 0.8, 0.9]


@given(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), st.floats(0, 1), st.integers(1, 9))
def test_policies_keep_the_source_budget(raw, share, stages):
    rng = np.random.default_rng(stages)
    for policy in (
        static.StaticPolicy("s", np.array(raw) / sum(raw)),
        static.SchedulePolicy("d", rng.dirichlet(np.ones(4), stages)),
    ):
        run = history(steps=7, share=share)
        for _ in range(7):
            w = policy.decide(run).weights
            assert w.sum() == pytest.approx(1) and (w >= 0).all()
            run.add(w, np.full(4, np.nan))
        assert run.weights[:, SOURCE].sum() <= share * 7 + 1e-9


def test_schedule_is_stretched_over_the_run():
    rows = np.eye(4)[[0, 1, 2, 3]]
    run, policy = history(steps=8), static.SchedulePolicy("d", rows)
    for t in range(8):
        w = policy.decide(run).weights
        np.testing.assert_allclose(w, rows[t // 2])
        run.add(w, np.full(4, np.nan))


def test_balanced_objective_is_the_score():
    rng = np.random.default_rng(0)
    base, losses = 1 + rng.random(4), rng.random((6, 4))
    found = objective.balanced(list("abct"), SOURCE, base)
    np.testing.assert_allclose(found.value(losses), score(gains_of(base, losses), SOURCE))
    assert objective.choose(None, ["m"], None, None).name == "mean"
    with pytest.raises(BadInput, match="no such metric"):
        objective.choose("x", ["m"], None, None)
    with pytest.raises(BadInput, match="no base losses"):
        objective.choose("balanced", ["m"], None, None)


SHARE, STEPS = 0.2, 8  # of the runs under that law


def final(weights):
    return float(score(simulate(weights)[-1], SOURCE))


@pytest.fixture(scope="module")
def bounds():
    """(best static score, best score of any schedule) under that law: the second is a concave problem, solved by scipy."""
    grid = regmix.feasible(np.random.default_rng(1).dirichlet(np.ones(4), 3000), SOURCE, SHARE)
    one = np.kron(np.eye(STEPS), np.ones(4))
    spent = np.tile(SOURCE.astype(float), STEPS)
    best = minimize(
        lambda v: -final(v.reshape(STEPS, 4)),
        np.tile([0.06, 0.06, 0.06, 0.82], STEPS),
        bounds=[(1e-6, 1)] * (4 * STEPS),
        constraints=[
            {"type": "eq", "fun": lambda v: one @ v - 1},
            {"type": "ineq", "fun": lambda v: SHARE * STEPS - spent @ v},
        ],
        method="SLSQP",
        options={"maxiter": 300},
    )
    return max(final([w] * STEPS) for w in grid), -best.fun


def simulated_runs(n: int, steps: int = STEPS) -> list[History]:
    runs = []
    for rows in regmix_d.draw_schedules(
        SOURCE, np.full(4, 0.25), np.ones(steps), n, SHARE * steps, np.random.default_rng(0)
    ):
        run = history(steps, SHARE)
        for w, gain in zip(rows, simulate(rows), strict=True):
            run.add(w, 2.0 * (1 - gain))
        runs.append(run)
    return runs


BALANCED = objective.balanced(list("abct"), SOURCE, np.full(4, 2.0))


@pytest.mark.parametrize("kind", ["auto", "ridge"])
def test_regmix_d_takes_half_of_what_the_best_schedule_has_over_the_best_mixture(bounds, kind):
    found = regmix_d.from_runs(simulated_runs(40), BALANCED, np.full(4, 0.25), kind=kind, rounds=60, schedules=8000)
    static_best, best = bounds
    assert best > static_best
    assert found.schedule.shape == (STEPS, 4) and found.schedule[:, SOURCE].sum() <= SHARE * STEPS + 1e-6
    assert final(found.schedule) > static_best + 0.5 * (best - static_best)
    path = found.schedule[:, SOURCE].sum(axis=1)
    assert path[-2:].mean() > 2 * path[:4].mean()


def test_regmix_d_online_keeps_its_gain_and_depends_on_the_run_alone(bounds):
    model = regmix_d.Model(simulated_runs(40), 4, "ridge")
    policy, again = (regmix_d.OnlinePolicy(model, BALANCED, np.full(4, 0.25), schedules=4000) for _ in range(2))
    run, rows = history(STEPS, SHARE), []
    for _ in range(STEPS):
        rows.append(policy.decide(run).weights)
        run.add(rows[-1], 2.0 * (1 - simulate(rows)[-1]))
    np.testing.assert_allclose(again.decide(run.upto(6)).weights, rows[6])  # asked once, in the middle
    assert np.array_equal(rows[2], rows[3]) and not np.array_equal(rows[1], rows[2])
    assert run.weights[:, SOURCE].sum() <= SHARE * STEPS + 1e-9
    assert final(rows) > bounds[0] + 0.3 * (bounds[1] - bounds[0])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.5, 5), min_size=1, max_size=6), st.floats(0, 20), st.integers(0, 1000))
def test_drawn_schedules_are_mixtures_within_the_budget(lengths, left, seed):
    drawn = regmix_d.draw_schedules(
        SOURCE, np.array([0.5, 0.2, 0.1, 0.2]), np.array(lengths), 40, left, np.random.default_rng(seed)
    )
    assert drawn.shape == (40, len(lengths), 4) and (drawn >= 0).all()
    np.testing.assert_allclose(drawn.sum(axis=2), 1)
    assert (drawn[:, :, SOURCE].sum(axis=2) @ np.array(lengths) <= left + 1e-9).all()


@pytest.mark.parametrize(("steps", "stages"), [(16, 3), (16, 5), (7, 3), (8, 4), (9, 9)])
def test_regmix_d_has_as_many_stages_as_are_asked_for(steps, stages):
    """The schedule changes where np.array_split cuts the run, the online policy decides anew at the same steps, and the report says how many."""
    starts = [int(part[0]) for part in np.array_split(np.arange(steps), stages)]
    found = regmix_d.from_runs(
        simulated_runs(10, steps), BALANCED, np.full(4, 0.25), stages=stages, kind="ridge", schedules=300, online=True
    )

    def changes(rows):
        return [t for t in range(steps) if t == 0 or not np.array_equal(rows[t], rows[t - 1])]

    assert found.schedule.shape == (steps, 4) and found.more["stages"] == stages
    assert changes(found.schedule) == starts
    assert found.schedule[:, SOURCE].sum() <= SHARE * steps + 1e-9
    run = history(steps, SHARE)
    planned = []
    for t in range(steps):
        found.live.decide(run)
        planned.append(found.live._planned[0])
        run.add(np.array([0.05, 0.05, 0.05, 0.85]), 2.0 * (1 - 0.01 * np.full(4, t + 1)))
    assert [t for t in range(steps) if t == 0 or planned[t] != planned[t - 1]] == starts


def test_regmix_d_rolls_stages_of_unlike_length_to_the_end_of_a_linear_law():
    """f̂ grows by B w each step: what three stages of 6, 5 and 5 steps come to is known."""
    rng = np.random.default_rng(2)
    b = np.diag([0.02, 0.03, 0.01, 0.02]) + 0.002 * rng.random((4, 4))
    runs = []
    for rows in rng.dirichlet(np.ones(4), (40, 16)):
        run = history(16, 1.0)
        for t in range(16):
            run.add(rows[t], 2.0 * (1 - b @ rows[: t + 1].sum(axis=0)))
        runs.append(run)
    model = regmix_d.Model(runs, 3, "ridge")
    assert model.lengths.tolist() == [6, 5, 5]
    schedules = rng.dirichlet(np.full(4, 5.0), (30, 3))
    want = np.einsum("s,nsd,kd->nk", model.lengths, schedules, b)
    found = model.roll(np.zeros(4), 0.0, schedules, model.lengths)
    assert np.abs(found - want).max() < 0.1 * want.mean()
    later = model.roll(want[0] / 2, 11 / 16, schedules[:, 2:], model.lengths[2:]) - want[0] / 2
    assert np.abs(later - 5 * schedules[:, 2] @ b.T).max() < 0.1 * want.mean()


def test_regmix_d_online_plans_runs_shorter_than_its_stages():
    model = regmix_d.Model(simulated_runs(10), 4, "ridge")
    policy = regmix_d.OnlinePolicy(model, BALANCED, np.full(4, 0.25), schedules=200)
    run = history(3, SHARE)
    for _ in range(3):
        run.add(policy.decide(run).weights, np.full(4, 1.9))
    assert run.weights[:, SOURCE].sum() <= SHARE * 3 + 1e-9 and not np.array_equal(run.weights[0], run.weights[2])


def test_regmix_d_refuses_what_it_cannot_learn_from():
    for runs, more, message in (
        (simulated_runs(7), {}, "7 runs"),
        (simulated_runs(9), {"stages": 9}, "--regmix-stages 9"),
        (simulated_runs(9), {"kind": "magic"}, "--regression magic"),
        ([*simulated_runs(8), *simulated_runs(8, 6)], {}, "one length"),
    ):
        with pytest.raises(BadInput, match=message):
            regmix_d.from_runs(runs, BALANCED, np.full(4, 0.25), **more)
