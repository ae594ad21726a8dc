from decimal import Decimal

import pytest
from tallybook.reading.amounts import Amount, convert

RATES = {("EUR", "USD"): Decimal("1.25")}


def test_a_rate_and_its_inverse():
    assert convert(Amount(Decimal(8), "EUR"), "USD", RATES) == Amount(Decimal(10), "USD")
    assert convert(Amount(Decimal(10), "USD"), "EUR", RATES) == Amount(Decimal(8), "EUR")


def test_the_same_currency_needs_no_rate():
    assert convert(Amount(Decimal(8), "EUR"), "EUR", {}) == Amount(Decimal(8), "EUR")


def test_an_unknown_rate_is_an_error():
    with pytest.raises(KeyError):
        convert(Amount(Decimal(1), "CHF"), "EUR", RATES)
