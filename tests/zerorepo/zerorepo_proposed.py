"""A scripted model and a tree for the tests of stage A."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tenfold_shared.generate import Completion, Sampling
from zerorepo.generation.ontology import Ontology
from zerorepo.generation.spec import Spec
from zerorepo.graph import Graph

COMMAND = Path(sys.executable).parent / "zerorepo"
SPEC = Spec("table_kit", "Read, filter and write tables", "No servers.", ("sort rows by key",))
GREEDY = Sampling(temperature=0.0, max_tokens=4096)
VERBS = "read write sort filter join plot parse merge".split()
THINGS = "rows columns tables keys files dates prices maps".split()


@cache
def tree() -> Ontology:
    """512 leaves on 4 levels; the name of each stands in two branches."""
    return Ontology.of(
        {
            (top, f"{verb} things", f"about {thing}", f"{verb} {thing}"): 1 + at * (top == "functionality")
            for top in ("functionality", "algorithm")
            for at, verb in enumerate(VERBS)
            for thing in THINGS
        }
        | {("functionality", "more", f"kind {at}", f"filter tables of kind {at % 192}"): 2 for at in range(384)}
    )


def offered(user: str) -> list[str]:
    return re.findall(r"^- (.+)$", user, re.M)


def role_of(user: str) -> str:
    begins = {
        "Name features": "missing", "Of the paths below, which were found": "exploit", "Of the paths below, which were drawn": "explore",
        "Judge the": "check", "Plan the": "modules", "Give each": "place", "These are": "tidy",
    }  # fmt: skip
    return next(role for words, role in begins.items() if user.startswith(words))


def right(role: str, paths: list[str]) -> dict:
    """A usable answer that hangs on nothing but what is offered."""
    if role == "missing":
        return {"features": {"input": ["read csv files", "read rows"], "output": ["write csv files", "read rows"]}}
    if role in ("exploit", "explore"):
        return {"paths": [path for path in paths if re.search(r"filter|sort|read", path.rpartition("/")[2])]}
    if role == "check":
        return {"keep": [path for path in paths if len(path) % 7]}
    if role == "modules":
        return {"modules": [{"name": name, "purpose": f"for {name}", "size": 9} for name in ("Input", "Tables", "Output")]}  # fmt: skip
    if role == "place":
        return {"places": {path: f"{'Input' if 'read' in path else 'Tables'}/{path.split('/')[0]}/{path.split('/')[-1].split()[0]}" for path in paths}}  # fmt: skip
    return {"moves": {}}


class Scripted:
    """A Generator (tenfold_shared.generate) that answers by the role in the key. say: role to a function of (subject,
    try, offered paths) to an object, a text, or None for the usable answer. It keeps what it was asked."""

    model, batch_size, context = "scripted", None, None

    def __init__(self, **say: Callable[[str, int, list[str]], object]) -> None:
        self.say = say
        self.asked: list[tuple[str, str, int, str, str]] = []

    def generate(self, requests, sampling):
        for request in requests:
            role, subject, turn, _ = request.key.split("|")
            system, user = (message["content"] for message in request.messages)
            self.asked.append((role, subject, int(turn), system, user))
            assert role == role_of(user)
            told = self.say.get(role, lambda *_: None)(subject, int(turn), offered(user))
            if told is None:
                told = right(role, offered(user))
            finish = "stop"
            if isinstance(told, tuple):
                told, finish = told
            text = told if isinstance(told, str) else json.dumps(told, ensure_ascii=False)
            yield Completion(request.key, text, finish, len(user) // 4, len(text) // 4, self.model, error=text if finish == "error" else None)  # fmt: skip

    def count_tokens(self, request):
        return None

    def close(self):
        pass

    def subjects(self, role: str) -> list[str]:
        return [subject for one, subject, *_ in self.asked if one == role]


def features(graph: Graph) -> dict[str, str]:
    """Path of each feature to its id."""
    found = {node.doc: node.id for node in graph.nodes if node.kind == "feature"}
    assert len(found) == sum(node.kind == "feature" for node in graph.nodes)
    return found


def words_of(url: str, *more: object) -> list[str]:
    fixed = ["propose", "spec.md", "--ontology", "ontology.jsonl", "--embeddings", "tfidf", "--rounds", "4", "--offer", "50"]  # fmt: skip
    return [str(COMMAND), *fixed, "--model", f"{url}#m" if url.startswith("http") else url, *map(str, more)]


def run(folder: Path, url: str, *more: object, code: int = 0, stdin: str | None = None) -> subprocess.CompletedProcess:
    done = subprocess.run(words_of(url, *more), cwd=folder, capture_output=True, text=True, input=stdin)
    assert done.returncode == code, done.stderr
    return done
