"""Multi-hop questions and distractor passages as their publishers ship them, read into one neutral form.

`read_items` yields an `Item` a question, or a `Dropped` that says why not; `read_passages` yields documents for a pool.
What a record looks like (hotpotqa, musique, 2wiki, generic) and what it lies in (JSON array, JSON Lines, parquet; .gz
and .zst by suffix) are found out apart, so any of the four may come in any of the three. Places in messages are
`FILE:LINE` in JSON Lines and `FILE[INDEX]`, from 0, in arrays and parquet.

    hotpotqa  hotpot_*_v1*.json (hotpotqa.github.io), hotpotqa/hotpot_qa of the HF hub     arXiv 1809.09600
    musique   musique_{ans,full}_v1.0_*.jsonl (StonyBrookNLP/musique)                      arXiv 2108.00573
    2wiki     {train,dev}.json (Alab-NII/2wikimultihop), xanhho/2WikiMultihopQA of the hub arXiv 2011.01060
    generic   {id, question, answers[], paragraphs[{title, text, is_supporting?}], hops?, type?}, a form of our own

Fields that no reader knows are ignored. Memory: a JSON array is held whole as bytes, 1.13 times its unpacked size at
most, and decoded a record at a time; everything else is streamed. Beside that there are the ids, to see one twice.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import BufferedReader
from typing import Annotated, Any, BinaryIO, cast

import msgspec

from tenfold_shared import BadInput, Missing
from tenfold_shared.jsonl import BOM, decode_line, open_read, read_lines, unreadable
from tenfold_shared.redaction import one_line

FORMATS = ("hotpotqa", "musique", "2wiki", "generic")
# Their answer is chosen by the question's wording, not read off a paragraph.
COMPARISONS = {"comparison", "bridge_comparison"}
YES_NO = {"yes", "no", "noanswer"}

_BLOCK = 1 << 20
_DATA_SUFFIX = re.compile(r"\.(jsonl?|ndjson)(\.gz|\.zst)?$", re.IGNORECASE)
_TEXT_SUFFIX = re.compile(r"\.(txt|text|md)(\.gz|\.zst)?$", re.IGNORECASE)


class Paragraph(msgspec.Struct, frozen=True):
    """supporting: one of the documents the answer follows from (gold)."""

    title: str
    text: str
    supporting: bool


class Item(msgspec.Struct, frozen=True):
    """answers: the gold answer, then its aliases. hops: of the question, where known. source: one of FORMATS."""

    id: str
    question: str
    answers: tuple[str, ...]
    paragraphs: tuple[Paragraph, ...]
    hops: int | None
    source: str
    type: str | None


class Dropped(msgspec.Struct, frozen=True):
    """A record that is no usable item.

    reason: malformed, bad-field, unanswerable, duplicate-id, empty-question, empty-answer, no-paragraphs, gold-missing
    or answer-not-found; of a pool's: passage.
    """

    where: str
    id: str | None
    reason: str
    detail: str


def read_items(path: str, format: str = "auto") -> Iterator[Item | Dropped]:
    """The questions of PATH. The first record tells the format; `format` insists on one.

    Raises BadInput where the file as a whole cannot be read or is of another format, Missing without pyarrow.
    """
    return (found for _, found in located_items(path, format))


def located_items(path: str, format: str = "auto") -> Iterator[tuple[str, Item | Dropped]]:
    """`read_items` with the place of each."""
    form = None
    seen: set[str] = set()
    for where, record in _records(path, container_of(path)):
        if isinstance(record, BadInput):
            if form is None:
                raise record  # the file's first record: no such file, more likely than one bad record
            yield where, Dropped(where, None, "malformed", _detail(where, record))
            continue
        if form is None:
            form = _format_of(where, record, format)
        found = _item(where, record, form)
        if isinstance(found, Item):
            if found.id in seen:
                found = Dropped(where, found.id, "duplicate-id", f"id {found.id!r}: came before in this file")
            else:
                seen.add(found.id)
        yield where, found


def read_passages(path: str) -> Iterator[tuple[str, str] | Dropped]:
    """(title, text) of each passage of a pool: `{title, text}` records, a question file's paragraphs, or plain text.

    Text is split at blank lines; its paragraphs are titled by file name and number. A record that is none of these is
    Dropped; the first one, or a file that cannot be read, raises BadInput. Missing without pyarrow.
    """
    container = container_of(path, text=True)
    if container == "text":
        yield from _text(path)
        return
    form: str | None = ""
    for where, record in _records(path, container):
        try:
            if isinstance(record, BadInput):
                raise record
            kind = sniff(record) if form == "" else form
            try:
                found = [msgspec.convert(record, _Passage)] if kind is None else _paragraphs(record, kind)
            except msgspec.DecodeError as error:
                raise BadInput(
                    f"{where}: expected a passage with title and text, or a question: {_plain(error)}"
                ) from None
        except BadInput as error:
            if form == "":
                raise
            yield Dropped(where, None, "passage", _detail(where, error))
            continue
        form = kind
        yield from ((each.title, each.text) for each in found if each.text.strip())


def _detail(where: str, error: BadInput) -> str:
    return str(error).removeprefix(f"{where}: ")


# ---------------------------------------------------------------- what a record looks like


def sniff(record: Any) -> str | None:
    """Which of FORMATS a decoded record is of, None for none of them.

    2Wiki copied HotpotQA's fields and added `evidences`; where a copy lost both that and HotpotQA's `level`, the
    sentences tell: only HotpotQA's carry the space before them.
    """
    if not isinstance(record, dict) or "question" not in record:
        return None
    if "context" in record:
        return "hotpotqa" if "level" in record else "2wiki" if "evidences" in record else _by_spaces(record)
    paragraphs = record.get("paragraphs")
    first = paragraphs[0] if isinstance(paragraphs, list) and paragraphs else None
    if "question_decomposition" in record or (isinstance(first, dict) and "paragraph_text" in first):
        return "musique"
    return "generic" if "answers" in record and "paragraphs" in record else None


def _by_spaces(record: dict[str, Any]) -> str:
    try:
        later = [each for _, sentences in _context(record) for each in sentences[1:] if each]
    except msgspec.DecodeError:
        later = []
    return "hotpotqa" if any(each[0] == " " for each in later) else "2wiki"


def _format_of(where: str, record: Any, wanted: str) -> str:
    if wanted not in ("auto", *FORMATS):
        raise BadInput(f"--form {wanted}: expected auto or one of {', '.join(FORMATS)}")
    seen = sniff(record)
    if seen is None:
        fields = ", ".join(sorted(record)[:8]) or "none" if isinstance(record, dict) else "no object"
        raise BadInput(f"{where}: no known question format ({', '.join(FORMATS)}); found the fields {fields}")
    either = "context" in record and not {"level", "evidences"} & record.keys()
    if wanted in ("auto", seen) or (either and wanted in ("hotpotqa", "2wiki")):
        return seen if wanted == "auto" else wanted
    raise BadInput(f"{where}: --form {wanted}: this record looks like {seen}; give --form {seen}, or leave it out")


# ---------------------------------------------------------------- records as they are published

_Sentences = list[tuple[str, list[str]]]  # [[title, [sentence, …]], …]


class _Question(msgspec.Struct):
    """Fields of HotpotQA and 2Wiki that have one form everywhere."""

    question: str
    answer: str | None
    type: str | None = None


class _Step(msgspec.Struct):
    paragraph_support_idx: int | None = None


class _MusiqueParagraph(msgspec.Struct):
    title: str
    paragraph_text: str
    idx: int | None = None
    is_supporting: bool = False


class _Musique(msgspec.Struct):
    question: str
    answer: str | None
    answer_aliases: list[str] = []
    answerable: bool = True
    question_decomposition: list[_Step] = []


class _GenericParagraph(msgspec.Struct):
    title: str
    text: str
    is_supporting: bool | None = None


class _Generic(msgspec.Struct):
    question: str
    answers: list[str]
    hops: Annotated[int, msgspec.Meta(ge=0, le=1000)] | None = None
    type: str | None = None


class _Passage(msgspec.Struct):
    title: str
    text: str


class _Columns(msgspec.Struct):
    """HF's form of a list of pairs: two lists of one length. Some copies of 2Wiki call the sentences content."""

    title: list[str]
    sentences: list[Any] = []
    content: list[Any] = []
    sent_id: list[Any] = []


def _pairs(record: dict[str, Any], field: str, column: str) -> Any:
    """[[title, …], …], from the downloads' own form, HF's columns, or either as JSON text."""
    value = record.get(field)
    if isinstance(value, str):
        value = msgspec.json.decode(value)
    if isinstance(value, dict):
        columns = msgspec.convert(value, _Columns)
        second = getattr(columns, column) or (columns.content if column == "sentences" else [])
        if len(columns.title) != len(second):
            raise msgspec.ValidationError(f"{field}: {len(columns.title)} titles, but {len(second)} {column}")
        value = list(zip(columns.title, second, strict=True))
    if value is None:
        raise msgspec.ValidationError(f"Object missing required field `{field}`")
    return value


def _context(record: dict[str, Any]) -> _Sentences:
    return msgspec.convert(_pairs(record, "context", "sentences"), _Sentences)


def _paragraphs(record: Any, form: str) -> list[Paragraph]:
    """The paragraphs of one record, blank ones too. Raises msgspec.DecodeError."""
    if not isinstance(record, dict):
        raise msgspec.ValidationError("Expected `object`")
    if form in ("hotpotqa", "2wiki"):
        joint = "" if form == "hotpotqa" else " "
        facts = msgspec.convert(_pairs(record, "supporting_facts", "sent_id"), list[tuple[str, int]]) if (
            "supporting_facts" in record) else []  # fmt: skip
        gold = {title for title, _ in facts}
        return [Paragraph(title, joint.join(sentences), title in gold) for title, sentences in _context(record)]
    if "paragraphs" not in record:
        raise msgspec.ValidationError("Object missing required field `paragraphs`")
    if form == "musique":
        return [
            Paragraph(each.title, each.paragraph_text, each.is_supporting)
            for each in msgspec.convert(record["paragraphs"], list[_MusiqueParagraph])
        ]
    generic = msgspec.convert(record["paragraphs"], list[_GenericParagraph])
    unmarked = all(each.is_supporting is None for each in generic)
    return [Paragraph(each.title, each.text, unmarked or bool(each.is_supporting)) for each in generic]


def _item(where: str, record: Any, form: str) -> Item | Dropped:
    name = None
    if isinstance(record, dict):
        name = record.get("_id", record.get("id"))
        name = str(name) if isinstance(name, (str, int)) else None
    drop = partial(Dropped, where, name)
    try:
        paragraphs = _paragraphs(record, form)
        if name is None or not name.strip():
            return drop("bad-field", "id: expected a string")
        if form == "musique":
            return _musique(record, name, paragraphs, drop)
        if form == "generic":
            generic = msgspec.convert(record, _Generic)
            return _checked(Item(name, generic.question, tuple(generic.answers), tuple(paragraphs), generic.hops, form,
                                 generic.type), set(), drop)  # fmt: skip
        return _hotpot(record, name, paragraphs, form, drop)
    except msgspec.DecodeError as error:
        return drop("bad-field", f"id {name!r}: {_plain(error)}")
    except RecursionError:
        return drop("bad-field", f"id {name!r}: JSON nested too deeply")


def _hotpot(
    record: dict[str, Any], name: str, paragraphs: list[Paragraph], form: str, drop: partial[Dropped]
) -> Item | Dropped:
    """HotpotQA is of two hops throughout, 2Wiki of two but for bridge comparisons: two bridges, then the comparison."""
    asked = msgspec.convert(record, _Question)
    facts = _pairs(record, "supporting_facts", "sent_id")
    hops = 4 if asked.type == "bridge_comparison" else 2
    found = Item(name, asked.question, (asked.answer or "",), tuple(paragraphs), hops, form, asked.type)
    present = {each.title for each in paragraphs if each.text.strip()}
    return _checked(found, {title for title, _ in facts if title not in present}, drop)


def _musique(record: dict[str, Any], name: str, paragraphs: list[Paragraph], drop: partial[Dropped]) -> Item | Dropped:
    """Ids tell the hops: 2hop__…, 3hop1__… . In the *full* files each question has an unanswerable twin of its id."""
    asked = msgspec.convert(record, _Musique)
    if not asked.answerable:
        return drop("unanswerable", f"id {name!r}: the unanswerable twin")
    indices = {each.get("idx") for each in record["paragraphs"]}
    wanted = {each.paragraph_support_idx for each in asked.question_decomposition} - {None} - indices
    kind = re.match(r"([0-9]{1,3})hop[0-9]{0,3}", name)
    hops = int(kind[1]) if kind else len(asked.question_decomposition) or None
    answers = (asked.answer or "", *asked.answer_aliases)
    found = Item(name, asked.question, answers, tuple(paragraphs), hops, "musique", kind and kind[0])
    return _checked(found, {f"paragraph {index}" for index in wanted}, drop)


def _checked(item: Item, missing: set[str], drop: partial[Dropped]) -> Item | Dropped:
    """The item with blank paragraphs and repeated answers left out, or what is wrong with it."""
    at = f"id {item.id!r}"
    answers = tuple(dict.fromkeys(each.strip() for each in item.answers))
    paragraphs = tuple(each for each in item.paragraphs if each.text.strip())
    gold = [each for each in paragraphs if each.supporting]
    if not item.question.strip():
        return drop("empty-question", f"{at}: the question is empty")
    if not answers or not answers[0]:
        return drop("empty-answer", f"{at}: the answer is empty")
    if not paragraphs:
        return drop("no-paragraphs", f"{at}: no paragraph holds text")
    if missing:
        return drop(
            "gold-missing", f"{at}: gold documents that are not among its paragraphs: {', '.join(sorted(missing))}"
        )
    if not gold:
        return drop("gold-missing", f"{at}: no paragraph is marked as supporting the answer")
    answers = tuple(each for each in answers if each)
    if item.type not in COMPARISONS and answers[0].casefold() not in YES_NO and not _findable(answers, gold):
        return drop("answer-not-found", f"{at}: {answers[0]!r} stands in none of its {len(gold)} gold documents")
    return msgspec.structs.replace(item, answers=answers, paragraphs=paragraphs)


def _findable(answers: tuple[str, ...], gold: list[Paragraph]) -> bool:
    texts = [f"{each.title}\n{each.text}" for each in gold]
    if any(answer in text for answer in answers for text in texts):
        return True
    folded = [_fold(text) for text in texts]
    return any(_fold(answer) in text for answer in answers for text in folded)


def _fold(text: str) -> str:
    """Words only: without case, accents and punctuation, in which answers and texts differ."""
    bare = "".join(each for each in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(each))
    return " ".join(re.findall(r"\w+", bare))


def _plain(error: Exception) -> str:
    return str(error).replace("`", "")


# ---------------------------------------------------------------- what records lie in


def _name(path: str) -> str:
    return "<stdin>" if path == "-" else path


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """The unpacked bytes of PATH. Raises BadInput also for what goes wrong while they are read."""
    stream = open_read(path)
    try:
        yield stream
    except Exception as error:
        if (told := unreadable(error, _name(path))) is None:
            raise
        raise told from None
    finally:
        if path != "-":
            stream.close()


def container_of(path: str, text: bool = False) -> str:
    """`parquet`, `array`, `lines`, or `text` where that is allowed. Raises BadInput for a web page."""
    with _opened(path) as stream:
        # Not read: `-` is read again, from its beginning. Every stream of open_read's buffers, though its type says less.
        head = cast(BufferedReader, stream).peek(64).removeprefix(BOM).lstrip()
    if path.endswith(".parquet") or head.startswith(b"PAR1"):
        return "parquet"
    if text and (_TEXT_SUFFIX.search(path) or (not _DATA_SUFFIX.search(path) and head[:1] not in (b"{", b"["))):
        return "text"
    if head.startswith(b"<"):
        begin = head[:40].decode(errors="replace")
        raise BadInput(f"{_name(path)}: expected JSON, found a web page: {begin!r}; was its download refused?")
    return "array" if head.startswith(b"[") else "lines"


def _records(path: str, container: str) -> Iterator[tuple[str, Any]]:
    """(where, decoded record, or the BadInput that says why it cannot be decoded), in order."""
    return {"parquet": read_parquet, "array": read_array, "lines": _lines}[container](path)


def _lines(path: str) -> Iterator[tuple[str, Any]]:
    for number, line in read_lines(path):
        where = f"{_name(path)}:{number}"
        try:
            record = decode_line(where, line)
        except BadInput as error:
            yield where, error
        else:
            yield where, record


def read_array(path: str) -> Iterator[tuple[str, Any]]:
    data = bytearray()  # grows in place; read() of a packed file would join its pieces, which takes twice the size
    with _opened(path) as stream:
        while block := stream.read(_BLOCK):
            data += block
    start = len(BOM) if data.startswith(BOM) else 0
    try:
        # Raw is a view of the bytes: the array is cut into records without being decoded.
        parts = msgspec.json.decode(memoryview(data)[start:], type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if b"\\ud" in data.lower():
            try:  # half a surrogate pair in one record must not cost the others: the slow parser lets it pass
                halves = json.loads(bytes(data[start:]))
            except (ValueError, RecursionError):
                pass
            else:
                yield from ((f"{_name(path)}[{index}]", _whole(path, index, each)) for index, each in enumerate(halves))
                return
        at = re.fullmatch(r"(.*) \(byte (\d+)\)", str(error))
        # msgspec counts what trails behind the array from 1.
        offset = start + int(at[2]) - ("trailing" in str(error)) if at else len(data)
        found = bytes(data[offset : offset + 40]).decode(errors="replace")
        what = f"{at[1]}: {found!r}" if at and found else "the JSON array has no end"
        raise BadInput(f"{_name(path)}: byte {offset}: {what}; is the download complete?") from None
    except RecursionError:
        raise BadInput(f"{_name(path)}: JSON nested too deeply") from None
    for index, part in enumerate(parts):
        where = f"{_name(path)}[{index}]"
        try:
            record = msgspec.json.decode(part)
        except (msgspec.DecodeError, RecursionError) as error:
            yield where, BadInput(f"{where}: not JSON: {error}")
        except UnicodeDecodeError as error:
            yield where, BadInput(f"{where}: expected UTF-8: {error.reason}")
        else:
            yield where, record


def _whole(path: str, index: int, record: Any) -> Any:
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return BadInput(f"{_name(path)}[{index}]: expected Unicode, found half a surrogate pair")
    return record


def read_parquet(path: str) -> Iterator[tuple[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise Missing(f"{path}: pyarrow is not installed: pip install 'keychain-synth[parquet]'") from None
    try:
        rows = parquet.ParquetFile(path).iter_batches(batch_size=256)
        for index, record in enumerate(record for batch in rows for record in batch.to_pylist()):
            yield f"{path}[{index}]", record
    except (ArrowException, OSError, ValueError, OverflowError) as error:  # text that is no UTF-8, dates that are none
        raise BadInput(f"{path}: cannot be read as parquet: {one_line(error)}") from None


def _text(path: str) -> Iterator[tuple[str, str]]:
    title = re.sub(r"\.(gz|zst)$", "", os.path.basename(_name(path)))
    count, last, lines = 0, 0, list[str]()
    for number, line in read_lines(path):
        if lines and number > last + 1:  # read_lines left a blank line out
            count += 1
            yield f"{title} {count}", "\n".join(lines)
            lines = []
        last = number
        try:
            text = line.decode().strip()
        except UnicodeDecodeError as error:
            raise BadInput(f"{_name(path)}:{number}: expected UTF-8: {error.reason} at byte {error.start}") from None
        lines += [text] if text else []
    if lines:
        yield f"{title} {count + 1}", "\n".join(lines)
