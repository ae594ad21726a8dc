"""The command: its help, its exit codes, what it prints, and the whole way from texts to a comparison."""

import contextlib
import io
import json
import shlex
import signal
import subprocess
import sys
from types import SimpleNamespace

import click
import numpy as np
import pytest
from datamix_corpus import text_of
from datamix_small import BIN, quick

from datamix import swarms
from datamix.cli import main


def command(*words, **more):
    return subprocess.run([str(BIN), *map(str, words)], capture_output=True, text=True, timeout=180, **more)


def here(*words):
    """The command in this process, as an import of torch takes seconds."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    handlers = [(s, signal.getsignal(s)) for s in (signal.SIGTERM, signal.SIGINT)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(word) for word in words], standalone_mode=False)
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
    return SimpleNamespace(
        returncode=code, **{name: one.buffer.getvalue().decode() for name, one in (("stdout", out), ("stderr", err))}
    )


def verbs(group=main, words=()):
    """(words, command) of every verb, those of groups too."""
    found = []
    for name, one in group.commands.items():
        found += verbs(one, (*words, name)) if isinstance(one, click.Group) else [((*words, name), one)]
    return found


VERBS = dict(verbs())


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("words", [words for words in VERBS if words != ("doctor",)], ids=" ".join)
def test_every_verb_has_an_example_that_it_understands(words, monkeypatch):
    """Parsed as it would be to run; nothing is run."""
    told = here(*words, "--help")
    assert told.returncode == 0 and "Example:" in told.stdout
    text = VERBS[words].help.split("Example:")[1]
    examples = [line.strip() for line in text.splitlines() if line.strip().startswith("datamix ")]
    assert examples
    seen = []
    for one in VERBS.values():
        monkeypatch.setattr(one, "callback", lambda **given: seen.append(given))
    for line in examples:
        words_of_line = shlex.split(line)
        assert here(*words_of_line[1:]).returncode == 0, line
        assert tuple(words_of_line[1 : 1 + len(words)]) == words or words == ("swarm", "run")
    assert len(seen) == len(examples)


def test_every_option_says_what_it_is():
    for words, one in VERBS.items():
        for option in one.params:
            if isinstance(option, click.Option):
                assert option.help and len(option.help) >= 5, (words, option.name)


def test_the_verbs_that_are_due_are_there():
    due = "corpora sample swarm train-agent apply plan baseline compare explain import export doctor".split()
    assert set(due) <= set(main.commands)
    told = here("--help").stdout
    assert all(name in told for name in due)
    assert here("--version").stdout.startswith("datamix, version ")


def test_help_and_sampling_need_no_heavy_library():
    script = (
        "import sys, datamix.cli as cli; cli.main(['swarm', '--help'], standalone_mode=False); "
        "cli.main(['sample', '--domain', 'a', '--domain', 'b', '--target', 'b', '--trajectories', '1', '--steps', '2'], standalone_mode=False); "
        "print([name for name in ('torch', 'transformers', 'lightgbm', 'pyarrow', 'matplotlib', 'ray', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# ---------------------------------------------------------------- the whole way


def test_from_texts_to_a_comparison(tmp_path, monkeypatch):
    """Every step by the installed command: each prints one JSON object and finds what the one before has left."""
    for name in ("letters", "songs", "laws", "code"):
        (tmp_path / "texts" / name).mkdir(parents=True)
        for i in range(30):
            (tmp_path / "texts" / name / f"{i:02d}.txt").write_text(text_of(name, 300, i))
    (tmp_path / "tiny.toml").write_text(
        "width = 16\nheads = 2\ncontext = 16\nbatch = 4\nbase_updates = 20\nwarmup = 2\n"
    )
    budget = ("--steps", 4, "--run-tokens", 768, "--source-budget", 0.3)
    small = ("--feedback-tokens", 128, "-q")

    monkeypatch.chdir(tmp_path)

    def tell(*words):
        done = command(*words)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    told = tell("corpora", "--from", "texts", "--target", "code", "-o", "corpus", "--json", "-q")
    assert [one["name"] for one in told["domains"]] == ["laws", "letters", "songs", "code"] or set(told) >= {"domains"}
    told = tell(
        "swarm",
        "corpus",
        "--trajectories",
        8,
        *budget,
        "--proxy",
        "tiny.toml",
        *small,
        "--workers",
        1,
        "-o",
        "swarm",
        "--json",
    )
    assert told["runs"] == 8 and told["failed"] == 0 and told["tokens"] == 8 * 768
    told = tell("train-agent", "swarm", "--algo", "sft", "--train-steps", 10, "-o", "agent", "--json", "-q")
    assert told["runs"] == 8 and told["algo"] == "sft"

    done = here("plan", "agent", "swarm", "-o", "schedule.jsonl", "--json", "-q")
    assert done.returncode == 0 and isinstance(json.loads(done.stdout), dict), done.stderr
    lines = [json.loads(line) for line in (tmp_path / "schedule.jsonl").read_text().splitlines()]
    assert [one["step"] for one in lines] == [0, 1, 2, 3]
    assert {"step", "tokens_seen", "weights", "feedback", "q", "entropy"} <= lines[0].keys()
    assert all(sum(one["weights"].values()) == pytest.approx(1, abs=1e-4) for one in lines)
    done = command("export", "schedule.jsonl", "--to", "doremi", "--average", "-o", "doremi.json")
    assert done.returncode == 0, done.stderr
    mean = {name: np.mean([one["weights"][name] for one in lines]) for name in lines[0]["weights"]}
    assert json.loads((tmp_path / "doremi.json").read_text())["train_domain_weights"] == pytest.approx(mean, abs=1e-4)

    told = tell(
        "apply", "agent", "corpus", "--proxy", "tiny.toml", "--base", "swarm/bases/all.safetensors", *budget, *small, "-o", "run", "--json",
    )  # fmt: skip
    steered = [json.loads(line) for line in (tmp_path / "run" / "schedule.jsonl").read_text().splitlines()]
    assert len(steered) == 4 and all(one["feedback"] for one in steered)
    told = tell(
        "compare", "corpus", "--agent", "agent", "--swarm", "swarm", "--methods", "proportional,hand", "--controls", "reward_shuffle", "--control-agents", 2,
        "--seeds", 2, *budget, "--proxy", "tiny.toml", "--score-tokens", 128, *small, "--workers", 1, "-o", "compared", "--json",
    )  # fmt: skip
    assert {"agent", "proportional", "hand", "controls"} <= told.keys()
    assert {"score", "auc", "source", "target", "source_bytes", "diff"} <= told["hand"].keys()
    assert told["counts"]["runs"] == 2 * 5 and set(told["controls"]["reward_shuffle"]["each"]) == {
        "reward_shuffle-0",
        "reward_shuffle-1",
    }


# ---------------------------------------------------------------- this process: options that become settings


def test_options_reach_what_they_are_for(small, tmp_path, monkeypatch):
    quick(monkeypatch, value=False)
    words = (
        "--steps",
        6,
        "--run-tokens",
        1152,
        "--source-budget",
        0.3,
        "--proxy",
        small.proxy,
        "--feedback-tokens",
        256,
        "-q",
        "--workers",
        1,
    )
    done = here("swarm", small.corpus, "--trajectories", 16, *words, "-o", tmp_path / "swarm")
    assert done.returncode == 0 and "16 runs of 1 tasks, 0 failed" in done.stdout
    assert (tmp_path / "swarm" / "trajectories.jsonl").read_bytes() == (small.swarm / "trajectories.jsonl").read_bytes()
    done = here("train-agent", small.swarm, "--members", 3, "--caution", 0.25, "--train-steps", 6, "--pace", "free", "--within", "even", "--no-feedback",
                "--seed", 5, "-o", tmp_path / "agent", "--json", "-q")  # fmt: skip
    told = json.loads(done.stdout)
    for name, value in {
        "members": 3,
        "caution": 0.25,
        "policy_steps": 6,
        "form": "free",
        "split": "even",
        "feedback": False,
    }.items():
        assert told["report"]["settings"][name] == value
    assert told["report"]["seed"] == 5 and told["report"]["shuffled_rewards"] is False
    done = here(
        "train-agent",
        small.swarm,
        "--algo",
        "cql",
        "--alpha",
        3.5,
        "--train-steps",
        2,
        "--shuffle-rewards",
        "-o",
        tmp_path / "cql",
        "--json",
        "-q",
    )
    assert json.loads(done.stdout)["report"]["settings"]["alpha"] == 3.5
    assert json.loads((tmp_path / "cql" / "manifest.json").read_bytes())["options"]["shuffle"] is True


def test_a_single_run_is_told(small, tmp_path):
    words = (
        "--trajectories",
        2,
        "--steps",
        6,
        "--run-tokens",
        1152,
        "--proxy",
        small.proxy,
        "-q",
        "-o",
        tmp_path / "swarm",
    )
    done = here("swarm", "run", small.corpus, *words, "--run", 2, "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"run": 2, "status": "done"})
    done = here("swarm", "collect", tmp_path / "swarm")
    assert done.returncode == 2 and "1 of 2 runs are not finished: 1" in done.stderr
    assert here("swarm", small.corpus, *words, "--run", 1).stdout == ""
    assert here("swarm", "collect", tmp_path / "swarm", "--json").returncode == 0
    assert len(swarms.read(tmp_path / "swarm")) == 2


def test_a_config_file_holds_options_and_the_command_line_wins(small, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(f"""
steps = 6
run-tokens = 1152
proxy = "{small.proxy}"
trajectories = 2
feedback-tokens = 256
workers = 1
sampler = "walk=2,late"
quiet = true
""")
    done = here("swarm", small.corpus, "--config", config, "--trajectories", 3, "-o", tmp_path / "swarm", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["runs"] == 3, done.stderr
    assert {one.sampler for one in swarms.read(tmp_path / "swarm")} == {"walk", "late"}
    config.write_text("steps = 6\nstepps = 7\n")
    done = here("swarm", small.corpus, "--config", config, "-o", tmp_path / "other")
    assert done.returncode == 2 and "stepps" in done.stderr
    config.write_text('[train-agent]\nalgo = "sft"\ntrain-steps = 3\n[compare]\nseeds = 9\n')
    done = here("train-agent", small.swarm, "--config", config, "-o", tmp_path / "agent", "--json", "-q")
    assert done.returncode == 0 and json.loads(done.stdout)["report"]["settings"]["steps"] == 3


def test_sampled_schedules_go_to_stdout(small):
    done = here("sample", small.corpus, "--trajectories", 3, "--steps", 4, "--source-budget", 0.2, "--seed", 7)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and len(lines) == 12 and lines[0].keys() == {"id", "sampler", "step", "weights"}
    assert {one["id"] for one in lines} == {"t0000", "t0001", "t0002"}
    assert (
        here("sample", small.corpus, "--trajectories", 3, "--steps", 4, "--source-budget", 0.2, "--seed", 7).stdout
        == done.stdout
    )


# ---------------------------------------------------------------- wrong usage


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("corpora --target a -o {out}", "expected one of --from-installed and --from DIR"),
        ("corpora --from {corpus} --from-installed --target a -o {out}", "expected one of"),
        ("corpora --from {corpus} -o {out}", "Missing option '--target'"),
        ("corpora --from {corpus} --target a", "-o CORPUS is missing"),
        ("corpora --from-installed --target a --layout plain -o {out}", "go with --from DIR"),
        ("corpora --from {corpus} --target a --debian -o {out}", "--debian goes with --from-installed"),
        ("sample", "--domain"),
        ("sample {corpus} --domain a", "--domain goes without CORPUS"),
        ("sample {corpus} --sampler loss-greedy", "follows losses"),
        ("sample --domain a --domain a --target a", "datamix: --domain: a: named twice"),
        ("sample {corpus} --steps 3 --max-epochs 0.001", "tokens are wanted and"),
        ("sample {corpus} -o {corpus}/corpus.json --overwrite", "is within an input; choose another output"),
        ("baseline uniform {corpus} -o {corpus}/corpus.json --overwrite", "is within an input; choose another output"),
        ("baseline regmix {swarm} -o {swarm}/new.json", "is within an input; choose another output"),
        ("plan {missing} {swarm} -o {swarm}/plan.json --overwrite", "is within an input; choose another output"),
        ("sample {corpus} --run-tokens 3 --steps 4", "--run-tokens 3: is less than one token for each of --steps 4"),
        ("swarm {corpus}", "-o SWARM is missing"),
        ("swarm {corpus} --trajectories 0 -o {out}", "--trajectories"),
        ("swarm {corpus} --source-budget 1.5 -o {out}", "--source-budget"),
        ("swarm {corpus} --source-budget nan -o {out}", "--source-budget"),
        ("swarm {corpus} --sampler lucky -o {out}", "no such sampler"),
        ("swarm {corpus} --proxy 23k -o {out}", "--proxy 23k: expected one of 22k"),
        ("swarm {corpus} --run 25 -o {out}", "--run 25: expected a run from 1 to 24"),
        ("swarm {corpus} --tasks 2 --task-sources 9 -o {out}", "--task-sources 9"),
        ("swarm {corpus} --run-tokens 160 -o {out}", "fewer than one update"),
        ("swarm {corpus} --max-epochs 0.01 -o {out}", "delta is the smallest target"),
        ("swarm {here} -o {out}", "expected a corpus"),
        ("swarm {missing} -o {out}", "no such file"),
        ("swarm {corpus} --polish -o {out}", "No such option"),
        ("swarm collect {missing}", "no such file"),
        ("train-agent {swarm}", "-o AGENT"),
        ("train-agent {swarm} --algo dqn -o {out}", "'dqn' is not one of"),
        ("train-agent {swarm} --arch decoder -o {out}", "--arch decoder: --algo model"),
        ("train-agent {swarm} --algo sft --alpha 1 -o {out}", "--alpha: is of --algo cql"),
        ("train-agent {swarm} --members 1 -o {out}", "--members"),
        ("train-agent {corpus} -o {out}", "trajectories.jsonl"),
        ("apply {missing} {corpus} -o {out}", "expected one of --model, --proxy"),
        ("apply {missing} {corpus} --proxy 22k --model x -o {out}", "expected one of --model, --proxy"),
        ("apply {missing} {corpus} --feedback f -o {out}", "--feedback and --weights-file go together"),
        ("baseline luck {corpus}", "'luck' is not one of"),
        ("baseline fixed {corpus}", "--target-share is missing"),
        ("baseline proportional {swarm}", "is a swarm"),
        ("compare {corpus}", "-o DIR is missing"),
        ("compare {corpus} --methods luck -o {out}", "--methods luck"),
        ("compare {corpus} --methods , -o {out}", "expected names such as hand,regmix"),
        ("compare {corpus} --seeds 0 -o {out}", "--seeds"),
        ("compare {corpus} --plot x.pdf -o {out}", "expected a name ending in .png or .svg"),
        ("compare {corpus} --agent {missing} --controls none -o {out}", "agent.json: no such file"),
        ("export {missing} --to megatron", "no such file"),
        ("export {missing}", "Missing option '--to'"),
        ("import doremi", "expected FILE"),
        ("import doremi x --mixture y", "--mixture and --loss are of regmix"),
        ("import regmix --mixture x -o {out}", "expected both tables"),
        ("import doremi x --target y", "--target goes with tables"),
        ("swarm", ""),
        ("", "Usage"),
        ("juggle", "No such command"),
    ],
)  # fmt: skip
def test_wrong_usage_is_told_in_a_line_and_exit_2(small, tmp_path, line, told):
    places = {
        "corpus": small.corpus,
        "swarm": small.swarm,
        "here": tmp_path,
        "missing": tmp_path / "nothing",
        "out": tmp_path / "out",
    }
    done = here(*shlex.split(line.format(**places)))
    assert done.returncode == 2, done.stderr
    assert told in " ".join(done.stderr.split()) and "Traceback" not in done.stderr
    assert done.stdout == "" and list(tmp_path.iterdir()) == []
    if line not in ("", "swarm"):
        assert done.stderr.count("\n") == 1 and done.stderr.startswith("datamix: ")


def test_a_second_start_exits_75(small, tmp_path):
    from tenfold_shared.jsonl import Lock

    lock = Lock(tmp_path / ".out.lock", tmp_path / "out")
    for words in (
        ("swarm", small.corpus),
        ("compare", small.corpus, "--methods", "hand"),
        ("train-agent", small.swarm),
    ):
        done = here(*words, "-o", tmp_path / "out", "-q")
        assert done.returncode == 75 and "another run is writing it" in done.stderr
    lock.release()
