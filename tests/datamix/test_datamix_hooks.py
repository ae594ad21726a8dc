"""Steering other people's trainers: a real transformers Trainer that is cut off and resumed, several processes, and the two files."""

import json
import math
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datamix_corpus import make_corpus
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from datamix import schedule
from datamix.dataset import MixedDataset
from datamix.filecontrol import MixtureFile, bytes_per_token, in_bits_per_byte, watch
from datamix.history import Budget, Decision
from datamix.hooks import MixtureCallback, bits_per_byte
from tenfold_shared import BadInput, Busy, OutOfTime

SIZES = {"a": 9_000, "b": 9_000, "c": 6_000, "goal": 9_000}
START = np.ones(4) / 4


class Reactive:
    """More of what is bad, less of the source as time goes on; counts how often it was asked, as a policy with a memory would."""

    name = "reactive"

    def __init__(self):
        self.asked = 0

    def decide(self, history):
        self.asked += 1
        assert self.asked == len(history) + 1
        now = history.losses[-1] if len(history) else history.base
        logits = 3 * now - history.source * len(history)
        weights = np.exp(logits - logits.max())
        return Decision(weights / weights.sum(), q=float(now.mean()))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), SIZES, valid=1_500)


def tiny(kind="gpt2"):
    torch.manual_seed(0)
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(vocab_size=256, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=32))  # fmt: skip
    return GPT2LMHeadModel(GPT2Config(vocab_size=256, n_positions=32, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))  # fmt: skip


def train(corpus, folder, *, until=12, save_at=100, resume=None, skip=False, kind="gpt2", workers=0):
    """12 updates of 4 · 2 rows of 32 tokens, a step every 3 updates; the callback and the trained model."""
    data = MixedDataset(corpus, 32, START, seed=4, batch_size=4)
    callback = MixtureCallback(
        Reactive(),
        data,
        lambda model: bits_per_byte(model, corpus, 32, tokens=300),
        budget=Budget(3 * 8 * 32, 4),
        schedule_file=folder / "schedule.jsonl",
    )
    args = TrainingArguments(
        output_dir=str(folder), max_steps=12, per_device_train_batch_size=4, gradient_accumulation_steps=2, learning_rate=3e-3,
        lr_scheduler_type="constant", save_steps=save_at, report_to=[], disable_tqdm=True, use_cpu=True, seed=1, logging_steps=1000,
        ignore_data_skip=skip, dataloader_num_workers=workers,
    )  # fmt: skip
    trainer = Trainer(model=tiny(kind), args=args, train_dataset=data, callbacks=[callback])
    if until < 12:
        trainer.add_callback(Stop(until))
    trainer.train(resume_from_checkpoint=resume)
    return callback, trainer.model


class Stop:
    """A kill, as far as a trainer can tell: it stops after an update and nothing after it is kept."""

    def __init__(self, at):
        self.at = at

    def __getattr__(self, name):
        if not name.startswith("on_"):
            raise AttributeError(name)
        return self._stop if name == "on_step_end" else lambda *args, **more: None

    def _stop(self, args, state, control, **more):
        control.should_training_stop = state.global_step >= self.at
        return control


# ---------------------------------------------------------------- the evaluator


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_bits_per_byte_is_the_sum_over_tokens(corpus, kind):
    model = tiny(kind).train()
    found = bits_per_byte(model, corpus, 32, tokens=205, batch=3)
    assert model.training
    model.eval()
    for name, domain, value in zip(corpus.names, corpus.domains, found, strict=True):
        ids = [int(x) for x in corpus.tokens(name, "valid")[:206]]
        nats = 0.0
        for begin in range(0, 205, 32):
            row = ids[begin : begin + 33]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([row[:-1]])).logits[0].double()
            nats -= sum(float(torch.log_softmax(logits[i], -1)[t]) for i, t in enumerate(row[1:]))
        bits = nats / 205 / math.log(2) * domain.valid.tokens / domain.valid.bytes
        assert abs(bits - value) < 1e-5


# ---------------------------------------------------------------- a Trainer


def test_trainer_is_steered(corpus, tmp_path):
    callback, _ = train(corpus, tmp_path)
    lines = schedule.read(str(tmp_path / "schedule.jsonl"))
    assert [(one.step, one.tokens_seen) for one in lines] == [(t, (t + 1) * 3 * 8 * 32) for t in range(4)]
    raw = json.loads((tmp_path / "schedule.jsonl").read_text().splitlines()[0])
    assert list(raw) == ["schema", "step", "tokens_seen", "weights", "feedback", "q", "entropy"]
    history = callback.history
    policy = Reactive()
    for t, one in enumerate(lines):
        decided = policy.decide(history.upto(t))
        assert np.abs(one.vector - decided.weights).max() < 1e-6 and one.q == pytest.approx(decided.q)
        assert one.entropy == pytest.approx(decided.entropy, abs=1e-5)
        assert list(one.feedback.values()) == pytest.approx(history.losses[t].tolist())
    assert history.losses[-1].mean() < history.base.mean() - 0.3  # it trains
    # What was used is what was asked for, but for rounding and the batch that the loader had fetched before.
    asked = np.stack([one.vector for one in lines])
    assert np.abs(history.weights - asked).max() < 0.35
    assert np.abs(history.weights.sum(axis=1) - 1).max() < 1e-12
    domains = callback.dataset.taken_at(96)
    assert (history.weights.sum(axis=0) * 24).round().astype(int).tolist() == domains.tolist()


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("at", [5, 6])
def test_resume_gives_the_same_schedule_and_model(corpus, tmp_path, skip, at):
    whole, trained = train(corpus, tmp_path / "whole")
    train(corpus, tmp_path / "cut", until=at + 2, save_at=at)
    resumed, model = train(corpus, tmp_path / "cut", resume=str(tmp_path / "cut" / f"checkpoint-{at}"), skip=skip)
    assert (tmp_path / "cut/schedule.jsonl").read_bytes() == (tmp_path / "whole/schedule.jsonl").read_bytes()
    assert (resumed.history.weights == whole.history.weights).all() and (
        resumed.history.losses == whole.history.losses
    ).all()
    for one, other in zip(trained.parameters(), model.parameters(), strict=True):
        assert (one == other).all()


def test_workers_change_the_moment_and_nothing_else(corpus, tmp_path):
    callback, _ = train(corpus, tmp_path, workers=1)
    assert len(schedule.read(str(tmp_path / "schedule.jsonl"))) == 4
    single = MixedDataset(corpus, 32, START, seed=4)
    single.set_changes(callback.dataset.changes)
    domains = single.draw(96)["domain"].numpy()
    assert (np.bincount(domains, minlength=4) == callback.dataset.taken_at(96)).all()


def test_resume_without_state_or_with_another_batch_is_refused(corpus, tmp_path):
    train(corpus, tmp_path / "run", until=3, save_at=3)
    path = tmp_path / "run/checkpoint-3/mixture.json"
    saved = path.read_text()
    for text, told in (
        ("{", "not the state of a mixture run"),
        (json.dumps({**json.loads(saved), "rows_per_update": 4}), "same batch size"),
        (json.dumps({**json.loads(saved), "base": [1.0]}), "1 domains; the corpus has 4"),
    ):
        path.write_text(text)
        with pytest.raises(BadInput, match=told):
            train(corpus, tmp_path / "run", resume=str(tmp_path / "run/checkpoint-3"))
    path.unlink()
    with pytest.raises(BadInput, match=r"no mixture\.json"):
        train(corpus, tmp_path / "run", resume=str(tmp_path / "run/checkpoint-3"))


def test_a_loss_that_was_not_measured_is_named_in_the_schedule(corpus, tmp_path):
    data = MixedDataset(corpus, 32, START)
    seen = iter([[3.0, 3, 3, 3], [2.0, math.nan, 2, 2], [1.0, 1, 1, 1]])
    callback = MixtureCallback(
        Reactive(), data, lambda model: np.array(next(seen)), budget=Budget(256, 2), schedule_file=tmp_path / "s.jsonl"
    )
    how = TrainingArguments(output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=8, report_to=[], save_strategy="no", use_cpu=True)  # fmt: skip
    Trainer(model=tiny(), args=how, train_dataset=data, callbacks=[callback]).train()
    first, second = schedule.read(str(tmp_path / "s.jsonl"))
    assert (first.missing, second.missing) == (["b"], []) and first.feedback["b"] == 3.0


def test_evaluate_of_a_wrong_shape_is_refused(corpus, tmp_path):
    callback = MixtureCallback(
        Reactive(), MixedDataset(corpus, 32, START), lambda model: np.ones(3), budget=Budget(1, 1)
    )
    args = SimpleNamespace(train_batch_size=1, gradient_accumulation_steps=1, world_size=1)
    with pytest.raises(BadInput, match="expected a loss for each of the 4"):
        callback.on_train_begin(args, SimpleNamespace(global_step=0), None)


# ---------------------------------------------------------------- several processes


def by_hand(corpus, rank, world):
    """Four steps of 2 updates of 8 rows as a trainer under DDP would, each process reading its own share; what was read."""
    data = MixedDataset(corpus, 32, START, seed=4, rank=rank, world_size=world)
    losses = iter(np.linspace(3, 2, 20)[:, None] * np.array([1, 1.1, 0.9, 1.2]) + 0.3 * rank)  # rank 0's have to count
    callback = MixtureCallback(Reactive(), data, lambda model: next(losses), budget=Budget(2 * 8 * 32, 4))
    args = SimpleNamespace(train_batch_size=8 // world, gradient_accumulation_steps=1, world_size=world)
    callback.on_train_begin(args, SimpleNamespace(global_step=0), None)
    read = []
    for step in range(1, 9):
        read += [row["input_ids"].tolist() for row in islice(data, 8 // world)]
        callback.on_step_end(args, SimpleNamespace(global_step=step), None)
    return read, callback.history.weights.tolist(), callback.history.losses.tolist()


def in_process(corpus, rank, world, store, queue):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    queue.put((rank, by_hand(corpus, rank, world)))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("world", [2, 4])
def test_several_processes_read_the_sequence_of_one(corpus, tmp_path, world):
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    running = [
        fork.Process(target=in_process, args=(corpus, r, world, tmp_path / "store", queue)) for r in range(world)
    ]
    for one in running:
        one.start()
    found = dict(queue.get(timeout=60) for _ in running)
    for one in running:
        one.join(timeout=60)
        assert one.exitcode == 0
    read, weights, losses = by_hand(corpus, 0, 1)
    assert [row for rows in zip(*(found[r][0] for r in range(world)), strict=True) for row in rows] == read
    assert all(found[r][1:] == (weights, losses) for r in range(world))


TORCHRUN = """
import sys; sys.path.insert(0, {tests!r})
from pathlib import Path
from test_datamix_hooks import MixtureCallback, MixedDataset, Reactive, START, bits_per_byte, tiny, Budget
from datamix.corpus import Corpus
from transformers import Trainer, TrainingArguments
corpus, folder = Corpus.load({corpus!r}), Path({folder!r})
data = MixedDataset(corpus, 32, START, seed=4)
callback = MixtureCallback(Reactive(), data, lambda m: bits_per_byte(m, corpus, 32, tokens=300), budget=Budget(768, 4), schedule_file=folder / "schedule.jsonl")
args = TrainingArguments(output_dir=str(folder), max_steps=12, per_device_train_batch_size=2, gradient_accumulation_steps=2,
    learning_rate=3e-3, lr_scheduler_type="constant", save_steps=100, report_to=[], disable_tqdm=True, use_cpu=True, seed=1,
    logging_steps=1000, ddp_backend="gloo", accelerator_config={{"dispatch_batches": {dispatch}}})
Trainer(model=tiny(), args=args, train_dataset=data, callbacks=[callback]).train()
"""


@pytest.mark.deep
@pytest.mark.parametrize("dispatch", [False, True])
def test_trainer_under_torchrun(corpus, tmp_path, dispatch):
    train(corpus, tmp_path / "one")
    script = tmp_path / "run.py"
    (tmp_path / "two").mkdir()
    script.write_text(TORCHRUN.format(tests=os.path.dirname(__file__), corpus=str(corpus.folder), folder=str(tmp_path / "two"), dispatch=dispatch))  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "0",
        "--standalone",
        str(script),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    ones, twos = (schedule.read(str(tmp_path / name / "schedule.jsonl")) for name in ("one", "two"))
    assert [one.tokens_seen for one in ones] == [two.tokens_seen for two in twos]
    for one, two in zip(ones, twos, strict=True):
        assert np.abs(one.vector - two.vector).max() < 0.02  # sums of gradients in another order, no more


# ---------------------------------------------------------------- two files


def steering(tmp_path, **more):
    files = {
        "feedback_file": tmp_path / "f.jsonl",
        "weights_file": tmp_path / "w.json",
        "schedule_file": tmp_path / "s.jsonl",
    }
    return MixtureFile(Reactive(), list("abc"), [True, True, False], Budget(100, 3), **{**files, **more})


def say(tmp_path, *records, end="\n"):
    with open(tmp_path / "f.jsonl", "a", encoding="utf-8") as stream:
        stream.write("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records) + end)


def told(tmp_path):
    return json.loads((tmp_path / "w.json").read_text())


def at(step, a=2.0, b=3.0, c=2.5, **more):
    return {"step": step, "feedback": {"a": a, "b": b, "c": c}, **more}


def test_a_foreign_trainer_is_steered_by_files(tmp_path):
    run = steering(tmp_path)
    assert run.poll() is False and not (tmp_path / "w.json").exists()
    say(tmp_path, at(0))
    assert run.poll() is True and run.poll() is False
    first = told(tmp_path)
    assert first["schema"] == "mixture/1" and first["step"] == 0 and first["weights"]["b"] > first["weights"]["a"]
    say(tmp_path, at(1, b=2.0, weights={"a": 0.5, "c": 0.5}), at(2, tokens_seen=250))
    assert run.poll() and told(tmp_path)["step"] == 2
    assert run.history.weights[0].tolist() == [0.5, 0, 0.5]  # as it was reported
    assert run.history.weights[1].tolist() == run._decided[1].weights.tolist()  # as it was asked for
    say(tmp_path, at(3))
    assert run.poll() and run.finished and told(tmp_path)["step"] == 2
    lines = schedule.read(str(tmp_path / "s.jsonl"))
    assert [one.tokens_seen for one in lines] == [100, 250, 300] and lines[0].feedback["b"] == 2.0
    assert np.abs(np.stack([one.vector for one in lines]) - np.stack([d.weights for d in run._decided])).max() < 2e-6


def test_a_torn_line_waits_and_a_kill_loses_nothing(tmp_path):
    run = steering(tmp_path)
    say(tmp_path, at(0), json.dumps(at(1))[:20], end="")
    assert run.poll() and told(tmp_path)["step"] == 0
    again = steering(tmp_path)  # from the files alone
    assert again.poll() and told(tmp_path)["step"] == 0
    say(tmp_path, json.dumps(at(1))[20:])
    for one in (run, again):
        assert one.poll() and told(tmp_path)["step"] == 1
    assert (run._decided[-1].weights == again._decided[-1].weights).all()


def test_missing_feedback_is_carried_forward_and_flagged(tmp_path, capsys):
    run = steering(tmp_path)
    say(
        tmp_path,
        at(0),
        {"step": 1, "feedback": {"a": 1.5, "b": None}},
        '{"step": 2, "feedback": {"a": 1, "b": NaN, "c": 2}}',
    )
    assert run.poll()
    assert run.history.losses.tolist() == [[1.5, 3.0, 2.5], [1.0, 3.0, 2.0]]
    lines = capsys.readouterr().err.splitlines()
    assert "f.jsonl:2: feedback: b, c: missing; carried forward" in lines[0] and "f.jsonl:3: feedback: b:" in lines[1]
    assert [one.missing for one in schedule.read(str(tmp_path / "s.jsonl"))] == [["b", "c"], ["b"]]
    other = tmp_path / "gap"
    other.mkdir()
    run = steering(other)
    say(other, at(0), at(2, a=1.0))
    assert run.poll() and told(other)["step"] == 2
    assert run.history.losses[0].tolist() == [2.0, 3.0, 2.5] and run.history.losses[1][0] == 1.0
    assert [one.missing for one in schedule.read(str(other / "s.jsonl"))] == [["a", "b", "c"], []]
    assert "feedback of 1 steps is missing" in capsys.readouterr().err


class Pure(Reactive):
    """As an agent is: what it decides follows from the history alone, so that it can be asked about a moment again."""

    def decide(self, history):
        self.asked = len(history)
        return super().decide(history)


def test_a_trainer_that_goes_back_is_followed(tmp_path):
    run = steering(tmp_path)
    run.policy = Pure()
    say(tmp_path, at(0), at(1), at(2))
    run.poll()
    say(tmp_path, at(1, a=1.0))
    assert run.poll() and told(tmp_path)["step"] == 1 and run.history.losses.tolist() == [[1.0, 3.0, 2.5]]
    again = steering(tmp_path)
    again.policy = Pure()
    assert again.poll() and (again._decided[1].weights == run._decided[1].weights).all()
    assert len(schedule.read(str(tmp_path / "s.jsonl"))) == 1


def test_nats_a_token_become_bits_a_byte(tmp_path, corpus):
    per = np.array([1.0, 2.0, 4.0])
    run = steering(tmp_path, per_token=per)
    say(tmp_path, at(0, 1.0, 2.0, 4.0, unit="nats_per_token"))
    run.poll()
    assert run.history.base == pytest.approx(np.ones(3) / math.log(2))
    assert bytes_per_token(corpus)[0] == pytest.approx(
        1 - corpus.domains[0].valid.documents / corpus.domains[0].valid.tokens
    )
    assert in_bits_per_byte(per, "bits_per_byte", None, "x") is per


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("nonsense", "expected a JSON object"),
        ("[1]", "got list"),
        ({"feedback": {}}, "step: expected how many"),
        (at(-1), "step: expected how many"),
        (at(True), "step: expected how many"),
        (at(4), "step: 4; the run has 3"),
        ({"step": 1}, "feedback: expected an object"),
        ({"step": 1, "feedback": {"x": 1.0}}, "feedback: x: no such domain; there are a, b, c"),
        (at(1, a="2"), "feedback: a: expected a number"),
        (at(1, a=-2), "feedback: a: expected a loss above 0, got -2"),
        ('{"step": 1, "feedback": {"a": Infinity}}', "above 0, got inf"),
        (at(1, unit="bits"), "unit: 'bits'; expected one of bits_per_byte, nats_per_token"),
        (at(1, unit="nats_per_token"), "how many bytes a token has is not known"),
        (at(1, weights={"a": 0.4}), "weights: weights sum to 0.4"),
        (at(1, weights=[1]), "weights: expected an object"),
        (at(1, tokens_seen=0), "tokens_seen: expected a whole number above 0"),
    ],
)
def test_bad_feedback_names_its_line(tmp_path, line, told):
    say(tmp_path, at(0), "", line)
    with pytest.raises(BadInput, match=f"f.jsonl:3: .*{told}"):
        steering(tmp_path).poll()


def test_the_base_has_to_be_first_and_whole(tmp_path):
    say(tmp_path, at(1))
    with pytest.raises(BadInput, match=r"f\.jsonl:1: step: 1; expected 0 first"):
        steering(tmp_path).poll()
    (tmp_path / "f.jsonl").write_text(json.dumps({"step": 0, "feedback": {"a": 1.0, "c": 1.0}}) + "\n")
    with pytest.raises(BadInput, match=r"f\.jsonl:1: feedback: b: missing; step 0 has to have every domain"):
        steering(tmp_path).poll()


def test_files_of_another_run_are_refused(tmp_path):
    run = steering(tmp_path)
    say(tmp_path, at(0))
    run.poll()
    (tmp_path / "f.jsonl").write_text("")
    with pytest.raises(BadInput, match="became shorter"):
        run.poll()
    say(tmp_path, at(0, a=9.0))
    with pytest.raises(BadInput, match="another mixture for step 0"):
        steering(tmp_path).poll()
    (tmp_path / "w.json").write_text("[]")
    with pytest.raises(BadInput, match="no mixture of this run"):
        steering(tmp_path).poll()


def test_a_schedule_that_is_there_is_this_runs_or_stays(tmp_path):
    """What an earlier call wrote is gone on with; anything else is left as it is, whatever stage it is found at."""
    say(tmp_path, at(0), at(1), {"step": 2, "feedback": {"a": 1.5}})
    steering(tmp_path).poll()
    path = tmp_path / "s.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    assert steering(tmp_path).poll() and path.read_bytes() == whole
    path.write_bytes(lines[0])  # a call that was killed before the rest
    assert steering(tmp_path).poll() and path.read_bytes() == whole
    other = json.loads(lines[1])
    other["feedback"]["a"] = 1.25
    longer = lines[1].replace(b'"step":1', b'"step":2').replace(b'"tokens_seen":200', b'"tokens_seen":300')
    strangers = [
        b"notes of mine\n",
        lines[0] + json.dumps(other).encode() + b"\n",
        whole + longer,
        schedule.schedule_file([schedule.line(0, 100, {"a": 0.2, "b": 0.8})]),
    ]
    for text in strangers:
        path.write_bytes(text)
        with pytest.raises(BadInput, match=r"s\.jsonl: exists and is no schedule of this run; .*--overwrite"):
            steering(tmp_path).poll()
        assert path.read_bytes() == text
        assert steering(tmp_path, overwrite=True).poll() and path.read_bytes() == whole


def test_a_schedule_is_refused_before_the_trainer_says_anything(tmp_path):
    (tmp_path / "s.jsonl").write_text("notes of mine\n")
    with pytest.raises(BadInput, match="no schedule of this run"):
        steering(tmp_path).poll()
    with pytest.raises(BadInput, match="expected a name for each"):
        steering(tmp_path, schedule_file=tmp_path / "f.jsonl", overwrite=True)


def test_a_trainer_that_went_back_while_nobody_watched_is_followed(tmp_path):
    say(tmp_path, at(0), at(1), at(2))
    steering(tmp_path).poll()
    say(tmp_path, at(2, a=1.0))  # from a checkpoint of step 1
    run = steering(tmp_path)
    run.policy = Pure()
    assert run.poll()
    assert schedule.read(str(tmp_path / "s.jsonl"))[1].feedback["a"] == 1.0
    changed = (tmp_path / "s.jsonl").read_text().replace('"a":2.0', '"a":2.5')  # of step 0, which is as it was
    (tmp_path / "s.jsonl").write_text(changed)
    run = steering(tmp_path)
    run.policy = Pure()
    with pytest.raises(BadInput, match="no schedule of this run"):
        run.poll()


def test_watch_runs_to_the_end_beside_a_trainer(tmp_path, corpus):
    def trainer():
        for step in range(4):
            losses = dict.fromkeys(corpus.names, 3.0 - 0.1 * step)
            say(tmp_path, {"step": step, "feedback": losses})
            while step < 3 and not ((tmp_path / "w.json").exists() and told(tmp_path)["step"] == step):
                time.sleep(0.005)

    thread = threading.Thread(target=trainer)
    thread.start()
    files = (tmp_path / "f.jsonl", tmp_path / "w.json")
    assert (
        watch(Reactive(), corpus, Budget(100, 3), *files, schedule_file=tmp_path / "s.jsonl", every=0.01, max_time=30)
        == 0
    )
    thread.join()
    assert len(schedule.read(str(tmp_path / "s.jsonl"))) == 3
    assert watch(Reactive(), corpus, Budget(100, 3), *files, every=0.01) == 0  # finished: a no-op


def test_watch_ends_with_its_time_and_holds_its_file(tmp_path, corpus):
    say(tmp_path, {"step": 0, "feedback": dict.fromkeys(corpus.names, 2.0)})
    arguments = (corpus, Budget(100, 3), tmp_path / "f.jsonl", tmp_path / "w.json")
    errors = []

    def second():
        while not (tmp_path / "w.json").exists():
            time.sleep(0.005)
        try:
            watch(Reactive(), *arguments, every=0.01, max_time=0.1)
        except Busy as error:
            errors.append(error)

    thread = threading.Thread(target=second)
    thread.start()
    with pytest.raises(OutOfTime, match="run the same command again"):
        watch(Reactive(), *arguments, every=0.01, max_time=0.5)
    thread.join()
    assert len(errors) == 1 and told(tmp_path)["step"] == 0
