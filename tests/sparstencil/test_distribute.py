"""Ranks exchange halos and equal one process bit for bit; the steps here are the definition's, so that no back end is needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sparstencil import reference, runs, stepping
from sparstencil.boundary import NAMES, Boundary
from sparstencil.distribute import Block
from sparstencil.stencil import Stencil
from tenfold_shared import BadInput

BIN = Path(sys.executable).parent / "sparstencil"
WORKER = Path(__file__).with_name("stencil_ranks.py")
CASES = [  # ranks, shape, offsets
    ((2, 1), (23, 17), [(-1, 0), (1, 2), (0, -2), (0, 0)]),
    ((1, 2), (11, 26), [(0, -1), (2, 1), (-1, 3)]),
    ((2, 2), (24, 22), [(-1, -2), (1, 1), (2, 0)]),
    ((2,), (31,), [(-2,), (3,), (0,)]),
    ((2, 1, 2), (16, 9, 18), [(-1, 0, 2), (0, -1, 0), (1, 1, -1)]),
]


def torchrun(*args, world=2, **env):
    """The whole command, as the README has it."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world), "-m", "sparstencil", *map(str, args)],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **env},
    )  # fmt: skip


def stencil_of(offsets):
    draw = np.random.default_rng(len(offsets))
    return Stencil.of({o: float(draw.uniform(-0.5, 0.5)) for o in offsets})


@pytest.mark.parametrize(
    "case", [0, pytest.param(1, marks=pytest.mark.deep), 2, pytest.param(3, marks=pytest.mark.deep), 4]
)
def test_ranks_are_one_process(case, tmp_path):
    """All rules, 1 and 3 steps to an exchange, 7 steps: the same bits. Gloo, real processes."""
    pytest.importorskip("torch")
    ranks, shape, offsets = CASES[case]
    world = int(np.prod(ranks))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world), str(WORKER), str(case), str(tmp_path)],
        capture_output=True, text=True, env=env, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    stencil = stencil_of(offsets)
    grid = np.random.default_rng(9).standard_normal(shape)
    rules = [(name,) * len(shape) for name in NAMES]
    if len(shape) == 2:
        rules += [("wrap", "fixed"), ("reflect", "wrap"), ("constant", "nearest")]
    for names in rules:
        boundary = Boundary(names, 1.5 if "constant" in names else 0.0)
        steps = 3 if "valid" in names else 7
        truth = reference.run(grid, stencil, steps, boundary)
        for depth in (1, 3):
            found = np.load(tmp_path / f"{'-'.join(names)}.{depth}.npy")
            assert np.array_equal(found, truth), (names, depth)


def test_blocks_thinner_than_a_halo_are_refused():
    block = Block((12, 12), (4, 1), 0, stencil_of([(-2, 0), (2, 0)]), Boundary(("wrap", "wrap")), reference.run)
    block.check(1, 9)
    with pytest.raises(BadInput, match="blocks of 3 points along axis 0; 2 steps that reach 2 points each need 4"):
        block.check(2, 9)
    dropped = Block((12, 12), (2, 1), 0, stencil_of([(-2, 0), (2, 0)]), Boundary(("valid", "valid")), reference.run)
    dropped.check(1, 2)
    with pytest.raises(BadInput, match="blocks of 2 points"):
        dropped.check(1, 3)
    Block((6,), (2,), 0, stencil_of([(0,), (3,)]), Boundary(("reflect",)), reference.run).check(1, 1)
    for rule in ("mirror", "fixed"):
        with pytest.raises(BadInput, match="need 4"):
            Block((6,), (2,), 0, stencil_of([(0,), (3,)]), Boundary((rule,)), reference.run).check(1, 1)


def test_the_command_under_torchrun_gives_the_bytes_of_one_process(tmp_path):
    pytest.importorskip("torch")
    given, out, alone = tmp_path / "u.npy", tmp_path / "out.npy", tmp_path / "alone.npy"
    np.save(given, np.random.default_rng(3).standard_normal((61, 47)).astype(np.float32))
    run = ["run", given, "--stencil", "box-2d9p", "--steps", 9, "--boundary", "mirror,wrap", "--fuse", 2]
    done = torchrun(*run, "--decomp", "2x1", "--save-every", 4, "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["ranks"], told["steps"], told["backend"]) == ("2x1", 9, "cpu")
    single = subprocess.run([BIN, *map(str, run), "-o", str(alone)], capture_output=True, text=True, timeout=300)
    assert single.returncode == 0, single.stderr
    assert out.read_bytes() == alone.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["u.npy", "out.npy", "out.npy.manifest.json", "alone.npy", "alone.npy.manifest.json"]
    )
    again = torchrun(*run, "--decomp", "2x1", "--save-every", 4, "-o", out)
    assert again.returncode == 0 and again.stderr.count("complete already") == 1, again.stderr


def test_counts_on_ranks_are_those_of_one_process(tmp_path):
    """8 bits come in, and what goes out is wider."""
    pytest.importorskip("torch")
    given = np.random.default_rng(4).integers(-5, 6, (33, 45)).astype(np.int8)
    np.save(tmp_path / "i.npy", given)
    stencil = "100*u[0,0] + 90*u[1,0]"
    run = ["run", tmp_path / "i.npy", "--stencil", stencil, "--steps", 2, "--boundary", "fixed,wrap", "--decomp", "2x1"]
    done = torchrun(*run, "-o", tmp_path / "o.npy")
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "o.npy"), stepping.apply(given, stencil, 2, "fixed,wrap"))


def test_torchrun_without_a_decomposition_is_refused(tmp_path):
    pytest.importorskip("torch")
    np.save(tmp_path / "u.npy", np.zeros((9, 9)))
    done = torchrun("run", tmp_path / "u.npy", "--stencil", "heat-2d", "-o", tmp_path / "o.npy")
    assert done.returncode != 0 and "no --decomp says how" in done.stderr


def test_ranks_go_on_from_a_checkpoint(tmp_path):
    """Of fewer steps' state, as a killed run leaves it; what is wrong is said once."""
    pytest.importorskip("torch")
    given, out = tmp_path / "u.npy", tmp_path / "out.npy"
    field = np.random.default_rng(3).standard_normal((40, 30)).astype(np.float32)
    np.save(given, field)
    run = ["run", given, "--stencil", "heat-2d", "--steps", 6, "--decomp", "1x2", "--save-every", 4, "-o", out]
    done = torchrun(*run)
    assert done.returncode == 0, done.stderr
    whole, manifest = out.read_bytes(), json.loads((tmp_path / "out.npy.manifest.json").read_text())
    out.unlink()
    identity = {key: manifest[key] for key in ("schema", "tool", "verb", "version", "options", "inputs")}
    half = stepping.apply(field, "heat-2d", 4, backend="cpu")
    runs.Checkpoint(str(out), identity).save(half, 4)
    done = torchrun(*run)
    assert done.returncode == 0 and done.stderr.count("goes on after step 4 of 6") == 1, done.stderr
    assert out.read_bytes() == whole
    for extra, told in (("3x1", "makes 3 blocks for 2 ranks"), ("1x2", "was made with")):
        wrong = torchrun(*run, "--decomp", extra, "--boundary", "fixed")
        assert wrong.returncode != 0 and wrong.stderr.count(told) == 1, wrong.stderr
