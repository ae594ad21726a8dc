"""Transcripts for the cold start in other people's forms, as one: `messages` with `tool_calls`, and the `tools` that a record has (arXiv 2508.20722, section 4.1).

    trajectory  ours: `prompt` and `turns`
    messages    OpenAI's chats: `messages` with `tool_calls` and `tool` messages, `tools` (or the older `function_call`, `functions`); without tools a plain chat, as in Tulu 3
    toolace     ToolACE: `system`, in which the functions stand as JSON, and `conversations` of user, assistant and tool, calls as `[f(a=1), g(b="x")]`
    apigen      APIGen-MT, and ShareGPT: `conversations` of human, gpt, function_call and observation, `tools`, `system`
    glaive      glaive-function-calling-v2: `system`, and `chat`, a text of USER:, ASSISTANT: and FUNCTION RESPONSE:, calls after `<functioncall>`
    magicoder   Magicoder: `problem` or `instruction`, `solution` or `response` with one Python program, which becomes a call of our Python tool; what it prints is not known, so the record ends there, and what the solution says after it is left out

A call that cannot be read as it stands, or that names a function which the record does not have, is refused with the reason; nothing is guessed. What a system text says of another form of calls is left out, as calls
take the paper's form: a JSON object in `<tool_call>` tags, its result in `<tool_response>` tags under the user's role, the functions as JSON schemas in `<tools>` tags of the system text (`chat_of`).

Where it sits: below transcripts.py and `sft --data`. No torch.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from grpo_roc.dialogue import OPEN, PYTHON, SYSTEM, TOOLS, USER, response, wrapped
from grpo_roc.transcript import turns_of
from tenfold_shared import BadInput
from tenfold_shared.jsonl import Located, Source, write_atomic
from tenfold_shared.records import RecordProblem

Record = dict[str, Any]
HEAD = SYSTEM.partition("\n\n# Tools")[0]  # of our system text, above its tools
OTHERS = """# Tools

You may call functions. They are, as JSON schemas:
<tools>
{tools}
</tools>

For each call write a JSON object with the function's name and its arguments inside these tags:
<tool_call>
{{"name": ..., "arguments": {{...}}}}
</tool_call>
What it returned comes back inside <tool_response> tags."""
CALLER = "You are a helpful assistant who calls functions where they help. Where none does, or where something that one needs is missing, you say so."
# ToolACE and others write their schemas with Python's names of types
_TYPES = {"dict": "object", "float": "number", "double": "number", "int": "integer", "str": "string", "bool": "boolean", "list": "array", "tuple": "array"}  # fmt: skip
_NOW = re.compile(r"(?:The current (?:time|date)|Today) is [^\n]*?\.(?=\s|$|[A-Z])")
_BRACKETED = re.compile(r"\[\s*[^\[\]{}()\"'=]+\(")
_HEADER = re.compile(r"(?:^|(?<=\n)|(?<=<\|endoftext\|>))[ \t]*(USER|ASSISTANT|FUNCTION RESPONSE):", re.MULTILINE)
_QUOTED = re.compile(r"""\{\s*"name":\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments":\s*'(.*)'\s*\}""", re.DOTALL)
_FENCE = re.compile(r"^```[ \t]*([\w+#-]*)[^\n]*\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)
_BLOCKS = re.compile(r"(?:\n?<tool_call>\n[^\n]*\n</tool_call>)+\Z")
_BLOCK = re.compile(r"<tool_call>\n([^\n]*)\n</tool_call>")


# ---------------------------------------------------------------- JSON and Python literals


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")


def _json(text: str, *, strict: bool = True) -> Any:
    """Raises ValueError, for NaN too."""
    try:
        return json.loads(text, strict=strict, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _literal(text: str) -> Any:
    """A value as JSON or as a Python literal (with true, false and null, too), in JSON's kinds. Raises ValueError."""
    try:
        return _json(text)
    except ValueError:
        return _python(text)


def _python(text: str) -> Any:
    """Raises ValueError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a backslash that escapes nothing
            return _plain(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"{text.strip()[:60]!r} is no value") from None


def _plain(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() | int() | float() | None as told):
            if isinstance(told, float) and not abs(told) < float("inf"):
                raise ValueError("a number without end is no JSON")
            return told
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_plain(one) for one in parts]
        case ast.Dict(keys=keys, values=values):
            found: Record = {}
            for key, value in zip(keys, values, strict=True):
                name = None if key is None else _plain(key)
                if not isinstance(name, str):
                    raise ValueError("a key that is no text")
                found[name] = _plain(value)
            return found
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)) if number is not True:
            return -number
        case ast.Name(id="true" | "false" | "null" as word):
            return {"true": True, "false": False, "null": None}[word]
    raise ValueError(f"{ast.unparse(node)[:60]!r} is no value")


def _call(name: Any, arguments: Any, where: str) -> Record:
    """{name, arguments}, arguments as an object or its JSON. Raises RecordProblem."""
    if not isinstance(name, str) or not name:
        raise RecordProblem(f"{where}: expected a call with the function's name")
    if isinstance(arguments, str):
        try:
            # an empty text is how some write that there are none
            arguments = _json(arguments, strict=False) if arguments.strip() else {}
        except ValueError as problem:
            raise RecordProblem(f"{where}: {name}: arguments: no JSON: {problem}") from None
    if not isinstance(arguments, dict):
        raise RecordProblem(f"{where}: {name}: arguments: expected an object")
    return {"name": name, "arguments": arguments}


# ---------------------------------------------------------------- functions that may be called


def schema_of(told: Any, where: str) -> Record:
    """A function's JSON schema as {type: function, function: {name, description, parameters}}, of that or of its inside. Raises RecordProblem."""
    inner = told.get("function", told) if isinstance(told, dict) else None
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str) or not inner["name"]:
        raise RecordProblem(f"{where}: expected a function's schema with its name")
    parameters = inner.get("parameters")
    if parameters is None or parameters == {}:
        parameters = {"type": "object", "properties": {}}
    if not isinstance(parameters, dict):
        raise RecordProblem(f"{where}: {inner['name']}: parameters: expected an object")
    found = {"name": inner["name"]}
    if isinstance(inner.get("description"), str):
        found["description"] = inner["description"]
    return {"type": "function", "function": {**found, "parameters": _typed(parameters)}}


def _typed(schema: Any) -> Any:
    """With JSON Schema's names of types."""
    if isinstance(schema, list):
        return [_typed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: _TYPES.get(value.lower(), value) if name == "type" and isinstance(value, str) else _typed(value)
        for name, value in schema.items()
    }


def tools_of(told: Any, where: str = "tools") -> list[Record]:
    """Schemas of a list of functions, or of its JSON. Raises RecordProblem."""
    if isinstance(told, str):
        try:
            told = _json(told) if told.strip() else []
        except ValueError as problem:
            raise RecordProblem(f"{where}: no JSON: {problem}") from None
    if told is None:
        return []
    if not isinstance(told, list):
        raise RecordProblem(f"{where}: expected a list of functions' schemas")
    return [schema_of(one, f"{where}[{k}]") for k, one in enumerate(told)]


def _all_known(messages: Sequence[Record], tools: Sequence[Record]) -> None:
    """Raises RecordProblem for a call of a function that the record does not have."""
    names = {one["function"]["name"] for one in tools}
    for k, message in enumerate(messages):
        for call in message.get("tool_calls") or ():
            name = call["function"]["name"]
            if name not in names:
                raise RecordProblem(
                    f"messages[{k}]: calls {name!r}, which is not among its tools ({', '.join(sorted(names)) or 'it has none'})"
                )


# ---------------------------------------------------------------- messages, and what is made of them


def said(role: str, text: str) -> Record:
    return {"role": role, "content": text}


def asked(text: str, calls: Sequence[Record]) -> Record:
    """An assistant's message with calls."""
    message = said("assistant", text)
    if calls:
        message["tool_calls"] = [{"type": "function", "function": one} for one in calls]
    return message


def conversation(record: Record, system: str, messages: Sequence[Record], tools: Sequence[Record]) -> Record:
    """The common record. Raises RecordProblem where there is nothing to learn, a result comes before any call, or a call's function is unknown."""
    if not any(one["role"] == "assistant" for one in messages):
        raise RecordProblem("no turn of the assistant's: nothing could be learnt")
    before = None
    for k, one in enumerate(messages):
        if one["role"] == "tool" and before not in ("assistant", "tool"):
            raise RecordProblem(f"turn {k + 1}: a tool's result that follows no turn of the assistant's")
        before = one["role"]
    _all_known(messages, tools)
    found: Record = {"id": record["id"]} if isinstance(record.get("id"), str | int) else {}
    found["messages"] = [said("system", system), *messages] if system else list(messages)
    found["tools"] = list(tools)
    try:
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise RecordProblem("half of a surrogate pair stands in it, which is no text") from None
    except ValueError:
        raise RecordProblem("a number in it is too great for JSON") from None
    return found


def chat_of(record: Record) -> list[Record]:
    """Messages of the common record as a chat template takes them, of system, user and assistant alone: tools in the system text, calls in the assistant's, results of a turn in one user turn."""
    messages, tools = list(record["messages"]), record.get("tools") or []
    system = messages.pop(0)["content"] if messages and messages[0]["role"] == "system" else ""
    if tools:
        schemas = "\n".join(json.dumps(one, ensure_ascii=False) for one in tools)
        own = system == HEAD and all(one in TOOLS.values() for one in tools)
        part = SYSTEM.format(tools=schemas) if own else OTHERS.format(tools=schemas)
        system = part if own or not system else f"{system}\n\n{part}"
    found = [said("system", system)] if system else []
    results: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            results.append(message["content"])
            continue
        if results:
            found.append(said("user", wrapped(results)))
            results = []
        calls = [one["function"] for one in message.get("tool_calls") or ()]
        blocks = [f"<tool_call>\n{json.dumps(one, ensure_ascii=False)}\n</tool_call>" for one in calls]
        found.append(said(message["role"], "\n".join([*([message["content"]] if message["content"] else []), *blocks])))
    if results:
        found.append(said("user", wrapped(results)))
    return found


# ---------------------------------------------------------------- forms


def of_turns(record: Record) -> Record:
    """Our own transcripts. Calls that would not be the same text again stay in the text. Raises RecordProblem."""
    prompt, turns = record.get("prompt"), turns_of(record)
    if not isinstance(prompt, str):
        raise RecordProblem("prompt: expected the problem's text")
    made = {str(call.get("name")) for turn in turns for call in turn.get("calls") or ()}
    tools = [one for one in TOOLS.values() if one["function"]["name"] in made] or [PYTHON]
    names = {one["function"]["name"] for one in tools}
    messages = [said("user", USER.format(problem=prompt))]
    for number, turn in enumerate(turns):
        text = turn["text"] if number else OPEN + turn["text"].removeprefix(OPEN)
        calls: list[Record] = []
        if blocks := _BLOCKS.search(text):
            raws = _BLOCK.findall(blocks[0])
            try:
                told = [json.loads(raw) for raw in raws]
            except (ValueError, RecursionError):
                told = []
            again = [json.dumps(one, ensure_ascii=False) for one in told]
            sound = all(isinstance(one, dict) and list(one) == ["name", "arguments"] and one["name"] in names and isinstance(one["arguments"], dict) for one in told)  # fmt: skip
            whole = "\n".join([text[: blocks.start()], *(f"<tool_call>\n{raw}\n</tool_call>" for raw in raws)])
            if told and sound and again == raws and whole == text and blocks.start():
                text, calls = text[: blocks.start()], told
        messages.append(asked(text, calls))
        if number + 1 < len(turns):
            messages += [said("tool", response(call)) for call in turn.get("calls") or ()]
    return conversation(record, HEAD, messages, tools)


def of_messages(record: Record) -> Record:
    given = record.get("messages")
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise RecordProblem("messages: expected a list of {role, content}")
    told = record.get("tools")
    tools = tools_of(told if told is not None else record.get("functions"))
    system, messages = "", []
    pending: list[Any] = []  # ids of the calls whose results come next
    for k, one in enumerate(given):
        where, role = f"messages[{k}]", one.get("role")
        text = _text(one.get("content"), f"{where}.content")
        if role in ("system", "developer"):
            if k:
                raise RecordProblem(f"{where}: a system text that is not the first message")
            system = text
        elif role == "user":
            messages.append(said("user", text))
        elif role == "assistant":
            calls = one.get("tool_calls") or ([{"function": one["function_call"]}] if one.get("function_call") else [])
            if not isinstance(calls, list):
                raise RecordProblem(f"{where}.tool_calls: expected a list")
            found = []
            for c, call in enumerate(calls):
                inner = call.get("function", call) if isinstance(call, dict) else None
                if not isinstance(inner, dict):
                    raise RecordProblem(f"{where}.tool_calls[{c}]: expected an object")
                found.append(_call(inner.get("name"), inner.get("arguments"), f"{where}.tool_calls[{c}]"))
            pending = [call.get("id") for call in calls]
            messages.append(asked(text, found))
        elif role in ("tool", "function"):
            # results stand in the order of their calls, whatever order they came in
            name = one.get("tool_call_id")
            place = pending.index(name) if name is not None and name in pending else -1
            messages.append({**said("tool", text), "place": place})
        else:
            raise RecordProblem(f"{where}.role: expected system, user, assistant or tool, got {role!r}")
    return conversation(record, system, _in_order(messages), tools)


def _in_order(messages: Sequence[Record]) -> list[Record]:
    """Results of one turn in the order of their calls where all of them say whose they are."""
    found: list[Record] = []
    run: list[Record] = []
    for one in [*messages, None]:
        if one is not None and one["role"] == "tool":
            run.append(one)
            continue
        if all(each["place"] >= 0 for each in run):
            run.sort(key=lambda each: each["place"])
        found += [said("tool", each["content"]) for each in run]
        run = []
        if one is not None:
            found.append(one)
    return found


def _text(content: Any, where: str) -> str:
    """Raises RecordProblem for what is no text, a picture say."""
    if content is None:
        return ""
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
    ):
        return "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise RecordProblem(f"{where}: expected text")
    return content


def _spoken(record: Record, names: dict[str, str]) -> list[tuple[str, str]]:
    """(role, text) of `conversations` [{from, value}]. Raises RecordProblem."""
    given = record.get("conversations")
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise RecordProblem("conversations: expected a list of {from, value}")
    found = []
    for k, one in enumerate(given):
        role, value = one.get("from"), one.get("value")
        if not isinstance(role, str) or role not in names:
            raise RecordProblem(f"conversations[{k}].from: expected one of {', '.join(names)}, got {role!r}")
        if isinstance(value, dict | list):  # some write results, and calls, as they are
            value = json.dumps(value, ensure_ascii=False)
        if not isinstance(value, str):
            raise RecordProblem(f"conversations[{k}].value: expected text")
        found.append((names[role], value))
    return found


def of_toolace(record: Record) -> Record:
    system = record.get("system")
    if not isinstance(system, str):
        raise RecordProblem("system: expected a text with the functions")
    told, begins, ends = _listed(system)
    head = " ".join([CALLER if told else _without(system, begins, ends), *(_NOW.findall(system) if told else [])])
    messages = []
    for k, (role, text) in enumerate(_spoken(record, {"user": "user", "assistant": "assistant", "tool": "tool"})):
        if role == "assistant" and _BRACKETED.match(text.strip()):
            try:
                calls = bracketed(text)
            except ValueError as problem:
                raise RecordProblem(f"conversations[{k}].value: a call that cannot be read: {problem}") from None
            messages.append(asked("", calls))
        else:
            messages.append(said(role, text))
    return conversation(record, head.strip(), messages, tools_of(told, "system"))


def _listed(text: str) -> tuple[list[Any], int, int]:
    """(the first list of functions as JSON in a text, where it begins and ends). Raises RecordProblem where something begins like one and is none."""
    decoder = json.JSONDecoder(parse_constant=_no_number)
    for found in re.finditer(r"\[(?=\s*\{\s*\")", text):
        try:
            told, end = decoder.raw_decode(text, found.start())
        except (ValueError, RecursionError) as problem:
            raise RecordProblem(f"system: the list of functions is no JSON: {str(problem)[:100]}") from None
        return told, found.start(), end
    return [], 0, 0


def _without(text: str, begins: int, ends: int) -> str:
    return (text[:begins] + text[ends:]).strip()


def bracketed(text: str) -> list[Record]:
    """Calls as `[f(a=1), g(b="x")]`; a name may have spaces. Raises ValueError."""
    text = text.strip()
    if not text.startswith("[") or not text.endswith("]"):
        raise ValueError("text before or after the brackets")
    found = []
    for part in _parts(text[1:-1]):
        name, opened, inside = part.partition("(")
        name = name.strip()
        if not opened or not inside.endswith(")") or not name or re.search(r"[\"'\[\]{}=]", name):
            raise ValueError(f"{part[:60]!r}: expected NAME(ARGUMENT=VALUE, ...)")
        arguments: Record = {}
        for one in _parts(inside[:-1]):
            key, equals, value = one.partition("=")
            key = key.strip()
            if not equals or not key or re.search(r"[\"'()\[\]{}]", key):
                raise ValueError(f"{one[:60]!r}: expected ARGUMENT=VALUE")
            if key in arguments:
                raise ValueError(f"{name}: {key} is given twice")
            arguments[key] = _literal(value)
        found.append({"name": name, "arguments": arguments})
    return found


def _parts(text: str) -> list[str]:
    """Of a text at its commas, those in quotes and brackets apart; none for an empty text. Raises ValueError where they do not close."""
    parts, start, quote, escaped = [], 0, "", False
    stack: list[str] = []
    for k, char in enumerate(text):
        if quote:
            if not escaped and char == quote:
                quote = ""
            escaped = char == "\\" and not escaped
        elif char in "\"'":
            quote = char
        elif char in "([{":
            stack.append({"(": ")", "[": "]", "{": "}"}[char])
        elif char in ")]}":
            if not stack or stack.pop() != char:
                raise ValueError("brackets that do not pair")
        elif char == "," and not stack:
            parts.append(text[start:k].strip())
            start = k + 1
    if quote or stack:
        raise ValueError("a quote or bracket that does not close")
    if not parts and not text.strip():
        return []
    return [*parts, text[start:].strip()]


def of_apigen(record: Record) -> Record:
    names = {
        "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "function_call": "call", "observation": "tool", "tool": "tool", "function_response": "tool",
    }  # fmt: skip
    spoken = _spoken(record, names)
    system = record.get("system") or ""
    if not isinstance(system, str):
        raise RecordProblem("system: expected text")
    if spoken and spoken[0][0] == "system":
        system = system or spoken[0][1]
        spoken = spoken[1:]
    messages = []
    for k, (role, text) in enumerate(spoken):
        if role == "system":
            raise RecordProblem(f"conversations[{k}]: a system text that is not the first")
        if role != "call":
            messages.append(said(role, text))
            continue
        where = f"conversations[{k}].value"
        try:
            told = _json(text)
        except ValueError as problem:
            raise RecordProblem(f"{where}: a call that cannot be read: no JSON: {problem}") from None
        calls = told if isinstance(told, list) else [told]
        if not calls or not all(isinstance(one, dict) for one in calls):
            raise RecordProblem(f"{where}: expected a call as an object of name and arguments")
        messages.append(asked("", [_call(one.get("name"), one.get("arguments"), where) for one in calls]))
    return conversation(record, system, messages, tools_of(record.get("tools")))


def of_glaive(record: Record) -> Record:
    system, chat = record.get("system") or "", record.get("chat")
    if not isinstance(system, str) or not isinstance(chat, str):
        raise RecordProblem("chat: expected a text of USER: and ASSISTANT:, and `system` beside it")
    system = system.strip().removeprefix("SYSTEM:").strip()
    told = []
    begins = system.find("{")
    if begins >= 0:
        at, decoder = begins, json.JSONDecoder(parse_constant=_no_number)
        while at < len(system):
            try:
                one, at = decoder.raw_decode(system, at)
            except (ValueError, RecursionError) as problem:
                raise RecordProblem(f"system: a function's schema is no JSON: {str(problem)[:100]}") from None
            told.append(one)
            at += len(system[at:]) - len(system[at:].lstrip(", \t\r\n"))
        system = re.sub(r",? with access to the following functions\..*", ".", system[:begins].strip(), flags=re.DOTALL)
    messages = []
    headers = list(_HEADER.finditer(chat))
    if not headers or chat[: headers[0].start()].strip():
        raise RecordProblem("chat: expected USER: or ASSISTANT: at its beginning")
    for k, header in enumerate(headers):
        end = headers[k + 1].start() if k + 1 < len(headers) else len(chat)
        text = chat[header.end() : end].strip().removesuffix("<|endoftext|>").strip()
        if re.search(r"<\|endoftext\|>|\b(?:USER|ASSISTANT|FUNCTION RESPONSE): ", text):
            raise RecordProblem(f"chat: turn {k + 1}: another turn's beginning stands within it")
        if header[1] == "ASSISTANT":
            words, *calls = text.split("<functioncall>")
            messages.append(asked(words.strip(), [_glaive_call(one.strip(), k + 1) for one in calls]))
        else:
            messages.append(said("user" if header[1] == "USER" else "tool", text))
    return conversation(record, system, messages, tools_of(told, "system"))


def _glaive_call(raw: str, turn: int) -> Record:
    """`{"name": "f", "arguments": '{"a": 1}'}`, arguments in quotes of either kind or in none. Raises RecordProblem."""
    where = f"chat: turn {turn}"
    quoted = _QUOTED.fullmatch(raw)
    try:
        # what stands in the quotes is JSON as it is, unless it has quotes of that kind, which Python escapes
        if quoted and "\\'" not in quoted[2]:
            return _call(_json(quoted[1]), quoted[2], where)
        told = _literal(raw)
    except ValueError as problem:
        raise RecordProblem(f"{where}: a call that cannot be read: {problem}") from None
    if not isinstance(told, dict):
        raise RecordProblem(f"{where}: expected a call as an object of name and arguments")
    return _call(told.get("name"), told.get("arguments"), where)


def of_magicoder(record: Record) -> Record:
    problem = record.get("problem") if record.get("problem") is not None else record.get("instruction")
    solution = record.get("solution") if record.get("solution") is not None else record.get("response")
    if not isinstance(problem, str) or not problem.strip() or not isinstance(solution, str):
        raise RecordProblem("expected `problem` or `instruction`, and `solution` or `response`, as texts")
    language = record.get("lang")
    if isinstance(language, str) and language.lower() not in ("python", "py", "python3"):
        raise RecordProblem(f"lang: {language}: only Python can be called")
    fences = [(name.lower(), code) for name, code in _FENCE.findall(solution)]
    programs = [code for name, code in fences if name in ("python", "py", "python3") or (not name and language)]
    if len(programs) != 1 or len(fences) != 1:
        raise RecordProblem(f"solution: expected one program between ``` lines, in Python; found {len(fences)} blocks, {len(programs)} of them Python")  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(programs[0])
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise RecordProblem(f"solution: its program is no Python: {str(error)[:80]}") from None
    before = solution[: solution.index("```")].strip()
    call = {"name": PYTHON["function"]["name"], "arguments": {"code": programs[0], "input": ""}}
    return conversation(record, "", [said("user", problem.strip()), asked(before, [call])], [PYTHON])


FORMS: dict[str, Callable[[Record], Record]] = {
    "trajectory": of_turns, "messages": of_messages, "toolace": of_toolace, "apigen": of_apigen, "glaive": of_glaive, "magicoder": of_magicoder,
}  # fmt: skip


def form_of(record: Record) -> str:
    """Which form a record is of. Raises RecordProblem where it looks like none."""
    if record.get("turns") is not None:
        return "trajectory"
    if record.get("messages") is not None:
        return "messages"
    if isinstance(record.get("chat"), str):
        return "glaive"
    spoken = record.get("conversations")
    if isinstance(spoken, list):
        roles = {str(one.get("from")) for one in spoken if isinstance(one, dict)}
        listed = isinstance(record.get("system"), str) and record.get("tools") is None
        return "toolace" if listed and roles <= {"user", "assistant", "tool"} else "apigen"
    if ("problem" in record or "instruction" in record) and ("solution" in record or "response" in record):
        return "magicoder"
    raise RecordProblem(f"of no form that is known ({', '.join(FORMS)}): it has {', '.join(sorted(record)[:8]) or 'nothing'}; see --form")  # fmt: skip


def source(paths: Sequence[str], form: str = "auto", skip_bad: int = 0, *, common: bool = False) -> Source:
    """Transcripts of files. Our own stay as they are, unless all are to be of the common form; the others come as {messages, tools}. The source raises BadInput for a record that is none, or, up to skip_bad of
    them, says so."""

    def expand(located: Iterable[Located]) -> Iterator[Located]:
        for where, record in located:
            try:
                kind = form_of(record) if form == "auto" else form
                found = FORMS[kind](record)
                if kind == "trajectory" and not common:
                    found = record
                json.dumps(found, ensure_ascii=False).encode()
            except UnicodeEncodeError:  # of JSON in a field's text
                told._tolerate(BadInput(f"{where}: expected text, found half a surrogate pair"))
                continue
            except RecordProblem as problem:
                told._tolerate(BadInput(f"{where}: {problem}"))
                continue
            yield where, found

    told = Source(list(paths), None, expand=expand, skip_bad=skip_bad)
    return told


def write(paths: Sequence[str], form: str, skip_bad: int, path: str, overwrite: bool, quiet: bool) -> int:
    """`sft --data --write-data`: transcripts of any form as {messages, tools}, a line each. Returns the exit code. Raises BadInput."""
    if Path(path).exists() and not overwrite:
        raise BadInput(f"{path}: exists; choose another output or add --overwrite")
    given = source(paths, form, skip_bad, common=True)
    lines = [json.dumps(record, ensure_ascii=False).encode() + b"\n" for _, record in given]
    if not lines:
        raise BadInput(f"{', '.join(paths)}: expected at least one transcript, got none")
    write_atomic(path, b"".join(lines))
    if not quiet:
        print(f"grpo-roc: {len(lines)} transcripts, {given.bad} records left out", file=sys.stderr)
    return 0
