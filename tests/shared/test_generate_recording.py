"""--record and replay: against recordings cut anywhere and against a backend that counts what it is asked."""

import json
import os
import subprocess
import sys
from contextlib import closing

import msgspec
import pytest
import torch
from generate_requests import by_key
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold_shared import BadInput, Busy, Missing
from tenfold_shared.generate import Completion, Request, Sampling
from tenfold_shared.generate.recording import Recorder, ReplayGenerator

torch.set_num_threads(1)


# ------------------------------------------------------------------ servers


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


# ------------------------------------------------------------------ record and replay


class Echo:
    """A backend that answers in reverse order and fails where the prompt says so."""

    model, batch_size, context = "echo", 4, None

    def __init__(self):
        self.closed = False

    def count_tokens(self, request):
        return 42

    def close(self):
        self.closed = True

    def generate(self, requests, sampling):
        for request in reversed(list(requests)):
            said = f"{request.prompt or request.messages or request.prompt_ids}/{request.seed}/{sampling.temperature}"
            if request.prompt == "fail":
                yield Completion(request.key, "", "error", 0, 0, "echo", error="no")
            else:
                yield Completion(request.key, said, "stop", 1, 2, "echo", "why ünï", None, [1], [-0.5])


PROMPTS = [
    Request("a", prompt="what is one plus two?", seed=1),
    Request("b", messages=[{"role": "user", "content": "name a colour 你"}], seed=2),
    Request("c", prompt_ids=[1, 2, 3], seed=3),
]


def record(path, requests=PROMPTS):
    recorder = Recorder(Echo(), str(path))
    got = list(recorder.generate(requests, Sampling()))
    recorder.close()
    return got


def test_recorded_completions_come_back_whole_in_the_order_asked(tmp_path):
    path = tmp_path / "r"
    made = by_key(record(path))
    replay = ReplayGenerator(str(path))
    assert list(replay.generate(PROMPTS, Sampling())) == [made["a"], made["b"], made["c"]]
    # Another key for the same request; whole numbers for the same temperature; a generator as source.
    renamed = (msgspec.structs.replace(r, key=r.key * 2) for r in PROMPTS[::-1])
    again = list(replay.generate(renamed, Sampling(temperature=1, top_p=1)))
    assert [(c.key, c.text) for c in again] == [("cc", made["c"].text), ("bb", made["b"].text), ("aa", made["a"].text)]
    replay.close()


def test_a_recorder_is_the_backend_it_wraps(tmp_path):
    inner = Echo()
    recorder = Recorder(inner, str(tmp_path / "r"))
    assert (recorder.model, recorder.batch_size, recorder.count_tokens(PROMPTS[0])) == ("echo", 4, 42)
    with closing(recorder.generate(PROMPTS, Sampling())) as run:
        assert next(run).key == "c"
    # What was handed out is on disk at once, and only that.
    assert [json.loads(line)["completion"]["key"] for line in open(tmp_path / "r")] == ["c"]
    recorder.close()
    assert inner.closed


def test_failures_are_not_recorded(tmp_path):
    requests = [Request("x", prompt="fail"), PROMPTS[0]]
    assert [c.finish_reason for c in record(tmp_path / "r", requests)] == ["stop", "error"]
    assert len((tmp_path / "r").read_bytes().splitlines()) == 1
    with pytest.raises(Missing, match="x: not recorded"):
        list(ReplayGenerator(str(tmp_path / "r")).generate(requests[:1], Sampling()))


def test_the_last_recording_of_a_request_holds(tmp_path):
    path = tmp_path / "r"
    record(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines) + b"".join(line.replace(b"why", b"new") for line in lines))
    assert {c.reasoning for c in ReplayGenerator(str(path)).generate(PROMPTS, Sampling())} == {"new ünï"}


@given(cut=st.integers(0, 1200))
@settings(max_examples=40, deadline=None)
def test_a_recording_cut_anywhere_keeps_its_whole_lines_and_goes_on(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("r") / "r"
    record(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    survived = whole[:cut].count(b"\n")
    order = PROMPTS[::-1]
    replay = ReplayGenerator(str(path))
    assert len(list(replay.generate(order[:survived], Sampling()))) == survived
    replay.close()
    record(path, order[survived:])
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_a_second_recorder_is_refused_and_a_dead_one_is_not(tmp_path):
    path = str(tmp_path / "r")
    script = (
        "import sys, time; from tenfold_shared.generate.recording import Recorder\n"
        "class Inner: model, batch_size, context = 'm', None, None\n"
        "Recorder(Inner(), sys.argv[1]); r = Recorder(Inner(), sys.argv[1]); print('held', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE)
    try:
        assert owner.stdout.readline() == b"held\n"
        with pytest.raises(Busy, match="another run is recording"):
            Recorder(Echo(), path)
    finally:
        owner.kill()
        owner.wait()
    Recorder(Echo(), path).close()


def test_where_nothing_can_be_recorded_or_read(tmp_path):
    for path in (tmp_path, tmp_path / "no" / "r", "/dev/stdin", "/dev/full"):
        with pytest.raises(BadInput, match="--record"):
            Recorder(Echo(), str(path))
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(BadInput, match=r"no such file|is a directory"):
            ReplayGenerator(str(path))
    (tmp_path / "other").write_text('{"id": "a", "prompt": "p"}\n')
    with pytest.raises(BadInput, match=r"other:1: expected a completion written by --record"):
        ReplayGenerator(str(tmp_path / "other"))
    (tmp_path / "binary").write_bytes(b"\xff\x00\n")
    with pytest.raises(BadInput, match="binary:1: "):
        ReplayGenerator(str(tmp_path / "binary"))


@pytest.mark.parametrize(
    ("request_", "how", "text"),
    [
        (
            Request("n", prompt="what is one plus two?", seed=9),
            {},
            "the same prompt is recorded as a with seed 1 (asked 9)",
        ),
        (
            PROMPTS[0],
            {"temperature": 0.5, "stop": ("x",)},
            "recorded as a with temperature 1.0 (asked 0.5), stop [] (asked ['x'])",
        ),
        (Request("n", prompt="what is one plus four?"), {}, "the nearest prompt is a: what is one plus two?"),
        (
            Request("n", messages=[{"role": "user", "content": "name a color"}]),
            {},
            "the nearest prompt is b: user: name",
        ),
        (Request("n", prompt="user: name a colour 你", seed=2), {}, "recorded as b with its prompt in other fields"),
    ],
)
def test_what_was_not_recorded_names_the_nearest_and_what_differs(tmp_path, request_, how, text):
    record(tmp_path / "r")
    replay = ReplayGenerator(str(tmp_path / "r"))
    with pytest.raises(Missing) as caught:
        list(replay.generate([request_], Sampling(**how)))
    assert f"{request_.key}: not recorded; " in str(caught.value) and text in str(caught.value)
    # It can go on after a miss.
    assert len(list(replay.generate(PROMPTS, Sampling()))) == 3


def test_a_recording_that_cannot_be_written_ends_the_run_in_words(tmp_path):
    recorder = Recorder(Echo(), str(tmp_path / "r"))
    full = os.open("/dev/full", os.O_WRONLY)  # takes no byte, as a full disk
    os.dup2(full, recorder._file.fileno())
    os.close(full)
    with pytest.raises(Missing, match=r"--record .*: cannot be written: No space left"):
        list(recorder.generate(PROMPTS, Sampling()))
    recorder.close()


def test_an_empty_recording_says_so(tmp_path):
    (tmp_path / "r").write_bytes(b"")
    with pytest.raises(Missing, match="the recording is empty"):
        list(ReplayGenerator(str(tmp_path / "r")).generate(PROMPTS, Sampling()))
