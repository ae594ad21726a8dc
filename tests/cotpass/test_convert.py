"""`cotpass convert`: what each form holds comes back, tables agree with `metric`, and bad tables are named."""

import json

import numpy as np
import pytest
from commandline import cotpass, read, write
from hypothesis import given, settings
from hypothesis import strategies as st

from cotpass.cli import main
from cotpass.convert import FORMS, LOSES, WRITERS, _grouped
from cotpass.readers import Reader
from tenfold_shared.records import validate

# What a round trip keeps, by form; everything else is what LOSES says.
KEEPS = {
    "records": {"id", "sample", "response", "answer", "prompt", "finish_reason", "correct", "votes", "mine"},
    "openai-batch": {"id", "sample", "response", "finish_reason"},
    "evalhub": {"id", "sample", "response", "answer", "correct"},
    "lm-eval": {"id", "sample", "response", "answer", "prompt"},
    "human-eval": {"id", "sample", "response", "correct"},
    "evalplus": {"id", "sample", "response", "correct"},
    "generic": {"id", "sample", "response", "answer", "prompt", "finish_reason"},
    "verl": {"response", "prompt", "correct"},
}


def sample(problem, index, response="r", correct=True, **more):
    return {
        "id": problem, "prompt": f"{problem}?", "answer": f"gold of {problem}", "sample": index,
        "response": response, "finish_reason": "stop", "correct": correct, "mine": [1], **more,
    }  # fmt: skip


def back(lines):
    """What the reader makes of written lines, correctness from a harness's verdict included."""
    found = []
    for _, record in Reader().samples((f"f:{i}", json.loads(json.dumps(line))) for i, line in enumerate(lines, 1)):
        validate(record, "sample")
        harness = (record.get("meta") or {}).get("harness_correct")
        found.append(record if harness is None else {**record, "correct": harness})
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.text(max_size=8), st.booleans(), st.sampled_from(["stop", "length"])),
        min_size=1,
        max_size=9,
    )
)
def test_what_a_form_holds_comes_back(drawn):
    used, records = {}, []
    for problem, text, correct, reason in drawn:
        used[problem] = used.get(problem, -1) + 1
        records.append(sample(problem, used[problem], text, correct, finish_reason=reason, votes=["yes"]))
    grouped = _grouped((f"f:{i}", record) for i, record in enumerate(records, 1))
    in_order = [record for group in grouped.values() for record in group]
    for form, kept in KEEPS.items():
        lines = [line for item in grouped.items() for line in WRITERS[form](*item)]
        found = back(lines)
        wanted = [{name: record[name] for name in kept} for record in in_order]
        assert [{name: record.get(name) for name in kept} for record in found] == wanted, form


def test_every_form_is_offered_and_says_what_it_loses():
    (option,) = [p for p in main.commands["convert"].params if p.name == "to"]
    assert tuple(option.type.choices) == FORMS == tuple(LOSES) and set(KEEPS) == set(WRITERS)


def test_failed_samples_and_reasoning_survive_a_batch_file():
    failed = sample("a", 0, "", finish_reason="error", error="HTTP 400")
    thought = sample("a", 1, "x", reasoning="hm")
    found = back(WRITERS["openai-batch"]("a", [failed, thought]))
    assert [(r.get("error"), r["finish_reason"], r.get("reasoning")) for r in found] == [
        ("HTTP 400", "error", None),
        (None, "stop", "hm"),
    ]


def test_several_gold_answers_come_back_where_a_form_holds_them(tmp_path):
    records = [sample("a", 0, answer=["1", "2"])]
    for form in ("lm-eval", "generic"):
        assert back(WRITERS[form]("a", records))[0]["answer"] == ["1", "2"]
    write(tmp_path / "s.jsonl", records)
    result = cotpass("convert", tmp_path / "s.jsonl", "--to", "evalhub")
    assert result.returncode == 2 and "'a': answer: this form holds one gold answer" in result.stderr


def judged(problems=5, n=6):
    rng = np.random.default_rng(3)
    made = []
    for p in range(problems):
        for i in range(n):
            right = bool(rng.random() < 0.6)
            votes = {"votes": rng.choice(["yes", "no", "abstain"], 3, p=[0.6, 0.3, 0.1]).tolist()} if right else {}
            made.append(sample(f"p,{p}", i, f"{p} {i}", right, **votes))
    return made


def test_counts_give_metric_the_same_numbers(tmp_path):
    write(tmp_path / "j.jsonl", judged())
    done = cotpass("convert", tmp_path / "j.jsonl", "--to", "counts", "-o", tmp_path / "c.csv")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "c.csv").read_text().startswith("problem,n,c,d\n")
    common = ("--json", "-q", "--max-unjudged", "1")
    one = json.loads(cotpass("metric", tmp_path / "j.jsonl", *common).stdout)
    two = json.loads(cotpass("metric", "--from-counts", tmp_path / "c.csv", *common).stdout)
    assert two["pass"] == one["pass"] and two["p_ca"] == one["p_ca"]
    assert two["cot_pass"]["counts"] == one["cot_pass"]["majority"]


@pytest.mark.parametrize("suffix", ["csv", "npy", "npz"])
def test_matrices_become_counts(tmp_path, suffix):
    # A matrix whose Pass@K are known.
    table = np.array([[0, 1, 1, 0, 1], [1, 1, 0, 1, 1], [0, 0, 0, 0, 0]])
    path = tmp_path / f"m.{suffix}"
    if suffix == "csv":
        path.write_text("\n".join(",".join(map(str, row)) for row in table) + "\n")
    elif suffix == "npy":
        np.save(path, table.astype(bool))
    else:
        np.savez(path, scores=table.astype(float))
    counts = cotpass("convert", path, "--to", "counts", "-q")
    assert counts.stdout == "problem,n,c\n1,5,3\n2,5,4\n3,5,0\n", counts.stderr
    report = json.loads(
        cotpass("metric", "--from-counts", "-", "--k", "1,2,3,4,5", "--json", stdin=counts.stdout).stdout
    )
    values = [report["pass"][str(k)]["value"] for k in range(1, 6)]
    assert values == pytest.approx([0.46667, 0.63333, 0.66667, 0.66667, 0.66667], abs=1e-5)
    again = cotpass("convert", path, "--to", "matrix", "-q").stdout
    assert [[int(cell) for cell in line.split(",")] for line in again.splitlines()] == table.tolist()


def test_matrix_from_records(tmp_path):
    write(
        tmp_path / "s.jsonl",
        [sample("a", 0), sample("b", 0, correct=False), sample("a", 1, correct=False), sample("b", 1)],
    )
    assert cotpass("convert", tmp_path / "s.jsonl", "--to", "matrix", "-q").stdout == "1,0\n0,1\n"


def test_verl_dumps_are_read_by_grade(tmp_path):
    lines = [
        {"input": f"Q{i % 2}", "output": f"\\boxed{{{i}}}", "score": [1.0, -1.0][i % 2], "gts": "0", "step": 20}
        for i in range(4)
    ]
    write(tmp_path / "20.jsonl", lines)
    done = cotpass("grade", tmp_path / "20.jsonl", "-q", "-o", tmp_path / "g.jsonl")
    assert done.returncode == 0, done.stderr
    graded = read(tmp_path / "g.jsonl")
    assert [(r["sample"], r["correct"], r["reward"], r["meta"]["step"]) for r in graded] == [
        (0, True, 1.0, 20), (0, False, -1.0, 20), (1, False, 1.0, 20), (1, False, -1.0, 20)
    ]  # fmt: skip
    assert len({r["id"] for r in graded}) == 2
    trusted = cotpass("grade", tmp_path / "20.jsonl", "-q", "--trust-grades")
    assert [json.loads(line)["correct"] for line in trusted.stdout.splitlines()] == [True, False, True, False]


@pytest.mark.parametrize(
    ("name", "text", "to", "message"),
    [
        ("m.csv", "0,1\n0,2\n", "counts", "m.csv:2: expected 0 or 1, got '2'"),
        ("m.csv", "0,1\n0\n", "counts", "m.csv:2: expected 2 columns"),
        ("m.csv", "", "counts", "m.csv: expected at least one line"),
        ("m.csv", "0,1\n", "generic", "can be converted, alone, to counts or matrix"),
        ("m.npy", "no array", "counts", "m.npy: cannot be read as a numpy array"),
        ("s.jsonl", '{"id": "a", "sample": 0, "response": "x"}\n', "human-eval", "id 'a' sample 0: correct: this form holds"),
        ("s.jsonl", '{"id": "a", "sample": 0, "response": "x", "correct": true}\n' * 2, "generic", "s.jsonl:2: id: a#0 appears twice"),
        ("s.jsonl", '{"input": "q", "output": "x", "score": null}\n', "records", "s.jsonl:1: score: expected a finite number"),
        ("s.jsonl", "".join(json.dumps(sample(p, i)) + "\n" for p, i in [("a", 0), ("a", 1), ("b", 0)]), "matrix", "matrix: expected as many samples"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_two(tmp_path, name, text, to, message):
    (tmp_path / name).write_text(text)
    result = cotpass("convert", tmp_path / name, "--to", to, "-o", tmp_path / "out")
    assert result.returncode == 2 and message in result.stderr, result.stderr
    assert result.stderr.count("\n") == 1 and not (tmp_path / "out").exists()
