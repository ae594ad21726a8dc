"""Proposals, and a scripted model that designs what they ask for: `right` answers every role of stage B from its prompt.

A test changes single answers: `Scripted(lambda role, subject, turn, user: ...)` gives a value, a text, or None for the
right answer.
"""

import itertools
import json
import re
from collections import Counter

from tenfold_shared.generate import Completion, Sampling
from zerorepo.generation.asking import Asker
from zerorepo.generation.implementation import Settings, design
from zerorepo.graph import Edge, Graph, Node

LEAVES = (
    "cart/items/change/add item",
    "cart/items/change/remove item",
    "cart/price/sums/total price",
    "mail/text/letters/write letter",
    "mail/text/letters/sign letter",
    "store/disk/rows/load rows",
    "store/disk/rows/save rows",
)
OFFERED = re.compile(r"^- (.+)$", re.MULTILINE)
FLOW = (("store", "cart"), ("cart", "mail"))


def proposal(leaves=LEAVES, name="shop", doc="Keep a small shop: carts, prices and mail.") -> Graph:
    nodes, edges, seen = [Node(id=".", kind="repo", name=name, doc=doc, path=".")], [], set()
    for leaf in leaves:
        parts = leaf.split("/")
        above = "."
        for at, part in enumerate(parts):
            kind = "feature" if at == len(parts) - 1 else ("area", "category", "group")[min(at, 2)]
            mine = "#" + "/".join(parts[: at + 1])
            if mine not in seen:
                seen.add(mine)
                nodes.append(Node(id=mine, kind=kind, name=part, status="proposed", provenance="m k"))
                edges.append(Edge(src=above, dst=mine, type="contains"))
            above = mine
    return Graph(nodes, edges)


def word(text: str) -> str:
    return re.sub(r"\W+", "_", text).strip("_").lower()


def stub(leaf: str, more: str = "") -> str:
    name = leaf.rpartition("/")[2]
    return f'{more}def {word(name)}(value: int) -> int:\n    """{name.capitalize()}.\n\n    Gives what it was given."""\n    return value\n'


def flow(*pairs):
    return [
        {"source": a, "target": b, "data_id": f"{a} rows", "data_type": "list[int]", "transformation": "read"}
        for a, b in pairs
    ]


def right(role: str, subject: str, turn: int, user: str, top: str = "shop"):
    offered = OFFERED.findall(user)
    if role == "folders":
        return {"folders": {top: {word(area): [area] for area in offered}, "docs": []}}
    if role == "files":
        area = subject[1:]
        return {"files": {leaf: f"{top}/{word(area)}/{word(leaf.split('/')[0])}.py" for leaf in offered}}
    if role == "flow":
        pairs = [pair for pair in FLOW if set(pair) <= set(offered)] or list(itertools.pairwise(offered))
        return {"flow": flow(*pairs)}
    if role == "bases":
        return {"bases": []}
    if role == "order":
        return {"order": offered}
    if role == "interfaces":
        return {"interfaces": [{"features": [leaf], "code": stub(leaf)} for leaf in offered]}
    assert role == "tasks", role
    return {"batches": [[key] for key in offered]}


class Scripted:
    """A Generator. asked: (role, subject, turn) of each request, in order; prompts: their user messages."""

    model, batch_size, context = "scripted", None, None

    def __init__(self, change=lambda role, subject, turn, user: None):
        self.change, self.asked, self.prompts, self.systems, self.count = change, [], [], set(), Counter()

    def answer(self, key: str, messages: list) -> str:
        role, subject, turn, _ = key.split("|")
        user = messages[1]["content"]
        self.asked.append((role, subject, int(turn)))
        self.prompts.append(user)
        self.systems.add(messages[0]["content"])
        self.count[role] += 1
        value = self.change(role, subject, int(turn), user)
        value = right(role, subject, int(turn), user) if value is None else value
        return value if isinstance(value, str) else json.dumps(value)

    def generate(self, requests, sampling):
        for request in requests:
            if request is not None:
                text = self.answer(request.key, request.messages)
                yield Completion(request.key, text, "stop", 10, 5, self.model)

    def count_tokens(self, request):
        return 10

    def close(self):
        pass


def made(change=lambda *_: None, graph=None, budget=None, **settings):
    """(skeleton, the model that was asked)"""
    model = Scripted(change)
    asker = Asker(model, Sampling(max_tokens=500), 0, None, budget)
    return design(graph or proposal(), asker, Settings(**settings)), model


BEGINS = {
    "Lay out": "folders", "Give every": "files", "Say what data": "flow", "Say which classes": "bases", "Put the files": "order",
    "Write the interfaces": "interfaces", "Divide the units": "tasks",
}  # fmt: skip


def role_of(user: str) -> tuple[str, str]:
    """(role, subject) of a prompt, for a server, which is not told the key."""
    role = next(role for begin, role in BEGINS.items() if user.startswith(begin))
    area = re.search(r"of the area (.+?) (?:that have no file|in the order)", user)
    file = re.search(r"^# The file (\S+) of the area|^The file (\S+):$", user, re.MULTILINE)
    return role, f"#{area[1]}" if area else (file[1] or file[2]) if file else role
