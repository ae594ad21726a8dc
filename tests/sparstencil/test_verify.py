"""`verify` takes nothing of a plan file on trust: every field that is wrong is named, and what is no plan is refused."""

import copy
import itertools
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from cuda_on_cpu import Cpu

from sparstencil import cli, cuda, emulate, modes, verify
from sparstencil.boundary import Boundary
from sparstencil.convert import NONE
from sparstencil.cuda_plan import Target
from sparstencil.plan import CARDS, best, fusion, tables, told
from sparstencil.stencil import Stencil
from sparstencil.suite import SUITE, named
from tenfold_shared import BadInput, Missing

BIN = Path(sys.executable).parent / "sparstencil"
H100 = CARDS["h100"]


def sparstencil_(*args):
    return subprocess.run([str(BIN), *map(str, args)], capture_output=True, text=True, timeout=300)


def command(arguments):
    return cli.main.main(arguments, "sparstencil", standalone_mode=False)


def planned(name, mode="fast", steps=1, **how):
    return json.loads(json.dumps(tables(best(named(name), mode, H100, steps=steps, **how), steps)))


def emitted(name, folder, mode="fast", steps=1):
    setup = best(named(name), mode, H100, steps=steps)
    return cuda.emit(setup, Boundary.parse("wrap", setup.stencil.ndim), "sm_80", folder)[1]


@pytest.fixture
def check(tmp_path):
    """A function that verifies a plan given as an object, by default of box-2d9p."""

    def verified(plan, name="box-2d9p", mode=None):
        path = tmp_path / "plan.json"
        path.write_text(plan if isinstance(plan, str) else json.dumps(plan))
        return verify.verify(named(name), mode, None, None, str(path))

    return verified


@pytest.fixture(scope="module")
def box():
    return planned("box-2d9p")


# ---------------------------------------------------------------- a field that is wrong


def swapped(plan):
    at = [i for i, c in enumerate(plan["permutation"]) if c != NONE]
    a, b = at[0], at[-1]
    plan["permutation"][a], plan["permutation"][b] = plan["permutation"][b], plan["permutation"][a]


WRONG = [  # an edit of a plan, the line that names it
    (lambda p: p["metadata"][0].update(selector=1), r"metadata\[0\]\.selector: 1, expected 0"),
    (lambda p: p["metadata"][0].update(mma="garbage"), r"metadata\[0\]\.mma: garbage, expected mma\.sp::ordered"),
    (lambda p: p["metadata"][1].update(shape="m16n8k8"), r"metadata\[1\]\.shape: m16n8k8, expected m16n8k(16|32)"),
    (lambda p: p["metadata"][0].update(m_tile=7), r"metadata\[0\]\.m_tile: 7, expected 0"),
    (lambda p: p["metadata"][0]["lanes"].pop(), r"metadata\[0\]\.lanes: 31 entries, expected 32"),
    (lambda p: p["metadata"].pop(), r"metadata: \d entries, expected \d"),
    (lambda p: p["metadata"].clear(), r"metadata: 0 entries, expected \d"),
    (lambda p: p.update(K=1), r"^K: 1, expected \d+"),
    (lambda p: p.update(z=99), r"^z: 99, expected \d+"),
    (lambda p: p.update(n=3), r"^n: 3, expected \d+"),
    (lambda p: p.update(groups=2), r"^groups: 2, expected \d+"),
    (lambda p: p.update(lower_bound=1), r"^lower_bound: 1, expected \d+"),
    (lambda p: p.update(M=15), r"^M: 15, expected 16"),
    (lambda p: p.update(density=0.1), r"^density: 0\.1, expected"),
    (lambda p: p.update(optimal=1), r"^optimal: 1, expected"),
    (lambda p: p.update(steps_a_pass=2), r"^steps_a_pass: 2, expected 1"),
    (lambda p: p.update(solver="guess"), r"^solver: guess, expected staircase"),
    (lambda p: p["instructions"].reverse() or p["instructions"].append("x"), r"^instructions: \d entries, expected"),
    (lambda p: p["offsets"].__delitem__(slice(4, None)), r"offsets: 4 entries, expected \d+"),
    (lambda p: p.update(offsets=[]), r"offsets: 0 entries, expected \d+"),
    (lambda p: p["offsets"].__setitem__(2, None), r"offsets\[2\]: null, expected \["),
    (lambda p: p["permutation"].__setitem__(0, p["permutation"][1]), r"permutation\[0\]: \d+, expected \d+, the column of offsets\[0\]"),
    (lambda p: p["permutation"].__setitem__(0, 999), r"permutation\[0\]: 999, expected one of the tile's \d+ columns"),
    (lambda p: p["permutation"].__delitem__(slice(4, None)), r"permutation: column \d+, place .*, stands nowhere"),
    (lambda p: p["permutation"].clear(), r"permutation: column 0, place .*, stands nowhere"),
    (lambda p: p["permutation"].extend([-1] * 16), r"permutation: \d+ entries, expected \d+"),
    (swapped, r"offsets\[0\]\[\d\]: |row \d+ has"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "line"), WRONG, ids=[line for _, line in WRONG])
def test_a_wrong_field_is_named_with_both_values(edit, line, box, check):
    assert check(box)["ok"]
    plan = copy.deepcopy(box)
    edit(plan)
    found = check(plan)
    assert not found["ok"] and any(re.search(line, told) for told in found["tables"]), found["tables"]


@pytest.mark.parametrize("edit", [WRONG[0][0], lambda p: p["offsets"][1].__setitem__(1, p["offsets"][1][1] + 1)])
def test_the_emulator_runs_the_files_own_words(edit, box, check):
    """A selector or a place that is wrong gives wrong numbers or an undefined word, not only another table."""
    plan = copy.deepcopy(box)
    edit(plan)
    assert not any(row["ok"] for row in check(plan)["rows"])


def test_every_lane_and_digit_of_a_plan_counts(box, check):
    for entry, lane in ((0, 0), (0, 31), (len(box["metadata"]) - 1, 13)):
        plan = copy.deepcopy(box)
        word = plan["metadata"][entry]["lanes"][lane]
        plan["metadata"][entry]["lanes"][lane] = word[:-1] + ("4" if word[-1] != "4" else "e")
        (line,) = check(plan)["tables"]
        assert line.startswith(f"metadata[{entry}].lanes[{lane}]: ") and line.endswith(f", expected {word}")


def test_a_tf32_order_with_two_entries_in_a_pair_is_wrong(check):
    plan = planned("box-2d9p", "tf32")
    quads = np.array(plan["permutation"]).reshape(-1, 2, 2).transpose(0, 2, 1)  # the order of 2:4 groups, not of pairs
    plan["permutation"] = quads.reshape(-1).tolist()
    found = check(plan)
    assert not found["ok"] and any("tf32 keeps one" in line for line in found["tables"])


# ---------------------------------------------------------------- what is no plan


def without(*path):
    def edit(plan):
        for step in path[:-1]:
            plan = plan[step]
        del plan[path[-1]]

    return edit


NO_PLAN = [
    ("5", "expected an object"), ("[]", "expected an object"), ("null", "expected an object"), ("{}", "no key"),
    ('{"stencil": {"name": "x"}}', "not a plan: no "), ("[" * 100_000, "not a plan"), ('{"key": "', "not a plan"),
    (lambda p: p.update(tile="ab"), "tile: ab: expected whole numbers"), (lambda p: p.update(tile=[4]), "tile 4: expected 2 sizes"),
    (lambda p: p.update(tile=[0, 4]), "tile 0x4: expected 2 sizes of at least 1"), (lambda p: p.update(tile=[10**6, 10**6]), "outputs at most"),
    (without("metadata", 0, "lanes"), r"metadata\[0\]: no lanes"), (without("z"), "no z"), (without("permutation"), "no permutation"),
    (lambda p: p["metadata"].__setitem__(0, 5), r"metadata\[0\]: no mma"), (lambda p: p.update(metadata=3), "metadata: expected a list"),
    (lambda p: p["metadata"][0]["lanes"].__setitem__(3, "xyz"), r"metadata\[0\]\.lanes: .*hexadecimal"),
    (lambda p: p["metadata"][0].update(selector="a"), r"selector: a: expected a whole number"),
    (lambda p: p.update(permutation=[0.5]), "permutation: .*expected whole numbers"), (lambda p: p.update(offsets=[7]), "offsets: .*expected places"),
    (lambda p: p.update(mode="f64"), "mode 'f64'; expected one of"), (lambda p: p.update(key="0"), "a plan of box-2d9p; expected box-2d9p, or some steps"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "line"), NO_PLAN, ids=[line for _, line in NO_PLAN])
def test_garbage_is_no_plan(edit, line, box, check):
    plan = edit
    if callable(edit):
        plan = copy.deepcopy(box)
        edit(plan)
    with pytest.raises(BadInput, match=line):
        check(plan)


def test_a_file_cut_anywhere_is_no_plan(box, check):
    text = json.dumps(box)
    for at in range(0, len(text) - 1, len(text) // 40):
        with pytest.raises(BadInput, match="not a plan"):
            check(text[:at])


# ---------------------------------------------------------------- the file's mode, steps and block


@pytest.mark.parametrize(("name", "mode", "steps"), [("box-2d9p", "tf32", 1), ("box-2d9p", "fast", 3), ("heat-1d", "mixed", 4), ("life-count-2d", "s8", 1), ("heat-2d", "f32", 2)])  # fmt: skip
def test_mode_and_steps_are_the_files_own(name, mode, steps, check, tmp_path):
    found = check(planned(name, mode, steps), name)
    assert found["ok"] and (found["mode"], found["steps_a_pass"]) == (mode, steps)
    path = emitted(name, tmp_path / "out", mode, steps)
    found = verify.verify(named(name), None, None, None, str(path))
    assert found["ok"] and (found["mode"], found["steps_a_pass"]) == (mode, steps)
    for asked in (
        {"mode": "mixed" if mode != "mixed" else "fast"},
        {"tile": (3,) * named(name).ndim},
        {"solver": "quad"},
    ):
        if asked.get("solver") == json.loads(path.read_text())["solver"]:
            continue
        given = {"mode": None, "tile": None, "solver": None} | asked
        with pytest.raises(BadInput, match=f"--{next(iter(asked))} says"):
            verify.verify(named(name), given["mode"], given["tile"], given["solver"], str(path))


def test_a_place_whose_weight_rounds_to_nothing_is_no_error(check):
    """float16 has no 1e-12, and the centre's increment is 0: metadata leaves both out, and so does the check."""
    for terms, mode in (({(0,): 1.0, (1,): 1e-12, (2,): 0.5}, "fast"), ({(-1,): 0.25, (0,): 1.0, (1,): -0.25}, "tf32")):
        found = verify.verify(Stencil.of(terms), mode, None, None, None)
        assert found["ok"], found


@pytest.mark.parametrize("name", ["heat-2d", "box-2d49p", "d3q19", "quick-1d"])
def test_the_emulated_block_is_the_emitted_one(name, monkeypatch):
    """Extents, lead and places of the K slots as `emit` prints them."""
    seen = []
    monkeypatch.setattr(emulate, "product", lambda geometry, planes, *_: seen.append(geometry) or planes[0])
    verify.verify(named(name), "fast", None, None, None)
    target = Target(best(named(name), "fast", H100), "cuda-sp")
    plan = cuda.plan_of(target, Boundary.parse("wrap", target.setup.stencil.ndim), "sm_80")
    for geometry in seen:
        assert (geometry.block, geometry.extents, geometry.lead) == (plan["block"], plan["extents"], plan["lead"])
        assert geometry.offsets().tolist() == plan["offsets"]


def test_a_stencil_that_reaches_too_far_for_a_block_is_verified_on_its_own():
    far = Stencil.of({(-60_000,): 1.0, (60_000,): 2.0})
    setup = modes.prepare(far, "fast", (16,), "staircase")
    with pytest.raises(BadInput, match="reaches too far"):
        _ = Target(setup, "cuda-sp").placed
    assert verify.block_of(setup) is setup.geometry


EMITTED = [
    (lambda p: p["offsets"].__setitem__(3, p["offsets"][3] + 1), r"offsets\[3\]: \d+, expected"),
    (lambda p: p["slots"].__setitem__(3, p["slots"][4]), r"slots\[4\]: .* which stands at 3 already"),
    (lambda p: p["slots"].__setitem__(3, [99, 99]), r"slots\[3\]: \[99, 99\], expected one of the tile's"),
    (lambda p: p.update(block=[32, 128]), r"block\[0\]: 32, expected 64"),
    (lambda p: p.update(lead=5), r"lead: 5, expected"),
    (lambda p: p.update(k=3), r"^k: 3, expected"),
    (lambda p: p["stencil"]["weights"].__setitem__(0, 9.0), r"stencil\.weights\[0\]: 9\.0, expected 0\.125"),
    (lambda p: p["metadata"][0]["lanes"].__setitem__(0, "4444eeee"), r"metadata\[0\]\.lanes\[0\]: 4444eeee, expected"),
    (lambda p: p["instructions"][0].update(first=4), r"instructions\[0\]\.first: 4, expected 0"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "line"), EMITTED, ids=[line for _, line in EMITTED])
def test_an_emitted_plan_is_read_too(edit, line, tmp_path):
    path = emitted("heat-2d", tmp_path)
    assert verify.verify(named("heat-2d"), None, None, None, str(path))["ok"]
    plan = json.loads(path.read_text())
    edit(plan)
    path.write_text(json.dumps(plan))
    found = verify.verify(named("heat-2d"), None, None, None, str(path))
    assert not found["ok"] and any(re.search(line, told) for told in found["tables"]), found["tables"]


def test_an_emitted_kernel_without_metadata_is_no_plan(tmp_path):
    setup = best(named("heat-2d"), "fast", H100)
    for backend in ("cuda-tc", "cuda-core"):
        path = cuda.emit(setup, Boundary.parse("wrap", 2), "sm_80", tmp_path / backend, backend)[1]
        with pytest.raises(BadInput, match=f"a kernel of {backend}, without metadata words"):
            verify.verify(named("heat-2d"), None, None, None, str(path))


# ---------------------------------------------------------------- the order that `plan --json` prints


ORDERS = list(itertools.product(["heat-1d", "box-2d9p", "star-2d13p", "box-3d27p", "life-count-2d", "upwind-2d"], ["fast", "tf32", "mixed"]))  # fmt: skip


@pytest.mark.parametrize(("name", "mode"), [*ORDERS, ("life-count-2d", "s8")])
def test_the_printed_order_alone_is_legal(name, mode):
    """A with its columns in `permutation`: one entry of two a row for tf32, two of four for the others; and `offsets` beside it
    are those columns' places. Nothing but the object is used."""
    plan = json.loads(json.dumps(told(best(named(name), mode, H100), H100, 1)))
    stencil, tile = named(name), plan["tile"]
    outputs = list(np.ndindex(*tile))
    places = [None if place is None else tuple(place) for place in plan["offsets"]]
    a = np.zeros((len(outputs), plan["K"]))
    for row, output in enumerate(outputs):
        reads = {tuple(np.add(output, o)): w for o, w in zip(stencil.offsets, stencil.weights, strict=True)}
        for slot, place in enumerate(places):
            a[row, slot] = reads.get(place, 0.0)
        assert np.count_nonzero(a[row]) == stencil.points  # every row has all of its P entries
    group, kept = (2, 1) if mode == "tf32" else (4, 2)
    assert (np.count_nonzero(a.reshape(len(outputs), -1, group), axis=2) <= kept).all()
    columns = sorted(place for place in places if place is not None)
    assert len(columns) == plan["n"] == len(set(columns)) and len(plan["permutation"]) == plan["K"]
    assert plan["permutation"] == [NONE if place is None else columns.index(place) for place in places]
    # A times explicitly gathered places is the stencil.
    grid = np.random.default_rng(0).standard_normal([3 * (h - low) + 2 * t + 5 for low, h, t in zip(stencil.lo, stencil.hi, tile, strict=True)])  # fmt: skip
    origin = np.array([-low for low in stencil.lo])
    b = np.array([0.0 if place is None else grid[tuple(origin + place)] for place in places])
    for value, output in zip(a @ b, outputs, strict=True):
        direct = sum(w * grid[tuple(origin + output + np.array(o))] for o, w in zip(stencil.offsets, stencil.weights, strict=True))  # fmt: skip
        assert value == pytest.approx(direct, abs=1e-12)


# ---------------------------------------------------------------- on a GPU, or this CPU in its place


@pytest.mark.deep
@pytest.mark.parametrize(("name", "mode", "backend"), [("heat-2d", "fast", "cuda-sp"), ("quick-1d", "tf32", "cuda-sp"), ("heat-2d", "mixed", "cuda-tc"), ("heat-1d", "f32", "cuda-core"), ("life-count-2d", "s8", "cuda-sp"), ("box-3d27p", "fast", "cuda-sp")])  # fmt: skip
def test_the_emitted_kernel_runs_at_every_rule(name, mode, backend, tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(planned(name, mode)))
    found = verify.verify(named(name), None, None, None, str(plan), backend, Cpu(tmp_path))
    assert found["ok"] and len(found["rows"]) == 7 and {row["backend"] for row in found["rows"]} == {backend}


def test_the_emitted_kernel_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "RULES", ("wrap", "constant"))  # one kernel; every rule and back end above
    found = verify.verify(named("heat-2d"), None, None, None, None, "cuda-sp", Cpu(tmp_path))
    assert found["ok"] and [row["boundary"] for row in found["rows"]] == ["wrap", "constant:3.0"]


def test_a_kernel_that_is_wrong_fails_and_a_wrong_table_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "RULES", ("wrap",))
    plan = planned("heat-2d")
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))

    def broken(source):
        lane = next(word for word in plan["metadata"][0]["lanes"] if word != "00000000")
        edited = re.sub(rf"0x{lane}\b", f"0x{lane[:-1]}{'e' if lane[-1] == '4' else '4'}", source)
        assert edited != source
        return edited

    found = verify.verify(named("heat-2d"), None, None, None, str(path), "cuda-sp", Cpu(tmp_path, edit=broken))
    assert not found["ok"] and not found["tables"] and all(row["wrong"] for row in found["rows"])
    plan["metadata"][0]["selector"] = 1
    path.write_text(json.dumps(plan))
    found = verify.verify(named("heat-2d"), None, None, None, str(path), "cuda-sp", Cpu(tmp_path, edit=broken))
    assert {row["error"] for row in found["rows"]} == {"not run: a GPU takes no wrong tables"}


def test_without_a_gpu_it_says_so_in_one_line(monkeypatch, capsys):
    def none(index=0):
        raise Missing("no CUDA device; --backend cpu or emulate work without")

    monkeypatch.setattr(verify, "Gpu", none)
    assert command(["verify", "--stencil", "heat-2d", "--backend", "cuda-sp"]) == 3
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and "no CUDA device" in told.err


# ---------------------------------------------------------------- the command


COMMANDS = [
    ("plan --stencil heat-2d --solver quad --mode tf32", 2, "--solver quad with --mode tf32"),
    ("verify --stencil heat-2d --solver quad --mode tf32", 2, "expected staircase or blossom"),
    ("plan --stencil heat-2d --tile=--5", 2, "expected whole numbers such as 8x2"),
    ("plan --stencil heat-2d --tile=4-4", 2, "expected whole numbers such as 8x2"),
    ("plan --stencil heat-2d --tile 4", 2, "--tile 4: expected 2 sizes"),
    ("plan --stencil heat-2d --tile 4x4x4", 2, "--tile 4x4x4: expected 2 sizes"),
    ("verify --stencil heat-2d --tile 4", 2, "--tile 4: expected 2 sizes"),
    ("emit --stencil heat-2d --tile 4 -o none", 2, "--tile 4: expected 2 sizes"),
    ("verify none.json --stencil heat-2d", 2, "none.json: no such file"),
]


@pytest.mark.parametrize(("line", "code", "says"), COMMANDS, ids=[line for line, _, _ in COMMANDS])
def test_bad_input_is_one_line(line, code, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command(line.split()) == code
    told = capsys.readouterr()
    assert says in told.err and "Traceback" not in told.err and told.err.count("\n") == 1


def test_run_refuses_quad_for_tf32(capsys, tmp_path):
    np.save(tmp_path / "u.npy", np.ones((20, 20), dtype=np.float32))
    line = ["run", str(tmp_path / "u.npy"), "--stencil", "heat-2d", "--solver", "quad", "--mode", "tf32", "--backend", "emulate", "-o", str(tmp_path / "o.npy")]  # fmt: skip
    assert command(line) == 2 and "--solver quad" in capsys.readouterr().err


def test_fusion_of_a_wide_stencil_is_one_step(capsys, tmp_path):
    np.save(tmp_path / "w.npy", np.arange(1.0, 442).reshape(21, 21))
    for spec in (str(tmp_path / "w.npy"), "u[-13]+u[13]"):
        assert command(["plan", "--stencil", spec, "--fuse", "auto", "--json", "--tile", "4x4" if "npy" in spec else "16"]) == 0  # fmt: skip
        plan = json.loads(capsys.readouterr().out)
        assert plan["steps_a_pass"] == 1 and [row["steps"] for row in plan["fusion"]] == [1]
    assert [row["steps"] for row in fusion(named("life-count-2d"), "s8", H100)] == [1, 2, 3]  # then beyond 8 bits


def test_the_command_says_which_field_and_exits_1(box, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(box | {"z": 99}))
    done = sparstencil_("verify", path, "--stencil", "box-2d9p")
    assert done.returncode == 1 and "NOT  z: 99, expected" in done.stdout
    path.write_text("5")
    done = sparstencil_("verify", path, "--stencil", "box-2d9p")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1


def test_suite_and_plan_say_both_numbers_of_groups(capsys):
    rows = [verify.suite_row(SUITE[name]) for name in ("star-2d9p", "heat-2d")]
    assert (rows[0]["groups"], rows[0]["fewest"], rows[0]["lower_bound"]) == (16, 14, 14)
    assert verify.summary(rows) == (
        "2 of 2 right; 1 plans have the fewest groups there can be; for 2 tiles some conversion reaches that"
    )
    assert command(["plan", "--stencil", "star-2d9p", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["groups"], plan["fewest"]) == (rows[0]["groups"], rows[0]["fewest"])
    assert command(["suite", "--only", "star-2d9p"]) == 0
    assert "0 plans have the fewest groups" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("capability", "ok"), [([], False), (["75"], False), (["80"], True), (["90"], True), (["100"], True), (["120"], True), (["75", "120"], True)]
)  # fmt: skip
def test_doctor_asks_for_sparse_tensor_cores(capability, ok, monkeypatch):
    runtime = types.SimpleNamespace(getDeviceCount=lambda: len(capability))
    cupy = types.ModuleType("cupy")
    cupy.cuda = types.SimpleNamespace(
        runtime=runtime, Device=lambda at: types.SimpleNamespace(compute_capability=capability[at])
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert cli._backends()["cuda"]["ok"] is ok

    def fails():
        raise RuntimeError("cudaErrorNoDevice")

    runtime.getDeviceCount = fails
    assert not cli._backends()["cuda"]["ok"]
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert cli._backends()["cuda"]["detail"] == "cupy is not installed"
