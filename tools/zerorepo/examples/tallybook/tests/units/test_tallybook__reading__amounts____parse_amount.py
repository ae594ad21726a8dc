from decimal import Decimal

import pytest
from tallybook.reading.amounts import Amount, parse_amount


@pytest.mark.parametrize(
    ("text", "quantity", "currency"),
    [
        ("12.50 EUR", "12.50", "EUR"),
        ("-3 USD", "-3", "USD"),
        (" 1,250 CHF ", "1250", "CHF"),
        ("+7.1 GBP", "7.1", "GBP"),
    ],
)
def test_what_is_an_amount(text, quantity, currency):
    assert parse_amount(text) == Amount(Decimal(quantity), currency)


@pytest.mark.parametrize("text", ["", "12", "EUR 12", "12 euro", "twelve EUR", "12 EUR today"])
def test_what_is_none(text):
    with pytest.raises(ValueError):
        parse_amount(text)
