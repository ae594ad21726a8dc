"""The options that mean one thing in all ten tools, and the types of their values."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable
from typing import Any, ClassVar

import click

from tenfold_shared import BadInput
from tenfold_shared.cli.config import load_config


class Duration(click.ParamType):
    """Seconds, or 90s, 50m, 2h."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(value).strip())
        if isinstance(value, bool) or not found or float(found[1]) <= 0:
            self.fail(f"{value!r}: expected a time such as 90s, 50m or 2h", param, ctx)
        return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


class Size(click.ParamType):
    """Bytes, or bytes a second: 80G, 79.6GiB, 4.3T, 900GB/s."""

    name = "size"
    UNITS: ClassVar = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}  # fmt: skip

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?(?:/S)?", str(value).strip().upper())
        if not found or float(found[1]) <= 0:
            self.fail(f"{value!r}: expected a size such as 80G, 79.6GiB or 4.3T", param, ctx)
        return float(found[1]) * self.UNITS.get(found[2], 1)


class Share(click.FloatRange):
    """A number in a range; unlike click's own, NaN is in none."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"{value!r}: expected a finite number", param, ctx)
        return found


class Shard(click.ParamType):
    """I/N with 1 <= I <= N."""

    name = "I/N"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", str(value))
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            self.fail(f"{value!r}: expected I/N with 1 <= I <= N, such as 2/8", param, ctx)
        return int(found[1]), int(found[2])


class Numbers(click.ParamType):
    """Comma-separated positive whole numbers."""

    name = "N,N,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, (tuple, list)):  # of --config
            value = ",".join(map(str, value))
        parts = [part.strip() for part in str(value).split(",")]
        if not all(part.isdecimal() and len(part) < 20 and int(part) > 0 for part in parts):
            self.fail(f"{value!r}: expected positive whole numbers such as 1,2,4,8", param, ctx)
        return tuple(sorted({int(part) for part in parts}))


OPTIONS: dict[str, Callable[[Any], Any]] = {
    "model": click.option("--model", metavar="URI", multiple=True, help="The model: smollm2, a folder, GGUF file or hub id, vllm:URI, http(s)://HOST:PORT/v1#NAME (repeatable), or replay:FILE."),
    "output": click.option("-o", "--output", metavar="PATH", help="Write here, complete or not at all; without it, to stdout."),
    "overwrite": click.option("--overwrite", is_flag=True, help="Start anew where the output exists."),
    "config": click.option("--config", metavar="FILE.toml", is_eager=True, expose_value=False, callback=load_config, help="Option names and values from a TOML file; the command line wins."),
    "seed": click.option("--seed", type=int, default=0, show_default=True, help="Same inputs, options and seed give the same bytes."),
    "json": click.option("--json", "as_json", is_flag=True, help="The result as one JSON object."),
    "plot": click.option("--plot", metavar="FILE", help="Draw the result to FILE.png or FILE.svg."),
    "quiet": click.option("-q", "--quiet", is_flag=True, help="No progress on stderr."),
    "log": click.option("--log", metavar="FILE", expose_value=False, callback=lambda ctx, param, value: _start_log(value), help="Append log lines to FILE."),
    "limit": click.option("--limit", type=click.IntRange(min=0), help="Only the first N records."),
    "ids": click.option("--ids", metavar="FILE", help="Only records whose id stands in FILE, one a line."),
    "shard": click.option("--shard", type=Shard(), help="Part I of N of the input; the outputs of all parts concatenate to the whole."),
    "skip_bad": click.option("--skip-bad", type=click.IntRange(min=0), default=0, show_default=True, help="Tolerate this many malformed lines."),
    "workers": click.option("--workers", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default="number of cores", help="Local processes."),
    "concurrency": click.option("--concurrency", type=click.IntRange(min=1), default=32, show_default=True, help="Requests in flight at servers."),
    "batch_size": click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Static batch of the transformers backend."),
    "device": click.option("--device", default="auto", show_default=True, help="Where the transformers backend runs: auto, cpu, cuda, cuda:N."),
    "dtype": click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto", show_default=True, help="Weights' type of the transformers backend and vLLM; auto is the checkpoint's."),
    "engine": click.option("--engine", metavar="KEY=VALUE", multiple=True, help="Passed on to vLLM's engine, e.g. tensor_parallel_size=8 (repeatable)."),
    "api_key_env": click.option("--api-key-env", metavar="NAME", default="OPENAI_API_KEY", show_default=True, help="Variable that holds the server's key."),
    "timeout": click.option("--timeout", type=Duration(), default="600s", show_default=True, help="Time one server request may take."),
    "max_retries": click.option("--max-retries", type=click.IntRange(min=0), default=6, show_default=True, help="Retries of a server request after 429, 5xx, time-outs and torn replies."),
    "trust_remote_code": click.option("--trust-remote-code", is_flag=True, help="Let a model folder run Python code of its own."),
    "temperature": click.option("--temperature", type=Share(min=0), default=0.7, show_default=True, help="0 is greedy."),
    "top_p": click.option("--top-p", type=Share(min=0, max=1, min_open=True), default=0.95, show_default=True, help="Nucleus sampling; 1 is off."),
    "top_k": click.option("--top-k", type=click.IntRange(min=0), default=0, show_default=True, help="Sample from the K likeliest tokens; 0 is off."),
    "max_tokens": click.option("--max-tokens", type=click.IntRange(min=1), default=1024, show_default=True, help="Longest completion, in tokens."),
    "stop": click.option("--stop", metavar="TEXT", multiple=True, help="Stop at this text (repeatable)."),
    "budget_tokens": click.option("--budget-tokens", type=click.IntRange(min=1), metavar="T", help="Stop cleanly once T tokens are spent; a larger T continues."),
    "max_time": click.option("--max-time", type=Duration(), help="Stop after this time (50m, 2h) with the work saved, exit 1."),
    "template": click.option("--template", metavar="FILE", help="Prompt template (string.Template) in place of the built-in one."),
    "record": click.option("--record", metavar="FILE", help="Also write every completion to FILE, for --model replay:FILE."),
    "dry_run": click.option("--dry-run", is_flag=True, help="Show one prompt and what would be used; call nothing, write nothing."),
}  # fmt: skip

GROUPS: dict[str, list[str]] = {
    "common": ["config", "quiet", "log"],
    "records": ["limit", "ids", "shard", "skip_bad"],
    "output": ["output", "overwrite"],
    "backend": ["model", "batch_size", "concurrency", "device", "dtype", "engine", "api_key_env", "timeout", "max_retries", "trust_remote_code", "record"],
    "sampling": ["temperature", "top_p", "top_k", "max_tokens", "stop"],
    "bounds": ["budget_tokens", "max_time"],
}  # fmt: skip


def options(*names: str, **defaults: Any) -> Callable[[Any], Any]:
    """Add shared options, by name or by group name, in the order given.

    A keyword gives one option another default for this verb; name, type and help stay shared.
    """
    flat = [option for name in names for option in GROUPS.get(name, [name])]

    def decorate(function: Any) -> Any:
        for option in reversed(flat):
            function = OPTIONS[option](function)
            if option in defaults:
                function.__click_params__[-1].default = defaults[option]
        return function

    return decorate


def files_argument(name: str = "files", metavar: str = "[FILES]...") -> Callable[[Any], Any]:
    """Positional data files; none or `-` is stdin."""
    return click.argument(name, nargs=-1, metavar=metavar, type=click.Path())


def _start_log(path: str | None) -> None:
    if path is None:
        return
    try:
        handler = logging.FileHandler(path)
    except OSError as error:
        raise BadInput(f"--log {path}: cannot be written: {error.strerror}") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger("tenfold_shared").setLevel(logging.INFO)
