"""The command `datamix`: options and help. Each verb's work is in the module of its name."""

from collections.abc import Sequence
from typing import Any

import click

from datamix import needs
from tenfold_shared.cli import Share, add_doctor, options, tool

LAYOUTS = ["auto", "regmix", "doremi", "plain", "megatron", "npy", "datatrove"]
FORMS = ["regmix", "doremi", "olmix", "megatron", "hf", "nanotron", "torchtitan", "olmo-core", "llm-foundry"]
METHODS = ["proportional", "uniform", "temperature", "fixed", "best-fixed", "regmix", "regmix-d", "olmix", "doremi", "doge", "aioli", "odm", "loss-softmax"]  # fmt: skip


@tool(
    "datamix", "datamix", "An agent that learns how to mix training data, once, from small runs, and steers other runs."
)
def main() -> None:
    pass


class Names(click.ParamType):
    """Comma-separated names, in the order given, each once; `none` is no name."""

    name = "A,B,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        parts = list(value) if isinstance(value, tuple | list) else [part.strip() for part in str(value).split(",")]
        if not all(isinstance(part, str) and part for part in parts):
            self.fail(f"{value!r}: expected names such as hand,regmix", param, ctx)
        return () if parts == ["none"] else tuple(dict.fromkeys(parts))


class FirstIsRun(click.Group):
    """A group whose verb `run` need not be named: `swarm CORPUS` is `swarm run CORPUS`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


def _group(found: Sequence[Any]) -> Any:
    def decorate(function: Any) -> Any:
        for option in reversed(found):
            function = option(function)
        return function

    return decorate


def _budget(instead: str = "") -> Any:
    """What a run may use. instead: what comes before a default, in words."""

    def option(name: str, kind: Any, default: Any, told: str) -> Any:
        told += f"  [{instead}{default}]" if instead else ""
        return click.option(name, type=kind, default=default, show_default=not instead, help=told)

    return _group([
        option("--steps", click.IntRange(min=1), 16, "Steps of a run: times that the mixture may change."),
        option("--run-tokens", click.IntRange(min=1), 131072, "Text of one run, in tokens of the corpus (bytes, unless it was made with a tokenizer)."),
        option("--source-budget", Share(min=0, max=1), 1.0, "Share of a run's text that source domains may be at most; 1 is no limit."),
        option("--max-epochs", Share(min=0), 0.0, "How often a domain's text may be seen in a run; 0 is no limit."),
    ])  # fmt: skip


BUDGET = ("steps", "run_tokens", "source_budget", "max_epochs")


def _take_budget(given: dict[str, Any]) -> Any:
    from datamix.steered import budget_of

    return budget_of({name: given.pop(name) for name in BUDGET})


_PROXY = click.option("--proxy", default="22k", show_default=True, metavar="NAME|FILE.toml", help="Shape of the proxies: 22k, 35k, 43k, 123k, 3m, 50m, or a file of fields.")  # fmt: skip
_FEEDBACK = click.option("--feedback-tokens", type=click.IntRange(min=64), default=2048, show_default=True, help="Held-out text a domain that feedback is measured on.")  # fmt: skip


def _tasks(default: int = 0) -> Any:
    """What runs differ in, beside their mixtures."""
    return _group([
        click.option("--tasks", type=click.IntRange(min=0), default=default, show_default=True, help="So many random choices of domains, each with a base of its own; 0: the corpus as it stands."),
        click.option("--task-sources", type=click.IntRange(min=1), default=4, show_default=True, help="Source domains of a random task."),
        click.option("--task-targets", type=click.IntRange(min=1), default=2, show_default=True, help="Target domains of a random task."),
        click.option("--task-roles", type=click.Choice(["any", "kept"]), default="any", show_default=True, help="any: a domain may be source or target of a task; kept: as the corpus has it."),
        click.option("--base-spread", type=Share(min=0.05, max=1000), default=3.0, show_default=True, help="Bases see a task's sources in shares of Dirichlet(this): small is uneven."),
    ])  # fmt: skip


def _proxy_of(name: str) -> Any:
    import msgspec

    from datamix.proxy import config_of

    return msgspec.to_builtins(config_of(name))


# ---------------------------------------------------------------- text


@main.command(short_help="A folder of domains, from text that is at hand.")
@click.option("--from-installed", is_flag=True, help="Text of installed packages: code, docstrings, licences, a public-domain book, ...")  # fmt: skip
@click.option("--from", "folder", metavar="DIR", help="Text of your own: RegMix's, DoReMi's, Megatron's or a plain layout.")  # fmt: skip
@click.option("--target", "targets", metavar="NAME", multiple=True, required=True, help="A target domain (repeatable); all others are source domains.")  # fmt: skip
@click.option("--domain", "domains", metavar="NAME", multiple=True, help="Only these domains and the targets (repeatable).")  # fmt: skip
@click.option("--layout", type=click.Choice(LAYOUTS), default="auto", show_default=True, help="How DIR is laid out.")
@click.option("--max-bytes", type=click.IntRange(min=1000), help="Train text of a domain at most.  [1000000 from installed packages]")  # fmt: skip
@click.option("--valid-share", type=Share(min=0, max=0.5, min_open=True), default=0.1, show_default=True, help="Share held out where DIR has no valid split; at least 40 kB, or a fifth of a domain where that is less.")  # fmt: skip
@click.option("--tokenizer", metavar="URI", default="bytes", show_default=True, help="bytes, or the model whose tokens are wanted.")  # fmt: skip
@click.option("--dedup", type=click.Choice(["none", "exact", "near"]), default="none", show_default=True, help="Copies to leave out of DIR; installed text is always de-duplicated.")  # fmt: skip
@click.option("--debian", is_flag=True, help="Also man pages, copyright files, Perl and kernel headers of the system.")
@options("skip_bad", "seed", "output", "json", "common")  # fmt: skip
def corpora(from_installed: bool, folder: str | None, targets: tuple[str, ...], domains: tuple[str, ...], layout: str, max_bytes: int | None, dedup: Any, debian: bool, skip_bad: int, output: str | None, **given: Any) -> int:  # fmt: skip
    """Make a corpus in the folder -o CORPUS: texts split into train and valid by file, without copies, as tokens, with hashes of everything.

    \b
    Example:
      datamix corpora --from-installed --target sympy_code --target docstrings -o corpus
      datamix corpora --from data --target code --max-bytes 100000000 -o corpus
    """
    from datamix import corpora as work

    output = _wanted(output, "CORPUS")
    if from_installed == (folder is not None):
        raise click.UsageError("expected one of --from-installed and --from DIR")
    if folder is None:
        if layout != "auto" or dedup != "none" or skip_bad:
            raise click.UsageError("--layout, --dedup and --skip-bad go with --from DIR")
        return work.from_installed(
            output, targets=targets, domains=domains, max_bytes=max_bytes or 1_000_000, debian=debian, **given
        )
    if debian:
        raise click.UsageError("--debian goes with --from-installed")
    return work.from_folder(
        folder,
        output,
        targets=targets,
        domains=domains,
        layout=layout,
        max_bytes=max_bytes,
        dedup=dedup,
        skip_bad=skip_bad,
        **given,
    )


def _wanted(output: str | None, what: str) -> str:
    if not (output or "").strip():
        raise click.UsageError(f"-o {what} is missing: the folder to write")
    return str(output)


# ---------------------------------------------------------------- swarms


@main.command(short_help="Schedules to train on, without training.")
@click.argument("corpus", required=False, metavar="[CORPUS]", type=click.Path())
@click.option("--domain", "names", metavar="NAME", multiple=True, help="A domain, where there is no CORPUS (repeatable).")  # fmt: skip
@click.option("--target", "targets", metavar="NAME", multiple=True, help="Which of them are targets (repeatable).")
@click.option("--sampler", metavar="NAME=WEIGHT,...", help="Mix of samplers: dirichlet, walk, ramp, late, early, scored, uniform-static.  [ramp=2,late=3,walk,dirichlet,early,scored]")  # fmt: skip
@click.option("--trajectories", type=click.IntRange(min=1), default=24, show_default=True, help="Schedules.")
@_budget()
@options("seed", "output", "common")  # fmt: skip
def sample(corpus: str | None, names: tuple[str, ...], targets: tuple[str, ...], sampler: str | None, trajectories: int, seed: int, output: str | None, overwrite: bool, quiet: bool, **given: Any) -> int:  # fmt: skip
    """Write sampled schedules as JSON lines {id, sampler, step, weights}, for runs on machines of your own.

    \b
    Example:
      datamix sample --domain web --domain books --domain code --target code --trajectories 32 --steps 80 -o schedules.jsonl
    """
    from datamix import samplers
    from datamix.corpus import Corpus

    budget = _take_budget(given)
    if corpus is not None and names:
        raise click.UsageError("--domain goes without CORPUS")
    return samplers.run(
        None if corpus is None else Corpus.load(corpus), names, targets, trajectories=trajectories, steps=budget.steps, tokens=budget.tokens,
        source_share=budget.source_share, max_epochs=budget.max_epochs, seed=seed, output=output, overwrite=overwrite, sampler=sampler or samplers.DEFAULT_MIX_UNSEEN,
    )  # fmt: skip


@main.group(cls=FirstIsRun, short_help="Many short runs of proxies, to learn from: run, collect.")
def swarm() -> None:
    """Runs of small proxy models under sampled schedules. `datamix swarm CORPUS` is `datamix swarm run CORPUS`.

    \b
    Example:
      datamix swarm corpus --trajectories 48 --tasks 12 --source-budget 0.2 -o swarm
      datamix swarm run corpus --trajectories 48 --run 7 -o swarm
      datamix swarm collect swarm
    """


@swarm.command("run", short_help="Train them.")
@click.argument("corpus", metavar="CORPUS", type=click.Path())
@click.option("--trajectories", type=click.IntRange(min=1), default=24, show_default=True, help="Runs.")
@_budget()
@_tasks()
@click.option("--sampler", metavar="NAME=WEIGHT,...", default="ramp=2,late=3,walk,dirichlet,early,scored,loss-greedy", show_default=True, help="Mix of samplers: these and uniform-static.")  # fmt: skip
@_PROXY
@_FEEDBACK
@click.option("--run", "only", type=click.IntRange(min=1), metavar="I", help="Run number I of 1..N alone, as one job of many; then `swarm collect`.")  # fmt: skip
@click.option("--ray", metavar="ADDRESS", help="Runs as tasks of a Ray cluster: auto, HOST:PORT, or local.")
@options("workers", "device", "seed", "output", "plot", "json", "common")  # fmt: skip
def swarm_run(corpus: str, trajectories: int, sampler: str, proxy: str, workers: int, only: int | None, ray: str | None, device: str, seed: int, output: str | None, overwrite: bool, plot: str | None, as_json: bool, quiet: bool, feedback_tokens: int, **given: Any) -> int:  # fmt: skip
    """Train N proxies under sampled schedules into the folder -o SWARM. Every run goes on from its last step after a kill.

    \b
    Example:
      datamix swarm corpus --trajectories 48 --tasks 12 --source-budget 0.2 -o swarm
    """
    if plot is not None and only is not None:
        raise click.UsageError("--plot is a picture of all runs; leave out --run")
    needs.plots(plot, [corpus, output])
    (needs.torch if ray is None else needs.ray)()
    from datamix import swarm as work

    budget = _take_budget(given)
    settings = work.Settings(
        trajectories=trajectories, budget=budget, sampler=sampler, proxy=_proxy_of(proxy), feedback_tokens=feedback_tokens,
        device="cpu" if device == "auto" else device, seed=seed, **given,
    )  # fmt: skip
    return work.run(
        _wanted(output, "SWARM"), corpus, settings, workers=workers, only=only, ray=ray, overwrite=overwrite, as_json=as_json, quiet=quiet, plot=plot,
    )  # fmt: skip


@swarm.command("collect", short_help="Gather runs that were trained one by one.")
@click.argument("folder", metavar="SWARM", type=click.Path())
@options("json", "common")
def swarm_collect(folder: str, as_json: bool, quiet: bool) -> int:
    """Write SWARM/trajectories.jsonl once every run is there.

    \b
    Example:
      datamix swarm collect swarm
    """
    from datamix import swarm as work

    return work.collect(folder, as_json=as_json)


# ---------------------------------------------------------------- agents


@main.command("train-agent", short_help="An agent from a swarm.")
@click.argument("folder", metavar="SWARM", type=click.Path())
@click.option("--arch", type=click.Choice(["set", "decoder"]), default="set", show_default=True, help="set reads any number of domains; decoder, the paper's, those of the swarm.")  # fmt: skip
@click.option("--algo", type=click.Choice(["model", "cql", "sft"]), default="model", show_default=True, help="Practice in learnt models; the paper's conservative Q-learning; behaviour cloning alone.")  # fmt: skip
@click.option("--pace", "form", type=click.Choice(["paced", "lean", "free"]), help="Source budget a step may use: paced, at most 2.5 times its rate, and like lean no more than what is left for each remaining step; free, all that is left.  [paced; lean for cql and sft]")  # fmt: skip
@click.option("--within", "split", type=click.Choice(["even", "targets", "learned"]), help="How domains of a role share its text: evenly; targets as is learned; all as is learned (model).  [even]")  # fmt: skip
@click.option("--train-steps", type=click.IntRange(min=1), help="Steps of learning.  [300]")
@click.option("--members", type=click.IntRange(min=2), help="Models of the ensemble (model).  [5]")
@click.option("--caution", type=Share(min=0), help="How much of their disagreement a score is charged (model).  [1]")
@click.option("--alpha", type=Share(min=0, min_open=True), help="What multiplies the conservative term, of weight 0.1, at first; it is learned from there (cql).  [1]")  # fmt: skip
@click.option("--no-feedback", is_flag=True, help="A control: an agent that sees no losses.")
@click.option("--shuffle-rewards", is_flag=True, help="A control: rewards of other runs.")
@options("seed", "output", "json", "common")  # fmt: skip
def train_agent(folder: str, train_steps: int | None, no_feedback: bool, shuffle_rewards: bool, output: str | None, overwrite: bool, as_json: bool, quiet: bool, **given: Any) -> int:  # fmt: skip
    """Train an agent on the finished runs of SWARM into the folder -o AGENT, and report how well it foresees runs that it was not shown.

    \b
    Example:
      datamix train-agent swarm -o agent
      datamix train-agent swarm --algo cql --arch decoder -o paper
    """
    needs.torch()
    from datamix import train

    how = train.Settings(steps=train_steps, feedback=not no_feedback, shuffle=shuffle_rewards, **given)
    return train.run(folder, how, output=output, overwrite=overwrite, as_json=as_json, quiet=quiet)


# ---------------------------------------------------------------- steering


@main.command(short_help="Steer a run.")
@click.argument("agent", metavar="AGENT", type=click.Path())
@click.argument("corpus", metavar="CORPUS", type=click.Path())
@_group([
    click.option("--model", "uri", metavar="URI", help="A transformers model to go on training: smollm2, a folder, a GGUF file or a hub id."),
    click.option("--proxy", metavar="NAME|FILE.toml", help="A proxy in its place: 22k, 35k, 43k, 123k, 3m, 50m, or a file of fields.  [of --base FILE: its own]"),
    click.option("--base", metavar="FILE", help="State that the proxy begins with, such as SWARM/bases/TASK.safetensors.  [trained first, on the source domains]"),
    click.option("--feedback", "feedback_file", metavar="FILE.jsonl", help="For another engine: lines {step, feedback: {domain: loss}} that it appends; nothing is trained here."),
    click.option("--weights-file", "weights_file", metavar="FILE.json", help="Where that engine finds the next mixture."),
])  # fmt: skip
@_budget()
@_group([
    click.option("--lr", type=Share(min=0, min_open=True), help="Learning rate.  [5e-5 of a model, the proxy's own]"),
    click.option("--decay", type=click.Choice(["constant", "cosine", "linear"]), help="Rate after the warm-up.  [constant]"),
    click.option("--context", type=click.IntRange(min=2), default=512, show_default=True, help="Tokens of a row of a model."),
    click.option("--schedule-only", is_flag=True, help="Keep no model, only what was decided."),
])  # fmt: skip
@_FEEDBACK
@options("batch_size", "dtype", "device", "trust_remote_code", "max_time", "seed", "output", "plot", "json", "common", batch_size=8)  # fmt: skip
@click.pass_context
def apply(ctx: click.Context, agent: str, corpus: str, uri: str | None, proxy: str | None, base: str | None, feedback_file: str | None, weights_file: str | None, context: int, batch_size: int, output: str | None, plot: str | None, **given: Any) -> int:  # fmt: skip
    """Train a model on CORPUS under an agent's mixtures into the folder -o RUN: schedule.jsonl, result.json, the model. AGENT may also be a schedule.jsonl or a mixture
    file. The same command goes on after a kill; under torchrun ranks share every update.

    \b
    Example:
      datamix apply agent corpus --proxy 22k --source-budget 0.2 -o run
      datamix apply agent corpus --model ./model --steps 80 --run-tokens 400000000 -o run
      datamix apply agent corpus --feedback feedback.jsonl --weights-file weights.json -o schedule.jsonl
    """
    needs.plots(plot, [agent, corpus, base, feedback_file, weights_file, output])
    budget = _take_budget(given)
    if (feedback_file is None) != (weights_file is None):
        raise click.UsageError("--feedback and --weights-file go together")
    if feedback_file is not None and weights_file is not None:
        _refuse(ctx, "--feedback and --weights-file, which train nothing here", ["uri", "proxy", "base", "schedule_only", "feedback_tokens", "lr", "decay", *_OF_MODELS, "device", "seed", "as_json"])  # fmt: skip
        needs.torch()
        return _watch(agent, corpus, budget, feedback_file, weights_file, output, plot, given)
    if (uri is None and proxy is None and base is None) or (uri is not None and proxy is not None):
        raise click.UsageError("expected one of --model, --proxy (or --base), and --feedback with --weights-file")
    if uri is None:
        _refuse(ctx, "--model", _OF_MODELS, goes=True)
    (needs.models if uri else needs.torch)()
    from datamix import apply as work
    from datamix.foreign import Training

    training = None
    if uri is not None:
        dtype = given["dtype"]
        training = Training(batch=batch_size, context=context, dtype="auto" if dtype == "float16" else dtype)
    return work.run(
        agent, corpus, budget=budget, output=_wanted(output, "RUN"), model=uri, proxy=proxy, base=base, training=training, plot=plot, **given
    )  # fmt: skip


_OF_MODELS = ["context", "batch_size", "dtype", "trust_remote_code"]


def _refuse(ctx: click.Context, what: str, names: Sequence[str], goes: bool = False) -> None:
    """A usage error for the first of these options that was given on the command line: it would change nothing. goes: they go with `what`, else
    without it."""
    from click.core import ParameterSource

    for param in ctx.command.params:
        if param.name in names and ctx.get_parameter_source(param.name) == ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{param.opts[-1]} goes {'with' if goes else 'without'} {what}")


def _watch(agent: str, corpus: str, budget: Any, feedback_file: str, weights_file: str, output: str | None, plot: str | None, given: dict[str, Any]) -> int:  # fmt: skip
    if output == "-" or (plot is not None and output is None):
        raise click.UsageError("expected the schedule's name, -o FILE.jsonl")
    from datamix import filecontrol, schedule
    from datamix.apply import open_policy
    from datamix.corpus import Corpus

    for one in (output, weights_file):
        schedule.keep_inputs(one, [agent, corpus, feedback_file])
    loaded = Corpus.load(corpus)
    policy, _ = open_policy(agent, loaded, budget.steps)
    code = filecontrol.watch(policy, loaded, budget, feedback_file, weights_file, schedule_file=output, max_time=given["max_time"], overwrite=given["overwrite"])  # fmt: skip
    if plot is not None:
        from datamix import plot as pictures

        pictures.schedule(str(output), plot)
    return code


@main.command(short_help="A whole schedule, without a live model.")
@click.argument("agent", metavar="AGENT", type=click.Path())
@click.argument("data", metavar="CORPUS|SWARM", type=click.Path())
@click.option("--from", "swarm", metavar="SWARM", help="Runs whose recorded losses stand in for feedback, for agents without a world of their own.")  # fmt: skip
@click.option("--task", metavar="NAME", help="Which task of the swarm.")
@click.option(
    "--losses", metavar="FILE", help="JSON of the base model's loss of every domain, in bits per byte, at most 64."
)
@click.option("--model", "uri", metavar="URI", help="Measure the base: a transformers model.")
@click.option("--proxy", metavar="NAME|FILE.toml", help="Measure the base: a proxy's shape.")
@click.option("--base", metavar="FILE", help="And its state.")
@_budget("the SWARM's, else ")
@_FEEDBACK
@options("dtype", "device", "trust_remote_code", "seed", "output", "plot", "json", "common")  # fmt: skip
@click.pass_context
def plan(ctx: click.Context, agent: str, data: str, uri: str | None, output: str | None, plot: str | None, **given: Any) -> int:  # fmt: skip
    """Write the schedule that an agent would follow, as schedule.jsonl: a model-based agent plays it through in the world it learnt. AGENT may also be a mixture file.
    With a SWARM its budget is taken, and each of the four options of the budget that is given changes that one.

    \b
    Example:
      datamix plan agent swarm --task task-03 -o schedule.jsonl
      datamix plan agent corpus --losses base.json --steps 80 --run-tokens 40000000000 --source-budget 0.2 -o schedule.jsonl
    """
    if plot is not None and output in (None, "-"):
        raise click.UsageError("--plot goes with -o FILE")
    needs.plots(plot, [agent, data, given["swarm"], given["losses"], given["base"], output])
    needs.torch()
    from click.core import ParameterSource

    from datamix import plan as work

    if given["swarm"] is None and not _is_swarm(data):
        return work.run(agent, data, budget=_take_budget(given), model=uri, output=output, plot=plot, **given)
    options = {name: given.pop(name) for name in BUDGET}
    changed = {
        name: value for name, value in options.items() if ctx.get_parameter_source(name) != ParameterSource.DEFAULT
    }
    return work.run(agent, data, changed=changed, model=uri, output=output, plot=plot, **given)


def _is_swarm(folder: str) -> bool:
    from pathlib import Path

    return (Path(folder) / "trajectories.jsonl").exists() and not (Path(folder) / "corpus.json").exists()


# ---------------------------------------------------------------- rivals


@main.command(short_help="What others choose: proportional, regmix, doremi, ...")
@click.argument("name", metavar="METHOD", type=click.Choice(METHODS))
@click.argument("data", metavar="CORPUS|SWARM", type=click.Path())
@_budget()
@_PROXY
@click.option("--base", type=click.Choice(["train", "none"]), default="train", show_default=True, help="Proxies go on from a base trained on the source domains, or begin from nothing.")  # fmt: skip
@click.option("--proxy-tokens", type=click.IntRange(min=1), help="Text that proxies may train on in all.  [24 runs]")
@_FEEDBACK
@click.option("--objective", metavar="NAME", help="balanced, mean, or one metric.  [balanced; mean of imported swarms]")
@click.option("--test", metavar="SWARM2", help="regmix, olmix: rank correlations on another swarm.")
@click.option("--task", metavar="NAME", help="Which task of a swarm of several.")
@click.option("--prior", metavar="FILE", help="Mixture around which is searched.")
@click.option("--target-share", type=Share(min=0, max=1), help="fixed: share of target text.")
@click.option("--within", type=click.Choice(["even", "proportional", "both"]), default="even", show_default=True, help="fixed, best-fixed: how a role is split.")  # fmt: skip
@click.option("--mixing-temperature", type=Share(min=0, min_open=True), help="temperature: T of p^(1/T); loss-softmax: T of softmax(loss / T).")  # fmt: skip
@click.option(
    "--regression",
    type=click.Choice(["auto", "lightgbm", "linear", "ridge"]),
    help="regmix, regmix-d: what is fitted to the runs.",
)
@click.option("--candidates", type=click.IntRange(min=1), help="regmix, regmix-d: mixtures or schedules that are searched.")  # fmt: skip
@click.option("--best", type=click.IntRange(min=1), help="regmix, regmix-d: how many are averaged.  [128]")
@click.option("--rounds", type=click.IntRange(min=1), help="regmix, regmix-d: of LightGBM.")
@click.option("--cv", type=click.IntRange(min=0), default=0, show_default=True, help="regmix: folds that choose the rounds; 0 is all rounds.")  # fmt: skip
@click.option(
    "--regmix-stages", type=click.IntRange(min=1), default=4, show_default=True, help="regmix-d: of its schedule."
)
@click.option("--online", is_flag=True, help="regmix-d: plan anew at every stage.")
@click.option("--eta", type=Share(min=0, min_open=True), help="doremi, aioli: step of the weights.")
@click.option("--smoothing", type=Share(min=0, max=1), help="doremi, doge: share spread evenly.")
@click.option("--mu", type=Share(min=0, min_open=True), default=0.05, show_default=True, help="doge: weights move by 1/mu.")  # fmt: skip
@click.option("--factor", type=Share(min=0, max=1), default=0.625, show_default=True, help="aioli: weight of the one domain.")  # fmt: skip
@click.option("--lp-steps", type=click.IntRange(min=1), default=4, show_default=True, help="aioli: updates on each.")
@click.option("--lp-rounds", type=click.IntRange(min=1), help="aioli: sweeps a round.  [as many as tokens allow]")
@click.option("--aioli-rounds", type=click.IntRange(min=1), default=4, show_default=True, help="aioli: of a run.")
@click.option("--ema", type=Share(min=0, max=1), help="aioli: moving average of its matrix.")
@click.option("--reward-alpha", "alpha", type=Share(min=0, max=1), help="odm: moving average of rewards.")
@click.option("--kl", type=Share(min=0), default=0.1, show_default=True, help="olmix: divergence from the prior.")
@click.option("--repetition", type=Share(min=0, min_open=True), default=4.0, show_default=True, help="olmix: how often text may be repeated.")  # fmt: skip
@options("workers", "seed", "output", "json", "common", workers=1)  # fmt: skip
@click.pass_context
def baseline(
    ctx: click.Context,
    name: str,
    data: str,
    output: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> int:
    """The mixture or schedule of a rival method, by its own rule, to -o FILE. regmix, regmix-d and olmix learn from a SWARM, or like the others from proxies that they
    train on a CORPUS.

    \b
    Example:
      datamix baseline regmix swarm --task task-00 -o regmix.json
      datamix baseline regmix train --test test --json
      datamix baseline doremi corpus --proxy 22k -o doremi.json
    """
    needs.rival(name, not _is_swarm(data), given["regression"])
    from click.core import ParameterSource

    from datamix import baselines

    budget = _take_budget(given)
    told = {
        key: value
        for key, value in given.items()
        if ctx.get_parameter_source(key) != ParameterSource.DEFAULT or key in ("seed", "workers")
    }
    source = (
        {"source_budget": budget.source_share}
        if ctx.get_parameter_source("source_budget") != ParameterSource.DEFAULT
        else {}
    )
    engine = (
        {} if _is_swarm(data) else {"steps": budget.steps, "tokens": budget.tokens, "max_epochs": budget.max_epochs}
    )
    return baselines.run(
        name,
        data,
        options={**told, **source, **engine},
        output=output,
        overwrite=overwrite,
        as_json=as_json,
        quiet=quiet,
    )


@main.command(short_help="Agents, rivals and controls on the same runs.")
@click.argument("corpus", metavar="CORPUS", type=click.Path())
@click.option("--agent", "agents", metavar="AGENT", multiple=True, help="An agent (repeatable); the first is the one that others are compared with.")  # fmt: skip
@click.option("--swarm", metavar="SWARM", help="What it was trained on: controls are trained on it, and rivals get its bytes.")  # fmt: skip
@click.option("--methods", type=Names(), default="proportional,best-fixed,regmix,regmix-d,hand,null", show_default=True, help="Rivals: baselines, hand (a fixed late schedule), null (untrained agents), none.")  # fmt: skip
@click.option("--controls", type=Names(), default="reward_shuffle,no_feedback", show_default=True, help="Agents trained on shuffled rewards and without feedback, or none.")  # fmt: skip
@click.option("--control-agents", "members", type=click.IntRange(min=1), default=3, show_default=True, help="Agents of each control.")  # fmt: skip
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Runs of each method on each task.")  # fmt: skip
@_budget()
@_tasks()
@_PROXY
@_FEEDBACK
@click.option("--score-tokens", type=click.IntRange(min=64), default=12288, show_default=True, help="Held-out text a domain that results are quoted on.")  # fmt: skip
@click.option("--proxy-tokens", type=click.IntRange(min=1), help="Text that a rival's proxies may train on, for each task.  [the swarm's]")  # fmt: skip
@options("workers", "seed", "output", "plot", "json", "common")  # fmt: skip
def compare(corpus: str, agents: tuple[str, ...], swarm: str | None, methods: tuple[str, ...], controls: tuple[str, ...], members: int, seeds: int, proxy: str, feedback_tokens: int, score_tokens: int, proxy_tokens: int | None, workers: int, seed: int, output: str | None, overwrite: bool, plot: str | None, as_json: bool, quiet: bool, **given: Any) -> int:  # fmt: skip
    """Run agents, rivals and controls on the same tasks with the same seeds, paired, into the folder -o DIR, which goes on after a kill.

    \b
    Example:
      datamix compare corpus --agent agent --swarm swarm --tasks 5 --source-budget 0.2 --seeds 5 --plot compare.png -o compared
    """
    needs.plots(plot, [output])
    needs.comparisons(methods)
    from datamix import compare as work

    budget = _take_budget(given)
    settings = work.Settings(
        budget=budget, proxy=_proxy_of(proxy), methods=list(methods), seeds=seeds, proxy_tokens=proxy_tokens or 0, controls=list(controls) if agents else [],
        members=members, feedback_tokens=feedback_tokens, score_tokens=score_tokens, seed=seed, **given,
    )  # fmt: skip
    return work.run(
        _wanted(output, "DIR"),
        corpus,
        agents,
        swarm,
        settings,
        workers=workers,
        overwrite=overwrite,
        as_json=as_json,
        plot=plot,
        quiet=quiet,
    )


@main.command(short_help="What an agent does, and whether that makes sense.")
@click.argument("agent", metavar="AGENT", type=click.Path())
@click.option("--corpus", metavar="CORPUS", help="Text of the runs that show it.")
@click.option("--swarm", metavar="SWARM", help="What it was trained on.  [as its manifest says]")
@click.option("--tasks", type=click.IntRange(min=0), default=3, show_default=True, help="The first so many tasks of the swarm, 0 all of them; without a swarm of this text, so many random choices of domains, 0 the corpus as it stands.")  # fmt: skip
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each ablation.")
@click.option("--ablation", type=click.Choice(["schedule", "mean", "none"]), default="schedule", show_default=True, help="Leave a domain out of the agent's schedule, or of its mean mixture.")  # fmt: skip
@_FEEDBACK
@options("workers", "seed", "output", "plot", "json", "common")  # fmt: skip
def explain(agent: str, corpus: str | None, swarm: str | None, tasks: int, seeds: int, ablation: Any, feedback_tokens: int, seed: int, plot: str | None, output: str | None, **given: Any) -> int:  # fmt: skip
    """Whether the weights of an agent go with what domains are worth (its schedule run again without each of them), what it expects of other mixtures, and what it
    does over time. With -o DIR the runs are kept and the same command goes on.

    \b
    Example:
      datamix explain agent --corpus corpus --swarm swarm --plot explained.png
    """
    needs.plots(plot, [output])
    needs.torch()
    from datamix import explain as work

    settings = work.Settings(tasks=tasks, seeds=seeds, ablation=ablation, feedback_tokens=feedback_tokens, seed=seed)
    return work.run(agent, corpus=corpus, swarm=swarm, settings=settings, output=output, plot=plot, **given)


# ---------------------------------------------------------------- forms of others


@main.command(short_help="A schedule or mixture as another tool reads it.")
@click.argument("schedule", metavar="FILE", type=click.Path())
@click.option("--to", "to", type=click.Choice(FORMS), required=True, help="Whose form.")
@click.option("--corpus", metavar="CORPUS", help="Check names against it, and take sizes from it.")
@click.option("--paths", metavar="TEMPLATE", help="Where that tool finds a domain, such as data/{domain}.")
@click.option("--average", is_flag=True, help="The mean mixture, where the form holds one.")
@click.option("--by-stage", "stages", is_flag=True, help="A folder with a file for each stage.")
@click.option("--step-tokens", type=click.IntRange(min=1), help="Tokens of one training step (nanotron).")
@options("output", "common")  # fmt: skip
def export(schedule: str, to: str, corpus: str | None, quiet: bool, **given: Any) -> int:
    """Write FILE, a schedule.jsonl or a mixture file, in the form of another tool.

    \b
    Example:
      datamix export schedule.jsonl --to megatron --paths /data/{domain}_text_document -o stages
      datamix export regmix.json --to doremi -o weights.json
    """
    from datamix import forms
    from datamix.corpus import Corpus

    return forms.export(schedule, to, corpus=None if corpus is None else Corpus.load(corpus), **given)


@main.command("import", short_help="Another tool's mixture, or its tables of runs.")
@click.argument("form", metavar="FORM", type=click.Choice(FORMS))
@click.argument("file", required=False, metavar="[FILE]", type=click.Path())
@click.option("--mixture", metavar="CSV", help="regmix: the table of mixtures.")
@click.option("--loss", metavar="CSV", help="regmix: the table of losses.")
@click.option("--ratios", metavar="CSV", help="olmix: the table of mixtures.")
@click.option("--metrics", metavar="CSV", help="olmix: the table of losses.")
@click.option("--target", "targets", metavar="NAME", multiple=True, help="A target domain of a table (repeatable).")
@click.option("--paths", metavar="TEMPLATE", help="What FILE calls a domain, such as data/{domain}.")
@click.option("--step-tokens", type=click.IntRange(min=1), help="Tokens of one training step (nanotron).")
@options("output", "common")  # fmt: skip
def import_(form: str, file: str | None, mixture: str | None, loss: str | None, ratios: str | None, metrics: str | None, targets: tuple[str, ...], paths: str | None, step_tokens: int | None, output: str | None, overwrite: bool, quiet: bool) -> int:  # fmt: skip
    """Read FILE of another tool into a mixture file or schedule.jsonl; or tables of finished runs (regmix, olmix) into the folder -o SWARM.

    \b
    Example:
      datamix import regmix --mixture train_mixture_1m.csv --loss train_pile_loss_1m.csv -o swarm
      datamix import doremi weights.json -o mixture.json
    """
    from datamix import forms

    tables = {"regmix": (mixture, loss), "olmix": (ratios, metrics)}
    one, other = tables.get(form, (None, None))
    if [x for x in (mixture, loss, ratios, metrics) if x is not None and x not in (one, other)]:
        raise click.UsageError("--mixture and --loss are of regmix, --ratios and --metrics of olmix")
    if one is not None or other is not None:
        if file is not None or one is None or other is None:
            raise click.UsageError("expected both tables and no FILE, or FILE alone")
        return forms.import_tables(form, one, other, _wanted(output, "SWARM"), targets=targets, overwrite=overwrite)
    if file is None:
        raise click.UsageError("expected FILE, or the two tables of runs of regmix or olmix")
    if targets:
        raise click.UsageError("--target goes with tables of runs")
    return forms.import_mixture(form, file, output, paths=paths, step_tokens=step_tokens, overwrite=overwrite)


add_doctor(main, extras=["hf", "regmix", "arrow", "ray", "plot"], only_here={"regmix": ["lightgbm", "scipy"]})

if __name__ == "__main__":
    main()
