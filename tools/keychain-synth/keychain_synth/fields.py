"""Fields of records from outside, checked against a msgspec type; what is wrong is told in one phrase.

Sits under audit.py, convert.py and filter.py.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def checked(record: Any, kind: type[T], root: str = "") -> T:
    """RECORD as KIND; fields that KIND does not name are ignored. ROOT: the field of the record that it is.

    Raises ValueError: the field, and what was expected of it.
    """
    try:
        return msgspec.convert(record, kind)
    except msgspec.ValidationError as error:
        what, _, place = str(error).replace("`", "").partition(" - at $")
        missing = what.partition("missing required field ")[2]
        field = ".".join(part for part in (root + place, missing) if part).removeprefix(".")
        told = "expected, is not there" if missing else what[0].lower() + what[1:]
        raise ValueError(f"{field}: {told}" if field else told) from None
