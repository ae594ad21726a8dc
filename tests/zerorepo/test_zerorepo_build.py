"""`zerorepo build` through its command: an oracle, faults, kills, replays, failures, and code that means harm."""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scripted_server import Reply, ScriptedServer, chat
from zerorepo_skeletons import TALLYBOOK, skeleton, suite, tallybook

from zerorepo import Graph
from zerorepo.generation.asking import clean
from zerorepo.generation.folder import Folder
from zerorepo.generation.skeleton import stubs_of
from zerorepo.validate import problems

COMMAND = Path(sys.executable).parent / "zerorepo"
ORACLE = f"oracle:{TALLYBOOK}"
LEAVES = 15


def zerorepo(*words, **more):
    return subprocess.run([COMMAND, *map(str, words)], capture_output=True, text=True, timeout=170, **more)


def git(folder, *words):
    return subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, check=True).stdout


def head(folder):
    return git(folder, "rev-parse", "HEAD").strip()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The example, built once by the oracle with a recording."""
    folder = tmp_path_factory.mktemp("built")
    skeleton(folder / "skeleton")
    done = zerorepo(
        "build",
        folder / "skeleton",
        "--model",
        ORACLE,
        "-o",
        folder / "out",
        "--json",
        "--record",
        folder / "record.jsonl",
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def test_an_oracle_builds_everything_it_hides(built):
    folder, done = built
    told = json.loads(done.stdout)
    assert (told["leaves"], told["done"], told["failed"], told["pending"]) == (LEAVES, LEAVES, {}, [])
    assert told["tries"] == {"1": LEAVES}
    for path, text in tallybook().items():
        assert (folder / "out" / path).read_text() == text
    ran = suite(folder / "out")
    assert ran.returncode == 0, ran.stdout


def test_a_commit_a_verified_leaf_in_topological_order(built):
    folder, _ = built
    log = git(folder / "out", "log", "--reverse", "--format=%s").splitlines()
    assert log[0] == f"Skeleton: {LEAVES} leaves to build" and log[-1] == "Graph of what was built"
    leaves = [line for line in log if ":" in line and "integration" not in line and line != log[0]]
    assert len(leaves) == LEAVES == len(set(leaves))
    plan = json.loads(zerorepo("plan", folder / "skeleton").stdout)
    assert leaves == [task["id"] for task in plan["tasks"] if not task["id"].startswith("integration:")]
    assert sum("integration test" in line for line in log) == 3
    assert leaves.index("tallybook/accounts/balances.py:balances") < leaves.index(
        "tallybook/reports/table.py:balance_table"
    )
    assert git(folder / "out", "status", "--porcelain") == ""


def test_each_commit_holds_its_leaf_and_its_test_and_nothing_else(built):
    folder, _ = built
    for commit in git(folder / "out", "log", "--format=%H %s").splitlines():
        name, _, subject = commit.partition(" ")
        if ".py:" in subject:
            path, _, qualname = subject.partition(":")
            changed = git(folder / "out", "show", "--format=", "--name-only", name).split()
            test = f"tests/units/test_{'__'.join([*path.removesuffix('.py').split('/'), '', *qualname.split('.')])}.py"
            assert sorted(changed) == sorted([path, test])
            assert "raise NotImplementedError" in git(folder / "out", "show", f"{name}^:{path}")


def test_what_is_no_model_is_named_so_in_every_output(built):
    folder, done = built
    words = "no model: it reads a hidden repository"
    assert words in done.stderr and words in json.loads(done.stdout)["answered_by"]
    assert words in (folder / "out" / "manifest.json").read_text()
    bodies = git(folder / "out", "log", "--format=%b%x00").split("\0")
    told = [body for body in bodies if "Tries:" in body]
    assert len(told) == LEAVES + 3 and all(words in body for body in told)
    assert words in zerorepo("status", folder / "out").stdout


def test_the_graph_of_what_was_built_is_sound_and_done(built):
    folder, _ = built
    data = (folder / "out" / "rpg.json").read_bytes()
    assert problems(data, folder / "out") == []
    graph = Graph.loads(data)
    assert {node.status for node in graph.nodes if node.kind in ("function", "method", "feature")} == {"done"}
    assert {edge.type for edge in graph.edges} >= {"contains", "data_flow", "invokes", "tests"}


def test_the_same_command_again_does_nothing(built):
    folder, _ = built
    before = head(folder / "out")
    done = zerorepo("build", folder / "skeleton", "--model", ORACLE, "-o", folder / "out")
    assert done.returncode == 0 and "nothing to do" in done.stderr and head(folder / "out") == before


def test_another_command_does_not_take_the_place_of_an_output(built):
    folder, _ = built
    done = zerorepo("build", folder / "skeleton", "--model", ORACLE, "-o", folder / "out", "--seed", 3)
    assert done.returncode == 2 and "--seed 0, this one has 3" in done.stderr


def test_a_recording_gives_the_same_commits(built, tmp_path):
    folder, _ = built
    done = zerorepo(
        "build", folder / "skeleton", "--model", f"replay:{folder / 'record.jsonl'}", "-o", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    assert head(tmp_path / "out") == head(folder / "out")
    assert "no model: it reads a hidden repository" in done.stderr  # as recorded


def test_what_was_not_recorded_is_missing(built, tmp_path):
    folder, _ = built
    lines = (folder / "record.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "short.jsonl").write_text("".join(lines[:5]))
    done = zerorepo(
        "build", folder / "skeleton", "--model", f"replay:{tmp_path / 'short.jsonl'}", "-o", tmp_path / "out"
    )
    assert done.returncode == 3 and "not recorded" in done.stderr and not (tmp_path / "out").exists()


@pytest.mark.parametrize("more", [["--workers", "1", "--concurrency", "1"], ["--workers", "4", "--concurrency", "3"]])
def test_the_number_of_workers_changes_nothing(built, tmp_path, more):
    folder, _ = built
    assert (
        zerorepo("build", folder / "skeleton", "--model", ORACLE, "-o", tmp_path / "out", "-q", *more).returncode == 0
    )
    assert head(tmp_path / "out") == head(folder / "out")


@pytest.mark.deep
def test_ray_tasks_come_to_the_same(built, tmp_path):
    folder, _ = built
    done = zerorepo(
        "build", folder / "skeleton", "--model", ORACLE, "-o", tmp_path / "out", "--ray", "local", "--workers", 2
    )
    assert done.returncode == 0, done.stderr
    assert head(tmp_path / "out") == head(folder / "out")


# ---------------------------------------------------------------- kills


def killed_until_done(words, draw, longest=3.0):
    """Run the command, kill -9 it after a random while, and so on until it ends by itself; how often it was killed."""
    kills = 0
    while True:
        process = subprocess.Popen(
            [COMMAND, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            _, err = process.communicate(timeout=draw.uniform(0.3, longest) if kills < 8 else 120)
            return kills, process.returncode, err
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1


def test_killed_anywhere_it_comes_to_the_same_tree(built, tmp_path):
    folder, _ = built
    words = ["build", folder / "skeleton", "--model", ORACLE, "-o", tmp_path / "out", "-q"]
    kills, code, err = killed_until_done(words, random.Random(1))
    assert (code, err) == (0, "") and kills >= 1
    assert head(tmp_path / "out") == head(folder / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    one, other = (json.loads((where / "out" / "manifest.json").read_bytes())["counts"] for where in (folder, tmp_path))
    assert one == other  # who answered and at what cost, too


def test_status_tells_how_far_a_killed_build_is(built, tmp_path):
    folder, _ = built
    process = subprocess.Popen([COMMAND, "build", folder / "skeleton", "--model", ORACLE, "-o", tmp_path / "out", "-q"])
    end = time.monotonic() + 60
    while time.monotonic() < end:
        told = zerorepo("status", tmp_path / "out", "--json")
        if told.returncode == 1 and 2 <= json.loads(told.stdout)["done"] < LEAVES:
            break
    process.kill()
    process.wait()
    told = json.loads(zerorepo("status", tmp_path / "out", "--json").stdout)
    assert told["state"] == "unfinished" and 2 <= told["done"] < LEAVES
    assert (
        told["failed"] == {}
        and told["done"] + len([one for one in told["pending"] if not one.startswith("integration")]) == LEAVES
    )
    assert not (tmp_path / "out").exists()


def test_a_second_run_on_the_same_output_is_turned_away(built, tmp_path):
    folder, _ = built
    words = [COMMAND, "build", folder / "skeleton", "--model", ORACLE, "-o", tmp_path / "out", "-q"]
    process = subprocess.Popen(words)
    try:
        end = time.monotonic() + 60
        while not (tmp_path / ".out.lock").exists() and time.monotonic() < end:
            time.sleep(0.02)
        assert subprocess.run(words, capture_output=True).returncode == 75
    finally:
        process.kill()
        process.wait()


# ---------------------------------------------------------------- faults and failures


def test_faults_are_tried_again_and_named(built, tmp_path):
    folder, _ = built
    words = ["build", folder / "skeleton", "--model", f"fault:{TALLYBOOK}?q=0.5", "-o", tmp_path / "out", "--json"]
    done = zerorepo(*words, "--tries", 20)
    told = json.loads(done.stdout)
    assert done.returncode == 0 and told["done"] == LEAVES
    assert sum(count for tries, count in told["tries"].items() if tries != "1") >= 3
    assert "fault:tallybook?q=0.5 (no model" in told["answered_by"]
    assert "fault:tallybook?q=0.5 (no model" in git(tmp_path / "out", "log", "--format=%b")
    for path, text in tallybook().items():
        assert (tmp_path / "out" / path).read_text() == text


def test_leaves_that_cannot_be_solved_stay_stubs_and_are_named(built, tmp_path):
    folder, _ = built
    done = zerorepo(
        "build",
        folder / "skeleton",
        "--model",
        f"fault:{TALLYBOOK}?q=0",
        "-o",
        tmp_path / "out",
        "--json",
        "--tries",
        2,
    )
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert told["done"] == 0 and len([one for one in told["failed"] if not one.startswith("integration")]) == LEAVES
    assert "zerorepo: failed: tallybook/reading/amounts.py:parse_amount: 2 tries" in done.stderr
    status = zerorepo("status", tmp_path / "out")
    assert status.returncode == 1 and "failed  tallybook/reading/amounts.py:parse_amount" in status.stdout
    graph = Graph.load(tmp_path / "out" / "rpg.json")
    assert {node.status for node in graph.nodes if node.kind in ("function", "method")} == {"failed"}
    assert problems((tmp_path / "out" / "rpg.json").read_bytes(), tmp_path / "out") == []
    for path in tallybook():
        assert (tmp_path / "out" / path).read_bytes() == (folder / "skeleton" / path).read_bytes()
    assert len(git(tmp_path / "out", "log", "--oneline").splitlines()) == 2


def test_a_budget_ends_a_run_and_a_larger_one_goes_on(built, tmp_path):
    folder, _ = built
    words = ["build", folder / "skeleton", "--model", ORACLE, "-o", tmp_path / "out", "--json", "--concurrency", 1]
    done = zerorepo(*words, "--budget-tokens", 12000)
    told = json.loads(done.stdout)
    assert (done.returncode, told["status"]) == (0, "budget")
    assert 0 < told["done"] < LEAVES and told["pending"]
    assert sum(one["prompt_tokens"] + one["completion_tokens"] for one in told["spent"].values()) < 16000
    assert zerorepo("status", tmp_path / "out").returncode == 1
    again = json.loads(zerorepo(*words, "--budget-tokens", 12000).stdout)
    assert (again["status"], again["done"], again["spent"]) == ("budget", told["done"], told["spent"])
    done = zerorepo(*words)
    assert done.returncode == 0 and json.loads(done.stdout)["done"] == LEAVES
    assert head(tmp_path / "out") == head(folder / "out")


def test_time_that_runs_out_is_kept(built, tmp_path):
    folder, _ = built
    words = ["build", folder / "skeleton", "--model", ORACLE, "-o", tmp_path / "out", "-q"]
    first = zerorepo(*words, "--max-time", "1s")
    assert first.returncode == 1 and "the same command goes on" in first.stderr
    assert zerorepo(*words).returncode == 0
    assert head(tmp_path / "out") == head(folder / "out")


def test_a_dry_run_tells_the_least_and_writes_nothing(built, tmp_path):
    folder, _ = built
    done = zerorepo("build", folder / "skeleton", "--dry-run", "--json", cwd=tmp_path)
    told = json.loads(done.stdout)
    assert told["leaves"] == LEAVES and told["areas"] == 3 and told["calls_at_least"] == 2 * LEAVES + 3
    assert told["prompt_tokens_at_least"] > LEAVES * told["shared_prefix_tokens"]
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- code that means harm

HARM = {
    "deletes": "import shutil, pathlib\n    shutil.rmtree(pathlib.Path.home(), ignore_errors=True)\n    shutil.rmtree({canary!r}, ignore_errors=True)\n    return 1",
    "writes": "import pathlib\n    pathlib.Path({canary!r}, 'new').write_text('x')\n    return 1",
    "reads": "return open({canary!r} + '/secret').read()",
    "forks": "import os\n    while True:\n        os.fork()",
    "hangs": "while True: pass",
    "exits": "import os\n    os._exit(0)",
    "dies": "import os, signal\n    os.kill(os.getpid(), signal.SIGSEGV)",
    "calls": "import socket\n    socket.create_connection(('127.0.0.1', {port}), timeout=2)\n    return 1",
    "fills": "open('big', 'wb').truncate(1 << 40)\n    open('big2', 'wb').write(b'x' * (1 << 30))\n    return 1",
}  # fmt: skip


@pytest.mark.parametrize("harm", sorted(HARM))
def test_harm_stays_in_the_sandbox_and_is_no_success(harm, tmp_path):
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "secret").write_text("42")
    before = hashlib.sha256((canary / "secret").read_bytes()).hexdigest()
    skeleton(tmp_path / "skeleton", {"one.py": 'def answer() -> int:\n    """The answer, 1."""\n    return 1\n'})
    marker = f"zerorepo_harm_{os.getpid()}_{harm}"
    with ScriptedServer() as server:
        port = int(re.search(r":(\d+)", server.url)[1])
        body = HARM[harm].format(canary=str(canary), port=port)
        test = "from one import answer\n\n\ndef test_answer():\n    assert answer() == 1\n"
        code = f'def answer() -> int:\n    """The answer, 1."""\n    {marker} = 0\n    {body}\n'

        def reply(asked):
            user = asked["messages"][-1]["content"]
            if "unit test of" in user:
                return chat(f"```python\n{test}```")
            if user.startswith("A test of"):
                return chat('{"cause": "code", "reason": "it does harm"}')
            return chat(f"```python\n{code}```")

        server.script = (reply,)
        done = zerorepo("build", tmp_path / "skeleton", "--model", f"{server.url}#m", "-o", tmp_path / "out", "--tries", 1, "--test-time", "10s", "--json")  # fmt: skip
        asked = len([one for one in server.requests if one.path.endswith("/completions")])
    assert asked == (2 if harm == "deletes" else 7)  # a test, a code, five votes: nothing came from the sandbox
    assert hashlib.sha256((canary / "secret").read_bytes()).hexdigest() == before
    assert [path.name for path in canary.iterdir()] == ["secret"]
    harmless = harm in ("deletes",)  # it finds nothing to delete, and returns 1
    assert done.returncode == (0 if harmless else 1), done.stderr
    assert bool(json.loads(done.stdout)["failed"]) != harmless


def test_a_test_that_skips_itself_does_not_pass_by_its_neighbours(tmp_path):
    sources = {"one.py": "def f(x):\n    return x + 1\n\n\ndef g(x):\n    return x + 2\n"}
    skeleton(tmp_path / "skeleton", sources)
    runs = {
        "f": "from one import f\n\n\ndef test_f():\n    assert f(1) == 2\n",
        "g": "import pytest\nfrom one import g\n\n\ndef test_g():\n    try:\n        g(1)\n    except NotImplementedError:\n"
        "        assert False\n    pytest.skip('never looked at')\n",
    }

    def reply(asked):
        user = asked["messages"][-1]["content"]
        name = re.search(r"function `(\w+)`", user)[1]
        if user.startswith("A test of"):
            return chat('{"cause": "code"}')
        return chat(
            f"```python\n{runs[name] if 'unit test of' in user else f'def {name}(x):{chr(10)}    return x + 1'}\n```"
        )

    with ScriptedServer(reply) as server:
        done = zerorepo("build", tmp_path / "skeleton", "--model", f"{server.url}#m", "-o", tmp_path / "out", "--tries", 1, "--json")  # fmt: skip
    told = json.loads(done.stdout)
    assert done.returncode == 1 and list(told["failed"]) == ["one.py:g"], told


def plus_one(asked):
    """A model that solves `def f(x)`."""
    user = asked["messages"][-1]["content"]
    test = "from one import f\n\n\ndef test_f():\n    assert f(1) == 2\n"
    return chat(f"```python\n{test if 'unit test of' in user else 'def f(x):' + chr(10) + '    return x + 1'}\n```")


def test_a_server_that_is_down_costs_no_leaf(tmp_path):
    skeleton(tmp_path / "skeleton", {"one.py": "def f(x):\n    return x + 1\n"})
    with ScriptedServer(Reply(500)) as server:
        words = ["build", tmp_path / "skeleton", "--model", f"{server.url}#m", "-o", tmp_path / "out", "--json", "--max-retries", 0]  # fmt: skip
        done = zerorepo(*words)
        told = json.loads(done.stdout)
        assert done.returncode == 1 and told["status"] == "error" and "HTTP 500" in told["failed"]["one.py:f"]
        assert told["answered_by"] == "nothing was asked" and len(server.requests) == 1
        assert zerorepo("status", tmp_path / "out").returncode == 1
        server.script = (plus_one,)
        done = zerorepo(*words)
    assert done.returncode == 0 and json.loads(done.stdout)["done"] == 1


def test_time_is_looked_at_before_every_question_and_run(tmp_path):
    skeleton(tmp_path / "skeleton", {"one.py": "def f(x):\n    return x + 1\n"})

    def slow(asked):
        time.sleep(1)
        return plus_one(asked)

    with ScriptedServer(slow) as server:
        done = zerorepo("build", tmp_path / "skeleton", "--model", f"{server.url}#m", "-o", tmp_path / "out", "--json", "--max-time", "0.5s")  # fmt: skip
        assert len(server.requests) == 1
    assert done.returncode == 1 and json.loads(done.stdout)["status"] == "time"


@pytest.mark.parametrize("solved", [True, False])
def test_what_an_integration_test_makes_over_is_what_is_written(tmp_path, solved):
    """Two rewrites of one leaf, the second on the first's helper; a leaf that failed is none to make over."""
    sources = {
        "pkg/a/m.py": "def f():\n    return 1\n\n\ndef g():\n    return 1\n",
        "pkg/b/n.py": "def h():\n    return 1\n",
    }
    skeleton(tmp_path / "skeleton", sources, [("a", "b")])
    turns = ["def _h():\n    return 41\n\n\ndef f():\n    return _h()", "def f():\n    return _h() + 1"]

    def reply(asked):
        first, user = asked["messages"][-1]["content"].partition("\n")[0], asked["messages"][-1]["content"]
        module = "pkg.a.m" if "pkg/a/m.py" in first else "pkg.b.n"
        name = (re.findall(r"function `(\w+)`", first) or [""])[0]
        if "unit test of" in first:
            return chat(f"```python\nfrom {module} import {name}\n\n\ndef test_it():\n    assert {name}() > 0\n```")
        if "Write an integration test" in first:
            return chat("```python\nfrom pkg.a.m import f\n\n\ndef test_all():\n    assert f() == 42\n```" if "area a" in first else "```python\nfrom pkg.b.n import h\n\n\ndef test_b():\n    assert h() == 1\n```")  # fmt: skip
        if "test of" in first:
            return chat('{"units": ["pkg/a/m.py:f"]}' if "integration test of" in first else '{"cause": "code"}')
        if "An integration test fails" in user:
            return chat(f"```python\n{turns.pop(0)}\n```")
        return chat(f"```python\ndef {name}():\n    return 1\n```" if solved or name != "f" else "I cannot.")

    with ScriptedServer(reply) as server:
        done = zerorepo("build", tmp_path / "skeleton", "--model", f"{server.url}#m", "-o", tmp_path / "out", "--json", "--tries", 3)  # fmt: skip
    told, text = json.loads(done.stdout), (tmp_path / "out/pkg/a/m.py").read_text()
    if solved:
        assert done.returncode == 0 and "return _h() + 1" in text and "return 41" in text, told["failed"]
    else:
        assert list(told["failed"]) == ["pkg/a/m.py:f", "integration:#a"] and "raise NotImplementedError" in text
        assert len(turns) == 2


def test_a_file_in_another_encoding_is_tested_in_it(tmp_path):
    source = '# -*- coding: latin-1 -*-\ndef f(x):\n    return x + "é"\n'.encode("latin-1")
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "one.py").write_bytes(source)
    skeleton(tmp_path / "skeleton", {"one.py": source.decode("latin-1")})
    (tmp_path / "skeleton" / "one.py").write_bytes(stubs_of(source.decode("latin-1")).encode("latin-1"))
    done = zerorepo("build", tmp_path / "skeleton", "--model", f"oracle:{tmp_path / 'hidden'}", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "one.py").read_bytes() == source


def test_tests_that_spoil_each_other_are_told_of(tmp_path):
    skeleton(
        tmp_path / "skeleton",
        {"one.py": "def f():\n    return 1\n\n\ndef g():\n    return 1\n", "two.py": "def h():\n    return 1\n"},
    )

    def reply(asked):
        user = asked["messages"][-1]["content"]
        name = re.search(r"function `(\w+)`", user)[1]
        mark = "sys.spoilt = 1" if name == "f" else "assert not hasattr(sys, 'spoilt')" if name == "h" else "pass"
        test = f"import sys\nfrom {'two' if name == 'h' else 'one'} import {name}\n\n\ndef test_it():\n    {mark}\n    assert {name}() == 1\n"
        return chat(f"```python\n{test if 'unit test of' in user else f'def {name}():{chr(10)}    return 1'}\n```")

    with ScriptedServer(reply) as server:
        done = zerorepo("build", tmp_path / "skeleton", "--model", f"{server.url}#m", "-o", tmp_path / "out", "--json")
    assert "assert not True" in json.loads(done.stdout)["together"] and "holds alone" in done.stderr


def test_keys_in_sources_are_not_sent(tmp_path):
    key = "sk-" + "a1b2c3d4" * 4
    sources = {"one.py": f'TOKEN = "{key}"\n\n\ndef answer() -> int:\n    """The answer, 1."""\n    return 1\n'}
    skeleton(tmp_path / "skeleton", sources)
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "one.py").write_text(sources["one.py"])
    done = zerorepo(
        "build",
        tmp_path / "skeleton",
        "--model",
        f"oracle:{tmp_path / 'hidden'}",
        "-o",
        tmp_path / "out",
        "--record",
        tmp_path / "record.jsonl",
    )
    assert done.returncode == 0, done.stderr
    assert (
        key not in (tmp_path / "record.jsonl").read_text() and "[redacted]" in (tmp_path / "record.jsonl").read_text()
    )
    assert key in (tmp_path / "out" / "one.py").read_text()  # the user's own file stays as it is


@pytest.mark.parametrize(
    "text",
    ["ghp_" + "a" * 36, "AKIA" + "B" * 16, "hf_" + "c" * 30, "Authorization: Bearer abc.def", "https://me:pass@host/x",
     "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----"],
)  # fmt: skip
def test_what_looks_like_a_key_is_taken_out(text):
    assert clean(f"before {text} after") != f"before {text} after"
    secret = {"h": "pass@", "A": "Bearer abc.def" if text.startswith("Auth") else text}.get(text[0], text)
    assert secret not in clean(f"before {text} after")


# ---------------------------------------------------------------- refusals


def test_refusals_are_one_line_and_write_nothing(tmp_path):
    good = skeleton(tmp_path / "good")
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thing").write_text("mine")
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    graph = Graph.load(good / "rpg.json")
    for node in graph.nodes:
        node.status = "done"
    graph.save(nothing / "rpg.json")
    lacking = skeleton(tmp_path / "lacking")
    (lacking / "tallybook/reports/table.py").unlink()
    torn, other, latin = skeleton(tmp_path / "torn"), skeleton(tmp_path / "other"), skeleton(tmp_path / "latin")
    (torn / "tallybook/reports/table.py").write_text("def (:\n")
    (other / "tallybook/reports/table.py").write_text("x = 1\n")
    (latin / "tallybook/reports/table.py").write_bytes(b"# \xff\n")
    unsound = skeleton(tmp_path / "unsound")
    (unsound / "rpg.json").write_bytes((unsound / "rpg.json").read_bytes().replace(b'"type":"contains"}', b'"type":"contains"}', 1)[:-2] + b" }\n")  # fmt: skip
    before = sorted(path.name for path in tmp_path.iterdir())
    for words, why in (
        ([tmp_path / "none", "-o", tmp_path / "out"], "expected a folder with rpg.json"),
        ([tmp_path / "empty", "-o", tmp_path / "out"], "rpg.json: no such file"),
        ([nothing, "-o", tmp_path / "out"], "no leaf to build"),
        ([lacking, "-o", tmp_path / "out"], "table.py: missing"),
        ([unsound, "-o", tmp_path / "out"], "not-canonical"),
        ([torn, "-o", tmp_path / "out"], "table.py: line 1: invalid syntax"),
        ([other, "-o", tmp_path / "out"], "no function align"),
        ([latin, "-o", tmp_path / "out"], "encoding"),
        ([good, "-o", tmp_path / "taken"], "did not make"),
        ([good], "expected -o DIR"),
        ([good, "-o", tmp_path / "no" / "out"], "create it first"),
        ([good, "-o", tmp_path / "out", "--python", tmp_path / "nopython"], "nopython"),
    ):
        done = zerorepo(
            "build",
            *[tmp_path / f"out{len(why)}" if word == tmp_path / "out" else word for word in words],
            "--model",
            ORACLE,
        )
        assert done.returncode in (2, 3), (words, done)
        assert why in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    done = zerorepo("build", good, "-o", tmp_path / "out")
    assert done.returncode == 2 and "--model" in done.stderr
    for uri, why in (
        (f"fault:{TALLYBOOK}", "q=Q"),
        (f"fault:{TALLYBOOK}?q=2", "q=Q"),
        (f"oracle:{tmp_path / 'none'}", "no such folder"),
        (f"oracle:{tmp_path / 'empty'}", "no Python file"),
        (f"oracle:{TALLYBOOK / 'tallybook'}", "folder that holds it"),
        (f"oracle:{good}", "passed while what it tests was a stub"),
    ):
        done = zerorepo("build", good, "-o", tmp_path / f"out{len(why)}", "--model", uri, "--tries", "1")
        assert done.returncode == (1 if why.startswith("passed") else 2) and why in done.stderr, (uri, done.stderr)
    left = sorted(path.name for path in tmp_path.iterdir() if "out" not in path.name)
    assert left == before


def test_what_stands_in_the_way_is_said_before_anything_is_asked(tmp_path):
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "one.py").write_text("def f(x):\n    return x + 1\n")
    skeleton(tmp_path / "skeleton", {"one.py": "def f(x):\n    return x + 1\n"})
    (tmp_path / "skeleton" / ".git").write_text("gitdir: /nowhere\n")  # a linked work tree's
    (tmp_path / "skeleton" / "git~1").write_text("x")
    (tmp_path / "skeleton" / ".gitattributes").write_text("* text eol=crlf\n")
    (tmp_path / "skeleton" / "manifest.json").write_text('{"tool": "zerorepo"}')
    words = ["build", tmp_path / "skeleton", "--model", f"oracle:{tmp_path / 'hidden'}"]
    for out, more, why in (
        (".", {}, "a name of its own"),
        ("/", {}, "a name of its own"),
        (tmp_path / "skeleton", {}, "is or holds the input"),
        (tmp_path / "none", {"env": {**os.environ, "PATH": str(tmp_path)}}, "git is not installed"),
    ):
        done = zerorepo(*words, "-o", out, "--overwrite", **more)
        assert done.returncode in (2, 3) and why in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert not (tmp_path / ".none.journal").exists()
    done = zerorepo(*words, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert b"\r" not in (tmp_path / "out" / "one.py").read_bytes()
    assert git(tmp_path / "out", "status", "--porcelain") == ""
    done = subprocess.run([COMMAND, *map(str, words), "-o", os.fsencode(tmp_path) + b"/\xff"], capture_output=True)
    assert done.returncode == 0, done.stderr


def test_work_on_an_unfinished_build_is_not_lost(built, tmp_path):
    folder, _ = built
    words = ["build", folder / "skeleton", "--model", ORACLE, "-o", tmp_path / "out", "-q"]
    assert zerorepo(*words, "--budget-tokens", 3000).returncode == 0
    (tmp_path / "out" / "mine").write_text("x")
    done = zerorepo(*words)
    assert done.returncode == 2 and "changes since it was built" in done.stderr and (tmp_path / "out" / "mine").exists()
    assert zerorepo(*words, "--overwrite").returncode == 0


def test_features_that_a_model_found_are_not_lost(tmp_path):
    source = "def f(x):\n    return x + 1\n"
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "one.py").write_text(source)
    skeleton(tmp_path / "skeleton", {"one.py": source})
    graph = Graph.load(tmp_path / "skeleton" / "rpg.json")
    node = graph.by_id["one.py:f"]
    node.features, node.provenance = ["count one further"], "a-model 0123abcd"
    graph.save(tmp_path / "skeleton" / "rpg.json")
    words = ["build", tmp_path / "skeleton", "--model", f"oracle:{tmp_path / 'hidden'}", "-o", tmp_path / "out"]
    assert zerorepo(*words).returncode == 0
    node = Graph.load(tmp_path / "out" / "rpg.json").by_id["one.py:f"]
    assert (node.features, node.provenance) == (["count one further"], "a-model 0123abcd") and node.status == "done"


def test_a_run_without_a_plan_is_not_done(tmp_path):
    with Folder(str(tmp_path / "out"), verb="run", options={}, inputs=[]) as out:
        out.journal.put("an answer", 1)
        done = zerorepo("status", tmp_path / "out")
    assert done.returncode == 1 and "not planned yet" in done.stdout


def test_status_of_what_is_no_build(tmp_path):
    done = zerorepo("status", tmp_path)
    assert done.returncode == 2 and "no build" in done.stderr
