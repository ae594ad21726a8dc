"""A Python file of more than 650 lines says at its top why (part of `make lint`).

A reader looks for one noun a file. Where one noun takes more lines than that, the module's docstring has a sentence that
begins "Long because".
"""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MOST = 650


def tracked() -> list[Path]:
    """The Python files of the repository, those included that are not yet committed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.py"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted({ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()})


def complaint(path: Path) -> str | None:
    """What is wrong with a file; None where nothing is."""
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    if lines <= MOST or "Long because " in " ".join((ast.get_docstring(ast.parse(text)) or "").split()):
        return None
    name = path.relative_to(ROOT)
    return f'{name}: {lines} lines, and no sentence "Long because ..." in its docstring; split it, or say why'


def main() -> int:
    files = tracked()
    problems = list(filter(None, map(complaint, files)))
    print("\n".join(problems) or f"files: {len(files)} Python files, none over {MOST} lines without a reason")
    return 1 if problems else 0


sys.exit(main())
