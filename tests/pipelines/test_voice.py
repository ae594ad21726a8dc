"""One voice: an option of one name means one thing in all ten tools, and the same fault is told in the same words.

Options are compared in process, over every verb of every group. Faults go through each tool's command line in children
forked from one process a tool, so that a hundred of them cost seconds; no model is started. test_readmes.py holds the
options of tenfold_shared to one text; here is what is beyond them.
"""

import importlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tenfold_shared.cli import OPTIONS, Numbers, Size, options
from tenfold_shared.cli.options import Duration

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
TOOLS = sorted(path.parent.name for path in ROOT.glob("tools/*/pyproject.toml"))

# Every option that two or more tools have and tenfold_shared does not define: what it means in all of them.
MEANING = {
    "--algo": "The training algorithm, by name.",
    "--allow-extrapolation": "Go on beyond the positions the model was made for.",
    "--alpha": "The paper's alpha.",
    "--arch": "The architecture, by name.",
    "--arms": "What an experiment compares.",
    "--bandwidth": "Bytes the memory of a GPU gives a second, as a size.",
    "--batch": "Sequences at once.",
    "--batch-rows": "Packed rows of a training step, over all processes.",
    "--block": "Tokens of a block of the cache.",
    "--box": "Which boxed text of a response is its answer.",
    "--chains": "How many chains.",
    "--chat-template": "A file with a chat template in place of the tokenizer's own.",
    "--context": "Tokens of a sequence that the model holds at once.",
    "--decay": "The course of the learning rate after its warm-up.",
    "--epochs": "How often the training data are seen.",
    "--examples": "How many examples are shown, or made.",
    "--explain": "Show how the result comes about.",
    "--form": "The form of the input records, by name.",
    "--gold": "What is held for true.",
    "--gpu-mem": "Memory of a GPU, as a size.",
    "--grade-timeout": "Time one symbolic comparison may take.",
    "--gradient-checkpointing": "Less memory in training: activations are computed again on the way back.",
    "--group-size": "Responses of a group (G).",
    "--heads": "Attention heads.",
    "--init": "Weights that training begins with.",
    "--kind": "Which kind of thing, by name.",
    "--length": "Tokens of a row, a window or a text.",
    "--level": "The level, by name.",
    "--lr": "The learning rate.",
    "--mass": "Share of attention that must be covered.",
    "--max-length": "Longest text, in tokens.",
    "--max-norm": "Largest norm of the gradient.",
    "--method": "The method, by name.",
    "--methods": "The methods that are compared.",
    "--mode": "The mode, by name.",
    "--policy": "The policy, by name.",
    "--preset": "Settings by the name of a method.",
    "--ray": "The Ray cluster that the work is spread over: auto, an address, or local.",
    "--replicates": "Bootstrap replicates.",
    "--require-box": "A response without a box has no answer.",
    "--rounds": "How many rounds.",
    "--samples": "Responses a task.",
    "--save-every": "Steps between two saved states.",
    "--scope": "Which part is looked at.",
    "--seeds": "Runs with different seeds.",
    "--show": "Show the one of this name in detail.",
    "--smoothing": "How strongly a distribution is evened out.",
    "--steps": "How many steps.",
    "--task": "Which task, by name.",
    "--threads": "Threads of the CPU.",
    "--to": "The form that is written, by name.",
    "--tokenizer": "Whose tokens count.",
    "--tokens": "How many tokens at most.",
    "--warmup": "Training steps in which the learning rate rises.",
    "--window": "How many of the latest.",
    "--windows": "Only the first N windows.",
}
# Where the same name is of another type or unit, and why it may be.
EXCEPTIONS = {"--window": "both papers' own word: tokens kept exactly, and iterations that vote"}
# Options that tenfold_shared defines and these tools define anew: what differs, and why.
REDEFINED = {
    ("antkv", "--model"): "needs weights: one URI, and no server",
    ("datamix", "--model"): "needs weights: one URI, and no server",
    ("longexp-peft", "--model"): "needs weights: one URI, and no server",
    ("seer-decode", "--model"): "needs weights: one URI, and no server",
    ("sparstencil", "--dtype"): "there is no model; the type of the grid's numbers",
    ("dser", "--template"): "a template for each role: ROLE=FILE",
    ("dser", "--budget-tokens"): "the tokens a plan is made for",
}
UNITS = {"token": "tokens", "byte": "bytes", "second": "seconds", "neuron": "neurons", "iteration": "iterations",
         "percent": "percent", "minute": "seconds", "character": "characters"}  # fmt: skip


@click.command()
@options(*OPTIONS)
def every_shared(**given):
    pass


SHARED = {max(option.opts, key=len): option for option in every_shared.params}


def group_of(tool):
    return importlib.import_module(f"{tool.replace('-', '_')}.cli").main


def verbs_of(group, words=()):
    """(words of the verb, command) of every verb of a group and of the groups within it."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from verbs_of(command, (*words, name))
        else:
            yield (*words, name), command


VERBS = [(tool, words, command) for tool in TOOLS for words, command in verbs_of(group_of(tool))]
NAMED = [" ".join([tool, *words]) for tool, words, _ in VERBS]


def found_options():
    """Name to [(tool, words, option)]."""
    found = {}
    for tool, words, command in VERBS:
        for option in command.params:
            if isinstance(option, click.Option):
                found.setdefault(max(option.opts, key=len), []).append((tool, words, option))
    return found


def family(option):
    """flag, number, time, size or text: what a user would type. A choice among numbers is a number."""
    kind = option.type
    if option.is_flag:
        return "flag"
    if isinstance(kind, Duration):
        return "time"
    if isinstance(kind, Size):
        return "size"
    if isinstance(kind, click.types.IntParamType | click.types.FloatParamType | Numbers):
        return "number"
    if isinstance(kind, click.Choice) and all(re.fullmatch(r"[\d.]+", str(one)) for one in kind.choices):
        return "number"
    return "text"


def unit(option):
    """The unit that a number's help names first; None where it names none."""
    if family(option) != "number":
        return None
    word = re.search(rf"\b({'|'.join(UNITS)})s?\b", option.help.split("[")[0], re.IGNORECASE)
    return UNITS[word[1].lower()] if word else None


def test_an_option_of_one_name_means_one_thing():
    found = found_options()
    several = {name for name, uses in found.items() if len({tool for tool, _, _ in uses}) > 1} - SHARED.keys()
    several -= {"--require", "--clear-cache"}  # doctor's, made once for all
    assert several == set(MEANING), several ^ set(MEANING)
    odd = set()
    for name in several:
        uses = [option for _, _, option in found[name]]
        if len({family(option) for option in uses}) > 1 or len({unit(option) for option in uses} - {None}) > 1:
            odd.add(name)
    assert odd <= set(EXCEPTIONS), {
        name: [(tool, words, family(one), unit(one)) for tool, words, one in found[name]]
        for name in odd - set(EXCEPTIONS)
    }
    assert all(name in several and reason for name, reason in EXCEPTIONS.items())


def test_options_of_one_verb_family_do_not_part_within_a_tool():
    """Two verbs of one tool: the same name, then the same family and unit too."""
    for name, uses in found_options().items():
        for tool in TOOLS:
            mine = [one for where, _, one in uses if where == tool]
            assert len({family(one) for one in mine}) <= 1, (tool, name)
            assert len({unit(one) for one in mine} - {None}) <= 1, (tool, name)


def test_shared_names_are_the_shared_options():
    other = set()
    for name in SHARED:
        for tool, _, option in found_options().get(name, ()):
            if (option.help, repr(option.type)) != (SHARED[name].help, repr(SHARED[name].type)):
                other.add((tool, name))
                assert family(option) == family(SHARED[name])
    assert other == set(REDEFINED) and all(REDEFINED.values())
    assert {"-o", "-q", "-h", "-n"} >= {
        short
        for _, _, command in VERBS
        for option in command.params
        for short in option.opts
        if re.fullmatch(r"-\w", short)
    }


@pytest.mark.parametrize(("tool", "words", "command"), VERBS, ids=NAMED)
def test_every_verb_reads_alike(tool, words, command):
    text = command.help or ""
    assert re.search(r"\n\s*Examples?:\n", text), "help without an example"
    assert f"{tool} {' '.join(words)}" in text.replace(f"{tool} swarm corpus", f"{tool} swarm run")
    assert re.match(r"[A-Z][^\n]*", text)
    # get_help_option of a context: the names that the whole tool gives it
    assert group_of(tool).context_settings["help_option_names"] == ["-h", "--help"]
    assert (command.short_help or text).rstrip().endswith((".", "?")), command.short_help
    names = {option.name for option in command.params}
    if words != ("doctor",):
        assert {"config", "quiet", "log"} <= names
    for option in command.params:
        if isinstance(option, click.Option):
            assert re.search(r"[.?](  \[[^]]*\])?$", option.help or ""), f"{option.opts}: {option.help!r}"
            # A capital letter, or what the text is about: a value, a field, a method, then what it does.
            assert re.match(r"[A-Z0-9`([-]|[\w.:*-]+( |,|:)", option.help), f"{option.opts}: {option.help!r}"
        else:
            assert isinstance(option, click.Argument) and option.metavar


def test_sizes_and_times_are_read_alike():
    read = Size().convert
    assert read("4.3T", None, None) == 4.3e12 and read("80GiB", None, None) == 80 * 2**30
    assert read("900GB/s", None, None) == 9e11 and read(8000, None, None) == 8000
    for wrong in ("", "-1G", "0", "fast", "1X"):
        with pytest.raises(click.BadParameter, match=r"expected a size such as 80G"):
            read(wrong, None, None)


# ---------------------------------------------------------------- faults

# What each forked child does: the tool's main, as its console script calls it, on file descriptors of its own.
CHILD = """
import importlib, json, os, sys
tool = sys.argv[1]
main = importlib.import_module(tool.replace("-", "_") + ".cli").main
for case in json.load(sys.stdin):
    said = {}
    ends = {name: os.pipe() for name in ("out", "err")}
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.chdir(case["folder"])
            if case["stdin"] is None:
                os.close(0)
                sys.stdin = None
            else:
                put = os.open(os.devnull, os.O_RDONLY)
                os.dup2(put, 0)
                sys.stdin = open(0)
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(ends[name][1], number)
                for end in ends[name]:
                    os.close(end)
            sys.stdout, sys.stderr = open(1, "w"), open(2, "w")
            for name in case["without"]:
                sys.modules[name] = None
            sys.argv = [tool, *case["words"]]
            try:
                main(sys.argv[1:])
            except SystemExit as end:
                code = end.code or 0
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            import traceback
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(code)
    for name in ("out", "err"):
        os.close(ends[name][1])
        with open(ends[name][0], errors="replace") as stream:
            said[name] = stream.read()
    said["code"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps(said), flush=True)
"""


def run_all(tool, cases):
    """[{code, out, err}] of `(folder, words, more)`; more: stdin None closes it, without: modules that cannot be imported."""
    told = [
        {"folder": str(folder), "words": [str(word) for word in words], "stdin": "", "without": [], **more}
        for folder, words, more in cases
    ]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, tool], input=json.dumps(told), capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(cases)
    return found


def one_line(tool, told, code):
    """The line on stderr, checked to be the only one and the tool's own."""
    assert told["code"] == code and "Traceback" not in told["err"], told
    lines = told["err"].splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"{tool}: "), told
    return lines[0].removeprefix(f"{tool}: ")


@pytest.mark.parametrize("tool", TOOLS)
def test_wrong_usage_is_told_alike_in_every_verb(tool, tmp_path):
    cases, expected = [], []
    for words, command in verbs_of(group_of(tool)):
        see = re.escape(f"(see `{' '.join([tool, *words])} --help`)")
        cases.append((tmp_path, [*words, "--nonesuch"], {}))
        expected.append(rf"No such option:? .?--nonesuch.* {see}")
        for option in command.params:
            if option.name == "limit":
                cases.append((tmp_path, [*words, "--limit", "-1"], {}))
                expected.append(rf"Invalid value for '--limit': -1 is not in the range x>=0\. {see}")
        wanted = [one for one in command.params if one.required and isinstance(one, click.Option)]
        if wanted:
            cases.append(
                (
                    tmp_path,
                    [*words, *["x" for one in command.params if isinstance(one, click.Argument) and one.required]],
                    {},
                )
            )
            expected.append(rf"(Missing option '|Invalid value for ').* {see}")
    cases += [(tmp_path, ["nonesuch"], {}), (tmp_path, ["-h"], {}), (tmp_path, ["--version"], {})]
    *wrong, unknown, helped, version = run_all(tool, cases)
    for told, pattern, (_, words, _) in zip(wrong, expected, cases, strict=False):
        assert re.fullmatch(pattern, one_line(tool, told, 2)), (words, told)
    assert re.fullmatch(rf"No such command 'nonesuch'\. \(see `{tool} --help`\)", one_line(tool, unknown, 2))
    assert helped["code"] == 0 and helped["out"].startswith(f"Usage: {tool} [OPTIONS] COMMAND") and not helped["err"]
    assert version["code"] == 0 and re.fullmatch(rf"{tool}, version \d+\.\d+\.\d+\n", version["out"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tool", TOOLS)
def test_help_and_doctor_of_the_installed_command(tool, tmp_path):
    asked = [(tmp_path, [*words, "-h"], {}) for words, _ in verbs_of(group_of(tool))]
    *helped, doctor, wanted = run_all(
        tool, [*asked, (tmp_path, ["doctor", "--json"], {}), (tmp_path, ["doctor", "--require", "nonesuch"], {})]
    )
    for told, (_, words, _) in zip(helped, asked, strict=True):
        assert told["code"] == 0 and told["out"].startswith(f"Usage: {tool} {' '.join(words[:-1])} "), words
    report = json.loads(doctor["out"])
    assert list(report) == ["device", "backends", "extras", "kernels", "sandbox"]
    for part in report.values():
        for item in (part, *part.get("items", {}).values()):
            assert {"ok", "detail", "fix"} <= item.keys() and (item["ok"] or item["fix"])
    assert re.match(r"--require nonesuch: expected one of ", one_line(tool, wanted, 2))
    done = subprocess.run([BIN / tool, "nonesuch"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith(f"{tool}: No such command")


TASK = {"id": "a", "messages": [{"role": "user", "content": "What is 1 + 1?"}], "answer": "2"}
SAMPLE = {**TASK, "sample": 0, "response": "1 + 1 = 2 \\boxed{2}", "correct": True, "votes": ["yes"]}
CALL = {"name": "python", "arguments": "print(2)", "status": "ok", "stdout": "2", "stderr": ""}
ROLLOUT = {**SAMPLE, "group": "g", "rollout": 0, "reward": 1.0, "turns": [{"text": "t", "calls": [CALL]}]}
# Verbs that read JSON Lines: words with BAD in place of the file, and a record that they take. None: it is refused later.
LINES = {
    "antkv": [],
    "cotpass": [("calibrate inject BAD", SAMPLE), ("calibrate latent BAD", SAMPLE), ("compare BAD BAD", SAMPLE), ("convert BAD --to lm-eval", SAMPLE),
                ("dynamics 0=BAD 1=BAD", SAMPLE), ("judge BAD --judge steps", SAMPLE), ("metric BAD", SAMPLE), ("theory --estimate BAD", SAMPLE),
                ("sample BAD --model replay:empty.jsonl", None)],
    "datamix": [],
    "dser": [("solve BAD --model replay:empty.jsonl", TASK)],
    "grpo-roc": [("score BAD --form trajectory", ROLLOUT), ("resample BAD --group-size 2 --form trajectory", ROLLOUT)],
    "keychain-synth": [("audit BAD", None), ("inspect BAD", None), ("eval BAD --reward exact --model replay:empty.jsonl", None),
                       ("score BAD", SAMPLE), ("mine qa.jsonl --answers BAD", SAMPLE)],
    "longexp-peft": [],
    "seer-decode": [],
    "sparstencil": [],
    "zerorepo": [],
}  # fmt: skip
# Verbs that read a file of another kind: words with BAD for its name.
FILES = {
    "antkv": [("inspect BAD.safetensors", "-")],
    "cotpass": [("metric --from-counts BAD.csv", ""), ("metric tasks.jsonl --correct rogan-gladen --rates BAD.json", "json")],
    "datamix": [("export BAD.jsonl --to doremi", ""), ("import doremi BAD.json", "-json")],
    "dser": [("simulate --matrix BAD.json", "json"), ("solve tasks.jsonl --model sim:BAD.json", "json")],
    "grpo-roc": [("simulate --generate 5 --cache-tokens 100000 --rate-curve BAD.json", "array")],
    "keychain-synth": [("mix --preset BAD.toml", "toml"), ("score tasks.jsonl --gold BAD.jsonl", "")],
    "longexp-peft": [("plot BAD.json -o out.png", "-")],
    "seer-decode": [("plan --model BAD.json", "-")],
    "sparstencil": [("plan --stencil BAD.json", "json"), ("plan --stencil BAD.toml", "toml"), ("run BAD.npy --stencil heat-2d -o out.npy", "")],
    "zerorepo": [("validate BAD.json", "json"), ("show tree BAD.json", "json"), ("export BAD.json --to dot", "json"), ("search x --graph BAD.json", "json"),
                 ("design BAD.json -o out", "json"), ("craft report BAD.json", "json"), ("ontology import BAD.json", "json")],
}  # fmt: skip


# Transcripts come from other trainers too: a group and a reward are what they need, and their ids are not looked at.
UNCHECKED = {
    "grpo-roc score": {"wrong type", "twice"},
    "grpo-roc resample": {"wrong type"},
}


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def faults_of_lines(good):
    """(name, bytes, what is said of it after the file's name); None: no such file, "" a folder."""
    yield "missing", None, r": no such file"
    yield "folder", "", r": is a directory; expected a file"
    yield "not UTF-8", b'{"id": "\xff"}\n', r":1: expected UTF-8: invalid start byte at byte \d+"
    yield "an array", b"[1, 2]\n", r":1: expected a JSON object"
    yield "no record", lines({"x": 1}), r":1: (id: required field is missing|.*expected .*)"
    yield "wrong type", lines({**(good or ROLLOUT), "id": 3}), r":1: id: expected str(ing)?, got (int|a number)"
    yield (
        "major version",
        lines({**(good or TASK), "schema": "task/9"}),
        r":1: schema: task/9 is of another major version; this tool reads \w+/1",
    )
    if good is not None:
        yield "broken", lines(good) + b'{"id": "b", \n', r":2: expected one JSON object a line: .+"
        yield "twice", lines(good, good), r":2: \w+: .*appears twice.*; .* must be unique"


def faults_of_files(kind):
    """kind: json (array: one that begins so), toml, or "" for a file of another kind; after "-" where a folder may stand in its place."""
    yield "missing", None, r": no such (folder or )?file(;.*)?"
    if not kind.startswith("-"):
        yield "folder", "", r": is a directory; expected a .*"
    if kind := kind.removeprefix("-"):
        yield "not UTF-8", b'{"schema": "\xff"}', r"(:\d+)*: expected UTF-8: invalid start byte at byte \d+"
        torn = {"json": b"{\n", "array": b"[[1, 2.0],\n", "toml": b"a = 1\nb =\n"}[kind]
        yield "broken", torn, rf"(:\d+)*: not {'TOML' if kind == 'toml' else 'JSON'}: .+"


@pytest.mark.parametrize("tool", TOOLS)
def test_a_fault_of_the_input_is_told_alike(tool, tmp_path):
    cases, expected = [], []

    def add(words, name, faults):
        for fault, content, pattern in faults:
            folder = tmp_path / str(len(cases))
            folder.mkdir()
            (folder / "empty.jsonl").touch()
            (folder / "tasks.jsonl").write_bytes(lines(SAMPLE))
            (folder / "qa.jsonl").write_bytes(lines(TASK))
            if content == "":
                (folder / name).mkdir()
            elif content is not None:
                (folder / name).write_bytes(content)
            cases.append((folder, words.split(), {}))
            expected.append(
                (fault, rf"(--[\w-]+ )?(\w+:)?{re.escape(name)}{pattern}", {path.name for path in folder.iterdir()})
            )

    for words, good in LINES[tool]:
        known = UNCHECKED.get(" ".join([tool, words.split()[0]]), set())
        add(
            words.replace("BAD", "bad.jsonl"),
            "bad.jsonl",
            [one for one in faults_of_lines(good) if one[0] not in known],
        )
    for words, kind in FILES[tool]:
        name = re.search(r"BAD(\.\w+)", words)[0].replace("BAD", "bad")
        add(words.replace("BAD", "bad"), name, faults_of_files(kind))
    assert cases
    for told, (fault, pattern, before), (folder, words, _) in zip(run_all(tool, cases), expected, cases, strict=True):
        line = one_line(tool, told, 2)
        assert re.fullmatch(pattern, line), (fault, words, line)
        left = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        assert left == before, (fault, words, left)


# Verbs that write a file and need no model: words, and an option that makes another run of it.
WRITERS = {
    "cotpass": ("convert tasks.jsonl --to lm-eval -o out.jsonl", "--limit 1"),
    "datamix": ("sample --domain a --domain b --target a --trajectories 2 --steps 2 -o out.jsonl", "--seed 1"),
    "grpo-roc": ("score rollouts.jsonl --form trajectory -o out.jsonl", "--limit 1"),
    "keychain-synth": ("score tasks.jsonl -o out.jsonl", "--limit 1"),
    "zerorepo": ("ontology import tree.json -o out.jsonl", None),
}


@pytest.mark.parametrize("tool", sorted(WRITERS))
def test_a_second_run_says_what_it_does(tool, tmp_path):
    (tmp_path / "tasks.jsonl").write_bytes(lines(SAMPLE))
    (tmp_path / "rollouts.jsonl").write_bytes(lines(ROLLOUT))
    (tmp_path / "tree.json").write_text('{"a": {"b": ["c"]}}')
    words, other = WRITERS[tool]
    asked = [words, words, words.replace("-o out", "-o nowhere/out"), *([f"{words} {other}"] if other else [])]
    first, again, nowhere, *changed = run_all(tool, [(tmp_path, one.split(), {}) for one in asked])
    assert first["code"] == 0, first
    assert one_line(tool, again, 0) == "out.jsonl: complete already; nothing to do"
    assert one_line(tool, nowhere, 2) == "nowhere/out.jsonl: the folder nowhere does not exist; create it first"
    for told in changed:
        name = other.split()[0]
        wanted = rf"out\.jsonl: was made with {name} \S+, this one has 1; choose another output or add --overwrite"
        assert re.fullmatch(wanted, one_line(tool, told, 2)), told


# Verbs of a tool that lack something: words, the modules that cannot be imported, and the extra that has them.
LACKING = {
    "antkv": ("plan --gpu-mem 80G", ["torch"], "antkv[hf]"),
    "cotpass": ("metric tasks.jsonl --plot out.png", ["matplotlib"], "cotpass[plot]"),
    "datamix": ("train-agent swarm -o out", ["torch"], "datamix[hf]"),
    "grpo-roc": ("toy -o out", ["torch"], "grpo-roc[hf]"),
    "keychain-synth": ("convert rows.parquet --to rows", ["pyarrow"], "keychain-synth[parquet]"),
    "longexp-peft": ("eval tasks.jsonl --model smollm2", ["torch"], "longexp-peft[hf]"),
    "seer-decode": ("info --model smollm2", ["torch"], "seer-decode[hf]"),
    "sparstencil": ("run field.h5:/d --stencil heat-2d -o out.npy", ["h5py"], "sparstencil[io]"),
}


@pytest.mark.parametrize("tool", sorted(LACKING))
def test_what_is_missing_comes_with_the_line_that_installs_it(tool, tmp_path):
    (tmp_path / "tasks.jsonl").write_bytes(lines(SAMPLE))
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    (tmp_path / "field.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    words, without, extra = LACKING[tool]
    [told] = run_all(tool, [(tmp_path, words.split(), {"without": without})])
    wanted = rf"([-\w. ]+: )?[\w, ]*{without[0]}[\w, ]*( is|:) not installed: pip install '{re.escape(extra)}'.*"
    assert re.fullmatch(wanted, one_line(tool, told, 3)), told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tool", "words"),
    [("cotpass", "sample tasks.jsonl"), ("dser", "solve tasks.jsonl"), ("keychain-synth", "filter tasks.jsonl")],
)
def test_an_unknown_model_and_a_closed_stdin(tool, words, tmp_path):
    (tmp_path / "tasks.jsonl").write_bytes(lines(TASK))
    cases = [
        (tmp_path, [*words.split(), "--model", "nope:x"], {}),
        (tmp_path, [words.split()[0], "-", "--model", "replay:/dev/null"], {"stdin": None}),
    ]
    unknown, closed = run_all(tool, cases)
    assert re.match(r"--model nope:x: nope: is no model scheme here; known are ", one_line(tool, unknown, 2))
    assert one_line(tool, closed, 2) == "-: stdin is closed"
