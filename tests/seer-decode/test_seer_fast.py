"""Numba's steps on a CPU beside their definitions in float64, PyTorch's own steps, and select.select."""

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seer_models import config, draw, loop_scores
from torch.nn.functional import pad

from seer_decode import attend, fast
from seer_decode.cache import SeerCache, attached
from seer_decode.gate import Gates
from seer_decode.rotate import Unrotated
from seer_decode.select import Policy, Selection, select
from tenfold_shared import BadInput

pytest.importorskip("numba")
TYPES = [torch.float32, torch.bfloat16]
CLOSE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


def by_hand(q, k, v, lengths, mask, block, scale):
    """(B, Hq, D) float64; mask (B, Hkv, NB)."""
    out = torch.zeros(q.shape, dtype=torch.float64)
    group = q.shape[1] // k.shape[1]
    for b, length in enumerate(lengths.tolist()):
        for a in range(q.shape[1]):
            seen = mask[b, a // group].repeat_interleave(block)[:length]
            keys, values = (x[b, a // group, :length][seen[:length]].double() for x in (k, v))
            if len(keys):
                out[b, a] = ((keys @ q[b, a].double()) * scale).softmax(0) @ values
    return out


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 700), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(1, 8),
    st.sampled_from([8, 10, 24, 64, 128]),
    st.sampled_from([16, 32, 128]),
    st.sampled_from(TYPES),
    st.sampled_from([0, 1 << 60]),
    st.integers(0, 10**6),
)
def test_chosen_blocks_are_the_softmax_of_their_tokens(lengths, stored, group, dim, block, dtype, alone, seed):
    """Lists of any length, empty ones among them, at any number of threads; and all blocks at once."""
    lengths = torch.tensor(lengths)
    count, batch = -(-int(lengths.max()) // block), len(lengths)
    slots = count * block
    q = draw(batch, stored * group, dim, seed=seed).to(dtype)
    k, v = (draw(batch, stored, slots, dim, seed=seed + n).to(dtype) for n in (1, 2))
    mask = torch.rand(batch, stored, count, generator=torch.Generator().manual_seed(seed)) < 0.4
    mask &= torch.arange(count) < ((lengths + block - 1) // block)[:, None, None]
    mask[0, 0] = False
    chosen = Selection.of_mask(mask, count)
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "ALONE", alone)
        torch.set_num_threads(3 if not alone else 1)
        try:
            assert fast.usable(q, k, v)
            found = attend.blocks(q, k, v, lengths, chosen, block, dim**-0.5)
            whole = attend.dense(q, k, v, lengths, dim**-0.5)
        finally:
            torch.set_num_threads(threads)
    wanted = by_hand(q, k, v, lengths, mask, block, dim**-0.5)
    assert found.dtype == dtype and (found.double() - wanted).abs().max() <= CLOSE[dtype] * v.abs().max()
    assert (found[0, :group] == 0).all()
    wanted = by_hand(q, k, v, lengths, torch.ones_like(mask), block, dim**-0.5)
    assert (whole.double() - wanted).abs().max() <= CLOSE[dtype] * v.abs().max()
    none = Selection.of_mask(torch.zeros_like(mask))
    assert (attend.blocks(q, k, v, lengths, none, block, 0.3) == 0).all()


def test_threads_change_no_number():
    """They are PyTorch's own where it has GOMP's, as its wheels for Linux have."""
    assert fast._together() is not None or not sys.platform.startswith("linux")
    q, k, v = draw(2, 6, 64), draw(2, 2, 4096, 64, seed=1), draw(2, 2, 4096, 64, seed=2)
    lengths, threads, found = torch.tensor([4096, 3001]), torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(attend.dense(q, k, v, lengths, 0.1))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def gate_of(stored, group, dim, wide, norm, rope, dtype, block=16):
    model_config = config(
        num_attention_heads=stored * group, num_key_value_heads=stored, head_dim=dim, hidden_size=stored * group * dim,
        num_hidden_layers=1,
    )  # fmt: skip
    gates = Gates.of(model_config, seed=3, gate_dim=wide, block=block, qk_norm=norm, rope=rope)
    if norm:
        gates[0].query_norm.data += draw(wide, seed=9, scale=0.1)
    return model_config, gates.to(dtype)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(1, 5),
    st.sampled_from([(8, 8), (10, 6), (64, 32)]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(TYPES),
    st.sampled_from(TYPES),
    st.sampled_from([("budget", 48.0), ("budget", 100.0), ("ratio", 0.3), ("ratio", 1.0)]),
    st.integers(0, 1),
    st.integers(1, 2),
    st.integers(0, 10**6),
)
def test_a_choice_is_selects_on_the_gates_scores(
    lengths, stored, group, dims, norm, rope, dtype, weights, kind, sink, local, seed
):
    dim, wide = dims
    model_config, gates = gate_of(stored, group, dim, wide, norm, rope, weights)
    import transformers

    unrotated = Unrotated(transformers.AutoModelForCausalLM.from_config(model_config))
    policy = Policy(kind[0], kind[1], 16, sink, local)
    query = draw(len(lengths), stored * group, dim, seed=seed).to(dtype)
    most = -(-max(lengths) // 16)
    compressed = draw(len(lengths), stored, most + 2, wide, seed=seed + 1).round()  # some of them alike
    compressed[:, :, 1::3] = compressed[:, :, :1]
    assert fast.chooses(gates[0], policy, query, compressed)
    at = torch.tensor(lengths) - 1
    found, scores = fast.choose(gates[0], query, fast.angles(unrotated, gates, at), compressed, lengths, policy)
    wanted = select(scores, at + 1, policy)
    assert torch.equal(found.indices, wanted.indices) and torch.equal(found.counts, wanted.counts)
    assert found.indices.dtype == found.counts.dtype == torch.int32
    before = unrotated(query[:, :, None], at[:, None])
    with torch.no_grad():
        gate = gates.float()[0]
        z = gate.scores(gate.query_features(before, at[:, None]), compressed[:, :, :most])[:, :, 0]
    past = torch.arange(most) < (at // 16)[:, None]
    z = z.masked_fill(~past[:, None], 0.0)
    assert torch.allclose(scores, z, atol=1e-4 * max(1.0, float(z.abs().max())))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60), st.integers(1, 70), st.integers(0, 2), st.integers(1, 3), st.booleans(), st.integers(0, 10**6)
)
def test_the_largest_are_selects(blocks, most, sink, local, tied, seed):
    """Scores of any kind, as the kernel is given them."""
    from seer_decode import _blocks

    if sink + local > most:
        return
    z = draw(blocks, seed=seed, scale=2)
    z = z.round() if tied else z
    z[draw(blocks, seed=seed + 1) > 1.2] = -math.inf
    policy = Policy("budget", most * 16, 16, sink, local)
    wanted = select(z[None, None], torch.tensor([blocks * 16]), policy).indices[0, 0]
    taken = torch.full((most,), 7, dtype=torch.int32)
    assert _blocks._take(z.numpy(), blocks, min(most, blocks), sink, local, taken.numpy())
    assert torch.equal(taken, pad(wanted, (0, most - len(wanted)), value=-1))
    if blocks > 1:
        for bad in (math.nan, math.inf):
            z[blocks // 2 - 1] = bad
            assert not _blocks._take(z.numpy(), blocks, min(most, blocks), sink, local, taken.numpy())


def test_scores_by_the_definition():
    _, gates = gate_of(2, 3, 8, 8, True, True, torch.float32)
    gate, query, keys = gates[0], draw(6, 1, 8), draw(2, 70, 8, seed=1)
    at = torch.tensor([69])
    none = fast.Angles(torch.empty(2, 1, 0), fast.angles(_Plain(), gates, at).on)
    compressed = gate.key_features(keys[None]).detach()
    _, scores = fast.choose(gate, query[None, :, 0], none, compressed, [70], Policy("budget", 32, 16))
    rotation = gates.rotation
    wanted = loop_scores(gate, query, keys, at, rotation.frequencies.double().numpy(), rotation.factor)
    assert torch.allclose(scores[0, :, :4].double(), torch.from_numpy(wanted)[:, 0, :4], atol=1e-5)
    compressed[0, 1, 2, 3] = math.nan
    with pytest.raises(BadInput, match="NaN or infinity"):
        fast.choose(gate, query[None, :, 0], none, compressed, [70], Policy("budget", 32, 16))


class _Plain:
    """Of a model without a rotation."""

    module = None


def test_what_pytorch_keeps():
    q, k = draw(1, 2, 8), draw(1, 1, 64, 8, seed=1)
    assert fast.usable(q, k, k) and fast.usable(*(x.bfloat16() for x in (q, k, k)))
    assert not fast.usable(q.half(), k.half()) and not fast.usable(q, k.bfloat16()) and not fast.usable(q.double())
    assert not fast.usable(q, k.requires_grad_())
    with torch.no_grad():
        assert fast.usable(q, k)
    with torch.inference_mode():
        assert attend.dense(q, k, k, torch.tensor([60]), 0.3).shape == q.shape
    _, gates = gate_of(1, 2, 8, 8, True, True, torch.float32)
    compressed = draw(1, 1, 4, 8)
    assert fast.chooses(gates[0], Policy("budget", 32, 16), q, compressed)
    for policy in (Policy("threshold", 0.1, 16), Policy("mass", 0.5, 16), Policy("budget", 32, 16, paper_compat=True)):
        assert not fast.chooses(gates[0], policy, q, compressed)
    other = Gates.of(config(), seed=1, block=16, query_pooling="Qavg")
    assert not fast.chooses(other[0], Policy("budget", 32, 16), q, compressed)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", ["llama", "qwen"])
def test_a_model_decodes_as_with_pytorch(kind, dtype):
    """Padded sequences of a batch, a step at a time."""
    import transformers

    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config(kind)).to(dtype).eval()
    for parameter in model.parameters():
        parameter.data *= 3.0 if parameter.dim() > 1 and dtype == torch.float32 else 1.0
    gates = Gates.of(model.config, seed=1, block=16).to(dtype)
    ids = torch.randint(3, 97, (2, 110), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 110, dtype=torch.long)
    mask[0, :37] = 0
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    made = []
    for with_numba in (True, False):
        with pytest.MonkeyPatch.context() as patch, attached(model), torch.no_grad():
            patch.setattr(fast, "available", lambda here=with_numba: here)
            cache = SeerCache(model, Policy("budget", 48, 16), "seer", gates)
            cuts = [(0, 90), *((n, n + 1) for n in range(90, 110))]
            out = [model(ids[:, a:b], attention_mask=mask[:, :b], position_ids=positions[:, a:b], past_key_values=cache).logits for a, b in cuts]  # fmt: skip
            made.append((torch.cat(out, 1).float(), cache.density()))
    assert made[0][1] == made[1][1]
    near = (made[0][0] - made[1][0]).abs().max() <= {torch.float32: 1e-4, torch.bfloat16: 0.1}[dtype] * made[1][
        0
    ].abs().max()
    assert near and made[0][0].isfinite().all()
