"""Commands and files of the tests of the command and of its service."""

import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from grpo_roc.cli import main
from grpo_roc.env import isolation

BIN = Path(sys.executable).parent / "grpo-roc"
LEVEL = next(level for level in isolation.LEVELS if level not in isolation.probe())


def command(*words, **more):
    return subprocess.run([str(BIN), *map(str, words)], capture_output=True, text=True, timeout=120, **more)


def here(*words, **more):
    return CliRunner().invoke(main, list(map(str, words)), prog_name="grpo-roc", **more)
