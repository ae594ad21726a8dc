"""The command `grpo-roc`: options and help. Each verb's work is in the module of its name.

Long because it is the options and help texts of some twenty verbs, and nothing else.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import click

from grpo_roc import needs
from tenfold_shared import BadInput, Missing
from tenfold_shared.cli import Duration, Selection, Share, Size, add_doctor, files_argument, options, take, tool

_FORM = click.option("--form", type=click.Choice(["auto", "trajectory", "verl", "chat"]), default="auto", show_default=True, help="Whose records: ours, verl's rollout dumps, or chats with tool messages (TRL's too).")  # fmt: skip
_COMPAT = click.option("--compat", type=click.Choice(["rstar"]), help="Score and select as the released code does, its mistakes included, for comparison.")  # fmt: skip


@tool(
    "grpo-roc",
    "grpo-roc",
    "Agentic reinforcement learning with code: Resample-on-Correct, an answer verifier, a confined Python, training.",
)
def main() -> None:
    pass


@main.command(short_help="Problem sets of many shapes as one, fit to be trained on.")
@files_argument(metavar="[PROBLEMS]...")
@click.option("--to", type=click.Choice(["task", "verl"]), default="task", show_default=True, help="Shape of what is written.")  # fmt: skip
@click.option("--integers/--any-answer", default=True, show_default=True, help="Only problems whose answer is a whole number.")  # fmt: skip
@click.option("--max-digits", type=click.IntRange(min=1), default=12, show_default=True, help="Digits of a whole-number answer.")  # fmt: skip
@click.option("--against", metavar="FILE", multiple=True, help="A benchmark: problems that share eight words in a row with one of its are dropped (repeatable).")  # fmt: skip
@click.option("--source", metavar="NAME", default="unknown", show_default=True, help="Where problems are from that do not say so.")  # fmt: skip
@click.option("--dropped", metavar="FILE", help="Write what was dropped, and why, as JSON lines.")
@options("output", "records", "common")
def prepare(files: tuple[str, ...], to: str, integers: bool, max_digits: int, source: str, **given: Any) -> int:
    """Write problems as task records, or in verl's shape, each once, without those that cannot be checked or that stand in a benchmark.

    \b
    Example:
      grpo-roc prepare gsm8k.jsonl dapo.jsonl --against aime.jsonl --dropped dropped.jsonl -o problems.jsonl
    """
    from grpo_roc.prepare import Settings, run

    selection = take(Selection, given)
    return run(files, selection, settings=Settings(to, integers, max_digits, source), **given)


@main.command(short_help="Is the last box of the answer block the gold answer?")
@files_argument(metavar="[SAMPLES]...")
@click.option("--grader-scope", type=click.Choice(["answer", "response"]), default="answer", show_default=True, help="Where the box is looked for: in the answer block, or, as the released code does, anywhere.")  # fmt: skip
@click.option("--answer-form", type=click.Choice(["any", "number"]), default="any", show_default=True, help="number: where the gold answer is a whole number, 59 * 73 is no answer, though equal to it.")  # fmt: skip
@click.option("--grade-timeout", type=Duration(), default="2s", show_default=True, help="Time one symbolic comparison may take; then the grade is `ungradable`.")  # fmt: skip
@options("workers", "output", "records", "max_time", "common")
def verify(files: tuple[str, ...], **given: Any) -> int:
    """Add `correct`, `grade` and `grade_reason` to samples, trajectories, verl's dumps or chats, and `reward` (1 or 0) where there is none.

    \b
    Example:
      grpo-roc verify rollouts.jsonl | grpo-roc resample --group-size 16 > kept.jsonl
    """
    from grpo_roc.verify import run

    return run(files, take(Selection, given), **given)


@main.command(short_help="Penalties of trajectories: failed calls, and answer blocks.")
@files_argument(metavar="[TRAJECTORIES]...")
@_FORM
@_COMPAT
@options("output", "records", "common")
def score(files: tuple[str, ...], form: str, compat: str | None, **given: Any) -> int:
    """Add `p_err`, `p_format` and their sum `p_total`; nothing is chosen.

    \b
    Example:
      grpo-roc score rollouts.jsonl -o scored.jsonl
    """
    from grpo_roc import resample as work

    return work.score(files, take(Selection, given), settings=work.Settings(form, compat), **given)


@main.command(short_help="Which of each group to train on, and with what advantage.")
@files_argument(metavar="[TRAJECTORIES]...")
@click.option("--group-size", type=click.IntRange(min=2), required=True, metavar="G", help="How many of a group are kept; how many it has is read from the file.")  # fmt: skip
@click.option("--roc-select", type=click.Choice(["inverse", "top"]), default="inverse", show_default=True, help="Of the right ones: with probability inverse to the penalty, or the least penalised.")  # fmt: skip
@click.option("--epsilon", type=Share(min=0, min_open=True), default=0.001, show_default=True, help="Added to a penalty before it is inverted.")  # fmt: skip
@click.option("--ddof", type=click.Choice(["0", "1"]), default="1", show_default=True, help="Of the standard deviation in advantages; 1 is verl's.")  # fmt: skip
@_FORM
@_COMPAT
@click.option("--show", "explain", metavar="GROUP", help="Show on stderr how a group's trajectories were chosen, with the chance that each had.")  # fmt: skip
@options("seed", "output", "records", "json", "common")
def resample(files: tuple[str, ...], group_size: int, roc_select: Any, epsilon: float, ddof: str, form: str, compat: str | None, seed: int, **given: Any) -> int:  # fmt: skip
    """Write every trajectory with its penalties and `kept`, `kept_reason` (positive, negative, quota, equal_rewards) and `advantage` (null where it is not kept). A summary goes to
    stderr, with --json as one object.

    \b
    Example:
      grpo-roc resample rollouts.jsonl --group-size 16 -o chosen.jsonl
      cat verl/7.jsonl | grpo-roc resample --form verl --group-size 8 --roc-select top > chosen.jsonl
    """
    from grpo_roc import resample as work

    if compat is not None and (roc_select, epsilon) != ("inverse", 0.001):
        raise BadInput("--compat rstar selects in its own way: leave out --roc-select and --epsilon")
    settings = work.Settings(form, compat, group_size, roc_select, epsilon, int(ddof), seed)
    return work.resample(files, take(Selection, given), settings=settings, **given)


# ---------------------------------------------------------------- the environment

LEVELS = ["strict", "standard", "rlimit-only"]
KINDS = ["arithmetic", "remainder", "divisor", "primes", "sums", "digits", "shop", "multiples", "letters"]


class Names(click.ParamType):
    """Some of the names that are known, comma-separated, each once; `all` is all of them."""

    name = "A,B,..."

    def __init__(self, known: list[str]) -> None:
        self.known = known

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        if value == "all":
            return tuple(self.known)
        parts = value if isinstance(value, list) else [part.strip() for part in str(value).split(",")]
        for part in parts:
            if part not in self.known:
                self.fail(f"{part!r}: expected some of {', '.join(self.known)}, or all", param, ctx)
        return tuple(dict.fromkeys(parts))


def _environment(function: Any) -> Any:
    """How programs are run."""
    for option in reversed([
        click.option("--level", type=click.Choice(LEVELS), default="strict", show_default=True, help="Layers around a program: strict adds namespaces to standard's Landlock and seccomp; rlimit-only is no boundary. Below the level asked for nothing starts."),
        click.option("--call-timeout", type=Duration(), default="10s", show_default=True, help="Time of a program that says nothing else."),
        click.option("--timeout-most", type=Duration(), default="300s", show_default=True, help="Longest time that a program may ask for."),
        click.option("--memory-mb", type=click.IntRange(min=256), default=1024, show_default=True, help="Address space of a program, in MiB."),
        click.option("--output-kb", type=click.IntRange(min=1), default=1024, show_default=True, help="Output of a program, of each stream, in KiB."),
        click.option("--scratch-mb", type=click.IntRange(min=1), default=64, show_default=True, help="What a program may write to its folder, in MiB."),
        click.option("--preload", metavar="A,B,...", help="Modules that are imported before programs come.  [numpy, sympy and some of the standard library]"),
    ]):  # fmt: skip
        function = option(function)
    return function


def _settings(given: dict[str, Any]) -> Any:
    from grpo_roc.env.environment import PRELOAD, Settings

    preload = given.pop("preload")
    names = PRELOAD
    if preload is not None:
        names = tuple(word.strip() for word in preload.split(",") if word.strip())
        for name in names:
            if not importlib.util.find_spec(name.partition(".")[0]):
                raise Missing(f"--preload {name}: no such module is installed")
    scratch = given.pop("scratch_mb") << 20
    return Settings(
        level=given.pop("level"), workers=given.pop("workers"), timeout=given.pop("call_timeout"), memory=given.pop("memory_mb") << 20, output=given.pop("output_kb") << 10,
        file_size=scratch, scratch=scratch, preload=names,
    )  # fmt: skip


@main.command("exec", short_help="Run a program, or many, where they can do no harm.")
@files_argument(metavar="[PROGRAM|RECORDS]...")
@click.option("--jsonl", is_flag=True, help="Records {id, code, input?, session?, timeout?} in place of one program.")
@click.option("--input", "stdin", metavar="FILE", help="The program's stdin.")
@_environment
@options("workers", "output", "records", "json", "max_time", "common")
def exec_(files: tuple[str, ...], jsonl: bool, stdin: str | None, timeout_most: float, output: str | None, overwrite: bool, as_json: bool, max_time: float | None, quiet: bool, **given: Any) -> int:  # fmt: skip
    """Run one program from a file or stdin: its output is this command's, and the exit code is 0 only where it ran to its end well. With --jsonl, records come back with `status`, `stdout`, `stderr`,
    `exit_code`, `signal`, `wall_s`, `cpu_s`, `rss` and `queue_s`.

    \b
    Example:
      echo 'print(6 * 7)' | grpo-roc exec -
      grpo-roc exec calls.jsonl --jsonl --workers 2 -o done.jsonl
    """
    from grpo_roc import exec as work

    selection = take(Selection, given)
    if jsonl:
        if stdin is not None or as_json:
            raise click.UsageError("--input and --json go with a single program")
        return work.many(files, selection, _settings(given), timeout_most=timeout_most, output=output, overwrite=overwrite, max_time=max_time, quiet=quiet)  # fmt: skip
    if len(files) > 1 or output is not None or selection != Selection(None, None, None, 0) or max_time is not None:
        raise click.UsageError(
            "one program at a time goes without -o, --limit, --ids, --shard, --skip-bad and --max-time; many are records, with --jsonl"
        )
    return work.one(files[0] if files else "-", _settings({**given, "workers": 1}), stdin=stdin, as_json=as_json)


@main.command(short_help="The environment as a service: HTTP or a Unix socket.")
@click.option("--http", metavar="HOST:PORT", help="Listen here.")
@click.option("--unix", metavar="PATH", help="Listen at this socket.")
@click.option(
    "--queue", type=click.IntRange(min=1), default=65536, show_default=True, help="Calls that may wait; beyond it, 429."
)
@click.option(
    "--grace",
    type=Duration(),
    default="10s",
    show_default=True,
    help="Time that running calls have to end once the service is to stop.",
)
@_environment
@options("workers", "common")
def serve(
    timeout_most: float, quiet: bool, http: str | None, unix: str | None, queue: int, grace: float, **given: Any
) -> int:
    """Serve until SIGTERM. Whoever can reach it can run programs: listen where only your own can.

    \b
    Example:
      grpo-roc serve --http 127.0.0.1:8088 --workers 2
    """
    from grpo_roc import serve as work

    return work.run(_settings(given), http=http, unix=unix, queue=queue, timeout_most=timeout_most, grace=grace)


@main.command("bench-env", short_help="How fast the environment is here.")
@click.option("--calls", type=click.IntRange(min=10), default=1000, show_default=True, help="Calls of print(1); a tenth as many of sympy.")  # fmt: skip
@click.option("--rate", type=Share(min=0, min_open=True), default=40.0, show_default=True, help="Calls a second of the open loop.")  # fmt: skip
@click.option("--burst", type=click.IntRange(min=0), default=0, show_default=True, help="So many calls at once as well; the paper's step has 45000.")  # fmt: skip
@_environment
@options("workers", "json", "common")
def bench_env(
    timeout_most: float, calls: int, rate: float, burst: int, as_json: bool, quiet: bool, **given: Any
) -> int:
    """Time calls of the environment on this machine: many waiting, a steady rate, a burst; and a fresh interpreter beside them. Exit 1 where a call is lost or mixed up.

    \b
    Example:
      grpo-roc bench-env --workers 2 --burst 45000
    """
    from grpo_roc import bench_env as work

    return work.run(_settings(given), calls=calls, rate=rate, burst=burst, as_json=as_json, quiet=quiet)


# ---------------------------------------------------------------- a model and its training


def _model(given: dict[str, Any]) -> str:
    """The one model of a verb that holds its weights, or reads their config."""
    found = given.pop("model")
    if len(found) > 1:
        raise BadInput("--model: one model, as its weights are held here")
    uri = found[0] if found else "smollm2"
    if uri.startswith(("vllm:", "http:", "https:", "replay:")):
        raise BadInput(
            f"--model {uri}: expected weights that are held in this process: smollm2, a folder, a GGUF file or a hub id"
        )
    return str(uri)


def _sampled(given: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """(model, further servers of it) of a verb that samples."""
    found = given.pop("model") or ("smollm2",)
    if any(uri.startswith("replay:") for uri in found):
        raise BadInput("--model replay: trajectories are sampled anew; expected a model, vllm:MODEL, or http(s)://HOST:PORT/v1#NAME")  # fmt: skip
    if len(found) > 1 and not all(uri.startswith(("http://", "https://")) for uri in found):
        raise BadInput("--model: only servers (http://..., https://...) can be given more than once")
    return str(found[0]), tuple(found[1:])


def _group(found: list[Any]) -> Any:
    def decorate(function: Any) -> Any:
        for option in reversed(found):
            function = option(function)
        return function

    return decorate


_SPOKEN = _group([
    click.option("--tools", type=Names(["python", "notebook"]), default="python", show_default=True, help="What a model may call: python, a program with its stdin; notebook, cells that know what earlier ones made."),
    click.option("--max-turns", type=click.IntRange(min=1), default=10, show_default=True, help="Turns of a trajectory."),
    click.option("--max-prompt", type=click.IntRange(min=1), default=2048, show_default=True, help="Tokens of a prompt; longer problems are left out and counted."),
    click.option("--call-timeout", type=Duration(), default="4s", show_default=True, help="Time of a call."),
    click.option("--shown", type=click.IntRange(min=64), default=4096, show_default=True, help="Characters of a call's output that the model is shown, half from each end."),
    click.option("--grader-scope", type=click.Choice(["answer", "response"]), default="answer", show_default=True, help="Where the box is looked for: in the answer block, or, as the released code does, anywhere."),
    click.option("--answer-form", type=click.Choice(["any", "number"]), default="number", show_default=True, help="number: where the gold answer is a whole number, 59 * 73 is no answer, though equal to it; it would be earned by copying the problem."),
    click.option("--noise-timeout", type=Share(min=0, max=1), default=0.0, show_default=True, help="Share of calls that are made to time out, for experiments."),
    click.option("--noise-error", type=Share(min=0, max=1), default=0.0, show_default=True, help="Share of calls that are made to fail."),
    click.option("--deterministic", "lockstep", is_flag=True, help="The same bytes in every run on one kind of machine: turns begin together, which is slower."),
    click.option("--slots", type=click.IntRange(min=1), default=32, show_default=True, help="Trajectories at a time; each holds keys and values of a prompt and a response."),
    click.option("--level", type=click.Choice(LEVELS), default="strict", show_default=True, help="Layers around a program (see exec)."),
])  # fmt: skip
_AWAY = _group([
    click.option("--tokenizer", metavar="URI", default="", help="Folder or hub id whose tokenizer a server's model has.  [#NAME]"),
])  # fmt: skip
_ADMISSION = _group([
    click.option("--admission", type=click.Choice(["auto", "static", "least", "kv", "kv-quantile", "kv-mean"]), default="auto", show_default=True, help="Which engine a trajectory goes to, and when (see simulate); auto is kv-mean for vLLM and servers, else kv."),
])  # fmt: skip


def _spoken(given: dict[str, Any], exact: bool) -> Any:
    """(model, settings) of a verb that samples. exact: whether log-probabilities are wanted."""
    from grpo_roc.evaluate import Model
    from grpo_roc.rollout import Settings

    uri, others = _sampled(given)
    model = Model(
        uri, given.pop("dtype"), given.pop("device"), given.pop("trust_remote_code"), given.pop("temperature"), given.pop("slots"), given.pop("max_prompt"), given.pop("tools"), given.pop("level"),
        given.pop("workers"), given.pop("tokenizer"), exact, given.pop("api_key_env"), others,
    )  # fmt: skip
    settings = Settings(
        turns=given.pop("max_turns"), max_tokens=given.pop("max_tokens"), shown=given.pop("shown"), call_timeout=given.pop("call_timeout"), lockstep=given.pop("lockstep"),
        noise_timeout=given.pop("noise_timeout"), noise_error=given.pop("noise_error"), scope=given.pop("grader_scope"), form=given.pop("answer_form"), admission=given.pop("admission"), seed=given.pop("seed"),
    )  # fmt: skip
    return model, settings


@main.command(short_help="Trajectories of a model on problems.")
@files_argument(metavar="[TASKS]...")
@click.option("--samples", type=click.IntRange(min=1), default=1, show_default=True, help="Trajectories of a problem.")
@click.option("--token-ids", is_flag=True, help="Write tokens, loss mask and log-probabilities too.")
@options("model", "dtype", "device", "trust_remote_code", "api_key_env")
@_AWAY
@_ADMISSION
@_SPOKEN
@options("temperature", "max_tokens", temperature=1.0, max_tokens=8192)
@options("workers", "seed", "output", "records", "max_time", "common")
def rollout(files: tuple[str, ...], samples: int, token_ids: bool, output: str | None, overwrite: bool, max_time: float | None, quiet: bool, **given: Any) -> int:  # fmt: skip
    """Write trajectory records, graded, several of each problem, which `resample`, `verify`, `filter-hard` and `analyze` read.

    \b
    Example:
      grpo-roc rollout problems.jsonl --model smollm2 --samples 8 --max-tokens 512 -o rollouts.jsonl
      grpo-roc rollout problems.jsonl --model http://gpu1:8000/v1#policy --model http://gpu2:8000/v1#policy --tokenizer run/best --samples 16 -o rollouts.jsonl
    """
    needs.models()
    from grpo_roc import evaluate as work

    model, settings = _spoken(given, token_ids)
    return work.rollout(files, take(Selection, given), model, settings, samples=samples, tokens=token_ids, output=output, overwrite=overwrite, max_time=max_time, quiet=quiet)  # fmt: skip


@main.command("eval", short_help="How well a model does with the tool: pass@1, lengths, calls.")
@files_argument(metavar="[TASKS]...")
@click.option("--samples", type=click.IntRange(min=1), default=16, show_default=True, help="Trajectories of a problem, over which its pass@1 is a mean.")  # fmt: skip
@options("model", "dtype", "device", "trust_remote_code", "api_key_env")
@_AWAY
@_ADMISSION
@_SPOKEN
@options("temperature", "max_tokens", temperature=1.0, max_tokens=8192)
@options("workers", "seed", "output", "records", "max_time", "json", "common")
def eval_(files: tuple[str, ...], samples: int, output: str | None, overwrite: bool, max_time: float | None, as_json: bool, quiet: bool, **given: Any) -> int:  # fmt: skip
    """Print pass@1 with its standard error over problems, lengths, turns, calls and their failures; -o keeps the trajectories.

    \b
    Example:
      grpo-roc eval problems.jsonl --model run/best --samples 16 --temperature 0.6 --json
    """
    needs.models()
    from grpo_roc import evaluate as work

    model, settings = _spoken(given, False)
    return work.evaluate(files, take(Selection, given), model, settings, samples=samples, output=output, overwrite=overwrite, max_time=max_time, as_json=as_json, quiet=quiet)  # fmt: skip


@main.command("filter-hard", short_help="Problems that a model does not already solve every time.")
@files_argument(metavar="[SAMPLES]...")
@click.option("--max-correct", type=click.IntRange(min=0), required=True, help="Problems that were solved more often are left out.")  # fmt: skip
@click.option("--min-correct", type=click.IntRange(min=0), default=0, show_default=True, help="So are those that were solved more seldom.")  # fmt: skip
@options("output", "records", "common")
def filter_hard(files: tuple[str, ...], **given: Any) -> int:
    """Write the problems of graded samples or trajectories that were solved at most --max-correct times, as task records.

    \b
    Example:
      grpo-roc rollout problems.jsonl --samples 8 | grpo-roc filter-hard --max-correct 7 > hard.jsonl
    """
    from grpo_roc.hard import filter_hard as work

    return work(files, take(Selection, given), **given)


@main.command(short_help="What trajectories do after a call, and where a model hesitates.")
@files_argument(metavar="[TRAJECTORIES]...")
@options("model")
@options("temperature", temperature=1.0)
@click.option("--after", "first", type=click.IntRange(min=1), default=20, show_default=True, help="Tokens of a turn that count as the answer to a call.")  # fmt: skip
@options("dtype", "device", "trust_remote_code", "records", "json", "common")
def analyze(files: tuple[str, ...], quiet: bool, **given: Any) -> int:
    """Print, for all, right and wrong trajectories: calls by status, how often a failed call is tried again and fixed, a success verified; with --model, the policy that the tokens were drawn from
    (rollout --token-ids), entropies by part of the response.

    \b
    Example:
      grpo-roc analyze run/rollouts/20.jsonl --model run/checkpoint --json
    """
    from grpo_roc.analyze import run

    if given["model"]:
        needs.models()
        given["model"] = _model(given)
    else:
        given["model"] = None
    return run(files, take(Selection, given), **given)


@main.command(short_help="The cold start: how the tool is called, without reasoning.")
@click.option("--data", metavar="FILE", multiple=True, help="Transcripts, ours or of other forms (repeatable).")  # fmt: skip
@click.option("--form", type=click.Choice(["auto", "trajectory", "messages", "toolace", "apigen", "glaive", "magicoder"]), default="auto", show_default=True, help="Whose --data: ours, OpenAI's chats with or without tools (Tulu 3), ToolACE, APIGen-MT and ShareGPT, glaive-function-calling-v2, Magicoder; auto looks.")  # fmt: skip
@click.option("--make-data", type=click.IntRange(min=1), metavar="N", help="Write N transcripts here instead, their programs run.")  # fmt: skip
@click.option("--kinds", type=Names(KINDS), default="all", show_default=True, help=f"Of problems that are made: {', '.join(KINDS)}.")  # fmt: skip
@click.option(
    "--write-data",
    metavar="FILE",
    help="Only write: what --make-data makes as trajectory records, --data as `messages` and `tools`.",
)
@options("model", "dtype", "device", "trust_remote_code")
@click.option("--tools", type=Names(["python", "notebook"]), default="python", show_default=True, help="Of the system text.")  # fmt: skip
@click.option("--epochs", type=Share(min=0, min_open=True), default=3.0, show_default=True, help="Times that every transcript is seen.")  # fmt: skip
@click.option("--transcripts", "batch", type=click.IntRange(min=1), default=16, show_default=True, help="Transcripts of an update.")  # fmt: skip
@click.option("--lr", type=Share(min=0, min_open=True), default=5e-6, show_default=True, help="Highest learning rate; a cosine brings it to nothing.")  # fmt: skip
@click.option("--warmup-share", type=Share(min=0, max=1), default=0.04, show_default=True, help="Share of the updates in which it rises.")  # fmt: skip
@click.option("--max-transcript", type=click.IntRange(min=1), default=4096, show_default=True, help="Tokens of a transcript; longer ones are left out and counted.")  # fmt: skip
@click.option("--pass-tokens", type=click.IntRange(min=1), default=4096, show_default=True, help="Of one pass through the model.")  # fmt: skip
@click.option("--held-out", type=Share(min=0, max=1), default=0.05, show_default=True, help="Share of transcripts (256 at most) that the loss is measured on.")  # fmt: skip
@click.option("--shown", type=click.IntRange(min=64), default=4096, show_default=True, help="Characters of a call's output that are shown.")  # fmt: skip
@click.option("--gradient-checkpointing", "checkpointing", is_flag=True, help="Less memory, more time.")
@click.option("--save-every", type=click.IntRange(min=1), default=50, show_default=True, help="Updates between checkpoints.")  # fmt: skip
@click.option("--level", type=click.Choice(LEVELS), default="strict", show_default=True, help="Layers around a program (see exec).")  # fmt: skip
@options("workers", "seed", "output", "max_time", "skip_bad", "common")
def sft(data: tuple[str, ...], form: str, make_data: int | None, write_data: str | None, output: str | None, max_time: float | None, skip_bad: int, quiet: bool, **given: Any) -> int:  # fmt: skip
    """Train a model on transcripts, so that it calls the tool as it must, and write it as a folder (-o) for `train`. Learnt are the model's turns, all of them; a record's own tools stand in its system text.

    \b
    Example:
      grpo-roc sft --model smollm2 --make-data 2000 --lr 1e-4 --epochs 1 -o cold
      grpo-roc sft --make-data 1000 --write-data transcripts.jsonl
      grpo-roc sft --data toolace.jsonl --data glaive.jsonl --skip-bad 1000 --model smollm2 -o cold
    """
    if (make_data is None) == (not data):
        raise BadInput("expected one of --data FILE and --make-data N")
    return _sft(data, form, make_data, write_data, output, max_time, skip_bad, quiet, given)


def _sft(data: tuple[str, ...], form: str, make_data: int | None, write_data: str | None, output: str | None, max_time: float | None, skip_bad: int, quiet: bool, given: dict[str, Any]) -> int:  # fmt: skip
    import msgspec

    kinds = given.pop("kinds")
    if write_data is not None and data:
        from grpo_roc.sft_forms import write as write_forms

        return write_forms(data, form, skip_bad, write_data, given["overwrite"], quiet)
    if write_data is not None:
        from grpo_roc.transcripts import write

        return write(make_data, given["seed"], kinds, write_data, given["level"], given["workers"], given["overwrite"], quiet)  # fmt: skip
    needs.models()
    from grpo_roc import sft as work
    from grpo_roc.sft_forms import source as transcripts

    if output is None:
        raise BadInput("-o FOLDER: where the model is to be written")
    how = work.Settings(
        make_data=make_data or 0, kinds=kinds, epochs=given.pop("epochs"), batch=given.pop("batch"), lr=given.pop("lr"), warmup_share=given.pop("warmup_share"), max_tokens=given.pop("max_transcript"),
        most=given.pop("pass_tokens"), held_out=given.pop("held_out"), tools=given.pop("tools"), shown=given.pop("shown"), checkpointing=given.pop("checkpointing"), seed=given.pop("seed"),
    )  # fmt: skip
    uri = _model(given)
    source = transcripts(data, form, skip_bad) if data else None
    identity = {
        "tool": "grpo-roc",
        "verb": "sft",
        "options": {
            "model": uri,
            "dtype": given["dtype"],
            **msgspec.to_builtins(how),
            "form": form,
            "skip_bad": skip_bad,
        },
        "inputs": source.identity() if source else [],
    }
    return work.run(uri, source or [], how, identity, output, max_time=max_time, quiet=quiet, **given)


@main.command(short_help="GRPO with Resample-on-Correct over a model that runs Python.")
@files_argument(metavar="[TASKS]...")
@click.option("--stages", metavar="FILE.toml", help="[[stage]] tables: tasks, steps, prompts, group_size, oversample, turns, max_tokens, max_prompt, lr, warmup, updates, max_correct, filter_rollouts, reset_optimizer.")  # fmt: skip
@click.option("--algo", type=click.Choice(["roc", "roc-top", "grpo", "grpo-2g", "random-2g"]), default="roc", show_default=True, help="What of a group is trained on: G by Resample-on-Correct, G sampled, all of 2G, or G of 2G by chance.")  # fmt: skip
@click.option("--steps", type=click.IntRange(min=1), default=100, show_default=True, help="Steps of a run without --stages.")  # fmt: skip
@click.option("--prompts", type=click.IntRange(min=1), default=8, show_default=True, help="Problems of a step.")
@click.option("--group-size", type=click.IntRange(min=2), default=8, show_default=True, metavar="G", help="Trajectories of a problem that are trained on.")  # fmt: skip
@click.option("--oversample", type=click.IntRange(min=1), default=2, show_default=True, help="Times G that are sampled.")  # fmt: skip
@click.option("--lr", type=Share(min=0, min_open=True), default=1e-6, show_default=True, help="Learning rate, constant after its warm-up.")  # fmt: skip
@click.option("--warmup", type=click.IntRange(min=0), default=20, show_default=True, help="Updates in which it rises.")
@click.option("--updates", type=click.IntRange(min=1), default=1, show_default=True, help="Updates of a step, each of some of its groups.")  # fmt: skip
@click.option("--epsilon", type=Share(min=0, min_open=True), default=0.001, show_default=True, help="Added to a penalty before it is inverted.")  # fmt: skip
@click.option("--ddof", type=click.Choice(["0", "1"]), default="1", show_default=True, help="Of the standard deviation in advantages; 1 is verl's.")  # fmt: skip
@click.option("--clip-low", type=Share(min=0, max=1), default=0.2, show_default=True, help="How far below 1 a ratio counts.")  # fmt: skip
@click.option("--clip-high", type=Share(min=0), default=0.28, show_default=True, help="How far above.")
@click.option("--max-norm", type=Share(min=0, min_open=True), default=1.0, show_default=True, help="To which gradients are scaled down.")  # fmt: skip
@click.option("--pass-tokens", type=click.IntRange(min=1), default=4096, show_default=True, help="Of one pass through the model.")  # fmt: skip
@click.option("--gradient-checkpointing", "checkpointing", is_flag=True, help="Less memory, more time.")
@click.option("--step-deadline", type=Duration(), help="Time for a step's trajectories; what still runs then is cut off and has reward 0.")  # fmt: skip
@click.option("--rollout-engine", "engines", multiple=True, metavar="URI", help="What samples: vllm: (vLLM in this process), or a vLLM server, http(s)://HOST:PORT/v1#NAME (repeatable). Without it, transformers.")  # fmt: skip
@_ADMISSION
@click.option("--engine-memory", type=Share(min=0, max=1, min_open=True), default=0.3, show_default=True, help="Share of a GPU for vLLM in this process, which the trainer has beside it.")  # fmt: skip
@click.option("--save-every", type=click.IntRange(min=1), default=5, show_default=True, help="Steps between checkpoints.")  # fmt: skip
@click.option("--keep-rollouts", type=click.IntRange(min=0), default=0, show_default=True, help="Write the trajectories of every Nth step; 0 writes none.")  # fmt: skip
@options("model", "dtype", "device", "trust_remote_code", "api_key_env")
@_SPOKEN
@options("temperature", "max_tokens", temperature=1.0, max_tokens=8192)
@options("workers", "seed", "output", "max_time", "skip_bad", "common")
def train(files: tuple[str, ...], stages: str | None, output: str | None, overwrite: bool, max_time: float | None, quiet: bool, skip_bad: int, **given: Any) -> int:  # fmt: skip
    """Train a model by what its trajectories earn, in a folder (-o) that holds metrics, a checkpoint to go on from, and the model at its best. The same command goes on after a kill.

    \b
    Example:
      grpo-roc train problems.jsonl --model cold --steps 20 --prompts 4 --group-size 4 --max-tokens 256 --lr 5e-5 -o run
      grpo-roc train --stages stages.toml --model cold --algo grpo -o run
      grpo-roc train problems.jsonl --model cold --rollout-engine http://gpu1:8000/v1#policy --rollout-engine http://gpu2:8000/v1#policy -o run
    """
    needs.models()
    from grpo_roc import launch as work

    if output is None:
        raise BadInput("-o FOLDER: where the run is to be kept")
    return work.train(files, stages, _model(given), output, overwrite=overwrite, max_time=max_time, quiet=quiet, skip_bad=skip_bad, given=given)  # fmt: skip


@main.command(short_help="What a run's folder shows.")
@click.argument("folder", metavar="RUN")
@click.option("--html", "html_", metavar="FILE", help="Write a page with curves, tables and trajectories (needs matplotlib).")  # fmt: skip
@click.option("--examples", "count", type=click.IntRange(min=0), default=2, show_default=True, help="Trajectories of each kind on the page, where the run kept any.")  # fmt: skip
@options("overwrite", "json", "common")
def report(folder: str, html_: str | None, count: int, as_json: bool, overwrite: bool, quiet: bool) -> int:
    """Print the first and last steps of a run beside each other, what selection did, and its alarms.

    \b
    Example:
      grpo-roc report run --html report.html
    """
    from grpo_roc.report import run

    return run(folder, html_=html_, count=count, as_json=as_json, overwrite=overwrite)


# ---------------------------------------------------------------- the claim


@main.command(short_help="Does Resample-on-Correct do what is claimed for it? A toy, minutes on two cores.")
@click.option("--task", type=click.Choice(["text", "tabular"]), default="text", show_default=True, help="A transformer of 0.1 million parameters that writes Python which is run, or a policy of three numbers.")  # fmt: skip
@click.option("--arms", default="grpo,grpo-2g,random-2g,roc,roc-top", show_default=True, metavar="A,B,...", help="What is compared, by how trajectories are kept.")  # fmt: skip
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Starts, each trained by every arm: --seed and those after it.")  # fmt: skip
@click.option("--steps", type=click.IntRange(min=1), help="Steps of each arm.  [100; tabular: 200]")
@click.option("--turns", type=click.IntRange(min=2), help="Turns of a trajectory at most; where they are few, errors cost reward, and nothing is trained.  [9; tabular: 10 calls]")  # fmt: skip
@click.option("--level", type=click.Choice(LEVELS), default="strict", show_default=True, help="Layers around the text task's programs.")  # fmt: skip
@options("seed", "workers", "output", "json", "common")
def toy(task: Any, arms: str, steps: int | None, turns: int | None, level: Any, **given: Any) -> int:
    """Train one policy in five ways that differ in what is kept of the trajectories, and compare: share of failed calls, answers given twice, length, accuracy, with intervals over seeds. Exit 1, and nothing
    trained, where a right answer is not about as likely after errors as without. With -o a folder: steps.jsonl, table.json, error_share.png; finished runs in it are not run again.

    \b
    Example:
      grpo-roc toy --seeds 5 -o toy
      grpo-roc toy --task tabular --seeds 10 --json
    """
    from msgspec.structs import replace

    from grpo_roc import toy as work

    asked = {name: x for name, x in (("steps", steps), ("turns", turns), ("level", level)) if x is not None}
    names: Any = [word.strip() for word in arms.split(",") if word.strip()]
    return work.run(replace(work.DEFAULTS[task], **asked), names, **given)


# ---------------------------------------------------------------- before a run

POLICIES = ["static", "least", "kv", "kv-quantile", "kv-mean", "turns"]


@main.command(short_help="How long a step's rollouts take, by who is sent where and when.")
@files_argument(metavar="[TRACES]...")
@click.option("--engines", type=click.IntRange(min=1), default=8, show_default=True, help="Engines, all alike.")
@click.option("--cache-tokens", type=click.IntRange(min=1), required=True, metavar="N", help="Tokens that an engine's KV cache holds (plan tells them).")  # fmt: skip
@click.option("--max-length", type=click.IntRange(min=1), metavar="L", help="Tokens of a response at most, the tools' among them.  [the longest trace; 12288 with --generate]")  # fmt: skip
@click.option("--policy", "policies", type=click.Choice([*POLICIES, "all"]), multiple=True, default=["all"], show_default=True, help="Who is sent where (repeatable); turns is a barrier after each turn, tools one by one.")  # fmt: skip
@click.option("--block", type=click.IntRange(min=1), default=16, show_default=True, help="Tokens of a block of the cache.")  # fmt: skip
@click.option("--rate-curve", metavar="FILE", help="Measured: JSON [[batch, tokens a second], ...]; in place of the next two.")  # fmt: skip
@click.option("--rate-alone", type=Share(min=0, min_open=True), default=100.0, show_default=True, help="r1 of r(b) = r1 b / (1 + b / H): about the tokens a second of one trajectory alone.")  # fmt: skip
@click.option("--half-batch", type=Share(min=0, min_open=True), default=32.0, show_default=True, help="H of that: how many reach half of the most, r1 H.")  # fmt: skip
@click.option("--prefill-rate", type=Share(min=0, min_open=True), default=10000.0, show_default=True, help="Tokens a second of prefill, while which nothing decodes.")  # fmt: skip
@click.option("--quantile", type=Share(min=0, max=1, min_open=True), default=0.4, show_default=True, help="kv-quantile: of the lengths seen, as long as a place is.")  # fmt: skip
@click.option("--high-water", type=Share(min=0, max=1, min_open=True), default=0.9, show_default=True, help="kv-quantile, kv-mean: share of a cache above which nothing more is sent to it.")  # fmt: skip
@click.option("--release-after", type=Duration(), help="kv policies: give a trajectory's place away when its tools take longer.")  # fmt: skip
@click.option("--tool-seconds", type=Share(min=0), default=0.3, show_default=True, help="Of a call whose record does not say how long it took.")  # fmt: skip
@click.option("--history", metavar="FILE", help="Traces of an earlier step, whose lengths kv-quantile and kv-mean begin with.")  # fmt: skip
@click.option("--generate", type=click.IntRange(min=1), metavar="N", help="Make up N traces in place of a file: log-normal lengths, long tails of tools.")  # fmt: skip
@click.option("--group-size", type=click.IntRange(min=1), default=16, show_default=True, help="--generate: trajectories of a prompt.")  # fmt: skip
@click.option("--mean-length", type=Share(min=1), default=4096.0, show_default=True, help="--generate: mean length of a response.")  # fmt: skip
@click.option("--write-traces", metavar="FILE", help="Write the traces too, as they are read.")
@options("seed", "limit", "skip_bad", "json", "common")
def simulate(files: tuple[str, ...], limit: int | None, skip_bad: int, policies: tuple[Any, ...], write_traces: str | None, as_json: bool, quiet: bool, **given: Any) -> int:  # fmt: skip
    """Play a step's trajectories against modelled engines under each policy: makespan, and its ratio to what no policy can beat, idle engines, preemptions, tokens computed again.

    \b
    Example:
      grpo-roc simulate rollouts.jsonl --engines 2 --cache-tokens 65536
      grpo-roc simulate --generate 2048 --cache-tokens 262144 --policy static --policy kv-mean --json
    """
    from grpo_roc import simulate as work

    chosen = work.POLICIES if "all" in policies else tuple(dict.fromkeys(policies))
    settings = work.Options(policies=chosen, **given)
    return work.run(files, Selection(limit, None, None, skip_bad), settings, write_traces=write_traces, as_json=as_json, quiet=quiet)  # fmt: skip


@main.command(short_help="What a run takes, and whether it fits, before it is started.")
@options("model")
@click.option("--prompts", type=click.IntRange(min=1), default=512, show_default=True, help="Prompts of a step.")
@click.option("--group-size", type=click.IntRange(min=2), default=16, show_default=True, metavar="G", help="Trajectories of a prompt that are trained on.")  # fmt: skip
@click.option("--oversample", type=Share(min=1), default=2.0, show_default=True, help="How many times as many are sampled.")  # fmt: skip
@click.option("--max-length", type=click.IntRange(min=1), default=12288, show_default=True, help="Tokens of a response at most.")  # fmt: skip
@click.option("--max-prompt", type=click.IntRange(min=1), default=2048, show_default=True, help="Tokens of a prompt at most.")  # fmt: skip
@click.option("--mean-length", type=click.IntRange(min=1), help="Tokens of a response on average.  [half of --max-length]")  # fmt: skip
@click.option("--mean-prompt", type=click.IntRange(min=1), default=256, show_default=True, help="Tokens of a prompt on average.")  # fmt: skip
@click.option("--gpus", type=click.IntRange(min=1), default=8, show_default=True, help="GPUs, for training and for engines in turn.")  # fmt: skip
@click.option("--tensor-parallel", type=click.IntRange(min=1), default=1, show_default=True, help="GPUs of an engine.")
@click.option("--gpu-mem", type=Size(), metavar="SIZE", default="80G", show_default=True, help="Memory of each card: 80G, 79.6GiB.")  # fmt: skip
@click.option("--pass-tokens", type=click.IntRange(min=1), default=20480, show_default=True, help="Tokens of a GPU's micro-batch, packed.")  # fmt: skip
@click.option("--logit-chunk", type=click.IntRange(min=1), default=1024, show_default=True, help="Tokens whose logits exist at a time.")  # fmt: skip
@click.option("--gradient-checkpointing/--no-gradient-checkpointing", default=True, show_default=True, help="Compute activations again on the way back.")  # fmt: skip
@click.option("--offload/--no-offload", default=False, show_default=True, help="Master weights and AdamW in host memory while trajectories are sampled.")  # fmt: skip
@click.option("--block", type=click.IntRange(min=1), default=16, show_default=True, help="Tokens of a block of the cache.")  # fmt: skip
@click.option("--tokens-per-second", type=Share(min=0, min_open=True), help="Measured: an engine's, all trajectories together.  [from the bandwidth]")  # fmt: skip
@click.option("--bandwidth", type=Size(), metavar="SIZE", default="3.35T", show_default=True, help="Bytes the memory of a GPU gives a second; 3.35T is an H100's.")  # fmt: skip
@click.option("--train-tflops", type=Share(min=0, min_open=True), default=400.0, show_default=True, help="Reached by a GPU in training: 40% of an H100's bf16.")  # fmt: skip
@click.option("--calls", type=Share(min=0), default=2.75, show_default=True, help="Tool calls of a trajectory; the paper's mean.")  # fmt: skip
@click.option("--tool-rate", type=Share(min=0, min_open=True), help="Calls a second of the environment, as bench-env measures them.")  # fmt: skip
@click.option("--tool-seconds", type=Share(min=0), default=0.3, show_default=True, help="Of a call, from issue to result; the paper's mean.")  # fmt: skip
@click.option("--explain", is_flag=True, help="Every number with its formula.")
@options("json", "common")
def plan(explain: bool, as_json: bool, quiet: bool, **given: Any) -> int:
    """Count a run from the model's config: memory of training and engines, places for trajectories (K), tool calls, operations, seconds a step. Exit 1 where it does not fit, with what to change.

    \b
    Example:
      grpo-roc plan --model smollm2 --gpus 1 --gpu-mem 80G --explain
      grpo-roc plan --model Qwen/Qwen3-14B --gpus 64 --gpu-mem 192G --tool-rate 340 --json
    """
    from grpo_roc import plan as work

    return work.run(_model(given), work.Options(**given), explain=explain, as_json=as_json)


def _levels() -> dict[str, Any]:
    """doctor: which levels of the environment are to be had here."""
    from grpo_roc.env.isolation import LEVELS as KNOWN
    from grpo_roc.env.isolation import probe
    from tenfold_shared.cli import check

    missing = probe()
    return {
        name: check(name not in missing, "all layers" if name not in missing else "refused here", missing.get(name, ""))
        for name in KNOWN
    }


add_doctor(
    main, extras=["hf", "arrow", "serve", "plot"], only_here={"serve": ["aiohttp"]}, own=_levels, example="strict"
)

if __name__ == "__main__":
    main()
