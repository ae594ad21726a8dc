from decimal import Decimal

from tallybook.accounts.balances import total
from tallybook.reading.entries import parse_book


def test_an_account_with_all_below_it_in_one_currency():
    book = parse_book("2026-03-01 food:bread -4 EUR\n2026-03-02 food -5 USD\n2026-03-03 foodstuff -100 EUR")
    found = total(book, "food", "EUR", {("USD", "EUR"): Decimal("0.8")})
    assert (found.quantity, found.currency) == (Decimal("-8.0"), "EUR")


def test_an_account_without_entries_is_zero():
    assert total([], "food", "EUR", {}).quantity == 0
