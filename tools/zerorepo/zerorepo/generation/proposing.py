"""The verb `propose`: what it reads and writes, what it says, and the picture of how features grew.

The work is in proposal.py.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from tenfold_shared import BadInput
from tenfold_shared.cli import Backend
from tenfold_shared.jsonl import Output, Source
from tenfold_shared.progress import Progress
from zerorepo.generation.asking import Ask, Asker, OverBudget, identity, open_generator
from zerorepo.generation.ontology import Ontology, open_index
from zerorepo.generation.proposal import MISSING, Proposal, Settings, linear_fit, listed, overview
from zerorepo.generation.sampling import Sampler
from zerorepo.generation.spec import Spec, read_spec, spec_of
from zerorepo.graph import one_line, read_bytes
from zerorepo.lift import CHARACTERS_A_TOKEN
from zerorepo.plots import check_plot, drawing

if TYPE_CHECKING:
    from tenfold_shared.generate import Sampling


def run_propose(
    spec: str,
    *,
    ontology: str | None,
    rounds: int,
    conditions: Sequence[int],
    smoothing: float,
    overlap: float,
    tries: int,
    offer: int,
    embeddings: str,
    backend: Backend,
    sampling: Sampling,
    seed: int,
    budget_tokens: int | None,
    dry_run: bool,
    output: str | None,
    overwrite: bool,
    plot: str | None,
    as_json: bool,
    quiet: bool,
    **_: Any,
) -> int:
    """The verb `propose`. Exit 1 where features stayed without a place, or a question without a usable answer."""
    from zerorepo import __version__

    if plot is not None:
        check_plot(plot)
    if not backend.model:
        raise BadInput("propose: expected --model URI: a model, oracle:DIR or replay:FILE chooses the features")
    settings = Settings(rounds, tuple(conditions), smoothing, overlap, tries, offer, seed)
    told, digest = _spec(spec)
    options: dict[str, Any] = {**identity(backend), "sampling": msgspec.to_builtins(sampling), **msgspec.to_builtins(settings)}  # fmt: skip
    if spec == "-":
        options["spec"] = digest
    inputs = [path for path in (spec, ontology) if path not in (None, "-")]
    tree = None
    if ontology is not None:
        from zerorepo.embeddings import lacks

        tree = Ontology.load(ontology)
        # By name, as `auto` is not the same everywhere; the encoder itself is opened once there is something to do.
        options["embeddings"] = embeddings if embeddings != "auto" else "tfidf" if lacks() else "minilm"
    if dry_run:
        return _dry(told, tree, settings, as_json)
    source = Source([str(path) for path in inputs], None) if inputs else None
    with Output(output, tool="zerorepo", version=__version__, verb="propose", options=options, source=source,
                overwrite=overwrite) as out:  # fmt: skip
        if out.finished:
            counts = msgspec.json.decode(out.manifest_path.read_bytes())["counts"]
            if not quiet:
                print(f"zerorepo: {out.path}: complete already; nothing to do", file=sys.stderr)
            if plot is not None:
                draw_growth(counts["growth"], plot)
            return _status(counts)
        generator = open_generator(backend, seed)
        try:
            asker = Asker(generator, sampling, seed, out.journal, budget_tokens)
            index = open_index(tree, str(ontology), embeddings) if tree is not None else None
            proposal = Proposal(told, tree, asker, settings, index)
            status = "done"
            try:
                with Progress("propose", rounds, "rounds", quiet) as progress:
                    proposal.run(progress.update)
            except OverBudget as error:
                status = "budget"
                print(f"zerorepo: {error}; what there is, is written, and a larger budget continues", file=sys.stderr)
        finally:
            generator.close()
        counts = proposal.told()
        out.write_line(proposal.graph(unplaced=status == "budget").dumps()[:-1])
        out.finish(counts, seed=seed, status=status, keep_journal=status != "done")
    if plot is not None:
        draw_growth(counts["growth"], plot)
    _tell(counts, output, as_json, quiet)
    return 0 if status == "budget" else _status(counts)


def _spec(path: str) -> tuple[Spec, str]:
    if path != "-":
        return read_spec(path), ""
    data = read_bytes(path)
    return spec_of(data, "<stdin>"), hashlib.sha256(data).hexdigest()


def _status(counts: Mapping[str, Any]) -> int:
    return int(bool(counts["unplaced"] or counts["refused"]))


def _tell(counts: Mapping[str, Any], output: str | None, as_json: bool, quiet: bool) -> None:
    for title, names in (("without a place", counts["unplaced"]), ("planned and empty", counts["empty_modules"])):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            print(f"zerorepo: {len(names)} {title}: {', '.join(map(one_line, names[:5]))}{more}", file=sys.stderr)
    for question, why in list(counts["refused"].items())[:5]:
        print(f"zerorepo: {question}: no usable answer: {one_line(why)[:200]}", file=sys.stderr)
    if len(counts["refused"]) > 5:
        print(f"zerorepo: and {len(counts['refused']) - 5} more questions without a usable answer", file=sys.stderr)
    if as_json:
        print(msgspec.json.encode(counts).decode(), file=sys.stderr if output in (None, "-") else sys.stdout)
    elif not quiet:
        dropped = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts["dropped"].items())
        print(
            f"{output or 'propose'}: {counts['features']:,} features in {counts['groups']:,} groups of {len(counts['modules'])} modules"
            f" ({counts['mode']}); answered by {counts['answered_by']}" + (f"; dropped: {dropped}" if dropped else ""),
            file=sys.stderr,
        )  # fmt: skip


def _dry(spec: Spec, tree: Ontology | None, settings: Settings, as_json: bool) -> int:
    """What a run would ask at least, and the first question. Tokens are estimated at four characters each; an answer's
    length nobody knows before."""
    words = overview(spec)
    first = Ask("missing", "round-1", words, MISSING.format(earlier=""))
    calls = settings.rounds * (4 if tree is not None else 2) + 3
    offered = 0
    if tree is not None:
        sampler = Sampler(tree, settings.smoothing, settings.conditions, tree.sampled_roots())
        drawn = sampler.base_sample(np.random.default_rng([settings.seed, 1])).leaves[: settings.offer]
        offered = 2 * settings.rounds * len(listed(tree.label(node) for node in drawn.tolist()))
    tokens = (calls * len(words) + offered) // CHARACTERS_A_TOKEN
    told = {
        "calls_at_least": calls, "prompt_tokens_at_least": tokens, "bytes_written_about": 300 * settings.rounds,
        "ontology": tree.counts() if tree is not None else None, "first": first.messages,
    }  # fmt: skip
    if as_json:
        print(msgspec.json.encode(told).decode())
        return 0
    print(f"at least {calls:,} questions of {tokens:,} prompt tokens together; nothing was asked or written")
    if tree is not None:
        print(f"ontology: {tree.told()}")
    for message in first.messages:
        print(f"--- {message['role']}\n{message['content']}")
    return 0


def draw_growth(growth: Sequence[Mapping[str, Any]], path: str) -> None:
    """Features against rounds, with the straight line nearest to them, to PATH. Raises as plots.drawing."""
    rounds, leaves = [one["round"] for one in growth], [one["leaves"] for one in growth]
    fit = linear_fit(rounds, leaves)
    with drawing(path, (7, 4.2)) as figure:
        axes = figure.subplots()
        axes.plot(rounds, leaves, "o-", color="#0072B2", label="features")
        if fit is not None:
            line = [fit.slope * one + fit.intercept for one in rounds]
            axes.plot(rounds, line, "--", color="#D55E00", label=f"{fit.slope:.1f} a round, R² {fit.r2:.3f}")
        axes.set(xlabel="round", ylabel="features chosen", ylim=(0, None))
        axes.legend(frameon=False)
        axes.grid(color="#e6e6e6")
