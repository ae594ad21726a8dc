"""Every reader of readers.py on documents made wrong: a few in each run of the suite, always the same, and all that was found before.

`make fuzz` does the same for as long as it is told. A reader may return, or raise BadInput, Missing or Busy; it has 5 seconds.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import mutate
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from readers import ALLOWED, READERS

HERE = Path(__file__).resolve().parent
FINDS = sorted((HERE / "finds").glob("*/*.bin"))
SLOW = {"gguf": 3, "seer-gates": 5, "answers-symbolic": 5, "server-reply": 10}  # examples, where one takes long
HANG = 5


class Hung(BaseException):
    """A reader that has not come to an end in time."""


@contextlib.contextmanager
def watched() -> Iterator[None]:
    def hung(*_: object) -> None:
        raise Hung

    before = signal.signal(signal.SIGPROF, hung)
    signal.setitimer(signal.ITIMER_PROF, HANG)  # of CPU: the machine may be busy
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def read(name: str, data: bytes) -> bool:
    """Whether the reader took it; what it may not raise goes through."""
    try:
        READERS[name].run(data)
    except ALLOWED:
        return False
    return True


@pytest.mark.parametrize("name", READERS)
def test_a_seed_is_read(name):
    """From documents that are refused as they are, mutations get nowhere."""
    taken = [read(name, seed) for seed in READERS[name].seeds()]
    assert all(taken) or (name in ("keychain-items", "gguf") and any(taken)), taken


@pytest.mark.parametrize("name", READERS)
def test_documents_made_wrong(name):
    reader = READERS[name]

    @settings(
        max_examples=SLOW.get(name, 25), derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.sampled_from(reader.seeds()), st.randoms(use_true_random=False))
    def run(seed: bytes, rng: random.Random) -> None:
        data = mutate.mutated(seed, reader.kind, rng)
        with watched():
            read(name, data)

    run()


@pytest.mark.parametrize("path", FINDS, ids=[f"{path.parent.name}-{path.stem}" for path in FINDS])
def test_what_was_found_stays_mended(path):
    with watched():
        read(path.parent.name, path.read_bytes())


def test_finds_belong_to_readers():
    assert {path.parent.name for path in FINDS} <= set(READERS)
    assert all(path.stat().st_size <= 1 << 16 for path in FINDS), "finds are kept small"


def test_a_reader_that_breaks_is_noticed(monkeypatch):
    """The three ways to be a find, so that a pass says something."""

    def broken(data: bytes) -> None:
        raise {b"k": KeyError, b"r": RecursionError, b"h": Hung}[data]

    monkeypatch.setitem(READERS, "records", READERS["records"]._replace(run=broken))
    for data, kind in ((b"k", KeyError), (b"r", RecursionError), (b"h", Hung)):
        with pytest.raises(kind), watched():
            read("records", data)

    def endless(data: bytes) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0.1)  # in place of the five seconds
        while True:
            pass

    monkeypatch.setitem(READERS, "records", READERS["records"]._replace(run=endless))
    with pytest.raises(Hung), watched():
        read("records", b"")


@pytest.mark.parametrize("kind", ["json", "text", "bytes", "safetensors"])
def test_mutations_repeat_and_differ(kind):
    seed = json.dumps({"a": [1, "x", None], "b": {"c": 0.5}}).encode()
    made = [mutate.mutated(seed, kind, random.Random(number)) for number in range(300)]
    assert made == [mutate.mutated(seed, kind, random.Random(number)) for number in range(300)]
    assert len(set(made)) > 200 and sum(one == seed for one in made) < 30


def test_mutations_of_json_reach_what_parsers_trip_over():
    seed = json.dumps({"id": "a", "n": 1, "list": [1, 2]}).encode()
    made = [mutate.mutated(seed, "json", random.Random(number)) for number in range(3000)]
    for piece in (b"NaN", b"\\ud800", b"[" * 3000, b"../..", b"\\u0000", b"9" * 400, b'{"a":1,"a":2}'):
        assert any(piece in one for one in made), piece
