"""A folder as an output: whole or not there, continued, refused, replaced."""

import json
import subprocess
import sys

import pytest

from tenfold_shared import BadInput, Busy
from zerorepo.generation.folder import Folder, manifest_of


def folder(path, overwrite=False, **options):
    return Folder(str(path), verb="test", options=options, inputs=[{"path": "a", "sha256": "1"}], overwrite=overwrite)


def test_it_is_written_whole_with_a_manifest(tmp_path):
    with folder(tmp_path / "out", n=1) as out:
        out.journal.put("key", 1)
        assert not (tmp_path / "out").exists()
        out.publish({"a/b.txt": b"x", "c": b"y"}, {"files": 2}, seed=3)
    assert (tmp_path / "out" / "a" / "b.txt").read_bytes() == b"x"
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (told["tool"], told["verb"], told["options"], told["counts"], told["seed"], told["status"]) == ("zerorepo", "test", {"n": 1}, {"files": 2}, 3, "done")  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_same_again_is_finished_and_another_is_refused(tmp_path):
    with folder(tmp_path / "out", n=1) as out:
        out.publish({"a": b"x"}, {})
    with folder(tmp_path / "out", n=1) as out:
        assert out.finished is not None and out.finished["options"] == {"n": 1}
    with pytest.raises(BadInput, match="--n 1, this one has 2"), folder(tmp_path / "out", n=2):
        pass
    with folder(tmp_path / "out", n=2, overwrite=True) as out:
        assert out.finished is None
        out.publish({"b": b"y"}, {})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b", "manifest.json"]


def test_an_error_leaves_what_was_there_and_the_journal(tmp_path):
    with folder(tmp_path / "out", n=1) as out:
        out.publish({"a": b"x"}, {})

    def render(place):
        (place / "half").write_bytes(b"z")
        raise RuntimeError

    with pytest.raises(RuntimeError), folder(tmp_path / "out", n=2, overwrite=True) as out:
        out.journal.put("key", 1)
        out.publish(render, {})
    assert (tmp_path / "out" / "a").read_bytes() == b"x" and not (tmp_path / "out" / "half").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.journal", "out"]
    with pytest.raises(BadInput, match="an unfinished run has --n 2, this one has 3"), folder(tmp_path / "out", n=3):
        pass
    with folder(tmp_path / "out", n=2) as out:
        assert out.journal.get("key") == 1


def test_an_empty_journal_holds_no_work(tmp_path):
    with pytest.raises(RuntimeError), folder(tmp_path / "out", n=1):
        raise RuntimeError
    with folder(tmp_path / "out", n=2) as out:
        out.publish({}, {})
    assert manifest_of(tmp_path / "out") is not None


def test_more_to_do_keeps_the_journal_and_goes_on(tmp_path):
    with folder(tmp_path / "out", n=1) as out:
        out.journal.put("key", 1)
        out.publish({"a": b"half"}, {}, status="budget", keep_journal=True)
    with folder(tmp_path / "out", n=1) as out:
        assert out.finished is None and out.journal.get("key") == 1
        out.publish({"a": b"whole"}, {})
    assert (tmp_path / "out" / "a").read_bytes() == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_not_ours_is_not_touched(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thing").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text('{"tool": "datamix"}')
    for name, why in (("theirs", "did not make"), ("file", "no folder"), ("link", "no folder"), ("other", "did not make"), ("no/out", "create it first")):  # fmt: skip
        with pytest.raises(BadInput, match=why), folder(tmp_path / name, overwrite=True):
            pass
    assert (tmp_path / "theirs" / "thing").read_text() == "x"
    with pytest.raises(BadInput, match="expected -o DIR"):
        Folder(None, verb="test", options={}, inputs=[])


def test_a_living_run_holds_it_and_a_dead_one_does_not(tmp_path):
    program = f"""
import sys, os
from zerorepo.generation.folder import Folder
out = Folder({str(tmp_path / "out")!r}, verb="test", options={{"n": 1}}, inputs=[{{"path": "a", "sha256": "1"}}])
out.__enter__(); out.journal.put("key", 1); print("held", flush=True); sys.stdin.read()
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(Busy), folder(tmp_path / "out", n=1):
        pass
    process.kill()
    process.wait()
    with folder(tmp_path / "out", n=1) as out:
        assert out.journal.get("key") == 1
