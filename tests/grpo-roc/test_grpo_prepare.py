"""Problem sets: every shape read, what is dropped and why."""

import json

import pytest

from grpo_roc import prepare
from grpo_roc.prepare import Settings, Sieve, Unfit

LONG = "A train leaves the station at noon with seven coaches and forty people"


def admit(*records, against=None, **how):
    """(kept problems, reasons of the others)."""
    sieve, kept, reasons = Sieve(Settings(**how), against or {}), [], []
    for number, record in enumerate(records, 1):
        try:
            kept.append(sieve.admit(record, number))
        except Unfit as unfit:
            reasons.append(unfit.reason)
    return kept, reasons


@pytest.mark.parametrize(
    ("record", "question", "answer"),
    [
        ({"question": "6*7?", "answer": "It is 6*7 = <<6*7=42>>42\n#### 42"}, "6*7?", "42"),
        ({"problem": "6*7?", "answer": "42", "level": 1, "unique_id": "test/1.json"}, "6*7?", "42"),
        ({"Problem": "6*7?", "Answer": 42, "ID": "2024-I-1"}, "6*7?", "42"),
        ({"prompt": "6*7?", "solution": "42", "source": "dapo"}, "6*7?", "42"),
        ({"problem": "6*7?", "expected_answer": "42", "generated_solution": "..."}, "6*7?", "42"),
        (
            {
                "prompt": [{"role": "user", "content": "6*7?"}],
                "reward_model": {"style": "rule", "ground_truth": "42"},
                "data_source": "x",
                "extra_info": {"index": 7},
            },
            "6*7?",
            "42",
        ),
        ({"id": "a", "messages": [{"role": "user", "content": "6*7?"}], "answer": ["42"]}, "6*7?", "42"),
        ({"problem": "6*7?", "solution": "so we get \\boxed{42}."}, "6*7?", "42"),
        ({"problem": "k?", "answer": "1,234"}, "k?", "1234"),
        ({"problem": "k?", "answer": "042"}, "k?", "42"),
        ({"problem": "k?", "answer": "-42.0"}, "k?", "-42"),
    ],
)
def test_shapes(record, question, answer):
    ((found,), reasons) = admit(record)
    assert (found.prompt, found.answer, reasons) == (question, answer, [])


def test_names():
    kept, _ = admit(
        {"problem": "a b", "answer": "1", "unique_id": "u"},
        {
            "prompt": [{"role": "user", "content": "c"}],
            "reward_model": {"ground_truth": "2"},
            "data_source": "x",
            "extra_info": {"index": 7},
        },
        {"question": "d", "answer": "3"},
        source="mine",
    )
    assert [one.id for one in kept] == ["u", "7", "mine-3"] and [one.source for one in kept] == ["mine", "x", "mine"]


@pytest.mark.parametrize(
    ("records", "reasons"),
    [
        ([{"problem": "a", "answer": "1/2"}], ["answer is no whole number"]),
        ([{"problem": "a", "answer": "x"}], ["answer is no whole number"]),
        ([{"problem": "a", "answer": "10^{20}"}], ["answer is no whole number"]),
        ([{"problem": "a", "answer": "1" * 13}], ["answer has too many digits"]),
        ([{"problem": "a"}], ["no answer"]),
        ([{"problem": "a", "answer": "  "}], ["no answer"]),
        ([{"answer": "1"}], ["no question"]),
        ([{"problem": "What is it?", "answer": "1"}, {"problem": "what  IS it", "answer": "1"}], ["same problem"]),
        ([{"id": "k", "problem": "a", "answer": "1"}, {"id": "k", "problem": "b", "answer": "1"}], ["same id"]),
        ([{"messages": [5], "answer": "1"}], ["no question"]),
        ([{"messages": [{"role": "system", "content": "x"}], "answer": "1"}], ["no question"]),
        ([{"prompt": ["q"], "answer": "1"}], ["no question"]),
        ([{"prompt": [{"role": "user", "content": 5}], "answer": "1"}], ["no question"]),
        ([{"prompt": [{"role": "user", "content": [5]}], "answer": "1"}], ["no question"]),
        ([{"problem": "a", "answer": 1e20}], ["answer has too many digits"]),
    ],
)
def test_what_is_dropped(records, reasons):
    assert admit(*records)[1] == reasons


def test_eight_words_in_a_row_are_a_benchmarks(tmp_path):
    path = tmp_path / "bench.jsonl"
    path.write_text(json.dumps({"problem": LONG + ", and stops."}) + "\n" + json.dumps({"problem": "Find x."}) + "\n")
    known = prepare.benchmark([str(path)])
    eight, seven = "Yesterday " + " ".join(LONG.upper().split()[2:10]), "Yesterday " + " ".join(LONG.split()[2:9])
    kept, reasons = admit(
        {"problem": eight, "answer": "1"}, {"problem": seven, "answer": "1"}, {"problem": "find X", "answer": "2"}, {"problem": "find x and y", "answer": "3"}, against=known,
    )  # fmt: skip
    assert reasons == ["in a benchmark"] * 2 and [one.answer for one in kept] == ["1", "3"]
    with pytest.raises(Unfit) as told:
        Sieve(Settings(), known).admit({"problem": eight, "answer": "1"}, 1)
    assert told.value.detail == f"{path}:1"


def test_any_answer_may_be_wanted():
    kept, reasons = admit({"problem": "a", "answer": "\\frac{1}{2}"}, integers=False)
    assert kept[0].answer == "\\frac{1}{2}" and not reasons


def test_signs_make_another_problem(tmp_path):
    """2+2 and 2-2 have the same words; what only sets the type makes no difference."""
    kept, reasons = admit(
        {"problem": "What is $2+2$?", "answer": "4"}, {"problem": "What is $2-2$?", "answer": "0"}, {"problem": "what is 2 + 2", "answer": "4"},
    )  # fmt: skip
    assert [one.answer for one in kept] == ["4", "0"] and reasons == ["same problem"]
    path = tmp_path / "bench.jsonl"
    path.write_text(json.dumps({"problem": "What is 2+2?"}) + "\n")
    kept, reasons = admit(
        {"problem": "What is 2-2?", "answer": "0"}, {"problem": "What is $2 + 2$", "answer": "4"}, against=prepare.benchmark([str(path)]),
    )  # fmt: skip
    assert [one.answer for one in kept] == ["0"] and reasons == ["in a benchmark"]


def test_sets_that_are_numbered_alike_keep_all_problems():
    """The place in a set is no name: each of two sets has a problem 0."""

    def one(question, source, **extra):
        return {"prompt": question, "answer": "1", "data_source": source, **extra}

    kept, reasons = admit(
        one("a", "x", extra_info={"index": 0}), one("b", "y", extra_info={"index": 0}), one("c", "y", index=0), one("d", "y", extra_info={"index": "k"}),
        one("e", "z", extra_info={"index": "k"}),
    )  # fmt: skip
    assert [one.id for one in kept] == ["0", "y-0", "y-3", "k"] and reasons == ["same id"]
