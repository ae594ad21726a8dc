"""The three tools an agent walks a repository with: search, fetch, explore.

They follow SearchNode, FetchNode and ExploreRPG (arXiv 2602.02084 §2; arXiv 2509.16198 app. C.1): find
candidates by meaning or by text, verify one by reading it, expand along dependencies. Each is a Python
function over a `Graph`, and a verb that prints what it gives.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tenfold_shared import BadInput
from zerorepo.graph import UNITS, Edge, Graph, Node, one_line
from zerorepo.lexical import Bm25, query_of, tokens
from zerorepo.modules import module_name
from zerorepo.sources import Commit, Source, WorkTree

ENOUGH = 0.35  # cosine from which a feature answers the query; below it, `auto` asks the text as well


class Hit(NamedTuple):
    node: Node
    score: float
    mode: str  # features or snippets
    evidence: str  # the phrase, or `line: text`


class Step(NamedTuple):
    node: Node
    depth: int
    edge: Edge | None  # that led here; None for a start


class Texts:
    """Source of a graph's files, read once, from `source`; nothing where there is none.

    `stale` collects the files that are no longer what the graph was made from: their lines may have moved.
    """

    def __init__(self, graph: Graph, source: Source | Path | None) -> None:
        self.graph = graph
        self.source: Source | None = WorkTree(source) if isinstance(source, Path) else source
        self.stale: set[str] = set()
        self._lines: dict[str, list[str]] = {}

    def load(self, paths: Iterable[str]) -> None:
        """Read files that are not read yet. Paths of a graph may come from anywhere: those that lead out of the
        repository, links followed, are not read."""
        wanted = [path for path in dict.fromkeys(paths) if path not in self._lines]
        self._lines.update((path, []) for path in wanted)
        if self.source is None:
            return
        for path, data in self.source.read([path for path in wanted if is_inside(self.source.root, path)]):
            if isinstance(data, str):
                self.stale.add(path)
                continue
            node = self.graph.by_id.get(path)
            if node is None or node.sha256 != hashlib.sha256(data).hexdigest():
                self.stale.add(path)
            text = data.decode("utf-8-sig", "replace").replace("\r\n", "\n").replace("\r", "\n")
            self._lines[path] = text.split("\n") if text else []

    def lines(self, path: str) -> list[str]:
        """The lines of a file; none where it cannot be read."""
        self.load([path])
        return self._lines[path]

    def of(self, node: Node) -> list[str]:
        lines = self.lines(node.path)
        return lines[node.span[0] - 1 : node.span[1]] if node.span else lines

    def tell_stale(self) -> None:
        """One line on stderr where files are not as the graph has them."""
        if self.stale:
            some = ", ".join(sorted(self.stale)[:3])
            print(f"zerorepo: {len(self.stale)} files differ from the graph ({some}): lines may have moved; `zerorepo update` mends it", file=sys.stderr)  # fmt: skip


def is_inside(root: Path, path: str) -> bool:
    """Whether a path stays below the repository, links followed."""
    try:
        return (root / path).resolve().is_relative_to(root.resolve())
    except (OSError, ValueError, RuntimeError):
        return False


def texts_of(whole: Graph, graph: str, root: str | None, rev: str | None = None) -> Texts:
    """The source a graph is of: the files at its root (build.root_of), or those of a commit.

    Raises BadInput where none of the graph's files is there.
    """
    from zerorepo.encoder import root_of

    place = root_of(graph, root)
    files = [node.path for node in whole.nodes if node.kind == "file"]
    source: Source = Commit(place, rev) if rev else WorkTree(place)
    if files and not rev and not any((place / path).exists() for path in files[:200]):
        raise BadInput(f"{place}: holds none of the graph's files; --root names the repository {graph} is of")
    return Texts(whole, source)


def find(graph: Graph, name: str) -> Node:
    """The node of an id, or of the end of one. Raises BadInput where none or several answer."""
    if name in graph.by_id:
        return graph.by_id[name]
    if not name:
        raise BadInput("ID: empty; give a path, or path:qualname")
    tail = [node for node in graph.nodes if node.id.endswith(("/" + name, ":" + name, "." + name))]
    if len(tail) == 1:
        return tail[0]
    if tail:
        some = ", ".join(sorted(node.id for node in tail)[:4])
        raise BadInput(f"{name}: {len(tail)} nodes end so: {some}{', …' if len(tail) > 4 else ''}; give more of the id")
    import difflib

    near = difflib.get_close_matches(name, [node.id for node in graph.nodes], 1, 0.4) or difflib.get_close_matches(
        name, [node.qualname or node.id for node in graph.nodes], 1, 0.4
    )
    raise BadInput(f"{name}: no such node" + (f"; the nearest is {near[0]}" if near else ""))


# ------------------------------------------------------------ search


def search(
    graph: Graph,
    text: str,
    *,
    mode: str = "auto",
    scopes: Sequence[str] = (),
    globs: Sequence[str] = (),
    lines: tuple[int, int] | None = None,
    kinds: Sequence[str] = (),
    top: int = 5,
    encoder: Any = None,
    texts: Texts | None = None,
    cache: Path | None = None,
) -> list[Hit]:
    """The nodes that answer to `text`, best first; ties by id.

    mode: `features` compares the text with every node's features by `encoder`; `snippets` looks for its words
    in names and source (`texts`); `auto` gives features and, where fewer than `top` reach ENOUGH, snippets for
    the rest. scopes: ids of nodes below which to look. kinds: default every kind that has features.
    """
    among = list(_within(graph, scopes, globs, lines, kinds))
    found: list[Hit] = []
    if mode in ("auto", "features"):
        found = _by_features(among, text, top, encoder, cache)
    if mode == "snippets":
        return _by_text(among, text, top, texts)
    if mode == "auto":
        sure = [hit for hit in found if hit.score >= ENOUGH]
        if len(sure) < top:
            seen = {hit.node.id for hit in sure}
            sure += [hit for hit in _by_text(among, text, top, texts) if hit.node.id not in seen]
            seen |= {hit.node.id for hit in sure}
            sure += [hit for hit in found if hit.node.id not in seen]
        found = sure[:top]
    return found


def _within(
    graph: Graph, scopes: Sequence[str], globs: Sequence[str], lines: tuple[int, int] | None, kinds: Sequence[str]
) -> Iterable[Node]:
    inside: set[str] | None = None
    if scopes:
        inside = set()
        for scope in scopes:
            queue = [find(graph, scope).id]
            while queue:
                at = queue.pop()
                if at not in inside:
                    inside.add(at)
                    queue += [edge.dst for edge in graph.outgoing.get(at, ()) if edge.type == "contains"]
                    node = graph.by_id[at]
                    if node.kind == "feature":  # the unit that realises it
                        queue.append(f"{node.path}:{node.qualname}" if node.qualname else node.path)
                queue = [one for one in queue if one in graph.by_id]
    for node in graph.nodes:
        if inside is not None and node.id not in inside:
            continue
        if kinds and node.kind not in kinds:
            continue
        if not kinds and node.kind in ("repo", "folder"):
            continue
        if globs and not any(fnmatch.fnmatchcase(node.path, pattern) for pattern in globs):
            continue
        if lines is not None and not (node.span and lines[0] <= node.span[0] and node.span[1] <= lines[1]):
            continue
        yield node


def _by_features(among: list[Node], text: str, top: int, encoder: Any, cache: Path | None) -> list[Hit]:
    from zerorepo.embeddings import index_of

    # The words of a name and of its docstring say one thing together; a model's phrases each say one.
    phrases = [
        (node, phrase)
        for node in among
        for phrase in (["; ".join(node.features)] if node.provenance in ("name", "doc") else node.features)
    ]
    if not phrases:
        return []
    scores, rows = index_of([phrase for _, phrase in phrases], encoder, cache).top_k([text], min(len(phrases), top * 8))
    best: dict[str, Hit] = {}
    for score, row in zip(scores[0], rows[0], strict=True):
        node, phrase = phrases[int(row)]
        if node.id not in best and score > 0:
            best[node.id] = Hit(node, float(score), "features", phrase)
    return sorted(best.values(), key=lambda hit: (-hit.score, hit.node.id))[:top]


def _by_text(among: list[Node], text: str, top: int, texts: Texts | None) -> list[Hit]:
    """BM25 over names and source; a node that holds the text as it stands comes before those that hold its words.

    Of a file and a unit in it that score alike, the unit: it says more. Scores are parts of the best.
    """
    units = [node for node in among if node.kind in (*UNITS, "file")]
    if texts is not None:
        texts.load(node.path for node in units)
    sources = [texts.of(node) if texts is not None else [] for node in units]
    words = query_of(text)
    fields = {
        "name": [tokens(node.qualname or module_name(node.path)) for node in units],
        "source": [tokens("\n".join(source)) for source in sources],
    }
    scores = Bm25(len(units), fields).scores(words, {"name": 2.0, "source": 1.0})
    whole = " ".join(text.split()).lower()
    found: list[Hit] = []
    for node, source, score in zip(units, sources, scores.tolist(), strict=True):
        literal = whole in " ".join("\n".join(source).split()).lower()
        if score > 0 or literal:
            found.append(
                Hit(
                    node,
                    score + literal * (1 + sum(words.values())),
                    "snippets",
                    _line_with(node, source, whole, words),
                )
            )
    found.sort(key=lambda hit: (-hit.score, hit.node.kind == "file", hit.node.id))
    best = found[0].score if found else 1.0
    return [hit._replace(score=hit.score / best) for hit in found[:top]]


def _line_with(node: Node, source: list[str], whole: str, words: Mapping[str, float]) -> str:
    """The line that answers best: the text itself, else most of its words."""
    if not source:
        return node.signature or node.name
    at = max(range(len(source)), key=lambda place: (whole in source[place].lower(), len(words.keys() & set(tokens(source[place]))), -place))  # fmt: skip
    return f"{(node.span[0] if node.span else 1) + at}: {source[at].strip()}"


# ------------------------------------------------------------ fetch


def fetch(graph: Graph, name: str, texts: Texts | None = None) -> dict[str, Any]:
    """Everything about one node: its fields, what contains it and what it contains, its dependencies, its source."""
    node = find(graph, name)
    above = graph.parent(node.id)
    told: dict[str, Any] = {"id": node.id, "kind": node.kind}
    for field in ("path", "qualname", "signature", "features", "provenance", "doc", "scopes", "status", "reason"):
        if value := getattr(node, field):
            told[field] = value
    if node.span:
        told["start"], told["end"] = node.span
    told["parent"] = above.id if above is not None else None
    told["contains"] = [child.id for child in graph.children(node.id)]
    for title, edges, end in (("uses", graph.outgoing, "dst"), ("used_by", graph.incoming, "src")):
        rows = [
            {"type": edge.type, "id": getattr(edge, end), "confidence": edge.confidence}
            for edge in edges.get(node.id, ())
            if edge.type != "contains"
        ]
        unique = {(row["type"], row["id"]): row for row in rows}
        told[title] = [unique[key] for key in sorted(unique)]
    if texts is not None and node.kind in (*UNITS, "file"):
        told["source"] = "\n".join(texts.of(node))
    return told


# ------------------------------------------------------------ explore


def explore(
    graph: Graph,
    names: Sequence[str],
    *,
    direction: str = "both",
    depth: int = 2,
    kinds: Sequence[str] = (),
    edges: Sequence[str] = (),
) -> list[Step]:
    """Breadth first from the start nodes: each node once, at its least depth, with the edge that led to it.

    direction: down follows edges from src to dst, up from dst to src. depth -1 has no end. edges: types to follow;
    kinds: what is given back (a node of another kind is still walked through). A feature leads down to its unit,
    and a unit up to its feature.
    """
    starts = [find(graph, name) for name in names]
    realised: dict[str, list[str]] = {}
    for node in graph.nodes:
        if node.kind == "feature":
            realised.setdefault(f"{node.path}:{node.qualname}" if node.qualname else node.path, []).append(node.id)
    seen = {node.id for node in starts}
    queue = deque(Step(node, 0, None) for node in starts)
    found: list[Step] = []
    while queue:
        step = queue.popleft()
        if not kinds or step.node.kind in kinds or step.edge is None:
            found.append(step)
        if step.depth == depth:
            continue
        onward: list[tuple[str, Edge]] = []
        if direction != "up":
            onward += [(edge.dst, edge) for edge in graph.outgoing.get(step.node.id, ())]
            if step.node.kind == "feature":
                unit = f"{step.node.path}:{step.node.qualname}" if step.node.qualname else step.node.path
                onward.append((unit, Edge(src=step.node.id, dst=unit, type="contains")))
        if direction != "down":
            onward += [(edge.src, edge) for edge in graph.incoming.get(step.node.id, ())]
            onward += [
                (one, Edge(src=one, dst=step.node.id, type="contains")) for one in realised.get(step.node.id, ())
            ]
        for target, edge in sorted(onward, key=lambda pair: (_ORDER[pair[1].confidence], pair[1].type, pair[0])):
            if target in seen or target not in graph.by_id or (edges and edge.type not in edges):
                continue
            seen.add(target)
            queue.append(Step(graph.by_id[target], step.depth + 1, edge))
    return found


_ORDER = {"exact": 0, "inferred": 1, "name_only": 2}


# ------------------------------------------------------------ the verbs


def run_search(
    query: str,
    *,
    graph: str,
    root: str | None,
    rev: str | None,
    mode: str,
    scope: Sequence[str],
    glob: Sequence[str],
    lines: str | None,
    kind: Sequence[str],
    embeddings: str,
    top: int,
    as_json: bool,
    **_: Any,
) -> int:
    """The verb `search`. Exit 1 where nothing is found."""
    if not query.strip():
        raise BadInput("TEXT: empty; say what to look for")
    between = _range(lines)
    whole = Graph.load(graph)
    texts = None if mode == "features" else texts_of(whole, graph, root, rev)
    chosen = None
    if mode != "snippets":
        from zerorepo.embeddings import encoder

        chosen = encoder(embeddings)
    hits = search(
        whole, query, mode=mode, scopes=scope, globs=glob, lines=between, kinds=kind, top=top, encoder=chosen,
        texts=texts, cache=vectors_beside(graph),
    )  # fmt: skip
    name = chosen.name if chosen is not None else None
    if as_json:
        rows = [
            {"rank": rank, "id": hit.node.id, "kind": hit.node.kind, "score": round(hit.score, 6), "mode": hit.mode,
             "evidence": hit.evidence, **_place(hit.node)}
            for rank, hit in enumerate(hits, 1)
        ]  # fmt: skip
        _print({"query": query, "embeddings": name, "hits": rows})
    else:
        for hit in hits:
            score = f"{hit.score:.3f}" if hit.mode == "features" or mode == "snippets" else "     "  # of another kind
            print(f"{score}  {_shown(hit.node)}  {hit.mode}: {one_line(hit.evidence)}")
        print(f"zerorepo: {len(hits)} found" + (f"; features compared by {name}" if name else ""), file=sys.stderr)
    if texts is not None:
        texts.tell_stale()
    return 0 if hits else 1


def run_fetch(ids: Sequence[str], *, graph: str, root: str | None, rev: str | None, as_json: bool, **_: Any) -> int:
    """The verb `fetch`."""
    whole = Graph.load(graph)
    texts = texts_of(whole, graph, root, rev)
    for place, name in enumerate(ids):
        told = fetch(whole, name, texts)
        if as_json:
            _print(told)
            continue
        if place:
            print()
        for key, value in told.items():
            if key == "source":
                print("\n" + "\n".join("\t".join(map(one_line, line.split("\t"))) for line in value.split("\n")))
            elif key in ("uses", "used_by"):
                for row in value:
                    print(f"{key}: {row['type']} {row['id']}" + (f" ({row['confidence']})" if row["confidence"] != "exact" else ""))  # fmt: skip
            elif isinstance(value, list):
                for one in value:
                    print(f"{key}: {one_line(str(one))}")
            elif value is not None:
                print(f"{key}: {one_line(str(value))}")
    texts.tell_stale()
    return 0


def run_explore(
    ids: Sequence[str],
    *,
    graph: str,
    direction: str,
    depth: int,
    kind: Sequence[str],
    edge: Sequence[str],
    limit: int | None,
    as_json: bool,
    **_: Any,
) -> int:
    """The verb `explore`."""
    steps = explore(Graph.load(graph), ids, direction=direction, depth=depth, kinds=kind, edges=edge)
    shown = steps if limit is None else steps[:limit]
    if as_json:
        for step in shown:
            row: dict[str, Any] = {"id": step.node.id, "kind": step.node.kind, "depth": step.depth, **_place(step.node)}
            if step.edge is not None:
                row["edge"] = {"type": step.edge.type, "src": step.edge.src, "dst": step.edge.dst, "confidence": step.edge.confidence}  # fmt: skip
            row["features"] = step.node.features
            _print(row)
        return 0
    for step in shown:
        via = ""
        if step.edge is not None:
            down = step.edge.dst == step.node.id
            other = step.edge.src if down else step.edge.dst
            mark = "" if step.edge.confidence == "exact" else f", {step.edge.confidence}"
            via = f"  {'<-' if down else '->'} {step.edge.type}{mark} {one_line(other)}"
        print(f"{'  ' * step.depth}{_shown(step.node)}{via}")
    if len(shown) < len(steps):
        print(f"zerorepo: {len(steps) - len(shown)} more; raise --limit", file=sys.stderr)
    return 0


def _place(node: Node) -> dict[str, Any]:
    told: dict[str, Any] = {"file": node.path, "qualname": node.qualname}
    if node.span:
        told["start"], told["end"] = node.span
    return told


def _shown(node: Node) -> str:
    name = one_line(node.id)
    return f"{name}:{node.span[0]}-{node.span[1]}" if node.span else name


def _range(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,9})-(\d{1,9})", text)
    if not found or int(found[1]) > int(found[2]) or found[1] == "0":
        raise BadInput(f"--lines {text}: expected A-B with 1 <= A <= B, such as 10-80")
    return int(found[1]), int(found[2])


def vectors_beside(graph: str) -> Path | None:
    """Where vectors of this graph's features are kept, beside it."""
    path = Path(graph)
    return None if graph == "-" else path.with_name(f".{path.name}.vectors")


def _print(row: dict[str, Any]) -> None:
    print(msgspec.json.encode(row).decode())
