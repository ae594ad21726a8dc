"""A model small enough to be trained in seconds, and what it is to learn first: `python tests/pipelines/small_policy.py FOLDER`.

    FOLDER/base               a Llama of two layers, untrained. What every conversation repeats is one token each, so that some hundred
                              updates are enough to speak
    FOLDER/transcripts.jsonl  conversations that `grpo-roc sft` teaches it: sums of two digits, worked out by a program
    FOLDER/sums.jsonl         the problems, as task records

curriculum.sh and rollouts.sh use it in place of a policy of your own. In every third transcript the program is wrong at first and
is called again, so that there are failed calls for Resample-on-Correct to choose by.
"""

import json
import random
import sys
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from grpo_roc.dialogue import PYTHON, SYSTEM, USER
from tenfold_shared.models import ensure_smollm2

TEXTS = "tools/keychain-synth/examples/musique.jsonl"
TOOL = PYTHON["function"]["name"]
BEGUN = f'<tool_call>\n{{"name": "{TOOL}", "arguments": {{"code": "print('
ENDED = ')", "input": ""}}\n</tool_call>'
FAILED = {"status": "error", "stdout": "", "stderr": "SyntaxError: invalid syntax\n"}
PHRASES = [
    SYSTEM.format(tools=json.dumps(PYTHON)), USER.format(problem=""), "What is ", "<reason>", "</reason>", BEGUN, ENDED, "<tool_response>\n", "\n</tool_response>",
    "<answer>\\boxed{", "}</answer>", " + ",
]  # fmt: skip


def call(inner: str, stdout: str | None, before: str = "") -> dict[str, object]:
    """A turn with one call, which failed where it printed nothing."""
    ran = FAILED if stdout is None else {"status": "ok", "stdout": stdout, "stderr": ""}
    arguments = {"code": f"print({inner})", "input": ""}
    return {"text": before + BEGUN + inner + ENDED, "calls": [{"name": TOOL, "arguments": arguments, **ran}]}


def transcripts(number: int) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """The problems, and conversations about them."""
    sums = [(a, b) for a in range(1, 10) for b in range(1, 10) if a + b < 10]
    told, chance = [], random.Random(0)
    for k in range(number):
        a, b = chance.choice(sums)
        turns = [call(f"{a} + ", None, "</reason>")] if k % 3 == 0 else []
        turns.append(call(f"{a} + {b}", f"{a + b}\n", "" if turns else "</reason>"))
        turns.append({"text": f"<answer>\\boxed{{{a + b}}}</answer>", "calls": []})
        told.append({"id": str(k), "prompt": f"What is {a} + {b}?", "answer": str(a + b), "turns": turns})
    return [{"id": f"{a}+{b}", "prompt": f"What is {a} + {b}?", "answer": str(a + b)} for a, b in sums], told


def tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Bytes and their frequent pairs; a token for each phrase, and for each digit, as the model is to copy them."""
    inner = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    inner.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    inner.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1024, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    inner.add_tokens([AddedToken(phrase, normalized=False) for phrase in PHRASES])
    found = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=special[1], eos_token=special[2], pad_token=special[0]
    )
    found.chat_template = (ensure_smollm2() / "chat_template.jinja").read_text()
    return found


def main(folder: Path) -> None:
    logging.disable_progress_bar()
    tasks, told = transcripts(640)
    folder.mkdir(parents=True, exist_ok=True)
    for name, records in (("sums", tasks), ("transcripts", told)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    made = tokenizer([Path(TEXTS).read_text()])
    made.save_pretrained(folder / "base")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(made), hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=4096, tie_word_embeddings=True,
        bos_token_id=made.bos_token_id, eos_token_id=made.eos_token_id, pad_token_id=made.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "base")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
