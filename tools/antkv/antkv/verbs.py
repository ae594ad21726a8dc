"""What `eval` and `compare` share: a model, a text cut into windows, methods to run on them, and their figures."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, Literal

import msgspec

from antkv.codebook import Codebook, load
from antkv.text import Text, check_length
from tenfold_shared import BadInput
from tenfold_shared.progress import Progress

Record = dict[str, Any]
Protocol = Literal["decode", "prefill"]


class How(msgspec.Struct, frozen=True):
    """Options of an evaluation. window None: 128 tokens under `decode`, none under `prefill`."""

    model: str
    length: int
    windows: int | None
    anchors: float
    score: str
    scope: str
    window: int | None
    block: int
    protocol: Protocol
    dtype: str
    device: str
    trust_remote_code: bool
    allow_extrapolation: bool
    seed: int

    @property
    def kept_window(self) -> int:
        return self.window if self.window is not None else 128 if self.protocol == "decode" else 0

    def closed(self, length: int) -> int:
        """How many tokens are closed once so many have been fed."""
        return max(0, length - self.kept_window) // self.block * self.block

    def read(self, at: int) -> int:
        """How many closed tokens the query at a position reads: of those before its chunk, or of all in the end."""
        if self.protocol == "prefill":
            return min(at + 1, self.closed(self.length))
        return self.closed(at // self.block * self.block)


class Study:
    """A model and a text, ready to run methods on. The text is looked at at once, the model loaded when it is first asked
    for. Raises BadInput for a text or length that cannot be evaluated."""

    def __init__(self, texts: Sequence[str], how: How) -> None:
        if how.length < 2:
            raise BadInput(f"--length {how.length}: expected at least 2 tokens, one of which is predicted")
        self.how = how
        self._wanted = None if how.windows is None else how.windows * how.length
        self._text = Text(texts, self._wanted)

    @cached_property
    def _loaded(self) -> tuple[Any, Any, list[list[int]]]:
        """The model, its tokenizer and the windows of text."""
        from antkv.evaluate import windows
        from tenfold_shared.models import load_causal_lm

        how = self.how
        model, tokenizer = load_causal_lm(
            how.model, dtype=how.dtype, device=how.device, trust_remote_code=how.trust_remote_code
        )
        check_length(model.config, how.length, how.allow_extrapolation)
        ids = self._text.ids(tokenizer, self._wanted)
        found = windows(ids, how.length, how.windows)
        if not found:
            raise BadInput(f"the text has {len(ids)} tokens, less than one window of --length {how.length}")
        if not how.closed(how.length):
            print(
                f"antkv: windows of {how.length} tokens stay in the exact window of {how.kept_window} and one block of "
                f"{how.block}: nothing is quantised",
                file=sys.stderr,
            )
        elif not how.read(how.length - 2):  # of the last token nothing is predicted
            least = math.ceil((how.kept_window + how.block) / how.block) * how.block + 2
            print(
                f"antkv: in windows of {how.length} tokens the first block of {how.block} is closed behind the last query: none "
                f"reads a quantised token, and all figures but the bits are the exact model's; --length {least} or more",
                file=sys.stderr,
            )
        return model, tokenizer, found

    @property
    def model(self) -> Any:
        return self._loaded[0]

    @property
    def tokenizer(self) -> Any:
        return self._loaded[1]

    @property
    def windows(self) -> list[list[int]]:
        return self._loaded[2]

    def settings(self, **change: Any) -> Any:
        """Cache settings as the options say, with changes."""
        import torch

        from antkv.cache import Settings

        given: Record = {
            "ratio": self.how.anchors, "score": self.how.score, "scope": self.how.scope, "window": self.how.kept_window,
            "block": self.how.block, "exact_prefill": self.how.protocol == "decode", "seed": self.how.seed,
            "dtype": torch.bfloat16 if self.model.dtype == torch.bfloat16 else torch.float16,
        }  # fmt: skip
        return Settings(**(given | change))

    @property
    def step(self) -> int | None:
        """Tokens fed at a time: a block under `decode`, the window of text at once under `prefill`."""
        return self.how.block if self.how.protocol == "decode" else None

    def codebook(self, path: str) -> Codebook:
        """Raises BadInput for one of another model."""
        from antkv.codebook import weights_sha256

        book = load(path)
        book.check(self.model.config, weights_sha256=weights_sha256(self.model))
        return book

    def run(self, makers: dict[str, Callable[[], Any]], quiet: bool) -> dict[str, tuple[Any, Record]]:
        """Of each method its Tally, and the bits of its last cache. Raises BadInput for logits that are no numbers."""
        from antkv.cache import Packed, attached
        from antkv.evaluate import Tally, run_windows

        tallies = {name: Tally() for name in makers}
        bits: dict[str, Record] = {name: {} for name in makers}
        around = {name: lambda: attached(self.model) for name in makers if name not in ("exact", "quantized-cache")}
        with Progress("windows", len(self.windows), "windows", quiet) as progress:
            ran = run_windows(self.model, self.windows, makers, around, self.step)
            for number, (found, caches) in enumerate(ran, 1):
                for name, window in found.items():
                    if not (window.nll.isfinite().all() and window.kl.isfinite().all()):
                        whose = "the model's logits" if name == "exact" else f"the logits under {name}"
                        raise BadInput(f"window {number}: {whose} hold NaN or infinity")
                    tallies[name].add(window)
                    if isinstance(cache := caches[name], Packed):
                        bits[name] = {
                            "effective_bits": cache.effective_bits(),
                            "bytes": cache.parts(),
                            "numbers": cache.numbers(),
                        }
                    elif cache is not None:
                        bits[name] = {"effective_bits": cache.effective_bits(), "note": cache.note()}
                progress.update(1)
        return {name: (tallies[name], bits[name]) for name in makers}


def total_bits(effective: float, book: Codebook, numbers: int, windows: int) -> float:
    """Effective bits with the codebook's spread over all numbers that this run cached."""
    return effective + 8 * book.nbytes / (numbers * windows)


def bits_seen(how: How, book: Codebook, size: Record) -> float:
    """Bits a number of what the queries of a window read, in the mean over them: closed tokens with their share of the
    anchors, others with their sums, as the cache at the end of the window (size: its bytes by part) has them."""
    of = book.made.model
    lists, closed = len(book.made.layers) * of.kv_heads, how.closed(how.length)
    coded = (size["index"] + size["anchors"]) / closed if closed else 0.0
    kept = lists * (4 * of.head_dim + 8)
    queries = range(how.length - 1)
    bytes_read = sum((how.read(at) * coded + (at + 1 - how.read(at)) * kept) / (at + 1) for at in queries)
    return 8 * bytes_read / len(queries) / (lists * 2 * of.head_dim)


def run_eval(texts: Sequence[str], how: How, codebook: str, as_json: bool, quiet: bool) -> int:
    """The verb `eval`."""
    from antkv.cache import AntCache

    study = Study(texts, how)
    book = study.codebook(codebook)
    settings = study.settings()
    done = study.run({"exact": lambda: None, "antkv": lambda: AntCache(study.model, book, settings)}, quiet)
    tally, bits = done["antkv"]
    exact = done["exact"][0].figures()
    found = {
        "index_bits": book.made.shape.rate,
        "effective_bits": bits["effective_bits"],
        "effective_bits_seen": bits_seen(how, book, bits["bytes"]),
        "total_bits": total_bits(bits["effective_bits"], book, bits["numbers"], len(study.windows)),
        **tally.figures(),
        "exact": {key: exact[key] for key in ("ppl", "ppl_stderr")},
        "against_exact": tally.against(done["exact"][0]),
        "protocol": how.protocol,
        "length": how.length,
        "window": how.kept_window,
        "anchors": how.anchors,
        "score": how.score,
        "bytes": bits["bytes"],
        "codebook_bytes": book.nbytes,
    }
    if as_json:
        print(json.dumps(found, allow_nan=False))
        return 0
    difference = found["against_exact"]
    print(
        f"{how.protocol}, windows of {how.length}, {found['tokens']} tokens predicted: ppl {_pm(found['ppl'], found['ppl_stderr'])}, "
        f"exact {_pm(exact['ppl'], exact['ppl_stderr'])}; nll {difference['nll_difference']:+.4f}"
        + ("" if difference["stderr"] is None else f" ± {difference['stderr']:.4f}")
        + f"; KL {found['kl']:.4f}, same next token {found['top1_agreement']:.1%}"
    )
    parts = ", ".join(f"{name} {8 * size / bits['numbers']:.3f}" for name, size in bits["bytes"].items())
    print(
        f"bits a number: index {found['index_bits']:g}, effective at the end of a window {found['effective_bits']:.3f} ({parts}), "
        f"as queries saw it {found['effective_bits_seen']:.3f}, with the codebook over this run's tokens {found['total_bits']:.3f}"
    )
    return 0


def _pm(value: float, error: float | None) -> str:
    return f"{value:.3f}" if error is None else f"{value:.3f} ± {error:.3f}"


def run_compare(
    texts: Sequence[str],
    how: How,
    codebook: str,
    plain: str | None,
    methods: Sequence[str],
    peer_bits: int | None,
    plot: str | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """The verb `compare`."""
    if "quantized-cache" in methods and how.protocol == "prefill":
        raise BadInput(
            "--methods quantized-cache: transformers' cache attends to the exact keys and values of its first step, which is "
            "all that --protocol prefill has: it would look lossless; --protocol decode shows it"
        )
    study = Study(texts, how)
    book = study.codebook(codebook)
    needs_plain = [name for name in methods if name in ("vq", "cq")]
    if needs_plain and plain is None:
        raise BadInput(
            f"--methods {','.join(needs_plain)}: plain vector quantisation has books of its own: --plain-codebook FILE, made by "
            "antkv calibrate --weights none --leave-out 0"
        )
    plain_book = study.codebook(plain) if plain is not None else None
    if plain_book is not None:
        _check_plain(plain_book, book)
    bits = peer_bits or (4 if book.made.shape.rate >= 4 else 2)
    rows = compared(study, book, plain_book, methods, bits, quiet)
    if plot:
        from antkv.plot import draw

        draw(rows, plot)
    if as_json:
        told = {"protocol": how.protocol, "length": how.length, "tokens": rows[0]["tokens"], "methods": rows}
        print(json.dumps(told, allow_nan=False))
        return 0
    from rich.table import Table

    from tenfold_shared.cli import print_table

    table = Table(
        "method", "index bits", "effective bits", "ppl", "nll − exact", "KL", "same token", title=_title(how, rows),
        caption="\n".join(row["note"] for row in rows if "note" in row) or None,
    )  # fmt: skip
    for row in rows:
        difference = row["against_exact"]
        table.add_row(
            row["method"], _number(row["index_bits"]), _number(row["effective_bits"]), _pm(row["ppl"], row["ppl_stderr"]),
            f"{difference['nll_difference']:+.4f}" + ("" if difference["stderr"] is None else f" ± {difference['stderr']:.4f}"),
            f"{row['kl']:.4f}", f"{row['top1_agreement']:.1%}",
        )  # fmt: skip
    print_table(table)
    return 0


def _check_plain(plain: Codebook, book: Codebook) -> None:
    """Raises BadInput unless a codebook is what vq and cq are said to be, and else like antkv's."""
    made, other = plain.made, book.made
    for option, found, wanted in (
        ("weights", made.weights, "none"),
        ("leave-out", made.left_out, 0),
        *((name, getattr(made, name), getattr(other, name)) for name in ("dim", "centroids", "rope")),
        ("codebook-scope", made.scope, other.scope),
    ):
        if found != wanted:
            raise BadInput(f"--plain-codebook {plain.name}: was made with --{option} {found}, expected {wanted}")


def _title(how: How, rows: list[Record]) -> str:
    return f"{how.protocol}, windows of {how.length}, exact window {how.kept_window}, {rows[0]['tokens']} tokens"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def compared(
    study: Study, book: Codebook, plain: Codebook | None, methods: Sequence[str], bits: int, quiet: bool
) -> list[Record]:
    """A row a method, the exact model first; index_bits, effective_bits, figures, and differences from the exact model and
    from antkv, paired by window."""
    from antkv.cache import AntCache
    from antkv.peers import PeerCache

    settings = study.settings()
    makers: dict[str, Callable[[], Any]] = {"exact": lambda: None}
    index: dict[str, float] = {}
    for name in methods:
        index[name] = float(bits)
        if name == "antkv":
            makers[name], index[name] = partial(AntCache, study.model, book, settings), book.made.shape.rate
        elif name in ("vq", "cq"):
            assert plain is not None
            extra = longer(study, book) if name == "vq" else 0
            kept = study.settings(ratio=0.0, window=settings.window + extra)
            makers[name], index[name] = partial(AntCache, study.model, plain, kept), plain.made.shape.rate
        elif name == "evict":
            share = kept_share(study, book)
            makers[name], index[name] = partial(PeerCache, study.model, "evict", settings, share=share), 16 * share
        elif name == "quantized-cache":
            makers[name] = _quantized(study, bits)
        else:
            makers[name] = partial(PeerCache, study.model, name, settings, bits=bits)
    for make in makers.values():
        make()  # what does not fit is refused before the model runs
    done = study.run(makers, quiet)
    exact, mine = done["exact"][0], done.get("antkv", (None, {}))[0]
    rows = []
    for name, (tally, size) in done.items():
        row = {
            "method": name,
            "index_bits": index.get(name, 16.0),
            "effective_bits": size.get("effective_bits"),
            **tally.figures(),
        }
        row["against_exact"] = tally.against(exact)
        row["against_antkv"] = tally.against(mine) if mine is not None else None
        if name == "antkv":
            row["total_bits"] = total_bits(size["effective_bits"], book, size["numbers"], len(study.windows))
        if "note" in size:
            row["note"] = size["note"]
        rows.append(row)
    return rows


def _sizes(study: Study, book: Codebook) -> tuple[int, float, float]:
    """(closed tokens of a window of text, bytes of an anchor, bytes of a closed token's codes), a stored head."""
    how, dim = study.how, book.made.model.head_dim
    closed = max(0, (how.length - how.kept_window) // how.block * how.block)
    lists = 2 if how.scope == "head" else 1
    return closed, 4 * dim + 4 * lists, 2 * book.made.shape.rate * dim / 8


def longer(study: Study, book: Codebook) -> int:
    """By how many tokens a window without anchors is longer, at the same bytes: what they and their slots take, in tokens
    of the window with their sums; up to the next whole block, in favour of the longer window."""
    closed, anchor, codes = _sizes(study, book)
    token = 4 * book.made.model.head_dim + 8 - codes  # a token kept exactly saves its codes
    extra = math.ceil(math.ceil(study.how.anchors * closed) * anchor / token)
    return math.ceil(extra / study.how.block) * study.how.block


def kept_share(study: Study, book: Codebook) -> float:
    """The share of closed tokens that 16 bits can keep in the bytes of codes and anchors."""
    closed, anchor, codes = _sizes(study, book)
    if not closed:
        return 0.0
    return (codes + math.ceil(study.how.anchors * closed) / closed * anchor) / (4 * book.made.model.head_dim)


def _quantized(study: Study, bits: int) -> Callable[[], Any]:
    from antkv.peers import QuantoCache
    from tenfold_shared import Missing

    try:
        import optimum.quanto  # noqa: F401
    except ImportError:
        raise Missing(
            "--methods quantized-cache: optimum-quanto is not installed: pip install optimum-quanto"
        ) from None
    return partial(QuantoCache, study.model, bits, study.settings().window)
