"""What the chat prints and reads: answers as they stream, tool calls before they run, lines and blocks of the user.

What is not ours goes through `display` before it reaches the terminal.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxrlhf.display import Cleaner, cleaned, revealed


@dataclass(frozen=True)
class Hidden:
    """What is not shown of an answer: all between two marks; without a second, all behind the first.

    notice: called where it begins. trim: line breaks behind it are left out too.
    """

    begin: str
    end: str
    notice: Callable[[], object]
    trim: bool = False


class Stream:
    """Writes an answer as it comes, except what is hidden: reasoning, and tool calls, which are shown before they run.

    inside: the hidden part that the answer begins in.
    """

    def __init__(self, write: Callable[[str], None], hidden: Sequence[Hidden] = (), inside: Hidden | None = None):
        self._write, self._hidden, self._inside = write, list(hidden), inside
        self._cleaner, self._waiting, self._last, self._trim = Cleaner(), "", "\n", False
        if inside:
            inside.notice()

    def push(self, text: str) -> None:
        self._waiting += text
        while True:
            if self._inside:
                _, mark, after = self._waiting.partition(self._inside.end) if self._inside.end else ("", "", "")
                if not mark:
                    return
                self._trim, self._inside, self._waiting = self._inside.trim, None, after
            begins = [(at, h) for h in self._hidden if (at := self._waiting.find(h.begin)) >= 0]
            if not begins:
                break
            at, self._inside = min(begins, key=lambda pair: pair[0])
            self._emit(self._waiting[:at])
            self._waiting = self._waiting[at + len(self._inside.begin) :]
            self.break_line()
            self._inside.notice()
        # Half a mark waits: where it is no special token, it comes in several pieces.
        kept = max((_half(self._waiting, h.begin) for h in self._hidden), default=0)
        self._emit(self._waiting[: len(self._waiting) - kept])
        self._waiting = self._waiting[len(self._waiting) - kept :]

    def finish(self) -> None:
        """Write what still waits, unless it is hidden."""
        if not self._inside:
            self._emit(self._waiting)
        self._put(self._cleaner.finish())

    def break_line(self) -> None:
        """End the line, if something stands on it."""
        if self._last != "\n":
            self._put("\n")

    def _emit(self, text: str) -> None:
        if self._trim:
            text = text.lstrip("\n")
            self._trim = not text
        self._put(self._cleaner.push(text))

    def _put(self, text: str) -> None:
        if text:
            self._write(text)
            self._last = text[-1]


def _half(text: str, mark: str) -> int:
    """How many characters at the end of a text begin a mark."""
    return max((n for n in range(1, len(mark)) if text.endswith(mark[:n])), default=0)


def say(text: str) -> None:
    """To the model's reader: stdout."""
    print(text, end="", flush=True)


def note(text: str = "") -> None:
    """A line about the answer: stderr, so that stdout holds the answer alone."""
    print(text, file=sys.stderr, flush=True)


def interactive() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask(question: str) -> str:
    """A line of the user's. Raises EOFError and KeyboardInterrupt."""
    print(question, end="", file=sys.stderr, flush=True)
    return input()


# --- tool calls ----------------------------------------------------------------------------------------------------

_LANGUAGES = {"code": "python", "tests": "python", "command": "bash"}


def show_call(name: str, arguments: Mapping) -> None:
    """A call with its arguments, code as code, all of it: the user decides on what is seen here."""
    note(f"\n[{name}]")
    for argument, value in arguments.items():
        if isinstance(value, str) and (argument in _LANGUAGES or "\n" in value):
            note(f"  {revealed(argument)}:")
            _show_code(revealed(value), _LANGUAGES.get(argument, "text"))
        else:
            note(f"  {revealed(argument)} = {revealed(json.dumps(value, ensure_ascii=False))}")


def _show_code(code: str, language: str) -> None:
    if not sys.stderr.isatty():
        note("\n".join(f"    {line}" for line in code.split("\n")))
        return
    from rich.console import Console
    from rich.padding import Padding
    from rich.syntax import Syntax

    # Without wrapping, rich would cut long lines off.
    syntax = Syntax(code, language, theme="ansi_dark", background_color="default", word_wrap=True)
    Console(stderr=True).print(Padding(syntax, (0, 0, 0, 4)))


def show_result(text: str, name: str, seconds: float) -> None:
    """What a tool printed, and how long it took."""
    note("\n".join(f"  {line}" for line in cleaned(text).split("\n")))
    note(f"[{name}: {seconds:.1f} s]")


def side_by_side(left: tuple[str, str], right: tuple[str, str]) -> None:
    """Two (title, text) in columns as wide as the terminal allows, one under the other where it is narrow."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if console.width < 60:
        for title, text in (left, right):
            console.print(Text(f"--- {cleaned(title)}\n{cleaned(text)}"))
        return
    table = Table(expand=True)
    for title, _ in (left, right):
        table.add_column(Text(cleaned(title)), ratio=1, overflow="fold")
    table.add_row(*(Text(cleaned(text)) for _, text in (left, right)))
    console.print(table)


# --- what the user types -------------------------------------------------------------------------------------------

BLOCK = '"""'


def block_is_open(text: str) -> bool:
    '''Whether """ has begun a block of several lines that no line of """ alone, nor """ behind its only line, ends.'''
    if not text.startswith(BLOCK):
        return False
    first, *rest = text.split("\n")
    if not rest:
        return len(first) < 2 * len(BLOCK) or not first.endswith(BLOCK)
    return rest[-1].rstrip() != BLOCK


def unwrapped(text: str) -> str:
    """A block's text without its quotes; any other text as it is."""
    if not text.startswith(BLOCK):
        return text
    text = text[3:].rstrip()
    return text.removesuffix(BLOCK).strip("\n")


def reader() -> Callable[[], str]:
    """A function that reads the next message: with line editing where a person types, plainly from a pipe.

    It raises EOFError at the end of input (Ctrl-D) and, without line editing, KeyboardInterrupt.
    """
    if sys.stdin.isatty() and sys.stdout.isatty():
        return _edited()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    return _plain


def _plain() -> str:
    lines = [ask("> ") if sys.stdin.isatty() else input()]
    while block_is_open("\n".join(lines)):
        try:
            lines.append(input())
        except EOFError:
            break
    return "\n".join(lines)


def _edited() -> Callable[[], str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def _(event) -> None:
        buffer = event.current_buffer
        if block_is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("c-c")
    @keys.add("<sigint>")
    def _(event) -> None:
        event.current_buffer.reset()

    file = history_file()
    session: PromptSession[str] = PromptSession(
        "> ",
        history=FileHistory(file) if file else InMemoryHistory(),
        key_bindings=keys,
        multiline=True,
        prompt_continuation="  ",
    )
    return session.prompt


def history_file() -> Path | None:
    """The file of earlier messages, for its owner's eyes alone; None where it cannot be written."""
    path = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "mlxrlhf" / "chat_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        path.chmod(0o600)
    except OSError:
        return None
    return path
