import pytest
from tallybook.reports.table import align


def test_the_first_column_to_the_left_the_others_to_the_right():
    assert align([["a", "1"], ["bbb", "100"]]) == "a      1\nbbb  100"


def test_no_blanks_at_the_end():
    assert align([["a", ""], ["b", "x"]]) == "a\nb  x"
    assert align([]) == ""


def test_rows_of_one_length():
    with pytest.raises(ValueError):
        align([["a"], ["b", "c"]])
