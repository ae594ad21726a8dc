"""`zerorepo propose`, the command: what it writes, kills, budgets, exit codes, dry runs."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from scripted_server import Reply, ScriptedServer, chat
from zerorepo_proposed import COMMAND, GREEDY, SPEC, Scripted, features, offered, right, role_of, run, tree, words_of

from tenfold_shared import BadInput
from zerorepo.generation.asking import Asker
from zerorepo.generation.proposal import Proposal, Settings
from zerorepo.graph import Graph
from zerorepo.validate import problems

# ------------------------------------------------------------ the command


def reply(body: dict) -> Reply:
    user = body["messages"][1]["content"]
    return chat(json.dumps(right(role_of(user), offered(user)), ensure_ascii=False))


def files(folder: Path) -> None:
    (folder / "spec.md").write_text("# Table Kit\n\nRead, filter and write tables.\n\n- sort rows by key\n")
    whole = tree()
    rows = [{"path": whole.path(node), "frequency": int(whole.frequency[node])} for node in range(1, len(whole) + 1)]
    lines = [{"schema": "ontology/1", "levels": whole.levels, "origin": {}}, *rows]
    (folder / "ontology.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_command_writes_a_sound_graph_and_says_what_it_did(tmp_path):
    files(tmp_path)
    with ScriptedServer(reply) as server:
        done = run(tmp_path, server.url, "-o", "p.json", "--json", "--plot", "growth.svg", "--record", "tape.jsonl")
        first = len(server.requests)
        again = run(tmp_path, server.url, "-o", "p.json")
        assert len(server.requests) == first and "complete already" in again.stderr
        other = run(tmp_path, server.url, "-o", "p.json", "--seed", "1", code=2)
        assert "--seed 0, this one has 1" in other.stderr
    told = json.loads(done.stdout)
    graph = Graph.load(tmp_path / "p.json")
    assert problems((tmp_path / "p.json").read_bytes()) == []
    assert told["features"] == told["placed"] == len(features(graph)) > 20
    assert len(told["growth"]) == 4 and told["growth"][-1]["leaves"] == told["features"]
    assert told["answered_by"] == "m"
    assert told["ontology"]["nodes"] == len(tree()) and told["retrieval"].startswith("tfidf")
    manifest = json.loads((tmp_path / "p.json.manifest.json").read_text())
    assert manifest["counts"] == told and manifest["status"] == "done" and len(manifest["inputs"]) == 2
    assert b"<svg" in (tmp_path / "growth.svg").read_bytes()
    taped = run(tmp_path, "replay:tape.jsonl", "-o", "q.json")
    assert "features in" in taped.stderr
    ids = [{node.id for node in Graph.load(tmp_path / name).nodes} for name in ("p.json", "q.json")]
    assert ids[0] == ids[1]


def test_killed_at_any_question_it_goes_on_and_gives_the_same_bytes(tmp_path):
    for name in ("plain", "killed"):
        (tmp_path / name).mkdir()
        files(tmp_path / name)
    with ScriptedServer(reply) as server:
        run(tmp_path / "plain", server.url, "-o", "p.json")
        total = len(server.requests)
    lock, state = threading.Lock(), {"run": 0, "left": 0}

    def guarded(body: dict) -> Reply:
        """Waits until there are answers left to give; one that waits for a client that is dead gives none away."""
        mine = state["run"]
        while True:
            with lock:
                if state["left"] or state["run"] != mine:
                    state["left"] -= state["run"] == mine
                    return reply(body)
            time.sleep(0.02)

    folder = tmp_path / "killed"
    with ScriptedServer(guarded) as server:
        for answers in (3, total // 2, total - 2):
            state["left"] = answers - journalled(folder)
            process = subprocess.Popen(words_of(server.url, "-o", "p.json", "-q"), cwd=folder, stderr=subprocess.DEVNULL)  # fmt: skip
            until = time.monotonic() + 20
            while journalled(folder) < answers and time.monotonic() < until:
                time.sleep(0.02)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            state["run"] += 1
            assert journalled(folder) == answers and not (folder / "p.json").exists()
        torn = folder / ".p.json.journal"
        torn.write_bytes(torn.read_bytes() + b'["half a li')
        kept = journalled(folder)
        state["left"] = total
        had = len(server.requests)
        run(folder, server.url, "-o", "p.json")
        assert len(server.requests) - had == total - kept  # nothing that was answered is asked again
    assert (folder / "p.json").read_bytes() == (tmp_path / "plain" / "p.json").read_bytes()
    assert not torn.exists()


def journalled(folder: Path) -> int:
    """Whole results in the journal."""
    try:
        return max(0, (folder / ".p.json.journal").read_bytes().count(b"\n") - 1)
    except FileNotFoundError:
        return 0


def test_a_budget_saves_what_there_is_and_a_larger_one_goes_on(tmp_path):
    files(tmp_path)
    with ScriptedServer(reply) as server:
        done = run(tmp_path, server.url, "-o", "p.json", "--budget-tokens", "45")
        assert "--budget-tokens" in done.stderr
        assert json.loads((tmp_path / "p.json.manifest.json").read_text())["status"] == "budget"
        assert problems((tmp_path / "p.json").read_bytes()) == []
        asked = len(server.requests)
        assert 4 <= asked <= 8  # 10 tokens a reply
        run(tmp_path, server.url, "-o", "p.json", "--budget-tokens", "100000")
        total = len(server.requests)
        run(tmp_path, server.url, "-o", "q.json")
        assert len(server.requests) - total == total  # without the journal every question is asked
    assert (tmp_path / "p.json").read_bytes() == (tmp_path / "q.json").read_bytes()


def test_exit_codes_and_lists(tmp_path):
    files(tmp_path)

    def lazy(body: dict) -> Reply:
        user = body["messages"][1]["content"]
        if role_of(user) == "place":
            return chat(json.dumps({"places": {path: "Input/a/b" for path in offered(user) if "csv" in path}}))
        return chat("no") if role_of(user) == "tidy" else reply(body)

    with ScriptedServer(lazy) as server:
        done = run(tmp_path, server.url, "-o", "p.json", code=1)
    assert (
        re.search(r"\d+ without a place: ", done.stderr) and "no usable answer: no feature has a place" in done.stderr
    )
    told = json.loads((tmp_path / "p.json.manifest.json").read_text())["counts"]
    assert told["refused"]["tidy tidy"] == "it holds no JSON object" and len(told["unplaced"]) > 5
    assert "Output" in done.stderr and "planned and empty" in done.stderr
    assert run(tmp_path, server.url, "-o", "p.json", code=1).returncode == 1  # complete, and still not all well
    with ScriptedServer(chat("never")) as server:
        done = run(tmp_path, server.url, "-o", "r.json", code=3)
    assert "no feature was chosen in 4 rounds" in done.stderr and not (tmp_path / "r.json").exists()
    none = subprocess.run([COMMAND, "propose", "spec.md", "-o", "s.json"], cwd=tmp_path, capture_output=True, text=True)
    assert none.returncode == 2 and "--model" in none.stderr
    (tmp_path / "spec.md").write_text("# Kit\n\nWords.\n")
    bad = run(tmp_path, "replay:none", "-o", "t.json", code=2)
    assert "spec.md:3:1: purpose" in bad.stderr and not (tmp_path / "t.json").exists()
    assert run(tmp_path, "replay:none", "--plot", "x.pdf", code=2).stderr.count("\n") == 1


def test_one_feature_without_a_place_is_exit_1(tmp_path):
    files(tmp_path)

    def lazy(body: dict) -> Reply:
        user = body["messages"][1]["content"]
        role = role_of(user)
        if role == "missing":
            return chat(json.dumps({"features": {"rows": [f"read rows of kind {at}" for at in range(200)]}}))
        if role == "check":
            return chat(json.dumps({"keep": [path for path in offered(user) if path.startswith("rows/")]}))
        if role == "place":
            return chat(
                json.dumps({"places": {path: "Input/a/b" for path in offered(user) if not path.endswith(" 7")}})
            )
        return reply(body)

    with ScriptedServer(lazy) as server:
        for _ in range(2):
            run(tmp_path, server.url, "-o", "p.json", code=1)
    told = json.loads((tmp_path / "p.json.manifest.json").read_text())["counts"]
    assert told["unplaced"] == ["rows/read rows of kind 7"] and told["utilisation"] == 0.995 and not told["refused"]


def test_a_dry_run_asks_nothing_and_writes_nothing(tmp_path):
    files(tmp_path)
    before = sorted(one.name for one in tmp_path.iterdir())
    done = run(tmp_path, "http://127.0.0.1:9/v1", "--dry-run", "--json", "-o", "p.json")
    told = json.loads(done.stdout)
    assert told["calls_at_least"] == 4 * 4 + 3 and told["prompt_tokens_at_least"] > 1000
    assert told["first"][1]["content"].startswith("Name features") and told["ontology"]["nodes"] == len(tree())
    assert "19 questions" in run(tmp_path, "http://127.0.0.1:9/v1", "--dry-run").stdout
    assert sorted(one.name for one in tmp_path.iterdir()) == before


def test_a_specification_of_stdin(tmp_path):
    files(tmp_path)
    text = (tmp_path / "spec.md").read_text()
    with ScriptedServer(reply) as server:
        words = [COMMAND, "propose", "-", "--rounds", "1", "--model", f"{server.url}#m"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, input=text, check=True)
    graph = Graph.loads(done.stdout.encode())
    assert graph.by_id["."].name == "table_kit" and "simple: no ontology" in done.stderr


def test_settings_out_of_range():
    with pytest.raises(BadInput, match="conditions"):
        Proposal(SPEC, tree(), Asker(Scripted(), GREEDY), Settings(conditions=()))
