"""An invented world for small models: two-hop questions about it, sums, and a tokenizer with a word for each token.

Part of `make claims-keychain-synth`. Names are two words drawn from short lists, and every person and thing has one
item only, so that a text never contradicts itself and nothing can be known by heart: each answer must be found.
Keys of 8 hexadecimal digits are four tokens. A response says what it goes by, in the words of the prompt: the pairs
from the head to the question, or for plain rows the question; then both documents; then the answer in a box.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

END = "<|end|>"
THINK, ANSWER = "<think>", "</think>"
TEMPLATES = {"keychain": "$context\nStart at $head", "plain": "$context\nQuestion : $question"}

_ONSETS, _VOWELS, _ENDS = "klmnprstvz", "aiou", ("", "n", "s", "r")
_DONE = {"lives in": "home", "was born in": "birthplace", "works in": "workplace", "studied in": "school"}
_PLAIN = "belongs to Passage Start at Question . , : ? + - = \\boxed{ }".split()
_PUNCTUATION = ('{"', '":"', '"', '"}.')

Item = dict[str, Any]


def _names() -> list[str]:
    made = [a + v + e + b + w for a in _ONSETS for v in _VOWELS for e in _ENDS[:2] for b in "lmrt" for w in _VOWELS]
    random.Random(0).shuffle(made)
    return [name.capitalize() for name in made[:128]]


NAMES = _names()


def items(seed: int, count: int) -> Iterator[Item]:
    """Records of keychain-synth's generic form; a question asks after its thing's owner's home, school or so."""
    rng = random.Random(seed)
    pairs = [f"{first} {last}" for first in NAMES for last in NAMES]
    rng.shuffle(pairs)
    things, people, places = pairs[:count], pairs[count : 2 * count], pairs[2 * count :]
    for at, (thing, person) in enumerate(zip(things, people, strict=True)):
        verb, noun = rng.choice(list(_DONE.items()))
        place = rng.choice(places)
        yield {
            "id": f"w{seed}-{at:05}",
            "question": f"{thing} {noun} ?",
            "answers": [place],
            "paragraphs": [
                {"title": thing, "text": f"{thing} belongs to {person} .", "is_supporting": True},
                {"title": person, "text": f"{person} {verb} {place} .", "is_supporting": True},
            ],
        }


def sums(seed: int, count: int) -> Iterator[Item]:
    """Task records of three terms, each intermediate result from 0 to 19; `meta.steps` are the results in turn."""
    rng = random.Random(f"sums {seed}")
    for at in range(count):
        total, steps = rng.randrange(20), []
        said = str(total)
        for _ in range(2):
            sign = rng.choice("+-")
            term = rng.randrange(0, 20 - total if sign == "+" else total + 1)
            total = total + term if sign == "+" else total - term
            said += f" {sign} {term}"
            steps.append(total)
        yield {
            "schema": "task/1",
            "id": f"s{seed}-{at:05}",
            "prompt": f"{said} =",
            "answer": [str(total)],
            "meta": {"steps": steps},
        }


def trace(row: dict[str, Any]) -> list[str]:
    """The pairs of a row with chains, from its head to the question, as they stand in the prompt; else the question."""
    values, key = {pair["key"]: pair["value"] for pair in row["meta"].get("pairs", ())}, row["meta"].get("head")
    if key is None:
        return [row["meta"]["question"]]
    said = []
    while key in values:
        said.append(json.dumps({key: values[key]}) + ".")
        key = values[key]
    return said


def response(row: dict[str, Any], item: Item | None) -> str:
    """What a model is to learn to say; item: of a question row, None for a sum."""
    if item is None:
        said = [str(step) for step in row["meta"]["steps"]]
    else:
        said = [*trace(row), *(paragraph["text"] for paragraph in item["paragraphs"])]
    return f"{THINK} {' '.join(said)} {ANSWER} \\boxed{{ {row['answer'][0]} }} {END}"


def vocabulary() -> list[str]:
    pairs = [f"{value:02x}" for value in range(256)]
    words = {word for text in (*_DONE, *_DONE.values(), *_PLAIN) for word in text.split()}
    digits = [str(digit) for digit in range(10)]
    parts = [*digits, *pairs]  # of keys and of numbers; "10" to "99" are both
    return [END, THINK, ANSWER, "[UNK]", *dict.fromkeys([
        *_PUNCTUATION, *sorted(words), *NAMES, *parts, *(f"##{part}" for part in parts)])]  # fmt: skip


def write_tokenizer(folder: Path) -> None:
    """tokenizer.json: words and runs of JSON's punctuation are tokens, keys four pairs of digits."""
    from tokenizers import Regex, Tokenizer
    from tokenizers import normalizers as changes
    from tokenizers.models import WordPiece
    from tokenizers.pre_tokenizers import Sequence as Chain
    from tokenizers.pre_tokenizers import Split, WhitespaceSplit

    tokens = vocabulary()
    made = Tokenizer(WordPiece({token: at for at, token in enumerate(tokens)}, unk_token="[UNK]"))
    made.normalizer = changes.Replace('": "', '":"')  # one token between key and value
    made.pre_tokenizer = Chain([
        WhitespaceSplit(), Split(Regex(r'\{"|":"|"\}\.|"|(?<=[0-9])[:.]|\.$'), "isolated")])  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 1 << 20}))
