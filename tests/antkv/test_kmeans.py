"""Weighted k-means against brute force, exact one-dimensional optima and what weights must mean."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from antkv import kmeans


def points(n=300, dim=2, books=2, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(books, n, dim, generator=draw), torch.rand(books, n, generator=draw)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_nearest_is_the_argmin(n, count, dim, seed):
    draw = torch.Generator().manual_seed(seed)
    x, c = torch.randn(2, n, dim, generator=draw), torch.randn(2, count, dim, generator=draw)
    where, apart = kmeans.nearest(x, c)
    truth = (x[:, :, None].double() - c[:, None].double()).square().sum(-1)
    assert torch.allclose(truth.gather(2, where[..., None])[..., 0], truth.min(-1).values, atol=1e-5)
    assert torch.allclose(apart.double(), truth.min(-1).values, atol=1e-5)


def test_ties_go_to_the_lowest():
    c = torch.tensor([[[1.0], [-1.0], [1.0]]])
    assert kmeans.nearest(torch.tensor([[[0.0], [1.0]]]), c)[0].tolist() == [[0, 0]]


def test_chunks_are_one_pass(monkeypatch):
    x, w = points()
    whole = kmeans.fit(x, w, 16)
    monkeypatch.setattr(kmeans, "CHUNK", 100)
    assert torch.allclose(kmeans.fit(x, w, 16).centroids, whole.centroids, atol=1e-5)


def test_the_objective_never_rises_and_is_what_it_says():
    x, w = points(n=400, dim=4)
    found = kmeans.fit(x, w, 24, tolerance=0.0)
    assert (found.path[1:] <= found.path[:-1] * (1 + 1e-6)).all() and len(found.path) > 3
    apart = (x[:, :, None] - found.centroids[:, None]).square().sum(-1).min(-1).values
    assert torch.allclose((apart * w).sum(1).double(), found.objective, rtol=1e-4)


def test_as_many_centroids_as_points_cost_nothing():
    x = torch.randn(1, 10, 3).repeat(1, 5, 1)
    assert kmeans.fit(x, torch.ones(1, 50), 16).objective.item() < 1e-9


def test_whole_weights_are_repeated_points():
    x, _ = points(n=60, books=1)
    times = torch.randint(1, 5, (1, 60), generator=torch.Generator().manual_seed(1))
    repeated = x[0].repeat_interleave(times[0], 0)[None]
    start = x[:, :6].clone()
    one = kmeans.fit(x, times.float(), 6, start=start)
    two = kmeans.fit(repeated, torch.ones(1, repeated.shape[1]), 6, start=start)
    assert torch.allclose(one.centroids, two.centroids, atol=1e-4) and torch.allclose(
        one.objective, two.objective, rtol=1e-5
    )


def test_points_without_weight_move_nothing():
    x, w = points(n=100, books=1)
    w[:, ::2] = 0
    far = x.clone()
    far[:, ::2] += 50
    start = x[:, 1:16:2].clone()
    assert torch.allclose(
        kmeans.fit(x, w, 8, start=start).centroids, kmeans.fit(far, w, 8, start=start).centroids, atol=1e-5
    )


def optimum(x, w, count):
    """Least weighted cost of `count` cells on a line, by dynamic programming over the sorted points."""
    order = np.argsort(x)
    x, w = x[order], w[order]
    s0, s1, s2 = (np.concatenate([[0], np.cumsum(w * x**p)]) for p in (0, 1, 2))

    def cost(i, j):
        mass = s0[j] - s0[i]
        return s2[j] - s2[i] - (s1[j] - s1[i]) ** 2 / mass if mass > 0 else 0.0

    best = np.array([cost(0, j) for j in range(len(x) + 1)])
    for _ in range(count - 1):
        best = np.array([min(best[i] + cost(i, j) for i in range(j + 1)) for j in range(len(x) + 1)])
    return best[-1]


@pytest.mark.parametrize("seed", range(4))
def test_against_the_optimum_on_a_line(seed):
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=80), rng.random(80)
    found = kmeans.fit(
        torch.tensor(x[None, :, None], dtype=torch.float32), torch.tensor(w[None], dtype=torch.float32), 6, restarts=30
    ).objective.item()
    assert optimum(x, w, 6) * (1 - 1e-5) <= found <= 1.05 * optimum(x, w, 6)


def test_seeds_are_reproducible_and_many_centroids_are_drawn():
    x, w = points(n=700)
    assert torch.equal(kmeans.fit(x, w, 8, seed=3).centroids, kmeans.fit(x, w, 8, seed=3).centroids)
    assert not torch.equal(kmeans.fit(x, w, 8, seed=3).centroids, kmeans.fit(x, w, 8, seed=4).centroids)
    many = kmeans.fit(x, w, 600, iterations=3)
    assert many.centroids.shape == (2, 600, 2) and torch.isfinite(many.centroids).all()


def test_effective_size():
    assert kmeans.effective_size(torch.ones(7)).item() == pytest.approx(7)
    assert kmeans.effective_size(torch.tensor([1.0, 0, 0])).item() == pytest.approx(1)


def test_steps_are_lloyds():
    """From the same centroids, step by step as a few lines of numpy in float64 say."""
    x, w = points(n=200, dim=3, books=1)
    start = x[:, :8].clone()
    centroids, data, weights = start[0].double().numpy(), x[0].double().numpy(), w[0].double().numpy()
    for step in range(1, 6):
        where = ((data[:, None] - centroids[None]) ** 2).sum(-1).argmin(1)
        centroids = np.stack([np.average(data[where == c], axis=0, weights=weights[where == c]) for c in range(8)])
        found = kmeans.fit(x, w, 8, start=start, iterations=step, tolerance=0.0)
        assert np.allclose(found.centroids[0].numpy(), centroids, atol=1e-5)
        cost = (weights * ((data[:, None] - centroids[None]) ** 2).sum(-1).min(1)).sum()
        assert found.objective.item() == pytest.approx(cost, rel=1e-5)


def test_emptied_cells_are_filled_where_it_costs_most():
    x = torch.cat([torch.zeros(1, 50, 1), torch.full((1, 5, 1), 9.0), torch.full((1, 5, 1), -7.0)], 1)
    start = torch.tensor([[[0.0], [100.0], [200.0]]])  # two cells that nothing is near to
    found = kmeans.fit(x, torch.ones(1, 60), 3, start=start)
    assert sorted(found.centroids.flatten().tolist()) == [-7.0, 0.0, 9.0] and found.objective.item() == 0


@pytest.mark.parametrize("seed", range(3))
def test_from_the_same_start_it_is_sklearns(seed):
    """Lloyd's iterations with weights, to the end: the same objective and the same centroids."""
    cluster = pytest.importorskip("sklearn.cluster")
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((1500, 4)).astype(np.float32) + draw.integers(0, 3, (1500, 1)).astype(np.float32)
    weights = draw.gamma(0.5, size=1500).astype(np.float32)
    start = x[draw.permutation(1500)[:24]]
    theirs = cluster.KMeans(24, init=start, n_init=1, max_iter=300, tol=0.0, algorithm="lloyd").fit(
        x, sample_weight=weights
    )
    mine = kmeans.fit(
        torch.from_numpy(x)[None], torch.from_numpy(weights)[None], 24, start=torch.from_numpy(start)[None], iterations=300, tolerance=0.0
    )  # fmt: skip
    assert float(mine.objective[0]) == pytest.approx(theirs.inertia_, rel=1e-5)
    assert np.allclose(mine.centroids[0].numpy(), theirs.cluster_centers_, atol=1e-3)
