"""One thread: the models are tiny, and threads would wait for each other and for the other worker's. Before every test anew, fixtures
included: others in the same process set other numbers, and sums of other orders are other bytes."""

import pytest
import torch


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    torch.set_num_threads(1)
