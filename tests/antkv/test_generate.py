"""`antkv generate`, in process: how an answer ended, and what its cache was."""

import json

import pytest
import torch
from ant_models import codebook, tiny

from antkv.cache import Settings
from antkv.generate import Decoder
from tenfold_shared import BadInput
from tenfold_shared.generate import Sampling


class Letters:
    """A tokenizer of one token a letter."""

    chat_template = None

    def __call__(self, text):
        return {"input_ids": [3 + ord(c) % 90 for c in text]}

    def decode(self, ids, **_):
        return " ".join(map(str, ids))


def answers(model, prompts, max_tokens, **more):
    how = Settings(ratio=1.0, window=8, block=8, dtype=torch.float32)
    decoder = Decoder(
        model, Letters(), codebook(model), how, Sampling(temperature=0.0, max_tokens=max_tokens), 0, **more
    )
    done = dict(decoder((str(i), {"id": str(i), "prompt": text}) for i, text in enumerate(prompts)))
    return [done[str(i)] for i in range(len(prompts))], decoder


def test_an_answer_whose_last_token_is_the_end_has_stopped():
    model = tiny()
    (free,), _ = answers(model, ["some prompt"], 12, beyond=False)
    assert free["finish"] == "length" and free["made"] == 12
    model.generation_config.eos_token_id = [int(free["text"].split()[-1])]
    (ended,), _ = answers(
        model, ["some prompt"], free["text"].split().index(free["text"].split()[-1]) + 1, beyond=False
    )
    assert ended["finish"] == "stop"


def test_what_stayed_in_the_window_is_counted():
    found, decoder = answers(tiny(), ["abcdefghijklmnopqrstuvw", "ab"], 4, beyond=False)
    assert [f["closed"] for f in found] == [16, 0] and decoder.unquantised == 1


def test_a_broken_model_is_refused():
    model = tiny()
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    for temperature in (0.0, 1.0):
        how = Settings(ratio=1.0, window=8, block=8)
        decoder = Decoder(
            model, Letters(), codebook(model), how, Sampling(temperature=temperature, max_tokens=4), 0, False
        )
        with pytest.raises(BadInput, match="logits hold NaN or infinity after 2 tokens"):
            next(decoder(iter([("0", {"id": "0", "prompt": "ab"})])))


def test_it_stops_at_a_word_and_decodes_no_further(monkeypatch):
    """The stop word ends the decoding, not only the text."""
    model = tiny()
    (free,), _ = answers(model, ["some prompt"], 12, beyond=False)
    seen = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *a, **k: seen.append(1) or forward(*a, **k))
    decoder = Decoder(
        model, Letters(), codebook(model), Settings(ratio=1.0, window=8, block=8, dtype=torch.float32),
        Sampling(temperature=0.0, max_tokens=12, stop=(free["text"].split()[3],)), 0, False,
    )  # fmt: skip
    ((_, found),) = decoder(iter([("0", {"id": "0", "prompt": "some prompt"})]))
    assert found["finish"] == "stop" and len(seen) < 12


@pytest.mark.parametrize("beyond", [False, True])
def test_beyond_the_models_positions_only_when_asked(beyond):
    (found,), _ = answers(tiny(max_position_embeddings=16), ["a prompt of 22 letters"], 4, beyond=beyond)
    assert (found["error"] is None) == beyond
    if not beyond:
        assert "22 tokens and --max-tokens 4 exceed the model's 16 positions" in found["error"]
    json.dumps(found)
