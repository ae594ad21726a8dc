"""vLLM as an engine of this process, `vllm:MODEL`.

Token ids go in and come out; what a trajectory had before is in vLLM's prefix cache, and is not computed again. The policy's weights go from tensor to tensor, where vLLM shares this process. Under torchrun it does not,
as the process group is the trainer's there: then the engine is a process of its own, on this rank's GPU, and weights go through files in memory (/dev/shm).

Where it sits: opened by engine_open.py. vLLM is imported here only, once one is asked for.
"""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grpo_roc.engine_protocol import Lost, Turn, silent
from grpo_roc.engine_weights import with_head, written
from tenfold_shared import BadInput, Missing
from tenfold_shared.models import ENGINE_OWNER, VLLM_FIX, report_death, resolve, stdout_to_stderr
from tenfold_shared.redaction import one_line

if TYPE_CHECKING:
    from torch import Tensor

QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a forked engine would inherit the locks of threads that are not there
}
SEEDS = 2**53
TRIES = 100  # steps in which blocks of turns that were cut off are given back


class VllmEngine:
    """uri: `vllm:` and weights (a folder, a GGUF file, a hub id, smollm2). capacity: tokens of a trajectory at most. memory: share of a GPU that vLLM takes, its own default where None. apart: a process of its own;
    None: where torchrun started this one. Raises Missing where vLLM is not there or cannot start, BadInput for what it refuses."""

    paged = True

    def __init__(
        self, uri: str, ends: frozenset[int], *, capacity: int, temperature: float = 1.0, dtype: str = "auto", trust_remote_code: bool = False, memory: float | None = None, seed: int = 0,
        apart: bool | None = None,
    ) -> None:  # fmt: skip
        self.name, self.ends, self.capacity, self.temperature = uri, sorted(ends), capacity, temperature
        self.lost = ""
        self.bell: Callable[[], object] = silent
        self.apart = "TORCHELASTIC_RUN_ID" in os.environ if apart is None else apart
        self.context: dict[str, list[int]] = {}
        self.running: dict[str, str] = {}  # vLLM's id of a turn: its trajectory
        self.turns = 0
        self._engine = self._opened(uri.removeprefix("vllm:"), dtype, trust_remote_code, memory, seed)
        config = self._engine.vllm_config
        self.block, self.blocks = int(config.cache_config.block_size), int(config.cache_config.num_gpu_blocks)
        self.places = int(config.scheduler_config.max_num_seqs)

    def _opened(self, inner: str, dtype: str, trust_remote_code: bool, memory: float | None, seed: int) -> Any:
        if inner.startswith(("http:", "https:", "replay:", "vllm:")):
            raise BadInput(f"{self.name}: after vllm: expected smollm2, a folder, a GGUF file or org/name[@revision]")
        if importlib.util.find_spec("vllm") is None:
            raise Missing(f"{self.name}: vllm is not installed: {VLLM_FIX}")
        checkpoint = resolve(inner)
        if checkpoint.adapter:
            raise BadInput(f"{self.name}: an adapter, whose weights are not those of a whole model: merge it first")
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        for_now = {"VLLM_ENABLE_V1_MULTIPROCESSING": str(int(self.apart)), ENGINE_OWNER: str(os.getpid())}
        if self.apart and "LOCAL_RANK" in os.environ:
            for_now["CUDA_VISIBLE_DEVICES"] = _own_gpu(int(os.environ["LOCAL_RANK"]))
        with stdout_to_stderr(), _environment(for_now):
            import torch
            from vllm.engine.arg_utils import EngineArgs
            from vllm.platforms import current_platform
            from vllm.v1.engine.llm_engine import LLMEngine

            how: dict[str, Any] = {
                "model": checkpoint.path, "revision": checkpoint.revision, "dtype": dtype, "seed": seed, "trust_remote_code": trust_remote_code, "max_model_len": self.capacity,
                "skip_tokenizer_init": True, "enable_prefix_caching": True, "logprobs_mode": "processed_logprobs", "disable_log_stats": True, "use_tqdm_on_load": False,
            }  # fmt: skip
            if memory is not None:
                how["gpu_memory_utilization"] = memory
            self._sleeps = not current_platform.is_cpu()
            if self._sleeps:
                how["enable_sleep_mode"] = True
            else:
                # on CPU a request keeps its seed only where its prompt is read in one piece
                how |= {"enforce_eager": True, "enable_chunked_prefill": False, "max_num_batched_tokens": max(self.capacity, 4096)}  # fmt: skip
            before = set(multiprocessing.active_children())
            try:
                with torch.random.fork_rng(enabled=not self.apart):  # it would seed this process anew
                    engine = LLMEngine.from_engine_args(EngineArgs(**how))
            except (ValueError, TypeError) as error:
                raise BadInput(f"{self.name}: vLLM refuses it: {one_line(error)}") from None
            except Exception as error:  # whatever its platforms, drivers and kernels raise
                raise Missing(f"{self.name}: vLLM cannot start it: {one_line(error)}") from None
        report_death(engine.engine_core, set(multiprocessing.active_children()) - before)
        return engine

    # ------------------------------------------------------------ the protocol

    @property
    def idle(self) -> bool:
        return not self.running

    def start(self, key: str, ids: Sequence[int], most: int, draw: np.random.Generator) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        if self.lost:
            raise Lost(self.lost)
        context = [*self.context.get(key, []), *ids]
        if len(context) + most > self.capacity:
            raise BadInput(f"{key}: {len(context)} tokens and {most} more are beyond {self.capacity}")
        how = SamplingParams(
            temperature=self.temperature, max_tokens=most, seed=int(draw.integers(SEEDS)), logprobs=0, stop_token_ids=self.ends, ignore_eos=True, detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )  # fmt: skip
        self.turns += 1
        name = f"{self.turns}"
        self._engine.add_request(name, {"prompt_token_ids": context}, how)
        self.context[key], self.running[name] = context, key

    def poll(self) -> list[Turn]:
        """One step: a token of every turn under way."""
        if not self.running:
            return []
        found = []
        for output in self._step():
            key = self.running.pop(output.request_id, None) if output.finished else None
            if key is None:
                continue
            best = output.outputs[0]
            ids = list(best.token_ids)
            logp = [float(step[token].logprob) for token, step in zip(ids, best.logprobs, strict=True)]
            if best.finish_reason not in ("stop", "length"):
                raise Lost(f"vLLM ended a turn with `{best.finish_reason}`")
            self.context[key] += ids
            found.append(Turn(key, ids, [0.0] * len(ids) if self.temperature == 0 else logp, ids[-1] in self.ends))
        return found

    def release(self, key: str) -> None:
        self.context.pop(key, None)
        names = [name for name, whose in self.running.items() if whose == key]
        for name in names:
            del self.running[name]
        if names and not self.lost:
            self._engine.abort_request(names)

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """In memory, where vLLM shares this process. Raises Lost where it fails, ValueError between the turns of a batch."""
        if self.running:
            raise ValueError("weights are loaded between batches")
        try:
            if self.apart:
                shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()
                with written(weights, str(Path(shared) / f"grpo-roc-{os.getpid()}")) as folder:
                    self._engine.collective_rpc("reload_weights", kwargs={"weights_path": folder})
            else:
                self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": with_head(weights)})
            for _ in range(TRIES):
                if self._engine.reset_prefix_cache():
                    return
                self._engine.step()  # gives back what turns that were cut off had
        except Exception as error:  # whatever a model's own loading raises
            self.lost = f"its weights could not be loaded: {one_line(error)}"
            raise Lost(self.lost) from error
        raise Missing(f"{self.name}: it keeps what older weights computed")

    def sleep(self) -> None:
        if self._sleeps:
            self._engine.sleep(level=1)

    def wake(self) -> None:
        if self._sleeps and self._engine.is_sleeping():
            self._engine.wake_up()

    def close(self) -> None:
        if self._engine is not None:
            self._engine.engine_core.shutdown()
            self._engine = None
            self.running.clear()

    def _step(self) -> Any:
        try:
            return self._engine.step()
        except Exception as error:  # of the engine's process, its kernels or its memory
            self.lost = f"vLLM's engine failed: {one_line(error)}"
            raise Lost(self.lost) from error


# ---------------------------------------------------------------- of this process


def _own_gpu(rank: int) -> str:
    """The one of those that this process may see which is its rank's."""
    seen = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
    return seen[rank] if rank < len(seen) else str(rank)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    kept = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
