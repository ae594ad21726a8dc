"""`keychain-synth convert`: the forms of trainers and harnesses, field by field, and rows back from each of them."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import keychain, questions, read, write

from keychain_synth import reward
from keychain_synth.readers import read as read_line
from keychain_synth.resolver import pairs_in
from keychain_synth.row import CHAIN, PLAIN, SYSTEM
from keychain_synth.writers import ABILITIES, FORMS, WRITERS, Settings, data_source
from tenfold_shared import BadInput

HOLDING = [form for form in FORMS if form != "openai-batch"]
CARRYING = [form for form in HOLDING if form != "rows"]


def convert(*args, code=0, **more):
    done = keychain("convert", *args, **more)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Rows of every kind that the tool makes: chains, trees, plain, raw prompts."""
    folder = tmp_path_factory.mktemp("rows")
    qa = questions(folder / "qa.jsonl", 30)
    kinds = {"chain": [], "tree": ["--structure", "tree"], "plain": ["--plain"], "raw": ["--prompt"]}
    found = {}
    for name, args in kinds.items():
        found[name] = folder / f"{name}.jsonl"
        done = keychain("synth", qa, "--tokenizer", "smollm2", "--length", "2048", "--chains", "5", "--limit", "3",
                        "--workers", "1", "-q", *args, "-o", found[name])  # fmt: skip
        assert done.returncode == 0, done.stderr
    return found


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize("form", HOLDING)
@pytest.mark.parametrize("kind", ["chain", "tree", "plain", "raw"])
def test_rows_come_back_whole(tmp_path, made, kind, form):
    there = tmp_path / "there.jsonl"
    convert(made[kind], "--to", form, "-o", there)
    assert convert(there, "--to", "rows").stdout.splitlines() == made[kind].read_text().splitlines()


def test_rows_come_back_whole_from_parquet(tmp_path, made):
    parquet = pytest.importorskip("pyarrow.parquet")
    both = tmp_path / "train.parquet"
    convert(*made.values(), "--to", "verl", "--data-source", "custom_longcontextqa_x", "-o", both)
    assert convert(both, "--to", "rows").stdout == "".join(path.read_text() for path in made.values())
    table = parquet.read_table(both)
    assert table.column_names == ["data_source", "prompt", "ability", "reward_model", "extra_info"]
    lines = tmp_path / "train.jsonl"
    convert(*made.values(), "--to", "verl", "--data-source", "custom_longcontextqa_x", "-o", lines)
    assert table.to_pylist() == read(lines)
    again = tmp_path / "again.parquet"
    convert(*made.values(), "--to", "verl", "--data-source", "custom_longcontextqa_x", "-o", again)
    assert again.read_bytes() == both.read_bytes()


text = st.text(st.characters(codec="utf-8"), max_size=40)
answers = st.none() | text | st.lists(text, max_size=3)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | text,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(text, inner, max_size=2),
    max_leaves=4,
)


@st.composite
def records(draw):
    meta = draw(st.dictionaries(st.sampled_from(["a", "Ü", "note"]), json_values, max_size=2))
    meta |= {"data_source": "custom_math_x", "question": draw(text.filter(bool))}
    before, after = PLAIN.split("$context")
    body = before + draw(text) + after.replace("$question", meta["question"])
    record = {
        "id": draw(text),
        "answer": draw(answers),
        "meta": meta,
        **draw(st.dictionaries(st.just("more"), json_values)),
    }
    if draw(st.booleans()):
        return {**record, "prompt": body}
    turn = st.builds(lambda role, said: {"role": role, "content": said}, st.sampled_from(["system", "user"]), text)
    return {**record, "messages": [*draw(st.lists(turn, max_size=2)), {"role": "user", "content": body}]}


@settings(max_examples=150, deadline=None)
@given(record=records(), form=st.sampled_from(HOLDING))
def test_any_record_comes_back(record, form):
    line = json.loads(json.dumps(WRITERS[form]("f:1", 0, record, Settings()), ensure_ascii=False))
    assert read_line("f:1", 0, line) == record


@settings(max_examples=50, deadline=None)
@given(record=records(), form=st.sampled_from(CARRYING))
def test_without_task_what_a_form_holds_comes_back_all_the_same(record, form):
    line = WRITERS[form]("f:1", 7, record, Settings(carry=False))
    back = read_line("f:1", 7, line)
    asked = record["answer"]
    golds = [] if asked is None else [asked] if isinstance(asked, str) else asked
    assert back["answer"] == golds
    last = record["messages"][-1]["content"] if "messages" in record else record["prompt"]
    assert (back["prompt"] if form == "ruler" else back["messages"][-1]["content"]) == last


# ---------------------------------------------------------------- field by field


def test_verl_has_the_columns_of_the_loongrl_scripts(tmp_path, made):
    """examples/data_preprocess/longcontextqa_needle_like_dataset_system.py and its siblings."""
    out = tmp_path / "out.jsonl"
    convert(made["chain"], "--to", "verl", "--split", "test", "-o", out)
    for index, (line, row) in enumerate(zip(read(out), read(made["chain"]), strict=True)):
        assert list(line) == ["data_source", "prompt", "ability", "reward_model", "extra_info"]
        assert line["data_source"] == "custom_longcontext_needle_qa_generic" and line["ability"] == "longcontext_qa"
        assert line["prompt"] == row["messages"]
        assert line["reward_model"] == {"style": "rule", "ground_truth": row["answer"]}
        extra = line["extra_info"]
        assert (extra["split"], extra["index"], extra["input_question"]) == ("test", index, row["meta"]["question"])
        # The line as verl hands it to a reward function.
        said = f"<think>.</think>\\boxed{{{row['answer'][0]}}}"
        given = (line["data_source"], said, line["reward_model"]["ground_truth"], extra)
        assert reward.compute_score(*given) == 1 and reward.compute_score(given[0], "no", *given[2:]) == 0


def test_every_prefix_has_a_reward_and_an_ability():
    assert ABILITIES.keys() == reward.SOURCES.keys()
    assert data_source("f:1", {"meta": {"needles": [], "kind": "multikey"}}) == "custom_rulerniah_multikey"
    assert data_source("f:1", {"meta": {"pairs": [], "source": "musique"}}) == "custom_longcontextqa_musique"
    assert data_source("f:1", {"meta": {"data_source": "mine"}}, "other") == "other"


def test_answers_that_are_all_wanted_are_so_for_the_trainer_too():
    row = {
        "id": "a",
        "prompt": "?",
        "answer": ["1", "2"],
        "meta": {"match": "all", "data_source": "custom_longcontextqa_x"},
    }
    line = WRITERS["verl"]("f:1", 0, row, Settings())

    def scored(said):
        return reward.compute_score(
            line["data_source"], f"<think></think>\\boxed{{{said}}}", ["1", "2"], line["extra_info"]
        )

    assert scored("1 and 2") == 1 and scored("1") == 0


def test_messages_are_chat_lines_and_samples_end_in_their_response(tmp_path):
    row = {"id": "a", "messages": [{"role": "user", "content": "1+1?"}], "answer": "2"}
    samples = [{**row, "sample": at, "response": f"it is {at}"} for at in range(2)]
    path = write(tmp_path / "s.jsonl", [row, *samples])
    out = tmp_path / "out.jsonl"
    convert(path, "--to", "messages", "-o", out)
    first, *rest = read(out)
    assert first["messages"] == row["messages"] and first["answers"] == ["2"]
    assert [line["messages"][-1] for line in rest] == [
        {"role": "assistant", "content": f"it is {at}"} for at in range(2)
    ]
    assert convert(out, "--to", "rows").stdout == json_lines([row, *samples])
    # A line of another maker.
    swift = write(tmp_path / "swift.jsonl", [{"messages": [*row["messages"], {"role": "assistant", "content": "2"}]}])
    [back] = map(json.loads, convert(swift, "--to", "rows").stdout.splitlines())
    said = {"sample": 0, "response": "2"}
    assert back == {"schema": "sample/1", "id": "0", "messages": row["messages"], "answer": None, "meta": {}, **said}


def json_lines(records):
    return "".join(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n" for record in records)


def test_openai_batch_requests(tmp_path):
    chat = {"id": "a", "messages": [{"role": "user", "content": "1+1?"}], "answer": "2", "meta": {"x": 1}}
    raw = {"id": "b", "prompt": "1+1=", "answer": "2"}
    path, out = write(tmp_path / "r.jsonl", [chat, raw]), tmp_path / "out.jsonl"
    done = convert(path, "--to", "openai-batch", "--request-model", "m", "-n", "8", "--temperature", "1", "-o", out)
    sampling = {"temperature": 1.0, "top_p": 0.95, "max_tokens": 4096, "n": 8}
    assert read(out) == [
        {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
         "body": {"model": "m", "messages": chat["messages"], **sampling}},
        {"custom_id": "b", "method": "POST", "url": "/v1/completions",
         "body": {"model": "m", "prompt": "1+1=", **sampling}},
    ]  # fmt: skip
    assert done.stderr == "keychain-synth: 2 lines of form openai-batch; it does not hold: answers and meta\n"
    back = list(map(json.loads, convert(out, "--to", "rows").stdout.splitlines()))
    assert back == [
        {"schema": "task/1", "id": "a", "messages": chat["messages"]},
        {"schema": "task/1", "id": "b", "prompt": "1+1="},
    ]


def test_ruler_lines_hold_what_its_scripts_read(tmp_path):
    out, there = tmp_path / "needle.jsonl", tmp_path / "ruler.jsonl"
    meta = {"kind": "multivalue", "tokens": 90, "reserve": 10, "match": "all", "anchor": 1,
            "needles": [{"token": 5}, {"token": 40}]}  # fmt: skip
    row = {"id": "n", "messages": [{"role": "user", "content": "text"}], "answer": ["1", "2"], "meta": meta}
    convert(write(out, [row]), "--to", "ruler", "-o", there)
    [line] = read(there)
    others = line.pop("others")
    assert line == {"index": 0, "input": "text", "outputs": ["1", "2"], "length": 100, "length_w_model_temp": 100,
                    "answer_prefix": "", "token_position_answer": 40}  # fmt: skip
    assert others["id"] == "n"
    # niah.py's own output, without ours.
    foreign = {"index": 3, "input": "text", "outputs": ["1", "2"], "length": 9, "answer_prefix": " They are"}
    back = read_line("f:1", 0, foreign)
    meta = {"match": "all", "length": 9, "answer_prefix": " They are"}
    assert back == {"schema": "task/1", "id": "3", "prompt": "text", "answer": ["1", "2"], "meta": meta}


def test_keychain_lines_have_both_contexts_and_a_chain_that_leads_to_the_question(tmp_path, made):
    """Wangmerlyn/KeyChain: context is the text without chains, distractor_context the same with them."""
    for kind in ("chain", "tree"):
        out = tmp_path / f"{kind}.jsonl"
        convert(made[kind], "--to", "keychain", "--no-carry", "-o", out)
        for line, row in zip(read(out), read(made[kind]), strict=True):
            assert list(line) == ["index", "input", "context", "answers", "length", "distract_questions",
                                  "distractor_context", "chain_head_with_question"]  # fmt: skip
            assert line["input"] == row["meta"]["question"] and line["answers"] == row["answer"]
            assert line["length"] == row["meta"]["tokens"] + row["meta"]["reserve"] <= 2048
            assert len(line["distract_questions"]) == 4 and line["input"] not in line["distract_questions"]
            assert line["context"].startswith("Passage 1:\n") and not pairs_in(line["context"])
            pairs = pairs_in(line["distractor_context"])
            assert len(pairs) == len(row["meta"]["pairs"]) and line["chain_head_with_question"] in {
                pair.key for pair in pairs
            }
            # Cut out by an own expression: a pair, its full stop, and the space on its one side.
            bare = re.sub(r' ?\{"[0-9a-f]{8}": (?:"(?:[^"\\]|\\.)*"|\[[^\]]*\])\}\.', "", line["distractor_context"])
            assert re.sub(r"\n ", "\n", bare) == line["context"]


def test_longbench_lines_and_rows_from_those_of_others(tmp_path, made):
    out = tmp_path / "out.jsonl"
    done = convert(made["plain"], "--to", "longbench", "--no-carry", "-o", out)
    assert done.stderr.endswith("it does not hold: meta, system prompts and the instruction around the text\n")
    for line, row in zip(read(out), read(made["plain"]), strict=True):
        assert list(line) == ["input", "context", "answers", "length", "dataset", "language", "all_classes", "_id"]
        assert (line["language"], line["all_classes"], line["dataset"], line["_id"]) == (
            "en",
            None,
            "generic",
            row["id"],
        )
        back = read_line("f:1", 0, line)
        assert back["messages"] == row["messages"] and back["id"] == row["id"] and back["answer"] == row["answer"]
    # KeyChain's own rows become prompts of ours.
    theirs = {"index": 4, "input": "Who?", "context": "a", "answers": ["x"], "length": 9, "distract_questions": [],
              "distractor_context": "b", "chain_head_with_question": "0123abcd"}  # fmt: skip
    back = read_line("f:1", 0, theirs)
    asked = CHAIN.replace("$context", "b").replace("$head", "0123abcd")
    assert back["messages"] == [{"role": "system", "content": SYSTEM}, {"role": "user", "content": asked}]
    assert back["id"] == "4" and back["meta"] == {"question": "Who?", "head": "0123abcd"}


def test_published_verl_rows_are_read_by_their_own_fields():
    """DAPO-Math-17k (BytedTsinghua-SIA) has text as ground truth, LoongRL-Train-Data (OldKingMeister) a list."""
    turns = [{"role": "user", "content": "1+1?"}]
    dapo = {"data_source": "math_dapo", "prompt": turns, "ability": "MATH",
            "reward_model": {"ground_truth": "34", "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": "9a9b"}}  # fmt: skip
    assert read_line("f:1", 5, dapo) == {
        "schema": "task/1", "id": "math_dapo-9a9b", "messages": turns, "answer": ["34"],
        "meta": {"data_source": "math_dapo"},
    }  # fmt: skip
    needle = {"data_source": "custom_rulerniah_x", "prompt": turns, "reward_model": {"ground_truth": ["1", "2"]}}
    assert read_line("f:1", 5, needle)["meta"] == {"data_source": "custom_rulerniah_x", "match": "all"}
    assert read_line("f:1", 5, needle)["id"] == "custom_rulerniah_x-5"


def test_a_template_of_ones_own(tmp_path):
    template = tmp_path / "t.txt"
    template.write_text("Costs $$5. Text: ${context}\nNow, $question")
    row = {"id": "a", "prompt": "Costs $5. Text: $x yz\nNow, who?", "answer": "z", "meta": {"question": "who?"}}
    path = write(tmp_path / "r.jsonl", [row])
    told = convert(path, "--to", "longbench", "-o", tmp_path / "x.jsonl", code=2).stderr
    assert told.replace(f"{tmp_path}/", "") == (
        "keychain-synth: r.jsonl:1: the prompt is not of the built-in template, so that its text cannot be told from "
        "the instruction; give the --template it was made with\n"
    )
    [line] = map(json.loads, convert(path, "--to", "longbench", "--template", template).stdout.splitlines())
    assert line["context"] == "$x yz"


# ---------------------------------------------------------------- drawing, inputs, messages


def test_sample_draws_as_datasets_does(tmp_path):
    """The order of shuffle(seed=42) in datasets, which is numpy's default_rng(42).permutation: 5 6 0 7 3 2 4 9 1 8."""
    rows = [{"id": str(at), "prompt": "?", "meta": {"data_source": "custom_math_x"}} for at in range(10)]
    path = write(tmp_path / "r.jsonl", rows)
    lines = convert(path, "--to", "verl", "--sample", "4", "--split", "valid").stdout.splitlines()
    assert [json.loads(line)["extra_info"]["index"] for line in lines] == [5, 6, 0, 7]
    piped = convert(
        "-", "--to", "verl", "--sample", "4", "--split", "valid", stdin=path.read_text()
    ).stdout.splitlines()
    assert piped == lines
    assert len(convert(path, "--to", "verl", "--sample", "100").stdout.splitlines()) == 10


def test_arrays_and_byte_order_marks(tmp_path):
    rows = [{"id": str(at), "prompt": "ä"} for at in range(3)]
    array, marked = tmp_path / "a.json", tmp_path / "m.jsonl"
    array.write_text(json.dumps(rows, indent=1))
    marked.write_bytes(b"\xef\xbb\xbf" + json_lines(rows).encode())
    assert convert(array, "--to", "rows").stdout == convert(marked, "--to", "rows").stdout == json_lines(rows)


USER = [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    "line, told",
    [
        (
            {"a": 1, "b": 2},
            "no known form; expected rows or one of verl, messages, ruler, longbench, keychain, openai-batch; found "
            "the fields a, b",
        ),
        ({"prompt": "x", "reward_model": {"ground_truth": "1"}}, "prompt: expected array, got str"),
        ({"prompt": [{}], "reward_model": {}}, "prompt[0].role: expected, is not there"),
        ({"prompt": [], "reward_model": {}}, "prompt: expected array of length >= 1"),
        ({"prompt": USER, "reward_model": {}}, "reward_model.ground_truth: expected, is not there"),
        ({"prompt": USER, "reward_model": 3}, "reward_model: expected object, got int"),
        (
            {"prompt": USER, "reward_model": {"ground_truth": {"a": 1}}},
            "reward_model.ground_truth: expected float | str | array | null, got object",
        ),
        (
            {"prompt": USER, "reward_model": {"ground_truth": "1"}, "extra_info": []},
            "extra_info: expected object | null, got array",
        ),
        ({"input": "x", "outputs": "1"}, "outputs: expected array, got str"),
        ({"input": 3, "outputs": ["1"]}, "input: expected str, got int"),
        ({"input": "x", "outputs": ["1"], "others": 3}, "others: expected object | null, got int"),
        ({"input": "x", "context": None, "answers": []}, "context: expected str, got null"),
        ({"input": "x", "context": "y", "answers": "z"}, "answers: expected array | null, got str"),
        (
            {"input": "x", "context": "y", "chain_head_with_question": "k"},
            "distractor_context: expected, is not there",
        ),
        (
            {"input": "x", "context": "y", "answers": ["z"], "task": "{}", "frame": ["a"]},
            "frame: expected array of length 2, got 1",
        ),
        ({"messages": ["x"]}, "messages[0]: expected object, got str"),
        ({"messages": []}, "messages: expected array of length >= 1"),
        ({"messages": USER, "answers": [1]}, "answers[0]: expected str, got int"),
        ({"custom_id": "a", "body": "b"}, "body: expected object, got str"),
        ({"id": "a", "prompt": "x", "meta": {"pairs": 3}}, "meta.pairs: expected array | null, got int"),
        (
            {"id": "a", "prompt": "x", "meta": {"needles": [{}], "anchor": 0}},
            "meta.needles[0].token: expected, is not there",
        ),
        (
            {"messages": [{"role": "user", "content": "x"}], "task": "{"},
            "task: expected a record as JSON text, as `keychain-synth convert` writes it",
        ),
        ({"custom_id": "a", "body": {}}, "body: expected messages or prompt in it; results of a batch are for `score`"),
        ({"id": 5, "prompt": "x"}, "id: expected str, got int"),
    ],
)
def test_lines_that_are_of_no_form(line, told):
    with pytest.raises(BadInput) as error:
        read_line("f:1", 0, line)
    assert str(error.value) == f"f:1: {told}"


def test_messages_for_what_cannot_be_written(tmp_path):
    bare = write(tmp_path / "r.jsonl", [{"id": "a", "prompt": "x"}])
    told = convert(bare, "--to", "verl", "-o", tmp_path / "o.jsonl", code=2).stderr
    assert told.endswith(
        "r.jsonl:1: meta.data_source: nothing says which reward this row has; give --data-source, such as "
        "custom_math_x\n"
    )
    told = convert(bare, "--to", "messages", "-o", tmp_path / "o.parquet", code=2).stderr
    assert told.endswith("only --to verl is written as parquet; give messages a name that ends in .jsonl\n")
    told = convert(bare, "--to", "rows", "--form", "verl", code=2).stderr
    assert told.endswith("r.jsonl:1: --form verl: this line is of another form; found the fields id, prompt\n")
    mixed = write(tmp_path / "m.jsonl", [{"x": 1}, {"id": "a", "prompt": "x"}])
    done = convert(mixed, "--to", "rows", "--skip-bad", "1")
    assert done.stdout == '{"id":"a","prompt":"x"}\n' and "skipped: " in done.stderr
    parts = write(tmp_path / "p.jsonl", [{"id": "a", "messages": [{"role": "user", "content": [{"type": "text"}]}]}])
    told = convert(parts, "--to", "ruler", code=2).stderr
    assert told.endswith("p.jsonl:1: messages: expected text in the last user turn; this form holds nothing else\n")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    import sys

    from keychain_synth.parquet import Parquet
    from tenfold_shared import Missing

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(Missing) as error:
        Parquet("x.parquet")
    assert str(error.value) == "x.parquet: pyarrow is not installed: pip install 'keychain-synth[parquet]'"


def test_a_finished_output_is_left_and_another_split_is_refused(tmp_path, made):
    out = tmp_path / "out.jsonl"
    convert(made["plain"], "--to", "verl", "-o", out)
    assert "complete already" in convert(made["plain"], "--to", "verl", "-o", out).stderr
    assert "--split" in convert(made["plain"], "--to", "verl", "--split", "test", "-o", out, code=2).stderr


def test_rows_of_one_id_are_told(tmp_path):
    path = write(tmp_path / "r.jsonl", [{"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"}])
    done = convert(path, "--to", "rows")
    assert len(done.stdout.splitlines()) == 2 and "1 rows have the id of another one" in done.stderr


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("x.jsonl", '{"id": "a", "prompt": "x", "meta": {"needles": [{"token": 1}], "anchor": 4}}\n',
         "x.jsonl:1: meta.anchor: expected the number of one of its 1 needles"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_converted(tmp_path, name, content, told):
    path = tmp_path / name
    path.write_text(content)
    done = convert(path, "--to", "ruler", "-o", tmp_path / "out.jsonl", code=2)
    assert told in done.stderr and not (tmp_path / "out.jsonl").exists()


def test_parquet_is_packed_inside(tmp_path):
    path = write(tmp_path / "r.jsonl", [{"id": "a", "prompt": "x"}])
    done = convert(path, "--to", "verl", "-o", tmp_path / "out.parquet.gz", code=2)
    assert "out.parquet.gz: parquet is packed inside; leave the last suffix out" in done.stderr


def test_what_would_be_lost_is_told(tmp_path):
    rows = [{"id": "a", "prompt": "x", "meta": {"data_source": "custom_math_x"}, "answer": None},
            {"id": "b", "prompt": "x", "meta": {"data_source": "custom_math_x"}, "answer": "1"}]  # fmt: skip
    assert "1 rows have no answer" in convert(write(tmp_path / "r.jsonl", rows), "--to", "verl").stderr
    both = [{"id": "a", "prompt": "x", "sample": at, "response": "y", "finish_reason": "stop"} for at in (0, 1)]
    path = write(tmp_path / "s.jsonl", both)
    assert "1 rows have the id of another one" in convert(path, "--to", "openai-batch").stderr
    assert "id of another" not in convert(path, "--to", "rows").stderr
    nulls = {"prompt": USER, "reward_model": {"ground_truth": ["a", None, 3.0]}}
    assert read_line("f:1", 0, nulls)["answer"] == ["a", "3"]


@pytest.mark.parametrize(
    ("meta", "to", "told"),
    [
        ({"tokens": None, "reserve": None}, "ruler", None),
        ({"pairs": [{"key": "k", "value": "v", "offset": 0, "length": 1}]}, "keychain", "meta.head: expected the key"),
        ({"needles": None, "pairs": None}, "verl", "meta.data_source: nothing says which reward this row has"),
    ],
)
def test_nulls_in_meta(tmp_path, meta, to, told):
    """A row that cannot be written counts as a bad one."""
    text = PLAIN.replace("$context", "c").replace("$question", "q")
    row = {"id": "a", "prompt": text, "answer": "x", "meta": {**meta, "question": "q"}}
    good = {"id": "b", "prompt": text, "answer": "x", "meta": {"question": "q", "data_source": "custom_math_x"}}
    path = write(tmp_path / "r.jsonl", [row, good])
    done = convert(path, "--to", to, code=2 if told else 0)
    assert "Traceback" not in done.stderr and (told is None or f"r.jsonl:1: {told}" in done.stderr)
    assert len(convert(path, "--to", to, "--skip-bad", "1").stdout.splitlines()) == (1 if told else 2)


def test_the_beginning_of_an_answer_comes_back(tmp_path):
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "It is"}]
    row = {"id": "a", "messages": turns, "answer": "y"}
    there = convert(write(tmp_path / "r.jsonl", [row]), "--to", "messages").stdout
    back = json.loads(convert("-", "--to", "rows", stdin=there).stdout)
    assert back["messages"] == turns and "response" not in back
