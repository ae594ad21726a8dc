"""`longexp-peft profile`: whether a model has something to skip on these data, and what it could bring at most."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from longexp_peft import amdahl, dataset, needs, pack, shape
from longexp_peft.exposer import Layer, measure
from longexp_peft.pack import Row
from longexp_peft.sparse import Sparse, Sparsity, check_forward
from tenfold_shared import BadInput
from tenfold_shared.cli import sha256_of
from tenfold_shared.progress import Progress

Record = dict[str, Any]


class Reading(msgspec.Struct, frozen=True):
    """Which model reads which examples, in rows of how many tokens, as far as `tokens`."""

    uri: str
    dtype: str
    device: str
    trust_remote_code: bool
    form: str
    max_length: int | None
    truncate: str
    chat_template: str | None
    template: str | None
    limit: int | None
    skip_bad: int
    batch_tokens: int
    tokens: int


class Read(NamedTuple):
    model: Any
    tokenizer: Any
    rows: list[Row]
    inputs: list[dict[str, Any]]
    examples: int


def read(files: Sequence[str], how: Reading) -> Read:
    """The model, and packed rows of the examples. Raises BadInput, Missing."""
    model, tokenizer = needs.load(how.uri, how.dtype, how.device, how.trust_remote_code)
    check_forward(model.eval())
    needs.chat_template(tokenizer, how.chat_template)
    longest = how.max_length or min(needs.positions(model), how.batch_tokens, 1024)
    if longest > needs.positions(model):
        raise BadInput(f"--max-length {longest}: the model has {needs.positions(model)} positions")
    if longest > how.batch_tokens:
        raise BadInput(f"--max-length {longest}: does not fit into --batch-tokens {how.batch_tokens}")
    data = dataset.read(
        files, tokenizer, needs.vocabulary(model), form=how.form, max_length=longest, truncate=how.truncate, template=how.template, limit=how.limit,
        skip_bad=how.skip_bad,
    )  # fmt: skip
    lengths = [len(one.ids) for one in data.examples]
    rows: list[Row] = []
    used = 0
    for members in pack.in_order(lengths, how.batch_tokens):
        if used >= how.tokens:
            break
        rows.append(pack.row_of([data.examples[i] for i in members], model.device))
        used += rows[-1].tokens
    # A last row that is only begun would count as a batch with few tokens.
    if len(rows) > 1 and rows[-1].tokens < how.batch_tokens / 2:
        rows.pop()
    return Read(model, tokenizer, rows, data.inputs, len(data.examples))


def identity_of(how: Reading) -> Record:
    told = msgspec.to_builtins(how)
    for name in ("chat_template", "template"):
        told[name] = None if told[name] is None else sha256_of(told[name])
    return {k: v for k, v in told.items() if k not in ("uri", "trust_remote_code")}


def summary(model: Any, layers: list[Layer], rows: list[Row], mass: float) -> Record:
    """{advice, layers, amdahl} of what was measured."""
    ffns = shape.feed_forwards(model)
    told: list[Record] = []
    for layer in layers:
        zeros = layer.share_of_zeros()
        told.append({
            "zeros_token": round(zeros[0], 4), "zeros_seq": round(zeros[1], 4), "zeros_batch": round(zeros[2], 4),
            "density": {str(m): round(layer.density(m / 100), 4) for m in (90, 95, 99)}, "heads": layer.heads(mass),
        })  # fmt: skip
    row = max(rows, key=lambda r: r.tokens)
    dense = amdahl.parts(model, row.lengths, len(row.labels))
    gated = ffns[0].gate is not None
    bounds = {}
    for name, mode, densities in (
        ("exact", "exact", [1 - one["zeros_batch"] for one in told]),
        ("predicted_99", "predicted", [one["density"]["99"] for one in told]),
        ("predicted_95", "predicted", [one["density"]["95"] for one in told]),
        ("predicted_90", "predicted", [one["density"]["90"] for one in told]),
    ):  # fmt: skip
        left = {n: amdahl.left(mode, rho, gated) for n, rho in enumerate(densities)}
        bounds[name] = round(amdahl.bound(dense, amdahl.parts(model, row.lengths, len(row.labels), mlp=left)), 3)
    heads = [one["heads"] for one in told]
    if all(heads):
        reads = {n: sum(h["density"] for h in of) / len(of) for n, of in enumerate(heads)}
        bounds["attention"] = round(
            amdahl.bound(dense, amdahl.parts(model, row.lengths, len(row.labels), attention=reads)), 3
        )
    found = {
        "shares": dense.shares(), "bounds": bounds, "tokens": row.tokens, "documents": len(row.lengths), "labels": len(row.labels),
    }  # fmt: skip
    return {"advice": _advice(ffns, told, found, layers), "layers": told, "amdahl": found}


def _advice(ffns: list[shape.Ffn], told: list[Record], amdahl_: Record, layers: list[Layer]) -> str:
    mean = {key: sum(one[key] for one in told) / len(told) for key in ("zeros_token", "zeros_batch")}
    at99 = sum(one["density"]["99"] for one in told) / len(told)
    bounds = amdahl_["bounds"]
    if not all(f.zeros for f in ffns):
        at90 = sum(one["density"]["90"] for one in told) / len(told)
        return (
            f"no: {ffns[0].activation}{' with a gate' if ffns[0].gate is not None else ''} gives no exact zeros ({100 * mean['zeros_token']:.1f} % of "
            f"activations), and a batch needs {100 * at90:.0f} % of the neurons for 90 % of the energy, {100 * at99:.0f} % for 99 %: at most "
            f"{bounds['predicted_99']:.2f}x by leaving out the rest, with loss. A ReLU model is what this is for; packing alone "
            "(--mode dense) is without loss"
        )
    if bounds["exact"] < 1.1 and bounds["predicted_99"] < 1.1:
        return (
            f"no: {100 * mean['zeros_token']:.0f} % of activations are zero token by token, but a batch shares only {100 * mean['zeros_batch']:.0f} % of "
            f"them, and 99 % of the energy takes {100 * at99:.0f} % of the neurons: at most {bounds['predicted_99']:.2f}x. A smaller --batch-tokens, or "
            "--group sequence, leaves more out"
        )
    best = "predicted" if bounds["predicted_99"] > 1.15 * bounds["exact"] else "exact"
    return (
        f"yes: --mode {best}. A batch leaves {100 * mean['zeros_batch']:.0f} % of the neurons at zero (exact, without loss: at most {bounds['exact']:.2f}x), "
        f"and {100 * at99:.0f} % hold 99 % of the energy (predicted: at most {bounds['predicted_99']:.2f}x)"
    )


def run(
    files: Sequence[str], how: Reading, *, block: int, mass: float, plot: str | None, as_json: bool, quiet: bool
) -> int:
    """The verb; returns the exit code."""
    needs.plots(plot, files)
    found = read(files, how)
    sparse = Sparse(found.model, Sparsity())
    with Progress("profile", len(found.rows), "rows", quiet) as progress:
        layers = measure(sparse, found.rows, block=block, mass=mass, progress=progress.update)
    told = summary(found.model, layers, found.rows, mass)
    told["rows"], told["tokens"] = len(found.rows), sum(r.tokens for r in found.rows)
    if plot is not None:
        from longexp_peft.plot import draw_profile

        draw_profile(told, plot)
    if as_json:
        print(json.dumps(told))
        return 0
    from rich.table import Table

    from tenfold_shared.cli import print_table

    table = Table(title=f"{told['tokens']} tokens in {told['rows']} rows")
    for name in ("layer", "zeros: token", "document", "row", "90 % energy", "95 %", "99 %", "attention read", "lost"):
        table.add_column(name, justify="right")
    for number, one in enumerate(told["layers"]):
        heads = one["heads"]
        read_ = f"{sum(h['density'] for h in heads) / len(heads):.3f}" if heads else "-"
        lost = f"{sum(h['lost'] for h in heads) / len(heads):.4f}" if heads else "-"
        cells = [f"{one[k]:.3f}" for k in ("zeros_token", "zeros_seq", "zeros_batch")] + [
            f"{v:.3f}" for v in one["density"].values()
        ]
        table.add_row(str(number), *cells, read_, lost)
    print_table(table)
    shares = ", ".join(f"{name} {100 * value:.0f} %" for name, value in told["amdahl"]["shares"].items())
    bounds = ", ".join(f"{name} {value:.2f}x" for name, value in told["amdahl"]["bounds"].items())
    print(f"a step's operations: {shares}\nat most: {bounds}\n{told['advice']}")
    return 0
