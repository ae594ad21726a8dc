from decimal import Decimal

import pytest
from tallybook.reading.amounts import Amount


def test_a_sum_is_exact():
    assert Amount(Decimal("0.1"), "EUR").plus(Amount(Decimal("0.2"), "EUR")) == Amount(Decimal("0.3"), "EUR")


def test_currencies_are_not_mixed():
    with pytest.raises(ValueError):
        Amount(Decimal(1), "EUR").plus(Amount(Decimal(1), "USD"))
