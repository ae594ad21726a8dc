"""How the number of features grows with the rounds of `propose`, under a scripted proposer. Used by ../claims.py.

    python tools/zerorepo/bench/claim_parts/growth.py [--quick]

The paper's table 3 has 336.1, 542, 796, 981, 1043, 1258 features after 5, 10, ..., 30 rounds: a straight line of 36.0 a
round explains 97.8 % of it. Here the loop is the tool's own (retrieval, RejectSample, roles, self-check, 30 rounds), the
feature tree is built from packages that are installed, and in the model's place stands a rule that is fixed before any
run and sees nothing but the text of a question:

- a path that is offered is chosen where at least SHARED of its words, stemmed, stand in the specification as well;
- as missing it always names the specification's requirements, a group each;
- in the self-check a candidate is kept unless another with the same words in its last name, in any order, stands before
  it among the candidates or among what the question lists as chosen.

So many paths are offered in a round that 30 rounds offer the share of the tree that OFFER + OFFER a round, the tool's
default, is of the paper's (PAPER_NODES): a tree a tenth as large is offered a tenth as fast, and is as far from exhausted.
Two cases are run beside it: `emptying`, the same tree at the tool's default, which offers a good third of it, and
`exhausted`, a small tree (EXHAUSTED) at the default, of which all that fits is found.

The rule knows no round, keeps no count and remembers nothing. Whether growth is straight is then a matter of what the loop
brings before it: how fast retrieval runs dry, how often a draw is new. Where the tree is nearly exhausted the curve must
bend; how far is reported with the share of the tree's fitting leaves that was offered.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tenfold_shared.generate import Completion, Request, Sampling
from zerorepo.embeddings import encoder
from zerorepo.generation.asking import Asker
from zerorepo.generation.ontology import LeafIndex, Ontology
from zerorepo.generation.ontology_verbs import built, located
from zerorepo.generation.proposal import OFFER, Proposal, Settings, linear_fit
from zerorepo.generation.spec import Spec
from zerorepo.lexical import tokens

ROUNDS = 30
SEEDS = (0, 1, 2, 3, 4)
SHARED = 2
BAR = 0.97  # of R²
PAPER = {"rounds": [5, 10, 15, 20, 25, 30], "leaves": [336.1, 542, 796, 981, 1043, 1258]}
# What the paper's MLKit-Py is for; scikit-learn itself is not among the packages.
SPEC = Spec(
    "mlkit_py",
    "A machine learning library for Python: train, evaluate and apply models on arrays of numbers",
    "Classical machine learning on one machine. No plotting, no network services.",
    (
        "fit linear, logistic and ridge regression models", "train decision trees, random forests and gradient boosting",
        "cluster samples with k means, hierarchical and density methods", "reduce dimension by principal components",
        "compute kernel matrices and nearest neighbors", "scale, encode and impute features of a data set",
        "split data into train and test sets and cross validate", "compute accuracy, precision, recall and loss metrics",
        "estimate probability distributions and sample from them", "optimize an objective function by gradient descent",
        "select features by statistical tests", "convert sparse and dense matrices",
    ),
)  # fmt: skip
PACKAGES = ("scipy", "numpy", "pandas", "networkx", "sympy", "torch", "transformers", "peft", "datasets", "numba")
EXHAUSTED = ("networkx", "pandas")
PAPER_NODES = 784_524
QUICK = ("scipy", "numpy", "pandas", "networkx")

Row = dict[str, Any]


class Rule:
    """The scripted proposer (see the module's text), as a back end. It is no model, and says so in its name."""

    model = "a fixed rule (no model: it compares words)"
    batch_size: int | None = None
    context: int | None = None

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.words = frozenset(word for text in (spec.purpose, *spec.requirements) for word in tokens(text))

    def generate(self, requests: Iterator[Request | None], sampling: Sampling) -> Iterator[Completion]:
        for request in requests:
            if request is None:
                continue
            user = str((request.messages or [])[-1]["content"])
            text = json.dumps(self.answer(request.key.partition("|")[0], user), ensure_ascii=False)
            yield Completion(request.key, text, "stop", len(user) // 4, len(text) // 4, self.model)

    def count_tokens(self, request: Request) -> int | None:
        return None

    def close(self) -> None:
        pass

    def fits(self, path: str) -> bool:
        return len(self.words.intersection(tokens(path))) >= SHARED

    def answer(self, role: str, user: str) -> Row:
        offered = re.findall(r"^- (.+)$", user, re.M)
        if role == "missing":
            return {"features": {" ".join(text.split()[:2]): [text] for text in self.spec.requirements}}
        if role in ("exploit", "explore"):
            return {"paths": [path for path in offered if self.fits(path)]}
        if role == "check":
            listed = re.findall(r"^\* [^\n]*?: (.+)$", user, re.M)
            known = {_said(name) for line in listed for name in line.split("; ")}
            kept = []
            for path in offered:
                said = _said(path.rpartition("/")[2])
                if said not in known:
                    kept.append(path)
                    known.add(said)
            return {"keep": kept}
        raise ValueError(f"{role}: only choosing is scripted")


def _said(name: str) -> frozenset[str]:
    return frozenset(tokens(name))


def grow(tree: Ontology, index: LeafIndex, seed: int, offer: int, rounds: int = ROUNDS) -> Row:
    """One run of choosing: leaves after each round, the line through them, and how much was left to find."""
    rule = Rule(SPEC)
    asker = Asker(rule, Sampling(temperature=0.0, max_tokens=4096), seed)
    proposal = Proposal(SPEC, tree, asker, Settings(rounds=rounds, seed=seed, offer=offer), index)
    for number in range(1, rounds + 1):
        proposal.choose(number)
    leaves = [one.leaves for one in proposal.growth]
    fit = linear_fit(range(1, rounds + 1), leaves)
    fitting = np.array([rule.fits(tree.label(node)) for node in tree.leaves.tolist()])
    half = rounds // 2
    return {
        "seed": seed, "offer": offer, "chosen": leaves, "slope": fit.slope if fit else 0.0, "r2": fit.r2 if fit else 0.0,
        "first_half_a_round": round(leaves[half - 1] / half, 2),
        "second_half_a_round": round((leaves[-1] - leaves[half - 1]) / (rounds - half), 2),
        "offered": sum(one.offered for one in proposal.growth), "fitting": int(fitting.sum()),
        "fitting_seen": round(float(proposal.visited[tree.leaves[fitting]].mean()), 4) if fitting.any() else 1.0,
        "tree_seen": round(float(proposal.visited[tree.leaves].mean()), 4), "answered_by": rule.model,
    }  # fmt: skip


def ontology_of(packages: Sequence[str]) -> Ontology:
    counts, _ = built(located(name) for name in packages)
    return Ontology.of(counts)


def study(quick: bool = False) -> list[Row]:
    """A row for each case and seed, and the paper's own at the end."""
    rows = []
    for packages in (QUICK if quick else PACKAGES, EXHAUSTED):
        tree = ontology_of(packages)
        index = LeafIndex(tree, encoder("tfidf"))
        scaled = max(1, round(OFFER * len(tree) / PAPER_NODES))
        cases = (("exhausted", OFFER),) if packages == EXHAUSTED else (("growth", scaled), ("emptying", OFFER))
        for case, offer in cases:
            for seed in SEEDS[:2] if quick else SEEDS:
                rows.append({"case": case, "packages": list(packages), **tree.counts(), **grow(tree, index, seed, offer)})  # fmt: skip
    fit = linear_fit(PAPER["rounds"], PAPER["leaves"])
    assert fit is not None
    rows.append({"case": "paper", "source": "arXiv 2509.16198, table 3", **PAPER, "slope": fit.slope, "r2": fit.r2})
    return rows


def claim(rows: Sequence[Row]) -> Row:
    """value: the least R² of the seeds; low, high: the range over seeds. Supported where every seed reaches BAR."""
    ours = [row for row in rows if row["case"] == "growth"]
    beside = {
        case: [{name: row[name] for name in ("slope", "r2", "fitting_seen", "tree_seen")} | {"chosen": row["chosen"][4::5]} for row in rows if row["case"] == case]
        for case in ("emptying", "exhausted")
    }  # fmt: skip
    paper = next(row for row in rows if row["case"] == "paper")
    values = [row["r2"] for row in ours]
    return {
        "claim": f"features grow near-linearly over {ROUNDS} rounds (R², least of the seeds, bar {BAR})",
        "source": "ZeroRepo, arXiv 2509.16198, table 3", "value": min(values), "low": min(values), "high": max(values),
        "control": {
            "slopes": [row["slope"] for row in ours], "chosen": [row["chosen"][4::5] for row in ours],
            "paper": {"slope": paper["slope"], "r2": paper["r2"], "leaves": PAPER["leaves"]},
            **beside, "tree": ours[0]["levels"], "offer": ours[0]["offer"], "answered_by": ours[0]["answered_by"],
        },
        "seeds": [row["seed"] for row in ours], "supported": "yes" if min(values) >= BAR else "no",
    }  # fmt: skip


def draw(rows: Sequence[Row], path: Path) -> None:
    """Leaves against rounds: each seed, the exhausted tree, and the paper's points."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for case, colour in (("growth", "#0072B2"), ("exhausted", "#D55E00")):  # emptying has a scale of its own
        for at, row in enumerate(row for row in rows if row["case"] == case):
            axes.plot(range(1, len(row["chosen"]) + 1), row["chosen"], color=colour, lw=1, label=None if at else f"{case} ({row['leaves'][-1]:,} leaves)")  # fmt: skip
    axes.plot(PAPER["rounds"], PAPER["leaves"], "k.", label="the paper's, with a model")
    axes.set(xlabel="round", ylabel="features", ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    found = study("--quick" in sys.argv)
    for one in found:
        print(json.dumps(one))
    print(json.dumps(claim(found)))
