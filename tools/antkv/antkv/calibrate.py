"""`antkv calibrate`: codebooks from text, in one pass over the model and one fit a layer.

Keys, values and weights of all tokens are written to disk as the model goes through the text, sequence by sequence; then
the books of one layer after the other are fitted from there. A killed run continues at the next sequence or layer:
PATH.work holds what is done, with a checksum each, and what no longer matches its own is done again. Same bytes for the
same inputs, options and seed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np
import torch
from torch import Tensor

import antkv
from antkv import anchors, kmeans, text
from antkv.cache import Settings
from antkv.codebook import Codebook, Made, Model, Shape, room, save, weights_sha256
from antkv.layers import check_layers, full_layers, named
from antkv.rope import Rope
from tenfold_shared import BadInput
from tenfold_shared.jsonl import Lock, difference, write_atomic
from tenfold_shared.models import load_causal_lm
from tenfold_shared.progress import Progress
from tenfold_shared.redaction import redact

Record = dict[str, Any]
PER_CENTROID = 40  # tokens that a centroid should have
FLAT = 10  # effective sample size, in centroids, below which a codebook is warned of


def settings_of(made: Made) -> Settings:
    """The cache whose anchors are left out: the default one, with the score of the same kind as the weights."""
    return Settings(made.left_out, "bound" if made.weights == "bound" else "bound2")


def weighed(layer: anchors.Watched, made: Made) -> tuple[Tensor, Tensor]:
    """What an error in a sequence's keys and values counts, (n, H) float32 each: the factors with the mean 1 a head, or 1;
    0 for the anchors, which a cache stores exactly: a book that follows them serves no other."""
    at = layer.anchors()
    found = []
    for part in layer.factors:
        weights = (
            part / part.mean(-1, keepdim=True).clamp_min(1e-30) if made.weights != "none" else torch.ones_like(part)
        )
        found.append(weights.scatter(-1, at, 0.0)[0].T.cpu())
    return found[0], found[1]


def rows_of(layer: anchors.Watched, made: Made) -> np.ndarray:
    """(n,) records of a sequence's tokens, as they are collected. Raises BadInput for what they cannot hold."""
    of = made.model
    if (found := (layer.keys.shape[1], layer.keys.shape[3])) != (of.kv_heads, of.head_dim):
        raise BadInput(
            f"layer {layer.index}: has {found[0]} stored heads of {found[1]} channels, the config tells of {of.kv_heads} of {of.head_dim}"
        )
    out = np.zeros(layer.length, row_type(made))
    for name, x, weights in zip(("keys", "values"), (layer.keys, layer.values), weighed(layer, made), strict=True):
        held = x[0].transpose(0, 1).half().cpu()
        sound, counted = held.isfinite().all(-1).all(0), weights.isfinite().all(0)  # (H,) each
        if not (sound & counted).all():
            head = (sound & counted).tolist().index(False)
            told = (
                f"reach {float(x[0, head].abs().max()):.3g}, beyond float16"
                if not sound[head]
                else "have no finite weights"
            )
            raise BadInput(f"layer {layer.index}, head {head}: the {name} to be quantised {told}")
        out[name], out[f"{name}_weights"] = held.numpy(), weights.numpy()
    return out


def row_type(made: Made) -> np.dtype:
    """What is collected of a token: keys and values (H, D) float16, weights (H,) float32."""
    heads, dim = made.model.kv_heads, made.model.head_dim
    return np.dtype([
        ("keys", "<f2", (heads, dim)), ("values", "<f2", (heads, dim)),
        ("keys_weights", "<f4", (heads,)), ("values_weights", "<f4", (heads,)),
    ])  # fmt: skip


class Input(msgspec.Struct):
    path: str
    sha256: str


class Run(msgspec.Struct):
    """What decides a codebook's bytes: options, inputs, and the model, which options only name. fit: what the run told in
    the end."""

    tool: str
    verb: str
    options: Record
    inputs: list[Input]
    model: Record = {}
    fit: Record = {}

    def unlike(self, other: Run) -> str | None:
        """The first difference from another run, in words; None for the same one."""
        if found := difference(msgspec.to_builtins(self), msgspec.to_builtins(other)):
            return found
        for field, value in other.model.items():
            if (before := self.model.get(field)) != value:
                uri = other.options["model"]
                return f"another model in {uri}: {field} {str(before)[:40]}, this one has {str(value)[:40]}"
        return None


class Collected(msgspec.Struct):
    """How many sequences the layers' records are of, and each layer's sha256."""

    sequences: Annotated[int, msgspec.Meta(ge=0)] = 0
    sha256: dict[str, str] = {}


Kind = TypeVar("Kind")
NO_RECORD = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # what damaged JSON raises
IDENTITY, CLEARED, COLLECTED = "identity.json", "cleared.json", "collected.json"
OURS = re.compile(r"\.?(identity\.json|cleared\.json|collected\.json|layer-\d+|book-\d+\.(npz|sha256))(\.tmp)?")


class Work:
    """PATH.work: `identity.json`, the run it is of; `layer-I`, records of a layer's tokens; `collected.json`, how many
    sequences they are of and each layer's sha256; `book-I.npz`, a layer's books, with its checksum. A folder without the
    identity of a run is a user's: nothing is written there, and nothing but what a run has written is ever taken away."""

    def __init__(self, folder: Path, made: Made) -> None:
        self.folder, self.made, self.row = folder, made, row_type(made)
        self._sums = {layer: hashlib.sha256() for layer in made.layers}  # of what is collected so far

    @property
    def identity(self) -> Run | None:
        """The run that is unfinished here, None without one."""
        return self._read(IDENTITY, Run)

    def _read(self, name: str, kind: type[Kind]) -> Kind | None:
        """A record, None where there is none to trust."""
        try:
            return msgspec.json.decode((self.folder / name).read_bytes(), type=kind)
        except (OSError, *NO_RECORD):
            return None

    @property
    def _foreign(self) -> str | None:
        """A name that says that this is no run's folder; None for a run's, an empty one, and none."""
        if not self.folder.exists():
            return None
        if not self.folder.is_dir():
            return self.folder.name
        if self._read(IDENTITY, Run) or self._read(CLEARED, Run):
            return None
        names = sorted(path.name for path in self.folder.iterdir())
        others = [name for name in names if not OURS.fullmatch(name)]
        if others or not names:
            return others[0] if others else None
        # All have our names: an identity must be among them, if half written or damaged, but no record of another kind.
        if self._read(IDENTITY, dict) is not None:
            return IDENTITY
        return None if {IDENTITY, CLEARED, f".{IDENTITY}.tmp"} & set(names) else names[0]

    def check(self) -> None:
        """Raises BadInput for what is at our place and is not ours; tells of a run that cannot be gone on with."""
        if (name := self._foreign) is not None:
            raise BadInput(
                f"{self.folder}: is wanted for unfinished work, and has {name}, which no run of antkv left there; move it away, "
                "or choose another -o"
            )
        if (self.folder / IDENTITY).exists() and self.identity is None:
            print(f"antkv: {self.folder / IDENTITY}: not what was written there; starting again", file=sys.stderr)

    def begin(self, identity: Run) -> None:
        self.folder.mkdir(exist_ok=True)
        write_atomic(self.folder / IDENTITY, msgspec.json.encode(identity))

    def clear(self) -> None:
        """Take away what runs have written. The identity goes last, under another name from the beginning: without it,
        the rest is nothing to continue, and with it, it is ours."""
        if self._foreign is not None or not self.folder.exists():
            return
        if (self.folder / IDENTITY).exists():
            os.replace(self.folder / IDENTITY, self.folder / CLEARED)
        for path in self.folder.iterdir():
            if OURS.fullmatch(path.name) and path.name != CLEARED and not path.is_dir():
                path.unlink()
        (self.folder / CLEARED).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()  # not where it holds a user's files, or is a link

    def _layer(self, layer: int) -> Path:
        return self.folder / f"layer-{layer}"

    def resume(self) -> int:
        """How many sequences are collected and are still what was written, of all layers. What a kill left behind them half
        written is cut off; where anything else is found, all is collected again."""
        before = self._read(COLLECTED, Collected)
        if before is None and (self.folder / COLLECTED).exists():
            return self._anew(self.folder / COLLECTED)
        before = before or Collected()
        size = before.sequences * self.made.length * self.row.itemsize
        for layer in self.made.layers:
            total, left = hashlib.sha256(), size
            with open(self._layer(layer), "a+b") as stream:
                stream.seek(0)
                while block := stream.read(min(left, 1 << 20)):
                    total.update(block)
                    left -= len(block)
                if size and total.hexdigest() != before.sha256.get(str(layer)):
                    return self._anew(self._layer(layer))
                stream.truncate(size)
            self._sums[layer] = total
        return before.sequences

    def _anew(self, damaged: Path) -> int:
        print(f"antkv: {damaged}: not what was written there; collecting again", file=sys.stderr)
        (self.folder / COLLECTED).unlink()
        return self.resume()

    def add(self, rows: Iterable[tuple[int, np.ndarray]], sequences: int) -> None:
        """Another sequence's records of each layer, (n,)."""
        for layer, part in rows:
            data = part.tobytes()
            with open(self._layer(layer), "ab") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            self._sums[layer].update(data)
        sums = {str(layer): total.hexdigest() for layer, total in self._sums.items()}
        write_atomic(self.folder / COLLECTED, msgspec.json.encode(Collected(sequences, sums)))

    def read(self, layer: int) -> np.ndarray:
        """(tokens,) records, mapped from disk."""
        return np.memmap(self._layer(layer), dtype=self.row, mode="r")

    def book(self, layer: int) -> Record | None:
        """A layer's fitted books, None where they are not there whole."""
        path = self.folder / f"book-{layer}.npz"
        check = self.folder / f"book-{layer}.sha256"
        if not (path.exists() and check.exists()):
            return None
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest().encode() != check.read_bytes():
            return None
        with np.load(io.BytesIO(data)) as found:
            return {name: found[name] for name in found.files}

    def put_book(self, layer: int, parts: Record) -> None:
        held = io.BytesIO()
        np.savez(held, **parts)
        write_atomic(self.folder / f"book-{layer}.npz", held.getvalue())
        write_atomic(self.folder / f"book-{layer}.sha256", hashlib.sha256(held.getvalue()).hexdigest().encode())


def fit_layer(work: Work, layer: int) -> Record:
    """keys, values (heads or 1, M, C, d) float16, and of each book its effective sample size and relative error."""
    made = work.made
    heads, parts = made.model.kv_heads, made.model.head_dim // made.dim
    rows = work.read(layer)
    out: Record = {}
    for name in ("keys", "values"):
        books, sizes, errors = [], [], []
        for group in [[h] for h in range(heads)] if made.scope == "head" else [list(range(heads))]:
            x = torch.from_numpy(np.concatenate([rows[name][:, h] for h in group]).astype(np.float32))
            w = torch.from_numpy(np.concatenate([rows[f"{name}_weights"][:, h] for h in group]))
            split = x.reshape(len(x), parts, made.dim).transpose(0, 1).contiguous()
            found = kmeans.fit(split, w.expand(parts, -1), made.centroids, seed=made.seed + layer)
            books.append(found.centroids.half().numpy())
            sizes.append(float(kmeans.effective_size(w)))
            mean = (split * w[None, :, None]).sum(1, keepdim=True) / w.sum().clamp_min(1e-30)  # 0 where no token counts
            spread = (split - mean).square().sum(-1) @ w
            errors.append((found.objective / spread.double().clamp_min(1e-30)).mean().item())
        out |= {name: np.stack(books), f"{name}_ess": np.array(sizes), f"{name}_error": np.array(errors)}
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
    allow_extrapolation: bool,
    seed: int,
    output: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """The verb; returns the exit code."""
    started, clock = datetime.now(UTC), time.monotonic()
    if output in (None, "-"):
        raise BadInput("calibrate: expected -o FILE: a codebook is a file, and nothing to pipe")
    target = Path(str(output))
    if not target.parent.is_dir():
        raise BadInput(f"{output}: the folder {target.parent} does not exist; create it first")
    if target.exists() and not target.is_file():
        raise BadInput(f"{output}: is no regular file; -o wants a file here")
    if any(os.path.exists(path) and target.exists() and os.path.samefile(path, target) for path in texts):
        raise BadInput(f"{output}: is an input as well; choose another output")
    if tokens < length and not quiet:
        print(
            f"antkv: --tokens {tokens}: no whole sequence of --length {length}: one of {tokens} is read",
            file=sys.stderr,
        )
    length = min(length, tokens)
    wanted = tokens // length * length
    lock = Lock(target.with_name(f".{target.name}.lock"), target)
    try:
        source = text.Text(texts, wanted)
        model, tokenizer = load_causal_lm(uri, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
        of = Model.of(model.config)
        check_layers(model)
        text.check_length(model.config, length, allow_extrapolation)
        ids = source.ids(tokenizer, wanted)
        if len(ids) < length:
            raise BadInput(f"calibrate: the text has {len(ids)} tokens, fewer than one sequence of --length {length}")
        many = len(ids) // length
        sequences = [ids[at * length : (at + 1) * length] for at in range(many)]
        made = Made(
            of, shape.dim, shape.centroids, scope, rope, weights, left_out, many * length, many, length, source.digests(),
            weights_sha256(model), seed, antkv.__version__, full_layers(model.config),
        )  # fmt: skip
        _check(made)
        turned = Rope(model) if rope == "pre" else None
        identity = _identity(made, uri, source.paths, model)
        work, manifest = Work(Path(f"{output}.work"), made), Path(f"{output}.manifest.json")
        # What is unfinished is the newest truth, --overwrite or not; nothing of an older output goes before the last rename.
        if (unfinished := work.identity) is not None and (found := unfinished.unlike(identity)):
            if not overwrite:
                raise BadInput(
                    f"{output}: an unfinished run was made with {found}; finish it with its options, or --overwrite"
                )
            unfinished = None
        if unfinished is None:
            if target.exists() and not overwrite:
                told = _finished(target, manifest, identity)
                work.clear()
                if not quiet:
                    print(f"antkv: {output}: complete already; nothing to do", file=sys.stderr)
                if as_json:
                    print(json.dumps({"codebook": output, **told}, allow_nan=False))
                return 0
            work.check()
            work.clear()
        if not quiet:
            _tell(made)
        with room(str(target)):
            work.begin(identity)
            _collect(model, sequences, turned, work, quiet)
            del model
            fitted = _fit(work, quiet)
            told = _told(fitted, made)
            identity.fit = told
            record = {
                "schema": "manifest/1",
                **msgspec.to_builtins(identity),
                "version": made.version,
                "argv": [redact(word) for word in sys.argv],
                "seed": seed,
                "counts": {"sequences": many, "tokens": made.tokens, "layers": len(made.layers)},
                "started": started.isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - clock, 3),
            }
            # The manifest first: a kill between the two leaves PATH.work, from which the same command goes on.
            write_atomic(manifest, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
            keys, values = (
                {layer: torch.from_numpy(parts[name]) for layer, parts in fitted.items()} for name in ("keys", "values")
            )
            save(Codebook(made, keys, values, str(target)), str(target))
        work.clear()
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
        print(json.dumps({"codebook": output, **told}, allow_nan=False))
    elif not quiet:
        print(
            f"antkv: {output}: {len(made.layers)} layers, {made.tokens} tokens, index bits {shape.rate:g}",
            file=sys.stderr,
        )
    return 0


def _check(made: Made) -> None:
    """Raises BadInput for books that cannot be made."""
    if made.model.head_dim % made.dim:
        raise BadInput(f"--dim {made.dim}: does not divide the model's head_dim {made.model.head_dim}")
    counted = made.tokens - made.sequences * anchors.count(made.length, settings_of(made))
    if counted < made.centroids:
        raise BadInput(
            f"calibrate: {counted} tokens that are no anchors are fewer than the {made.centroids} centroids of a book; "
            "--tokens, more text"
        )


def _finished(output: Path, manifest: Path, identity: Run) -> Record:
    """What the run that made the output told. Raises BadInput unless it was this one."""
    try:
        before = msgspec.json.decode(manifest.read_bytes(), type=Run)
    except (OSError, *NO_RECORD):
        raise BadInput(f"{output}: exists, and no manifest says what made it; --overwrite replaces it") from None
    if found := before.unlike(identity):
        raise BadInput(f"{output}: was made with {found}; choose another output or add --overwrite")
    return before.fit


def _tell(made: Made) -> None:
    """What a user should know before it begins, on stderr."""
    others = sorted(set(range(made.model.layers)) - set(made.layers))
    if others:
        print(
            f"antkv: layers {named(others)} do not attend to the whole context: they are left alone, and keep their own caches",
            file=sys.stderr,
        )
    if made.tokens < PER_CENTROID * made.centroids:
        print(
            f"antkv: {made.tokens} tokens are {made.tokens / made.centroids:.0f} a centroid; {PER_CENTROID} are wanted (--tokens, "
            "more text)",
            file=sys.stderr,
        )


def _identity(made: Made, uri: str, paths: Sequence[str], model: Any) -> Run:
    options = {
        "model": uri, "dtype": str(model.dtype).removeprefix("torch."), "device": model.device.type, "dim": made.dim,
        "centroids": made.centroids, "rope": made.rope, "weights": made.weights, "codebook_scope": made.scope,
        "leave_out": made.left_out, "tokens": made.tokens, "length": made.length, "seed": made.seed,
    }  # fmt: skip
    inputs = [Input(path, digest) for path, digest in zip(paths, made.texts, strict=True)]
    of = {**msgspec.to_builtins(made.model), "full_layers": made.layers, "weights_sha256": made.weights_sha256}
    return Run("antkv", "calibrate", options, inputs, of)


def _collect(model: Any, sequences: list[list[int]], rope: Rope | None, work: Work, quiet: bool) -> None:
    done = work.resume()
    settings = settings_of(work.made)
    with Progress("collect", len(sequences), "sequences", quiet) as progress:
        progress.update(done)
        for number, ids in enumerate(sequences[done:], done + 1):
            try:
                seen = anchors.watch(model, ids, rope, settings)
                work.add(((layer.index, rows_of(layer, work.made)) for layer in seen), number)
            except BadInput as error:
                raise BadInput(f"sequence {number}: {error}") from None
            progress.update(1)


def _fit(work: Work, quiet: bool) -> dict[int, Record]:
    fitted: dict[int, Record] = {}
    with Progress("fit", len(work.made.layers), "layers", quiet) as progress:
        for layer in work.made.layers:
            found = work.book(layer)
            if found is None:
                found = fit_layer(work, layer)
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
