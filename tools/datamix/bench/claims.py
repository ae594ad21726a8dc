"""`make claims-datamix`: one swarm, agents, and what they are worth on tasks that they were not trained on; paired by seed.

    python tools/datamix/bench/claims.py [--quick] [--only PART]

Text is what is installed here (`datamix corpora --from-installed`): nine domains of prose and data for the swarm and the main comparison,
thirteen of program code, none of which the swarm sees, for transfer. A task is four source and two target domains with a base of its
own. At most a fifth of a run's text may be source text; the learning rate is constant. The main comparison's tasks are other choices of domains than the swarm's.
Transfer, without retraining: source domains of code; a proxy of another shape; six source and three target domains; code as
target. Each rival that trains proxies gets, for each task, as many bytes as the swarm had in all. Agents are judged one by one, as are the controls. Parts leave PART.json in
out/claims/datamix, and one whose file is there is not run again; a comparison that was cut short goes on. --quick has a folder of its
own and writes no claims.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from datamix.figures import paired

BENCH = Path(__file__).resolve().parent
COMMAND = "make claims-datamix"
PAPER = "arXiv 2507.15640"
TEXT = ("bible", "docstrings", "readmes", "licences", "topics", "settings", "tables", "fonts", "charmaps")
CODE = ("python_code", "python_tests", "modelling", "stubs", "sympy_code", "sympy_tests", "cpp_headers", "arrow_headers", "cuda", "cython", "c_code", "tablegen", "javascript")  # fmt: skip
TRANSFERS = {  # what an agent is taken to without retraining: in words, the corpus, options
    "unseen": ("unseen source domains", "unseen", ("--task-roles", "kept")),
    "shape": ("another model shape", "text", ("--proxy", "43k")),
    "domains": ("6 + 3 domains", "text", ("--task-sources", "6", "--task-targets", "3")),
    "code": ("code as target", "code", ("--task-roles", "kept")),
}
TRANSFER_RIVALS = "proportional,best-fixed,regmix,hand"
Record = dict[str, Any]


class Claims:
    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.folder = Path("out/claims") / ("datamix-quick" if quick else "datamix")
        self.trajectories, self.swarm_tasks = (8, 2) if quick else (128, 32)
        self.tasks, self.seeds = (2, 2) if quick else (6, 5)
        self.transfer_tasks = 1 if quick else 3
        self.agents = 2 if quick else 5
        self.budget = ["--steps", "16", "--run-tokens", "32768" if quick else "131072", "--source-budget", "0.2"]

    def parts(self) -> list[str]:
        kinds = ["tables", "corpora", "swarm", "agents", "main", *TRANSFERS, "bytes", "explain"]
        return kinds if os.environ.get("TENFOLD_DATA") else kinds[1:]

    def at(self, name: str) -> str:
        return str(self.folder / name)

    # ------------------------------------------------------------ parts

    def tables(self) -> Record:
        """RegMix's public tables: rank correlations of its regression on other models' runs."""
        data = Path(os.environ["TENFOLD_DATA"]) / "regmix"
        self.call("import", "regmix", "--mixture", str(data / "train_mixture_1m.csv"), "--loss", str(data / "train_pile_loss_1m.csv"), "-o", self.at("pile"), "--overwrite")  # fmt: skip
        found = {}
        for size in ("1m", "60m", "1B"):
            self.call("import", "regmix", "--mixture", str(data / f"test_mixture_{size}.csv"), "--loss", str(data / f"test_pile_loss_{size}.csv"), "-o", self.at(f"pile-{size}"), "--overwrite")  # fmt: skip
            told = json.loads(
                self.call("baseline", "regmix", self.at("pile"), "--test", self.at(f"pile-{size}"), "--json")
            )
            found[size] = {
                "spearman": told["spearman"],
                "linear": told["linear"]["mean"],
                "ridge": told["ridge"]["mean"],
            }
        return found

    def corpora(self) -> Record:
        """The same texts three times, as roles are a corpus's: prose and data; code as sources; code as targets."""
        plans = {"text": (TEXT, TEXT[:1]), "unseen": (TEXT + CODE, TEXT), "code": (TEXT + CODE, CODE)}
        found = {}
        for name, (domains, targets) in plans.items():
            words = [word for one in targets for word in ("--target", one)]
            words += [word for one in domains if one not in targets for word in ("--domain", one)]
            found[name] = json.loads(
                self.call(
                    "corpora",
                    "--from-installed",
                    *words,
                    "-o",
                    self.at(f"corpus-{name}"),
                    "--json",
                    "-q",
                    "--overwrite",
                )
            )
        return found

    def swarm(self) -> Record:
        started = time.monotonic()
        told = json.loads(self.call(
            "swarm", self.at("corpus-text"), "--trajectories", str(self.trajectories), "--tasks", str(self.swarm_tasks), "--base-spread", "1",
            *self.budget, "-o", self.at("swarm"), "--json", "-q",
        ))  # fmt: skip
        return {**told, "seconds": round(time.monotonic() - started, 1)}

    def agents_(self) -> dict[str, list[str]]:
        found = {f"model-{i}": ["--seed", str(i)] for i in range(self.agents)}
        found |= {
            "learned": ["--within", "learned"],
            "lean": ["--pace", "lean"],
            "cql": ["--algo", "cql"],
            "sft": ["--algo", "sft"],
        }
        if self.quick:
            found["cql"] += ["--train-steps", "30"]
        return found

    def train(self) -> Record:
        def one(name: str) -> Record:
            words = ["train-agent", self.at("swarm"), *self.agents_()[name], "-o", self.at(f"agent-{name}")]
            return json.loads(self.call(*words, "--json", "-q"))

        with ThreadPoolExecutor(os.cpu_count()) as several:  # each is a process of one thread
            return dict(zip(self.agents_(), several.map(one, self.agents_()), strict=True))

    def compare(
        self, name: str, corpus: str, agents: list[str], methods: str, *more: str, tasks: int, controls: int = 0
    ) -> Record:
        started = time.monotonic()
        words = [
            "compare",
            self.at(f"corpus-{corpus}"),
            "--swarm",
            self.at("swarm"),
            "--methods",
            methods,
            "--tasks",
            str(tasks),
            "--seeds",
            str(self.seeds),
        ]
        for agent in agents:
            words += ["--agent", self.at(f"agent-{agent}")]
        words += [
            "--control-agents",
            str(max(controls, 1)),
            *(["--controls", "none"] if not controls else []),
            "--base-spread",
            "1",
            "--seed",
            "1",
        ]
        if "--source-budget" not in more:
            words += self.budget
        told = json.loads(self.call(*words, *more, "-o", self.at(f"compare-{name}"), "--json", "-q"))
        return {
            **told,
            "seconds": round(time.monotonic() - started, 1),
            "command": " ".join(["datamix", *words, *more]),
        }

    def main(self) -> Record:
        return self.compare(
            "main",
            "text",
            list(self.agents_()),
            "proportional,best-fixed,regmix,regmix-d,hand,null",
            tasks=self.tasks,
            controls=self.agents,
        )

    def transfer(self, name: str) -> Record:
        _, corpus, more = TRANSFERS[name]
        agents = ["model-0", "model-1", "model-2"][: self.agents]
        return self.compare(name, corpus, agents, TRANSFER_RIVALS, *more, tasks=self.transfer_tasks)

    def bytes(self) -> Record:
        """The agent with less source text, on the main comparison's tasks: how little gives the best rival's source score."""
        found = {}
        for share in ("0.05", "0.1", "0.15"):
            found[share] = self.compare(
                f"bytes-{share}",
                "text",
                ["model-0"],
                "none",
                *self.budget[:4],
                "--source-budget",
                share,
                tasks=self.tasks,
            )
        return found

    def explain(self) -> Record:
        return json.loads(
            self.call(
                "explain",
                self.at("agent-model-0"),
                "--corpus",
                self.at("corpus-text"),
                "--swarm",
                self.at("swarm"),
                "--json",
                "-q",
            )
        )

    def part(self, name: str) -> Record:
        if name in TRANSFERS:
            return self.transfer(name)
        return self.train() if name == "agents" else getattr(self, name)()

    def call(self, *words: str) -> str:
        """stdout; exit code 1 says that some runs failed, which the result counts."""
        done = subprocess.run(["datamix", *words], check=False, stdout=subprocess.PIPE, text=True)
        if done.returncode not in (0, 1):
            raise SystemExit(f"datamix {' '.join(words)}: exit code {done.returncode}")
        return done.stdout

    def runs(self, name: str, method: str) -> dict[tuple[str, int], Record]:
        lines = (self.folder / f"compare-{name}" / "runs.jsonl").read_text(encoding="utf-8").splitlines()
        told = [json.loads(line) for line in lines]
        return {(one["task"], one["seed"]): one for one in told if one["method"] == method and one["status"] == "done"}

    # ------------------------------------------------------------ the table

    def claims(self, results: dict[str, Record]) -> list[Record]:
        common = {"command": COMMAND, "machine": machine()}
        found: list[Record] = []
        main = results["main"]
        seeds = list(range(self.seeds))

        def say(claim: str, diff: Record, control: Record, where: str) -> None:
            """Supported where both intervals are on one side: over seeds (another order of text) and over tasks (other domains)."""
            spans = [(one["low"], one["high"]) for one in (diff, diff.get("over_tasks", diff))]
            whole = all(low is not None for low, _ in spans)
            supported = (
                "yes"
                if whole and min(low for low, _ in spans) > 0
                else "no"
                if whole and max(high for _, high in spans) < 0
                else "not_shown"
            )
            found.append({
                "claim": claim, "source": f"{PAPER}, {where}", "value": diff["mean"], "low": spans[0][0], "high": spans[0][1], "over_tasks": list(spans[1]),
                "control": control, "seeds": seeds, "supported": supported, **common,
            })  # fmt: skip

        for name in ("proportional", "best-fixed", "regmix", "regmix-d", "hand", "cql", "sft", "learned", "lean"):
            key = name if name in main["methods"] else f"agent-{name}"
            if key in main["methods"]:
                x = main["methods"][key]
                say(
                    f"model-based agent above {name}, balanced score in points",
                    x["diff"],
                    {name: x["score"], "agent": main["methods"][main["first"]]["score"]},
                    "main results",
                )
        for kind, what in (
            ("reward_shuffle", "shuffled rewards"),
            ("no_feedback", "no feedback"),
            ("null", "no training"),
        ):
            x = main["controls"][kind]
            say(
                f"the agent is above agents with {what}, each alone", x["diff"], {"each": x["each"]}, "controls of ours"
            )
        for part, (what, _, _) in TRANSFERS.items():
            told = results[part]
            for name in TRANSFER_RIVALS.split(","):
                x = told["methods"][name]
                say(
                    f"transfer to {what}: agent above {name}",
                    x["diff"],
                    {name: x["score"], "agent": told["methods"][told["first"]]["score"]},
                    "transfer",
                )
        best = main["best_rival"]
        theirs = self.runs("main", best)
        for share in results["bytes"]:
            mine = self.runs(f"bytes-{share}", "agent-model-0")
            diff = paired(
                {key: x["source"] for key, x in mine.items()}, {key: x["source"] for key, x in theirs.items()}
            )
            used = sum(x["source_bytes"] for x in mine.values()) / sum(x["source_bytes"] for x in theirs.values())
            say(
                f"with {100 * used:.0f} % of its source bytes the agent is above the best rival's ({best}) source score", diff,
                {"agent": results["bytes"][share]["methods"]["agent-model-0"]["source"], best: main["methods"][best]["source"]}, "source data",
            )  # fmt: skip
        if "tables" in results:
            for size, least in (("1m", 98.96), ("60m", 98.41), ("1B", 94.84)):
                value = 100 * results["tables"][size]["spearman"]["mean"]
                found.append({
                    "claim": f"RegMix's regression on its public tables, mean Spearman to {size} (measured elsewhere: {least})", "source": "sail-sg/regmix, notebook", "value": value, "low": None, "high": None,
                    "control": {"linear": results["tables"][size]["linear"], "ridge": results["tables"][size]["ridge"]}, "seeds": [42],
                    "supported": "yes" if value > least - 0.3 else "no", **common,
                })  # fmt: skip
        return found

    def table(self, results: dict[str, Record]) -> list[Record]:
        """Every method of every comparison."""
        rows = []
        for part in ("main", *TRANSFERS):
            for name, x in results[part]["methods"].items():
                rows.append(
                    {
                        "comparison": part,
                        "method": name,
                        **{k: v for k, v in x.items() if k != "diff"},
                        "agent_less_it": x.get("diff"),
                    }
                )
            for kind, x in results[part]["controls"].items():
                rows.append({"comparison": part, "method": kind, **x})
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
    found, table = claims.claims(results), claims.table(results)
    for one in found:
        span = "" if one["low"] is None else f" [{one['low']:+.2f}, {one['high']:+.2f}]"
        value = "-" if one["value"] is None else f"{one['value']:+.3f}"
        print(f"{one['supported']:>9}  {one['claim']}: {value}{span}")
    if not given.quick:
        write(BENCH / "claims.json", found)
        write(
            BENCH / "tables.json",
            [{part: results[part] for part in ("corpora", "swarm", "agents", "explain") if part in results}, *table],
        )


if __name__ == "__main__":
    main()
