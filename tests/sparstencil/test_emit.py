"""`sparstencil emit`: the folder, its machine code where there is a compiler, and how many steps a pass `auto` is."""

import json

import pytest

from sparstencil import cli, cuda, emit
from sparstencil.cuda_build import Report
from sparstencil.suite import named
from tenfold_shared import BadInput, Missing


def command(*arguments):
    return cli.main.main(list(map(str, arguments)), "sparstencil", standalone_mode=False)


def compiler():
    try:
        cuda.build("", "sm_80")
    except Missing as missing:
        pytest.skip(str(missing))
    except RuntimeError:
        pass


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_arch_is_what_the_machine_code_is_for(tmp_path, capsys):
    compiler()
    code = {}
    for arch, number in (("sm_80", 80), ("sm_90a", 90)):
        folder = tmp_path / arch
        assert command("emit", "--stencil", "heat-1d", "--arch", arch, "-o", folder, "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert told["arch"] == arch and told["files"][-1] == str(folder / "heat-1d.cubin")
        code[arch] = (folder / "heat-1d.cubin").read_bytes()
        flags = int.from_bytes(code[arch][48:52], "little")  # e_flags of a 64-bit ELF header: the architecture
        assert code[arch][:4] == b"\x7fELF" and number in (flags & 0xFF, flags >> 8 & 0xFF)
        assert told["machine_code"] is None or told["machine_code"]["registers"] > 0
    assert code["sm_80"] != code["sm_90a"]


def test_registers_and_spills_are_told(tmp_path, capsys, monkeypatch):
    made = tmp_path / "made.cubin"
    made.write_bytes(b"code")
    asked = []
    monkeypatch.setattr(cuda, "build", lambda source, arch: asked.append((source, arch)) or made)
    monkeypatch.setattr(cuda, "report", lambda path: Report(92, 1024, 0, {"HMMA.SP": 6}))
    assert command("emit", "--stencil", "heat-2d", "--arch", "sm_90a", "-o", tmp_path / "out", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["machine_code"] == {"registers": 92, "spills": 0, "shared": 1024, "instructions": {"HMMA.SP": 6}}
    ((source, arch),) = asked
    assert arch == "sm_90a" and (tmp_path / "out" / "heat-2d.cu").read_text().startswith(source)
    assert (tmp_path / "out" / "heat-2d.cubin").read_bytes() == b"code"


def test_without_a_compiler_it_says_so_and_exits_0(tmp_path, capsys, monkeypatch):
    def none(*_):
        raise Missing("nvcc is not on PATH")

    monkeypatch.setattr(cuda, "build", none)
    (tmp_path / "heat-2d.cubin").write_bytes(b"an older one")
    assert command("emit", "--stencil", "heat-2d", "-o", tmp_path, "--overwrite", "--json") == 0
    told = capsys.readouterr()
    assert told.err == "sparstencil: not compiled: nvcc is not on PATH\n"
    assert json.loads(told.out)["machine_code"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["heat-2d.cu", "heat-2d.json"]


def test_a_report_needs_a_disassembler_and_a_refusal_is_exit_1(tmp_path, capsys, monkeypatch):
    made = tmp_path / "made.cubin"
    made.write_bytes(b"code")

    def none(*_):
        raise Missing("cuobjdump is not on PATH")

    def refuses(*_):
        raise RuntimeError("nvcc -arch=sm_80: error")

    monkeypatch.setattr(cuda, "build", lambda *_: made)
    monkeypatch.setattr(cuda, "report", none)
    assert command("emit", "--stencil", "heat-2d", "-o", tmp_path / "a", "-q") == 0
    assert "registers are not known: cuobjdump" in capsys.readouterr().err
    monkeypatch.setattr(cuda, "build", refuses)
    assert command("emit", "--stencil", "heat-2d", "-o", tmp_path / "b", "-q") == 1
    assert "the compiler refuses the source: nvcc" in capsys.readouterr().err


@pytest.mark.parametrize("backend", ["cuda-sp", "cuda-tc", "cuda-core"])
def test_auto_is_the_back_ends_best_number_of_steps(backend, tmp_path, capsys, monkeypatch):
    def none(*_):
        raise Missing("no compiler")

    monkeypatch.setattr(cuda, "build", none)
    best = {"cuda-sp": 3, "cuda-tc": 2, "cuda-core": 4}[backend]
    rates = ((1, 5.0, 5.0, 5.0), (2, 8.0, 9.0, 8.0), (3, 9.0, 8.0, 8.5), (4, 8.0, 7.0, 9.0))
    rows = [dict(zip(("steps", "cuda-sp", "cuda-tc", "cuda-core"), row, strict=True)) for row in rates]
    monkeypatch.setattr(emit, "fusion", lambda *_: rows)
    assert command("emit", "--stencil", "heat-2d", "--fuse", "auto", "--backend", backend, "-o", tmp_path / "a", "--json") == 0  # fmt: skip
    assert json.loads(capsys.readouterr().out)["steps_a_pass"] == best
    # A kernel of several steps is not exact at an edge that is felt: auto is then one step, a number is refused.
    assert command("emit", "--stencil", "heat-2d", "--fuse", "auto", "--boundary", "fixed", "-o", tmp_path / "b", "--json") == 0  # fmt: skip
    assert json.loads(capsys.readouterr().out)["steps_a_pass"] == 1
    assert command("emit", "--stencil", "heat-2d", "--fuse", "2", "--boundary", "fixed", "-o", tmp_path / "c") == 2
    assert "exact for wrap and valid alone" in capsys.readouterr().err


def test_auto_of_a_wide_stencil_is_one_step():
    assert emit.fastest(named("box-3d343p"), "fast", "cuda-sp") == 1
    with pytest.raises(BadInput, match="--solver quad"):
        emit.run(named("heat-2d"), "none", False, True, tile=None, solver="quad", mode="tf32", backend="cuda-sp", boundary="wrap", fuse=1, arch="sm_80", overwrite=False)  # fmt: skip
