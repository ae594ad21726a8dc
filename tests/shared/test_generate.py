"""The transformers backend against references that share no code with it: a step-by-step loop without cache or
batch, and exact probabilities; and what every backend does with a source that waits."""

import math
from contextlib import closing

import numpy as np
import pytest
import torch
from generate_requests import by_key, encoded
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_server import ScriptedServer, chat
from tiny_models import CORPUS, make_lm, make_tokenizer

from tenfold_shared import BadInput, Missing
from tenfold_shared.generate import Request, Sampling, sampler
from tenfold_shared.generate.recording import Recorder, ReplayGenerator
from tenfold_shared.generate.sampler import draw
from tenfold_shared.generate.server import ServerGenerator
from tenfold_shared.generate.transformers import TransformersGenerator

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
    kept = sampler.CANDIDATES
    try:
        sampler.CANDIDATES = 700
        whole, _ = draw(logits, uniform, 0.8, top_p, top_k)
    finally:
        sampler.CANDIDATES = kept
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
