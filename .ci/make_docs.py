"""`make docs`: write each tool's README reference section from its help text."""

import importlib
import sys
from pathlib import Path

from tenfold_shared.cli import with_reference

ROOT = Path(__file__).resolve().parent.parent

for folder in sorted((ROOT / "tools").iterdir()):
    group = importlib.import_module(f"{folder.name.replace('-', '_')}.cli").main
    readme = folder / "README.md"
    text = readme.read_text()
    fresh = with_reference(text, group)
    if fresh != text:
        readme.write_text(fresh)
        print(f"{readme.relative_to(ROOT)}: reference written", file=sys.stderr)
