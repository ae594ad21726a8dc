"""A planted model: an OPT of any shape whose active neurons are known beforehand, with data to fine-tune it on.

The oracle that every other part of this tool is held against: which neurons can fire for which tokens is fixed by construction, so
that a measured set, a predictor and a speed-up each have a true answer, at the shape of OPT-1.3B as at that of a unit test, and
without a download. tiny_relu.py makes the other kind of model, whose sparsity is natural.

The construction. Tokens are split into G topics, the F neurons of each layer into G groups, scattered so that no two neighbours
are of one group. The hidden state x (d) holds a topic code that no layer writes to:

    coordinates 0 … G-1   C at the token's topic, else 0; nowhere for the special tokens, for which no neuron fires
    coordinate  G         C, for all tokens: what the thresholds are measured by
    the rest              the token, its position, and what attention and FFN add; the mean over the rest is 0 everywhere

Neuron j of group k has the pre-activation, with σ and μ the layer norm's deviation and mean, μ = 2C/d,

    z_j = (a_j (x_k - μ) - a'_j (x_G - μ) + w_j·rest) / σ + b_j,     b_j < 0, a'_j > 0, sum of w_j = 0.

All of it but b_j is divided by one σ: the sign of z hardly depends on how LayerNorm rescales a token. a'_j is set from tokens of
topic k that have come through the layers below, so that z_j > 0 for a share of them between 0.35 and 0.65 (neurons differ), and
a_j = ‖w_j‖ R / C with R half as much again as the longest `rest` seen: by Cauchy and Schwarz no rest within R, of any text, lets a
neuron of another topic fire. What fine-tuning q, k, v does to the rest cannot change that until the rest grows beyond R.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tenfold_shared import BadInput
from tenfold_shared.jsonl import Lock, write_atomic
from tenfold_shared.progress import Progress

Record = dict[str, Any]
SCHEMA = "planted/1"
FILES = {
    "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "train.jsonl", "valid.jsonl", "planted.json",
}  # fmt: skip
EOS, PAD = "</s>", "<pad>"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CLUSTERS = 8  # of a topic's tokens, at most: a token is followed by tokens of the next cluster
FOLLOW = (0.4, 0.3, 0.2, 0.1)  # how often each of a token's successors follows it
SCALE = 0.125  # root mean square of the rest of an embedding
HEIGHT = 0.4  # C, in lengths of an embedding's rest
CLUSTER_SHARE = 0.35  # of that rest's square: what tokens of a cluster have in common
POSITION = 0.3  # length of a position's embedding, in the same
WORK = 0.6  # what all attention layers, and all FFNs, add to the rest, in the same, as if they were independent
SLACK = 1.5  # R, in lengths of the longest rest seen
SHARES = (0.35, 0.65)  # of a topic's tokens that a neuron fires for, as planted
ALLOWED = (0.2, 0.8)  # and as measured
BIAS = 0.3  # -b at least about this, in deviations of what the rest adds to z
CLEAR = (
    1.0  # least distance from 0 of all that must not fire, in the same; a few where d is tens, 30 where it is hundreds
)
BONUS = 4.0  # nats by which tokens of the topic lead the others
CALIBRATION_TOKENS = 128  # of a row; four rows a topic


def make(
    folder: str | Path,
    *,
    hidden: int = 768,
    ffn: int = 3072,
    layers: int = 4,
    heads: int = 12,
    vocab: int = 8192,
    groups: int = 8,
    positions: int = 2048,
    seed: int = 0,
    examples: int = 512,
    length: int = 256,
    completion: int = 64,
    dtype: str = "float32",
    device: str = "cpu",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Record:
    """Writes a planted model and its data to a folder, which appears whole or not at all. Returns planted.json without `neurons`.

    The folder holds an OPTForCausalLM (config, weights of `dtype`), a word-level tokenizer (`t0` … by spaces; `</s>` is token
    `vocab` and `<pad>` the next), train.jsonl of `examples` lines and valid.jsonl of an eighth, each line {"context": [ids],
    "completion": [ids], "topic": k} of `length` tokens of one topic in all, and planted.json: groups, the token range of each topic
    [first, end), the group of every neuron of every layer in natural order, and per layer what was measured on other text than the
    thresholds were set on: `margin` (how far below 0 the nearest neuron stays that must not fire, in deviations of z) and `shares`
    (least and most of a topic's tokens that one of its neurons fires for).

    device: where the calibration runs; all random numbers are drawn on the CPU. Same options give the same bytes, on one kind of
    device and with as many threads. A folder that these options made is left as it is. progress: counts layers.
    Raises BadInput for sizes that do not fit each other or give no clean model, and for what is in the way; Busy where another
    run writes the folder.
    """
    options: Record = {
        "hidden": hidden, "ffn": ffn, "layers": layers, "heads": heads, "vocab": vocab, "groups": groups, "positions": positions,
        "seed": seed, "examples": examples, "length": length, "completion": completion, "dtype": dtype,
    }  # fmt: skip
    _check(options)
    output = Path(folder)
    if not output.absolute().parent.is_dir():
        raise BadInput(f"{output}: the folder {output.absolute().parent} does not exist; create it first")
    lock = Lock(lock_path(output), output)
    try:
        settle(output, FILES)
        if not overwrite and output.exists() and any(output.iterdir()):
            found = read(output)
            for name, value in options.items():
                if found["options"].get(name) != value:
                    raise BadInput(
                        f"{output}: was made with --{name} {found['options'].get(name)}, this one has {value}; choose another "
                        "folder, or --overwrite"
                    )
            return {key: value for key, value in found.items() if key != "neurons"}
        plan = _Plan(options)
        tensors, neurons, measured = _weights(plan, torch.device(device), progress)
        made: Record = {
            "schema": SCHEMA, "groups": groups, "seed": seed, "options": options, "clusters": plan.clusters,
            "vocabulary": [[k * plan.topic_size, (k + 1) * plan.topic_size] for k in range(groups)],
            "special": {EOS: vocab, PAD: vocab + 1}, "layers": measured,
            "parameters": sum(x.numel() for x in tensors.values()),
        }  # fmt: skip
        with folder_in_place(output) as fresh:
            save_model(fresh, plan.config(), tensors, _tokenizer(vocab), positions)
            del tensors
            for name, lines in (("train", examples), ("valid", max(groups, examples // 8))):
                write_atomic(fresh / f"{name}.jsonl", plan.lines(name, lines).encode())
            write_atomic(fresh / "planted.json", json.dumps({**made, "neurons": neurons}).encode())
        return made
    finally:
        lock.release()


def read(folder: str | Path) -> Record:
    """planted.json of a folder. Raises BadInput where there is none, or another kind."""
    path = Path(folder) / "planted.json"
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BadInput(f"{folder}: has no planted.json; expected a folder that planted.make wrote") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: cannot be read: {error}") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise BadInput(f"{path}: expected schema {SCHEMA}")
    return found


def true_set(folder: str | Path, layer: int, topics: Iterable[int]) -> np.ndarray:
    """Whether each neuron of a layer, (F,) bool in natural order, can fire for tokens of any of these topics: all that fire for
    64 or more of them each. Raises BadInput for a layer or topic that is not there."""
    found = read(folder)
    if not 0 <= layer < len(found["neurons"]):
        raise BadInput(f"{folder}: layer {layer}: expected 0 to {len(found['neurons']) - 1}")
    wanted = sorted(set(topics))
    if wanted and (wanted[0] < 0 or wanted[-1] >= found["groups"]):
        raise BadInput(f"{folder}: topics {wanted}: expected 0 to {found['groups'] - 1}")
    return np.isin(np.asarray(found["neurons"][layer]), wanted)


def _check(o: Record) -> None:
    """Raises BadInput for sizes that do not fit."""
    for name in (
        "hidden",
        "ffn",
        "layers",
        "heads",
        "vocab",
        "groups",
        "positions",
        "examples",
        "length",
        "completion",
    ):
        if isinstance(o[name], bool) or not isinstance(o[name], int) or o[name] < 1:
            raise BadInput(f"--{name} {o[name]}: expected a whole number from 1 on")
    if o["groups"] < 2:
        raise BadInput(f"--groups {o['groups']}: expected at least 2: one alone is never inactive")
    if o["hidden"] < max(2 * o["groups"], o["groups"] + 8):
        raise BadInput(
            f"--hidden {o['hidden']}: expected at least {max(2 * o['groups'], o['groups'] + 8)} for {o['groups']} groups, which take "
            "a coordinate each"
        )
    for name, by in (("hidden", "heads"), ("ffn", "groups"), ("vocab", "groups")):
        if o[name] % o[by]:
            raise BadInput(f"--{name} {o[name]}: expected a multiple of --{by} {o[by]}")
    if o["vocab"] < 16 * o["groups"]:
        raise BadInput(f"--vocab {o['vocab']}: expected at least {16 * o['groups']}, 16 tokens a topic")
    if not 2 <= o["length"] <= o["positions"]:
        raise BadInput(f"--length {o['length']}: expected 2 to {o['positions']}, the positions that the model has")
    if o["completion"] >= o["length"]:
        raise BadInput(f"--completion {o['completion']}: expected fewer than --length {o['length']} tokens")
    if o["dtype"] not in DTYPES:
        raise BadInput(f"--dtype {o['dtype']}: expected {', '.join(DTYPES)}")


# ---------------------------------------------------------------- text


class _Plan:
    """What follows from the options alone: topics, their chains, documents; and random numbers by name."""

    def __init__(self, options: Record) -> None:
        self.o = options
        self.hidden, self.groups = options["hidden"], options["groups"]
        self.rest = self.hidden - self.groups - 1
        self.dtype = DTYPES[options["dtype"]]
        self.topic_size = options["vocab"] // self.groups
        self.clusters = max(c for c in range(1, CLUSTERS + 1) if self.topic_size % c == 0)
        self.follow = self._chains()

    def _seed(self, *name: Any) -> int:
        return int.from_bytes(
            hashlib.blake2b(json.dumps([self.o["seed"], *name]).encode(), digest_size=7).digest(), "little"
        )

    def normal(self, *name: Any, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers that depend on the seed and a name, on the CPU."""
        return torch.randn(*shape, generator=torch.Generator().manual_seed(self._seed(*name)))

    def numbers(self, *name: Any) -> np.random.Generator:
        return np.random.default_rng(self._seed(*name))

    def config(self) -> Any:
        from transformers import OPTConfig

        o = self.o
        return OPTConfig(
            vocab_size=o["vocab"] + 2, hidden_size=o["hidden"], num_hidden_layers=o["layers"], ffn_dim=o["ffn"],
            num_attention_heads=o["heads"], max_position_embeddings=o["positions"], do_layer_norm_before=True, dropout=0.0,
            attention_dropout=0.0, layerdrop=0.0, activation_function="relu", bos_token_id=o["vocab"], eos_token_id=o["vocab"],
            pad_token_id=o["vocab"] + 1, tie_word_embeddings=True, architectures=["OPTForCausalLM"], dtype=o["dtype"],
        )  # fmt: skip

    def _chains(self) -> np.ndarray:
        """(4, vocab) ids: the successors of every token. Token i of a topic is in cluster i mod `clusters`; its successors are in
        the next one. Each of the four is a bijection, so that a long document comes by all tokens equally often."""
        o, size, clusters = self.o, self.topic_size, self.clusters
        follow = np.empty((len(FOLLOW), o["vocab"]), dtype=np.int64)
        for topic in range(self.groups):
            draw = self.numbers("chain", topic)
            for row in follow:
                for cluster in range(clusters):
                    members = topic * size + np.arange(cluster, size, clusters)
                    after = topic * size + np.arange((cluster + 1) % clusters, size, clusters)
                    row[members] = draw.permutation(after)
        return follow

    def documents(self, topics: np.ndarray, length: int, draw: np.random.Generator) -> np.ndarray:
        """(n, length) ids: a walk through the chain of each topic (n,), from a token drawn at random."""
        ids = np.empty((len(topics), length), dtype=np.int64)
        ids[:, 0] = topics * self.topic_size + draw.integers(self.topic_size, size=len(topics))
        which = draw.choice(len(FOLLOW), size=ids.shape, p=FOLLOW)
        for at in range(1, length):
            ids[:, at] = self.follow[which[:, at], ids[:, at - 1]]
        return ids

    def lines(self, name: str, count: int) -> str:
        """The lines of a data file: every run of `groups` lines has each topic once, in an order of its own."""
        draw = self.numbers("lines", name)
        rounds = [draw.permutation(self.groups) for _ in range(-(-count // self.groups))]
        topics = np.concatenate(rounds)[:count]
        cut = self.o["length"] - self.o["completion"]
        out = []
        for topic, ids in zip(topics.tolist(), self.documents(topics, self.o["length"], draw).tolist(), strict=True):
            line = {"context": ids[:cut], "completion": ids[cut:], "topic": topic}
            out.append(json.dumps(line, separators=(",", ":")) + "\n")
        return "".join(out)

    def calibration(self) -> tuple[Tensor, Tensor, int]:
        """ids and topics (rows, tokens), topic -1 for special tokens, and how many rows come first that thresholds are set on:
        two documents a topic; then one more of each, and as many rows of all tokens mixed."""
        draw, groups = self.numbers("calibration"), self.groups
        tokens = min(CALIBRATION_TOKENS, self.o["positions"])
        pure = self.documents(np.tile(np.arange(groups), 3), tokens, draw)
        mixed = draw.integers(self.o["vocab"] + 2, size=(groups, tokens))
        ids = np.concatenate([pure, mixed])
        topics = np.where(ids < self.o["vocab"], ids // self.topic_size, -1)
        return torch.from_numpy(ids), torch.from_numpy(topics), 2 * groups

    def neurons(self, layer: int) -> np.ndarray:
        """(F,) the group of each neuron: permutations of all groups one after the other, none beginning as the last one ended, so
        that neighbours differ and every stretch of neurons has its share of every group."""
        draw = self.numbers("neurons", layer)
        runs: list[np.ndarray] = []
        for _ in range(self.o["ffn"] // self.groups):
            run = draw.permutation(self.groups)
            if runs and run[0] == runs[-1][-1]:
                run = np.roll(run, 1)
            runs.append(run)
        return np.concatenate(runs)


def _tokenizer(vocab: int) -> Any:
    """Words `t0` … to their numbers, split at spaces; what is no such word is `</s>`, as OPT has it."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {**{f"t{i}": i for i in range(vocab)}, EOS: vocab, PAD: vocab + 1}
    made = Tokenizer(models.WordLevel(words, unk_token=EOS))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


# ---------------------------------------------------------------- weights


def _weights(
    plan: _Plan, device: torch.device, progress: Progress | None
) -> tuple[dict[str, Tensor], list[list[int]], list[Record]]:
    """All tensors by their names in OPTForCausalLM, the group of each neuron of each layer, and what was measured of a layer.
    Each layer is scaled by what calibration text gives below it."""
    o, d, groups, layers = plan.o, plan.hidden, plan.groups, plan.o["layers"]
    code = groups + 1  # coordinates of the code, the one that all tokens share included
    whole = SCALE * math.sqrt(plan.rest)
    height = float(torch.tensor(HEIGHT * whole).to(plan.dtype))
    share = WORK * whole / math.sqrt(layers)  # the length of what one layer's attention or FFN adds
    tensors: dict[str, Tensor] = {}

    def keep(name: str, x: Tensor) -> Tensor:
        """Stores a tensor as it will be read; returns what it has become, in float32."""
        tensors[name] = x.to("cpu", plan.dtype).contiguous()
        return tensors[name].to(device, torch.float32)

    def norm(name: str) -> None:
        keep(f"{name}.weight", torch.ones(d))
        keep(f"{name}.bias", torch.zeros(d))

    def writer(*name: Any, width: int) -> Tensor:
        """(d, width), random, that writes nothing to the code and whose outputs have mean 0."""
        made = torch.zeros(d, width)
        made[code:] = plan.normal(*name, shape=(plan.rest, width))
        made[code:] -= made[code:].mean(0)
        return made.to(device)

    prefix = "model.decoder"
    tokens = keep(f"{prefix}.embed_tokens.weight", _token_table(plan, whole, height))
    places = keep(f"{prefix}.embed_positions.weight", _position_table(plan, whole))
    ids, topics, first = plan.calibration()
    ids, topics = ids.to(device), topics.to(device)
    x = tokens[ids] + places[2 : 2 + ids.shape[1]]  # OPT's positions begin at 2
    neurons, measured = [], []
    for layer in range(layers):
        at = f"{prefix}.layers.{layer}"
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            norm(f"{at}.{name}")
        # Attention: keys and queries have a part in common, so that tokens look at their like; some heads more sharply.
        key = plan.normal("key", layer, shape=(d, d))
        sharp = torch.linspace(0.4, 1.2, o["heads"]).repeat_interleave(d // o["heads"])[:, None]
        query = sharp * (key + 0.5 * plan.normal("query", layer, shape=(d, d)))
        parts = {"q": query, "k": key, "v": plan.normal("value", layer, shape=(d, d))}
        weights = {
            name: keep(f"{at}.self_attn.{name}_proj.weight", part / math.sqrt(d)) for name, part in parts.items()
        }
        mixed = _attention(functional.layer_norm(x, (d,)), weights, o["heads"])
        out = writer("out", layer, width=d)
        added = mixed @ out.T
        scale = share / _length(added)
        x = x + scale * added
        keep(f"{at}.self_attn.out_proj.weight", scale * out)
        for name in ("q", "k", "v", "out"):
            keep(f"{at}.self_attn.{name}_proj.bias", torch.zeros(d))
        # FFN.
        group = plan.neurons(layer)
        neurons.append(group.tolist())
        up, bias, z, told = _first_matrix(plan, layer, x, topics, first, torch.from_numpy(group).to(device), height)
        measured.append(told)
        keep(f"{at}.fc1.weight", up)
        keep(f"{at}.fc1.bias", bias)
        down = writer("down", layer, width=o["ffn"])
        added = z.relu_() @ down.T
        scale = share / _length(added)
        x = x + scale * added
        keep(f"{at}.fc2.weight", scale * down)
        keep(f"{at}.fc2.bias", torch.zeros(d))
        if progress is not None:
            progress.update()
    # The head is the embedding. The last norm's weight sets how much of a logit the topic is, and by random signs takes from the
    # rest what would make each token predict itself.
    sigma = float((x.var(-1, unbiased=False) + 1e-5).sqrt().mean())
    last = torch.zeros(d)
    last[:groups] = BONUS * sigma / height**2
    signs = plan.numbers("signs").choice([-1.0, 1.0], size=plan.rest)
    last[code:] = torch.from_numpy(signs).float() * sigma / float(_length(x[..., code:])) / SCALE
    keep(f"{prefix}.final_layer_norm.weight", last)
    keep(f"{prefix}.final_layer_norm.bias", torch.zeros(d))
    return tensors, neurons, measured


def _length(x: Tensor) -> Tensor:
    """Root mean square of the length of vectors (…, n)."""
    return x.square().sum(-1).mean().sqrt()


def _token_table(plan: _Plan, whole: float, height: float) -> Tensor:
    """(vocab + 2, d): code, and a rest of one length that tokens of a cluster share a part of."""
    vocab, groups, d = plan.o["vocab"], plan.groups, plan.hidden
    table = torch.zeros(vocab + 2, d)
    ids = torch.arange(vocab)
    table[ids, ids // plan.topic_size] = height
    table[:, groups] = height
    own = _centred(plan.normal("tokens", shape=(vocab + 2, plan.rest)))
    shared = _centred(plan.normal("clusters", shape=(plan.clusters, plan.rest)))
    own[:vocab] *= math.sqrt(1 - CLUSTER_SHARE)
    own[:vocab] += math.sqrt(CLUSTER_SHARE) * shared[ids % plan.topic_size % plan.clusters]
    table[:, groups + 1 :] = whole * _centred(own)
    return table


def _position_table(plan: _Plan, whole: float) -> Tensor:
    """(positions + 2, d): sines and cosines of many periods in the rest, so that near places are alike."""
    count, rest = plan.o["positions"] + 2, plan.rest
    angle = torch.arange(count)[:, None] / 10_000.0 ** (torch.arange(rest) // 2 * 2 / rest)
    waves = torch.where(torch.arange(rest) % 2 == 0, angle.sin(), angle.cos())
    # In an order of their own, or slow waves would lie beside each other and fast ones too.
    waves = waves[:, torch.from_numpy(plan.numbers("waves").permutation(rest))]
    table = torch.zeros(count, plan.hidden)
    table[:, plan.groups + 1 :] = POSITION * whole * _centred(waves)
    return table


def _centred(x: Tensor) -> Tensor:
    """Rows with mean 0 and length 1."""
    x = x - x.mean(-1, keepdim=True)
    return x / x.norm(dim=-1, keepdim=True)


def _attention(x: Tensor, weights: dict[str, Tensor], heads: int) -> Tensor:
    """Causal attention before its output matrix, (rows, tokens, d)."""
    q, k, v = (
        functional.linear(x, weights[name]).unflatten(-1, (heads, -1)).transpose(1, 2) for name in ("q", "k", "v")
    )
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


def _first_matrix(
    plan: _Plan, layer: int, x: Tensor, topics: Tensor, first: int, group: Tensor, height: float
) -> tuple[Tensor, Tensor, Tensor, Record]:
    """W1 (F, d) and b1 (F,) as stored, z (rows, tokens, F), and what was measured; by the equations of the module's text.

    x: hidden states (rows, tokens, d) with their topics; thresholds are set on the `first` rows. group: (F,).
    Raises BadInput where a neuron fires for too few or too many tokens of its topic, or comes near to firing for others.
    """
    d, groups, ffn, dtype = plan.hidden, plan.groups, plan.o["ffn"], plan.dtype

    def stored(value: Tensor) -> Tensor:
        return value.to(dtype).float()

    w = plan.normal("up", layer, shape=(ffn, plan.rest))
    w = stored((w - w.mean(-1, keepdim=True)) / math.sqrt(plan.rest)).to(x.device)
    mean = 2 * height / d
    rest = x[..., groups + 1 :]
    sigma = (x.var(-1, unbiased=False) + 1e-5).sqrt()
    added = rest @ w.T  # (rows, tokens, F)
    spread = added[:first].flatten(0, 1).std(0)
    reach = SLACK * rest.norm(dim=-1).max()
    towards = stored(w.norm(dim=-1) * reach / height)
    # As much below 0 as the threshold may lose where it is rounded, and BIAS more.
    bias = -(BIAS * spread + torch.finfo(dtype).eps / 2 * towards * height) / sigma.mean()
    # How often a neuron fires: its place among as many as its group has, in a random order.
    low, high = SHARES
    order = torch.from_numpy(plan.numbers("shares", layer).random(ffn)).float().to(x.device)
    share = low + (high - low) * order
    quantile = torch.empty(ffn, device=x.device)
    for k in range(groups):
        mine = group == k
        here = added[:first][topics[:first] == k][:, mine].sort(0).values  # (tokens of the topic, neurons of the group)
        at = ((1 - share[mine]) * len(here)).long()
        # Between two tokens, so that none stands on the threshold.
        quantile[mine] = (here.gather(0, at[None]) + here.gather(0, (at - 1)[None]))[0] / 2
    against = stored((towards * (height - mean) + quantile + bias * sigma.mean()) / (height - mean))
    # What rounding took from the threshold, the bias gives back.
    bias = stored((against * (height - mean) - towards * (height - mean) - quantile) / sigma.mean())
    up = torch.zeros(ffn, d, device=x.device)
    up[torch.arange(ffn, device=x.device), group] = towards
    up[:, groups] = -against
    up[:, groups + 1 :] = w

    z = functional.linear(functional.layer_norm(x, (d,)), up, bias)
    own = topics[..., None] == group  # (rows, tokens, F): of a neuron's own topic
    margin = -float((z.masked_fill(own, -math.inf).amax((0, 1)) * sigma.mean() / spread).max())
    fires = ((z > 0) & own).sum((0, 1)) / own.sum((0, 1)).clamp_min(1)
    least, most = float(fires.min()), float(fires.max())
    sizes = f"--hidden {d} --ffn {ffn} --vocab {plan.o['vocab']} --groups {groups} --dtype {plan.o['dtype']}"
    if not margin >= CLEAR:
        raise BadInput(
            f"layer {layer}: a neuron of another topic comes within {margin:.2f} deviations of firing; {sizes} give no clean model"
        )
    if not (least >= ALLOWED[0] and most <= ALLOWED[1] and bool((bias < 0).all())):
        raise BadInput(
            f"layer {layer}: neurons fire for {least:.0%} to {most:.0%} of their topic's tokens, expected "
            f"{ALLOWED[0]:.0%} to {ALLOWED[1]:.0%}; {sizes} give no clean model, or try another --seed"
        )
    return up, bias, z, {"margin": round(margin, 3), "shares": [round(least, 4), round(most, 4)]}


# ---------------------------------------------------------------- folders


def save_model(folder: Path, config: Any, tensors: dict[str, Tensor], tokenizer: Any, positions: int) -> None:
    """A Hugging Face folder: config, weights by their names in OPTForCausalLM (the tied head left out), a `tokenizers` Tokenizer
    that has `</s>` and `<pad>`."""
    from safetensors.torch import save_file
    from transformers import GenerationConfig, PreTrainedTokenizerFast

    config.save_pretrained(folder)
    GenerationConfig.from_model_config(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=EOS, eos_token=EOS, unk_token=EOS, pad_token=PAD, model_max_length=positions,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)  # fmt: skip
    path = folder / "model.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod((folder / "config.json").stat().st_mode)  # the library makes it private
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())


def lock_path(output: Path) -> Path:
    """The file that the owner of a folder under work holds."""
    return output.absolute().with_name(f".{output.absolute().name}.lock")


def settle(output: Path, known: set[str]) -> None:
    """Raises BadInput where a folder is a file, or holds what no run writes: replacing it would lose that. What a run that was
    killed between two renames had moved aside comes back."""
    target = output.resolve()
    if not target.exists() and (old := _aside(target, "old")).is_dir():
        old.rename(target)
    if output.exists() and not output.is_dir():
        raise BadInput(f"{output}: is a file; expected a folder, or nothing yet")
    if output.is_dir() and (strange := sorted(path.name for path in output.iterdir() if path.name not in known)):
        raise BadInput(f"{output}: holds {strange[0]}, which no run here wrote; choose another folder")


def _aside(target: Path, what: str) -> Path:
    return target.with_name(f".{target.name}.{what}")


@contextmanager
def folder_in_place(output: Path) -> Iterator[Path]:
    """A folder beside `output` to fill; it takes that name, and the place of what had it, when all of it is written."""
    target = output.resolve()  # where it is a link, what it names is replaced
    fresh, old = _aside(target, "new"), _aside(target, "old")
    shutil.rmtree(fresh, ignore_errors=True)  # of a run that was killed
    fresh.mkdir()
    try:
        yield fresh
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        fresh.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
