"""`make claims-longexp-peft`: every way to skip, on a model that was trained and not planted; paired by seed.

    python tools/longexp-peft/bench/claims.py [--quick] [--only PART]

The model is `make-model tiny-relu` as it stands: pre-trained from nothing with an activation penalty on the King James Bible and
Python's language reference. It is fine-tuned (LoRA of rank 16 on queries, values and both feed-forward matrices) on text of a kind
it has not seen, the source of Python's standard library, in documents of 256 tokens and rows of 1,024; a quarter of the rows is held
out. For each of three seeds (adapter, order, what is held out) `longexp-peft bench` trains all arms side by side, on the same rows
in the same order, and gives time, bound and held-out loss, which is computed densely. Parts leave PART.json in out/claims/longexp-peft,
and one whose file is there is not run again. --quick (a model of seconds, few steps) has a folder of its own and writes no claims.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
COMMAND = "make claims-longexp-peft"
PAPER = "arXiv 2510.15964"
SEEDS = (0, 1, 2)
Record = dict[str, Any]


class Claims:
    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.folder = Path("out/claims") / ("longexp-peft-quick" if quick else "longexp-peft")
        self.steps = 6 if quick else 150
        self.seeds = SEEDS[:2] if quick else SEEDS

    def parts(self) -> list[str]:
        return ["model", "text", "profile", *(f"seed-{seed}" for seed in self.seeds)]

    def part(self, name: str) -> Record:
        kind, _, what = name.partition("-")
        return getattr(self, kind)(what) if what else getattr(self, kind)()

    def model(self) -> Record:
        started = time.monotonic()
        call(
            "longexp-peft",
            "make-model",
            "tiny-relu",
            *(["--small"] if self.quick else []),
            "-o",
            str(self.folder / "tiny"),
        )
        manifest = json.loads((self.folder / "tiny/manifest.json").read_bytes())
        return {"seconds": round(time.monotonic() - started, 1), "manifest": manifest}

    def text(self) -> Record:
        """Source files of the standard library's top, one a record, in the order of their names."""
        folder = Path(os.__file__).parent
        files = sorted(folder.glob("[a-z]*.py"))
        kept = [one.read_text(encoding="utf-8", errors="replace") for one in files]
        lines = [json.dumps({"text": text[:6000]}) for text in kept if len(text) > 2000]
        (self.folder / "source.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return {"files": len(lines), "python": platform.python_version()}

    def reading(self) -> list[str]:
        """256 tokens a document, but for the quick model, which has fewer positions."""
        length = "64" if self.quick else "256"
        return [
            str(self.folder / "source.jsonl"),
            "--model",
            str(self.folder / "tiny"),
            "--max-length",
            length,
            "--batch-tokens",
            "1024",
        ]

    def profile(self) -> Record:
        return json.loads(call("longexp-peft", "profile", *self.reading(), "--attention-block", "16", "--json", "-q"))

    def seed(self, seed: str) -> Record:
        command = [
            "longexp-peft",
            "bench",
            *self.reading(),
            "--rank",
            "16",
            "--alpha",
            "32",
            "--target-modules",
            "q_proj,v_proj,fc1,fc2",
        ]
        command += [
            "--neuron-block",
            "16",
            "--attention-block",
            "16",
            "--tokens",
            "20000" if self.quick else "120000",
            "--steps",
            str(self.steps),
        ]
        command += ["--lr", "2e-3", "--seed", seed, "--json"]
        return {**json.loads(call(*command)), "command": " ".join(command)}

    # ------------------------------------------------------------ the table

    def claims(self, results: dict[str, Record]) -> list[Record]:
        common = {"seeds": list(self.seeds), "command": COMMAND, "machine": machine()}
        runs = [{one["arm"]: one for one in results[f"seed-{seed}"]["arms"]} for seed in self.seeds]

        def of(arm: str, field: str = "held_out") -> list[float]:
            return [run[arm][field] for run in runs]

        found: list[Record] = []
        dense = of("dense")
        for arm in ("exact", "predicted", "static", "predicted-attention", "svd"):
            if arm not in runs[0]:
                continue
            value, low, high = interval([a / b - 1 for a, b in zip(of(arm), dense, strict=True)])
            # Exact differs from dense by rounding alone, which 150 steps make visible; the tests hold 50 steps to 1e-5.
            within = 0.001 if arm == "exact" else 0.01
            found.append({
                "claim": f"{arm}: held-out loss is within {100 * within:g} % of dense (ratio − 1)", "source": f"{PAPER}, accuracy and convergence",
                "value": value, "low": low, "high": high, "control": {"dense": mean(dense), arm: mean(of(arm)), "density": mean(of(arm, "density"))},
                "supported": "yes" if max(abs(low), abs(high)) <= within or high <= within else "no" if low > within else "not_shown", **common,
            })  # fmt: skip
        for better, worse in (
            ("predicted", "random"),
            ("predicted-attention", "random"),
            ("blocks", "random-attention"),
            ("predicted", "svd"),
            ("predicted", "static"),
        ):
            if better not in runs[0] or worse not in runs[0]:
                continue
            value, low, high = interval([a - b for a, b in zip(of(better), of(worse), strict=True)])
            found.append({
                "claim": f"{better} ends below {worse} in held-out loss (difference)", "source": f"{PAPER}, ablations", "value": value, "low": low,
                "high": high, "control": {better: mean(of(better)), worse: mean(of(worse)), "dense": mean(dense)},
                "supported": "yes" if high < 0 else "no" if low > 0 else "not_shown", **common,
            })  # fmt: skip
        for arm in ("exact", "predicted", "static", "predicted-attention"):
            if arm not in runs[0]:
                continue
            value, low, high = interval(of(arm, "ratio"))
            found.append({
                "claim": f"{arm}: a step takes less time than the faster dense one (ratio of times)", "source": f"{PAPER}, end to end", "value": value,
                "low": low, "high": high, "control": {"bound": mean(of(arm, "bound")), "density": mean(of(arm, "density")), "of_bound": mean(of(arm, "of_bound"))},
                "supported": "yes" if low > 1 else "no" if high < 1 else "not_shown", **common,
            })  # fmt: skip
        return found

    def table(self, results: dict[str, Record]) -> list[Record]:
        """Every arm, means over seeds."""
        runs = [{one["arm"]: one for one in results[f"seed-{seed}"]["arms"]} for seed in self.seeds]
        rows = []
        for arm in runs[0]:
            told: Record = {"arm": arm}
            for field in (
                "ms",
                "ratio",
                "bound",
                "of_bound",
                "density",
                "attention_density",
                "choosing",
                "loss_first",
                "loss_last",
                "held_out",
            ):
                values = [run[arm][field] for run in runs]
                told[field] = None if None in values else round(mean(values), 5)
            told["held_out_stderr"] = round(spread([run[arm]["held_out"] for run in runs]), 5)
            rows.append(told)
        return rows


def call(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def spread(values: Sequence[float]) -> float:
    """Standard error of the mean."""
    middle = mean(values)
    return math.sqrt(sum((x - middle) ** 2 for x in values) / max(1, len(values) - 1) / len(values))


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean with its 95 % interval by Student, seeds as units."""
    from scipy import stats

    wide = float(stats.t.ppf(0.975, len(values) - 1)) * spread(values)
    return mean(values), mean(values) - wide, mean(values) + wide


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
            write(path, claims.part(name))
    if given.only:
        return
    results = {name: json.loads((claims.folder / f"{name}.json").read_text()) for name in claims.parts()}
    found, table = claims.claims(results), claims.table(results)
    for row in table:
        print(json.dumps(row))
    for one in found:
        print(f"{one['supported']:>9}  {one['claim']}: {one['value']:.5f} [{one['low']:.5f}, {one['high']:.5f}]")
    if not given.quick:
        write(BENCH / "claims.json", found)
        write(BENCH / "tables.json", [{"profile": results["profile"], "model": results["model"]}, *table])


if __name__ == "__main__":
    main()
