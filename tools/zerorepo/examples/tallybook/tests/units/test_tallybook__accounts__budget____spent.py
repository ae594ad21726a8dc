from decimal import Decimal

from tallybook.accounts.budget import spent
from tallybook.reading.entries import parse_book

BOOK = """2026-02-28 food -50 EUR
2026-03-01 food:bread -4 EUR
2026-03-02 food 3 EUR refund
2026-03-31 food -6 EUR
2026-03-31 food -9 USD
"""


def test_what_went_out_in_the_month():
    assert spent(parse_book(BOOK), "food", 2026, 3, "EUR") == Decimal(10)


def test_nothing_went_out():
    assert spent([], "food", 2026, 3, "EUR") == 0
