"""`keychain-synth score`: records in and out, foreign forms, the summary, --stress, and the command itself."""

import gzip
import json
import re
import subprocess

import pytest
from rows import BIN, keychain, read, write

from keychain_synth.cli import main
from keychain_synth.score import (
    COMPARED,
    EXPLOITS,
    LABELLED,
    Reader,
    Settings,
    Summary,
    as_trajectories,
    as_verdict,
    evaluate,
    grouped,
    read_gold,
    stressed,
)
from tenfold_shared import BadInput
from tenfold_shared.records import validate

command = pytest.mark.skipif("score" not in main.commands, reason="the command has no `score` yet")


def sample(identity="q1", index=0, response=r"<think>x</think>\boxed{Edward Snowden}", answer="Edward Snowden", **more):
    return {"id": identity, "sample": index, "prompt": "Who?", "answer": answer, "response": response, **more}


# ---- one sample


def test_a_sample_gets_reward_and_correct_and_keeps_the_rest():
    record = sample(response=r"</think>\boxed{e}", extra={"kept": 1})
    for rule, reward in (("two-way", 1.0), ("two-way-guarded", 0.0), ("exact", 0.0)):
        [verdict] = as_verdict(record, [evaluate(record, Settings(rule))])
        assert verdict == {**record, "schema": "verdict/1", "reward": reward, "correct": reward == 1}
        validate(verdict, "verdict")


def test_f1_is_correct_from_its_threshold_on():
    record = sample(response=r"\boxed{new york city}", answer="new york")
    for threshold, correct in ((0.5, True), (0.8, True), (0.81, False)):
        found = evaluate(record, Settings("f1", threshold))
        assert found["reward"] == pytest.approx(0.8) and found["correct"] is correct


@pytest.mark.parametrize(
    ("response", "reasoning", "think", "thought", "answer"),
    [
        (r"\boxed{x}", None, None, True, "x"),
        (r"\boxed{x}", None, True, False, None),
        (r"\boxed{x}", "hm", True, True, "x"),  # the server split the thinking off
        (r"<think>\boxed{x}", None, None, False, None),
        (r"<think>\boxed{x}", None, False, True, "x"),
        ("x", None, None, True, None),
    ],
)
def test_thinking_and_boxes(response, reasoning, think, thought, answer):
    found = evaluate(sample(response=response, reasoning=reasoning, answer="x"), Settings(require_think=think))
    assert (found["thought"], found["answer"], found["reward"]) == (thought, answer, float(answer is not None))


def test_all_answers_where_meta_says_so():
    record = sample(answer=["1", "2"], response=r"\boxed{2}")
    assert evaluate(record, Settings())["reward"] == 1
    assert evaluate({**record, "meta": {"match": "all"}}, Settings())["reward"] == 0
    assert evaluate({**record, "meta": {"match": "all"}, "response": r"\boxed{2, 1}"}, Settings())["reward"] == 1


def test_failed_samples_and_missing_golds_get_no_reward():
    summary = Summary(Settings("exact"))
    records = [
        sample(), sample(response=r"\boxed{Snowden}"), sample(response="none"), sample(response="<think>"),
        sample(response="", error="timeout"), sample(finish_reason="error"), sample(answer=None), sample(answer=[]),
    ]  # fmt: skip
    for record in records:
        found = evaluate(record, Settings("exact"))
        [verdict] = as_verdict(record, [found])
        assert ("reward" in verdict) == ("correct" in verdict) == ("skipped" not in found)
        summary.take(found)
    result = summary.result()
    means = result.pop("by_reward")
    assert result == {
        "n": 4, "reward": "exact", "mean_reward": 0.25, "correct": 1, "no_box": 1, "no_think": 1, "failed_samples": 2,
        "no_gold": 2,
    }  # fmt: skip
    assert means == {
        "two-way": 0.5, "two-way-guarded": 0.5, "exact": 0.25, "f1": pytest.approx((1 + 2 / 3) / 4), "one-way": 0.25,
        "one-way-guarded": 0.25,
    }  # fmt: skip
    assert Summary(Settings()).result()["mean_reward"] is None


# ---- foreign forms


def samples(*objects, gold=None, name="file.jsonl"):
    located = [(f"{name}:{at}", json.loads(json.dumps(one))) for at, one in enumerate(objects, 1)]
    found = [record for _, record in Reader(gold).samples(located)]
    for record in found:
        validate(record, "sample")
    return found


def brief(records):
    return [(r["id"], r["sample"], r["response"], r.get("answer")) for r in records]


def rolled(text, answer, sub_em, em, f1, is_correct):
    scores = {"sub_em": sub_em, "em": em, "f1": f1, "is_correct": is_correct}
    return {"text": text, "extracted_answer": answer, **scores}


KEYCHAIN = {
    "index": 7, "input": "Who?", "context": "long " * 50, "answers": ["Snowden", "Ed"], "length": 4096, "model": "m",
    "trajectories": [
        rolled(r"<think>a</think>\boxed{Snowden}", "Snowden", 1, 1, 1.0, 1),
        rolled(r"<think>a</think>\boxed{e}", "e", 1, 0, 0.0, 1),
        rolled(r"<think>a \boxed{Snowden}", None, 0, 0, 0.0, 0),
    ],
    "num_correct": 2, "pass_rate": 0.6667,
}  # fmt: skip

CHOICES = [
    {"message": {"content": r"\boxed{x}", "reasoning_content": "hm"}, "finish_reason": "stop"},
    {"message": {"content": None}, "finish_reason": "length"},
]
BATCH = {"custom_id": "q1", "response": {"status_code": 200, "body": {"model": "m", "choices": CHOICES}}, "error": None}
LM_EVAL = {"doc_id": 3, "target": ["x", "y"], "resps": [[r"\boxed{x}", "z"]], "filter": "none"}


def test_trajectories_of_the_keychain_repository():
    found = samples(KEYCHAIN)
    assert [one["sample"] for one in found] == [0, 1, 2]
    assert found[0]["id"] == "7" and found[0]["prompt"] == "Who?" and found[0]["answer"] == ["Snowden", "Ed"]
    [verdict] = as_verdict(found[0], [evaluate(found[0], Settings())])
    assert verdict["meta"] == {"source": "keychain"} and "context" not in json.dumps(verdict)


def test_trajectories_come_back_as_they_were():
    """With the reward that repository uses, what it wrote is what we write."""
    for rule, right in (("two-way", [1, 1, 0]), ("exact", [1, 0, 0])):
        [(_, group)] = grouped([("f:1", one) for one in samples(KEYCHAIN)])
        results = [evaluate(one, Settings(rule, require_think=True)) for one in group["samples"]]
        [row] = as_trajectories(group, results)
        wanted = json.loads(json.dumps(KEYCHAIN))
        for one, is_correct in zip(wanted["trajectories"], right, strict=True):
            one["is_correct"] = is_correct
        assert row == {**wanted, "num_correct": sum(right), "pass_rate": round(sum(right) / 3, 4)}


def test_our_records_as_trajectories():
    records = [
        sample(),
        sample(index=1, response="", error="x"),
        sample(index=2, response=r"\boxed{x}", reasoning="hm"),
    ]
    located = [("f:1", record) for record in [*records, sample("q2", answer=None)]]
    first, second = (group for _, group in grouped(located))
    [row] = as_trajectories(first, [evaluate(one, Settings()) for one in first["samples"]])
    assert (row["index"], row["input"], row["answers"]) == ("q1", "Who?", ["Edward Snowden"])
    assert [one["text"] for one in row["trajectories"]] == [records[0]["response"], r"<think>hm</think>\boxed{x}"]
    assert (row["num_correct"], row["pass_rate"]) == (1, 0.5)
    [row] = as_trajectories(second, [evaluate(one, Settings()) for one in second["samples"]])
    assert row["answers"] == [] and row["trajectories"][0]["is_correct"] == 0
    with pytest.raises(
        BadInput, match=r"^f:9: id: q1#0 appears twice; ids \(and samples within an id\) must be unique$"
    ):
        list(grouped([("f:1", sample()), ("f:9", sample())]))


def test_batch_output_takes_its_gold_from_a_file(tmp_path):
    task = {"id": "q1", "prompt": "P", "answer": ["x"], "meta": {"match": "all"}}
    gold = read_gold(str(write(tmp_path / "gold.jsonl", [task])))
    found = samples(BATCH, BATCH, gold=gold)
    assert brief(found) == [("q1", at, text, ["x"]) for at, text in enumerate([r"\boxed{x}", "", r"\boxed{x}", ""])]
    assert found[0]["reasoning"] == "hm" and found[0]["model"] == "m" and found[1]["finish_reason"] == "length"
    assert found[0]["meta"] == {"match": "all", "source": "openai-batch"} and found[0]["prompt"] == "P"
    for broken in (
        {**BATCH, "error": {"message": "full"}, "response": None},
        {**BATCH, "response": {"status_code": 500, "body": {"error": {"message": "full"}}}},
    ):
        [record] = samples(broken)
        assert record["error"] == "full" and evaluate(record, Settings()) == {"skipped": "failed"}


def test_lm_eval_samples():
    found = samples(LM_EVAL, {**LM_EVAL, "filter": "strict"}, {**LM_EVAL, "doc_id": 4, "target": "x"})
    assert brief(found) == [
        ("3", 0, r"\boxed{x}", ["x", "y"]), ("3", 1, "z", ["x", "y"]),
        ("4", 0, r"\boxed{x}", ["x"]), ("4", 1, "z", ["x"]),
    ]  # fmt: skip
    [first, _] = samples(LM_EVAL, name="out/samples_hotpotqa_2026-01-02T03-04-05.678.jsonl")
    assert first["id"] == "hotpotqa/3"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "x"}, "no known sample format; expected our records (id, sample, response) or one of "
         "keychain, openai-batch, lm-eval; found the fields text"),
        ({"trajectories": []}, "index: required field is missing"),
        ({"index": 1, "trajectories": {}}, "trajectories: expected a list"),
        ({"index": 1, "trajectories": [{"text": "a"}, {"text": 1}]}, "trajectories[1].text: expected text"),
        ({"index": 1, "trajectories": ["a"]}, "trajectories[0].text: expected text"),
        ({"custom_id": "a", "response": []}, "response: expected an object"),
        ({"custom_id": "a", "response": {"body": {}}}, "response.body.choices: expected a list"),
        ({"custom_id": "a", "response": {"body": {"choices": [1]}}}, "response.body.choices: expected an object"),
        ({"custom_id": "a", "response": {"body": {"choices": [{"message": "x"}]}}},
         "response.body.choices.message: expected an object"),
        ({**LM_EVAL, "resps": [[[-1.5, False]]]},
         "resps: expected generated text; this looks like a log-likelihood task"),
    ],
)  # fmt: skip
def test_bad_forms(record, message):
    with pytest.raises(BadInput, match="^" + re.escape(f"file.jsonl:1: {message}") + "$"):
        samples(record)


def test_bad_gold(tmp_path):
    gold = write(tmp_path / "gold.jsonl", [{"id": "q2", "answer": "x"}, {"id": "q3"}])
    with pytest.raises(BadInput, match=r"gold.jsonl:2: expected a gold record with `id` and `answer`$"):
        read_gold(str(gold))
    gold = write(tmp_path / "gold.jsonl", [{"id": "q2", "answer": "x"}] * 2)
    with pytest.raises(BadInput, match=r"gold.jsonl:2: id: q2 appears twice; ids must be unique$"):
        read_gold(str(gold))
    with pytest.raises(BadInput, match=r"^file.jsonl:1: id 'q1' is not in the --gold file$"):
        samples(sample(), gold={"q2": {"answer": "x"}})


# ---- the rewards' own test


def test_the_exploits_and_the_rates():
    report = stressed(Settings())
    assert [(each["gold"], each["prediction"]) for each in report["exploits"]] == EXPLOITS
    assert all(
        each["rewards"]["two-way"] == 1 and each["rewards"]["two-way-guarded"] == 0 for each in report["exploits"]
    )
    assert report["labelled"] == {"n": 98, "right": 47, "wrong": 51} and len(LABELLED) == 98
    told = {rule: (each["false_positives"], each["false_negatives"]) for rule, each in report["rates"].items()}
    assert told == {
        "two-way": (41, 15), "two-way-guarded": (10, 17), "exact": (1, 36), "f1": (25, 12), "one-way": (21, 21),
        "one-way-guarded": (21, 21),
    }  # fmt: skip
    assert report["rates"]["two-way"]["false_positive_rate"] == 41 / 51
    assert stressed(Settings(f1_threshold=1))["rates"]["f1"]["false_positives"] < 25


# ---- the command


def data(tmp_path, n=40):
    said = (r"<think>x</think>\boxed{{Answer {}}}", r"\boxed{{{}}}", "no box {}", r"<think>\boxed{{Answer {}}}")
    rows = [
        sample(f"q{at}", index, said[index].format(at), [f"Answer {at}"], meta={"at": at})
        for at in range(n)
        for index in range(4)
    ]
    return write(tmp_path / "samples.jsonl", rows)


@command
def test_filter_and_summary(tmp_path):
    path = data(tmp_path)
    done = keychain("score", path, "--json")
    assert done.returncode == 0, done.stderr
    rows, result = [json.loads(line) for line in done.stdout.splitlines()], json.loads(done.stderr)
    assert [row["reward"] for row in rows] == [1.0, 1.0, 0.0, 0.0] * 40
    assert [{k: v for k, v in row.items() if k not in ("reward", "correct", "schema")} for row in rows] == read(path)
    assert result["n"] == 160 and result["mean_reward"] == 0.5 and result["correct"] == 80
    assert result["no_box"] == result["no_think"] == 40 and result["by_reward"]["exact"] == 0.25
    assert keychain("score", stdin=path.read_text(), env={"PYTHONHASHSEED": "7"}).stdout == done.stdout
    told = keychain("score", path, "--reward", "exact", "--no-require-think").stderr
    assert told == (
        "keychain-synth: 160 samples, mean exact reward 0.500, 80 correct, 40 without a final answer, "
        "0 with open thinking\n"
    )
    strict = keychain("score", path, "--require-think", "--json", "-q")
    assert json.loads(strict.stderr)["no_think"] == 120


@command
def test_output_file_shards_and_continuation(tmp_path):
    path, out = data(tmp_path), tmp_path / "scored.jsonl.gz"
    done = keychain("score", path, "-o", out, "--reward", "two-way-guarded", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["reward"] == "two-way-guarded" and done.stderr == ""
    whole = gzip.decompress(out.read_bytes()).decode()
    manifest = json.loads((tmp_path / "scored.jsonl.gz.manifest.json").read_text())
    assert manifest["verb"] == "score" and manifest["counts"]["n"] == 160 and manifest["counts"]["failed"] == 0
    assert keychain("score", path, "-o", out, "--reward", "two-way-guarded").stderr.endswith("nothing to do\n")
    other = keychain("score", path, "-o", out)
    assert other.returncode == 2 and 'was made with --reward "two-way-guarded", this one has unset' in other.stderr
    parts = [
        keychain("score", path, "--reward", "two-way-guarded", "-q", "--shard", f"{i}/3").stdout for i in (1, 2, 3)
    ]
    assert "".join(parts) == whole
    assert keychain("score", path, "-q", "--limit", 3).stdout.count("\n") == 3


@command
def test_continues_after_a_stop(tmp_path):
    path, out = data(tmp_path, 400), tmp_path / "scored.jsonl"
    stopped = keychain("score", path, "-o", out, "--max-time", "0.001s")
    assert stopped.returncode == 1 and not out.exists() and "run the same command again" in stopped.stderr
    assert keychain("score", path, "-o", out, "-q").returncode == 0
    assert out.read_text() == keychain("score", path, "-q").stdout


@command
def test_bad_lines_and_closed_pipes(tmp_path):
    path = data(tmp_path)
    with path.open("a") as stream:
        stream.write('{"id": "x"\n' + json.dumps(sample("y", -1)) + "\n")
    bad = keychain("score", path)
    assert bad.returncode == 2 and "samples.jsonl:161: expected one JSON object a line" in bad.stderr
    assert keychain("score", path, "--skip-bad", 1).returncode == 2
    two = keychain("score", path, "--skip-bad", 2)
    assert two.returncode == 0 and two.stdout.count("\n") == 160 and two.stderr.count("skipped: ") == 2
    twice = keychain("score", "-", stdin=2 * (json.dumps(sample()) + "\n"))
    assert twice.returncode == 2 and "<stdin>:2: id: q1#0 appears twice" in twice.stderr
    pipe = f"'{BIN}' score '{data(tmp_path, 4000)}' -q | head -1"
    done = subprocess.run(pipe, shell=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.count("\n") == 1 and done.stderr == ""


@command
def test_missing_golds_are_exit_one(tmp_path):
    path = write(tmp_path / "batch.jsonl", [BATCH])
    done = keychain("score", path, "-q")
    assert (
        done.returncode == 1 and done.stderr == "keychain-synth: 2 samples have no gold answer; --gold FILE gives it\n"
    )
    assert all("reward" not in row and "error" not in row for row in map(json.loads, done.stdout.splitlines()))
    gold = write(tmp_path / "gold.jsonl", [{"id": "q1", "answer": "x"}])
    done = keychain("score", path, "--gold", gold, "-q", "--require-think")
    assert done.returncode == 0 and [json.loads(line)["reward"] for line in done.stdout.splitlines()] == [1, 0]


@command
def test_trajectories_in_and_out(tmp_path):
    path = write(tmp_path / "t.jsonl", [KEYCHAIN, {**KEYCHAIN, "index": 8}])
    done = keychain("score", path, "--to", "keychain", "--require-think", "-q")
    assert done.returncode == 0 and [json.loads(line) for line in done.stdout.splitlines()] == read(path)
    shard = keychain("score", path, "--to", "keychain", "--shard", "1/2")
    assert shard.returncode == 2 and "--shard: --to keychain writes one line a task" in shard.stderr
    out = tmp_path / "out.jsonl"
    assert keychain("score", path, "--to", "keychain", "--reward", "exact", "-o", out, "-q").returncode == 0
    assert [row["pass_rate"] for row in read(out)] == [0.3333] * 2
    again = keychain("score", out, "--reward", "exact", "-q")
    assert [json.loads(line)["reward"] for line in again.stdout.splitlines()] == [1, 0, 0] * 2


@command
def test_stress(tmp_path):
    report = json.loads(keychain("score", "--stress", "--json").stdout)
    assert report == stressed(Settings()) and set(report["rates"]) == set(COMPARED)
    shown = keychain("score", "--stress", env={"COLUMNS": "120"}).stdout
    assert "Paris or London or Rome" in shown and "41 (80%)" in shown and "10 (20%)" in shown
    for args in ((data(tmp_path), "--stress"), ("--stress", "-o", tmp_path / "x")):
        done = keychain("score", *args)
        assert done.returncode == 2 and "--stress: has a table of its own; leave out the files and -o" in done.stderr


@command
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--reward", "bleu"], "'bleu' is not one of"),
        (["--f1-threshold", "nan"], "expected a finite number"),
        (["--f1-threshold", "0"], "0"),
        (["--to", "verl"], "'verl' is not one of"),
        (["--gold", "none.jsonl"], "none.jsonl: no such file"),
    ],
)
def test_bad_options(tmp_path, args, message):
    done = keychain("score", data(tmp_path), *args)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""


# ---- rows that say which reward they get


def told(name, gold, said, **meta):
    return {"id": name, "prompt": "Q?", "answer": gold, "sample": 0, "response": f"\\boxed{{{said}}}",
            "finish_reason": "stop", "meta": meta}  # fmt: skip


def test_a_rows_data_source_tells_its_reward(tmp_path):
    """As for a trainer: the option A is no article, 1/2 is 0.5, several values are wanted together."""
    made = [
        told("wrong-choice", ["A"], "(D)", data_source="custom_mathqa_choice_x"),
        told("right-choice", ["A"], "(A)", data_source="custom_mathqa_choice_x"),
        told("math", ["1/2"], "0.5", data_source="custom_math_x"),
        told("values", ["12", "34"], "12", data_source="custom_rulerniah_multivalue"),
        told("plain", ["Rome"], "Rome, Italy"),
        told("odd", ["Rome"], "Rome", data_source=5),
    ]
    done = keychain("score", write(tmp_path / "s.jsonl", made), "-o", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    rewards = {row["id"]: row["reward"] for row in read(tmp_path / "out")}
    assert rewards == {"wrong-choice": 0, "right-choice": 1, "math": 1, "values": 0, "plain": 1, "odd": 1}
    found = json.loads(done.stdout)
    assert found["reward"] == "choice, math, multi-value, two-way" and found["mean_reward"] == pytest.approx(4 / 6)
    done = keychain("eval", tmp_path / "s.jsonl", "-o", tmp_path / "eval", "-q")
    assert {row["id"]: row["reward"] for row in read(tmp_path / "eval")} == rewards
    done = keychain("score", tmp_path / "s.jsonl", "--reward", "choice", "-q")
    assert [json.loads(line)["reward"] for line in done.stdout.splitlines()] == [0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"doc_id": 1, "resps": [["x"]], "target": {"a": "x"}}, "target: gold answer: expected text"),
        ({"index": 1, "trajectories": [], "answers": {"a": 1}}, None),
        ({"index": 1, "trajectories": [{"text": "x"}], "answers": {"a": 1}}, "answers: gold answer: expected text"),
        ({"index": 1, "trajectories": [{"text": 5}], "answers": ["a"]}, "trajectories[0].text: expected text"),
    ],
)
def test_objects_of_others_that_are_malformed(tmp_path, line, message):
    path = write(tmp_path / "s.jsonl", [line, told("good", ["a"], "a")])
    done = keychain("score", path, "-q")
    assert "Traceback" not in done.stderr
    if message is None:
        assert done.returncode == 0
        return
    assert done.returncode == 2 and f"s.jsonl:1: {message}" in done.stderr
    done = keychain("score", path, "-q", "--skip-bad", "1")
    assert done.returncode == 0 and [json.loads(each)["id"] for each in done.stdout.splitlines()] == ["good"]


def test_a_gold_file_that_is_malformed_is_named(tmp_path):
    gold = write(tmp_path / "gold.jsonl", [{"id": "a", "answer": [{"x": 1}]}])
    done = keychain("score", write(tmp_path / "s.jsonl", [told("a", None, "x")]), "--gold", gold)
    assert done.returncode == 2 and "gold.jsonl:1: answer: gold answer: expected text" in done.stderr


def test_a_limit_may_part_a_task(tmp_path):
    done = keychain("score", write(tmp_path / "s.jsonl", [told("a", "x", "x")]), "--to", "keychain", "--limit", "1")
    assert done.returncode == 2 and "--limit: --to keychain writes one line a task" in done.stderr
