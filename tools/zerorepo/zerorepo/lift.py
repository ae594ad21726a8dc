"""Semantic lifting: a model says what every unit does, and areas are found over the files.

The paper's encoder (arXiv 2602.02084 §2): lift units in batches, summarise files, discover functional areas
from the files' features alone, assign every file to area/category/group, ground each of these in the folders
its files lie in; and, on a change, lift only what changed and place anew only files that drifted. All of it
is an overlay: `structural` takes it off again, so that `update` compares what was parsed with what is there.

A model's answer is data that may be wrong: whatever it names that was not asked for is dropped and counted,
what it leaves out is asked for again, and what stays without an answer keeps the features of its name.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from tenfold_shared.cli import Backend
from tenfold_shared.jsonl import Journal
from tenfold_shared.progress import Progress
from zerorepo.features import own_phrases
from zerorepo.graph import ROOT, SEMANTIC, UNITS, Edge, Graph, Node
from zerorepo.sources import Source

if TYPE_CHECKING:
    from tenfold_shared.generate import Generator, Sampling

ROUNDS = 3  # times an item is asked for; P2 gives no number, its code 3
CHARACTERS_A_TOKEN = 4  # an estimate: sizes of batches, what --dry-run tells, the cost of an oracle
FILES_A_BATCH = 60
LONGEST = 8  # words of a phrase
MOST_PHRASES = 6
VAGUE = frozenset("handle process manage deal do perform execute run utilize".split())
MARK = "#"  # begins the id of a semantic node: no path does

_UNITS_PROMPT = """You describe what parts of a Python repository do.
For every entity below give one to {most} features. A feature is a verb and its object, three to {longest} words, lower case,
without punctuation. Say what is achieved, not how; no vague verbs such as handle or process.
Answer with one JSON object and nothing else: the entity's id as key, the list of its features as value, every id exactly once.
"""
_FILES_PROMPT = """You summarise files of a Python repository by the features of what they define.
For every file below give one to three features that cover the file as a whole: verb and object, three to {longest} words,
lower case, without punctuation.
Answer with one JSON object and nothing else: the file's path as key, the list of features as value, every path exactly once.
"""
_AREAS_PROMPT = """You divide a Python repository into functional areas.
Below are the features of its files. Name three to ten areas that together cover them and do not overlap: one to three words
each, letters and blanks only. Areas say what a part of the repository is for; they are no folder names.
Answer with one JSON object and nothing else: {{"areas": ["..."]}}.
"""
_PLACES_PROMPT = """You assign files of a Python repository to functional areas.
The areas are: {areas}.
For every file below give its place as area/category/group: the area exactly as written above, then a category and a group of
one to four words each, letters and blanks only. Use a place again where files belong together{known}.
Answer with one JSON object and nothing else: the file's path as key, its place as value, every path exactly once.
"""

Checked = Callable[[Any], Any]  # an answer for one key, as it is kept; raises ValueError saying what is wrong with it


class Overlay(NamedTuple):
    """What a model added. features: id to (phrases, provenance); places: file to (area, category, group)."""

    features: dict[str, tuple[list[str], str]]
    places: dict[str, tuple[str, str, str]]


# ------------------------------------------------------------ overlay on and off


def structural(graph: Graph) -> Graph:
    """The graph without what a model added; itself where nothing was."""
    if not any(node.kind in SEMANTIC or node.provenance not in ("", "name", "doc") for node in graph.nodes):
        return graph
    nodes = []
    for node in graph.nodes:
        if node.kind in SEMANTIC:
            continue
        if node.provenance not in ("", "name", "doc"):
            node = msgspec.structs.replace(node)
            node.features, node.provenance = own_phrases(node)
        nodes.append(node)
    kept = {node.id for node in nodes}
    return Graph(nodes, [edge for edge in graph.edges if edge.src in kept and edge.dst in kept])


def overlay_of(graph: Graph) -> Overlay:
    features = {
        node.id: (node.features, node.provenance)
        for node in graph.nodes
        if node.kind not in SEMANTIC and node.provenance not in ("", "name", "doc")
    }
    places: dict[str, tuple[str, str, str]] = {}
    for node in graph.nodes:
        if node.kind == "feature" and not node.qualname and node.id.startswith(MARK):
            area, category, group = node.id[1:].split("/", 3)[:3]
            places[node.path] = (area, category, group)
    return Overlay(features, places)


def attach(graph: Graph, overlay: Overlay) -> Graph:
    """A structural graph with an overlay: features on its nodes, and the semantic tree below the root."""
    nodes = []
    for node in graph.nodes:
        if node.id in overlay.features:
            node = msgspec.structs.replace(node)
            node.features, node.provenance = overlay.features[node.id]
        nodes.append(node)
    lifted = Graph(nodes, graph.edges)
    semantic: dict[str, Node] = {}
    edges: list[Edge] = []
    files: dict[str, set[str]] = {}

    def add(node: Node, parent: str) -> None:
        if node.id not in semantic:
            semantic[node.id] = node
            edges.append(Edge(src=parent, dst=node.id, type="contains"))

    units: dict[str, list[Node]] = {}
    for node in lifted.nodes:
        if node.kind in UNITS:
            units.setdefault(node.path, []).append(node)
    for path, place in sorted(overlay.places.items()):
        if path not in lifted.by_id:
            continue
        above = ROOT
        for kind, name in zip(("area", "category", "group"), place, strict=True):
            mine = f"{above}/{name}" if above != ROOT else MARK + name
            add(Node(id=mine, kind=kind, name=name, provenance="model"), above)
            files.setdefault(mine, set()).add(path)
            above = mine
        for node in (lifted.by_id[path], *units.get(path, ())):
            name = node.features[0] if node.features else node.name
            add(Node(id=f"{above}/{node.id}", kind="feature", name=name, features=node.features, path=path, qualname=node.qualname,
                     provenance=node.provenance), above)  # fmt: skip
    for mine, paths in files.items():
        semantic[mine].scopes = grounded({path.rpartition("/")[0] for path in paths})
    return Graph([*lifted.nodes, *semantic.values()], [*lifted.edges, *edges])


def grounded(folders: Iterable[str]) -> list[str]:
    """The fewest folders that stand for a set of folders (arXiv 2602.02084 §2, grounding).

    In the tree of the folders' paths a node is kept where paths part or one ends, and what lies below a kept
    node is left out; the root is not kept for parting alone, so that disjoint regions stay apart. O(N L).
    """
    tree: dict[str, Any] = {}
    ends: set[tuple[str, ...]] = set()
    for folder in set(folders):
        parts = tuple(folder.split("/")) if folder else ()
        ends.add(parts)
        at = tree
        for part in parts:
            at = at.setdefault(part, {})
    if () in ends:
        return [ROOT]
    found: list[str] = []
    stack: list[tuple[tuple[str, ...], dict[str, Any]]] = [((part,), below) for part, below in tree.items()]
    while stack:
        place, below = stack.pop()
        if place in ends or len(below) > 1:
            found.append("/".join(place))
        else:
            stack += [((*place, part), deeper) for part, deeper in below.items()]
    return sorted(found)


# ------------------------------------------------------------ the two verbs' part


def lifted(
    graph: Graph, source: Source, backend: Backend, sampling: Sampling | None, seed: int, batch_tokens: int,
    journal: Journal | None, *, quiet: bool = False,
) -> Graph:  # fmt: skip
    """Lift a structural graph with a model. Raises Missing or BadInput where the model cannot be opened."""
    return evolved(graph, graph, source, backend, sampling, seed, batch_tokens, 1.0, journal, quiet=quiet)


def evolved(
    old: Graph, new: Graph, source: Source, backend: Backend, sampling: Sampling | None, seed: int, batch_tokens: int,
    drift: float, journal: Journal | None, *, quiet: bool = False,
) -> Graph:  # fmt: skip
    """Carry the overlay of `old` to the structural graph `new`: units whose source is unchanged keep their
    features; the rest are lifted by the model, or go by their names where there is none, which is said."""
    before = overlay_of(old)
    known = {
        node.id
        for node in new.nodes
        if node.id in before.features and node.id in old.by_id and old.by_id[node.id].sha256 == node.sha256
    }
    features = {key: before.features[key] for key in known}
    files = {node.path for node in new.nodes if node.kind == "file" and node.status != "unparsed"}
    places = {path: place for path, place in before.places.items() if path in files}
    todo = [node for node in new.nodes if node.kind in UNITS and node.id not in known]
    if not backend.model:
        _say_unlifted(todo, files - places.keys())
        return attach(new, Overlay(features, places))
    assert sampling is not None
    generator = backend.open(seed)
    try:
        ask = _Asker(generator, sampling, seed, journal, quiet)
        features |= ask.units(todo, _sources(source, todo), batch_tokens)
        stale = [node for node in new.nodes if node.path in files and node.kind == "file" and node.id not in known]
        units: dict[str, list[str]] = {}
        for node in new.nodes:
            if node.kind in UNITS:
                units.setdefault(node.path, []).extend(features.get(node.id, (node.features, ""))[0][:2])
        features |= ask.files(stale, units)
        if places:
            places = {path: place for path, place in places.items() if not _drifted(path, before, features, drift)}
        homeless = sorted(files - places.keys())
        areas = sorted({area for area, _, _ in before.places.values()})
        summary = {path: features.get(path, (new.by_id[path].features, ""))[0] for path in sorted(files)}
        if homeless and not areas:
            areas = ask.areas(summary)
        if homeless:
            kept = sorted({"/".join(place) for place in places.values()})
            places |= ask.places({path: summary[path] for path in homeless}, areas, kept)
        ask.report()
    finally:
        generator.close()
    return attach(new, Overlay(features, places))


def _say_unlifted(units: list[Node], homeless: set[str]) -> None:
    if units:
        print(f"zerorepo: {len(units)} units changed and go by their names; --model describes them", file=sys.stderr)
    if homeless:
        some = ", ".join(sorted(homeless)[:3])
        print(
            f"zerorepo: {len(homeless)} files have no place in an area ({some}); --model places them", file=sys.stderr
        )


def _drifted(path: str, before: Overlay, features: dict[str, tuple[list[str], str]], limit: float) -> bool:
    """Whether a file's features moved farther than `limit`, as a cosine distance of their words."""
    old, new = before.features.get(path), features.get(path)
    if old is None or new is None or old == new:
        return False
    one, other = ({word: text.count(word) for word in text.split()} for text in (" ".join(old[0]), " ".join(new[0])))
    dot = sum(count * other.get(word, 0) for word, count in one.items())
    size = (sum(c * c for c in one.values()) * sum(c * c for c in other.values())) ** 0.5
    return 1 - dot / size > limit if size else True


def _sources(source: Source, units: list[Node]) -> dict[str, str]:
    """Source of each unit, methods left out of their class: they are entities of their own."""
    paths = sorted({node.path for node in units})
    lines = {
        path: data.decode("utf-8-sig", "replace").replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for path, data in source.read(paths)
        if isinstance(data, bytes)
    }
    found = {}
    for node in units:
        text = lines.get(node.path, [])[node.span[0] - 1 : node.span[1]]
        if node.kind == "class":
            text = text[
                : 1
                + next(
                    (at for at, line in enumerate(text) if line.lstrip().startswith(("def ", "async def "))), len(text)
                )
            ]
        found[node.id] = "\n".join(text)
    return found


# ------------------------------------------------------------ asking


class _Asker:
    """Requests to the model, answers checked item by item, what is missing asked for again."""

    def __init__(
        self, generator: Generator, sampling: Sampling, seed: int, journal: Journal | None, quiet: bool
    ) -> None:
        self.generator, self.sampling, self.seed, self.journal, self.quiet = generator, sampling, seed, journal, quiet
        self.fabricated = 0  # keys that nobody asked for
        self.refused: dict[str, str] = {}  # item to what was wrong at last
        self.tokens = 0

    def units(self, units: list[Node], sources: dict[str, str], batch_tokens: int) -> dict[str, tuple[list[str], str]]:
        room = batch_tokens * CHARACTERS_A_TOKEN
        items = {
            node.id: f"## {node.id}\n{sources[node.id][: room // 2]}\n" for node in sorted(units, key=lambda n: n.id)
        }
        head = _UNITS_PROMPT.format(most=MOST_PHRASES, longest=LONGEST)
        return self._all("units", head, items, phrases_checked, lambda batch: sum(map(len, batch)) <= room)

    def files(self, files: list[Node], units: dict[str, list[str]]) -> dict[str, tuple[list[str], str]]:
        items = {}
        for node in sorted(files, key=lambda one: one.id):
            told = "; ".join(dict.fromkeys(units.get(node.path, node.features)))
            items[node.id] = f"- {node.id}: {told[:1500] or ', '.join(node.features)}\n"
        return self._all("files", _FILES_PROMPT.format(longest=LONGEST), items, phrases_checked, _few)

    def areas(self, summary: dict[str, list[str]]) -> list[str]:
        text = "\n".join(dict.fromkeys(f"- {', '.join(features)}" for features in summary.values()))
        found = self._all("areas", _AREAS_PROMPT.format(), {"areas": text}, _areas_checked, _few)
        return list(found["areas"][0]) if "areas" in found else ["whole repository"]

    def places(
        self, summary: dict[str, list[str]], areas: list[str], known: list[str]
    ) -> dict[str, tuple[str, str, str]]:
        tail = f"; places in use: {'; '.join(known[:200])}" if known else ""
        head = _PLACES_PROMPT.format(areas=", ".join(areas), known=tail)
        items = {path: f"- {path}: {', '.join(features)}\n" for path, features in summary.items()}
        found = self._all("places", head, items, lambda value: _place_checked(value, areas), _few)
        return {path: place for path, (place, _) in found.items()}

    def report(self) -> None:
        if self.fabricated:
            print(f"zerorepo: {self.fabricated} answers for things that were not asked about: dropped", file=sys.stderr)
        for item, why in sorted(self.refused.items())[:5]:
            print(
                f"zerorepo: {item}: no usable answer in {ROUNDS} tries ({why}); it keeps what its name says",
                file=sys.stderr,
            )
        if len(self.refused) > 5:
            print(f"zerorepo: and {len(self.refused) - 5} more without a usable answer", file=sys.stderr)

    def _all(
        self, title: str, head: str, items: dict[str, str], check: Checked, fits: Callable[[list[str]], bool]
    ) -> dict[str, tuple[Any, str]]:
        """(answer, provenance) of every item that got one within ROUNDS rounds. A batch is cut in half after a
        completion that ran into the token limit: what is cut off is never taken for a whole."""
        found: dict[str, tuple[Any, str]] = {}
        wrong: dict[str, str] = {}
        batches = list(_batches(items, fits))
        with Progress(f"lift {title}", len(items), "items", self.quiet) as progress:
            for _ in range(ROUNDS):
                smaller: list[list[str]] = []
                asked = [(batch, self._prompt(head, batch, items, wrong)) for batch in batches]
                for batch, (key, text, finish) in zip(
                    batches, self._answers([prompt for _, prompt in asked]), strict=True
                ):
                    answers, problem = extract(text, batch)
                    if finish == "length":
                        problem = "the answer was cut off at --max-tokens"
                    self.fabricated += sum(one not in items for one in answers)
                    rest = []
                    for item in batch:
                        try:
                            if item not in answers:
                                raise ValueError(problem or "it is missing from the answer")
                            found[item] = (check(answers[item]), f"{self.generator.model} {key}")
                            wrong.pop(item, None)
                            progress.update()
                        except ValueError as error:
                            wrong[item] = str(error)
                            rest.append(item)
                    if rest:
                        half = (len(rest) + 1) // 2
                        smaller += [rest[:half], rest[half:]] if finish == "length" and len(rest) > 1 else [rest]
                batches = smaller
                if not batches:
                    break
        self.refused |= wrong
        return found

    def _prompt(self, head: str, batch: list[str], items: dict[str, str], wrong: dict[str, str]) -> str:
        told = [f"{item}: {wrong[item]}" for item in batch if item in wrong]
        again = "\nAn earlier answer was not usable:\n" + "\n".join(told[:20]) + "\n" if told else ""
        return head + "\n" + "\n".join(items[item] for item in batch) + again

    def _answers(self, prompts: list[str]) -> Iterator[tuple[str, str, str]]:
        """(key, text, finish_reason) in order, from the journal where it has them."""
        from tenfold_shared.generate import Request

        keys = [hashlib.sha256(prompt.encode("utf-8", "replace")).hexdigest()[:16] for prompt in prompts]
        have: dict[str, tuple[str, str]] = {}
        if self.journal is not None:
            have = {key: tuple(self.journal.get(key)) for key in keys if key in self.journal}
        wanted = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in have}
        requests = [
            Request(key=key, messages=[{"role": "user", "content": prompt}], seed=self.seed)
            for key, prompt in wanted.items()
        ]
        for done in self.generator.generate(iter(requests), self.sampling):
            self.tokens += done.prompt_tokens + done.completion_tokens
            if done.finish_reason == "error":
                have[done.key] = ("", f"error: {done.error}")
                continue
            have[done.key] = (done.text, done.finish_reason)
            if self.journal is not None:
                self.journal.put(done.key, [done.text, done.finish_reason])
        for key in keys:
            yield key, *have.get(key, ("", "error: no answer"))


def _few(batch: list[str]) -> bool:
    return len(batch) <= FILES_A_BATCH


def _batches(items: dict[str, str], fits: Callable[[list[str]], bool]) -> Iterator[list[str]]:
    batch: list[str] = []
    for key in items:
        if batch and not fits([items[one] for one in (*batch, key)]):
            yield batch
            batch = []
        batch.append(key)
    if batch:
        yield batch


# ------------------------------------------------------------ answers


class _Twice(ValueError):
    pass


def extract(text: str, wanted: Iterable[str]) -> tuple[dict[str, Any], str]:
    """The JSON object in a model's answer that holds most of the wanted keys, and what is wrong where there is none.

    Takes prose around it, fences, thinking before it and more than one block; half an object, one with a key
    twice and NaN are no JSON.
    """
    text = text.rpartition("</think>")[2]
    keys, best, problem = set(wanted), {}, "it holds no JSON object"
    most = -1
    decoder = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant)
    at = text.find("{")
    tries = 0
    while at != -1 and tries < 200:
        tries += 1
        try:
            value, end = decoder.raw_decode(text, at)
        except _Twice as error:
            problem, end = str(error), at + 1
        except (ValueError, RecursionError):
            problem, end = "its JSON object is not whole", at + 1
        else:
            if not _can_be_written(value):
                problem = "its JSON object holds half a surrogate pair, or a number of more than 64 bits"
            elif isinstance(value, dict) and len(keys & value.keys()) > most:
                best, most = value, len(keys & value.keys())
        at = text.find("{", end)
    return best, "" if most >= 0 else problem


def _can_be_written(value: Any) -> bool:
    """Whether a journal or a graph could hold it."""
    try:
        msgspec.json.encode(value)
    except (UnicodeEncodeError, OverflowError, RecursionError):
        return False
    return True


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for at, (key, _) in enumerate(pairs) if any(key == other for other, _ in pairs[:at]))
        raise _Twice(f"the key {twice[:80]} stands twice in it")
    return found


def _constant(name: str) -> Any:
    raise ValueError(name)


def phrases_checked(value: Any) -> list[str]:
    """Features as the schema wants them. Raises ValueError saying what is wrong."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise ValueError("expected a list of features")
    found = []
    for one in value[:MOST_PHRASES]:
        words = re.findall(r"[^\W_]+(?:['-][^\W_]+)*", one.lower())
        if not 2 <= len(words) <= LONGEST:
            raise ValueError(f"{one[:60]!r}: expected two to {LONGEST} words")
        if words[0] in VAGUE:
            raise ValueError(f"{one[:60]!r}: the verb says nothing")
        found.append(" ".join(words))
    return list(dict.fromkeys(found))


def _areas_checked(value: Any) -> list[str]:
    if not isinstance(value, list) or not 2 <= len(value) <= 12:
        raise ValueError("expected three to ten areas")
    found = [_title(one) for one in value]
    if len(set(found)) < len(found):
        raise ValueError("an area stands twice")
    return sorted(found)


def _place_checked(value: Any, areas: list[str]) -> tuple[str, str, str]:
    parts = value.split("/") if isinstance(value, str) else []
    if len(parts) != 3:
        raise ValueError("expected area/category/group")
    area, category, group = (_title(part) for part in parts)
    if area not in areas:
        raise ValueError(f"{area[:40]!r} is none of the areas")
    return area, category, group


def _title(text: Any) -> str:
    words = re.findall(r"[^\W_]+(?:['&-][^\W_]+)*", text.lower()) if isinstance(text, str) else []
    if not 1 <= len(words) <= 6 or len(" ".join(words)) > 60:
        raise ValueError(f"{str(text)[:40]!r}: expected a name of one to four words")
    return " ".join(words)
