"""`grpo-roc plan`: what a run takes, before it is started: memory of training and of engines, places for trajectories, tool calls, operations, seconds a step; and what to change where it does not fit.

Everything is counted from the model's config; no weights are read. Each number is a row with the formula that it came from (--explain). Sizes are in bytes, G is 10^9.

Where it sits: beside simulate.py, which says how long a step's rollouts take; here the rate of decoding is given, or read off the memory's bandwidth, and a step is a sum.
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from grpo_roc.scheduler import places
from tenfold_shared import BadInput

Record = dict[str, Any]
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "granite", "smollm3", "phi3")  # whose parameters the formulas count
RESERVE = 0.08  # of a GPU: CUDA's context, the allocator's gaps, NCCL
MOST_GPUS = 4096


class Options(msgspec.Struct, frozen=True):
    """As on the command line. mean_length, mean_prompt: tokens; tokens_per_second: of one engine, all its trajectories together; tool_rate: calls a second that the environment does."""

    prompts: int = 512
    group_size: int = 16
    oversample: float = 2.0
    max_length: int = 12_288
    max_prompt: int = 2048
    mean_length: int | None = None
    mean_prompt: int = 256
    gpus: int = 8
    tensor_parallel: int = 1
    gpu_mem: float = 80e9
    pass_tokens: int = 20_480
    logit_chunk: int = 1024
    gradient_checkpointing: bool = True
    offload: bool = False
    block: int = 16
    tokens_per_second: float | None = None
    bandwidth: float = 3.35e12
    train_tflops: float = 400.0
    calls: float = 2.75
    tool_rate: float | None = None
    tool_seconds: float = 0.3


class Row(msgspec.Struct, frozen=True):
    part: str
    name: str
    value: float
    unit: str
    formula: str


class Sheet:
    """Rows in the order in which they were counted."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def put(self, part: str, name: str, value: float, unit: str, formula: str) -> Any:
        self.rows.append(Row(part, name, value, unit, formula))
        return value

    def __getitem__(self, name: str) -> float:
        return next(row.value for row in self.rows if row.name == name)


# ---------------------------------------------------------------- the model


class Shape(msgspec.Struct, frozen=True):
    """A dense decoder with gated MLPs. query, kv: channels of all query heads and of all stored ones; biases: parameters of them in a layer; qk_norm: queries and keys are normed a head."""

    family: str
    layers: int
    hidden: int
    query: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocabulary: int
    tied: bool
    biases: int
    qk_norm: bool
    sliding: int

    @property
    def kv(self) -> int:
        return self.kv_heads * self.head_dim

    @classmethod
    def of(cls, config: Any) -> Shape:
        """From a transformers config. Raises BadInput for what is not counted here: experts, linear attention or states, latent caches, encoders, families with parts of their own."""
        family = str(config.model_type)

        def refuse(why: str) -> BadInput:
            return BadInput(f"--model: {family}: {why}, which plan cannot count; it counts dense decoders of {', '.join(FAMILIES)}")  # fmt: skip

        if getattr(config, "is_encoder_decoder", False):
            raise refuse("has an encoder and a decoder")
        text = config.get_text_config()
        for name in ("num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok"):
            if (getattr(text, name, None) or 0) > 1:
                raise refuse(f"is a mixture of experts ({name} {getattr(text, name)})")
        if getattr(text, "kv_lora_rank", None):
            raise refuse("caches latent vectors (MLA)")
        kinds = [str(kind) for kind in getattr(text, "layer_types", None) or ()]
        odd = sorted(set(kinds) - {"full_attention", "sliding_attention"})
        if odd or not getattr(text, "num_attention_heads", None):
            raise refuse(
                f"has layers without keys and values of every token ({', '.join(odd) or 'no attention heads'})"
            )
        if family not in FAMILIES:
            raise refuse("is of a family with other parts")
        heads, hidden = text.num_attention_heads, text.hidden_size
        kv_heads = getattr(text, "num_key_value_heads", None) or heads
        dim = getattr(text, "head_dim", None) or hidden // heads
        query, kv = heads * dim, kv_heads * dim
        biases = 0
        if family == "qwen2":
            biases += query + 2 * kv
        elif getattr(text, "attention_bias", False):
            biases += query + 2 * kv + hidden
        if getattr(text, "mlp_bias", False):
            biases += 2 * text.intermediate_size + hidden
        return cls(
            family, text.num_hidden_layers, hidden, query, kv_heads, dim, text.intermediate_size, text.vocab_size, bool(config.tie_word_embeddings), biases, family == "qwen3",
            kinds.count("sliding_attention"),
        )  # fmt: skip

    @property
    def layer(self) -> int:
        """Parameters of a layer."""
        norms = 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        return 2 * self.hidden * (self.query + self.kv) + 3 * self.hidden * self.mlp + self.biases + norms

    @property
    def embedding(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        return (1 if self.tied else 2) * self.embedding + self.layers * self.layer + self.hidden

    @property
    def multiplied(self) -> int:
        """Parameters that a token is multiplied with: all but the table that it is looked up in."""
        return self.parameters - (0 if self.tied else self.embedding)

    @property
    def activations(self) -> int:
        """Bytes a token that a layer's forward pass keeps for its backward pass, in bf16 with fused attention: of each norm its input in fp32, normed in bf16 and scaled; queries, keys, values and
        attention's output; the MLP's gate, its activation, up and their product. Norms of queries and keys: fp32 and normed."""
        return (
            16 * self.hidden
            + 4 * self.query
            + 4 * self.kv
            + 8 * self.mlp
            + (6 * (self.query + self.kv) if self.qk_norm else 0)
        )

    @property
    def kv_bytes(self) -> int:
        """Bytes of a token in the cache, bf16."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 2


# ---------------------------------------------------------------- the plan


def counted(shape: Shape, o: Options) -> Sheet:
    """All numbers. Memory is of the fullest GPU: training is sharded over all of them (FSDP), an engine takes `tensor_parallel`, and both are on the same GPUs, one after the other."""
    s = Sheet()
    p, n, tp = shape.parameters, o.gpus, o.tensor_parallel

    s.put("model", "parameters", p, "", f"{'1 (tied)' if shape.tied else '2'} x {shape.vocabulary} x {shape.hidden} embeddings + {shape.layers} layers x {shape.layer} + {shape.hidden}; a layer: 2 x {shape.hidden} x ({shape.query} + {shape.kv}) attention + 3 x {shape.hidden} x {shape.mlp} MLP + biases and norms")  # fmt: skip
    kv = s.put("model", "kv_bytes_per_token", shape.kv_bytes, "B", f"2 x {shape.layers} layers x {shape.kv_heads} KV heads x {shape.head_dim} x 2 bytes" + (f"; {shape.sliding} layers slide and are counted as if they did not" if shape.sliding else ""))  # fmt: skip

    # ---- rollouts and tools
    rollouts = s.put("step", "rollouts", round(o.prompts * o.group_size * o.oversample), "", f"{o.prompts} prompts x {o.group_size} kept x {o.oversample:g}")  # fmt: skip
    kept = s.put("step", "kept", o.prompts * o.group_size, "", f"{o.prompts} prompts x {o.group_size}")
    mean = o.mean_length or math.ceil(o.max_length / 2)
    s.put("step", "mean_length", mean, "tokens", "--mean-length" if o.mean_length else f"half of --max-length {o.max_length}; give --mean-length once it is known")  # fmt: skip
    sampled = s.put("step", "rollout_tokens", rollouts * mean, "tokens", f"{rollouts} x {mean}")
    trained = s.put("step", "train_tokens", kept * (mean + o.mean_prompt), "tokens", f"{kept} x ({mean} + {o.mean_prompt} of a prompt)")  # fmt: skip
    calls = s.put("step", "tool_calls", round(rollouts * o.calls), "", f"{rollouts} x {o.calls:g} a trajectory")

    # ---- memory of training
    budget = s.put("training", "gpu_budget", o.gpu_mem * (1 - RESERVE), "B", f"{o.gpu_mem / 1e9:g} GB less {RESERVE:.0%} for CUDA, NCCL and gaps")  # fmt: skip
    unit = max(shape.layer, shape.embedding)
    states = s.put("training", "master_and_adamw", 12 * p / n, "B", f"(4 fp32 master + 8 AdamW) x {p} / {n} GPUs")
    gradients = s.put("training", "gradients", 4 * p / n, "B", f"4 fp32 x {p} / {n} GPUs")
    if n == 1:
        copy = s.put("training", "compute_copy", 2 * p, "B", f"2 bf16 x {p}")
    else:
        copy = s.put("training", "compute_copy", 6 * unit, "B", f"2 bf16 x (2 gathered + 1 gradient) x {unit}, the largest unit that is gathered")  # fmt: skip
    a = shape.activations
    whole = s.put("training", "activations_kept", o.pass_tokens * shape.layers * a, "B", f"{o.pass_tokens} tokens x {shape.layers} layers x {a} bytes: 16 x {shape.hidden} + 4 x {shape.query} + 4 x {shape.kv} + 8 x {shape.mlp}{' + 6 x (' + str(shape.query) + ' + ' + str(shape.kv) + ')' if shape.qk_norm else ''}")  # fmt: skip
    saved = s.put("training", "activations_checkpointed", o.pass_tokens * (2 * shape.hidden * shape.layers + a), "B", f"{o.pass_tokens} tokens x (2 x {shape.hidden} x {shape.layers} layers + {a} of one layer)")  # fmt: skip
    logits = s.put("training", "logits_chunk", 10 * o.logit_chunk * shape.vocabulary, "B", f"{o.logit_chunk} tokens x {shape.vocabulary} x (2 bf16 + 4 fp32 + 4 gradient)")  # fmt: skip
    used = saved if o.gradient_checkpointing else whole
    s.put("training", "training_peak", states + gradients + copy + used + logits, "B", f"master and AdamW + gradients + compute copy + activations {'checkpointed' if o.gradient_checkpointing else 'kept'} + logits")  # fmt: skip

    # ---- memory of engines
    engines = s.put("engines", "engines", n // tp, "", f"{n} GPUs / {tp} each")
    weights = s.put("engines", "weights", 2 * p / tp, "B", f"2 bf16 x {p} / {tp} GPUs")
    beside = s.put("engines", "trainer_beside", 0 if o.offload else states, "B", "--offload: in host memory meanwhile" if o.offload else "master and AdamW stay")  # fmt: skip
    cache = s.put("engines", "cache", max(0.0, budget - weights - beside) * tp, "B", f"({budget:.4g} - {weights:.4g} - {beside:.4g}) x {tp} GPUs")  # fmt: skip
    blocks = int(cache // (kv * o.block))
    tokens = s.put("engines", "cache_tokens", blocks * o.block, "tokens", f"whole blocks of {o.block} in {cache:.4g} / {kv}")  # fmt: skip
    s.put("engines", "places", places(blocks, o.max_prompt, o.max_length, o.block), "", f"K = floor({blocks} blocks / ceil(({o.max_prompt} + {o.max_length}) / {o.block})): trajectories that an engine holds for certain")  # fmt: skip
    share = rollouts / engines
    at_once = s.put("engines", "at_once", max(1.0, min(share, tokens / (o.mean_prompt + mean))), "", f"min({rollouts} / {engines} engines, {tokens} / ({o.mean_prompt} + {mean}) tokens): what fits at the mean length, as kv-mean sends")  # fmt: skip

    # ---- operations
    m, context = shape.multiplied, o.mean_prompt + mean / 2
    attention = 4 * shape.layers * shape.query * context
    forward = s.put("operations", "flop_per_token", 2 * m + attention, "FLOP", f"2 x {m} multiplied parameters + 4 x {shape.layers} x {shape.query} x {context:g} tokens of context")  # fmt: skip
    passes = 4 if o.gradient_checkpointing else 3
    train = s.put("operations", "train_flop", passes * forward * trained, "FLOP", f"{passes} forward passes' worth ({'1 + 1 again + 2 back' if o.gradient_checkpointing else '1 + 2 back'}) x {trained} tokens; 6 P a token{', 8 P with checkpointing' if o.gradient_checkpointing else ''}")  # fmt: skip
    old = s.put("operations", "old_logprob_flop", forward * trained, "FLOP", f"one forward pass x {trained} tokens")
    s.put("operations", "rollout_flop", forward * sampled, "FLOP", f"one forward pass x {sampled} tokens")

    # ---- time
    if o.tokens_per_second is not None:
        rate = s.put("time", "engine_rate", o.tokens_per_second, "tokens/s", "--tokens-per-second")
    else:
        read = weights + at_once * kv / tp * context
        step = max(read / o.bandwidth, at_once * forward / (o.train_tflops * 1e12 * tp))
        rate = s.put("time", "engine_rate", at_once / step, "tokens/s", f"{at_once:.4g} at once / {step:.4g} s: the longer of ({weights:.4g} weights + {at_once:.4g} x {kv} / {tp} x {context:g} cached) / {o.bandwidth:g} GB/s and the operations; an upper bound, measure it")  # fmt: skip
    work = sampled / (engines * rate)
    alone = o.max_length * at_once / rate
    rolling = s.put("time", "rollout_seconds", max(work, alone), "s", f"the longer of {sampled} / ({engines} x {rate:.4g}) = {work:.4g} and one of {o.max_length} tokens at {rate / at_once:.4g} tokens/s = {alone:.4g}; grpo-roc simulate counts better")  # fmt: skip
    s.put("time", "tool_rate_needed", calls / rolling, "calls/s", f"{calls} calls / {rolling:.4g} s")
    s.put("time", "tool_calls_in_flight", calls / rolling * o.tool_seconds, "", f"that x {o.tool_seconds:g} s each (Little's law)")  # fmt: skip
    tools = 0.0
    if o.tool_rate is not None:
        tools = s.put("time", "tool_seconds", calls / o.tool_rate, "s", f"{calls} calls / {o.tool_rate:g} a second")
    training = s.put("time", "train_seconds", (train + old) / (n * o.train_tflops * 1e12), "s", f"(train + old log-probs) / ({n} GPUs x {o.train_tflops:g} TFLOP/s)")  # fmt: skip
    s.put("time", "step_seconds", max(rolling, tools) + training, "s", "the longer of rollouts and tools, + training")
    return s


def fits(sheet: Sheet) -> dict[str, bool]:
    return {"training": sheet["training_peak"] <= sheet["gpu_budget"], "rollout": sheet["places"] >= 1}


def changes(shape: Shape, o: Options) -> list[str]:
    """What to change so that it fits, each line enough alone; where no single option is, how many GPUs are, with all that saves memory."""
    if all(fits(counted(shape, o)).values()):
        return []
    whole = o.max_prompt + o.max_length
    single: list[tuple[str, Options]] = []
    if not o.gradient_checkpointing:
        single.append(("--gradient-checkpointing", msgspec.structs.replace(o, gradient_checkpointing=True)))
    if o.pass_tokens > whole:
        single.append((f"--pass-tokens {whole}", msgspec.structs.replace(o, pass_tokens=whole)))
    if not o.offload:
        single.append(("--offload", msgspec.structs.replace(o, offload=True)))
    for tp in range(2, o.gpus + 1):
        if o.gpus % tp == 0 and shape.kv_heads % tp == 0:
            single.append((f"--tensor-parallel {tp}", msgspec.structs.replace(o, tensor_parallel=tp)))
    found = [told for told, one in single if all(fits(counted(shape, one)).values())]
    if found:
        return found
    gpus = o.gpus
    thrifty = msgspec.structs.replace(
        o, gradient_checkpointing=True, offload=True, pass_tokens=min(o.pass_tokens, whole)
    )
    while gpus <= MOST_GPUS:
        for tp in (tp for tp in range(1, shape.kv_heads + 1) if shape.kv_heads % tp == 0 and gpus % tp == 0):
            if all(fits(counted(shape, msgspec.structs.replace(thrifty, gpus=gpus, tensor_parallel=tp))).values()):
                return [f"--gpus {gpus} --tensor-parallel {tp} --gradient-checkpointing --offload --pass-tokens {thrifty.pass_tokens}"]  # fmt: skip
        gpus *= 2
    return ["a shorter --max-length, or GPUs with more memory: no number of these holds a trajectory"]


def check(shape: Shape, o: Options) -> None:
    """Raises BadInput for what contradicts itself."""
    if o.gpus % o.tensor_parallel:
        raise BadInput(f"--tensor-parallel {o.tensor_parallel}: expected a divisor of --gpus {o.gpus}")
    if shape.kv_heads % o.tensor_parallel:
        raise BadInput(f"--tensor-parallel {o.tensor_parallel}: expected a divisor of the model's {shape.kv_heads} KV heads")  # fmt: skip
    if o.pass_tokens < o.max_prompt + o.max_length:
        raise BadInput(f"--pass-tokens {o.pass_tokens}: expected {o.max_prompt + o.max_length} or more, so that the longest trajectory (--max-prompt and --max-length) is not cut")  # fmt: skip
    if (o.mean_length or 0) > o.max_length or o.mean_prompt > o.max_prompt:
        raise BadInput("--mean-length, --mean-prompt: expected no more than --max-length, --max-prompt")


def notes(sheet: Sheet, o: Options) -> list[str]:
    found = []
    if o.tool_rate is not None and sheet["tool_rate_needed"] > o.tool_rate:
        found.append(f"the environment's {o.tool_rate:g} calls/s are less than the {sheet['tool_rate_needed']:.3g} needed: rollouts wait for tools; more workers")  # fmt: skip
    share = sheet["rollouts"] / sheet["engines"]
    if 1 <= sheet["places"] < share:
        found.append(f"an engine has {sheet['places']:.0f} places for {share:.0f} trajectories: compare policies with grpo-roc simulate --engines {sheet['engines']:.0f} --cache-tokens {sheet['cache_tokens']:.0f}")  # fmt: skip
    return found


def run(uri: str, options: Options, *, explain: bool, as_json: bool) -> int:
    """The verb; returns 1 where it does not fit. Raises BadInput, Missing."""
    from tenfold_shared.models import config_of

    shape = Shape.of(config_of(uri, "grpo-roc[hf]"))
    check(shape, options)
    sheet = counted(shape, options)
    fit, advice, told = fits(sheet), changes(shape, options), notes(sheet, options)
    code = 0 if all(fit.values()) else 1
    if as_json:
        parts: Record = {}
        for row in sheet.rows:
            value = {"value": row.value, "unit": row.unit, "formula": row.formula} if explain else row.value
            parts.setdefault(row.part, {})[row.name] = value
        print(json.dumps({"uri": uri, "family": shape.family, **parts, "fits": fit, "changes": advice, "notes": told}))  # fmt: skip
        return code
    from rich.markup import escape
    from rich.table import Table

    from tenfold_shared.cli import print_table

    table = Table("part", "number", "value", *(["formula"] if explain else []), title=escape(uri))
    table.columns[2].justify = "right"
    for row in sheet.rows:
        table.add_row(row.part, row.name, shown(row.value, row.unit), *([escape(row.formula)] if explain else []))
    print_table(table)
    for part, ok in fit.items():
        print(f"{part}: {'fits' if ok else 'does not fit'}")
    for line in advice:
        print(f"would fit: {line}")
    for line in told:
        print(f"note: {line}")
    return code


def shown(value: float, unit: str) -> str:
    if unit == "B" and value >= 1e6:
        return f"{value / 1e9:.3f} GB"
    if value >= 1e15:
        return f"{value:.3e} {unit}".strip()
    return f"{value:,.0f} {unit}".strip() if value == int(value) or value >= 1000 else f"{value:.4g} {unit}".strip()
