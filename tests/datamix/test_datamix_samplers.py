"""Behaviour policies: RegMix's rules against a second writing of them, the budget as a property, and what a swarm needs of coverage."""

import json

import numpy as np
import pytest
from datamix_corpus import make_corpus
from hypothesis import given, settings
from hypothesis import strategies as st

from datamix import samplers
from datamix.history import Budget, History
from datamix.samplers import SAMPLERS, assign, feasible, make, parse_mix, regmix_prior
from tenfold_shared import BadInput

PILE = np.array([.1133, .0796, .0039, .1854, .0511, .0160, .1018, .0037, .0665, .0018, .0271, .2369, .0118, .0079, .0080, .0388, .0464])  # fmt: skip
PILE = PILE / PILE.sum()


def rolled_out(name, budget, *, seed=0, domains=6, targets=2, available=1e9, noise=0.1):
    source = np.arange(domains) < domains - targets
    names = [f"d{i}" for i in range(domains)]
    policy = make(name, names, source, np.ones(domains) / domains, seed, budget)
    history = History(names, source, np.full(domains, available), np.linspace(2, 4, domains), budget)
    rng = np.random.default_rng(seed)
    for _ in range(budget.steps):
        weights = policy.decide(history).weights
        history.add(weights, history.base + noise * rng.standard_normal(domains))
    return history


# ---------------------------------------------------------------- RegMix's prior


def by_the_book(prior, candidates, rng):
    """The rules one candidate at a time, with numpy's own Dirichlet."""
    tempered = prior**0.5 / (prior**0.5).sum()
    found = set()
    for _ in range(candidates):
        drawn = rng.dirichlet(tempered * rng.choice(10 ** np.linspace(-1, np.log10(5), 15)))
        if any(w > min(15 * p, 1) for w, p in zip(drawn, prior, strict=True)):
            continue
        kept = np.array([0 if w < 2e-4 else w for w in drawn])
        found.add(tuple(np.round(kept / kept.sum() / 2e-4).astype(int)))
    return np.array(sorted(found)) * 2e-4


def test_regmix_prior_has_the_distribution_of_its_rules():
    ours = regmix_prior(PILE, 600, 3, oversample=20)
    theirs = by_the_book(PILE, 8000, np.random.default_rng(1))
    assert len(theirs) > 4000
    for statistic in (lambda x: x.mean(axis=0), lambda x: (x == 0).mean(axis=0), lambda x: (x > 0.3).mean(axis=0)):
        assert np.abs(statistic(ours) - statistic(theirs)).max() < 0.06
    largest, theirs_largest = ours.max(axis=1), theirs.max(axis=1)
    assert np.abs(np.quantile(largest, [0.1, 0.5, 0.9]) - np.quantile(theirs_largest, [0.1, 0.5, 0.9])).max() < 0.06


@given(st.integers(0, 1000), st.lists(st.floats(1e-3, 1.0), min_size=2, max_size=20))
@settings(max_examples=12, deadline=None)
def test_regmix_prior_keeps_its_bounds(seed, raw):
    prior = np.array(raw) / sum(raw)
    found = regmix_prior(prior, 8, seed, oversample=20)
    units = found / 2e-4
    assert np.abs(units - np.round(units)).max() < 1e-6
    assert np.abs(found.sum(axis=1) - 1).max() < 1e-9
    # What is rounded up, and what zeroed and rounded weights leave to others, are a few units each.
    slack = 2e-4 * (len(prior) + 2)
    assert (found <= np.minimum(15 * prior, 1) * (1 + slack) + slack).all()
    distances = np.abs(found[:, None] - found[None]).sum(-1) + np.eye(8)
    assert distances.min() > 1e-5
    assert (found == regmix_prior(prior, 8, seed, oversample=20)).all()


def test_tiny_alphas_do_not_underflow():
    drawn = samplers.dirichlets(np.random.default_rng(0), np.full((2000, 50), 1e-3))
    assert np.isfinite(drawn).all() and np.abs(drawn.sum(axis=1) - 1).max() < 1e-12
    assert np.abs(drawn.mean(axis=0) - 1 / 50).max() < 0.02
    big = samplers.dirichlets(np.random.default_rng(0), np.tile([2.0, 3.0, 0.0], (4000, 1)))
    assert (
        (big[:, 2] == 0).all() and abs(big[:, 0].mean() - 0.4) < 0.01 and abs(big[:, 0].var() - 0.4 * 0.6 / 6) < 0.003
    )


def test_a_sampler_without_its_rule_cannot_be_made():
    for kind, rule in ((samplers.Sampler, "wanted"), (samplers.Scheduled, "shape")):
        with pytest.raises(TypeError, match=f"abstract.*{rule}"):
            kind(["a", "b"], np.array([True, False]), np.full(2, 0.5), 0, Budget(10, 4))


def test_too_many_mixtures_of_too_few_domains():
    with pytest.raises(BadInput, match="different mixtures of 2 domains"):
        regmix_prior(np.array([0.5, 0.5]), 6000, 0, oversample=1)


# ---------------------------------------------------------------- the budget


@given(
    st.sampled_from(sorted(SAMPLERS)),
    st.floats(0, 1),
    st.integers(1, 24),
    st.integers(0, 10_000),
    st.integers(2, 9),
    st.data(),
)
@settings(max_examples=150, deadline=None)
def test_source_is_never_overspent(name, share, steps, seed, domains, data):
    targets = data.draw(st.integers(1, domains - 1))
    history = rolled_out(name, Budget(1000, steps, share), seed=seed, domains=domains, targets=targets)
    used = history.weights[:, history.source].sum(axis=1)
    assert np.cumsum(used).max() <= share * steps + 1e-9
    assert (history.weights >= 0).all() and np.abs(history.weights.sum(axis=1) - 1).max() < 1e-9
    if name in ("dirichlet", "uniform-static"):
        assert used.max() <= share + 1e-9  # spread over the steps
        assert np.abs(history.weights - history.weights[0]).max() < 1e-9


@given(st.sampled_from(sorted(SAMPLERS)), st.integers(0, 1000), st.floats(0.3, 1), st.floats(0.5, 3))
@settings(max_examples=60, deadline=None)
def test_no_domain_beyond_its_epochs_where_that_can_be(name, seed, share, epochs):
    budget = Budget(1000, 12, share, epochs)
    # Text for the run with some to spare in either role, or the budget could not be kept by anyone.
    history = rolled_out(name, budget, seed=seed, available=12_000 / (2 * epochs) * 1.05)
    assert (history.weights.sum(axis=0) * 1000 <= epochs * history.available + 1e-6).all()
    assert history.weights[:, history.source].sum() <= share * 12 + 1e-9


def test_feasible_leaves_what_is_allowed():
    history = rolled_out("walk", Budget(1000, 4, 1.0), domains=4, targets=1).upto(1)
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    assert np.abs(feasible(weights, history) - weights).max() < 1e-12


# ---------------------------------------------------------------- each sampler


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_same_seed_same_trajectory_and_resumable(name):
    budget = Budget(1000, 10, 0.3)
    whole = rolled_out(name, budget, seed=5)
    assert (whole.weights == rolled_out(name, budget, seed=5).weights).all()
    assert np.abs(whole.weights - rolled_out(name, budget, seed=6).weights).max() > 1e-3
    # A policy that was made anew half-way decides what the first one did.
    again = make(name, whole.names, whole.source, np.ones(6) / 6, 5, budget)
    assert (again.decide(whole.upto(7)).weights == whole.weights[7]).all()
    assert again.name == name


def test_late_and_early_are_late_and_early():
    budget = Budget(1000, 16, 0.2)
    for name, later in (("late", True), ("early", False)):
        for seed in range(40):
            shares = rolled_out(name, budget, seed=seed).weights[:, :4].sum(axis=1)
            half = shares[8:].sum() - shares[:8].sum()
            assert (half >= 0) == later or abs(half) < 0.05 * 16
        middles = [
            float(np.arange(16) @ s / s.sum())
            for s in (rolled_out(name, budget, seed=i).weights[:, :4].sum(1) for i in range(40))
        ]
        assert np.mean(middles) > 9 if later else np.mean(middles) < 6


def test_a_swarm_covers_the_times_and_amounts_of_replay():
    budget = Budget(1000, 16, 0.2)
    names = assign(parse_mix(samplers.DEFAULT_MIX), 48, 0)
    shares = [rolled_out(name, budget, seed=i).weights[:, :4].sum(axis=1) for i, name in enumerate(names)]
    saved = [s for s in shares if s[:8].sum() < 0.25 * s.sum()]
    spent = [s for s in shares if s[:8].sum() > 0.75 * s.sum()]
    assert len(saved) >= 6 and len(spent) >= 6
    assert sum(s.sum() > 0.9 * 3.2 for s in shares) >= 8 and sum(s.sum() < 0.7 * 3.2 for s in shares) >= 4


def test_ramps_take_every_form_in_both_directions():
    seen = set()
    for seed in range(80):
        policy = make("ramp", list("abcd"), np.array([True, True, False, False]), np.ones(4), seed, Budget(1, 12, 0.3))
        change = np.diff(policy.shares)
        assert (change >= -1e-12).all() if policy.rising else (change <= 1e-12).all()
        if policy.form == "step":
            assert (np.abs(change) > 1e-12).sum() <= 1
        seen.add((policy.form, policy.rising))
    assert len(seen) == 7  # annealing only rises


def test_loss_greedy_follows_the_losses():
    budget = Budget(1000, 3)
    for seed in range(6):
        source = np.array([True, False, False])
        policy = make("loss-greedy", list("abc"), source, np.ones(3) / 3, seed, budget)
        policy.lean = False
        history = History(list("abc"), source, np.ones(3), np.array([2.0, 3.0, 4.0]), budget)
        history.add(np.ones(3) / 3, np.array([2.3, 3.1, 3.5]))
        logits = (np.array([0.3, 0.1, -0.5]) if policy.change else np.array([2.3, 3.1, 3.5])) / policy.temperature
        expected = np.exp(logits) / np.exp(logits).sum()
        assert np.abs(policy.decide(history).weights - expected).max() < 1e-9


def test_scored_takes_good_and_bad_by_the_sign_of_its_temperature():
    gaps = {}
    for seed in range(60):
        policy = make("scored", list("abcd"), np.array([True, True, False, False]), np.ones(4), seed, Budget(1, 8))
        policy.lean = False
        history = History(list("abcd"), policy.source, np.ones(4), np.ones(4), Budget(1, 8))
        chosen = policy.decide(history).weights[None]
        reference = policy.scores(np.random.default_rng(0).dirichlet(np.ones(4), 200)).mean()
        gaps.setdefault(np.sign(policy.slope), []).append(float(policy.scores(chosen)[0] - reference))
    assert set(gaps) == {-1.0, 0.0, 1.0}
    assert np.mean(gaps[1.0]) > np.mean(gaps[0.0]) + 0.1 > np.mean(gaps[-1.0]) + 0.2


def test_walk_steps_have_their_width():
    budget = Budget(1, 400)
    policy = make("walk", list("abcdef"), np.arange(6) < 4, np.ones(6) / 6, 2, budget)
    history = rolled_out("walk", budget, seed=2)  # without a budget nothing is projected
    logs = np.log(history.weights)
    steps = np.diff(logs - logs.mean(axis=1, keepdims=True), axis=0)
    assert abs(steps.std() / (policy.sigma * np.sqrt(5 / 6)) - 1) < 0.08


# ---------------------------------------------------------------- mixes


def test_parse_mix():
    assert parse_mix("ramp=2,walk, late=.5") == {"ramp": 2.0, "walk": 1.0, "late": 0.5}


@pytest.mark.parametrize("text", ["", "nosuch", "walk=0", "walk=-1", "walk=x", "walk=nan", "walk,walk", "walk,,ramp"])
def test_parse_mix_refuses(text):
    with pytest.raises(BadInput, match="--sampler"):
        parse_mix(text)
    with pytest.raises(BadInput, match="no such sampler"):
        make("nosuch", ["a"], np.array([True]), np.ones(1), 0, Budget(1, 1))


def test_assignment_is_even_and_stays_when_the_swarm_grows():
    mix = parse_mix("ramp=2,walk,dirichlet,late=2")
    some, more = assign(mix, 24, 3), assign(mix, 48, 3)
    assert more[:24] == some
    counts = {name: more.count(name) for name in mix}
    assert all(abs(counts[name] - 48 * w / 6) <= 2 for name, w in mix.items())


# ---------------------------------------------------------------- datamix sample


def test_sample_writes_schedules(tmp_path):
    out = tmp_path / "s.jsonl"
    arguments = {"sampler": "ramp,late=2,dirichlet", "trajectories": 8, "steps": 5, "source_share": 0.25, "seed": 3}
    assert samplers.run(None, list("abcd"), ["d"], output=str(out), **arguments) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["id"], line["step"]) for line in lines] == [(f"t{i:04d}", t) for i in range(8) for t in range(5)]
    assert {line["sampler"] for line in lines} == {"ramp", "late", "dirichlet"}
    for i in range(8):
        weights = np.array([[line["weights"][name] for name in "abcd"] for line in lines if line["id"] == f"t{i:04d}"])
        assert np.abs(weights.sum(axis=1) - 1).max() < 1e-5 and weights[:, :3].sum() <= 0.25 * 5 + 1e-4
    first = out.read_bytes()
    assert samplers.run(None, list("abcd"), ["d"], output=str(out), **arguments) == 0  # made already
    assert samplers.run(None, list("abcd"), ["d"], output=str(out), overwrite=True, **arguments) == 0
    assert out.read_bytes() == first
    with pytest.raises(BadInput, match="--seed"):
        samplers.run(None, list("abcd"), ["d"], output=str(out), **{**arguments, "seed": 4})


def test_sample_from_a_corpus_takes_roles_and_shares(tmp_path):
    corpus = make_corpus(tmp_path / "c", {"big": 30_000, "small": 3_000, "goal": 10_000}, valid=500)
    out = tmp_path / "s.jsonl"
    assert (
        samplers.run(corpus, sampler="dirichlet", trajectories=40, steps=1, tokens=100, max_epochs=50, output=str(out))
        == 0
    )
    mean = np.mean(
        [[json.loads(line)["weights"][n] for n in corpus.names] for line in out.read_text().splitlines()], axis=0
    )
    assert mean[0] > mean[2] > mean[1]


def test_sample_keeps_to_the_text_there_is(tmp_path):
    """What max_epochs allows to the token is drawn, a token more is refused; source text counts as far as its budget goes."""
    corpus = make_corpus(
        tmp_path / "c", {"big": 30_000, "goal": 1_000, "more": 2_000}, targets=["goal", "more"], valid=500
    )
    out = str(tmp_path / "s.jsonl")
    target = int(corpus.sizes[1:].sum())
    for share, most in ((0.0, 2 * target), (0.5, 4 * target), (1.0, 2 * int(corpus.sizes.sum()))):
        run = {"sampler": "walk", "trajectories": 2, "steps": 1, "source_share": share, "max_epochs": 2}
        assert samplers.run(corpus, **run, tokens=most, output=out, overwrite=True) == 0
        told = rf"{most + 2} tokens are wanted and {most}|{most + 2} tokens are wanted and {most + 1}"
        with pytest.raises(BadInput, match=told):
            samplers.run(corpus, **run, tokens=most + 2, output=out, overwrite=True)
    with pytest.raises(BadInput, match=r"under --max-epochs 0\.001 and the source budget; goal is the smallest target"):
        samplers.run(corpus, steps=3, tokens=43690, max_epochs=0.001)


@pytest.mark.parametrize("place", ["corpus.json", "tokens/big.train.bin", "new.jsonl"])
def test_sample_does_not_write_into_its_corpus(tmp_path, place):
    corpus = make_corpus(tmp_path / "c", {"big": 3_000, "goal": 1_000}, valid=500)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(BadInput, match="is within an input; choose another output"):
        samplers.run(corpus, steps=3, output=str(tmp_path / "c" / place), overwrite=True)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"names": list("abc"), "targets": ["x"]}, "--target: x: no such domain"),
        ({"names": list("abc"), "targets": []}, "^--domain: no target domain"),
        ({"names": list("abc"), "targets": list("abc")}, "no source domain"),
        ({"names": ["a"], "targets": ["a"]}, "nothing to mix"),
        ({"names": ["a", "a", "b"], "targets": ["b"]}, "^--domain: a: named twice"),
        ({"names": ["a", "b/c"], "targets": ["a"]}, "^--domain: 'b/c': not a domain's name"),
        ({"names": list("abc"), "targets": ["c"], "sampler": "loss-greedy"}, "follows losses"),
        ({"names": list("abc"), "targets": ["c"], "max_epochs": 2.0}, "needs a corpus"),
        ({"names": list("abc"), "targets": ["c"], "source_share": 1.5}, "expected a share"),
        ({"names": list("abc"), "targets": ["c"], "trajectories": 0}, "1 or more"),
        ({"names": list("abc"), "targets": ["c"], "prior": {"a": 0.4, "b": 0.4}}, "--prior: weights sum to 0.8"),
    ],
)
def test_sample_refuses(tmp_path, given, told):
    given = dict(given)
    names, targets = given.pop("names"), given.pop("targets")
    with pytest.raises(BadInput, match=told):
        samplers.run(None, names, targets, output=str(tmp_path / "s.jsonl"), **given)
    assert list(tmp_path.iterdir()) == []
