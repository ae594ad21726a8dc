"""`cotpass sample` without a model: prompts, seeds, sample records; and the shipped problems."""

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from cotpass.sample import assemble, plan, prompt_of
from cotpass.steps import check_steps
from tenfold_shared.generate import request_seed
from tenfold_shared.records import validate

EXAMPLES = Path(__file__).resolve().parents[2] / "tools" / "cotpass" / "examples"
CHAT = {
    "id": "a",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Old?"},
        {"role": "assistant", "content": "Old."},
        {"role": "user", "content": "New?"},
    ],
}


def test_each_request_has_a_seed_of_its_own_that_depends_on_nothing_else():
    seeds = {request_seed(seed, key) for seed in range(50) for key in ("a#0", "a#1", "b#0")}
    assert len(seeds) == 150 and all(0 <= seed < 2**63 for seed in seeds)
    # Written down once: a release that changes it changes everybody's samples.
    assert request_seed(0, "a#0") == 5_475_140_143_478_414_593


def test_plan_gives_one_request_a_sample_in_order():
    made = plan({"id": "q", "prompt": "1 + 1 ="}, 3, seed=5)
    assert [suffix for suffix, _ in made] == ["#0", "#1", "#2"]
    assert [request.key for _, request in made] == ["q#0", "q#1", "q#2"]
    assert [request.seed for _, request in made] == [request_seed(5, f"q#{i}") for i in range(3)]
    assert {(request.prompt, request.messages) for _, request in made} == {("1 + 1 =", None)}
    # More samples later are the same ones first.
    assert [r.seed for _, r in plan({"id": "q", "prompt": "1 + 1 ="}, 8, seed=5)][:3] == [r.seed for _, r in made]


def test_a_template_rewrites_the_last_user_turn_only():
    messages = prompt_of(CHAT, "Q: $question Cost: $$5")["messages"]
    assert messages == [*CHAT["messages"][:3], {"role": "user", "content": "Q: New? Cost: $5"}]
    assert CHAT["messages"][3]["content"] == "New?"  # the record is left alone
    assert prompt_of({"prompt": "Old $x"}, "<$question>") == {"prompt": "<Old $x>"}
    assert prompt_of(CHAT, None) == {"messages": CHAT["messages"]}


def test_sample_records_hold_the_task_and_what_came_back():
    reply = {"text": "2", "finish_reason": "length", "prompt_tokens": 4, "completion_tokens": 1, "model": "m"}
    failed = {**reply, "text": "", "finish_reason": "error", "error": "HTTP 400"}
    thought = {**reply, "reasoning": "hm"}
    made = assemble({"id": "q", "prompt": "p", "mine": [1]}, [reply, failed, thought])
    for record in made:
        validate(record, "sample")
        assert record["mine"] == [1] and record["usage"] == {"prompt_tokens": 4, "completion_tokens": 1}
    assert [record["sample"] for record in made] == [0, 1, 2]
    assert [record.get("error") for record in made] == [None, "HTTP 400", None]
    assert [record.get("reasoning") for record in made] == [None, None, "hm"]


# ------------------------------------------------------------------ the shipped problems


@pytest.fixture(scope="module")
def problems():
    return [json.loads(line) for line in (EXAMPLES / "problems.jsonl").read_text().splitlines()]


def test_the_shipped_problems_are_what_their_generator_writes(problems):
    done = subprocess.run([sys.executable, EXAMPLES / "make_problems.py"], capture_output=True, text=True, check=True)
    assert [json.loads(line) for line in done.stdout.splitlines()] == problems and len(problems) == 16


def test_problems_of_any_seed_hold_together():
    done = subprocess.run(
        [sys.executable, EXAMPLES / "make_problems.py", "--count", "800", "--seed", "7"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert len({record["id"] for record in records}) == 800
    for record in records:
        validate(record, "task")
        chain, question = record["meta"]["chain"], record["messages"][-1]["content"]
        assert len(chain) == record["meta"]["steps"] and chain[-1].endswith(f"= {record['answer']}")
        assert int(record["answer"]) > 0
        results = [line.split("=")[1].strip() for line in chain]
        for at, line in enumerate(chain):
            left, right = line.split("=")
            a, sign, b = left.split()
            value = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b), "/": Fraction(int(a), int(b))}[
                sign
            ]
            assert value == int(right) > 0, line
            # Every number comes from the question or from an earlier line: nothing is unsaid.
            for number in (a, b):
                assert number in results[:at] or f" {number} " in question.replace(".", " ").replace(",", " "), line
        assert check_steps("\n".join(chain)).first_wrong is None
