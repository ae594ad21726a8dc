"""The cold start, training, rollouts and evaluation through the command, with a small model that learns to answer by chance right or wrong: what a run writes, that it goes on after a kill to the same bytes,
and what it says when nothing can be learnt."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from grpo_models import ambiguous, small
from grpo_server import Peer
from transformers import AutoModelForCausalLM

from grpo_roc import train as training
from grpo_roc.cli import main
from grpo_roc.env import isolation
from grpo_roc.train import Plan, Stage, Watch
from tenfold_shared import BadInput

pytestmark = pytest.mark.xdist_group("train")  # one cold start for all
LEVEL = next(level for level in isolation.LEVELS if level not in isolation.probe())
BIN = Path(sys.executable).parent / "grpo-roc"
COMMON = ["--level", LEVEL, "--workers", 1, "--dtype", "float32", "--device", "cpu"]


def grpo(*words):
    return CliRunner().invoke(main, list(map(str, words)), prog_name="grpo-roc")


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def wrote(path, records):
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A small model, four problems, and the model after a cold start on answers half of which are right."""
    folder = tmp_path_factory.mktemp("train")
    torch.set_num_threads(1)
    tokenizer = ambiguous()
    small(torch.float32, len(tokenizer), positions=4096).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    wrote(folder / "tasks.jsonl", [{"id": f"t{k}", "prompt": f"Say {k}.", "answer": "4"} for k in range(4)])
    turns = [[{"text": f"</reason><answer>\\boxed{{{digit}}}</answer>", "calls": []}] for digit in "45"]
    wrote(
        folder / "data.jsonl",
        [{"id": f"{k}", "prompt": f"Say {k % 4}.", "turns": turns[k // 4 % 2]} for k in range(16)],
    )
    done = grpo("sft", "--model", folder / "model", "--data", folder / "data.jsonl", "--lr", 0.01, "--epochs", 60, "--transcripts", 8, "--held-out", 0.25, "--seed", 1, "-o", folder / "cold", *COMMON)  # fmt: skip
    assert done.exit_code == 0, done.output
    return folder


def test_the_cold_start_learns_the_models_own_words(place):
    told = json.loads((place / "cold" / "manifest.json").read_text())
    assert (
        told["counts"]["updates"] == 90 and told["counts"]["held_out_loss"] < 0.2 and not (place / "cold.work").exists()
    )
    log = lines(place / "cold" / "log.jsonl")
    assert log[-1]["loss"] < log[0]["loss"] / 10 and log[-1]["lr"] < 1e-5 and max(line["lr"] for line in log) == 0.01
    again = grpo("sft", "--model", place / "model", "--data", place / "data.jsonl", "--lr", 0.01, "--epochs", 60, "--transcripts", 8, "--held-out", 0.25, "--seed", 1, "-o", place / "cold", *COMMON)  # fmt: skip
    assert again.exit_code == 0 and "complete already" in again.output
    other = grpo(
        "sft", "--model", place / "model", "--data", place / "data.jsonl", "--lr", 0.02, "-o", place / "cold", *COMMON
    )
    assert other.exit_code == 2 and "was made with --batch 8" in other.output


SPOKEN = ["--max-tokens", 80, "--max-prompt", 2000, "--slots", 8, "--deterministic"]


def test_rollouts_and_what_they_say_of_a_model(place, tmp_path):
    words = [
        "rollout",
        place / "tasks.jsonl",
        "--model",
        place / "cold",
        "--samples",
        8,
        "--token-ids",
        *SPOKEN,
        *COMMON,
    ]
    assert (
        grpo(*words, "-o", tmp_path / "a.jsonl").exit_code == 0
        and grpo(*words, "-o", tmp_path / "b.jsonl").exit_code == 0
    )
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    found = lines(tmp_path / "a.jsonl")
    assert [(one["id"], one["rollout"]) for one in found] == [(f"t{k}", n) for k in range(4) for n in range(8)]
    assert {one["reward"] for one in found} == {0.0, 1.0}
    assert all(len(one["token_ids"]) == len(one["loss_mask"]) == len(one["logprobs"]) == one["usage"]["completion_tokens"] for one in found)  # fmt: skip
    done = grpo("eval", place / "tasks.jsonl", "--model", place / "cold", "--samples", 8, "--json", *SPOKEN, *COMMON)
    told = json.loads(done.stdout)
    means = [sum(one["reward"] for one in found if one["id"] == f"t{k}") / 8 for k in range(4)]
    assert told["pass@1"] == pytest.approx(sum(means) / 4) and told["samples"] == 32 and told["calls"] == 0
    # what resample and filter-hard make of them
    assert grpo("resample", tmp_path / "a.jsonl", "--group-size", 4, "-o", tmp_path / "kept.jsonl").exit_code == 0
    assert sum(one["kept"] for one in lines(tmp_path / "kept.jsonl")) == 4 * sum(0 < mean < 1 for mean in means)
    most = 4
    assert (
        grpo("filter-hard", tmp_path / "a.jsonl", "--max-correct", most, "-o", tmp_path / "hard.jsonl").exit_code == 0
    )
    assert [one["id"] for one in lines(tmp_path / "hard.jsonl")] == [f"t{k}" for k in range(4) if means[k] * 8 <= most]
    assert grpo("filter-hard", tmp_path / "a.jsonl", "--max-correct", 1, "--min-correct", 2).exit_code == 2


def train_words(place, run, *more):
    return ["train", place / "tasks.jsonl", "--model", place / "cold", "--steps", 4, "--prompts", 2, "--group-size", 4, "--lr", 0.002, "--warmup", 1, "--save-every", 2, "--seed", 3, *SPOKEN, *COMMON, "-o", run, *more]  # fmt: skip


def test_training_raises_the_reward_and_a_kill_changes_nothing(place, tmp_path):
    whole = grpo(*train_words(place, tmp_path / "whole", "--keep-rollouts", 2))
    assert whole.exit_code == 0, whole.output
    metrics = lines(tmp_path / "whole" / "metrics.jsonl")
    assert [line["step"] for line in metrics] == [1, 2, 3, 4]
    first = metrics[0]
    assert (
        first["trajectories/all"] == 16
        and first["trajectories/kept"] == 4 * first["groups/kept"]
        and first["groups/all"] == 2
    )
    assert all(
        line["logprob_gap/max"] < 1e-3 and abs(line["update/kl"]) < 1e-6 for line in metrics if line["groups/kept"]
    )
    kept = lines(tmp_path / "whole" / "rollouts" / "2.jsonl")
    assert sum(one["kept"] for one in kept) == metrics[1]["trajectories/kept"]
    # killed in its third step, then the same command
    words = [str(word) for word in train_words(place, tmp_path / "cut", "--keep-rollouts", 2)]
    process = subprocess.Popen([BIN, *words], stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    end = time.monotonic() + 120
    while not (tmp_path / "cut" / "checkpoint" / "state.json").exists():
        assert time.monotonic() < end and process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(lines(tmp_path / "cut" / "metrics.jsonl"))
    assert 2 <= done <= 4 and not (tmp_path / "cut" / "manifest.json").exists()
    assert grpo(*words).exit_code == 0
    for name in ("metrics.jsonl", "rollouts/4.jsonl", "checkpoint/model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert "complete already" in grpo(*words).output
    assert grpo(*train_words(place, tmp_path / "cut", "--lr", 0.1)).exit_code == 2


def test_ten_steps_of_updates_make_right_answers_likelier(place, tmp_path):
    words = train_words(place, tmp_path / "run", "--steps", 12, "--save-every", 100, "--lr", 0.0005, "--prompts", 4)
    assert grpo(*words).exit_code == 0
    rewards = [line["reward/mean"] for line in lines(tmp_path / "run" / "metrics.jsonl")]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.2
    assert (tmp_path / "run" / "best" / "model.safetensors").exists()


@pytest.mark.parametrize("algo", ["grpo", "grpo-2g", "random-2g", "roc-top"])
def test_every_arm_samples_and_keeps_what_it_says(place, tmp_path, algo):
    assert grpo(*train_words(place, tmp_path / "run", "--algo", algo, "--steps", 1, "--updates", 2)).exit_code == 0
    (line,) = lines(tmp_path / "run" / "metrics.jsonl")
    sampled = 4 if algo == "grpo" else 8
    assert line["trajectories/all"] == 2 * sampled
    if algo in ("grpo", "grpo-2g"):
        assert line["trajectories/kept"] == sampled * line["groups/kept"]
    else:
        assert line["trajectories/kept"] <= 4 * line["groups/all"]


def test_stages_follow_one_another_and_leave_out_what_is_solved(place, tmp_path):
    stages = tmp_path / "stages.toml"
    stages.write_text(f'[[stage]]\ntasks = ["{place}/tasks.jsonl"]\nsteps = 1\n[[stage]]\ntasks = ["{place}/tasks.jsonl"]\nsteps = 1\nmax_correct = 7\nfilter_rollouts = 8\nreset_optimizer = true\nmax_tokens = 90\n')  # fmt: skip
    words = ["train", "--stages", stages, "--model", place / "cold", "--prompts", 2, "--group-size", 4, "--seed", 3, *SPOKEN, *COMMON, "-o", tmp_path / "run"]  # fmt: skip
    done = grpo(*words)
    assert done.exit_code == 0 and "stage 2: " in done.output, done.output
    assert [line["name"] for line in lines(tmp_path / "run" / "metrics.jsonl")] == ["1/1", "2/1"]
    assert set(json.loads((tmp_path / "run" / "stage-2.json").read_text())) <= {"t0", "t1", "t2", "t3"}


def test_where_no_group_can_be_learnt_from_it_says_so_and_stops(place, tmp_path):
    hard = wrote(tmp_path / "hard.jsonl", [{"id": "h", "prompt": "Say 1.", "answer": "7777"}])
    words = ["train", hard, "--model", place / "cold", "--steps", 30, "--prompts", 1, "--group-size", 2, *SPOKEN, *COMMON, "-o", tmp_path / "run"]  # fmt: skip
    done = grpo(*words)
    assert done.exit_code == 1 and "too easy or too hard" in done.output
    assert len(lines(tmp_path / "run" / "metrics.jsonl")) == training.EMPTY_STEPS


def test_time_that_runs_out_is_no_loss(place, tmp_path):
    words = train_words(place, tmp_path / "run", "--max-time", "0.001s")
    first = grpo(*words)
    assert first.exit_code == 1 and "the same command goes on" in first.output
    assert grpo(*train_words(place, tmp_path / "run")).exit_code == 0
    assert len(lines(tmp_path / "run" / "metrics.jsonl")) == 4


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--group-size", "1"], "--group-size"),
        (["--oversample", "1"], "give 2 or more"),
        (["--updates", "9"], "more than the 2 groups"),
        (["--max-prompt", "100"], "no problem is left"),
        (["--max-tokens", "8000"], "positions"),
        (["--temperature", "0"], "all alike"),
        (["--tools", "shell"], "expected some of"),
        (["--model", "replay:x"], "one model"),
    ],
)
def test_what_cannot_be_trained_with_is_said(place, tmp_path, words, why):
    done = grpo(*train_words(place, tmp_path / "run"), *words)
    assert done.exit_code == 2 and why in done.output, done.output


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"id": "a", "prompt": "x"}, "gold answer"),
        ({"prompt": "x", "answer": "1"}, "id"),
        ({"id": "a", "answer": "1"}, "prompt"),
        ({"id": "t0", "prompt": "x", "answer": "1"}, "appears twice"),
    ],
)
def test_problems_that_cannot_be_read_are_named_before_anything_is_loaded(place, tmp_path, record, why):
    bad = wrote(tmp_path / "bad.jsonl", [*lines(place / "tasks.jsonl"), record])
    done = grpo("train", bad, "--model", "/nowhere", "-o", tmp_path / "run")
    assert done.exit_code == 2 and why in done.output and "bad.jsonl:5" in done.output, done.output


def test_stages_that_cannot_be_read_are_named(tmp_path):
    for text, why in (
        ("x = 1", "[[stage]]"),
        ("[[stage]]\nsteps = 'a'", "stage 1"),
        ("[[stage]]\nstep = 1", "stage 1"),
        ("[[", "not TOML"),
    ):
        path = tmp_path / "s.toml"
        path.write_text(text)
        with pytest.raises(BadInput, match=why.replace("[", r"\[")):
            training.stages_of(str(path), {})


def test_signs_of_collapse_are_said_once():
    watch, said = Watch(), []
    for step in range(60):
        reward = 0.6 if step < 20 else 0.1
        said += watch.see({"reward/mean": reward, "response_length/clip_ratio": 0.9 if step > 40 else 0.1, "calls/mean": 1.0 if step < 30 else 9.0, "entropy": 0.5 if step < 50 else 0.001})  # fmt: skip
    assert [line.split(":")[0] for line in said] == ["reward", "calls", "length", "entropy"]
    calm = Watch()
    assert not any(
        calm.see({"reward/mean": 0.02, "response_length/clip_ratio": 0.0, "calls/mean": 0.1, "entropy": 1.0})
        for _ in range(50)
    )


def test_problems_come_once_each_before_any_again():
    plan = Plan((Stage(tasks=("x",), prompts=3),), seed=5)
    run = training.Run.__new__(training.Run)
    run.plan = plan
    from grpo_roc.rollout import Task

    tasks = [Task(str(k), "", "1") for k in range(7)]
    order = run._order(tasks, 1)
    drawn = [task.id for _ in range(7) for task in next(order)]
    assert sorted(drawn) == sorted([task.id for task in tasks] * 3)
    assert all(len(set(drawn[k : k + 3])) == 3 for k in range(0, 21, 3)) and sorted(drawn[:7]) == [
        str(n) for n in range(7)
    ]
    done = grpo("rollout", "x", "--model", "replay:y")
    assert done.exit_code == 2 and "trajectories are sampled anew" in done.output


def test_transcripts_are_programs_that_were_run(tmp_path):
    words = ["sft", "--make-data", 40, "--write-data", tmp_path / "t.jsonl", "--level", LEVEL, "--workers", 1]
    assert grpo(*words).exit_code == 0
    found = lines(tmp_path / "t.jsonl")
    assert len({one["prompt"] for one in found}) == 40 and len({one["id"].split("-")[0] for one in found}) == 9
    for one in found:
        (call,) = one["turns"][0]["calls"]
        own = subprocess.run(
            [sys.executable, "-c", call["arguments"]["code"]], capture_output=True, text=True, check=True
        )
        assert own.stdout == call["stdout"] and own.stdout.strip() == one["answer"]
    assert grpo(*words).exit_code == 2  # it is there
    assert grpo("sft", "--make-data", 3, "--data", tmp_path / "t.jsonl", "-o", tmp_path / "x").exit_code == 2
    done = grpo("verify", tmp_path / "t.jsonl", "-o", tmp_path / "v.jsonl")
    assert done.exit_code == 0 and all(one["correct"] for one in lines(tmp_path / "v.jsonl"))


def test_two_processes_are_one_run_and_go_on_where_one_stopped(place, tmp_path):
    """Sampled by rank, chosen and written as by one process; started by one process and finished by two."""
    how = [place / "tasks.jsonl", "--model", place / "cold", "--steps", 3, "--prompts", 3, "--group-size", 4, "--lr", 0.003, "--warmup", 1, "--pass-tokens", 1500, "-q", *SPOKEN, *COMMON]  # fmt: skip
    start = [BIN.parent / "torchrun", "--standalone", "--nproc-per-node", 2, "-m", "grpo_roc.cli"]
    where = {**os.environ, "OMP_NUM_THREADS": "1"}

    def ran(command, folder, *more):
        return subprocess.run(list(map(str, [*command, "train", *how, *more, "-o", tmp_path / folder])), capture_output=True, text=True, timeout=300, env=where)  # fmt: skip

    assert ran([BIN], "one").returncode == 0
    stopped = ran([BIN], "two", "--max-time", "0.001s")
    assert stopped.returncode == 1 and "time is up after step 0 of 3" in stopped.stderr
    done = ran(start, "two")
    assert done.returncode == 0 and done.stderr.count("goes on after step 0") == 1, done.stderr[-3000:]
    one, two = lines(tmp_path / "one" / "metrics.jsonl"), lines(tmp_path / "two" / "metrics.jsonl")
    assert len(one) == len(two) == 3 and any("update/loss" in line for line in one)
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            assert b[name] == (pytest.approx(value, rel=1e-3, abs=1e-5) if isinstance(value, float) else value), name
    assert json.loads((tmp_path / "two" / "manifest.json").read_text())["counts"]["steps"] == 3
    again = ran(start, "two")
    assert again.returncode == 0 and again.stderr.count("complete already") == 1


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.deep
def test_a_server_samples_with_the_policy_as_it_is_at_each_step(place, tmp_path, ranks):
    """It begins with other weights: were it not given the policy's, or not after an update, its log-probabilities would not be the trainer's."""
    other = AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32).eval()
    start = [BIN] if ranks == 1 else [BIN.parent / "torchrun", "--standalone", "--nproc-per-node", 2, "-m", "grpo_roc.cli"]  # fmt: skip
    with Peer(other, weights=True, blocks=4000) as server:
        words = ["train", place / "tasks.jsonl", "--model", place / "cold", "--rollout-engine", server.uri, "--steps", 2, "--prompts", 4, "--group-size", 2, "--lr", 0.002, "--warmup", 0, "--max-tokens", 32, "--max-prompt", 2000, "-q", "-o", tmp_path / "run", *COMMON]  # fmt: skip
        done = subprocess.run(
            list(map(str, [*start, *words])), capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = lines(tmp_path / "run" / "metrics.jsonl")
    gaps = [one["logprob_gap/max"] for one in told if "logprob_gap/max" in one]
    assert len(told) == 2 == len(gaps) and max(gaps) < 1e-3
    assert server.resets == 2 * 2  # once a step and once more, as it refuses every other; whatever the number of ranks
