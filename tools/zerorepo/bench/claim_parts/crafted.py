"""The scorer scored: what `craft score` says of repositories whose worth is known.

    python tools/zerorepo/bench/claim_parts/crafted.py [--quick] [--folder DIR] [PACKAGE...]

For each package of rebuild.py its tasks are harvested from its own suite. Then are scored: the package itself (all should
pass); the same with every body replaced by a stub (none may pass), and the skeleton that `rebuild` makes, which keeps the bodies
that an import runs (only what is about those may pass); mutants with one operator changed, those that the package's own suite finds (below all, above
none); and copies under other names (tests/zerorepo/zerorepo_renaming.py), once with the map of names and once without. An
object a package is printed. ../claims.py makes the rows.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path += [str(Path(__file__).resolve().parents[at]) + part for at, part in ((1, ""), (4, "/tests/zerorepo"))]

from claim_parts.rebuild import COMMAND, PACKAGES, QUICK, Project, fetched, rebuilt, suite
from zerorepo_renaming import renamed

from zerorepo.craft.package import Package
from zerorepo.generation.skeleton import decoded, stubs_of
from zerorepo.graph import Graph

MUTANTS = 5  # that the package's own suite finds, of each package
MOST_TRIED = 5 * MUTANTS
SCHEMES = ("synonyms", "opaque")
# One operator to another, in the place of the old one.
_SWAPS: Mapping[type, tuple[str, str]] = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"), ast.NotIn: ("not in", "in"),
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "+"), ast.FloorDiv: ("//", "*"), ast.Mod: ("%", "*"),
    ast.And: ("and", "or"), ast.Or: ("or", "and"),
}  # fmt: skip


def run(*words: object) -> str:
    done = subprocess.run([str(COMMAND), *map(str, words)], stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(f"zerorepo {' '.join(map(str, words))} ended with {done.returncode}")
    return done.stdout


def harvested(project: Project, tree: Path) -> tuple[Path, dict[str, Any]]:
    """All tasks of a package, and harvest's counts."""
    output = tree.with_name(f"{tree.name}.tasks.jsonl")
    places = [word for one in project.tests.split() for word in ("--tests", tree / one)]
    told = run("craft", "harvest", tree, *places, "--all", "-o", output, "--overwrite", "--json", "-q")
    return output, json.loads(told)


def scored(tree: Path, tasks: Path, *words: object) -> dict[str, Any]:
    output = tasks.with_name(f"{tree.name}.score.json")
    run(
        "craft", "score", tree, "--task-file", tasks, "-o", output, "--overwrite", "--embeddings", "tfidf", "-q", *words
    )
    return json.loads(output.read_text())


def brief(score: Mapping[str, Any]) -> dict[str, Any]:
    lost = [[one["id"], one["result"]] for one in score["results"] if not one["passed"]]
    return {name: score[name] for name in ("tasks", "pass_rate", "voting_rate", "coverage", "novelty")} | {
        "lost": lost[:10]
    }


# ------------------------------------------------------------ mutants


def operators(package: Package, names: list[str]) -> Iterator[tuple[str, int, int, str, str]]:
    """(file, begin, end, new, described) of each operator in the bodies of these functions and classes."""
    for name in names:
        found = package.meaning(name)
        if found is None or found.node is None or found.kind == "module":
            continue
        path, (first, last) = found.node.path, found.node.span
        data = package.files[path]
        starts = [0]
        for line in data.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        for node in ast.walk(ast.parse(data)):
            if not first <= getattr(node, "lineno", 0) <= last:
                continue
            pairs: list[tuple[Any, Any, Any]] = []
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                pairs = [(sides[at], one, sides[at + 1]) for at, one in enumerate(node.ops)]
            elif isinstance(node, ast.BinOp):
                pairs = [(node.left, node.op, node.right)]
            elif isinstance(node, ast.BoolOp):
                pairs = [(node.values[0], node.op, node.values[1])]
            for left, operator, right in pairs:
                swap = _SWAPS.get(type(operator))
                if swap is None:
                    continue
                begin, end = (
                    starts[left.end_lineno - 1] + left.end_col_offset,
                    starts[right.lineno - 1] + right.col_offset,
                )
                gap = data[begin:end]
                if gap.count(swap[0].encode()) == 1:
                    place = begin + gap.index(swap[0].encode())
                    yield (
                        path,
                        place,
                        place + len(swap[0]),
                        swap[1],
                        f"{path}:{left.end_lineno}: {swap[0]} to {swap[1]}",
                    )


def mutants(project: Project, tree: Path, tasks: Path, count: int) -> list[dict[str, Any]]:
    """Scores of `count` mutants that the package's own suite finds, drawn with seed 0."""
    package = Package.load(tree)
    names = sorted(
        {
            one["name"]
            for line in tasks.read_text().splitlines()
            for one in json.loads(line)["interfaces"]
            if one.get("tested")
        }
    )
    every = sorted(set(operators(package, names)))
    random.Random(0).shuffle(every)
    rows: list[dict[str, Any]] = []
    for path, begin, end, new, told in every[:MOST_TRIED]:
        if len(rows) == count:
            break
        copy = tree.with_name(f"{tree.name}.mutant")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(tree, copy, symlinks=True)
        data = package.files[path]
        (copy / path).write_bytes(data[:begin] + new.encode() + data[end:])
        if suite(copy, project, 120)["code"] not in (1, 2, "timeout"):
            continue
        rows.append({"mutant": told, **brief(scored(copy, tasks, "--test-time", "20s"))})
    return rows


# ------------------------------------------------------------ other names


def written(files: Mapping[str, bytes], folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def under_other_names(tree: Path, tasks: Path, scheme: str) -> dict[str, Any]:
    copy = tree.with_name(f"{tree.name}.{scheme}")
    files, names = renamed(Package.load(tree).files, scheme)
    written(files, copy)
    names_file = copy.with_name(f"{copy.name}.names.json")
    names_file.write_text(json.dumps(names))
    return {
        "scheme": scheme, "names": len(names), "with_map": brief(scored(copy, tasks, "--rename", names_file)),
        "without_map": brief(scored(copy, tasks)),
    }  # fmt: skip


def without_bodies(path: str, data: bytes) -> bytes:
    if not path.endswith(".py"):
        return data
    text, encoding = decoded(data)
    return stubs_of(text).encode(encoding)


def on_skeleton(folder: Path, tasks: Path) -> dict[str, Any]:
    """The score of a skeleton; strange: what passes there though nothing of what it is about kept its body."""
    score = scored(folder, tasks)
    package, graph = Package.load(folder), Graph.load(folder / "rpg.json")
    stubs = {node.id for node in graph.nodes if node.status == "stubbed"}
    about = {
        one["id"]: [each["name"] for each in one["interfaces"] if each.get("tested")] for one in map(json.loads, tasks.read_text().splitlines())
    }  # fmt: skip
    strange = []
    for one in score["results"]:
        found = [package.meaning(one["located"][name]) for name in about[one["id"]] if name in one["located"]]
        whole = [each.node.id for each in found if each is not None and each.node is not None]
        kept = [
            node.id for node in graph.nodes
            if node.kind in ("function", "method") and node.id not in stubs
            and any(node.id == one_ or node.id.startswith(one_ + ".") for one_ in whole)
        ]  # fmt: skip
        if one["passed"] and not kept:
            strange.append(one["id"])
    return {**brief(score), "strange": strange}


def measured(project: Project, folder: Path, quick: bool = False) -> dict[str, Any]:
    """One package, with all that is scored by its tasks."""
    begin = time.monotonic()
    tree = fetched(project, folder)
    tasks, counts = harvested(project, tree)
    skeleton, _, _ = rebuilt(tree, "stubs")
    stubs = tree.with_name(f"{tree.name}.all-stubs")
    written({path: without_bodies(path, data) for path, data in Package.load(tree).files.items()}, stubs)
    return {
        "package": f"{project.name} {project.version}", "harvest": counts, "itself": brief(scored(tree, tasks)),
        "itself_here": brief(scored(tree, tasks, "--gold", tree)), "stubs": brief(scored(stubs, tasks)), "skeleton": on_skeleton(skeleton, tasks),
        "mutants": mutants(project, tree, tasks, 2 if quick else MUTANTS),
        "renamed": [under_other_names(tree, tasks, scheme) for scheme in SCHEMES],
        "seconds": round(time.monotonic() - begin, 1),
    }  # fmt: skip


# ------------------------------------------------------------ the table of claims


def rows(
    found: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[str, float, float | None, float | None, dict[str, Any], bool | None]]:
    """(claim, value, low, high, control, whether it holds, or None where nothing is claimed) of what `measured` gave for each package; low and high are the least and the
    greatest over packages or mutants."""

    def share(part: Sequence[Mapping[str, Any]]) -> float:
        return round(sum(one["pass_rate"] * one["tasks"] for one in part) / sum(one["tasks"] for one in part), 4)

    def range_of(part: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
        return round(min(one["pass_rate"] for one in part), 4), round(max(one["pass_rate"] for one in part), 4)

    by_name = {one["package"]: {key: one[key] for key in ("itself", "itself_here", "stubs")} for one in found}
    itself = [one[key] for one in found for key in ("itself", "itself_here")]
    yield (
        "craft: a package scored by the tasks of its own suite passes at least .99 of them (share of all tasks; low, high over packages)",
        share(itself), *range_of(itself), {"packages": by_name}, all(one["pass_rate"] >= 0.99 for one in itself),
    )  # fmt: skip
    skeletons = {one["package"]: one["skeleton"] for one in found}
    yield (
        "craft: of a skeleton whose bodies are stubs but for those that an import runs, only tasks about those pass (pass rate)",
        share(list(skeletons.values())), *range_of(list(skeletons.values())), {"packages": skeletons},
        not any(one["strange"] for one in skeletons.values()),
    )  # fmt: skip
    stubs = [one["stubs"] for one in found]
    yield (
        "craft: with stubs in place of its bodies a package passes nothing", share(stubs), *range_of(stubs), {"packages": by_name},
        all(one["pass_rate"] == 0 for one in stubs),
    )  # fmt: skip
    mutants = [one for package in found for one in package["mutants"]]
    between = [one for one in mutants if 0 < one["pass_rate"] < 1]
    yield (
        "craft: a mutant with one operator changed, found by the package's own suite, lies strictly between (share of mutants; low, "
        "high: pass rates)", round(len(between) / len(mutants), 4), *range_of(mutants),
        {"mutants": {one["package"]: one["mutants"] for one in found}}, len(between) == len(mutants),
    )  # fmt: skip
    for scheme in SCHEMES:
        copies = [next(each for each in one["renamed"] if each["scheme"] == scheme) for one in found]
        told = {one["package"]: each for one, each in zip(found, copies, strict=True)}
        mapped = [one["with_map"] for one in copies]
        yield (
            f"craft: a copy under other names ({scheme}) with the map of names passes at least .95", share(mapped), *range_of(mapped),
            {"packages": told}, all(one["pass_rate"] >= 0.95 for one in mapped),
        )  # fmt: skip
        alone = [one["without_map"] for one in copies]
        yield (
            f"craft: the same copy ({scheme}) without the map: pass rate", share(alone), *range_of(alone), {"packages": told}, None,
        )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*", metavar="PACKAGE")
    parser.add_argument("--quick", action="store_true", help="three small packages, two mutants each")
    parser.add_argument(
        "--folder", type=Path, default=Path("out/claims/zerorepo/crafted"), help="where packages are kept"
    )
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for project in PACKAGES:
        if project.name in (given.packages or (QUICK if given.quick else [one.name for one in PACKAGES])):
            print(json.dumps(measured(project, given.folder.resolve(), given.quick)), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
