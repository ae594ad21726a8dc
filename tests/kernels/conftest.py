"""Fixtures of the kernel tests.

`interpreted` sets TRITON_INTERPRET for one test and takes it back: launches read it when they are made
(tenfold_kernels.device), so nothing of it stays for other tests of the same worker, which may compile.
"""

from collections.abc import Iterator

import pytest

from tenfold_kernels import device


@pytest.fixture
def interpreted() -> Iterator[None]:
    with device.interpreter(True):
        yield


@pytest.fixture
def compiled() -> Iterator[None]:
    """As on a user's machine, whatever the shell that runs the tests has set."""
    with device.interpreter(False):
        yield
