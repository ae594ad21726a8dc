"""Gates beside loops in float64, their shapes and counts, and the models that can have none."""

import pytest
import torch
from seer_models import config, draw, loop_scores, qwen
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from seer_decode.gate import Gates, Rotation, pool
from seer_decode.shape import POOLS, Shape, gated_layers, pooling_of
from tenfold_shared import BadInput

ROPES = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 1024},
    "llama3": {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 1024,
    },
}  # fmt: skip


def made(seed=0, scale=6.0, **how):
    """Layer 1's gate with weights large enough to tell blocks apart, norms that are not 1."""
    gates = Gates.of(config(), seed=seed, **{"block": 16, **how})
    gate = gates[1]
    with torch.no_grad():
        for name, weight in gate.named_parameters():
            weight.mul_(scale) if "norm" not in name else weight.add_(0.3 * draw(len(weight), seed=7))
    return gate


def against_loops(gate, tokens=37, rows=5, seed=3):
    queries, keys = draw(4, rows, 8, seed=seed), draw(2, tokens, 8, seed=seed + 1)
    positions = torch.tensor([0, 15, 16, 36, 3000])[:rows]
    frequencies = gate.rotation.frequencies.double().numpy() if gate.rotation else None
    factor = gate.rotation.factor if gate.rotation else 1.0
    truth = loop_scores(gate, queries, keys, positions, frequencies, factor)
    found = gate(queries[None], keys[None], positions)[0]
    assert found.dtype == torch.float32 and found.shape == truth.shape
    assert (found.detach().double() - torch.tensor(truth)).abs().max() < 1e-5
    return truth


@pytest.mark.parametrize("query", ["Qproj", "Qavgproj", "Qavg", "Qorig"])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("rope", [True, False])
def test_scores_are_the_loops(query, norm, rope):
    truth = against_loops(made(query_pooling=query, qk_norm=norm, rope=rope))
    assert truth.std() > 0.05


@pytest.mark.parametrize("name", ["Kmax", "Kmin", "Kavg", "Kmaxmin", "Kmaxavg", "Kminavg", "Kmaxminavg"])
@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 48])
def test_pools_and_partial_blocks(name, tokens):
    against_loops(made(key_pooling=pooling_of(name)), tokens=tokens, rows=2)


@pytest.mark.parametrize("wide", [2, 4, 16])
def test_features_of_another_width(wide):
    against_loops(made(gate_dim=wide))


@pytest.mark.parametrize("kind", ROPES)
@pytest.mark.parametrize("wide", [8, 16])
def test_rotation_is_the_models_own_at_the_gates_width(kind, wide):
    base = config(rope_parameters=ROPES[kind])
    model = LlamaRotaryEmbedding(config(rope_parameters=ROPES[kind], head_dim=wide))
    x, positions = draw(1, 2, 4, wide), torch.tensor([[0, 1, 64, 4000]])
    cos, sin = model(x, positions)
    truth, _ = apply_rotary_pos_emb(x, x, cos, sin)
    rotation = Rotation.of(base, wide)
    assert (rotation.factor != 1.0) == (kind == "yarn")
    assert torch.allclose(rotation.turn(x, positions), truth, atol=2e-6)


def test_pool_of_no_keys():
    assert pool(draw(1, 2, 0, 8), 16).shape == (1, 2, 0, 24)


def test_a_block_stands_at_its_first_token_however_it_comes():
    """Projected alone, as a cache does it when a block fills, or with all others."""
    gate = made()
    keys = draw(1, 2, 64, 8)
    whole = gate.key_features(keys)
    for block in range(4):
        alone = gate.key_features(keys[:, :, block * 16 : (block + 1) * 16], first=block)
        assert torch.allclose(alone[:, :, 0], whole[:, :, block], atol=1e-6)


def test_batch_mates_and_their_positions_do_not_matter():
    gate = made()
    queries, keys = draw(3, 4, 2, 8), draw(3, 2, 40, 8)
    positions = torch.tensor([[3, 4], [30, 31], [7, 900]])
    together = gate(queries, keys, positions)
    for at in range(3):
        alone = gate(queries[at : at + 1], keys[at : at + 1], positions[at])
        assert torch.allclose(together[at], alone[0], atol=1e-6)


def test_bfloat16_weights_give_float32_scores():
    gate = made().to(torch.bfloat16)
    assert gate(draw(1, 4, 2, 8).bfloat16(), draw(1, 2, 40, 8).bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("layers", "heads", "per_layer", "total"),
    [(36, 32, 917_760, 33_039_360), (40, 40, 1_048_832, 41_953_280), (48, 40, 1_048_832, 50_343_936)],
)
def test_counts_the_paper_publishes(layers, heads, per_layer, total):
    shape = Shape.of(qwen(layers, heads))
    assert (shape.per_layer, shape.parameters) == (per_layer, total)


def test_counts_are_the_modules():
    small = config(num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, head_dim=64, hidden_size=576)
    shape = Shape.of(small)
    assert (shape.per_layer, shape.parameters) == (73_856, 2_215_680)
    for how in (
        {},
        {"qk_norm": False},
        {"query_pooling": "Qavg"},
        {"query_pooling": "Qavgproj", "key_pooling": ("min",)},
    ):
        gates = Gates.of(config(), **how)
        assert sum(p.numel() for p in gates.parameters()) == gates.shape.parameters


def test_weights_begin_as_the_papers():
    gates = Gates.of(qwen(2))
    assert gates[0].query.detach().std() == pytest.approx(0.02, rel=0.01) and abs(gates[1].key.detach().mean()) < 1e-4
    assert (gates[0].query_norm == 1).all() and (gates[1].key_norm == 1).all()
    again, other = Gates.of(config(), seed=5), Gates.of(config(), seed=6)
    assert torch.equal(again[2].key, Gates.of(config(), seed=5)[2].key) and not torch.equal(again[2].key, other[2].key)
    assert not torch.equal(again[0].key, again[1].key)


def test_layers_that_slide_stay_dense():
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    sliding = config("gemma", layer_types=kinds, sliding_window=64)
    assert gated_layers(sliding) == ([1], {0: "sliding_attention", 2: "sliding_attention"})
    gates = Gates.of(sliding)
    assert gates.shape.gated == (1,) and 1 in gates and 0 not in gates
    assert gates.rotation.frequencies[1] == pytest.approx(1e6 ** (-1 / 4))  # of the full layers, not the sliding ones


@pytest.mark.parametrize(
    ("kind", "more", "told"),
    [
        ("mistral", {"sliding_window": 64}, "no layer is left"),
        ("gemma2", {}, "soft caps"),
        ("llama", {"num_key_value_heads": 3, "num_attention_heads": 4}, "evenly"),
    ],
)
def test_models_that_can_have_no_gate(kind, more, told):
    with pytest.raises(BadInput, match=told):
        Shape.of(config(kind, **more))


def test_latent_attention_is_refused():
    import transformers

    with pytest.raises(BadInput, match="MLA"):
        Shape.of(transformers.DeepseekV3Config(num_hidden_layers=1))


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rotations_that_grow_are_refused(kind):
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 64,
            "long_factor": [1.0] * 4, "short_factor": [1.0] * 4}  # fmt: skip
    with pytest.raises(BadInput, match=f"rope_type {kind}"):
        Gates.of(config(rope_parameters=rope))


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"block": 48}, "16, 32, 64, 128, 256"),
        ({"block": 8}, "got 8"),
        ({"query_pooling": "Qavg", "gate_dim": 16}, "must be head_dim"),
        ({"query_pooling": "Qmax"}, "Qproj"),
        ({"gate_dim": 5}, "even"),
        ({"key_pooling": ("avg", "max")}, "in that order"),
        ({"key_pooling": ()}, "Kmaxminavg"),
    ],
)
def test_shapes_that_are_none(how, told):
    with pytest.raises(BadInput, match=told):
        Gates.of(config(), **how)


def test_pool_names():
    assert pooling_of("Kmaxminavg") == POOLS and pooling_of("Kmin") == ("min",)
    for name in ("maxmin", "K", "Kavgmax", "Kmaxmax"):
        with pytest.raises(BadInput, match="Kmaxminavg"):
            pooling_of(name)
