"""The proxy language model beside an independent one in float64, and its state, schedule of the rate and configuration."""

import math

import msgspec
import numpy as np
import pytest
import torch
from datamix_corpus import make_corpus
from hypothesis import given, settings
from hypothesis import strategies as st

from datamix import gradient
from datamix.proxy import PRESETS, Held, Proxy, ProxyConfig, config_of, parted, train_base
from tenfold_shared import BadInput

SMALL = ProxyConfig(width=12, layers=2, heads=3, context=10, batch=4, base_updates=20)


def reference(proxy, rows, weights=None):
    """Loss [n, L] in float64 and the gradient of its mean, from the definition: no kernel of the proxy's, autograd over plain sums."""
    c = proxy.config
    p = {name: x.detach().double().requires_grad_(True) for name, x in proxy.views.items()}
    losses = []
    for row in rows.tolist():
        h = torch.stack([p["tokens"][token] + p["positions"][t] for t, token in enumerate(row[:-1])])
        for i in range(c.layers):
            q, k, v = (unit(h) @ p[f"qkv{i}"].t()).chunk(3, dim=1)
            heads = []
            wide = c.width // c.heads
            for j in range(c.heads):
                own = slice(j * wide, (j + 1) * wide)
                scores = q[:, own] @ k[:, own].t() / math.sqrt(wide)
                scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -math.inf)
                heads.append(scores.exp() / scores.exp().sum(1, keepdim=True) @ v[:, own])
            h = h + torch.cat(heads, 1) @ p[f"out{i}"].t()
            h = h + (unit(h) @ p[f"up{i}"].t()).clamp(min=0) @ p[f"down{i}"].t()
        logits = unit(h) @ p["tokens"].t()
        logs = logits - logits.exp().sum(1, keepdim=True).log()
        losses.append(torch.stack([-logs[t, token] for t, token in enumerate(row[1:])]))
    found = torch.stack(losses)
    of_rows = found.mean(1) if weights is None else found.mean(1) * weights.double()
    of_rows.mean().backward()
    return found.detach(), torch.cat([x.grad.reshape(-1) for x in p.values()])


def unit(h):
    return h / (h.square().mean(1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt()


def random_rows(n, length, vocabulary, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, vocabulary, (n, length + 1)))


def louder(proxy):
    """Weights so large that every part of the model matters."""
    with torch.no_grad():
        proxy.flat.mul_(3)
    return proxy


def off(a, b):
    return float((a - b).norm() / b.norm())


# ---------------------------------------------------------------- the model and its gradient


@pytest.mark.parametrize("length", [10, 7, 1])
@pytest.mark.parametrize("by_hand", [True, False])
def test_losses_and_gradient_are_those_of_the_definition(monkeypatch, by_hand, length):
    monkeypatch.setattr(gradient, "possible", lambda proxy: by_hand)
    proxy = louder(Proxy(SMALL, 17, seed=1))
    rows = random_rows(5, length, 17)
    losses, wanted = reference(proxy, rows)
    assert torch.allclose(proxy.losses(rows).double(), losses, atol=1e-5)
    assert proxy.backward(rows) == pytest.approx(float(losses.mean()), abs=1e-6)
    assert off(proxy.gradient.double(), wanted) < 1e-5


@pytest.mark.parametrize("by_hand", [True, False])
def test_weighted_rows_weigh_in_loss_and_gradient(monkeypatch, by_hand):
    monkeypatch.setattr(gradient, "possible", lambda proxy: by_hand)
    proxy = louder(Proxy(SMALL, 17, seed=1))
    rows, weights = random_rows(4, 10, 17), torch.tensor([0.0, 0.5, 1.0, 2.5])
    losses, wanted = reference(proxy, rows, weights)
    assert proxy.backward(rows, weights) == pytest.approx(float((losses.mean(1) * weights).mean()), abs=1e-6)
    assert off(proxy.gradient.double(), wanted) < 1e-5


@settings(deadline=None, max_examples=25)
@given(
    heads=st.integers(1, 3), wide=st.integers(1, 9), layers=st.integers(0, 3), length=st.integers(1, 9),
    n=st.integers(1, 7), vocabulary=st.integers(2, 40), part=st.integers(1, 40), seed=st.integers(0, 99),
)  # fmt: skip
def test_gradient_by_hand_is_autograds(heads, wide, layers, length, n, vocabulary, part, seed):
    """Any shape, rows in parts of any size. Both are float32: where a norm's backward nearly cancels they were seen 1e-4
    apart; a wrong term is off by far more, and the shapes above hold to 1e-5 of float64."""
    proxy = louder(Proxy(ProxyConfig(width=heads * wide, layers=layers, heads=heads, context=9), vocabulary, seed))
    rows, weights = random_rows(n, length, vocabulary, seed), torch.linspace(0.2, 2, n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradient, "possible", lambda proxy: False)
        wanted = proxy.backward(rows, weights), proxy.gradient.clone()
        patch.setattr(gradient, "PART", part)
        found = gradient.fill(proxy, rows, weights), proxy.gradient
        assert found[0] == pytest.approx(wanted[0], rel=1e-5)
        assert off(found[1], wanted[1]) < 1e-3


def test_this_machine_takes_the_gradient_by_hand():
    assert gradient.possible(Proxy(SMALL, 17, 0))


def test_parts_add_up(monkeypatch):
    proxy = louder(Proxy(SMALL, 17, 0))
    rows = random_rows(9, 10, 17)
    whole = proxy.backward(rows), proxy.gradient.clone()
    monkeypatch.setattr(gradient, "PART", 20)  # two rows
    assert proxy.backward(rows) == pytest.approx(whole[0], rel=1e-6)
    assert off(proxy.gradient, whole[1]) < 1e-6


def test_a_hopeless_prediction_is_a_large_loss_and_a_lost_model_no_number():
    proxy = Proxy(SMALL, 17, 0)
    with torch.no_grad():
        proxy.flat.mul_(1e4)
    assert 20 < proxy.backward(random_rows(4, 10, 17)) < math.inf
    with torch.no_grad():
        proxy.flat[5] = math.nan
    assert math.isnan(proxy.backward(random_rows(4, 10, 17, seed=3)))


def test_bfloat16_learns_as_float32_does():
    rows = np.tile(np.arange(65) % 7, (16 * 40, 1))
    rows[::2] = (rows[::2] * 3) % 7
    ends = []
    for precision in ("float32", "bfloat16"):
        proxy = Proxy(ProxyConfig(precision=precision), 7, 0)
        ends.append([proxy.train(rows[k : k + 160]) for k in range(0, len(rows), 160)])
    assert ends[0][-1] < 0.2 * ends[0][0]
    assert np.allclose(ends[0], ends[1], rtol=0.05, atol=0.02)


def test_one_update_is_adams():
    """First step of Adam: every parameter with a gradient goes by the rate, against its sign."""
    config = msgspec.structs.replace(SMALL, warmup=0, lr=1e-3)
    proxy = louder(Proxy(config, 17, 0))
    before, rows = proxy.flat.detach().clone(), random_rows(4, 10, 17)
    _, wanted = reference(proxy, rows)
    proxy.train(rows.numpy())
    large = wanted.abs() > 1e-4
    moved = (proxy.flat.detach() - before).double()
    assert large.sum() > 100
    assert torch.allclose(moved[large], -1e-3 * wanted[large].sign(), atol=2e-6)


def test_parameters_are_counted():
    for config in (SMALL, PRESETS["22k"], PRESETS["123k"]):
        assert len(Proxy(config, 256, 0).flat) == config.parameters(256)


# ---------------------------------------------------------------- state


def test_state_and_restore_go_on_bit_for_bit():
    config = msgspec.structs.replace(SMALL, decay="cosine")
    rows = random_rows(48, 10, 17).numpy()
    straight = Proxy(config, 17, 0)
    straight.train(rows[:24], 12)
    saved = straight.state()
    again = Proxy(config, 17, seed=99)  # other weights, which restore replaces
    again.restore(saved)
    losses = straight.train(rows[24:]), again.train(rows[24:])
    assert losses[0] == losses[1]
    assert straight.updates == again.updates == 12
    for name, one in straight.state().items():
        assert torch.equal(one, again.state()[name]), name
    assert not torch.equal(saved["flat"], straight.state()["flat"])  # what was saved is a copy


def test_begin_forgets_the_optimiser_and_keeps_the_model():
    proxy = Proxy(SMALL, 17, 0)
    proxy.train(random_rows(8, 10, 17).numpy(), 50)
    flat = proxy.flat.detach().clone()
    proxy.begin()
    state = proxy.state()
    assert torch.equal(state["flat"], flat)
    assert not state["first"].any() and not state["second"].any()
    assert proxy.updates == 0 and proxy.total is None and proxy.rate() == pytest.approx(SMALL.lr / SMALL.warmup)


# ---------------------------------------------------------------- rates


def rates(total, **how):
    proxy = Proxy(msgspec.structs.replace(SMALL, **how), 17, 0)
    proxy.total, found = total, []
    for proxy.updates in range(total or 10):
        found.append(proxy.rate())
    return found


def test_rate_rises_in_warmup_and_stays():
    assert rates(None, lr=1.0, warmup=4) == pytest.approx([0.25, 0.5, 0.75, *[1.0] * 7])


def test_rate_falls_in_a_line_or_by_a_cosine_to_nothing():
    assert rates(8, lr=1.0, warmup=4, decay="linear") == pytest.approx([0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0])
    half = math.cos(math.pi / 4)
    wanted = [0.25, 0.5, 0.75, 1, (1 + half) / 2, 0.5, (1 - half) / 2, 0]
    assert rates(8, lr=1.0, warmup=4, decay="cosine") == pytest.approx(wanted, abs=1e-12)


def test_rate_of_a_run_of_unknown_length_is_constant():
    assert rates(None, lr=1.0, warmup=0, decay="cosine") == pytest.approx([1.0] * 10)


# ---------------------------------------------------------------- evaluation and bases


def test_evaluate_is_bits_per_byte_by_brute_force(tmp_path):
    corpus = make_corpus(tmp_path, 2000, valid=700)
    proxy = louder(Proxy(SMALL, 256, 0))
    for half in ("feedback", "score"):
        held = Held(corpus, 10, 60, half)
        found = proxy.evaluate(held)
        for d, one in enumerate(corpus.domains):
            array = np.asarray(corpus.tokens(one.name, "valid")).astype(np.int64)
            middle = len(array) // 2
            array = array[:middle] if half == "feedback" else array[middle:]
            places = (np.arange(6) * ((len(array) - 11) / 5)).astype(int)
            rows = torch.from_numpy(np.stack([array[at : at + 11] for at in places]))
            nats = float(reference(proxy, rows)[0].mean())
            wanted = nats / math.log(2) * one.valid.tokens / one.valid.bytes
            assert found[d] == pytest.approx(wanted, rel=1e-5)


def test_feedback_and_score_text_do_not_overlap(tmp_path):
    corpus = make_corpus(tmp_path, 2000, valid=700)
    array = np.asarray(corpus.tokens("alpha", "valid"))
    held = {half: Held(corpus, 10, 10**6, half) for half in ("feedback", "score")}
    middle = len(array) // 2
    last = held["feedback"].rows[held["feedback"].counts[0] - 1].numpy()
    assert np.array_equal(last, array[middle - 11 : middle])
    assert np.array_equal(held["score"].rows[0].numpy(), array[middle : middle + 11])


def test_feedback_and_score_text_share_no_document(tmp_path):
    """Rows without gaps put the halves together again: the documents of the one are not those of the other."""
    corpus = make_corpus(tmp_path, 2000, valid=700, document=90)
    for d, one in enumerate(corpus.domains):
        documents = np.asarray(corpus.tokens(one.name, "valid")).tobytes().split(b"\0")[:-1]
        text = {}
        for half in ("feedback", "score"):
            held = Held(corpus, 10, 10**6, half)
            before = sum(held.counts[:d])
            text[half] = held.rows[before : before + held.counts[d]].numpy().astype(np.uint8)
        assert text["feedback"][-1, -1] == 0  # the end of a document
        assert documents[3].startswith(text["score"][0].tobytes()) or documents[4].startswith(
            text["score"][0].tobytes()
        )


@given(st.lists(st.integers(0, 3), min_size=4, max_size=60), st.integers(1, 12))
def test_text_is_cut_at_the_document_nearest_to_the_middle(text, least):
    n, found = len(text), parted(np.array(text, dtype=np.uint8), 0, least)
    able = [i + 1 for i, token in enumerate(text) if token == 0 and min(i + 1, n - i - 1) >= max(n / 3, least)]
    if able:
        assert found in able and abs(found - n / 2) == min(abs(i - n / 2) for i in able)
    else:
        assert found == n // 2


def test_held_out_text_shorter_than_a_row_is_named(tmp_path):
    corpus = make_corpus(tmp_path, 2000, valid=60)
    with pytest.raises(BadInput, match=r"alpha: 64 valid tokens are fewer than two rows of 65; add text"):
        Held(corpus, 64, 100, "score")


def test_a_base_is_the_same_bytes_and_knows_what_it_was_trained_on(tmp_path):
    corpus = make_corpus(tmp_path, 6000)
    config = msgspec.structs.replace(PRESETS["22k"], base_updates=60, context=16)
    ticks = []
    bases = [train_base(config, corpus, np.array([1.0, 0, 0, 0]), 3, tick=lambda: ticks.append(1)) for _ in range(2)]
    assert torch.equal(bases[0].flat, bases[1].flat)
    assert len(ticks) == 4  # after 50 and 60 updates, twice
    assert bases[0].updates == 0 and bases[0].rate() == pytest.approx(config.lr / config.warmup)
    held = Held(corpus, 16, 400, "score")
    before, after = Proxy(config, 256, 3).evaluate(held), bases[0].evaluate(held)
    gain = before - after
    assert gain[0] == max(gain) and gain[0] > 1
    other = train_base(config, corpus, np.array([1.0, 0, 0, 0]), 4)
    assert not torch.equal(other.flat, bases[0].flat)


# ---------------------------------------------------------------- configurations


def test_config_of_reads_presets_and_files(tmp_path):
    assert config_of("123k") is PRESETS["123k"]
    path = tmp_path / "own.toml"
    path.write_text('width = 48\nheads = 3\ndecay = "cosine"\n')
    assert config_of(str(path)) == ProxyConfig(width=48, heads=3, decay="cosine")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("width = 33\n", "a width that the heads divide"),
        ("layers = 0\n", "sizes of 1 or more"),
        ("lr = 0.0\n", "rates above 0"),
        ("wide = 3\n", "wide: unknown field"),
        ('decay = "steps"\n', "decay"),
        ("width = \n", "own.toml: "),
        ('width = "a"\n', "width"),
    ],
)
def test_config_of_names_what_is_wrong(tmp_path, text, told):
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(BadInput) as raised:
        config_of(str(path))
    assert told in str(raised.value) and str(path) in str(raised.value)


def test_config_of_names_presets_and_missing_files(tmp_path):
    with pytest.raises(BadInput, match=r"--proxy 1b: expected one of 22k, 35k, .* or a FILE\.toml"):
        config_of("1b")
    with pytest.raises(BadInput, match=r"no\.toml: no such file"):
        config_of(str(tmp_path / "no.toml"))
