"""An answer as it comes: what of it may be sent already, and what it turns out to be at its end.

What looks like the beginning of a tool call waits for the whole answer; the characters that a mark or a stop text may
begin with wait for the next ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlxrlhf.data import calls, dialogue
from mlxrlhf.data.dialogue import AnyTokenizer
from mlxrlhf.data.template import split_reasoning
from mlxrlhf.data.tokenizer import PublishedTokenizer

#: what blocks of reasoning begin and end with
_BEGINS, _ENDS = ("<think>", "[THINK]", "<|channel>thought"), ("</think>", "[/THINK]", "<channel|>")


class Speech:
    """One answer's text. raw: a plain completion, in which nothing is reasoning or a call."""

    def __init__(
        self, tokenizer: AnyTokenizer, tools: Sequence[dict[str, Any]], stop: Sequence[str], raw: bool = False
    ):
        self._tokenizer, self._tools, self._stop, self._raw = tokenizer, tools, stop, raw
        self._form = dialogue.call_form(tokenizer)
        self._text = ""
        self._sent = 0  # characters of the visible text
        self._told = 0  # and of the reasoning
        self.stopped = False  # a stop text was met, or the one call that may be made is complete

    def push(self, text: str, *, one_call: bool = False) -> dict[str, str]:
        """Take the next text; what can be sent of the answer now: {content} and {reasoning_content}."""
        self._text += text
        if not self._raw and self._may_be_reasoning():
            return {}
        reasoning, visible = self._split()
        reasoning = reasoning[: len(reasoning) - _overlap(reasoning, _ENDS)].rstrip()
        visible, held = self._until_stop(visible)
        begin = self._call_begins(visible)
        if begin is not None:
            visible, held = visible[:begin], 0
            if one_call and not self.stopped and self._calls(self._split()[1])[1]:
                self.stopped = True
        else:
            held = max(held, _overlap(visible, (self._opening(),)))
        return self._news(reasoning, visible[: len(visible) - held])

    def finish(self) -> tuple[dict[str, str], list[dict[str, Any]]]:
        """What was not sent yet, and the tool calls."""
        reasoning, visible = self._split()
        visible, _ = self._until_stop(visible)
        visible, calls = self._calls(visible)
        return self._news(reasoning, visible), calls

    # --- parts -----------------------------------------------------------------------------------------------------

    def _split(self) -> tuple[str, str]:
        """The reasoning and the rest."""
        if self._raw or (self._sent and not self._told):  # what was sent cannot become reasoning any more
            return "", self._text
        if isinstance(self._tokenizer, PublishedTokenizer) and self._tokenizer.has_template:
            return split_reasoning(self._text, self._tokenizer.template.opens)
        return "", self._text

    def _may_be_reasoning(self) -> bool:
        """Whether the text so far may yet become the mark that opens a block of reasoning."""
        if self._form == "harmony":  # its channels are told apart at the end
            return True
        begun = self._text.lstrip()
        return any(len(begun) < len(mark) and mark.startswith(begun) for mark in _BEGINS)

    def _opening(self) -> str:
        return calls.opening(self._form) if self._tools and not self._raw else "\0"

    def _call_begins(self, visible: str) -> int | None:
        """Where the first call begins, None where there is none."""
        opening = self._opening()
        if not opening:  # the form in which a call is the whole answer
            return 0 if visible.lstrip().startswith(("{", "<|")) else None
        begin = visible.find(opening)
        return None if begin < 0 else begin

    def _calls(self, visible: str) -> tuple[str, list[dict[str, Any]]]:
        """The text without its calls, and the calls; where one cannot be read, the text as it is, and none."""
        if self._raw or not self._tools:
            return visible, []
        rest, parsed = calls.read(visible, self._form, self._tools)
        read = [call for call in parsed if not isinstance(call, calls.Malformed)]
        return (rest, read) if len(read) == len(parsed) else (visible, [])

    def _until_stop(self, visible: str) -> tuple[str, int]:
        """The text up to the first stop, and how many of its characters a stop may begin with."""
        places = [place for stop in self._stop if (place := visible.find(stop)) >= 0]
        if places:
            self.stopped = True
            return visible[: min(places)], 0
        return visible, _overlap(visible, self._stop)

    def _news(self, reasoning: str, visible: str) -> dict[str, str]:
        news = {}
        if len(reasoning) > self._told:
            news["reasoning_content"], self._told = reasoning[self._told :], len(reasoning)
        if len(visible) > self._sent:
            news["content"], self._sent = visible[self._sent :], len(visible)
        return news


def _overlap(text: str, marks: Sequence[str]) -> int:
    """The most characters at the end of a text that one of the marks begins with, and does not end there."""
    longest = max((len(mark) for mark in marks), default=1)
    for size in range(min(len(text), longest - 1), 0, -1):
        if any(len(mark) > size and mark.startswith(text[-size:]) for mark in marks):
            return size
    return 0
