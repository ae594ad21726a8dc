from tallybook.reading.amounts import parse_amount
from tallybook.reading.entries import parse_book


def test_amounts_of_a_book_add_up_to_what_is_printed():
    book = parse_book("2026-03-01 pay 1,000 EUR\n2026-03-02 food -4.5 EUR")
    found = book[0].amount.plus(book[1].amount)
    assert str(found) == "995.50 EUR"
    assert parse_amount(str(found)) == found
