"""craft report: intervals and tests against published values, comparisons by hand and by brute force, bad scores, the picture."""

import itertools
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tenfold_shared import BadInput
from zerorepo.craft.report import Z95, compared, draw, mcnemar, run_report, score_of, wilson

COMMAND = Path(sys.executable).parent / "zerorepo"


def score(repository: str = "ours", marks: str = "pvf", *, project: str = "boltons", ids=None, **more) -> dict:
    """A score file. marks: a letter a task: p passed, v voted for alone, f neither."""
    ids = ids or [f"{project}/{at}" for at in range(len(marks))]
    results = [
        {"id": one, "category": "c", "leaf": "c/l", "voted": mark in "pv", "votes": ["yes"] * 5, "passed": mark == "p", "result": "passed",
         "reason": "", "located": {}, "how": {}, "missing": [], "tries": 1}
        for one, mark in zip(ids, marks, strict=True)
    ]  # fmt: skip
    n = len(marks)
    return {
        "schema": "craft-score/1", "repository": repository, "project": project, "tasks": n, "coverage": 0.5, "novelty": 0.125,
        "pass_rate": marks.count("p") / n, "voting_rate": (n - marks.count("f")) / n, "files": 4, "loc": 300, "tokens": 2000,
        "gold": {"pass_rate": 0.8, "voting_rate": 0.9, "tasks": n, "measured": "harvest"},
        "taxonomy": {"leaves": 8, "hit": 4, "features": 16, "novel": 2, "threshold": 0.4, "embeddings": "minilm"},
        "answered_by": "rules", "results": results, **more,
    }  # fmt: skip


def scores(*made: dict) -> list:
    return [score_of(f"{at}.json", json.dumps(one)) for at, one in enumerate(made)]


def save(folder: Path, **made: dict) -> list[str]:
    for name, one in made.items():
        (folder / f"{name}.json").write_text(json.dumps(one))
    return [f"{name}.json" for name in made]


def run(*words: object, cwd: Path, code: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [COMMAND, "craft", "report", *map(str, words)], cwd=cwd, capture_output=True, text=True, input=stdin
    )
    assert done.returncode == code, done.stderr
    return done


def report(paths, **more) -> int:
    given = {"baseline": (), "plot": None, "output": None, "overwrite": False, "as_json": False, "quiet": False}
    return run_report(tuple(map(str, paths)), **{**given, **more})


# ------------------------------------------------------------ intervals and tests


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),  # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_published(k, n, low, high):
    assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("n", [1, 2, 7, 50, 236])
def test_the_ends_of_wilson_are_where_the_score_test_just_rejects(n):
    for k in range(n + 1):
        low, high = wilson(k, n)
        assert 0 <= low <= k / n <= high <= 1
        for end in (low, high):
            if 0 < end < 1:
                assert abs(k / n - end) / math.sqrt(end * (1 - end) / n) == pytest.approx(Z95, rel=1e-9)
        mirror = wilson(n - k, n)
        assert (1 - mirror[1], 1 - mirror[0]) == pytest.approx((low, high), abs=1e-12)
    assert wilson(0, n)[0] == 0 and wilson(n, n)[1] == 1
    assert stats.norm.cdf(Z95) == pytest.approx(0.975, abs=1e-15)


@pytest.mark.parametrize(
    (
        "first",
        "second",
        "p",
    ),  # Fagerland, Lydersen, Laake 2013, BMC Med Res Methodol 13:91, tables 1 and 2: exact conditional
    [(1, 7, 0.0703), (6, 16, 0.0525)],
)
def test_mcnemar_as_published(first, second, p):
    assert mcnemar(first, second) == mcnemar(second, first) == pytest.approx(p, abs=5e-5)


def test_mcnemar_is_the_share_of_coin_tosses_at_least_as_uneven():
    for first, second in itertools.product(range(6), repeat=2):
        n = first + second
        tosses = list(itertools.product((1, -1), repeat=n))
        uneven = sum(abs(sum(one)) >= abs(first - second) for one in tosses)
        assert mcnemar(first, second) == uneven / len(tosses)
    assert mcnemar(0, 0) == 1
    for first, second in ((1234, 1100), (3, 500), (90, 90)):
        assert mcnemar(first, second) == pytest.approx(stats.binomtest(first, first + second).pvalue, rel=1e-9)


# ------------------------------------------------------------ the comparison


def test_a_row_by_hand():
    made = compared(scores(score("ours", "ppvff")))
    (row,) = made["rows"]
    assert row == {
        "name": "ours", "repository": "ours", "file": "0.json", "project": "boltons", "answered_by": "rules", "tasks": 5, "coverage": 0.5,
        "novelty": 0.125, "pass_rate": 0.4, "pass_interval": list(wilson(2, 5)), "voting_rate": 0.6, "voting_interval": list(wilson(3, 5)),
        "gold": {"pass_rate": 0.8, "voting_rate": 0.9}, "of_gold": 0.5, "files": 4, "loc": 300, "tokens": 2000, "common": None, "over": None,
    }  # fmt: skip
    assert made == {"schema": "craft-report/1", "rows": [row], "means": [], "pairs": [], "baselines": [], "notes": []}


def test_the_papers_own_arithmetic():
    """+27.3 coverage and +35.8 pass (o3-mini over Claude Code), 3.861 times the size (Qwen3-Coder over it): P1, table 2."""
    n = 1000
    theirs = score("Claude Code", "p" * 339 + "f" * (n - 339), coverage=0.542, files=59, loc=10_587, tokens=105_236)
    o3 = score("o3-mini", "f" * (n - 697) + "p" * 697, coverage=0.815)
    qwen = score("Qwen3-Coder", "p" * 573 + "f" * (n - 573), coverage=0.751, files=389, loc=36_941, tokens=445_512)
    rows = compared(scores(o3, theirs, qwen), ["Claude Code"])["rows"]
    assert rows[1]["over"] is None
    assert rows[0]["over"]["coverage"] == pytest.approx(0.273) and rows[0]["over"]["pass_rate"] == pytest.approx(0.358)
    assert rows[2]["over"]["size"] == pytest.approx(3.861, abs=5e-4)
    assert rows[2]["over"]["baselines"] == ["Claude Code"]


def test_scores_of_different_tasks_are_told_and_set_beside_over_what_is_common():
    a = score("a", "ppvf", ids=["1", "2", "3", "4"])
    b = score("b", "fpppp", ids=["4", "2", "3", "5", "6"])
    c = score("c", "pv", ids=["3", "2"])
    made = compared(scores(a, b, c), ["b"])
    assert [row["common"] for row in made["rows"]] == [
        {"tasks": 2, "pass_rate": 0.5, "voting_rate": 1.0},
        {"tasks": 2, "pass_rate": 1.0, "voting_rate": 1.0},
        {"tasks": 2, "pass_rate": 0.5, "voting_rate": 1.0},
    ]
    assert [row["pass_rate"] for row in made["rows"]] == [0.5, 0.8, 0.5]
    assert made["notes"] == ["boltons: scores of different tasks (a 4, b 5, c 2); 2 are common to all; rates over those stand beside their own"]  # fmt: skip
    by = {(one["first"], one["second"]): one for one in made["pairs"]}
    assert by["a", "b"] == {  # over 2, 3, 4: a passes 2; b passes 2 and 3
        "project": "boltons", "first": "a", "second": "b", "common": 3, "both": 1, "only_first": 0, "only_second": 1, "neither": 1,
        "difference": pytest.approx(-1 / 3), "p": 1.0,
    }  # fmt: skip
    assert set(by) == {("a", "b"), ("c", "b"), ("a", "c")}  # a baseline stands second
    assert made["rows"][0]["over"]["pass_rate"] == pytest.approx(-1 / 3)  # not 0.5 − 0.8
    assert made["rows"][2]["over"]["pass_rate"] == pytest.approx(-1 / 2)


def test_scores_with_no_task_in_common_are_not_compared():
    made = compared(scores(score("a", "pp", ids=["1", "2"]), score("b", "pf", ids=["3", "4"])), ["b"])
    assert made["notes"][0].endswith("0 are common to all; their pass and vote rates cannot be compared")
    assert made["rows"][0]["common"] == {"tasks": 0, "pass_rate": None, "voting_rate": None}
    assert made["rows"][0]["over"]["pass_rate"] is None and made["rows"][0]["over"]["coverage"] == 0
    assert made["pairs"][0]["p"] is None and made["pairs"][0]["difference"] is None


_marks = st.lists(
    st.tuples(st.sampled_from("pvf"), st.sampled_from("pvf"), st.sampled_from("abo")), min_size=1, max_size=30
)


@settings(max_examples=120, deadline=None)
@given(_marks)
def test_pairs_are_counted_as_plain_loops_do(marks):
    """abo: only the first score has the task, only the second, or both."""
    sides = [[(str(at), m[k]) for at, m in enumerate(marks) if m[2] in (side, "o")] for k, side in enumerate("ab")]
    if not all(sides):
        return
    made = [
        score(name, "".join(m for _, m in side), ids=[one for one, _ in side])
        for name, side in zip("ab", sides, strict=True)
    ]
    found = compared(scores(*made))
    (pair,) = found["pairs"]
    table = {(x, y): 0 for x in (True, False) for y in (True, False)}
    for first, second, side in marks:
        table[first == "p", second == "p"] += side == "o"
    assert [pair[key] for key in ("both", "only_first", "only_second", "neither")] == [
        table[True, True], table[True, False], table[False, True], table[False, False],
    ]  # fmt: skip
    assert pair["common"] == sum(table.values())
    differ = any(side != "o" for *_, side in marks)
    assert bool(found["notes"]) == differ == (found["rows"][0]["common"] is not None)
    if pair["common"]:
        shared = [m for m in marks if m[2] == "o"]
        rates = [sum(m[k] == "p" for m in shared) / len(shared) for k in (0, 1)]
        assert pair["difference"] == pytest.approx(rates[0] - rates[1])
        if differ:
            assert [row["common"]["pass_rate"] for row in found["rows"]] == pytest.approx(rates)
    swapped = compared(scores(*reversed(made)))["pairs"][0]
    assert swapped["p"] == pair["p"] and swapped["only_first"] == pair["only_second"]


def test_several_baselines_are_taken_by_their_mean():
    a, b = score("a", "pf", coverage=0.2, loc=100, tokens=1000), score("b", "ff", coverage=0.4, loc=300, tokens=3000)
    ours = score("ours", "pp", coverage=0.8, loc=400, tokens=2000)
    row = compared(scores(ours, a, b), ["a", "b"])["rows"][0]
    assert row["over"] == {
        "baselines": ["a", "b"], "coverage": pytest.approx(0.5), "pass_rate": pytest.approx(0.75), "voting_rate": pytest.approx(0.75),
        "size": pytest.approx((400 / 200 + 2000 / 2000) / 2),
    }  # fmt: skip
    empty = compared(scores(ours, score("e", "ff", loc=0, tokens=0)), ["e"])["rows"][0]
    assert empty["over"]["size"] is None


def test_two_repositories_of_one_name_are_told_apart_by_file():
    made = scores(score("x", "pf"), score("x", "ff"), score("y", "pp"))
    found = compared(made, ["1.json"])
    assert [row["name"] for row in found["rows"]] == ["0.json", "1.json", "y"] and found["baselines"] == ["1.json"]
    assert found["rows"][0]["over"]["pass_rate"] == 0.5
    with pytest.raises(BadInput, match=r"--baseline x: 2 scores are of this name; name the file: 0.json, 1.json"):
        compared(made, ["x"])
    with pytest.raises(BadInput, match=r"--baseline yy: not among the scores.*such as 'y'"):
        compared(made, ["yy"])
    with pytest.raises(BadInput, match="names every score"):
        compared(made[2:], ["y"])


def test_what_makes_scores_hard_to_compare_is_told():
    other = {"leaves": ["x"] * 9, "threshold": 0.4, "embeddings": "tfidf"}
    a, b = score("a"), score("b", taxonomy=other, answered_by="vllm:m", gold={"pass_rate": 0.75, "voting_rate": 0.9, "tasks": 3, "measured": "now"})  # fmt: skip
    assert compared(scores(a, b))["notes"] == [
        "boltons: coverage and novelty are of different taxonomies: a (8 leaves, minilm embeddings, threshold 0.4), b (9 leaves, tfidf embeddings, threshold 0.4)",
        "boltons: answered by different means: a rules, b vllm:m",
        "boltons: different ceilings of the same tasks: a 80.0% (harvest), b 75.0% (now)",
    ]
    assert compared(scores(score("c", status="budget")))["notes"] == [
        "boltons: c: not finished (status budget): tasks that were not judged count as failed"
    ]
    assert compared(scores(a, score("b", "ppp", project="sympy", answered_by="vllm:m")))["notes"] == []


def test_means_are_of_projects_each_once():
    ours = [score("ours", marks, project=project, coverage=coverage, loc=loc, tokens=10 * loc) for marks, project, coverage, loc in
            [("pppp", "one", 0.5, 100), ("pf", "two", 0.7, 300)]]  # fmt: skip
    theirs = [
        score("theirs", marks, project=project, coverage=0.5, loc=50, tokens=500)
        for marks, project in [("ppff", "one"), ("ff", "two")]
    ]
    found = compared(scores(*ours, *theirs), ["theirs"])
    mean, other = found["means"]
    assert mean["name"] == "mean of ours" and mean["projects"] == ["one", "two"] and mean["tasks"] == 6
    assert mean["pass_rate"] == 0.75  # not 5/6
    assert (
        mean["coverage"] == pytest.approx(0.6)
        and mean["loc"] == 200
        and mean["gold"] == {"pass_rate": 0.8, "voting_rate": 0.9}
    )
    assert mean["of_gold"] == pytest.approx((1 / 0.8 + 0.5 / 0.8) / 2)
    assert mean["over"] == {
        "baselines": ["theirs"], "coverage": pytest.approx(0.1), "pass_rate": pytest.approx(0.5), "voting_rate": pytest.approx(0.5), "size": pytest.approx(4.0),
    }  # fmt: skip
    assert other["over"] is None and other["pass_rate"] == 0.25
    assert [one["project"] for one in found["pairs"]] == ["one", "two"]
    unlike = compared(scores(*ours, *theirs, score("theirs", "p", project="three")))
    assert unlike["notes"] == [
        "means of different projects cannot be compared: mean of ours: one, two; mean of theirs: one, two, three"
    ]
    alone = compared(scores(score("a", "pp", project="one"), score("b", "pf", project="two", gold=None)))
    assert [one["name"] for one in alone["means"]] == ["mean"]
    assert alone["means"][0]["pass_rate"] == 0.75 and alone["means"][0]["of_gold"] is None
    assert (
        compared(scores(score("a", project="one"), score("b", project="one"), score("c", project="two")))["means"] == []
    )
    told = compared(scores(*ours, theirs[0]), ["theirs"])
    assert told["notes"] == ["two: no baseline among its scores"] and told["rows"][1]["over"] is None


# ------------------------------------------------------------ bad scores


def changed(field: str, value: object) -> dict:
    made = score()
    if value is None:
        del made[field]
    else:
        made[field] = value
    return made


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected one JSON object"), ("[]", "expected one JSON object"), ('{"a": 1}\n{"a": 2}', "expected one JSON object"), ("nope", "expected one JSON object"),
        ("[" * 200_000, "JSON nested too deeply|expected one JSON object"), ('{"schema": "craft-score/1", "coverage": NaN}', "expected one JSON object"),
        ("{}", "schema: expected craft-score/1.*got none"), (json.dumps(changed("schema", "craft-score/2")), "schema: .*got 'craft-score/2'"),
        *((json.dumps(changed(field, None)), f"{field}: required field is missing") for field in
          ("repository", "project", "tasks", "coverage", "novelty", "pass_rate", "voting_rate", "files", "loc", "tokens", "gold", "taxonomy", "answered_by", "results")),
        *((json.dumps(changed(field, value)), rf"x\.json: .*{field}") for field in ("coverage", "novelty", "pass_rate", "voting_rate") for value in (-0.01, 1.01, 75.1, "0.5", True)),
        (json.dumps(changed("gold", {"pass_rate": 98, "voting_rate": 0.9})), r"gold\.pass_rate"), (json.dumps(changed("gold", {})), r"gold\.pass_rate: required"),
        (json.dumps(changed("loc", -1)), r"loc"), (json.dumps(changed("tokens", 1.5)), r"tokens"), (json.dumps(changed("repository", 7)), r"repository"),
        (json.dumps(changed("tasks", 0)), r"tasks"), (json.dumps(changed("tasks", 4)), "tasks: expected the number of results, 3, got 4"),
        (json.dumps(changed("results", [{"id": "1", "voted": "yes", "passed": True}])), r"results\[0\]\.voted|results\[\.\.\.\]\.voted"),
        (json.dumps(score("r", "pp", ids=["1", "1"])), r"results\[1\]\.id: '1' stands twice"),
        (json.dumps(changed("pass_rate", 0.5)), "pass_rate: expected 1/3 by its results, got 0.5"),
        (json.dumps(changed("voting_rate", 0.5)), "voting_rate: expected 2/3 by its results, got 0.5"),
        (json.dumps(changed("results", [{"id": str(at), "voted": False, "passed": True} for at in range(3)])), r"results\[0\]\.passed: '0' passed and was not voted for"),
    ],
)  # fmt: skip
def test_what_is_no_score_is_told_with_file_and_field(text, told):
    with pytest.raises(BadInput, match=told) as caught:
        score_of("x.json", text)
    assert str(caught.value).startswith("x.json: ") and "`$" not in str(caught.value)


def test_what_a_score_may_leave_open():
    made = score_of(
        "x.json",
        json.dumps(score(novelty=None, gold=None, taxonomy={"leaves": 3}, pass_rate=0.333, unknown={"field": 1})),
    )
    row = compared([made])["rows"][0]
    assert row["novelty"] is None and row["of_gold"] is None and row["gold"] == {"pass_rate": None, "voting_rate": None}
    assert row["pass_rate"] == 1 / 3  # by the results, not as it was rounded


# ------------------------------------------------------------ the verb


def test_the_command_writes_a_table_json_and_a_file(tmp_path):
    names = save(tmp_path, one=score("one [b]", "ppvf", loc=600, tokens=4000), two=score("two", "pfff"))
    done = run(*names, "--baseline", "two", cwd=tmp_path)
    cells = [
        [cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in done.stdout.splitlines() if line[:1] in "│┃"
    ]
    assert cells[:3] == [
        ["repository", "tasks", "coverage", "novelty", "pass", "vote", "gold pass", "gold vote", "pass of gold", "files", "LOC", "tokens", "coverage over", "pass over", "× size"],
        ["one [b]", "4", "50.0", "12.5", "50.0 [15.0, 85.0]", "75.0 [30.1, 95.4]", "80.0", "90.0", "62.5", "4", "600", "4,000", "+0.0", "+25.0", "2.00"],
        ["two", "4", "50.0", "12.5", "25.0 [4.6, 69.9]", "25.0 [4.6, 69.9]", "80.0", "90.0", "31.2", "4", "300", "2,000", "", "", ""],
    ]  # fmt: skip
    assert cells[4] == ["one [b]", "two", "4", "1", "1", "0", "2", "+25.0", "1.000"]
    assert "over: points above the mean of two; size: mean of the ratios of LOC and of tokens" in done.stdout
    assert done.stderr == ""
    told = run(
        "-", names[1], "--baseline", "two", "--json", cwd=tmp_path, stdin=(tmp_path / "one.json").read_text()
    ).stdout
    made = run(*names, "--baseline", "two", "-o", "r.json", "--plot", "r.svg", cwd=tmp_path)
    assert made.stdout == made.stderr == ""
    written = json.loads((tmp_path / "r.json").read_bytes())
    assert written == {
        **json.loads(told),
        "rows": [{**row, "file": file} for row, file in zip(json.loads(told)["rows"], names, strict=True)],
    }
    manifest = json.loads((tmp_path / "r.json.manifest.json").read_bytes())
    assert manifest["verb"] == "craft report" and [one["path"] for one in manifest["inputs"]] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "one.json",
        "r.json",
        "r.json.manifest.json",
        "r.svg",
        "two.json",
    ]
    run(names[0], "-", "--baseline", "two", "-o", "piped.json", cwd=tmp_path, stdin=(tmp_path / "two.json").read_text())
    piped = json.loads((tmp_path / "piped.json").read_bytes())
    assert [row["file"] for row in piped["rows"]] == ["one.json", "<stdin>"] and piped["pairs"] == written["pairs"]
    bad = run("one.json", "r.json", cwd=tmp_path, code=2)
    assert bad.stdout == "" and bad.stderr.startswith("zerorepo: r.json: schema: expected craft-score/1")


def test_the_same_report_again_is_a_no_op_and_another_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = save(tmp_path, one=score("one", "pf"), two=score("two", "ff", ids=["boltons/0", "other"]))
    assert report(names, output="r.json") == 0
    assert "scores of different tasks (one 2, two 2); 1 are common" in capsys.readouterr().err
    before = Path("r.json").stat().st_mtime_ns
    assert report(names, output="r.json", as_json=True, quiet=True) == 0
    out, err = capsys.readouterr()
    assert out == Path("r.json").read_text() and "different tasks" in err  # what must be known is told, --quiet or not
    assert Path("r.json").stat().st_mtime_ns == before
    with pytest.raises(BadInput, match=r"--baseline .*this one has"):
        report(names, output="r.json", baseline=("two",))
    with pytest.raises(BadInput, match="is an input as well"):
        report(names, output="one.json", overwrite=True)
    with pytest.raises(BadInput, match=r"one.json: stands twice"):
        report([*names, "one.json"])
    with pytest.raises(BadInput, match=r"none.json: no such file"):
        report(["none.json"])
    assert report(names, output="r.json", baseline=("two",), overwrite=True) == 0
    assert json.loads(Path("r.json").read_bytes())["baselines"] == ["two"]


def test_many_pairs_are_left_to_a_baseline(tmp_path, capsys):
    paths = [tmp_path / one for one in save(tmp_path, **{f"s{at}": score(f"s{at}", "pvf") for at in range(6)})]
    report(paths)
    assert "15 pairs are compared task by task in --json; --baseline NAME" in capsys.readouterr().out
    report(paths, baseline=("s3",))
    text = capsys.readouterr().out
    assert text.count("│ s3 ") == 6 and "only first" in text  # its own row, and second of five pairs


def test_names_of_others_bring_no_escapes_to_the_terminal(tmp_path, capsys):
    paths = [
        tmp_path / one
        for one in save(
            tmp_path, a=score("\x1b[2Ja", project="\x1b]0;p"), b=score("b", ids=["1", "2", "3"], project="\x1b]0;p")
        )
    ]
    report(paths)
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err and "\\x1b[2Ja" in out and "\\x1b]0;p" in err


# ------------------------------------------------------------ the picture


def test_the_picture_has_every_bar_and_the_same_bytes_again(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    bars: list[float] = []
    labels: list[str] = []
    ceilings: list[float] = []
    barh, plot, ticks = Axes.barh, Axes.plot, Axes.set_yticks

    def seen_barh(self, y, width, *more, **given):
        bars.append(width)
        return barh(self, y, width, *more, **given)

    def seen_plot(self, x, y, *more, **given):
        if given.get("color") == "black":
            ceilings.append(x[0])
        return plot(self, x, y, *more, **given)

    def seen_ticks(self, at, names, **given):
        labels.extend(names)
        return ticks(self, at, names, **given)

    monkeypatch.setattr(Axes, "barh", seen_barh)
    monkeypatch.setattr(Axes, "plot", seen_plot)
    monkeypatch.setattr(Axes, "set_yticks", seen_ticks)
    long = "folder/" * 12 + "end"
    made = [score("ours", "ppvf", project="one"), score("ours", "pf", project="two"), score("$x^{$", "vv", project="one", gold=None), score(long, "ff", project="one")]  # fmt: skip
    found = compared(scores(*made))
    draw(found, str(tmp_path / "a.png"))
    expected = [*found["rows"], *found["means"]]
    assert bars == pytest.approx(
        [100 * row[key] for row in expected for key in ("coverage", "pass_rate", "voting_rate")]
    )
    assert ceilings == pytest.approx([100 * row["gold"][key] for row in expected for key in ("pass_rate", "voting_rate") if row["gold"][key] is not None])  # fmt: skip
    assert labels[0] == "ours\none" and labels[2] == "$x^{$\none" and labels[-1] == "mean of ours\n2 projects"
    assert labels[3].startswith("folder/") and labels[3].endswith("/end\none") and "…" in labels[3]
    draw(found, str(tmp_path / "b.png"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    for name in ("a.svg", "b.svg"):
        draw(found, str(tmp_path / name))
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.svg", "b.png", "b.svg"]


def test_a_picture_of_another_kind_is_refused_before_a_score_is_read():
    with pytest.raises(BadInput, match=r"--plot x.gif: expected a name that ends in .png or .svg"):
        report(["none.json"], plot="x.gif")
