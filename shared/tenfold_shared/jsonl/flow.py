"""From the records of a Source through an executor to an Output, in input order, past a kill and within a budget."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from tenfold_shared import BadInput, OutOfTime
from tenfold_shared.jsonl.output import Output
from tenfold_shared.jsonl.streams import Located, Record, closing_items
from tenfold_shared.progress import Progress


class Flow(msgspec.Struct):
    """What a run of `flow` did; `failed` counts records written with an error."""

    read: int = 0
    written: int = 0
    failed: int = 0
    status: str = "done"
    tokens: int = 0


class _Open(msgspec.Struct):
    """A record whose results are not all in yet."""

    where: str
    record: Record
    keys: list[str]
    missing: set[str]
    results: dict[str, Record]


Request = Any
Executor = Callable[[Iterator[tuple[str, Request]]], Iterator[tuple[str, Record]]]


def flow(
    source: Iterable[Located],
    *,
    identify: Callable[[Record], str],
    plan: Callable[[str, Record], Sequence[tuple[str, Request]]],
    execute: Executor,
    assemble: Callable[[Record, list[Record]], Iterable[Record]],
    out: Output,
    batch: int | None = None,
    max_time: float | None = None,
    budget: int | None = None,
    cost: Callable[[Record], int] | None = None,
    progress: Progress | None = None,
) -> Flow:
    """Run every record of `source` through `execute` and write the outcome in input order.

    identify: the record's unique key; a second one is BadInput.
    plan: (where, record) -> [(suffix, request)]; the request's key is identify(record) + suffix.
    execute: pulls (key, request) lazily, yields (key, result dict) in any order. A result with an
        `error` is not journaled, so that the same command tries it again.
    assemble: (record, results in plan order) -> records to write.
    batch: static batch size of the executor. Batches are cut from the whole sequence of requests,
        and one that is not wholly in the journal is run whole, so that a resumed run computes the
        same numbers as an unbroken one.
    max_time: seconds; then OutOfTime, the journal kept. budget: tokens by `cost`, counting those of
        the journal, so that a resumed run stops where an unbroken one does; then status `budget`.
    """
    started = time.monotonic()
    done = Flow()
    journal = out.journal
    window: deque[_Open] = deque()
    by_key: dict[str, _Open] = {}
    seen: set[int] = set()
    # An executor may pull from a thread of its own while we handle results.
    guard = threading.RLock()

    def out_of_time() -> bool:
        return max_time is not None and time.monotonic() - started >= max_time

    def emit(entry: _Open) -> None:
        results = [
            entry.results[key] if key in entry.results or journal is None else journal.get(key) for key in entry.keys
        ]
        failed = any(result.get("error") for result in results)
        done.failed += failed
        for record in assemble(entry.record, results):
            out.write(record)
            done.written += 1

    def drain() -> None:
        with guard:
            while window and not window[0].missing:
                emit(window.popleft())

    def feed() -> Iterator[tuple[str, Request]]:
        chunk: list[tuple[str, Request]] = []
        chunk_missing = False
        for where, record in source:
            name = identify(record)
            if hash(name) in seen:
                raise BadInput(f"{where}: id: {name} appears twice; ids (and samples within an id) must be unique")
            seen.add(hash(name))
            requests = [(name + suffix, request) for suffix, request in plan(where, record)]
            missing = {key for key, _ in requests if journal is None or key not in journal}
            entry = _Open(where, record, [key for key, _ in requests], set(missing), {})
            with guard:
                done.read += 1
                window.append(entry)
                by_key.update((key, entry) for key in missing)
                if journal is not None and cost is not None and budget is not None:
                    done.tokens += sum(cost(journal.get(key)) for key in entry.keys if key not in missing)
            if progress is not None and len(requests) > len(missing):
                progress.update(len(requests) - len(missing))
            drain()
            for key, request in requests:
                chunk.append((key, request))
                chunk_missing |= key in missing
                if batch is None or len(chunk) == batch:
                    if chunk_missing:
                        if stop():
                            return
                        yield from chunk
                    chunk, chunk_missing = [], False
        if chunk_missing and not stop():
            yield from chunk

    def stop() -> bool:
        if out_of_time():
            done.status = "time"
        elif budget is not None and done.tokens >= budget:
            done.status = "budget"
        return done.status != "done"

    with closing_items(execute(feed())) as results:
        for key, result in results:
            with guard:
                entry = by_key.pop(key, None)
                if entry is None:
                    continue  # a batch that was run whole again; its result is already in the journal
                entry.results[key] = result
                entry.missing.discard(key)
                if cost is not None:
                    done.tokens += cost(result)
                if journal is not None and not result.get("error"):
                    journal.put(key, result)
            if progress is not None:
                progress.update()
            drain()
            if out_of_time():
                done.status = "time"
                break
    if done.status == "time":
        saved = (
            "the finished work is saved; run the same command again to continue"
            if journal
            else "no output file, nothing saved"
        )
        raise OutOfTime(f"--max-time: {max_time:g} s are over; {saved}")
    if done.status == "budget":
        for entry in window:
            if not entry.missing:
                emit(entry)
    elif by_key:
        raise RuntimeError(f"{next(iter(by_key))}: the executor gave no result for it")
    return done
