"""What people and files may see of a text: no credentials, and where it is shown, one line of it."""

import re

_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")


def redact(text: str) -> str:
    """Take user:password@ out of URLs, so that no credential reaches a file we write."""
    return _USERINFO.sub("", text)


def printable(text: str) -> str:
    """TEXT of a record, a file's name or a server's reply as a terminal may have it: what moves a cursor, rings, colours or
    turns the order of writing around stands there as its escape. Line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def one_line(text: object, limit: int = 300) -> str:
    """TEXT on one line of at most LIMIT characters, without credentials in URLs."""
    flat = " ".join(redact(str(text)).split())
    return flat if len(flat) <= limit else flat[: limit - 3] + "..."
