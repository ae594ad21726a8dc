"""A tiny model as a folder, with texts and gates for it: what the verbs' tests begin with."""

import json
import random

import pytest
import torch
from tiny_models import save_model

torch.set_num_threads(1)  # tiny models: threads would wait for each other, and for the other worker's
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "and", "then", "stop", "answer"]


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A random model of 2 layers, 4 query heads on 2 stored ones, and texts beside it."""
    made = tmp_path_factory.mktemp("seer") / "model"
    save_model(made, max_position_embeddings=2048, head_dim=8)
    draw = random.Random(0)
    lines = [json.dumps({"text": " ".join(draw.choices(WORDS, k=draw.randrange(20, 150)))}) for _ in range(60)]
    (made / "text.jsonl").write_text("\n".join(lines) + "\n")
    (made / "text.txt").write_text(" ".join(draw.choices(WORDS, k=3000)))
    return made


@pytest.fixture(scope="session")
def gates(model, tmp_path_factory):
    """Gates of two sizes of blocks, barely trained."""
    from seer_models import here

    made = tmp_path_factory.mktemp("gates")
    for block in (16, 32):
        done = here(
            "distill", model / "text.jsonl", "--model", model, "--block", block, "--steps", 6, "--length", 256, "--lr", 0.01,
            "--warmup", 1, "-o", made / str(block), "-q",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    return made
