"""Grids in and out: .npy, NAME.npz:key, NAME.h5:/dataset, raw files with --shape and --dtype, and .npy on stdin and stdout.

A name says its format by its suffix. Output is written beside itself and renamed when complete.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import shutil
import sys
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tenfold_shared import BadInput, Missing
from tenfold_shared.jsonl import own_stdout, write_atomic

HDF5 = (".h5", ".hdf5", ".he5")
LONGEST = 200  # bytes of a result's name in its file
UNREADABLE = (
    ValueError,
    EOFError,
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    SyntaxError,
    tokenize.TokenError,
    OverflowError,
    NotImplementedError,
)  # what numpy raises for bytes that are no array

DAMAGED = (OSError, KeyError, RuntimeError, ValueError, TypeError)  # what h5py raises for bytes that are no HDF5
MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class Grid(NamedTuple):
    """values: as they stand in the file, bfloat16 as float32. sha256: of the numbers and their shape."""

    values: np.ndarray
    sha256: str


def read(text: str, shape: tuple[int, ...] | None = None, dtype: str | None = None) -> Grid:
    """The grid that GRID names. Raises BadInput naming the file, Missing without h5py."""
    path, key = _split(text)
    suffix = Path(path).suffix.lower()
    if path == "-" and sys.stdin is None:
        raise BadInput("-: stdin is closed")
    # /dev/stdin may be a file, and has no suffix to say its format.
    odd = Path(path).exists() and not Path(path).is_file() and not Path(path).is_dir()
    piped = path == "-" or odd or path.startswith("/dev/")
    if not path or not (piped or Path(path).is_file()):
        told = "is a directory; expected a file" if path and Path(path).is_dir() else "no such file"
        raise BadInput(f"{path or '(empty name)'}: {told}")
    if shape is not None and min(shape, default=0) < 1:
        raise BadInput(f"--shape {'x'.join(map(str, shape))}: expected numbers of at least 1")
    if shape is not None or (dtype is not None and path != "-" and suffix not in (".npy", ".npz", *HDF5)):
        values = _raw(path, shape, dtype)
    elif piped or suffix == ".npy":
        values = _npy(path)
    elif suffix == ".npz":
        values = _npz(path, key)
    elif suffix in HDF5:
        values = _hdf5(path, key)
    else:
        raise BadInput(f"{path}: expected .npy, .npz:KEY, .h5:/DATASET, or a raw file with --shape and --dtype")
    if dtype == "bfloat16" and values.dtype == np.uint16:
        values = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    elif dtype is not None and values.dtype.name != dtype:
        raise BadInput(f"--dtype {dtype}: {text} says itself that it holds {values.dtype}; --dtype is for raw files")
    if values.dtype.kind not in "fiub" or values.dtype.itemsize > 8:
        raise BadInput(f"{text}: numbers of type {values.dtype}; expected real ones of at most 8 bytes")
    if values.dtype.byteorder == ">":
        values = values.astype(values.dtype.newbyteorder("="))
    if values.size == 0:
        raise BadInput(f"{text}: the grid is empty: shape {values.shape}")
    values = np.ascontiguousarray(values)
    return Grid(values, digest(values))


def digest(values: np.ndarray) -> str:
    """Of the numbers, their type and shape."""
    made = hashlib.sha256(repr((values.shape, values.dtype.str)).encode())
    made.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return made.hexdigest()


def write(text: str | None, values: np.ndarray) -> None:
    """To the file that -o names, or as .npy to stdout. Raises BadInput for a suffix that says no format."""
    if text is None or text == "-":
        out = own_stdout()
        np.lib.format.write_array(_Unseekable(out), values, allow_pickle=False)
        out.flush()
        return
    path, key = _split(text)
    path = os.path.realpath(path)  # a link stays one
    suffix = Path(path).suffix.lower()
    if suffix in HDF5:
        _write_hdf5(path, key or "/u", values)
        return
    memory = io.BytesIO()
    if suffix == ".npy":
        np.save(memory, values, allow_pickle=False)
    elif suffix == ".npz":
        _write_npz(memory, path, key or "u", values)
    elif suffix in (".bin", ".raw", ".dat"):
        memory.write(values.tobytes())
    else:
        raise BadInput(writable(text) or f"{text}: cannot be written")
    write_atomic(path, memory.getvalue())


def writable(text: str | None) -> str | None:
    """Why -o cannot be written, or None: told before any work. Raises Missing without h5py for a name that needs it."""
    if text is None or text == "-":
        return None
    path, _ = _split(text)
    if Path(path).suffix.lower() not in (".npy", ".npz", ".bin", ".raw", ".dat", *HDF5):
        return f"-o {text}: expected a name that ends in .npy, .npz, .bin, .raw, .dat or .h5"
    if Path(path).suffix.lower() in HDF5:
        _h5py()
    if not Path(path).parent.is_dir():
        return f"-o {text}: the folder {Path(path).parent} does not exist; create it first"
    if Path(path).is_dir():
        return f"-o {text}: is a directory"
    name, key = Path(path).name, key_of(text)
    if len(f"{name}.{key or ''}".encode()) > LONGEST:
        return f"-o {text[:60]}…: a name of more than {LONGEST} bytes leaves no room for what stands beside it"
    if key is not None and not key.strip("/"):
        return f"-o {text}: expected the name of a dataset"
    if Path(path).exists() and Path(path).suffix.lower() == ".npz":
        for other in set(keys(path)) - {key}:
            _npz(path, other)  # it is written again; raises BadInput where that cannot be
    return None


def file_of(text: str) -> str:
    """The file of a name with a key."""
    return _split(text)[0]


def key_of(text: str) -> str | None:
    """What a result is called in the file that -o names; None where the file holds nothing else."""
    path, key = _split(text)
    suffix = Path(path).suffix.lower()
    if suffix in HDF5:
        return "/" + (key or "u").strip("/")
    return (key or "u") if suffix == ".npz" else None


def exists(text: str) -> bool:
    """Whether the result that -o names is there already."""
    path, key = file_of(text), key_of(text)
    if key is None or not Path(path).exists():
        return Path(path).exists()
    if Path(path).suffix.lower() == ".npz":
        return key in keys(path)
    h5py = _h5py()
    keys(path)
    with h5py.File(path, "r") as file:
        if file.get(key, getlink=True) is None:
            return False
        if not isinstance(file.get(key), h5py.Dataset):
            raise BadInput(f"{path}: {key} is there, and is no dataset; choose another name")
        if not isinstance(file.get(key, getlink=True), h5py.HardLink):
            raise BadInput(f"{path}: {key} is a link to a dataset; name the dataset itself")
        return True


def keys(path: str) -> list[str]:
    """The arrays of a .npz, or the datasets of an HDF5 file. Raises BadInput for a file that is neither."""
    if Path(path).suffix.lower() == ".npz":
        try:
            with np.load(path, allow_pickle=False) as archive:
                return list(archive.files)
        except (*UNREADABLE, TypeError, AttributeError) as error:  # a .npy is no archive
            raise BadInput(f"{path}: not a .npz file of numbers ({_first(error)})") from error
    h5py = _h5py()
    try:
        with h5py.File(path, "r") as file:
            return _datasets(h5py, file)
    except DAMAGED as error:
        raise BadInput(f"{path}: not an HDF5 file ({_first(error)})") from error


def _datasets(h5py: Any, file: Any) -> list[str]:
    found: list[str] = []
    file.visititems(lambda name, item: found.append(f"/{name}") if isinstance(item, h5py.Dataset) else None)
    return found


def _first(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


# ---------------------------------------------------------------- formats


def _split(text: str) -> tuple[str, str | None]:
    """File and key of NAME.npz:key and NAME.h5:/dataset."""
    for suffix in (".npz", *HDF5):
        at = text.lower().find(f"{suffix}:")
        if at >= 0:
            return text[: at + len(suffix)], text[at + len(suffix) + 1 :] or None
    return text, None


def _npy(path: str) -> np.ndarray:
    name = "stdin" if path == "-" else path
    try:
        if path == "-":
            values = np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False)
        elif not Path(path).is_file() or path.startswith("/dev/"):  # a pipe cannot be gone back in
            values = np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False)
        else:
            values = np.load(path, allow_pickle=False)
    except UNREADABLE as error:
        raise BadInput(f"{name}: not a .npy file of numbers ({_first(error)})") from error
    if not isinstance(values, np.ndarray):
        raise BadInput(
            f"{name}: an archive of arrays; expected a .npy file of one (.npz names say which: FILE.npz:KEY)"
        )
    return values


def _npz(path: str, key: str | None) -> np.ndarray:
    names = keys(path)
    if key is None and len(names) != 1:
        raise BadInput(f"{path}: holds {', '.join(names) or 'nothing'}; say which with {path}:KEY")
    if key is not None and key not in names:
        raise BadInput(f"{path}: no {key}; it holds {', '.join(names)}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[key or names[0]]
    except UNREADABLE as error:
        raise BadInput(f"{path}: {key or names[0]} cannot be read ({_first(error)})") from error


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise Missing("h5py: not installed: pip install 'sparstencil[io]'") from error
    return h5py


def _hdf5(path: str, key: str | None) -> np.ndarray:
    h5py = _h5py()
    try:
        with h5py.File(path, "r") as file:
            found = _datasets(h5py, file)
            if key is None and len(found) != 1:
                raise BadInput(f"{path}: holds {', '.join(found) or 'no dataset'}; say which with {path}:/DATASET")
            name = key or found[0]
            if name not in file or not isinstance(file[name], h5py.Dataset):
                raise BadInput(f"{path}: no dataset {name}; it holds {', '.join(found)}")
            if file[name].external or file[name].is_virtual:
                raise BadInput(f"{path}: dataset {name} has its numbers in other files; give it as one")
            if (size := file[name].size * file[name].dtype.itemsize) > MEMORY:  # a few bytes can say they are so many
                raise Missing(f"{path}: dataset {name} is {size / 1e9:.0f} GB, more than this machine's memory")
            values = file[name][()]
            if not isinstance(values, np.ndarray | np.generic):
                raise BadInput(f"{path}: dataset {name} holds no array")
            return np.asarray(values)
    except DAMAGED as error:
        raise BadInput(f"{path}: not an HDF5 file ({_first(error)})") from error


def _write_npz(out: io.BytesIO, path: str, key: str, values: np.ndarray) -> None:
    """With the arrays that the file holds already, compressed where they are."""
    others: dict[str, np.ndarray] = {}
    packed = zipfile.ZIP_STORED
    if Path(path).exists():
        others = {name: _npz(path, name) for name in keys(path)}
        with zipfile.ZipFile(path) as old:
            if any(entry.compress_type == zipfile.ZIP_DEFLATED for entry in old.infolist()):
                packed = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(out, "w", packed) as archive:
        for name, array in (others | {key: values}).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def _write_hdf5(path: str, key: str, values: np.ndarray) -> None:
    """What else the file holds stays: a copy is changed and put in its place."""
    h5py = _h5py()
    aside = Path(path).with_name(f".{Path(path).name}.tmp")
    if Path(path).exists():
        shutil.copyfile(path, aside)
    try:
        with h5py.File(aside, "r+" if Path(path).exists() else "w") as file:
            told = dict(file[key].attrs) if key in file else {}
            if key in file:
                del file[key]
            file.create_dataset(key, data=values).attrs.update(told)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        aside.unlink(missing_ok=True)
        if isinstance(error, RuntimeError) or "errno = 28" in str(error) or "errno = 27" in str(error):
            raise Missing(f"{path}:{key}: no room to write it ({_first(error)})") from error
        raise BadInput(f"{path}:{key}: cannot be written ({_first(error)})") from error
    with open(aside, "rb+") as done:
        os.fsync(done.fileno())
    aside.rename(path)


def _raw(path: str, shape: tuple[int, ...] | None, dtype: str | None) -> np.ndarray:
    if shape is None or dtype is None:
        raise BadInput(f"{path}: a raw file needs both --shape and --dtype")
    kind = np.dtype(np.uint16 if dtype == "bfloat16" else dtype)
    raw = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    expected = math.prod(shape) * kind.itemsize
    if len(raw) != expected:
        raise BadInput(f"{path}: {len(raw)} bytes; --shape {'x'.join(map(str, shape))} of {dtype} wants {expected}")
    return np.frombuffer(raw, dtype=kind).reshape(shape)


class _Unseekable:
    """What numpy may write an array to that is no file on a disk."""

    def __init__(self, out: Any) -> None:
        self.out = out

    def write(self, data: Any) -> int:
        return self.out.write(data)
