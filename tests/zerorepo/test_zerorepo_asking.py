"""Asking: what is sent, what is kept, what is asked again, when it ends."""

import json

import pytest
from zerorepo_scripted import Scripted

from tenfold_shared import Missing
from tenfold_shared.generate import Sampling
from tenfold_shared.jsonl import Journal
from zerorepo.generation.asking import TRIES, Ask, Asker, OverBudget, label


def asker(answer, **more):
    back = Scripted(answer)
    return back, Asker(back, Sampling(), 0, **more)


def ask(subject="it", **more):
    return Ask("role", subject, "the stable part", "what is it?", **more)


def number(value):
    if not isinstance(value.get("n"), int):
        raise ValueError("n: expected a whole number")
    return value["n"]


@pytest.mark.parametrize(
    "text",
    ['{"n": 3}', 'Sure! {"n": 3} as you asked.', '```json\n{"n": 3}\n```', '<think>{"n": 9}</think>{"n": 3}',
     'first {"m": 1}, then {"n": 3}', '{"n": 3'  '}' , '\ufeff{"n": 3}'],
)  # fmt: skip
def test_an_object_is_found_in_whatever_surrounds_it(text):
    back, one = asker(lambda request: text)
    assert one.checked(ask(), number, ("n",)) == 3
    assert len(back.asked) == 1 and one.refused == {}


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("I cannot.", "no JSON object"),
        ('{"n": 3', "not whole"),
        ('{"n": 3, "n": 4}', "twice"),
        ('{"n": NaN}', "not whole"),
        ('{"n": "three"}', "expected a whole number"),
        (('{"n": 3}', "length"), "cut off"),
        ('{"n": 3}' + " " * 200_001, "characters"),
        ("", "no JSON object"),
    ],
)
def test_an_unusable_answer_is_asked_for_again_with_what_was_wrong(answer, why):
    answers = iter([answer, answer, '{"n": 7}'])
    back, one = asker(lambda request: next(answers))
    assert one.checked(ask(), number, ("n",)) == 7
    assert [request.key for request in back.asked] == ["role|it|0|0", "role|it|1|0", "role|it|2|0"]
    users = [request.messages[1]["content"] for request in back.asked]
    assert users[0] == "what is it?" and all(why in user for user in users[1:])
    assert {request.messages[0]["content"] for request in back.asked} == {"the stable part"}
    assert len({request.seed for request in back.asked}) == 3


def test_after_three_unusable_answers_that_one_is_given_up_and_recorded():
    back, one = asker(lambda request: "no" if "bad" in request.key else '{"n": 1}')
    found = one.checked_all(
        [(ask("good"), number, ("n",)), (ask("bad"), number, ("n",)), (ask("fine"), number, ("n",))]
    )
    assert found == [1, None, 1]
    assert list(one.refused) == ["role bad"] and "no JSON object" in one.refused["role bad"]
    assert len(back.asked) == 2 + TRIES


def test_answers_are_journalled_before_they_are_used_and_not_asked_for_again(tmp_path):
    journal = Journal(tmp_path / "journal", {})
    _, one = asker(lambda request: '{"n": 5}', journal=journal)
    assert one.checked(ask(), number, ("n",)) == 5
    journal.close(remove=False)
    (tmp_path / "journal").write_bytes((tmp_path / "journal").read_bytes() + b'["torn')
    again, other = asker(lambda request: pytest.fail("asked again"), journal=Journal(tmp_path / "journal", {}))
    assert other.checked(ask(), number, ("n",)) == 5
    assert other.tokens == one.tokens == 15 and other.models == {"scripted"} and again.asked == []


def test_an_error_is_no_answer_and_is_asked_anew_by_the_next_run(tmp_path):
    journal = Journal(tmp_path / "journal", {})
    _, one = asker(lambda request: ("server down", "error"), journal=journal)
    with pytest.raises(Missing, match="no answer: server down"):
        one.checked(ask(), number)
    assert not journal.where
    _, other = asker(lambda request: '{"n": 5}', journal=journal)
    assert other.checked(ask(), number) == 5


@pytest.mark.parametrize("other", [{"subject": "other"}, {"sample": 1}, {"turn": 1}])
def test_another_question_is_another_entry(tmp_path, other):
    journal = Journal(tmp_path / "journal", {})
    _, one = asker(lambda request: request.key, journal=journal)
    first = one.all([ask()])[0]
    assert one.known(ask()) == first and one.known(ask(**other)) is None


def test_samples_of_one_question_have_their_own_seeds():
    back, one = asker(lambda request: request.key)
    found = one.all([ask(sample=n) for n in range(5)])
    assert [answer.text for answer in found] == [f"role|it|0|{n}" for n in range(5)]
    assert len({request.seed for request in back.asked}) == 5


def test_a_budget_is_not_gone_beyond_by_more_than_an_answer():
    back, one = asker(lambda request: "x", budget=40)
    with pytest.raises(OverBudget, match=r"45 of 40|40"):
        one.all([ask(str(n)) for n in range(10)])
    assert len(back.asked) == 3 and one.tokens == 45


def test_what_it_cost_is_told_by_role():
    _, one = asker(lambda request: "x")
    one.all([ask("a"), ask("b"), Ask("judge", "a", "", "")])
    assert {role: (spent.calls, spent.prompt_tokens) for role, spent in one.spent.items()} == {
        "role": (2, 20),
        "judge": (1, 10),
    }


def test_secrets_do_not_leave(tmp_path):
    key = "sk-" + "0a1B2c3D" * 5
    journal = Journal(tmp_path / "journal", {})
    back, one = asker(lambda request: "x", journal=journal)
    one.all([Ask("role", "it", f"see https://me:secret@host/ and {key}", f'TOKEN = "{key}"')])
    sent = json.dumps(back.asked[0].messages)
    assert key not in sent and "secret@" not in sent and sent.count("[redacted]") == 2
    assert key.encode() not in (tmp_path / "journal").read_bytes()


def test_what_is_no_model_is_called_so():
    assert label(["fault:x?q=0.3", "m"]) == "fault:x?q=0.3 (no model: it reads a hidden repository), m"
    assert label([]) == "nothing was asked"


@pytest.mark.parametrize(
    "why",
    ["HTTP 400: this model's maximum context length is 4096 tokens", "HTTP 422: no", "the prompt's 9000 tokens and max_tokens 512 exceed the model's context of 8192"],
)  # fmt: skip
def test_a_question_that_is_refused_costs_its_subject_alone(why):
    _, one = asker(lambda request: (why, "error") if "bad" in request.key else '{"n": 1}')
    assert one.checked_all([(ask("bad"), number, ("n",)), (ask("good"), number, ("n",))]) == [None, 1]
    assert why in one.refused["role bad"]
