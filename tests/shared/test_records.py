"""The four record shapes: what each field may hold, which kind may stand for which, and the text views.

Valid records are built field by field from the table in shared/README.md, not from the structs.
"""

import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold_shared.records import KINDS, RecordProblem, messages_of, question_of, schema, validate

TASK = {
    "id": "a",
    "messages": [{"role": "user", "content": "q"}],
    "prompt": "q",
    "answer": ["1", "2"],
    "meta": {"match": "all", "source": [1, {"x": None}]},
}
SAMPLE = {
    **TASK,
    "sample": 0,
    "response": "r",
    "reasoning": "why",
    "finish_reason": "length",
    "usage": {"prompt_tokens": 0, "completion_tokens": 3},
    "model": "m",
    "error": "e",
}
VERDICT = {
    **SAMPLE,
    "correct": True,
    "grade": "ungradable",
    "grade_reason": "why",
    "votes": ["yes", "no", "abstain"],
    "judge": [{"vote": "yes"}],
    "reward": -1.5,
}
TRAJECTORY = {
    **SAMPLE,
    "group": "g",
    "rollout": 2,
    "reward": 1,
    "turns": [
        {"text": "t"},
        {"text": "t", "calls": [{"name": "n", "arguments": {"a": 1}, "status": "ok", "stdout": "", "stderr": ""}]},
    ],
    "prompt_ids": [1],
    "token_ids": [2, 3],
    "loss_mask": [0, 1],
    "logprobs": [-0.5, 0],
}
FULL = {"task": TASK, "sample": SAMPLE, "verdict": VERDICT, "trajectory": TRAJECTORY}
LEAST = {
    "task": {"id": "a", "prompt": ""},
    "sample": {"id": "a", "sample": 0, "response": ""},
    "verdict": {"id": "a", "sample": 0, "response": ""},
    "trajectory": {"id": "a", "sample": 0, "response": ""},
}


def problem(record, kind):
    with pytest.raises(RecordProblem) as caught:
        validate(record, kind)
    text = str(caught.value)
    assert "\n" not in text and "$" not in text
    return text


@pytest.mark.parametrize("kind", FULL)
def test_full_and_least_records_are_valid_and_stay_as_they_are(kind):
    for record in (FULL[kind], LEAST[kind]):
        carried = {**record, "unknown": {"x": [1]}, "schema": f"{kind}/1"}
        before = msgspec.json.encode(carried)
        validate(carried, kind)
        assert msgspec.json.encode(carried) == before
    # The kinds hold the fields of the table and no others: a field we forgot would pass with any value.
    assert set(KINDS[kind].__struct_fields__) == set(FULL[kind]) | {"schema"}


# Field by field, a value it may hold and one it may not.
FIELDS = [
    ("task", "id", ["", "ü"], [1, None, ["a"]]),
    (
        "task",
        "messages",
        [[]],
        ["hi", [{"role": "user"}], [{"content": "x"}], [{"role": "u", "content": 3}], [1], None],
    ),
    (
        "task",
        "messages",
        [[{"role": "u", "content": None}], [{"role": "u", "content": [{"type": "text"}], "name": "x"}]],
        [],
    ),
    ("task", "prompt", ["", "x"], [None, 3, ["x"]]),
    ("task", "answer", [None, "4", [], ["4"]], [4, [4], {"a": 1}, True]),
    ("task", "meta", [{}, {"match": "any"}], [None, [], "x", {"match": "some"}, {"match": None}, {"match": ["any"]}]),
    ("sample", "sample", [0, 10**9], [-1, "0", None, 1.5, True]),
    ("sample", "response", [""], [None, 3, ["x"]]),
    ("sample", "reasoning", [None, ""], [3, ["x"]]),
    ("sample", "finish_reason", ["stop", "length", "error"], ["eos", None, 1]),
    ("sample", "usage", [{"prompt_tokens": 1, "completion_tokens": 0, "x": 1}], [{}, {"prompt_tokens": 1}, None]),
    (
        "sample",
        "usage",
        [],
        [{"prompt_tokens": -1, "completion_tokens": 0}, {"prompt_tokens": 1, "completion_tokens": 0.5}],
    ),
    ("sample", "model", ["m"], [None, 3]),
    ("sample", "error", ["e"], [None, True]),
    ("verdict", "correct", [True, False], [None, 1, "true"]),
    ("verdict", "grade", ["correct", "wrong", "ungradable"], ["right", None]),
    ("verdict", "grade_reason", [""], [None]),
    ("verdict", "votes", [[], ["yes"]], ["yes", ["maybe"], [True], None]),
    ("verdict", "judge", [[], [{}]], [{}, ["x"], None]),
    ("verdict", "reward", [0, 1.5, -2], ["1", None, True]),
    ("trajectory", "group", ["g", 3], [None, 1.5, []]),
    ("trajectory", "rollout", [0], [-1, "0", None]),
    ("trajectory", "reward", [0, 0.25], [None, "x"]),
    ("trajectory", "turns", [[]], [None, ["x"], [{}], [{"text": None}], [{"text": "", "calls": [{"name": "n"}]}]]),
    ("trajectory", "prompt_ids", [[]], [None, [1.5], ["1"]]),
    ("trajectory", "token_ids", [[]], [None, [None]]),
    ("trajectory", "loss_mask", [[0, 1]], [None, [True]]),
    ("trajectory", "logprobs", [[], [-1, -0.5]], [None, ["x"], [None]]),
]


@pytest.mark.parametrize(("kind", "field", "good", "bad"), FIELDS)
def test_each_field_takes_what_the_table_says(kind, field, good, bad):
    for value in good:
        validate({**FULL[kind], field: value}, kind)
    for value in bad:
        text = problem({**FULL[kind], field: value}, kind)
        assert re.match(rf"{field}[\[.:]", text), f"{value!r}: {text}"


def test_every_field_of_every_kind_is_in_the_table_above():
    listed = {(kind, field) for kind, field, _, _ in FIELDS}
    own = {
        "task": set(TASK),
        "sample": set(SAMPLE) - set(TASK),
        "verdict": set(VERDICT) - set(SAMPLE),
        "trajectory": set(TRAJECTORY) - set(SAMPLE),
    }
    assert listed == {(kind, field) for kind, fields in own.items() for field in fields}


@pytest.mark.parametrize(
    ("kind", "field"),
    [("task", "id"), ("sample", "id"), ("sample", "sample"), ("verdict", "response"), ("trajectory", "sample")],
)
def test_required_fields_are_named(kind, field):
    record = {name: value for name, value in FULL[kind].items() if name != field}
    assert problem(record, kind) == f"{field}: required field is missing"


def test_where_in_a_record_something_is_wrong():
    assert problem({**TASK, "messages": [{"role": "user"}]}, "task") == "messages[0].content: required field is missing"
    turns = [{"text": "a"}, {"text": "b", "calls": [{"name": 1, "arguments": 1, "status": "ok"}]}]
    assert problem({**TRAJECTORY, "turns": turns}, "trajectory") == "turns[1].calls[0].name: expected str, got int"
    assert problem({**SAMPLE, "sample": -1}, "sample").startswith("sample: expected int >= 0")
    for nothing in ({}, {"messages": []}):
        text = problem({"id": "a", "answer": "4", **nothing}, "task")
        assert text == "messages: expected a chat list here, or a string in `prompt`; found neither"
    # Only a task needs a question: what a foreign file gives to a judge may have none.
    validate({"id": "a", "sample": 0, "response": "r"}, "sample")


@pytest.mark.parametrize(
    ("value", "said"),
    [([], "an array"), ("x", "a string"), (True, "a boolean"), (None, "null"), (3, "a number"), (1.5, "a number")],
)
def test_what_is_no_object_is_named(value, said):
    assert problem(value, "task") == f"record: expected a JSON object, got {said}"


# Which kind may stand where which is expected, as the README says: a later one for an earlier one.
STANDS = {
    "task": ["task", "sample", "verdict", "trajectory"],
    "sample": ["sample", "verdict", "trajectory"],
    "verdict": ["sample", "verdict", "trajectory"],
    "trajectory": ["trajectory"],
}


@pytest.mark.parametrize("kind", FULL)
@pytest.mark.parametrize("declared", FULL)
def test_a_later_kind_may_stand_for_an_earlier_one(kind, declared):
    record = {**FULL[declared], "schema": schema(declared)}
    if declared in STANDS[kind]:
        validate(record, kind)
    else:
        assert problem(record, kind) == f"schema: expected {kind}/1, got {declared}/1"


@pytest.mark.parametrize("declared", ["task/1", "task/1.0", "task/1.7", None])
def test_minor_versions_and_none_are_read(declared):
    validate({**TASK, "schema": declared} if declared else TASK, "task")


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("task/2", "task/2 is of another major version; this tool reads task/1"),
        ("task/11", "another major version"),
        ("task/0.9", "another major version"),
        ("sample/2", "another major version"),
        ("task", "expected task/1, got 'task'"),
        ("task/", "expected task/1"),
        ("/1", "expected task/1"),
        ("manifest/1", "expected task/1, got 'manifest/1'"),
        ("", "expected task/1, got ''"),
        (1, "expected task/1, got 1"),
        (["task/1"], "expected task/1"),
        (None, "expected"),
    ],
)
def test_other_schemas_are_refused(declared, said):
    text = problem({**TASK, "schema": declared}, "task")
    assert text.startswith("schema: ") and said in text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = sorted({name for record in FULL.values() for name in record} | {"schema"})


@given(record=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=8), kind=st.sampled_from(sorted(FULL)))
@settings(deadline=None)
def test_no_record_does_more_than_fail(record, kind):
    """Whatever JSON is under the names we know: valid, or one line that begins with a field's name."""
    try:
        validate({**LEAST[kind], **record}, kind)
    except RecordProblem as error:
        assert re.match(r"[a-z_]+[\[.:]", str(error)) and "\n" not in str(error)


# ------------------------------------------------------------------ text views


@pytest.mark.parametrize(
    ("record", "chat", "question"),
    [
        ({"prompt": "p"}, [{"role": "user", "content": "p"}], "p"),
        ({"messages": [{"role": "user", "content": "m"}], "prompt": "p"}, [{"role": "user", "content": "m"}], "m"),
        ({"messages": [], "prompt": "p"}, [{"role": "user", "content": "p"}], "p"),
        ({"messages": []}, [{"role": "user", "content": ""}], ""),
        ({}, [{"role": "user", "content": ""}], ""),
    ],
)
def test_messages_and_question_of_a_record(record, chat, question):
    assert messages_of(record) == chat and question_of(record) == question


def test_the_question_is_the_last_user_turn():
    chat = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "last"},
        {"role": "assistant", "content": "answer"},
    ]
    assert question_of({"messages": chat}) == "last"
    assert question_of({"messages": chat[:1]}) == ""
    assert question_of({"messages": [{"role": "user", "content": None}]}) == ""


@pytest.mark.parametrize(
    "parts",
    [
        [
            {"type": "text", "text": "what is "},
            {"type": "image_url", "image_url": {}},
            {"type": "text", "text": "this?"},
        ],
        [{"type": "text", "text": "what is "}, {"type": "image", "text": None}, {"type": "text", "text": "this?"}],
    ],
)
def test_the_question_of_parts_is_their_text(parts):
    record = {"id": "a", "messages": [{"role": "user", "content": parts}]}
    validate(record, "task")
    assert question_of(record) == "what is this?"
