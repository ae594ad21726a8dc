"""`zerorepo run` through its command: from a specification to commits, in one go, verb by verb, replayed, killed."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from scripted_server import Reply, ScriptedServer, chat
from zerorepo_designs import OFFERED, flow, right
from zerorepo_skeletons import TALLYBOOK, suite

from tenfold_shared import Missing
from tenfold_shared.generate import Completion
from zerorepo import Graph
from zerorepo.cli import main
from zerorepo.generation import verbs
from zerorepo.validate import problems

COMMAND = Path(sys.executable).parent / "zerorepo"
SPEC = TALLYBOOK / "repo_data.json"
ORACLE = f"oracle:{TALLYBOOK}"


def zerorepo(*words, **more):
    return subprocess.run([COMMAND, *map(str, words)], capture_output=True, text=True, timeout=170, **more)


def git(folder, *words):
    return subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    done = zerorepo(
        "run",
        SPEC,
        "--model",
        ORACLE,
        "--rounds",
        1,
        "-o",
        folder / "out",
        "--record",
        folder / "answers.jsonl",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_a_specification_becomes_a_repository_whose_tests_pass(made):
    folder, told = made
    assert (told["status"], told["leaves"], told["done"], told["failed"]) == ("done", 15, 15, {})
    assert told["areas"] == 3 and told["features"] == 15
    ran = suite(folder / "out")
    assert ran.returncode == 0 and "42 passed" in ran.stdout
    built = subprocess.run([sys.executable, "-c", "from tallybook.reports.table import align; print(align([['a', '1']]))"], cwd=folder / "out", capture_output=True, text=True)  # fmt: skip
    assert built.stdout == "a  1\n"


def test_the_graph_ties_features_to_code(made):
    folder, _ = made
    data = (folder / "out" / "rpg.json").read_bytes()
    assert problems(data, folder / "out") == []
    graph = Graph.loads(data)
    features = [node for node in graph.nodes if node.kind == "feature"]
    assert len(features) == 15 and all(f"{node.path}:{node.qualname}" in graph.by_id for node in features)
    assert {node.status for node in graph.nodes} == {"done"}
    assert all(node.provenance.startswith("oracle:tallybook ") for node in features)
    told = zerorepo("show", "tree", folder / "out" / "rpg.json", "--by", "features").stdout
    assert "parse book  (tallybook/reading/entries.py:parse_book)" in told


@pytest.mark.deep
def test_the_verbs_one_by_one_come_to_the_same_commits(made, tmp_path):
    folder, _ = made
    steps = [
        ("propose", SPEC, "--rounds", 1, "-o", tmp_path / "proposed.json"),
        ("design", tmp_path / "proposed.json", "-o", tmp_path / "skeleton"),
        ("build", tmp_path / "skeleton", "-o", tmp_path / "out"),
    ]
    for words in steps:
        done = zerorepo(*words, "--model", ORACLE, "-q")
        assert done.returncode == 0, done.stderr
    assert git(tmp_path / "out", "rev-parse", "HEAD") == git(folder / "out", "rev-parse", "HEAD")


def test_a_server_that_is_down_for_a_while_costs_nothing(made, tmp_path):
    folder, _ = made
    recorded = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    known = {(one["request"]["messages"][-1]["content"], one["request"]["seed"]): one["completion"]["text"] for one in recorded}  # fmt: skip
    down = iter([False] * 6 + [True] * 6)

    def reply(asked):
        return Reply(500) if next(down, False) else chat(known[asked["messages"][-1]["content"], asked["seed"]])

    with ScriptedServer(reply) as server:
        words = [
            "run",
            SPEC,
            "--model",
            f"{server.url}#m",
            "--rounds",
            1,
            "-o",
            tmp_path / "out",
            "-q",
            "--max-retries",
            0,
        ]
        done = zerorepo(*words)
        assert done.returncode == 3 and "HTTP 500" in done.stderr and not (tmp_path / "out").exists()
        down = iter([])
        assert zerorepo(*words).returncode == 0


@pytest.mark.deep
def test_a_recording_is_enough(made, tmp_path):
    folder, _ = made
    done = zerorepo("run", SPEC, "--model", f"replay:{folder / 'answers.jsonl'}", "--rounds", 1, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert git(tmp_path / "out", "rev-parse", "HEAD") == git(folder / "out", "rev-parse", "HEAD")
    assert "no model: it reads a hidden repository" in done.stderr


def test_killed_in_any_stage_it_comes_to_the_same_repository(made, tmp_path):
    folder, _ = made
    draw = random.Random(7)
    words = [COMMAND, "run", SPEC, "--model", ORACLE, "--rounds", "1", "-o", tmp_path / "out", "-q"]
    kills = 0
    while True:
        process = subprocess.Popen([*map(str, words)])
        try:
            code = process.wait(timeout=draw.uniform(0.2, 2.0) if kills < 8 else 120)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    assert code == 0 and kills >= 2
    assert git(tmp_path / "out", "rev-parse", "HEAD") == git(folder / "out", "rev-parse", "HEAD")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_budget_that_ends_before_there_is_code_begins_nothing(made, tmp_path):
    words = ("run", SPEC, "--model", ORACLE, "--rounds", 1, "-o", tmp_path / "out")
    done = zerorepo(*words, "--budget-tokens", 3000, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["status"] == "budget"
    assert not (tmp_path / "out").exists() and (tmp_path / ".out.journal").exists()


def test_a_dry_run_asks_nothing(tmp_path):
    done = zerorepo("run", SPEC, "--model", "oracle:nowhere", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0 and "at least" in done.stdout and "Plain-text household accounts" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_refusals(tmp_path):
    (tmp_path / "empty.json").write_text("{}")
    for words, why in (
        ([SPEC, "-o", tmp_path / "out"], "--model"),
        ([tmp_path / "none.json", "--model", ORACLE, "-o", tmp_path / "out"], "none.json"),
        ([tmp_path / "empty.json", "--model", ORACLE, "-o", tmp_path / "out"], "empty.json"),
        ([SPEC, "--model", ORACLE], "expected -o DIR"),
        ([SPEC, "--model", ORACLE, "--ontology", tmp_path / "no.jsonl", "-o", tmp_path / "out"], "no.jsonl"),
    ):
        done = zerorepo("run", *words)
        assert done.returncode == 2 and why in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["empty.json"]


def test_the_shipped_recording_is_of_the_questions_that_are_asked(made, tmp_path):
    """Where it fails, a question has changed: record the example anew (examples/README.md says how)."""
    folder, _ = made
    done = zerorepo("run", SPEC, "--model", f"replay:{TALLYBOOK}.jsonl", "--rounds", 1, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert git(tmp_path / "out", "rev-parse", "HEAD") == git(folder / "out", "rev-parse", "HEAD")


class Both:
    """A Generator of stages A and B: one round of five features in two areas. say: (role, subject) to an object or None."""

    model, batch_size, context = "scripted", None, None

    def __init__(self, say):
        self.say, self.roles = say, []

    def generate(self, requests, sampling):
        for request in requests:
            role, subject, *_ = request.key.split("|")
            user = request.messages[1]["content"]
            self.roles.append(role)
            told = self.say(role, subject) or self.usable(role, subject, user)
            yield Completion(request.key, json.dumps(told), "stop", 10, 5, self.model)

    def usable(self, role, subject, user):
        paths = OFFERED.findall(user)
        if role == "missing":
            return {"features": {"input": ["read rows", "read columns"], "output": ["write rows"]}}
        if role == "check":
            return {"keep": paths}
        if role == "modules":
            return {"modules": [{"name": name, "purpose": f"for {name}", "size": 2} for name in ("input", "output")]}
        if role == "place":
            return {"places": {path: f"{path.split('/')[0]}/rows/all" for path in paths}}
        return {"moves": {}} if role == "tidy" else right(role, subject, 0, user, "kit")

    def close(self):
        pass


def scripted(monkeypatch, tmp_path, say, *words):
    """(exit code, stderr, roles asked) of `run` without its stage C."""
    back = Both(say)
    monkeypatch.setattr(verbs, "open_generator", lambda backend, seed: back)
    monkeypatch.setattr(verbs, "build", lambda *a: (_ for _ in ()).throw(Missing("stage C")))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.md").write_text("# Kit\n\nRead and write rows.\n")
    done = CliRunner().invoke(main, ["run", "spec.md", "--model", "x", "--rounds", "1", "-o", "out", *words])
    return done.exit_code, done.stderr, back.roles


def test_a_circle_may_be_cut_by_the_run_that_goes_on(monkeypatch, tmp_path):
    circle = {"flow": flow(("input", "output"), ("output", "input"))}
    code, told, _ = scripted(monkeypatch, tmp_path, lambda role, _: circle if role == "flow" else None)
    assert code == 1 and "--break-cycles drops what closes the circle" in told
    code, told, roles = scripted(monkeypatch, tmp_path, lambda *_: None, "--break-cycles")
    assert code == 3 and "stage C" in told and not {"missing", "folders", "flow"} & set(roles)
    assert "dropped to break a circle: #output -data_flow-> #input" in told


def test_max_time_holds_from_the_first_stage_on(monkeypatch, tmp_path):
    def slow(role, subject):
        time.sleep(0.6)

    code, told, roles = scripted(monkeypatch, tmp_path, slow, "--max-time", "1s")
    assert code == 1 and "--max-time is over" in told and 1 <= len(roles) <= 3
    code, told, more = scripted(monkeypatch, tmp_path, lambda *_: None)
    assert code == 3 and "stage C" in told and "missing" not in more  # what was answered is not asked again


def test_a_specification_of_stdin(tmp_path):
    done = zerorepo("run", "-", "--model", ORACLE, "--rounds", 1, "-o", tmp_path / "out", "--budget-tokens", 1000, input=SPEC.read_text())  # fmt: skip
    assert done.returncode == 0 and "is not begun yet" in done.stderr
    done = zerorepo("run", "-", "--model", ORACLE, "--rounds", 1, "-o", tmp_path / "out", input="# Other\n\nAnother thing.\n")  # fmt: skip
    assert done.returncode == 2 and "other content of the input -" in done.stderr
