"""Question files as their publishers ship them, read into one form."""

import gzip
import json
import random
import re
import sys
import tracemalloc
from pathlib import Path

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from keychain_files import HOTPOT, MUSIQUE, WIKI

from keychain_synth.items import Dropped, Item, Paragraph, read_items, read_passages, sniff
from tenfold_shared import BadInput, Missing

HOTPOT_HF = {
    **{name: HOTPOT[name] for name in ("question", "answer", "type", "level")},
    "id": HOTPOT["_id"],
    "supporting_facts": {"title": ["Dracula", "Bram Stoker"], "sent_id": [1, 0]},
    "context": {
        "title": ["Dracula", "Cork", "Bram Stoker"],
        "sentences": [sentences for _, sentences in HOTPOT["context"]],
    },
}
HOTPOT_ITEM = Item(
    id="5a7a06935542990198eaf050",
    question="Where was the author of Dracula born?",
    answers=("Dublin",),
    paragraphs=(
        Paragraph("Dracula", "Dracula is a novel. Its author is Bram Stoker. It has letters.", True),
        Paragraph("Cork", "Cork is a city.", False),
        Paragraph("Bram Stoker", "Bram Stoker was born in Dublin. He died in 1912.", True),
    ),
    hops=2,
    source="hotpotqa",
    type="bridge",
)
WIKI_HF = {**WIKI, **{name: json.dumps(WIKI[name]) for name in ("context", "supporting_facts", "evidences")}}
WIKI_COLUMNS = {
    **WIKI,
    "context": {"title": [title for title, _ in WIKI["context"]], "content": [each for _, each in WIKI["context"]]},
    "supporting_facts": {"title": ["Up and Away", "Jan Nowak"], "sent_id": [1, 0]},
}
WIKI_ITEM = Item(
    id="8813f87c0bdd11eba7f7acde48001122",
    question="Where was the director of Up and Away born?",
    answers=("Wrocław",),
    paragraphs=(
        Paragraph("Up and Away", "Up and Away is a film. It was made by Jan Nowak.", True),
        Paragraph("Jan Nowak", "Jan Nowak was born in Wrocław. In 2013 he made his first film.", True),
        Paragraph("Łódź", "Łódź is a city.", False),
    ),
    hops=2,
    source="2wiki",
    type="compositional",
)
TWIN = {
    **MUSIQUE,
    "answerable": False,
    "question_decomposition": [
        {"id": 1, "question": "Where does A lead?", "answer": "B", "paragraph_support_idx": None}
    ],
}
MUSIQUE_ITEM = Item(
    id="3hop1__482757_12019_7",
    question="Where does A lead in the end?",
    answers=("Delta", "Δ"),
    paragraphs=(
        Paragraph("A", "A leads to B.", True),
        Paragraph("X", "X is idle.", False),
        Paragraph("B", "B leads to C, and C to Delta.", True),
    ),
    hops=3,
    source="musique",
    type="3hop1",
)

GENERIC = {
    "id": 7,
    "question": "Who?",
    "answers": ["Ana", "Anna"],
    "paragraphs": [{"title": "T", "text": "It was Ana.", "is_supporting": True}, {"title": "U", "text": "No one."}],
    "hops": 2,
}
GENERIC_ITEM = Item(
    id="7",
    question="Who?",
    answers=("Ana", "Anna"),
    paragraphs=(Paragraph("T", "It was Ana.", True), Paragraph("U", "No one.", False)),
    hops=2,
    source="generic",
    type=None,
)

FORMS = [
    pytest.param(HOTPOT, HOTPOT_ITEM, id="hotpotqa"),
    pytest.param(HOTPOT_HF, HOTPOT_ITEM, id="hotpotqa-hf"),
    pytest.param(MUSIQUE, MUSIQUE_ITEM, id="musique"),
    pytest.param(WIKI, WIKI_ITEM, id="2wiki"),
    pytest.param(WIKI_HF, WIKI_ITEM, id="2wiki-hf"),
    pytest.param(WIKI_COLUMNS, WIKI_ITEM, id="2wiki-columns"),
    pytest.param(GENERIC, GENERIC_ITEM, id="generic"),
]


def array(*records):
    return json.dumps(records, ensure_ascii=False).encode()


def lines(*records):
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Writes a file into the current folder and gives its name, so that messages are short."""
    monkeypatch.chdir(tmp_path)

    def write(name, content):
        Path(name).write_bytes(content)
        return name

    return write


# ---------------------------------------------------------------- forms and containers


@pytest.mark.parametrize("record, item", FORMS)
@pytest.mark.parametrize("container", [array, lines])
@pytest.mark.parametrize("pack", [None, "gz", "zst"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"], ids=["", "bom"])
def test_every_form_in_every_container(put, record, item, container, pack, bom):
    content = bom + container({**record, "unheard_of": [1]})
    if pack == "gz":
        content = gzip.compress(content)
    elif pack == "zst":
        content = zstandard.compress(content)
    path = put("q.json" + (f".{pack}" if pack else ""), content)
    assert list(read_items(path)) == [item]
    assert list(read_items(path, item.source)) == [item]
    assert list(read_passages(path)) == [(each.title, each.text) for each in item.paragraphs]


@pytest.mark.parametrize("record, item", FORMS)
def test_parquet(tmp_path, record, item):
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'keychain-synth[parquet]'")
    from pyarrow import parquet

    columns = {name: [value] for name, value in record.items() if name not in ("context", "supporting_facts")}
    for name in {"context", "supporting_facts"} & record.keys():
        value = record[name]
        # A pair of two types is no parquet column: the downloads' own form comes as text, as in 2Wiki on the hub.
        columns[name] = [json.dumps(value) if isinstance(value, list) else value]
    columns.pop("evidences", None)
    columns |= {"evidences": ["[]"]} if item.source == "2wiki" else {}
    parquet.write_table(pyarrow.table(columns), tmp_path / "q.parquet")
    assert list(read_items(str(tmp_path / "q.parquet"))) == [item]
    assert list(read_passages(str(tmp_path / "q.parquet"))) == [(each.title, each.text) for each in item.paragraphs]


def test_broken_parquet(put):
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'keychain-synth[parquet]'")
    with pytest.raises(BadInput, match=r"^q.parquet: cannot be read as parquet: "):
        list(read_items(put("q.parquet", b"PAR1 and no more")))


def test_parquet_without_pyarrow_names_the_extra(put, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for path in put("q.parquet", b"PAR1..."), put("noname", b"PAR1..."):
        with pytest.raises(Missing) as raised:
            list(read_items(path))
        assert str(raised.value) == f"{path}: pyarrow is not installed: pip install 'keychain-synth[parquet]'"


def test_sentences_are_joined_as_each_source_needs():
    assert "Wrocław.In" not in WIKI_ITEM.paragraphs[1].text and "  " not in HOTPOT_ITEM.paragraphs[0].text


def test_copies_without_level_and_evidences_are_told_by_their_spaces(put):
    hotpot = {name: value for name, value in HOTPOT.items() if name != "level"}
    wiki = {name: value for name, value in WIKI.items() if name != "evidences"}
    assert (sniff(hotpot), sniff(wiki)) == ("hotpotqa", "2wiki")
    path = put("q.json", array(wiki))
    assert list(read_items(path)) == [WIKI_ITEM]
    (insisted,) = read_items(path, "hotpotqa")
    assert insisted.source == "hotpotqa"


@pytest.mark.parametrize("record", [None, 3, "question", [], {}, {"question": "?"}, {"title": "T", "text": "t"},
                                    {"question": "?", "answers": []}, {"paragraphs": [], "answers": []}])  # fmt: skip
def test_no_question_of_any_form(record):
    assert sniff(record) is None


def test_hops(put):
    comparison = {**WIKI, "type": "bridge_comparison"}
    assert next(read_items(put("w.json", array(comparison)))).hops == 4
    renamed = {**MUSIQUE, "id": "my own id"}
    (found,) = read_items(put("m.jsonl", lines(renamed)))
    assert (found.hops, found.type) == (2, None)


def test_generic_paragraphs_without_marks_all_count_as_gold(put):
    bare = {**GENERIC, "paragraphs": [{"title": "T", "text": "It was Ana."}, {"title": "U", "text": "No one."}]}
    (found,) = read_items(put("q.jsonl", lines(bare)))
    assert [each.supporting for each in found.paragraphs] == [True, True]


# ---------------------------------------------------------------- what is dropped


def changed(record, **fields):
    return {name: value for name, value in {**record, **fields}.items() if value is not ...}


def name_of(record):
    return record.get("_id", record.get("id"))


DROPS = [
    (changed(HOTPOT, question=...), "bad-field", "Object missing required field question"),
    (changed(HOTPOT, answer=...), "bad-field", "Object missing required field answer"),
    (changed(HOTPOT, answer=["Dublin"]), "bad-field", "Expected str | null, got array - at $.answer"),
    (changed(HOTPOT, supporting_facts=...), "bad-field", "Object missing required field supporting_facts"),
    (changed(HOTPOT, supporting_facts=[["Dracula"]]), "bad-field", "Expected array of length 2, got 1 - at $[0]"),
    (changed(HOTPOT, context=[["Dracula", "text"]]), "bad-field", "Expected array, got str - at $[0][1]"),
    (changed(HOTPOT, context=...), "bad-field", "Object missing required field context"),
    (changed(HOTPOT, context="[[1"), "bad-field", "Input data was truncated"),
    (changed(HOTPOT, context={"title": ["A"], "sentences": []}), "bad-field", "context: 1 titles, but 0 sentences"),
    (changed(HOTPOT, question=" "), "empty-question", "the question is empty"),
    (changed(HOTPOT, answer=" "), "empty-answer", "the answer is empty"),
    (changed(HOTPOT, answer=None), "empty-answer", "the answer is empty"),
    (changed(HOTPOT, context=[]), "no-paragraphs", "no paragraph holds text"),
    (changed(HOTPOT, context=[["Dracula", [" "]]]), "no-paragraphs", "no paragraph holds text"),
    (
        changed(HOTPOT, context=HOTPOT["context"][1:]),
        "gold-missing",
        "gold documents that are not among its paragraphs: Dracula",
    ),
    (
        changed(HOTPOT, context=[["Dracula", [""]], *HOTPOT["context"][1:]]),
        "gold-missing",
        "gold documents that are not among its paragraphs: Dracula",
    ),
    (changed(HOTPOT, supporting_facts=[]), "gold-missing", "no paragraph is marked as supporting the answer"),
    (changed(HOTPOT, answer="Cork"), "answer-not-found", "'Cork' stands in none of its 2 gold documents"),
    (changed(WIKI, answer="Łódź"), "answer-not-found", "'Łódź' stands in none of its 2 gold documents"),
    (changed(MUSIQUE, paragraphs=...), "bad-field", "Object missing required field paragraphs"),
    (changed(MUSIQUE, answerable="yes"), "bad-field", "Expected bool, got str - at $.answerable"),
    (TWIN, "unanswerable", "the unanswerable twin"),
    (changed(MUSIQUE, answer=""), "empty-answer", "the answer is empty"),
    (
        changed(MUSIQUE, paragraphs=MUSIQUE["paragraphs"][:2]),
        "gold-missing",
        "gold documents that are not among its paragraphs: paragraph 2",
    ),
    (changed(GENERIC, answers=[]), "empty-answer", "the answer is empty"),
    (changed(GENERIC, answers="Ana"), "bad-field", "Expected array, got str - at $.answers"),
    (
        changed(GENERIC, paragraphs=[{"title": "T", "text": "Ana", "is_supporting": False}]),
        "gold-missing",
        "no paragraph is marked as supporting the answer",
    ),
]


@pytest.mark.parametrize("record, reason, detail", DROPS)
@pytest.mark.parametrize("container, place", [(array, "q[1]"), (lines, "q:2")])
def test_dropped_with_its_reason(put, record, reason, detail, container, place):
    named = {name_of(each): each for each in (HOTPOT, MUSIQUE, WIKI, GENERIC)}
    first = named[name_of(record)]
    first = {**first, "_id" if "_id" in first else "id": "first"}
    _, found = read_items(put("q", container(first, record)))
    name = str(name_of(record))
    assert found == Dropped(place, name, reason, f"id {name!r}: {detail}")


@pytest.mark.parametrize("name", [..., None, " ", ["a"]])
def test_dropped_without_a_usable_id(put, name):
    _, found = read_items(put("q.jsonl", lines(HOTPOT, changed(HOTPOT, _id=name))))
    assert (found.where, found.reason, found.detail) == ("q.jsonl:2", "bad-field", "id: expected a string")


def test_dropped_when_no_object(put):
    found = list(read_items(put("q.json", array(HOTPOT, 3))))
    assert found[1:] == [Dropped("q.json[1]", None, "bad-field", "id None: Expected object")]


def test_duplicate_ids_and_musique_twins(put):
    """The twin of an id is unanswerable in whichever order they come; a second answerable one is a duplicate."""
    at = f"id {MUSIQUE['id']!r}"
    found = list(read_items(put("m.jsonl", lines(TWIN, MUSIQUE, TWIN, MUSIQUE))))
    assert found == [
        Dropped("m.jsonl:1", MUSIQUE["id"], "unanswerable", f"{at}: the unanswerable twin"),
        MUSIQUE_ITEM,
        Dropped("m.jsonl:3", MUSIQUE["id"], "unanswerable", f"{at}: the unanswerable twin"),
        Dropped("m.jsonl:4", MUSIQUE["id"], "duplicate-id", f"{at}: came before in this file"),
    ]


def test_a_dropped_record_does_not_use_up_its_id(put):
    found = list(read_items(put("q.json", array(changed(HOTPOT, answer=""), HOTPOT))))
    assert found[1] == HOTPOT_ITEM


@pytest.mark.parametrize(
    "fields",
    [
        {"answer": "yes"},
        {"answer": "No"},
        {"answer": "Cork", "type": "comparison"},
        {"answer": "bram STOKER"},  # in a title, in other case
        {"answer": "novel: its author"},  # over a sentence's end
    ],
)
def test_answers_that_need_not_stand_there_word_for_word(put, fields):
    (found,) = read_items(put("q.json", array(changed(HOTPOT, **fields))))
    assert isinstance(found, Item)


def test_accents_and_composed_letters_do_not_hide_an_answer(put):
    for answer in ("Wrocław", "WROCŁAW", "Wrocław."):
        assert isinstance(next(read_items(put("q.json", array(changed(WIKI, answer=answer))))), Item)
    paragraphs = [{"title": "T", "text": "He came from Besanc\u0327on."}]
    generic = {"id": "a", "question": "?", "answers": ["Besan\u00e7on"], "paragraphs": paragraphs}
    assert isinstance(next(read_items(put("q.jsonl", lines(generic)))), Item)


# ---------------------------------------------------------------- files that are not what they should be


@pytest.mark.parametrize(
    "content, message",
    [
        (b'[{"_id": "a"}, {"_id":', "q.json: byte 22: the JSON array has no end; is the download complete?"),
        (
            b'\xef\xbb\xbf[{"_id": "a"},\n<html>Gateway',
            "q.json: byte 18: JSON is malformed: invalid character: '<html>Gateway'; is the download complete?",
        ),
        (b"[] []", "q.json: byte 3: JSON is malformed: trailing characters: '[]'; is the download complete?"),
        (
            b"\n<!DOCTYPE html><html>",
            "q.json: expected JSON, found a web page: '<!DOCTYPE html><html>'; was its download refused?",
        ),
        (b'["\xff"]', "q.json[0]: expected UTF-8: invalid start byte"),
        (b"[" * 100_000 + b"]" * 100_000, "q.json: JSON nested too deeply"),
        (
            b'["\\q"]',
            "q.json: byte 3: JSON is malformed: invalid escaped character: 'q\"]'; is the download complete?",
        ),
        (b"[1e999]", "q.json[0]: not JSON: Number out of range"),
        (b'{"a": "\xff"}', "q.json:1: expected UTF-8: invalid start byte at byte 0"),
        (b'{"a": 1\n', "q.json:1: expected one JSON object a line: Input data was truncated"),
        (
            b'{"a": 1}\n',
            "q.json:1: no known question format (hotpotqa, musique, 2wiki, generic); found the fields a",
        ),
        (b"[3]", "q.json[0]: no known question format (hotpotqa, musique, 2wiki, generic); found the fields no object"),
    ],
)
def test_unreadable(put, content, message):
    with pytest.raises(BadInput) as raised:
        list(read_items(put("q.json", content)))
    assert str(raised.value) == message


def test_a_bad_line_or_record_is_dropped_and_named(put):
    """Also the last line of a file that was cut off; a bad first one is no file of ours."""
    whole = lines(MUSIQUE, MUSIQUE)
    found = list(read_items(put("m.jsonl", whole[:-30])))
    assert found[0] == MUSIQUE_ITEM
    cut = Dropped("m.jsonl:2", None, "malformed", "expected one JSON object a line: Input data was truncated")
    assert found[1:] == [cut]
    surrogate = lines(MUSIQUE) + b'{"id": "x", "question": "\\ud800?"}\n' + lines(changed(MUSIQUE, id="2hop__2"))
    found = list(read_items(put("m.jsonl", surrogate)))
    assert [getattr(each, "reason", each.id) for each in found] == [MUSIQUE_ITEM.id, "malformed", "2hop__2"]
    assert found[1].where == "m.jsonl:2"
    found = list(read_items(put("m.json", array(MUSIQUE)[:-1] + b', {"id": "\\ud800"}]')))
    half = "expected Unicode, found half a surrogate pair"
    assert found == [MUSIQUE_ITEM, Dropped("m.json[1]", None, "malformed", half)]


@pytest.mark.parametrize(
    "wanted, record, seen",
    [
        ("musique", HOTPOT, "hotpotqa"),
        ("hotpotqa", WIKI, "2wiki"),
        ("2wiki", HOTPOT, "hotpotqa"),
        ("generic", MUSIQUE, "musique"),
    ],
)
def test_wrong_format_says_what_it_saw(put, wanted, record, seen):
    with pytest.raises(BadInput) as raised:
        list(read_items(put("q.json", array(record)), wanted))
    assert str(raised.value) == (
        f"q.json[0]: --form {wanted}: this record looks like {seen}; give --form {seen}, or leave it out"
    )


def test_unknown_format(put):
    with pytest.raises(BadInput, match=r"^--form squad: expected auto or one of hotpotqa, musique, 2wiki, generic$"):
        list(read_items(put("q.json", array(HOTPOT)), "squad"))


@pytest.mark.parametrize("reader", [read_items, read_passages])
def test_missing_file_folder_and_torn_archives(put, reader):
    with pytest.raises(BadInput, match=r"^none.json: no such file$"):
        list(reader("none.json"))
    with pytest.raises(BadInput, match=r"is a directory"):
        list(reader("."))
    # Noise does not pack, so that half the archive is more than the beginning that is looked at first.
    noise = random.Random(0).randbytes(3 << 20).hex()
    for container, place in (array, r"q\.json\.(gz|zst)"), (lines, r"q\.json\.(gz|zst):1"):
        whole = container({**HOTPOT, "noise": noise})
        packed = gzip.compress(whole, 1)
        with pytest.raises(BadInput, match=rf"^{place}: cannot be read: .*; is the file complete\?$"):
            list(reader(put("q.json.gz", packed[: len(packed) // 2])))
        packed = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(whole))
        packed[-1] ^= 1
        with pytest.raises(BadInput, match=rf"^{place}: cannot be unpacked: "):
            list(reader(put("q.json.zst", bytes(packed))))
    with pytest.raises(BadInput, match=r"^q.json.gz: cannot be read: Not a gzipped file"):
        list(reader(put("q.json.gz", array(HOTPOT))))


@pytest.mark.parametrize("name, content", [("a.json", b"[]"), ("a.jsonl", b"\n\n"), ("a.json", b""), ("a.txt", b"")])
def test_empty_files_hold_nothing(put, name, content):
    assert list(read_passages(put(name, content))) == []
    if name != "a.txt":
        assert list(read_items(name)) == []


def test_arrays_take_little_more_than_their_size(put):
    record = changed(HOTPOT, context=[*HOTPOT["context"], ["Long", ["word " * 2000]]])
    path = put("q.json", array(*({**record, "_id": str(i)} for i in range(1000))))
    size = Path(path).stat().st_size
    tracemalloc.start()
    try:
        assert sum(isinstance(each, Item) for each in read_items(path)) == 1000
        assert tracemalloc.get_traced_memory()[1] < 1.5 * size
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------- pools


@pytest.mark.parametrize("container", [array, lines])
def test_passages(put, container):
    records = [{"title": "A", "text": "One.", "idx": 0}, {"title": "B", "text": " "}, {"title": "", "text": "Two."}]
    assert list(read_passages(put("pool", container(*records)))) == [("A", "One."), ("", "Two.")]


def test_a_pool_takes_paragraphs_of_questions_without_answers(put):
    unanswered = changed(HOTPOT, answer=..., supporting_facts=...)
    assert len(list(read_passages(put("pool.json", array(unanswered))))) == 3


@pytest.mark.parametrize(
    "content, message",
    [
        (
            lines({"title": "A"}),
            "pool.jsonl:1: expected a passage with title and text, or a question: Object missing required field text",
        ),
        (b'{"title"\n', "pool.jsonl:1: expected one JSON object a line: Input data was truncated"),
        (b"<html>", "pool.jsonl: expected JSON, found a web page: '<html>'; was its download refused?"),
    ],
)
def test_bad_pools(put, content, message):
    with pytest.raises(BadInput) as raised:
        list(read_passages(put("pool.jsonl", content)))
    assert str(raised.value) == message


@pytest.mark.parametrize(
    "content, where, detail",
    [
        (
            array({"title": "A", "text": "a"}, {"title": 1, "text": "a"}, {"title": "B", "text": "b"}),
            "[1]",
            "expected a passage with title and text, or a question: Expected str, got int - at $.title",
        ),
        (array(HOTPOT, 3, HOTPOT), "[1]", "expected a passage with title and text, or a question: Expected object"),
        (
            lines({"title": "A", "text": "a"}) + b'{"title\n' + lines({"title": "B", "text": "b"}),
            ":2",
            "expected one JSON object a line: JSON is malformed: invalid character (byte 7)",
        ),
    ],
)
def test_a_bad_passage_is_dropped_and_named(put, content, where, detail):
    found = list(read_passages(put("pool.jsonl", content)))
    assert [each for each in found if isinstance(each, Dropped)] == [
        Dropped(f"pool.jsonl{where}", None, "passage", detail)
    ]
    assert not isinstance(found[0], Dropped) and not isinstance(found[-1], Dropped)


def test_text_is_split_at_blank_lines(put):
    content = b"\xef\xbb\xbf\r\n[Preface]\r\n\r\nOne line\r\n  and the next.\r\n \t\r\n\r\nThe end."
    expected = ["[Preface]", "One line\nand the next.", "The end."]
    for name, packed in ("book.txt", content), ("book.txt.gz", gzip.compress(content)):
        assert list(read_passages(put(name, packed))) == [(f"book.txt {i}", text) for i, text in enumerate(expected, 1)]
    assert list(read_passages(put("LICENSE", b"<b>bold</b>"))) == [("LICENSE 1", "<b>bold</b>")]
    with pytest.raises(BadInput, match=r"^latin.txt:2: expected UTF-8: invalid continuation byte at byte 0$"):
        list(read_passages(put("latin.txt", b"a\n\xe9t\xe9\n")))


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)
paragraphs = st.lists(
    st.fixed_dictionaries({"title": words, "text": words, "is_supporting": st.booleans()}), max_size=4
)


@given(st.lists(st.fixed_dictionaries({"id": words, "question": words, "answers": st.lists(words, max_size=3),
                                       "paragraphs": paragraphs}), min_size=1, max_size=5))  # fmt: skip
def test_generic_records_are_kept_whole_or_dropped_with_a_reason(tmp_path_factory, records):
    folder = tmp_path_factory.mktemp("generic")
    (folder / "a.json").write_bytes(array(*records))
    (folder / "a.jsonl").write_bytes(lines(*records))
    found = list(read_items(str(folder / "a.json")))
    assert [type(each) for each in found] == [type(each) for each in read_items(str(folder / "a.jsonl"))]
    assert len(found) == len(records)
    for record, each in zip(records, found, strict=True):
        if isinstance(each, Dropped):
            assert re.fullmatch(r"[a-z]+(-[a-z]+)+", each.reason) and each.detail
        else:
            assert each.answers[0] == record["answers"][0].strip()
            kept = [p for p in record["paragraphs"] if p["text"].strip()]
            assert [msgspec.to_builtins(p)["text"] for p in each.paragraphs] == [p["text"] for p in kept]
