"""`keychain-synth synth`: questions in, long rows out. row.py makes a row; here are files, processes and the report.

Rows are made by worker processes that share the corpus (corpus.py) and know nothing of each other; each gets a question's
index and gives back a finished row or the reason why there is none. So workers, shards and kills change no byte.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import shutil
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

import keychain_synth
from keychain_synth import cluster
from keychain_synth.corpus import Corpus, build, identity
from keychain_synth.row import CHAIN, PLAIN, SYSTEM, TREE, RowMaker, Shape, Unfit
from keychain_synth.tokens import Tokenizer
from tenfold_shared import BadInput
from tenfold_shared.cli import Selection, read_template
from tenfold_shared.jsonl import Output, Source, flow, open_read
from tenfold_shared.pool import Pool, PoolError
from tenfold_shared.progress import Progress

Record = dict[str, Any]

_SECONDS = 120  # a row may take, and a second more for each thousand tokens


class Questions(Source):
    """The items of a corpus as `flow` reads records: selected by ids, limit and shard, in the order of the files."""

    def __init__(self, inputs: list[dict[str, str]], selection: Selection) -> None:
        super().__init__([each["path"] for each in inputs], None)
        self.inputs, self.selection = inputs, selection
        self.corpus: Corpus | None = None

    def identity(self) -> list[dict[str, str]]:
        return self.inputs

    def chosen(self) -> list[int]:
        assert self.corpus is not None
        indices = list(range(self.corpus.n_items))
        if self.selection.ids:
            wanted = set(open_read(self.selection.ids).read().decode().split("\n")) - {""}
            indices = [index for index in indices if self.corpus.entry(index).id in wanted]
        if self.selection.limit is not None:
            indices = indices[: self.selection.limit]
        if self.selection.shard:
            part, parts = self.selection.shard
            indices = indices[(part - 1) * len(indices) // parts : part * len(indices) // parts]
        return indices

    def __iter__(self) -> Iterator[tuple[str, Record]]:
        assert self.corpus is not None
        for index in self.chosen():
            name = self.corpus.entry(index).id
            yield name, {"id": name, "index": index}


# ---------------------------------------------------------------- one row, in a process of its own


@lru_cache(maxsize=1)
def _maker(job: str) -> RowMaker:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a process a core, not a thread a core in each
    found = json.loads(job)
    return RowMaker(
        Corpus(Path(found["corpus"])), Tokenizer(found["tokenizer"]), msgspec.convert(found["shape"], Shape)
    )


def work(given: Record) -> Record:
    """Pool target: {job, index, length} to {row} or {unfit: [reason, detail]}."""
    try:
        return {"row": _maker(given["job"]).make(given["index"], given["length"])}
    except Unfit as why:
        return {"unfit": list(why.args)}


def execute(job: str, workers: int, requests: Iterator[tuple[str, Record]]) -> Iterator[tuple[str, Record]]:
    """Results in the order of the requests."""
    if workers == 1:
        for key, request in requests:
            yield key, work({"job": job, **request})
        return
    with (
        Pool("keychain_synth.synth:work", workers) as pool,
        concurrent.futures.ThreadPoolExecutor(workers) as threads,
    ):

        def call(request: Record) -> Record:
            return pool.call({"job": job, **request}, _SECONDS + request["length"] / 1000)

        waiting: deque[tuple[str, concurrent.futures.Future[Record]]] = deque()
        try:
            for key, request in requests:
                waiting.append((key, threads.submit(call, request)))
                while waiting and (len(waiting) >= 2 * workers or waiting[0][1].done()):
                    first, future = waiting.popleft()
                    yield first, _outcome(first, future)
            while waiting:
                first, future = waiting.popleft()
                yield first, _outcome(first, future)
        finally:
            pool.close()  # or the threads would wait for rows that nobody wants any more


def _outcome(key: str, future: concurrent.futures.Future[Record]) -> Record:
    try:
        return future.result()
    except PoolError as error:
        return {"unfit": ["failed", f"{type(error).__name__}: {error}"], "error": str(error)}


# ---------------------------------------------------------------- the verb


def settings(structure: str, plain: bool, decoys: str, template: str | None, system: str | None, **more: Any) -> Shape:
    """Options as a Shape. Raises BadInput for what contradicts itself."""
    kind, _, number = decoys.partition(":")
    if kind not in ("plain", "near", "answerable") or (kind == "answerable") != bool(number):
        raise BadInput(f"--decoys {decoys}: expected plain, near or answerable:M")
    if number and not (number.isdigit() and int(number) > 0):
        raise BadInput(f"--decoys {decoys}: expected a number of decoys of at least 1 behind the colon")
    if structure == "tree" and more["hops"] > 10:
        raise BadInput(f"--hops {more['hops']}: a tree of more than 10 levels has more than 512 pairs; lower it")
    built_in = PLAIN if plain else TREE if structure == "tree" else CHAIN
    text = read_template(template, built_in, {"context", "question"} if plain else {"context", "head", "question"},
                         "context")  # fmt: skip
    told = SYSTEM if system is None else None if system == "none" else open_read(system).read().decode()
    return Shape(structure=structure, plain=plain, decoys=kind, answerable=int(number or 0), template=text, system=told,
                 **more)  # fmt: skip


def _spooled(path: str, folder: Path) -> str:
    """Standard input as a file: it is read twice, for its hash and for what it holds."""
    if path != "-":
        return path
    target = folder / "stdin"
    with open(target, "wb") as file:
        shutil.copyfileobj(open_read("-"), file)
    return str(target)


def run(
    files: Sequence[str],
    selection: Selection,
    shape: Shape,
    *,
    form: str,
    pools: Sequence[str],
    tokenizer: str,
    lengths: Sequence[int],
    max_drop_rate: float,
    workers: int,
    ray: str | None,
    output: str | None,
    overwrite: bool,
    max_time: float | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """The verb; returns the exit code: 1 where more than max_drop_rate of the questions made no row."""
    if selection.skip_bad:
        raise BadInput("--skip-bad: questions that cannot be used are dropped and counted here; see --max-drop-rate")
    if selection.shard and (not files or "-" in files):
        raise BadInput("--shard: needs files, because the input is counted first; stdin cannot be")
    words = Tokenizer(tokenizer)
    if shape.messages and not words.chats:
        raise BadInput(f"--tokenizer {tokenizer}: has no chat template; --prompt writes raw prompts instead")
    if words.longest and max(lengths) > words.longest:
        print(f"keychain-synth: --length {max(lengths)}: the tokenizer says that its model takes {words.longest} tokens; "
              f"rows are made all the same", file=sys.stderr)  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="keychain-synth-") as folder:
        questions = [_spooled(path, Path(folder)) for path in files or ("-",)]
        inputs = identity([*questions, *pools])
        for given, entry in zip(files or ("-",), inputs, strict=False):
            entry["path"] = given
        decides = {
            **msgspec.to_builtins(shape), **selection.identity(), "format": form, "lengths": list(lengths),
            "pools": len(pools), "tokenizer": words.digest,
        }  # fmt: skip
        source = Questions(inputs, selection)
        with Output(output, tool="keychain-synth", version=keychain_synth.__version__, verb="synth", options=decides,
                    source=source, overwrite=overwrite) as out:  # fmt: skip
            if out.finished:
                print(f"keychain-synth: {output}: complete already; nothing to do", file=sys.stderr)
                return 0
            try:
                corpus, _ = build(questions, pools, form, words, quiet)
            except BadInput as error:
                raise BadInput(str(error).replace(f"{folder}/stdin", "<stdin>")) from None
            source.corpus = corpus
            _check(corpus, shape, lengths)
            report = Report(corpus, words, lengths, shape.reserve)
            job = json.dumps({"corpus": str(corpus.folder), "tokenizer": str(words.folder),
                              "shape": msgspec.to_builtins(shape)})  # fmt: skip
            total = len(source.chosen()) * len(lengths)
            with Progress("synth", total, "rows", quiet) as progress:
                done = flow(
                    source,
                    identify=lambda record: record["id"],
                    plan=lambda where, record: [
                        (f"@{length}", {"index": record["index"], "length": length}) for length in lengths
                    ],
                    execute=lambda requests: (
                        cluster.execute(ray, job, workers, requests)
                        if ray
                        else execute(job, min(workers, max(1, total)), requests)
                    ),
                    assemble=lambda record, results: report.rows(record, results, quiet),
                    out=out,
                    max_time=max_time,
                    progress=progress,
                )
            summary = report.summary()
            code = out.complete(done, source, seed=shape.seed, **summary)
    if as_json:
        print(json.dumps(summary), file=sys.stderr if output is None else sys.stdout)
    if not quiet:
        print(f"keychain-synth: {summary['rows']} rows, {summary['unfit']} questions made none", file=sys.stderr)
    if summary["short"]:
        print(f"keychain-synth: {summary['short']} rows fill less than nine tenths of their length: the documents are "
              f"used up; --pool adds more", file=sys.stderr)  # fmt: skip
    if summary["drop_rate"] > max_drop_rate:
        print(f"keychain-synth: {summary['drop_rate']:.1%} of the questions made no row, more than --max-drop-rate "
              f"{max_drop_rate:.1%}", file=sys.stderr)  # fmt: skip
        return 1
    return code


def _check(corpus: Corpus, shape: Shape, lengths: Sequence[int]) -> None:
    most = max(shape.n_chains(length) for length in lengths)
    if most > corpus.about["questions"]:
        raise BadInput(
            f"--chains-per-k: {most} chains at {max(lengths)} tokens need as many different questions, the files have "
            f"{corpus.about['questions']}; lower it (--chains-per-k, --chains) or add question files"
        )
    if not shape.plain and shape.answerable >= min(shape.n_chains(length) for length in lengths):
        raise BadInput(f"--decoys answerable:{shape.answerable}: there are fewer decoys than that")


class Report:
    """What the manifest and --json say of a run."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, lengths: Sequence[int], reserve: int) -> None:
        self.corpus, self.tokenizer, self.lengths, self.reserve = corpus, tokenizer, lengths, reserve
        self.unfit: Counter[str] = Counter()
        self.tokens: list[tuple[int, int]] = []

    def rows(self, record: Record, results: Sequence[Record], quiet: bool) -> list[Record]:
        made = []
        for length, result in zip(self.lengths, results, strict=True):
            if "row" in result:
                row = result["row"]
                if len(self.lengths) > 1:
                    row = {**row, "id": f"{row['id']}@{length}"}
                made.append(row)
                self.tokens.append((length, row["meta"]["tokens"]))
                continue
            reason, detail = result["unfit"]
            self.unfit[reason] += 1
            if not quiet:
                print(f"keychain-synth: {record['id']}: no row at {length}: {detail}", file=sys.stderr)
        return made

    def summary(self) -> Record:
        """rows, dropped and unfit with their reasons, and a histogram of tokens in tenths of each length.

        short: rows that fill less than nine tenths of what the reserve leaves, for want of documents.
        """
        dropped = self.corpus.about["dropped"]
        tried = len(self.tokens) + self.unfit.total()
        lost = self.unfit.total() + sum(dropped.values()) * len(self.lengths)
        histogram = Counter(f"{length}: {10 * tokens // length / 10:.1f}" for length, tokens in self.tokens)
        return {
            "rows": len(self.tokens),
            "short": sum(tokens < 0.9 * (length - self.reserve) for length, tokens in self.tokens),
            "unfit": self.unfit.total(),
            "unfit_reasons": dict(sorted(self.unfit.items())),
            "dropped": dropped,
            "drop_rate": lost / max(1, tried + sum(dropped.values()) * len(self.lengths)),
            "documents": self.corpus.about["documents"],
            "questions": self.corpus.about["questions"],
            "tokenizer": {"name": self.tokenizer.name, "sha256": self.tokenizer.digest},
            "tokens_of_length": dict(sorted(histogram.items())),
        }
