"""What is asked and what is read out of the replies: templates, solution text, verdicts, and fitting a context.

In the built-in prompts verify and refine begin with the same bytes, problem and solution, so that a server's prefix
cache is hit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from string import Template
from typing import Any, Literal

import msgspec

from dser.chain import Chain, Role, Verdict
from tenfold_shared import BadInput, answers
from tenfold_shared import records as shapes
from tenfold_shared.cli import read_template, sha256_of
from tenfold_shared.generate import Completion

Message = dict[str, Any]

_SHARED = "Problem:\n$problem\n\nProposed solution:\n$solution\n\n"
BUILT_IN = {
    "solve": "$problem\n\nThink it through step by step. Put the final answer in \\boxed{}.",
    "verify": _SHARED
    + "Check this solution one step after the other. Name every step that is wrong or not justified, and say why. "
    "End with one line that says VERDICT: PASS if every step and the final answer hold, and VERDICT: FAIL otherwise.",
    "refine": _SHARED
    + "A review of it:\n$review\n\nThe review may itself be mistaken: use what holds in it. Write a complete new "
    "solution of the problem, and put the final answer in \\boxed{}.",
    "improve": _SHARED
    + "Improve this solution: repair what is wrong in it, close what is left open, and write the complete solution "
    "anew, with the final answer in \\boxed{}.",
    "check": "A review of a solution:\n$review\n\nDoes this review find the solution complete and right? "
    "Answer with one line: VERDICT: PASS for yes, VERDICT: FAIL for no.",
    "force": "No more time is left. With what you have so far, state your final answer now, in \\boxed{}, and nothing else.",
}
IMO25 = {
    "solve": "$problem\n\nYou are held to full rigour: every step must be justified, and a partial result that is "
    "proved is worth more than a complete one that is guessed. Write two sections. Under the heading Summary: say "
    "whether you have a complete solution, and sketch its method. Under the heading Detailed Solution: the whole "
    "argument, with the final answer in \\boxed{}.",
    "verify": _SHARED
    + "You are an examiner: judge the solution, do not repair it. Go through it step by step. Call a step that breaks "
    "the argument a Critical Error, and one that may be right but is not fully argued a Justification Gap. Write under "
    "the heading Summary your final verdict and the list of findings, each with its place and its class; then, under "
    "the heading Detailed Verification, the log of every step.",
    "refine": _SHARED
    + "An examiner's report on it:\n$review\n\nWhere you agree with a finding, mend it; where you do not, add what "
    "would have kept the examiner from misreading it. Write the solution anew in the two sections Summary and "
    "Detailed Solution, with the final answer in \\boxed{}.",
}
FIELDS = {
    "solve": {"problem"},
    "verify": {"problem", "solution"},
    "refine": {"problem", "solution", "review"},
    "improve": {"problem", "solution"},
    "check": {"problem", "solution", "review"},
    "force": {"problem"},
}
NEEDS = {"solve": "problem", "verify": "solution", "refine": "solution", "improve": "solution", "check": "review"}
NO_REVIEW = "(The review was cut off before it said anything.)"
CUT = " [...] "
LEAST_REVIEW, LEAST_SOLUTION = 200, 200  # characters that trimming leaves
_OPEN = re.compile(r"<think(?:ing)?>|\[THINK\]")
PASS, FAIL = r"(?i)\bverdict\W{0,6}pass\b", r"(?i)\bverdict\W{0,6}fail\b"
OVERFLOW = re.compile(
    r"(?i)context (?:length|window|size)|maximum context|exceeds? the model's context|(?:prompt|input) is too long"
    r"|too many tokens|max_model_len"
)


class Reading(msgspec.Struct, frozen=True):
    """How replies are read. thinking: `tags` for models that may think before they answer, so that a text cut at the
    token limit with no closing tag is no solution; `none` for models that never do. answer: what an answer must match
    in full, None for anything."""

    box: Literal["last", "first", "all"] = "last"
    require_box: bool = True
    answer: str | None = None
    passes: str = PASS
    fails: str = FAIL
    thinking: str = "tags"


class Prompts:
    """The templates of a run, by role. Raises BadInput for a bad one."""

    def __init__(self, given: Sequence[str] = (), system: str | None = None, imo25: bool = False) -> None:
        self.texts = {**BUILT_IN, **(IMO25 if imo25 else {})}
        self.imo25, self.system = imo25, system
        self.hashes: dict[str, str] = {}
        for pair in given:
            role, equals, path = pair.partition("=")
            if not equals or role not in BUILT_IN:
                raise BadInput(f"--template {pair}: expected ROLE=FILE with a role of {', '.join(BUILT_IN)}")
            text = read_template(path, "", FIELDS[role], NEEDS.get(role, ""))
            self.texts[role] = text.removesuffix("\n")
            self.hashes[role] = sha256_of(path)

    def messages(self, role: Role, task: dict[str, Any], chain: Chain, solution: str, review: str) -> list[Message]:
        """The chat of a call. The task's own system and earlier turns stay; its last user turn is the problem."""
        if role in ("verify", "check") and self.imo25:
            solution = after_marker(solution, "Detailed Solution")
        if role == "refine" and self.imo25:
            review = before_marker(review, "Detailed Verification")
        text = Template(self.texts["solve" if role == "force" else role]).substitute(
            problem=shapes.question_of(task),
            solution=solution,
            review=review or ("" if role in self.hashes else NO_REVIEW),  # a template of one's own gets what there is
        )
        turns = list(shapes.messages_of(task))
        last = max((i for i, turn in enumerate(turns) if turn["role"] == "user"), default=len(turns))
        turns[last:] = [{"role": "user", "content": text}]
        if self.system is not None:
            turns = [{"role": "system", "content": self.system}, *(turn for turn in turns if turn["role"] != "system")]
        if role == "force":
            turns.append({"role": "assistant", "content": chain.trace or ""})
            turns.append({"role": "user", "content": Template(self.texts["force"]).substitute(problem="")})
        return turns


def _heading(text: str, marker: str) -> re.Match[str] | None:
    """The first line that `marker` begins, but for signs and numbers; without one, where it is first named."""
    found = re.search(rf"(?im)^[^\w\n]*(?:\d+[^\w\n]*)?{marker}\b[*#:. \t]*", text)
    return found or re.search(rf"(?i){marker}\b[*#:. \t]*", text)


def after_marker(text: str, marker: str) -> str:
    """What follows the heading `marker`; the whole text where there is none, never an empty solution."""
    found = _heading(text, marker)
    return (found and text[found.end() :].strip()) or text


def before_marker(text: str, marker: str) -> str:
    """What comes before the heading `marker`; the whole text where there is none, or nothing before it."""
    found = _heading(text, marker)
    return (found and text[: found.start()].strip()) or text


def solution_text(done: Completion, thinking: str) -> tuple[str | None, bool]:
    """(text after the thinking, or None where it never came; whether it was cut off).

    Handles a separate `reasoning`, several tags, templates that open the thinking themselves (only a closing tag is
    seen), and thinking that is never closed.
    """
    cut = done.finish_reason == "length"
    text = answers.after_thinking(done.text)
    apart = bool(done.reasoning and text.strip())  # the server has told thinking and text apart: tags are but words
    if len(text) == len(done.text) and not apart and (_OPEN.search(text) or (cut and thinking == "tags")):
        return None, True
    text = text.strip()
    return (text or None), cut or (not text and bool(done.reasoning))


def answer_of(text: str, how: Reading) -> str | None:
    """The answer in a solution text; None where there is none, or not one that `how.answer` allows."""
    found = answers.extract(text, box=how.box, require_box=how.require_box)
    if found is None or not found.strip() or (how.answer is not None and not re.fullmatch(how.answer, found.strip())):
        return None
    return found


def verdict_of(text: str | None, how: Reading) -> Verdict:
    """pass, fail, or unknown; the later of two verdicts holds."""
    if not text:
        return "unknown"
    at = [max((match.end() for match in re.finditer(rule, text)), default=-1) for rule in (how.passes, how.fails)]
    if at[0] == at[1]:
        return "unknown"
    return "pass" if at[0] > at[1] else "fail"


def loops(text: str, most: int = 200) -> bool:
    """Whether the text ends in one piece of at most `most` characters, four times or over 80 characters."""
    for period in range(1, min(most, len(text) // 4) + 1):
        times = max(4, -(-80 // period))
        if text[-1] == text[-1 - period] and text.endswith(text[-period:] * times):
            return True
    return False


def cut_review(review: str, keep: int, how: Reading) -> str:
    """At most `keep` characters: the head, and the line of the verdict, or the last one where there is no verdict."""
    if len(review) <= keep:
        return review
    said = [match.end() for rule in (how.passes, how.fails) for match in re.finditer(rule, review)]
    end = max(said, default=len(review.rstrip()))
    line = review[:end].rpartition("\n")[2]
    last = line[-max(0, min(keep // 2, 200)) :]
    return review[: min(max(0, keep - len(last) - len(CUT)), end - len(last))] + CUT + last


def cut_solution(solution: str, keep: int) -> str:
    """At most `keep` characters: the tail, where the answer is."""
    return solution if len(solution) <= keep else CUT + solution[len(solution) - max(0, keep - len(CUT)) :]


def fitted(
    build: Callable[[str, str], list[Message]],
    solution: str,
    review: str,
    fits: Callable[[list[Message]], bool],
    how: Reading,
) -> tuple[list[Message], dict[str, int] | None]:
    """Messages that fit, and the characters cut from review and solution; the review is cut first, the problem never.

    Where even the shortest does not fit, the shortest is returned: the model refuses it, for that problem only.
    """
    messages = build(solution, review)
    if fits(messages):
        return messages, None

    def shortest(low: int, high: int, make: Callable[[int], list[Message]]) -> int:
        """Largest length in [low, high) whose messages fit; low where none does."""
        while low + 1 < high:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(make(middle)) else (low, middle)
        return low

    least = min(LEAST_REVIEW, len(review))
    kept, whole = least, len(solution)
    if fits(build(solution, cut_review(review, least, how))):
        kept = shortest(least, len(review), lambda n: build(solution, cut_review(review, n, how)))
    else:
        short = cut_review(review, least, how)
        floor = min(LEAST_SOLUTION, len(solution))
        whole = shortest(floor, len(solution), lambda n: build(cut_solution(solution, n), short))
    messages = build(cut_solution(solution, whole), cut_review(review, kept, how))
    return messages, {"review": len(review) - kept, "solution": len(solution) - whole}
