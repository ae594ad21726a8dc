"""What the paper published (arXiv 2509.16198 §4, app. D), and its arithmetic: report.py and listing.py put ours beside
it.

Shares are 0..1. The counts of leaves are of the taxonomies that were released with the code: published coverages are
multiples of one in that many, and not of one in the table's categories.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import NamedTuple, Protocol


class Project(NamedTuple):
    """One of the six. top: what it is imported by. categories: of the table; leaves: of the released taxonomy, by name;
    files, loc, tokens: of the real package; tasks: of the benchmark."""

    name: str
    paraphrase: str
    top: str
    categories: int
    leaves: int
    files: int
    loc: int
    tokens: int
    tasks: int


PROJECTS = (
    Project("scikit-learn", "MLKit-Py", "sklearn", 47, 47, 185, 65_972, 592_187, 236),
    Project("pandas", "TableKit", "pandas", 81, 76, 217, 106_447, 943_873, 175),
    Project("sympy", "SymbolicMath", "sympy", 40, 48, 699, 218_924, 2_339_881, 192),
    Project("statsmodels", "StatModeler", "statsmodels", 88, 88, 271, 83_325, 893_824, 234),
    Project("requests", "HttpEasy", "requests", 22, 22, 17, 2_793, 22_297, 50),
    Project("django", "PyWebEngine", "django", 42, 48, 681, 109_457, 917_622, 165),
)


class Headline(NamedTuple):
    """A row of table 2, averages over the six projects. None: not of this row in what we have of the paper."""

    name: str
    coverage: float
    pass_rate: float
    voting_rate: float
    files: int | None = None
    loc: int | None = None
    tokens: int | None = None


HEADLINES = (
    Headline("ZeroRepo, o3-mini", 0.815, 0.697, 0.750),
    Headline("ZeroRepo, Qwen3-Coder-480B", 0.751, 0.573, 0.680, 389, 36_941, 445_512),
    Headline("Claude Code", 0.542, 0.339, 0.525, None, 10_587, 105_236),
)


class Gold(NamedTuple):
    """The scorer's ceiling: the real packages themselves."""

    source: str
    pass_rate: float
    voting_rate: float


GOLD = Gold("arXiv 2509.16198", 0.810, 0.920)
LATER_GOLD = Gold("arXiv 2602.02084", 0.948, 0.988)


def project_of(top: Iterable[str]) -> Project | None:
    """Which of the six a package is, by the names that it is imported by; None for another."""
    names = set(top)
    return next((one for one in PROJECTS if one.top in names), None)


# ------------------------------------------------------------ arithmetic


class Sized(Protocol):
    """Lines of code and tokens of a repository, or an average of several."""

    @property
    def loc(self) -> float: ...
    @property
    def tokens(self) -> float: ...


class Amount(NamedTuple):
    loc: float
    tokens: float


def multiple(ours: Sized, baselines: Sequence[Sized]) -> float:
    """How many times as large as the baselines: the mean of two ratios, of lines and of tokens, each of ours to the
    baselines' mean.

    With one baseline, Claude Code, that is the paper's 3.9. Its 64 is said to be over ten other baselines, as ratios of
    58.99 and 69.00, but their rows are not at hand. To the mean, and not the mean of ten ratios, since a baseline that
    wrote next to nothing would make any multiple out of one near-zero row. Raises ValueError without a baseline, or
    where the baselines have no line or no token.
    """
    if not baselines:
        raise ValueError("baselines: expected one or more")
    loc, tokens = fmean(one.loc for one in baselines), fmean(one.tokens for one in baselines)
    if not loc or not tokens:
        raise ValueError("baselines: they have no line of code, so nothing is a multiple of them")
    return mean_of_ratios(ours.loc / loc, ours.tokens / tokens)


def mean_of_ratios(loc: float, tokens: float) -> float:
    """The paper's one figure out of two ratios: (58.99 + 69.00) / 2 is its 64."""
    return (loc + tokens) / 2


def points(ours: float, theirs: float) -> float:
    """Percentage points between two shares of 0..1: 27.3 of 0.815 and 0.542."""
    return 100 * (ours - theirs)
