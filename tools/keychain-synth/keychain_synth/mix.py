"""`keychain-synth mix`: the parts of a training set, drawn, marked and shuffled into the file of each stage.

LoongRL, arXiv 2510.19363 Table 1 and §3.2.2, is the built-in preset: warm-up without chains, I with all parts, II
what `mine` keeps of I. A preset of one's own is a TOML file of the same form as `LOONGRL` below.

Steps: 21,024 rows in batches of 512 are 42 steps, the paper's 168 are 4 epochs. Its warm-up is 42 steps too, which is
one epoch only where plain questions *replace* those with chains (`--warmup-rows replace`); without them (`drop`) 13,524
rows are 27 steps.

A row of chat without a system prompt gets the one that asks for thinking and a box, without which its reward is 0
(paper, A.2); `meta.system_added` says so, as such a row is longer than its `meta.tokens`.

Which rows of a part are taken, and their order, depends on the seed and their ids alone, not on their order in the
files. Rows wait in a temporary file of the size of the input; memory holds their ids.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

import keychain_synth
from keychain_synth.row import read_system
from keychain_synth.writers import answers_of
from tenfold_shared import BadInput
from tenfold_shared import records as shapes
from tenfold_shared.answers import key as answer_key
from tenfold_shared.jsonl import Output, Source, read_text
from tenfold_shared.progress import Progress
from tenfold_shared.records import readable

Record = dict[str, Any]

LOONGRL = """
name = "loongrl"

[training]  # LoongRL §4.1; kl_estimator and the ability to read these rows from its verl scripts
algorithm = "grpo"
rollouts = 8
learning_rate = 1e-6
schedule = "cosine"
batch = { 7B = 512, 14B = 256 }
kl_coefficient = 0.001
kl_estimator = "low_var_kl"
entropy_coefficient = 0.0
gradient_clip = 1.0
temperature = 0.6
top_p = 0.95
max_response_tokens = 4096

[[part]]
name = "keychain-hotpotqa"
rows = 2500
data_source = "custom_longcontext_needle_qa_hotpotqa"
warmup = "qa-hotpotqa"
[[part]]
name = "keychain-musique"
rows = 2500
data_source = "custom_longcontext_needle_qa_musique"
warmup = "qa-musique"
[[part]]
name = "keychain-2wiki"
rows = 2500
data_source = "custom_longcontext_needle_qa_2wikimqa"
warmup = "qa-2wiki"
[[part]]
name = "qa-hotpotqa"
rows = 2500
data_source = "custom_longcontextqa_hotpotqa"
[[part]]
name = "qa-musique"
rows = 2500
data_source = "custom_longcontextqa_musique"
[[part]]
name = "qa-2wiki"
rows = 2500
data_source = "custom_longcontextqa_2wikimqa"
[[part]]
name = "needle-multikey"
rows = 512
data_source = "custom_rulerniah_multikey"
[[part]]
name = "needle-multivalue"
rows = 512
data_source = "custom_rulerniah_multivalue"
[[part]]
name = "math-choice"
rows = 2500
data_source = "custom_mathqa_choice_math"
choices = 4
[[part]]
name = "math"
rows = 2500
data_source = "custom_math_dapo"
"""

STAGES = ("warmup", "1", "2")
_FILES = {"warmup": "warmup.jsonl", "1": "stage1.jsonl", "2": "stage2.jsonl"}
_BATCHES = (512, 256)
_LETTERS = "ABCDEFGHIJ"


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """rows: of the whole set. warmup: the part whose rows stand in for this one's in the warm-up, where it is left out.

    choices: so many options are made of each row's answer and other rows' answers; 0 leaves rows as they are.
    """

    name: str
    rows: int
    data_source: str
    warmup: str | None = None
    choices: int = 0


class Preset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    part: list[Part]
    training: dict[str, Any] = {}

    def scaled(self, scale: float) -> dict[str, int]:
        """Rows of each part at SCALE, at least one."""
        return {part.name: max(1, round(part.rows * scale)) for part in self.part}


def read_preset(name: str) -> Preset:
    """The built-in preset, or that of a TOML file. Raises BadInput."""
    if name == "loongrl":
        return msgspec.toml.decode(LOONGRL, type=Preset)
    if not name.endswith(".toml"):
        raise BadInput(f"--preset {name}: expected loongrl, or a TOML file of parts")
    text = read_text(name)
    try:
        found = msgspec.convert(tomllib.loads(text), Preset)
    except msgspec.ValidationError as error:
        raise BadInput(f"{name}: {readable(error)}") from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is no TOMLDecodeError
        raise BadInput(f"{name}: not TOML: {error}") from None
    names = [part.name for part in found.part]
    for part in found.part:
        if names.count(part.name) > 1:
            raise BadInput(f"{name}: part {part.name}: stands there twice")
        if part.warmup is not None and (part.warmup not in names or part.warmup == part.name):
            raise BadInput(f"{name}: part {part.name}: warmup: expected the name of another part, got {part.warmup!r}")
        if part.rows < 1 or part.choices == 1 or not 0 <= part.choices <= len(_LETTERS):
            raise BadInput(
                f"{name}: part {part.name}: expected rows of at least 1, and 2 to {len(_LETTERS)} choices or 0"
            )
    return found


def stage_counts(preset: Preset, stage: str, warmup: str, rows: Mapping[str, int]) -> dict[str, int]:
    """Rows of each part in the warm-up or in stage I."""
    if stage == "1":
        return dict(rows)
    counts = Counter({part.name: rows[part.name] for part in preset.part if part.warmup is None})
    if warmup == "replace":
        counts.update({part.warmup: rows[part.name] for part in preset.part if part.warmup is not None})
    return dict(counts)


def steps(rows: int) -> Record:
    """Optimizer steps of one epoch by batch size; the last batch is as large as what is left."""
    return {str(batch): math.ceil(rows / batch) for batch in _BATCHES}


# ---------------------------------------------------------------- multiple choice


def _rank(*name: Any) -> bytes:
    return hashlib.blake2b(repr(name).encode(errors="replace"), digest_size=16).digest()


class Choices:
    """Makes multiple choice of tasks with one answer each; the wrong options are other tasks' answers.

    Options of one task differ in value, not only in writing (0.5 and 1/2 are one), and are of its kind where there are
    enough: whole numbers among whole numbers. Which, and in what order, depends on the seed, the task's id and the set
    of answers.
    """

    def __init__(self, answers: Sequence[str], options: int, seed: int) -> None:
        self.options, self.seed = options, seed
        self.pool: dict[str, list[tuple[str, str]]] = {}  # kind -> (value, as written), each value once
        seen: dict[str, str] = {}
        for answer in sorted(answers):
            seen.setdefault(answer_key(answer), answer)
        for value, answer in seen.items():
            self.pool.setdefault(_kind(answer), []).append((value, answer))
        self.others = {kind: [each for other, found in self.pool.items() if other != kind for each in found]
                       for kind in self.pool}  # fmt: skip
        if len(seen) < options:
            raise BadInput(f"{options} choices need as many different answers among the tasks, found {len(seen)}")

    def make(self, record: Record) -> Record:
        [gold] = answers_of(record)
        own, kind = answer_key(gold), _kind(gold)
        draw = random.Random(_rank(self.seed, "choice", record["id"]))
        wrong = self._drawn(draw, self.pool[kind], own, self.options - 1)
        wrong += self._drawn(draw, self.others[kind], own, self.options - 1 - len(wrong))
        at = int.from_bytes(_rank(self.seed, "place", record["id"]), "little") % self.options
        texts = [*wrong[:at], gold, *wrong[at:]]
        lettered = [f"({letter}) {text}" for letter, text in zip(_LETTERS, texts, strict=False)]
        asked = "\n".join([shapes.question_of(record), "", *lettered, "", "Answer with the letter, in parentheses."])
        made = {**record, "answer": [_LETTERS[at]], "meta": {**(record.get("meta") or {}), "choices": texts}}
        if not record.get("messages"):
            return {**made, "prompt": asked}
        turns = [dict(turn) for turn in record["messages"]]
        user = next((turn for turn in reversed(turns) if turn["role"] == "user"), {})
        if not isinstance(user.get("content"), str):
            raise BadInput(f"id {record['id']!r}: messages: expected a user turn of text alone, to make choices of")
        next(turn for turn in reversed(turns) if turn["role"] == "user")["content"] = asked
        return {**made, "messages": turns}

    @staticmethod
    def _drawn(draw: random.Random, pool: Sequence[tuple[str, str]], own: str, count: int) -> list[str]:
        """COUNT different answers of a pool, or all it has, but for the task's own."""
        found = (pool[at] for at in draw.sample(range(len(pool)), min(len(pool), count + 1)))
        return [answer for value, answer in found if value != own][:count]


def _kind(answer: str) -> str:
    value = answer_key(answer)
    return "whole" if re.fullmatch(r"-?\d+", value) else "fraction" if re.fullmatch(r"-?\d+/\d+", value) else "other"


# ---------------------------------------------------------------- rows on disk


class Row(msgspec.Struct, frozen=True):
    offset: int
    size: int
    id: str
    answer: str | None  # where choices are to be made


class Store:
    """Rows by part in a temporary file, read back one by one."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="keychain-synth-mix-")
        self._end = 0
        self.parts: dict[str, list[Row]] = {}

    def put(self, part: str, record: Record, answer: str | None) -> None:
        line = msgspec.json.encode(record)
        self._file.write(line)
        self.parts.setdefault(part, []).append(Row(self._end, len(line), record["id"], answer))
        self._end += len(line)

    def get(self, row: Row) -> Record:
        self._file.seek(row.offset)
        return msgspec.json.decode(self._file.read(row.size))

    def close(self) -> None:
        self._file.close()


def parts_of(words: Sequence[str], preset: Preset) -> dict[str, str]:
    """Part by file, from NAME=FILE words. Raises BadInput."""
    names = [part.name for part in preset.part]
    owner: dict[str, str] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or not path:
            raise BadInput(f"--part {word}: expected NAME=FILE, such as {names[0]}=rows.jsonl")
        if name not in names:
            raise BadInput(f"--part {word}: --preset {preset.name} has no such part; it has {', '.join(names)}")
        if path in owner:
            raise BadInput(f"--part {word}: {path} is given twice")
        owner[path] = name
    return owner


def _place_of(where: str) -> str:
    path = where.rsplit(":", 1)[0]
    return "-" if path == "<stdin>" else path


def stored(source: Source, owner: Mapping[str, str], preset: Preset, system: str | None, progress: Progress) -> Store:
    """The rows of all parts, with their new ids and marks. Raises BadInput for an id that comes twice in a part."""
    store, parts = Store(), {part.name: part for part in preset.part}
    seen: set[tuple[str, str]] = set()
    for where, record in progress.over(source):
        part = parts[owner[_place_of(where)]]
        if (part.name, record["id"]) in seen:
            raise BadInput(f"{where}: id {record['id']!r}: comes twice in part {part.name}")
        seen.add((part.name, record["id"]))
        answer = None
        meta = {**(record.get("meta") or {}), "part": part.name, "data_source": part.data_source}
        if part.choices and "choices" not in meta:
            golds = answers_of(record)
            if len(golds) != 1 or not golds[0].strip():
                raise BadInput(
                    f"{where}: answer: expected one, to make choices of; part {part.name} is multiple choice"
                )
            answer = golds[0]
        turns = record.get("messages")
        if system and turns and not any(turn["role"] == "system" for turn in turns):
            record["messages"] = [{"role": "system", "content": system}, *turns]
            meta["system_added"] = True
        # The same question may stand in two parts; a trainer, and `mine`, tell rows by id.
        store.put(part.name, {**record, "id": f"{part.name}/{record['id']}", "meta": meta}, answer)
    return store


def chosen(
    store: Store, counts: Mapping[str, int], stage: str, seed: int, allow_short: bool
) -> tuple[list[tuple[str, Row]], dict[str, int]]:
    """(rows of a stage in their order, how many of each part). Raises BadInput for a part with too few."""
    rows: list[tuple[str, Row]] = []
    have: dict[str, int] = {}
    short = []
    for part, count in counts.items():
        found = sorted(store.parts.get(part, ()), key=lambda row: _rank(seed, "draw", row.id))[:count]
        if len(found) < count:
            short.append(f"part {part}: needs {count} rows, has {len(found)}")
        rows += [(part, row) for row in found]
        have[part] = len(found)
    if short:
        told = f"{'the warm-up' if stage == 'warmup' else f'stage {stage}'}: {'; '.join(short)}"
        if not allow_short:
            raise BadInput(f"{told}; give more --part files, a smaller --scale, or --allow-short")
        print(f"keychain-synth: {told}; goes on with these", file=sys.stderr)
    rows.sort(key=lambda each: _rank(seed, "order", stage, each[1].id))
    return rows, have


# ---------------------------------------------------------------- the verb


def mined_source(path: str, preset: Preset, skip_bad: int) -> Source:
    """What `mine` kept of stage I. Its rows name their parts."""
    names = {part.name for part in preset.part}

    def checked(located: Iterable[tuple[str, Record]]) -> Iterator[tuple[str, Record]]:
        for where, record in located:
            part = (record.get("meta") or {}).get("part")
            if part not in names:
                raise BadInput(
                    f"{where}: meta.part: expected a part of --preset {preset.name}, got {part!r}; "
                    "--mined is what `mine` kept of stage I's rows"
                )
            yield where, record

    return Source([path], "task", expand=checked, skip_bad=skip_bad, keep=True)


def recipe(preset: Preset, stage: str, warmup: str, scale: float, parts: Mapping[str, int]) -> Record:
    """What a trainer, and a reader, want to know of a stage's file."""
    rows = sum(parts.values())
    return {
        "preset": preset.name, "stage": stage, **({"warmup": warmup} if stage == "warmup" else {}), "scale": scale,
        "rows": rows, "parts": dict(parts), "steps_per_epoch": steps(rows), "training": preset.training,
    }  # fmt: skip


def run(
    *,
    preset: str,
    parts: Sequence[str],
    stage: str,
    warmup: str,
    mined: str | None,
    scale: float,
    system: str | None,
    allow_short: bool,
    skip_bad: int,
    seed: int,
    output: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """The verb; returns the exit code. stage `all` writes a folder: warm-up, I, and II where --mined is given."""
    mixture = read_preset(preset)
    owner = parts_of(parts, mixture)
    stages = [stage] if stage != "all" else ["warmup", "1", *(["2"] if mined else [])]
    if stage == "all" and output in (None, "-"):
        raise BadInput("--stage all: writes a file for each stage; give it a folder, -o FOLDER")
    if "2" in stages and mined is None:
        raise BadInput("--stage 2: is what `keychain-synth mine` keeps of stage I's rows; give it, --mined FILE")
    if mined is not None and "2" not in stages:
        raise BadInput(f"--mined {mined}: belongs to --stage 2 or all")
    if not owner and stages != ["2"]:
        raise BadInput(
            f"--part: expected NAME=FILE for the parts of {preset}: {', '.join(each.name for each in mixture.part)}"
        )
    sources = (
        {}
        if stages == ["2"]
        else dict.fromkeys(("warmup", "1"), Source(list(owner), "task", skip_bad=skip_bad, keep=True))
    )
    if mined is not None:
        sources["2"] = mined_source(mined, mixture, skip_bad)
    rows, prompt = mixture.scaled(scale), read_system(system)
    decides = {
        "preset": msgspec.to_builtins(mixture), "parts": list(owner.values()), "scale": scale, "seed": seed,
        "system_file": prompt, "allow_short": allow_short, "skip_bad": skip_bad,
    }  # fmt: skip
    store: Store | None = None
    told = []
    if output is not None and output.lower().endswith(".parquet"):
        raise BadInput(f"{output}: mix writes JSON Lines; `convert --to verl -o {output}` makes parquet of them")
    if stage == "all":
        folder = Path(str(output))
        if not folder.absolute().parent.is_dir():
            raise BadInput(f"{output}: the folder {folder.parent} does not exist; create it first")
        if folder.exists() and not folder.is_dir():
            raise BadInput(f"{output}: is a file; --stage all wants a folder there")
        folder.mkdir(exist_ok=True)
    try:
        for each in stages:
            target = f"{output}/{_FILES[each]}" if stage == "all" else output
            more = {"stage": each, **({"warmup_rows": warmup} if each == "warmup" else {})}
            with Output(target, tool="keychain-synth", version=keychain_synth.__version__, verb="mix",
                        options={**decides, **more}, source=sources[each], overwrite=overwrite) as out:  # fmt: skip
                if out.finished:
                    print(f"keychain-synth: {target}: complete already; its recipe again", file=sys.stderr)
                    told.append(json.loads(out.manifest_path.read_bytes())["counts"]["recipe"])
                    continue
                if each == "2":
                    have = _write_mined(sources[each], out, seed)
                else:
                    if store is None:
                        with Progress("mix", None, "rows", quiet) as progress:
                            store = stored(sources[each], owner, mixture, prompt, progress)
                    counts = stage_counts(mixture, each, warmup, rows)
                    have = _write(store, mixture, counts, each, seed, allow_short, out)
                found = recipe(mixture, each, warmup, scale, have)
                out.finish({"rows": found["rows"], "skipped_bad": sources[each].bad, "recipe": found}, seed=seed)
                told.append(found)
    finally:
        if store is not None:
            store.close()
    for found in told:
        _tell(found, output, as_json, quiet)
    return 0


def _write(
    store: Store, preset: Preset, counts: Mapping[str, int], stage: str, seed: int, allow_short: bool, out: Output
) -> dict[str, int]:
    rows, have = chosen(store, counts, stage, seed, allow_short)
    makers = {
        part.name: Choices(answers, part.choices, seed)
        for part in preset.part
        if part.choices
        and (answers := [row.answer for row in store.parts.get(part.name, ()) if row.answer is not None])
    }
    unanswered = 0
    for part, row in rows:
        record = store.get(row)
        unanswered += not answers_of(record)
        out.write(makers[part].make(record) if row.answer is not None else record)
    if unanswered:
        print(f"keychain-synth: {unanswered} rows have no answer: their reward is 0 whatever is said", file=sys.stderr)
    return have


def _write_mined(source: Source, out: Output, seed: int) -> dict[str, int]:
    store, have = Store(), Counter[str]()
    try:
        seen: set[str] = set()
        for where, record in source:
            if record["id"] in seen:
                raise BadInput(f"{where}: id {record['id']!r}: comes twice; was a file joined with itself?")
            seen.add(record["id"])
            store.put("2", record, None)
            have[record["meta"]["part"]] += 1
        for row in sorted(store.parts.get("2", ()), key=lambda row: _rank(seed, "order", "2", row.id)):
            out.write(store.get(row))
    finally:
        store.close()
    return dict(sorted(have.items()))


def _tell(found: Record, output: str | None, as_json: bool, quiet: bool) -> None:
    if as_json:
        print(json.dumps(found), file=sys.stderr if output in (None, "-") else sys.stdout)
    if not quiet:
        each = " or ".join(f"{count} in batches of {batch}" for batch, count in found["steps_per_epoch"].items())
        name = "warm-up" if found["stage"] == "warmup" else f"stage {found['stage']}"
        print(f"keychain-synth: {name}: {found['rows']} rows of {len(found['parts'])} parts; steps an epoch: {each}",
              file=sys.stderr)  # fmt: skip
