"""Resample-on-Correct within TRL's GRPOTrainer (1.16): trajectories, reward and tools as its arguments.

    groups = Groups(tasks, tokenizer, env)
    GRPOTrainer(model, rollout_func=groups, reward_funcs=[groups.advantage, groups.reward], args=GRPOConfig(**UPDATE, ...), train_dataset=dataset(tasks), processing_class=tokenizer)

TRL has one number for what is sampled and what is trained on, `num_generations` G: it hands each prompt over G times and wants G completions back. `Groups` samples oversample × G of each, runs their calls in the
environment, and gives back the G that selection.py keeps: token-in, token-out, with the log-probabilities that were drawn and a mask of what the model said.

TRL's own advantage is (r - mean) / (std + 1e-4) over these G, with one degree of freedom less, where ours adds 1e-6. With `UPDATE`, `groups.advantage` is the only reward that counts and is not scaled: its mean over a
group is 0, so that TRL's advantages are ours (in float32); `groups.reward`, of weight 0, is there to be seen. A group whose rewards are all equal cannot be left out: it comes with advantage 0 and a mask of zeros, so
that it is not in the token-mean's denominator either.

For rewards and tools without `Groups`: `rewarded` makes a reward function of the verifier, `tool` and `environment_factory` make TRL's tools of the environment; with these TRL samples, G of a prompt, none left out.

Where it sits: above rollout.py, selection.py and engine.py, beside train.py, which is the same loop without TRL.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from grpo_roc import penalty, selection, verify
from grpo_roc.dialogue import SHOWN, Dialogue, response
from grpo_roc.engine_protocol import Engine
from grpo_roc.env.environment import Environment, Program
from grpo_roc.rollout import Rollouts, Settings, Task, Trajectory, outcome
from tenfold_shared import BadInput, answers
from tenfold_shared.records import RecordProblem

Record = dict[str, Any]
Rows = list[tuple[Trajectory, float, bool]]  # (trajectory, advantage, whether it is learnt from)
ALGOS = ("roc", "roc-top", "grpo", "random-2g")
# What makes TRL's update that of section 3.2: the mean over tokens, a higher upper clip, no reference model, the group's advantages as they are given.
UPDATE: Record = {
    "loss_type": "dapo",
    "epsilon": 0.2,
    "epsilon_high": 0.28,
    "beta": 0.0,
    "num_iterations": 1,
    "scale_rewards": "none",
    "reward_weights": [1.0, 0.0],
}


def dataset(tasks: Sequence[Task]) -> Any:
    """A `train_dataset`: each problem's text as `prompt`."""
    from datasets import Dataset

    return Dataset.from_dict({"prompt": [task.prompt for task in tasks]})


def text_of(prompt: Any) -> str:
    """The problem of a row's prompt: text, or a chat's last user turn."""
    if isinstance(prompt, str):
        return prompt
    found = next((turn["content"] for turn in reversed(prompt) if turn["role"] == "user"), None)
    if not isinstance(found, str):
        raise BadInput("prompt: expected text, or a chat with a user turn of text")
    return found


class Groups:
    """A `rollout_func`, and the reward functions that go with it.

    tasks: all problems of the data set, each text once. algo: of selection.ALGOS, but for those that keep more than G. engines: for the trainer's model as it is now; None samples with the model itself, in `slots`
    places, of a prompt of up to `max_prompt` tokens. seen: called with a batch's name, its trajectories and what was kept. Raises BadInput.
    """

    def __init__(
        self, tasks: Sequence[Task], tokenizer: Any, env: Environment, *, settings: Settings | None = None, algo: selection.Algo = "roc", oversample: int = 2, epsilon: float = 1e-3,
        tools: Sequence[str] = ("python",), slots: int = 32, max_prompt: int = 2048, engines: Callable[[Any], Sequence[Engine]] | None = None,
        seen: Callable[[str, list[Trajectory], list[selection.Kept]], object] | None = None, tell: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self.env, self.settings, self.algo, self.oversample, self.epsilon = (
            env,
            settings or Settings(),
            algo,
            oversample,
            epsilon,
        )
        self.slots, self.max_prompt, self.engines, self.seen, self.tell = slots, max_prompt, engines, seen, tell
        self.dialogue = Dialogue(tokenizer, tools)
        self.last: tuple[int, int] = (-1, 0)  # step, batches of it
        self.described: Record = {}
        if algo not in ALGOS:
            raise BadInput(f"algo {algo}: TRL trains on as many as it asks for; expected one of {', '.join(ALGOS)}")
        if algo != "grpo" and oversample < 2:
            raise BadInput(f"oversample {oversample}: {algo} keeps some of more than G; give 2 or more")
        self.tasks: dict[str, Task] = {}  # by text
        self.named: dict[str, Task] = {}
        for task in tasks:
            if task.prompt in self.tasks:
                raise BadInput(f"{task.id}: the same problem as {self.tasks[task.prompt].id}; TRL tells prompts by their text alone")  # fmt: skip
            if (length := len(self.dialogue.prompt(task.prompt))) > max_prompt:
                raise BadInput(f"{task.id}: a prompt of {length} tokens, more than max_prompt {max_prompt}; leave it out, or allow more")  # fmt: skip
            if task.id in self.named:
                raise BadInput(f"id: {task.id} appears twice; ids must be unique")
            self.tasks[task.prompt] = self.named[task.id] = task

    # ------------------------------------------------------------ what TRL calls

    def __call__(self, prompts: list[Any], trainer: Any) -> Record:
        """For G equal prompts, G trajectories: prompt_ids, completion_ids, logprobs (0 where nothing was sampled), env_mask; for reward functions advantage, reward and trajectory."""
        asked = [self._task(prompt) for prompt in prompts]
        wanted = Counter(task.id for task in asked)
        rows = self._train(wanted, trainer) if trainer.model.training else self._look(wanted, trainer)
        line = [rows[task.id].pop(0) for task in asked]
        return {
            "prompt_ids": [one.ids[: one.prompt] for one, _, _ in line],
            # one that the deadline left without a token is an end of text that nobody learns from: TRL looks at the last
            "completion_ids": [one.response or [self.dialogue.tokenizer.eos_token_id] for one, _, _ in line],
            "logprobs": [one.logp or [0.0] for one, _, _ in line],
            "env_mask": [[int(sampled and learnt) for sampled in one.mask] or [0] for one, _, learnt in line],
            "advantage": [advantage for _, advantage, _ in line],
            "reward": [one.reward for one, _, _ in line],
            "trajectory": [one.record() for one, _, _ in line],
        }

    def advantage(self, advantage: list[float], **_: Any) -> list[float]:
        """A reward function: the advantages among what was kept, for `scale_rewards` "none"."""
        return advantage

    def reward(
        self, reward: list[float], log_metric: Callable[[str, float], None] | None = None, **_: Any
    ) -> list[float]:
        """A reward function: whether the answer is right. Also says what the batch was like, before any was left out, under the names of `grpo-roc train`."""
        if log_metric is not None:
            for name, value in self.described.items():
                if isinstance(value, int | float):
                    log_metric(f"roc/{name}", float(value))
        return reward

    # ------------------------------------------------------------ parts

    def _task(self, prompt: Any) -> Task:
        text = text_of(prompt)
        if text not in self.tasks:
            raise BadInput(f"prompt {text[:60]!r}: not among the tasks that were given")
        return self.tasks[text]

    def _name(self, trainer: Any) -> str:
        """Of a batch, the same in a run that is begun again: the step, which batch of it, and which process where there are several."""
        step = int(trainer.state.global_step)
        self.last = (step, self.last[1] + 1 if self.last[0] == step else 0)
        rank = trainer.accelerator.process_index
        return f"{step}/{self.last[1]}" + (f"/{rank}" if rank else "")

    def _train(self, wanted: Counter[str], trainer: Any) -> dict[str, Rows]:
        """G rows for every G that are wanted of a problem: those that were kept, first."""
        size = trainer.num_generations
        if any(count % size for count in wanted.values()):
            raise BadInput(
                f"a process has part of a group of {size}: make per_device_train_batch_size times steps_per_generation a multiple of num_generations"
            )
        each = selection.samples(self.algo, size, self.oversample)
        name = self._name(trainer)
        sampled = self._sample({id: count // size * each for id, count in wanted.items()}, name, trainer)
        groups: dict[tuple[str, int], list[int]] = {}
        for index, one in enumerate(sampled):  # a problem that is asked for twice in a batch has two groups
            groups.setdefault((one.group, one.rollout // each), []).append(index)
        kept: list[selection.Kept] = []
        rows: dict[str, Rows] = {id: [] for id in wanted}
        for id, count in wanted.items():
            for number in range(count // size):
                members = groups.get((id, number), [])
                chosen = selection.keep(
                    [sampled[k].reward for k in members], [penalty.of_turns(sampled[k].turns).total for k in members], self.algo, size, group=f"{name}/{id}" + (f"#{number}" if number else ""),
                    seed=self.settings.seed, epsilon=self.epsilon,
                )  # fmt: skip
                kept += [selection.Kept(members[one.index], one.advantage) for one in chosen]
                advantage = {members[one.index]: one.advantage for one in chosen}
                good: Rows = [(sampled[k], advantage[k], True) for k in members if k in advantage]
                spare: Rows = [(sampled[k], 0.0, False) for k in members if k not in advantage]
                rows[id] += [*good, *spare, *self._nothing(id, size)][:size]
        self.described = selection.described(sampled, kept) if sampled else {}
        if self.seen is not None:
            self.seen(name, sampled, kept)
        return rows

    def _look(self, wanted: Counter[str], trainer: Any) -> dict[str, Rows]:
        """To evaluate: as many as are asked for, none left out."""
        sampled = self._sample(dict(wanted), f"eval/{self._name(trainer)}", trainer)
        found: dict[str, Rows] = {id: [] for id in wanted}
        for one in sampled:
            found[one.group].append((one, 0.0, True))
        return {id: [*found[id], *self._nothing(id, count)][:count] for id, count in wanted.items()}

    def _sample(self, wanted: dict[str, int], name: str, trainer: Any) -> list[Trajectory]:
        """In order of task and rollout; fewer than wanted where the deadline came first."""
        model, place = trainer.model, {id: k for k, id in enumerate(wanted)}
        engines = self._engines(trainer) if self.engines is None else self.engines(trainer)
        training = model.training
        model.eval()
        try:
            rollouts = Rollouts(engines, self.dialogue, self.env.submit, self.settings, self.tell, self.env.end)
            found = list(
                rollouts.each(
                    ((self.named[id], rollout) for id, count in wanted.items() for rollout in range(count)), name
                )
            )
        finally:
            model.train(training)
            if self.engines is None:
                engines[0].close()
        return sorted(found, key=lambda one: (place[one.group], one.rollout))

    def _engines(self, trainer: Any) -> Sequence[Engine]:
        from grpo_roc.engine import LocalEngine
        from grpo_roc.packing import beneath

        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise BadInput("engines: a model in shards cannot be sampled from here; give engines that hold it whole")
        if (trainer.top_p, trainer.top_k, trainer.min_p or 0.0) != (1.0, 0, 0.0) or trainer.repetition_penalty != 1.0:
            raise BadInput("top_p, top_k, min_p, repetition_penalty: leave them out; log-probabilities of a cut distribution are not the policy's")  # fmt: skip
        model = beneath(trainer.accelerator.unwrap_model(trainer.model))
        capacity = self.max_prompt + self.settings.max_tokens + 1
        return [LocalEngine(model, self.dialogue.ends, slots=self.slots, capacity=capacity, temperature=trainer.temperature)]  # fmt: skip

    def _nothing(self, id: str, count: int) -> Rows:
        """In place of those that the deadline left out."""
        task = self.named[id]
        ids = self.dialogue.prompt(task.prompt)
        none = Trajectory(id, -1, task, len(ids), ids, [], [], [], "deadline")
        return [(none, 0.0, False)] * count


# ---------------------------------------------------------------- without Groups


def rewarded(scope: verify.Scope = "answer", *, deadline: float = 2.0, workers: int = 2) -> Callable[..., list[float]]:
    """A reward function: 1 where the last box of the answer is the gold answer of the row, which its `answer` (or `solution`, or verl's `reward_model`) has, else 0. From any thread; no comparison takes longer than
    `deadline` seconds, and what met it is counted as `verifier/ungradable`. It raises BadInput for rows without a gold answer."""

    def verified(
        completions: list[Any], log_metric: Callable[[str, float], None] | None = None, **columns: Any
    ) -> list[float]:
        items = []
        for k, said in enumerate(completions):
            record: Record = {
                name: columns[name][k] for name in ("answer", "solution", "reward_model") if name in columns
            }
            try:
                gold = verify.gold_of(record)
            except RecordProblem as problem:
                raise BadInput(f"row {k}: {problem}") from None
            if gold is None:
                raise BadInput(f"row {k}: answer: expected a column with the gold answer")
            items.append((k, verify.settled({"answer": gold, "completion": said}, scope)))
        grades = [
            one.grade if isinstance(one, answers.Grade) else one["grade"]
            for _, one in answers.grade_in_turn(items, workers, deadline)
        ]
        if log_metric is not None and grades:
            log_metric("verifier/ungradable", grades.count("ungradable") / len(grades))
        return [float(grade == "correct") for grade in grades]

    return verified


def tool(env: Environment, *, timeout: float = 4.0, shown: int = SHOWN) -> Callable[..., str]:
    """For `tools=[...]`: a function that runs a program in the environment and returns what the model is shown of it, failures too."""

    def execute_python_code_with_standard_io(code: str, input: str = "") -> str:
        """
        Run a Python program and get what it prints. The value of a last bare expression is printed too.

        Args:
            code: The program.
            input: Its standard input.

        Returns:
            Whether it ran well, and what it printed.
        """
        return response(outcome(env.run(Program(code, input, timeout=timeout))), shown)

    return execute_python_code_with_standard_io


def environment_factory(env: Environment, *, timeout: float = 4.0, shown: int = SHOWN) -> Callable[[], Any]:
    """For `environment_factory=`: a notebook of its own for each rollout, which TRL begins anew by `reset`."""
    numbers = itertools.count()

    class Notebook:
        def __init__(self) -> None:
            self._name = ""

        def reset(self, **_: Any) -> None:
            """Forgets what the cells of the rollout before made."""
            if self._name:
                env.end(self._name)
            self._name = f"trl-{next(numbers)}"

        def jupyter_code(self, code: str) -> str:
            """
            Run a cell of Python in a notebook that keeps what earlier cells made.

            Args:
                code: The cell.

            Returns:
                Whether it ran well, and what it printed.
            """
            return response(outcome(env.run(Program(code, session=self._name, timeout=timeout))), shown)

    return Notebook
