"""A made model, a cache of its own, a host to be harmed: what several files of this folder use."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hostile_host import Host
from tiny_models import rebase, save_gguf, save_model

import tenfold_shared.models as models
from tenfold_shared import sandbox


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


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    found = Host(tmp_path)
    yield found
    found.check()


@pytest.fixture(params=["a user of its own", "our user"])
def user(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root we give the command a user of its own. Others cannot, and then other layers must hold by themselves; as root
    without it they are put to the hardest test."""
    if request.param == "our user":
        monkeypatch.setattr(sandbox, "_own_user", lambda: False)
