"""Other people's trajectories: verl's dumps, chats with tool messages, TRL's rollouts."""

import pytest

from grpo_roc import penalty, readers
from tenfold_shared import BadInput

CALL = '<tool_call>\n{"name": "python_code_with_standard_io", "arguments": {"code": "print(7)", "input": ""}}\n</tool_call>'
OUTPUT = (
    f"let me see</reason>\n{CALL}<|im_end|>\n<|im_start|>user\n<tool_response>\nTool call success\nstdout: 7\nexecution time: 0.01s\n</tool_response><|im_end|>\n"
    f"<|im_start|>assistant\n<reason>again</reason>{CALL}{CALL}<|im_end|>\n<|im_start|>user\n<tool_response>\nTool call failure\nreason: worker_timeout\nexecution time: 4.00s\n</tool_response><|im_end|>\n"
    "<|im_start|>assistant\n<reason>so</reason>\n<answer>\\boxed{7}</answer><|im_end|>"
)
DUMP = {"input": "<|im_start|>user\n7?<|im_end|>", "output": OUTPUT, "gts": "7", "score": 1.0, "step": 3}


def read(*records, form="auto"):
    return [one for _, one in readers.read([(f"f:{i}", one) for i, one in enumerate(records, 1)], form)]


def test_a_verl_dump():
    one, two, other = read(DUMP, {**DUMP, "score": 0}, {**DUMP, "step": 4})
    assert one["group"] == two["group"] != other["group"]
    assert [x["rollout"] for x in (one, two, other)] == [0, 1, 0] and [one["reward"], two["reward"]] == [1.0, 0.0]
    assert [len(x["calls"]) for x in one["turns"]] == [
        1,
        1,
        0,
    ]  # of two calls in a turn the released environment runs one
    assert [x["calls"][0]["status"] for x in one["turns"][:2]] == ["ok", "timeout"]
    assert one["turns"][0]["calls"][0]["arguments"] == {"code": "print(7)", "input": ""}
    found = penalty.of_turns(one["turns"])
    assert (found.err, found.format) == (0.5, 0)
    assert one["output"] == OUTPUT  # carried through


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("Tool call success\nstdout: 7\nexecution time: 0.01s", "ok"),
        ("Tool call success\nexecution time: 0.01s", "ok_no_output"),
        ("Tool call success\nstdout: standard error 3\nexecution time: 0.01s", "ok"),
        ("Tool call failure\nreason: \nstderr: ZeroDivisionError: x\nexecution time: 0.01s", "error"),
        ("Tool call failure\nreason: worker_timeout\nexecution time: 4.0s", "timeout"),
        ("Tool call failure\nreason: queue_timeout\nexecution time: 4.0s", "infra"),
        ("Tool call failure\nreason: internal_error\nexecution time: 4.0s", "infra"),
        ("Failed to decode tool call: Extra data", "invalid_call"),
        ('Traceback (most recent call last):\n  File "<x>", line 1\nValueError: no', "error"),
        ("Traceback (most recent call last) is what it prints\nerrors: 3", "ok"),
        ("The error is 0.3", "ok"),
        ("", "ok_no_output"),
    ],
)
def test_what_became_of_a_call(text, status):
    assert readers.status_of(text) == status


def test_a_chat_with_tool_messages():
    asked = {"id": "c1", "type": "function", "function": {"name": "python", "arguments": '{"code": "1/0"}'}}
    other = {"id": "c2", "type": "function", "function": {"name": "python", "arguments": "{code"}}
    chat = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": [asked, other]},
        {"role": "tool", "tool_call_id": "c2", "content": "not JSON"},
        {"role": "tool", "tool_call_id": "c1", "content": "boom", "status": "error"},
        {"role": "assistant", "content": "<answer>\\boxed{0}</answer>"},
    ]
    (one,) = read({"messages": chat, "reward": 0, "group": 5})
    assert [x["status"] for x in one["turns"][0]["calls"]] == ["invalid_call", "error"] and one["group"] == 5
    (trl,) = read({"prompt": chat[:1], "completion": chat[1:], "rewards": {"a": 1, "b": 0.5}})
    assert trl["turns"] == one["turns"] and trl["reward"] == 1.5
    (plain,) = read({"prompt": "q", "completion": "<answer>\\boxed{0}</answer>", "reward": 1})
    assert plain["turns"] == [{"text": "<answer>\\boxed{0}</answer>", "calls": []}]


@pytest.mark.parametrize(
    ("record", "form", "message"),
    [
        ({"output": "x"}, "verl", "f:1: input: expected"),
        ({"input": "a", "output": "x", "score": None}, "verl", "f:1: score: expected a number"),
        ({"input": "a", "output": "x", "score": True}, "verl", "f:1: score: expected a number"),
        ({"messages": [{"role": "user", "content": "q"}], "reward": 1}, "auto", "f:1: messages: no assistant turn"),
        ({"messages": "hello", "reward": 1}, "auto", "f:1: messages: expected a chat"),
        ({"messages": [7], "reward": 1}, "auto", "f:1: messages: expected a chat"),
        ({"prompt": "q", "completion": "x"}, "auto", "f:1: reward: expected a number"),
        ({"turns": [], "reward": 1}, "auto", "f:1: group: expected"),
        ({"turns": [], "group": 1}, "auto", "f:1: reward: expected a number"),
        ({"turns": [], "group": True, "reward": 1}, "auto", "f:1: group: expected"),
    ],
)
def test_what_cannot_be_read_is_named(record, form, message):
    with pytest.raises(BadInput, match=message):
        read(record, form=form)
