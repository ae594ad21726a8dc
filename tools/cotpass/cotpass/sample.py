"""`cotpass sample`: n independent responses a task.

Turns task records into generation requests and completions into sample records; the model is
behind `tenfold_shared.generate`, the stream behind `tenfold_shared.jsonl.flow`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from string import Template
from typing import Any

import msgspec

import cotpass
from tenfold_shared import records as shapes
from tenfold_shared.cli import Backend, Selection, read_template, sha256_of
from tenfold_shared.generate import Generator, Request, Sampling, request_seed
from tenfold_shared.jsonl import Output, flow
from tenfold_shared.progress import Progress

Record = dict[str, Any]


def prompt_of(task: Record, template: str | None) -> dict[str, Any]:
    """What to send: `{messages}` or `{prompt}`; a template rewrites the last user turn (`$question`)."""
    if template is None:
        return {"messages": task["messages"]} if task.get("messages") else {"prompt": task["prompt"]}
    text = Template(template).substitute(question=shapes.question_of(task))
    if not task.get("messages"):
        return {"prompt": text}
    messages = list(task["messages"])
    last = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=len(messages))
    messages[last : last + 1] = [{"role": "user", "content": text}]
    return {"messages": messages}


def plan(task: Record, n: int, seed: int, template: str | None = None) -> list[tuple[str, Request]]:
    """The n requests of a task as (`#sample`, request)."""
    prompt = prompt_of(task, template)
    keys = [f"{task['id']}#{index}" for index in range(n)]
    return [(f"#{i}", Request(key=key, seed=request_seed(seed, key), **prompt)) for i, key in enumerate(keys)]


def execute(
    generator: Generator, sampling: Sampling, requests: Iterator[tuple[str, Request]]
) -> Iterator[tuple[str, Record]]:
    """Completions as (key, plain dict), in completion order."""
    for completion in generator.generate((request for _, request in requests), sampling):
        yield completion.key, msgspec.to_builtins(completion)


def tokens(result: Record) -> int:
    """What a completion spent: prompt and completion tokens."""
    return result.get("prompt_tokens", 0) + result.get("completion_tokens", 0)


def assemble(task: Record, completions: list[Record]) -> list[Record]:
    """Sample records of one task: the task's own fields, then the sample's."""
    return [{**task, **sample_fields(index, completion)} for index, completion in enumerate(completions)]


def sample_fields(index: int, completion: Record) -> Record:
    fields: Record = {"schema": shapes.schema("sample"), "sample": index, "response": completion["text"]}
    if completion.get("reasoning") is not None:
        fields["reasoning"] = completion["reasoning"]
    fields["finish_reason"] = completion["finish_reason"]
    fields["usage"] = {name: completion[name] for name in ("prompt_tokens", "completion_tokens")}
    fields["model"] = completion["model"]
    if completion.get("error"):
        fields["error"] = completion["error"]
    return fields


def describe_calls(calls: int, prompts: int, sampling: Sampling, first: Record) -> str:
    """The text of --dry-run. Prompt tokens are estimated at 4 characters each: no model is loaded."""
    lines = [
        f"calls: {calls}",
        f"prompt tokens: about {prompts // 4} (estimated at 4 characters a token)",
        f"completion tokens: at most {calls * sampling.max_tokens}",
        f"bytes read as prompts: {prompts}",
        "first prompt:",
    ]
    turns = first.get("messages") or [{"role": "text", "content": first.get("prompt")}]
    return "\n".join([*lines, *(f"[{turn['role']}] {turn['content']}" for turn in turns)])


def run(
    files: Sequence[str],
    backend: Backend,
    selection: Selection,
    sampling: Sampling,
    *,
    samples: int,
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
    if not backend.model:
        backend = msgspec.structs.replace(backend, model=("smollm2",))
    text = read_template(template, "", {"question"}, "question") if template else None
    source = selection.source(files, "task", keep=output is not None)
    if dry_run:
        calls, characters = 0, 0
        first: Record = {}
        for _, task in source:
            prompt = prompt_of(task, text)
            first = first or prompt
            calls += samples
            characters += samples * len(
                str(prompt.get("prompt") or "".join(str(m["content"]) for m in prompt["messages"]))
            )
        print(describe_calls(calls, characters, sampling, first))
        return 0
    decides = {
        **backend.identity(),
        **selection.identity(),
        **msgspec.to_builtins(sampling),
        "samples": samples,
        "seed": seed,
        "template": sha256_of(template) if template else None,
    }
    with Output(
        output,
        tool="cotpass",
        version=cotpass.__version__,
        verb="sample",
        options=decides,
        source=source,
        overwrite=overwrite,
    ) as out:
        if out.finished:
            print(f"cotpass: {output}: complete already; nothing to do", file=sys.stderr)
            return 0
        total = source.count()
        with (
            closing(backend.open(seed)) as generator,
            Progress("sample", None if total is None else total * samples, "samples", quiet) as progress,
        ):
            done = flow(
                source,
                identify=lambda task: task["id"],
                plan=lambda where, task: plan(task, samples, seed, text),
                execute=lambda requests: execute(generator, sampling, requests),
                assemble=assemble,
                out=out,
                batch=generator.batch_size,
                max_time=max_time,
                budget=budget_tokens,
                cost=tokens,
                progress=progress,
            )
        code = out.complete(done, source, seed=seed, tokens=done.tokens)
    if not quiet:
        status = "" if done.status == "done" else f", status: {done.status}"
        print(
            f"cotpass: {done.written} samples of {done.read} tasks, {done.failed} tasks with errors{status}",
            file=sys.stderr,
        )
    return code
