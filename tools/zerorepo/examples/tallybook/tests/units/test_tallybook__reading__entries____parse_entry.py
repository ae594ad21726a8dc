from datetime import date
from decimal import Decimal

import pytest
from tallybook.reading.entries import parse_entry


def test_a_whole_line():
    entry = parse_entry("2026-03-01  food:bread  -4.20 EUR  the  baker ")
    assert (entry.day, entry.account, entry.note) == (date(2026, 3, 1), "food:bread", "the  baker")
    assert (entry.amount.quantity, entry.amount.currency) == (Decimal("-4.20"), "EUR")


def test_a_note_may_be_missing():
    assert parse_entry("2026-03-01 food -4 EUR").note == ""


@pytest.mark.parametrize("line", ["2026-03-01 food -4", "yesterday food -4 EUR", "2026-03-01 food four EUR"])
def test_a_line_that_is_no_entry(line):
    with pytest.raises(ValueError):
        parse_entry(line)
