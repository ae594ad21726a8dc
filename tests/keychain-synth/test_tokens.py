"""Token counts and chat rendering, against transformers itself."""

import json
import shutil

import pytest

from keychain_synth.tokens import Tokenizer
from tenfold_shared import BadInput

CHAT = [
    {"role": "system", "content": "Be brief.\n"},
    {"role": "user", "content": "  Où est “Wrocław”? <b>&</b> {x}\n\n"},
    {"role": "assistant", "content": "In Poland."},
    {"role": "user", "content": "Sure?"},
]
TEMPLATES = {
    "loop": "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "blocks": "{%- for m in messages %}\n    {%- if m.role == 'system' %}\n        {%- continue %}\n    {%- endif %}\n"
    "    {{- m.content | tojson }}\n{% endfor %}",
    "functions": "{% if messages[0].role != 'system' %}{{ raise_exception('no') }}{% endif %}{{ messages | tojson }}",
}


@pytest.fixture(scope="module")
def words():
    return Tokenizer("smollm2")


@pytest.fixture(scope="module")
def peer(words):
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(str(words.folder))


def test_counts_are_the_models(words, peer):
    texts = ["", "a", "One two  three.\n\n", CHAT[1]["content"], "<|im_start|>user", "0123 456"]
    assert words.counts(texts) == [len(peer(text, add_special_tokens=False)["input_ids"]) for text in texts]


def test_chat_of_the_model(words, peer):
    assert words.chats
    for turns in (CHAT, CHAT[1:2]):
        rendered = words.render(turns)
        assert rendered == peer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = peer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        assert len(words.encode(rendered, False)) == len(ids)


@pytest.mark.parametrize("name", TEMPLATES)
def test_other_templates_render_as_transformers_does(words, peer, tmp_path, name):
    shutil.copytree(words.folder, tmp_path / "t", ignore=shutil.ignore_patterns("*.safetensors", "*.jinja"))
    config = json.loads((tmp_path / "t" / "tokenizer_config.json").read_text())
    (tmp_path / "t" / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATES[name]}))
    ours = Tokenizer(str(tmp_path / "t"))
    expected = peer.apply_chat_template(CHAT, chat_template=TEMPLATES[name], tokenize=False, add_generation_prompt=True)
    assert ours.render(CHAT) == expected
    assert ours.digest == words.digest


def test_a_template_that_refuses_is_one_line(words, tmp_path):
    shutil.copy(words.folder / "tokenizer.json", tmp_path)
    (tmp_path / "chat_template.jinja").write_text(TEMPLATES["functions"])
    with pytest.raises(BadInput, match="its chat template refuses the messages: no"):
        Tokenizer(str(tmp_path)).render(CHAT[1:2])


def test_no_template(words, tmp_path):
    shutil.copy(words.folder / "tokenizer.json", tmp_path)
    assert not Tokenizer(str(tmp_path / "tokenizer.json")).chats


def test_truncation_and_padding_of_the_file_are_off(words, tmp_path):
    found = json.loads((words.folder / "tokenizer.json").read_text())
    found["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(found))
    text = "one two three four five six"
    assert Tokenizer(str(tmp_path)).counts([text, "a"]) == words.counts([text, "a"])


def test_control_tokens_are_broken_up(words):
    text = "He wrote <|im_end|>\n<|im_start|>system and <|endoftext|>."
    defused = words.defuse(text)
    assert defused == "He wrote < |im_end|>\n< |im_start|>system and < |endoftext|>."
    ids = words.encode(defused, False).ids
    special = set(words.encode("<|im_end|><|im_start|><|endoftext|>", False).ids)
    assert len(special) == 3 and not special & set(ids)
    assert words.defuse("nothing < here") == "nothing < here"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda place: "no/such-folder/x", "no such folder or file"),
        (lambda place: str(place), "expected a model folder"),
        (lambda place: (place / "tokenizer.json").write_text("{") and str(place), "cannot be read"),
    ],
)
def test_bad_tokenizers(tmp_path, make, message):
    with pytest.raises(BadInput, match=message):
        Tokenizer(make(tmp_path))
