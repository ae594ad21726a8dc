"""Where our code touches what outside data could misuse: every call of a file, shell, deserialiser, subprocess, URL, template
or code sink in tools/, shared/ and kernels/, with the function it stands in.

    python tests/fuzz/sinks.py [--kind subprocess] [--all]

`test_security_md.py` compares what `dangerous` finds with SECURITY.md: a function with a new sink must be listed there.
Found by name, on the syntax tree alone: nothing is imported or run. Benches, examples and tests of our own are left out.
"""

from __future__ import annotations

import argparse
import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("shared/tenfold_shared", "kernels/tenfold_kernels", "tools/*/[a-z]*_*", "tools/*/[a-z]*")


class Sink(NamedTuple):
    """kind: of KINDS; where: `module:function`, dotted and with the class for a method; what: the call as written."""

    kind: str
    where: str
    what: str
    line: int


# A call's dotted end -> its kind. A name is looked up with the module it was imported from where that is written.
KINDS: dict[str, tuple[str, ...]] = {
    "subprocess": (
        "subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_output", "subprocess.check_call", "os.system", "os.popen",
        "os.execv", "os.execve", "os.execvp", "os.execvpe", "os.execl", "os.execlp", "os.spawnv", "os.posix_spawn", "os.fork", "pty.spawn",
        "asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell",
    ),
    "code": ("eval", "exec", "compile", "builtins.eval", "builtins.exec", "builtins.compile", "ast.literal_eval", "sympy.sympify", "parse_expr", "parse_latex", "runpy.run_path", "runpy.run_module", "code.interact"),
    "import": ("importlib.import_module", "__import__", "importlib.util.spec_from_file_location", "importlib.import_module"),
    "native": ("ctypes.CDLL", "ctypes.PyDLL", "ctypes.cdll.LoadLibrary", "cffi.FFI", "cupy.RawModule", "cupy.RawKernel", "self.cupy.RawModule", "RawModule", "RawKernel"),
    "pickle": ("pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.loads", "cloudpickle.load", "dill.load", "dill.loads", "joblib.load", "marshal.loads", "shelve.open", "torch.load", "numpy.load", "np.load", "multiprocessing.connection.Client", "pandas.read_pickle"),
    "yaml": ("yaml.load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "yaml.safe_load", "yaml.safe_load_all"),
    "xml": ("ElementTree.fromstring", "ElementTree.parse", "ElementTree.iterparse", "ET.fromstring", "ET.parse", "minidom.parse", "minidom.parseString", "lxml.etree.parse"),
    "archive": ("tarfile.open", "zipfile.ZipFile", "shutil.unpack_archive", "extractall", "gzip.GzipFile", "gzip.open", "zstandard.ZstdDecompressor", "bz2.open", "lzma.open"),
    "url": ("urllib.request.urlopen", "urllib.request.Request", "urllib.request.build_opener", "requests.get", "requests.post", "requests.request", "requests.Session", "httpx.get", "httpx.post", "httpx.Client", "httpx.AsyncClient", "aiohttp.ClientSession", "aiohttp.web.Application", "web.Application", "socket.create_connection", "socket.socket", "http.server.HTTPServer", "ThreadingHTTPServer", "asyncio.start_server", "asyncio.open_connection", "asyncio.start_unix_server", "snapshot_download", "hf_hub_download", "load_dataset"),
    "tensors": ("safe_open", "safetensors.safe_open", "load_file", "safetensors.torch.load", "safetensors.torch.load_file", "h5py.File", "gguf.GGUFReader", "GGUFReader", "ParquetFile", "parquet.ParquetFile", "open_stream", "ipc.open_stream", "ipc.open_file", "numpy.memmap", "np.memmap", "numpy.fromfile", "np.fromfile", "numpy.loadtxt", "np.loadtxt"),
    "hub": ("from_pretrained", "AutoConfig.for_model", "for_model", "SentenceTransformer", "apply_chat_template", "EngineArgs"),
    "template": ("Template", "string.Template", "substitute", "safe_substitute", "jinja2.Template", "jinja2.Environment", "from_string", "format_map"),
    "write": ("write_text", "write_bytes", "os.rename", "os.replace", "os.unlink", "os.remove", "os.symlink", "os.link", "os.makedirs", "os.mkdir", "mkdir", "rename", "replace_file", "symlink_to", "hardlink_to", "unlink", "rmdir", "shutil.copy", "shutil.copyfile", "shutil.copytree", "shutil.move", "shutil.rmtree", "write_atomic", "tempfile.mkstemp", "tempfile.mkdtemp", "os.chmod", "chmod", "os.open"),
    "open": ("open", "io.open", "read_text", "read_bytes"),
    "json": ("json.loads", "json.load", "msgspec.json.decode", "tomllib.load", "tomllib.loads", "csv.reader", "raw_decode"),
}  # fmt: skip
# What SECURITY.md must name function by function; the rest it names by module.
DANGEROUS = ("subprocess", "code", "import", "native", "pickle", "yaml", "xml", "archive", "url", "hub", "tensors", "shell", "trust", "template")  # fmt: skip
_BY_NAME = {name: kind for kind, names in KINDS.items() for name in names}


def modules() -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of each of our modules that is installed."""
    roots = [ROOT / "shared/tenfold_shared", ROOT / "kernels/tenfold_kernels"]
    roots += [place / place.name.replace("-", "_") for place in sorted((ROOT / "tools").iterdir()) if place.is_dir()]
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root.parent).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


class _Finder(ast.NodeVisitor):
    def __init__(self, module: str) -> None:
        self.module, self.inside, self.found = module, list[str](), list[Sink]()
        self.names: dict[str, str] = {}  # what a name was imported as, in full

    def visit_Import(self, node: ast.Import) -> None:
        for one in node.names:
            if one.asname:
                self.names[one.asname] = one.name

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for one in node.names:
            self.names[one.asname or one.name] = f"{node.module or ''}.{one.name}".lstrip(".")

    def _in(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        for outer in node.decorator_list:
            self.visit(outer)
        self.inside.append(node.name)
        for field in ast.iter_child_nodes(node):
            if field not in node.decorator_list:
                self.visit(field)
        self.inside.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _in

    def visit_Call(self, node: ast.Call) -> None:
        name = _dotted(node.func)
        head, _, rest = name.partition(".")
        full = self.names.get(head, head) + (f".{rest}" if rest else "")
        last = name.rpartition(".")[2]
        kind = next((_BY_NAME[one] for one in _ends(full) if one in _BY_NAME), None)
        if (
            kind is None and "." in name and _BY_NAME.get(last) != "code"
        ):  # a method: model.eval() and re.compile() run no text
            kind = _BY_NAME.get(last)
        keywords = {one.arg: one.value for one in node.keywords}
        if kind == "import" and node.args and isinstance(node.args[0], ast.Constant):
            kind = None
        if kind is not None:
            self._add(kind, node, name)
        if isinstance(shell := keywords.get("shell"), ast.Constant) and shell.value:
            self._add("shell", node, name)
        trust = keywords.get("trust_remote_code")
        if isinstance(trust, ast.Constant) and trust.value:
            self._add("trust", node, name)
        self.generic_visit(node)

    def _add(self, kind: str, node: ast.Call, name: str) -> None:
        self.found.append(Sink(kind, f"{self.module}:{'.'.join(self.inside) or '<module>'}", name, node.lineno))


def _dotted(node: ast.expr) -> str:
    """`a.b.c`; what is no name in front is `()`: `f(x).c` is `().c`. ast.unparse would take ten times as long."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    parts.append(node.id if isinstance(node, ast.Name) else "()")
    return ".".join(reversed(parts))


def _ends(full: str) -> Iterator[str]:
    """`a.b.c`, then `b.c`, of a dotted name; a bare method name counts for itself alone where it is in the list."""
    parts = full.split(".")
    for start in range(max(1, len(parts) - 1)):
        yield ".".join(parts[start:])


def of_tree(module: str, tree: ast.Module) -> list[Sink]:
    finder = _Finder(module)
    finder.visit(tree)
    return finder.found


@functools.cache
def sinks() -> list[Sink]:
    return [sink for module, path in modules() for sink in of_tree(module, parsed(path))]


@functools.cache
def dangerous() -> dict[tuple[str, str], list[Sink]]:
    """(kind, place) -> its calls, of the kinds that SECURITY.md lists by function."""
    found: dict[tuple[str, str], list[Sink]] = {}
    for sink in sinks():
        if sink.kind in DANGEROUS:
            found.setdefault((sink.kind, sink.where), []).append(sink)
    return found


def main() -> None:
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("--kind", choices=[*KINDS, "shell", "trust"])
    told.add_argument("--all", action="store_true", help="also the kinds that are listed by module alone")
    how = told.parse_args()
    for sink in sinks():
        if sink.kind == how.kind or (how.kind is None and (how.all or sink.kind in DANGEROUS)):
            print(f"{sink.kind:10} {sink.where} {sink.what} :{sink.line}")


if __name__ == "__main__":
    main()
