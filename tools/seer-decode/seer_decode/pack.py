"""Sequences to rows of one length, none split (arXiv 2506.08889, 2.3): best fit, the longest first."""

from __future__ import annotations

import bisect
from collections.abc import Sequence


def pack(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Rows of indices of `lengths` with a sum of at most `width` each. A sequence goes to the row that it leaves the least room
    in; of equal ones the older. Rows, and indices within one, are in the order in which they were begun.

    O(n log n) comparisons. Raises ValueError for a sequence longer than a row.
    """
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # (room left, row), ascending
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        size = lengths[index]
        if not 0 < size <= width:
            raise ValueError(f"a sequence of {size} tokens in rows of {width}")
        at = bisect.bisect_left(open_rows, (size, -1))
        if at == len(open_rows):
            room, row = width, len(rows)
            rows.append([])
        else:
            room, row = open_rows.pop(at)
        rows[row].append(index)
        if room > size:
            bisect.insort(open_rows, (room - size, row))
    return rows


def pieces(lengths: Sequence[int], width: int, least: int) -> list[tuple[int, int, int]]:
    """(document, begin, end) of the sequences that documents of these lengths become: itself, or, where one is longer than a row,
    pieces of a row's width from its beginning. Those of fewer than `least` tokens are left out."""
    return [
        (number, begin, min(begin + width, length))
        for number, length in enumerate(lengths)
        for begin in range(0, length, width)
        if min(begin + width, length) - begin >= least
    ]
