"""From a verb's keyword arguments to plain structs: which records, which model, which sampling, which template."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from tenfold_shared import BadInput, unread
from tenfold_shared.cli.options import GROUPS

if TYPE_CHECKING:
    from tenfold_shared.generate import Generator, Sampling
    from tenfold_shared.jsonl import Source


class Selection(msgspec.Struct, frozen=True):
    """The `records` options: which records of the input a verb works on."""

    limit: int | None
    ids: str | None
    shard: tuple[int, int] | None
    skip_bad: int

    def source(self, files: Sequence[str], kind: str | None, **more: Any) -> Source:
        """A `jsonl.Source` over FILES with this selection."""
        from tenfold_shared.jsonl import Source

        return Source(files, kind, limit=self.limit, ids=self.ids, shard=self.shard, skip_bad=self.skip_bad, **more)

    def identity(self) -> dict[str, Any]:
        return {
            "limit": self.limit,
            "ids": sha256_of(self.ids) if self.ids else None,
            "shard": list(self.shard) if self.shard else None,
            "skip_bad": self.skip_bad,
        }


class Backend(msgspec.Struct, frozen=True):
    """The `backend` options: which model answers, and how it is reached."""

    model: tuple[str, ...]
    batch_size: int
    concurrency: int
    device: str
    dtype: str
    engine: tuple[str, ...]
    api_key_env: str
    timeout: float
    max_retries: int
    trust_remote_code: bool
    record: str | None

    def open(self, seed: int) -> Generator:
        """Open the model. Raises Missing or BadInput (see models.open_generator)."""
        from tenfold_shared.models import open_generator

        return open_generator(
            self.model,
            batch_size=self.batch_size,
            concurrency=self.concurrency,
            dtype=self.dtype,
            device=self.device,
            api_key_env=self.api_key_env,
            timeout=self.timeout,
            max_retries=self.max_retries,
            record=self.record,
            trust_remote_code=self.trust_remote_code,
            seed=seed,
            engine_args=engine_arguments(self.engine),
        )

    def identity(self) -> dict[str, Any]:
        """What of this decides the text: not how a server is reached, but which model it serves."""
        found: dict[str, Any] = {"model": list(self.model)}
        if self.model and not self.model[0].startswith(("http:", "https:", "replay:")):
            found |= {"dtype": self.dtype, "engine": sorted(self.engine)}
            if not self.model[0].startswith("vllm:"):
                found["batch_size"] = self.batch_size
        return found


Settings = TypeVar("Settings", bound=msgspec.Struct)


def take(kind: type[Settings], given: dict[str, Any]) -> Settings:
    """Move the options of one group out of a verb's keyword arguments into its struct."""
    return kind(**{field: given.pop(field) for field in kind.__struct_fields__})


def take_sampling(given: dict[str, Any]) -> Sampling:
    """The `sampling` options as `generate.Sampling`."""
    from tenfold_shared.generate import Sampling

    fields = {field: given.pop(field) for field in GROUPS["sampling"]}
    return Sampling(**{**fields, "stop": tuple(fields["stop"])})


def sha256_of(path: str) -> str:
    """Hex digest of a file's bytes. Raises BadInput where it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise unread(path, error) from None


def engine_arguments(pairs: tuple[str, ...]) -> dict[str, Any]:
    """`KEY=VALUE` words as vLLM engine arguments; numbers and true/false are read as such."""
    import json

    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise BadInput(f"--engine {pair}: expected KEY=VALUE, such as tensor_parallel_size=8")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found


def read_template(path: str | None, built_in: str, fields: set[str], needs: str = "") -> str:
    """The template's text. Raises BadInput where it is unreadable, names unknown `$fields`, or lacks the one it needs."""
    if path is None:
        return built_in
    from string import Template

    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise unread(f"--template {path}", error) from None
    except UnicodeDecodeError as error:
        raise BadInput(f"--template {path}: expected UTF-8: {error.reason} at byte {error.start}") from None
    template = Template(text)
    if not template.is_valid():
        raise BadInput(f"--template {path}: a `$` that names nothing; write `$$` for a dollar sign")
    unknown = set(template.get_identifiers()) - fields
    if unknown:
        known = ", ".join(f"${name}" for name in sorted(fields))
        raise BadInput(f"--template {path}: ${sorted(unknown)[0]} is not a field; known are {known}")
    if needs and needs not in template.get_identifiers():
        raise BadInput(f"--template {path}: expected ${needs} in it; without it every prompt would be the same")
    return text
