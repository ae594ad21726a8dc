"""`keychain-synth eval`: rows to a model, responses to rewards, and where in length and depth, or hops, they fail.

Any rows of ours: needle rows are scored as RULER does, by the share of the answers that the response holds, behind its
thinking where there is some (github.com/NVIDIA/RULER, scripts/eval/synthetic/constants.py); others by the paper's
two-way match of the boxed answer (reward.py); unless --reward says otherwise. Without --model the rows are samples
already and are only scored.

A row the model cannot take (too long for it, most often) is written with `error` and no reward; it is in no mean, and
its cell in the map says so.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any

import msgspec

import keychain_synth
from keychain_synth import plot as pictures
from keychain_synth import reward as rewards
from keychain_synth.patterns import Patterns
from tenfold_shared import BadInput
from tenfold_shared import records as shapes
from tenfold_shared.cli import Backend, Selection, print_table
from tenfold_shared.generate import Generator, Request, Sampling, request_seed
from tenfold_shared.jsonl import Output, Source, flow
from tenfold_shared.progress import Progress

Record = dict[str, Any]

RULER = "ruler"
REWARDS = (RULER, *(name for name in rewards.REWARDS if name != "judge"))


# ---------------------------------------------------------------- rewards


def reward_of(record: Record, rule: str | None, require_think: bool | None) -> float:
    """The reward of a sample record; rule None: RULER's for needle rows, for others what their data_source gets."""
    meta = record.get("meta") or {}
    golds = rewards.as_golds(record.get("answer"))
    if rule == RULER or (rule is None and "needles" in meta):
        answer = rewards.after_thinking(record["response"], require_think=False) or ""
        return rewards.string_match(answer, golds, meta.get("match") or "any")
    text = rewards.with_reasoning(record["response"], record.get("reasoning"))
    return rewards.reward_for(
        text, golds, rewards.rule_for(meta, rule), match=meta.get("match") or "any", require_think=require_think
    )


# ---------------------------------------------------------------- what comes out of many


class Tally:
    """Takes verdict records one by one; `summary` is the object of --json."""

    def __init__(self, patterns: bool) -> None:
        self.patterns = Patterns() if patterns else None
        self.ids: set[str] = set()
        self.models: set[str] = set()
        self.total = [0.0, 0, 0]
        # (kind, axis) -> (length, level) -> [sum of rewards, samples with one, samples without]
        self.cells: dict[tuple[str, str], dict[tuple[int, float], list[float]]] = defaultdict(dict)

    def take(self, record: Record) -> None:
        self.ids.add(record["id"])
        self.models.add(record.get("model", ""))
        places = [self.total]
        meta = record.get("meta") or {}
        axis = "depth" if "depth" in meta else "hops"
        if isinstance(meta.get("length"), int) and isinstance(meta.get(axis), int | float):
            kind = str(meta.get("kind") or "synth") if axis == "depth" else "synth"
            places.append(self.cells[kind, axis].setdefault((meta["length"], meta[axis]), [0.0, 0, 0]))
        if record.get("error"):
            for place in places:
                place[2] += 1
            return
        for place in places:
            place[0] += record["reward"]
            place[1] += 1
        if self.patterns is not None:
            text = f"{record.get('reasoning') or ''}\n{record['response']}"
            self.patterns.take(text, record["reward"] >= 1)

    def summary(self) -> Record:
        """rows, samples (those with a reward), errors, mean, and a grid for each kind of rows."""
        return {
            "model": ", ".join(sorted(self.models - {""})),
            "rows": len(self.ids),
            "samples": self.total[1],
            "errors": self.total[2],
            "mean": _mean(self.total),
            "grids": [self._grid(*name) for name in sorted(self.cells)],
            **({"patterns": self.patterns.summary()} if self.patterns else {}),
        }

    def _grid(self, kind: str, axis: str) -> Record:
        """{kind, axis, lengths, levels} and a list for each level, in the order of lengths: mean, n, errors."""
        cells = self.cells[kind, axis]
        lengths = sorted({length for length, _ in cells})
        levels = sorted({level for _, level in cells})
        table = [[cells.get((length, level), [0.0, 0, 0]) for length in lengths] for level in levels]
        return {
            "kind": kind,
            "axis": axis,
            "lengths": lengths,
            "levels": levels,
            "mean": [[_mean(cell) for cell in row] for row in table],
            "n": [[cell[1] for cell in row] for row in table],
            "errors": [[cell[2] for cell in row] for row in table],
        }


def _mean(cell: Sequence[float]) -> float | None:
    return cell[0] / cell[1] if cell[1] else None


def headline(summary: Record) -> str:
    """One line that says which model got how much of what."""
    grids = summary["grids"]
    what = "needles" if grids and all(grid["axis"] == "depth" for grid in grids) else "rows"
    told = "no sample has a reward" if summary["mean"] is None else f"mean reward {100 * summary['mean']:.1f} %"
    samples = f"{summary['samples']} samples" + (f", {summary['errors']} failed" if summary["errors"] else "")
    return " · ".join(part for part in (f"{what}, {summary['model']}".rstrip(", "), told, samples) if part)


def text_map(grid: Record) -> Any:
    """The grid as a rich table: 100 times the mean of a cell, × where every row failed."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 0, 0, 1), title=f"{grid['kind']}, %", title_justify="left")
    table.add_column("depth %" if grid["axis"] == "depth" else "hops", justify="right", no_wrap=True)
    for label in pictures.length_labels(grid["lengths"]):
        table.add_column(label, justify="right", no_wrap=True)
    for at, name in enumerate(grid["levels"]):
        cells = zip(grid["mean"][at], grid["errors"][at], strict=True)
        table.add_row(f"{name:g}", *(_cell(mean, errors) for mean, errors in cells))
    return table


def _cell(mean: float | None, errors: int) -> str:
    if mean is None:
        return "×" if errors else ""
    style = "black on bright_blue" if mean >= 0.995 else "blue" if mean >= 0.5 else "dark_orange3"
    return f"[{style}]{100 * mean:.0f}[/]"


def pattern_table(found: Record) -> Any:
    from rich.table import Table

    table = Table(title="share of the responses with each mark")
    table.add_column("mark")
    for group, counts in found.items():
        table.add_column(f"{group} ({counts['responses']})", justify="right")
    for mark in (name for name in found["all"] if name != "responses"):
        shares = (counts[mark] for counts in found.values())
        table.add_row(mark.replace("_", " "), *("" if share is None else f"{share:.1%}" for share in shares))
    return table


def show(summary: Record, as_json: bool, on_stderr: bool) -> None:
    """Tables for people or one JSON object, on stderr where stdout has the records."""
    if as_json:
        print(json.dumps(summary, ensure_ascii=False), file=sys.stderr if on_stderr else sys.stdout)
        return
    parts = [text_map(grid) for grid in summary["grids"]]
    if "patterns" in summary:
        parts.append(pattern_table(summary["patterns"]))
    from rich.console import Console
    from rich.text import Text

    for part in [*parts, Text(headline(summary))]:
        if on_stderr:
            Console(stderr=True).print(part)
        else:
            print_table(part)


# ---------------------------------------------------------------- the verb


def plan(where: str, record: Record, n: int, seed: int, generates: bool) -> list[tuple[str, Request]]:
    """The n requests of a row as (`#sample`, request); none for a sample, and none for a row without an answer."""
    if generates and "response" in record:
        raise BadInput(f"{where}: response: is there already; leave out --model to score it")
    if not generates or not rewards.as_golds(record.get("answer")):
        return []
    prompt = {"messages": record["messages"]} if record.get("messages") else {"prompt": record["prompt"]}
    keys = [f"{record['id']}#{sample}" for sample in range(n)]
    return [(f"#{at}", Request(key=key, seed=request_seed(seed, key), **prompt)) for at, key in enumerate(keys)]


def assemble(
    record: Record, completions: Sequence[Record], rule: str | None, require_think: bool | None
) -> list[Record]:
    """Verdict records of a row with its completions, or of a sample."""
    samples = [record]
    if completions:
        samples = [{**record, **sampled(index, completion)} for index, completion in enumerate(completions)]
    elif "response" not in record:
        samples = [{**record, "sample": 0, "response": "", "finish_reason": "error"}]
    return [scored(sample, rule, require_think) for sample in samples]


def sampled(index: int, completion: Record) -> Record:
    """What a completion adds to a row."""
    optional = {name: completion[name] for name in ("reasoning", "error") if completion.get(name) is not None}
    return {
        "sample": index,
        "response": completion["text"],
        "finish_reason": completion["finish_reason"],
        "usage": {name: completion[name] for name in ("prompt_tokens", "completion_tokens")},
        "model": completion["model"],
        **optional,
    }


def scored(sample: Record, rule: str | None, require_think: bool | None) -> Record:
    verdict = {**sample, "schema": shapes.schema("verdict")}
    if not rewards.as_golds(sample.get("answer")):
        return {**verdict, "error": "no gold answer"}
    if sample.get("error") or sample.get("finish_reason") == "error":
        return {"error": "the sample failed", **verdict}
    return {**verdict, "reward": reward_of(sample, rule, require_think)}


def estimate(source: Any, samples: int, sampling: Sampling) -> str:
    """The text of --dry-run; prompt tokens are those our rows name, and 4 characters each for others."""
    calls, tokens, first = 0, 0, ""
    for _, record in source:
        text = "\n".join(f"[{turn['role']}] {turn['content']}" for turn in shapes.messages_of(record))
        first = first or text
        calls += samples
        told = (record.get("meta") or {}).get("tokens")
        tokens += samples * (told if isinstance(told, int) else len(text) // 4)
    most = calls * sampling.max_tokens
    return f"calls: {calls}\nprompt tokens: {tokens}\ncompletion tokens: at most {most}\nfirst prompt:\n{first}"


def run(
    files: Sequence[str],
    backend: Backend,
    selection: Selection,
    sampling: Sampling,
    *,
    rule: str | None,
    require_think: bool | None,
    samples: int,
    seed: int,
    patterns: bool,
    plot: str | None,
    output: str | None,
    overwrite: bool,
    budget_tokens: int | None,
    max_time: float | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """The verb; returns the exit code: 1 where a row failed."""
    if plot:
        pictures.check_target(plot)
    generates = bool(backend.model)
    source = selection.source(files, "task" if generates else "sample", keep=output is not None)
    if dry_run:
        print(estimate(source, samples if generates else 0, sampling))
        return 0
    decides = {**selection.identity(), "reward": rule, "require_think": require_think}
    if generates:
        decides |= {**backend.identity(), **msgspec.to_builtins(sampling), "samples": samples, "seed": seed}
    tally = Tally(patterns)
    with ExitStack() as stack:
        out = Output(output, tool="keychain-synth", version=keychain_synth.__version__, verb="eval", options=decides,
                     source=source, overwrite=overwrite)  # fmt: skip
        stack.enter_context(out)
        if out.finished:
            print(f"keychain-synth: {output}: complete already; its summary again", file=sys.stderr)
            for _, record in Source([str(output)], "sample"):
                tally.take(record)
        else:
            generator = stack.enter_context(closing(backend.open(seed))) if generates else None
            total = source.count() if generates else None
            progress = stack.enter_context(
                Progress("eval", None if total is None else total * samples, "samples", quiet)
            )

            def rows(record: Record, completions: list[Record]) -> list[Record]:
                found = assemble(record, completions, rule, require_think)
                for each in found:
                    tally.take(each)
                return found

            done = flow(
                _samples(source) if not generates else source,
                identify=lambda record: record["id"] if generates else f"{record['id']}#{record['sample']}",
                plan=lambda where, record: plan(where, record, samples, seed, generates),
                execute=lambda requests: execute(generator, sampling, requests),
                assemble=rows,
                out=out,
                batch=generator.batch_size if generator else None,
                max_time=max_time,
                budget=budget_tokens,
                cost=lambda result: result["prompt_tokens"] + result["completion_tokens"],
                progress=progress,
            )
            out.complete(done, source, seed=seed, tokens=done.tokens, errors=tally.total[2])
            if done.status != "done" and not quiet:
                print(f"keychain-synth: stopped by --budget-tokens after {done.tokens}; the same command with a larger "
                      f"one continues", file=sys.stderr)  # fmt: skip
    summary = tally.summary()
    show(summary, as_json, on_stderr=output is None)
    if plot:
        if not summary["grids"]:
            raise BadInput("--plot: no row has meta.length with meta.depth or meta.hops; there is nothing to draw")
        pictures.plot_grids(summary["grids"], headline(summary), plot)
    return 1 if tally.total[2] else 0


def _samples(source: Source) -> Iterator[tuple[str, Record]]:
    """The samples, with a word of help where they are none."""
    try:
        yield from source
    except BadInput as error:
        raise BadInput(f"{error}; without --model, ROWS are samples with their responses") from None


def execute(
    generator: Generator | None, sampling: Sampling, requests: Iterator[tuple[str, Request]]
) -> Iterator[tuple[str, Record]]:
    """Completions as (key, plain dict), in completion order; without a model there are no requests, only rows."""
    if generator is None:
        for key, _ in requests:
            raise AssertionError(key)
        return
    for completion in generator.generate((request for _, request in requests), sampling):
        yield completion.key, msgspec.to_builtins(completion)
