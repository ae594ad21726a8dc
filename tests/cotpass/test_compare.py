"""`compare`: paired differences against an independent resampling, their symmetries, coverage, and the command."""

import json
import math
import random

import numpy as np
import pytest
from commandline import cotpass, counts, judged, read, samples, write
from scipy import stats

import cotpass as package
from cotpass import compare as module
from cotpass.compare import Differences, paired_difference, pass_at_k_difference
from tenfold_shared import BadInput

ENDS = ("diff", "low", "high", "sim_low", "sim_high")


def report(*args, code=0):
    done = cotpass("compare", *args, "--json")
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


# ------------------------------------------------------------------ the statistics


def test_against_an_independent_bootstrap():
    """The definition of the module, replicate by replicate in plain Python, on five problems and three K."""
    rows = [[0.1, 0.3, 0.5], [-0.2, 0.0, 0.0], [0.4, 0.1, 1.0], [0.0, 0.0, 0.0], [0.3, -0.1, -0.5]]
    rng = random.Random(7)
    values = [*rows, [-1.0] * 3, [1.0] * 3]
    means = []
    for _ in range(40_000):
        weights = [rng.gammavariate(1.0, 1.0) for _ in rows] + [rng.gammavariate(0.1, 1.0) for _ in range(2)]
        means.append([sum(w * v[j] for w, v in zip(weights, values, strict=True)) / sum(weights) for j in range(3)])
    drawn = np.array(means)
    deviation = np.abs(drawn - drawn.mean(axis=0))
    scale = drawn.std(axis=0)
    factor = stats.t.ppf(0.975, 4) / stats.norm.ppf(0.975) * math.sqrt(6 / 4)
    each = np.quantile(deviation, 0.95, axis=0) * factor
    at_once = np.quantile((deviation / scale).max(axis=1), 0.95) * scale * factor
    found = paired_difference(rows, seed=1, replicates=40_000)
    mean = np.mean(rows, axis=0)
    assert found.diff == pytest.approx(mean, abs=1e-12)
    assert found.low == pytest.approx(np.maximum(mean - each, -1), abs=0.012)
    assert found.high == pytest.approx(np.minimum(mean + each, 1), abs=0.012)
    assert found.sim_low == pytest.approx(np.maximum(mean - at_once, -1), abs=0.015)
    assert found.sim_high == pytest.approx(np.minimum(mean + at_once, 1), abs=0.015)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 29, 99, 10_000])
def test_students_quantile(freedom):
    assert module._student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=3e-4)


def test_many_equal_problems_have_the_usual_paired_t_interval():
    """Far from the ends of the scale and with many problems, weights, ends and quantiles stop mattering."""
    rng = np.random.default_rng(0)
    rows = rng.normal(0.05, 0.2, (2000, 1)).clip(-1, 1)
    found = paired_difference(rows, replicates=20_000)
    low, high = stats.t.interval(0.95, 1999, rows.mean(), stats.sem(rows[:, 0]))
    assert (found.low[0], found.high[0]) == pytest.approx((low, high), abs=4e-4)
    assert (found.sim_low[0], found.sim_high[0]) == pytest.approx((found.low[0], found.high[0]))


def test_exchanging_the_sides_gives_exactly_the_negative():
    rng = np.random.default_rng(2)
    for shape in ((7, 1), (30, 4), (2, 3)):
        rows = rng.uniform(-1, 1, shape).round(2)
        one, other = paired_difference(rows, 3, 500), paired_difference(-rows, 3, 500).negative()
        for name in ENDS:
            assert np.array_equal(getattr(one, name), getattr(other, name))


def test_simultaneous_contains_pointwise_contains_the_difference():
    rng = np.random.default_rng(4)
    for _ in range(30):
        rows = rng.uniform(-1, 1, (rng.integers(2, 40), rng.integers(1, 6))) * rng.choice([0, 0.01, 1])
        found = paired_difference(rows, 0, 300)
        assert (found.sim_low <= found.low).all() and (found.low <= found.diff).all()
        assert (found.diff <= found.high).all() and (found.high <= found.sim_high).all()
        assert (found.sim_low >= -1).all() and (found.sim_high <= 1).all()


def test_equal_counts_are_no_difference_and_equal_scores_are_not_the_same():
    n = [16, 16, 16]
    same = pass_at_k_difference(n, [3, 0, 9], n, [3, 0, 9], [1, 4])
    assert all((getattr(same, name) == 0).all() for name in ENDS)
    # At K = 16 all problems are solved on both sides, yet the counts differ: a width is left.
    found = pass_at_k_difference(n, [3, 1, 9], n, [3, 2, 9], [1, 16])
    assert found.diff[1] == 0 and found.low[1] < 0 < found.high[1]


def test_one_problem_has_a_difference_and_no_interval():
    found = pass_at_k_difference([4], [1], [4], [3], [1])
    assert found.diff[0] == 0.5 and np.isnan([getattr(found, name)[0] for name in ENDS[1:]]).all()


def test_a_large_table_is_drawn_in_parts():
    rows = np.random.default_rng(5).uniform(-0.1, 0.2, (50_000, 2))
    found = paired_difference(rows, 0, 200)
    half = 1.96 * rows.std(axis=0) / math.sqrt(len(rows))
    assert found.high - found.diff == pytest.approx(half, rel=0.2)


@pytest.mark.parametrize(
    ("rows", "more", "text"),
    [
        ([], {}, "at least one problem"),
        ([0.1, 0.2], {}, "got shape"),
        ([[0.1], [1.5]], {}, r"in \[-1, 1\]"),
        ([[0.1], [float("nan")]], {}, r"in \[-1, 1\]"),
        ([[0.1], [0.2]], {"seed": -1}, "seed"),
        ([[0.1], [0.2]], {"replicates": 10}, "replicates"),
    ],
)
def test_bad_differences(rows, more, text):
    with pytest.raises(BadInput, match=text):
        paired_difference(rows, **more)


def test_the_public_name():
    assert package.pass_at_k_difference is pass_at_k_difference


# ------------------------------------------------------------------ coverage


def pair(rng, size, kind):
    a = np.clip(rng.beta(0.5, 1.5, size), 1e-9, 1 - 1e-9)
    move = np.where(rng.random(size) < 0.2, 3.0, 0.0) if kind == "few" else 0.7 + rng.standard_normal(size)
    return a, 1 / (1 + (1 - a) / a * np.exp(-move))


@pytest.mark.deep
@pytest.mark.parametrize("kind", ["few", "all"])
def test_coverage_of_500_simulated_pairs(kind):
    """Pointwise at each K, and simultaneously at all of them; the population's difference by two million problems."""
    rng = np.random.default_rng([1, len(kind)])
    ks, n, problems = (1, 4, 16, 32), np.full(30, 64), 30
    a, b = pair(rng, 2_000_000, kind)
    target = np.array([np.mean((1 - a) ** k - (1 - b) ** k) for k in ks])
    each, at_once = np.zeros(len(ks)), 0
    for at in range(500):
        a, b = pair(rng, problems, kind)
        found: Differences = pass_at_k_difference(n, rng.binomial(n, a), n, rng.binomial(n, b), ks, at, 1000)
        each += (found.low <= target) & (target <= found.high)
        at_once += ((found.sim_low <= target) & (target <= found.sim_high)).all()
    assert (each / 500 >= 0.91).all() and (each / 500 <= 0.99).all()
    assert 0.91 <= at_once / 500 <= 0.99


# ------------------------------------------------------------------ through the command


def test_by_hand_and_shape_of_the_object(tmp_path):
    a = counts(tmp_path / "a.csv", [("x", 4, 1, 1), ("y", 4, 2, 0), ("z", 4, 0, 0)])
    b = counts(tmp_path / "b.csv", [("z", 8, 2, 1), ("y", 4, 4, 3), ("x", 4, 1, 0)])
    found = report(a, b, "--k", "1,2", "--replicates", "500")
    assert (found["k"], found["n_problems"], found["only_a"], found["only_b"]) == ([1, 2], 3, [], [])
    assert found["pass"]["1"]["diff"] == pytest.approx((0 + 0.5 + 0.25) / 3)
    # K = 2: x 0; y 1 − 5/6; z 1 − C(6,2)/C(8,2)
    assert found["pass"]["2"]["diff"] == pytest.approx((0 + 1 / 6 + 13 / 28) / 3)
    assert found["cot_pass"]["1"]["diff"] == pytest.approx((-0.25 + 0.75 + 0.125) / 3)
    assert set(found["pass"]["1"]) == set(found["cot_pass"]["2"]) == set(ENDS)
    assert found["a"]["pass"]["1"] + found["pass"]["1"]["diff"] == pytest.approx(found["b"]["pass"]["1"])
    assert found["b"]["cot_pass"]["1"] - found["a"]["cot_pass"]["1"] == pytest.approx(found["cot_pass"]["1"]["diff"])
    assert (found["b"]["file"], found["b"]["min_n"], found["b"]["max_n"], found["a"]["n_samples"]) == (str(b), 4, 8, 12)


def test_records_exchanged_and_shuffled_give_the_negative(tmp_path):
    rows = [judged(20, seed) for seed in (1, 2)]
    a, b = (write(tmp_path / f"{name}.jsonl", each) for name, each in zip("ab", rows, strict=True))
    random.Random(0).shuffle(rows[0])
    mixed = write(tmp_path / "mixed.jsonl", rows[0])
    forth, back = report(a, b), report(b, mixed)
    for name in ("pass", "cot_pass"):
        for k, score in forth[name].items():
            assert score["low"] < score["diff"] < score["high"]
            other = back[name][k]
            got = [other[end] for end in ("diff", "high", "low", "sim_high", "sim_low")]
            assert [score[end] for end in ENDS] == [-value for value in got]
    assert report(a, b) == forth
    assert report(a, b, "--seed", "1") != forth


def test_a_file_and_itself(tmp_path):
    a = write(tmp_path / "a.jsonl", judged(6, 3))
    found = report(a, a)
    for name in ("pass", "cot_pass"):
        assert all(value == 0 for score in found[name].values() for value in score.values())
    assert "-0.0" not in json.dumps(found)


def test_records_from_a_pipe_agree_with_their_table(tmp_path):
    rows = [judged(8, seed) for seed in (4, 5)]
    a, b = (write(tmp_path / f"{name}.jsonl", each) for name, each in zip("ab", rows, strict=True))
    table = tmp_path / "b.csv"
    table.write_text(cotpass("convert", b, "--to", "counts", "-q").stdout)
    done = cotpass("compare", a, "-", "--json", stdin=b.read_text())
    assert done.returncode == 0, done.stderr
    from_table, from_pipe = report(a, table), json.loads(done.stdout)
    assert from_table["pass"] == from_pipe["pass"]
    assert from_table["cot_pass"] == from_pipe["cot_pass"]


def test_missing_problems_are_named_and_intersect_goes_on(tmp_path):
    a = counts(tmp_path / "a.csv", [("x", 4, 1), ("y", 4, 2), *((f"a{i}", 4, 0) for i in range(7))])
    b = counts(tmp_path / "b.csv", [("x", 4, 3), ("y", 4, 2), ("new", 4, 2)])
    done = cotpass("compare", a, b)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "b.csv lacks 7 problems ('a0', 'a1', 'a2', 'a3', 'a4' and 2 more) of" in done.stderr
    assert "a.csv lacks 1 problem ('new') of" in done.stderr and "--intersect compares the 2" in done.stderr
    found = report(a, b, "--intersect", "--k", "1")
    assert (found["n_problems"], found["only_b"], len(found["only_a"])) == (2, ["new"], 7)
    assert found["pass"]["1"]["diff"] == pytest.approx(0.25)
    assert found["a"]["n_samples"] == 8 and len(found["warnings"]) == 2
    c = counts(tmp_path / "c.csv", [("other", 4, 1)])
    assert "no problem in common" in cotpass("compare", a, c, "--intersect").stderr


def test_gold_answers_must_agree(tmp_path):
    rows = judged(6, 3, votes=0)
    a = write(tmp_path / "a.jsonl", rows)
    b = write(tmp_path / "b.jsonl", [{**r, "answer": [f"{r['answer']}.0"]} for r in rows])
    assert report(a, b)["n_problems"] == 6
    changed = [{**r, "answer": "77"} if r["id"] in ("q2", "q4") else r for r in rows]
    done = cotpass("compare", a, write(tmp_path / "c.jsonl", changed))
    assert done.returncode == 2 and "id 'q2': answer: expected one gold answer in both files" in done.stderr
    assert "'2' in" in done.stderr and "'77' in" in done.stderr and "and 1 more" in done.stderr
    changed = [{**r, "answer": "77"} if r["id"] == "q2" and r["sample"] == 3 else r for r in rows]
    done = cotpass("compare", a, write(tmp_path / "d.jsonl", changed))
    assert done.returncode == 2 and "id 'q2': answer: expected '2' as before, got '77'" in done.stderr
    bare = [{key: value for key, value in r.items() if key != "answer"} for r in rows]
    assert report(a, write(tmp_path / "e.jsonl", bare))["n_problems"] == 6


def test_one_judge_for_both(tmp_path):
    a = write(tmp_path / "a.jsonl", judged(6, 3))
    for change, text in (({"judge": "judge-70b"}, "model judge-70b with 3"), ({"votes": 5}, "model judge-8b with 5")):
        done = cotpass("compare", a, write(tmp_path / "b.jsonl", judged(6, 4, **change)))
        assert done.returncode == 2 and text in done.stderr and "model judge-8b with 3" in done.stderr


def test_only_one_side_judged_compares_answers_alone(tmp_path):
    a, b = write(tmp_path / "a.jsonl", judged(6, 3, votes=0)), write(tmp_path / "b.jsonl", judged(6, 4))
    found = report(a, b)
    assert found["cot_pass"] == found["bounds"] == {} and found["refused"] == [] and len(found["warnings"]) == 1
    assert found["pass"]["1"]["low"] is not None


def test_unjudged_above_the_limit_are_refused_with_bounds(tmp_path):
    good, bad = judged(6, 3), judged(6, 4)
    voted = [r for r in bad if r.get("votes")]
    for r in voted[:2]:
        r["votes"] = ["abstain"] * 3
    a, b = write(tmp_path / "a.jsonl", good), write(tmp_path / "b.jsonl", bad)
    found = report(a, b, "--k", "1", code=1)
    assert found["refused"] == ["b"] and found["cot_pass"]["1"] == dict.fromkeys(ENDS)
    assert found["pass"]["1"]["diff"] is not None and found["b"]["unjudged"] == pytest.approx(2 / len(voted))
    bound = found["bounds"]["1"]
    assert bound["high"] - bound["low"] == pytest.approx(2 / 8 / 6)
    allowed = report(a, b, "--k", "1", "--max-unjudged", "0.9")
    assert allowed["cot_pass"]["1"]["diff"] == pytest.approx(bound["low"]) and allowed["refused"] == []
    table = cotpass("compare", a, b, "--k", "1")
    assert table.returncode == 1 and "bounds" in table.stdout and "are unjudged" in table.stderr


@pytest.mark.parametrize(
    ("rows", "args", "text"),
    [
        ([("x", 2, 1), ("y", 4, 1)], ["--k", "4"], "K = 4 is more than the n = 2 samples of problem 'x' in"),
        ([("x", 4, 5), ("y", 4, 1)], [], "expected n >= c"),
        ([("x", 4, 1), ("y", 4, 1)], ["--ids", "ids.txt"], "read whole"),
        ([("x", 4, 1), ("y", 4, 1)], ["--seed", "-1"], "seed"),
        ([("x", 4, 1), ("y", 4, 1)], ["--plot", "p.pdf"], ".png or .svg"),
    ],
)
def test_bad_input_is_one_line_and_exit_two(tmp_path, monkeypatch, rows, args, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ids.txt").write_text("x\n")
    a = counts(tmp_path / "a.csv", [("x", 4, 1), ("y", 4, 2)])
    done = cotpass("compare", a, counts(tmp_path / "b.csv", rows), *args)
    assert done.returncode == 2 and text in done.stderr and done.stderr.count("\n") == 1


def test_other_bad_files(tmp_path):
    a = write(tmp_path / "a.jsonl", judged(3, 1, votes=0))
    assert "can be read once" in cotpass("compare", "-", "-", stdin="").stderr
    assert cotpass("compare", a, tmp_path / "none.jsonl").returncode == 2
    assert cotpass("compare", a).returncode == 2
    ungraded = cotpass("compare", a, write(tmp_path / "s.jsonl", samples(3)))
    assert ungraded.returncode == 2 and "run `cotpass grade` first" in ungraded.stderr
    failed = [{**r, "error": "down", "finish_reason": "error"} if r["id"] == "q1" else r for r in read(a)]
    done = cotpass("compare", a, write(tmp_path / "f.jsonl", failed))
    assert done.returncode == 2 and "id 'q1': expected at least one sample that did not fail" in done.stderr
    assert report(a, tmp_path / "f.jsonl", "--ids", write_ids(tmp_path, "q0", "q2"))["n_problems"] == 2


def write_ids(folder, *names):
    (folder / "ids.txt").write_text("\n".join(names) + "\n")
    return folder / "ids.txt"


@pytest.mark.parametrize("suffix", [".png", ".svg"])
@pytest.mark.parametrize("kind", ["judged", "refused", "graded", "one problem", "one K"])
def test_picture_and_table(tmp_path, suffix, kind):
    votes, problems = (0 if kind == "graded" else 3), (1 if kind == "one problem" else 8)
    rows = [judged(problems, seed, votes, quality=1.5) for seed in (1, 2)]
    for r in rows[1] if kind == "refused" else []:
        if "votes" in r:
            r["votes"] = ["abstain"] * 3
    a, b = (write(tmp_path / f"{name}.jsonl", each) for name, each in zip(("a$", "b$_"), rows, strict=True))
    pictures = [tmp_path / f"{i}{suffix}" for i in range(2)]
    more = ["--k", "4"] if kind == "one K" else []
    for picture in pictures:
        done = cotpass("compare", a, b, "--plot", picture, "-q", *more)
        assert done.returncode == (1 if kind == "refused" else 0), done.stderr
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert pictures[0].read_bytes().startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")
    assert "Pass@4" in done.stdout and "a$.jsonl" in done.stdout.replace("\n", "")
    assert max(map(len, done.stdout.splitlines())) <= 80
