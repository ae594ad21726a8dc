"""Pictures of explanations, schedules, swarms and comparisons."""

import importlib.util
import json

import msgspec
import numpy as np
import pytest
from datamix_explained import BUDGET

from datamix import needs, plot
from datamix import schedule as schedules
from datamix.swarm import Task
from tenfold_shared import BadInput, Missing

# ---------------------------------------------------------------- pictures


def is_png(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 10_000


def test_explanation_is_drawn(finished, tmp_path):
    plot.explanation(finished, tmp_path / "a.png")
    assert is_png(tmp_path / "a.png")
    for name in ("b.svg", "c.svg"):
        plot.explanation(finished, tmp_path / name)
    text = (tmp_path / "b.svg").read_text()
    assert text == (tmp_path / "c.svg").read_text() and "<svg" in text


def test_explanation_without_critics_and_ablation_is_drawn(finished, tmp_path):
    bare = finished | {"ablation": None, "q": {"available": False, "why": "an agent of --algo sft has no critics"}}
    plot.explanation(bare, tmp_path / "a.png")
    assert is_png(tmp_path / "a.png")
    state = finished["q"]["states"][1]
    no_triangle = {key: value for key, value in state.items() if key != "simplex"}
    plot.explanation(finished | {"q": finished["q"] | {"states": [no_triangle]}}, tmp_path / "b.png")
    assert is_png(tmp_path / "b.png")


def test_schedule_is_drawn(tmp_path):
    lines = [
        schedules.line(
            t, 100 * (t + 1), {"web": 1 - 0.1 * t, "math": 0.1 * t}, {"web": 2.0, "math": 3 - 0.1 * t}, 0.1 * t
        )
        for t in range(5)
    ]
    (tmp_path / "schedule.jsonl").write_bytes(schedules.schedule_file(lines))
    plot.schedule(tmp_path / "schedule.jsonl", tmp_path / "a.png")
    (tmp_path / "mixture.json").write_bytes(schedules.static_file({"web": 0.5, "math": 0.5}, "uniform"))
    plot.schedule(tmp_path / "mixture.json", tmp_path / "b.png")
    assert is_png(tmp_path / "a.png") and is_png(tmp_path / "b.png")


def test_swarm_is_drawn(home, tmp_path):
    plot.swarm(home / "swarm", tmp_path / "a.png")
    assert is_png(tmp_path / "a.png")


def comparison_in(folder):
    """What `datamix compare` writes, made up: two methods beside the agent, two tasks, three seeds."""
    from datamix.compare import Plan, Settings
    from datamix.figures import summary_of

    tasks = [Task(f"task-{i}", ["web", "books"], ["math"], [0.5, 0.5], 0) for i in range(2)]
    plan = Plan(
        "corpus",
        "",
        Settings(BUDGET, {}, seeds=3, members=2, controls=["no_feedback"]),
        tasks,
        {"mine": "agent"},
        [],
        None,
        None,
        {},
        0,
    )
    rng, records = np.random.default_rng(0), []
    for method in ("mine", "hand", "proportional", "no_feedback-0", "no_feedback-1"):
        for task in tasks:
            for seed in range(3):
                source, target = -rng.random(), 3 + rng.random()
                weights = [{"web": 0.1, "books": 0.1 * t, "math": 0.9 - 0.1 * t} for t in range(4)]
                records.append({"status": "done", "task": task.name, "method": method, "seed": seed, "score": (source + target) / 2, "auc": 1.0, "source": source, "target": target, "source_bytes": 10, "weights": weights})  # fmt: skip
    folder.mkdir()
    (folder / "plan.json").write_bytes(msgspec.json.encode(plan))
    (folder / "compare.json").write_text(json.dumps(summary_of(plan, records, {})))
    (folder / "runs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))


def test_comparison_is_drawn(tmp_path):
    comparison_in(tmp_path / "compared")
    plot.comparison(tmp_path / "compared", tmp_path / "a.png")
    assert is_png(tmp_path / "a.png")


def test_comparison_wants_the_folder_of_one(tmp_path):
    with pytest.raises(BadInput, match=r"compare\.json: no such file; expected the folder of `datamix compare`"):
        plot.comparison(tmp_path, tmp_path / "a.png")
    comparison_in(tmp_path / "compared")
    (tmp_path / "compared" / "runs.jsonl").write_text('{"status": "failed"}\n')
    with pytest.raises(BadInput, match="no finished runs in it"):
        plot.comparison(tmp_path / "compared", tmp_path / "a.png")


# ---------------------------------------------------------------- what is needed


def test_pictures_names_are_checked(tmp_path):
    needs.plots(None)
    needs.plots(str(tmp_path / "a.svg"))
    for path, told in ((tmp_path / "a.pdf", "ending in .png or .svg"), (tmp_path / "no" / "a.png", "does not exist")):
        with pytest.raises(BadInput, match=told):
            needs.plots(str(path))
    with pytest.raises(BadInput, match="is an input or the output as well"):
        needs.plots(str(tmp_path / "a.png"), [None, str(tmp_path / "." / "a.png")])


@pytest.mark.parametrize(
    ("check", "library", "extra"),
    [
        (lambda: needs.plots("a.png"), "matplotlib", "plot"),
        (needs.torch, "torch", "hf"),
        (needs.models, "transformers", "hf"),
    ],
)
def test_missing_libraries_are_named(monkeypatch, check, library, extra):
    real = importlib.util.find_spec
    check()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == library else real(name, *more))
    with pytest.raises(Missing) as raised:
        check()
    assert str(raised.value) == f"{library}: not installed: pip install 'datamix[{extra}]'"
