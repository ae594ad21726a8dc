"""The codebook file: centroids of every full-attention layer, and what they were made for.

One safetensors file: `layers.I.keys` and `layers.I.values`, (heads, M, C, d) float16, with heads 1 where a layer's heads
share their books; the metadata is a `Made` as JSON. A file made for another model or rope mode is refused with both
values named.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from antkv.layers import full_layers, named
from tenfold_shared import BadInput, Missing
from tenfold_shared.jsonl import write_atomic

Record = dict[str, Any]
SCHEMA = "antkv-codebook/2"


class Shape(NamedTuple):
    """d channels of a sub-vector and C centroids of its book: log2(C) / d bits a number."""

    dim: int
    centroids: int

    @property
    def bits(self) -> int:
        """Bits of one index."""
        return max(1, (self.centroids - 1).bit_length())

    @property
    def rate(self) -> float:
        """Index bits a cached number, as stored."""
        return self.bits / self.dim


# The named rates. 0.375 is d 16 with 64 centroids: a book that fits everywhere; d 32 with 4,096 is --dim 32 --centroids 4096.
NAMED = {
    "4": Shape(2, 256),
    "2": Shape(4, 256),
    "1": Shape(8, 256),
    "0.75": Shape(16, 4096),
    "0.5": Shape(16, 256),
    "0.375": Shape(16, 64),
}
STORED = (2, 4, 6, 8, 12)  # widths of an index that can be packed
COUNTS = tuple(1 << width for width in STORED)


def shape_of(bits: str | None, dim: int | None, centroids: int | None) -> Shape:
    """The shape that --bits, or --dim and --centroids, name. Raises BadInput."""
    if (bits is None) == (dim is None and centroids is None) or ((dim is None) != (centroids is None)):
        raise BadInput("expected --bits, or --dim with --centroids")
    if bits is not None:
        return NAMED[bits]
    assert dim is not None and centroids is not None
    if centroids not in COUNTS:
        raise BadInput(f"--centroids {centroids}: expected {_counts()}, whose indices pack without waste")
    return Shape(dim, centroids)


def _counts() -> str:
    return f"one of {', '.join(map(str, COUNTS))}"


class Model(msgspec.Struct, frozen=True):
    """What of a model's config decides whether a codebook fits it."""

    architecture: str
    layers: int
    kv_heads: int
    head_dim: int
    hidden: int
    vocabulary: int
    rope: str

    @classmethod
    def of(cls, config: Any) -> Model:
        """From a transformers config. Raises BadInput for a model whose config tells that it is none for antkv."""
        text = config.get_text_config()
        if getattr(text, "kv_lora_rank", None):
            raise BadInput(
                "the model caches latent vectors (MLA), no keys and values a head: antkv has nothing to do there"
            )
        if cap := getattr(text, "attn_logit_softcapping", None):
            raise BadInput(
                f"the model's attention has soft caps (attn_logit_softcapping {cap}); antkv does not know them"
            )
        if text.model_type == "gpt_oss":  # its config does not say so; a model's parameters do (layers.py)
            raise BadInput("gpt_oss: its attention has sinks, a share that goes to no token; antkv does not know them")
        if text.model_type in ("bloom", "mpt") or getattr(text, "alibi", False):
            raise BadInput(f"{text.model_type}: has attention code of its own, for ALiBi; antkv cannot reach it")
        if getattr(text, "num_kv_shared_layers", None):
            raise BadInput(
                f"the model's last {text.num_kv_shared_layers} layers read the keys and values of others; antkv does not know that"
            )
        heads, hidden = _count(text, "num_attention_heads"), _count(text, "hidden_size")
        stored = _count(text, "num_key_value_heads", heads)
        if heads % stored:
            raise BadInput(f"the model's config: {heads} attention heads do not share {stored} stored ones evenly")
        rope = getattr(text, "rope_parameters", None) or {}
        return cls(
            (config.architectures or [type(config).__name__])[0],
            _count(text, "num_hidden_layers"),
            stored,
            _count(text, "head_dim", hidden // heads),
            hidden,
            _count(text, "vocab_size"),
            json.dumps(rope, sort_keys=True, default=str),
        )


def _count(config: Any, name: str, default: int | None = None) -> int:
    """A number of a config. Raises BadInput for one that is missing, without a default, or counts nothing."""
    found = getattr(config, name, None)
    if found is None:
        found = default
    if not isinstance(found, int) or found < 1:
        told = f"has no {name}" if found is None else f"has {name} {found!r}, expected 1 or more"
        raise BadInput(
            f"the model's config ({type(config).__name__}) {told}: antkv needs keys and values of attention heads"
        )
    return found


class Made(msgspec.Struct, frozen=True):
    """How a codebook was made. dim divides head_dim, centroids are of COUNTS, layers ascend. texts: sha256 of the calibration files; sequences and length: what was read of them.
    left_out: share of tokens that would be anchors and had no weight. weights: bound2, bound or none. weights_sha256: of the
    model's own (see below)."""

    model: Model
    dim: int
    centroids: int
    scope: Literal["head", "layer"]
    rope: Literal["pre", "post"]
    weights: str
    left_out: float
    tokens: int
    sequences: int
    length: int
    texts: list[str]
    weights_sha256: str
    seed: int
    version: str
    layers: list[int]
    schema: str = SCHEMA

    @property
    def shape(self) -> Shape:
        return Shape(self.dim, self.centroids)


class Codebook:
    """keys[layer] and values[layer]: (heads or 1, M, C, d)."""

    def __init__(self, made: Made, keys: dict[int, Any], values: dict[int, Any], name: str = "codebook") -> None:
        self.made, self.keys, self.values, self.name = made, keys, values, name
        self.rank: tuple[int, int] | None = None

    def shard(self, rank: int, ranks: int) -> Codebook:
        """The books of one rank of `ranks` under tensor parallelism, which splits a layer's stored heads in order.

        Raises BadInput where they do not split evenly."""
        heads = self.made.model.kv_heads
        if not 0 <= rank < ranks or heads % ranks:
            raise BadInput(
                f"{self.name}: {heads} stored heads do not split over {ranks} ranks, of which this is {rank}"
            )
        own = slice(rank * heads // ranks, (rank + 1) * heads // ranks) if self.made.scope == "head" else slice(None)
        keys, values = ({layer: table[own] for layer, table in part.items()} for part in (self.keys, self.values))
        found = Codebook(self.made, keys, values, f"{self.name}, rank {rank} of {ranks}")
        found.rank = rank, ranks
        return found

    @property
    def nbytes(self) -> int:
        return sum(table.nbytes for tables in (self.keys, self.values) for table in tables.values())

    def check(self, config: Any, rope: str | None = None, weights_sha256: str | None = None) -> None:
        """Raises BadInput where the codebook was made for another model, or for keys on the other side of RoPE."""
        model, mine = Model.of(config), self.made.model
        for field in Model.__struct_fields__:
            if getattr(model, field) != getattr(mine, field):
                raise BadInput(
                    f"{self.name}: was made for a model with {field} {getattr(mine, field)}, this one has {getattr(model, field)}"
                )
        if (layers := full_layers(config)) != self.made.layers:
            raise BadInput(
                f"{self.name}: has books of layers {named(self.made.layers)}, this model attends to its whole context in "
                f"{named(layers) or 'none'}"
            )
        if rope is not None and rope != self.made.rope:
            raise BadInput(f"{self.name}: was made with --rope {self.made.rope}, not {rope}")
        if weights_sha256 is not None and weights_sha256 != self.made.weights_sha256:
            raise BadInput(
                f"{self.name}: was made for weights {self.made.weights_sha256[:12]}, these are {weights_sha256[:12]}: another "
                "model of the same shape"
            )


@contextmanager
def room(path: str) -> Iterator[None]:
    """Raises Missing where the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise Missing(f"{path}: no space left on the disk; free some and run the same command again") from error


def save(book: Codebook, path: str) -> None:
    """Written beside itself, fsynced, renamed. Raises Missing where the disk is full, BadInput for books that are no numbers."""
    from safetensors.torch import save as encoded

    tensors = {
        f"layers.{layer}.{part}": table.contiguous()
        for part, tables in (("keys", book.keys), ("values", book.values))
        for layer, table in tables.items()
    }
    for name, table in tensors.items():
        _check_finite(path, name, table)
    target = Path(path)
    with room(path):
        try:
            write_atomic(target, encoded(tensors, {"antkv": msgspec.json.encode(book.made).decode()}))
        except OSError:
            target.with_name(f".{target.name}.tmp").unlink(missing_ok=True)  # half of it helps nobody on a full disk
            raise


def load(path: str) -> Codebook:
    """Raises BadInput for a file that is no codebook."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            made = made_of(path, file.metadata())
            tables = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; antkv calibrate makes it") from None
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path}: not a codebook: {error}") from None
    known = {f"layers.{layer}.{part}" for layer in made.layers for part in ("keys", "values")}
    if others := sorted(tables.keys() - known):
        raise BadInput(f"{path}: {others[0]}: is no table of the layers that its metadata tells of")
    keys, values = (
        {layer: _table(path, tables, f"layers.{layer}.{part}", made) for layer in made.layers}
        for part in ("keys", "values")
    )
    return Codebook(made, keys, values, path)


def made_of(path: str, metadata: dict[str, str] | None) -> Made:
    """What the metadata tell. Raises BadInput where no tables can be as they say."""
    try:
        made = msgspec.json.decode((metadata or {})["antkv"], type=Made)
    except KeyError:
        raise BadInput(f"{path}: expected a codebook of antkv calibrate; its metadata has no `antkv`") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: metadata: {error}") from None
    if made.schema != SCHEMA:
        raise BadInput(f"{path}: expected {SCHEMA}, got {made.schema}; antkv calibrate makes it anew")
    of = made.model
    for field, found, expected, fits in (
        ("centroids", made.centroids, _counts(), made.centroids in COUNTS),
        ("kv_heads", of.kv_heads, "1 or more", of.kv_heads >= 1),
        ("head_dim", of.head_dim, "1 or more", of.head_dim >= 1),
        ("dim", made.dim, f"a divisor of head_dim {of.head_dim}", made.dim >= 1 and of.head_dim % made.dim == 0),
        (
            "layers", made.layers, f"some of {of.layers}, in ascending order",
            made.layers != [] and made.layers == sorted({i for i in made.layers if 0 <= i < of.layers}),
        ),
    ):  # fmt: skip
        if not fits:
            raise BadInput(f"{path}: metadata: {field}: expected {expected}, got {found}")
    return made


def _table(path: str, tables: Record, name: str, made: Made) -> Any:
    heads = made.model.kv_heads if made.scope == "head" else 1
    expected = (heads, made.model.head_dim // made.dim, made.centroids, made.dim)
    if name not in tables or tuple(tables[name].shape) != expected:
        found = tuple(tables[name].shape) if name in tables else "nothing"
        raise BadInput(f"{path}: {name}: expected a tensor of shape {expected}, got {found}")
    if (kind := str(tables[name].dtype).removeprefix("torch.")) != "float16":
        raise BadInput(f"{path}: {name}: expected float16, got {kind}")
    _check_finite(path, name, tables[name])
    return tables[name]


def _check_finite(path: str, name: str, table: Any) -> None:
    finite = table.isfinite().flatten(1).all(1)  # (heads,)
    if not finite.all():
        raise BadInput(f"{path}: {name}, head {finite.tolist().index(False)}: holds NaN or infinity")


def weights_sha256(model: Any) -> str:
    """A fingerprint of a model's weights: of some 256 numbers of every parameter, as bfloat16 rounds them.

    The same however a checkpoint is loaded: as float32 or bfloat16, and as float16 unless it is a float32 one. What lies
    under float16's least normal number is taken for 0, as float16 cannot hold it to bfloat16's digits.
    """
    import torch

    found = hashlib.sha256()
    for weight in model.parameters():
        step = max(1, weight.numel() // 256) | 1  # odd, so that it goes through all columns of a matrix
        some = weight.detach().reshape(-1)[::step].to(torch.bfloat16)
        some = some.masked_fill(some.abs() < torch.finfo(torch.float16).tiny, 0)
        found.update(some.view(torch.int16).cpu().numpy().tobytes())
    return found.hexdigest()
