"""craft sample and craft tasks: draws against enumeration and against chance, lines byte for byte, counts by hand."""

import gzip
import itertools
import json
import os
import pty
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tenfold_shared import BadInput
from zerorepo.craft.listing import drawn, passed_over, run_sample, run_tasks, taxonomy
from zerorepo.craft.tasks import Gold, Interface, Support, Task, dumps

COMMAND = Path(sys.executable).parent / "zerorepo"
LIMITS = {"files": 12, "classes": 20, "caps": 10}


def made(
    file: str, module: str = "functions", cap: str = "one", category: str = "math", project: str = "p", **more
) -> Task:
    given = {
        "id": f"{project}/{category}/{file}/{module}/{cap}", "functions": [f"test_{cap}"], "query_code": f"def test_{cap}():\n    pass\n",
        "alg_description": f"Does {cap}.", "task_query": f"Write {cap}.", "cases": [f"test_{cap}"], "top": [project], "interfaces": [],
    }  # fmt: skip
    return Task(category=category, file=file, module=module, cap=cap, project=project, **{**given, **more})


def many(shape: dict[str, dict[str, int]], **more) -> list[Task]:
    """file -> module -> number of capabilities"""
    return [
        made(file, module, f"c{n}", **more) for file, modules in shape.items() for module, count in modules.items() for n in range(count)
    ]  # fmt: skip


def ids(tasks) -> frozenset[str]:
    return frozenset(task.id for task in tasks)


# ------------------------------------------------------------ the draw


SHAPE = {"test_a.py": {"functions": 3, "TestA": 1}, "test_b.py": {"TestB": 2}, "test_c.py": {"TestC": 1, "TestD": 2}}


def legal(shape: dict[str, dict[str, int]], files: int, classes: int, caps: int) -> dict[frozenset[str], float]:
    """Every sample there can be, and how probable it is, by enumeration."""

    def subsets(names, most):
        return list(itertools.combinations(sorted(names), min(most, len(names))))

    found: dict[frozenset[str], float] = defaultdict(float)
    for chosen in subsets(shape, files):
        for modules in itertools.product(*(subsets(shape[file], classes) for file in chosen)):
            pairs = [(file, module) for file, some in zip(chosen, modules, strict=True) for module in some]
            picks = [subsets(range(shape[file][module]), caps) for file, module in pairs]
            ways = [len(subsets(shape[file], classes)) for file in chosen]
            share = 1 / len(subsets(shape, files))
            for number in [*ways, *map(len, picks)]:
                share /= number
            for pick in itertools.product(*picks):
                names = [
                    made(file, module, f"c{n}").id for (file, module), some in zip(pairs, pick, strict=True) for n in some
                ]  # fmt: skip
                found[frozenset(names)] += share
    return dict(found)


@pytest.mark.parametrize("limits", [(1, 1, 1), (2, 1, 1), (2, 2, 1), (1, 2, 2), (3, 1, 2)])
def test_over_seeds_every_legal_sample_comes_as_often_as_chance_says(limits):
    files, classes, caps = limits
    expected = legal(SHAPE, *limits)
    assert abs(sum(expected.values()) - 1) < 1e-12
    tasks, draws = many(SHAPE), 2500
    seen = Counter(ids(drawn(tasks, files=files, classes=classes, caps=caps, seed=seed)) for seed in range(draws))
    assert set(seen) <= set(expected)
    common = [one for one, share in expected.items() if share * draws >= 5]
    observed = [seen[one] for one in common]
    wanted = [expected[one] * draws for one in common]
    if (rest := draws - sum(wanted)) > 5:
        observed, wanted = [*observed, draws - sum(observed)], [*wanted, rest]
    assert stats.chisquare(observed, [one * sum(observed) / sum(wanted) for one in wanted]).pvalue > 1e-4


def test_subsets_of_a_level_are_uniform():
    tasks = many({f"test_{name}.py": {"functions": 1} for name in "abcde"})
    seen = Counter(ids(drawn(tasks, files=2, classes=1, caps=1, seed=seed)) for seed in range(4000))
    assert len(seen) == 10
    assert stats.chisquare(list(seen.values())).pvalue > 1e-4


def test_categories_are_drawn_independently_of_each_other():
    shape = {f"test_{name}.py": {"functions": 1} for name in "abc"}
    tasks = many(shape, category="one") + many(shape, category="two")
    table: Counter[tuple[str, str]] = Counter()
    for seed in range(3000):
        first, second = drawn(tasks, files=1, classes=1, caps=1, seed=seed)
        table[first.file, second.file] += 1
    assert len(table) == 9
    assert stats.chisquare(list(table.values())).pvalue > 1e-4


_words = st.sampled_from(["a", "b", "c", "base", "issue", "data"])
_sets = st.lists(
    st.builds(
        lambda project, category, file, module, cap: made(f"tests/test_{file}.py", module, cap, category, project),
        st.sampled_from("pq"), st.sampled_from(["x", "y", "z"]), _words, st.sampled_from(["functions", "TestA", "TestB", "Test_base"]),
        st.sampled_from("klmn"),
    ),
    max_size=60, unique_by=lambda task: task.id,
)  # fmt: skip
_limit = st.integers(0, 4)


@settings(max_examples=150, deadline=None)
@given(_sets, _limit, _limit, _limit, st.integers(), st.randoms(use_true_random=False))
def test_laws_of_the_draw(tasks, files, classes, caps, seed, rng):
    limits = {"files": files, "classes": classes, "caps": caps}
    sample = drawn(tasks, **limits, seed=seed)
    taken = ids(sample)
    assert sample == [task for task in tasks if task.id in taken]  # the input's order, nothing twice
    by: dict[tuple, set] = defaultdict(set)
    there: dict[tuple, set] = defaultdict(set)
    for members, into in ((sample, by), ([task for task in tasks if not passed_over(task)], there)):
        for task in members:
            into[task.project, task.category].add(task.file)
            into[task.project, task.category, task.file].add(task.module)
            into[task.project, task.category, task.file, task.module].add(task.id)
    most = {2: files, 3: classes, 4: caps}
    if files and classes and caps:
        for place, names in there.items():  # as many as there are, up to the limit, wherever the level above was taken
            above = len(place) == 2 or place[-1] in by[place[:-1]]
            assert len(by[place]) == (min(len(names), most[len(place)]) if above else 0)
    else:
        assert not sample
    mixed = list(tasks)
    rng.shuffle(mixed)
    assert ids(drawn(mixed, **limits, seed=seed)) == taken
    for category in ("x", "y"):  # a category alone is drawn as among others
        alone = [task for task in tasks if (task.project, task.category) == ("p", category)]
        assert ids(drawn(alone, **limits, seed=seed)) == ids(alone) & taken
    for grown in ("files", "classes", "caps"):
        assert taken <= ids(drawn(tasks, **{**limits, grown: limits[grown] + 1}, seed=seed))
    alone = [task for task in tasks if task.file in by[task.project, task.category]]  # files not drawn have no say
    assert ids(drawn(alone, **limits, seed=seed)) == taken


def test_names_with_base_or_issue_are_passed_over_letter_case_counting():
    tasks = [
        made("tests/test_base.py"), made("tests/test_database.py"), made("tests/test_issue12.py"), made("base/test_x.py"),
        made("tests/test_y.py", "Test_base"), made("tests/test_y.py", "TestBase"), made("tests/test_z.py", "functions", "base"),
    ]  # fmt: skip
    kept = drawn(tasks, files=9, classes=9, caps=9, seed=0)
    assert [(task.file, task.module) for task in kept] == [
        ("base/test_x.py", "functions"), ("tests/test_y.py", "TestBase"), ("tests/test_z.py", "functions"),
    ]  # fmt: skip


# ------------------------------------------------------------ sample, the verb


def run(*words: object, cwd: Path, code: int = 0, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run([COMMAND, "craft", *map(str, words)], cwd=cwd, capture_output=True, input=stdin)
    assert done.returncode == code, done.stderr
    return done


def odd_lines() -> list[bytes]:
    """Lines as others may have written them: unknown fields, spaces, escapes, fields in another order."""
    lines = []
    for at, task in enumerate(
        many({"test_a.py": {"functions": 5}, "test_base.py": {"functions": 2}, "test_é.py": {"TestE": 3}})
    ):
        record = json.loads(dumps(task))
        record = dict(reversed(record.items())) | {"note": {"π": at, "large": 10**25, "small": 1.50e-3}}
        lines.append(json.dumps(record, ensure_ascii=at % 2 == 0, separators=((", ", ": "), (",", ":"))[at % 2]).encode() + b" " * (at % 3))  # fmt: skip
    return lines


def test_lines_pass_byte_for_byte_through_pipes_and_files(tmp_path):
    lines = odd_lines()
    text = b"\xef\xbb\xbf" + b"\n\n".join(lines)  # a mark at the start, blank lines, no end of the last line
    piped = run("sample", "--caps", 2, "--seed", 3, cwd=tmp_path, stdin=text)
    written = piped.stdout.splitlines()
    assert len(written) == 4 and written == [line for line in lines if line in written]
    assert piped.stdout == b"".join(line + b"\n" for line in written)
    assert b"10 tasks read, 2 passed over for `base` or `issue` in a name, 4 drawn" in piped.stderr
    (tmp_path / "all.jsonl.gz").write_bytes(gzip.compress(text))
    done = run("sample", "all.jsonl.gz", "--caps", 2, "--seed", 3, "-o", "few.jsonl", "--json", cwd=tmp_path)
    assert (tmp_path / "few.jsonl").read_bytes() == piped.stdout
    assert json.loads(done.stdout) == {"read": 10, "passed_over": 2, "written": 4}
    manifest = json.loads((tmp_path / "few.jsonl.manifest.json").read_bytes())
    assert manifest["counts"] == {"read": 10, "passed_over": 2, "written": 4}
    assert manifest["options"] == {"files": 12, "classes": 20, "caps": 2, "sound": False, "seed": 3}
    assert [one["path"] for one in manifest["inputs"]] == ["all.jsonl.gz"]


def sample(path: Path, **more) -> int:
    given = {**LIMITS, "sound": False, "seed": 0, "output": None, "overwrite": False, "as_json": False, "quiet": True}
    return run_sample(str(path), **{**given, **more})


def test_a_finished_sample_is_a_no_op_and_another_is_refused(tmp_path, capfd):
    source = tmp_path / "all.jsonl"
    source.write_bytes(b"\n".join(odd_lines()))
    few = tmp_path / "few.jsonl"
    assert sample(source, output=str(few)) == 0
    before = few.stat().st_mtime_ns, few.read_bytes()
    assert sample(source, output=str(few), quiet=False) == 0
    assert "complete already; nothing to do" in capfd.readouterr().err
    assert (few.stat().st_mtime_ns, few.read_bytes()) == before
    with pytest.raises(BadInput, match="--seed 0, this one has 1"):
        sample(source, output=str(few), seed=1)
    with pytest.raises(BadInput, match="is an input as well"):
        sample(source, output=str(source), overwrite=True)
    assert sample(source, output=str(few), seed=1, caps=1, overwrite=True) == 0
    assert len(few.read_bytes().splitlines()) == 2


def write(path: Path, tasks: list[Task]) -> Path:
    path.write_bytes(b"".join(dumps(task) + b"\n" for task in tasks))
    return path


def test_sound_keeps_what_the_package_itself_passed_before_it_draws(tmp_path, capfdbinary):
    golds = [Gold(passed=at % 2 == 0, voted=True) for at in range(6)]
    tasks = [made("test_a.py", "functions", f"c{at}", gold=gold) for at, gold in enumerate(golds)]
    path = write(tmp_path / "t.jsonl", tasks)
    assert sample(path, sound=True, caps=3, as_json=True) == 0
    out, err = capfdbinary.readouterr()
    assert [msgspec.json.decode(line)["cap"] for line in out.splitlines()] == ["c0", "c2", "c4"]
    assert json.loads(err) == {"read": 6, "sound": 3, "passed_over": 0, "written": 3}
    some = write(tmp_path / "some.jsonl", [*tasks, made("test_b.py")])
    with pytest.raises(BadInput, match=r"some.jsonl:7: p/math/test_b.py/functions/one: gold: missing.*--unchecked"):
        sample(some, sound=True)
    assert sample(some) == 0


def test_where_no_task_is_left_nothing_is_written(tmp_path):
    path = write(tmp_path / "t.jsonl", [made("test_a.py", gold=Gold(passed=False, voted=True)), made("test_base.py", gold=Gold(passed=True, voted=True))])  # fmt: skip
    with pytest.raises(
        BadInput, match="no task is left: 2 tasks read, 1 of them passed by the package itself, 1 passed over"
    ):
        sample(path, sound=True, output=str(tmp_path / "few.jsonl"))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["t.jsonl"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"", "no task"), (b"[]", "t.jsonl:1: "), (b'{"schema": "craft/9"}', "t.jsonl:1: schema"), (b"{", "t.jsonl:1: expected one JSON"),
        (dumps(made("a.py")) + b"\n" + dumps(made("a.py")), "t.jsonl:2: id: .* stands twice"),
        (dumps(made("../a.py")), "stays in the repository"), (dumps(made("a" * 300 + ".py")), "at most 255 bytes"), (dumps(made("a")), "file: "),
        (dumps(made("a.py", cases=[])), "cases: "), (dumps(made("a.py", cases=["--help"])), "cases: '--help'"),
        (dumps(made("a.py", cases=["A::b\0"])), "cases: "), (dumps(made("a.py", gold=Gold(passed=True, voted=False))), "gold.passed"),
        *((dumps(made("a.py", interfaces=[Interface(name=name, kind="class", written=[old])])), "interfaces: ")
          for name, old in (("", "a"), (".".join("a" * 5000), "a"), ("a", "a..b"))),
    ],
)  # fmt: skip
def test_what_is_no_task_is_told_with_its_line(tmp_path, line, told):
    path = tmp_path / "t.jsonl"
    path.write_bytes(line)
    with pytest.raises(BadInput, match=told):
        sample(path)
    with pytest.raises(BadInput, match=told):
        run_tasks(str(path), wanted=None, as_json=True, quiet=False)


# ------------------------------------------------------------ tasks, the verb


MIXED = [
    made("t/test_a.py", "functions", "add", "algebra", "requests", functions=["test_add", "test_more"], gold=Gold(passed=True, voted=True)),
    made("t/test_a.py", "TestA", "add", "algebra", "requests", functions=["test_add"], gold=Gold(passed=False, voted=True, reason="it times out")),
    made("t/b_test.py", "TestB", "sub", "algebra", "requests", functions=["test_x"], gold=Gold(passed=False, voted=False)),
    made("u/test_a.py", "TestA", "add", "sets", "requests", functions=["test_add"]),
    made("u/test_a.py", "TestA", "add", "sets", "elsewhere"),
]  # fmt: skip


def test_the_taxonomy_counted_by_hand():
    found = taxonomy(MIXED)
    first, second = found["projects"]
    assert first["project"] == "requests" and second["project"] == "elsewhere"
    assert first["categories"] == [
        {"category": "algebra", "files": 2, "classes": 3, "capabilities": 3, "functions": 4, "tasks": 3, "gold": {"checked": 3, "passed": 1, "voted": 2}},
        {"category": "sets", "files": 1, "classes": 1, "capabilities": 1, "functions": 1, "tasks": 1, "gold": {"checked": 0, "passed": 0, "voted": 0}},
    ]  # fmt: skip
    assert first["total"] == {
        "categories": 2, "leaves": 3, "files": 3, "classes": 4, "capabilities": 4, "functions": 5, "tasks": 4,
        "gold": {"checked": 3, "passed": 1, "voted": 2},
    }  # fmt: skip
    assert first["paper"] == {"name": "requests", "paraphrase": "HttpEasy", "categories": 22, "leaves": 22, "tasks": 50}
    assert second["paper"] is None
    assert (found["total"]["categories"], found["total"]["tasks"], found["total"]["files"]) == (3, 5, 4)


@settings(max_examples=60, deadline=None)
@given(_sets.filter(bool))
def test_counts_are_those_of_plain_loops(tasks):
    found = taxonomy(tasks)
    lines = [(one["project"], line) for one in found["projects"] for line in one["categories"]]
    assert len(lines) == found["total"]["categories"] == sum(one["total"]["categories"] for one in found["projects"])
    for project, line in lines:
        tree: dict = {}  # file -> module -> capability -> names
        for task in tasks:
            if (task.project, task.category) == (project, line["category"]):
                tree.setdefault(task.file, {}).setdefault(task.module, {}).setdefault(task.cap, []).extend(
                    task.functions
                )
        modules = [module for file in tree.values() for module in file.values()]
        assert line["files"] == len(tree) and line["classes"] == len(modules)
        assert line["capabilities"] == sum(map(len, modules))
        assert line["functions"] == sum(
            len({name for names in module.values() for name in names}) for module in modules
        )
        assert line["tasks"] == sum(task.project == project and task.category == line["category"] for task in tasks)
    assert found["total"]["tasks"] == len(tasks) == sum(one["total"]["tasks"] for one in found["projects"])


def test_the_table_has_the_counts_and_the_papers_beside_them(tmp_path):
    path = write(tmp_path / "t.jsonl", MIXED)
    text = run("tasks", path, cwd=tmp_path).stdout.decode()
    cells = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in text.splitlines() if line[:1] in "│┃"]
    assert cells[0] == [
        "project",
        "category",
        "files",
        "classes",
        "capabilities",
        "functions",
        "tasks",
        "gold passed",
        "gold voted",
    ]
    assert cells[1:4] == [
        ["requests", "algebra", "2", "3", "3", "4", "3", "1", "2"],
        ["requests", "sets", "1", "1", "1", "1", "1", "–", "–"],
        ["requests", "total: 2 categories", "3", "4", "4", "5", "4", "1 of 3", "2 of 3"],
    ]
    assert cells[-1][:2] == ["total", "3 categories"]
    last = text.splitlines()[-1]
    assert last == "requests: here 2 categories, 3 leaves, 4 tasks; in the paper, of requests as HttpEasy: 22 categories, 22 leaves, 50 tasks"  # fmt: skip
    told = json.loads(run("tasks", "--json", cwd=tmp_path, stdin=path.read_bytes()).stdout)
    assert told == taxonomy(MIXED)


SHOWN = made(
    "t/test_a.py", "TestA", "slug", "text", "p", cases=["TestA::test_slug"], query_code="class TestA:\n\tdef test_slug(self):\n        x = '\x1b[31m[bold]'\n",
    support=[Support(path="t/conftest.py", text="")], gold=Gold(passed=False, voted=True, reason="it times out"), top=["p", "q"],
    interfaces=[Interface(name="p.text.slug", kind="function", written=["p.slug"], tested=True, signature="slug(text)"), Interface(name="p.text.T", kind="class")],
)  # fmt: skip


def test_show_tells_all_of_a_task_and_no_escape_reaches_the_terminal(tmp_path, capsys):
    path = write(tmp_path / "t.jsonl", [*MIXED, SHOWN])
    run_tasks(str(path), wanted=SHOWN.id, as_json=False, quiet=False)
    text = capsys.readouterr().out
    assert text.splitlines()[0] == SHOWN.id
    assert text.endswith("\ntest\nclass TestA:\n\tdef test_slug(self):\n        x = '\\x1b[31m[bold]'\n")
    for part in ("imported as p, q", "text/a: t/test_a.py, TestA, slug", "TestA::test_slug", "t/conftest.py", "not passed, voted for: it times out",
                 "\ndescription\n  Does slug.\n", "\nquery\n  Write slug.\n", "  * function p.text.slug  (as p.slug)\n             slug(text)\n",
                 "    class    p.text.T\n"):  # fmt: skip
        assert part in text
    assert "\x1b" not in text
    run_tasks(str(path), wanted=SHOWN.id, as_json=True, quiet=False)
    assert msgspec.json.decode(capsys.readouterr().out, type=Task) == SHOWN


def test_show_on_a_terminal_keeps_the_code(tmp_path):
    path = write(tmp_path / "t.jsonl", [SHOWN])
    main, side = pty.openpty()
    done = subprocess.Popen([COMMAND, "craft", "tasks", path, "--show", SHOWN.id], cwd=tmp_path, stdout=side, env={**os.environ, "NO_COLOR": "1", "TERM": "xterm", "COLUMNS": "100"})  # fmt: skip
    os.close(side)
    text = b""
    while True:
        try:
            block = os.read(main, 1 << 16)
        except OSError:  # its end of the terminal is closed
            break
        if not block:
            break
        text += block
    os.close(main)
    assert done.wait() == 0
    plain = re.sub(rb"\x1b\[[0-9;]*m", b"", text).decode()
    assert "\\x1b[31m[bold]" in plain and "\x1b" not in plain


def test_an_unknown_id_is_told_with_the_nearest(tmp_path):
    path = write(tmp_path / "t.jsonl", [*MIXED, SHOWN])
    with pytest.raises(BadInput, match=re.escape(f"--show slug: no task of this id; nearest: {SHOWN.id}")):
        run_tasks(str(path), wanted="slug", as_json=False, quiet=False)
    with pytest.raises(BadInput, match=re.escape(MIXED[2].id)):
        run_tasks(str(path), wanted=MIXED[2].id.replace("algebra", "algebr"), as_json=False, quiet=False)
    wrong = run("tasks", path, "--show", "slug", cwd=tmp_path, code=2)
    assert wrong.stdout == b"" and wrong.stderr.decode().startswith("zerorepo: --show slug: no task of this id")
