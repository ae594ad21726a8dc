"""For the tests of what stands across tools: the scripts of .ci, which are no package, as modules."""

import importlib.util
from pathlib import Path

import pytest

CI = Path(__file__).resolve().parents[2] / ".ci"


def script(name):
    spec = importlib.util.spec_from_file_location(name, CI / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def docs():
    return script("make_docs")


@pytest.fixture(scope="session")
def evidence():
    return script("evidence")
