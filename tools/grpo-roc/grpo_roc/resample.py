"""`grpo-roc score` and `resample`: penalties of trajectories, and which of each group are kept with what advantage.

Where it sits: transcript.py and penalty.py look at one trajectory, roc.py chooses among a group's; here are the files. Groups may be scattered over the input, and trajectories
are long: the input is read twice, and of each trajectory only its reward and penalties are held between.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

import grpo_roc
from grpo_roc import penalty, readers, roc
from grpo_roc.transcript import answers_of, calls_of, turns_of
from tenfold_shared import BadInput
from tenfold_shared.cli import Selection
from tenfold_shared.jsonl import Flow, Output, Source
from tenfold_shared.progress import Progress
from tenfold_shared.records import RecordProblem, check_schema

Record = dict[str, Any]


class Settings(msgspec.Struct, frozen=True):
    """What decides the bytes written. compat `rstar`: the released scorer and selection."""

    form: str = "auto"
    compat: str | None = None
    group_size: int | None = None
    roc_select: roc.Select = "inverse"
    epsilon: float = 1e-3
    ddof: int = 1
    seed: int = 0


class Seen(msgspec.Struct, gc=False):
    """What is held of a trajectory."""

    rollout: Any
    reward: float
    err: float
    form: float
    failed: int
    calls: int
    blocks: int


def penalties_of(record: Record, turns: Sequence[Record], compat: str | None) -> penalty.Penalty:
    if compat == "rstar":
        dumped = isinstance(record.get("output"), str) and "score" in record  # verl's, with the text as it was scored
        text = readers.chatml(record["output"]) if dumped else penalty.response_text(turns)
        return penalty.rstar(text)
    return penalty.of_turns(turns)


def scored(source: Source, settings: Settings, bad: set[int]) -> Iterator[tuple[str, Record, Seen]]:
    """(where, the record, what is held of it). bad: takes the places of records that are left out (--skip-bad)."""
    for place, (where, record) in enumerate(source):
        try:
            check_schema(record, "sample")
            turns = turns_of(record)
        except RecordProblem as problem:
            source._tolerate(BadInput(f"{where}: {problem}"))
            bad.add(place)
            continue
        found, calls = penalties_of(record, turns, settings.compat), calls_of(turns)
        yield where, record, Seen(record["rollout"], float(record["reward"]), found.err, found.format, calls.failed, calls.counted, answers_of(turns).count)  # fmt: skip


def with_penalties(record: Record, seen: Seen) -> Record:
    return {**record, "p_err": seen.err, "p_format": seen.form, "p_total": seen.err + seen.form}


def choose(members: dict[str, list[Seen]], settings: Settings) -> dict[str, roc.Choice]:
    assert settings.group_size is not None
    found = {}
    for group, them in members.items():
        rewards, totals = [one.reward for one in them], [one.err + one.form for one in them]
        if settings.compat == "rstar":
            try:
                found[group] = roc.choose_rstar(rewards, totals, settings.group_size, settings.ddof)
            except ValueError as problem:
                raise BadInput(f"group {group}: --compat rstar: {problem}") from None
        else:
            found[group] = roc.choose(
                rewards, totals, settings.group_size, group=group, order=[one.rollout for one in them], select=settings.roc_select, epsilon=settings.epsilon, seed=settings.seed,
                ddof=settings.ddof,
            )  # fmt: skip
    return found


def summary_of(members: dict[str, list[Seen]], choices: dict[str, roc.Choice], size: int) -> Record:
    """What was done to the groups. Shares of failed calls are over all calls of the right trajectories, before and after."""
    found: Record = {"groups": len(members), "trajectories": sum(map(len, members.values()))}
    found["equal_rewards"] = {"all_right": 0, "all_wrong": 0}
    sums = {
        name: [0, 0, 0, 0, 0] for name in ("before", "after")
    }  # right trajectories, failed calls, calls, blocks, all
    short = 0
    for group, them in members.items():
        choice = choices[group]
        if choice.reasons[0] == "equal_rewards":
            found["equal_rewards"]["all_right" if them[0].reward > 0 else "all_wrong"] += 1
            continue
        short += len(them) < size
        for one, kept in zip(them, choice.kept, strict=True):
            for name in ("before", *(["after"] if kept else [])):
                sums[name][4] += 1
                if one.reward > 0:
                    for k, value in enumerate((1, one.failed, one.calls, one.blocks)):
                        sums[name][k] += value
    for name, (right, failed, calls, blocks, every) in sums.items():
        found[name] = {
            "trajectories": every,
            "right": right / every if every else None,
            "error_share_in_right": failed / calls if calls else None,
            "answer_blocks_in_right": blocks / right if right else None,
        }
    return {**found, "short_groups": short}


def source_of(files: Sequence[str], selection: Selection, settings: Settings, *, keep: bool) -> Source:
    """keep: what can be read only once is copied, so that it can be read twice or named."""
    source: Source = selection.source(
        files, None, expand=lambda located: readers.read(located, settings.form, source._tolerate), keep=keep
    )
    return source


def identity(settings: Settings, selection: Selection) -> Record:
    return {**msgspec.to_builtins(settings), **selection.identity()}


def score(
    files: Sequence[str], selection: Selection, *, settings: Settings, output: str | None, overwrite: bool, quiet: bool
) -> int:
    source = source_of(files, selection, settings, keep=output is not None)
    decides = {
        name: x
        for name, x in identity(settings, selection).items()
        if name in ("form", "compat", *selection.identity())
    }
    done = Flow()
    with (
        Output(
            output,
            tool="grpo-roc",
            version=grpo_roc.__version__,
            verb="score",
            options=decides,
            source=source,
            overwrite=overwrite,
        ) as out,
        Progress("score", None, "trajectory", quiet) as bar,
    ):
        if out.finished:
            print(f"grpo-roc: {output}: complete already; nothing to do", file=sys.stderr)
            return 0
        for _, record, seen in scored(source, settings, set()):
            out.write(with_penalties(record, seen))
            done.read += 1
            done.written += 1
            bar.update()
        return out.complete(done, source)


def resample(
    files: Sequence[str],
    selection: Selection,
    *,
    settings: Settings,
    output: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    explain: str | None = None,
) -> int:
    source = source_of(files, selection, settings, keep=True)
    # A part is chosen as the whole is: what is kept of a group must not hang on where the lines are cut.
    whole = source if selection.shard is None else source_of(files, replace(selection, shard=None), settings, keep=True)
    done = Flow()
    with (
        Output(
            output,
            tool="grpo-roc",
            version=grpo_roc.__version__,
            verb="resample",
            options=identity(settings, selection),
            source=source,
            overwrite=overwrite,
        ) as out,
        Progress("resample", None, "trajectory", quiet) as bar,
    ):
        if out.finished:
            print(f"grpo-roc: {output}: complete already; nothing to do", file=sys.stderr)
            return 0
        members: dict[str, list[Seen]] = {}
        names: dict[str, set[Any]] = {}
        bad: set[int] = set()
        for where, record, seen in scored(whole, settings, bad):
            group = str(record["group"])
            if seen.rollout in names.setdefault(group, set()):
                raise BadInput(
                    f"{where}: rollout: {seen.rollout} of group {group} appears twice; rollouts of a group must be unique"
                )
            names[group].add(seen.rollout)
            members.setdefault(group, []).append(seen)
        del names
        choices = choose(members, settings)
        if explain is not None and explain not in members:
            raise BadInput(
                f"--show {explain}: no such group; there are {', '.join(list(members)[:5])}{', ...' if len(members) > 5 else ''}"
            )
        at = dict.fromkeys(members, 0)
        skipped, whole.bad = whole.bad, 0
        first, end = source.bounds() or (0, sys.maxsize)
        for place, (_, record) in enumerate(whole):
            if place in bad:
                continue
            group = str(record["group"])
            choice, k = choices[group], at[group]
            at[group] += 1
            if not first <= place < end:
                continue
            kept = bool(choice.kept[k])
            out.write(
                {
                    **with_penalties(record, members[group][k]),
                    "kept": kept,
                    "kept_reason": choice.reasons[k],
                    "advantage": float(choice.advantage[k]) if kept else None,
                }
            )
            done.read += 1
            done.written += 1
            bar.update()
        assert settings.group_size is not None
        source.bad = skipped
        found = summary_of(members, choices, settings.group_size)
        code = out.complete(done, source, seed=settings.seed, summary=found)
    if explain is not None:
        explained(explain, members[explain], choices[explain], settings)
    tell(found, settings, as_json=as_json, quiet=quiet)
    return code


def explained(group: str, them: Sequence[Seen], choice: roc.Choice, settings: Settings) -> None:
    """A group's choice, to stderr: each trajectory with its penalties, the chance that it had, and what became of it."""
    from rich.console import Console
    from rich.table import Table

    assert settings.group_size is not None
    rewards = [one.reward for one in them]
    right = [k for k, reward in enumerate(rewards) if reward > 0]
    wrong = [k for k, reward in enumerate(rewards) if reward <= 0]
    equal = choice.reasons[0] == "equal_rewards"
    chance: dict[int, float] = {}
    if not equal and settings.compat is None:
        good, bad = roc.quotas(len(right), len(wrong), settings.group_size)
        totals = np.array([them[k].err + them[k].form for k in right])
        if settings.roc_select == "inverse":
            chance.update(zip(right, roc.chances(totals, good, settings.epsilon).tolist(), strict=True))
        chance.update(dict.fromkeys(wrong, bad / len(wrong)))
    kept = (
        "all rewards are equal: nothing is kept, as nothing could be learnt"
        if equal
        else f"{int(choice.kept[right].sum())} of {len(right)} right ones kept, {int(choice.kept[wrong].sum())} of {len(wrong)} wrong ones"
    )
    table = Table(title=f"group {group}: {kept}")
    for column in (
        "rollout",
        "reward",
        "calls",
        "failed",
        "answers",
        "p_err",
        "p_format",
        "chance",
        "kept",
        "advantage",
    ):
        table.add_column(column, justify="right")
    order = sorted(range(len(them)), key=lambda k: (-rewards[k], them[k].err + them[k].form, str(them[k].rollout)))
    for k in order:
        one = them[k]
        table.add_row(
            str(one.rollout), f"{one.reward:g}", str(one.calls), str(one.failed), str(one.blocks), f"{one.err:.3f}", f"{one.form:.3f}", f"{chance[k]:.3f}" if k in chance else "",
            "yes" if choice.kept[k] else "", f"{choice.advantage[k]:+.3f}" if choice.kept[k] else "",
        )  # fmt: skip
    console = Console(stderr=True)
    if not console.is_terminal:
        console = Console(stderr=True, width=120)  # a file has room for every column
    console.print(table)


def tell(found: Record, settings: Settings, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        print(json.dumps(found), file=sys.stderr)
        return
    if quiet:
        return

    def share(x: float | None) -> str:
        return "-" if x is None else f"{x:.3f}"

    equal = found["equal_rewards"]
    before, after = found["before"], found["after"]
    print(
        f"grpo-roc: {found['groups']} groups, {found['trajectories']} trajectories; dropped: {equal['all_right']} all right, {equal['all_wrong']} all wrong; kept {after['trajectories']} of {before['trajectories']}; "
        f"failed calls in right ones {share(before['error_share_in_right'])} -> {share(after['error_share_in_right'])}, right {share(before['right'])} -> {share(after['right'])}",
        file=sys.stderr,
    )
    if found["short_groups"]:
        what = "none of them was kept, as released" if settings.compat == "rstar" else "all of them were kept"
        print(
            f"grpo-roc: {found['short_groups']} groups have fewer than {settings.group_size} trajectories: {what}",
            file=sys.stderr,
        )
