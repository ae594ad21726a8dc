from tallybook.reading.entries import parse_book
from tallybook.reports.months import monthly
from tallybook.reports.table import align, balance_table

BOOK = "2026-03-01 pay 100 EUR\n2026-03-02 food -4 EUR\n2026-04-02 food -6 EUR"


def test_a_report_of_months_and_of_balances():
    book = parse_book(BOOK)
    months = align([[name, str(came), str(went)] for name, came, went in monthly(book, "EUR")])
    assert months == "2026-03  100  4\n2026-04    0  6"
    assert balance_table(book) == "food  -10.00 EUR\npay   100.00 EUR"
