"""What a verb cannot do without, told before it begins: libraries, pictures' names, a model in a type that can be trained."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tenfold_shared import BadInput, Missing, unread


def models() -> None:
    """Raises Missing where torch, transformers, peft or safetensors is not installed."""
    wanted = ("torch", "transformers", "peft", "safetensors")
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise Missing(f"{', '.join(missing)}: not installed: pip install 'longexp-peft[hf]'")


def plots(path: str | None, others: Sequence[str | None] = ()) -> None:
    """Raises BadInput for a picture of another kind, in no folder, or in the place of another file of the command; Missing without
    matplotlib."""
    if path is None:
        return
    if not path.endswith((".png", ".svg")):
        raise BadInput(f"--plot {path}: expected a name ending in .png or .svg")
    if not Path(path).absolute().parent.is_dir():
        raise BadInput(f"--plot {path}: the folder {Path(path).absolute().parent} does not exist; create it first")
    if any(other and Path(other).resolve() == Path(path).resolve() for other in others):
        raise BadInput(f"--plot {path}: is an input or the output as well; choose another name")
    if importlib.util.find_spec("matplotlib") is None:
        raise Missing("matplotlib is not installed: pip install 'longexp-peft[plot]'")


def load(uri: str, dtype: str, device: str, trust_remote_code: bool) -> tuple[Any, Any]:
    """A model and its tokenizer, with dropout switched off. float16 becomes bfloat16 where the type was not asked for: OPT's losses
    overflow in float16. Raises BadInput, Missing."""
    import torch

    from tenfold_shared.models import load_causal_lm

    if uri.startswith(("http:", "https:", "replay:", "vllm:")):
        raise BadInput(f"--model {uri}: weights are needed; expected smollm2, a folder, a GGUF file or a hub id")
    model, tokenizer = load_causal_lm(uri, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    if hasattr(model, "peft_config"):
        raise BadInput(
            f"--model {uri}: is an adapter; give the base model, or make one of both with `longexp-peft merge`"
        )
    if model.dtype == torch.float16 and dtype == "auto":
        print(
            "longexp-peft: the checkpoint is float16, in which losses overflow: read as bfloat16 (--dtype says otherwise)",
            file=sys.stderr,
        )
        model = model.to(torch.bfloat16)
    return model, tokenizer


def chat_template(tokenizer: Any, path: str | None) -> None:
    """Give a tokenizer the template of a file. Raises BadInput."""
    if path is None:
        return
    try:
        tokenizer.chat_template = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise unread(f"--chat-template {path}", error) from None
    except UnicodeDecodeError as error:
        raise BadInput(f"--chat-template {path}: expected UTF-8: {error.reason} at byte {error.start}") from None


def positions(model: Any) -> int:
    """Tokens a document may have."""
    found = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(found) if found else 1 << 30


def vocabulary(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])
