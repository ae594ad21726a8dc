"""Rates after calls by hand, parts of a response by hand, entropies against a pass of each trajectory alone."""

import json

import pytest
import torch
from click.testing import CliRunner
from grpo_models import ambiguous, small

from grpo_roc import analyze
from grpo_roc.cli import main
from grpo_roc.policy import Optimisation, Policy


def turns(*statuses):
    return [{"text": "x", "calls": [{"name": "p", "arguments": {}, "status": status}]} for status in statuses] + [
        {"text": "<answer>1</answer>", "calls": []}
    ]


def test_rates_by_hand():
    rates = analyze.Rates()
    for one in (
        turns("error", "ok"),
        turns("error", "timeout", "ok", "ok"),
        turns("error"),
        turns(),
        turns("infra", "ok_no_output"),
    ):
        rates.add(one)
    told = rates.told()
    # failed: 4, of which 3 were followed by a call and 2 of these by a success; successes: 4, one followed by another call
    assert (told["failed"], told["retry_rate"], told["fix_rate"], told["verify_rate"]) == (4, 3 / 4, 2 / 3, 1 / 4)
    assert told["calls"] == 9 and told["statuses"] == {"error": 3, "infra": 1, "ok": 3, "ok_no_output": 1, "timeout": 1}


def test_parts_by_hand():
    told = [
        {"text": "", "calls": [{"status": "error"}]},
        {"text": "", "calls": [{"status": "ok"}]},
        {"text": "", "calls": []},
    ]
    spoken = [
        ["think", "<tool_call>", "{}", "</tool_call>"],
        ["oh", "well", "again", "<tool_call>", "{}", "</tool_call>"],
        ["good", "so", "then", "<ans", "wer>", "7", "</answer>", "!"],
    ]
    found = analyze.parts_of(told, spoken, 2)
    assert found == [
        "before", "call", "call", "call",
        "after_error", "after_error", "later", "call", "call", "call",
        "after_success", "after_success", "later", "later", "answer", "answer", "answer", "later",
    ]  # fmt: skip
    values = [[float(k) for k in range(18)]]
    spread = analyze.spread([found], values)
    # the highest fifth of 18 are the last four
    assert {name: one["share_of_high"] for name, one in spread.items() if one["share_of_high"]} == {
        "answer": 3 / 4,
        "later": 1 / 4,
    }
    assert spread["before"] == {"tokens": 1, "entropy": 0.0, "share_of_high": 0.0} and spread["call"]["tokens"] == 6


def test_pieces_add_up_to_the_text():
    tokenizer = ambiguous()
    ids = tokenizer.encode("an answer: 12 é <tool_call>x</tool_call>", add_special_tokens=False)
    assert "".join(analyze.pieces_of(ids, tokenizer.decode)) == tokenizer.decode(ids)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("analyze")
    tokenizer = ambiguous()
    model = small(torch.float32, len(tokenizer))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    lines = []
    for k in range(5):
        ids, mask = [], []
        told = turns("error", "ok")
        for number, turn in enumerate(told):
            spoken = tokenizer.encode(f"some {k} words", add_special_tokens=False)
            ids += spoken
            mask += [1] * len(spoken)
            if number < 2:
                ids += [5, 6, 7]
                mask += [0] * 3
            turn["text"] = f"some {k} words"
        lines.append({"id": str(k), "reward": float(k > 2), "turns": told, "prompt_ids": [1, 2, 3 + k % 2], "token_ids": ids, "loss_mask": mask})  # fmt: skip
    (folder / "r.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return folder, model, lines


def test_entropies_are_those_of_a_pass_of_each_alone(place):
    _, model, lines = place
    found = analyze.entropies(Policy(model, Optimisation(), training=False), lines)
    for one, values in zip(lines, found, strict=True):
        with torch.no_grad():
            log = torch.log_softmax(model(torch.tensor([one["prompt_ids"] + one["token_ids"]])).logits[0], -1)
        each = -(log.exp() * log).sum(-1)
        wanted = [float(each[2 + k]) for k, sampled in enumerate(one["loss_mask"]) if sampled]
        assert values == pytest.approx(wanted, abs=1e-4)


def test_the_command(place, tmp_path):
    folder, _, lines = place

    def run(*words):
        return CliRunner().invoke(main, ["analyze", *map(str, words)], prog_name="grpo-roc")

    told = json.loads(run(folder / "r.jsonl", "--json").stdout)
    assert told["all"]["trajectories"] == 5 and told["correct"]["trajectories"] == 2 and told["all"]["fix_rate"] == 1.0
    with_model = json.loads(
        run(folder / "r.jsonl", "--model", folder / "model", "--dtype", "float32", "--after", 4, "--json").stdout
    )
    parts = with_model["entropy"]
    assert sum(one["tokens"] for one in parts.values()) == sum(sum(one["loss_mask"]) for one in lines)
    assert (
        parts["after_error"]["tokens"] == parts["after_success"]["tokens"] == 5 * 4
        and 0 < parts["before"]["entropy"] < 10
    )
    assert "of failed ones 1.000 tried again" in run(folder / "r.jsonl").stdout
    bare = tmp_path / "bare.jsonl"
    bare.write_text(json.dumps({"id": "a", "turns": turns("ok")}) + "\n")
    refused = run(bare, "--model", folder / "model")
    assert refused.exit_code == 2 and "--token-ids" in refused.output
    (tmp_path / "none.jsonl").write_text("")
    assert run(tmp_path / "none.jsonl").exit_code == 2
