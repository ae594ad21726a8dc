"""Rewards: extraction, normal forms, every rule, and the call shapes of verl and TRL."""

import importlib.util
import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keychain_synth import reward as module
from keychain_synth.reward import (
    RULES,
    SOURCES,
    as_golds,
    choice,
    compute_score,
    every,
    exact,
    extract,
    f1,
    fold,
    normalize,
    one_way,
    reward,
    reward_for,
    string_match,
    trl_reward,
    two_way,
    two_way_guarded,
)
from keychain_synth.score import EXPLOITS, LABELLED

# ---- extraction


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"<think>hm</think>\boxed{Paris}", "Paris"),
        (r"hm</think>\boxed{Paris}", "Paris"),  # the template opened the tag in the prompt
        (r"<think>\boxed{Rome}</think>so \boxed{Paris}.", "Paris"),
        (r"</think>\boxed{Rome}</think>\boxed{Paris}", "Paris"),
        (r"</think>first \boxed{Rome}, no: \boxed{Paris}", "Paris"),
        (r"</think>**\boxed{Paris}**", "Paris"),
        (r"</think>\boxed{**Paris**}", "Paris"),
        (r"</think>\boxed{\text{Paris {I}} \frac{1}{2}}", r"\text{Paris {I}} \frac{1}{2}"),
        (r"</think>\boxed{a \} b}", r"a \} b"),
        (r"</think>\boxed{\boxed{Paris}}", "Paris"),
        (r"</think>\boxed {Paris}, said he", "Paris"),
        ("</think>\\boxed\n{Paris}", "Paris"),
        ("</think>$\\boxed 17$ metres", "17"),
        ("</think>\\boxed Paris\nThat is all.", "Paris"),
        (r"</think>\fbox{Paris}", "Paris"),
        (r"</think>\boxed{Paris} or \fbox{Rome}", "Paris"),
        (r"</think>\boxed{ Paris }", "Paris"),
        (r"</think>\boxed{Rome} \boxed{Paris", None),  # the last one never closes
        (r"</think>\boxed{}", None),
        (r"</think>\boxed{  }", None),
        (r"</think>put it in \boxed", None),
        (r"</think>\boxedPar{is}", None),
        (r"</think>Paris", None),
        (r"<think>\boxed{Paris}</think>Paris", None),
        (r"<think>\boxed{Paris}", None),
        (r"\boxed{Paris}", None),
        ("", None),
    ],
)
def test_extract(text, answer):
    assert extract(text) == answer


def test_the_closing_tag_is_wanted_always_never_or_where_one_opens():
    bare, opened, closed = r"\boxed{Paris}", r"<think>\boxed{Paris}", r"<think></think>\boxed{Paris}"
    assert [extract(text, True) for text in (bare, opened, closed)] == [None, None, "Paris"]
    assert [extract(text, None) for text in (bare, opened, closed)] == ["Paris", None, "Paris"]
    assert [extract(text, False) for text in (bare, opened, closed)] == ["Paris"] * 3


def test_extraction_of_hostile_text_is_quick():
    for text in (r"\boxed{" * 20_000, r"\boxed" + "{" * 50_000, r"\boxed " * 20_000, "*" * 50_000 + r"\boxed{x}"):
        extract(text, False)


# ---- normal forms


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("The Answer", "answer"),
        ("a cat and an owl", "cat and owl"),
        ("Arthur's Magazine", "arthurs magazine"),
        ("10 a.m.", "10 am"),  # punctuation before articles: the other order gives "10 m"
        ("U.S.A.", "usa"),
        ("  foo \t bar\n", "foo bar"),
        ("Beyoncé’s", "beyoncé’s"),
        ("there, theatre, an-d", "there theatre and"),
        (".", ""),
        ("the", ""),
    ],
)
def test_normalize(text, form):
    assert normalize(text) == form


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("Beyoncé’s", "beyonces"),
        ("Antonín Dvořák", "antonin dvorak"),
        ("Strømsgodset, Łódź, Straße, Æsop", "stromsgodset lodz strasse aesop"),
        ("\\text{The \\textbf{Beatles}}", "beatles"),
        ("ﬁlm １９６９", "film 1969"),
        ("1914–1918", "1914 1918"),
        ("3.5 and −2 and -7, well-known", "3.5 and -2 and -7 wellknown"),
        ("«Paris»…", "paris"),
        ("हिन्दी", "हिन्दी"),
        ("x'-5, a\u200bb", "x5 ab"),
        ("—", ""),
    ],
)
def test_fold(text, form):
    assert fold(text) == form


# ---- the fixed table, and the labelled one


@pytest.mark.parametrize(("gold", "prediction"), EXPLOITS)
def test_exploits_of_equation_3_and_the_guards(gold, prediction):
    assert two_way(prediction, gold) == 1
    assert two_way_guarded(prediction, gold) == 0
    assert exact(prediction, gold) == 0


def judged(rule, threshold=1.0):
    """(false positives, false negatives) on the labelled table."""
    given = [(max(rule(said, gold) for gold in as_golds(golds)) >= threshold, right) for golds, said, right in LABELLED]
    return given.count((True, False)), given.count((False, True))


def test_false_positives_and_negatives_on_labelled_answers():
    right = sum(right for *_, right in LABELLED)
    assert (len(LABELLED), right) == (98, 47)
    assert judged(two_way) == (41, 15)
    assert judged(two_way_guarded) == (10, 17)
    assert judged(exact) == (1, 36)
    assert judged(f1, 0.5) == (25, 12)
    assert judged(one_way) == (21, 21)


def test_what_the_guards_do_not_see():
    passed = {(gold, said) for gold, said, right in LABELLED if not right and two_way_guarded(said, gold)}
    assert passed == {
        ("I, Robot", "I"), ("University of Oxford", "University of"), ("Lake Superior", "the lake"),
        ("New York", "York"), ("North Korea", "Korea"), ("Johann Strauss II", "Johann Strauss"),
        ("Paris", "Paris, Texas"), ("Mercury", "Freddie Mercury"), ("Spain", "Spain and Portugal"),
        ("Rome", "Paris, London, Rome, Madrid"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("gold", "prediction", "value"),
    [
        ("one two three four five", "three four", 1),  # two words of the gold
        ("one two three four five", "three", 0),
        ("one two", "two", 1),  # half of it
        ("one two three", "two", 0),
        ("one two three four five", "two four", 0),  # not next to each other
        ("Rome", "Rome " + "x " * 8, 1),
        ("Rome", "Rome " + "x " * 9, 0),
        ("To be or not to be", "To be or not to be, by Hamlet", 1),  # the gold's own "or" and "not"
        ("noanswer", "no answer", 0),
        ("-5", "5", 0),
        ("5", "5.", 1),
        ("The The", "The The", 0),  # nothing is left of it
    ],
)
def test_guards_one_by_one(gold, prediction, value):
    assert two_way_guarded(prediction, gold) == value


# ---- against definitions written again


def plain_form(text):
    kept = "".join(char for char in text.lower() if char not in string.punctuation)
    return " ".join(word for word in kept.split() if word not in ("a", "an", "the"))


def inside(small, large):
    return any(large[at : at + len(small)] == small for at in range(len(large) - len(small) + 1))


def test_two_way_is_its_definition_on_random_strings():
    rng = random.Random(7)
    words = "a an the e ed Edward no not Norway 7 17 1.7 Rome rome, or ' . - U.S. b-c".split(" ")
    outcomes = set()
    for _ in range(100_000):
        gold, said = (" ".join(rng.choices(words, k=rng.randrange(1, 4))) for _ in range(2))
        one, other = plain_form(gold), plain_form(said)
        wanted = inside(one, other) or inside(other, one)
        assert two_way(said, gold) == wanted, (gold, said)
        outcomes.add(wanted)
    assert outcomes == {True, False}


TEXT = st.text(alphabet=st.sampled_from("abthe no7.,-'!TNe \n"), max_size=20)
ANY_TEXT = st.text(max_size=20)


@settings(max_examples=400, deadline=None)
@given(ANY_TEXT, ANY_TEXT)
def test_properties_of_all_text(one, other):
    assert two_way(one, other) == two_way(other, one)
    assert exact(one, other) == exact(other, one)
    assert f1(one, other) == f1(other, one)
    assert 0 <= f1(one, other) <= 1
    assert exact(one, other) <= two_way(one, other)
    assert one_way(one, other) <= two_way(one, other)
    assert max(one_way(one, other), one_way(other, one)) == two_way(one, other)
    assert two_way(one, one) == 1
    assert two_way_guarded(one, one) == bool(fold(one))
    if exact(one, other) and normalize(one):
        assert f1(one, other) == 1


@settings(max_examples=800, deadline=None)
@given(TEXT, TEXT)
def test_the_guards_only_take_away_in_ascii(one, other):
    """Where nothing is there to be folded; beyond it they also give: Beyonce is Beyoncé."""
    assert two_way_guarded(one, other) <= two_way(one, other)
    assert fold(fold(one)) == fold(one)


@settings(max_examples=300, deadline=None)
@given(ANY_TEXT.filter(lambda text: not set(text) & set("{}\\*")), st.booleans())
def test_what_is_boxed_comes_out(answer, think):
    text = f"<think>x</think> so \\boxed{{{answer}}}." if think else f"\\boxed{{{answer}}}"
    if "think>" not in answer:
        assert extract(text, think) == (answer.strip() or None)


# ---- other rules


def test_f1_counts_words():
    assert f1("new york city", "new york") == pytest.approx(0.8)
    assert f1("Yes, they are", "yes") == 0 == f1("yes", "yes they are")
    assert f1("yes", "Yes.") == 1
    assert f1("the", "a") == 0  # no words in common, for there are none


def test_one_way_and_its_guards():
    def guarded(text, golds=("Paris",), match="any"):
        return reward_for(text, golds, "one-way-guarded", match=match, require_think=False)

    assert one_way("Paris, France", "Paris") == 1 and one_way("Paris", "Paris, France") == 0
    assert guarded(r"\boxed{Paris, France}") == 1
    assert guarded(r"\boxed{Paris} \boxed{Paris}") == 0
    assert guarded(r"\boxed{\text{Paris}}") == 1
    assert guarded(r"\boxed{\textbf{\text{Paris}}}") == 0
    assert guarded(r"\boxed{Paris" + "x" * 128 + "}") == 1
    assert guarded(r"\boxed{Paris" + "x" * 129 + "}") == 0
    assert guarded(r"\boxed{Paris}" + "x" * 31) == 1  # and the brace
    assert guarded(r"\boxed{Paris}" + "x" * 32) == 0
    assert guarded(r"**\boxed{Paris}**") == 1
    assert guarded(r"\boxed{Paris, Rome}", ("Paris", "Rome"), "all") == 1
    assert guarded(r"\boxed{Paris, Rome" + "x" * 140 + "}", ("Paris", "Rome"), "all") == 0


@pytest.mark.parametrize(
    ("prediction", "gold", "value"),
    [
        ("(B)", "B", 1), ("B", "B", 1), ("b", "(B)", 1), ("B. 17 metres", "B", 1), ("(B) 17 metres", "B", 1),
        ("\\text{B}", "B", 1), ("\\textbf{(B)}", "B", 1), ("B)", "B", 1), ("(A)", "B", 0), ("(A) or (B)", "B", 0),
        ("A boat", "A", 0), ("17", "B", 0), ("", "B", 0), ("A", "A", 1),
    ],
)  # fmt: skip
def test_choice(prediction, gold, value):
    assert choice(prediction, gold) == value


def test_mathematics_is_the_shared_graders():
    assert compute_score("custom_math_dapo", r"</think>\boxed{\frac{1}{2}}", "0.5") == 1
    assert compute_score("custom_math_dapo", r"</think>\boxed{0.4}", ["0.5"]) == 0


# ---- several golds


def test_any_takes_the_best_alias():
    golds = ["Istanbul", "Constantinople"]
    for rule in RULES:
        if rule != "choice":
            assert reward_for(r"</think>\boxed{Constantinople}", golds, rule) == 1
    assert reward_for(r"</think>\boxed{Ankara}", golds) == 0
    assert reward_for(r"</think>\boxed{new york city}", ["york", "new york"], "f1") == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("prediction", "two", "guarded", "exactly", "share"),
    [
        ("111, 222, 333", 1, 1, 1, 1),
        ("333,111,222", 1, 1, 1, 1),
        ("222 and 111 and 333", 1, 1, 1, 0.75),
        ("111, 222", 0, 0, 0, 0.8),
        ("111, 222, 3334", 1, 0, 0, 2 / 3),
        ("111, 222, 333, 444", 1, 1, 0, 6 / 7),
        ("111 222 333 4 5 6 7 8 9 10 11", 1, 1, 0, 6 / 14),
        ("111 222 333 4 5 6 7 8 9 10 11 12", 1, 0, 0, 6 / 15),
        ("111 or 222 or 333", 1, 0, 0, 0.75),
    ],
)
def test_all_golds(prediction, two, guarded, exactly, share):
    golds = ["111", "222", "333"]
    assert every(prediction, golds, "two-way") == two
    assert every(prediction, golds, "two-way-guarded") == guarded
    assert every(prediction, golds, "exact") == exactly
    assert every(prediction, golds, "f1") == pytest.approx(share)
    text = f"</think>\\boxed{{{prediction}}}"
    assert reward_for(text, golds, "multi-value") == reward_for(text, golds, match="all") == two


@pytest.mark.parametrize(
    ("answer", "golds"),
    [("Paris", ["Paris"]), (["Paris", "Rome"], ["Paris", "Rome"]), (("Paris",), ["Paris"]), (17, ["17"]), (None, []),
     ("", []), ([None, " ", "x"], ["x"]), ([], [])],
)  # fmt: skip
def test_golds(answer, golds):
    assert as_golds(answer) == golds
    numpy = pytest.importorskip("numpy")
    if isinstance(answer, list):
        assert as_golds(numpy.array(answer, dtype=object)) == golds


def test_no_golds_is_no_reward_and_an_unknown_rule_is_told():
    assert reward_for(r"</think>\boxed{x}", []) == 0
    with pytest.raises(ValueError, match="reward 'two', match 'any': expected one of two-way, "):
        reward_for("", ["x"], "two")
    with pytest.raises(ValueError, match="match 'some': expected one of two-way, "):
        reward_for("", ["x"], match="some")
    with pytest.raises(ValueError, match=r"expected a function \(question, gold, prediction\) -> float as judge"):
        reward_for("", ["x"], "judge")


def test_a_judge_of_the_users_own():
    asked = []

    def judge(question, gold, prediction):
        asked.append((question, gold, prediction))
        return 0.75 if gold == "New York City" else 0.25

    golds = ["New York City", "New York"]
    assert reward_for(r"</think>\boxed{NYC}", golds, "judge", judge=judge, question="Where?") == 0.75
    assert asked == [("Where?", "New York City", "NYC"), ("Where?", "New York", "NYC")]
    assert reward_for(r"</think>\boxed{NYC}", golds, "judge", judge=judge, match="all") == 0.25
    assert reward_for("no box", golds, "judge", judge=judge) == 0
    # Beside a rule it is asked only where the rule says no.
    asked.clear()
    assert reward_for(r"</think>\boxed{New York}", golds, judge=judge) == 1 and not asked
    assert reward_for(r"</think>\boxed{NYC}", golds, judge=judge) == 0.75


# ---- RULER


def test_needle_rewards_agree_with_rulers_metric():
    golds = [[str(rng) for rng in range(start, start + 4)] for start in (1_000_000, 2_000_000, 3_000_000)]
    full, half, empty = [", ".join(one) for one in golds], [", ".join(one[:2]) for one in golds], ["", "", ""]
    for said, share, found in ((full, 1, 1), (half, 0.5, 1), (empty, 0, 0)):
        assert {string_match(text, gold, "all") for text, gold in zip(said, golds, strict=True)} == {share}
        assert {string_match(text, gold, "any") for text, gold in zip(said, golds, strict=True)} == {found}
    assert string_match("ABC", ["abc", "b", "z"], "all") == pytest.approx(
        2 / 3
    )  # without case; no words, no normal form
    for said, wanted in ((full, 1), (half, 0), (empty, 0)):
        for text, gold in zip(said, golds, strict=True):
            assert compute_score("custom_rulerniah_multivalue", f"</think>\\boxed{{{text}}}", gold) == wanted


# ---- verl


def test_sources_choose_the_rule():
    said = r"<think>x</think>\boxed{Snowden}"
    for source in ("custom_longcontextqa_hotpotqa", "custom_longcontext_needle_qa_musique-max_seq_16384"):
        assert compute_score(source, said, ["Edward Snowden"]) == 1.0
        assert isinstance(compute_score(source, said, ["Edward Snowden"]), float)
    assert compute_score("custom_sentence_needle_x", said, ["Edward Snowden"]) == 0
    assert compute_score("custom_sentence_needle_x", said, ["snowden"]) == 1
    assert compute_score("custom_mathqa_choice_math", r"</think>\boxed{(B)}", "B") == 1
    assert set(SOURCES.values()) <= set(module.REWARDS)
    with pytest.raises(ValueError, match="data_source 'openai/gsm8k': expected one that begins with custom_"):
        compute_score("openai/gsm8k", said, "1")


def test_the_rule_can_be_named():
    said = r"<think>x</think>\boxed{e}"
    assert compute_score("custom_longcontextqa_x", said, "Edward Snowden") == 1
    assert compute_score("custom_longcontextqa_x", said, "Edward Snowden", {"reward": "two-way-guarded"}) == 0
    assert compute_score("mine", said, "e", {"reward": "exact", "index": 3}) == 1
    assert compute_score("mine", said, "e", reward="exact") == 1
    assert compute_score("mine", said, "e", {"reward": None, "match": None}, reward="exact") == 1
    assert compute_score("mine", said, ["e", "f"], {"reward": "two-way", "match": "all"}) == 0
    assert compute_score("mine", r"\boxed{e}", "e", {"reward": "exact"}) == 0
    assert compute_score("mine", r"\boxed{e}", "e", {"reward": "exact", "require_think": False}) == 1


def test_verl_calls_it_by_keyword_by_position_and_loads_it_by_path():
    """As verl 0.9.1 does: reward_loop/naive.py, workers/reward_manager/prime.py, utils/import_utils.py."""
    spec = importlib.util.spec_from_file_location("custom_module_1", module.__file__)
    alone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alone)
    numpy = pytest.importorskip("numpy")
    info = {"split": "train", "index": 0, "num_turns": None, "rollout_reward_scores": {}}
    called = {
        "data_source": "custom_longcontextqa_x",
        "solution_str": r"<think>x</think>\boxed{Rome}",
        "ground_truth": numpy.array(["Rome"], dtype=object),
        "extra_info": info,
    }
    assert alone.compute_score(**called) == 1.0
    assert alone.compute_score(**called, reward_router_address="x", reward_model_tokenizer=None) == 1.0
    assert alone.compute_score(*called.values()) == 1.0
    assert alone.compute_score(**{**called, "extra_info": None}) == 1.0
    asked = []
    judge = lambda question, gold, prediction: asked.append(question) or 0.5  # noqa: E731
    info["input_question"] = "Where?"
    called["ground_truth"] = ["Oslo"]
    assert alone.compute_score(**called, judge=judge) == 0.5 and asked == ["Where?"]


# ---- TRL


def test_trl_with_text_and_with_messages():
    """As GRPOTrainer of TRL 1.16 calls it: keywords alone, columns as lists, objects of its own beside them."""
    texts = [r"<think>x</think>\boxed{Rome}", r"<think>x</think>\boxed{Oslo}", r"\boxed{Rome}"]
    more = {
        "prompts": ["Where?"] * 3, "completion_ids": [[1], [2], [3]], "id": ["a", "b", "c"], "trainer_state": object(),
        "log_extra": print, "log_metric": print,
    }  # fmt: skip
    answer = [["Rome"], ["Rome"], ["Rome"]]
    assert reward(completions=texts, answer=answer, **more) == [1.0, 0.0, 0.0]
    talks = [[{"role": "assistant", "content": text}] for text in texts]
    more["prompts"] = [[{"role": "user", "content": "Where?"}]] * 3
    assert reward(completions=talks, answer=answer, **more) == [1.0, 0.0, 0.0]
    assert trl_reward(require_think=False)(completions=talks, answer=["Rome"] * 3) == [1.0, 0.0, 1.0]
    assert reward.__name__ == "reward" == trl_reward("exact").__name__
    with pytest.raises(ValueError, match="argument 2 is"):
        reward(completions=texts, answer=answer[:2])


def test_trl_columns_and_split_reasoning():
    said = [
        [{"role": "assistant", "reasoning_content": "hm", "content": r"\boxed{1, 2}"}],
        [{"role": "assistant", "thinking": "hm", "content": [{"type": "text", "text": r"\boxed{1, 2}"}]}],
        [
            {"role": "assistant", "content": "call"},
            {"role": "tool", "content": "x"},
            {"role": "assistant", "content": r"</think>\boxed{(B)}"},
        ],
        [{"role": "assistant", "content": None}],
        [],
        [{"role": "assistant", "content": r"</think>\boxed{1}"}],
    ]
    found = reward(
        completions=said,
        answer=[["1", "3"], ["1", "3"], ["B"], ["B"], ["B"], None],
        meta=[{"match": "all"}, {"match": None}, None, None, None, None],
        data_source=["mine", "custom_longcontextqa_x", "custom_mathqa_choice_x", None, None, None],
    )
    assert found == [0.0, 1.0, 1.0, 0.0, 0.0, None]  # None: no gold, and TRL leaves the row out


def test_trl_judge_gets_the_question():
    asked = []
    judge = lambda *given: asked.append(given) or 1.0  # noqa: E731
    prompts = [[{"role": "system", "content": "s"}, {"role": "user", "content": "Where?"}], "When?"]
    judged = trl_reward("judge", require_think=None, judge=judge)
    assert judged(completions=[r"\boxed{x}", r"\boxed{y}"], answer=["g", "h"], prompts=prompts) == [1.0, 1.0]
    assert asked == [("Where?", "g", "x"), ("When?", "h", "y")]


# ---- what is no gold, and long responses


@pytest.mark.parametrize("gold", [{"answer": "x"}, ["x", {"y": 1}], [["x"]]])
def test_a_gold_that_is_no_text_is_refused(gold):
    with pytest.raises(TypeError, match="gold answer: expected text, a number or a list of them, got"):
        compute_score("custom_longcontextqa_x", "</think>\\boxed{answer x}", gold)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        (r"\text{New York}", "new york"),
        (r"\textbf{\mathrm{New} \emph{York}}", "new york"),
        (r"{\text{a}{b}", "{a{b}"),
        (r"\text{New", r"\text{new"),
        (r"a} b", "a} b"),
    ],
)
def test_fold_opens_text_commands(text, folded):
    """Each to the same normal form as its expected plain text."""
    assert fold(text) == fold(folded)


def test_deeply_nested_commands_cost_one_pass(monkeypatch):
    """Work is counted: each sign is looked at once, however deep commands are nested."""
    from keychain_synth import reward

    class Counted:
        def __init__(self, pattern):
            self.pattern, self.looked = pattern, 0

        def finditer(self, text):
            for found in self.pattern.finditer(text):
                self.looked += 1
                yield found

    counted = Counted(reward._STYLED)
    monkeypatch.setattr(reward, "_STYLED", counted)
    assert fold("\\text{" * 5000 + "Rome" + "}" * 5000) == "rome" and counted.looked == 10_000


@pytest.mark.parametrize(
    ("said", "gold"),
    [("1/2", "12"), ("3/5", "35"), ("1:0", "10"), ("10-12", "1012"), ("7-3", "73"), ("can't be Paris", "Paris"),
     ("It didn't happen in Paris", "Paris"), ("anything but Paris", "Paris"), ("no, Paris", "Paris"),
     ("without Paris", "Paris"), ("1999-2003", "1999")],
)  # fmt: skip
def test_guarded_is_not_taken_in(said, gold):
    assert two_way_guarded(said, gold) == 0


@pytest.mark.parametrize(
    ("said", "gold"), [("1/2", "1/2"), ("3:2", "3:2"), ("1999–2003", "1999-2003"), ("1,000", "1000"), ("−5", "-5")]
)
def test_guarded_knows_one_number_written_in_two_ways(said, gold):
    assert two_way_guarded(said, gold) == 1
