"""One folder of built kernels for the tests of the CUDA back ends: what one has compiled the next need not."""

import pytest


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cuda")
