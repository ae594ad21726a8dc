"""The backends against references that share no code with them: a step-by-step loop without cache or
batch, exact probabilities, a scripted loopback server, and recordings cut anywhere."""

import asyncio
import json
import logging
import math
import os
import subprocess
import sys
import threading
import time
from contextlib import closing

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_server import Reply, ScriptedServer, as_json, chat, completion, models, refusing_url
from tiny_models import CORPUS, make_lm, make_tokenizer

import tenfold_shared.generate as generate_module
from tenfold_shared import BadInput, Busy, Missing
from tenfold_shared.generate import (
    Completion,
    Recorder,
    ReplayGenerator,
    Request,
    Sampling,
    ServerGenerator,
    TransformersGenerator,
    draw,
)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def ends_of(lm, ends):
    """Give the checkpoint end-of-text ids, and advice that Sampling must override."""
    lm.generation_config.eos_token_id = ends
    lm.generation_config.repetition_penalty = 1.7
    lm.generation_config.min_new_tokens = 9
    lm.generation_config.temperature = 0.1
    return lm


def reference(lm, prompt, max_tokens, choose, ends):
    """(tokens, log-probabilities), one whole forward pass a token: no cache, no padding, no batch."""
    ids, tokens, logprobs = list(prompt), [], []
    while len(tokens) < max_tokens:
        with torch.no_grad():
            logits = lm(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double()
        token = choose(logits)
        tokens.append(token)
        logprobs.append(float(torch.log_softmax(logits, -1)[token]))
        ids.append(token)
        if token in ends:
            break
    return tokens, logprobs


def greedy(logits):
    return int(logits.argmax())


def probabilities(logits, temperature, top_p, top_k):
    """Exact by definition: temperature, the top_k likeliest, then the smallest set holding top_p of those."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    p = np.exp(scaled - scaled.max())
    order = np.argsort(-p, kind="stable")
    if top_k:
        p[order[top_k:]] = 0
    p /= p.sum()
    if top_p < 1:
        reached = np.cumsum(p[order])
        p[order[int(np.searchsorted(reached, top_p)) + 1 :]] = 0
    return p / p.sum()


def ragged(n=7):
    rng = np.random.default_rng(5)
    sizes = [1, 23, 4, 11, 2, 40, 7][:n]
    return [rng.integers(1, 340, size).tolist() for size in sizes]


def by_key(completions):
    return {completion.key: completion for completion in completions}


def encoded(completions):
    return b"\n".join(msgspec.json.encode(completion) for completion in completions)


ENDS = [0, *range(3, 340, 17)]  # so many that some rows of a batch end early


# ------------------------------------------------------------------ transformers: batching


@pytest.mark.parametrize("kind", ["llama", "sliding", "gpt2"])
def test_ragged_batch_equals_the_reference_row_by_row(kind, tokenizer):
    lm, prompts = ends_of(make_lm(kind), ENDS), ragged()
    expected = [reference(lm, prompt, 24, greedy, ENDS) for prompt in prompts]
    lengths = {len(tokens) for tokens, _ in expected}
    assert 24 in lengths and min(lengths) < 24  # both ways to end occur
    together = TransformersGenerator(lm, tokenizer, "m", len(prompts))
    alone = TransformersGenerator(lm, tokenizer, "m", 1)
    how = Sampling(temperature=0, max_tokens=24, logprobs=True)
    requests = [Request(str(i), prompt_ids=prompt) for i, prompt in enumerate(prompts)]
    got = list(together.generate(requests, how))
    assert [c.key for c in got] == [r.key for r in requests]
    for one, two, prompt, (tokens, logprobs) in zip(got, alone.generate(requests, how), prompts, expected, strict=True):
        assert one.token_ids == two.token_ids == tokens
        assert np.allclose(one.logprobs, logprobs, atol=1e-4) and np.allclose(two.logprobs, logprobs, atol=1e-4)
        assert one.finish_reason == ("stop" if tokens[-1] in ENDS else "length")
        assert (one.prompt_tokens, one.completion_tokens) == (len(prompt), len(tokens))
        assert one.text == tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["llama", "sliding", "gpt2"])
@pytest.mark.parametrize("shared", [False, True])
def test_rows_that_are_done_leave_the_batch_and_change_nothing(kind, shared, tokenizer, monkeypatch):
    """A look after every third token, at steps that no end falls on alike; the model sees ever fewer rows."""
    monkeypatch.setattr(TransformersGenerator, "ROUND", 3)
    lm, prompts = ends_of(make_lm(kind), ENDS), ragged()
    prompts = prompts + prompts[:2] if shared else prompts
    how = Sampling(temperature=1.2, max_tokens=25, logprobs=True)
    requests = [Request(str(i), prompt_ids=p, seed=i) for i, p in enumerate(prompts)]
    rows = []
    hook = lm.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    got = list(TransformersGenerator(lm, tokenizer, "m", len(prompts)).generate(requests, how))
    hook.remove()
    steps = rows[1:] if shared else rows
    lengths = [len(c.token_ids) for c in got]
    assert len(set(lengths)) > 2
    assert (
        steps
        == [sum(size > 3 * (step // 3) for size in lengths) for step in range(max(lengths))] + steps[max(lengths) :]
    )
    assert len(steps) - max(lengths) < 3  # at most what is left of the last round
    for completion_, request in zip(got, requests, strict=True):
        stream = np.random.Generator(np.random.PCG64(request.seed))

        def choose(logits, stream=stream):
            return int(np.searchsorted(np.cumsum(probabilities(logits, 1.2, 1.0, 0)), stream.random(), side="right"))

        tokens, logprobs = reference(lm, request.prompt_ids, 25, choose, ENDS)
        assert completion_.token_ids == tokens and np.allclose(completion_.logprobs, logprobs, atol=1e-4)
        assert completion_.finish_reason == ("stop" if tokens[-1] in ENDS else "length")


@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 0), (0.8, 0), (0.8, 5), (1.0, 300), (0.999, 0)])
def test_sampled_tokens_are_what_each_requests_own_stream_draws(top_p, top_k, tokenizer):
    """The reference takes one uniform a token and inverts the exact distribution itself."""
    lm = ends_of(make_lm(), [0])
    how = Sampling(temperature=1.3, top_p=top_p, top_k=top_k, max_tokens=70, logprobs=True)  # beyond one block of 64
    seeds = [0, 1, 2**64 + 7, -3, 1]
    requests = [Request(str(i), prompt_ids=p, seed=s) for i, (p, s) in enumerate(zip(ragged(5), seeds, strict=True))]
    longest = 0
    for got, request in zip(
        TransformersGenerator(lm, tokenizer, "m", 5).generate(requests, how), requests, strict=True
    ):
        stream = np.random.Generator(np.random.PCG64(request.seed % 2**64))

        def choose(logits, stream=stream):
            p = probabilities(logits, 1.3, top_p, top_k)
            order = np.arange(len(p)) if top_p >= 1 and not top_k else np.argsort(-p, kind="stable")
            return int(order[np.searchsorted(np.cumsum(p[order]), stream.random(), side="right")])

        tokens, logprobs = reference(lm, request.prompt_ids, 70, choose, [0])
        longest = max(longest, len(tokens))
        assert got.token_ids == tokens
        assert np.allclose(got.logprobs, logprobs, atol=1e-4)
    assert longest == 70


def test_neighbours_order_and_batch_size_do_not_change_a_request(tokenizer):
    lm = ends_of(make_lm(), ENDS)
    requests = [Request(str(i), prompt_ids=p, seed=i) for i, p in enumerate(ragged())]
    how = Sampling(temperature=1.1, top_p=0.9, max_tokens=20, logprobs=True)
    whole = by_key(TransformersGenerator(lm, tokenizer, "m", 7).generate(requests, how))
    other = by_key(TransformersGenerator(lm, tokenizer, "m", 3).generate(requests[::-1], how))
    assert {k: c.token_ids for k, c in whole.items()} == {k: c.token_ids for k, c in other.items()}
    assert len({tuple(c.token_ids) for c in whole.values()}) == 7


def test_equal_prompts_are_read_once_and_change_nothing(tokenizer):
    lm = ends_of(make_lm(), ENDS)
    long, short, one = list(range(5, 35)), [9, 8, 7], [11]
    prompts = [long, short, long, one, long, one, short]
    requests = [Request(str(i), prompt_ids=p, seed=i) for i, p in enumerate(prompts)]
    how = Sampling(temperature=1.0, max_tokens=15, logprobs=True)
    alone = list(TransformersGenerator(lm, tokenizer, "m", 1).generate(requests, how))
    shapes = []
    hook = lm.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    shared = list(TransformersGenerator(lm, tokenizer, "m", 7).generate(requests, how))
    hook.remove()
    assert shapes[:2] == [(3, 29), (7, 1)]  # three distinct prompts read, then all seven go on from there
    assert [c.token_ids for c in shared] == [c.token_ids for c in alone]
    for one_, two in zip(shared, alone, strict=True):
        assert np.allclose(one_.logprobs, two.logprobs, atol=1e-4)
    assert len({tuple(shared[i].token_ids) for i in (0, 2, 4)}) == 3  # their own seeds


@pytest.mark.parametrize("kind", ["sliding", "gpt2"])
def test_equal_prompts_on_other_caches_and_positions(kind, tokenizer):
    lm = ends_of(make_lm(kind), ENDS)
    prompts = [list(range(5, 35)), [9, 8, 7], list(range(5, 35)), [9, 8, 7]]
    requests = [Request(str(i), prompt_ids=p) for i, p in enumerate(prompts)]
    got = TransformersGenerator(lm, tokenizer, "m", 4).generate(
        requests, Sampling(temperature=0, max_tokens=15, logprobs=True)
    )
    for completion_, prompt in zip(got, prompts, strict=True):
        assert completion_.token_ids == reference(lm, prompt, 15, greedy, ENDS)[0]


def test_the_same_requests_give_the_same_bytes(tokenizer):
    requests = [Request(str(i), prompt=text, seed=i) for i, text in enumerate(CORPUS * 2)]
    how = Sampling(temperature=0.9, top_p=0.95, max_tokens=20, stop=("the",), logprobs=True)
    runs = [encoded(TransformersGenerator(make_lm(), tokenizer, "m", 4).generate(requests, how)) for _ in range(2)]
    assert runs[0] == runs[1]


def test_batches_are_pulled_one_at_a_time_and_closing_stops(tokenizer):
    pulled = []

    def source():
        for i in range(100):
            pulled.append(i)
            yield Request(str(i), prompt="the")

    backend = TransformersGenerator(make_lm(), tokenizer, "m", 4)
    with closing(backend.generate(source(), Sampling(max_tokens=2))) as completions:
        next(completions)
        assert pulled == [0, 1, 2, 3]
    assert len(list(backend.generate([Request("again", prompt="fox")], Sampling(max_tokens=2)))) == 1


# ------------------------------------------------------------------ draw


def logits_of(kind, vocab):
    rng = np.random.default_rng(vocab)
    if kind == "flat":
        return rng.normal(0, 0.01, vocab)
    if kind == "peaked":
        return rng.normal(0, 4, vocab)
    if kind == "masked":
        return np.where(rng.random(vocab) < 0.5, -np.inf, rng.normal(0, 2, vocab))
    return rng.integers(0, 3, vocab).astype(float)  # many ties


@pytest.mark.parametrize("kind", ["flat", "peaked", "ties", "masked"])
@pytest.mark.parametrize("vocab", [5, 256, 1000])
@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"),
    [
        (1.0, 1.0, 0),
        (0.7, 0.9, 0),
        (1.5, 0.37, 50),
        (1.0, 1.0, 3),
        (0.5, 1e-9, 0),
        (2.0, 0.93, 400),
        (1.0, 0.999, 2000),
    ],
)
def test_draw_gives_each_token_exactly_its_share_of_the_unit_interval(kind, vocab, temperature, top_p, top_k):
    grid = 4000
    logits = torch.tensor(logits_of(kind, vocab), dtype=torch.float32)
    uniform = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid
    ids, total = draw(logits.expand(grid, -1), uniform, temperature, top_p, top_k)
    share = np.bincount(ids.numpy(), minlength=vocab) / grid
    exact = probabilities(logits.numpy(), temperature, top_p, top_k)
    near = 1.01 / grid + 1e-5  # an interval holds its length in grid points, give or take one
    # Which of equally likely tokens a cut keeps is free; how many, and each one's share, is not.
    assert np.abs(np.sort(share) - np.sort(exact)).max() <= near
    for value in np.unique(logits.numpy()[exact > 0]):
        same = logits.numpy() == value
        assert abs(share[same].sum() - exact[same].sum()) <= near * (exact[same] > 0).sum()
    assert not share[logits.numpy() < logits.numpy()[exact > 0].min()].any()
    assert torch.allclose(total, (logits.double() / temperature).logsumexp(-1).float().expand(grid), atol=1e-4)


@pytest.mark.parametrize("edge", [0.0, 1 - 2**-53])
@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 0), (0.9, 0), (0.9, 7), (1.0, 7)])
def test_the_ends_of_the_unit_interval_draw_possible_tokens(edge, top_p, top_k):
    logits = torch.tensor(logits_of("masked", 600), dtype=torch.float32)[None]
    ids, _ = draw(logits, torch.tensor([edge], dtype=torch.float64), 1.0, top_p, top_k)
    assert probabilities(logits[0].numpy(), 1.0, top_p, top_k)[ids] > 0


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_short_cut_draws_what_sorting_everything_draws(data):
    seed, width = data.draw(st.integers(0, 10**6)), data.draw(st.sampled_from([0.01, 1.0, 6.0]))
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.normal(0, width, (8, 700)), dtype=torch.float32)
    uniform = torch.tensor(rng.random(8))
    top_p, top_k = data.draw(st.floats(0.01, 1)), data.draw(st.sampled_from([0, 1, 200, 300, 699, 700, 900]))
    short, _ = draw(logits, uniform, 0.8, top_p, top_k)
    alone = torch.cat([draw(logits[i : i + 1], uniform[i : i + 1], 0.8, top_p, top_k)[0] for i in range(8)])
    kept = generate_module.CANDIDATES
    try:
        generate_module.CANDIDATES = 700
        whole, _ = draw(logits, uniform, 0.8, top_p, top_k)
    finally:
        generate_module.CANDIDATES = kept
    assert torch.equal(short, alone)
    assert torch.equal(short, whole)


def test_drawn_frequencies_over_seeds_pass_a_chi_square_test(tokenizer):
    lm, seeds = make_lm(), 3000
    how = Sampling(temperature=0.8, top_p=0.9, max_tokens=1, logprobs=True)
    requests = (Request(str(i), prompt_ids=[5, 6, 7], seed=i) for i in range(seeds))
    drawn = [c.token_ids[0] for c in TransformersGenerator(lm, tokenizer, "m", 500).generate(requests, how)]
    with torch.no_grad():
        exact = probabilities(lm(input_ids=torch.tensor([[5, 6, 7]])).logits[0, -1].numpy(), 0.8, 0.9, 0)
    counts = np.bincount(drawn, minlength=340)
    assert not counts[exact == 0].any()
    kept = exact * seeds >= 5
    expected = np.append(exact[kept], exact[~kept].sum()) * seeds
    seen = np.append(counts[kept], counts[~kept].sum())
    free = int(kept.sum())
    assert free >= 10
    statistic = float(((seen - expected)[expected > 0] ** 2 / expected[expected > 0]).sum())
    assert statistic < free + 4 * math.sqrt(2 * free)  # four standard deviations of chi-square


# ------------------------------------------------------------------ transformers: how a text ends


class _Parrot:
    """Mixed into a model: after the prompt, row r says scripts[r] token by token, whatever was drawn.

    A NaN in a script makes that step's scores NaN."""

    scripts: list[list[float]]
    said: int

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        scores = torch.zeros_like(out.logits)
        for row in range(scores.shape[0]):
            script = self.scripts[row % len(self.scripts)]
            token = script[self.said] if self.said < len(script) else 0
            if token != token or math.isinf(token):
                scores[row, -1] = token
            else:
                scores[row, -1, int(token)] = 1000.0
        out.logits = scores
        self.said += 1
        return out


@pytest.fixture(scope="module")
def parrot(tokenizer):
    from transformers import LlamaForCausalLM

    class Parrot(_Parrot, LlamaForCausalLM):
        pass

    lm = make_lm(cls=Parrot)

    def say(scripts, how):
        lm.scripts, lm.said = scripts, 0
        # Prompts that differ, so that none is read ahead.
        requests = [Request(str(i), prompt_ids=[i + 1, 5]) for i in range(len(scripts))]
        generator = TransformersGenerator(lm, tokenizer, "m", len(scripts))
        generator.ROUND = how.max_tokens  # a row that left the batch would shift the scripts of those behind it
        return list(generator.generate(requests, how))

    return say


TEXTS = st.text(st.sampled_from("abthe \n.,?é€你😀"), max_size=30)


@given(
    texts=st.lists(TEXTS, min_size=1, max_size=3), stop=st.lists(TEXTS.filter(bool).map(lambda t: t[:4]), max_size=3)
)
@settings(max_examples=80, deadline=None)
def test_text_ends_before_the_first_stop_string_and_no_token_later(parrot, tokenizer, texts, stop):
    scripts = [[*tokenizer(text)["input_ids"], 0] for text in texts]
    got = parrot(scripts, Sampling(temperature=0, max_tokens=130, stop=tuple(stop), logprobs=True))
    for completion_, script, text in zip(got, scripts, texts, strict=True):
        assert tokenizer.decode(script, skip_special_tokens=True) == text
        count = next(
            (n for n in range(1, len(script)) if any(word in tokenizer.decode(script[:n]) for word in stop)),
            len(script),
        )
        # Of stop strings that overlap, the one that is whole first ends the text.
        said = tokenizer.decode(script[:count], skip_special_tokens=True)
        places = [at for at in map(said.find, stop) if at >= 0]
        assert completion_.text == (said[: min(places)] if places else text)
        assert completion_.finish_reason == "stop"
        assert completion_.completion_tokens == count and completion_.token_ids == script[:count]
        assert len(completion_.logprobs) == count


def test_a_stop_string_over_several_tokens_and_bytes(parrot, tokenizer):
    text = "so it goes 🦊é and on"
    ids = tokenizer(text)["input_ids"]
    stop = "🦊é"
    assert len(tokenizer(stop)["input_ids"]) > 4  # bytes of one character are tokens of their own
    (got,) = parrot([ids], Sampling(temperature=0, max_tokens=50, stop=(stop, "never")))
    assert (got.text, got.finish_reason) == ("so it goes ", "stop")
    (got,) = parrot([ids], Sampling(temperature=0, max_tokens=4))
    assert got.finish_reason == "length" and got.completion_tokens == 4
    assert got.text == tokenizer.decode(ids[:4])


def test_stop_is_found_in_the_text_as_it_is_given(tokenizer, parrot):
    """A tokenizer that tidies spaces on request must not hide ` .` from the search."""
    text = "the end . and more"
    ids = tokenizer(text)["input_ids"]
    kept = tokenizer.clean_up_tokenization_spaces
    tokenizer.clean_up_tokenization_spaces = True
    tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = True
    try:
        (got,) = parrot([ids], Sampling(temperature=0, max_tokens=50, stop=(" .",)))
    finally:
        tokenizer.clean_up_tokenization_spaces = kept
        tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = False
    assert (got.text, got.finish_reason) == ("the end", "stop")
    assert got.completion_tokens < len(ids)


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_fail_their_row_alone(parrot, temperature, bad):
    got = parrot([[5, 6, bad, 7], [5, 6, 7, 8]], Sampling(temperature=temperature, max_tokens=4, logprobs=True))
    assert got[0].finish_reason == "error" and "not numbers" in got[0].error and got[0].text == ""
    assert got[1].finish_reason == "length" and got[1].token_ids == [5, 6, 7, 8]


def test_an_empty_stop_string_is_refused():
    with pytest.raises(BadInput, match="stop"):
        Sampling(stop=("a", ""))


# ------------------------------------------------------------------ transformers: prompts


def test_requests_that_cannot_be_done_fail_and_the_others_do_not(tokenizer):
    backend = TransformersGenerator(make_lm(), tokenizer, "m", 16)
    user = {"role": "user", "content": "hi"}
    cases = {
        "ok": (Request("ok", prompt="the fox"), None),
        "empty": (Request("empty", prompt=""), "the prompt is empty"),
        "no ids": (Request("no ids", prompt_ids=[]), "the prompt is empty"),
        "high": (Request("high", prompt_ids=[1, 340]), "expected ids from 0 to 339"),
        "low": (Request("low", prompt_ids=[-1]), "expected ids from 0 to 339"),
        "long": (
            Request("long", prompt_ids=[1] * 249),
            "249 tokens and max_tokens 8 exceed the model's context of 256",
        ),
        "fits": (Request("fits", prompt_ids=[1] * 248), None),
        "tool": (Request("tool", messages=[user, {"role": "tool", "content": "x"}]), "no tools here"),
        "null": (Request("null", messages=[{"role": "user", "content": None}]), "chat template refuses"),
        "none": (Request("none", messages=[]), "chat template refuses"),
        "surrogate": (Request("surrogate", prompt="a\ud800"), "prompt"),
        "chat": (Request("chat", messages=[user]), None),
    }
    got = by_key(backend.generate([request for request, _ in cases.values()], Sampling(temperature=0, max_tokens=8)))
    assert got.keys() == cases.keys()
    for key, (_, why) in cases.items():
        if why is None:
            assert got[key].finish_reason != "error" and got[key].completion_tokens > 0, got[key]
        else:
            assert got[key].finish_reason == "error" and why in got[key].error and got[key].text == "", got[key]
    wanted = tokenizer("user:hi\nassistant:")["input_ids"]
    assert got["chat"].prompt_tokens == len(wanted) == backend.count_tokens(cases["chat"][0])
    assert backend.count_tokens(cases["tool"][0]) == 0
    same = list(backend.generate([Request("ids", prompt_ids=wanted)], Sampling(temperature=0, max_tokens=8)))
    assert same[0].text == got["chat"].text


def test_a_model_without_chat_template_says_so_for_all():
    backend = TransformersGenerator(make_lm(), make_tokenizer(template=None), "some/base", 2)
    with pytest.raises(BadInput, match="some/base: has no chat template"):
        list(backend.generate([Request("a", messages=[{"role": "user", "content": "hi"}])], Sampling()))
    (got,) = backend.generate([Request("a", prompt="hi")], Sampling(max_tokens=1))
    assert got.error is None


@pytest.mark.parametrize("given_", [{}, {"prompt": "a", "prompt_ids": [1]}, {"prompt": "a", "messages": []}])
def test_a_request_has_exactly_one_prompt(given_):
    with pytest.raises(ValueError, match="exactly one of"):
        Request("k", **given_)


def test_memory_that_runs_out_is_missing(tokenizer, monkeypatch):
    lm = make_lm()

    def full(*args, **kwargs):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(lm, "generate", full)
    with pytest.raises(Missing, match=r"out of memory with a batch of 1; use a smaller --batch-size"):
        list(TransformersGenerator(lm, tokenizer, "m", 4).generate([Request("a", prompt="hi")], Sampling(max_tokens=4)))


# ------------------------------------------------------------------ servers


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def ask(i=0, text="hi"):
    return Request(f"k{i}", messages=[{"role": "user", "content": text}], seed=i)


class Client:
    """A ServerGenerator whose waiting between attempts is written down instead of done."""

    def __init__(self, *urls, model="m", **more):
        self.waits = []

        async def sleep(seconds):
            self.waits.append(seconds)
            await asyncio.sleep(0)

        self.backend = ServerGenerator(urls, model, **{"timeout": 10.0, "max_retries": 3, "sleep": sleep, **more})

    def get(self, *requests, **how):
        return list(self.backend.generate(requests or [ask()], Sampling(**how)))


FAULTS = {
    "429": Reply(429, b'{"error": {"message": "slow down"}}'),
    "500": Reply(500, b"oops"),
    "503 html": Reply(503, b"<html>\n<p>busy</p></html>", {"Content-Type": "text/html"}),
    "408": Reply(408),
    "torn body": Reply(200, b'{"choices": [{"fin', claimed=4000),
    "torn json": Reply(200, b'{"choices": [{"finish_reason": "stop"'),
    "no json": Reply(200, b"<html>welcome</html>"),
    "not utf-8": Reply(200, b'{"choices": "\xff\xfe"}'),
    "deep json": Reply(200, b"[" * 200_000),
    "no choices": as_json({"choices": []}),
    "a list": as_json([1]),
    "null": as_json(None),
    "text of another kind": chat([{"type": "text", "text": "hello"}]),
    "dropped": Reply(drop=True),
    "bad gzip": Reply(200, b"this is no gzip", {"Content-Encoding": "gzip"}),
    "stall": chat("late", delay=2.5),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_may_pass_is_tried_again_exactly_once_each(fault, caplog):
    caplog.set_level(logging.INFO, "tenfold_shared")
    with ScriptedServer(FAULTS[fault], FAULTS[fault], chat("fine")) as server:
        client = Client(server.url, timeout=1.0 if fault == "stall" else 10.0)
        (got,) = client.get()
    assert (got.text, got.finish_reason, got.prompt_tokens, got.completion_tokens) == ("fine", "stop", 7, 3)
    assert len(server.requests) == 3 and len(client.waits) == 2
    assert server.requests[0].body == server.requests[2].body
    assert len([r for r in caplog.records if r.name.startswith("tenfold")]) == 2


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_is_an_error_of_its_request_alone(fault):
    def answer(body):
        return FAULTS[fault] if body["messages"][0]["content"] == "bad" else chat("fine")

    with ScriptedServer(answer) as server:
        client = Client(server.url, max_retries=2, timeout=1.0 if fault == "stall" else 10.0)
        got = by_key(client.get(ask(0), ask(1, "bad"), ask(2)))
    assert got["k0"].text == got["k2"].text == "fine"
    assert got["k1"].finish_reason == "error" and got["k1"].error.endswith("(after 3 attempts)"), got["k1"]
    assert "\n" not in got["k1"].error and len(got["k1"].error) < 400
    assert len(server.requests) == 5 and len(client.waits) == 2


def test_backoff_doubles_within_its_jitter_up_to_a_ceiling_and_repeats_with_the_seed():
    def waits(**more):
        with ScriptedServer(Reply(500)) as server:
            client = Client(server.url, max_retries=9, **more)
            client.get()
            assert len(server.requests) == 10
        return client.waits

    first = waits(seed=1)
    for attempt, wait in enumerate(first):
        full = min(0.5 * 2**attempt, 30.0)
        assert full / 2 <= wait <= full
    assert len(first) == 9 and waits(seed=1) == first and waits(seed=2) != first


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("7", 7, 7),
        ("100000", 120, 120),
        ("inf", 120, 120),
        *((header, 0.25, 0.5) for header in ("0.1", "-5", "nan", "soon", "Wed, 21 Oct 2015 07:28:00 GMT")),
    ],
)
def test_retry_after_is_heeded_and_bounded(header, least, most):
    with ScriptedServer(Reply(429, headers={"Retry-After": header}), chat()) as server:
        client = Client(server.url)
        assert client.get()[0].text == "hello"
    assert len(client.waits) == 1 and least <= client.waits[0] <= most


@pytest.mark.parametrize("status", [400, 413, 422, 301])
def test_a_request_the_server_refuses_is_not_repeated(status):
    refusal = Reply(status, b'{"error": {"message": "context is\\n too short", "type": "x"}}')
    with ScriptedServer(refusal, chat("next")) as server:
        client = Client(server.url, concurrency=1)
        first, second = client.get(ask(0), ask(1))
    assert first.error == f"HTTP {status}: context is too short" and first.finish_reason == "error"
    assert second.text == "next" and len(server.requests) == 2 and client.waits == []


@pytest.mark.parametrize(
    ("status", "key", "text"),
    [
        (401, None, "asks for a key; set MY_KEY"),
        (401, "sk-planted", "refuses the key in MY_KEY"),
        (403, "sk-planted", "refuses the key in MY_KEY"),
        (404, None, "usually ending in /v1"),
    ],
)
def test_what_no_request_could_do_ends_the_run(status, key, text):
    with ScriptedServer(Reply(status, b'{"detail": "no"}')) as server:
        client = Client(server.url, key=key, key_env="MY_KEY")
        with pytest.raises(Missing, match=text) as caught:
            client.get(*map(ask, range(20)))
        assert "sk-planted" not in str(caught.value) and client.waits == []
    assert not [t for t in threading.enumerate() if t.name == "tenfold-http"]


def test_a_server_that_is_not_there_is_missing_after_its_retries():
    client = Client(refusing_url(), max_retries=2)
    with pytest.raises(Missing, match="cannot be reached; is the server running"):
        client.get()
    assert len(client.waits) == 2


def test_a_server_that_goes_away_fails_requests_not_the_run():
    with ScriptedServer(chat("one", headers={"Connection": "close"})) as server:
        client = Client(server.url, concurrency=1, max_retries=1)
        run = client.backend.generate([ask(0), ask(1)], Sampling())
        first = next(run)
    (second,) = run
    assert first.text == "one" and "(after 2 attempts)" in second.error


def test_an_endpoint_that_is_down_is_passed_over():
    down = refusing_url()
    with ScriptedServer(chat("up")) as server:
        client = Client(down, server.url, concurrency=4)
        got = client.get(*map(ask, range(40)))
    assert [c.text for c in got] == ["up"] * 40 and len(server.requests) == 40
    assert len(client.waits) <= 4  # only those sent before the first refusal


def test_the_endpoint_with_fewest_requests_is_asked_next():
    release = threading.Event()
    with ScriptedServer(chat("slow", hold=release)) as slow, ScriptedServer(chat("fast")) as fast:
        backend = Client(slow.url, fast.url, concurrency=2).backend
        run = backend.generate(map(ask, range(8)), Sampling())
        texts = [next(run).text for _ in range(7)]
        release.set()
        texts += [c.text for c in run]
    assert texts == ["fast"] * 7 + ["slow"]
    assert (len(slow.requests), len(fast.requests)) == (1, 7)


def test_concurrency_is_reached_and_not_passed_and_the_source_is_pulled_lazily():
    pulled = 0

    def source():
        nonlocal pulled
        for i in range(24):
            pulled += 1
            yield ask(i)

    with ScriptedServer(chat(delay=0.1)) as server:
        done = 0
        for _ in Client(server.url, concurrency=6).backend.generate(source(), Sampling()):
            assert pulled <= done + 6
            done += 1
    assert server.most_at_once == 6 and done == 24


def test_finished_text_is_not_held_back_by_a_slow_source():
    got = []

    def source():
        yield ask(0)
        for i in range(1, 4):
            time.sleep(0.3)
            if i == 3:
                assert got, "nothing came out while the source was slow"
            yield ask(i)

    with ScriptedServer(chat()) as server:
        for completion_ in Client(server.url, concurrency=8).backend.generate(source(), Sampling()):
            got.append(completion_.key)
    assert sorted(got) == ["k0", "k1", "k2", "k3"]


def test_closing_cancels_what_is_under_way_and_the_next_run_works():
    release = threading.Event()

    def answer(body):
        return chat("quick") if body["seed"] == 0 else chat("slow", hold=release)

    with ScriptedServer(answer) as server:
        backend = Client(server.url, concurrency=4, timeout=60).backend
        started = time.monotonic()
        with closing(backend.generate(map(ask, range(10)), Sampling())) as run:
            assert next(run).text == "quick"
            while len(server.requests) < 4:
                time.sleep(0.01)
        assert time.monotonic() - started < 5
        assert not [t for t in threading.enumerate() if t.name == "tenfold-http"]
        release.set()
        assert [c.text for c in backend.generate([ask(0)], Sampling())] == ["quick"]
        assert len(server.requests) == 5
        # Load was given back too: a cancelled request must not count as under way for ever.
        assert sorted(c.text for c in backend.generate([ask(0), ask(1)], Sampling())) == ["quick", "slow"]


def test_an_error_of_the_source_ends_the_run_cleanly():
    def source():
        yield ask(0)
        raise BadInput("in.jsonl:2: broken")

    with ScriptedServer(chat(delay=0.2)) as server, pytest.raises(BadInput, match="broken"):
        list(Client(server.url).backend.generate(source(), Sampling()))
    assert not [t for t in threading.enumerate() if t.name == "tenfold-http"]


def test_what_is_sent_and_read():
    reply = chat("4", message={"reasoning_content": "two and two"})
    with ScriptedServer(reply, chat("cut", "length"), chat(None, "tool_calls")) as server:
        client = Client(server.url + "/", concurrency=1)
        how = {"temperature": 0.5, "top_p": 0.9, "top_k": 3, "max_tokens": 9, "stop": ("a", "b")}
        first, second, third = client.get(ask(4), ask(5), ask(6), **how)
    assert (first.text, first.reasoning, first.model) == ("4", "two and two", "m")
    assert (second.text, second.finish_reason, second.reasoning) == ("cut", "length", None)
    assert (third.text, third.finish_reason) == ("", "stop")
    sent = server.requests[0]
    assert sent.path == "/v1/chat/completions" and "Authorization" not in sent.headers
    assert sent.body == {
        "model": "m",
        "n": 1,
        "seed": 4,
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 9,
        "top_k": 3,
        "stop": ["a", "b"],
        "messages": [{"role": "user", "content": "hi"}],
    }


def test_raw_prompts_go_to_the_older_interface():
    scores = {"token_logprobs": [-0.5, -1], "tokens": ["a", "b"]}
    with ScriptedServer(completion("ab", logprobs=scores)) as server:
        client = Client(server.url, concurrency=1)
        got = client.get(Request("a", prompt="x"), Request("b", prompt_ids=[1, 2]), logprobs=True)
    assert [c.text for c in got] == ["ab", "ab"] and got[0].logprobs == [-0.5, -1.0]
    assert [r.path for r in server.requests] == ["/v1/completions"] * 2
    assert [r.body["prompt"] for r in server.requests] == ["x", [1, 2]]
    assert server.requests[0].body["logprobs"] == 1 and "top_k" not in server.requests[0].body


def test_logprobs_of_a_chat():
    choice = {
        "finish_reason": "stop",
        "message": {"content": "ab"},
        "logprobs": {"content": [{"token": "a", "logprob": -0.25}, {"token": "b", "logprob": -2}]},
    }
    with ScriptedServer(as_json({"choices": [choice]})) as server:
        (got,) = Client(server.url).get(logprobs=True)
    assert got.logprobs == [-0.25, -2.0] and (got.prompt_tokens, got.completion_tokens) == (0, 0)
    assert server.requests[0].body["logprobs"] is True


@pytest.mark.parametrize("finish", ["content_filter", None, "abort", {"a": 1}])
def test_an_ending_that_is_no_answer_is_an_error_with_what_came(finish):
    with ScriptedServer(chat("half", finish)) as server:
        client = Client(server.url, max_retries=1)
        (got,) = client.get()
    assert got.finish_reason == "error"
    if not isinstance(finish, dict):
        assert got.text == "half" and f"finish_reason `{finish}`" in got.error
        assert got.completion_tokens == 3 and len(server.requests) == 1


def test_half_a_surrogate_pair_can_be_written():
    """Servers that cut a text between the halves of an emoji send one; no UTF-8 file can hold it."""
    lone = as_json({"error": {"message": "bad \ud83d"}}, status=400)
    with ScriptedServer(chat("a\ud83d", message={"reasoning": "b\ude00"}), chat("\ud83d\ude00"), lone) as server:
        got = Client(server.url, concurrency=1).get(ask(0), ask(1), ask(2))
    assert (got[0].text, got[0].reasoning, got[1].text) == ("a\ufffd", "b\ufffd", "😀")
    assert encoded(got)


@pytest.mark.parametrize("seed", [2**63, 2**64 - 1, -1])
def test_seeds_are_sent_as_what_servers_take(seed):
    with ScriptedServer() as server:
        Client(server.url).get(Request("a", prompt_ids=[1], seed=seed))
    assert 0 <= server.requests[0].body["seed"] < 2**63


def test_the_key_is_sent_and_shown_nowhere(tmp_path, caplog):
    caplog.set_level(logging.DEBUG, "tenfold_shared")
    key = "sk-planted-0123456789"
    padding = "x" * (200 - len(key) // 2 - len('{"oops": "'))  # so that a cut at 200 falls within the key
    script = [
        as_json({"error": {"message": f"invalid {key} in header"}}, status=500),
        Reply(200, b'{"oops": "' + padding.encode() + key.encode()),
        Reply(502, b"Authorization: Bearer " + key.encode()),
        Reply(500, b"y" * (1000 - 8) + key.encode()),
        as_json({"error": f"no {key}"}, status=400),
        chat("x", f"odd {key}"),
    ]
    with ScriptedServer(*script) as server:
        client = Client(server.url, key=key, concurrency=1, max_retries=5)
        recorder = Recorder(client.backend, str(tmp_path / "r"))
        got = list(recorder.generate([ask(0), ask(1)], Sampling()))
        recorder.close()
    assert {r.headers["Authorization"] for r in server.requests} == {f"Bearer {key}"}
    assert len(server.requests) == 6 and [c.finish_reason for c in got] == ["error", "error"]
    shown = encoded(got).decode() + caplog.text + (tmp_path / "r").read_text()
    assert "[key]" in shown
    for part in (key, key[:8], key[-8:]):
        assert part not in shown


@pytest.mark.parametrize("key", ["sk-planted-key\n", " sk-planted-key\r\n"])
def test_blanks_around_a_key_are_not_part_of_it(key):
    with ScriptedServer() as server:
        assert Client(server.url, key=key).get()[0].text == "hello"
    assert server.requests[0].headers["Authorization"] == "Bearer sk-planted-key"


@pytest.mark.parametrize("key", ["sk-pla\nnted", "sk-plänted", "sk-pla\0nted"])
def test_a_key_no_header_can_hold_is_refused_unseen(key):
    with pytest.raises(BadInput, match="MY_KEY") as caught:
        Client("http://127.0.0.1:9/v1", key=key, key_env="MY_KEY")
    assert "sk-pl" not in str(caught.value)


def test_without_a_name_the_server_is_asked_which_model():
    with ScriptedServer(models("org/the-one"), chat()) as server:
        client = Client(server.url, model=None)
        assert client.get()[0].model == "org/the-one"
    assert (server.requests[0].method, server.requests[0].path) == ("GET", "/v1/models")
    assert server.requests[1].body["model"] == "org/the-one"


@pytest.mark.parametrize(
    ("replies", "error", "text"),
    [
        ([models("a", "b")], BadInput, "add #NAME to say which model; it serves: a, b"),
        ([models()], BadInput, "it serves: none"),
        ([models("a"), models("b")], BadInput, "serve different models: a, b"),
        ([Reply(404)], Missing, "usually ending in /v1"),
        ([Reply(401)], Missing, "asks for a key"),
        ([as_json({"data": None})], Missing, "not the JSON expected"),
        ([as_json({"data": [{"id": 3}]})], Missing, "not the JSON expected"),
        ([Reply(400, b"no")], Missing, "HTTP 400: no"),
    ],
)
def test_servers_that_do_not_name_one_model(replies, error, text):
    servers = [ScriptedServer(reply) for reply in replies]
    for server in servers:
        server.__enter__()
    try:
        with pytest.raises(error, match=text):
            Client(*(server.url for server in servers), model=None)
    finally:
        for server in servers:
            server.__exit__()


# ------------------------------------------------------------------ record and replay


class Echo:
    """A backend that answers in reverse order and fails where the prompt says so."""

    model, batch_size, context = "echo", 4, None

    def __init__(self):
        self.closed = False

    def count_tokens(self, request):
        return 42

    def close(self):
        self.closed = True

    def generate(self, requests, sampling):
        for request in reversed(list(requests)):
            said = f"{request.prompt or request.messages or request.prompt_ids}/{request.seed}/{sampling.temperature}"
            if request.prompt == "fail":
                yield Completion(request.key, "", "error", 0, 0, "echo", error="no")
            else:
                yield Completion(request.key, said, "stop", 1, 2, "echo", "why ünï", None, [1], [-0.5])


PROMPTS = [
    Request("a", prompt="what is one plus two?", seed=1),
    Request("b", messages=[{"role": "user", "content": "name a colour 你"}], seed=2),
    Request("c", prompt_ids=[1, 2, 3], seed=3),
]


def record(path, requests=PROMPTS):
    recorder = Recorder(Echo(), str(path))
    got = list(recorder.generate(requests, Sampling()))
    recorder.close()
    return got


def test_recorded_completions_come_back_whole_in_the_order_asked(tmp_path):
    path = tmp_path / "r"
    made = by_key(record(path))
    replay = ReplayGenerator(str(path))
    assert list(replay.generate(PROMPTS, Sampling())) == [made["a"], made["b"], made["c"]]
    # Another key for the same request; whole numbers for the same temperature; a generator as source.
    renamed = (msgspec.structs.replace(r, key=r.key * 2) for r in PROMPTS[::-1])
    again = list(replay.generate(renamed, Sampling(temperature=1, top_p=1)))
    assert [(c.key, c.text) for c in again] == [("cc", made["c"].text), ("bb", made["b"].text), ("aa", made["a"].text)]
    replay.close()


def test_a_recorder_is_the_backend_it_wraps(tmp_path):
    inner = Echo()
    recorder = Recorder(inner, str(tmp_path / "r"))
    assert (recorder.model, recorder.batch_size, recorder.count_tokens(PROMPTS[0])) == ("echo", 4, 42)
    with closing(recorder.generate(PROMPTS, Sampling())) as run:
        assert next(run).key == "c"
    # What was handed out is on disk at once, and only that.
    assert [json.loads(line)["completion"]["key"] for line in open(tmp_path / "r")] == ["c"]
    recorder.close()
    assert inner.closed


def test_failures_are_not_recorded(tmp_path):
    requests = [Request("x", prompt="fail"), PROMPTS[0]]
    assert [c.finish_reason for c in record(tmp_path / "r", requests)] == ["stop", "error"]
    assert len((tmp_path / "r").read_bytes().splitlines()) == 1
    with pytest.raises(Missing, match="x: not recorded"):
        list(ReplayGenerator(str(tmp_path / "r")).generate(requests[:1], Sampling()))


def test_the_last_recording_of_a_request_holds(tmp_path):
    path = tmp_path / "r"
    record(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines) + b"".join(line.replace(b"why", b"new") for line in lines))
    assert {c.reasoning for c in ReplayGenerator(str(path)).generate(PROMPTS, Sampling())} == {"new ünï"}


@given(cut=st.integers(0, 1200))
@settings(max_examples=40, deadline=None)
def test_a_recording_cut_anywhere_keeps_its_whole_lines_and_goes_on(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("r") / "r"
    record(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    survived = whole[:cut].count(b"\n")
    order = PROMPTS[::-1]
    replay = ReplayGenerator(str(path))
    assert len(list(replay.generate(order[:survived], Sampling()))) == survived
    replay.close()
    record(path, order[survived:])
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_a_second_recorder_is_refused_and_a_dead_one_is_not(tmp_path):
    path = str(tmp_path / "r")
    script = (
        "import sys, time; from tenfold_shared.generate import Recorder\n"
        "class Inner: model, batch_size, context = 'm', None, None\n"
        "Recorder(Inner(), sys.argv[1]); r = Recorder(Inner(), sys.argv[1]); print('held', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE)
    try:
        assert owner.stdout.readline() == b"held\n"
        with pytest.raises(Busy, match="another run is recording"):
            Recorder(Echo(), path)
    finally:
        owner.kill()
        owner.wait()
    Recorder(Echo(), path).close()


def test_where_nothing_can_be_recorded_or_read(tmp_path):
    for path in (tmp_path, tmp_path / "no" / "r", "/dev/stdin", "/dev/full"):
        with pytest.raises(BadInput, match="--record"):
            Recorder(Echo(), str(path))
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(BadInput, match="cannot be read"):
            ReplayGenerator(str(path))
    (tmp_path / "other").write_text('{"id": "a", "prompt": "p"}\n')
    with pytest.raises(BadInput, match=r"other:1: expected a completion written by --record"):
        ReplayGenerator(str(tmp_path / "other"))
    (tmp_path / "binary").write_bytes(b"\xff\x00\n")
    with pytest.raises(BadInput, match="binary:1: "):
        ReplayGenerator(str(tmp_path / "binary"))


@pytest.mark.parametrize(
    ("request_", "how", "text"),
    [
        (
            Request("n", prompt="what is one plus two?", seed=9),
            {},
            "the same prompt is recorded as a with seed 1 (asked 9)",
        ),
        (
            PROMPTS[0],
            {"temperature": 0.5, "stop": ("x",)},
            "recorded as a with temperature 1.0 (asked 0.5), stop [] (asked ['x'])",
        ),
        (Request("n", prompt="what is one plus four?"), {}, "the nearest prompt is a: what is one plus two?"),
        (
            Request("n", messages=[{"role": "user", "content": "name a color"}]),
            {},
            "the nearest prompt is b: user: name",
        ),
        (Request("n", prompt="user: name a colour 你", seed=2), {}, "recorded as b with its prompt in other fields"),
    ],
)
def test_what_was_not_recorded_names_the_nearest_and_what_differs(tmp_path, request_, how, text):
    record(tmp_path / "r")
    replay = ReplayGenerator(str(tmp_path / "r"))
    with pytest.raises(Missing) as caught:
        list(replay.generate([request_], Sampling(**how)))
    assert f"{request_.key}: not recorded; " in str(caught.value) and text in str(caught.value)
    # It can go on after a miss.
    assert len(list(replay.generate(PROMPTS, Sampling()))) == 3


def test_a_recording_that_cannot_be_written_ends_the_run_in_words(tmp_path):
    recorder = Recorder(Echo(), str(tmp_path / "r"))
    full = os.open("/dev/full", os.O_WRONLY)  # takes no byte, as a full disk
    os.dup2(full, recorder._file.fileno())
    os.close(full)
    with pytest.raises(Missing, match=r"--record .*: cannot be written: No space left"):
        list(recorder.generate(PROMPTS, Sampling()))
    recorder.close()


def test_an_empty_recording_says_so(tmp_path):
    (tmp_path / "r").write_bytes(b"")
    with pytest.raises(Missing, match="the recording is empty"):
        list(ReplayGenerator(str(tmp_path / "r")).generate(PROMPTS, Sampling()))


# ---------------------------------------------------------------- sources that hang on completions


def chained(count, depth, asked):
    """A source of `count` chains of `depth` requests, each of which exists once the one before is complete; and where
    completions are handed in. None means that nothing is ready."""
    ready, flying = [(chain, 0) for chain in range(count)], set()

    def source():
        while ready or flying:
            if not ready:
                yield None
                continue
            chain, step = ready.pop(0)
            flying.add(chain)
            asked.append((chain, step))
            yield Request(f"{chain}/{step}", messages=[{"role": "user", "content": f"chain {chain} step {step}"}])

    def done(completion):
        chain, step = map(int, completion.key.split("/"))
        flying.discard(chain)
        if step + 1 < depth:
            ready.append((chain, step + 1))

    return source(), done


@pytest.mark.parametrize("backend", ["server", "transformers", "recorder"])
def test_a_source_may_wait_for_completions(backend, tokenizer, tmp_path):
    asked, seen = [], []
    with ScriptedServer(chat("hello")) as server:
        model = ServerGenerator([server.url], "m", concurrency=2)
        if backend == "transformers":
            model = TransformersGenerator(make_lm(), tokenizer, "tiny", 4)
        if backend == "recorder":
            model = Recorder(model, str(tmp_path / "record"))
        source, done = chained(3, 4, asked)
        for completion in model.generate(source, Sampling(max_tokens=3)):
            seen.append(completion.key)
            done(completion)
        model.close()
    assert sorted(seen) == [f"{chain}/{step}" for chain in range(3) for step in range(4)]
    assert len(asked) == 12
    if backend == "recorder":
        replay = ReplayGenerator(str(tmp_path / "record"))
        source, done = chained(3, 4, [])
        again = []
        for completion in replay.generate(source, Sampling(max_tokens=3)):
            again.append(completion.key)
            done(completion)
        assert sorted(again) == sorted(seen)
