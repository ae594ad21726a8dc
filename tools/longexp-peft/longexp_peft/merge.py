"""`longexp-peft merge`: a base model and an adapter as one model folder, where that is possible.

lora and bitfit go into the weights. A prefix, virtual tokens and bottleneck adapters are no change of weights: they are refused with
what to use instead.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

from longexp_peft import needs
from longexp_peft.work import ours as is_ours
from tenfold_shared import BadInput
from tenfold_shared.jsonl import Lock
from tenfold_shared.redaction import redact


def with_adapter(model: Any, uri: str, adapter: str) -> Any:
    """A base model, read from URI, with an adapter of any of our methods, or of peft, in it. Raises BadInput."""
    folder = Path(adapter)
    if (folder / "adapter.json").exists():
        from longexp_peft.methods import load_adapter

        return load_adapter(model, folder)
    if not (folder / "adapter_config.json").exists():
        raise BadInput(
            f"{adapter}: no adapter: expected adapter_config.json (peft) or adapter.json (bottlenecks) in it"
        )
    import peft
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of what is missing, and goes on
            made = peft.PeftModel.from_pretrained(model, str(folder)).eval()
        file = load_file(folder / "adapter_model.safetensors")
    except (ValueError, RuntimeError, KeyError, OSError, TypeError, SafetensorError) as error:
        raise BadInput(f"{adapter}: does not fit {uri}, or is damaged: {' '.join(str(error).split())[:200]}") from None
    if hasattr(
        made.base_model, "peft_config"
    ):  # of weights: every tensor of the file has its place, and every place its tensor
        has = peft.get_peft_model_state_dict(made)
        if apart := sorted(set(file) ^ set(has)):
            raise BadInput(
                f"{adapter}: is for another model than {uri}: {len(apart)} tensors have no counterpart, {apart[0]} first"
            )
    return made


def run(
    adapter: str,
    *,
    uri: str | None,
    dtype: str,
    device: str,
    trust_remote_code: bool,
    output: str | None,
    overwrite: bool,
    quiet: bool,
) -> int:
    """The verb; returns the exit code."""
    if output in (None, "-"):
        raise BadInput("merge: expected -o DIR, a folder for the model")
    target = Path(str(output))
    if target.exists() and any(target.iterdir() if target.is_dir() else [target]):
        ours = target.is_dir() and is_ours(target, "merge")
        if not overwrite or not ours:
            raise BadInput(
                f"{target}: exists{'; --overwrite replaces it' if ours else ' and is no model of `merge`; choose another output'}"
            )
    if not target.absolute().parent.is_dir():
        raise BadInput(f"{target}: the folder {target.absolute().parent} does not exist; create it first")
    folder = Path(adapter)
    if (folder / "adapter.json").exists():
        raise BadInput(
            f"{adapter}: bottleneck adapters have a non-linearity and are no change of weights; load them with longexp_peft.load_adapter"
        )
    lock = Lock(target.with_name(f".{target.name}.lock"), target)
    try:
        uri = uri or base_of(folder)
        model, tokenizer = needs.load(uri, dtype, device, trust_remote_code)
        made = with_adapter(model, uri, adapter)
        kind = str(made.active_peft_config.peft_type).rsplit(".", 1)[-1]
        if kind != "LORA":
            raise BadInput(
                f"{adapter}: {kind.lower()} is no change of weights; serve it with peft, which reads the folder as it is"
            )
        merged = made.merge_and_unload()
        beside = target.with_name(f".{target.name}.tmp")
        shutil.rmtree(beside, ignore_errors=True)
        merged.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        told = {
            "schema": "manifest/1",
            "tool": "longexp-peft",
            "verb": "merge",
            "base": uri,
            "adapter": adapter,
            "argv": [redact(w) for w in sys.argv],
        }
        (beside / "manifest.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        os.replace(beside, target)
    finally:
        lock.release()
    if not quiet:
        print(f"longexp-peft: {output}: {uri} with {adapter} in its weights", file=sys.stderr)
    return 0


def base_of(folder: Path) -> str:
    """The base model that an adapter names. Raises BadInput."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder; expected an adapter")
    for name, field in (("adapter_config.json", "base_model_name_or_path"), ("adapter.json", "base_model")):
        try:
            found = json.loads((folder / name).read_bytes()).get(field)
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
        if found:
            return str(found)
    raise BadInput(f"{folder}: no adapter with the name of its base model; give it with --model")
