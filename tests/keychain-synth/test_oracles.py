"""The laws of the construction over many rows, against closed forms; and solvers that know too little."""

import json
import math
import random
import re
import statistics

import pytest
from rows import item, write
from scipy.stats import binomtest, kstest

from keychain_synth import chains
from keychain_synth.corpus import build
from keychain_synth.row import RowMaker, Shape
from keychain_synth.tokens import Tokenizer


@pytest.fixture(scope="module")
def words():
    return Tokenizer("smollm2")


def maker(tmp_path, words, monkeypatch, made=None, **shape):
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path / "cache"))
    rng = random.Random(3)
    made = made or [item(number, rng, paragraphs=3, sentences=3) for number in range(120)]
    corpus = build([str(write(tmp_path / "qa", made))], [], "auto", words, True)
    return RowMaker(corpus, words, Shape(**shape))


def text_of(row):
    return row["messages"][-1]["content"]


def follow(text, head):
    pairs = dict(re.findall(r'\{"([0-9a-f]{8})": "((?:[^"\\]|\\.)*)"\}', text))
    steps = 0
    while head in pairs:
        head, steps = pairs[head], steps + 1
    return json.loads(f'"{head}"'), steps


@pytest.mark.parametrize(("length", "count"), [(512, 2), (1024, 4), (4096, 16), (16_384, 64), (131_072, 512)])
def test_chains_grow_with_the_length(length, count):
    """C = 4·L/1024 (KeyChain's published scripts)."""
    assert Shape().n_chains(length) == count == 4 * length // 1024


def test_solvers_that_know_too_little(tmp_path, words, monkeypatch):
    """Oracle 10: who follows the chain is always right; who takes a random chain, or the first question in the text,
    is right once in C."""
    make = maker(tmp_path, words, monkeypatch, hops=2, chains=5)
    rng = random.Random(0)
    right = {"resolver": 0, "random chain": 0, "first question": 0}
    total = 200
    for index in range(100):
        for length in (1500, 1600):
            row = make.make(index, length)
            text, wanted = text_of(row), row["meta"]["question"]
            pairs = re.findall(r'\{"([0-9a-f]{8})": "((?:[^"\\]|\\.)*)"\}', text)
            heads = {key for key, _ in pairs} - {value for _, value in pairs}
            assert len(heads) == 5 and len(pairs) == 10
            named = re.findall(r'"([0-9a-f]{8})"', text)[-1]
            right["resolver"] += follow(text, named) == (wanted, 2)
            right["random chain"] += follow(text, rng.choice(sorted(heads)))[0] == wanted
            right["first question"] += next(value for _, value in pairs if "?" in value) == json.dumps(wanted)[1:-1]
    assert right["resolver"] == total
    for solver in ("random chain", "first question"):
        assert binomtest(right[solver], total, 1 / 5).pvalue > 0.01, right


def test_pairs_stand_anywhere_and_in_any_order(tmp_path, words, monkeypatch):
    """Oracle 5: places uniform over the safe ones, which pair stands where is chance, none between header and title."""
    make = maker(tmp_path, words, monkeypatch, hops=3, chains=4)
    ranks, first, own = [], [], []
    for index in range(100):
        row = make.make(index, 1600)
        text, pairs = text_of(row), row["meta"]["pairs"]
        bare = text
        for pair in reversed(pairs):
            bare = bare[: pair["offset"]] + bare[pair["offset"] + pair["length"] :]
        for begin in re.finditer(r"^Passage \d+:\n(.*)$", text, re.MULTILINE):
            assert "{" not in begin[1]
        # Where pairs may stand: the beginning of each text and behind each of its sentences.
        places = []
        for found in re.finditer(r"^Passage \d+:\n.*\n(.*)", bare, re.MULTILINE):
            places += [found.start(1), *(found.start(1) + end for end in _ends(found[1]))]
        taken, gone = [], 0
        for pair in pairs:
            taken.append(places.index(pair["offset"] - gone))
            gone += pair["length"]
        assert len(set(taken)) == len(taken)
        ranks += [(each + random.Random(len(ranks) + each).random()) / len(places) for each in taken]
        order = [pair["chain"] for pair in pairs]
        first.append(order[0])
        own.append(next(at for at, pair in enumerate(pairs) if pair["key"] == row["meta"]["head"]))
    assert kstest(ranks, "uniform").pvalue > 0.01
    for chain in range(4):
        assert binomtest(first.count(chain), 100, 1 / 4).pvalue > 0.001
    assert abs(statistics.mean(own) - 5.5) < 4 * math.sqrt((144 - 1) / 12 / 100)  # of 12 pairs, none is favoured


def _ends(text):
    return [found.end() for found in re.finditer(r"\.(?= |$)", text)]


def test_rows_do_not_follow_one_another(tmp_path, words, monkeypatch):
    """Oracle 5: the gold slot of one row says nothing of the next one's."""
    make = maker(tmp_path, words, monkeypatch, plain=True, template="$context $question")
    slots = [(row["meta"]["gold_slots"][0] + 0.5) / row["meta"]["documents"]
             for row in (make.make(index, 1500) for index in range(120))]  # fmt: skip
    assert abs(statistics.correlation(slots[:-1], slots[1:])) < 3 / math.sqrt(119)
    assert kstest(slots, "uniform").pvalue > 0.01


def test_the_gaussian_order_is_the_published_one(tmp_path, words, monkeypatch):
    """Oracle 5: N(0, 0.30) clamped at ±0.95 over the slots: mean 0.5, sd 0.30/1.9 = 0.158; and clamped indeed."""
    make = maker(tmp_path, words, monkeypatch, order="core-gaussian")
    rng, total = random.Random(8), 2001
    slots = [make.order(rng, [0], range(1, total)).index(0) for _ in range(3000)]
    places = [slot / (total - 1) for slot in slots]
    assert statistics.mean(places) == pytest.approx(0.5, abs=0.02)
    # The clamp at 3.17 sd takes 0.03 % of the normal's sd away.
    assert statistics.stdev(places) == pytest.approx(0.30 / 1.9, abs=0.004)
    assert kstest([(place - 0.5) * 1.9 / 0.30 for place in places], "norm").pvalue > 0.01

    class Far(random.Random):
        def gauss(self, mu=0.0, sigma=1.0):
            return 5.0

    assert make.order(Far(0), [7], range(20, 30)).index(7) == 10  # clamped to the last slot
    with_two = make.order(Far(0), [7, 8], range(20, 30))  # both want the last one; the other goes where there is room
    assert with_two[10 + 1] == 7 and 8 in with_two and len(with_two) == 12


def test_ids_never_collide(monkeypatch):
    """Oracle 7: with 32 bits 2,048 ids collide in 1 row of 2,000; here with 12 bits, where nearly all would."""

    class Small(random.Random):
        def getrandbits(self, k):
            return super().getrandbits(12)

    for seed in range(3):
        head, pairs = chains.make(Small(seed), [f"Question {at}?" for at in range(512)], 4, "hex8", "chain")
        keys = [pair.key for pair in pairs]
        assert len(set(keys)) == len(keys) == 2048 and head in keys


def test_answerable_decoys_have_another_answer(tmp_path, words, monkeypatch):
    """Neither a longer nor a shorter form of the row's own answer, and no second document of a gold title."""
    rng = random.Random(1)
    made = [item(number, rng, paragraphs=2, sentences=2) for number in range(30)]
    for number, answer in ((1, "the Answer0"), (2, "answer0 river"), (3, "ANSWER0")):
        made[number]["answers"] = [answer]
        made[number]["paragraphs"][1]["text"] += f" By {answer}."
    made[4]["paragraphs"][0]["title"] = "topic 0-0"  # the title of another text
    made[5]["paragraphs"][0]["text"] += " Topic 0-1 lies by answer0."  # gives it away
    kept = set()
    for seed in range(12):
        make = maker(tmp_path, words, monkeypatch, made, hops=2, chains=9, decoys="answerable", answerable=8, seed=seed)
        meta = make.make(0, 3000)["meta"]
        assert sum(decoy["answerable"] for decoy in meta["decoys"]) >= 8
        kept |= {decoy["id"] for decoy in meta["decoys"][:8]}
    assert kept.isdisjoint({"q0", "q1", "q2", "q3", "q4", "q5"}) and len(kept) > 15


def test_a_decoy_never_holds_the_question(tmp_path, words, monkeypatch):
    rng = random.Random(2)
    made = [item(number, rng, paragraphs=2, sentences=2) for number in range(8)]
    made[1]["question"] = made[0]["question"].upper()
    made[2]["question"] = f"And then: {made[0]['question']}"
    make = maker(tmp_path, words, monkeypatch, made, hops=1, chains=6)
    for seed_length in (900, 950, 1000):
        meta = make.make(0, seed_length)["meta"]
        assert {decoy["id"] for decoy in meta["decoys"]} == {"q3", "q4", "q5", "q6", "q7"}


def test_near_decoys_are_near(tmp_path, words, monkeypatch):
    """The questions that share the row's rarest word come first."""
    rng = random.Random(4)
    made = [item(number, rng, paragraphs=2, sentences=2) for number in range(60)]
    for number in (0, 17, 33, 48):
        made[number]["question"] = f"Which zeppelin flew over number {number}, and when?"
    near = maker(tmp_path, words, monkeypatch, made, hops=1, chains=4, decoys="near").make(0, 1200)["meta"]
    assert {decoy["id"] for decoy in near["decoys"]} == {"q17", "q33", "q48"}


def test_fillers_share_no_title_and_hold_no_question(tmp_path, words, monkeypatch):
    rng = random.Random(5)
    made = [item(number, rng, paragraphs=2, sentences=2) for number in range(12)]
    made[1]["paragraphs"][1]["title"] = "TOPIC 0-0"  # of one of row 0's own documents, with another text
    made[2]["paragraphs"][1]["text"] += f" They asked: {made[0]['question'].lower()} Well."
    for seed in range(5):
        make = maker(tmp_path, words, monkeypatch, made, plain=True, template="$context\n$question", seed=seed)
        text = text_of(make.make(0, 4000))
        assert text.casefold().count("topic 0-0\n") == 1 and text.count("Passage") == 22
        assert text.casefold().count(made[0]["question"].casefold()) == 1


def test_a_pool_is_used_up(tmp_path, words, monkeypatch):
    """Where drawing at random no longer finds what fits, every document is looked at."""
    rng = random.Random(6)
    made = [item(number, rng, paragraphs=2, sentences=2) for number in range(200)]
    make = maker(tmp_path, words, monkeypatch, made, plain=True, template="$context\n$question")
    assert make.make(0, 1 << 17)["meta"]["documents"] == 400
