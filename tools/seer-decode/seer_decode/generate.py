"""`seer-decode generate`: completions of task records that read a part of the cache; a killed run continues by id."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import msgspec

import seer_decode
from seer_decode import needs, store
from seer_decode.cache import Method, SeerCache, attached
from seer_decode.gate import Gates
from seer_decode.plan import Roofline, other_bytes
from seer_decode.select import Kind, Policy
from seer_decode.shape import Shape
from seer_decode.trace import Read
from tenfold_shared import BadInput
from tenfold_shared import records as shapes
from tenfold_shared.cli import Selection
from tenfold_shared.generate import Completion, Request, Sampling, request_seed
from tenfold_shared.generate.transformers import TransformersGenerator
from tenfold_shared.jsonl import Output, Source, flow
from tenfold_shared.models import load_causal_lm
from tenfold_shared.progress import Progress

Record = dict[str, Any]


class Reading(msgspec.Struct, frozen=True):
    """What a step reads, as the options say it: at most one of budget, threshold, mass and ratio.

    block: of methods without gates; gates have their own, which another one must be told with reuse_gate.
    """

    method: Method
    gate: str | None = None
    budget: int | None = None
    threshold: float | None = None
    mass: float | None = None
    ratio: float | None = None
    block: int | None = None
    reuse_gate: bool = False
    sink: int = 0
    local: int = 1
    dense_layers: int | None = None
    paper_compat: bool = False
    trace_every: int = 1

    def policy(self, made: store.Made | None) -> Policy:
        """Raises BadInput for two amounts, or none where no gates say one."""
        given: dict[Kind, float | None] = {"budget": self.budget, "threshold": self.threshold, "mass": self.mass, "ratio": self.ratio}  # fmt: skip
        some = {kind: float(value) for kind, value in given.items() if value is not None}
        block = self.block or (made.shape.block if made else 64)
        if self.method == "dense":
            return Policy("dense", block=block).checked()
        if len(some) > 1:
            raise BadInput(f"{' and '.join('--' + kind for kind in some)}: expected one of them")
        meant = made.sparsity if made is not None else None
        if not some and meant is not None and meant.sparsity_method == "threshold":
            some = {"threshold": meant.threshold}
        elif not some and meant is not None and meant.sparsity_method == "token_budget":
            some = {"budget": float(meant.token_budget)}
        if not some:
            raise BadInput("expected one of --budget, --threshold, --mass and --ratio")
        ((kind, value),) = some.items()
        if kind in ("threshold", "mass") and self.method in ("recent", "random"):
            raise BadInput(
                f"--{kind}: {self.method} has an order of blocks and no shares; expected --budget or --ratio"
            )
        return Policy(kind, value, block, self.sink, self.local, self.paper_compat).checked()

    def first_dense(self, made: store.Made | None) -> int:
        """Layers that read everything: as told, else as the gates were meant."""
        return self.dense_layers if self.dense_layers is not None else made.sparsity.start_layer if made else 0


class Decoder(TransformersGenerator):
    """A model that answers with a `SeerCache`; `reads` are those of the last batch, by request."""

    def __init__(self, lm: Any, tokenizer: Any, model: str, batch_size: int, policy: Policy, method: Method, gates: Gates | None, *, dense_layers: int = 0, seed: int = 0) -> None:  # fmt: skip
        super().__init__(lm, tokenizer, model, batch_size)
        self.policy, self.method, self.gates = policy, method, gates
        self.dense_layers, self.seed = dense_layers, seed
        self.reads: dict[str, Read] = {}
        self._width = 0
        self._seer: SeerCache | None = None

    @property
    def chats(self) -> bool:
        return bool(self._tokenizer.chat_template)

    def new_cache(self) -> SeerCache:
        self._seer = SeerCache(
            self._lm, self.policy, self.method, self.gates, dense_layers=self.dense_layers, seed=self.seed
        )
        self._seer.prompt = self._width  # equal prompts are read once, and their last token with the first step
        return self._seer

    def decode(self, rows: list[tuple[Request, list[int]]], sampling: Sampling) -> list[Completion]:
        """Raises Missing where the batch's cache has no room."""
        self._width = max(len(ids) for _, ids in rows)
        tokens = self._width + sampling.max_tokens
        wanted = len(rows) * cache_bytes(self._lm, tokens, self.policy.block)
        needs.room(
            wanted,
            self._lm.device,
            f"a cache of {len(rows)} × {tokens} tokens",
            "a smaller --batch-size or --max-tokens",
        )
        self.reads = {}
        with attached(self._lm):
            done = super().decode(rows, sampling)
        assert self._seer is not None
        for at, ((request, _), one) in enumerate(zip(rows, done, strict=True)):
            read, steps = self._seer.trace.of(at), max(0, one.completion_tokens - 1)
            # A sequence that has ended may stay in its batch for some steps; the first token comes of the prompt.
            self.reads[request.key] = Read(read.lengths[:steps], read.blocks[:steps])
        self._seer = None
        return done


def cache_bytes(model: Any, tokens: int, block: int) -> int:
    """Of one sequence: keys and values of layers with gates, which grow by quarters, their features, and other layers' caches."""
    shape = Shape.of(model.config, block=block)
    line = Roofline.of(shape, model.dtype.itemsize)
    features = 4 * line.blocks(tokens) * shape.kv_heads * shape.gate_dim
    gated = len(shape.gated) * int(1.25 * (tokens * line.token_bytes + features))
    return gated + other_bytes(model.config, shape.gated, line, tokens)


def told(read: Read, policy: Policy, method: str, every: int) -> Record:
    """`meta.sparsity` of one sample. density: blocks read of those there were, over all steps; trace.blocks: mean blocks a layer
    and stored head, of every `every`-th step, the first with trace.context cached tokens."""
    there = sum(-(-length // policy.block) for length in read.lengths)
    return {
        "method": method,
        "policy": {name: getattr(policy, name) for name in ("kind", "value", "block", "sink", "local", "paper_compat")},
        "steps": len(read.lengths),
        "density": round(sum(read.blocks) / there, 6) if there else 1.0,
        "blocks_read": round(sum(read.blocks) / max(1, len(read.blocks)), 4),
        "trace": {
            "context": read.lengths[0] if read.lengths else None,
            "every": every,
            "blocks": [round(found, 3) for found in read.blocks[::every]],
        },
    }


class Opened(msgspec.Struct):
    """A decoder, and how it reads."""

    decoder: Decoder
    policy: Policy
    notes: list[str]

    def execute(
        self, sampling: Sampling, every: int, requests: Iterator[tuple[str, Request]]
    ) -> Iterator[tuple[str, Record]]:
        """Completions as plain objects with `sparsity`, a batch at a time."""
        for completion in self.decoder.generate((request for _, request in requests), sampling):
            found = msgspec.to_builtins(completion)
            if (read := self.decoder.reads.get(completion.key)) is not None and not completion.error:
                found["sparsity"] = told(read, self.policy, self.decoder.method, every)
            yield completion.key, found


def opened(reading: Reading, uri: str, *, batch_size: int, dtype: str, device: str, trust_remote_code: bool, allow_extrapolation: bool, seed: int) -> Opened:  # fmt: skip
    """Raises BadInput, Missing."""
    if reading.method == "seer" and reading.gate is None:
        raise BadInput(
            "--method seer: expected --gate GATES; the others (oracle, quest, recent, random, dense) need none"
        )
    seed %= 1 << 63  # what random numbers are drawn by
    lm, tokenizer = load_causal_lm(uri, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    loaded = None
    if reading.gate is not None:
        loaded = store.load(
            reading.gate, lm.config, name=uri, weights=needs.fingerprint(lm), block=reading.block, reuse_gate=reading.reuse_gate
        )  # fmt: skip
    policy = reading.policy(loaded.made if loaded else None)
    gates = loaded.gates.to(lm.device) if loaded and reading.method == "seer" else None
    dense = reading.first_dense(loaded.made if loaded else None)
    decoder = Decoder(lm, tokenizer, uri, batch_size, policy, reading.method, gates, dense_layers=dense, seed=seed)
    if allow_extrapolation:
        decoder.context = None
    notes = [*(loaded.notes if loaded else ()), *policy.notes]
    if loaded and loaded.made.sparsity.sliding_window_size:
        notes.append(
            f"{reading.gate}: a sliding window of {loaded.made.sparsity.sliding_window_size} is not taken over; --local does it"
        )
    return Opened(decoder, policy, notes)


def own_sampling(sampling: Sampling, uri: str) -> Sampling:
    """Temperature, top-p and top-k of the model's generation_config. Raises BadInput where it has none."""
    from transformers import GenerationConfig

    from tenfold_shared.models import resolve

    where = resolve(uri)
    try:
        found = GenerationConfig.from_pretrained(where.path, revision=where.revision or "main")
    except OSError:
        raise BadInput(f"--model-sampling: {uri} has no generation_config.json") from None
    fields = found.to_diff_dict()
    known = {"temperature", "top_p", "top_k", "do_sample", "bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "max_length", "max_new_tokens", "_from_model_config"}  # fmt: skip
    if left := sorted(set(fields) - known):
        print(
            f"seer-decode: --model-sampling: {', '.join(left)} of its generation_config are not taken over",
            file=sys.stderr,
        )
    if not found.do_sample:
        return msgspec.structs.replace(sampling, temperature=0.0)
    given = {"temperature": found.temperature, "top_p": found.top_p, "top_k": found.top_k}
    unsaid = {"temperature": 1.0, "top_p": 1.0, "top_k": 50}  # what transformers takes where a config is silent
    return msgspec.structs.replace(
        sampling, **{key: unsaid[key] if value is None else value for key, value in given.items()}
    )


def sample_fields(index: int, found: Record, task: Record, model: str) -> Record:
    """A sample's own fields."""
    fields: Record = {
        "schema": shapes.schema("sample"), "sample": index, "response": found["text"], "finish_reason": found["finish_reason"],
        "usage": {name: found[name] for name in ("prompt_tokens", "completion_tokens")}, "model": model,
    }  # fmt: skip
    if found.get("sparsity"):
        fields["meta"] = {**(task.get("meta") or {}), "sparsity": found["sparsity"]}
    if found.get("error"):
        fields["error"] = found["error"]
    return fields


def decides(reading: Reading, sampling: Sampling, selection: Selection, **more: Any) -> Record:
    """What a run's results depend on."""
    own = {**msgspec.to_builtins(reading), "gate": needs.digest(reading.gate)}
    return {**own, **msgspec.to_builtins(sampling), **selection.identity(), **more}


def answer(
    by: Opened,
    source: Source,
    out: Output,
    sent: Callable[[Record], Record],
    sampling: Sampling,
    reading: Reading,
    *,
    verb: str,
    samples: int,
    seed: int,
    max_time: float | None,
    quiet: bool,
    judge: Callable[[Record, Record], Record] | None = None,
) -> int:
    """Every task's samples into `out`; returns the exit code. sent: a task's `messages` or `prompt`; judge: what is added to a
    sample's fields."""
    for note in by.notes:
        print(f"seer-decode: {note}", file=sys.stderr)

    def plan(where: str, task: Record) -> list[tuple[str, Request]]:
        prompt, keys = sent(task), [f"{task['id']}#{index}" for index in range(samples)]
        return [(f"#{i}", Request(key=key, seed=request_seed(seed, key), **prompt)) for i, key in enumerate(keys)]

    failures: list[str] = []

    def assemble(task: Record, found: list[Record]) -> list[Record]:
        failures.extend([f"{task['id']}: {one['error']}" for one in found if one.get("error")][:1])
        fields = [sample_fields(index, one, task, by.decoder.model) for index, one in enumerate(found)]
        return [{**task, **one, **(judge(task, one) if judge else {})} for one in fields]

    total = source.count()
    with (
        closing(by.decoder),
        Progress(verb, None if total is None else total * samples, "samples", quiet) as progress,
    ):
        done = flow(
            source,
            identify=lambda task: task["id"],
            plan=plan,
            execute=lambda requests: by.execute(sampling, reading.trace_every, requests),
            assemble=assemble,
            out=out,
            batch=by.decoder.batch_size,
            max_time=max_time,
            progress=progress,
        )
    if failures and not quiet:
        print(f"seer-decode: {len(failures)} of {done.read} tasks failed; the first: {failures[0]}", file=sys.stderr)
    return out.complete(done, source, seed=seed)


def run(
    files: Sequence[str],
    reading: Reading,
    selection: Selection,
    sampling: Sampling,
    *,
    uri: str,
    samples: int,
    model_sampling: bool,
    batch_size: int,
    allow_extrapolation: bool,
    dtype: str,
    device: str,
    trust_remote_code: bool,
    seed: int,
    max_time: float | None,
    plot: str | None,
    output: str | None,
    overwrite: bool,
    quiet: bool,
) -> int:
    """The verb; returns the exit code."""
    if plot:
        if output in (None, "-"):
            raise BadInput("--plot: draws what -o FILE holds; give one")
        needs.plots(plot, [*files, output])
    source = selection.source(files, "task", keep=output is not None)
    if model_sampling:
        sampling = own_sampling(sampling, uri)
    options = decides(reading, sampling, selection, model=uri, samples=samples, batch_size=batch_size, dtype=dtype, seed=seed, allow_extrapolation=allow_extrapolation)  # fmt: skip
    with Output(output, tool="seer-decode", version=seer_decode.__version__, verb="generate", options=options, source=source, overwrite=overwrite) as out:  # fmt: skip
        if out.finished:
            print(f"seer-decode: {output}: complete already; nothing to do", file=sys.stderr)
            if plot:
                _draw(str(output), plot)
            return 0
        by = opened(
            reading, uri, batch_size=batch_size, dtype=dtype, device=device, trust_remote_code=trust_remote_code,
            allow_extrapolation=allow_extrapolation, seed=seed,
        )  # fmt: skip

        def sent(task: Record) -> Record:
            return {"messages": task["messages"]} if task.get("messages") else {"prompt": task["prompt"]}

        code = answer(by, source, out, sent, sampling, reading, verb="generate", samples=samples, seed=seed, max_time=max_time, quiet=quiet)  # fmt: skip
    if plot:
        _draw(str(output), plot)
    return code


def _draw(output: str, plot: str) -> None:
    from seer_decode.plot import draw_trace

    draw_trace(output, plot)
