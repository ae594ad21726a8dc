"""`grpo-roc rollout` and `eval`: a model's trajectories on problems, and how well it does (arXiv 2508.20722, section 5.1).

Where it sits: above rollout.py.
"""

from __future__ import annotations

import contextlib
import json
import math
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

import grpo_roc
from grpo_roc import selection
from grpo_roc.dialogue import Dialogue
from grpo_roc.engine_open import SERVERS, open_engines
from grpo_roc.env.environment import Environment
from grpo_roc.env.environment import Settings as EnvironmentSettings
from grpo_roc.rollout import Rollouts, Settings, Task
from grpo_roc.verify import gold_of
from tenfold_shared import BadInput
from tenfold_shared.cli import Selection
from tenfold_shared.jsonl import Output, Source, flow
from tenfold_shared.progress import Progress
from tenfold_shared.records import RecordProblem, question_of

Record = dict[str, Any]


class Model(msgspec.Struct, frozen=True):
    """Which model, and how it is sampled here: others, further servers of the same; slots, trajectories at a time; max_prompt: tokens of a prompt; tokenizer: whose, "" for the model's own; exact: whether the
    log-probabilities of tokens are wanted."""

    uri: str
    dtype: str = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    temperature: float = 1.0
    slots: int = 32
    max_prompt: int = 2048
    tools: tuple[str, ...] = ("python",)
    level: str = "strict"
    workers: int = 1
    tokenizer: str = ""
    exact: bool = True
    api_key_env: str = "OPENAI_API_KEY"
    others: tuple[str, ...] = ()

    @property
    def away(self) -> bool:
        """Whether its weights are not held by this process's transformers."""
        return self.uri.startswith((*SERVERS, "vllm:"))

    @property
    def name(self) -> str:
        """The same for any number of servers of one model."""
        return self.uri.partition("#")[2] if self.uri.startswith(SERVERS) else self.uri


def tokenizer_of(model: Model) -> Any:
    """Of a model whose weights are elsewhere: the one named, or what a server's model or vLLM's is called after. Raises BadInput, Missing."""
    from transformers import AutoTokenizer

    from tenfold_shared.models import resolve
    from tenfold_shared.redaction import one_line

    asked = model.tokenizer or model.name.removeprefix("vllm:")
    if not asked:
        raise BadInput(
            "--tokenizer: whose tokenizer does the server's model have? Give it, or #NAME where that says it"
        )
    try:
        folder, revision = asked, "main"
        if not (Path(asked) / "tokenizer_config.json").is_file():
            checkpoint = resolve(asked)
            folder, revision = checkpoint.adapter or checkpoint.path, checkpoint.revision or "main"
        return AutoTokenizer.from_pretrained(folder, revision=revision, trust_remote_code=model.trust_remote_code)
    except (BadInput, OSError, ValueError) as problem:
        raise BadInput(
            f"--tokenizer {asked}: expected the folder or hub id whose tokenizer the model has: {one_line(problem)}"
        ) from None


class Sampler:
    """A model with its environment, for as long as the context lasts."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self.model, self.settings = model, settings

    def __enter__(self) -> Sampler:
        from grpo_roc.packing import beneath
        from tenfold_shared.models import load_causal_lm

        model = self.model
        lm = None
        if model.away:
            tokenizer = tokenizer_of(model)
        else:
            lm, tokenizer = load_causal_lm(model.uri, model.dtype, model.device, model.trust_remote_code)
            lm = beneath(lm).eval()
        self.dialogue = Dialogue(tokenizer, model.tools)
        if lm is not None:
            self.dialogue.fits(len(lm.get_input_embeddings().weight))
        self.open = contextlib.ExitStack()
        with self.open:
            level: Any = model.level
            settings = EnvironmentSettings(level=level, workers=model.workers, timeout=self.settings.call_timeout)
            env = self.open.enter_context(Environment(settings))
            engines = open_engines(
                (model.uri, *model.others) if model.away else (), dialogue=self.dialogue, slots=model.slots, capacity=model.max_prompt + self.settings.max_tokens + 1, temperature=model.temperature, model=lm,
                dtype=model.dtype, trust_remote_code=model.trust_remote_code, exact=model.exact, api_key_env=model.api_key_env, seed=self.settings.seed,
            )  # fmt: skip
            for engine in engines:
                self.open.callback(engine.close)

            def tell(line: str) -> None:
                print(f"grpo-roc: {line}", file=sys.stderr, flush=True)

            self.rollouts = Rollouts(engines, self.dialogue, env.submit, self.settings, tell, env.end)
            self.open = self.open.pop_all()
        return self

    def __exit__(self, *why: object) -> None:
        self.open.close()

    def execute(self, requests: Iterator[tuple[str, tuple[Task, int]]], tokens: bool) -> Iterator[tuple[str, Record]]:
        """(key, (task, rollout)) -> (key, trajectory), as they end. A prompt without room is a result with `error`."""
        keys: dict[str, str] = {}
        long: list[tuple[str, Record]] = []

        def wanted() -> Iterator[tuple[Task, int]]:
            for key, (task, rollout) in requests:
                length = len(self.dialogue.prompt(task.prompt))
                if length > self.model.max_prompt:
                    long.append(
                        (
                            key,
                            {
                                "error": f"the prompt has {length} tokens, more than {self.model.max_prompt} (--max-prompt)"
                            },
                        )
                    )
                    continue
                keys[f"{task.id}/{rollout}"] = key
                yield task, rollout

        for one in self.rollouts.each(wanted()):
            yield keys.pop(one.key), one.record(tokens=tokens)
            while long:
                yield long.pop()
        yield from long


def task_of(where: str, record: Record) -> Task:
    """Raises BadInput."""
    name, prompt = record.get("id"), question_of(record)
    if not isinstance(name, str) or not name:
        raise BadInput(f"{where}: id: expected a string of its own for each problem (`grpo-roc prepare` gives one)")
    if not prompt:
        raise BadInput(f"{where}: prompt: expected the problem's text (`grpo-roc prepare` reads other shapes)")
    try:
        gold = gold_of(record)
    except RecordProblem as problem:
        raise BadInput(f"{where}: {problem}") from None
    if gold is None:
        raise BadInput(f"{where}: {name}: answer: expected a gold answer, by which the reward is given")
    return Task(name, prompt, gold, record.get("meta"))


def rollout(
    files: Sequence[str], selection_: Selection, model: Model, settings: Settings, *, samples: int, tokens: bool, output: str | None, overwrite: bool, max_time: float | None, quiet: bool, verb: str = "rollout",
) -> int:  # fmt: skip
    """The verb; returns the exit code."""
    source = selection_.source(files, "task", keep=output is not None)
    decides = {
        "model": model.name,
        **{name: value for name, value in msgspec.to_builtins(model).items() if name not in ("uri", "others", "workers", "device", "api_key_env")},
        **msgspec.to_builtins(settings), "samples": samples, "tokens": tokens, **selection_.identity(),
    }  # fmt: skip

    def plan(where: str, record: Record) -> list[tuple[str, tuple[Task, int]]]:
        task = task_of(where, record)
        return [(f"#{k}", (task, k)) for k in range(samples)]

    calls: Counter[str] = Counter()

    def assemble(record: Record, results: list[Record]) -> list[Record]:
        calls.update(call["status"] for one in results for turn in one.get("turns", ()) for call in turn["calls"])
        return [
            one if "error" not in one else {**record, "sample": k, "response": "", **one}
            for k, one in enumerate(results)
        ]

    with (
        Output(output, tool="grpo-roc", version=grpo_roc.__version__, verb=verb, options=decides, source=source, overwrite=overwrite) as out,
        Progress(verb, None, "trajectories", quiet) as progress,
    ):  # fmt: skip
        if out.finished:
            print(f"grpo-roc: {output}: complete already; nothing to do", file=sys.stderr)
            return 0
        with Sampler(model, settings) as sampler:
            done = flow(
                source, identify=lambda record: str(record.get("id")), plan=plan, execute=lambda requests: sampler.execute(requests, tokens), assemble=assemble, out=out,
                batch=model.slots if settings.lockstep else None, max_time=max_time, progress=progress,
            )  # fmt: skip
        code = out.complete(done, source)
    if calls["infra"]:
        print(
            f"grpo-roc: the environment failed {calls['infra']} of {calls.total()} calls, through no fault of the model's; see `grpo-roc doctor`",
            file=sys.stderr,
        )
        return max(code, 1)
    return code


# ---------------------------------------------------------------- what trajectories say of a model


def summarised(records: Sequence[Record]) -> Record:
    """pass@1 as the mean over a problem's samples, then over problems, with its standard error over problems; lengths, turns and calls. Raises BadInput without a trajectory."""
    sound = [one for one in records if not one.get("error")]
    if not sound:
        raise BadInput("no trajectory: nothing can be said of the model")
    by_task: dict[str, list[float]] = {}
    for one in sound:
        by_task.setdefault(one["id"], []).append(float(one["reward"]))
    means = [statistics.fmean(each) for each in by_task.values()]
    error = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else None
    calls = [call for one in sound for turn in one["turns"] for call in turn["calls"]]
    right = [one["turns"] for one in sound if one["reward"] > 0]
    return {
        "tasks": len(by_task),
        "samples": len(sound),
        "failed": len(records) - len(sound),
        "pass@1": statistics.fmean(means),
        "pass@1_se": error,
        "response_tokens": statistics.fmean(one["usage"]["completion_tokens"] for one in sound),
        "sampled_tokens": statistics.fmean(one["sampled_tokens"] for one in sound),
        "turns": statistics.fmean(len(one["turns"]) for one in sound),
        "calls": len(calls) / len(sound),
        "valid_calls": sum(call["status"] != "invalid_call" for call in calls) / len(calls) if calls else None,
        "infra": sum(call["status"] == "infra" for call in calls),
        "errors": selection.error_share([one["turns"] for one in sound]),
        "errors_in_correct": selection.error_share(right),
        "cut_off": sum(one["finish"] != "stop" for one in sound) / len(sound),
    }


def evaluate(
    files: Sequence[str], selection_: Selection, model: Model, settings: Settings, *, samples: int, output: str | None, overwrite: bool, max_time: float | None, as_json: bool, quiet: bool,
) -> int:  # fmt: skip
    """The verb; returns the exit code of its rollouts."""
    with tempfile.TemporaryDirectory() as folder:
        path = output or str(Path(folder) / "trajectories.jsonl")
        code = rollout(
            files, selection_, model, settings, samples=samples, tokens=False, output=path, overwrite=overwrite, max_time=max_time, quiet=quiet, verb="eval"
        )  # fmt: skip
        records = [record for _, record in Source([path], None)]
    found = summarised(records)
    if as_json:
        print(
            json.dumps({name: round(value, 6) if isinstance(value, float) else value for name, value in found.items()})
        )
        return code
    from rich.table import Table

    from tenfold_shared.cli import print_table

    table = Table(title=f"{model.name or model.uri}, {found['tasks']} problems × {samples}")
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in found.items():
        table.add_row(name, "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value))
    print_table(table)
    return code
