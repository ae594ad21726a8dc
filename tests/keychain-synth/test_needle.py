"""Needle rows against oracles that read the prompt alone: regular expressions, the tokenizer, RULER's own formulas.

Nothing here calls what made a row to check it; `meta` is held against what the text says.
"""

import collections
import gzip
import json
import os
import re
import shutil
import string
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import BIN, keychain

from keychain_synth import book, needle
from keychain_synth.tokens import Tokenizer
from tenfold_shared import BadInput

NEEDLE = re.compile(r"The secret (number|uuid|word) of (\S+) is: (\S+)\.")
ASSIGNED = re.compile(r"VAR ([A-Z]{5}) = (?:VAR ([A-Z]{5})|(\d{5}))\.?")
NOISE = "The field is wide. The wind is low. The rain is over. On we walk. Home is near."
SENTENCES = [
    f"{start} {'and more ' * (7 * n % 23)}{n} {end}"
    for n in range(97)
    for start, end in [("The ship left the bay in year", "of the count."), ("Who saw it at mile", "of the road?")]
]


@pytest.fixture(scope="module")
def words():
    return Tokenizer("smollm2")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(" ".join(SENTENCES[at : at + 5]) for at in range(0, len(SENTENCES), 5)))
    return str(path)


def make(out, tokenizer="smollm2", kind="single", lengths=(512,), depths="0,33,50,100", haystack="noise", per_depth=1,
         output="rows.jsonl", **more):  # fmt: skip
    """Rows through the verb, as records."""
    numbers = {name: more.pop(name, None) for name in ("keys", "values", "queries", "hops")}
    test = needle.settings(kind, **numbers, **more)
    code = needle.run(test, tokenizer=tokenizer, lengths=lengths, depths=depths, haystack=haystack, per_depth=per_depth,
                      output=str(out / output), overwrite=True, max_time=None, quiet=True)  # fmt: skip
    assert code == 0
    return [json.loads(line) for line in (out / output).read_text().splitlines()]


def said(row):
    return row["messages"][-1]["content"] if "messages" in row else row["prompt"]


def parts(row):
    """(instruction, haystack with needles, question), told apart by their first and last line breaks."""
    before, rest = said(row).split("\n", 1)
    context, after = rest.lstrip("\n").rsplit("\n", 1)
    return before, context, after


def units(row, haystack):
    """(sentences of the haystack, index of the sentence each needle stands before), read from the text."""
    _, context, _ = parts(row)
    pattern = ASSIGNED if "VAR " in context else NEEDLE
    if haystack == "text":
        pieces = re.split(
            r"(?<=[.?]) (?=The ship|Who saw|The secret|VAR)|(?<=\.) (?=The ship|Who saw|The secret|VAR)", context
        )
    else:
        pieces = context.split("\n")
    sentences, places = [], []
    for piece in pieces:
        if pattern.fullmatch(piece):
            places.append((piece, len(sentences)))
        else:
            sentences.append(piece)
    return sentences, places


GRID = [
    ("single", {}, "text"),
    ("single", {"value_type": "uuids"}, "text"),
    ("single", {"value_type": "words"}, "noise"),
    ("single", {"key_type": "numbers"}, "text"),
    ("multikey", {"keys": 6}, "text"),
    ("multivalue", {"values": 5, "keys": 2}, "noise"),
    ("multiquery", {"queries": 3, "keys": 5}, "text"),
    ("variable-tracking", {}, "noise"),
    ("variable-tracking", {"keys": 3, "hops": 2}, "text"),
]


@pytest.mark.parametrize("messages", [True, False], ids=["chat", "prompt"])
@pytest.mark.parametrize(("kind", "more", "haystack"), GRID)
def test_length_and_depth_from_the_text_alone(words, text, tmp_path, kind, more, haystack, messages):
    lengths, reserve = (700, 1300), 64
    rows = make(tmp_path, kind=kind, lengths=lengths, haystack=text if haystack == "text" else haystack,
                reserve=reserve, messages=messages, **more)  # fmt: skip
    assert [(row["meta"]["length"], row["meta"]["depth"]) for row in rows] == [
        (length, depth) for length in lengths for depth in (0, 33, 50, 100)
    ]
    joint = "\n" if haystack == "noise" else " "
    for row in rows:
        meta = row["meta"]
        whole = words.render(row["messages"]) if messages else row["prompt"]
        tokens = len(words.encode(whole, not messages).ids)
        assert tokens == meta["tokens"] and tokens + reserve <= meta["length"]
        sentences, places = units(row, haystack)
        longest = max(words.counts([joint + each for each in sentences]))
        assert tokens + reserve >= meta["length"] - max(longest, 0.01 * meta["length"])
        # The haystack is whole sentences of the source, one after the other, read on from its start at its end.
        source = SENTENCES if haystack == "text" else [NOISE]
        start = source.index(sentences[0])
        assert sentences == [source[(start + at) % len(source)] for at in range(len(sentences))]
        # Of all boundaries the needle stands at the one nearest to the depth, counted in tokens of the bare haystack.
        ends = words.counts([joint.join(sentences[:at]) for at in range(len(sentences) + 1)])
        anchor = meta["needles"][meta["anchor"]]
        [place] = [at for piece, at in places if said(row)[anchor["offset"] :].startswith(piece)]
        target = meta["depth"] / 100 * ends[-1]
        assert abs(ends[place] - target) <= min(abs(end - target) for end in ends) + 1
        assert anchor["depth"] == pytest.approx(100 * ends[place] / ends[-1], abs=0.3)
        # Every needle told of is there, where it is told to be, once; and no other.
        assert [said(row)[each["offset"] : each["offset"] + each["length"]] for each in meta["needles"]] == [
            piece for piece, _ in places
        ]
        for piece, _ in places:
            assert said(row).count(piece) == 1
        encoding = words.encode(whole, not messages)
        into = whole.index(said(row))
        for each in meta["needles"]:
            begin, end = encoding.offsets[each["token"]]
            assert begin <= into + each["offset"] < end or begin <= into + each["offset"] == end - 1


@pytest.mark.parametrize(("kind", "more", "haystack"), [case for case in GRID if case[0] != "variable-tracking"])
def test_what_is_asked_for_is_what_the_needles_say(text, tmp_path, kind, more, haystack):
    rows = make(tmp_path, kind=kind, haystack=text if haystack == "text" else haystack, lengths=(900,), **more)
    for row in rows:
        before, context, after = parts(row)
        found = collections.defaultdict(list)
        for _, key, value in NEEDLE.findall(context):
            found[key].append(value)
        asked = re.search(r" of (.+) in the text above\?$", after)[1]
        keys = re.split(r", and |, ", asked)
        assert len(keys) == more.get("queries", 1) and set(keys) <= set(found)
        assert len(found) == max(more.get("keys", 1), len(keys))
        assert sorted(row["answer"]) == sorted(value for key in keys for value in found[key])
        assert all(len(values) == more.get("values", 1) for values in found.values())
        several = len(row["answer"]) > 1
        assert row["meta"]["match"] == ("all" if several else "any")
        assert before.startswith("Some" if several else "A secret")
        told = {(each["key"], each["value"]): each["asked"] for each in row["meta"]["needles"]}
        assert told == {(key, value): key in keys for key, values in found.items() for value in values}
        # An answer stands in the whole prompt once, without case, so that only its needle can have told it.
        for answer in row["answer"]:
            assert said(row).casefold().count(answer.casefold()) == 1
        assert [each["value"] for each in row["meta"]["needles"]][row["meta"]["anchor"]] == row["answer"][0]


def resolve(text):
    """{number: variables that hold it}, by repeating the assignments until nothing changes."""
    steps = [(name, other or number) for name, other, number in ASSIGNED.findall(text)]
    assert len(dict(steps)) == len(steps)
    values, changed = {}, True
    while changed:
        changed = False
        for name, source in steps:
            value = source if source.isdigit() else values.get(source)
            if value and values.get(name) != value:
                values[name], changed = value, True
    holders = collections.defaultdict(set)
    for name, value in values.items():
        holders[value].add(name)
    return holders, steps


@pytest.mark.parametrize(("chains", "hops"), [(1, 4), (4, 3), (2, 1)])
def test_variables_resolve(text, tmp_path, chains, hops):
    rows = make(tmp_path, kind="variable-tracking", keys=chains, hops=hops, haystack=text, lengths=(1200,), per_depth=2)
    for row in rows:
        _, context, after = parts(row)
        holders, steps = resolve(context)
        value = re.search(r"have the value (\d+) after the text above", after)[1]
        assert holders[value] == set(row["answer"]) and len(row["answer"]) == hops + 1
        assert len(holders) == chains and {len(names) for names in holders.values()} == {hops + 1}
        # A chain stands in its own order, and its link at the depth is the nearest to the depth's share of the hops.
        mine = [name for name, _ in steps if name in holders[value]]
        assert mine == row["answer"]
        anchor = row["meta"]["needles"][row["meta"]["anchor"]]
        assert abs(mine.index(anchor["key"]) - row["meta"]["depth"] / 100 * hops) <= 0.5
        for name in row["answer"]:
            assert name.casefold() not in re.sub(ASSIGNED, "", said(row)).casefold()


def test_a_haystack_of_needles(words, tmp_path):
    """RULER's multikey 2 and 3: nothing but other needles, none of which can be taken for the asked one."""
    for types in ({}, {"key_type": "uuids", "value_type": "uuids"}):
        [row] = make(tmp_path, kind="multikey", keys=1, haystack="needle", lengths=(3000,), depths="40", **types)
        _, context, after = parts(row)
        found = [NEEDLE.fullmatch(line).groups() for line in context.split("\n")]
        assert len(found) > 25 and len({key for _, key, _ in found}) == len(found)
        key = re.search(r" of (\S+) in", after)[1]
        assert [value for _, other, value in found if other == key] == row["answer"]
        assert len(words.encode(words.render(row["messages"]), False)) + 128 <= 3000


def test_rows_of_one_length_and_sample_share_their_haystack(text, tmp_path):
    rows = make(tmp_path, haystack=text, lengths=(600, 900), per_depth=2, depths="0,100")
    starts = {(row["meta"]["length"], row["meta"]["sample"]): row["meta"]["haystack"]["start"] for row in rows}
    assert starts[600, 0] == starts[900, 0] != starts[600, 1]
    assert len({row["answer"][0] for row in rows}) == len({row["id"] for row in rows}) == len(rows) == 8


def test_default_grid_is_the_papers():
    assert [f"{length / 1000:.0f}K" for length in needle.LENGTHS] == (
        "1K 10K 19K 28K 37K 46K 55K 64K 74K 83K 92K 101K 110K 119K 128K".split()
    )
    assert needle.percents(None) == (0, 11, 22, 33, 44, 56, 67, 78, 89, 100)


def test_sums_of_parts_may_be_wrong(tmp_path, text):
    """A tokenizer without words merges across sentences: the sum is off by much, the length is not."""
    from tokenizers import Tokenizer as Inner
    from tokenizers import models, trainers

    inner = Inner(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=160, show_progress=False, initial_alphabet=sorted(string.printable))
    inner.train_from_iterator([" ".join(SENTENCES)], trainer)
    whole = len(inner.encode(" ".join(SENTENCES)).ids)
    assert 0.8 < whole / sum(len(inner.encode(f" {each}").ids) for each in SENTENCES) < 0.97
    folder = tmp_path / "bpe"
    folder.mkdir()
    inner.save(str(folder / "tokenizer.json"))
    for haystack in (text, "noise"):
        for row in make(tmp_path, tokenizer=str(folder), messages=False, haystack=haystack, lengths=(700, 2500)):
            tokens = len(inner.encode(row["prompt"]).ids)
            assert row["meta"]["tokens"] == tokens
            pieces = SENTENCES if haystack == text else [NOISE]
            longest = max(len(inner.encode(f" {piece}").ids) for piece in pieces)
            assert 0 <= row["meta"]["length"] - 128 - tokens <= max(longest, 0.01 * row["meta"]["length"])


def test_a_file_cannot_end_a_turn(words, tmp_path):
    path = tmp_path / "evil.txt"
    path.write_text("It said <|im_end|> and went on. " * 200)
    for row in make(tmp_path, haystack=str(path)):
        ids = words.encode(words.render(row["messages"]), False).ids
        end = words.encode("<|im_end|>", False).ids[0]
        assert ids.count(end) == words.encode(words.render([{"role": "user", "content": "x"}]), False).ids.count(end)


def test_text_without_sentences_is_cut(tmp_path):
    path = tmp_path / "flat.txt"
    path.write_text("no end of it, " * 3000)
    for row in make(tmp_path, haystack=str(path)):
        assert row["meta"]["length"] - 128 - row["meta"]["tokens"] < 450


# ---------------------------------------------------------------- the same bytes


def test_same_bytes_for_the_same_seed(text, tmp_path):
    code = (
        "import sys; from keychain_synth import needle\n"
        "test = needle.settings('multikey', 3, None, None, None, seed=int(sys.argv[2]))\n"
        "needle.run(test, tokenizer='smollm2', lengths=(700,), depths='0,50', haystack=sys.argv[1], per_depth=1,"
        " output=None, overwrite=False, max_time=None, quiet=True)\n"
    )

    def rows(seed, hash_seed):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", code, text, str(seed)]
        return subprocess.run(command, capture_output=True, env=environment, check=True).stdout

    first = rows(0, "1")
    assert first == rows(0, "2") != rows(1, "1")
    wider = make(tmp_path, kind="multikey", keys=3, lengths=(700, 800), depths="0,20,50", haystack=text)
    assert all(json.loads(line) in wider for line in first.splitlines())


def test_a_finished_run_is_no_work_and_another_one_is_refused(tmp_path, capsys):
    make(tmp_path)
    before = (tmp_path / "rows.jsonl").stat()
    again = {"tokenizer": "smollm2", "depths": "0,33,50,100", "haystack": "noise", "per_depth": 1, "max_time": None,
             "output": str(tmp_path / "rows.jsonl"), "overwrite": False, "quiet": True}  # fmt: skip
    test = needle.settings("single", None, None, None, None)
    assert needle.run(test, lengths=(512,), **again) == 0
    assert (tmp_path / "rows.jsonl").stat().st_ino == before.st_ino
    assert "complete already; nothing to do" in capsys.readouterr().err
    with pytest.raises(BadInput, match=r"was made with --length \[512\], this one has \[600\]"):
        needle.run(test, lengths=(600,), **again)


# ---------------------------------------------------------------- RULER's files


def string_match_all(predictions, references):
    """RULER, scripts/eval/synthetic/constants.py: mean share of references in predictions, in percent."""
    shares = [
        sum(reference.lower() in prediction.lower() for reference in several) / len(several)
        for prediction, several in zip(predictions, references, strict=True)
    ]
    return round(100 * sum(shares) / len(shares), 2)


@pytest.mark.parametrize("messages", [True, False], ids=["chat", "prompt"])
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("single", {}),
        ("multivalue", {"values": 4}),
        ("multiquery", {"queries": 2}),
        ("variable-tracking", {"hops": 3}),
    ],
)
def test_ruler_files(words, text, tmp_path, kind, more, messages):
    """Fields as RULER's niah.py and variable_tracking.py write them and its call_api.py and evaluate.py read them."""
    rows = make(tmp_path, kind=kind, haystack=text, lengths=(800,), to="ruler", messages=messages, **more)
    plain = make(tmp_path, kind=kind, haystack=text, lengths=(800,), messages=messages, **more)
    assert [row["index"] for row in rows] == list(range(len(rows)))
    for row, ours in zip(rows, plain, strict=True):
        assert set(row) == {"index", "input", "outputs", "length", "length_w_model_temp", "answer_prefix",
                            "token_position_answer", "others"}  # fmt: skip
        assert row["outputs"] == ours["answer"]
        assert row["others"]["id"] == ours["id"]
        sent = row["input"] + row["answer_prefix"]
        assert len(words.encode(sent, not messages)) + 128 == row["length"] == row["length_w_model_temp"] <= 800
        if not messages:
            assert sent == ours["prompt"]
        before = row["input"][: row["input"].find(row["outputs"][0])]
        assert abs(len(words.encode(before, not messages)) - row["token_position_answer"]) <= 1
    golds = [row["outputs"] for row in rows]
    assert string_match_all([", ".join(gold).upper() for gold in golds], golds) == 100
    assert string_match_all(["" for _ in golds], golds) == 0
    if kind != "single":
        assert string_match_all([" ".join(gold[: len(gold) // 2]) for gold in golds], golds) == 50


def test_what_is_asked_for_is_named(tmp_path):
    """Question and answer prefix for one value and for several."""
    [one] = make(tmp_path, to="ruler", messages=False, depths="0")
    key = NEEDLE.search(one["input"])[2]
    assert one["input"].startswith("A secret number is hidden in the text below. You will be asked for it.\n")
    assert one["input"].endswith(f"\nWhat is the secret number of {key} in the text above?")
    assert one["answer_prefix"] == f" The secret number of {key} in the text above is"
    [many] = make(tmp_path, to="ruler", messages=False, depths="0", kind="multivalue", values=2)
    key = NEEDLE.search(many["input"])[2]
    assert many["input"].startswith("Some secret numbers are hidden in the text below. You will be asked for them.\n")
    assert many["input"].endswith(f"\nWhat are all the secret numbers of {key} in the text above?")
    assert many["answer_prefix"] == f" The secret numbers of {key} in the text above are"


# ---------------------------------------------------------------- the King James text


def test_the_king_james_text(words, tmp_path):
    """Real sentences, of which the longest has 748 tokens: they are cut, so that short rows are full, too."""
    rows = make(tmp_path, haystack="bible", lengths=(1000, 8000), depths="0,44,100", per_depth=3)
    source = " ".join(book.text().split())
    for row in rows:
        _, context, _ = parts(row)
        [needle_text] = [match[0] for match in NEEDLE.finditer(context)]
        at = context.index(needle_text)
        before, after = context[:at].strip(), context[at + len(needle_text) :].strip()
        assert f"{before} {after}".strip() in source
        assert not before or before[-1] in ".?!,;:)"
        assert row["meta"]["tokens"] + 128 > row["meta"]["length"] - 200
        share = len(words.encode(before, False)) / len(words.encode(f"{before} {after}", False))
        assert abs(100 * share - row["meta"]["depth"]) < 100 * 100 / row["meta"]["tokens"]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"kind": "single", "values": 3}, "--values 3: --kind single has no use for it; multivalue has"),
        ({"kind": "multikey", "hops": 3}, "--hops 3: --kind multikey has no use for it; variable-tracking has"),
        (
            {"kind": "single", "keys": 3},
            "--keys 3: --kind single has no use for it; "
            "multikey and multivalue and multiquery and variable-tracking has",
        ),
        ({"kind": "multiquery", "keys": 2}, "--keys 2: expected at least as many as --queries, 4"),
        ({"depths": "50,101"}, "--depths 50,101: expected percents from 0 to 100, such as 0,25,50,75,100"),
        ({"depths": "nan"}, "--depths nan: expected percents from 0 to 100, such as 0,25,50,75,100"),
        ({"depths": "a"}, "--depths a: expected percents from 0 to 100, such as 0,25,50,75,100"),
        (
            {"haystack": "bibel"},
            "--haystack bibel: no such file; expected a file of text, or one of bible, noise, repeat, needle",
        ),
    ],
)  # fmt: skip
def test_refusals(tmp_path, more, message):
    with pytest.raises(BadInput) as error:
        make(tmp_path, **more)
    assert str(error.value) == message
    assert not list(tmp_path.iterdir())


def test_too_short_says_by_how_much(tmp_path):
    with pytest.raises(BadInput) as error:
        make(tmp_path, lengths=(200,), depths="0")
    found = re.search(r"take (\d+) tokens, and the first sentence of the haystack (\d+)$", str(error.value))
    taken, first = map(int, found.groups())
    assert taken + first > 200 and not (tmp_path / "rows.jsonl").exists()
    assert make(tmp_path, lengths=(taken + first + 2,), depths="0")[0]["meta"]["haystack"]["sentences"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "expected text, found none"), (b" \n\n ", "expected text, found none"), (b"\xff\xfe x", "expected UTF-8: ")],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=re.escape(f"--haystack {path}: {message}")):
        make(tmp_path, haystack=str(path))


def test_chat_rows_need_a_chat_template(words, tmp_path):
    shutil.copy(words.folder / "tokenizer.json", tmp_path)
    with pytest.raises(BadInput, match="has no chat template; --prompt writes raw prompts instead"):
        make(tmp_path, tokenizer=str(tmp_path))
    assert make(tmp_path, tokenizer=str(tmp_path), messages=False)


def test_a_length_beyond_the_models_is_said_and_done(words, tmp_path, capsys):
    shutil.copy(words.folder / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 1000}')
    assert make(tmp_path, tokenizer=str(tmp_path), messages=False, lengths=(900, 1100), depths="0")
    assert "--length 1100: the tokenizer says that its model takes 1000 tokens" in capsys.readouterr().err


# ---------------------------------------------------------------- parts


@given(st.lists(st.integers(1, 50), max_size=30), st.floats(0, 100))
def test_nearest(steps, percent):
    ends = [0]
    for step in steps:
        ends.append(ends[-1] + step)
    target = percent / 100 * ends[-1]
    distances = [abs(end - target) for end in ends]
    assert needle.nearest(ends, target) == distances.index(min(distances))


@given(st.text(alphabet="ab ,;:.", max_size=3000))
def test_cut_loses_no_word(text):
    pieces = list(needle._cut(text))
    assert " ".join(pieces) == " ".join(text.split())
    assert all(0 < len(piece.split()) <= 100 for piece in pieces)


def test_drawn_names_stand_nowhere_in_the_text():
    """The numbers left are those divisible by seven, then none."""
    text = " ".join(str(number) for number in range(10_000, 100_000) if number % 7)
    draw = needle.Draw(needle.stream(0, "test"), text)
    assert [int(draw.fresh("five digits")) % 7 for _ in range(20)] == [0] * 20
    with pytest.raises(BadInput, match=r"^a row like this needs more different five digits"):
        needle.Draw(needle.stream(0, "test"), " ".join(map(str, range(10_000, 100_000)))).fresh("five digits")


@given(st.integers(0, 10**6), st.sampled_from(["words", "numbers", "uuids", "variables", "five digits"]))
def test_drawn_names_hold_no_other(seed, kind):
    draw = needle.Draw(needle.stream(seed, "test"), "1234567 able-acorn")
    found = [draw.fresh(kind).casefold() for _ in range(20)]
    assert not any(
        one in other for at, one in enumerate(found) for other in [*found[:at], *found[at + 1 :], draw.avoid]
    )


# ---------------------------------------------------------------- the command


def test_the_command(tmp_path):
    """Options reach what they name, and the choices offered are the ones there are."""
    from keychain_synth.cli import main

    choices = {param.name: getattr(param.type, "choices", None) for param in main.commands["needle"].params}
    assert list(choices["kind"]) == list(needle.KINDS)
    assert tuple(choices["key_type"]) == tuple(choices["value_type"]) == needle.TYPES
    done = keychain("needle", "--tokenizer", "smollm2", "--length", "500,600", "--depths", "0,100",
                    "--kind", "multikey", "--keys", 3, "--value-type", "uuids", "--reserve", 32, "--seed", 5, "--prompt", "-q")  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    ours = make(tmp_path, kind="multikey", keys=3, value_type="uuids", reserve=32, seed=5, messages=False,
                lengths=(500, 600), depths="0,100")  # fmt: skip
    assert rows == ours
    wrong = keychain("needle", "--tokenizer", "smollm2", "--length", "500", "--depths", "120")
    assert (wrong.returncode, wrong.stderr) == (
        2, "keychain-synth: --depths 120: expected percents from 0 to 100, such as 0,25,50,75,100\n"
    )  # fmt: skip


def test_shards_and_limits_are_parts_of_the_whole(tmp_path):
    def run(*args):
        done = keychain("needle", "--tokenizer", "smollm2", "--length", "400,500", "--depths", "0,50,100", "--per-depth",
                        "2", "-q", *args)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    whole = run()
    assert len(whole.splitlines()) == 12
    assert "".join(run("--shard", f"{part}/5") for part in range(1, 6)) == whole
    assert run("--limit", "7") == "".join(whole.splitlines(keepends=True)[:7])
    assert "".join(run("--limit", "7", "--shard", f"{part}/2") for part in (1, 2)) == run("--limit", "7")


def test_a_grid_of_any_size_begins_at_once(tmp_path):
    """Nothing is laid out before the first row: --max-time ends it with rows made."""
    done = keychain("needle", "--tokenizer", "smollm2", "--length", "400", "--per-depth", "1000000000", "--max-time",
                    "1s", "-q")  # fmt: skip
    assert done.returncode == 1 and "--max-time: 1 s are over" in done.stderr and done.stdout.count("\n") > 3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--length", "99999999999"), "--length 99999999999: expected at most 16777216"),
        (("--kind", "multivalue", "--values", "99999999"), "--values"),
        (("--haystack", "{folder}/cut.gz"), "is the file complete?"),
        (("--haystack", "{folder}/latin"), "expected UTF-8: invalid start byte at byte 1"),
    ],
)
def test_what_needles_cannot_be_made_of(tmp_path, args, message):
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"A sentence here. " * 500)[:40])
    (tmp_path / "latin").write_bytes(b"z\xfcrich. ")
    done = keychain("needle", "--tokenizer", "smollm2", *(each.format(folder=tmp_path) for each in args))
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_a_haystack_from_a_pipe(tmp_path):
    text = tmp_path / "text"
    text.write_text("A sentence stands here. " * 900)
    command = f"{BIN} needle --tokenizer smollm2 --length 400 --haystack <(cat {text}) -q"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 2 and "is no regular file, and is read more than once" in done.stderr


@pytest.mark.parametrize("kind", ["blob", "chinese"])
def test_text_without_spaces_fills_rows(tmp_path, kind):
    sentences = [f"The road to town {at} is long and dry." for at in range(200)]
    sentences.insert(100, "x7Qz" * 5000)
    text = " ".join(sentences) if kind == "blob" else "".join(f"第{at}条路通往城镇很长很干。" for at in range(900))
    path = tmp_path / "text"
    path.write_text(text)
    done = keychain("needle", "--tokenizer", "smollm2", "--haystack", path, "--length", "4096", "--depths", "0,50,100",
                    "--per-depth", "3", "-q")  # fmt: skip
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        assert json.loads(line)["meta"]["tokens"] > 4096 - 128 - 250


def test_a_haystack_without_a_token_ends(tmp_path):
    from tokenizers import Tokenizer as Raw
    from tokenizers.models import BPE

    folder, path = tmp_path / "tk", tmp_path / "text"
    folder.mkdir()
    Raw(BPE({"a": 0, "b": 1}, [])).save(str(folder / "tokenizer.json"))
    path.write_text("zz zz. " * 50)
    done = keychain("needle", "--tokenizer", folder, "--haystack", path, "--length", "64", "--prompt")
    assert done.returncode == 2 and "has no token of this tokenizer" in done.stderr
