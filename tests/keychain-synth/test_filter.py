"""`keychain-synth filter` and `mine`: who stays, by answers that are there and by answers of a model."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest
from commandline import LoopbackModel
from rows import BIN, keychain, questions, read, write

from keychain_synth.filter import Tallies, table
from keychain_synth.items import Item, read_items
from tenfold_shared import BadInput

# How often QwQ-32B answered rightly what Qwen2.5-32B never did, 0 to 8 of 8 (Wangmerlyn/KeyChain,
# filter_question/all_0_qwq_stats.md), and how many questions its scripts name for each file (filter_question_id.py).
PUBLISHED = {
    "hotpotqa": ([4819, 482, 443, 535, 734, 950, 1247, 1454, 1122], 11786),
    "musique": ([3895, 443, 318, 347, 346, 410, 370, 365, 242], 6736),
    "2wiki": ([9152, 1417, 1159, 1087, 1141, 1376, 1686, 2047, 1733], 20798),
}


def verdicts(counts, n=8, **more):
    """n samples for each id of {id: right answers}."""
    return [{"id": name, "sample": at, "response": "x", "correct": at < right, **more}
            for name, right in counts.items() for at in range(n)]  # fmt: skip


def tasks(names, **meta):
    return [{"id": name, "prompt": f"Say {name}.", "answer": name, "meta": meta} for name in names]


@pytest.fixture
def spread(tmp_path):
    """Questions q0 to q8, of which qK was answered rightly K times of 8."""
    counts = {f"q{right}": right for right in range(9)}
    return questions(tmp_path / "qa.jsonl", 9), write(tmp_path / "samples.jsonl", verdicts(counts))


def summary(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ---------------------------------------------------------------- answers that are there


@pytest.mark.parametrize(
    "bounds, kept",
    [
        ([], "q1 q2 q3 q4 q5 q6 q7"),
        (["--keep-min", "1", "--keep-max", "6"], "q1 q2 q3 q4 q5 q6"),  # KeyChain's older setting
        (["--keep-min", "0", "--keep-max", "0"], "q0"),
        (["--keep-min", "8", "--keep-max", "8"], "q8"),
    ],
)
def test_keeps_what_is_right_sometimes(tmp_path, spread, bounds, kept):
    qa, samples = spread
    out = tmp_path / "kept.jsonl"
    found = summary(keychain("filter", qa, "--answers", samples, *bounds, "-o", out, "--json"))
    assert [each["id"] for each in read(out)] == kept.split()
    assert found["right"] == [1] * 9 and found["n"] == 8
    assert found["kept"] == len(kept.split()) and found["kept_share"] == pytest.approx(len(kept.split()) / 9)
    assert json.loads(out.with_name("kept.jsonl.manifest.json").read_text())["counts"]["filter"] == found
    again = keychain("filter", qa, "--answers", samples, *bounds, "-o", out, "--json")
    assert summary(again) == found and "complete already" in again.stderr


@pytest.mark.parametrize("source", PUBLISHED)
def test_published_counts_through_the_whole_verb(tmp_path, source):
    """At a hundredth of their size; the arithmetic at full size is below."""
    right, _ = PUBLISHED[source]
    scaled = [count // 100 for count in right]
    counts = {f"{k}-{at}": k for k, many in enumerate(scaled) for at in range(many)}
    names = list(counts)
    random.Random(0).shuffle(names)
    rows = write(tmp_path / "rows.jsonl", tasks(names, source=source))
    lines = [{"id": name, "pass_rate": counts[name] / 8, "num_correct": counts[name]} for name in sorted(names)]
    out = tmp_path / "kept.jsonl"
    found = summary(keychain("filter", rows, "--answers", write(tmp_path / "s.jsonl", lines), "-o", out, "--json"))
    assert found["right"] == scaled and found["kept"] == sum(scaled[1:8])
    assert [row["id"] for row in read(out)] == [name for name in names if 1 <= counts[name] <= 7]


def test_published_counts_at_full_size():
    """What follows from the table, and what does not.

    The table's sums are the sizes that the scripts name. What it keeps, 1 to 7 of 8, is 5,845, 2,599 and 9,913. The
    published 24,287, 8,517 and 39,679 sum to the 72,483 of the paper, but are not these: they hold besides what
    Qwen2.5-32B itself answered sometimes, and how much that is no file says.
    """
    assert {name: sum(right) for name, (right, _) in PUBLISHED.items()} == {
        name: size for name, (_, size) in PUBLISHED.items()
    }
    kept = {name: sum(right[1:8]) for name, (right, _) in PUBLISHED.items()}
    assert kept == {"hotpotqa": 5845, "musique": 2599, "2wiki": 9913}
    published = {"hotpotqa": 24_287, "musique": 8_517, "2wiki": 39_679}
    assert sum(published.values()) == 72_483 and all(kept[name] < published[name] for name in kept)


def test_the_table_people_see(tmp_path, spread):
    qa, samples = spread
    done = keychain("filter", qa, "--answers", samples, "-o", tmp_path / "kept.jsonl")
    assert done.stdout == (
        "| right | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 |      kept |\n"
        "|------:|--:|--:|--:|--:|--:|--:|--:|--:|--:|----------:|\n"
        "|   all | 1 | 1 | 1 | 1 | 1 | 1 | 1 | 1 | 1 | 7 (77.8%) |\n"
    )
    # Where records have stdout, it is on stderr.
    done = keychain("filter", qa, "--answers", samples)
    assert len(done.stdout.splitlines()) == 7 and "7 (77.8%)" in done.stderr


def test_what_is_written_reads_back_as_the_same_questions(tmp_path):
    """Also comparisons, whose answers stand in no paragraph: hops and type must come along."""
    hotpot = {
        "_id": "h1", "question": "Who was first, Ann or Bob?", "answer": "Cid", "type": "comparison", "level": "hard",
        "supporting_facts": [["Ann", 0], ["Bob", 0]],
        "context": [["Ann", ["Ann was born in 1900.", " She sang."]], ["Bob", ["Bob was born in 1910."]]],
    }  # fmt: skip
    qa = tmp_path / "hotpot.json"
    qa.write_text(json.dumps([hotpot, {**hotpot, "_id": "h2"}]))
    samples = write(tmp_path / "s.jsonl", verdicts({"h1": 3, "h2": 8}))
    out = tmp_path / "kept.jsonl"
    found = summary(keychain("filter", qa, "--answers", samples, "-o", out, "--json"))
    [before, after] = [[each for each in read_items(str(path)) if isinstance(each, Item)] for path in (qa, out)]
    assert read(out)[0]["source"] == "hotpotqa" and found["kept"] == 1
    [kept] = after
    assert (kept.id, kept.question, kept.answers, kept.paragraphs, kept.hops, kept.type) == (
        "h1", before[0].question, before[0].answers, before[0].paragraphs, 2, "comparison",
    )  # fmt: skip


def test_parts_have_lines_of_their_own_and_unusable_questions_are_named(tmp_path):
    one = questions(tmp_path / "qa.jsonl", 3)
    lines = [json.loads(line) for line in one.read_text().splitlines()]
    lines[2]["answers"] = [""]
    write(one, lines)
    two = write(tmp_path / "rows.jsonl", tasks(["r0", "r1"], source="musique"))
    samples = write(tmp_path / "s.jsonl", verdicts({"q0": 1, "q1": 8, "q2": 4, "r0": 0, "r1": 2}))
    out = tmp_path / "kept.jsonl"
    done = keychain("filter", one, two, "--answers", samples, "-o", out, "--json")
    found = summary(done)
    assert found["parts"]["other"]["right"] == [0, 1, 0, 0, 0, 0, 0, 0, 1]
    assert found["parts"]["musique"] == {"read": 2, "kept": 1, "kept_share": 0.5, "right": [1, 0, 1] + [0] * 6}
    assert [each["id"] for each in read(out)] == ["q0", "r1"] and read(out)[1] == tasks(["r1"], source="musique")[0]
    assert found["dropped"] == {"empty-answer": 1}
    assert f"{one}:3: left out: id 'q2': the answer is empty" in done.stderr
    assert "1 answered questions are not in the input: 'q2'" in done.stderr


def test_trajectories_of_the_keychain_repository_by_text_and_by_id(tmp_path):
    """As trajectory_gen/generate_trajectories.py writes them: no id of the question, only its text."""
    qa = questions(tmp_path / "qa.jsonl", 3)
    asked = [each["question"] for each in read(qa)]

    def line(right, **more):
        said = [{"text": "<think>x</think>\\boxed{y}", "extracted_answer": "y", "sub_em": int(at < right), "em": 0,
                 "f1": 0.0, "is_correct": int(at < right)} for at in range(4)]  # fmt: skip
        return {"index": 0, "context": "", "answers": ["y"], "length": 9, "model": "m", "trajectories": said,
                "num_correct": right, "pass_rate": right / 4, **more}  # fmt: skip

    lines = [line(0, input=asked[0]), line(2, input=f" {asked[1]} "), line(4, id="q2", input="other words")]
    samples = write(tmp_path / "s.jsonl", lines)
    found = summary(keychain("filter", qa, "--answers", samples, "-o", tmp_path / "a.jsonl", "--json"))
    assert found["n"] == 4 and found["right"] == [1, 0, 1, 0, 1] and found["keep"] == [1, 3]
    # Scored anew by the texts, all of which say y, which is the gold of the samples.
    done = keychain("filter", qa, "--answers", samples, "--reward", "exact", "-o", tmp_path / "b.jsonl", "--json")
    assert summary(done)["right"] == [0, 0, 0, 0, 3]


def test_responses_are_scored_by_the_last_box_both_ways(tmp_path):
    """The published script takes all behind the first answer phrase, and wants it inside the gold."""
    said = {
        "first-phrase": "<think>The answer is Rome? No.</think> The answer is \\boxed{Paris}.",
        "longer": "<think></think>\\boxed{the city of Paris}",
        "shorter": "<think></think>\\boxed{Par}",
        "wrong": "<think></think>The answer is \\boxed{Rome}",
        "no-box": "<think></think>The answer is Paris",
        "open": "<think>\\boxed{Paris}",
    }
    rows = write(tmp_path / "rows.jsonl", tasks(said))
    lines = [{"id": name, "sample": at, "response": text if at == 0 else "", "answer": "Paris"}
             for name, text in said.items() for at in range(2)]  # fmt: skip
    samples = write(tmp_path / "s.jsonl", lines)
    out = tmp_path / "kept.jsonl"
    summary(keychain("filter", rows, "--answers", samples, "-o", out, "--json"))
    assert [row["id"] for row in read(out)] == ["first-phrase", "longer", "shorter"]
    summary(keychain("filter", rows, "--answers", samples, "--reward", "exact", "-o", out, "--json", "--overwrite"))
    assert [row["id"] for row in read(out)] == ["first-phrase"]


# ---------------------------------------------------------------- bad input

AS_MANY = "expected as many for every question (failed ones are not counted)"


def refused(tmp_path, rows, lines, *args, code=2):
    out = tmp_path / "out.jsonl"
    done = keychain("filter", rows, "--answers", write(tmp_path / "s.jsonl", lines), "-o", out, *args)
    assert done.returncode == code and not (code == 2 and out.exists()), done.stderr
    return done.stderr.replace(str(tmp_path) + "/", "")


@pytest.mark.parametrize(
    "lines, told",
    [
        (
            [{"id": "a", "answer": "x"}],
            "s.jsonl:1: expected samples (id, sample, and reward, correct or response) or KeyChain's trajectories "
            "(input, trajectories or pass_rate); found answer, id",
        ),
        (
            verdicts({"a": 1}) + verdicts({"b": 1}, 7),
            f"s.jsonl: 'b' has 7 answers, most have 8; {AS_MANY}",
        ),
        (
            [*verdicts({"a": 1}, 2), {**verdicts({"a": 1}, 1)[0]}],
            "s.jsonl:3: id: a#0 appears twice; ids (and samples within an id) must be unique",
        ),
        (
            [{"id": "a", "sample": 0, "response": "\\boxed{a}"}],
            "s.jsonl:1: id 'a': answer: needed to score the response; `score` it first, or give it",
        ),
        ([{"id": "a", "sample": "0", "response": ""}], "s.jsonl:1: sample: expected int, got str"),
        (
            [{"id": "a", "pass_rate": 0.3}],
            "s.jsonl:1: pass_rate: 0.3 is no number of 8 answers; give their number, -n",
        ),
        ([{"pass_rate": 0.5}], "s.jsonl:1: expected id or input, to know which question this is"),
        (
            [{"id": "a", "trajectories": [{"em": 1}]}],
            "s.jsonl:1: trajectories: expected objects with text and is_correct",
        ),
        ([], "s.jsonl: expected at least one sample, got none"),
        (verdicts({"z": 1}), "s.jsonl: has answers to none of the 2 questions, such as 'a'"),
    ],
)
def test_samples_that_cannot_be_used(tmp_path, lines, told):
    rows = write(tmp_path / "rows.jsonl", tasks("ab"))
    assert refused(tmp_path, rows, lines) == f"keychain-synth: {told}\n"


def test_a_question_without_answers_is_named_and_the_exit_is_1(tmp_path):
    rows = write(tmp_path / "rows.jsonl", tasks("abcdef"))
    told = refused(tmp_path, rows, verdicts({"a": 2, "b": 8, "x": 0}), code=1)
    assert "4 have no answers in s.jsonl: 'c', 'd', 'e', ...\n" in told
    assert "s.jsonl: 1 answered questions are not in the input: 'x'" in told
    assert [row["id"] for row in read(tmp_path / "out.jsonl")] == ["a"]


def test_failed_samples_are_no_draws(tmp_path):
    """A question with fewer answers because some failed is missing, and costs the others nothing."""
    rows = write(tmp_path / "rows.jsonl", tasks("ab"))
    lines = verdicts({"a": 1, "b": 1})
    lines[-1] = {"id": "b", "sample": 7, "response": "", "finish_reason": "error", "error": "HTTP 500"}
    samples = write(tmp_path / "s.jsonl", lines)
    done = keychain("filter", rows, "--answers", samples, "-o", tmp_path / "kept")
    assert done.returncode == 1 and [row["id"] for row in read(tmp_path / "kept")] == ["a"]
    assert f"keychain-synth: 1 have no answers in {samples}: 'b'\n" in done.stderr
    # One that never was drawn is another matter.
    assert "'b' has 7 answers, most have 8" in refused(tmp_path, rows, lines[:-1])


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"input": "q", "pass_rate": -1}, "pass_rate: expected a share from 0 to 1, got -1.0"),
        ({"input": "q", "pass_rate": 1.5}, "pass_rate: expected a share from 0 to 1, got 1.5"),
        ({"input": "q", "pass_rate": "half"}, "pass_rate: expected float | null, got str"),
        ({"input": "q", "pass_rate": 0.3}, "pass_rate: 0.3 is no number of 8 answers; give their number, -n"),
        ({"input": "q", "trajectories": 3}, "trajectories: expected array | null, got int"),
        ({"input": "q", "trajectories": ["x"]}, "trajectories[0]: expected object, got str"),
        ({"input": "q", "trajectories": [{}]}, "trajectories: expected objects with text and is_correct"),
    ],
)
def test_bad_trajectories(tmp_path, line, told):
    rows = write(tmp_path / "rows.jsonl", tasks("a"))
    assert refused(tmp_path, rows, [line]) == f"keychain-synth: s.jsonl:1: {told}\n"


def test_one_answer_a_question_is_too_few(tmp_path):
    rows = write(tmp_path / "rows.jsonl", tasks("a"))
    lines = [line for line in verdicts({"a": 1}) if line["sample"] == 0]
    assert "with 1 answers a question none is right at least 1 times and wrong at least once; draw more" in (
        refused(tmp_path, rows, lines)
    )


def test_samples_from_a_pipe(tmp_path):
    """They are read and hashed: a pipe would be empty the second time, and its run the same as any other."""
    import subprocess

    rows = write(tmp_path / "rows.jsonl", tasks("a"))
    samples = write(tmp_path / "s.jsonl", verdicts({"a": 1}))
    done = subprocess.run(["bash", "-c", f"{BIN} filter {rows} --answers <(cat {samples})"],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2 and "is no regular file, and is read more than once" in done.stderr


def test_options_that_do_not_go_together(tmp_path):
    rows = write(tmp_path / "rows.jsonl", tasks("a"))
    assert refused(tmp_path, rows, verdicts({"a": 1}), "--keep-max", "9") == (
        "keychain-synth: --keep-min 1, --keep-max 9: expected numbers from 0 to 8, the answers a question, in this "
        "order\n"
    )
    told = refused(tmp_path, rows, verdicts({"a": 1}), "-n", "4")
    assert told == f"keychain-synth: s.jsonl: 'a' has 8 answers, -n says 4; {AS_MANY}\n"
    done = keychain("filter", rows)
    assert (done.returncode, done.stderr) == (
        2, "keychain-synth: expected either --answers FILE, answers that are there, or --model URI, to ask for them\n",
    )  # fmt: skip


def test_two_questions_of_one_text_cannot_share_answers(tmp_path):
    rows = write(tmp_path / "rows.jsonl", tasks("ab", question="Why?"))
    told = refused(tmp_path, rows, [{"input": "Why?", "pass_rate": 0.5}])
    assert told == (
        "keychain-synth: rows.jsonl:2: asks the same as 'a', and the samples name questions by their text; put `id` "
        "into them\n"
    )


def test_any_counts_make_a_table_of_one_width():
    parts = {
        "a": {"right": [1, 2, 3], "kept": 2, "kept_share": 1 / 3},
        "long name": {"right": [9, 0, 27], "kept": 0, "kept_share": 0.0},
    }
    found = {"n": 2, "right": [10, 2, 30], "kept": 2, "kept_share": 2 / 42, "parts": parts}
    lines = table(found).splitlines()
    assert len({len(line) for line in lines}) == 1 and len(lines) == 5


def test_tallies_read_once_name_a_repeated_trajectory(tmp_path):
    path = write(tmp_path / "s.jsonl", [{"id": "a", "pass_rate": 0.5}, {"id": "a", "pass_rate": 0.5}])
    with pytest.raises(BadInput, match=r"s\.jsonl:2: id: a appears twice"):
        Tallies(str(path), None, None)


# ---------------------------------------------------------------- a model


def answering(body):
    """Right where seed and question say so: question K is right about K times of 8."""
    text = body["messages"][-1]["content"]
    number = int(text.rsplit('"topic" ', 1)[1].split(",")[0])
    right = random.Random(f"{number} {body.get('seed')}").random() < number / 8
    return f"<think>hm</think> \\boxed{{{f'answer{number}' if right else 'nothing'}}}"


def test_a_model_is_asked_over_the_own_text_and_its_answers_scored(tmp_path):
    qa = questions(tmp_path / "qa.jsonl", 9)
    out = tmp_path / "kept.jsonl"
    with LoopbackModel(reply=answering) as model:
        found = summary(keychain("filter", qa, "--model", model.uri, "-n", "6", "-o", out, "--json"))
        assert len(model.bodies) == 54 and len({body["seed"] for body in model.bodies}) == 54
        body = model.bodies[0]
    assert (body["temperature"], body["max_tokens"]) == (1.0, 2048)
    first = next(each for each in read(qa) if each["question"] in body["messages"][-1]["content"])
    for each in first["paragraphs"]:
        assert f"{each['title']}\n{each['text']}" in body["messages"][-1]["content"]
    assert "\\boxed" in body["messages"][0]["content"]
    assert found["n"] == 6 and sum(found["right"]) == 9 and found["keep"] == [1, 5]
    kept = [each["id"] for each in read(out)]
    assert 0 < len(kept) < 9 and "q0" not in kept and "q8" not in kept
    assert read(out) == [each for each in read(qa) if each["id"] in kept]


def test_a_killed_run_asks_only_for_what_is_missing_and_ends_in_the_same_bytes(tmp_path):
    qa = questions(tmp_path / "qa.jsonl", 9)
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    with LoopbackModel(reply=answering) as model:
        summary(keychain("filter", qa, "--model", model.uri, "-o", whole, "--json"))
        assert len(model.bodies) == 72
    with LoopbackModel(reply=answering, delay=0.05) as model:
        args = ["filter", qa, "--model", model.uri, "--concurrency", "2", "-o", killed, "-q"]
        run = subprocess.Popen([str(BIN), *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        journal = tmp_path / ".killed.jsonl.journal"
        deadline = time.monotonic() + 60
        while not (journal.exists() and journal.read_bytes().count(b"\n") > 10):
            assert time.monotonic() < deadline and run.poll() is None
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
        run.wait()
        saved = journal.read_bytes().count(b"\n") - 1
        before = len(model.bodies)
        assert not killed.exists() and saved < 72
        done = keychain(*args)
        assert done.returncode == 0, done.stderr
        assert len(model.bodies) - before == 72 - saved
    assert killed.read_bytes() == whole.read_bytes()


def test_a_recording_takes_other_bounds_without_the_model(tmp_path):
    qa = questions(tmp_path / "qa.jsonl", 9)
    tape, out = tmp_path / "tape.jsonl", tmp_path / "kept.jsonl"
    with LoopbackModel(reply=answering) as model:
        first = summary(keychain("filter", qa, "--model", model.uri, "--record", tape, "-o", out, "--json"))
    args = ["--model", f"replay:{tape}", "--keep-max", "8", "-o", tmp_path / "more.jsonl", "--json"]
    second = summary(keychain("filter", qa, *args))
    assert second["right"] == first["right"] and second["kept"] == sum(first["right"][1:])


def test_failures_of_the_model_keep_the_question_out_and_the_same_command_asks_again(tmp_path):
    qa = questions(tmp_path / "qa.jsonl", 4)
    out = tmp_path / "kept.jsonl"

    def failing(body):
        if '"topic" 2' in body["messages"][-1]["content"]:
            raise ConnectionError
        return answering(body)

    with LoopbackModel(reply=failing) as model:
        args = [
            "filter",
            qa,
            "--model",
            model.uri,
            "--max-retries",
            "0",
            "--keep-min",
            "0",
            "--keep-max",
            "8",
            "-o",
            out,
        ]
        done = keychain(*args)
        assert done.returncode == 1 and "1 have no gold answer, or the model failed on them: 'q2'" in done.stderr
        assert [each["id"] for each in read(out)] == ["q0", "q1", "q3"]
        model.reply, asked = answering, len(model.bodies)
        assert keychain(*args).returncode == 0
        assert len(model.bodies) - asked == 8 and [each["id"] for each in read(out)] == ["q0", "q1", "q2", "q3"]


def test_dry_run_asks_nothing(tmp_path):
    qa = questions(tmp_path / "qa.jsonl", 3)
    done = keychain("filter", qa, "--model", "http://127.0.0.1:9/v1#none", "--dry-run")
    assert done.returncode == 0 and done.stdout.startswith("calls: 24\n") and "Passage 1:\nTopic 0-0\n" in done.stdout


# ---------------------------------------------------------------- mine


def test_mine_drops_what_every_rollout_solves_and_changes_no_byte_of_the_rest(tmp_path):
    rows = write(tmp_path / "rows.jsonl", [{**row, "more": ["ü"]} for row in tasks("abcd", part="math")])
    samples = write(tmp_path / "s.jsonl", verdicts({"a": 8, "b": 7, "c": 0, "d": 8}))
    out = tmp_path / "stage2.jsonl"
    found = summary(keychain("mine", rows, "--answers", samples, "-o", out, "--json"))
    assert [json.dumps(row) for row in read(out)] == [json.dumps(row) for row in read(rows) if row["id"] in "bc"]
    assert found["keep"] == [0, 7] and found["kept_share"] == 0.5
    found = summary(
        keychain("mine", rows, "--answers", samples, "--min-solved", "1", "--json", "-o", tmp_path / "x.jsonl")
    )
    assert found["kept"] == 1


def test_mine_scores_a_mixture_by_each_rows_own_reward(tmp_path):
    """A choice by its letter, mathematics by value, needles by all their values, the rest both ways."""
    cases = {
        "choice": ("custom_mathqa_choice_math", ["A"], {}, "\\boxed{(A)}", "\\boxed{(B)}"),
        "math": ("custom_math_dapo", ["0.5"], {}, "\\boxed{\\frac{1}{2}}", "\\boxed{0.55}"),
        "needle": ("custom_rulerniah_multivalue", ["12", "34"], {"match": "all"}, "\\boxed{34 and 12}", "\\boxed{12}"),
        "qa": ("custom_longcontextqa_musique", ["Bram Stoker"], {}, "\\boxed{Stoker}", "\\boxed{Shelley}"),
    }
    rows, lines = [], []
    for name, (source, answer, more, right, wrong) in cases.items():
        for solved in (True, False):
            row = {"id": f"{name}-{solved}", "prompt": "?", "answer": answer, "meta": {"data_source": source, **more}}
            rows.append(row)
            said = [right, right if solved else wrong]
            lines += [{**row, "sample": at, "response": f"<think>\n</think>{text}"} for at, text in enumerate(said)]
    out = tmp_path / "out.jsonl"
    args = ["--answers", write(tmp_path / "s.jsonl", lines), "-o", out, "--json"]
    found = summary(keychain("mine", write(tmp_path / "rows.jsonl", rows), *args))
    assert [row["id"] for row in read(out)] == [f"{name}-False" for name in cases]
    assert found["right"] == [0, 4, 4]


def test_stdin_and_shards(tmp_path):
    rows = write(tmp_path / "rows.jsonl", tasks("abcdefg"))
    samples = write(tmp_path / "s.jsonl", verdicts({name: at for at, name in enumerate("abcdefg")}))
    whole = keychain("mine", rows, "--answers", samples).stdout
    piped = keychain("mine", "-", "--answers", samples, stdin=rows.read_text())
    assert piped.stdout == whole and len(whole.splitlines()) == 7
    parts = [keychain("mine", rows, "--answers", samples, "--shard", f"{at}/3").stdout for at in (1, 2, 3)]
    assert "".join(parts) == whole and all(parts)


def test_help_is_quick():
    code = (
        "import sys, keychain_synth.cli; "
        "print(sorted(set(sys.modules) & {'torch', 'transformers', 'pyarrow', 'numpy', 'matplotlib'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_a_run_that_lacks_answers_is_over_all_the_same(tmp_path):
    """The file will not say more: nothing waits to be continued, and other samples are another run."""
    rows = write(tmp_path / "rows.jsonl", tasks("ab"))
    samples = write(tmp_path / "s.jsonl", verdicts({"a": 1}))
    assert keychain("mine", rows, "--answers", samples, "-o", tmp_path / "out").returncode == 1
    assert not (tmp_path / ".out.journal").exists() and (tmp_path / "out").exists()
    write(samples, verdicts({"a": 1, "b": 2}))
    done = keychain("mine", rows, "--answers", samples, "-o", tmp_path / "out")
    assert done.returncode == 2 and "was made with --answers" in done.stderr
    assert keychain("mine", rows, "--answers", samples, "-o", tmp_path / "out", "--overwrite").returncode == 0


def test_rates_may_come_rounded(tmp_path):
    rows = write(tmp_path / "rows.jsonl", tasks("a"))
    samples = write(tmp_path / "s.jsonl", [{"id": "a", "pass_rate": 0.4286}])
    done = keychain("mine", rows, "--answers", samples, "-n", "7", "-q", "--json")
    assert done.returncode == 0 and json.loads(done.stderr)["right"] == [0, 0, 0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("meta", [{"part": [1]}, {"source": 5}, {"data_source": 5}, {"question": None}])
def test_odd_meta_is_no_matter(tmp_path, meta):
    made = [{**task, "meta": meta} if at else task for at, task in enumerate(tasks("ab"))]
    done = keychain("mine", write(tmp_path / "rows.jsonl", made), "--answers",
                    write(tmp_path / "s.jsonl", verdicts({"a": 1, "b": 1})), "-q")  # fmt: skip
    assert done.returncode == 0 and "Traceback" not in done.stderr


def test_questions_left_out_are_counted_also_when_quiet(tmp_path):
    one = {"id": "a", "question": "Where?", "answers": ["Rome"],
           "paragraphs": [{"title": "T", "text": "In Rome.", "is_supporting": True}]}  # fmt: skip
    qa = write(tmp_path / "qa.jsonl", [one, {**one, "id": "b", "answers": []}])
    done = keychain("filter", qa, "--answers", write(tmp_path / "s.jsonl", verdicts({"a": 1})), "-q")
    assert done.returncode == 0 and "questions left out: 1 empty-answer" in done.stderr
