"""The pipelines of this folder and the jobs of its crontab, run as a user runs them and as cron does.

What a script prints is worked out again from the records that it leaves, with no code of the tools: which ids went in and came out, what
was carried along, how often answers are right. Every script is started a second time, which must change nothing. The crontab is read
by the rules of crontab(5), its jobs are started twice at once, killed in the middle, and started again.
"""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BIN = Path(sys.executable).parent
# One thread: the tests' other worker needs the second core, and two teams of threads on two cores starve.
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{BIN}:{os.environ['PATH']}"}
NAMES = ["adapter", "curriculum", "long-context", "map", "mixture", "needle-answers", "rollouts"]


def run(name, folder):
    done = subprocess.run(
        ["bash", HERE / f"{name}.sh", folder],
        cwd=ROOT,
        env=ENV,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{name}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def published(folder):
    """SHA-256 of every file that a verb published: those with a manifest beside them, or in their folder."""
    found = {}
    for manifest in sorted(folder.rglob("*manifest.json")):
        of = [manifest.with_name(manifest.name.removesuffix(".manifest.json"))]
        if manifest.name == "manifest.json":  # dser writes that of a run again, with the time of the last start
            of = [path for path in manifest.parent.rglob("*") if path.is_file() and path != manifest]
        for path in of:
            found[path] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def twice(name, folder):
    """Starts a pipeline, and again: the second start prints the same and changes no byte."""
    printed = run(name, folder)
    before = published(folder)
    assert before and not list(folder.rglob(".*.journal")) and not list(folder.rglob(".*.tmp"))
    assert run(name, folder) == printed
    assert published(folder) == before
    assert len(printed.splitlines()) == 1
    return printed


def numbers(text):
    return [float(found) for found in re.findall(r"(?<![\w.])[-+]?\d+(?:\.\d+)?", text)]


def share(values):
    values = list(values)
    return sum(values) / len(values)


def by_problem(verdicts):
    """{id: [correct, ...]}"""
    found = defaultdict(list)
    for one in verdicts:
        found[one["id"]].append(one["correct"])
    return found


def pass_at_1(verdicts):
    return share(share(each) for each in by_problem(verdicts).values())


def carries(record, task):
    """A record still holds every field of the task that it began as; meta may have grown."""
    assert {**record, "meta": None, "schema": None} == {**record, **task, "meta": None, "schema": None}
    assert (task.get("meta") or {}).items() <= (record.get("meta") or {}).items()


def test_every_script_is_a_target_and_says_who_runs_it():
    assert sorted(path.stem for path in HERE.glob("*.sh")) == NAMES
    told = (HERE / "README.md").read_text()
    for name in NAMES:
        script = HERE / f"{name}.sh"
        assert os.access(script, os.X_OK) and f"make pipeline-{name}" in told
        text = script.read_text()
        assert re.match(r"#!/usr/bin/env bash\n# Who: .*\n(#  .*\n)*# What: .*\n(#  .*\n)*# Out: ", text)
        assert "set -euo pipefail\n" in text and f"out=${{1:-out/pipelines/{name}}}\n" in text
        env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key != "MFLAGS"}
        done = subprocess.run(
            ["make", "-n", f"pipeline-{name}"], cwd=ROOT, env=env, capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1].endswith(f" bash tests/pipelines/{name}.sh")


# ---------------------------------------------------------------- the pipelines


@pytest.fixture(scope="module")
def needle_answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("needle-answers")
    return folder, twice("needle-answers", folder)


@pytest.mark.xdist_group("needle-answers")  # the crontab's first job is compared with it
def test_needle_answers(needle_answers):
    folder, printed = needle_answers
    rows = [*lines(folder / "needles.jsonl"), *lines(folder / "questions.jsonl")]
    assert len(rows) == 6 and len({row["id"] for row in rows}) == 6
    voted, judged = lines(folder / "voted.jsonl"), lines(folder / "judged.jsonl")
    assert [one["id"] for one in voted] == [row["id"] for row in rows]
    assert [(one["id"], one["sample"]) for one in judged] == [(row["id"], k) for row in rows for k in (0, 1)]
    for row, one in zip(rows, voted, strict=True):
        carries(one, row)
    for row, one in zip([row for row in rows for _ in (0, 1)], judged, strict=True):
        carries(one, row)

    # A chain's response is the last text that solving or refining left in the log of calls.
    last = {}
    for step in sorted(lines(folder / "run" / "steps.jsonl"), key=lambda step: step["iteration"]):
        if step["role"] in ("solve", "refine") and "text" in step:
            last[step["id"], step["chain"]] = step["text"]
    assert last and all(one["response"] == last.get((one["id"], one["sample"]), "") for one in judged)

    # Right means that the answer stands in the response; for needles, that it is what follows "answer is", else its last number.
    stands = {(one["id"], one["sample"]): any(gold in one["response"] for gold in one["answer"]) for one in judged}
    for one in judged:
        assert stands[one["id"], one["sample"]] or not one["correct"]
        if one["id"].startswith("needle"):
            found = re.findall(r"answer is:? *(\d+)", one["response"], re.I) or re.findall(r"\d+", one["response"])
            assert one["correct"] == (found[-1:] == one["answer"])
    scored = {(one["id"], one["sample"]): one["reward"] for one in lines(folder / "scored.jsonl")}
    assert scored == {key: float(value) for key, value in stands.items()}
    votes = [one["meta"]["dser"]["answer"] in one["answer"] for one in voted]
    assert numbers(printed) == [round(pass_at_1(judged), 3), sum(votes), 6, round(share(stands.values()), 3)]
    assert any(one["correct"] for one in judged), "SmolLM2 finds needles in texts of 256 tokens"


@pytest.mark.xdist_group("small-policy")
@pytest.mark.deep
def test_curriculum(tmp_path):
    printed = twice("curriculum", tmp_path)
    mixed = lines(tmp_path / "mixed.jsonl")
    parts = {"chains": "keychain-musique", "plain": "qa-musique", "sums": "math"}
    drawn = {name: {one["id"]: one for one in lines(tmp_path / f"{name}.jsonl")} for name in parts}
    source = {part: drawn[name] for name, part in parts.items()}
    assert {one["meta"]["part"] for one in mixed} == set(source)
    for one in mixed:
        part, _, name = one["id"].partition("/")
        before = source[part][name]
        assert one["answer"] == before["answer"] and (before.get("meta") or {}).items() <= one["meta"].items()

    # Six steps of eight groups of eight trajectories (four of a group are learnt from), all of them of rows of the mix.
    tasks = {one["id"]: one for one in mixed}
    rewards, steps = defaultdict(list), lines(tmp_path / "run" / "metrics.jsonl")
    assert [one["step"] for one in steps] == list(range(1, 7))
    for step, metrics in enumerate(steps, 1):
        made = lines(tmp_path / "run" / "rollouts" / f"{step}.jsonl")
        assert sorted(Counter(one["id"] for one in made).values()) == [8] * 8
        for one in made:
            assert one["answer"] == tasks[one["id"]]["answer"] and one["meta"] == tasks[one["id"]]["meta"]
            rewards[one["meta"]["part"]].append(one["reward"])
            boxed = re.findall(r"\\boxed\{([^{}]*)\}", one["response"])
            assert one["reward"] == 0 or boxed[-1] in one["answer"]
        assert metrics["reward/mean"] == pytest.approx(share(one["reward"] for one in made))
    told = [number for part in sorted(rewards) for number in (round(share(rewards[part]), 3), len(rewards[part]))]
    assert numbers(printed) == told
    assert 0 < share(rewards["math"]) < 1, "groups with right and wrong answers, to learn from"
    was, now = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("cold", "run/best"))
    assert len(was) > 100_000 and was != now


@pytest.mark.xdist_group("small-policy")
def test_rollouts(tmp_path):
    printed = twice("rollouts", tmp_path)
    tasks = lines(tmp_path / "sums.jsonl")[:16]
    made, chosen = lines(tmp_path / "rollouts.jsonl"), lines(tmp_path / "resampled.jsonl")
    assert Counter(one["id"] for one in made) == {task["id"]: 8 for task in tasks}
    assert [(one["id"], one["rollout"]) for one in chosen] == [(one["id"], one["rollout"]) for one in made]
    assert all(was.items() <= now.items() for was, now in zip(made, chosen, strict=True))
    told = []
    for name in ("before", "after"):
        verdicts = lines(tmp_path / f"{name}.jsonl")
        kept = [one for one in chosen if name == "before" or one["kept"]]
        assert [(one["id"], one["rollout"]) for one in verdicts] == [(one["id"], one["rollout"]) for one in kept]
        for one in verdicts:  # two graders agree wherever the box holds a number
            if re.findall(r"\\boxed\{([^{}]*)\}", one["response"])[-1:] == one["answer"].split():
                assert one["correct"] and one["reward"] == 1
            elif re.search(r"\\boxed\{\d+\}</answer>$", one["response"]):
                assert not one["correct"] and one["reward"] == 0
        calls = [
            call["status"] for one in verdicts if one["correct"] for turn in one["turns"] for call in turn["calls"]
        ]
        told.append((pass_at_1(verdicts), share(status != "ok" for status in calls)))
    (all_right, all_failed), (kept_right, kept_failed) = told
    assert numbers(printed) == [1, *(round(value, 3) for value in (all_right, kept_right, all_failed, kept_failed))]
    # Half of every group that has both right and wrong ones, and fewer failed calls among the right ones.
    rewards = defaultdict(set)
    for one in made:
        rewards[one["id"]].add(one["reward"])
    kept = Counter(one["id"] for one in chosen if one["kept"])
    assert kept == {name: 4 for name, each in rewards.items() if len(each) == 2} and kept
    assert kept_failed < all_failed


@pytest.mark.deep
def test_mixture(tmp_path):
    printed = twice("mixture", tmp_path)
    domains = ["python_code", "topics", "bible"]
    planned, followed = lines(tmp_path / "schedule.jsonl"), lines(tmp_path / "run" / "schedule.jsonl")
    assert len(planned) == len(followed) == 6
    for was, now in zip(
        planned, followed, strict=True
    ):  # whole rows, and at the end no more source text than the budget has
        assert now["weights"] == pytest.approx(was["weights"], abs=0.01)
    assert all(set(one["weights"]) == set(domains) for one in planned)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert sum(result["tokens"].values()) == 49152
    for (
        domain
    ) in domains:  # what was read is what was planned, but for rows of 64 tokens that a change of weights splits
        read = sum(one["weights"][domain] for one in planned) * 49152 / 6
        assert abs(result["tokens"][domain] - read) < 12 * 64
    source = sum(result["tokens"][domain] for domain in domains[1:])
    assert 0 < source <= 0.25 * 49152 + 12 * 64
    assert len({tuple(one["weights"].values()) for one in planned}) > 1, "a schedule, not one mixture"

    # Each loss is that of its own file of results, as printed; the model has learnt what it read most of.
    told = []
    for domain in ("python_code", "bible"):
        for name in ("tiny", "run"):
            told.append(json.loads((tmp_path / f"{domain}-{name}.json").read_text())["loss"])
    assert numbers(printed) == [round(value, 3) for value in told]
    assert told[1] < told[0]


@pytest.mark.deep
def test_long_context(tmp_path):
    printed = twice("long-context", tmp_path)
    rows = lines(tmp_path / "needles.jsonl")
    assert len(rows) == 4
    told = []
    for way in ("antkv", "seer", "dense"):
        samples, scored = lines(tmp_path / f"{way}.jsonl"), lines(tmp_path / f"{way}-scored.jsonl")
        assert [one["id"] for one in samples] == [one["id"] for one in scored] == [row["id"] for row in rows]
        found = defaultdict(list)
        for row, sample, one in zip(rows, samples, scored, strict=True):
            carries(sample, row)
            assert one["reward"] == (row["answer"][0] in sample["response"])
            found[row["meta"]["length"]].append(one["reward"])
        told.extend(number for length in sorted(found) for number in (length, round(share(found[length]), 2)))
        if way == "antkv":
            told.append(round(share(one["meta"]["antkv"]["effective_bits"] for one in samples), 2))
            assert all(one["meta"]["antkv"]["quantised_tokens"] > 0 for one in samples)
            assert all(one["meta"]["antkv"]["effective_bits"] < 16 for one in samples)
        else:
            sparsity = [one["meta"]["sparsity"] for one in samples]
            told.append(round(100 * share(one["density"] for one in sparsity)))
            assert all((one["density"] < 1) == (way == "seer") for one in sparsity)
    assert numbers(printed) == told


def test_map(tmp_path):
    printed = twice("map", tmp_path)
    questions = lines(HERE / "map_questions.jsonl")
    example = ROOT / "tools" / "zerorepo" / "examples" / "tallybook"
    mapped = (tmp_path / "map.txt").read_text()
    assert all((example / one["answer"]).is_file() and one["answer"] in mapped for one in questions)
    graded, localized = lines(tmp_path / "graded.jsonl"), lines(tmp_path / "localized.jsonl")
    assert [(one["id"], one["sample"]) for one in graded] == [(one["id"], k) for one in questions for k in (0, 1)]
    assert [one["id"] for one in localized] == [one["id"] for one in questions]
    for question, one in zip([one for one in questions for _ in (0, 1)], graded, strict=True):
        carries(one, question)
    for one in graded:
        named = re.findall(r"answer: *(\S+)", one["response"], re.IGNORECASE)
        assert one["correct"] == ([name.rstrip(".,;:!*") for name in named[-1:]] == [one["answer"]])
    assert all(one["correct"] == (one["response"] == f"\\boxed{{{one['answer']}}}") for one in localized)
    assert numbers(printed) == [len(questions), round(pass_at_1(graded), 3), round(pass_at_1(localized), 3)]
    assert pass_at_1(localized) > 0.5


def test_adapter(tmp_path):
    printed = twice("adapter", tmp_path)
    tasks = lines(ROOT / "tools" / "dser" / "examples" / "sums.jsonl")
    assert not {one["prompt"] for one in tasks} & {one["prompt"] for one in lines(tmp_path / "train.jsonl")}
    told = []
    for name in ("base", "tuned"):
        verdicts = lines(tmp_path / f"{name}.jsonl")
        assert [(one["id"], one["sample"]) for one in verdicts] == [(task["id"], k) for task in tasks for k in range(8)]
        for one in verdicts:
            digits = [int(digit) for digit in one["prompt"]]  # two operands, column by column
            a, b = (int("".join(map(str, digits[at::2]))) for at in (0, 1))
            assert one["correct"] == (one["response"] == f"{a + b:010}")
        told.append(pass_at_1(verdicts))
        assert {step["model"] for step in lines(tmp_path / name / "steps.jsonl")} == {
            "tools/dser/examples/carry" if name == "base" else str(tmp_path / "adapter")
        }
    base, tuned = told
    assert numbers(printed)[:3] == [round(base, 3), round(tuned, 3), round(tuned - base, 3)]
    assert numbers(printed)[3] > 0, "the interval of the gain is above 0"


# ---------------------------------------------------------------- the crontab


def jobs(text):
    """(schedule, command, stdin) of each job and the variables, by crontab(5)."""
    variables, found = {}, []
    for line in text.splitlines():
        line = line.strip(" \t")
        if not line or line.startswith("#"):
            continue
        if setting := re.match(r"""(["']?)(\w+)\1\s*=\s*(.*)$""", line):
            value = setting[3].strip()
            quoted = re.fullmatch(r"""(["'])(.*)\1""", value)
            variables[setting[2]] = quoted[2] if quoted else value
            continue
        *when, command = line.split(None, 5)
        assert len(when) == 5 and all(re.fullmatch(r"[\d*,/-]+", field) for field in when)
        # An unescaped % ends the command; what follows is its stdin, every further one a line break.
        first, *rest = re.split(r"(?<!\\)%", command)
        found.append((" ".join(when), first.replace("\\%", "%"), "\n".join(rest).replace("\\%", "%")))
    return variables, found


VARIABLES, JOBS = jobs((HERE / "crontab").read_text())


def checkout(folder):
    """A folder that stands for the placeholder: it sees the repository and the environment, and its out/ is its own."""
    for name in ("tools", "tests"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(BIN.parent)
    return folder


def fire(job, folder):
    """Starts a job as cron does, in a session of its own."""
    _, command, stdin = JOBS[job]
    env = {"HOME": os.environ.get("HOME", "/root"), "LOGNAME": "tenfold", "USER": "tenfold", "SHELL": "/bin/sh"}
    env |= {name: value.replace("/srv/tenfold", str(folder)) for name, value in VARIABLES.items()}
    if "TENFOLD_CACHE" in os.environ:  # only where the machine's own settings move it
        env["TENFOLD_CACHE"] = os.environ["TENFOLD_CACHE"]
    process = subprocess.Popen(
        [env["SHELL"], "-c", command],
        cwd=env["HOME"], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, text=True,
    )  # fmt: skip
    process.stdin.write(stdin)
    process.stdin.close()
    return process


def until(what, *processes):
    """Waits for something to be so while processes run; a bound, so that a failure ends."""
    end = time.monotonic() + 1800
    while not what():
        assert time.monotonic() < end
        assert all(process.poll() is None for process in processes), [one.stdout.read() for one in processes]
        time.sleep(0.02)


def calls_of(folder):
    steps = folder / "steps.jsonl"
    return len(steps.read_bytes().splitlines()) if steps.exists() else 0


def started_twice_and_killed(job, folder, output, lock=None):
    """Two starts at once, of which one works; that one is killed in the middle; a third finishes, a fourth has nothing to do.

    lock: flock's file, which what the job started holds too: workers see a moment later that their owner is dead.
    """
    pair = [fire(job, folder), fire(job, folder)]
    until(lambda: any(process.poll() is not None for process in pair))
    loser, winner = sorted(pair, key=lambda process: process.poll() is None)
    assert loser.returncode == 75 and winner.poll() is None
    until(lambda: calls_of(output()) > 0, winner)
    os.killpg(winner.pid, signal.SIGKILL)
    winner.wait()
    if lock is not None:
        until(lambda: subprocess.run(["flock", "-n", lock, "true"]).returncode == 0)
    done = calls_of(output())
    assert done > 0 and not (output() / "answers.jsonl").exists()
    again = fire(job, folder)
    again.wait()
    assert again.returncode == 0, again.stdout.read()
    assert calls_of(output()) > done
    before = published(folder / "out")
    idle = fire(job, folder)
    idle.wait()
    assert idle.returncode == 0 and published(folder / "out") == before
    assert [process.stdout.read() for process in (loser, again, idle)] == ["", "", ""], "cron would mail it"


def test_the_crontab_is_one_that_cron_takes():
    assert VARIABLES["SHELL"] == "/bin/bash" and VARIABLES["TENFOLD"] == "/srv/tenfold"
    assert not any("$" in value for value in VARIABLES.values()), "cron puts no variable into another"
    assert [when for when, _, _ in JOBS] == ["17 2 * * *", "5 * * * *"]
    assert all(len(command) < 990 and not stdin for _, command, stdin in JOBS)
    assert "date +%F" in JOBS[0][1]


def test_cron_rules():
    variables, found = jobs("A = b c \n B=' d '\n\n# no\n1 2 * * 3 echo a\\%b%in%put\n")
    assert variables == {"A": "b c", "B": " d "} and found == [("1 2 * * 3", "echo a%b", "in\nput")]


@pytest.mark.xdist_group("needle-answers")
def test_the_nightly_job(needle_answers, tmp_path):
    folder = checkout(tmp_path)
    days = folder / "out" / "cron" / "needle-answers"
    lock = folder / "out" / "cron" / "needle-answers.lock"
    started_twice_and_killed(0, folder, lambda: next(days.glob("*/run"), days), lock)
    (day,) = days.iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", day.name)
    undisturbed, printed = needle_answers
    for name in ("needles", "questions", "voted", "chains", "judged", "scored"):
        assert (day / f"{name}.jsonl").read_bytes() == (undisturbed / f"{name}.jsonl").read_bytes(), name
    log = (folder / "out" / "cron" / "needle-answers.log").read_text()
    assert len(re.findall(r"^\d{4}-\d\d-\d\dT", log, re.MULTILINE)) == 4 and log.count("failed to get lock") == 1
    assert log.count(printed) == 2


def test_the_hourly_job(tmp_path):
    (tmp_path / "killed").mkdir()
    (tmp_path / "calm").mkdir()
    folder, calm = checkout(tmp_path / "killed"), checkout(tmp_path / "calm")
    started_twice_and_killed(1, folder, lambda: folder / "out" / "cron" / "sums")
    process = fire(1, calm)
    process.wait()
    assert process.returncode == 0
    here, there = folder / "out" / "cron" / "sums", calm / "out" / "cron" / "sums"
    for name in ("answers.jsonl", "chains.jsonl"):
        assert (here / name).read_bytes() == (there / name).read_bytes()
    calls = [(one["id"], one["chain"], one["iteration"], one["role"]) for one in lines(here / "steps.jsonl")]
    assert len(calls) == len(set(calls)) == 20 * 16 * (1 + 2 * 8)
    log = (folder / "out" / "cron" / "sums.log").read_text()
    assert len(re.findall(r"^\d{4}-\d\d-\d\dT", log, re.MULTILINE)) == 4 and log.count("another run is writing it") == 1
    assert log.count("dser: 20 problems, ") == 2 and log.count("dser: 20 problems, 0 calls, ") == 1
