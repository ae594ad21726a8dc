"""Proxy language models: small decoders that are trained by the hundred to learn what mixtures do.

A pre-norm decoder with learned positions, ReLU feed-forward layers, no biases and tied embeddings. All parameters are views of one
flat vector: one fused Adam step, one copy to save or restore, and gradients of whole models as vectors (DoGE needs them). The models are
so small that the cost is in the number of operations, so the forward pass has as few as it can, and on a CPU gradient.py takes
autograd's place.

`Proxy` is the model with its optimiser; `Learner` is what everything that steers a run needs of a model, proxies and others
(foreign.py has the one for transformers models).
"""

from __future__ import annotations

import math
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from datamix import gradient
from datamix.corpus import Corpus
from datamix.stream import key_of
from tenfold_shared import BadInput, unread
from tenfold_shared.records import readable

LN2 = math.log(2)


class ProxyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shape and training of a proxy. A run continues a base, which is trained from nothing for `base_updates` at `base_lr` with cosine
    decay; the run itself has `warmup` updates to `lr`, then `decay` over its length. batch rows of context tokens an update."""

    width: int = 32
    layers: int = 1
    heads: int = 2
    context: int = 64
    batch: int = 16
    lr: float = 3e-3
    warmup: int = 4
    decay: Literal["constant", "cosine", "linear"] = "constant"
    base_lr: float = 4e-3
    base_updates: int = 1600
    precision: Literal["float32", "bfloat16"] = "float32"

    def parameters(self, vocabulary: int) -> int:
        return (vocabulary + self.context) * self.width + self.layers * 12 * self.width**2


PRESETS: dict[str, ProxyConfig] = {
    "22k": ProxyConfig(),
    "35k": ProxyConfig(layers=2),
    "43k": ProxyConfig(width=48),
    "123k": ProxyConfig(width=64, layers=2, heads=4, context=128, batch=32, lr=2e-3, base_lr=3e-3),
    "3m": ProxyConfig(width=256, layers=4, heads=8, context=256, batch=32, lr=6e-4, base_lr=1e-3, base_updates=4000),
    "50m": ProxyConfig(width=640, layers=10, heads=10, context=1024, batch=64, lr=3e-4, warmup=50, base_lr=6e-4, base_updates=10000, precision="bfloat16"),
}  # fmt: skip


def config_of(given: str) -> ProxyConfig:
    """A preset by name, or a TOML file of ProxyConfig's fields. Raises BadInput."""
    import tomllib

    if given in PRESETS:
        return PRESETS[given]
    if not given.endswith(".toml"):
        raise BadInput(f"--proxy {given}: expected one of {', '.join(PRESETS)}, or a FILE.toml of their fields")
    try:
        with open(given, "rb") as stream:
            found = msgspec.convert(tomllib.load(stream), ProxyConfig)
    except OSError as error:
        raise unread(given, error) from None
    except msgspec.ValidationError as error:
        raise BadInput(f"{given}: {readable(error)}") from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is no TOMLDecodeError
        raise BadInput(f"{given}: not TOML: {error}") from None
    sizes = (found.width, found.layers, found.heads, found.context, found.batch)
    if min(sizes) < 1 or found.width % found.heads or min(found.lr, found.base_lr) <= 0:
        raise BadInput(f"{given}: expected sizes of 1 or more, rates above 0, and a width that the heads divide")
    return found


def rate_of(update: int, lr: float, warmup: int, decay: str, total: int | None) -> float:
    """The learning rate of an update, counted from 1: up in a line to lr at update `warmup`, then constant, or down to 0 at update `total`
    (`linear` or `cosine`); constant where no total is known."""
    if update <= warmup:
        return lr * update / warmup
    if decay == "constant" or not total:
        return lr
    done = min((update - warmup) / max(total - warmup, 1), 1.0)
    return lr * (1 - done if decay == "linear" else 0.5 * (1 + math.cos(math.pi * done)))


class Learner(Protocol):
    """A model that a run trains and measures. batch and context in rows and tokens; losses in bits per byte."""

    batch: int
    context: int

    def train(self, rows: NDArray[np.int64], updates: int | None = None) -> float:
        """Updates on rows [n, context + 1], n a multiple of batch; their mean loss in nats a token. `updates` is the run's whole length
        for the schedule of the rate, asked for at the first call."""
        ...

    def evaluate(self, held: Held) -> NDArray[np.float64]:
        """Bits per byte of every domain, [D]."""
        ...

    def state(self) -> dict[str, Tensor]: ...

    def restore(self, state: dict[str, Tensor]) -> None: ...


def parted(text: NDArray[Any], separator: int, least: int) -> int:
    """Where held-out text [n] is cut in two: at the start of the document nearest to the middle that leaves a third of the text, and `least`
    tokens, on either side; in the middle where there is none. What feedback is measured on and what results are quoted on then share no
    document."""
    n = len(text)
    room = max(-(-n // 3), least)
    starts = np.flatnonzero(np.asarray(text) == separator) + 1
    starts = starts[(starts >= room) & (starts <= n - room)]
    return int(starts[np.abs(2 * starts - n).argmin()]) if len(starts) else n // 2


class Held:
    """Held-out rows of every domain. Rows [D · n, context + 1]; `factor` [D] turns nats a token into bits a byte."""

    def __init__(self, corpus: Corpus, context: int, tokens: int, half: Literal["feedback", "score"]) -> None:
        """About `tokens` tokens a domain from one half of each domain's valid text, cut between two documents (`parted`): policies see
        losses on the first half, results are quoted on the second."""
        rows, self.counts, factors = [], [], []
        for one in corpus.domains:
            array = corpus.tokens(one.name, "valid")
            cut = parted(array, corpus.listing.separator, context + 1)
            array = array[:cut] if half == "feedback" else array[cut:]
            n = min(max(tokens // context, 1), (len(array) - 1) // context)
            if n < 1:
                raise BadInput(
                    f"{corpus.folder}: {one.name}: {one.valid.tokens} valid tokens are fewer than two rows of {context + 1}; add text"
                )
            # spread over the text: neighbouring rows are alike
            starts = (np.arange(n) * ((len(array) - 1 - context) / max(n - 1, 1))).astype(np.int64)
            rows.append(np.asarray(array)[starts[:, None] + np.arange(context + 1)].astype(np.int64))
            self.counts.append(n)
            factors.append(one.valid.tokens / max(one.valid.bytes, 1) / LN2)
        self.rows = torch.from_numpy(np.concatenate(rows))
        self.factor = np.array(factors)

    def means(self, losses: Tensor) -> NDArray[np.float64]:
        """Mean loss of every domain from row means [D · n], in bits a byte [D]."""
        parts = losses.double().cpu().split(self.counts)
        return np.array([float(part.mean()) for part in parts]) * self.factor


class Proxy:
    """A proxy model and its optimiser, on one device. `vocabulary` tokens; the same config, vocabulary and seed give the same bytes."""

    def __init__(self, config: ProxyConfig, vocabulary: int, seed: int, device: str = "cpu") -> None:
        self.config, self.vocabulary, self.device = config, vocabulary, torch.device(device)
        self.batch, self.context = config.batch, config.context
        d = config.width
        shapes: dict[str, tuple[int, ...]] = {"tokens": (vocabulary, d), "positions": (config.context, d)}
        for i in range(config.layers):
            shapes |= {f"qkv{i}": (3 * d, d), f"out{i}": (d, d), f"up{i}": (4 * d, d), f"down{i}": (d, 4 * d)}
        rng = torch.Generator().manual_seed(key_of(seed, "init") % 2**63)
        parts = [torch.randn(shape, generator=rng) * (0.02 if name in ("tokens", "positions") else shape[-1] ** -0.5) for name, shape in shapes.items()]  # fmt: skip
        for name, part in zip(shapes, parts, strict=True):
            if name.startswith(("out", "down")):
                part *= (2 * config.layers) ** -0.5
        self.flat = torch.cat([part.reshape(-1) for part in parts]).to(self.device)
        self.gradient = torch.zeros_like(self.flat)
        self.views: dict[str, Tensor] = {}
        at = 0
        for name, shape in shapes.items():
            n = math.prod(shape)
            leaf = self.flat[at : at + n].view(shape).requires_grad_(True)
            leaf.grad = self.gradient[at : at + n].view(shape)
            self.views[name] = leaf
            at += n
        self.lr, self.decay, self.warmup = config.lr, config.decay, config.warmup
        self.total: int | None = None
        self._start_optimiser()

    def _start_optimiser(self) -> None:
        self.updates = 0
        self.flat.grad = self.gradient
        self._adam = torch.optim.Adam([self.flat], lr=self.lr, betas=(0.9, 0.99), fused=True)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, length, vocabulary] of token ids [n, length], length up to the context."""
        p, c = self.views, self.config
        n, length = x.shape
        d, heads = c.width, c.heads
        h = F.embedding(x, p["tokens"]) + p["positions"][:length]
        for i in range(c.layers):
            q, k, v = (
                F.linear(F.rms_norm(h, (d,)), p[f"qkv{i}"]).view(n, length, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
            )
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            h = h + F.linear(mixed.transpose(1, 2).reshape(n, length, d), p[f"out{i}"])
            h = h + F.linear(F.relu(F.linear(F.rms_norm(h, (d,)), p[f"up{i}"])), p[f"down{i}"])
        return F.linear(F.rms_norm(h, (d,)), p["tokens"])

    def losses(self, rows: Tensor) -> Tensor:
        """Cross entropy of each token in nats, [n, length], of rows [n, length + 1]."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            logits = self.forward(rows[:, :-1])
        found = F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].reshape(-1), reduction="none")
        return found.view(len(rows), -1)

    def backward(self, rows: Tensor, weights: Tensor | None = None) -> float:
        """Fill `gradient` with that of the mean loss, each row times weights [n] where given; the mean loss itself."""
        if gradient.possible(self):
            return gradient.fill(self, rows, weights)
        self.gradient.zero_()
        if weights is None:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
                logits = self.forward(rows[:, :-1])
            loss = F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].reshape(-1))
        else:
            loss = (self.losses(rows).mean(1) * weights).mean()
        loss.backward()
        return float(loss.detach())

    def rate(self) -> float:
        """The learning rate of the next update."""
        return rate_of(self.updates + 1, self.lr, self.warmup, self.decay, self.total)

    def apply(self) -> None:
        """One Adam step on `gradient`."""
        self._adam.param_groups[0]["lr"] = self.rate()
        self._adam.step()
        self.updates += 1

    def train(self, rows: NDArray[np.int64], updates: int | None = None) -> float:
        if updates is not None:
            self.total = updates
        every = torch.from_numpy(rows).to(self.device)
        total, n = 0.0, 0
        for batch in every.split(self.batch):
            total += self.backward(batch)
            self.apply()
            n += 1
        return total / n

    @torch.no_grad()
    def evaluate(self, held: Held) -> NDArray[np.float64]:
        size = max(self.batch, 64)
        means = [self.losses(batch.to(self.device)).mean(1) for batch in held.rows.split(size)]
        return held.means(torch.cat(means))

    def begin(self) -> None:
        """Forget the optimiser's state and begin the schedule of a run: what happens where a base becomes a run."""
        self.lr, self.decay, self.warmup = self.config.lr, self.config.decay, self.config.warmup
        self.total = None
        self._start_optimiser()

    def state(self) -> dict[str, Tensor]:
        told = self._adam.state.get(self.flat, {})
        zero = torch.zeros_like(self.flat)
        return {
            "flat": self.flat.detach().clone(),
            "first": told.get("exp_avg", zero).clone(),
            "second": told.get("exp_avg_sq", zero).clone(),
            "updates": torch.tensor([self.updates, -1 if self.total is None else self.total]),
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        with torch.no_grad():
            self.flat.copy_(state["flat"])
        self._start_optimiser()
        self.updates, total = (int(x) for x in state["updates"])
        self.total = None if total < 0 else total
        if self.updates:
            self._adam.state[self.flat] = {
                "step": torch.tensor(float(self.updates), device=self.device),
                "exp_avg": state["first"].to(self.device).clone(),
                "exp_avg_sq": state["second"].to(self.device).clone(),
            }


def train_base(
    config: ProxyConfig, corpus: Corpus, mixture: NDArray[np.float64], seed: int, device: str = "cpu", tick: Any = None
) -> Proxy:
    """A base: trained from nothing on a mixture (of source domains, commonly) for config.base_updates with cosine decay. `tick()` is called after every 50
    updates."""
    from datamix.stream import Mixer, Picker, Rows

    proxy = Proxy(config, corpus.listing.vocabulary, seed, device)
    proxy.lr, proxy.decay, proxy.warmup = config.base_lr, "cosine", max(config.base_updates // 20, 1)
    mixer = Mixer(Rows(corpus, config.context, key_of(seed, "base")), Picker(corpus.names, key_of(seed, "base")))
    done = 0
    while done < config.base_updates:
        now = min(50, config.base_updates - done)
        rows, _ = mixer.draw(mixture, now * config.batch)
        proxy.train(rows, config.base_updates)
        done += now
        if tick is not None:
            tick()
    proxy.begin()
    return proxy
