"""Streams, selection, lock, journal, manifest and flow: what a filter promises when it is killed,
raced, fed broken lines or run again."""

import gzip
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold_shared import BadInput, Busy, OutOfTime
from tenfold_shared.jsonl import (
    Journal,
    Lock,
    Output,
    Source,
    flow,
    open_read,
    read_lines,
    read_text,
    redact,
    write_atomic,
)


def lines(path):
    with open_read(str(path)) as stream:
        return [json.loads(line) for line in stream]


def tasks(path: Path, n: int, start: int = 0) -> Path:
    path.write_text("".join(json.dumps({"id": f"t{i}", "prompt": f"p{i}"}) + "\n" for i in range(start, start + n)))
    return path


def run(source, out, *, work=lambda x: {"got": x * 2}, per=3, **more):
    """A flow whose requests are small numbers; `calls` lists what was executed."""
    calls = []

    def execute(requests):
        for key, request in requests:
            calls.append(key)
            yield key, work(request)

    done = flow(
        source,
        identify=lambda r: r["id"],
        plan=lambda where, r: [(f"#{i}", i) for i in range(per)],
        execute=execute,
        assemble=lambda r, results: [{**r, "i": i, **result} for i, result in enumerate(results)],
        out=out,
        **more,
    )
    return done, calls


def output(path, source=None, overwrite=False, **options):
    return Output(str(path), tool="t", version="1", verb="v", options=options, source=source, overwrite=overwrite)


def complete(path, source, overwrite=False, options=(), **more):
    with output(path, source, overwrite, **dict(options)) as out:
        if out.finished:
            return None, []
        done, calls = run(source, out, **more)
        out.complete(done, source)
        return done, calls


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


def test_finished_run_is_a_no_op_and_manifest_says_what_made_it(tmp_path):
    path, source = tmp_path / "out.jsonl", Source([str(tasks(tmp_path / "in.jsonl", 4))], "task")
    _, calls = complete(path, source, options={"n": 3})
    assert len(calls) == 12
    assert complete(path, source, options={"n": 3}) == (None, [])
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    assert manifest["schema"] == "manifest/1" and manifest["options"] == {"n": 3} and manifest["status"] == "done"
    assert manifest["counts"]["written"] == 12 and manifest["inputs"][0]["path"].endswith("in.jsonl")
    assert {p.name for p in tmp_path.iterdir()} == {"in.jsonl", "out.jsonl", "out.jsonl.manifest.json"}


def test_other_options_or_inputs_are_refused_by_name(tmp_path):
    path, one = tmp_path / "out.jsonl", tasks(tmp_path / "in.jsonl", 4)
    complete(path, Source([str(one)], "task"), options={"n": 3, "top_p": 0.9})
    with pytest.raises(BadInput, match=r"--top-p 0\.9, this one has 0\.8"):
        complete(path, Source([str(one)], "task"), options={"n": 3, "top_p": 0.8})
    with pytest.raises(BadInput, match="other content of the input"):
        complete(path, Source([str(tasks(one, 5))], "task"), options={"n": 3, "top_p": 0.9})
    _, calls = complete(path, Source([str(one)], "task"), overwrite=True, options={"n": 3, "top_p": 0.8})
    assert len(calls) == 15


def test_a_file_nobody_accounts_for_is_not_replaced(tmp_path):
    path, source = tmp_path / "out.jsonl", Source([str(tasks(tmp_path / "in.jsonl", 1))], "task")
    path.write_text("precious\n")
    with pytest.raises(BadInput, match="no manifest"):
        complete(path, source)
    assert path.read_text() == "precious\n"


def test_bad_line_leaves_nothing_under_the_final_name_and_keeps_the_work(tmp_path):
    path, data = tmp_path / "out.jsonl", tasks(tmp_path / "in.jsonl", 5)
    data.write_text(data.read_text() + "{broken\n")
    source = Source([str(data)], "task")
    with pytest.raises(BadInput, match=":6:"):
        complete(path, source)
    assert not path.exists()
    assert (tmp_path / ".out.jsonl.journal").exists() and not (tmp_path / ".out.jsonl.tmp").exists()
    # Nothing of it is lost: tolerating the line (skip_bad is no option of this test's run) continues.
    _, calls = complete(path, Source([str(data)], "task", skip_bad=1))
    assert calls == [] and len(lines(path)) == 15


def test_failed_records_are_written_counted_and_tried_again(tmp_path):
    path, source = tmp_path / "out.jsonl", Source([str(tasks(tmp_path / "in.jsonl", 3))], "task")
    done, _ = complete(path, source, work=lambda i: {"error": "no"} if i == 1 else {"got": i})
    assert done.failed == 3 and [r.get("error") for r in lines(path)] == [None, "no", None] * 3
    done, calls = complete(path, source)
    assert done.failed == 0 and calls == ["t0#1", "t1#1", "t2#1"]
    assert complete(path, source) == (None, [])


def test_duplicate_ids_are_refused(tmp_path):
    data = tasks(tmp_path / "in.jsonl", 2)
    data.write_text(data.read_text() * 2)
    with pytest.raises(BadInput, match=r"in\.jsonl:3: t0: appears twice"):
        complete(tmp_path / "out.jsonl", Source([str(data)], "task"))


def test_budget_publishes_whole_records_and_a_larger_one_continues(tmp_path):
    path, source = tmp_path / "out.jsonl", Source([str(tasks(tmp_path / "in.jsonl", 10))], "task")
    cost = {"cost": lambda result: 10}
    done, calls = complete(path, source, budget=80, **cost)
    assert done.status == "budget" and len(calls) == 8 and len(lines(path)) == 6
    done, calls = complete(path, source, budget=80, **cost)
    assert done.status == "budget" and calls == []
    done, calls = complete(path, source, budget=1000, **cost)
    assert done.status == "done" and len(calls) == 22 and len(lines(path)) == 30


def test_max_time_saves_and_continues(tmp_path):
    path, source = tmp_path / "out.jsonl", Source([str(tasks(tmp_path / "in.jsonl", 4))], "task")

    def slow(i):
        time.sleep(0.06)
        return {"got": i}

    with pytest.raises(OutOfTime, match="saved"):
        complete(path, source, work=slow, max_time=0.2)
    assert not path.exists()
    _, calls = complete(path, source)
    assert 0 < len(calls) < 12 and len(lines(path)) == 12


@given(have=st.sets(st.integers(0, 29)), batch=st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_static_batches_are_the_same_after_a_kill(tmp_path_factory, have, batch):
    """Whatever subset survived in the journal, only whole batches of the unbroken run are executed."""
    folder = tmp_path_factory.mktemp("b")
    path, source = folder / "out.jsonl", Source([str(tasks(folder / "in.jsonl", 10))], "task")
    keys = [f"t{i}#{j}" for i in range(10) for j in range(3)]
    with output(path, source) as out:
        for position in sorted(have):
            out.journal.put(keys[position], {"got": position % 3 * 2})
    _, calls = complete(path, source, batch=batch)
    chunks = [keys[i : i + batch] for i in range(0, 30, batch)]
    expected = [key for chunk in chunks for key in chunk if any(keys.index(k) not in have for k in chunk)]
    assert calls == expected
    assert [(r["id"], r["i"], r["got"]) for r in lines(path)] == [
        (f"t{i}", j, 2 * j) for i in range(10) for j in range(3)
    ]


@given(cut=st.integers(0, 400))
@settings(max_examples=60, deadline=None)
def test_a_journal_cut_anywhere_gives_the_same_output(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("j")
    path, source = folder / "out.jsonl", Source([str(tasks(folder / "in.jsonl", 4))], "task")
    journal = folder / ".out.jsonl.journal"
    with output(path, source) as out:
        for i in range(4):
            for j in range(3):
                out.journal.put(f"t{i}#{j}", {"got": 2 * j})
    whole = journal.read_bytes()
    header = whole.index(b"\n") + 1
    journal.write_bytes(whole[: header + cut])
    kept = whole[header : header + cut].count(b"\n")
    _, calls = complete(path, source)
    assert len(calls) == 12 - min(kept, 12) and [r["got"] for r in lines(path)] == [0, 2, 4] * 4


def test_a_journal_damaged_in_the_middle_is_not_trusted(tmp_path):
    journal = Journal(tmp_path / "j", {"tool": "t"})
    journal.put("a", {"x": 1})
    journal.put("b", {"x": 2})
    journal.close(remove=False)
    data = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(data.replace(b'["a"', b'["a'))
    with pytest.raises(BadInput, match="damaged journal"):
        Journal(tmp_path / "j", {"tool": "t"})


# ------------------------------------------------------------------ lock


def test_a_second_owner_is_refused_and_a_dead_one_is_not(tmp_path):
    script = "import sys,time; from pathlib import Path; from tenfold_shared.jsonl import Lock; Lock(Path(sys.argv[1]), Path('out')); print('held', flush=True); time.sleep(60)"
    path = tmp_path / ".out.lock"
    owner = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    try:
        assert owner.stdout.readline() == b"held\n"
        with pytest.raises(Busy, match="another run"):
            Lock(path, Path("out"))
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    lock = Lock(path, Path("out"))
    lock.release()
    assert not path.exists()


def test_write_atomic_replaces_whole_files(tmp_path):
    write_atomic(tmp_path / "a", b"one")
    write_atomic(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two" and len(list(tmp_path.iterdir())) == 1


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
