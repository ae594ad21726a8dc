"""The fused scan and top-k: ties, scores that are not finite, queries of any size, levels of merging, refusals."""

import numpy as np
import pytest
import torch

from tenfold_kernels import device
from tenfold_kernels.cases.zerorepo import make_scan, scan_error, scan_oracle
from tenfold_kernels.registry import Case
from tenfold_shared import BadInput, Missing
from tenfold_shared.launch import scan_topk as launcher
from tenfold_shared.launch.scan_topk import scan_topk

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered")  # of NaN and infinities, on purpose


@pytest.fixture(autouse=True)
def poisoned():
    """Memory that nobody wrote is full of NaN, or of the largest integer."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


SHAPE = {"B": 3, "N": 300, "d": 48, "k": 9}


def arguments(dtype="float32", **changes):
    return make_scan(Case("", dtype, SHAPE | changes), "cpu")


def told(values, k, dtype=torch.float32):
    """Rows and scores where the scores are VALUES."""
    e = torch.zeros(len(values), 16, dtype=dtype)
    e[:, 3] = torch.tensor(values, dtype=dtype)
    q = torch.zeros(1, 16, dtype=dtype)
    q[0, 3] = 1.0
    scores, rows = scan_topk(q, e, k=k)
    return rows[0].tolist(), scores[0].tolist()


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("values", "k", "rows", "scores"),
    [
        ([1.0, 2.0, 2.0, 2.0], 2, [1, 2], [2.0, 2.0]),
        ([-1.0, -2.0, -0.5, -3.0], 3, [2, 0, 1], [-0.5, -1.0, -2.0]),
        ([0.0, -0.0, 0.0, -0.0], 4, [0, 1, 2, 3], [0.0] * 4),
        ([-0.0, 1e-38, 0.0, -1e-38], 4, [1, 0, 2, 3], [1e-38, 0.0, 0.0, -1e-38]),
        ([NAN, -5.0, NAN, 1.0], 4, [3, 1, 0, 2], [1.0, -5.0, -INF, -INF]),
        ([INF, -5.0, -INF, 1.0], 4, [3, 1, 0, 2], [1.0, -5.0, -INF, -INF]),
        ([NAN] * 40, 3, [0, 1, 2], [-INF] * 3),
        ([1.0, 1.0000001, 0.9999999, 1.0], 3, [1, 0, 3], [1.0000001, 1.0, 1.0]),
        ([-1.0 - n for n in range(20)], 1, [0], [-1.0]),
        ([NAN, *[0.0] * 19, 1.0, *[0.0] * 19, INF], 1, [20], [1.0]),
        ([3e38, -3e38, 1e-37, 0.0], 4, [0, 2, 3, 1], [3e38, 1e-37, 0.0, -3e38]),
    ],
)
def test_order_of_scores(interpreted, values, k, rows, scores):
    found, given = told(values, k)
    assert found == rows
    assert given == pytest.approx(scores, rel=1e-6, abs=0)
    assert not any(str(value) == "-0.0" for value in given)


def test_the_best_rows_may_share_a_group_or_have_one_each(interpreted):
    """The k first rows are in at most k groups, wherever they are."""
    for rows in (range(100, 109), range(3, 300, 33), [0, 1, 15, 16, 31, 32, 298, 299]):
        values = [0.0] * 300
        for place, row in enumerate(rows):
            values[row] = 10.0 + (place * 7) % 5
        expected = sorted(rows, key=lambda row: (-values[row], row))
        assert told(values, len(expected))[0] == expected


def test_a_tie_at_the_edge_goes_to_the_lower_rows_of_any_group(interpreted):
    values = [1.0] * 290
    values[200] = values[17] = 2.0
    assert told(values, 128)[0] == [17, 200, *(row for row in range(127) if row != 17)]


@pytest.mark.parametrize(("chunk", "levels"), [(128, 3), (256, 2)])
def test_levels_of_merging_give_what_one_does(interpreted, monkeypatch, chunk, levels):
    """1,875 groups, 40 kept of each chunk, by steps until one is left; many scores are equal."""
    given = arguments("float16", B=1, N=30_000, d=16, whole=True, k=40)
    whole = scan_topk(**given)
    monkeypatch.setattr(launcher, "CHUNK", chunk)
    with device.recording() as launches:
        scan_topk(**given)
    assert [one.function for one in launches].count("merge_keys") == levels
    for one, other in zip(scan_topk(**given), whole, strict=True):
        assert torch.equal(one, other)
    assert scan_error(whole[1], scan_oracle(given)[1]) == 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("size", [1e-37, 1e-20, 1.0, 1e5, 1e30])
def test_float32_queries_of_any_size(interpreted, dtype, size):
    """Of rows (s, -s, -s) the first number's last bits alone decide, 20 below its first: no part may be lost."""
    s = torch.full((256,), 2.0**-6)
    best = {200: 1.0, 77: 0.5, 130: 0.25}
    for row, value in best.items():
        s[row] = value
    e = torch.zeros(256, 32)
    e[:, 0], e[:, 1], e[:, 31] = s, -s, -s
    q = torch.zeros(2, 32)
    q[:, 0], q[:, 1], q[:, 31] = 1 + 2**-9 + 2**-20, 1.0, 2**-9
    q[1] *= 2.0**10
    exponent = int(np.log2(size))
    scores, rows = scan_topk(q * 2.0**exponent, e.to(getattr(torch, dtype)), k=3)
    assert rows.tolist() == [list(best)] * 2
    truth = torch.tensor([list(best.values())] * 2).double() * 2.0 ** (exponent - 20)
    truth[1] *= 2.0**10
    assert torch.equal(scores.double(), truth)


def test_a_query_that_is_not_finite_finds_the_first_rows(interpreted):
    for dtype, q_dtype in (
        ("float32", "float32"),
        ("float16", "float16"),
        ("float16", "float32"),
        ("bfloat16", "float32"),
    ):
        given = arguments(dtype, q=q_dtype)
        clean = scan_topk(**given)
        given["q"][0, 5], given["q"][2, 0] = NAN, INF
        scores, rows = scan_topk(**given)
        for b in (0, 2):
            assert rows[b].tolist() == list(range(9))
            assert scores[b].tolist() == [-INF] * 9
        assert torch.equal(rows[1], clean[1][1])
        assert torch.equal(scores[1], clean[0][1])


def test_scores_do_not_depend_on_neighbours(interpreted):
    given = arguments("float16", B=20, k=5)
    scores, rows = scan_topk(**given)
    for b in (0, 7, 19):
        alone = scan_topk(**(given | {"q": given["q"][b : b + 1]}))
        assert torch.equal(alone[0][0], scores[b])
        assert torch.equal(alone[1][0], rows[b])


def test_more_rows_may_only_push_others_down(interpreted):
    """Where e grows, what was found stays in its order."""
    given = arguments("float16", k=30)
    rows = scan_topk(**given)[1]
    few = scan_topk(**(given | {"e": given["e"][:150]}))
    for b in range(3):
        kept = [row for row in rows[b].tolist() if row < 150]
        assert few[1][b].tolist()[: len(kept)] == kept


def test_rows_of_any_stride(interpreted):
    given = arguments("float16")
    turned = given["e"].T.contiguous().T
    wide = torch.full((300, 100), NAN, dtype=torch.float16)
    wide[:, 20:68] = given["e"]
    assert turned.stride(1) != 1
    for e in (turned, wide[:, 20:68]):
        for one, other in zip(scan_topk(**(given | {"e": e})), scan_topk(**given), strict=True):
            assert torch.equal(one, other)


def test_no_query(interpreted):
    scores, rows = scan_topk(**arguments(B=0))
    assert scores.shape == rows.shape == (0, 9)


def test_random_shapes(interpreted):
    draw = np.random.default_rng(0)
    for _ in range(12):
        n, d, b = (int(draw.integers(1, most)) for most in (400, 200, 9))
        dtype = ["float16", "bfloat16", "float32"][int(draw.integers(3))]
        k = int(draw.integers(1, min(128, n) + 1))
        given = arguments(dtype, B=b, N=n, d=d, k=k, whole=True, q=["float32", dtype][int(draw.integers(2))])
        scores, rows = scan_topk(**given)
        truth = scan_oracle(given)
        assert torch.equal(rows, truth[1].long()), (dtype, given["q"].dtype, n, d, b, k)
        assert torch.equal(scores.double(), truth[0])


def test_cpu_tensors_go_to_the_fallback(compiled):
    given = arguments()
    seen = {}

    def fallback(q, e, k):
        seen.update(q=q, e=e, k=k)
        return scan_oracle(given)

    assert scan_topk(**given, fallback=fallback)[0].dtype == torch.float64
    assert seen["q"] is given["q"]
    assert seen["e"] is given["e"]
    assert seen["k"] == 9
    with pytest.raises(Missing, match="GPU"):
        scan_topk(**given)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k": 301, "e": torch.zeros(300, 48)}, r"1 to 128 \(N=300\), got 301"),
        ({"k": 8, "e": torch.zeros(7, 48)}, r"1 to 7 \(N=7\), got 8"),
        ({"k": 0}, "got 0"),
        ({"e": torch.zeros(0, 48)}, "one row or more, got N=0"),
        ({"e": torch.zeros(5, 47)}, r"d=48\), got \(5, 47\)"),
        ({"e": torch.zeros(5, 48, dtype=torch.int32)}, "got int32"),
        ({"q": torch.zeros(48)}, r"got \(48,\)"),
        ({"q": torch.zeros(1, 1025), "e": torch.zeros(9, 1025)}, "1 to 1024, got d=1025"),
    ],
)
def test_refusals_name_both_values(interpreted, changes, words):
    with pytest.raises(BadInput, match=words):
        scan_topk(**(arguments() | changes))
