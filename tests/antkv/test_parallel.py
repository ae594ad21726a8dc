"""Codebooks under tensor parallelism: two ranks, each with half of the stored heads, are one (gloo, two processes)."""

import os
import socket
import subprocess
import sys

import pytest
import torch
from ant_models import codebook, tiny

from antkv.cache import AntCache, Settings
from tenfold_shared import BadInput

RANK = """
import os, sys
sys.path.insert(0, os.environ["HERE"])
import torch, torch.distributed as dist
from ant_models import codebook, tiny
from antkv.cache import AntLayer, Settings
from antkv.rope import Rope

dist.init_process_group("gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()
model = tiny(num_attention_heads=8, num_key_value_heads=4)
whole = codebook(model)
how = Settings(ratio=0.1, window=8, block=8, dtype=torch.float32)
rope = Rope(model)


def fed(book, queries, stored):
    layer = AntLayer(0, (book.keys[0], book.values[0]), rope, how)
    draw, out = torch.Generator().manual_seed(1), []
    for n in (21, 1, 1, 9, 8):
        q = torch.randn(1, 8, n, 16, generator=draw)
        k, v = (torch.randn(1, 4, n, 16, generator=draw) for _ in range(2))
        pending, _ = layer.update(k[:, stored], v[:, stored])
        out.append(layer.attend(q[:, queries], pending, None, 0.25))
    return torch.cat(out, 2), layer


mine, layer = fed(whole.shard(rank, ranks), slice(4 * rank, 4 * rank + 4), slice(2 * rank, 2 * rank + 2))
parts = [torch.empty_like(mine) for _ in range(ranks)]
dist.all_gather(parts, mine.contiguous())
size = torch.tensor([float(sum(layer.parts().values()))])
dist.all_reduce(size)
if rank == 0:
    truth, one = fed(whole, slice(None), slice(None))
    assert torch.allclose(torch.cat(parts, 1), truth, atol=1e-5)
    assert torch.equal(layer.at_k, one.at_k[:, :2]) and torch.equal(layer.codes_k, one.codes_k[:, :2])
    assert size.item() == sum(one.parts().values())
    print("equal")
dist.destroy_process_group()
"""


def test_two_ranks_are_one(tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    base = {
        **os.environ,
        "HERE": os.path.dirname(__file__),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
    }
    runs = [
        subprocess.Popen(
            [sys.executable, tmp_path / "rank.py"], env={**base, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    outs = [run.communicate(timeout=240) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outs
    assert "equal" in outs[0][0]


def test_heads_that_do_not_split():
    model = tiny()
    book = codebook(model)
    assert torch.equal(book.shard(1, 2).keys[0], book.keys[0][1:])
    for rank, ranks in ((0, 3), (2, 2), (-1, 2)):
        with pytest.raises(BadInput, match="do not split"):
            book.shard(rank, ranks)
    with pytest.raises(BadInput, match="--anchor-scope layer"):
        AntCache(model, book.shard(0, 2), Settings(scope="layer"))
