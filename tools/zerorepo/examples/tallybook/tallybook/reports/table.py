"""Tables: rows of text in columns."""

from __future__ import annotations

from tallybook.accounts.balances import balances
from tallybook.reading.entries import Entry


def align(rows: list[list[str]]) -> str:
    """Rows as lines of columns two blanks apart: the first column to the left, the others to the right; no blanks at the end
    of a line, no line break at the end of the text. Raises ValueError where rows differ in length."""
    if len({len(row) for row in rows}) > 1:
        raise ValueError("rows of different lengths")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def balance_table(entries: list[Entry]) -> str:
    """A line for every balance, the account's name on its first alone."""
    rows = []
    for account, amounts in balances(entries).items():
        for n, amount in enumerate(amounts):
            rows.append([account if n == 0 else "", str(amount)])
    return align(rows)
