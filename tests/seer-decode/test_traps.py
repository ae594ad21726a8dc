"""The seven traps of the published code: each test restates what that code does and fails on it."""

import itertools
import json
import math

import pytest
import torch
from seer_models import config, draw
from tiny_models import save_model

from seer_decode import store
from seer_decode.cache import SeerCache, attached
from seer_decode.gate import Gates, pool
from seer_decode.select import Policy, select
from tenfold_kernels import device
from tenfold_shared.launch.block_decode import block_decode

BLOCK = 16


def model_of(**more):
    import transformers

    torch.manual_seed(0)
    made = transformers.Qwen3ForCausalLM(config("qwen", **more)).float().eval()
    for parameter in made.parameters():
        parameter.data *= 3.0 if parameter.dim() > 1 else 1.0
    return made


def tokens(*shape, seed=0):
    return torch.randint(3, 97, shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def decoded():
    """A prefill that ends inside a block, 40 steps after it: the cache, its gates, and each layer's keys before RoPE."""
    model, ids, prefill = model_of(), tokens(1, 62), 22
    gates, keys = Gates.of(model.config, seed=1, block=BLOCK), {}
    cache = SeerCache(model, Policy("budget", 32, BLOCK), "seer", gates)
    for index, layer in enumerate(model.model.layers):  # Qwen3's own norm of its keys, before it rotates them
        layer.self_attn.k_norm.register_forward_hook(
            lambda module, given, made, index=index: keys.setdefault(index, []).append(made[0].transpose(0, 1))
        )
    with attached(model), torch.no_grad():
        model(ids[:, :prefill], past_key_values=cache)
        for at in range(prefill, 62):
            model(ids[:, at : at + 1], past_key_values=cache)
    return cache, gates, {index: torch.cat(parts, 1) for index, parts in keys.items()}, prefill


def test_1_the_block_that_straddles_the_prefill_keeps_its_keys_in_every_layer(decoded):
    cache, gates, keys, prefill = decoded
    straddles = prefill // BLOCK
    for layer in cache.sparse:
        mine = keys[layer.index][None, :, straddles * BLOCK : (straddles + 1) * BLOCK]
        right = gates[layer.index].key_features(mine, straddles)[:, :, 0]
        queue = (
            mine.clone()
        )  # theirs, in layers after the first: the first key made way for the next, and a row stayed zero
        queue[:, :, prefill % BLOCK :] = torch.cat(
            [mine[:, :, prefill % BLOCK + 1 :], torch.zeros_like(mine[:, :, :1])], 2
        )
        wrong = gates[layer.index].key_features(queue, straddles)[:, :, 0]
        found = layer.compressed[:, :, straddles]
        assert torch.allclose(found, right, atol=2e-5), layer.index
        assert not torch.allclose(found, wrong, atol=1e-3)


def test_2_a_block_that_fills_while_decoding_stands_at_its_first_token(decoded):
    cache, gates, keys, _ = decoded
    for layer in cache.sparse:
        gate = gates[layer.index]
        pooled = pool(keys[layer.index][None, :, 2 * BLOCK : 3 * BLOCK], BLOCK, gate.shape.key_pooling)
        features = torch.einsum("bhnd,hde->bhne", pooled, gate.key)
        features = features * torch.rsqrt(features.square().mean(-1, keepdim=True) + 1e-6) * gate.key_norm
        first, last = (gate.rotation.turn(features, torch.tensor([at]))[:, :, 0] for at in (2 * BLOCK, 3 * BLOCK - 1))
        assert torch.allclose(layer.compressed[:, :, 2], first, atol=2e-5)
        assert not torch.allclose(layer.compressed[:, :, 2], last, atol=1e-3)


def test_3_padding_moves_no_block_and_is_in_no_pool():
    """Blocks counted from the padded origin would hold padding's keys and begin elsewhere."""
    model = model_of()
    gates, ids = Gates.of(model.config, seed=1, block=BLOCK), tokens(1, 50)
    padded, mask = torch.cat([torch.zeros(1, 7, dtype=torch.long), ids], 1), torch.ones(1, 57, dtype=torch.long)
    mask[0, :7] = 0
    made = []
    with attached(model), torch.no_grad():
        for given, seen in ((ids, None), (padded, mask)):
            cache = SeerCache(model, Policy("budget", 32, BLOCK), "seer", gates)
            at = None if seen is None else (seen.cumsum(1) - 1).clamp_min(0)
            model(given, attention_mask=seen, position_ids=at, past_key_values=cache)
            made.append(cache)
    for alone, mate in zip(made[0].sparse, made[1].sparse, strict=True):
        assert mate.each == [50] and torch.allclose(alone.compressed[:, :, :3], mate.compressed[:, :, :3], atol=2e-5)
        # From the padded origin, padding at 0 .. 6 among the keys.
        theirs = torch.cat([torch.zeros_like(mate.keys[:, :, :7]), mate.keys[:, :, :50]], 2)
        positions = torch.arange(48)[None]
        wrong = gates[mate.index].key_features(made[1].unrotated(theirs[:, :, :48], positions))
        assert not torch.allclose(mate.compressed[:, :, :3], wrong, atol=1e-3)


def test_4_a_budget_is_a_ceiling_and_the_unfilled_block_takes_no_place():
    lengths = torch.tensor([10 * BLOCK + 5])
    z = -1.0 - torch.arange(11.0).flip(0).expand(1, 2, 11)  # all below the 0 that an empty key would score
    for budget in range(1, 12):
        chosen = select(z, lengths, Policy("budget", budget * BLOCK, BLOCK, sink=1 if budget > 1 else 0))
        assert chosen.counts.tolist() == [[budget, budget]]
    theirs = select(z, lengths, Policy("budget", 4 * BLOCK, BLOCK, paper_compat=True))
    ours = select(z, lengths, Policy("budget", 4 * BLOCK, BLOCK))
    assert theirs.indices[0, 0].tolist() == [0, 7, 8, 9, 10] and ours.indices[0, 0].tolist() == [7, 8, 9, 10]
    # A threshold's softmax is over the blocks there are keys of: an empty key at 0 would take nearly all of it.
    shares = z[0, 0, :10].softmax(-1)
    found = select(z, lengths, Policy("threshold", 0.1, BLOCK))
    assert (
        found.indices[0, 0].tolist() == [*(shares > 0.1).nonzero().flatten().tolist(), 10] and found.counts[0, 0] == 3
    )
    assert int((torch.cat([z[0, 0, :10], torch.zeros(1)]).softmax(-1) > 0.1).sum()) == 2


@pytest.mark.parametrize("change", [{"block": 128}, {"gate_dim": 16}], ids=["block 128", "wider than a head"])
def test_5_a_saved_budget_blocks_of_128_and_other_widths_load_again(change, tmp_path):
    of = config()
    gates = Gates.of(of, seed=1, **change)
    made = store.made_for(of, gates.shape, "a base", sparsity=store.Sparsity("token_budget", token_budget=2048))
    store.save(gates, made, tmp_path / "theirs", "published")
    written = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert (
        written["seerattn_sparsity_method"] == "token_budget"
    )  # which their class stops at, as it does at these sizes
    loaded = store.load(tmp_path / "theirs", of)
    assert loaded.made.sparsity.token_budget == 2048 and loaded.made.shape == gates.shape
    z = loaded.gates[0](draw(1, 4, 3, 8), draw(1, 2, 300, 8, seed=1), torch.arange(297, 300))
    assert z.shape == (1, 2, 3, math.ceil(300 / gates.shape.block)) and torch.isfinite(z).all()


def test_6_a_step_copies_no_cache():
    """Keys and values stay where they are, but for a few moves as the memory grows by quarters; a step reads its blocks alone."""
    model = model_of()
    cache = SeerCache(model, Policy("budget", 32, BLOCK), "recent")
    with attached(model), torch.no_grad():
        model(tokens(1, 20), past_key_values=cache)
        places = []
        for at in range(300):
            model(tokens(1, 1, seed=at), past_key_values=cache)
            places.append([layer.keys.data_ptr() for layer in cache.sparse])
    moves = [sum(a != b for a, b in zip(one, two, strict=True)) for one, two in itertools.pairwise(places)]
    assert sum(moves) <= 3 * 2  # 320 tokens in room for 256, then 320, then 400, in three layers
    assert cache.trace.of(0).blocks == [2.0] * 300


def kernel(lengths, indices, counts, splits, k=None, block=BLOCK):
    q, v = draw(len(lengths), 4, 64, seed=1), draw(len(lengths), 2, 96, 64, seed=3)
    k = draw(len(lengths), 2, 96, 64, seed=2) if k is None else k
    given = (torch.tensor(x, dtype=torch.int32) for x in (lengths, indices, counts))
    with device.interpreter(True):
        out, lse = block_decode(q, k, v, *given, block=block, scale=0.125, splits=splits)
    return q, k, v, out, lse


def truth(q, k, v, seen):
    """One row, seen (2, 96) by stored heads: output and log of the sum, in float64."""
    z = (q.double().view(2, 2, 64) @ k.double().transpose(1, 2) * 0.125).masked_fill(~seen[:, None], -torch.inf)
    return (z.softmax(-1) @ v.double()).view(4, 64), z.logsumexp(-1).view(4)


def test_7_tails_splits_and_empty_rows_of_the_kernel():
    """The tail is masked wherever it falls among the splits; a split without work, in the middle too, adds nothing, whatever
    its sum's logarithm is taken for; a sum of logarithm 0 is no absence; a row without blocks is 0 and no NaN."""
    lengths = [87, 40]
    lists = [[[0, 2, 5, -1], [1, 3, 4, 5]], [[2, -1, -1, -1], [0, 1, 2, -1]]]
    counts = [[3, 4], [1, 3]]
    for splits in (1, 2, 3, 4, 9):
        q, k, v, out, lse = kernel(lengths, lists, counts, splits)
        for row, length in enumerate(lengths):
            seen = torch.zeros(2, 96, dtype=torch.bool)
            for head in range(2):
                for block in lists[row][head][: counts[row][head]]:
                    seen[head, block * BLOCK : min(length, (block + 1) * BLOCK)] = True
            right, logs = truth(q[row], k[row], v[row], seen)
            assert torch.allclose(out[row].double(), right, atol=1e-5) and torch.allclose(
                lse[row].double(), logs, atol=1e-5
            )
    # One token of logit 0: its sum's logarithm is exactly 0, beside splits that are empty.
    q, _, v, out, lse = kernel([1, 1], [[[0], [0]]] * 2, [[1, 1]] * 2, 4, k=torch.zeros(2, 2, 96, 64))
    assert torch.equal(lse, torch.zeros(2, 4)) and torch.allclose(out.view(2, 2, 2, 64), v[:, :, None, 0].expand(2, 2, 2, 64), atol=1e-6)  # fmt: skip
    _, _, _, out, lse = kernel([50, 50], [[[-1, -1], [0, 1]]] * 2, [[0, 2]] * 2, 3)
    assert not out[:, :2].any() and out[:, 2:].any() and bool(torch.isfinite(out).all())
    assert (lse[:, :2] == -torch.inf).all()


def test_a_prompt_shorter_than_a_block_and_of_one_token(tmp_path):
    """The published code crashed on these until June 2025."""
    from seer_models import here

    save_model(tmp_path / "m", max_position_embeddings=512, head_dim=8)
    (tmp_path / "t.jsonl").write_text('{"id": "a", "prompt": "fox"}\n{"id": "b", "prompt": "the dog, and then"}\n')
    done = here("generate", tmp_path / "t.jsonl", "--model", tmp_path / "m", "--method", "oracle", "--budget", 16, "--block", 16, "--max-tokens", 20, "--batch-size", 2, "-o", tmp_path / "o.jsonl")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all(json.loads(line)["usage"]["completion_tokens"] for line in open(tmp_path / "o.jsonl"))
