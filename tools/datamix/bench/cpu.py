"""datamix on one core of this machine: an object a line (make bench-datamix).

Proxy training beside a plain transformers Trainer on a Llama of as many parameters, in turn within one run; the mixing loader beside
datasets.interleave_datasets; decisions; training of agents; a swarm on two processes. `--only CASE` for one of them, `--quick` for a look
that takes seconds each and says little. Everything on one thread but the last.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import msgspec
import numpy as np
import torch

from datamix.corpus import FILE, Corpus, Domain, Listing, Part
from datamix.proxy import PRESETS, Proxy
from datamix.stream import Mixer, Picker, Rows

TOOL = "datamix"
COMMAND = f"python tools/{TOOL}/bench/cpu.py"
Number = float | None


def machine() -> str:
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    return f"{model}, 1 of {os.cpu_count()} CPUs, torch {torch.__version__}"


def row(case: str, ours: float, unit: str, *, peer: Number = None, peer_name: str | None = None, ratio: Number = None, floor: Number = None, n: int, only: str) -> None:  # fmt: skip
    """ratio: how many times better than the peer; floor: what the hardware allows, in the same unit, floor_ratio the share of it."""
    told = {
        "tool": TOOL, "case": case, "ours": rounded(ours), "peer": rounded(peer), "peer_name": peer_name, "unit": unit, "ratio": rounded(ratio),
        "floor": rounded(floor), "floor_ratio": rounded(None if floor is None else ours / floor), "n": n, "machine": machine(), "command": f"{COMMAND} --only {only}",
    }  # fmt: skip
    print(json.dumps(told), flush=True)


def rounded(value: Number) -> Number:
    return None if value is None else float(f"{value:.4g}")


def text() -> bytes:
    """The standard library's modules: what every machine has."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return "\0".join(one.read_text(encoding="utf-8", errors="ignore") for one in files).encode("ascii", "ignore")


def corpus_in(folder: Path, domains: int = 6, size: int = 500_000) -> Corpus:
    """Pieces of that text as domains, the last two of them targets."""
    (folder / "tokens").mkdir(parents=True)
    whole, found = text(), []
    size = min(size, len(whole) // (domains + 1))
    for i in range(domains):
        parts = {}
        for split, start, length in (("train", i * size, size - 20_000), ("valid", (i + 1) * size - 20_000, 20_000)):
            data = whole[start : start + length]
            (folder / "tokens" / f"d{i}.{split}.bin").write_bytes(data)
            parts[split] = Part(1, len(data), len(data), "")
        found.append(Domain(f"d{i}", "target" if i >= domains - 2 else "source", parts["train"], parts["valid"]))
    (folder / FILE).write_bytes(msgspec.json.encode(Listing(domains=found)))
    return Corpus.load(folder)


def matmul_rate(seconds: float) -> float:
    """FLOP/s of this thread on large float32 matrices."""
    a, b, n = torch.randn(768, 768), torch.randn(768, 768), 0
    torch.mm(a, b)
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        torch.mm(a, b)
        n += 1
    return n * 2 * 768**3 / (time.perf_counter() - began)


# ---------------------------------------------------------------- proxy training


def llama(name: str, vocabulary: int) -> Any:
    """A Llama of a preset's width, depth, heads and context, its inner layers as wide as makes as many parameters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    c = PRESETS[name]
    d, wanted = c.width, c.parameters(vocabulary)
    inner = round((wanted - vocabulary * d - d - c.layers * (4 * d * d + 2 * d)) / (3 * d * c.layers))
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=d, intermediate_size=inner, num_hidden_layers=c.layers, num_attention_heads=c.heads, num_key_value_heads=c.heads,
        max_position_embeddings=c.context, tie_word_embeddings=True, use_cache=False, pad_token_id=None, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def proxy(corpus: Corpus, folder: Path, quick: bool) -> None:
    """Blocks of both in turn: the Trainer's own loop stops after each of its blocks for one of ours."""
    from datasets import Dataset
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    for name, precision in (("22k", "float32"), ("123k", "float32"), ("123k", "bfloat16")):
        config = msgspec.structs.replace(PRESETS[name], precision=precision)
        block, blocks = (10, 3) if quick else (100 if name == "22k" else 40, 12)
        bytes_a_block = block * config.batch * config.context
        vocabulary = corpus.listing.vocabulary
        ours = Proxy(config, vocabulary, 0)
        mixture = np.full(len(corpus.names), 1 / len(corpus.names))
        mixer = Mixer(Rows(corpus, config.context, 0), Picker(corpus.names, 0))
        drawing: list[float] = []

        def one_block(config: Any = config, block: int = block, ours: Any = ours, mixer: Any = mixer, mixture: Any = mixture, drawing: Any = drawing) -> None:  # fmt: skip
            began = time.perf_counter()
            rows, _ = mixer.draw(mixture, block * config.batch)
            drawing.append(time.perf_counter() - began)
            ours.train(rows)

        rows, _ = Mixer(Rows(corpus, config.context, 1), Picker(corpus.names, 1)).draw(
            mixture, block * blocks * config.batch
        )
        data = Dataset.from_dict({"input_ids": rows[:, :-1], "labels": rows[:, :-1]}).with_format("torch")
        times: dict[str, list[float]] = {"ours": [], "peer": []}

        class Turns(TrainerCallback):
            began = 0.0

            def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if self.began == 0:
                    self.began = time.perf_counter()

            def on_step_end(self, args: Any, state: Any, control: Any, block: int = block, times: Any = times, run: Any = one_block, **kwargs: Any) -> None:  # fmt: skip
                if state.global_step % block:
                    return
                times["peer"].append(time.perf_counter() - self.began)
                began = time.perf_counter()
                run()
                times["ours"].append(time.perf_counter() - began)
                self.began = time.perf_counter()

        arguments = TrainingArguments(
            output_dir=str(folder / "trainer"), per_device_train_batch_size=config.batch, max_steps=block * blocks, learning_rate=config.lr,
            logging_strategy="no", save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        model = llama(name, vocabulary)
        trainer = Trainer(model=model, args=arguments, train_dataset=data, callbacks=[Turns()])
        trainer.remove_callback(PrinterCallback)  # stdout is for rows
        trainer.train()
        mine, theirs = (times[key][1:] for key in ("ours", "peer"))  # the first ones warm up
        ratio = statistics.median(b / a for a, b in zip(mine, theirs, strict=True))
        speed = bytes_a_block / statistics.median(mine)
        flops = matmul_rate(0.1 if quick else 1.0)
        floor = flops / (6 * config.parameters(vocabulary))
        counted = sum(x.numel() for x in model.parameters())
        row(f"training a proxy of preset {name}, {config.parameters(vocabulary):,} parameters, {precision} (bar: 2 times)", speed, "bytes/s", peer=bytes_a_block / statistics.median(theirs), peer_name=f"transformers Trainer, Llama of {counted:,} parameters, float32", ratio=ratio, floor=floor, n=len(mine) * bytes_a_block, only="proxy")  # fmt: skip
        share = 100 * statistics.median(a / b for a, b in zip(drawing[1:], mine, strict=True))
        row(
            f"share of that proxy's time in drawing rows, preset {name}, {precision} (bar: 2 %)",
            share,
            "%",
            n=len(mine) * block,
            only="proxy",
        )


# ---------------------------------------------------------------- mixing loader


def alternating(runs: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Things a second of each, medians of rounds in turn; the first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, one in runs.items():
            began = time.perf_counter()
            n = one()
            if number:
                found[name].append(n / (time.perf_counter() - began))
    return {name: statistics.median(x) for name, x in found.items()}


def loader(corpus: Corpus, folder: Path, quick: bool) -> None:
    from datasets import Dataset, interleave_datasets

    from datamix.dataset import MixedDataset

    rounds, n = (1, 2_000) if quick else (5, 20_000)
    for domains in (6, 52):
        weights = np.random.default_rng(0).dirichlet(np.ones(domains))
        names = [f"d{i}" for i in range(domains)]
        half = np.arange(domains) < domains // 2
        pickers = {
            "free": Picker(names, 0),
            "limited": Picker(names, 0, limits=np.full(domains, 10**12), source=half, total_source=10**12),
        }

        def pick(picker: Picker, weights: Any = weights) -> int:
            for _ in range(20):
                picker.pick(weights, 8192)
            return 20 * 8192

        speeds = alternating({name: lambda p=p, pick=pick: pick(p) for name, p in pickers.items()}, rounds)
        for name, speed in speeds.items():
            row(
                f"choosing the domains of rows, {domains} domains, {name} (bar: 1,000,000)",
                speed,
                "rows/s",
                n=rounds * 20 * 8192,
                only="loader",
            )
    for length in (64, 1024):
        weights = np.random.default_rng(0).dirichlet(np.ones(len(corpus.names)))
        of_domains = []
        for name in corpus.names:
            tokens = np.asarray(corpus.tokens(name, "train")).astype(np.int64)
            kept = len(tokens) // length * length
            of_domains.append(Dataset.from_dict({"input_ids": tokens[:kept].reshape(-1, length)}).with_format("torch"))
        # Ours is a dataset that goes on for ever; theirs begins anew where it ends.
        options = {"probabilities": list(weights), "seed": 0, "stopping_strategy": "all_exhausted"}
        peers = {
            "interleave_datasets, in memory": lambda options=options, of=of_domains: interleave_datasets(of, **options),
            "interleave_datasets, iterable": lambda options=options, of=of_domains: interleave_datasets([one.to_iterable_dataset() for one in of], **options),
        }  # fmt: skip
        ours = iter(MixedDataset(corpus, length, weights))
        count = n if length == 64 else n // 4

        def read(source: Iterator[Any], count: int = count) -> int:
            for _ in range(count):
                next(source)
            return count

        def forever(make: Callable[[], Any]) -> Iterator[Any]:
            made = make()
            while True:
                yield from made

        streams = {"ours": ours, **{name: forever(make) for name, make in peers.items()}}
        speeds = alternating({name: lambda s=s, read=read: read(s) for name, s in streams.items()}, rounds)
        best = max(peers, key=lambda name: speeds[name])
        row(f"mixed rows of {length} tokens, one at a time, as tensors", speeds["ours"], "rows/s", peer=speeds[best], peer_name=f"datasets.{best}, torch format", ratio=speeds["ours"] / speeds[best], n=rounds * count, only="loader")  # fmt: skip


# ---------------------------------------------------------------- agents


def decision(corpus: Corpus, folder: Path, quick: bool) -> None:
    from datamix.agent import Agent, Card
    from datamix.diagnose import decision_ms

    d, steps = 52, 20 if quick else 80
    names = [f"d{i}" for i in range(d)]
    roles = ["source" if i % 2 == 0 else "target" for i in range(d)]
    cards = {
        "set": Card(arch="set", algo="cql", critics=2),
        "decoder": Card(arch="decoder", algo="cql", sizes={"domains": d}, critics=2, critic_sizes={"domains": d, "width": 64}, domains=names, roles=roles),
        "pooled": Card(arch="pooled", algo="model", sizes={}, critics=1, critic_arch="pooled-value", critic_sizes={}),
    }  # fmt: skip
    for name, card in cards.items():
        told = [decision_ms(Agent(card), steps, d) for _ in range(1 if quick else 3)]
        for key, what in (("warm", "asked before every step"), ("cold", "asked for the first time")):
            ms = statistics.median(one[key] for one in told)
            row(
                f"decision of a {name} agent, {d} domains, step {steps}, {what} (bar: 10 ms)",
                ms,
                "ms",
                n=len(told),
                only="decision",
            )


def runs_of(n: int, steps: int, domains: int) -> list[Any]:
    """A made-up swarm: losses fall with use and drift back."""
    from datamix.history import Budget, Step, Trajectory

    rng = np.random.default_rng(0)
    names = [f"d{i}" for i in range(domains)]
    roles = {name: "source" if i < domains - 2 else "target" for i, name in enumerate(names)}
    found = []
    for i in range(n):
        base = rng.uniform(2, 4, domains)
        losses, done = base.copy(), []
        weights = rng.dirichlet(np.ones(domains))
        for t in range(steps):
            weights = weights * np.exp(0.4 * rng.normal(size=domains))
            weights /= weights.sum()
            losses = losses - 0.2 * weights**0.7 + 0.04 * (base * 1.1 - losses) + 0.005 * rng.normal(size=domains)
            done.append(Step(t, (t + 1) * 8192, dict(zip(names, map(float, weights), strict=True)), dict(zip(names, map(float, losses), strict=True))))  # fmt: skip
        found.append(Trajectory(f"{i}", f"task-{i % 6}", "walk", i, roles, dict.fromkeys(names, 10**6), dict(zip(names, map(float, base), strict=True)), Budget(8192, steps, 0.2), done))  # fmt: skip
    return found


def agents(corpus: Corpus, folder: Path, quick: bool) -> None:
    from datamix import train

    n, steps, domains = (8, 8, 6) if quick else (48, 16, 6)
    runs = runs_of(n, steps, domains)
    for algo in ("sft", "cql", "model"):
        began = time.perf_counter()
        train.make(runs, train.Settings(algo=algo, steps=10 if quick else None))
        row(
            f"training an agent, --algo {algo}, {n} runs of {steps} steps over {domains} domains (bar: 120 s)",
            time.perf_counter() - began,
            "s",
            n=n,
            only="agents",
        )


# ---------------------------------------------------------------- swarm on two processes


def work(folder: str, number: int, seconds: float, ready: Any, told: Any) -> None:
    """Train a proxy for some seconds; tell how many bytes a second."""
    torch.set_num_threads(1)
    corpus, config = Corpus.load(folder), PRESETS["22k"]
    one = Proxy(config, corpus.listing.vocabulary, number)
    mixer = Mixer(Rows(corpus, config.context, number), Picker(corpus.names, number))
    mixture = np.full(len(corpus.names), 1 / len(corpus.names))
    one.train(mixer.draw(mixture, 20 * config.batch)[0])
    ready.wait()
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        one.train(mixer.draw(mixture, 20 * config.batch)[0])
        done += 20 * config.batch * config.context
    told.put(done / (time.perf_counter() - began))


def swarm(corpus: Corpus, folder: Path, quick: bool) -> None:
    context = multiprocessing.get_context("spawn")

    def speed(processes: int) -> float:
        ready, told = context.Barrier(processes), context.Queue()
        running = [
            context.Process(target=work, args=(str(corpus.folder), i, 0.5 if quick else 4.0, ready, told))
            for i in range(processes)
        ]
        for one in running:
            one.start()
        found = sum(told.get(timeout=120) for _ in running)
        for one in running:
            one.join()
        return float(found)

    alone, both = [], []
    for _ in range(1 if quick else 3):
        alone.append(speed(1))
        both.append(speed(2))
    row("two processes of a swarm, one thread each, preset 22k", statistics.median(both), "bytes/s", peer=statistics.median(alone), peer_name="one process", ratio=statistics.median(b / a for a, b in zip(alone, both, strict=True)), n=len(alone), only="swarm")  # fmt: skip


CASES: dict[str, Callable[[Corpus, Path, bool], None]] = {
    "proxy": proxy, "loader": loader, "decision": decision, "agents": agents, "swarm": swarm,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list(CASES))
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        corpus = corpus_in(Path(made) / "corpus")
        for name, case in CASES.items():
            if given.only in (None, name):
                case(corpus, Path(made), given.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
