"""One thread, before every test anew, fixtures included: others in the same process set other numbers, and sums of other orders are other
bytes. And the public tables that some oracles are read off; a corpus, agents and recorded runs for apply and plan; a swarm to explain."""

import json
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tiny_models
import torch
from datamix_agents import NAMES, STATIC, TINY, TOML
from datamix_corpus import make_corpus, text_of
from datamix_explained import BUDGET as EXPLAINED_BUDGET
from datamix_explained import NAMES as EXPLAINED
from datamix_explained import PROXY, SETTINGS

from datamix import build, explain, mixture, schedule, steered, swarm, swarms, world
from datamix.agent import Agent, Card
from datamix.corpus import FILE, Corpus, Domain, Listing
from datamix.history import Budget, Step, Trajectory
from datamix.proxy import Proxy


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def regmix() -> Path:
    """The folder of RegMix's public mixture and loss tables: 512 runs of 1 M parameters and test runs of 1 M, 60 M and 1 B."""
    folder = Path(os.environ.get("TENFOLD_DATA", "")) / "regmix"
    if not folder.is_dir():
        pytest.skip("no tables of RegMix: TENFOLD_DATA names the folder that holds regmix/*.csv")
    return folder


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """datamix_small.Small: a tiny corpus, a swarm of 16 runs over it, a proxy's file. Once a process, to be read only."""
    from datamix_small import make_small

    torch.set_num_threads(1)
    return make_small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("corpus"), 8000, targets=["gamma", "delta"], valid=2000)


@pytest.fixture(scope="session")
def config(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("proxy") / "tiny.toml"
    path.write_text(TOML)
    return str(path)


@pytest.fixture(scope="session")
def base(corpus, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    made = Proxy(TINY, 256, 0)
    path.write_bytes(steered.base_file(made, steered.make_base(made, corpus, 0, True)))
    return str(path)


@pytest.fixture(scope="session")
def mixed(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("mixture") / "mixture.json"
    path.write_bytes(schedule.static_file(STATIC, "by hand"))
    return str(path)


@pytest.fixture(scope="session")
def agents(recorded, tmp_path_factory) -> dict[str, str]:
    """Agents of each kind, hardly trained or not at all, by name."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("agents")
    roles = ["source", "source", "target", "target"]
    made = {
        "set": Agent(Card("set", "sft", {"width": 16, "heads": 2})),
        "blind": Agent(Card("set", "sft", {"width": 16, "heads": 2}, feedback=False)),
        "decoder": Agent(Card("decoder", "cql", {"domains": 4, "width": 16, "heads": 2}, domains=NAMES, roles=roles)),
    }
    how = world.Settings(members=2, hidden=8, world_steps=5, policy_steps=2, rollouts=4)
    made["model"], simulator = world.train(swarms.read(recorded), how, 0)
    for name, one in made.items():
        one.save(folder / name)
    simulator.save(folder / "model")
    return {name: str(folder / name) for name in made}


@pytest.fixture(scope="session")
def recorded(tmp_path_factory) -> str:
    """A swarm whose losses follow a rule: f̂ of a domain grows by a tenth of its share in each step."""
    folder = tmp_path_factory.mktemp("swarm")
    rng, runs = np.random.default_rng(0), []
    roles = dict(zip(NAMES, ["source", "source", "target", "target"], strict=True))
    for i in range(12):
        gain, steps = np.zeros(4), []
        for t in range(4):
            w = mixture.with_source_share(rng.dirichlet(np.ones(4)), np.array([True, True, False, False]), 0.5)
            gain = gain + 0.1 * w
            losses = {name: float(3 * (1 - g)) for name, g in zip(NAMES, gain, strict=True)}
            steps.append(Step(t, 512 * (t + 1), dict(zip(NAMES, map(float, w), strict=True)), losses))
        fixed = dict.fromkeys(NAMES, 8000), dict.fromkeys(NAMES, 3.0)
        runs.append(Trajectory(str(i), "all", "walk", i, roles, *fixed, Budget(512, 4, 0.5), steps))
    swarms.write(
        folder, runs, {"kind": "runs", "domains": NAMES, "metrics": NAMES}, {"tool": "datamix", "verb": "swarm"}
    )
    return str(folder)


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A corpus of four domains, a swarm of two tasks on it, and a model-based agent of it, all of them tiny."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("explain")
    make_corpus(root / "corpus", dict.fromkeys(EXPLAINED, 4000), targets=("math", "code"), valid=1500)
    how = swarm.Settings(
        6,
        EXPLAINED_BUDGET,
        "ramp,late,walk",
        msgspec.to_builtins(PROXY),
        tasks=2,
        task_sources=2,
        task_targets=1,
        feedback_tokens=128,
    )
    folder = root / "swarm"
    swarm.run(
        str(folder),
        str(root / "corpus"),
        how,
        workers=1,
        only=None,
        ray=None,
        overwrite=False,
        as_json=True,
        quiet=True,
    )
    small = world.Settings(members=2, hidden=8, world_steps=40, cloning_steps=5, policy_steps=5, rollouts=8)
    agent, simulator = world.train(swarms.read(folder), small, 0)
    agent.save(root / "agent")
    simulator.save(root / "agent")
    manifest = {"inputs": [{"path": str(folder / "trajectories.jsonl"), "sha256": ""}]}
    (root / "agent" / "manifest.json").write_text(json.dumps(manifest))
    return root


@pytest.fixture(scope="session")
def finished(home):
    """The result in home/explained."""
    explain.run(str(home / "agent"), corpus=None, swarm=str(home / "swarm"), settings=SETTINGS, output=str(home / "explained"), overwrite=False, workers=1, as_json=True, plot=None, quiet=True)  # fmt: skip
    return json.loads((home / "explained" / "explain.json").read_bytes())


# ---------------------------------------------------------------- models of transformers


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    return str(tiny_models.save_model(tmp_path_factory.mktemp("model") / "m"))


@pytest.fixture(scope="session")
def tokens(model, tmp_path_factory) -> Corpus:
    """The same words in the tokens of the tiny model's tokenizer."""
    folder = tmp_path_factory.mktemp("tokens")
    encode = build.Tokens(model)
    domains = []
    for name in NAMES:
        parts = {}
        for split, size in (("train", 4000), ("valid", 1200)):
            text = text_of(name, size, part=split)
            texts = [text[i : i + 400] for i in range(0, len(text), 400)]
            parts[split] = build.write_texts(folder, name, split, texts, encode)
        domains.append(
            Domain(name, "target" if name in ("gamma", "delta") else "source", parts["train"], parts["valid"])
        )
    listing = Listing(
        domains, tokenizer=model, dtype=encode.dtype, vocabulary=encode.vocabulary, separator=encode.separator
    )
    import msgspec

    (folder / FILE).write_bytes(msgspec.json.encode(listing))
    return Corpus.load(folder)
