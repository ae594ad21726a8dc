"""The training study of `make claims-cotpass` on its own: problems, their checks, the small transformer, one step."""

import gzip
import json
import random
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotpass import check_steps

BENCH = Path(__file__).parents[2] / "tools" / "cotpass" / "bench"
sys.path.insert(0, str(BENCH))
try:
    from study import chains, training
    from study.model import Model
finally:
    sys.path.remove(str(BENCH))

torch = pytest.importorskip("torch")


def by_hand(prompt):
    """(steps, answer letter) of a prompt, from its text alone."""
    value, steps = int(prompt[:2]), []
    for sign, number in re.findall(r"([-+*])(\d\d)", prompt):
        result = eval(f"{value}{sign}{int(number)}")
        steps.append(f"{value:02}{sign}{number}={result:02}")
        assert 0 <= result < 50
        value = result
    return steps, "ABCDE"[value // 10]


@given(st.integers(0, 10_000), st.sampled_from(chains.LENGTHS), st.sampled_from("ABCDE"))
def test_problems_and_solutions_by_hand(seed, length, letter):
    problem = chains.draw(random.Random(seed), length, letter)
    steps, answer = by_hand(problem.prompt)
    assert len(steps) == length and answer == letter == problem.letter
    assert problem.solution == ";".join(steps) + answer + "."
    assert chains.check(problem, problem.solution) == (True, True)
    assert len(problem.solution) <= chains.longest(length)
    assert len(problem.prompt) + chains.longest(length) <= chains.CONTEXT


@given(st.integers(0, 10_000), st.sampled_from(chains.LENGTHS))
def test_careless_solutions_are_right_exactly_where_each_step_is(seed, length):
    rng = random.Random(seed)
    problem = chains.draw(rng, length, rng.choice("ABCDE"))
    written = chains.carelessly(rng, problem)
    body, letter = written[:-2], written[-2]
    # The steps judge reads the text that people see and knows nothing of the problem.
    wrong = check_steps(chains.shown(written)).first_wrong is not None
    sound, right = chains.check(problem, written)
    assert sound == (not wrong)
    last = int(body[-2:])
    assert letter == "ABCDE"[last // 10] and right == (last // 10 == problem.values[-1] // 10)


@pytest.mark.parametrize(
    "response",
    ["", ".", "A.", "07+05=12", "07+05=12;12*03=36B.", "07+05=12;12*03=36A", "07+05=12;12*03=36;A.", "~~", "A.B."],
)
def test_other_texts_are_no_right_reasoning(response):
    problem = chains.Problem(7, (("+", 5), ("*", 3)))
    assert problem.solution == "07+05=12;12*03=36D."
    assert chains.check(problem, response) == (response[:-2] == "07+05=12;12*03=36", False)
    assert isinstance(chains.shown(response), str)


def test_held_out_problems_are_never_trained_on():
    settings = replace(training.Settings(), held_out=40)
    tested, kept = training.held_out(settings)
    assert len(set(tested)) == len(kept) == 40
    assert Counter(len(each.steps) for each in tested).keys() == set(chains.LENGTHS)
    assert not kept & set(training.problems(random.Random(0), 300, kept))


def model():
    torch.manual_seed(0)
    return Model(16, 4, 2)


def test_sampling_with_the_cache_draws_from_the_models_own_distribution():
    """Frequencies of second tokens against the probabilities of a pass over the whole text."""
    net = model()
    with torch.no_grad():
        net.embed.weight *= 8  # far from uniform
    prompt = training.encoded(["07+05>"])
    tokens = net.sample(prompt.repeat(20_000, 1), 2, torch.Generator().manual_seed(1))
    first = Counter(tokens[:, -2].tolist()).most_common(1)[0][0]
    follow = tokens[tokens[:, -2] == first][:, -1]
    with torch.no_grad():
        expected = net(torch.cat([prompt[0], torch.tensor([first])])[None])[0, -1].softmax(-1)
    seen = torch.bincount(follow, minlength=len(expected)) / len(follow)
    assert first != chains.END and len(follow) > 1000
    assert (seen - expected).abs().max() < 5 * (0.25 / len(follow)) ** 0.5
    assert expected.max() > 0.1  # not the uniform distribution, which any bug would give


def test_nothing_follows_the_end():
    net = model()
    prompts = training.encoded(["07+05>"]).repeat(50, 1)
    for row in net.sample(prompts, 30, torch.Generator().manual_seed(2))[:, 6:].tolist():
        if chains.END in row:
            assert set(row[row.index(chains.END) + 1 :]) <= {chains.PAD}


def test_one_step_is_the_gradient_of_advantage_times_log_probability(monkeypatch):
    """Against the sum over responses one by one, in float64, with advantages written down by hand."""
    settings = replace(training.Settings(), prompts=3, group=4)
    written = []

    def responses(model, batch, each, generator):
        other = {"A": "B", "B": "C", "C": "D", "D": "E", "E": "A"}
        for at, problem in enumerate(batch):
            right, wrong = problem.solution, f"{problem.reasoning}{other[problem.letter]}."
            texts = [[right, wrong, wrong, "50"], [right] * 4, [right, right, right, f"A{wrong}"]][at]
            # One right of four: (1 - 1/4)/sqrt(3/16) and -(1/4)/sqrt(3/16); all right: no signal; three of four.
            high, low = 3**0.5, -1 / 3**0.5
            advantages = [[high, low, low, low], [0.0] * 4, [-low, -low, -low, -high]][at]
            written.append((problem, texts, advantages))
        return [texts for _, texts, _ in written]

    monkeypatch.setattr(training, "sampled", responses)
    net = model().double()
    before = [each.detach().clone() for each in net.parameters()]
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    training.reinforce(net, optimizer, "answer", settings, random.Random(0), frozenset(), torch.Generator())
    change = [old - new.detach() for old, new in zip(before, net.parameters(), strict=True)]

    with torch.no_grad():
        for parameter, old in zip(net.parameters(), before, strict=True):
            parameter.copy_(old)
    total, loss = 0, 0.0
    for problem, texts, advantages in written:
        for text, advantage in zip(texts, advantages, strict=True):
            codes = torch.tensor([chains.VOCABULARY.index(letter) for letter in problem.prompt + text])
            logs = net(codes[None])[0].log_softmax(-1)
            start = len(problem.prompt)
            loss -= advantage * sum(logs[at - 1, codes[at]] for at in range(start, len(codes)))
            total += len(text)
    gradient = torch.autograd.grad(loss / total, list(net.parameters()))
    norm = sum((each**2).sum() for each in gradient).sqrt()
    factor = min(1.0, float(1.0 / (norm + 1e-6)))
    for got, expected in zip(change, gradient, strict=True):
        assert torch.allclose(got, expected * factor, atol=1e-8, rtol=1e-5)
    assert norm > 1e-3


def test_the_controls_rewards_are_as_many_and_blind():
    """Shuffled within groups: the mean advantage after right reasoning is 0 up to chance, and not so for `answer`."""
    batch = chains.draw_many(3, 60)
    settings = replace(training.Settings(), prompts=60, group=16)
    texts = [[each.solution] * 8 + ["A."] * 8 for each in batch]
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "problems", lambda rng, count, without: batch)
        patch.setattr(training, "sampled", lambda *given: texts)
        for reward in ("answer", "random"):
            net = model()
            found[reward] = training.reinforce(net, torch.optim.SGD(net.parameters(), lr=0.0), reward, settings,
                                               random.Random(0), frozenset(), torch.Generator().manual_seed(0))  # fmt: skip
    assert found["answer"]["advantage_ok"] > 0.5 and found["answer"]["advantage_bad"] < -0.5
    assert abs(found["random"]["advantage_ok"]) < 0.15
    assert found["random"]["p_ca"] == found["answer"]["p_ca"] >= 0.5


def test_checkpoints_are_verdict_records(tmp_path):
    settings = replace(training.Settings(), width=16, layers=1, supervised=2, checkpoints=(0, 1), prompts=3, group=4,
                       held_out=6, samples=3)  # fmt: skip
    training.train_supervised(0, settings, tmp_path / "start", lambda line: None)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        training.train_rewarded(0, "random", settings, tmp_path / "start", tmp_path / name, lambda line: None)
    first, second = (tmp_path / name / "step-1.jsonl.gz" for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()  # same seed, same bytes
    with gzip.open(first, "rt") as lines:
        records = [json.loads(line) for line in lines]
    assert [each["sample"] for each in records] == [0, 1, 2] * 6
    assert len({each["id"] for each in records}) == 6
    assert all(each["correct"] == (each["grade"] == "correct") and len(each["votes"]) == 1 for each in records)
