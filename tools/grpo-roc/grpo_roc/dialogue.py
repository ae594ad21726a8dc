"""How a model and the Python tool speak: prompts, tool calls, tool responses, and the tokens between turns (arXiv 2508.20722, section 2.1).

A system text names the tool as a JSON schema and asks for reasoning in `<reason>` and one answer in `<answer>`; a call is a JSON object in `<tool_call>` tags; what came of it is shown under the user's role
in `<tool_response>` tags. The first assistant turn begins with `<reason>` already open.

Token-in, token-out: what the model sampled is never decoded and encoded again, as that need not give the same tokens. A context is the prompt's tokens, then, for every turn, the sampled tokens and those of the
text that the template puts between them and the next turn: found once, as what a rendered conversation has more with a tool response than without, and refused where the template rewrites what came before.

Where it sits: below rollout.py and sft.py. No torch: a tokenizer is anything with apply_chat_template and encode, as transformers has them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from grpo_roc.transcript import FINE
from tenfold_shared import BadInput

Record = dict[str, Any]
OPEN = "<reason>"
SHOWN = 4096  # characters of a call's output that the model is shown, half from each end
CELLS = "jupyter_code"
PYTHON: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "execute_python_code_with_standard_io",
        "description": "Run a Python program and get what it prints. The value of a last bare expression is printed too.",
        "parameters": {
            "type": "object",
            "properties": {
                "code": {"type": "string", "description": "The program."},
                "input": {"type": "string", "description": "Its standard input."},
            },
            "required": ["code", "input"],
        },
    },
}
NOTEBOOK: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": CELLS,
        "description": "Run a cell of Python in a notebook that keeps what earlier cells made.",
        "parameters": {
            "type": "object",
            "properties": {"code": {"type": "string", "description": "The cell."}},
            "required": ["code"],
        },
    },
}
ALIASES = {"python_code_with_standard_io": "execute_python_code_with_standard_io"}  # the released code's name
TOOLS: dict[str, Any] = {"python": PYTHON, "notebook": NOTEBOOK}
SYSTEM = """You solve problems step by step. Think inside <reason> and </reason>, as often as you need, and give the final answer once, inside <answer> and </answer>.

# Tools

You may call a function to run Python while you think. The functions, as JSON schemas:
<tools>
{tools}
</tools>

For each call write a JSON object with the function's name and its arguments inside these tags:
<tool_call>
{{"name": ..., "arguments": {{...}}}}
</tool_call>
What it printed comes back inside <tool_response> tags."""
USER = """Solve the problem below. Write the answer in \\boxed{{}} inside the <answer> tags; it is read from there.

{problem}"""
_BLOCK = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_MARK = "\u2042zq\u2042"  # a text that no template has


class Call(msgspec.Struct):
    """One call as the model wrote it. problem: why it cannot be made ("" where it can)."""

    name: str
    arguments: Record
    problem: str = ""

    @property
    def code(self) -> str:
        return str(self.arguments.get("code", ""))

    @property
    def input(self) -> str:
        return str(self.arguments.get("input", ""))


def calls_in(text: str, tools: Sequence[str]) -> list[Call]:
    """Every call of a turn, sound or not, in order. tools: names of TOOLS. A call tag that is never closed is one too."""
    schemas = {TOOLS[name]["function"]["name"]: TOOLS[name]["function"] for name in tools}
    blocks = _BLOCK.findall(text)
    rest = _BLOCK.sub("", text)
    found = [_call(block, schemas) for block in blocks]
    if "<tool_call>" in rest:
        found.append(Call("", {}, "the call is not closed by </tool_call>"))
    return found


def _call(block: str, schemas: dict[str, Any]) -> Call:
    try:
        told = json.loads(block)
    except (ValueError, RecursionError) as problem:
        return Call("", {}, f"not a JSON object: {str(problem)[:200]}")
    if not isinstance(told, dict):
        return Call("", {}, "expected a JSON object with name and arguments")
    name, arguments = told.get("name"), told.get("arguments")
    if not isinstance(name, str) or ALIASES.get(name, name) not in schemas:
        return Call(str(name), {}, f"no function is named {json.dumps(name)[:100]}; there are: {', '.join(schemas)}")
    name = ALIASES.get(name, name)
    if not isinstance(arguments, dict):
        return Call(name, {}, "arguments: expected an object")
    wanted = schemas[name]["parameters"]["required"]
    for each in wanted:
        # a program that reads nothing needs no input, and many leave it out
        if each == "input" and each not in arguments:
            continue
        if not isinstance(arguments.get(each), str):
            return Call(name, arguments, f"arguments.{each}: expected a string")
    return Call(name, arguments)


def shorten(text: str, most: int = SHOWN) -> str:
    """At most so many characters of a text, the middle left out and said so."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def response(call: Record, most: int = SHOWN) -> str:
    """What the model is shown of a call, a record with `status` and what came of it: in the released form, a first line that says how it went, then what there is."""
    status = call["status"]
    lines = ["Tool call success" if status in FINE else "Tool call failure"]
    if status not in FINE:
        lines.append(f"reason: {call.get('problem') or status}")
    if status == "ok_no_output":
        lines.append("stdout: (the program ran and printed nothing)")
    for name in ("stdout", "stderr"):
        if call.get(name):
            lines.append(f"{name}: {shorten(call[name].rstrip(chr(10)), most)}")
    return "\n".join(lines)


def wrapped(responses: Sequence[str]) -> str:
    """Responses of a turn's calls as one user turn."""
    return "\n".join(f"<tool_response>\n{one}\n</tool_response>" for one in responses)


class Dialogue:
    """The protocol with one tokenizer. Raises BadInput where its template does not allow it."""

    def __init__(self, tokenizer: Any, tools: Sequence[str] = ("python",), opened: str = OPEN) -> None:
        self.tokenizer, self.tools, self.opened = tokenizer, tuple(tools), opened
        if tokenizer.eos_token_id is None:
            raise BadInput("the tokenizer names no end of text: a turn could not be told to end")
        if not getattr(tokenizer, "chat_template", None):
            raise BadInput(
                "the tokenizer has no chat template: give it one, or start from a model that has one (grpo-roc sft writes one with its result)"
            )
        self.before, self.after = self._between()
        self.ends = self._ends()

    # ------------------------------------------------------------ texts

    def messages(self, problem: str) -> list[Record]:
        schemas = "\n".join(json.dumps(TOOLS[name]) for name in self.tools)
        return [
            {"role": "system", "content": SYSTEM.format(tools=schemas)},
            {"role": "user", "content": USER.format(problem=problem)},
        ]

    def prompt_text(self, problem: str) -> str:
        return self._render(self.messages(problem), True) + self.opened

    def prompt(self, problem: str) -> list[int]:
        return self.encode(self.prompt_text(problem))

    def suffix(self, responses: Sequence[str], *, ended: bool = True) -> list[int]:
        """Tokens from a turn's end to the beginning of the next. ended: whether the turn's last token is the template's own end of a turn; else that comes first."""
        text = self.before + wrapped(responses) + self.after
        return self.encode(text if ended else self.ending + text)

    @property
    def highest(self) -> int:
        """The greatest number of a token that every conversation has: a model needs a row of its embedding for it."""
        return max([*self.prompt("0"), *self.suffix(["0"], ended=False), *self.ends])

    def fits(self, rows: int) -> None:
        """Raises BadInput for a model with so few rows that a conversation could not be read."""
        if self.highest >= rows:
            raise BadInput(
                f"the tokenizer writes every conversation with {self.decode([self.highest])!r}, its token {self.highest}, but the model has {rows} rows in its embedding; `grpo-roc sft` makes it larger and teaches the new ones"
            )

    def encode(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return found

    def decode(self, ids: Sequence[int]) -> str:
        found: str = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return found

    def spoken(self, ids: Sequence[int]) -> str:
        """A turn's sampled tokens as text, without the token that ends it."""
        kept = list(ids[:-1]) if ids and ids[-1] in self.ends else list(ids)
        return self.decode(kept)

    # ------------------------------------------------------------ the template

    def _render(self, messages: Sequence[Record], generation: bool) -> str:
        from jinja2 import TemplateError

        try:
            found: str = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=generation
            )
        except TemplateError as problem:  # some have no system text, or want their own roles
            raise BadInput(
                f"the chat template refuses a system text, a user's and assistant's turns: {str(problem)[:160]}; use another (`grpo-roc sft` gives one to a tokenizer without)"
            ) from None
        return found

    def _between(self) -> tuple[str, str]:
        """(text after a turn's ending and before a tool response, text after it). Also sets `ending`."""
        first, second = f"{OPEN}a</reason>{_MARK}1", f"{OPEN}b</reason>{_MARK}2"
        talk = [*self.messages("1 + 1"), {"role": "assistant", "content": first}]
        tool = {"role": "user", "content": f"{_MARK}3"}
        alone, asked = self._render(talk, False), self._render([*talk, tool], True)
        longer = self._render([*talk, tool, {"role": "assistant", "content": second}], False)
        if first not in alone or not asked.startswith(alone) or not longer.startswith(asked):
            raise BadInput(
                "the chat template rewrites earlier turns when a later one comes (it drops old thinking, say): tokens that were sampled would not be those that are trained on; use one that only appends"
            )
        tail = alone[alone.index(first) + len(first) :]
        end = self.decode([self.tokenizer.eos_token_id])
        marker = re.match(r"\s*(<\|[^|>]+\|>|</s>|<[^<>\s]+>)", tail)
        self.ending = end if tail.startswith(end) else marker.group(0) if marker else ""
        between = tail[len(self.ending) :] + asked[len(alone) :]
        before, after = between.split(f"{_MARK}3")
        return before, after

    def _ends(self) -> frozenset[int]:
        """Tokens that end a turn: the end of text, and the template's own end of a turn where that is one token. Also sets `closing`, the tokens after which that has been said."""
        ids = self.encode(self.ending) if self.ending else []
        self.closing = frozenset(ids[-1:])
        return frozenset({self.tokenizer.eos_token_id, *(ids if len(ids) == 1 else [])})
