"""`sparstencil run` through its installed command and in process: formats, refusals, checkpoints, and `apply`."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import sparstencil
from sparstencil import cpu, reference
from sparstencil import grid as grids
from sparstencil.boundary import Boundary
from sparstencil.runs import Checkpoint
from sparstencil.stencil import Stencil, read
from sparstencil.stepping import Chosen, How, choose
from sparstencil.suite import named
from sparstencil.tune import known
from tenfold_shared import BadInput

BIN = Path(sys.executable).parent / "sparstencil"


def sparstencil_(*args, stdin=None, binary=False, cwd=None, **env):
    return subprocess.run(
        [str(BIN), *map(str, args)], input=stdin, capture_output=True, text=not binary, cwd=cwd, timeout=300,
        env={**os.environ, **env},
    )  # fmt: skip


@pytest.fixture(scope="module")
def field():
    return np.random.default_rng(0).standard_normal((33, 45)).astype(np.float32)


@pytest.fixture
def npy(field, tmp_path):
    np.save(tmp_path / "u.npy", field)
    return tmp_path / "u.npy"


def truth(grid, name="heat-2d", steps=5, rule="reflect"):
    return reference.run(grid.astype(np.float64), named(name), steps, Boundary.parse(rule, grid.ndim))


def test_end_to_end_with_its_record(npy, field, tmp_path):
    done = sparstencil_(
        "run", npy, "--stencil", "heat-2d", "--steps", 5, "--boundary", "reflect", "-o", tmp_path / "out.npy", "--json"
    )
    assert done.returncode == 0, done.stderr
    out = np.load(tmp_path / "out.npy")
    assert out.dtype == np.float32 and np.allclose(out, truth(field), atol=1e-6)
    told = json.loads(done.stdout)
    assert told["steps"] == 5 and told["backend"] in ("cpu", "cuda-sp", "cuda-core") and told["mode"] == "f32"
    assert told["error"]["relative_l2"] < 1e-6 and told["gstencil_s"] > 0
    manifest = json.loads((tmp_path / "out.npy.manifest.json").read_text())
    assert manifest["tool"] == "sparstencil" and manifest["inputs"][0]["sha256"]
    again = sparstencil_(
        "run", npy, "--stencil", "heat-2d", "--steps", 5, "--boundary", "reflect", "-o", tmp_path / "out.npy"
    )
    assert again.returncode == 0 and "complete already; nothing to do" in again.stderr
    other = sparstencil_(
        "run", npy, "--stencil", "heat-2d", "--steps", 6, "--boundary", "reflect", "-o", tmp_path / "out.npy"
    )
    assert other.returncode == 2 and "steps" in other.stderr and "--overwrite" in other.stderr


def test_stdin_to_stdout_is_a_filter(field):
    memory = io.BytesIO()
    np.save(memory, field)
    done = sparstencil_(
        "run", "-", "--stencil", "u[0,0] + 0.1*(u[0,1] - u[0,-1])", "-q", stdin=memory.getvalue(), binary=True
    )
    assert done.returncode == 0, done.stderr
    out = np.load(io.BytesIO(done.stdout))
    assert np.allclose(out, field + 0.1 * (np.roll(field, -1, 1) - np.roll(field, 1, 1)), atol=1e-6)


def test_every_format_in_and_out(field, tmp_path):
    np.savez(tmp_path / "u.npz", a=field, b=field[:5])
    (tmp_path / "u.bin").write_bytes(field.astype(">f4").astype("<f4").tobytes())
    (tmp_path / "u16.bin").write_bytes((field.view(np.uint32) >> 16).astype(np.uint16).tobytes())
    np.save(tmp_path / "f.npy", np.asfortranarray(field))
    np.save(tmp_path / "b.npy", field.astype(">f4"))
    for name, shape, dtype in (
        ("u.npz:a", None, None),
        ("u.bin", (33, 45), "float32"),
        ("f.npy", None, None),
        ("b.npy", None, None),
    ):
        found = grids.read(str(tmp_path / name), shape, dtype)
        assert np.array_equal(found.values, field) and found.values.flags.c_contiguous
    assert np.allclose(grids.read(str(tmp_path / "u16.bin"), (33, 45), "bfloat16").values, field, rtol=1e-2)
    for name in ("o.npy", "o.npz:k", "o.bin"):
        grids.write(str(tmp_path / name), field)
        back = grids.read(str(tmp_path / name), *(((33, 45), "float32") if name == "o.bin" else (None, None)))
        assert np.array_equal(back.values, field)
    h5py = pytest.importorskip("h5py")
    grids.write(str(tmp_path / "o.h5:/a/u"), field)
    assert np.array_equal(grids.read(str(tmp_path / "o.h5")).values, field)
    with h5py.File(tmp_path / "o.h5", "a") as file:
        file["other"] = field
    with pytest.raises(BadInput, match="/a/u, /other; say which"):
        grids.read(str(tmp_path / "o.h5"))
    with pytest.raises(BadInput, match="no dataset /x"):
        grids.read(str(tmp_path / "o.h5:/x"))


BAD = [  # arguments after `run`, what stderr says
    (["none.npy", "--stencil", "heat-2d"], "no such file"),
    (["u.npy", "--stencil", "heat-3d"], "a grid of 2 axes (33, 45) and a stencil of 3"),
    (["u.npy", "--stencil", "heat-2"], "nearest name is heat-2d"),
    (["u.npy", "--stencil", "u[0,0]*u[0,1]"], "not linear"),
    (["u.npy", "--stencil", "heat-2d", "--boundary", "wrapped"], "--boundary wrapped: wrapped; expected fixed"),
    (["u.npy", "--stencil", "heat-2d", "--boundary", "constant:x"], "'x' is no number"),
    (["u.npy", "--stencil", "heat-2d", "--boundary", "wrap,valid"], "valid shrinks the grid"),
    (["u.npy", "--stencil", "heat-2d", "--boundary", "wrap,wrap,wrap"], "3 rules; expected one, or 2"),
    (["small.npy", "--stencil", "star-2d13p", "--boundary", "fixed"], "has 5 points; the stencil spans 7"),
    (["small.npy", "--stencil", "star-2d21p", "--boundary", "reflect", "--steps", "2", "-o", "o.npy"], None),
    (["small.npy", "--stencil", "box-2d25p", "--boundary", "valid", "--steps", "2"], "5 points; 2 steps with valid take 8"),
    (["u.npy", "--stencil", "heat-2d", "--mode", "f64", "--backend", "emulate"], "no float64"),
    (["u.npy", "--stencil", "heat-2d", "--rtol", "1e-12", "--backend", "emulate"], "no float64"),
    (["u.npy", "--stencil", "heat-2d", "--mode", "s8"], "whole numbers"),
    (["u.npy", "--stencil", "heat-2d", "-o", "x.tiff"], "ends in .npy"),
    (["u.npy", "--stencil", "heat-2d", "-o", "no/x.npy"], "folder no does not exist"),
    (["u.npy", "--stencil", "heat-2d", "--save-every", "2"], "needs -o FILE"),
    (["u.npy", "--stencil", "heat-2d", "--tile", "4", "--backend", "emulate"], "--tile 4: expected 2 sizes"),
    (["text.npy", "--stencil", "heat-2d"], "not a .npy file"),
    (["words.npy", "--stencil", "1d5p"], "real ones"),
    (["empty.npy", "--stencil", "heat-2d"], "is empty"),
    (["two.npz", "--stencil", "heat-2d"], "holds a, b; say which"),
    (["two.npz:c", "--stencil", "heat-2d"], "no c; it holds a, b"),
    (["raw.bin", "--stencil", "heat-2d"], "--shape and --dtype"),
    (["raw.bin", "--stencil", "heat-2d", "--shape", "3x4", "--dtype", "float32"], "10 bytes; --shape 3x4 of float32 wants 48"),
    (["nan.npy", "--stencil", "heat-2d", "--strict"], "1 of 25 points of the grid are NaN"),
    (["u.npy", "--stencil", "heat-2d", "--backend", "cuda-sp"], None),
    (["u.npy", "--stencil", "heat-2d", "--decomp", "2x1"], "start with torchrun"),
    (["u.npy", "--stencil", "heat-2d", "--dtype", "float64"], "says itself that it holds float32"),
    (["u.npy", "--stencil", "heat-2d", "--origin", "1x1"], "--origin is for weights.npy"),
    (["u.npy", "--stencil", "w.npy", "--origin", "3x0"], "--origin 3,0: no entry of weights of shape (2, 2)"),
    (["u.npy", "--stencil", "w.npy"], "have no middle; say which entry is the point itself with --origin"),
    (["u.npy", "--stencil", "0.5*u"], "u without its offset"),
    (["u.npy", "--stencil", "k*u[0,0]"], "k is no number: a coefficient that varies cannot be a weight"),
    (["u.npy", "--stencil", "zero.npy"], "zero.npy: not an array of weights"),
    (["u.npy", "--stencil", "archive.npy"], "archive.npy: an archive of arrays"),
    (["u.npy", "--stencil", "latin.json"], "latin.json: expected UTF-8"),
    (["u.npy", "--stencil", "huge.json"], "weights[0] is 1000"),
    (["u.npy", "--stencil", "far.json"], "expected numbers from −65536 to 65536"),
    (["u.npy", "--stencil", "text.json"], "ndim: '2'; expected a whole number"),
    (["u.npy", "--stencil", "+".join(["u[0,0]"] * 5000)], "too many terms one in another"),
    (["u.npy", "--stencil", "1" * 400 + "*u[0,0]"], "larger than any float"),
    (["archive.npy", "--stencil", "heat-2d"], "archive.npy: an archive of arrays"),
    (["array.npz", "--stencil", "heat-2d"], "array.npz: not a .npz file"),
    (["cut.npz", "--stencil", "heat-2d"], "cut.npz: not a .npz file"),
    (["raw.bin", "--stencil", "heat-2d", "--shape=-2x-5", "--dtype", "int8"], "expected numbers of at least 1"),
    (["u.npy", "--stencil", "heat-2d", "-o", "text.npy"], "text.npy: exists, and no manifest"),
    (["batch.npy", "--stencil", "heat-2d", "--save-every", "2", "-o", "x.npy"], "is a batch of 3 grids"),
    (["u.npy", "--stencil", "heat-2d", "-o", "u.npy", "--overwrite"], "is the grid itself"),
    (["u.npy", "--stencil", "heat-2d", "-o", "sub.npy"], "-o sub.npy: is a directory"),
    (["u.npy", "--stencil", "heat-2d", "-o", "x.h5:/"], "expected the name of a dataset"),
    (["u.npy", "--stencil", "heat-2d", "-o", "x" * 230 + ".npy"], "leaves no room"),
    (["u.npy", "--stencil", "sub.npy"], "sub.npy: is a directory"),
    (["", "--stencil", "heat-2d"], "(empty name): no such file"),
    (["double.npy", "--stencil", "heat-2d", "--backend", "emulate"], "the grid is float64: say --mode f32"),
    (["bytes.npy", "--stencil", "u[0,1]", "--mode", "s8", "--boundary", "constant:1.5"], "constant 1.5 is no whole number"),
    (["bytes.npy", "--stencil", "2*u[0,0]", "--steps", "64"], "do not fit 32 bits; use --mode f64"),
    (["full.npy", "--stencil", "3*u[0,0]", "--steps", "4", "--strict", "-o", "x.npy"], "of the result are NaN or infinite"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "told"), BAD, ids=[f"{i}-{' '.join(a)[:40]}" for i, (a, _) in enumerate(BAD)])
def test_bad_input_is_one_clear_line(args, told, field, tmp_path):
    np.save(tmp_path / "u.npy", field)
    np.save(tmp_path / "small.npy", field[:5, :5])
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    np.save(tmp_path / "empty.npy", np.zeros((0, 4)))
    nan = field[:5, :5].copy()
    nan[2, 2] = np.nan
    np.save(tmp_path / "nan.npy", nan)
    (tmp_path / "text.npy").write_text("no array")
    np.savez(tmp_path / "two.npz", a=field, b=field)
    (tmp_path / "raw.bin").write_bytes(b"0123456789")
    np.save(tmp_path / "w.npy", np.ones((2, 2)))
    (tmp_path / "zero.npy").touch()
    shutil.copy(tmp_path / "two.npz", tmp_path / "archive.npy")
    shutil.copy(tmp_path / "u.npy", tmp_path / "array.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "two.npz").read_bytes()[:-30])
    (tmp_path / "latin.json").write_bytes(b'{"name": "\xe9"}')
    (tmp_path / "huge.json").write_text('{"offsets": [[0, 0]], "weights": [1' + "0" * 400 + "]}")
    (tmp_path / "far.json").write_text('{"offsets": [[0, 100000000000000000000]], "weights": [1]}')
    (tmp_path / "text.json").write_text('{"ndim": "2", "offsets": [[0, 0]], "weights": [1]}')
    np.save(tmp_path / "batch.npy", np.stack([field] * 3))
    (tmp_path / "sub.npy").mkdir()
    np.save(tmp_path / "double.npy", field.astype(np.float64))
    np.save(tmp_path / "bytes.npy", np.ones((9, 9), np.uint8))
    np.save(tmp_path / "full.npy", np.full((9, 9), 1e38, np.float32))
    done = sparstencil_("run", *args, "-q", cwd=tmp_path)
    if args[-1] == "cuda-sp":
        assert done.returncode == 3 and "--backend cpu or emulate" in done.stderr
    elif told is None:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 2 and told in done.stderr, done.stderr
        lines = [
            line for line in done.stderr.strip().splitlines() if "unstable" not in line and "one point" not in line
        ]
        assert len(lines) == 1 and "Traceback" not in done.stderr
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(("x.", ".x"))]


def test_what_can_go_on_is_said(npy, tmp_path):
    unstable = sparstencil_("run", npy, "--stencil", "1.5*u[0,0] + 0.6*u[0,1]", "--steps", 3, "-o", tmp_path / "a.npy")
    assert unstable.returncode == 0 and "grows by 2.1 a step" in unstable.stderr
    grid = np.load(npy)
    grid[3, 3] = np.inf
    np.save(npy, grid)
    odd = sparstencil_("run", npy, "--stencil", "heat-2d", "-o", tmp_path / "b.npy")
    assert odd.returncode == 0 and "1 of 1485 points of the grid are NaN or infinite" in odd.stderr
    one = sparstencil_("run", npy, "--stencil", "2*u[0,1]", "-o", tmp_path / "c.npy")
    assert one.returncode == 0 and "one point" in one.stderr
    assert np.array_equal(np.load(tmp_path / "c.npy"), 2 * np.roll(grid, -1, 1))
    none = sparstencil_("run", npy, "--stencil", "heat-2d", "--steps", 0, "-o", tmp_path / "d.npy")
    assert none.returncode == 0 and np.array_equal(np.load(tmp_path / "d.npy"), grid)


@pytest.mark.parametrize("backend", ["cpu", "emulate"])
def test_a_killed_run_goes_on_to_the_same_bytes(backend, npy, tmp_path):
    args = ["run", npy, "--stencil", "box-2d9p", "--steps", 4000 if backend == "cpu" else 60, "--boundary", "nearest", "--backend", backend,
            "--save-every", 20 if backend == "cpu" else 3]  # fmt: skip
    whole = sparstencil_(*args, "-o", tmp_path / "whole.npy", "-q")
    assert whole.returncode == 0, whole.stderr
    target = tmp_path / "killed.npy"
    running = subprocess.Popen([str(BIN), *map(str, args), "-o", str(target), "-q"], stderr=subprocess.PIPE)
    checkpoint = tmp_path / ".killed.npy.checkpoint"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.001)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert checkpoint.exists() and not target.exists()
    held = int(json.loads(checkpoint.open("rb").readline())["steps_done"])
    assert held > 0
    other = sparstencil_(*[*args[:5], 7, *args[6:]], "-o", target, "-q")
    assert other.returncode == 2 and "steps" in other.stderr
    done = sparstencil_(*args, "-o", target)
    assert done.returncode == 0 and "goes on after step" in done.stderr
    assert target.read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert not checkpoint.exists()


def test_counts_go_on_to_the_same_bytes(tmp_path):
    """Below −127, too, where 8 bits no longer hold them."""
    np.save(tmp_path / "i.npy", np.random.default_rng(5).integers(-5, 1, (33, 45)).astype(np.int8))
    stencil, out = "3*u[0,0] + 2*u[0,1]", tmp_path / "o.npy"
    args = ["run", tmp_path / "i.npy", "--stencil", stencil, "--steps", 5, "--save-every", 3, "-o", out]
    assert sparstencil_(*args).returncode == 0
    whole, manifest = out.read_bytes(), json.loads((tmp_path / "o.npy.manifest.json").read_text())
    assert np.load(out).min() < -7000
    out.unlink()
    rule = Boundary.parse("wrap", 2)
    half = reference.run(np.load(tmp_path / "i.npy").astype(np.int64), read(stencil), 3, rule)
    identity = {key: manifest[key] for key in ("schema", "tool", "verb", "version", "options", "inputs")}
    Checkpoint(str(out), identity).save(half, 3)
    done = sparstencil_(*args)
    assert done.returncode == 0 and "goes on after step 3" in done.stderr, done.stderr
    assert out.read_bytes() == whole


def test_damage_beside_an_output_is_said(npy, tmp_path):
    args = ["run", npy, "--stencil", "heat-2d", "--steps", 4, "--save-every", 2, "-o", tmp_path / "o.npy"]
    checkpoint, manifest = tmp_path / ".o.npy.checkpoint", tmp_path / "o.npy.manifest.json"
    for torn in (b"garbage\n", b'{"steps_done": 2}\n\x93NUMPY', b"[]\n", b""):
        checkpoint.write_bytes(torn)
        done = sparstencil_(*args)
        assert done.returncode == 2 and "damaged checkpoint" in done.stderr, done.stderr
    assert sparstencil_(*args, "--overwrite").returncode == 0
    for torn in ("{", "[]"):
        manifest.write_text(torn)
        done = sparstencil_(*args)
        assert done.returncode == 2 and "damaged" in done.stderr, done.stderr


def test_results_of_other_runs_are_not_taken_for_this_one(npy, tmp_path):
    args = ["run", npy, "--stencil", "heat-2d", "-q"]
    first = sparstencil_(*args, "--boundary", "constant:123456.7", "-o", tmp_path / "o.npy")
    second = sparstencil_(*args, "--boundary", "constant:123456.9", "-o", tmp_path / "o.npy")
    assert (first.returncode, second.returncode) == (0, 2) and "123456.9" in second.stderr


@pytest.mark.parametrize("name", ["lab.h5", "lab.npz"])
def test_one_file_holds_several_results(name, npy, field, tmp_path):
    if name.endswith("h5"):
        h5py = pytest.importorskip("h5py")
        with h5py.File(tmp_path / name, "w") as file:
            file["precious"] = field
    else:
        np.savez(tmp_path / name, precious=field)
    args = ["run", npy, "--stencil", "heat-2d", "-q"]
    for steps, key in ((1, "a"), (2, "b"), (1, "a")):
        done = sparstencil_(*args, "--steps", steps, "-o", f"{tmp_path / name}:{key}")
        assert done.returncode == 0, done.stderr
    assert sparstencil_(*args, "--steps", 3, "-o", f"{tmp_path / name}:a").returncode == 2
    assert sparstencil_(*args, "--steps", 3, "-o", f"{tmp_path / name}:a", "--overwrite").returncode == 0
    read_ = [grids.read(f"{tmp_path / name}:{key}").values for key in ("precious", "a", "b")]
    assert np.array_equal(read_[0], field)
    for found, steps in ((read_[1], 3), (read_[2], 2)):
        assert np.allclose(found, truth(field, steps=steps, rule="wrap"), atol=1e-6)


def test_a_result_that_is_no_longer_whole_is_not_made_already(npy, tmp_path):
    args = ["run", npy, "--stencil", "heat-2d", "-o", tmp_path / "o.npy", "--json"]
    first = sparstencil_(*args)
    again = sparstencil_(*args)
    assert (
        again.returncode == 0
        and "complete already; nothing to do" in again.stderr
        and json.loads(again.stdout) == json.loads(first.stdout)
    )
    whole = (tmp_path / "o.npy").read_bytes()
    for other in (whole[:100], whole[:-4] + b"abcd"):
        (tmp_path / "o.npy").write_bytes(other)
        done = sparstencil_(*args)
        assert done.returncode == 2 and "is not what" in done.stderr, done.stderr


def test_a_checkpoint_is_its_runs_alone(npy, tmp_path):
    """Kept by runs that have none, gone on from under --overwrite, and refused where a bit of it has changed."""
    args = ["run", npy, "--stencil", "heat-2d", "-o", tmp_path / "o.npy"]
    long = [*args, "--steps", 6, "--save-every", 2]
    assert sparstencil_(*long).returncode == 0
    whole, manifest = (tmp_path / "o.npy").read_bytes(), json.loads((tmp_path / "o.npy.manifest.json").read_text())
    identity = {key: manifest[key] for key in ("schema", "tool", "verb", "version", "options", "inputs")}
    checkpoint = Checkpoint(str(tmp_path / "o.npy"), identity)
    checkpoint.save(sparstencil.apply(np.load(npy), "heat-2d", 2), 2)
    short = sparstencil_(*args, "--overwrite")
    assert short.returncode == 0 and checkpoint.path.exists()
    done = sparstencil_(*long, "--overwrite")
    assert done.returncode == 0 and "goes on after step 2" in done.stderr and not checkpoint.path.exists()
    assert (tmp_path / "o.npy").read_bytes() == whole
    (tmp_path / "o.npy").unlink()
    checkpoint.save(sparstencil.apply(np.load(npy), "heat-2d", 2), 2)
    data = bytearray(checkpoint.path.read_bytes())
    data[-20] ^= 1
    checkpoint.path.write_bytes(data)
    done = sparstencil_(*long)
    assert done.returncode == 2 and "damaged checkpoint" in done.stderr
    checkpoint.save(sparstencil.apply(np.load(npy), "heat-2d", 2), 2)
    done = sparstencil_(*long, CC="no-such-compiler")  # numba rounds otherwise
    assert done.returncode == 2 and "numba" in done.stderr, done.stderr


def test_links_groups_and_compression_stay(npy, field, tmp_path):
    h5py = pytest.importorskip("h5py")
    args = ["run", npy, "--stencil", "heat-2d", "-q", "-o"]
    (tmp_path / "link.npy").symlink_to("target.npy")
    assert sparstencil_(*args, tmp_path / "link.npy").returncode == 0
    assert (tmp_path / "link.npy").is_symlink() and (tmp_path / "target.npy").exists()
    with h5py.File(tmp_path / "g.h5", "w") as file:
        file["g/x"] = field
        file["u"] = field
        file["u"].attrs["unit"] = "K"
        file["soft"] = h5py.SoftLink("/u")
    for key, told in (("g", "is no dataset"), ("soft", "is a link")):
        done = sparstencil_(*args, f"{tmp_path / 'g.h5'}:/{key}")
        assert done.returncode == 2 and told in done.stderr, done.stderr
    assert sparstencil_(*args, f"{tmp_path / 'g.h5'}:/u", "--overwrite").returncode == 0
    with h5py.File(tmp_path / "g.h5") as file:
        assert file["u"].attrs["unit"] == "K" and "g/x" in file
    np.savez_compressed(tmp_path / "c.npz", zeros=np.zeros((500, 500)))
    assert sparstencil_(*args, f"{tmp_path / 'c.npz'}:file").returncode == 0
    assert (tmp_path / "c.npz").stat().st_size < 100_000 and grids.keys(str(tmp_path / "c.npz")) == ["zeros", "file"]


def test_pipes_and_closed_streams(npy, field, tmp_path):
    run = f"{BIN} run --stencil heat-2d"
    for line in (f"{run} <(cat {npy}) -o {tmp_path}/a.npy", f"{run} /dev/stdin -o {tmp_path}/b.npy < {npy}", f"{run} {npy} -o {tmp_path}/c.npy 2>&-"):  # fmt: skip
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and not done.stdout, (line, done.stdout, done.stderr)
    made = [(tmp_path / name).read_bytes() for name in ("a.npy", "b.npy", "c.npy")]
    assert made[0] == made[1] == made[2]
    done = subprocess.run(["bash", "-c", f"{run} {npy} 2>&-"], capture_output=True, timeout=120)
    assert done.returncode == 0 and np.array_equal(np.load(io.BytesIO(done.stdout)), np.load(tmp_path / "a.npy"))
    done = subprocess.run(["bash", "-c", f"{run} - -q <&-"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "stdin is closed" in done.stderr


def test_a_write_that_fails_leaves_nothing(tmp_path):
    np.save(tmp_path / "big.npy", np.zeros((300, 300), np.float32))
    for name in ("x.npy", "x.h5"):
        line = f"ulimit -f 100; {BIN} run {tmp_path}/big.npy --stencil heat-2d -q -o {tmp_path}/{name}"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120)
        assert done.returncode in (2, 3) and name in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["big.npy"]


def test_a_broken_cache_stops_no_run(npy, tmp_path):
    kept = tmp_path / "cache" / "sparstencil" / "plans.json"
    kept.parent.mkdir(parents=True)
    for text in ("[]", "null", "3", "{"):
        kept.write_text(text)
        done = sparstencil_("run", npy, "--stencil", "heat-2d", "-q", "-o", tmp_path / "o.npy", "--overwrite", TENFOLD_CACHE=str(tmp_path / "cache"))  # fmt: skip
        assert done.returncode == 0, done.stderr
    done = sparstencil_("run", npy, "--stencil", "heat-2d", CC='"x')
    assert done.returncode == 2 and "No closing quotation" in done.stderr


def test_what_a_mode_cannot_hold_is_told(tmp_path):
    """Results that overflow, weights too small for float16, and numbers beyond float32 under --rtol."""
    np.save(tmp_path / "half.npy", np.full((20, 20), 3.0, np.float16))
    done = sparstencil_("run", tmp_path / "half.npy", "--stencil", "60000*u[0,0]", "-q", "-o", tmp_path / "a.npy")
    assert done.returncode == 0 and "of the result are NaN or infinite" in done.stderr
    np.save(tmp_path / "one.npy", np.ones(64, np.float32))
    done = sparstencil_("run", tmp_path / "one.npy", "--stencil", "1e-9*u[0]+1e-9*u[1]", "--backend", "emulate", "--mode", "fast", "-o", tmp_path / "b.npy")  # fmt: skip
    assert done.returncode == 0 and "far above the mode's own" in done.stderr
    for name, scale in (("large", 1e300), ("tiny", 1e-300)):
        np.save(tmp_path / f"{name}.npy", scale * np.random.default_rng(0).random((20, 20)))
        done = sparstencil_("run", tmp_path / f"{name}.npy", "--stencil", "heat-2d", "--rtol", 1e-3, "--json", "-q", "-o", tmp_path / f"{name}.out.npy")  # fmt: skip
        assert done.returncode == 0 and json.loads(done.stdout)["mode"] == "f64" and not done.stderr, done.stderr
    with pytest.raises(BadInput, match="do not fit 32 bits"):
        sparstencil.apply(np.ones((16, 16), np.uint8), "u[-1,0]+2*u[0,0]+u[1,0]", 32)
    edge = sparstencil.apply(np.ones((9, 9), np.uint8), "u[1,0]+u[-1,0]", 1, "constant:1.5")
    assert edge[0, 0] == 2.5


def test_a_smooth_field_with_an_offset_needs_more(tmp_path):
    """A second difference cancels nearly all of it: the seam of a periodic sample would hide that."""
    x = np.arange(256) * 0.02
    grid = np.sin(x)[:, None] * np.cos(x) + 300
    stencil = read("u[-1,0]+u[1,0]+u[0,-1]+u[0,1]-4*u[0,0]")
    out = sparstencil.apply(grid, stencil, 1, "mirror", rtol=1e-2)
    whole = reference.run(grid, stencil, 1, Boundary.parse("mirror", 2))
    assert np.linalg.norm(out - whole) <= 1e-2 * np.linalg.norm(whole)


def test_a_name_is_only_a_name(npy, tmp_path):
    """A stencil file is another's text: nothing of it is compiled but numbers."""
    evil = {"offsets": [[0, 0]], "weights": [1.5], "name": "x */\n#error this was compiled\n/* "}
    (tmp_path / "evil.json").write_text(json.dumps(evil))
    done = sparstencil_("run", npy, "--stencil", tmp_path / "evil.json", "-o", tmp_path / "o.npy")
    assert done.returncode == 0, done.stderr


def test_what_grows_beyond_all_numbers_is_said(npy, tmp_path):
    done = sparstencil_("run", npy, "--stencil", "biharmonic-2d", "--steps", 400, "-o", tmp_path / "o.npy")
    assert done.returncode == 0 and "10^722 times in 400" in done.stderr, done.stderr
    args = ["--steps", 300, "--boundary", "constant:0", "--mode", "fast", "--backend", "emulate"]
    np.save(tmp_path / "five.npy", np.full(5, 5.0, np.float32))
    done = sparstencil_("run", tmp_path / "five.npy", "--stencil", "0.55*u[-1]+0.55*u[1]", *args, "-o", tmp_path / "p.npy", "--json")  # fmt: skip
    assert done.returncode in (0, 2) and "Traceback" not in done.stderr, done.stderr


def test_a_second_start_is_turned_away(npy, tmp_path):
    from tenfold_shared.jsonl import Lock

    lock = Lock(tmp_path / ".o.npy.lock", tmp_path / "o.npy")
    done = sparstencil_("run", npy, "--stencil", "heat-2d", "-o", tmp_path / "o.npy")
    assert done.returncode == 75
    lock.release()


# ---------------------------------------------------------------- from Python


def test_apply_takes_and_gives_its_own_kind(field):
    torch = pytest.importorskip("torch")
    whole = truth(field, steps=3, rule="wrap")
    out = sparstencil.apply(field, "heat-2d", 3)
    assert isinstance(out, np.ndarray) and np.allclose(out, whole, atol=1e-6)
    tensor = sparstencil.apply(torch.from_numpy(field), "heat-2d", 3)
    assert isinstance(tensor, torch.Tensor) and np.array_equal(tensor.numpy(), out)
    batch = sparstencil.apply(np.stack([field, 2 * field]), named("heat-2d"), 3)
    assert np.array_equal(batch[0], out) and np.allclose(batch[1], 2 * whole, atol=1e-5)
    double = sparstencil.apply(
        field.astype(np.float64), np.array([[0, 0.25, 0], [0.25, 0, 0.25], [0, 0.25, 0]]), 2, "mirror"
    )
    assert double.dtype == np.float64
    assert np.allclose(double, truth(field, "jacobi-2d5pt", 2, "mirror"), atol=1e-14)
    half = sparstencil.apply(field.astype(np.float16), "heat-2d", 1)
    assert half.dtype == np.float16


def test_apply_refuses_what_it_cannot_hold(field):
    for bad, told in ((field + 1j, "complex"), (field.astype(np.longdouble), "at most 8 bytes")):
        with pytest.raises(BadInput, match=told):
            sparstencil.apply(bad, "heat-2d")
    for more, told in (({"steps": -3}, "-3 steps"), ({"fuse": 0}, "0 steps a pass"), ({"mode": "f16"}, "--mode f16"), ({"backend": "gpu"}, "--backend gpu")):  # fmt: skip
        with pytest.raises(BadInput, match=told):
            sparstencil.apply(field, "heat-2d", **more)
    big = field.astype(">f8")
    assert np.array_equal(
        sparstencil.apply(big, "heat-2d", 2), sparstencil.apply(field.astype(np.float64), "heat-2d", 2)
    )
    torch = pytest.importorskip("torch")
    half = sparstencil.apply(torch.from_numpy(field).bfloat16().requires_grad_(), "heat-2d", 1)
    assert half.dtype == torch.bfloat16 and half.shape == field.shape


def test_numbers_beyond_8_bits_are_not_counted_in_them():
    image = np.random.default_rng(0).integers(0, 256, (20, 30)).astype(np.uint8)
    out = sparstencil.apply(image, "life-count-2d", 1, backend="emulate")
    assert np.array_equal(
        out, reference.run(image.astype(np.float64), named("life-count-2d"), 1, Boundary.parse("wrap", 2))
    )


def test_counts_are_whole_numbers():
    world = np.random.default_rng(0).integers(0, 2, (20, 30)).astype(np.uint8)
    count = sparstencil.apply(world, "life-count-2d", 1)
    assert count.dtype == np.int32
    assert np.array_equal(
        count, reference.run(world.astype(np.int64), named("life-count-2d"), 1, Boundary.parse("wrap", 2))
    )
    assert np.array_equal(sparstencil.apply(world, "life-count-2d", 1, backend="emulate"), count)


def test_the_mode_follows_the_tolerance(field):
    def mode(rtol, steps=3, dtype=np.float32, **more):
        how = How(Boundary.parse("wrap", 2), steps, rtol=rtol, **more)
        return choose(named("heat-2d"), field.astype(dtype), how).mode

    assert [mode(r, backend="emulate") for r in (1e-2, 5e-4, 1e-6)] == ["fast", "mixed", "f32"]
    with pytest.raises(BadInput, match="over 3 steps needs it"):
        mode(1e-10, backend="emulate")
    assert [mode(r) for r in (1e-2, 5e-4, 1e-6, 1e-10)] == ["f32", "f32", "f32", "f64"]  # a CPU has no cheaper one
    assert (
        mode(1e-2, steps=300, backend="emulate") == "mixed"
        and mode(None) == "f32"
        and mode(None, dtype=np.float64) == "f64"
    )
    assert choose(named("life-count-2d"), np.ones((9, 9), np.uint8), How(Boundary.parse("wrap", 2), 1)).mode == "s8"
    assert choose(named("heat-2d"), np.ones((9, 9), np.uint8), How(Boundary.parse("wrap", 2), 1)).mode == "f32"


@pytest.mark.parametrize(
    ("name", "steps", "rtol"),
    [("mehrstellen-2d", 1, 5e-4), ("d2-o8-1d", 1, 5e-4), ("box-2d9p", 1, 5e-4), ("gauss3-2d", 100, 3e-4), ("jacobi-2d5pt", 100, 3e-4)],
)  # fmt: skip
def test_the_tolerance_holds_for_stencils_that_cancel(name, steps, rtol):
    """Errors of one stencil say little of another: what is chosen is held to float64 on the whole grid."""
    stencil = named(name)
    axes = np.meshgrid(*[np.arange(n) for n in (96, 64)[: stencil.ndim]], indexing="ij")
    grid = (1 + 0.5 * np.sin(sum(0.2 * axis for axis in axes))).astype(np.float32)
    rule = Boundary.parse("wrap", stencil.ndim)
    out = sparstencil.apply(grid, stencil, steps, rule, rtol=rtol, backend="emulate")
    whole = reference.run(grid.astype(np.float64), stencil, steps, rule)
    assert np.linalg.norm(out - whole) <= rtol * np.linalg.norm(whole)


def test_fast_warns_when_it_cannot_be_near_enough(npy, tmp_path):
    done = sparstencil_("run", npy, "--stencil", "heat-2d", "--mode", "fast", "--rtol", 1e-5, "--steps", 4, "--backend", "emulate", "-o", tmp_path / "o.npy")  # fmt: skip
    assert done.returncode == 0 and "is predicted from a sample of the grid, above --rtol 1e-05" in done.stderr


def test_other_verbs_end_to_end(tmp_path):
    plan = sparstencil_("plan", "--stencil", "heat-2d", "--json")
    told = json.loads(plan.stdout)
    assert {
        "n",
        "z",
        "groups",
        "K",
        "lower_bound",
        "density",
        "permutation",
        "metadata",
        "offsets",
        "predicted",
    } <= set(told)
    assert all(len(entry["lanes"]) == 32 and len(entry["lanes"][0]) == 8 for entry in told["metadata"])
    (tmp_path / "p.json").write_text(plan.stdout)
    assert sparstencil_("verify", tmp_path / "p.json", "--stencil", "heat-2d").returncode == 0
    wrong = sparstencil_("verify", tmp_path / "p.json", "--stencil", "box-2d9p")
    assert wrong.returncode == 2 and "a plan of heat-2d" in wrong.stderr
    drawn = sparstencil_("plan", "--stencil", "heat-2d", "--tile", "2x2", "--explain")
    assert (drawn.returncode == 0 and "##·· ··## " in drawn.stdout.replace("  ", " ")) or "#" in drawn.stdout
    listed = sparstencil_("suite", "--list", "--json")
    assert len(json.loads(listed.stdout)) == 79
    some = sparstencil_("suite", "--only", "heat-1d,life-count-2d", "--json")
    assert some.returncode == 0 and [row["wrong"] for row in json.loads(some.stdout)] == [0, 0]
    doctor = json.loads(sparstencil_("doctor", "--json").stdout)
    assert doctor["backends"]["items"]["emulate"]["ok"]
    assert Stencil.of({(0,): 1.0}).points == 1


def test_tune_keeps_what_run_takes(npy, tmp_path, monkeypatch):
    env = {"TENFOLD_CACHE": str(tmp_path / "cache")}
    done = sparstencil_("tune", "--stencil", "heat-2d", "--shape", "33x45", "--steps", 4, "--rounds", 1, "--threads", 1, "--json", **env)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["fuse"] for row in found["rows"]] == [1, 2, 3, 4] and found["backend"] == "cpu"
    assert found["winner"] == min(found["rows"], key=lambda row: row["seconds_a_step"])
    held = json.loads(Path(found["kept"]).read_text())
    assert held == {found["key"]: found["winner"]}
    monkeypatch.setenv("TENFOLD_CACHE", env["TENFOLD_CACHE"])
    chosen = Chosen("cpu", "f32", "")
    Path(found["kept"]).write_text(json.dumps({found["key"]: found["winner"] | {"fuse": 3}}))
    assert known(named("heat-2d"), (40, 50), chosen, 1)["fuse"] == 3  # the same power of two
    assert known(named("heat-2d"), (80, 50), chosen, 1) is None and known(named("heat-2d"), (40, 50), chosen, 2) is None
    seen = []
    monkeypatch.setattr(cpu, "run", lambda grid, *_, fuse, **__: (seen.append(fuse), grid)[1])
    sparstencil.apply(np.load(npy), "heat-2d", 7, threads=1)
    assert seen == [3]


def test_bench_times_ours_beside_the_copy_and_scipy(tmp_path):
    done = sparstencil_("bench", "--stencil", "heat-2d", "--shape", "64x64", "--rounds", 1, "--boundary", "mirror", "--json", "--plot", tmp_path / "p.png")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    ways = [row["way"] for row in found["rows"]]
    assert ways == ["copy", "single sweeps", "several steps a pass", "scipy.ndimage.correlate"]
    assert all(row["seconds_a_step"] > 0 for row in found["rows"]) and (tmp_path / "p.png").stat().st_size > 1000
    for shape, told in (("-5x5", "at least 1"), ("1000000x1000000", "GiB, and this machine has")):
        done = sparstencil_("bench", "--stencil", "heat-2d", f"--shape={shape}")
        assert done.returncode in (2, 3) and told in done.stderr, done.stderr


def test_weights_with_an_origin_are_flipped_by_convolve(npy, field, tmp_path):
    from scipy import ndimage

    weights = np.array([[1.0, 2.0], [3.0, -4.0]]) / 8
    np.save(tmp_path / "w.npy", weights)
    args = ["run", npy, "--stencil", tmp_path / "w.npy", "--origin", "0x1", "--boundary", "mirror", "-q"]
    for more, whole in (
        ([], ndimage.correlate(field.astype(float), weights, mode="mirror", origin=(-1, 0))),
        (["--convolve"], ndimage.convolve(field.astype(float), weights, mode="mirror", origin=(-1, 0))),
    ):
        done = sparstencil_(*args, *more, "-o", tmp_path / "o.npy", "--overwrite")
        assert done.returncode == 0, done.stderr
        assert np.allclose(np.load(tmp_path / "o.npy"), whole, atol=1e-6)
