"""The two penalties of Resample-on-Correct (arXiv 2508.20722, section 2.2.3, equations 4 and 5).

    p_err     0.5 of a trajectory that made no call, else the share of its calls that failed
    p_format  1 without an answer block or with tags that do not pair, else min(1, (blocks - 1) / turns)
    p_total   their sum, in [0, 2]

`rstar` is the released scorer, which reads text, for comparison. It takes any tool text with the substring "error" for an error, so that a
timeout is none and a printed "standard error" is one; and it counts turns by headers of which the response lacks the first, so that an answer in a
single turn has p_format 1 and one in k turns is divided by k - 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from grpo_roc.transcript import FINE, answers_of, calls_of

Record = dict[str, Any]
NO_CALL = 0.5
SHOWN = 256  # characters of a tool's text that the released trainer keeps (verl's default, the middle left out)


class Penalty(msgspec.Struct, frozen=True):
    err: float
    format: float

    @property
    def total(self) -> float:
        return self.err + self.format


def of_turns(turns: Sequence[Record]) -> Penalty:
    calls, answers = calls_of(turns), answers_of(turns)
    err = NO_CALL if calls.made == 0 else calls.failed / calls.counted if calls.counted else 0.0
    form = min(1.0, (answers.count - 1) / len(turns)) if answers.sound else 1.0
    return Penalty(err, form)


# ---------------------------------------------------------------- as released


def tool_text(call: Record) -> str:
    """What the released environment shows the model of a call."""
    fine = call["status"] in FINE
    parts = ["Tool call success" if fine else "Tool call failure"]
    if not fine:
        parts.append(f"reason: {'worker_timeout' if call['status'] == 'timeout' else ''}")
    parts += [f"{name}: {call[name]}" for name in ("stdout", "stderr") if call.get(name)]
    wall = call.get("wall_s")
    parts.append(f"execution time: {wall if isinstance(wall, int | float) and abs(wall) < 1e9 else 0:.2f}s")
    return "\n".join(parts)


def shortened(text: str) -> str:
    if len(text) <= SHOWN:
        return text
    half = SHOWN // 2
    return f"{text[:half]}...(truncated)...{text[-half:]}"


def response_text(turns: Sequence[Record]) -> str:
    """A trajectory as the released trainer decodes it: ChatML from after the first assistant header on."""
    parts = []
    for t, turn in enumerate(turns):
        parts.append(("" if t == 0 else "<|im_start|>assistant\n") + turn["text"] + "<|im_end|>\n")
        calls = turn.get("calls") or ()
        if calls:
            shown = "\n".join(f"<tool_response>\n{shortened(tool_text(call))}\n</tool_response>" for call in calls)
            parts.append(f"<|im_start|>user\n{shown}<|im_end|>\n")
    return "".join(parts)


def rstar(text: str) -> Penalty:
    """The released scorer on a response's text."""
    shown = re.findall(r"<tool_response>.*?</tool_response>", text, re.DOTALL)
    err = sum("error" in one.lower() for one in shown) / len(shown) if shown else NO_CALL
    opened, closed = text.count("<answer>"), text.count("</answer>")
    blocks = len(re.findall(r"<answer>.*?</answer>", text, re.DOTALL))
    turns = len(re.findall(r"<\|im_start\|>assistant.*?<\|im_end\|>", text, re.DOTALL))
    if not opened or not closed or opened != blocks or closed != blocks or not turns:
        return Penalty(err, 1.0)
    return Penalty(err, min((blocks - 1) / turns, 1.0))
