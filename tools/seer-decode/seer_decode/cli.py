"""The command `seer-decode`: options and help. Each verb's work is in the module of its name."""

from collections.abc import Sequence
from typing import Any

import click

from seer_decode import needs
from tenfold_shared.cli import (
    Numbers,
    Selection,
    Share,
    Size,
    add_doctor,
    files_argument,
    options,
    take,
    take_sampling,
    tool,
)

QUERIES = ["Qproj", "Qavgproj", "Qavg", "Qorig"]
METHODS = ["dense", "oracle", "seer", "quest", "recent", "random"]
BLOCKS = ["16", "32", "64", "128", "256"]


@tool("seer-decode", "seer-decode", "Block-sparse decoding of long chains of thought by a small trained gate a layer.")
def main() -> None:
    pass


_MODEL_HELP = "The model: smollm2, a folder, its config.json by any name, a GGUF file or a hub id."
_BLOCK = click.option("--block", type=click.Choice(BLOCKS), default="64", show_default=True, help="Tokens of a block.")
_WEIGHTS = click.option("--model", "uri", metavar="URI", default="smollm2", show_default=True, help="The model: smollm2, a folder, a GGUF file or a hub id.")  # fmt: skip
_EXTRAPOLATE = click.option("--allow-extrapolation", is_flag=True, help="Go on beyond the model's positions.")
_GATE_DIM = click.option("--gate-dim", type=click.IntRange(min=1), help="Channels of a gate's features.  [head_dim]")


def shape_options(given: dict[str, Any]) -> dict[str, Any]:
    """What of a verb's options makes a gate's shape."""
    from seer_decode.shape import pooling_of

    return {
        "gate_dim": given.pop("gate_dim"),
        "block": int(given.pop("block")),
        "key_pooling": pooling_of(given.pop("key_pooling"), "--key-pooling"),
        "query_pooling": given.pop("query_pooling"),
        "qk_norm": not given.pop("no_qk_norm"),
        "rope": False if given.pop("no_rope") else None,
    }


@main.command(short_help="Gates a model can have, or those in a folder.")
@click.argument("gates", required=False, metavar="[GATES]", type=click.Path())
@click.option("--model", "uri", metavar="URI", help=f"{_MODEL_HELP} With GATES: they must be for it.  [smollm2 without GATES]")  # fmt: skip
@_GATE_DIM
@_BLOCK
@click.option("--key-pooling", metavar="NAME", default="Kmaxminavg", show_default=True, help="K and some of max, min, avg in that order.")  # fmt: skip
@click.option("--query-pooling", type=click.Choice(QUERIES), default="Qproj", show_default=True, help="How a group's query heads become one feature.")  # fmt: skip
@click.option("--no-qk-norm", is_flag=True, help="Without the two norms.")
@click.option("--no-rope", is_flag=True, help="Without positions.")
@options("json", "common")
def info(gates: str | None, block: str, **given: Any) -> int:
    """Layers, shapes, parameters and bytes: of the gates that a model's config allows, or of a folder of gates in either
    form, every tensor checked. The shape's options are for a model; a folder has its own.

    \b
    Example:
      seer-decode info --model smollm2
    """
    needs.models()
    from seer_decode.info import run

    given.pop("quiet")
    return run(gates, block=int(block), **given)


@main.command(short_help="Gates trained towards a model's own attention.")
@click.argument("texts", nargs=-1, metavar="TEXT...", type=click.Path())
@_WEIGHTS
@options("dtype", "device", "trust_remote_code")
@_GATE_DIM
@click.option("--block", type=click.Choice(BLOCKS), help="Tokens of a block.  [64; those of --init]")
@click.option("--key-pooling", metavar="NAME", default="Kmaxminavg", show_default=True, help="K and some of max, min, avg in that order.")  # fmt: skip
@click.option("--query-pooling", type=click.Choice(QUERIES), default="Qproj", show_default=True, help="How a group's query heads become one feature.")  # fmt: skip
@click.option("--no-qk-norm", is_flag=True, help="Without the two norms.")
@click.option("--no-rope", is_flag=True, help="Without positions.")
@click.option("--steps", type=click.IntRange(min=1), default=200, show_default=True, help="Batches to read; the paper's runs have 800.")  # fmt: skip
@click.option("--batch-rows", type=click.IntRange(1, 65536), default=1, show_default=True, help="Packed rows of a step, over all processes; the paper's runs have 16.")  # fmt: skip
@click.option("--length", type=click.IntRange(min=17), default=4096, show_default=True, help="Tokens of a row; the paper's runs have 32768.")  # fmt: skip
@click.option("--lr", type=Share(min=0, max=10, min_open=True), default=1e-3, show_default=True, help="Learning rate after the warm-up.")  # fmt: skip
@click.option("--min-lr", type=Share(min=0), default=1e-5, show_default=True, help="Learning rate at the end of its cosine.")  # fmt: skip
@click.option("--warmup", type=click.IntRange(min=0), default=20, show_default=True, help="Optimiser steps of the warm-up.")  # fmt: skip
@click.option("--slice-ratio", type=Share(min=0, max=1, max_open=True), default=0.0, show_default=True, help="Leave out rows before this share of a sequence.")  # fmt: skip
@click.option("--loss-scale", type=Share(min=0, max=1e6, min_open=True), default=10.0, show_default=True, help="What the loss is times.")  # fmt: skip
@click.option("--rows", type=click.IntRange(min=0), default=0, show_default=True, help="Query rows of a sequence that count, drawn anew each time; 0 is all.")  # fmt: skip
@click.option("--parts", type=click.IntRange(1, 1024), default=1, show_default=True, help="Optimiser steps a batch, each on its part of the rows; 1 is the paper's.")  # fmt: skip
@click.option("--init", metavar="GATES", help="Begin with these gates.")
@click.option("--chat-template", metavar="FILE", help="A chat template in place of the tokenizer's own.")
@click.option("--save-dtype", type=click.Choice(["bfloat16", "float32"]), default="bfloat16", show_default=True, help="Type of the saved weights; training is in float32.")  # fmt: skip
@_EXTRAPOLATE
@options("seed", "skip_bad", "max_time", "output", "json", "common")
def distill(texts: tuple[str, ...], **given: Any) -> int:
    """Train a gate for each layer of a frozen model on TEXT: plain files, JSON Lines or parquet with `text` or `messages`; `-` is
    stdin. The same command goes on after a kill. Under torchrun the rows of a batch are shared out.

    \b
    Example:
      seer-decode distill thoughts.jsonl --model smollm2 --steps 200 --length 4096 --rows 512 -o gates
    """
    needs.models()
    from seer_decode.distill import Settings, run

    if given["block"] is None:
        from seer_decode.store import describe

        given["block"] = describe(given["init"]).shape.block if given["init"] else 64
    shape = shape_options(given)
    how = Settings(**{field: given.pop(field) for field in Settings.__struct_fields__})
    return run(texts, how, shape=shape, **given)


class Names(click.ParamType):
    """Comma-separated names of a fixed set, in the order given, each once."""

    name = "A,B,..."

    def __init__(self, known: Sequence[str]) -> None:
        self.known = list(known)

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        parts = list(value) if isinstance(value, tuple | list) else [part.strip() for part in str(value).split(",")]
        for part in parts:
            if part not in self.known:
                self.fail(f"{part!r}: expected some of {', '.join(self.known)}", param, ctx)
        return tuple(dict.fromkeys(parts))


_DENSE = click.option("--dense-layers", type=click.IntRange(min=0), default=0, show_default=True, help="So many first layers read everything.")  # fmt: skip
_SINK = click.option("--sink", type=click.IntRange(min=0), default=0, show_default=True, help="First blocks that are always read, within the budget.")  # fmt: skip


def _reading(function: Any) -> Any:
    """What a step reads."""
    found = [
        click.option("--gate", metavar="GATES", help="Gates of seer-decode distill, or published ones."),
        click.option("--method", type=click.Choice(["seer", "oracle", "quest", "recent", "random", "dense"]), default="seer", show_default=True, help="What ranks blocks: the gates, true attention, Quest's bounds, recency, chance; dense reads all."),
        click.option("--budget", type=click.IntRange(1, 1 << 40), metavar="T", help="Read at most T tokens a step, sink and tail among them.  [what the gates were meant for]"),
        click.option("--threshold", type=Share(min=0, max=1), help="Read blocks whose share of the gate's softmax is greater."),
        click.option("--mass", type=Share(min=0, max=1, min_open=True), help="Read the fewest blocks whose shares sum to it."),
        click.option("--ratio", type=Share(min=0, max=1, min_open=True), help="Read this share of all blocks."),
        click.option("--block", type=click.Choice(BLOCKS), help="Tokens of a block.  [those of the gates, else 64]"),
        click.option("--reuse-gate", is_flag=True, help="Also for blocks the gates were not trained for."),
        _SINK,
        click.option("--local", type=click.IntRange(min=1), default=1, show_default=True, help="Last blocks that are always read, the tail among them."),
        click.option("--dense-layers", type=click.IntRange(min=0), help="So many first layers read everything.  [as the gates were meant, else 0]"),
        click.option("--paper-compat", is_flag=True, help="The published rule: T // block by score, the first and last in addition."),
        click.option("--trace-every", type=click.IntRange(min=1), default=1, show_default=True, help="Keep every Nth step in meta.sparsity.trace."),
    ]  # fmt: skip
    for option in reversed(found):
        function = option(function)
    return function


def _reads(given: dict[str, Any]) -> Any:
    from seer_decode.generate import Reading

    given["block"] = int(given["block"]) if given["block"] else None
    return Reading(**{field: given.pop(field) for field in Reading.__struct_fields__})


_MODEL_SAMPLING = click.option("--model-sampling", is_flag=True, help="Temperature, top-p and top-k of the model's generation_config in place of these.")  # fmt: skip


@main.command(short_help="Completions of task records that read a part of the cache.")
@files_argument()
@_WEIGHTS
@_reading
@click.option("-n", "--samples", type=click.IntRange(min=1), default=1, show_default=True, help="Responses a task.")
@_MODEL_SAMPLING
@_EXTRAPOLATE
@options(
    "sampling", "batch_size", "dtype", "device", "trust_remote_code", "seed", "records", "max_time", "plot", "output", "common",
    temperature=0.0, top_p=1.0, batch_size=1,
)  # fmt: skip
def generate(files: tuple[str, ...], **given: Any) -> int:
    """Answer the tasks of FILES (`prompt` or `messages`). Each sample tells in meta.sparsity what its steps read. A prompt is read
    densely.

    \b
    Example:
      seer-decode generate tasks.jsonl --model smollm2 --gate gates --budget 1024 -o out.jsonl
    """
    needs.models()
    from seer_decode.generate import run

    return run(files, _reads(given), take(Selection, given), take_sampling(given), **given)


@main.command("eval", short_help="pass@1 on questions with answers, and generation lengths.")
@files_argument()
@_WEIGHTS
@_reading
@click.option("-n", "--samples", type=click.IntRange(min=1), default=1, show_default=True, help="Responses a task.")
@click.option("--prompt", type=click.Choice(["math", "plain"]), default="math", show_default=True, help="math asks for steps and a boxed answer; plain sends the question alone.")  # fmt: skip
@_MODEL_SAMPLING
@_EXTRAPOLATE
@options(
    "template", "sampling", "batch_size", "dtype", "device", "trust_remote_code", "seed", "records", "max_time", "output", "json",
    "common", temperature=0.0, top_p=1.0, max_tokens=4096, batch_size=1,
)  # fmt: skip
def evaluate(files: tuple[str, ...], **given: Any) -> int:
    """Answer and grade the questions of FILES: tasks, or records with `problem` or `question` and `answer`. The summary goes to
    stdout, verdicts to -o FILE, from which the same command goes on.

    \b
    Example:
      seer-decode eval aime.jsonl --model smollm2 --gate gates --budget 1024 -n 4 --temperature 0.6 -o verdicts.jsonl
    """
    needs.models()
    from seer_decode.evaluate import run

    return run(files, _reads(given), take(Selection, given), take_sampling(given), **given)


@main.command(short_help="Six ways to choose blocks at equal budgets, on a text.")
@click.argument("texts", nargs=-1, metavar="TEXT...", type=click.Path())
@_WEIGHTS
@options("dtype", "device", "trust_remote_code")
@click.option("--gate", "gates", metavar="GATES", multiple=True, help="Gates of seer-decode distill; repeatable, one for each size of blocks.")  # fmt: skip
@click.option("--reuse-gate", is_flag=True, help="The first gates also for blocks that have none of their own.")
@click.option("--budgets", type=Numbers(), default="256,512,1024", show_default=True, help="Tokens read, sink and tail among them.")  # fmt: skip
@click.option("--blocks", type=Numbers(), help="Tokens of a block.  [those of the gates, else 64]")
@click.option("--methods", type=Names(METHODS), default="dense,oracle,seer,quest,recent,random", show_default=True, help="What to compare.")  # fmt: skip
@_SINK
@_DENSE
@click.option("--length", type=click.IntRange(min=32), default=4096, show_default=True, help="Tokens of a window of text.")  # fmt: skip
@click.option("--windows", "windows_", type=click.IntRange(min=1), help="Only so many windows.  [all of the text]")
@click.option("--decode", type=click.IntRange(min=1), default=256, show_default=True, help="Last tokens of a window, which are decoded.")  # fmt: skip
@click.option("--needles", "needles_", type=click.IntRange(min=0), default=8, show_default=True, help="Windows with a number to be found in them.")  # fmt: skip
@click.option("--chat-template", metavar="FILE", help="A chat template in place of the tokenizer's own.")
@_EXTRAPOLATE
@options("seed", "skip_bad", "plot", "json", "common")
def study(texts: tuple[str, ...], **given: Any) -> int:
    """Decode the end of each window of TEXT (plain, JSON Lines or parquet) with every method, block and budget: coverage of dense
    attention, divergence from dense decoding, perplexity, needles found.

    \b
    Example:
      seer-decode study report.txt --model smollm2 --gate gates --budgets 256,512 --length 4096 --plot study.png
    """
    needs.models()
    from seer_decode.study import run

    return run(texts, **given)


@main.command(short_help="Gates from one form on disk to the other.")
@click.argument("folder", metavar="GATES", type=click.Path())
@click.option("--to", type=click.Choice(["ours", "published"]), help="The form to write.  [the other one]")
@click.option("--model", "uri", metavar="URI", help="Refuse gates that are not for this model: smollm2, a folder, its config.json, a GGUF file or a hub id.")  # fmt: skip
@click.option("--block", type=click.Choice(BLOCKS), help="Tokens of a block the gates are to serve.  [as trained]")
@click.option("--reuse-gate", is_flag=True, help="Also where that is not the block they were trained for.")
@click.option("--base-model", metavar="NAME", help="Write this name for the base model.  [as it was]")
@options("output", "json", "common")
def convert(folder: str, block: str | None, **given: Any) -> int:
    """Read GATES, a folder with gate.json and gate.safetensors or the published config.json and attn_gate_weights.pth, check
    everything, and write the other form to the folder -o.

    \b
    Example:
      seer-decode convert SeerAttention-Decode-Qwen3-4B-AttnGates -o gates
    """
    needs.models()
    from seer_decode.convert import run

    return run(folder, block=int(block) if block else None, **given)


@main.command(short_help="What a decoding step must read, and the least time it takes.")
@click.option("--model", "uri", metavar="URI", default="smollm2", show_default=True, help=_MODEL_HELP)
@click.option("--context", "contexts", type=Numbers(), default="8192,32768,131072", show_default=True, help="Cached tokens of a sequence.")  # fmt: skip
@click.option("--batch", "batches", type=Numbers(), default="1,4,16", show_default=True, help="Sequences at once.")
@click.option(
    "--budget", type=click.IntRange(min=1), metavar="T", help="Tokens read of each.  [4096 without --sparsity]"
)
@click.option("--sparsity", type=Share(min=0, max=1, max_open=True), help="In place of a budget: share of tokens not read.")  # fmt: skip
@_BLOCK
@_GATE_DIM
@click.option("--start-layer", "dense_layers", type=click.IntRange(min=0), default=0, show_default=True, help="Layers before it stay dense.")  # fmt: skip
@click.option("--bandwidth", type=Size(), metavar="SIZE", default="4.3T", show_default=True, help="Bytes the memory gives a second; 4.3T is an H200's copy.")  # fmt: skip
@click.option("--overhead", type=Share(min=0, max=1e6), default=5.0, show_default=True, help="Microseconds a layer takes besides, dense and sparse.")  # fmt: skip
@click.option("--width", type=click.Choice(["1", "2", "4"]), default="2", show_default=True, help="Bytes of a number.")
@click.option("--gpu-mem", type=Size(), metavar="SIZE", help="Memory of the card: also tell what fits.")
@options("json", "common")
def plan(block: str, width: str, **given: Any) -> int:
    """Floors by bytes, attention of a layer and a whole step, dense and sparse with what the gate reads; config.json is enough.
    Nothing is measured.

    \b
    Example:
      seer-decode plan --model smollm2 --context 8192 --batch 1,8 --budget 1024
    """
    needs.models()
    from seer_decode.plan import run

    given.pop("quiet")
    if given["budget"] is not None and given["sparsity"] is not None:
        raise click.UsageError("--budget and --sparsity: expected one of them")
    return run(block=int(block), width=int(width), **given)


@main.group(short_help="Time sparse decoding beside dense on this machine.")
def bench() -> None:
    """Sparse decoding beside dense on this machine: one layer's attention, or a whole step of a model. Keys, values and gates
    are random, which times do not depend on.

    \b
    Example:
      seer-decode bench kernel --context 32768 --keep 0.1
      seer-decode bench step --model smollm2 --context 8192 --budget 819
    """


_THREADS = click.option("--threads", type=click.IntRange(1, 4096), help="Threads of a CPU.  [torch's own number]")


@bench.command(short_help="One layer's attention, gate and selection included.")
@click.option("--heads", type=click.IntRange(min=1), default=32, show_default=True, help="Query heads.")
@click.option("--kv-heads", type=click.IntRange(min=1), default=8, show_default=True, help="Stored heads.")
@click.option("--head-dim", type=click.IntRange(min=2), default=128, show_default=True, help="Channels of a head.")
@click.option("--context", type=click.IntRange(min=1), default=32768, show_default=True, help="Cached tokens of a sequence.")  # fmt: skip
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Sequences at once.")
@_BLOCK
@click.option("--keep", type=Share(min=0, max=1, min_open=True), default=0.1, show_default=True, help="Share of blocks that is read.")  # fmt: skip
@options("dtype", "device", dtype="bfloat16", device="cpu")
@_THREADS
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True, help="Rounds in which all forms take turns; medians count.")  # fmt: skip
@options("json", "common")
def kernel(block: str, **given: Any) -> int:
    """From queries after RoPE to the attention's output, beside the fastest of some forms of dense attention.

    \b
    Example:
      seer-decode bench kernel --heads 9 --kv-heads 3 --head-dim 64 --context 8192 --json
    """
    needs.models()
    from seer_decode.bench import Layer, run

    given.pop("quiet")
    given["dtype"] = "bfloat16" if given["dtype"] == "auto" else given["dtype"]  # there is no checkpoint
    of = {name: given.pop(name) for name in Layer.__struct_fields__ if name != "block"}
    return run(Layer(block=int(block), **of), **given)


@bench.command(short_help="A whole decoding step of a model.")
@click.option("--model", "uri", metavar="URI", default="smollm2", show_default=True, help="The model: smollm2, a folder, a GGUF file or a hub id.")  # fmt: skip
@click.option("--context", type=click.IntRange(min=1), default=8192, show_default=True, help="Cached tokens, in place of a prefill.")  # fmt: skip
@click.option("--budget", type=click.IntRange(min=1), default=819, show_default=True, metavar="T", help="Tokens read of them.")  # fmt: skip
@_BLOCK
@options("dtype", "device", dtype="bfloat16", device="cpu")
@_THREADS
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True, help="Steps of each, in turn; medians count.")  # fmt: skip
@options("trust_remote_code", "json", "common")
def step(block: str, **given: Any) -> int:
    """A step of a model through transformers' own cache and attention, through ours reading everything, and reading T tokens.

    \b
    Example:
      seer-decode bench step --model smollm2 --context 8192 --budget 819 --json
    """
    needs.models()
    from seer_decode.bench import Step, run

    given.pop("quiet")
    of = {name: given.pop(name) for name in Step.__struct_fields__ if name != "block"}
    return run(Step(block=int(block), **of), **given)


add_doctor(main, extras=["hf", "gpu", "plot"], kernels=True)

if __name__ == "__main__":
    main()
