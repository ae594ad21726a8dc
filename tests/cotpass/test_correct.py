"""`metric --correct`: the formulas by hand and by brute force, less bias than the raw scores, refusals."""

import json
from collections import Counter
from itertools import product

import numpy as np
import pytest
from commandline import cotpass, write
from hypothesis import given, settings
from hypothesis import strategies as st

from cotpass import correct
from cotpass import estimators as est
from cotpass.correct import Rates, Settings, Votes, corrected, expected_pass, right_counts, rogan_gladen
from cotpass.metric import accumulate, from_counts, report
from cotpass.votes import joined_rates
from tenfold_shared import BadInput


def simulated(problems, n, votes, fpr, fnr, seed, spread=4.0, mean=0.6):
    """Judged records of a judge with these rates, and the true D of each problem."""
    rng = np.random.default_rng(seed)
    answers, reasons = rng.beta(1, 1, problems), rng.beta(mean * spread, (1 - mean) * spread, problems)
    rows, true = [], np.zeros(problems, dtype=int)
    for q in range(problems):
        for s in range(n):
            ok = rng.random() < answers[q]
            right = ok and rng.random() < reasons[q]
            true[q] += right
            cast = ["yes" if rng.random() < (1 - fnr if right else fpr) else "no" for _ in range(votes)]
            rows.append({"id": f"q{q}", "sample": s, "response": f"r{s}", "correct": bool(ok), **({"votes": cast} if ok else {})})  # fmt: skip
    return rows, true


def read(rows):
    votes = Votes()
    counts = accumulate(votes.watch((f"f:{i}", r) for i, r in enumerate(rows)))
    return counts, votes


# ---- by hand


def test_rogan_gladen_by_hand():
    assert rogan_gladen(0.62, 0.2, 0.1) == pytest.approx(0.6)
    counts = from_counts(["problem,n,c,d", "a,100,100,62"])
    found = corrected(counts, Votes.of_counts(counts), [1, 2], Settings("rogan-gladen", Rates(0.2, 0.1)))
    assert found["p_cc_given_ca"] == {"value": pytest.approx(0.6), "low": None, "high": None}
    assert found["clipped"] == {"value": False, "replicates": None, "problems": 0}
    # D is 62 coins of 0.54/0.62 and 38 of 0.06/0.38: their mean is 60, so Pass@1 is 0.6.
    assert found["cot_pass"]["1"]["value"] == pytest.approx(0.6)
    pi = [0.54 / 0.62] * 62 + [0.06 / 0.38] * 38
    second = sum(pi) ** 2 - sum(x * x for x in pi)  # E[D(D-1)]
    both_wrong = (100 * 99 - 2 * 99 * sum(pi) + second) / (100 * 99)  # E[(n-D)(n-D-1)]/(n(n-1))
    assert found["cot_pass"]["2"]["value"] == pytest.approx(1 - both_wrong)


@pytest.mark.parametrize(("d", "value"), [(0, 0.0), (10, 0.0), (20, 0.0), (95, 1.0), (100, 1.0)])
def test_rogan_gladen_is_clipped_and_says_so(d, value):
    counts = from_counts(["problem,n,c,d", f"a,100,100,{d}", f"b,100,100,{d}"])
    found = corrected(counts, Votes.of_counts(counts), [1], Settings("rogan-gladen", Rates(0.2, 0.1)))
    assert found["p_cc_given_ca"]["value"] == value and found["cot_pass"]["1"]["value"] == pytest.approx(value)
    clipped = d != 20
    assert found["clipped"]["value"] is clipped and found["clipped"]["problems"] == 2 * clipped


def test_a_perfect_judge_is_not_corrected():
    rows, true = simulated(20, 8, 3, 0.0, 0.0, 0)
    counts, votes = read(rows)
    raw = report(counts, [1, 4])
    found = corrected(counts, votes, [1, 4], Settings("rogan-gladen", Rates(0.0, 0.0)))
    for k in (1, 4):
        assert found["cot_pass"][str(k)]["value"] == pytest.approx(raw["cot_pass"]["majority"][str(k)]["value"])
        assert found["cot_pass"][str(k)]["value"] == pytest.approx(est.pass_at_k(counts.n, true, [k]).mean())
    assert found["p_cc_given_ca"]["value"] == pytest.approx(raw["p_cc_given_ca"]["value"])


@given(st.lists(st.floats(0, 1), max_size=7))
@settings(max_examples=60, deadline=None)
def test_right_counts_is_the_sum_of_coins(chances):
    mass = right_counts([(1, np.array([x])) for x in chances])
    exact = np.zeros(len(chances) + 1)
    for heads in product((0, 1), repeat=len(chances)):
        exact[sum(heads)] += np.prod([x if h else 1 - x for h, x in zip(heads, chances, strict=True)])
    assert mass[0] == pytest.approx(exact, abs=1e-12)


def test_expected_pass_averages_over_coins_and_problems():
    n = np.array([4, 6, 4])
    patterns = [Counter({(2, 1): 2, (0, 3): 1}), Counter(), Counter({(2, 1): 2, (0, 3): 1})]
    chances = {(2, 1): np.array([0.8, 0.5]), (0, 3): np.array([0.1, 0.2])}
    weights = np.array([[1.0, 1, 1], [0, 3, 1]])
    values = expected_pass(n, patterns, chances, weights, [1, 3, 5])
    one = [
        [
            sum(
                np.prod([x if h else 1 - x for h, x in zip(heads, pi, strict=True)])
                * est.pass_at_k(4, sum(heads), [k])[0, 0]
                for heads in product((0, 1), repeat=3)
            )
            for k in (1, 3)
        ]
        for pi in ([0.8, 0.8, 0.1], [0.5, 0.5, 0.2])
    ]
    assert values[0, :2] == pytest.approx([2 * x / 3 for x in one[0]])
    assert values[1, :2] == pytest.approx([x / 4 for x in one[1]])
    assert (values[:, 2] == 0).all()  # K = 5: only the second problem is long enough, and it has no right answer


# ---- against the truth


@pytest.mark.parametrize(("votes", "fpr", "fnr"), [(3, 0.2, 0.1), (5, 0.3, 0.05)])
def test_less_bias_than_the_raw_scores(votes, fpr, fnr):
    ks, errors = [1, 4], []
    for seed in range(8):
        rows, true = simulated(100, 12, votes, fpr, fnr, seed, spread=12.0)
        counts, cast = read(rows)
        truth = est.pass_at_k(counts.n, true, ks).mean(axis=0)
        share = (true[counts.c > 0] / counts.c[counts.c > 0]).mean()
        raw = report(counts, ks)
        rates = Rates(*joined_rates(fpr, fnr, votes, "majority"))
        row = [raw["p_cc_given_ca"]["value"] - share] + [raw["cot_pass"]["majority"][str(k)]["value"] - t for k, t in zip(ks, truth, strict=True)]  # fmt: skip
        for wanted in (Settings("latent"), Settings("rogan-gladen", rates)):
            found = corrected(counts, cast, ks, wanted)
            row += [found["p_cc_given_ca"]["value"] - share] + [found["cot_pass"][str(k)]["value"] - t for k, t in zip(ks, truth, strict=True)]  # fmt: skip
            low, high = found["cot_pass"]["1"]["low"], found["cot_pass"]["1"]["high"]
            assert low < found["cot_pass"]["1"]["value"] < high
        errors.append(row)
    raw, latent, known = np.mean(errors, axis=0).reshape(3, 3)
    assert (raw > 0.008).all()  # a judge that accepts too much flatters the model
    assert (abs(latent) < 0.6 * raw).all() and (abs(known) < 0.6 * raw).all()
    assert abs(latent[:2]).max() < 0.012 and abs(known[:2]).max() < 0.012


def test_abstentions_are_no_yes_for_known_rates_and_missing_votes_for_latent():
    rows, _ = simulated(30, 8, 3, 0.2, 0.1, 3)
    for row in rows[::5]:
        if row["correct"]:
            row["votes"] = ["abstain"] * 3
    counts, cast = read(rows)
    found = corrected(counts, cast, [1], Settings("latent"))
    silent = corrected(counts, cast, [1], Settings("rogan-gladen", Rates(0.1, 0.05)))
    assert found["identifiable"] and 0.5 < found["p_cc_given_ca"]["value"] < 0.75
    assert silent["p_cc_given_ca"]["value"] < found["p_cc_given_ca"]["value"] - 0.05


def test_the_report_s_uncertainty_widens_the_interval():
    rows, _ = simulated(60, 12, 3, 0.2, 0.1, 5)
    counts, cast = read(rows)
    width = {}
    for n in (None, (20, 20), (2000, 2000)):
        found = corrected(counts, cast, [1], Settings("rogan-gladen", Rates(0.104, 0.028, n)))
        width[n] = found["p_cc_given_ca"]["high"] - found["p_cc_given_ca"]["low"]
    assert width[None] <= width[2000, 2000] * 1.05 and width[2000, 2000] * 1.2 < width[20, 20]


def test_same_seed_same_numbers():
    counts, cast = read(simulated(20, 8, 3, 0.2, 0.1, 1)[0])
    first, second, other = (corrected(counts, cast, [1, 2], Settings("latent", seed=s)) for s in (0, 0, 1))
    assert first == second and first["cot_pass"]["1"]["value"] == other["cot_pass"]["1"]["value"] and first != other


# ---- the command


def test_command_keeps_the_raw_keys(tmp_path):
    rows, _ = simulated(30, 8, 3, 0.2, 0.1, 2)
    write(tmp_path / "j.jsonl", rows)
    raw = json.loads(cotpass("metric", tmp_path / "j.jsonl", "--json").stdout)
    result = cotpass("metric", tmp_path / "j.jsonl", "--correct", "latent", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    extra = found.pop("corrected")
    assert found == raw and set(extra["cot_pass"]) == {"1", "2", "4", "8"} and extra["method"] == "latent"
    assert {"fpr", "fnr", "p_cc_given_ca"} <= extra.keys()
    latent = json.loads(cotpass("calibrate", "latent", tmp_path / "j.jsonl", "--json").stdout)
    assert (extra["fpr"], extra["fnr"]) == (latent["fpr"]["value"], latent["fnr"]["value"])
    table = cotpass("metric", tmp_path / "j.jsonl", "--correct", "latent").stdout
    assert "Corrected for the judge" in table and f"{extra['cot_pass']['8']['value']:.3f}" in table
    (tmp_path / "r.json").write_text(json.dumps({"fpr": {"value": 0.1, "n": 50}, "fnr": {"value": 0.02, "n": 50}}))
    by_file = cotpass("metric", tmp_path / "j.jsonl", "--correct", "rogan-gladen", "--rates", tmp_path / "r.json", "--json")  # fmt: skip
    by_hand = cotpass("metric", tmp_path / "j.jsonl", "--correct", "rogan-gladen", "--fpr", 0.1, "--fnr", 0.02, "--json")  # fmt: skip
    one, other = (json.loads(each.stdout)["corrected"] for each in (by_file, by_hand))
    assert one["cot_pass"]["1"]["value"] == other["cot_pass"]["1"]["value"] and one != other


def test_refusal_is_exit_one_and_raw_values_stay(tmp_path):
    rows, _ = simulated(10, 4, 3, 0.0, 0.0, 0)
    write(tmp_path / "j.jsonl", rows)
    for options, reason in ((["latent"], "are the same"), (["rogan-gladen", "--fpr", 0.7, "--fnr", 0.3], "no better than chance")):  # fmt: skip
        result = cotpass("metric", tmp_path / "j.jsonl", "--json", "--correct", *options)
        found = json.loads(result.stdout)
        assert result.returncode == 1 and reason in result.stderr and result.stderr.count("\n") == 1
        assert found["corrected"]["identifiable"] is False and found["corrected"]["p_cc_given_ca"]["value"] is None
        assert found["corrected"]["cot_pass"]["4"] == {"value": None, "low": None, "high": None}
        assert found["cot_pass"]["majority"]["4"]["value"] is not None
        assert cotpass("metric", tmp_path / "j.jsonl", "--correct", *options).returncode == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fpr", 0.1], "only with --correct"),
        (["--correct", "rogan-gladen"], "needs --rates"),
        (["--correct", "rogan-gladen", "--fpr", 0.1], "needs --rates"),
        (["--correct", "latent", "--fpr", 0.1], "finds the rates itself"),
        (["--correct", "latent"], "at least 3 a response"),
        (["--correct", "rogan-gladen", "--rates", "none.json"], "no such file"),
        (["--correct", "rogan-gladen", "--rates", "r.json", "--fpr", 0.1], "holds both"),
        (["--correct", "rogan-gladen", "--rates", "r.json"], "r.json: fpr.value: expected a share"),
        (["--correct", "rogan-gladen", "--rates", "l.json"], "rates of one vote"),
        (
            ["--correct", "rogan-gladen", "--rates", "j.jsonl"],
            "expected what `cotpass calibrate report --json` printed",
        ),
        (["--correct", "rogan-gladen", "--fpr", 1.5, "--fnr", 0], "1.5"),
    ],
)
def test_bad_input_is_one_line_and_exit_two(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    write("j.jsonl", [{"id": "a", "sample": i, "response": "x", "correct": True, "votes": ["yes"]} for i in range(2)])
    write("r.json", [{"fpr": {"value": 2}}])
    write("l.json", [{"fpr": {"value": 0.2}, "fnr": {"value": 0.2}, "identifiable": True}])
    result = cotpass("metric", "j.jsonl", "--json", *options)
    assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1, result.stderr
    assert result.stdout == ""


def test_tables_of_counts_and_unjudged_records(tmp_path):
    (tmp_path / "c.csv").write_text("problem,n,c\na,10,3\n")
    result = cotpass("metric", "--from-counts", tmp_path / "c.csv", "--correct", "rogan-gladen", "--fpr", 0, "--fnr", 0)
    assert result.returncode == 2 and "column d" in result.stderr
    result = cotpass("metric", "--from-counts", tmp_path / "c.csv", "--correct", "latent")
    assert result.returncode == 2 and "a table of counts has none" in result.stderr
    with pytest.raises(BadInput, match="cotpass judge"):
        counts, votes = read([{"id": "a", "sample": 0, "response": "x", "correct": True}])
        corrected(counts, votes, [1], Settings("latent"))
    assert correct.settings(None, None, None, None, 0, False) is None
