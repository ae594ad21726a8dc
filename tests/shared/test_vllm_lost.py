"""An engine of vLLM whose process is gone: the error is named, and nothing more is asked of its closed sockets.

No vLLM is needed: what stands in for it fails as the real one did, in whichever order. The real one is killed in
test_engines.py.
"""

import sys
from types import SimpleNamespace

import pytest

from tenfold_shared import Missing
from tenfold_shared.generate import Request, Sampling
from tenfold_shared.generate.vllm import VllmGenerator


class Tokenizer:
    eos_token_id = 0
    chat_template = None

    def __call__(self, text, **how):
        return SimpleNamespace(input_ids=[1, 2, 3])

    encode = __call__


class Gone:
    """What LLMEngine does once its core's process has ended and its sockets are closed."""

    vllm_config = SimpleNamespace(
        model_config=SimpleNamespace(max_model_len=64, get_vocab_size=lambda: 10),
        scheduler_config=SimpleNamespace(max_num_seqs=4),
    )

    def __init__(self):
        self.asked = []

    def get_tokenizer(self):
        return Tokenizer()

    def add_request(self, *_, **__):
        self.asked.append("add_request")

    def step(self):
        raise RuntimeError("the engine's process ended")

    def abort_request(self, names):
        self.asked.append("abort_request")
        raise OSError("Socket operation on non-socket")


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=lambda **given: given))
    return Gone()


def test_a_lost_engine_is_named_and_left_alone(engine):
    generator = VllmGenerator(engine, "vllm:m", seeds=True)
    request = Request(key="k", prompt_ids=[1, 2], seed=0)
    with pytest.raises(Missing, match="vLLM's engine failed: the engine's process ended"):
        list(generator.generate([request], Sampling(temperature=0, max_tokens=4)))
    assert engine.asked == ["add_request"]


def test_a_reader_that_stops_has_its_requests_aborted(engine, monkeypatch):
    engine.step = lambda: [SimpleNamespace(finished=False, request_id="0")]
    stopped = []
    engine.abort_request = stopped.extend

    def source():
        yield Request(key="k", prompt_ids=[1, 2], seed=0)
        raise KeyboardInterrupt

    generator = VllmGenerator(engine, "vllm:m", seeds=True)
    with pytest.raises(KeyboardInterrupt):
        list(generator.generate(source(), Sampling(temperature=0, max_tokens=4)))
    assert stopped == ["0"]
