"""The sparse cache in transformers' own models: dense parity, blocks however they fill, and no trace of batch mates."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seer_models import config, draw
from torch.nn.functional import scaled_dot_product_attention

from seer_decode import attend, fast
from seer_decode.cache import SeerCache, attached
from seer_decode.gate import Gates
from seer_decode.rotate import Unrotated
from seer_decode.select import Policy, Selection, select
from tenfold_shared import BadInput

METHODS = ["seer", "oracle", "quest", "recent", "random"]


def model_of(kind="llama", **more):
    import transformers

    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(config(kind, **more)).float().eval()
    for parameter in made.parameters():  # attention that is far from even, so that a wrong block shows
        parameter.data *= 3.0 if parameter.dim() > 1 else 1.0
    return made


def tokens(*shape, seed=0):
    return torch.randint(3, 97, shape, generator=torch.Generator().manual_seed(seed))


def gates_of(model, block=16):
    return Gates.of(model.config, seed=1, block=block)


@torch.no_grad()
def logits_of(model, ids, cache, mask=None, chunk=None):
    """Logits (B, n, V) of a prefill of all but the last 12 tokens, or in chunks, then a token at a time."""
    found, last = [], ids.shape[1] - 12
    cuts = [0, *range(chunk, last, chunk), last] if chunk else [0, last]
    cuts += range(last + 1, ids.shape[1] + 1)
    positions = torch.arange(ids.shape[1])[None] if mask is None else (mask.cumsum(1) - 1).clamp_min(0)
    for a, b in itertools.pairwise(cuts):
        given = None if mask is None else mask[:, :b]
        out = model(ids[:, a:b], attention_mask=given, position_ids=positions[:, a:b].expand(ids.shape[0], -1), past_key_values=cache)  # fmt: skip
        found.append(out.logits)
    return torch.cat(found, 1)


@pytest.mark.parametrize("kind", ["llama", "qwen"])
@pytest.mark.parametrize("method", METHODS)
def test_a_budget_that_holds_everything_is_dense(kind, method):
    """Greedy tokens of transformers' own generate, and its logits."""
    model, ids = model_of(kind), tokens(2, 50)
    gates = gates_of(model) if method == "seer" else None
    alone = model.generate(ids, max_new_tokens=40, do_sample=False, eos_token_id=None, output_logits=True, return_dict_in_generate=True)  # fmt: skip
    with attached(model):
        cache = SeerCache(model, Policy("budget", 96, 16), method, gates)
        ours = model.generate(ids, max_new_tokens=40, do_sample=False, eos_token_id=None, past_key_values=cache, output_logits=True, return_dict_in_generate=True)  # fmt: skip
    assert torch.equal(alone.sequences, ours.sequences)
    assert torch.allclose(torch.stack(alone.logits), torch.stack(ours.logits), atol=1e-4)
    assert cache.density() == 1.0


@pytest.mark.parametrize("method", METHODS)
def test_a_small_budget_changes_the_result_and_is_a_ceiling(method):
    model, ids = model_of(), tokens(1, 150)
    gates = gates_of(model) if method == "seer" else None
    with attached(model):
        cache = SeerCache(model, Policy("budget", 48, 16, sink=1), method, gates)
        sparse = logits_of(model, ids, cache)
        dense = logits_of(model, ids, SeerCache(model, Policy("dense", block=16), "dense"))
    assert torch.equal(sparse[:, :138], dense[:, :138]) and not torch.allclose(
        sparse[:, 138:], dense[:, 138:], atol=1e-3
    )
    assert len(cache.trace) == 12
    assert cache.trace.of(0) == (list(range(139, 151)), [3.0] * 12)  # three blocks of each head, in every layer


def test_the_trace_follows_its_sequences():
    """Rows that leave or change places keep their own counts; counts are those of the lists."""
    model, lengths = model_of(), (20, 70, 101)
    ids, mask = tokens(3, 101), torch.ones(3, 101, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, : 101 - length] = 0
    with attached(model), torch.no_grad():
        cache = SeerCache(model, Policy("budget", 48, 16), "oracle")
        logits_of(model, ids, cache, mask)
        cache.batch_select_indices(torch.tensor([2, 0]))
        mask = torch.cat([mask[[2, 0]], torch.ones(2, 1, dtype=torch.long)], 1)
        at = (mask.sum(1) - 1)[:, None]
        model(tokens(2, 1, seed=3), attention_mask=mask, position_ids=at, past_key_values=cache)
    assert [cache.trace.of(row).lengths for row in range(3)] == [
        list(range(9, 22)),
        list(range(59, 71)),
        list(range(90, 103)),
    ]
    assert cache.trace.of(0).blocks == [1.0] * 8 + [2.0] * 5
    assert cache.trace.of(1).blocks == [3.0] * 12 and cache.trace.of(2).blocks == [3.0] * 13
    there = 8 + 2 * 5 + sum(-(-n // 16) for n in [*range(59, 71), *range(90, 103)])
    assert cache.density() == pytest.approx((8 + 10 + 25 * 3) / there)


@pytest.mark.parametrize("before", range(16, 33))
def test_compressed_keys_do_not_depend_on_how_blocks_fill(before):
    """A block that begins in the prefill and fills token by token, in every layer: its first key and position are its own."""
    model, ids = model_of("qwen"), tokens(1, 53)
    made = []
    for prefill in (before, 53):
        with attached(model), torch.no_grad():
            cache = SeerCache(model, Policy("dense", block=16), "seer", gates_of(model))
            model(ids[:, :prefill], past_key_values=cache)
            for at in range(prefill, 53):
                model(ids[:, at : at + 1], past_key_values=cache)
        made.append([layer.compressed[:, :, :3] for layer in cache.sparse])
    assert len(made[0]) == 3 and made[0][0].abs().min() > 0
    for layer, (one, other) in enumerate(zip(*made, strict=True)):
        assert torch.allclose(one, other, atol=2e-5), layer


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "policy", [Policy("budget", 48, 16), Policy("threshold", 0.05, 16)], ids=["budget", "threshold"]
)
def test_batch_mates_and_padding_change_nothing(method, policy):
    model = model_of("qwen")
    lengths, width = (70, 101, 20), 101
    ids, mask = tokens(3, width), torch.ones(3, width, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, : width - length] = 0
    gates = gates_of(model) if method == "seer" else None
    with attached(model):
        together = logits_of(model, ids, SeerCache(model, policy, method, gates), mask)
        for row, length in enumerate(lengths):
            alone = logits_of(model, ids[row : row + 1, width - length :], SeerCache(model, policy, method, gates))
            assert torch.allclose(together[row, width - length :], alone[0], atol=1e-4), row


def test_a_prefill_in_chunks_is_the_whole_one():
    model, ids = model_of(), tokens(2, 90)
    with attached(model):
        made = [
            logits_of(model, ids, SeerCache(model, Policy("budget", 32, 16), "seer", gates_of(model)), chunk=chunk)
            for chunk in (None, 13, 32)
        ]
    assert torch.allclose(made[0], made[1], atol=1e-4) and torch.allclose(made[0], made[2], atol=1e-4)


def test_beams_samples_and_tokens_taken_back():
    model, ids = model_of(), tokens(2, 40)
    how = {"max_new_tokens": 20, "eos_token_id": None}
    for more in ({"num_beams": 3, "do_sample": False}, {"do_sample": True, "top_k": 20}):
        torch.manual_seed(5)
        alone = model.generate(ids, **how, **more)
        torch.manual_seed(5)
        with attached(model):
            ours = model.generate(
                ids, **how, **more, past_key_values=SeerCache(model, Policy("budget", 64, 16), "oracle")
            )
        assert torch.equal(alone, ours)
    # Beams that change places take their compressed keys along: each goes on as it would alone.
    with attached(model), torch.no_grad():
        both = SeerCache(model, Policy("budget", 32, 16), "seer", gates_of(model))
        model(ids, past_key_values=both)
        both.reorder_cache(torch.tensor([1, 1, 0]))
        three = torch.cat([model(tokens(3, 1, seed=40 + at), past_key_values=both).logits for at in range(20)], 1)
        for row, source in enumerate((1, 1, 0)):
            alone = SeerCache(model, Policy("budget", 32, 16), "seer", gates_of(model))
            model(ids[source : source + 1], past_key_values=alone)
            mine = [model(tokens(3, 1, seed=40 + at)[row : row + 1], past_key_values=alone).logits for at in range(20)]
            assert torch.allclose(three[row], torch.cat(mine, 1)[0], atol=1e-4)
    dense = model.generate(ids[:1], **how, do_sample=False, prompt_lookup_num_tokens=3)
    with attached(model):  # which takes back as many tokens as were guessed wrong, none at times
        cache = SeerCache(model, Policy("dense", block=16), "dense")
        assert torch.equal(
            dense, model.generate(ids[:1], **how, do_sample=False, prompt_lookup_num_tokens=3, past_key_values=cache)
        )
    policy = Policy("budget", 32, 16)
    with attached(model), torch.no_grad():
        cache, fresh = (SeerCache(model, policy, "seer", gates_of(model)) for _ in range(2))
        model(ids, past_key_values=cache)
        model(tokens(2, 9, seed=7), past_key_values=cache)  # fills a block that is taken back
        cache.crop(-9)
        model(ids, past_key_values=fresh)
        for at in range(12):
            step = tokens(2, 1, seed=20 + at)
            assert torch.allclose(
                model(step, past_key_values=cache).logits, model(step, past_key_values=fresh).logits, atol=1e-4
            )


def test_gates_of_another_model_are_refused():
    model = model_of()
    with pytest.raises(BadInput, match="needs gates"):
        SeerCache(model, Policy("dense", block=16))
    with pytest.raises(BadInput, match="block 32, and here it is 16"):
        SeerCache(model, Policy("dense", block=16), "seer", gates_of(model, 32))
    with pytest.raises(BadInput, match="layers 2, and here it is 3"):
        SeerCache(model, Policy("dense", block=16), "seer", Gates.of(config(num_hidden_layers=2), block=16))
    with pytest.raises(BadInput, match="left padding only"), attached(model), torch.no_grad():
        model(tokens(1, 8), attention_mask=torch.tensor([[1, 1, 0, 1, 1, 1, 1, 1]]), past_key_values=SeerCache(model, Policy("dense", block=16), "dense"))  # fmt: skip


@pytest.mark.parametrize("rope", [None, {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 1024}])  # fmt: skip
def test_the_rotation_is_taken_off(rope):
    model = model_of(**({"rope_parameters": rope} if rope else {}))
    back, x, positions = (
        Unrotated(model),
        draw(2, 4, 9, 8),
        torch.arange(9)[None].expand(2, -1) + torch.tensor([[0], [700]]),
    )
    cos, sin = model.model.rotary_emb(x, positions)
    left, right = x.chunk(2, -1)
    turned = x * cos[:, None] + torch.cat([-right, left], -1) * sin[:, None]
    assert torch.allclose(back(turned, positions), x, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(0, 6), st.integers(0, 1000))
def test_chosen_blocks_are_the_softmax_of_their_tokens(batch, stored, group, most, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "available", lambda: False)  # numba's are test_seer_fast.py's
        _chosen_blocks(batch, stored, group, most, seed)


def _chosen_blocks(batch, stored, group, most, seed):
    generator = torch.Generator().manual_seed(seed)
    block, dim, count = 16, 8, 6
    lengths = torch.randint(1, count * block + 1, (batch,), generator=generator)
    q, k, v = draw(batch, stored * group, dim, seed=seed), draw(batch, stored, count * block, dim, seed=seed + 1), draw(batch, stored, count * block, dim, seed=seed + 2)  # fmt: skip
    mask = torch.rand(batch, stored, count, generator=generator).argsort(-1) < most
    mask &= torch.arange(count) < ((lengths + block - 1) // block)[:, None, None]
    found = attend.blocks(q, k, v, lengths, Selection.of_mask(mask, max(1, most)), block, 0.3)
    for b in range(batch):
        seen = mask[b].repeat_interleave(block, -1) & (torch.arange(count * block) < lengths[b])
        for h in range(stored * group):
            own = seen[h // group]
            z = (k[b, h // group][own].double() @ q[b, h].double()) * 0.3
            whole = z.softmax(0) @ v[b, h // group][own].double()
            assert torch.allclose(found[b, h].double(), whole, atol=1e-5)
    everything = Selection.of_mask(
        (torch.arange(count) < ((lengths + block - 1) // block)[:, None, None]).expand(batch, stored, count)
    )
    assert torch.allclose(
        attend.blocks(q, k, v, lengths, everything, block, 0.3), attend.dense(q, k, v, lengths, 0.3), atol=1e-5
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 150), st.integers(1, 4), st.sampled_from([torch.float32, torch.bfloat16]), st.integers(0, 1000))  # fmt: skip
def test_a_workspace_and_parts_change_nothing(batch, stored, length, most, dtype, seed):
    """Lists that are full and end with the tail, as those of a policy, with memory kept between calls and few lists at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "available", lambda: False)
        _workspace_and_parts(batch, stored, length, most, dtype, seed)


def _workspace_and_parts(batch, stored, length, most, dtype, seed):
    block, dim, group = 16, 8, 2
    blocks = -(-length // block)
    q, k, v = (x.to(dtype) for x in (draw(batch, stored * group, dim, seed=seed), *draw(2, batch, stored, blocks * block + block, dim, seed=seed + 1)))  # fmt: skip
    lengths = torch.full((batch,), length)
    chosen = select(draw(batch, stored, blocks, seed=seed + 2), lengths, Policy("budget", most * block, block))
    mask = chosen.mask(blocks).repeat_interleave(block, -1)[..., :length].repeat_interleave(group, 1)
    whole = scaled_dot_product_attention(
        q.float()[:, :, None], *(x[:, :, :length].float() for x in (k, v)), mask[:, :, None], enable_gqa=True
    )[:, :, 0]
    workspace, before = attend.Workspace(), attend.GATHERED
    close = {"atol": 1e-5 if dtype == torch.float32 else 0.05}
    for gathered in (before, 1, 3 * most * block * dim * k.element_size()):
        attend.GATHERED = gathered
        try:
            for grad in (torch.inference_mode, torch.no_grad, torch.enable_grad):
                with grad():
                    for held in (workspace, None):
                        found = attend.blocks(q, k, v, lengths, chosen, block, dim**-0.5, held)
                        assert torch.allclose(found.float(), whole, **close)
        finally:
            attend.GATHERED = before
    every = scaled_dot_product_attention(q.float()[:, :, None], *(x[:, :, :length].float() for x in (k, v)), enable_gqa=True)  # fmt: skip
    assert torch.allclose(attend.dense(q, k, v, lengths, dim**-0.5).float(), every[:, :, 0], **close)


def test_gathered_blocks_have_gradients():
    q, k, v = (draw(*shape, seed=n).requires_grad_() for n, shape in enumerate([(1, 2, 8), (1, 1, 64, 8), (1, 1, 64, 8)]))  # fmt: skip
    lengths = torch.tensor([60])
    chosen = select(torch.tensor([[[0.0, 2.0, 1.0]]]), lengths, Policy("budget", 48, 16))
    attend.blocks(q, k, v, lengths, chosen, 16, 0.3, attend.Workspace()).sum().backward()
    read = (v.grad.abs().sum(-1) > 0)[0, 0]
    assert read.tolist() == [16 <= slot < 60 for slot in range(64)] and q.grad.abs().min() > 0


def test_one_rotation_a_step_is_the_gates_own():
    """The matrices that layers share give the scores of the two rotations, at lengths of their own."""
    model = model_of("qwen")
    gates = gates_of(model)
    cache = SeerCache(model, Policy("budget", 32, 16), "seer", gates)
    layer, gate = cache.sparse[1], gates[1]
    layer.take(draw(2, 2, 70, 8), draw(2, 2, 70, 8, seed=1))
    layer.lengths = torch.tensor([70, 41])
    query = draw(2, 4, 8, seed=2)
    at = (layer.lengths - 1)[:, None]
    wanted = gate.scores(gate.query_features(cache.unrotated(query[:, :, None], at), at), layer.compressed[:, :, :5])
    found = layer._scores(query, [70, 41], 1.0)
    assert torch.allclose(found, wanted[:, :, 0], atol=1e-5) and cache.turns([70, 41], query.device) is cache.turns([70, 41], query.device)  # fmt: skip


def test_tokens_without_queries_are_a_prefills():
    model, ids = model_of(), tokens(1, 50)
    with attached(model), torch.no_grad():
        one, other = (SeerCache(model, Policy("budget", 32, 16), "seer", gates_of(model)) for _ in range(2))
        model(ids, past_key_values=one)
        for mine, its in zip(other.sparse, one.sparse, strict=True):
            mine.take(its.keys[:, :, :30], its.values[:, :, :30])
            mine.take(its.keys[:, :, 30:50], its.values[:, :, 30:50])
        step = tokens(1, 1, seed=3)
        assert torch.allclose(model(step, past_key_values=one).logits, model(step, past_key_values=other).logits, atol=1e-6)  # fmt: skip


@pytest.mark.parametrize("method", [*METHODS, "dense"])
@pytest.mark.parametrize(
    "policy",
    [Policy("budget", 48, 16), Policy("threshold", 0.02, 16, sink=1), Policy("mass", 0.8, 16)],
    ids=["budget", "threshold", "mass"],
)
def test_a_chunk_stepwise_is_step_by_step(method, policy):
    """What `study` does in one forward is what decoding does in many, and its reads are the cache's."""
    model, ids = model_of("qwen"), tokens(1, 90)
    gates = gates_of(model) if method == "seer" else None
    with attached(model), torch.no_grad():
        one = SeerCache(model, policy, method, gates)
        steps = logits_of(model, ids, one)[:, 78:]
        whole = SeerCache(model, Policy("dense", block=32), "dense")
        model(ids[:, :78], past_key_values=whole)
        whole.become(policy, method, gates)
        whole.stepwise = True
        for _ in range(2):  # taken back and done again it is the same
            whole.seen.clear()
            at_once = model(ids[:, 78:], past_key_values=whole).logits
            assert torch.allclose(steps, at_once, atol=2e-4)
            whole.crop(-12)
    assert len(whole.seen) == 3 and all(len(part) == 12 for layer in whole.seen for part in layer)
    for layer in whole.seen:
        assert (layer.mass <= 1 + 1e-5).all() and (layer.peak <= 1 + 1e-5).all()
        if method == "dense":
            assert torch.allclose(layer.mass, torch.ones(12)) and layer.read.tolist() == list(range(79, 91))
        if method != "dense" and policy.kind == "budget":
            assert (layer.read <= 48).all() and (layer.read > 32).all()


@pytest.mark.parametrize(
    ("name", "more", "why"),
    [
        ("Glm", {"head_dim": 16, "num_attention_heads": 4, "num_key_value_heads": 2}, "do not rotate their keys as its tables say"),
        ("SmolLM3", {"num_attention_heads": 4, "num_key_value_heads": 2, "no_rope_layers": [1, 1, 0]}, "layers 2 do not rotate"),
        ("Bloom", {"n_head": 4}, "attention is code of its own"),
        ("Falcon", {"num_attention_heads": 4, "new_decoder_architecture": True, "num_kv_heads": 2}, "attention is code of its own"),
    ],
)  # fmt: skip
def test_models_that_gates_cannot_see_are_refused(name, more, why):
    """Keys whose rotation is another one, layers without one, and attention that is not asked for by name."""
    import transformers

    how = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 3, "pad_token_id": 0}
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, f"{name}Config")(**how | more)).eval()
    with pytest.raises(BadInput, match=why):
        SeerCache(model, Policy("budget", 32, 16), "seer", Gates.of(model.config, block=16))
    if "rotate" in why:  # other methods see no keys before RoPE
        with attached(model), torch.no_grad():
            cache = SeerCache(model, Policy("budget", 32, 16), "recent")
            logits_of(model, tokens(1, 60), cache)
        assert cache.density() < 1
