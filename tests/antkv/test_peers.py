"""What antkv is compared with: quantisers against a re-statement in plain numpy, eviction against the sums of dense attention,
bytes against counts written out, and what is refused."""

import itertools
import json
import math

import msgspec
import numpy as np
import pytest
import torch
from ant_models import antkv, codebook, dense, tiny
from scipy import stats
from scipy.special import ndtr
from test_cache import F32, fed, ids

from antkv import evaluate, verbs
from antkv.cache import Settings, attached
from antkv.codebook import Codebook
from antkv.peers import NORMAL, QUANTISERS, Evict, PeerCache, QuantoCache
from antkv.rope import Rope
from tenfold_shared import BadInput

METHODS = ["kivi", "kvquant", "skvq", "evict"]
THREE = {"hidden_size": 192, "head_dim": 64, "num_attention_heads": 3, "num_key_value_heads": 3}  # 192 channels a layer

# ------------------------------------------------------------ quantisers in plain numpy, a vector at a time


def rounded(x):
    return np.float32(np.float16(x))


def minmax(x, bits, clip=1.0):
    """What comes back of a vector between its least and greatest, clipped around their middle."""
    middle, half = (x.min() + x.max()) / 2, (x.max() - x.min()) / 2 * np.float32(clip)
    low, step = rounded(middle - half), rounded(2 * half / (2**bits - 1))
    return np.clip(np.rint((x - low) / step), 0, 2**bits - 1).astype(np.float32) * step + low


def lloyd(bits):
    """Levels that are the means of their cells under a standard normal distribution: the iteration itself."""
    levels = np.linspace(-2, 2, 2**bits)
    for _ in range(5_000):
        edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
        levels = -np.diff(np.exp(-(edges**2) / 2) / math.sqrt(2 * math.pi)) / np.diff(ndtr(edges))
    return levels.round(5)


def normal(x, levels):
    """A vector's 1 % farthest from its mean exact, the rest at the nearest level of their own mean and deviation."""
    far = np.argsort(-abs(x - x.mean()))[: math.ceil(len(x) / 100)]
    rest = np.delete(x, far)
    nearest = abs(((x - rest.mean()) / rest.std())[:, None] - levels).argmin(1)
    back = levels[nearest] * rounded(rest.std()) + rounded(rest.mean())
    back[far] = x[far].astype(np.float16)
    return back


def turned(keys):
    """Keys (H, n, D) rotated by RoPE's angles with base 10,000."""
    _, n, dim = keys.shape
    angles = np.outer(np.arange(n), 10_000.0 ** (-np.arange(0, dim, 2) / dim))
    pairs = (keys[..., : dim // 2] + 1j * keys[..., dim // 2 :]) * np.exp(1j * angles)
    return np.concatenate([pairs.real, pairs.imag], -1)


def kivi(keys, values, bits, state):
    back_k, back_v = np.empty_like(keys), np.empty_like(values)
    heads, n, dim = keys.shape
    for h in range(heads):
        for at in range(0, n, 32):
            for d in range(dim):
                back_k[h, at : at + 32, d] = minmax(keys[h, at : at + 32, d], bits)
        for t in range(n):
            for d in range(0, dim, 32):
                back_v[h, t, d : d + 32] = minmax(values[h, t, d : d + 32], bits)
    return back_k, back_v


def kvquant(keys, values, bits, state):
    levels = state.setdefault("levels", lloyd(bits))
    back_k, back_v = np.empty_like(keys), np.empty_like(values)
    heads, n, dim = keys.shape
    for h in range(heads):
        for d in range(dim):
            back_k[h, :, d] = normal(keys[h, :, d], levels)
        for t in range(n):
            back_v[h, t] = normal(values[h, t], levels)
    return back_k, back_v


def skvq(keys, values, bits, state):
    """Channels of a kind are a group, over all heads."""
    out = []
    for x in (keys, values):
        heads, n, dim = x.shape
        flat = x.transpose(1, 0, 2).reshape(n, heads * dim)
        back = np.empty_like(flat)
        for t in range(n):
            for kind in range(3):
                group = flat[t, kinds() == kind]
                tried = [minmax(group, bits, clip) for clip in (1.0, 0.95, 0.9, 0.85, 0.8)]
                back[t, kinds() == kind] = min(tried, key=lambda found: float(((found - group) ** 2).sum()))
        out.append(back.reshape(n, heads, dim).transpose(1, 0, 2))
    return out


BY_HAND = {"kivi": (kivi, 0), "kvquant": (kvquant, 1), "skvq": (skvq, 5)}  # and first tokens kept


def closed(method, rope, k, v, bits=2, step=56):
    """What a layer has of the 192 tokens that it has closed of 224."""
    layer = QUANTISERS[method][0](0, bits, rope, Settings(window=32, block=64, dtype=F32))
    for at in range(0, 224, step):
        pending, _ = layer.update(k[:, :, at : at + step], v[:, :, at : at + step])
        layer.attend(torch.ones(1, 3, step, 64), pending, None, 0.125)
    assert layer.closed == 192
    return layer.dequantised(F32)


def kinds():
    """Of each of the 192 channels whether it is narrow, wide or shifted: 50, 62 and 80 of them, anywhere."""
    return np.random.default_rng(0).permutation([0] * 50 + [1] * 62 + [2] * 80)


def drawn(method):
    """Keys and values (1, 3, 224, 64) whose channels are of three kinds; for skvq, which tells them apart, far from each
    other."""
    draw = torch.Generator().manual_seed(3)
    spread, middle = (
        torch.tensor(row)[kinds()].reshape(3, 1, 64)
        for row in ([0.5, 3.0, 0.7], [0.2, -0.5, 12.0 if method == "skvq" else 0.3])
    )
    return [torch.randn(1, 3, 224, 64, generator=draw) * spread + middle for _ in range(2)]


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("method", BY_HAND)
def test_quantisers_are_their_re_statement_by_hand(method, bits):
    """Three blocks of random keys and values, number by number; first tokens as they came. A mean or deviation of kvquant may
    round to the next number of 16 bits, which is less than a level."""
    (by_hand, first), given = BY_HAND[method], drawn(method)
    state, expected = {}, []
    for at in (0, 64, 128):
        block = [x[0, :, max(at, first) : at + 64].numpy() for x in given]
        expected.append(by_hand(*block, bits, state))
    for which, (found, x) in enumerate(zip(closed(method, None, *given, bits), given, strict=True)):
        assert torch.equal(found[:, :, :first], x[:, :, :first])
        by_number = np.concatenate([block[which] for block in expected], 1)
        assert np.abs(found[0, :, first:].numpy() - by_number).max() < (1e-2 if method == "kvquant" else 2e-5)
        assert (found - x[:, :, :192]).square().mean() / x.var(2).mean() < {2: 0.3, 4: 0.02}[bits]


@pytest.mark.parametrize("method", BY_HAND)
def test_keys_are_quantised_on_their_side_of_rope(method):
    """KIVI keys as they come; KVQuant and SKVQ before the rotation: a layer that is given keys without one, turned."""
    k, v = drawn(method)
    rope, before = Rope(tiny(**THREE)), QUANTISERS[method][1]
    assert before == (method != "kivi")
    plain = rope.unrotate(k, torch.arange(224)[None])
    assert np.abs(turned(plain[0].numpy()) - k[0].numpy()).max() < 1e-3
    keys, values = closed(method, rope, k, v)
    found, same = closed(method, None, plain, v)
    assert torch.equal(values, same)
    assert torch.equal(keys, closed(method, rope, k, v, step=224)[0])  # all blocks at once
    assert np.abs(turned(found[0].numpy()) - keys[0].numpy()).max() < 1e-3


@pytest.mark.parametrize("score", ["bound2", "mass", "random"])
def test_evict_keeps_the_largest_mass_of_dense_attention(score):
    """Whatever antkv is scored by: Σ_i A_ij over the queries that saw a token in the window, a head and a block at a time."""
    draw = torch.Generator().manual_seed(0)
    layer = Evict(0, 0.3, Settings(window=16, block=16, dtype=F32, score=score))
    sizes = (12, 12, 60, 1, 11, 48)  # some close a block, some none, some several
    chunks = [[torch.randn(1, heads, size, 16, generator=draw) for heads in (4, 2, 2)] for size in sizes]
    outs = []
    for q, k, v in chunks:
        pending, _ = layer.update(k, v)
        outs.append(layer.attend(3 * q, pending, None, 0.25))

    def brute_force(power):
        """What two heads kept, and the attention on it."""
        kept, attended = [], []
        for h in range(2):
            held, window, closed, out = [], [], 0, []
            for q, k, v in chunks:
                window += [[k[:, h, t], v[:, h, t], 0.0] for t in range(k.shape[2])]
                every = [*held, *window]
                keys, values = (torch.stack([row[i] for row in every], 1)[:, None] for i in (0, 1))
                weights, answer = dense(3 * q[:, 2 * h : 2 * h + 2], keys, values, 0.25)
                out.append(answer)
                for row, mass in zip(window, weights.pow(power).sum((0, 1, 2))[len(held) :], strict=True):
                    row[2] += float(mass)
                while len(window) >= 32:
                    closed += 16
                    best = sorted(range(16), key=lambda t: -window[t][2])[: math.floor(0.3 * closed) - len(held)]
                    held += [window[t] for t in sorted(best)]
                    window = window[16:]
            kept.append(torch.cat([row[0] for row in held]))
            attended.append(torch.cat(out, 2))
        return torch.stack(kept)[None], torch.cat(attended, 1)

    kept, attended = brute_force(1)
    assert torch.equal(layer.dequantised(F32)[0], kept) and kept.shape[2] == math.floor(0.3 * 128)
    assert torch.allclose(torch.cat(outs, 2).double(), attended, atol=1e-5)
    assert not torch.equal(brute_force(2)[0], kept)  # the squares would have kept others


# ------------------------------------------------------------ in a model

# Bytes a layer of 3 stored heads of 64 channels at 2 bits: 192 closed tokens in 3 blocks, 64 in the window.
CHANNELS, NUMBERS = 192, 2 * 192 * 192
EXACT = 2 * 2 * CHANNELS  # keys and values of a token in 16 bits
COUNTED = {
    # 2 bits, and two scales of 16 bits for 32 numbers
    "kivi": {"index": NUMBERS * 2 // 8 + NUMBERS // 32 * 4, "anchors": 0, "window": 64 * EXACT},
    # of each vector 16 bytes (63 or 64 indices), mean and deviation, a number with its place
    "kvquant": {
        "index": 3 * CHANNELS * (16 + 4 + 4) + 191 * 3 * (16 + 4 + 4),
        "anchors": EXACT,
        "window": 64 * EXACT,
    },
    # of each token 192 indices and 3 groups with two scales, for keys and for values; and each channel's group
    "skvq": {"index": 187 * 2 * (48 + 3 * 4) + 2 * CHANNELS, "anchors": 5 * EXACT, "window": 64 * EXACT},
    # a tenth of the closed tokens; the mass of the window's
    "evict": {"index": 19 * EXACT, "anchors": 0, "window": 64 * EXACT + 64 * 3 * 4},
}


@pytest.mark.parametrize("method", METHODS)
def test_bytes_are_counted_by_hand(method):
    model = tiny(**THREE)
    cache = PeerCache(model, method, Settings(window=64, block=64), bits=2, share=0.1)
    with attached(model):
        fed(model, ids(1, 256), cache, 64)
    for layer in cache.packed:
        assert layer.parts() == COUNTED[method]
        tensors = [layer.window_k, layer.window_v, *(t for block in layer.blocks for t in block.values())]
        assert all(t.untyped_storage().nbytes() == t.nbytes for t in tensors)  # no view keeps something larger alive
    assert cache.effective_bits() == pytest.approx(8 * sum(COUNTED[method].values()) / (2 * CHANNELS * 256))


@pytest.mark.parametrize("method", METHODS)
def test_more_bits_are_closer_and_nothing_closed_is_the_model_itself(method):
    model, tokens = tiny(head_dim=32), ids(1, 128)
    with torch.inference_mode():
        truth = model(input_ids=tokens).logits
    errors = []
    for window, bits, share in ((1000, 2, 0.2), (32, 4, 1.0), (32, 2, 0.2)):
        cache = PeerCache(model, method, Settings(window=window, block=32, dtype=F32), bits=bits, share=share)
        with attached(model):
            errors.append(float((fed(model, tokens, cache, 32) - truth).abs().mean()))
    assert errors[0] < 1e-4 and errors[1] < 0.6 * errors[2]
    assert method != "evict" or errors[1] < 1e-4  # all tokens kept


@pytest.mark.parametrize("method", METHODS)
def test_rows_reordered_and_a_reset_go_on_as_they_should(method):
    model, tokens, order = tiny(head_dim=32), ids(2, 96), torch.tensor([1, 0])
    caches = [PeerCache(model, method, Settings(window=32, block=32, dtype=F32), share=0.2) for _ in range(2)]
    with attached(model):
        first = fed(model, tokens, caches[0], 32)
        for layer in caches[0].layers:
            layer.reorder_cache(order)
        fed(model, tokens[order], caches[1], 32)
        after = [fed(model, ids(2, 32, seed=9), cache, 8) for cache in caches]
        assert torch.allclose(*after, atol=1e-4)
        for layer in caches[0].layers:
            layer.reset()
        assert sum(caches[0].parts().values()) == 0
        assert torch.equal(fed(model, tokens, caches[0], 32), first)


def test_what_does_not_fit_is_refused(folder, books):
    for method, how, block, said in (
        ("kivi", {"head_dim": 32}, 16, "kivi: --block 16: .*multiple of 32"),
        ("kivi", {"head_dim": 48}, 32, "kivi: head_dim 48: .*multiple of 32"),
    ):
        with pytest.raises(BadInput, match=said):
            PeerCache(tiny(**how), method, Settings(block=block))
    model = tiny(head_dim=32)
    cache = PeerCache(model, "kivi", Settings(block=32))
    with attached(model), pytest.raises(BadInput, match="no padding"):
        fed(model, ids(1, 4), cache, 4, torch.tensor([[0, 1, 1, 1]]))
    done = compare(folder, books, "--length", 128, "--block", 16, "--methods", "antkv,kivi")
    assert done.returncode == 2 and "kivi: --block 16" in done.stderr and "Traceback" not in done.stderr


# ------------------------------------------------------------ the verb


def compare(folder, books, *more):
    return antkv(
        "compare", folder / "text.txt", "--model", folder, "--codebook", books["codebook"], "--windows", 1, "--window", 16,
        "--json", "-q", *more,
    )  # fmt: skip


@pytest.mark.deep
def test_transformers_own_cache_is_read_at_its_mean_window(folder, books):
    """Steps of 16 with a window of 16: 0 and 16 exact tokens by turns, 8 on average; the rest 2 bits and, in groups of 32,
    two numbers that are charged 16 bits though the model's are 32."""
    row = compared_row(folder, books, "--length", 256, "--block", 16, "--dtype", "float32")
    assert row["effective_bits"] == pytest.approx(3 * (1 - 8 / 256) + 16 * 8 / 256) and row["kl"] > 0
    assert "saw-tooths, 0 to 16 tokens" in row["note"]
    done = compare(folder, books, "--length", 256, "--protocol", "prefill", "--methods", "antkv,quantized-cache")
    assert done.returncode == 2 and "would look lossless" in done.stderr


def compared_row(folder, books, *more):
    done = compare(folder, books, "--methods", "antkv,quantized-cache", *more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["methods"][2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.deep
def test_its_bits_do_not_depend_on_where_a_run_ends(dtype):
    model, draw, found = tiny(num_hidden_layers=1), torch.Generator().manual_seed(0), []
    cache = QuantoCache(model, 2, 128)
    for _ in range(24):
        cache.update(*(torch.randn(1, 2, 64, 16, generator=draw).to(dtype) for _ in range(2)), 0)
        found.append(cache.effective_bits())
    assert cache.exact[:7] == [0, 64, 128, 0, 64, 128, 0]
    window = sum(cache.exact[:17]) / 17
    assert found[16] == pytest.approx(3 + 13 * window / (17 * 64))
    assert all(abs(a - b) < 0.3 for a, b in itertools.pairwise(found[11:]))
    assert found[-1] == pytest.approx(3 + 13 * 64 / 1536, abs=0.02)


def test_transformers_own_cache_wants_full_attention():
    model = tiny(
        "gemma", layer_types=["sliding_attention", "full_attention"], sliding_window=8, query_pre_attn_scalar=16
    )
    with pytest.raises(BadInput, match=r"quantized-cache: .*full attention layers"):
        QuantoCache(model, 2, 128)


def test_a_plain_codebook_is_plain_and_like_the_other(folder, books):
    done = compare(folder, books, "--length", 128, "--methods", "antkv,cq", "--plain-codebook", books["codebook"])
    assert done.returncode == 2 and "was made with --weights bound2, expected none" in done.stderr
    book = codebook(tiny())
    plain = msgspec.structs.replace(book.made, weights="none", left_out=0.0)
    verbs._check_plain(Codebook(plain, {}, {}), book)
    for change, said in (
        ({"weights": "bound"}, "--weights bound, expected none"),
        ({"left_out": 0.01}, "--leave-out 0.01, expected 0"),
        ({"rope": "post"}, "--rope post, expected pre"),
        ({"dim": 8}, "--dim 8, expected 4"),
        ({"centroids": 256}, "--centroids 256, expected 16"),
        ({"scope": "layer"}, "--codebook-scope layer, expected head"),
    ):
        with pytest.raises(BadInput, match=f"p.safetensors: was made with {said}"):
            verbs._check_plain(Codebook(msgspec.structs.replace(plain, **change), {}, {}, "p.safetensors"), book)


@pytest.mark.parametrize("bits", NORMAL)
def test_levels_are_lloyd_and_maxs(bits):
    assert NORMAL[bits] == pytest.approx(lloyd(bits), abs=1e-9)


def test_intervals_are_students():
    for freedom in (*range(1, 41), 199, 1000):
        assert evaluate.student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)
    ones, tallies = torch.ones(4, dtype=torch.float64), (evaluate.Tally(), evaluate.Tally())
    for shift in (0.0, 1.0, 3.0):
        for tally, nll in zip(tallies, (ones + shift, ones), strict=True):
            tally.add(evaluate.Window(nll, ones, ones))
        if len(tallies[0].seen) == 1:
            assert tallies[0].against(tallies[1]) == {
                "nll_difference": 0.0, "stderr": None, "low": None, "high": None,
            }  # fmt: skip
    found = tallies[0].against(tallies[1])
    low, high = stats.t.interval(0.95, 2, np.mean([0, 1, 3]), stats.sem([0, 1, 3]))
    assert (found["low"], found["high"]) == (pytest.approx(low), pytest.approx(high))
