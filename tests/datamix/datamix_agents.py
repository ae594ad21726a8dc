"""Agents and corpora that the tests of apply and plan use."""

import json
from pathlib import Path

from click.testing import CliRunner

from datamix import schedule
from datamix.cli import main
from datamix.history import Budget
from datamix.proxy import ProxyConfig

TINY = ProxyConfig(width=16, layers=1, heads=2, context=32, batch=8, base_updates=30, lr=3e-3, warmup=2)
TOML = "width = 16\nlayers = 1\nheads = 2\ncontext = 32\nbatch = 8\nbase_updates = 30\nwarmup = 2\n"
BUDGET = Budget(tokens=2 * 8 * 32, steps=4, source_share=0.5)
SHORT = {"feedback_tokens": 128, "score_tokens": 256, "quiet": True}
NAMES = ["alpha", "beta", "gamma", "delta"]
STATIC = {"alpha": 0.2, "beta": 0.1, "gamma": 0.1, "delta": 0.6}


def lines(folder):
    return schedule.read(str(Path(folder) / "schedule.jsonl"))


def result(folder):
    return json.loads((Path(folder) / "result.json").read_text())


def tree(folder):
    """Bytes by name, without what has a clock in it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file() and p.name != "manifest.json"}  # fmt: skip


def verb(*words):
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="datamix")
