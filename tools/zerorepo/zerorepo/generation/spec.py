"""What somebody wants built: a specification file as a `Spec`, which is all that stage A knows of it.

Reads three forms: the `repo_data.json` of the paper's own code (repository_name, repository_purpose, scope), its successor's
`feature_spec.json` (meta, background, non-functional and a tree of functional requirements), and Markdown: a README,
a list of requirements, or the `spec.md` of GitHub's spec-kit. JSON is read by a reader of its own that knows where
each value stands, since whoever wrote the file wants to be told the line.

JSON with a byte order mark or with CRLF line ends is refused, as is a key that the form does not have. Markdown may
have both: they change nothing there, and editors put them in.
"""

from __future__ import annotations

import json
import keyword
import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tenfold_shared import BadInput
from tenfold_shared.jsonl import BOM
from zerorepo.graph import read_bytes
from zerorepo.validate import judged_path

LONGEST_NAME = 40  # letters of a package name; a longer one is cut at a word
LONGEST_BLOCK = 10_000  # characters of a paragraph or line
DEEPEST = 64  # objects and arrays inside each other; the successor's tree has 6 levels
# Folders that a repository has beside its package.
_TAKEN = frozenset(["build", "dist", "docs", "examples", "site", "src", "test", "tests"])
_DATA_KEYS = ("repository_name", "repository_purpose", "scope")
_SPEC_KEYS = (
    "meta", "background_and_overview", "non_functional_requirements", "functional_requirements", "repository_name",
    "repository_purpose",
)  # fmt: skip
_ITEM_KEYS = ("id", "title", "description", "evidence")
_NODE_KEYS = ("id", "name", "description", "evidence", "children")


class Spec(msgspec.Struct, frozen=True):
    """name: an importable package name (see package_name); purpose: what the project is for, two words or more;
    scope: what belongs to it and what does not; requirements: one line each, in the order of the file."""

    name: str
    purpose: str
    scope: str = ""
    requirements: tuple[str, ...] = ()


def read_spec(path: str | Path) -> Spec:
    """The specification in a file, `-` being stdin. Raises BadInput with file:line:column."""
    return spec_of(read_bytes(path), "<stdin>" if str(path) == "-" else str(path))


def spec_of(data: bytes, name: str) -> Spec:
    """The same of bytes; `name` stands in messages. The suffix tells the form: .json, or Markdown for .md, .markdown,
    .txt and .rst; of another, an object is JSON."""
    suffix = Path(name).suffix.lower()
    is_json = suffix == ".json" or (
        suffix not in (".md", ".markdown", ".txt", ".rst") and data.removeprefix(BOM).lstrip()[:1] == b"{"
    )
    if is_json and data.startswith(BOM):
        raise BadInput(f"{name}:1:1: begins with a byte order mark, which JSON may not have; save it as UTF-8 without")
    try:
        text = data.removeprefix(BOM).decode()
    except UnicodeDecodeError as error:
        before = data.removeprefix(BOM)[: error.start].decode()
        raise BadInput(f"{_place(name, before, len(before))}: expected UTF-8: {error.reason}") from None
    if is_json:
        if (at := text.find("\r")) >= 0:
            raise BadInput(f"{_place(name, text, at)}: a carriage return; expected line ends of LF alone (dos2unix)")
        return _of_json(text, name)
    return _of_markdown(text.replace("\r\n", "\n").replace("\r", "\n"), name)


def package_name(title: str) -> str:
    """The package name of a title: letters without their accents, in lower case, anything else between them one
    underscore; at most LONGEST_NAME letters, cut at a word. A name that begins with a digit gets `lib_` before it; one
    that Python, its standard library, Windows or the repository itself has taken gets `_project` after it.
    '' where no letter or digit is left: of a script other than Latin there is no package name to guess."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    found = "_".join(re.findall(r"[a-z0-9]+", plain))
    if len(found) > LONGEST_NAME:
        cut = found[: LONGEST_NAME + 1].rpartition("_")[0]
        found = cut or found[:LONGEST_NAME]
    if found[:1].isdigit():
        found = f"lib_{found}"
    if found in sys.stdlib_module_names or found in _TAKEN or keyword.iskeyword(found) or keyword.issoftkeyword(found):
        return f"{found}_project"
    return f"{found}_project" if found and judged_path(found, True) is not None else found


def _place(name: str, text: str, at: int) -> str:
    """file:line:column, both from 1, of a place in a text."""
    return f"{name}:{text.count(chr(10), 0, at) + 1}:{at - text.rfind(chr(10), 0, at)}"


def _flat(text: str) -> str:
    return " ".join(text.split())


# ------------------------------------------------------------ JSON

Pointer = tuple[str | int, ...]


class _Wrong(Exception):
    """What is wrong, and where in the text."""

    def __init__(self, at: int, why: str) -> None:
        super().__init__(why)
        self.at = at


class _Located:
    """A JSON text's value, with the place of each value and each key in it. Strict: no key twice, no NaN."""

    _BLANK = re.compile(r"[ \t\n\r]*")
    _NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")

    def __init__(self, text: str) -> None:
        self.text = text
        self.values: dict[Pointer, int] = {}
        self.keys: dict[Pointer, int] = {}
        self.value, end = self._read(self._skip(0), ())
        if (end := self._skip(end)) < len(text):
            raise _Wrong(end, "not JSON: something stands after the value")

    def _skip(self, at: int) -> int:
        found = self._BLANK.match(self.text, at)
        assert found is not None
        return found.end()

    def _read(self, at: int, pointer: Pointer) -> tuple[Any, int]:
        self.values[pointer] = at
        first = self.text[at : at + 1]
        if len(pointer) > DEEPEST:
            raise _Wrong(at, f"nested more than {DEEPEST} levels deep")
        if first == "{":
            return self._object(at, pointer)
        if first == "[":
            return self._array(at, pointer)
        if first == '"':
            return self._string(at)
        for word, value in (("true", True), ("false", False), ("null", None)):
            if self.text.startswith(word, at):
                return value, at + len(word)
        if number := self._NUMBER.match(self.text, at):
            try:
                return float(number[0]) if set(number[0]) & set(".eE") else int(number[0]), number.end()
            except ValueError:
                raise _Wrong(at, "a number of more digits than Python reads") from None
        what = f"got {first!r}" if first else "the file ends"
        raise _Wrong(at, f"not JSON: expected a value, {what}")

    def _string(self, at: int) -> tuple[str, int]:
        try:
            return json.JSONDecoder().raw_decode(self.text, at)
        except json.JSONDecodeError as error:
            raise _Wrong(error.pos, f"not JSON: {error.msg.lower()}") from None

    def _object(self, at: int, pointer: Pointer) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        at = self._skip(at + 1)
        if self.text[at : at + 1] == "}":
            return found, at + 1
        while True:
            if self.text[at : at + 1] != '"':
                raise _Wrong(at, "not JSON: expected a key in double quotes")
            begin = at
            key, at = self._string(at)
            if key in found:
                raise _Wrong(begin, f"the key {key!r} stands twice")
            self.keys[(*pointer, key)] = begin
            at = self._skip(at)
            if self.text[at : at + 1] != ":":
                raise _Wrong(at, "not JSON: expected a colon after the key")
            found[key], at = self._read(self._skip(at + 1), (*pointer, key))
            at = self._skip(at)
            if self.text[at : at + 1] == "}":
                return found, at + 1
            if self.text[at : at + 1] != ",":
                raise _Wrong(at, "not JSON: expected a comma or a closing brace")
            at = self._skip(at + 1)

    def _array(self, at: int, pointer: Pointer) -> tuple[list[Any], int]:
        found: list[Any] = []
        at = self._skip(at + 1)
        if self.text[at : at + 1] == "]":
            return found, at + 1
        while True:
            value, at = self._read(at, (*pointer, len(found)))
            found.append(value)
            at = self._skip(at)
            if self.text[at : at + 1] == "]":
                return found, at + 1
            if self.text[at : at + 1] != ",":
                raise _Wrong(at, "not JSON: expected a comma or a closing bracket")
            at = self._skip(at + 1)


def _of_json(text: str, name: str) -> Spec:
    try:
        found = _Located(text)
        if not isinstance(found.value, dict):
            raise _Wrong(found.values[()], "expected an object with repository_name and repository_purpose")
        return _Fields(found).spec()
    except _Wrong as error:
        raise BadInput(f"{_place(name, text, error.at)}: {error}") from None


class _Fields:
    """The two JSON forms, told apart by functional_requirements."""

    def __init__(self, located: _Located) -> None:
        self.located = located

    def spec(self) -> Spec:
        whole = self.located.value
        full = "functional_requirements" in whole
        self._known((), _SPEC_KEYS if full else _DATA_KEYS)
        title = self._text(("repository_name",))
        name = package_name(title)
        if not name:
            raise _Wrong(self.located.values["repository_name",], f"repository_name: {title!r}: expected Latin letters or digits, to make a package name of")  # fmt: skip
        purpose = self._text(("repository_purpose",))
        if why := _too_short(purpose):
            raise _Wrong(self.located.values["repository_purpose",], f"repository_purpose: {why}")
        if not full:
            return Spec(name, purpose, self._text(("scope",)) if "scope" in whole else "")
        self._language()
        background = self._items("background_and_overview")
        others = self._items("non_functional_requirements")
        scope = [*background, *(f"Must hold throughout: {item}" for item in others)]
        return Spec(name, purpose, " ".join(scope), tuple(self._leaves(("functional_requirements",))))

    def _known(self, pointer: Pointer, keys: tuple[str, ...]) -> None:
        value = self._at(pointer)
        if not isinstance(value, dict):
            raise _Wrong(self.located.values[pointer], f"{_told(pointer)}: expected an object")
        for key in value:
            if key not in keys:
                raise _Wrong(self.located.keys[(*pointer, key)], f"{_told((*pointer, key))}: unknown; expected one of {', '.join(keys)}")  # fmt: skip

    def _at(self, pointer: Pointer) -> Any:
        value = self.located.value
        for step in pointer:
            value = value[step]
        return value

    def _text(self, pointer: Pointer) -> str:
        """A text that says something, on one line."""
        above = self._at(pointer[:-1])
        if pointer[-1] not in above:
            raise _Wrong(self.located.values[pointer[:-1]], f"{_told(pointer)}: missing")
        value, at = above[pointer[-1]], self.located.values[pointer]
        if not isinstance(value, str):
            raise _Wrong(at, f"{_told(pointer)}: expected text")
        flat = _flat(value)
        if not flat or not flat.isprintable():
            raise _Wrong(at, f"{_told(pointer)}: {'empty' if not flat else 'holds characters that cannot be printed'}")
        return flat

    def _list(self, pointer: Pointer) -> int:
        value = self._at(pointer)
        if not isinstance(value, list):
            raise _Wrong(self.located.values[pointer], f"{_told(pointer)}: expected a list")
        return len(value)

    def _language(self) -> None:
        meta = self.located.value.get("meta", {})
        if not isinstance(meta, dict):
            raise _Wrong(self.located.values["meta",], "meta: expected an object")
        language = meta.get("primary_language")
        if language is not None and str(language).lower() not in ("python", "py", ""):
            raise _Wrong(self.located.values["meta", "primary_language"], f"meta.primary_language: {language}: what is written here is Python")  # fmt: skip

    def _items(self, key: str) -> list[str]:
        if key not in self.located.value:
            return []
        found = []
        for at in range(self._list((key,))):
            self._known((key, at), _ITEM_KEYS)
            found.append(f"{self._text((key, at, 'title'))}: {self._text((key, at, 'description'))}")
        return found

    def _leaves(self, pointer: Pointer) -> Iterator[str]:
        """`name: description` of the requirements that have no finer ones. No deeper than the reader went."""
        for at in range(self._list(pointer)):
            here = (*pointer, at)
            self._known(here, _NODE_KEYS)
            told = f"{self._text((*here, 'name'))}: {self._text((*here, 'description'))}"
            below = (*here, "children")
            if "children" in self._at(here) and self._list(below):
                yield from self._leaves(below)
            else:
                yield told


def _told(pointer: Pointer) -> str:
    return ".".join(map(str, pointer))


def _too_short(purpose: str) -> str:
    """What is wrong with a purpose; '' for one that can be worked with."""
    if len(re.findall(r"\w+", purpose)) >= 2:
        return ""
    return f"{purpose!r}: expected a sentence that says what the project is for"


# ------------------------------------------------------------ Markdown


class _Block(NamedTuple):
    """kind: heading, text or bullet; at: line, from 1; level: of a heading; under: the headings it stands below."""

    kind: str
    at: int
    text: str
    level: int
    under: tuple[str, ...]


_HEADING = re.compile(r" {0,3}(#{1,6})\s+(.*?)\s*#*\s*$")
_UNDERLINE = re.compile(r" {0,3}(=+|-{2,})\s*$")
_BULLET = re.compile(r"\s*(?:[-*+•]|\d+[.)])\s+(.*)$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_NO_TEXT = re.compile(r"\s*(?:\||<|!\[|\[!\[|\[[^\]]+\]:|[-*_](?:\s*[-*_]){2,}\s*$)")
_NOT_WANTED = re.compile(r"install|licen[cs]e|contribut|change ?log|acknowledg|contents|reference|links|author|credit|badge|success criteria|edge cases|checklist|execution flow|guidelines|entities", re.I)  # fmt: skip
_SCOPE = re.compile(r"\bscope\b|non-?goals?\b", re.I)
_OUT = re.compile(r"out of scope|non-?goals?\b", re.I)
_KIT = re.compile(r"feature specification\s*:\s*(.+)", re.I)
_INPUT = re.compile(r"\*\*Input\*\*\s*:\s*(?:User description\s*:\s*)?(.+)$", re.I)
_STORY = re.compile(r"user story \d+\s*[-–—:]\s*(.+?)\s*(?:\(.*)?$", re.I)
_MARK = re.compile(r"(?:FR|REQ|R|US)-?\d+\s*[:.]\s*", re.I)


def _of_markdown(text: str, name: str) -> Spec:
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > LONGEST_BLOCK:
            raise BadInput(
                f"{name}:{number}:1: expected lines of at most {LONGEST_BLOCK:,} characters, got {len(line):,}"
            )
    blocks = list(_blocks(text))
    heading = next((one for one in blocks if one.kind == "heading"), None)
    title = _plain(heading.text) if heading is not None else Path(name).stem
    where = f"{name}:{heading.at if heading is not None else 1}:1"
    kit = _KIT.match(title)
    if kit:
        title = kit[1]
    if re.fullmatch(r"\[.*\]", title):
        raise BadInput(f"{where}: title: {title} is the template's placeholder; fill it in")
    package = package_name(re.split(r":\s|\s[-–—]\s", title, maxsplit=1)[0])
    if not package or (name == "<stdin>" and heading is None):
        raise BadInput(f"{where}: title: expected a heading with Latin letters or digits, to make a package name of")
    purpose, at = _purpose(blocks, bool(kit))
    if "$ARGUMENTS" in purpose:
        raise BadInput(f"{name}:{at}:1: purpose: $ARGUMENTS is the template's placeholder; fill it in")
    if why := _too_short(purpose):
        raise BadInput(f"{name}:{at}:1: purpose, the first paragraphs: {why}")
    scope = [
        ("Out of scope: " if _OUT.search(one.under[-1]) else "") + _plain(one.text)
        for one in blocks
        if one.kind != "heading" and one.under and _SCOPE.search(one.under[-1])
    ]
    return Spec(package, purpose, " ".join(filter(None, scope)), tuple(_requirements(blocks)))


def _purpose(blocks: list[_Block], kit: bool) -> tuple[str, int]:
    """The paragraphs below the title up to the next heading or list, else those of the first section that has any;
    of spec-kit, what the user asked for."""
    texts = [one for one in blocks if one.kind == "text"]
    if kit:
        for one in texts:
            if found := _INPUT.search(one.text):
                return _plain(found[1]).strip("\"“”'"), one.at
        texts = [one for one in texts if not one.text.startswith("**")]
    if not texts:
        return "", blocks[0].at if blocks else 1
    found_blocks = []
    for one in blocks[blocks.index(texts[0]) :]:
        if one.kind != "text":
            break
        found_blocks.append(_plain(one.text))
    return " ".join(found_blocks), texts[0].at


def _requirements(blocks: list[_Block]) -> Iterator[str]:
    """The list items, those of sections on installing, licence and the like left out. Where a section is called
    functional requirements, its items alone, after the titles of the user stories."""
    bullets = [one for one in blocks if one.kind == "bullet"]
    functional = [one for one in bullets if any("functional requirements" in head.lower() and "non" not in head.lower() for head in one.under)]  # fmt: skip
    stories = [found[1] for one in blocks if one.kind == "heading" and (found := _STORY.match(_plain(one.text)))]
    if functional:
        yield from stories
    for one in functional or bullets:
        if not functional and any(_NOT_WANTED.search(head) or _SCOPE.search(head) for head in one.under):
            continue
        if re.fullmatch(r"\[[^\]]*\]\(#[^)]*\)", one.text.strip()):
            continue  # a table of contents
        told = _MARK.sub("", _plain(one.text), count=1)
        if told:
            yield told


def _blocks(text: str) -> Iterator[_Block]:
    """Headings, paragraphs and list items in order; code, comments, tables, pictures and front matter left out."""
    text = re.sub(r"<!--.*?(?:-->|\Z)", lambda found: "\n" * found[0].count("\n"), text, flags=re.S)
    lines = text.split("\n")
    under: list[tuple[int, str]] = []
    held: list[str] = []
    kind, begun = "", 0
    fence = ""
    start = 0
    if lines[0].strip() == "---" and "---" in (rest := [line.strip() for line in lines[1:]]):
        start = rest.index("---") + 2

    def flush() -> Iterator[_Block]:
        nonlocal held, kind
        if kind and (told := _flat(" ".join(held))):
            yield _Block(kind, begun, told, 0, tuple(title for _, title in under))
        held, kind = [], ""

    def head(level: int, title: str, at: int) -> _Block:
        while under and under[-1][0] >= level:
            under.pop()
        block = _Block("heading", at, title, level, tuple(title for _, title in under))
        under.append((level, title))
        return block

    for number, line in enumerate(lines[start:], start + 1):
        mark = _FENCE.match(line)
        if fence or mark:
            if mark and not fence:
                fence = mark[1]
                yield from flush()
            elif mark and mark[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
            continue
        line = re.sub(r"^\s*>\s?", "", line)
        if found := _HEADING.match(line):
            yield from flush()
            yield head(len(found[1]), found[2], number)
        elif kind == "text" and (underline := _UNDERLINE.match(line)):
            title, held, kind = _flat(" ".join(held)), [], ""
            yield head(1 if underline[1][0] == "=" else 2, title, begun)
        elif not line.strip() or (_NO_TEXT.match(line) and not _BULLET.match(line)):
            yield from flush()
        elif bullet := _BULLET.match(line):
            yield from flush()
            held, kind, begun = [bullet[1]], "bullet", number
        else:
            if not kind:
                kind, begun = "text", number
            held.append(line)
    yield from flush()


def _plain(text: str) -> str:
    """Markdown of one block without its marks; a very long one keeps them, as finding them takes time by its square."""
    if len(text) > LONGEST_BLOCK:
        return _flat(text)
    text = re.sub(r"^\[[ xX]\]\s+", "", text)
    text = re.sub(r"!\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])", r"\1", text)
    text = re.sub(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1", r"\2", text)
    text = re.sub(r"(?<!\w)([*_])(?=\S)(.+?)(?<=\S)\1(?!\w)", r"\2", text)
    text = re.sub(r"`+([^`]*)`+", r"\1", text)
    text = "".join(letter if letter.isprintable() else " " for letter in re.sub(r"<[^>]+>", "", text))
    return _flat(text.replace("\\", ""))
