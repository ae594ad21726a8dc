"""The command-line shape every tool shares: exit codes, one error line, options, config, doctor."""

import json
import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from tenfold_shared import BadInput, Busy, Missing, OutOfTime
from tenfold_shared.cli import (
    EXTRAS,
    Backend,
    Duration,
    Numbers,
    Selection,
    Shard,
    Terminated,
    Tool,
    add_doctor,
    check,
    engine_arguments,
    options,
    read_template,
    take,
    tool,
)


def make(body) -> Tool:
    @tool("demo", "tenfold-shared", "A demo.")
    def group():
        pass

    @group.command()
    @options("common", "seed", "top_p", "limit")
    def verb(**given):
        """A verb.

        \b
        Example:
          demo verb
        """
        return body(given)

    add_doctor(group, extras=["hf", "vllm", "plot"])
    return group


def invoke(body, *args):
    return CliRunner().invoke(make(body), ["verb", *args])


def raising(error):
    def body(given):
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (BadInput("f.jsonl:3: id: expected str"), 2, "demo: f.jsonl:3: id: expected str"),
        (Missing("torch: not installed"), 3, "demo: torch: not installed"),
        (Busy("out: held"), 75, "demo: out: held"),
        (OutOfTime("time is over"), 1, "demo: time is over"),
        (KeyboardInterrupt(), 130, "demo: interrupted"),
        (Terminated(), 143, "demo: terminated"),
        (MemoryError(), 3, "demo: out of memory"),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_errors_become_one_line_and_an_exit_code(error, code, text, monkeypatch):
    monkeypatch.setattr("os.dup2", lambda *_: None)
    result = invoke(raising(error))
    assert result.exit_code == code
    assert result.stderr.count("\n") == (1 if text else 0) and result.stderr.startswith(text)
    assert result.stdout == ""


def test_an_unforeseen_error_is_not_swallowed():
    result = invoke(raising(ZeroDivisionError()))
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize("code", [0, 1, None])
def test_a_verb_returns_its_exit_status(code):
    assert invoke(lambda given: code).exit_code == (code or 0)


def test_usage_errors_are_two_and_name_the_help():
    result = invoke(lambda given: 0, "--top-p", "3")
    assert result.exit_code == 2 and "demo verb --help" in result.stderr and "--top-p" in result.stderr


def test_config_gives_defaults_and_the_command_line_wins(tmp_path):
    (tmp_path / "c.toml").write_text("seed = 7\n[verb]\ntop-p = 0.5\n[doctor]\njson = true\n")
    seen = {}
    invoke(lambda given: seen.update(given), "--config", str(tmp_path / "c.toml"), "--top-p", "0.25")
    assert (seen["seed"], seen["top_p"]) == (7, 0.25)


@pytest.mark.parametrize(
    ("text", "message"),
    [("sede = 7", "sede: no such option"), ("[verb]\nx = 1", r"\[verb\] x: no such option"), ("seed = ", "not TOML")],
)
def test_bad_config_is_named(tmp_path, text, message):
    (tmp_path / "c.toml").write_text(text)
    result = invoke(lambda given: 0, "--config", str(tmp_path / "c.toml"))
    assert result.exit_code == 2 and re.search(message, result.stderr)


def in_a_group(tmp_path, text):
    """What `demo many one --config` takes from this text, or its result."""
    group, seen = make(lambda given: 0), {}

    @group.group()
    def many():
        pass

    @many.command()
    @options("common", "seed", "top_p")
    def one(**given):
        seen.update(given)
        return 0

    (tmp_path / "c.toml").write_text(text)
    result = CliRunner().invoke(group, ["many", "one", "--config", str(tmp_path / "c.toml")])
    return seen if result.exit_code == 0 else result


def test_config_of_a_verb_in_a_group(tmp_path):
    """The tool's other verbs have their tables in the same file; a group's own table is for each verb in it."""
    seen = in_a_group(tmp_path, "seed = 1\n[verb]\nlimit = 3\n[many]\nseed = 2\ntop-p = 0.5\n[many.one]\nseed = 3\n")
    assert (seen["seed"], seen["top_p"]) == (3, 0.5)
    assert in_a_group(tmp_path, "[many]\nseed = 2\n")["seed"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[one]\nseed = 1", "[one]: no such verb; expected a table named after one of verb, doctor, many"),
        ("[many.two]\nseed = 1", "[many.two]: no such verb; expected a table named after one of one"),
        ("[many]\nlimit = 1", "[many] limit: no such option of `demo many one`; put it in that verb's [table]"),
        ("[many.one]\nlimit = 1", "[many.one] limit: no such option\n"),
    ],
)
def test_bad_config_of_a_verb_in_a_group(tmp_path, text, message):
    result = in_a_group(tmp_path, text)
    assert result.exit_code == 2 and message in result.stderr


def test_config_value_of_the_wrong_type_is_refused(tmp_path):
    (tmp_path / "c.toml").write_text('seed = "many"')
    result = invoke(lambda given: 0, "--config", str(tmp_path / "c.toml"))
    assert result.exit_code == 2 and "many" in result.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 1.5", "seed: expected a whole number, got 1.5"),
        ("seed = true", "seed: expected a value, got true"),
        ("[verb.seed]\nx = 1", "seed: expected a value, got a table"),
        ("seed = [1, 2]", "seed: expected one value, got a list"),
        ("quiet = 3", "quiet: expected true or false, got 3"),
    ],
)
def test_config_values_are_of_the_options_own_kind(tmp_path, text, message):
    (tmp_path / "c.toml").write_text(text)
    result = invoke(lambda given: 0, "--config", str(tmp_path / "c.toml"))
    assert result.exit_code == 2 and message in result.stderr and "Traceback" not in result.stderr


def test_a_config_that_is_no_text(tmp_path):
    (tmp_path / "c.toml").write_bytes(b"seed = 1 # \xff")
    result = invoke(lambda given: 0, "--config", str(tmp_path / "c.toml"))
    assert result.exit_code == 2 and "c.toml: not TOML" in result.stderr


def test_numbers_of_a_config_are_checked_as_those_of_the_command_line():
    assert Numbers().convert([8, 1, 2, 2], None, None) == (1, 2, 8)
    for wrong in ([0], ["a"], [1.5], [True]):
        with pytest.raises(click.BadParameter, match="expected positive whole numbers"):
            Numbers().convert(wrong, None, None)


def test_option_types():
    assert [Duration().convert(t, None, None) for t in ("90", "90s", "50m", "2h", "1.5h")] == [90, 90, 3000, 7200, 5400]
    assert Shard().convert("2/8", None, None) == (2, 8)
    assert Numbers().convert("8,1,2,2", None, None) == (1, 2, 8)
    for kind, text in (
        (Duration(), "5d"),
        (Duration(), "-1s"),
        (Shard(), "0/2"),
        (Shard(), "3/2"),
        (Numbers(), "0,1"),
        (Numbers(), "a"),
    ):
        with pytest.raises(click.BadParameter):
            kind.convert(text, None, None)


def test_engine_arguments_read_numbers_and_names():
    found = engine_arguments(
        ("tensor_parallel_size=8", "gpu_memory_utilization=0.9", "enforce_eager=true", "quantization=fp8")
    )
    assert found == {
        "tensor_parallel_size": 8,
        "gpu_memory_utilization": 0.9,
        "enforce_eager": True,
        "quantization": "fp8",
    }
    with pytest.raises(BadInput, match="KEY=VALUE"):
        engine_arguments(("tensor_parallel_size",))


def test_identity_holds_what_decides_the_text_and_not_how_it_is_reached():
    def backend(model, **more):
        base = {"batch_size": 4, "concurrency": 2, "device": "cpu", "dtype": "auto", "engine": (), "api_key_env": "K"}
        return Backend(
            **{
                **base,
                "model": (model,),
                "timeout": 1,
                "max_retries": 0,
                "trust_remote_code": False,
                "record": None,
                **more,
            }
        )

    assert backend("smollm2").identity() != backend("smollm2", batch_size=8).identity()
    assert backend("smollm2").identity() == backend("smollm2", concurrency=9, record="x", timeout=2).identity()
    server = "http://h/v1#m"
    assert backend(server).identity() == backend(server, batch_size=8, dtype="float32").identity()


def test_take_moves_a_group_out_of_the_arguments():
    given = {"limit": 3, "ids": None, "shard": (1, 2), "skip_bad": 0, "seed": 5}
    selection = take(Selection, given)
    assert given == {"seed": 5} and selection.identity()["shard"] == [1, 2]


def test_templates_are_checked_before_work_starts(tmp_path):
    path = tmp_path / "t"
    path.write_text("Q: $question $$5")
    assert read_template(str(path), "", {"question"}) == "Q: $question $$5"
    for text, message in (
        ("$answer", r"\$answer is not a field; known are \$question"),
        ("cost: $ 5", "names nothing"),
    ):
        path.write_text(text)
        with pytest.raises(BadInput, match=message):
            read_template(str(path), "", {"question"})
    with pytest.raises(BadInput, match="no such file"):
        read_template(str(tmp_path / "none"), "", set())


def test_log_lines_go_to_the_file(tmp_path):
    import logging

    invoke(lambda given: logging.getLogger("tenfold_shared.x").info("hello %d", 5), "--log", str(tmp_path / "log"))
    assert "INFO tenfold_shared.x hello 5" in (tmp_path / "log").read_text()


def test_doctor_reports_every_part_and_require_decides_the_exit():
    runner = CliRunner()
    group = make(lambda given: 0)
    report = json.loads(runner.invoke(group, ["doctor", "--json"]).stdout)
    assert list(report) == ["device", "backends", "extras", "kernels", "sandbox"]
    for part in report.values():
        for item in (part, *part.get("items", {}).values()):
            assert isinstance(item["ok"], bool) and isinstance(item["detail"], str) and (item["ok"] or item["fix"])
    assert runner.invoke(group, ["doctor", "--require", "server"]).exit_code == 0
    assert runner.invoke(group, ["doctor", "--require", "nonsense"]).exit_code == 2
    for name, item in (report["backends"]["items"] | report["extras"]["items"] | report["device"]["items"]).items():
        result = runner.invoke(group, ["doctor", "--require", name])
        assert result.exit_code == (0 if item["ok"] else 3)
        assert item["ok"] or item["fix"] in result.stderr


def test_doctor_prints_the_line_that_installs_with_its_brackets(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setitem(EXTRAS, "vllm", ["no_such_module"])
    assert "pip install 'demo[vllm]'" in CliRunner().invoke(make(lambda given: 0), ["doctor"]).stdout


def test_a_tool_without_models_has_back_ends_of_its_own():
    @tool("plain", "tenfold_shared", "x")
    def group():
        pass

    add_doctor(
        group,
        extras=["fast"],
        only_here={"fast": ["click", "nothing_of_this_name"]},
        own=lambda: {"cpu": check(True, "compiled"), "gpu2": check(False, "none", "buy one")},
    )
    report = json.loads(CliRunner().invoke(group, ["doctor", "--json"]).stdout)
    assert set(report["backends"]["items"]) == {"cpu", "gpu2"} and not report["backends"]["ok"]
    assert "nothing_of_this_name" in report["extras"]["items"]["fast"]["detail"]
    assert CliRunner().invoke(group, ["doctor", "--require", "gpu2"]).exit_code == 3


def test_doctor_clears_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path / "c"))
    made, foreign = tmp_path / "c" / "model-0123456789abcdef", tmp_path / "c" / "docs"
    for folder in (made, foreign):
        folder.mkdir(parents=True)
        (folder / "w").write_bytes(b"x" * 2_000_000)
    result = CliRunner().invoke(make(lambda given: 0), ["doctor", "--clear-cache"])
    assert "model-0123456789abcdef  2.0 MB" in result.stdout and "freed 2.0 MB" in result.stdout
    assert not made.exists() and "docs: made by none of the tools; left" in result.stdout and (foreign / "w").exists()


def test_errors_of_a_verb_in_a_group_in_the_group_are_one_line():
    group = make(lambda given: 0)

    @group.group("inner")
    def inner():
        pass

    @inner.command("one")
    @options("common", "seed")
    def one(**given):
        raise BadInput("f.jsonl:1: id: expected str")

    result = CliRunner().invoke(group, ["inner", "one"])
    assert result.exit_code == 2 and result.stderr == "demo: f.jsonl:1: id: expected str\n"
    wrong = CliRunner().invoke(group, ["inner", "one", "--nope"])
    assert wrong.exit_code == 2 and "demo inner one --help" in wrong.stderr and wrong.stderr.count("\n") == 1


def test_the_core_imports_no_model_library():
    code = (
        "import sys; import tenfold_shared.cli, tenfold_shared.records, tenfold_shared.jsonl, tenfold_shared.models,"
        " tenfold_shared.generate, tenfold_shared.answers, tenfold_shared.pool, tenfold_shared.progress;"
        " heavy = {'torch', 'transformers', 'vllm', 'sympy', 'math_verify', 'matplotlib', 'httpx', 'numpy', 'rich'};"
        " print(sorted(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(("torchrun", "told"), [(True, b"done"), (False, b"donelate")])
def test_a_rank_of_torchrun_ends_before_the_interpreter_is_taken_down(torchrun, told):
    """What native threads still hold is then not let go of under an interpreter that is half gone."""
    program = """
import atexit, sys, types
from tenfold_shared.cli import tool
sys.modules["torch.distributed"] = types.ModuleType("torch.distributed")
@tool("demo", "tenfold-shared", "A demo.")
def demo(): pass
@demo.command()
def verb():
    atexit.register(lambda: print("late", end=""))
    print("done", end="")
    return 1
demo()
"""
    environment = {"PATH": "/usr/bin:/bin", **({"TORCHELASTIC_RUN_ID": "none"} if torchrun else {})}
    done = subprocess.run([sys.executable, "-c", program, "verb"], capture_output=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (1, told, b"")
