"""Packs, updates and sampling on a small model made here: against rows of their own, one after the other, in float64."""

import copy
import math
import random

import numpy as np
import pytest
import torch
from grpo_models import ambiguous, exact, small
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_roc.engine import LocalEngine
from grpo_roc.objective import Clip
from grpo_roc.packing import Piece, pack
from grpo_roc.policy import Example, Optimisation, Policy, for_training
from grpo_roc.ranks import Ranks
from tenfold_shared import BadInput


def alone(model, example):
    """Log-probabilities of a trajectory in a row of its own."""
    ids = torch.tensor([example.prompt + example.response])
    log = torch.log_softmax(model(ids).logits[0], -1)
    first = len(example.prompt) - 1
    return [log[first + k, token] for k, token in enumerate(example.response)]


def made(count, seed, vocabulary=60):
    rng = random.Random(seed)
    begin = [rng.randrange(vocabulary) for _ in range(rng.choice([0, 20]))]
    prompts = [begin + [rng.randrange(vocabulary) for _ in range(rng.randrange(2, 9))] for _ in range(3)]
    found = []
    for k in range(count):
        length = rng.randrange(1, 12)
        mask = [rng.random() < 0.7 for _ in range(length)]
        mask[-1] = True
        found.append(Example(prompts[k % 3], [rng.randrange(vocabulary) for _ in range(length)], mask, rng.gauss(0, 1)))
    return found


# ---------------------------------------------------------------- packs


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60))
def test_every_piece_is_packed_once_and_sees_its_prompt_and_itself_alone(seed, most):
    examples = made(9, seed)
    pieces = [Piece(k, one.prompt, one.response, one.mask) for k, one in enumerate(examples)]
    packs = pack(pieces, most)
    seen = []
    for one in packs:
        longest = max((len(p.prompt) + len(p.response) for p in pieces), default=0)
        assert len(one.tokens) <= max(most, longest)
        assert [one for span in one.spans for one in range(span.first, span.last)] == list(range(len(one.tokens)))
        for source, target, owner, place in zip(one.sources.tolist(), one.targets.tolist(), one.owner.tolist(), one.place.tolist(), strict=True):  # fmt: skip
            piece = pieces[owner]
            assert piece.mask[place] and piece.response[place] == target
            span = next(span for span in one.spans if span.first <= source < span.last)
            seen_ = [k for a, b in span.above for k in range(a, b)] + list(range(span.first, source + 1))
            context = one.tokens[seen_].tolist()
            assert context == piece.prompt + piece.response[:place]  # what it is predicted from, in order
            assert int(one.positions[source]) == len(piece.prompt) + place - 1
            seen.append((owner, place))
    assert sorted(seen) == [(k, t) for k, one in enumerate(examples) for t, trained in enumerate(one.mask) if trained]


def test_a_prompt_is_read_once_for_all_that_share_it():
    pieces = [Piece(k, list(range(50)), [1, 2, 3], [True] * 3) for k in range(8)]
    assert [len(one.tokens) for one in pack(pieces, 1000)] == [50 + 24]
    assert sum(len(one.tokens) for one in pack(pieces, 60)) == 3 * 50 + 24  # three responses a pack


def test_what_all_prompts_begin_with_is_read_once_a_pack():
    pieces = [Piece(k, [*range(40), 40 + k, 50], [1, 2, 3], [True] * 3) for k in range(6)]
    assert [len(one.tokens) for one in pack(pieces, 1000)] == [40 + 6 * (2 + 3)]
    assert [len(one.tokens) for one in pack(pieces, 50)] == [40 + 2 * 5] * 3


@pytest.mark.parametrize("most", [1, 40, 10_000])
def test_log_probabilities_of_packs_are_those_of_rows_of_their_own(most):
    model = small(torch.float64)
    examples = made(9, 1)
    found, entropy = Policy(model, Optimisation(most=most)).logprobs(examples)
    with torch.no_grad():
        for one, values in zip(examples, found, strict=True):
            wanted = [float(x) if trained else 0.0 for x, trained in zip(alone(model, one), one.mask, strict=True)]
            assert values == pytest.approx(wanted, abs=1e-5)  # taken in float32 at the least
    assert 0 < entropy <= math.log(model.config.vocab_size)


# ---------------------------------------------------------------- updates


def gradients(model, examples, most):
    policy = Policy(model, Optimisation(most=most, lr=0.0, norm=1e9))
    kept = {}

    def keep(*_):
        kept.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

    policy.optimizer.register_step_pre_hook(keep)
    updated = policy.update(examples, Clip())
    return kept, updated


def test_the_gradient_is_autograds_on_rows_of_their_own_however_it_is_packed():
    model = exact()
    examples = made(8, 2)
    tokens = sum(sum(one.mask) for one in examples)
    for one in examples:
        old = [float(x) + random.Random(5).gauss(0, 0.2) for x in alone(model, one)]
        one.old = old
    model.zero_grad()
    total = 0.0
    for one in examples:
        for value, old, trained in zip(alone(model, one), one.old, one.mask, strict=True):
            if trained:
                ratio = torch.exp(value - old)
                total = total - torch.minimum(ratio * one.advantage, ratio.clamp(0.8, 1.28) * one.advantage)
    (total / tokens).backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    for most in (1, 30, 10_000):
        found, updated = gradients(model, examples, most)
        assert updated.loss == pytest.approx(float(total.detach()) / tokens, rel=1e-9)
        assert max(float((found[name] - wanted[name]).abs().max()) for name in wanted) <= 1e-10


def test_an_update_moves_the_model_as_the_advantages_say():
    model = small(torch.float32)
    policy = Policy(model, Optimisation(lr=1e-3, warmup=1))
    good, bad = Example([1, 2], [3, 4], [True, True], 1.0), Example([1, 2], [5, 6], [True, True], -1.0)
    before = policy.logprobs([good, bad])[0]
    updated = policy.update([good, bad], Clip())
    after = policy.logprobs([good, bad])[0]
    assert not updated.skipped and updated.stats.kl == pytest.approx(0, abs=1e-9)
    assert sum(after[0]) > sum(before[0]) and sum(after[1]) < sum(before[1])


def test_a_loss_that_is_no_number_changes_nothing():
    model = small(torch.float32)
    policy = Policy(model, Optimisation(lr=1e-2, warmup=1))
    before = {name: p.clone() for name, p in model.named_parameters()}
    one = Example([1, 2], [3, 4], [True, True], 1.0, old=[math.nan, 0.0])
    assert policy.update([one], Clip()).skipped
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not policy.update([Example([1, 2], [3, 4], [True, True], 1.0)], Clip()).skipped


def test_a_checkpoint_goes_on_to_the_same_bytes(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = ambiguous()
    model = small(torch.float32, len(tokenizer))
    how = Optimisation(lr=1e-3, warmup=3)
    policy = Policy(model, how)
    steps = [made(4, seed) for seed in range(4)]
    for k, one in enumerate(steps):
        if k == 2:
            policy.save(tmp_path / "c", tokenizer, {"done": k})
        policy.update(one, Clip())
    again = Policy(AutoModelForCausalLM.from_pretrained(tmp_path / "c"), how)
    assert again.restore(tmp_path / "c") == {"done": 2}
    for one in steps[2:]:
        again.update(one, Clip())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.model.parameters(), strict=True))
    assert len(AutoTokenizer.from_pretrained(tmp_path / "c")) == len(tokenizer)


def test_products_are_in_the_checkpoints_type_and_weights_in_float32(tmp_path):
    """An update of a rate like the paper's is far below a step of bfloat16: weights that were held in it would stay as they are."""
    from transformers import AutoModelForCausalLM

    tokenizer = ambiguous()
    small(torch.bfloat16, len(tokenizer)).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    model, _, compute = for_training(str(tmp_path / "m"), "auto", "cpu", False, Ranks())
    assert compute == "bfloat16" and {p.dtype for p in model.parameters()} == {torch.float32}
    assert for_training(str(tmp_path / "m"), "float32", "cpu", False, Ranks())[2] == "float32"
    with pytest.raises(BadInput, match="--dtype float16: small gradients"):
        for_training(str(tmp_path / "m"), "float16", "cpu", False, Ranks())
    examples = made(4, 1)
    wide = Policy(copy.deepcopy(model), Optimisation()).logprobs(examples)[0]
    policy = Policy(model, Optimisation(lr=1e-6, warmup=1, compute=compute))
    narrow = policy.logprobs(examples)[0]
    apart = [abs(a - b) for x, y in zip(wide, narrow, strict=True) for a, b in zip(x, y, strict=True)]
    assert 0 < max(apart) < 0.1
    before = [p.detach().clone() for p in policy.parameters]
    policy.update(examples, Clip())
    moved = [float((a - b).abs().max()) for a, b in zip(before, (p.detach() for p in policy.parameters), strict=True)]
    assert all(0 < one <= 1.1e-6 for one in moved)
    policy.save(tmp_path / "best", tokenizer, {}, optimizer=False, dtype=compute)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "best", dtype="auto").dtype == torch.bfloat16
    policy.save(tmp_path / "checkpoint", tokenizer, {})
    again, _, compute = for_training(str(tmp_path / "checkpoint"), "auto", "cpu", False, Ranks())
    assert compute == "bfloat16"
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters, again.parameters(), strict=True))


def test_a_model_that_keeps_attentions_arguments_to_itself_is_refused():
    model = small(torch.float32)
    whole = model.base_model.forward
    model.base_model.forward = lambda spans=None, **given: whole(**given)
    with pytest.raises(BadInput, match="does not pass attention's arguments on"):
        Policy(model, Optimisation())


# ---------------------------------------------------------------- sampling


def run(engine):
    found = []
    while True:
        found += engine.poll()
        if not engine.new and not any(slot.running for slot in engine.slots.values()):
            return found


def forced(model, ids, response):
    with torch.no_grad():
        log = torch.log_softmax(model(torch.tensor([ids + response])).logits[0].float(), -1)
    return [float(log[len(ids) - 1 + k, token]) for k, token in enumerate(response)]


def test_sampled_log_probabilities_are_those_of_a_teacher_forced_pass():
    """Over turns, with trajectories that come and go and share prompts."""
    model = small(torch.float32)
    engine = LocalEngine(model, frozenset({0}), slots=4, capacity=64)
    held = {}
    for k in range(4):
        prompt = [5, 6, 7, 8] if k % 2 else [9, 10]
        held[f"{k}"] = list(prompt)
        engine.start(f"{k}", prompt, 6, np.random.default_rng(k))
    for turn in run(engine):
        assert turn.logp == pytest.approx(forced(model, held[turn.key], turn.ids), abs=1e-4)
        held[turn.key] += turn.ids
    engine.release("1")
    for key, more in (("0", [11, 12, 13]), ("3", [14]), ("new", [5, 6, 7, 8])):
        held.setdefault(key, [])
        held[key] += more
        engine.start(key, more, 5, np.random.default_rng(77))
    turns = run(engine)
    assert {turn.key for turn in turns} == {"0", "3", "new"}
    for turn in turns:
        assert turn.logp == pytest.approx(forced(model, held[turn.key], turn.ids), abs=1e-4)
        assert turn.ended == (turn.ids[-1] == 0) and (turn.ended or len(turn.ids) == 5)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(1, 9)), min_size=12, max_size=30), st.integers(0, 99))
def test_rows_that_rest_between_others_keep_what_they_hold(asked, seed):
    """Turns of all lengths begin whenever the one before has ended: slots rest, are free, and run in every order, up to the last token that there is room for."""
    model = small(torch.float32)
    engine = LocalEngine(model, frozenset(), slots=8, capacity=24)
    held, under_way = {}, set()
    line = list(asked)
    while line or under_way:
        for who, most in line[:3]:
            key = f"{who}"
            if key in under_way:
                continue
            more = [3 + who, 40] if key not in held else [50 + who]
            if len(held.get(key, [])) + len(more) + most > 24:
                engine.release(key)
                del held[key]
                more = [3 + who, 40]
            held[key] = held.get(key, []) + more
            engine.start(key, more, most, np.random.default_rng([seed, who]))
            under_way.add(key)
        line = line[3:]
        for turn in engine.poll():
            assert turn.logp == pytest.approx(forced(model, held[turn.key], turn.ids), abs=1e-4)
            held[turn.key] += turn.ids
            under_way.remove(turn.key)


def test_what_a_trajectory_draws_does_not_hang_on_who_else_runs():
    model = small(torch.float32)
    found = []
    for others in (0, 3):
        engine = LocalEngine(model, frozenset({0}), slots=4, capacity=64)
        engine.start("x", [5, 6, 7], 12, np.random.default_rng(1))
        for k in range(others):
            engine.start(f"{k}", [8 + k] * (k + 1), 12, np.random.default_rng(50 + k))
        found.append(next(turn.ids for turn in run(engine) if turn.key == "x"))
    assert found[0] == found[1]


def test_tokens_are_drawn_as_often_as_the_model_says():
    model = small(torch.float32)
    with torch.no_grad():
        wanted = torch.softmax(model(torch.tensor([[3, 4]])).logits[0, -1].double(), -1)
    engine = LocalEngine(model, frozenset({0}), slots=500, capacity=8)
    counts = torch.zeros(len(wanted), dtype=torch.float64)
    for block in range(8):
        for k in range(500):
            engine.start(f"{k}", [3, 4], 1, np.random.default_rng([block, k]))
        for turn in run(engine):
            counts[turn.ids[0]] += 1
            engine.release(turn.key)
    n = counts.sum()
    assert n == 4000 and ((counts - n * wanted).abs() < 4.5 * (n * wanted * (1 - wanted)).sqrt() + 1e-9).all()


def test_at_temperature_nothing_the_likeliest_is_taken():
    model = small(torch.float32)
    engine = LocalEngine(model, frozenset(), slots=2, capacity=64, temperature=0.0)
    for key in "ab":
        engine.start(key, [5, 6, 7], 8, np.random.default_rng(ord(key)))
    first, second = run(engine)
    assert first.ids == second.ids and first.logp == [0.0] * 8
    with torch.no_grad():
        assert model(torch.tensor([[5, 6, 7, *first.ids]])).logits[0, 2:-1].argmax(-1).tolist() == first.ids


def test_what_has_no_room_is_refused():
    model = small(torch.float32)
    with pytest.raises(BadInput, match="positions"):
        LocalEngine(model, frozenset({0}), slots=1, capacity=10_000)
    engine = LocalEngine(model, frozenset({0}), slots=1, capacity=8)
    with pytest.raises(BadInput, match="beyond 8"):
        engine.start("a", [1, 2, 3], 6, np.random.default_rng(0))
