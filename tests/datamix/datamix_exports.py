"""Schedules as foreign files, for the tests that write and that read them."""

from pathlib import Path

import numpy as np

from datamix import schedule

STAGED = [{"web": 0.9, "math": 0.1}, {"web": 0.9, "math": 0.1}, {"web": 0.25, "math": 0.75}]
LENGTHS = [1000, 1000, 2000]


def staged(path: Path, mixtures=STAGED, lengths=LENGTHS) -> str:
    seen = np.cumsum(lengths)
    lines = [schedule.line(i, int(n), w) for i, (n, w) in enumerate(zip(seen, mixtures, strict=True))]
    path.write_bytes(schedule.schedule_file(lines))
    return str(path)
