"""Closed forms of verify–refine chains as Markov chains (arXiv 2510.17498).

Two states, C (the answer is correct) and I, with p_ic = P(C next | I) and p_ci = P(I next | C); and the answer-level
chain, whose states are the distinct answers. Nothing here looks at data: estimates.py does.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tenfold_shared import BadInput

Array = npt.NDArray[np.float64]


def accuracy(p_ic: float, p_ci: float, p_0: float, n: npt.ArrayLike) -> Any:
    """P_n(C) = π_C + (P_0 − π_C) λ^n; P_0 for ever where neither state is left."""
    steps = np.asarray(n)
    if p_ic + p_ci == 0:
        return np.full(steps.shape, float(p_0))
    pi = p_ic / (p_ic + p_ci)
    return pi + (p_0 - pi) * (1 - p_ic - p_ci) ** steps


def stationary(p_ic: float, p_ci: float) -> float | None:
    """π_C = p_IC/(p_IC + p_CI); None where the start decides for ever (both 0)."""
    return p_ic / (p_ic + p_ci) if p_ic + p_ci > 0 else None


def iterations_to(epsilon: float, p_ic: float, p_ci: float, p_0: float) -> int | None:
    """Iterations until |P_n − π_C| ≤ ε; None where there is no limit."""
    pi, lam = stationary(p_ic, p_ci), abs(1 - p_ic - p_ci)
    if pi is None or lam == 1:
        return None
    gap = abs(p_0 - pi)
    if gap <= epsilon:
        return 0
    return 1 if lam == 0 else math.ceil(math.log(gap / epsilon) / -math.log(lam) - 1e-12)


def stationary_of(matrix: npt.ArrayLike) -> Array:
    """The stationary distribution (J,) of a transition matrix (J, J). Raises BadInput where it has more than one."""
    m = checked(matrix)
    size = len(m)
    system = np.vstack([m.T - np.eye(size), np.ones(size)])
    if np.linalg.matrix_rank(m.T - np.eye(size), tol=1e-10) < size - 1:
        raise BadInput("matrix: has several closed sets of states, so that the start decides where chains end up")
    found = np.linalg.lstsq(system, np.append(np.zeros(size), 1.0), rcond=None)[0]
    return np.clip(found, 0, None) / np.clip(found, 0, None).sum()


def checked(matrix: npt.ArrayLike) -> Array:
    """A square matrix whose rows are distributions. Raises BadInput."""
    try:
        m = np.asarray(matrix, dtype=np.float64)
    except (TypeError, ValueError):
        raise BadInput("matrix: expected rows of numbers, all of one length") from None
    if m.ndim != 2 or m.shape[0] != m.shape[1] or not len(m):
        raise BadInput(f"matrix: expected as many rows as columns, got {'×'.join(map(str, m.shape))}")
    if not np.isfinite(m).all() or (m < 0).any() or (abs(m.sum(1) - 1) > 1e-6).any():
        row = next(i for i, r in enumerate(m) if not np.isfinite(r).all() or (r < 0).any() or abs(r.sum() - 1) > 1e-6)
        raise BadInput(f"matrix: row {row + 1}: expected chances of at least 0 with the sum 1, got {m[row].tolist()}")
    return m / m.sum(1, keepdims=True)


# ---------------------------------------------------------------- votes


def majority(p: float, votes: int) -> float:
    """P(more than half of `votes` independent votes are right), a tie counting half."""
    from scipy.stats import binom

    half = votes // 2
    if votes % 2:
        return float(binom.sf(half, votes, p))
    return float(binom.sf(half, votes, p) + binom.pmf(half, votes, p) / 2)


def plurality(shares: npt.ArrayLike, votes: int, right: int = 0) -> float:
    """P(the answer `right` gets the most of `votes` independent draws from `shares` (J,)), ties shared equally.

    For each count c of the right answer, the others' counts are at most c: their generating functions are multiplied up
    by how many of them equal c. Counts are taken as Poisson's, given their sum, so that no factor over- or underflows.
    """
    p = np.asarray(shares, dtype=np.float64)
    p = p / p.sum() * votes
    others = np.delete(p, right)
    others = others[others > 0]
    log_factorial = np.array([math.lgamma(k + 1) for k in range(votes + 1)])
    found = 0.0
    for c in range(1, votes + 1):
        if p[right] == 0:
            break
        own = c * math.log(p[right]) - log_factorial[c] - p[right]
        # ways[t, s]: weight of the others seen so far having s votes in all, t of them exactly c
        most_ties = min(len(others), votes // c - 1)
        ways = np.zeros((most_ties + 1, votes - c + 1))
        ways[0, 0] = 1.0
        for q in others:
            counts = np.arange(min(c, votes - c) + 1)
            weight = np.exp(counts * math.log(q) - log_factorial[counts] - q)
            fresh = np.zeros_like(ways)
            for k in counts:
                moved = weight[k] * ways[:, : ways.shape[1] - k]
                if k < c:
                    fresh[:, k:] += moved
                else:
                    fresh[1:, k:] += moved[:-1]
            ways = fresh
        ties = ways[:, votes - c]
        scale = math.exp(own + log_factorial[votes] + votes - votes * math.log(votes))
        found += scale * float((ties / (np.arange(len(ties)) + 1)).sum())
    return min(1.0, found)


def inflation(window: int, lam: float) -> float:
    """1 + 2 Σ_{k<m} (1 − k/m) λ^k: by how much m successive iterations are fewer votes than m independent ones [3].

    At least a little above 0: with λ < 0 the window is worth more than m votes.
    """
    k = np.arange(1, window)
    return max(1e-9, float(1 + 2 * ((1 - k / window) * float(lam) ** k).sum()))


def effective_votes(window: int, lam: float) -> float:
    """Independent votes that a window of one chain is worth; never less than one, nor more than its cells."""
    return min(float(window), max(1.0, window / inflation(window, lam)))


def pass_at_k(n: int, c: int, k: int) -> float:
    """1 − C(n − c, k)/C(n, k): P(at least one of k of the n samples is right) with c right ones among the n."""
    if not 0 <= c <= n or not 1 <= k <= n:
        raise BadInput(f"pass@k: expected 0 ≤ c ≤ n and 1 ≤ k ≤ n, got n={n}, c={c}, k={k}")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


# ---------------------------------------------------------------- verifier and refiner


class Skill(NamedTuple):
    """What a model does in one verify and one refine call.

    tpr = P(pass | C), fpr = P(pass | I); ic_pass = P(C after refining | I, passed), and so on. Numbers, or arrays of one
    shape.
    """

    tpr: Any
    fpr: Any
    ic_pass: Any
    ic_fail: Any
    ci_pass: Any
    ci_fail: Any


def always(skill: Skill) -> tuple[Any, Any]:
    """(p_IC, p_CI) where every verdict is followed by a refinement."""
    return (
        skill.fpr * skill.ic_pass + (1 - skill.fpr) * skill.ic_fail,
        skill.tpr * skill.ci_pass + (1 - skill.tpr) * skill.ci_fail,
    )


def keep_on_pass(skill: Skill) -> tuple[Any, Any]:
    """(p_IC, p_CI) where a passed solution stays as it is."""
    return (1 - skill.fpr) * skill.ic_fail, (1 - skill.tpr) * skill.ci_fail


def stop_on_pass(skill: Skill, passes: int = 1) -> tuple[Any, Any]:
    """(P(correct at the stop | start I), the same | start C) where `passes` passes in a row end a chain that
    refines on a fail; NaN where it would never stop. Skills may be arrays."""
    accept_i, accept_c = skill.fpr**passes, skill.tpr**passes
    # From I a chain is accepted, or fails before that and is refined: to C with ic_fail. So with x and y the two
    # chances, leave_i x = to_c y and leave_c y = accept_c + to_i x.
    to_c, to_i = (1 - accept_i) * skill.ic_fail, (1 - accept_c) * skill.ci_fail
    leave_i, leave_c = accept_i + to_c, accept_c + to_i
    with np.errstate(invalid="ignore", divide="ignore"):
        y = np.float64(accept_c) * leave_i / (np.float64(leave_i) * leave_c - to_c * to_i)
        return to_c * y / leave_i, y


def stop_path(skill: Skill, start: Any, passes: int, iterations: int) -> Any:
    """(iterations + 1, …) P(correct) by iteration of a chain that `passes` passes in a row end, from P(correct) `start`,
    ended chains counted with what they hold. Skills may be arrays of the shape of `start`."""
    right = np.zeros((passes, *np.shape(start)))  # not ended, by passes in a row
    wrong = np.zeros_like(right)
    right[0], wrong[0] = start, 1 - np.asarray(start)
    ended = np.zeros(np.shape(start))  # right ones
    path = [right.sum(0)]
    for _ in range(iterations):
        failed_right, failed_wrong = right.sum(0) * (1 - skill.tpr), wrong.sum(0) * (1 - skill.fpr)
        ended = ended + right[-1] * skill.tpr
        right = np.concatenate([right[:1], right[:-1] * skill.tpr])
        wrong = np.concatenate([wrong[:1], wrong[:-1] * skill.fpr])
        right[0] = failed_right * (1 - skill.ci_fail) + failed_wrong * skill.ic_fail
        wrong[0] = failed_right * skill.ci_fail + failed_wrong * (1 - skill.ic_fail)
        path.append(ended + right.sum(0))
    return np.stack(path)
