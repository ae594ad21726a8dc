"""What `make claims-keychain-synth` rests on: the invented world, the model's decoding, and the verdicts."""

import json
import random
import re
import sys
from pathlib import Path

import pytest
from rows import keychain, read

torch = pytest.importorskip("torch")
BENCH = Path(__file__).parents[2] / "tools" / "keychain-synth" / "bench"
sys.path.insert(0, str(BENCH))
try:
    import claims
    from tracing import training, world
    from tracing.model import Model
finally:
    sys.path.remove(str(BENCH))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Rows of the world with chains and plain ones, made by the tool, and what reads them."""
    folder = tmp_path_factory.mktemp("world")
    made = list(world.items(0, 300))
    claims.lines(folder / "items.jsonl", iter(made))
    world.write_tokenizer(folder / "tokenizer")
    for kind, options in {"keychain": ("--chains", "4", "--hops", "2"), "plain": ("--plain",)}.items():
        (folder / kind).write_text(world.TEMPLATES[kind])
        done = keychain("synth", folder / "items.jsonl", "--tokenizer", folder / "tokenizer", "--length", "256",
                        "--reserve", "40", "--prompt", "--template", folder / kind, *options, "-o",
                        folder / f"{kind}.jsonl", "-q")  # fmt: skip
        assert done.returncode == 0, done.stderr
    found = training.Rows(folder / "tokenizer", made)
    return found, {kind: read(folder / f"{kind}.jsonl") for kind in ("keychain", "plain")}


def test_the_world_never_contradicts_itself():
    items = list(world.items(3, 2000))
    assert items == list(world.items(3, 2000)) and items != list(world.items(4, 2000))
    titles = [each["title"] for item in items for each in item["paragraphs"]]
    assert len(set(titles)) == len(titles)  # every thing and person has one document
    assert not set(titles) & {item["answers"][0] for item in items}
    for item in items:
        first, second = (each["text"] for each in item["paragraphs"])
        person = re.fullmatch(r"(\w+ \w+) belongs to (\w+ \w+) \.", first)
        assert item["question"].startswith(person[1]) and second.startswith(person[2])
        assert second.endswith(f"{item['answers'][0]} .")


def test_sums_are_right():
    for task in world.sums(5, 500):
        assert eval(task["prompt"].removesuffix("=")) == int(task["answer"][0]) == task["meta"]["steps"][-1]
        assert all(0 <= step <= 20 for step in task["meta"]["steps"])


def test_keys_are_four_tokens_and_no_word_is_unknown(rows):
    reader, made = rows
    for row in made["keychain"] + made["plain"]:
        assert len(reader.tokens(row["prompt"])) == row["meta"]["tokens"] <= 216
    assert len(reader.tokens("12345678")) == len(reader.tokens("0a1b2c3d")) == 4
    with pytest.raises(ValueError, match="not of this world"):
        reader.tokens("elsewhere")


def test_responses_are_the_prompts_own_words(rows):
    """The trace is checked by an own reader of the prompt."""
    reader, made = rows
    for row in made["keychain"]:
        said = reader.response(row)
        pairs = re.findall(r'\{"([0-9a-f]{8})": "([^"]*)"\}\.', said)
        assert len(pairs) == 2 and pairs[0][0] == row["prompt"][-8:] and pairs[0][1] == pairs[1][0]
        assert pairs[1][1] == row["meta"]["question"]
        for key, value in pairs:
            assert json.dumps({key: value}) in row["prompt"]
        documents = re.search(r'"\}\. (\w[^{}"]* \.) (\w[^{}"]* \.) </think>', said)
        assert documents[1] in row["prompt"] and documents[2] in row["prompt"]
        assert said.endswith(f"\\boxed{{ {row['answer'][0]} }} <|end|>")
        assert reader.tokens(said)[-1] == reader.end
    for row in made["plain"]:
        assert reader.response(row).startswith(f"<think> {row['meta']['question']} ")


@pytest.mark.parametrize("layers", [1, 3])
def test_continuing_together_is_as_one_by_one(layers):
    """Texts of different lengths in one batch, with kept keys and values, against the whole text anew each token."""
    torch.manual_seed(layers)
    model = Model(60, 32, layers).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)  # so that tokens matter and the likeliest one changes
    rng = random.Random(0)
    prompts = [[rng.randrange(1, 60) for _ in range(size)] for size in (1, 2, 5, 17, 40)]
    wanted = []
    for prompt in prompts:
        text = list(prompt)
        for _ in range(15):
            scores = model.embed.weight @ model.hidden(torch.tensor([text]))[0, -1]
            token = int(scores.argmax())
            if token == 0:
                break
            text.append(token)
        wanted.append(text[len(prompt) :])
    assert model.continued(prompts, 15, 0) == wanted
    assert len({tuple(each) for each in wanted}) > 2 and max(len(set(each)) for each in wanted) > 3


def test_the_loss_is_of_the_masked_tokens():
    torch.manual_seed(0)
    model = Model(30, 32, 1)
    examples = [([1, 2, 3], [4, 5]), ([6], [7, 8, 9])]
    tokens, mask = training.padded(examples)
    wanted = []
    for prompt, response in examples:
        text = torch.tensor([prompt + response])
        scores = torch.log_softmax(model.hidden(text[:, :-1]) @ model.embed.weight.T, -1)[0]
        wanted += [-scores[len(prompt) - 1 + at, token] for at, token in enumerate(response)]
    assert model.loss(tokens, mask).item() == pytest.approx(float(sum(wanted) / len(wanted)), abs=1e-5)


def test_texts_to_copy_hold_each_piece_before():
    tokens, mask = training.copying(random.Random(1), 20, 96, 300)
    assert tokens.shape == (20, 96) and mask.shape == (20, 95) and mask.all()
    for text in tokens.tolist():
        pieces = {tuple(text[at : at + 4]) for at in range(44)}
        assert sum(tuple(text[at : at + 4]) in pieces for at in range(60, 92)) > 10


def test_a_model_learns_and_answers(rows, tmp_path):
    """A tiny one, by heart: the records carry what was said and whether the way was right."""
    reader, made = rows
    asked = made["keychain"][:2]
    settings = training.Settings(width=64, layers=1, base_steps=2, steps=250, batch=4, rate=5e-3, answer=64)
    sums = [reader.example(row) for row in world.sums(0, 30)]
    training.train_base(0, settings, sums, tmp_path / "base", lambda line: None)
    examples = [reader.example(row) for row in asked] * 2
    training.train_rows(0, settings, tmp_path / "base", examples, tmp_path / "taught", lambda line: None)
    told = list(training.answers(settings.model(tmp_path / "taught"), reader, asked, settings))
    assert [each["meta"]["traced"] for each in told] == [True, True]
    for each, row in zip(told, asked, strict=True):
        assert each["finish_reason"] == "stop" and each["response"].endswith(f"\\boxed{{ {row['answer'][0]} }}")
    untaught = list(training.answers(settings.model(), reader, asked, settings))
    assert not any(each["meta"]["traced"] for each in untaught)


def test_verdicts():
    many, few = [1.0] * 30 + [0.0] * 10, [1.0] * 10 + [0.0] * 30
    assert claims.order(many, few) == "yes" and claims.order(few, many) == "no"
    assert claims.order(many, many) == claims.order(many[:32], many) == "not_shown"
    assert claims.share(many) == (0.75, 0.5981, 0.8581)  # Wilson's interval by hand: (p + z²/2n ± …)/(1 + z²/n)
    assert claims.spread([0.2, 0.4]) == (0.3, 0.2, 0.4)


def test_all_parts_stand_behind_what_they_need():
    parts = claims.Study(quick=False).parts()
    seen = set()
    for name, (_, before) in parts.items():
        assert before is None or before in seen
        seen.add(name)
    assert len(parts) == 1 + 2 + 2 * 3 + 2 + 2 * 5
