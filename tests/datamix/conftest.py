"""One thread, before every test anew, fixtures included: others in the same process set other numbers, and sums of other orders are other
bytes. And the public tables that some oracles are read off."""

import os
from pathlib import Path

import pytest
import torch


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
