"""`cotpass judge` with a model: is the reasoning right, not only the answer? [paper §3.1, A.3]

Builds the judge's prompt, reads its verdict, and joins the votes of one response. The gold answer
is never shown to the judge. The rule-based judge is `steps.py`; joining votes is `votes.py`.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from typing import Any

import msgspec

import cotpass
from cotpass.sample import describe_calls, execute, tokens
from tenfold_shared import BadInput
from tenfold_shared import records as shapes
from tenfold_shared.cli import Backend, Selection, read_template
from tenfold_shared.generate import Request, Sampling, request_seed
from tenfold_shared.jsonl import Output, flow
from tenfold_shared.progress import Progress

Record = dict[str, Any]

TEMPLATE = """\
You are an expert in mathematics and logical reasoning. Below are a problem and a solution that \
another model wrote. Decide whether the reasoning of the solution is correct throughout. A right \
final answer does not make up for a wrong step.

Problem:
$question

Solution:
$response

Work through the solution step by step. Check the computations, the logic, the use of concepts, and \
whether anything needed is missing. List every issue you find, even if the final answer is right, \
each on a line of its own in the form
ISSUE (class): description
where class is one of: calculation error, logical error, conceptual error, omission/incompleteness, other.

End with your verdict on the reasoning, as exactly one of \\boxed{yes} (correct throughout) or \
\\boxed{no} (some step is wrong or missing).
"""
FIELDS = {"question", "response"}
CLASSES = ("calculation error", "logical error", "conceptual error", "omission/incompleteness", "other")

_THINK_END = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_BOX = re.compile(r"\\boxed\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}")
_ISSUE = re.compile(r"^[\s*\-\d.]*ISSUE\s*\(([^()\n]*)\)\s*:?\s*(.*)$", re.IGNORECASE | re.MULTILINE)


class Settings(msgspec.Struct, frozen=True):
    """votes: independent verdicts a response [paper: 3]. scope: `correct` judges only responses with a
    right answer, `all` every one (the theory's estimates need it). cot: which part of a response with
    think tags the judge sees."""

    votes: int = 3
    scope: str = "correct"
    cot: str = "both"
    template: str = TEMPLATE
    seed: int = 0


def identify(record: Record) -> str:
    return f"{record['id']}#{record['sample']}"


def wanted(where: str, record: Record, scope: str) -> bool:
    """Whether the scope has this response judged. Raises BadInput on records not graded yet."""
    if record.get("error") or record.get("finish_reason") == "error":
        return False
    if "correct" not in record:
        raise BadInput(f"{where}: correct: expected true or false; run `cotpass grade` first")
    return scope == "all" or record["correct"]


def shown(record: Record, cot: str) -> str:
    """The part of the response the judge reads, never shortened. A server's separate `reasoning` is
    put back in front, between think tags."""
    text = record["response"]
    if record.get("reasoning"):
        text = f"<think>\n{record['reasoning']}\n</think>\n{text}"
    ends = list(_THINK_END.finditer(text))
    if cot == "both" or not ends:
        return text
    return text[: ends[-1].start()] if cot == "think" else text[ends[-1].end() :]


def prompt(record: Record, settings: Settings) -> str:
    """The judge's user turn. Plain replacement, so that `$` in a response stays what it is."""
    fields = {"question": shapes.question_of(record), "response": shown(record, settings.cot)}
    return re.sub(
        r"\$(?:(\$)|\{?(question|response)\}?)",
        lambda found: "$" if found[1] else fields[found[2]],
        settings.template,
    )


def plan(where: str, record: Record, settings: Settings) -> list[tuple[str, Request]]:
    """One request a vote, as (`/vote`, request); none where the scope leaves the response out."""
    if not wanted(where, record, settings.scope):
        return []
    messages = [{"role": "user", "content": prompt(record, settings)}]
    keys = [f"{identify(record)}/{vote}" for vote in range(settings.votes)]
    return [
        (f"/{vote}", Request(key=key, messages=messages, seed=request_seed(settings.seed, key)))
        for vote, key in enumerate(keys)
    ]


def verdict(text: str, finish_reason: str) -> str:
    """yes, no or abstain: the last boxed yes/no after the last closing think tag [paper A.3].

    Anything else abstains: a reply cut at the token limit, no box, a box with both words in it.
    """
    if finish_reason != "stop":
        return "abstain"
    boxes = _BOX.findall(_THINK_END.split(text)[-1])
    if not boxes:
        return "abstain"
    word = re.sub(r"\\(?:text|textbf|mathrm)\s*|[^A-Za-z/]", "", boxes[-1]).lower()
    return word if word in ("yes", "no") else "abstain"


def issues(text: str) -> list[Record]:
    """The issues the judge listed, `[{class, text}]`; unknown classes read as `other`."""
    found = []
    for name, description in _ISSUE.findall(_THINK_END.split(text)[-1]):
        label = " ".join(name.lower().split())
        matching = [known for known in CLASSES if label and (label in known or known.split()[0] in label)]
        found.append({"class": matching[0] if matching else "other", "text": description.strip()})
    return found


def entry(completion: Record) -> Record:
    """One element of a verdict's `judge` list: the raw reply and what was read from it."""
    if completion.get("error"):
        return {"model": completion["model"], "error": completion["error"], "finish_reason": "error"}
    reply = completion["text"]
    fields = {
        "model": completion["model"],
        "text": reply,
        "finish_reason": completion["finish_reason"],
        "issues": issues(reply),
        "usage": {name: completion[name] for name in ("prompt_tokens", "completion_tokens")},
    }
    if completion.get("reasoning") is not None:
        fields["reasoning"] = completion["reasoning"]
    return fields


def assemble(record: Record, completions: list[Record]) -> list[Record]:
    """The record with `votes` and `judge`; unchanged where it was not judged."""
    if not completions:
        return [{**record, "schema": shapes.schema("verdict")}]
    votes = [
        "abstain" if completion.get("error") else verdict(completion["text"], completion["finish_reason"])
        for completion in completions
    ]
    judged = {"votes": votes, "judge": [entry(completion) for completion in completions]}
    return [{**record, "schema": shapes.schema("verdict"), **judged}]


# ---------------------------------------------------------------- the rule-based judge


def plan_steps(where: str, record: Record, settings: Settings) -> list[tuple[str, str]]:
    """The one request of the steps judge: the text to check. The scope is the model judge's."""
    return [("/steps", shown(record, settings.cot))] if wanted(where, record, settings.scope) else []


def execute_steps(texts: Iterator[tuple[str, str]]) -> Iterator[tuple[str, Record]]:
    from cotpass.steps import check_steps, vote

    for key, text in texts:
        report = check_steps(text)
        yield key, {"vote": vote(report), **msgspec.to_builtins(report)}


def assemble_steps(record: Record, reports: list[Record]) -> list[Record]:
    """The record with one vote and `judge[0]` = {steps, first_wrong}."""
    judged = [{name: value for name, value in report.items() if name != "vote"} for report in reports]
    added = {"votes": [report["vote"] for report in reports], "judge": judged} if reports else {}
    return [{**record, "schema": shapes.schema("verdict"), **added}]


# ---------------------------------------------------------------- the verb


def run(
    files: Sequence[str],
    backend: Backend,
    selection: Selection,
    sampling: Sampling,
    *,
    kind: str | None,
    votes: int,
    scope: str,
    cot: str,
    seed: int,
    template: str | None,
    output: str | None,
    overwrite: bool,
    budget_tokens: int | None,
    max_time: float | None,
    dry_run: bool,
    quiet: bool,
) -> int:
    """The verb; returns the exit code."""
    kind = kind or ("model" if backend.model else None)
    if kind is None:
        raise BadInput("name a judge: --judge steps (checks the arithmetic) or --model URI (asks a model)")
    if kind == "steps" and backend.model:
        raise BadInput("--judge steps: needs no model; leave out --model")
    if kind == "steps" and (template or backend.record or budget_tokens):
        raise BadInput("--judge steps: asks no model; leave out --template, --record and --budget-tokens")
    if kind == "model" and not backend.model:
        raise BadInput("--judge model: expected --model URI")
    if kind == "model" and votes > 1 and sampling.temperature == 0:
        print("cotpass: --temperature 0 makes all votes of a response the same", file=sys.stderr)
    settings = Settings(votes, scope, cot, read_template(template, TEMPLATE, FIELDS, "response"), seed)
    source = selection.source(files, "verdict", keep=output is not None)
    if dry_run:
        return _dry_run(source, kind, settings, sampling)
    decides: Record = {"judge": kind, "scope": scope, "cot": cot, **selection.identity()}
    if kind == "model":
        decides |= {"votes": votes, "seed": seed, "template": settings.template}
        decides |= {**backend.identity(), **msgspec.to_builtins(sampling)}
    cast: Counter[str] = Counter()

    def counted(record: Record, results: list[Record]) -> list[Record]:
        made = assemble(record, results) if kind == "model" else assemble_steps(record, results)
        cast.update(made[0].get("votes", []) if results else [])
        return made

    with Output(
        output,
        tool="cotpass",
        version=cotpass.__version__,
        verb="judge",
        options=decides,
        source=source,
        overwrite=overwrite,
    ) as out:
        if out.finished:
            print(f"cotpass: {output}: complete already; nothing to do", file=sys.stderr)
            return 0
        with (
            closing(backend.open(seed)) if kind == "model" else nullcontext() as generator,
            Progress("judge", None, "votes", quiet) as progress,
        ):
            done = flow(
                source,
                identify=identify,
                plan=lambda where, record: (plan if generator else plan_steps)(where, record, settings),
                execute=(lambda requests: execute(generator, sampling, requests)) if generator else execute_steps,
                assemble=counted,
                out=out,
                batch=generator.batch_size if generator else None,
                max_time=max_time,
                budget=budget_tokens,
                cost=tokens if generator else None,
                progress=progress,
            )
        code = out.complete(done, source, seed=seed, **{f"votes_{vote}": cast[vote] for vote in sorted(cast)})
    if not quiet:
        told = ", ".join(f"{cast[vote]} {vote}" for vote in ("yes", "no", "abstain"))
        status = "" if done.status == "done" else f", status: {done.status}"
        print(f"cotpass: {done.read} samples, votes: {told}{status}", file=sys.stderr)
    if done.failed:
        print(
            f"cotpass: {done.failed} samples have votes that failed; the same command tries them again", file=sys.stderr
        )
    return code


def _dry_run(source: Any, kind: str, settings: Settings, sampling: Sampling) -> int:
    calls, characters, first = 0, 0, None
    for where, record in source:
        if not wanted(where, record, settings.scope):
            continue
        text = prompt(record, settings) if kind == "model" else shown(record, settings.cot)
        first = first if first is not None else text
        calls += settings.votes if kind == "model" else 1
        characters += len(text) * (settings.votes if kind == "model" else 1)
    if kind == "steps":
        print(f"responses to check: {calls}\ncharacters: {characters}\nmodel calls: 0")
    else:
        print(describe_calls(calls, characters, sampling, {"messages": [{"role": "user", "content": first or ""}]}))
    return 0
