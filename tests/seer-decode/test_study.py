"""The study: its figures against plain definitions, methods in the order they must have, needles, the verb and its refusals."""

import json

import pytest
import torch
from seer_models import here, seer
from tiny_models import make_lm, make_tokenizer

from seer_decode.cache import SeerCache, attached
from seer_decode.gate import Gates
from seer_decode.measure import Case, Study, Tally, needles, windows
from seer_decode.select import Policy
from seer_decode.study import figures
from tenfold_shared import BadInput


@pytest.fixture(scope="module")
def lm():
    made = make_lm(max_position_embeddings=2048, head_dim=8)
    for parameter in made.parameters():
        parameter.data *= 2.0 if parameter.dim() > 1 else 1.0
    return made


def ids(count, seed=0):
    return torch.randint(3, 340, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def test_figures_are_those_of_steps_through_the_cache(lm):
    """Each case decoded token by token with a cache of its own; coverage from attention written out."""
    gates, text, count = Gates.of(lm.config, seed=1, block=16), ids(120), 10
    found = [
        Case(m, Policy("budget", 48, 16), gates if m == "seer" else None) for m in ("oracle", "seer", "quest", "recent")
    ]
    study = Study(lm, [*found, Case("recent", Policy("budget", 64, 32))])
    study.window(text, count)
    dense = lm(torch.tensor([text])).logits[0, -count - 1 : -1].log_softmax(-1)
    assert study.dense.nll[0] == pytest.approx(-dense[range(count), text[-count:]].mean().item(), abs=1e-4)
    assert (
        study.dense.kl[0] == pytest.approx(0, abs=1e-6)
        and study.dense.agree == [1.0]
        and study.dense.mass[0] == pytest.approx(1)
    )
    for case, tally in zip(study.cases, study.tallies, strict=True):
        with attached(lm), torch.no_grad():
            cache = SeerCache(lm, case.policy, case.method, case.gates)
            lm(torch.tensor([text[: -count - 1]]), past_key_values=cache)
            logits = [lm(torch.tensor([[t]]), past_key_values=cache).logits[0, 0] for t in text[-count - 1 : -1]]
        logs = torch.stack(logits).log_softmax(-1)
        assert tally.nll[0] == pytest.approx(-logs[range(count), text[-count:]].mean().item(), abs=1e-4)
        assert tally.kl[0] == pytest.approx((dense.exp() * (dense - logs)).sum(-1).mean().item(), abs=1e-4)
        assert tally.agree[0] == pytest.approx((dense.argmax(-1) == logs.argmax(-1)).float().mean().item())
        assert tally.read[0] <= case.policy.value


def test_coverage_is_the_share_of_dense_attention(lm):
    """One layer, so that every method sees the same queries: shares by softmax over all keys, in float64."""
    one = make_lm(num_hidden_layers=1, max_position_embeddings=2048, head_dim=8)
    text, count = ids(90), 6
    study = Study(one, [Case("oracle", Policy("budget", 32, 16)), Case("recent", Policy("budget", 32, 16)), Case("random", Policy("budget", 32, 16))])  # fmt: skip
    study.window(text, count)
    one.set_attn_implementation("eager")
    weights = one(torch.tensor([text[:-1]]), output_attentions=True).attentions[0][0].double()  # (Hq, n, n)
    mass = peak = 0.0
    for row in range(len(text) - 1 - count, len(text) - 1):
        for head in range(2):
            group = weights[2 * head : 2 * head + 2, row, : row + 1]
            blocks = [group[:, at : at + 16] for at in range(0, row + 1, 16)]
            peaks = torch.stack([block.amax() for block in blocks])
            best = int(peaks[:-1].argmax())
            mass += (blocks[best].sum(-1).mean() + blocks[-1].sum(-1).mean()).item() / (2 * count)
            peak += (peaks[best] / peaks[:-1].sum()).item() / (2 * count)
    oracle, recent, random = study.tallies
    assert oracle.mass[0] == pytest.approx(mass, abs=1e-5) and oracle.peak[0] == pytest.approx(peak, abs=1e-5)
    assert oracle.peak[0] >= max(recent.peak[0], random.peak[0])


def test_the_oracle_covers_most_of_its_own_measure_and_more_is_never_less():
    """In one layer, where all methods see the same queries."""
    one = make_lm(num_hidden_layers=1, max_position_embeddings=2048, head_dim=8)
    gates, methods = Gates.of(one.config, seed=1, block=16), ("oracle", "seer", "quest", "recent", "random")
    study = Study(one, [Case(m, Policy("budget", 16 * n, 16), gates if m == "seer" else None) for m in methods for n in (2, 4, 8)])  # fmt: skip
    study.window(ids(200), 12)
    found = [tally.peak[0] for tally in study.tallies]
    made = {method: found[3 * at : 3 * at + 3] for at, method in enumerate(methods)}
    for method in methods:
        assert made[method] == sorted(made[method])
        assert all(a >= b - 1e-6 for a, b in zip(made["oracle"], made[method], strict=True))


def test_blocks_that_hold_next_to_nothing_still_sum_to_one():
    """Keys far above all others outside of what is read: e^-200 is no number to divide by."""
    one = make_lm(num_hidden_layers=1, max_position_embeddings=2048, head_dim=8)
    text, count = ids(90), 4
    with attached(one), torch.no_grad():
        outs = []
        for stepwise in (True, False):
            cache = SeerCache(one, Policy("budget", 16, 16), "recent")
            one(torch.tensor([text[:-count]]), past_key_values=cache)
            cache.layers[0].keys[:, :, :16] *= 1e4
            cache.stepwise = stepwise
            parts = [text[-count:]] if stepwise else [[t] for t in text[-count:]]
            outs.append(torch.cat([one(torch.tensor([part]), past_key_values=cache).logits for part in parts], 1))
    assert torch.isfinite(outs[0]).all() and torch.allclose(*outs, atol=1e-4)


def test_windows_are_spread_over_the_text():
    assert windows(range(100), 30, None) == [list(range(30 * i, 30 * i + 30)) for i in range(3)]
    assert [one[0] for one in windows(range(1000), 10, 4)] == [0, 250, 500, 750]
    with pytest.raises(BadInput, match="fewer than one window of 200"):
        windows(range(100), 200, None)
    with pytest.raises(BadInput, match="--windows 4: the text has 100 tokens, 3 windows of 30"):
        windows(range(100), 30, 4)


def test_needles_hold_statement_question_and_answer():
    tokenizer = make_tokenizer()
    made = needles(tokenizer, ids(5000), 400, 5, seed=3)
    assert made == needles(tokenizer, ids(5000), 400, 5, seed=3) and made != needles(
        tokenizer, ids(5000), 400, 5, seed=4
    )
    for one in made:
        assert len(one.ids) == 400
        answer = tokenizer.decode(one.ids[-one.answer :])
        question = tokenizer.decode(one.ids[-one.decoded : -one.answer])
        text = tokenizer.decode(one.ids[: -one.decoded])
        assert f"{question.strip()}{answer}. Remember it." in text and text.count("Remember it.") == 3
        assert answer.strip().isdecimal() and len(answer.strip()) == 5
    with pytest.raises(BadInput, match="too short for a needle"):
        needles(tokenizer, ids(5000), 60, 1, seed=0)


def test_a_needle_is_found_where_every_token_is_the_likeliest(lm):
    """Answers taken from what the model says itself are found; with another last token they are not."""
    made = needles(make_tokenizer(), ids(2000), 300, 1, seed=0)[0]
    begin = list(made.ids[: -made.answer])
    for _ in range(made.answer):
        begin.append(int(lm(torch.tensor([begin])).logits[0, -1].argmax()))
    right = made._replace(ids=begin)
    wrong = made._replace(ids=[*begin[:-1], (begin[-1] + 1) % 340])
    study = Study(lm, [Case("oracle", Policy("budget", 512, 16))])
    study.needle(right)
    study.needle(wrong)
    assert study.dense.needles == [True, False] and study.tallies[0].needles == [True, False]
    study.window(ids(100), 5)
    assert figures(study.dense)["needle"] == 0.5


def test_layers_that_slide_are_studied_too():
    import transformers

    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(
        vocab_size=340, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, sliding_window=16, layer_types=["sliding_attention", "full_attention"], query_pre_attn_scalar=8,
        use_bidirectional_attention=False,
    )  # fmt: skip
    lm = transformers.Gemma3ForCausalLM(config).eval()
    study = Study(lm, [Case("recent", Policy("budget", 512, 16)), Case("recent", Policy("budget", 32, 16))])
    study.window(ids(80), 8)
    assert study.tallies[0].kl[0] == pytest.approx(0, abs=1e-5) and study.tallies[1].read[0] <= 32
    study.window(ids(80), 1)  # one token has no spread
    assert figures(study.dense)["ppl_stderr"] >= 0


def test_columns():
    tally = Tally(nll=[1.0, 2.0, 3.0], kl=[0.1] * 3, agree=[1.0] * 3, read=[64.0] * 3, mass=[0.5] * 3, peak=[0.6] * 3)
    found = figures(tally)
    assert found["ppl"] == pytest.approx(7.389056) and found["ppl_stderr"] == pytest.approx(7.389056 / 3**0.5, abs=1e-4)
    assert found["coverage"] == 0.5 and found["coverage_peak"] == 0.6 and found["needle"] is None
    assert figures(Tally([1.0], [0.0], [1.0], [1.0], [1.0], [1.0], spread=0.5))["ppl_stderr"] == pytest.approx(
        2.718282 / 2, abs=1e-5
    )


def test_the_verb(model, gates, tmp_path):
    how = ["study", model / "text.txt", "--model", model, "--gate", gates / "16", "--gate", gates / "32", "--budgets", "64,128",
           "--length", 512, "--windows", 2, "--decode", 8, "--needles", 1, "--plot", tmp_path / "s.png", "--json"]  # fmt: skip
    done = seer(*how)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    rows = told["rows"]
    assert (told["windows"], told["length"], told["decoded"], told["needles"]) == (2, 512, 8, 1)
    assert [(r["method"], r["block"], r["budget"]) for r in rows[:6]] == [("dense", None, None), *((m, 16, 64) for m in ("oracle", "seer", "quest", "recent", "random"))]  # fmt: skip
    assert len(rows) == 1 + 5 * 2 * 2
    assert set(rows[1]) == {"method", "block", "budget", "coverage", "coverage_peak", "kl", "agree", "read", "ppl", "ppl_stderr", "needle"}  # fmt: skip
    assert all(0 < row["coverage"] <= 1.00001 and row["needle"] in (0.0, 1.0) for row in rows)
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(here(*how).stdout) == told  # the same command, the same figures


def test_a_table_and_what_is_told(model, gates):
    how = [
        "study",
        model / "text.txt",
        "--model",
        model,
        "--length",
        256,
        "--windows",
        1,
        "--decode",
        4,
        "--needles",
        0,
    ]
    done = here(*how, "--budgets", "70", "--blocks", "16,32", "--gate", gates / "16", "--methods", "seer,recent")
    assert done.returncode == 0 and "recent" in done.stdout and "dense" not in done.stdout
    assert "budget 70: rounded down to 64 tokens" in done.stderr
    assert "blocks of 32: no gate for them" in done.stderr and "under 8 times the least budget" in done.stderr
    reused = here(
        *how, "--budgets", "64", "--blocks", "32", "--gate", gates / "16", "--reuse-gate", "--methods", "seer", "--json"
    )
    assert (
        json.loads(reused.stdout)["rows"][0]["block"] == 32
        and "gates trained for blocks of 16 tokens are used at 32" in reused.stderr
    )


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--decode", 600, "--length", 512], "--decode 600"),
        (["--length", 4096], "the model has 2048 positions"),
        (["--budgets", 8, "--blocks", 16], "budget 8: expected tokens"),
        (["--blocks", 48], "--blocks: expected one of"),
        (["--methods", "best"], "expected some of dense, oracle"),
        (["--plot", "a.gif"], "ending in .png or .svg"),
        (["--length", 2000, "--windows", 50], "--windows 50"),
        (["--gate", "GATES/16", "--gate", "GATES/16"], "another --gate has blocks of 16"),
    ],
)
def test_what_it_refuses(model, gates, more, why):
    more = [gates / "16" if one == "GATES/16" else one for one in more]
    done = here(
        "study",
        model / "text.txt",
        "--model",
        model,
        "--methods",
        "recent",
        "--needles",
        0,
        "--length",
        512,
        "--decode",
        8,
        *more,
    )
    assert done.returncode == 2 and why in done.stderr and len(done.stderr.strip().splitlines()) <= 2, done.stderr
