"""What goes wrong in a run, and what is said of it: problems and models that cannot be trained with, steps that teach nothing or are no numbers, a full disk, checkpoints that are cut off or gone, an environment that fails,
a policy that collapses. Models are scripted (grpo_scripted.py), so that what they say, and how often, is known."""

import errno
import json
import math
import os
import resource
import shutil
import statistics
import threading
from collections import Counter
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from grpo_scripted import END, HEADER, OPENED, answering, scripted
from safetensors.torch import load_file

from grpo_roc import evaluate as evaluating
from grpo_roc import objective
from grpo_roc import rollout as rolling
from grpo_roc import train as training
from grpo_roc.cli import main
from grpo_roc.env import isolation
from grpo_roc.env.environment import Environment, Result
from grpo_roc.policy import Optimisation
from grpo_roc.ranks import Ranks
from grpo_roc.train import Counts, Plan, Run, Stage, Watch

LEVEL = next(level for level in isolation.LEVELS if level not in isolation.probe())
COMMON = ["--level", LEVEL, "--workers", 1, "--dtype", "float32", "--device", "cpu", "--deterministic"]
SIZES = ["--max-tokens", 200, "--max-prompt", 3000, "--slots", 8]
NAME = "execute_python_code_with_standard_io"


def grpo(*words):
    return CliRunner().invoke(main, list(map(str, words)), prog_name="grpo-roc")


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def strict(path):
    """Lines as a reader of JSON proper sees them: NaN is none."""

    def refuse(text):
        raise AssertionError(f"{path}: {text} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in Path(path).read_text().splitlines()]


def wrote(path, records):
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def told(done, code, *parts):
    """One line on stderr beyond progress, no traceback, and this exit code."""
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    for part in parts:
        assert part in done.output, done.output


@pytest.fixture(scope="module", autouse=True)
def small_and_alone():
    """One thread, and an environment that begins at once, as no program here needs more than print."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for module in (training, evaluating):
            patch.setattr(module, "EnvironmentSettings", partial(module.EnvironmentSettings, preload=("math",)))
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model that says 4 or 5, evenly, and two problems whose answer is 4."""
    folder = tmp_path_factory.mktemp("failures")
    scripted(folder / "model", answering(**{"44": 0.5, "55": 0.5}))
    wrote(folder / "tasks.jsonl", [{"id": f"t{k}", "prompt": f"Say {k}.", "answer": "44"} for k in range(2)])
    return folder


CALL = f"</reason><tool_call>{json.dumps({'name': NAME, 'arguments': {'code': 'print(44)', 'input': ''}})}</tool_call>"
CALLING = {OPENED: {CALL: 1.0}, CALL: {END: 1.0}, HEADER: {"<answer>\\boxed{": 1.0}, "<answer>\\boxed{": {"44": 0.5, "55": 0.5}, "44": {"}</answer>": 1.0}, "55": {"}</answer>": 1.0}, "}</answer>": {END: 1.0}}  # fmt: skip


@pytest.fixture(scope="module")
def calling(tmp_path_factory):
    return scripted(tmp_path_factory.mktemp("calling") / "model", CALLING)


def words_of(place, run, *more, tasks=None, model=None):
    return ["train", tasks or place / "tasks.jsonl", "--model", model or place / "model", "--steps", 4, "--prompts", 2, "--group-size", 4, "--lr", 1e-4, "--save-every", 1, *SIZES, *COMMON, "-o", run, *more]  # fmt: skip


# ---------------------------------------------------------------- problems and models


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ([], "no problem"),
        ([{"id": "a", "prompt": "x", "answer": "1"}, {"id": "a", "prompt": "y", "answer": "2"}], "tasks.jsonl:2: id: a appears twice; ids must be unique"),
        ([{"id": "a", "prompt": "x", "answer": "1"}, {"id": "b", "prompt": "y", "answer": ""}], "tasks.jsonl:2: b: answer: expected a gold answer"),
        ([{"id": "a", "prompt": "x", "answer": None}], "tasks.jsonl:1: a: answer: expected a gold answer"),
        ([{"id": "a", "prompt": "", "answer": "1"}], "tasks.jsonl:1: prompt: expected the problem's text"),
        ([{"id": "a", "prompt": "word " * 3000, "answer": "1"}], "no problem is left to train on"),
    ],
)  # fmt: skip
def test_problems_that_cannot_be_trained_on(place, tmp_path, records, why):
    told(grpo(*words_of(place, tmp_path / "run", tasks=wrote(tmp_path / "tasks.jsonl", records))), 2, why)


def test_a_problem_without_room_is_left_out_and_counted(place, tmp_path):
    tasks = wrote(tmp_path / "tasks.jsonl", [*lines(place / "tasks.jsonl"), {"id": "long", "prompt": "word " * 3000, "answer": "44"}])  # fmt: skip
    done = grpo(*words_of(place, tmp_path / "run", "--steps", 1, "--prompts", 3, tasks=tasks))
    told(done, 0, "1 of 3 problems are longer than 3000 tokens and are left out")
    assert lines(tmp_path / "run" / "metrics.jsonl")[0]["groups/all"] == 2
    done = grpo("rollout", tasks, "--model", place / "model", *SIZES, *COMMON, "-o", tmp_path / "said.jsonl")
    told(done, 1)
    assert [("error" in one, one["id"]) for one in lines(tmp_path / "said.jsonl")] == [(False, "t0"), (False, "t1"), (True, "long")]  # fmt: skip
    assert "more than 3000 (--max-prompt)" in lines(tmp_path / "said.jsonl")[2]["error"]


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (None, "the tokenizer has no chat template"),
        ("{% for m in messages %}{% if loop.last or m['role'] != 'assistant' %}{{ m['content'] }}{% endif %}<|im_end|>{% endfor %}", "rewrites earlier turns"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["train", "rollout", "eval"])
def test_a_model_without_a_template_that_only_appends(place, tmp_path, template, why, verb):
    model = shutil.copytree(place / "model", tmp_path / "model")
    (model / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((model / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    if template:
        (model / "chat_template.jinja").write_text(template)
    words = words_of(place, tmp_path / "run", model=model) if verb == "train" else [verb, place / "tasks.jsonl", "--model", model, *SIZES, *COMMON]  # fmt: skip
    told(grpo(*words), 2, why)


def test_a_tokenizer_with_tokens_that_the_model_has_no_row_for(place, tmp_path):
    """As where chat tokens were added to a tokenizer and the model was not made larger: what samples refuses, the cold start makes it larger."""
    model = scripted(tmp_path / "model", {OPENED: {"4": 1.0}, "4": {"5": 1.0}}, rows=256)
    sampling = ["rollout", place / "tasks.jsonl", *SIZES, *COMMON]
    why = ("<|im_", "the model has 256 rows", "grpo-roc sft")
    told(grpo(*words_of(place, tmp_path / "run", model=model)), 2, *why)
    told(grpo(*sampling, "--model", model), 2, *why)
    wrote(tmp_path / "data.jsonl", [{"prompt": "Say it.", "turns": [{"text": "</reason>44"}]}] * 4)
    done = grpo("sft", "--data", tmp_path / "data.jsonl", "--model", model, "-o", tmp_path / "cold", *COMMON[:-1])
    told(done, 0, "256 rows", "it is made larger")
    told(grpo(*sampling, "--model", tmp_path / "cold", "-o", tmp_path / "said.jsonl"), 0)


def test_pad_that_is_the_end_of_text_changes_nothing(place, tmp_path):
    """Trajectories of different lengths in one batch: an end that is also the pad is learnt and stops a turn as any other."""
    model = shutil.copytree(place / "model", tmp_path / "model")
    config = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": END}))
    for name, which in (("plain", place / "model"), ("padded", model)):
        told(grpo(*words_of(place, tmp_path / name, "--steps", 2, "--keep-rollouts", 1, model=which)), 0)
    for name in ("metrics.jsonl", "rollouts/2.jsonl"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "padded" / name).read_bytes()


def test_groups_of_one_are_refused_before_anything_is_loaded(tmp_path):
    tasks = wrote(tmp_path / "tasks.jsonl", [{"id": "a", "prompt": "x", "answer": "1"}])
    stages = tmp_path / "stages.toml"
    stages.write_text(f'[[stage]]\ntasks = ["{tasks}"]\ngroup_size = 1\n')
    done = grpo("train", "--stages", stages, "--model", "/nowhere", "-o", tmp_path / "run")
    told(done, 2, "group size 1: an advantage needs two trajectories or more of a group")


# ---------------------------------------------------------------- steps


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("chances", [{"44": 1.0}, {"55": 1.0}], ids=["all right", "all wrong"])
def test_steps_that_teach_nothing_change_nothing_and_end_the_run(place, tmp_path, chances):
    model = scripted(tmp_path / "model", answering(**chances))
    done = grpo(*words_of(place, tmp_path / "run", "--steps", 30, model=model))
    told(
        done, 1, "stopped after step 10: no group had both right and wrong answers in 10 steps", "grpo-roc filter-hard"
    )
    metrics = strict(tmp_path / "run" / "metrics.jsonl")
    assert [line["groups/kept"] for line in metrics] == [0] * training.EMPTY_STEPS
    assert all(line["groups/solve_all"] + line["groups/solve_none"] == 1 and "update/loss" not in line for line in metrics)  # fmt: skip
    assert same(weights(model), weights(tmp_path / "run" / "checkpoint"))


def test_updates_that_are_no_numbers_are_left_out_counted_and_end_the_run(place, tmp_path, monkeypatch):
    """Steps 2 and 4 to 8 of a run: one alone is left out, five in a row end it; weights are those of the last sound update, and every line is JSON."""
    real, updates = objective.loss, []

    def loss(*given, **named):
        value, stats = real(*given, **named)
        updates.append(1)
        return (value * math.nan if len(updates) == 2 or len(updates) >= 4 else value), stats

    monkeypatch.setattr(objective, "loss", loss)
    done = grpo(*words_of(place, tmp_path / "run", "--steps", 20))
    told(done, 1, "stopped after step 8: 5 updates in a row were no numbers", "lower --lr")
    metrics = strict(tmp_path / "run" / "metrics.jsonl")
    assert [line["update/skipped"] for line in metrics] == [0, 1, 0, 1, 1, 1, 1, 1]
    assert [line["update/loss"] is None for line in metrics] == [False, True, False, True, True, True, True, True]
    state = json.loads((tmp_path / "run" / "checkpoint" / "state.json").read_text())
    assert state["updates"] == 2 and state["counts"]["bad"] == 5
    assert all(value.isfinite().all() for value in weights(tmp_path / "run" / "checkpoint").values())
    seen = json.loads(grpo("report", tmp_path / "run", "--json").stdout)["metrics"]["update/loss"]
    sound = [line["update/loss"] for line in metrics if line["update/loss"] is not None]
    assert seen == {"first": pytest.approx(statistics.fmean(sound)), "last": None}


class Slow(Future):
    """A call that has come back when it was asked for so often."""

    asked = 0

    def done(self):
        self.asked += 1
        if self.asked == 3:
            self.set_result(Result("ok", "44\n"))
        return super().done()


def test_a_step_that_stands_still_says_so_and_goes_on(place, calling, tmp_path, monkeypatch):
    """By how often it was looked, not by the clock: a pause of any length is said here."""
    monkeypatch.setattr(rolling, "QUIET", 0.0)
    monkeypatch.setattr(Environment, "submit", lambda env, program: Slow())
    done = grpo("rollout", place / "tasks.jsonl", "--limit", 1, "--model", calling, *SIZES, *COMMON, "-o", tmp_path / "said.jsonl")  # fmt: skip
    told(done, 0, "no turn has ended for 0 s: 0 under way, 1 wait for calls")
    assert [len(one["turns"]) for one in lines(tmp_path / "said.jsonl")] == [2]


def test_a_report_of_a_run_whose_first_step_taught_nothing(place, tmp_path):
    """Metrics of an update are shown though the first line has none."""
    common = {"trajectories/all": 8, "trajectories/kept": 0, "groups/all": 2, "groups/kept": 0, "calls/statuses": {}}
    made = [{"step": 1, "reward/mean": 0.0, **common}, {"step": 2, "reward/mean": 0.5, **common, "update/loss": 0.25}]
    wrote(tmp_path / "metrics.jsonl", made)
    done = grpo("report", tmp_path, "--json")
    assert json.loads(done.stdout)["metrics"]["update/loss"] == {"first": None, "last": 0.25}


# ---------------------------------------------------------------- a full disk


class NoRoom:
    """Files of at most so many bytes, as where a disk is full: what is written beyond fails, for as long as the context lasts."""

    def __init__(self, most):
        self.most = most

    def __enter__(self):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.most, self.before[1]))

    def __exit__(self, *_):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("part", ["model.safetensors", "optimizer.safetensors"])
def test_no_room_for_a_checkpoint(place, tmp_path, part):
    """The checkpoint before stays whole, the message is one line, and the same command goes on once there is room, to the same bytes."""
    run = tmp_path / "run"
    told(grpo(*words_of(place, tmp_path / "whole")), 0)
    first = grpo(*words_of(place, run, "--max-time", "0.001s"))
    told(first, 1, "time is up")
    before = files(run / "checkpoint")
    sizes = {name.name: len(content) for name, content in files(tmp_path / "whole" / "checkpoint").items()}
    smaller = max((size for size in sizes.values() if size < sizes[part]), default=0)
    with NoRoom((smaller + sizes[part]) // 2):
        done = grpo(*words_of(place, run))
    told(done, 3, "checkpoint could not be written", "what was saved before is kept")
    assert sum("checkpoint" in line for line in done.output.splitlines()) == 1
    assert files(run / "checkpoint") == before
    assert sorted(path.name for path in run.iterdir() if path.name.startswith(".")) == []
    told(grpo(*words_of(place, run)), 0)
    for name in ("metrics.jsonl", "checkpoint/model.safetensors"):
        assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("name", ["metrics.jsonl", "timings.jsonl", "rollouts/1.jsonl"])
def test_no_room_for_a_steps_lines(place, tmp_path, name):
    """What is appended goes to a device that is always full, what is written whole finds no room; the same command goes on
    where there is room again."""
    run = tmp_path / "run"
    told(grpo(*words_of(place, run, "--max-time", "0.001s", "--keep-rollouts", 1)), 1)
    appended, real = "/" not in name, training.write_atomic
    if appended:
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to("/dev/full")

    def replaced(path, data):
        if str(path).endswith(name):
            if appended:
                return  # which a run that goes on writes anew: only what it appends must fail
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "write_atomic", replaced)
        if appended:
            patch.setattr(training, "read_lines", lambda path: [])
        done = grpo(*words_of(place, run, "--keep-rollouts", 1))
    told(done, 3, "No space left on device", name)
    if appended:
        (run / name).unlink()
    told(grpo(*words_of(place, run, "--keep-rollouts", 1)), 0)
    assert [line["step"] for line in strict(run / "metrics.jsonl")] == [1, 2, 3, 4]


# ---------------------------------------------------------------- checkpoints between runs


@pytest.fixture(scope="module")
def halfway(place, tmp_path_factory):
    """A run that was killed after its second step of four, and the same run whole."""
    folder = tmp_path_factory.mktemp("halfway")
    told(grpo(*words_of(place, folder / "whole")), 0)
    step = Run._one

    def killed(self, *given):
        if self.counts.step == 2:
            raise KeyboardInterrupt
        return step(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "_one", killed)
        assert grpo(*words_of(place, folder / "run")).exit_code == 130
    assert len(lines(folder / "run" / "metrics.jsonl")) == 2
    return folder


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("how", ["cut off", "gone"])
def test_a_checkpoint_with_a_damaged_file_is_named_and_nothing_is_lost(place, halfway, tmp_path, name, how):
    run = shutil.copytree(halfway / "run", tmp_path / "run")
    path = run / "checkpoint" / name
    before = path.read_bytes()
    path.write_bytes(before[: len(before) // 2]) if how == "cut off" else path.unlink()
    done = grpo(*words_of(place, run))
    told(done, 2, str(run / "checkpoint"))
    assert "--overwrite" in done.output or name == "model.safetensors"
    assert len(lines(run / "metrics.jsonl")) == 2
    path.write_bytes(before)
    told(grpo(*words_of(place, run)), 0)
    assert (run / "metrics.jsonl").read_bytes() == (halfway / "whole" / "metrics.jsonl").read_bytes()


def test_a_run_whose_checkpoint_was_deleted_begins_again_and_says_so(place, halfway, tmp_path):
    run = shutil.copytree(halfway / "run", tmp_path / "run")
    shutil.rmtree(run / "checkpoint")
    told(grpo(*words_of(place, run)), 0, "no checkpoint", "begins again")
    assert (run / "metrics.jsonl").read_bytes() == (halfway / "whole" / "metrics.jsonl").read_bytes()


def test_a_kill_between_a_checkpoints_two_renames_loses_nothing(place, halfway, tmp_path):
    """A checkpoint is put in the place of another by two renames: after the first there is none under its name."""
    run = shutil.copytree(halfway / "run", tmp_path / "run")
    (run / "checkpoint").rename(run / ".checkpoint.old")
    done = grpo(*words_of(place, run))
    told(done, 0, "goes on after step 2 of 4")
    assert (run / "metrics.jsonl").read_bytes() == (halfway / "whole" / "metrics.jsonl").read_bytes()
    assert not (run / ".checkpoint.old").exists()


def test_lines_that_a_kill_cut_off_are_written_again(place, halfway, tmp_path):
    run = shutil.copytree(halfway / "run", tmp_path / "run")
    with open(run / "metrics.jsonl", "a") as out:
        out.write('{"step": 3, "reward/me')
    told(grpo(*words_of(place, run)), 0)
    assert (run / "metrics.jsonl").read_bytes() == (halfway / "whole" / "metrics.jsonl").read_bytes()


# ---------------------------------------------------------------- an environment that fails


class Failing:
    """Fails calls after the first so many."""

    def __init__(self, after):
        self.after, self.real, self.lock, self.count = after, Environment.submit, threading.Lock(), 0

    def __call__(self, env, program):
        with self.lock:
            self.count += 1
            if self.count <= self.after:
                return self.real(env, program)
        done = Future()
        done.set_result(Result("infra", detail="the warm interpreter is gone"))
        return done


def test_an_environment_that_fails_teaches_nothing_and_the_run_goes_on_later(place, calling, tmp_path, monkeypatch):
    """Sound in the first step (16 calls), failing in the second: that step is not learnt from, and is made again by the same command, to the same bytes as if nothing had been."""
    told(grpo(*words_of(place, tmp_path / "whole", "--steps", 2, model=calling)), 0)
    assert [line["calls/statuses"] for line in lines(tmp_path / "whole" / "metrics.jsonl")] == [{"ok": 16}] * 2
    broken = Failing(16)
    with monkeypatch.context() as patch:
        patch.setattr(Environment, "submit", lambda env, program: broken(env, program))
        done = grpo(*words_of(place, tmp_path / "run", "--steps", 2, "--save-every", 50, model=calling))
    told(done, 3, "step 2: the environment failed 16 of 16 calls", "the warm interpreter is gone", "grpo-roc doctor", "the same command goes on")  # fmt: skip
    assert [line["step"] for line in lines(tmp_path / "run" / "metrics.jsonl")] == [1]
    done = grpo(*words_of(place, tmp_path / "run", "--steps", 2, "--save-every", 50, model=calling))
    told(done, 0, "goes on after step 1 of 2")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_a_call_that_the_environment_failed_is_no_error_of_the_models(place, calling, tmp_path, monkeypatch):
    """Two of the calls of a step: it is learnt from, they are counted apart and weigh in no penalty."""
    broken = Failing(14)
    with monkeypatch.context() as patch:
        patch.setattr(Environment, "submit", lambda env, program: broken(env, program))
        done = grpo(*words_of(place, tmp_path / "run", "--steps", 1, "--keep-rollouts", 1, model=calling))
    told(done, 0, "the environment failed 2 of 16 calls")
    (line,) = lines(tmp_path / "run" / "metrics.jsonl")
    assert line["calls/statuses"] == {"infra": 2, "ok": 14} and line["errors/all"] == 0.0
    done = grpo("score", tmp_path / "run" / "rollouts" / "1.jsonl", "-o", tmp_path / "scored.jsonl")
    assert done.exit_code == 0
    assert [one["p_err"] for one in lines(tmp_path / "scored.jsonl")] == [0.0] * 16


def test_an_environment_that_cannot_begin(place, calling, tmp_path, monkeypatch):
    from grpo_roc.env import worker
    from tenfold_shared import Missing

    def launch(self):
        raise Missing("strict: no user namespaces here")

    monkeypatch.setattr(worker.Worker, "launch", launch)
    told(grpo(*words_of(place, tmp_path / "run", model=calling)), 3, "no user namespaces here")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_eval_says_what_the_environment_failed(place, calling, tmp_path, monkeypatch):
    broken = Failing(3)
    with monkeypatch.context() as patch:
        patch.setattr(Environment, "submit", lambda env, program: broken(env, program))
        done = grpo("eval", place / "tasks.jsonl", "--model", calling, "--samples", 2, *SIZES, *COMMON, "--json")
    told(done, 1, "the environment failed 1 of 4 calls")
    assert json.loads(done.stdout)["infra"] == 1


# ---------------------------------------------------------------- collapse, and the model at its best


def metric(reward, clipped=0.0, calls=1.0, entropy=1.0):
    return {"reward/mean": reward, "response_length/clip_ratio": clipped, "calls/mean": calls, "entropy": entropy}


def watched(made):
    """{sign: the step that it was first said at}, counted from 1."""
    watch, found = Watch(), {}
    for step, one in enumerate(made, 1):
        for sign in watch.see(one):
            name = sign.split(":")[0]
            assert name not in found
            found[name] = step
    return found


def expected(made):
    """{sign: its first step} by each alarm's rule, written down once more."""

    def means(name):
        return {k: statistics.fmean(one[name] for one in made[k - 10 : k]) for k in range(10, len(made) + 1)}

    rewards, clipped, calls = means("reward/mean"), means("response_length/clip_ratio"), means("calls/mean")
    at = {
        "reward": [k for k in rewards if rewards[k] < max(rewards[j] for j in rewards if j <= k) / 2],
        "length": [k for k in clipped if clipped[k] > 0.5],
        "calls": [k for k in calls if calls[k] > 3 * max(calls[10], 0.5)],
        "entropy": [k for k, one in enumerate(made, 1) if one["entropy"] is not None and one["entropy"] < 0.01],
    }
    return {name: steps[0] for name, steps in at.items() if steps}


def test_alarms_by_another_count():
    """Metrics drawn at random around a course; every alarm rings in some of them, and stays silent in others."""
    rng, rung = np.random.default_rng(0), Counter()
    for _ in range(60):
        course = rng.random(4)
        made = [
            metric(
                reward=float(np.clip((0.7 if k < 25 else course[0] * 0.7) + rng.normal(0, 0.05), 0, 1)),
                clipped=float(np.clip(course[1] * k / 30 + rng.normal(0, 0.05), 0, 1)),
                calls=float(max(0.0, 0.3 + course[2] * k / 8 + rng.normal(0, 0.1))),
                entropy=float(np.exp(-k * course[3] / 4)) if k % 7 else None,
            )
            for k in range(50)
        ]
        assert watched(made) == expected(made)
        rung.update(list(expected(made)))
    assert set(rung) == {"reward", "length", "calls", "entropy"}
    assert all(0 < count < 60 for count in rung.values()), rung


class Saved:
    """A policy of which only what is saved matters."""

    how = Optimisation()

    def __init__(self):
        self.saves = []

    def save(self, folder, tokenizer, state, **more):
        self.saves.append((folder.name, self.step))


def played(tmp_path, rewards, monkeypatch, **more):
    """A run whose steps have these rewards: (its end, [(folder, step)] of what was saved, the run)."""
    run = Run.__new__(Run)
    run.plan = Plan((Stage(tasks=("x",), steps=len(rewards), prompts=1),))
    run.policy, run.tokenizer, run.folder, run.progress, run.ranks = Saved(), None, tmp_path, None, Ranks()
    run.counts, run.watch, run.save_every, run.keep_rollouts = Counts(), Watch(), 1000, 0
    run.said = []
    run.tell = run.said.append

    def step(stage, tasks, name):
        run.policy.step = run.counts.step + 1
        return {"step": run.counts.step + 1, **metric(rewards[run.counts.step]), **more}, {"step": run.counts.step + 1}

    run.step = step
    why = ""
    while run.counts.step < len(rewards) and not why:
        why = run._one(run.plan.stages[0], [], "x", run.counts.step + 1 == len(rewards))
    return why, run.policy.saves, run


def test_the_best_model_is_that_of_the_best_ten_steps(tmp_path, monkeypatch):
    rewards = [0.1] * 12 + [0.8] * 6 + [0.5] * 20
    why, saves, run = played(tmp_path, rewards, monkeypatch)
    means = [statistics.fmean(rewards[k - 10 : k]) for k in range(10, len(rewards) + 1)]
    rising, best = [], -1.0
    for step, value in enumerate(means, 10):
        if value > best + 1e-12:
            best = value
            rising.append(step)
    assert why == "" and [step for name, step in saves if name == "best"] == rising
    assert run.counts.best_step == rising[-1] and run.counts.best == pytest.approx(max(means))


def test_a_collapse_ends_a_run_and_names_the_best(tmp_path, monkeypatch):
    rewards = [0.6] * 15 + [0.0] * 30
    why, saves, run = played(tmp_path, rewards, monkeypatch)
    # ten steps' mean is below half of .6 for the first time with six zeros among them
    assert (
        run.counts.step == 21 and why.startswith("collapse: reward:") and why.endswith("best/ is the model of step 10")
    )
    assert saves[-1] == ("checkpoint", 21) and run.said == [f"step 21: {lines(tmp_path / 'metrics.jsonl')[-1]['alarms'][0]}"]  # fmt: skip


def test_a_low_reward_that_falls_is_no_collapse(tmp_path, monkeypatch):
    why, _, run = played(tmp_path, [0.1] * 15 + [0.0] * 15, monkeypatch)
    assert why == "" and run.counts.step == 30
