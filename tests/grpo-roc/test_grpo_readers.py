"""Other people's trajectories: verl's dumps, chats with tool messages, TRL's rollouts."""

import json

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


def bare(text):
    """As verl writes it to a dump: without special tokens, so that a header is its role alone."""
    return text.replace("<|im_end|>", "").replace("<|im_start|>", "")


def test_a_dump_without_special_tokens():
    """verl decodes what it dumps with skip_special_tokens: turns and calls are those of the text with them."""
    (want,), (got,) = read(DUMP), read({**DUMP, "output": bare(OUTPUT)})
    assert got["turns"] == want["turns"] and len(got["turns"]) == 3
    # the header follows the call without a break, where the template adds none after the end of a turn
    glued = bare(OUTPUT.replace("<|im_end|>\n<|im_start|>user", "<|im_end|><|im_start|>user"))
    assert "</tool_call>user\n" in glued and readers.turns_of_text(glued) == want["turns"]
    assert penalty.rstar(readers.chatml(bare(OUTPUT))) == penalty.rstar(OUTPUT)
    assert readers.chatml(OUTPUT) == OUTPUT and readers.chatml("a user\nb") == "a user\nb<|im_end|>"


def test_a_turn_with_two_tools_texts_and_one_that_the_end_cut_off():
    two = f"{CALL}{CALL}user\n<tool_response>\n7\n</tool_response>\n<tool_response>\n\n</tool_response>\nassistant\nso"
    (first, last) = readers.turns_of_text(two)
    assert [one["status"] for one in first["calls"]] == ["ok", "ok_no_output"] and last["text"] == "so"
    assert [len(x["calls"]) for x in readers.turns_of_text(f"{CALL}user\n<tool_response>\n7\n</tool_response>")] == [1]
    assert [len(x["calls"]) for x in readers.turns_of_text(f"{CALL}user\n<tool_response>\n7")] == [0]


def test_a_call_in_a_form_that_is_not_known_is_judged_by_what_was_shown():
    other = "<function=python>1</function>user\n<tool_response>\n1\n</tool_response>\nassistant\n<tool_call>{oopsuser\n<tool_response>\n?\n</tool_response>\nassistant\n"
    turns = readers.turns_of_text(other)
    assert [one["status"] for turn in turns for one in turn["calls"]] == ["ok", "invalid_call"]
    (told,) = read(
        {"prompt": "q", "reward": 1, "completion": [{"role": "assistant"}, {"role": "tool", "content": "7"}]}
    )
    assert told["turns"][0]["calls"][0]["status"] == "ok"


@pytest.mark.parametrize(
    "raw",
    [
        "[" * 100_000,  # deeper than the parser goes
        '{"name": "p", "arguments": {"code": "\\ud800"}}',  # half a pair, which cannot be written
        '{"name": "p", "arguments": ' + "1" * 5000 + "}",
        '{"name": "p"}',
        "7",
    ],
    ids=["deep", "half a pair", "digits", "no arguments", "a number"],
)
def test_calls_that_cannot_be_read(raw):
    found = readers.call_of(raw, "whatever")
    assert found["status"] == "invalid_call" and json.dumps(found, ensure_ascii=False).encode()
    assert readers.call_of(raw, "Tool call success\nexecution time: 0.01s")["status"] == "ok_no_output"
    assert readers.call_of(raw, "whatever", "timeout")["status"] == "timeout"


def test_what_a_record_says_itself_goes_first():
    """A reward that verify added, a group that was named: 0 is a name as well."""
    one, two = read({**DUMP, "reward": 0.0, "group": 0}, {"prompt": "q", "completion": "x", "reward": 1, "group": 0})
    assert (one["reward"], one["group"], two["group"]) == (0.0, 0, 0) and two["rollout"] == 1
    (own, _), (named, _) = (
        read(*({"turns": [{"text": ""}], "group": "g", "reward": 1, **more} for _ in range(2)))
        for more in ({"rollout": None}, {})
    )
    assert own["rollout"] == named["rollout"] == 0


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("Error when executing tool: 'bash'", "invalid_call"),
        (
            "Error when executing tool: run_tool_calls_on_server_async failed for 1 tool calls after 4 attempts.",
            "infra",
        ),
        ("{'error': 'division by zero'}", "error"),  # TRL's
        ("{'error': \"name 'x' is not defined\"}", "error"),
        ("{'error': ''}", "error"),
        ("{'error': '', 'value': '5'}", "ok"),
        ("{'errors': 'none'}", "ok"),
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
        ({"turns": [], "group": "g", "reward": 10**400}, "auto", "f:1: reward: expected a number below"),
        ({"turns": [], "group": "g", "reward": float("nan")}, "auto", "f:1: reward: expected a number below"),
        ({"turns": [], "group": "g", "reward": 1, "rollout": [1]}, "auto", "f:1: rollout: expected a string"),
        ({"turns": [], "group": "g", "reward": 1, "rollout": True}, "auto", "f:1: rollout: expected a string"),
        ({"input": "a", "output": "x", "score": 10**400}, "verl", "f:1: score: expected a number below"),
        ({"completion": "x", "reward": 1}, "auto", "f:1: group: expected"),  # else all would be one group
        ({"prompt": "q", "completion": "x", "rewards": {}}, "auto", "f:1: reward: expected a number"),
        ({"prompt": "q", "completion": "x", "rewards": {"a": None}}, "auto", "f:1: rewards.a: expected a number"),
        (
            {"prompt": "q", "completion": [{"role": "assistant", "content": 5}], "reward": 1},
            "auto",
            r"f:1: completion\[0\]\.content: expected text",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": 5}], "reward": 1},
            "auto",
            r"messages\[0\]\.tool_calls: expected a list",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [5]}], "reward": 1},
            "auto",
            r"messages\[0\]\.tool_calls: expected a list",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": "x"}]}], "reward": 1},
            "auto",
            "expected `function` to be an object",
        ),
    ],
)
def test_what_cannot_be_read_is_named(record, form, message):
    with pytest.raises(BadInput, match=message):
        read(record, form=form)


def test_content_in_parts():
    parts = [{"type": "text", "text": "<answer>"}, {"type": "image"}, {"type": "text", "text": "1</answer>"}]
    call = {"function": {"name": "p", "arguments": {}}}
    chat = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": [{"type": "text", "text": "{'error': 'x'}"}]},
        {"role": "assistant", "content": parts},
    ]
    (one,) = read({"prompt": "q", "completion": chat, "reward": 1})
    assert [x["text"] for x in one["turns"]] == ["", "<answer>1</answer>"]
    assert one["turns"][0]["calls"][0]["status"] == "error"


def test_what_is_left_out_is_told():
    told = []
    found = readers.read([("f:1", {"x": 1}), ("f:2", DUMP)], "auto", told.append)
    assert [where for where, _ in found] == ["f:2"] and [str(one) for one in told] == [
        "f:1: group: expected a string or whole number, the prompt that a trajectory is of"
    ]
