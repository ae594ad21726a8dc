"""Tiny models with random weights, a real byte-level BPE tokenizer, and the same as a GGUF file."""

import json

import numpy as np

CORPUS = [
    "the quick brown fox jumps over the lazy dog, and then the dog sleeps.",
    "what is one plus two? the answer is three. stop here, or do not stop.",
    "größer, naïve, 你好, 😀 and so on; the end of the text is the end.",
]
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "{{ m.role + ':' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
SHAPE = {
    "vocab_size": 340,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.25,  # wide, so that the likeliest tokens stand apart
}


def make_tokenizer(template=TEMPLATE):
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(CORPUS * 3, vocab_size=340, min_frequency=2, special_tokens=["<eos>"], show_progress=False)
    made = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<eos>")
    made.chat_template = template
    return made


def make_lm(kind="llama", cls=None, **more):
    import torch
    import transformers

    torch.manual_seed(0)
    if kind == "llama":
        return (cls or transformers.LlamaForCausalLM)(transformers.LlamaConfig(**{**SHAPE, **more})).eval()
    if kind == "sliding":
        config = transformers.MistralConfig(**SHAPE, sliding_window=6, head_dim=8)
        return transformers.MistralForCausalLM(config).eval()
    config = transformers.GPT2Config(
        vocab_size=340, n_positions=256, n_embd=32, n_layer=2, n_head=4, initializer_range=0.25
    )
    return transformers.GPT2LMHeadModel(config).eval()


def save_model(folder, **more):
    """A model folder; returns its path."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    make_lm(**more).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


GGUF_SHAPE = {"hidden": 64, "ffn": 96, "layers": 2, "heads": 4, "kv": 2}


def save_gguf(path, seed=0):
    """A llama GGUF file, its matrices in Q8_0 as real files have them; returns its path."""
    import gguf

    shape, tokenizer = GGUF_SHAPE, make_tokenizer()
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(shape["layers"])
    writer.add_context_length(128)
    writer.add_embedding_length(shape["hidden"])
    writer.add_feed_forward_length(shape["ffn"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(shape["hidden"] // shape["heads"])
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token == "<eos>" else 1 for token in tokens])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    writer.add_chat_template(TEMPLATE)
    rng = np.random.default_rng(seed)
    kind = gguf.GGMLQuantizationType.Q8_0

    def matrix(name, rows, columns):
        values = rng.normal(0, 0.2, (rows, columns)).astype(np.float32)
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)

    def norm(name):
        writer.add_tensor(f"{name}.weight", rng.normal(1, 0.1, shape["hidden"]).astype(np.float32))

    hidden, small = shape["hidden"], shape["hidden"] * shape["kv"] // shape["heads"]
    matrix("token_embd", len(tokens), hidden)
    norm("output_norm")
    matrix("output", len(tokens), hidden)
    for layer in range(shape["layers"]):
        at = f"blk.{layer}"
        for name, rows, columns in (
            ("attn_q", hidden, hidden),
            ("attn_k", small, hidden),
            ("attn_v", small, hidden),
            ("attn_output", hidden, hidden),
            ("ffn_gate", shape["ffn"], hidden),
            ("ffn_up", shape["ffn"], hidden),
            ("ffn_down", hidden, shape["ffn"]),
        ):
            matrix(f"{at}.{name}", rows, columns)
        norm(f"{at}.attn_norm")
        norm(f"{at}.ffn_norm")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rebase(adapter, base):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": base}))
