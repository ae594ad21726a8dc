"""Calibration runs that were cut off, full disks, damaged shards: the same command goes on, and what is a user's stays."""

import hashlib
import json
import os
import resource
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ant_models import BIN, antkv, codebook, tiny
from calibrated import model_folder, run

from antkv import anchors, calibrate
from antkv import codebook as books
from tenfold_shared import BadInput, Missing


class Killed(BaseException):
    """What a kill is to code that catches errors."""


# ------------------------------------------------------------ runs that are cut off


def short_of_room():
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))


@pytest.fixture
def cut_off(folder, tmp_path):
    """(command, codebook of a whole run) of a run whose codebook, its one file over 50 kB, did not find room."""
    out = tmp_path / "cut.safetensors"
    words = [
        "calibrate", folder / "text.txt", "--model", folder, "--dim", 4, "--centroids", 256, "--tokens", 260, "--length", 130,
        "-o", out, "-q",
    ]  # fmt: skip
    done = subprocess.run([str(BIN), *map(str, words)], preexec_fn=short_of_room, capture_output=True, text=True)
    assert done.returncode == 3 and "no space left on the disk" in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".json"} == {"cut.safetensors.work"}
    whole = tmp_path / "whole.safetensors"
    assert run(folder, whole, shape=books.Shape(4, 256), tokens=260, length=130, dtype="auto", device="auto") == 0
    return words, whole.read_bytes()


def test_a_full_disk_is_told_and_the_same_command_goes_on(cut_off, tmp_path):
    words, whole = cut_off
    for more, word in ((["--dtype", "bfloat16"], "--dtype"), (["--seed", 1], "--seed")):
        other = antkv(*words, *more)
        assert other.returncode == 2 and f"an unfinished run was made with {word}" in other.stderr
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cut.safetensors.work").glob("book-*")}
    assert len(stamps) == 4
    done = antkv(*words)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert (tmp_path / "cut.safetensors").read_bytes() == whole
    assert not (tmp_path / "cut.safetensors.work").exists()


@pytest.mark.parametrize("damage", ["halved", "overwritten", "away", "record"])
def test_damaged_shards_are_collected_again(cut_off, tmp_path, damage):
    words, whole = cut_off
    work = tmp_path / "cut.safetensors.work"
    for path in work.glob("book-*"):
        path.unlink()
    shard = max(work.glob("layer-1*"), key=lambda path: path.stat().st_size)
    data = shard.read_bytes()
    if damage == "halved":
        shard.write_bytes(data[: len(data) // 2])
    elif damage == "overwritten":
        shard.write_bytes(bytes(1000) + data[1000:])
    elif damage == "away":
        shard.unlink()
    else:
        (work / "collected.json").write_text('{"sequ')
    done = antkv(*words)
    assert done.returncode == 0, done.stderr
    assert ("layer-1: not what was written there; collecting again" in done.stderr) == (damage != "record")
    assert (tmp_path / "cut.safetensors").read_bytes() == whole


@pytest.mark.parametrize("at", ["manifest", "save", "clear"])
def test_a_kill_at_the_end_leaves_a_run_that_can_be_finished(folder, tmp_path, monkeypatch, capsys, at):
    out = tmp_path / "c.safetensors"
    write = calibrate.write_atomic

    def die(*args, **more):
        raise Killed

    with monkeypatch.context() as patch:
        if at == "manifest":
            patch.setattr(
                calibrate, "write_atomic", lambda path, data: die() if "manifest" in str(path) else write(path, data)
            )
        elif at == "save":
            patch.setattr(calibrate, "save", die)
        else:
            unlink = Path.unlink
            patch.setattr(
                Path, "unlink", lambda path, **more: die() if "layer-1" in path.name else unlink(path, **more)
            )
        with pytest.raises(Killed):
            run(folder, out)
    assert (tmp_path / "c.safetensors.work").exists()
    assert run(folder, out, quiet=False) == 0
    assert ("complete already" in capsys.readouterr().err) == (at == "clear")
    assert not (tmp_path / "c.safetensors.work").exists()
    books.load(str(out))
    found = json.loads((tmp_path / "c.safetensors.manifest.json").read_text())
    names = "schema tool version verb argv options seed inputs model counts started seconds fit"
    assert set(found) == set(names.split())
    digest = hashlib.sha256((folder / "text.txt").read_bytes()).hexdigest()
    assert found["inputs"] == [{"path": str(folder / "text.txt"), "sha256": digest}]
    assert found["options"]["model"] == str(folder) and found["options"]["dtype"] == "float32"
    assert found["counts"] == {"sequences": 8, "tokens": 1024, "layers": 2}


def test_an_older_codebook_stays_until_the_new_one_is_whole(folder, tmp_path, monkeypatch):
    out = tmp_path / "c.safetensors"
    assert run(folder, out) == 0
    before = out.read_bytes()
    with pytest.raises(BadInput, match="no such file"):
        run(folder, out, [tmp_path / "nothing.txt"], overwrite=True)
    with pytest.raises(BadInput, match="positions"):
        run(folder, out, length=4096, overwrite=True)
    with monkeypatch.context() as patch:
        patch.setattr(calibrate, "fit_layer", lambda *given: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run(folder, out, seed=1, overwrite=True)
    assert out.read_bytes() == before
    with monkeypatch.context() as patch:  # the same command goes on: nothing is collected twice
        patch.setattr(anchors, "watch", lambda *given: (_ for _ in ()).throw(AssertionError))
        assert run(folder, out, seed=1, overwrite=True) == 0
    assert out.read_bytes() != before and books.load(str(out)).made.seed == 1
    with pytest.raises(BadInput, match=r"text\.txt: is an input as well"):
        run(folder, folder / "text.txt", overwrite=True)
    (tmp_path / "c.safetensors.manifest.json").unlink()
    with pytest.raises(BadInput, match="no manifest says what made it"):
        run(folder, out)


def test_the_codebook_is_as_readable_as_any_new_file(tmp_path):
    before = os.umask(0o022)
    try:
        books.save(codebook(tiny()), str(tmp_path / "c.safetensors"))
    finally:
        os.umask(before)
    assert (tmp_path / "c.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(path, data):
        path.with_name(f".{path.name}.tmp").write_bytes(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(books, "write_atomic", full)
    with pytest.raises(Missing, match="no space left"):
        books.save(codebook(tiny()), str(tmp_path / "c.safetensors"))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_layer_is_fitted_again(tmp_path):
    work = calibrate.Work(tmp_path / "x.work", codebook(tiny()).made)
    assert work.identity is None
    identity = calibrate.Run("antkv", "calibrate", {"seed": 0}, [calibrate.Input("a", "0" * 64)])
    work.begin(identity)
    assert work.identity == identity
    work.put_book(0, {"keys": np.zeros(3)})
    assert work.book(0)["keys"].tolist() == [0, 0, 0]
    path = tmp_path / "x.work" / "book-0.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert work.book(0) is None and work.book(1) is None


# ------------------------------------------------------------ another's folder


def test_a_users_folder_where_the_work_would_be_is_left_alone(folder, tmp_path, capsys):
    out, work = tmp_path / "c.safetensors", tmp_path / "c.safetensors.work"
    for name in ("notes.txt", "layer-0", "identity.json"):
        work.mkdir()
        (work / name).write_text('{"name": "mine"}')
        with pytest.raises(BadInput, match=f"is wanted for unfinished work, and has {name}.* move it away"):
            run(folder, out)
        assert (work / name).read_text() == '{"name": "mine"}' and not out.exists()
        shutil.rmtree(work)
    work.write_text("mine")
    with pytest.raises(BadInput, match="move it away"):
        run(folder, out)
    assert work.read_text() == "mine"
    work.unlink()
    work.mkdir()  # one that is empty holds nothing of anybody
    assert run(folder, out) == 0 and not work.exists()


def test_what_a_user_puts_into_the_work_outlives_it(folder, tmp_path, monkeypatch):
    out, work = tmp_path / "c.safetensors", tmp_path / "c.safetensors.work"
    with monkeypatch.context() as patch:
        patch.setattr(calibrate, "fit_layer", lambda *given: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run(folder, out)
    (work / "notes.txt").write_text("mine")
    for _ in range(2):  # the second time there is nothing to do
        assert run(folder, out) == 0
        assert [path.name for path in work.iterdir()] == ["notes.txt"]
    with pytest.raises(BadInput, match=r"has notes\.txt"):
        run(folder, out, seed=1, overwrite=True)


@pytest.mark.parametrize("data", [b"", b'{"tool": "ant', b"\xff\xfe", b"[" * 100_000])
def test_damaged_records_of_the_work_begin_it_again(folder, tmp_path, monkeypatch, capsys, data):
    out, work = tmp_path / "c.safetensors", tmp_path / "c.safetensors.work"
    for name, told in (("collected.json", "collecting again"), ("identity.json", "starting again")):
        with monkeypatch.context() as patch:
            patch.setattr(calibrate, "fit_layer", lambda *given: (_ for _ in ()).throw(Killed))
            with pytest.raises(Killed):
                run(folder, out, overwrite=True, seed=len(name))
        (work / name).write_bytes(data)
        capsys.readouterr()
        assert run(folder, out, overwrite=True, seed=len(name)) == 0 and not work.exists()
        assert capsys.readouterr().err.splitlines() == [f"antkv: {work / name}: not what was written there; {told}"]


def test_differences_name_options_that_there_are(folder, tmp_path):
    from antkv.cli import calibrate as command

    options = {name for parameter in command.params for name in parameter.opts}
    out = tmp_path / "c.safetensors"
    assert run(folder, out) == 0
    for change, word in (
        ({"tokens": 256}, "--tokens 1024, this one has 256"), ({"length": 64}, "--length 128, this one has 64"),
        ({"scope": "layer"}, "--codebook-scope"), ({"left_out": 0.05}, "--leave-out"), ({"seed": 1}, "--seed"),
        ({"shape": books.Shape(8, 16)}, "--dim"), ({"rope": "post"}, "--rope"), ({"weights": "none"}, "--weights"),
        ({"dtype": "bfloat16"}, "--dtype"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=f"was made with {word}"):
            run(folder, out, **change)
        assert word.split()[0] in options
    other = model_folder(folder, tmp_path / "other", tiny(vocab_size=11, seed=5))
    kept = tmp_path / "model"
    shutil.copytree(folder, kept)
    second = tmp_path / "d.safetensors"
    assert run(kept, second) == 0
    shutil.copy(other / "model.safetensors", kept)
    with pytest.raises(BadInput, match=r"was made with another model in .*model: weights_sha256"):
        run(kept, second)
    (tmp_path / "c.safetensors.manifest.json").write_text("{}")
    with pytest.raises(BadInput, match="no manifest says what made it"):
        run(folder, out)


def test_a_finished_run_tells_its_result_again(folder, tmp_path, capsys):
    out = tmp_path / "c.safetensors"
    told = []
    for _ in range(2):
        assert run(folder, out, as_json=True) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1] and told[0]["codebook"] == str(out) and told[0]["tokens"] == 1024
