"""The files of a skeleton that no model writes: pyproject.toml and README.md.

From the specification's name and purpose and the map of areas; stage B's auxiliary tasks (arXiv 2509.16198, app. B).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from zerorepo.generation.layout import SRC

# Distributions that are not called as what they install; others are taken to be.
_DISTRIBUTIONS = {
    "Crypto": "pycryptodome", "OpenSSL": "pyOpenSSL", "PIL": "Pillow", "attr": "attrs", "bs4": "beautifulsoup4",
    "cv2": "opencv-python", "dateutil": "python-dateutil", "docx": "python-docx", "dotenv": "python-dotenv",
    "git": "GitPython", "jwt": "PyJWT", "serial": "pyserial", "skimage": "scikit-image", "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}  # fmt: skip


def pyproject(name: str, purpose: str, paths: Iterable[str], imported: Sequence[str]) -> bytes:
    """paths: the modules; imported: first names of modules from elsewhere."""
    files = sorted(paths)
    inside = {path.removeprefix(SRC + "/").partition("/")[0] for path in files if path.startswith(SRC + "/")}
    beside = {path.partition("/")[0] for path in files if "/" in path and not path.startswith(SRC + "/")}
    single = [path.removesuffix(".py") for path in files if "/" not in path]
    needs = sorted({_DISTRIBUTIONS.get(one, one.replace("_", "-")) for one in imported}, key=str.lower)
    lines = [
        "[build-system]", 'requires = ["setuptools>=61"]', 'build-backend = "setuptools.build_meta"', "",
        "[project]", f"name = {_text(distribution(name))}", 'version = "0.1.0"', f"description = {_text(purpose[:500])}",
        'readme = "README.md"', 'requires-python = ">=3.11"', f"dependencies = [{', '.join(map(_text, needs))}]",
    ]  # fmt: skip
    if single:
        lines += ["", "[tool.setuptools]", f"py-modules = [{', '.join(map(_text, single))}]"]
    if inside or beside:
        where = [SRC] if inside else []
        where += ["."] if beside else []
        packages = [pattern for one in sorted(inside | beside) for pattern in (one, one + ".*")]
        lines += [
            "", "[tool.setuptools.packages.find]", f"where = [{', '.join(map(_text, where))}]",
            f"include = [{', '.join(map(_text, packages))}]",
        ]  # fmt: skip
    roots = [*([SRC] if inside else []), "."]
    lines += ["", "[tool.pytest.ini_options]", f"pythonpath = [{', '.join(map(_text, roots))}]"]
    return ("\n".join(lines) + "\n").encode()


def readme(name: str, purpose: str, areas: Mapping[str, tuple[str, Sequence[str], int]], flows: Sequence[str]) -> bytes:
    """areas: area to its folder, files and number of features; flows: one line each."""
    lines = [f"# {_line(name) or 'Repository'}", "", _line(purpose), "", "## Areas", ""]
    for area, (folder, files, count) in areas.items():
        place = f"`{folder}/`" if folder else "the root"
        lines.append(
            f"- **{_line(area)}** in {place}: {count} features in {', '.join(f'`{path}`' for path in files) or 'no file yet'}"
        )
    if flows:
        lines += ["", "## Data flow", "", *(f"- {_line(one)}" for one in flows)]
    return ("\n".join(lines) + "\n").encode()


def distribution(name: str) -> str:
    """A name that PyPI's rules allow."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "repository"


def _text(text: str) -> str:
    """A TOML basic string: one of JSON is one too, once what TOML does not allow in it is gone."""
    return json.dumps(_line(text), ensure_ascii=False)


def _line(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
