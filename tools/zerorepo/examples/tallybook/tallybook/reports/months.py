"""Months: what came in and went out, month by month."""

from __future__ import annotations

from decimal import Decimal

from tallybook.reading.entries import Entry


def month_of(entry: Entry) -> str:
    """The month of an entry as `2026-03`."""
    return entry.day.strftime("%Y-%m")


def monthly(entries: list[Entry], currency: str) -> list[tuple[str, Decimal, Decimal]]:
    """(month, in, out) for every month from the first entry of a currency to its last, those without any included; out is a
    positive number. Nothing where there is no such entry."""
    found: dict[str, list[Decimal]] = {}
    days = [entry.day for entry in entries if entry.amount.currency == currency]
    if not days:
        return []
    year, month = min(days).year, min(days).month
    while (year, month) <= (max(days).year, max(days).month):
        found[f"{year:04d}-{month:02d}"] = [Decimal(0), Decimal(0)]
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
    for entry in entries:
        if entry.amount.currency == currency:
            came, went = max(entry.amount.quantity, Decimal(0)), max(-entry.amount.quantity, Decimal(0))
            found[month_of(entry)][0] += came
            found[month_of(entry)][1] += went
    return [(name, came, went) for name, (came, went) in found.items()]
