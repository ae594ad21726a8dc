import pytest
from tallybook.reading.entries import parse_book

TEXT = """# March
2026-03-02 food -4 EUR second

2026-03-01 pay 100 EUR
2026-03-02 food -5 EUR third
"""


def test_by_day_and_then_as_they_stand():
    assert [entry.note or "first" for entry in parse_book(TEXT)] == ["first", "second", "third"]


def test_nothing_in_nothing_out():
    assert parse_book("\n# nothing\n") == []


def test_the_line_that_is_wrong_is_named():
    with pytest.raises(ValueError, match=r"^line 3:"):
        parse_book("\n2026-03-01 pay 100 EUR\nwhat\n")
