"""Training sets at their limits: lengths and truncation, bad input with its line."""

import gzip
import json
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from longexp_sets import ALPACA, BARE, TURNS, WORDS, chat, load, words, wrong

from tenfold_shared import BadInput

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
