"""`keychain-synth audit` and `inspect` on rows that were changed by hand: nothing false passes."""

import copy
import json
import re

import pytest
from rows import keychain, questions, write

from keychain_synth.audit import uniform_p
from keychain_synth.check import check

SMALL = ("--tokenizer", "smollm2", "--length", "2048", "--limit", "2", "-q")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A row of each kind."""
    folder = tmp_path_factory.mktemp("rows")
    path = questions(folder / "qa.jsonl")
    made = {}
    for kind, options in {
        "chain": ("--decoys", "answerable:2"),
        "tree": ("--structure", "tree", "--hops", "3"),
        "plain": ("--plain",),
        "paper": ("--fit", "paper"),
    }.items():
        done = keychain("synth", path, *SMALL, *options)
        assert done.returncode == 0, done.stderr
        made[kind] = json.loads(done.stdout.splitlines()[0])
        assert check(made[kind]) == []
    return made


def edit(pattern, by, count=1):
    def change(row):
        text = row["messages"][-1]["content"]
        row["messages"][-1]["content"] = re.sub(pattern, by, text, count=count)
        assert row["messages"][-1]["content"] != text

    return change


def told(**fields):
    return lambda row: row["meta"].update(fields)


def without(field):
    return lambda row: row["meta"].pop(field)


def _in_clear(row):
    edit(r"\n\nPassage 2:", lambda found: f" So we ask: {row['meta']['question'].upper()}{found[0]}")(row)


def _in_first_text(row):
    edit(r"(Passage 1:\n.*\n)", lambda found: f"{found[1]}{row['meta']['question']} ")(row)


def _as_decoy(row):
    """Another chain ends in the row's own question, in capitals."""
    pair = next(each for each in row["meta"]["pairs"] if each["chain"] and "?" in each["value"])
    value = row["meta"]["question"].upper()
    edit(re.escape(json.dumps(pair["value"])), lambda _: json.dumps(value))(row)
    pair["value"] = value


def _head_as_value(row):
    """The last pair of another chain leads to the head in place of its question."""
    pair = next(each for each in row["meta"]["pairs"] if each["chain"] and "?" in each["value"])
    edit(re.escape(json.dumps(pair["value"])), json.dumps(row["meta"]["head"]))(row)
    pair["value"] = row["meta"]["head"]


def _cut_decoy(row):
    pair = next(each for each in row["meta"]["pairs"] if each["chain"] == 2)
    edit(re.escape(json.dumps({pair["key"]: pair["value"]})), "{}")(row)


def _gold_gone(row):
    edit(rf"(Passage {row['meta']['gold_slots'][0] + 1}:\n).*", r"\1Another title")(row)


def _other_chain(row):
    next(each for each in row["meta"]["pairs"] if each["chain"] == 3)["chain"] = 4


def _shift(row, at, by):
    """Offsets of meta after a change of the text's length at AT."""
    for pair in row["meta"]["pairs"]:
        if pair["offset"] >= at:
            pair["offset"] += by


def insert(pattern, text, behind=True):
    """TEXT put before or behind what the pattern finds first, with the offsets of meta put right."""

    def change(row):
        content = row["messages"][-1]["content"]
        found = re.search(pattern, content, re.MULTILINE)
        at = found.end() if behind else found.start()
        told = text(row) if callable(text) else text
        row["messages"][-1]["content"] = content[:at] + told + content[at:]
        _shift(row, at, len(told))

    return change


def _moved_pair(pattern):
    """The first pair of the text taken out and put behind what the pattern finds."""

    def change(row):
        pair = row["meta"]["pairs"].pop(0)
        content = row["messages"][-1]["content"]
        at, size = pair["offset"], pair["length"]
        content, bare = content[:at] + content[at + size :], content[at : at + size].strip()
        _shift(row, at, -size)
        at = re.search(pattern, content, re.MULTILINE).end()
        row["messages"][-1]["content"] = content[:at] + f" {bare}" + content[at:]
        _shift(row, at, len(bare) + 1)
        row["meta"]["pairs"].append({**pair, "offset": at, "length": len(bare) + 1})
        row["meta"]["pairs"].sort(key=lambda each: each["offset"])
        for each, token in zip(row["meta"]["pairs"], sorted(p["token"] for p in row["meta"]["pairs"]), strict=True):
            each["token"] = token

    return change


def _pruned(row):
    """A tree with one inner pair less, and meta knows of it."""
    keys = {pair["key"]: pair for pair in row["meta"]["pairs"]}
    leaf = next(pair for pair in row["meta"]["pairs"] if isinstance(pair["value"], list) and pair["chain"] == 1
                and not any(child in keys for child in pair["value"]))  # fmt: skip
    at, size = leaf["offset"], leaf["length"]
    content = row["messages"][-1]["content"]
    row["messages"][-1]["content"] = content[:at] + content[at + size :]
    row["meta"]["pairs"].remove(leaf)
    _shift(row, at, -size)


def _said_twice(row):
    row["prompt"] = "another"


def _empty_gold(row):
    number = row["meta"]["gold_slots"][1] + 1
    edit(rf"(Passage {number}:\n.*\n)[^{{]*?(?=\n\nPassage| ?{{)", r"\1Nothing.")(row)
    edit(r"answer\d+\.", "no more.", 0)(row)


def question_of(row):
    return row["meta"]["question"]


def _shifted(row):
    row["meta"]["gold_slots"] = [slot + 1 for slot in row["meta"]["gold_slots"]]


@pytest.mark.parametrize(
    "kind, change, reason",
    [
        ("chain", lambda row: edit(rf'{{"{row["meta"]["head"]}"', '{"00000000"')(row), "has no pair"),
        ("chain", edit("Passage 1:", "Passage  1:"), "passages are not numbered"),
        ("chain", edit("Passage 2:", "Passage 9:"), "passages are not numbered from 1 to"),
        ("chain", edit(r"Passage (\d+):", r"Document \1:", 0), "the text has 0 passages"),
        ("chain", edit("Read the text", "Read this text here"), "is not at offset"),
        ("chain", edit(r"Passage (\d):", r"Passage 000\1:", 0), "passages are not numbered"),
        ("chain", edit("Passage 2:", "Passage " + "9" * 5000 + ":"), "passages are not numbered"),
        ("chain", insert("^Passage 1:", lambda row: f"We ask: {question_of(row)}\n", False), "outside its pair"),
        ("chain", insert("below.", lambda row: " " + json.dumps(question_of(row))), "outside its pair"),
        ("chain", insert("below.", lambda row: " " + question_of(row).replace(" ", "\n")), "outside its pair"),
        (
            "chain",
            lambda row: row["messages"].insert(0, row["messages"].pop(0) | {"content": f"Why {question_of(row)}"}),
            "outside its pair",
        ),
        ("chain", lambda row: row["messages"].append({"role": "assistant", "content": "x"}), "expected one user turn"),
        ("chain", lambda row: row["messages"][-1].update(content=None), "expected text in every turn"),
        ("chain", _said_twice, "expected messages or prompt, found both"),
        (
            "chain",
            insert(r"\Z", lambda row: f' Or "{row["meta"]["pairs"][0]["key"]}", "{row["meta"]["pairs"][1]["key"]}".'),
            "keys to begin with are named",
        ),
        (
            "chain",
            insert("^Passage 2:\n.*\n", lambda row: f'{{"{row["meta"]["head"]}": null}}. '),
            "stands there again, in what is no pair",
        ),
        ("chain", _moved_pair("^Passage 3:"), "passages are not numbered"),
        ("chain", _moved_pair("^Passage 3:\nTopic"), "stands in the header of passage 3"),
        ("chain", _moved_pair("below."), "stands in front of the passages"),
        ("tree", _pruned, "pairs, expected 4"),
        ("chain", told(structure="tree"), "expected"),
        ("chain", told(structure="banana"), "meta.structure: invalid enum value 'banana'"),
        ("chain", told(id_format="uuid"), "are not those of the text"),
        ("chain", told(fit="STRICT"), "meta.fit: invalid enum value 'STRICT'"),
        ("chain", told(reserve=-5000), "meta.reserve: expected int >= 0"),
        ("chain", told(tokens=10**400), "meta.tokens: expected int"),
        ("chain", lambda row: row["meta"]["gold_tokens"].reverse(), "in the order of the text"),
        (
            "chain",
            lambda row: row["meta"]["decoys"][0].update(answerable=False),
            "expected titles where it is answerable",
        ),
        ("chain", lambda row: row["meta"]["decoys"][1].update(id=row["meta"]["decoys"][0]["id"]), "each once"),
        (
            "chain",
            lambda row: [p.update(chain=p["chain"] * 7) for p in row["meta"]["pairs"]],
            "chain numbers from 0 to",
        ),
        (
            "chain",
            lambda row: row["meta"]["pairs"][0].update(length=row["meta"]["pairs"][0]["length"] - 1),
            "one space",
        ),
        ("chain", lambda row: row.update(answer=["elsewhere"]), "answer: 'elsewhere' stands in none of the gold"),
        ("chain", lambda row: row.update(answer=[]), "answer: expected array of length >= 1"),
        ("chain", lambda row: row.update(answer=[""]), "answer[0]: expected str of length >= 1"),
        ("chain", _empty_gold, "stands in none of the gold documents"),
        ("plain", told(question="the"), "stands in the passages, or more than once"),
        ("plain", insert("^Passage 2:\n.*\n", question_of), "stands in the passages, or more than once"),
        ("chain", told(question="Another?"), "expected 'Another?'"),
        ("chain", told(head="00000000"), "begins with"),
        ("chain", told(hops=3), "followed 4 pairs, expected 3"),
        ("chain", told(documents=3), "meta.documents says 3, the text has"),
        ("chain", _shifted, "meta.gold_slots: expected 'Topic"),
        ("chain", told(gold_slots=[999, 1000]), "the text has None"),
        ("chain", told(gold_slots=[]), "expected equally many"),
        ("chain", told(gold_tokens=[0, 99999]), "in the order of the text, from 0 to"),
        ("chain", told(gold_slots=[], gold_tokens=[], gold_titles=[]), "meta.gold_slots: expected one or more"),
        ("chain", _gold_gone, "the text has 'Another title'"),
        ("chain", lambda row: row["meta"]["pairs"].pop(), "and they are not the same"),
        ("chain", lambda row: row["meta"]["decoys"].pop(), "chains, expected one and"),
        ("chain", lambda row: row["meta"]["pairs"][0].update(token=99999), "in the order of the text, from 0 to"),
        ("chain", _other_chain, "expected one chain number in the chain that begins with"),
        ("chain", _in_clear, "the question stands in the text outside its pair"),
        ("chain", _in_first_text, "the question stands in the text outside its pair"),
        ("chain", _as_decoy, "another pair's value holds the question"),
        ("chain", _head_as_value, "a pair leads to the key to begin with"),
        ("chain", _cut_decoy, "the chain that begins with"),
        (
            "chain",
            lambda row: row["meta"]["decoys"][-1].update(answerable=True),
            "expected titles where it is answerable",
        ),
        ("chain", lambda row: row["meta"]["decoys"][0].update(titles=["Nowhere"]), "documents are not in the text"),
        ("chain", told(tokens=3000), "over the length, 2048"),
        ("chain", without("tokens"), "meta.tokens: expected, is not there"),
        ("chain", without("pairs"), "meta.pairs: expected, is not there"),
        ("chain", told(tokens=None), "meta.tokens: expected int, got null"),
        ("chain", told(pairs=[{"key": 1}]), "meta.pairs[0].key: expected str, got int"),
        ("chain", told(decoys="none"), "meta.decoys: expected array, got str"),
        ("tree", lambda row: edit(rf'{{"{row["meta"]["head"]}"', '{"00000000"')(row), "has no pair"),
        ("tree", told(hops=2), "followed 3 pairs, expected 2"),
        (
            "plain",
            lambda row: edit(re.escape(row["meta"]["question"]), "this")(row),
            "its question does not stand in the prompt",
        ),
        ("plain", edit(r"\n\nPassage 2:", r' {"deadbeef": "cafe0123"}.\n\nPassage 2:'), "a plain row holds pairs"),
        ("plain", _shifted, "meta.gold_slots: expected"),
    ],
)
def test_nothing_false_passes(tmp_path, rows, kind, change, reason):
    row = copy.deepcopy(rows[kind])
    change(row)
    done = keychain("audit", write(tmp_path / "rows.jsonl", [rows[kind] | {"id": "right"}, row]), "--json", "-q")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["rows"] == 2 and found["resolved"] == 1
    assert reason in found["failed"][0]["reason"]
    assert f"rows.jsonl:2: id {row['id']!r}: " in done.stderr and "Traceback" not in done.stderr


def test_tokens_are_counted_anew(tmp_path, rows):
    def reason(change):
        row = copy.deepcopy(rows["chain"])
        change(row)
        done = keychain("audit", write(tmp_path / "rows", [row]), "--tokenizer", "smollm2", "--json", "-q")
        assert done.returncode == 1
        return json.loads(done.stdout)["failed"][0]["reason"]

    assert "meta.tokens says 1900, the prompt has" in reason(told(tokens=1900))
    assert "do not begin at these tokens" in reason(lambda row: row["meta"]["pairs"][0].update(token=3))
    first = min(rows["chain"]["meta"]["gold_tokens"])
    assert "do not begin at these tokens" in reason(
        lambda row: row["meta"].update(gold_tokens=[each - (each == first) for each in row["meta"]["gold_tokens"]])
    )


def test_rows_of_the_papers_fit_may_be_over_their_length(tmp_path, rows):
    done = keychain("audit", write(tmp_path / "rows", [rows["paper"]]), "--json", "-q")
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["over_budget"] == 1 and found["resolved"] == 1
    strict = copy.deepcopy(rows["paper"])
    strict["meta"]["fit"] = "strict"
    assert keychain("audit", write(tmp_path / "rows", [strict]), "-q").returncode == 1


def test_shortcuts_are_read_off_the_text(tmp_path, rows):
    """A decoy counts as answerable only with its documents in the text."""

    def share(row):
        done = keychain("audit", write(tmp_path / "rows", [row]), "--json", "-q")
        return json.loads(done.stdout)["shortcut_share"]

    assert share(rows["chain"]) == 0 and share(rows["tree"]) == 1
    row = copy.deepcopy(rows["chain"])
    for decoy in row["meta"]["decoys"]:
        if decoy["answerable"]:
            decoy["titles"] = ["Nowhere"]
    assert share(row) == 1


def test_the_head_may_be_named_in_front(tmp_path):
    template = tmp_path / "front.txt"
    template.write_text("Begin with $head and follow the pairs to a question; answer it.\n\n$context")
    path = questions(tmp_path / "qa.jsonl")
    done = keychain("synth", path, *SMALL, "--template", template, "-o", tmp_path / "rows")
    assert done.returncode == 0, done.stderr
    done = keychain("audit", tmp_path / "rows", "--tokenizer", "smollm2", "--json", "-q")
    assert done.returncode == 0 and json.loads(done.stdout)["resolved"] == 2


def test_words_like_keys_are_no_keys_to_begin_with(tmp_path):
    """Dates and other words of eight digits, behind the text and in documents, with the head named in front."""
    for name, text in (("front", "Begin with $head.\n\n$context\n\nSince 20240101."),
                       ("behind", "$context\n\nBegin with $head, by 20240101.")):  # fmt: skip
        template = tmp_path / name
        template.write_text(text)
        path = questions(tmp_path / "qa.jsonl", count=12)
        pool = write(tmp_path / "pool", [{"title": f"P {i}", "text": f"It was deadbeef {i}."} for i in range(200)])
        done = keychain("synth", path, *SMALL, "--template", template, "--pool", pool, "-o", tmp_path / f"{name}.rows")
        assert done.returncode == 0, done.stderr
        done = keychain("audit", tmp_path / f"{name}.rows", "-q", "--json")
        assert done.returncode == 0 and json.loads(done.stdout)["resolved"] == 2, done.stderr


@pytest.mark.parametrize(
    "records, code, message",
    [
        ([], 2, "expected at least one row, got none"),
        ([{"id": "a", "prompt": "x"}], 2, "rows:1: meta.question: expected a row made by `keychain-synth synth`"),
        ([{"id": "a", "prompt": "x", "meta": None}], 2, "rows:1: meta: expected object, got null"),
    ],
)
def test_other_files(tmp_path, records, code, message):
    done = keychain("audit", write(tmp_path / "rows", records))
    assert done.returncode == code and message in done.stderr


def test_an_id_that_stands_there_twice(tmp_path, rows):
    done = keychain("audit", write(tmp_path / "rows", [rows["chain"], rows["chain"]]), "-q")
    assert done.returncode == 1 and f"rows:2: id {rows['chain']['id']!r}: id" in done.stderr
    assert "stands in these rows twice" in done.stderr


def test_chats_need_a_chat_template(tmp_path, rows):
    from tenfold_shared import models

    bare = tmp_path / "bare"
    bare.mkdir()
    source = models.resolve("smollm2").path
    (bare / "tokenizer.json").write_bytes(open(f"{source}/tokenizer.json", "rb").read())
    done = keychain("audit", write(tmp_path / "rows", [rows["chain"]]), "--tokenizer", bare)
    assert done.returncode == 2 and "has no chat template, and these rows are chats" in done.stderr


@pytest.mark.parametrize("change", [without("gold_slots"), told(pairs=3), without("decoys")])
def test_inspect_says_what_is_wrong(tmp_path, rows, change):
    row = copy.deepcopy(rows["chain"])
    change(row)
    done = keychain("inspect", write(tmp_path / "rows", [row]))
    assert done.returncode == 2 and "expected a row made by" in done.stderr and "Traceback" not in done.stderr


def test_uniform_p():
    """Against scipy's own test, with the slots spread over their cells as the docstring says."""
    from scipy.stats import kstest

    assert uniform_p([]) is None
    every = [(slot, 50) for slot in range(50) for _ in range(4)]
    assert uniform_p(every) > 0.99
    front = [(slot % 25, 50) for slot in range(200)]
    assert uniform_p(front) < 1e-6
    skewed = [(int((at / 200) ** 1.15 * 50), 50) for at in range(200)]
    golden = (5**0.5 - 1) / 2
    values = [(slot + (0.5 + at * golden) % 1) / 50 for at, (slot, _) in enumerate(skewed)]
    assert uniform_p(skewed) == pytest.approx(kstest(values, "uniform").pvalue, abs=0.02)
