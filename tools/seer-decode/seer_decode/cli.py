"""The command `seer-decode`: options and help. Each verb's work is in the module of its name."""

from typing import Any

import click

from seer_decode import needs
from tenfold_shared.cli import Numbers, Share, add_doctor, options, tool

QUERIES = ["Qproj", "Qavgproj", "Qavg", "Qorig"]
BLOCKS = ["16", "32", "64", "128", "256"]


@tool("seer-decode", "seer-decode", "Block-sparse decoding of long chains of thought by a small trained gate a layer.")
def main() -> None:
    pass


_MODEL_HELP = "The model: smollm2, a folder, its config.json by any name, a GGUF file or a hub id."
_BLOCK = click.option("--block", type=click.Choice(BLOCKS), default="64", show_default=True, help="Tokens of a block.")
_GATE_DIM = click.option("--gate-dim", type=click.IntRange(min=1), help="Channels of a gate's features.  [head_dim]")


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
@click.option("--bandwidth", metavar="SIZE", default="4.3T", show_default=True, help="Bytes the memory gives a second; 4.3T is an H200's copy.")  # fmt: skip
@click.option("--overhead", type=Share(min=0), default=5.0, show_default=True, help="Microseconds a layer takes besides, dense and sparse.")  # fmt: skip
@click.option("--width", type=click.Choice(["1", "2", "4"]), default="2", show_default=True, help="Bytes of a number.")
@click.option("--gpu-mem", metavar="SIZE", help="Memory of the card: also tell what fits.")
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


add_doctor(main, extras=["hf"])

if __name__ == "__main__":
    main()
