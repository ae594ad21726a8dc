"""Entries of a book: one a line, `2026-03-01  food:bread  -4.20 EUR  baker`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from tallybook.reading.amounts import Amount, parse_amount


@dataclass(frozen=True)
class Entry:
    """What happened on a day: an account, which may have parts after colons, an amount and a note."""

    day: date
    account: str
    amount: Amount
    note: str = ""


def parse_entry(line: str) -> Entry:
    """Read one line: day, account, quantity, currency, then the rest as a note. Raises ValueError naming what is wrong."""
    parts = line.split(maxsplit=4)
    if len(parts) < 4:
        raise ValueError(f"expected a day, an account and an amount: {line!r}")
    day, account, quantity, currency = parts[:4]
    note = parts[4].strip() if len(parts) > 4 else ""
    return Entry(date.fromisoformat(day), account, parse_amount(f"{quantity} {currency}"), note)


def parse_book(text: str) -> list[Entry]:
    """The entries of a text in order of their day, those of one day as they stand. Blank lines and lines that begin with `#`
    are passed over. Raises ValueError that begins with the number of the line."""
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            entries.append(parse_entry(line))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return sorted(entries, key=lambda entry: entry.day)
