"""Where a model keeps its feed-forward layers: which modules, what activation, how neurons lie in memory.

A neuron j is row j of the first matrix, its bias, and column j of the second. Known are plain layers (up, activation, down) and
gated ones (gate, up, down), by the names that transformers' models give them. Everything else of this tool asks here and never
looks at a model itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tenfold_shared import BadInput

# (up, gate or None, down, activation), as attributes of the holder: the layer itself, or its `mlp`.
NAMES = (
    ("fc1", None, "fc2", "activation_fn"),  # OPT, on the layer; Phi
    ("up_proj", "gate_proj", "down_proj", "act_fn"),  # Llama and most others
    ("up_proj", None, "down_proj", "act_fn"),  # Nemotron, Arcee
    ("c_fc", None, "c_proj", "act"),  # GPT-2, whose matrices are stored the other way round
    ("dense_h_to_4h", None, "dense_4h_to_h", "act"),  # GPT-NeoX, Persimmon
    ("w1", "w3", "w2", "act_fn"),
)


class Ffn(NamedTuple):
    """One feed-forward layer: `holder` has the modules by the names; `fused` is the module whose forward is the whole of it, None
    where a decoder layer calls the matrices itself, as OPT's does."""

    layer: int
    holder: nn.Module
    names: tuple[str, str | None, str, str]
    fused: nn.Module | None
    activation: str  # relu, relu2, silu, gelu, other
    hidden: int
    width: int

    @property
    def up(self) -> nn.Module:
        return getattr(self.holder, self.names[0])

    @property
    def gate(self) -> nn.Module | None:
        return getattr(self.holder, self.names[1]) if self.names[1] else None

    @property
    def down(self) -> nn.Module:
        return getattr(self.holder, self.names[2])

    @property
    def act(self) -> Any:
        return getattr(self.holder, self.names[3])

    @property
    def first(self) -> nn.Module:
        """The module whose outputs the activation sees."""
        return self.gate or self.up

    @property
    def zeros(self) -> bool:
        """Whether the activation gives exact zeros."""
        return self.activation in ("relu", "relu2")

    @property
    def after(self) -> nn.Module | None:
        """A dropout that the layer applies to its result."""
        found = getattr(self.fused, "dropout", None) if self.fused is not None else None
        return found if isinstance(found, nn.Dropout) and found.p > 0 else None


def plain(model: Any) -> Any:
    """The transformers model in a peft model, or itself."""
    found = getattr(model, "get_base_model", None)
    return found() if found is not None else model


def decoder(model: Any) -> Any:
    """The part of a causal model that ends before its head, as its own forward calls it."""
    return plain(model).base_model


def layers(model: Any) -> nn.ModuleList:
    """The decoder's layers. Raises BadInput."""
    count = plain(model).config.get_text_config().num_hidden_layers
    for module in decoder(model).modules():
        if isinstance(module, nn.ModuleList) and len(module) == count and not isinstance(module[0], nn.Linear):
            return module
    raise BadInput(f"{kind(model)}: its decoder layers were not found")


def kind(model: Any) -> str:
    return str(plain(model).config.get_text_config().model_type)


def feed_forwards(model: Any) -> list[Ffn]:
    """Every layer's feed-forward part, in order. Raises BadInput for layers of another build, experts among them."""
    found = []
    for number, layer in enumerate(layers(model)):
        one = _of(number, layer)
        if one is None:
            raise BadInput(
                f"{kind(model)}: layer {number}: no feed-forward layer of known names (fc1/fc2, gate_proj/up_proj/down_proj, c_fc/"
                "c_proj, dense_h_to_4h/dense_4h_to_h) was found; mixtures of experts are not supported"
            )
        found.append(one)
    return found


def _of(number: int, layer: nn.Module) -> Ffn | None:
    inner = next((getattr(layer, name) for name in ("mlp", "feed_forward") if hasattr(layer, name)), None)
    for holder, fused in ((layer, None), (inner, inner)):
        if holder is None:
            continue
        for names in NAMES:
            if all(name is None or hasattr(holder, name) for name in names):
                width, hidden = neuron_major(getattr(holder, names[0]), True).shape
                act = activation(getattr(holder, names[3]))
                return Ffn(number, holder, names, fused, act, hidden, width)
    return None


def activation(function: Any) -> str:
    """relu, relu2, silu or gelu by its values, else other."""
    x = torch.tensor([-3.0, -0.5, 0.0, 0.5, 3.0])
    with torch.no_grad():
        y = function(x.clone())
    for name, truth in (
        ("relu", x.relu()), ("relu2", x.relu().square()), ("silu", nn.functional.silu(x)), ("gelu", nn.functional.gelu(x)),
        ("gelu", nn.functional.gelu(x, approximate="tanh")),
    ):  # fmt: skip
        if torch.allclose(y, truth, atol=2e-3):
            return name
    return "other"


def base(module: nn.Module) -> nn.Module:
    """The frozen matrix in a LoRA layer of peft, or itself."""
    return getattr(module, "base_layer", module)


def is_conv(module: nn.Module) -> bool:
    """Whether the weight is stored (in, out), as GPT-2's are."""
    return type(base(module)).__name__ == "Conv1D"


def neuron_major(module: nn.Module, first: bool) -> Tensor:
    """The weight as (F, d), a view: rows of the first matrix, or columns of the second."""
    weight: Any = base(module).weight
    return weight if first != is_conv(module) else weight.t()


def lay_out(ffn: Ffn) -> None:
    """Keep every matrix so that a neuron is one contiguous row, with shapes and values as they were: gathers then read whole rows.
    Only the strides change; a product takes them as it takes a transpose."""
    for module, first in ((ffn.up, True), (ffn.gate, True), (ffn.down, False)):
        if module is None:
            continue
        rows = neuron_major(module, first)
        if not rows.is_contiguous():
            weight: Any = base(module).weight
            kept = rows.detach().contiguous()
            weight.data = kept.t()


def bias(module: nn.Module) -> Tensor | None:
    return getattr(base(module), "bias", None)


class Low(NamedTuple):
    """One active LoRA of a layer: scale · dropout(x) Aᵀ Bᵀ, A (r, in), B (out, r)."""

    a: Tensor
    b: Tensor
    scale: float
    dropout: nn.Module


def low_ranks(module: Any) -> list[Low]:
    """The active LoRA layers of peft on a matrix. Raises BadInput for other kinds of them."""
    if not hasattr(module, "lora_A") or getattr(module, "disable_adapters", False) or getattr(module, "merged", False):
        return []
    found = []
    for name in module.active_adapters:
        if name not in module.lora_A:
            continue
        if getattr(module, "lora_magnitude_vector", None):
            raise BadInput("DoRA on feed-forward layers is not supported; leave them out of --target-modules")
        a, b = module.lora_A[name], module.lora_B[name]
        if getattr(b, "bias", None) is not None:
            raise BadInput("lora_bias on feed-forward layers is not supported; leave them out of --target-modules")
        found.append(Low(a.weight, b.weight, float(module.scaling[name]), module.lora_dropout[name]))
    return found


def attention_modules(model: Any) -> Iterator[tuple[int, nn.Module]]:
    """(layer, the module that calls the attention function)."""
    for number, layer in enumerate(layers(model)):
        for name in ("self_attn", "attn", "attention", "self_attention"):
            if hasattr(layer, name):
                yield number, getattr(layer, name)
                break
        else:
            raise BadInput(f"{kind(model)}: layer {number}: its attention was not found")


def head_dim(model: Any) -> int:
    config = plain(model).config.get_text_config()
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
