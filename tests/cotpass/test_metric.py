"""`metric`: from records and tables to the report, its picture and its refusals."""

import io
import json
import random
import subprocess
import sys
from itertools import combinations, product
from statistics import mean, stdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotpass import metric, plot
from cotpass.metric import accumulate, from_counts, human_table, report
from tenfold_shared import BadInput, Missing

Y, N, A = "yes", "no", "abstain"


def record(problem, sample, correct, votes=None, answer=None, **more):
    box = f"\\boxed{{{answer}}}" if answer is not None else ""
    made = {"id": problem, "sample": sample, "correct": correct, "response": f"thinking {sample} {box}", **more}
    if votes is not None:
        made["votes"] = list(votes)
        made.setdefault("judge", [{"model": "judge-8b"} for _ in votes])
    return made


def located(records):
    return [(f"judged.jsonl:{line}", each) for line, each in enumerate(records, 1)]


def small():
    """Two problems of four samples. `a`: three right, votes yyy, yyn, ynn. `b`: one right, nnn."""
    return [
        record("a", 0, True, [Y, Y, Y], 7),
        record("a", 1, True, [Y, Y, N], 7),
        record("a", 2, True, [Y, N, N], 7),
        record("a", 3, False, answer=9),
        record("b", 0, True, [N, N, N], 5),
        record("b", 1, False, answer=6),
        record("b", 2, False, answer=6),
        record("b", 3, False),
    ]


# ---- the report by hand


def test_report_by_hand():
    r = report(accumulate(located(small())))
    assert (r["n_problems"], r["n_samples"], r["k"]) == (2, 8, [1, 2, 4])
    assert {k: r["pass"][k]["value"] for k in ("1", "2", "4")} == pytest.approx({"1": 0.5, "2": 0.75, "4": 1.0})
    # right by any: 3 and 0; by majority: 2 and 0; by all: 1 and 0
    assert r["cot_pass"]["any"]["2"]["value"] == pytest.approx((1 + 0) / 2)
    assert r["cot_pass"]["majority"]["2"]["value"] == pytest.approx((5 / 6 + 0) / 2)
    assert r["cot_pass"]["all"]["2"]["value"] == pytest.approx((1 / 2 + 0) / 2)
    assert r["p_ca"]["value"] == pytest.approx(0.5)
    assert r["p_cc_given_ca"]["value"] == pytest.approx((2 / 3 + 0) / 2)
    assert r["pass_hat"]["2"]["value"] == pytest.approx((1 / 2 + 0) / 2)
    assert r["g_pass"]["0.5"]["4"]["value"] == pytest.approx(0.5)
    assert r["g_pass"]["1"]["4"]["value"] == 0
    assert set(r["g_pass"]) == {"0.25", "0.5", "0.75", "1"}
    assert r["mg_pass"]["4"]["value"] == pytest.approx((2 / 4 * 1 + 0) / 2)
    # majority vote of answers: `a` 7 7 7 9, `b` 5 6 6 and one silent
    assert r["cons"]["4"]["value"] == pytest.approx((1 + 0) / 2)
    assert r["cons"]["1"]["value"] == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert (r["excluded_c0"], r["unjudged"], r["refused"], r["warnings"]) == (0, 0.0, [], [])
    assert set(r["cot_pass"]) == set(r["bounds"]) == {"any", "majority", "all"}


def test_the_interval_is_the_normal_one():
    rng = random.Random(0)
    lines = ["problem,n,c,d"] + [f"q{i},16,{(c := rng.randint(3, 10))},{rng.randint(1, c)}" for i in range(30)]
    counts = from_counts(lines)
    r = report(counts)
    shares = [int(c) / 16 for c in counts.c]
    half = 1.959964 * stdev(shares) / 30**0.5
    want = {"value": mean(shares), "low": mean(shares) - half, "high": mean(shares) + half}
    assert r["p_ca"] == pytest.approx(want)
    assert r["pass"]["1"] == pytest.approx(want)
    sure = report(from_counts(["problem,n,c", "q,4,3", "r,4,4", "s,4,0"]))["pass"]["4"]
    assert sure["value"] == pytest.approx(2 / 3)
    assert sure["low"] == pytest.approx(2 / 3 - 1.959964 * stdev([1, 1, 0]) / 3**0.5)
    assert sure["high"] == 1.0


def test_one_problem_has_no_interval():
    r = report(from_counts(["problem,n,c", "q,4,3"]))
    assert r["pass"]["1"] == {"value": 0.75, "low": None, "high": None}
    assert json.loads(json.dumps(r, allow_nan=False)) == r


def test_order_of_samples_and_problems_does_not_matter():
    rng = random.Random(1)
    records = [
        record(f"q{i % 7}", i // 7, ok := rng.random() < 0.5, rng.choices([Y, N], k=3) if ok else None, ok or i % 3)
        for i in range(7 * 16)
    ]
    first = report(accumulate(located(records)))
    rng.shuffle(records)
    second = report(accumulate(located(records)))
    for path in (("pass",), ("cot_pass", "majority"), ("cons",), ("mg_pass",)):
        a, b = first, second
        for step in path:
            a, b = a[step], b[step]
        for k in a:
            assert a[k] == pytest.approx(b[k], abs=1e-12)


@given(st.lists(st.lists(st.sampled_from([None, *product((Y, N, A), repeat=3)]), min_size=4, max_size=9), min_size=1))
@settings(max_examples=50, deadline=None)
def test_order_of_the_rules(problems):
    records = [
        record(f"q{q}", s, votes is not None, votes)
        for q, samples in enumerate(problems)
        for s, votes in enumerate([*samples, (Y, Y, Y)])
    ]
    r = report(accumulate(located(records)), max_unjudged=1.0)
    for k in map(str, r["k"]):
        all_, majority, any_ = (r["cot_pass"][rule][k]["value"] for rule in ("all", "majority", "any"))
        assert all_ <= majority + 1e-12 <= any_ + 2e-12 <= r["pass"][k]["value"] + 3e-12
        bound = r["bounds"]["majority"][k]
        assert bound["low"] == majority <= bound["high"] <= r["pass"][k]["value"] + 1e-12
    top = str(min(len(samples) for samples in problems) + 1)
    at_n = report(accumulate(located(records)), [int(top)], max_unjudged=1.0)
    if len({len(samples) for samples in problems}) == 1:
        assert at_n["pass"][top]["value"] == 1.0  # every problem has a right sample, and K = n finds it


# ---- unjudged


def unjudged_records():
    """Four right answers of eight: one majority yes, two ties, one without votes."""
    return [
        record("a", 0, True, [Y, Y, A]),
        record("a", 1, True, [Y, N, A]),
        record("a", 2, True, [A, A, A]),
        record("a", 3, False),
        record("b", 0, True),
        *(record("b", s, False) for s in (1, 2, 3)),
    ]


def test_too_many_unjudged_are_refused_with_bounds():
    r = report(accumulate(located(unjudged_records())))
    assert r["unjudged"] == pytest.approx(3 / 4)
    # any and all judge every sample that has votes; one of four has none, which is above 1 % too.
    assert r["refused"] == ["any", "majority", "all"]
    for rule in r["refused"]:
        assert r["cot_pass"][rule]["2"] == {"value": None, "low": None, "high": None}
    assert r["p_cc_given_ca"]["value"] is None
    assert r["bounds"]["majority"]["1"] == pytest.approx({"low": 1 / 8, "high": 4 / 8})
    assert r["bounds"]["any"]["1"] == pytest.approx({"low": 2 / 8, "high": 3 / 8})
    assert r["bounds"]["all"]["1"] == pytest.approx({"low": 0, "high": 1 / 8})
    assert any("75.0%" in line and "majority" in line for line in r["warnings"])


def test_only_the_rule_that_cannot_say_is_refused():
    r = report(accumulate(located([record("a", 0, True, [A]), record("a", 1, True, [Y])])))
    assert r["refused"] == ["majority"]
    assert r["cot_pass"]["any"]["1"]["value"] == r["cot_pass"]["all"]["1"]["value"] == 0.5


def test_few_unjudged_count_as_wrong():
    r = report(accumulate(located(unjudged_records())), max_unjudged=0.75)
    assert r["refused"] == []
    assert r["cot_pass"]["majority"]["1"]["value"] == r["bounds"]["majority"]["1"]["low"] == pytest.approx(1 / 8)
    assert r["p_cc_given_ca"]["value"] == pytest.approx((1 / 3 + 0) / 2)


def test_graded_but_not_judged():
    r = report(accumulate(located([record("a", 0, True, answer=1), record("a", 1, False, answer=2)])))
    assert (r["cot_pass"], r["bounds"], r["unjudged"], r["refused"]) == ({}, {}, None, [])
    assert r["pass"]["1"]["value"] == 0.5
    assert r["p_cc_given_ca"]["value"] is None


def test_votes_on_wrong_answers_change_nothing():
    records = small()
    before = report(accumulate(located(records)))
    records[3] = record("a", 3, False, [Y, Y, Y], 9)
    assert report(accumulate(located(records))) == before


def test_no_right_answer_at_all():
    r = report(accumulate(located([record("a", s, False, [N, N, N]) for s in range(4)])))
    assert r["pass"]["4"]["value"] == r["cot_pass"]["any"]["4"]["value"] == 0
    assert (r["excluded_c0"], r["unjudged"], r["p_cc_given_ca"]["value"]) == (1, 0.0, None)


# ---- answers


def test_cons_votes_by_value_and_leaves_out_the_ungradable():
    records = [
        record("a", 0, True, answer="1/2"),
        record("a", 1, True, answer="0.5"),
        record("a", 2, False, answer="3"),
        record("a", 3, False, answer="3", grade="ungradable"),
        record("a", 4, False, answer="3", grade="ungradable"),
    ]
    counts = accumulate(located(records))
    assert sorted(counts.answers[0].values()) == [[1, 0], [2, 2]]
    assert report(counts, [5])["cons"]["5"]["value"] == 1.0
    assert counts.ungradable == 2


def test_no_answers_no_cons():
    assert "cons" not in report(accumulate(located([record("a", 0, True), record("a", 1, False)])))


def test_cons_by_brute_force_on_records():
    rng = random.Random(4)
    problems = {f"q{i}": [rng.choice("1122345") for _ in range(9)] for i in range(5)}
    records = [record(q, s, a == "1", answer=a) for q, answers in problems.items() for s, a in enumerate(answers)]
    got = report(accumulate(located(records)), [1, 3, 4, 9])["cons"]
    for k in (1, 3, 4, 9):
        shares = []
        for answers in problems.values():
            subsets = list(combinations(answers, k))
            right = 0.0
            for subset in subsets:
                most = max(map(subset.count, set(subset)))
                tied = {a for a in subset if subset.count(a) == most}
                right += ("1" in tied) / len(tied)
            shares.append(right / len(subsets))
        assert got[str(k)]["value"] == pytest.approx(mean(shares))


def test_cons_of_large_problems_is_sampled_with_an_error_and_repeats():
    def records():
        return [record(q, s, s % 3 == 0, answer=0 if s % 3 == 0 else s % 2 + 1) for q in "ab" for s in range(600)]

    first, second = (report(accumulate(located(records())), [1, 8])["cons"] for _ in range(2))
    assert first == second
    assert abs(first["1"]["value"] - 1 / 3) < 5 * first["1"]["stderr"] < 0.1
    assert report(accumulate(located(records())), [1, 8], seed=1)["cons"] != first


# ---- lengths, duplicates, failures


def test_ragged_problems_limit_k_unless_short_ones_are_dropped():
    records = [record("long", s, s == 0) for s in range(8)] + [record("short", s, True) for s in range(3)]
    counts = accumulate(located(records))
    r = report(counts)
    assert r["k"] == [1, 2]
    assert any("between 3 and 8" in line for line in r["warnings"])
    with pytest.raises(BadInput, match=r"K = 4 is more than the n = 3 samples of problem 'short'"):
        report(counts, [1, 4])
    dropped = report(counts, drop_short=True)
    assert dropped["k"] == [1, 2, 4, 8]
    assert dropped["problems_at_k"] == {"1": 2, "2": 2, "4": 1, "8": 1}
    assert dropped["pass"]["4"]["value"] == pytest.approx(0.5)
    with pytest.raises(BadInput, match="K = 9"):
        report(counts, [9], drop_short=True)


def test_identical_texts_are_told_with_their_rate():
    records = [record("a", s, True, response="same") for s in range(3)]
    records += [record("b", 0, True, response="same"), *(record("b", s, False) for s in (1, 2))]
    r = report(accumulate(located(records)))
    assert r["duplicates"] == 2
    assert any("2 samples (33.3%) repeat" in line for line in r["warnings"])


def test_failed_samples_are_no_draws():
    records = [*small(), record("a", 4, False, finish_reason="error", error="timed out", grade="ungradable")]
    r = report(accumulate(located(records)))
    assert (r["failed"], r["n_samples"], r["ungradable"]) == (1, 8, 0)
    only = [record("a", 0, True), {"id": "b", "sample": 0, "response": "", "finish_reason": "error", "error": "x"}]
    with pytest.raises(BadInput, match=r"'b'.*did not fail"):
        report(accumulate(located(only)))
    assert report(accumulate(located(only)), drop_short=True)["problems_at_k"] == {"1": 1}


def test_truncated_and_ungradable_are_counted():
    records = [record("a", 0, False, finish_reason="length"), record("a", 1, False, grade="ungradable")]
    r = report(accumulate(located(records)))
    assert (r["truncated"], r["ungradable"]) == (1, 1)
    assert any("ungradable and count as wrong" in line for line in r["warnings"])


# ---- bad records


def broken(**change):
    records = small()
    records[1] = {**records[1], **change}
    return located(records)


@pytest.mark.parametrize(
    ("records", "text"),
    [
        ([], "at least one"),
        (broken(correct="true"), r"judged.jsonl:2: id 'a' sample 1: correct: expected true or false, got 'true'"),
        (broken(correct=1), "correct: expected true or false, got 1"),
        (broken(correct=None), "correct: expected true or false, got None"),
        (located([{"id": "a", "sample": 0, "response": "x"}]), "correct: .*got nothing; run `cotpass grade` first"),
        (broken(reward=float("nan")), "reward: expected a finite number, got nan"),
        (broken(reward="1"), "reward"),
        (broken(sample=0), "id: a#0 appears twice"),
        (broken(sample=-1), "sample: expected an integer of at least 0, got -1"),
        (broken(sample=True), "sample: expected an integer"),
        (broken(sample="1"), "sample: expected an integer"),
        (broken(id=3), "id: expected a string, got 3"),
        (broken(votes=[Y, Y, "maybe"]), "votes: expected yes, no or abstain, got 'maybe'"),
        (broken(votes="yes"), "votes: expected a list"),
        (broken(votes=[Y, Y], judge=None), "votes: expected 3 votes as in judged.jsonl:1.*, got 2"),
        (broken(votes=[Y] * 4, judge=None), "votes: expected 3 votes .*, got 4"),
        (broken(judge=[{"model": "judge-8b"}]), "judge: expected a list with one entry a vote"),
        (broken(judge=[{"model": "other"}] * 3), "model other here and model judge-8b in judged.jsonl:1"),
        (broken(judge=[{"steps": 3, "first_wrong": None}] * 3), "the steps rule here and model judge-8b"),
    ],
)
def test_bad_records_are_named(records, text):
    with pytest.raises(BadInput, match=text):
        accumulate(records)


def test_a_judge_entry_without_a_name_is_no_second_judge():
    counts = accumulate(broken(judge=[{"error": "timed out"}, {"model": "judge-8b"}, {}]))
    assert report(counts)["cot_pass"]["majority"]["1"]["value"] == pytest.approx(1 / 4)


@pytest.mark.parametrize("ks", [[0], [-1, 2], [1.5], [], ["x"], [True]])
def test_bad_k(ks):
    with pytest.raises(BadInput, match="k:"):
        report(accumulate(located(small())), ks)


def test_bad_options():
    counts = accumulate(located(small()))
    with pytest.raises(BadInput, match="ci: expected one of normal"):
        report(counts, ci="bootstrap")
    with pytest.raises(BadInput, match="max_unjudged"):
        report(counts, max_unjudged=1.5)


# ---- tables of counts


def test_counts_table():
    r = report(from_counts(["\ufeffproblem, n, c, d\r\n", '"q, one",16,8,4\n', "\n", "q2,16,0,0\n"]))
    assert set(r["cot_pass"]) == set(r["bounds"]) == {"counts"}
    assert r["cot_pass"]["counts"]["1"]["value"] == pytest.approx(1 / 8)
    assert r["p_cc_given_ca"]["value"] == pytest.approx(0.5)
    assert (r["excluded_c0"], r["unjudged"], r["refused"]) == (1, 0.0, [])
    assert "cons" not in r


def test_counts_agree_with_records():
    records = accumulate(located(small()))
    lines = ["c,d,n,problem"]
    columns = (records.ids, records.n, records.c, records.d["majority"][0])
    for problem, n, c, d in zip(*columns, strict=True):
        lines.append(f"{c},{d},{n},{problem}")
    table, judged = report(from_counts(lines)), report(records)
    assert table["pass"] == judged["pass"]
    assert table["cot_pass"]["counts"] == judged["cot_pass"]["majority"]
    assert table["p_cc_given_ca"] == judged["p_cc_given_ca"]


def test_counts_without_reasoning():
    r = report(from_counts(["problem,n,c", "q,4,2"]))
    assert (r["cot_pass"], r["unjudged"]) == ({}, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.csv:1: header: expected problem,n,c,d"),
        ("id,n,c\nq,4,2\n", "header"),
        ("problem,n,c,n\nq,4,2,4\n", "header"),
        ("problem,n,c,d\n", "at least one row"),
        ("problem,n,c,d\nq,4,2\n", "t.csv:2: expected 4 columns"),
        ("problem,n,c,d\nq,4,2,1\nq,4,2,1\n", "t.csv:3: problem: q appears twice"),
        ("problem,n,c,d\nq,4,5,1\n", r"t.csv:2: 'q': expected n >= c >= d, got \[4, 5, 1\]"),
        ("problem,n,c,d\nq,4,2,3\n", "expected n >= c >= d"),
        ("problem,n,c,d\nq,4,-1,0\n", "t.csv:2: c: expected an integer of at least 0, got '-1'"),
        ("problem,n,c,d\nq,4,nan,0\n", "c: expected an integer"),
        ("problem,n,c,d\nq,4,2.0,0\n", "c: expected an integer"),
        ("problem,n,c,d\nq,4,,0\n", "c: expected an integer"),
        ("problem,n,c,d\nq,0,0,0\n", "n: expected 1 to"),
        ("problem,n,c,d\nq,99999999999999999999999,1,1\n", "n: expected an integer"),
        ("problem,n,c,d\nq,999999999999,1,1\n", "n: expected 1 to"),
        ('problem,n,c,d\n"' + "x" * 200_000 + '",1,1,1\n', "t.csv: expected a CSV table"),
    ],
)
def test_bad_tables(text, message):
    with pytest.raises(BadInput, match=message):
        from_counts(io.StringIO(text), "t.csv")


def test_table_in_another_encoding():
    with pytest.raises(BadInput, match="UTF-8"):
        from_counts(io.TextIOWrapper(io.BytesIO(b"problem,n,c\nq\xff,4,2\n"), encoding="utf-8"), "t.csv")


# ---- scale


def test_memory_does_not_grow_with_the_texts():
    """40,000 records of 50 kB text are 2 GB; the process stays far below that."""
    script = """
import resource
from cotpass.metric import accumulate, report
text = "x" * 50_000
def records():
    for i in range(40_000):
        ok = i % 3 == 0
        yield "f", {"id": f"q{i % 100}", "sample": i // 100, "response": f"{i}{text}\\\\boxed{{{ok}}}", "correct": ok,
                    "votes": ["yes"] * 3}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
counts = accumulate(records())
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert counts.n.sum() == 40_000
print(grown)
"""
    grown_kb = int(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout)
    assert grown_kb < 60_000


# ---- for people


def rendered(r, width=80):
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=False).print(human_table(r))
    return stream.getvalue()


def test_table_for_people():
    text = rendered(report(accumulate(located(small()))))
    assert "0.500 [0.01, 0.99]" in text  # Pass@1
    assert "0.125 – 0.375" in text  # all – any at K = 1
    assert "P(reasoning right | answer right) 0.333" in text
    refused = rendered(report(accumulate(located(unjudged_records()))))
    assert "0.125 – 0.500" in refused
    assert "unjudged 75.0%" in refused
    assert max(map(len, (text + refused).splitlines())) <= 80
    assert "CoT" not in rendered(report(from_counts(["problem,n,c", "q,4,2"])))


@pytest.mark.parametrize("suffix", [".png", ".svg"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: accumulate(located(small())),
        lambda: accumulate(located(unjudged_records())),
        lambda: from_counts(["problem,n,c,d", *(f"q{i},64,{i},{i // 2}" for i in range(1, 20))]),
        lambda: from_counts(["problem,n,c", "q,1,1"]),
    ],
    ids=["judged", "refused", "counts", "one"],
)
def test_picture_has_the_same_bytes_every_time(tmp_path, suffix, make):
    r = report(make())
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    plot.plot_report(r, first)
    plot.plot_report(r, second)
    data = first.read_bytes()
    assert data == second.read_bytes()
    assert data.startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")
    assert {path.name for path in tmp_path.iterdir()} == {first.name, second.name}


def test_picture_refusals(tmp_path, monkeypatch):
    r = report(accumulate(located(small())))
    with pytest.raises(BadInput, match=r"ends in .png or .svg"):
        plot.plot_report(r, tmp_path / "curve.pdf")
    with pytest.raises(BadInput, match="cannot be written"):
        plot.plot_report(r, tmp_path / "nowhere" / "curve.png")
    monkeypatch.setattr(plot.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Missing, match=r"pip install 'cotpass\[plot\]'"):
        plot.plot_report(r, tmp_path / "curve.png")
    assert not list(tmp_path.iterdir())


def test_the_public_names_are_the_estimators():
    import cotpass

    assert cotpass.pass_at_k([16, 16], [3, 0], [1, 4]).shape == (2, 2)
    assert set(metric.INTERVALS) == {"normal", "problem", "nested", "closed", "bayes"}
