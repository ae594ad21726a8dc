"""JSON Lines in and out: streams, record selection, journal, lock, manifest, atomic files.

Every verb that reads records opens a `Source`, every verb that writes them an `Output`, and
`flow` joins the two: it feeds requests to an executor, remembers each result in the output's
journal and writes records in input order. What a kill leaves behind is beside the output, under
names that start with a dot:

    .NAME.journal   header line (what this run is), then one `[key, result]` line per result
    .NAME.tmp       the output being written; renamed to NAME when complete
    .NAME.lock      flock of the living owner

A file a noun: streams.py opens, unpacks and decodes; source.py selects; lock.py; journal.py;
atomic.py; output.py joins those three to a file with a manifest; flow.py. No model code and no
option parsing here.
"""

from tenfold_shared.jsonl.atomic import write_atomic
from tenfold_shared.jsonl.flow import Flow, flow
from tenfold_shared.jsonl.journal import Journal
from tenfold_shared.jsonl.lock import Lock
from tenfold_shared.jsonl.output import Output, difference, own_stdout
from tenfold_shared.jsonl.source import Source, is_pipe, read_ids
from tenfold_shared.jsonl.streams import (
    BOM,
    Located,
    Record,
    decode_line,
    open_read,
    read_lines,
    read_text,
    unreadable,
)

__all__ = [
    "BOM",
    "Flow",
    "Journal",
    "Located",
    "Lock",
    "Output",
    "Record",
    "Source",
    "decode_line",
    "difference",
    "flow",
    "is_pipe",
    "open_read",
    "own_stdout",
    "read_ids",
    "read_lines",
    "read_text",
    "unreadable",
    "write_atomic",
]
