"""Semantic lifting against a server that answers as a script says: what is asked, what is kept, what is dropped."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_server import Reply, ScriptedServer, chat

from zerorepo import Graph, WorkTree, encode
from zerorepo.lift import attach, extract, grounded, overlay_of, phrases_checked, structural

COMMAND = Path(sys.executable).parent / "zerorepo"
FILES = {
    "tools/_.py": "",  # whose name says nothing: it has a place all the same
    "shop/__init__.py": "",
    "shop/cart.py": 'class Cart:\n    """Holds items."""\n\n    def add(self, item):\n        self.items.append(item)\n\n'
    "    def total(self):\n        return sum(price(item) for item in self.items)\n\n\ndef price(item):\n    return item.cost\n",
    "shop/mail.py": "def send(address, text):\n    return connect(address).write(text)\n\n\ndef connect(address):\n    return address\n",
    "tools/report.py": "from shop.cart import Cart\n\n\ndef monthly():\n    return Cart().total()\n",
}


def repository(folder: Path) -> Path:
    for path, text in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def asked_units(prompt: str) -> list[str]:
    return re.findall(r"^## (\S+)$", prompt, re.M)


def asked_files(prompt: str) -> list[str]:
    return re.findall(r"^- (\S+\.py):", prompt, re.M)


def stage(prompt: str) -> str:
    for word, name in (("what parts of", "units"), ("summarise", "files"), ("divide", "areas"), ("assign", "places")):
        if word in prompt[:200]:
            return name
    raise AssertionError(prompt[:300])


def answer(prompt: str) -> dict:
    """A right answer to any of the four kinds of request."""
    if (kind := stage(prompt)) == "units":
        return {
            unit: [f"do something with {unit.rpartition('.')[2].rpartition(':')[2]}"] for unit in asked_units(prompt)
        } and {unit: [f"compute the {re.split('[.:]', unit)[-1].lower()} of things"] for unit in asked_units(prompt)}
    if kind == "files":
        return {path: [f"provide {Path(path).stem} features"] for path in asked_files(prompt)}
    if kind == "areas":
        return {"areas": ["Sales", "Messaging"]}
    return {
        path: f"{'Messaging' if 'mail' in path else 'Sales'}/core/{Path(path).stem.strip('_')}"
        for path in asked_files(prompt)
    }


def prompt_of(body: dict) -> str:
    return body["messages"][0]["content"]


def right(body: dict) -> Reply:
    return chat(json.dumps(answer(prompt_of(body))))


def run(*words: object, cwd: Path, code: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run([COMMAND, *map(str, words)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done


def lift(server: ScriptedServer, tmp_path: Path, *more: object, code: int = 0) -> subprocess.CompletedProcess:
    return run("encode", "repo", "-o", "rpg.json", "--model", f"{server.url}#m", *more, cwd=tmp_path, code=code)


def test_every_unit_is_described_and_every_file_has_a_place(tmp_path):
    repository(tmp_path / "repo")
    with ScriptedServer(right) as server:
        lift(server, tmp_path)
    graph = Graph.load(tmp_path / "rpg.json")
    assert graph.by_id["shop/cart.py:Cart.total"].features == ["compute the total of things"]
    assert (
        graph.by_id["shop/cart.py:Cart.total"].provenance.startswith("http")
        or " " in graph.by_id["shop/cart.py:Cart.total"].provenance
    )
    assert graph.by_id["shop/mail.py"].features == ["provide mail features"]
    assert {node.name for node in graph.nodes if node.kind == "area"} == {"sales", "messaging"}
    units = {node.id for node in graph.nodes if node.kind in ("class", "function", "method")}
    mapped = [f"{node.path}:{node.qualname}" for node in graph.nodes if node.kind == "feature" and node.qualname]
    assert sorted(mapped) == sorted(units)  # every leaf one unit, every unit one leaf
    assert graph.by_id["#messaging"].scopes == ["shop"] and graph.by_id["#sales"].scopes == ["shop", "tools"]
    assert run("validate", "rpg.json", cwd=tmp_path).returncode == 0


def test_what_a_model_added_comes_off_again(tmp_path):
    repo = repository(tmp_path / "repo")
    with ScriptedServer(right) as server:
        lift(server, tmp_path)
    plain, graph = encode(WorkTree(repo)), Graph.load(tmp_path / "rpg.json")
    assert structural(graph).dumps() == plain.dumps()
    assert attach(plain, overlay_of(graph)).dumps() == graph.dumps()


def test_an_update_asks_only_about_what_changed(tmp_path):
    repo = repository(tmp_path / "repo")
    with ScriptedServer(right) as server:
        lift(server, tmp_path)
        before = Graph.load(tmp_path / "rpg.json")
        (repo / "shop/mail.py").write_text(FILES["shop/mail.py"] + "\n\ndef close(line):\n    line.end()\n")
        server.requests.clear()
        run("update", "rpg.json", "--model", f"{server.url}#m", cwd=tmp_path)
        asked = [
            unit
            for got in server.requests
            for unit in asked_units(prompt_of(got.body))
            if stage(prompt_of(got.body)) == "units"
        ]
    assert asked == ["shop/mail.py:close"]
    after = Graph.load(tmp_path / "rpg.json")
    assert after.by_id["shop/mail.py:close"].features == ["compute the close of things"]
    assert after.by_id["shop/cart.py:price"] == before.by_id["shop/cart.py:price"]
    assert run("validate", "rpg.json", cwd=tmp_path).returncode == 0
    assert run("update", "rpg.json", "--check", cwd=tmp_path).returncode == 0


def test_an_update_without_a_model_keeps_what_still_holds_and_says_what_does_not(tmp_path):
    repo = repository(tmp_path / "repo")
    with ScriptedServer(right) as server:
        lift(server, tmp_path)
    (repo / "shop/mail.py").write_text(FILES["shop/mail.py"].replace("write(text)", "write(text, 1)"))
    (repo / "shop/new.py").write_text("def fresh():\n    return 1\n")
    (repo / "tools/report.py").unlink()
    done = run("update", "rpg.json", cwd=tmp_path)
    assert "2 units changed and go by their names" in done.stderr and "shop/new.py" in done.stderr
    graph = Graph.load(tmp_path / "rpg.json")
    assert graph.by_id["shop/mail.py:connect"].features == ["compute the connect of things"]
    assert graph.by_id["shop/mail.py:send"].features == ["send"]
    assert not any("report" in node.id for node in graph.nodes)
    assert run("validate", "rpg.json", cwd=tmp_path).returncode == 0


def test_what_is_wrong_in_an_answer_is_asked_for_again_and_what_was_not_asked_for_is_dropped(tmp_path):
    repository(tmp_path / "repo")
    tries: dict[str, int] = {}

    def faulty(body: dict) -> Reply:
        prompt = prompt_of(body)
        kind = stage(prompt)
        tries[kind] = tries.get(kind, 0) + 1
        told = answer(prompt)
        if kind == "units" and tries[kind] == 1:
            told.pop("shop/cart.py:price")
            told["shop/cart.py:Cart.add"] = ["handle"]
            told["shop/ghost.py:never"] = ["compute nothing at all"]
            return chat('<think>{"a": 1}</think>Sure! Here it is:\n```json\n' + json.dumps(told) + "\n```\nGood luck.")
        if kind == "places" and tries[kind] == 1:
            told["shop/mail.py"] = "Weather/core/mail"
        return chat(json.dumps(told))

    with ScriptedServer(faulty) as server:
        done = lift(server, tmp_path)
        again = [prompt_of(got.body) for got in server.requests if stage(prompt_of(got.body)) == "units"][1]
    assert sorted(asked_units(again)) == ["shop/cart.py:Cart.add", "shop/cart.py:price"]
    assert "it is missing from the answer" in again and "'handle'" in again
    assert "1 answers for things that were not asked about: dropped" in done.stderr
    graph = Graph.load(tmp_path / "rpg.json")
    assert graph.by_id["shop/cart.py:price"].features == ["compute the price of things"]
    assert "#messaging/core/mail" in graph.by_id and "#weather" not in graph.by_id


def test_a_cut_answer_is_never_taken_for_a_whole(tmp_path):
    repository(tmp_path / "repo")

    def cut(body: dict) -> Reply:
        prompt = prompt_of(body)
        if stage(prompt) == "units" and len(asked_units(prompt)) > 2:
            return chat(json.dumps(answer(prompt))[:60], finish="length")
        return chat(json.dumps(answer(prompt)))

    with ScriptedServer(cut) as server:
        lift(server, tmp_path)
        sizes = [
            len(asked_units(prompt_of(got.body))) for got in server.requests if stage(prompt_of(got.body)) == "units"
        ]
    assert sizes[0] == 7 and max(sizes[1:]) <= 4
    assert all(n.features == [f"compute the {n.name.lower()} of things"] for n in Graph.load(tmp_path / "rpg.json").nodes if n.kind in ("function", "method"))  # fmt: skip


def test_an_item_without_a_usable_answer_keeps_its_name_and_is_reported(tmp_path):
    repository(tmp_path / "repo")

    def mute(body: dict) -> Reply:
        told = answer(prompt_of(body))
        told.pop("shop/mail.py:send", None)
        return chat(json.dumps(told))

    with ScriptedServer(mute) as server:
        done = lift(server, tmp_path)
    assert "shop/mail.py:send: no usable answer in 3 tries" in done.stderr
    graph = Graph.load(tmp_path / "rpg.json")
    assert (
        graph.by_id["shop/mail.py:send"].features == ["send"] and graph.by_id["shop/mail.py:send"].provenance == "name"
    )


def test_a_killed_run_does_not_ask_again(tmp_path):
    repository(tmp_path / "repo")
    held = threading.Event()

    def slow(body: dict) -> Reply:
        reply = right(body)
        if stage(prompt_of(body)) == "places":
            reply.hold = held
        return reply

    with ScriptedServer(slow) as server:
        words = [COMMAND, "encode", "repo", "-o", "rpg.json", "--model", f"{server.url}#m", "--request-tokens", "200"]
        process = subprocess.Popen(list(map(str, words)), cwd=tmp_path, stderr=subprocess.DEVNULL)
        for _ in range(300):
            if any(stage(prompt_of(got.body)) == "places" for got in server.requests if got.body):
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "rpg.json").exists()
        server.requests.clear()
        held.set()
        lift(server, tmp_path, "--request-tokens", 200)
        assert {stage(prompt_of(got.body)) for got in server.requests} == {"places"}
    with ScriptedServer(right) as server:
        os.rename(tmp_path / "rpg.json", tmp_path / "first.json")
        lift(server, tmp_path, "--request-tokens", 200)

    def bare(name):  # the server's address is part of the model's name
        return re.sub(rb'"provenance":"[^"]*"', b"", (tmp_path / name).read_bytes())

    assert bare("first.json") == bare("rpg.json")


def test_a_recording_gives_the_same_graph_without_the_server(tmp_path):
    repository(tmp_path / "repo")
    with ScriptedServer(right) as server:
        lift(server, tmp_path, "--record", "tape.jsonl")
    run("encode", "repo", "-o", "again.json", "--model", "replay:tape.jsonl", cwd=tmp_path)
    features = [{n.id: n.features for n in Graph.load(tmp_path / name).nodes} for name in ("rpg.json", "again.json")]
    assert features[0] == features[1] and any(id.startswith("#") for id in features[1])


@pytest.mark.parametrize(
    ("text", "keys", "told"),
    [
        ('{"a": 1, "a": 2}', [], "stands twice"),
        ('{"a": [1, 2', [], "not whole"),
        ('{"a": NaN}', [], "not whole"),
        ("no idea", [], "no JSON object"),
        ('{"x": 1} and then {"a": 2, "b": 3}', ["a", "b"], ""),
        ('<think>{"a": 9, "b": 9}</think>{"a": 1}', ["a"], ""),
        ("{" * 5000, [], "not whole"),
    ],
)
def test_extract(text, keys, told):
    found, problem = extract(text, ["a", "b"])
    assert sorted(found) == keys and told in problem


def test_phrases_are_checked():
    assert phrases_checked(["Merge cookies, into the jar!", "merge cookies into the jar"]) == [
        "merge cookies into the jar"
    ]
    for wrong in ([], ["one"], ["a b c d e f g h i"], ["handle the request"], [3], None):
        with pytest.raises(ValueError):
            phrases_checked(wrong)


def brute_force_grounding(folders: set[str]) -> list[str]:
    """By the definition: of every prefix that ends a path or where paths part, the topmost ones."""
    if "" in folders:
        return ["."]
    prefixes = {"/".join(f.split("/")[:n]) for f in folders for n in range(1, f.count("/") + 2)}
    kept = {
        p for p in prefixes
        if p in folders or len({f[len(p) + 1 :].split("/")[0] for f in folders if f.startswith(p + "/")}) > 1
    }  # fmt: skip
    return sorted(p for p in kept if not any(p.startswith(q + "/") for q in kept))


@given(st.sets(st.lists(st.sampled_from("abc"), max_size=4).map("/".join), min_size=1, max_size=8))
@settings(max_examples=300, deadline=None)
def test_grounding_equals_its_definition(folders):
    assert grounded(folders) == brute_force_grounding(folders)
