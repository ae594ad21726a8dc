"""One thread: the models are tiny, and threads would wait for each other and for the other worker's. Before every test anew, fixtures
included: others in the same process set other numbers, and sums of other orders are other bytes."""

import gzip
import json

import pytest
import torch
import zstandard


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    torch.set_num_threads(1)


@pytest.fixture
def file(tmp_path):
    """Writes a file and returns its path; records become JSON Lines."""

    def write(content, name="data.jsonl"):
        if isinstance(content, list):
            content = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in content)
        content = content.encode() if isinstance(content, str) else content
        if name.endswith(".gz"):
            content = gzip.compress(content)
        elif name.endswith(".zst"):
            content = zstandard.compress(content)
        path = tmp_path / name
        path.write_bytes(content)
        return str(path)

    return write
