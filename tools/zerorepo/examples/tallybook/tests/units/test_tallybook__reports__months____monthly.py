from tallybook.reading.entries import parse_book
from tallybook.reports.months import monthly


def test_every_month_from_first_to_last():
    book = parse_book("2025-11-30 pay 100 EUR\n2026-01-01 food -4 EUR\n2026-01-02 food -5 EUR\n2026-05-01 food -1 USD")
    assert monthly(book, "EUR") == [("2025-11", 100, 0), ("2025-12", 0, 0), ("2026-01", 0, 9)]


def test_a_currency_without_entries():
    assert monthly(parse_book("2026-05-01 food -1 USD"), "EUR") == []
