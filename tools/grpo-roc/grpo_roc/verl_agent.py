"""verl's agent loop (0.9) with our dialogue, code environment and verifier: `grpo_roc_agent`.

    # agent.yaml, named by actor_rollout_ref.rollout.agent.agent_loop_config_path
    - name: grpo_roc_agent
      _target_: grpo_roc.verl_agent.Agent
      turns: 10
      level: strict

Fields of a row: `raw_prompt`, whose last user turn is the problem, and `reward_model.ground_truth`; `grpo-roc prepare --to verl` writes such. Each worker process has one environment. What is given back is, beside
what verl asks for: reward_score, and in extra_fields `roc_turns`, which verl_adapter.resample reads.

Where it sits: above verl_adapter.py. Imports verl; nothing here imports it.
"""

from __future__ import annotations

import atexit
import threading
from typing import Any
from uuid import uuid4

from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput, register

from grpo_roc.dialogue import SHOWN, Dialogue
from grpo_roc.env.environment import Environment
from grpo_roc.env.environment import Settings as EnvironmentSettings
from grpo_roc.rollout import Settings, Task
from grpo_roc.verl_adapter import TURNS, Said, converse
from tenfold_shared import BadInput

_open: dict[EnvironmentSettings, Environment] = {}
_opening = threading.Lock()


def environment(settings: EnvironmentSettings) -> Environment:
    """This process's, until it ends."""
    with _opening:
        if settings not in _open:
            env = Environment(settings)
            env.__enter__()
            atexit.register(env.__exit__, None, None, None)
            _open[settings] = env
        return _open[settings]


@register("grpo_roc_agent")
class Agent(AgentLoopBase):
    """turns, shown, call_timeout, scope: as in rollout.Settings; level, workers: of the environment; names: of dialogue.TOOLS. The budget of a response is verl's response_length."""

    def __init__(
        self, *given: Any, turns: int = 10, shown: int = SHOWN, call_timeout: float = 4.0, scope: Any = "answer", names: Any = ("python",), level: Any = "strict", workers: int = 1, **named: Any
    ) -> None:  # fmt: skip
        super().__init__(*given, **named)
        self.settings = Settings(turns=turns, max_tokens=self.rollout_config.response_length, shown=shown, call_timeout=call_timeout, scope=scope)  # fmt: skip
        self.dialogue = Dialogue(self.tokenizer, tuple(names))
        self.env = environment(EnvironmentSettings(level=level, workers=workers, timeout=call_timeout))

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> AgentLoopOutput:
        problem = next((turn["content"] for turn in reversed(list(row["raw_prompt"])) if turn["role"] == "user"), None)
        if not isinstance(problem, str):
            raise BadInput("raw_prompt: expected a chat with a user turn of text")
        task = Task(str(row.get("index", "")), problem, row["reward_model"]["ground_truth"])
        length, most = len(self.dialogue.prompt(problem)), self.rollout_config.prompt_length
        if length > most:
            raise BadInput(f"{task.id}: a prompt of {length} tokens, more than data.max_prompt_length {most}; leave it out, or allow more")  # fmt: skip
        key, preempted, spent = uuid4().hex, [0], {"generate": 0.0, "tools": 0.0}

        async def generate(ids: list[int], room: int) -> Said:
            asked = {**sampling_params, "max_tokens": room, "stop_token_ids": sorted(self.dialogue.ends)}
            found = await self.server_manager.generate(request_id=key, prompt_ids=ids, sampling_params=asked)
            preempted[0] += found.num_preempted or 0
            return Said(list(found.token_ids), found.log_probs, found.stop_reason == "aborted")

        one = await converse(task, 0, self.dialogue, generate, self.env.submit, self.settings, key=key, end_session=self.env.end, spent=spent)  # fmt: skip
        calls = sum(bool(turn["calls"]) for turn in one.turns)
        return AgentLoopOutput(
            prompt_ids=one.ids[: one.prompt], response_ids=one.response, response_mask=[int(mask) for mask in one.mask], response_logprobs=one.logp if sampling_params.get("logprobs") else None,
            reward_score=one.reward, num_turns=1 + len(one.turns) + calls, metrics=AgentLoopMetrics(generate_sequences=spent["generate"], tool_calls=spent["tools"], num_preempted=preempted[0]),
            extra_fields={TURNS: one.turns, "roc_finish": one.finish, "reward_extra_info": {"acc": one.reward, "ungradable": float(one.grade == "ungradable")}},
        )  # fmt: skip
