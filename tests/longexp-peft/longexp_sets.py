"""Tokenizers and files of the tests of training sets."""

import pytest
from tiny_models import make_tokenizer

from longexp_peft.dataset import read
from tenfold_shared import BadInput

BPE = make_tokenizer()
VOCAB = 340


def words(template="<s> $A", bos="<s>", eos="</s>"):
    """A WordLevel tokenizer with the special tokens of TEMPLATE: what OPT's and BERT's do, with ids one can read."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {word: i for i, word in enumerate(["<s>", "</s>", "?", *"abcdefghij"])}
    made = Tokenizer(models.WordLevel(vocab, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template:
        made.post_processor = processors.TemplateProcessing(template, special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, **({"bos_token": bos} if bos else {}), eos_token=eos)


WORDS = words()
BARE = words(template="", bos=None)


def load(path, tokenizer=BPE, vocab=VOCAB, max_length=512, **more):
    return read([path] if isinstance(path, str) else path, tokenizer, vocab, max_length=max_length, **more)


def wrong(path, *args, **more):
    with pytest.raises(BadInput) as caught:
        load(path, *args, **more)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500
    return text


def chat(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


TURNS = [("user", "what is one plus two?"), ("assistant", "three"), ("user", "and 你好"), ("assistant", "größer, 😀")]


ALPACA = [
    {"instruction": "add", "input": "one two", "output": "three"},
    {"instruction": "stop", "output": "here"},
    {"instruction": "stop", "input": "", "output": "here", "text": "else"},
    {"text": "Below is.\n### Response:\nthree ### Response: four"},
]
