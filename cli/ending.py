"""How a command ends: what is said on stderr, and the exit code.

0   done
1   an error that nobody foresaw, or standard output could not be written (a full disk)
2   something the user can put right
130 Ctrl-C
141 the program that read standard output left (128 + SIGPIPE, as a shell says it)
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from mlxrlhf import parallel
from mlxrlhf.display import cleaned
from mlxrlhf.errors import UserError, unforeseen


class _Caught(Exception):
    """An error on its way past click, which would answer some kinds itself ("Aborted.", or nothing at all)."""


class _Unwritable(Exception):
    """Standard output or standard error cannot be written; the argument is the OSError."""


class _Output(io.TextIOWrapper):
    """A standard stream whose failures are told from those of other files."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise _Unwritable(error) from None

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise _Unwritable(error) from None


class Commands(TyperGroup):
    """The commands; what goes wrong in one reaches `ending` as it was raised."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (OSError, EOFError) as error:
            raise _Caught from error


def run(app: typer.Typer) -> int:
    """Run the command line and return the exit code."""
    _prepare_standard_streams()
    try:
        if not parallel.first():  # of several processes the first speaks
            sys.stdout = open(os.devnull, "w")
        code = _called(app)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # here a failure can still be said; while Python ends it could not
        return code
    except _Caught as caught:
        error: BaseException = caught.__cause__ or caught
    except BaseException as raised:
        error = raised
    sentence, code = _ending(error)
    with contextlib.suppress(_Unwritable, ValueError):
        if sentence:
            typer.echo(cleaned(f"mlxrlhf: {sentence}"), err=True)
    return code


def _called(app: typer.Typer) -> int:
    try:
        app()
    except SystemExit as left:
        if left.code is None or isinstance(left.code, int):
            return left.code or 0
        raise
    return 0


def _ending(error: BaseException) -> tuple[str, int]:
    """What to say of an error, and the exit code."""
    command = f"mlxrlhf {sys.argv[1]}" if len(sys.argv) > 1 else "mlxrlhf"
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, KeyboardInterrupt):
        return "", 130
    if isinstance(error, _Unwritable):
        _drop_output()
        if error.args[0].errno == errno.EPIPE:
            return f"nobody reads standard output any more, so {command} stopped", 141
        return f"standard output cannot be written ({error.args[0].strerror}), so {command} stopped", 1
    return unforeseen(error, command), 1


def _drop_output() -> None:
    """Let /dev/null take what standard output still gets: Python flushes it while it ends, and would add lines."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _prepare_standard_streams() -> None:
    """Where a standard stream was closed (`<&-`), put /dev/null: the next file opened would take its place."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, open(os.devnull, mode))
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is io.TextIOWrapper:  # not a test's replacement
            settings = {n: getattr(stream, n) for n in ("encoding", "errors", "line_buffering", "write_through")}
            setattr(sys, name, _Output(stream.detach(), **settings))
