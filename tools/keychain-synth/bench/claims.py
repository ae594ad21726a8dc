"""`make claims-keychain-synth`: the paper's claims about rows with chains, as far as small models show them.

    python tools/keychain-synth/bench/claims.py [--quick] [--only PART]

Parts run as processes of their own, two at a time, and leave their files in out/claims/keychain-synth/; a part whose
`done-PART` file is there is not run again (delete the folder to start anew). Rows, mixes and scores are made by the
installed `keychain-synth` command. The table is printed and written to claims.json beside this file; --quick (under 3
minutes; few steps, rows and seeds, its figures mean little) has a folder of its own and writes no claims.json.

- SmolLM2-135M on the shipped questions at 1,024 tokens, greedy, one scorer for all (RULER's: the response holds the
  answer): one needle, plain questions, rows with chains by hops and by number of chains, and whether it can say which
  question a chain ends in.
- A transformer of half a million weights (tracing/) taught on rows of 256 tokens, asked at 256 to 2,048: a mix of rows
  with chains, plain rows and sums; beside it the same mix with plain rows in place of those with chains (the paper's
  ablation, `mix --warmup-rows replace`), and rows with chains alone.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

BENCH = Path(__file__).resolve().parent
EXAMPLES = [str(BENCH.parent / "examples" / name) for name in ("hotpot.json", "musique.jsonl", "2wiki.json")]
COMMAND = "make claims-keychain-synth"
PAPER = "LoongRL, arXiv 2510.19363"
SEEDS = (0, 1)

SMOL_LENGTH = 1024
CELLS = ((1, 2), (2, 2), (4, 2), (1, 4), (1, 8))  # hops and chains
TRACE = (
    '$context\n\nFollow the pairs from the key $head, one after the other, to the question they end in.\n\n{"$head": "'
)

SHORT = 256  # tokens of the rows that the small transformer is taught on
RESERVE = 40
CHAINS, HOPS = 4, 2
TIMES = (1, 2, 4, 8)
ARMS = ("keychain-mix", "plain-mix", "keychain-alone")
PRESET = """
name = "small"
[[part]]
name = "keychain"
rows = {rows}
data_source = "keychain"
warmup = "plain"
[[part]]
name = "plain"
rows = {rows}
data_source = "plain"
[[part]]
name = "sums"
rows = {rows}
data_source = "sums"
"""

Row = dict[str, Any]


class Study:
    """Folder and sizes of a run."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.folder = Path("out/claims") / ("keychain-synth-quick" if quick else "keychain-synth")
        self.seeds = SEEDS[:1] if quick else SEEDS
        self.items = 600 if quick else 8000
        self.asked = 20 if quick else 200
        self.cells = CELLS[:1] if quick else CELLS
        self.questions = 3 if quick else None
        self.times = TIMES[:2] if quick else TIMES

    @cached_property
    def settings(self) -> Any:
        from tracing.training import Settings

        full = Settings()
        return replace(full, width=32, base_steps=60, steps=60, answer=64) if self.quick else full

    def parts(self) -> dict[str, tuple[Callable[[], None], str | None]]:
        """Each part and the one that must be done before it, in an order in which that one stands earlier."""
        found: dict[str, tuple[Callable[[], None], str | None]] = {"world": (self.world, None)}
        for seed in self.seeds:
            found[f"base-{seed}"] = (partial(self.base, seed), "world")
        for seed, arm in itertools.product(self.seeds, ARMS):
            found[f"{arm}-{seed}"] = (partial(self.arm, arm, seed), f"base-{seed}")
        found["smollm2-needle"] = (self.needle, None)
        found["smollm2-plain"] = (self.plain, None)
        for hops, chains in self.cells:
            found[f"smollm2-answer-{hops}-{chains}"] = (partial(self.answer, hops, chains), None)
            found[f"smollm2-trace-{hops}-{chains}"] = (partial(self.trace, hops, chains), None)
        return found

    # ---- SmolLM2

    def ask(self, name: str, rows: Path, tokens: int) -> None:
        run("keychain-synth", "eval", str(rows), "--model", "smollm2", "--reward", "ruler", "--temperature", "0",
            "--max-tokens", str(tokens), "--batch-size", "8", "-o", str(self.folder / f"smollm2-{name}.jsonl"),
            "--overwrite", "-q")  # fmt: skip

    def needle(self) -> None:
        rows = self.folder / "rows-needle.jsonl"
        run("keychain-synth", "needle", "--tokenizer", "smollm2", "--length", str(SMOL_LENGTH), "--depths",
            "0,25,50,75,100", "--haystack", "bible", "--per-depth", "1" if self.quick else "10", "--reserve", "40",
            "-o", str(rows), "--overwrite", "-q")  # fmt: skip
        self.ask("needle", rows, 32)

    def plain(self) -> None:
        self.ask("plain", self.shipped("plain", "--plain", "--reserve", "40", "--system-file", "none"), 32)

    def answer(self, hops: int, chains: int) -> None:
        name = f"answer-{hops}-{chains}"
        rows = self.shipped(name, *_chains(hops, chains), "--reserve", "40", "--system-file", "none")
        self.ask(name, rows, 32)

    def trace(self, hops: int, chains: int) -> None:
        """The prompt begins to follow the chain; the right response holds the question it ends in."""
        name = f"trace-{hops}-{chains}"
        template = self.folder / "trace.txt"
        template.write_text(TRACE)
        tokens = 30 * hops + 10
        rows = self.shipped(
            name, *_chains(hops, chains), "--reserve", str(tokens), "--prompt", "--template", str(template)
        )
        self.ask(name, rows, tokens)

    def shipped(self, name: str, *options: str) -> Path:
        """Rows of the shipped questions, without those answered by yes or no; to trace, the answer is the question."""
        made, rows = self.folder / f"made-{name}.jsonl", self.folder / f"rows-{name}.jsonl"
        run("keychain-synth", "synth", *EXAMPLES, "--tokenizer", "smollm2", "--length", str(SMOL_LENGTH), *options,
            "--workers", "1", "-o", str(made), "--overwrite", "-q", "--max-drop-rate", "0.2")  # fmt: skip
        kept = [row for row in map(json.loads, made.read_text().splitlines())
                if not {"yes", "no"} & {answer.lower() for answer in row["answer"]}][: self.questions]  # fmt: skip
        if name.startswith("trace"):
            kept = [{**row, "answer": [row["meta"]["question"]]} for row in kept]
        rows.write_text("".join(json.dumps(row) + "\n" for row in kept))
        return rows

    # ---- the small transformer

    def world(self) -> None:
        """The tokenizer; rows of 256 tokens with chains, plain and sums, mixed; rows of other items to be asked."""
        from tracing import world

        world.write_tokenizer(self.folder / "tokenizer")
        for kind, template in world.TEMPLATES.items():
            (self.folder / f"{kind}.txt").write_text(template)
        for seed, count in ((0, self.items), (1, self.items // 4)):
            lines(self.folder / f"items-{seed}.jsonl", world.items(seed, count))
        third = self.items // 2  # of each part; replaced, there are twice as many plain rows
        lines(self.folder / "sums.jsonl", world.sums(0, third))
        taught = {row["prompt"] for row in world.sums(0, third)}
        new = (row for row in world.sums(1, 20 * self.asked) if row["prompt"] not in taught)
        lines(self.folder / "asked-sums.jsonl", itertools.islice(new, self.asked))
        self.synth("keychain", 0, SHORT, "keychain.jsonl", "--chains", str(CHAINS))
        self.synth("plain", 0, SHORT, "plain.jsonl")
        preset = self.folder / "small.toml"
        preset.write_text(PRESET.format(rows=third))
        files = [f"{part}={self.folder / part}.jsonl" for part in ("keychain", "plain", "sums")]
        for arm, stage in (("keychain-mix", ["1"]), ("plain-mix", ["warmup", "--warmup-rows", "replace"])):
            parts = [word for file in files for word in ("--part", file)]
            run("keychain-synth", "mix", "--preset", str(preset), *parts, "--stage", *stage, "-o",
                str(self.folder / f"taught-{arm}.jsonl"), "--overwrite", "-q")  # fmt: skip
        lines(
            self.folder / "taught-keychain-alone.jsonl",
            itertools.islice(read(self.folder / "keychain.jsonl"), 2 * third),
        )
        for times in self.times:
            few = ("--limit", str(self.asked))
            length = SHORT * times
            self.synth("keychain", 1, length, f"asked-chains-{times}.jsonl", "--chains", str(CHAINS), *few)
            self.synth("keychain", 1, length, f"asked-more-{times}.jsonl", "--chains", str(CHAINS * times), *few)
            self.synth("plain", 1, length, f"asked-plain-{times}.jsonl", *few)

    def synth(self, kind: str, items: int, length: int, out: str, *options: str) -> None:
        how = ["--plain"] if kind == "plain" else ["--hops", str(HOPS)]
        run("keychain-synth", "synth", str(self.folder / f"items-{items}.jsonl"), "--tokenizer",
            str(self.folder / "tokenizer"), "--length", str(length), "--reserve", str(RESERVE), *how, *options,
            "--prompt", "--template", str(self.folder / f"{kind}.txt"), "--workers", "1", "-o",
            str(self.folder / out), "--overwrite", "-q")  # fmt: skip

    @cached_property
    def rows_of_world(self) -> Any:
        from tracing.training import Rows

        items = [item for seed in (0, 1) for item in read(self.folder / f"items-{seed}.jsonl")]
        return Rows(self.folder / "tokenizer", items)

    def base(self, seed: int) -> None:
        from tracing.training import train_base

        sums = [self.rows_of_world.example(row) for row in read(self.folder / "sums.jsonl")]
        out = self.folder / f"base-{seed}.safetensors"
        train_base(seed, self.settings, sums, out, say)
        self.asks("base", seed, out, ["sums"])

    def arm(self, arm: str, seed: int) -> None:
        from tracing.training import train_rows

        rows = [self.rows_of_world.example(row) for row in read(self.folder / f"taught-{arm}.jsonl")]
        out = self.folder / f"{arm}-{seed}.safetensors"
        train_rows(seed, self.settings, self.folder / f"base-{seed}.safetensors", rows, out, say)
        kinds = ("chains", "more", "plain")
        self.asks(arm, seed, out, ["sums", *(f"{kind}-{times}" for kind in kinds for times in self.times)])

    def asks(self, arm: str, seed: int, weights: Path, names: Sequence[str]) -> None:
        from tracing.training import answers

        model = self.settings.model(weights)
        for name in names:
            said = self.folder / f"said-{arm}-{seed}-{name}.jsonl"
            asked = list(read(self.folder / f"asked-{name}.jsonl"))
            lines(said, answers(model, self.rows_of_world, asked, self.settings))
            run("keychain-synth", "score", str(said), "--reward", "exact", "-o", str(self.scored(arm, seed, name)),
                "--overwrite", "-q")  # fmt: skip
            say(f"{name}: {np.mean([row['reward'] for row in read(self.scored(arm, seed, name))]):.3f}")

    def scored(self, arm: str, seed: int, name: str) -> Path:
        return self.folder / f"scored-{arm}-{seed}-{name}.jsonl"

    # ---- the table

    def rows(self) -> Iterator[Row]:
        yield from self.smol_rows()
        yield from self.tracing_rows()

    def smol(self, name: str) -> list[float]:
        return [row["reward"] for row in read(self.folder / f"smollm2-{name}.jsonl")]

    def smol_rows(self) -> Iterator[Row]:
        needle, plain = self.smol("needle"), self.smol("plain")
        answered = {cell: self.smol("answer-{}-{}".format(*cell)) for cell in self.cells}
        traced = {cell: self.smol("trace-{}-{}".format(*cell)) for cell in self.cells}
        every = [score for found in answered.values() for score in found]
        title = f"SmolLM2-135M at {SMOL_LENGTH} tokens"
        yield claim(f"{title}: finds a needle oftener than it answers plain questions (control)", f"{PAPER} §3, §4.2",
                    share(needle), share(plain), [0], order(needle, plain))  # fmt: skip
        yield claim(f"{title}: answers plain questions oftener than rows with chains, all settings (control)",
                    f"{PAPER} Table 4", share(plain), share(every), [0], order(plain, every),
                    {f"{hops} hops, {chains} chains": share(found) for (hops, chains), found in answered.items()})  # fmt: skip
        for what, found in (("answers", answered), ("says which question a chain ends in", traced)):
            yield from self.smol_falls(f"{title}: {what}", found)

    def smol_falls(self, title: str, found: dict[tuple[int, int], list[float]]) -> Iterator[Row]:
        """One row for more hops at the fewest chains, one for more chains at one hop."""
        for name, axis, line in (("hops", 0, [cell for cell in self.cells if cell[1] == 2]),
                                 ("chains", 1, [cell for cell in self.cells if cell[0] == 1])):  # fmt: skip
            easy, hard = found[line[0]], found[line[-1]]
            yield claim(
                f"{title} oftener with {line[0][axis]} than with {line[-1][axis]} {name} (control)", f"{PAPER} §3.1",
                share(easy), share(hard), [0], order(easy, hard),
                {f"{cell[0]} hops, {cell[1]} chains": share(found[cell]) for cell in line},
            )  # fmt: skip

    def tracing_rows(self) -> Iterator[Row]:
        cells = {
            (arm, kind, times, seed): list(read(self.scored(arm, seed, f"{kind}-{times}")))
            for arm, kind, times, seed in itertools.product(ARMS, ("chains", "more", "plain"), self.times, self.seeds)
        }
        told = {"chains": f"{CHAINS} chains", "more": f"{CHAINS} chains in each {SHORT} tokens"}

        def by_seed(arm: str, kind: str, times: int, field: str) -> list[list[float]]:
            found = [cells[arm, kind, times, seed] for seed in self.seeds]
            return [[float(row["meta"][field] if field == "traced" else row[field]) for row in rows] for rows in found]

        def along(kind: str, field: str) -> Row:
            return {arm: {f"{SHORT * times} tokens": spread([np.mean(rows) for rows in by_seed(arm, kind, times, field)])
                          for times in self.times} for arm in ARMS}  # fmt: skip

        mix, control, alone = ARMS
        for kind, times in itertools.product(told, self.times[1:]):
            far, near = by_seed(mix, kind, times, "traced"), by_seed(mix, kind, 1, "traced")
            other = by_seed(control, kind, times, "traced")
            kept = [np.mean(one) / np.mean(two) if any(two) else 0.0 for one, two in zip(far, near, strict=True)]
            better = all(order(one, two) == "yes" for one, two in zip(far, other, strict=True))
            yield claim(
                f"small transformer, taught at {SHORT} tokens: at {SHORT * times}, {told[kind]}, it traces at least nine "
                "tenths as many chains as there, and more than the control (taught on plain rows)",
                f"{PAPER} §4.2", pooled(far), pooled(other), list(self.seeds),
                verdict(min(kept) >= 0.9 and better, max(kept) < 0.9 or not better),
                {"kept": spread(kept), **along(kind, "traced")},
            )  # fmt: skip
            right, wrong = by_seed(mix, kind, times, "reward"), by_seed(control, kind, times, "reward")
            yield claim(
                f"small transformer: at {SHORT * times} tokens, {told[kind]}, the boxed answer is right (control: taught on "
                "plain rows)", f"{PAPER} §4.2", pooled(right), pooled(wrong), list(self.seeds), "measured",
                along(kind, "reward"),
            )  # fmt: skip
        for times in self.times:
            ours, theirs = by_seed(mix, "plain", times, "reward"), by_seed(control, "plain", times, "reward")
            signs = [order(one, two) for one, two in zip(ours, theirs, strict=True)]
            yield claim(
                f"small transformer: plain questions at {SHORT * times} tokens are answered oftener with rows with chains "
                "in the mix than with plain rows in their place (control)", f"{PAPER} Table 4",
                pooled(ours), pooled(theirs), list(self.seeds),
                verdict(all(sign == "yes" for sign in signs), all(sign == "no" for sign in signs)), along("plain", "reward"),
            )  # fmt: skip
        yield from self.sums_rows(mix, alone)

    def sums_rows(self, mix: str, alone: str) -> Iterator[Row]:
        """After minus before, row by row; kept is a change whose interval lies above −0.05."""
        for arm, text in ((mix, "with sums in the mix"), (alone, "taught on rows with chains alone")):
            before, after = ([[row["reward"] for row in read(self.scored(which, seed, "sums"))] for seed in self.seeds]
                             for which in ("base", arm))  # fmt: skip
            change = np.array(after).mean(0) - np.array(before).mean(0)  # by row, over seeds
            error = 1.96 * change.std(ddof=1) / np.sqrt(len(change))
            low, high = change.mean() - error, change.mean() + error
            yield claim(
                f"small transformer, {text}: short sums are kept (share right after; control: before; kept is a change "
                "above -0.05)", f"{PAPER} §3.2.2, Table 3", pooled(after), pooled(before), list(self.seeds),
                verdict(low > -0.05, high < -0.05), {"change": round3(change.mean()), "low": round3(low), "high": round3(high)},
            )  # fmt: skip


# ---------------------------------------------------------------- helpers


def _chains(hops: int, chains: int) -> list[str]:
    return ["--hops", str(hops), "--chains", str(chains)]


def claim(
    text: str,
    source: str,
    value: Sequence[float],
    control: Sequence[float],
    seeds: list[int],
    supported: str,
    detail: Any = None,
) -> Row:
    return {
        "claim": text, "source": source, "value": value[0], "low": value[1], "high": value[2],
        "control": dict(zip(("value", "low", "high"), control, strict=True)), "seeds": seeds,
        "supported": supported, "command": COMMAND, "machine": machine(), "detail": detail,
    }  # fmt: skip


def verdict(yes: bool, no: bool) -> str:
    return "yes" if yes else "no" if no else "not_shown"


def share(scores: Sequence[float]) -> tuple[float, float, float]:
    """Of scores of 0 and 1: their mean and its Wilson interval (95 %)."""
    found = binomtest(round(sum(scores)), len(scores)).proportion_ci(method="wilson")
    return round3(np.mean(scores)), round3(found.low), round3(found.high)


def pooled(by_seed: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Mean over seeds, least and greatest."""
    return spread([float(np.mean(scores)) for scores in by_seed])


def spread(values: Sequence[Any]) -> tuple[float, float, float]:
    return round3(np.mean(values)), round3(min(values)), round3(max(values))


def order(first: Sequence[float], second: Sequence[float]) -> str:
    """Whether the share of `first` is the larger: Fisher's exact test, two-sided, 5 %."""
    from scipy.stats import fisher_exact

    a, b = round(sum(first)), round(sum(second))
    p = fisher_exact([[a, len(first) - a], [b, len(second) - b]]).pvalue
    larger = a / len(first) > b / len(second)
    return verdict(p < 0.05 and larger, p < 0.05 and not larger)


def round3(value: Any) -> float:
    return round(float(value), 4)


def machine() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return f"{os.cpu_count()} cores, {found[1] if found else 'unknown CPU'}"


def read(path: Path) -> Iterator[Row]:
    with open(path, encoding="utf-8") as file:
        yield from map(json.loads, file)


def lines(path: Path, rows: Iterator[Row]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run(command: str, *arguments: str) -> None:
    """A command of this environment; SystemExit with what it said where it fails."""
    program = str(Path(sys.executable).with_name(command))
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command} {' '.join(arguments)}: exit {done.returncode}\n{done.stderr}")


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
    with open(log, "wb") as file:
        code = subprocess.run(command, stdout=file, stderr=file, env=environment).returncode
    if code:
        raise SystemExit(f"claims: part {name} failed, exit {code}; see {log}")
    done.write_text(f"{time.monotonic() - started:.0f} s\n")
    say(f"claims: {name}: {done.read_text().strip()}")


def show(rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="keychain-synth claims")
    for head in ("claim", "value", "control", "supported"):
        table.add_column(head)
    for row in rows:
        value = f"{row['value']:.3f} \\[{row['low']:.3f}, {row['high']:.3f}]"
        table.add_row(row["claim"], value, f"{row['control']['value']:.3f}", row["supported"])
    Console(width=None if sys.stdout.isatty() else 160).print(table)


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
