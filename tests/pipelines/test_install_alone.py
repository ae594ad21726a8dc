"""Each tool installs alone: from .wheelhouse with no index, base only, and its model-free verbs run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = sorted(path.name for path in (ROOT / "tools").iterdir() if (path / "pyproject.toml").exists())


@pytest.fixture(scope="module")
def wheelhouse():
    folder = ROOT / ".wheelhouse"
    assert any(folder.glob("tenfold_shared-*.whl")), "no .wheelhouse; `make test` fills it"
    return folder


@pytest.mark.parametrize("tool", TOOLS)
def test_tool_installs_alone(tool, wheelhouse, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python, command = tmp_path / "venv/bin/python", tmp_path / "venv/bin" / tool
    offline = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHONPATH"))}
    offline["PIP_CONFIG_FILE"] = os.devnull
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-index", "--find-links", wheelhouse, tool], check=True, env=offline
    )
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format", "freeze"], capture_output=True, text=True, check=True, env=offline
    )
    names = {line.split("==")[0].lower() for line in listed.stdout.splitlines()}
    assert not names & {"torch", "transformers", "vllm", "triton", "matplotlib"} and {"tenfold-shared", tool} <= names

    assert subprocess.run([command, "--help"], capture_output=True).returncode == 0
    assert subprocess.run([command, "doctor"], capture_output=True).returncode == 0
    work = tmp_path / "work"
    work.mkdir()
    env = {**offline, "PATH": f"{tmp_path}/venv/bin:/usr/bin:/bin", "EXAMPLES": str(ROOT / "tools" / tool / "examples")}
    done = subprocess.run(
        ["bash", ROOT / "tests" / tool / "alone.sh"], cwd=work, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
