"""Trajectories in other people's forms: verl's rollout dumps, chats with tool messages, TRL's rollouts.

    verl   STEP.jsonl: `input`, `output` (ChatML text, with or without its special tokens), `gts`, `score`, `step`; a group is what has one `input` in one step
    chat   `messages` with `tool` messages, or TRL's `prompt` and `completion`; `reward`, or the sum of `rewards`; a group is one prompt

A record's own `group` and `reward` (verify adds one) go before these.

Where it sits: below resample.py and verify.py. What became of a call is read from a `status` beside the message where there is one, from the first line of the tool's text and its
`reason` where the text is of rStar's environment, from TRL's `{'error': ...}`, and else from a Python traceback's last line; nothing is guessed from words within output.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from grpo_roc.transcript import STATUSES
from tenfold_shared import BadInput
from tenfold_shared.records import RecordProblem

Record = dict[str, Any]
LARGEST = 1e100  # of a reward, which is squared
_HEADER = re.compile(r"<\|im_end\|>\s*<\|im_start\|>(\w+)\n?")
_SHOWN = "user\n<tool_response>"
_SHOWN_ENDS = re.compile(r"</tool_response>\s*(?:(assistant)(?:\n|\Z)|\Z)")
_RESPONSE = re.compile(r"<tool_response>\n?(.*?)\n?</tool_response>", re.DOTALL)
_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_RAISED = re.compile(r"^[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning|Iteration)\b.*\Z", re.MULTILINE)
_TRL = re.compile(r"""\{['"]error['"]: (?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\}""", re.DOTALL)
_REASONS = {
    "worker_timeout": "timeout",
    "queue_timeout": "infra",
    "internal_error": "infra",
    "invalid_input": "invalid_call",
}


def stated(text: str) -> str | None:
    """What became of a call, where the text that the model was shown says so in a form that is known."""
    first, _, rest = text.strip().partition("\n")
    if first == "Tool call success":
        return "ok" if rest.startswith("stdout: ") else "ok_no_output"
    if first == "Tool call failure":
        reason = re.match(r"reason: ?(\w*)", rest)
        return _REASONS.get(reason[1] if reason else "", "error")
    if first.startswith("Failed to decode tool call"):
        return "invalid_call"
    if first.startswith("Error when executing tool"):  # an unknown tool, or arguments that it does not have
        return "infra" if re.search(r"failed for \d+ tool calls after", first) else "invalid_call"
    if _TRL.fullmatch(text.strip()):
        return "error"
    last = text.strip().rsplit("\n", 1)[-1]
    return "error" if "Traceback (most recent call last)" in text and _RAISED.match(last) else None


def status_of(text: str) -> str:
    """What became of a call, from the text that the model was shown."""
    return stated(text) or ("ok" if text.strip() else "ok_no_output")


def call_of(raw: str | None, text: str, status: str | None = None) -> Record:
    """A call from its JSON and what was shown of it. One that cannot be read is an invalid call, unless it is known what became of it; raw None: the record does not have the call itself."""
    if raw is None:
        return {"name": "", "arguments": None, "status": status or status_of(text), "stdout": text, "stderr": ""}
    try:
        told = json.loads(raw)
        name, arguments = str(told["name"]), told["arguments"]
        if "\\u" in raw:
            json.dumps([name, arguments], ensure_ascii=False).encode()  # half a surrogate pair cannot be written again
    except (ValueError, KeyError, TypeError, RecursionError):
        found = status or stated(text) or "invalid_call"
        return {"name": "", "arguments": raw, "status": found, "stdout": "", "stderr": text}
    return {"name": name, "arguments": arguments, "status": status or status_of(text), "stdout": text, "stderr": ""}


def chatml(text: str) -> str:
    """A response with the headers of its turns: verl writes dumps without special tokens, so that of a header `user` or `assistant` is left. Such a text is taken to have ended, not to have
    been cut off."""
    if "<|im_start|>" in text or "<|im_end|>" in text:
        return text
    parts, at = [], 0
    while (start := text.find(_SHOWN, at)) >= 0 and (end := _SHOWN_ENDS.search(text, start)):
        shown = text[start + len("user\n") : end.start()] + "</tool_response>"
        parts += [text[at:start].removesuffix("\n"), f"<|im_end|>\n<|im_start|>user\n{shown}<|im_end|>\n"]
        at = end.end()
        if not end[1]:
            return "".join(parts)
        parts.append("<|im_start|>assistant\n")
    return "".join([*parts, text[at:], "<|im_end|>"])


def turns_of_text(text: str) -> list[Record]:
    """Turns of a response in ChatML, with or without its special tokens, that begins within the assistant's first."""
    parts = _HEADER.split(chatml(text))
    spoken = [("assistant", parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]
    turns: list[Record] = []
    for role, said in spoken:
        if role == "assistant":
            turns.append({"text": said.rstrip("\n").removesuffix("<|im_end|>").rstrip("\n"), "calls": []})
        elif turns:
            shown, raws = _RESPONSE.findall(said), _CALL.findall(turns[-1]["text"])
            # the released environment runs the first call of a turn and is silent about the others
            turns[-1]["calls"] = [call_of(raws[k] if k < len(raws) else None, one) for k, one in enumerate(shown)]
    return turns


def number(name: str, value: Any) -> float:
    """VALUE, where it is a number of which a square can be taken. Raises RecordProblem."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise RecordProblem(f"{name}: expected a number")
    if not abs(value) < LARGEST:
        raise RecordProblem(f"{name}: expected a number below {LARGEST:g} in size")
    return value


def from_verl(record: Record, where: str) -> Record:
    for name in ("input", "output"):
        if not isinstance(record.get(name), str):
            raise RecordProblem(f"{name}: expected the text of a verl rollout dump")
    own = "reward" if record.get("reward") is not None else "score"
    reward, group = float(number(own, record.get(own))), record.get("group")
    if group is None:
        group = _named(record["input"], record.get("step", ""))
    return {**record, "group": group, "reward": reward, "turns": turns_of_text(record["output"])}


def from_chat(record: Record, where: str) -> Record:
    prompt, turns = turns_of_chat(record)
    own, reward = "reward", record.get("reward")
    if reward is None:
        rewards = record.get("rewards")
        if not isinstance(rewards, dict) or not rewards:
            raise RecordProblem("reward: expected a number, or an object of them in `rewards`")
        own, reward = "rewards", sum(number(f"rewards.{name}", value) for name, value in rewards.items())
    found = {**record, "reward": float(number(own, reward)), "turns": turns}
    if record.get("group") is None:
        found.pop("group", None)
        if prompt:  # without one, all records would be one group
            found["group"] = _named(json.dumps(prompt, sort_keys=True), record.get("step", ""))
    return found


def turns_of_chat(record: Record) -> tuple[Any, list[Record]]:
    """(prompt, turns) of `messages`, or of `prompt` and `completion` (a chat, or plain text). Raises RecordProblem."""
    if record.get("completion") is not None:
        name, prompt, messages = "completion", record.get("prompt"), record["completion"]
        if isinstance(messages, str):
            messages = [{"role": "assistant", "content": messages}]
    else:
        name, prompt, messages = "messages", None, record.get("messages")
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise RecordProblem("messages: expected a chat, or `prompt` and `completion`")
    if name == "messages":
        at = next((i for i, one in enumerate(messages) if one.get("role") == "assistant"), 0)
        prompt = messages[:at]
    turns: list[Record] = []
    pending: list[Record] = []
    for k, message in enumerate(messages):
        role = message.get("role")
        if role == "assistant":
            content = _content(message.get("content"), f"{name}[{k}].content")
            asked = _asked(message.get("tool_calls"), f"{name}[{k}].tool_calls")
            pending = asked or [{"raw": raw} for raw in _CALL.findall(content)]
            turns.append({"text": content, "calls": []})
        elif role == "tool" and turns:
            content = _content(message.get("content"), f"{name}[{k}].content")
            place = next(
                (i for i, one in enumerate(pending) if one.get("id") and one["id"] == message.get("tool_call_id")), 0
            )
            raw = pending.pop(place)["raw"] if pending else None
            turns[-1]["calls"].append(call_of(raw, content, _known(message.get("status"))))
    if not turns:
        raise RecordProblem("messages: no assistant turn")
    return prompt, turns


def _content(content: Any, where: str) -> str:
    """A message's text, of a string or of parts. Raises RecordProblem."""
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        content = "".join(part["text"] for part in content if isinstance(part.get("text"), str))
    if content is not None and not isinstance(content, str):
        raise RecordProblem(f"{where}: expected text, or a list of parts")
    return content or ""


def _asked(calls: Any, where: str) -> list[Record]:
    """{id, raw} of each of a message's `tool_calls`. Raises RecordProblem."""
    if calls is None:
        return []
    if not isinstance(calls, list) or not all(isinstance(one, dict) for one in calls):
        raise RecordProblem(f"{where}: expected a list of calls")
    found = []
    for call in calls:
        function = call.get("function") or call
        if not isinstance(function, dict):
            raise RecordProblem(f"{where}: expected `function` to be an object")
        arguments = function.get("arguments")
        try:
            if isinstance(arguments, str):
                arguments = json.loads(arguments)
            raw = json.dumps({"name": function.get("name"), "arguments": arguments})
        except (ValueError, RecursionError):
            raw = str(function.get("arguments"))
        found.append({"id": call.get("id"), "raw": raw})
    return found


def _known(status: Any) -> str | None:
    return status if status in STATUSES else None


def _named(text: str, step: Any) -> str:
    return hashlib.blake2b(f"{step}\0{text}".encode(), digest_size=8).hexdigest()


FORMS = {"verl": from_verl, "chat": from_chat}


def form_of(record: Record) -> str:
    """Which form a record is of: ours, unless it looks like another's."""
    if record.get("turns") is not None:
        return "trajectory"
    if isinstance(record.get("output"), str) and "score" in record:
        return "verl"
    return "chat" if "completion" in record or "messages" in record else "trajectory"


def read(
    located: Iterable[tuple[str, Record]], form: str, tolerate: Callable[[BadInput], None] | None = None
) -> Iterator[tuple[str, Record]]:
    """Records as trajectories: with `group`, `rollout` (its place among its group where the file says none), `reward`, `turns`, `id`. tolerate: told of a record that is none; without it,
    or where it raises, that is BadInput."""
    met: Counter[str] = Counter()
    for where, record in located:
        kind = form_of(record) if form == "auto" else form
        try:
            found = FORMS[kind](record, where) if kind in FORMS else dict(record)
            group, rollout = found.get("group", found.get("id")), found.get("rollout")
            if not isinstance(group, str | int) or isinstance(group, bool):
                raise RecordProblem("group: expected a string or whole number, the prompt that a trajectory is of")
            if rollout is not None and (not isinstance(rollout, str | int) or isinstance(rollout, bool)):
                raise RecordProblem("rollout: expected a string or whole number")
            number("reward", found.get("reward"))
        except RecordProblem as problem:
            error = BadInput(f"{where}: {problem}")
            if tolerate is None:
                raise error from None
            tolerate(error)
            continue
        found["group"] = group
        if rollout is None:
            found["rollout"] = met[str(group)]
        met[str(group)] += 1
        yield where, found
