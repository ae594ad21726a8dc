"""`apply` on models of transformers: beside a loop of torch, bits per byte, restored runs, other tokens."""

import numpy as np
import pytest
import tiny_models
import torch
from datamix_agents import BUDGET, NAMES, SHORT, lines, result, tree

from datamix import apply
from datamix.corpus import Corpus
from datamix.foreign import Foreign, Training, check_tokens
from datamix.history import Budget
from datamix.proxy import Held
from datamix.stream import Mixer, Picker, Rows
from tenfold_shared import BadInput

HOW = Training(batch=8, context=32, warmup=2, lr=1e-3)


def test_a_model_trains_as_a_loop_of_torch_would(tokens, model):
    """Against transformers' own loss and torch's own AdamW."""
    ours = Foreign(
        tiny_models.make_lm(), None, Training(batch=4, context=32, micro=3, warmup=2, lr=1e-3, decay="cosine")
    )
    theirs = tiny_models.make_lm()
    matrices = [p for p in theirs.parameters() if p.ndim > 1]
    others = [p for p in theirs.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))
    rows, _ = Mixer(Rows(tokens, 32, 1), Picker(NAMES, 1)).draw(np.full(4, 0.25), 24)
    found = [ours.train(rows[:12], 6), ours.train(rows[12:])]
    rates = [0.5, 1.0, *(0.5 * (1 + np.cos(np.pi * k / 4)) for k in (1, 2, 3, 4))]
    want = []
    for i, rate in enumerate(rates):
        batch = torch.from_numpy(rows[4 * i : 4 * i + 4])
        logits = theirs(input_ids=batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        for group in adam.param_groups:
            group["lr"] = 1e-3 * rate
        adam.step()
        want.append(float(loss.detach()))
    assert found == pytest.approx([np.mean(want[:3]), np.mean(want[3:])], abs=1e-5)
    for (name, p), q in zip(ours.named, theirs.parameters(), strict=True):
        assert torch.allclose(p, q, atol=2e-5), name


def test_bits_per_byte_are_those_of_the_text(tokens):
    """The mean loss of all held-out tokens by hand, times tokens a byte."""
    one = Foreign(tiny_models.make_lm(), None, HOW)
    held = Held(tokens, 32, 200, "feedback")
    found, at = one.evaluate(held), 0
    with torch.no_grad():
        for d, n in enumerate(held.counts):
            rows = held.rows[at : at + n]
            at += n
            nats = float(
                one.model(input_ids=rows[:, :-1], labels=None)
                .logits.log_softmax(-1)
                .gather(2, rows[:, 1:, None])
                .mean()
            )
            part = tokens.domains[d].valid
            assert found[d] == pytest.approx(-nats / np.log(2) * part.tokens / part.bytes, rel=1e-5)


def test_a_restored_model_goes_on_to_the_same_bits(tokens):
    rows, _ = Mixer(Rows(tokens, 32, 1), Picker(NAMES, 1)).draw(np.full(4, 0.25), 64)
    one = Foreign(tiny_models.make_lm("gpt2"), None, HOW)  # tied embeddings
    one.train(rows[:32], 8)
    kept = one.state()
    one.train(rows[32:])
    other = Foreign(tiny_models.make_lm("gpt2"), None, HOW)
    other.restore(kept)
    other.train(rows[32:])
    assert all(torch.equal(x, other.state()[name]) for name, x in one.state().items())


def test_apply_on_a_model(tokens, model, agents, mixed, tmp_path):
    """A model folder comes out that transformers loads, in the checkpoint's type, and that learnt; a kill between steps costs nothing."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = {"budget": Budget(2 * 8 * 32, 3, 0.5), "model": model, "training": HOW, **SHORT}
    assert apply.run(agents["set"], str(tokens.folder), output=str(tmp_path / "r"), **run) == 0
    assert apply.run(agents["set"], str(tokens.folder), output=str(tmp_path / "s"), max_time=1e-9, **run) == 1
    assert apply.run(agents["set"], str(tokens.folder), output=str(tmp_path / "s"), **run) == 0
    assert tree(tmp_path / "r") == tree(tmp_path / "s")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "r/model")
    assert AutoTokenizer.from_pretrained(tmp_path / "r/model").encode("the dog") == tiny_models.make_tokenizer().encode(
        "the dog"
    )
    held = Held(tokens, 32, 128, "feedback")
    losses = dict(zip(NAMES, Foreign(again, None, HOW).evaluate(held), strict=True))
    assert losses == pytest.approx(lines(tmp_path / "r")[-1].feedback, rel=1e-6)
    assert result(tmp_path / "r")["score"] > 1


def test_a_corpus_in_other_tokens_is_refused(corpus, tokens, model, mixed, tmp_path):
    run = {"budget": BUDGET, "model": model, "training": HOW, "output": str(tmp_path / "r"), **SHORT}
    with pytest.raises(BadInput, match=rf"tokens of bytes, which are not those of {model}; .*--tokenizer {model}"):
        apply.run(mixed, str(corpus.folder), **run)
    check_tokens(tokens, tiny_models.make_tokenizer(), "of another name and the same tokens")
    bare = Corpus(tmp_path, tokens.listing)  # tokens without texts: by name
    check_tokens(bare, tiny_models.make_tokenizer(), model)
    with pytest.raises(BadInput, match="no texts, the model is x"):
        check_tokens(bare, tiny_models.make_tokenizer(), "x")
    with pytest.raises(BadInput, match="float16"):
        apply.run(mixed, str(tokens.folder), **run, dtype="float16")
    with pytest.raises(BadInput, match="leave out --proxy"):
        apply.run(mixed, str(tokens.folder), **run, proxy="22k")
    with pytest.raises(BadInput, match="weights are needed"):
        apply.run(mixed, str(tokens.folder), **{**run, "model": "http://host/v1"})
