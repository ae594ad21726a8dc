"""schedule.jsonl: the mixture of every step of a run, as `apply` and `plan` write it, and the static mixture file beside it.

    {"schema":"mixture-schedule/1","step":0,"tokens_seen":131072,"weights":{"web":0.7,"math":0.3},"feedback":{"web":1.9,"math":2.4},
     "q":null,"entropy":0.6109,"missing":["math"]}

`step` counts from 0; `tokens_seen` is what the run had trained on at the END of that step, so that a step's length is the difference to
the line before; `weights` is the mixture decided for the step, `feedback` the bits per byte that were measured after it, `q` the value
the policy expected; `missing`, which is written only where there is something in it, names the domains whose loss was not measured after
the step, so that `feedback` carries the one before forward. A static mixture, `{"schema":"mixture/1","weights":{...}}`, is what `datamix baseline` writes and is read as a
schedule of one stage whose length nobody knows (tokens_seen 0). Sits above mixture.py; forms/ and swarms.py are built on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from datamix import mixture
from datamix.mixture import Weights
from tenfold_shared import BadInput
from tenfold_shared.jsonl import decode_line, read_lines, read_text
from tenfold_shared.records import readable

SCHEMA, STATIC = "mixture-schedule/1", "mixture/1"
ROUNDED = (
    1e-6  # weights are written with six decimals: a sum is off by as much for each domain, which is nobody's mistake
)


class Line(msgspec.Struct):
    """One step. weights: shares in 0..1, one for each domain; feedback: bits per byte; entropy: nats; missing: domains whose feedback is
    that of an earlier step."""

    step: int
    tokens_seen: int
    weights: dict[str, float]
    feedback: dict[str, float] | None = None
    q: float | None = None
    entropy: float = 0.0
    missing: list[str] = []
    schema: str = SCHEMA

    @property
    def vector(self) -> Weights:
        """The weights as an array [D], in the order of the names."""
        return np.array(list(self.weights.values()), dtype=np.float64)


class Stage(msgspec.Struct):
    """Consecutive steps with one mixture. first_step counts from 0; start and tokens are tokens (0 tokens: a length nobody knows)."""

    first_step: int
    steps: int
    start: int
    tokens: int
    weights: dict[str, float]


def tidy(weights: Mapping[str, float], where: str) -> dict[str, float]:
    """Checked weights that sum to 1 (mixture.checked), order kept. Rounding to six decimals is mended without a word."""
    values = np.array(list(weights.values()), dtype=np.float64)
    if np.isfinite(values).all() and values.size and abs(values.sum() - 1) <= ROUNDED * len(values):
        values = values / values.sum()
    return dict(zip(weights, (float(w) for w in mixture.checked(values, where)), strict=True))


def line(step: int, tokens_seen: int, weights: Mapping[str, float], feedback: Mapping[str, float] | None = None, q: float | None = None, missing: Sequence[str] = ()) -> Line:  # fmt: skip
    """A Line with its entropy filled in."""
    values = np.array(list(weights.values()), dtype=np.float64)
    told = None if feedback is None else dict(feedback)
    return Line(step, tokens_seen, dict(weights), told, q, mixture.entropy(values), list(missing))


def write_line(one: Line) -> bytes:
    """The line of a file, without its end. A q that is no number is written as null, as JSON has no other word for it."""
    if one.q is not None and not np.isfinite(one.q):
        one = msgspec.structs.replace(one, q=None)
    fields = msgspec.to_builtins(one)
    if not one.missing:
        del fields["missing"]
    return msgspec.json.encode({"schema": fields.pop("schema"), **fields})


def read(path: str) -> list[Line]:
    """The lines of a schedule, checked. Raises BadInput naming file, line and field: a wrong type, weights that are no mixture, steps that
    do not follow each other from 0, tokens that do not grow, other domains than the first line's, and a file without lines."""
    found: list[Line] = []
    for number, raw in read_lines(path):
        where = f"{_name(path)}:{number}"
        found.append(_checked(_convert(decode_line(where, raw), where), where, found))
    if not found:
        raise BadInput(f"{_name(path)}: no lines; expected a schedule, one step a line")
    return found


def load_any(path: str) -> list[Line]:
    """A schedule, or a static mixture as one line of unknown length (tokens_seen 0). Raises BadInput."""
    text = read_text(path)
    first = text.lstrip().split("\n", 1)[0]
    try:
        whole = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        whole = None  # several lines, or broken ones, which are named below
    if isinstance(whole, dict) and whole.get("schema") != SCHEMA and "step" not in whole:
        return [_static(whole, _name(path))]
    if not first:
        raise BadInput(f"{_name(path)}: empty; expected a schedule (schedule.jsonl) or a mixture ({STATIC})")
    found: list[Line] = []
    for number, raw in enumerate(text.split("\n"), 1):
        if raw.strip():
            where = f"{_name(path)}:{number}"
            found.append(_checked(_convert(decode_line(where, raw.encode()), where), where, found))
    return found


def average(lines: Sequence[Line]) -> dict[str, float]:
    """The mixture of the whole run: every step's weights, weighted by its tokens (evenly where no length is known)."""
    lengths = np.array([one.tokens for one in stages(lines, merge=False)], dtype=np.float64)
    if lengths.sum() <= 0:
        lengths = np.ones(len(lines))
    mean = lengths @ np.array([one.vector for one in lines]) / lengths.sum()
    return dict(zip(lines[0].weights, (float(w) for w in mean / mean.sum()), strict=True))


def stages(lines: Sequence[Line], merge: bool = True) -> list[Stage]:
    """Tokens per step, neighbours with equal weights made one stage unless merge is false."""
    found: list[Stage] = []
    before = 0
    for one in lines:
        length = one.tokens_seen - before
        if merge and found and found[-1].weights == one.weights:
            found[-1].steps += 1
            found[-1].tokens += length
        else:
            found.append(Stage(one.step, 1, before, length, dict(one.weights)))
        before = one.tokens_seen
    return found


def pretty(value: Any) -> bytes:
    """JSON for people: the bytes of a manifest, a result or a mixture file."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def static_file(weights: Mapping[str, float], method: str, **more: Any) -> bytes:
    """The bytes of a static mixture file."""
    told = {"schema": STATIC, "method": method, "weights": dict(weights), **more}
    return pretty(told)


def schedule_file(lines: Iterable[Line]) -> bytes:
    return b"".join(write_line(one) + b"\n" for one in lines)


def keep_inputs(output: str | None, inputs: Iterable[str | Path | None]) -> None:
    """Raises BadInput for an output that is an input, or lies in the folder of one, whether or not it is there and --overwrite is given: what
    a command reads it must not write over. None and names that are no files (of models elsewhere) are passed over."""
    if output in (None, "-"):
        return
    target = Path(str(output)).resolve()
    for one in inputs:
        if one is None or not Path(one).exists():
            continue
        place = Path(one).resolve()
        if target == place or (place.is_dir() and place in target.parents):
            raise BadInput(f"{output}: is within an input; choose another output")


def _name(path: str | Path) -> str:
    return "<stdin>" if str(path) == "-" else str(path)


def _convert(value: Any, where: str) -> Line:
    if isinstance(value, dict) and value.get("schema", SCHEMA) != SCHEMA:
        raise BadInput(f"{where}: schema: expected {SCHEMA}, got {value['schema']!r}")
    try:
        return msgspec.convert(value, Line)
    except msgspec.ValidationError as error:
        raise BadInput(f"{where}: {readable(error)}; expected a step of a schedule") from None


def _checked(one: Line, where: str, before: Sequence[Line]) -> Line:
    one.weights = tidy(one.weights, f"{where}: weights")
    if one.step != len(before):
        raise BadInput(f"{where}: step: {one.step}; expected {len(before)}, as steps follow each other from 0")
    seen = before[-1].tokens_seen if before else 0
    if one.tokens_seen <= seen:
        raise BadInput(f"{where}: tokens_seen: {one.tokens_seen}; expected more than the {seen} before it")
    if before:
        names = before[0].weights
        if set(one.weights) != set(names):
            odd = sorted(set(one.weights) ^ set(names))[0]
            raise BadInput(f"{where}: weights: {odd}: not in every line; expected the domains of the first line")
        one.weights = {name: one.weights[name] for name in names}
    for name, value in (one.feedback or {}).items():
        if not np.isfinite(value):
            raise BadInput(f"{where}: feedback: {name}: expected a number, got {value}")
    if unknown := [name for name in one.missing if name not in one.weights]:
        raise BadInput(f"{where}: missing: {unknown[0]}: not in weights; expected some of the line's domains")
    return one


def _static(whole: dict[str, Any], where: str) -> Line:
    if whole.get("schema", STATIC) != STATIC:
        raise BadInput(f"{where}: schema: expected {SCHEMA} or {STATIC}, got {whole['schema']!r}")
    try:
        weights = msgspec.convert(whole.get("weights"), dict[str, float])
    except msgspec.ValidationError as error:
        raise BadInput(f"{where}: weights: {error}; expected a number for each domain") from None
    return line(0, 0, tidy(weights, f"{where}: weights"))
