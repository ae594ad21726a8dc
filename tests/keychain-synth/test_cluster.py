"""Rows made through Ray Data on two local workers are the bytes of one process (a slow start: make test-engines runs it)."""

import subprocess
import sys
from pathlib import Path

import pytest
from rows import keychain, questions

SMALL = ("--tokenizer", "smollm2", "--length", "1024", "-q")


@pytest.mark.engines
def test_two_workers_of_a_local_cluster_make_the_same_bytes(tmp_path):
    pytest.importorskip("ray")
    path = questions(tmp_path / "qa.jsonl", count=40)
    alone = keychain("synth", path, *SMALL, "--workers", "1")
    assert alone.returncode == 0, alone.stderr
    done = keychain("synth", path, *SMALL, "--ray", "local", "--workers", "2", "-o", tmp_path / "rows", timeout=500)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "rows").read_text() == alone.stdout
    assert len(alone.stdout.splitlines()) == 40


def test_without_ray_it_says_what_to_install(tmp_path):
    path = questions(tmp_path / "qa.jsonl", count=20)
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden/ray.py").write_text("raise ImportError('hidden from this test')\n")
    done = keychain("synth", path, *SMALL, "--ray", "local", env={"PYTHONPATH": str(tmp_path / "hidden")})
    assert (
        done.returncode == 3 and "pip install 'keychain-synth[ray]'" in done.stderr and "Traceback" not in done.stderr
    )


def test_the_verb_loads_no_ray_by_itself():
    code = "import keychain_synth.synth, sys; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent).returncode == 0
