"""What stage B says to a model: one system message for the whole stage, then for each role what it is to do and with what.

What is offered to choose from stands on lines that begin with "- ", exactly as it must come back; nothing else does.
The parts that stay the same from one question to the next come first, so that a server's prefix cache holds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from zerorepo.generation.flow import Flow
from zerorepo.generation.interfaces import Source, outline
from zerorepo.generation.layout import CROWDED, SRC, Proposal

MOST_OVERVIEW = 60_000  # characters
MOST_TREE = 30_000
MOST_UPSTREAM = 40_000
MOST_OFFERED = 150  # features in one question

_RULES = """You design a Python repository from the features it shall have: folders, files, the flow of data between its areas, and the
interface of every file. You write no bodies. Answer each question with one JSON object in the form it names, and nothing else.
Names that are offered to you on lines beginning with "- " are used exactly as they stand, without the dash.
"""
FOLDERS = """Lay out the folders. Bind every area below to exactly one folder: a folder's value is the list of areas bound to it, an
object of folders inside it, [] for a folder without an area; a file's value is null. Folder names are Python package names:
lower case, no keyword, no module of the standard library at the top.
Form: {"folders": {"package_name": {"first_area": ["Area"], "second_area": ["Another area"]}, "docs": []}}
The areas:
"""
FILES = """Give every feature below a Python file under the folder {folder}. Features that share data or a purpose share a file; no
file holds everything. {deeper}A file's name says what is in it.
Form: {{"files": {{"category/group/feature": "{example}/name.py"}}}}
{taken}The features of the area {area} that have no file yet:
"""
FLOW = """Say what data flows between the areas. Every area has a part; nothing flows from an area to itself, and there is no circle: an
area that gives data is built before the one that takes it, and must not import from it.
Form: {"flow": [{"source": "Area", "target": "Another area", "data_id": "parsed rows", "data_type": "list[Row]",
"transformation": "what the target does with it"}]}
The areas:
"""
BASES = """Say which classes and data types several areas share: containers of data that one area hands to others, and contracts that
several areas keep. Usually there are one to three; none is an answer too. Each goes to a file of its own inside {tops}, which none of
the files below is, is used by at least two areas, and has docstrings throughout.
Form: {{"bases": [{{"file_path": "{top}/shared.py", "code": "...", "used_by": ["Area", "Another area"]}}]}}
{flow}Areas that give data to most others: {givers}. Areas that take it from most others: {takers}.
Files there are: {files}
The areas:
"""
ORDER = """Put the files of the area {area} in the order in which they are written: a file comes after those it builds on, and may
import those alone. Each file stands exactly once.
Form: {{"order": ["folder/file.py", "folder/other.py"]}}
{features}The files:
"""
INTERFACES = """Write the interfaces of one file: functions and classes with full signatures, annotations and docstrings that say what is
done, with what arguments, results and errors. Features that stand alone become functions; features that share state become methods of one
class. Every function and method body is `raise NotImplementedError`; constants, enumerations and dataclass fields are written out.
Nothing runs when the file is imported but imports and constants. Import only from Python's library and from the files listed as
upstream. Each feature below belongs to exactly one interface; the docstring's first line names it.
Form: {"interfaces": [{"features": ["Area/category/group/feature"], "code": "def name(...) -> ...: ..."}]}
"""
TASKS = """Divide the units of one file into batches, in the order in which they are written: what a unit needs comes before it, and
units that are best written together share a batch. Every unit stands exactly once.
Form: {{"batches": [["first_function"], ["SecondClass", "third_function"]]}}
The file {path}:
{outline}
Its units:
"""


def overview(proposal: Proposal) -> str:
    """The system message: rules, purpose, and the features by area, in full or, where they are many, by group."""
    head = [_RULES, f"# The repository {proposal.name}".rstrip(), proposal.purpose, "", "# Its areas and features"]
    full, short = [], []
    for area, leaves in proposal.leaves.items():
        groups: dict[str, list[str]] = {}
        for leaf in leaves:
            group, _, name = leaf[len(area) + 1 :].rpartition("/")
            groups.setdefault(group, []).append(name)
        full += [f"## {area}", *(f"{group}: {'; '.join(names)}" for group, names in groups.items())]
        short += [f"## {area}", *(f"{group}: {len(names)} features" for group, names in groups.items())]
    for lines in (full, short):
        text = "\n".join([*head, *lines]) + "\n"
        if len(text) <= MOST_OVERVIEW:
            return text
    return text[:MOST_OVERVIEW] + "\n"


def offered(names: Iterable[str]) -> str:
    return "".join(f"- {name}\n" for name in names)


def folders(areas: Sequence[str]) -> str:
    return FOLDERS + offered(areas)


def files(
    area: str, folder: str, leaves: Sequence[str], taken: Sequence[str], planned: Sequence[str], count: int,
    wrong: Sequence[str] = (),
) -> str:  # fmt: skip
    """leaves: without their area, those still open; taken: the area's files so far; count: leaves of the whole area;
    wrong: why parts of the last answer were not usable."""
    deeper = (
        f"Where {CROWDED} files or more come to lie in one folder, make folders inside it. " if count >= CROWDED else ""
    )
    told = f"Files so far: {', '.join(taken)}\n" if taken else ""
    told += f"Of the last answer this was not usable: {'; '.join(dict.fromkeys(wrong))[:2000]}\n" if wrong else ""
    told += f"Files that were planned: {', '.join(planned)}\n" if planned else ""
    text = FILES.format(
        folder=folder or "of the repository", example=folder or "package", deeper=deeper, area=area, taken=told
    )
    return text + offered(leaves[:MOST_OFFERED])


def flow(areas: Sequence[str]) -> str:
    return FLOW + offered(areas)


def bases(areas: Sequence[str], edges: Sequence[Flow], paths: Sequence[str], tops: Collection[str]) -> str:
    gives = {area: len({edge.target for edge in edges if edge.source == area}) for area in areas}
    takes = {area: len({edge.source for edge in edges if edge.target == area}) for area in areas}

    def most(count: Mapping[str, int]) -> str:
        return ", ".join(sorted(count, key=lambda area: (-count[area], area))[:3])

    return BASES.format(
        tops=" or ".join(sorted(tops)), top=min(tops), flow=_flow(edges), givers=most(gives), takers=most(takes),
        files=", ".join(paths)[:MOST_TREE],
    ) + offered(areas)  # fmt: skip


def order(area: str, held: Mapping[str, Sequence[str]]) -> str:
    """held: file to the phrases of its features."""
    told = "".join(f"{path}: {'; '.join(phrases)}\n" for path, phrases in held.items())[:MOST_TREE]
    return ORDER.format(area=area, features=told) + offered(held)


def interfaces(
    plan: Sequence[tuple[str, str]], edges: Sequence[Flow], base: Sequence[Source], before: Sequence[Source],
    path: str, area: str, leaves: Sequence[str], there: Source, wrong: Sequence[str],
) -> str:  # fmt: skip
    """plan: (file, area) in order; before: the designed files that this one may import, nearest last; leaves: those still
    open; wrong: why parts of the last answer were not usable."""
    parts = [INTERFACES, "# The files, in the order in which they are written"]
    parts.append("\n".join(f"{one}: {name}" for one, name in plan)[:MOST_TREE])
    parts.append(_flow(edges))
    if base:
        parts.append("# Shared classes")
        parts += [f"`{module_of(one.path)}`\n```python\n{one.render()}```" for one in base]
    told = [one for one in before if one.pieces]
    kept: list[str] = []
    room = MOST_UPSTREAM
    for one in reversed(told):  # outlined no farther than there is room: before a file may be hundreds
        text = f"`{module_of(one.path)}`\n```python\n{outline(one)}\n```"
        room -= len(text)
        if room < 0:
            break
        kept.insert(0, text)
    if told:
        parts.append("# Upstream: what there is to import")
        if len(kept) < len(told):
            parts.append(f"({len(told) - len(kept)} files farther up are left out)")
        parts += kept
    parts.append(f"# The file {path} of the area {area}")
    if there.pieces:
        parts.append(f"It holds so far:\n```python\n{outline(there)}\n```")
    if wrong:
        parts.append("Of the last answer this was not usable:\n" + "\n".join(wrong)[:2000])
    parts.append("Features to write interfaces for:\n" + offered(leaves[:MOST_OFFERED]))
    return "\n".join(parts)


def tasks(source: Source) -> str:
    return TASKS.format(path=source.path, outline=outline(source)) + offered(source.names)


def module_of(path: str) -> str:
    """The name an import statement has for a file."""
    name = path.removeprefix(SRC + "/").removesuffix(".py").removesuffix("/__init__")
    return name.replace("/", ".")


def _flow(edges: Sequence[Flow]) -> str:
    told = [
        f"{edge.source} gives {edge.target}: {edge.data_id} ({edge.data_type}); {edge.transformation}" for edge in edges
    ]
    return "# Data flow\n" + "\n".join(told)[:MOST_TREE] + "\n" if told else ""
