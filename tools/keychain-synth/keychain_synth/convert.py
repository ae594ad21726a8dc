"""`keychain-synth convert`: rows into the forms that trainers and harnesses read, and back.

    verl          data_source, prompt, ability, reward_model {style, ground_truth}, extra_info {split, index, ...}:
                  parquet, or JSON Lines of the same columns (rStar-RL/LoongRL, examples/data_preprocess/*_system.py)
    messages      chat lines of ms-swift and OpenAI fine-tuning
    openai-batch  custom_id, method, url, body: requests for a server's or vLLM's batch run
    ruler         index, input, outputs, length, length_w_model_temp, answer_prefix, token_position_answer
                  (NVIDIA/RULER)
    longbench     input, context, answers, length, dataset, language, all_classes, _id (THUDM/LongBench)
    keychain      index, input, context, answers, length, and of rows with chains distract_questions,
                  distractor_context and chain_head_with_question (Wangmerlyn/KeyChain)
    rows          task records, ours

All but openai-batch take what they have no field for along as `task`, JSON text that their readers ignore: the record
with its long text cut out. From it a row comes back as it was. Files of other makers have none and are read by their
own fields.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from string import Template
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

import keychain_synth
from keychain_synth import items
from keychain_synth.fields import checked
from keychain_synth.reward import with_reasoning
from keychain_synth.row import CHAIN, PLAIN, SYSTEM, TREE
from tenfold_shared import BadInput, Missing
from tenfold_shared import records as shapes
from tenfold_shared.cli import Selection, read_template
from tenfold_shared.jsonl import Located, Output, Source, decode_line, read_lines
from tenfold_shared.progress import Progress

Record = dict[str, Any]
T = TypeVar("T")

# What a form cannot hold; of the first group, only without `task`.
LOSES = {
    "rows": "nothing",
    "verl": "ids, meta, and whether a prompt was raw",
    "messages": "ids, meta, and whether a prompt was raw",
    "ruler": "ids, meta, system prompts and earlier turns",
    "longbench": "meta, system prompts and the instruction around the text",
    "keychain": "ids, meta, system prompts and the instruction around the text",
    "openai-batch": "answers and meta",
}
FORMS = tuple(LOSES)
# The prefixes of data_source that select a reward in LoongRL, with the `ability` its scripts write beside them.
ABILITIES = {
    "custom_longcontextqa_": "longcontext_qa",
    "custom_longcontext_needle_qa_": "longcontext_qa",
    "custom_rulerniah_": "ruler_niah",
    "custom_sentence_needle_": "sentence_needle",
    "custom_mathqa_choice_": "math_qa_choices",
    "custom_math_": "math",
}
_BATCH = 256  # rows of a parquet row group


class Records(Source):
    """A Source over JSON Lines, JSON arrays and parquet alike, by what a file begins with."""

    def _decoded(self) -> Iterator[Located]:
        for path in self.paths:
            yield from self._file(path)

    def _file(self, path: str) -> Iterator[Located]:
        real = self._spools[path].name if path in self._spools else path
        for where, record in self._raw(real, "<stdin>" if path == "-" else path):
            if isinstance(record, BadInput):
                self._tolerate(record)
            elif isinstance(record, dict):
                yield where, record
            else:
                self._tolerate(BadInput(f"{where}: expected a JSON object"))

    def _raw(self, real: str, name: str) -> Iterator[tuple[str, Any]]:
        container = items.container_of(real)
        if container == "parquet":
            yield from items.read_parquet(real)
        elif container == "array":
            yield from ((name + where.removeprefix(real), record) for where, record in items.read_array(real))
        else:
            for number, line in read_lines(real):
                where = f"{name}:{number}"
                try:
                    yield where, decode_line(where, line)
                except BadInput as error:
                    yield where, error


class Settings(NamedTuple):
    """template: of the prompts, to find the text within them; None tries the built-in ones. carry: write `task`.

    model, sampling: of the requests.
    """

    split: str = "train"
    data_source: str | None = None
    template: str | None = None
    carry: bool = True
    model: str = "model"
    sampling: Mapping[str, Any] = MappingProxyType({})


class _Pair(msgspec.Struct):
    key: str
    value: str | list[str]
    offset: int
    length: int


class _Needle(msgspec.Struct):
    token: int


class _Meta(msgspec.Struct):
    """What the writers read of a row's meta."""

    question: str | None = None
    source: str | None = None
    data_source: str | None = None
    kind: str | None = None
    match: str | None = None
    head: str | None = None
    tokens: int | None = None
    reserve: int | None = None
    pairs: list[_Pair] | None = None
    needles: list[_Needle] | None = None
    anchor: int | None = None
    gold_tokens: list[int] | None = None


class _Row(msgspec.Struct):
    meta: _Meta | None = None
    answer: str | list[str] | None = None


# ---------------------------------------------------------------- a record and its long text


def _place(record: Record) -> tuple[Record, str]:
    """What holds the record's long text, its last user turn or its raw prompt, and under which name."""
    if not record.get("messages"):
        return record, "prompt"
    return _last_user(record["messages"]), "content"


def _last_user(turns: Sequence[Record]) -> Record:
    """The turn itself; without one an empty one, which belongs to nothing."""
    return next((turn for turn in reversed(turns) if turn.get("role") == "user"), {})


def text_of(where: str, record: Record) -> str:
    holder, name = _place(record)
    found = holder.get(name)
    if not isinstance(found, str):
        raise BadInput(f"{where}: messages: expected text in the last user turn; this form holds nothing else")
    return found


def shell(record: Record) -> str:
    """The record as JSON text, its long text null."""
    bare = {**record}
    if record.get("messages"):
        bare["messages"] = [dict(turn) for turn in record["messages"]]
    holder, name = _place(bare)
    if isinstance(holder.get(name), str):
        holder[name] = None
    return json.dumps(bare, ensure_ascii=False)


def filled(where: str, task: Any, text: Any) -> Record:
    """A `shell` with its text put back."""
    try:
        record = json.loads(task)
        holder, name = _place(record)
        if holder.get(name) is None:
            holder[name] = text
    except (TypeError, ValueError, AttributeError):
        raise BadInput(
            f"{where}: task: expected a record as JSON text, as `keychain-synth convert` writes it"
        ) from None
    return record


def answers_of(record: Record) -> list[str]:
    answer = record.get("answer")
    return [] if answer is None else [answer] if isinstance(answer, str) else list(answer)


def question_of(record: Record) -> str:
    """The short question where the row tells it, else all the user says."""
    return (record.get("meta") or {}).get("question") or shapes.question_of(record)


def data_source(where: str, record: Record, given: str | None = None) -> str:
    """What selects the reward: as given, as in `meta`, or by what the row is. Raises BadInput."""
    meta = record.get("meta") or {}
    found = given or meta.get("data_source")
    if found:
        return found
    if meta.get("needles") is not None:
        return f"custom_rulerniah_{meta.get('kind') or 'needle'}"
    if meta.get("pairs") is not None:
        return f"custom_longcontext{'_needle_qa' if meta['pairs'] else 'qa'}_{meta.get('source') or 'qa'}"
    raise BadInput(
        f"{where}: meta.data_source: nothing says which reward this row has; give --data-source, such as custom_math_x"
    )


def ability(source: str) -> str:
    return next((name for prefix, name in ABILITIES.items() if source.startswith(prefix)), "other")


class Frame(NamedTuple):
    """A prompt in three parts: the text to be read, and what stands before and behind it."""

    before: str
    context: str
    after: str


def frame(where: str, record: Record, template: str | None) -> Frame:
    """Where in the prompt its text stands, by the template it was made from. Raises BadInput."""
    text, meta = text_of(where, record), record.get("meta") or {}
    for each in (CHAIN, TREE, PLAIN) if template is None else (template,):
        before, after = (
            Template(part).safe_substitute(head=meta.get("head"), question=meta.get("question"))
            for part in re.split(r"\$(?:context\b|\{context\})", each, maxsplit=1)
        )
        if text.startswith(before) and text.endswith(after) and len(text) >= len(before) + len(after):
            return Frame(before, text[len(before) : len(text) - len(after)], after)
    raise BadInput(
        f"{where}: the prompt is not of {'the built-in template' if template is None else '--template'}, so that its "
        "text cannot be told from the instruction; give the --template it was made with"
    )


def without_pairs(record: Record, found: Frame) -> str:
    """The context as it was before the chains were put into it, by the offsets in `meta`."""
    pieces, done, shift = [], 0, len(found.before)
    for pair in record["meta"].get("pairs") or ():
        begin = pair["offset"] - shift
        pieces.append(found.context[done:begin])
        done = begin + pair["length"]
    return "".join([*pieces, found.context[done:]])


def _length(record: Record) -> int:
    """Tokens with the reserve, as RULER and KeyChain count them; -1 where nobody counted."""
    meta = record.get("meta") or {}
    return -1 if meta.get("tokens") is None else meta["tokens"] + (meta.get("reserve") or 0)


# ---------------------------------------------------------------- writers: (where, index, record, settings) -> line


def _rows(where: str, index: int, record: Record, settings: Settings) -> Record:
    return record


def _verl(where: str, index: int, record: Record, settings: Settings) -> Record:
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in shapes.messages_of(record)]
    if not all(isinstance(turn["content"], str) for turn in turns):
        raise BadInput(f"{where}: messages: expected text in every turn; a verl prompt holds nothing else")
    source = data_source(where, record, settings.data_source)
    # `match` is for our own compute_score; several answers of which all are wanted are otherwise told by the source.
    match = (record.get("meta") or {}).get("match")
    extra = {"split": settings.split, "index": index, "input_question": question_of(record), "match": match}
    if settings.carry:
        extra["task"] = shell(record)
    return {
        "data_source": source,
        "prompt": turns,
        "ability": ability(source),
        "reward_model": {"style": "rule", "ground_truth": answers_of(record)},
        "extra_info": extra,
    }


def _messages(where: str, index: int, record: Record, settings: Settings) -> Record:
    """Samples end in their response; a task's line ends with the user's turn."""
    turns = list(shapes.messages_of(record))
    line: Record = {"messages": turns, "answers": answers_of(record)}
    if "response" in record:
        line["messages"] = [
            *turns,
            {"role": "assistant", "content": with_reasoning(record["response"], record.get("reasoning"))},
        ]
    bare = {name: value for name, value in record.items() if name not in ("response", "reasoning")}
    return {**line, "task": shell(bare)} if settings.carry else line


def _openai_batch(where: str, index: int, record: Record, settings: Settings) -> Record:
    chat = bool(record.get("messages"))
    prompt = {"messages": record["messages"]} if chat else {"prompt": record["prompt"]}
    url = "/v1/chat/completions" if chat else "/v1/completions"
    body = {"model": settings.model, **prompt, **settings.sampling}
    return {"custom_id": record["id"], "method": "POST", "url": url, "body": body}


def _ruler(where: str, index: int, record: Record, settings: Settings) -> Record:
    """`others` is handed on by RULER's own pred/call_api.py, so that `task` comes back with the predictions too."""
    meta = record.get("meta") or {}
    line = {
        "index": index,
        "input": text_of(where, record),
        "outputs": answers_of(record),
        "length": _length(record),
        "length_w_model_temp": _length(record),
        "answer_prefix": "",
        "token_position_answer": _anchor(where, meta),
    }
    return {**line, "others": {"id": record["id"], "task": shell(record)}} if settings.carry else line


def _anchor(where: str, meta: Record) -> int:
    needles, anchor, gold = meta.get("needles"), meta.get("anchor"), meta.get("gold_tokens")
    if not needles:
        return gold[0] if gold else -1
    if anchor is None or not 0 <= anchor < len(needles):
        raise BadInput(f"{where}: meta.anchor: expected the number of one of its {len(needles)} needles")
    return needles[anchor]["token"]


def _longbench(where: str, index: int, record: Record, settings: Settings) -> Record:
    found = frame(where, record, settings.template)
    line = {
        "input": question_of(record),
        "context": found.context,
        "answers": answers_of(record),
        "length": _length(record),
        "dataset": (record.get("meta") or {}).get("source") or "keychain-synth",
        "language": "en",
        "all_classes": None,
        "_id": record["id"],
    }
    return {**line, **_framed(record, found)} if settings.carry else line


def _keychain(where: str, index: int, record: Record, settings: Settings) -> Record:
    found, meta = frame(where, record, settings.template), record.get("meta") or {}
    line = {
        "index": index,
        "input": question_of(record),
        "context": without_pairs(record, found) if meta.get("pairs") else found.context,
        "answers": answers_of(record),
        "length": _length(record),
    }
    if meta.get("pairs"):
        # A text value is another pair's key or a question; a tree's inner values are lists.
        known = {*(pair["key"] for pair in meta["pairs"]), meta.get("question")}
        values = (pair["value"] for pair in meta["pairs"])
        line["distract_questions"] = [each for each in values if isinstance(each, str) and each not in known]
        line["distractor_context"] = found.context
        if meta.get("head") is None:
            raise BadInput(f"{where}: meta.head: expected the key to begin with, is not there")
        line["chain_head_with_question"] = meta["head"]
    return {**line, **_framed(record, found)} if settings.carry else line


def _framed(record: Record, found: Frame) -> Record:
    return {"task": shell(record), "frame": [found.before, found.after]}


WRITERS: dict[str, Callable[[str, int, Record, Settings], Record]] = {
    "rows": _rows,
    "verl": _verl,
    "messages": _messages,
    "openai-batch": _openai_batch,
    "ruler": _ruler,
    "longbench": _longbench,
    "keychain": _keychain,
}


# ---------------------------------------------------------------- readers: (where, number, line) -> record

SIGNS: dict[str, Callable[[Record], bool]] = {
    "verl": lambda r: "reward_model" in r and "prompt" in r,
    "openai-batch": lambda r: "custom_id" in r and "body" in r,
    "ruler": lambda r: "outputs" in r and "input" in r,
    "longbench": lambda r: "context" in r and "input" in r and "_id" in r,
    "keychain": lambda r: "context" in r and "input" in r,
    "rows": lambda r: "id" in r and ("messages" in r or "prompt" in r),
    "messages": lambda r: "messages" in r,
}


def sniff(where: str, line: Record) -> str:
    """The form of a line. Raises BadInput."""
    found = next((form for form, looks_like in SIGNS.items() if looks_like(line)), None)
    if found is None:
        fields = ", ".join(sorted(line)[:8]) or "none"
        raise BadInput(
            f"{where}: no known form; expected rows or one of {', '.join(FORMS[1:])}; found the fields {fields}"
        )
    return found


def _task(identity: Any, prompt: Record, answer: list[str] | None, **meta: Any) -> Record:
    known = {name: value for name, value in meta.items() if value is not None}
    return {"schema": shapes.schema("task"), "id": str(identity), **prompt, "answer": answer, "meta": known}


class _Turn(msgspec.Struct):
    role: str
    content: Any = None


class _Rule(msgspec.Struct):
    ground_truth: str | float | list[str | float | None] | None


class _Extra(msgspec.Struct):
    index: Any = None
    input_question: str | None = None
    match: str | None = None
    task: str | None = None


class _Verl(msgspec.Struct):
    prompt: Annotated[list[_Turn], msgspec.Meta(min_length=1)]
    reward_model: _Rule
    extra_info: _Extra | None = None
    data_source: str = "verl"


class _Chat(msgspec.Struct):
    messages: Annotated[list[_Turn], msgspec.Meta(min_length=1)]
    answers: list[str] | None = None
    id: str | int | None = None
    task: str | None = None


class _Body(msgspec.Struct):
    messages: list[_Turn] | None = None
    prompt: str | None = None


class _Batched(msgspec.Struct):
    custom_id: str | int
    body: _Body


class _Others(msgspec.Struct):
    id: str | int | None = None
    task: str | None = None


class _Ruler(msgspec.Struct):
    input: str
    outputs: list[str | float]
    index: int | None = None
    length: int | None = None
    answer_prefix: str | None = None
    others: _Others | None = None


class _Context(msgspec.Struct):
    """LongBench's lines and KeyChain's."""

    input: str
    context: str
    answers: list[str] | None = None
    distractor_context: str | None = None
    chain_head_with_question: str | None = None
    dataset: str | None = None
    id: str | int | None = None
    index: int | None = None
    task: str | None = None
    frame: tuple[str, str] | None = None


def _line(where: str, line: Record, kind: type[T]) -> T:
    try:
        return checked(line, kind)
    except ValueError as why:
        raise BadInput(f"{where}: {why}") from None


def _from_verl(where: str, number: int, line: Record) -> Record:
    told = _line(where, line, _Verl)
    extra, gold, name = told.extra_info or _Extra(), told.reward_model.ground_truth, told.data_source
    if extra.task:
        return filled(where, extra.task, _last_user(line["prompt"]).get("content"))
    answer = None if gold is None else _texts(gold if isinstance(gold, list) else [gold])
    several = "all" if name.startswith("custom_rulerniah_") and len(answer or ()) > 1 else extra.match
    identity = f"{name}-{number if extra.index is None else extra.index}"
    prompt = {"messages": line["prompt"]}
    return _task(identity, prompt, answer, data_source=name, question=extra.input_question, match=several)


def _texts(values: Sequence[str | float | None]) -> list[str]:
    """Answers as text; a whole number that came as a float as it is written."""
    return [str(int(each)) if isinstance(each, float) and each.is_integer() else str(each) for each in values
            if each is not None]  # fmt: skip


def _from_messages(where: str, number: int, line: Record) -> Record:
    """A line that ends in an assistant's turn is a sample; it is number 0 of its task, as nothing counts them."""
    told, turns = _line(where, line, _Chat), line["messages"]
    response: Record = {}
    if turns[-1]["role"] == "assistant":
        turns, response = turns[:-1], {"sample": 0, "response": turns[-1].get("content") or ""}
    if told.task:
        record = filled(where, told.task, _last_user(turns).get("content"))
        # A task's own last turn may be the assistant's, too: the beginning of an answer.
        if response and "sample" not in record:
            return {**record, "messages": line["messages"]}
        return {**record, "response": response["response"]} if response else record
    record = _task(number if told.id is None else told.id, {"messages": turns}, told.answers)
    return {**record, "schema": shapes.schema("sample"), **response} if response else record


def _from_openai_batch(where: str, number: int, line: Record) -> Record:
    body = _line(where, line, _Batched).body
    if body.messages is None and body.prompt is None:
        raise BadInput(f"{where}: body: expected messages or prompt in it; results of a batch are for `score`")
    prompt = {name: line["body"][name] for name in ("messages", "prompt") if name in line["body"]}
    return {"schema": shapes.schema("task"), "id": str(line["custom_id"]), **prompt}


def _from_ruler(where: str, number: int, line: Record) -> Record:
    """RULER's `input` is the prompt as the model sees it, its chat template included: a raw prompt."""
    told = _line(where, line, _Ruler)
    others = told.others or _Others()
    if others.task:
        return filled(where, others.task, told.input)
    answer = _texts(told.outputs)
    names = (others.id, told.index, number)
    return _task(
        next(each for each in names if each is not None), {"prompt": told.input}, answer, match="all" if len(answer) > 1 else None,
        length=told.length, answer_prefix=told.answer_prefix or None,
    )  # fmt: skip


def _from_context(where: str, number: int, line: Record) -> Record:
    """LongBench and KeyChain: a text and a question, put into our template; the file has no instruction of its own."""
    told = _line(where, line, _Context)
    head = told.chain_head_with_question
    context = told.distractor_context if head else told.context
    if context is None:
        raise BadInput(f"{where}: distractor_context: expected, is not there")
    if told.task:
        before, after = told.frame or ("", "")
        return filled(where, told.task, before + context + after)
    text = Template(CHAIN if head else PLAIN).substitute(context=context, head=head, question=told.input)
    turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
    names = (told.id, line.get("_id"), told.index, number)
    return _task(
        next(each for each in names if each is not None), {"messages": turns}, told.answers, question=told.input,
        source=told.dataset, head=head,
    )  # fmt: skip


READERS: dict[str, Callable[[str, int, Record], Record]] = {
    "rows": lambda where, number, line: line,
    "verl": _from_verl,
    "messages": _from_messages,
    "openai-batch": _from_openai_batch,
    "ruler": _from_ruler,
    "longbench": _from_context,
    "keychain": _from_context,
}


def read(where: str, number: int, line: Record, form: str = "auto") -> Record:
    """One line of any form as a task record; number: of the line, where nothing else names it. Raises BadInput."""
    seen = sniff(where, line) if form == "auto" else form
    if form != "auto" and not SIGNS[form](line):
        raise BadInput(
            f"{where}: --from {form}: this line is of another form; found the fields {', '.join(sorted(line)[:8])}"
        )
    record = READERS[seen](where, number, line)
    try:
        shapes.validate(record, "sample" if "response" in record else "task")
    except shapes.RecordProblem as problem:
        raise BadInput(f"{where}: {problem}") from None
    _line(where, record, _Row)
    return record


# ---------------------------------------------------------------- parquet


class Parquet:
    """Writes verl's columns to a stream, a row group for so many lines."""

    def __init__(self, path: str) -> None:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise Missing(f"{path}: parquet files need pyarrow: pip install 'keychain-synth[parquet]'") from None
        text, texts = pyarrow.string(), pyarrow.list_(pyarrow.string())
        turn = pyarrow.struct([("role", text), ("content", text)])
        extra = pyarrow.struct(
            [("split", text), ("index", pyarrow.int64()), ("input_question", text), ("match", text), ("task", text)]
        )
        self.schema = pyarrow.schema([
            ("data_source", text), ("prompt", pyarrow.list_(turn)), ("ability", text),
            ("reward_model", pyarrow.struct([("style", text), ("ground_truth", texts)])), ("extra_info", extra),
        ])  # fmt: skip
        self._table, self._writer = pyarrow.Table.from_pylist, parquet.ParquetWriter
        self._waiting: list[Record] = []
        self._file: Any = None

    def open(self, stream: Any) -> Parquet:
        self._file = self._writer(stream, self.schema)
        return self

    def write(self, line: Record) -> None:
        self._waiting.append(line)
        if len(self._waiting) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._file.write_table(self._table(self._waiting, schema=self.schema))
            self._waiting = []

    def close(self) -> None:
        self._flush()
        self._file.close()


class _Binary(Output):
    """An Output whose bytes are no lines; its lock, its manifest and its rename."""

    @property
    def stream(self) -> Any:
        return self._stream


# ---------------------------------------------------------------- the verb


def _drawn(source: Source, count: int, seed: int) -> Iterator[tuple[int, Located]]:
    """(index, record) of `count` records, in the order of `shuffle(seed).select(range(count))` of datasets."""
    import numpy as np

    total = source.count()
    assert total is not None  # the source keeps stdin
    order = np.random.default_rng(seed).permutation(total)[:count].tolist()
    wanted = set(order)
    found = {index: located for index, located in enumerate(source) if index in wanted}
    yield from ((index, found[index]) for index in order)


def run(
    files: Sequence[str],
    selection: Selection,
    *,
    to: str,
    form: str,
    split: str,
    sample: int | None,
    seed: int,
    source_name: str | None,
    template: str | None,
    carry: bool,
    request_model: str,
    sampling: Record,
    output: str | None,
    overwrite: bool,
    quiet: bool,
) -> int:
    """The verb; returns the exit code. sample: so many records drawn with seed, as LoongRL draws its valid.parquet."""
    settings = Settings(
        split, source_name,
        read_template(template, "", {"context", "head", "question"}, "context") if template else None,
        carry, request_model, {name: value for name, value in sampling.items() if value is not None},
    )  # fmt: skip
    parquet = None
    if output is not None and re.search(r"\.parquet\.(gz|zst)$", output):
        raise BadInput(f"{output}: parquet is packed inside; leave the last suffix out")
    if output is not None and output.lower().endswith(".parquet"):
        if to != "verl":
            raise BadInput(f"{output}: only --to verl is written as parquet; give {to} a name that ends in .jsonl")
        parquet = Parquet(output)

    def expand(located: Iterable[Located]) -> Iterator[Located]:
        for number, (where, line) in enumerate(located):
            try:
                yield where, read(where, number, line, form)
            except BadInput as error:
                source._tolerate(error)

    source = Records(
        files, None, expand=expand, ids=selection.ids, limit=selection.limit, shard=selection.shard,
        skip_bad=selection.skip_bad, keep=output is not None or sample is not None,
    )  # fmt: skip
    decides = {
        **settings._asdict(), "sampling": dict(settings.sampling), **selection.identity(), "to": to, "from": form,
        "sample": sample, "seed": None if sample is None else seed,
    }  # fmt: skip
    lines = 0
    seen: set[tuple[str, int | None]] = set()
    twice = unanswered = 0
    with (
        _Binary(output, tool="keychain-synth", version=keychain_synth.__version__, verb="convert", options=decides,
                source=source, overwrite=overwrite) as out,
        Progress("convert", None, "rows", quiet) as progress,
    ):  # fmt: skip
        if out.finished:
            print(f"keychain-synth: {output}: complete already; nothing to do", file=sys.stderr)
            return 0
        numbered = enumerate(source) if sample is None else _drawn(source, sample, seed)
        with closing(parquet.open(out.stream)) if parquet else nullcontext(out) as sink:
            for index, (where, record) in progress.over(numbered):
                try:
                    line = WRITERS[to](where, index, record, settings)
                except BadInput as error:
                    source._tolerate(error)
                    continue
                name = (record["id"], record.get("sample") if to in ("rows", "messages") else None)
                twice += name in seen
                seen.add(name)
                unanswered += to == "verl" and not answers_of(record)
                sink.write(line)
                lines += 1
        out.finish({"read": lines, "written": lines, "skipped_bad": source.bad})
    if twice:
        print(f"keychain-synth: {twice} rows have the id of another one, by which trainers and `mine` tell them apart; "
              "`mix` gives rows ids of their own", file=sys.stderr)  # fmt: skip
    if unanswered:
        print(f"keychain-synth: {unanswered} rows have no answer: their reward is 0 whatever is said", file=sys.stderr)
    if not quiet:
        held = carry and to not in ("rows", "openai-batch")
        told = "`task` holds what it has no field for" if held else f"it does not hold: {LOSES[to]}"
        print(f"keychain-synth: {lines} lines of form {to}; {told}", file=sys.stderr)
    return 0
