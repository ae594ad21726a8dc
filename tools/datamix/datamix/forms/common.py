"""What the forms share: a stage as they write and read it, domain names to paths and back, and readers of YAML and JSON that say in one
line what was wrong. A form is a module with a `FORM`; the registry and the verbs are in __init__.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, NoReturn

import msgspec

from datamix.corpus import Corpus
from datamix.schedule import ROUNDED, Stage
from tenfold_shared import BadInput

DOMAIN = "{domain}"


class How(msgspec.Struct, frozen=True):
    """How to write or read. paths: a template that holds {domain}, None for the form's own; step_tokens: tokens of one training step of
    the engine, which forms that count in steps need; corpus: what the domains hold, where it is known; method: who made the mixture."""

    paths: str | None = None
    step_tokens: int | None = None
    corpus: Corpus | None = None
    method: str = "datamix"


class Read(NamedTuple):
    """A stage as a foreign file tells it: weights, and its length in tokens where the file knows."""

    weights: dict[str, float]
    tokens: int | None = None


class Form(NamedTuple):
    """One foreign form.

    suffix: of its files; write: stages -> text; read: (text, name of the file, how) -> stages; zeros: whether it holds weights of 0
    (others leave the domain out); stages: "inside" where one file can hold many, "folder" where its users keep a file for each.
    """

    name: str
    suffix: str
    write: Callable[[Sequence[Stage], How], str]
    read: Callable[[str, str, How], list[Read]]
    zeros: bool = True
    stages: Literal["inside", "folder", "none"] = "none"


def path_of(name: str, template: str) -> str:
    if DOMAIN not in template:
        raise BadInput(f"--paths: {template!r}: expected a template that holds {DOMAIN}, such as data/{DOMAIN}")
    return template.replace(DOMAIN, name)


def name_of(path: str, template: str, where: str) -> str:
    """The domain of a path: the template read backwards. Raises BadInput where it does not fit."""
    path_of("", template)
    first, *rest = template.split(DOMAIN)
    built = re.escape(first) + "(?P<domain>.+)" + "(?P=domain)".join(re.escape(part) for part in rest)
    found = re.fullmatch(built, path, re.DOTALL)
    if found is None:
        raise BadInput(f"{where}: {path}: is not of the form {template}; --paths says how paths are made of domains")
    return found["domain"]


def used(stage: Stage) -> dict[str, float]:
    """The weights above 0, for forms whose peer refuses others."""
    return {name: w for name, w in stage.weights.items() if w > 0}


def one(stages: Sequence[Stage]) -> Stage:
    """The only stage; the registry sees to it that forms without stages get one."""
    (stage,) = stages
    return stage


def as_weights(given: Any, where: str) -> dict[str, float]:
    """A map of names to numbers as foreign files have it: numbers may be written as text (YAML takes 1e-5 for text). Sums are not
    looked at here. Raises BadInput."""
    if not isinstance(given, Mapping) or not given:
        raise BadInput(f"{where}: expected a weight for each domain")
    found: dict[str, float] = {}
    for name, value in given.items():
        found[unique(str(name), found, where)] = as_number(value, f"{where}: {name}")
    return found


def as_number(value: Any, where: str) -> float:
    """A finite number of 0 or more."""
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise BadInput(f"{where}: expected a weight of 0 or more, got {value!r}")
    return number


def unique(name: str, before: Iterable[str], where: str) -> str:
    if name in before:
        raise BadInput(f"{where}: {name}: named twice")
    return name


def relative(weights: dict[str, float], where: str) -> dict[str, float]:
    """Weights that need not sum to 1 in the peer's own files, made to: Megatron and DoReMi divide by the sum themselves."""
    total = math.fsum(weights.values())
    if total <= 0:
        raise BadInput(f"{where}: weights sum to {total:g}; expected more than 0")
    if abs(total - 1) <= ROUNDED * 1e-6:
        return weights
    return {name: w / total for name, w in weights.items()}


def load_yaml(text: str, where: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: of a date or number that is none
        mark = getattr(error, "problem_mark", None)
        at = f"{where}:{mark.line + 1}" if mark is not None else where
        raise BadInput(f"{at}: not YAML: {getattr(error, 'problem', None) or error}") from None


def dump_yaml(value: Any) -> str:
    import yaml

    # A width without end: long names are kept on their line, which people's grep and sed expect.
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=math.inf)


def load_json(text: str, where: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadInput(f"{where}: not JSON: {error}") from None


def dump_json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


def field(value: Any, name: str, where: str) -> Any:
    """value[name] of a map. Raises BadInput where it is none or lacks it."""
    if not isinstance(value, Mapping) or name not in value:
        raise BadInput(f"{where}: {name}: missing")
    return value[name]


def refuse(name: str, why: str) -> NoReturn:
    raise BadInput(f"{name}: {why}; give the domains other names or paths (--paths)")
