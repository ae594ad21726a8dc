"""The click group every tool is: each error becomes one line on stderr and one of the exit codes."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import click

from tenfold_shared import TenfoldError
from tenfold_shared.cli.terminal import harmless
from tenfold_shared.redaction import printable

EXIT_PIPE = 141  # what the shell shows for a filter that died of SIGPIPE; nothing is printed


class Terminated(BaseException):
    """SIGTERM, as an exception, so that files and journals are closed on the way out."""


class _Interrupted(BaseException):
    """Ctrl-C, under a name click does not print an empty line for."""


class _PipeClosed(BaseException):
    """The reader of our stdout went away, under a name click does not turn into exit 1."""


def _leave_torchrun(code: int) -> None:
    """End a rank of torchrun here. Threads of gloo that a sharded model's group still owns let go of tensors while the
    interpreter is taken down, and abort the process (pytorch/pytorch#179291) after all its work is done."""
    if "torch.distributed" not in sys.modules or "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # closed; what could be said was said
    os._exit(code)


def _on_sigterm(signum: int, frame: object) -> None:
    raise Terminated


def _on_sigint(signum: int, frame: object) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # a second Ctrl-C, while the first is cleaned up after, ends it at once
    raise KeyboardInterrupt


class Tool(click.Group):
    """A click group that maps every error to one stderr line and the exit codes of the README.

    A verb returns its exit status (None is 0). Exit codes: 0 done, 1 done but some records failed
    or time ran out, 2 usage or bad input, 3 something needed is missing, 75 output held by another
    run, 130/143 interrupted, 141 the reader of our stdout went away.
    """

    def main(
        self,
        args: Any = None,
        prog_name: Any = None,
        complete_var: Any = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        with harmless():
            code = self._guarded(args, prog_name or self.name, complete_var, **extra)
        if standalone_mode:
            _leave_torchrun(code)
            sys.exit(code)
        return code

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _Interrupted from None
        except BrokenPipeError:
            raise _PipeClosed from None

    def _guarded(self, args: Any, prog_name: Any, complete_var: Any, **extra: Any) -> int:
        try:
            signal.signal(signal.SIGTERM, _on_sigterm)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, _on_sigint)
        except ValueError:
            pass  # not the main thread (a tool called from a program): the program keeps its handlers
        if sys.stderr is None:  # closed: print would take stdout in its place
            sys.stderr = open(os.devnull, "w", encoding="utf-8")
        if sys.stdout is None:
            self._say("stdout is closed; send it to a file, or to /dev/null")
            return 2
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
        except click.exceptions.NoArgsIsHelpError as error:  # the command alone: its help, as it stands
            click.echo(error.format_message(), err=True)
            return 2
        except click.ClickException as error:
            self._say(error.format_message() + _usage_hint(error))
            return 2
        except TenfoldError as error:
            self._say(str(error))
            return error.code
        except (BrokenPipeError, _PipeClosed):
            # Python would flush stdout again at exit and complain; give it somewhere to flush to.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return EXIT_PIPE
        except OSError as error:
            # A full disk, an unwritable place: nothing a traceback would explain better.
            if error.errno in (errno.ENOSPC, errno.EIO):
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the flush at exit must not fail again
            self._say(f"{error.filename or 'output'}: {error.strerror or error}")
            return 3 if error.errno in (errno.ENOSPC, errno.EIO, errno.ENOMEM) else 2
        except (KeyboardInterrupt, _Interrupted, click.Abort):
            self._say("interrupted; what is saved beside -o FILE is kept: the same command continues from it")
            return 130
        except Terminated:
            self._say("terminated; what is saved beside -o FILE is kept: the same command continues from it")
            return 143
        except MemoryError:
            sizes = [name for name in ("--batch-size", "--concurrency", "--shard") if name in self._option_names()]
            self._say("out of memory" + (f"; use a smaller {' or '.join(sizes)}" if sizes else "; less of it fits"))
            return 3

    def _option_names(self) -> set[str]:
        return {name for verb in self.commands.values() for param in verb.params for name in param.opts}

    def _say(self, text: str) -> None:
        line = printable(f"{self.name}: {' '.join(text.split())}")
        if len(line) > 1000:
            line = line[:997] + "..."
        print(line, file=sys.stderr)


def _usage_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f" (see `{context.command_path} --help`)" if isinstance(error, click.UsageError) and context else ""


def tool(name: str, package: str, help: str) -> Callable[[Any], Tool]:
    """Decorator: an empty function becomes the tool's click group, with --version."""

    def decorate(function: Any) -> Tool:
        group = click.group(
            name,
            cls=Tool,
            help=help,
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        )(function)
        return click.version_option(None, "--version", package_name=package, prog_name=name)(group)

    return decorate
