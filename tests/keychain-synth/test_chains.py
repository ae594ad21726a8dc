"""Key chains on their own: ids, pairs, where they may stand, and that taking them out leaves the text as it was."""

import json
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keychain_synth import chains
from keychain_synth.resolver import Unresolved, resolve

QUESTIONS = ['Who wrote "Emma"?', "Which {river} is it:\n the Rhine?", "A \\ or B", "Où?", "Why\ttab?"]
FORMS = {"hex8": r"[0-9a-f]{8}", "hex32": r"[0-9a-f]{32}", "uuid": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"}


@pytest.mark.parametrize("style", FORMS)
@pytest.mark.parametrize("hops", [1, 2, 4, 7])
@pytest.mark.parametrize("structure", ["chain", "tree"])
def test_counts_and_shape(style, hops, structure):
    head, pairs = chains.make(random.Random(1), QUESTIONS, hops, style, structure)
    expected = hops if structure == "chain" else 2 ** (hops - 1)
    assert len(pairs) == expected * len(QUESTIONS)
    keys = [pair.key for pair in pairs]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(FORMS[style], key) for key in keys)
    values = [value for pair in pairs if not pair.last for value in
              ([pair.value] if isinstance(pair.value, str) else pair.value)]  # fmt: skip
    assert keys.count(head) == 1 and head not in values
    assert len(set(values)) == len(values)
    assert [pair.value for pair in pairs if pair.last] == QUESTIONS
    if structure == "chain":
        # Every id but the heads is a value once and a key once.
        assert sorted(values) == sorted(set(keys) - {pairs[at].key for at in range(0, len(pairs), hops)})


@given(
    st.integers(0, 10**6),
    st.sampled_from(["chain", "tree"]),
    st.integers(1, 6),
    st.lists(st.text(), min_size=1, max_size=6),
)
def test_text_alone_leads_to_the_first_question(seed, structure, hops, questions):
    """Whatever a question holds: quotes, braces, line ends. The resolver shares no code with the generator."""
    rng = random.Random(seed)
    questions = [f"q {question} ?" for question in questions]
    head, pairs = chains.make(rng, questions, hops, "hex8", structure)
    rng.shuffle(pairs)
    text = " ".join(pair.text for pair in pairs) + f'\n\nBegin with "{head}".'
    found = resolve(text)
    assert (found.question, found.steps, found.head) == (questions[0], hops, head)


def test_ids_are_drawn_again_where_they_collide():
    class Few(random.Random):
        """Repeats itself: the second id is the first one again."""

        def __init__(self):
            super().__init__(0)
            self.drawn = [1 << 100, 1 << 100, 2 << 100]

        def getrandbits(self, count):
            return self.drawn.pop(0)

    rng, taken = Few(), set()
    first, second = chains.new_id(rng, "hex8", taken), chains.new_id(rng, "hex8", taken)
    assert first != second and taken == {first, second} and not rng.drawn


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("One. Two? Three! Four", ["One.", "Two?", "Three!", "Four"]),
        ("Pi is 3.14159 or so. It is.", ["so.", "is."]),
        ("J. R. R. Tolkien wrote it. He did.", ["it.", "did."]),
        ("The U.S. Senate met Dr. Smith at St. Ives. It rained.", ["Ives.", "rained."]),
        ("See www.example.org/a.B for more. Then go.", ["more.", "go."]),
        ('He said "Go." She went.', ['"Go."', "went."]),
        ("It cost $5. 3 men paid.", ["$5.", "paid."]),
        ("No stop at all", ["all"]),
        ("Trailing space.  ", ["space."]),
        ("He was born c. 1200. He died.", ["1200.", "died."]),
        ("Wrocław. Élan began.", ["Wrocław.", "began."]),
        ("", []),
    ],
)
def test_safe_places(text, kept):
    found = chains.points(text)
    assert [text[:at].split()[-1] for at in found] == kept


@given(st.integers(0, 10**6), st.text(alphabet="ab .?!\n\"A1'é{}:", min_size=1, max_size=200))
def test_cutting_the_spans_out_gives_the_text_back(seed, text):
    rng = random.Random(seed)
    places = [(0, True)] + [(at, False) for at in chains.points(text)]
    chosen = sorted(rng.sample(places, rng.randint(0, len(places))))
    _, pairs = chains.make(rng, ['a "b" c'] * len(chosen) or ["x"], 1, "hex8", "chain")
    full, spans = chains.insert(text, chosen, pairs[: len(chosen)])
    assert len(spans) == len(chosen)
    for span in spans:
        inside = full[span["offset"] : span["offset"] + span["length"]].strip()
        assert inside[-1] == "." and json.loads(inside[:-1]) == {span["key"]: span["value"]}
    for span in reversed(spans):
        full = full[: span["offset"]] + full[span["offset"] + span["length"] :]
    assert full == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nothing here", "there are no pairs"),
        ('{"11111111": "22222222"}. {"22222222": "Q?"}.', "no key to begin with"),
        ('{"11111111": "22222222"}. {"11111111": "Q?"}. "11111111"', "stands there twice"),
        ('{"11111111": "22222222"}. {"33333333": "Q?"}. "44444444"', "has no pair"),
        ('{"11111111": "22222222"}. {"33333333": "Q?"}. "11111111"', "breaks off at 22222222"),
        ('{"11111111": "22222222"}. {"22222222": "11111111"}. "11111111"', "comes back"),
        ('{"11111111": ["22222222", "33333333"]}. {"22222222": "P?"}. {"33333333": "Q?"}. "11111111"', "found 2"),
    ],
)
def test_texts_that_do_not_resolve(text, reason):
    with pytest.raises(Unresolved, match=re.escape(reason)):
        resolve(text)
