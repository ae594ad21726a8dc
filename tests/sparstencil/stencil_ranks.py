"""One rank of test_distribute.py: every rule and depth of a case; rank 0 writes what the ranks made together."""

import sys
from pathlib import Path

import numpy as np
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent))
from test_distribute import CASES, stencil_of

from sparstencil import reference
from sparstencil.boundary import NAMES, Boundary
from sparstencil.distribute import Block, gathered

case, folder = int(sys.argv[1]), Path(sys.argv[2])
ranks, shape, offsets = CASES[case]
dist.init_process_group("gloo")
stencil = stencil_of(offsets)
grid = np.random.default_rng(9).standard_normal(shape)
rules = [(name,) * len(shape) for name in NAMES]
if len(shape) == 2:
    rules += [("wrap", "fixed"), ("reflect", "wrap"), ("constant", "nearest")]
for names in rules:
    boundary = Boundary(names, 1.5 if "constant" in names else 0.0)
    for depth in (1, 3):
        step = lambda g, k, b: reference.run(g, stencil, k, b)  # noqa: E731
        block = Block(shape, ranks, dist.get_rank(), stencil, boundary, step)
        steps = 3 if "valid" in names else 7
        block.check(depth, steps)
        mine = block.advance(block.own(grid), steps, depth)
        assert block.exchanged > 0 and block.early > 0
        whole = gathered(mine, block, dist.get_world_size())
        if whole is not None:
            np.save(folder / f"{'-'.join(names)}.{depth}.npy", whole)
dist.destroy_process_group()
