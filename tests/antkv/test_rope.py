"""Rotations taken off and put on again, for the scalings models have."""

import pytest
import torch
import transformers
from ant_models import tiny

from antkv.rope import Rope
from tenfold_shared import BadInput

KINDS = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "llama3": {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 4096},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
}  # fmt: skip
POSITIONS = torch.tensor([[0, 1, 8191, 131071]])


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(kind):
    rope = Rope(tiny(rope_parameters=KINDS[kind], max_position_embeddings=131072))
    keys = torch.randn(1, 2, 4, 16)
    assert (rope.factor != 1.0) == (kind == "yarn")
    assert torch.allclose(rope.unrotate(rope.rotate(keys, POSITIONS), POSITIONS), keys, atol=2e-6)
    assert torch.allclose(rope.rotate(rope.unrotate(keys, POSITIONS), POSITIONS), keys, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_rotations_are_the_models(kind):
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    model = tiny(rope_parameters=KINDS[kind], max_position_embeddings=131072)
    keys = torch.randn(1, 2, 4, 16)
    cos, sin = model.model.rotary_emb(keys, POSITIONS)
    _, truth = apply_rotary_pos_emb(keys, keys, cos, sin)
    assert torch.allclose(Rope(model).rotate(keys, POSITIONS), truth, atol=1e-6)


def test_frequencies_that_grow_are_refused():
    with pytest.raises(BadInput, match=r"dynamic.*--rope post"):
        Rope(tiny(rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}))


@pytest.mark.parametrize("kind", ["CohereConfig", "GlmConfig", "Ernie4_5Config", "HeliumConfig"])
def test_channels_paired_otherwise_are_refused(kind):
    """Interleaved pairs, whatever the class is called: found by trying the model's own rotation."""
    config = getattr(transformers, kind)(
        vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with pytest.raises(BadInput, match="--rope post"):
        Rope(transformers.AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("kind", ["llama", "qwen", "mistral", "gemma", "phi"])
def test_models_of_halves_are_taken(kind):
    Rope(tiny(kind=kind))
