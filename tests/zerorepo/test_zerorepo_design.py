"""The verb `design` as a user runs it: exit codes, dry run, budget, resuming after a kill, against a scripted server."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from scripted_server import Reply, ScriptedServer, chat
from zerorepo_designs import LEAVES, flow, proposal, right, role_of

from zerorepo import Graph

COMMAND = Path(sys.executable).parent / "zerorepo"
IDS = {"#" + leaf for leaf in LEAVES}


def run(*words: object, cwd: Path, code: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run([COMMAND, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done


def prompt_of(body: dict) -> str:
    return body["messages"][1]["content"]


def answered(change=lambda role, subject, user: None):
    """A reply function; change gives another answer than the right one, or None."""

    def reply(body: dict) -> Reply:
        user = prompt_of(body)
        role, subject = role_of(user)
        value = change(role, subject, user)
        return chat(json.dumps(right(role, subject, 0, user) if value is None else value))

    return reply


def design(server: ScriptedServer, cwd: Path, *more: object, code: int = 0, output: str = "out"):
    proposal().save(cwd / "proposed.json")
    return run(
        "design",
        "proposed.json",
        "--model",
        f"{server.url}#m",
        "-o",
        output,
        "--concurrency",
        1,
        *more,
        cwd=cwd,
        code=code,
    )


def written(folder: Path) -> dict[str, bytes]:
    return {str(one.relative_to(folder)): one.read_bytes() for one in sorted(folder.rglob("*")) if one.is_file() and one.name != "manifest.json"}  # fmt: skip


def test_a_design_is_written_whole_and_once(tmp_path):
    with ScriptedServer(answered()) as server:
        done = design(server, tmp_path, "--json")
        calls = len(server.requests)
        told = json.loads(done.stdout)
        assert told["covered"] == told["features"] == 7 and told["uncovered"] == [] and told["status"] == "done"
        assert told["answered_by"] == "m" and told["calls"] == calls and told["stubs"] == 7
        assert "7 of 7 features have an interface" in done.stderr and "answers: m" in done.stderr
        manifest = json.loads((tmp_path / "out/manifest.json").read_bytes())
        assert (
            manifest["verb"] == "design"
            and manifest["counts"]["answered_by"] == "m"
            and manifest["inputs"][0]["sha256"]
        )
        before = written(tmp_path / "out")
        again = design(server, tmp_path, "--json")
        assert "complete already; nothing to do" in again.stderr and json.loads(again.stdout)["covered"] == 7
        assert len(server.requests) == calls and written(tmp_path / "out") == before
        assert "seed" in design(server, tmp_path, "--seed", 1, code=2).stderr
        assert len(server.requests) == calls
    assert {"rpg.json", "README.md", "pyproject.toml", "shop/cart/items.py"} <= before.keys()
    run("validate", "out/rpg.json", "--root", "out", cwd=tmp_path)
    graph = Graph.load(tmp_path / "out/rpg.json")
    assert {node.id for node in graph.nodes if node.kind == "feature" and node.status == "designed"} == IDS
    assert not [one for one in tmp_path.iterdir() if one.name.startswith(".")]


def test_features_without_an_interface_are_named_and_exit_1(tmp_path):
    lost = answered(
        lambda role, subject, user: (
            {"interfaces": []} if subject == "shop/mail/text.py" and role == "interfaces" else None
        )
    )
    with ScriptedServer(lost) as server:
        done = design(server, tmp_path, "--json", code=1)
        told = json.loads(done.stdout)
        assert told["uncovered"] == ["#mail/text/letters/sign letter", "#mail/text/letters/write letter"]
        assert "zerorepo: #mail/text/letters/sign letter: no interface" in done.stderr
        assert "interfaces shop/mail/text.py: no usable answer in 3 tries" in done.stderr
        design(server, tmp_path, code=1)  # a finished one says the same
    graph = Graph.load(tmp_path / "out/rpg.json")
    assert {node.id for node in graph.nodes if node.status == "failed"} == set(told["uncovered"])
    run("validate", "out/rpg.json", "--root", "out", cwd=tmp_path)


def test_a_circle_is_refused_and_the_same_answers_serve_when_it_may_be_cut(tmp_path):
    circle = answered(lambda role, subject, user: {"flow": flow(("store", "cart"), ("cart", "mail"), ("mail", "store"))} if role == "flow" else None)  # fmt: skip
    with ScriptedServer(circle) as server:
        done = design(server, tmp_path, code=1)
        assert "store -> cart -> mail -> store, by the edges 0, 1, 2; --break-cycles" in done.stderr
        assert not (tmp_path / "out").exists()
        calls = len(server.requests)
        done = design(server, tmp_path, "--break-cycles", "--json")
        flows = [
            1 for got in server.requests[calls:] if role_of(prompt_of(got.body))[0] in ("folders", "files", "flow")
        ]
        assert not flows  # they are in the journal
        assert "dropped to break a circle: #mail -data_flow-> #store" in done.stderr
        assert json.loads(done.stdout)["dropped"][0]["data_id"] == "mail rows"
        assert "--break-cycles" in design(server, tmp_path, code=2).stderr
    assert json.loads((tmp_path / "out/manifest.json").read_bytes())["counts"]["dropped"]
    run("validate", "out/rpg.json", cwd=tmp_path)


def test_a_hostile_answer_leaves_the_host_as_it_was(tmp_path):
    work = tmp_path / "work"
    work.mkdir()

    def change(role, subject, user):
        if role == "files" and subject == "#cart":
            paths = ["../../evil.py", "/tmp/zerorepo-evil.py", ".git/hooks/x"]
            return {"files": dict(zip((leaf.partition("/")[2] for leaf in LEAVES[:3]), paths, strict=True))}
        if role == "interfaces":
            return {"interfaces": [{"features": [leaf for leaf in LEAVES if leaf in user], "code": f'import os\n\nX = os.system("touch {tmp_path}/ran")\n\n\ndef f():\n    """F."""\n    os.system("touch {tmp_path}/ran")\n'}]}  # fmt: skip
        return None

    with ScriptedServer(answered(change)) as server:
        design(server, work, code=1)
    assert [one.name for one in tmp_path.iterdir()] == ["work"]
    assert sorted(one.name for one in work.iterdir()) == ["out", "proposed.json"]
    assert not Path("/tmp/zerorepo-evil.py").exists() and not (work / "out/.git").exists()


def test_a_budget_ends_it_in_order_and_a_larger_one_goes_on(tmp_path):
    with ScriptedServer(answered()) as server:
        done = design(server, tmp_path, "--budget-tokens", 75)  # ten a call
        calls = len(server.requests)
        assert calls == 8 and "the budget is spent, a larger one goes on" in done.stderr
        assert json.loads((tmp_path / "out/manifest.json").read_bytes())["status"] == "budget"
        assert run("validate", "out/rpg.json", cwd=tmp_path)
        design(server, tmp_path, "--budget-tokens", 100_000)
        part, whole = len(server.requests), written(tmp_path / "out")
        design(server, tmp_path, output="other")
        assert part == len(server.requests) - part  # nothing was asked twice
    assert written(tmp_path / "other") == whole


@pytest.mark.parametrize("after", [1, 4, 7, 10, 13])
def test_a_kill_loses_nothing_and_changes_nothing(tmp_path, after):
    held = threading.Event()
    count = [0]
    answer = answered()

    def slow(body: dict) -> Reply:
        count[0] += 1
        reply = answer(body)
        if count[0] == after + 1 and not held.is_set():
            reply.hold = held
        return reply

    proposal().save(tmp_path / "proposed.json")
    with ScriptedServer(slow) as server:
        words = ["design", "proposed.json", "--model", f"{server.url}#m", "-o", "out", "--concurrency", "1"]
        process = subprocess.Popen([COMMAND, *words], cwd=tmp_path, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while count[0] <= after and time.monotonic() < deadline:
            time.sleep(0.01)
        assert count[0] == after + 1
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        held.set()
        assert not (tmp_path / "out").exists()
        asked = len(server.requests)
        run(*words, cwd=tmp_path)
        first = len(server.requests)
        words[words.index("out")] = "calm"
        run(*words, cwd=tmp_path)
        whole = len(server.requests) - first
    assert first - asked == whole - after  # only what no answer had come for
    assert written(tmp_path / "out") == written(tmp_path / "calm")


def test_a_dry_run_asks_and_writes_nothing(tmp_path):
    proposal().save(tmp_path / "proposed.json")
    told = run("design", "proposed.json", "--dry-run", cwd=tmp_path).stdout
    assert (
        "calls: at least 9" in told
        and "files: at least 3 calls" in told
        and "- cart" in told
        and "Keep a small shop" in told
    )
    found = json.loads(run("design", "proposed.json", "--dry-run", "--json", cwd=tmp_path).stdout)
    with ScriptedServer(answered()) as server:
        design(server, tmp_path, "-q")
        sizes = {"folders": 0, "flow": 0}
        for got in server.requests:
            role = role_of(prompt_of(got.body))[0]
            if role in sizes:
                sizes[role] += sum(len(one["content"]) for one in got.body["messages"])
        assert len(server.requests) >= found["calls_at_least"] == 9
    for role, size in sizes.items():
        assert found["roles"][role]["prompt_tokens"] == size // 4
    assert sum(one["prompt_tokens"] for one in found["roles"].values()) == found["prompt_tokens_at_least"]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out", "proposed.json"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "not JSON"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'{"schema":"rpg/2","edges":[],"nodes":[]}', "expected rpg/1"),
        (b'{"schema":"rpg/1","edges":[],"nodes":[],"more":1}', "unknown-field"),
        (b'{"schema":"rpg/1","edges":[],"nodes":[{"id":".","kind":"repo"}]}', "no feature below an area"),
    ],
)
def test_what_is_no_proposal_is_exit_2(tmp_path, data, told):
    (tmp_path / "bad.json").write_bytes(data)
    done = run("design", "bad.json", "--model", "http://127.0.0.1:9/v1#m", "-o", "out", cwd=tmp_path, code=2)
    assert told in done.stderr and done.stderr.count("\n") == 1 and not (tmp_path / "out").exists()


def test_what_is_missing_is_said(tmp_path):
    proposal().save(tmp_path / "proposed.json")
    assert "no such file" in run("design", "nothing.json", "--model", "x", "-o", "out", cwd=tmp_path, code=2).stderr
    assert "--model" in run("design", "proposed.json", "-o", "out", cwd=tmp_path, code=2).stderr
    assert "-o DIR" in run("design", "proposed.json", "--model", "http://127.0.0.1:9/v1#m", cwd=tmp_path, code=2).stderr
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    assert "holds things" in run("design", "proposed.json", "--model", "http://127.0.0.1:9/v1#m", "-o", "full", cwd=tmp_path, code=2).stderr  # fmt: skip
    assert (tmp_path / "full/mine.txt").read_text() == "mine"


def test_a_proposal_that_was_edited_by_hand_is_read(tmp_path):
    text = json.dumps(json.loads(proposal().dumps()), indent=2)
    (tmp_path / "edited.json").write_text(text)
    assert "calls: at least" in run("design", "edited.json", "--dry-run", cwd=tmp_path).stdout


def test_no_secret_reaches_the_journal_or_the_manifest(tmp_path):
    secret = "sk-" + "a1B2" * 8
    proposal(doc=f"Keep a shop with {secret}.").save(tmp_path / "proposed.json")
    with ScriptedServer(answered(lambda role, subject, user: "no" if role == "flow" else None)) as server:
        run("design", "proposed.json", "--model", f"{server.url}#m", "-o", "out", cwd=tmp_path, code=1)
        assert not any(secret in json.dumps(got.body) for got in server.requests)
    assert secret.encode() not in (tmp_path / ".out.journal").read_bytes()
