"""Problems that are no mathematics: answers that are texts, and the rows of keychain-synth's training mix, from a file to a trained model; `meta` decides how an answer is compared."""

import importlib.util
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from grpo_scripted import answering, scripted, tokenizer_of

from grpo_roc import verify
from grpo_roc.cli import main
from grpo_roc.env import isolation
from tenfold_shared.records import validate

LEVEL = next(level for level in isolation.LEVELS if level not in isolation.probe())
ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "tools" / "grpo-roc" / "examples"
STRINGS = EXAMPLES / "strings.jsonl"
COMMON = ["--level", LEVEL, "--workers", 1, "--dtype", "float32", "--device", "cpu", "--deterministic"]


def grpo(*words):
    return CliRunner().invoke(main, list(map(str, words)), prog_name="grpo-roc")


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def wrote(path, records):
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


# ---------------------------------------------------------------- answers that are texts


def graded(gold, box, **meta):
    told = {"answer": gold, "turns": [{"text": f"<answer>\\boxed{{{box}}}</answer>", "calls": []}], "meta": {"compare": "text", **meta}}  # fmt: skip
    found = verify.settled(told, "answer")
    assert isinstance(found, dict)
    return found["grade"]


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        ("cat", ["cat", "CAT", "Cat.", "\\text{cat}", '"cat"', "'cat'", "``cat''", "`cat'", "\\texttt{`cat`}", "$\\mathrm{cat}$", "\\text{\\textbf{cat}}", "\u201ccat\u201d"], ["act", "cats", "c a t", "the cat", "cat, act"]),
        ("2024-03-15", ["2024-03-15", "\\text{2024-03-15}"], ["2006", "2024-15-03", "2024-03-14", "2024/03/15"]),
        ("a1b2", ["a1b2", "A1B2"], ["b2a1", "a2b1", "2a1b"]),
        ("XIV", ["xiv"], ["XVI", "14"]),
        ("green tea", ["green tea", "Green\\ tea", "green  tea", "green\ntea"], ["greentea", "tea green"]),
        ("fig, owl, pen", ["fig,owl,pen", "fig , owl, pen", "\\text{fig}, \\text{owl}, \\text{pen}"], ["pen, owl, fig", "fig owl pen", "fig, owl"]),
        ("e.g", ["e.g", "e.g."], ["eg"]),
        ("a_b", ["a\\_b", "\\text{a\\_b}"], ["ab", "a b"]),
        (["Lepanto", "Battle of Lepanto"], ["battle of lepanto", "Lepanto"], ["the Battle of Lepanto", "Lepant"]),
    ],
)  # fmt: skip
def test_a_text_is_right_as_a_text(gold, right, wrong):
    assert [box for box in right if graded(gold, box) != "correct"] == []
    assert [box for box in wrong if graded(gold, box) != "wrong"] == []


def test_a_text_is_equal_to_itself_in_any_dress_and_to_no_other_word():
    """Words of a few letters, in random order of dressing: what was put around them changes nothing, another word is another."""
    draw = random.Random(3)
    dresses = ["{}.", "\\text{{{}}}", "\\texttt{{{}}}", '"{}"', "``{}''", " {} ", "${}$", "\\mathrm{{{}}}"]
    for _ in range(500):
        word, other = ("".join(draw.choice("abcde1 -") for _ in range(draw.randrange(1, 6))).strip() or "a" for _ in "12")  # fmt: skip
        dressed = draw.choice([word, word.upper()])
        for dress in draw.choices(dresses, k=draw.randrange(4)):
            dressed = dress.format(dressed)
        assert graded(word, dressed) == "correct", (word, dressed)
        same = verify.plain_text(word) == verify.plain_text(other)
        assert same == (" ".join(word.split()) == " ".join(other.split()))
        assert graded(other, dressed) == ("correct" if same else "wrong")


def test_what_compare_may_say():
    assert graded("cat", "") == "wrong"
    told = {"answer": "cat", "turns": [{"text": "<answer>cat</answer>"}], "meta": {"compare": "text"}}
    assert verify.settled(told, "answer")["grade_reason"] == "no final answer in a box"
    for meta in ({"compare": "words"}, {"compare": "text", "match": "all"}):
        assert "meta.compare" in verify.settled({**told, "meta": meta}, "answer")["error"]
    deep = "\\text{" * 50_000 + "}" * 50_000
    assert graded("cat", deep) == "wrong"


def test_the_problems_are_what_their_programs_say(tmp_path):
    """The shipped file is what its generator writes, and each answer is what the environment gets from its program."""
    again = subprocess.run([sys.executable, EXAMPLES / "make_strings.py"], capture_output=True, check=True).stdout
    assert again == STRINGS.read_bytes()
    found = lines(STRINGS)
    assert len(found) >= 40 and len({one["id"] for one in found}) == len({one["prompt"] for one in found}) == len(found)
    for one in found:
        validate(one, "task")
        assert not one["answer"].replace(",", "").replace(".", "").isdigit()
    wrote(tmp_path / "calls.jsonl", [{"id": one["id"], "code": one["meta"]["program"]} for one in found])
    done = grpo("exec", tmp_path / "calls.jsonl", "--jsonl", "--level", LEVEL, "--workers", 1, "-o", tmp_path / "done.jsonl")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert [one["stdout"].strip() for one in lines(tmp_path / "done.jsonl")] == [one["answer"] for one in found]


def test_a_generator_of_many_and_of_other_seeds_repeats_nothing(capsys):
    spec = importlib.util.spec_from_file_location("make_strings", EXAMPLES / "make_strings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(64, 5)
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len({one["prompt"] for one in found}) == 64
    assert Counter(one["meta"]["kind"] for one in found) == {kind.__name__: 4 for kind in module.KINDS}


def test_eval_and_verify_grade_texts_alike(tmp_path):
    """A model that says `Sunday` or `act` for every problem: pass@1 is how often that is so, and by another way round verify agrees with what eval wrote."""
    torch.set_num_threads(1)
    weekdays = [one for one in lines(STRINGS) if one["meta"]["kind"] == "weekday"]
    tasks = [*weekdays, {"id": "cat", "prompt": "Meow?", "answer": "cat", "meta": {"compare": "text"}}, {"id": "sun", "prompt": "When?", "answer": "sunday", "meta": {"compare": "text"}}]  # fmt: skip
    wrote(tmp_path / "tasks.jsonl", tasks)
    model = scripted(tmp_path / "model", answering(Sunday=0.5, act=0.5))
    words = ["eval", tmp_path / "tasks.jsonl", "--model", model, "--samples", 16, "--max-tokens", 16, "--max-prompt", 4000, *COMMON, "--json", "-o", tmp_path / "said.jsonl"]  # fmt: skip
    done = grpo(*words)
    assert done.exit_code == 0, done.output
    told, said = json.loads(done.stdout), lines(tmp_path / "said.jsonl")
    right = {one["id"] for one in tasks if one["answer"].casefold() == "sunday"}
    assert right >= {"sun"} and "cat" not in right
    assert all(one["correct"] == (one["id"] in right and "Sunday" in one["response"]) for one in said)
    assert told["pass@1"] == pytest.approx(sum(one["correct"] for one in said) / len(said), abs=1e-6) and told["tasks"] == len(tasks)  # fmt: skip
    assert 0.25 < sum("Sunday" in one["response"] for one in said) / len(said) < 0.75
    bare = [{name: value for name, value in one.items() if name not in ("reward", "correct", "grade", "grade_reason")} for one in said]  # fmt: skip
    wrote(tmp_path / "bare.jsonl", bare)
    assert grpo("verify", tmp_path / "bare.jsonl", "-o", tmp_path / "graded.jsonl").exit_code == 0
    assert [one["correct"] for one in lines(tmp_path / "graded.jsonl")] == [one["correct"] for one in said]


def test_the_shipped_problems_are_asked_and_counted(tmp_path):
    """All of them, by a model that knows one word: pass@1 is the share of problems with that answer."""
    torch.set_num_threads(1)
    model = scripted(tmp_path / "model", answering(garden=1.0))
    done = grpo("eval", STRINGS, "--model", model, "--samples", 1, "--max-tokens", 16, "--max-prompt", 4000, *COMMON, "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    found = lines(STRINGS)
    share = sum(one["answer"] == "garden" for one in found) / len(found)
    assert share > 0 and json.loads(done.stdout)["pass@1"] == pytest.approx(share, abs=1e-6)


# ---------------------------------------------------------------- rows of keychain-synth

TOWNS = {"Ada": "Basel", "Bo": "Zug", "Cy": "Genf", "Di": "Zug"}


def keychain(*words):
    done = subprocess.run([Path(sys.executable).parent / "keychain-synth", *map(str, words)], capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_keychain_mix_trains(tmp_path):
    """Rows with chains, plain questions and needles with several values, small, through mix and train: rewards are those of the golds, a needle's only where all its values are said."""
    torch.set_num_threads(1)
    tokenizer = tmp_path / "tokenizer"
    tokenizer_of(["Zug"]).save_pretrained(tokenizer)
    questions = [
        {"id": f"q{k}", "question": f"Which town is {name} from?", "answers": [town], "paragraphs": [{"title": name, "text": f"{name} was born in {town}.", "is_supporting": True}, {"title": town, "text": f"{town} is a town."}]}
        for k, (name, town) in enumerate(TOWNS.items())
    ]  # fmt: skip
    wrote(tmp_path / "qa.jsonl", questions)
    small = ["--tokenizer", tokenizer, "--length", 1400, "--reserve", 32, "--max-drop-rate", 1, "-q"]
    keychain("synth", tmp_path / "qa.jsonl", *small, "--chains", 2, "--hops", 2, "-o", tmp_path / "chains.jsonl")
    keychain("synth", tmp_path / "qa.jsonl", *small, "--plain", "-o", tmp_path / "plain.jsonl")
    keychain("needle", "--tokenizer", tokenizer, "--kind", "multivalue", "--values", 2, "--length", 1400, "--depths", 50, "--per-depth", 1, "-q", "-o", tmp_path / "needles.jsonl")  # fmt: skip
    keychain("mix", "--scale", 0.0016, "--part", f"keychain-musique={tmp_path / 'chains.jsonl'}", "--part", f"qa-musique={tmp_path / 'plain.jsonl'}", "--part", f"needle-multivalue={tmp_path / 'needles.jsonl'}", "--allow-short", "-q", "-o", tmp_path / "mixed.jsonl")  # fmt: skip
    rows = {one["id"]: one for one in lines(tmp_path / "mixed.jsonl")}
    assert len(rows) == 9 and all("messages" in one and isinstance(one["answer"], list) for one in rows.values())
    (needle,) = [one for one in rows.values() if one["meta"].get("match") == "all"]
    model = scripted(tmp_path / "model", answering(Zug=0.5, **{needle["answer"][0]: 0.5}))
    words = ["train", tmp_path / "mixed.jsonl", "--model", model, "--steps", 2, "--prompts", 9, "--group-size", 4, "--lr", 1e-3, "--max-tokens", 16, "--max-prompt", 4000, "--slots", 16, "--keep-rollouts", 1, "-o", tmp_path / "run", *COMMON]  # fmt: skip
    done = grpo(*words)
    assert done.exit_code == 0, done.output
    assert "left out" not in done.output
    for step in (1, 2):
        said = lines(tmp_path / "run" / "rollouts" / f"{step}.jsonl")
        assert len(said) == 72 and {one["id"] for one in said} == set(rows)
        for one in said:
            box = one["response"].split("\\boxed{")[1].split("}")[0]
            gold = rows[one["id"]]["answer"]
            assert one["reward"] == (0.0 if one["id"] == needle["id"] else float(box in gold)), (box, gold)
            assert (
                one["prompt"] == rows[one["id"]]["messages"][-1]["content"] and one["meta"] == rows[one["id"]]["meta"]
            )
        metrics = lines(tmp_path / "run" / "metrics.jsonl")[step - 1]
        assert metrics["reward/mean"] == pytest.approx(sum(one["reward"] for one in said) / 72, abs=1e-6) and 0 < metrics["reward/mean"] < 1  # fmt: skip
        assert 0 < metrics["groups/kept"] <= 4 and metrics["update/skipped"] == 0  # those whose answer is Zug
    assert grpo("filter-hard", tmp_path / "run" / "rollouts" / "1.jsonl", "--max-correct", 7, "-o", tmp_path / "hard.jsonl").exit_code == 0  # fmt: skip
    assert all(one["meta"] == rows[one["id"]]["meta"] for one in lines(tmp_path / "hard.jsonl"))


def test_all_values_of_a_needle_are_wanted(tmp_path):
    """As rollouts grade it: one value of two is wrong, both are right in either order."""
    from grpo_roc.evaluate import task_of
    from grpo_roc.rollout import Rollouts, Settings, Trajectory

    task = task_of("x", {"id": "n", "prompt": "Which?", "answer": ["719", "266"], "meta": {"match": "all"}})
    grader = Rollouts.__new__(Rollouts)
    grader.settings = Settings()
    for box, right in (("719", False), ("719, 266", True), ("266, 719", True), ("719, 266, 1", False)):
        one = Trajectory("n", 0, task, 0, [], turns=[{"text": f"<answer>\\boxed{{{box}}}</answer>", "calls": []}], finish="stop")  # fmt: skip
        Rollouts._reward(one, grader._grade(one))
        assert one.reward == float(right), box
