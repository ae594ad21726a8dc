"""What an agent sees of a run, as numbers: a token for every step and domain (`set/1`), or a vector for every step (the paper's form).

Where it sits: between history.py and everything that learns; numpy alone. A row of features knows nothing of later steps: row s of
`tokens(history)` is the last row of `tokens(history.upto(s))`, so that one pass over a run gives all its states.

Numbers are scaled by fixed constants to about ±1 and never by the data, so that an agent reads another corpus as it read its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datamix.history import History

SPEC = "set/1"
NAMES = [
    "source",  # 1 for a source domain, 0 for a target
    "weight",  # share of the last step's tokens, 0 before the first
    "epochs",  # e / (1 + e), e = tokens used so far / tokens there are
    "share",  # of all tokens used so far, 0 before the first step
    "size",  # log(tokens there are / mean over domains) / 2
    "base",  # loss before the run, bits per byte / 4
    "loss",  # loss now, bits per byte / 4
    "gain",  # f̂ = (base - loss) / base, in tenths
    "gain_change",  # f̂ minus that of the step before, in hundredths
    "progress",  # t / T
    "source_left",  # source tokens that may still be used, as a share of those allowed; 1 without a limit
    "source_rate",  # the same as steps' worth a remaining step, at most 1 (without a limit 1); 0 at the end
    "domains",  # log(D) / 3
]
FEEDBACK = ("base", "loss", "gain", "gain_change")  # what losses reveal
Tokens = NDArray[np.float32]
_FEEDBACK = [NAMES.index(name) for name in FEEDBACK]


def source_left(history: History) -> NDArray[np.float64]:
    """Source tokens that may still be used before steps 0..t, in steps' worth, [t + 1]."""
    used = np.concatenate([[0.0], history.weights[:, history.source].sum(1).cumsum()])
    return np.maximum(history.budget.source_share * history.budget.steps - used, 0.0)


def tokens(history: History) -> Tokens:
    """What the agent sees before steps 0..t: [t + 1, D, len(NAMES)]."""
    t, d, steps = len(history), len(history.names), history.budget.steps
    used = np.vstack([np.zeros((1, d)), history.weights.cumsum(0)])
    total = used.sum(1, keepdims=True)
    epochs = used * history.budget.tokens / history.available
    gain = history.gains
    left, now = source_left(history), np.arange(t + 1)
    limited, allowed = history.budget.source_share < 1, history.budget.source_share * steps
    found = np.empty((t + 1, d, len(NAMES)), dtype=np.float32)
    of_step = {
        "progress": now / steps,
        "source_left": left / allowed if limited and allowed > 0 else np.full(t + 1, 0.0 if limited else 1.0),
        "source_rate": np.where(
            now < steps, np.minimum(left / np.maximum(steps - now, 1), 1.0) if limited else 1.0, 0.0
        ),
        "domains": np.full(t + 1, np.log(d) / 3),
    }
    of_domain = {
        "source": history.source.astype(float),
        "weight": np.vstack([np.zeros((1, d)), history.weights]),
        "epochs": epochs / (1 + epochs),
        "share": used / np.maximum(total, 1e-12),
        "size": np.log(history.available / history.available.mean()) / 2,
        "base": history.base / 4,
        "loss": np.vstack([history.base[None], history.losses]) / 4,
        "gain": gain * 10,
        "gain_change": np.diff(gain, axis=0, prepend=gain[:1]) * 100,
    }
    for k, name in enumerate(NAMES):
        found[:, :, k] = of_step[name][:, None] if name in of_step else of_domain[name]
    return found


def without_feedback(x: Tokens) -> Tokens:
    """The same with everything zero that losses reveal, for the control: an agent that decides by clock and budget alone."""
    found = x.copy()
    found[..., _FEEDBACK] = 0
    return found


def flat(history: History, feedback: bool = True) -> Tokens:
    """The paper's tokens, one a finished step: [a_s, f̂_s in tenths, (s + 1)/T], [t, 2 D + 1]. feedback false: f̂ is 0."""
    t = len(history)
    progress = np.arange(1, t + 1)[:, None] / history.budget.steps
    return np.hstack([history.weights, history.gains[1:] * (10 if feedback else 0), progress]).astype(np.float32)
