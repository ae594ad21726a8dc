"""Amounts of money: exact, with the currency they are in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

PATTERN = re.compile(r"([+-]?\d[\d,]*(?:\.\d+)?)\s*([A-Z]{3})")


@dataclass(frozen=True)
class Amount:
    """A quantity of one currency, given by its three-letter code."""

    quantity: Decimal
    currency: str

    def __str__(self) -> str:
        """The quantity with two decimals and thousands separators, then the currency: `1,250.00 EUR`."""
        return f"{self.quantity:,.2f} {self.currency}"

    def plus(self, other: Amount) -> Amount:
        """The sum. Raises ValueError where the currencies differ."""
        if other.currency != self.currency:
            raise ValueError(f"cannot add {other.currency} to {self.currency}")
        return Amount(self.quantity + other.quantity, self.currency)


def parse_amount(text: str) -> Amount:
    """Read `12.50 EUR`, `-3 USD` or `1,250 CHF`, blanks around it allowed. Raises ValueError for anything else."""
    found = PATTERN.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"no amount: {text!r}")
    return Amount(Decimal(found[1].replace(",", "")), found[2])


def convert(amount: Amount, currency: str, rates: dict[tuple[str, str], Decimal]) -> Amount:
    """The amount in another currency. rates: (from, to) to a factor; the inverse of a given rate is used as well. An amount
    that is in the currency already is returned as it is. Raises KeyError where no rate is known."""
    if amount.currency == currency:
        return amount
    if (amount.currency, currency) in rates:
        return Amount(amount.quantity * rates[amount.currency, currency], currency)
    return Amount(amount.quantity / rates[currency, amount.currency], currency)
