"""The command `grpo-roc`: options and help. Each verb's work is in the module of its name."""

from __future__ import annotations

import importlib.util
from typing import Any

import click

from tenfold_shared import BadInput, Missing
from tenfold_shared.cli import Duration, Selection, Share, add_doctor, files_argument, options, take, tool

_FORM = click.option("--form", type=click.Choice(["auto", "trajectory", "verl", "chat"]), default="auto", show_default=True, help="Whose records: ours, verl's rollout dumps, or chats with tool messages (TRL's too).")  # fmt: skip
_COMPAT = click.option("--compat", type=click.Choice(["rstar"]), help="Score and select as the released code does, its mistakes included, for comparison.")  # fmt: skip


@tool("grpo-roc", "grpo-roc", "Agentic reinforcement learning with code: Resample-on-Correct, and its answer verifier.")
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
@click.option("--grade-timeout", type=Duration(), default="2s", show_default=True, help="Time a symbolic comparison may take.")  # fmt: skip
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


add_doctor(main, extras=["arrow", "serve"], own=_levels, example="strict")

if __name__ == "__main__":
    main()
