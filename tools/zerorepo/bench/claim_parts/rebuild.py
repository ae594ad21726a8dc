"""Real packages with suites of their own, taken apart and put together: what generation is shown to work on.

    python tools/zerorepo/bench/claim_parts/rebuild.py [--quick] [--folder DIR]

For each package of PACKAGES (pure Python; the sdist of one version, its bytes by sha256, holds a pytest suite that needs
neither network nor another package): its graph is made by `encode`; `rebuild --code full` must give back every file and
pass the package's own suite with the original's counts; `rebuild --code stubs` must import, keep the bodies that an
import runs, and not pass. An object a package is printed. Suites run in plain pytest, one process, no configuration.

../claims.py takes `fetched` and PACKAGES from here: what `stubbed` counts is what a build has to write.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, NamedTuple

COMMAND = Path(sys.executable).parent / "zerorepo"
BUILT = ("tests/units", "tests/integration")  # where a build puts its own tests; no package here has such folders
LEFT = ("*.egg-info", "__pycache__", ".pytest_cache")  # of an sdist, no part of its repository


class Project(NamedTuple):
    """An sdist on PyPI. roots: folders that imports begin at; tests: what pytest is given."""

    name: str
    version: str
    sha256: str
    roots: str = "."
    tests: str = "tests"


PACKAGES = (
    Project("semver", "3.1.2", "bea193552413194252d33ff26ce0962b76669bd1c6fb17e8e203ac37f072feaf", "src"),
    Project("toolz", "1.0.0", "2c86e3d9a04798ac556793bced838816296a2f085017664e4995cb40a1047a02", tests="toolz tlz"),
    Project("pathspec", "1.1.1", "17db5ecd524104a120e173814c90367a96a98d07c45b2e10c2f3919fff91bf5a"),
    Project("sqlparse", "0.6.1", "ca722573f848ff2d30e40ea30f53a104b7dea7635ea9285891263eb2c58fb6e7"),
    Project("cachetools", "8.0.2", "30ac523adfc118b51d2b2e7bad8a0ddb31370dfe2700c7f10ca224f36ccf81e0", "src"),
    Project("boltons", "26.2.0", "d39cfd15c1a1c3bd4d705c82252fa9edb8e4f5e8cc039f8e39afac7b1b47e92c"),
)
QUICK = ("semver", "toolz", "cachetools")


def fetched(project: Project, folder: Path) -> Path:
    """The unpacked sdist below `folder`; pip refuses another than the one pinned."""
    place = folder / f"{project.name}-{project.version}"
    if place.exists():
        return place
    loading = folder / f"{place.name}.loading"
    shutil.rmtree(loading, ignore_errors=True)
    loading.mkdir(parents=True)
    pinned = loading / "pinned.txt"
    pinned.write_text(f"{project.name}=={project.version} --hash=sha256:{project.sha256}\n")
    options = [
        "--disable-pip-version-check",
        "download",
        "-q",
        "--no-deps",
        "--no-binary",
        project.name,
        "--require-hashes",
    ]
    subprocess.run(
        [sys.executable, "-m", "pip", *options, "-r", str(pinned), "-d", str(loading)],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    (archive,) = loading.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(loading / "tree", filter="data")
    (tree,) = (loading / "tree").iterdir()
    for pattern in LEFT:
        for left in list(tree.rglob(pattern)):
            shutil.rmtree(left)
    tree.rename(place)
    shutil.rmtree(loading)
    return place


def suite(tree: Path, project: Project, most: float = 300.0) -> dict[str, Any]:
    """The project's own tests in a copy of a tree: pytest's exit code, counts of its JUnit report, seconds."""
    copy = tree.with_name(f"{tree.name}.suite")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(tree, copy, symlinks=True)
    report = copy / "suite.xml"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(copy / root) for root in (project.roots, ".")),
                   "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
    words = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={copy}", f"--junitxml={report}"]
    for folder in BUILT:
        shutil.rmtree(copy / folder, ignore_errors=True)  # a conftest can have its own mind about --ignore
    begin = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *words, *project.tests.split()],
            cwd=copy, env=environment, capture_output=True, text=True, timeout=most,
        )  # fmt: skip
        code: int | str = done.returncode
    except subprocess.TimeoutExpired:
        code = "timeout"
    found: dict[str, Any] = {"code": code, "seconds": round(time.monotonic() - begin, 2)}
    if report.exists():
        counts = ElementTree.parse(report).getroot().find("testsuite")
        assert counts is not None
        found |= {name: int(counts.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    shutil.rmtree(copy)
    return found


def same(one: Path, other: Path) -> list[str]:
    """Files that differ between two trees, or are in one alone; those that rebuild adds left out."""

    def files(tree: Path) -> dict[str, bytes]:
        return {path.relative_to(tree).as_posix(): path.read_bytes() for path in tree.rglob("*") if path.is_file()}

    left, right = files(one), files(other)
    names = (left.keys() | right.keys()) - {"rpg.json", "manifest.json"}
    return sorted(name for name in names if left.get(name) != right.get(name))


def rebuilt(tree: Path, code: str) -> tuple[Path, dict[str, Any], float]:
    """(folder, counts, seconds) of `rebuild --code CODE` of a tree's graph."""
    graph = tree.with_name(f"{tree.name}.json")
    subprocess.run([COMMAND, "encode", tree, "-q", "--allow-unparsed", "--overwrite", "-o", graph], check=True)
    output = tree.with_name(f"{tree.name}.{code}")
    begin = time.monotonic()
    done = subprocess.run(
        [COMMAND, "rebuild", graph, "--root", tree, "--code", code, "--overwrite", "--json", "-o", output],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    seconds = round(time.monotonic() - begin, 2)
    counts = (
        json.loads(done.stdout) if done.stdout.strip() else json.loads((output / "manifest.json").read_text())["counts"]
    )
    return output, counts, seconds


def measured(project: Project, folder: Path) -> dict[str, Any]:
    """One package through both ways back."""
    tree = fetched(project, folder)
    whole, _, full_seconds = rebuilt(tree, "full")
    stubs, counts, stub_seconds = rebuilt(tree, "stubs")
    original, full, stubbed = (suite(one, project) for one in (tree, whole, stubs))
    kept = counts["kept"]
    alike = [{key: value for key, value in one.items() if key != "seconds"} for one in (original, full)]
    return {
        "package": f"{project.name} {project.version}", "files": counts["files"], "units": counts["units"],
        "kept_at_import": kept.get("import", 0), "nothing_to_write": kept.get("empty", 0), "stubbed": counts["stubbed"],
        "files_left_whole": len(counts["whole"]), "suite": original, "suite_of_full": full, "suite_of_stubs": stubbed,
        "full_differs_in": same(tree, whole), "full_seconds": full_seconds, "stubs_seconds": stub_seconds,
        "ok": original["code"] == 0 and alike[0] == alike[1] and not same(tree, whole) and stubbed["code"] in (1, 2),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three small packages")
    parser.add_argument(
        "--folder", type=Path, default=Path("out/claims/zerorepo/rebuild"), help="where packages are kept"
    )
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    good = True
    for project in PACKAGES:
        if not given.quick or project.name in QUICK:
            found = measured(project, given.folder.resolve())
            print(json.dumps(found), flush=True)
            good = good and found["ok"]
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
