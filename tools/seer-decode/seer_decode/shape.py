"""What a gate is made of, read off a base model's config; no weights and no torch are needed (arXiv 2506.08889, 2.2).

Knows which layers of a model can have a gate, how many numbers a gate has and which rotation it shares with its base.
Does not know any tensor: gate.py does.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from tenfold_shared import BadInput, models, unread
from tenfold_shared.redaction import one_line

Pool = Literal["max", "min", "avg"]
Query = Literal["Qproj", "Qavgproj", "Qavg", "Qorig"]
POOLS: tuple[Pool, ...] = ("max", "min", "avg")  # the fixed order of a pooled key's parts
QUERIES: tuple[Query, ...] = ("Qproj", "Qavgproj", "Qavg", "Qorig")
BLOCKS = (16, 32, 64, 128, 256)
FULL = "full_attention"
FIXED_ROPES = ("default", "linear", "yarn", "llama3")  # frequencies that no length changes


def check_block(block: int, where: str = "block") -> int:
    """A block's tokens. Raises BadInput for what is none of BLOCKS."""
    if block not in BLOCKS:
        raise BadInput(f"{where}: expected one of {', '.join(map(str, BLOCKS))} tokens, got {block}")
    return block


def pooling_of(name: str, where: str = "key pooling") -> tuple[Pool, ...]:
    """("max", "min", "avg") of "Kmaxminavg": any of the three, in that order. Raises BadInput."""
    for some in _subsets():
        if name == "K" + "".join(some):
            return some
    raise BadInput(
        f"{where}: expected K followed by some of max, min and avg in that order, as in Kmaxminavg; got {name!r}"
    )


def _subsets() -> Iterable[tuple[Pool, ...]]:
    for count in range(1, len(POOLS) + 1):
        yield from itertools.combinations(POOLS, count)


class Shape(msgspec.Struct, frozen=True):
    """A model's gates: `gated` of its `layers` have one each, all of the same shape.

    heads query heads share kv_heads stored ones, g = heads / kv_heads, of head_dim D channels; features have gate_dim dg
    channels and a block has `block` tokens. Raises BadInput through `checked` for what is no gate.
    """

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    gate_dim: int
    block: int = 64
    key_pooling: tuple[Pool, ...] = POOLS
    query_pooling: Query = "Qproj"
    qk_norm: bool = True
    rope: bool = True
    gated: tuple[int, ...] = ()

    @property
    def group(self) -> int:
        """g, query heads of one stored head."""
        return self.heads // self.kv_heads

    @property
    def pooled_dim(self) -> int:
        """Channels of a pooled block before its projection: 3 D with all three pools."""
        return len(self.key_pooling) * self.head_dim

    @property
    def query_shape(self) -> tuple[int, ...] | None:
        """Of Wq: (Hkv, g, D, dg) or (Hkv, D, dg); None where queries are not projected."""
        if self.query_pooling == "Qproj":
            return self.kv_heads, self.group, self.head_dim, self.gate_dim
        return (self.kv_heads, self.head_dim, self.gate_dim) if self.query_pooling == "Qavgproj" else None

    @property
    def key_shape(self) -> tuple[int, int, int]:
        """Of Wk: (Hkv, 3 D, dg) with all three pools."""
        return self.kv_heads, self.pooled_dim, self.gate_dim

    @property
    def per_layer(self) -> int:
        """Parameters of one layer's gate: Hkv g D dg + Hkv 3 D dg + 2 dg with the defaults."""
        query = 1 if self.query_shape else 0
        for size in self.query_shape or ():
            query *= size
        return query + self.kv_heads * self.pooled_dim * self.gate_dim + 2 * self.gate_dim * self.qk_norm

    @property
    def parameters(self) -> int:
        return len(self.gated) * self.per_layer

    @property
    def key_pooling_name(self) -> str:
        return "K" + "".join(self.key_pooling)

    def checked(self, where: str = "gate") -> Shape:
        """Itself. Raises BadInput naming the field that no gate can have."""
        for name in ("layers", "heads", "kv_heads", "head_dim", "gate_dim"):
            if getattr(self, name) < 1:
                raise BadInput(f"{where}: {name}: expected 1 or more, got {getattr(self, name)}")
        if self.heads % self.kv_heads:
            raise BadInput(f"{where}: {self.heads} query heads do not share {self.kv_heads} stored ones evenly")
        check_block(self.block, f"{where}: block")
        pooling_of(self.key_pooling_name, f"{where}: key_pooling")
        if self.query_pooling not in QUERIES:
            raise BadInput(f"{where}: query_pooling: expected one of {', '.join(QUERIES)}, got {self.query_pooling!r}")
        if self.query_shape is None and self.gate_dim != self.head_dim:
            raise BadInput(
                f"{where}: {self.query_pooling} does not project queries, so that gate_dim {self.gate_dim} must be head_dim "
                f"{self.head_dim}"
            )
        if self.rope and self.gate_dim % 2:
            raise BadInput(f"{where}: gate_dim {self.gate_dim}: RoPE pairs channels; expected an even number")
        if not self.gated or list(self.gated) != sorted({i for i in self.gated if 0 <= i < self.layers}):
            raise BadInput(
                f"{where}: gated: expected some of {self.layers} layers in ascending order, got {named(self.gated) or 'none'}"
            )
        return self

    @classmethod
    def of(
        cls,
        config: Any,
        *,
        gate_dim: int | None = None,
        block: int = 64,
        key_pooling: Sequence[Pool] = POOLS,
        query_pooling: Query = "Qproj",
        qk_norm: bool = True,
        rope: bool | None = None,
    ) -> Shape:
        """Gates for a transformers config: gate_dim is head_dim and rope whether the model has one, unless told.

        Raises BadInput for a model that can have no gate.
        """
        text = text_of(config)
        gated, _ = gated_layers(config)
        heads = count(text, "num_attention_heads")
        dim = head_dim_of(text)
        return cls(
            count(text, "num_hidden_layers"),
            heads,
            count(text, "num_key_value_heads", heads),
            dim,
            dim if gate_dim is None else gate_dim,
            block,
            tuple(key_pooling),
            query_pooling,
            qk_norm,
            bool(rope_of(config)) if rope is None else rope,
            tuple(gated),
        ).checked(text.model_type)


def text_of(config: Any) -> Any:
    return config.get_text_config()


def head_dim_of(text: Any) -> int:
    heads = count(text, "num_attention_heads")
    return count(text, "head_dim", count(text, "hidden_size") // heads)


def count(config: Any, name: str, default: int | None = None) -> int:
    """A number of a config. Raises BadInput for one that is missing, without a default, or counts nothing."""
    found = getattr(config, name, None)
    found = default if found is None else found
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        told = f"has no {name}" if found is None else f"has {name} {found!r}, expected 1 or more"
        raise BadInput(
            f"the model's config ({type(config).__name__}) {told}: gates need keys and values of attention heads"
        )
    return found


def gated_layers(config: Any) -> tuple[list[int], dict[int, str]]:
    """Layers that can have a gate, those whose attention sees the whole context; and why each other one stays dense.

    Raises BadInput where none is left, or the attention is of a kind that no block selection here serves.
    """
    text = text_of(config)
    kind = text.model_type
    if getattr(text, "kv_lora_rank", None):
        raise BadInput(
            f"{kind}: caches latent vectors (MLA) in every layer, no keys a head: no layer is left for a gate"
        )
    if cap := getattr(text, "attn_logit_softcapping", None):
        raise BadInput(f"{kind}: its attention has soft caps (attn_logit_softcapping {cap}), which gates do not know")
    if kind == "gpt_oss":  # told by its parameters alone
        raise BadInput(f"{kind}: its attention has sinks, a share that goes to no token, which gates do not know")
    if shared := getattr(text, "num_kv_shared_layers", None):
        raise BadInput(f"{kind}: its last {shared} layers read the keys of others, which gates do not know")
    layers = count(text, "num_hidden_layers")
    kinds = getattr(text, "layer_types", None)
    if kinds is None:
        slides = getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
        kinds = ["sliding_attention" if slides else FULL] * layers
    crossed = set(getattr(text, "cross_attention_layers", None) or ())
    dense = {i: "cross_attention" if i in crossed else str(kind) for i, kind in enumerate(kinds) if kind != FULL or i in crossed}  # fmt: skip
    gated = [i for i in range(layers) if i not in dense]
    if not gated:
        told = ", ".join(sorted(set(dense.values())))
        raise BadInput(f"{kind}: no layer attends to its whole context (all are {told}): no layer is left for a gate")
    return gated, dense


def rope_of(config: Any) -> dict[str, Any]:
    """The rotation of the layers that see the whole context, as `rope_parameters`; empty where the model has none."""
    found = dict(getattr(text_of(config), "rope_parameters", None) or {})
    if isinstance(found.get(FULL), dict):
        found = dict(found[FULL])
    return {key: value for key, value in sorted(found.items()) if value is not None}


def named(layers: Sequence[int]) -> str:
    """Ascending indices as a reader wants them: `0-4, 6`."""
    runs = [
        [index for _, index in run] for _, run in itertools.groupby(enumerate(layers), lambda pair: pair[1] - pair[0])
    ]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


# ---------------------------------------------------------------- the base model, as far as a gate depends on it

# What of a config decides whether a gate's inputs are the ones it was trained on. Fields that only say how a checkpoint is
# stored or which release wrote it are left out: they would tell one model from itself.
DECISIVE = (
    "model_type", "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
    "vocab_size", "rms_norm_eps", "attention_bias", "hidden_act",
)  # fmt: skip


class Base(msgspec.Struct, frozen=True):
    """The model that gates were trained for. name: as the user calls it, not compared; sha256: of DECISIVE, head_dim, the
    rotation and the gated layers; weights: a fingerprint of its weights, where the trainer took one."""

    name: str
    architecture: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rope: dict[str, Any]
    sha256: str
    weights: str | None = None

    @classmethod
    def of(cls, config: Any, name: str = "", weights: str | None = None) -> Base:
        """From a transformers config. Raises BadInput as `gated_layers` does."""
        text = text_of(config)
        gated, _ = gated_layers(config)
        heads = count(text, "num_attention_heads")
        stored = count(text, "num_key_value_heads", heads)
        # A config may spell a theta 1000000 or 1000000.0; it is one number.
        rope = {
            key: float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
            for key, value in json.loads(json.dumps(rope_of(config), default=str)).items()
        }
        decisive = {key: getattr(text, key, None) for key in DECISIVE}
        decisive |= {"head_dim": head_dim_of(text), "num_key_value_heads": stored, "rope": rope, "gated": gated}
        text_form = json.dumps(decisive, sort_keys=True, default=str)
        return cls(
            name or getattr(config, "_name_or_path", "") or text.model_type,
            text.model_type,
            count(text, "num_hidden_layers"),
            heads,
            stored,
            head_dim_of(text),
            rope,
            hashlib.sha256(text_form.encode()).hexdigest(),
            weights,
        )

    def check(self, other: Base, where: str) -> None:
        """Raises BadInput where `other`, the model at hand, is not this one; both values are named."""
        for field in ("architecture", "layers", "heads", "kv_heads", "head_dim"):
            mine, theirs = getattr(self, field), getattr(other, field)
            if mine != theirs:
                raise BadInput(
                    f"{where}: the gates were trained for {self.name} with {field} {mine}; {other.name} has {theirs}"
                )
        for key in sorted(self.rope.keys() | other.rope.keys()):
            mine, theirs = self.rope.get(key), other.rope.get(key)
            if mine != theirs:
                raise BadInput(
                    f"{where}: the gates were trained for {self.name} with {key} {mine}; {other.name} has {theirs}"
                )
        if self.sha256 != other.sha256:
            raise BadInput(
                f"{where}: the gates were trained for {self.name} with config sha256 {self.sha256[:12]}; {other.name} has "
                f"{other.sha256[:12]}"
            )
        if self.weights and other.weights and self.weights != other.weights:
            raise BadInput(
                f"{where}: the gates were trained for weights {self.weights[:12]} of {self.name}; {other.name} has "
                f"{other.weights[:12]}"
            )


def config_of(uri: str) -> Any:
    """A model's config: smollm2, a folder with config.json, such a file by any name, or a hub id. No weights are read and
    no code of the model's own is run. Raises BadInput, Missing."""
    path = Path(uri).expanduser()
    if path.is_file() and path.suffix != ".gguf":
        return config_from(read_json(path), uri)
    return models.config_of(uri, "seer-decode[hf]")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises BadInput."""
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise unread(path, error) from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadInput(f"{path}: expected a JSON object, got {type(found).__name__}")
    return found


def config_from(fields: dict[str, Any], where: str) -> Any:
    """A transformers config of what its config.json holds. Raises BadInput."""
    from transformers import AutoConfig

    given = {key: value for key, value in fields.items() if key not in ("model_type", "auto_map")}
    kind = fields.get("model_type")
    if not isinstance(kind, str):
        raise BadInput(f"{where}: model_type: expected the name of a model family, got {kind!r}")
    try:
        return AutoConfig.for_model(kind, **given)
    except Exception as error:  # validators of many kinds
        raise BadInput(f"{where}: no config that transformers knows: {one_line(error, 160)}") from None
