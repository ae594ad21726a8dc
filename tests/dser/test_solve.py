"""`dser solve` on scripted servers and simulated models: prompts, order, resuming, kills, and all that can go wrong."""

import collections
import json
import os
import random
import signal
import subprocess
import threading
import time

import pytest
from dser_command import BIN, Server, dser, hashed_reply, kind_of, read, records, reply_of, sim, start, tasks, write

from dser import runner


def same_run(a, b):
    for name in ("answers.jsonl", "chains.jsonl"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert sorted((a / "steps.jsonl").read_bytes().splitlines()) == sorted(
        (b / "steps.jsonl").read_bytes().splitlines()
    )


def test_every_prompt_is_predictable(tmp_path):
    """A table answers; what is asked, with which seed, and what is voted follows from it."""
    table = {"solve": r"first \boxed{3}", "verify": "no\nVERDICT: FAIL", "refine": r"second \boxed{2}"}
    with Server(lambda body: table[kind_of(body)]) as server:
        done = dser(
            "solve", write(tmp_path / "t.jsonl", tasks(1)[:1]), "--model", server.uri, "--chains", 2, "--iterations", 1,
            "--window", 1, "--temperature", 0.6, "-o", tmp_path / "run", "--seed", 5,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(server.bodies) == 6
    asked = collections.Counter(kind_of(body) for body in server.bodies)
    assert asked == {"solve": 2, "verify": 2, "refine": 2}
    seeds = {(kind_of(body), body["seed"]) for body in server.bodies}
    assert seeds == {
        (role, runner.call_seed(5, "t0", chain, n, role))
        for chain in (0, 1)
        for role, n in (("solve", 0), ("verify", 0), ("refine", 1))
    }
    by_kind = {kind_of(body): body["messages"] for body in server.bodies}
    from dser.chain import Chain, Procedure
    from dser.prompts import Prompts

    for role, review in (("solve", ""), ("verify", ""), ("refine", table["verify"])):
        assert by_kind[role] == Prompts().messages(role, tasks(1)[0], Chain(Procedure()), table["solve"], review)
    (sample,) = records(done.stdout)
    assert sample["response"] == table["refine"] and sample["sample"] == 0 and sample["answer"] == "1"
    assert sample["meta"]["dser"] == {
        "answer": "2", "votes": [{"answer": "2", "votes": 2}], "effective_votes": sample["meta"]["dser"]["effective_votes"],
        "status": "done",
    }  # fmt: skip
    assert sample["usage"] == {"prompt_tokens": 42, "completion_tokens": 18}
    (answer,) = read(tmp_path / "run" / "answers.jsonl")
    assert answer["answer"] == "2" and answer["correct"] is False
    cells = read(tmp_path / "run" / "chains.jsonl")
    assert [(c["chain"], c["iteration"], c["answer"], c["verdict"]) for c in cells] == [
        (0, 0, "3", "fail"), (0, 1, "2", None), (1, 0, "3", "fail"), (1, 1, "2", None),
    ]  # fmt: skip
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == "done" and manifest["counts"]["calls"] == 6 and manifest["options"]["chains"] == 2


def test_results_do_not_depend_on_concurrency_other_problems_or_order(tmp_path):
    five = tasks(5)
    runs = {}
    slow = random.Random(3)
    with Server(hashed_reply, delay=lambda body: slow.random() * 0.01) as server:
        for name, given, concurrency in (
            ("one", five, 1),
            ("many", five, 16),
            ("turned", five[::-1], 7),
            ("alone", five[2:3], 4),
        ):
            done = dser(
                "solve", write(tmp_path / f"{name}.jsonl", given), "--model", server.uri, "--chains", 3, "--iterations", 3,
                "--concurrency", concurrency, "-o", tmp_path / name, "-q",
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert [record["id"] for record in records(done.stdout)] == [task["id"] for task in given]  # input order
            runs[name] = {record["id"]: record for record in read(tmp_path / name / "answers.jsonl")}
            cells = collections.defaultdict(list)
            for cell in read(tmp_path / name / "chains.jsonl"):
                cells[cell["id"]].append(cell)
            runs[name + " cells"] = cells
    for name in ("many", "turned"):
        assert runs[name] == runs["one"] and runs[name + " cells"] == runs["one cells"]
    assert runs["alone"]["t2"] == runs["one"]["t2"] and runs["alone cells"]["t2"] == runs["one cells"]["t2"]


def test_a_slow_chain_holds_nobody_up(tmp_path):
    """While one call hangs, every other chain runs to its end."""
    gate, hung = threading.Event(), threading.Lock()

    def reply(body):
        if kind_of(body) == "verify" and hung.acquire(blocking=False):
            gate.wait(30)
        return hashed_reply(body)

    with Server(reply) as server:
        run = start(
            "solve", write(tmp_path / "t.jsonl", tasks(2)), "--model", server.uri, "--chains", 4, "--iterations", 4,
            "--concurrency", 8, "-o", tmp_path / "run", "-q",
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while len(server.bodies) < 7 * 9 + 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        seen = len(server.bodies)
        gate.set()
        run.communicate(timeout=60)
    assert seen == 7 * 9 + 2 and run.returncode == 0  # seven chains whole, and the hung one's solve and verify


def interrupted(tmp_path, kills, seed):
    """The run of a folder that was killed `kills` times, and one that was not."""
    rng = random.Random(seed)
    given = write(tmp_path / "t.jsonl", tasks(4))
    options = ["--chains", "4", "--iterations", "4", "--concurrency", "6", "-q"]
    with Server(hashed_reply, delay=0.004) as server:
        options += ["--model", server.uri]
        whole = dser("solve", given, *options, "-o", tmp_path / "whole")
        assert whole.returncode == 0
        calls = len(server.bodies)
        for _ in range(kills):
            run = start("solve", given, *options, "-o", tmp_path / "cut")
            time.sleep(0.25 + rng.random() * 0.25)
            run.send_signal(signal.SIGKILL)
            run.communicate()
        last = dser("solve", given, *options, "-o", tmp_path / "cut")
        assert last.returncode == 0, last.stderr
        again = dser("solve", given, *options, "-o", tmp_path / "cut")
        made = len(server.bodies)
    assert last.stdout == whole.stdout == again.stdout
    same_run(tmp_path / "whole", tmp_path / "cut")
    return calls, made - calls


def test_kills_leave_no_trace(tmp_path):
    calls, made = interrupted(tmp_path, 3, 1)
    assert made < 2 * calls


@pytest.mark.deep
def test_twenty_kills_leave_no_trace(tmp_path):
    calls, made = interrupted(tmp_path, 20, 2)
    assert made <= calls + 21 * 6  # only what was in flight is asked again


def test_a_torn_last_line_is_dropped(tmp_path):
    given, model = write(tmp_path / "t.jsonl", tasks(2)), sim(tmp_path / "s.json", p_ic=0.3, p_ci=0.1)
    dser("solve", given, "--model", model, "-o", tmp_path / "whole")
    dser("solve", given, "--model", model, "-o", tmp_path / "cut")
    steps = tmp_path / "cut" / "steps.jsonl"
    lines = steps.read_bytes().splitlines(keepends=True)
    for keep in (1, 7, 100, len(lines) - 1):
        steps.write_bytes(b"".join(lines[:keep]) + lines[keep][: len(lines[keep]) // 2])
        (tmp_path / "cut" / "answers.jsonl").unlink()
        assert dser("solve", given, "--model", model, "-o", tmp_path / "cut").returncode == 0
        same_run(tmp_path / "whole", tmp_path / "cut")
    steps.write_bytes(b"{damaged}\n" + b"".join(lines[1:]))
    done = dser("solve", given, "--model", model, "-o", tmp_path / "cut")
    assert done.returncode == 2 and "steps.jsonl:1: damaged" in done.stderr


def test_a_full_disk_keeps_what_was_written(tmp_path):
    given, model = write(tmp_path / "t.jsonl", tasks(3)), sim(tmp_path / "s.json", p_ic=0.3, p_ci=0.1)
    options = ["--model", model, "--chains", "4", "--iterations", "4", "-q", "-o", str(tmp_path / "run")]
    command = f"ulimit -f 8; exec {BIN} solve {given} {' '.join(options)}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 3 and "free some space" in done.stderr, done.stderr
    assert 0 < (tmp_path / "run" / "steps.jsonl").stat().st_size <= 8192
    assert dser("solve", given, *options).returncode == 0
    whole = dser("solve", given, *options[:-1], tmp_path / "whole")
    assert whole.returncode == 0
    same_run(tmp_path / "run", tmp_path / "whole")


def test_other_settings_are_refused_with_the_first_difference(tmp_path):
    given, model = write(tmp_path / "t.jsonl", tasks(2)), sim(tmp_path / "s.json", p_ic=0.3, p_ci=0.1)
    assert dser("solve", given, "--model", model, "-o", tmp_path / "run").returncode == 0
    done = dser("solve", given, "--model", model, "--chains", 4, "-o", tmp_path / "run")
    assert done.returncode == 2 and "--chains 16, this one has 4" in done.stderr
    write(given, tasks(3))
    done = dser("solve", given, "--model", model, "-o", tmp_path / "run")
    assert done.returncode == 2 and "other content of the input" in done.stderr
    assert dser("solve", given, "--model", model, "-o", tmp_path / "run", "--overwrite").returncode == 0
    assert len(read(tmp_path / "run" / "answers.jsonl")) == 3
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    done = dser("solve", given, "--model", model, "-o", tmp_path / "full")
    assert done.returncode == 2 and "no manifest says" in done.stderr
    done = dser("solve", given, "--model", model, "-o", tmp_path / "none" / "run")
    assert done.returncode == 2 and "does not exist" in done.stderr


def test_a_second_start_is_told_to_wait(tmp_path):
    given = write(tmp_path / "t.jsonl", tasks(1))
    with Server(hashed_reply, delay=0.2) as server:
        run = start("solve", given, "--model", server.uri, "--chains", 2, "-o", tmp_path / "run", "-q")
        while not server.bodies:
            time.sleep(0.02)
        assert dser("solve", given, "--model", server.uri, "--chains", 2, "-o", tmp_path / "run").returncode == 75
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=30)
    assert run.returncode == 130 and "the same command continues" in errors


def test_a_budget_stops_and_votes_with_what_there_is(tmp_path):
    given = write(tmp_path / "t.jsonl", tasks(3))
    model = sim(tmp_path / "s.json", p_ic=0.3, p_ci=0.1, p_0=0.5)
    done = dser("solve", given, "--model", model, "--chains", 4, "--budget-tokens", 6000, "-o", tmp_path / "run")
    assert done.returncode == 0 and "status: budget" in done.stderr, done.stderr
    statuses = [record["meta"]["dser"]["status"] for record in records(done.stdout)]
    assert statuses == ["budget"] * 3 and all(record["response"] for record in records(done.stdout))
    depth = collections.Counter((step["id"], step["chain"]) for step in read(tmp_path / "run" / "steps.jsonl"))
    assert len(depth) == 12 and max(depth.values()) - min(depth.values()) <= 1  # spread evenly
    more = dser("solve", given, "--model", model, "--chains", 4, "--budget-tokens", 10**7, "-o", tmp_path / "run")
    whole = dser("solve", given, "--model", model, "--chains", 4, "-o", tmp_path / "whole")
    assert more.stdout == whole.stdout
    same_run(tmp_path / "run", tmp_path / "whole")


def test_time_runs_out_with_the_work_saved(tmp_path):
    given = write(tmp_path / "t.jsonl", tasks(2))
    with Server(hashed_reply, delay=0.1) as server:
        options = ["--model", server.uri, "--chains", "2", "--iterations", "8", "-q", "-o", str(tmp_path / "run")]
        cut = dser("solve", given, *options, "--max-time", "1s")
        assert cut.returncode == 1 and "--max-time is over" in cut.stderr
        assert (tmp_path / "run" / "steps.jsonl").stat().st_size and not (tmp_path / "run" / "answers.jsonl").exists()
        assert dser("solve", given, *options).returncode == 0


def test_early_stop_is_the_same_for_any_order_and_found_again(tmp_path):
    given, model = write(tmp_path / "t.jsonl", tasks(6)), sim(tmp_path / "s.json", p_ic=0.5, p_ci=0.05, p_0=0.4)
    options = ["--model", model, "--iterations", "40", "--window", "5", "--early-stop", "0.99"]
    done = dser("solve", given, *options, "-o", tmp_path / "a")
    answers = read(tmp_path / "a" / "answers.jsonl")
    stops = [record.get("stopped_at") for record in answers]
    assert all(stops) and {record["status"] for record in answers} == {"early"} and max(stops) < 40
    assert dser("solve", write(tmp_path / "r.jsonl", tasks(6)[::-1]), *options, "-o", tmp_path / "b").returncode == 0
    assert sorted(map(json.dumps, read(tmp_path / "b" / "answers.jsonl"))) == sorted(map(json.dumps, answers))
    again = dser("vote", tmp_path / "a")
    assert records(again.stdout) == answers
    full = dser("solve", given, "--model", model, "--iterations", "40", "--window", "5", "-q")
    assert [r["meta"]["dser"]["answer"] for r in records(full.stdout)] == [r["answer"] for r in answers]
    assert done.returncode == 0


# ---------------------------------------------------------------- what servers do


def solved(tmp_path, reply, *options, n=1, **server):
    with Server(reply, **server) as running:
        done = dser(
            "solve", write(tmp_path / "t.jsonl", tasks(n)), "--model", running.uri, "--chains", 2, "--iterations", 1,
            "-o", tmp_path / "run", "-q", *options,
        )  # fmt: skip
    return done, running, records(done.stdout) if done.stdout else []


def first_time(fault):
    """`fault` for the first request of each kind and seed, then good replies."""
    seen = set()

    def reply(body):
        key = (kind_of(body), body["seed"])
        if key in seen:
            return hashed_reply(body)
        seen.add(key)
        return fault

    return reply


@pytest.mark.parametrize(
    "fault",
    [
        (429, {"Retry-After": "0"}, {"error": {"message": "slow down"}}),
        (503, {}, {"error": "busy"}),
        (200, {}, b'{"choices": [{"mess'),
        (200, {}, {"choices": []}),
    ],
)
def test_passing_faults_are_tried_again(tmp_path, fault):
    done, server, (sample,) = solved(tmp_path, first_time(fault))
    assert done.returncode == 0 and sample["finish_reason"] == "stop"
    assert len(server.bodies) == 2 * 6


def test_a_chain_that_fails_leaves_the_others_to_vote(tmp_path):
    bad, ill = runner.call_seed(0, "t0", 1, 0, "verify"), threading.Event()
    ill.set()

    def reply(body):
        return (400, {}, {"error": "no"}) if body["seed"] == bad and ill.is_set() else hashed_reply(body)

    given = write(tmp_path / "t.jsonl", tasks(1))
    with Server(reply) as server:
        command = [
            "solve",
            given,
            "--model",
            server.uri,
            "--chains",
            2,
            "--iterations",
            1,
            "-o",
            tmp_path / "run",
            "-q",
        ]
        done = dser(*command)
        (sample,) = records(done.stdout)
        assert done.returncode == 1 and sample["meta"]["dser"]["status"] == "partial" and sample["response"]
        (answer,) = read(tmp_path / "run" / "answers.jsonl")
        assert answer["failed_chains"] == 1 and "HTTP 400" in answer["error"]
        ill.clear()
        calls = len(server.bodies)
        done = dser(*command)  # the same command goes on where it failed
        assert done.returncode == 0 and len(server.bodies) == calls + 2


def test_content_filter_fails_that_chain_only(tmp_path):
    bad = runner.call_seed(0, "t0", 0, 0, "solve")
    done, _, (sample,) = solved(
        tmp_path, lambda body: reply_of("", "content_filter") if body["seed"] == bad else hashed_reply(body)
    )
    assert done.returncode == 1 and sample["meta"]["dser"]["status"] == "partial"
    assert "content_filter" in read(tmp_path / "run" / "answers.jsonl")[0]["error"]


def test_without_any_answer_nothing_is_guessed(tmp_path):
    done, _, (sample,) = solved(tmp_path, lambda body: "I do not know.")
    assert done.returncode == 1
    assert (
        sample["response"] == "" and sample["finish_reason"] == "error" and sample["error"] == "no chain has an answer"
    )
    assert sample["meta"]["dser"] == {"answer": None, "votes": [], "effective_votes": 0.0, "status": "no_answer"}


def test_truncated_thinking_keeps_the_solution_before(tmp_path):
    def reply(body):
        return reply_of("<think>on and on", "length") if kind_of(body) == "refine" else hashed_reply(body)

    done, _, (sample,) = solved(tmp_path, reply)
    assert done.returncode == 0 and "Draft" in sample["response"]
    steps = [step for step in read(tmp_path / "run" / "steps.jsonl") if step["role"] == "refine"]
    assert all(step["truncated"] and step["kept"] and "text" not in step for step in steps)
    assert all(cell["kept"] == (cell["iteration"] == 1) for cell in read(tmp_path / "run" / "chains.jsonl"))


def test_forced_answers(tmp_path):
    def reply(body):
        if "No more time" in body["messages"][-1]["content"]:
            assert body["messages"][-2] == {"role": "assistant", "content": "it may be 2"}
            return r"\boxed{2}"
        return reply_of("<think>it may be 2", "length") if kind_of(body) == "solve" else hashed_reply(body)

    done, _, (sample,) = solved(tmp_path, reply, "--force-answer", "--iterations", 0)
    assert done.returncode == 0 and sample["meta"]["dser"]["answer"] == "2"


def test_overflow_is_cut_and_sent_again_once_or_twice(tmp_path):
    def reply(body):
        text = body["messages"][-1]["content"]
        if len(text) > 1500:
            return (400, {}, {"error": {"message": "This model's maximum context length is 400 tokens"}})
        if kind_of(body) == "verify":
            return "x" * 900 + "\nVERDICT: FAIL"
        return "s" * 1000 + r"\boxed{1}"

    done, server, (_sample,) = solved(tmp_path, reply, "--iterations", 2)
    assert done.returncode == 0, done.stderr
    refines = [step for step in read(tmp_path / "run" / "steps.jsonl") if step["role"] == "refine"]
    assert refines and all(step["trimmed"]["review"] > 0 for step in refines)
    assert all("What is 0 + 1?" in body["messages"][-1]["content"] for body in server.bodies)
    report = json.loads(dser("report", tmp_path / "run", "--json").stdout)
    assert report["truncation"]["refine"]["trimmed"] == 4


def test_a_known_context_is_kept_to(tmp_path):
    def reply(body):
        return "r" * 4000 + "\nVERDICT: FAIL" if kind_of(body) == "verify" else "s" * 600 + r"\boxed{1}"

    done, server, _ = solved(tmp_path, reply, "--context", 1000, "--max-tokens", 100)
    assert done.returncode == 0 and max(len(str(body["messages"])) for body in server.bodies) < 2900


def test_a_problem_too_long_for_the_model_fails_alone(tmp_path):
    given = write(tmp_path / "t.jsonl", [*tasks(1), {"id": "long", "prompt": "long " * 500, "answer": "1"}])

    def reply(body):
        if len(str(body["messages"])) > 2000:
            return (400, {}, {"error": "maximum context length exceeded"})
        return hashed_reply(body)

    with Server(reply) as server:
        done = dser("solve", given, "--model", server.uri, "--chains", 1, "--iterations", 1, "-q")
    good, bad = records(done.stdout)
    assert done.returncode == 1 and good["finish_reason"] == "stop" and "context" in bad["error"]
    assert bad["meta"]["dser"]["status"] == "failed"


def test_a_server_that_is_not_there(tmp_path):
    given = write(tmp_path / "t.jsonl", tasks(1))
    done = dser("solve", given, "--model", "http://127.0.0.1:9/v1#x", "--max-retries", 0, "-o", tmp_path / "run")
    assert done.returncode == 3 and "cannot be reached" in done.stderr


def test_a_model_name_the_server_has_not(tmp_path):
    done, _, _ = solved(tmp_path, lambda body: (404, {}, {"error": {"message": "model loop does not exist"}}))
    assert done.returncode == 3 and "does not exist" in done.stderr


def test_a_server_that_ignores_seeds_is_told(tmp_path):
    long = "The same words. " * 20 + r"\boxed{1}"
    done, _, _ = solved(tmp_path, lambda body: long if kind_of(body) != "verify" else "VERDICT: PASS")
    assert "does the server heed seeds" in done.stderr
    assert "will be the same" in solved(tmp_path, hashed_reply, "--temperature", 0, "--overwrite")[0].stderr


def test_unreadable_verdicts_are_unknown_and_not_counted(tmp_path):
    _done, _, _ = solved(tmp_path, lambda body: "looks fine, yes" if kind_of(body) == "verify" else hashed_reply(body))
    report = json.loads(dser("report", tmp_path / "run", "--json").stdout)
    assert report["verifier"]["unknown"] == 2 and report["verifier"]["tpr"] is None


def test_several_endpoints_share_the_work(tmp_path):
    given = write(tmp_path / "t.jsonl", tasks(3))
    with Server(hashed_reply, delay=0.01) as one, Server(hashed_reply, delay=0.01) as two:
        done = dser("solve", given, "--model", one.uri, "--model", two.uri, "--chains", 4, "--iterations", 2, "-q")
    assert done.returncode == 0 and min(len(one.bodies), len(two.bodies)) > 15


def test_no_key_reaches_the_run(tmp_path):
    env = {**os.environ, "OPENAI_API_KEY": "sk-planted-secret"}
    given = write(tmp_path / "t.jsonl", tasks(1))
    with Server(hashed_reply) as server:
        uri = server.uri.replace("http://", "http://user:planted-secret@")
        done = dser("solve", given, "--model", uri, "--chains", 1, "--iterations", 1, "-o", tmp_path / "run", env=env)
    assert done.returncode == 0, done.stderr
    for file in (tmp_path / "run").iterdir():
        assert b"planted-secret" not in file.read_bytes()
    assert "planted-secret" not in done.stdout + done.stderr


# ---------------------------------------------------------------- input


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        (
            "a.jsonl",
            '{"id": "a", "prompt": "x"}\n{"id": "a", "prompt": "y"}\n',
            "a.jsonl:2: id: a appears twice, first at",
        ),
        ("a.jsonl", '{"id": "a", "prompt": "  "}\n', "a.jsonl:1: prompt: expected the text of a problem"),
        ("a.jsonl", '{"id": "a"}\n', "a.jsonl:1: expected `messages`, `prompt`, `problem` or `question`"),
        ("a.jsonl", '{"id": "a", "messages": []}\n', "a.jsonl:1: messages"),
        ("a.jsonl", '{"problem": "x", "answer": {"a": 1}}\n', "a.jsonl:1: answer"),
        ("a.jsonl", '{"problem": "x"\n', "a.jsonl:1: expected one JSON object a line"),
        ("a.json", "[1]", "a.json: entry 1: expected an object"),
        ("a.csv", "problem,answer\nx\n", "a.csv:2: expected as many fields"),
        ("a.txt", "  \n", "a.txt: expected the text of a problem, got none"),
        ("none.jsonl", None, "none.jsonl: no such file"),
    ],
)
def test_bad_input_is_named(tmp_path, name, text, word):
    if text is not None:
        (tmp_path / name).write_text(text)
    model = sim(tmp_path / "s.json", p_ic=0.3, p_ci=0.1)
    done = dser("solve", tmp_path / name, "--model", model)
    assert done.returncode == 2 and word in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_bytes_that_are_no_utf8(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"id": "a", "prompt": "\xff"}\n')
    done = dser("solve", tmp_path / "a.jsonl", "--model", sim(tmp_path / "s.json", p_ic=0.3, p_ci=0.1))
    assert done.returncode == 2 and "a.jsonl:1" in done.stderr


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--policy", "sometimes"], "--policy sometimes"),
        (["--vote", "accepted"], "--policy stop-on-pass:M"),
        (["--answer-pattern", "("], "not a regular expression"),
        (["--early-stop", "1.5"], "early-stop"),
        (["--template", "solve"], "ROLE=FILE"),
        (["--chains", "0"], "chains"),
    ],
)
def test_bad_options_are_named(tmp_path, options, word):
    given = write(tmp_path / "t.jsonl", tasks(1))
    done = dser("solve", given, "--model", sim(tmp_path / "s.json", p_ic=0.3, p_ci=0.1), *options)
    assert done.returncode == 2 and word in done.stderr


@pytest.mark.parametrize(
    ("world", "word"),
    [
        ({"p_ic": 2, "p_ci": 0.1}, "p_ic: expected a chance"), ({"p_ic": 0.1}, "both p_ic and p_ci"), ({}, "expected one of"),
        ({"matrix": [[1, 0], [0.5, 0.4]], "initial": [1, 0]}, "row 2"), ({"matrix": [[1]], "initial": [1], "x": 1}, "unknown field"),
        ({"matrix": [[0.5, 0.5], [0.5, 0.5]]}, "initial"),
    ],
)  # fmt: skip
def test_bad_sim_files_are_named(tmp_path, world, word):
    done = dser("solve", write(tmp_path / "t.jsonl", tasks(1)), "--model", sim(tmp_path / "s.json", **world))
    assert done.returncode == 2 and word in done.stderr, done.stderr


def test_public_forms_of_problems(tmp_path):
    (tmp_path / "aime.jsonl").write_text('{"ID": "2024-I-1", "Problem": "p", "Solution": "s", "Answer": 73}\n')
    (tmp_path / "aime25.jsonl").write_text('{"question": "p", "answer": "073"}\n')
    (tmp_path / "gsm.json").write_text('[{"question": "p", "answer": "3 and 4\\n#### 7"}]')
    (tmp_path / "m.csv").write_text('unique_id,problem,answer\nx/1,"p, q",\\frac{1}{2}\n')
    (tmp_path / "imo.txt").write_text("Prove it.\n")
    files = [tmp_path / name for name in ("aime.jsonl", "aime25.jsonl", "gsm.json", "m.csv", "imo.txt")]
    model = sim(tmp_path / "s.json", p_ic=1, p_ci=0, p_0=1)
    done = dser("solve", *files, "--model", model, "--chains", 2, "--iterations", 1, "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    found = {record["id"]: record for record in read(tmp_path / "run" / "answers.jsonl")}
    assert list(found) == ["2024-I-1", "aime25:1", "gsm.json:1", "x/1", "imo"]
    assert [record.get("gold") for record in found.values()] == ["73", "073", "7", r"\frac{1}{2}", None]
    assert [record.get("correct") for record in found.values()] == [True, True, True, True, None]


def test_stdin_limit_and_ids(tmp_path):
    text = "".join(json.dumps(task) + "\n" for task in tasks(5))
    model = sim(tmp_path / "s.json", p_ic=0.3, p_ci=0.1)
    options = ["--model", model, "--chains", "2", "--iterations", "1", "-q"]
    assert [r["id"] for r in records(dser("solve", "-", *options, "--limit", 2, stdin=text).stdout)] == ["t0", "t1"]
    (tmp_path / "ids").write_text("t3\nt1\n")
    assert [r["id"] for r in records(dser("solve", *options, "--ids", tmp_path / "ids", stdin=text).stdout)] == [
        "t1",
        "t3",
    ]
    done = dser("solve", "-", *options, "--shard", "1/2", stdin=text)
    assert done.returncode == 2 and "--shard" in done.stderr


def test_dry_run_shows_prompts_and_writes_nothing(tmp_path):
    given = write(tmp_path / "t.jsonl", tasks(3))
    done = dser("solve", given, "--dry-run", "--chains", 4, "--iterations", 5, "-o", tmp_path / "run")
    assert done.returncode == 0 and "calls: at most 132" in done.stdout and "<SOLUTION>" in done.stdout
    assert "--- refine" in done.stdout and not (tmp_path / "run").exists()


def test_presets(tmp_path):
    given = write(tmp_path / "t.jsonl", tasks(1))
    calls = {}
    for preset in ("dser", "self-consistency", "self-refine"):
        done = dser("solve", given, "--model", sim(tmp_path / "s.json", p_ic=0.2, p_ci=0.1, tpr=0, fpr=0), "--preset", preset, "-o", tmp_path / preset)  # fmt: skip
        assert done.returncode == 0
        calls[preset] = len(read(tmp_path / preset / "steps.jsonl"))
    assert calls == {"dser": 16 * 21, "self-consistency": 16, "self-refine": 9}


def test_the_imo25_preset(tmp_path):
    """Improve once, examine only the detailed solution, a second call for the verdict, five passes to accept."""
    examined = []

    def reply(body):
        said = body["messages"][-1]["content"]
        if "find the solution complete" in said:
            return "VERDICT: PASS"
        if "You are an examiner" in said:
            examined.append(said)
            return "Summary: it is right. Detailed Verification: step one holds."
        return r"Summary: complete, SECRET. Detailed Solution: \boxed{1}"

    done, server, (sample,) = solved(tmp_path, reply, "--preset", "imo25", "--iterations", 30, "--chains", 1)
    assert done.returncode == 0 and sample["meta"]["dser"]["answer"] == "1", done.stderr
    assert len(server.bodies) == 2 + 2 * 5 and examined and not any("SECRET" in said for said in examined)
    never, _, (sample,) = solved(
        tmp_path, lambda body: r"Detailed Solution: \boxed{1}", "--preset", "imo25", "--iterations", 30, "--overwrite"
    )
    assert never.returncode == 1 and sample["meta"]["dser"]["status"] == "no_answer"  # nothing was accepted


def test_a_tokenizer_measures_what_fits():
    """A backend that counts tokens (here: words) and has a context: prompts are trimmed before they are sent."""
    import dser as tool
    from dser.chain import Procedure
    from dser.log import Settings
    from tenfold_shared.generate import Completion, Sampling

    class Words:
        model, batch_size, context = "words", 3, 300

        def count_tokens(self, request):
            return sum(len(message["content"].split()) for message in request.messages)

        def generate(self, requests, sampling):
            for request in requests:
                if request is not None:
                    count = self.count_tokens(request)
                    assert count + sampling.max_tokens <= self.context or "solve" in request.key
                    role = request.key.rpartition("\x1f")[2]
                    text = "bad " * 300 + "\nVERDICT: FAIL" if role == "verify" else "so " * 300 + r"\boxed{2}"
                    yield Completion(request.key, text, "stop", count, 1, self.model)

    (done,) = tool.run_chains(
        Words(),
        [{"id": "a", "prompt": "1 + 1?", "answer": "2"}],
        Settings(Procedure(iterations=2), 2),
        Sampling(max_tokens=10),
    )
    assert done.answer["correct"] and done.problem.counts["verify"]["trimmed"] == 4
    assert done.problem.counts["refine"]["trimmed"] == 4
