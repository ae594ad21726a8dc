"""What the commands refuse rather than do wrongly: the wrong folder, another commit, an output that is not theirs, graphs
that no encode wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zerorepo.encode import encode
from zerorepo.localize import Localizer
from zerorepo.sources import WorkTree

COMMAND = Path(sys.executable).parent / "zerorepo"


def run(*words: object, cwd: Path, code: int = 0, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [COMMAND, *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **(env or {})},
    )
    assert done.returncode == code and "Traceback" not in done.stderr, (done.stdout[-500:], done.stderr)
    return done


def git(cwd: Path, *words: str) -> None:
    subprocess.run(
        ["git", "-c", "user.email=a@b.c", "-c", "user.name=n", *words], cwd=cwd, check=True, capture_output=True
    )


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """Three commits, tagged c1 to c3, of which the second and the third change one file each."""
    root = tmp_path / "repo"
    (root / "p").mkdir(parents=True)
    git(root, "init", "-q")
    for tag, path, text in (("c1", "p/a.py", "def a(): pass\n"), ("c2", "p/b.py", "def b(): pass\n"), ("c3", "p/c.py", "def c(): pass\n")):  # fmt: skip
        (root / path).write_text(text)
        git(root, "add", "-A")
        git(root, "commit", "-qm", tag)
        git(root, "tag", tag)
    return root


def test_update_does_not_empty_a_graph_that_was_moved_or_linked(repo, tmp_path):
    run("encode", "repo", "-o", "rpg.json", cwd=tmp_path)
    whole = (tmp_path / "rpg.json").read_bytes()
    away = tmp_path / "away"
    away.mkdir()
    (away / "rpg.json").write_bytes(whole)
    assert "--root" in run("update", "rpg.json", cwd=away, code=2).stderr
    (away / "x.py").write_text("x = 1\n")
    assert "none of the graph's files" in run("update", "rpg.json", cwd=away, code=2).stderr
    assert (away / "rpg.json").read_bytes() == whole
    (away / "link.json").symlink_to(tmp_path / "rpg.json")
    run("update", "link.json", cwd=away)
    assert (tmp_path / "rpg.json").read_bytes() == whole


def test_a_range_wants_the_graph_of_its_first_commit_in_every_file(repo):
    run("encode", ".", "--rev", "c1", "-o", "rpg.json", cwd=repo)
    assert "p/b.py" in run("update", "rpg.json", "--range", "c2..c3", cwd=repo, code=2).stderr
    run("update", "rpg.json", "--range", "c1..c3", cwd=repo)
    assert (repo / "rpg.json").read_text() == run("encode", ".", "--rev", "c3", cwd=repo).stdout


@pytest.mark.parametrize("words", ["export rpg.json --to dot", "map rpg.json", "diff rpg.json rpg.json --json", "merge rpg.json rpg.json rpg.json", "localize issue.md --embeddings tfidf"])  # fmt: skip
def test_an_output_that_is_not_ours_stays(repo, words):
    run("encode", ".", "-o", "rpg.json", cwd=repo)
    (repo / "issue.md").write_text("a is wrong\n")
    (repo / "mine").write_text("precious")
    assert "--overwrite" in run(*words.split(), "-o", "mine", cwd=repo, code=2).stderr
    assert (repo / "mine").read_text() == "precious"
    run(*words.split(), "-o", "mine", "--overwrite", cwd=repo)
    first = (repo / "mine").read_text()
    run(*words.split(), "-o", "mine", cwd=repo)  # what the same command made may be made again
    assert (repo / "mine").read_text() == first != "precious"


FILE = {"id": "a.py", "kind": "file", "path": "a.py"}
BAD = {
    "one line": [{**FILE, "span": [5]}, None],
    "three lines": [{**FILE, "span": [1, 2, 3]}, None],
    "kind": [{**FILE, "kind": "zzz"}, None],
    "type": [FILE, {"src": ".", "dst": "a.py", "type": "zzz"}],
    "confidence": [FILE, {"src": ".", "dst": "a.py", "type": "invokes", "confidence": "zzz"}],
    "deep": [FILE, {"src": ".", "dst": "a.py", "type": "invokes", "payload": {"x": "DEEP"}}],
}


@pytest.mark.parametrize("name", BAD)
def test_a_graph_outside_the_schema_is_refused_in_a_line(tmp_path, name):
    node, edge = BAD[name]
    edges = [{"src": ".", "dst": "a.py", "type": "contains"}, *([edge] if edge else [])]
    text = json.dumps({"edges": edges, "nodes": [{"id": ".", "kind": "repo", "path": "."}, node], "schema": "rpg/1"})
    (tmp_path / "rpg.json").write_text(text.replace('"DEEP"', "[" * 100_000 + "]" * 100_000))
    for words in ("show stats", "export --to html", "export --to ref", "explore .", "explore a.py --json", "search a --embeddings tfidf"):  # fmt: skip
        assert len(run(*words.split(), cwd=tmp_path, code=2).stderr.splitlines()) == 1


def test_a_pipe_named_by_a_graph_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "p")
    nodes = [{"id": ".", "kind": "repo", "path": "."}, {"features": ["f"], "id": "p", "kind": "file", "path": "p"}]
    edges = [{"src": ".", "dst": "p", "type": "contains"}]
    (tmp_path / "rpg.json").write_text(json.dumps({"edges": edges, "nodes": nodes, "schema": "rpg/1"}))
    assert "differ" in run("search", "f", "--embeddings", "tfidf", cwd=tmp_path).stderr


def test_git_of_a_hook_is_not_the_git_of_the_root(repo, tmp_path):
    """In a hook of a linked work tree GIT_DIR is set, and git takes any folder for the top of its tree."""
    env = {"GIT_DIR": str(repo / ".git")}
    assert (
        run("encode", "p", "--rev", "c3", cwd=repo, env=env).stdout
        == run("encode", "p", "--rev", "c3", cwd=repo).stdout
    )


def test_git_that_refuses_is_told(repo):
    (repo / ".git" / "HEAD").write_text("broken")
    assert "read without git" in run("encode", ".", cwd=repo).stderr
    assert "git rev-parse" in run("encode", ".", "--rev", "c1", cwd=repo, code=2).stderr


def test_odd_issues(repo):
    run("encode", ".", "-o", "rpg.json", cwd=repo)
    localizer = Localizer(encode(WorkTree(repo)))
    for text in ("-" * 190_000, "a/" * 90_000, "a." * 90_000):
        started = time.monotonic()
        localizer.mentions(text)
        assert time.monotonic() - started < 10
    (repo / "list.json").write_text(json.dumps([{"instance_id": "1", "problem_statement": "a fails"}]))
    assert "JSON Lines" in run("localize", "list.json", cwd=repo, code=2).stderr


def test_a_method_that_lists_have_is_no_namesake(tmp_path):
    (tmp_path / "a.py").write_text("class Log:\n    def append(self, x): pass\n    def rotate(self): pass\n")
    (tmp_path / "b.py").write_text(
        "class B:\n    def go(self):\n        self.items.append(1)\n        self.log.rotate()\n"
    )
    found = {edge.dst for edge in encode(WorkTree(tmp_path)).edges if edge.type == "invokes"}
    assert found == {"a.py:Log.rotate"}
