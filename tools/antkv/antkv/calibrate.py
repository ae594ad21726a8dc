"""`antkv calibrate`: codebooks from text, in one pass over the model and one fit a layer (reference 2.3).

Keys, values and their factors of all tokens are written to disk as the model goes through the text, sequence by
sequence; then the books of one layer after the other are fitted from there. A killed run continues at the next sequence
or layer: PATH.work holds what is done, with a checksum each. Same bytes for the same inputs, options and seed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

import antkv
from antkv.codebook import Codebook, Made, Model, Shape, save, weights_sha256
from antkv.layers import full_layers
from antkv.text import read_texts
from tenfold_shared import BadInput, Missing
from tenfold_shared.jsonl import Lock, difference, write_atomic
from tenfold_shared.progress import Progress

Record = dict[str, Any]
PER_CENTROID = 40  # tokens that a centroid should have
FLAT = 10  # effective sample size, in centroids, below which a codebook is warned of


class Collector:
    """The attention function of the collecting pass: exact attention, and K, V and factors of each full layer handed on."""

    def __init__(self, layers: Sequence[int], squared: bool, rope: Any) -> None:
        self.layers, self.squared, self.rope = set(layers), squared, rope
        self.found: dict[int, tuple[Any, Any, Any, Any]] = {}

    def __call__(
        self, module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: Any = None, **kwargs: Any
    ) -> Any:
        import torch

        from antkv import score as scoring

        scale = scaling if scaling is not None else query.shape[-1] ** -0.5
        attended = scoring.attend(query, key, value, scale)
        if module.layer_idx in self.layers:
            factor = scoring.factors(query, key, value, attended, scale, self.squared)
            positions = torch.arange(key.shape[2], device=key.device)[None]
            plain = key if self.rope is None else self.rope.unrotate(key, positions)
            self.found[module.layer_idx] = (plain, value, factor.keys, factor.values)
        return attended.out.transpose(1, 2).contiguous(), None


class Work:
    """PATH.work: `collected.json` (sequences done), `layer-I.{keys,values,fk,fv}` raw, `book-I.npz` with its checksum."""

    def __init__(self, path: str, identity: Record) -> None:
        self.folder = Path(f"{path}.work")
        self.folder.mkdir(exist_ok=True)
        state = self.folder / "identity.json"
        if state.exists():
            before = msgspec.json.decode(state.read_bytes())
            if found := difference(before, identity):
                raise BadInput(
                    f"{path}: an unfinished run was made with {found}; finish it with its options, or --overwrite"
                )
        write_atomic(state, msgspec.json.encode(identity))

    @property
    def sequences(self) -> int:
        state = self.folder / "collected.json"
        return json.loads(state.read_text())["sequences"] if state.exists() else 0

    def trim(self, layers: Sequence[int], tokens: int, heads: int, dim: int) -> None:
        """Cut the raw files back to whole sequences: what a kill left half written is collected again."""
        for layer in layers:
            for name, size in self._sizes(heads, dim):
                path = self.folder / f"layer-{layer}.{name}"
                with open(path, "ab") as stream:
                    stream.truncate(tokens * size)

    @staticmethod
    def _sizes(heads: int, dim: int) -> list[tuple[str, int]]:
        return [("keys", heads * dim * 2), ("values", heads * dim * 2), ("fk", heads * 4), ("fv", heads * 4)]

    def add(self, found: dict[int, tuple[Any, Any, Any, Any]], sequences: int) -> None:
        """A sequence's tensors, tokens first; factors with the mean 1 over the sequence's tokens a head."""
        for layer, (keys, values, fk, fv) in found.items():
            for name, tensor in (("keys", keys), ("values", values)):
                self._append(layer, name, tensor[0].transpose(0, 1).float().cpu().numpy().astype(np.float16))
            for name, tensor in (("fk", fk), ("fv", fv)):
                mean = tensor[0].mean(-1, keepdim=True).clamp_min(1e-30)
                self._append(layer, name, (tensor[0] / mean).transpose(0, 1).float().cpu().numpy())
        write_atomic(self.folder / "collected.json", json.dumps({"sequences": sequences}).encode())

    def _append(self, layer: int, name: str, rows: Any) -> None:
        try:
            with open(self.folder / f"layer-{layer}.{name}", "ab") as out:
                out.write(rows.tobytes())
        except OSError as error:
            raise Missing(
                f"{self.folder}: cannot be written ({error.strerror}); free some space and run the same command again"
            ) from error

    def read(self, layer: int, name: str, heads: int, dim: int) -> Any:
        """(tokens, heads, dim) float16, or (tokens, heads) float32 for factors, mapped from disk."""
        path = self.folder / f"layer-{layer}.{name}"
        if name in ("fk", "fv"):
            return np.memmap(path, dtype=np.float32, mode="r").reshape(-1, heads)
        return np.memmap(path, dtype=np.float16, mode="r").reshape(-1, heads, dim)

    def book(self, layer: int) -> Record | None:
        """A layer's fitted books, None where they are not there whole."""
        path = self.folder / f"book-{layer}.npz"
        check = self.folder / f"book-{layer}.sha256"
        if not (path.exists() and check.exists()):
            return None
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != check.read_text():
            return None
        with np.load(path) as found:
            return {name: found[name] for name in found.files}

    def put_book(self, layer: int, parts: Record) -> None:
        held = io.BytesIO()
        np.savez(held, **parts)
        write_atomic(self.folder / f"book-{layer}.npz", held.getvalue())
        write_atomic(self.folder / f"book-{layer}.sha256", hashlib.sha256(held.getvalue()).hexdigest().encode())


@contextlib.contextmanager
def collecting(model: Any, collector: Collector) -> Iterator[None]:
    """The model with the collector as its attention."""
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    from transformers.modeling_utils import AttentionInterface

    name, before = "antkv-collect", model.config._attn_implementation
    AttentionInterface.register(name, collector)
    AttentionMaskInterface.register(name, sdpa_mask)
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def fit_layer(work: Work, layer: int, made: Made) -> Record:
    """keys, values (heads or 1, M, C, d) float16, and of each book its effective sample size, relative error and steps."""
    import torch

    from antkv import kmeans

    heads, dim, parts = made.model.kv_heads, made.model.head_dim, made.model.head_dim // made.dim
    out: Record = {}
    for name, factor in (("keys", "fk"), ("values", "fv")):
        rows = work.read(layer, name, heads, dim)
        weights = np.array(work.read(layer, factor, heads, dim))  # (tokens, heads)
        left_out = _anchored(weights, made)
        if made.weights == "none":
            weights = np.ones_like(weights)
        weights[left_out] = 0
        books, sizes, errors = [], [], []
        for group in [[h] for h in range(heads)] if made.scope == "head" else [list(range(heads))]:
            x = torch.from_numpy(np.concatenate([rows[:, h] for h in group]).astype(np.float32))
            w = torch.from_numpy(np.concatenate([weights[:, h] for h in group]))
            split = x.reshape(len(x), parts, made.dim).transpose(0, 1).contiguous()
            found = kmeans.fit(split, w.expand(parts, -1), made.centroids, seed=made.seed + layer)
            books.append(found.centroids.half().numpy())
            sizes.append(float(kmeans.effective_size(w)))
            spread = (split - (split * w[None, :, None]).sum(1, keepdim=True) / w.sum()).square().sum(-1) @ w
            errors.append((found.objective / spread.double().clamp_min(1e-30)).mean().item())
        out |= {name: np.stack(books), f"{name}_ess": np.array(sizes), f"{name}_error": np.array(errors)}
    return out


def _anchored(weights: Any, made: Made) -> Any:
    """(tokens, heads) of the tokens that would be anchors, sequence by sequence: they are stored exactly, and a book that
    follows them serves no other."""
    out = np.zeros(weights.shape, dtype=bool)
    count = int(np.ceil(made.left_out * made.length - 1e-9))
    if count:
        for at in range(0, len(weights), made.length):
            part = weights[at : at + made.length]
            top = np.argpartition(-part, count - 1, axis=0)[:count]
            np.put_along_axis(out[at : at + made.length], top, True, axis=0)
    return out


def run(
    texts: Sequence[str],
    *,
    uri: str,
    shape: Shape,
    rope: Literal["pre", "post"],
    weights: str,
    scope: Literal["head", "layer"],
    left_out: float,
    tokens: int,
    length: int,
    dtype: str,
    device: str,
    trust_remote_code: bool,
    seed: int,
    output: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """The verb; returns the exit code."""
    from antkv.rope import Rope
    from tenfold_shared.models import load_causal_lm

    if output is None:
        raise BadInput("calibrate: expected -o CODEBOOK.safetensors")
    target = Path(output)
    if not target.parent.is_dir():
        raise BadInput(f"{output}: the folder {target.parent} does not exist; create it first")
    work_folder = Path(f"{output}.work")
    lock = Lock(target.with_name(f".{target.name}.lock"), target)
    try:
        if overwrite:
            target.unlink(missing_ok=True)
            shutil.rmtree(work_folder, ignore_errors=True)
        model, tokenizer = load_causal_lm(uri, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
        model_of = Model.of(model.config)
        if model_of.head_dim % shape.dim:
            raise BadInput(f"--dim {shape.dim}: does not divide the model's head_dim {model_of.head_dim}")
        layers = full_layers(model.config)
        if not layers:
            raise BadInput(f"{uri}: no layer attends to its whole context; there is nothing to quantise")
        turned = Rope(model) if rope == "pre" else None
        ids, digests = read_texts(texts, tokenizer)
        sequences = [ids[at : at + length] for at in range(0, len(ids) - length + 1, length)][
            : max(1, tokens // length)
        ]
        seen = len(sequences) * length
        if seen < shape.centroids:
            raise BadInput(
                f"calibrate: {len(ids)} tokens of text make {len(sequences)} sequences of {length}; {shape.centroids} centroids "
                "want more tokens than they are"
            )
        made = Made(
            model_of, shape.dim, shape.centroids, scope, rope, weights, left_out, seen, len(sequences), length, digests,
            weights_sha256(model), seed, antkv.__version__, layers,
        )  # fmt: skip
        identity = _identity(made, uri)
        manifest = Path(f"{output}.manifest.json")
        if target.exists():
            before = msgspec.json.decode(manifest.read_bytes()) if manifest.exists() else {}
            if found := difference(before, identity):
                raise BadInput(f"{output}: was made with {found}; choose another output or add --overwrite")
            if not quiet:
                print(f"antkv: {output}: is made already", file=sys.stderr)
            return 0
        if seen < PER_CENTROID * shape.centroids and not quiet:
            print(
                f"antkv: {seen} tokens are {seen / shape.centroids:.0f} a centroid; {PER_CENTROID} are wanted (--tokens, more text)",
                file=sys.stderr,
            )
        work = Work(output, identity)
        _collect(model, sequences, layers, made, turned, work, quiet)
        del model
        fitted = _fit(layers, made, work, quiet)
        import torch

        keys, values = (
            {layer: torch.from_numpy(fitted[layer][part]) for layer in layers} for part in ("keys", "values")
        )
        save(Codebook(made, keys, values, output), output)
        told = _told(fitted, made)
        write_atomic(manifest, msgspec.json.format(msgspec.json.encode({**identity, "fit": told}), indent=2) + b"\n")
        shutil.rmtree(work.folder, ignore_errors=True)
    finally:
        lock.release()
    for name, low in (("keys", told["keys_least_ess"]), ("values", told["values_least_ess"])):
        if low < FLAT * shape.centroids and not quiet:
            print(
                f"antkv: {name}: the weights of a book are worth {low:.0f} tokens, under {FLAT} a centroid; more text, or "
                "--weights none",
                file=sys.stderr,
            )
    if as_json:
        print(json.dumps({"codebook": output, **told}))
    elif not quiet:
        print(f"antkv: {output}: {len(layers)} layers, {seen} tokens, index bits {shape.rate:g}", file=sys.stderr)
    return 0


def _identity(made: Made, uri: str) -> Record:
    options = {k: v for k, v in msgspec.to_builtins(made).items() if k not in ("texts", "version", "schema")}
    return {
        "schema": "manifest/1",
        "tool": "antkv",
        "verb": "calibrate",
        "options": {"model": uri, **options},
        "inputs": [{"path": f"text {at}", "sha256": digest} for at, digest in enumerate(made.texts, 1)],
        "version": made.version,
    }


def _collect(
    model: Any, sequences: list[list[int]], layers: list[int], made: Made, rope: Any, work: Work, quiet: bool
) -> None:
    import torch

    done = work.sequences
    work.trim(layers, done * made.length, made.model.kv_heads, made.model.head_dim)
    collector = Collector(layers, made.weights != "bound", rope)
    with (
        Progress("collect", len(sequences), "sequences", quiet) as progress,
        collecting(model, collector),
        torch.inference_mode(),
    ):
        progress.update(done)
        for number in range(done, len(sequences)):
            ids = torch.tensor([sequences[number]], device=model.device)
            model(input_ids=ids, use_cache=False, logits_to_keep=1)
            for layer, found in collector.found.items():
                if not all(bool(torch.isfinite(part).all()) for part in found):
                    raise BadInput(
                        f"layer {layer}: the model's keys or values hold NaN or infinity in sequence {number + 1}"
                    )
            work.add(collector.found, number + 1)
            collector.found = {}
            progress.update(1)


def _fit(layers: list[int], made: Made, work: Work, quiet: bool) -> dict[int, Record]:
    fitted: dict[int, Record] = {}
    with Progress("fit", len(layers), "layers", quiet) as progress:
        for layer in layers:
            found = work.book(layer)
            if found is None:
                found = fit_layer(work, layer, made)
                work.put_book(layer, found)
            fitted[layer] = found
            progress.update(1)
    return fitted


def _told(fitted: dict[int, Record], made: Made) -> Record:
    out: Record = {"tokens": made.tokens, "index_bits": made.shape.rate, "layers": len(fitted)}
    for part in ("keys", "values"):
        out[f"{part}_error"] = [round(float(found[f"{part}_error"].mean()), 5) for found in fitted.values()]
        out[f"{part}_least_ess"] = round(min(float(found[f"{part}_ess"].min()) for found in fitted.values()), 1)
    return out
