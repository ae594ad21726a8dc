from tallybook.reading.entries import parse_entry
from tallybook.reports.months import month_of


def test_year_and_month():
    assert month_of(parse_entry("2026-03-09 food -1 EUR")) == "2026-03"
