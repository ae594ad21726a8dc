"""The packed cache inside models: against an oracle that keeps its own lists, and against the models' own caches."""

import math

import pytest
import torch
from ant_models import codebook, dense, dense_factors, tiny
from transformers import DynamicCache

from antkv.cache import AntCache, AntLayer, Settings, attached
from antkv.rope import Rope
from tenfold_shared import BadInput

F32 = torch.float32


def ids(*shape, seed=0, low=3):
    return torch.randint(low, 97, shape, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def fed(model, tokens, cache, step, mask=None, first=0):
    """Logits of tokens (B, n), fed `step` at a time from the `first` on."""
    out = []
    for at in range(first, tokens.shape[1], step):
        seen = None if mask is None else mask[:, : at + step]
        positions = None if mask is None else (mask.cumsum(1) - 1).clamp_min(0)[:, at : at + step]
        out.append(
            model(
                input_ids=tokens[:, at : at + step], past_key_values=cache, attention_mask=seen, position_ids=positions,
                use_cache=True,
            ).logits
        )  # fmt: skip
    return torch.cat(out, 1)


class Oracle:
    """One layer by hand in float64: tokens in a list, factors summed by `dense_factors`, codes by looking at all centroids."""

    def __init__(self, layer, rope, scale):
        self.books = [b.double() for b in (layer.book_k, layer.book_v)]
        self.how, self.rope, self.scale = layer.settings, rope, scale
        self.k, self.v, self.sums, self.closed = [], [], [], 0
        self.hat_k, self.hat_v, self.anchors, self.codes = [], [], [], []

    def feed(self, q, k, v):
        n = q.shape[2]
        window_k = torch.stack([*self.k, *k[0].unbind(1)], 1)[None].double()
        window_v = torch.stack([*self.v, *v[0].unbind(1)], 1)[None].double()
        all_k = torch.cat([torch.stack(self.hat_k, 1)[None], window_k], 2) if self.hat_k else window_k
        all_v = torch.cat([torch.stack(self.hat_v, 1)[None], window_v], 2) if self.hat_v else window_v
        _, out = dense(q, all_k, all_v, self.scale)
        factors = dense_factors(q, all_k, all_v, self.scale, True)
        self.k += list(k[0].double().unbind(1))
        self.v += list(v[0].double().unbind(1))
        self.sums += [torch.zeros(2, k.shape[1], dtype=torch.float64) for _ in range(n)]
        for at in range(len(self.k)):
            self.sums[at] = self.sums[at] + torch.stack([f[0, :, self.closed + at] for f in factors])
        while len(self.k) >= self.how.window + self.how.block:
            self.close()
        return out

    def close(self):
        block = self.how.block
        score = torch.stack(self.sums[:block], -1)  # (2, H, block)
        score = (score / score.sum(-1, keepdim=True)).sum(0)
        wanted = math.ceil(self.how.ratio * (self.closed + block) - 1e-9) - sum(len(a[0]) for a in self.anchors)
        chosen = [sorted(score[h].argsort(descending=True)[:wanted].tolist()) for h in range(score.shape[0])]
        self.anchors.append([[self.closed + at for at in row] for row in chosen])
        for at in range(block):
            k, v = self.k[at], self.v[at]
            position = torch.tensor([[self.closed + at]])
            plain = self.rope.unrotate(k[None, :, None].float(), position)[0, :, 0].double() if self.rope else k
            found = []
            for x, book in ((plain, self.books[0]), (v, self.books[1])):
                parts = x.unflatten(1, (book.shape[1], -1))  # (H, M, d)
                where = (parts[:, :, None] - book).square().sum(-1).argmin(-1)
                self.codes.append(where)
                found.append(
                    torch.stack(
                        [torch.cat([book[h, m, where[h, m]] for m in range(book.shape[1])]) for h in range(len(x))]
                    )
                )
            hat = (
                self.rope.rotate(found[0][None, :, None].float(), position)[0, :, 0].double() if self.rope else found[0]
            )
            exact = torch.tensor([[at in row] for row in chosen])
            self.hat_k.append(torch.where(exact, k, hat))
            self.hat_v.append(torch.where(exact, v, found[1]))
        del self.k[:block], self.v[:block], self.sums[:block]
        self.closed += block


@pytest.mark.parametrize("rope", ["pre", "post"])
@pytest.mark.parametrize("schedule", [[1] * 40, [8] * 5, [21, 1, 1, 9, 8], [40]])
def test_streaming_is_the_pass_by_hand(rope, schedule):
    model = tiny()
    book = codebook(model, rope=rope)
    settings = Settings(ratio=0.1, window=8, block=8, dtype=F32)
    turned = Rope(model) if rope == "pre" else None
    layer = AntLayer(0, (book.keys[0], book.values[0]), turned, settings)
    draw = torch.Generator().manual_seed(1)
    oracle = None
    for n in schedule:
        q = torch.randn(1, 4, n, 16, generator=draw)
        k, v = (torch.randn(1, 2, n, 16, generator=draw) for _ in range(2))
        pending, _ = layer.update(k, v)
        if oracle is None:
            oracle = Oracle(layer, turned, 0.25)
        out = layer.attend(q, pending, None, 0.25)
        assert torch.allclose(out.double(), oracle.feed(q, k, v), atol=1e-5)
    assert layer.closed == oracle.closed == 32
    at = [[slot for block in oracle.anchors for slot in block[h]] for h in range(2)]
    assert layer.at_k[0].tolist() == at and layer.at_v is layer.at_k
    from tenfold_kernels.packing import unpack

    codes = unpack(layer.codes_k, layer.bits, 8)[0].permute(0, 1, 3, 2).flatten(1, 2)  # (H, closed, M)
    assert codes.tolist() == torch.stack(oracle.codes[::2], 1).tolist()


def test_one_at_a_time_is_blocks_at_a_time():
    model, tokens = tiny(), ids(1, 64)
    made = []
    for step in (1, 8):
        cache = AntCache(model, codebook(model), Settings(ratio=0.1, window=16, block=8))
        with attached(model):
            out = fed(model, tokens, cache, step)
        made.append((out, cache))
    (one, a), (two, b) = made
    assert torch.allclose(one, two, atol=1e-3)
    for x, y in zip(a.packed, b.packed, strict=True):
        assert torch.equal(x.at_k, y.at_k) and torch.equal(x.codes_k, y.codes_k) and torch.equal(x.codes_v, y.codes_v)


@pytest.mark.parametrize("how", [{"ratio": 1.0, "window": 8}, {"ratio": 0.0, "window": 1000}])
@pytest.mark.parametrize("kind", ["llama", "qwen"])
def test_nothing_lost_is_the_model_itself(kind, how):
    model, tokens = tiny(kind), ids(2, 50)
    with torch.inference_mode():
        truth = model(input_ids=tokens).logits
    cache = AntCache(model, codebook(model), Settings(block=8, dtype=F32, **how))
    with attached(model):
        assert torch.allclose(fed(model, tokens, cache, 5), truth, atol=2e-4)
    assert model.config._attn_implementation == "sdpa"


def test_all_anchors_and_all_window_are_the_same_bits():
    model, tokens = tiny(), ids(1, 64)
    outs = []
    for how in ({"ratio": 1.0, "window": 8}, {"ratio": 0.0, "window": 1000}):
        with attached(model):
            outs.append(fed(model, tokens, AntCache(model, codebook(model), Settings(block=8, dtype=F32, **how)), 8))
    assert torch.equal(*outs)


def test_vectors_that_are_centroids_cost_nothing():
    """Post-RoPE codes of a layer whose keys and values are centroids: attention as with the vectors themselves."""
    model = tiny()
    book = codebook(model, rope="post")
    layer = AntLayer(0, (book.keys[0], book.values[0]), None, Settings(ratio=0.0, window=0, block=8, dtype=F32))
    draw = torch.Generator().manual_seed(2)
    where = torch.randint(16, (2, 2, 4, 24), generator=draw)
    k, v = (
        torch.stack([torch.cat([table[h, m, where[i, h, m]].float() for m in range(4)], -1) for h in range(2)])[None]
        for i, table in enumerate((book.keys[0], book.values[0]))
    )
    pending, _ = layer.update(k, v)
    layer.attend(torch.randn(1, 4, 24, 16, generator=draw), pending, None, 0.25)
    hat_k, hat_v = layer.dequantised(F32)
    assert torch.equal(hat_k, k) and torch.equal(hat_v, v)


@pytest.mark.parametrize("scope", ["head", "layer", "shared-kv"])
@pytest.mark.parametrize("ratio", [0.03, 0.1])
def test_padded_rows_are_those_alone(scope, ratio):
    """At ratio .03 a row has an anchor or two, and would lose them if padding counted towards its share."""
    model, lengths = tiny(), (40, 24, 16)
    rows = [ids(1, n, seed=n) for n in lengths]
    how = {"ratio": ratio, "window": 8, "block": 8, "dtype": F32, "scope": scope}
    mask = torch.tensor([[0] * (40 - n) + [1] * n for n in lengths])
    batch = torch.cat([torch.nn.functional.pad(row, (40 - row.shape[1], 0)) for row in rows])
    cache = AntCache(model, codebook(model), Settings(**how))
    with attached(model):
        together = fed(model, batch, cache, 8, mask)
    for b, (row, n) in enumerate(zip(rows, lengths, strict=True)):
        alone = AntCache(model, codebook(model), Settings(**how))
        with attached(model):
            out = fed(model, row, alone, 8)
        assert torch.allclose(together[b, 40 - n :], out[0], atol=1e-4)
        for both, one in zip(cache.packed, alone.packed, strict=True):
            kept = [row[row >= 0].tolist() for row in both.at_k[b]]
            assert kept == [(row + 40 - n).tolist() for row in one.at_k[0]]
    assert cache.numbers() == 2 * 2 * 2 * 16 * sum(lengths)
    for layer in cache.packed:
        for b, n in enumerate(lengths):
            at = layer.at_k[b]
            assert (at[at >= 0] >= 40 - n).all()  # no padding among the anchors
            pads = torch.arange(layer.window_k.shape[2]) + layer.closed < 40 - n
            assert layer.sum_v[b][:, pads].abs().sum() == 0


def test_padding_in_the_middle_is_refused():
    model = tiny()
    cache = AntCache(model, codebook(model), Settings(block=8, window=8))
    with attached(model), pytest.raises(BadInput, match="left padding only"):
        fed(model, ids(1, 6), cache, 6, torch.tensor([[1, 0, 1, 1, 1, 1]]))


def test_generation_greedy_sampled_and_by_beams():
    model, prompt = tiny(), ids(2, 20)
    exact = {"ratio": 1.0, "window": 8, "block": 8, "dtype": F32}
    for how in ({"do_sample": False}, {"do_sample": True, "temperature": 0.8}, {"num_beams": 3, "do_sample": False}):
        torch.manual_seed(5)
        truth = model.generate(prompt, max_new_tokens=20, past_key_values=DynamicCache(config=model.config), **how)
        torch.manual_seed(5)
        with attached(model):
            mine = model.generate(
                prompt, max_new_tokens=20, past_key_values=AntCache(model, codebook(model), Settings(**exact)), **how
            )
        assert torch.equal(truth, mine), how


def test_rows_reordered_go_on_as_those_rows():
    model, tokens = tiny(), ids(3, 32)
    how = Settings(ratio=0.1, window=8, block=8)
    order = torch.tensor([2, 2, 0])
    cache = AntCache(model, codebook(model), how)
    other = AntCache(model, codebook(model), how)
    with attached(model):
        fed(model, tokens, cache, 8)
        for layer in cache.layers:
            layer.reorder_cache(order)
        fed(model, tokens[order], other, 8)
        following = ids(3, 8, seed=9)
        assert torch.allclose(fed(model, following, cache, 1), fed(model, following, other, 1), atol=1e-4)
        assert cache.packed[0].at_v is cache.packed[0].at_k


def test_later_tokens_change_nothing_before_them():
    """Decode protocol: what a query sees of the cache does not depend on what comes after it."""
    model, tokens = tiny(), ids(1, 64)
    changed = tokens.clone()
    changed[:, 48:] = ids(1, 16, seed=4)
    outs = []
    for one in (tokens, changed):
        with attached(model):
            outs.append(fed(model, one, AntCache(model, codebook(model), Settings(ratio=0.1, window=8, block=8)), 8))
    assert torch.equal(outs[0][:, :48], outs[1][:, :48]) and not torch.equal(outs[0][:, 48:], outs[1][:, 48:])


def test_prefill_on_what_is_kept_differs_and_is_quantised():
    model, tokens = tiny(), ids(1, 64)
    outs = {}
    for name, exact in (("exact", True), ("kept", False)):
        how = Settings(ratio=0.0, window=0, block=8, exact_prefill=exact)
        with attached(model):
            outs[name] = fed(model, tokens, AntCache(model, codebook(model), how), 64)
    with torch.inference_mode():
        truth = model(input_ids=tokens).logits
    assert torch.allclose(outs["exact"], truth, atol=1e-3) and (outs["kept"] - truth).abs().max() > 0.1


def test_only_full_layers_are_packed():
    model = tiny(
        "gemma", layer_types=["sliding_attention", "full_attention"], sliding_window=8, query_pre_attn_scalar=16,
        use_bidirectional_attention=False,
    )  # fmt: skip
    tokens = ids(1, 40)
    with torch.inference_mode():
        truth = model(input_ids=tokens).logits
    book = codebook(model)
    assert list(book.keys) == [1]
    cache = AntCache(model, book, Settings(ratio=1.0, window=8, block=8, dtype=F32))
    with attached(model):
        assert torch.allclose(fed(model, tokens, cache, 8), truth, atol=2e-3)
    assert [type(layer).__name__ for layer in cache.layers] == ["DynamicSlidingWindowLayer", "AntLayer"]


def test_a_model_attached_without_a_packed_cache_is_itself():
    model, tokens = tiny(), ids(2, 24)
    mask = torch.tensor([[1] * 24, [0] * 8 + [1] * 16])
    with torch.inference_mode():
        truth = model(input_ids=tokens, attention_mask=mask).logits
        with attached(model):
            mine = model(input_ids=tokens, attention_mask=mask).logits
            cache = DynamicCache(config=model.config)
            chunks = [model(input_ids=tokens[:, at : at + 8], past_key_values=cache).logits for at in (0, 8, 16)]
        whole = model(input_ids=tokens).logits
    assert torch.allclose(mine[1, 8:], truth[1, 8:], atol=1e-4) and torch.allclose(mine[0], truth[0], atol=1e-4)
    assert torch.allclose(torch.cat(chunks, 1), whole, atol=1e-4)


@pytest.mark.parametrize("centroids", [4, 16, 64, 256])
def test_bytes_are_the_formulas(centroids):
    """Index bits, anchors with their slots, window with its sums; and no other tensor lives in a layer."""
    model, bits = tiny(), int(math.log2(centroids))
    cache = AntCache(model, codebook(model, centroids=centroids), Settings(ratio=0.05, window=16, block=8))
    with attached(model):
        fed(model, ids(2, 100), cache, 10)
    closed = 80
    anchors, heads, dim = math.ceil(0.05 * closed), 2, 16
    for layer in cache.packed:
        assert layer.closed == closed
        assert layer.parts() == {
            "index": 2 * heads * 2 * closed * (dim // 4) * bits // 8,
            "anchors": 2 * heads * anchors * (2 * dim * 2 + 4),
            "window": 2 * heads * 20 * (2 * dim * 2 + 2 * 4),
        }
        owned = {
            id(t): t for name, t in vars(layer).items() if isinstance(t, torch.Tensor) and not name.startswith("book")
        }
        assert sum(t.nbytes for t in owned.values()) == sum(layer.parts().values())
        storages = sum(t.untyped_storage().nbytes() for t in owned.values())
        assert storages == sum(layer.parts().values())  # no view keeps something larger alive
    assert cache.effective_bits() == 8 * sum(cache.parts().values()) / (2 * 2 * 2 * heads * dim * 100)


def test_tokens_are_taken_back_from_the_window_only():
    model, tokens = tiny(), ids(1, 44)
    cache = AntCache(model, codebook(model), Settings(ratio=0.1, window=16, block=8))
    with attached(model):
        fed(model, tokens, cache, 4)
        following = fed(model, ids(1, 3, seed=3), cache, 3)
        cache.layers[0].crop(-3)
        cache.layers[1].crop(-3)
        assert cache.get_seq_length() == 44
        assert torch.allclose(fed(model, ids(1, 3, seed=3), cache, 3), following, atol=1e-5)
    with pytest.raises(BadInput, match="cannot be taken back"):
        cache.layers[0].crop(-40)
    assert not cache.layers[0].is_croppable


def test_broken_numbers_name_layer_and_head():
    model = tiny()
    with torch.no_grad():
        model.model.layers[1].self_attn.v_proj.weight[16:32] = float("nan")
    cache = AntCache(model, codebook(model), Settings(block=8))
    with attached(model), pytest.raises(BadInput, match="layer 1, head 1: the model's values"):
        fed(model, ids(1, 9), cache, 9)


def test_numbers_beyond_the_windows_type_name_layer_and_head():
    model = tiny()
    with torch.no_grad():
        model.model.layers[1].self_attn.v_proj.weight[16:] *= 1e6
    cache = AntCache(model, codebook(model), Settings(block=8, window=8))
    with (
        attached(model),
        pytest.raises(BadInput, match=r"layer 1, head 1: the model's values reach .*, beyond float16"),
    ):
        fed(model, ids(1, 8), cache, 8)


@pytest.mark.parametrize("rope", ["pre", "post"])
def test_closed_tokens_are_decoded_a_stretch_at_a_time(rope, monkeypatch):
    """Chunks over many stretches, with padding and anchors, are what they are over one; never more is decoded at once."""
    model = tiny()
    mask = torch.tensor([[1] * 96, [0] * 37 + [1] * 59])
    tokens, outs, most = ids(2, 96) * mask, [], []
    decoded = AntLayer._decoded_from
    monkeypatch.setattr(
        AntLayer, "_decoded_from", lambda self, dtype, a, b: most.append(b - a) or decoded(self, dtype, a, b)
    )
    for stretch in (10_000, 16):
        monkeypatch.setattr("antkv.cache.STRETCH", stretch)
        most.clear()
        for masked in (mask, None):
            cache = AntCache(model, codebook(model, rope=rope), Settings(ratio=0.1, window=8, block=8, dtype=F32))
            with attached(model):
                outs.append(fed(model, tokens, cache, 32, masked))
    assert max(most) == 16
    assert torch.allclose(outs[0], outs[2], atol=1e-4) and torch.allclose(outs[1], outs[3], atol=1e-4)


def test_reset_begins_anew():
    model, tokens = tiny(), ids(1, 40)
    cache = AntCache(model, codebook(model), Settings(ratio=0.1, window=8, block=8, score="random"))
    with attached(model):
        first = fed(model, tokens, cache, 8)
        for layer in cache.layers:
            layer.reset()
        assert cache.get_seq_length() == 0 and torch.equal(fed(model, tokens, cache, 8), first)


@pytest.mark.parametrize("score", ["bound2", "bound", "mass", "mean-mass", "error", "sink", "recent", "random"])
def test_every_score_runs_and_sinks_are_first(score):
    model = tiny()
    cache = AntCache(model, codebook(model), Settings(ratio=0.05, window=8, block=8, score=score))
    with attached(model):
        fed(model, ids(1, 60), cache, 4)
    at = cache.packed[0].at_k[0]
    assert at.shape == (2, 3) and (at >= 0).all()
    if score == "sink":
        assert (at[:, 0] == 0).all()


def test_a_prompt_of_one_token_and_one_shorter_than_the_window():
    model = tiny()
    for n in (1, 5):
        cache = AntCache(model, codebook(model), Settings(window=128, block=8, dtype=F32))
        with attached(model):
            mine = model.generate(ids(1, n), max_new_tokens=6, do_sample=False, past_key_values=cache)
        assert torch.equal(mine, model.generate(ids(1, n), max_new_tokens=6, do_sample=False))
        assert all(layer.closed == 0 for layer in cache.packed)


@pytest.mark.deep
def test_four_bits_begin_as_sixteen_do(tmp_path):
    """On SmolLM2: greedy completions of a 4-bit cache begin like those of 16 bits on most prompts."""
    import random
    import subprocess
    import sys
    from pathlib import Path
    from pydoc_data import topics

    from antkv.codebook import load
    from tenfold_shared.models import load_causal_lm

    text = "\n\n".join(topics.topics[name] for name in sorted(topics.topics))
    (tmp_path / "text.txt").write_text(text[:120_000])
    book = tmp_path / "four.safetensors"
    subprocess.run(
        [Path(sys.executable).parent / "antkv", "calibrate", tmp_path / "text.txt", "--bits", "4", "--tokens", "8192", "--length", "512", "--dtype", "float32", "-o", book, "-q"],
        check=True,
    )  # fmt: skip
    model, tokenizer = load_causal_lm("smollm2", dtype="float32", device="cpu")
    late, same = random.Random(0), 0
    for _ in range(10):
        at = late.randrange(130_000, len(text) - 3000)
        prompt = tokenizer(text[at : at + 1500], return_tensors="pt")["input_ids"]
        truth = model.generate(prompt, max_new_tokens=8, do_sample=False)
        with attached(model):
            cache = AntCache(model, load(str(book)), Settings(window=32))
            mine = model.generate(prompt, max_new_tokens=8, do_sample=False, past_key_values=cache)
        same += torch.equal(mine, truth)
    assert same >= 7, same
