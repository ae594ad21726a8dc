"""Where the final answer stands in a response: after the thinking, in a box, or behind a phrase.

Every scan is linear: str.rfind, or a regular expression that cannot backtrack over the text.
"""

import re
from collections import deque
from typing import Literal

MAX_ANSWER = 10_000  # characters; a longer answer is compared as text only


_THINK_ENDS = (
    "</think>",
    "</thinking>",
    "</thought>",
    "</thoughts>",
    "</reasoning>",
    "</seed:think>",
    "[/THINK]",
    "<|end_of_thought|>",
    "◁/think▷",
)
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
BRACE = re.compile(r"\\[\s\S]|[{}]")
_BARE = re.compile(r"(?:[-+−]?\.?[0-9]|[-+−]?\\[A-Za-z]|[A-Za-z](?![^\s$.,;:]))[^\s$]*")
_FINAL_PHRASE = re.compile(r"(?i)final answer[^\n.:=]{0,60}?(?:\bis\b|[:=])[\s:*]*")
_PHRASE = re.compile(r"(?i)\banswer(?:\*\*)?(?:[^\n.:=]{0,60}?\bis\b|\s?[:=])[\s:*]*")
_ANY_NUMBER = re.compile(r"[-−]?(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)(?:/[0-9]+)?(?:\\?%)?")
DIGIT_COMMA = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")


def after_thinking(text: str) -> str:
    """The text after the last closing think tag (`</think>` and the common variants)."""
    cut = max((at + len(tag) for tag in _THINK_ENDS if (at := text.rfind(tag)) >= 0), default=0)
    return text[cut:]


def _box_at(text: str, match: re.Match[str]) -> tuple[str, int] | None:
    """(content, end) of the box whose command `match` found; end -1 if it never closes.

    None for a mention without content, as in "put it in \\boxed".
    """
    start = match.end()
    if text[start : start + 1] != "{":
        bare = _BARE.match(text, start)  # \boxed 7
        return (bare.group().rstrip(".,;:!*"), bare.end()) if bare else None
    depth = 0
    for brace in BRACE.finditer(text, start):
        if brace.group() in "{}":
            depth += 1 if brace.group() == "{" else -1
            if depth == 0:
                return text[start + 1 : brace.start()].strip(), brace.end()
    return "", -1


def last_box(text: str) -> str | None:
    """Content of the box that starts last: "" if it is empty or never closes; None without a box."""
    at = len(text)
    while (at := max(text.rfind("\\boxed", 0, at), text.rfind("\\fbox", 0, at))) >= 0:
        match = _BOX.match(text, at)
        if match and (box := _box_at(text, match)):
            return box[0]
    return None


def boxes(text: str) -> list[str]:
    """Contents of all outermost boxes after the thinking, in order, empty ones left out.

    Fails closed: if any of them never closes, the list is empty.
    """
    text, at, found = after_thinking(text), 0, []
    while match := _BOX.search(text, at):
        content, at = _box_at(text, match) or ("", match.end())
        if at < 0:
            return []
        inner = last_box(content)
        found.append(content if inner is None else inner)
    return [content for content in found if content]


def extract(text: str, box: Literal["last", "first", "all"] = "last", require_box: bool = True) -> str | None:
    r"""The final answer of a response, or None if it has none.

    Looks after the last closing think tag for `\boxed{...}`, `\fbox{...}` or `\boxed 7`. `box` takes
    the "last", the "first", or "all" joined by ", " (`boxes` gives the list). An unterminated or
    empty last box is no answer, even after a complete one. Only where the text has no box at all,
    `require_box=False` takes, in order, what follows the last "final answer is" or "answer:", GSM8K's
    `#### n`, the last number.
    """
    text = after_thinking(text)
    last = last_box(text)
    if last is not None:
        if box == "last":
            return last or None
        found = boxes(text)
        return ", ".join(found if box == "all" else found[:1]) or None
    return None if require_box else _unboxed(text)


def _unboxed(text: str) -> str | None:
    for phrase in (_FINAL_PHRASE, _PHRASE):
        if matches := deque(phrase.finditer(text), maxlen=1):
            rest = text[matches[0].end() : matches[0].end() + MAX_ANSWER].split("\n", 1)[0].strip(" *")
            for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
                if rest.startswith(opening) and closing in rest[len(opening) :]:
                    rest = rest[len(opening) :].split(closing, 1)[0]
                    break
            else:
                rest = re.split(r"[.!;](?:\s|$)", rest, maxsplit=1)[0]
            if rest := rest.strip(" *.,;:!"):
                return rest
    _, marker, tail = text.rpartition("####")
    if marker and (line := tail[:MAX_ANSWER].strip().split("\n", 1)[0].strip()):
        return DIGIT_COMMA.sub("", line)
    if matches := deque(_ANY_NUMBER.finditer(text), maxlen=1):
        return DIGIT_COMMA.sub("", matches[0].group()).rstrip(",")
    return None
