"""The thin library under the ten tools: errors every module raises, nothing heavier.

Sits between the tools (above) and tenfold_kernels (below). Importing this module imports
nothing else; `cli/group.py` turns the errors below into one stderr line and an exit code.
"""

__version__ = "0.1.0"


class TenfoldError(Exception):
    """An error a user can act on: its text is the one line they read; `code` the exit status."""

    code = 1


class BadInput(TenfoldError):
    """Wrong usage or a record that is not what the verb reads (`file:line: field: expected`)."""

    code = 2


class Missing(TenfoldError):
    """Something needed is absent or refused: an extra, a GPU, a model, a server, memory."""

    code = 3


class Busy(TenfoldError):
    """Another live process holds the output."""

    code = 75


def unread(name: object, error: OSError, wanted: str = "") -> BadInput:
    """What is said of a file that could not be opened, in the same words everywhere; wanted: what it was to be."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        told = "no such file"
    elif isinstance(error, IsADirectoryError):
        told, wanted = "is a directory", wanted or "expected a file"
    else:
        told = f"cannot be read: {error.strerror or error}"
    return BadInput(f"{name}: {told}{f'; {wanted}' if wanted else ''}")


class OutOfTime(TenfoldError):
    """`--max-time` ran out; the finished work is in the journal."""

    code = 1
