"""One token a row, drawn from its own random stream: temperature, top_k, top_p, log-probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tenfold_shared.generate import Sampling

if TYPE_CHECKING:
    import torch

CANDIDATES = 256  # a nucleus almost always lies within so many tokens; where it does not, the row is sorted whole


def draw(
    logits: torch.Tensor, uniform: torch.Tensor, temperature: float, top_p: float, top_k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token a row by inverting the cumulative distribution; exact, no approximation.

    logits: (batch, vocab) float32. uniform: (batch,) float64 in [0, 1). temperature > 0.
    Returns the ids (batch,) and log sum exp(logits / temperature) (batch,), not finite where a row has
    no distribution.
    Order of the filters: temperature, top_k, then the smallest set that holds top_p of what is left.
    """
    import torch

    scaled = logits / temperature
    total = scaled.logsumexp(-1, keepdim=True)
    vocab = scaled.shape[1]
    if top_p >= 1 and not 0 < top_k < vocab:
        mass = (scaled - total).double().exp_().cumsum(-1)
        index = torch.searchsorted(mass, (uniform * mass[:, -1])[:, None], right=True)
        return index[:, 0].clamp_(max=vocab - 1), total[:, 0]
    kept = min(top_k or vocab, vocab)

    def pick(values: torch.Tensor, ids: torch.Tensor, rows: Any, whole: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw from the likeliest tokens, in descending order; also which rows they do not suffice for."""
        mass = (values - total[rows]).double().exp_().cumsum(-1)
        reach = mass[:, -1] * top_p if whole else torch.full_like(mass[:, -1], top_p)
        last = (mass < reach[:, None]).sum(-1, keepdim=True).clamp_(max=mass.shape[1] - 1)
        index = (mass <= uniform[rows, None] * mass.gather(1, last)).sum(-1, keepdim=True)
        return ids.gather(1, torch.minimum(index, last))[:, 0], mass[:, -1] < reach

    if kept <= CANDIDATES:
        chosen, _ = pick(*scaled.topk(kept), slice(None), True)
        return chosen, total[:, 0]
    if kept == vocab:
        chosen, short = pick(*scaled.topk(CANDIDATES), slice(None), False)
    else:
        chosen, short = torch.zeros_like(total[:, 0], dtype=torch.long), torch.ones_like(total[:, 0], dtype=torch.bool)
    if short.any():
        values, ids = scaled[short].sort(-1, descending=True)
        chosen[short], _ = pick(values[:, :kept], ids[:, :kept], short, True)
    return chosen, total[:, 0]


class Sampler:
    """Logits processor that draws the token itself and leaves it the only finite score.

    Faster than transformers' own top_p, which sorts the vocabulary at every step, and each row draws
    from its own stream: one uniform a token.
    """

    BLOCK = 64

    def __init__(self, sampling: Sampling, seeds: list[int], device: Any) -> None:
        import numpy as np
        import torch

        self.sampling, self.device, self.step = sampling, device, 0
        self.streams = [np.random.Generator(np.random.PCG64(seed % 2**64)) for seed in seeds]
        self.uniform = torch.empty(0)
        self.logprobs: list[torch.Tensor] = []  # (rows,) a step since the last `take`
        self.broken: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        import numpy as np
        import torch

        how = self.sampling
        if how.temperature < 1e-5:
            top, chosen = scores.max(-1)
        else:
            if self.step % self.BLOCK == 0:
                block = np.stack([stream.random(self.BLOCK) for stream in self.streams])
                self.uniform = torch.from_numpy(block).to(self.device)
            chosen, top = draw(scores, self.uniform[:, self.step % self.BLOCK], how.temperature, how.top_p, how.top_k)
        self.step += 1
        self.broken.append(~top.isfinite())
        if how.logprobs:
            self.logprobs.append(scores.gather(1, chosen[:, None])[:, 0] - scores.logsumexp(-1))
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)

    def take(self) -> tuple[list[list[bool]], list[list[float]]]:
        """A list a row of what the steps since the last call saw: scores that are no numbers, log-probabilities."""
        import torch

        broken = torch.stack(self.broken, 1).tolist()
        logprobs = torch.stack(self.logprobs, 1).tolist() if self.logprobs else [[] for _ in broken]
        self.broken, self.logprobs = [], []
        return broken, logprobs

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows only."""
        self.streams = [self.streams[row] for row in rows]
        if self.uniform.numel():
            self.uniform = self.uniform[rows]
