"""The offline compile report: one case a kernel each time, all of them under `deep`; and its comparison.

Compiles need Triton, for CUDA sources nvcc; without them these tests are skipped with that reason.
"""

import pytest

from tenfold_kernels import report
from tenfold_kernels.registry import kernels

KERNELS = kernels()
WITHOUT_TENSOR_CORES = ("merge_parts", "vq_decode_tables", "combine", "list_blocks", "gate_select", "split_queries")
WITHOUT_TENSOR_CORES += ("top_groups", "merge_keys", "score_groups", "write_top")


def compared(kernel, case, architectures):
    baseline = report.read_baseline()
    if other := report.other_compiler(kernel, baseline):
        pytest.skip(other)
    try:
        found = list(report.compile_case(kernel, case, architectures))
    except report.CompilerMissing as error:
        pytest.skip(str(error))
    assert found
    return [line for name, now in found for line in report.regressions(name, now, baseline["rows"].get(name))]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_first_case_is_no_worse_than_the_baseline(compiled, kernel):
    assert compared(kernel, kernel.builds[0], [90]) == []


@pytest.mark.deep
def test_no_case_is_worse_than_the_baseline(compiled, capsys):
    assert report.main([]) == 0, capsys.readouterr().err


def test_baseline_has_no_spills_but_where_it_says_so():
    """float32 with D 128 is for checks: exact products of that size keep no tile in registers."""
    rows = report.read_baseline()["rows"]
    assert {name.split(" / ")[1] for name, row in rows.items() if row["spills"]} <= {"bound, D 128, float32"}
    assert all(row["shared"] <= 228 * 1024 for row in rows.values())


def test_16_bit_products_use_tensor_cores_and_wide_loads():
    rows = report.read_baseline()["rows"]
    for name, row in rows.items():
        function = name.split(" / ")[2]
        if "float32" in name or function in WITHOUT_TENSOR_CORES:
            continue
        assert {"HMMA", "HGMMA"} & set(row["instructions"]), name
        if function == "vq_part" and "4 bits" not in name:  # centroids of 4 bytes are read so
            assert {"LDG.128", "LDGSTS.128"} & set(row["instructions"]), name


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"registers": 110}, None),
        ({"registers": 111}, "111 registers, were 100"),
        ({"shared": 1200}, "1200 shared, were 1000"),
        ({"spills": 1}, "1 spill instructions, were 0"),
        ({"instructions": {"HMMA": 1}}, "no LDG.128 instruction any more, were 2"),
        ({"instructions": {"HMMA": 1, "LDG.128": 1}}, None),
    ],
)
def test_regressions(changes, words):
    before = {"registers": 100, "shared": 1000, "spills": 0, "instructions": {"HMMA": 4, "LDG.128": 2}}
    worse = report.regressions("a row", report.Compiled(**(before | changes)), before)
    assert (worse == []) if words is None else (len(worse) == 1 and words in worse[0])


def test_a_row_without_baseline_is_told():
    assert "--write" in report.regressions("a row", report.Compiled(1, 1, 0), None)[0]


def test_missing_compiler_is_exit_3(monkeypatch, capsys):
    monkeypatch.setattr(report.shutil, "which", lambda name: None)
    assert report.main(["--kernel", "vq_decode_tables"]) == 3
    assert "CUDA toolkit" in capsys.readouterr().err
