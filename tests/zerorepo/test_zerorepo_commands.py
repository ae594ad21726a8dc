"""encode and update through the installed command: what they write, refuse, say and leave behind."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zerorepo import Graph, WorkTree, encode

COMMAND = Path(sys.executable).parent / "zerorepo"
SHARED = Path(__file__).parents[2] / "shared" / "tenfold_shared"


def run(*words: object, cwd: Path, code: int = 0, **more) -> subprocess.CompletedProcess:
    done = subprocess.run([COMMAND, *map(str, words)], cwd=cwd, capture_output=True, text=True, **more)
    assert done.returncode == code, (done.stdout[-500:], done.stderr[-2000:])
    return done


def git(folder: Path, *words: str) -> str:
    identity = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    return subprocess.run(
        ["git", "-C", folder, *words], check=True, capture_output=True, text=True, env={**os.environ, **identity}
    ).stdout.strip()


@pytest.fixture
def repo(tmp_path):
    folder = tmp_path / "repo"
    shutil.copytree(SHARED, folder / "pkg", ignore=shutil.ignore_patterns("__pycache__"))
    git(tmp_path, "init", "-q", "-b", "main", "repo")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "one")
    return folder


def test_the_graph_goes_to_a_file_or_to_stdout_and_is_the_same(tmp_path, repo):
    run("encode", "repo", "-o", "rpg.json", cwd=tmp_path)
    data = (tmp_path / "rpg.json").read_bytes()
    assert data == encode(WorkTree(repo)).dumps()
    assert run("encode", "repo", cwd=tmp_path).stdout.encode() == data
    assert run("encode", "repo", "--rev", "HEAD", cwd=tmp_path).stdout.encode() == data
    told = json.loads(run("encode", "repo", "-o", "other.json", "--json", cwd=tmp_path).stdout)
    assert told["files"] == len(list(repo.rglob("*.py"))) and told["unparsed"] == []


def test_an_existing_graph_is_not_overwritten_unasked(tmp_path, repo):
    (tmp_path / "rpg.json").write_text("mine")
    done = run("encode", "repo", "-o", "rpg.json", cwd=tmp_path, code=2)
    assert "--overwrite" in done.stderr and (tmp_path / "rpg.json").read_text() == "mine"
    run("encode", "repo", "-o", "rpg.json", "--overwrite", cwd=tmp_path)
    assert Graph.load(tmp_path / "rpg.json").nodes


def test_update_follows_uncommitted_edits_commits_and_ranges(tmp_path, repo):
    run("encode", "repo", "-o", "rpg.json", cwd=tmp_path)
    (repo / "pkg" / "progress.py").write_text(
        (repo / "pkg" / "progress.py").read_text() + "\n\ndef late():\n    return 1\n"
    )
    (repo / "pkg" / "new.py").write_text("from pkg.progress import late\n\n\ndef use():\n    return late()\n")
    done = run("update", "rpg.json", "--check", cwd=tmp_path, code=1)
    assert "1 added, 1 modified" in done.stderr
    told = json.loads(run("update", "rpg.json", "--json", cwd=tmp_path).stdout)
    assert told["added"] == ["pkg/new.py"] and told["modified"] == ["pkg/progress.py"]
    fresh = run("encode", "repo", cwd=tmp_path).stdout
    assert (tmp_path / "rpg.json").read_text() == fresh
    run("update", "rpg.json", "--check", cwd=tmp_path)
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "two")
    run("encode", "repo", "--rev", "HEAD~1", "-o", "old.json", cwd=tmp_path)
    run("update", "old.json", "--range", "HEAD~1..HEAD", "-o", "new.json", cwd=tmp_path)
    assert (tmp_path / "new.json").read_text() == fresh
    # a graph of another commit than the range begins at would come out as neither
    done = run("update", "rpg.json", "--range", "HEAD~1..HEAD", cwd=tmp_path, code=2)
    assert "another commit" in done.stderr and (tmp_path / "rpg.json").read_text() == fresh


def test_a_graph_and_its_repository_can_be_moved_together(tmp_path, repo):
    run("encode", "repo", "-o", "rpg.json", cwd=tmp_path)
    there = tmp_path / "elsewhere"
    there.mkdir()
    for name in ("repo", "rpg.json", "rpg.json.manifest.json"):
        os.rename(tmp_path / name, there / name)
    run("update", "elsewhere/rpg.json", "--check", cwd=tmp_path)


def test_files_that_cannot_be_read_are_named_and_kept(tmp_path, repo):
    (repo / "pkg" / "broken.py").write_text("def f(:\n")
    (repo / "pkg" / "latin.py").write_bytes(b"x = '\xff'\n")
    (repo / "pkg" / "fast.c").write_text("int x;\n")
    done = run("encode", "repo", "-o", "rpg.json", cwd=tmp_path, code=1)
    assert "pkg/broken.py: line 1" in done.stderr and "pkg/latin.py" in done.stderr and "C, kept as" in done.stderr
    graph = Graph.load(tmp_path / "rpg.json")
    assert {n.path for n in graph.nodes if n.status == "unparsed"} == {"pkg/broken.py", "pkg/latin.py", "pkg/fast.c"}
    assert all(n.reason for n in graph.nodes if n.status == "unparsed")
    run("encode", "repo", "-o", "rpg.json", "--overwrite", "--allow-unparsed", cwd=tmp_path)
    # an update that touches neither is not blamed for them
    (repo / "pkg" / "fine.py").write_text("x = 1\n")
    run("update", "rpg.json", cwd=tmp_path)


def test_two_at_once(tmp_path, repo):
    run("encode", "repo", "-o", "rpg.json", cwd=tmp_path)
    import fcntl

    with open(tmp_path / ".rpg.json.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert run("update", "rpg.json", cwd=tmp_path, code=75).stderr


def test_a_kill_leaves_the_old_graph_or_the_new(tmp_path):
    many = tmp_path / "many"
    for number in range(60):
        shutil.copytree(SHARED, many / f"p{number}", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "rpg.json").write_text("old")
    for delay in (0.2, 0.5, 0.9, 1.4):
        process = subprocess.Popen(
            [COMMAND, "encode", "many", "-o", "rpg.json", "--overwrite", "-q"], cwd=tmp_path, stderr=subprocess.DEVNULL
        )
        time.sleep(delay)
        process.kill()
        process.wait()
        text = (tmp_path / "rpg.json").read_text()
        assert text == "old" or Graph.loads(text.encode()).nodes
    run("encode", "many", "-o", "rpg.json", "--overwrite", cwd=tmp_path)
    assert (tmp_path / "rpg.json").read_bytes() == encode(WorkTree(many)).dumps()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["encode", "gone"], "gone: no such folder"),
        (["encode", "plain"], "plain: expected the folder"),
        (["encode", "empty"], "no Python file"),
        (["encode", "repo", "--rev", "nonsense"], "names no commit"),
        (["encode", "repo", "--rev", "--upload-pack=x"], "names no commit"),
        (["encode", "empty", "--rev", "HEAD"], "names no commit"),
        (["update", "none.json"], "none.json: no such file"),
        (["update", "plain"], "not JSON"),
        (["update", "list.json"], "not an rpg/1 graph"),
        (["update", "future.json"], "schema: expected rpg/1"),
        (["update", "-"], "give the graph's path"),
        (["update", "good.json", "--range", "HEAD"], "expected A..B"),
        (["update", "good.json", "--range", "HEAD...HEAD"], "expected A..B"),
        (["update", "good.json", "--root", "gone"], "no such folder"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(tmp_path, repo, words, told):
    (tmp_path / "empty").mkdir()
    (tmp_path / "plain").write_text("x")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "future.json").write_text('{"schema": "rpg/2", "nodes": [], "links": []}')
    (tmp_path / "good.json").write_bytes(encode(WorkTree(repo)).dumps())
    before = sorted(path.name for path in tmp_path.iterdir())
    if words[0] == "update" and words[1] == "good.json" and "--root" not in words:
        words = [*words, "--root", "repo"]
    done = run(*words, cwd=tmp_path, code=2)
    assert told in done.stderr and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert [name for name in sorted(p.name for p in tmp_path.iterdir()) if not name.endswith(".lock")] == before


def test_a_closed_pipe_ends_it_quietly(tmp_path, repo):
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; '{COMMAND}' encode repo | head -c 1 > /dev/null"],
        cwd=tmp_path,
        capture_output=True,
    )
    assert done.returncode == 141 and done.stderr == b""
