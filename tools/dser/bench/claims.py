"""`make claims-dser`: the paper's claims with a small language model that is trained here, and with SmolLM2.

    python tools/dser/bench/claims.py [--quick] [--only PART]

Parts run as processes of their own, two at a time, and leave PART.json in out/claims/dser/; a part whose file is there
is not run again (delete the folder to start anew). The table is printed and written to claims.json beside this file;
--quick (under 3 minutes: one seed, few steps and problems, its figures mean little) has a folder of its own and writes
no claims.json. All solving is done by the installed `dser` command, the dial excepted, which noises reviews between
the model and the chains through the Python API.

For each seed (carry/): a character transformer of 104,000 weights learns to solve, verify and refine ten-digit sums,
on problems without the long carries of the hard split. Its vote of 16 chains × 20 iterations is held against
self-consistency of the same model and of one of the same size that learned to solve only, both at equal generated
tokens, and against the single-turn accuracy of one four times larger. The problems of both splits come from generator
seeds that were used for nothing else.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

BENCH = Path(__file__).resolve().parent
SEEDS = (0, 1, 2)
HARD_SEED, NORMAL_SEED = 20261126, 20261127
COMMAND = "make claims-dser"
PAPER = "arXiv 2510.17498"
DIAL = (0.0, 0.02, 0.05, 0.1, 0.25, 0.5)  # chance that a stated carry is flipped; .5 is a review that says nothing
READING = (
    "--no-require-box", "--answer-pattern", "[0-9]{10}", "--no-answer", "keep", "--verdict-pass", "P$",
    "--verdict-fail", "F$", "--thinking", "none", "--temperature", "1", "--top-p", "1", "--max-tokens", "12", "-q",
)  # fmt: skip

Record = dict[str, Any]


class Study:
    """Folder and sizes of a run."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.folder = Path("out/claims") / ("dser-quick" if quick else "dser")
        self.seeds = SEEDS[:1] if quick else SEEDS
        self.steps = 900 if quick else 3000
        self.teacher_steps = (900,) if quick else (7000, 10000)
        self.problems = 10 if quick else 100
        self.iterations = 5 if quick else 20
        self.chains = 8 if quick else 16

    # ------------------------------------------------------------ parts

    def stages(self) -> list[list[str]]:
        trained = [f"{kind}-{seed}" for seed in self.seeds for kind in ("small", "control")]
        used = [f"{kind}-{seed}" for seed in self.seeds for kind in ("run", "dial")]
        return [["splits"], trained, [*used, "smollm2"], [f"beside-{seed}" for seed in self.seeds]]

    def part(self, name: str) -> Record:
        kind, _, seed = name.partition("-")
        return getattr(self, kind)(int(seed)) if seed else getattr(self, kind)()

    def splits(self) -> Record:
        from carry import addition

        for name, make, seed in (("hard", addition.hard, HARD_SEED), ("normal", addition.normal, NORMAL_SEED)):
            addition.write_problems(
                self.folder / f"{name}.jsonl", name, make(self.problems, np.random.default_rng(seed))
            )
        for role, text in (
            ("solve", "$problem="),
            ("verify", "$problem=$solution?"),
            ("refine", "$problem=$solution?$review>"),
        ):
            (self.folder / f"{role}.txt").write_text(text)
        return {"hard": HARD_SEED, "normal": NORMAL_SEED}

    def small(self, seed: int) -> Record:
        return self._train(f"small-{seed}", seed)

    def control(self, seed: int) -> Record:
        return self._train(f"control-{seed}", seed, "--only-solve")

    def _train(self, name: str, seed: int, *more: str, steps: int | None = None) -> Record:
        command = [sys.executable, str(BENCH / "carry" / "training.py"), str(self.folder / name), "--seed", str(seed)]
        made = self.folder / name / "training.json"
        if not made.exists():
            subprocess.run(
                [*command, "--steps", str(steps or self.steps), *more], check=True, stdout=subprocess.DEVNULL
            )
        return json.loads(made.read_text())

    def templates(self) -> list[str]:
        return [
            word
            for role in ("solve", "verify", "refine")
            for word in ("--template", f"{role}={self.folder}/{role}.txt")
        ]

    def solve(self, model: str, split: str, out: str, *more: str, batch: int = 1600) -> Path:
        """`dser solve` on a split; the run's folder."""
        folder = self.folder / out
        command = ["dser", "solve", str(self.folder / f"{split}.jsonl"), "--model", str(self.folder / model)]
        command += [*self.templates(), *READING, "--batch-size", str(batch), "-o", str(folder), *more]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return folder

    def report(self, run: Path, *more: str) -> Record:
        done = subprocess.run(["dser", "report", str(run), "--json", *more], check=True, capture_output=True, text=True)
        return json.loads(done.stdout)

    def run(self, seed: int) -> Record:
        """One seed: chains, and self-consistency at equal tokens of the model and of the control."""
        shape = ("--chains", str(self.chains), "--iterations", str(self.iterations))
        model, found = f"small-{seed}", {}
        hard = self.solve(model, "hard", f"hard-{seed}", *shape, "--seed", str(seed))
        spent = self.report(hard)["run"]["generated_tokens"]
        samples = -(-spent // (11 * self.problems)) + 2
        sampled = ("--preset", "self-consistency", "--chains", str(samples), "--seed", str(1000 + seed))
        single = self.solve(model, "hard", f"hard-sc-{seed}", *sampled, batch=4000)
        other = self.solve(f"control-{seed}", "hard", f"hard-control-{seed}", *sampled, batch=4000)
        found["hard"] = self.report(hard, "--self-consistency", str(single))
        found["control"] = self.report(hard, "--self-consistency", str(other))["vs_self_consistency"]
        for name in ("small", "control"):
            found[f"normal_pass1_{name}"] = self.pass1(name, seed, "normal")
        found["control_pass1"] = self.report(other)["metrics"]["pass_at_k_first"]["1"]
        found["single_pass1"] = self.report(single)["metrics"]["pass_at_k_first"]["1"]
        normal = self.solve(model, "normal", f"normal-{seed}", *shape, "--seed", str(seed))
        found["normal"] = self.report(normal)
        early = self.solve(model, "hard", f"early-{seed}", *shape, "--seed", str(seed), "--early-stop", ".95")
        stopped = self.report(early)
        found["early"] = {"vote": stopped["metrics"]["vote"]["value"], "tokens": stopped["run"]["generated_tokens"]}
        found["votes"] = votes(hard)
        found["samples"] = samples
        return found

    def pass1(self, name: str, seed: int, split: str, more: str = "") -> float:
        """Single-turn accuracy, 64 samples a problem."""
        few = ("--preset", "self-consistency", "--chains", "64", "--seed", str(2000 + seed))
        ran = self.solve(f"{name}-{seed}{more}", split, f"{split}-{name}-{seed}{more}", *few, batch=4000)
        return self.report(ran)["metrics"]["pass_at_k_first"]["1"]

    def beside(self, seed: int) -> Record:
        """The four times larger model, and the vote against its single-turn accuracy.

        It has to reach the small one on the normal split, or it is no teacher; with the small one's rate, and with 2e-3,
        it did not. More steps are taken until it does, as long as there are more to take; the hard split has no say in it.
        """
        small, normal, steps = self.pass1("small", seed, "normal"), 0.0, 0
        for steps in self.teacher_steps:
            self._train(f"teacher-{seed}-{steps}", seed, "--width", "128", "--rate", "1e-3", steps=steps)
            normal = self.pass1("teacher", seed, "normal", f"-{steps}")
            if normal >= small:
                break
        self.pass1("teacher", seed, "hard", f"-{steps}")
        reference = str(self.folder / f"hard-teacher-{seed}-{steps}")
        versus = self.report(self.folder / f"hard-{seed}", "--reference", reference)["vs_reference"]
        return {"normal_pass1_teacher": normal, "teacher_steps": steps, "vs_reference": versus}

    def dial(self, seed: int) -> Record:
        """Advice and accuracy as reviews go from good to useless, on both splits."""
        import dser
        from dser.chain import Procedure
        from dser.log import Settings
        from dser.prompts import Prompts, Reading
        from tenfold_shared.generate import Sampling
        from tenfold_shared.models import open_generator

        settings = Settings(Procedure(iterations=min(10, self.iterations), keep_without_answer=True), self.chains)
        reading = Reading("last", False, "[0-9]{10}", "P$", "F$", "none")
        prompts = Prompts(self.templates()[1::2])
        found = []
        with closing(open_generator(str(self.folder / f"small-{seed}"), batch_size=800)) as model:
            for split in ("hard", "normal"):
                tasks = [json.loads(line) for line in (self.folder / f"{split}.jsonl").read_text().splitlines()][:50]
                for noise in DIAL:
                    outcomes = dser.run_chains(
                        Noisy(model, noise), tasks, settings, Sampling(1.0, 1.0, 0, 12), prompts=prompts,
                        reading=reading, seed=seed,
                    )  # fmt: skip
                    report = dser.report_of(outcome.problem for outcome in outcomes)
                    chance = report["transitions"]
                    found.append(
                        {
                            "split": split,
                            "noise": noise,
                            "advice": report["advice"]["verdict"],
                            "change": [report["advice"][key] for key in ("change", "low", "high")],
                            "first": report["iterations"][0]["accuracy"]["value"],
                            "last": report["iterations"][-1]["accuracy"]["value"],
                            "vote_first": report["iterations"][0]["vote"]["value"],
                            "vote": report["metrics"]["vote"]["value"],
                            "p_ic": (chance["p_ic"] or {}).get("value"),
                            "p_ci": (chance["p_ci"] or {}).get("value"),
                        }
                    )
        return {"levels": found}

    def smollm2(self) -> Record:
        """SmolLM2-135M on sums of two-digit numbers, as it is."""
        rng = np.random.default_rng(5)
        tasks = self.folder / "sums.jsonl"
        with open(tasks, "w", encoding="utf-8") as out:
            for row in range(4 if self.quick else 16):
                a, b = (int(x) for x in rng.integers(10, 100, 2))
                out.write(
                    json.dumps({"id": f"sum-{row}", "prompt": f"What is {a} + {b}?", "answer": str(a + b)}) + "\n"
                )
        size = ("--chains", "2", "--iterations", "1") if self.quick else ("--chains", "4", "--iterations", "3")
        run = self.folder / "smollm2-run"
        command = ["dser", "solve", str(tasks), "--model", "smollm2", *size, "--window", "2", "--thinking", "none"]
        command += ["--no-require-box", "--max-tokens", "96", "--batch-size", "64", "-o", str(run), "-q"]
        done = subprocess.run(command, stdout=subprocess.DEVNULL)
        if done.returncode not in (0, 1):  # 1: a problem without any answer
            raise SystemExit(done.returncode)
        return self.report(run)

    # ------------------------------------------------------------ the table

    def claims(self, results: dict[str, Record]) -> list[Record]:
        runs = {seed: results[f"run-{seed}"] for seed in self.seeds}
        rows = [
            *self._main(runs),
            *self._dials(results),
            *self._teacher(runs, results),
            self._smollm2(results["smollm2"]),
        ]
        common = {"seeds": list(self.seeds), "command": COMMAND, "machine": machine()}
        return [{**row, **{key: value for key, value in common.items() if key not in row}} for row in rows]

    def _main(self, runs: dict[int, Record]) -> Iterator[Record]:
        for seed, run in runs.items():
            hard = run["hard"]
            versus, chance = hard["vs_self_consistency"], hard["transitions"]
            yield {
                "claim": f"precondition, seed {seed}: single-turn majority is wrong on at least half of the hard "
                "problems, Pass@1 is above 0, and refining does not copy",
                "source": PAPER,
                "value": 1 - versus["self_consistency"],
                "low": None,
                "high": None,
                "control": {
                    "pass1": run["single_pass1"],
                    "answers_changed": hard["stability"]["changed"]["value"],
                    "p_ic": chance["p_ic"],
                    "p_ci": chance["p_ci"],
                    "plurality_condition": hard["stationary"]["plurality_condition"],
                    "tpr": hard["verifier"]["tpr"],
                    "fpr": hard["verifier"]["fpr"],
                    "tokens": versus["tokens"],
                    "samples_a_problem": versus["samples_mean"],
                    "one_chain_at_the_end": hard["iterations"][-1]["accuracy"],
                    "stop_at_first_pass": hard["counterfactual"].get("stop-on-pass:1"),
                    "order_test": (hard["tests"] or {}).get("order"),
                    "advice": hard["advice"],
                },
                "supported": _yes(
                    versus["self_consistency"] <= 0.5
                    and run["single_pass1"] > 0
                    and hard["stability"]["changed"]["value"] > 0.05
                ),
                "seeds": [seed],
            }
            yield {
                "claim": f"seed {seed}: the vote of {self.chains} chains beats self-consistency of the same model at equal "
                "generated tokens on the hard split",
                "source": PAPER,
                "value": versus["diff"],
                "low": versus["low"],
                "high": versus["high"],
                "control": {
                    key: versus[key]
                    for key in (
                        "dser",
                        "self_consistency",
                        "tokens",
                        "solved_that_self_consistency_missed",
                        "lost_that_self_consistency_had",
                    )
                },
                "supported": _yes(versus["low"] is not None and versus["low"] > 0),
                "seeds": [seed],
            }
            yield {
                "claim": f"seed {seed}: it beats a solve-only model of the same size and training budget, voting at equal "
                "generated tokens",
                "source": "a control of ours",
                **{key: run["control"][name] for key, name in (("value", "diff"), ("low", "low"), ("high", "high"))},
                "control": {
                    "self_consistency_of_control": run["control"]["self_consistency"],
                    "hard_pass1_of_control": run["control_pass1"],
                    "normal_pass1": {name: run[f"normal_pass1_{name}"] for name in ("small", "control")},
                },
                "supported": _yes(run["control"]["low"] is not None and run["control"]["low"] > 0),
                "seeds": [seed],
            }
            if chance["p_ic"] is None or chance["p_ci"] is None:
                continue  # a state that was never seen: in --quick only, where nothing is learned
            interval = (chance["p_ic"]["low"], chance["p_ci"]["high"])
            yield {
                "claim": f"seed {seed}: p_IC > p_CI on the hard split (the paper's condition; the vote needs only the "
                "plurality condition)",
                "source": f"{PAPER}, convergence",
                "value": chance["p_ic"]["value"] - chance["p_ci"]["value"],
                "low": chance["p_ic"]["low"] - chance["p_ci"]["high"],
                "high": chance["p_ic"]["high"] - chance["p_ci"]["low"],
                "control": {"plurality_condition": hard["stationary"]["plurality_condition"]},
                "supported": "yes"
                if interval[0] > interval[1]
                else "not_shown"
                if chance["p_ic"]["high"] > chance["p_ci"]["low"]
                else "no",
                "seeds": [seed],
            }
            early = run["early"]
            yield {
                "claim": f"seed {seed}: --early-stop .95 saves tokens and loses no problem",
                "source": "ours, of --early-stop",
                "value": 1 - early["tokens"] / hard["run"]["generated_tokens"],
                "low": None,
                "high": None,
                "control": {"vote": hard["metrics"]["vote"]["value"], "vote_early": early["vote"]},
                "supported": _yes(
                    early["vote"] >= hard["metrics"]["vote"]["value"]
                    and early["tokens"] < hard["run"]["generated_tokens"]
                ),
                "seeds": [seed],
            }

    def _dials(self, results: dict[str, Record]) -> Iterator[Record]:
        for seed in self.seeds:
            levels = results[f"dial-{seed}"]["levels"]
            for split in ("hard", "normal"):
                rows = [row for row in levels if row["split"] == split]
                hurt = [row["noise"] for row in rows if row["advice"] == "do_not_iterate"]
                honest = not any(
                    (row["advice"] == "iterate" and row["vote"] < row["vote_first"])
                    or (row["advice"] == "do_not_iterate" and row["vote"] > row["vote_first"])
                    for row in rows
                )
                yield {
                    "claim": f"seed {seed}, {split} split: as reviews go from good to useless, the advice turns to "
                    "`iteration will hurt` (value: from which noise) if the vote does, and never points the other way",
                    "source": "a control of ours",
                    "value": min(hurt, default=None),
                    "low": None,
                    "high": None,
                    "control": {"levels": rows},
                    "supported": _yes(
                        honest
                        and rows[0]["advice"] != "do_not_iterate"
                        and (bool(hurt) or rows[-1]["vote"] >= rows[-1]["vote_first"])
                    ),
                    "seeds": [seed],
                }

    def _teacher(self, runs: dict[int, Record], results: dict[str, Record]) -> Iterator[Record]:
        for seed, run in runs.items():
            beside = results[f"beside-{seed}"]
            versus = beside["vs_reference"]
            trained = beside["normal_pass1_teacher"] >= run["normal_pass1_small"]
            yield {
                "claim": f"seed {seed}: the vote exceeds the single-turn accuracy of a model four times larger, trained "
                "on the same mixture",
                "source": f"{PAPER}, abstract",
                "value": versus["diff"],
                "low": versus["low"],
                "high": versus["high"],
                "control": {
                    "teacher_hard_pass1": versus["reference"],
                    "normal_pass1": {"small": run["normal_pass1_small"], "teacher": beside["normal_pass1_teacher"]},
                    "teacher_steps": beside["teacher_steps"],
                    "teacher_trained_properly": trained,
                },
                "supported": _yes(versus["low"] is not None and versus["low"] > 0) if trained else "not_shown",
                "seeds": [seed],
            }

    def _smollm2(self, report: Record) -> Record:
        advice, chance = report["advice"], report["transitions"]
        return {
            "claim": "SmolLM2-135M-Instruct on sums of two-digit numbers, as it comes: what iterating does",
            "source": "diagnosis, no claim of the paper",
            "value": advice.get("change"),
            "low": advice.get("low"),
            "high": advice.get("high"),
            "control": {
                "advice": advice["text"],
                "p_ic": chance["p_ic"],
                "p_ci": chance["p_ci"],
                "tpr": report["verifier"]["tpr"],
                "fpr": report["verifier"]["fpr"],
                "unknown": [report["verifier"]["unknown"], report["verifier"]["reviews"]],
                "iterations": report["iterations"],
            },
            "supported": "not_shown",
            "seeds": [0],
        }


class Noisy:
    """A generator whose reviews have each stated carry flipped with chance `noise`, and the verdict drawn anew with
    twice that; the flips depend on the request's seed alone."""

    def __init__(self, inner: Any, noise: float) -> None:
        self.inner, self.noise = inner, noise
        self.model, self.batch_size, self.context = inner.model, inner.batch_size, inner.context
        self.count_tokens, self.close = inner.count_tokens, inner.close

    def generate(self, requests: Iterable[Any], sampling: Any) -> Iterator[Any]:
        seeds: dict[str, int] = {}

        def noted() -> Iterator[Any]:
            for request in requests:
                if request is not None:
                    seeds[request.key] = request.seed
                yield request

        for done in self.inner.generate(noted(), sampling):
            seed = seeds.pop(done.key)
            if done.key.endswith("verify") and self.noise:
                rng = np.random.default_rng([seed, 7])
                flips = rng.random(len(done.text)) < self.noise
                text = [
                    ("1" if c == "0" else "0") if c in "01" and flip else c
                    for c, flip in zip(done.text, flips, strict=True)
                ]
                if text and text[-1] in "PF" and rng.random() < 2 * self.noise:
                    text[-1] = "PF"[int(rng.integers(2))]
                done.text = "".join(text)
            yield done


def votes(run: Path) -> dict[str, bool]:
    with open(run / "answers.jsonl", encoding="utf-8") as lines:
        return {record["id"]: record["correct"] for record in map(json.loads, lines)}


def _yes(held: bool) -> str:
    return "yes" if held else "no"


def machine() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        name = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", metavar="PART")
    given = parser.parse_args()
    study = Study(given.quick)
    study.folder.mkdir(parents=True, exist_ok=True)
    if given.only:
        sys.path.insert(0, str(BENCH))
        found = study.part(given.only)
        aside = study.folder / f".{given.only}.json"
        aside.write_text(json.dumps(found))
        aside.rename(study.folder / f"{given.only}.json")
        return

    def run_part(name: str) -> None:
        if (study.folder / f"{name}.json").exists():
            return
        print(f"part {name}", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, "--only", name, *(["--quick"] if given.quick else [])]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

    for stage in study.stages():
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(run_part, name) for name in stage]:
                done.result()
    names = [name for stage in study.stages() for name in stage]
    results = {name: json.loads((study.folder / f"{name}.json").read_text()) for name in names}
    claims = study.claims(results)
    for claim in claims:
        interval = "" if claim["low"] is None else f" [{claim['low']:+.3f}, {claim['high']:+.3f}]"
        value = "none" if claim["value"] is None else f"{claim['value']:+.3f}"
        print(f"{claim['supported']:9} {value}{interval}  {claim['claim']}")
    if not given.quick:
        (BENCH / "claims.json").write_text(json.dumps(claims, indent=1) + "\n")


if __name__ == "__main__":
    main()
