from tallybook.accounts.balances import balances
from tallybook.reading.entries import parse_book


def test_a_sum_for_every_currency():
    book = parse_book("2026-03-01 pay 100 EUR\n2026-03-02 food -4 USD\n2026-03-03 food -5 EUR\n2026-03-04 food -1 USD")
    assert {name: [str(one) for one in sums] for name, sums in balances(book).items()} == {
        "food": ["-5.00 EUR", "-5.00 USD"],
        "pay": ["100.00 EUR"],
    }
    assert list(balances(book)) == ["food", "pay"]


def test_no_entries_no_balances():
    assert balances([]) == {}
