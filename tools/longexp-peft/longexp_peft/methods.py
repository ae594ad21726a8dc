"""The five ways to fine-tune, as they are attached to a model and written to disk.

lora, prefix and ptuning are peft's own modules and are saved by peft, under its own keys. bitfit trains every bias; what peft can hold
of it is a LoRA of rank 1 that is zero, with `bias: all`. adapter is a bottleneck of two matrices behind each attention and
feed-forward part (Houlsby et al. 2019; width 64, GELU, deviation 1e-3, residual, as the paper's experiments set it), which peft does
not know: it has its own files and `load_adapter`.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from longexp_peft import shape
from longexp_peft.attention import Past
from longexp_peft.bundle import reorder
from longexp_peft.sparse import Prompt
from tenfold_shared import BadInput
from tenfold_shared.jsonl import write_atomic

METHODS = ("lora", "adapter", "bitfit", "prefix", "ptuning")
ADAPTER = "longexp-adapter/1"


class Method(msgspec.Struct, frozen=True):
    """How a model is made trainable; the defaults are the paper's experiments' (LoRA r 4, alpha 32, on q_proj and v_proj; bottleneck
    64; prefix of 128). targets: names of matrices for LoRA, () for the query and value projections."""

    name: str = "lora"
    rank: int = 4
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    bottleneck: int = 64
    virtual_tokens: int = 128
    encoder_hidden: int | None = None  # of the networks that make a prefix or virtual tokens; d by default
    seed: int = 0


class Tuned:
    """A model with something to train. `model`: the transformers model, as `Sparse` wants it; `parameters`: what trains, by name;
    `prompt()`: what precedes documents, made anew for each row, as it trains."""

    def __init__(self, model: Any, how: Method, peft: Any | None, base_name: str) -> None:
        self.model, self.how, self.peft, self.base_name = model, how, peft, base_name
        outer = model if peft is None else peft
        self.parameters: dict[str, nn.Parameter] = {n: p for n, p in outer.named_parameters() if p.requires_grad}
        self.orders: list[Tensor] = []  # of the layers, where they are reordered

    @property
    def first(self) -> int:
        """The lowest layer that has something to train: below it there is no backward."""
        if self.how.name in ("prefix", "ptuning"):
            return 0
        found = []
        for number, layer in enumerate(shape.layers(self.model)):
            if any(p.requires_grad for p in layer.parameters()):
                found.append(number)
        return min(found, default=0)

    def prompt(self) -> Prompt | None:
        if self.how.name == "prefix":
            assert self.peft is not None
            cache = self.peft.get_prompt(batch_size=1)
            return Prompt(self.how.virtual_tokens, past=[Past(one.keys, one.values) for one in cache.layers])
        if self.how.name == "ptuning":
            assert self.peft is not None
            return Prompt(self.how.virtual_tokens, embeds=self.peft.get_prompt(batch_size=1)[0])
        return None

    def reorder(self, orders: Sequence[Tensor]) -> None:
        """Lay a bundle's order of neurons on the model, before anything is trained or with what is."""
        for ffn, order in zip(shape.feed_forwards(self.model), orders, strict=True):
            reorder(ffn, order)
        self.orders = list(orders)

    # ------------------------------------------------------------ on disk

    def save(self, folder: Path, extra: dict[str, bytes] | None = None) -> None:
        """The adapter as a folder, whole or not at all: written beside and renamed. An existing folder is replaced."""
        beside = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        self._write(beside)
        for name, data in (extra or {}).items():
            write_atomic(beside / name, data)
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.replace(folder, old)
        os.replace(beside, folder)
        shutil.rmtree(old, ignore_errors=True)

    def _write(self, folder: Path) -> None:
        if self.how.name == "adapter":
            save_adapter(self.model, folder, self.how, self.base_name)
            return
        assert self.peft is not None
        for config in self.peft.peft_config.values():
            config.base_model_name_or_path = self.base_name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of vocabularies it cannot look up
            more = {"state_dict": self.natural()} if self.how.name in ("lora", "bitfit") else {}
            self.peft.save_pretrained(folder, save_embedding_layers=False, **more)
        (folder / "README.md").unlink(missing_ok=True)  # a card of blanks to be filled in
        if self.how.name == "bitfit":
            told = {"schema": "longexp-bitfit/1", "biases": sorted(n for n in self.parameters if "lora_" not in n)}
            write_atomic(folder / "bitfit.json", json.dumps(told, indent=1).encode() + b"\n")

    @torch.no_grad()
    def natural(self) -> dict[str, Tensor]:
        """What an adapter is made of, by name in the peft model, with the neurons where the base model has them. Copies: the model
        stays as it is, sharded or not."""
        assert self.peft is not None
        found = {
            name: p.detach().cpu().clone() for name, p in self.peft.named_parameters()
            if name in self.parameters or "lora_" in name or (self.how.name == "bitfit" and name.endswith("bias"))
        }  # fmt: skip
        names = {id(p): name for name, p in self.peft.named_parameters()}
        for ffn, order in zip(shape.feed_forwards(self.model), self.orders, strict=False):
            back = order.argsort().cpu()
            for module, first in ((ffn.up, True), (ffn.gate, True), (ffn.down, False)):
                if module is None:
                    continue
                for part in (getattr(module, "lora_B" if first else "lora_A", None) or {}).values():
                    name = names[id(part.weight)]
                    found[name] = found[name][back] if first else found[name][:, back]
                bias: Any = shape.bias(module) if first else None
                if bias is not None and names[id(bias)] in found:
                    found[names[id(bias)]] = found[names[id(bias)]][back]
        return {name: x.contiguous() for name, x in found.items()}


def attach(model: Any, how: Method, base_name: str) -> Tuned:
    """Make a frozen model trainable by a method. Raises BadInput for a method that the model cannot take."""
    if how.name not in METHODS:
        raise BadInput(f"--method {how.name}: expected one of {', '.join(METHODS)}")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    # Initial values follow from the seed alone, whatever the caller drew before.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        if how.name == "adapter":
            insert_adapters(model, how.bottleneck)
            return Tuned(model, how, None, base_name)
        return Tuned(model, how, _peft(model, how), base_name)


def _peft(model: Any, how: Method) -> Any:
    import peft

    if how.name in ("lora", "bitfit"):
        targets = list(how.targets) or default_targets(model)
        known = {name.rsplit(".", 1)[-1] for name, _ in shape.plain(model).named_modules()}
        missing = [name for name in targets if name not in known]
        inside = {name.rsplit(".", 1)[-1] for name, _ in shape.layers(model).named_modules()}
        if outside := [name for name in targets if name in known and name not in inside]:
            raise BadInput(
                f"--target-modules: {', '.join(outside)} is outside the decoder's layers and would not be trained"
            )
        if missing:
            raise BadInput(
                f"--target-modules: the model has no {', '.join(missing)}; it has {', '.join(sorted(_matrices(model)))}"
            )
        if how.name == "bitfit":
            if not any(name.endswith("bias") for name, _ in model.named_parameters()):
                raise BadInput(f"--method bitfit: {shape.kind(model)} has no biases to train; use lora")
            config: Any = peft.LoraConfig(
                r=1, lora_alpha=1, target_modules=targets[:1], bias="all", task_type="CAUSAL_LM",
                fan_in_fan_out=_stored_in_out(model, targets),
            )  # fmt: skip
        else:
            alpha: Any = how.alpha  # peft says whole number, and takes any
            config = peft.LoraConfig(
                r=how.rank, lora_alpha=alpha,
                lora_dropout=how.dropout, target_modules=targets, task_type="CAUSAL_LM",
                fan_in_fan_out=_stored_in_out(model, targets),
            )  # fmt: skip
    elif how.name == "prefix":
        config = peft.PrefixTuningConfig(
            num_virtual_tokens=how.virtual_tokens, prefix_projection=True, task_type="CAUSAL_LM",
            encoder_hidden_size=how.encoder_hidden or model.config.get_text_config().hidden_size,
        )  # fmt: skip
    else:
        config = peft.PromptEncoderConfig(
            num_virtual_tokens=how.virtual_tokens, task_type="CAUSAL_LM",
            token_dim=model.get_input_embeddings().weight.shape[1],  # OPT-350m's words are narrower than its layers
            encoder_hidden_size=how.encoder_hidden or model.config.get_text_config().hidden_size,
        )  # fmt: skip
    try:
        made = peft.get_peft_model(model, config)
    except (ValueError, TypeError, AttributeError) as error:
        raise BadInput(
            f"--method {how.name}: peft cannot attach it to {shape.kind(model)}: {' '.join(str(error).split())[:200]}"
        ) from None
    if how.name == "bitfit":
        for name, parameter in made.named_parameters():
            parameter.requires_grad_(name.endswith("bias") and "lora_" not in name)
        head = shape.plain(made).get_output_embeddings()
        if getattr(head, "bias", None) is not None:
            head.bias.requires_grad_(False)  # the loss is made past it
    return made


def _stored_in_out(model: Any, targets: Sequence[str]) -> bool:
    """Whether the matrices are stored as GPT-2's are, which peft wants to be told."""
    return any(shape.is_conv(module) for name, module in model.named_modules() if name.rsplit(".", 1)[-1] in targets)


def _matrices(model: Any) -> set[str]:
    layer = shape.layers(model)[0]
    return {n.rsplit(".", 1)[-1] for n, m in layer.named_modules() if isinstance(m, nn.Linear) or shape.is_conv(m)}


def default_targets(model: Any) -> list[str]:
    """The query and value projections, or the one matrix that holds them. Raises BadInput."""
    has = _matrices(model)
    for names in (["q_proj", "v_proj"], ["query", "value"], ["c_attn"], ["query_key_value"], ["qkv_proj"]):
        if set(names) <= has:
            return names
    raise BadInput(f"--target-modules: name the matrices for LoRA; the model's layers have {', '.join(sorted(has))}")


# ---------------------------------------------------------------- adapters of our own


class Bottleneck(nn.Module):
    """y + up(gelu(down(y))), down (w, d) and up (d, w) with biases."""

    def __init__(self, hidden: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.down = nn.Linear(hidden, width, dtype=dtype, device=device)
        self.up = nn.Linear(width, hidden, dtype=dtype, device=device)
        for one in (self.down, self.up):
            nn.init.normal_(one.weight, std=1e-3)
            nn.init.zeros_(one.bias)

    def forward(self, y: Tensor) -> Tensor:
        return y + self.up(nn.functional.gelu(self.down(y)))


def insert_adapters(model: Any, width: int) -> None:
    """A bottleneck behind each attention and feed-forward part of every layer. Raises BadInput where the model has some already."""
    hidden = model.config.get_text_config().hidden_size
    attention = dict(shape.attention_modules(model))
    for ffn in shape.feed_forwards(model):
        layer = shape.layers(model)[ffn.layer]
        if hasattr(layer, "longexp_attention"):
            raise BadInput("the model has adapters already")
        weight = shape.neuron_major(ffn.up, True)
        dtype = torch.float32 if weight.dtype in (torch.float16, torch.bfloat16) else weight.dtype
        for name, module in (("longexp_attention", attention[ffn.layer]), ("longexp_ffn", ffn.fused or ffn.down)):
            made = Bottleneck(hidden, width, dtype, weight.device)
            layer.add_module(name, made)
            module.register_forward_hook(_through(made))


def _through(bottleneck: Bottleneck) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        y = output[0] if isinstance(output, tuple) else output
        y = bottleneck(y.to(bottleneck.down.weight.dtype)).to(y.dtype)
        return (y, *output[1:]) if isinstance(output, tuple) else y

    return hook


def save_adapter(model: Any, folder: Path, how: Method, base_name: str) -> None:
    from safetensors.torch import save

    found = {}
    for number, layer in enumerate(shape.layers(model)):
        for part in ("attention", "ffn"):
            for name, x in getattr(layer, f"longexp_{part}").named_parameters():
                found[f"layers.{number}.{part}.{name}"] = x.detach().cpu().contiguous()
    told = {
        "schema": ADAPTER,
        "bottleneck": how.bottleneck,
        "layers": len(shape.layers(model)),
        "base_model": base_name,
    }
    write_atomic(folder / "adapter.safetensors", save(found))
    write_atomic(folder / "adapter.json", json.dumps(told, indent=1).encode() + b"\n")


def load_adapter(model: Any, folder: str | Path) -> Any:
    """MODEL, a transformers causal model, with the bottleneck adapters of `train --method adapter` in it. Raises BadInput."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(folder)
    try:
        told = json.loads((path / "adapter.json").read_bytes())
        found = load_file(path / "adapter.safetensors")
    except (OSError, ValueError, SafetensorError, RecursionError) as error:
        raise BadInput(
            f"{folder}: no adapter of `longexp-peft train --method adapter` ({' '.join(str(error).split())[:200]})"
        ) from None
    if told.get("schema") != ADAPTER or told["layers"] != len(shape.layers(model)):
        raise BadInput(
            f"{folder}: is for a model of {told.get('layers')} layers, this one has {len(shape.layers(model))}"
        )
    insert_adapters(model, int(told["bottleneck"]))
    with torch.no_grad():
        for number, layer in enumerate(shape.layers(model)):
            for part in ("attention", "ffn"):
                for name, x in getattr(layer, f"longexp_{part}").named_parameters():
                    kept = found.pop(f"layers.{number}.{part}.{name}", None)
                    if kept is None or kept.shape != x.shape:
                        raise BadInput(
                            f"{folder}: layers.{number}.{part}.{name}: missing, or of another shape; it is for another model"
                        )
                    x.copy_(kept)
    if found:
        raise BadInput(f"{folder}: holds {len(found)} tensors that this model has no place for")
    return model
