"""A run's folder as a table, an object and a page: figures by hand, unfinished and damaged folders, and text of models that must not become markup."""

import json

import pytest
from click.testing import CliRunner

from grpo_roc import report
from grpo_roc.cli import main


def line(step, reward, **more):
    return {
        "step": step, "name": f"1/{step}", "reward/mean": reward, "trajectories/all": 16, "trajectories/kept": 8, "groups/all": 2, "groups/kept": 1, "calls/statuses": {"ok": 3, "error": step},
        "errors/correct": None if step == 1 else 0.5 / step, **more,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    run = tmp_path / "run"
    (run / "rollouts").mkdir(parents=True)
    lines = [line(1, 0.2), line(2, 0.4, alarms=["length: long"]), line(3, 0.6), line(4, 1.0, entropy=0.3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines) + '{"step": 5, "rew')
    (run / "timings.jsonl").write_text(
        '{"step": 1, "generate_s": 2.0, "train_s": 1.0}\n{"step": 2, "generate_s": 3.0, "train_s": 1.5}\n'
    )
    told = {
        "prompt": "<b>p</b>",
        "answer": "4",
        "response": "</pre><script>alert(1)</script>",
        "turns": [{"calls": [{"status": "error"}]}],
    }
    rollouts = [{**told, "reward": 1.0, "kept": True}, {**told, "reward": 0.0, "kept": False}]
    (run / "rollouts" / "2.jsonl").write_text("")
    (run / "rollouts" / "10.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rollouts))
    return run


def run(*words):
    return CliRunner().invoke(main, ["report", *map(str, words)], prog_name="grpo-roc")


def test_figures_by_hand(folder):
    told = json.loads(run(folder, "--json").stdout)
    assert (
        told["steps"] == 4
        and told["span"] == 2
        and told["metrics"]["reward/mean"] == {"first": pytest.approx(0.3), "last": 0.8}
    )
    assert told["metrics"]["errors/correct"] == {"first": 0.25, "last": pytest.approx((0.5 / 3 + 0.125) / 2)}
    assert (told["sampled"], told["kept"], told["groups"], told["groups_dropped"]) == (64, 32, 8, 4)
    assert told["calls"] == {"ok": 12, "error": 10} and told["alarms"] == ["step 2: length: long"]
    assert told["seconds"] == {"generate_s": 5.0, "train_s": 2.5} and told["metrics"]["entropy"] == {
        "first": None,
        "last": 0.3,
    }
    shown = run(folder).stdout
    assert "reward/mean" in shown and "step 2: length: long" in shown


def test_a_page_holds_all_and_runs_nothing_that_a_model_wrote(folder, tmp_path):
    page = tmp_path / "page.html"
    assert run(folder, "--html", page).exit_code == 0
    text = page.read_text()
    assert "<script>" not in text and "&lt;script&gt;" in text and "<b>p</b>" not in text
    assert (
        text.count("<svg") == 1
        and "step 10: right, trained on" in text
        and "step 10: wrong" in text
        and "1 failed calls" in text
    )
    assert run(folder, "--html", page).exit_code == 2 and run(folder, "--html", page, "--overwrite").exit_code == 0
    assert [title for title, _ in report.examples(folder, 0)] == ["step 10: right, with 1 failed calls"]


def test_what_is_no_run_is_said(tmp_path):
    assert run(tmp_path).exit_code == 2 and "a run's folder" in run(tmp_path).output
    (tmp_path / "metrics.jsonl").write_text("")
    assert "no step yet" in run(tmp_path).output
