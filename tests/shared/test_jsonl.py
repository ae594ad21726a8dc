"""Streams, selection and order: what a filter reads and writes, and what it says of broken input."""

import gzip
import io
import json
import os
import random
import re
import sys

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonl_runs import complete, lines, output, run, tasks

from tenfold_shared import BadInput
from tenfold_shared.jsonl import Output, Source, flow, read_lines, read_text
from tenfold_shared.redaction import redact

# ------------------------------------------------------------------ reading


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_compression_by_suffix_round_trips(tmp_path, suffix):
    path = tmp_path / f"a.jsonl{suffix}"
    source = Source([str(tasks(tmp_path / "in.jsonl", 50))], "task")
    complete(path, source)
    assert len(lines(path)) == 150
    raw = path.read_bytes()
    assert raw[:2] == b"\x1f\x8b" if suffix == ".gz" else raw[:4] == b"\x28\xb5\x2f\xfd" if suffix else raw[:1] == b"{"
    other = tmp_path / f"b.jsonl{suffix}"
    complete(other, source)
    assert other.read_bytes() == raw


def test_broken_ten_thousandth_line_is_named(tmp_path):
    path = tasks(tmp_path / "in.jsonl", 10_500)
    text = path.read_text().splitlines()
    text[9_999] = '{"id": "x", "prompt": '
    path.write_text("\n".join(text) + "\n")
    with pytest.raises(BadInput, match=r"in\.jsonl:10000: expected one JSON object a line"):
        list(Source([str(path)], "task"))
    assert len(list(Source([str(path)], "task", skip_bad=1))) == 10_499


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": 3, "prompt": "p"}', "id: expected str, got int"),
        (b'{"prompt": "p"}', "id: required field is missing"),
        (b'{"id": "a"}', "messages: expected a chat list"),
        (b'{"id": "a", "messages": [{"role": 1, "content": ""}]}', r"messages\[0\]\.role: expected str, got int"),
        (b'{"id": "a", "prompt": "p", "schema": "task/2"}', "schema: task/2 is of another major version"),
        (b'{"id": "a", "prompt": "p", "meta": {"match": "some"}}', "meta.match: expected"),
        (b'{"id": "a", "prompt": "\xff"}', "expected"),
        (b"[1]", "expected a JSON object"),
        (b"[" * 100_000, "a.jsonl:1"),
    ],
)
def test_bad_records_name_file_line_and_field(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n" + line + b"\n")  # a blank line counts as a line, and is no record
    with pytest.raises(BadInput, match=message.replace("a.jsonl:1", "a.jsonl:2")) as caught:
        list(Source([str(path)], "task"))
    assert "a.jsonl:2: " in str(caught.value)


def test_torn_archives_are_bad_input_at_their_line(tmp_path):
    body = b"".join(json.dumps({"id": str(i), "prompt": os.urandom(30).hex()}).encode() + b"\n" for i in range(5000))
    for suffix, packed in (
        (".gz", gzip.compress(body)),
        (".zst", zstandard.ZstdCompressor(write_checksum=True).compress(body)),
    ):
        path = tmp_path / f"a.jsonl{suffix}"
        path.write_bytes(packed[: len(packed) // 2])
        with pytest.raises(BadInput, match=r"a\.jsonl\.\w+:\d+: "):
            list(Source([str(path)], "task"))
        path.write_bytes(packed[:100] + b"garbage" + packed[107:])
        with pytest.raises(BadInput, match=r"a\.jsonl\.\w+:\d+: "):
            list(Source([str(path)], "task"))


def test_a_hundred_megabyte_line_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    with open(path, "w") as stream:
        stream.write('{"id": "a", "prompt": "' + "x" * 100_000_000 + '"}\n')
    ((_, record),) = Source([str(path)], "task")
    assert len(record["prompt"]) == 100_000_000


def test_missing_file_and_folder_read_as_bad_input(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        list(Source([str(tmp_path / "none.jsonl")], "task"))
    with pytest.raises(BadInput, match="is a directory"):
        list(Source([str(tmp_path)], "task"))


# ------------------------------------------------------------------ selection


@given(total=st.integers(0, 40), parts=st.integers(1, 9), limit=st.none() | st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_shards_concatenate_to_the_whole(tmp_path_factory, total, parts, limit):
    path = tasks(tmp_path_factory.mktemp("s") / "in.jsonl", total)
    whole = [r["id"] for _, r in Source([str(path)], "task", limit=limit)]
    joined = [
        r["id"] for i in range(1, parts + 1) for _, r in Source([str(path)], "task", limit=limit, shard=(i, parts))
    ]
    assert joined == whole == [f"t{i}" for i in range(total)][:limit]


def test_shard_of_stdin_is_refused():
    with pytest.raises(BadInput, match="--shard"):
        Source([], "task", shard=(1, 2))


def test_ids_and_limit_select(tmp_path):
    path = tasks(tmp_path / "in.jsonl", 10)
    (tmp_path / "ids").write_text("t7\nt2\n\nt9\n")
    picked = [r["id"] for _, r in Source([str(path)], "task", ids=str(tmp_path / "ids"), limit=2)]
    assert picked == ["t2", "t7"]


# ------------------------------------------------------------------ output, resume, identity


def test_output_order_is_input_order_whatever_the_completion_order(tmp_path):
    source = Source([str(tasks(tmp_path / "in.jsonl", 30))], "task")

    def shuffled(requests):
        pending = list(requests)
        random.Random(0).shuffle(pending)
        for key, request in pending:
            yield key, {"got": request}

    path = tmp_path / "out.jsonl"
    with output(path, source) as out:
        done = flow(
            source,
            identify=lambda r: r["id"],
            plan=lambda where, r: [(f"#{i}", i) for i in range(2)],
            execute=shuffled,
            assemble=lambda r, results: [{**r, "got": [x["got"] for x in results]}],
            out=out,
        )
        out.complete(done, source)
    assert [(r["id"], r["got"]) for r in lines(path)] == [(f"t{i}", [0, 1]) for i in range(30)]


def test_credentials_in_urls_are_redacted():
    assert redact("http://me:secret@host:8/v1#m") == "http://host:8/v1#m"
    assert redact("a@b http://host/x@y") == "a@b http://host/x@y"


def test_stdout_gets_records_in_order(tmp_path, monkeypatch):
    class Bytes(io.BytesIO):
        @property
        def buffer(self):
            return self

    captured = Bytes()
    monkeypatch.setattr(sys, "stdout", captured)
    source = Source([str(tasks(tmp_path / "in.jsonl", 3))], "task")
    with Output(None, tool="t", version="1", verb="v", options={}) as out:
        done, _ = run(source, out)
        assert out.complete(done, source) == 0
    monkeypatch.undo()
    assert [json.loads(line)["i"] for line in captured.getvalue().splitlines()] == [0, 1, 2] * 3


@pytest.mark.parametrize("frames", [1, 3])
def test_a_zst_file_that_was_cut_off_is_no_whole_one(tmp_path, frames):
    """Also behind a flush and between frames, where zstandard's own reader sees an end."""

    written = io.BytesIO()
    for frame in range(frames):
        with zstandard.ZstdCompressor().stream_writer(written, closefd=False) as writer:
            for at in range(2000):
                writer.write(b'{"id": "%d-%d", "text": "%x"}\n' % (frame, at, hash((frame, at)) & 0xFFFFFFFF))
                if at == 1000:
                    writer.flush(zstandard.FLUSH_BLOCK)
    path = tmp_path / "rows.jsonl.zst"
    path.write_bytes(written.getvalue())
    assert sum(1 for _ in read_lines(str(path))) == 2000 * frames
    for size in (len(written.getvalue()) // 2, len(written.getvalue()) - 1, 10):
        path.write_bytes(written.getvalue()[:size])
        with pytest.raises(BadInput, match=r"rows.jsonl.zst:\d+: cannot be read: .*; is the file complete\?$"):
            list(read_lines(str(path)))


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": "a"}\n{"id": "b"}\n')
    assert [record["id"] for _, record in Source([str(path)], None)] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("system.txt", b"a\xff", "expected UTF-8: invalid start byte at byte 1"),
        ("system.gz", gzip.compress(b"Think. " * 99, mtime=0)[:20], "is the file complete?"),
        ("system.zst", b"no zst at all", "cannot be unpacked"),
        ("missing", None, "no such file"),
    ],
)
def test_small_files_are_read_whole_or_refused(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=re.escape(message)):
        read_text(str(path))


def test_ids_of_a_foreign_form_may_be_numbers(tmp_path):
    path, ids = tmp_path / "rows.jsonl", tmp_path / "ids"
    path.write_text('{"id": 7}\n{"id": [1]}\n{"id": "b"}\n')
    ids.write_bytes(b"7\r\nb\r\n")
    assert [record["id"] for _, record in Source([str(path)], None, ids=str(ids))] == [7, "b"]
