"""Training sets: every form and how it is told, and what is predicted."""

import csv
import hashlib
import io
import json
import os
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from longexp_sets import ALPACA, BARE, BPE, TURNS, WORDS, chat, load, words, wrong
from tiny_models import make_tokenizer

from longexp_peft.dataset import FORMS

EOS = 0
CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nhelp<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role + '\n' + m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def letters(merges=(), metaspace=False):
    """A BPE over single characters: SentencePiece's space before any text, or merges over anything side by side."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    symbols = sorted({*"abcdefghijklmnopqrstuvwxyz: \n▁", *("".join(merge) for merge in merges)})
    made = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(symbols)}, list(merges)))
    if metaspace:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    found = PreTrainedTokenizerFast(tokenizer_object=made)
    found.chat_template = BPE.chat_template
    return found


def tokens(text, tokenizer=BPE):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def spelled(example, tokenizer=BPE):
    """(what is given, what is predicted) where these are one after the other."""
    at = int(np.argmax(example.target))
    assert example.target[at:].all() and not example.target[:at].any()
    return tokenizer.decode(example.ids[:at]), tokenizer.decode(example.ids[at:])


@pytest.fixture
def stdin(monkeypatch):
    def give(content):
        raw = content if isinstance(content, bytes) else content.encode()
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(raw)))

    return give


# ---------------------------------------------------------------- forms


def test_prompt_and_completion(file):
    path = file([{"prompt": "what is one", "completion": " plus two", "id": 7}, {"prompt": "größer", "answer": "你好"}])
    data = load(path)
    first, second = data.examples
    assert first.ids.dtype == np.int32 and first.target.dtype == np.bool_
    assert first.ids.tolist() == [*tokens("what is one"), *tokens(" plus two"), EOS]
    assert first.target.tolist() == [False] * len(tokens("what is one")) + [True] * (len(tokens(" plus two")) + 1)
    assert spelled(second) == ("größer", "你好<eos>")
    assert [one.where for one in data.examples] == [f"{path}:1", f"{path}:2"]
    assert data.counts.examples == 2 and data.counts.truncated == data.counts.no_target == data.counts.skipped_bad == 0
    assert data.counts.tokens == len(first.ids) + len(second.ids)
    assert data.counts.target_tokens == first.target.sum() + second.target.sum()
    assert data.inputs == [{"path": path, "sha256": hashlib.sha256(open(path, "rb").read()).hexdigest()}]


@pytest.mark.parametrize("template", ["<s> $A", "<s> $A </s>", "$A </s>", "$A"])
def test_special_tokens_stand_in_front_and_never_behind_the_prompt(file, template):
    front = [0] if template.startswith("<s>") else []
    made = words(template)
    path = file([{"prompt": "a b", "completion": "c d"}, {"prompt": "", "completion": "c"}])
    for eos in (True, False):
        first, *rest = load(path, made, 13, eos=eos, skip_bad=1).examples
        end = [1] if eos else []
        assert first.ids.tolist() == [*front, 3, 4, 5, 6, *end]
        assert first.target.tolist() == [False] * (len(front) + 2) + [True] * (2 + eos)
        # An empty prompt will do as soon as something stands before something.
        assert [one.ids.tolist() for one in rest] == ([[*front, 5, *end]] if front or end else [])
        assert all(one.target.tolist() == [False, *[True] * (len(one.ids) - 1)] for one in rest)


def test_eos_is_not_doubled_and_not_needed(file):
    path = file([{"prompt": "a", "completion": "b </s>"}])
    assert load(path, WORDS, 13).examples[0].ids.tolist() == [0, 3, 4, 1]
    none = words(eos=None)
    assert none.pad_token is None and load(path, none, 13).examples[0].ids.tolist() == [0, 3, 4, 1]


def test_chat_predicts_every_assistant_turn_with_what_closes_it(file):
    path = file([chat(*TURNS), chat(*TURNS[:2], ("user", "stop")), chat(("system", "dog"), *TURNS[:2])])
    whole, trailing, system = load(path).examples
    expected = [
        ("user:what is one plus two?\nassistant:", False),
        ("three\n", True),
        ("user:and 你好\nassistant:", False),
        ("größer, 😀\n", True),
    ]
    ids, target = [], []
    for text, counts in expected:
        for token in tokens(text):
            ids.append(token)
            target.append(counts)
    assert whole.ids.tolist() == ids and whole.target.tolist() == target
    assert ids == tokens("".join(text for text, _ in expected))  # as the whole conversation is tokenised
    assert BPE.decode(trailing.ids[trailing.target]) == "three\n" and BPE.decode(trailing.ids).endswith("user:stop\n")
    assert BPE.decode(system.ids) == "system:dog\nuser:what is one plus two?\nassistant:three\n"


def test_chat_with_a_template_of_special_tokens_and_a_default_system_turn(file):
    made = make_tokenizer(CHATML)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    one = load(file([chat(*TURNS)]), made, len(made)).examples[0]
    end = made.convert_tokens_to_ids("<|im_end|>")
    assert one.ids.tolist() == made.apply_chat_template(chat(*TURNS)["messages"], return_dict=False)
    assert (one.ids == end).sum() == 5 and (one.ids[one.target] == end).sum() == 2
    assert made.decode(one.ids[one.target]) == "three<|im_end|>\ngrößer, 😀<|im_end|>\n"
    assert EOS not in one.ids  # the template closes the turns


def test_chat_tokens_are_those_of_the_whole_text_unless_one_spans_a_turn(file):
    path = file([chat(("user", "hi"), ("assistant", "hello"))])
    text = "user:hi\nassistant:hello\n"
    space = letters(metaspace=True)
    one = load(path, space, 200).examples[0]
    assert one.ids.tolist() == tokens(text, space)  # one space in front, none before the answer
    assert space.convert_ids_to_tokens(one.ids[one.target].tolist()) == list("hello\n")
    spans = letters(merges=[(":", "h")])
    one = load(path, spans, 200).examples[0]
    assert ":h" in spans.convert_ids_to_tokens(tokens(text, spans))
    assert spans.convert_ids_to_tokens(one.ids.tolist()) == [*"user", ":h", *"i\nassistant:hello\n"]
    assert spans.convert_ids_to_tokens(one.ids[one.target].tolist()) == list("hello\n")


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (
            "{% for m in messages %}{{ m.role }}:{% if loop.last %}(last){% endif %}{{ m.content }}\n{% endfor %}",
            "rewrites",
        ),
        (  # the thinking of all turns but the last is dropped
            "{% for m in messages %}{{ m.role }}:"
            "{{ m.content if loop.last else m.content.split('</think>')[-1] }}\n{% endfor %}"
            "{% if add_generation_prompt %}assistant:{% endif %}",
            "rewrites earlier turns",
        ),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}?{% endif %}", "rewrites"),
        ("{% for m in messages if m.role != 'assistant' %}{{ m.content }}\n{% endfor %}", "rewrites"),
        ("{{ raise_exception('no such luck') }}", "does not take the first 4: no such luck"),
    ],
)
def test_chat_templates_that_do_not_keep_what_was_said(file, template, told):
    made = make_tokenizer(template)
    thinking = [(role, f"<think>so</think>{text}" if role == "assistant" else text) for role, text in TURNS]
    path = file([chat(*thinking)])
    assert told in (text := wrong(path, made)) and text.startswith(f"{path}:1: messages")


def test_chat_needs_a_template(file):
    path = file([chat(*TURNS)])
    text = wrong(path, make_tokenizer(None), skip_bad=9)
    assert text == f"{path}: the model's tokenizer has no chat template; --chat-template FILE gives one"


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz", "a.ndjson.zst", "lines.json"])
def test_alpaca(file, name):
    path = file(json.dumps(ALPACA, indent=1) if "a.json" in name and "jsonl" not in name else ALPACA, name)
    data = load(path)
    assert [spelled(one) for one in data.examples] == [
        ("### Instruction:\nadd\n\n### Input:\none two\n\n### Response:", "\nthree<eos>"),
        ("### Instruction:\nstop\n\n### Response:", "\nhere<eos>"),
        ("### Instruction:\nstop\n\n### Response:", "\nhere<eos>"),
        ("Below is.\n### Response:", "\nthree ### Response: four<eos>"),
    ]
    lines = [2, 7, 11, 17] if "a.json" in name and "jsonl" not in name else [1, 2, 3, 4]
    assert [one.where for one in data.examples] == [f"{path}:{line}" for line in lines]


def test_an_array_may_hold_any_form(file):
    path = file(json.dumps([chat(*TURNS), chat(*TURNS[:2])]), "a.json")
    assert [BPE.decode(one.ids[one.target]) for one in load(path).examples] == ["three\ngrößer, 😀\n", "three\n"]


@pytest.mark.parametrize("header", ["mr,ref", "meaning_representation,human_reference", "ref,id,mr"])
def test_e2e(file, header):
    values = {"mr": "name[The Vaults], food[pub]", "meaning_representation": "name[The Vaults], food[pub]", "id": "1"}
    out = io.StringIO()
    rows = csv.writer(out)
    for text in ("The dog sleeps.", 'Said "so",\nand\r\nslept.', "three"):
        rows.writerow(values.get(name, text) for name in header.split(","))
    path = file(f"\ufeff{header}\n\n{out.getvalue()}", "e2e.csv")
    data = load(path)
    assert [spelled(one) for one in data.examples] == [
        ("name[The Vaults], food[pub] ||", " The dog sleeps.<eos>"),
        ("name[The Vaults], food[pub] ||", ' Said "so",\nand\r\nslept.<eos>'),
        ("name[The Vaults], food[pub] ||", " three<eos>"),
    ]
    assert [one.where.rsplit(":")[-1] for one in data.examples] == ["3", "4", "7"]


@pytest.mark.parametrize(
    ("header", "prompt"),
    [
        ("sentence\tlabel", 'sentence: a "b\nlabel:'),
        ("index\tsentence1\tsentence2\tlabel", 'sentence1: a "b\nsentence2: a "b\nlabel:'),
        ("question\tsentence\tlabel", 'question: a "b\nsentence: a "b\nlabel:'),
        ("question1\tquestion2\tlabel", 'question1: a "b\nquestion2: a "b\nlabel:'),
        ("premise\thypothesis\tlabel1\tgold_label", 'premise: a "b\nhypothesis: a "b\nlabel:'),
    ],
)
def test_glue(file, header, prompt):
    row = "\t".join("yes" if "label" in name else 'a "b' for name in header.split("\t"))
    path = file(f"{header}\r\n{row}\r\n\r\n{row}\r\n", "dev.tsv")
    data = load(path)
    assert [spelled(one) for one in data.examples] == [(prompt, " yes<eos>")] * 2
    assert data.examples[1].where == f"{path}:4"


def test_ids_need_no_tokenizer_and_get_no_eos(file):
    path = file([{"context": [5, 6], "completion": [7, 339]}, {"context": [], "completion": [1, 2]}])
    for tokenizer in (None, BPE):
        first, second = load(path, tokenizer).examples
        assert first.ids.tolist() == [5, 6, 7, 339] and first.target.tolist() == [False, False, True, True]
        assert second.ids.tolist() == [1, 2] and second.target.tolist() == [False, True]
    for record in ({"prompt": "a", "completion": "b"}, chat(*TURNS), {"text": "a b"}):
        assert "needs a tokenizer" in wrong(file([record], "other.jsonl"), None, skip_bad=1)


@given(n=st.integers(2, 40), width=st.integers(2, 12))
def test_a_document_is_cut_into_pieces_that_are_the_document(tmp_path_factory, n, width):
    path = tmp_path_factory.getbasetemp() / "document.txt"
    path.write_text("a " * n)
    data = load(str(path), BARE, 13, max_length=width, eos=False)
    lengths = [len(one.ids) for one in data.examples]
    lone = int(width == 2 and n % 2)  # a last token that no piece can take
    assert sum(lengths) == n - lone and min(lengths) >= 2 and max(lengths) <= width
    assert all(one.target.tolist() == [False, *[True] * (len(one.ids) - 1)] for one in data.examples)
    assert data.counts.truncated == 0 and data.counts.no_target == lone


def test_text(file):
    path = file("\ufeffa b\n\nc\n", "book.TXT")
    one = load(path, WORDS, 13).examples[0]
    assert one.ids.tolist() == [0, 3, 4, 5, 1] and one.target.tolist() == [False, True, True, True, True]
    assert one.where == f"{path}:1"
    documents = load(file([{"text": "a b"}, {"text": "c"}]), WORDS, 13).examples
    assert [one.ids.tolist() for one in documents] == [[0, 3, 4, 1], [0, 5, 1]]
    assert [one.target.sum() for one in documents] == [3, 2]


# ---------------------------------------------------------------- which form


@pytest.mark.parametrize(
    ("name", "content", "given"),
    [
        ("x.csv", "mr,ref\na,b\n", "a ||"),
        ("x.CSV.gz", "mr,ref\na,b\n", "a ||"),
        ("x.tsv.zst", "sentence\tlabel\na\tb\n", "sentence: a\nlabel:"),
        ("x.json", '[{"instruction": "a", "output": "b"}]', "### Instruction:\na\n\n### Response:"),
        ("x.json", '{"prompt": "a", "completion": "b"}\n', "a"),
        ("x.jsonl", '\n[{"prompt": "a", "completion": "b"}]', "a"),
        ("x.jsonl", '{"context": [65], "completion": [66, 67]}', "A"),
        ("x", '{"prompt": "a", "answer": "b"}', "a"),
        ("x.jsonl", '{"text": "a### Response:b"}', "a### Response:"),
        ("x.md", "# the dog", "#"),
        ("x.jsonl", '{"text": "# the dog"}', "#"),
    ],
)
def test_auto(file, name, content, given):
    made = make_tokenizer()
    context, _ = spelled(load(file(content, name), made).examples[0], made)
    assert context == (given if name != "x.jsonl" or "context" not in content else made.decode([65]))


def test_auto_that_cannot_tell(file):
    forms = ", ".join(FORMS[1:])
    path = file([{"question": "a", "choices": []}])
    assert wrong(path, skip_bad=5) == (
        f'{path}:1: expected the fields of a form that is known, got "question", "choices"; --form: {forms}'
    )
    path = file("some,thing", "x.dat")
    assert wrong(path) == f"{path}: its name and its beginning tell no form; --form: {forms}"
    assert len(load(path, form="text").examples) == 1
    assert wrong(path, form="csv") == f"--form csv: expected one of auto, {forms}"


def test_the_first_record_settles_the_form(file):
    path = file([{"prompt": "a", "completion": "b"}, chat(*TURNS)])
    assert wrong(path) == f"{path}:2: prompt: expected a string, got nothing"
    path = file([{"text": "a b"}, {"text": "a\n### Response:\nb"}])
    assert wrong(path).startswith(f"{path}:2: text: expected plain text as in the first record, got one with")
    assert len(load(path, form="text").examples) == 2
    assert wrong(path, form="alpaca") == f'{path}:1: text: expected `### Response:` in it, got "a b"'
    # What is malformed settles nothing, and is the first to be told of.
    path = file('{"prompt"\n{"text": "a b"}\n')
    assert wrong(path).startswith(f"{path}:1: expected one JSON object a line")
    assert len(load(path, skip_bad=1).examples) == 1


@pytest.mark.parametrize("form", ["prompt", "e2e", "glue", "text"])
def test_form_overrules_the_name(file, form):
    content = {
        "prompt": '{"prompt": "a", "completion": "b"}',
        "e2e": "mr,ref\na,b",
        "glue": "sentence\tlabel\na\tb",
        "text": "mr,ref\na,b",
    }[form]
    for name in ("x.csv", "x.log"):
        assert len(load(file(content, name), form=form).examples) == 1


# ---------------------------------------------------------------- stdin, several files, limit


@pytest.mark.parametrize(
    ("content", "form", "given"),
    [
        ('{"prompt": "a", "completion": "b"}\n', "auto", "a"),
        ('\n [{"instruction": "a", "output": "b"}]\n', "auto", "### Instruction:\na\n\n### Response:"),
        ("the dog, {sleeps}", "auto", "the"),
        ('{"text": "the dog"}', "text", "the"),
        ("[the] dog", "text", "["),
        ("mr,ref\na,b\n", "e2e", "a ||"),
        ("sentence\tlabel\na\tb\n", "glue", "sentence: a\nlabel:"),
    ],
)
def test_stdin(stdin, content, form, given):
    stdin(content)
    data = load("-", form=form)
    assert spelled(data.examples[0])[0] == given
    assert data.examples[0].where.startswith("<stdin>:")
    assert data.inputs == [{"path": "-", "sha256": hashlib.sha256(content.encode()).hexdigest()}]


def test_no_path_is_stdin_and_twice_is_none(stdin):
    stdin('{"prompt": "a", "completion": "b"}\n{}')
    assert wrong([]) == "<stdin>:2: prompt: expected a string, got nothing"
    assert "stdin can be read once" in wrong(["-", "-"])
    stdin("")
    assert wrong("-").startswith("-: no example in it: 0 records read")


def test_a_named_pipe_is_read_once(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    content = b'{"prompt": "a", "completion": "b"}\n'
    writer = threading.Thread(target=path.write_bytes, args=(content,), daemon=True)
    writer.start()
    data = load(str(path))
    assert data.examples[0].where == f"{path}:1" and data.inputs[0]["sha256"] == hashlib.sha256(content).hexdigest()


def test_files_in_order_each_with_its_form_and_limit(file):
    paths = [
        file([{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": "b"}], "x.jsonl"),
        file("mr,ref\na,b\n", "y.csv"),
        file("c d", "z.txt.gz"),
        file('{"prompt": 1}', "bad.jsonl"),
    ]
    data = load(paths[:3])
    assert [one.where for one in data.examples] == [f"{paths[0]}:1", f"{paths[0]}:2", f"{paths[1]}:2", f"{paths[2]}:1"]
    assert [one["path"] for one in data.inputs] == paths[:3]
    assert data.inputs[2]["sha256"] == hashlib.sha256(open(paths[2], "rb").read()).hexdigest()
    assert [one.where for one in load(paths, limit=4).examples] == [one.where for one in data.examples]
    assert load(paths, limit=3).counts.examples == 3
    assert "no example in it" in wrong(paths, limit=0)
    assert load(paths[1:2] * 2).counts.examples == 2


# ---------------------------------------------------------------- --template


def test_template(file):
    template = file("Q: $prompt\nA:\n", "t.txt")
    one = load(file([{"prompt": "a $b", "completion": " c"}]), template=template).examples[0]
    assert spelled(one) == ("Q: a $b\nA:", " c<eos>")
    template = file("$instruction|$input|", "t.txt")
    path = file([*ALPACA[:2]])
    assert [spelled(one)[0] for one in load(path, template=template).examples] == ["add|one two|", "stop||"]
    assert "instruction: expected a string, got nothing" in wrong(file(ALPACA[3:]), template=template)
    template = file("$mr", "t.txt")
    assert spelled(load(file("mr,ref\na,b", "x.csv"), template=template).examples[0]) == ("a", " b<eos>")
    template = file("$question? $sentence", "t.txt")
    path = file("question\tsentence\tlabel\na\tb\tc", "x.tsv")
    assert spelled(load(path, template=template).examples[0]) == ("a? b", " c<eos>")
    assert "$question is not a field; known are $mr" in wrong(file("mr,ref\na,b", "x.csv"), template=template)
    missing = wrong(file("mr,ref\na,b", "x.csv"), template="none.txt", skip_bad=5)
    assert missing == "--template none.txt: no such file"  # no record's fault
    assert "whose records have no prompt to fill in" in wrong(file([chat(*TURNS)]), template=template)
