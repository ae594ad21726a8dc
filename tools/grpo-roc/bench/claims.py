"""`make claims-grpo-roc`: does Resample-on-Correct clear failing calls where plain GRPO and its controls do not, at our scale? Paired by seed.

    python tools/grpo-roc/bench/claims.py [--quick] [--only PART]

text      `grpo-roc toy`: a transformer of 0.1 million parameters that writes Python which is run; five arms, eight seeds
tabular   `grpo-roc toy --task tabular`: a policy of three numbers; five arms, ten seeds, beside the figures that another run of it had

Every arm begins with the same weights, and has the same prompts, objective and advantages: they differ in what is kept of the trajectories. Parts leave PART.json in out/claims/grpo-roc, and one whose file is
there is not run again; a part that was cut short goes on. --quick has a folder of its own and writes no claims.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from grpo_roc.toy_table import CONTROLS, FAR, MARGIN, interval

BENCH = Path(__file__).resolve().parent
COMMAND = "make claims-grpo-roc"
PAPER = "arXiv 2508.20722"
ELSEWHERE = {
    "error_share_end": (0.075, 0.02),
    "doubled": (0.029, 0.02),
    "tokens": (36.0, 1.0),
}  # tabular, at the end, with Resample-on-Correct: value, and how near is near
Record = dict[str, Any]


class Claims:
    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.folder = Path("out/claims") / ("grpo-roc-quick" if quick else "grpo-roc")
        self.options = {
            "text": ["--seeds", "1", "--steps", "20", "--arms", "grpo,roc"] if quick else ["--seeds", "8"],
            "tabular": ["--task", "tabular", *(["--seeds", "2", "--steps", "50"] if quick else ["--seeds", "10"])],
        }

    def parts(self) -> list[str]:
        return list(self.options)

    def part(self, name: str) -> Record:
        words = ["grpo-roc", "toy", *self.options[name], "-o", str(self.folder / f"toy-{name}"), "--json", "-q"]
        done = subprocess.run(words, check=False, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}")
        return {**json.loads(done.stdout), "command": " ".join(words)}

    def claims(self, results: dict[str, Record]) -> list[Record]:
        return [row for name, told in results.items() for row in rows_of(name, told)]


def rows_of(task: str, told: Record) -> list[Record]:
    """What one task's table says, a row a control."""
    arms, start, seeds = told["arms"], told["start"], told["seeds"]
    mine = arms["roc"]
    controls = [arm for arm in CONTROLS if arm in arms]
    rows: list[Record] = []

    def add(claim: str, source: str, span: Record, control: Record, supported: str) -> None:
        rows.append({
            "claim": f"{task} toy: {claim}", "source": f"{PAPER}, {source}", "value": span["mean"], "low": span["low"], "high": span["high"], "control": control, "seeds": seeds,
            "supported": supported, "command": COMMAND, "machine": machine(),
        })  # fmt: skip

    def side(span: Record, least: float = 0.0) -> str:
        """Of a difference that should be below `least`."""
        if span["low"] is None:
            return "not_shown"
        return "yes" if span["high"] < least else "no" if span["low"] > least else "not_shown"

    conditions = list(told["precondition"].values())
    lowest = interval([one["p"][2] / one["p"][0] for one in conditions])
    each = {str(seed): one["p"] for seed, one in told["precondition"].items()}
    add("precondition: P(right | two errors or more) / P(right | none) at the start", "the toy's own", lowest, {"p of none, one, two or more": each}, "yes" if all(one["holds"] for one in conditions) else "no")  # fmt: skip
    for arm in controls:
        other, less = arms[arm], told["differences"][arm]
        ratio = mine["error_share"]["mean"] / other["error_share"]["mean"]
        found = side(less["error_share"])
        if found == "yes" and ratio > FAR:
            found = "not_shown"
        shares = {arm: other["error_share"]["mean"], "roc": mine["error_share"]["mean"], "ratio": ratio, "start": start["error_share"]["mean"]}  # fmt: skip
        add(f"error share of calls in right trajectories, mean over the run, far below {arm}'s (roc less {arm})", "figure 4", less["error_share"], shares, found)  # fmt: skip
    drift = interval([a - b for a, b in zip(mine["doubled"]["each"], start["doubled"]["each"], strict=True)])
    ends = {arm: one["doubled"]["each"] for arm, one in arms.items()}
    add("no drift into doubled answers: their share at the end less at the start", "section 2.2.3", drift, {"start": start["doubled"]["each"], **ends}, side(drift))  # fmt: skip
    for arm in controls:
        less = told["differences"][arm]["tokens"]
        add(f"shorter responses than {arm}'s at the end, model tokens (roc less {arm})", "figure 9", less, {arm: arms[arm]["tokens"]["mean"], "roc": mine["tokens"]["mean"], "start": start["tokens"]["mean"]}, side(less))  # fmt: skip
    kept = interval([a - b for a, b in zip(mine["accuracy"]["each"], start["accuracy"]["each"], strict=True)])
    against = [
        ("the start", kept, start["accuracy"]["mean"]),
        *((arm, told["differences"][arm]["accuracy"], arms[arm]["accuracy"]["mean"]) for arm in controls),
    ]
    for name, less, value in against:
        loss = {"mean": less["mean"], "low": less["low"], "high": less["high"]}
        found = "not_shown" if less["low"] is None else "yes" if less["low"] > -MARGIN else "no" if less["high"] < -MARGIN else "not_shown"  # fmt: skip
        add(f"no loss of pass@1 against {name}, to {MARGIN} (roc less {name})", "figure 9", loss, {name: value, "roc": mine["accuracy"]["mean"]}, found)  # fmt: skip
    if task == "tabular":
        for field, (value, near) in ELSEWHERE.items():
            one = mine[field]
            add(f"{field.removesuffix('_end').replace('_', ' ')} at the end, as measured elsewhere of this toy ({value})", "tabular mechanism", one, {"elsewhere": value}, "yes" if abs(one["mean"] - value) <= near else "no")  # fmt: skip
    return rows


def machine() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        name = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores"


def write(path: Path, value: Any) -> None:
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", metavar="PART")
    given = parser.parse_args()
    claims = Claims(given.quick)
    claims.folder.mkdir(parents=True, exist_ok=True)
    if given.only and given.only not in claims.parts():
        parser.error(f"--only {given.only}: expected one of {', '.join(claims.parts())}")
    for name in [given.only] if given.only else claims.parts():
        path = claims.folder / f"{name}.json"
        if given.only or not path.exists():
            print(f"{name} ...", file=sys.stderr, flush=True)
            started = time.monotonic()
            write(path, claims.part(name))
            print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    if given.only:
        return
    results = {name: json.loads((claims.folder / f"{name}.json").read_text()) for name in claims.parts()}
    found = claims.claims(results)
    for one in found:
        span = "" if one["low"] is None else f" [{one['low']:+.3f}, {one['high']:+.3f}]"
        print(f"{one['supported']:>9}  {one['claim']}: {one['value']:+.3f}{span}")
    if not given.quick:
        write(BENCH / "claims.json", found)
        write(BENCH / "tables.json", [results[name] for name in claims.parts()])


if __name__ == "__main__":
    main()
