"""Guards that no single tool owns, each shown to hold against the attack it is for: SECURITY.md names these tests.

Files put where we write, folders of the cache that are not ours, packed data that unpacks without end, text that drives a
terminal, repositories that name commands for git, servers that send our key elsewhere.
"""

from __future__ import annotations

import gzip
import json
import os
import pty
import select
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from tenfold_shared import BadInput, Missing, cache
from tenfold_shared.cli import Tool, print_table, tool
from tenfold_shared.cli.terminal import Shown
from tenfold_shared.generate import Request, Sampling
from tenfold_shared.generate.server import ServerGenerator
from tenfold_shared.jsonl import Journal, Output, Source, read_lines, read_text, streams, write_atomic
from tenfold_shared.redaction import printable

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202etxt\x9b31m"


def of(path: Path) -> Output:
    return Output(str(path), tool="t", version="1", verb="v", options={})


# ---------------------------------------------------------------- files that are there already


@pytest.mark.parametrize("name", [".out.jsonl.tmp", ".out.jsonl.journal.new", ".out.jsonl.manifest.json.tmp"])
def test_a_link_put_where_an_output_is_written_is_not_followed(tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / name).symlink_to(victim)
    with of(tmp_path / "out.jsonl") as out:
        out.write({"id": "a"})
        out.finish({})
    assert victim.read_text() == "mine"
    assert (tmp_path / "out.jsonl").read_bytes() == b'{"id":"a"}\n'


def test_a_link_put_beside_an_atomic_file_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".f.tmp").symlink_to(victim)
    write_atomic(tmp_path / "f", b"new")
    assert victim.read_text() == "mine" and (tmp_path / "f").read_bytes() == b"new"


DAMAGED = [
    b"[]\n", b"7\n", b"\xff\xfe\n", b"[" * 100_000 + b"\n", b'{"tool":"t","verb":"v","options":[],"inputs":[]}\n',
    b'{"tool":"t","verb":"v","options":{},"inputs":[{}]}\n', b'{"tool":"t","verb":"v","options":{},"inputs":["a"]}\n',
]  # fmt: skip


@pytest.mark.parametrize("data", DAMAGED, ids=range(len(DAMAGED)))
def test_a_manifest_from_elsewhere_is_bad_input(tmp_path, data):
    (tmp_path / "out.jsonl").write_bytes(b"")
    (tmp_path / "out.jsonl.manifest.json").write_bytes(data)
    with pytest.raises(BadInput), of(tmp_path / "out.jsonl"):
        pass


@pytest.mark.parametrize("data", DAMAGED, ids=range(len(DAMAGED)))
def test_a_journal_from_elsewhere_is_bad_input_or_none(tmp_path, data):
    (tmp_path / ".out.jsonl.journal").write_bytes(data)
    try:
        with of(tmp_path / "out.jsonl") as out:
            assert out.journal is not None and not out.journal.where
    except BadInput as error:
        assert "damaged" in str(error)


@pytest.mark.parametrize("line", [b'["a",\xff]\n', b'["a"]\n', b'["a",' + b"[" * 100_000 + b"\n", b'["a",{"x":"\\ud800"}]\n'])  # fmt: skip
def test_a_damaged_entry_of_a_journal_is_bad_input(tmp_path, line):
    path = tmp_path / ".out.jsonl.journal"
    path.write_bytes(b'{"tool":"t","verb":"v","options":{},"inputs":[]}\n' + line)
    with pytest.raises(BadInput, match="damaged journal"):
        journal = Journal(path, {})
        journal.get("a")


# ---------------------------------------------------------------- the cache


def test_programs_of_another_user_are_not_loaded(tmp_path, monkeypatch):
    program = tmp_path / "p.so"
    program.write_bytes(b"")
    cache.expect_ours(program)
    real = os.stat(program)
    monkeypatch.setattr(os, "geteuid", lambda: real.st_uid + 1)
    if real.st_uid == 0:  # root's files are trusted by everybody: make it somebody's
        os.chown(program, 12345, -1)
    with pytest.raises(Missing, match="another user's; set TENFOLD_CACHE"):
        cache.expect_ours(program)


@pytest.mark.parametrize("loose", ["p.so", "."])
def test_programs_that_anybody_may_write_are_not_loaded(tmp_path, loose):
    program = tmp_path / "p.so"
    program.write_bytes(b"")
    (tmp_path / loose).chmod(0o777)
    with pytest.raises(Missing, match="anybody's to write to"):
        cache.expect_ours(program)


def test_a_compiled_stencil_in_a_loose_folder_is_refused(tmp_path, monkeypatch):
    from sparstencil import cpu

    name = "kept"
    monkeypatch.setattr(cpu.hashlib, "sha256", lambda data: type("H", (), {"hexdigest": lambda self: name * 8})())
    (tmp_path / "sparstencil").mkdir()
    (tmp_path / "sparstencil" / f"{(name * 8)[:32]}.so").write_bytes(b"\x7fELF planted")
    (tmp_path / "sparstencil").chmod(0o777)
    with pytest.raises(Missing, match="anybody's to write to"):
        cpu.build("int x;", [sys.executable], tmp_path)


def test_two_tokenizers_never_share_a_place_in_the_cache(tmp_path, monkeypatch):
    """`a-b/c` and `a/b-c` are two hub ids with the same words."""

    from keychain_synth import tokens

    class Tokenizer:
        def __init__(self, name):
            self.name = name

        def save_pretrained(self, target):
            target.mkdir(parents=True)
            (target / "tokenizer.json").write_text(self.name)

    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path))
    given = SimpleNamespace(AutoTokenizer=SimpleNamespace(from_pretrained=Tokenizer))
    monkeypatch.setitem(sys.modules, "transformers", given)
    found = {name: tokens._through_transformers(name, name) for name in ("a-b/c", "a/b-c", "../../x", "a" * 300)}
    assert len(set(found.values())) == 4
    for name, folder in found.items():
        assert (folder / "tokenizer.json").read_text() == name
        assert folder.parent == tmp_path / "tokenizers"


# ---------------------------------------------------------------- packed data


def packed(path: Path, size: int) -> str:
    if path.suffix == ".gz":
        with gzip.open(path, "wb", compresslevel=1) as stream:
            for _ in range(size >> 16):
                stream.write(b" " * (1 << 16))
    else:
        import zstandard

        path.write_bytes(zstandard.ZstdCompressor().compress(b" " * size))
    return str(path)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_line_that_unpacks_without_end_is_bad_input(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(streams, "LONGEST_LINE", 1 << 20)
    bomb = packed(tmp_path / f"bomb.jsonl{suffix}", 8 << 20)
    assert os.path.getsize(bomb) < 1 << 17
    with pytest.raises(BadInput, match="unpacks to a line of more than 1 MiB"):
        list(read_lines(bomb))
    with pytest.raises(BadInput, match="more than 1 MiB"):
        read_text(bomb)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_many_lines_that_unpack_are_read_one_at_a_time(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(streams, "LONGEST_LINE", 1 << 20)
    path = tmp_path / f"a.jsonl{suffix}"
    text = b'{"id":"a"}\n' * 300_000
    path.write_bytes(gzip.compress(text, 1)) if suffix == ".gz" else path.write_bytes(__import__("zstandard").compress(text))  # fmt: skip
    assert sum(1 for _ in read_lines(str(path))) == 300_000


# ---------------------------------------------------------------- what a terminal shows


def test_text_for_a_terminal_keeps_nothing_that_drives_one():
    shown = printable(f"a{HOSTILE}b\tc\n")
    assert (
        not set(shown) & set("\x1b\x07\u202e\x9b")
        and shown.startswith("a\\x1b]0;owned\\x07")
        and shown.endswith("b\tc\n")
    )


def test_an_error_names_a_record_without_its_escapes(tmp_path, capsys):
    """In a log as well, which somebody will look at."""
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"id": "a" + HOSTILE, "prompt": "x"}) + "\n" for _ in range(2)))

    @tool("t", "tenfold-shared", "A tool.")
    def group():
        """A tool."""

    @group.command("v")
    def verb():
        where, record = next(iter(Source([str(path)], "task")))
        raise BadInput(f"{where}: {record['id']}: appears twice")

    assert isinstance(group, Tool)
    assert group.main(["v"], standalone_mode=False) == 2
    assert (
        capsys.readouterr().err == f"t: {path}:1: a" + "\\x1b]0;owned\\x07\\x1b[2J\\u202etxt\\x9b31m: appears twice\n"
    )


def test_a_tool_prints_no_escapes_of_others_on_a_terminal():
    @click.group(cls=Tool, name="t")
    def group():
        """A tool."""

    @group.command("v")
    def verb():
        print("out", HOSTILE)
        print("\x1b[31mred\x1b[0m\rbar", file=sys.stderr)
        click.echo(f"echo {HOSTILE}")

    said = terminal(lambda: group.main(["v"], standalone_mode=False))
    assert said.count("\\x1b]0;owned\\x07") == 2 and "\x1b]" not in said and "\u202e" not in said and "\x07" not in said
    assert "\x1b[31mred\x1b[0m\rbar" in said, "our own colours and bars go through"


def test_bytes_are_data_and_go_through_as_they_are(tmp_path):
    with open(tmp_path / "f", "w", encoding="utf-8") as stream:
        shown = Shown(stream)
        shown.buffer.write(b"\x1b[2J")
        shown.write("\x1b[2J")
    assert (tmp_path / "f").read_bytes() == b"\x1b[2J\\x1b[2J"


@pytest.mark.parametrize("name", [HOSTILE, "[/bold]", "[link=file:///etc/passwd]x[/link]", "a[red]b"])
def test_a_table_shows_names_as_text(name, capsys):
    from rich.table import Table

    table = Table("name", "n")
    table.add_row(name, "1")
    print_table(table)
    said = capsys.readouterr().out
    assert not set(said) & set("\x1b\x07\u202e\x9b")


def terminal(run) -> str:
    """What RUN writes where stdout and stderr are one terminal."""
    leader, follower = pty.openpty()
    kept = sys.stdout, sys.stderr
    try:
        with open(follower, "w", encoding="utf-8", closefd=False) as stream:
            sys.stdout = sys.stderr = stream
            try:
                run()
            finally:
                stream.flush()
    finally:
        sys.stdout, sys.stderr = kept
    said = b""
    while select.select([leader], [], [], 0.2)[0]:
        said += os.read(leader, 1 << 16)
    os.close(leader)
    os.close(follower)
    return said.decode()


# ---------------------------------------------------------------- names in pictures


def test_a_domain_named_like_a_formula_is_drawn(tmp_path):
    import numpy as np

    from datamix import plot

    figure = plot._figure(tmp_path / "p.svg", 4, 3)
    names = [r"$\frac{$", "a$b", "-->", "<script>"]
    plot._streams(figure.subplots(), np.full((3, 4), 0.25), names, dict.fromkeys(names, "source"))
    plot._save(figure, tmp_path / "p.svg")
    import xml.etree.ElementTree as ElementTree

    ElementTree.parse(tmp_path / "p.svg")
    assert "<script" not in (tmp_path / "p.svg").read_text()


# ---------------------------------------------------------------- git in a folder from elsewhere


def git(folder: Path, *words: str) -> str:
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b", "GIT_CONFIG_GLOBAL": os.devnull}  # fmt: skip
    return subprocess.run(["git", "-C", str(folder), *words], env={**os.environ, **who}, check=True, capture_output=True, text=True).stdout  # fmt: skip


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repo"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "a.py").write_text("def f(): pass\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "x")
    return folder


def test_a_partial_clone_fetches_nothing_when_a_commit_is_read(tmp_path, repository):
    """The remote of a partial clone, and the program that serves it, stand in the repository's own configuration: git runs it
    when an object is missing."""
    from zerorepo.encode import encode
    from zerorepo.sources import Commit

    program, ran = tmp_path / "program.sh", tmp_path / "ran"
    program.write_text(f"#!/bin/sh\ntouch {ran}\nexit 1\n")
    program.chmod(0o755)
    for name, value in (
        ("core.repositoryformatversion", "1"), ("extensions.partialClone", "origin"), ("remote.origin.promisor", "true"),
        ("remote.origin.url", str(repository)), ("remote.origin.uploadpack", str(program)), ("protocol.allow", "always"),
        ("protocol.file.allow", "always"), ("core.sshCommand", str(program)),
    ):  # fmt: skip
        git(repository, "config", name, value)
    blob = git(repository, "rev-parse", "HEAD:a.py").strip()
    (repository / ".git/objects" / blob[:2] / blob[2:]).unlink()
    subprocess.run(["git", "-C", str(repository), "cat-file", "-p", blob], capture_output=True, check=False)
    assert ran.exists(), "the attack works where nothing guards against it"
    ran.unlink()
    graph = encode(Commit(repository, "HEAD"))
    assert not ran.exists()
    assert graph.by_id["a.py"].status == "unparsed"


def test_an_index_that_leads_out_of_the_folder_is_not_followed(tmp_path, repository):
    from zerorepo.encode import encode
    from zerorepo.sources import WorkTree

    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.py").write_text('def secret(): "the password"\n')
    (repository / "link").symlink_to(tmp_path / "outside")
    blob = git(repository, "rev-parse", "HEAD:a.py").strip()
    git(repository, "update-index", "--add", "--cacheinfo", f"100644,{blob},link/secret.py")
    assert "link/secret.py" in git(repository, "ls-files")
    graph = encode(WorkTree(repository))
    assert "a.py" in graph.by_id and not any("secret" in node.id for node in graph.nodes)
    for path in ("link/secret.py", "../outside/secret.py", f"{tmp_path}/outside/secret.py", ".."):
        [(_, data)] = WorkTree(repository).read([path])
        assert isinstance(data, str) and "leads out" in data, path
    [(_, data)] = WorkTree(repository).read(["a.py"])
    assert data == b"def f(): pass\n"


def test_a_folder_that_says_it_is_a_build_runs_no_filter(tmp_path):
    """`zerorepo build` asks git whether a finished build was changed since; a folder from elsewhere may only look like one."""
    from zerorepo.generation import history

    folder, ran = tmp_path / "build", tmp_path / "ran"
    folder.mkdir()
    head = history.write(folder, [history.Commit("m", {"a.py": b"x = 1\n"})])
    assert not history.touched(folder, head)
    git(folder, "config", "remote.origin.url", "https://example.org/x")
    assert not history.touched(folder, head), "a remote of the user's own is no change"
    git(folder, "config", "filter.x.clean", f"touch {ran}; cat")
    (folder / ".git/info/attributes").write_text("* filter=x\n")
    os.utime(folder / "a.py", (1, 1))
    git(folder, "status", "--porcelain")
    assert ran.exists(), "the attack works where nothing guards against it"
    ran.unlink()
    os.utime(folder / "a.py", (2, 2))
    assert history.touched(folder, head) and not ran.exists()


# ---------------------------------------------------------------- servers


class Server:
    """A server on the loopback that answers by a function of (path, headers), and remembers what it was asked."""

    def __init__(self, answer):
        seen = self.seen = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers.get("content-length", 0)))
                seen.append((self.path, dict(self.headers)))
                status, headers, body = answer(self.path)
                self.send_response(status)
                for name, value in {"content-length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST

            def log_message(self, *words):
                """Nothing is told."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()


def asked(url: str, **how):
    generator = ServerGenerator([url], "m", max_retries=0, key="sk-planted", **how)
    return next(iter(generator.generate([Request("k", prompt="hi")], Sampling())))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_takes_the_key_nowhere(status):
    with (
        Server(lambda path: (200, {}, b"{}")) as other,
        Server(lambda path: (status, {"location": f"{other.url}/completions"}, b"")) as first,
    ):
        done = asked(first.url)
        assert done.finish_reason == "error" and not other.seen
        assert first.seen[0][1]["Authorization"] == "Bearer sk-planted"


REPLIES = {
    "an infinite count": b'{"choices":[{"text":"a","finish_reason":"stop"}],"usage":{"prompt_tokens":Infinity}}',
    "a count that is none": b'{"choices":[{"text":"a","finish_reason":"stop"}],"usage":{"prompt_tokens":"x"}}',
    "nested without end": b'{"choices":' + b"[" * 200_000,
    "thousands of digits": b'{"choices":[{"text":"a","finish_reason":"stop"}],"usage":{"prompt_tokens":'
    + b"9" * 5000
    + b"}}",
    "no text": b'{"choices":[{"text":7,"finish_reason":"stop"}]}',
    "a list": b"[]",
    "no UTF-8": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_that_is_none_is_an_error_of_its_record(name):
    with Server(lambda path: (200, {"content-type": "application/json"}, REPLIES[name])) as server:
        done = asked(server.url)
    assert done.finish_reason == "error" and "the reply is not the JSON expected" in str(done.error)
    assert "sk-planted" not in str(done.error)


# ---------------------------------------------------------------- names of files


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", "a\0b", "a\nb", "..", ".hidden", "", "a" * 300])
def test_a_domain_cannot_be_a_path(name):
    from datamix.corpus import check_domains

    with pytest.raises(BadInput, match="not a domain's name"):
        check_domains([(name, "source"), ("b", "target")], "w")
    check_domains([("a b-1.2", "source"), ("b", "target")], "w")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b", ".."])
def test_a_stage_cannot_be_a_path(tmp_path, name):
    from datamix import forms

    (tmp_path / "stages").mkdir()
    index = {"schema": forms.INDEX_SCHEMA, "form": "hf", "stages": [{"file": name, "tokens": 1}]}
    (tmp_path / "stages" / forms.INDEX).write_text(json.dumps(index))
    with pytest.raises(BadInput, match="expected the name of a file in the same folder"):
        forms.read("hf", str(tmp_path / "stages"))


# ---------------------------------------------------------------- templates, YAML, tensors


@pytest.mark.parametrize("text", ["$question", "${question}", "$$", "$answer", "{question}", "%(prompt)s", "{{7*7}}"])
def test_a_record_is_no_template(text):
    """What a record says is put into a template once and stays as it is."""
    from cotpass.sample import prompt_of

    made = prompt_of({"id": "a", "prompt": text, "answer": "gold"}, "Q: $question\nA:")
    assert made["prompt"] == f"Q: {text}\nA:"


REACHING = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.__init__.__globals__ }}", "{{ raise_exception.__globals__ }}",
    "{% set _ = messages.append(1) %}{{ messages }}", "{{ self._TemplateReference__context }}",
    "{{ (messages|attr('__class__')).__base__.__subclasses__() }}", "{% include '/etc/passwd' %}", "{% import 'os' as os %}",
]  # fmt: skip


@pytest.mark.parametrize("text", REACHING)
def test_a_chat_template_reaches_nothing_of_python(text):
    """As it is compiled here, and as transformers does for all other tools."""
    from jinja2 import exceptions
    from transformers.utils.chat_template_utils import _compile_jinja_template

    from keychain_synth import tokens

    for compiled in (tokens._compile, _compile_jinja_template):
        try:
            said = compiled(text).render(messages=[{"role": "user", "content": "x"}])
        except (exceptions.TemplateError, TypeError, AttributeError):
            continue
        assert not any(word in said for word in ("<class", "function", "module", "root:", ", 1]"))


def test_yaml_makes_no_objects():
    from datamix.forms.common import load_yaml

    for text in (
        "!!python/object/apply:os.system [id]",
        "!!python/name:os.system",
        "a: !!python/object:datetime.date {}",
    ):
        with pytest.raises(BadInput, match="not YAML"):
            load_yaml(text, "w")


def test_yaml_that_multiplies_stays_small():
    """Nine merges of nine a level, ten levels: without a memory of what was merged the last would hold 9**10 entries."""
    from datamix.forms.common import load_yaml

    first = ", ".join(f"k{i}: 1" for i in range(9))
    levels = [f"l0: &l0 {{{first}}}"]
    levels += [f"l{i}: &l{i} {{<<: [{', '.join([f'*l{i - 1}'] * 9)}]}}" for i in range(1, 11)]
    assert load_yaml("\n".join(levels), "w")["l10"] == dict.fromkeys([f"k{i}" for i in range(9)], 1)


BROKEN_YAML = ["[" * 5000, "a: 2001-99-99", "a: " + "9" * 5000, "a: 0b", "? [a]\n: 1", "\x00", "a: *b", "a: 1__", "- !!int x", "{" * 3000]  # fmt: skip


@pytest.mark.parametrize("text", BROKEN_YAML, ids=range(len(BROKEN_YAML)))
def test_broken_yaml_is_bad_input_or_data(text):
    from datamix.forms.common import load_yaml

    try:
        load_yaml(text, "w")
    except BadInput as error:
        assert "not YAML" in str(error)


def test_an_agent_of_a_few_bytes_asks_for_no_memory():
    import msgspec

    from datamix import agent

    card = agent.Card("set", "cql", {"width": 12000}, critics=2)
    with pytest.raises(BadInput, match=r"weights, .* has 100 bytes"):
        agent._expect_held(card, 100)
    for sizes in ({"width": 10**9}, {"layers": 10**9}):
        with pytest.raises(BadInput, match="expected numbers of at most"):
            agent._expect_held(msgspec.structs.replace(card, sizes=sizes), 100)


def test_hdf5_that_points_elsewhere_or_claims_too_much_is_refused(tmp_path):
    import h5py

    from sparstencil import grid

    (tmp_path / "secret").write_bytes(b"password")
    with h5py.File(tmp_path / "out.h5", "w") as made:
        made.create_dataset("u", (8,), "u1", external=[(str(tmp_path / "secret"), 0, 8)])
    with h5py.File(tmp_path / "huge.h5", "w") as made:
        made.create_dataset("u", (1 << 20, 1 << 20), "f8", chunks=(64, 64))
    with h5py.File(tmp_path / "virtual.h5", "w") as made:
        layout = h5py.VirtualLayout((3,), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "out.h5"), "u", (3,))
        made.create_virtual_dataset("u", layout)
    for name in ("out.h5", "virtual.h5"):
        with pytest.raises(BadInput, match="its numbers in other files"):
            grid.read(str(tmp_path / name))
    assert (tmp_path / "huge.h5").stat().st_size < 1 << 16
    with pytest.raises(Missing, match="more than this machine's memory"):
        grid.read(str(tmp_path / "huge.h5"))


def array(header: str) -> bytes:
    """A .npy with this header, and 8 bytes of numbers."""
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(8)


HEADERS = [
    "{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1", "{'descr': '<f8', 'shape': (1, 1)}", "", "[" * 90, "\\", "{", "'" * 3,
    "{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999999999999, 1), }", "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 1), }", "{'descr': ('<f8', (1 << 40,)), 'fortran_order': False, 'shape': (1,), }",
]  # fmt: skip


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_arrays_whose_headers_are_broken_are_bad_input(tmp_path, header):
    """numpy reads a header as Python, and raises what Python's tokenizer, parser and its own arithmetic raise."""
    from cotpass import convert
    from datamix import layouts
    from sparstencil import grid, stencil

    path = tmp_path / "a.npy"
    path.write_bytes(array(header))
    for read in (
        convert.read_matrix, grid.read, stencil.read,
        lambda name: list(layouts.documents(layouts.Given("a", (Path(name),), ()), "train", layouts.Tolerance(0), 0)),
    ):  # fmt: skip
        with pytest.raises(BadInput):
            read(str(path))


def test_a_specification_of_brackets_takes_no_time_by_its_square():
    """Markdown's marks are found by patterns that look ahead: a block of 45,000 brackets would take minutes."""
    from zerorepo.generation.spec import spec_of

    lines = "\n".join(["[" * 9000] * 5)
    spec_of(f"# Tally book\n\nKeeps books of amounts.\n\n{lines}\n".encode(), "s.md")
    with pytest.raises(BadInput, match="lines of at most 10,000 characters"):
        spec_of(f"# Tally book\n\n{'*' * 20_000}\n".encode(), "s.md")
