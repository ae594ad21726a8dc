"""The READMEs do not lie: every command in them runs, the tables of verbs and VERBS.md match the help, and all ten have the same sections.

Fences by language: `sh` runs as it stands, in a fresh folder that sees `tools/`; `sh server` runs with
a loopback model in place of http://127.0.0.1:8000; `sh engines` is run by `make test-engines`. Lines
that begin with `make` are checked to name a target (CI itself runs `make test`), lines that begin with
`pip install` are run by test_install_alone.py or need a network.
"""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commandline import LoopbackModel

from tenfold_shared.cli import options

ROOT = Path(__file__).resolve().parents[2]
READMES = [ROOT / "README.md", *sorted(ROOT.glob("*/README.md")), *sorted(ROOT.glob("tools/*/README.md"))]
FENCE = re.compile(r"^```(sh[^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
KINDS = {"sh", "sh server", "sh engines"}


def fences(readme, *kinds):
    found = FENCE.findall(readme.read_text())
    assert {kind.strip() for kind, _ in found} <= KINDS
    return [text for kind, text in found if kind.strip() in kinds]


def run(script, folder):
    (folder / "tools").symlink_to(ROOT / "tools")
    # One thread: the tests' other worker needs the second core, and two teams of threads on two cores starve.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def runnable(script):
    return "\n".join(line for line in script.splitlines() if not line.startswith(("make ", "pip install")))


@pytest.mark.xdist_group("readmes")  # one after the other: several run a model
@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_runs(readme, tmp_path):
    plain = runnable("\n".join(fences(readme, "sh")))
    served = "\n".join(fences(readme, "sh server"))
    with LoopbackModel(reply=lambda body: "1 + 1 = 2 \\boxed{yes}") as model:
        run(plain + "\n" + served.replace("http://127.0.0.1:8000/v1", model.uri.split("#")[0]), tmp_path)


@pytest.mark.engines
@pytest.mark.parametrize("readme", [r for r in READMES if fences(r, "sh engines")], ids=lambda p: p.parent.name)
def test_every_engine_command_runs(readme, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    run("\n".join(fences(readme, "sh engines")), tmp_path)


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_make_line_names_a_target(readme):
    for line in "\n".join(fences(readme, "sh")).splitlines():
        if line.startswith("make "):
            words = line.split("#")[0].split()[1:]
            done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr


SECTIONS = [
    "What it is for",
    "Install alone",
    "Quick start",
    "Verbs",
    "How it works",
    "Formats",
    "What was measured",
    "Beyond one machine",
    "Limits",
]
TOOLS = sorted(p.parent.name for p in ROOT.glob("tools/*/pyproject.toml"))


@pytest.mark.parametrize("tool", TOOLS)
def test_readme_has_the_sections_all_ten_have(tool):
    text = (ROOT / "tools" / tool / "README.md").read_text()
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"^## (.*)$", prose, re.MULTILINE) == SECTIONS
    for title, body in zip(SECTIONS, re.split(r"^## .*$", prose, flags=re.MULTILINE)[1:], strict=True):
        assert body.strip() or title in ("Quick start", "Install alone"), f"{title} is empty"


@pytest.mark.parametrize("tool", TOOLS)
def test_verbs_are_those_of_the_help(tool, docs):
    group = docs.group_of(tool)
    readme, verbs = ((ROOT / "tools" / tool / name).read_text() for name in ("README.md", "VERBS.md"))
    assert docs.with_table(readme, group) == readme, "run `make docs`"
    assert docs.reference(group) == verbs, "run `make docs`"
    for full, _ in docs.commands(group, tool):
        assert f"\n## `{full}`\n" in verbs


def test_verbs_of_a_group_in_the_group_and_missing_markers(docs):
    import click

    @click.group("demo")
    def group():
        pass

    @group.group("inner")
    def inner():
        """A group of verbs."""

    @inner.command("one")
    @click.option("--deep-option", help="Only here.")
    def one(deep_option):
        """The inner verb | and a bar."""

    text = docs.reference(group)
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## `demo inner`", "## `demo inner one`"]
    assert "Usage: demo inner one [OPTIONS]" in text and "--deep-option" in text
    fresh = docs.with_table(f"a\n{docs.BEGIN}\nold\n{docs.END}\nb\n", group)
    assert "old" not in fresh and fresh.startswith("a\n") and fresh.endswith("b\n")
    assert "| [`demo inner one`](VERBS.md#demo-inner-one) | The inner verb \\| and a bar. |" in fresh
    with pytest.raises(ValueError, match="expected the lines"):
        docs.with_table("no markers", group)


def test_shared_options_read_the_same_in_every_verb_of_every_tool():
    """Name, type and help of an option that means one thing everywhere; only defaults may differ."""
    import click

    from tenfold_shared.cli import OPTIONS

    @click.command()
    @options(*OPTIONS)
    def every(**given):
        pass

    known = {option.name: option for option in every.params}
    compared = 0
    for folder in sorted((ROOT / "tools").iterdir()):
        group = importlib.import_module(f"{folder.name.replace('-', '_')}.cli").main
        inner = [command for command in group.commands.values() if isinstance(command, click.Group)]
        for verb in [*group.commands.values(), *(verb for one in inner for verb in one.commands.values())]:
            for option in verb.params:
                if isinstance(option, click.Option) and option.name in known:
                    same = known[option.name]
                    assert (option.opts, option.help, option.metavar, repr(option.type)) == (
                        same.opts,
                        same.help,
                        same.metavar,
                        repr(same.type),
                    )
                    compared += 1
    assert compared > 50
