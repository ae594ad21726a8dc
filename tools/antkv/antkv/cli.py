"""The command `antkv`: options and help. Each verb's work is in the module of its name."""

from typing import Any

import click

from antkv import needs
from tenfold_shared.cli import Selection, Share, Size, add_doctor, files_argument, options, take, take_sampling, tool

SCORES = ["bound2", "bound", "mass", "mean-mass", "error", "sink", "recent", "random"]
METHODS = ["antkv", "vq", "cq", "kivi", "kvquant", "skvq", "quantized-cache", "evict"]


@tool("antkv", "antkv", "KV cache at 4 to 0.375 bits: vector quantisation with anchor tokens, and the bytes it takes.")
def main() -> None:
    pass


def _model(function: Any) -> Any:
    for option in reversed(
        [
            click.option("--model", "uri", metavar="URI", default="smollm2", show_default=True, help="The model: smollm2, a folder, a GGUF file or a hub id."),
        ]
    ):  # fmt: skip
        function = option(function)
    return options("dtype", "device", "trust_remote_code")(function)


_CODEBOOK = click.option("--codebook", metavar="FILE", required=True, help="The codebook of antkv calibrate.")
_ANCHORS = click.option("--anchors", type=Share(min=0, max=1), default=0.01, show_default=True, help="Share of tokens kept exactly.")  # fmt: skip
_EXTRAPOLATE = click.option("--allow-extrapolation", is_flag=True, help="Go on beyond the model's positions.")
_SCORE = click.option("--score", type=click.Choice(SCORES), default="bound2", show_default=True, help="What chooses the anchors.")  # fmt: skip


def _evaluation(function: Any) -> Any:
    found = [
        _CODEBOOK,
        click.option("--length", type=click.IntRange(min=2), default=1024, show_default=True, help="Tokens of a window of text."),
        click.option("--windows", type=click.IntRange(min=1), help="Only the first N windows.  [all of the text]"),
        _ANCHORS,
        _SCORE,
        click.option("--anchor-scope", "scope", type=click.Choice(["shared-kv", "head", "layer"]), default="shared-kv", show_default=True, help="One list of anchors for a head's keys and values, one each, or one a layer."),
        click.option("--window", type=click.IntRange(min=0), help="Latest tokens, kept exactly.  [128; 0 under prefill]"),
        click.option("--block", type=click.IntRange(min=8), default=64, show_default=True, help="Tokens that leave the window at once; a multiple of 8."),
        click.option("--protocol", type=click.Choice(["decode", "prefill"]), default="decode", show_default=True, help="decode: through the real cache, a block at a time. prefill: the window of text at once, on what is kept of it."),
        click.option("--allow-extrapolation", is_flag=True, help="Evaluate beyond the model's positions."),
    ]  # fmt: skip
    for option in reversed(found):
        function = option(function)
    return function


@main.command(short_help="Codebooks from text.")
@click.argument("texts", nargs=-1, metavar="TEXT...", type=click.Path())
@_model
@click.option("--bits", type=click.Choice(["4", "2", "1", "0.75", "0.5", "0.375"]), help="A named rate.")
@click.option(
    "--dim", type=click.IntRange(min=1), help="Channels of a sub-vector, with --centroids in place of --bits."
)
@click.option("--centroids", type=click.IntRange(min=2), help="Centroids of a book: 4, 16, 64, 256 or 4096.")
@click.option("--rope", type=click.Choice(["pre", "post"]), default="pre", show_default=True, help="Quantise keys before or after their rotation.")  # fmt: skip
@click.option("--weights", type=click.Choice(["bound2", "bound", "none"]), default="bound2", show_default=True, help="What a token's error counts.")  # fmt: skip
@click.option("--codebook-scope", "scope", type=click.Choice(["head", "layer"]), default="head", show_default=True, help="Books for each head, or shared by a layer's heads.")  # fmt: skip
@click.option("--leave-out", "left_out", type=Share(min=0, max=1, max_open=True), default=0.01, show_default=True, help="Share of tokens, those that become anchors, that do not count.")  # fmt: skip
@click.option("--tokens", type=click.IntRange(min=1), default=32768, show_default=True, help="Tokens of text to read, in whole sequences.")  # fmt: skip
@click.option("--length", type=click.IntRange(min=2), default=2048, show_default=True, help="Tokens of a sequence; --tokens where that is less.")  # fmt: skip
@_EXTRAPOLATE
@options("seed")
@options("output", "json", "common")
def calibrate(texts: tuple[str, ...], bits: str | None, dim: int | None, centroids: int | None, **given: Any) -> int:
    """Fit a model's codebooks to TEXT (plain, JSON Lines or parquet with `text`; `-` is stdin); the same command continues
    after a kill.

    \b
    Example:
      antkv calibrate wiki.txt --model smollm2 --bits 1 -o codebook.safetensors
    """
    needs.models()
    from antkv.calibrate import run
    from antkv.codebook import shape_of

    return run(texts, shape=shape_of(bits, dim, centroids), **given)


def _how(given: dict[str, Any]) -> Any:
    from antkv.verbs import How

    given["model"] = given.pop("uri")
    return How(**{field: given.pop(field) for field in How.__struct_fields__})


@main.command("eval", short_help="Perplexity, divergence and bits of a text on a packed cache.")
@click.argument("texts", nargs=-1, metavar="TEXT...", type=click.Path())
@_model
@_evaluation
@options("seed", "json", "common")
def evaluate(texts: tuple[str, ...], codebook: str, as_json: bool, quiet: bool, **given: Any) -> int:
    """Evaluate TEXT window by window beside the exact model. effective_bits are those of the cache at the end of a window,
    effective_bits_seen those that its queries read, in the mean: early ones read exact tokens alone.

    \b
    Example:
      antkv eval report.txt --model smollm2 --codebook codebook.safetensors --length 1024 --json
    """
    needs.models()
    from antkv.verbs import run_eval

    return run_eval(texts, _how(given), codebook, as_json, quiet)


@main.command(short_help="antkv beside other methods, in one run.")
@click.argument("texts", nargs=-1, metavar="TEXT...", type=click.Path())
@_model
@_evaluation
@click.option("--methods", default="antkv,kivi,kvquant,skvq,evict", show_default=True, metavar="A,B,...", help=f"Of {', '.join(METHODS)}.")  # fmt: skip
@click.option("--plain-codebook", "plain", metavar="FILE", help="For vq and cq: a codebook without weights.")
@click.option("--peer-bits", type=click.Choice(["2", "4"]), help="Bits of kivi, kvquant, skvq and quantized-cache.  [4 beside a 4-bit codebook, else 2]")  # fmt: skip
@options("seed", "plot", "json", "common")
def compare(
    texts: tuple[str, ...], codebook: str, methods: str, plain: str | None, peer_bits: str | None, **given: Any
) -> int:
    """The same columns for re-statements of other methods, on the same windows with the same exact tokens.

    \b
    Example:
      antkv compare report.txt --codebook codebook.safetensors --methods antkv,kivi,evict --json
    """
    needs.models()
    from antkv.verbs import run_compare

    named = [name.strip() for name in methods.split(",") if name.strip()]
    for name in named:
        if name not in METHODS:
            raise click.BadParameter(f"{name}: expected some of {', '.join(METHODS)}", param_hint="--methods")
    plot, as_json, quiet = given.pop("plot"), given.pop("as_json"), given.pop("quiet")
    bits = int(peer_bits) if peer_bits else None
    return run_compare(texts, _how(given), codebook, plain, named, bits, plot, as_json, quiet)


@main.command(short_help="Completions of task records on a packed cache.")
@files_argument()
@_model
@_CODEBOOK
@_ANCHORS
@_SCORE
@click.option(
    "--window", type=click.IntRange(min=0), default=128, show_default=True, help="Latest tokens, kept exactly."
)
@click.option("--block", type=click.IntRange(min=8), default=64, show_default=True, help="Tokens that leave the window at once; a multiple of 8.")  # fmt: skip
@click.option("--allow-extrapolation", is_flag=True, help="Go on beyond the model's positions.")
@options("sampling", "seed", "records", "max_time", "output", "common", temperature=0.0, max_tokens=256)
def generate(files: tuple[str, ...], **given: Any) -> int:
    """Answer the tasks of FILES (`prompt` or `messages`); each sample tells the bits its cache took.

    \b
    Example:
      antkv generate tasks.jsonl --model smollm2 --codebook codebook.safetensors -o out.jsonl
    """
    needs.models()
    from antkv.generate import run

    return run(files, take(Selection, given), take_sampling(given), **given)


@main.command(short_help="What fits on a card, and where its memory goes.")
@click.option("--model", "uri", metavar="URI", default="smollm2", show_default=True, help="The model: smollm2, a folder, its config.json by any name, a GGUF file or a hub id.")  # fmt: skip
@click.option("--gpu-mem", type=Size(), metavar="SIZE", required=True, help="Memory of the card: 80G, 79.6GiB.")
@click.option("--context", type=click.IntRange(min=1), help="Tokens of a sequence.  [the model's positions]")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Sequences at once.")
@_ANCHORS
@click.option(
    "--window", type=click.IntRange(min=0), default=128, show_default=True, help="Latest tokens, kept exactly."
)
@click.option(
    "--chunk", type=click.IntRange(min=1), default=4096, show_default=True, help="Tokens of a chunk of the prefill."
)
@click.option("--codebook-scope", "scope", type=click.Choice(["head", "layer"]), default="head", show_default=True, help="Books for each head, or shared by a layer's heads.")  # fmt: skip
@click.option("--spare", "reserve", type=Share(min=0, max=0.9), default=0.05, show_default=True, help="Share of the memory left alone.")  # fmt: skip
@options("json", "common")
def plan(**given: Any) -> int:
    """Longest context and largest batch by bits; config.json is enough.

    \b
    Example:
      antkv plan --model smollm2 --gpu-mem 80G
    """
    needs.models()
    from antkv.plan import run

    given.pop("quiet")
    return run(**given)


@main.command(short_help="A codebook's layers, or the anchors of a text.")
@click.argument("path", metavar="CODEBOOK|TEXT", type=click.Path())
@_model
@click.option("--codebook", metavar="FILE", help="For a text: also the errors it leaves.")
@_ANCHORS
@_SCORE
@click.option(
    "--length", type=click.IntRange(min=2), default=512, show_default=True, help="Tokens of the text to look at."
)
@_EXTRAPOLATE
@options("seed", "json", "common")
def inspect(path: str, **given: Any) -> int:
    """What is in a codebook; or which tokens of a text become anchors, in how many of all lists.

    \b
    Example:
      antkv inspect report.txt --model smollm2 --anchors .01
    """
    needs.models()
    from antkv.inspect import run

    given.pop("quiet")
    return run(path, **given)


@main.command(short_help="Decoding from the codes beside the dequantised cache, on this CPU.")
@click.option("--model", "uri", metavar="URI", default="smollm2", show_default=True, help="The model: smollm2, a folder, a GGUF file or a hub id.")  # fmt: skip
@options("trust_remote_code")
@click.option("--context", "tokens", type=click.IntRange(min=128), default=8192, show_default=True, help="Cached tokens, a multiple of 64.")  # fmt: skip
@click.option("--bits", type=click.Choice(["4", "2", "1", "0.75", "0.5", "0.375"]), default="1", show_default=True, help="A named rate.")  # fmt: skip
@click.option("--rope", type=click.Choice(["pre", "post"]), default="pre", show_default=True, help="Quantise keys before or after their rotation.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True, help="Passes over all layers; the median counts.")  # fmt: skip
@options("json", "common")
def bench(**given: Any) -> int:
    """Time one decoding step's attention a layer, at the model's shape, on random codes.

    \b
    Example:
      antkv bench --context 8192 --bits 1 --rope post --json
    """
    needs.models()
    from antkv.bench import run

    given.pop("quiet")
    return run(**given)


add_doctor(main, extras=["hf", "gpu", "plot"], kernels=True)

if __name__ == "__main__":
    main()
