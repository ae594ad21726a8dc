"""Transcripts of other forms as conversations and as tokens: by-hand conversions of each form, calls that cannot be read, tokens against a conversation that is taken apart another way, and the verb."""

import json
import random
import re

import pytest
import torch
from click.testing import CliRunner
from grpo_models import CHATML, ambiguous, small
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from grpo_roc import sft_forms
from grpo_roc.cli import main
from grpo_roc.dialogue import PYTHON, Dialogue, calls_in, response
from grpo_roc.env import isolation
from grpo_roc.sft_forms import bracketed, chat_of
from grpo_roc.transcripts import examples, made
from tenfold_shared import BadInput
from tenfold_shared.records import RecordProblem

LEVEL = next(level for level in isolation.LEVELS if level not in isolation.probe())


def grpo(*words):
    return CliRunner().invoke(main, list(map(str, words)), prog_name="grpo-roc")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def wrote(path, records):
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def schema(name, **properties):
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


def bare(name, kind="dict", **properties):
    return {"name": name, "parameters": {"type": kind, "properties": properties}, "required": None}


# ---------------------------------------------------------------- records as their data sets have them

TOOLACE = {
    "system": 'You are an expert in composing functions. You are given a question and a set of possible functions. \nYou should only return the function call in tools call sections.\nThe current time is 2024-05-05, Sunday.Here is a list of functions in JSON format that you can invoke:\n'
    + json.dumps([bare("Market Trends API", trend={"type": "list", "items": {"type": "float"}}), bare("geo/find")])
    + ". \nShould you decide to return the function call(s). \nPut it in the format of [func1(params_name=params_value), func2(params)]\n\nNO other text MUST be included. ",
    "conversations": [
        {"from": "user", "value": "What moves, and where?"},
        {"from": "assistant", "value": '[Market Trends API(trend=[1, 2.5], note="a, (b) = \'c\'"), geo/find(deep={"x": true, \'y\': None}, at=-3)]'},
        {"from": "tool", "value": '[{"name": "Market Trends API", "results": 1}]'},
        {"from": "assistant", "value": "Up [see above]."},
        {"from": "user", "value": "Thanks. Which is first?"},
        {"from": "assistant", "value": "[1] is."},
    ],
}  # fmt: skip
GLAIVE = {
    "system": 'SYSTEM: You are a helpful assistant with access to the following functions. Use them if required -\n{\n    "name": "rate",\n    "parameters": {"type": "object", "properties": {"to": {"type": "string"}}}\n}\n\n{"name": "note", "parameters": {"type": "object", "properties": {}}}\n',
    "chat": 'USER: How much is it?\n\n\nASSISTANT: <functioncall> {"name": "rate", "arguments": \'{"to": "EUR", "text": "a\\nb"}\'} <|endoftext|>\n\n\nFUNCTION RESPONSE: {"rate": 0.85}\n\n\nASSISTANT: It is 0.85. <|endoftext|>\n\n\nUSER: Write it down, USER of mine\n\n\nASSISTANT: I do.\n<functioncall> {"name": "note", "arguments": \'{"text": "it\\\'s"}\'} <|endoftext|>\n\n\nFUNCTION RESPONSE: {"ok": true}\n\n\nASSISTANT: Done. <|endoftext|>\n\n\n',
}  # fmt: skip
APIGEN = {
    "conversations": [
        {"from": "human", "value": "Cancel order 7."},
        {"from": "function_call", "value": '{"name": "cancel", "arguments": {"order": 7}}'},
        {"from": "observation", "value": '{"status": "cancelled"}'},
        {"from": "gpt", "value": "It is cancelled."},
        {"from": "human", "value": "Good."},
        {"from": "gpt", "value": "Good-bye."},
    ],
    "tools": json.dumps([bare("cancel", "object", order={"type": "integer"})]),
    "system": "You are a retail agent.",
}
OPENAI = {
    "id": "o",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Two "}, {"type": "text", "text": "cities?"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "type": "function", "function": {"name": "get", "arguments": '{"city": "Zürich"}'}}, {"id": "b", "type": "function", "function": {"name": "get", "arguments": {"city": "Rom"}}}]},
        {"role": "tool", "tool_call_id": "b", "content": "warm"},
        {"role": "tool", "tool_call_id": "a", "content": "cold"},
        {"role": "assistant", "content": "Cold, warm."},
    ],
    "tools": [schema("get", city={"type": "string"})],
}  # fmt: skip
OLDER = {
    "messages": [
        {"role": "user", "content": "Now?"},
        {"role": "assistant", "content": "", "function_call": {"name": "now", "arguments": ""}},
        {"role": "function", "name": "now", "content": "noon"},
        {"role": "assistant", "content": "Noon."},
    ],
    "functions": [{"name": "now", "description": "The time."}],
}
TULU = {"id": "t", "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}, {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "Bye"}], "source": "x"}  # fmt: skip
MAGICODER = {"lang": "python", "problem": "Add two.", "solution": "Here it is:\n```python\ndef add(a, b):\n    return a + b\n```", "openai_fingerprint": "x"}  # fmt: skip
EVOL = {"instruction": "Add two.", "response": "```python\nprint(1 + 1)\n```\nThis prints 2."}
TURNS = {
    "id": "s",
    "prompt": "6 * 7?",
    "turns": [
        {"text": 'I compute.</reason>\n<tool_call>\n{"name": "execute_python_code_with_standard_io", "arguments": {"code": "print(6 * 7)", "input": ""}}\n</tool_call>', "calls": [{"name": "execute_python_code_with_standard_io", "arguments": {"code": "print(6 * 7)", "input": ""}, "status": "ok", "stdout": "42\n"}]},
        {"text": "<answer>\\boxed{42}</answer>", "calls": []},
    ],
}  # fmt: skip
REASONS = {"messages": [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "<reason>a</reason>1"}, {"role": "user", "content": "2?"}, {"role": "assistant", "content": "<reason>b</reason>2"}]}  # fmt: skip
ALL = {"toolace": [TOOLACE], "glaive": [GLAIVE], "apigen": [APIGEN], "messages": [OPENAI, OLDER, TULU, REASONS], "magicoder": [MAGICODER, EVOL], "trajectory": [TURNS]}  # fmt: skip


def call(name, **arguments):
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}\n</tool_call>"


def shown(*texts):
    return "\n".join(f"<tool_response>\n{one}\n</tool_response>" for one in texts)


def listed(system):
    """(what stands above the tools, the tools) of a system text."""
    head, _, rest = system.partition("# Tools\n")
    found = re.search(r"<tools>\n(.*?)\n</tools>", rest, re.DOTALL)[1]
    return head.strip(), [json.loads(line) for line in found.split("\n")]


@pytest.mark.parametrize(
    ("record", "head", "tools", "turns"),
    [
        (
            TOOLACE,
            f"{sft_forms.CALLER} The current time is 2024-05-05, Sunday.",
            [
                schema("Market Trends API", trend={"type": "array", "items": {"type": "number"}}),
                schema("geo/find"),
            ],
            [
                "What moves, and where?",
                call("Market Trends API", trend=[1, 2.5], note="a, (b) = 'c'") + "\n" + call("geo/find", deep={"x": True, "y": None}, at=-3),
                shown('[{"name": "Market Trends API", "results": 1}]'),
                "Up [see above].",
                "Thanks. Which is first?",
                "[1] is.",
            ],
        ),
        (
            GLAIVE,
            "You are a helpful assistant.",
            [schema("rate", to={"type": "string"}), schema("note")],
            [
                "How much is it?",
                call("rate", to="EUR", text="a\nb"),
                shown('{"rate": 0.85}'),
                "It is 0.85.",
                "Write it down, USER of mine",
                "I do.\n" + call("note", text="it's"),
                shown('{"ok": true}'),
                "Done.",
            ],
        ),
        (
            APIGEN,
            "You are a retail agent.",
            [schema("cancel", order={"type": "integer"})],
            ["Cancel order 7.", call("cancel", order=7), shown('{"status": "cancelled"}'), "It is cancelled.", "Good.", "Good-bye."],
        ),
        (
            OPENAI,
            "Be brief.",
            [schema("get", city={"type": "string"})],
            ["Two cities?", call("get", city="Zürich") + "\n" + call("get", city="Rom"), shown("cold", "warm"), "Cold, warm."],
        ),
        (
            OLDER,
            "",
            [{"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}}],
            ["Now?", call("now"), shown("noon"), "Noon."],
        ),
        (MAGICODER, "", [PYTHON], ["Add two.", "Here it is:\n" + call(PYTHON["function"]["name"], code="def add(a, b):\n    return a + b\n", input="")]),
        (EVOL, "", [PYTHON], ["Add two.", call(PYTHON["function"]["name"], code="print(1 + 1)\n", input="")]),
    ],
    ids=["toolace", "glaive", "apigen", "openai", "older", "magicoder", "evol"],
)  # fmt: skip
def test_each_form_by_hand(record, head, tools, turns):
    chat = chat_of(sft_forms.FORMS[sft_forms.form_of(record)](record))
    assert chat[0]["role"] == "system" and listed(chat[0]["content"]) == (head, tools)
    assert [one["content"] for one in chat[1:]] == turns
    assert [one["role"] for one in chat[1:]] == ["user", "assistant"] * (len(turns) // 2)


def test_a_chat_without_tools_stays_as_it_is():
    assert chat_of(sft_forms.of_messages(TULU)) == TULU["messages"]


def test_the_form_is_seen():
    for name, records in ALL.items():
        assert [sft_forms.form_of(one) for one in records] == [name] * len(records)
    with pytest.raises(RecordProblem, match="no form that is known"):
        sft_forms.form_of({"text": "x"})


def test_our_python_tool_is_called_as_its_own_reader_reads_it():
    text = chat_of(sft_forms.of_magicoder(MAGICODER))[-1]["content"]
    (one,) = calls_in(text, ("python",))
    assert not one.problem and one.code == "def add(a, b):\n    return a + b\n"


# ---------------------------------------------------------------- what cannot be converted


def talk(record, *pairs):
    return {**record, "conversations": [{"from": who, "value": text} for who, text in pairs]}


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (talk(TOOLACE, ("user", "?"), ("assistant", "[geo/find(at=here)]")), "'here' is no value"),
        (talk(TOOLACE, ("user", "?"), ("assistant", "[geo/find(3)]")), "expected ARGUMENT=VALUE"),
        (talk(TOOLACE, ("user", "?"), ("assistant", "[geo/find(a=1, a=2)]")), "given twice"),
        (talk(TOOLACE, ("user", "?"), ("assistant", "[geo/find(a=1) and more]")), "expected NAME"),
        (talk(TOOLACE, ("user", "?"), ("assistant", "[geo/find(a='1)]")), "does not close"),
        (talk(TOOLACE, ("user", "?"), ("assistant", "[geo/find(a=1)] Done.")), "text before or after"),
        (talk(TOOLACE, ("user", "?"), ("assistant", "[geo/find(a=1e999)]")), "too great for JSON"),
        (talk(TOOLACE, ("user", "?"), ("assistant", "[geo/find(a=open('x'))]")), "no value"),
        (talk(TOOLACE, ("user", "?"), ("assistant", "[lost(a=1)]")), "not among its tools"),
        (talk(TOOLACE, ("user", "?"), ("robot", "x")), "from: expected one of"),
        (talk(TOOLACE, ("user", "?")), "nothing could be learnt"),
        (talk(TOOLACE, ("user", "?"), ("tool", "x"), ("assistant", "y")), "follows no turn"),
        ({**TOOLACE, "system": 'invoke:\n[{"name": "a", ]'}, "list of functions is no JSON"),
        ({**GLAIVE, "chat": "USER: a\n\n\nASSISTANT: <functioncall> {\"name\": \"rate\", \"arguments\": '{\"to\": }'} <|endoftext|>"}, "arguments: no JSON"),
        ({**GLAIVE, "chat": "USER: a\n\n\nASSISTANT: <functioncall> rate(1) <|endoftext|>"}, "cannot be read"),
        ({**GLAIVE, "chat": "USER: a ASSISTANT: b <|endoftext|>"}, "another turn's beginning"),
        ({**GLAIVE, "chat": "a\nUSER: b\nASSISTANT: c"}, "at its beginning"),
        ({**GLAIVE, "system": 'SYSTEM: functions -\n{"name": "a", }'}, "no JSON"),
        (talk(APIGEN, ("human", "a"), ("function_call", "cancel(7)")), "no JSON"),
        (talk(APIGEN, ("human", "a"), ("function_call", '{"name": "cancel", "arguments": [7]}')), "expected an object"),
        ({**APIGEN, "tools": "none"}, "tools: no JSON"),
        ({**OPENAI, "tools": None}, "it has none"),
        ({**OPENAI, "tools": [{"type": "function"}]}, "with its name"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, {"role": "assistant", "content": "x"}]}, "expected text"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "expected system, user, assistant or tool"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": "y"}]}, "not the first"),
        ({"messages": [{"role": "user", "content": "\ud83d"}, {"role": "assistant", "content": "y"}]}, "surrogate"),
        ({**MAGICODER, "lang": "cpp"}, "only Python"),
        ({**MAGICODER, "solution": "no program"}, "found 0 blocks"),
        ({**MAGICODER, "solution": MAGICODER["solution"] + "\n```python\nadd(1, 2)\n```"}, "found 2 blocks"),
        ({**MAGICODER, "solution": "```python\ndef (:\n```"}, "no Python"),
        ({"prompt": "x", "turns": []}, "at least one"),
        ({"prompt": "x", "turns": [{"text": "a", "calls": [{"name": "f"}]}]}, "status: expected one of"),
    ],
)  # fmt: skip
def test_what_cannot_be_converted_is_refused_with_the_reason(record, why):
    with pytest.raises(RecordProblem, match=re.escape(why)):
        sft_forms.FORMS[sft_forms.form_of(record)](record)


def test_bracketed_calls_come_back_from_how_python_writes_them():
    """Random arguments, written as Python or as JSON would."""
    draw = random.Random(5)

    def value(depth=0):
        kind = draw.randrange(8 if depth < 2 else 6)
        if kind < 2:
            return "".join(draw.choice("ab ,=()[]{}'\"\\\né") for _ in range(draw.randrange(9)))
        if kind < 6:
            return draw.choice([True, False, None, draw.randrange(-99, 99), draw.random() * 1e-7])
        if kind == 6:
            return [value(depth + 1) for _ in range(draw.randrange(3))]
        return {f"k{n}": value(depth + 1) for n in range(draw.randrange(3))}

    for _ in range(500):
        calls = [{"name": draw.choice(["f", "a.b", "Get It", "x/y_z"]), "arguments": {f"p{n}": value() for n in range(draw.randrange(4))}} for _ in range(draw.randrange(1, 4))]  # fmt: skip
        write = draw.choice([repr, json.dumps])
        text = ", ".join(f"{one['name']}({', '.join(f'{k}={write(v)}' for k, v in one['arguments'].items())})" for one in calls)  # fmt: skip
        assert bracketed(f"[{text}]") == calls


# ---------------------------------------------------------------- tokens

TEMPLATES = {
    "ChatML": CHATML,
    "Llama 2": "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] }} {{ eos_token }}{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}",
    "Zephyr": "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
}


def of_bytes():
    """A tokenizer to which every text has exactly one row of tokens."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: k for k, symbol in enumerate(symbols)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    found = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"]
    )
    found.chat_template = CHATML
    return found


def taken_apart(tokenizer, messages, ending):
    """(text up to the end of the last assistant's turn, [(from, to)] of its characters that the model says): what it says is replaced by marks, which show where a template puts it. Nothing of this is how
    the tokens are made."""
    marked = [
        {**one, "content": f"\u2042{k}\u2042" if one["role"] == "assistant" else one["content"]}
        for k, one in enumerate(messages)
    ]
    glue = re.split(r"\u2042(\d+)\u2042", tokenizer.apply_chat_template(marked, tokenize=False))
    text, spans = glue[0], []
    for k, after in zip(glue[1::2], glue[2::2], strict=True):
        assert after.startswith(ending)
        spans.append((len(text), len(text) + len(messages[int(k)]["content"]) + len(ending)))
        text += messages[int(k)]["content"] + after
    return text[: spans[-1][1]], spans


@pytest.mark.parametrize("template", list(TEMPLATES))
@pytest.mark.parametrize("form", list(ALL))
def test_what_is_learnt_is_what_the_model_says_and_no_more(template, form):
    tokenizer = of_bytes()
    tokenizer.chat_template = TEMPLATES[template]
    dialogue = Dialogue(tokenizer)
    for record in ALL[form]:
        common = sft_forms.FORMS[form](record)
        one = examples(common, "x", dialogue, 4096)
        ending = {"ChatML": "<|im_end|>", "Llama 2": " <|im_end|>", "Zephyr": "<|im_end|>"}[template]
        text, spans = taken_apart(tokenizer, chat_of(common), ending)
        ids = one.prompt + one.response
        assert ids == tokenizer.encode(text, add_special_tokens=False)  # one way to encode: nothing is missing or moved
        assert len(spans) == sum(turn["role"] == "assistant" for turn in chat_of(common))
        # of the first turn alone, as rollouts open it
        given = "<reason>" if form == "trajectory" or record is REASONS else ""
        want = [False] * len(tokenizer.encode(text, add_special_tokens=False))
        for number, (start, stop) in enumerate(spans):
            start += len(given) if number == 0 else 0
            at = len(tokenizer.encode(text[:start], add_special_tokens=False))
            for k in range(at, len(tokenizer.encode(text[:stop], add_special_tokens=False))):
                want[k] = True
        assert [False] * len(one.prompt) + one.mask == want and one.mask[0] and one.mask[-1]


def test_our_own_are_the_tokens_that_a_rollout_would_have_had():
    """Under a tokenizer to which a text may have several rows of tokens: prompt, turns and what stands between them are encoded apart, as they come in a rollout."""
    dialogue = Dialogue(ambiguous())
    one = examples(TURNS, "x", dialogue, 4096)
    end = [dialogue.tokenizer.eos_token_id]
    first, between, last = dialogue.encode(TURNS["turns"][0]["text"]) + end, dialogue.suffix([response(TURNS["turns"][0]["calls"][0])]), dialogue.encode(TURNS["turns"][1]["text"]) + end  # fmt: skip
    assert one.prompt == dialogue.prompt("6 * 7?") and one.response == first + between + last
    assert one.mask == [True] * len(first) + [False] * len(between) + [True] * len(last)


def test_a_transcript_of_ours_is_the_same_after_it_was_written_in_the_common_form(tmp_path):
    from grpo_roc.env.environment import Environment

    with Environment(level=LEVEL, workers=1, preload=()) as env:
        own = [TURNS, *made(9, 3, env.submit)]
    malformed = {**TURNS, "id": "m", "turns": [{"text": "</reason><tool_call>{bad</tool_call>", "calls": [{"name": "", "arguments": {}, "status": "invalid_call", "problem": "no JSON"}]}, {"text": "I stop.", "calls": []}]}  # fmt: skip
    wrote(tmp_path / "own.jsonl", [*own, malformed])
    done = grpo("sft", "--data", tmp_path / "own.jsonl", "--write-data", tmp_path / "common.jsonl")
    assert done.exit_code == 0 and "11 transcripts" in done.output
    dialogue = Dialogue(ambiguous())
    again = lines(tmp_path / "common.jsonl")
    for one, common in zip([*own, malformed], again, strict=True):
        assert set(common) == {"id", "messages", "tools"} and common["tools"] == [PYTHON]
        first, second = examples(one, "x", dialogue, 4096), examples(sft_forms.of_messages(common), "y", dialogue, 4096)
        assert (first.prompt, first.response, first.mask) == (second.prompt, second.response, second.mask)
    assert [bool(one["messages"][2].get("tool_calls")) for one in again] == [True] * 10 + [False]


def test_templates_that_rewrite_or_refuse_a_conversation_are_named():
    tokenizer = ambiguous()
    dialogue = Dialogue(tokenizer)
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(BadInput, match=r"a\.jsonl:3: the chat template refuses it: roles must alternate"):
        examples(sft_forms.of_messages(TULU), "a.jsonl:3", dialogue, 4096)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] if loop.last else m['content'][:1] }}<|im_end|>{% endfor %}"
    )
    with pytest.raises(BadInput, match="rewrites earlier turns"):
        examples(sft_forms.of_messages(TULU), "a.jsonl:3", dialogue, 4096)


# ---------------------------------------------------------------- the verb


def test_any_form_is_written_as_one_and_read_again(tmp_path):
    every = [record for records in ALL.values() for record in records]
    wrote(tmp_path / "a.jsonl", [*every, {"text": "no transcript"}, {**MAGICODER, "lang": "cpp"}])
    words = ["sft", "--data", tmp_path / "a.jsonl", "--write-data", tmp_path / "b.jsonl"]
    one_too_few = grpo(*words, "--skip-bad", 1)
    assert one_too_few.exit_code == 2 and "a.jsonl:12" in one_too_few.output and "only Python" in one_too_few.output
    assert not (tmp_path / "b.jsonl").exists()
    done = grpo(*words, "--skip-bad", 2)
    assert done.exit_code == 0 and "10 transcripts, 2 records left out" in done.output
    found = lines(tmp_path / "b.jsonl")
    assert all({"messages", "tools"} <= set(one) for one in found)
    assert grpo(*words, "--skip-bad", 2).exit_code == 2  # it is there
    words = ["sft", "--data", tmp_path / "b.jsonl", "--write-data", tmp_path / "c.jsonl"]
    assert grpo(*words, "--form", "messages").exit_code == 0
    assert (tmp_path / "c.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    wrong = grpo(*words, "--form", "glaive", "--overwrite")
    assert wrong.exit_code == 2 and "b.jsonl:1: chat: expected" in wrong.output


def test_a_model_learns_every_turn_of_what_others_wrote(tmp_path):
    """A chat of two turns, each answer given by its question: both are learnt, and one record that is none is told."""
    torch.set_num_threads(1)
    tokenizer = ambiguous()
    small(torch.float32, len(tokenizer), positions=2048).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    chats = [
        {"messages": [said for k in order for said in ({"role": "user", "content": "ab"[k] * 3}, {"role": "assistant", "content": "xy"[k] * 3})]}
        for order in ((0, 1), (1, 0), (0, 0), (1, 1))
    ]  # fmt: skip
    wrote(tmp_path / "data.jsonl", [*chats * 4, {"what": 1}])
    words = ["sft", "--model", tmp_path / "model", "--data", tmp_path / "data.jsonl", "--skip-bad", 1, "--lr", 0.01, "--epochs", 40, "--transcripts", 8, "--held-out", 0, "-o", tmp_path / "cold", "--level", LEVEL, "--workers", 1, "--dtype", "float32", "--device", "cpu"]  # fmt: skip
    done = grpo(*words)
    assert done.exit_code == 0, done.output
    assert "1 records are no transcripts" in done.output
    assert json.loads((tmp_path / "cold" / "manifest.json").read_text())["counts"]["skipped"] == 1
    log = lines(tmp_path / "cold" / "log.jsonl")
    assert log[-1]["loss"] < 0.05 < log[0]["loss"]
    from transformers import AutoModelForCausalLM

    lm = AutoModelForCausalLM.from_pretrained(tmp_path / "cold")
    for chat in chats:
        for k in (1, 3):
            text = tokenizer.apply_chat_template(chat["messages"][:k], tokenize=False, add_generation_prompt=True)
            ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
            said = lm.generate(ids, max_new_tokens=4, do_sample=False)[0, ids.shape[1] :]
            assert tokenizer.decode(said) == chat["messages"][k]["content"] + "<|im_end|>"
    assert grpo(*words, "--form", "messages").exit_code == 2  # another run's folder
