"""craft report: scores beside each other, in a table, as JSON, in a picture. Above what `craft score` writes, craft-score/1.

Rates are shares of a score's own tasks; gold is the same of the real package, the ceiling. Scores are compared where they are of
one project. Where their tasks differ, each rate is also given over the tasks that all scores of the project have, and two are
always compared task by task over what both have: McNemar's test, exact. Intervals are Wilson's at 95 %.
"""

from __future__ import annotations

import itertools
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import msgspec

from tenfold_shared import BadInput
from tenfold_shared.jsonl import Output, Source, read_text
from tenfold_shared.records import readable
from zerorepo.graph import one_line

SCHEMA = "craft-score/1"
Z95 = 1.959963984540054  # standard normal quantile of 0.975
MOST_PAIRS = 10  # that are shown without --baseline
ROUNDING = 5e-4  # by which a rate may differ from what its results give: scores may have been rounded to three digits

Rate = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class GoldRates(msgspec.Struct):
    """What the real package reached; None where the tasks were never run on it."""

    pass_rate: Rate | None
    voting_rate: Rate | None
    tasks: Count | None = None
    measured: str = ""


class Placing(msgspec.Struct):
    """Against which features coverage and novelty were counted."""

    leaves: Count | list[Any]
    threshold: float | None = None
    embeddings: str | None = None


class Result(msgspec.Struct):
    id: str
    voted: bool
    passed: bool


class Score(msgspec.Struct, kw_only=True):
    """A score file, as far as it is compared; `file` is where it was read."""

    file: str = ""
    repository: str
    project: str
    tasks: Annotated[int, msgspec.Meta(ge=1)]
    coverage: Rate
    novelty: Rate | None
    pass_rate: Rate
    voting_rate: Rate
    files: Count
    loc: Count
    tokens: Count
    gold: GoldRates | None
    taxonomy: Placing
    answered_by: str
    status: str = "done"
    results: list[Result]

    @property
    def outcomes(self) -> dict[str, Result]:
        return {one.id: one for one in self.results}


# ------------------------------------------------------------ reading


def score_of(where: str, text: str) -> Score:
    """A score file's text. Raises BadInput that begins with `where` and names the field: not one JSON object, another schema,
    a missing field, another type, a rate outside 0..1, or rates that the results do not bear out."""
    try:
        raw = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{where}: {readable(error)}; expected one JSON object, as `zerorepo craft score -o` writes it"
        ) from None
    except RecursionError:
        raise BadInput(f"{where}: JSON nested too deeply") from None
    if not isinstance(raw, dict):
        raise BadInput(f"{where}: expected one JSON object, as `zerorepo craft score -o` writes it")
    if raw.get("schema") != SCHEMA:
        told = repr(raw["schema"]) if "schema" in raw else "none"
        raise BadInput(f"{where}: schema: expected {SCHEMA}, as `zerorepo craft score -o` writes it, got {told}")
    try:
        score = msgspec.convert({**raw, "file": where}, Score)
    except msgspec.ValidationError as error:
        raise BadInput(f"{where}: {readable(error)}") from None
    _expect_sound(where, score)
    return score


def _expect_sound(where: str, score: Score) -> None:
    seen: set[str] = set()
    for at, one in enumerate(score.results):
        if one.id in seen:
            raise BadInput(f"{where}: results[{at}].id: {one.id!r} stands twice")
        seen.add(one.id)
        if one.passed and not one.voted:
            raise BadInput(
                f"{where}: results[{at}].passed: {one.id!r} passed and was not voted for; expected voted true"
            )
    if len(score.results) != score.tasks:
        raise BadInput(f"{where}: tasks: expected the number of results, {len(score.results)}, got {score.tasks}")
    for field, count in (("pass_rate", _passed(score)), ("voting_rate", _voted(score))):
        if abs(getattr(score, field) - count / score.tasks) > ROUNDING:
            raise BadInput(f"{where}: {field}: expected {count}/{score.tasks} by its results, got {getattr(score, field)}")  # fmt: skip


def _passed(score: Score) -> int:
    return sum(one.passed for one in score.results)


def _voted(score: Score) -> int:
    return sum(one.voted for one in score.results)


class ScoreFiles(Source):
    """Files that are one JSON value each, as a Source: hashed for the manifest, stdin and pipes kept."""

    def scores(self) -> list[Score]:
        return [self._score(path) for path in self.paths]

    def _score(self, path: str) -> Score:
        name = "<stdin>" if path == "-" else path
        return score_of(name, read_text(self._spools[path].name if path in self._spools else path, name))


# ------------------------------------------------------------ figures


def wilson(k: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of k of n > 0, within 0..1; its ends are 0 and 1 exactly where k is 0 and n."""
    p, z2 = k / n, z * z
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return (0.0 if k == 0 else max(0.0, middle - half)), (1.0 if k == n else min(1.0, middle + half))


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p of McNemar's test: under the null each task that only one passed is a toss of a fair coin. 1 where
    there is none."""
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**n)


def labels(scores: Sequence[Score]) -> list[str]:
    """A name for each, different within a project: the repository's, else the file's where two are called the same."""
    times: dict[tuple[str, str], int] = defaultdict(int)
    for score in scores:
        times[score.project, score.repository] += 1
    return [one.file if times[one.project, one.repository] > 1 else one.repository for one in scores]


def compared(scores: Sequence[Score], baseline: Sequence[str] = ()) -> dict[str, Any]:
    """The report: {schema, rows, means, pairs, baselines, notes}, in the order of `scores`, which are of different files.

    rows: a score each. `of_gold`: pass rate as a share of gold's. `common`: rates over the tasks that all scores of the project
    have; null where all have the same. `over`, with a baseline: points (0..1) of coverage, pass and vote rates over the mean of
    the baselines of the project, pass and vote over the tasks in common with each; `size`: how many times as large.
    means: of scores of several projects, each project counting once: of each repository name that has more than one project,
    or, where every project has one score, of all. Every figure is the mean of the rows' own, null where one row has none;
    only `size` is of the mean sizes, against baselines with a mean of the same projects.
    pairs: any two scores of a project over the tasks of both. notes: what makes scores hard to compare, a line each.
    Raises BadInput for a baseline that is not among the scores, or stands for two of a project.
    """
    names = labels(scores)
    chosen = _baselines(scores, names, baseline)
    by_project: dict[str, list[int]] = defaultdict(list)
    for at, score in enumerate(scores):
        by_project[score.project].append(at)
    notes = [note for members in by_project.values() for note in _notes(scores, names, members)]
    rows = [_row(score, name) for score, name in zip(scores, names, strict=True)]
    for project, members in by_project.items():
        known = [set(scores[at].outcomes) for at in members]
        if any(ids != known[0] for ids in known):
            common = set.intersection(*known)
            for at in members:
                rows[at]["common"] = _common(scores[at], common)
        own = [at for at in members if at in chosen]
        if chosen and not own:
            notes.append(f"{project}: no baseline among its scores")
        for at in members:
            if own and at not in chosen:
                rows[at]["over"] = _over(scores[at], [scores[one] for one in own], [names[one] for one in own])
    pairs = [
        _pair(scores[a], scores[b], names[a], names[b])
        for members in by_project.values()
        for a, b in (
            (b, a) if a in chosen and b not in chosen else (a, b) for a, b in itertools.combinations(members, 2)
        )
    ]
    means = _means(scores, rows, chosen)
    if len({frozenset(mean["projects"]) for mean in means}) > 1:
        told = "; ".join(f"{mean['name']}: {', '.join(mean['projects'])}" for mean in means)
        notes.append(f"means of different projects cannot be compared: {told}")
    return {
        "schema": "craft-report/1",
        "rows": rows,
        "means": means,
        "pairs": pairs,
        "baselines": [rows[at]["name"] for at in sorted(chosen)],
        "notes": notes,
    }


def _baselines(scores: Sequence[Score], names: Sequence[str], wanted: Sequence[str]) -> set[int]:
    found: set[int] = set()
    for name in wanted:
        by_file = [at for at, score in enumerate(scores) if score.file == name]
        hits = by_file or [at for at, score in enumerate(scores) if score.repository == name]
        if not hits:
            import difflib

            near = difflib.get_close_matches(name, names, 1, 0)
            raise BadInput(f"--baseline {name}: not among the scores; expected a repository's name, such as {near[0]!r}, or a score's file")  # fmt: skip
        projects = [scores[at].project for at in hits]
        if len(set(projects)) < len(projects):
            raise BadInput(f"--baseline {name}: {len(hits)} scores are of this name; name the file: {', '.join(scores[at].file for at in hits)}")  # fmt: skip
        found.update(hits)
    if len(found) == len(scores):
        raise BadInput(f"--baseline {' '.join(wanted)}: names every score; expected one at least to compare with it")
    return found


def _notes(scores: Sequence[Score], names: Sequence[str], members: Sequence[int]) -> Iterator[str]:
    """What a reader must know before comparing the scores of one project."""
    project = scores[members[0]].project
    known = [set(scores[at].outcomes) for at in members]
    if any(ids != known[0] for ids in known):
        counts = ", ".join(f"{names[at]} {len(ids)}" for at, ids in zip(members, known, strict=True))
        common = len(set.intersection(*known))
        rest = "rates over those stand beside their own" if common else "their pass and vote rates cannot be compared"
        yield f"{project}: scores of different tasks ({counts}); {common} are common to all; {rest}"

    def differing(what: str, told: Mapping[int, str]) -> Iterator[str]:
        if len(set(told.values())) > 1:
            yield f"{project}: {what}: {', '.join(f'{names[at]} {text}' for at, text in told.items())}"

    yield from differing("coverage and novelty are of different taxonomies", {at: _placed(scores[at]) for at in members})  # fmt: skip
    yield from differing("answered by different means", {at: scores[at].answered_by for at in members})
    for at in members:
        if scores[at].status != "done":
            yield f"{project}: {names[at]}: not finished (status {scores[at].status}): tasks that were not judged count as failed"
    ceilings = {gold.pass_rate if (gold := scores[at].gold) else None for at in members}
    if len(ceilings) > 1 and all(ids == known[0] for ids in known):
        yield from differing("different ceilings of the same tasks", {at: _ceiling(scores[at].gold) for at in members})


def _placed(score: Score) -> str:
    at = score.taxonomy
    leaves = at.leaves if isinstance(at.leaves, int) else len(at.leaves)
    threshold = "" if at.threshold is None else f", threshold {at.threshold:.4g}"
    return f"({leaves} leaves, {at.embeddings or 'unnamed'} embeddings{threshold})"


def _ceiling(gold: GoldRates | None) -> str:
    if gold is None or gold.pass_rate is None:
        return "none"
    return f"{gold.pass_rate:.1%} ({gold.measured or 'unknown when'})"


def _row(score: Score, name: str) -> dict[str, Any]:
    passed, voted = _passed(score), _voted(score)
    gold = score.gold or GoldRates(None, None)
    return {
        "name": name,
        "repository": score.repository,
        "file": score.file,
        "project": score.project,
        "answered_by": score.answered_by,
        "tasks": score.tasks,
        "coverage": score.coverage,
        "novelty": score.novelty,
        "pass_rate": passed / score.tasks,
        "pass_interval": list(wilson(passed, score.tasks)),
        "voting_rate": voted / score.tasks,
        "voting_interval": list(wilson(voted, score.tasks)),
        "gold": {"pass_rate": gold.pass_rate, "voting_rate": gold.voting_rate},
        "of_gold": passed / score.tasks / gold.pass_rate if gold.pass_rate else None,
        "files": score.files,
        "loc": score.loc,
        "tokens": score.tokens,
        "common": None,
        "over": None,
    }


def _common(score: Score, ids: set[str]) -> dict[str, Any]:
    shared = [one for one in score.results if one.id in ids]
    n = len(shared)
    return {
        "tasks": n,
        "pass_rate": sum(one.passed for one in shared) / n if n else None,
        "voting_rate": sum(one.voted for one in shared) / n if n else None,
    }


def _over(ours: Score, baselines: Sequence[Score], names: Sequence[str]) -> dict[str, Any]:
    def points(field: str) -> float | None:
        found = []
        mine = ours.outcomes
        for one in baselines:
            theirs = one.outcomes
            ids = mine.keys() & theirs.keys()
            if not ids:
                return None
            found.append(sum(getattr(mine[i], field) - getattr(theirs[i], field) for i in ids) / len(ids))
        return statistics.fmean(found)

    return {
        "baselines": list(names),
        "coverage": ours.coverage - statistics.fmean(one.coverage for one in baselines),
        "pass_rate": points("passed"),
        "voting_rate": points("voted"),
        "size": _times(ours, baselines),
    }


def _times(ours: Any, baselines: Sequence[Any]) -> float | None:
    """paper.multiple, the mean of the ratios of lines and of tokens; None where the baselines have none of them."""
    from zerorepo.craft.paper import multiple

    if not sum(one.loc for one in baselines) or not sum(one.tokens for one in baselines):
        return None
    return multiple(ours, baselines)


def _pair(first: Score, second: Score, name: str, against: str) -> dict[str, Any]:
    a, b = first.outcomes, second.outcomes
    ids = a.keys() & b.keys()
    only_first = sum(a[i].passed and not b[i].passed for i in ids)
    only_second = sum(b[i].passed and not a[i].passed for i in ids)
    both = sum(a[i].passed and b[i].passed for i in ids)
    return {
        "project": first.project,
        "first": name,
        "second": against,
        "common": len(ids),
        "both": both,
        "only_first": only_first,
        "only_second": only_second,
        "neither": len(ids) - both - only_first - only_second,
        "difference": (only_first - only_second) / len(ids) if ids else None,
        "p": mcnemar(only_first, only_second) if ids else None,
    }


class _Sized(msgspec.Struct):
    files: float
    loc: float
    tokens: float


_AVERAGED = ("coverage", "novelty", "pass_rate", "voting_rate", "of_gold", "files", "loc", "tokens")


def _means(scores: Sequence[Score], rows: Sequence[Mapping[str, Any]], chosen: set[int]) -> list[dict[str, Any]]:
    by_name: dict[str, list[int]] = defaultdict(list)
    for at, score in enumerate(scores):
        by_name[score.repository].append(at)
    groups = {f"mean of {name}": members for name, members in by_name.items() if _once(scores, members)}
    if not groups and _once(scores, range(len(scores))):
        groups = {"mean": list(range(len(scores)))}
    made = [(members, _mean(name, [rows[at] for at in members])) for name, members in groups.items()]
    for members, mean in made:
        above = [rows[at]["over"] for at in members]
        if not all(above):
            continue
        theirs = [
            other for among, other in made if set(among) <= chosen and set(other["projects"]) == set(mean["projects"])
        ]
        mean["over"] = {
            "baselines": list(dict.fromkeys(name for one in above for name in one["baselines"])),
            **{key: _fmean([one[key] for one in above]) for key in ("coverage", "pass_rate", "voting_rate")},
            "size": _times(_sized(mean), [_sized(other) for other in theirs]) if theirs else None,
        }
    return [mean for _, mean in made]


def _once(scores: Sequence[Score], members: Sequence[int]) -> bool:
    """Whether these are several projects, each of them once."""
    return len(members) > 1 and len({scores[at].project for at in members}) == len(members)


def _mean(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "name": name,
        "projects": [row["project"] for row in rows],
        "tasks": sum(row["tasks"] for row in rows),
        **{field: _fmean([row[field] for row in rows]) for field in _AVERAGED},
        "gold": {key: _fmean([row["gold"][key] for row in rows]) for key in ("pass_rate", "voting_rate")},
        "over": None,
    }


def _fmean(values: Sequence[float | None]) -> float | None:
    there = [one for one in values if one is not None]
    return statistics.fmean(there) if len(there) == len(values) else None


def _sized(mean: Mapping[str, Any]) -> _Sized:
    return _Sized(mean["files"], mean["loc"], mean["tokens"])


# ------------------------------------------------------------ the verb


def run_report(
    scores: Sequence[str], *, baseline: Sequence[str], plot: str | None,
    output: str | None, overwrite: bool, as_json: bool, quiet: bool, **_: Any,
) -> int:  # fmt: skip
    """The verb: a table, with --json the report as one object, with -o that in a file. Raises as score_of, compared and
    plots.drawing."""
    from zerorepo import __version__
    from zerorepo.plots import check_plot

    if plot is not None:
        check_plot(plot)
    twice = {path for path in scores if list(scores).count(path) > 1}
    if twice:
        raise BadInput(f"{min(twice)}: stands twice among the scores; expected each file once")
    to_file = output not in (None, "-")
    source = ScoreFiles(scores, None, keep=True)
    report = compared(source.scores(), baseline)
    for note in report["notes"]:
        print(f"zerorepo: {one_line(note)}", file=sys.stderr)
    data = msgspec.json.encode(report)
    if to_file:
        options = {"baseline": list(baseline)}
        with Output(
            output, tool="zerorepo", version=__version__, verb="craft report", options=options, source=source, overwrite=overwrite
        ) as out:  # fmt: skip
            if not out.finished:
                out.write_line(data)
                out.finish({"scores": len(report["rows"]), "notes": len(report["notes"])})
            elif not quiet:
                print(f"zerorepo: {output}: complete already; nothing to do", file=sys.stderr)
    if plot is not None:
        draw(report, plot)
    if as_json or output == "-":
        print(data.decode())
    elif not to_file:
        _print(report)
    return 0


# ------------------------------------------------------------ for people


def _percent(value: float | None, interval: Sequence[float] | None = None) -> str:
    if value is None:
        return "–"
    ends = "" if interval is None else f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
    return f"{100 * value:.1f}{ends}"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f}"


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _print(report: Mapping[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from tenfold_shared.cli import print_table

    rows, means = report["rows"], report["means"]
    several = len({row["project"] for row in rows}) > 1
    common = any(row["common"] for row in rows)
    over = any(row["over"] for row in rows)
    table = Table(title="%; in brackets: Wilson's 95 % interval", title_justify="left")
    table.add_column("repository")
    if several:
        table.add_column("project")
    numbers = ["tasks", "coverage", "novelty", "pass", "vote", *(["common tasks", "pass there", "vote there"] if common else []),
               "gold pass", "gold vote", "pass of gold", "files", "LOC", "tokens",
               *(["coverage over", "pass over", "× size"] if over else [])]  # fmt: skip
    for name in numbers:
        table.add_column(name, justify="right")
    for at, row in enumerate([*rows, *means], 1):
        shared, above = row.get("common"), row["over"]
        cells = [f"{row['tasks']:,}", _percent(row["coverage"]), _percent(row["novelty"]),
                 _percent(row["pass_rate"], row.get("pass_interval")), _percent(row["voting_rate"], row.get("voting_interval"))]  # fmt: skip
        if common:
            cells += [f"{shared['tasks']:,}", _percent(shared["pass_rate"]), _percent(shared["voting_rate"])] if shared else ["", "", ""]  # fmt: skip
        cells += [_percent(row["gold"]["pass_rate"]), _percent(row["gold"]["voting_rate"]), _percent(row["of_gold"])]
        cells += [f"{row[key]:,.0f}" for key in ("files", "loc", "tokens")]
        if over:
            size = "" if not above else "–" if above["size"] is None else f"{above['size']:.2f}"
            cells += [_points(above["coverage"]), _points(above["pass_rate"]), size] if above else ["", "", ""]
        place = [row["project"] if "project" in row else f"{len(row['projects'])} projects"] if several else []
        table.add_row(*(escape(one_line(one)) for one in (row["name"], *place)), *cells, end_section=at == len(rows))
    print_table(table)
    if over:
        print(f"over: points above the mean of {', '.join(map(one_line, dict.fromkeys(report['baselines'])))}; size: mean of the ratios of LOC and of tokens")  # fmt: skip
    if means:
        print("mean: of the rows of its projects, figure by figure, each project counting once")
    _print_pairs(report, several)


def _print_pairs(report: Mapping[str, Any], several: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    from tenfold_shared.cli import print_table

    against = set(report["baselines"])
    pairs = [one for one in report["pairs"] if not against or one["second"] in against]
    if not pairs:
        return
    if not against and len(pairs) > MOST_PAIRS:
        print(f"{len(pairs)} pairs are compared task by task in --json; --baseline NAME shows those with NAME here")
        return
    table = Table(title="passed, task by task; p: McNemar, exact, of one pair alone", title_justify="left")
    for name in ("first", "second", *(["project"] if several else [])):
        table.add_column(name)
    for name in ("common tasks", "both", "only first", "only second", "neither", "points", "p"):
        table.add_column(name, justify="right")
    for one in pairs:
        names = [one["first"], one["second"], *([one["project"]] if several else [])]
        counts = [f"{one[key]:,}" for key in ("common", "both", "only_first", "only_second", "neither")]
        table.add_row(*(escape(one_line(name)) for name in names), *counts, _points(one["difference"]), _p(one["p"]))
    print_table(table)


# ------------------------------------------------------------ the picture

_BARS = (("coverage", "coverage", "#0072B2", None), ("pass_rate", "pass", "#E69F00", "pass_interval"),
         ("voting_rate", "vote", "#009E73", "voting_interval"))  # fmt: skip
_THICK = 0.26
LONGEST = 34  # characters of a name in the picture


def draw(report: Mapping[str, Any], path: str) -> None:
    """Three bars a row (coverage, pass, vote) with their intervals, and the ceilings, to PATH. Raises as plots.drawing."""
    from zerorepo.plots import drawing

    rows = [*report["rows"], *report["means"]]
    several = len({row["project"] for row in report["rows"]}) > 1
    with drawing(path, (8.4, 1.35 + 0.62 * len(rows))) as figure:
        axes = figure.subplots()
        for at, row in enumerate(rows):
            for place, (field, _, colour, ends) in enumerate(_BARS):
                y, value = at + (place - 1) * _THICK, 100 * row[field]
                axes.barh(y, value, _THICK, color=colour, edgecolor="white", linewidth=0.6)
                if ends in row:
                    low, high = (100 * one for one in row[ends])
                    axes.plot([low, high], [y, y], color="#333333", linewidth=1, solid_capstyle="butt")
                    axes.plot([low, high], [y, y], "|", color="#333333", markersize=4)
                ceiling = row["gold"].get(field)
                if ceiling is not None:
                    axes.plot([100 * ceiling] * 2, [y - _THICK / 2, y + _THICK / 2], color="black", linewidth=2.2, solid_capstyle="butt")  # fmt: skip
                axes.text(102, y, f"{value:.1f}", va="center", fontsize=7.5, color="#222222", clip_on=False)
        axes.set_yticks(range(len(rows)), [_named(row, several) for row in rows], parse_math=False)
        axes.set(
            xlim=(0, 101), ylim=(len(rows) - 0.45, -0.55), xlabel="% of leaves (coverage), % of tasks (pass, vote)"
        )
        if not several:
            differ = any(row["common"] for row in rows)
            told = "rows of different tasks" if differ else f"{rows[0]['tasks']:,} tasks"
            axes.set_title(f"{_shortened(rows[0]['project'])}, {told}", loc="left", fontsize=9.5, parse_math=False)
        axes.set_axisbelow(True)
        axes.grid(axis="x", color="#e6e6e6")
        axes.tick_params(axis="y", length=0)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        if report["means"]:
            axes.axhline(len(report["rows"]) - 0.5, color="#999999", linewidth=0.8)
        _legend(figure, rows)


def _legend(figure: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: list[Any] = [Patch(facecolor=colour, label=label) for _, label, colour, _ in _BARS]
    entries.append(Line2D([], [], color="#333333", linewidth=1, marker="|", markersize=5, label="95 % interval"))
    if any(value is not None for row in rows for value in row["gold"].values()):
        entries.append(Line2D([], [], color="black", linewidth=0, marker="|", markersize=10, markeredgewidth=2.2, label="ceiling: the real package"))  # fmt: skip
    figure.legend(handles=entries, loc="outside upper center", ncols=len(entries), frameon=False, fontsize=8.5, columnspacing=1.4)  # fmt: skip


def _named(row: Mapping[str, Any], several: bool) -> str:
    if not several:
        return _shortened(row["name"]) + (f"\n{row['tasks']:,} tasks" if row["common"] else "")
    return f"{_shortened(row['name'])}\n" + (
        _shortened(row["project"]) if "project" in row else f"{len(row['projects'])} projects"
    )


def _shortened(name: str) -> str:
    """Both ends of a long name: the middle of paths says least."""
    name = one_line(name)
    half = (LONGEST - 1) // 2
    return name if len(name) <= LONGEST else f"{name[:half]}…{name[-half:]}"
