from decimal import Decimal

from tallybook.reading.amounts import Amount


def test_two_decimals_separators_and_the_currency():
    assert str(Amount(Decimal("1250"), "EUR")) == "1,250.00 EUR"
    assert str(Amount(Decimal("-3.456"), "USD")) == "-3.46 USD"
