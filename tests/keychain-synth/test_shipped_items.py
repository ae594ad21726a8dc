"""The items that ship with the tool: that the script makes them, and that they are questions as their publishers' are."""

import importlib.util
import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from keychain_files import HOTPOT, MUSIQUE, WIKI

from keychain_synth.items import COMPARISONS, YES_NO, Dropped, read_items

EXAMPLES = Path(__file__).parents[2] / "tools/keychain-synth/examples"


# ---------------------------------------------------------------- the items that ship with the tool


@pytest.fixture(scope="module")
def make():
    spec = importlib.util.spec_from_file_location("make_items", EXAMPLES / "make_items.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def asked(make):
    """(item, steps) of every shipped question, steps as in make_items.py."""
    found = []
    for name, table in ("hotpot.json", make.HOTPOT), ("musique.jsonl", make.MUSIQUE), ("2wiki.json", make.WIKI):
        items = list(read_items(str(EXAMPLES / name)))
        assert not [each for each in items if isinstance(each, Dropped)]
        found += [(item, row[-1]) for item, row in zip(items, table, strict=True)]
    return found


def has(answer, text):
    """Whether ANSWER stands in TEXT as whole words."""
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE) is not None


def test_shipped_files_come_from_the_script(make, tmp_path):
    make.write(tmp_path)
    for name in ("hotpot.json", "musique.jsonl", "2wiki.json"):
        assert (tmp_path / name).read_bytes() == (EXAMPLES / name).read_bytes()


def test_shipped_items_are_many_and_different(make, asked):
    assert len(asked) >= 60 and len({item.id for item, _ in asked}) == len(asked)
    assert len({item.question for item, _ in asked}) == len(asked)
    assert len({each.title for item, _ in asked for each in item.paragraphs}) >= 120
    texts = [" ".join(sentences) for sentences in make.SENTENCES.values()]
    assert len(set(texts)) == len(texts)
    assert all(2 <= len(sentences) <= 4 for sentences in make.SENTENCES.values())
    assert all(
        each.endswith(".") and each == each.strip() for sentences in make.SENTENCES.values() for each in sentences
    )
    assert {item.hops for item, _ in asked} == {2, 3, 4}


def test_shipped_items_hold_their_gold_and_two_to_six_distractors(asked):
    for item, steps in asked:
        gold = {each.title for each in item.paragraphs if each.supporting}
        assert gold == {title for title, *_ in steps}, item.question
        assert 2 <= len(item.paragraphs) - len(gold) <= 6
        titles = [each.title for each in item.paragraphs]
        assert len(set(titles)) == len(titles)
        assert item.hops == len(steps)


def test_shipped_steps_are_read_off_their_sentences(make, asked):
    for _, steps in asked:
        for title, sentence, _, answer in steps:
            assert has(answer, make.SENTENCES[title][sentence]), (title, answer)


def test_shipped_chains_lead_from_step_to_step_and_to_the_answer(asked):
    for item, steps in asked:
        if item.type in COMPARISONS:
            continue
        assert steps[-1][3] == item.answers[0]
        for (_, _, _, answer), (title, *_) in pairwise(steps):
            paragraph = next(each for each in item.paragraphs if each.title == title)
            assert has(answer, f"{paragraph.title} {paragraph.text}"), (answer, title)


def test_shipped_comparisons_follow_from_their_steps(asked):
    """yes and no say whether what is compared is the same; dates of birth say who was first."""
    for item, steps in asked:
        if item.type not in COMPARISONS:
            continue
        same = len({answer for *_, answer in steps[-2:]}) == 1
        if item.answers[0] in YES_NO:
            assert same == (item.answers[0] == "yes"), item.question
        elif item.type == "bridge_comparison":
            pick = max if "later" in item.question else min
            assert item.answers[0] == pick(steps[-2:], key=lambda step: int(step[3]))[0]
        elif item.answers[0] not in YES_NO:
            assert same and steps[0][3] == item.answers[0]


def test_shipped_questions_give_nothing_away(asked):
    """No answer in its question, in a distractor, or, along a chain, before the last document."""
    for item, steps in asked:
        assert not any(has(answer, item.question) for answer in item.answers), item.question
        if item.answers[0] in YES_NO:
            continue
        for each in item.paragraphs:
            early = item.type not in COMPARISONS and each.title != steps[-1][0]
            if early or not each.supporting:
                assert not has(item.answers[0], f"{each.title} {each.text}"), (item.question, each.title)


def test_shipped_musique_decompositions(asked):
    records = [json.loads(line) for line in (EXAMPLES / "musique.jsonl").read_text().splitlines()]
    for record in records:
        steps = record["question_decomposition"]
        chain, _, numbers = record["id"].partition("__")
        assert int(chain[0]) == len(steps) and numbers == "_".join(str(step["id"]) for step in steps)
        assert steps[-1]["answer"] == record["answer"]
        for index, step in enumerate(steps):
            support = record["paragraphs"][step["paragraph_support_idx"]]
            assert support["is_supporting"] and has(step["answer"], support["paragraph_text"])
            assert re.findall(r"#\d", step["question"]) == ([f"#{index}"] if index else [])
        assert set(record) == set(MUSIQUE) and set(steps[0]) == set(MUSIQUE["question_decomposition"][0])


@pytest.mark.parametrize("name, like, glue", [("hotpot.json", HOTPOT, ""), ("2wiki.json", WIKI, " ")])
def test_shipped_arrays_are_as_the_downloads(make, name, like, glue):
    for record in json.loads((EXAMPLES / name).read_text()):
        assert list(record) == list(like)
        context = dict(record["context"])
        assert all(sentence < len(context[title]) for title, sentence in record["supporting_facts"])
        assert all(glue.join(context[title]) == " ".join(make.SENTENCES[title]) for title in context)
        for subject, _, found in record.get("evidences", ()):
            assert any(title.startswith(subject) and has(found, " ".join(context[title])) for title in context)
