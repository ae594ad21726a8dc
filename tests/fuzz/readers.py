"""Every reader of outside data as a function of bytes that may return, or raise BadInput or Missing, and nothing else.

`drive.py` runs them under atheris or hypothesis for as long as it is told, `test_fuzz_readers.py` for a moment, and over
what was found before. A reader that documents an exception of its own for bad text (`Unresolved`, `ValueError` of an
answer that is no answer) has it caught here, since its callers catch it. A reader of several forms takes its form from
the first byte. Seeds are valid documents: from them the mutations start.

Long because it is a list: one reader after the other, tool by tool.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gzip
import io
import itertools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from tenfold_shared import BadInput, Busy, Missing

ALLOWED = (BadInput, Missing, Busy)
PLACE = Path(tempfile.mkdtemp(prefix="tenfold-fuzz-"))
atexit.register(shutil.rmtree, PLACE, ignore_errors=True)


class Reader(NamedTuple):
    """run: the reader. seeds: made when first wanted. kind: how `mutate.py` takes a document apart. atheris: coverage of
    Python code leads somewhere, as it does not where a C library reads."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    kind: str
    atheris: bool = True


READERS: dict[str, Reader] = {}


def reader(name: str, seeds: Callable[[], list[bytes]], kind: str = "json", atheris: bool = True) -> Any:
    def add(run: Callable[[bytes], None]) -> Callable[[bytes], None]:
        READERS[name] = Reader(run, functools.cache(seeds), kind, atheris)
        return run

    return add


def file(data: bytes, name: str) -> str:
    path = PLACE / name
    path.write_bytes(data)
    return str(path)


def folder(files: dict[str, bytes], name: str) -> str:
    path = PLACE / name
    path.mkdir(exist_ok=True)
    for each, data in files.items():
        (path / each).write_bytes(data)
    return str(path)


def split(data: bytes) -> tuple[bytes, bytes]:
    """Two files in one input: a length of four bytes, the first, the second."""
    size = int.from_bytes(data[:4], "little") % (len(data) + 1)
    return data[4 : 4 + size], data[4 + size :]


def joined(first: bytes, second: bytes) -> bytes:
    return len(first).to_bytes(4, "little") + first + second


def lines(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


@contextlib.contextmanager
def patched(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def quietly(iterator: Iterator[Any]) -> None:
    for _ in iterator:
        pass


encode = msgspec.json.encode  # as what is read is written again


def said(data: bytes) -> str:
    """Text as it reaches us from a JSON record: any character, no surrogates."""
    return data.decode("utf-8", "replace")


# ---------------------------------------------------------------- shared: records, streams, journals, recordings, config

TASK = {"schema": "task/1", "id": "a", "messages": [{"role": "user", "content": "1+1?"}], "answer": ["2", "two"], "meta": {"match": "any"}}  # fmt: skip
SAMPLE = {**TASK, "schema": "sample/1", "sample": 0, "response": "so \\boxed{2}", "reasoning": None, "finish_reason": "stop", "usage": {"prompt_tokens": 3, "completion_tokens": 5}, "model": "m"}  # fmt: skip
VERDICT = {**SAMPLE, "schema": "verdict/1", "correct": True, "grade": "correct", "grade_reason": "", "votes": ["yes", "no"], "judge": [{"text": "Verdict: yes"}], "reward": 1.0}  # fmt: skip
TRAJECTORY = {
    **SAMPLE, "schema": "trajectory/1", "group": "a", "rollout": 0, "reward": 1.0, "prompt_ids": [1, 2], "token_ids": [3, 4],
    "loss_mask": [1, 0], "logprobs": [-0.5, 0.0],
    "turns": [{"text": "x", "calls": [{"name": "python", "arguments": {"code": "1"}, "status": "ok", "stdout": "1\n", "stderr": ""}]}],
}  # fmt: skip


@reader("records", lambda: [lines(TASK), lines(SAMPLE), lines(VERDICT, SAMPLE), lines(TRAJECTORY)])
def records(data: bytes) -> None:
    from tenfold_shared import records as shapes
    from tenfold_shared.jsonl import Source

    path = file(data, "records.jsonl")
    for kind in shapes.KINDS:
        with contextlib.suppress(*ALLOWED):
            for _, record in Source([path], kind):
                shapes.messages_of(record)
                shapes.question_of(record)
    for _, record in Source([path], None, ids=file(b"a\nb\n", "ids"), skip_bad=3):
        str(record)


@reader("streams", lambda: [b"g" + gzip.compress(lines(TASK)), b"z" + _zst(lines(TASK, SAMPLE))], "bytes")
def streams(data: bytes) -> None:
    from tenfold_shared.jsonl import read_lines, read_text

    path = file(data[1:], "stream.zst" if data[:1] == b"z" else "stream.gz")
    with contextlib.suppress(*ALLOWED):
        read_text(path)
    quietly(read_lines(path))


def _zst(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


IDENTITY = {"tool": "t", "verb": "v", "options": {"k": 1}, "inputs": [{"path": "a", "sha256": "0" * 64}]}


@reader("journal", lambda: [joined(lines({**IDENTITY, "version": "1"}, ["a", {"x": 1}], ["b", {"y": [2]}]), b""), joined(b"", lines({"schema": "manifest/1", **IDENTITY, "counts": {"read": 1}}))])  # fmt: skip
def journal(data: bytes) -> None:
    """A journal and a manifest that are there when a run starts: what a killed run left, or somebody put there."""
    from tenfold_shared.jsonl import Output, difference

    left, manifest = split(data)
    shutil.rmtree(PLACE / "run", ignore_errors=True)
    folder({name: data for name, data in ((".o.jsonl.journal", left), ("o.jsonl.manifest.json", manifest)) if data}, "run")  # fmt: skip
    if manifest:
        (PLACE / "run/o.jsonl").write_bytes(b"")
    out = Output(str(PLACE / "run/o.jsonl"), tool="t", version="1", verb="v", options={"k": 1})
    out._identity["inputs"] = IDENTITY["inputs"]
    with out:
        if out.journal is not None:
            for key in list(out.journal.where):
                out.journal.get(key)
    difference({"tool": "t"}, {"tool": "t", "verb": "v", "options": {}, "inputs": []})


def _recording() -> bytes:
    from tenfold_shared.generate import Completion, Request, Sampling
    from tenfold_shared.generate.recording import _asked, _key_hash, _Recorded

    found = b""
    for request in (Request("k", prompt="hi", seed=1), Request("l", messages=[{"role": "user", "content": "x"}])):
        asked = _asked(request, Sampling())
        found += (
            msgspec.json.encode(_Recorded(_key_hash(asked), asked, Completion("k", "t", "stop", 1, 1, "m"))) + b"\n"
        )
    return found


@reader("replay", lambda: [_recording()])
def replay(data: bytes) -> None:
    from tenfold_shared.generate import Request, Sampling
    from tenfold_shared.generate.recording import ReplayGenerator

    generator = ReplayGenerator(file(data, "recording.jsonl"))
    try:
        for request in (Request("k", prompt="hi", seed=1), Request("k", messages=[{"role": "user", "content": "y"}])):
            with contextlib.suppress(*ALLOWED):
                quietly(generator.generate([request], Sampling()))
    finally:
        generator.close()


REPLY = {"id": "c", "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "4", "reasoning_content": "hm"}, "logprobs": {"content": [{"token": "4", "logprob": -0.1}]}}], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}  # fmt: skip
OLDER = {"choices": [{"text": "4", "finish_reason": "length", "logprobs": {"token_logprobs": [-0.1, None]}}], "usage": None}  # fmt: skip


@reader("server-reply", lambda: [b"2" + lines(REPLY), b"2" + lines(OLDER), b"4" + lines({"error": {"message": "no"}}), b"m" + lines({"data": [{"id": "x"}]})])  # fmt: skip
def server_reply(data: bytes) -> None:
    """What a server answers, 200 and not, to a completion and to /models; each goes the whole way through httpx."""
    import httpx

    from tenfold_shared.generate import Request, Sampling
    from tenfold_shared.generate.server import ServerGenerator, _Courier

    status = {b"2": 200, b"m": 200, b"4": 400, b"5": 500}.get(data[:1], 418)
    replies = httpx.MockTransport(lambda request: httpx.Response(status, content=data[1:]))

    async def no_sleep(seconds: float) -> None:
        return None

    class Courier(_Courier):
        def __enter__(self) -> Courier:
            with patched(httpx, "create_ssl_context", lambda: False):
                super().__enter__()
            self._clients = [httpx.AsyncClient(headers=self._headers, transport=replies)]
            self._turns = itertools.cycle(self._clients)
            return self

    class Generator(ServerGenerator):
        def _courier(self, connections: int = 1) -> Courier:
            return Courier({"Authorization": "Bearer sk-1"}, 1)

    how: dict[str, Any] = {"max_retries": 0, "sleep": no_sleep, "key": "sk-1"}
    if data[:1] == b"m":
        Generator(["http://127.0.0.1:9/v1"], None, **how)
        return
    generator = Generator(["http://127.0.0.1:9/v1"], "m", **how)
    quietly(generator.generate([Request("k", prompt="hi")], Sampling(logprobs=True)))
    quietly(generator.generate([Request("k", messages=[{"role": "user", "content": "hi"}])], Sampling()))


CONFIG = b'seed = 3\nlimit = 2\nmodel = ["a", "b"]\njson = true\ntemperature = 0.5\nshard = "1/2"\nks = [1, 2]\n[verb]\nmax-time = "50m"\n'


@reader("config", lambda: [CONFIG, b'[verb]\n"max-time" = 1979-05-27T07:32:00Z\n', b"seed = 0x10\n"], "text")
def config(data: bytes) -> None:
    import click

    from tenfold_shared import cli

    @click.group(cls=cli.Tool)
    def tool() -> None:
        """A tool with every shared option."""

    @tool.command("verb")
    @cli.options(*(name for name in cli.OPTIONS if name != "overwrite"))  # which comes with `output`
    @click.option("--ks", type=cli.Numbers())
    def verb(**given: Any) -> int:
        return 0

    with contextlib.redirect_stderr(io.StringIO()):
        code = tool.main(["verb", "--config", file(data, "config.toml")], standalone_mode=False)
    if code not in (0, 2, 3):
        raise AssertionError(f"exit {code}")


# ---------------------------------------------------------------- shared: answers

ANSWERS = [
    (r"\boxed{\frac{1}{2}}", "0.5"), (r"thus \boxed{\sqrt{2}+\pi x^2}", r"\pi x^{2}+\sqrt 2"), (r"\boxed{(1, 2]}", "(1,2]"),
    ("#### 1,080", "1080"), (r"\boxed{50\%}", r"\frac12"), (r"\fbox{\text{Yes}.}", "yes"), (r"\boxed{1, 2 \text{ and } 3}", r"\{1,2,3\}"),
    (r"the answer is $x = 5$.", "5"), (r"\boxed{10^{10}}", "10000000000"), (r"<think>a</think>\boxed 7", "7"),
]  # fmt: skip


@reader("answers", lambda: [joined(text.encode(), gold.encode()) for text, gold in ANSWERS], "text")
def answers(data: bytes) -> None:
    from tenfold_shared import answers as found
    from tenfold_shared.answers.comparison import NeedsWorker
    from tenfold_shared.answers.grading import _grade

    text, gold = map(said, split(data))
    for box in ("last", "first", "all"):
        found.extract(text, box, False)
    for answer in (text, gold, *found.boxes(text)):
        found.key(answer)
    for match in ("any", "all"):
        with contextlib.suppress(NeedsWorker):
            _grade(gold, text, 2.0, match, "last", False, 0)  # 0 workers: the exact paths
    found.forget()


@reader("answers-symbolic", lambda: [joined(text.encode(), gold.encode()) for text, gold in ANSWERS], "text", False)
def answers_symbolic(data: bytes) -> None:
    """math-verify in its worker: whatever it does to the worker, a grade comes back."""
    from tenfold_shared import answers as found

    text, gold = map(said, split(data))
    grade = found.grade([gold, text], text, 0.5, require_box=False)
    assert grade.grade in ("correct", "wrong", "ungradable")
    found.forget()


# ---------------------------------------------------------------- zerorepo

SOURCE = '''"""A module."""
from __future__ import annotations
import os, sys as system
from . import other
from .pkg.mod import name as alias, second

__all__ = ["f", "C"]
X: int = 1


@decorated(1)
async def f(a: "C", *rest: int, key: str = "d", **more) -> list[C]:
    """Documents f."""
    with open(a) as stream:
        yield await stream.read()


class C(other.Base, metaclass=M):
    attribute = lambda self: self.m()

    @property
    def m(self) -> "C | None":
        match self:
            case {"a": [1, *_]} | C(x=1):
                return f(self)
        try:
            return [y for y in self if y]
        except* ValueError as e:
            raise
'''


def _graph() -> bytes:
    from zerorepo.encode import encode
    from zerorepo.sources import Held

    return encode(Held({"pkg/a.py": SOURCE.encode(), "pkg/other.py": b"class Base:\n    def m(self): pass\n"})).dumps()


@reader("zerorepo-graph", lambda: [_graph()])
def zerorepo_graph(data: bytes) -> None:
    from zerorepo import export, show
    from zerorepo.graph import Graph
    from zerorepo.validate import problems

    with contextlib.suppress(*ALLOWED):
        for problem in problems(data):
            str(problem)
    graph = Graph.loads(data)
    graph.dumps()
    if problems(data):
        return  # what verbs do with a graph, they do after validate
    show.stats(graph)
    show.rows(graph)
    for made in (export.to_dot(graph, "n"), export.to_graphml(graph), export.to_html(graph, "n")):
        str(made)
    export.to_mermaid(graph)


@reader("zerorepo-source", lambda: [SOURCE.encode(), b"# coding: latin-1\nX = '\xe9'\n"], "text")
def zerorepo_source(data: bytes) -> None:
    import warnings

    from zerorepo.encode import encode
    from zerorepo.sources import Held
    from zerorepo.validate import problems

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        made = encode(Held({"pkg/a.py": data, "pkg/other.py": b"class Base:\n    def m(self): pass\n"})).dumps()
    assert not problems(made), problems(made)[0]


REF = {"repo_name": "r", "nodes": [{"id": "r", "name": "r", "node_type": "repo"}, {"id": "a.py", "name": "a.py", "meta": {"path": "a.py", "type_name": "file"}}], "edges": [{"src": "r", "dst": "a.py", "relation": "contains"}]}  # fmt: skip
NESTED = {"repo_name": "r", "root": {"id": "r", "name": "r", "children": [{"id": "x", "name": "x", "unit": None, "meta": {"path": "x.py", "type_name": "file"}, "children": []}]}}  # fmt: skip


@reader("zerorepo-import", lambda: [b"r" + lines(REF), b"r" + lines(NESTED), b"d" + _delta(), b"o" + lines({"schema": "ontology/1", "levels": [1]}, {"path": ["a"], "frequency": 2}), b"t" + lines({"a": {"b": ["c", "d"]}, "e": []}), b"f" + lines({"a": {"frequency": 2}, "a---b": {"frequency": 1}}), b"i" + lines({"instance_id": "a", "problem_statement": "it fails"})])  # fmt: skip
def zerorepo_import(data: bytes) -> None:
    from zerorepo import issues, reference
    from zerorepo.delta import Delta
    from zerorepo.generation import ontology, ontology_verbs

    form, data = data[:1], data[1:]
    if form == b"d":
        Delta.loads(data).reversed().dumps()
    elif form == b"o":
        tree = ontology.Ontology.load(file(data, "tree.jsonl"))
        tree.told()
        [tree.label(int(leaf)) for leaf in tree.leaves]
    elif form == b"t":
        ontology_verbs.imported(file(data, "features.json"), None)
    elif form == b"f":
        ontology_verbs.imported(file(b'{"a": {"b": ["c"]}}', "features.json"), file(data, "frequencies.json"))
    elif form == b"i":
        issues.read_issues(file(data, "issues.jsonl"))
    else:
        graph, _ = reference.from_ref(data)
        graph.dumps()


def _delta() -> bytes:
    from zerorepo.delta import diff
    from zerorepo.graph import Graph

    whole = Graph.loads(_graph())
    return diff(Graph(whole.nodes[:-1], []), whole).dumps()


SPEC_DATA = {"repository_name": "tally book", "repository_purpose": "keeps books of amounts", "scope": "small"}
SPEC_JSON = {"repository_name": "tally book", "repository_purpose": "keeps books of amounts", "functional_requirements": [{"id": "1", "name": "read", "description": "entries", "children": []}], "meta": {}}  # fmt: skip
SPEC_MD = b"# Tally book\n\nKeeps books of amounts for people.\n\n## Features\n\n- reads entries\n- sums amounts\n\n```\ncode\n```\n"


@reader(
    "zerorepo-spec", lambda: [b"j" + lines(SPEC_DATA), b"j" + lines(SPEC_JSON), b"m" + SPEC_MD, b"m" + lines(SPEC_JSON)]
)
def zerorepo_spec(data: bytes) -> None:
    from zerorepo.generation.spec import spec_of

    spec_of(data[1:], "s.json" if data[:1] == b"j" else "s.md" if data[:1] == b"m" else "s")


STUBS = 'import os\n\n\ndef f(a: int) -> int:\n    """Doubles."""\n    raise NotImplementedError\n\n\nclass C:\n    """A class."""\n\n    def m(self) -> None:\n        """Does it."""\n        raise NotImplementedError\n'
ANSWER = '<think>x {"a": 1}</think>Here:\n```json\n{"features": ["reads a file"], "area": "A/b/c"}\n```\n'
CODE = "```python\nimport math\n\n\ndef f(a: int) -> int:\n    \"\"\"Doubles.\"\"\"\n    return _g(a)\n\n\ndef _g(a):\n    return 2 * a\n```\n"  # fmt: skip


@reader("zerorepo-answer", lambda: [ANSWER.encode(), CODE.encode(), STUBS.encode()], "text")
def zerorepo_answer(data: bytes) -> None:
    from zerorepo import lift
    from zerorepo.generation import edits, interfaces

    text = said(data)
    found, _ = lift.extract(text, ["features", "area"])
    encode(found)
    for value in (found.get("features"), found.get("area"), text):
        for check in (lift.phrases_checked, lift._areas_checked, lift._title):
            with contextlib.suppress(ValueError):
                check(value)
    with contextlib.suppress(ValueError):
        interfaces.parsed(text, ["reads a file"])
    for qualname in ("f", "C.m"):
        with contextlib.suppress(ValueError):
            edits.apply(STUBS, qualname, edits.patch_of(text, STUBS, qualname))


CRAFT = {
    "schema": "zerorepo-craft/1", "id": "a-1", "category": "core", "file": "tests/core/test_a.py", "module": "functions", "cap": "adds",
    "functions": ["test_a"], "query_code": "def test_a():\n    assert add(1, 1) == 2\n", "alg_description": "adds", "task_query": "q",
    "project": "p", "cases": ["test_a"], "top": ["p"],
    "interfaces": [{"name": "p.add", "written": ["p.add"], "kind": "function", "tested": True}],
    "support": [{"path": "tests/conftest.py", "text": ""}, {"path": "d.bin", "base64": "AAAA"}],
}  # fmt: skip
JUNIT = b'<testsuites><testsuite tests="2" failures="1" errors="0" skipped="0"><testcase classname="t" name="a"/><testcase classname="t" name="b"><failure message="m">text</failure></testcase></testsuite></testsuites>'


def _craft_seeds() -> list[bytes]:
    from zerorepo.craft import tasks

    return [b"t" + lines({**CRAFT, "schema": tasks.SCHEMA}), b"j" + JUNIT]


@reader("zerorepo-craft", _craft_seeds)
def zerorepo_craft(data: bytes) -> None:
    """tasks.jsonl, whose files are laid out on disk, and the JUnit report that a sandboxed run left."""
    from tenfold_shared.jsonl import Source
    from zerorepo.craft import tasks
    from zerorepo.generation.verdict import read_junit

    if data[:1] == b"j":
        read_junit(data[1:])
        return
    for to_run in (False, True):
        for task in tasks.read_tasks(Source([file(data[1:], "tasks.jsonl")], None), to_run=to_run):
            tasks.dumps(task)
            str(task.leaf)
            for path in (task.file, *(one.path for one in task.support)):
                inside = (PLACE / "laid" / path).resolve()
                assert inside.is_relative_to((PLACE / "laid").resolve()) and "\0" not in path
                str([one.data for one in task.support])


def _vectors() -> bytes:
    from zerorepo.vectors import VectorIndex

    VectorIndex(np.eye(4, dtype=np.float32)).save(PLACE / "v.safetensors")
    return (PLACE / "v.safetensors").read_bytes()


@reader("zerorepo-vectors", lambda: [_vectors()], "safetensors")
def zerorepo_vectors(data: bytes) -> None:
    from zerorepo.vectors import VectorIndex, read_tensors

    arrays, _ = read_tensors(file(data, "index.safetensors"))
    index = VectorIndex.load(PLACE / "index.safetensors")
    if arrays["vectors"].shape == (4, 4):
        index.top_k(np.ones((1, 4), np.float32), 2)


# ---------------------------------------------------------------- keychain-synth

KEYS = ["0" * 8, "1" * 8, "ab" * 4]
PROMPT = f'Passage 1:\nT\nSome text. {{"{KEYS[0]}": "{KEYS[1]}"}}. More {{"{KEYS[1]}": "Who is it?"}}. x\n\nStart with "{KEYS[0]}".\n'
TREE = f'{{"{KEYS[0]}": ["{KEYS[1]}", "{KEYS[2]}"]}} {{"{KEYS[1]}": "Who?"}} begin at {KEYS[0]}'
ROW = {"schema": "task/1", "id": "r", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": PROMPT}], "answer": ["x"], "meta": {"question": "Who is it?", "source": "s", "chains": []}}  # fmt: skip
FOREIGN = [
    ROW,
    {"data_source": "custom_math_x", "prompt": [{"role": "user", "content": "1+1"}], "ability": "math", "reward_model": {"style": "rule", "ground_truth": ["2"]}, "extra_info": {"split": "train", "index": 0}},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    {"custom_id": "x", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": [{"role": "user", "content": "q"}], "max_tokens": 3}},
    {"index": 0, "input": "q", "outputs": ["a"], "length": 3, "answer_prefix": " A:"},
    {"input": "q", "context": "c", "answers": ["a"], "length": 3, "dataset": "d", "language": "en", "all_classes": None, "_id": "z"},
    {"index": 1, "input": "q", "context": PROMPT, "answers": ["a"], "length": 3, "chain_head_with_question": "h", "distractor_context": "", "distract_questions": []},
]  # fmt: skip


def _packed() -> list[bytes]:
    from keychain_synth import writers

    how = writers.Settings(data_source="custom_math_x")
    written = [writers.WRITERS[to]("w", 0, ROW, how) for to in ("verl", "messages")]
    return [lines(one) for one in [*FOREIGN, *written]] + [json.dumps([ROW, FOREIGN[1]]).encode()]


@reader("keychain-convert", _packed)
def keychain_convert(data: bytes) -> None:
    from keychain_synth import convert, readers, writers

    for number, (where, line) in enumerate(convert.Records([file(data, "rows.jsonl")], None)):
        record = readers.read(where, number, line)
        for write in writers.WRITERS.values():
            with contextlib.suppress(*ALLOWED):
                encode(write(where, number, record, writers.Settings(data_source="custom_math_x")))


@reader("keychain-resolver", lambda: [PROMPT.encode(), TREE.encode()], "text")
def keychain_resolver(data: bytes) -> None:
    from keychain_synth import resolver, reward

    text = said(data)
    with contextlib.suppress(resolver.Unresolved):
        resolver.resolve(text)
    with contextlib.suppress(resolver.Unresolved):
        resolver.chains_in(resolver.pairs_in(text))
    for require in (True, False, None):
        reward.extract(text, require)


ITEMS = [
    {"id": "1", "question": "q?", "answer": "text", "paragraphs": [{"title": "t", "text": "some text", "is_supporting": True}]},
    {"_id": "2", "question": "q?", "answer": "text", "type": "bridge", "supporting_facts": [["t", 0]], "context": [["t", ["some text."]]]},
    {"id": "3", "question": "q?", "answer": "text", "answer_aliases": ["u"], "answerable": True, "paragraphs": [{"idx": 0, "title": "t", "paragraph_text": "some text", "is_supporting": True}], "question_decomposition": []},
    {"title": "t", "text": "a passage"},
]  # fmt: skip


@reader("keychain-items", lambda: [*(lines(one) for one in ITEMS), json.dumps(ITEMS[:2]).encode(), b"a text\n\nits second paragraph\n"])  # fmt: skip
def keychain_items(data: bytes) -> None:
    from keychain_synth import items

    with contextlib.suppress(*ALLOWED):
        quietly(items.read_passages(file(data, "passages")))
    quietly(items.read_items(file(data, "items.json")))


@reader("keychain-parquet", lambda: [_parquet([ITEMS[0]]), _parquet([FOREIGN[1]])], "bytes", False)
def keychain_parquet(data: bytes) -> None:
    from keychain_synth import convert, items

    path = file(data, "rows.parquet")
    with contextlib.suppress(*ALLOWED):
        quietly(items.read_items(path))
    quietly(iter(convert.Records([path], None)))


def _parquet(rows: list[Any]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    return out.getvalue()


# ---------------------------------------------------------------- cotpass

EVALS = [
    SAMPLE,
    {"doc_id": 1, "doc": {}, "target": "2", "arguments": {"gen_args_0": {"arg_0": "q"}}, "resps": [["a", "b"]], "filter": "none", "filtered_resps": ["a"]},
    {"custom_id": "x", "response": {"status_code": 200, "body": {"model": "m", "choices": [{"message": {"content": "a", "reasoning": "r"}, "finish_reason": "stop"}]}}, "error": None},
    {"task_id": 1, "solutions": ["a", {"text": "b"}], "correct": [True, False], "ground_truth": "2"},
    {"eval": {"HumanEval/0": [{"base_status": "pass", "plus_status": None, "solution": "s"}]}},
    {"task_id": "h", "completion": "c", "passed": True},
    {"problem_id": 1, "question": "q", "gold": ["2"], "responses": [{"text": "a", "finish_reason": "length"}, "b"]},
    {"input": "q", "output": "a", "score": 1.0, "gts": "2", "step": 1},
]  # fmt: skip


@reader("cotpass-readers", lambda: [lines(one) for one in EVALS])
def cotpass_readers(data: bytes) -> None:
    from cotpass import convert, readers
    from tenfold_shared.jsonl import Source

    path = file(data, "samples.jsonl")
    with contextlib.suppress(*ALLOWED):
        readers.read_gold(path)
    grouped = convert._grouped(
        (where, convert._as_verdict(record))
        for where, record in Source([path], "sample", expand=lambda located: readers.Reader().samples(located))
    )
    for item in grouped.items():
        for write in convert.WRITERS.values():
            with contextlib.suppress(*ALLOWED):
                quietly(map(encode, write(*item)))


RATES = {"fpr": {"value": 0.1, "n": 10}, "fnr": {"value": 0.2, "n": 20}}


@reader("cotpass-tables", lambda: [b"m1,0\n0,1\n", b"cproblem,n,c,d\na,4,2,1\n", b"r" + lines(RATES), b"n" + _npy(np.eye(3)), b"z" + _npz(a=np.eye(2))])  # fmt: skip
def cotpass_tables(data: bytes) -> None:
    from cotpass import convert, correct, metric

    form, data = data[:1], data[1:]
    if form == b"c":
        path = file(data, "counts.csv")
        with open(path, encoding="utf-8", newline="") as stream:
            metric.from_counts(stream, path)
    elif form == b"r":
        correct.read_rates(file(data, "rates.json"))
    else:
        convert.read_matrix(file(data, {b"n": "m.npy", b"z": "m.npz"}.get(form, "m.csv")))


def _npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def _npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


# ---------------------------------------------------------------- dser

SIM = {"p_ic": 0.3, "p_ci": 0.1, "p_0": 0.5, "problems": {"a": {"matrix": [[0.5, 0.5], [0.1, 0.9]], "initial": [1.0, 0.0], "answers": ["1", "2"]}}}  # fmt: skip


def _steps() -> bytes:
    from dser.chain import Step
    from dser.log import Settings

    run = msgspec.to_builtins(Settings(chains=1))
    first = Step(id="a", chain=0, iteration=0, role="solve", text="t", answer="2")
    return lines({**msgspec.to_builtins(first), "run": run, "task": TASK, "position": 0, "model": "m"})


@reader("dser-log", lambda: [b"l" + _steps(), b"s" + lines(SIM), b"r" + lines(SAMPLE)])
def dser_log(data: bytes) -> None:
    from dser import log, report, simulate

    form, data = data[:1], data[1:]
    if form == b"s":
        simulate.read_sim(file(data, "sim.json"))
    elif form == b"r":
        report.read_samples(file(data, "samples.jsonl"))
    else:
        quietly(log.read_log(file(data, "steps.jsonl")))


# ---------------------------------------------------------------- datamix

FORM_NAMES = ("regmix", "doremi", "olmix", "megatron", "hf", "nanotron", "torchtitan", "olmo-core", "llm-foundry")


def _forms() -> list[bytes]:
    """What the writers make of two stages, or of one where a form holds one."""
    from datamix import forms, schedule
    from datamix.forms.common import How

    weights = {"wiki": 0.25, "books": 0.75}
    two = schedule.stages([schedule.line(0, 1000, weights), schedule.line(1, 3000, {"wiki": 0.5, "books": 0.5})])
    found = []
    for at, name in enumerate(FORM_NAMES):
        form = forms.FORMS[name]
        made = form.write(two if form.stages not in ("none", "folder") else two[:1], How("/data/{domain}", 10, None))
        found.append(bytes([at]) + made.encode())
    return found


@reader("datamix-forms", _forms, "text")
def datamix_forms(data: bytes) -> None:
    from datamix import forms

    name = FORM_NAMES[(data[:1] or b"\0")[0] % len(FORM_NAMES)]
    forms.read(name, file(data[1:], "mixture"), paths="/data/{domain}", step_tokens=10)


LINE = {"schema": "mixture-schedule/1", "step": 0, "tokens_seen": 10, "weights": {"a": 0.5, "b": 0.5}, "feedback": {"a": 1.0}, "q": 0.5, "entropy": 0.69}  # fmt: skip


def _swarms() -> list[bytes]:
    from datamix import history, schedule, swarms

    static = schedule.static_file({"a": 0.5, "b": 0.5}, "m")
    step = {"step": 0, "weights": {"a": 0.5, "b": 0.5}, "tokens_seen": 10, "feedback": {"a": 1.0, "b": 1.0}}
    budget = {one.name: 1 for one in msgspec.structs.fields(history.Budget) if one.required}
    run = lines({
        "schema": swarms.TRAJECTORY, "id": "1", "task": "t", "sampler": "s", "seed": 0, "roles": {"a": "source", "b": "target"},
        "available": {"a": 100, "b": 100}, "base": {"a": 2.0, "b": 2.0}, "budget": budget, "status": "done", "steps": [step],
    })  # fmt: skip
    part = {"documents": 1, "tokens": 8, "bytes": 8, "sha256": "0" * 64}
    domains = [{"name": name, "role": role, "train": part, "valid": part} for name, role in (("a", "source"), ("b", "target"))]  # fmt: skip
    return [
        b"s" + schedule.write_line(schedule.line(0, 10, {"a": 0.5, "b": 0.5}, {"a": 1.0}, 0.5)) + b"\n",
        b"s" + static,
        b"t" + run,
        b"c" + lines({"schema": "corpus/1", "domains": domains}),
        b"a" + lines({"schema": swarms.SCHEMA, "kind": "imported"}),
        b"w" + b"run,a,b\n0,0.5,0.5\n1,0.25,0.75\n",
    ]


@reader("datamix-journals", _swarms)
def datamix_journals(data: bytes) -> None:
    """Schedules, mixtures, swarms and their tables, corpora's listings."""
    from datamix import schedule, swarms
    from datamix.corpus import Corpus
    from datamix.forms import tables

    form, data = data[:1], data[1:]
    if form == b"t":
        swarms.read(folder({swarms.TRAJECTORIES: data, swarms.ABOUT: b"{}"}, "swarm"))
    elif form == b"a":
        swarms.about(folder({swarms.ABOUT: data}, "about"))
    elif form == b"c":
        (PLACE / "corpus/tokens").mkdir(parents=True, exist_ok=True)
        for name in ("a", "b"):
            for split_ in ("train", "valid"):
                (PLACE / f"corpus/tokens/{name}.{split_}.bin").write_bytes(b"12345678")
        Corpus.load(folder({"corpus.json": data}, "corpus"))
    elif form == b"w":
        for one in tables.KEYS:
            with contextlib.suppress(*ALLOWED):
                tables._mixtures(tables.read_table(file(data, "table.csv"), one))
    else:
        path = file(data, "schedule.jsonl")
        with contextlib.suppress(*ALLOWED):
            schedule.read(path)
        schedule.stages(schedule.load_any(path))


def _layouts() -> list[bytes]:
    from datamix import layouts

    code = next(code for code, kind in layouts.MEGATRON.items() if np.dtype(kind).itemsize == 2)
    index = (
        layouts.MAGIC
        + (1).to_bytes(8, "little")
        + bytes([code])
        + (2).to_bytes(8, "little")
        + (2).to_bytes(8, "little")
    )
    index += np.array([2, 2], "<i4").tobytes() + np.array([0, 4], "<i8").tobytes() + np.array([0, 2], "<i8").tobytes()
    ids = np.arange(4, dtype="<u2")
    return [
        b"m" + joined(index, ids.tobytes()),
        b"n" + joined(_npy(ids), b""),
        b"n" + joined(ids.tobytes(), gzip.compress(b"0,1,a,b\n1,2,c,d\n")),
        b"d" + joined(ids.tobytes(), np.array([2, 4], "<u8").tobytes()),
        b"j" + joined(lines({"text": "a"}, {"content": "b"}), b""),
        b"p" + joined(_parquet([{"text": "a"}, {"text": None}]), b""),
        b"a" + joined(_arrow([{"input_ids": [1, 2]}]), b""),
    ]


def _arrow(rows: list[Any]) -> bytes:
    import pyarrow

    table, out = pyarrow.Table.from_pylist(rows), io.BytesIO()
    with pyarrow.ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)
    return out.getvalue()


@reader("datamix-layouts", _layouts, "bytes")
def datamix_layouts(data: bytes) -> None:
    from datamix import layouts

    names = {b"m": ("x.idx", "x.bin"), b"n": ("x.npy", "x.csv.gz"), b"d": ("x.ds", "x.ds.index"), b"j": ("x.jsonl", ""), b"p": ("x.parquet", ""), b"a": ("x.arrow", "")}  # fmt: skip
    named = names.get(data[:1], names[b"n"])
    shutil.rmtree(PLACE / "layout", ignore_errors=True)
    made = folder({name: part for name, part in zip(named, split(data[1:]), strict=True) if name and part}, "layout")
    path = Path(made) / named[0]
    if not path.exists():
        return
    given = layouts.Given("x", (path,), ())
    with contextlib.redirect_stderr(io.StringIO()):
        for document in layouts.documents(given, "train", layouts.Tolerance(3, quiet=True), 2):
            str(document)


# ---------------------------------------------------------------- grpo-roc

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}}  # fmt: skip
TRANSCRIPTS = [
    {**TRAJECTORY, "prompt": "q"},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c", "content": "2"}, {"role": "assistant", "content": "2"}], "tools": [TOOL]},
    {"system": 'Here are functions: [{"name": "f", "description": "d", "parameters": {"type": "dict", "properties": {"a": {"type": "int"}}, "required": ["a"]}}]', "conversations": [{"from": "user", "value": "q"}, {"from": "assistant", "value": '[f(a=1, b="x")]'}, {"from": "tool", "value": "[]"}, {"from": "assistant", "value": "done"}]},
    {"tools": json.dumps([TOOL["function"]]), "system": "s", "conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": '{"name": "f", "arguments": {"a": 1}}'}, {"from": "observation", "value": "1"}, {"from": "gpt", "value": "d"}]},
    {"system": 'SYSTEM: You can use {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}', "chat": 'USER: q\n\nASSISTANT: <functioncall> {"name": "f", "arguments": \'{"a": 1}\'} <|endoftext|>\n\nFUNCTION RESPONSE: {"r": 1}\n\nASSISTANT: done <|endoftext|>'},
    {"problem": "write it", "solution": "text\n```python\nprint(1)\n```\nmore"},
    {"input": "q", "output": "<tool_call>\n{\"name\": \"python\", \"arguments\": {\"code\": \"1\"}}\n</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\n1\n</tool_response><|im_end|>\n<|im_start|>assistant\n2", "score": 1.0, "step": 1},
    {"id": "t", "group": "g", "prompt_tokens": 3, "segments": [{"decode": 5, "tool_s": 0.5, "tool_tokens": 2}, {"decode": 3}]},
]  # fmt: skip


@reader("grpo-transcripts", lambda: [lines(one) for one in TRANSCRIPTS])
def grpo_transcripts(data: bytes) -> None:
    """Transcripts for the cold start in six forms, rollouts in three, and traces."""
    from grpo_roc import prepare, readers, sft_forms, traces
    from tenfold_shared.jsonl import Source

    path = file(data, "transcripts.jsonl")
    with contextlib.redirect_stderr(io.StringIO()):
        with contextlib.suppress(*ALLOWED):
            for _, record in sft_forms.source([path], "auto", 5, common=True):
                encode(record)
                sft_forms.chat_of(record)
        with contextlib.suppress(*ALLOWED):
            quietly(readers.read(Source([path], None), "auto"))
        with contextlib.suppress(*ALLOWED):
            traces.read(Source([path], None))
        for number, (_, record) in enumerate(prepare.located(path)):
            with contextlib.suppress(prepare.Unfit):
                prepare.problem_of(record, number, prepare.Settings())


CALLS = '<think>a</think>\n<tool_call>\n{"name": "execute_python_code_with_standard_io", "arguments": {"code": "print(1)", "input": ""}}\n</tool_call>\n'


@reader(
    "grpo-calls", lambda: [CALLS.encode(), CALLS.encode() * 2 + b"<tool_call>", b'[f(a=1, b=[1, {"c": None}])]'], "text"
)
def grpo_calls(data: bytes) -> None:
    """A turn as the model wrote it: its calls, the answer in it, and what is shown of a result."""
    from grpo_roc import dialogue, sft_forms, transcript
    from tenfold_shared.records import RecordProblem

    text = said(data)
    for call in dialogue.calls_in(text, list(dialogue.TOOLS)):
        str((call.code, call.input, call.problem))
    with contextlib.suppress(RecordProblem, ValueError):
        sft_forms.bracketed(text)
    dialogue.shorten(text)
    turns = [{"text": text, "calls": []}]
    transcript.calls_of(turns)
    transcript.answers_of(turns)


# ---------------------------------------------------------------- antkv, seer-decode, longexp-peft: tensors with what is told of them


def _safetensors(tensors: dict[str, Any], meta: dict[str, str] | None) -> bytes:
    from safetensors.numpy import save

    return save(tensors, meta)


def _codebook() -> bytes:
    from antkv import codebook

    made = codebook.Made(**_made(codebook))
    tables = {f"layers.{layer}.{part}": np.zeros((1, 4, made.centroids, 2), np.float16) for layer in made.layers for part in ("keys", "values")}  # fmt: skip
    return _safetensors(tables, {"antkv": msgspec.json.encode(made).decode()})


def _made(codebook: Any) -> dict[str, Any]:
    """The fewest fields that the kind of a codebook's metadata takes."""
    found: dict[str, Any] = {}
    for one in msgspec.structs.fields(codebook.Made):
        if one.required:
            found[one.name] = _smallest(one.type)
    known = {"model": msgspec.convert({**_plain(codebook.Made, "model"), "layers": 2, "kv_heads": 1, "head_dim": 8}, _type(codebook.Made, "model")), "centroids": codebook.COUNTS[0], "dim": 2, "layers": [0, 1]}  # fmt: skip
    return {**found, **{name: value for name, value in known.items() if name in {f.name for f in msgspec.structs.fields(codebook.Made)}}}  # fmt: skip


def _type(kind: Any, name: str) -> Any:
    return next(one.type for one in msgspec.structs.fields(kind) if one.name == name)


def _plain(kind: Any, name: str) -> dict[str, Any]:
    return {one.name: _smallest(one.type) for one in msgspec.structs.fields(_type(kind, name)) if one.required}


def _smallest(kind: Any) -> Any:
    import typing

    if typing.get_origin(kind) is typing.Literal:
        return typing.get_args(kind)[0]
    return {int: 1, str: "x", float: 1.0, bool: False}.get(kind, [] if typing.get_origin(kind) is list else {} if typing.get_origin(kind) is dict else None)  # fmt: skip


@reader("antkv-codebook", lambda: [_codebook()], "safetensors")
def antkv_codebook(data: bytes) -> None:
    from antkv import codebook

    codebook.load(file(data, "codebook.safetensors"))


def _gates() -> list[bytes]:
    """Folders of both forms as two files each, made by the tool's own writer."""
    from seer_decode import store
    from seer_decode.gate import Gates
    from seer_decode.shape import config_from

    fields = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 64, "head_dim": 16, "max_position_embeddings": 512}  # fmt: skip
    config = config_from(fields, "seed")
    gates = Gates.of(config, gate_dim=16, block=16)
    place = PLACE / "made-gates"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    found = []
    for form, first, second in (("ours", store.DESCRIPTION, store.TENSORS), ("published", store.CONFIG, store.WEIGHTS)):
        store.save(gates, store.made_for(config, gates.shape, "m"), place / form, form)
        found.append(form[:1].encode() + joined((place / form / first).read_bytes(), (place / form / second).read_bytes()))  # fmt: skip
    return found


@reader("seer-gates", _gates, "json", False)
def seer_gates(data: bytes) -> None:
    """gate.json, or the config of published gates, and the tensors beside it; a sha256 that fits is given to ours."""
    import hashlib

    from seer_decode import store

    told, tensors = split(data[1:])
    shutil.rmtree(PLACE / "gates", ignore_errors=True)
    if data[:1] == b"p":
        store.load(folder({store.CONFIG: told, store.WEIGHTS: tensors}, "gates"))
        return
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(told)
        if isinstance(found, dict) and "sha256" in found:
            told = json.dumps({**found, "sha256": hashlib.sha256(tensors).hexdigest()}).encode()
    store.load(folder({store.DESCRIPTION: told, store.TENSORS: tensors}, "gates"))


class _Bytes:
    """A tokenizer of bytes with a chat template that is none of jinja's business."""

    bos_token_id, eos_token_id, chat_template = 256, 257, "x"

    def __call__(self, text: str, add_special_tokens: bool = True, verbose: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [256] * add_special_tokens + list(text.encode())}

    def apply_chat_template(self, messages: Any, tokenize: bool = False, add_generation_prompt: bool = False) -> str:
        made = "".join(f"<{one['role']}>{one['content']}\n" for one in messages)
        return made + "<assistant>" * add_generation_prompt


EXAMPLES = [
    b"x.jsonl\n" + lines({"prompt": "p", "completion": "c"}), b"x.jsonl\n" + lines({"instruction": "i", "input": "", "output": "o"}),
    b"x.json\n" + json.dumps([{"text": "a document"}, {"text": "another"}]).encode(), b"x.csv\nmr,ref\nname[x],\"a, b\"\n",
    b"x.tsv\nsentence\tlabel\nfine\t1\n", b"x.jsonl\n" + lines({"context": [1], "completion": [2, 3]}), b"x.txt\nplain text\n",
    b"x.jsonl\n" + lines({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}),
]  # fmt: skip


@reader("longexp-dataset", lambda: list(EXAMPLES))
def longexp_dataset(data: bytes) -> None:
    from longexp_peft import dataset

    head, _, body = data.partition(b"\n")
    suffix = next((one for one in (".jsonl", ".json", ".csv", ".tsv", ".txt", ".jsonl.gz") if head.endswith(one.encode())), "")  # fmt: skip
    path = file(body, f"data{suffix}")
    with contextlib.redirect_stderr(io.StringIO()):
        for form in dataset.FORMS:
            with contextlib.suppress(*ALLOWED):
                dataset.read([path], _Bytes(), 258, form=form, max_length=64, skip_bad=2)


def _bundle() -> bytes:
    import torch

    from longexp_peft import bundle

    tensors = {"order.0": torch.arange(8, dtype=torch.int32)}
    info = {"schema": bundle.SCHEMA, "layers": [{"static": 4, "width": 8, "fixed": 1, "lost": 0.0, "patterns": []}], "model": {"type": "opt", "shape": [1], "config": None, "weights": None}, "attention_block": 16, "mass": 0.9, "predictor": {"block": 2, "kind": "svd"}}  # fmt: skip
    place = PLACE / "made-bundle"
    bundle.Bundle(info, tensors).save(place)
    return joined((place / "bundle.json").read_bytes(), (place / "bundle.safetensors").read_bytes())


@reader("longexp-bundle", lambda: [_bundle()])
def longexp_bundle(data: bytes) -> None:
    """bundle.json with bundle.safetensors, whose digest is made to fit, and all that a run asks of it."""
    from safetensors import SafetensorError
    from safetensors.torch import load as tensors_of

    from longexp_peft import bundle

    told, tensors = split(data)
    with contextlib.suppress(ValueError, RecursionError, SafetensorError):
        found = json.loads(told)
        if isinstance(found, dict) and "tensors" in found:
            told = json.dumps({**found, "tensors": bundle.digest(tensors_of(tensors))}).encode()
    found = bundle.Bundle.load(folder({"bundle.json": told, "bundle.safetensors": tensors}, "bundle"))
    found.digest()


# ---------------------------------------------------------------- sparstencil

WEIGHTS = {"ndim": 2, "offsets": [[-1, 0], [1, 0], [0, 0]], "weights": [0.25, 0.25, 0.5], "name": "n"}


@reader("sparstencil-stencil", lambda: [b"f0.25*(u[-1,0] + u[1,0]) - u[0,0]/4", b"j" + lines(WEIGHTS), b't offsets = [[-1], [1]]\nweights = [0.5, 0.5]\n', b"n" + _npy(np.ones((3, 3)))])  # fmt: skip
def sparstencil_stencil(data: bytes) -> None:
    """A formula, a table of offsets, an array; and what is made of each: C source, in which nothing but numbers may differ."""
    import warnings

    from sparstencil import cpu_source, stencil

    form, data = data[:1], data[1:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form == b"f":
            made = stencil.formula(said(data))
        else:
            made = stencil.read(file(data, {b"j": "s.json", b"t": "s.toml"}.get(form, "s.npy")))
    str((made.key, made.lo, made.hi, made.radius, made.total))
    if made.points < 100 and made.radius < 100:
        source = cpu_source.source(made, np.dtype(np.float64), False)
        plain = cpu_source.source(stencil.formula("0.25*u[-1,0]"), np.dtype(np.float64), False)
        assert set(source) <= set(plain) | set("0123456789abcdefxp+-."), (
            "more than numbers of the input is in the source"
        )


def _h5() -> bytes:
    import h5py

    path = PLACE / "made.h5"
    with h5py.File(path, "w") as made:
        made.create_dataset("u", data=np.ones((3, 4)))
    return path.read_bytes()


@reader("sparstencil-grid", lambda: [b"n" + _npy(np.ones((3, 4), np.float32)), b"z" + _npz(u=np.ones(4)), b"r" + bytes(48)], "bytes")  # fmt: skip
def sparstencil_grid(data: bytes) -> None:
    from sparstencil import grid

    form, data = data[:1], data[1:]
    if form == b"r":
        grid.read(file(data, "g.raw"), (3, 4), "float32")
    else:
        grid.read(file(data, {b"z": "g.npz"}.get(form, "g.npy")))


@reader("sparstencil-hdf5", lambda: [_h5()], "bytes", False)
def sparstencil_hdf5(data: bytes) -> None:
    from sparstencil import grid

    grid.read(file(data, "g.h5"))


# ---------------------------------------------------------------- models: what lies in a checkpoint's folder


def _gguf() -> bytes:
    import gguf

    path = PLACE / "made.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(8)
    writer.add_embedding_length(4)
    writer.add_block_count(1)
    writer.add_feed_forward_length(4)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_vocab_size(3)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "ab"])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    block = {"attn_q": (4, 4), "attn_k": (4, 4), "attn_v": (4, 4), "attn_output": (4, 4), "ffn_gate": (4, 4), "ffn_up": (4, 4), "ffn_down": (4, 4), "attn_norm": (4,), "ffn_norm": (4,)}  # fmt: skip
    tensors = {"token_embd": (3, 4), "output_norm": (4,), "output": (3, 4)} | {f"blk.0.{name}": shape for name, shape in block.items()}  # fmt: skip
    for name, shape in tensors.items():
        writer.add_tensor(f"{name}.weight", np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@reader("gguf", lambda: [_gguf()], "bytes", False)
def gguf(data: bytes) -> None:
    """A GGUF file on its way into the cache; what it names must not decide where that is."""
    from tenfold_shared import models

    aside = PLACE / "gguf-out"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    models._convert(Path(file(data, "m.gguf")), aside)


ADAPTER = {"base_model_name_or_path": "org/model", "peft_type": "LORA", "r": 8, "rank_pattern": {"a": 16}}


@reader("adapter", lambda: [lines({**ADAPTER, "base_model_name_or_path": str(PLACE / "base")})])
def adapter(data: bytes) -> None:
    """adapter_config.json: the base that a PEFT adapter names."""
    from tenfold_shared import models

    path = folder({"adapter_config.json": data, "adapter_model.safetensors": b""}, "adapter")
    (PLACE / "base").mkdir(exist_ok=True)
    (PLACE / "base/config.json").write_bytes(b"{}")
    models.resolve(path)
