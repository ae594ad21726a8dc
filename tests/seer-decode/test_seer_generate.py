"""generate and eval: transformers' own tokens where everything is read, traces, resumes, batches, grades and their interval."""

import json

import pytest
import torch
from seer_models import here, seer
from tiny_models import make_lm, make_tokenizer

from seer_decode import evaluate, generate
from seer_decode.cache import SeerCache, attached
from seer_decode.evaluate import summary, wilson
from seer_decode.generate import Reading
from seer_decode.select import Policy
from tenfold_shared import BadInput

PROMPTS = [
    "the quick brown fox jumps over the lazy dog",
    "what is one plus two?",
    "the dog, and then the dog sleeps. the end",
]


@pytest.fixture
def tasks(tmp_path):
    lines = [{"id": str(at), "prompt": prompt, "meta": {"kept": at}} for at, prompt in enumerate(PROMPTS)]
    lines.append({"id": "chat", "messages": [{"role": "user", "content": "what?"}]})
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "tasks.jsonl"


def read(path):
    return [json.loads(line) for line in open(path, encoding="utf-8")]


def made(model, tasks, out, *more):
    done = here("generate", tasks, "--model", model, "--dtype", "float32", "-o", out, "-q", *more)
    assert done.returncode == 0, done.stderr
    return read(out)


def test_a_budget_that_holds_everything_gives_transformers_tokens(model, gates, tasks, tmp_path):
    """256 greedy tokens of its own generate, for every method, alone and in a batch of ragged prompts."""
    lm, tokenizer = make_lm(max_position_embeddings=2048, head_dim=8), make_tokenizer()
    expected = []
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        out = lm.generate(ids, max_new_tokens=256, do_sample=False, pad_token_id=0)[0, ids.shape[1] :].tolist()
        expected.append(tokenizer.decode(out, skip_special_tokens=True))
    for method, batch in (
        ("seer", 1),
        ("seer", 4),
        ("oracle", 4),
        ("quest", 4),
        ("recent", 2),
        ("random", 3),
        ("dense", 4),
    ):
        how = ["--method", method, *(["--gate", gates / "16"] if method == "seer" else ["--block", 16])]
        found = made(model, tasks, tmp_path / f"{method}{batch}.jsonl", *how, "--budget", 4096, "--max-tokens", 256, "--batch-size", batch)  # fmt: skip
        assert [one["response"] for one in found[:3]] == expected
        assert all(one["meta"]["sparsity"]["density"] == 1.0 for one in found) and found[0]["meta"]["kept"] == 0


def test_the_trace_is_what_was_read(model, gates, tasks, tmp_path):
    how = ["--gate", gates / "16", "--budget", 48, "--sink", 1, "--max-tokens", 90]
    found = made(model, tasks, tmp_path / "a.jsonl", *how, "--batch-size", 4)
    for one in found:
        told, used = one["meta"]["sparsity"], one["usage"]
        assert told["steps"] == used["completion_tokens"] - 1  # the first token comes of the prompt
        trace = told["trace"]
        lengths = range(trace["context"], trace["context"] + told["steps"])
        assert trace["context"] == used["prompt_tokens"] + 1
        assert trace["blocks"] == [float(min(3, -(-n // 16))) for n in lengths]
        assert told["density"] == pytest.approx(sum(trace["blocks"]) / sum(-(-n // 16) for n in lengths), abs=1e-6)
    thin = made(model, tasks, tmp_path / "b.jsonl", *how, "--trace-every", 10)
    for one, other in zip(found, thin, strict=True):
        assert other["meta"]["sparsity"]["trace"]["blocks"] == one["meta"]["sparsity"]["trace"]["blocks"][::10]
        assert other["response"] == one["response"]  # and no batch mate changes it


def test_samples_of_one_prompt_are_those_of_one_alone(model, gates, tasks, tmp_path):
    """Equal prompts of a batch are read once; its last token is dense there as in a prompt read whole."""
    how = ["--gate", gates / "16", "--threshold", 0.05, "--max-tokens", 40, "--temperature", 1, "-n", 3, "--limit", 2]
    one = made(model, tasks, tmp_path / "a.jsonl", *how, "--batch-size", 1)
    six = made(model, tasks, tmp_path / "b.jsonl", *how, "--batch-size", 6)
    assert [x["response"] for x in one] == [x["response"] for x in six] and [x["sample"] for x in six] == [0, 1, 2] * 2
    assert len({x["response"] for x in six[:3]}) > 1
    assert [x["meta"]["sparsity"] for x in one] == [x["meta"]["sparsity"] for x in six]


def test_a_run_that_was_cut_goes_on_and_draws(model, gates, tasks, tmp_path, monkeypatch):
    how = ["--gate", gates / "16", "--budget", 32, "--max-tokens", 30, "--batch-size", 2]
    whole = made(model, tasks, tmp_path / "whole.jsonl", *how)
    real, batches = generate.Decoder.decode, []

    def dying(self, rows, sampling):
        batches.append(len(rows))
        if len(batches) == 2:
            raise KeyboardInterrupt
        return real(self, rows, sampling)

    monkeypatch.setattr(generate.Decoder, "decode", dying)
    cut = ["generate", tasks, "--model", model, "--dtype", "float32", *how, "-q", "-o", tmp_path / "cut.jsonl"]
    assert here(*cut).returncode == 130 and not (tmp_path / "cut.jsonl").exists()
    batches[:] = [0, 0]
    taken = here(*cut[:-1], tmp_path / "cut.png", "--plot", tmp_path / "cut.png")
    assert taken.returncode == 2 and "is an input or the output as well" in taken.stderr
    assert "does not exist" in here(*cut, "--plot", tmp_path / "no" / "t.png").stderr
    done = here(*cut, "--plot", tmp_path / "trace.png")
    assert done.returncode == 0 and batches == [0, 0, 2]  # the second batch alone
    (tmp_path / "trace.png").unlink()
    assert here(*cut, "--plot", tmp_path / "trace.png").returncode == 0  # complete, and drawn
    assert read(tmp_path / "cut.jsonl") == whole and (tmp_path / "trace.png").read_bytes().startswith(b"\x89PNG")
    manifest = json.loads((tmp_path / "cut.jsonl.manifest.json").read_text())
    assert manifest["options"]["gate"] and manifest["options"]["budget"] == 32


def test_shards_concatenate_to_the_whole(model, gates, tasks, tmp_path):
    how = ["--gate", gates / "16", "--budget", 32, "--max-tokens", 12]
    whole = made(model, tasks, tmp_path / "whole.jsonl", *how)
    parts = [made(model, tasks, tmp_path / f"{i}.jsonl", *how, "--shard", f"{i}/3") for i in (1, 2, 3)]
    assert [one for part in parts for one in part] == whole


def test_through_the_installed_command(model, gates, tasks, tmp_path):
    done = seer("generate", tasks, "--model", model, "--gate", gates / "32", "--budget", 64, "--max-tokens", 20)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["id"] for one in found] == ["0", "1", "2", "chat"] and found[0]["schema"] == "sample/1"


@pytest.mark.parametrize(
    ("more", "code", "why"),
    [
        ([], 2, "--method seer: expected --gate"),
        (["--method", "oracle"], 2, "expected one of --budget"),
        (["--method", "oracle", "--budget", 64, "--mass", 0.5], 2, "--budget and --mass: expected one of them"),
        (["--method", "oracle", "--budget", 8], 2, "budget 8: expected tokens, at least one block of 64"),
        (["--method", "oracle", "--budget", 64, "--sink", 1], 2, "sink 1 with local 1 are 2"),
        (["--gate", "GATES/16", "--block", 32], 2, "trained for blocks of 16 tokens, not 32"),
        (["--gate", "/nowhere", "--budget", 64], 2, "no such folder or file"),
        (["--method", "dense", "--plot", "a.png"], 2, "--plot: draws what -o FILE holds"),
        (["--method", "dense", "--plot", "a.gif"], 2, "ending in .png or .svg"),
        (["--method", "dense", "--model-sampling", "--model", "/nowhere"], 2, "known are"),
    ],
)
def test_what_it_refuses(model, gates, tasks, tmp_path, more, code, why):
    more = [gates / "16" if one == "GATES/16" else one for one in more]
    if "a.png" not in more:
        more += ["-o", tmp_path / "o.jsonl"]
    done = here("generate", tasks, "--model", model, *more)
    assert done.returncode == code and why in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_records_that_cannot_be_done_are_told(model, tmp_path):
    lines = [
        {"id": "long", "prompt": "the dog " * 3000},
        {"id": "empty", "prompt": ""},
        {"id": "fine", "prompt": "the dog"},
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    how = [
        "generate",
        tmp_path / "t.jsonl",
        "--model",
        model,
        "--method",
        "recent",
        "--budget",
        64,
        "--max-tokens",
        5,
        "-q",
    ]
    done = here(*[one for one in how if one != "-q"], "-o", tmp_path / "o.jsonl")
    assert done.returncode == 1 and "2 of 3 tasks failed; the first: long: the prompt's" in done.stderr
    found = {one["id"]: one for one in read(tmp_path / "o.jsonl")}
    assert "exceed the model's context of 2048" in found["long"]["error"] and "empty" in found["empty"]["error"]
    assert "error" not in found["fine"] and "sparsity" not in (found["long"].get("meta") or {})
    (tmp_path / "t.jsonl").write_text('{"id": "a", "prompt": "fox"}\n{"id": \n')
    done = here(*how, "-o", tmp_path / "p.jsonl")
    assert done.returncode == 2 and "t.jsonl:2:" in done.stderr and not (tmp_path / "p.jsonl").exists()


def test_a_cache_that_has_no_room(model, tasks, tmp_path, monkeypatch):
    monkeypatch.setattr(generate.needs, "available", lambda device: 1000)
    done = here(
        "generate", tasks, "--model", model, "--method", "dense", "--max-tokens", 20, "-o", tmp_path / "o.jsonl"
    )
    assert done.returncode == 3 and "a cache of 1 × " in done.stderr and "a smaller --batch-size" in done.stderr


def test_policies_of_options_and_of_gates():
    from seer_decode import store

    class Made:
        shape = type("Shape", (), {"block": 32})
        sparsity = store.Sparsity()

    assert Reading("seer").policy(Made) == Policy("budget", 4096.0, 32)
    Made.sparsity = store.Sparsity("threshold", threshold=0.004)
    assert Reading("seer").policy(Made) == Policy("threshold", 0.004, 32)
    assert Reading("seer", ratio=0.5, sink=2, local=3).policy(Made) == Policy("ratio", 0.5, 32, 2, 3)
    assert Reading("seer").first_dense(Made) == 0 and Reading("seer", dense_layers=3).first_dense(Made) == 3
    Made.sparsity = store.Sparsity("nz_ratio", start_layer=2)
    assert Reading("seer").first_dense(Made) == 2 and Reading("seer", dense_layers=0).first_dense(Made) == 0
    with pytest.raises(BadInput, match="expected one of --budget"):
        Reading("seer").policy(Made)
    with pytest.raises(BadInput, match="recent has an order of blocks and no shares"):
        Reading("recent", mass=0.5).policy(None)
    assert Reading("quest", mass=0.5, block=16).policy(None) == Policy("mass", 0.5, 16)


def test_dense_layers_read_everything():
    lm = make_lm(max_position_embeddings=2048, head_dim=8)
    ids = torch.randint(3, 340, (1, 90), generator=torch.Generator().manual_seed(0))
    for dense, blocks in ((0, 2.0), (1, (2 + 6) / 2), (2, 6.0)):
        with attached(lm), torch.no_grad():
            cache = SeerCache(lm, Policy("budget", 32, 16), "recent", dense_layers=dense)
            lm(ids, past_key_values=cache)
            lm(ids[:, :1], past_key_values=cache)
        assert cache.trace.of(0).blocks == [blocks]


# ---------------------------------------------------------------- eval


def test_eval_grades_and_goes_on(model, gates, tmp_path, monkeypatch):
    said = iter(["so \\boxed{5}", "\\boxed{6}", "no box 42", "\\boxed{42}"] * 2)
    real = generate.Opened.execute

    def scripted(self, sampling, every, requests):
        for key, found in real(self, sampling, every, requests):
            yield key, {**found, "text": next(said)}

    monkeypatch.setattr(generate.Opened, "execute", scripted)
    (tmp_path / "q.jsonl").write_text(
        '{"problem": "What is 2+3?", "answer": "5"}\n{"question": "7*6?", "answer": 42, "unique_id": "x"}\n'
    )
    how = [
        "eval",
        tmp_path / "q.jsonl",
        "--model",
        model,
        "--gate",
        gates / "16",
        "--budget",
        64,
        "-n",
        2,
        "--max-tokens",
        8,
        "-q",
    ]
    done = here(*how, "-o", tmp_path / "v.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    told, verdicts = json.loads(done.stdout), read(tmp_path / "v.jsonl")
    assert told["pass_at_1"] == 0.5 and told["low"] < 0.5 < told["high"] and (told["tasks"], told["samples"]) == (2, 4)
    assert [one["correct"] for one in verdicts] == [True, False, False, True] and [one["id"] for one in verdicts] == [
        "0",
        "0",
        "x",
        "x",
    ]
    assert verdicts[0]["grade"] == "correct" and "sparsity" in verdicts[0]["meta"]
    again = here(*how, "-o", tmp_path / "v.jsonl", "--json")
    assert again.returncode == 0 and "complete already" in again.stderr and json.loads(again.stdout) == told
    plain = here(*how, "-o", tmp_path / "p.jsonl", "--prompt", "plain", "--json")
    assert json.loads(plain.stdout)["pass_at_1"] == 0.75  # without a box asked for, the last number counts


def test_eval_refuses(model, tmp_path):
    for line, why in (('{"answer": "5"}', "expected `prompt`"), ('{"problem": "2?"}', "answer: expected")):
        (tmp_path / "q.jsonl").write_text(line + "\n")
        done = here("eval", tmp_path / "q.jsonl", "--model", model, "--method", "dense", "-o", tmp_path / "v.jsonl")
        assert done.returncode == 2 and f"q.jsonl:1: {why}" in done.stderr
    done = here("eval", tmp_path / "q.jsonl", "--model", model, "--method", "dense")
    assert done.returncode == 2 and "expected -o FILE" in done.stderr


def test_the_prompt_is_the_question_with_what_is_asked_of_it():
    assert evaluate.PROMPTS["plain"] == "$question" and "\\boxed{}" in evaluate.PROMPTS["math"]
    found = list(
        evaluate.tasks(
            [("f:1", {"question": "why?", "answer": ["a", "b"]}), ("f:2", {"id": 7, "prompt": "p", "answer": "c"})]
        )
    )
    assert (
        len(list(evaluate.tasks([("f:1", {"answer": "a"}), ("f:2", {"question": "why?", "answer": "b"})], skip_bad=1)))
        == 1
    )
    assert [task["id"] for _, task in found] == ["0", "7"] and found[0][1]["prompt"] == "why?"
    with pytest.raises(BadInput, match="f:9"):
        list(evaluate.tasks([("f:9", {"question": " ", "answer": "a"})]))


def test_the_interval_is_wilsons_where_samples_are_independent():
    mean, low, high = wilson([[True]] * 7 + [[False]] * 3)
    assert mean == pytest.approx(0.7) and (low, high) == (
        pytest.approx(0.3968, abs=1e-3),
        pytest.approx(0.8922, abs=1e-3),
    )
    assert wilson([[True] * 16, [True] * 15 + [False], [True] * 16])[1] < 0.5  # three tasks are three draws
    # All of a task's samples alike: as many draws as tasks, not as samples. Spread within tasks: more.
    alike, mixed = wilson([[True] * 8, [False] * 8] * 5), wilson([[True, False] * 4] * 10)
    assert alike[2] - alike[1] > mixed[2] - mixed[1] and alike[1] == pytest.approx(wilson([[True], [False]] * 5)[1])
    assert wilson([[True]] * 4)[2] == 1.0 and 0.5 < wilson([[True]] * 4)[1] < 1
    assert summary([{"error": "x", "id": "a"}])["pass_at_1"] is None
