"""An environment at each level that bounds a program, and a look at what it leaves."""

import pytest
from grpo_programs import BOUNDED, processes, until

from grpo_roc.env.environment import Environment


@pytest.fixture(scope="module", params=BOUNDED)
def env(request):
    before = processes()
    with Environment(level=request.param, workers=2, timeout=2.0) as found:
        yield found
        scratch = found.scratch
    until(lambda: processes() <= before)
    assert not scratch.exists()
