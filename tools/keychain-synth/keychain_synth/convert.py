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

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from typing import Any

import keychain_synth
from keychain_synth import items
from keychain_synth.parquet import Parquet
from keychain_synth.readers import read
from keychain_synth.writers import LOSES, WRITERS, Settings, answers_of
from tenfold_shared import BadInput
from tenfold_shared.cli import Selection, read_template
from tenfold_shared.jsonl import Located, Output, Source, decode_line, read_lines
from tenfold_shared.progress import Progress

Record = dict[str, Any]


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


class _Binary(Output):
    """An Output whose bytes are no lines; its lock, its manifest and its rename."""

    @property
    def stream(self) -> Any:
        return self._stream


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
