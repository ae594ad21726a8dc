"""Valid documents made wrong, a step or a few at a time: what hypothesis and atheris share.

`mutated` takes a seed apart by its kind (JSON lines, text, bytes, safetensors) and changes it where a reader is likely to
trust it: a value of another type, a number no machine holds, a key twice, nesting without end, half a surrogate pair,
a header that claims more than there is. Bytes that no longer parse are changed as bytes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

NAMES = [
    "..", "../../etc/passwd", "/etc/passwd", "a/b", ".", "", " ", "\0", "a\0b", "a" * 300, "\u202e", "\x1b[31mred\x1b[0m", "con", "-rf",
    "$HOME", "`id`", "$(id)", "';--", "${x}", "{x}", "%s%n", "<script>alert(1)</script>", "]]>", "&a;", "--></svg>", '"', "\\", "\r\n", "é\u0301",
    "\U0010ffff", "\ufeff", "\u2028", "$\\frac{$", "{{7*7}}", "{% for i in x %}", "!!python/object:os.system", "__class__", "id", "schema",
]  # fmt: skip
NUMBERS: list[Any] = [
    0, -1, 1, 2, 255, 256, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**400, 0.0, -0.0, 0.5, 1e308, 5e-324, 1e-400,
]  # fmt: skip
RAW = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000, "1" + "0" * 400, '"\\ud800"', '"\\udc00\\ud800"', "01", "+1", "tru", "{", "[", "'a'", "1.", ".5", "\x00", '"\x01"', '{"a":1,"a":2}']  # fmt: skip
TOKENS = [
    "{", "}", "[", "]", "(", ")", '"', "'", "\\", "$", "\n", "\r\n", "\t", ",", ":", "=", "#", "```", "<", ">", "&", "\\boxed{", "\\frac", "\\sqrt{",
    "^{", "_{", "&a", "*a", "<<: ", "!!", "|", "- ", "---\n", "0x", "1e9", "u[", "lambda ", "def f(", "class C", "\0", "\x1b", "\ufeff", "{{", "}}", "{%", "\\u",
    "<tool_call>", "</tool_call>", "<think>", "</think>", "0" * 5000, "(" * 2000, "[" * 2000, "{" * 2000, "9" * 400, "-" * 300, "\\" * 200, "${", "}" * 200,
]  # fmt: skip


def mutated(seed: bytes, kind: str, rng: random.Random) -> bytes:
    """A seed after one to four changes. The same generator gives the same bytes."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        ways: list[Callable[[bytes, random.Random], bytes]] = [_bytes, _integers]
        if kind == "json":
            ways += [_json, _json, _json, _json, _text]
        elif kind == "text":
            ways += [_text, _text, _text]
        elif kind == "safetensors":
            ways += [_header, _header, _header]
        seed = rng.choice(ways)(seed, rng)
    return seed[: 1 << 18]


# ---------------------------------------------------------------- bytes


def _bytes(data: bytes, rng: random.Random) -> bytes:
    at, more = rng.randrange(len(data) + 1), rng.randrange(1, 9)
    way = rng.randrange(6)
    if way == 0:
        return data[:at]
    if way == 1:
        return data[:at] + bytes(rng.randrange(256) for _ in range(more)) + data[at:]
    if way == 2:
        return data[:at] + data[at + more :]
    if way == 3:
        return data[:at] + bytes(rng.randrange(256) for _ in range(more)) + data[at + more :]
    if way == 4:
        begin = rng.randrange(len(data) + 1)
        return data[:at] + data[begin : begin + more * 8] * rng.choice((1, 2, 50)) + data[at:]
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :] if at < len(data) else data


def _integers(data: bytes, rng: random.Random) -> bytes:
    """A number in a binary header made larger than the file, negative, or off by one."""
    width = rng.choice((1, 2, 4, 8))
    if len(data) < width:
        return data
    at = rng.randrange(min(len(data) - width + 1, rng.choice((16, 64, 1 << 16))))
    old = int.from_bytes(data[at : at + width], "little")
    top = 1 << (8 * width)
    new = rng.choice((0, 1, old + 1, old - 1, old * 2, top - 1, top // 2, top // 2 - 1, 1 << 40, 0xFFFFFFFF, len(data))) % top  # fmt: skip
    return data[:at] + new.to_bytes(width, "little") + data[at + width :]


def _text(data: bytes, rng: random.Random) -> bytes:
    text = data.decode("utf-8", "surrogateescape")
    at = rng.randrange(len(text) + 1)
    piece = rng.choice((rng.choice(TOKENS), rng.choice(NAMES), str(rng.choice(NUMBERS)), rng.choice(RAW)))
    end = at + rng.choice((0, 0, 1, 3, 10))
    return (text[:at] + piece + text[end:]).encode("utf-8", "surrogateescape")


# ---------------------------------------------------------------- JSON


class _Raw(str):
    """Text that stands in the document as it is, for what no encoder writes."""


def _json(data: bytes, rng: random.Random) -> bytes:
    """One value somewhere in one line's JSON; what stands before the first bracket stays."""
    at = min((found for found in (data.find(b"{"), data.find(b"[")) if found >= 0), default=-1)
    if at < 0:
        return _text(data, rng)
    head, body = data[:at], data[at:].split(b"\n")
    number = rng.randrange(len(body))
    try:
        value, end = json.JSONDecoder().raw_decode(body[number].decode())
    except (ValueError, RecursionError):
        return _text(data, rng)
    try:
        return _in_json(value, rng, head, body, number, end)
    except RecursionError:  # made deep by an earlier change
        return _text(data, rng)


def _in_json(value: Any, rng: random.Random, head: bytes, body: list[bytes], number: int, end: int) -> bytes:
    rest = body[number].decode()[end:].encode()
    places: list[tuple[Any, Any]] = []
    _places(value, places)
    if not places:
        return _text(b"\n".join(body), rng)
    holder, name = rng.choice(places)
    _change(holder, name, value, rng)
    changed = _written(value)
    if rng.random() < 0.05:
        changed = changed * 2
    body[number] = changed.encode("utf-8", "surrogatepass") + rest
    return head + b"\n".join(body)


def _places(value: Any, found: list[tuple[Any, Any]], depth: int = 0) -> None:
    if depth > 60:
        return
    for name in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        found.append((value, name))
        _places(value[name], found, depth + 1)


def _change(holder: Any, name: Any, whole: Any, rng: random.Random) -> None:
    old = holder[name]
    way = rng.randrange(12)
    if way == 0:
        del holder[name]
    elif way == 1:
        holder[name] = rng.choice(NAMES)
    elif way == 2:
        holder[name] = rng.choice(NUMBERS)
    elif way == 3:
        holder[name] = _Raw(rng.choice(RAW))
    elif way == 4:
        holder[name] = rng.choice([None, True, False, [], {}, "", [[]], [None], {"": None}])
    elif way == 5:
        holder[name] = [old]
    elif way == 6:
        holder[name] = {"a": old, "id": old}
    elif way == 7:
        deep = rng.choice((70, 900, 3000, 100_000))
        opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
        holder[name] = _Raw(opening * deep + "1" + closing * deep)
    elif way == 8 and isinstance(old, list):
        holder[name] = old * rng.choice((2, 20)) if old else [1] * 20
    elif way == 9 and isinstance(old, str):
        at = rng.randrange(len(old) + 1)
        holder[name] = old[:at] + rng.choice((*NAMES, *TOKENS)) + old[at + rng.choice((0, 1)) :]
    elif way == 10 and isinstance(old, int | float) and not isinstance(old, bool) and abs(old) < 1e300:
        holder[name] = rng.choice((old + 1, -old, old * 1e5, str(old), old / 3))
    elif isinstance(holder, dict):
        # the same value under another name, or another's value here
        other = rng.choice(list(holder))
        holder[rng.choice((other, rng.choice(NAMES)))] = old
    else:
        holder[name] = rng.choice(holder)


def _written(value: Any) -> str:
    if isinstance(value, _Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(str(name))}:{_written(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    return json.dumps(value)


def _header(data: bytes, rng: random.Random) -> bytes:
    """The JSON header of a safetensors file, its length kept true three times in four."""
    size = int.from_bytes(data[:8], "little")
    if not 0 < size < len(data):
        return _bytes(data, rng)
    header = _json(data[8 : 8 + size], rng)
    told = len(header) if rng.random() < 0.75 else rng.choice((0, 1, 1 << 40, (1 << 64) - 1, len(header) - 1))
    return told.to_bytes(8, "little") + header + data[8 + size :]
