"""`make claims-cotpass`: does rewarding answers teach reasoning, and can judges see it? At the size of one machine.

    python tools/cotpass/bench/claims.py [--quick] [--only PART]

Parts run as processes of their own, two at a time, and leave their files in out/claims/cotpass/; a part whose
`done-PART` file is there is not run again (delete the folder to start anew). Then the table is made from these files
by the installed `cotpass` command, printed, and written to claims.json beside this file; --quick (under 3 minutes;
fewer steps, samples and seeds, its figures mean little) has a folder of its own and writes no claims.json.

- Training study (study/training.py): P(CC|CA), Pass@K and CoT-Pass@K of held-out arithmetic chains along training by
  rewarded answers, three seeds, with p_c, alpha, beta; the control's rewards are shuffled within each group.
- Judge study: the steps rule and SmolLM2-135M on labelled injections into right solutions, and the steps rule on
  the errors that the trained models make by themselves.
- Coverage of the 95 % intervals (coverage.py).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import gzip
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from coverage import HIGH, LOW
from metric import machine

BENCH = Path(__file__).resolve().parent
COMMAND = "make claims-cotpass"
PAPER = "arXiv 2506.14245"
SEEDS = (0, 1, 2)
REWARDS = ("answer", "random")
GROUP = 16
JUDGES = ("steps", "smollm2", "smollm2-examples")
EXAMPLES = """Say whether every step of the solution is correct.

Question: Rosa has 6 pears, picks 5 more and eats 2. How many pears does Rosa have?
Solution: 6 + 5 = 11
11 - 2 = 9
The answer is \\boxed{9}.
Verdict: \\boxed{yes}

Question: Tom buys 4 bags of 6 plums and eats 5 plums. How many plums are left?
Solution: 4 * 6 = 26
26 - 5 = 19
The answer is \\boxed{19}.
Verdict: \\boxed{no}

Question: $question
Solution: $response
Verdict:"""

Row = dict[str, Any]


class Study:
    """Folder and sizes of a run."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.folder = Path("out/claims") / ("cotpass-quick" if quick else "cotpass")
        self.seeds = SEEDS[:1] if quick else SEEDS
        self.sets = 50 if quick else 2000
        self.per_type = 1 if quick else 25

    @property
    def settings(self) -> Any:
        from study.training import Settings

        full = Settings(group=GROUP)
        if not self.quick:
            return full
        return replace(full, width=32, layers=2, supervised=60, checkpoints=(0, 3), prompts=16, held_out=16, samples=16)

    @property
    def steps(self) -> tuple[int, ...]:
        return self.settings.checkpoints

    def records(self, reward: str, seed: int, step: int) -> Path:
        return self.folder / f"{reward}-{seed}" / f"step-{step}.jsonl.gz"

    def parts(self) -> dict[str, tuple[Callable[[], None], str | None]]:
        """Each part and the one that must be done before it, in an order in which that one stands earlier."""
        found: dict[str, tuple[Callable[[], None], str | None]] = {"injections": (self.injections, None)}
        for seed in self.seeds:
            found[f"supervised-{seed}"] = (partial(self.supervised, seed), None)
        for reward, seed in itertools.product(REWARDS, self.seeds):
            found[f"{reward}-{seed}"] = (partial(self.rewarded, reward, seed), f"supervised-{seed}")
        for name in JUDGES:
            found[f"judge-{name}"] = (partial(self.judge, name), "injections")
        return found | {"coverage": (self.coverage, None)}

    # ---- parts

    def supervised(self, seed: int) -> None:
        from study.training import train_supervised

        train_supervised(seed, self.settings, self.folder / f"supervised-{seed}.safetensors", say)

    def rewarded(self, reward: str, seed: int) -> None:
        from study.training import train_rewarded

        folder = self.folder / f"{reward}-{seed}"
        folder.mkdir(exist_ok=True)
        train_rewarded(seed, reward, self.settings, self.folder / f"supervised-{seed}.safetensors", folder, say)

    def injections(self) -> None:
        """Right solutions of word problems of two and three steps, and what `calibrate inject` makes of them."""
        problems = run("python", str(BENCH.parent / "examples" / "make_problems.py"), "--count", "160", "--seed", "7")
        lines = []
        for line in problems.splitlines():
            task = json.loads(line)
            if task["meta"]["steps"] < 2:
                continue
            solution = "\n".join([*task["meta"]["chain"], f"The answer is \\boxed{{{task['answer']}}}."])
            task["messages"] = task["messages"][-1:]  # a judge is shown the question, not how to answer it
            sample = {"schema": "sample/1", "sample": 0, "response": solution, "finish_reason": "stop"}
            lines.append(json.dumps({**task, **sample}))
        samples = self.folder / "solutions.jsonl"
        samples.write_text("\n".join(lines) + "\n")
        graded, test = self.folder / "solutions-graded.jsonl", self.folder / "injected.jsonl"
        run("cotpass", "grade", str(samples), "-o", str(graded), "-q")
        run("cotpass", "calibrate", "inject", str(graded), "--only-checked", "--per-type", str(self.per_type),
            "-o", str(test), "-q")  # fmt: skip

    def judge(self, name: str) -> None:
        tested = self.folder / f"tested-{name}.jsonl"
        how = ["--judge", "steps"]
        if name != "steps":
            how = [
                "--model",
                "smollm2",
                "--votes",
                "3",
                "--batch-size",
                "32",
                "--max-tokens",
                "48" if self.quick else "256",
            ]
        if name == "smollm2-examples":
            template = self.folder / "examples.txt"
            template.write_text(EXAMPLES)
            how += ["--template", str(template), "--max-tokens", "12"]
        run("cotpass", "judge", str(self.folder / "injected.jsonl"), "--scope", "all", *how, "-o", str(tested), "-q")

    def coverage(self) -> None:
        rows = run("python", str(BENCH / "coverage.py"), "--difficulty", "1,2", "--difficulty", "0.5,1.5",
                   "--sets", str(self.sets))  # fmt: skip
        (self.folder / "coverage.jsonl").write_text(rows)

    # ---- the table

    def rows(self) -> Iterator[Row]:
        yield from self.training_rows()
        yield from self.judge_rows()
        yield from self.coverage_rows()

    def training_rows(self) -> Iterator[Row]:
        tables = {(reward, seed): self.along(reward, seed) for reward in REWARDS for seed in self.seeds}
        seeds = list(self.seeds)
        last = self.steps[-1]
        changes = {reward: self.change(reward, last) for reward in REWARDS}
        real, control = changes["answer"], changes["random"]
        yield claim(
            "training: P(CC|CA) of held-out problems, last checkpoint minus first, rises by rewarding answers",
            f"{PAPER} §5", real["mean"], control["mean"], seeds,
            supported(all(low > 0 for low, _ in real["by_seed"]), any(high < 0 for _, high in real["by_seed"])),
            detail={"by_seed": real["by_seed"], "control_by_seed": control["by_seed"]},
        )  # fmt: skip

        finals = {key: table["dynamics"]["steps"][-1] for key, table in tables.items()}
        for name in ("cot_pass", "pass"):
            title = {"cot_pass": "CoT-Pass@K rises for all K", "pass": "Pass@K rises for all K"}[name]
            gains = [finals["answer", seed][name] for seed in seeds]
            rises = all(score["sim_low"] > 0 for gain in gains for score in gain.values())
            falls = any(score["sim_high"] < 0 for gain in gains for score in gain.values())
            # The least of the gains over K and seeds, with its interval simultaneous over checkpoints and K.
            least = min((score for gain in gains for score in gain.values()), key=lambda score: score["diff"])
            controls = [finals["random", seed][name] for seed in seeds]
            worst = min((score for gain in controls for score in gain.values()), key=lambda score: score["diff"])
            yield claim(
                f"training: {title} (the least gain at the last checkpoint, over K and seeds)",
                f"{PAPER} §5", triple(least, "diff", "sim_low", "sim_high"),
                triple(worst, "diff", "sim_low", "sim_high"), seeds, supported(rises, falls),
                detail={
                    "gain_by_seed": {
                        str(seed): {k: triple(score, "diff", "sim_low", "sim_high") for k, score in gain.items()}
                        for seed, gain in zip(seeds, gains, strict=True)
                    },
                    **{
                        f"{reward}_emergence": {
                            str(seed): {
                                "some_k": tables[reward, seed]["dynamics"]["emergence"][name],
                                "all_k": tables[reward, seed]["dynamics"]["emergence_all_k"][name],
                            }
                            for seed in seeds
                        }
                        for reward in REWARDS
                    },
                },
            )  # fmt: skip

        gaps = {key: table["advantages"] for key, table in tables.items()}
        observed = {key: [each["seen_gap"] for each in found] for key, found in gaps.items()}
        every = [gap for seed in seeds for gap in observed["answer", seed]]
        blind = [gap for seed in seeds for gap in observed["random", seed]]
        right = all((table["theory"][step]["alpha"]["low"] or 0) > (table["theory"][step]["beta"]["high"] or 1)
                    for (reward, _), table in tables.items() if reward == "answer" for step in self.steps)  # fmt: skip
        yield claim(
            "training: alpha > beta, and right reasoning has the larger advantage in every training batch window "
            "(mean of E[A|right] - E[A|wrong]; the control's reward knows no reasoning: 0)",
            f"{PAPER} §4, theorem 1", spread(every), spread(blind), seeds,
            supported(right and min(every) > 0, max(every) < 0),
            detail={f"{reward}-{seed}": gaps[reward, seed] for reward, seed in gaps},
        )  # fmt: skip
        for (reward, seed), table in tables.items():
            yield claim(
                f"table: checkpoints, reward {reward}, seed {seed} (CoT-Pass@1 at the last)", f"{PAPER} §5, A.6",
                triple(finals[reward, seed]["cot_pass"]["1"], "value", "none", "none"), None, [seed], "measured",
                detail=table["checkpoints"],
            )  # fmt: skip

    def along(self, reward: str, seed: int) -> Row:
        """Everything about one run: `cotpass dynamics`, `cotpass theory --estimate` a checkpoint, advantages."""
        files = [f"{step}={self.records(reward, seed, step)}" for step in self.steps]
        dynamics = json.loads(run("cotpass", "dynamics", *files, "--json", "-q"))
        theory = {
            step: json.loads(run("cotpass", "theory", "--estimate", str(self.records(reward, seed, step)),
                                 "--group-size", str(self.settings.group), "--json", "-q", ok=(0, 1)))
            for step in self.steps
        }  # fmt: skip
        checkpoints = []
        for step, found in zip(self.steps, dynamics["steps"], strict=True):
            assert found["step"] == step
            row = {"step": step, "p_ca": found["p_ca"]["q50"], "p_cc_given_ca": found["p_cc_given_ca"]["q50"]}
            row |= {name: round3(theory[step][name]["value"]) for name in ("p_c", "alpha", "beta")}
            row["p_value_alpha_gt_beta"] = theory[step]["p_value_alpha_gt_beta"]
            row |= {
                name: {k: round3(score["value"]) for k, score in found[name].items()} for name in ("pass", "cot_pass")
            }
            checkpoints.append(row)
        return {
            "dynamics": dynamics,
            "theory": theory,
            "checkpoints": checkpoints,
            "advantages": self.advantages(reward, seed),
        }

    def advantages(self, reward: str, seed: int) -> list[Row]:
        """E[A|right] − E[A|wrong] for groups of this size: predicted by theory.py from held-out problems at a
        checkpoint (their p_c, alpha, beta, one by one), and seen in the training batches up to the next one (at most
        five, of other problems)."""
        from cotpass import advantage

        log = json.loads((self.folder / f"{reward}-{seed}" / "training.json").read_text())
        found = []
        for step, until in zip(self.steps, self.steps[1:], strict=False):
            seen = np.array(
                [[each["advantage_ok"], each["advantage_bad"]] for each in log[step : min(until, step + 5)]]
            )
            weights, values = np.zeros(2), np.zeros(2)
            for right_right, right_wrong, wrong_right, wrong_wrong in self.crossed(reward, seed, step).tolist():
                sound, other = right_right + right_wrong, wrong_right + wrong_wrong
                pc = sound / (sound + other)
                alpha, beta = right_right / sound if sound else 0.0, wrong_right / other if other else 0.0
                exact = advantage(pc, alpha, beta, self.settings.group)["exact"]
                weights += [pc, 1 - pc]
                values += [pc * exact["ok"], (1 - pc) * exact["bad"]]
            ok, bad = values / weights
            mean = np.nanmean(seen, axis=0)
            found.append({"step": step, "predicted_gap": round3(ok - bad), "seen_gap": round3(mean[0] - mean[1])})
        return found

    def crossed(self, reward: str, seed: int, step: int) -> np.ndarray:
        """Per held-out problem the responses by (reasoning, answer): right right, right wrong, wrong right, wrong wrong."""
        counts: dict[str, list[int]] = {}
        with gzip.open(self.records(reward, seed, step), "rt", encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                row = counts.setdefault(record["id"], [0, 0, 0, 0])
                row[2 * (record["votes"] == ["no"]) + (not record["correct"])] += 1
        return np.array(list(counts.values()))

    def change(self, reward: str, last: int) -> Row:
        """P(CC|CA) at the last checkpoint minus the first: mean over problems with a right answer at both; for each seed
        the interval over problems, and for the mean of the seeds the same over each problem's mean."""
        from cotpass.compare import paired_difference

        rows = []
        for seed in self.seeds:
            first, final = (self.crossed(reward, seed, step).astype(float) for step in (self.steps[0], last))
            with np.errstate(invalid="ignore"):
                before, after = (each[:, 0] / (each[:, 0] + each[:, 2]) for each in (first, final))
            rows.append(after - before)
        by_seed = []
        for row in rows:
            found = paired_difference(row[~np.isnan(row), None])
            by_seed.append((round3(found.low[0]), round3(found.high[0])))
        together = np.array(rows)
        common = ~np.isnan(together).any(axis=0)
        found = paired_difference(together[:, common].mean(axis=0)[:, None])
        return {"mean": tuple(round3(each[0]) for each in (found.diff, found.low, found.high)), "by_seed": by_seed}

    def judge_rows(self) -> Iterator[Row]:
        from cotpass.reliability import wilson

        reports = {
            name: json.loads(run("cotpass", "calibrate", "report", str(self.folder / f"tested-{name}.jsonl"), "--json", "-q"))
            for name in JUDGES
        }  # fmt: skip
        told = {
            "steps": "the steps rule",
            "smollm2": "SmolLM2-135M, our prompt",
            "smollm2-examples": "SmolLM2-135M, a prompt with two judged examples",
        }
        for name, report in reports.items():
            clean = triple(report["specificity"], "value", "low", "high")
            for kind, score in report["sensitivity"].items():
                yield claim(
                    f"judge: {told[name]} refuses solutions with injected error: {kind} (control: accepts clean ones)",
                    f"{PAPER} A.3; error types and the paper's judge: ttasalti/evalhub docs/results.md",
                    triple(score, "value", "low", "high"), clean, [0], "measured",
                    detail={"n": score["n"], "unjudged": score["unjudged"], "votes": report["votes"],
                            "kappa": report["kappa"], "abstention": report["abstention"]["value"],
                            "cap_rate": report["cap_rate"]["value"]},
                )  # fmt: skip
            middle = report["sensitivity"]["number-inconsistent"]
            # A judge that says nothing has not accepted: what it refuses and accepts need not make up the whole.
            refused = round(middle["value"] * middle["n"])
            taken = wilson(middle["n"] - refused - middle["unjudged"], middle["n"])
            yield claim(
                f"judge: {told[name]} accepts most solutions with a broken middle number (control: clean ones)",
                "ttasalti/evalhub docs/results.md: the paper's judge accepts 91.9 %",
                triple(taken, "value", "low", "high"), clean, [0],
                supported(taken["low"] > 0.5, taken["high"] < 0.5),
                detail={"refused": refused, "unjudged": middle["unjudged"], "n": middle["n"]},
            )  # fmt: skip
        yield from self.own_errors()

    def own_errors(self) -> Iterator[Row]:
        """The steps rule against the computed truth on right-answered responses of the trained models."""
        for step in (self.steps[0], self.steps[-1]):
            source = self.records("answer", self.seeds[0], step)
            judged = self.folder / f"own-errors-{step}.jsonl.gz"
            with gzip.open(source, "rt", encoding="utf-8") as lines:
                records = [json.loads(line) for line in lines]
            truth = {(each["id"], each["sample"]): each["votes"] == ["yes"] for each in records}
            bare = "".join(
                json.dumps({name: value for name, value in each.items() if name not in ("votes", "judge")}) + "\n"
                for each in records
            )
            run("cotpass", "judge", "-", "--judge", "steps", "-o", str(judged), "--overwrite", "-q", stdin=bare)
            seen = {True: [0, 0], False: [0, 0]}  # by truth: records, of these accepted
            with gzip.open(judged, "rt", encoding="utf-8") as lines:
                for each in map(json.loads, lines):
                    if each["correct"]:
                        cell = seen[truth[each["id"], each["sample"]]]
                        cell[0] += 1
                        cell[1] += each["votes"] == ["yes"]
            from cotpass.reliability import wilson

            (right, accepted), (wrong, missed) = seen[True], seen[False]
            yield claim(
                f"judge: the steps rule refuses the models' own wrong reasonings behind right answers, seed "
                f"{self.seeds[0]}, step {step} (control: accepts right ones)",
                "computed truth (study/chains.py)", triple(wilson(wrong - missed, wrong), "value", "low", "high"),
                triple(wilson(accepted, right), "value", "low", "high"), [self.seeds[0]], "measured",
                detail={"wrong": wrong, "right": right},
            )  # fmt: skip

    def coverage_rows(self) -> Iterator[Row]:
        for row in map(json.loads, (self.folder / "coverage.jsonl").read_text().splitlines()):
            if not row["case"].startswith("coverage normal"):  # the plain interval is there to be compared with
                share, error = row["ours"], 1.96 * row["stderr"]
                inside = LOW <= share <= HIGH
                yield claim(
                    f"intervals: {row['case']}: coverage of 95 % in [{LOW}, {HIGH}]", "Chen et al. 2021 estimator; oracle: simulation",
                    (share, round3(share - error), round3(share + error)),
                    (row["peer"], None, None) if row["peer"] else None, [0], "yes" if inside else "no",
                    detail={"sets": row["n"], "control": "--ci normal"},
                )  # fmt: skip


# ---------------------------------------------------------------- helpers


def claim(
    text: str,
    source: str,
    value: Sequence[float | None],
    control: Sequence[float | None] | None,
    seeds: list[int],
    verdict: str,
    detail: Any = None,
) -> Row:
    return {
        "claim": text, "source": source, "value": value[0], "low": value[1], "high": value[2],
        "control": None if control is None else dict(zip(("value", "low", "high"), control, strict=True)),
        "seeds": seeds, "supported": verdict, "command": COMMAND, "machine": machine(), "detail": detail,
    }  # fmt: skip


def supported(yes: bool, no: bool) -> str:
    return "yes" if yes else "no" if no else "not_shown"


def triple(score: Row, *names: str) -> tuple[float | None, ...]:
    return tuple(round3(score.get(name)) for name in names)


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, least and greatest."""
    return round3(float(np.mean(values))), round3(min(values)), round3(max(values))


def round3(value: Any) -> Any:
    return None if value is None else round(float(value), 4)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run(command: str, *arguments: str, stdin: str | None = None, ok: tuple[int, ...] = (0,)) -> str:
    """Standard output of a command of this environment; SystemExit with what it said where it fails."""
    program = str(Path(sys.executable).with_name(command))
    done = subprocess.run([program, *arguments], input=stdin, capture_output=True, text=True)
    if done.returncode not in ok:
        raise SystemExit(f"{command} {' '.join(arguments)}: exit {done.returncode}\n{done.stderr}")
    return done.stdout


def part(study: Study, name: str, before: concurrent.futures.Future[None] | None) -> None:
    """Run a part in a process of its own after the one before it, its lines in its log; note when it is done."""
    if before is not None:
        before.result()  # which was submitted earlier, so that it runs already
    done, log = study.folder / f"done-{name}", study.folder / f"{name}.log"
    if done.exists():
        return
    started = time.monotonic()
    command = [sys.executable, __file__, "--only", name, *(["--quick"] if study.quick else [])]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with open(log, "wb") as lines:
        code = subprocess.run(command, stdout=lines, stderr=lines, env=environment).returncode
    if code:
        raise SystemExit(f"claims: part {name} failed, exit {code}; see {log}")
    done.write_text(f"{time.monotonic() - started:.0f} s\n")
    say(f"claims: {name}: {done.read_text().strip()}")


def show(rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="cotpass claims")
    for head in ("claim", "value", "control", "supported"):
        table.add_column(head)
    for row in rows:
        ends = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]".replace("[", "\\[")
        value = "–" if row["value"] is None else f"{row['value']:.3f}{ends}"
        control = "" if row["control"] is None else f"{row['control']['value']:.3f}"
        table.add_row(row["claim"], value, control, row["supported"])
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    for row in rows:
        if row["claim"].startswith("table:"):
            console.print(checkpoints(row))


def checkpoints(row: Row) -> Any:
    from rich.table import Table

    table = Table(title=row["claim"])
    ks = list(row["detail"][0]["pass"])
    ks = [ks[0], ks[len(ks) // 2], ks[-1]] if len(ks) > 2 else ks
    names = [f"{title}@{k}" for title in ("Pass", "CoT") for k in ks]
    for head in ("step", "median P(CA)", "median P(CC|CA)", "p_c", "alpha", "beta", *names):
        table.add_column(head, justify="right")
    for each in row["detail"]:
        cells = [each[name] for name in ("p_ca", "p_cc_given_ca", "p_c", "alpha", "beta")]
        cells += [each[name][k] for name in ("pass", "cot_pass") for k in ks]
        table.add_row(str(each["step"]), *("–" if cell is None else f"{cell:.3f}" for cell in cells))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="everything small, under 3 minutes; writes no claims.json")
    parser.add_argument("--only", metavar="PART", help="run one part in this process")
    given = parser.parse_args()
    study = Study(given.quick)
    study.folder.mkdir(parents=True, exist_ok=True)
    parts = study.parts()
    if given.only:
        parts[given.only][0]()
        return
    running: dict[str, concurrent.futures.Future[None]] = {}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for name, (_, before) in parts.items():
            running[name] = pool.submit(part, study, name, running.get(before or ""))
        for future in running.values():
            future.result()
    rows = list(study.rows())
    show(rows)
    if not given.quick:
        (BENCH / "claims.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
