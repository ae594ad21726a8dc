"""The command: its help, whole pipelines through it, kills, bad input."""

import json
import re
import shlex
import subprocess
import threading
import time
from pathlib import Path

import click
import pytest
from grpo_pipes import BIN, LEVEL, command, here

from grpo_roc.cli import main

EXAMPLES = Path(__file__).parents[2] / "tools" / "grpo-roc" / "examples"


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def written(folder, *records, name="in.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


@pytest.mark.parametrize("verb", [verb for verb in main.commands if verb != "doctor"])
def test_every_verb_has_an_example_that_it_understands(verb, monkeypatch):
    told = here(verb, "--help")
    assert told.exit_code == 0 and "Example:" in told.stdout
    monkeypatch.setattr(main.commands[verb], "callback", lambda **_: 0)
    for line in main.commands[verb].help.split("Example:")[1].strip().splitlines():
        part = next(one for one in line.split("|") if f"grpo-roc {verb}" in one)
        words = shlex.split(re.sub(r">.*", "", part))[2:]
        with main.commands[verb].make_context(verb, words, parent=click.Context(main, info_name="grpo-roc")):
            pass


# ---------------------------------------------------------------- verify, resample, score, prepare


def test_from_rollouts_to_what_is_trained_on(tmp_path):
    """The README's pipe, by the installed command."""
    verified = command("verify", EXAMPLES / "rollouts.jsonl")
    assert verified.returncode == 0 and len(lines(verified.stdout)) == 48
    done = command("resample", "--group-size", "8", "--json", input=verified.stdout)
    assert done.returncode == 0, done.stderr
    told, summary = lines(done.stdout), json.loads(done.stderr.splitlines()[-1])
    assert len(told) == 48 and [one["id"] for one in told] == [one["id"] for one in lines(verified.stdout)]
    by_group = {name: [one for one in told if one["group"] == name] for name in ("sum-of-squares", "digits", "easy")}
    assert {name: sum(one["kept"] for one in them) for name, them in by_group.items()} == {
        "sum-of-squares": 8,
        "digits": 8,
        "easy": 0,
    }
    assert all(one["kept_reason"] == "equal_rewards" and one["advantage"] is None for one in by_group["easy"])
    for one in told:
        assert one["kept"] == (one["kept_reason"] in ("positive", "negative")) == (one["advantage"] is not None)
        assert one["p_total"] == one["p_err"] + one["p_format"] and one["correct"] == (one["reward"] == 1)
    for name in ("sum-of-squares", "digits"):
        assert sum(one["advantage"] or 0 for one in by_group[name]) == pytest.approx(0, abs=1e-9)
    assert summary["groups"] == 3 and summary["equal_rewards"] == {"all_right": 1, "all_wrong": 0}
    assert summary["after"]["error_share_in_right"] < summary["before"]["error_share_in_right"]


def trajectory(group, rollout, reward, *statuses, answers=1):
    calls = [{"name": "p", "arguments": {}, "status": one} for one in statuses]
    return {
        "id": group,
        "group": group,
        "rollout": rollout,
        "reward": reward,
        "turns": [{"text": "<answer>\\boxed{1}</answer>" * answers, "calls": calls}],
    }


def test_the_same_command_gives_the_same_bytes_and_lines_may_come_in_any_order(tmp_path):
    records = [trajectory(g, k, float(k % 3 == 0), *(["error"] * (k % 2))) for k in range(16) for g in ("a", "b")]
    one, other = written(tmp_path, *records), written(tmp_path, *records[::-1], name="other.jsonl")
    for name, path in (("x", one), ("y", one), ("z", other)):
        assert here("resample", path, "--group-size", 8, "-o", tmp_path / name, "-q").exit_code == 0
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    kept = [{(r["group"], r["rollout"]) for r in lines((tmp_path / name).read_text()) if r["kept"]} for name in "xz"]
    assert kept[0] == kept[1] and len(kept[0]) == 16
    again = here("resample", one, "--group-size", 8, "-o", tmp_path / "x")
    assert again.exit_code == 0 and "nothing to do" in again.stderr
    assert here("resample", one, "--group-size", 4, "-o", tmp_path / "x").exit_code == 2


def test_ours_and_the_released_scores_differ_where_the_released_ones_are_wrong(tmp_path):
    path = written(tmp_path, trajectory("a", 0, 1.0, "timeout"), trajectory("a", 1, 0.0, "ok"), trajectory("a", 2, 1.0))
    ours, theirs = (lines(here("score", path, *more).stdout) for more in ((), ("--compat", "rstar")))
    assert [(one["p_err"], one["p_format"]) for one in ours] == [(1, 0), (0, 0), (0.5, 0)]
    assert [(one["p_err"], one["p_format"]) for one in theirs] == [(0, 1), (0, 1), (0.5, 1)]
    seven = written(tmp_path, *(trajectory("g", k, float(k < 7)) for k in range(14)), name="seven.jsonl")
    refused = here("resample", seven, "--group-size", 7, "--compat", "rstar")
    assert refused.exit_code == 2 and "group g: --compat rstar" in refused.stderr
    assert here("resample", seven, "--group-size", 7).exit_code == 0


@pytest.mark.parametrize(
    ("records", "words", "message"),
    [
        ([trajectory("a", 0, 1.0), trajectory("a", 0, 0.0)], (), "in.jsonl:2: rollout: 0 of group a appears twice"),
        ([{**trajectory("a", 0, 1.0), "turns": []}], (), "in.jsonl:1: turns: expected a list"),
        ([trajectory("a", 0, 1.0, "fine")], (), "in.jsonl:1: turns[0].calls[0].status: expected one of ok, "),
        ([trajectory("a", 0, None)], (), "in.jsonl:1: reward: expected a number"),
        ([trajectory("a", 0, 1.0)], ("--group-size", "1"), "--group-size"),
        ([trajectory("a", 0, 1.0)], ("--form", "verl"), "in.jsonl:1: input: expected"),
        ([trajectory("a", 0, 1.0)], ("--epsilon", "0"), "--epsilon"),
    ],
)
def test_bad_trajectories_are_named(tmp_path, records, words, message):
    told = here(
        "resample",
        written(tmp_path, *records),
        *(() if "--group-size" in words else ("--group-size", 4)),
        *words,
        "-o",
        tmp_path / "out",
    )
    assert told.exit_code == 2 and message in told.stderr and "Traceback" not in told.stderr
    assert not (tmp_path / "out").exists()


def test_groups_that_are_too_small_are_kept_and_told(tmp_path):
    path = written(tmp_path, trajectory("a", 0, 1.0), trajectory("a", 1, 0.0), trajectory("b", 0, 1.0))
    told = here("resample", path, "--group-size", 4)
    assert told.exit_code == 0 and "1 groups have fewer than 4" in told.stderr
    assert [one["kept_reason"] for one in lines(told.stdout)] == ["positive", "negative", "equal_rewards"]


def test_problems(tmp_path):
    told = here(
        "prepare",
        EXAMPLES / "problems.jsonl",
        "--against",
        EXAMPLES / "benchmark.jsonl",
        "--dropped",
        tmp_path / "dropped.jsonl",
        "-o",
        tmp_path / "kept.jsonl",
    )
    assert told.exit_code == 0, told.stderr
    assert [one["answer"] for one in lines((tmp_path / "kept.jsonl").read_text())] == ["84", "25"]
    dropped = lines((tmp_path / "dropped.jsonl").read_text())
    assert [one["reason"] for one in dropped] == ["answer is no whole number", "same problem", "in a benchmark"]
    assert dropped[2]["detail"].endswith("benchmark.jsonl:1") and "5 problems, 2 kept" in told.stderr
    (one, *_) = lines(here("prepare", EXAMPLES / "problems.jsonl", "--to", "verl", "--source", "mine").stdout)
    assert one["reward_model"] == {"style": "rule", "ground_truth": "84"} and one["data_source"] == "mine"
    again = written(tmp_path, one)
    assert lines(here("prepare", again).stdout)[0]["prompt"] == one["prompt"][0]["content"]


def test_parquet_is_read_as_json_lines_are(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{"problem": "How many primes are below 100?", "answer": "25"}, {"problem": "Half of one?", "answer": "1/2"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "p.parquet")
    assert here("prepare", tmp_path / "p.parquet").stdout == here("prepare", written(tmp_path, *rows)).stdout
    (tmp_path / "torn.parquet").write_bytes((tmp_path / "p.parquet").read_bytes()[:40])
    torn = here("prepare", tmp_path / "torn.parquet")
    assert torn.exit_code == 2 and "torn.parquet: not parquet" in torn.stderr


def test_parts_are_chosen_and_sifted_as_the_whole_is(tmp_path):
    """A part's lines are those of the whole, though groups lie across the cut and a problem stands on both sides of it."""
    rolled = written(tmp_path, *(trajectory(f"g{k % 5}", k // 5, float(k % 3 == 0)) for k in range(60)))
    asked = written(tmp_path, *({"problem": f"p {k % 4}", "answer": "1"} for k in range(9)), name="p.jsonl")
    for words in (("resample", rolled, "--group-size", 4), ("prepare", asked), ("prepare", asked, "--to", "verl")):
        whole = here(*words, "-q")
        parts = [here(*words, "-q", "--shard", f"{k}/3") for k in (1, 2, 3)]
        assert "".join(one.stdout for one in parts) == whole.stdout and whole.exit_code == 0
    told = here("prepare", asked, "--shard", "2/3", "--dropped", tmp_path / "d", "-o", tmp_path / "o")
    assert "3 problems, 1 kept: 2 same problem" in told.stderr and len(lines((tmp_path / "d").read_text())) == 2
    counts = json.loads((tmp_path / "o.manifest.json").read_text())["counts"]
    assert (counts["read"], counts["written"], counts["dropped"]) == (3, 1, {"same problem": 2})


def test_records_that_are_none_may_be_left_out(tmp_path):
    path = written(
        tmp_path, trajectory("a", 0, 1.0), {"x": 1}, trajectory("a", 1, 0.0, "fine"), trajectory("a", 2, 0.0)
    )
    with path.open("a") as stream:
        stream.write("{torn\n")
    for words in (("score", path), ("resample", path, "--group-size", 4)):
        assert here(*words, "--skip-bad", 2).exit_code == 2
        told = here(*words, "--skip-bad", 3, "-o", tmp_path / words[0])
        assert told.exit_code == 0 and "skipped: " in told.stderr
        assert [one["rollout"] for one in lines((tmp_path / words[0]).read_text())] == [0, 2]
        assert json.loads((tmp_path / f"{words[0]}.manifest.json").read_text())["counts"]["skipped_bad"] == 3


def test_groups_that_the_released_code_drops(tmp_path):
    path = written(tmp_path, *(trajectory("a", k, float(k == 0)) for k in range(3)))
    told = here("resample", path, "--group-size", 4, "--compat", "rstar")
    assert told.exit_code == 0 and "fewer than 4 trajectories: none of them was kept, as released" in told.stderr
    assert {one["kept_reason"] for one in lines(told.stdout)} == {"quota"}
    assert here("resample", path, "--group-size", 3, "--compat", "rstar").exit_code == 2


def test_a_dump_without_special_tokens_is_scored_by_its_calls(tmp_path):
    """As verl writes dumps; and the released scorer saw their headers."""
    call = (
        '<tool_call>{"name": "p", "arguments": {}}</tool_call>user\n<tool_response>\n%s\n</tool_response>\nassistant\n'
    )
    failed, fine = call % "Tool call failure\nreason: \nstderr: Error", call % "Tool call success\nstdout: 7"
    path = written(tmp_path, *({"input": "q", "output": f"{a}{b}<answer>\\boxed{{1}}</answer>", "gts": "1", "score": 0.0, "step": 1} for a, b in ((failed, fine), (fine, fine), ("", ""))))  # fmt: skip
    assert [(one["p_err"], one["p_format"]) for one in lines(here("score", path).stdout)] == [
        (0.5, 0),
        (0, 0),
        (0.5, 0),
    ]
    theirs = lines(here("score", path, "--compat", "rstar").stdout)
    assert [(one["p_err"], one["p_format"]) for one in theirs] == [(0.5, 0), (0, 0), (0.5, 1)]
    # what verify grades is the reward, not the score that stood there
    verified = here("verify", path, "--workers", 1)
    assert [one["reward"] for one in lines(here("score", input=verified.stdout).stdout)] == [1, 1, 1]


def test_scores_come_as_trajectories_do():
    running = subprocess.Popen([str(BIN), "score", "-q"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    running.stdin.write(json.dumps(trajectory("a", 0, 1.0)) + "\n")
    running.stdin.flush()
    watch = threading.Timer(60, running.kill)
    watch.start()
    assert json.loads(running.stdout.readline())["p_err"] == 0.5  # while the input is open
    watch.cancel()
    running.stdin.close()
    assert running.wait() == 0


def test_no_file_is_lost_to_what_is_written(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{"problem": f"p {k}", "answer": "1"} for k in range(4)]
    table, path = tmp_path / "p.parquet", written(tmp_path, *rows, rows[0])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    before = table.read_bytes(), path.read_bytes()
    told = here("prepare", table, "-o", table, "--overwrite")
    assert told.exit_code == 2 and "is an input as well" in told.stderr
    for words in (
        (path, "--dropped", path), (path, "--dropped", tmp_path / "." / "in.jsonl"), (table, "--against", path, "--dropped", path),
        (path, "--dropped", tmp_path / "o", "-o", tmp_path / "o"), (path, "--dropped", "/dev/null"), (path, "--dropped", "-"), (path, "--dropped", "/nowhere/x"), (path, "--dropped", tmp_path),
    ):  # fmt: skip
        told = here("prepare", *words)
        assert told.exit_code == 2 and "--dropped" in told.stderr and told.stdout == "", words
    assert (table.read_bytes(), path.read_bytes()) == before and not (tmp_path / "o").exists()
    assert lines(here("prepare", table, "--shard", "2/2").stdout)[0]["prompt"] == "p 2"
    # what was dropped can be asked for afterwards
    assert here("prepare", path, "-o", tmp_path / "o").exit_code == 0
    told = here("prepare", path, "-o", tmp_path / "o", "--dropped", tmp_path / "d")
    assert told.exit_code == 0 and "only --dropped is written" in told.stderr
    assert lines((tmp_path / "d").read_text())[0]["reason"] == "same problem"
    assert here("prepare", "--against", "-", path).exit_code == 2


# ---------------------------------------------------------------- exec


def test_a_program_from_stdin_is_read_as_one_from_a_file(tmp_path):
    words = ("exec", "-", "--level", LEVEL, "--preload", "")
    done = subprocess.run([str(BIN), *words], input=b"\xef\xbb\xbfprint(1)\n", capture_output=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, b"1\n")
    done = subprocess.run([str(BIN), *words], input=b"print('\xe9')\n", capture_output=True, timeout=120)
    assert done.returncode == 2 and b"<stdin>: expected UTF-8" in done.stderr
    twice = command(*words, "--input", "-", input="print(input())")
    assert twice.returncode == 2 and "--input -: stdin is the program" in twice.stderr


def test_calls_that_are_none_are_named_or_left_out(tmp_path):
    fine = {"id": "a", "code": "print(1)"}
    for bad, message in (
        ({"id": 7, "code": "1"}, "in.jsonl:1: id: expected a string of its own for each record, got 7"),
        ({"id": "b", "code": "1", "session": ""}, "in.jsonl:1: session: expected a name"),
    ):
        words = ("exec", written(tmp_path, bad, fine), "--jsonl", "--level", LEVEL, "--preload", "", "--workers", "1")
        told = here(*words)
        assert told.exit_code == 2 and message in told.stderr
        told = here(*words, "--skip-bad", 1)
        assert told.exit_code == 0 and message in told.stderr
        assert [one["stdout"] for one in lines(told.stdout)] == ["1\n"]


@pytest.mark.parametrize(
    ("code", "exit_code", "stdout", "stderr"),
    [
        ("print(int(input()) * 2)", 0, "42\n", ""),
        ("5", 0, "", ""),  # as `python -` would have it
        ("print('a')\n1 / 0", 1, "a\n", "ZeroDivisionError: division by zero\ngrpo-roc: error (exit code 1)\n"),
        ("while True:\n    pass", 1, "", "grpo-roc: timeout (signal 9 after "),
        ("import sys\nsys.exit(0)", 0, "", ""),
    ],
)
def test_one_program(tmp_path, code, exit_code, stdout, stderr):
    (tmp_path / "stdin").write_text("21\n")
    (tmp_path / "p.py").write_text(code)
    done = command(
        "exec",
        tmp_path / "p.py",
        "--input",
        tmp_path / "stdin",
        "--level",
        LEVEL,
        "--call-timeout",
        "1s",
        "--preload",
        "",
    )
    assert (done.returncode, done.stdout) == (exit_code, stdout) and stderr in done.stderr


def test_records(tmp_path):
    done = command(
        "exec", EXAMPLES / "calls.jsonl", "--jsonl", "--level", LEVEL, "-o", tmp_path / "out.jsonl", "--preload", ""
    )
    assert done.returncode == 0, done.stderr
    told = {one["id"]: one for one in lines((tmp_path / "out.jsonl").read_text())}
    statuses = {name: one["status"] for name, one in told.items()}
    assert statuses == {
        "fine": "ok", "input": "ok", "raises": "error", "spins": "timeout", "forks": "error", "reads": "error", "grows": "memory", "prints": "output_limit", "calls out": "error",
        "traces": "policy", "kills": "error", "writes": "error", "mounts": "policy", "lingers": "timeout", "cell 1": "ok_no_output", "cell 2": "ok",
    }  # fmt: skip
    assert list(told) == [one["id"] for one in lines((EXAMPLES / "calls.jsonl").read_text())]
    assert told["cell 2"]["stdout"] == "820\n" and "16 calls: " in done.stderr
    assert {"exit_code", "signal", "wall_s", "cpu_s", "rss", "queue_s"} <= told["fine"].keys()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"id": "a"}, "in.jsonl:1: code: expected a string"),
        ({"code": "1"}, "id: expected a string of its own"),
        ({"id": "a", "code": 7}, "in.jsonl:1: code: expected a string"),
        ({"id": "a", "code": "1", "timeout": -1}, "in.jsonl:1: timeout: expected more than 0"),
        ({"id": "a", "code": "1", "timeout": 1e9}, "in.jsonl:1: timeout: expected more than 0 and at most 300"),
        ({"id": "a", "code": "1", "session": 5}, "in.jsonl:1: session: expected a string"),
    ],
)
def test_bad_calls_are_named(tmp_path, record, message):
    told = here("exec", written(tmp_path, record), "--jsonl", "--level", "rlimit-only", "--preload", "")
    assert told.exit_code == 2 and message in told.stderr


def test_killed_records_go_on_and_sessions_begin_anew(tmp_path):
    records = [{"id": f"c{k}", "code": f"import time\ntime.sleep(0.02)\nprint({k})"} for k in range(60)]
    records[40:40] = [
        {"id": "s0", "code": "x = []", "session": "s"},
        {"id": "s1", "code": "x.append(1)\nprint(x)", "session": "s"},
    ]
    records.append({"id": "s2", "code": "x.append(2)\nprint(x)", "session": "s"})
    words = [
        str(BIN),
        "exec",
        str(written(tmp_path, *records)),
        "--jsonl",
        "--level",
        LEVEL,
        "--preload",
        "",
        "--workers",
        "1",
        "-o",
        str(tmp_path / "out.jsonl"),
        "-q",
    ]
    running = subprocess.Popen(words)
    journal = tmp_path / ".out.jsonl.journal"
    end = time.monotonic() + 60
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 45):
        assert time.monotonic() < end and running.poll() is None, "never happened"
        time.sleep(0.01)
    running.kill()
    running.wait()
    assert not (tmp_path / "out.jsonl").exists()
    assert subprocess.run(words).returncode == 0
    told = lines((tmp_path / "out.jsonl").read_text())
    assert [one["id"] for one in told] == [one["id"] for one in records]
    assert {one["id"]: one["stdout"] for one in told if one["id"][0] == "s"} == {
        "s0": "",
        "s1": "[1]\n",
        "s2": "[1, 2]\n",
    }
    assert all(one["stdout"] == f"{one['id'][1:]}\n" for one in told if one["id"][0] == "c")


def test_bench_env_reports_every_case():
    told = here(
        "bench-env",
        "--level",
        LEVEL,
        "--preload",
        "",
        "--calls",
        "20",
        "--burst",
        "30",
        "--rate",
        "20",
        "--workers",
        "1",
        "--json",
        "-q",
    )
    assert told.exit_code == 0, told.stderr
    found = json.loads(told.stdout)
    assert {"print", "sympy", "open", "queued", "fresh"} <= found.keys() and found["queued"]["calls"] == 30
    assert all(found[name]["p50_s"] <= found[name]["p99_s"] for name in ("print", "sympy", "open"))


def test_a_group_is_explained_with_the_chances_that_it_had(tmp_path):
    records = [
        {"group": "g", "rollout": k, "reward": float(k < 4), "turns": [{"text": "<answer>x</answer>", "calls": [{"name": "p", "arguments": {}, "status": "error" if n < k else "ok"} for n in range(max(k, 1))]}]}
        for k in range(8)
    ]  # fmt: skip
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    done = here("resample", path, "--group-size", 4, "--show", "g")
    rows = [line.split("│")[1:-1] for line in done.stderr.splitlines() if line.startswith("│")]
    assert "2 of 4 right ones kept, 2 of 4 wrong ones" in done.stderr and len(rows) == 8
    assert [row[5].strip() for row in rows[:4]] == ["0.000", "1.000", "1.000", "1.000"]
    # the one without a failure all but surely, and of three alike one
    assert [row[7].strip() for row in rows] == ["1.000", "0.333", "0.333", "0.333", "0.500", "0.500", "0.500", "0.500"]
    assert sum(row[8].strip() == "yes" for row in rows) == 4
    assert here("resample", path, "--group-size", 4, "--show", "h").exit_code == 2
