"""`make docs`: each tool's VERBS.md (every verb and option) and the table of verbs in its README, from the help text.

tests/pipelines/test_readmes.py fails where either is behind the commands.
"""

import copy
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
BEGIN = "<!-- verbs: generated from the help text by `make docs` -->"
END = "<!-- end of verbs -->"


def group_of(tool: str) -> click.Group:
    main: click.Group = importlib.import_module(f"{tool.replace('-', '_')}.cli").main
    return main


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    """(full name, command) by name; the verbs of a group within the group follow it."""
    for name, command in sorted(group.commands.items()):
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


def reference(group: click.Group) -> str:
    """What VERBS.md holds: the help of every verb."""
    parts = [
        f"# The verbs of {group.name}\n\nWritten by `make docs` from the help text. [What they are for](README.md).\n"
    ]
    for full, command in commands(group, str(group.name)):
        alone = copy.copy(command)
        alone._help_option = None  # click keeps the one of its first context; a text must not depend on what ran before
        context = click.Context(alone, info_name=full, max_content_width=100, terminal_width=100)
        parts.append(f"## `{full}`\n\n```text\n{alone.get_help(context)}\n```\n")
    return "\n".join(parts)


def table(group: click.Group) -> str:
    """A row a verb, linked to its part of VERBS.md."""
    rows = [
        f"| [`{full}`](VERBS.md#{full.replace(' ', '-')}) | {command.get_short_help_str(200).replace('|', chr(92) + '|')} |"
        for full, command in commands(group, str(group.name))
        if not isinstance(command, click.Group)
    ]
    return "\n".join(["| verb | what it does |", "| --- | --- |", *rows])


def with_table(readme: str, group: click.Group) -> str:
    """README's text with the part between the two markers made anew. Raises ValueError where they are missing."""
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README: expected the lines {BEGIN} and {END}")
    return f"{head}{begin}\n\n{table(group)}\n\n{end}{tail}"


def main() -> None:
    for folder in sorted((ROOT / "tools").iterdir()):
        group = group_of(folder.name)
        readme, verbs = folder / "README.md", folder / "VERBS.md"
        for path, fresh in ((readme, with_table(readme.read_text(), group)), (verbs, reference(group))):
            if not path.exists() or path.read_text() != fresh:
                path.write_text(fresh)
                print(f"{path.relative_to(ROOT)}: written", file=sys.stderr)


if __name__ == "__main__":
    main()
