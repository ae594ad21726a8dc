"""The folder that keeps what tools make once: converted models, tokenizers, compiled programs. `doctor --clear-cache` frees it."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from tenfold_shared import Missing


def cache_dir() -> Path:
    """Where converted models live: $TENFOLD_CACHE, else tenfold/ in the XDG cache."""
    if os.environ.get("TENFOLD_CACHE"):
        return Path(os.environ["TENFOLD_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tenfold"


def expect_ours(path: Path) -> None:
    """Raises Missing where somebody else could have put there what is at PATH, which is about to be trusted: it, or the
    folder it is in, is another user's (root's are nobody's to change) or anybody's to write to."""
    for one in (path, path.parent):
        found = one.stat()
        if found.st_uid not in (os.geteuid(), 0) or found.st_mode & 0o002:
            why = "another user's" if found.st_uid not in (os.geteuid(), 0) else "anybody's to write to"
            raise Missing(f"{one}: is {why}; set TENFOLD_CACHE to a folder of your own")


_CACHED = re.compile(
    r"keychain-synth|grpo-roc|dser|cotpass|datamix|seer-decode|antkv|longexp-peft|sparstencil|zerorepo|tokenizers|.+-[0-9a-f]{8,64}"
)


def free_cache() -> None:
    """Frees what tools have made: their folders, and those whose name ends in a fingerprint. A folder that TENFOLD_CACHE names
    by mistake keeps its other files."""
    import click

    folder = cache_dir()
    if not folder.is_dir():
        click.echo(f"{folder}: nothing cached")
        return
    total = 0
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink() or not entry.is_dir() or not _CACHED.fullmatch(entry.name):
            click.echo(f"{entry.name}: made by none of the tools; left")
            continue
        size = sum(f.stat().st_size for f in entry.rglob("*") if f.is_file())
        total += size
        click.echo(f"{entry.name}  {size / 1e6:.1f} MB")
        shutil.rmtree(entry)
    click.echo(f"{folder}: freed {total / 1e6:.1f} MB")
