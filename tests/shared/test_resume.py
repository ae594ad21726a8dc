"""What a filter promises when it is killed, raced or run again: lock, journal, manifest, budgets, time, atomic files."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonl_runs import complete, lines, output, tasks

from tenfold_shared import BadInput, Busy, OutOfTime
from tenfold_shared.jsonl import Journal, Lock, Source, write_atomic


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
    with pytest.raises(BadInput, match=r"in\.jsonl:3: id: t0 appears twice"):
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
