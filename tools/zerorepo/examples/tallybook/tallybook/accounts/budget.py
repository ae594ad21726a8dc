"""Budgets: how much of what was planned for a month is spent."""

from __future__ import annotations

from decimal import Decimal

from tallybook.accounts.balances import belongs
from tallybook.reading.entries import Entry


def spent(entries: list[Entry], parent: str, year: int, month: int, currency: str) -> Decimal:
    """What went out of an account and those below it in a month, as a positive number; entries of other currencies and
    what came in do not count."""
    return -sum(
        (
            entry.amount.quantity
            for entry in entries
            if belongs(entry.account, parent)
            and (entry.day.year, entry.day.month) == (year, month)
            and entry.amount.currency == currency
            and entry.amount.quantity < 0
        ),
        Decimal(0),
    )


def over_budget(
    entries: list[Entry], plan: dict[str, Decimal], year: int, month: int, currency: str
) -> dict[str, Decimal]:
    """Account to the sum it is over its plan by, of those that are; the worst first, equal ones by name."""
    found = {}
    for account, allowed in plan.items():
        excess = spent(entries, account, year, month, currency) - allowed
        if excess > 0:
            found[account] = excess
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
