"""`antkv generate`, in process: how an answer ended, and what its cache was."""

import json

import pytest
import torch
from ant_models import codebook, tiny

from antkv.cache import Settings
from antkv.generate import Decoder
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


@pytest.mark.parametrize("beyond", [False, True])
def test_beyond_the_models_positions_only_when_asked(beyond):
    (found,), _ = answers(tiny(max_position_embeddings=16), ["a prompt of 22 letters"], 4, beyond=beyond)
    assert (found["error"] is None) == beyond
    if not beyond:
        assert "22 tokens and --max-tokens 4 exceed the model's 16 positions" in found["error"]
    json.dumps(found)
