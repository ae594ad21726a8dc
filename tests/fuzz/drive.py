"""Fuzzes one reader for some seconds of this process's CPU time and adds what it did to results.json.

    python tests/fuzz/drive.py READER --seconds 600 [--engine atheris|mutate]
    python tests/fuzz/drive.py --write

`make fuzz SECONDS=600 READER=records` runs it in .venv-fuzz, READER=all one reader after the other. atheris is guided by
the coverage of our code and by `mutate.py`, which it calls for half of its mutations; `mutate` (the default for readers
whose work is done in C) takes `mutate.py` alone. A find is any exception but BadInput, Missing and Busy, 5 seconds without
an end, or 2 GiB of memory beyond what the reader's libraries take. It is saved under finds/READER/ once for each place in
our code that it comes from, and the run goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results.json"
HANG, MEMORY = 5, 2 << 30
GOAL = 600  # seconds of CPU that each reader is to be fuzzed for
OURS = ("shared", "kernels", "tools")


class Hung(BaseException):
    """A reader that has not come to an end in time."""


def place_of(error: BaseException) -> str:
    """The innermost frame of ours: what names a find."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [f for f in frames if Path(f.filename).is_relative_to(ROOT) and Path(f.filename).relative_to(ROOT).parts[0] in OURS]  # fmt: skip
    at = (inside or frames)[-1]
    return f"{type(error).__name__} in {Path(at.filename).stem}.{at.name}"


class Campaign:
    """Runs inputs, keeps what falls out, and stops the process when its time is over."""

    def __init__(self, name: str, seconds: float, engine: str) -> None:
        sys.path.insert(0, str(HERE))
        import readers

        self.name, self.seconds, self.engine = name, seconds, engine
        self.reader = readers.READERS[name]
        self.allowed = readers.ALLOWED
        self.finds: dict[str, str] = {}
        self.silence = open(os.devnull, "w", encoding="utf-8")  # what readers say of a line they pass over
        self.runs = self.accepted = 0
        signal.signal(signal.SIGPROF, self._hung)
        signal.signal(signal.SIGALRM, self._hung)
        signal.signal(signal.SIGTERM, self._ended)
        self.seeds = [*self.reader.seeds(), *(p.read_bytes() for p in sorted((HERE / "finds" / name).glob("*.bin")))]
        for seed in self.seeds:  # what the reader imports is imported before time and memory count
            try:
                with contextlib.redirect_stderr(self.silence):
                    self.reader.run(seed)
            except self.allowed:
                pass  # a seed may be refused
            except ImportError:
                raise  # nothing would be read at all
            except Exception as error:  # a find, of an earlier run perhaps, that is not mended yet
                self._keep(seed, error)
        status = Path("/proc/self/statm").read_text().split()
        limit = int(status[0]) * os.sysconf("SC_PAGE_SIZE") + MEMORY
        if engine == "mutate":
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        self.started = time.process_time()

    def _hung(self, number: int, frame: FrameType | None) -> None:
        raise Hung

    def _ended(self, number: int, frame: FrameType | None) -> None:
        self.seconds = 0.0  # what was run is counted all the same

    def one(self, data: bytes) -> None:
        self.runs += 1
        signal.setitimer(signal.ITIMER_PROF, HANG)  # of CPU, as the machine may be busy; and far more of waiting
        signal.alarm(12 * HANG)
        try:
            with contextlib.redirect_stderr(self.silence):
                self.reader.run(data)
            self.accepted += 1
        except self.allowed:
            pass
        except (Exception, Hung) as error:
            self._keep(data, error)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)

    def _keep(self, data: bytes, error: BaseException) -> None:
        where = place_of(error)
        if where in self.finds:
            return
        target = HERE / "finds" / self.name / f"{hashlib.sha256(data).hexdigest()[:12]}.bin"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        self.finds[where] = target.name
        print(f"{self.name}: {where}: {str(error)[:200]!r}: {target.relative_to(ROOT)}", flush=True)

    @property
    def over(self) -> bool:
        return time.process_time() - self.started >= self.seconds

    def finish(self) -> None:
        """Adds this run to results.json: the CPU time and the runs of earlier ones stay counted."""
        spent = time.process_time() - self.started
        with open(__file__, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another reader may end at the same time
            known: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            row = known.setdefault(
                self.name, {"cpu_seconds": 0.0, "runs": 0, "accepted": 0, "engines": [], "finds": []}
            )
            row["cpu_seconds"] = round(row["cpu_seconds"] + spent, 1)
            row["runs"] += self.runs
            row["accepted"] += self.accepted
            row["engines"] = sorted({*row["engines"], self.engine})
            row["finds"] = sorted({*row["finds"], *self.finds})
            aside = RESULTS.with_suffix(".new")
            aside.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")
            os.replace(aside, RESULTS)
        print(
            f"{self.name}: {spent:.0f} s of CPU, {self.runs:,} runs, {self.accepted:,} accepted, {len(self.finds)} finds"
        )


def by_mutation(campaign: Campaign, seed: int) -> None:
    import mutate

    rng = random.Random(f"{campaign.name}\0{seed}")
    pool = list(campaign.seeds)
    while not campaign.over:
        before = campaign.accepted
        data = mutate.mutated(rng.choice(pool), campaign.reader.kind, rng)
        campaign.one(data)
        # What is read all the same is a document of another kind: it is gone on from, too.
        if campaign.accepted > before and len(data) < 1 << 14:
            if len(pool) < 500:
                pool.append(data)
            else:
                pool[rng.randrange(len(campaign.seeds), 500)] = data
    campaign.finish()


def by_coverage(campaign: Campaign, atheris: Any, seed: int) -> None:
    import mutate

    corpus = ROOT / "out" / "fuzz" / campaign.name
    corpus.mkdir(parents=True, exist_ok=True)
    for data in campaign.seeds:
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)

    def one(data: bytes) -> None:
        campaign.one(data)
        if campaign.over:
            campaign.finish()
            sys.stdout.flush()
            os._exit(0)  # libFuzzer would go on, or count an exception as a find

    def other(data: bytes, most: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < 0.5:
            return atheris.Mutate(data, most)
        try:
            return mutate.mutated(data or campaign.seeds[0], campaign.reader.kind, rng)[:most]
        except (
            Exception
        ):  # libFuzzer would wait for ever for a mutation that raises; test_fuzz_readers.py has them raise nothing
            traceback.print_exc()
            return atheris.Mutate(data, most)

    quiet = [
        "-verbosity=0",
        "-print_final_stats=0",
        "-timeout=60",
        "-rss_limit_mb=6000",
        "-max_len=65536",
        "-detect_leaks=0",
        "-handle_term=0",
    ]
    atheris.Setup([sys.argv[0], *quiet, f"-seed={seed + 1}", str(corpus)], one, custom_mutator=other)
    atheris.Fuzz()


def table(results: dict[str, Any]) -> str:
    """The part of SECURITY.md that says what was run."""
    lines = ["| reader | CPU minutes | runs | taken | engine | places where it broke, since mended |", "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for name, row in results.items():
        found = ", ".join(f"`{one}`" for one in row["finds"]) or "none"
        lines.append(
            f"| `{name}` | {row['cpu_seconds'] / 60:.1f} | {row['runs']:,} | {row['accepted']:,} | {', '.join(row['engines'])} | {found} |"
        )
    minutes, runs = (
        sum(row["cpu_seconds"] for row in results.values()) / 60,
        sum(row["runs"] for row in results.values()),
    )
    short = sorted(name for name, row in results.items() if row["cpu_seconds"] < GOAL)
    lines += [
        "",
        f"{len(results)} readers, {minutes:.0f} minutes of CPU, {runs:,} runs (`python tests/fuzz/drive.py READER --seconds N`).",
    ]
    if short:
        lines += ["", f"Short of {GOAL // 60} minutes of CPU so far: {', '.join(f'`{name}`' for name in short)}."]
    return "\n".join(lines) + "\n"


def write_table() -> None:
    """Puts it into SECURITY.md."""
    target = ROOT / "SECURITY.md"
    before, mark, rest = target.read_text(encoding="utf-8").partition("<!-- fuzz -->\n")
    end = rest.index("<!-- /fuzz -->")
    target.write_text(before + mark + table(json.loads(RESULTS.read_text())) + rest[end:], encoding="utf-8")


def main() -> None:
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("reader", nargs="?")
    told.add_argument("--write", action="store_true", help="put results.json into SECURITY.md, and fuzz nothing")
    told.add_argument("--list", action="store_true", help="name the readers, and fuzz nothing")
    told.add_argument("--seconds", type=float, default=600)
    told.add_argument("--engine", choices=("atheris", "mutate"))
    told.add_argument("--seed", type=int, default=0)
    how = told.parse_args()
    if how.write:
        write_table()
        return
    if how.list:
        sys.path.insert(0, str(HERE))
        import readers

        print("\n".join(readers.READERS))
        return
    if how.reader is None:
        told.error("expected a reader, or --write")
    os.environ.update(OMP_NUM_THREADS="1", TENFOLD_CACHE=str(ROOT / "out" / "fuzz" / "cache"))
    engine = how.engine
    if engine != "mutate":
        try:
            import atheris
        except ImportError:
            if engine == "atheris":
                raise
            engine = "mutate"
    if engine != "mutate":
        packages = ["tenfold_shared", *(p.name.replace("-", "_") for p in (ROOT / "tools").iterdir() if p.is_dir())]
        with atheris.instrument_imports(include=packages, enable_loader_override=False):
            campaign = Campaign(how.reader, how.seconds, "atheris")
    if engine == "mutate" or not campaign.reader.atheris:
        campaign = Campaign(how.reader, how.seconds, "mutate") if engine == "mutate" else campaign
        campaign.engine = "mutate"
        by_mutation(campaign, how.seed)
    else:
        by_coverage(campaign, atheris, how.seed)


if __name__ == "__main__":
    main()
