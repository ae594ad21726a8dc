"""Gates under tensor parallelism: two ranks, each with half of the stored heads, are one (gloo, two processes)."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from seer_models import config, draw

from seer_decode.cache import SeerCache
from seer_decode.gate import Gates
from seer_decode.select import Policy
from tenfold_shared import BadInput

RANK = """
import os, sys
sys.path.insert(0, os.environ["HERE"])
import torch, torch.distributed as dist, transformers
from seer_models import config, draw
from seer_decode.cache import SeerCache
from seer_decode.gate import Gates
from seer_decode.select import Policy

dist.init_process_group("gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
model = transformers.LlamaForCausalLM(config(num_attention_heads=8, num_key_value_heads=4, head_dim=8))
whole = Gates.of(model.config, seed=1, block=16)


def fed(gates, queries, stored, ranks):
    made = []
    for policy in (Policy("budget", 48, 16), Policy("threshold", .12, 16, sink=1)):
        cache = SeerCache(model, policy, "seer", gates, ranks=ranks)
        layer = cache.sparse[1]
        layer.take(draw(1, 4, 93, 8, seed=1)[:, stored], draw(1, 4, 93, 8, seed=2)[:, stored])
        for at in range(20):
            layer.take(draw(1, 4, 1, 8, seed=3 + at)[:, stored], draw(1, 4, 1, 8, seed=50 + at)[:, stored])
            q = draw(1, 8, 8, seed=100 + at, scale=3)[:, queries]
            chosen = layer.choose(q, .35)
            made.append((layer.over(q, chosen, .35), chosen.counts))
    return torch.cat([out for out, _ in made]), torch.cat([counts for _, counts in made])


mine, counts = fed(whole.shard(rank, ranks), slice(4 * rank, 4 * rank + 4), slice(2 * rank, 2 * rank + 2), ranks)
parts = [torch.empty_like(mine) for _ in range(ranks)]
dist.all_gather(parts, mine.contiguous())
lists = [torch.empty_like(counts) for _ in range(ranks)]
dist.all_gather(lists, counts.contiguous())
if rank == 0:
    truth, every = fed(whole, slice(None), slice(None), 1)
    assert torch.allclose(torch.cat(parts, 1), truth, atol=1e-5) and torch.equal(torch.cat(lists, 1), every)
    assert every[20:].min() < every[20:].max()
    print("equal")
dist.destroy_process_group()
"""


def test_two_ranks_are_one(tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    how = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "rank.py")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **how, "RANK": str(rank), "HERE": str(Path(__file__).parent)},
        )
        for rank in range(2)
    ]  # fmt: skip
    out = []
    for rank in ranks:
        said, err = rank.communicate(timeout=120)
        assert rank.returncode == 0, err
        out.append(said)
    assert out[0].strip() == "equal"


def test_shards_that_cannot_be():
    gates = Gates.of(config(), seed=1, block=16)
    for rank, ranks in ((0, 3), (2, 2)):
        with pytest.raises(ValueError, match="cannot be shared out"):
            gates.shard(rank, ranks)
    import transformers

    model = transformers.LlamaForCausalLM(config())
    with pytest.raises(BadInput, match="made for heads 2, and here it is 4"):
        SeerCache(model, Policy("budget", 32, 16), "seer", gates.shard(0, 2))
    one = gates.shard(1, 2)
    z = gates[0](draw(1, 4, 1, 8), draw(1, 2, 40, 8, seed=1), torch.tensor([39]))
    assert torch.allclose(
        one[0](draw(1, 4, 1, 8)[:, 2:], draw(1, 2, 40, 8, seed=1)[:, 1:], torch.tensor([39])), z[:, 1:]
    )
