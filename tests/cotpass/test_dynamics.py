"""`dynamics`: values by hand, two steps as `compare` has them, how often emergence is called, and the command."""

import json
import math
import statistics

import numpy as np
import pytest
from commandline import cotpass, counts, judged, read, write
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cotpass import plot
from cotpass.compare import Side, compare, paired_difference, pass_at_k_gains
from cotpass.dynamics import QUANTILES, change, checkpoints, dynamics
from cotpass.metric import Counts
from tenfold_shared import BadInput

ENDS = ("diff", "low", "high", "sim_low", "sim_high")
NAMES = ("pass", "cot_pass")


def side(n, c, d=None, path="f"):
    """A file of counts; problems are named so that their order is that of the arrays."""
    n, c = np.broadcast_arrays(np.asarray(n), np.asarray(c))
    by_rule = {} if d is None else {"counts": (np.asarray(d), np.asarray(d))}
    return Side(path, Counts([f"q{i:04}" for i in range(len(c))], n.copy(), c.copy(), by_rule))


def drawn(rng, answer, reason, n=16):
    c = rng.binomial(n, answer)
    return side(n, c, rng.binomial(c, reason))


def report(*args, code=0):
    done = cotpass("dynamics", *args, "--json")
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def at(folder, **files):
    """STEP=FILE arguments of s0=..., s20=...: rows of a table, or records."""
    arguments = []
    for name, rows in files.items():
        path = folder / f"{name}.{'jsonl' if isinstance(rows[0], dict) else 'csv'}"
        (write if isinstance(rows[0], dict) else counts)(path, rows)
        arguments.append(f"{name[1:]}={path}")
    return arguments


# ------------------------------------------------------------------ values, by hand


def quantile(values, share):
    """Linear between order statistics."""
    values = sorted(values)
    place = share * (len(values) - 1)
    low = math.floor(place)
    return values[low] + (place - low) * (values[min(low + 1, len(values) - 1)] - values[low])


def mean(values):
    values = list(values)
    return pytest.approx(statistics.mean(values)) if values else None


def score(n, count, k):
    return 1 - math.comb(n - count, k) / math.comb(n, k)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_every_value_by_brute_force(data):
    size, ks = data.draw(st.integers(1, 9)), [1, 3]
    tables = {}
    for step in data.draw(st.lists(st.integers(0, 500), min_size=2, max_size=4, unique=True)):
        n = data.draw(st.lists(st.integers(3, 8), min_size=size, max_size=size))
        c = [data.draw(st.integers(0, each)) for each in n]
        tables[step] = (n, c, [data.draw(st.integers(0, each)) for each in c])
    found = dynamics({step: side(*table) for step, table in tables.items()}, ks, replicates=100)
    base = tables[min(tables)]
    easy = [i for i in range(size) if base[1][i]]
    assert [step["step"] for step in found.report["steps"]] == sorted(tables)
    for row, got in enumerate(found.report["steps"]):
        n, c, d = tables[got["step"]]
        p_ca = [c[i] / n[i] for i in range(size)]
        p_cc = [d[i] / c[i] for i in range(size) if c[i]]
        assert found.p_ca[row] == pytest.approx(p_ca)
        assert found.p_cc[row][~np.isnan(found.p_cc[row])] == pytest.approx(p_cc)
        for name, share in QUANTILES.items():
            assert got["p_ca"][name] == pytest.approx(quantile(p_ca, share))
            expected = pytest.approx(quantile(p_cc, share)) if p_cc else None
            assert got["p_cc_given_ca"][name] == expected
        assert (got["p_ca"]["mean"], got["p_cc_given_ca"]["mean"]) == (mean(p_ca), mean(p_cc))
        assert got["excluded_c0"] == size - len(p_cc) and got["optimised"] == p_ca.count(1)
        assert (got["n_samples"], got["min_n"], got["max_n"]) == (sum(n), min(n), max(n))
        for name, at_, count in (("pass", 1, c), ("cot_pass", 2, d)):
            for k in map(str, ks):
                value = statistics.mean(score(n[i], count[i], int(k)) for i in range(size))
                before = statistics.mean(score(base[0][i], base[at_][i], int(k)) for i in range(size))
                assert got[name][k]["value"] == pytest.approx(value)
                assert got[name][k]["diff"] == (pytest.approx(value - before, abs=1e-12) if row else None)
        for group, rows in (("easy", easy), ("hard", [i for i in range(size) if i not in easy])):
            known = [d[i] / c[i] for i in rows if c[i]]
            means = {"p_ca": mean(p_ca[i] for i in rows), "p_cc_given_ca": mean(known)}
            means |= {"n_problems": len(rows), "excluded_c0": len(rows) - len(known)}
            for name, count in (("pass", c), ("cot_pass", d)):
                means[name] = {str(k): mean(score(n[i], count[i], k) for i in rows) for k in ks}
            assert got[group] == means


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(0, 3))
def test_two_steps_are_exactly_compare(seed, size, draws_seed):
    rng = np.random.default_rng(seed)
    a, b = (drawn(rng, rng.random(size), rng.random(size), n) for n in (8, 9))
    apart = compare(a, b, seed=draws_seed, replicates=100)
    found = dynamics({3: a, 7: b}, seed=draws_seed, replicates=100).report
    for name in NAMES:
        first, second = (step[name] for step in found["steps"])
        for k in map(str, found["k"]):
            assert {end: second[k][end] for end in ENDS} == apart[name][k]
            assert all(first[k][end] is None for end in ENDS)
            assert (first[k]["value"], second[k]["value"]) == (apart["a"][name][k], apart["b"][name][k])
    assert found["k"] == apart["k"]


def test_the_order_of_the_arguments_and_the_size_of_the_steps_do_not_matter():
    rng = np.random.default_rng(5)
    files = {step: drawn(rng, rng.random(9), rng.random(9)) for step in (0, 10, 20)}
    one = dynamics(files, replicates=200).report
    other = dynamics({10**12 * step: files[step] for step in (20, 0, 10)}, replicates=200).report
    for step in other["steps"]:
        step["step"] //= 10**12
    assert one["steps"] == other["steps"]


def test_a_step_with_the_base_s_counts_has_gained_nothing():
    rng = np.random.default_rng(6)
    base, other = (drawn(rng, rng.random(9), rng.random(9)) for _ in range(2))
    found = dynamics({0: base, 1: other, 2: base}, replicates=200).report
    for name in NAMES:
        assert all(score[end] == 0 for score in found["steps"][2][name].values() for end in ENDS)
        assert all(score["low"] < score["high"] for score in found["steps"][1][name].values())


# ------------------------------------------------------------------ the simultaneous interval


def test_simultaneous_against_an_independent_bootstrap():
    """One max-t over all later steps and K, replicate by replicate, for seven problems, three later steps, two K."""
    rng = np.random.default_rng(8)
    ks, n = [1, 4], 12
    c = rng.integers(0, n + 1, (4, 7))
    found = pass_at_k_gains([n] * 7, c[0], [([n] * 7, each) for each in c[1:]], ks, seed=3, replicates=40_000)
    pass_of = np.array([[[score(n, int(count), k) for k in ks] for count in row] for row in c])
    rows = np.concatenate(list(pass_of[1:] - pass_of[0]), axis=1)
    values = np.vstack([rows, -np.ones(6), np.ones(6)])
    weights = rng.gamma([1.0] * 7 + [0.1] * 2, size=(40_000, 9))
    means = weights @ values / weights.sum(axis=1, keepdims=True)
    sd = means.std(axis=0)
    furthest = (np.abs(means - means.mean(axis=0)) / sd).max(axis=1)
    half = np.quantile(furthest, 0.95) * sd * stats.t.ppf(0.975, 6) / stats.norm.ppf(0.975) * math.sqrt(8 / 6)
    mean = rows.mean(axis=0)
    assert np.concatenate([each.diff for each in found]) == pytest.approx(mean)
    assert np.concatenate([each.sim_low for each in found]) == pytest.approx(np.maximum(mean - half, -1), abs=0.02)
    assert np.concatenate([each.sim_high for each in found]) == pytest.approx(np.minimum(mean + half, 1), abs=0.02)


def test_more_steps_widen_the_simultaneous_interval_and_leave_the_others():
    rng = np.random.default_rng(9)
    n, c = [16] * 20, rng.binomial(16, rng.random(20), (6, 20))
    c[:, 0] = np.arange(6)  # the first difference is positive: one orientation of the draws for all
    width = 0.0
    for many in range(1, 6):
        found = pass_at_k_gains(n, c[0], [(n, each) for each in c[1 : many + 1]], [1, 4], replicates=500)
        alone = paired_difference((c[1] - c[0])[:, None] / 16, replicates=500)
        assert (found[0].low[0], found[0].high[0]) == pytest.approx((alone.low[0], alone.high[0]), rel=1e-12)
        assert all((each.sim_low <= each.low).all() and (each.high <= each.sim_high).all() for each in found)
        assert found[0].sim_high[0] - found[0].sim_low[0] >= width
        width = found[0].sim_high[0] - found[0].sim_low[0]
    assert pass_at_k_gains(n, c[0], [], [1, 4]) == []


def simulated(runs, problems, n, steps, changed_at=0, shift=0.0):
    """Reports of runs whose answers are better by `shift` on the logit scale from one step on."""
    rng = np.random.default_rng([11, int(10 * shift)])
    for seed in range(runs):
        answer, reason = rng.beta(0.5, 1.5, problems).clip(1e-6, 1 - 1e-6), rng.beta(3, 3, problems)
        better = 1 / (1 + (1 - answer) / answer * math.exp(-shift))
        files = {step: drawn(rng, better if step >= changed_at else answer, reason, n) for step in range(steps)}
        yield dynamics(files, seed=seed, replicates=300).report


@pytest.mark.parametrize(
    ("problems", "n", "steps", "runs"),
    [(12, 8, 5, 250), pytest.param(30, 16, 8, 1000, marks=pytest.mark.deep)],
)
def test_without_any_change_emergence_is_called_as_rarely_as_promised(problems, n, steps, runs):
    """The intervals of one K and step each would call far more often."""
    called = dict.fromkeys(NAMES, 0)
    alone = 0
    for found in simulated(runs, problems, n, steps):
        for name in NAMES:
            called[name] += any(step is not None for step in found["emergence"][name].values())
        assert (found["emergence_step"] is None) == all(v is None for v in found["emergence"]["cot_pass"].values())
        alone += any((score["low"] or 0) > 0 for step in found["steps"] for score in step["cot_pass"].values())
    print(f"emergence without a change: {called}, by single intervals {alone}, of {runs} runs")
    for name in NAMES:
        assert called[name] <= 0.05 * runs + 3 * math.sqrt(0.05 * 0.95 * runs)
        assert called[name] < alone
    assert alone > 0.05 * runs


@pytest.mark.deep
def test_how_often_a_change_is_found_at_its_step_of_eight():
    share = {}
    for shift in (1.0, 1.5):
        steps = [found["emergence_step"] for found in simulated(500, 30, 16, 8, 4, shift)]
        early, late = (sum(s is not None and test(s) for s in steps) for test in (lambda s: s < 4, lambda s: s > 4))
        share[shift] = [count / len(steps) for count in (early, steps.count(4), late)]
        print(f"shift {shift}: too early, at its step, later: {share[shift]}")
        assert share[shift][0] <= 0.05
    assert share[1.0][1] > 0.2 and share[1.5][1] > 0.7


def test_a_planted_change_is_found_at_its_step():
    """From step 60 on right answers are right for a reason more often; how many are right does not change."""
    rng = np.random.default_rng(12)
    found_at, first_pass = [], []
    for seed in range(20):
        answer, reason = rng.uniform(0.3, 0.9, 40), rng.uniform(0.1, 0.4, 40)
        files = {step: drawn(rng, answer, reason if step < 60 else reason + 0.5) for step in range(0, 120, 20)}
        found = dynamics(files, seed=seed, replicates=300).report
        found_at.append(found["emergence_step"])
        first_pass.append([step for step in found["emergence"]["pass"].values() if step is not None])
        assert found["emergence"]["cot_pass"]["1"] == 60
        late = found["steps"][3]
        assert late["p_cc_given_ca"]["q50"] > 0.55 > found["steps"][2]["p_cc_given_ca"]["q50"]
        assert change(late, "cot_pass", 1) == 1 and change(found["steps"][0], "cot_pass", 1) == 0
    assert found_at == [60] * 20 and sum(map(bool, first_pass)) <= 3


def test_emergence_at_some_k_and_at_every_k():
    """Steps 1 and 2 better at K = 1 only, step 3 at both, step 4 at neither; a loss is marked and is no emergence."""
    n, size = 8, 40
    some = np.full(size, 4)  # at K = 8 a single right sample solves a problem
    none = np.zeros(size, dtype=int)
    half = np.where(np.arange(size) < 20, 1, 0)
    files = {0: half, 1: np.where(half, 6, 0), 2: np.where(half, 6, 0), 3: some, 4: none}
    found = dynamics({step: side(n, np.full(size, 8), d) for step, d in files.items()}, [1, 8], replicates=300).report
    assert found["emergence"]["cot_pass"] == {"1": 1, "8": 3} and found["emergence_step"] == 1
    assert found["emergence_all_k"] == {"pass": None, "cot_pass": 3}
    assert found["emergence"]["pass"] == {"1": None, "8": None}
    assert change(found["steps"][4], "cot_pass", 8) == -1
    assert found["steps"][3]["optimised"] == size


# ------------------------------------------------------------------ through the command


def test_shape_of_the_object(tmp_path):
    arguments = at(
        tmp_path,
        s100=[("x", 4, 4, 3), ("y", 4, 2, 1), ("z", 8, 2, 0)],
        s0=[("z", 4, 0, 0), ("x", 4, 1, 1), ("y", 4, 2, 0)],
    )
    found = report(*arguments, "--k", "1,2", "--replicates", "500")
    assert (found["base"], found["k"], found["n_problems"], found["left_out"]) == (0, [1, 2], 3, [])
    base, late = found["steps"]
    assert set(late["p_ca"]) == set(late["p_cc_given_ca"]) == {*QUANTILES, "mean"}
    assert late["p_ca"]["q50"] == 0.5 and late["p_ca"]["mean"] == pytest.approx(1.75 / 3)
    assert late["p_cc_given_ca"]["q50"] == 0.5 and late["excluded_c0"] == 0 and base["excluded_c0"] == 1
    assert set(late["pass"]["1"]) == {"value", *ENDS}
    assert late["pass"]["1"]["diff"] == pytest.approx((0.75 + 0 + 0.25) / 3)
    assert late["optimised"] == 1 and late["file"].endswith("s100.csv") and late["max_n"] == 8
    easy = {"n_problems": 2, "p_ca": 0.75, "p_cc_given_ca": 0.625, "excluded_c0": 0}
    assert {name: late["easy"][name] for name in easy} == easy
    assert late["hard"]["n_problems"] == 1 and late["hard"]["pass"] == {"1": 0.25, "2": pytest.approx(13 / 28)}
    assert (base["unjudged"], base["refused"], found["refused"], found["warnings"]) == (0.0, False, [], [])
    assert found["emergence_step"] is None and found["emergence"]["pass"] == {"1": None, "2": None}


def test_records_agree_with_their_table_a_pipe_and_a_name_with_equals_signs(tmp_path):
    first, second, third = (judged(8, seed) for seed in (1, 2, 3))
    arguments = at(tmp_path, s0=first, s5=second)
    odd = write(tmp_path / "a=b=c.jsonl", third)
    table = tmp_path / "third.csv"
    table.write_text(cotpass("convert", odd, "--to", "counts", "-q").stdout)
    found = report(*arguments, f"007={odd}")
    assert found["steps"][2]["step"] == 7 and found["steps"][2]["file"] == str(odd)
    done = cotpass("dynamics", *arguments, "7=-", "--json", stdin=odd.read_text())
    assert done.returncode == 0, done.stderr
    for other in (json.loads(done.stdout), report(*arguments, f"7={table}")):
        other["steps"][2]["file"] = str(odd)
        assert other == found
    assert report(*arguments, f"7={odd}", "--seed", "1") != found


def test_missing_problems_are_named_and_intersect_goes_on(tmp_path):
    arguments = at(
        tmp_path,
        s0=[("x", 4, 1), ("y", 4, 2), ("z", 4, 2)],
        s1=[("x", 4, 1), ("y", 4, 2), ("new", 4, 2)],
        s2=[("x", 4, 3), ("y", 4, 2), ("z", 4, 2), ("new", 4, 2)],
    )
    done = cotpass("dynamics", *arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "s0.csv lacks 1 problem ('new') of the other files" in done.stderr
    assert "s1.csv lacks 1 problem ('z') of the other files" in done.stderr and "s2.csv lacks" not in done.stderr
    assert "--intersect compares the 2 that all have" in done.stderr
    found = report(*arguments, "--intersect", "--k", "1")
    assert (found["n_problems"], found["left_out"], len(found["warnings"])) == (2, ["new", "z"], 1)
    assert found["steps"][2]["pass"]["1"]["diff"] == pytest.approx(0.25)
    alone = at(tmp_path, s3=[("other", 4, 1)])
    assert "no problem in common" in cotpass("dynamics", *arguments, *alone, "--intersect").stderr


def test_gold_answers_and_judges_of_all_files_must_agree(tmp_path):
    rows = judged(6, 3)
    (base,) = at(tmp_path, s0=[(f"q{i}", 8, 1, 1) for i in range(6)])  # a table has no gold answers and no judge
    other = [{**r, "answer": "77"} if r["id"] == "q2" else r for r in rows]
    done = cotpass("dynamics", base, *at(tmp_path, s1=rows, s2=rows, s3=other))
    assert done.returncode == 2 and "id 'q2': answer: expected one gold answer" in done.stderr
    assert "s1.jsonl and '77' in" in done.stderr and "s3.jsonl" in done.stderr
    done = cotpass("dynamics", base, *at(tmp_path, s1=rows, s2=judged(6, 4, votes=5)))
    assert done.returncode == 2 and "judge-8b with 3 in" in done.stderr and "judge-8b with 5 in" in done.stderr


def abstaining(rows, count):
    for r in [r for r in rows if r.get("votes")][:count]:
        r["votes"] = ["abstain"] * 3
    return rows


def test_a_refused_step_has_bounds_and_leaves_the_others_as_they_are_without_it(tmp_path):
    arguments = at(tmp_path, s0=judged(9, 1), s1=abstaining(judged(9, 2), 3), s2=judged(9, 3, quality=1.5))
    found = report(*arguments, code=1)
    assert found["refused"] == [1] and found["steps"][1]["refused"] and len(found["warnings"]) == 1
    bad = found["steps"][1]
    voted = sum(bool(r.get("votes")) for r in read(tmp_path / "s1.jsonl"))
    assert bad["unjudged"] == pytest.approx(3 / voted)
    assert all(value is None for score in bad["cot_pass"].values() for value in score.values())
    assert all(value is None for value in bad["p_cc_given_ca"].values())
    assert all(value is None for group in ("easy", "hard") for value in bad[group]["cot_pass"].values())
    assert bad["bounds"]["1"]["high"] - bad["bounds"]["1"]["low"] == pytest.approx(3 / 8 / 9)
    assert bad["pass"]["1"]["sim_low"] is not None
    without = report(arguments[0], arguments[2])
    assert found["steps"][2]["cot_pass"] == without["steps"][1]["cot_pass"]
    assert found["steps"][2]["pass"] != without["steps"][1]["pass"]  # step 1 has answers, and widens this interval
    allowed = report(*arguments, "--max-unjudged", "0.9")
    assert allowed["refused"] == [] and allowed["steps"][1]["cot_pass"]["1"]["value"] == bad["bounds"]["1"]["low"]
    table = cotpass("dynamics", *arguments)
    assert table.returncode == 1 and "?" in table.stdout and "step 1: " in table.stderr


def test_a_refused_base_leaves_values_and_no_gains(tmp_path):
    found = report(*at(tmp_path, s0=abstaining(judged(9, 1), 4), s1=judged(9, 3, quality=1.5)), code=1)
    later = found["steps"][1]["cot_pass"]["1"]
    assert later["value"] > 0 and all(later[end] is None for end in ENDS)
    assert found["emergence_step"] is None and "none for its gain at any step" in found["warnings"][0]
    assert found["steps"][1]["pass"]["1"]["sim_low"] is not None


def test_steps_that_are_not_judged(tmp_path):
    bare, voted = judged(9, 1, votes=0), judged(9, 2)
    found = report(*at(tmp_path, s0=voted, s1=bare, s2=voted))
    middle = found["steps"][1]
    assert middle["cot_pass"] == middle["bounds"] == middle["easy"]["cot_pass"] == {} and middle["unjudged"] is None
    assert middle["p_cc_given_ca"]["q50"] is None and middle["p_ca"]["q50"] is not None
    assert found["steps"][2]["cot_pass"]["1"]["diff"] == 0 and "s1.jsonl is not judged" in found["warnings"][0]
    found = report(*at(tmp_path, s0=bare, s1=judged(9, 5, votes=0, quality=1e9)))
    assert found["emergence_step"] is None and found["emergence"]["cot_pass"]["1"] is None
    assert found["warnings"] == [] and found["emergence"]["pass"]["1"] == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["0=a.csv", "00=b.csv"], "'00=b.csv': expected every step once, a.csv is step 0 already"),
        (["0=a.csv", "b.csv"], "'b.csv': expected STEP=FILE with an integer STEP of at least 0"),
        (["0=a.csv", "-1=b.csv"], "'-1=b.csv': expected STEP=FILE"),
        (["0=a.csv", "1.5=b.csv"], "'1.5=b.csv': expected STEP=FILE"),
        (["0=a.csv", "²=b.csv"], "'²=b.csv': expected STEP=FILE"),
        (["0=a.csv", "9" * 30 + "=b.csv"], "expected STEP=FILE"),
        (["0=a.csv", "1="], "'1=': expected STEP=FILE"),
        (["0=a.csv", "=b.csv"], "'=b.csv': expected STEP=FILE"),
        (["0=a.csv"], "at least two STEP=FILE"),
        ([], "STEP=FILE..."),
        (["0=-", "1=-"], "stdin can be read once"),
        (["0=a.csv", "1=none.csv"], "none.csv"),
        (["0=a.csv", "1=b.csv", "--k", "8"], "K = 8 is more than the n = 2 samples of problem 'x' in b.csv"),
        (["0=a.csv", "1=b.csv", "--ids", "a.csv"], "read whole"),
        (["0=a.csv", "1=b.csv", "--seed", "-1"], "seed"),
        (["0=a.csv", "1=b.csv", "--plot", "p.pdf"], ".png or .svg"),
        (["0=a.csv", "1=b.csv", "--max-unjudged", "2"], "max-unjudged"),
    ],
)
def test_bad_input_is_one_line_and_exit_two(tmp_path, monkeypatch, arguments, text):
    monkeypatch.chdir(tmp_path)
    counts(tmp_path / "a.csv", [("x", 4, 1), ("y", 4, 2)])
    counts(tmp_path / "b.csv", [("x", 2, 1), ("y", 4, 2)])
    done = cotpass("dynamics", *(["--", *arguments] if "-1=b.csv" in arguments else arguments))
    assert done.returncode == 2 and text in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_bad_arguments_of_the_functions():
    with pytest.raises(BadInput, match="at least two"):
        dynamics({0: side([4], [1])})
    with pytest.raises(BadInput, match="max_unjudged"):
        dynamics({0: side([4], [1]), 1: side([4], [1])}, max_unjudged=2)
    assert list(checkpoints(["20=b", "3=a=a", "100=-"]).items()) == [(3, "a=a"), (20, "b"), (100, "-")]


def test_the_table_fits_and_marks_gains_and_losses(tmp_path):
    rng = np.random.default_rng(13)

    def rows(answer, reason):
        made = []
        for i in range(40):
            c = rng.binomial(1024, answer)
            made.append((f"q{i}", 1024, c, rng.binomial(c, reason)))
        return made

    arguments = at(tmp_path, s0=rows(0.5, 0.5), s123456=rows(0.9, 0.9), s999999=rows(0.1, 0.1))
    done = cotpass("dynamics", *arguments)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and max(map(len, lines)) <= 80
    up, down = (next(line for line in lines if step in line) for step in ("123456", "999999"))
    assert up.count("↑") == 2 and "↓" not in up and down.count("↓") == 2 and "…" not in done.stdout
    assert "emergence of CoT-Pass: step 123456" in done.stdout and "easy: 40" in done.stdout
    plain = cotpass("dynamics", *at(tmp_path, s0=[("x", 4, 1)], s1=[("x", 4, 4)])).stdout
    assert "1 problem, 4 samples" in plain and "no file is judged" in plain and "CoT-Pass\n" not in plain


# ------------------------------------------------------------------ the picture


KINDS = {
    "judged": (["0", "20", "40"], {}),
    "uneven": (["0", "1", "1000"], {}),
    "many": ([str(1000 * i) for i in range(14)], {"problems": 3, "samples": 2}),
    "graded": (["0", "20"], {"votes": 0}),
    "one problem": (["0", "20"], {"problems": 1}),
    "all right": (["0", "20"], {"quality": 1e9}),
    "none right": (["0", "20"], {"quality": 0}),
    "refused": (["0", "20", "40"], {}),
    "one K": (["0", "20"], {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_picture(tmp_path, kind):
    steps, more = KINDS[kind]
    made = {f"s{step}": judged(**{"problems": 6, "seed": int(step), "quality": 1.2, **more}) for step in steps}
    if kind == "refused":
        abstaining(made["s20"], 5)
    arguments = at(tmp_path, **made)
    suffix = ".svg" if kind == "one K" else ".png"
    pictures = [tmp_path / f"{i}{suffix}" for i in range(2)]
    for picture in pictures:
        done = cotpass(
            "dynamics",
            *arguments,
            "--plot",
            picture,
            "-q",
            "--replicates",
            200,
            *(["--k", 2] if kind == "one K" else []),
        )
        assert done.returncode == (1 if kind == "refused" else 0) and "Warning" not in done.stderr, done.stderr
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert pictures[0].read_bytes().startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_a_violin_is_finite_has_width_one_and_lies_where_the_problems_do(shares):
    height, density = plot._density(np.array(shares))
    assert np.isfinite(density).all() and density.max() == 1 and (density >= 0).all()
    near = np.abs(height[:, None] - np.array(shares)).min(axis=1)
    assert (density[near > 0.6] < 1e-3).all()
    assert near[density.argmax()] <= max(0.5, 1 / len(shares))
    if len(set(shares)) == 1:
        assert abs(height[density.argmax()] - shares[0]) < 0.06 and (density > 0.01).sum() > 5


def test_steps_stand_to_scale_unless_they_are_too_close():
    figure = pytest.importorskip("matplotlib.figure").Figure()
    for steps, at_, label in (
        ([0, 20, 60], [0, 20, 60], "training step"),
        ([0, 1, 1000], [0, 1, 2], "training step, not to scale"),
    ):
        axes = figure.subplots()
        found, half = plot._step_axis(axes, {"steps": [{"step": step} for step in steps]})
        assert found == at_ and axes.get_xlabel() == label and 0 < half < min(np.diff(found)) / 2
        figure.clear()
