"""The protocol: calls in a turn's text, what a model is shown, tokens between turns under several templates, and templates that are refused."""

import json

import pytest
from grpo_models import CHATML, ambiguous

from grpo_roc.dialogue import Dialogue, calls_in, response, shorten, wrapped
from tenfold_shared import BadInput

NAME = "execute_python_code_with_standard_io"


def call(**told):
    return f"<tool_call>\n{json.dumps(told)}\n</tool_call>"


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("nothing", []),
        (call(name=NAME, arguments={"code": "print(1)", "input": ""}), [""]),
        (call(name=NAME, arguments={"code": "print(1)"}), [""]),  # reads nothing
        (
            call(name="python_code_with_standard_io", arguments={"code": "1", "input": "x"}),
            [""],
        ),  # the released code's name
        (
            call(name=NAME, arguments={"code": "1"}) + "and" + call(name="other", arguments={}),
            ["", "no function is named"],
        ),
        (call(name=NAME, arguments="print(1)"), ["arguments: expected an object"]),
        (call(name=NAME, arguments={"code": 7}), ["arguments.code"]),
        (call(name=NAME, arguments={"code": "1", "input": 3}), ["arguments.input"]),
        (call(name=NAME), ["arguments: expected"]),
        ("<tool_call>{'name': 1}</tool_call>", ["not a JSON object"]),
        ("<tool_call>[1]</tool_call>", ["expected a JSON object"]),
        ("<tool_call>" + "[" * 100_000 + "</tool_call>", ["not a JSON object"]),
        ("<tool_call>" + json.dumps({"name": NAME}), ["not closed"]),
        (call(name="jupyter_code", arguments={"code": "1"}), ["no function is named"]),
    ],
)
def test_every_call_is_found_sound_or_not(text, problems):
    found = calls_in(text, ("python",))
    assert len(found) == len(problems)
    assert all(
        want in one.problem and bool(want) == bool(one.problem) for one, want in zip(found, problems, strict=True)
    )


def test_what_is_shown_of_a_call():
    assert response({"status": "ok", "stdout": "42\n"}) == "Tool call success\nstdout: 42"
    assert "printed nothing" in response({"status": "ok_no_output", "stdout": ""})
    late = response({"status": "timeout", "stdout": "", "stderr": ""})
    assert late == "Tool call failure\nreason: timeout"
    assert response({"status": "invalid_call", "problem": "not a JSON object"}).endswith("reason: not a JSON object")
    great = response({"status": "ok", "stdout": "x" * 100_000})
    assert len(great) < 4300 and "95904 characters left out" in great
    assert shorten("abcdef", 6) == "abcdef" and shorten("abcdefg", 6) == "abc\n[... 1 characters left out ...]\nefg"


TEMPLATES = {
    "ChatML": CHATML,
    "Llama 2": "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] }} {{ eos_token }}{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}",
    "Zephyr": "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
}


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_turn_by_turn_is_the_whole_conversation(name):
    """A context that grew by suffixes is, as text, what the template makes of all turns at once."""
    tokenizer = ambiguous()
    tokenizer.chat_template = TEMPLATES[name]
    dialogue = Dialogue(tokenizer)
    first, second = "<reason>one</reason><tool_call>x</tool_call>", "<answer>two</answer>"
    ids = dialogue.prompt("1 + 1?") + dialogue.encode(first.removeprefix("<reason>"))
    shown = ["Tool call success\nstdout: 2", "Tool call failure"]
    ids += dialogue.suffix(shown, ended=False) + dialogue.encode(second)
    talk = [
        *dialogue.messages("1 + 1?"),
        {"role": "assistant", "content": first},
        {"role": "user", "content": wrapped(shown)},
        {"role": "assistant", "content": second},
    ]
    whole = tokenizer.apply_chat_template(talk, tokenize=False)
    assert whole.startswith(dialogue.decode(ids)) and whole[len(dialogue.decode(ids)) :].strip() in ("<|im_end|>", "")
    assert dialogue.spoken([*dialogue.encode("abc"), tokenizer.eos_token_id]) == "abc"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for m in messages %}{% if m['role'] == 'assistant' and not loop.last %}{{ m['content'].split('</reason>')[-1] }}{% else %}{{ m['content'] }}{% endif %}<|im_end|>{% endfor %}", "rewrites"),
        ("{{ messages[-1]['content'] }}", "rewrites"),
        (None, "no chat template"),
    ],
)  # fmt: skip
def test_templates_that_would_change_what_was_sampled_are_refused(template, why):
    tokenizer = ambiguous()
    tokenizer.chat_template = template
    with pytest.raises(BadInput, match=why):
        Dialogue(tokenizer)
