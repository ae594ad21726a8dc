"""A tiny model as a folder, with a text and a codebook for it: what the verbs' tests begin with."""

import random

import pytest
from ant_models import antkv, tiny

WORDS = ["river", "stone", "the", "of", "a", "bridge", "over", "light", "and", "old"]
TEXT = " ".join(random.Random(0).choices(WORDS, k=9000))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny model as a folder with a tokenizer of words and a chat template, and a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = tmp_path_factory.mktemp("model")
    words = sorted(set(WORDS))
    tokens = Tokenizer(models.WordLevel({word: at for at, word in enumerate(["<unk>", *words])}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokens, unk_token="<unk>", pad_token="<unk>",
        chat_template="{% for m in messages %}{{ m['content'] }} {% endfor %}",
    ).save_pretrained(made)  # fmt: skip
    tiny(vocab_size=len(words) + 1, eos_token_id=None, bos_token_id=None).save_pretrained(made)
    (made / "text.txt").write_text(TEXT)
    return made


@pytest.fixture(scope="session")
def books(folder, tmp_path_factory):
    """Codebooks for it: weighted, and plain."""
    made = {}
    for name, more in (("codebook", []), ("plain", ["--weights", "none", "--leave-out", 0])):
        made[name] = tmp_path_factory.mktemp("books") / f"{name}.safetensors"
        done = antkv(
            "calibrate", folder / "text.txt", "--model", folder, "--dim", 4, "--centroids", 16, "--tokens", 2048, "--length",
            128, "-o", made[name], "-q", *more,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    return made
