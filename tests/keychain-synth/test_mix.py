"""`keychain-synth mix`: the paper's counts and steps, the same rows whatever the order of the files, choices."""

import json
import random
import re
from collections import Counter
from fractions import Fraction
from itertools import pairwise

import pytest
from rows import keychain, read, write

from keychain_synth import reward
from keychain_synth.mix import Choices, read_preset, stage_counts, steps
from keychain_synth.row import SYSTEM
from tenfold_shared import BadInput

CHAINS = ("keychain-hotpotqa", "keychain-musique", "keychain-2wiki")
PLAIN = ("qa-hotpotqa", "qa-musique", "qa-2wiki")
# LoongRL, Table 1.
TABLE_1 = {**dict.fromkeys(CHAINS + PLAIN, 2500), "needle-multikey": 512, "needle-multivalue": 512, "math-choice": 2500,
           "math": 2500}  # fmt: skip


@pytest.fixture
def parts(tmp_path):
    """--part words for 60 rows of each part; chains and plain rows have the ids of the same questions."""
    words = []
    for number, name in enumerate(TABLE_1):
        rows = [{"id": f"q{at}", "prompt": f"{name} {at}?", "answer": [str(at + 100 * number)], "meta": {"source": "s"}}
                for at in range(60)]  # fmt: skip
        words += ["--part", f"{name}={write(tmp_path / f'{name}.jsonl', rows)}"]
    return words


def mix(*args, code=0, **more):
    done = keychain("mix", *args, **more)
    assert done.returncode == code, done.stderr
    return done


def recipe(path):
    return json.loads(path.with_name(path.name + ".manifest.json").read_text())["counts"]["recipe"]


# ---------------------------------------------------------------- the paper's numbers


def test_counts_of_table_1_and_both_readings_of_the_warm_up():
    preset = read_preset("loongrl")
    rows = preset.scaled(1)
    assert rows == TABLE_1 and sum(rows.values()) == 21_024
    assert stage_counts(preset, "1", "drop", rows) == TABLE_1
    drop = stage_counts(preset, "warmup", "drop", rows)
    assert (
        drop == {name: count for name, count in TABLE_1.items() if name not in CHAINS} and sum(drop.values()) == 13_524
    )
    replace = stage_counts(preset, "warmup", "replace", rows)
    assert (
        sum(replace.values()) == 21_024
        and [replace[name] for name in PLAIN] == [5000] * 3
        and not set(CHAINS) & set(replace)
    )


def test_steps_of_the_paper():
    """42 an epoch and 168 in 4; at a batch of 256 two epochs are 165 to 168; stage II's 117 in 9 are 13 an epoch."""
    assert steps(21_024) == {"512": 42, "256": 83} and 4 * 42 == 168 and 165 <= 2 * 83 <= 168
    assert steps(13_524) == {"512": 27, "256": 53}
    stage_2 = [rows for rows in range(21_024) if 9 * steps(rows)["512"] == 117]
    assert (min(stage_2), max(stage_2)) == (6145, 6656)
    assert 0.29 < min(stage_2) / 21_024 < max(stage_2) / 21_024 < 0.32  # "30 to 40 % remain": its lower end


def test_every_part_selects_the_reward_it_is_meant_for():
    rules = {part.name: reward.rule_of(part.data_source) for part in read_preset("loongrl").part}
    assert rules == {**dict.fromkeys(CHAINS + PLAIN, "two-way"), "needle-multikey": "multi-value",
                     "needle-multivalue": "multi-value", "math-choice": "choice", "math": "math"}  # fmt: skip


# ---------------------------------------------------------------- the files


def test_all_stages_into_a_folder(tmp_path, parts):
    out = tmp_path / "mixed"
    done = mix(*parts, "--scale", "0.01", "--stage", "all", "-o", out, "--json", "-q")
    first, second = map(json.loads, done.stdout.splitlines())
    scaled = {name: 25 if count == 2500 else 5 for name, count in TABLE_1.items()}
    for path, found, counts in [
        (out / "warmup.jsonl", first, {name: n for name, n in scaled.items() if name not in CHAINS}),
        (out / "stage1.jsonl", second, scaled),
    ]:
        rows = read(path)
        assert Counter(row["meta"]["part"] for row in rows) == counts == found["parts"]
        assert recipe(path) == found and found["rows"] == len(rows) == sum(counts.values())
        assert len({row["id"] for row in rows}) == len(rows)
        assert all(row["id"] == f"{row['meta']['part']}/q{row['id'].split('/q')[1]}" for row in rows)
        assert found["training"]["rollouts"] == 8 and found["training"]["batch"] == {"7B": 512, "14B": 256}
    assert not (out / "stage2.jsonl").exists()
    # Stage I holds the rows of the warm-up.
    assert {row["id"] for row in read(out / "warmup.jsonl")} < {row["id"] for row in read(out / "stage1.jsonl")}
    assert mix(*parts, "--scale", "0.01", "--stage", "all", "-o", out).stderr.count("complete already") == 2


def test_a_warm_up_that_replaces(tmp_path, parts):
    out = tmp_path / "w.jsonl"
    mix(*parts, "--scale", "0.01", "--stage", "warmup", "--warmup-rows", "replace", "-o", out)
    counts = Counter(row["meta"]["part"] for row in read(out))
    assert (
        [counts[name] for name in PLAIN] == [50] * 3 and sum(counts.values()) == 210 and not set(CHAINS) & set(counts)
    )
    assert recipe(out)["warmup"] == "replace" and recipe(out)["steps_per_epoch"] == {"512": 1, "256": 1}


def test_bytes_depend_on_the_seed_and_the_rows_not_on_their_order(tmp_path, parts):
    first = mix(*parts, "--scale", "0.01").stdout
    order = random.Random(0)
    for word in parts[1::2]:
        path = word.partition("=")[2]
        rows = read(path)
        order.shuffle(rows)
        write(path, rows)
    pairs = list(zip(parts[::2], parts[1::2], strict=True))
    order.shuffle(pairs)
    again = mix(*(word for pair in pairs for word in pair), "--scale", "0.01", env={"PYTHONHASHSEED": "7"}).stdout
    assert again == first
    other = mix(*parts, "--scale", "0.01", "--seed", "1").stdout
    assert other != first and len(other.splitlines()) == len(first.splitlines())
    # Shuffled: parts do not stand together.
    names = [json.loads(line)["meta"]["part"] for line in first.splitlines()]
    assert sum(one != two for one, two in pairwise(names)) > len(names) / 2
    # A larger set holds the rows of a smaller one.
    larger = {json.loads(line)["id"] for line in mix(*parts, "--scale", "0.02").stdout.splitlines()}
    assert {json.loads(line)["id"] for line in first.splitlines()} < larger


def test_a_part_of_several_files_and_stdin(tmp_path, parts):
    path = parts[1].partition("=")[2]
    rows = read(path)
    whole = mix(*parts, "--scale", "0.01").stdout
    one = write(tmp_path / "one.jsonl", rows[:20])
    rest = "".join(json.dumps(row) + "\n" for row in rows[20:])
    args = ["--part", f"{CHAINS[0]}={one}", "--part", f"{CHAINS[0]}=-", *parts[2:], "--scale", "0.01"]
    assert mix(*args, stdin=rest).stdout == whole


def test_too_few_rows(tmp_path, parts):
    out = tmp_path / "out.jsonl"
    told = mix(*parts[2:], "--scale", "0.03", "-o", out, code=2).stderr
    assert told == (
        "keychain-synth: stage 1: part keychain-hotpotqa: needs 75 rows, has 0; "
        + "; ".join(
            f"part {name}: needs 75 rows, has 60" for name in TABLE_1 if TABLE_1[name] == 2500 and name != CHAINS[0]
        )
        + "; give more --part files, a smaller --scale, or --allow-short\n"
    )
    assert not out.exists()
    done = mix(*parts[2:], "--scale", "0.03", "-o", out, "--allow-short")
    assert "part qa-2wiki: needs 75 rows, has 60" in done.stderr and done.stderr.count("goes on with these") == 1
    assert len(read(out)) == 7 * 60 + 2 * 15 and recipe(out)["parts"]["keychain-hotpotqa"] == 0


def test_stage_2_is_what_mine_keeps(tmp_path, parts):
    stage1, rollouts, mined, out = (tmp_path / f"{name}.jsonl" for name in ("stage1", "rollouts", "mined", "stage2"))
    mix(*parts, "--scale", "0.01", "-o", stage1)
    rows = read(stage1)
    write(rollouts, [{**row, "sample": at, "response": "", "reward": float(number % 3 > 0 or at > 0)}
                     for number, row in enumerate(rows) for at in range(8)])  # fmt: skip
    done = keychain("mine", stage1, "--answers", rollouts, "-o", mined, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["kept_share"] == pytest.approx(1 / 3)
    assert set(json.loads(done.stdout)["parts"]) <= set(TABLE_1)
    mix("--stage", "2", "--mined", mined, "-o", out)
    kept = {row["id"] for row in rows[::3]}
    assert {row["id"] for row in read(out)} == kept and [row["id"] for row in read(out)] != [
        row["id"] for row in rows[::3]
    ]
    assert recipe(out)["stage"] == "2" and recipe(out)["rows"] == len(kept)
    folder = tmp_path / "all"
    mix(*parts, "--scale", "0.01", "--stage", "all", "--mined", mined, "-o", folder)
    assert (folder / "stage2.jsonl").read_bytes() == out.read_bytes()
    assert (folder / "stage1.jsonl").read_bytes() == stage1.read_bytes()


@pytest.mark.parametrize(
    "args, told",
    [
        (["--stage", "2"], "--stage 2: is what `keychain-synth mine` keeps of stage I's rows; give it, --mined FILE"),
        (["--part", "qa-musique"], "--part qa-musique: expected NAME=FILE, such as keychain-hotpotqa=rows.jsonl"),
        (
            ["--part", "x=f"],
            f"--part x=f: --preset loongrl has no such part; it has {', '.join(TABLE_1)}",
        ),
        (["--part", "math=f", "--part", "math-choice=f"], "--part math-choice=f: f is given twice"),
        (
            ["--part", "math=f", "--stage", "all"],
            "--stage all: writes a file for each stage; give it a folder, -o FOLDER",
        ),
        (["--mined", "f", "--part", "math=f"], "--mined f: belongs to --stage 2 or all"),
        ([], f"--part: expected NAME=FILE for the parts of loongrl: {', '.join(TABLE_1)}"),
        (["--preset", "other"], "--preset other: expected loongrl, or a TOML file of parts"),
        (["--preset", "none.toml"], "none.toml: no such file"),
    ],
)
def test_wrong_usage(args, told):
    assert mix(*args, code=2).stderr == f"keychain-synth: {told}\n"


def test_rows_that_cannot_be_mixed(tmp_path):
    twice = write(tmp_path / "a.jsonl", [{"id": "a", "prompt": "x"}] * 2)
    told = mix("--part", f"math={twice}", code=2).stderr
    assert told.endswith("a.jsonl:2: id 'a': comes twice in part math\n")
    two = write(tmp_path / "b.jsonl", [{"id": "a", "prompt": "x", "answer": ["1", "2"]}])
    told = mix("--part", f"math-choice={two}", code=2).stderr
    assert told.endswith("b.jsonl:1: answer: expected one, to make choices of; part math-choice is multiple choice\n")
    told = mix("--stage", "2", "--mined", two, code=2).stderr
    assert told.endswith(
        "b.jsonl:1: meta.part: expected a part of --preset loongrl, got None; --mined is what `mine` kept of stage "
        "I's rows\n"
    )


def test_chats_without_a_system_prompt_get_one(tmp_path):
    user, own = {"role": "user", "content": "1+1?"}, {"role": "system", "content": "Box it."}
    rows = [{"id": "bare", "messages": [user]}, {"id": "own", "messages": [own, user]}, {"id": "raw", "prompt": "1+1="}]
    args = ["--part", f"math={write(tmp_path / 'm.jsonl', rows)}", "--allow-short"]

    def mixed(*more):
        return {row["id"]: row for row in map(json.loads, mix(*args, *more).stdout.splitlines())}

    found = mixed()
    assert found["math/bare"]["messages"] == [{"role": "system", "content": SYSTEM}, user]
    assert found["math/bare"]["meta"]["system_added"] is True
    assert found["math/own"]["messages"] == [own, user] and "system_added" not in found["math/own"]["meta"]
    assert found["math/raw"]["prompt"] == "1+1=" and "messages" not in found["math/raw"]
    (tmp_path / "s.txt").write_text("Think.")
    assert mixed("--system-file", tmp_path / "s.txt")["math/bare"]["messages"][0]["content"] == "Think."
    assert mixed("--system-file", "none")["math/bare"]["messages"] == [user]


# ---------------------------------------------------------------- presets of one's own


def toml(path, text):
    path.write_text(text)
    return path


def test_a_preset_of_ones_own(tmp_path):
    preset = toml(tmp_path / "p.toml", """
        name = "two"
        [[part]]
        name = "a"
        rows = 4
        data_source = "custom_math_a"
        warmup = "b"
        [[part]]
        name = "b"
        rows = 2
        data_source = "custom_math_b"
    """)  # fmt: skip
    files = {
        name: write(tmp_path / f"{name}.jsonl", [{"id": str(at), "prompt": "?"} for at in range(9)]) for name in "ab"
    }
    args = ["--preset", preset, *(word for name, path in files.items() for word in ("--part", f"{name}={path}"))]
    assert Counter(json.loads(line)["meta"]["part"] for line in mix(*args).stdout.splitlines()) == {"a": 4, "b": 2}
    warm = mix(*args, "--stage", "warmup", "--warmup-rows", "replace").stdout.splitlines()
    assert Counter(json.loads(line)["meta"]["data_source"] for line in warm) == {"custom_math_b": 6}


@pytest.mark.parametrize(
    "text, told",
    [
        ("name = x", "not TOML: Invalid value (at line 1, column 8)"),
        ('name = "x"', "part: required field is missing"),
        (
            'name="x"\n[[part]]\nname="a"\nrows=1\ndata_source="s"\nrow=2',
            "part[0].row: unknown field",
        ),
        (
            'name="x"\n[[part]]\nname="a"\nrows=0\ndata_source="s"',
            "part a: expected rows of at least 1, and 2 to 10 choices or 0",
        ),
        (
            'name="x"\n[[part]]\nname="a"\nrows=1\ndata_source="s"\nwarmup="b"',
            "part a: warmup: expected the name of another part, got 'b'",
        ),
        (
            'name="x"\npart=[{name="a",rows=1,data_source="s"},{name="a",rows=1,data_source="s"}]',
            "part a: stands there twice",
        ),
    ],
)  # fmt: skip
def test_presets_that_are_none(tmp_path, text, told):
    with pytest.raises(BadInput) as error:
        read_preset(str(toml(tmp_path / "p.toml", text)))
    assert str(error.value).replace(f"{tmp_path}/", "") == f"p.toml: {told}"


# ---------------------------------------------------------------- multiple choice


def options_of(text):
    return dict(re.findall(r"^\(([A-Z])\) (.*)$", text, re.MULTILINE))


def test_four_options_of_which_one_is_right():
    numbers = (
        [str(at) for at in range(40)] + [f"{at}.5" for at in range(20)] + ["\\frac{1}{2}", "x+1", "y", "2x", "z^2"]
    )
    maker = Choices(numbers, 4, seed=0)
    places = Counter()
    for number, gold in enumerate(numbers * 20):
        turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "What?"}]
        task = {"id": f"t{number}", "messages": turns, "answer": gold, "meta": {"level": 3}}
        made = maker.make(task)
        assert made["messages"][0] == task["messages"][0] and task["messages"][1]["content"] == "What?"
        found = options_of(made["messages"][1]["content"])
        assert (
            list(found) == list("ABCD")
            and list(found.values()) == made["meta"]["choices"]
            and made["meta"]["level"] == 3
        )
        [letter] = made["answer"]
        assert found[letter] == gold
        assert len({_value(text) for text in found.values()}) == 4  # 0.5 and 1/2 are one
        if gold.isdigit():
            assert all(text.isdigit() for text in found.values())
        places[letter] += 1
        said = f"<think></think>\\boxed{{({letter})}}"
        assert reward.compute_score("custom_mathqa_choice_math", said, made["answer"]) == 1
    share = len(numbers) * 20 / 4
    assert all(abs(count - share) < 5 * (share * 0.75) ** 0.5 for count in places.values())


def _value(text):
    text = re.sub(r"\\frac\{(\d)\}\{(\d)\}", r"\1/\2", text)
    try:
        return Fraction(text)
    except ValueError:
        return text


def test_choices_look_at_few_answers_however_many_there_are():
    """Work is counted: a task of 20,000 looks at as many of the pool as its options need."""

    class Counted(list):
        looked = 0

        def __getitem__(self, at):
            Counted.looked += 1
            return super().__getitem__(at)

        def __iter__(self):
            raise AssertionError("the whole pool was read")

    maker = Choices([str(at) for at in range(20_000)], 4, 0)
    maker.pool = {kind: Counted(found) for kind, found in maker.pool.items()}
    for number in range(50):
        maker.make({"id": f"t{number}", "prompt": "What?", "answer": [str(number)]})
    assert Counted.looked == 50 * 4


def test_every_wrong_option_is_as_likely(tmp_path):
    """Of 9 others 3 are drawn: each stands there in a third of the tasks."""
    maker = Choices([str(at) for at in range(10)], 4, 0)
    drawn = Counter()
    for number in range(3000):
        made = maker.make({"id": f"t{number}", "prompt": "What?", "answer": ["0"]})
        drawn.update(made["meta"]["choices"])
    assert drawn.pop("0") == 3000 and len(drawn) == 9
    assert all(abs(count - 1000) < 4 * (3000 * 2 / 9) ** 0.5 for count in drawn.values())


def test_chats_without_a_user_turn_make_no_choices():
    maker = Choices(["1", "2", "3", "4"], 4, 0)
    with pytest.raises(BadInput, match="id 't': messages: expected a user turn of text alone, to make choices of"):
        maker.make({"id": "t", "messages": [{"role": "system", "content": "s"}], "answer": ["1"]})


def test_choices_depend_on_seed_id_and_answers_alone():
    task = {"id": "t", "prompt": "What?", "answer": ["7"]}
    answers = [str(at) for at in range(20)]
    one = Choices(answers, 4, 0).make(task)
    assert Choices(answers[::-1] * 2, 4, 0).make(task) == one
    assert Choices(answers, 4, 1).make(task) != one
    assert one["prompt"].startswith("What?\n\n(A) ") and one["prompt"].endswith(
        "\n\nAnswer with the letter, in parentheses."
    )
    with pytest.raises(BadInput, match="4 choices need as many different answers among the tasks, found 3"):
        Choices(["1/2", "0.5", "2", "3"], 4, 0)


def test_the_part_for_choices_is_multiple_choice_and_what_is_already_stays(tmp_path):
    rows = [{"id": str(at), "prompt": "?", "answer": str(at)} for at in range(5)]
    rows.append({"id": "own", "prompt": "? (A) 1 (B) 2", "answer": "B", "meta": {"choices": ["1", "2"]}})
    path = write(tmp_path / "c.jsonl", rows)
    lines = mix("--part", f"math-choice={path}", "--allow-short", "-q").stdout.splitlines()
    found = {row["id"]: row for row in map(json.loads, lines)}
    assert found["math-choice/own"]["prompt"] == "? (A) 1 (B) 2" and found["math-choice/own"]["answer"] == "B"
    assert all(len(options_of(found[f"math-choice/{at}"]["prompt"])) == 4 for at in range(5))


def test_outputs_that_cannot_be(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "a", "prompt": "x", "answer": "y"}\n')
    options = ("--part", f"math={rows}", "--allow-short")
    done = keychain("mix", *options, "-o", tmp_path / "x.parquet")
    assert done.returncode == 2 and "mix writes JSON Lines; `convert --to verl -o" in done.stderr
    done = keychain("mix", *options, "--stage", "all", "-o", tmp_path / "no" / "folder")
    assert done.returncode == 2 and "does not exist; create it first" in done.stderr
    done = keychain("mix", *options, "--stage", "all", "-o", rows)
    assert done.returncode == 2 and "is a file; --stage all wants a folder there" in done.stderr


def test_rows_without_an_answer_are_told(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "a", "prompt": "x", "answer": null}\n')
    done = keychain("mix", "--part", f"math={rows}", "--allow-short", "-o", tmp_path / "out")
    assert done.returncode == 0 and "1 rows have no answer: their reward is 0 whatever is said" in done.stderr


def test_mined_rows_that_come_twice(tmp_path):
    mined = tmp_path / "mined.jsonl"
    mined.write_text('{"id": "math/a", "prompt": "x", "answer": "y", "meta": {"part": "math"}}\n' * 2)
    done = keychain("mix", "--stage", "2", "--mined", mined, "-o", tmp_path / "out")
    assert done.returncode == 2 and "mined.jsonl:2: id 'math/a': comes twice" in done.stderr
