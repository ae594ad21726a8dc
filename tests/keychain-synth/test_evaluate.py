"""`eval`: scripted responders with known scores, grids computed anew, the picture, marks in responses."""

import json
import re

import pytest
from commandline import LoopbackModel
from rows import keychain, read, write

from keychain_synth import evaluate, needle, patterns, plot
from tenfold_shared import BadInput
from tenfold_shared.cli import Backend, Selection
from tenfold_shared.generate import Sampling

NEEDLE = re.compile(r"secret \w+ of (\S+) is: (\S+)\.")
ASKED = re.compile(r" of (\S+) in the text above\?")
LENGTHS, DEPTHS = (400, 600), (0, 50, 100)


def run(rows, output, *model, selection=None, at_once=4, **more):
    """The verb in this process; at_once: requests in flight, and the static batch."""
    settings = {"rule": None, "require_think": None, "samples": 1, "seed": 0, "patterns": False, "plot": None,
                "overwrite": False, "budget_tokens": None, "max_time": None, "dry_run": False, "as_json": True,
                "quiet": True}  # fmt: skip
    backend = Backend(model=model, batch_size=at_once, concurrency=at_once, device="cpu", dtype="auto", engine=(),
                      api_key_env="NONE", timeout=20.0, max_retries=0, trust_remote_code=False,
                      record=None)  # fmt: skip
    return evaluate.run([str(rows)], backend, selection or Selection(None, None, None, 0),
                        Sampling(temperature=0.6, top_p=0.95, max_tokens=8),
                        output=str(output) if output else None, **{**settings, **more})  # fmt: skip


def needles(path, kind="single", lengths=LENGTHS, **more):
    numbers = {name: more.pop(name, None) for name in ("keys", "values", "queries", "hops")}
    needle.run(needle.settings(kind, **numbers), tokenizer="smollm2", lengths=lengths,
               depths=",".join(map(str, DEPTHS)), haystack="noise", per_depth=1, output=str(path), overwrite=True, max_time=None, quiet=True)  # fmt: skip
    return path


def values_asked(body):
    """What a perfect reader of the prompt finds."""
    text = body["messages"][-1]["content"]
    key = ASKED.search(text)[1]
    return [value for other, value in NEEDLE.findall(text) if other == key]


def summary_of(capsys):
    return json.loads(capsys.readouterr().out)


# ---------------------------------------------------------------- responders


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        (lambda body: f"They are {' and '.join(values_asked(body))}.", 1.0),
        (lambda body: "", 0.0),
        (lambda body: " ".join(values_asked(body)[:2]), 0.5),
        (lambda body: f"<think>{' '.join(values_asked(body))}</think>I do not know.", 0.0),
    ],
    ids=["perfect", "empty", "half", "only thought of"],
)
def test_known_responders(tmp_path, capsys, reply, score):
    rows = needles(tmp_path / "rows.jsonl", kind="multivalue", values=4)
    with LoopbackModel(reply=reply) as model:
        assert run(rows, tmp_path / "out.jsonl", model.uri, samples=2) == 0
    result = summary_of(capsys)
    assert result["rows"] == 6 and result["samples"] == 12 and result["errors"] == 0 and result["mean"] == score
    assert result["grids"] == [
        {
            "kind": "multivalue",
            "axis": "depth",
            "lengths": list(LENGTHS),
            "levels": list(DEPTHS),
            "mean": [[score] * 2] * 3,
            "n": [[2] * 2] * 3,
            "errors": [[0] * 2] * 3,
        }
    ]
    written = read(tmp_path / "out.jsonl")
    assert [record["id"] for record in written] == [row["id"] for row in read(rows) for _ in range(2)]
    assert {record["schema"] for record in written} == {"verdict/1"}
    assert [record["sample"] for record in written] == [0, 1] * 6
    assert {record["reward"] for record in written} == {score}


def test_sampling_and_seeds_reach_the_model(tmp_path, capsys):
    rows = needles(tmp_path / "rows.jsonl", lengths=(400,))
    with LoopbackModel() as model:
        run(rows, tmp_path / "out.jsonl", model.uri, samples=2)
        assert {(body["temperature"], body["top_p"], body["max_tokens"]) for body in model.bodies} == {(0.6, 0.95, 8)}
        assert len({body["seed"] for body in model.bodies}) == len(model.bodies) == 6


def test_a_cell_is_the_mean_of_its_samples(tmp_path, capsys):
    """One depth fails, one length fails in part; expected values are counted here from the records."""
    rows = needles(tmp_path / "rows.jsonl")
    by_answer = {row["answer"][0]: row["meta"] for row in read(rows)}

    def reply(body):
        [value] = values_asked(body)
        meta = by_answer[value]
        fails = meta["depth"] == 50 or (meta["length"] == 600 and body["seed"] % 2)
        return "no idea" if fails else value

    with LoopbackModel(reply=reply) as model:
        assert run(rows, tmp_path / "out.jsonl", model.uri, samples=8) == 0
    [grid] = summary_of(capsys)["grids"]
    records = read(tmp_path / "out.jsonl")
    for row, depth in enumerate(DEPTHS):
        for column, length in enumerate(LENGTHS):
            cell = [r for r in records if (r["meta"]["length"], r["meta"]["depth"]) == (length, depth)]
            mine = [record["response"] == record["answer"][0] for record in cell]
            assert grid["mean"][row][column] == sum(mine) / 8 and grid["n"][row][column] == 8
    assert [row[0] for row in grid["mean"]] == [1.0, 0.0, 1.0] and 0 < grid["mean"][0][1] < 1


def test_rows_too_long_are_errors_and_in_no_mean(tmp_path, capsys):
    """The embedded model takes 8,192 tokens."""
    pytest.importorskip("torch")
    rows = needles(tmp_path / "rows.jsonl", lengths=(300, 9000))
    kept = write(tmp_path / "two.jsonl", [row for row in read(rows) if row["meta"]["depth"] == 0])
    assert run(kept, tmp_path / "out.jsonl", "smollm2", plot=str(tmp_path / "heat.png")) == 1
    result = summary_of(capsys)
    assert (result["samples"], result["errors"], result["model"]) == (1, 1, "smollm2")
    [grid] = result["grids"]
    assert grid["mean"][0][1] is None and grid["errors"] == [[0, 1]] and grid["n"] == [[1, 0]]
    short, long = read(tmp_path / "out.jsonl")
    assert "reward" in short and "reward" not in long and long["schema"] == "verdict/1"
    assert "exceed the model's context of 8192" in long["error"]
    assert (tmp_path / "heat.png").stat().st_size > 10_000
    # What came out is samples: they can be looked at again without a model, and the error stays one.
    assert run(tmp_path / "out.jsonl", None) == 1
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["errors"] == 1


def test_a_row_without_an_answer_is_an_error_and_no_call(tmp_path, capsys):
    rows = write(tmp_path / "rows.jsonl", [{"id": "a", "prompt": "x", "answer": "1"}, {"id": "b", "prompt": "x"}])
    with LoopbackModel(reply=lambda body: "\\boxed{1}") as model:
        assert run(rows, tmp_path / "out.jsonl", model.uri) == 1
        assert len(model.bodies) == 1
    good, bad = read(tmp_path / "out.jsonl")
    assert good["reward"] == 1 and bad["error"] == "no gold answer" and "reward" not in bad


# ---------------------------------------------------------------- samples, rewards


def sample(at=0, response="", answer="Paris", meta=None, **more):
    return {
        "id": f"r{at}",
        "prompt": "Where?",
        "answer": answer,
        "meta": meta or {},
        "sample": 0,
        "response": response,
    } | more


CHAINS = [
    sample(at, f"So \\boxed{{{said}}}", meta={"length": length, "hops": hops})
    for at, (said, length, hops) in enumerate(
        [("Paris", 8192, 0), ("Rome", 8192, 0), ("Paris", 8192, 4), ("Rome", 16384, 4), ("Rome", 16384, 4)]
    )
]


def test_samples_are_scored_without_a_model_by_length_and_hops(tmp_path, capsys):
    rows = write(tmp_path / "rows.jsonl", CHAINS)
    assert run(rows, tmp_path / "out.jsonl") == 0
    [grid] = summary_of(capsys)["grids"]
    assert (grid["kind"], grid["axis"], grid["lengths"], grid["levels"]) == ("synth", "hops", [8192, 16384], [0, 4])
    assert grid["mean"] == [[0.5, None], [1.0, 0.0]] and grid["n"] == [[2, 0], [1, 2]]
    assert [record["reward"] for record in read(tmp_path / "out.jsonl")] == [1, 0, 1, 0, 0]


NEEDLE_META = {"needles": [], "match": "all"}


@pytest.mark.parametrize(
    ("record", "rule", "think", "reward"),
    [
        (sample(response="12 and 13", answer=["12", "13", "14", "15"], meta=NEEDLE_META), None, None, 0.5),
        (sample(response="A-B", answer=["a-b"], meta=NEEDLE_META), None, None, 1.0),
        (sample(response="12", answer=["12", "13"], meta={"needles": []}), None, None, 1.0),
        (sample(response="\\boxed{12}", answer=["12", "13"], meta=NEEDLE_META), "two-way", None, 0.0),
        (sample(response="\\boxed{12, 13}", answer=["12", "13"], meta=NEEDLE_META), "two-way", None, 1.0),
        (sample(response="Paris"), None, None, 0.0),
        (sample(response="Paris"), "ruler", None, 1.0),
        (sample(response="\\boxed{the city of Paris}"), None, None, 1.0),
        (sample(response="\\boxed{the city of Paris}"), "exact", None, 0.0),
        (sample(response="\\boxed{Paris}"), None, True, 0.0),
        (sample(response="<think>\\boxed{Paris}"), None, None, 0.0),
        (sample(response="\\boxed{Paris}", reasoning="Hm."), None, True, 1.0),
    ],
)  # fmt: skip
def test_rewards(record, rule, think, reward):
    assert evaluate.reward_of(record, rule, think) == reward


def test_failed_samples_get_no_reward(tmp_path, capsys):
    rows = write(tmp_path / "rows.jsonl", [
        sample(0, "Paris"), sample(1, error="time-out", finish_reason="error"), sample(2, finish_reason="error")
    ])  # fmt: skip
    assert run(rows, tmp_path / "out.jsonl", rule="ruler") == 1
    assert summary_of(capsys)["errors"] == 2
    assert [record.get("error") for record in read(tmp_path / "out.jsonl")] == [None, "time-out", "the sample failed"]


def test_a_model_and_responses_contradict_each_other(tmp_path):
    rows = write(tmp_path / "rows.jsonl", [sample()])
    with LoopbackModel() as model, pytest.raises(BadInput) as error:
        run(rows, tmp_path / "out.jsonl", model.uri)
    assert str(error.value) == f"{rows}:1: response: is there already; leave out --model to score it"
    tasks = write(tmp_path / "tasks.jsonl", [{"id": "a", "prompt": "x", "answer": "1"}])
    with pytest.raises(BadInput) as error:
        run(tasks, tmp_path / "out.jsonl")
    assert str(error.value) == (
        f"{tasks}:1: sample: required field is missing; without --model, ROWS are samples with their responses"
    )


# ---------------------------------------------------------------- runs


def test_a_finished_run_says_its_summary_again(tmp_path, capsys):
    rows = needles(tmp_path / "rows.jsonl", lengths=(400,))
    with LoopbackModel(reply=lambda body: values_asked(body)[0]) as model:
        run(rows, tmp_path / "out.jsonl", model.uri)
        first = summary_of(capsys)
        assert run(rows, tmp_path / "out.jsonl", model.uri, plot=str(tmp_path / "late.svg")) == 0
        assert len(model.bodies) == 3
    found = capsys.readouterr()
    assert json.loads(found.out) == first and "complete already; its summary again" in found.err
    assert "</svg>" in (tmp_path / "late.svg").read_text()


def test_a_budget_stops_and_continues(tmp_path, capsys):
    rows = needles(tmp_path / "rows.jsonl", lengths=(400,))
    with LoopbackModel(reply=lambda body: values_asked(body)[0]) as model:
        assert run(rows, tmp_path / "out.jsonl", model.uri, at_once=1, budget_tokens=10) == 0
        assert summary_of(capsys)["samples"] < 3
        assert run(rows, tmp_path / "out.jsonl", model.uri, at_once=1) == 0
        assert summary_of(capsys)["samples"] == 3 and len(model.bodies) == 3


def test_dry_run_counts_by_the_rows_own_tokens(tmp_path, capsys):
    rows = needles(tmp_path / "rows.jsonl", lengths=(400,))
    tokens = sum(row["meta"]["tokens"] for row in read(rows))
    assert run(rows, tmp_path / "out.jsonl", "smollm2", dry_run=True, samples=2) == 0
    told = capsys.readouterr().out
    assert told.startswith(
        f"calls: 6\nprompt tokens: {2 * tokens}\ncompletion tokens: at most 48\nfirst prompt:\n[user] A"
    )
    assert not (tmp_path / "out.jsonl").exists()


def test_tables_for_people(tmp_path, capsys):
    failed = {"error": "too long", "finish_reason": "error"}
    rows = write(tmp_path / "rows.jsonl", [
        sample(at, response, answer=["7"], model="m[1]",
               meta={"kind": "single", "length": length, "depth": depth, "needles": []}) | more
        for at, (response, length, depth, more) in enumerate(
            [("7", 1000, 0, {}), ("8", 1000, 50, {}), ("7", 128000, 0, {}), ("", 128000, 50, failed)])
    ])  # fmt: skip
    assert run(rows, tmp_path / "out.jsonl", as_json=False, patterns=True) == 1
    told = capsys.readouterr().out
    assert re.search(r"depth % +1K +128K\n +0 +100 +100 *\n +50 +0 +× *\n", told)
    assert "needles, m[1] · mean reward 66.7 % · 3 samples, 1 failed" in told
    assert re.search(r"recheck .* 0\.0% ", told)
    # Without -o the records have stdout.
    run(rows, None, as_json=False)
    assert "66.7 %" in capsys.readouterr().err


# ---------------------------------------------------------------- the picture


def grid(mean, errors=None, **more):
    rows, columns = len(mean), len(mean[0])
    return {"kind": "single", "axis": "depth", "lengths": [1000 * (at + 1) for at in range(columns)],
            "levels": list(range(rows)), "mean": mean, "n": [[1] * columns] * rows,
            "errors": errors or [[0] * columns] * rows} | more  # fmt: skip


def colors(path):
    from matplotlib.image import imread

    pixels = (imread(path)[..., :3] * 255).astype(int).reshape(-1, 3)
    return pixels


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture_is_the_same_bytes_again(tmp_path, suffix):
    one, two = (tmp_path / f"{name}.{suffix}" for name in "ab")
    for path in (one, two):
        plot.plot_grids([grid([[1.0, 0.5], [0.0, None]], [[0, 0], [0, 3]])], "needles, $m$", path)
    assert one.read_bytes() == two.read_bytes() and len(one.read_bytes()) > 5000


def test_the_picture_shows_what_was_found_and_missed(tmp_path):
    """Cells are areas of the two end colours, in the shares of the grid."""
    plot.plot_grids([grid([[1.0, 1.0, 1.0, 0.0]] * 4)], "x", tmp_path / "a.png")
    pixels = colors(tmp_path / "a.png")
    blue = (abs(pixels - [0x00, 0x5B, 0x94]).sum(1) < 6).sum()
    vermilion = (abs(pixels - [0xB8, 0x4A, 0x00]).sum(1) < 6).sum()
    assert blue > 0.2 * len(pixels) and 2.5 < blue / vermilion < 3.5


def test_the_ends_are_apart_for_colour_blind_readers():
    """Simulated deuteranopia and protanopia (Viénot 1999, linear RGB): found and missed differ in light and in hue."""
    import numpy as np

    def linear(color):
        values = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)

    for lost in ([[0.2926, 0.7074, 0], [0.2926, 0.7074, 0], [-0.0223, 0.0223, 1]],
                 [[0.1124, 0.8876, 0], [0.1124, 0.8876, 0], [0.004, -0.004, 1]]):  # fmt: skip
        seen = [np.array(lost) @ linear(color) for color in (plot._COLORS[0], plot._COLORS[2], plot._COLORS[-1])]
        missed, middle, found = seen
        assert np.abs(missed - found).max() > 0.2
        assert min(np.abs(middle - missed).max(), np.abs(middle - found).max()) > 0.4


@pytest.mark.parametrize(
    ("lengths", "labels"),
    [
        ([1000, 10071, 64500, 128000], ["1K", "10K", "64K", "128K"]),
        ([512, 1024, 8192, 131072], ["512", "1K", "8K", "128K"]),
        ([1000, 1024], ["1000", "1024"]),
    ],
)
def test_labels(lengths, labels):
    assert plot.length_labels(lengths) == labels


def test_pictures_that_cannot_be(tmp_path):
    with pytest.raises(BadInput, match=r"^--plot heat.gif: expected a name that ends in .png or .svg$"):
        run(tmp_path / "absent.jsonl", None, plot="heat.gif")
    rows = write(tmp_path / "rows.jsonl", [sample(0, "Paris")])
    with pytest.raises(BadInput, match=r"^--plot: no row has meta.length with meta.depth or meta.hops"):
        run(rows, tmp_path / "out.jsonl", plot=str(tmp_path / "heat.png"))


# ---------------------------------------------------------------- marks in responses

WHOLE = (
    "First, I need to find the key. According to the text it points to Rome. Therefore the city is Rome. "
    "Wait, let me check that once more. \\boxed{Rome}"
)


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("The answer is Rome.", []),
        ("Let’s start with the first passage.", ["plan"]),
        ("Let me outline what to do.", ["plan"]),
        ("Passage 12 names the director.", ["retrieve"]),
        ("The text states that he left.", ["retrieve"]),
        ('The value for "9bbc96f5" is 76cd1a85', ["retrieve"]),
        ("Since he was born there, it was his home.", ["reason"]),
        ("This means that both are rivers.", ["reason"]),
        ("Let me double-check.", ["recheck"]),
        ("WAIT!", ["recheck"]),
        ("We waited for the verification committee.", []),
        ("I planned to be because of it", []),
        (WHOLE, ["plan", "retrieve", "reason", "recheck"]),
    ],
)
def test_marks(text, marks):
    assert sorted(patterns.first_places(text)) == sorted(marks)


def test_shares_of_marks_by_reward(tmp_path, capsys):
    backwards = "Wait. Therefore it is Rome. According to the text. First, I look."
    rows = write(tmp_path / "rows.jsonl", [
        sample(0, WHOLE, answer="Rome"), sample(1, WHOLE, answer="Oslo"), sample(2, backwards, answer="Oslo"),
        sample(3, "\\boxed{Rome}", answer="Rome", reasoning="Wait, no."), sample(4, error="x", finish_reason="error"),
    ])  # fmt: skip
    run(rows, tmp_path / "out.jsonl", patterns=True)
    found = summary_of(capsys)["patterns"]
    assert {group: found[group]["responses"] for group in found} == {"all": 4, "right": 2, "wrong": 2}
    assert found["right"] == {"responses": 2, "plan": 0.5, "retrieve": 0.5, "reason": 0.5, "recheck": 1.0,
                              "all_four": 0.5, "in_order": 0.5}  # fmt: skip
    assert found["wrong"] == {"responses": 2, "plan": 1.0, "retrieve": 1.0, "reason": 1.0, "recheck": 1.0,
                              "all_four": 1.0, "in_order": 0.5}  # fmt: skip
    assert found["all"]["in_order"] == 0.5
    none = patterns.Patterns().summary()
    assert none["all"]["responses"] == 0 and none["all"]["plan"] is None


# ---------------------------------------------------------------- the command


def test_the_command(tmp_path):
    from keychain_synth.cli import main

    [reward] = [param for param in main.commands["eval"].params if param.name == "rule"]
    assert tuple(reward.type.choices) == evaluate.REWARDS
    rows, out, heat = tmp_path / "rows.jsonl", tmp_path / "out.jsonl", tmp_path / "heat.png"
    made = keychain("needle", "--tokenizer", "smollm2", "--length", "400,500", "--depths", "0,100", "-o", rows)
    assert made.returncode == 0 and "4 rows of 2 lengths and 2 depths" in made.stderr
    with LoopbackModel(reply=lambda body: values_asked(body)[0]) as model:
        done = keychain("eval", rows, "--model", model.uri, "-n", 2, "-o", out, "--plot", heat, "--patterns", "--json")
        assert {(body["temperature"], body["top_p"], body["max_tokens"]) for body in model.bodies} == {(0.6, 0.95, 128)}
    assert done.returncode == 0
    result = json.loads(done.stdout)
    assert result["mean"] == 1 and result["samples"] == 8 and result["grids"][0]["mean"] == [[1, 1], [1, 1]]
    assert result["patterns"]["all"]["responses"] == 8 and heat.stat().st_size > 10_000
    # The same as a filter: samples in, verdicts out, the summary on stderr.
    again = keychain("eval", "-", "--reward", "two-way", "--json", stdin=out.read_text())
    assert again.returncode == 0 and len(again.stdout.splitlines()) == 8
    assert json.loads(again.stderr.splitlines()[-1])["mean"] == 0


def test_a_picture_that_has_no_place_is_told_before_the_model_is_asked(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "a", "prompt": "x", "answer": "y"}\n')
    done = keychain("eval", rows, "--model", "no-such-model", "--plot", tmp_path / "none" / "x.png")
    assert (
        done.returncode == 2 and "x.png: the folder" in done.stderr and "does not exist; create it first" in done.stderr
    )


def test_rows_whose_length_is_no_number_are_in_no_map(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "a", "prompt": "x", "answer": "y", "sample": 0, "response": "y", "finish_reason": "stop", '
                    '"meta": {"length": "x", "depth": 5}}\n')  # fmt: skip
    done = keychain("eval", rows, "--reward", "ruler", "--json", "-q", "-o", tmp_path / "out")
    assert done.returncode == 0 and json.loads(done.stdout)["grids"] == [] and json.loads(done.stdout)["mean"] == 1
