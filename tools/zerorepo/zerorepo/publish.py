"""Where the verbs that make one document of a graph put it: a file with its manifest, or stdout."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from tenfold_shared.jsonl import Output


def publish(
    verb: str, data: bytes, output: str | None, *, inputs: Iterable[bytes], options: dict[str, Any], overwrite: bool
) -> None:
    """Write to -o, atomically and with a manifest beside it, or to stdout. `data` ends in no more than one LF.

    Replaces what the same command made before; raises BadInput where anything else is there and `overwrite` is off.
    """
    from zerorepo import __version__

    decides = {**options, "inputs": [hashlib.sha256(one).hexdigest() for one in inputs]}
    for again in (overwrite, True):
        with Output(output, tool="zerorepo", version=__version__, verb=verb, options=decides, overwrite=again) as out:
            if out.finished:
                continue  # the same command made it; what else it reads, the files, may have changed since
            out.write_line(data.removesuffix(b"\n"))
            out.finish({"bytes": len(data)})
        return
