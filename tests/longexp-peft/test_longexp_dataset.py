"""Training sets: every form and how it is told, what is predicted, lengths, bad input with its line."""

import csv
import gzip
import hashlib
import io
import json
import os
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import make_tokenizer

from longexp_peft.dataset import FORMS, read
from tenfold_shared import BadInput

BPE = make_tokenizer()
VOCAB = 340
EOS = 0
CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nhelp<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role + '\n' + m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def words(template="<s> $A", bos="<s>", eos="</s>"):
    """A WordLevel tokenizer with the special tokens of TEMPLATE: what OPT's and BERT's do, with ids one can read."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {word: i for i, word in enumerate(["<s>", "</s>", "?", *"abcdefghij"])}
    made = Tokenizer(models.WordLevel(vocab, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template:
        made.post_processor = processors.TemplateProcessing(template, special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, **({"bos_token": bos} if bos else {}), eos_token=eos)


WORDS = words()
BARE = words(template="", bos=None)


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
def file(tmp_path):
    """Writes a file and returns its path; records become JSON Lines."""

    def write(content, name="data.jsonl"):
        if isinstance(content, list):
            content = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in content)
        content = content.encode() if isinstance(content, str) else content
        if name.endswith(".gz"):
            content = gzip.compress(content)
        elif name.endswith(".zst"):
            content = zstandard.compress(content)
        path = tmp_path / name
        path.write_bytes(content)
        return str(path)

    return write


@pytest.fixture
def stdin(monkeypatch):
    def give(content):
        raw = content if isinstance(content, bytes) else content.encode()
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(raw)))

    return give


def load(path, tokenizer=BPE, vocab=VOCAB, max_length=512, **more):
    return read([path] if isinstance(path, str) else path, tokenizer, vocab, max_length=max_length, **more)


def wrong(path, *args, **more):
    with pytest.raises(BadInput) as caught:
        load(path, *args, **more)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500
    return text


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


def chat(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


TURNS = [("user", "what is one plus two?"), ("assistant", "three"), ("user", "and 你好"), ("assistant", "größer, 😀")]


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


ALPACA = [
    {"instruction": "add", "input": "one two", "output": "three"},
    {"instruction": "stop", "output": "here"},
    {"instruction": "stop", "input": "", "output": "here", "text": "else"},
    {"text": "Below is.\n### Response:\nthree ### Response: four"},
]


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


# ---------------------------------------------------------------- lengths

counted = settings(max_examples=150, deadline=None)


def one_pair(folder, tokenizer, prompt, completion, **more):
    path = folder / "pair.jsonl"
    path.write_text(json.dumps({"prompt": " ".join("abcde"[:1] * prompt), "completion": " ".join("f" * completion)}))
    try:
        data = load(str(path), tokenizer, 13, **more)
    except BadInput as error:
        assert "no example in it" in str(error)
        return None, None
    return data.examples[0], data.counts


@counted
@given(
    prompt=st.integers(1, 12),
    completion=st.integers(1, 12),
    width=st.integers(2, 16),
    bos=st.booleans(),
    truncate=st.sampled_from(["prompt", "end", "drop"]),
)
def test_no_example_is_longer_than_it_may_be(tmp_path_factory, prompt, completion, width, bos, truncate):
    tokenizer = WORDS if bos else BARE
    one, counts = one_pair(
        tmp_path_factory.getbasetemp(), tokenizer, prompt, completion, max_length=width, truncate=truncate
    )
    before, after = [0] * bos + [3] * prompt, [8] * completion + [1]
    fits = len(before) + len(after) <= width
    if fits:
        assert one.ids.tolist() == before + after and counts.truncated == 0
        assert one.target.tolist() == [False] * len(before) + [True] * len(after)
    elif truncate == "drop":
        assert one is None
    elif truncate == "end":
        assert (one is None) == (width <= len(before))
        if one is not None:
            assert one.ids.tolist() == (before + after)[:width] and one.target.sum() == width - len(before)
    else:
        assert counts.truncated == 1 and len(one.ids) == width and not one.target[0]
        if bos:
            assert one.ids[0] == 0  # the BOS stays
        room = width - bos
        if len(after) <= room:  # the completion is whole, and before it the prompt's end
            assert one.ids[-len(after) :].tolist() == after
            assert one.target.sum() == len(after) - (len(after) == width)
        else:
            assert one.ids[bos:].tolist() == after[:room]
    if one is not None:
        assert 2 <= len(one.ids) <= width and one.target.any()


def test_truncation_of_a_prompt_keeps_its_end(file):
    path = file([{"prompt": "a b c d", "completion": "e f"}])
    cut = load(path, WORDS, 13, max_length=6)
    assert cut.examples[0].ids.tolist() == [0, 5, 6, 7, 8, 1]
    assert load(path, BARE, 13, max_length=5).examples[0].ids.tolist() == [5, 6, 7, 8, 1]
    ids = file([{"context": [0, 9, 9, 9], "completion": [5, 6]}], "ids.jsonl")
    assert load(ids, None, 13, max_length=3).examples[0].ids.tolist() == [9, 5, 6]
    assert load(ids, WORDS, 13, max_length=3).examples[0].ids.tolist() == [0, 5, 6]  # its BOS is known by the tokenizer


def test_truncation_counts(file):
    path = file([{"prompt": "a b c d", "completion": "e"}, {"prompt": "a", "completion": "b"}])
    for truncate, counts in (("prompt", (2, 1, 0)), ("end", (1, 1, 1)), ("drop", (1, 1, 0))):
        found = load(path, WORDS, 13, max_length=4, truncate=truncate).counts
        assert (found.examples, found.truncated, found.no_target) == counts
    assert wrong(path, WORDS, 13, max_length=2, truncate="end") == (
        f"{path}: no example in it: 2 records read, 0 bad ones passed over, 2 longer than 2 tokens, "
        "2 with nothing left to predict"
    )
    assert wrong(path, max_length=1) == "--max-length: expected 2 or more, got 1"
    assert wrong(path, truncate="left") == "--truncate left: expected one of prompt, end, drop"


def test_truncation_of_a_chat_keeps_its_last_answer(file):
    made = words()
    made.chat_template = (
        "<s> {% for m in messages %}{{ 'a' if m.role == 'assistant' else 'b' }} {{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}a {% endif %}"
    )
    path = file([chat(("user", "c d"), ("assistant", "e"), ("user", "f g"), ("assistant", "h i"))])
    full = load(path, made, 13).examples[0]
    assert made.decode(full.ids) == "<s> b c d a e b f g a h i"
    assert made.decode(full.ids[full.target]) == "e h i"
    cut = load(path, made, 13, max_length=8).examples[0]
    assert made.decode(cut.ids) == "<s> e b f g a h i" and made.decode(cut.ids[cut.target]) == "e h i"
    short = load(path, made, 13, max_length=4).examples[0]
    assert made.decode(short.ids) == "<s> a h i" and made.decode(short.ids[short.target]) == "h i"
    least = load(path, made, 13, max_length=2).examples[0]
    assert made.decode(least.ids) == "<s> h" and least.target.tolist() == [False, True]


# ---------------------------------------------------------------- bad input

GOOD = {
    "prompt": {"prompt": "a", "completion": "b"},
    "chat": chat(*TURNS),
    "alpaca": ALPACA[0],
    "ids": {"context": [1], "completion": [2]},
    "text": {"text": "the dog"},
}
BAD = [
    ("prompt", {"prompt": "a", "completion": ""}, "completion: expected some text, got none"),
    ("prompt", {"prompt": "a", "completion": " \n"}, "completion: expected some text, got none"),
    ("prompt", {"prompt": "a"}, "completion: expected a string, got nothing"),
    ("prompt", {"prompt": None, "completion": "b"}, "prompt: expected a string, got null"),
    ("prompt", {"prompt": "a", "answer": ["b", "c"]}, 'answer: expected a string, got ["b", "c"]'),
    ("prompt", {"prompt": "a\0", "completion": "b"}, "prompt: expected text, got a NUL character"),
    ("chat", {"messages": []}, "messages: expected a list of turns, got []"),
    ("chat", {"messages": "a"}, 'messages: expected a list of turns, got "a"'),
    ("chat", {"messages": ["a"]}, 'messages[0]: expected an object with `role` and `content`, got "a"'),
    ("chat", {"messages": [{"content": "a"}]}, "messages[0].role: expected a string, got nothing"),
    ("chat", {"messages": [{"role": "user", "content": None}]}, "messages[0].content: expected a string, got null"),
    ("chat", chat(TURNS[0]), "messages: expected an assistant turn, got none"),
    ("chat", chat(TURNS[0], ("assistant", "")), "messages[1].content: expected some text, got none"),
    ("chat", chat(("tool", "a"), TURNS[1]), "messages: the chat template does not take the first 2: no tools here"),
    ("alpaca", {"instruction": "a"}, "output: expected a string, got nothing"),
    ("alpaca", {"instruction": "a", "input": 3, "output": "b"}, "input: expected a string, got 3"),
    ("alpaca", {"instruction": "a", "output": "\n"}, "output: expected some text, got none"),
    ("alpaca", {"text": "a### Response:\n"}, "text: expected some text after `### Response:`, got none"),
    ("ids", {"context": [1, 340], "completion": [2]}, "context[1]: expected a token id of 0 to 339, got 340"),
    ("ids", {"context": [1], "completion": [2, -1]}, "completion[1]: expected a token id of 0 to 339, got -1"),
    ("ids", {"context": [True], "completion": [2]}, "context[0]: expected a token id of 0 to 339, got true"),
    ("ids", {"context": [1.0], "completion": [2]}, "context[0]: expected a token id of 0 to 339, got 1.0"),
    ("ids", {"context": ["1"], "completion": [2]}, 'context[0]: expected a token id of 0 to 339, got "1"'),
    ("ids", {"context": [10**30], "completion": [2]}, f"context[0]: expected a token id of 0 to 339, got {10**30}"),
    ("ids", {"context": [1], "completion": []}, "completion: expected some token ids, got none"),
    ("ids", {"context": [], "completion": [1]}, "completion: expected two ids or more after an empty context, got 1"),
    ("ids", {"completion": [1]}, "context: expected a list of token ids, got nothing"),
    ("text", {"text": "\t"}, "text: expected some text, got none"),
    ("text", {}, "text: expected a string, got nothing"),
    ("text", ["a"], 'expected a JSON object, got ["a"]'),
]


@pytest.mark.parametrize(("form", "record", "told"), BAD)
def test_bad_records(file, capsys, form, record, told):
    path = file("".join(f"{json.dumps(one)}\n" for one in (GOOD[form], record, GOOD[form])).replace("\n", "\n\n", 1))
    assert wrong(path) == f"{path}:3: {told}"
    data = load(path, skip_bad=1)
    assert data.counts.skipped_bad == 1 and [one.where for one in data.examples] == [f"{path}:1", f"{path}:4"]
    assert f"skipped: {path}:3: {told}" in capsys.readouterr().err
    # The same as an element of an array.
    path = file("[\n" + ",\n".join(map(json.dumps, (GOOD[form], record))) + "\n]", "a.json")
    assert wrong(path) == f"{path}:3: {told}"


def test_skip_bad_tolerates_so_many(file):
    path = file('{"prompt": "a", "completion": "b"}\n{"prompt": 1}\nno json\n\x00\n')
    assert load(path, skip_bad=3).counts.skipped_bad == 3
    assert wrong(path, skip_bad=2).startswith(f"{path}:4: expected one JSON object a line")
    assert wrong(path, skip_bad=1).startswith(f"{path}:3: expected one JSON object a line")
    assert "no example in it: 0 records read, 1 bad ones" in wrong(file("{\n"), skip_bad=5)


def test_too_few_tokens(file):
    path = file([{"prompt": "", "completion": "b"}])
    assert wrong(path, BARE, 13, eos=False) == (
        f"{path}:1: completion: expected two tokens or more after an empty prompt, got 1"
    )
    assert wrong(file([{"text": "b"}]), BARE, 13, eos=False) == f"{path}:1: text: expected two tokens or more, got 1"


def test_a_tokenizer_of_another_model(file):
    path = file([{"prompt": "a", "completion": "😀"}])
    assert wrong(path, vocab=20).startswith(f"{path}:1: expected token ids below the model's 20, got ")


@pytest.mark.parametrize(
    ("name", "content", "line", "told"),
    [
        ("x.jsonl", b'{"prompt": "a", "completion": "b"}\n{"prompt": "\xff"}\n', ":2", "expected UTF-8"),
        (
            "x.jsonl",
            b'{"prompt": "a", "completion": "b"}\n{"prompt": "\x00"}\n',
            ":2",
            "expected one JSON object a line",
        ),
        ("x.json", b'[\n{"instruction": "\xff"}]', ":2", "expected UTF-8: invalid start byte at byte 19"),
        ("x.json", b'[{"instruction": "a", "output": "b"},\n\n{"a" 1}]', ":3", "expected a JSON array: Expecting ':'"),
        ("x.json", b'[{"instruction": "a", "output": "b"}\n{}]', ":2", 'expected `,` or `]` after a record, got "{"'),
        ("x.json", b'[{"instruction": "a", "output": "b"}\n', ":2", "expected `,` or `]` after a record, got the end"),
        ("x.json", b'[{"instruction": "a", "output": "b"},\n]', ":2", "expected a JSON array: Expecting value"),
        ("x.json", b'[{"instruction": "a", "output": "b"}]\n\n{}', ":3", 'expected nothing after the array, got "{"'),
        ("x.json", b"[" * 100_000, ":1", "expected a JSON array: maximum recursion depth"),
        ("x.json", b'[{"instruction": ' + b"9" * 5000 + b"}]", ":1", "expected a JSON array: Exceeds the limit"),
        ("x.json", b'[\n\n{"instruction": "\\ud800", "output": "b"}]', ":3", "instruction: expected text, got"),
        ("x.json", b"[ ]", "", "no example in it"),
        ("x.txt", b"the dog\nsl\xffeps", ":2", "expected UTF-8: invalid start byte at byte 10"),
        ("x.txt", b"the dog\n\nsl\x00eps", ":3", "expected text, got a NUL byte"),
        ("x.txt", b" \n", ":1", "text: expected some text, got none"),
        ("x.txt", b"", ":1", "text: expected some text, got none"),
        ("x.jsonl", b"", "", "no example in it"),
        ("x.csv", b"", "", "no example in it"),
        ("x.csv", b"mr,ref\n", "", "no example in it"),
        ("x.csv", b"mr\na\n", ":1", "header: expected the columns mr,ref or meaning_representation,human_reference"),
        ("x.csv", b'mr,ref\n"a\nb",c\na,"\nd\xff"\n', ":4", 'ref: expected text, got "\\udcff", which is no UTF-8'),
        ("x.csv", b"mr,ref\na,b\x00\n", ":2", "ref: expected text, got a NUL character"),
        ("x.csv", b'mr,ref\n"a\n\nb",c\na,b,c\n', ":5", "expected 2 columns, got 3"),
        ("x.csv", b'mr,ref\na,b\na,"b\nc,d\n', ":3", "expected CSV: unexpected end of data"),
        ("x.csv", b'mr,ref\n"a"b,c\n', ":2", "expected CSV: ',' expected after '\"'"),
        ("x.csv", b'mr,ref\na," "\n', ":2", "ref: expected some text, got none"),
        ("x.tsv", b"sentence\na\n", ":1", "label: expected such a column"),
        ("x.tsv", b"text\tlabel\na\tb\n", ":1", "header: expected the columns sentence1,sentence2; question1,"),
        (
            "x.tsv",
            b"sentence\tlabel\na\t1\n\na\t-1\n",
            ":4",
            'label: expected a label, got "-1", which stands for none',
        ),
        ("x.tsv", b"sentence\tlabel\na\t1\nb\n", ":3", "expected 2 columns, got 1"),
        ("x.tsv", b"sentence\tlabel\na\t \n", ":2", "label: expected some text, got none"),
        ("x.tsv", b"sentence\tlabel\n\xff\t1\n", ":2", "sentence: expected text"),
    ],
)
def test_malformed_files(file, name, content, line, told):
    path = file(content, name)
    assert wrong(path).startswith(f"{path}{line}: {told}")


def test_bad_rows_of_tables_are_skipped(file):
    path = file(b'mr,ref\na,b\na,"x"y\na,b,c\na,\xff\nc,"d\ne"\nf,g\n', "x.csv")
    data = load(path, skip_bad=3)
    assert [one.where.rsplit(":")[-1] for one in data.examples] == ["2", "6", "8"] and data.counts.skipped_bad == 3


def test_files_that_cannot_be_read(file, tmp_path):
    assert wrong(str(tmp_path / "none.jsonl")) == f"{tmp_path}/none.jsonl: no such file"
    assert "is a directory" in wrong(str(tmp_path))
    good = file([GOOD["prompt"]], "good.jsonl")
    assert "no such file" in wrong([good, "none.txt"], limit=1)  # before anything is read
    lines = "".join(json.dumps({"prompt": str(i), "completion": str(i**9)}) + "\n" for i in range(3000))
    table = "mr,ref\n" + "".join(f"{i},{i**9}\n" for i in range(3000))
    for name in ("x.jsonl.gz", "x.csv.gz", "x.txt.gz", "x.json.gz", "x.jsonl.zst", "x.csv.zst"):
        path = file({"x.csv": table, "x.json": f"[{lines}"}.get(name.rsplit(".", 1)[0], lines), name)
        whole = open(path, "rb").read()
        open(path, "wb").write(whole[: len(whole) // 2])
        text = wrong(path, skip_bad=10**6)
        assert text.startswith(path) and text.endswith("is the file complete?")
    path = file(b"", "plain.jsonl.gz")
    open(path, "wb").write(b"no gzip")
    assert "cannot be read" in wrong(path)


def test_a_cut_pipe_named_gz(tmp_path):
    path = tmp_path / "pipe.gz"
    os.mkfifo(path)
    content = gzip.compress(b'{"prompt": "a", "completion": "b"}\n')[:-9]
    threading.Thread(target=path.write_bytes, args=(content,), daemon=True).start()
    assert wrong(str(path)).endswith("is the file complete?")
