"""Trajectories in other people's forms: verl's rollout dumps, chats with tool messages, TRL's rollouts.

    verl   STEP.jsonl: `input`, `output` (ChatML text), `gts`, `score`, `step`; a group is what has one `input` in one step
    chat   `messages` with `tool` messages, or TRL's `prompt` and `completion`; `reward`, or the sum of `rewards`; a group is one prompt

Where it sits: below resample.py. What became of a call is read from the first line of the tool's text and its `reason` where the text is of rStar's environment, from a
`status` beside the message where there is one, and else from a Python traceback's last line; nothing is guessed from words within output.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from grpo_roc.transcript import STATUSES
from tenfold_shared.records import RecordProblem

Record = dict[str, Any]
_HEADER = re.compile(r"<\|im_end\|>\s*<\|im_start\|>(\w+)\n?")
_RESPONSE = re.compile(r"<tool_response>\n?(.*?)\n?</tool_response>", re.DOTALL)
_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_RAISED = re.compile(r"^[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning|Iteration)\b.*\Z", re.MULTILINE)
_REASONS = {
    "worker_timeout": "timeout",
    "queue_timeout": "infra",
    "internal_error": "infra",
    "invalid_input": "invalid_call",
}


def status_of(text: str) -> str:
    """What became of a call, from the text that the model was shown."""
    first, _, rest = text.strip().partition("\n")
    if first == "Tool call success":
        return "ok" if rest.startswith("stdout: ") else "ok_no_output"
    if first == "Tool call failure":
        reason = re.match(r"reason: ?(\w*)", rest)
        return _REASONS.get(reason[1] if reason else "", "error")
    if first.startswith("Failed to decode tool call"):
        return "invalid_call"
    last = text.strip().rsplit("\n", 1)[-1]
    if "Traceback (most recent call last)" in text and _RAISED.match(last):
        return "error"
    return "ok" if text.strip() else "ok_no_output"


def call_of(raw: str, text: str, status: str | None = None) -> Record:
    """A call from its JSON and what was shown of it; one that cannot be read is an invalid call."""
    try:
        told = json.loads(raw)
        name, arguments = str(told["name"]), told["arguments"]
    except (ValueError, KeyError, TypeError):
        return {"name": "", "arguments": raw, "status": "invalid_call", "stdout": "", "stderr": text}
    return {"name": name, "arguments": arguments, "status": status or status_of(text), "stdout": text, "stderr": ""}


def turns_of_text(text: str) -> list[Record]:
    """Turns of a response in ChatML that begins within the assistant's first."""
    parts = _HEADER.split(text)
    spoken = [("assistant", parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]
    turns: list[Record] = []
    for role, said in spoken:
        if role == "assistant":
            turns.append({"text": said.removesuffix("<|im_end|>").rstrip("\n"), "calls": []})
        elif turns:
            shown, raws = _RESPONSE.findall(said), _CALL.findall(turns[-1]["text"])
            # the released environment runs the first call of a turn and is silent about the others
            turns[-1]["calls"] = [call_of(raw, one) for raw, one in zip(raws, shown, strict=False)]
    return turns


def from_verl(record: Record, where: str) -> Record:
    for name, kind in (("input", str), ("output", str)):
        if not isinstance(record.get(name), kind):
            raise RecordProblem(f"{name}: expected the text of a verl rollout dump")
    if not isinstance(record.get("score"), int | float) or isinstance(record["score"], bool):
        raise RecordProblem("score: expected a number")
    group = _named(record["input"], record.get("step", ""))
    return {**record, "group": group, "reward": float(record["score"]), "turns": turns_of_text(record["output"])}


def from_chat(record: Record, where: str) -> Record:
    """`messages`, or `prompt` and `completion` (a chat, or plain text)."""
    if "completion" in record:
        prompt, messages = record.get("prompt"), record["completion"]
        if isinstance(messages, str):
            messages = [{"role": "assistant", "content": messages}]
    elif isinstance(record.get("messages"), list):
        whole = record["messages"]
        at = next((i for i, one in enumerate(whole) if isinstance(one, dict) and one.get("role") == "assistant"), 0)
        prompt, messages = whole[:at], whole[at:]
    else:
        messages = None
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise RecordProblem("messages: expected a chat, or `prompt` and `completion`")
    turns: list[Record] = []
    pending: list[Record] = []
    for message in messages:
        content = message.get("content") or ""
        if message.get("role") == "assistant":
            asked = [_asked(one) for one in message.get("tool_calls") or ()] or [
                {"raw": raw} for raw in _CALL.findall(content)
            ]
            pending = asked
            turns.append({"text": content, "calls": []})
        elif message.get("role") == "tool" and turns:
            place = next(
                (k for k, one in enumerate(pending) if one.get("id") and one["id"] == message.get("tool_call_id")), 0
            )
            asked_for = pending.pop(place) if pending else {"raw": "{}"}
            turns[-1]["calls"].append(call_of(asked_for["raw"], content, _known(message.get("status"))))
    if not turns:
        raise RecordProblem("messages: no assistant turn")
    reward = record.get("reward")
    if reward is None and isinstance(record.get("rewards"), dict):
        reward = sum(record["rewards"].values())
    if not isinstance(reward, int | float) or isinstance(reward, bool):
        raise RecordProblem("reward: expected a number, or an object of them in `rewards`")
    named = record.get("group") or _named(json.dumps(prompt, sort_keys=True), record.get("step", ""))
    return {**record, "group": named, "reward": float(reward), "turns": turns}


def _asked(call: Record) -> Record:
    function = call.get("function") or call
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return {"id": call.get("id"), "raw": arguments}
    return {"id": call.get("id"), "raw": json.dumps({"name": function.get("name"), "arguments": arguments})}


def _known(status: Any) -> str | None:
    return status if status in STATUSES else None


def _named(text: str, step: Any) -> str:
    return hashlib.blake2b(f"{step}\0{text}".encode(), digest_size=8).hexdigest()


FORMS = {"verl": from_verl, "chat": from_chat}


def form_of(record: Record) -> str:
    """Which form a record is of: ours, unless it looks like another's."""
    if "turns" in record:
        return "trajectory"
    if isinstance(record.get("output"), str) and "score" in record:
        return "verl"
    return "chat" if "completion" in record or "messages" in record else "trajectory"


def read(located: Iterable[tuple[str, Record]], form: str) -> Iterator[tuple[str, Record]]:
    """Records as trajectories: with `group`, `rollout` (its place among its group where the file says none), `reward`, `turns`, `id`."""
    from tenfold_shared import BadInput

    met: Counter[str] = Counter()
    for where, record in located:
        kind = form_of(record) if form == "auto" else form
        try:
            found = FORMS[kind](record, where) if kind in FORMS else dict(record)
            group = found.get("group", found.get("id"))
            if not isinstance(group, str | int) or isinstance(group, bool):
                raise RecordProblem("group: expected a string or whole number, the prompt that a trajectory is of")
            if not isinstance(found.get("reward"), int | float) or isinstance(found["reward"], bool):
                raise RecordProblem("reward: expected a number")
        except RecordProblem as problem:
            raise BadInput(f"{where}: {problem}") from None
        found["group"] = group
        found.setdefault("rollout", met[str(group)])
        met[str(group)] += 1
        yield where, found
