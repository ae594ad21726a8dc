"""`seer-decode info`: what gates a model can have, or what a folder of gates holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from seer_decode.shape import Shape, config_of, gated_layers, named, text_of

Record = dict[str, Any]


def counts(shape: Shape, width: int = 2) -> Record:
    """Parameters of a layer, of all of them, and bytes at `width` a number."""
    return {"per_layer": shape.per_layer, "parameters": shape.parameters, "bytes": shape.parameters * width}


def of_model(uri: str, shape: Shape, config: Any) -> Record:
    _, dense = gated_layers(config)
    return {
        "model": uri,
        "architecture": text_of(config).model_type,
        **counts(shape),
        "shape": msgspec.to_builtins(shape),
        "dense_layers": {str(layer): kind for layer, kind in dense.items()},
    }


def of_gates(folder: str, uri: str | None) -> Record:
    """Raises BadInput where the folder holds no gates, or gates of another model than `uri`."""
    from seer_decode.store import form_of, load

    loaded = load(folder, config_of(uri) if uri else None, name=uri or "")
    made = loaded.made
    held = sum(p.numel() * p.element_size() for p in loaded.gates.parameters())
    told = {field: value for field, value in msgspec.to_builtins(made).items() if field not in ("shape", "config")}
    return {
        "gates": folder,
        "form": form_of(folder),
        **counts(made.shape),
        "bytes": held,
        "shape": msgspec.to_builtins(made.shape),
        **told,
    }


def run(
    gates: str | None,
    *,
    uri: str | None,
    gate_dim: int | None,
    block: int,
    key_pooling: str,
    query_pooling: Any,
    no_qk_norm: bool,
    no_rope: bool,
    as_json: bool,
) -> int:
    """The verb."""
    if gates is not None:
        found = of_gates(gates, uri)
        if as_json:
            print(json.dumps(found))
            return 0
        base = found["base"]
        print(f"{Path(gates)}: {found['form']} form, for {base['name']} ({base['architecture']}, config {base['sha256'][:12]})")  # fmt: skip
        _print(found)
        return 0
    from seer_decode.shape import pooling_of

    uri = uri or "smollm2"
    config = config_of(uri)
    shape = Shape.of(
        config, gate_dim=gate_dim, block=block, key_pooling=pooling_of(key_pooling, "--key-pooling"),
        query_pooling=query_pooling, qk_norm=not no_qk_norm, rope=False if no_rope else None,
    )  # fmt: skip
    if shape.rope:
        from seer_decode.gate import Rotation

        Rotation.of(config, shape.gate_dim)  # which refuses what gates cannot share
    found = of_model(uri, shape, config)
    if as_json:
        print(json.dumps(found))
        return 0
    print(f"{uri} ({found['architecture']})")
    _print(found)
    if dense := found["dense_layers"]:
        kinds = ", ".join(sorted(set(dense.values())))
        print(f"  stay dense: layers {named([int(layer) for layer in dense])} ({kinds})")
    return 0


def _print(found: Record) -> None:
    shape = msgspec.convert(found["shape"], Shape)
    print(
        f"  gates: layers {named(shape.gated)} of {shape.layers}; {shape.heads} query and {shape.kv_heads} stored heads of "
        f"{shape.head_dim}, features of {shape.gate_dim}, blocks of {shape.block} tokens"
    )
    norms = "with norms" if shape.qk_norm else "without norms"
    print(f"  {shape.query_pooling}, {shape.key_pooling_name}, {norms}, {'RoPE' if shape.rope else 'no RoPE'}")
    print(f"  parameters: {shape.per_layer:,} a layer, {shape.parameters:,} in all, {found['bytes'] / 1e6:.1f} MB")
