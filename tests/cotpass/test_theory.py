"""The theory against the paper's values, every outcome of small groups and drawn groups; estimates of known chances."""

import json
import math
from fractions import Fraction
from functools import cache
from itertools import pairwise, permutations, product

import numpy as np
import pytest
from commandline import cotpass, write
from hypothesis import given, settings
from hypothesis import strategies as st

from cotpass import theory
from cotpass.theory import MAX_GROUP, advantage, collect, estimate, pooled, prior_test, simulate
from tenfold_shared import BadInput

FIRST = ("--pc", 0.3, "--alpha", 0.9, "--beta", 0.2)


# ---- known values


def test_known_point():
    found = advantage(0.3, 0.9, 0.2, 16)
    assert found["mu"] == pytest.approx(0.41, abs=1e-12)
    assert found["sigma2"] == pytest.approx(0.2419, abs=1e-12)
    assert found["limit"]["ok"] == pytest.approx(0.996273, abs=5e-7)
    assert found["limit"]["bad"] == pytest.approx(-0.426974, abs=5e-7)
    assert found["p_cc_given_ca"] == pytest.approx(0.658537, abs=5e-7)
    assert found["logit_flow"] == pytest.approx(0.29888, abs=5e-6)


@pytest.mark.parametrize(
    ("chances", "group", "ok", "bad"),
    [
        ((0.3, 0.9, 0.2), 2, 0.49, -0.21),
        ((0.3, 0.9, 0.2), 8, 0.919611, -0.394119),
        ((0.3, 0.9, 0.2), 16, 0.962134, -0.412343),
        ((0.3, 0.9, 0.2), 64, 0.988123, -0.423481),
        ((0.3, 0.9, 0.2), 512, 0.995265, -0.426542),
        ((0.05, 1, 0), 16, 3.103742, -0.163355),
        ((0.5, 1, 0), 8, 0.927828, -0.927828),
        ((0.5, 0.6, 0.6), 8, 0.0, 0.0),
        ((0.2, 0.3, 0.7), 16, -0.635935, 0.158984),
    ],
)
def test_known_values_of_finite_groups(chances, group, ok, bad):
    assert advantage(*chances, group)["exact"] == pytest.approx({"ok": ok, "bad": bad}, abs=5e-7)


def test_limit_of_a_perfect_prior_depends_on_p_c_alone():
    assert advantage(0.05, 1, 0, 16)["limit"] == pytest.approx({"ok": 4.358899, "bad": -0.229416}, abs=5e-7)
    for p in (0.01, 0.3, 0.9):
        limit = advantage(p, 1, 0, 16)["limit"]
        assert limit == pytest.approx({"ok": math.sqrt((1 - p) / p), "bad": -math.sqrt(p / (1 - p))})


# ---- every outcome of small groups


@cache
def outcomes(p, a, b, group):
    """(chance, class, answer of response 0, right answers in the group) of every outcome, by listing all 4^G."""
    one = {(1, 1): p * a, (1, 0): p * (1 - a), (0, 1): (1 - p) * b, (0, 0): (1 - p) * (1 - b)}
    found = {}
    for outcome in product(one, repeat=group):
        key = (*outcome[0], sum(answer for _, answer in outcome))
        found[key] = found.get(key, Fraction(0)) + math.prod(one[response] for response in outcome)
    return found


def brute(p, a, b, group, std):
    """E[advantage of response 0 | its class], over all groups and over undecided ones; the latter's share."""
    total, kept, mass, kept_mass = ({0: Fraction(0), 1: Fraction(0)} for _ in range(4))
    for (kind, answer, right), chance in outcomes(p, a, b, group).items():
        mean = Fraction(right, group)
        squares = right * (1 - mean) ** 2 + (group - right) * mean**2
        divisor = {"population": group, "sample": group - 1, "none": squares}[std]
        mass[kind] += chance
        if not squares:
            continue
        score = (answer - mean) / (1 if std == "none" else Fraction(math.sqrt(squares / divisor)))
        total[kind] += chance * score
        kept[kind] += chance * score
        kept_mass[kind] += chance
    over = [{"ok": float(s[1] / m[1]), "bad": float(s[0] / m[0])} for s, m in ((total, mass), (kept, kept_mass))]
    return *over, float(kept_mass[0] + kept_mass[1])


@pytest.mark.parametrize("std", ["population", "sample", "none"])
@pytest.mark.parametrize("group", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("chances", [("3/10", "9/10", "1/5"), ("1/7", "2/3", "1/2"), ("4/5", "1/3", "3/4")])
def test_brute_force_over_all_outcomes(chances, group, std):
    p, a, b = (Fraction(text) for text in chances)
    found = advantage(float(p), float(a), float(b), group, std)
    exact, kept, share = brute(p, a, b, group, std)
    assert found["exact"] == pytest.approx(exact, rel=1e-12)
    assert found["nondegenerate"] == pytest.approx(kept, rel=1e-12)
    assert found["p_nondegenerate"] == pytest.approx(share, rel=1e-12)
    assert found["logit_flow_exact"] == pytest.approx(float(p * (1 - p)) * (exact["ok"] - exact["bad"]), rel=1e-12)


def test_large_groups_against_exact_binomials():
    p, a, b = Fraction(1, 100), Fraction(97, 100), Fraction(1, 1000)
    mu = p * a + (1 - p) * b
    for group in (100, 1000):
        weights = [math.comb(group - 1, s) * mu**s * (1 - mu) ** (group - 1 - s) for s in range(group)]
        right = math.fsum(float(w) * math.sqrt((group - 1 - s) / (s + 1)) for s, w in enumerate(weights))
        wrong = math.fsum(float(w) * math.sqrt(s / (group - s)) for s, w in enumerate(weights))
        ok = float(a) * right - float(1 - a) * wrong
        assert advantage(float(p), float(a), float(b), group)["exact"]["ok"] == pytest.approx(ok, rel=1e-11)


# ---- properties

chance = st.floats(0, 1)
groups = st.one_of(st.integers(2, 64), st.sampled_from([255, 1000, 4096]))


@given(chance, chance, chance, groups, st.sampled_from(theory.STDS))
@settings(max_examples=150, deadline=None)
def test_advantages_average_to_zero_and_follow_the_prior(p, a, b, group, std):
    found = advantage(p, a, b, group, std)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    ok, bad = found["exact"]["ok"], found["exact"]["bad"]
    assert abs(p * ok + (1 - p) * bad) <= 1e-13 * max(1, abs(ok), abs(bad))
    assert ok * (a - b) >= 0 >= bad * (a - b)
    assert max(abs(ok), abs(bad)) <= math.sqrt(group - 1) * (1 + 1e-9)
    if None not in found["limit"].values():
        assert p * found["limit"]["ok"] + (1 - p) * found["limit"]["bad"] == pytest.approx(
            0, abs=1e-12 * max(1, *map(abs, found["limit"].values()))
        )
    paper = (a - b) ** 2 * p * (1 - p) + p * a * (1 - a) + (1 - p) * b * (1 - b)
    assert found["sigma2"] == pytest.approx(paper, abs=1e-15)
    assert 0 <= found["p_nondegenerate"] <= 1 + 1e-12


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.integers(2, 200))
@settings(max_examples=100, deadline=None)
def test_undecided_groups_only_dilute(p, a, b, group):
    """Given ok or bad, the mean over all groups is the mean over kept ones times the chance of being kept."""
    found = advantage(p, a, b, group)
    mu = found["mu"]
    for name, own in (("ok", a), ("bad", b)):
        keeps = own * (1 - mu ** (group - 1)) + (1 - own) * (1 - (1 - mu) ** (group - 1))
        assert found["nondegenerate"][name] * keeps == pytest.approx(found["exact"][name], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("std", theory.STDS)
@pytest.mark.parametrize("chances", [(0.3, 0.9, 0.2), (0.05, 1, 0), (0.2, 0.3, 0.7), (0.9, 0.95, 0.5)])
def test_finite_groups_tend_to_the_limit(chances, std):
    """With an error of order 1/G, up to the largest group there is."""
    limit = advantage(*chances, 2, std)["limit"]
    sizes = [2**i for i in range(8, 21, 2)]
    errors = [abs(advantage(*chances, size, std)["exact"]["ok"] / limit["ok"] - 1) for size in sizes]
    assert sizes[-1] == MAX_GROUP and errors[-1] < 2e-5
    # From 1024 on: at 256 a right answer in twenty is still some way off the order 1/G.
    assert all(now * 4 == pytest.approx(before, rel=0.1) for before, now in pairwise(errors[1:]))


def test_sample_std_is_a_constant_factor_and_none_divides_by_nothing():
    usual = advantage(0.3, 0.9, 0.2, 8)
    bessel, none = advantage(0.3, 0.9, 0.2, 8, "sample"), advantage(0.3, 0.9, 0.2, 8, "none")
    assert bessel["exact"]["ok"] == pytest.approx(usual["exact"]["ok"] * math.sqrt(7 / 8))
    assert bessel["limit"] == usual["limit"]
    assert none["exact"] == pytest.approx({"ok": 0.7 * 0.7 * 7 / 8, "bad": -0.3 * 0.7 * 7 / 8})
    assert none["limit"] == pytest.approx({"ok": 0.49, "bad": -0.21})
    assert none["logit_flow"] == pytest.approx(0.3 * 0.7 * 0.7)


# ---- edges


def test_every_answer_the_same():
    """sigma = 0. A lone wrong answer among G − 1 right ones has −√(G−1), which has no limit."""
    found = advantage(1, 1, 0, 10)
    assert found["sigma2"] == 0 and found["p_nondegenerate"] == 0
    assert found["exact"]["ok"] == 0 and found["exact"]["bad"] == pytest.approx(-3)
    assert found["limit"] == {"ok": 0.0, "bad": None}
    assert found["nondegenerate"]["ok"] is None and found["nondegenerate"]["bad"] == pytest.approx(-3)
    assert found["logit_flow"] == found["logit_flow_exact"] == 0
    never = advantage(0, 1, 0, 10)
    assert never["mu"] == 0 and never["p_cc_given_ca"] is None
    assert never["limit"] == {"ok": None, "bad": 0.0} and never["exact"]["ok"] == pytest.approx(3)
    for share in (0, 1):
        flat = advantage(0.4, share, share, 10)
        assert flat["limit"] == flat["exact"] == {"ok": 0, "bad": 0}
        assert flat["nondegenerate"] == {"ok": None, "bad": None}


def test_chances_near_the_edge_keep_their_digits():
    tiny = advantage(1e-12, 1, 0, 16)
    # One right answer, almost surely alone: √15; the others hardly ever see one.
    assert tiny["exact"]["ok"] == pytest.approx(math.sqrt(15), rel=1e-9)
    assert tiny["exact"]["bad"] == pytest.approx(-1e-12 * math.sqrt(15), rel=1e-9)
    assert tiny["p_nondegenerate"] == pytest.approx(16e-12, rel=1e-9)
    assert tiny["nondegenerate"]["bad"] == pytest.approx(-1 / math.sqrt(15), rel=1e-9)
    assert advantage(5e-324, 1, 0, 4)["exact"]["ok"] == pytest.approx(math.sqrt(3))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((1.1, 0.5, 0.5, 4), "pc: expected a chance"),
        ((0.5, -0.1, 0.5, 4), "alpha: expected a chance"),
        ((0.5, 0.5, float("nan"), 4), "beta: expected a chance"),
        ((0.5, True, 0.5, 4), "alpha"),
        ((0.5, "1", 0.5, 4), "alpha"),
        ((0.5, 0.5, 0.5, 1), "group: expected 2"),
        ((0.5, 0.5, 0.5, 2.5), "group: expected integers"),
        ((0.5, 0.5, 0.5, [2, 3]), "group: expected 2"),
        ((0.5, 0.5, 0.5, MAX_GROUP + 1), "group: expected 2"),
        ((0.5, 0.5, 0.5, 4, "bessel"), "std: expected one of"),
    ],
)
def test_bad_arguments_are_refused(arguments, text):
    with pytest.raises(BadInput, match=text):
        advantage(*arguments)


def test_the_public_name():
    import cotpass as package

    assert package.advantage(np.float32(0.5), 1, 0, np.int64(8)) == advantage(0.5, 1, 0, 8)


# ---- drawn groups


@pytest.mark.parametrize("std", theory.STDS)
@pytest.mark.parametrize("chances", [(0.3, 0.9, 0.2), (0.05, 1, 0), (0.2, 0.3, 0.7)])
def test_drawn_groups_agree(chances, std):
    closed, drawn = advantage(*chances, 8, std), simulate(*chances, 8, 40_000, std, seed=3)
    for name in ("ok", "bad"):
        assert abs(drawn[name] - closed["exact"][name]) < 4 * drawn["stderr"][name] < 0.1
        mixed = drawn["nondegenerate"]
        assert abs(mixed[name] - closed["nondegenerate"][name]) < 4 * mixed["stderr"][name] < 0.1
    share = closed["p_nondegenerate"]
    assert abs(drawn["nondegenerate"]["kept"] - 40_000 * share) < 4 * math.sqrt(40_000 * share * (1 - share)) + 1


def test_standard_errors_are_the_spread_of_repeats():
    runs = [simulate(0.3, 0.9, 0.2, 8, 200, seed=seed) for seed in range(300)]
    for name in ("ok", "bad"):
        told = np.mean([run["stderr"][name] for run in runs])
        assert np.std([run[name] for run in runs], ddof=1) == pytest.approx(told, rel=0.15)


def test_drawn_groups_repeat_and_say_where_nothing_was_drawn():
    assert simulate(0.3, 0.9, 0.2, 8, 50, seed=1) == simulate(0.3, 0.9, 0.2, 8, 50, seed=1)
    assert simulate(0.3, 0.9, 0.2, 8, 50, seed=1) != simulate(0.3, 0.9, 0.2, 8, 50, seed=2)
    sure = simulate(1, 1, 0, 4, 10)
    assert sure["ok"] == 0 and sure["bad"] is None and sure["stderr"]["bad"] is None
    assert sure["nondegenerate"] == {"kept": 0, "ok": None, "bad": None, "stderr": {"ok": None, "bad": None}}
    for groups, seed in ((1, 0), (10, -1)):
        with pytest.raises(BadInput, match="simulate"):
            simulate(0.3, 0.9, 0.2, 8, groups, seed=seed)


# ---- estimates


def table(problems, samples, rng, lift=None, alpha=(9, 1), beta=(2, 8)):
    """Counts (M, 4) of problems with their own chances. lift: alpha = beta = a difficulty shared with p_c, plus lift."""
    sound = rng.random((problems, samples)) < (p := rng.beta(1, 1, (problems, 1)))
    if lift is None:
        chance = np.where(sound, rng.beta(*alpha, (problems, 1)), rng.beta(*beta, (problems, 1)))
    else:
        chance = np.clip(p + lift * sound, 0, 1)
    right = rng.random((problems, samples)) < chance
    return np.stack([(sound & right).sum(1), (sound & ~right).sum(1), (~sound & right).sum(1), (~sound & ~right).sum(1)], 1)  # fmt: skip


def judged(counts, votes=3):
    """The same counts as judged records."""
    kinds = [(True, True), (True, False), (False, True), (False, False)]
    found = []
    for i, row in enumerate(counts.tolist()):
        drawn = [kind for kind, number in zip(kinds, row, strict=True) for _ in range(number)]
        for sample, (sound, right) in enumerate(drawn):
            most, least = ("yes", "no") if sound else ("no", "yes")
            cast = [most] * (votes // 2 + 1) + [least] * (votes - votes // 2 - 1)
            found.append({"id": f"p{i}", "sample": sample, "response": "r", "correct": right, "votes": cast})
    return found


def located(records):
    return ((f"f.jsonl:{line}", record) for line, record in enumerate(records, 1))


def test_pooled_values_by_hand():
    found = estimate(collect(located(judged(np.array([[3, 1, 1, 2], [1, 0, 0, 4], [2, 2, 0, 0]])))), per_problem=True)
    assert found["p_c"]["value"] == pytest.approx(9 / 16)
    assert found["alpha"]["value"] == pytest.approx(6 / 9)
    assert found["beta"]["value"] == pytest.approx(1 / 7)
    assert (found["n_problems"], found["n_samples"], found["test"]["problems"]) == (3, 16, 2)
    assert [row["id"] for row in found["problems"]] == ["p0", "p1", "p2"]
    assert found["problems"][0]["alpha"]["value"] == 0.75 and found["problems"][2]["beta"]["value"] is None
    assert found["problems"][1]["p_c"]["low"] < 0.2 < found["problems"][1]["p_c"]["high"]


@pytest.mark.parametrize("difficulties", [((9, 1), (2, 8)), ((99, 1), (1, 99)), ((1, 1), (1, 1))])
def test_intervals_cover_the_population(difficulties):
    """Nominal 95 %, problems as clusters, M = 30, n = 16; 400 replicates: sd 1.1 points."""
    rng = np.random.default_rng(5)
    alpha, beta = difficulties
    truth = 0.5, alpha[0] / sum(alpha), beta[0] / sum(beta)
    hits = np.zeros(3)
    for _ in range(400):
        counts = table(30, 16, rng, alpha=alpha, beta=beta)
        sound, total = counts[:, :2].sum(axis=1), counts.sum(axis=1)
        scores = pooled(sound, total), pooled(counts[:, 0], sound), pooled(counts[:, 2], total - sound)
        hits += [score["low"] <= true <= score["high"] for score, true in zip(scores, truth, strict=True)]
    assert (hits / 400 >= 0.91).all() and (hits / 400 <= 0.99).all()


def test_intervals_at_the_edges():
    eight, full = np.full(20, 8), pooled(np.full(20, 8), np.full(20, 8))
    assert full["value"] == full["high"] == 1 and 0.7 < full["low"] < 0.9
    assert pooled(0 * eight, eight)["high"] == pytest.approx(1 - full["low"])
    assert pooled(np.array([3]), np.array([8])) == {"value": 0.375, "low": None, "high": None}
    assert pooled(np.array([3, 0]), np.array([8, 0])) == {"value": 0.375, "low": None, "high": None}
    assert pooled(np.array([0]), np.array([0])) == {"value": None, "low": None, "high": None}


def test_students_t():
    for df, point in ((1, 12.706204736), (2, 4.30265273), (5, 2.570581836), (29, 2.045229642), (1000, 1.962339081)):
        assert theory._t_quantile(df) == pytest.approx(point, abs=1e-8)


# ---- the test of alpha > beta


def permuted(sound, right):
    """Chance that at least as many are right in both, over all permutations of the labels within problems."""
    chance = {0: Fraction(1)}
    for labels, answers in zip(sound, right, strict=True):
        orders = list(permutations(labels))
        step = {}
        for order in orders:
            both = sum(x and y for x, y in zip(order, answers, strict=True))
            step[both] = step.get(both, Fraction(0)) + Fraction(1, len(orders))
        grown = {}
        for (x, p), (y, q) in product(chance.items(), step.items()):
            grown[x + y] = grown.get(x + y, Fraction(0)) + p * q
        chance = grown
    seen = sum(
        x and y for labels, answers in zip(sound, right, strict=True) for x, y in zip(labels, answers, strict=True)
    )
    return float(sum(p for both, p in chance.items() if both >= seen))


@given(st.lists(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=5), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_p_value_is_that_of_all_permutations(problems):
    sound, right = ([[x[i] for x in rows] for rows in problems] for i in (0, 1))
    kinds = [(True, True), (True, False), (False, True), (False, False)]
    counts = np.array([[rows.count(kind) for kind in kinds] for rows in problems])
    assert prior_test(counts)[0] == pytest.approx(permuted(sound, right), abs=1e-12)


def test_p_values_under_the_null_are_uniform_although_pooling_would_be_fooled():
    """Easy problems have more right reasonings and more right answers; within a problem the two are independent."""
    rng = np.random.default_rng(7)
    tables = [table(30, 16, rng, lift=0) for _ in range(1000)]
    p = np.array([prior_test(counts)[0] for counts in tables])
    for level in (0.01, 0.05, 0.25, 0.5, 0.75, 0.95):
        # Valid: at most the level (plus 3 sd of a thousand tables); not far below it, as p is discrete.
        assert level - 0.1 < (p <= level).mean() <= level + 3 * math.sqrt(level * (1 - level) / 1000)
    pooled_counts = [counts.sum(axis=0, keepdims=True) for counts in tables]
    assert np.mean([prior_test(counts)[0] < 0.05 for counts in pooled_counts]) > 0.99


def test_the_test_sees_a_prior_within_problems():
    rng = np.random.default_rng(8)
    assert np.mean([prior_test(table(30, 16, rng, lift=0.25))[0] < 0.05 for _ in range(50)]) > 0.9
    assert np.mean([prior_test(table(30, 16, rng, lift=-0.25))[0] > 0.5 for _ in range(50)]) > 0.9


def test_large_tables_take_the_normal_path(monkeypatch):
    counts = table(400, 32, np.random.default_rng(9), lift=0.02)
    exact, problems, method = prior_test(counts)
    assert method == "exact" and problems > 300
    monkeypatch.setattr(theory, "EXACT_WORK", 0)
    assert prior_test(counts) == (pytest.approx(exact, rel=0.02), problems, "normal")


def test_nothing_to_test():
    assert prior_test(np.array([[4, 0, 0, 4], [0, 0, 0, 3], [2, 2, 0, 0]])) == (pytest.approx(1 / 70), 1, "exact")
    assert prior_test(np.array([[4, 0, 0, 0], [0, 0, 3, 0]])) == (1.0, 0, "exact")


# ---- the command


def run_json(*arguments, code=0):
    result = cotpass("theory", *arguments, "--json")
    assert result.returncode == code, result.stderr
    return json.loads(result.stdout), result.stderr


def test_command_gives_the_contract():
    report, errors = run_json(*FIRST, "--group-size", 16, "--simulate", 20000, "--seed", 4)
    assert errors == "" and report["warnings"] == []
    assert report["inputs"] == {"p_c": 0.3, "alpha": 0.9, "beta": 0.2, "group": 16, "std": "population"}
    assert {name: report[name] for name in advantage(0.3, 0.9, 0.2, 16)} == advantage(0.3, 0.9, 0.2, 16)
    drawn = report["simulated"]
    assert drawn == simulate(0.3, 0.9, 0.2, 16, 20000, seed=4)
    assert all(abs(drawn[name] - report["exact"][name]) < 4 * drawn["stderr"][name] for name in ("ok", "bad"))
    assert run_json(*FIRST, "--group-size", 16, "--std", "none")[0]["exact"]["ok"] == pytest.approx(0.49 * 15 / 16)


def test_command_estimates_known_chances(tmp_path):
    counts = table(60, 32, np.random.default_rng(10))
    records = judged(counts)
    records.append({"id": "p0", "sample": 99, "response": "", "finish_reason": "error", "error": "timeout"})
    records.append({"id": "p0", "sample": 100, "response": "r", "correct": True, "votes": ["yes", "no", "abstain"]})
    records.append({"id": "p0", "sample": 101, "response": "r", "correct": False})
    path = write(tmp_path / "judged.jsonl", records)
    report, errors = run_json("--estimate", path, "--group-size", 8, "--per-problem")
    assert errors.count("\n") == 1 and "1 right and 1 wrong answers have no majority verdict" in errors
    for name, truth in (("p_c", 0.5), ("alpha", 0.9), ("beta", 0.2)):
        score = report[name]
        # Three intervals of 95 %: that one misses by a little is expected now and then.
        assert score["low"] - 0.02 <= truth <= score["high"] + 0.02 and score["high"] - score["low"] < 0.2
        assert report["inputs"][name] == score["value"]
    assert report["p_value_alpha_gt_beta"] < 1e-9
    assert report["unjudged"] == {"right": 1, "wrong": 1} and report["failed"] == 1
    assert len(report["problems"]) == 60 and report["n_samples"] == 60 * 32
    values = (report[name]["value"] for name in ("p_c", "alpha", "beta"))
    assert report["exact"] == advantage(*values, 8)["exact"]
    # What is given is used as given, and still estimated.
    given_, _ = run_json("--estimate", path, "--group-size", 8, "--beta", 0.5)
    assert given_["inputs"]["beta"] == 0.5 and given_["beta"] == report["beta"]
    assert given_["exact"] == advantage(report["p_c"]["value"], report["alpha"]["value"], 0.5, 8)["exact"]
    # The records can come down a pipe, and be limited.
    piped = cotpass("theory", "--estimate", "-", "--limit", 64, "--json", stdin=path.read_text())
    assert json.loads(piped.stdout)["n_problems"] == 2


def test_command_from_the_steps_judge(tmp_path):
    """Judged for real: right and wrong arithmetic under right and wrong answers."""
    records = [
        {"id": f"t{i}", "sample": j, "response": f"{i} + 1 = {i + 1 + wrong} so \\boxed{{{i}}}", "correct": right}
        for i in range(4)
        for j, (wrong, right) in enumerate([(0, True), (0, True), (1, False), (1, True), (0, False)])
    ]
    graded = write(tmp_path / "graded.jsonl", records)
    cotpass("judge", graded, "--judge", "steps", "--scope", "all", "-o", tmp_path / "all.jsonl")
    report, _ = run_json("--estimate", tmp_path / "all.jsonl")
    assert (report["p_c"]["value"], report["alpha"]["value"], report["beta"]["value"]) == (
        0.6,
        pytest.approx(2 / 3),
        0.5,
    )
    cotpass("judge", graded, "--judge", "steps", "-o", tmp_path / "correct.jsonl")
    refused = cotpass("theory", "--estimate", tmp_path / "correct.jsonl")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "judge --scope all" in refused.stderr


def test_command_shows_a_table(tmp_path):
    result = cotpass("theory", *FIRST, "--group-size", 8, "--simulate", 500)
    assert result.returncode == 0 and result.stderr == ""
    for text in ("0.919611", "-0.394119", "0.996273", "0.658537", "500 simulated groups", "G = 8"):
        assert text in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    path = write(tmp_path / "j.jsonl", judged(np.array([[3, 1, 1, 2], [1, 0, 0, 4]])))
    path.write_text(path.read_text().replace('"p1"', '"[b]1"'))  # an id is text, never markup
    result = cotpass("theory", "--estimate", path, "--per-problem")
    assert result.returncode == 0 and "test of alpha > beta" in result.stdout and "[b]1 (n = 5)" in result.stdout


@pytest.mark.parametrize(
    ("chances", "text"),
    [
        ((0.2, 0.3, 0.7), "logic prior fails"),
        ((0.2, 0.5, 0.5), "alpha = beta"),
        ((1, 0.5, 0.2), "no response has a wrong reasoning"),
        ((0, 0.5, 0.2), "no response has a right reasoning"),
        ((0.5, 0, 0), "every answer is wrong"),
    ],
)
def test_command_warns(chances, text):
    report, errors = run_json("--pc", chances[0], "--alpha", chances[1], "--beta", chances[2], "--group-size", 4)
    assert text in errors and any(text in line for line in report["warnings"])
    assert errors.count("\n") == len(report["warnings"])


def test_command_without_wrong_reasoning(tmp_path):
    path = write(tmp_path / "j.jsonl", judged(np.array([[3, 1, 0, 0], [4, 2, 0, 0]])))
    report, errors = run_json("--estimate", path, code=1)
    assert report["beta"] == {"value": None, "low": None, "high": None} and "mu" not in report
    assert report["p_value_alpha_gt_beta"] == 1 and "give --beta" in errors
    report, _ = run_json("--estimate", path, "--beta", 0.1)
    assert report["mu"] == pytest.approx(0.7)
    assert "no response has a right reasoning" in run_json("--estimate", write(tmp_path / "n.jsonl", judged(np.array([[0, 0, 1, 2]]))), code=1)[1]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((*FIRST, "--group-size", 1), "--group-size"),
        ((*FIRST, "--group-size", "x"), "--group-size"),
        (("--pc", 0.3), "give all three"),
        ((), "give all three"),
        (("--pc", 1.2, "--alpha", 0.9, "--beta", 0.2), "--pc"),
        (("--pc", "nan", "--alpha", 0.9, "--beta", 0.2), "--pc"),
        ((*FIRST, "--std", "bessel"), "--std"),
        ((*FIRST, "--simulate", 1), "--simulate"),
        ((*FIRST, "--simulate", 9, "--seed", -1), "--seed"),
        ((*FIRST, "--limit", 3), "--estimate"),
        ((*FIRST, "--per-problem"), "--estimate"),
        (("--estimate", "absent.jsonl"), "no such file"),
    ],
)
def test_bad_usage_is_one_line(arguments, text):
    result = cotpass("theory", *arguments)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and text in result.stderr


def record(**fields):
    return {"id": "a", "sample": 0, "response": "r", "correct": True, "votes": ["yes"], **fields}


@pytest.mark.parametrize(
    ("records", "text"),
    [
        ([{"id": "a", "sample": 0, "response": "r"}], "run `cotpass grade` first"),
        ([{"id": "a", "sample": 0, "response": "r", "correct": True}], "at least one record with votes"),
        ([record(), record(sample=1, correct=False, votes=[])], "none of the 1 wrong answers is judged"),
        ([record(correct=False), record(sample=1, votes=[])], "none of the 1 right answers is judged"),
        ([record(), record(sample=1, correct=False, votes=["abstain"])], "has a majority verdict"),
        ([record(), record()], "appears twice"),
        ([record(), record(sample=1, votes=["yes", "no"])], "expected 1 votes"),
        ([record(judge=[{"steps": []}]), record(sample=1, judge=[{"model": "m"}])], "expected one judge"),
        ([record(votes=["maybe"])], "votes"),
        ([], "at least one record with votes"),
    ],
)
def test_bad_records_are_refused_in_one_line(tmp_path, records, text):
    result = cotpass("theory", "--estimate", write(tmp_path / "j.jsonl", records))
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and text in result.stderr


def test_one_kind_of_answer_is_told():
    found = estimate(collect(located([record(), record(sample=1, votes=["no"])])))
    assert found["alpha"]["value"] == found["beta"]["value"] == 1
    assert any("every judged answer is right" in line for line in theory._estimate_warnings(found))
    found = estimate(collect(located([record(), record(sample=1, votes=["no"], correct=False, id="b")])))
    assert any("cannot be tested" in line for line in theory._estimate_warnings(found))
