"""The READMEs do not lie: every command in them runs, and reference sections match the help.

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

from tenfold_shared.cli import options, with_reference

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


@pytest.mark.parametrize("tool", sorted(p.name for p in (ROOT / "tools").iterdir() if (p / "pyproject.toml").exists()))
def test_reference_section_matches_the_help(tool):
    group = importlib.import_module(f"{tool.replace('-', '_')}.cli").main
    readme = (ROOT / "tools" / tool / "README.md").read_text()
    assert with_reference(readme, group) == readme, "run `make docs`"


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
