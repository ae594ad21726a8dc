"""`keychain-synth needle`: needles in haystacks, over lengths and depths, every row exactly as long as it says.

The stress test of LoongRL (arXiv 2510.19363 §4.2, Fig. 3: 15 lengths × 10 depths), with the kinds of RULER
(arXiv 2404.06654; github.com/NVIDIA/RULER, scripts/data/synthetic and scripts/synthetic.yaml) and their numbers of keys
and values. What needles and questions say is our wording: scores are near RULER's own, and not the same.

    single             one key, one value
    multikey           several keys, one of them asked for; the others distract
    multivalue         one key with several values, all of them asked for
    multiquery         several keys, all of them asked for
    variable-tracking  VAR A = 12345, VAR B = VAR A, ...: which variables have the value 12345?

Depth d: of the sentence boundaries of the haystack, the asked needle stands at the one nearest to d % of its tokens,
counted without needles. Where there are several needles, the first one asked for stands there and the others
anywhere; in a chain of variables, which keeps its order, link round(d % of its hops) does, the earlier ones before.

Length: tokens of the prompt as the model gets it + the reserve <= length, and the next sentence would not fit. The
sentences' tokens are counted once; a row is encoded once more as a whole, and again only where that sum was wrong.

Rows of one length and sample have the same haystack whatever their depth; needles are drawn for every row.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import random
import sys
import uuid
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

import keychain_synth
from keychain_synth import book, chains
from keychain_synth.tokens import Tokenizer
from tenfold_shared import BadInput
from tenfold_shared.cli import sha256_of
from tenfold_shared.jsonl import Output, flow, is_pipe, read_text
from tenfold_shared.progress import Progress

Record = dict[str, Any]

# 1K to 128K and 0 to 100 %, evenly spaced and rounded: the labels of the paper's Fig. 3.
LENGTHS = tuple(round(1000 + at * 127_000 / 14) for at in range(15))
DEPTHS = tuple(round(at * 100 / 9) for at in range(10))

# What a kind has several of, and how many by RULER's settings.
KINDS: dict[str, dict[str, int]] = {
    "single": {},
    "multikey": {"keys": 4},
    "multivalue": {"values": 4, "keys": 1},
    "multiquery": {"queries": 4, "keys": 4},
    "variable-tracking": {"keys": 1, "hops": 4},  # keys: chains, of which one is asked for
}
TYPES = ("words", "numbers", "uuids")
BUILT_IN = (book.NAME, "noise", "repeat", "needle")  # haystacks; repeat is the name noise had in RULER at first

_NOISE = "The field is wide. The wind is low. The rain is over. On we walk. Home is near."
_WORDS = 100  # a haystack's sentence has at most so many; a longer one is cut
_CHARACTERS = 120  # of a word; a longer one is no word
_TRIES = 1000
_LONGEST = 1 << 24  # tokens

_ADJECTIVES = """able agile amber ample ancient arctic autumn azure bitter blank bold brave brief bright brisk broad
bronze calm candid careful cheap clean clear clever cloudy coastal cold copper crisp crooked curious damp daring dark
dear deep dense distant dry dusty eager early easy eastern elder empty faint fair famous fancy fast fierce firm flat
fond formal frail free fresh frosty gentle glad golden grand grave great green grey handy happy hardy hasty heavy
hidden hollow honest humble icy idle inner ivory jolly keen kind large late lazy lean light little lively lofty lone
loud loyal lucky marble mellow merry mild misty modest narrow neat nimble noble northern odd olden orange pale patient
plain polite proud pure quick quiet rapid rare ready regal rich ripe rough round royal rugged rural rustic""".split()
_NOUNS = """acorn anchor apple arrow badge bakery banjo barley barn basin basket beacon bell bench blanket boat bottle
branch bread brick bridge broom brush bucket button cabin camel candle canoe canyon carpet castle cedar chair chalk
cheese cherry chimney cliff clock cloud clover coat comet compass copper coral cottage cotton crane creek cricket crown
cup curtain daisy desk dolphin donkey door drum eagle ember engine falcon feather fence fern ferry fiddle field flute
forest fossil fountain fox garden gate ginger glacier glove goose grape hammer harbor hat hazel hedge helmet heron hill
honey horse island jacket jar kettle kite ladder lake lamp lantern lemon lily linen lion lobster locket maple market
meadow melon mill mirror mitten mountain nest oak oar olive onion otter owl paddle palace parcel peach pebble pencil
pepper piano pillow pine planet plum pocket pond poppy potato quill rabbit raven ribbon river robin rocket""".split()


class Test(msgspec.Struct, frozen=True):
    """What is hidden, and in what prompt; the options of the verb, in their words."""

    kind: str
    keys: int
    values: int
    queries: int
    hops: int
    key_type: str = "words"
    value_type: str = "numbers"
    reserve: int = 128
    messages: bool = True
    to: str = "task"
    seed: int = 0


class Needle(msgspec.Struct):
    """One inserted sentence. depth: percent of the haystack, wished for at first, then as it came out."""

    text: str
    key: str
    value: str
    asked: bool
    depth: float = 0.0


class Question(msgspec.Struct):
    """needles: the one at the row's depth is `anchor`; before, after: what stands around the haystack.

    prefix: how RULER begins the answer for a model without a chat template.
    """

    needles: list[Needle]
    anchor: int
    answers: list[str]
    before: str
    after: str
    prefix: str


def settings(
    kind: str, keys: int | None, values: int | None, queries: int | None, hops: int | None, **more: Any
) -> Test:
    """Options as a Test, with the kind's own numbers. Raises BadInput for a number the kind has no use for."""
    own = KINDS[kind]
    found = {"keys": 1, "values": 1, "queries": 1, "hops": 0} | own
    for name, value in (("keys", keys), ("values", values), ("queries", queries), ("hops", hops)):
        if value is None:
            continue
        if name not in own:
            fit = " and ".join(other for other, several in KINDS.items() if name in several)
            raise BadInput(f"--{name} {value}: --kind {kind} has no use for it; {fit} has")
        found[name] = value
    if keys is None:
        found["keys"] = max(found["keys"], found["queries"])
    if found["keys"] < found["queries"]:
        raise BadInput(f"--keys {keys}: expected at least as many as --queries, {found['queries']}")
    return Test(kind=kind, **{**found, **more})


def percents(text: str | None) -> tuple[float, ...]:
    """`0,11,22` as numbers, whole ones as int, each once and in rising order; DEPTHS for None. Raises BadInput."""
    if text is None:
        return DEPTHS
    try:
        found = sorted({float(part) for part in text.split(",")})
    except ValueError:
        found = [-1.0]
    if not all(0 <= depth <= 100 for depth in found):
        raise BadInput(f"--depths {text}: expected percents from 0 to 100, such as 0,25,50,75,100")
    return tuple(int(depth) if depth == int(depth) else depth for depth in found)


def stream(seed: int, *name: Any) -> random.Random:
    """Random numbers that depend on the seed and these names alone."""
    digest = hashlib.blake2b(repr((seed, *name)).encode(), digest_size=16).digest()
    return random.Random(int.from_bytes(digest, "little"))


# ---------------------------------------------------------------- haystacks


class Haystack:
    """Sentences in their order, read on from the first one at the end, and their tokens, counted when needed.

    joint: what stands between two of them, a space or a line break.
    """

    _BLOCK = 512

    def __init__(self, name: str, sentences: Sequence[str], joint: str) -> None:
        self.name, self.sentences, self.joint = name, sentences, joint
        self._blocks: dict[int, list[int]] = {}

    def tokens(self, index: int, tokenizer: Tokenizer) -> int:
        block, at = divmod(index, self._BLOCK)
        if block not in self._blocks:
            begin = block * self._BLOCK
            self._blocks[block] = tokenizer.counts(
                [self.joint + each for each in self.sentences[begin : begin + self._BLOCK]]
            )
        return self._blocks[block][at]


class Pile(msgspec.Struct):
    """The sentences a row may use, from `start` on. ends[n]: tokens of the first n. text: all of it, case-folded."""

    start: int
    joint: str
    sentences: list[str]
    ends: list[int]
    text: str


def gathered(haystack: Haystack, start: int, room: int, tokenizer: Tokenizer) -> Pile:
    """Sentences from `start` on, `room` tokens and a quarter more: parts may have more tokens than the whole."""
    sentences: list[str] = []
    ends = [0]
    room += room // 4
    for index in itertools.chain(
        range(start, len(haystack.sentences)), itertools.cycle(range(len(haystack.sentences)))
    ):
        if ends[-1] > room:
            break
        if len(sentences) > len(haystack.sentences) and ends[-1] == 0:
            raise BadInput(f"--haystack {haystack.name}: has no token of this tokenizer")
        sentences.append(haystack.sentences[index])
        ends.append(ends[-1] + haystack.tokens(index, tokenizer))
    return Pile(start, haystack.joint, sentences, ends, haystack.joint.join(sentences).casefold())


def haystack_of(name: str, tokenizer: Tokenizer) -> Haystack | None:
    """The haystack of --haystack; None for `needle`, which is another one for each row. Raises BadInput, Missing."""
    if name == "needle":
        return None
    if name in ("noise", "repeat"):
        return Haystack(name, [_NOISE], "\n")
    if name != book.NAME and is_pipe(name):
        raise BadInput(f"--haystack {name}: is no regular file, and is read more than once; write it to a file first")
    if name != book.NAME and not Path(name).is_file():
        told = "is a directory" if Path(name).is_dir() else "no such file"
        raise BadInput(f"--haystack {name}: {told}; expected a file of text, or one of {', '.join(BUILT_IN)}")
    text = book.text() if name == book.NAME else read_text(name, f"--haystack {name}")
    # A file may hold the tokens that end a turn; they must not.
    text = tokenizer.defuse(" ".join(text.split()))
    ends = chains.points(text)
    whole = (text[begin:end].strip() for begin, end in zip([0, *ends], ends, strict=False))
    sentences = [piece for each in whole for piece in _cut(each)]
    if not sentences:
        raise BadInput(f"--haystack {name}: expected text, found none")
    return Haystack(name, sentences, " ")


def _cut(sentence: str) -> Iterator[str]:
    """A sentence of more than _WORDS words in pieces, cut behind a comma or the like where its later half has one.

    Text without spaces, as Chinese is written, comes in pieces of _CHARACTERS.
    """
    words = [word[at : at + _CHARACTERS] for word in sentence.split() for at in range(0, len(word), _CHARACTERS)]
    if len(sentence) > _WORDS * 10 and len(sentence) > 30 * len(words):
        yield from words
        return
    while len(words) > _WORDS:
        marks = (at for at in range(_WORDS, _WORDS // 2, -1) if words[at - 1][-1] in ",;:")
        end = next(marks, _WORDS)
        yield " ".join(words[:end])
        del words[:end]
    if words:
        yield " ".join(words)


# ---------------------------------------------------------------- what is hidden


class Draw:
    """Keys and values that stand nowhere in a text, and no two of which can be taken for each other."""

    def __init__(self, rng: random.Random, avoid: str) -> None:
        self.rng, self.avoid = rng, avoid
        self._taken: list[str] = []

    def fresh(self, kind: str) -> str:
        for _ in range(_TRIES):
            found = self._one(kind)
            folded = found.casefold()
            # Scores are by containment and without case: no answer may be a part of another, or of any text.
            if folded not in self.avoid and not any(folded in each or each in folded for each in self._taken):
                self._taken.append(folded)
                return found
        raise BadInput(f"a row like this needs more different {kind} than there are; there are uuids for any")

    def _one(self, kind: str) -> str:
        rng = self.rng
        if kind == "numbers":
            return str(rng.randrange(10**6, 10**7))
        if kind == "uuids":
            return str(uuid.UUID(int=rng.getrandbits(128), version=4))
        if kind == "five digits":
            return str(rng.randrange(10_000, 100_000))
        if kind == "variables":
            return "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=5))
        return f"{rng.choice(_ADJECTIVES)}-{rng.choice(_NOUNS)}"


def _said(test: Test, key: str, value: str) -> str:
    return f"The secret {test.value_type[:-1]} of {key} is: {value}."


def needles_only(test: Test, room: int, rng: random.Random) -> Haystack:
    """A haystack of `room` tokens or more that is made of nothing but other needles (RULER's multikey 2 and 3)."""
    # A needle has ten tokens at the least. Whole keys differ here; that one is part of another is no matter.
    wanted, keys, draw = room // 10 + 1, dict[str, None](), Draw(rng, "")
    most = len(_ADJECTIVES) * len(_NOUNS) // 2 if test.key_type == "words" else wanted
    while len(keys) < min(wanted, most):
        keys[draw._one(test.key_type)] = None
    return Haystack("needle", [_said(test, key, draw._one(test.value_type)) for key in keys], "\n")


def retrieval(test: Test, rng: random.Random, avoid: str, depth: float) -> Question:
    """Keys with values; some keys are asked for."""
    draw = Draw(rng, avoid)
    keys = [draw.fresh(test.key_type) for _ in range(test.keys)]
    values = {key: [draw.fresh(test.value_type) for _ in range(test.values)] for key in keys}
    asked = rng.sample(keys, test.queries)
    order = [*asked, *(key for key in keys if key not in asked)]
    needles = [
        Needle(_said(test, key, value), key, value, key in asked, rng.uniform(0, 100))
        for key in order
        for value in values[key]
    ]
    needles[0].depth = depth
    answers = [value for key in asked for value in values[key]]
    query = asked[0] if len(asked) == 1 else f"{', '.join(asked[:-1])}, and {asked[-1]}"
    one = len(answers) == 1
    what = f"secret {test.value_type[:-1] if one else test.value_type}"
    some, verb, them = ("A", "is", "it") if one else ("Some", "are", "them")
    return Question(
        needles, 0, answers,
        f"{some} {what} {verb} hidden in the text below. You will be asked for {them}.\n",
        f"\nWhat {verb if one else 'are all'} the {what} of {query} in the text above?",
        f" The {what} of {query} in the text above {verb}",
    )  # fmt: skip


def tracking(test: Test, rng: random.Random, avoid: str, depth: float, stop: str) -> Question:
    """Chains of hops + 1 variables; the first chain's value is asked for. stop: what ends an assignment."""
    draw = Draw(rng, avoid + "".join(_TRACK).casefold())
    needles = []
    anchor = round(depth / 100 * test.hops)
    for chain in range(test.keys):
        names = [draw.fresh("variables") for _ in range(test.hops + 1)]
        number = draw.fresh("five digits")
        if chain == 0:
            before = sorted(rng.uniform(0, depth) for _ in range(anchor))
            places = [*before, depth, *sorted(rng.uniform(depth, 100) for _ in range(test.hops - anchor))]
        else:
            places = sorted(rng.uniform(0, 100) for _ in names)
        for name, earlier, place in zip(names, [number, *names], places, strict=False):
            text = f"VAR {name} = {earlier if earlier == number else f'VAR {earlier}'}{stop}"
            needles.append(Needle(text, name, earlier, chain == 0, place))
    answers = [needle.key for needle in needles if needle.asked]
    value = needles[0].value
    return Question(needles, anchor, answers, _TRACK[0], _TRACK[1].format(value=value),
                    _TRACK[2].format(value=value, count=len(answers)))  # fmt: skip


_TRACK = (
    "Somewhere in the text below variables are set, some of them to others. Keep track of them.\n\n",
    "\nWhich variables have the value {value} after the text above? Name all of them.",
    " After the text above {count} variables have the value {value}: ",
)


# ---------------------------------------------------------------- one row


class Maker:
    def __init__(self, test: Test, tokenizer: Tokenizer, haystack: Haystack | None) -> None:
        self.test, self.tokenizer, self.haystack = test, tokenizer, haystack
        self.pile = lru_cache(maxsize=1)(self._pile)  # the cells of all depths follow each other

    def _pile(self, length: int, sample: int) -> Pile:
        seed = self.test.seed
        if self.haystack is None:
            others = needles_only(self.test, 2 * length, stream(seed, "needles", length, sample))
            return gathered(others, 0, length, self.tokenizer)
        start = stream(seed, "start", sample).randrange(len(self.haystack.sentences))
        return gathered(self.haystack, start, length, self.tokenizer)

    def make(self, cell: Record) -> Record:
        """The row of a cell {id, index, length, depth, sample}. Raises BadInput where not one sentence fits."""
        test, length, depth = self.test, cell["length"], cell["depth"]
        pile = self.pile(length, cell["sample"])
        rng = stream(test.seed, test.kind, length, depth, cell["sample"])
        if test.kind == "variable-tracking":
            asked = tracking(test, rng, pile.text, depth, "." if pile.joint == " " else "")
        else:
            asked = retrieval(test, rng, pile.text, depth)
        fixed = len(self.encoded(asked, "")[2]) + sum(
            self.tokenizer.counts([pile.joint + needle.text for needle in asked.needles])
        )
        room = length - test.reserve
        count = max(1, self.upto(pile, room - fixed))
        fits, low, high = None, 0, len(pile.ends)  # the most sentences known to fit, the fewest known not to
        while low < count < high:
            context, spans = placed(pile, count, asked.needles)
            content, rendered, encoding = self.encoded(asked, context)
            spare = room - len(encoding)
            better = self.upto(pile, pile.ends[count] + spare)
            if spare < 0:
                high = count
                count = max(min(better, high - 1), low + 1)
            else:
                fits, low = (count, spans, content, rendered, encoding), count
                count = min(better, high - 1)  # no more than now: this was it
        if fits is None:
            taken = fixed + test.reserve
            raise BadInput(
                f"--length {length}: too short: without text the prompt and --reserve {test.reserve} take {taken} "
                f"tokens, and the first sentence of the haystack {pile.ends[1]}"
            )
        return self.row(cell, asked, pile, *fits)

    @staticmethod
    def upto(pile: Pile, room: int) -> int:
        """How many sentences have at most `room` tokens."""
        return bisect.bisect_right(pile.ends, room) - 1

    def encoded(self, asked: Question, context: str) -> tuple[str, str, Any]:
        """(what the user says, the prompt as the model gets it, its `tokenizers.Encoding`)."""
        content = asked.before + context + asked.after
        if not self.test.messages:
            rendered = content + asked.prefix
            return content, rendered, self.tokenizer.encode(rendered, True)
        rendered = self.tokenizer.render([{"role": "user", "content": content}])
        if self.test.to == "ruler":  # RULER begins the answer behind the template
            rendered += asked.prefix
        return content, rendered, self.tokenizer.encode(rendered, False)

    def row(
        self, cell: Record, asked: Question, pile: Pile, count: int, spans: list[Record], content: str, rendered: str,
        encoding: Any,
    ) -> Record:  # fmt: skip
        test = self.test
        into = self.tokenizer.place_of(content, rendered) if test.messages else 0
        begins = [begin for begin, _ in encoding.offsets]
        for span in spans:
            span["offset"] += len(asked.before)
            span["token"] = max(0, bisect.bisect_right(begins, into + span["offset"]) - 1)
        total = len(encoding)
        if test.to == "ruler":
            end = len(rendered) - len(asked.prefix)
            first = into + content.index(asked.answers[0])
            return {
                "index": cell["index"],
                "input": rendered[:end],
                "outputs": asked.answers,
                "length": total + test.reserve,
                "length_w_model_temp": total + test.reserve,
                "answer_prefix": rendered[end:],
                "token_position_answer": max(0, bisect.bisect_right(begins, first) - 1),
                "others": {name: cell[name] for name in ("id", "length", "depth", "sample")},
            }
        meta = {
            "kind": test.kind,
            "length": cell["length"],
            "depth": cell["depth"],
            "sample": cell["sample"],
            "reserve": test.reserve,
            "tokens": total,
            "match": "all" if len(asked.answers) > 1 else "any",
            "hops": test.hops,
            "haystack": {"name": self.haystack.name if self.haystack else "needle", "start": pile.start,
                         "sentences": count},
            "needles": spans,
            "anchor": next(at for at, span in enumerate(spans) if span["key"] == asked.needles[asked.anchor].key
                           and span["value"] == asked.needles[asked.anchor].value),
        }  # fmt: skip
        prompt: Record = {"messages": [{"role": "user", "content": content}]} if test.messages else {"prompt": rendered}
        return {"schema": "task/1", "id": cell["id"], **prompt, "answer": asked.answers, "meta": meta}


def placed(pile: Pile, count: int, needles: Sequence[Needle]) -> tuple[str, list[Record]]:
    """The first `count` sentences with the needles between them, and where each needle is, in the order of the text."""
    ends = pile.ends[: count + 1]
    order = sorted(((nearest(ends, needle.depth / 100 * ends[-1]), at) for at, needle in enumerate(needles)))
    pieces, spans, size, done = [], [], 0, 0
    for boundary, at in order:
        needle = needles[at]
        pieces += [*pile.sentences[done:boundary], needle.text]
        size += sum(len(piece) + 1 for piece in pile.sentences[done:boundary])
        spans.append({"key": needle.key, "value": needle.value, "asked": needle.asked,
                      "depth": round(100 * ends[boundary] / ends[-1], 3), "offset": size,
                      "length": len(needle.text)})  # fmt: skip
        size += len(needle.text) + 1
        done = boundary
    return pile.joint.join([*pieces, *pile.sentences[done:count]]), spans


def nearest(ends: Sequence[int], target: float) -> int:
    """The index of the rising number nearest to the target, the lower one of two."""
    above = min(bisect.bisect_left(ends, target), len(ends) - 1)
    return above - 1 if above and target - ends[above - 1] <= ends[above] - target else above


# ---------------------------------------------------------------- the verb


class Cells:
    """The grid as `flow` reads records: lengths, within them samples, within them depths."""

    bad = 0

    def __init__(
        self, test: Test, lengths: Sequence[int], depths: Sequence[float], samples: int, haystack: str,
        limit: int | None = None, shard: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        self.test, self.lengths, self.depths, self.samples, self.haystack = test, lengths, depths, samples, haystack
        total = len(lengths) * samples * len(depths)
        total = total if limit is None else min(limit, total)
        part, parts = shard or (1, 1)
        self.chosen = range((part - 1) * total // parts, part * total // parts)

    def identity(self) -> list[dict[str, str]]:
        path = self.haystack
        return [] if path in BUILT_IN else [{"path": path, "sha256": sha256_of(path)}]

    def __iter__(self) -> Iterator[tuple[str, Record]]:
        for index in self.chosen:
            row, at = divmod(index, len(self.depths))
            length, sample = self.lengths[row // self.samples], row % self.samples
            depth = self.depths[at]
            name = f"needle-{self.test.kind}-{length}-{depth}-{sample}"
            yield name, {"id": name, "index": index, "length": length, "depth": depth, "sample": sample}


def run(
    test: Test,
    *,
    tokenizer: str,
    lengths: Sequence[int] | None,
    depths: str | None,
    haystack: str,
    per_depth: int,
    output: str | None,
    overwrite: bool,
    max_time: float | None,
    quiet: bool,
    limit: int | None = None,
    shard: tuple[int, int] | None = None,
) -> int:
    """The verb; returns the exit code."""
    lengths = lengths or LENGTHS
    if max(lengths) > _LONGEST:
        raise BadInput(f"--length {max(lengths)}: expected at most {_LONGEST}")
    cells = Cells(test, lengths, percents(depths), per_depth, haystack, limit, shard)
    words = Tokenizer(tokenizer)
    if test.messages and not words.chats:
        raise BadInput(f"--tokenizer {tokenizer}: has no chat template; --prompt writes raw prompts instead")
    if words.longest and max(lengths) > words.longest:
        print(f"keychain-synth: --length {max(lengths)}: the tokenizer says that its model takes {words.longest} "
              f"tokens; rows are made all the same", file=sys.stderr)  # fmt: skip
    maker = Maker(test, words, haystack_of(haystack, words))
    decides = {
        **msgspec.to_builtins(test), "length": list(lengths), "depths": list(cells.depths), "per_depth": per_depth,
        "haystack": haystack, "tokenizer": words.digest, "limit": limit, "shard": list(shard) if shard else None,
        "chat_template": words.template_digest if test.messages else None,
    }  # fmt: skip

    def execute(requests: Iterator[tuple[str, Record]]) -> Iterator[tuple[str, Record]]:
        for key, cell in requests:
            yield key, maker.make(cell)

    source: Any = cells
    with (
        Output(output, tool="keychain-synth", version=keychain_synth.__version__, verb="needle", options=decides,
               source=source, overwrite=overwrite) as out,
        Progress("needle", len(cells.chosen), "rows", quiet) as progress,
    ):  # fmt: skip
        if out.finished:
            print(f"keychain-synth: {output}: complete already; nothing to do", file=sys.stderr)
            return 0
        done = flow(
            cells,
            identify=lambda cell: cell["id"],
            plan=lambda where, cell: [("", cell)],
            execute=execute,
            assemble=lambda cell, rows: rows,
            out=out,
            max_time=max_time,
            progress=progress,
        )
        code = out.complete(done, source, seed=test.seed)
    if not quiet:
        grid = f"{len(lengths)} lengths and {len(cells.depths)} depths"
        print(f"keychain-synth: {done.written} rows of {grid}", file=sys.stderr)
    return code
