"""Rows made on a Ray cluster: the same `work` as synth.py's processes, mapped by Ray Data over any number of hosts.

An extra, `keychain-synth[ray]`. Every host must see the corpus folder (TENFOLD_CACHE on a shared file system) and have this
package. Results come back in the order of the questions, so that the rows are the same bytes as without Ray.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

from tenfold_shared import BadInput, Missing

Record = dict[str, Any]

_BATCH = 8  # rows a task: at 128K tokens some 5 MB


class Rows:
    """One Ray actor: maps the corpus once, then makes rows."""

    def __init__(self, job: str) -> None:
        self.job = job

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        from keychain_synth.synth import work

        requests = [json.loads(each) for each in batch["request"]]
        made = [json.dumps(work({"job": self.job, **request})) for request in requests]
        return {"key": list(batch["key"]), "result": made}


def execute(
    address: str, job: str, workers: int, requests: Iterator[tuple[str, Record]]
) -> Iterator[tuple[str, Record]]:
    """Results in the order of the requests. address: of a running cluster, `auto`, or `local` to start one here.

    Raises Missing where ray is not installed, BadInput where no cluster answers.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise Missing(f"--ray: ray cannot be imported ({error}): pip install 'keychain-synth[ray]'") from None
    waiting = [{"key": key, "request": json.dumps(request)} for key, request in requests]
    if not waiting:
        return
    try:
        ray.init(address=None if address == "local" else address, num_cpus=workers if address == "local" else None,
                 include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)  # fmt: skip
    except (ConnectionError, ValueError) as error:
        raise BadInput(f"--ray {address}: no cluster there: {error}") from None
    try:
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        blocks = max(1, -(-len(waiting) // _BATCH))
        rows = ray.data.from_items(waiting, override_num_blocks=blocks).map_batches(
            Rows, fn_constructor_args=(job,), batch_size=_BATCH, concurrency=(1, workers), num_cpus=1
        )
        for row in rows.iter_rows():
            yield row["key"], json.loads(row["result"])
    finally:
        ray.shutdown()
