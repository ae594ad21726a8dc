"""What calibration knows of a model, in a folder: the neurons' order, static sets, patterns of heads, predictors.

`bundle.json` says which model it is for (a hash of the config and one of some weights), block sizes, and each layer's figures;
`bundle.safetensors` has the tensors. A bundle for another model is refused. Its order is laid on a model in place (`reorder`): rows of
the first matrix, its bias, columns of the second, and of LoRA what goes with them; the function stays, and kept neurons lie together.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from longexp_peft import patterns as pool
from longexp_peft import shape
from longexp_peft.predictor import AttentionLowRank, LowRank, Scorer, Svd
from longexp_peft.shape import Ffn
from tenfold_shared import BadInput
from tenfold_shared.jsonl import write_atomic
from tenfold_shared.records import readable

SCHEMA = "longexp-bundle/1"
Record = dict[str, Any]
KINDS = {"lowrank": LowRank, "svd": Svd}


class _Layer(msgspec.Struct):
    width: int
    static: int
    patterns: list[str]
    fixed: int = 0
    lost: float = 0.0
    floor: float = 0.0


class _Predictor(msgspec.Struct):
    kind: Literal["lowrank", "svd"]
    block: int


class _Info(msgspec.Struct):
    """What is relied upon of bundle.json."""

    model: dict[str, Any]
    attention_block: int
    mass: float
    layers: list[_Layer]
    predictor: _Predictor | None


class Bundle:
    """info: as bundle.json; tensors: by name, `order.L` int32 (F,): which natural neuron stands at each place."""

    def __init__(self, info: Record, tensors: dict[str, Tensor]) -> None:
        self.info, self.tensors = info, tensors
        self.lost = {n: float(one.get("lost", 0.0)) for n, one in enumerate(info["layers"])}  # audits lower these
        self._predictors: dict[int, Scorer] = {}
        self._device: torch.device = torch.device("cpu")

    # ------------------------------------------------------------ on disk

    @classmethod
    def load(cls, folder: str | Path, model: Any | None = None) -> Bundle:
        """Raises BadInput for what is no bundle, or one for another model."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = Path(folder)
        try:
            info = json.loads((path / "bundle.json").read_bytes())
            tensors = load_file(path / "bundle.safetensors")
        except (OSError, ValueError, SafetensorError, RecursionError) as error:
            raise BadInput(
                f"{folder}: no bundle of `longexp-peft calibrate` ({' '.join(str(error).split())[:200]})"
            ) from None
        if not isinstance(info, dict) or info.get("schema") != SCHEMA:
            raise BadInput(
                f"{folder}: bundle.json: expected schema {SCHEMA}, got {info.get('schema') if isinstance(info, dict) else info!r}"
            )
        if info.get("tensors") != digest(tensors):
            raise BadInput(f"{folder}: bundle.json and bundle.safetensors are not of one run; calibrate again")
        try:
            msgspec.convert(info, _Info)
        except msgspec.ValidationError as error:
            raise BadInput(f"{folder}: bundle.json: {readable(error)}") from None
        if lacking := [f"order.{n}" for n in range(len(info["layers"])) if f"order.{n}" not in tensors]:
            raise BadInput(f"{folder}: bundle.safetensors: {lacking[0]}: is not there")
        found = cls(info, tensors)
        if model is not None:
            found.check(model, str(folder))
        return found

    def save(self, folder: Path) -> None:
        """Both files, the tensors first, each whole or not at all."""
        from safetensors.torch import save

        folder.mkdir(exist_ok=True)
        self.info["tensors"] = digest(self.tensors)
        write_atomic(folder / "bundle.safetensors", save({k: x.contiguous() for k, x in self.tensors.items()}))
        write_atomic(folder / "bundle.json", json.dumps(self.info, indent=1).encode() + b"\n")

    def check(self, model: Any, name: str = "bundle") -> None:
        """Raises BadInput for another model; the model must be as loaded, not reordered."""
        mine, its = self.info["model"], identity(model)
        count = len(shape.feed_forwards(model))
        if len(self.info["layers"]) != count:
            raise BadInput(f"{name}: has {len(self.info['layers'])} layers, the model {count}; calibrate again")
        for field, what in (("type", "a model of type"), ("shape", "a model of shape"), ("config", "a config with hash"), ("weights", "weights with hash")):  # fmt: skip
            if mine[field] != its[field] and None not in (mine[field], its[field]):
                raise BadInput(
                    f"{name}: was made for {what} {mine[field]}, this model has {its[field]}; calibrate again"
                )

    def digest(self) -> str:
        """Of all that decides what is skipped: tensors, sets, thresholds, patterns."""
        told = {k: v for k, v in self.info.items() if k not in ("manifest", "version")}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    # ------------------------------------------------------------ what a run asks

    def to(self, device: torch.device) -> Bundle:
        self._device = device
        self.tensors = {k: x.to(device) for k, x in self.tensors.items()}
        self._predictors.clear()
        return self

    @property
    def attention_block(self) -> int:
        return int(self.info["attention_block"])

    def order(self, layer: int) -> Tensor:
        return self.tensors[f"order.{layer}"].long()

    def static(self, layer: int) -> slice:
        return slice(0, int(self.info["layers"][layer]["static"]))

    def needed(self, layer: int) -> slice:
        """As many neurons as 95 in 100 held-out rows needed of the predictor."""
        size = int(self.info["layers"][layer]["fixed"]) * int(self.info["predictor"]["block"])
        return slice(0, min(size, int(self.info["layers"][layer]["width"])))

    def patterns(self, layer: int) -> Tensor | None:
        """A pattern for each head; None where no document was long enough to tell."""
        names = self.info["layers"][layer]["patterns"]
        return torch.tensor(pool.numbers(names)) if names else None

    def predictor(self, layer: int) -> Scorer:
        """Raises BadInput where `predictor train` has not been run."""
        if layer not in self._predictors:
            told = self.info.get("predictor")
            if told is None:
                raise BadInput(
                    "--mode predicted: the bundle has no predictors; run `longexp-peft predictor train BUNDLE DATA` first"
                )
            parts = {k.split(".", 2)[2]: x for k, x in self.tensors.items() if k.startswith(f"predictor.{layer}.")}
            one = self.info["layers"][layer]
            self._predictors[layer] = KINDS[told["kind"]](
                parts, told["block"], one["width"], self.lost[layer], one["fixed"], one.get("floor", 0.0)
            )
        found = self._predictors[layer]
        found.lost = self.lost[layer]
        return found

    def attention_predictor(self, layer: int) -> AttentionLowRank:
        parts = {k.split(".", 2)[2]: x for k, x in self.tensors.items() if k.startswith(f"attention.{layer}.")}
        if not parts:
            raise BadInput(
                "--attention blocks: the bundle has no attention predictors (documents of 4 blocks or more train them)"
            )
        return AttentionLowRank(parts, float(self.info["mass"]))


def identity(model: Any) -> Record:
    """type, shape, and hashes of a model's config and of some 256 numbers of every matrix (None of float16, which rounds others)."""
    config = shape.plain(model).config
    text = config.get_text_config()
    left_out = {
        "transformers_version",
        "_name_or_path",
        "dtype",
        "torch_dtype",
        "_attn_implementation",
        "use_cache",
        "architectures",
    }
    told = {k: v for k, v in sorted(config.to_dict().items()) if k not in left_out and not k.startswith("_")}
    ffn = shape.feed_forwards(model)[0]
    found: Record = {
        "type": str(text.model_type), "shape": f"{text.num_hidden_layers}x{ffn.hidden}x{ffn.width}",
        "config": hashlib.sha256(json.dumps(told, default=str).encode()).hexdigest()[:16], "weights": None,
    }  # fmt: skip
    if shape.plain(model).dtype != torch.float16:
        whole = hashlib.sha256()
        for name, weight in sorted(shape.plain(model).named_parameters()):
            if "lora_" in name or not weight.numel():
                continue
            step = max(1, weight.numel() // 256) | 1  # odd, so that it goes through all columns of a matrix
            some = (
                weight.detach().reshape(-1)[::step]
                if weight.is_contiguous()
                else weight.detach().contiguous().view(-1)[::step]
            )
            whole.update(some.to(torch.bfloat16).view(torch.int16).cpu().numpy().tobytes())
        found["weights"] = whole.hexdigest()[:16]
    return found


def digest(tensors: dict[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        x = tensors[name].detach().cpu().contiguous()
        found.update(name.encode() + str(tuple(x.shape)).encode() + x.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@torch.no_grad()
def reorder(ffn: Ffn, order: Tensor) -> None:
    """Neuron order[i] comes to place i: matrices, biases, and the active and inactive LoRA of peft on them. Its own inverse is
    `reorder(ffn, order.argsort())`."""
    for module, first in ((ffn.up, True), (ffn.gate, True), (ffn.down, False)):
        if module is None:
            continue
        rows = shape.neuron_major(module, first)
        rows.copy_(rows[order.to(rows.device)])
        if first and shape.bias(module) is not None:
            kept: Any = shape.bias(module)
            kept.copy_(kept[order.to(kept.device)])
        for part in (getattr(module, "lora_B" if first else "lora_A", None) or {}).values():
            weight = part.weight if first else part.weight.t()
            weight.copy_(weight[order.to(weight.device)])
