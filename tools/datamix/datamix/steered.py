"""What `apply` and `plan` are given, opened: an agent, schedule or mixture as a policy; a proxy or a model as what a run trains.

Where it sits: below apply.py and plan.py, above proxy.py and foreign.py; torch only inside what needs it.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from datamix import schedule
from datamix.baselines.static import SchedulePolicy, StaticPolicy
from datamix.corpus import Corpus
from datamix.history import Budget, Policy
from datamix.mixture import from_names
from tenfold_shared import BadInput
from tenfold_shared.cli import sha256_of
from tenfold_shared.jsonl import write_atomic
from tenfold_shared.progress import Progress
from tenfold_shared.redaction import redact

if TYPE_CHECKING:
    from torch import Tensor

    from datamix.foreign import Foreign, Training
    from datamix.proxy import Proxy, ProxyConfig
    from datamix.ranks import Ranks

Record = dict[str, Any]
PROXY = "proxy.safetensors"
FOR_A_GPU = 1_000_000  # parameters below which a GPU only waits for its launches


# ---------------------------------------------------------------- what decides


def open_policy(given: str | Policy, corpus: Corpus, steps: int) -> tuple[Policy, list[Path]]:
    """An agent's folder, a schedule.jsonl, a mixture file or a policy; with the files that it is read from. A schedule of another length
    is stretched over the run by its tokens. Raises BadInput for what is none, for domains that the corpus lacks, and for a `decoder`
    that was made for others."""
    if not isinstance(given, str):
        return given, []
    from datamix import agent as agents

    path = Path(given)
    if path.is_dir():
        found = agents.Agent.load(path)
        found.check(corpus.names, corpus.source)
        return found, [path / agents.JSON, path / agents.WEIGHTS]
    if not path.exists():
        raise BadInput(f"{given}: no such file; expected an agent's folder, a schedule.jsonl or a mixture file")
    lines = schedule.load_any(given)
    rows = np.array([from_names(one.weights, corpus.names, f"{given}: step {one.step}") for one in lines])
    if lines[-1].tokens_seen == 0:
        return StaticPolicy(path.name, rows[0]), [path]
    if len(lines) != steps:
        print(f"datamix: {given}: has {len(lines)} steps, the run {steps}: stretched over it", file=sys.stderr)
    return SchedulePolicy(path.name, _stretched(lines, rows, steps)), [path]


def _stretched(lines: Sequence[schedule.Line], rows: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """What is in force at the middle of each of `steps` even steps, [steps, D]."""
    ends = np.array([one.tokens_seen for one in lines], dtype=np.float64)
    at = (np.arange(steps) + 0.5) / steps * ends[-1]
    return np.asarray(rows[np.searchsorted(ends, at, side="right")])


# ---------------------------------------------------------------- what learns


class Steered:
    """What a run trains: `learner` for the run, `name` for people, `identity` for the manifest, `inputs` the files it is made from."""

    def __init__(self, learner: Any, name: str, identity: Record, inputs: list[Record], model: Proxy | Foreign) -> None:
        self.learner, self.name, self.identity, self.inputs, self.model = learner, name, identity, inputs, model

    @property
    def small(self) -> bool:
        """Whether a second thread only costs."""
        from datamix.proxy import Proxy

        return isinstance(self.model, Proxy) and self.model.flat.numel() < FOR_A_GPU

    def save(self, folder: Path) -> None:
        from datamix.foreign import Foreign

        folder.mkdir()
        if isinstance(self.model, Foreign):
            self.model.save(folder)
        else:
            write_atomic(folder / PROXY, base_file(self.model))


def open_proxy(
    proxy: str | None, base: str | None, corpus: Corpus, ranks: Ranks, *, lr: float | None = None, decay: str | None = None,
    device: str = "auto",
) -> Steered:  # fmt: skip
    """A proxy from a base file, or a fresh one that `make_base` has to fill (base None). Without `proxy` the base's own shape is taken, which
    stands in the file, or in the plan of the swarm that it is of. Raises BadInput for a base of another shape."""
    from datamix.proxy import Proxy, config_of
    from datamix.ranks import SharedProxy

    if proxy is None and base is None:
        raise BadInput("apply: what is to be trained? give --model URI, or --proxy CONFIG, or --base FILE of a swarm")
    config = config_of(proxy) if proxy is not None else _shape_of(Path(str(base)))
    if lr is not None:
        if not (math.isfinite(lr) and lr > 0):
            raise BadInput(f"--lr {lr:g}: expected a number above 0")
        config = msgspec.structs.replace(config, lr=lr)
    if decay is not None:
        config = msgspec.structs.replace(config, decay=decay)
    if device == "auto":
        device = ranks.device if config.parameters(corpus.listing.vocabulary) >= FOR_A_GPU else "cpu"
    made = Proxy(config, corpus.listing.vocabulary, 0, device)
    inputs = []
    if base is not None:
        made.restore(_base_state(Path(base), made))
        made.begin()
        inputs.append({"path": base, "sha256": sha256_of(base)})
    learner = made if ranks.size == 1 else SharedProxy(made, ranks)
    told = {"proxy": msgspec.to_builtins(config), "base": base is not None}
    return Steered(learner, f"proxy of {config.parameters(corpus.listing.vocabulary):,} parameters", told, inputs, made)


def make_base(made: Proxy, corpus: Corpus, seed: int, quiet: bool) -> dict[str, Tensor]:
    """The state of a base that has seen the source domains evenly: the one that `datamix swarm` makes of this corpus with this seed."""
    from datamix.proxy import train_base
    from datamix.swarm import draw_tasks

    task = draw_tasks(corpus, 0, 0, 0, 0.0, seed)[0]
    here = corpus.subset(task.sources, task.targets)
    mixture = np.array([*task.mixture, *[0.0] * len(task.targets)])
    with Progress("base", made.config.base_updates, "updates", quiet) as bar:
        found = train_base(made.config, here, mixture, task.seed, str(made.device), lambda: bar.update(50))
    return found.state()


def base_file(proxy: Proxy, state: dict[str, Tensor] | None = None) -> bytes:
    """A proxy's state with its shape beside it: what --base reads."""
    from safetensors.torch import save

    tensors = {name: x.cpu().contiguous() for name, x in (proxy.state() if state is None else state).items()}
    told = {"proxy": msgspec.to_builtins(proxy.config), "vocabulary": proxy.vocabulary}
    return save(tensors, metadata={"datamix": json.dumps(told)})  # one key: several come out in any order


def _shape_of(base: Path) -> ProxyConfig:
    from safetensors import SafetensorError, safe_open

    from datamix.proxy import ProxyConfig
    from datamix.swarm import PLAN, read_plan

    try:
        with safe_open(str(base), "pt") as found:
            told = (found.metadata() or {}).get("datamix")
        if told is not None:
            return msgspec.convert(json.loads(told)["proxy"], ProxyConfig)
        if (base.parent.parent / PLAN).exists():
            return msgspec.convert(read_plan(base.parent.parent).settings.proxy, ProxyConfig)
    except (
        SafetensorError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        msgspec.ValidationError,
        RecursionError,
    ) as error:
        raise BadInput(f"--base {base}: not a base: {' '.join(str(error).split())[:160]}") from None
    raise BadInput(f"--base {base}: does not say what shape it has; name it with --proxy CONFIG")


def _base_state(path: Path, proxy: Proxy) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(path)
    except FileNotFoundError:
        raise BadInput(f"--base {path}: no such file; expected one of SWARM/bases, or the proxy of a run") from None
    except (SafetensorError, OSError) as error:
        raise BadInput(f"--base {path}: cannot be read: {' '.join(str(error).split())[:160]}") from None
    want = {name: tuple(x.shape) for name, x in proxy.state().items()}
    have = {name: tuple(x.shape) for name, x in found.items()}
    if have != want:
        sizes = f"{have.get('flat', ('no',))[0]} numbers, a proxy of this shape and vocabulary has {want['flat'][0]}"
        raise BadInput(f"--base {path}: is not a base of this proxy ({sizes}); name its shape with --proxy")
    return found


def open_steered(
    corpus: Corpus, ranks: Ranks, *, model: str | None, proxy: str | None, base: str | None, training: Training | None,
    lr: float | None, decay: str | None, dtype: str, device: str, trust_remote_code: bool,
) -> Steered:  # fmt: skip
    """The model or proxy that the options name. Raises BadInput, Missing."""
    if model is None:
        return open_proxy(proxy, base, corpus, ranks, lr=lr, decay=decay, device=device)
    if proxy is not None or base is not None:
        raise BadInput("--model: is trained itself; leave out --proxy and --base")
    from datamix.foreign import Training, open_model

    if dtype == "float16":
        raise BadInput("--dtype float16: gradients are lost in it; expected auto, float32 or bfloat16")
    given = {name: x for name, x in (("lr", lr), ("decay", decay)) if x is not None}
    where = ranks.device if device == "auto" else device
    how = msgspec.structs.replace(training or Training(), dtype=dtype, **given)
    found = open_model(model, corpus, how, ranks, device=where, trust_remote_code=trust_remote_code)
    inputs = [{"path": redact(model), "sha256": found.digest()}]
    return Steered(found, model, {"model": redact(model), **msgspec.to_builtins(how)}, inputs, found)


def check_budget(budget: Budget) -> None:
    """Raises BadInput for a budget that is none."""
    if budget.steps < 1 or budget.tokens < 1:
        raise BadInput(f"--steps {budget.steps}: expected 1 or more, of 1 token or more")
    if not 0 <= budget.source_share <= 1:
        raise BadInput(f"--source-budget {budget.source_share:g}: expected a share from 0 to 1")
    if not (math.isfinite(budget.max_epochs) and budget.max_epochs >= 0):
        raise BadInput(f"--max-epochs {budget.max_epochs:g}: expected 0 (no limit) or more")


def budget_of(told: Record) -> Budget:
    """The budget that told_budget tells. Raises BadInput for text of less than a token a step."""
    steps, size = told["steps"], told["run_tokens"]
    if size < steps:
        raise BadInput(f"--run-tokens {size}: is less than one token for each of --steps {steps}")
    return Budget(size // steps, steps, told["source_budget"], told["max_epochs"])


def told_budget(budget: Budget) -> Record:
    """By the names of its options, which a refusal of another run's output tells."""
    return {
        "steps": budget.steps, "run_tokens": budget.steps * budget.tokens, "source_budget": budget.source_share,
        "max_epochs": budget.max_epochs,
    }  # fmt: skip
