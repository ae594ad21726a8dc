"""Gates on disk: our folder, and the two files that the paper's authors publish (arXiv 2506.08889, 2.2 and its repository).

Ours is gate.safetensors with `layers.I.query`, `.key`, `.query_norm`, `.key_norm`, and gate.json, a `Made`: the base model and
its config, the shapes, how decoding was meant, how the gates were trained, and the SHA-256 of the tensors, so that a folder
whose files are of two runs is told. Theirs is config.json, the base's config with `seerattn_` keys, and
attn_gate_weights.pth, a torch state dict. Nothing that a pickle could run is ever loaded.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import pickle
import re
import shutil
import warnings
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import msgspec

from seer_decode.gate import Gates
from seer_decode.shape import Base, Shape, check_block, config_from, named, pooling_of, read_json
from tenfold_shared import BadInput, Missing, unread
from tenfold_shared.jsonl import Lock, write_atomic
from tenfold_shared.redaction import one_line

Record = dict[str, Any]
SCHEMA = "seer-decode-gate/1"
TENSORS, DESCRIPTION = "gate.safetensors", "gate.json"
WEIGHTS, CONFIG = "attn_gate_weights.pth", "config.json"
PARTS = {
    "query": "attngate_linear_q", "key": "attngate_linear_k", "query_norm": "attngate_qnorm", "key_norm": "attngate_knorm",
}  # fmt: skip
THEIRS = {name: part for part, name in PARTS.items()}
NAME = re.compile(r"model\.layers\.(\d{1,6})\.self_attn\.attn_gate\.(attngate_\w+)\.weight")
FLOATS = ("float32", "bfloat16", "float16")
Form = Literal["ours", "published"]
FORMS: tuple[Form, ...] = get_args(Form)


class Sparsity(msgspec.Struct, frozen=True):
    """How decoding was meant by those who trained the gates; the fields of `seerattn_` keys, their defaults among them."""

    sparsity_method: str = "token_budget"
    threshold: float = 0.0
    token_budget: int = 4096
    sliding_window_size: int = 0
    start_layer: int = 0
    implementation: str = "seer_sparse"
    output_sparsity: bool = False


METHODS = ("token_budget", "threshold", "nz_ratio")


class Made(msgspec.Struct, frozen=True):
    """gate.json. config: the base model's config.json; training: what a trainer tells (tokens, steps, losses, seed ...);
    sha256: of gate.safetensors."""

    base: Base
    shape: Shape
    config: Record
    sparsity: Sparsity = Sparsity()
    training: Record | None = None
    sha256: str = ""
    version: str = ""
    schema: str = SCHEMA


class Loaded(NamedTuple):
    """Gates with what is known of them; `notes` are lines a user should read (a block that is not the trained one)."""

    gates: Gates
    made: Made
    notes: list[str]


def plain_config(config: Any) -> Record:
    """A transformers config as its config.json has it, without what is no part of the model."""
    found = json.loads(config.to_json_string())
    for key in ("_name_or_path", "transformers_version", "architectures", "torch_dtype", "dtype", "auto_map"):
        found.pop(key, None)
    return found


def made_for(
    config: Any,
    shape: Shape,
    name: str = "",
    *,
    weights: str | None = None,
    sparsity: Sparsity | None = None,
    training: Record | None = None,
) -> Made:
    """What a trainer hands to `save` beside the gates. name: the base model as a user calls it."""
    base = Base.of(config, name, weights)
    return Made(base, shape, plain_config(config), sparsity or Sparsity(), training)


# ---------------------------------------------------------------- reading


def form_of(folder: str | Path) -> Form:
    """Which of the two forms a folder has; ours where it has both. Raises BadInput."""
    path = Path(folder)
    if not path.is_dir():
        raise BadInput(f"{folder}: no such folder; expected one with {DESCRIPTION} or {WEIGHTS}")
    if (path / DESCRIPTION).exists():
        return "ours"
    if (path / WEIGHTS).exists():
        return "published"
    raise BadInput(f"{folder}: no gates: expected {DESCRIPTION} with {TENSORS}, or {CONFIG} with {WEIGHTS}")


def load(
    folder: str | Path,
    config: Any = None,
    *,
    name: str = "",
    block: int | None = None,
    reuse_gate: bool = False,
    weights: str | None = None,
) -> Loaded:
    """Gates of either form. config: of the model they are to serve, compared field by field (name: what to call it in the
    refusal, weights: its fingerprint); block: tokens of a block they are to be used at.

    Raises BadInput: another base, another block unless reuse_gate, layers missing or too many, wrong shapes, NaN or infinity,
    pickled objects, files of two runs.
    """
    where = str(folder)
    made, tensors = (_read_ours if form_of(folder) == "ours" else _read_published)(Path(folder))
    if config is not None:
        made.base.check(Base.of(config, name, weights), where)
    gates = _gates(where, made, tensors)
    notes = []
    if block is not None and block != made.shape.block:
        check_block(block, f"{where}: block")
        if not reuse_gate:
            raise BadInput(
                f"{where}: the gates were trained for blocks of {made.shape.block} tokens, not {block}; --reuse-gate uses them all "
                "the same"
            )
        notes.append(f"{where}: gates trained for blocks of {made.shape.block} tokens are used at {block}")
        shape = msgspec.structs.replace(made.shape, block=block)
        made = msgspec.structs.replace(made, shape=shape)
        gates = _gates(where, made, tensors)
    return Loaded(gates, made, notes)


def describe(folder: str | Path) -> Made:
    """What a folder says of its gates, tensors read and checked. Raises BadInput as `load` does."""
    return load(folder).made


def _read_ours(folder: Path) -> tuple[Made, Record]:
    from safetensors import SafetensorError
    from safetensors.torch import load as decoded

    path = folder / DESCRIPTION
    described = read_json(path)
    if (schema := described.get("schema")) != SCHEMA:
        raise BadInput(f"{path}: schema: expected {SCHEMA}, got {schema!r}")
    try:
        made = msgspec.convert(described, Made)
    except msgspec.ValidationError as error:
        raise BadInput(f"{path}: {error}") from None
    made.shape.checked(str(path))
    base = Base.of(config_from(made.config, f"{path}: config"), made.base.name, made.base.weights)
    made.base.check(base, str(path))
    data = _bytes(folder / TENSORS)
    if (found := hashlib.sha256(data).hexdigest()) != made.sha256:
        raise BadInput(
            f"{folder / TENSORS}: sha256 {found[:12]}, {DESCRIPTION} tells of {made.sha256[:12]}: the two are not of one run"
        )
    try:
        raw = decoded(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise BadInput(f"{folder / TENSORS}: not safetensors: {one_line(error, 160)}") from None
    tensors: Record = {}
    for key, tensor in raw.items():
        parts = re.fullmatch(r"layers\.(\d{1,6})\.(\w+)", key)
        if not parts or parts[2] not in PARTS:
            raise BadInput(f"{folder / TENSORS}: {key}: is no tensor of a gate")
        tensors[key] = tensor
    return made, tensors


def _read_published(folder: Path) -> tuple[Made, Record]:
    path = folder / CONFIG
    fields = read_json(path)
    own = {key.removeprefix("seerattn_"): value for key, value in fields.items() if key.startswith("seerattn_")}
    if not own:
        raise BadInput(f"{path}: no seerattn_ keys: is no config of published gates")
    plain = {key: value for key, value in fields.items() if not key.startswith("seerattn_") and key != "base_model"}
    name = fields.get("base_model")
    config = config_from(plain, str(path))
    where = f"{path}: seerattn_"

    def take(key: str, kind: type, default: Any) -> Any:
        value = own.get(key, default)
        value = default if value is None else value
        fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
        if not fits or (kind is not bool and isinstance(value, bool)):
            raise BadInput(f"{where}{key}: expected {kind.__name__}, got {value!r}")
        return value

    block = check_block(take("gate_block_size", int, 64), f"{where}gate_block_size")
    shape = Shape.of(
        config,
        gate_dim=take("gate_hidden_size", int, 128),
        block=block,
        key_pooling=pooling_of(take("k_seq_pooling_type", str, "Kmaxminavg"), f"{where}k_seq_pooling_type"),
        query_pooling=take("q_head_pooling_type", str, "Qproj"),
        qk_norm=take("use_qk_norm", bool, False),
        rope=take("use_rope", bool, True),
    )
    sparsity = Sparsity(
        **{field: take(field, type(getattr(Sparsity(), field)), getattr(Sparsity(), field))
           for field in Sparsity.__struct_fields__}
    )  # fmt: skip
    if not 1 <= sparsity.token_budget < 1 << 40 or not 0 <= sparsity.threshold <= 1:
        raise BadInput(
            f"{where}token_budget, {where}threshold: expected 1 or more tokens and 0 to 1, got {str(sparsity.token_budget)[:20]}, {sparsity.threshold}"
        )
    if sparsity.sparsity_method not in METHODS:
        raise BadInput(
            f"{where}sparsity_method: expected one of {', '.join(METHODS)}, got {sparsity.sparsity_method!r}"
        )
    base = Base.of(config, name if isinstance(name, str) else "")
    raw = _state_dict(folder / WEIGHTS)
    tensors: Record = {}
    for key, tensor in raw.items():
        found = NAME.fullmatch(key)
        if not found or found[2] not in THEIRS:
            raise BadInput(f"{folder / WEIGHTS}: {key}: is no tensor of a gate")
        tensors[f"layers.{int(found[1])}.{THEIRS[found[2]]}"] = tensor
    return Made(base, shape, plain_config(config), sparsity), tensors


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise unread(path, error) from None


def _state_dict(path: Path) -> Record:
    """The tensors of a .pth file, read without running anything in it. Raises BadInput."""
    import torch

    data = _bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file that is refused all the same
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise BadInput(
            f"{path}: holds pickled objects that are no tensors, or is no torch file; it is not loaded"
        ) from None
    except Exception as error:  # a torn archive raises what its reader raises
        raise BadInput(f"{path}: not a torch state dict: {one_line(error, 160)}") from None
    if not isinstance(found, dict) or not found:
        raise BadInput(f"{path}: expected a state dict of gates, got {type(found).__name__}")
    for key, tensor in found.items():
        if not isinstance(key, str) or not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
            raise BadInput(f"{path}: {key!r}: expected a dense tensor, got {type(tensor).__name__}")
    return found


def _gates(where: str, made: Made, tensors: Record) -> Gates:
    """The module with these tensors in it, each of the type that was stored. Raises BadInput."""
    import torch

    from seer_decode.gate import Rotation

    shape = made.shape
    found = sorted({int(key.split(".")[1]) for key in tensors})
    wanted = list(shape.gated)
    if found != wanted:
        missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
        told = [f"no gate of layers {named(missing)}"] * bool(missing) + [f"gates of layers {named(extra)} too"] * bool(
            extra
        )
        raise BadInput(f"{where}: expected gates of layers {named(wanted)}: there are {', and '.join(told)}")
    expected = {"query": shape.query_shape, "key": shape.key_shape, "query_norm": (shape.gate_dim,), "key_norm": (shape.gate_dim,)}  # fmt: skip
    if not shape.qk_norm:
        expected |= {"query_norm": None, "key_norm": None}
    for layer in wanted:
        for part, size in expected.items():
            tensor = tensors.get(f"layers.{layer}.{part}")
            got = None if tensor is None else tuple(tensor.shape)
            if got != size:
                raise BadInput(
                    f"{where}: layer {layer}, {part} ({PARTS[part]}): expected {_told(size)}, got {_told(got)}"
                )
            if tensor is None:
                continue
            if (kind := str(tensor.dtype).removeprefix("torch.")) not in FLOATS:
                raise BadInput(f"{where}: layer {layer}, {part}: expected one of {', '.join(FLOATS)}, got {kind}")
            if not tensor.isfinite().all():
                raise BadInput(f"{where}: layer {layer}, {part}: holds NaN or infinity")
    config = config_from(made.config, f"{where}: config")
    rotation = Rotation.of(config, shape.gate_dim) if shape.rope else None
    with torch.device("meta"):
        gates = Gates(shape, rotation)
    gates.load_state_dict({key: tensor.contiguous() for key, tensor in tensors.items()}, assign=True)
    return gates


def _told(size: tuple[int, ...] | None) -> str:
    return "nothing" if size is None else f"a tensor of shape {size}"


# ---------------------------------------------------------------- writing


def save(
    gates: Gates,
    made: Made,
    folder: str | Path,
    form: Form = "ours",
    *,
    overwrite: bool = False,
    extra: dict[str, bytes] | None = None,
    locked: bool = False,
) -> Path:
    """Gates to a folder, which appears, or takes the place of an older one, when all of it is written; locked: whether the caller holds lock_path. `extra` are files beside
    them. Returns the folder.

    Raises BadInput: it exists with something in it, without overwrite; weights that are no numbers. Missing: no space.
    Busy: another run writes it.
    """
    prepare(folder, overwrite)
    if made.shape != gates.shape:
        raise ValueError("the description is of other gates")
    tensors = {key: value.detach().cpu().contiguous() for key, value in gates.state_dict().items()}
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise BadInput(f"{folder}: {key}: holds NaN or infinity; it is not saved")
    path = Path(folder).resolve()  # where the folder is a link, what it names is replaced
    fresh, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
    try:
        lock = None if locked else Lock(lock_path(path), path)
        try:
            shutil.rmtree(fresh, ignore_errors=True)  # of a run that was killed
            fresh.mkdir()
            for file, data in [*_files(made, tensors, form), *(extra or {}).items()]:
                write_atomic(fresh / file, data)
            # The published form has no checksum that would tell new weights beside an old config: the folder moves as one.
            shutil.rmtree(old, ignore_errors=True)
            if path.exists():
                path.rename(old)
            fresh.rename(path)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            if lock is not None:
                lock.release()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise Missing(f"{folder}: no space left on the disk; free some and run the same command again") from error
        raise BadInput(f"{folder}: cannot be written: {error.strerror}") from None
    return Path(folder)


def lock_path(folder: str | Path) -> Path:
    """Of the lock that every writer of a folder of gates takes."""
    path = Path(folder).resolve()
    return path.with_name(f".{path.name}.lock")


def prepare(folder: str | Path, overwrite: bool) -> None:
    """Raises BadInput where gates cannot be saved to this folder; makes nothing."""
    path = Path(folder)
    old = path.resolve().with_name(f".{path.resolve().name}.old")
    if old.is_dir() and not path.exists():
        old.rename(path.resolve())  # a run was killed after it had moved these aside, before its own stood here
    if not path.absolute().parent.is_dir():
        raise BadInput(f"{path}: the folder {path.absolute().parent} does not exist; create it first")
    if path.exists() and not path.is_dir():
        raise BadInput(f"{path}: is a file; -o wants a folder here")
    held = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    known = {file for form in FORMS for file in _files_of(form)} | {"manifest.json"}
    if strange := [name for name in held if name not in known]:
        raise BadInput(f"{path}: holds {strange[0]}, which no run here wrote; choose another folder")
    if held and not overwrite:
        raise BadInput(f"{path}: exists and is not empty; --overwrite replaces it")


def _files_of(form: Form) -> tuple[str, str]:
    return (TENSORS, DESCRIPTION) if form == "ours" else (WEIGHTS, CONFIG)


def _files(made: Made, tensors: Record, form: Form) -> list[tuple[str, bytes]]:
    if form == "ours":
        from safetensors.torch import save as encoded

        from seer_decode import __version__

        data = encoded(tensors)
        made = msgspec.structs.replace(made, sha256=hashlib.sha256(data).hexdigest(), version=__version__)
        told = msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n"
        return [(TENSORS, data), (DESCRIPTION, told)]
    import torch

    stream = io.BytesIO()
    named_so = {}
    for key, tensor in tensors.items():
        _, layer, part = key.split(".")
        named_so[f"model.layers.{layer}.self_attn.attn_gate.{PARTS[part]}.weight"] = tensor
    torch.save(named_so, stream)
    told = json.dumps(published_config(made), indent=2, sort_keys=True).encode() + b"\n"
    return [(WEIGHTS, stream.getvalue()), (CONFIG, told)]


def published_config(made: Made) -> Record:
    """The published form's config.json: the base's config, `base_model` and the `seerattn_` keys."""
    shape = made.shape
    own = {
        "k_seq_pooling_type": shape.key_pooling_name,
        "q_head_pooling_type": shape.query_pooling,
        "gate_block_size": shape.block,
        "gate_hidden_size": shape.gate_dim,
        "use_qk_norm": shape.qk_norm,
        "use_rope": shape.rope,
        **{field: getattr(made.sparsity, field) for field in Sparsity.__struct_fields__},
    }
    rope = made.config.get("rope_parameters")
    older: Record = {}
    if isinstance(rope, dict) and "rope_theta" in rope:  # where the authors' code, of an older transformers, looks
        scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
        older = {
            "rope_theta": rope["rope_theta"],
            "rope_scaling": None if scaling.get("rope_type", "default") == "default" else scaling,
        }
    return {
        **made.config,
        **older,
        "base_model": made.base.name,
        **{f"seerattn_{key}": value for key, value in own.items()},
    }
