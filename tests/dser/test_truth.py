"""The report against worlds whose truth is known: policies that end chains, verdicts nobody can read, problems of two
kinds, models that never move; and the advice each must give."""

import itertools
import json

import numpy as np
import pytest
from dser_command import dser, sim, tasks, write
from test_report import report, run
from test_vote import problem

from dser import markov
from dser.chain import Procedure
from dser.findings import report_of
from dser.log import Problem, Settings
from dser.plan import plan_of
from dser.simulate import run_windows
from dser.vote import vote


def drawn(skill, unknown=0.0, problems=30, chains=16, iterations=30, start=0.3, seed=0):
    """Problems under `always`, with a share of the verdicts unreadable (and refined on as if failed)."""
    rng = np.random.default_rng(seed)
    for name in range(problems):
        made = Problem(str(name), Settings(Procedure(iterations=iterations), chains), {"answer": "1"})
        for index in range(chains):
            chain, right = made.chain(index), bool(rng.random() < start)
            for n in range(iterations + 1):
                chain.cells.append("1" if right else "2")
                chain.carried.append(False)
                passed = rng.random() < (skill.tpr if right else skill.fpr)
                said = "unknown" if rng.random() < unknown else "pass" if passed else "fail"
                chain.verdicts.append(said if n < iterations else None)
                kind = "pass" if said == "pass" else "fail"
                if rng.random() < getattr(skill, f"{'ci' if right else 'ic'}_{kind}"):
                    right = not right
            chain.ended = "done"
        for role in ("solve", "verify", "refine"):
            calls = chains * (1 if role == "solve" else iterations)
            made.counts[role] = {"calls": calls, "unknown": 0}
            made.generated[role], made.prompted[role] = 10 * calls, 0
        made.lengths = [[chains, 10 * chains, 0, 0] for _ in range(iterations + 1)]
        yield made


def test_counterfactuals_count_unreadable_verdicts_as_the_run_did():
    skill = markov.Skill(0.5, 0.5, 0.02, 0.2, 0.02, 0.3)
    found = report_of(drawn(skill, unknown=0.8))
    always, chance = found["counterfactual"]["always"], found["transitions"]
    assert always["p_ic"] == pytest.approx(chance["p_ic"]["value"], abs=0.01)
    assert always["p_ci"] == pytest.approx(chance["p_ci"]["value"], abs=0.01)
    assert found["counterfactual"]["keep-on-pass"]["p_ic"] == pytest.approx(0.9 * 0.2, abs=0.01)  # a tenth passes
    gate = found["counterfactual"]["stop-on-pass:1"]
    assert gate["accuracy"] == pytest.approx(gate["replayed"]["accuracy"], abs=0.05)
    assert found["verifier"]["tpr"]["value"] == pytest.approx(0.5, abs=0.03)  # of the readable ones


def test_counterfactuals_are_means_over_problems(tmp_path):
    """Two kinds of problems: pooled chances would say about .5 where the chains go to .73."""
    easy, hard = {"p_ic": 0.6, "p_ci": 0.3, "p_0": 0.5}, {"p_ic": 0.02, "p_ci": 0.005, "p_0": 0.5}
    given = write(tmp_path / "mix.jsonl", tasks(20))
    model = sim(tmp_path / "mix.json", problems={f"t{i}": easy if i % 2 else hard for i in range(20)})
    assert dser("solve", given, "--model", model, "--iterations", 40, "-o", tmp_path / "mix", "-q").returncode == 0
    found = report(tmp_path / "mix")
    assert found["counterfactual"]["always"]["accuracy"] == pytest.approx((0.6 / 0.9 + 0.8) / 2, abs=0.06)
    limit = found["stationary"]["per_problem_mean"]
    assert limit["low"] < (0.6 / 0.9 + 0.8) / 2 < limit["high"]


GATE = {"tpr": 0.9, "fpr": 0.6, "ic_pass": 0.2, "ic_fail": 0.2, "ci_pass": 0.3, "ci_fail": 0.3}


@pytest.mark.parametrize(("p_0", "policy"), [(0.8, "stop-on-pass:1"), (0.3, "stop-on-pass:2")])
def test_a_policy_that_ends_chains_is_judged_by_where_they_end(tmp_path, p_0, policy):
    folder = run(tmp_path, n=30, iterations=15, skill=GATE, p_0=p_0, options=["--policy", policy])
    found = report(folder)
    rows, truth = found["iterations"], markov.Skill(**GATE)
    path = markov.stop_path(truth, p_0, int(policy[-1]), 15)
    for row in rows:
        assert row["accuracy"]["value"] == pytest.approx(path[row["n"]], abs=0.06)
        assert row["predicted"]["low"] - 0.04 < path[row["n"]] < row["predicted"]["high"] + 0.04
    assert found["stationary"]["per_problem_mean"]["value"] == rows[-1]["accuracy"]["value"]
    assert found["stationary"]["pooled"] is None and "end" in found["stationary"]["note"]
    change = rows[-1]["accuracy"]["value"] - rows[0]["accuracy"]["value"]
    assert found["advice"]["change"] == pytest.approx(change, abs=1e-4)
    assert found["advice"]["verdict"] != "do_not_iterate" and policy in found["advice"]["text"]


def test_frozen_chains_are_one_vote_each():
    rows = [["1"]] * 9 + [["2"]] * 7
    ended = problem(rows, 10, "stop-on-pass", iterations=10, ended=["accepted"] * 16)
    now, plain = vote(ended), vote(problem(rows, 1))
    assert now.votes == 160 and now.effective_votes == plain.effective_votes == 16
    assert now.confidence == pytest.approx(plain.confidence)
    stable = problem(
        [["2", "1", "1"]] * 9 + [["1", "2", "2"]] * 7, 10, "stop-on-stable", iterations=20, ended=["stable"] * 16
    )
    assert vote(stable).effective_votes == 16


def test_the_spokesman_is_in_the_window():
    gone = vote(problem([["1", "2", "3"], ["4", "1", "5"], ["6", "1", "7"]], 2))
    assert (gone.answer, gone.chain, gone.iteration) == ("1", 1, 1)


def test_reviews_at_an_early_stop_are_chance_and_do_not_count():
    verdicts = [["pass", "pass", None], ["fail", None, None]]
    rows = [["2", "2", "2"], ["1", "1", "1"]]
    late = [["pass", "pass", None], ["fail", "pass", None]]
    for one in (verdicts, late):
        found = vote(problem(rows, 2, verdicts=one), upto=1)
        assert [(c["answer"], c["passes"]) for c in found.counts] == [("2", 1), ("1", 0)]
    ended = problem([["1", "1"]], 1, "stop-on-pass", iterations=5, ended=["accepted"])
    assert vote(ended, rule="accepted", upto=2).answer == "1" and vote(ended, rule="accepted", upto=1).answer is None


@pytest.mark.parametrize(
    ("world", "size", "verdict"),
    [
        ({"p_ic": 0.0, "p_ci": 0.5, "p_0": 0.0}, (20, 16, 10), "no_effect_seen"),  # never right, never moves
        ({"p_ic": 0.0, "p_ci": 0.5, "p_0": 0.0}, (3, 2, 1), "no_effect_seen"),
        ({"p_ic": 0.0, "p_ci": 0.0, "p_0": 1.0}, (20, 16, 10), "no_effect_seen"),  # never wrong, never moves
        ({"p_ic": 0.02, "p_ci": 0.5, "p_0": 0.15, "wrong": 9}, (16, 4, 3), "do_not_iterate"),  # as SmolLM2 on sums
        (
            {"p_ic": 0.02, "p_ci": 0.2, "p_0": 0.0, "wrong": 9},
            (20, 16, 10),
            "iterate",
        ),  # p_IC < p_CI, and yet nothing to lose
    ],
)
def test_advice_rests_on_what_was_seen(tmp_path, world, size, verdict):
    n, chains, iterations = size
    advice = report(run(tmp_path, n=n, chains=chains, iterations=iterations, **world))["advice"]
    assert advice["verdict"] == verdict, advice
    assert advice["low"] < advice["high"]
    if verdict == "do_not_iterate":
        assert advice["text"].startswith("Iteration will hurt: ")


def test_figures_of_stability(tmp_path):
    """By hand from chains.jsonl: churn, first hits, stays, ends; Pass@1 over the window; what the vote solved."""
    folder = run(tmp_path, n=6, chains=4, iterations=5, p_ic=0.4, p_ci=0.3, p_0=0.3, options=["--window", "3"])
    cells = [json.loads(line) for line in (folder / "chains.jsonl").read_text().splitlines()]
    rows = {}
    for cell in cells:
        rows.setdefault((cell["id"], cell["chain"]), []).append(cell)
    states = np.array([[int(c["correct"]) for c in row] for row in rows.values()])
    changed = np.array([[a["answer"] != b["answer"] for a, b in itertools.pairwise(r)] for r in rows.values()])
    found = report(folder)
    stable, metrics = found["stability"], found["metrics"]
    assert stable["by_iteration"]["changed"] == [None, *(round(float(x), 5) for x in changed.mean(0))]
    assert stable["by_iteration"]["tokens"] == [100.0] * 6 and stable["by_iteration"]["truncated"] == [0.0] * 6
    hit = states.any(1)
    assert stable["ever_right"] == round(float(hit.mean()), 5)
    assert stable["first_right"] == round(float(states.argmax(1)[hit].mean()), 5)
    assert stable["end_right"] == round(float(states[:, -1].mean()), 5)
    for name, state in (("stay_wrong", 0), ("stay_right", 1)):
        here = states == state
        stays = here[:, 0].sum() + (here[:, 1:] & ~here[:, :-1]).sum()
        assert stable[name] == round(float(here.sum() / stays), 3)
    assert metrics["pass_at_1_window"]["value"] == pytest.approx(states[:, -3:].mean(), abs=1e-5)
    solved, of = metrics["solved_that_first_majority_missed"]
    lost, had = metrics["lost_that_first_majority_had"]
    assert of + had == 6 and solved - lost == round(metrics["vote"]["value"] * 6) - had
    low, high = found["stationary"]["pooled"]["by_chain"]
    assert low < found["stationary"]["pooled"]["value"] < high


def test_nobody_having_an_answer_is_not_being_right():
    assert run_windows([[0.5, 0.5], [0.01, 0.99]], [0, 1], 1, 0, 1, 1000, 0, mute=1).mean() == 0
    made = list(drawn(markov.Skill(0.5, 0.5, 0.1, 0.1, 0.1, 0.1), problems=1, chains=8, iterations=7, start=0.0))
    for index, chain in made[0].chains.items():
        chain.cells = [None] * 8
        if index == 0:
            chain.cells[3] = "1"
    found = plan_of(made, 10 * 8)
    assert all(rung["p_correct"] < 0.5 for rung in found["ladder"])


def test_plan_costs_are_those_of_the_policy(tmp_path):
    folder = run(tmp_path, n=5, skill=GATE, p_0=0.3, options=["--policy", "keep-on-pass"])
    spent = report(folder)["run"]
    tokens = spent["generated_tokens"] + spent["prompt_tokens"]
    found = json.loads(dser("plan", folder, "--budget-tokens", tokens, "--json").stdout)
    (rung,) = (row for row in found["ladder"] if row["iterations"] == 20)
    assert rung["chains"] == 16 and rung["tokens"] == pytest.approx(tokens, rel=1e-6)
    stopped = run(tmp_path, "stop", n=2, skill=GATE, options=["--policy", "stop-on-pass:1"])
    assert "end by themselves" in dser("plan", stopped, "--budget-tokens", 10**6).stderr
    never = run(tmp_path, "never", n=2, p_ic=0.0, p_ci=0.5, p_0=0.0)
    assert "never given" in dser("plan", never, "--budget-tokens", 10**6).stderr


def test_many_votes_do_not_overflow(tmp_path):
    for votes in (171, 400, 1000):
        assert markov.plurality([0.52, 0.48], votes) == pytest.approx(markov.majority(0.52, votes), abs=1e-9)
    (tmp_path / "m.json").write_text('{"matrix": [[0.9, 0.1], [0.2, 0.8]], "initial": [0.1, 0.9]}')
    assert dser("simulate", "--matrix", tmp_path / "m.json", "--chains", 300, "--runs", 100, "--json").returncode == 0


@pytest.mark.parametrize("initial", ['["a", "b"]', "[1.5, -0.5]", "[null, 1]", "{}", "[0.5]", "[1e400, 0]"])
def test_bad_starts_are_named(tmp_path, initial):
    (tmp_path / "m.json").write_text(f'{{"matrix": [[0.9, 0.1], [0.2, 0.8]], "initial": {initial}}}')
    done = dser("simulate", "--matrix", tmp_path / "m.json")
    assert done.returncode == 2 and "initial" in done.stderr and "Traceback" not in done.stderr


def test_a_lost_call_is_no_stability():
    from dser.chain import Chain, Step

    chain = Chain(Procedure(iterations=5, policy="stop-on-stable"))
    answers = iter(["1", None, "2", "2"])
    while chain.next is not None:
        role, n = chain.next
        answer = next(answers) if role != "verify" else None
        kept = role != "verify" and answer is None
        chain.take(Step(id="p", chain=0, iteration=n, role=role, text="x", answer=answer, kept=kept, verdict="fail"))
    assert chain.ended == "stable" and chain.cells == ["1", "1", "2", "2"]


def test_a_truncated_improvement_is_dropped():
    from dser.chain import Chain, Step

    chain = Chain(Procedure(iterations=1, improve=True, force_answer=True))
    roles = []
    while chain.next is not None and len(roles) < 10:
        role, n = chain.next
        roles.append(role)
        lost = role == "improve"
        chain.take(Step(id="p", chain=0, iteration=n, role=role, text="x", answer="1", kept=lost, truncated=lost))
    assert roles == ["solve", "improve", "verify", "refine"] and chain.ended == "done"


def test_imo25_on_a_simulated_model(tmp_path):
    """A perfect verifier and a good refiner: chains are accepted, and what is accepted is right."""
    folder = run(
        tmp_path, n=4, chains=4, iterations=30, p_ic=0.9, p_ci=0.1, tpr=1.0, fpr=0.0, options=["--preset", "imo25"]
    )
    found = report(folder)
    assert found["run"]["ended"].get("accepted") == 16 and found["metrics"]["vote"]["value"] == 1


def test_samples_of_other_problems_are_refused(tmp_path):
    folder = run(tmp_path, n=3, p_ic=0.3, p_ci=0.1)
    other = write(tmp_path / "o.jsonl", [{"id": "elsewhere", "response": "\\boxed{1}"}])
    for option in ("--reference", "--self-consistency"):
        done = dser("report", folder, option, other)
        assert done.returncode == 2 and f"{option} {other}" in done.stderr


def test_a_model_without_any_answer_is_reported_on(tmp_path):
    from dser_command import Server

    with Server(lambda body: "I do not know.") as server:
        given = write(tmp_path / "t.jsonl", tasks(2))
        done = dser(
            "solve", given, "--model", server.uri, "--chains", 2, "--iterations", 1, "-o", tmp_path / "run", "-q"
        )
    assert done.returncode == 1
    told = dser("report", tmp_path / "run")
    assert told.returncode == 0 and told.stderr == "" and told.stdout.startswith("No gain seen")


def test_votes_by_acceptance_need_a_policy_that_accepts(tmp_path):
    folder = run(tmp_path, n=2, p_ic=0.3, p_ci=0.1)
    done = dser("vote", folder, "--vote", "accepted")
    assert done.returncode == 2 and "never accepted" in done.stderr


def test_seeds_ignored_are_told_of_long_chains(tmp_path):
    from dser_command import Server, kind_of

    long = "The same words. " * 20 + r"\boxed{1}"
    with Server(lambda body: "VERDICT: PASS" if kind_of(body) == "verify" else long) as server:
        given = write(tmp_path / "t.jsonl", tasks(1))
        done = dser("solve", given, "--model", server.uri, "--chains", 2, "--iterations", 4, "--window", 1, "-q")
    assert "does the server heed seeds" in done.stderr
