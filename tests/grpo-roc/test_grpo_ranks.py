"""Two processes of one run under torchrun (gloo) against one process on the same examples: sums, weights, the optimizer's state, checkpoints. (A whole run: test_grpo_train.py.)"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from grpo_models import ambiguous, small
from safetensors.torch import load_file

from grpo_roc.objective import Clip
from grpo_roc.policy import Example, Optimisation, Policy

BIN = Path(sys.executable).parent
UPDATE = """
import json, os, sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from grpo_roc.objective import Clip
from grpo_roc.policy import Example, Optimisation, Policy
from grpo_roc.ranks import Ranks

folder = Path(sys.argv[1])
told = json.loads((folder / "told.json").read_text())
with Ranks().joined("cpu") as ranks:
    lm = AutoModelForCausalLM.from_pretrained(folder / "start", dtype=torch.float32)
    policy = Policy(lm, Optimisation(lr=1e-2, warmup=2, most=told["most"]), ranks=ranks)
    steps = [[Example(**one) for one in step] for step in told["steps"]]
    if told["resume"]:
        policy.restore(folder / "start")
    found = []
    for step in steps:
        logp, entropy = policy.logprobs(step)
        updated = policy.update(step, Clip())
        fitted = policy.fit(step, 1e-3)
        found.append([fitted, updated.loss, updated.grad_norm, updated.entropy, updated.gap_mean, updated.gap_most, updated.stats.tokens, entropy, logp])
    policy.save(folder / f"end-{ranks.size}", AutoTokenizer.from_pretrained(folder / "start"), {"done": 2})
    if ranks.first:
        (folder / f"found-{ranks.size}.json").write_text(json.dumps(found))
os._exit(0)  # as the tool leaves torchrun: gloo's threads may abort an interpreter that is taken down
"""


def steps_of(sizes):
    rng = random.Random(3)

    def draw(count):
        return [rng.randrange(60) for _ in range(count)]

    prompts = [draw(5), draw(8), draw(3)]
    found = []
    for size in sizes:
        step = []
        for k in range(size):
            length = 1 + k % 9
            step.append({
                "prompt": prompts[k % 3], "response": draw(length), "mask": [True] * length,
                "advantage": [-1.3, 0.4, 0.9, 0.2][k % 4], "sampled": [-1.0] * length,
            })  # fmt: skip
        found.append(step)
    return found


def torchrun(count, *command, **more):
    where = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = [BIN / "torchrun", "--standalone", "--nproc-per-node", str(count)] if count > 1 else [BIN / "python"]
    return subprocess.run([*start, *map(str, command)], capture_output=True, text=True, timeout=300, env=where, **more)


@pytest.mark.parametrize("most", [20, 10_000])  # many packs, an odd number of them at times; one pack for two ranks
def test_two_processes_update_as_one_does(tmp_path, most):
    tokenizer = ambiguous()
    model = small(torch.float32, len(tokenizer))
    first = Policy(model, Optimisation(lr=1e-2, warmup=2, most=most))
    first.update([Example(**one) for one in steps_of([5])[0]], Clip())
    first.save(tmp_path / "start", tokenizer, {"done": 1})
    (tmp_path / "told.json").write_text(json.dumps({"most": most, "steps": steps_of([7, 4]), "resume": True}))
    (tmp_path / "update.py").write_text(UPDATE)
    for count in (1, 2):
        done = torchrun(count, tmp_path / "update.py", tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((tmp_path / f"found-{count}.json").read_text()) for count in (1, 2))
    assert len(one) == 2
    for a, b in zip(one, two, strict=True):
        assert a[:8] == pytest.approx(b[:8], rel=1e-5)
        assert [x for row in a[8] for x in row] == pytest.approx([x for row in b[8] for x in row], abs=1e-5)
    for name in ("model", "optimizer"):
        a, b = (load_file(tmp_path / f"end-{count}" / f"{name}.safetensors") for count in (1, 2))
        assert a.keys() == b.keys() and len(a) > 3
        for key in a:
            assert torch.allclose(a[key], b[key], rtol=1e-4, atol=1e-6), key
    states = [json.loads((tmp_path / f"end-{count}" / "state.json").read_text()) for count in (1, 2)]
    assert states[0] == states[1] and states[0]["updates"] == 5
