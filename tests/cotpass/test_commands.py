"""The installed command, end to end: pipes, resume after kill -9, locks, refusals, secrets."""

import base64
import json
import os
import random
import resource
import signal
import subprocess
import time

import pytest
from commandline import BIN, LoopbackModel, cotpass, read, samples, start, tasks, write

VERBS = ["sample", "grade", "judge", "metric", "compare", "dynamics", "convert", "calibrate", "theory", "doctor"]


def leftovers(folder):
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


# ------------------------------------------------------------------ help


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_is_instant_and_has_an_example(verb):
    best = 9.0
    for _ in range(3):
        # Processor time, which is the wall's on an idle machine and does not grow with what else runs.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = cotpass(*([verb] if verb else []), "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert result.returncode == 0 and best < 0.3
    assert not verb or ("Example" in result.stdout and f"cotpass {verb}" in result.stdout)


def test_version():
    assert cotpass("--version").stdout.strip() == "cotpass, version 0.1.0"


# ------------------------------------------------------------------ the main line


def test_pipeline_from_tasks_to_numbers(tmp_path):
    with LoopbackModel() as model:
        write(tmp_path / "tasks.jsonl", tasks(8))
        line = (
            f"set -o pipefail; {BIN} sample {tmp_path}/tasks.jsonl --model {model.uri} -n 8 -q"
            f" | {BIN} grade -q - | {BIN} judge -q - --judge steps | {BIN} metric - --json"
        )
        result = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    # The loopback model has few replies; that they repeat is worth a warning, and nothing else is said.
    assert result.stderr.count("\n") == 1 and "repeat another text" in result.stderr
    report = json.loads(result.stdout)
    assert report["n_problems"] == 8 and report["k"] == [1, 2, 4, 8] and len(model.bodies) == 64
    # The same by hand, from the replies the model gives.
    from math import comb

    c, d = [0] * 8, [0] * 8
    for body in model.bodies:
        i = int(body["messages"][-1]["content"].split()[2])
        text = model.reply(body)
        right = f"boxed{{{i + 1}}}" in text
        c[i] += right
        d[i] += right and f"= {i + 1}," in text
    for k in (1, 2, 4, 8):
        assert report["pass"][str(k)]["value"] == pytest.approx(sum(1 - comb(8 - x, k) / comb(8, k) for x in c) / 8)
        for rule in ("any", "majority", "all"):
            value = report["cot_pass"][rule][str(k)]["value"]
            assert value == pytest.approx(sum(1 - comb(8 - x, k) / comb(8, k) for x in d) / 8)
    assert 0 < sum(d) < sum(c)


def test_model_judge_votes_and_seeds(tmp_path):
    write(tmp_path / "g.jsonl", [{**r, "correct": r["sample"] == 0} for r in samples(5)])
    reply = lambda body: "\\boxed{yes}" if body["seed"] % 2 else "\\boxed{no}"  # noqa: E731
    with LoopbackModel(reply=reply) as model:
        result = cotpass("judge", tmp_path / "g.jsonl", "--model", model.uri, "--votes", 3, "-o", tmp_path / "j.jsonl")
    assert result.returncode == 0, result.stderr
    judged = read(tmp_path / "j.jsonl")
    assert len(model.bodies) == 15 and len({b["seed"] for b in model.bodies}) == 15
    assert [len(r.get("votes", [])) for r in judged] == [3, 0] * 5
    assert {v for r in judged for v in r.get("votes", [])} == {"yes", "no"}
    assert all(entry["model"] and entry["text"] for r in judged for entry in r.get("judge", []))


def test_record_then_replay_gives_the_same_bytes_with_no_model(tmp_path):
    write(tmp_path / "t.jsonl", tasks(5))
    with LoopbackModel() as model:
        common = ["sample", tmp_path / "t.jsonl", "-n", 3]
        assert (
            cotpass(*common, "--model", model.uri, "--record", tmp_path / "rec", "-o", tmp_path / "a.jsonl").returncode
            == 0
        )
    again = cotpass(*common, "--model", f"replay:{tmp_path}/rec", "-o", tmp_path / "b.jsonl")
    assert again.returncode == 0, again.stderr
    assert [r["response"] for r in read(tmp_path / "a.jsonl")] == [r["response"] for r in read(tmp_path / "b.jsonl")]
    other = cotpass(*common, "--model", f"replay:{tmp_path}/rec", "--seed", 1)
    assert other.returncode == 3 and "seed" in other.stderr and other.stderr.count("\n") == 1


def test_server_down_is_exit_three(tmp_path):
    write(tmp_path / "t.jsonl", tasks(2))
    result = cotpass(
        "sample", tmp_path / "t.jsonl", "--model", "http://127.0.0.1:9/v1#m", "--max-retries", 1, "-o", tmp_path / "o"
    )
    assert result.returncode == 3 and "127.0.0.1:9" in result.stderr and not (tmp_path / "o").exists()


# ------------------------------------------------------------------ kill, lock, identity


def interrupted(folder, model, kills, rng, verb=("sample", "t.jsonl", "-n", "6"), signals=(signal.SIGKILL,)):
    """Run VERB in FOLDER, killing it KILLS times, then to the end. Returns the output's bytes."""
    args = [
        verb[0],
        folder / verb[1],
        *verb[2:],
        "--model",
        model.uri,
        "--concurrency",
        "4",
        "-q",
        "-o",
        folder / "out.jsonl",
    ]
    for _ in range(kills):
        process = start(*args)
        try:
            process.wait(rng.uniform(0.15, 0.9))
        except subprocess.TimeoutExpired:
            process.send_signal(rng.choice(signals))
        process.communicate()
        # -2 and -15: the signal came before the command had begun, and so had nothing to save.
        if process.returncode not in (-9, 0, 130, 143, -2, -15):
            raise AssertionError(process.returncode)
    result = cotpass(*args)
    assert result.returncode == 0, result.stderr
    return (folder / "out.jsonl").read_bytes()


def check_kills(tmp_path, kills, seed, **more):
    write(tmp_path / "t.jsonl", tasks(12))
    (tmp_path / "whole").mkdir()
    write(tmp_path / "whole" / "t.jsonl", tasks(12))
    with LoopbackModel(delay=0.05) as model:
        whole = interrupted(tmp_path / "whole", model, 0, None)
        needed = len(model.bodies)
        assert needed == 72
        model.bodies.clear()
        broken = interrupted(tmp_path, model, kills, random.Random(seed), **more)
        assert broken == whole
        assert needed <= len(model.bodies) <= needed + 4 * kills  # nothing repeated but what was in flight
    assert leftovers(tmp_path) == []


def test_kill_and_same_command_gives_the_identical_file(tmp_path):
    check_kills(tmp_path, 3, 0)


def test_interrupt_and_terminate_save_the_work(tmp_path):
    check_kills(tmp_path, 2, 1, signals=(signal.SIGINT, signal.SIGTERM))


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(20))
def test_twenty_kills(tmp_path, seed):
    check_kills(tmp_path, 4, seed)


def test_judge_resumes_by_vote(tmp_path):
    write(tmp_path / "g.jsonl", [{**r, "correct": True} for r in samples(12)])
    with LoopbackModel(delay=0.05, reply=lambda body: "\\boxed{yes}") as model:
        interrupted(tmp_path, model, 2, random.Random(3), verb=("judge", "g.jsonl", "--votes", "3"))
        assert 72 <= len(model.bodies) <= 72 + 8


def test_grade_killed_and_continued_is_identical(tmp_path):
    records = samples(4000)
    write(tmp_path / "s.jsonl", records)
    args = ["grade", tmp_path / "s.jsonl", "-q", "-o", tmp_path / "g.jsonl"]
    for wait in (0.25, 0.35):
        process = start(*args)
        time.sleep(wait)
        process.kill()
        process.communicate()
    assert cotpass(*args).returncode == 0
    broken = (tmp_path / "g.jsonl").read_bytes()
    (tmp_path / "g.jsonl").unlink()
    assert cotpass(*args, "--overwrite").returncode == 0
    assert (tmp_path / "g.jsonl").read_bytes() == broken and len(read(tmp_path / "g.jsonl")) == 8000


def test_second_start_on_a_held_output_exits_75_and_first_is_unharmed(tmp_path):
    write(tmp_path / "t.jsonl", tasks(10))
    with LoopbackModel(delay=1.0) as model:
        args = [
            "sample",
            tmp_path / "t.jsonl",
            "-n",
            "2",
            "--model",
            model.uri,
            "--concurrency",
            "4",
            "-o",
            tmp_path / "o.jsonl",
        ]
        first = start(*args)
        while not model.bodies:
            time.sleep(0.02)
        second = cotpass(*args)
        assert second.returncode == 75 and "o.jsonl" in second.stderr
        assert first.poll() is None  # it did not wait for the first
        first.communicate()
        assert first.returncode == 0 and len(read(tmp_path / "o.jsonl")) == 20


def test_changed_option_is_named_and_overwrite_starts_anew(tmp_path):
    write(tmp_path / "t.jsonl", tasks(2))
    with LoopbackModel() as model:
        base = ["sample", tmp_path / "t.jsonl", "--model", model.uri, "-o", tmp_path / "o.jsonl"]
        assert cotpass(*base, "-n", 2).returncode == 0
        again = cotpass(*base, "-n", 2)
        assert again.returncode == 0 and "complete already" in again.stderr and len(model.bodies) == 4
        refused = cotpass(*base, "-n", 3)
        assert refused.returncode == 2 and "--samples 2, this one has 3" in refused.stderr
        assert cotpass(*base, "-n", 3, "--overwrite").returncode == 0
        assert len(read(tmp_path / "o.jsonl")) == 6


# ------------------------------------------------------------------ a filter's manners


def test_broken_pipe_ends_quietly(tmp_path):
    write(tmp_path / "s.jsonl", samples(3000))
    line = f"{BIN} grade -q {tmp_path}/s.jsonl | head -n 1; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert result.stderr == "" and result.stdout.splitlines()[-1] == "141"


def test_ten_thousandth_line_is_reported_and_nothing_is_published(tmp_path):
    text = [json.dumps(r) for r in samples(5500)]
    text[9_999] = '{"id": "x", "sample": 0, "response": 3}'
    (tmp_path / "s.jsonl").write_text("\n".join(text) + "\n")
    result = cotpass("grade", tmp_path / "s.jsonl", "-o", tmp_path / "g.jsonl")
    assert result.returncode == 2 and "s.jsonl:10000: response: expected" in result.stderr
    assert result.stderr.count("\n") == 1 and not (tmp_path / "g.jsonl").exists()


def test_unknown_fields_are_carried_through_every_verb(tmp_path):
    rows = [{**task, "mine": {"x": [1, None]}} for task in tasks(2)]
    write(tmp_path / "t.jsonl", rows)
    with LoopbackModel() as model:
        line = f"{BIN} sample {tmp_path}/t.jsonl --model {model.uri} -n 1 -q | {BIN} grade -q | {BIN} judge --judge steps --scope all -q"
        out = subprocess.run(["bash", "-c", line], capture_output=True, text=True).stdout
    assert [json.loads(row)["mine"] for row in out.splitlines()] == [{"x": [1, None]}] * 2


def test_shards_concatenate_to_the_unsharded_bytes(tmp_path):
    write(tmp_path / "s.jsonl", samples(7))
    whole = cotpass("grade", "-q", tmp_path / "s.jsonl").stdout
    parts = [cotpass("grade", "-q", tmp_path / "s.jsonl", "--shard", f"{i}/3").stdout for i in (1, 2, 3)]
    assert "".join(parts) == whole
    assert cotpass("grade", "-", "--shard", "1/2", stdin="").returncode == 2


def test_workers_do_not_change_the_bytes(tmp_path):
    rows = [
        {**r, "answer": "\\frac{1}{2}", "response": f"\\boxed{{\\frac{{{i}}}{{{2 * i}}}}}"}
        for i, r in enumerate(samples(10), 1)
    ]
    write(tmp_path / "s.jsonl", rows)
    outputs = {cotpass("grade", "-q", tmp_path / "s.jsonl", "--workers", w).stdout for w in (1, 2)}
    assert len(outputs) == 1 and outputs.pop().count('"correct":true') == 20


@pytest.mark.parametrize("where", ["variable", "address"])
def test_no_key_reaches_any_file(tmp_path, where):
    """As bearer token from the variable, or as user:password in the address; plain or in base64."""
    write(tmp_path / "t.jsonl", tasks(2))
    secret = "sk-planted-5f3a"
    basic = base64.b64encode(f"user:{secret}".encode()).decode()
    with LoopbackModel() as model:
        uri = model.uri if where == "variable" else model.uri.replace("//", f"//user:{secret}@")
        result = cotpass(
            "sample", tmp_path / "t.jsonl", "-n", 2, "--model", uri, "--api-key-env", "MY_KEY",
            "--record", tmp_path / "rec.jsonl", "--log", tmp_path / "log", "-o", tmp_path / "o.jsonl",
            env={**os.environ, "MY_KEY": secret},
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        sent = {headers["Authorization"] for headers in model.headers}
        assert sent == {f"Bearer {secret}" if where == "variable" else f"Basic {basic}"}  # it was used
    files = [path for path in tmp_path.rglob("*") if path.name != "t.jsonl"]
    assert {"rec.jsonl", "log", "o.jsonl", "o.jsonl.manifest.json"} <= {path.name for path in files}
    for text in [result.stderr, result.stdout, *(path.read_text() for path in files)]:
        assert secret not in text and basic not in text


def test_dry_run_calls_nothing_and_writes_nothing(tmp_path):
    write(tmp_path / "t.jsonl", tasks(3))
    with LoopbackModel() as model:
        result = cotpass(
            "sample", tmp_path / "t.jsonl", "-n", 4, "--model", model.uri, "--dry-run", "-o", tmp_path / "o.jsonl"
        )
        assert result.returncode == 0 and "calls: 12" in result.stdout and "What is 0 + 1?" in result.stdout
        write(tmp_path / "g.jsonl", [{**r, "correct": True} for r in samples(2)])
        judged = cotpass("judge", tmp_path / "g.jsonl", "--model", model.uri, "--dry-run")
        assert "calls: 12" in judged.stdout and "\\boxed{yes}" in judged.stdout
        assert model.bodies == [] and leftovers(tmp_path) == [] and not (tmp_path / "o.jsonl").exists()


def test_budget_and_time(tmp_path):
    write(tmp_path / "t.jsonl", tasks(10))
    with LoopbackModel(delay=0.02) as model:
        base = [
            "sample",
            tmp_path / "t.jsonl",
            "-n",
            2,
            "--model",
            model.uri,
            "--concurrency",
            1,
            "-o",
            tmp_path / "o.jsonl",
        ]
        result = cotpass(*base, "--budget-tokens", 60)
        assert result.returncode == 0 and "status: budget" in result.stderr
        assert 0 < len(read(tmp_path / "o.jsonl")) < 20
        assert json.loads((tmp_path / "o.jsonl.manifest.json").read_text())["status"] == "budget"
        assert cotpass(*base).returncode == 0 and len(read(tmp_path / "o.jsonl")) == 20
        assert 20 <= len(model.bodies) <= 21
    with LoopbackModel(delay=0.2) as model:
        base = [
            "sample",
            tmp_path / "t.jsonl",
            "-n",
            2,
            "--model",
            model.uri,
            "--concurrency",
            2,
            "-o",
            tmp_path / "p.jsonl",
        ]
        result = cotpass(*base, "--max-time", "1s")
        assert result.returncode == 1 and "--max-time" in result.stderr and not (tmp_path / "p.jsonl").exists()
        model.delay = 0
        assert cotpass(*base).returncode == 0 and len(model.bodies) <= 20 + 2


# ------------------------------------------------------------------ grading and bad input


def test_grade_counts_truncated_empty_failed_and_gold_less(tmp_path):
    base = {"id": "a", "answer": "4", "finish_reason": "stop"}
    rows = [
        {**base, "sample": 0, "response": "\\boxed{4}"},
        {**base, "sample": 1, "response": "\\boxed{4}", "finish_reason": "length"},
        {**base, "sample": 2, "response": ""},
        {**base, "sample": 3, "response": "", "finish_reason": "error", "error": "boom"},
        {**base, "sample": 4, "response": "\\boxed{5}"},
    ]
    write(tmp_path / "s.jsonl", rows)
    result = cotpass("grade", tmp_path / "s.jsonl", "-o", tmp_path / "g.jsonl")
    assert result.returncode == 0 and "1 correct, 3 wrong, 1 ungradable" in result.stderr
    assert [r["grade"] for r in read(tmp_path / "g.jsonl")] == ["correct", "wrong", "wrong", "ungradable", "wrong"]
    kept = cotpass("grade", "-q", tmp_path / "s.jsonl", "--truncated", "grade").stdout.splitlines()
    assert json.loads(kept[1])["correct"] is True
    write(tmp_path / "s.jsonl", [rows[0], {**rows[4], "answer": None}])
    result = cotpass("grade", tmp_path / "s.jsonl", "-o", tmp_path / "h.jsonl")
    assert result.returncode == 1 and "no gold answer" in result.stderr
    assert [r["grade"] for r in read(tmp_path / "h.jsonl")] == ["correct", "ungradable"]


def test_grading_verdicts_of_harnesses(tmp_path):
    write(
        tmp_path / "r.jsonl",
        [{"task_id": "H/0", "completion": "x", "passed": True}, {"task_id": "H/0", "completion": "y", "passed": False}],
    )
    assert [json.loads(x)["correct"] for x in cotpass("grade", "-q", tmp_path / "r.jsonl").stdout.splitlines()] == [
        True,
        False,
    ]
    row = {"task_id": "1", "solutions": ["\\boxed{4}", "\\boxed{5}"], "ground_truth": "4", "correct": [False, False]}
    write(tmp_path / "e.jsonl", [row])
    ours = cotpass("grade", "-q", tmp_path / "e.jsonl").stdout.splitlines()
    theirs = cotpass("grade", "-q", tmp_path / "e.jsonl", "--trust-grades").stdout.splitlines()
    assert [json.loads(x)["correct"] for x in ours] == [True, False]
    assert [json.loads(x)["correct"] for x in theirs] == [False, False]


@pytest.mark.parametrize(
    ("verb", "rows", "message"),
    [
        (["grade"], [{"id": "a", "sample": 0, "response": "x", "answer": "1"}] * 2, ":2: id: a#0 appears twice"),
        (["judge", "--judge", "steps"], [{"id": "a", "sample": 0, "response": "x"}], ":1: correct: expected"),
        (["metric"], [{"id": "a", "sample": 0, "response": "x"}], "correct"),
        (["metric"], [{"id": "a", "sample": 0, "response": "x", "correct": "yes"}], ":1: correct: expected bool"),
        (["metric"], [{"id": "a", "sample": 0, "response": "x", "correct": True, "votes": ["maybe"]}], r"votes\[0\]"),
        (["metric", "--k", "2"], [{"id": "a", "sample": 0, "response": "x", "correct": True}], "2"),
        (["metric"], [], "expected at least one"),
        (["sample", "--model", "nope:thing"], tasks(1), "nope"),
        (["judge"], [], "name a judge"),
        (["judge", "--judge", "steps", "--model", "smollm2"], [], "leave out --model"),
    ],
)
def test_bad_input_is_one_line_and_exit_two(tmp_path, verb, rows, message):
    import re

    write(tmp_path / "in.jsonl", rows)
    result = cotpass(verb[0], tmp_path / "in.jsonl", *verb[1:])
    assert result.returncode == 2, result.stderr
    assert re.search(message, result.stderr) and result.stderr.count("\n") == 1 and "Traceback" not in result.stderr


def test_missing_model_folder_is_one_line(tmp_path):
    write(tmp_path / "t.jsonl", tasks(1))
    result = cotpass("sample", tmp_path / "t.jsonl", "--model", tmp_path / "no-such-model")
    assert result.returncode in (2, 3) and result.stderr.count("\n") == 1 and "no-such-model" in result.stderr


def test_metric_unjudged_is_exit_one_with_bounds(tmp_path):
    rows = [
        {**r, "correct": True, "votes": ["yes" if i else "abstain"], "judge": [{"steps": [], "first_wrong": None}]}
        for i, r in enumerate(samples(5))
    ]
    write(tmp_path / "j.jsonl", rows)
    result = cotpass("metric", tmp_path / "j.jsonl", "--json")
    report = json.loads(result.stdout)
    assert result.returncode == 1 and report["unjudged"] == pytest.approx(0.1)
    assert report["cot_pass"]["majority"]["1"]["value"] is None
    assert report["bounds"]["majority"]["1"] == {"low": pytest.approx(0.9), "high": pytest.approx(1.0)}
    assert cotpass("metric", tmp_path / "j.jsonl", "--max-unjudged", "0.2", "--json").returncode == 0


def test_metric_table_plot_and_counts(tmp_path):
    (tmp_path / "c.csv").write_text("problem,n,c,d\na,10,3,2\nb,10,0,0\n")
    result = cotpass(
        "metric", "--from-counts", tmp_path / "c.csv", "--k", "1,5", "--json", "--plot", tmp_path / "p.png"
    )
    report = json.loads(result.stdout)
    assert result.returncode == 0, result.stderr
    assert report["pass"]["5"]["value"] == pytest.approx((11 / 12) / 2)
    assert list(report["cot_pass"]) == ["counts"] and report["cot_pass"]["counts"]["5"]["value"] == pytest.approx(
        7 / 18
    )
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    table = cotpass("metric", "--from-counts", tmp_path / "c.csv").stdout
    assert "pass" in table.lower() and "0.150" in table
    assert cotpass("metric", "--from-counts", tmp_path / "c.csv", "--plot", tmp_path / "p.txt").returncode == 2


# ------------------------------------------------------------------ what a hostile user found


def test_a_pipe_given_by_name_is_read_once_and_kept(tmp_path):
    write(tmp_path / "s.jsonl", samples(4))
    whole = cotpass("grade", tmp_path / "s.jsonl", "-q").stdout
    for source in (f"<(cat {tmp_path}/s.jsonl)", f"/dev/stdin < {tmp_path}/s.jsonl"):
        command = f"{BIN} grade {source} -q -o {tmp_path}/g.jsonl --overwrite"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        assert done.returncode == 0 and (tmp_path / "g.jsonl").read_text() == whole


def test_ids_that_no_record_has_are_told(tmp_path):
    write(tmp_path / "s.jsonl", samples(3))
    (tmp_path / "ids").write_text("t1\nnope\n")
    result = cotpass("grade", tmp_path / "s.jsonl", "--ids", tmp_path / "ids", "-q")
    assert result.stdout.count("\n") == 2 and "1 ids are in no record: nope" in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["judge", "--model", "smollm2", "--template"], "expected $response in it"),
        (["sample", "--model", "smollm2", "--template"], "expected $question in it"),
        (["judge", "--judge", "steps", "--record", "r", "--template"], "leave out --template"),
    ],
)
def test_a_template_must_hold_what_it_is_about(tmp_path, args, message):
    write(tmp_path / "s.jsonl", [{**r, "correct": True} for r in samples(1)])
    (tmp_path / "template").write_text("say \\boxed{yes}" if "steps" not in args else "$response")
    result = cotpass(args[0], tmp_path / "s.jsonl", *args[1:], tmp_path / "template")
    assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1


def test_a_full_disk_is_one_line():
    line = f'printf \'{{"id":"a","sample":0,"response":"x","answer":"1"}}\\n\' | {BIN} grade -q > /dev/full'
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert result.returncode == 3 and "No space left" in result.stderr and result.stderr.count("\n") == 1


def test_not_a_number_is_in_no_range():
    result = cotpass("sample", "x.jsonl", "--temperature", "nan")
    assert result.returncode == 2 and "expected a finite number" in result.stderr


def test_a_table_whose_reader_is_gone_ends_like_any_filter(tmp_path):
    write(tmp_path / "j.jsonl", [{**r, "correct": True} for r in samples(2)])
    result = subprocess.run(
        ["bash", "-c", f"{BIN} metric {tmp_path}/j.jsonl -q | true; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
    )
    assert result.stdout == "141\n"


def test_an_output_that_must_not_be_replaced_is_refused(tmp_path):
    write(tmp_path / "s.jsonl", samples(1))
    before = (tmp_path / "s.jsonl").read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "s.jsonl")
    for output, message in (
        ("s.jsonl", "is an input as well"),
        ("link", "is an input as well"),
        ("/dev/null", "no regular file"),
    ):
        result = cotpass("grade", tmp_path / "s.jsonl", "-q", "--overwrite", "-o", tmp_path / output)
        assert result.returncode == 2 and message in result.stderr
    assert (tmp_path / "s.jsonl").read_bytes() == before


def test_an_output_that_is_a_link_is_written_through(tmp_path):
    write(tmp_path / "s.jsonl", samples(1))
    (tmp_path / "real.jsonl").write_text("old\n")
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    assert cotpass("grade", tmp_path / "s.jsonl", "-q", "--overwrite", "-o", tmp_path / "link.jsonl").returncode == 0
    assert (tmp_path / "link.jsonl").is_symlink() and len(read(tmp_path / "real.jsonl")) == 2
