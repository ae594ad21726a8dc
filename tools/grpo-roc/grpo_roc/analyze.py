"""`grpo-roc analyze`: what trajectories do after a call, and where a model hesitates (arXiv 2508.20722, section 5.4).

From the records alone: how often a failed call is followed by one that succeeds (fixed), and a success by another call (verified); calls by status. With a model, whose policy the records' tokens were drawn from
(`rollout --token-ids`): the entropy of every sampled token's distribution, by the part of a response that it stands in, and how the fifth of each trajectory's tokens with the highest entropy is spread over them.

    before    thinking before the first call          after_success, after_error   the first tokens of a turn that answers a call
    call      inside a tool call's tags                answer                       inside the answer tags
    later     all else

Where it sits: beside evaluate.py; policy.py works entropies out.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from grpo_roc.transcript import ERRORS, FINE, turns_of
from tenfold_shared import BadInput
from tenfold_shared.cli import Selection
from tenfold_shared.records import RecordProblem

if TYPE_CHECKING:
    from grpo_roc.policy import Policy

Record = dict[str, Any]
PARTS = ("before", "call", "after_success", "after_error", "answer", "later")
TOP = 0.2  # of a trajectory's tokens, by entropy
WINDOW = 8  # tokens before one that decide how its bytes are read


class Rates(msgspec.Struct):
    """fixed: of failed calls that another call followed, how many of those succeeded; verified: of successes, how many another call followed."""

    trajectories: int = 0
    calls: int = 0
    failed: int = 0
    retried: int = 0
    fixed: int = 0
    succeeded: int = 0
    verified: int = 0
    statuses: Counter[str] = msgspec.field(default_factory=Counter)

    def add(self, turns: Sequence[Record]) -> None:
        statuses = [call["status"] for turn in turns for call in turn.get("calls") or ()]
        self.trajectories += 1
        self.calls += len(statuses)
        self.statuses.update(statuses)
        for place, status in enumerate(statuses):
            after = statuses[place + 1] if place + 1 < len(statuses) else None
            if status in ERRORS:
                self.failed += 1
                self.retried += after is not None
                self.fixed += after in FINE
            elif status in FINE:
                self.succeeded += 1
                self.verified += after is not None

    def told(self) -> Record:
        return {
            "trajectories": self.trajectories,
            "calls": self.calls,
            "statuses": dict(sorted(self.statuses.items())),
            "failed": self.failed,
            "retry_rate": self.retried / self.failed if self.failed else None,
            "fix_rate": self.fixed / self.retried if self.retried else None,
            "verify_rate": self.verified / self.succeeded if self.succeeded else None,
        }


def parts_of(turns: Sequence[Record], spoken: Sequence[Sequence[str]], first: int) -> list[str]:
    """The part of every sampled token, in order. spoken: of each turn, its tokens as text, which together are what the model said; first: tokens of a turn that count as after a call."""
    found: list[str] = []
    calls = 0
    for number, pieces in enumerate(spoken):
        before = turns[number - 1].get("calls") or [] if number else []
        answers = "" if not before else "after_error" if before[-1]["status"] in ERRORS else "after_success"
        text, inside = "", ""
        for place, piece in enumerate(pieces):
            text += piece
            opened = {
                "call": text.rfind("<tool_call>") - text.rfind("</tool_call>"),
                "answer": text.rfind("<answer>") - text.rfind("</answer>"),
            }
            was = inside
            inside = next((name for name, ahead in opened.items() if ahead > 0), "")
            if inside or was:  # the token that closes a part is its own
                found.append(inside or was)
            elif answers and place < first:
                found.append(answers)
            else:
                found.append("before" if calls == 0 else "later")
        calls += len(turns[number].get("calls") or [])
    return found


def pieces_of(ids: Sequence[int], decode: Any) -> list[str]:
    """Tokens as text that adds up: what each brings, read with those before it; a character of several tokens comes with the last of them."""
    found = []
    for k in range(len(ids)):
        low = max(0, k - WINDOW)
        whole, without = (decode(ids[low:end]).rstrip("\ufffd") for end in (k + 1, k))
        found.append(whole[len(without) :])
    return found


def turns_ids(record: Record, where: str) -> list[list[int]]:
    """Sampled tokens of each turn, from the loss mask. Raises BadInput."""
    ids, mask = record.get("token_ids"), record.get("loss_mask")
    if (
        not isinstance(ids, list)
        or not isinstance(mask, list)
        or len(ids) != len(mask)
        or not isinstance(record.get("prompt_ids"), list)
    ):
        raise BadInput(
            f"{where}: prompt_ids, token_ids, loss_mask: expected tokens of one length (`grpo-roc rollout --token-ids` writes them); leave out --model to do without"
        )
    found: list[list[int]] = []
    last = 0
    for token, sampled in zip(ids, mask, strict=True):
        if sampled:
            if not last:
                found.append([])
            found[-1].append(token)
        last = sampled
    return found


def entropies(policy: Policy, records: Sequence[Record]) -> list[list[float]]:
    """Of every sampled token of each record, in order."""
    import torch

    from grpo_roc.policy import Example

    examples = [
        Example(one["prompt_ids"], one["token_ids"], [bool(x) for x in one["loss_mask"]], 0.0) for one in records
    ]
    found: list[dict[int, float]] = [{} for _ in records]
    with torch.no_grad():
        for pack in policy.packs(examples):
            _, values = policy.predicted(pack, entropy=True)
            assert values is not None
            for who, place, value in zip(pack.owner.tolist(), pack.place.tolist(), values.tolist(), strict=True):
                found[who][place] = value
    return [[one[place] for place in sorted(one)] for one in found]


def spread(parts: Sequence[Sequence[str]], values: Sequence[Sequence[float]]) -> Record:
    """By part: tokens, mean entropy, and of the highest fifth of each trajectory's tokens the share that stands there."""
    by: dict[str, list[float]] = {name: [] for name in PARTS}
    high: Counter[str] = Counter()
    for names, each in zip(parts, values, strict=True):
        for name, value in zip(names, each, strict=True):
            by[name].append(value)
        most = max(1, round(TOP * len(each))) if each else 0
        for k in sorted(range(len(each)), key=lambda k: -each[k])[:most]:
            high[names[k]] += 1
    total = sum(high.values())
    return {
        name: {
            "tokens": len(each),
            "entropy": statistics.fmean(each) if each else None,
            "share_of_high": high[name] / total if total else None,
        }
        for name, each in by.items()
    }


def run(
    files: Sequence[str],
    selection: Selection,
    *,
    model: str | None,
    dtype: str,
    device: str,
    trust_remote_code: bool,
    temperature: float,
    first: int,
    as_json: bool,
) -> int:
    """The verb. Raises BadInput and Missing."""
    source = selection.source(files, None)
    groups = {"all": Rates(), "correct": Rates(), "wrong": Rates()}
    records: list[tuple[str, Record]] = []
    for where, record in source:
        if record.get("error"):
            continue
        try:
            turns = turns_of(record)
        except RecordProblem as problem:
            raise BadInput(f"{where}: {problem}") from None
        groups["all"].add(turns)
        won = record.get("reward") if record.get("reward") is not None else record.get("correct")
        if isinstance(won, bool | int | float):
            groups["correct" if won > 0 else "wrong"].add(turns)
        if model is not None:
            records.append((where, record))
    if not groups["all"].trajectories:
        raise BadInput("input: expected at least one trajectory, got none")
    found: Record = {name: one.told() for name, one in groups.items() if one.trajectories}
    if model is not None:
        found["entropy"] = _with_model(model, records, dtype, device, trust_remote_code, temperature, first)
    if as_json:
        print(json.dumps(found))
        return 0
    for line in _lines(found):
        print(line)
    return 0


def _with_model(model: str, records: Sequence[tuple[str, Record]], dtype: str, device: str, trust_remote_code: bool, temperature: float, first: int) -> Record:  # fmt: skip
    from grpo_roc.packing import beneath
    from grpo_roc.policy import Optimisation, Policy
    from tenfold_shared.models import load_causal_lm

    each = [turns_ids(record, where) for where, record in records]
    lm, tokenizer = load_causal_lm(model, dtype, device, trust_remote_code)
    lm = beneath(lm).eval()
    lm.requires_grad_(False)
    policy = Policy(lm, Optimisation(temperature=temperature), training=False)

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    parts = []
    for (where, record), spoken in zip(records, each, strict=True):
        if len(spoken) != len(record["turns"]):
            raise BadInput(f"{where}: {len(record['turns'])} turns, and {len(spoken)} runs of sampled tokens")
        parts.append(parts_of(record["turns"], [pieces_of(ids, decode) for ids in spoken], first))
    return spread(parts, entropies(policy, [record for _, record in records]))


def _lines(found: Record) -> Iterator[str]:
    def told(value: Any) -> str:
        return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)

    for name in ("all", "correct", "wrong"):
        if name in found:
            one = found[name]
            yield f"{name}: {one['trajectories']} trajectories, {one['calls']} calls ({', '.join(f'{n} {status}' for status, n in one['statuses'].items()) or 'none'}); of failed ones {told(one['retry_rate'])} tried again, of these {told(one['fix_rate'])} fixed; of successes {told(one['verify_rate'])} followed by another call"
    for part, one in found.get("entropy", {}).items():
        yield f"{part}: {one['tokens']} tokens, entropy {told(one['entropy'])}, {told(one['share_of_high'])} of the highest fifth"
