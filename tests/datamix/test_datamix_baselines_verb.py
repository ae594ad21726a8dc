"""The rivals as the verb and as policies: runs step by step, on a corpus or on swarms, and bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datamix_corpus import make_corpus
from datamix_rivals import SOURCE, simulate

from datamix import baselines, schedule, swarms
from datamix.baselines import aioli, doremi, objective, regmix_d, static
from datamix.baselines.bench import Bench
from datamix.history import Budget, Step, Trajectory
from datamix.proxy import ProxyConfig, train_base
from tenfold_shared import BadInput, Missing

TINY = ProxyConfig(width=8, layers=1, heads=1, context=16, batch=8, base_updates=40)
BUDGET = Budget(2 * 8 * 16, 4, 0.5)
RUN = 4 * 2 * 8 * 16  # tokens of one run


# ---------------------------------------------------------------- proxies


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), {"alpha": 6000, "beta": 9000, "gamma": 5000, "delta": 8000})


@pytest.fixture(scope="module")
def base(corpus):
    return train_base(TINY, corpus, np.array([1, 1, 1, 0]) / 3, 0).state()


def bench(corpus, base, runs=9, **more):
    return Bench(corpus, TINY, base, BUDGET, runs * RUN, 0, feedback_tokens=256, **more)


def test_static_runs_are_runs_step_by_step(corpus, base):
    mixtures = np.array([[0.1, 0.2, 0.1, 0.6], [0.25, 0.25, 0.0, 0.5]])
    one = bench(corpus, base)
    found = one.statics(mixtures, [5, 6])
    steps = one.histories([static.StaticPolicy("s", w) for w in mixtures], [5, 6])
    np.testing.assert_array_equal(found, [run.losses[-1] for run in steps])
    assert one.used == 4 * RUN and one.runs_left() == 5
    assert (found < one.base).any(axis=1).all()


@pytest.mark.parametrize("name", ["balanced", "mean", "beta"])
def test_shares_make_of_drops_of_losses_the_gain_of_the_objective(corpus, base, name):
    """What Aioli's rows and DoGE's gradients are weighted with: absolute losses, so that their sum is the objective's gain but for a factor."""
    one = bench(corpus, base, objective=name)
    one.base = one.base * np.array([1.0, 2.0, 0.5, 3.0])  # domains with unlike losses
    one.objective = objective.choose(name, corpus.names, corpus.source, one.base)
    drops = np.random.default_rng(0).random((20, 4))
    gains = one.objective.value(one.base - drops) - one.objective.value(one.base)
    ratios = drops @ one.shares / gains
    np.testing.assert_allclose(ratios, ratios[0])
    assert one.shares.sum() == pytest.approx(4)
    if name == "mean":
        np.testing.assert_allclose(one.shares, 1)  # the papers' own


def test_aioli_rounds_and_sweeps_are_those_asked_for(corpus, base):
    options = {"feedback_tokens": 256, "lp_steps": 1}

    def found(**more):
        return baselines.found_for("aioli", corpus, TINY, base, BUDGET, 9 * RUN, 0, options={**options, **more})

    sweep = 4 * TINY.batch * TINY.context
    for rounds, sweeps in ((1, 1), (2, 3)):
        told = found(aioli_rounds=rounds, lp_rounds=sweeps)
        assert (told.more["rounds"], told.more["sweeps"]) == (rounds, sweeps)
        assert told.proxy_tokens == RUN + rounds * sweeps * sweep
        assert len(np.unique(told.schedule, axis=0)) == rounds
    left = found()
    assert left.more["rounds"] == 4 and left.more["sweeps"] == 8 * RUN // (4 * sweep)
    with pytest.raises(BadInput, match=r"4 rounds \(--aioli-rounds\) 999 sweeps \(--lp-rounds\)"):
        found(lp_rounds=999)
    with pytest.raises(BadInput, match="--lp-rounds 0"):
        found(lp_rounds=0)
    with pytest.raises(BadInput, match="--aioli-rounds, --lp-rounds"):
        aioli.from_proxies(bench(corpus, base), rounds=0)


@pytest.mark.deep
def test_processes_change_nothing(corpus, base):
    mixtures = np.full((3, 4), 0.25)
    one, two = bench(corpus, base), bench(corpus, base, workers=2)
    np.testing.assert_array_equal(one.statics(mixtures, [1, 2, 3]), two.statics(mixtures, [1, 2, 3]))


METHODS = ["proportional", "uniform", "temperature", "best-fixed", "regmix", "regmix-d", "regmix-d-online", "olmix", "doremi", "doge", "aioli", "odm", "loss-softmax"]  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_every_method_makes_a_policy_within_its_tokens(corpus, base, name):
    more = {"rounds": 20, "candidates": 4000} if name.startswith("regmix") else {}
    found = baselines.found_for(name, corpus, TINY, base, BUDGET, 9 * RUN, 0, options={"feedback_tokens": 256, **more})
    assert found.proxy_tokens <= 9 * RUN
    assert found.proxy_tokens > 0 or name in ("proportional", "uniform", "temperature", "odm", "loss-softmax")
    again = baselines.policies(name, corpus, TINY, base, BUDGET, 9 * RUN, 0, options={"feedback_tokens": 256, **more})
    run = bench(corpus, base).histories([found.policy, again], [3, 3])
    np.testing.assert_array_equal(run[0].losses, run[1].losses)
    assert run[0].weights[:, corpus.source].sum() <= BUDGET.source_share * BUDGET.steps + 1e-9
    assert np.isfinite(run[0].losses).all()


def test_tokens_that_do_not_suffice_are_told(corpus, base):
    for name in ("best-fixed", "regmix", "regmix-d", "olmix", "doremi", "doge", "aioli"):
        with pytest.raises(BadInput, match="--proxy-tokens 100"):
            baselines.policies(name, corpus, TINY, base, BUDGET, 100, 0)


def test_doremi_raises_the_weight_of_a_domain_that_the_reference_has_learnt_and_the_proxy_has_not(corpus, base):
    """An own reference of one domain alone: the proxy's excess over it is largest there."""
    one = bench(corpus, base)
    weights, path = doremi.one_pair(one, 0, 1.0, 1e-4)
    assert path.shape == (one.updates, 4) and one.used == 2 * RUN
    np.testing.assert_allclose(weights, path.mean(axis=0))
    np.testing.assert_allclose(path.sum(axis=1), 1)
    assert (path >= 1e-4 / 4 - 1e-12).all() and not np.allclose(path[0], path[-1])


# ---------------------------------------------------------------- the verb


def run(name, data, output=None, as_json=True, overwrite=False, **options):
    return baselines.run(name, str(data), options=options, output=None if output is None else str(output), overwrite=overwrite, as_json=as_json, quiet=True)  # fmt: skip


PROXY = "width = 8\nlayers = 1\nheads = 1\ncontext = 16\nbatch = 8\nbase_updates = 40\n"


@pytest.fixture
def proxy_file(tmp_path):
    path = tmp_path / "proxy.toml"
    path.write_text(PROXY)
    return str(path)


def test_verb_writes_a_mixture_with_a_manifest_and_knows_it_again(corpus, tmp_path, capsys):
    out = tmp_path / "mix.json"
    assert run("proportional", corpus.folder, out, source_budget=0.25) == 0
    told = json.loads(capsys.readouterr().out)
    line = schedule.load_any(str(out))[0]
    assert line.weights == pytest.approx(told["weights"], abs=2e-6) and sum(line.weights.values()) == pytest.approx(1)
    assert line.weights["delta"] == pytest.approx(0.75, abs=2e-6)
    manifest = json.loads((tmp_path / "mix.json.manifest.json").read_text())
    assert (
        manifest["verb"] == "baseline"
        and manifest["options"]["method"] == "proportional"
        and manifest["inputs"][0]["sha256"]
    )
    before = out.stat().st_mtime_ns
    assert run("proportional", corpus.folder, out, source_budget=0.25) == 0 and out.stat().st_mtime_ns == before
    assert json.loads(capsys.readouterr().out) == told
    with pytest.raises(BadInput, match=r"--source-budget 0\.25, this one has 0\.5"):
        run("proportional", corpus.folder, out, source_budget=0.5)
    assert run("proportional", corpus.folder, out, source_budget=0.5, overwrite=True) == 0
    out.with_name("other.json").write_text("{}")
    with pytest.raises(BadInput, match="no manifest says"):
        run("uniform", corpus.folder, out.with_name("other.json"))


def test_verb_does_not_write_over_what_it_reads(tmp_path, proxy_file):
    own = make_corpus(tmp_path / "corpus", {"big": 3_000, "goal": 1_000}, valid=500)
    learnt, test = (swarm(tmp_path / name, 20, imported=True, seed=i) for i, name in enumerate(("one", "two")))
    prior = tmp_path / "prior.json"
    prior.write_text('{"weights": {"a": 0.4, "b": 0.2, "c": 0.2, "t": 0.2}}')
    cases = [
        ("uniform", own.folder, own.folder / "corpus.json", {}),
        ("uniform", own.folder, own.folder / "tokens/new.json", {}),
        ("doremi", own.folder, proxy_file, {"proxy": proxy_file}),
        ("regmix", learnt, learnt / "trajectories.jsonl", {}),
        ("regmix", learnt, test / "new.json", {"test": str(test)}),
        ("regmix", learnt, prior, {"prior": str(prior)}),
    ]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name, data, out, options in cases:
        for overwrite in (False, True):
            with pytest.raises(BadInput, match="is within an input; choose another output"):
                run(name, data, out, overwrite=overwrite, **options)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_verb_writes_a_schedule_of_a_dynamic_rule(corpus, tmp_path, proxy_file, capsys):
    out = tmp_path / "schedule.jsonl"
    assert (
        run("odm", corpus.folder, out, proxy=proxy_file, steps=4, tokens=256, feedback_tokens=256, source_budget=0.5)
        == 0
    )
    lines = schedule.read(str(out))
    assert [one.tokens_seen for one in lines] == [256, 512, 768, 1024] and set(lines[0].feedback) == set(corpus.names)
    told = json.loads(capsys.readouterr().out)
    assert told["proxy_tokens"] == 1024 and told["base_tokens"] == 40 * 8 * 16


def test_verb_on_a_corpus_trains_its_own_proxies(corpus, tmp_path, proxy_file, capsys):
    common = {
        "proxy": proxy_file,
        "steps": 4,
        "tokens": 256,
        "feedback_tokens": 256,
        "source_budget": 0.5,
        "proxy_tokens": 9 * RUN,
    }
    assert run("regmix", corpus.folder, candidates=2000, rounds=20, **common) == 0
    told = json.loads(capsys.readouterr().out)
    assert (
        told["runs"] == 9
        and told["proxy_tokens"] == 9 * RUN
        and sum(told["weights"].values()) == pytest.approx(1, abs=1e-5)
    )
    assert run("regmix-d", corpus.folder, tmp_path / "s.jsonl", online=True, regression="ridge", **common) == 0
    assert (
        len(schedule.read(str(tmp_path / "s.jsonl"))) == 4
        and json.loads(capsys.readouterr().out)["proxy_tokens"] == 10 * RUN
    )


def swarm(folder: Path, n: int, *, imported=False, seed=0, metrics=None, steps=8):
    """A swarm of the simulated law; imported: one step of unknown length, other metrics."""
    names, rng = list("abct"), np.random.default_rng(seed)
    roles = dict.fromkeys("abc", "source") | {"t": "target"}
    drawn = regmix_d.draw_schedules(
        SOURCE, np.full(4, 0.25), np.ones(1 if imported else steps), n, (1 if imported else steps) * 0.5, rng
    )
    runs = []
    for i, rows in enumerate(drawn):
        losses = 2 * (1 - simulate(rows if not imported else np.repeat(rows, 8, axis=0)))
        if imported:
            losses = losses[-1:]
        told = metrics or names
        lines = [
            Step(
                t,
                0 if imported else (t + 1) * 1000,
                dict(zip(names, map(float, w), strict=True)),
                dict(zip(told, map(float, y), strict=True)),
            )
            for t, (w, y) in enumerate(zip(rows, losses, strict=True))
        ]
        budget = Budget(0 if imported else 1000, len(rows), 1.0 if imported else 0.5)
        runs.append(Trajectory(f"{i:05d}", "imported" if imported else "all", "x", i, roles, dict.fromkeys(names, 0 if imported else 5000), dict.fromkeys(told, 2.0), budget, lines))  # fmt: skip
    swarms.write(
        folder,
        runs,
        {"kind": "imported" if imported else "runs", "domains": names, "metrics": metrics or names},
        {"tool": "datamix"},
    )
    return folder


def test_regmix_verb_on_swarms_reports_correlations(tmp_path, capsys):
    one, two = swarm(tmp_path / "one", 120, imported=True), swarm(tmp_path / "two", 60, imported=True, seed=1)
    assert run("regmix", one, test=str(two), rounds=200) == 0
    told = json.loads(capsys.readouterr().out)
    assert (
        set(told["spearman"]) == {"mean", "a", "b", "c", "t"}
        and told["spearman"]["mean"] > 0.9
        and "weights" not in told
    )
    assert told["spearman"]["mean"] == pytest.approx(np.mean([told["spearman"][m] for m in "abct"]))
    assert {"linear", "ridge"} <= set(told) and told["tested"] == 60
    assert run("olmix", one, test=str(two)) == 0
    assert json.loads(capsys.readouterr().out)["spearman"]["mean"] > 0.9
    assert (
        run("regmix", one, tmp_path / "m.json", as_json=False, test=str(two), rounds=50, candidates=2000, objective="t")
        == 0
    )
    assert "rank correlation" in capsys.readouterr().out
    assert schedule.load_any(str(tmp_path / "m.json"))[0].weights["t"] > 0.6


def test_regressions_on_an_own_swarm(tmp_path, capsys):
    folder = swarm(tmp_path / "own", 40)
    for name in ("regmix", "olmix"):
        assert run(name, folder, **({"rounds": 50, "candidates": 2000} if name == "regmix" else {})) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["objective"] == "balanced" and told["proxy_tokens"] == 40 * 8000
        assert told["weights"]["a"] + told["weights"]["b"] + told["weights"]["c"] <= 0.5 + 1e-5
    assert run("regmix-d", folder, tmp_path / "s.jsonl", regression="ridge", candidates=2000) == 0
    lines = schedule.read(str(tmp_path / "s.jsonl"))
    assert len(lines) == 8 and lines[-1].tokens_seen == 8000


def test_bad_input(corpus, tmp_path, proxy_file):
    one = swarm(tmp_path / "one", 20, imported=True)
    own = swarm(tmp_path / "own", 20)
    few = swarm(tmp_path / "few", 5, imported=True)
    cases = [
        ("nothing", corpus.folder, {}, "no such method"),
        ("fixed", corpus.folder, {}, "--target-share is missing"),
        ("fixed", corpus.folder, {"target_share": 1.5}, "share from 0 to 1"),
        ("temperature", corpus.folder, {"mixing_temperature": -1.0}, "above 0"),
        ("uniform", corpus.folder, {"kl": 0.5}, "--kl is not read"),
        ("uniform", corpus.folder, {"source_budget": 3.0}, "--source-budget 3"),
        ("uniform", tmp_path, {}, "no such file"),
        ("proportional", one, {}, "wants a corpus"),
        ("regmix", few, {}, "5 runs"),
        ("regmix-d", one, {}, "final losses alone"),
        ("regmix", one, {"objective": "nothing"}, "no such metric"),
        ("regmix", one, {"objective": "balanced"}, "no base losses"),
        ("regmix", one, {"regression": "magic"}, "--regression magic"),
        ("regmix", one, {"test": str(tmp_path / "none")}, "expected a swarm"),
        (
            "regmix",
            one,
            {"test": str(swarm(tmp_path / "t", 9, imported=True, metrics=["a", "b", "c", "z"]))},
            "t: is a metric of .*one only",
        ),
        ("regmix", corpus.folder, {"test": str(one)}, "is a corpus"),
        ("regmix", corpus.folder, {"task": "x"}, "has no tasks"),
        ("regmix", own, {"task": "other"}, "no finished run of the task other"),
        ("doremi", corpus.folder, {"proxy": proxy_file, "steps": 4, "tokens": 256, "eta": -1.0}, "--eta -1"),
        ("doge", corpus.folder, {"proxy": proxy_file, "steps": 4, "tokens": 256, "mu": 0.0}, "--mu 0"),
        ("aioli", corpus.folder, {"proxy": proxy_file, "steps": 4, "tokens": 256, "factor": 0.1}, "--factor 0.1"),
        ("odm", corpus.folder, {"proxy": proxy_file, "steps": 4, "tokens": 256, "alpha": 2.0}, "--alpha 2"),
        ("regmix", one, {"seed": "x"}, "seed"),
    ]
    for name, data, options, message in cases:
        with pytest.raises(BadInput, match=message):
            run(name, data, **options)
    path = own / "trajectories.jsonl"
    path.write_text(path.read_text().replace('"task":"all"', '"task":"other"', 3))
    with pytest.raises(BadInput, match=r"runs of 2 tasks.*--task, such as all"):
        run("regmix", own)
    bad = tmp_path / "prior.json"
    for text, message in (('{"weights": {"a": 0.5}}', "sum to 0.5"), ('{"weights": {"q": 1.0}}', "no such domain")):
        bad.write_text(text)
        with pytest.raises(BadInput, match=message):
            run("regmix", one, prior=str(bad), rounds=5, candidates=100)


def test_missing_lightgbm_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(Missing, match=r"pip install 'datamix\[regmix\]'"):
        run("regmix", swarm(tmp_path / "one", 20, imported=True))


def test_every_option_is_told_and_the_registry_is_light():
    names = set(baselines.Settings.__struct_fields__)
    assert names == set(baselines.OPTIONS) == {option for used in baselines.USES.values() for option in used}
    assert set(baselines.NAMES) == set(baselines.USES)
    code = "import sys, datamix.baselines, datamix.baselines.verb; print([m for m in ('torch', 'lightgbm', 'scipy') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
