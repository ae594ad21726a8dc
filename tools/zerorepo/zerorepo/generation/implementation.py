"""Stage B: a proposed graph becomes a skeleton, a folder of stubs with the graph that says what each of them is for.

The implementation level of arXiv 2509.16198 §2.3, in its order: folders, files, data flow, order of areas, base classes,
order of files, interfaces, task batches. Between proposal.py and building.py; here are the verb and what other stages
call, the work is in designing.py (the questions) and blueprint.py (files and graph of the answers).

Everything but the answers is a function of the answers, which are in the journal: a run that is killed goes on and writes
the same bytes. The order of units in a file is their order of writing: the schema has order edges between files alone, so
task batches become the order in which a file's units stand.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from tenfold_shared import BadInput
from tenfold_shared.cli import Backend
from tenfold_shared.progress import Progress
from zerorepo.generation import wording
from zerorepo.generation.asking import TRIES, Asker, OverBudget, identity, label, open_generator
from zerorepo.generation.blueprint import Skeleton, skeleton_of
from zerorepo.generation.designing import Design, Fault, Refused, Report, Settings
from zerorepo.generation.folder import RPG, Folder, Record
from zerorepo.generation.interfaces import Source
from zerorepo.generation.layout import Proposal, proposal_of
from zerorepo.graph import Graph, one_line, read_bytes
from zerorepo.lift import CHARACTERS_A_TOKEN
from zerorepo.validate import problems

if TYPE_CHECKING:
    from tenfold_shared.generate import Sampling


def design(proposed: Graph, asker: Asker, settings: Settings | None = None, *, name: str = "proposal", quiet: bool = True, fault: Fault | None = None) -> Skeleton:  # fmt: skip
    """The skeleton of a proposal. Where the token budget ends first, what there is, with `report.stopped` set. fault: says
    why a file of stubs cannot be imported, by trying (stripping.import_fault).

    Raises BadInput where `proposed` is no proposal, Refused where there is no design.
    """
    proposal = proposal_of(proposed, name)
    one = Design(proposal, asker, settings or Settings(), fault)
    with Progress("design", sum(map(len, proposal.leaves.values())), "features", quiet) as progress:
        try:
            one.run(progress.update)
        except OverBudget as error:
            one.report.stopped = str(error)
    return skeleton_of(one)


# ------------------------------------------------------------ the verb


def run_design(
    proposed: str, *, backend: Backend, sampling: Sampling, seed: int, break_cycles: bool, file_steps: int,
    interface_steps: int, output: str | None, overwrite: bool, budget_tokens: int | None, dry_run: bool, as_json: bool,
    quiet: bool, **_: Any,
) -> int:  # fmt: skip
    """The verb `design`. Exit 1 where features stayed without an interface, an answer was given up, or there is a circle."""
    data = read_bytes(proposed)
    graph = read_proposal(data, proposed)
    if dry_run:
        return _dry(proposal_of(graph, proposed), as_json)
    if not backend.model:
        raise BadInput("design: expected --model URI; a design is made by a model")
    fault = _fault(quiet)
    options = {**identity(backend), "imports": fault is not None, **msgspec.to_builtins(sampling), "seed": seed, "file_steps": file_steps, "interface_steps": interface_steps}  # fmt: skip
    inputs = [{"path": proposed, "sha256": hashlib.sha256(data).hexdigest()}]
    with Folder(output, verb="design", options=options, inputs=inputs, overwrite=overwrite) as out:
        if out.finished is not None:
            # --break-cycles is no part of what a run is: a refused one goes on with it
            if out.finished["counts"]["dropped"] and not break_cycles:
                raise BadInput(
                    f"{output}: was made with --break-cycles; repeat it, choose another output or add --overwrite"
                )
            return _said(str(output), out.finished["counts"], out.finished["status"], as_json, quiet, again=True)
        generator = open_generator(backend, seed)
        try:
            asker = Asker(generator, sampling, seed, out.journal, budget_tokens)
            made = design(
                graph,
                asker,
                Settings(break_cycles, file_steps, interface_steps),
                name=proposed,
                quiet=quiet,
                fault=fault,
            )
        finally:
            generator.close()
        counts = counted(made, asker)
        status = "budget" if made.report.stopped else "done"
        out.publish(
            {**made.files, RPG: made.graph.dumps()},
            counts,
            seed=seed,
            status=status,
            keep_journal=bool(made.report.stopped),
        )
    return _said(str(output), counts, status, as_json, quiet)


def _fault(quiet: bool) -> Fault | None:
    """Where there is a sandbox, every file of stubs is imported in it before it is taken."""
    from tenfold_shared import sandbox
    from zerorepo.generation.stripping import import_fault

    try:
        sandbox.check()
    except sandbox.NoSandbox as error:
        if not quiet:
            print(f"zerorepo: no sandbox, so whether the stubs can be imported is not tried: {error}", file=sys.stderr)
        return None
    return partial(import_fault, run=sandbox.run)


def read_proposal(data: bytes, name: str) -> Graph:
    """Raises BadInput where the bytes are no sound graph; one that was edited by hand need not be canonical."""
    wrong = [one for one in problems(data, name=name) if one.code != "not-canonical"]
    if wrong:
        raise BadInput(f"{name}: {wrong[0].code} at {wrong[0].pointer or '/'}: {one_line(wrong[0].message)}; `zerorepo validate {name}` names everything that is wrong")  # fmt: skip
    return Graph.loads(data, name)


def counted(made: Skeleton, asker: Asker) -> Record:
    """What a manifest and --json say of a design."""
    kinds = Counter(node.kind for node in made.graph.nodes)
    stubs = sum(node.status == "stubbed" and node.kind in ("function", "method") for node in made.graph.nodes)
    return {
        **msgspec.to_builtins(made.report), "areas": kinds["area"], "files": kinds["file"], "stubs": stubs,
        "calls": sum(one.calls for one in asker.spent.values()), "tokens": asker.tokens, "answered_by": label(asker.models),
    }  # fmt: skip


def _said(output: str, counts: Record, status: str, as_json: bool, quiet: bool, again: bool = False) -> int:
    if as_json:
        print(msgspec.json.encode({"output": output, "status": status, **counts}).decode())
    if status != "budget":
        for key in counts["uncovered"]:
            print(f"zerorepo: {one_line(key)}: no interface", file=sys.stderr)
    for key, why in counts["refused"].items():
        print(f"zerorepo: {one_line(key)}: no usable answer in {TRIES} tries: {one_line(why)[:300]}", file=sys.stderr)
    for edge in counts["dropped"]:
        print(f"zerorepo: dropped to break a circle: {one_line(edge['src'])} -{edge['type']}-> {one_line(edge['dst'])}", file=sys.stderr)  # fmt: skip
    if again and not quiet:
        print(f"zerorepo: {output}: complete already; nothing to do", file=sys.stderr)
    elif not quiet:
        budget = "; the budget is spent, a larger one goes on" if status == "budget" else ""
        print(f"{output}: {counts['covered']} of {counts['features']} features have an interface, {counts['files']} files, {counts['stubs']} stubs; answers: {counts['answered_by']}{budget}", file=sys.stderr)  # fmt: skip
    return 0 if status == "budget" else int(bool(counts["uncovered"] or counts["refused"]))


def _dry(proposal: Proposal, as_json: bool) -> int:
    """Calls at the least: every area needs an answer for its files and one interface; the rest hangs on the answers."""
    system = wording.overview(proposal)
    areas = proposal.areas
    prompts = {"folders": [wording.folders(areas)], "files": [], "flow": [], "bases": []}
    for area, leaves in proposal.leaves.items():
        prompts["files"].append(
            wording.files(area, "package", [leaf[len(area) + 1 :] for leaf in leaves], [], [], len(leaves))
        )
    if len(areas) > 1:
        prompts["flow"], prompts["bases"] = [wording.flow(areas)], [wording.bases(areas, [], [], {"package"})]
    source = Source("package/file.py", areas[0], "")
    prompts["interfaces"] = [
        wording.interfaces([(source.path, area)], [], [], [], source.path, area, leaves, source, []) for area, leaves in proposal.leaves.items()
    ]  # fmt: skip
    told = {
        role: {
            "calls": len(texts),
            "prompt_tokens": sum(len(system) + len(text) for text in texts) // CHARACTERS_A_TOKEN,
        }
        for role, texts in prompts.items()
    }
    calls, tokens = (sum(one[key] for one in told.values()) for key in ("calls", "prompt_tokens"))
    first = f"[system] {system}\n[user] {prompts['folders'][0]}"
    if as_json:
        print(msgspec.json.encode({"calls_at_least": calls, "prompt_tokens_at_least": tokens, "roles": told, "first_prompt": first}).decode())  # fmt: skip
        return 0
    for role, one in told.items():
        print(f"{role}: at least {one['calls']} calls, {one['prompt_tokens']} prompt tokens")
    print(f"calls: at least {calls}\nprompt tokens: at least {tokens} (estimated)\nfirst prompt:\n{first}")
    return 0


__all__ = ["RPG", "Refused", "Report", "Settings", "Skeleton", "counted", "design", "read_proposal", "run_design"]
