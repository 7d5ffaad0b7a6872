"""Text that is not ours, made safe to show on a terminal.

Text of a model, of a tool, of a request or of a file is not trusted: no escape sequence or control character of it
reaches the terminal, where one can hide text, change the title or fill the clipboard.
"""

from __future__ import annotations

import re

#: ECMA-48: control sequences, strings (title, clipboard, ...) with their text, and the shorter escapes
_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"
    r"|\x1b[ -/]*[0-OQ-WYZ\\`-~]"
)
_UNFINISHED = re.compile(r"(?:\x1b(?:[ -/]*|\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?)|\x9b[0-?]*[ -/]*)\Z")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
#: what shows text in another order than it stands in (bidirectional embeddings, overrides, isolates), and lone
#: surrogates, which no terminal can be sent
_SPELLED = re.compile("[\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LONGEST_SEQUENCE = 256  # an unfinished one must not swallow an answer


class Cleaner:
    """Strips terminal escape sequences from text that comes in pieces; an unfinished one waits for its rest."""

    def __init__(self) -> None:
        self._held = ""

    def push(self, text: str) -> str:
        text = _SEQUENCE.sub("", self._held + text)
        tail = _UNFINISHED.search(text)
        self._held = tail[0] if tail and len(tail[0]) < _LONGEST_SEQUENCE else ""
        return _harmless(text[: len(text) - len(self._held)])

    def finish(self) -> str:
        text, self._held = self._held, ""
        return _harmless(text)


def cleaned(text: str) -> str:
    """Text without terminal escape sequences and control characters other than tab and line feed.

    Characters that turn the order of what follows are spelled out (\\u202e).
    """
    cleaner = Cleaner()
    return cleaner.push(text) + cleaner.finish()


def revealed(text: str) -> str:
    """Text with every character that does not show spelled out (\\x1b, \\u202e): nothing hides in what is approved."""
    return "".join(c if c.isprintable() or c in "\n\t" else _spelled(c) for c in text)


def unturned(text: str) -> str:
    """Text in which characters that turn the order of what follows are spelled out, for pages."""
    return _SPELLED.sub(lambda found: _spelled(found[0]), text)


def _harmless(text: str) -> str:
    return unturned(_CONTROL.sub("", text))


def _spelled(character: str) -> str:
    return character.encode("unicode_escape").decode()
