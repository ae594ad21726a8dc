"""The `dser` command: click options in, calls into the modules beside it, exit codes out."""

from __future__ import annotations

from typing import Any

import click

from tenfold_shared.cli import (
    Backend,
    Selection,
    Share,
    add_doctor,
    files_argument,
    options,
    take,
    take_sampling,
    tool,
)

_CHANCE = Share(min=0, max=1)
_folder = click.argument("folder", metavar="DIR", type=click.Path())


@tool("dser", "dser", "Many weak verify-refine chains, one vote, and a diagnosis of the model.")
def main() -> None:
    pass


@main.command(short_help="Chains of solve, verify, refine for each problem, and a vote.")
@files_argument(metavar="[TASKS]...")
@click.option("--preset", type=click.Choice(["dser", "imo25", "self-consistency", "self-refine"]), default="dser", show_default=True, help="Chains, iterations, window, policy and prompts of a method; options beside it win.")  # fmt: skip
@click.option("--chains", type=click.IntRange(min=1), help="Independent chains a problem (K).  [dser: 16]")
@click.option("--iterations", type=click.IntRange(min=0), help="Verify-refine iterations (N); 1 + 2N calls a chain.  [dser: 10]")  # fmt: skip
@click.option("--window", type=click.IntRange(min=1), help="The vote is over the last so many iterations.  [dser: 10]")
@click.option("--policy", metavar="POLICY", help="always, keep-on-pass, stop-on-pass:M or stop-on-stable:M.  [dser: always]")  # fmt: skip
@click.option("--vote", "rule", type=click.Choice(["plurality", "passes", "accepted"]), help="Count answers, weigh them by the reviews they passed, or count accepted chains only.  [dser: plurality]")  # fmt: skip
@click.option("--early-stop", type=Share(min=0.5, max=1, max_open=True), metavar="P", help="End a problem when its leading answer leads with this chance (after a whole window).")  # fmt: skip
@click.option("--template", "templates", metavar="ROLE=FILE", multiple=True, help="Prompt template (string.Template) of solve, verify, refine, improve, check or force (repeatable).")  # fmt: skip
@click.option("--system", metavar="TEXT", help="System prompt of every call.")
@click.option("--box", type=click.Choice(["last", "first", "all"]), default="last", show_default=True, help="Which \\boxed{} of a solution is its answer.")  # fmt: skip
@click.option("--require-box/--no-require-box", default=True, show_default=True, help="A solution without a box has no answer.")  # fmt: skip
@click.option("--answer-pattern", "answer", metavar="REGEX", help="What an answer must match in full; others are none.")
@click.option("--verdict-pass", metavar="REGEX", help="What a passing review holds.  [VERDICT: PASS]")
@click.option("--verdict-fail", metavar="REGEX", help="What a failing review holds; the later of the two counts.  [VERDICT: FAIL]")  # fmt: skip
@click.option("--unknown", type=click.Choice(["fail", "pass"]), default="fail", show_default=True, help="What a review without a verdict counts as, for the policy; it is never counted for the verifier.")  # fmt: skip
@click.option("--thinking", type=click.Choice(["tags", "none"]), default="tags", show_default=True, help="With `tags`, text cut at the token limit before </think> is no solution; `none` for models that never think.")  # fmt: skip
@click.option("--no-answer", type=click.Choice(["replace", "keep"]), default="replace", show_default=True, help="A refined solution without an answer replaces the one before, or is dropped.")  # fmt: skip
@click.option("--force-answer", is_flag=True, help="Ask a solution that was cut off for its answer, in one more call.")
@click.option("--context", type=click.IntRange(min=1), metavar="TOKENS", help="The model's context, where only the server knows it: longer prompts are trimmed.")  # fmt: skip
@options("backend", "sampling", "seed", "output", "records", "bounds", "dry_run", "common", temperature=0.6, max_tokens=4096)  # fmt: skip
def solve(files: tuple[str, ...], **given: Any) -> int:
    """Run K chains of N iterations a problem and write one sample a problem: the vote's solution.

    Reads task records, and problem files with problem/question and answer fields (.jsonl, .json, .csv, .parquet), or
    .txt with one problem. With -o DIR, every call is kept in DIR/steps.jsonl; the same command continues after a kill.
    --model sim:FILE is a simulated model with known transitions.

    \b
    Examples:
      dser solve problems.jsonl --model http://127.0.0.1:8000/v1 --chains 16 --iterations 10 -o run
      dser solve problems.jsonl --preset self-consistency --chains 64 -o baseline
    """
    from dser.solve import run

    backend, selection, sampling = take(Backend, given), take(Selection, given), take_sampling(given)
    return run(files, backend, selection, sampling, **given)


@main.command(short_help="The vote again, from the steps alone.")
@_folder
@click.option("--window", type=click.IntRange(min=1), help="Another window than the run's.")
@click.option("--vote", "rule", type=click.Choice(["plurality", "passes", "accepted"]), help="Another rule than the run's.")  # fmt: skip
@options("output", "common")
def vote(folder: str, **given: Any) -> int:
    """Write the vote on each problem of DIR (or of a steps.jsonl): answer, table, effective votes, confidence.

    \b
    Example:
      dser vote run --window 1
    """
    from dser.vote import run

    given.pop("quiet")
    return run(folder, **given)


@main.command(short_help="What the chains say of the model: advice, transitions, verifier, vote.")
@_folder
@click.option("--self-consistency", metavar="SAMPLES", help="Samples or run folder of the same model, to compare at equal tokens; else iteration 0 is resampled.")  # fmt: skip
@click.option("--reference", metavar="SAMPLES", help="Another model's single-turn samples, or run folder.")
@click.option("--replicates", type=click.IntRange(min=100), default=2000, show_default=True, help="Bootstrap replicates, over problems.")  # fmt: skip
@options("seed", "json", "plot", "common")
def report(folder: str, **given: Any) -> int:
    """Diagnose the model from DIR/steps.jsonl; if its own transitions say that iterating hurts, that comes first.

    \b
    Example:
      dser report run --json --plot report.png --reference teacher.jsonl
    """
    from dser.report import run

    given.pop("quiet")
    return run(folder, **given)


@main.command(short_help="The chains and iterations that a budget of tokens is best spent on.")
@_folder
@click.option("--budget-tokens", "tokens", type=click.IntRange(min=1), required=True, metavar="T", help="Tokens of prompts and replies, over all problems.")  # fmt: skip
@click.option("--problems", type=click.IntRange(min=1), help="Plan for so many problems like these.  [as many as DIR has]")  # fmt: skip
@options("seed", "json", "common")
def plan(folder: str, **given: Any) -> int:
    """Simulate each problem's own answer-level chain, as DIR shows it, for the K (at most 512) and N that T tokens buy.

    \b
    Example:
      dser plan run --budget-tokens 2000000 --json
    """
    from dser.plan import run

    given.pop("quiet")
    return run(folder, **given)


@main.command(short_help="A run as samples, lm-eval samples, or training triples.")
@_folder
@click.option("--to", "form", type=click.Choice(["samples", "lm-eval", "triples"]), required=True, help="samples: each chain's last solution. triples: solution, review and refinement, labelled.")  # fmt: skip
@click.option("--template", "templates", multiple=True, metavar="ROLE=FILE", help="For triples: the run's own prompts, verify and refine.")  # fmt: skip
@options("output", "common")
def export(folder: str, **given: Any) -> int:
    """Write DIR's texts for other tools: graders and metrics, lm-evaluation-harness, or training.

    \b
    Example:
      dser export run --to samples | cotpass grade -
    """
    from dser.export import run

    given.pop("quiet")
    return run(folder, **given)


@main.command(short_help="Join the runs of shards.")
@click.argument("folders", nargs=-1, metavar="DIR...", type=click.Path())
@options("output", "common")
def merge(folders: tuple[str, ...], **given: Any) -> int:
    """Join the runs of `dser solve --shard 1/N` … `--shard N/N` into one.

    \b
    Example:
      dser merge run-1 run-2 -o run
    """
    from dser.merge import run

    return run(folders, **given)


@main.command(short_help="Theory: where chains with given chances end up, and what K of them vote.")
@click.option("--p-ic", type=_CHANCE, help="P(correct next | incorrect).")
@click.option("--p-ci", type=_CHANCE, help="P(incorrect next | correct).")
@click.option("--p-0", type=_CHANCE, default=0.0, show_default=True, help="P(correct) at iteration 0.")
@click.option("--matrix", metavar="FILE", help="JSON: a transition matrix over answers, the right one first; or {matrix, initial}.")  # fmt: skip
@click.option("--chains", type=click.IntRange(min=1), default=16, show_default=True, help="K.")
@click.option("--iterations", type=click.IntRange(min=0), default=80, show_default=True, help="N.")
@click.option("--window", type=click.IntRange(min=1), default=10, show_default=True, help="Iterations that vote.")
@click.option("--runs", type=click.IntRange(min=100), default=20_000, show_default=True, help="Monte Carlo runs.")
@options("seed", "json", "common")
def simulate(**given: Any) -> int:
    """P(correct) by iteration, its limit, and the chance that the vote is right: closed forms and Monte Carlo.

    \b
    Example:
      dser simulate --p-ic .12 --p-ci .05 --chains 16 --iterations 80 --json
    """
    from dser.simulate import run

    given.pop("quiet")
    return run(**given)


add_doctor(main, extras=["hf", "vllm", "plot"])

if __name__ == "__main__":
    main()
