"""`dser solve` on models in this process: static batches that resume to the same bytes, trimming by the tokenizer,
recordings; and vLLM's engine (make test-engines)."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from dser_command import BIN, Server, dser, hashed_reply, read, records, sim, start, tasks, write

ROOT = Path(__file__).resolve().parents[2]
CARRY = ROOT / "tools" / "dser" / "examples"


def carry(*options, **more):
    """`dser solve` with the trained example, from the repository's root where its paths hold."""
    return [
        "solve", CARRY / "sums.jsonl", "--config", CARRY / "carry.toml", "--model", CARRY / "carry",
        *(word for role in ("solve", "verify", "refine") for word in ("--template", f"{role}={CARRY}/carry/{role}.txt")),
        *options, "-q",
    ]  # fmt: skip


@pytest.mark.xdist_group("models")
@pytest.mark.deep
def test_the_trained_example_solves_what_self_consistency_does_not(tmp_path):
    done = dser(*carry("--limit", 8, "--iterations", 12, "-o", tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    single = dser(*carry("--limit", 8, "--preset", "self-consistency", "--chains", 300, "-o", tmp_path / "single"))
    assert single.returncode == 0, single.stderr
    found = json.loads(dser("report", tmp_path / "run", "--self-consistency", tmp_path / "single", "--json").stdout)
    assert found["advice"]["verdict"] == "iterate"
    assert found["vs_self_consistency"]["dser"] >= 0.75 > 0.5 > found["vs_self_consistency"]["self_consistency"]


@pytest.mark.xdist_group("models")
@pytest.mark.deep
def test_static_batches_resume_to_the_same_bytes(tmp_path):
    options = ("--limit", 4, "--chains", 6, "--iterations", 6, "--batch-size", 8)
    whole = dser(*carry(*options, "-o", tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    lines = (tmp_path / "whole" / "steps.jsonl").read_bytes().splitlines(keepends=True)
    rng = random.Random(1)
    for cut in rng.sample(range(1, len(lines)), 4):
        target = tmp_path / f"cut{cut}"
        target.mkdir()
        (target / "manifest.json").write_bytes((tmp_path / "whole" / "manifest.json").read_bytes())
        (target / "steps.jsonl").write_bytes(b"".join(lines[:cut]) + lines[cut][:9])
        again = dser(*carry(*options, "-o", target))
        assert again.returncode == 0 and again.stdout == whole.stdout, again.stderr
        for name in ("answers.jsonl", "chains.jsonl", "steps.jsonl"):
            assert (target / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.deep
@pytest.mark.xdist_group("models")
def test_killed_static_batches_leave_no_trace(tmp_path):
    options = ("--limit", 10, "--iterations", 20, "--batch-size", 32)
    whole = dser(*carry(*options, "-o", tmp_path / "whole"))
    rng = random.Random(2)
    for _ in range(5):
        run = start(*carry(*options, "-o", tmp_path / "cut"))
        time.sleep(4 + 3 * rng.random())
        run.send_signal(signal.SIGKILL)
        run.communicate()
    assert dser(*carry(*options, "-o", tmp_path / "cut")).stdout == whole.stdout
    for name in ("answers.jsonl", "chains.jsonl", "steps.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.xdist_group("models")
def test_a_local_models_context_is_kept_to(tmp_path):
    """A problem longer than SmolLM2's context fails alone; one within it is solved."""
    long = [{"id": "fits", "prompt": "What is 1 + 1?"}, {"id": "never", "prompt": "word " * 9000}]
    done = dser(
        "solve", write(tmp_path / "t.jsonl", long), "--model", "smollm2", "--thinking", "none", "--chains", 1,
        "--iterations", 1, "--max-tokens", 24, "--no-require-box", "-o", tmp_path / "run", "-q",
    )  # fmt: skip
    first, second = records(done.stdout)
    assert done.returncode == 1
    assert "exceed the model's context" in second["error"] and second["finish_reason"] == "error"
    steps = read(tmp_path / "run" / "steps.jsonl")
    assert first["id"] == "fits" and {step["id"] for step in steps if "error" not in step} == {"fits"}


def test_a_recording_replays(tmp_path):
    given = write(tmp_path / "t.jsonl", tasks(3))
    options = ["--chains", "3", "--iterations", "2", "-q"]
    with Server(hashed_reply) as server:
        done = dser("solve", given, "--model", server.uri, "--record", tmp_path / "rec", *options)
    again = dser("solve", given, "--model", f"replay:{tmp_path / 'rec'}", *options)
    assert again.returncode == 0, again.stderr
    plain = [{key: value for key, value in record.items() if key != "model"} for record in records(done.stdout)]
    assert [{k: v for k, v in record.items() if k != "model"} for record in records(again.stdout)] == plain
    other = dser("solve", given, "--model", f"replay:{tmp_path / 'rec'}", *options, "--seed", 1)
    assert other.returncode == 3 and "not recorded" in other.stderr


def test_the_pipe_of_the_architecture(tmp_path):
    """dser's samples are what a grader and a judge read."""
    model = sim(tmp_path / "s.json", p_ic=0.9, p_ci=0.0)
    text = "".join(json.dumps(task) + "\n" for task in tasks(3))
    solved = dser("solve", "-", "--model", model, "--chains", 4, "-q", stdin=text)
    import subprocess

    cotpass = BIN.parent / "cotpass"
    graded = subprocess.run([cotpass, "grade", "-", "-q"], input=solved.stdout, capture_output=True, text=True)
    judged = subprocess.run(
        [cotpass, "judge", "-", "--judge", "steps", "-q"], input=graded.stdout, capture_output=True, text=True
    )
    metric = subprocess.run(
        [cotpass, "metric", "-", "--json", "--max-unjudged", "1"], input=judged.stdout, capture_output=True, text=True
    )
    assert metric.returncode == 0, metric.stderr
    assert [record["correct"] for record in records(graded.stdout)] == [True, True, True]


@pytest.mark.engines
def test_vllms_engine(tmp_path):
    """Chains on vLLM with SmolLM2: calls of all roles, and a second run that needs no model."""
    env = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_WAIT_POLICY": "passive"}
    command = [
        "solve", write(tmp_path / "t.jsonl", tasks(3)), "--model", "vllm:smollm2", "--engine", "max_model_len=1024",
        "--engine", "max_num_seqs=8", "--thinking", "none", "--no-require-box", "--max-tokens", 48, "--chains", 4,
        "--iterations", 2, "--window", 2, "-o", tmp_path / "run", "-q",
    ]  # fmt: skip
    done = dser(*command, env=env, timeout=600)
    assert done.returncode in (0, 1), done.stderr
    assert len(read(tmp_path / "run" / "answers.jsonl")) == 3 and "Traceback" not in done.stderr
    roles = [step["role"] for step in read(tmp_path / "run" / "steps.jsonl")]
    assert roles.count("solve") >= 12 and roles.count("refine") > 0
    started = time.monotonic()
    again = dser(*command, env=env, timeout=600)
    assert again.stdout == done.stdout and time.monotonic() - started < 20  # nothing was left to ask
