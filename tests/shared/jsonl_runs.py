"""A filter over tasks, run in this process and in one that is killed."""

import json
from pathlib import Path

from tenfold_shared.jsonl import Output, flow, open_read


def lines(path):
    with open_read(str(path)) as stream:
        return [json.loads(line) for line in stream]


def tasks(path: Path, n: int, start: int = 0) -> Path:
    path.write_text("".join(json.dumps({"id": f"t{i}", "prompt": f"p{i}"}) + "\n" for i in range(start, start + n)))
    return path


def run(source, out, *, work=lambda x: {"got": x * 2}, per=3, **more):
    """A flow whose requests are small numbers; `calls` lists what was executed."""
    calls = []

    def execute(requests):
        for key, request in requests:
            calls.append(key)
            yield key, work(request)

    done = flow(
        source,
        identify=lambda r: r["id"],
        plan=lambda where, r: [(f"#{i}", i) for i in range(per)],
        execute=execute,
        assemble=lambda r, results: [{**r, "i": i, **result} for i, result in enumerate(results)],
        out=out,
        **more,
    )
    return done, calls


def output(path, source=None, overwrite=False, **options):
    return Output(str(path), tool="t", version="1", verb="v", options=options, source=source, overwrite=overwrite)


def complete(path, source, overwrite=False, options=(), **more):
    with output(path, source, overwrite, **dict(options)) as out:
        if out.finished:
            return None, []
        done, calls = run(source, out, **more)
        out.complete(done, source)
        return done, calls
