"""`make claims-zerorepo`: what a graph of a repository is good for, measured on releases from PyPI; no model is asked.

    python tools/zerorepo/bench/claims.py [--quick] [--only PART]

Parts run as processes of their own, two at a time, and leave their files in out/claims/zerorepo/; a part whose
`done-PART` file is there is not run again (delete the folder to start anew). Releases come from PyPI by pip. The table
is printed and written to claims.json beside this file; --quick (under 3 minutes; few packages and releases, its figures
mean little) has a folder of its own and writes no claims.json.

- imports: the pairs of importing and imported modules in networkx 3.6.1 without its tests and in requests 2.32.5 are
  grimp's, which runs in a process that has not imported either.
- history: the releases of one package as commits of a git repository; for each two neighbours the updated graph must
  be the freshly encoded one, byte for byte, through the work tree (every file compared) and through `update --range`.
- localise: issues mined from releases (claim_parts/mining.py): a changelog's line, and the functions that changed. Ours
  against BM25 over bodies, BM25 over whole functions, and aider's own repository map, at equal k; ablations. Weights and
  the baselines' k1, b were chosen on the packages of TUNED (claim_parts/tune.py); figures are of those of REPORTED, whose
  changelogs were seen for their layout alone. Some 30 intervals are given, uncorrected for their number.
- rebuild, oracle, faults (claim_parts/rebuild.py, building.py): packages put together again from their graph, and built
  from their skeletons by answers of a hidden copy, right always or three times in ten; the suites of the packages
  themselves decide.
- craft (claim_parts/crafted.py): the scorer on repositories of known worth: packages themselves, stubs, mutants, copies under
  other names; sized (claim_parts/size.py): the size counters on requests 2.28.2.
- growth (claim_parts/growth.py): features against rounds of `propose` under a scripted proposer.
- calls: a scripted agent (claim_parts/agent.py) looks for the same functions by search, fetch and explore; how many
  calls until it has fetched one, with explore and without.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from claim_parts.agent import ARMS, MOST_CALLS, Agent
from claim_parts.building import EXPECTED, FAULTS, ORACLE, TRIES, Q
from claim_parts.building import measured as built
from claim_parts.crafted import measured as crafted
from claim_parts.crafted import rows as craft_rows
from claim_parts.growth import claim as growth_row
from claim_parts.growth import study as grown
from claim_parts.mining import Package, fetch, mine, releases
from claim_parts.rankings import KS, Remembered, Repository, aider_rankings, measures
from claim_parts.rebuild import PACKAGES, Project
from claim_parts.rebuild import measured as rebuilt
from claim_parts.size import check as sized

from zerorepo.encode import encode, update
from zerorepo.graph import IMPORTS as KINDS
from zerorepo.sources import Commit, WorkTree, changed_between, resolve_commit

BENCH = Path(__file__).resolve().parent
COMMAND = "make claims-zerorepo"
P1, P2 = "ZeroRepo, arXiv 2509.16198", "RPG-Encoder, arXiv 2602.02084"

IMPORTS = (("networkx", "3.6.1", 288, 800), ("requests", "2.32.5", 18, 55))  # with the modules and pairs known
GRIMP = """
import json, sys
import grimp
graph = grimp.build_graph(sys.argv[1], cache_dir=None)
pairs = [(one, other) for one in graph.modules for other in graph.find_modules_directly_imported_by(one)]
print(json.dumps({"modules": len(graph.modules), "pairs": sorted(pairs)}))
"""
HISTORIES = (Package("click", "8.5.1", ""),)
RELEASES = 31  # of each history: 30 pairs
# Weights and parameters were chosen on these, and on nothing else.
TUNED = (
    Package("apispec", "6.10.1", "CHANGELOG.rst"), Package("babel", "2.19.0", "CHANGES.rst"),
    Package("click", "8.5.1", "CHANGES.md"), Package("httpx", "0.28.1", "CHANGELOG.md"),
    Package("jedi", "0.20.1", "CHANGELOG.rst"), Package("marshmallow", "4.4.0", "CHANGELOG.rst"),
    Package("parso", "0.8.7", "CHANGELOG.rst"), Package("requests", "2.34.2", "HISTORY.md"),
    Package("setuptools", "84.2.1", "NEWS.rst"), Package("sqlparse", "0.6.1", "CHANGELOG"),
)  # fmt: skip
# The figures are of these.
REPORTED = (
    Package("attrs", "26.1.0", "CHANGELOG.md"), Package("cattrs", "26.2.1", "HISTORY.md"),
    Package("cheroot", "11.1.2", "CHANGES.rst"), Package("django", "5.2.19", "docs/releases/*.txt"),
    Package("flask", "3.1.3", "CHANGES.rst"), Package("httpcore", "1.0.9", "CHANGELOG.md"),
    Package("keyring", "25.7.0", "NEWS.rst"), Package("pip", "26.3", "NEWS.rst"),
    Package("pluggy", "1.7.0", "CHANGELOG.rst"), Package("prompt-toolkit", "3.0.53", "CHANGELOG"),
    Package("pyjwt", "2.15.1", "CHANGELOG.rst"), Package("pytest", "9.2.0", "doc/en/changelog.rst"),
    Package("scrapy", "2.19.0", "docs/news.rst"), Package("structlog", "26.1.0", "CHANGELOG.md"),
    Package("urllib3", "2.8.0", "CHANGES.rst"), Package("waitress", "3.0.2", "CHANGES.txt HISTORY.txt"),
    Package("webargs", "8.7.1", "CHANGELOG.rst"), Package("werkzeug", "3.1.9", "CHANGES.rst"),
    Package("wtforms", "3.3.2", "CHANGES.rst"),
)  # fmt: skip
QUICK = (Package("pyjwt", "2.15.1", "CHANGELOG.rst"), Package("flask", "3.1.3", "CHANGES.rst"))
MOST_RELEASES = 40  # with one line, of one package
MOST_CALLED = 12  # issues of one package that the agent is given, the newest

# Chosen on TUNED by `claims.py --tune` (mean of hit@k, recall@k and reciprocal rank).
BM25 = {"bm25 bodies": (3.0, 0.35, 1.0), "bm25 whole": (3.0, 0.2, 0.0)}  # k1, b, weight of words any issue has
ABLATIONS = ("no edges", "no features", "no embeddings")
METHODS = ("ours", *BM25, "aider", *ABLATIONS)
# aider-chat 0.86.2 pins these; what else it depends on, the map does not use.
AIDER = """aider-chat==0.86.2 grep-ast==0.9.0 tree-sitter==0.25.2 tree-sitter-language-pack==0.13.0 tree-sitter-c-sharp==0.23.1
tree-sitter-embedded-template==0.25.0 tree-sitter-yaml==0.7.2 diskcache==5.6.3 networkx==3.4.2 numpy==1.26.4 scipy==1.15.3
pygments==2.19.2 pathspec==0.12.1 tqdm==4.67.1 rich==14.1.0 markdown-it-py==4.0.0 mdurl==0.1.2 prompt_toolkit==3.0.52
wcwidth==0.2.13 packaging==25.0""".split()

Row = dict[str, Any]


class Study:
    """Folder and sizes of a run."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.folder = Path("out/claims") / ("zerorepo-quick" if quick else "zerorepo")
        self.releases = self.folder / "releases"
        self.histories = HISTORIES[:1] if quick else HISTORIES
        self.length = 4 if quick else RELEASES
        self.reported = QUICK if quick else REPORTED
        self.tuned = () if quick else TUNED
        self.most = 6 if quick else MOST_RELEASES
        self.resamples = 1000 if quick else 10_000

    def parts(self) -> dict[str, tuple[Callable[[], None], tuple[str, ...]]]:
        """Each part and those that must be done before it, in an order in which those stand earlier."""
        found: dict[str, tuple[Callable[[], None], tuple[str, ...]]] = {"imports": (self.imports, ())}
        for project in self.projects(PACKAGES):
            found[f"rebuild-{project.name}"] = (partial(self.rebuild, project), ())
        for project in self.projects(ORACLE):
            found[f"oracle-{project.name}"] = (partial(self.build, project, "oracle"), (f"rebuild-{project.name}",))
        for project in self.projects(FAULTS):
            found[f"fault-{project.name}"] = (partial(self.build, project, "fault"), (f"oracle-{project.name}",))
        for project in self.projects(PACKAGES):
            found[f"craft-{project.name}"] = (partial(self.craft, project), (f"rebuild-{project.name}",))
        found["sized"] = (self.sized, ())
        found["growth"] = (self.growth, ())
        found["aider"] = (self.aider, ())
        for package in self.histories:
            found[f"history-{package.name}"] = (partial(self.history, package), ())
        for package in (*self.reported, *self.tuned):
            found[f"mine-{package.name}"] = (partial(self.mine, package), ())
        for package in self.reported:
            found[f"localise-{package.name}"] = (partial(self.localise, package), (f"mine-{package.name}",))
            found[f"aider-{package.name}"] = (partial(self.aider_on, package), ("aider", f"mine-{package.name}"))
            found[f"calls-{package.name}"] = (partial(self.calls, package), (f"mine-{package.name}",))
        return found

    # ---- imports

    def imports(self) -> None:
        rows = []
        for name, version, modules, pairs in IMPORTS:
            tree = fetch(name, version, self.releases, "wheel")
            assert tree is not None
            place = self.folder / f"imports-{name}"
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(tree / name, place / name, ignore=shutil.ignore_patterns("tests"))
            words = [sys.executable, "-c", GRIMP, name]
            told = json.loads(subprocess.run(words, check=True, cwd=place, stdout=subprocess.PIPE, text=True).stdout)
            graph = encode(WorkTree(place / name), name)
            ours = {
                (self.module(name, edge.src), self.module(name, edge.dst)) for edge in graph.edges if edge.type in KINDS
            }
            theirs = {tuple(pair) for pair in told["pairs"]}
            rows.append(
                {"package": name, "version": version, "modules": sum(node.kind == "file" for node in graph.nodes),
                 "pairs": len(ours), "grimp_modules": told["modules"], "grimp_pairs": len(theirs), "known": [modules, pairs],
                 "only_ours": sorted(ours - theirs), "only_grimp": sorted(theirs - ours)}
            )  # fmt: skip
        write(self.folder / "imports.jsonl", rows)

    def module(self, package: str, path: str) -> str:
        return ".".join([package, *path.removesuffix(".py").split("/")]).removesuffix(".__init__")

    # ---- rebuild, build, growth

    def projects(self, all_: Sequence[Project]) -> list[Project]:
        return [one for one in all_ if not self.quick or one.name == "semver"]

    def place(self, project: Project) -> Path:
        """One package's own folder: its parts run one after the other, those of others beside them."""
        found = (self.folder / "generation" / project.name).resolve()
        found.mkdir(parents=True, exist_ok=True)
        return found

    def rebuild(self, project: Project) -> None:
        write(self.folder / f"rebuild-{project.name}.jsonl", [rebuilt(project, self.place(project))])

    def build(self, project: Project, how: str) -> None:
        write(self.folder / f"{how}-{project.name}.jsonl", [built(project.name, how, self.place(project))])

    def craft(self, project: Project) -> None:
        write(self.folder / f"craft-{project.name}.jsonl", [crafted(project, self.place(project), self.quick)])

    def sized(self) -> None:
        folder = (self.folder / "sized").resolve()
        folder.mkdir(parents=True, exist_ok=True)
        write(self.folder / "sized.jsonl", [sized(folder)])

    def growth(self) -> None:
        write(self.folder / "growth.jsonl", grown(self.quick))

    def generation_rows(self) -> Iterator[Row]:
        whole = [row for one in self.projects(PACKAGES) for row in read(self.folder / f"rebuild-{one.name}.jsonl")]
        yield claim(
            "rebuild --code full gives every file back and the package's own suite passes as before; --code stubs imports and fails it "
            "(packages where it is so)", f"{P2} §2 (rebuild)", sum(row["ok"] for row in whole), None, None,
            {"packages": whole}, verdict(all(row["ok"] for row in whole), not all(row["ok"] for row in whole)),
        )  # fmt: skip
        rows = [row for one in self.projects(ORACLE) for row in read(self.folder / f"oracle-{one.name}.jsonl")]
        done, leaves = sum(row["done"] for row in rows), sum(row["leaves"] for row in rows)
        alike = all(row["suite_alike"] for row in rows)
        yield claim(
            "bodies out, built by the oracle: leaves done (share); and the original suites pass with the original's counts",
            f"{P1} §3", short(done / leaves), None, None, {"leaves": leaves, "done": done, "suites_alike": alike, "packages": rows},
            verdict(done == leaves and alike, done < leaves or not alike),
        )  # fmt: skip
        rows = [row for one in self.projects(FAULTS) for row in read(self.folder / f"fault-{one.name}.jsonl")]
        done, leaves = sum(row["done"] for row in rows), sum(row["leaves"] for row in rows)
        sigma = (EXPECTED * (1 - EXPECTED) / leaves) ** 0.5
        within = abs(done / leaves - EXPECTED) <= 3 * sigma
        yield claim(
            f"code that is right with probability {Q} at each of {TRIES} tries: share of leaves done, against 1 - (1 - q)^{TRIES} = {EXPECTED:.4f} "
            "within 3 sigma (low and high are those bounds)", f"{P1} §4.3 (eight iterations)", short(done / leaves),
            short(EXPECTED - 3 * sigma), short(EXPECTED + 3 * sigma),
            {"leaves": leaves, "done": done, "sigma": short(sigma), "packages": rows},
            verdict(within and leaves >= 400, not within),
        )  # fmt: skip
        for text, value, low, high, control, holds in craft_rows(
            [row for one in self.projects(PACKAGES) for row in read(self.folder / f"craft-{one.name}.jsonl")]
        ):
            said = "measured" if holds is None else verdict(holds, not holds)
            yield claim(text, f"{P1} §4.1, app. D", value, low, high, control, said)
        (size,) = read(self.folder / "sized.jsonl")
        yield claim(
            "craft: size of requests 2.28.2 without __init__.py is 17 files, 2,783 lines, 22,206 tokens (value: tokens)",
            f"{P1} §4.1, by its own counter", float(size["without_init"][2]), None, None, size, verdict(size["ok"], not size["ok"]),
        )  # fmt: skip
        yield {**growth_row(list(read(self.folder / "growth.jsonl"))), "command": COMMAND, "machine": machine()}

    # ---- history

    def history(self, package: Package) -> None:
        """The newest releases as commits; every two neighbours updated and encoded."""
        repo = self.folder / f"history-{package.name}"
        shutil.rmtree(repo, ignore_errors=True)
        repo.mkdir()
        git(repo, "init", "-q", "-b", "main")
        tags = []
        for version in releases(package)[-self.length :]:
            tree = fetch(package.name, version, self.releases, "sdist")
            if tree is None:
                raise SystemExit(f"{package.name} {version}: no source distribution")
            for inside in repo.iterdir():
                if inside.name != ".git":
                    shutil.rmtree(inside) if inside.is_dir() else inside.unlink()
            shutil.copytree(tree, repo, dirs_exist_ok=True)
            (repo / ".gitignore").unlink(missing_ok=True)  # every file of the release is one of the repository
            git(repo, "add", "-A", "-f")
            git(repo, "commit", "-q", "-m", version)
            git(repo, "tag", version)
            tags.append(version)
        rows = []
        for old, new in itertools.pairwise(tags):
            rows.append(self.pair(repo, old, new))
            say(json.dumps(rows[-1]))
        write(self.folder / f"history-{package.name}.jsonl", rows)

    def pair(self, repo: Path, old: str, new: str) -> Row:
        """Both ways to update, and through the command; seconds are of one run each, in turn, reading included."""
        before = encode(Commit(repo, old))
        paths = changed_between(repo, resolve_commit(repo, old), resolve_commit(repo, new))
        git(repo, "checkout", "-q", new)
        started = time.perf_counter()
        fresh = encode(WorkTree(repo))
        encoding = time.perf_counter() - started
        started = time.perf_counter()
        whole, change = update(before, WorkTree(repo))
        updating = time.perf_counter() - started
        started = time.perf_counter()
        ranged, _ = update(before, Commit(repo, new), only=paths)
        updating_range = time.perf_counter() - started
        wanted = fresh.dumps()
        graph, result = self.folder / f"{repo.name}.json", self.folder / f"{repo.name}-updated.json"
        before.save(graph)
        command("update", str(graph), "--root", str(repo), "--range", f"{old}..{new}", "-o", str(result), "--overwrite",
                "--allow-unparsed", "-q")  # fmt: skip
        files = sum(node.kind == "file" for node in fresh.nodes)
        return {
            "old": old, "new": new, "files": files, "changed": len(change.added) + len(change.modified) + len(change.removed),
            "resolved": len(change.resolved), "equal": whole.dumps() == wanted, "equal_range": ranged.dumps() == wanted,
            "equal_command": result.read_bytes() == wanted, "encode_s": round(encoding, 4),
            "update_s": round(updating, 4), "update_range_s": round(updating_range, 4),
        }  # fmt: skip

    # ---- localise

    def aider(self) -> None:
        """aider's map in an environment of its own, with the versions it pins."""
        place = self.folder / "aider"
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        subprocess.run([self.aider_python, "-m", "pip", "install", "-q", "--no-deps", *AIDER], check=True)

    @property
    def aider_python(self) -> Path:
        return self.folder / "aider" / "bin" / "python"

    def mine(self, package: Package) -> None:
        issues, counts = mine(package, self.releases, self.most)
        (self.folder / f"mined-{package.name}.json").write_text(json.dumps(counts) + "\n")
        write(self.folder / f"issues-{package.name}.jsonl", [issue._asdict() for issue in issues])

    def repositories(self, package: Package) -> Iterator[tuple[Repository, list[Row]]]:
        """Each release that issues are searched in, with its issues."""
        issues = list(read(self.folder / f"issues-{package.name}.jsonl"))
        for old, group in itertools.groupby(issues, key=lambda issue: issue["old"]):
            tree = fetch(package.name, old, self.releases, "wheel")
            assert tree is not None
            yield Repository(tree, self.folder / "graphs" / f"{package.name}-{old}.json"), list(group)

    def localise(self, package: Package) -> None:
        encoder = Remembered(self.folder / f"vectors-{package.name}.npz")
        rows = []
        for repository, issues in self.repositories(package):
            whole = repository.localizer(encoder)
            ours = {
                "ours": whole,
                "no edges": repository.localizer(encoder, edges=False, like=whole),
                "no features": repository.localizer(encoder, features=False, like=whole),
                "no embeddings": repository.localizer(None, like=whole),
            }
            indices = {name: repository.bm25(whole=name == "bm25 whole") for name in BM25}
            for issue in issues:
                text = issue["text"]
                rankings = {name: repository.ours(localizer, text) for name, localizer in ours.items()}
                rankings |= {name: repository.by_bm25(indices[name], text, *BM25[name]) for name in BM25}
                scored = {name: measures(ranking, issue["answer"]) for name, ranking in rankings.items()}
                rows.append({"id": issue["id"], "candidates": len(repository.candidates), "embeddings": encoder.name, **scored})  # fmt: skip
        encoder.save()
        write(self.folder / f"localised-{package.name}.jsonl", rows)

    def aider_on(self, package: Package) -> None:
        found = list(self.repositories(package))
        jobs = [(repository, {issue["id"]: issue["text"] for issue in issues}) for repository, issues in found]
        places = aider_rankings(self.aider_python, jobs)
        rows = [
            {"id": issue["id"], "aider": measures(repository.by_lines(places[issue["id"]]), issue["answer"])}
            for repository, issues in found
            for issue in issues
        ]
        write(self.folder / f"aider-{package.name}.jsonl", rows)

    # ---- calls

    def calls(self, package: Package) -> None:
        encoder = Remembered(self.folder / f"vectors-{package.name}.npz")  # as `localise` left them, or made anew
        rows = []
        newest = {issue["id"] for issue in list(read(self.folder / f"issues-{package.name}.jsonl"))[-MOST_CALLED:]}
        for repository, found in self.repositories(package):
            issues = [issue for issue in found if issue["id"] in newest]
            agent = Agent(repository.graph, repository.texts, encoder) if issues else None
            for issue in issues:
                assert agent is not None
                calls = {arm: agent.look(issue["text"], set(issue["answer"]).__contains__, arm).calls for arm in ARMS}
                rows.append({"id": issue["id"], **calls})
        write(self.folder / f"called-{package.name}.jsonl", rows)

    # ---- the table

    def rows(self) -> Iterator[Row]:
        for row in read(self.folder / "imports.jsonl"):
            same = not row["only_ours"] and not row["only_grimp"]
            right = [row["modules"], row["pairs"]] == row["known"]
            yield claim(
                f"import pairs of {row['package']} {row['version']} are grimp's, {row['known'][1]} in number",
                "grimp, by a process that has not imported the package", float(row["pairs"]), None, None,
                {key: row[key] for key in ("modules", "grimp_modules", "grimp_pairs", "only_ours", "only_grimp")},
                verdict(same and right, not (same and right)),
            )  # fmt: skip
        yield from self.generation_rows()
        for package in self.histories:
            yield self.history_row(package, list(read(self.folder / f"history-{package.name}.jsonl")))
        localised = {}
        for package in self.reported:
            files = (self.folder / f"{what}-{package.name}.jsonl" for what in ("localised", "aider"))
            ours, theirs = (list(read(file)) for file in files)
            localised[package.name] = [{**one, **two} for one, two in zip(ours, theirs, strict=True)]
        yield from self.localise_rows(localised)
        called = {p.name: list(read(self.folder / f"called-{p.name}.jsonl")) for p in self.reported}
        yield from self.calls_rows([row for rows in called.values() for row in rows])

    def history_row(self, package: Package, rows: list[Row]) -> Row:
        equal = [row["equal"] and row["equal_range"] and row["equal_command"] for row in rows]
        ratios = [row["update_s"] / row["encode_s"] for row in rows]
        touched = [row["resolved"] / row["files"] for row in rows]
        few = [ratio for ratio, row in zip(ratios, rows, strict=True) if row["changed"] <= 0.05 * row["files"]]
        return claim(
            f"{len(rows)} neighbouring releases of {package.name}: the updated graph is the freshly encoded one, byte for "
            "byte, through the work tree, through a commit range, and by `zerorepo update --range` (share of pairs)",
            f"{P2} §2, evolution", float(np.mean(equal)), None, None,
            {"files": [min(r["files"] for r in rows), max(r["files"] for r in rows)],
             "files_changed": sum(r["changed"] for r in rows), "median_files_changed": float(np.median([r["changed"] for r in rows])),
             "share_resolved_again_median": short(np.median(touched)),
             "update_over_encode_median": short(np.median(ratios)),
             "update_range_over_encode_median": short(np.median([r["update_range_s"] / r["encode_s"] for r in rows])),
             "update_over_encode_median_where_at_most_5_percent_changed": short(np.median(few)) if few else None,
             "pairs_where_at_most_5_percent_changed": len(few)},
            "yes" if all(equal) else "no",
        )  # fmt: skip

    def localise_rows(self, by_package: dict[str, list[Row]]) -> Iterator[Row]:
        rows = [row for found in by_package.values() for row in found]
        names = list(rows[0][METHODS[0]])
        means = {
            method: {name: short(np.mean([row[method][name] for row in rows])) for name in names} for method in METHODS
        }
        told = {
            "issues": len(rows), "packages": {name: len(found) for name, found in by_package.items()},
            "tuned_on": [package.name for package in self.tuned], "embeddings": rows[0]["embeddings"],
            "functions_median": float(np.median([row["candidates"] for row in rows])),
        }  # fmt: skip
        for other in (*BM25, "aider"):
            for name in (*(f"hit@{k}" for k in KS), *(f"recall@{k}" for k in KS[1:])):
                yield self.difference(
                    f"issues mined from changelogs: {name} of localize is above that of {_TOLD[other]} (difference)",
                    f"{P1} §3, {P2} (localisation)", rows, name, "ours", other, {**told, "means": means} if name == "hit@1" else {},
                )  # fmt: skip
        for other in ABLATIONS:
            for name in (*(f"hit@{k}" for k in KS), "mrr"):
                yield self.difference(f"ablation: {name} falls {_TOLD[other]} (difference)", f"{P2} (ablations)", rows, name, "ours", other, {})  # fmt: skip

    def difference(self, text: str, source: str, rows: list[Row], name: str, ours: str, other: str, more: Row) -> Row:
        one, two = (np.array([row[method][name] for row in rows]) for method in (ours, other))
        low, high = self.interval(one - two)
        packages = [row["id"].partition(":")[0] for row in rows]
        control = {
            ours: short(one.mean()),
            other: short(two.mean()),
            "by_package": self.by_package(one - two, packages),
            **more,
        }
        return claim(text, source, short((one - two).mean()), low, high, control, verdict(low > 0, high < 0))

    def interval(self, differences: np.ndarray) -> tuple[float, float]:
        """Paired bootstrap over issues, 95 %."""
        rng = np.random.default_rng(0)
        picked = rng.integers(0, len(differences), (self.resamples, len(differences)))
        low, high = np.quantile(differences[picked].mean(axis=1), (0.025, 0.975))
        return short(low), short(high)

    def by_package(self, differences: np.ndarray, packages: list[str]) -> list[float]:
        """The interval where whole packages are drawn: issues of one package are alike, so it is the more cautious one."""
        groups = [differences[[one == name for one in packages]] for name in sorted(set(packages))]
        sums, sizes = np.array([group.sum() for group in groups]), np.array([len(group) for group in groups])
        picked = np.random.default_rng(0).integers(0, len(groups), (self.resamples, len(groups)))
        low, high = np.quantile(sums[picked].sum(axis=1) / sizes[picked].sum(axis=1), (0.025, 0.975))
        return [short(low), short(high)]

    def calls_rows(self, rows: list[Row]) -> Iterator[Row]:
        counts = {arm: np.array([row[arm] for row in rows], float) for arm in ARMS}
        control: Row = {"issues": len(rows), "budget": MOST_CALLS, "not_found_counts_as": MOST_CALLS + 1}
        for arm in ARMS:
            control[arm] = {"mean_calls": short(counts[arm].mean()), "median": float(np.median(counts[arm])),
                            "found": short((counts[arm] <= MOST_CALLS).mean())}  # fmt: skip
        packages = [row["id"].partition(":")[0] for row in rows]
        control["saved_by_package"] = {
            other: self.by_package(counts[other] - counts["explore"], packages) for other in ARMS[1:]
        }
        both = (counts["explore"] <= MOST_CALLS) & (counts["search"] <= MOST_CALLS)
        control["mean_calls_where_both_find"] = {arm: short(counts[arm][both].mean()) for arm in ("explore", "search")}
        for other, told in (
            ("search", "search and fetch alone"),
            ("text", "search by text and fetch, which is grep and read"),
        ):
            low, high = self.interval(counts[other] - counts["explore"])
            yield claim(
                f"a scripted agent needs fewer calls to the first hit with explore than by {told} (calls saved; what is not found counts "
                f"as {MOST_CALLS + 1})",
                f"{P1} table 4", short((counts[other] - counts["explore"]).mean()), low, high, control, verdict(low > 0, high < 0),
            )  # fmt: skip
        found = {arm: (counts[arm] <= MOST_CALLS).astype(float) for arm in ARMS}
        control["more_found_by_package"] = self.by_package(found["explore"] - found["search"], packages)
        low, high = self.interval(found["explore"] - found["search"])
        yield claim(
            f"a scripted agent finds more within {MOST_CALLS} calls with explore than by search and fetch alone (share of issues)",
            f"{P1} table 4", short((found["explore"] - found["search"]).mean()), low, high, control, verdict(low > 0, high < 0),
        )  # fmt: skip


_TOLD = {
    "bm25 bodies": "BM25 over bodies without docstrings", "bm25 whole": "BM25 over whole functions, path and docstring included",
    "aider": "aider's repository map (aider-chat 0.86.2)", "no edges": "without dependency edges",
    "no features": "without features", "no embeddings": "without embeddings",
}  # fmt: skip


# ---------------------------------------------------------------- helpers


def claim(
    text: str, source: str, value: float, low: float | None, high: float | None, control: Row, supported: str
) -> Row:
    return {
        "claim": text, "source": source, "value": value, "low": low, "high": high, "control": control, "seeds": [0],
        "supported": supported, "command": COMMAND, "machine": machine(),
    }  # fmt: skip


def verdict(yes: bool, no: bool) -> str:
    return "yes" if yes else "no" if no else "not_shown"


def short(value: Any) -> float:
    return round(float(value), 4)


def machine() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return f"{os.cpu_count()} cores, {found[1] if found else 'unknown CPU'}"


def read(path: Path) -> Iterator[Row]:
    with open(path, encoding="utf-8") as file:
        yield from map(json.loads, file)


def write(path: Path, rows: Iterable[Row]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def git(repo: Path, *words: str) -> None:
    """A commit has a fixed author and time, so that a history is the same each time it is made."""
    fixed = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER")
             for what, value in (("NAME", "claims"), ("EMAIL", "claims@localhost"), ("DATE", "2000-01-01T00:00:00Z"))}  # fmt: skip
    subprocess.run(
        ["git", "-C", str(repo), *words], check=True, env=os.environ | fixed | {"GIT_CONFIG_GLOBAL": os.devnull}
    )


def command(*arguments: str) -> None:
    """The installed command; SystemExit with what it said where it fails."""
    program = str(Path(sys.executable).with_name("zerorepo"))
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"zerorepo {' '.join(arguments)}: exit {done.returncode}\n{done.stderr}")


def part(study: Study, name: str, before: list[concurrent.futures.Future[None]]) -> None:
    """Run a part in a process of its own after those before it, its lines in its log; note when it is done."""
    for earlier in before:
        earlier.result()  # submitted earlier, so that it runs already: two workers never wait for each other
    done, log = study.folder / f"done-{name}", study.folder / f"{name}.log"
    if done.exists():
        return
    started = time.monotonic()
    words = [sys.executable, __file__, "--only", name, *(["--quick"] if study.quick else [])]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with open(log, "wb") as file:
        code = subprocess.run(words, stdout=file, stderr=file, env=environment).returncode
    if code:
        raise SystemExit(f"claims: part {name} failed, exit {code}; see {log}")
    done.write_text(f"{time.monotonic() - started:.0f} s\n")
    say(f"claims: {name}: {done.read_text().strip()}")


def show(rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="zerorepo claims")
    for head in ("claim", "value", "95 %", "supported"):
        table.add_column(head)
    for row in rows:
        interval = f"{row['low']:.3f} to {row['high']:.3f}" if row["low"] is not None else ""
        table.add_row(row["claim"], f"{row['value']:.3f}", interval, row["supported"])
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few packages, under 3 minutes; writes no claims.json")
    parser.add_argument("--only", metavar="PART", help="run one part in this process")
    parser.add_argument("--tune", action="store_true", help="look for weights on the packages of TUNED, and print them")
    given = parser.parse_args()
    study = Study(given.quick)
    study.folder.mkdir(parents=True, exist_ok=True)
    parts = study.parts()
    if given.only:
        parts[given.only][0]()
        return
    if given.tune:
        from claim_parts.tune import tune

        tune(
            [pair for package in TUNED for pair in study.repositories(package)],
            Remembered(study.folder / "vectors-tuned.npz"),
        )
        return
    running: dict[str, concurrent.futures.Future[None]] = {}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for name, (_, before) in parts.items():
            running[name] = pool.submit(part, study, name, [running[one] for one in before])
        for future in running.values():
            future.result()
    rows = list(study.rows())
    show(rows)
    if not given.quick:
        (BENCH / "claims.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
