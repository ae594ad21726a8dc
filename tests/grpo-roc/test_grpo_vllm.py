"""vLLM (CPU build) as an engine of this process, as one of its own, and as a server, against the engine over transformers in float32.

Run by `make test-engines`. vLLM is imported by the engines alone, so that other environments can collect this file; where the marker selects it and vLLM is missing, it fails.
"""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing

import httpx
import numpy as np
import pytest
import torch
from grpo_models import ambiguous
from transformers import LlamaConfig, LlamaForCausalLM

from grpo_roc.dialogue import Dialogue
from grpo_roc.engine import LocalEngine
from grpo_roc.engine_open import open_engines, push
from grpo_roc.engine_protocol import Lost
from tenfold_shared import BadInput

pytestmark = pytest.mark.engines
CAPACITY = 400
KEYS = "abcd"


def tiny(seed=0):
    """Heads of 32, the least that vLLM's CPU attention has."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(ambiguous()), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=32, max_position_embeddings=4096,
        tie_word_embeddings=True, initializer_range=0.3, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).float().eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("tiny")
    tiny().save_pretrained(found)
    ambiguous().save_pretrained(found)
    return found


@pytest.fixture(scope="module")
def dialogue():
    return Dialogue(ambiguous())


@pytest.fixture(scope="module", autouse=True)
def frugal():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("OMP_WAIT_POLICY", "passive")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def server(folder, frugal):
    """A server as `vllm serve` starts it for training (the command itself does not run from the CPU build); killed at the end of the module, by its id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name", "tiny", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port),
        "--max-model-len", str(CAPACITY), "--enforce-eager", "--no-enable-chunked-prefill", "--max-num-batched-tokens", "4096",
    ]  # fmt: skip
    log = open(folder / "server.log", "wb")
    process = subprocess.Popen(
        command, env={**os.environ, "VLLM_SERVER_DEV_MODE": "1"}, stdout=log, stderr=log, start_new_session=True
    )
    yield process, f"http://127.0.0.1:{port}/v1#tiny", folder / "server.log"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    log.close()


@pytest.fixture(scope="module")
def inside(server, folder, dialogue):
    """In this process; after the server's start, which goes on meanwhile."""
    [engine] = open_engines([f"vllm:{folder}"], dialogue=dialogue, slots=1, capacity=CAPACITY, temperature=0.7, dtype="float32")  # fmt: skip
    with closing(engine):
        yield engine


def up(server):
    process, uri, log = server
    until = time.monotonic() + 180
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(uri.partition("/v1")[0] + "/health", timeout=5).status_code == 200:
                return uri
        except httpx.HTTPError:
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


def talk(engine, rounds=2, most=8):
    """Trajectories of several turns, with tokens of their own between; beginnings of several blocks, so that they are cached: (key, turn): (context, turn)."""
    found, contexts = {}, {}
    for k in range(rounds):
        for key in KEYS:
            more = [*range(5, 150), 5 + ord(key) % 7, 7 + k] if k == 0 else [ord(key) % 11, 8, 9]
            contexts[key] = [*contexts.get(key, []), *more]
            engine.start(key, more, most, np.random.default_rng([k, ord(key)]))
        under_way = set(KEYS)
        while under_way:
            for turn in engine.poll():
                under_way.remove(turn.key)
                found[turn.key, k] = (list(contexts[turn.key]), turn)
                contexts[turn.key] += turn.ids
    for key in KEYS:
        engine.release(key)
    return found


def ids_of(found):
    return {at: turn.ids for at, (_, turn) in found.items()}


def greedy(model, dialogue):
    return ids_of(talk(LocalEngine(model, dialogue.ends, slots=len(KEYS), capacity=CAPACITY, temperature=0.0)))


def assert_drawn_from(model, found, temperature):
    """Fed again, tokens have the log-probabilities that came with them."""
    for context, turn in found.values():
        with torch.no_grad():
            log = torch.log_softmax(model(torch.tensor([context + turn.ids])).logits[0].float() / temperature, -1)
        wanted = [float(log[len(context) - 1 + k, token]) for k, token in enumerate(turn.ids)]
        assert turn.logp == pytest.approx(wanted, abs=1e-4)
        assert turn.ended is False and len(turn.ids) == 8


def exercised(engine, model, dialogue, temperature):
    """What holds for an engine with these weights."""
    first, again = talk(engine), talk(engine)
    assert_drawn_from(model, first, temperature)
    assert ids_of(first) == ids_of(again) and len({tuple(ids) for ids in ids_of(first).values()}) > 4
    return first


def test_in_this_process_tokens_and_log_probabilities_are_those_of_transformers(inside, dialogue):
    model = tiny()
    assert inside.block * inside.blocks > CAPACITY and inside.paged and not inside.lost
    exercised(inside, model, dialogue, 0.7)
    inside.temperature = 0.0
    assert ids_of(talk(inside)) == greedy(model, dialogue)
    inside.temperature = 0.7


def test_a_turn_ends_at_its_end_and_what_is_released_is_cut_off(inside, dialogue):
    ends = inside.ends
    try:
        inside.temperature, inside.ends = 0.0, []
        inside.start("a", [5, 6, 7], 8, np.random.default_rng(0))
        while not inside.idle:
            free = inside.poll()
        inside.ends = [free[0].ids[3]]
        inside.start("b", [5, 6, 7], 8, np.random.default_rng(0))
        while not inside.idle:
            found = inside.poll()
        stop = free[0].ids.index(inside.ends[0])
        assert (found[0].ids, found[0].ended, free[0].ended) == (free[0].ids[: stop + 1], True, False)
    finally:
        inside.temperature, inside.ends = 0.7, ends
    inside.start("c", [5, 6, 7], 200, np.random.default_rng(0))
    assert inside.poll() == [] and not inside.idle
    for key in "abc":
        inside.release(key)
    assert inside.idle and not inside.context and inside.poll() == []
    with pytest.raises(BadInput, match=f"beyond {CAPACITY}"):
        inside.start("d", [1] * 300, 101, np.random.default_rng(0))


def test_weights_pushed_in_memory_and_to_a_server_are_what_is_sampled_with(inside, server, dialogue, tmp_path):
    uri = up(server)
    with pytest.raises(BadInput, match="processed_logprobs"):
        open_engines([uri], dialogue=dialogue, slots=1, capacity=CAPACITY, temperature=0.7)
    [served] = open_engines([uri], dialogue=dialogue, slots=1, capacity=CAPACITY, temperature=1.0, folder=str(tmp_path))
    [likeliest] = open_engines([uri], dialogue=dialogue, slots=1, capacity=CAPACITY, temperature=0.0)
    with closing(served), closing(likeliest):
        assert served.block * served.blocks > CAPACITY and served.places == served.blocks
        old, new = tiny(), tiny(3)
        before = exercised(served, old, dialogue, 1.0)
        assert ids_of(talk(likeliest)) == greedy(old, dialogue)
        began = torch.get_rng_state()
        push([inside, served], new.named_parameters())
        assert torch.equal(torch.get_rng_state(), began)
        after = exercised(served, new, dialogue, 1.0)
        assert ids_of(after) != ids_of(before)
        exercised(inside, new, dialogue, 0.7)
        assert ids_of(talk(likeliest)) == greedy(new, dialogue) != greedy(old, dialogue)
        assert list(tmp_path.iterdir()) == []


def test_a_process_of_its_own_takes_weights_and_its_death_is_told(folder, dialogue):
    from grpo_roc.engine_vllm import VllmEngine

    before = set(multiprocessing.active_children())
    with closing(VllmEngine(f"vllm:{folder}", dialogue.ends, capacity=CAPACITY, temperature=1.0, dtype="float32", apart=True)) as engine:  # fmt: skip
        new = tiny(3)
        exercised(engine, tiny(), dialogue, 1.0)
        engine.load(new.named_parameters())
        exercised(engine, new, dialogue, 1.0)
        engine.start("x", [5, 6, 7], 200, np.random.default_rng(0))
        [child] = set(multiprocessing.active_children()) - before
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(Lost, match="vLLM's engine failed"):
            while True:
                engine.poll()
        assert engine.lost
        with pytest.raises(Lost):
            engine.start("y", [5], 2, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("uri", "capacity", "said"), [("vllm:{}", 100_000, "vLLM refuses it"), ("vllm:vllm:{}", 400, "after vllm:")]
)
def test_what_vllm_refuses_is_bad_input(folder, dialogue, uri, capacity, said):
    with pytest.raises(BadInput, match=said):
        open_engines([uri.format(folder)], dialogue=dialogue, slots=1, capacity=capacity, temperature=1.0)
