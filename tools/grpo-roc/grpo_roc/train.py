"""`grpo-roc train`: trajectories, selection, update, again (arXiv 2508.20722, sections 2.2, 3.2 and 4).

A step samples trajectories of some problems with the policy as it is, keeps those that selection.py chooses, and makes one update of them (or several, of whole groups). Stages follow one another, each with its
problems, lengths and rate; before a stage problems may be left out that the policy already solves every time. All lies in a run's folder:

    run.json            what was asked, and with what
    metrics.jsonl       a line a step: nothing that the clock decides
    timings.jsonl       seconds of each part of a step
    rollouts/STEP.jsonl trajectories of steps that were to be kept (--keep-rollouts)
    checkpoint/         the model with its optimizer, after the last step that was saved
    best/               the model as it was at its best
    manifest.json       when all is done

A run that was cut off goes on from its checkpoint; with `lockstep`, on one kind of CPU, to the same bytes. Under torchrun every rank samples its part of a step's trajectories and reads its part of the update
(ranks.py); what is chosen and written is that of one process.

Where it sits: above rollout.py, selection.py and policy.py.
"""

from __future__ import annotations

import copy
import json
import math
import statistics
import sys
import time
import tomllib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import msgspec

import grpo_roc
from grpo_roc import engine_fleet, selection, verify
from grpo_roc.dialogue import Dialogue
from grpo_roc.engine_open import follow, open_engines, push
from grpo_roc.engine_protocol import Engine
from grpo_roc.env.environment import Environment
from grpo_roc.env.environment import Settings as EnvironmentSettings
from grpo_roc.objective import Clip
from grpo_roc.policy import Example, Optimisation, Policy, Updated, for_training
from grpo_roc.ranks import Ranks
from grpo_roc.rollout import Rollouts, Task, Trajectory, stream
from grpo_roc.rollout import Settings as RolloutSettings
from grpo_roc.runs import held, read_lines, settle
from tenfold_shared import BadInput, Missing
from tenfold_shared.jsonl import write_atomic
from tenfold_shared.progress import Progress

Record = dict[str, Any]
EMPTY_STEPS = 10  # without a group to learn from, after which a run stops
BAD_UPDATES = 5  # in a row that were no numbers
WINDOW = 10  # steps of a moving average


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """steps, prompts a step, G, samples beyond G (oversample), cap of turns, budget of a response, rate and warm-up, updates a step; max_correct: problems that were solved more often of
    filter_rollouts are left out, by the policy at the stage's beginning (null: none are); reset_optimizer: forget its state."""

    tasks: tuple[str, ...] = ()
    steps: int = 100
    prompts: int = 8
    group_size: int = 8
    oversample: int = 2
    turns: int = 10
    max_tokens: int = 8192
    max_prompt: int = 2048
    lr: float = 1e-6
    warmup: int = 20
    updates: int = 1
    max_correct: int | None = None
    filter_rollouts: int = 8
    reset_optimizer: bool = False


class Plan(msgspec.Struct, frozen=True):
    """All that decides what a run comes to."""

    stages: tuple[Stage, ...]
    algo: selection.Algo = "roc"
    epsilon: float = 1e-3
    ddof: int = 1
    clip_low: float = 0.2
    clip_high: float = 0.28
    temperature: float = 1.0
    tools: tuple[str, ...] = ("python",)
    call_timeout: float = 4.0
    shown: int = 4096
    scope: verify.Scope = "answer"
    form: verify.Form = "number"
    admission: engine_fleet.Policy = "auto"
    deadline: float = 0.0
    lockstep: bool = False
    noise_timeout: float = 0.0
    noise_error: float = 0.0
    slots: int = 32
    most: int = 4096
    checkpointing: bool = False
    norm: float = 1.0
    seed: int = 0


def stages_of(path: str, common: Record) -> tuple[Stage, ...]:
    """`[[stage]]` tables of a TOML file; what a table leaves out is what the command line says. Raises BadInput."""
    try:
        told = tomllib.loads(Path(path).read_text())
    except OSError as problem:
        raise BadInput(f"{path}: {problem.strerror}") from None
    except (ValueError, RecursionError) as problem:  # a number of 5,000 digits is no TOMLDecodeError
        raise BadInput(f"{path}: not TOML: {problem}") from None
    tables = told.get("stage")
    if not isinstance(tables, list) or not tables or set(told) != {"stage"}:
        raise BadInput(f"{path}: expected one or more [[stage]] tables, and nothing else")
    found = []
    for number, table in enumerate(tables, 1):
        try:
            found.append(msgspec.convert({**common, **table}, Stage))
        except msgspec.ValidationError as problem:
            raise BadInput(
                f"{path}: stage {number}: {problem}; fields are {', '.join(Stage.__struct_fields__)}"
            ) from None
    return tuple(found)


def checked(plan: Plan) -> None:
    """Raises BadInput for numbers that cannot be trained with."""
    if plan.temperature == 0:
        raise BadInput("--temperature 0: a group of trajectories that are all alike teaches nothing")
    for number, stage in enumerate(plan.stages, 1):
        where = f"stage {number}: " if len(plan.stages) > 1 else ""
        if stage.group_size < 2:
            raise BadInput(
                f"{where}group size {stage.group_size}: an advantage needs two trajectories or more of a group"
            )
        for name in ("steps", "prompts", "turns", "max_tokens", "updates", "filter_rollouts", "oversample"):
            if getattr(stage, name) < 1:
                raise BadInput(f"{where}{name}: expected 1 or more, got {getattr(stage, name)}")
        if not (math.isfinite(stage.lr) and stage.lr > 0):
            raise BadInput(f"{where}lr: expected a number above 0, got {stage.lr}")
        if stage.warmup < 0:
            raise BadInput(f"{where}warmup: expected 0 or more, got {stage.warmup}")
        if plan.algo in ("roc", "roc-top", "random-2g") and stage.oversample < 2:
            raise BadInput(
                f"{where}oversample {stage.oversample}: {plan.algo} keeps some of more than G; give 2 or more"
            )
        if not stage.tasks:
            raise BadInput(f"{where}tasks: expected a file of problems")
        if stage.updates > stage.prompts:
            raise BadInput(f"{where}updates {stage.updates}: more than the {stage.prompts} groups of a step")


# ---------------------------------------------------------------- signs that a run goes wrong


class Watch:
    """Signs of collapse, from a step's metrics (section 5.3; a policy that has passed its peak does not come back): a mean reward that has halved, an entropy near nothing, responses that mostly hit their limit,
    calls that have multiplied."""

    def __init__(self) -> None:
        self.rewards: deque[float] = deque(maxlen=WINDOW)
        self.clipped: deque[float] = deque(maxlen=WINDOW)
        self.calls: deque[float] = deque(maxlen=WINDOW)
        self.best, self.first_calls = 0.0, math.nan
        self.said: set[str] = set()

    def see(self, metrics: Record) -> list[str]:
        """New signs, each once."""
        self.rewards.append(metrics["reward/mean"])
        self.clipped.append(metrics["response_length/clip_ratio"])
        self.calls.append(metrics["calls/mean"])
        found = {}
        if len(self.rewards) == WINDOW:
            mean = statistics.fmean(self.rewards)
            self.best = max(self.best, mean)
            if self.best > 0.1 and mean < self.best / 2:
                found["reward"] = f"the mean reward of {WINDOW} steps has fallen to {mean:.3f} from {self.best:.3f}"
            if statistics.fmean(self.clipped) > 0.5:
                found["length"] = (
                    f"{statistics.fmean(self.clipped):.0%} of responses end at a limit: raise --max-tokens or --turns, or start from a cold start that ends its answers"
                )
            calls = statistics.fmean(self.calls)
            if math.isnan(self.first_calls):
                self.first_calls = calls
            if calls > 3 * max(self.first_calls, 0.5):
                found["calls"] = f"calls of a trajectory have grown to {calls:.1f} from {self.first_calls:.1f}"
        entropy = metrics.get("entropy")
        if entropy is not None and entropy < 0.01:
            found["entropy"] = f"the entropy of a token is {entropy:.4f}: nothing is tried any more"
        new = {name: text for name, text in found.items() if name not in self.said}
        self.said |= set(new)
        return [f"{name}: {text}" for name, text in new.items()]


# ---------------------------------------------------------------- the run


def number(value: float) -> float | None:
    """As a line of JSON has it, which knows no NaN."""
    return round(value, 9) if math.isfinite(value) else None


class Counts(msgspec.Struct):
    step: int = 0
    empty: int = 0
    bad: int = 0
    best: float = -1.0
    best_step: int = 0
    rewards: list[float] = []


class Run:
    """A run in its folder. engines: those that sample, which get the policy's weights before each batch that follows an update."""

    def __init__(
        self, plan: Plan, policy: Policy, tokenizer: Any, dialogue: Dialogue, engines: Sequence[Engine], env: Environment, folder: Path, *, save_every: int, keep_rollouts: int, tell: Callable[[str], None],
        progress: Progress | None = None,
    ) -> None:  # fmt: skip
        self.plan, self.policy, self.tokenizer, self.env, self.folder = plan, policy, tokenizer, env, folder
        self.dialogue, self.engines, self.ranks = dialogue, engines, policy.ranks
        self.save_every, self.keep_rollouts, self.tell, self.progress = save_every, keep_rollouts, tell, progress
        self.counts = Counts()
        self.watch = Watch()
        self.stale = True  # engines may lack the last update
        self.pushed = 0.0  # seconds that the last push took
        self.lengths: list[int] = []

    # ------------------------------------------------------------ parts of a step

    def push(self) -> None:
        """The policy as it is now to the engines, where it has changed."""
        began = time.monotonic()
        for engine in self.engines:
            engine.wake()
        if self.stale:
            weights = self.policy.weights()
            push(self.engines, weights, self.tell, first=self.ranks.first)
            for _ in weights:
                pass  # every rank has a part in gathering them, to the end, though its engine was lost on the way
            # nobody samples before servers have them, nor with one that rank 0 could not give them to
            follow(self.engines, self.ranks.same([engine.lost for engine in self.engines]), first=self.ranks.first)
            self.stale = False
        self.pushed = time.monotonic() - began

    def rollouts(self, stage: Stage, deadline: float) -> Rollouts:
        plan = self.plan
        settings = RolloutSettings(
            turns=stage.turns, max_tokens=stage.max_tokens, shown=plan.shown, call_timeout=plan.call_timeout, deadline=deadline, lockstep=plan.lockstep,
            noise_timeout=plan.noise_timeout, noise_error=plan.noise_error, scope=plan.scope, form=plan.form, admission=plan.admission, seed=plan.seed,
        )  # fmt: skip
        return Rollouts(self.engines, self.dialogue, self.env.submit, settings, self.tell, self.env.end, self.lengths)

    def sample(
        self, stage: Stage, tasks: Sequence[Task], size: int, name: str, deadline: float = 0.0
    ) -> list[Trajectory]:
        """In order of task and rollout, whatever order they ended in; each rank samples its part, and has all. Raises Missing where the environment failed more than half of their calls: with what is done
        saved."""
        self.policy.model.eval()
        self.push()
        place = {task.id: k for k, task in enumerate(tasks)}
        rollouts = self.rollouts(stage, deadline)
        if self.ranks.size == 1:
            own = list(rollouts.run(tasks, size, name))
        else:
            own = list(rollouts.each(self.ranks.mine([(task, k) for task in tasks for k in range(size)]), name))
        for engine in self.engines:
            engine.sleep()
        found = [one for part in self.ranks.all(own) for one in part]
        self.lengths = [len(one.response) for one in found]
        self._working(found)
        return sorted(found, key=lambda one: (place[one.group], one.rollout))

    def _working(self, sampled: Sequence[Trajectory]) -> None:
        """A call that the environment failed says nothing of the model. Raises Missing."""
        calls = [call for one in sampled for turn in one.turns for call in turn["calls"]]
        failed = [call for call in calls if call["status"] == "infra"]
        if not failed:
            return
        said = f"step {self.counts.step + 1}: the environment failed {len(failed)} of {len(calls)} calls ({failed[-1].get('problem') or 'no reason given'})"
        if 2 * len(failed) > len(calls):
            self.save()
            raise Missing(f"{said}: nothing is learnt from them; see `grpo-roc doctor`; the same command goes on")
        self.tell(said)

    def learn(
        self, stage: Stage, step: Sequence[Trajectory], kept: Sequence[selection.Kept], name: str
    ) -> list[Updated]:
        """Updates of whole groups, in an order drawn by the step's name."""
        self.policy.model.train()
        self.stale = True
        examples = {
            one.index: Example(
                step[one.index].ids[: step[one.index].prompt], step[one.index].response, step[one.index].mask, one.advantage, sampled=step[one.index].logp
            )
            for one in kept
        }  # fmt: skip
        groups: dict[str, list[int]] = {}
        for index in examples:
            groups.setdefault(step[index].group, []).append(index)
        names = list(groups)
        parts = min(stage.updates, len(names))
        if parts > 1:
            olds, _ = self.policy.logprobs(list(examples.values()))
            for one, old in zip(examples.values(), olds, strict=True):
                one.old = old
            order = stream(self.plan.seed, "updates", name).permutation(len(names))
            names = [names[k] for k in order]
        clip = Clip(self.plan.clip_low, self.plan.clip_high)
        return [
            self.policy.update([examples[index] for each in names[k::parts] for index in groups[each]], clip)
            for k in range(parts)
        ]

    def step(self, stage: Stage, tasks: Sequence[Task], name: str) -> tuple[Record, Record]:
        """(metrics, seconds) of one step."""
        began = time.monotonic()
        size = selection.samples(self.plan.algo, stage.group_size, stage.oversample)
        sampled = self.sample(stage, tasks, size, name, self.plan.deadline)
        generated = time.monotonic()
        kept = selection.select(sampled, self.plan.algo, stage.group_size, seed=self.plan.seed, name=name, epsilon=self.plan.epsilon, ddof=self.plan.ddof)  # fmt: skip
        metrics: Record = {"step": self.counts.step + 1, "name": name, **selection.described(sampled, kept)}
        if kept:
            updates = self.learn(stage, sampled, kept, name)
            tokens = sum(one.stats.tokens for one in updates)
            metrics |= {
                "update/loss": number(statistics.fmean(one.loss for one in updates)),
                "update/grad_norm": number(statistics.fmean(one.grad_norm for one in updates)),
                "update/clip_low": number(sum(one.stats.clipped_low for one in updates) / tokens),
                "update/clip_high": number(sum(one.stats.clipped_high for one in updates) / tokens),
                "update/kl": number(sum(one.stats.kl for one in updates) / tokens),
                "update/skipped": sum(one.skipped for one in updates),
                "entropy": number(statistics.fmean(one.entropy for one in updates)),
                "logprob_gap/mean": number(updates[0].gap_mean),
                "logprob_gap/max": number(max(one.gap_most for one in updates[:1])),
            }
            self.counts.bad = self.counts.bad + 1 if any(one.skipped for one in updates) else 0
        self.counts.empty = 0 if kept else self.counts.empty + 1
        if self.ranks.first and self.keep_rollouts and (self.counts.step + 1) % self.keep_rollouts == 0:
            self._write_rollouts(sampled, kept)
        ended = time.monotonic()
        seconds = {
            "step": metrics["step"],
            "push_s": round(self.pushed, 3),
            "generate_s": round(generated - began - self.pushed, 3),
            "train_s": round(ended - generated, 3),
            "sampled_tokens_s": round(
                sum(one.sampled for one in sampled) / max(generated - began - self.pushed, 1e-9), 1
            ),
            "trained_tokens_s": round(
                sum(sampled[one.index].sampled for one in kept) / max(ended - generated, 1e-9), 1
            ),
        }
        return metrics, seconds

    def _write_rollouts(self, sampled: Sequence[Trajectory], kept: Sequence[selection.Kept]) -> None:
        advantages = {one.index: one.advantage for one in kept}
        lines = [
            json.dumps({**one.record(tokens=True), "kept": k in advantages, "advantage": advantages.get(k)}).encode()
            + b"\n"
            for k, one in enumerate(sampled)
        ]
        (self.folder / "rollouts").mkdir(exist_ok=True)
        write_atomic(self.folder / "rollouts" / f"{self.counts.step + 1}.jsonl", b"".join(lines))

    # ------------------------------------------------------------ all steps

    def go(self, tasks_of: Callable[[Stage], list[Task]], until: float | None = None) -> str:
        """Steps until the end: `done`, `time`, or why it stopped. Raises BadInput."""
        first = 0
        for number, stage in enumerate(self.plan.stages, 1):
            last = first + stage.steps
            if self.counts.step < last:
                tasks = self._fit(stage, tasks_of(stage), number)
                if self.counts.step == first and first and stage.reset_optimizer:
                    self.policy.reset_optimizer()
                self.policy.how = msgspec.structs.replace(self.policy.how, lr=stage.lr, warmup=stage.warmup)
                if self.counts.step == first:
                    # rewards of other problems, or of other lengths, are not compared with these
                    self.watch, self.counts.rewards, self.counts.best = Watch(), [], -1.0
                order = self._order(tasks, number)
                for _ in range(self.counts.step - first):
                    next(order)
                while self.counts.step < last:
                    if self.ranks.same(until is not None and time.monotonic() > until):
                        self.save()
                        return "time"
                    why = self._one(
                        stage, next(order), f"{number}/{self.counts.step - first + 1}", last == self.counts.step + 1
                    )
                    if why:
                        return why
            first = last
        return "done"

    def _one(self, stage: Stage, tasks: list[Task], name: str, last: bool) -> str:
        metrics, seconds = self.step(stage, tasks, name)
        counts = self.counts
        counts.step += 1
        counts.rewards = [*counts.rewards[-(WINDOW - 1) :], metrics["reward/mean"]]
        mean = statistics.fmean(counts.rewards)
        signs = self.watch.see(metrics)
        if signs:
            metrics["alarms"] = signs
        for path, line in (("metrics.jsonl", metrics), ("timings.jsonl", seconds)) if self.ranks.first else ():
            try:
                with open(self.folder / path, "ab") as out:
                    out.write(json.dumps(line).encode() + b"\n")
            except OSError as problem:  # which does not say where there was no room
                raise OSError(problem.errno, problem.strerror, str(self.folder / path)) from None
        for sign in signs:
            self.tell(f"step {counts.step}: {sign}")
        if self.progress is not None:
            self.progress.update()
        if len(counts.rewards) == min(WINDOW, stage.steps) and mean > counts.best:
            counts.best, counts.best_step = mean, counts.step
            self.policy.save(self.folder / "best", self.tokenizer, {}, optimizer=False, dtype=self.policy.how.compute)
        stop = self._stop(signs)
        if stop or last or counts.step % self.save_every == 0:
            self.save()
        return stop

    def _stop(self, signs: Sequence[str]) -> str:
        if self.counts.empty >= EMPTY_STEPS:
            return f"no group had both right and wrong answers in {EMPTY_STEPS} steps: the problems are too easy or too hard for this model, or the gold answers are not what the verifier reads; see `grpo-roc filter-hard` and `verify`"
        if self.counts.bad >= BAD_UPDATES:
            return f"{BAD_UPDATES} updates in a row were no numbers: lower --lr, or train in float32; the last checkpoint is sound"
        fallen = [sign for sign in signs if sign.startswith("reward:")]
        return f"collapse: {fallen[0]}; best/ is the model of step {self.counts.best_step}" if fallen else ""

    def _order(self, tasks: list[Task], number: int) -> Iterator[list[Task]]:
        """Problems of each step: every one once before any again, in an order drawn anew each time."""
        size = min(self.plan.stages[number - 1].prompts, len(tasks))
        epoch, line = 0, deque[Task]()
        while True:
            step: list[Task] = []
            again: list[Task] = []  # what the step has already, for the next one
            while len(step) < size:
                if not line:
                    order = stream(self.plan.seed, "order", number, epoch).permutation(len(tasks))
                    line.extend(tasks[k] for k in order)
                    epoch += 1
                one = line.popleft()
                (again if any(one.id == other.id for other in step) else step).append(one)
            line.extendleft(reversed(again))
            yield step

    def _fit(self, stage: Stage, tasks: list[Task], number: int) -> list[Task]:
        """Problems whose prompt has room, and, where the stage says so, that are not solved too often."""
        short = [task for task in tasks if len(self.dialogue.prompt(task.prompt)) <= stage.max_prompt]
        if len(short) < len(tasks):
            self.tell(
                f"{len(tasks) - len(short)} of {len(tasks)} problems are longer than {stage.max_prompt} tokens and are left out"
            )
        if stage.max_correct is not None:
            short = self._hard(stage, short, number)
        if not short:
            raise BadInput(f"stage {number}: no problem is left to train on")
        return short

    def _hard(self, stage: Stage, tasks: list[Task], number: int) -> list[Task]:
        """Once, with the policy at the stage's beginning; what was found is read again by a run that goes on."""
        path = self.folder / f"stage-{number}.json"
        known = self.ranks.same(json.loads(path.read_bytes()) if self.ranks.first and path.exists() else None)
        if known is not None:
            wanted = set(known)
        else:
            assert stage.max_correct is not None
            right: dict[str, float] = {}
            for one in self.sample(stage, tasks, stage.filter_rollouts, f"{number}/filter"):
                right[one.group] = right.get(one.group, 0.0) + one.reward
            wanted = {task.id for task in tasks if right[task.id] <= stage.max_correct}
            if self.ranks.first:
                write_atomic(path, json.dumps(sorted(wanted)).encode())
            self.tell(
                f"stage {number}: {len(wanted)} of {len(tasks)} problems are solved at most {stage.max_correct} times of {stage.filter_rollouts}, and are trained on"
            )
        return [task for task in tasks if task.id in wanted]

    def save(self) -> None:
        self.policy.save(self.folder / "checkpoint", self.tokenizer, {"counts": msgspec.to_builtins(self.counts)})

    def resume(self) -> None:
        """From the checkpoint that the policy was opened from; lines of later steps are written again."""
        state = self.policy.restore(self.folder / "checkpoint")
        self.counts = msgspec.convert(state["counts"], Counts)
        for path in ("timings.jsonl", "metrics.jsonl"):
            kept = self.ranks.same(
                [line for line in read_lines(self.folder / path) if line["step"] <= self.counts.step]
                if self.ranks.first
                else []
            )
            if self.ranks.first:
                write_atomic(self.folder / path, b"".join(json.dumps(line).encode() + b"\n" for line in kept))
        for line in kept:
            if line["name"].endswith("/1"):  # a stage's first
                self.watch = Watch()
            self.watch.see(line)


# ---------------------------------------------------------------- the verb


def copied(model: Any, place: Any, dtype: Any) -> Any:
    """A copy on a device with weights of a type. What is no weight keeps its own, as where a checkpoint is opened in that type: frequencies of positions, rounded to bfloat16, put late tokens elsewhere."""
    found = copy.deepcopy(model)
    for one in found.parameters():
        one.data = one.data.to(place, dtype)
    return found.to(place)


def run(
    model: str, plan: Plan, tasks_of: Callable[[Stage], list[Task]], identity: Record, output: str, *, engines: Sequence[str], memory: float, api_key_env: str, level: Any, workers: int, dtype: str, device: str, save_every: int,
    keep_rollouts: int, overwrite: bool, max_time: float | None, trust_remote_code: bool, quiet: bool,
) -> int:  # fmt: skip
    """The verb; returns the exit code: 1 where it stopped early, with what is there saved. Raises BadInput, Missing and Busy."""
    import torch

    checked(plan)
    folder = Path(output)
    until = None if max_time is None else time.monotonic() + max_time
    with Ranks().joined(device) as ranks, held(folder) if ranks.first else nullcontext():

        def tell(line: str) -> None:
            if ranks.first:
                print(f"grpo-roc: {line}", file=sys.stderr, flush=True)

        state = ranks.same(settle(folder, identity, overwrite) if ranks.first else "")
        if state == "finished":
            tell(f"{folder}: complete already; nothing to do")
            return 0
        if state == "new" and ranks.first:
            if (folder / "metrics.jsonl").exists():
                tell(f"{folder}: there is no checkpoint to go on from: the run begins again")
            for path in ("metrics.jsonl", "timings.jsonl"):
                (folder / path).unlink(missing_ok=True)
        torch.manual_seed(plan.seed)
        source = str(folder / "checkpoint") if state == "resume" else model
        place = ranks.device(device)
        lm, tokenizer, compute = for_training(source, dtype, place, trust_remote_code, ranks)
        dialogue = Dialogue(tokenizer, plan.tools)
        dialogue.fits(len(lm.get_input_embeddings().weight))
        sampler = None
        if not engines:
            home = lm.device if ranks.size == 1 or not place.startswith("cuda") else torch.device(place)
            # the very model where it can be, else a copy, whole and in the type that is computed in
            own = ranks.size == 1 and compute == "float32"
            sampler = lm if own else copied(lm, home, getattr(torch, compute))
        stage = plan.stages[0]
        policy = Policy(
            lm, Optimisation(lr=stage.lr, warmup=stage.warmup, norm=plan.norm, most=plan.most, temperature=plan.temperature, checkpointing=plan.checkpointing, compute=compute), ranks=ranks
        )  # fmt: skip
        total = sum(one.steps for one in plan.stages)
        opened = open_engines(
            engines, dialogue=dialogue, slots=plan.slots, capacity=max(one.max_prompt + one.max_tokens + 1 for one in plan.stages), temperature=plan.temperature, model=sampler, source=source,
            dtype=compute, trust_remote_code=trust_remote_code, folder=str(folder), share=ranks.size, memory=memory, api_key_env=api_key_env, seed=plan.seed,
        )  # fmt: skip
        with (
            ExitStack() as closing,
            Environment(EnvironmentSettings(level=level, workers=workers, timeout=plan.call_timeout)) as env,
            Progress("train", total, "steps", quiet or not ranks.first) as progress,
        ):
            for engine in opened:
                closing.callback(engine.close)
            this = Run(plan, policy, tokenizer, dialogue, opened, env, folder, save_every=save_every, keep_rollouts=keep_rollouts, tell=tell, progress=progress)  # fmt: skip
            if state == "resume":
                this.resume()
                progress.update(this.counts.step)
                tell(f"goes on after step {this.counts.step} of {total}")
            why = this.go(tasks_of, until)
        if why == "time":
            tell(f"time is up after step {this.counts.step} of {total}; the same command goes on")
            return 1
        if why != "done":
            tell(f"stopped after step {this.counts.step}: {why}")
            return 1
        if ranks.first:
            _finish(folder, identity, this.counts)
    return 0


def _finish(folder: Path, identity: Record, counts: Counts) -> None:
    lines = read_lines(folder / "metrics.jsonl")
    told = {
        "steps": counts.step,
        "best_step": counts.best_step,
        "best_reward": round(counts.best, 6),
        "last_reward": lines[-1]["reward/mean"],
    }
    write_atomic(
        folder / "manifest.json",
        json.dumps({**identity, "version": grpo_roc.__version__, "counts": told}, indent=1).encode(),
    )
