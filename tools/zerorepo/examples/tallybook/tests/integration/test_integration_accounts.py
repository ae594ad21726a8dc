from decimal import Decimal

from tallybook.accounts.balances import balances, total
from tallybook.accounts.budget import over_budget, spent
from tallybook.reading.entries import parse_book


def test_balances_totals_and_budgets_tell_the_same():
    book = parse_book("2026-03-01 food:bread -4 EUR\n2026-03-02 food:tea -6 EUR\n2026-03-05 pay 100 EUR")
    sums = sum(one.quantity for account in ("food:bread", "food:tea") for one in balances(book)[account])
    assert total(book, "food", "EUR", {}).quantity == sums == -spent(book, "food", 2026, 3, "EUR")
    assert over_budget(book, {"food": Decimal(8)}, 2026, 3, "EUR") == {"food": Decimal(2)}
