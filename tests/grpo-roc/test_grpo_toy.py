"""`grpo-roc toy`: the tabular task against the published figures, the text task's bookkeeping against closed forms and a plain rewriting in float64, what is said of runs, the command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from grpo_roc import objective, penalty, roc, selection, toy, toy_table, toy_tabular, toy_text
from grpo_roc.cli import main
from grpo_roc.env import isolation

BIN = Path(sys.executable).parent / "grpo-roc"
LEVEL = next(level for level in isolation.LEVELS if level not in isolation.probe())
TEXT = msgspec.structs.replace(
    toy.DEFAULTS["text"], steps=2, prompts=4, group=4, sft_steps=150, sft_batch=32, evaluated=64, level=LEVEL
)
TABULAR = toy.DEFAULTS["tabular"]


def here(*words):
    return CliRunner().invoke(main, ["toy", *map(str, words)], prog_name="grpo-roc")


# ---------------------------------------------------------------- the tabular task


def test_the_tabular_task_does_what_was_published():
    """Two of the ten seeds; the figures measured elsewhere of this toy: failed calls in right trajectories, second blocks, tokens."""
    ends = {
        arm: [toy_tabular.arm(arm, seed, TABULAR, "", lambda: None)["after"]["all"] for seed in range(2)]
        for arm in ("grpo", "roc")
    }
    mean = {
        arm: {name: np.mean([one[name] for one in each]) for name in ("error_share", "doubled", "tokens", "correct")}
        for arm, each in ends.items()
    }
    assert mean["roc"]["error_share"] == pytest.approx(0.075, abs=0.015)
    assert mean["roc"]["doubled"] == pytest.approx(0.029, abs=0.015)
    assert mean["roc"]["tokens"] == pytest.approx(36, abs=1)
    assert mean["grpo"]["error_share"] == pytest.approx(0.42, abs=0.08)
    assert mean["grpo"]["doubled"] == pytest.approx(0.32, abs=0.1)
    assert mean["grpo"]["tokens"] == pytest.approx(48, abs=3)
    assert all(one["correct"] == pytest.approx(0.5, abs=0.02) for each in ends.values() for one in each)


def test_tabular_trajectories_have_their_closed_form():
    batch = toy_tabular.rollouts(toy_tabular.logits(), 3000, 16, np.random.default_rng(0), 10)
    fails = 1 - 0.5 * 0.95
    made = batch.calls[~batch.bare]
    lengths = [fails ** (k - 1) * (1 - fails) for k in range(1, 10)] + [fails**9]
    assert np.bincount(made, minlength=11)[1:] / len(made) == pytest.approx(lengths, abs=0.01)
    assert batch.bare.mean() == pytest.approx(0.1, abs=0.01)
    assert (batch.blocks[batch.blocks > 0] > 1).mean() == pytest.approx(0.3, abs=0.01)
    assert (batch.blocks == 0).mean() == pytest.approx(0.9 * fails**10, abs=0.001)
    assert batch.correct[batch.blocks > 0].mean() == pytest.approx(0.5, abs=0.01)
    assert not batch.correct[batch.blocks == 0].any()
    # a call that the policy did not spoil fails by the noise alone
    assert (batch.failed - batch.spoilt).sum() / (batch.calls - batch.spoilt).sum() == pytest.approx(0.05, abs=0.005)


def test_the_tabular_gradient_is_that_of_the_log_probability():
    rng = np.random.default_rng(1)
    theta = np.array([0.3, -0.7, -1.1])
    batch = toy_tabular.rollouts(theta, 4, 8, rng, 5)
    kept, advantage = rng.random((4, 8)) < 0.5, rng.normal(size=(4, 8))

    def gain(at):
        found = 0.0
        for p, k in zip(*np.nonzero(kept), strict=True):
            e, d, n = 1 / (1 + np.exp(-at))
            log = np.log(n) if batch.bare[p, k] else np.log(1 - n)
            log += batch.spoilt[p, k] * np.log(e) + (batch.calls[p, k] - batch.spoilt[p, k]) * np.log(1 - e)
            if batch.blocks[p, k]:
                log += np.log(d if batch.blocks[p, k] > 1 else 1 - d)
            found += advantage[p, k] * log
        return found / kept.sum()

    step = 1e-6
    numeric = [(gain(theta + step * one) - gain(theta - step * one)) / (2 * step) for one in np.eye(3)]
    assert toy_tabular.gradient(theta, batch, kept, advantage) == pytest.approx(numeric, abs=1e-8)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [((0, 0, 1), 0.5), ((1, 0, 1), 0.0), ((3, 2, 1), 2 / 3), ((1, 0, 2), 0.5), ((3, 2, 2), 2 / 3 + 1 / 4), ((10, 10, 0), 2.0)],
)  # fmt: skip
def test_tabular_penalties(outcome, expected):
    assert toy_tabular.penalised(*outcome) == pytest.approx(expected)


# ---------------------------------------------------------------- the precondition


def pairs(*classes):
    """(errors, how many, of which right) of each class."""
    return [[errors, k < right] for errors, many, right in classes for k in range(many)]


@pytest.mark.parametrize(
    ("classes", "why"),
    [
        ([(0, 200, 110), (1, 200, 100), (4, 200, 84)], ""),  # a design that works: .55, .50, .42
        ([(0, 200, 96), (1, 200, 96), (2, 200, 36)], "errors change the reward"),  # one that fails: .48, .18
        ([(0, 200, 60), (1, 200, 100), (2, 200, 70)], "errors change the reward"),
        ([(0, 200, 180), (1, 200, 175), (2, 200, 170)], "groups are mixed"),
        ([(0, 200, 20), (1, 200, 20), (3, 200, 20)], "groups are mixed"),
        ([(0, 200, 100), (1, 200, 100), (2, 20, 10)], "too few"),
    ],
)
def test_the_precondition(classes, why):
    found = toy.precondition(pairs(*classes))
    assert found["holds"] == (not why) and (why in found["why"] if why else found["why"] == "")
    assert found["p"] == [right / many for _, many, right in classes] and found["n"] == [many for _, many, _ in classes]


def test_nothing_is_trained_where_it_does_not_hold(tmp_path):
    """With three calls at most, errors run out of them."""
    told = here("--task", "tabular", "--turns", 3, "--seeds", 2, "--workers", 1, "--json", "-o", tmp_path / "out")
    assert told.exit_code == 1 and "the precondition does not hold: errors change the reward" in told.stderr
    found = json.loads(told.stdout)
    assert found["holds"] is False
    for one in found["precondition"].values():
        assert one["p"][0] == pytest.approx(0.5, abs=0.03)
        # two errors and a success, of two errors or more
        assert one["p"][2] == pytest.approx(0.5 * 0.475, abs=0.03)
    assert not (tmp_path / "out" / "steps.jsonl").exists()


# ---------------------------------------------------------------- the text task


@pytest.fixture(scope="module")
def tool():
    with toy_text.Tool(LEVEL) as found:
        yield found


@pytest.fixture(scope="module")
def model(tool):
    torch.set_num_threads(1)
    return toy_text.learn(0, TEXT, tool, lambda: None)


@pytest.fixture(scope="module")
def sampled(model, tool):
    """64 trajectories of hidden operators, 16 problems four times each."""
    wanted = [one for one in toy_text.problems(np.random.default_rng(1), 16, True) for _ in range(4)]
    return wanted, toy_text.rollout(model, wanted, tool, torch.Generator().manual_seed(1), TEXT)


def test_the_vocabulary_and_the_problems():
    assert len(toy_text.WORDS) == 27
    problems = [toy_text.Problem(a, b, o, False) for a in range(6, 10) for b in range(1, 5) for o in ("//", "-")]
    assert all(0 <= one.gold <= 9 and len(one.ids) == toy_text.PROMPT for one in problems)
    by_pair = {}
    for one in problems:
        by_pair.setdefault((one.a, one.b), set()).add(one.gold)
    assert all(len(golds) == 2 for golds in by_pair.values())  # so that a guess is right half of the time


def test_programs_are_run_by_the_tool(tool):
    for a in range(6, 10):
        for b in range(1, 5):
            for operator in ("//", "-"):
                text = toy_text.text_of(toy_text.ids_of(f"<tool_call> print( {a} {operator} {b} ) </tool_call>"))
                (call,) = tool.calls(text)
                assert call["status"] == "ok" and call["stdout"] == f"{eval(f'{a}{operator}{b}')}\n"
                assert toy_text.shown(call) == toy_text.ids_of(
                    f"<tool_response> {call['stdout'].strip()} </tool_response>"
                )
    for words, status, said in (
        ("<tool_call> prnt( </tool_call>", "error", "error"),
        ("<tool_call> pritn( 7 - 3 ) </tool_call>", "error", "error"),
        ("<tool_call> print( 1 - 9 ) </tool_call>", "ok", "- 8"),
        ("<tool_call> </tool_call>", "ok_no_output", ""),
        ("<tool_call> print( 1 )", "invalid_call", "error"),
        ("<tool_call> <tool_call> 1 </tool_call>", "invalid_call", "error"),
    ):
        (call,) = tool.calls(toy_text.text_of(toy_text.ids_of(words)))
        assert call["status"] == status
        assert toy_text.shown(call) == toy_text.ids_of(f"<tool_response> {said} </tool_response>")


def test_the_expert_has_its_closed_form(tool):
    rng = np.random.default_rng(3)
    settings = toy.DEFAULTS["text"]
    some = [toy_text.expert(one, tool, rng, settings) for one in toy_text.problems(rng, 4000, False)]
    errors = np.array([one.failed for one in some])
    likely = np.array([0.55**k * 0.45 for k in range(7)] + [0.55**7])
    seen = np.bincount(errors, minlength=8) / len(some)
    assert np.all(np.abs(seen - likely) < 4 * np.sqrt(likely * (1 - likely) / len(some)))
    assert all(one.correct and one.calls == one.failed + 1 and one.blocks in (1, 2) for one in some)
    doubled = np.mean([one.blocks == 2 for one in some])
    assert doubled == pytest.approx(0.3, abs=4 * (0.21 / 4000) ** 0.5)
    # a sound call and an answer are 12 tokens, a spoilt call 4, a second answer 3
    assert all(one.tokens == 12 + 4 * one.failed + 3 * (one.blocks - 1) for one in some)
    assert max(len(one.ids) for one in some) <= toy_text.LIMIT
    assert some[0].penalty == pytest.approx(some[0].failed / some[0].calls + (some[0].blocks - 1) / len(some[0].turns))
    guessed = [toy_text.expert(one, tool, rng, settings).correct for one in toy_text.problems(rng, 4000, True)]
    assert np.mean(guessed) == pytest.approx(0.5, abs=4 * (0.25 / 4000) ** 0.5)


def test_what_is_sampled_and_what_is_not(sampled, tool):
    """The mask is 0 on the prompt and from the tool's opening tag to its closing one, which follow a turn with a call; 1 on everything else, the ends of turns too."""
    opened, closed = toy_text.NUMBER["<tool_response>"], toy_text.NUMBER["</tool_response>"]
    wanted, some = sampled
    for problem, one in zip(wanted, some, strict=True):
        ids, mask = one.ids, one.mask
        assert ids[: toy_text.PROMPT] == problem.ids and not any(mask[: toy_text.PROMPT]) and mask[-1]
        assert len(ids) <= toy_text.LIMIT and len(one.turns) <= TEXT.turns
        runs, texts = [], []  # of what was not sampled, after the prompt; of what was
        for number, own in zip(ids[toy_text.PROMPT :], mask[toy_text.PROMPT :], strict=True):
            kind = texts if own else runs
            if kind is texts and (not texts or texts[-1][-1] == toy_text.END):
                texts.append([])
            elif kind is runs and texts[-1][-1] == toy_text.END and len(runs) < len(texts):
                runs.append([])
            kind[-1].append(number)
        assert [toy_text.text_of(each) for each in texts] == [turn["text"] for turn in one.turns]
        replies = [[x for call in turn["calls"] for x in toy_text.shown(call)] for turn in one.turns]
        assert runs == replies[: len(runs)] and len(runs) >= len(texts) - 1
        assert all(run[0] == opened and run[-1] == closed for run in runs)
        assert all(turn["calls"] == tool.calls(turn["text"]) for turn in one.turns)
        assert one.penalty == penalty.of_turns(one.turns).total
    assert any(one.failed for one in some) and any(one.calls > 2 for one in some)


def test_what_was_sampled_has_the_same_probability_all_at_once(sampled, model):
    _, some = sampled
    for one in some:  # each alone, as there is no padding then
        ids = torch.tensor([one.ids])
        with torch.no_grad():
            logp = model.logprobs(ids, torch.arange(ids.shape[1]))[0]
        mask = torch.tensor(one.mask[1:])
        assert torch.allclose(logp[mask], torch.tensor(one.logp[1:])[mask], atol=1e-5, rtol=0)
        assert not torch.tensor(one.logp[1:])[~mask].any()


def test_ratios_of_the_first_minibatch_are_one(sampled, model):
    _, some = sampled
    ids, mask, old = toy_text.padded(some)
    advantage = torch.linspace(-1, 1, len(some))
    with torch.no_grad():
        logp = model.logprobs(ids, torch.arange(ids.shape[1]))
    tokens = sum(one.tokens for one in some)
    value, told = objective.loss(logp, old[:, 1:], advantage[:, None], mask[:, 1:], tokens)
    assert told.tokens == tokens and told.clipped_low == told.clipped_high == 0
    assert told.ratio_most == pytest.approx(1, abs=1e-5) and told.kl / tokens < 1e-9
    lengths = np.array([one.tokens for one in some])
    assert float(value) == pytest.approx(-float((advantage.numpy() * lengths).sum()) / tokens, abs=1e-5)


@pytest.mark.parametrize("name", ["grpo-2g", "roc-top"])
def test_an_update_is_that_of_a_plain_rewriting(sampled, model, name):
    """Two minibatches of two groups each by gradient descent, in float64, a trajectory and a token at a time."""
    _, some = sampled
    settings = msgspec.structs.replace(TEXT, prompts=8, group=4)
    ours, theirs = toy_text.Model(), toy_text.Model().double()
    ours.load_state_dict(model.state_dict())
    theirs.load_state_dict(model.state_dict())
    step, rate = 5, 0.5
    told = toy_text.update(ours, torch.optim.SGD(ours.parameters(), lr=rate), some, name, 0, step, np.random.default_rng(9), settings)  # fmt: skip

    size, kept, most = 8, 0, 0
    for part in np.array_split(np.random.default_rng(9).permutation(8), 2):
        terms, tokens = [], 0
        for g in part:
            members = some[g * size : (g + 1) * size]
            rewards = np.array([float(one.correct) for one in members])
            if name == "roc-top":
                choice = roc.choose(rewards, [one.penalty for one in members], 4, group=f"{step}/{g}", select="top")
                places, advantage = np.flatnonzero(choice.kept), choice.advantage
            else:
                places = np.arange(size) if rewards.std() else []
                advantage = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-6)
            for k in places:
                one = members[k]
                hidden = theirs(torch.tensor([one.ids[:-1]]), torch.arange(len(one.ids) - 1))[0]
                for t in range(1, len(one.ids)):
                    if one.mask[t]:
                        logits = theirs.head(hidden[t - 1])
                        ratio = torch.exp(logits[one.ids[t]] - torch.logsumexp(logits, 0) - one.logp[t])
                        terms.append(torch.min(ratio * advantage[k], ratio.clamp(0.8, 1.28) * advantage[k]))
                        tokens += 1
                kept += 1
            most += len(places) > 0
        if terms:
            gradients = torch.autograd.grad(-sum(terms) / tokens, list(theirs.parameters()))
            with torch.no_grad():
                for each, gradient in zip(theirs.parameters(), gradients, strict=True):
                    each -= rate * gradient
    assert (told["kept"], told["groups"]) == (kept, most) and kept > 8
    moved = [(a.double() - b).abs().max().item() for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)]
    far = max((a - b).abs().max().item() for a, b in zip(ours.parameters(), model.parameters(), strict=True))
    assert max(moved) < 1e-5 < 1e-3 < far


def test_weights_come_back_as_they_were(model, tmp_path):
    toy_text.save(model, tmp_path / "7.npz")
    again = toy_text.load(tmp_path / "7.npz")
    assert all(torch.equal(a, again.state_dict()[name]) for name, a in model.state_dict().items())
    assert [one.name for one in tmp_path.iterdir()] == ["7.npz"]


def test_arms_sample_as_they_should():
    settings = toy.DEFAULTS["text"]
    assert {arm: settings.sampled(arm) for arm in toy.ARMS} == {"grpo": 8, "grpo-2g": 16, "random-2g": 16, "roc": 16, "roc-top": 16}  # fmt: skip
    assert set(toy.ARMS) == set(selection.ALGOS)


def test_the_text_task_from_start_to_table(tmp_path, capsys, monkeypatch, model):
    """Two steps of two arms; the same again is a look at what is there."""
    monkeypatch.setattr(toy_text, "learn", lambda *_: model)
    asked = {"seeds": 1, "seed": 3, "overwrite": False, "workers": 1, "as_json": True, "quiet": True}
    assert toy.run(TEXT, ["grpo", "roc"], output=str(tmp_path / "a"), **asked) == 0
    table = json.loads(capsys.readouterr().out)
    first = {name: (tmp_path / "a" / name).read_bytes() for name in (toy.STEPS, toy.TABLE, toy.MANIFEST)}
    assert json.loads(first[toy.TABLE]) == table and (tmp_path / "a" / toy.PICTURE).stat().st_size > 5000
    steps = [json.loads(line) for line in first[toy.STEPS].splitlines()]
    assert [(one["arm"], one["step"]) for one in steps] == [("grpo", 0), ("grpo", 1), ("roc", 0), ("roc", 1)]
    assert all(one["kept"] <= 4 * one["groups"] for one in steps)
    assert table["precondition"]["3"]["holds"] and table["start"]["accuracy"]["mean"] > 0.3
    assert [one["supported"] for one in table["claims"]] == ["not_shown"] * 4  # of one seed nothing is said
    monkeypatch.setattr(toy, "_work", lambda *_: pytest.fail("a finished run was run again"))
    assert toy.run(TEXT, ["grpo", "roc"], output=str(tmp_path / "a"), **asked) == 0
    assert json.loads(capsys.readouterr().out) == table
    assert first == {name: (tmp_path / "a" / name).read_bytes() for name in first}


def test_a_model_that_learned_nothing_is_not_trained_on(tmp_path, capsys):
    settings = msgspec.structs.replace(TEXT, sft_steps=2)
    asked = {"seeds": 1, "seed": 0, "output": None, "overwrite": False, "workers": 1, "as_json": True, "quiet": True}
    assert toy.run(settings, ["roc"], **asked) == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["holds"] is False and "groups are mixed" in told.err


# ---------------------------------------------------------------- what is said


@given(freedom=st.integers(1, 60), t=st.floats(0, 50))
def test_students_distribution(freedom, t):
    assert toy_table.within(t, freedom) == pytest.approx(2 * stats.t.cdf(t, freedom) - 1, abs=1e-12)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 9, 30, 200])
def test_students_quantiles(freedom):
    assert toy_table.quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)


def test_intervals():
    x = [0.1, 0.4, 0.2, 0.35, 0.3]
    span = stats.t.interval(0.95, 4, np.mean(x), stats.sem(x))
    assert toy_table.interval(x) == pytest.approx({"mean": 0.27, "low": span[0], "high": span[1]})
    assert toy_table.interval([2.0]) == {"mean": 2.0, "low": None, "high": None}


def made_up(**arms):
    """A table of three seeds: of each arm error share, doubled, tokens, accuracy, a little other from seed to seed."""
    starts, runs = {}, {}
    start = {"correct": 0.97, "error_share": 0.53, "doubled": 0.3, "tokens": 18.0}
    for seed in range(3):
        starts[seed] = {"before": {"hidden": start, "visible": start}, "precondition": {"holds": True}}
        for arm, (share, doubled, tokens, accuracy) in arms.items():
            off = 0.001 * (seed - 1)
            end = {"correct": accuracy + off, "error_share": share, "doubled": max(doubled + off, 0.0), "tokens": tokens + off}  # fmt: skip
            curve = [{"step": k, "error_share": None if k == 1 else share + 2 * off * k} for k in range(3)]
            runs[f"{arm}/{seed}"] = {"steps": curve, "after": {"hidden": end, "visible": end}}
    return toy_table.table_of(TEXT, list(arms), range(3), starts, runs)


def verdicts(table):
    return [one["supported"] for one in table["claims"]]


def test_verdicts():
    good, control = (0.05, 0.0, 12.0, 0.97), (0.4, 0.5, 16.0, 0.96)
    assert verdicts(made_up(grpo=control, roc=good)) == ["yes"] * 4
    # lower, but not far
    assert verdicts(made_up(grpo=control, roc=(0.3, 0.0, 12.0, 0.97)))[0] == "not_shown"
    assert verdicts(made_up(grpo=control, roc=(0.6, 0.6, 17.0, 0.8))) == ["no", "no", "no", "no"]
    # one control that does as well is enough
    assert verdicts(made_up(grpo=control, **{"random-2g": good}, roc=good))[::2] == ["not_shown"] * 2
    # no controls, no claim but against the start
    assert verdicts(made_up(roc=good)) == ["not_shown", "yes", "not_shown", "yes"]
    assert "claims" not in made_up(grpo=control)
    # what has no right trajectory with a call counts nowhere
    assert made_up(roc=good)["arms"]["roc"]["error_share"]["each"] == pytest.approx([0.048, 0.05, 0.052])


def test_differences_are_paired_by_seed():
    table = made_up(roc=(0.05, 0.0, 12.0, 0.97), grpo=(0.4, 0.5, 16.0, 0.96))
    assert table["differences"]["grpo"]["tokens"] == pytest.approx({"mean": -4, "low": -4, "high": -4})
    assert table["arms"]["grpo"]["tokens"]["each"] == pytest.approx([15.999, 16, 16.001])


# ---------------------------------------------------------------- the command


def words(folder, *more):
    return ["--task", "tabular", "--seeds", "2", "--steps", "4", "--arms", "grpo,roc", "-q", "-o", str(folder), *more]


def test_the_same_seed_gives_the_same_bytes_whatever_the_processes(tmp_path):
    assert here(*words(tmp_path / "one", "--workers", "1")).exit_code == 0
    told = subprocess.run([str(BIN), "toy", *words(tmp_path / "two", "--workers", "2"), "--json"], capture_output=True, text=True, timeout=120)  # fmt: skip
    assert told.returncode == 0, told.stderr
    for name in (toy.STEPS, toy.TABLE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert json.loads(told.stdout) == json.loads((tmp_path / "two" / toy.TABLE).read_bytes())
    assert here(*words(tmp_path / "three", "--workers", "1", "--seed", "1")).exit_code == 0
    assert (tmp_path / "three" / toy.STEPS).read_bytes() != (tmp_path / "one" / toy.STEPS).read_bytes()


def test_a_killed_run_goes_on(tmp_path):
    folder, whole = tmp_path / "killed", tmp_path / "whole"
    asked = ["--task", "tabular", "--seeds", "3", "--steps", "60", "--arms", "grpo,roc", "-q"]
    run = subprocess.Popen([str(BIN), "toy", *asked, "-o", str(folder), "--workers", "2"], stderr=subprocess.DEVNULL)
    journal = folder / toy.JOURNAL
    end = time.monotonic() + 60
    while time.monotonic() < end and not (journal.exists() and journal.read_bytes().count(b"\n") >= 5):
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    kept = journal.read_bytes()
    assert 5 <= kept.count(b"\n") < 10 and not (folder / toy.TABLE).exists()
    journal.write_bytes(kept + b'["roc/2",{"steps"')  # as if it had been cut in the middle of a line
    assert here(*asked, "-o", folder, "--workers", 1).exit_code == 0
    assert journal.read_bytes().startswith(kept)  # what was done stays
    assert here(*asked, "-o", whole, "--workers", 1).exit_code == 0
    for name in (toy.STEPS, toy.TABLE):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_other_options_and_foreign_folders_are_refused(tmp_path):
    assert here(*words(tmp_path / "a", "--workers", "1")).exit_code == 0
    told = here(*words(tmp_path / "a", "--workers", "1", "--seed", "5"))
    assert told.exit_code == 2 and "was begun with --seed 0, this one has 5" in told.stderr
    assert here(*words(tmp_path / "a", "--workers", "1", "--seed", "5", "--overwrite")).exit_code == 0
    assert json.loads((tmp_path / "a" / toy.MANIFEST).read_bytes())["options"]["seed"] == 5
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "letter").write_text("dear")
    told = here(*words(tmp_path / "b", "--overwrite"))
    assert told.exit_code == 2 and "did not make" in told.stderr and (tmp_path / "b" / "letter").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--arms", "roc,ppo"], "--arms ppo: expected some of grpo, "),
        (["--arms", "roc,roc"], "--arms: expected each name once"),
        (["--arms", ","], "--arms: expected each name once"),
        (["-o", "nowhere/at/all"], "does not exist; create it first"),
        (["--seeds", "0"], "--seeds"),
    ],
)
def test_bad_options_are_named(more, message):
    told = here("--task", "tabular", "--steps", 1, *more)
    assert told.exit_code == 2 and message in told.stderr and "Traceback" not in told.stderr


def test_people_see_a_table(tmp_path):
    told = here("--task", "tabular", "--seeds", 2, "--steps", 2, "--workers", 1)
    assert told.exit_code == 0 and all(arm in told.stdout for arm in toy.ARMS)
    assert "no drift into doubled answers" in told.stdout and "seed 1: P(right | errors): none 0.49 " in told.stderr
