from decimal import Decimal

from tallybook.accounts.budget import over_budget
from tallybook.reading.entries import parse_book


def test_those_over_their_plan_the_worst_first():
    book = parse_book(
        "2026-03-01 food -40 EUR\n2026-03-02 fun -100 EUR\n2026-03-03 rent -500 EUR\n2026-03-04 art -40 EUR"
    )
    plan = {"food": Decimal(30), "fun": Decimal(30), "rent": Decimal(500), "art": Decimal(30)}
    assert list(over_budget(book, plan, 2026, 3, "EUR").items()) == [("fun", 70), ("art", 10), ("food", 10)]
