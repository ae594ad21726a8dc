"""The rows of the GPU check at a small size on this processor: what they compare agrees, and the loop runs."""

import importlib.util
import sys
import time
from pathlib import Path

import pytest

ROWS = Path(__file__).parents[2] / "tools" / "grpo-roc" / "bench" / "gpu" / "rows.py"


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("grpo_rows", ROWS)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def timer(run):
    run()
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def small(script, **more):
    how = {
        "shapes": (script.Shape("two layers", 32, 48, 2, 4, 2, 60),), "groups": 2, "members": 4, "prompt": 40, "begin": 30, "responses": (4, 20), "most": 200, "slots": 4, "context": 128,
        "small": script.Shape("two layers", 32, 48, 2, 4, 2), "cold": 12, "epochs": 1.0, "steps": 1, "prompts": 2, "group": 2, "tokens": 24, "device": "cpu", "compute": "float32",
    }  # fmt: skip
    return script.Size(**{**how, **more})


def test_rows_measure_what_they_say(script):
    update, sampling, *loops = [one() for one in script.rows(timer, 1e10, small(script))]
    # the entropy of a token, packed and in padded rows of its own
    assert update["ok"] and update["max_rel_err"] < 1e-3 and update["baseline_ratio"] > 0 and update["floor_ratio"] > 1
    assert update["read_tokens"] < 8 * 40  # prompts are read once
    assert sampling["ok"] and sampling["tokens_s"] == pytest.approx(4 / (sampling["ms"] / 1e3))
    assert [one["case"].split(", ")[1] for one in loops] == ["roc", "grpo"]
    for one in loops:
        assert set(one["seconds"]) == {"push_s", "generate_s", "train_s"} and one["seconds"]["generate_s"] > 0
        assert len(one["reward/mean"]) == 1 and 0 <= one["reward/mean"][0] <= 1
        assert one["ok"] is (one["gap"] is not None)  # no group of an untrained model has both right and wrong answers
