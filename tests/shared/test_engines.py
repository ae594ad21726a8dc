"""vLLM's offline engine (CPU build) behind `vllm:` URIs, against the transformers backend in float32.

Run by `make test-engines`. vLLM is imported by the engine alone, so that other environments can
collect this file; where the marker selects it and vLLM is missing, it fails.
"""

import itertools
import json
import multiprocessing
import os
import signal
from contextlib import closing

import pytest

from tenfold_shared import BadInput, Missing
from tenfold_shared.generate import Request, Sampling
from tenfold_shared.models import load_causal_lm, open_generator

pytestmark = pytest.mark.engines

CONTEXT = 1024
TIE = 1e-3  # logits closer than this may swap places between two float32 implementations
QUESTIONS = [
    "What is 2+2?",
    "Say hi.",
    "Write a long story about a fox that lives in a big old forest near the sea. " * 3,
    "Tom buys 4 bags of 6 plums and eats 5 plums. How many plums are left?",
    "List the days of the week.",
    "Name three rivers in Europe and say where each of them begins and ends.",
    "Why is the sky blue? Explain it to a child, in one paragraph, without using the word scatter.",
    "x",
]


def chat(question):
    return [{"role": "user", "content": question}]


def asked(questions=QUESTIONS):
    return [Request(f"k{i}", messages=chat(question), seed=i) for i, question in enumerate(questions)]


def by_key(completions):
    return {completion.key: completion for completion in completions}


@pytest.fixture(scope="module", autouse=True)
def frugal():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("OMP_WAIT_POLICY", "passive")  # threads that spin stand in each other's way on a busy machine
        yield


@pytest.fixture(scope="module")
def engine(frugal):
    with closing(open_generator("vllm:smollm2", dtype="float32", engine_args={"max_model_len": CONTEXT})) as generator:
        yield generator


@pytest.fixture(scope="module")
def weights():
    import torch

    torch.set_num_threads(1)
    return load_causal_lm("smollm2", "float32", "cpu")


@pytest.fixture(scope="module")
def peer(weights):
    """The same model on the transformers backend: all prompts in one ragged batch."""
    with closing(open_generator("smollm2", dtype="float32", device="cpu", batch_size=len(QUESTIONS))) as generator:
        yield generator


def scores(lm, prompt, tokens):
    """(len(tokens), vocab): the logits each token was drawn from, in one pass without cache."""
    import torch

    with torch.inference_mode():
        return lm(input_ids=torch.tensor([prompt + tokens]), use_cache=False).logits[0, len(prompt) - 1 : -1]


def assert_same_tokens(lm, prompt, ours, theirs):
    """Equal, or parting where the two likeliest tokens are as good as tied. Returns whether equal."""
    if ours == theirs:
        return True
    at = next(i for i, pair in enumerate(itertools.zip_longest(ours, theirs)) if pair[0] != pair[1])
    top = scores(lm, prompt, [*ours[:at], 0])[-1].topk(2)
    assert set(top.indices.tolist()) == {ours[at], theirs[at]}
    assert float(top.values[0] - top.values[1]) < TIE, f"parted at token {at}"
    return False


def test_greedy_gives_the_tokens_of_transformers(engine, peer, weights):
    lm, tokenizer = weights
    how = Sampling(temperature=0, max_tokens=48, logprobs=True)
    ours, theirs = by_key(engine.generate(asked(), how)), by_key(peer.generate(asked(), how))
    assert ours.keys() == theirs.keys() == {f"k{i}" for i in range(len(QUESTIONS))}
    equal = 0
    for i, question in enumerate(QUESTIONS):
        a, b = ours[f"k{i}"], theirs[f"k{i}"]
        prompt = tokenizer.apply_chat_template(chat(question), add_generation_prompt=True, return_dict=False)
        assert a.prompt_tokens == b.prompt_tokens == len(prompt) == engine.count_tokens(asked()[i])
        assert a.completion_tokens == len(a.token_ids) == len(a.logprobs)
        if assert_same_tokens(lm, prompt, a.token_ids, b.token_ids):
            equal += 1
            assert (a.text, a.finish_reason, a.completion_tokens) == (b.text, b.finish_reason, b.completion_tokens)
            assert a.logprobs == pytest.approx(b.logprobs, abs=2e-3)
    assert equal >= len(QUESTIONS) - 1
    assert {completion.finish_reason for completion in ours.values()} == {"stop", "length"}


def test_logprobs_are_the_models_own_and_top_k_holds(engine, weights):
    lm, tokenizer = weights
    how = Sampling(temperature=1.5, top_p=0.9, top_k=20, max_tokens=32, logprobs=True)
    for completion in engine.generate(asked(), how):
        question = QUESTIONS[int(completion.key[1:])]
        prompt = tokenizer.apply_chat_template(chat(question), add_generation_prompt=True, return_dict=False)
        logits = scores(lm, prompt, completion.token_ids)
        drawn = logits.log_softmax(-1)[range(len(completion.token_ids)), completion.token_ids]
        assert completion.logprobs == pytest.approx(drawn.tolist(), abs=2e-3)
        kth = logits.topk(20).values[:, -1]
        assert (logits[range(len(completion.token_ids)), completion.token_ids] >= kth - TIE).all()


def test_each_request_keeps_its_seed_in_any_order(engine):
    requests = [Request(f"s{seed}", messages=chat("Tell me a story."), seed=seed) for seed in (0, 1, 2, 3, 2**63 - 1)]
    how = Sampling(temperature=1.0, max_tokens=24)
    first, second = (by_key(engine.generate(some, how)) for some in (requests, requests[::-1]))
    texts = {key: completion.text for key, completion in first.items()}
    assert texts == {key: completion.text for key, completion in second.items()}
    assert len(set(texts.values())) == len(requests)


def test_more_prompt_tokens_than_one_step_takes_keep_their_seeds(engine):
    """Prompts split between steps end vLLM's CPU engine when they have seeds; here none may be split."""
    requests = [Request(f"l{i}", prompt=f"{i} " + "word " * 600, seed=i) for i in range(9)]
    done = by_key(engine.generate(requests, Sampling(temperature=1.0, max_tokens=4)))
    assert sum(completion.prompt_tokens for completion in done.values()) > 4096
    assert all(completion.finish_reason != "error" for completion in done.values())


def test_stop_strings_cut_the_text(engine):
    request, free = asked()[4], Sampling(temperature=0, max_tokens=40)
    whole = next(engine.generate([request], free))
    middle = len(whole.text) // 2
    word = whole.text[middle : middle + 5]
    [cut] = engine.generate([request], Sampling(temperature=0, max_tokens=40, stop=("never said", word)))
    assert cut.text == whole.text[: whole.text.index(word)]
    assert cut.finish_reason == "stop" and 0 < cut.completion_tokens < whole.completion_tokens


def test_prompts_it_cannot_take_fail_alone(engine):
    words, how = "word " * (CONTEXT + 10), Sampling(temperature=0, max_tokens=8)
    bad = [
        Request("long", messages=chat(words)),
        Request("ids", prompt_ids=[5, 10**6]),
        Request("empty", prompt_ids=[]),
    ]
    good = [Request("text", prompt="The capital of France is"), Request("tokens", prompt_ids=[504, 3575])]
    done = by_key(engine.generate([*bad, *good], how))
    assert {key for key, completion in done.items() if completion.finish_reason == "error"} == {"long", "ids", "empty"}
    assert f"context of {CONTEXT}" in done["long"].error
    assert all(done[key].completion_tokens for key in ("text", "tokens"))


def test_closing_early_cancels_and_the_engine_goes_on(engine):
    request = asked()[0]
    [before] = engine.generate([request], Sampling(temperature=0, max_tokens=16))
    pulled = 0

    def endless():
        nonlocal pulled
        for pulled in itertools.count(1):
            yield Request(f"e{pulled}", messages=chat("Write a long story."), seed=pulled)

    running = engine.generate(endless(), Sampling(temperature=1.0, max_tokens=24))
    for _ in range(3):
        next(running)
    running.close()
    assert 3 <= pulled <= 2 * 256
    assert engine._engine.get_num_unfinished_requests() == 0
    [after] = engine.generate([request], Sampling(temperature=0, max_tokens=16))
    assert after == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"tensor_paralel_size": 2}, "tensor_paralel_size"),
        ({"max_model_len": "abc"}, "max_model_len: Input should be a valid integer"),
        ({"max_model_len": 100_000}, "greater than the derived max_model_len"),
    ],
)
def test_engine_arguments_it_refuses_are_bad_input(arguments, said):
    with pytest.raises(BadInput, match=said):
        open_generator("vllm:smollm2", engine_args=arguments)


# ---------------------------------------------------------------- adapters


def save_adapter(folder, weights_of, **more):
    """A random LoRA over smollm2, saved by peft."""
    import torch
    from peft import LoraConfig, get_peft_model

    lm, tokenizer = load_causal_lm(weights_of, "float32", "cpu")
    config = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **more)
    tuned = get_peft_model(lm, config)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, values in tuned.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                values.normal_(0, 0.05)
    tuned.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": weights_of}))
    return tokenizer


def test_adapter_folder_gives_the_tokens_of_peft_and_a_dead_engine_is_named(tmp_path, peer):
    """One rank above the adapter's own, and a chat template of its own."""
    tokenizer = save_adapter(tmp_path, "smollm2", rank_pattern={"v_proj": 12})
    tokenizer.chat_template = "{% for m in messages %}Q: {{ m.content }}\nA:{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    how, requests = Sampling(temperature=0, max_tokens=24, logprobs=True), asked(QUESTIONS[:4])
    with closing(open_generator(str(tmp_path), dtype="float32", device="cpu", batch_size=4)) as generator:
        theirs = by_key(generator.generate(requests, how))
    plain = by_key(peer.generate(requests, how))
    lm, _ = load_causal_lm(str(tmp_path), "float32", "cpu")
    before = set(multiprocessing.active_children())
    with closing(
        open_generator(f"vllm:{tmp_path}", dtype="float32", engine_args={"max_model_len": CONTEXT})
    ) as generator:
        ours = by_key(generator.generate(requests, how))
        for i, request in enumerate(requests):
            a, b = ours[request.key], theirs[request.key]
            prompt = tokenizer.apply_chat_template(request.messages, add_generation_prompt=True, return_dict=False)
            assert a.prompt_tokens == b.prompt_tokens == len(prompt) != plain[f"k{i}"].prompt_tokens
            if assert_same_tokens(lm, prompt, a.token_ids, b.token_ids):
                assert a.logprobs == pytest.approx(b.logprobs, abs=2e-3)
        assert {c.text for c in ours.values()}.isdisjoint(c.text for c in plain.values())
        running = generator.generate(asked(), Sampling(temperature=0, max_tokens=512))
        [child] = set(multiprocessing.active_children()) - before
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(Missing, match="vLLM's engine failed"):
            list(running)


@pytest.mark.parametrize(
    ("more", "said"), [({"use_dora": True}, "DoRA"), ({"modules_to_save": ["lm_head"]}, "modules_to_save")]
)
def test_adapters_vllm_cannot_use_are_refused_before_it_starts(tmp_path, more, said):
    save_adapter(tmp_path, "smollm2", **more)
    with pytest.raises(BadInput, match=f"vLLM refuses it: .*{said}"):
        open_generator(f"vllm:{tmp_path}")
