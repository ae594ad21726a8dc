"""What comes back from steps.jsonl alone equals what the run wrote: whatever the order of replies, with failures, with
an early stop, after lines were lost; and no folder loses what it holds to a mistyped command."""

import json
import random
import threading
import time

import pytest
from dser_command import Server, dser, hashed_reply, kind_of, read, records, sim, tasks, write

from dser import runner
from dser.chain import Chain, Procedure
from dser.prompts import Prompts


def jittered(seed=1, most=0.01):
    draw = random.Random(seed)
    return lambda body: draw.random() * most


def rebuilt(folder):
    done = dser("vote", folder)
    assert done.returncode == 0, done.stderr
    return records(done.stdout)


def test_each_call_is_asked_about_its_own_chain(tmp_path):
    """Every prompt, word for word, from the texts of that chain's own steps before."""
    with Server(hashed_reply, delay=jittered()) as server:
        done = dser(
            "solve", write(tmp_path / "t.jsonl", tasks(2)), "--model", server.uri, "--chains", 3, "--iterations", 3,
            "--concurrency", 8, "-o", tmp_path / "run", "-q",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    asked = {body["seed"]: body["messages"][-1]["content"] for body in server.bodies}
    steps = {(s["id"], s["chain"], s["iteration"], s["role"]): s for s in read(tmp_path / "run" / "steps.jsonl")}
    assert len(asked) == len(steps) == 2 * 3 * 7
    for (name, chain, n, role), _ in steps.items():
        problem = f"What is {name[1:]} + 1?"
        said = asked[runner.call_seed(0, name, chain, n, role)]
        if role == "solve":
            assert said == f"{problem}\n\nThink it through step by step. Put the final answer in \\boxed{{}}."
            continue
        at = n if role == "verify" else n - 1
        solution = steps[name, chain, at, "refine" if at else "solve"]["text"]
        shared = f"Problem:\n{problem}\n\nProposed solution:\n{solution}\n\n"
        assert said.startswith(shared)
        if role == "refine":
            review = steps[name, chain, at, "verify"]["text"]
            assert said.startswith(f"{shared}A review of it:\n{review}\n\n")
    (one,) = Prompts().messages("verify", tasks(1)[0], Chain(Procedure()), "S", "")
    assert "VERDICT: PASS" in one["content"] and "VERDICT: FAIL" in one["content"]


def test_output_is_in_the_order_of_the_input_and_the_report_of_one_run_is_one(tmp_path):
    found = {}
    with Server(hashed_reply, delay=jittered()) as server:
        for concurrency in (1, 16):
            folder = tmp_path / f"c{concurrency}"
            done = dser(
                "solve", write(tmp_path / "t.jsonl", tasks(5)), "--model", server.uri, "--chains", 3, "--iterations", 3,
                "--concurrency", concurrency, "-o", folder, "-q",
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert rebuilt(folder) == read(folder / "answers.jsonl")
            harness = records(dser("export", folder, "--to", "lm-eval").stdout)
            assert [row["doc"]["id"] for row in harness] == [f"t{i}" for i in range(5)]
            triples = [(r["id"], r["chain"]) for r in records(dser("export", folder, "--to", "triples").stdout)]
            assert triples == sorted(triples)
            found[concurrency] = dser("report", folder, "--json").stdout
    assert found[1] == found[16]


def test_early_stop_with_a_slow_chain(tmp_path):
    """A chain that lags: the others are far ahead when the problem is stopped, and nothing of that may show."""
    names = {runner.call_seed(0, "t0", 3, n, role) for n in range(41) for role in ("solve", "verify", "refine")}

    def agreeing(body):  # right with chance .8, by the seed
        if kind_of(body) == "verify":
            return "VERDICT: PASS" if body["seed"] % 3 else "VERDICT: FAIL"
        return f"Of seed {body['seed']}: \\boxed{{{1 if body['seed'] % 5 else 9}}}"

    runs = []
    for name, slow, concurrency in (("slow", 0.05, 16), ("even", 0.0, 1)):
        with Server(agreeing, delay=lambda body, slow=slow: slow if body["seed"] in names else 0) as server:
            options = [
                "solve", write(tmp_path / "t.jsonl", tasks(1)), "--model", server.uri, "--chains", 8, "--iterations", 40,
                "--window", 4, "--early-stop", 0.9, "--concurrency", concurrency, "-o", tmp_path / name, "-q",
            ]  # fmt: skip
            first = dser(*options)
            assert first.returncode == 0, first.stderr
            assert dser(*options).stdout == first.stdout
        (sample,) = records(first.stdout)
        (answer,) = read(tmp_path / name / "answers.jsonl")
        assert answer["status"] == "early" and answer["stopped_at"] < 40 and answer["correct"]
        assert f"\\boxed{{{answer['answer']}}}" in sample["response"]
        assert rebuilt(tmp_path / name) == [answer]
        report = json.loads(dser("report", tmp_path / name, "--json").stdout)
        spent = {"generated_tokens", "prompt_tokens"}
        runs.append(
            (
                sample["response"],
                {key: value for key, value in answer.items() if key not in spent},
                (tmp_path / name / "chains.jsonl").read_bytes(),
                report["verifier"],
                report["transitions"],
            )
        )
    assert runs[0] == runs[1]


def test_failed_chains_come_back_and_are_tried_again(tmp_path):
    bad = {runner.call_seed(0, "t1", 1, 1, "verify"), *(runner.call_seed(0, "t2", k, 0, "solve") for k in range(3))}
    ill = threading.Event()
    ill.set()

    def reply(body):
        return (400, {}, {"error": "no such luck"}) if body["seed"] in bad and ill.is_set() else hashed_reply(body)

    with Server(reply) as server:
        options = [
            "solve", write(tmp_path / "t.jsonl", tasks(3)), "--model", server.uri, "--chains", 3, "--iterations", 2,
            "-o", tmp_path / "run",
        ]  # fmt: skip
        cut = dser(*options, "-q")
        assert cut.returncode == 1 and "4 chains failed (t" in cut.stderr and "no such luck" in cut.stderr
        answers = read(tmp_path / "run" / "answers.jsonl")
        assert [one["status"] for one in answers] == ["done", "partial", "failed"]
        assert answers[2]["failed_chains"] == 3 and "no such luck" in answers[2]["error"]
        assert rebuilt(tmp_path / "run") == answers
        samples = records(dser("export", tmp_path / "run", "--to", "samples").stdout)
        assert sum("no such luck" in s.get("error", "") for s in samples) == 3
        ill.clear()
        assert dser(*options).returncode == 0
        whole = dser(*options[:-2], "-o", tmp_path / "whole")
    assert whole.returncode == 0
    assert (
        rebuilt(tmp_path / "run")
        == read(tmp_path / "run" / "answers.jsonl")
        == read(tmp_path / "whole" / "answers.jsonl")
    )


@pytest.fixture
def run(tmp_path):
    """A finished run, its command without the folder, and its answers."""
    options = [
        "solve", write(tmp_path / "t.jsonl", tasks(4)), "--model", sim(tmp_path / "s.json", p_ic=0.3, p_ci=0.1), "--chains",
        3, "--iterations", 3, "--window", 2, "-q",
    ]  # fmt: skip
    done = dser(*options, "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    return tmp_path / "run", options, done.stdout


def test_lost_doubled_and_shuffled_lines(run):
    folder, options, first = run
    log = folder / "steps.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    answers = (folder / "answers.jsonl").read_bytes()
    for seed in range(3):
        random.Random(seed).shuffle(lines)
        log.write_bytes(b"".join(lines + lines[:3]))
        assert sorted(rebuilt(folder), key=lambda one: one["id"]) == [json.loads(line) for line in answers.splitlines()]
    log.write_bytes(b"".join(line for line in lines if b'"iteration":1,"role":"refine"' not in line))
    cut = dser("vote", folder)
    assert (
        cut.returncode == 2 and "expected refine of iteration 1 next" in cut.stderr and "same dser solve" in cut.stderr
    )
    again = dser(*options, "-o", folder)
    assert again.returncode == 0 and again.stdout == first
    assert (folder / "answers.jsonl").read_bytes() == answers
    assert sorted(rebuilt(folder), key=lambda one: one["id"]) == read(folder / "answers.jsonl")
    assert len(records(dser("export", folder, "--to", "triples").stdout)) == 4 * 3 * 3
    with open(log, "ab") as out:
        out.write(lines[0].replace(b'"chain":', b'"chain":1'))
    assert "expected a chain from 0 to 2" in dser("report", folder).stderr


def test_a_mistyped_command_costs_nothing(run, tmp_path):
    folder, options, _ = run
    before = {name: (folder / name).read_bytes() for name in ("steps.jsonl", "answers.jsonl", "chains.jsonl")}
    (tmp_path / "broken.jsonl").write_text('{"id": "a", "prompt": "x"}\n{"id":\n')
    for bad in (
        [*options[:3], "no-such-model", *options[4:]],
        [*options[:3], "http://127.0.0.1:9/v1#x", *options[4:], "--max-retries", 0],
        ["solve", tmp_path / "broken.jsonl", *options[2:]],
    ):
        done = dser(*bad, "-o", folder, "--overwrite")
        assert done.returncode in (2, 3), done.stderr
        assert {name: (folder / name).read_bytes() for name in before} == before
    new = dser(*options, "--seed", 1, "-o", folder, "--overwrite")
    assert new.returncode == 0 and (folder / "steps.jsonl").read_bytes() != before["steps.jsonl"]


def test_input_that_was_mended_is_no_other_run(tmp_path):
    given = tmp_path / "t.jsonl"
    given.write_text('{"id": "a", "prompt": "x"}\n{"id":\n')
    options = [
        "solve",
        given,
        "--model",
        sim(tmp_path / "s.json", p_ic=0.3, p_ci=0.1),
        "--chains",
        2,
        "-o",
        tmp_path / "run",
    ]
    assert dser(*options, "-q").returncode == 2
    write(given, tasks(2))
    assert dser(*options, "-q").returncode == 0


def test_manifests_that_are_none(run):
    folder, options, _ = run
    (folder / "manifest.json").write_text("[]")
    done = dser(*options, "-o", folder)
    assert done.returncode == 2 and "is damaged" in done.stderr and "Traceback" not in done.stderr


def test_another_content_of_the_simulated_model_is_another_run(run, tmp_path):
    folder, options, _ = run
    sim(tmp_path / "s.json", p_ic=0.5, p_ci=0.1)
    assert "was made with --model-sha256" in dser(*options, "-o", folder).stderr


def test_a_budget_rerun_tells_of_every_problem(run, tmp_path):
    folder, options, first = run
    less = dser(*options, "--budget-tokens", 100, "-o", folder)
    assert less.stdout == first and less.returncode == 0
    with Server(hashed_reply, delay=0.01) as server:
        wide = ["solve", options[1], "--model", server.uri, "--chains", 4, "--iterations", 4, "-q", "--concurrency", 16]
        cut = dser(*wide, "--budget-tokens", 150, "-o", tmp_path / "cut")
        assert len(records(cut.stdout)) == 4 and cut.returncode == 0
        assert dser(*wide, "--budget-tokens", 150, "-o", tmp_path / "cut").stdout == cut.stdout
        statuses = [one["status"] for one in read(tmp_path / "cut" / "answers.jsonl")]
        assert set(statuses) == {"budget"}
        back = rebuilt(tmp_path / "cut")
        assert [one["status"] for one in back] == ["unfinished"] * 4
    with Server(hashed_reply, usage=False) as server:
        done = dser("solve", options[1], "--model", server.uri, "--budget-tokens", 10, "-q")
        assert done.returncode == 2 and "no token counts" in done.stderr and len(server.bodies) < 40


def test_hanging_up_twice_is_quiet(tmp_path):
    import signal

    from dser_command import start

    with Server(hashed_reply, delay=0.3) as server:
        given = write(tmp_path / "t.jsonl", tasks(2))
        going = start("solve", given, "--model", server.uri, "-o", tmp_path / "run", "-q")
        while not server.bodies:
            time.sleep(0.02)
        going.send_signal(signal.SIGINT)
        time.sleep(0.01)
        going.send_signal(signal.SIGINT)
        _, errors = going.communicate(timeout=30)
    assert "Traceback" not in errors and going.returncode in (130, -signal.SIGINT)
