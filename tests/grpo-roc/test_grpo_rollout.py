"""Rollouts with a scripted engine (what a model would say is given) and with a small model: turns, limits, statuses, bookkeeping under an ambiguous tokenizer, order and noise."""

import json
import threading
from concurrent.futures import Future

import numpy as np
import pytest
import torch
from grpo_models import ambiguous, small

from grpo_roc import penalty
from grpo_roc.dialogue import Dialogue
from grpo_roc.engine import LocalEngine
from grpo_roc.engine_protocol import Turn
from grpo_roc.env import isolation
from grpo_roc.env.environment import Environment, Result
from grpo_roc.rollout import Rollouts, Settings, Task, stream

LEVEL = next(level for level in isolation.LEVELS if level not in isolation.probe())


def call(code, name="execute_python_code_with_standard_io"):
    return f"</reason><tool_call>{json.dumps({'name': name, 'arguments': {'code': code, 'input': ''}})}</tool_call>"


class Scripted:
    """Says what it is told, a turn after the other, whatever it is shown."""

    name, block, blocks, paged, lost = "scripted", 16, 10**6, False, ""

    def __init__(self, dialogue, lines, room=100):
        self.dialogue, self.lines, self.places = dialogue, lines, room
        self.seen, self.said, self.due = {}, {}, []

    @property
    def idle(self):
        return not self.due

    def start(self, key, ids, most, draw):
        self.seen.setdefault(key, []).extend(ids)
        turn = self.said.get(key, 0)
        self.said[key] = turn + 1
        line = self.lines[key][turn]
        end = [self.dialogue.tokenizer.eos_token_id]
        ids = (self.dialogue.encode(line) + end)[:most]
        self.seen[key].extend(ids)
        self.due.append(Turn(key, ids, [-1.0] * len(ids), len(ids) <= most and ids[-1:] == end))

    def poll(self):
        due, self.due = self.due, []
        return due

    def release(self, key):
        del self.seen[key]


@pytest.fixture(scope="module")
def env():
    with Environment(level=LEVEL, workers=2, preload=()) as found:
        yield found


def played(env, lines, task=None, size=1, settings=None, tools=("python",), submit=None):
    dialogue = Dialogue(ambiguous(), tools)
    task = task or Task("q", "six times seven?", "42")
    engine = Scripted(dialogue, {f"{task.id}/{k}": each for k, each in enumerate(lines)})
    rollouts = Rollouts([engine], dialogue, submit or env.submit, settings or Settings(), end_session=env.end)
    found = sorted(rollouts.run([task], size), key=lambda one: one.rollout)
    assert not engine.seen and not rollouts.live and not rollouts.calls
    return dialogue, found


ANSWER = "<answer>\\boxed{42}</answer>"


def test_a_trajectory_from_call_to_answer(env):
    dialogue, (one,) = played(env, [["I compute." + call("print(6 * 7)"), ANSWER]])
    assert (one.finish, one.reward, one.grade) == ("stop", 1.0, "correct")
    assert [turn["text"] for turn in one.turns] == ["<reason>I compute." + call("print(6 * 7)"), ANSWER]
    told = one.turns[0]["calls"][0]
    assert (told["status"], told["stdout"]) == ("ok", "42\n") and "wall_s" not in told
    # every token is where it should be: sampled ones are the model's words and their ends, the others what was shown
    text = dialogue.decode(one.ids)
    assert text.count("<tool_response>\nTool call success\nstdout: 42\n</tool_response>") == 1
    pieces, last = [], None
    for token, mask in zip(one.response, one.mask, strict=True):
        if mask != last:
            pieces.append((mask, []))
        pieces[-1][1].append(token)
        last = mask
    spoken = [dialogue.decode(ids) for mask, ids in pieces if mask]
    assert spoken == ["I compute." + call("print(6 * 7)") + "<|im_end|>", ANSWER + "<|im_end|>"]
    assert [mask for mask, _ in pieces] == [True, False, True] and len(one.logp) == len(one.mask) == len(one.response)
    assert one.record(tokens=True)["loss_mask"] == [int(x) for x in one.mask]


def test_what_goes_wrong_comes_back_as_a_tool_response_and_counts(env):
    bad = "</reason><tool_call>{not json}</tool_call>"
    _, (one,) = played(env, [[bad, call("1 / 0"), call("while True:\n    pass"), call("x = 1"), call("print(42)"), ANSWER]], settings=Settings(call_timeout=1.0))  # fmt: skip
    assert [turn["calls"][0]["status"] for turn in one.turns[:-1]] == [
        "invalid_call",
        "error",
        "timeout",
        "ok_no_output",
        "ok",
    ]
    assert penalty.of_turns(one.turns).err == pytest.approx(3 / 5) and one.reward == 1.0


def test_all_calls_of_a_turn_are_made(env):
    _, (one,) = played(env, [[call("print(1)") + call("print(2)") + "<tool_call>", ANSWER]])
    assert [each["status"] for each in one.turns[0]["calls"]] == ["ok", "ok", "invalid_call"]
    assert [each.get("stdout") for each in one.turns[0]["calls"]] == ["1\n", "2\n", None]


@pytest.mark.parametrize(
    ("lines", "settings", "finish"),
    [
        ([call("print(1)")] * 5, Settings(turns=3), "turns"),
        (["x" * 500], Settings(max_tokens=100), "length"),
        ([call("print('y' * 4000)"), ANSWER], Settings(max_tokens=600), "length"),  # what it printed has no room
    ],
)
def test_where_a_trajectory_ends_without_an_answer(env, lines, settings, finish):
    _, (one,) = played(env, [lines], settings=settings)
    assert (one.finish, one.reward, one.grade_reason) == (finish, 0.0, "truncated at the token limit")
    assert one.mask[-1] and len(one.response) <= settings.max_tokens  # the last token is the model's
    if finish == "turns":
        assert [len(turn["calls"]) for turn in one.turns] == [1, 1, 0]


def test_a_notebook_keeps_what_its_cells_made(env):
    lines = [[call("x = 42", "jupyter_code"), call("print(x)", "jupyter_code"), ANSWER]] * 2
    _, found = played(env, lines, size=2, tools=("notebook",))
    assert all(one.turns[1]["calls"][0]["stdout"] == "42\n" for one in found) and not env.sessions


def test_a_wrong_answer_a_missing_one_and_one_in_prose(env):
    for text, reward in ((ANSWER, 1.0), ("<answer>\\boxed{41}</answer>", 0.0), ("\\boxed{42}", 0.0), ("42", 0.0)):
        _, (one,) = played(env, [[text]])
        assert one.reward == reward


def test_noise_is_drawn_by_the_call_and_not_by_the_clock(env):
    settings = Settings(noise_timeout=0.3, noise_error=0.3, turns=20)
    lines = [[call("print(1)")] * 8 + [ANSWER] for _ in range(4)]
    first, again = (
        [
            [turn["calls"][0]["status"] for turn in one.turns[:-1]]
            for one in played(env, lines, size=4, settings=settings)[1]
        ]
        for _ in range(2)
    )
    assert first == again and {"ok", "timeout", "error"} == {status for each in first for status in each}


def test_no_trajectory_waits_for_anothers_call(env):
    """One call never comes back until the other trajectory has ended: by order, not by the clock."""
    held, ended = Future(), threading.Event()

    def submit(program):
        if program.code == "slow":
            return held
        return env.submit(program)

    dialogue = Dialogue(ambiguous())
    task = Task("q", "?", "42")
    engine = Scripted(dialogue, {"q/0": [call("slow"), ANSWER], "q/1": [call("print(1)"), call("print(2)"), ANSWER]})
    order = []
    for one in Rollouts([engine], dialogue, submit, Settings()).run([task], 2):
        order.append(one.rollout)
        if one.rollout == 1:
            ended.set()
            held.set_result(Result("ok", "late\n"))
    assert order == [1, 0] and ended.is_set()


def test_lockstep_asks_in_the_same_order_whatever_comes_back_first(env):
    lines = [[call(f"import time\ntime.sleep({(4 - k) * 0.05})\nprint({k})"), ANSWER] for k in range(4)]
    dialogue = Dialogue(ambiguous())
    engine = Scripted(dialogue, {f"q/{k}": each for k, each in enumerate(lines)}, room=4)
    asked = []
    start = engine.start
    engine.start = lambda key, *more: (asked.append(key), start(key, *more))
    found = list(Rollouts([engine], dialogue, env.submit, Settings(lockstep=True)).run([Task("q", "?", "42")], 4))
    assert len(found) == 4 and asked == [f"q/{k}" for k in range(4)] * 2


def test_stragglers_are_cut_off_and_earn_nothing(env):
    lines = [[call("import time\ntime.sleep(30)"), ANSWER], [ANSWER]]
    _, found = played(env, lines, size=2, settings=Settings(deadline=1.0, call_timeout=60.0))
    assert [(one.finish, one.reward) for one in found] == [("deadline", 0.0), ("stop", 1.0)]


def test_streams_differ_by_every_name():
    points = {stream(seed, *names).random() for seed in (0, 1) for names in (("a", 1), ("a", 2), ("b", 1), ("a", "1"))}
    assert len(points) == 8


def test_sampled_tokens_fed_again_have_the_log_probabilities_they_were_drawn_with(env):
    """Token-in, token-out, under a tokenizer to which the same text has many tokens: what was sampled is what is trained on."""
    tokenizer = ambiguous()
    dialogue = Dialogue(tokenizer)
    model = small(torch.float32, len(tokenizer), positions=4096)
    script = [call("print(6 * 7)"), ANSWER]

    class Forced(LocalEngine):
        """Takes the script's bytes one by one (never its merged tokens) but with the model's own log-probabilities."""

        def _sample(self, slots, hidden):
            log = torch.log_softmax(self.model.get_output_embeddings()(hidden).float(), -1)
            done = []
            for slot, row in zip(slots, log, strict=True):
                turn = turns.setdefault(slot.key, 0)
                raw = [tokenizer.convert_tokens_to_ids(piece) for symbol in script[turn] for piece in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(symbol)[0][0]]  # fmt: skip
                token = [*raw, tokenizer.eos_token_id][len(slot.ids)]
                slot.ids.append(token)
                slot.logp.append(float(row[token]))
                slot.next = token
                if token == tokenizer.eos_token_id:
                    slot.running = False
                    turns[slot.key] += 1
                    done.append(Turn(slot.key, slot.ids, slot.logp, True))
            return done

    turns = {}
    engine = Forced(model, dialogue.ends, slots=2, capacity=4000)
    found = list(
        Rollouts([engine], dialogue, env.submit, Settings(max_tokens=1500)).run(
            [Task("q", "six times seven?", "42")], 2
        )
    )
    for one in found:
        assert one.reward == 1.0 and dialogue.encode(one.turns[0]["text"].removeprefix("<reason>")) != one.response[: one.turns[0]["tokens"] - 1]  # fmt: skip
        with torch.no_grad():
            log = torch.log_softmax(model(torch.tensor([one.ids])).logits[0].float(), -1)
        for k, (token, mask, value) in enumerate(zip(one.response, one.mask, one.logp, strict=True)):
            if mask:
                assert float(log[one.prompt - 1 + k, token]) == pytest.approx(value, abs=1e-4)
    assert np.allclose([sum(one.logp) for one in found], sum(found[0].logp), atol=1e-3)
