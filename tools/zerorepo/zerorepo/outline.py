"""The verb `map`: the signatures of a repository that matter most, within a budget of tokens.

What many others use comes first: PageRank over the dependency edges, from user to used, personalised by a text where
--focus gives one (localize.py's scores). A unit costs its own line and the lines that place it, those of its file and of
the classes around it; units are taken in order of rank until the next does not fit, so that a larger budget never shows
less. What is printed is in the order of the tree.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from tenfold_shared import BadInput, Missing
from zerorepo.graph import UNITS, Graph, Node, read_bytes
from zerorepo.modules import is_test

LONGEST = 160  # characters of a signature that are shown
DAMPING = 0.85
FOCUSED = 0.5  # with a focus the walk stays nearer to where it begins
SHARP = 4  # power of the focus: what a text speaks for faintly is most of a repository
ROUNDS = 60  # the error left is below DAMPING ** ROUNDS, 6e-5 of the whole
_CONFIDENCE = {"exact": 1.0, "inferred": 0.8, "name_only": 0.1}
_WEIGHT = {"invokes": 1.0, "inherits": 1.0, "imports": 0.3, "imports_lazy": 0.3, "imports_typing": 0.1, "tests": 0.1}
_PIECE = re.compile(r"[^\W\d_]+|\d|\s+|_+|[^\w\s]")

Count = Callable[[str], int]


def estimate(text: str) -> int:
    """Tokens of a text, from above: a piece of letters is one token for every three of them, a digit, a mark and a blank
    run one each, a character beyond ASCII as many as it has bytes. On maps of Python code this is 1.4 to 1.6 times what the
    tokenizer of SmolLM2 gives.
    """
    total = 0
    for piece in _PIECE.findall(text):
        if not piece.isascii():
            total += len(piece.encode("utf-8", "replace"))
        elif piece[0].isalpha():
            total += -(-len(piece) // 3)
        else:
            total += 1 if piece[0].isspace() or piece[0] == "_" else len(piece)
    return total


def counter(uri: str | None) -> tuple[Count, str]:
    """(count of a text's tokens, what counts) by the tokenizer.json of a model folder; by `estimate` where there is no
    URI. Raises Missing without the tokenizers library, BadInput where there is no tokenizer."""
    if uri is None:
        return estimate, "an estimate from above"
    try:
        import tokenizers
    except ImportError:
        raise Missing("--tokenizer: tokenizers is not installed: pip install 'zerorepo[hf]'") from None
    from pathlib import Path

    from tenfold_shared.jsonl import read_text
    from tenfold_shared.models import resolve

    place = Path(uri).expanduser()
    if not (place / "tokenizer.json").is_file():
        try:
            place = Path(resolve(uri).path)
        except BadInput as error:
            raise BadInput(str(error).replace("--model", "--tokenizer", 1)) from None
    if not (place / "tokenizer.json").is_file():
        raise BadInput(f"--tokenizer {uri}: expected a folder with tokenizer.json")
    text = read_text(str(place / "tokenizer.json"))
    try:
        inner = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exceptions
        raise BadInput(f"{place}/tokenizer.json: cannot be read: {error}") from None
    inner.no_truncation()
    inner.no_padding()
    return lambda text: len(inner.encode(text, add_special_tokens=False).ids), uri


def central(graph: Graph, focus: dict[str, float] | None = None) -> list[Node]:
    """The units of a graph, most central first; ties by id.

    focus: id of a unit to how much a text speaks for it; what it calls, and they in turn, gain by it.
    """
    nodes = sorted((node for node in graph.nodes if node.kind in (*UNITS, "file")), key=lambda node: node.id)
    place = {node.id: at for at, node in enumerate(nodes)}
    links: dict[tuple[int, int], float] = {}
    for edge in graph.edges:
        source, target = place.get(edge.src), place.get(edge.dst)
        if source is None or target is None or source == target or edge.type not in _WEIGHT:
            continue
        weight = _WEIGHT[edge.type] * _CONFIDENCE[edge.confidence]
        links[source, target] = max(weight, links.get((source, target), 0.0))
    ends = np.array(sorted(links), int).reshape(-1, 2)
    weights = np.array([links[a, b] for a, b in ends.tolist()])
    start, damping = np.array([_standing(node) for node in nodes]), DAMPING
    if focus:
        told = np.array([focus.get(node.id, 0.0) for node in nodes])
        if told.max() > 0:
            start, damping = start * ((told / told.max()) ** SHARP + 1e-6), FOCUSED
    if not len(nodes) or not start.sum():
        return []
    start = start / start.sum()
    out = np.bincount(ends[:, 0], weights, len(nodes))
    share = weights / out[ends[:, 0]] if len(weights) else weights
    rank = start
    for _ in range(ROUNDS):
        # What stands on nodes that depend on nothing would begin anew at `start`: that scales all ranks alike, and is left out.
        rank = damping * np.bincount(ends[:, 1], share * rank[ends[:, 0]], len(nodes)) + (1 - damping) * start
    # What is private or a test is used as often, and tells less of what the repository offers.
    rank = np.round(rank * np.array([_standing(node) for node in nodes]), 12)
    order = sorted(range(len(nodes)), key=lambda at: (-rank[at], nodes[at].id))
    return [nodes[at] for at in order if nodes[at].kind in UNITS]


def _standing(node: Node) -> float:
    if is_test(node.path):
        return 0.02
    inner = [part for part in node.qualname.split(".") if part.startswith("_") and not part.endswith("__")]
    return 0.1 if inner else 1.0


def outline(graph: Graph, budget: int, count: Count = estimate, focus: dict[str, float] | None = None) -> str:
    """The map, at most `budget` tokens as `count` has them; empty where not even the first unit fits."""
    ranked = central(graph, focus)
    shown: set[str] = set()
    added: list[list[str]] = []  # what each unit that fits adds: its own line and those that place it
    spent = 0
    for node in ranked:
        chain = [one for one in _placed(graph, node) if one not in shown]
        cost = sum(count(_line(graph.by_id[one]) + "\n") for one in chain)
        if spent + cost > budget:
            break
        spent += cost
        shown.update(chain)
        added.append(chain)
    while added:
        text = _text(graph, shown)
        if count(text) <= budget:
            return text
        shown.difference_update(added.pop())  # a tokenizer to which the whole is more than its lines
    return ""


def least(graph: Graph, count: Count, focus: dict[str, float] | None = None) -> int:
    """Tokens that the first unit alone takes; 0 where there is none."""
    ranked = central(graph, focus)
    return sum(count(_line(graph.by_id[one]) + "\n") for one in _placed(graph, ranked[0])) if ranked else 0


def _placed(graph: Graph, node: Node) -> list[str]:
    """The ids of a unit's lines: its file, the units around it, itself."""
    parts = node.qualname.split(".")
    around = [f"{node.path}:{'.'.join(parts[:length])}" for length in range(1, len(parts) + 1)]
    return [node.path, *(one for one in around if one in graph.by_id)]


def _line(node: Node) -> str:
    if node.kind == "file":
        return f"{node.path}:"
    depth = node.qualname.count(".") + 1
    text = node.signature or f"{node.kind} {node.name}"
    text = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return f"{'  ' * depth}{text}  # {node.span[0]}" if node.span else f"{'  ' * depth}{text}"


def _text(graph: Graph, shown: set[str]) -> str:
    order = sorted((graph.by_id[one] for one in shown), key=lambda node: (node.path, node.kind != "file", node.span, node.id))  # fmt: skip
    return "".join(_line(node) + "\n" for node in order)


def run(
    graph: str,
    *,
    root: str | None,
    tokens: int,
    focus: str | None,
    tokenizer: str | None,
    output: str | None,
    overwrite: bool,
    quiet: bool,
    **_: Any,
) -> int:
    """The verb `map`. Raises BadInput where the budget is too small for one unit."""
    from tenfold_shared.jsonl import read_text
    from zerorepo.publish import publish

    if graph == "-" and focus == "-":
        raise BadInput("-: stdin can be read once; name the graph or --focus as a file")
    data = read_bytes(graph)
    whole = Graph.loads(data, graph)
    count, by = counter(tokenizer)
    scores: dict[str, float] | None = None
    told = ""
    if focus is not None:
        told = read_text(focus)
        if not told.strip():
            raise BadInput(f"--focus {focus}: empty; expected an issue or another text")
        scores = _focus(whole, graph, root, told)
    text = outline(whole, tokens, count, scores)
    if not text:
        needed = least(whole, count, scores)
        if not needed:
            raise BadInput(f"{graph}: holds no class or function; was it made by `zerorepo encode`?")
        raise BadInput(f"--tokens {tokens}: too small for one line of the map, which takes {needed} (by {by})")
    publish(
        "map",
        text.encode(),
        output,
        inputs=[data, told.encode()],
        options={"tokens": tokens, "tokenizer": tokenizer},
        overwrite=overwrite,
    )
    if not quiet:
        units = sum(node.kind in UNITS for node in whole.nodes)
        lines = sum(line.startswith(" ") for line in text.splitlines())
        print(f"zerorepo: {count(text)} of {tokens} tokens (by {by}): {lines} of {units} units", file=sys.stderr)
    return 0


def _focus(whole: Graph, graph: str, root: str | None, text: str) -> dict[str, float]:
    from zerorepo.localize import Localizer, source_of

    localizer = Localizer(whole, source_of(whole, graph, root, None))
    return {node.id: float(score) for node, score in zip(localizer.units, localizer.scores(text), strict=True)}
