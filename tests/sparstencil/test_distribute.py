"""Ranks exchange halos and equal one process bit for bit; the steps here are the definition's, so that no back end is needed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sparstencil import reference
from sparstencil.boundary import NAMES, Boundary
from sparstencil.distribute import Block
from sparstencil.stencil import Stencil
from tenfold_shared import BadInput

WORKER = Path(__file__).with_name("stencil_ranks.py")
CASES = [  # ranks, shape, offsets
    ((2, 1), (23, 17), [(-1, 0), (1, 2), (0, -2), (0, 0)]),
    ((1, 2), (11, 26), [(0, -1), (2, 1), (-1, 3)]),
    ((2, 2), (24, 22), [(-1, -2), (1, 1), (2, 0)]),
    ((2,), (31,), [(-2,), (3,), (0,)]),
    ((2, 1, 2), (16, 9, 18), [(-1, 0, 2), (0, -1, 0), (1, 1, -1)]),
]


def stencil_of(offsets):
    draw = np.random.default_rng(len(offsets))
    return Stencil.of({o: float(draw.uniform(-0.5, 0.5)) for o in offsets})


@pytest.mark.parametrize("case", range(len(CASES)))
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
    block.check(1)
    with pytest.raises(BadInput, match="blocks of 3 points along axis 0 are thinner than the 4 that 2 steps reach"):
        block.check(2)
