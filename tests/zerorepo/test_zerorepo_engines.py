"""Building with vLLM: every question of stage C finds the overview of the repository in vLLM's prefix cache.

Run by `make test-engines`; see tests/shared/test_engines.py.
"""

import itertools
from contextlib import closing

import pytest
from zerorepo_skeletons import planned, tallybook

from tenfold_shared.generate import Request, Sampling
from tenfold_shared.generate.vllm import VllmGenerator
from tenfold_shared.models import load_causal_lm, open_generator
from zerorepo.generation import prompts
from zerorepo.generation.building import features_of
from zerorepo.generation.leaf import Context, make_leaf
from zerorepo.generation.order import plan
from zerorepo.generation.skeleton import stubs_of

pytestmark = pytest.mark.engines


def questions():
    """The first question of every leaf of the example, and the judge's of the first."""
    sources = tallybook()
    graph = planned(sources)
    texts = {path: stubs_of(text) for path, text in sources.items()}
    system = prompts.overview(graph, texts)
    context = Context(graph, system, texts, features_of(graph))
    return [next(make_leaf(task, context)) for task in plan(graph).tasks if task.is_leaf]


def test_the_overview_is_read_once(monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    asked = [one.messages for one in questions()]
    _, tokenizer = load_causal_lm("smollm2", "float32", "cpu")
    ids = [tokenizer.apply_chat_template(one, add_generation_prompt=True, return_dict=False) for one in asked]
    same = len(list(itertools.takewhile(lambda row: len(set(row)) == 1, zip(*ids, strict=False))))
    assert same > 300, "the stable part is the overview, not a few words"
    told = {}
    completion = VllmGenerator._completion

    def noted(self, key, output):
        told[key] = (output.num_cached_tokens, len(output.prompt_token_ids))
        return completion(self, key, output)

    monkeypatch.setattr(VllmGenerator, "_completion", noted)
    with closing(open_generator("vllm:smollm2", dtype="float32", engine_args={"max_model_len": 4096})) as engine:
        for n, messages in enumerate(asked):
            assert (
                next(iter(engine.generate([Request(f"k{n}", messages=messages)], Sampling(max_tokens=1)))).error is None
            )
        block = engine._engine.vllm_config.cache_config.block_size  # tokens that are kept together
    assert same > block and told["k0"][0] == 0
    for n in range(1, len(asked)):
        cached, length = told[f"k{n}"]
        assert cached >= same // block * block and length == len(ids[n])
