"""Balances: the sum of an account's entries, and of everything."""

from __future__ import annotations

from decimal import Decimal

from tallybook.reading.amounts import Amount, convert
from tallybook.reading.entries import Entry


def belongs(account: str, parent: str) -> bool:
    """Whether an account is `parent` or stands below it: `food:bread` belongs to `food`, `foodstuff` does not."""
    return account == parent or account.startswith(parent + ":")


def balances(entries: list[Entry]) -> dict[str, list[Amount]]:
    """Account to its sums, one for each currency it has, by the name of the currency; accounts by name."""
    sums: dict[str, dict[str, Amount]] = {}
    for entry in entries:
        here = sums.setdefault(entry.account, {})
        known = here.get(entry.amount.currency)
        here[entry.amount.currency] = entry.amount if known is None else known.plus(entry.amount)
    return {account: [here[name] for name in sorted(here)] for account, here in sorted(sums.items())}


def total(entries: list[Entry], parent: str, currency: str, rates: dict[tuple[str, str], Decimal]) -> Amount:
    """The sum, in one currency, of an account and all below it; zero where there is none."""
    found = Amount(Decimal(0), currency)
    for entry in entries:
        if belongs(entry.account, parent):
            found = found.plus(convert(entry.amount, currency, rates))
    return found
