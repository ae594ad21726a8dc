"""Each foreign sample file of the README's table, as its producer writes it, read as our records."""

import json

import pytest

from cotpass.readers import Reader, read_gold
from tenfold_shared import BadInput
from tenfold_shared.records import validate


def read(*objects, gold=None, name="file.jsonl"):
    located = [(f"{name}:{i}", json.loads(json.dumps(one))) for i, one in enumerate(objects, 1)]
    found = [record for _, record in Reader(gold).samples(located)]
    for record in found:
        validate(record, "sample")
    return found


def brief(records):
    return [(r["id"], r["sample"], r["response"], r.get("answer")) for r in records]


LM_EVAL = {
    "doc_id": 7,
    "doc": {"question": "2+40?"},
    "target": "42",
    "arguments": {"gen_args_0": {"arg_0": "Q: 2+40?", "arg_1": {"until": ["\n"]}}},
    "resps": [["\\boxed{42}", "\\boxed{41}", "42"]],
    "filtered_resps": ["42"],
    "filter": "strict-match",
}


def test_lm_eval_reads_all_repeats_not_the_filtered_one():
    found = read(LM_EVAL, {**LM_EVAL, "filter": "flexible-extract"})
    assert brief(found) == [("7", 0, "\\boxed{42}", "42"), ("7", 1, "\\boxed{41}", "42"), ("7", 2, "42", "42")]
    assert found[0]["prompt"] == "Q: 2+40?"


def test_lm_eval_task_name_comes_from_the_file_name_and_old_arguments_are_read():
    old = {**LM_EVAL, "arguments": [["Q: old", {"until": []}]], "target": 42}
    (first, *_) = read(old, name="out/samples_gsm8k_2025-01-02T03-04-05.678.jsonl")
    assert (first["id"], first["prompt"], first["answer"]) == ("gsm8k/7", "Q: old", "42")


def test_lm_eval_loglikelihood_tasks_are_refused():
    with pytest.raises(BadInput, match=r"file.jsonl:1: resps: expected generated text"):
        read({**LM_EVAL, "resps": [[[-1.5, False]], [[-2.5, True]]]})


def batch(custom_id, *texts, **more):
    choices = [{"index": i, "message": {"content": t}, "finish_reason": "stop"} for i, t in enumerate(texts)]
    return {
        "custom_id": custom_id,
        "response": {"status_code": 200, "body": {"model": "m", "choices": choices}},
        "error": None,
        **more,
    }


def test_openai_batch_takes_its_gold_from_the_gold_file(tmp_path):
    (tmp_path / "gold.jsonl").write_text(
        '{"id": "p1", "answer": "4", "messages": [{"role": "user", "content": "2+2?"}]}\n'
    )
    gold = read_gold(str(tmp_path / "gold.jsonl"))
    found = read(batch("p1", "\\boxed{4}", None), batch("p1", "5"), gold=gold)
    assert brief(found) == [("p1", 0, "\\boxed{4}", "4"), ("p1", 1, "", "4"), ("p1", 2, "5", "4")]
    assert found[0]["messages"][0]["content"] == "2+2?" and found[0]["model"] == "m"
    with pytest.raises(BadInput, match="id 'p2' is not in the --gold file"):
        read(batch("p2", "x"), gold=gold)


def test_openai_batch_errors_reasoning_and_length():
    body = {"choices": [{"index": 0, "message": {"content": "a", "reasoning_content": "r"}, "finish_reason": "length"}]}
    found = read(
        {"custom_id": "a", "response": {"status_code": 200, "body": body}},
        {"custom_id": "b", "response": None, "error": {"message": "quota"}},
        {"custom_id": "c", "response": {"status_code": 500, "body": {"error": {"message": "boom"}}}},
    )
    assert found[0]["finish_reason"] == "length" and found[0]["reasoning"] == "r"
    assert [r.get("error") for r in found] == [None, "quota", "boom"]


def test_evalhub_three_files():
    assert brief(read({"task_id": "1", "solution": "a"}, {"task_id": "1", "solution": "b"})) == [
        ("1", 0, "a", None),
        ("1", 1, "b", None),
    ]
    assert [r["response"] for r in read({"task_id": 1, "responses": ["a", {"text": "b"}]})] == ["a", "b"]
    row = {"task_id": "1", "solutions": ["a", "b"], "ground_truth": 4, "correct": [True, False], "pass_at_k": {}}
    found = read(row)
    assert [r["meta"]["harness_correct"] for r in found] == [True, False] and found[0]["answer"] == "4"
    with pytest.raises(BadInput, match="correct: expected 2 values"):
        read({**row, "correct": [True]})


def test_human_eval_and_evalplus_keep_the_harness_verdict():
    found = read({"task_id": "HumanEval/0", "completion": "pass", "passed": True, "result": "passed"})
    assert found[0]["meta"]["harness_correct"] is True
    with pytest.raises(BadInput, match="passed: expected true or false"):
        read({"task_id": "HumanEval/0", "completion": "pass"})
    plus = {"date": "", "hash": "", "eval": {"H/0": [
        {"solution": "a", "base_status": "pass", "plus_status": "pass"},
        {"solution": "b", "base_status": "pass", "plus_status": "fail"},
        {"solution": "c", "base_status": "fail", "plus_status": None},
    ]}}  # fmt: skip
    assert [r["meta"]["harness_correct"] for r in read(plus)] == [True, False, False]


def test_generic_form():
    row = {
        "problem_id": "x",
        "question": "q",
        "gold": ["1", 2],
        "responses": ["a", {"text": "b", "finish_reason": "length"}],
    }
    found = read(row)
    assert brief(found) == [("x", 0, "a", ["1", "2"]), ("x", 1, "b", ["1", "2"])]
    assert found[1]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"foo": 1}, "no known sample format"),
        ({"problem_id": "x", "responses": [3]}, "response: expected text, got int"),
        ({"custom_id": "x", "response": {"body": {}}}, "choices: expected a list"),
        ({"task_id": "1", "eval": {"a": [{}]}}, "base_status: required field"),
    ],
)
def test_what_cannot_be_read_says_so(row, message):
    with pytest.raises(BadInput, match=rf"file\.jsonl:1: .*{message}"):
        read(row)


@pytest.mark.parametrize(
    "line", ['{"id": "a"}', '{"id": 3, "answer": "1"}', '{"id": "a", "answer": "1"}\n{"id": "a", "answer": "2"}']
)
def test_bad_gold_files(tmp_path, line):
    (tmp_path / "gold.jsonl").write_text(line + "\n")
    with pytest.raises(BadInput, match=r"gold\.jsonl:\d: "):
        read_gold(str(tmp_path / "gold.jsonl"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"problem_id": "p", "responses": "abc"}, "responses: expected a list"),
        ({"problem_id": "p", "responses": None}, "responses: expected a list"),
        ({"task_id": "t", "solutions": "\\boxed{5}", "ground_truth": "5"}, "solutions: expected a list"),
        ({"task_id": "t", "solutions": ["a"], "correct": ["False"]}, "correct: expected true or false"),
        ({"task_id": "t", "solutions": ["a", "b"], "correct": True}, "correct: expected 2 values"),
        ({**LM_EVAL, "resps": "abc"}, "resps: expected a list"),
        ({"custom_id": "a", "response": "text"}, "response: expected an object"),
        ({"custom_id": "a", "response": {"body": {"choices": ["x"]}}}, "response.body.choices: expected an object"),
        ({"custom_id": "a", "response": {"body": {"choices": [{"message": "x"}]}}}, "message: expected an object"),
        ({"eval": {"a": {"b": 1}}}, "eval.a: expected a list"),
        ({"eval": {"a": ["x"]}}, "eval.a: expected an object"),
    ],
)
def test_records_of_the_wrong_shape_are_named(line, message):
    with pytest.raises(BadInput, match=r"file.jsonl:1: .*" + message):
        read(line)


def test_two_tasks_that_share_their_document_numbers_are_not_joined():
    with pytest.raises(BadInput, match=r"file.jsonl:2: 7: has another gold answer than in file.jsonl:1"):
        read(LM_EVAL, {**LM_EVAL, "target": "99"})
