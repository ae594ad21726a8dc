"""`keychain-synth synth`: questions in, long rows out. row.py makes a row; here are files, processes and the report.

Rows are made by worker processes that share the corpus (corpus.py) and know nothing of each other; each gets a question's
index and gives back a finished row or the reason why there is none. So workers, shards and kills change no byte.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import shutil
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from string import Template
from typing import Any

import msgspec

import keychain_synth
from keychain_synth import cluster
from keychain_synth.corpus import PAIR_LIKE, UNCOUNTED, Corpus, build, identity
from keychain_synth.resolver import KEY
from keychain_synth.row import CHAIN, PLAIN, TREE, RowMaker, Shape, Unfit, read_system
from keychain_synth.tokens import Tokenizer
from tenfold_shared import BadInput
from tenfold_shared.cli import Selection, read_template
from tenfold_shared.jsonl import Output, Source, flow, is_pipe, open_read, read_ids
from tenfold_shared.pool import Pool, PoolError
from tenfold_shared.progress import Progress

Record = dict[str, Any]

_LONGEST = 1 << 24  # tokens
_NAMED = 200  # drops in the manifest
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
            wanted = read_ids(self.selection.ids)
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
    if number and not (number.isascii() and number.isdigit() and len(number) < 10 and int(number) > 0):
        raise BadInput(f"--decoys {decoys}: expected a number of decoys of at least 1 behind the colon")
    if structure == "tree" and more["hops"] > 10:
        raise BadInput(f"--hops {more['hops']}: a tree of more than 10 levels has more than 512 pairs; lower it")
    built_in = PLAIN if plain else TREE if structure == "tree" else CHAIN
    needed = "question" if plain else "head"
    text = read_template(template, built_in, {"context", needed}, "context")
    _check_template(template, text, needed)
    return Shape(structure=structure, plain=plain, decoys=kind, answerable=int(number or 0), template=text,
                 system=read_system(system),
                 **more)  # fmt: skip


def _check_template(name: str | None, text: str, needed: str) -> None:
    """Raises BadInput for a template of which no row could be told apart from its documents."""
    places = [found for found in Template.pattern.finditer(text) if found["named"] or found["braced"]]
    fields = [found["named"] or found["braced"] for found in places]
    if needed not in fields:
        raise BadInput(f"--template {name}: expected ${needed} in it; without it no prompt would ask for anything")
    if fields.count("context") > 1:
        raise BadInput(f"--template {name}: expected $context once, found it {fields.count('context')} times")
    own = Template(text).substitute(context="\x00", **{needed: "\x01"})
    if not re.search(r"(?:^|\n)\x00", own):
        raise BadInput(f"--template {name}: expected $context at the beginning of a line, as passages have headers")
    if needed == "head" and not re.search(r"(?<![\w-])\x01(?![\w-])", own):
        raise BadInput(f"--template {name}: expected $head to stand alone, as a word or in quotes")
    if PAIR_LIKE.search(own) and re.search(rf'\{{\s*"(?:{KEY.pattern})"', own):
        raise BadInput(f"--template {name}: holds a pair of its own, which would pass for one of the text's")
    if re.search(r"^Passage \d+:$", own, re.MULTILINE):
        raise BadInput(f"--template {name}: holds a passage's header of its own")


def refuse_overwriting(output: str | None, paths: Sequence[str | None]) -> None:
    """Raises BadInput where the output is one of the files that are read."""
    if output is not None and any(path is not None and _same(path, output) for path in paths):
        raise BadInput(f"-o {output}: is one of the input files; choose another output")


def _spooled(path: str, folder: Path, at: int) -> str:
    """Standard input, or a pipe by name as `<(...)` in a shell is, as a file: it is read twice, for its hash and for
    what it holds."""
    if path != "-" and not is_pipe(path):
        return path
    target = folder / str(at)
    with open(target, "wb") as file:
        shutil.copyfileobj(open_read(path), file)
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
    if max(lengths) > _LONGEST:
        raise BadInput(f"--length {max(lengths)}: expected at most {_LONGEST}")
    if selection.skip_bad:
        raise BadInput("--skip-bad: questions that cannot be used are dropped and counted here; see --max-drop-rate")
    if selection.shard and (not files or "-" in files):
        raise BadInput("--shard: needs files, because the input is counted first; stdin cannot be")
    words = Tokenizer(tokenizer)
    if shape.messages:
        if not words.chats:
            raise BadInput(f"--tokenizer {tokenizer}: has no chat template; --prompt writes raw prompts instead")
        system = [{"role": "system", "content": shape.system}] if shape.system else []
        # What the template refuses, or changes, is told before anything is read.
        sample = 'Which "question" is it, {"00000000": "x"}?\n' * 9
        words.place_of(sample, words.render([*system, {"role": "user", "content": sample}]))
    if words.longest and max(lengths) > words.longest:
        print(f"keychain-synth: --length {max(lengths)}: the tokenizer says that its model takes {words.longest} tokens; "
              f"rows are made all the same", file=sys.stderr)  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="keychain-synth-") as folder:
        given = [*(files or ("-",)), *pools]
        real = [_spooled(path, Path(folder), at) for at, path in enumerate(given)]
        inputs = [{**entry, "path": path} for path, entry in zip(given, identity(real), strict=True)]
        of_shape = msgspec.to_builtins(shape)
        of_shape["system_file"] = of_shape.pop("system")  # named as the option is
        decides = {
            **of_shape, **selection.identity(), "form": form, "length": list(lengths),
            "pools": len(pools), "tokenizer": words.digest,
            "chat_template": words.template_digest if shape.messages else None,
        }  # fmt: skip
        source = Questions(inputs, selection)
        with Output(output, tool="keychain-synth", version=keychain_synth.__version__, verb="synth", options=decides,
                    source=source, overwrite=overwrite) as out:  # fmt: skip
            if out.finished:
                print(f"keychain-synth: {output}: complete already; nothing to do", file=sys.stderr)
                summary = json.loads(out.manifest_path.read_bytes())["counts"]
                if as_json:
                    print(json.dumps(summary))
                return _verdict(summary, max_drop_rate)

            def named(text: str) -> str:
                for path, copy in zip(given, real, strict=True):
                    text = text.replace(copy, "<stdin>" if path == "-" else path)
                return text

            try:
                corpus = build(real[: len(files) or 1], real[len(files) or 1 :], form, words, quiet, inputs)
            except BadInput as error:
                raise BadInput(named(str(error))) from None
            source.corpus = corpus
            _check(corpus, shape, lengths)
            shown = ["<stdin>" if path == "-" else path for path in given]
            drops = [{"where": shown[each["file"]] + each["place"], "id": each["id"], "reason": each["reason"],
                      "detail": each["detail"]} for each in corpus.about["drops"]]  # fmt: skip
            for drop in () if quiet else drops:
                print(f"keychain-synth: {drop['where']}: dropped: {drop['detail']}", file=sys.stderr)
            if selection.ids:
                _unknown(corpus, selection.ids)
            report = Report(corpus, drops, words, lengths, shape.reserve)
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
        print(json.dumps(summary), file=sys.stderr if output in (None, "-") else sys.stdout)
    if not quiet:
        print(f"keychain-synth: {summary['rows']} rows, {summary['unfit']} questions made none", file=sys.stderr)
    if summary["short"]:
        print(f"keychain-synth: {summary['short']} rows fill less than nine tenths of their length: no other document "
              f"fits into them (a title stands in a row once); --pool adds more", file=sys.stderr)  # fmt: skip
    return _verdict(summary, max_drop_rate) or code


def _verdict(summary: Record, max_drop_rate: float) -> int:
    """The exit code for what a run, or its manifest, says was dropped."""
    if summary["drop_rate"] <= max_drop_rate + 1e-9:  # a share of counts: 1 of 20 is 0.05
        return 0
    print(f"keychain-synth: {summary['drop_rate']:.1%} of the questions made no row, more than --max-drop-rate "
          f"{max_drop_rate:.1%}", file=sys.stderr)  # fmt: skip
    return 1


def _same(path: str, output: str) -> bool:
    return path != "-" and os.path.exists(path) and os.path.exists(output) and os.path.samefile(path, output)


def _unknown(corpus: Corpus, path: str) -> None:
    """Say which ids of --ids no question has. Raises BadInput where none has any."""
    wanted = read_ids(path)
    if not wanted:
        raise BadInput(f"--ids {path}: is empty")
    missing = wanted - {corpus.entry(index).id for index in range(corpus.n_items)}
    if missing and missing == wanted:
        raise BadInput(f"--ids {path}: none of its {len(wanted)} ids is one of the questions', such as {min(wanted)!r}")
    if missing:
        print(f"keychain-synth: --ids {path}: {len(missing)} ids are no question's, such as {min(missing)!r}",
              file=sys.stderr)  # fmt: skip


def _check(corpus: Corpus, shape: Shape, lengths: Sequence[int]) -> None:
    most = max(shape.n_chains(length) for length in lengths)
    if most > corpus.about["questions"]:
        raise BadInput(
            f"--chains: {most} chains at {max(lengths)} tokens need as many different questions, the files have "
            f"{corpus.about['questions']}; lower it (--chains-per-k, --chains) or add question files"
        )
    if not shape.plain and shape.answerable >= min(shape.n_chains(length) for length in lengths):
        raise BadInput(f"--decoys answerable:{shape.answerable}: there are fewer decoys than that")


class Report:
    """What the manifest and --json say of a run."""

    def __init__(
        self, corpus: Corpus, drops: Sequence[Record], tokenizer: Tokenizer, lengths: Sequence[int], reserve: int
    ) -> None:
        self.corpus, self.drops, self.tokenizer, self.lengths, self.reserve = corpus, drops, tokenizer, lengths, reserve
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
            if not quiet or reason == "failed":
                print(f"keychain-synth: {record['id']}: no row at {length}: {detail}", file=sys.stderr)
        return made

    def summary(self) -> Record:
        """rows, dropped and unfit with their reasons, and a histogram of tokens in hundredths of each length.

        short: rows that fill less than nine tenths of what the reserve leaves, for want of documents. drop_rate: the share
        of the questions in the files that was dropped, and of the rest, as far as it was asked for, what made no row.
        """
        about = self.corpus.about
        tried = len(self.tokens) + self.unfit.total()
        dropped = sum(count for reason, count in about["dropped"].items() if reason not in UNCOUNTED)
        kept = about["items"] / (about["items"] + dropped)
        histogram = Counter(f"{length}: {100 * tokens // length / 100:.2f}" for length, tokens in self.tokens)
        return {
            "rows": len(self.tokens),
            "short": sum(tokens < 0.9 * (length - self.reserve) for length, tokens in self.tokens),
            "unfit": self.unfit.total(),
            "unfit_reasons": dict(sorted(self.unfit.items())),
            "dropped": about["dropped"],
            "drops": self.drops[:_NAMED],
            "drop_rate": 1 - kept * len(self.tokens) / tried if tried else 1 - kept,
            "documents": about["documents"],
            "questions": about["questions"],
            "tokenizer": {"name": self.tokenizer.name, "sha256": self.tokenizer.digest},
            "tokens_of_length": dict(sorted(histogram.items())),
        }
