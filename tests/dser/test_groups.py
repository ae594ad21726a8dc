"""Steps grouped beyond memory: the same as a dictionary of lists, in memory that the number of steps does not change."""

import os
import tracemalloc

import msgspec
import pytest
from dser_command import dser, sim, tasks, write
from hypothesis import given
from hypothesis import strategies as st

from dser.groups import Groups
from dser.log import read_log
from tenfold_shared import Missing


class Item(msgspec.Struct):
    value: int


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(-(2**63), 2**63 - 1)), max_size=200), st.integers(1, 30)
)
def test_groups_are_those_of_a_dictionary(pairs, held):
    groups, plain = Groups(Item, held), {}
    for name, value in pairs:
        assert groups.add(name, Item(value)) == (name not in plain)
        plain.setdefault(name, []).append(value)
    assert [(name, [item.value for item in items]) for name, items in groups] == list(plain.items())


def peak(count):
    """Bytes at most, of `count` steps of 100 problems, all interleaved."""
    tracemalloc.start()
    groups = Groups(Item, held=1000)
    for step in range(count):
        groups.add(str(step % 100), Item(step))
    read = sum(len(items) for _, items in groups)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert read == count
    return most


def test_memory_does_not_grow_with_the_steps():
    assert peak(100_000) < 1.5 * peak(10_000)


def test_a_full_temporary_folder_is_told(tmp_path, monkeypatch):
    groups = Groups(Item, held=2)
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: open("/dev/full", "w+b", buffering=0))
    groups.add("a", Item(1))
    with pytest.raises(Missing, match="TMPDIR"):
        groups.add("a", Item(2))


def test_a_log_is_read_alike_however_little_is_held(tmp_path, monkeypatch):
    given = write(tmp_path / "t.jsonl", tasks(7))
    done = dser(
        "solve", given, "--model", sim(tmp_path / "s.json", p_ic=0.3, p_ci=0.1), "--chains", 4, "--iterations", 3, "-o",
        tmp_path / "run", "-q",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    def seen():
        return [
            (p.name, p.model, p.counts, p.generated, [(k, c.cells, c.verdicts, c.ended) for k, c in p.chains.items()])
            for p in read_log(str(tmp_path / "run"))
        ]

    whole = seen()
    assert len(whole) == 7
    before = set(os.listdir(tmp_path))
    monkeypatch.setattr(Groups.__init__, "__defaults__", (5,))
    assert seen() == whole and set(os.listdir(tmp_path)) == before
