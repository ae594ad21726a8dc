"""`dser report`: what the logged chains say of a model (findings.py), as JSON or as lines for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dser.findings import Sample, report_of
from dser.log import read_log
from tenfold_shared import BadInput, answers

Record = dict[str, Any]


def read_samples(path: str) -> dict[str, list[Sample]]:
    """Samples by id: sample records with `id` and `response` (graded ones keep their `correct`), or a run folder, whose
    first solutions they are. Texts are not kept. Raises BadInput."""
    from dser.log import STEPS, steps_path
    from tenfold_shared.jsonl import Source

    out: dict[str, list[Sample]] = {}
    if Path(path).is_dir() or Path(path).name == STEPS:
        for problem in read_log(str(steps_path(path))):
            each = problem.generated.get("solve", 0) / max(1, problem.counts["solve"]["calls"])
            out[problem.name] = [
                Sample(chain.cells[0] if chain.cells else None, each) for _, chain in sorted(problem.chains.items())
            ]
        return out
    for where, record in Source([path], None):
        if not isinstance(record.get("id"), str) or not isinstance(record.get("response"), str):
            raise BadInput(f"{where}: expected a sample record with `id` and `response`, or a run folder")
        text = answers.after_thinking(record["response"])
        answer = answers.extract(text) or answers.extract(text, require_box=False)
        correct = record.get("correct")
        usage = record.get("usage")
        tokens = usage.get("completion_tokens", 0) if isinstance(usage, dict) else 0
        if not isinstance(tokens, int | float):
            raise BadInput(f"{where}: usage.completion_tokens: expected a number, got {type(tokens).__name__}")
        out.setdefault(record["id"], []).append(Sample(answer, tokens, correct if isinstance(correct, bool) else None))
    if not out:
        raise BadInput(f"{path}: expected at least one sample, got none")
    return out


def run(
    folder: str,
    *,
    self_consistency: str | None,
    reference: str | None,
    replicates: int,
    seed: int,
    as_json: bool,
    plot: str | None,
) -> int:
    """The verb `report`; returns the exit code."""
    baseline = read_samples(self_consistency) if self_consistency else None
    other = read_samples(reference) if reference else None
    found = report_of(read_log(folder), baseline=baseline, reference=other, seed=seed, replicates=replicates)
    for option, path, name in (
        ("--self-consistency", self_consistency, "vs_self_consistency"),
        ("--reference", reference, "vs_reference"),
    ):
        if path and found["run"]["graded"] and found[name] is None:
            raise BadInput(f"{option} {path}: expected samples of the run's problems; it has none of their ids")
    found["model"] = found["run"]["model"]
    if plot:
        from dser.plot import draw

        draw(found, plot)
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        sys.stdout.write("\n".join(lines(found)) + "\n")
    return 0


def lines(found: Record) -> Iterator[str]:
    """The report for people, the advice first."""

    def shown(value: Record | None) -> str:
        if value is None:
            return "unseen"
        return f"{value['value']:.4f}" + ("" if value["low"] is None else f" [{value['low']:.4f}, {value['high']:.4f}]")

    yield found["advice"]["text"]
    run = found["run"]
    yield (
        f"{run['problems']} problems x {run['chains']} chains x {run['iterations']} iterations, policy {run['policy']}, "
        f"model {run['model']}: {run['calls']} calls, {run['generated_tokens']} tokens generated"
        + (f"; {run['unfinished_chains']} chains unfinished" if run["unfinished_chains"] else "")
    )
    rows = found["iterations"]
    for row in rows:
        if row["n"] in (0, 1, 2, 3, 5, 10, 20, 30, 40, 60, 80) or row is rows[-1]:
            told = "" if row["predicted"] is None else f", predicted {row['predicted']['value']:.4f}"
            yield f"  n={row['n']:<3} accuracy {shown(row['accuracy'])}{told}; vote {row['window_vote']:.4f}"
    if found["transitions"]:
        chance, limit, verifier = found["transitions"], found["stationary"], found["verifier"]
        yield f"transitions: p_IC {shown(chance['p_ic'])}, p_CI {shown(chance['p_ci'])}, lambda {shown(chance['lambda'])}"
        pooled = limit["pooled"]
        yield (
            f"stationary accuracy: {shown(limit['per_problem_mean'])} (mean over problems)"
            + (f"; pooled {pooled['value']:.4f}" if pooled else "")
            + ("" if limit["two_state_condition"] is None else f"; p_IC > p_CI on {limit['two_state_condition']:.0%}")
            + f"; the right answer leads on {limit['plurality_condition']:.0%} of the problems"
        )
        yield f"verifier: TPR {shown(verifier['tpr'])}, FPR {shown(verifier['fpr'])}; {verifier['unknown']} of {verifier['reviews']} reviews without a verdict"
        for name, one in found["counterfactual"].items():
            if isinstance(one, dict) and one.get("accuracy") is not None:
                yield f"  policy {name}: accuracy {one['accuracy']:.4f}"
        tests = found["tests"]
        if tests["order"]:
            yield f"model checks: order p={tests['order']['p']}, homogeneity p={tests['homogeneity']['p']}"
        effective = found["effective_votes"]
        yield f"effective votes: {effective['total']} of {effective['cells']} cells; a majority of them right: {effective['implied_majority']:.4f}"
    stable = found["stability"]
    yield f"stability: answers change in {shown(stable['changed'])} of the iterations; {shown(stable['settled_chains'])} of the chains settled"
    for role, counts in found["truncation"].items():
        yield f"  {role}: {counts['calls']} calls, {counts['truncated']} truncated, {counts['looped']} in a loop, {counts['trimmed']} trimmed, {counts['unknown']} without verdict"
    for name, label in (("vs_self_consistency", "self-consistency"), ("vs_reference", "the reference")):
        if versus := found[name]:
            other = versus.get("self_consistency", versus.get("reference"))
            interval = "" if versus["low"] is None else f" [{versus['low']:.4f}, {versus['high']:.4f}]"
            basis = f" ({versus['basis']})" if "basis" in versus else ""
            yield f"vote {versus['dser']:.4f} against {label} {other:.4f}: {versus['diff']:+.4f}{interval}{basis}"
