"""`antkv inspect`: a codebook's layers, or which tokens of a text become anchors, as text."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from antkv.codebook import load
from antkv.text import Text, check_length
from tenfold_shared import BadInput, models
from tenfold_shared.jsonl import is_pipe
from tenfold_shared.models import load_causal_lm

Record = dict[str, Any]


def config_of(uri: str) -> Any:
    """A model's config: smollm2, a folder with config.json, such a file by any name, or a hub id. No weights are read and
    no code of the model's own is run. Raises BadInput, Missing."""
    return models.config_of(uri, "antkv[hf]")


def is_codebook(path: str) -> bool:
    """Whether a file is in the form of codebooks, whatever its name: safetensors, which begins with the length of a JSON
    object, 8 bytes, and its brace. As characters of a text those would be a length that no header has."""
    if path == "-" or is_pipe(path):
        return False
    try:
        with open(path, "rb") as stream:
            head = stream.read(9)
    except OSError:
        return False
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32


def codebook_rows(path: str) -> Record:
    """How a codebook was made, and of each layer the spread of its centroids and how many are alike."""
    import msgspec
    import torch

    book = load(path)
    rows = []
    for layer in book.made.layers:
        row: Record = {"layer": layer}
        for part, table in (("keys", book.keys[layer]), ("values", book.values[layer])):
            flat = table.float()
            distinct = [len(torch.unique(one, dim=0)) for one in flat.flatten(0, 1)]
            row[part] = {"rms": round(float(flat.square().mean().sqrt()), 4), "least_distinct": min(distinct)}
        rows.append(row)
    return {
        "made": msgspec.to_builtins(book.made),
        "bytes": book.nbytes,
        "index_bits": book.made.shape.rate,
        "layers": rows,
    }


def anchors_of(
    text: str,
    *,
    uri: str,
    codebook: str | None,
    anchors: float,
    score: str,
    length: int,
    dtype: str,
    device: str,
    trust_remote_code: bool,
    allow_extrapolation: bool,
    seed: int,
) -> Record:
    """Which tokens of the first `length` become anchors, over all layers and heads (anchors.py says by what rule); with a
    codebook also the errors it leaves in each layer, relative to the keys' and values' own size."""
    import torch

    from antkv.anchors import in_blocks, watch
    from antkv.cache import Settings
    from antkv.codebook import Model, weights_sha256
    from antkv.layers import check_layers
    from antkv.rope import Rope

    book, source = load(codebook) if codebook else None, Text([text], length)
    model, tokenizer = load_causal_lm(uri, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    Model.of(model.config)
    check_layers(model)
    check_length(model.config, length, allow_extrapolation)
    ids = source.ids(tokenizer, length)
    if not ids:
        raise BadInput(f"{text}: the model's tokenizer makes no token of it")
    if book is not None:
        book.check(model.config, weights_sha256=weights_sha256(model))
    kept = torch.bfloat16 if model.dtype == torch.bfloat16 else torch.float16
    kind: Any = score
    settings = Settings(anchors, kind, dtype=kept, seed=seed)
    rope = Rope(model) if book is not None and book.made.rope == "pre" else None
    chosen: Counter[int] = Counter()
    rows = []
    lists = a_head = 0
    try:
        seen = watch(model, ids, rope, settings)
    except BadInput as error:
        raise BadInput(f"{text}, the first {len(ids)} tokens: {error}") from None
    for layer in seen:
        errors = _errors(layer.keys, layer.values, book, layer.index) if book is not None else None
        at = layer.anchors(errors)
        lists, a_head = lists + at.shape[1], at.shape[2]
        chosen.update(at.flatten().tolist())
        mass = layer.factors.values[0]
        row: Record = {
            "layer": layer.index,
            "share_of_first": [round(float(x), 4) for x in mass[:, 0] / mass.sum(-1)],
        }
        if errors is not None:
            row |= {
                f"{name}_error": round(float(e.square().sum() / x.float().square().sum().clamp_min(1e-30)), 5)
                for name, e, x in (("keys", errors[0], layer.keys), ("values", errors[1], layer.values))
            }
        rows.append(row)
    tokens = [
        {"position": at, "token": tokenizer.decode([ids[at]]), "lists": count, "share": round(count / lists, 4)}
        for at, count in sorted(chosen.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    return {
        "tokens": len(ids),
        "in_blocks": in_blocks(len(ids), settings),
        "anchors_a_head": a_head,
        "lists": lists,
        "anchors": tokens,
        "layers": rows,
    }


def _errors(keys: Any, values: Any, book: Any, layer: int) -> Any:
    import torch

    from antkv import kmeans

    found = []
    for x, table in ((keys, book.keys[layer]), (values, book.values[layer])):
        heads = x.shape[1]
        books = table.float().expand(heads, -1, -1, -1)
        parts = x[0].float().unflatten(-1, (books.shape[1], -1)).transpose(1, 2).flatten(0, 1)
        _, apart = kmeans.nearest(parts.contiguous(), books.flatten(0, 1).contiguous())
        found.append(apart.unflatten(0, (heads, -1)).sum(1).sqrt()[None])
    return torch.stack(found).unbind(0)


def run(
    path: str,
    *,
    uri: str,
    codebook: str | None,
    anchors: float,
    score: str,
    length: int,
    dtype: str,
    device: str,
    trust_remote_code: bool,
    allow_extrapolation: bool,
    seed: int,
    as_json: bool,
) -> int:
    """The verb."""
    if path.endswith(".safetensors") or is_codebook(path):
        found = codebook_rows(path)
        if as_json:
            print(json.dumps(found, allow_nan=False))
            return 0
        made = found["made"]
        print(
            f"{path}: {made['model']['architecture']}, {len(found['layers'])} layers, d {made['dim']}, {made['centroids']} centroids "
            f"({found['index_bits']:g} bits a number), keys {made['rope']}-RoPE, weights {made['weights']}, {made['tokens']} tokens, "
            f"{found['bytes'] / 2**20:.1f} MiB"
        )
        for row in found["layers"]:
            told = ", ".join(
                f"{part} rms {row[part]['rms']:g}, {row[part]['least_distinct']} distinct"
                for part in ("keys", "values")
            )
            print(f"  layer {row['layer']}: {told}")
        return 0
    if score == "error" and codebook is None:
        raise BadInput("--score error: needs --codebook, whose errors it weighs")
    found = anchors_of(
        path,
        uri=uri,
        codebook=codebook,
        anchors=anchors,
        score=score,
        length=length,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        allow_extrapolation=allow_extrapolation,
        seed=seed,
    )
    if as_json:
        print(json.dumps(found, allow_nan=False))
        return 0
    print(
        f"{found['tokens']} tokens, {found['in_blocks']} of them in whole blocks; {found['anchors_a_head']} anchors in each of "
        f"{found['lists']} lists; chosen most:"
    )
    for row in found["anchors"][:20]:
        print(f"  {row['position']:>6}  {row['share']:>6.1%}  {row['token']!r}")
    if codebook:
        for row in found["layers"]:
            print(
                f"  layer {row['layer']}: relative error of keys {row['keys_error']:g}, of values {row['values_error']:g}"
            )
    return 0
