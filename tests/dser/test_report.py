"""The report of simulated runs, whose truth is known, and of hand-made logs, whose figures can be counted."""

import itertools
import json
import math

import numpy as np
import pytest
from dser_command import dser, read, records, sim, tasks, write

from dser import markov
from dser.findings import report_of
from dser.log import read_log
from dser.plan import plan_of
from dser.trace import Trace
from dser.vote import Grader


def run(tmp_path, name="run", n=20, chains=16, iterations=20, options=(), problems=None, **world):
    given = write(tmp_path / f"{name}.jsonl", problems or tasks(n))
    done = dser(
        "solve", given, "--model", sim(tmp_path / f"{name}.json", **world), "--chains", chains, "--iterations", iterations,
        "-o", tmp_path / name, "-q", *options,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    return tmp_path / name


def report(folder, *options):
    done = dser("report", folder, "--json", *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_known_chances_come_back(tmp_path):
    found = report(run(tmp_path, n=40, p_ic=0.12, p_ci=0.05, p_0=0.0, tpr=0.9, fpr=0.6, wrong=3))
    chance = found["transitions"]
    for name, truth in (("p_ic", 0.12), ("p_ci", 0.05)):
        assert chance[name]["low"] - 0.01 < truth < chance[name]["high"] + 0.01
        assert chance[name]["wilson"][0] < chance[name]["value"] < chance[name]["wilson"][1]
    assert found["stationary"]["per_problem_mean"]["value"] == pytest.approx(0.7059, abs=0.03)
    assert found["stationary"]["pooled"]["value"] == pytest.approx(0.7059, abs=0.03)
    assert found["verifier"]["tpr"]["value"] == pytest.approx(0.9, abs=0.02)
    assert found["verifier"]["fpr"]["value"] == pytest.approx(0.6, abs=0.02)
    assert found["advice"]["verdict"] == "iterate" and found["advice"]["text"].startswith("Iterate")
    assert "imulated" in found["advice"]["text"] and found["run"]["simulated"]
    for row in found["iterations"]:
        assert row["accuracy"]["value"] == pytest.approx(float(markov.accuracy(0.12, 0.05, 0, row["n"])), abs=0.06)
        assert row["predicted"]["value"] == pytest.approx(row["accuracy"]["value"], abs=0.06)
        assert row["predicted"]["low"] <= row["predicted"]["value"] <= row["predicted"]["high"]
    assert found["tests"]["order"]["p"] > 0.005 and found["tests"]["homogeneity"]["p"] > 0.005
    assert found["effective_votes"]["per_chain"] == pytest.approx(1.69, abs=0.2)
    assert next(iter(found)) == "advice"


def test_skill_and_counterfactuals_come_back(tmp_path):
    skill = {"tpr": 0.9, "fpr": 0.6, "ic_pass": 0.1, "ic_fail": 0.2, "ci_pass": 0.05, "ci_fail": 0.3}
    found = report(run(tmp_path, n=60, iterations=30, skill=skill, p_0=0.3))
    refiner = found["verifier"]["refiner"]
    for name in ("ic_pass", "ic_fail", "ci_pass", "ci_fail"):
        assert refiner[name]["value"] == pytest.approx(skill[name], abs=0.03)
    truth = markov.Skill(**skill)
    policies = found["counterfactual"]
    for name, chances in (("always", markov.always(truth)), ("keep-on-pass", markov.keep_on_pass(truth))):
        assert policies[name]["accuracy"] == pytest.approx(markov.stationary(*chances), abs=0.03)
        assert policies[name]["low"] <= policies[name]["accuracy"] <= policies[name]["high"]
    from_i, from_c = markov.stop_on_pass(truth)
    gate = policies["stop-on-pass:1"]
    assert gate["accuracy"] == pytest.approx(0.3 * from_c + 0.7 * from_i, abs=0.04)
    assert gate["replayed"]["accuracy"] == pytest.approx(gate["accuracy"], abs=0.04)


def test_policies_really_run_are_what_was_predicted(tmp_path):
    skill = {"tpr": 0.9, "fpr": 0.6, "ic_pass": 0.1, "ic_fail": 0.2, "ci_pass": 0.05, "ci_fail": 0.3}
    predicted = report(run(tmp_path, "always", n=30, iterations=30, skill=skill, p_0=0.3))["counterfactual"]
    kept = report(
        run(tmp_path, "keep", n=30, iterations=30, skill=skill, p_0=0.3, options=["--policy", "keep-on-pass"])
    )
    assert kept["iterations"][-1]["accuracy"]["value"] == pytest.approx(predicted["keep-on-pass"]["accuracy"], abs=0.05)
    stopped = report(
        run(tmp_path, "stop", n=30, iterations=30, skill=skill, p_0=0.3, options=["--policy", "stop-on-pass:1"])
    )
    assert stopped["iterations"][-1]["accuracy"]["value"] == pytest.approx(
        predicted["stop-on-pass:1"]["accuracy"], abs=0.05
    )
    assert stopped["run"]["ended"]["accepted"] > 450


def test_harm_is_told_first(tmp_path):
    folder = run(tmp_path, p_ic=0.05, p_ci=0.3, p_0=0.8, wrong=2)
    found = report(folder)
    assert found["advice"]["verdict"] == "do_not_iterate" and found["advice"]["high"] < 0
    assert dser("report", folder).stdout.startswith("Iteration will hurt")
    assert found["vs_self_consistency"]["diff"] <= 0


def test_no_effect_is_not_dressed_up(tmp_path):
    found = report(run(tmp_path, n=10, chains=8, iterations=10, p_ic=0.2, p_ci=0.2, p_0=0.5))
    assert found["advice"]["verdict"] == "no_effect_seen", found["advice"]


def test_pooling_is_not_the_mean_over_problems(tmp_path):
    """Half of the problems easy, half hard: pooled transitions say another accuracy than the problems have."""
    easy, hard = {"p_ic": 0.6, "p_ci": 0.3, "p_0": 0.0}, {"p_ic": 0.02, "p_ci": 0.005, "p_0": 0.0}
    worlds = {f"t{i}": easy if i % 2 else hard for i in range(20)}
    found = report(mixed(tmp_path, worlds))
    truth = np.mean([0.6 / 0.9, 0.02 / 0.025])
    assert abs(found["stationary"]["pooled"]["value"] - truth) > 0.15
    limit = found["stationary"]["per_problem_mean"]
    assert limit["low"] < truth < limit["high"] and abs(limit["value"] - truth) < 0.07


def mixed(tmp_path, worlds):
    given = write(tmp_path / "mix.jsonl", tasks(len(worlds)))
    model = sim(tmp_path / "mix.json", problems=worlds)
    assert dser("solve", given, "--model", model, "--iterations", 40, "-o", tmp_path / "mix", "-q").returncode == 0
    return tmp_path / "mix"


def test_plurality_beats_the_two_state_condition(tmp_path):
    """The plurality condition alone: p_IC < p_CI, and yet the right answer has the most votes."""
    matrix = [[0.88, 0.04, 0.04, 0.04], [0.1, 0.9, 0, 0], [0.1, 0, 0.9, 0], [0.1, 0, 0, 0.9]]
    found = report(run(tmp_path, n=15, chains=48, iterations=50, matrix=matrix, initial=[0.1, 0.3, 0.3, 0.3]))
    assert found["transitions"]["p_ic"]["value"] < found["transitions"]["p_ci"]["value"]
    assert found["stationary"]["plurality_condition"] > 0.9 and found["stationary"]["two_state_condition"] < 0.5
    assert found["metrics"]["vote"]["value"] > 0.85


def test_without_gold_there_is_no_correctness(tmp_path):
    bare = [{"id": f"t{i}", "prompt": "x"} for i in range(3)]
    found = report(run(tmp_path, problems=bare, p_ic=0.2, p_ci=0.1))
    assert found["advice"]["verdict"] == "unknown" and found["transitions"] is None and found["iterations"] == []
    assert found["stability"]["changed"]["value"] > 0 and found["run"]["graded"] == 0


def test_one_problem_and_no_iterations(tmp_path):
    found = report(run(tmp_path, n=1, p_ic=0.4, p_ci=0.05))
    assert found["advice"]["verdict"] == "iterate" and found["advice"]["low"] > 0
    flat = report(run(tmp_path, "flat", n=3, iterations=0, p_ic=0.4, p_ci=0.05))
    assert flat["advice"]["verdict"] == "unknown" and flat["transitions"] is None and len(flat["iterations"]) == 1


def test_figures_by_hand(tmp_path):
    """Two chains whose steps are written out: every count is known."""
    folder = run(tmp_path, n=1, chains=2, iterations=3, p_ic=0.5, p_ci=0.5, p_0=0.5)
    (problem,) = read_log(str(folder))
    trace = Trace(problem, Grader())
    cells = {(c["chain"], c["iteration"]): c for c in read(folder / "chains.jsonl")}
    states = [[int(cells[k, n]["correct"]) for n in range(4)] for k in (0, 1)]
    assert trace.states.tolist() == states
    verdicts, moved = trace.skill_counts()
    for state in (0, 1):
        for code, said in ((1, "pass"), (0, "fail")):
            here = [
                (k, n) for k in (0, 1) for n in range(3) if states[k][n] == state and cells[k, n]["verdict"] == said
            ]
            assert verdicts[state, code] == len(here)
            assert moved[code, state, 1] == sum(states[k][n + 1] for k, n in here)
    found = report(folder)
    pairs = [(a, b) for row in states for a, b in itertools.pairwise(row)]
    assert found["transitions"]["counts"] == {
        "ii": pairs.count((0, 0)), "ic": pairs.count((0, 1)), "ci": pairs.count((1, 0)), "cc": pairs.count((1, 1)),
    }  # fmt: skip
    assert found["run"]["calls"] == 14 and found["run"]["generated_tokens"] == 1400


def test_self_consistency_of_its_own_samples_at_equal_tokens(tmp_path):
    ours = run(tmp_path, p_ic=0.3, p_ci=0.05, p_0=0.1, wrong=1)
    single = run(tmp_path, "single", iterations=0, chains=700, p_ic=0.3, p_ci=0.05, p_0=0.1, wrong=1)
    found = report(ours, "--self-consistency", single)["vs_self_consistency"]
    assert found["basis"] == "its own samples" and found["dser"] == 1 and found["self_consistency"] == 0
    assert found["samples_mean"] == 16 * 41 and found["tokens"]["dser"] == found["tokens"]["self_consistency"]
    assert found["low"] > 0 and found["solved_that_self_consistency_missed"] == [20, 20]
    resampled = report(ours)["vs_self_consistency"]
    assert "resampled" in resampled["basis"] and resampled["self_consistency"] < 0.2


def test_reference_samples(tmp_path):
    ours = run(tmp_path, n=6, p_ic=0.9, p_ci=0.0)
    teacher = [
        {**task, "sample": s, "response": f"\\boxed{{{int(task['answer']) + (s == 0)}}}"}
        for task in tasks(4)
        for s in range(4)
    ]
    found = report(ours, "--reference", write(tmp_path / "teacher.jsonl", teacher))["vs_reference"]
    assert found["reference"] == 0.75 and found["diff"] == 0.25 and found["problems"] == 4 and found["missing"] == 2
    done = dser("report", ours, "--reference", write(tmp_path / "bad.jsonl", [{"id": 1}]))
    assert done.returncode == 2 and "bad.jsonl:1" in done.stderr


def test_report_and_vote_need_the_steps_alone(tmp_path):
    folder = run(tmp_path, n=4, p_ic=0.3, p_ci=0.1)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "steps.jsonl").write_bytes((folder / "steps.jsonl").read_bytes())
    assert report(bare) == report(folder) == report(bare / "steps.jsonl")
    assert dser("vote", bare / "steps.jsonl").stdout == (folder / "answers.jsonl").read_text()


def test_a_plot(tmp_path):
    folder = run(tmp_path, n=4, p_ic=0.3, p_ci=0.1)
    assert dser("report", folder, "--plot", tmp_path / "p.png").returncode == 0
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    assert "ending in .png or .svg" in dser("report", folder, "--plot", tmp_path / "p.gif").stderr


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "expected at least one step"),
        ("{}\n", "steps.jsonl:1"),
        ('{"id":"a","chain":0,"iteration":0,"role":"refine"}\n', "first step"),
    ],
)
def test_bad_logs(tmp_path, text, word):
    (tmp_path / "steps.jsonl").write_text(text)
    done = dser("report", tmp_path)
    assert done.returncode == 2 and word in done.stderr
    assert dser("report", tmp_path / "none").returncode == 2


def test_the_plan_spends_where_it_pays(tmp_path):
    folder = run(tmp_path, n=8, p_ic=0.12, p_ci=0.05, p_0=0.05, wrong=1)
    spent = report(folder)["run"]
    tokens = spent["generated_tokens"] + spent["prompt_tokens"]
    found = json.loads(dser("plan", folder, "--budget-tokens", tokens, "--json").stdout)
    assert found["iterations"] >= 8 and found["tokens"] <= tokens and found["p_correct"] > 0.8
    rung = {row["iterations"]: row for row in found["ladder"]}
    assert rung[0]["p_correct"] < 0.05 and rung[20]["chains"] == 16
    truth = report_of(read_log(str(folder)))["metrics"]["vote"]["value"]
    assert rung[20]["p_correct"] == pytest.approx(truth, abs=0.15)
    stay = run(tmp_path, "stay", n=8, p_ic=0.02, p_ci=0.2, p_0=0.7, wrong=1)
    assert plan_of(read_log(str(stay)), 8 * 5000)["iterations"] == 0
    assert "does not buy" in dser("plan", folder, "--budget-tokens", 10).stderr
    assert "best: --chains" in dser("plan", folder, "--budget-tokens", 400000).stdout


def test_simulate_against_its_closed_form(tmp_path):
    found = json.loads(dser("simulate", "--p-ic", 0.12, "--p-ci", 0.05, "--window", 1, "--json").stdout)
    assert [found["p_n"][n] for n in (1, 2, 10, 80)] == pytest.approx([0.12, 0.2196, 0.59636, 0.70588], abs=5e-6)
    assert found["pi_c"] == pytest.approx(0.70588, abs=5e-6) and found["lambda"] == pytest.approx(0.83)
    assert (
        abs(found["mc"]["value"] - found["majority"]) < 4 * found["mc"]["stderr"]
    )  # a window of one: independent votes
    (tmp_path / "m.json").write_text(
        json.dumps({"matrix": [[0.88, 0.04, 0.04, 0.04], [0.1, 0.9, 0, 0], [0.1, 0, 0.9, 0], [0.1, 0, 0, 0.9]]})
    )
    four = json.loads(dser("simulate", "--matrix", tmp_path / "m.json", "--window", 1, "--chains", 16, "--json").stdout)
    assert four["pi_c"] == pytest.approx(0.4545, abs=5e-5) and four["plurality_condition"]
    assert abs(four["mc"]["value"] - four["majority"]) < 4 * four["mc"]["stderr"]
    assert "stationary P(correct): 0.7059" in dser("simulate", "--p-ic", 0.12, "--p-ci", 0.05).stdout
    for options in (
        [],
        ["--p-ic", "0.1"],
        ["--matrix", tmp_path / "m.json", "--p-ic", "0.1"],
        ["--matrix", tmp_path / "no"],
    ):
        assert dser("simulate", *options).returncode == 2
    (tmp_path / "bad.json").write_text("[[1, 2]]")
    assert "--matrix" in dser("simulate", "--matrix", tmp_path / "bad.json").stderr


def test_shards_merge_to_the_whole(tmp_path):
    given, model = write(tmp_path / "t.jsonl", tasks(7)), sim(tmp_path / "s.json", p_ic=0.3, p_ci=0.1)
    options = ["--model", model, "--chains", "3", "--iterations", "3", "-q"]
    dser("solve", given, *options, "-o", tmp_path / "whole")
    for i in (1, 2, 3):
        assert dser("solve", given, *options, "--shard", f"{i}/3", "-o", tmp_path / f"part{i}").returncode == 0
    parts = [tmp_path / f"part{i}" for i in (3, 1, 2)]
    assert dser("merge", *parts, "-o", tmp_path / "merged").returncode == 0
    for name in ("answers.jsonl", "chains.jsonl"):
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert report(tmp_path / "merged") == report(tmp_path / "whole")
    assert dser("merge", *parts[:2], "-o", tmp_path / "two").returncode == 1  # a shard is missing
    assert "also in" in dser("merge", tmp_path / "whole", parts[0], "-o", tmp_path / "x").stderr
    other = run(tmp_path, "other", n=2, chains=3, iterations=4, p_ic=0.3, p_ci=0.1)
    assert "other settings" in dser("merge", parts[0], other, "-o", tmp_path / "x").stderr
    assert "exists" in dser("merge", *parts, "-o", tmp_path / "merged").stderr
    assert "two run folders" in dser("merge", parts[0], "-o", tmp_path / "x").stderr


def test_exports(tmp_path):
    folder = run(tmp_path, n=2, chains=3, iterations=2, p_ic=0.5, p_ci=0.3)
    cells = read(folder / "chains.jsonl")
    samples = records(dser("export", folder, "--to", "samples").stdout)
    assert [(s["id"], s["sample"]) for s in samples] == [(f"t{i}", k) for i in (0, 1) for k in (0, 1, 2)]
    last = {(c["id"], c["chain"]): c["answer"] for c in cells if c["iteration"] == 2}
    assert all(f"{{{last[s['id'], s['sample']]}}}" in s["response"] for s in samples)
    harness = records(dser("export", folder, "--to", "lm-eval").stdout)
    assert [len(row["resps"][0]) for row in harness] == [3, 3] and harness[0]["target"] == "1"
    assert harness[1]["filtered_resps"] == [last["t1", k] for k in (0, 1, 2)]
    rows = records(
        dser("export", folder, "--to", "triples", "-o", tmp_path / "x.jsonl").stdout
        or (tmp_path / "x.jsonl").read_text()
    )
    assert len(rows) == 2 * 3 * 2
    by = {(c["id"], c["chain"], c["iteration"]): c for c in cells}
    for row in rows:
        before, after = by[row["id"], row["chain"], row["iteration"] - 1], by[row["id"], row["chain"], row["iteration"]]
        assert (
            row["labels"]["solution_correct"] == before["correct"]
            and row["labels"]["refined_correct"] == after["correct"]
        )
        assert row["labels"]["verdict_right"] == ((before["verdict"] == "pass") == before["correct"])
        assert row["refine"]["messages"][-1]["content"] == row["refined"]
        assert row["verify"]["messages"][-1]["content"] == row["review"]


def test_reports_are_the_same_each_time(tmp_path):
    folder = run(tmp_path, n=5, p_ic=0.3, p_ci=0.1)
    assert dser("report", folder, "--json").stdout == dser("report", folder, "--json").stdout
    assert not math.isnan(report(folder, "--replicates", 100)["advice"]["change"])
