"""One run under a policy: decide, draw, train, measure, step after step. Swarms, live runs, comparisons and rivals all go through here.

A run's order of text, its picks and its base are fixed by seeds, so that policies are compared on the same numbers; its state is a model,
its optimiser and a count a domain, so that it goes on after a kill as if there had been none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamix.corpus import Corpus
from datamix.history import Budget, Decision, Floats, History, Policy, Step
from datamix.mixture import to_names
from datamix.proxy import Held, Learner
from datamix.stream import Mixer, Picker, Rows, key_of
from tenfold_shared import BadInput


class Diverged(Exception):
    """A loss was no number: the run has failed."""


class Run:
    """A run of budget.steps steps of budget.tokens tokens. `score` is measured on text that no feedback has seen."""

    def __init__(
        self,
        corpus: Corpus,
        learner: Learner,
        budget: Budget,
        seed: int,
        *,
        feedback_tokens: int = 2048,
        score_tokens: int = 12288,
    ) -> None:
        self.corpus, self.learner, self.budget, self.seed = corpus, learner, budget, seed
        self.rows_a_step = check_budget(corpus, learner, budget)
        rows = Rows(corpus, learner.context, key_of(seed, "rows"))
        total = None
        if budget.source_share < 1:
            total = int(budget.source_share * self.rows_a_step * budget.steps + 1e-9)
        self.mixer = Mixer(rows, Picker(corpus.names, seed, limits=rows.limits(budget.max_epochs), source=corpus.source, total_source=total))  # fmt: skip
        self._feedback = Held(corpus, learner.context, feedback_tokens, "feedback")
        self._score = Held(corpus, learner.context, score_tokens, "score")
        self.base_score: Floats = np.zeros(0)
        self.history: History

    def begin(self) -> None:
        """Measure the base. Raises Diverged."""
        base = self._measured(self._feedback)
        self.base_score = self._measured(self._score)
        self.history = History(self.corpus.names, self.corpus.source, self.corpus.sizes, base, self.budget)

    def _measured(self, held: Held) -> Floats:
        found = self.learner.evaluate(held)
        if not np.isfinite(found).all():
            name = self.corpus.names[int(np.flatnonzero(~np.isfinite(found))[0])]
            raise Diverged(
                f"the loss of {name} is no number after step {len(self.history) if hasattr(self, 'history') else 0}"
            )
        return found

    def step(self, decision: Decision) -> Step:
        """Train one step under a mixture and measure. Raises Diverged."""
        rows, chosen = self.mixer.draw(decision.weights, self.rows_a_step)
        updates = self.rows_a_step * self.budget.steps // self.learner.batch
        loss = self.learner.train(rows, updates)
        if not np.isfinite(loss):
            raise Diverged(f"the training loss is no number in step {len(self.history)}")
        used = np.bincount(chosen, minlength=len(self.corpus.names)) / len(chosen)
        losses = self._measured(self._feedback)
        self.history.add(used, losses)
        names = self.corpus.names
        return Step(
            step=len(self.history) - 1,
            tokens_seen=len(self.history) * self.rows_a_step * self.learner.context,
            weights=to_names(used, names),
            feedback=dict(zip(names, (float(x) for x in losses), strict=True)),
        )

    def steps(self, policy: Policy) -> Iterator[tuple[Decision, Step]]:
        """What is left of the run, a step at a time."""
        while len(self.history) < self.budget.steps:
            decision = policy.decide(self.history)
            yield decision, self.step(decision)

    def result(self) -> dict[str, Any]:
        """Final figures in points, 100 · f̂ on the score text: `domains`, mean `source`, `target`, their mean `score`; `auc`, the mean of the
        score on feedback text over the steps; `source_tokens` used."""
        from datamix import history as h

        gain = 100 * h.gains(self.base_score, self._measured(self._score))
        source, target = h.parts(gain, self.corpus.source)
        path = 100 * h.score(self.history.gains, self.corpus.source)[1:]
        share = float(self.history.weights[:, self.corpus.source].sum())
        return {
            "score": float((source + target) / 2), "auc": float(path.mean()), "source": float(source), "target": float(target),
            "source_tokens": round(share * self.rows_a_step * self.learner.context),
            "domains": dict(zip(self.corpus.names, (float(x) for x in gain), strict=True)),
        }  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        found = {f"learner.{name}": x for name, x in self.learner.state().items()}
        found["taken"] = torch.from_numpy(self.mixer.picker.taken.copy())
        found["base"] = torch.from_numpy(np.stack([self.history.base, self.base_score]))
        found["weights"] = torch.from_numpy(self.history.weights)
        found["losses"] = torch.from_numpy(self.history.losses)
        return found

    def restore(self, state: dict[str, Tensor]) -> None:
        prefix = "learner."
        self.learner.restore({name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)})
        self.mixer.picker.taken = state["taken"].numpy().copy()
        base, self.base_score = state["base"].numpy().copy()
        self.history = History(self.corpus.names, self.corpus.source, self.corpus.sizes, base, self.budget)
        for weights, losses in zip(state["weights"].numpy(), state["losses"].numpy(), strict=True):
            self.history.add(weights, losses)


def check_budget(corpus: Corpus, learner: Learner, budget: Budget) -> int:
    """Rows of a step: budget.tokens as whole updates. Raises BadInput where a step is no update, or the text cannot fill the run."""
    update = learner.batch * learner.context
    updates = budget.tokens // update
    if updates < 1:
        raise BadInput(
            f"--run-tokens: {budget.tokens} tokens a step are fewer than one update of {learner.batch} rows of {learner.context}"
        )
    rows = updates * learner.batch
    if budget.max_epochs > 0:
        per = (corpus.sizes - 1) // learner.context
        can = np.floor(per * budget.max_epochs)
        target, want = ~corpus.source, rows * budget.steps
        source_most = min(float(can[corpus.source].sum()), budget.source_share * want)
        if source_most + can[target].sum() < want:
            least = corpus.names[int(np.argmin(np.where(target, can, np.inf)))]
            raise BadInput(
                f"{corpus.folder}: {want} rows are wanted and {int(source_most + can[target].sum())} may be used under --max-epochs "
                f"{budget.max_epochs:g} and the source budget; {least} is the smallest target: add text, or raise either"
            )
    return rows
