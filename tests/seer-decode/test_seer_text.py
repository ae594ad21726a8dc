"""Text, its rendering and its packing: every form of a record, what a template loses, rows that no sequence is split over."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make_tokenizer

from seer_decode.data import read
from seer_decode.pack import pack, pieces
from seer_decode.text import Encoder, Reader, stream
from tenfold_shared import BadInput

THOUGHT = "<think>\none and two are three\n</think>\n\nthree"
DROPS = (
    "{% for m in messages %}{% set c = m.content %}{% if '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}"
    "{{ m.role + ':' + c + '\n' }}{% endfor %}"
)


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(40, 60))
def test_rows_hold_every_sequence_once_and_whole(lengths, width):
    rows = pack(lengths, width)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    fill = [sum(lengths[i] for i in row) for row in rows]
    assert all(total <= width for total in fill)
    # Best fit leaves no two rows that would fit in one, unless there is one row.
    assert len(rows) < 2 or sum(sorted(fill)[:2]) > width


def test_packing_by_hand_and_by_brute_force():
    assert pack([5, 3, 2, 6, 4], 8) == [[3, 2], [0, 1], [4]]
    assert pack([], 8) == []
    for wrong in (9, 0):
        with pytest.raises(ValueError, match=f"{wrong} tokens in rows of 8"):
            pack([wrong], 8)


def test_packing_compares_little():
    """n log n: no pass over all open rows for every sequence."""

    class Counted(int):
        seen = 0

        def __lt__(self, other):
            Counted.seen += 1
            return int(self) < int(other)

    n = 4000
    pack([Counted(501 + i % 490) for i in range(n)], 1000)
    assert Counted.seen < 60 * n


@given(st.lists(st.integers(0, 100), max_size=20), st.integers(17, 40))
def test_pieces_are_the_documents_in_order(lengths, width):
    found = pieces(lengths, width, 10)
    for number, length in enumerate(lengths):
        mine = [(a, b) for n, a, b in found if n == number]
        assert all(b - a >= 10 and b - a <= width for a, b in mine)
        left_out = length - sum(b - a for a, b in mine)
        assert 0 <= left_out < 10 and [a for a, _ in mine] == [width * i for i in range(len(mine))]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def rendered(tokenizer, path, **how):
    return [tokenizer.decode(Encoder(tokenizer)(document)) for document in Reader([str(path)], **how)]


def test_every_form_of_a_record(tokenizer, tmp_path):
    turn = [{"role": "user", "content": "what is one plus two?"}]
    records = [
        {"text": "the lazy dog"},
        {"messages": [*turn, {"role": "assistant", "content": THOUGHT}]},
        {"messages": turn, "response": THOUGHT, "id": "of generate"},
        {"messages": turn, "response": "three", "reasoning": "one and two are three"},
        {"prompt": turn[0]["content"], "response": THOUGHT},
        {
            "messages": turn,
            "choices": [{"message": {"content": "three", "reasoning_content": "one and two are three"}}],
        },
    ]
    lines = "\n".join(map(json.dumps, records))
    (tmp_path / "t.jsonl").write_text(lines + "\n")
    with gzip.open(tmp_path / "t.jsonl.gz", "wt") as out:
        out.write(lines)
    found = rendered(tokenizer, tmp_path / "t.jsonl")
    assert found == rendered(tokenizer, tmp_path / "t.jsonl.gz")
    assert found[0] == "the lazy dog"
    assert set(found[1:]) == {f"user:what is one plus two?\nassistant:{THOUGHT}\n"}
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"messages": [records[1]["messages"]] * 2}), tmp_path / "t.parquet")
    assert rendered(tokenizer, tmp_path / "t.parquet") == [found[1]] * 2
    apart = {"messages": [turn] * 2, "response": ["three"] * 2, "reasoning": ["one and two are three"] * 2}
    pq.write_table(pa.table(apart), tmp_path / "apart.parquet")
    assert rendered(tokenizer, tmp_path / "apart.parquet") == [found[1]] * 2
    (tmp_path / "plain.txt").write_text("the fox\n\nand the dog")
    assert rendered(tokenizer, tmp_path / "plain.txt") == ["the fox\n\nand the dog"]


def test_stdin_is_the_file(tmp_path, monkeypatch):
    for text in ("the fox\n\n\nand the dog\n", '{"text": "the fox"}\n\n{"text": "dog"}\n'):
        name = "t.jsonl" if text.startswith("{") else "t.txt"
        (tmp_path / name).write_text(text)
        monkeypatch.setattr("sys.stdin", open(tmp_path / name))
        assert [d.content for d in Reader(["-"])] == [d.content for d in Reader([str(tmp_path / name)])]
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(BadInput, match="stdin is closed"):
        list(Reader(["-"]))


def test_a_template_that_loses_thinking_is_refused(tokenizer, tmp_path):
    talk = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": THOUGHT}]
    (tmp_path / "t.jsonl").write_text(json.dumps({"text": "fox"}) + "\n" + json.dumps({"messages": talk}) + "\n")
    (tmp_path / "drops.jinja").write_text(DROPS)
    kept = list(Reader([str(tmp_path / "t.jsonl")]))
    encode = Encoder(make_tokenizer(), str(tmp_path / "drops.jinja"))
    for said in (
        THOUGHT.removeprefix("<think>"),
        "so <think>\nall of it, cut off",
    ):  # opened by the prompt; never closed
        lost = [talk[0], {"role": "assistant", "content": said}]
        if "</think>" in said:
            with pytest.raises(BadInput, match="drops what an assistant thinks"):
                encode(kept[1]._replace(content=lost))
        assert said in tokenizer.decode(Encoder(tokenizer)(kept[1]._replace(content=lost)))
    assert encode(kept[0])
    with pytest.raises(
        BadInput, match=r"t\.jsonl:2: the chat template drops what an assistant thinks .*--chat-template"
    ):
        encode(kept[1])
    assert THOUGHT in tokenizer.decode(Encoder(tokenizer)(kept[1]))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", r":2: expected one JSON object a line"),
        ("[1]", r":2: expected an object with"),
        ('{"id": 3}', r":2: expected `messages`, `text`"),
        ('{"messages": []}', r":2: expected `messages`"),
        ('{"messages": [{"role": "user"}]}', r":2: messages\[0\]: expected"),
        ('{"prompt": "only"}', r":2: expected"),
    ],
)
def test_a_bad_record_is_named_or_passed_over(tokenizer, tmp_path, line, why):
    (tmp_path / "t.jsonl").write_text('{"text": "fox"}\n' + line + '\n{"text": "dog"}\n')
    with pytest.raises(BadInput, match=r"t\.jsonl" + why):
        list(Reader([str(tmp_path / "t.jsonl")]))
    reader = Reader([str(tmp_path / "t.jsonl")], skip_bad=1)
    assert [document.content for document in reader] == ["fox", "dog"] and reader.skipped == 1


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "bytes.txt").write_bytes(b"fox \xff")
    (tmp_path / "no.parquet").write_bytes(b"PAR1 no")
    for name, why in (("missing.txt", "no such file"), ("bytes.txt", "UTF-8"), ("no.parquet", "cannot be read")):
        with pytest.raises(BadInput, match=why):
            list(Reader([str(tmp_path / name)]))
    with pytest.raises(BadInput, match="stdin can be read once"):
        Reader(["-", "-"])


def test_a_corpus_is_read_as_far_as_it_is_wanted(tokenizer, tmp_path):
    words = "the quick brown fox jumps over the lazy dog, and then the dog sleeps. "
    lines = [json.dumps({"text": words * n}) for n in (1, 3, 40, 2, 5, 5, 5)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    path = str(tmp_path / "t.jsonl")
    found = read(Reader([path]), Encoder(tokenizer), 128, 16, 10**9, True)
    assert all(sum(len(found.sequences[i]) for i in row) <= 128 for row in found.rows) and found.cut >= 1
    assert max(map(len, found.sequences)) == 128 and min(map(len, found.sequences)) > 16
    some = read(Reader([path]), Encoder(tokenizer), 128, 16, 100, True)
    assert some.tokens < found.tokens
    alone = read(Reader([path]), Encoder(tokenizer), 128, 16, 10**9, False)
    assert [len(row) for row in alone.rows] == [1] * len(alone.sequences)
    # Every row once, then every row again in another order; a step's rows do not depend on the steps before.
    once = [i for step in range(len(found.rows)) for i in found.batch(step, 1, 7)]
    total = sorted(tuple(map(len, row)) for row in once)
    assert total == sorted(tuple(len(found.sequences[i]) for i in row) for row in found.rows)
    pairs = [row for step in range(3) for row in found.batch(step, 2, 7)]
    singles = [found.batch(step, 1, 7)[0] for step in range(6)]
    assert [[x.tolist() for x in row] for row in pairs] == [[x.tolist() for x in row] for row in singles]
    (tmp_path / "short.jsonl").write_text('{"text": "fox"}')
    with pytest.raises(BadInput, match="no document has more than one block of 16 tokens"):
        read(Reader([str(tmp_path / "short.jsonl")]), Encoder(tokenizer), 128, 16, 100, True)


def test_a_stream_is_the_documents_one_after_another(tokenizer, tmp_path):
    (tmp_path / "a.txt").write_text("the fox")
    (tmp_path / "b.txt").write_text("the dog")
    reader = Reader([str(tmp_path / "a.txt"), str(tmp_path / "b.txt")])
    whole = stream(reader, Encoder(tokenizer))
    assert tokenizer.decode(whole) == "the foxthe dog" and stream(reader, Encoder(tokenizer), 3) == whole[:3]
