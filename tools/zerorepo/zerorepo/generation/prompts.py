"""What stage C says to a model. One system message for the whole stage, so that a prefix cache holds; then one leaf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zerorepo.graph import Graph, Node

MOST_FILE = 12_000  # characters of the file a leaf stands in
MOST_EACH = 1_500  # of the source of one prerequisite
MOST_NEEDS = 12
MOST_OVERVIEW = 16_000

_RULES = """You write a Python repository one function at a time. Its layout and interfaces are fixed: you are shown the stub of one
function or method, you write a test of it, or its body, and nothing else. Names, parameters, annotations and decorators of
what exists stay as they are.
"""
TEST = """Write the unit test of {what}.
Take what it must do from its docstring and features, not from any implementation: there is none yet, and your test must
fail while the body is a stub. Test behaviour: results, effects, errors, the border cases the docstring names. The test is
deterministic, needs no network and no files outside tmp_path, and ends within five seconds. Import from `{module}`.
Answer with one fenced Python block: a whole pytest file with at least one function whose name begins with test_.
"""
CODE = """Write {what}.
Answer with one fenced Python block. It holds {form} with exactly the header below, its docstring, and a body in place of
the stub. It may also hold import statements and new module-level names that the body needs, and private helpers whose names begin with
an underscore. It holds nothing else of the file.
"""
JUDGE = """A test of {what} fails. Say whose fault it is:
code: the implementation does not do what its docstring says; test: the test asks for what the docstring does not say, or is
itself wrong; environment: neither, something outside of both failed.
Answer with one JSON object and nothing else: {{"cause": "code" | "test" | "environment", "reason": "..."}}.
"""
INTEGRATION = """Write an integration test of the area {area}: its parts used together as its features say, not one by one.
It must fail while they are stubs. It is deterministic, needs no network and no files outside tmp_path, and ends within ten
seconds.
Answer with one fenced Python block: a whole pytest file with at least one function whose name begins with test_.
"""
LOCATE = """An integration test of the area {area} fails, and the code is to blame. Say which of these functions are wrong, the likeliest
first, at most three:
{offered}
Answer with one JSON object and nothing else: {{"units": ["...", ...]}}, each exactly as it stands above.
"""


def overview(graph: Graph, texts: Mapping[str, str]) -> str:
    """The stable part: rules, purpose, files with what they are for, and the classes that several files build on."""
    root = graph.by_id.get(".")
    parts = [_RULES]
    if root is not None and (root.name or root.doc):
        parts.append(f"# The repository {root.name}\n{root.doc}\n")
    parts.append("# Its files")
    for node in sorted((one for one in graph.nodes if one.kind == "file"), key=lambda one: one.path):
        told = node.doc or "; ".join(node.features[:3])
        parts.append(f"{node.path}: {told}" if told else node.path)
    used: dict[str, set[str]] = {}
    for edge in graph.edges:
        if edge.type == "inherits":
            used.setdefault(edge.dst, set()).add(edge.src.partition(":")[0])
    shared = sorted(key for key, files in used.items() if len(files) > 1 and key in graph.by_id)
    if shared:
        parts.append("\n# Classes that several files build on")
        parts += [source_of(texts, graph.by_id[key])[:MOST_EACH] for key in shared[:10]]
    return "\n".join(parts)[:MOST_OVERVIEW] + "\n"


def about(
    graph: Graph, node: Node, texts: Mapping[str, str], needs: Sequence[str], features: Sequence[str]
) -> str:  # fmt: skip
    """What a leaf is: its stub, its file, and the sources of what it builds on."""
    parts = [f"# {node.id}"]
    if features:
        parts.append("Features: " + "; ".join(features))
    parts.append(f"```python\n{source_of(texts, node)}```")
    parts.append(f"Its file {node.path} as it stands:\n```python\n{texts[node.path][:MOST_FILE]}\n```")
    others = [graph.by_id[key] for key in needs if key in graph.by_id and graph.by_id[key].path != node.path]
    if others:
        parts.append("What it may build on, from other files:")
        parts += [f"`{one.id}`\n```python\n{source_of(texts, one)[:MOST_EACH]}```" for one in others[-MOST_NEEDS:]]
    return "\n".join(parts) + "\n"


def source_of(texts: Mapping[str, str], node: Node) -> str:
    """The unit's lines in the file as it stands, dedented; its signature where it cannot be found."""
    import textwrap

    from zerorepo.generation.skeleton import bodies_of

    found = bodies_of(texts.get(node.path, "")).get(node.qualname)
    return textwrap.dedent(found).rstrip() + "\n" if found else f"{node.signature}\n"
