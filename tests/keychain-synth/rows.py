"""For tests of keychain-synth: the installed command, made-up question files, records in and out."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent / "keychain-synth"
WORDS = "river stone cloud amber violet copper silent northern ancient market bridge garden winter lantern".split()


def keychain(*args, stdin=None, env=None, timeout=300):
    """Run the installed command; returns the CompletedProcess with text streams."""
    return subprocess.run(
        [str(BIN), *map(str, args)], input=stdin, capture_output=True, text=True, timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
    )  # fmt: skip


def read(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def write(path, records):
    Path(path).write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return Path(path)


def sentence(rng):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(6, 14))).capitalize() + "."


def item(number, rng, paragraphs=4, sentences=5):
    """A two-hop question of the generic form; its answer stands in its second gold paragraph."""
    made = [
        {"title": f"Topic {number}-{at}", "text": " ".join(sentence(rng) for _ in range(sentences)),
         "is_supporting": at < 2}
        for at in range(paragraphs)
    ]  # fmt: skip
    made[1]["text"] += f" It lies by the answer{number}."
    return {"id": f"q{number}", "question": f'What lies by "topic" {number}, says the paragraph?',
            "answers": [f"answer{number}"], "paragraphs": made}  # fmt: skip


def questions(path, count=80, seed=0, **more):
    rng = random.Random(seed)
    return write(path, [item(number, rng, **more) for number in range(count)])
