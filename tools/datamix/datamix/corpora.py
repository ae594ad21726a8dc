"""Makes a corpus (corpus.py describes the folder): chooses documents, keeps each once, splits, tokenises, writes all or nothing.

Two ways. `from_installed` takes the texts of installed packages (installed.py), removes copies and near copies across all domains and both
splits, and holds out whole items. `from_folder` takes a folder in someone else's layout (layouts.py) as it is: its own split where it has
one, else a seeded one. It reads the folder twice, so that memory holds 17 bytes a document and no text.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamix import installed, layouts
from datamix.build import (
    Build,
    Bytes,
    Encoder,
    Form,
    Found,
    Tokens,
    Writer,
    check_place,
    check_shares,
    count,
    divide,
    encoder_of,
    floor_decides,
    held_out,
    listing_of,
    report,
    roles_of,
    used_of,
    write_texts,
)
from datamix.copies import Kept, clean, cut, digest, mixed
from datamix.corpus import Domain, Part, Role, Split, ambiguous, check_domains
from datamix.stream import key_of
from tenfold_shared import BadInput, unread
from tenfold_shared.progress import Progress

LONGEST = 200_000  # bytes of an item of installed text; what is longer is cut at a line end
PARTS = 24  # and no item is more than this fraction of its domain, so that a few files do not make it
LEAST_TRAIN = 30_000  # bytes below which installed text makes no domain
SHORT = 10_000  # bytes below which a given domain is called small
LEAST_DOMAINS = 6
Dedup = Literal["none", "exact", "near"]
DEDUP: tuple[Dedup, ...] = ("none", "exact", "near")
SPLITS: tuple[Split, ...] = ("train", "valid")


def tell(line: str) -> None:
    print(f"datamix: {line}", file=sys.stderr)


def tell_of_floor(share: float, domains: Sequence[Domain]) -> None:
    """One line for domains too small for the share that was asked for, with what was held out of them."""
    if domains:
        held = [f"{one.name} {one.valid.documents} of {one.train.documents + one.valid.documents}" for one in domains]
        tell(
            f"--valid-share {share:g}: of a domain at least 40 kB is held out, or a fifth where that is less; documents held out: {', '.join(held)}"
        )


# ---------------------------------------------------------------- installed text


def from_installed(
    output: str,
    *,
    targets: tuple[str, ...],
    domains: tuple[str, ...] = (),
    max_bytes: int = 1_000_000,
    valid_share: float = 0.1,
    tokenizer: str = "bytes",
    seed: int = 0,
    debian: bool = False,
    overwrite: bool = False,
    as_json: bool = False,
    quiet: bool = False,
) -> int:
    """A corpus of the texts that installed packages hold, at most `max_bytes` of train text a domain.

    domains: which, besides the targets; none given = all that are found. Raises BadInput for unknown names and where fewer than six domains are found.
    """
    check_place(output)
    check_shares(max_bytes, valid_share)
    known = installed.recipes(debian)
    for option, given in (("--domain", domains), ("--target", targets)):
        for name in given:
            if name not in known:
                raise BadInput(f"{option} {name}: no such domain in installed text; there are {', '.join(known)}")
    names = [name for name in known if not domains or name in (*domains, *targets)]
    roles_of(names, targets, "installed text")
    options = {"from_installed": True, "target": sorted(targets), "domain": sorted(domains), "max_bytes": max_bytes,
               "valid_share": valid_share, "tokenizer": tokenizer, "seed": seed, "debian": debian}  # fmt: skip
    packages = {f"{name}": version for name, version, _ in installed.distributions()}
    packages["Python"] = sys.version.split()[0]
    identity = {"tool": "datamix", "verb": "corpora", "options": options, "packages": packages, "inputs": []}
    with Build(output, identity, overwrite) as build:
        if build.finished is not None:
            report(build.output, build.finished.get("counts", {}), as_json)
            return 0
        encode = encoder_of(tokenizer)
        kept, found, inputs, floored = Kept(), [], [], []
        with Progress("corpora", len(names), "domains", quiet) as progress:
            for name in progress.over(names):
                items, read = gather(known[name], max_bytes, valid_share, seed, kept)
                told = without(known[name])
                sizes = [len(text.encode()) for text in items]
                split = divide(sizes, max_bytes, valid_share, whole=False)
                if sum(sizes[i] for i in split.train) < min(LEAST_TRAIN, max_bytes / 2) or not split.valid:
                    if name in (*domains, *targets):
                        raise BadInput(f"{name}: too little text is installed for it{told}")
                    progress.note(f"datamix: {name}: left out, too little text is installed for it{told}")
                    continue
                if told and not quiet:
                    progress.note(f"datamix: {name}: smaller than it might be{told}")
                left = max_bytes - sum(sizes[i] for i in split.train[:-1])
                texts = [items[i] for i in split.train[:-1]] + [cut(items[split.train[-1]], left)]
                trained = {digest(text) for text in texts}
                held = [cut(items[i], split.longest) for i in split.valid]
                held = [text for text in held if digest(text) not in trained]  # cutting may have made two alike
                train = write_texts(build.folder, name, "train", texts, encode)
                valid = write_texts(build.folder, name, "valid", held, encode)
                role: Role = "target" if name in targets else "source"
                found.append(Domain(name, role, train, valid, installed.origin(known[name])))
                if floor_decides(used_of(sum(sizes), max_bytes, valid_share), valid_share):
                    floored.append(name)
                inputs += [read[i] for i in sorted([*split.train, *split.valid])]
        if not domains and len(found) < LEAST_DOMAINS:
            lacking = dict.fromkeys(
                installed.PIP.get(p, p) for r in known.values() for p in installed.absent(r) if "/" not in p
            )
            raise BadInput(
                f"installed text: {len(found)} domains; expected {LEAST_DOMAINS} or more: pip install {' '.join(lacking)}"
            )
        check_domains([(one.name, one.role) for one in found], "installed text")
        tell_of_floor(valid_share, [one for one in found if one.name in floored])
        listing = listing_of(found, encode)
        counts = count(found, kept.dropped)
        build.publish(listing, counts, sorted(inputs, key=lambda one: one["path"]))
    report(build.output, counts, as_json)
    return 0


def gather(
    recipe: installed.Recipe, most: int, share: float, seed: int, kept: Kept
) -> tuple[list[str], list[dict[str, str]]]:
    """Items of a domain in seeded order, until there is enough for both splits, with {path, sha256} of what each was read from."""
    items = list(installed.items(recipe))
    longest = min(LONGEST, max(2000, most // PARTS))
    there = sum(min(item.path.stat().st_size, longest) for item in items)
    if there < 1.5 * most:  # few files, large ones: take more of each
        longest = min(LONGEST, 3 * longest)
    held = held_out(int(most / (1 - share)), share)
    enough = most + 2 * held + longest  # as what is held out may be cut to half its size
    texts: list[str] = []
    read: list[dict[str, str]] = []
    size = 0
    hashes: dict[Path, str] = {}
    for item in sorted(items, key=lambda item: (key_of(seed, recipe.name, item.key), item.key)):
        text = item.read()
        if text is None:
            continue
        text = cut(clean(text), longest)
        if len(text.split()) < 5 or not kept.admits(text):
            continue
        if item.path not in hashes:
            hashes[item.path] = hashlib.sha256(item.path.read_bytes()).hexdigest()
        texts.append(text)
        read.append({"path": item.key, "sha256": hashes[item.path]})
        size += len(text.encode())
        if size >= enough:
            break
    return texts, read


def without(recipe: installed.Recipe) -> str:
    """What would add to a domain, in words; empty where all is there."""
    lacking = installed.absent(recipe)
    if not lacking:
        return ""
    packages = list(dict.fromkeys(installed.PIP.get(name, name) for name in lacking if "/" not in name))
    folders = [name for name in lacking if "/" in name]
    ways = [f"pip install {' '.join(packages)}"] if packages else []
    return f" ({'; '.join(ways + [f'{name} is absent' for name in folders])} adds to it)"


# ---------------------------------------------------------------- a folder of someone else's


class Scan(NamedTuple):
    """One split of a domain, read once: keys [n] are equal for equal documents, sizes [n] in bytes (tokens, where there is no text); use
    [n] is false for what is empty or a copy."""

    keys: NDArray[np.uint64]
    sizes: NDArray[np.int64]
    use: NDArray[np.bool_]

    @property
    def total(self) -> int:
        """Sizes of what is used, in all."""
        return int(self.sizes[self.use].sum())


class Seen:
    """What the documents turned out to be, over all domains."""

    def __init__(self, dedup: Dedup) -> None:
        self.dedup = dedup
        self.kept = Kept()
        self.kinds: dict[str, str] = {}  # text or tokens: where first seen
        self.largest = 0  # token id
        self.ends: set[int] = set()  # the last tokens of documents, two at most

    def note(self, document: layouts.Document) -> tuple[int, int, bool]:
        """Key, size and whether it is to be used. Raises BadInput where text and tokens are mixed."""
        self.kinds.setdefault("tokens" if document.text is None else "text", document.where)
        if len(self.kinds) > 1:
            raise BadInput(f"{self.kinds['tokens']}: token ids, and {self.kinds['text']} is text; expected one kind")
        if document.text is None:
            assert document.ids is not None
            ids = document.ids
            key = hashlib.sha256(np.ascontiguousarray(ids, dtype="<u4").tobytes()).digest()
            if len(ids):
                self.largest = max(self.largest, int(ids.max()))
                if len(self.ends) < 2:
                    self.ends.add(int(ids[-1]))
            fresh = len(ids) > 0 and (self.dedup == "none" or self.kept.new(key))
            return int.from_bytes(key[:8], "little"), len(ids), fresh
        text = clean(document.text)
        key = digest(text)
        fresh = bool(text.strip()) and (
            self.dedup == "none" or (self.kept.admits(text) if self.dedup == "near" else self.kept.new(key))
        )
        return int.from_bytes(key[:8], "little"), len(text.encode()), fresh


def scan(
    given: layouts.Given, split: Split, seen: Seen, bad: layouts.Tolerance, end: int | None, progress: Progress
) -> Scan:
    keys, sizes, use = bytearray(), bytearray(), bytearray()
    for document in layouts.documents(given, split, bad, end):
        key, size, fresh = seen.note(document)
        keys += key.to_bytes(8, "little")
        sizes += size.to_bytes(8, "little")
        use.append(fresh)
        progress.update()
    return Scan(np.frombuffer(keys, "<u8"), np.frombuffer(sizes, "<i8"), np.frombuffer(use, np.bool_))


def choose(
    name: str, train: Scan, valid: Scan | None, most: int | None, share: float, seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which documents to train on and which to hold out: masks [n] over the documents of `train`, or over those of each split where there
    are two. Equal documents are taken or left together, so that no copy stands on the other side. The order of choice is that of a
    seeded hash. Raises BadInput for a domain with nothing in it, or with a single document and no split."""

    def ordered(one: Scan) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        keys, back = np.unique(one.keys[one.use], return_inverse=True)
        sizes = np.bincount(back, one.sizes[one.use], len(keys)).astype(np.int64)
        order = np.argsort(mixed(keys ^ np.uint64(key_of(seed, "split"))), kind="stable")
        return keys[order], sizes[order]

    def masked(one: Scan, chosen: NDArray[np.uint64]) -> NDArray[np.bool_]:
        return one.use & np.isin(one.keys, chosen)

    keys, sizes = ordered(train)
    if not len(keys):
        raise BadInput(
            f"{name}: empty: its {len(train.keys)} documents hold no text that is used; leave the domain out"
        )
    if valid is not None and valid.use.any():
        if most is None:
            return train.use, valid.use
        found = []
        for one in (train, valid):
            keys, sizes = ordered(one)
            fits, taken = [], 0
            for i, size in enumerate(sizes.tolist()):
                if taken + size <= most:
                    fits.append(i)
                    taken += size
            found.append(masked(one, keys[fits or [int(sizes.argmin())]]))
        return found[0], found[1]
    if len(keys) < 2:
        raise BadInput(f"{name}: one document: nothing can be held out of it; expected two or more, or a valid split")
    split = divide(sizes.tolist(), most, share)
    if not split.train:
        raise BadInput(f"{name}: no document is as small as --max-bytes {most}; raise it")
    train_mask, valid_mask = masked(train, keys[split.train]), masked(train, keys[split.valid])
    return train_mask, valid_mask


def from_folder(
    source_dir: str,
    output: str,
    *,
    targets: tuple[str, ...],
    domains: tuple[str, ...] = (),
    layout: str = "auto",
    max_bytes: int | None = None,
    valid_share: float = 0.1,
    tokenizer: str = "bytes",
    dedup: Dedup = "none",
    skip_bad: int = 0,
    seed: int = 0,
    overwrite: bool = False,
    as_json: bool = False,
    quiet: bool = False,
) -> int:
    """A corpus of a folder that layouts.py can read.

    domains: which, besides the targets; none given = all. max_bytes: of train text a domain (of tokens where there is no text); None = all there is. dedup:
    what is dropped besides empty documents and valid ones that are in train: nothing, copies, or near copies too. skip_bad: malformed
    documents that are passed over. Token layouts keep their tokens; `tokenizer` then tells how many bytes they stand for.
    Raises BadInput, Missing, Busy.
    """
    check_place(output)
    check_shares(max_bytes, valid_share)
    if dedup not in DEDUP:
        raise BadInput(f"--dedup {dedup}: expected one of {', '.join(DEDUP)}")
    folder, place = Path(source_dir), Path(output)
    here, there = folder.resolve(), place.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise BadInput(
            f"{output}: is {'the input' if here == there else 'inside the input or around it'}; choose a folder beside it"
        )
    kind, given, passed = layouts.find(folder, layout)
    for name in domains:
        if name not in [one.name for one in given]:
            raise BadInput(
                f"--domain {name}: no such domain in {folder}; there are {', '.join(one.name for one in given)}"
            )
    given = [one for one in given if not domains or one.name in (*domains, *targets)]
    roles = roles_of([one.name for one in given], targets, str(folder))
    options = {"from": source_dir, "target": sorted(targets), "domain": sorted(domains), "layout": layout, "max_bytes": max_bytes,
               "valid_share": valid_share, "tokenizer": tokenizer, "dedup": dedup, "skip_bad": skip_bad, "seed": seed}  # fmt: skip
    inputs = hashed(folder, given)
    identity = {"tool": "datamix", "verb": "corpora", "options": options, "inputs": inputs}
    with Build(output, identity, overwrite) as build:
        if build.finished is not None:
            report(build.output, build.finished.get("counts", {}), as_json)
            return 0
        warn_of_names(list(roles), passed, folder)
        encode = encoder_of(tokenizer)
        end = None if isinstance(encode, Bytes) else encode.separator
        seen, bad = Seen(dedup), layouts.Tolerance(skip_bad)
        scans: dict[tuple[str, Split], Scan] = {}
        with Progress("corpora: reading", None, "documents", quiet) as progress:
            for split in SPLITS:  # all train text first: of two copies the one in train is kept
                for one in given:
                    if one.files(split):
                        scans[one.name, split] = scan(one, split, seen, bad, end, progress)
        masks = chosen(given, scans, max_bytes, valid_share, seed)
        overlap = drop_overlap(masks, scans)
        form = encode if "text" in seen.kinds else form_of(seen, encode, tokenizer)
        found = []
        with Progress(
            "corpora: writing", sum(int(mask.sum()) for mask, _ in masks.values()), "documents", quiet
        ) as progress:
            for one in given:
                parts = {
                    s: write(build.folder, one, s, *masks[one.name, s], form, encode, skip_bad, progress)
                    for s in SPLITS
                }
                if parts["train"].bytes < SHORT:
                    tell(
                        f"{one.name}: {parts['train'].bytes} bytes of train text; a domain this small is soon learned by heart"
                    )
                found.append(Domain(one.name, roles[one.name], parts["train"], parts["valid"], f"{folder} ({kind})"))
        floored = {
            name
            for name, own in ((one.name, masks[one.name, "valid"][1]) for one in given)
            if own == "train" and floor_decides(used_of(scans[name, own].total, max_bytes, valid_share), valid_share)
        }
        tell_of_floor(valid_share, [one for one in found if one.name in floored])
        dropped = {**seen.kept.dropped, "overlap": overlap}
        counts = {
            **count(found, dropped),
            "layout": kind,
            "malformed": bad.bad,
            "unit": "tokens" if form.name == "none" else "bytes",
        }
        build.publish(listing_of(found, form), counts, inputs)
    report(build.output, counts, as_json)
    return 0


def hashed(folder: Path, given: Sequence[layouts.Given]) -> list[dict[str, str]]:
    """{path, sha256} of every file that is read, in order. Raises BadInput for what cannot be."""
    found = []
    for one in given:
        for path in (*one.train, *one.valid):
            for file in (path, *layouts.companions(path)):
                try:
                    with open(file, "rb") as stream:
                        found.append({"path": str(file), "sha256": hashlib.file_digest(stream, "sha256").hexdigest()})
                except OSError as error:
                    raise unread(file, error) from None
    return found


def warn_of_names(names: list[str], passed: list[Path], folder: Path) -> None:
    if (pair := ambiguous(names)) is not None:
        tell(
            f"{folder}: {pair[0]} and {pair[1]}: RegMix would read both as {pair[0]}, as it goes by how names begin; here they are two"
        )
    if passed:
        tell(
            f"{folder}: {len(passed)} files are of no kind that is read and are left out, such as {passed[0].relative_to(folder)}"
        )


Masks = dict[tuple[str, Split], tuple[NDArray[np.bool_], Split]]  # which documents, of the files of which split


def chosen(
    given: Sequence[layouts.Given], scans: dict[tuple[str, Split], Scan], most: int | None, share: float, seed: int
) -> Masks:
    masks: Masks = {}
    for one in given:
        valid = scans.get((one.name, "valid"))
        own: Split = "valid" if valid is not None and valid.use.any() else "train"
        train_mask, valid_mask = choose(one.name, scans[one.name, "train"], valid, most, share, seed)
        masks[one.name, "train"], masks[one.name, "valid"] = (train_mask, "train"), (valid_mask, own)
    return masks


def drop_overlap(masks: Masks, scans: dict[tuple[str, Split], Scan]) -> int:
    """Take out of the valid splits what any domain trains on, with a line on stderr. Raises BadInput where nothing is left."""
    trained = np.unique(
        np.concatenate(
            [scans[name, own].keys[mask] for (name, split), (mask, own) in masks.items() if split == "train"]
        )
    )
    dropped = 0
    for (name, split), (mask, own) in masks.items():
        if split == "train":
            continue
        twice = mask & np.isin(scans[name, own].keys, trained)
        if twice.any():
            tell(
                f"{name}: {int(twice.sum())} of {int(mask.sum())} valid documents are in train text too; dropped from valid"
            )
            masks[name, split] = (mask & ~twice, own)
            dropped += int(twice.sum())
        if twice.sum() == mask.sum():
            raise BadInput(
                f"{name}: all valid documents are in train text too; give it others, or leave its valid files out"
            )
    return dropped


def form_of(seen: Seen, encode: Encoder, tokenizer: str) -> Form:
    """What tokens that were there are. Raises BadInput where the tokenizer cannot have made them."""
    own = seen.ends.pop() if len(seen.ends) == 1 else None  # all documents end in the same token: they are separated
    if isinstance(encode, Tokens):
        if seen.largest >= encode.vocabulary:
            raise BadInput(
                f"--tokenizer {tokenizer}: has {encode.vocabulary} tokens, and the ids go up to {seen.largest}"
            )
        return Found(tokenizer, encode.vocabulary, encode.separator if own is None else own, added=own is None)
    tell("token ids without --tokenizer: sizes are counted in tokens, and losses are per token, not per byte")
    if own is None:
        tell("documents do not end in a token of their own; nothing is put between them")
    return Found("none", seen.largest + 1, own, added=False)


def write(
    folder: Path,
    given: layouts.Given,
    split: Split,
    mask: NDArray[np.bool_],
    own: Split,
    form: Form,
    encode: Encoder,
    skip_bad: int,
    progress: Progress,
) -> Part:
    """The documents of a mask, out of the files of split `own`."""
    end = None if isinstance(encode, Bytes) else encode.separator
    writer = Writer(folder, given.name, split, form)
    for i, document in enumerate(layouts.documents(given, own, layouts.Tolerance(skip_bad, quiet=True), end)):
        if i >= len(mask):
            raise BadInput(
                f"{document.where}: was not there when the folder was read first; is something writing to it?"
            )
        if not mask[i]:
            continue
        if document.text is not None:
            text = clean(document.text)
            writer.add(encode(text), text, len(text.encode()))
        else:
            assert document.ids is not None
            size = len(encode.decode(document.ids).encode()) if isinstance(encode, Tokens) else len(document.ids)
            writer.add(document.ids, None, size)
        progress.update()
    return writer.close()
