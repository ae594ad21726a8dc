"""`datamix export` and `datamix import`: schedules and mixtures in the forms of the programs that train on them.

A form is a module here, with what it looked up about its peer in its docstring. What a form cannot hold is refused: a schedule of several
stages where the peer's file is one mixture, unless the caller wants the average or a folder of one file a stage:

    DIR/stage-0001.txt ...    a file of the form for each stage
    DIR/stages.json           {"schema": "mixture-stages/1", "form", "stages": [{"file", "first_step", "steps", "start", "tokens"}]}

Neighbouring steps with equal weights are one stage. Weights are shares of tokens; each form's docstring says what its peer counts.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

import datamix
from datamix import schedule
from datamix.corpus import Corpus
from datamix.folder import Folder
from datamix.forms import doremi, hf, llm_foundry, megatron, nanotron, olmix, olmo_core, regmix, torchtitan
from datamix.forms.common import Form, How, Read
from datamix.forms.tables import import_tables
from datamix.schedule import Line, Stage
from tenfold_shared import BadInput
from tenfold_shared.cli import sha256_of
from tenfold_shared.jsonl import Output, Source, read_text, write_atomic

__all__ = ["FORMS", "Form", "export", "import_mixture", "import_tables"]

FORMS = {
    one.FORM.name: one.FORM
    for one in (regmix, doremi, olmix, megatron, hf, nanotron, torchtitan, olmo_core, llm_foundry)
}
INDEX, INDEX_SCHEMA = "stages.json", "mixture-stages/1"


def export(
    schedule_path: str,
    to: str,
    output: str | None,
    *,
    corpus: Corpus | None = None,
    paths: str | None = None,
    stages: bool = False,
    average: bool = False,
    step_tokens: int | None = None,
    overwrite: bool = False,
) -> int:
    """Writes a schedule or a static mixture in the form `to`, to a file or stdout, a folder for stages of a file each. Returns 0.

    paths: a template for the form's paths, such as "data/{domain}"; stages: a folder of one file a stage, for any form; average: the mean
    mixture weighted by tokens; step_tokens: tokens of one training step, for nanotron; corpus: names that must exist, and sizes. Raises
    BadInput for several stages in a form that holds one, domains that the corpus lacks, and names that the form cannot hold.
    """
    form = _form(to)
    if average and stages:
        raise BadInput("--average and --by-stage: choose one; the average has a single stage")
    source = Source([schedule_path], None)
    lines = schedule.load_any(schedule_path)
    found = schedule.stages(lines)
    if average:
        found = [Stage(0, len(lines), 0, lines[-1].tokens_seen, schedule.average(lines))]
    if corpus is not None:
        _match(found, corpus, schedule_path)
    told = {"to": to, "paths": paths, "by_stage": stages, "average": average, "step_tokens": step_tokens}
    how = How(paths, step_tokens, corpus)
    if stages or (len(found) > 1 and form.stages == "folder"):
        if output in (None, "-"):
            raise BadInput(f"-o: {len(found)} stages are a folder of files; give it a name, or --average")
        return _write_folder(str(output), form, found, how, told, schedule_path, overwrite)
    if len(found) > 1 and form.stages == "none":
        raise BadInput(f"{schedule_path}: {len(found)} stages, and {to} holds one mixture; add --average, or --by-stage for a file each")  # fmt: skip
    text = form.write(found, how)
    named = {} if schedule_path == "-" else {"source": source}
    with Output(output, tool="datamix", version=datamix.__version__, verb="export", options=told, overwrite=overwrite, **named) as out:  # fmt: skip
        if out.finished:
            print(f"datamix: {output}: complete already; nothing to do", file=sys.stderr)
        else:
            out.write_line(text.removesuffix("\n").encode())
            out.finish({"stages": len(found), "domains": len(found[0].weights)})
    return 0


def import_mixture(
    form: str,
    path: str,
    output: str | None,
    *,
    paths: str | None = None,
    step_tokens: int | None = None,
    overwrite: bool = False,
) -> int:
    """Reads a mixture of the form, or a folder of stages, and writes a static mixture file, or schedule.jsonl with one line a stage.
    Returns 0. Raises BadInput naming file and field for what is not of the form, and for stages whose length nobody knows."""
    lines = read(form, path, paths=paths, step_tokens=step_tokens)
    told = {"form": form, "paths": paths, "step_tokens": step_tokens}
    single = path != "-" and not Path(path).is_dir()
    named = {"source": Source([path], None)} if single else {}
    if len(lines) == 1 and lines[0].tokens_seen == 0:
        data = schedule.static_file(lines[0].weights, f"imported from {form}")
    else:
        data = schedule.schedule_file(lines)
    with Output(output, tool="datamix", version=datamix.__version__, verb="import", options=told, overwrite=overwrite, **named) as out:  # fmt: skip
        if out.finished:
            print(f"datamix: {output}: complete already; nothing to do", file=sys.stderr)
        else:
            out.write_line(data.removesuffix(b"\n"))
            out.finish({"stages": len(lines), "domains": len(lines[0].weights)})
    return 0


def read(form: str, path: str, *, paths: str | None = None, step_tokens: int | None = None) -> list[Line]:
    """A foreign mixture as lines of a schedule, one a stage; a mixture whose length is not known is one line with tokens_seen 0."""
    one, how = _form(form), How(paths, step_tokens)
    name = "<stdin>" if path == "-" else path
    if path != "-" and Path(path).is_dir():
        return _lines(_read_folder(Path(path), one, how), name)
    return _lines(one.read(read_text(path), name, how), name)


def _form(name: str) -> Form:
    if name not in FORMS:
        raise BadInput(f"{name}: no such form; there are {', '.join(FORMS)}")
    return FORMS[name]


def _lines(stages: list[Read], where: str) -> list[Line]:
    if len(stages) > 1 and not all(stage.tokens for stage in stages):
        raise BadInput(f"{where}: {len(stages)} stages, and not the tokens of each; expected a length for every stage")
    # Forms leave out domains without weight, another stage's too.
    names = dict.fromkeys(name for stage in stages for name in stage.weights)
    found, seen = [], 0
    for number, stage in enumerate(stages):
        at = f"{where}: stage {number}" if len(stages) > 1 else where
        seen += stage.tokens or 0
        weights = schedule.tidy({name: stage.weights.get(name, 0.0) for name in names}, at)
        found.append(schedule.line(number, seen, weights))
    return found


def _match(stages: list[Stage], corpus: Corpus, where: str) -> None:
    """Puts the weights in the corpus's order, 0 for what they do not name."""
    for stage in stages:
        if unknown := [name for name in stage.weights if name not in corpus.names]:
            raise BadInput(f"{where}: weights: {unknown[0]}: not a domain of {corpus.folder}; there are {', '.join(corpus.names)}")  # fmt: skip
        stage.weights = {name: stage.weights.get(name, 0.0) for name in corpus.names}


def _write_folder(
    folder: str, form: Form, stages: list[Stage], how: How, options: dict[str, Any], path: str, overwrite: bool
) -> int:
    inputs = [] if path == "-" else [{"path": path, "sha256": sha256_of(path)}]
    with Folder(folder, "export", options, inputs, seed=None, overwrite=overwrite) as out:
        if out.finished is not None:
            print(f"datamix: {folder}: complete already; nothing to do", file=sys.stderr)
            return 0
        listed = []
        for number, stage in enumerate(stages, 1):
            file = f"stage-{number:04}{form.suffix}"
            write_atomic(out.path / file, form.write([stage], how).encode())
            listed.append({"file": file, "first_step": stage.first_step, "steps": stage.steps, "start": stage.start, "tokens": stage.tokens})  # fmt: skip
        write_atomic(out.path / INDEX, schedule.pretty({"schema": INDEX_SCHEMA, "form": form.name, "stages": listed}))
        out.publish({"stages": len(stages), "domains": len(stages[0].weights)})
    return 0


class _Listed(msgspec.Struct):
    file: str
    tokens: int


class _Index(msgspec.Struct):
    schema: str
    form: str
    stages: list[_Listed]


def _read_folder(folder: Path, form: Form, how: How) -> list[Read]:
    path = folder / INDEX
    try:
        index = msgspec.json.decode(path.read_bytes(), type=_Index)
    except FileNotFoundError:
        raise BadInput(
            f"{folder}: no {INDEX} in it; expected a file, or a folder of stages that export wrote"
        ) from None
    except (msgspec.DecodeError, OSError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{path}: not an index of stages: {error}") from None
    if index.schema != INDEX_SCHEMA or index.form != form.name:
        raise BadInput(f"{path}: {index.schema} of {index.form}; expected {INDEX_SCHEMA} of {form.name}")
    if not index.stages:
        raise BadInput(f"{path}: stages: empty")
    found = []
    for listed in index.stages:
        if Path(listed.file).name != listed.file or listed.file in ("", ".."):
            raise BadInput(f"{path}: file: {listed.file}: expected the name of a file in the same folder")
        file = str(folder / listed.file)
        (stage,) = form.read(read_text(file), file, how)[:1] or [Read({})]
        found.append(Read(stage.weights, listed.tokens))
    return found
