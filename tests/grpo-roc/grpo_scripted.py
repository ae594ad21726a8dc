"""A model that says what a test wants: the next token hangs on the last one alone, with the chances that are given. Its weights are set by hand; attention and feed-forward layers add nothing until they are
trained. So a test knows how often each trajectory comes, and no training is needed before."""

import math
from pathlib import Path

import torch
from grpo_models import CHATML
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WIDTH = 64
END = "<|im_end|>"
HEADER = "\n"  # what a turn after a tool's response begins behind
OPENED = ">"  # the last byte of the opened <reason>


def tokenizer_of(pieces):
    """Bytes, and each of the pieces as one token."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={symbol: k for k, symbol in enumerate(symbols)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_tokens([piece for piece in pieces if len(piece) > 1 and piece != END])
    found = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=END, additional_special_tokens=["<|im_start|>"], clean_up_tokenization_spaces=False
    )  # fmt: skip
    found.chat_template = CHATML
    return found


def scripted(folder, chances, positions=8192, rows=None):
    """Writes model and tokenizer to FOLDER. chances: {a token: {the next one: its chance}}, tokens as texts; after any other token all are about as likely. rows: of the embedding, where they are to be fewer or
    more than the tokens."""
    folder = Path(folder)
    pieces = list(dict.fromkeys([*chances, *(after for each in chances.values() for after in each)]))
    tokenizer = tokenizer_of(pieces)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=rows or len(tokenizer), hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=positions, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embedding, head = model.model.embed_tokens.weight, model.lm_head.weight
        embedding.zero_()
        embedding[:, WIDTH - 1] = 1.0
        head.zero_()
        assert len(chances) < WIDTH
        for k, (token, after) in enumerate(chances.items()):
            row = tokenizer.convert_tokens_to_ids(shown(token))
            embedding[row] = 0.0
            embedding[row, k] = 1.0  # of which the last norm makes the root of WIDTH
            head[:, k] = -30.0 / math.sqrt(WIDTH)
            for other, chance in after.items():
                head[tokenizer.convert_tokens_to_ids(shown(other)), k] = math.log(chance) / math.sqrt(WIDTH)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def shown(token):
    """A single byte as its symbol."""
    if len(token) > 1:
        return token
    return pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(token)[0][0]


def answering(**chances):
    """Says one of these answers, each with its chance, and nothing else."""
    opens, closes = "</reason><answer>\\boxed{", "}</answer>"
    return {OPENED: {opens: 1.0}, opens: chances, **{word: {closes: 1.0} for word in chances}, closes: {END: 1.0}}
