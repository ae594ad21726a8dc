"""The latent model of votes: the closed form by hand, recovery of known rates, and what it must refuse."""

import json
import math
from itertools import product

import numpy as np
import pytest
from commandline import cotpass, write
from hypothesis import given, settings
from hypothesis import strategies as st

from cotpass import latent
from cotpass.latent import Tallies, chi_square_tail, collect, fit, log_likelihood, maximise, moments, solve_moments
from cotpass.votes import aggregate, joined_rates
from tenfold_shared import BadInput


def simulated(votes, p, fpr, fnr, problems=200, samples=10, seed=0):
    """Tallies of a judge with these rates, each problem with its own chance of a right reasoning around p."""
    rng = np.random.default_rng(seed)
    chance = np.clip(p + 0.2 * rng.standard_normal((problems, 1)), 0, 1)
    right = rng.random((problems, samples)) < chance
    yes = rng.binomial(votes, np.where(right, 1 - fnr, fpr))
    return Tallies([str(i) for i in range(problems)], np.stack([np.bincount(row, minlength=votes + 1) for row in yes]), votes), right.mean()  # fmt: skip


def records(tallies):
    """The same tallies as judged records."""
    return [
        {"id": name, "sample": sample, "response": "r", "correct": True, "votes": ["yes"] * y + ["no"] * (tallies.votes - y)}
        for name, row in zip(tallies.ids, tallies.yes, strict=True)
        for sample, y in enumerate(np.repeat(np.arange(tallies.votes + 1), row).tolist())
    ]  # fmt: skip


# ---- values by hand


def test_three_votes_in_closed_form():
    counts = np.array([2054.0, 1698.0, 1842.0, 4406.0])
    assert moments(counts) == pytest.approx([0.62, 0.502, 0.4406], abs=1e-12)
    assert solve_moments(moments(counts)) == pytest.approx([0.6, 0.9, 0.2], abs=1e-12)
    found = fit(Tallies(["a"], counts.astype(int)[None], 3))
    assert found.rates == pytest.approx((0.6, 0.9, 0.2)) and found.test is None and found.replicates is None
    report = latent.summary(Tallies(["a"], counts.astype(int)[None], 3), found)
    assert report["fit"] == "saturated" and report["identifiable"] and report["fpr"]["low"] is None
    # Maximum likelihood finds the same point, as it must where nothing is left over.
    assert maximise(counts[None], np.array([[0.5, 0.7, 0.4]]))[0] == pytest.approx([0.6, 0.9, 0.2], abs=1e-5)


def test_rates_of_the_joined_verdict():
    assert joined_rates(0.2, 0.1, 3, "all") == pytest.approx((0.008, 0.271))
    assert joined_rates(0.2, 0.1, 3, "any") == pytest.approx((0.488, 0.001))
    assert joined_rates(0.2, 0.1, 3, "majority") == pytest.approx((0.104, 0.028))
    assert joined_rates(0.2, 0.1, 1, "majority") == pytest.approx((0.2, 0.1))
    for votes, rule in product((1, 2, 3, 4, 5), ("any", "majority", "all")):
        f, m = joined_rates(0.3, 0.15, votes, rule)
        chance = {True: 0.0, False: 0.0}
        missed = 0.0
        for cast in product((1, 0), repeat=votes):
            yes, no = sum(cast), votes - sum(cast)
            accepted = aggregate(yes, no, 0, rule) is True
            chance[accepted] += 0.3**yes * 0.7**no
            missed += 0 if accepted else 0.85**yes * 0.15**no
        assert (f, m) == pytest.approx((chance[True], missed))
    with pytest.raises(BadInput, match="rates in"):
        joined_rates(1.2, 0.1, 3, "all")


@pytest.mark.parametrize(
    ("statistic", "df", "tail"),
    [(3.841458820694124, 1, 0.05), (5.991464547107979, 2, 0.05), (7.814727903251179, 3, 0.05),
     (18.307038053275146, 10, 0.05), (19.675137572682498, 11, 0.05), (6.634896601021213, 1, 0.01), (0.0, 4, 1.0)],
)  # fmt: skip
def test_chi_square_tail_against_tables(statistic, df, tail):
    assert chi_square_tail(statistic, df) == pytest.approx(tail, abs=1e-12)
    assert chi_square_tail(1e6, df) == 0


@settings(max_examples=60, deadline=None)
@given(st.floats(0.05, 0.95), st.floats(0.5, 0.98), st.floats(0.02, 0.45), st.integers(3, 8))
def test_exact_frequencies_give_the_rates_back(p, t1, t2, votes):
    y = np.arange(votes + 1)
    ways = np.array([math.comb(votes, k) for k in range(votes + 1)])
    exact = 1e6 * ways * (p * t1**y * (1 - t1) ** (votes - y) + (1 - p) * t2**y * (1 - t2) ** (votes - y))
    assert solve_moments(moments(exact)) == pytest.approx([p, t1, t2], abs=1e-6)
    start = np.array([[0.5, 0.8, 0.2]])
    assert log_likelihood(exact, maximise(exact[None], start)[0]) >= log_likelihood(exact, np.array([p, t1, t2])) - 1e-3


def test_em_never_lowers_the_likelihood_and_matches_a_grid():
    counts = np.array([[30.0, 12, 9, 17, 32, 60]])
    best = maximise(counts, np.array([[0.5, 0.7, 0.3]]))
    top = log_likelihood(counts[0], best[0])
    grid = np.stack(np.meshgrid(*[np.linspace(0.02, 0.98, 49)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    assert top >= max(log_likelihood(np.broadcast_to(counts[0], (len(grid), 6)), grid)) - 1e-9


# ---- recovery


@pytest.mark.parametrize(("votes", "seed"), [(3, 0), (3, 1), (5, 0), (5, 1), (4, 0)])
@pytest.mark.parametrize("rates", [(0.6, 0.2, 0.1), (0.75, 0.4, 0.05), (0.4, 0.1, 0.3)])
def test_recovers_known_rates(votes, seed, rates):
    tallies, right = simulated(votes, *rates, seed=seed)
    report = latent.summary(tallies, fit(tallies))
    assert report["identifiable"] and report["n_samples"] == 2000
    for name, truth in (("p", right), ("fpr", rates[1]), ("fnr", rates[2])):
        score = report[name]
        assert score["value"] == pytest.approx(truth, abs=0.1 if votes < 5 else 0.04)
        assert score["low"] < score["value"] < score["high"] and score["high"] - score["low"] < 0.25
        # 45 intervals of 95 %: one that misses by a little is expected now and then.
        assert score["low"] - 0.04 < truth < score["high"] + 0.04
    if votes == 3:
        assert report["fit"] == "saturated"
    else:
        assert report["fit"]["df"] == votes - 3 and report["fit"]["p_value"] > 0.01


def test_intervals_hold_the_truth_as_often_as_they_say():
    held = np.zeros(3)
    for seed in range(120):
        tallies, _ = simulated(5, 0.6, 0.2, 0.1, problems=40, samples=8, seed=seed)
        report = latent.summary(tallies, fit(tallies, replicates=300))
        held += [report[name]["low"] <= truth <= report[name]["high"] for name, truth in (("fpr", 0.2), ("fnr", 0.1), ("p", 0.59))]  # fmt: skip
    assert (held / 120 > 0.88).all()


def test_the_fit_test_keeps_its_level_and_sees_dependent_votes():
    levels = [fit(simulated(5, 0.6, 0.2, 0.1, problems=100, seed=s)[0], replicates=100).test[2] for s in range(100)]
    assert 0 <= sum(p < 0.05 for p in levels) <= 12
    rng = np.random.default_rng(0)
    # Responses differ in how hard they are to judge: the two classes are no longer two binomials.
    chance = np.where(rng.random(3000) < 0.6, rng.beta(4, 1, 3000), rng.beta(1, 3, 3000))
    yes = np.bincount(rng.binomial(8, chance), minlength=9)
    assert fit(Tallies(["a"], yes[None], 8)).test[2] < 0.01


def test_same_seed_same_numbers_other_seed_other_interval():
    tallies, _ = simulated(3, 0.6, 0.2, 0.1)
    first, second, other = (latent.summary(tallies, fit(tallies, seed)) for seed in (0, 0, 1))
    assert first == second and first["p"]["value"] == other["p"]["value"] and first["p"]["low"] != other["p"]["low"]


# ---- refusals


@pytest.mark.parametrize(
    ("yes", "reason"),
    [
        ([[10, 0, 0, 20]], "are the same"),
        ([[0, 0, 0, 20]], "are the same"),
        ([[30, 0, 0, 0]], "are the same"),
        ([[0, 0, 0, 0]], "abstention"),
        ([[0, 10, 10, 0]], "no more often than chance"),
        ([[125, 375, 375, 125]], "no more often than chance"),
        ([[10, 0, 0, 20, 0, 0, 0]], "beyond the edge"),
        ([[500, 5, 40, 100]], "beyond the edge"),
        ([[90, 30, 3, 0], [95, 24, 5, 1]], "is not certain"),
    ],
)
def test_what_the_votes_cannot_tell_is_refused(yes, reason):
    tallies = Tallies([str(i) for i in range(len(yes))], np.array(yes), len(yes[0]) - 1)
    report = latent.summary(tallies, fit(tallies))
    assert report["identifiable"] is False and reason in report["reason"]
    assert report["fit"] is None and report["joined"] is None
    assert all(report[name] == {"value": None, "low": None, "high": None} for name in ("p", "fpr", "fnr"))


@pytest.mark.parametrize("votes", [1, 2])
def test_fewer_than_three_votes_are_bad_input(votes):
    with pytest.raises(BadInput, match="at least 3 a response"):
        fit(Tallies(["a"], np.ones((1, votes + 1), dtype=int), votes))


def test_abstentions_are_left_out_and_counted():
    tallies, _ = simulated(3, 0.6, 0.2, 0.1, problems=30)
    rows = records(tallies)
    plain = collect((f"f:{i}", r) for i, r in enumerate(rows))
    assert (plain.yes == tallies.yes).all() and (plain.left_out, plain.unjudged) == (0, 0)
    extra = [
        {**rows[0], "sample": 90, "votes": ["yes", "yes", "abstain"]},
        {**rows[0], "sample": 91, "votes": ["abstain"] * 3},
        {**rows[0], "id": "only abstains", "votes": ["no", "abstain", "no"]},
        {"id": "0", "sample": 92, "response": "r", "correct": False},
        {"id": "0", "sample": 93, "response": "", "finish_reason": "error", "error": "boom"},
    ]
    more = collect((f"f:{i}", r) for i, r in enumerate([*rows, *extra]))
    assert (more.yes[:-1] == tallies.yes).all() and not more.yes[-1].any()
    assert (more.left_out, more.unjudged) == (3, 1)
    assert fit(more).rates == fit(plain).rates


def test_scope_correct_takes_right_answers_only():
    rows = records(simulated(3, 0.6, 0.2, 0.1, problems=5)[0])
    for row in rows[::2]:
        row["correct"] = False
    found = collect(((f"f:{i}", r) for i, r in enumerate(rows)), "correct")
    assert found.yes.sum() == len(rows) // 2
    with pytest.raises(BadInput, match=r"f:0: .*correct: expected"):
        collect([("f:0", {"id": "a", "sample": 0, "response": "r", "votes": ["yes"] * 3})], "correct")


# ---- the command


def test_command(tmp_path):
    tallies, right = simulated(4, 0.6, 0.2, 0.1)
    write(tmp_path / "j.jsonl", records(tallies))
    result = cotpass("calibrate", "latent", tmp_path / "j.jsonl", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["p"]["value"] == pytest.approx(right, abs=0.05) and report["votes"] == 4
    assert report["fit"].keys() == {"statistic", "df", "p_value"} and report["identifiable"] is True
    assert cotpass("calibrate", "latent", tmp_path / "j.jsonl", "--json").stdout == result.stdout
    table = cotpass("calibrate", "latent", tmp_path / "j.jsonl").stdout
    assert f"{report['fpr']['value']:.3f}" in table and "G²" in table


def test_command_refusals(tmp_path):
    same = [{"id": str(i), "sample": 0, "response": "r", "correct": True, "votes": [["yes", "no"][i % 2]] * 3} for i in range(9)]  # fmt: skip
    write(tmp_path / "j.jsonl", same)
    result = cotpass("calibrate", "latent", tmp_path / "j.jsonl", "--json")
    assert result.returncode == 1 and json.loads(result.stdout)["identifiable"] is False
    assert result.stderr.count("\n") == 1 and "not identifiable" in result.stderr
    bad = [
        ([{**row, "votes": row["votes"][:1]} for row in same], "at least 3"),
        ([{"id": "a", "sample": 0, "response": "r", "correct": True}], "cotpass judge"),
        ([same[0], {**same[1], "votes": ["yes"] * 4}], "bad.jsonl:2: id '1' sample 0: votes: expected 3"),
        ([same[0], same[0]], "appears twice"),
        ([{**same[0], "votes": ["maybe"]}], "votes"),
        ([{**row, "judge": [{"model": f"m{i}"}] * 3} for i, row in enumerate(same)], "one judge"),
        ([], "expected at least one record with votes"),
    ]
    for rows, message in bad:
        write(tmp_path / "bad.jsonl", rows)
        result = cotpass("calibrate", "latent", tmp_path / "bad.jsonl", "--json")
        assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1, result.stderr
        assert result.stdout == ""
