"""The instruction: fragments, metadata, legality, and a known test vector."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparstencil.mma import FORMS, UNDEFINED, a_fragment, compress, decoded, execute, packed, rounded, words

ALL = [(form, selector) for form in FORMS.values() for selector in range(form.selectors)]


def b_fragment(b, form):
    """Registers (…, 32, b_registers) of B (…, K, 8)."""
    row, column = form.b_places()
    return packed(b[..., row, column], form.kind)


def sparse(form, draw, values=(1, 8)):
    a = np.zeros((16, form.k))
    for row in range(16):
        for at in range(0, form.k, form.group):
            places = draw.permutation(form.group)[: draw.integers(0, form.kept + 1)]
            a[row, at + places] = draw.integers(*values, len(places))
    return a


@pytest.mark.parametrize(("form", "selector"), ALL, ids=lambda x: str(getattr(x, "ptx", x)).split("row")[0][-20:])
def test_an_instruction_is_the_product(form, selector):
    """Whole numbers: exact. Lane 4 g + t has rows g and g + 8, columns 2 t and 2 t + 1 of D."""
    draw = np.random.default_rng(form.k + selector)
    for _ in range(20):
        a, b = sparse(form, draw), draw.integers(-8, 9, (3, form.k, 8)).astype(float)
        c = draw.integers(-9, 10, (3, 32, 4)).astype(np.float32)
        stored, nibbles = compress(a, form)
        meta = words(nibbles, form, selector)
        registers = a_fragment(stored, form)
        assert np.array_equal(decoded(registers, meta, selector, form), a)
        out = execute(registers, b_fragment(b, form), c, meta, selector, form)
        truth = a @ b
        for lane in range(32):
            g, t = divmod(lane, 4)
            for at, (row, column) in enumerate(((g, 2 * t), (g, 2 * t + 1), (g + 8, 2 * t), (g + 8, 2 * t + 1))):
                assert np.array_equal(out[:, lane, at], truth[:, row, column] + c[:, lane, at])


def test_the_references_words():
    """A 7 × 7 box on a tile (8, 2), m = o1 · 2 + o2, quads (i, c), (i, c + 1), (i + 7, c), (i + 7, c + 1), the first 32 of
    K: lanes 0, 1 are 8eee4444, lanes 4, 5 eeec4444, lane 28 eeeceeec."""
    quads = [(i, c) for i in range(7) for c in (0, 2, 4, 6)]
    a = np.zeros((16, 112))
    for o1 in range(8):
        for o2 in range(2):
            for q, (i, c) in enumerate(quads):
                for j, (y, x) in enumerate(((i, c), (i, c + 1), (i + 7, c), (i + 7, c + 1))):
                    if o1 <= y < o1 + 7 and o2 <= x < o2 + 7:
                        a[o1 * 2 + o2, 4 * q + j] = 1.0
    form = FORMS["f16", 32]
    meta = words(compress(a[:, :32], form)[1], form, 0)
    assert [f"{meta[lane]:08x}" for lane in (0, 1, 4, 5, 28)] == [
        "8eee4444",
        "8eee4444",
        "eeec4444",
        "eeec4444",
        "eeeceeec",
    ]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(list(FORMS.values())))
def test_nibbles_are_legal_and_nothing_is_lost(seed, form):
    a = sparse(form, np.random.default_rng(seed))
    stored, nibbles = compress(a, form)
    legal = {0x4, 0xE} if form.group == 2 else {0x4, 0x8, 0x9, 0xC, 0xD, 0xE}
    assert set(np.unique(nibbles)) <= legal and not legal & set(UNDEFINED)
    assert np.count_nonzero(stored) == np.count_nonzero(a)


def test_too_many_entries_and_undefined_metadata_are_refused():
    form = FORMS["f16", 16]
    with pytest.raises(ValueError, match="row 0 has 3 entries in group 0"):
        compress(np.pad(np.ones((1, 3)), ((0, 15), (0, 13))), form)
    stored, nibbles = compress(np.eye(16), form)
    meta = words(nibbles, form, 0)
    meta[0] |= 0xF
    with pytest.raises(ValueError, match="undefined"):
        decoded(a_fragment(stored, form), meta, 0, form)


def test_every_metadata_bit_counts():
    """Any bit of any word of a full matrix, turned over, changes A or is refused: none is ignored."""
    form = FORMS["f16", 32]
    draw = np.random.default_rng(0)
    a = np.zeros((16, 32))
    for row in range(16):
        for at in range(0, 32, 4):
            a[row, at + np.sort(draw.permutation(4)[:2])] = draw.integers(1, 9, 2)
    stored, nibbles = compress(a, form)
    registers, meta = a_fragment(stored, form), words(nibbles, form, 1)
    held = [lane for lane in range(32) if lane % 4 >= 2]
    for lane in held:
        for bit in range(32):
            wrong = meta.copy()
            wrong[lane] ^= np.uint32(1 << bit)
            try:
                assert not np.array_equal(decoded(registers, wrong, 1, form), a)
            except ValueError:
                pass


def test_rounding_is_to_nearest_even():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal(2000).astype(np.float32) * np.float32(10.0) ** np.arange(
        -10, 10
    ).repeat(100)
    assert np.array_equal(rounded(x, "bf16"), torch.from_numpy(x).bfloat16().float().numpy())
    assert np.array_equal(
        rounded(x[np.abs(x) < 6e4], "f16"), torch.from_numpy(x[np.abs(x) < 6e4]).half().float().numpy()
    )
    tf32 = rounded(x, "tf32")
    assert (tf32.view(np.uint32) & 0x1FFF == 0).all() and (np.abs(tf32 - x) <= np.abs(x) * 2.0**-11).all()
    assert rounded(np.float32([1 + 2**-11, 1 + 3 * 2**-11]), "tf32").tolist() == [1.0, 1 + 2**-9]
    for kind, value in (("f16", 7e4), ("s8", 128.0)):
        with pytest.raises(OverflowError):
            rounded(np.float32([value]), kind)
