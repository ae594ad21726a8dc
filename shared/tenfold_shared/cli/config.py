"""--config: option names and values from a TOML file, checked as those of the command line are."""

from __future__ import annotations

import itertools
from typing import Any

import click

from tenfold_shared import BadInput, unread


def load_config(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """--config: a TOML file of option names; `[verb]` tables apply to that verb alone."""
    if value is None:
        return None
    import tomllib

    try:
        with open(value, "rb") as stream:
            table = tomllib.load(stream)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is no TOMLDecodeError
        raise BadInput(f"{value}: not TOML: {error}") from None
    except OSError as error:
        raise unread(value, error) from None
    contexts = [ctx]
    while contexts[0].parent is not None:
        contexts.insert(0, contexts[0].parent)
    told = {name: ("", setting) for name, setting in table.items() if not isinstance(setting, dict)}
    words: list[str] = []
    for above, one in itertools.pairwise(
        contexts
    ):  # tool and verb, or tool, group and verb: [group], then [group.verb]
        verbs = getattr(above.command, "commands", {})
        for name, setting in table.items():
            if isinstance(setting, dict) and name not in verbs:
                where = ".".join([*words, name])
                raise BadInput(
                    f"{value}: [{where}]: no such verb; expected a table named after one of {', '.join(verbs)}"
                )
        words.append(one.info_name or "")
        own = table.get(words[-1], {})
        table = own if isinstance(own, dict) else {}
        told |= {
            name: (f"[{'.'.join(words)}] ", setting)
            for name, setting in table.items()
            if one is ctx or not isinstance(setting, dict)
        }
    options = {name for p in ctx.command.params if isinstance(p, click.Option) for name in _names(p)}
    settings = {}
    for name, (where, setting) in told.items():
        key = name.replace("-", "_")
        if key not in options:
            mine = where == f"[{'.'.join(words)}] "
            raise BadInput(
                f"{value}: {where}{name}: no such option"
                + ("" if mine else f" of `{ctx.command_path}`; put it in that verb's [table]")
            )
        for p in ctx.command.params:
            if isinstance(p, click.Option) and key in _names(p):
                settings[p.name] = _configured(f"{value}: {name}", p, setting)
    ctx.default_map = {**(ctx.default_map or {}), **settings}
    return value


def _configured(where: str, option: click.Option, setting: Any) -> Any:
    """A TOML value as this option takes it; click itself would take a number for a flag, or fail on a list."""
    plain = isinstance(option.type, click.types.StringParamType | click.Choice | click.Path | click.types.IntParamType
                       | click.types.FloatParamType)  # fmt: skip
    if isinstance(setting, dict):
        raise BadInput(f"{where}: expected a value, got a table")
    if option.is_flag and not isinstance(setting, bool):
        raise BadInput(f"{where}: expected true or false, got {setting!r}")
    if not option.is_flag and isinstance(setting, bool):
        raise BadInput(f"{where}: expected a value, got {str(setting).lower()}")
    if option.multiple and not isinstance(setting, list):
        return [setting]
    if isinstance(setting, list) and plain and not option.multiple:
        raise BadInput(f"{where}: expected one value, got a list")
    if isinstance(option.type, click.types.IntParamType) and isinstance(setting, float):
        raise BadInput(f"{where}: expected a whole number, got {setting!r}")
    return setting


def _names(parameter: click.Parameter) -> set[str]:
    return {word.lstrip("-").replace("-", "_") for word in parameter.opts if word.startswith("--")} | {
        parameter.name or ""
    }
