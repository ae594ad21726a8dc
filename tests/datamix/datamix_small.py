"""A corpus, proxy and swarm so small that a test can make its own in a second, and what shrinks the training of agents likewise."""

import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
from datamix_corpus import make_corpus

from datamix import swarm
from datamix.history import Budget
from datamix.proxy import ProxyConfig

BIN = Path(sys.executable).parent / "datamix"
SIZES = {"alpha": 4000, "beta": 3000, "gamma": 5000, "delta": 4000}  # delta is the target
PROXY = ProxyConfig(width=16, layers=1, heads=2, context=16, batch=4, warmup=2, base_updates=20)
BUDGET = Budget(tokens=192, steps=6, source_share=0.3)  # three updates a step
SAMPLERS = "ramp=2,late=3,walk,dirichlet,early,scored,loss-greedy"


@dataclass(frozen=True)
class Small:
    """Folders of a corpus and of a finished swarm of 16 runs over it, and the proxy's TOML file. To be read only."""

    corpus: Path
    swarm: Path
    proxy: Path


def settings(**changed) -> swarm.Settings:
    told = {
        "trajectories": 16,
        "budget": BUDGET,
        "sampler": SAMPLERS,
        "proxy": msgspec.to_builtins(PROXY),
        "feedback_tokens": 256,
    }
    return swarm.Settings(**{**told, **changed})


def proxy_file(path: Path, **changed) -> Path:
    fields = msgspec.to_builtins(msgspec.structs.replace(PROXY, **changed))
    path.write_text("".join(f"{name} = {value!r}\n".replace("'", '"') for name, value in fields.items()))
    return path


def run(folder: Path, corpus: Path, *, workers=1, only=None, ray=None, overwrite=False, as_json=True, **changed) -> int:
    """`datamix swarm run` in this process."""
    return swarm.run(
        str(folder), str(corpus), settings(**changed), workers=workers, only=only, ray=ray, overwrite=overwrite, as_json=as_json, quiet=True,
    )  # fmt: skip


def make_small(folder: Path) -> Small:
    found = Small(folder / "corpus", folder / "swarm", proxy_file(folder / "proxy.toml"))
    make_corpus(found.corpus, SIZES, valid=1500)
    assert run(found.swarm, found.corpus) == 0
    return found


FEW = {"members": 2, "hidden": 8, "world_steps": 30, "cloning_steps": 5, "policy_steps": 5, "rollouts": 8}


def quick(monkeypatch, value: bool = True) -> None:
    """Agents of few steps and small networks, where nothing else is asked for; value false: model-based ones value at random."""
    from functools import partial

    from datamix import cql, sft, world

    whole, usual = world.train, world.Settings()

    def train(runs, how, *rest):
        few = {name: value for name, value in FEW.items() if getattr(how, name) == getattr(usual, name)}
        return whole(runs, msgspec.structs.replace(how, **few), *rest)

    monkeypatch.setattr(world, "train", train)
    if not value:
        monkeypatch.setattr(
            world, "fit_value", lambda begin, policy, model, how, *rest: (world.PooledValue(how.hidden), 0.0)
        )
    monkeypatch.setattr(sft, "Settings", partial(sft.Settings, steps=5))
    monkeypatch.setattr(cql, "Settings", partial(cql.Settings, steps=4, warm_steps=4, fitted_q_steps=4, check=2))
