"""Features, networks, the action's form and densities, the agent's folder, behaviour cloning. Closed forms and scipy first."""

import json
import math

import numpy as np
import pytest
import torch
from datamix_dynamics import Fixed, final, forgetting, swarm, trajectory
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from datamix import diagnose, features, sft, simplex
from datamix.agent import ARCHITECTURES, Agent, Card, network
from datamix.history import Budget, History, rewards, score
from datamix.networks import DecoderNetwork, SetNetwork, parameters, states_of
from datamix.simplex import Limits, Outputs
from tenfold_shared import BadInput


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def random_history(rng, d=5, steps=6, t=4, share=0.3, tokens=1000):
    source = np.arange(d) < max(1, d // 2)
    history = History([f"d{i}" for i in range(d)], rng.permutation(source), rng.integers(2000, 90000, d), rng.uniform(1, 4, d), Budget(tokens, steps, share))  # fmt: skip
    for _ in range(t):
        history.add(rng.dirichlet(np.ones(d)), rng.uniform(1, 4, d))
    return history


def permuted(history, order):
    found = History([history.names[i] for i in order], history.source[order], history.available[order], history.base[order], history.budget)  # fmt: skip
    for weights, losses in zip(history.weights, history.losses, strict=True):
        found.add(weights[order], losses[order])
    return found


def lively(arch, sizes, critics=2, seed=0, **kw):
    """An agent whose every weight is random: fresh heads are zero and would make any test pass."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        agent = Agent(Card(arch, "test", sizes, critics=critics, **kw))
        for one in [agent.actor, *agent.critics]:
            for p in one.parameters():
                torch.nn.init.normal_(p, std=0.3)
    return agent


# ---------------------------------------------------------------- rewards


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(1, 8))
def test_rewards_telescope_and_do_not_see_the_unit(seed, d, t):
    rng = np.random.default_rng(seed)
    history = random_history(rng, d, 8, t)
    assert rewards(history).sum() == pytest.approx(float(score(history.gains[-1], history.source)), abs=1e-12)
    for s in range(t + 1):  # from any step on
        rest = rewards(history)[s:].sum()
        assert rest == pytest.approx(float(score(history.gains[-1] - history.gains[s], history.source)), abs=1e-12)
    other = History(history.names, history.source, history.available, history.base * 7, history.budget)
    for w, f in zip(history.weights, history.losses, strict=True):
        other.add(w, f * 7)
    np.testing.assert_allclose(rewards(other), rewards(history), atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_rewards_change_alone_when_the_baseline_shifts(seed):
    """A constant on f̂'s baseline (the score of the start) moves every score alike and no reward."""
    rng = np.random.default_rng(seed)
    history = random_history(rng)
    shifted = np.diff(score(history.gains + 0.37, history.source))
    np.testing.assert_allclose(shifted, rewards(history), atol=1e-12)


# ---------------------------------------------------------------- features


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(0, 6), st.sampled_from([0.0, 0.2, 1.0]))
def test_a_row_knows_nothing_of_later_steps(seed, d, t, share):
    history = random_history(np.random.default_rng(seed), d, 6, t, share)
    whole = features.tokens(history)
    assert whole.shape == (t + 1, d, len(features.NAMES)) and np.isfinite(whole).all()
    for s in range(t + 1):
        np.testing.assert_array_equal(features.tokens(history.upto(s))[-1], whole[s])
        assert features.source_left(history)[s] == pytest.approx(history.upto(s).source_left)
    assert features.flat(history).shape == (t, 2 * d + 1)


def test_features_by_hand():
    history = History(
        ["a", "b"], np.array([True, False]), np.array([1000, 4000]), np.array([2.0, 4.0]), Budget(500, 4, 0.5)
    )
    history.add(np.array([0.5, 0.5]), np.array([1.9, 3.0]))
    history.add(np.array([0.25, 0.75]), np.array([1.8, 3.2]))
    x = dict(zip(features.NAMES, features.tokens(history)[2].T, strict=True))
    expected = {
        "source": [1, 0], "weight": [0.25, 0.75], "epochs": [0.375 / 1.375, 0.15625 / 1.15625], "share": [0.375, 0.625],
        "size": np.log([0.4, 1.6]) / 2, "base": [0.5, 1.0], "loss": [0.45, 0.8], "gain": [1.0, 2.0], "gain_change": [5.0, -5.0],
        "progress": [0.5] * 2, "source_left": [0.625] * 2, "source_rate": [0.625] * 2, "domains": [math.log(2) / 3] * 2,
    }  # fmt: skip
    assert set(expected) == set(features.NAMES)
    for name, want in expected.items():
        np.testing.assert_allclose(x[name], want, rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(features.flat(history)[1], [0.25, 0.75, 1.0, 2.0, 0.5], rtol=1e-6)
    assert features.flat(history, feedback=False)[:, 2:4].tolist() == [[0, 0], [0, 0]]


def test_without_feedback_hides_exactly_what_losses_reveal():
    rng = np.random.default_rng(3)
    history = random_history(rng)
    other = History(history.names, history.source, history.available, rng.uniform(1, 4, 5), history.budget)
    for weights in history.weights:
        other.add(weights, rng.uniform(1, 4, 5))
    one, two = features.tokens(history), features.tokens(other)
    assert not np.array_equal(one, two)
    np.testing.assert_array_equal(features.without_feedback(one), features.without_feedback(two))
    seen = [k for k, name in enumerate(features.NAMES) if name not in features.FEEDBACK]
    np.testing.assert_array_equal(features.without_feedback(one)[..., seen], one[..., seen])
    blind = lively("set", {}, feedback=False)
    np.testing.assert_array_equal(blind.decide(history).weights, blind.decide(other).weights)
    assert not np.allclose(lively("set", {}).decide(history).weights, lively("set", {}).decide(other).weights)


# ---------------------------------------------------------------- simplex


def limits(source, cap, d, limited=True):
    return Limits(
        torch.tensor(source),
        torch.ones(d, dtype=torch.bool),
        torch.tensor(cap, dtype=torch.float64),
        torch.tensor(limited),
    )


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.floats(0, 1))
def test_mixtures_are_feasible_and_squeezing_is_a_bijection(seed, d, cap):
    rng = np.random.default_rng(seed)
    source = rng.permutation(np.arange(d) < rng.integers(1, d))
    held = limits(source, cap, d)
    made = Outputs(
        torch.tensor(rng.normal(size=d) * 3), torch.tensor(rng.normal() * 3, dtype=torch.float64), torch.tensor(0.0)
    )
    a = simplex.mixture_of(made, held)
    assert float(a.sum()) == pytest.approx(1, abs=1e-9) and float(a.min()) >= 0
    assert float(a[source].sum()) <= cap + 1e-9
    assert float(a[~source].min()) >= 1e-4 * 0.99
    y = simplex.point_of(made, held)
    assert float(y.min()) >= 1e-4 * 0.999
    if cap > 0.01:
        np.testing.assert_allclose(simplex.unsqueeze(simplex.squeeze(y, held), held, floor=0.0), y, atol=1e-6)
    free = limits(source, 1.0, d, limited=False)
    plain = torch.tensor(rng.dirichlet(np.ones(d)))
    np.testing.assert_allclose(simplex.squeeze(plain, free), plain, atol=1e-12)
    np.testing.assert_allclose(simplex.point_of(made, free, 0.0), made.logits.softmax(-1), atol=1e-12)


def test_gate_and_forms():
    source, d = [True, True, False], 3
    mask, src = torch.ones(d, dtype=torch.bool), torch.tensor(source)
    left, steps = torch.tensor(1.2), torch.tensor(4.0)
    free = simplex.limits_of(src, mask, torch.tensor(0.2), left, steps, "free")
    lean = simplex.limits_of(src, mask, torch.tensor(0.2), left, steps, "lean")
    none = simplex.limits_of(src, mask, torch.tensor(1.0), left, steps, "lean")
    assert (float(free.cap), float(lean.cap), float(none.cap)) == (1.0, pytest.approx(0.3), 1.0)
    paced = [simplex.limits_of(src, mask, torch.tensor(share), left, steps, "paced") for share in (0.2, 0.1, 1.0)]
    assert [float(one.cap) for one in paced] == [
        pytest.approx(0.3),
        pytest.approx(0.25),
        1.0,
    ]  # 2.5 times the rate binds second
    even = Outputs(torch.zeros(d), torch.tensor(0.0), torch.tensor(0.0))
    np.testing.assert_allclose(simplex.mixture_of(even, lean, 0.0), [0.075, 0.075, 0.85], atol=1e-6)
    np.testing.assert_allclose(simplex.mixture_of(even, free, 0.0), [0.25, 0.25, 0.5], atol=1e-6)
    np.testing.assert_allclose(simplex.mixture_of(even, none, 0.0), [1 / 3] * 3, atol=1e-6)


def test_padding_changes_nothing():
    rng = np.random.default_rng(1)
    logits, source = torch.tensor(rng.normal(size=4)), np.array([True, True, False, False])
    a = simplex.mixture_of(Outputs(logits, torch.tensor(0.3), torch.tensor(0.1)), limits(source, 0.4, 4))
    wide = Limits(
        torch.tensor([*source, False, False]),
        torch.tensor([True] * 4 + [False] * 2),
        torch.tensor(0.4),
        torch.tensor(True),
    )
    padded = Outputs(torch.cat([logits, torch.tensor([9.0, -9.0])]), torch.tensor(0.3), torch.tensor(0.1))
    b = simplex.mixture_of(padded, wide)
    np.testing.assert_allclose(b[:4], a, atol=1e-12)
    assert b[4:].tolist() == [0, 0]
    assert simplex.uniform_log_density(wide.mask).item() == pytest.approx(math.log(6))


@pytest.mark.parametrize(("d", "want"), [(4, 1.792), (26, 58.004), (52, 152.410)])
def test_uniform_log_density(d, want):
    mask = torch.ones(d, dtype=torch.bool)
    assert simplex.uniform_log_density(mask).item() == pytest.approx(want, abs=5e-4)
    y = torch.full((d,), 1 / d)
    assert simplex.dirichlet_log_density(y, torch.ones(d), mask).item() == pytest.approx(want, abs=5e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12))
def test_dirichlet_density_against_scipy(seed, d):
    rng = np.random.default_rng(seed)
    y, alpha = rng.dirichlet(np.ones(d) * 3), rng.uniform(1, 20, d)
    mine = simplex.dirichlet_log_density(torch.tensor(y), torch.tensor(alpha), torch.ones(d, dtype=torch.bool))
    assert float(mine) == pytest.approx(stats.dirichlet(alpha).logpdf(y / y.sum()), rel=1e-6, abs=1e-6)


def test_dirichlet_mode_is_the_centre_and_samples_have_its_moments():
    mask = torch.ones(3, dtype=torch.bool)
    y = torch.tensor([0.5, 0.3, 0.2])
    alpha = simplex.dirichlet_at(y, torch.tensor(30.0), mask)
    np.testing.assert_allclose((alpha - 1) / (alpha.sum() - 3), y, atol=1e-6)
    torch.manual_seed(0)
    drawn = simplex.dirichlet_sample(alpha.expand(20000, 3), mask.expand(20000, 3))
    np.testing.assert_allclose(drawn.mean(0), stats.dirichlet(alpha.numpy()).mean(), atol=3e-3)
    np.testing.assert_allclose(drawn.var(0), stats.dirichlet(alpha.numpy()).var(), rtol=0.05)


def test_logistic_normal_density_integrates_to_one():
    mask, centre, sd = torch.ones(3, dtype=torch.bool), torch.tensor([0.5, 0.3, 0.2]), torch.tensor(0.6)

    def density(b, a):
        x = torch.tensor([a, b, 1 - a - b], dtype=torch.float64)
        return float(simplex.logistic_normal_log_density(x, centre.double(), sd.double(), mask).exp())

    total, _ = integrate.dblquad(density, 1e-6, 1 - 2e-6, 1e-6, lambda a: 1 - a - 1e-6, epsabs=1e-4)
    assert total == pytest.approx(1, abs=2e-3)
    torch.manual_seed(0)
    drawn = simplex.logistic_normal_sample(centre.expand(20000, 3), sd.expand(20000), mask.expand(20000, 3)).log()
    np.testing.assert_allclose((drawn[:, 0] - drawn[:, 1]).mean(), math.log(5 / 3), atol=0.02)
    assert float((drawn[:, 0] - drawn[:, 1]).std()) == pytest.approx(0.6 * math.sqrt(2), rel=0.03)


def test_keep_to_the_source_budget_and_epochs():
    history = History(
        ["s", "a", "b"],
        np.array([True, False, False]),
        np.array([1e6, 600, 1e6]),
        np.ones(3),
        Budget(1000, 4, 0.2, 1.0),
    )
    weights = simplex.keep_to(np.array([0.1, 0.8, 0.1]), history)
    assert weights.sum() == pytest.approx(1) and weights[1] <= 600 / 4000 + 1e-9 and weights[0] <= 0.8 + 1e-9
    history.add(np.array([0.8, 0.1, 0.1]), np.ones(3))
    weights = simplex.keep_to(np.array([0.4, 0.3, 0.3]), history)
    assert (
        weights[0] == pytest.approx(0, abs=1e-9)
        and weights.sum() == pytest.approx(1)
        and weights[1] <= 500 / 3000 + 1e-9
    )


# ---------------------------------------------------------------- networks


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 20), st.integers(0, 6))
def test_permuting_domains_permutes_what_a_set_agent_decides(seed, d, t):
    rng = np.random.default_rng(seed)
    agent, history, order = lively("set", {}, seed=seed % 7), random_history(rng, d, 8, t), rng.permutation(d)
    one, two = agent.decide(history), agent.decide(permuted(history, order))
    np.testing.assert_allclose(two.weights, one.weights[order], atol=1e-6)
    assert two.q == pytest.approx(one.q, abs=1e-5)  # values are of order 10 here: 1e-6 of them
    w = rng.dirichlet(np.ones(d))
    assert agent.q(permuted(history, order), w[order]) == pytest.approx(agent.q(history, w), abs=1e-5)


def test_a_batch_of_runs_of_unlike_size_gives_what_each_gives_alone():
    rng = np.random.default_rng(5)
    agent = lively("set", {})
    histories = [random_history(rng, d, 8, t) for d, t in ((3, 6), (7, 2), (5, 4))]
    states = states_of(histories)
    with torch.no_grad():
        every = agent.actor.act(agent.actor.encode(states), states)
        mixtures = simplex.mixture_of(every, states.limits("lean"))
        for i, history in enumerate(histories):
            for s in range(len(history) + 1):
                alone = Agent(agent.card, agent.actor, agent.critics).decide(history.upto(s)).weights
                np.testing.assert_allclose(mixtures[i, s, : len(alone)], alone, atol=2e-6)
            assert float(mixtures[i, : len(history) + 1, len(history.names) :].abs().sum()) == 0


def test_following_a_run_is_the_same_as_reading_it_anew():
    rng = np.random.default_rng(6)
    agent, full = lively("set", {}), random_history(rng, 6, 9, 8)
    other = random_history(rng, 6, 9, 8)
    for t in range(9):  # two runs by turns: what was kept of one must not be taken for the other's
        for run in (full, other, full) if t % 3 == 0 else (full,):
            anew = Agent(agent.card, agent.actor, agent.critics).decide(run.upto(t))
            got = agent.decide(run.upto(t))
            np.testing.assert_allclose(got.weights, anew.weights, atol=1e-6)
            assert got.q == pytest.approx(anew.q, abs=1e-5)


def test_decoder_reads_its_past_and_has_the_size_told():
    assert 1.5e6 < parameters(DecoderNetwork(domains=52)) < 1.8e6
    assert parameters(SetNetwork()) < 30_000
    rng = np.random.default_rng(2)
    history = random_history(rng, 4, 8, 5)
    agent = lively("decoder", {"domains": 4, "width": 32}, domains=history.names)
    whole = states_of([history])
    with torch.no_grad():
        every = agent.actor.act(agent.actor.encode(whole), whole)
        for t in range(6):  # causal: state t is the same whatever follows
            short = states_of([history.upto(t)])
            last = agent.actor.act(agent.actor.encode(short, last=True), short)
            np.testing.assert_allclose(last.logits[0, 0], every.logits[0, t], atol=1e-5)
    assert not np.allclose(every.logits[0, 1], every.logits[0, 2])
    assert len(agent.decide(history).weights) == 4


def test_one_set_agent_takes_any_number_of_domains_and_fits_the_limits():
    rng = np.random.default_rng(8)
    agent = lively("set", {})
    for d in (2, 5, 52, 100):
        decision = agent.decide(random_history(rng, d, 6, 3, 0.2))
        assert decision.weights.shape == (d,) and decision.weights.sum() == pytest.approx(1) and decision.q is not None
    for share in (0.2, 1.0):
        run = forgetting(share=share).run(lively("set", {}, form="free"))
        used = run.weights[:, run.source].sum()
        assert used <= share * 10 + 1e-9 and (share < 1 or used > 2)
        drawn = agent.sample(run.upto(3), np.random.default_rng(0))
        again = agent.sample(run.upto(3), np.random.default_rng(0))
        np.testing.assert_array_equal(drawn.weights, again.weights)
        assert drawn.weights.sum() == pytest.approx(1) and not np.allclose(
            drawn.weights, agent.decide(run.upto(3)).weights
        )


@pytest.mark.deep
@pytest.mark.parametrize("arch", ["set", "decoder"])
def test_a_decision_takes_less_than_ten_milliseconds(arch):
    decoder = {"sizes": {"domains": 52}, "domains": [f"d{i}" for i in range(52)]}
    card = {"set": {}, "decoder": decoder}[arch]
    agent = Agent(
        Card(arch, "test", critics=2, critic_sizes={"domains": 52, "width": 64} if arch == "decoder" else {}, **card)
    )
    assert min(diagnose.decision_ms(agent, seed=i)["warm"] for i in range(3)) < 10


# ---------------------------------------------------------------- on disk


@pytest.mark.parametrize("arch", ["set", "decoder"])
def test_saved_and_loaded_is_the_same_agent(arch, tmp_path):
    history = random_history(np.random.default_rng(4), 4, 8, 3)
    sizes, names = ({}, None) if arch == "set" else ({"domains": 4, "width": 32}, history.names)
    agent = lively(arch, sizes, domains=names, form="free")
    agent.card.report["note"] = "kept"
    agent.save(tmp_path / "agent")
    assert sorted(p.name for p in (tmp_path / "agent").iterdir()) == ["agent.json", "agent.safetensors"]
    found = Agent.load(tmp_path / "agent")
    assert (
        found.name == "agent-test"
        and found.report["note"] == "kept"
        and found.report["parameters"] == parameters(agent.actor)
    )
    one, two = agent.decide(history), found.decide(history)
    np.testing.assert_array_equal(one.weights, two.weights)
    assert one.q == two.q
    before = {p.name: p.read_bytes() for p in (tmp_path / "agent").iterdir()}
    found.save(tmp_path / "agent")
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "agent").iterdir()}


def test_what_is_no_agent_is_refused_in_one_line(tmp_path):
    folder = tmp_path / "agent"

    def refused(words):
        with pytest.raises(BadInput, match=words) as error:
            Agent.load(folder)
        assert "\n" not in str(error.value)

    refused("no such file")
    agent = lively("set", {})
    agent.save(folder)
    text, weights = (folder / "agent.json").read_text(), (folder / "agent.safetensors").read_bytes()
    told = json.loads(text)

    def with_(**changed):
        (folder / "agent.json").write_text(json.dumps(told | changed))

    with_(schema="agent/2")
    refused("schema: expected agent/1, got 'agent/2'")
    with_(features="set/9")
    refused("features: expected .*, got 'set/9'")
    with_(arch="quantum")
    refused("architecture quantum: expected one of set, decoder")
    with_(sizes={"width": 30})
    refused("does not fit|do not make")
    with_(sizes={"breadth": 3})
    refused("do not make one")
    with_(critics=3)
    refused("does not fit")
    with_(form="fat")
    refused("not an agent")
    with_(arch="decoder", sizes={"domains": 4})
    refused("domains: expected the names")
    (folder / "agent.json").write_text("[1, 2")
    refused("not an agent")
    (folder / "agent.json").write_text("[1, 2]")
    refused("schema: expected agent/1, got None")
    (folder / "agent.json").write_text(text)
    for damaged in (weights[:-3], weights[:-1] + bytes([weights[-1] ^ 1]), b""):
        (folder / "agent.safetensors").write_bytes(damaged)
        refused("damaged or of another agent")
    (folder / "agent.safetensors").unlink()
    refused("no such file; expected the agent's weights")
    next(agent.actor.parameters()).data[0] = math.nan
    agent.save(folder)
    refused("no numbers")


def test_a_card_that_was_edited_is_refused(tmp_path):
    """Each of these fields would be taken as it stands: the weights fit all of them."""
    folder = tmp_path / "agent"
    lively("set", {}).save(folder)
    path = folder / "agent.json"
    told = json.loads(path.read_text())
    for changed in (
        {"form": "free"},
        {"algo": "model"},
        {"density": "logistic-normal"},
        {"floor": 0.01},
        {"feedback": False},
        {"report": {"seed": 1}},
        {"checksum": ""},
    ):
        path.write_text(json.dumps(told | changed))
        with pytest.raises(BadInput, match=r"agent\.json: does not fit its own checksum; was it edited\?"):
            Agent.load(folder)
    for field in ("checksum", "form"):
        path.write_text(json.dumps({name: value for name, value in told.items() if name != field}))
        with pytest.raises(BadInput, match="does not fit its own checksum"):
            Agent.load(folder)
    path.write_text(json.dumps(told | {"temper": 1}))
    with pytest.raises(BadInput, match=r"agent\.json: not an agent: temper: unknown field"):
        Agent.load(folder)
    path.write_text(json.dumps(dict(sorted(told.items())), indent=7))  # the same card, written another way
    assert Agent.load(folder).card.form == told["form"]


def test_a_file_in_place_of_an_agent_is_told(tmp_path):
    (tmp_path / "sch.jsonl").write_text("{}")
    with pytest.raises(BadInput, match=r"sch\.jsonl: is a file; expected an agent's folder"):
        Agent.load(tmp_path / "sch.jsonl")


def test_a_decoder_refuses_other_domains():
    rng = np.random.default_rng(0)
    history = random_history(rng, 4, 8, 3)
    roles = ["source" if one else "target" for one in history.source]
    agent = lively("decoder", {"domains": 4, "width": 32}, domains=history.names, roles=roles)
    agent.decide(history)
    with pytest.raises(BadInput, match="was made for the 4 domains"):
        agent.decide(random_history(rng, 5, 8, 3))
    with pytest.raises(BadInput, match="in this order"):
        agent.decide(permuted(history, [1, 0, 2, 3]))
    history.source = ~history.source
    with pytest.raises(BadInput, match="other roles"):
        agent.q(history, np.full(4, 0.25))


class Even(torch.nn.Module):
    """The smallest network that can be an agent's."""

    def encode(self, states, last=False):
        return states.x[:, -1:, :, 0] if last else states.x[..., 0]

    def act(self, encoded, states):
        return Outputs(encoded * 0, encoded[..., 0] * 0, encoded[..., 0] * 0)

    def value(self, encoded, states, actions):
        return actions.square().sum(-1)


def test_another_network_can_be_named(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "even", (Even.__module__, "Even"))
    assert isinstance(network("even", {}), Even)
    history = random_history(np.random.default_rng(0), 4, 8, 3, share=1.0)
    decision = Agent(Card("even", "test", critics=1)).decide(history)
    np.testing.assert_allclose(decision.weights, [0.25] * 4, atol=1e-6)
    assert decision.q == pytest.approx(0.25, abs=1e-6)


# ---------------------------------------------------------------- behaviour cloning

QUICK = sft.Settings(steps=80, splits=0)


def test_scales_are_those_of_each_task():
    dynamics = forgetting()
    runs = (
        swarm(dynamics, 6, seed=1, task="a")
        + swarm(dynamics, 5, seed=2, task="b")
        + swarm(dynamics, 1, seed=3, task="c")
    )
    scales = sft.scales(runs)
    returns = [final(one.history()) for one in runs]
    assert scales["a"] == pytest.approx((np.mean(returns[:6]), np.std(returns[:6], ddof=1)))
    within = np.concatenate(
        [np.array(returns[:6]) - np.mean(returns[:6]), np.array(returns[6:11]) - np.mean(returns[6:11])]
    )
    assert scales["c"] == pytest.approx((returns[11], math.sqrt((within**2).sum() / 9)))
    tensors = sft.runs_of(runs, scales)
    assert float(tensors.returns[:6].mean()) == pytest.approx(0, abs=1e-5) and float(
        tensors.returns[:6].std()
    ) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(tensors.rewards.sum(1), tensors.returns, atol=1e-5)
    assert tensors.done.sum(1).tolist() == [1] * 12 and bool(tensors.done[:, -1].all())


def test_halving_a_domain_keeps_the_run():
    history = random_history(np.random.default_rng(1), 4, 8, 5)
    cut = sft.halved(history, 2, 0.3)
    assert len(set(cut.names)) == 5 and cut.source.tolist() == np.insert(history.source, 2, history.source[2]).tolist()
    np.testing.assert_allclose(cut.weights[:, 2:4], history.weights[:, [2]] * [0.3, 0.7])
    np.testing.assert_allclose(cut.available[2:4].sum(), history.available[2])
    x, y = features.tokens(history), features.tokens(cut)
    k = [features.NAMES.index(name) for name in ("epochs", "loss", "gain", "gain_change", "source_left", "progress")]
    np.testing.assert_allclose(y[:, 2][:, k], x[:, 2][:, k], rtol=1e-5)
    np.testing.assert_allclose(y[:, 3][:, k], x[:, 2][:, k], rtol=1e-5)


@pytest.mark.parametrize("arch", ["set", "decoder"])
@pytest.mark.parametrize("loss", ["kl", "nll"])
def test_cloning_one_schedule_learns_it(arch, loss):
    dynamics = forgetting(share=1.0)
    schedule = np.array([[0.5 - 0.04 * t, 0.1, 0.2 + 0.04 * t, 0.2] for t in range(10)])
    if arch == "set":  # before the first step it cannot tell domains of a role apart
        schedule = (schedule + schedule[:, [1, 0, 3, 2]]) / 2
    runs = [trajectory(dynamics.run(Fixed(schedule)), i) for i in range(4)]
    sizes = {} if arch == "set" else {"width": 32}
    agent = sft.train(runs, arch, sft.Settings(loss=loss, steps=150, splits=0, top=1.0, sizes=sizes), seed=0)
    played = dynamics.run(agent)
    assert np.abs(played.weights - schedule).max() < 0.06
    spread = np.mean(
        [np.abs(agent.sample(played.upto(3), np.random.default_rng(i)).weights - schedule[3]).mean() for i in range(20)]
    )
    assert spread < 0.06  # one mixture was seen: the distribution has narrowed about it


def test_only_better_runs_are_copied():
    dynamics = forgetting(share=1.0)
    good, bad = np.array([0.1, 0.1, 0.4, 0.4]), np.array([0.4, 0.4, 0.1, 0.1])
    if dynamics.score(np.tile(good, (10, 1))) < dynamics.score(np.tile(bad, (10, 1))):
        good, bad = bad, good
    runs = [trajectory(dynamics.run(Fixed(np.tile(good if i % 2 else bad, (10, 1)))), i) for i in range(8)]
    agent = sft.train(runs, "set", QUICK, seed=0)
    np.testing.assert_allclose(agent.decide(dynamics.start()).weights, good, atol=0.05)
    assert agent.report["trajectories"] == {"given": 8, "used": 8, "copied": 4}
    weights = sft.copied(torch.tensor([0.0, 1.0, 2.0, 3.0]), sft.Settings(top=0.5, beta=0.5))
    np.testing.assert_allclose(weights, [0, 0, 2 / (1 + math.e**2), 2 * math.e**2 / (1 + math.e**2)], rtol=1e-5)


def test_training_is_a_function_of_its_seed_and_leaves_torch_alone():
    runs = swarm(forgetting(), 6)
    quick = sft.Settings(steps=5)
    torch.manual_seed(9)
    state = torch.get_rng_state()
    one = sft.train(runs, "set", quick, seed=1).tensors()
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(10)
    two, three = sft.train(runs, "set", quick, seed=1).tensors(), sft.train(runs, "set", quick, seed=2).tensors()
    assert all(torch.equal(one[k], two[k]) for k in one) and not all(torch.equal(one[k], three[k]) for k in one)


def test_failed_runs_are_left_out_and_too_few_are_refused():
    runs = swarm(forgetting(), 4)
    runs[0].status = "failed"
    assert sft.train(runs, "set", sft.Settings(steps=2)).report["trajectories"]["used"] == 3
    runs[1].status = runs[2].status = "failed"
    with pytest.raises(BadInput, match="1 of 4 finished; expected two or more"):
        sft.train(runs)
    with pytest.raises(BadInput, match="--arch decoder learns from runs over the same domains"):
        sft.train(swarm(forgetting(), 2) + swarm(forgetting(domains=(2, 1)), 2), "decoder")


def test_split_augmentation_keeps_a_domains_share():
    """Oracle 6: a domain cut in two halves has, between them, nearly the share that it had whole; without augmentation it is further off."""
    dynamics = forgetting()
    runs = swarm(dynamics, 8)
    off = {}
    for splits in (0, 3):
        agent = sft.train(runs, "set", sft.Settings(steps=100, splits=splits, top=1.0), seed=0)
        found = []
        for one in runs[:8]:
            for t in (0, 5):
                history = one.history().upto(t)
                whole = agent.decide(history).weights
                for d in range(4):
                    cut = agent.decide(sft.halved(history, d, 0.5)).weights
                    found.append(abs(cut[d] + cut[d + 1] - whole[d]))
        off[splits] = np.mean(found), np.max(found)
    assert off[3][0] < 0.05 and off[3][1] < 0.25, off
    assert off[3][0] < 0.6 * off[0][0], off
