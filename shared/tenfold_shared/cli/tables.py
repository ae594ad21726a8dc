"""Tables for people on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tenfold_shared.redaction import printable

if TYPE_CHECKING:
    from rich.segment import Segment

SENTENCE = 100  # characters of a cell after which it is wrapped where stdout is no terminal


def print_table(table: Any) -> None:
    """A rich table, or text, on stdout. No number is cut: where stdout is no terminal a table is as wide as its cells, and
    only sentences are wrapped; on a narrow terminal a word goes on in the next line. A reader that goes away ends us as it
    does any filter, not with rich's exit 1."""
    from rich.console import Console
    from rich.segment import Segment
    from rich.table import Table

    class Pipeable(Console):
        def render(self, *what: Any, **how: Any) -> Iterator[Segment]:
            for one in super().render(*what, **how):
                yield one if one.control or one.text.isprintable() else Segment(printable(one.text), one.style)

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    piped = isinstance(table, Table) and not sys.stdout.isatty()
    for column in table.columns if isinstance(table, Table) else ():
        column.overflow = "fold"
        if piped and column.max_width is None:
            column.max_width = SENTENCE
        column._cells[:] = [_unmarked(cell) for cell in column._cells]
    Pipeable(width=100_000 if piped else None).print(table)


def _unmarked(cell: Any) -> Any:
    """A cell of text without markup, which our tables have none of: what looks like it came with a name or a record, and a tag
    that closes nothing would be an error."""
    from rich.errors import MarkupError
    from rich.text import Text

    if not isinstance(cell, str):
        return cell
    try:
        return Text(Text.from_markup(cell, emoji=False).plain)
    except MarkupError:
        return Text(cell)
