"""Engines beyond one in this process: a server over HTTP (a real one, over a small model), several at once, one that dies; weights on their way; who goes where."""

import json
import math
import time
from collections import Counter, deque
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from grpo_models import ambiguous, small
from grpo_server import Peer
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from safetensors.torch import load_file

from grpo_roc import engine_server, engine_weights, evaluate
from grpo_roc.dialogue import Dialogue
from grpo_roc.engine import LocalEngine
from grpo_roc.engine_fleet import Fleet, chosen
from grpo_roc.engine_open import open_engines, push, servers
from grpo_roc.engine_protocol import Lost, Turn
from grpo_roc.env import isolation
from grpo_roc.env.environment import Environment
from grpo_roc.rollout import Rollouts, Settings, Task
from tenfold_shared import BadInput, Missing
from tenfold_shared.cli import Selection

LEVEL = next(level for level in isolation.LEVELS if level not in isolation.probe())
ANSWER = "<answer>\\boxed{42}</answer>"
VOCABULARY = len(ambiguous())


def call(code):
    told = {"name": "execute_python_code_with_standard_io", "arguments": {"code": code, "input": ""}}
    return f"</reason><tool_call>{json.dumps(told)}</tool_call>"


@pytest.fixture(scope="module")
def env():
    with Environment(level=LEVEL, workers=2, preload=()) as found:
        yield found


@pytest.fixture(scope="module")
def dialogue():
    return Dialogue(ambiguous())


@pytest.fixture(scope="module")
def model():
    return small(torch.float32, VOCABULARY, positions=4096)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Waiting between attempts a hundredth as long."""
    monkeypatch.setattr(engine_server, "DELAYS", tuple(one / 100 for one in engine_server.DELAYS))


def opened(dialogue, *peers, capacity=2100, temperature=1.0, **more):
    uris = [peer if isinstance(peer, str) else peer.uri for peer in peers]
    return open_engines(uris, dialogue=dialogue, slots=4, capacity=capacity, temperature=temperature, **more)


class All:
    """Closes engines at the end of a with."""

    def __init__(self, engines):
        self.engines = engines

    def __enter__(self):
        return self.engines

    def __exit__(self, *why):
        for engine in self.engines:
            engine.close()


def turns(engine):
    """All turns under way."""
    found = {}
    while engine_busy(engine):
        for turn in engine.poll():
            found[turn.key] = turn
    return found


def engine_busy(engine):
    return bool(engine.running) if hasattr(engine, "running") else not engine.idle


def forced(model, context, ids):
    with torch.no_grad():
        log = torch.log_softmax(model(torch.tensor([context + ids])).logits[0].float(), -1)
    return [float(log[len(context) - 1 + k, token]) for k, token in enumerate(ids)]


def talk(engine, rounds=2, most=6):
    """Three trajectories of several turns, with tokens of their own between: (key, turn): sampled ids."""
    found, contexts = {}, {}
    for k in range(rounds):
        for key in "abc":
            more = [5 + ord(key) % 7, 6, 7 + k]
            contexts[key] = [*contexts.get(key, []), *more]
            engine.start(key, more, most, np.random.default_rng([k, ord(key)]))
        for key, turn in turns(engine).items():
            found[key, k] = (list(contexts[key]), turn)
            contexts[key] += turn.ids
    for key in "abc":
        engine.release(key)
    return found


# ---------------------------------------------------------------- one server


def test_greedy_turns_are_those_of_the_engine_in_this_process(dialogue, model):
    local = LocalEngine(model, dialogue.ends, slots=3, capacity=200, temperature=0.0)
    wanted = talk(local)
    with Peer(model) as peer, All(opened(dialogue, peer, capacity=200, temperature=0.0)) as [engine]:
        found = talk(engine)
        assert {at: (context, turn.ids) for at, (context, turn) in found.items()} == {
            at: (context, turn.ids) for at, (context, turn) in wanted.items()
        }
        assert all(turn.logp == [0.0] * len(turn.ids) for _, turn in found.values())
        assert [one["prompt"] for one in peer.asked if one["prompt"] == found["a", 1][0]]  # the whole context, as ids
        assert not engine.context and not engine.running


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_turns_have_the_log_probabilities_of_a_teacher_forced_pass(dialogue, model, temperature):
    with Peer(model, processed=True) as peer, All(opened(dialogue, peer, capacity=200, temperature=temperature)) as [engine]:  # fmt: skip
        found, again = talk(engine), talk(engine)
    for context, turn in found.values():
        with torch.no_grad():
            logits = model(torch.tensor([context + turn.ids])).logits[0].float() / temperature
        log = torch.log_softmax(logits, -1)
        wanted = [float(log[len(context) - 1 + k, token]) for k, token in enumerate(turn.ids)]
        assert turn.logp == pytest.approx(wanted, abs=1e-4)
    assert {at: turn.ids for at, (_, turn) in found.items()} == {at: turn.ids for at, (_, turn) in again.items()}
    seeds = Counter(one["seed"] for one in peer.asked)
    assert len(seeds) == 6 and set(seeds.values()) == {2}  # one a turn, from the trajectory's stream
    assert len({tuple(turn.ids) for _, turn in found.values()}) > 3


def test_what_a_server_would_add_of_its_own_is_switched_off(dialogue, model):
    with Peer(model) as peer, All(opened(dialogue, peer, capacity=200)) as [engine]:
        talk(engine, rounds=1)
    assert peer.asked
    for one in peer.asked:
        assert (one["top_p"], one["top_k"], one["min_p"], one["repetition_penalty"]) == (1.0, 0, 0.0, 1.0)
        assert one["ignore_eos"] and one["stop_token_ids"] == sorted(dialogue.ends) and one["logprobs"] == 0


def test_an_end_is_among_the_tokens_and_is_told_from_a_limit(dialogue, model):
    end = dialogue.tokenizer.eos_token_id
    with Peer(model, script=lambda ids: [3, 4, end]) as peer, All(opened(dialogue, peer, capacity=200)) as [engine]:
        engine.start("a", [1], 5, np.random.default_rng(0))
        engine.start("b", [1], 2, np.random.default_rng(0))
        found = turns(engine)
        assert (found["a"].ids, found["a"].ended) == ([3, 4, end], True)
        assert (found["b"].ids, found["b"].ended) == ([3, 4], False)
        with pytest.raises(BadInput, match="beyond 200"):
            engine.start("c", [1] * 150, 60, np.random.default_rng(0))


REFUSED = [
    ({"ids": False}, {}, "gives no token ids back"),
    ({"scores": False}, {}, "no log-probability of each"),
    ({"adds": [1]}, {}, "changes the tokens"),
    ({}, {"temperature": 0.7}, "--logprobs-mode processed_logprobs"),
    ({"context": 100}, {}, "its context has 100 tokens"),
    ({}, {"folder": "weights"}, "VLLM_SERVER_DEV_MODE=1"),
]


@pytest.mark.parametrize(("server", "how", "said"), REFUSED)
def test_servers_that_cannot_do_it_are_refused_in_a_line(dialogue, model, server, how, said):
    with Peer(model, **server) as peer, pytest.raises(BadInput, match=said) as caught:
        opened(dialogue, peer, **how)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("http://127.0.0.1")


def test_what_is_not_needed_is_not_asked_for(dialogue, model):
    with Peer(model) as peer:
        for how in ({"temperature": 0.7, "exact": False}, {"temperature": 0.0}, {"temperature": 1.0}):
            with All(opened(dialogue, peer, **how)) as [engine]:
                assert engine.model == "tiny"
        with All(opened(dialogue, peer.uri.partition("#")[0])) as [engine]:
            assert engine.model == "tiny"  # the only one
        with pytest.raises(BadInput, match="it serves: tiny"):
            opened(dialogue, peer.uri.replace("#tiny", "#other"))


def test_addresses(dialogue):
    assert servers(["http://a:1/v1#m", "http://b:1/v1#m"]) == [("http://a:1/v1", "m"), ("http://b:1/v1", "m")]
    for uris, said in (
        (["http://a:1/v1#m", "http://b:1/v1#n"], "same #NAME"),
        (["http://a:1/v1#m", "http://a:1/v1#m"], "twice"),
        (["http://a:x/v1"], "HOST:PORT"),
        (["http:///v1"], "HOST:PORT"),
        (["replay:x"], "expected vllm:"),
        (["vllm:a", "vllm:b"], "one vLLM engine"),
    ):
        with pytest.raises(BadInput, match=said):
            opened(dialogue, *uris)


def test_a_key_is_sent_and_never_shown(dialogue, model, monkeypatch):
    with Peer(model, key="s3cret") as peer:
        monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
        with All(opened(dialogue, peer)) as [engine]:
            assert "s3cret" not in engine.name
        monkeypatch.setenv("OPENAI_API_KEY", "wr0ng")
        with pytest.raises(Missing, match="OPENAI_API_KEY") as caught:
            opened(dialogue, peer)
        assert "wr0ng" not in str(caught.value)


def test_a_busy_server_is_asked_again_and_one_that_is_not_there_is_missing(dialogue, model):
    with Peer(model, busy=2) as peer, All(opened(dialogue, peer, capacity=200)) as [engine]:
        assert peer.busy == 0
        peer.busy = 2
        assert len(talk(engine, rounds=1)) == 3 and peer.busy == 0
    with pytest.raises(Missing, match="cannot be reached after 4 attempts; is the server running"):
        opened(dialogue, peer)


def test_its_cache_is_read_from_its_metrics_and_shared(dialogue, model):
    for blocks, share, wanted in ((300, 1, 300), (300, 2, 150), (0, 1, engine_server.ANY)):
        with Peer(model, blocks=blocks) as peer, All(opened(dialogue, peer, share=share)) as [engine]:
            assert (engine.block, engine.blocks) == (16, wanted) and engine.places == (wanted if blocks else 4)


# ---------------------------------------------------------------- trajectories through servers


def scripted(dialogue, lines):
    """What a model says in each turn of a trajectory, by the problem's text in its context; each symbol's own byte token, never a merged one, as a sampler may well do."""
    tokenizer, end = dialogue.tokenizer, dialogue.tokenizer.eos_token_id
    pre = tokenizer.backend_tokenizer.pre_tokenizer

    def say(context):
        text = dialogue.decode(context)
        name = next(name for name in lines if name in text)
        turn = (context.count(end) - 2) // 2
        symbols = "".join(piece for piece, _ in pre.pre_tokenize_str(lines[name][turn]))
        return [*tokenizer.convert_tokens_to_ids(list(symbols)), end]

    return say


def problems(count):
    return {f"problem {k} of all": [call(f"print({k})"), call(f"print({k} + 1)"), ANSWER] for k in range(count)}


def play(env, dialogue, engines, lines, size=2, tell=lambda _: None, **how):
    tasks = [Task(f"q{k}", name, "42") for k, name in enumerate(lines)]
    rollouts = Rollouts(engines, dialogue, env.submit, Settings(max_tokens=900, **how), tell)
    return sorted(rollouts.run(tasks, size), key=lambda one: one.key)


def test_trajectories_with_calls_are_whole_and_are_what_is_trained_on(env, dialogue, model):
    lines = problems(2)
    with Peer(model, script=scripted(dialogue, lines)) as peer, All(opened(dialogue, peer)) as engines:
        found = play(env, dialogue, engines, lines)
    assert [one.key for one in found] == ["q0/0", "q0/1", "q1/0", "q1/1"]
    for one in found:
        k = int(one.group[1])
        assert one.reward == 1.0 and [turn["calls"][0]["stdout"] for turn in one.turns[:2]] == [f"{k}\n", f"{k + 1}\n"]
        log = forced(model, one.ids[: one.prompt], one.response)
        for mask, value, wanted in zip(one.mask, one.logp, log, strict=True):
            assert value == pytest.approx(wanted, abs=1e-4) if mask else value == 0.0
        spoken = dialogue.encode(one.turns[0]["text"].removeprefix("<reason>"))
        assert spoken != one.response[: len(spoken)]  # encoded again they would be other tokens


@pytest.fixture(scope="module")
def undisturbed(env, dialogue, model):
    lines = problems(3)
    with Peer(model, script=scripted(dialogue, lines)) as alone, All(opened(dialogue, alone)) as engines:
        return [(one.key, one.ids, one.mask) for one in play(env, dialogue, engines, lines)]


@pytest.mark.parametrize("admission", ["auto", "static", "least"])
def test_where_one_of_two_dies_everyone_ends_once_with_the_same_tokens(env, dialogue, model, undisturbed, admission):
    lines, said = problems(3), []
    say = scripted(dialogue, lines)
    with (
        Peer(model, script=say, blocks=900, dies=4) as dying,
        Peer(model, script=say, blocks=900) as sound,
        All(opened(dialogue, dying, sound)) as engines,
    ):
        found = play(env, dialogue, engines, lines, tell=said.append, admission=admission)
        assert engines[0].lost and not engines[1].lost
    assert [(one.key, one.ids, one.mask) for one in found] == undisturbed
    assert len(said) == 1 and "go on elsewhere" in said[0] and "\n" not in said[0]
    assert len(dying.asked) == 5 and len(sound.asked) > 9


def test_where_the_last_dies_it_says_so_and_what_ended_before_stands(env, dialogue, model):
    lines = {"problem 0 of all": [ANSWER], "problem 1 of all": [call("print(1)")] * 9}
    tasks = [Task(f"q{k}", name, "42") for k, name in enumerate(lines)]
    with Peer(model, script=scripted(dialogue, lines), dies=4) as peer, All(opened(dialogue, peer)) as engines:
        rollouts = Rollouts(engines, dialogue, env.submit, Settings(max_tokens=900))
        ended = []
        with pytest.raises(Missing, match="no engine is left"):
            ended.extend(one for one in rollouts.run(tasks, 1))
        assert not rollouts.live
        with pytest.raises(Missing, match="cannot be reached"):
            next(rollouts.run(tasks, 1))


def test_a_deadline_cuts_what_a_server_still_runs(env, dialogue, model):
    lines = problems(1)
    with Peer(model, hangs=True) as peer, All(opened(dialogue, peer)) as engines:
        found = play(env, dialogue, engines, lines, size=3, deadline=0.5)
        assert [(one.finish, one.reward, one.response) for one in found] == [("deadline", 0.0, [])] * 3
        for _ in range(200):
            if peer.cut == 3:
                break
            time.sleep(0.02)
        assert peer.cut == 3 and not engines[0].running and not engines[0].lost


def test_one_that_hangs_and_says_nothing_of_its_health_is_given_up(env, dialogue, model, monkeypatch):
    monkeypatch.setattr(engine_server, "WATCH_S", 0.4)
    lines, said = problems(2), []
    say = scripted(dialogue, lines)
    with (
        Peer(model, hangs=True, ill=True) as ill,
        Peer(model, script=say) as sound,
        All(opened(dialogue, ill, sound)) as engines,
    ):
        found = play(env, dialogue, engines, lines, tell=said.append)
        assert ill.asked and [one.reward for one in found] == [1.0] * 4
    assert len(said) == 1 and "/health" in said[0]


# ---------------------------------------------------------------- weights


def another():
    torch.manual_seed(7)
    found = small(torch.float32, VOCABULARY, positions=4096)
    with torch.no_grad():
        for value in found.parameters():
            value.add_(torch.randn_like(value) * 0.1)
    return found


def test_weights_pushed_are_what_is_sampled_with(dialogue, tmp_path):
    new = another()
    wanted = talk(LocalEngine(new, dialogue.ends, slots=3, capacity=200, temperature=0.0))
    here = LocalEngine(small(torch.float32, VOCABULARY, positions=4096), dialogue.ends, slots=3, capacity=200, temperature=0.0)  # fmt: skip
    before = talk(here)
    peers = [Peer(small(torch.float32, VOCABULARY, positions=4096), weights=True) for _ in range(2)]
    with peers[0], peers[1], All(opened(dialogue, *peers, capacity=200, temperature=0.0, folder=str(tmp_path / "w"))) as served:  # fmt: skip
        engines = [here, *served]
        assert all(ids_of(talk(engine)) == ids_of(before) for engine in engines)
        push(engines, new.named_parameters())
        assert ids_of(before) != ids_of(wanted)
        for engine in engines:
            assert ids_of(talk(engine)) == ids_of(wanted)
        assert [peer.resets for peer in peers] == [2, 2]  # asked again where blocks were held
        assert list((tmp_path / "w").iterdir()) == []


def ids_of(found):
    return {at: turn.ids for at, (_, turn) in found.items()}


def test_a_lost_server_takes_part_again_once_it_has_the_weights(dialogue, tmp_path):
    model, said = another(), []
    with Peer(model, weights=True) as one, Peer(model, weights=True) as two, All(opened(dialogue, one, two, capacity=200, folder=str(tmp_path))) as engines:  # fmt: skip
        engines[0].lost = "was away"
        push(engines, model.state_dict().items(), said.append)
        assert not engines[0].lost and not said
        two.die()
        push(engines, model.state_dict().items(), said.append)
        assert engines[1].lost and not engines[0].lost and len(said) == 1 and "cannot be reached" in said[0]
        one.die()
        with pytest.raises(Missing, match="no engine is left"):
            push(engines, model.state_dict().items())


def test_a_sampling_copy_in_another_type_has_the_trainers_weights(dialogue):
    trainer = another()
    copy = small(torch.float32, VOCABULARY, positions=4096).to(torch.bfloat16)
    engine = LocalEngine(copy, dialogue.ends, slots=3, capacity=200, temperature=0.0)
    engine.load(trainer.state_dict().items())
    for name, value in trainer.state_dict().items():
        assert torch.equal(copy.state_dict()[name], value.to(torch.bfloat16))
    engine.start("a", [1, 2], 3, np.random.default_rng(0))
    with pytest.raises(ValueError, match="between batches"):
        engine.load(trainer.state_dict().items())
    engine.release("a")
    with pytest.raises(ValueError, match="not given"):
        engine.load([("model.norm.weight", trainer.state_dict()["model.norm.weight"])])
    with pytest.raises(ValueError, match="no weight of"):
        engine.load([("model.nerm.weight", trainer.state_dict()["model.norm.weight"])])
    own = LocalEngine(trainer, dialogue.ends, slots=3, capacity=200, temperature=0.0)
    before = {name: value.clone() for name, value in trainer.state_dict().items()}
    own.load(trainer.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in trainer.state_dict().items())


def test_large_weights_are_several_files_and_a_tied_head_is_among_them(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_weights, "SHARD", 20_000)
    model = another()
    for all_of_them in (model.state_dict().items(), ((name, value * 1) for name, value in model.named_parameters())):
        with engine_weights.written(all_of_them, str(tmp_path / "w")) as folder:
            files = sorted(Path(folder).iterdir())
            found = [pair for path in files for pair in load_file(path).items()]
            assert len(files) > 2 and len(found) == len(dict(found)) == len(model.state_dict())
            assert all(torch.equal(model.state_dict()[name], value) for name, value in found)
    monkeypatch.setattr(engine_weights, "SHARD", 1 << 30)
    with engine_weights.written(model.state_dict().items(), str(tmp_path / "w")) as folder:
        assert load_file(Path(folder) / "model-00000.safetensors").keys() == model.state_dict().keys()
    own = torch.zeros(2)
    pairs = [("lm_head.weight", own), ("model.embed_tokens.weight", own + 1)]
    for some in (pairs, pairs[::-1]):  # a head of its own stays
        assert [name for name, _ in engine_weights.with_head(some)] == [name for name, _ in some]
    with pytest.raises(BadInput, match="cannot be written there"), engine_weights.written([], "/proc/none"):
        raise AssertionError("it was written")


# ---------------------------------------------------------------- who goes where


class Paper:
    """An engine of this test: a turn gives back how many tokens it has been told of; it may be lost at any poll."""

    name, paged, block = "paper", True, 16

    def __init__(self, blocks, places, dies=None):
        self.blocks, self.places, self.dies, self.lost = blocks, places, dies, ""
        self.context, self.due, self.most_at_once = {}, deque(), 0

    @property
    def idle(self):
        return not self.due

    def start(self, key, ids, most, draw):
        self.poke()
        self.context[key] = self.context.get(key, []) + list(ids)
        self.most_at_once = max(self.most_at_once, len(self.context))
        self.due.append(key)

    def poke(self):
        if self.dies is not None:
            self.dies -= 1
            if self.dies < 0:
                self.lost = "gone"
                raise Lost("gone")

    def poll(self):
        self.poke()
        if not self.due:
            return []
        key = self.due.popleft()
        self.context[key].append(len(self.context[key]))
        return [Turn(key, [self.context[key][-1]], [0.0], True)]

    def release(self, key):
        self.context.pop(key, None)
        self.due = deque(one for one in self.due if one != key)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(4, 30), st.integers(1, 4), st.none() | st.integers(0, 30)), min_size=1, max_size=4),
    st.sampled_from(["static", "least", "kv", "kv-quantile", "kv-mean"]),
    st.lists(st.tuples(st.integers(1, 20), st.integers(1, 5)), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
def test_everyone_ends_once_whatever_is_lost(engines, policy, wanted, chance):
    """Each trajectory, of a prompt and some turns, gets its own context back whole in every turn, wherever it runs."""
    papers = [Paper(blocks, places, dies) for blocks, places, dies in engines]
    fleet = Fleet(papers, policy, 40)
    for k, (prompt, _) in enumerate(wanted):
        fleet.submit(f"{k}", prompt, f"g{prompt}")
    contexts, live, ended = {}, {}, []
    draw = np.random.default_rng(0)
    try:
        while len(ended) < len(wanted):
            for key in fleet.next():
                if key not in contexts:
                    prompt, rounds = wanted[int(key)]
                    contexts[key], live[key] = list(range(prompt)), rounds
                    fleet.ask(key, contexts[key], 5, draw)
            for turn in fleet.poll():
                context = contexts[turn.key]
                assert turn.ids == [len(context)]  # the engine had all of it
                context += turn.ids
                tokens = len(context) - wanted[int(turn.key)][0]
                fleet.grew(turn.key, tokens)
                live[turn.key] -= 1
                if live[turn.key] == 0 or chance.random() < 0.1:
                    fleet.ended(turn.key, tokens)
                    ended.append(turn.key)
                else:
                    context.append(len(context))  # what a tool said
                    fleet.ask(turn.key, context, 5, draw)
            homeless = [key for key in live if key not in fleet.home and key not in ended]
            if homeless and chance.random() < 0.3:  # one whose engine is gone is cut off before it has another
                fleet.ended(homeless[0], len(contexts[homeless[0]]) - wanted[int(homeless[0])][0])
                ended.append(homeless[0])
            fleet.admission.check()
    except Missing:
        assert all(paper.lost for paper in papers)
        return
    assert sorted(ended) == sorted(f"{k}" for k in range(len(wanted)))
    assert fleet.waiting == 0 and not fleet.asked and not any(paper.context for paper in papers if not paper.lost)
    if policy != "static":
        assert all(paper.most_at_once <= paper.places for paper in papers)


def test_what_an_engine_has_no_room_for_is_refused():
    fleet = Fleet([Paper(4, 2)], "kv-mean", 40)
    with pytest.raises(BadInput, match="cache holds 64"):
        fleet.submit("a", 30, "g")
    fleet.submit("b", 24, "g2")
    assert fleet.next() == ["b"]


def test_how_admission_is_chosen(dialogue, model):
    local = LocalEngine(model, dialogue.ends, slots=2, capacity=100)
    assert chosen("auto", [Paper(4, 2)], False) == "kv-mean" and chosen("auto", [Paper(4, 2)], True) == "kv"
    assert chosen("auto", [Paper(4, 2), local], False) == "kv" and chosen("static", [local], True) == "static"


def test_slots_are_places_and_what_is_more_waits_in_the_engine(dialogue, model):
    engine = LocalEngine(model, dialogue.ends, slots=2, capacity=40, temperature=0.0)
    assert (engine.places, engine.blocks, engine.paged) == (2, 2 * math.ceil(40 / 16), False)
    for key in "abcd":
        engine.start(key, [5, 6, ord(key) % 9], 4, np.random.default_rng(0))
    engine.release("c")
    found = {}
    while not engine.idle:
        for turn in engine.poll():
            found[turn.key] = turn.ids
            engine.release(turn.key)
    assert set(found) == set("abd")
    with torch.no_grad():
        for key, ids in found.items():
            context = torch.tensor([[5, 6, ord(key) % 9, *ids]])
            assert model(context).logits[0, 2:-1].argmax(-1).tolist() == ids


def test_prompts_of_a_group_are_read_once_by_the_template_too(env, dialogue, model, monkeypatch):
    lines, asked = problems(2), []
    prompt = dialogue.prompt
    monkeypatch.setattr(dialogue, "prompt", lambda text: (asked.append(text), prompt(text))[1])
    with Peer(model, script=scripted(dialogue, lines)) as peer, All(opened(dialogue, peer)) as engines:
        found = play(env, dialogue, engines, lines, size=3)
    assert len(found) == 6 and asked == list(lines)
    assert len({id(one.ids) for one in found}) == 6


def test_rollout_and_eval_through_servers(env, dialogue, model, tmp_path, capsys):
    """The verbs' own work: the records are those of any number of servers of a name, which are one model."""
    lines = problems(3)
    dialogue.tokenizer.save_pretrained(tmp_path / "tokenizer")
    tasks = [{"id": f"q{k}", "prompt": name, "answer": "42" if k else "41"} for k, name in enumerate(lines)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    how = Settings(max_tokens=900)
    common = {"output": str(tmp_path / "out.jsonl"), "overwrite": False, "max_time": None, "quiet": True}
    with Peer(model, script=scripted(dialogue, lines)) as one, Peer(model, script=scripted(dialogue, lines)) as two:
        named = evaluate.Model(one.uri, temperature=0.0, slots=2, level=LEVEL, tokenizer=str(tmp_path / "tokenizer"))
        both = replace(named, others=(two.uri,))
        files, every = [str(tmp_path / "tasks.jsonl")], Selection(None, None, None, 0)
        assert evaluate.rollout(files, every, both, how, samples=2, tokens=True, **common) == 0
        assert len(one.asked) > 2 and len(two.asked) > 2
        records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert [(each["id"], each["sample"], each["reward"]) for each in records] == [
            (f"q{k}", sample, float(k > 0)) for k in range(3) for sample in range(2)
        ]
        assert all(len(each["token_ids"]) == len(each["logprobs"]) == len(each["loss_mask"]) for each in records)
        assert evaluate.rollout(files, every, replace(named, uri=two.uri), how, samples=2, tokens=True, **common) == 0
        assert "nothing to do" in capsys.readouterr().err
        common["output"] = None
        assert evaluate.evaluate(files, every, named, how, samples=1, as_json=True, **common) == 0
        assert json.loads(capsys.readouterr().out)["pass@1"] == pytest.approx(2 / 3, abs=1e-6)
        with pytest.raises(BadInput, match="--tokenizer"):
            evaluate.evaluate(files, every, replace(named, tokenizer=str(tmp_path)), how, samples=1, as_json=True, **common)  # fmt: skip


def test_closing_a_batch_early_leaves_nothing_under_way(env, dialogue, model):
    lines = problems(3)
    with Peer(model, script=scripted(dialogue, lines)) as peer, All(opened(dialogue, peer)) as engines:
        rollouts = Rollouts(engines, dialogue, env.submit, Settings(max_tokens=900))
        tasks = [Task(f"q{k}", name, "42") for k, name in enumerate(lines)]
        with closing(rollouts.run(tasks, 1)) as running:
            first = next(running)
        assert first.reward == 1.0 and not rollouts.live and not engines[0].running and not engines[0].context
        assert len(list(rollouts.run(tasks, 1))) == 3
