"""Skeletons for tests of building: the example project with its bodies out, and smaller ones."""

import os
import subprocess
import sys
from pathlib import Path

from zerorepo.encode import encode
from zerorepo.generation.skeleton import stubs_of
from zerorepo.graph import Edge, Graph, Node
from zerorepo.sources import Held

TALLYBOOK = Path(__file__).parents[2] / "tools" / "zerorepo" / "examples" / "tallybook"
FLOW = [("reading", "accounts"), ("accounts", "reports")]


def tallybook() -> dict[str, str]:
    """The example's own code, tests left out."""
    return {
        path.relative_to(TALLYBOOK).as_posix(): path.read_text() for path in sorted(TALLYBOOK.glob("tallybook/**/*.py"))
    }


def planned(sources: dict[str, str], flow: list[tuple[str, str]] = FLOW) -> Graph:
    """The graph of a skeleton: units stubbed, an area for every folder of the flow."""
    graph = encode(Held({path: text.encode() for path, text in sources.items()}))
    nodes, edges = list(graph.nodes), list(graph.edges)
    for node in nodes:
        if node.kind in ("function", "method"):
            node.status = "stubbed"
    areas = sorted({name for pair in flow for name in pair})
    for area in areas:
        nodes.append(Node(id=f"#{area}", kind="area", name=area, status="designed"))
        edges.append(Edge(src=".", dst=f"#{area}", type="contains"))
        for node in graph.nodes:
            if node.kind in ("function", "class") and f"/{area}/" in node.path:
                name = f"#{area}/{node.name}"
                nodes.append(Node(id=name, kind="feature", name=node.name, path=node.path, qualname=node.qualname, status="designed"))  # fmt: skip
                edges.append(Edge(src=f"#{area}", dst=name, type="contains"))
    edges += [Edge(src=f"#{one}", dst=f"#{other}", type="data_flow", payload={"data_id": one}) for one, other in flow]
    return Graph(nodes, edges)


def skeleton(folder: Path, sources: dict[str, str] | None = None, flow: list[tuple[str, str]] | None = None) -> Path:
    """Write a skeleton: by default the example's."""
    flow = flow if flow is not None else (FLOW if sources is None else [])
    sources = tallybook() if sources is None else sources
    for path, text in sources.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(stubs_of(text))
    planned(sources, flow).save(folder / "rpg.json")
    return folder


def suite(folder: Path) -> subprocess.CompletedProcess[str]:
    """The tests of a built repository, run outside the sandbox as a user would."""
    call = [
        sys.executable,
        "-B",
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        "--rootdir=.",
        "tests",
    ]
    return subprocess.run(call, cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "."})
