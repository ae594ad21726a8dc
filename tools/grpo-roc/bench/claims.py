"""`make claims-grpo-roc`: does Resample-on-Correct clear failing calls where plain GRPO and its controls do not, at our scale? Paired by seed.

    python tools/grpo-roc/bench/claims.py [--quick] [--only PART]

text      `grpo-roc toy`: a transformer of 0.1 million parameters that writes Python which is run; five arms, eight seeds
tabular   `grpo-roc toy --task tabular`: a policy of three numbers; five arms, ten seeds, beside the figures that another run of it had
smollm2   SmolLM2-135M-Instruct: `sft` on transcripts that it makes, then `train` on sums and products; `eval` on held-out ones before and after. Its minutes are counted: with nothing else on two cores it is to take
          25 at most
keychain  a mix of `keychain-synth mix` through the same loop, from smollm2's cold start

Every arm of the toys begins with the same weights, and has the same prompts, objective and advantages: they differ in what is kept of the trajectories. Parts leave PART.json in out/claims/grpo-roc, and one whose file is
there is not run again; a part that was cut short goes on. --quick has a folder of its own and writes no claims.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
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
HELD, TRAINED, SAMPLES, STEPS, COLD = 64, 400, 2, 20, 107  # of smollm2: problems, samples of each, steps, transcripts
TUNED = ["--epochs", "1", "--transcripts", "8", "--lr", "1e-4", "--pass-tokens", "2048", "--held-out", "0.1"]
TRAIN = ["--prompts", "6", "--group-size", "4", "--lr", "4e-5", "--warmup", "2", "--pass-tokens", "2048", "--slots", "48", "--save-every", "8"]  # fmt: skip
SPOKEN = ["--max-tokens", "136", "--max-turns", "4", "--max-prompt", "512"]
EXAMPLES = BENCH.parents[1] / "keychain-synth" / "examples"
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
        return [*self.options, "smollm2", "keychain"]

    def part(self, name: str) -> Record:
        return self.toy(name) if name in self.options else getattr(self, name)()

    def toy(self, name: str) -> Record:
        words = ["grpo-roc", "toy", *self.options[name], "-o", str(self.folder / f"toy-{name}"), "--json", "-q"]
        done = subprocess.run(words, check=False, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}")
        return {**json.loads(done.stdout), "command": " ".join(words)}

    def smollm2(self) -> Record:
        """A cold start, and steps of GRPO-RoC on problems of another kind than its transcripts, with what `eval` says before and after of problems that neither had."""
        folder = self.folder / "smollm2"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        held, steps, samples = (8, 1, 1) if self.quick else (HELD, STEPS, SAMPLES)
        data, made = folder / "cold.jsonl", folder / "made.jsonl"
        grpo("sft", "--make-data", COLD, "--kinds", "arithmetic,shop,sums", "--write-data", data, "-q")
        grpo("sft", "--make-data", held + TRAINED, "--kinds", "arithmetic", "--seed", "1", "--write-data", made, "-q")
        known = {one["prompt"] for one in lines(data)}
        tasks = [{name: one[name] for name in ("id", "prompt", "answer")} for one in lines(made) if one["prompt"] not in known]  # fmt: skip
        wrote(folder / "held.jsonl", tasks[:held])
        wrote(folder / "train.jsonl", tasks[held:])
        began = time.monotonic()
        spent = {}

        def timed(part: str, *words: object) -> Record:
            start = time.monotonic()
            found = grpo(*words)
            spent[part] = round(time.monotonic() - start, 1)
            return found

        def evaluated(part: str, model: Path) -> tuple[Record, list[Record]]:
            said = folder / f"{part}.jsonl"
            told = timed(part, "eval", folder / "held.jsonl", "--model", model, "--dtype", "bfloat16", "--samples", samples, "--slots", "64", *SPOKEN, "-o", said, "--json", "-q")  # fmt: skip
            return told, lines(said)

        timed("sft", "sft", "--data", data, "--model", "smollm2", *TUNED, "-o", folder / "cold", "-q")
        before, first = evaluated("before", folder / "cold")
        timed(
            "train",
            "train",
            folder / "train.jsonl",
            "--model",
            folder / "cold",
            "--steps",
            steps,
            *TRAIN,
            *SPOKEN,
            "-o",
            folder / "run",
            "-q",
        )
        after, last = evaluated("after", folder / "run" / "best")
        minutes = (time.monotonic() - began) / 60
        curve = lines(folder / "run" / "metrics.jsonl")
        return {
            "task": "smollm2", "problems": len(tasks) - held, "held_out": held, "samples": samples, "steps": steps, "minutes": minutes, "seconds": spent, "before": before, "after": after,
            "reward": paired(first, last, lambda one: one["reward"]), "valid": paired(first, last, valid), "rewards": [one["reward/mean"] for one in curve], "errors": [one["errors/all"] for one in curve],
            "log": json.loads((folder / "cold" / "manifest.json").read_text())["counts"],
        }  # fmt: skip

    def keychain(self) -> Record:
        """Steps on a mix of questions whose text must be searched along chains of keys, plain ones, and sums, from smollm2's cold start."""
        folder, before = self.folder / "keychain", self.folder / "smollm2"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if not (before / "cold" / "manifest.json").exists():
            raise SystemExit("keychain: begins with smollm2's cold start: run that part first")
        sized = ["--tokenizer", "smollm2", "--length", "768", "--reserve", "128", "--max-drop-rate", "1", "-q"]
        source = EXAMPLES / "musique.jsonl"
        keychain("synth", source, *sized, "--chains", "2", "--hops", "2", "-o", folder / "chains.jsonl")
        keychain("synth", source, *sized, "--plain", "-o", folder / "plain.jsonl")
        keychain("mix", "--scale", "0.004", "--part", f"keychain-musique={folder / 'chains.jsonl'}", "--part", f"qa-musique={folder / 'plain.jsonl'}", "--part", f"math={before / 'train.jsonl'}", "--allow-short", "-q", "-o", folder / "mixed.jsonl")  # fmt: skip
        steps = 1 if self.quick else 2
        grpo("train", folder / "mixed.jsonl", "--model", before / "cold", "--steps", steps, "--prompts", "6", "--group-size", "4", "--max-tokens", "160", "--max-turns", "3", "--max-prompt", "1024", "--lr", "5e-5", "--warmup", "1", "--pass-tokens", "4096", "--slots", "24", "--keep-rollouts", "1", "-o", folder / "run", "-q")  # fmt: skip
        curve = lines(folder / "run" / "metrics.jsonl")
        asked = [one for step in range(1, steps + 1) for one in lines(folder / "run" / "rollouts" / f"{step}.jsonl")]
        parts: dict[str, list[float]] = {}
        for one in asked:
            parts.setdefault(one["meta"]["part"], []).append(one["reward"])
        return {
            "task": "keychain", "rows": len(lines(folder / "mixed.jsonl")), "steps": len(curve), "prompt_tokens": {"mean": sum(one["usage"]["prompt_tokens"] for one in asked) / len(asked), "most": max(one["usage"]["prompt_tokens"] for one in asked)},
            "rewards": {part: {"trajectories": len(each), "mean": sum(each) / len(each)} for part, each in parts.items()}, "groups": [one["groups/kept"] for one in curve], "loss": [one.get("update/loss") for one in curve],
        }  # fmt: skip

    def claims(self, results: dict[str, Record]) -> list[Record]:
        toys = [row for name in self.options for row in rows_of(name, results[name])]
        return [*toys, *trained(results["smollm2"]), mixed(results["keychain"])]


def lines(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def wrote(path: Path, records: list[Record]) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in records))


def keychain(*words: object) -> None:
    subprocess.run(["keychain-synth", *map(str, words)], check=True)


def grpo(*words: object) -> Record:
    """Runs the installed command; what it printed, where that is JSON."""
    command = ["grpo-roc", *map(str, words)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}")
    found: Record = json.loads(done.stdout) if "--json" in command else {}
    return found


def valid(trajectory: Record) -> float:
    """Whether it made a call, and none that could not be made or failed."""
    calls = [call for turn in trajectory["turns"] for call in turn["calls"]]
    return float(bool(calls) and all(call["status"] in ("ok", "ok_no_output") for call in calls))


def paired(first: list[Record], last: list[Record], value: Callable[[Record], float]) -> Record:
    """Means before and after, and the interval of the difference over problems (Student's t)."""
    means: list[dict[str, float]] = []
    for some in (first, last):
        of: dict[str, list[float]] = {}
        for one in some:
            of.setdefault(one["group"], []).append(value(one))
        means.append({name: sum(each) / len(each) for name, each in of.items()})
    less = [means[1][name] - means[0][name] for name in means[0]]
    sides = [sum(one.values()) / len(one) for one in means]
    return {"before": sides[0], "after": sides[1], **interval(less)}


def trained(told: Record) -> list[Record]:
    """What the small model's run says."""
    rows = []
    for name, what in (("reward", "mean reward"), ("valid", "share of trajectories with calls, all of which ran")):
        span = told[name]
        found = "yes" if span["low"] is not None and span["low"] > 0 else "no" if span["mean"] < 0 else "not_shown"
        rows.append({
            "claim": f"SmolLM2-135M: {told['steps']} steps of RL raise the {what} on {told['held_out']} held-out problems (after less before)", "source": f"{PAPER}, sections 3.2 and 4", "value": span["mean"],
            "low": span["low"], "high": span["high"], "control": {"before": span["before"], "after": span["after"], "samples": told["samples"]}, "seeds": [0], "supported": found, "command": COMMAND,
            "machine": machine(),
        })  # fmt: skip
    rows.append({
        "claim": "SmolLM2-135M: cold start, RL and both evaluations, minutes (25 at most)", "source": "ours", "value": told["minutes"], "low": None, "high": None, "control": told["seconds"], "seeds": [0],
        "supported": "yes" if told["minutes"] <= 25 else "no", "command": COMMAND, "machine": machine(),
    })  # fmt: skip
    return rows


def mixed(told: Record) -> Record:
    return {
        "claim": "problems of keychain-synth mix go through the same loop: steps that were made (with groups to learn from)", "source": "ours", "value": told["steps"], "low": None, "high": None, "control": told, "seeds": [0],
        "supported": "yes" if any(told["groups"]) else "not_shown", "command": COMMAND, "machine": machine(),
    }  # fmt: skip


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
