from tallybook.reading.entries import parse_book
from tallybook.reports.table import balance_table


def test_a_name_stands_once():
    book = parse_book("2026-03-01 pay 1000 EUR\n2026-03-02 food -4 USD\n2026-03-03 food -5 EUR")
    assert balance_table(book) == "food     -5.00 EUR\n         -4.00 USD\npay   1,000.00 EUR"
