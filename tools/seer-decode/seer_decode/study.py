"""`seer-decode study`: six ways to choose blocks at equal budgets on one text, the paper's oracle study as one command."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from typing import Any

from seer_decode import needs, store
from seer_decode.cache import Method
from seer_decode.gate import Gates
from seer_decode.generate import cache_bytes
from seer_decode.measure import Case, Study, Tally, needles, windows
from seer_decode.select import Policy
from seer_decode.shape import check_block
from seer_decode.stepwise import CHUNK_BYTES
from seer_decode.text import Encoder, Reader, stream
from tenfold_shared import BadInput
from tenfold_shared.generate.transformers import out_of_memory
from tenfold_shared.models import load_causal_lm
from tenfold_shared.progress import Progress
from tenfold_shared.redaction import one_line

Record = dict[str, Any]


def figures(tally: Tally) -> Record:
    """The columns of a row. ppl_stderr: by windows; by a window's tokens where there is one. needle: share of answers found."""
    count = len(tally.nll)
    nll = sum(tally.nll) / count
    by_window = [(x - nll) ** 2 for x in tally.nll]
    error = math.sqrt(sum(by_window) / (count - 1) / count) if count > 1 else tally.spread
    mean = {name: round(sum(values) / count, 6) for name, values in
            (("coverage", tally.mass), ("coverage_peak", tally.peak), ("kl", tally.kl), ("agree", tally.agree), ("read", tally.read))}  # fmt: skip
    return {
        **mean, "ppl": round(math.exp(nll), 6), "ppl_stderr": round(math.exp(nll) * error, 6),
        "needle": round(sum(tally.needles) / len(tally.needles), 6) if tally.needles else None,
    }  # fmt: skip


def cases(
    methods: Sequence[Method], blocks: Sequence[int], budgets: Sequence[int], gates: dict[int, Gates], sink: int
) -> list[Case]:
    """Every method at every block and budget; `dense` is measured once beside them and has no case."""
    return [
        Case(method, Policy("budget", budget, block, sink=sink).checked(), gates.get(block) if method == "seer" else None)
        for block in blocks
        for budget in budgets
        for method in methods
        if method != "dense" and (method != "seer" or block in gates)
    ]  # fmt: skip


def run(
    texts: Sequence[str],
    *,
    uri: str,
    gates: Sequence[str],
    reuse_gate: bool,
    budgets: Sequence[int],
    blocks: Sequence[int] | None,
    methods: Sequence[Method],
    sink: int,
    dense_layers: int,
    length: int,
    windows_: int | None,
    decode: int,
    needles_: int,
    chat_template: str | None,
    skip_bad: int,
    dtype: str,
    device: str,
    trust_remote_code: bool,
    allow_extrapolation: bool,
    seed: int,
    plot: str | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """The verb; returns the exit code."""
    if plot:
        needs.plots(plot, texts)
    if not 0 < decode < length - 1:
        raise BadInput(
            f"--decode {decode}: expected at most {length - 2}, as a window of --length {length} needs a beginning"
        )
    seed %= 1 << 63
    reader = Reader(texts, skip_bad)
    model, tokenizer = load_causal_lm(uri, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit and length > limit and not allow_extrapolation:
        raise BadInput(f"--length {length}: the model has {limit} positions; --allow-extrapolation goes on beyond them")
    held, notes = held_gates(model, uri, gates, blocks, reuse_gate)
    blocks = [check_block(block, "--blocks") for block in (blocks or sorted(held) or [64])]
    if "seer" in methods:
        notes += [f"blocks of {block}: no gate for them, and no row of seer" for block in blocks if block not in held]
    all_cases = cases(methods, blocks, budgets, held, sink)
    notes += sorted({note for case in all_cases for note in case.policy.notes})
    if min(budgets) * 8 > length and not quiet:
        notes.append(f"--length {length}: under 8 times the least budget of {min(budgets)}; little is left out")
    wanted = None if windows_ is None else windows_ * length
    ids = stream(reader, Encoder(tokenizer, chat_template), wanted)
    found = windows(ids, length, windows_)
    needled = needles(tokenizer, ids, length, needles_, seed)
    wanted_bytes = (
        cache_bytes(model, length, min(blocks))
        + 4 * CHUNK_BYTES
        + 4 * decode * model.config.get_text_config().vocab_size * 4
    )
    for note in notes:
        print(f"seer-decode: {note}", file=sys.stderr)
    needs.room(wanted_bytes, model.device, f"a window of {length} tokens", "a smaller --length or --decode")
    study = Study(model, all_cases, dense_layers=dense_layers, seed=seed)
    try:
        with Progress("study", len(found) + len(needled), "windows", quiet) as progress:
            for window in progress.over(found):
                study.window(window, decode)
            for one in progress.over(needled):
                study.needle(one)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        needs.refuse("study", "a smaller --length or --decode, or --dtype bfloat16", one_line(error, 120))
    rows = [{"method": "dense", "block": None, "budget": None, **figures(study.dense)}] if "dense" in methods else []
    rows += [
        {"method": case.method, "block": case.policy.block, "budget": int(case.policy.value), **figures(tally)}
        for case, tally in zip(study.cases, study.tallies, strict=True)
    ]
    of = {"model": uri, "length": length, "windows": len(found), "decoded": decode, "needles": len(needled)}
    if plot:
        from seer_decode.plot import draw

        draw(rows, of, plot)
    if as_json:
        print(json.dumps({**of, "rows": rows}, allow_nan=False))
    else:
        _table(rows, of)
    return 0


def held_gates(
    model: Any, uri: str, folders: Sequence[str], blocks: Sequence[int] | None, reuse_gate: bool
) -> tuple[dict[int, Gates], list[str]]:
    """Gates by the block they serve, and lines to read. With reuse_gate the first serves blocks that have none of their own."""
    config, weights = model.config, needs.fingerprint(model)
    found: dict[int, Gates] = {}
    notes: list[str] = []
    for folder in folders:
        loaded = store.load(folder, config, name=uri, weights=weights)
        if loaded.made.shape.block in found:
            raise BadInput(f"--gate {folder}: another --gate has blocks of {loaded.made.shape.block} tokens too")
        found[loaded.made.shape.block] = loaded.gates
    for block in (blocks or ()) if reuse_gate and folders else ():
        if block not in found:
            loaded = store.load(folders[0], config, name=uri, weights=weights, block=block, reuse_gate=True)
            found[block] = loaded.gates
            notes += loaded.notes
    return {block: one.to(model.device) for block, one in found.items()}, notes


def _table(rows: Sequence[Record], of: Record) -> None:
    from rich.console import Console
    from rich.table import Table

    title = (
        f"{of['windows']} windows of {of['length']} tokens, the last {of['decoded']} decoded; {of['needles']} needles"
    )
    table = Table(title=title, title_justify="left")
    for name in ("method", "block", "budget", "coverage", "peaks", "kl", "agree", "ppl", "±", "needle"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for row in rows:
        needle = "" if row["needle"] is None else f"{row['needle']:.2f}"
        table.add_row(
            row["method"], str(row["block"] or ""), str(row["budget"] or ""), f"{row['coverage']:.4f}", f"{row['coverage_peak']:.4f}",
            f"{row['kl']:.4f}", f"{row['agree']:.4f}", f"{row['ppl']:.3f}", f"{row['ppl_stderr']:.3f}", needle,
        )  # fmt: skip
    Console(width=110 if not sys.stdout.isatty() else None).print(table)
