"""Turns: the one place that decides what a model is shown and what it says, for any tokenizer, ours or published.

    prompt(messages, tokenizer, tools)         ids up to where the assistant answers
    answer(messages, reply, tokenizer, tools)  ids of that reply, its end included
    examples(messages, tokenizer, tools)       (ids, mask) to train on: every answer behind the prompt it had
    text(ids, tokenizer)                       what a person reads of sampled ids; said(ids, tokenizer) as a message
    tokenizer.ends                             every id that ends a turn

The law, and a test over templates of many makers: what a stage trains on is, id for id, what chat and serve would show
the model and what the model would say.

Ours, in which assistant tokens are trained on, their closing <|end|> and their tool calls included:

    <|user|>What is 2 + 2?<|end|><|assistant|>4<|end|>

A published model's are its own chat template's: data/template.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mlxrlhf.data import calls
from mlxrlhf.data import tokenizer as names
from mlxrlhf.data.rows import messages_of
from mlxrlhf.data.template import Message, Thought, with_tools
from mlxrlhf.data.tokenizer import PublishedTokenizer, Tokenizer
from mlxrlhf.errors import UserError

_CALLS = re.compile(f"{names.TOOL_CALL}(.*?){names.TOOL_CALL_END}", re.DOTALL)


AnyTokenizer = Tokenizer | PublishedTokenizer


def prompt(messages: Sequence[Message], tokenizer: AnyTokenizer, tools: Sequence[dict] = ()) -> list[int]:
    """Ids that a model sees before it answers. tools: JSON schemas, where some are on offer.

    Raises UserError when the model's chat template refuses the dialogue or would lose a part of it.
    """
    if isinstance(tokenizer, PublishedTokenizer):
        return tokenizer.template.prompt(messages, tools)
    return [*_written(_turns(messages, tools), tokenizer)[0], tokenizer.special(names.ASSISTANT)]


def answer(
    messages: Sequence[Message], reply: str | Message, tokenizer: AnyTokenizer, tools: Sequence[dict] = ()
) -> list[int]:
    """Ids of the assistant's reply behind `prompt` of the same messages, tool calls and its end included.

    Raises UserError as `prompt` does.
    """
    said = {"role": "assistant", "content": reply} if isinstance(reply, str) else reply
    if isinstance(tokenizer, PublishedTokenizer):
        return tokenizer.template.answer(messages, said, tools)
    return _assistant(_turns([said])[0], tokenizer)


def examples(
    messages: Sequence[Message], tokenizer: AnyTokenizer, tools: Sequence[dict] = ()
) -> list[tuple[list[int], list[int]]]:
    """(ids, mask) to train on; mask is 1 for what the assistant said.

    One example for all turns, as long as each prompt goes on from the turns before it. Where a template rewrites
    earlier turns (thinking models leave their reasoning out), a turn begins an example of its own behind its prompt.
    """
    if not isinstance(tokenizer, PublishedTokenizer):
        return [_written(_turns(messages, tools), tokenizer)]
    pairs: list[tuple[list[int], list[int]]] = []
    for at, reply in enumerate(messages):
        if reply["role"] != "assistant":
            continue
        shown = prompt(messages[:at], tokenizer, tools)
        new = answer(messages[:at], reply, tokenizer, tools)
        ids, mask = pairs[-1] if pairs else ([], [])
        if pairs and shown[: len(ids)] == ids:
            pairs.pop()
        else:
            mask = []
        pairs.append(([*shown, *new], [*mask, *[0] * (len(shown) - len(mask)), *[1] * len(new)]))
    return pairs


def text(ids: Sequence[int], tokenizer: AnyTokenizer, *, reasoning: bool = False) -> str:
    """What a person reads of a sampled answer: without its end and, unless asked for, without its reasoning."""
    whole = tokenizer.decode(ids[:-1] if len(ids) and ids[-1] in tokenizer.ends else ids)
    return whole if reasoning else visible(whole, tokenizer)


def visible(said: str, tokenizer: AnyTokenizer) -> str:
    """An answer's text without its reasoning."""
    if isinstance(tokenizer, PublishedTokenizer) and tokenizer.has_template:
        return tokenizer.template.parted(said)[1]
    return said


def lead(tokenizer: AnyTokenizer) -> str:
    """White space that a model's answers begin with, no part of what they say."""
    if isinstance(tokenizer, PublishedTokenizer) and tokenizer.has_template:
        return tokenizer.template.lead
    return ""


def thought(tokenizer: AnyTokenizer) -> Thought | None:
    """What stands around a model's reasoning; None for one that writes none, ours among them."""
    if isinstance(tokenizer, PublishedTokenizer) and tokenizer.has_template:
        return tokenizer.template.thought
    return None


def said(ids: Sequence[int], tokenizer: AnyTokenizer, tools: Sequence[dict] = ()) -> Message:
    """A sampled answer as the assistant's message: content, and reasoning and tool calls where its model has a form
    for them. In ours, calls stay in the content."""
    return message(text(ids, tokenizer, reasoning=True), tokenizer, tools)


def message(said: str, tokenizer: AnyTokenizer, tools: Sequence[dict] = ()) -> Message:
    """The same from an answer's text."""
    if isinstance(tokenizer, PublishedTokenizer) and tokenizer.has_template:
        return tokenizer.template.message(said, tools)
    return {"role": "assistant", "content": said}


def call_form(tokenizer: AnyTokenizer) -> str:
    """In which of `calls`' forms the model writes its tool calls."""
    if isinstance(tokenizer, PublishedTokenizer) and tokenizer.has_template:
        return tokenizer.template.form
    return "json"


# --- our own form --------------------------------------------------------------------------------------------------


def _turns(messages: Sequence[Message], tools: Sequence[dict] = ()) -> list[Message]:
    turns = messages_of(list(messages), "the dialogue")
    return with_tools(turns, tools) if tools else turns


def _written(messages: Sequence[Message], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Ids and mask (1: trained on) of a whole dialogue, the same ids as our chat template gives."""
    ids: list[int] = []
    mask: list[int] = []

    def add(new: list[int], counted: bool) -> None:
        ids.extend(new)
        mask.extend([int(counted)] * len(new))

    for message in messages:
        role, content = message["role"], tokenizer.encode(message["content"])
        if role == "tool":
            begin, end = tokenizer.special(names.TOOL_RESPONSE), tokenizer.special(names.TOOL_RESPONSE_END)
            add([begin, *content, end, tokenizer.end_id], False)
        elif role == "assistant":
            add([tokenizer.special(names.ASSISTANT)], False)
            add(_assistant(message, tokenizer), True)
        else:
            add([tokenizer.special(f"<|{role}|>"), *content, tokenizer.end_id], False)
    return ids, mask


def _assistant(message: Message, tokenizer: Tokenizer) -> list[int]:
    """What the assistant says in a turn, its end included; calls spelled in the content count as such."""
    ids: list[int] = []
    for i, part in enumerate(_CALLS.split(calls.spelled(message["content"], message.get("tool_calls", ())))):
        if i % 2:
            ids += [tokenizer.special(names.TOOL_CALL), *tokenizer.encode(part), tokenizer.special(names.TOOL_CALL_END)]
        elif part:
            ids += tokenizer.encode(part)
    return [*ids, tokenizer.end_id]


# --- rows of files -------------------------------------------------------------------------------------------------


def encode_examples(rows: Sequence[Mapping[str, Any]], tokenizer: AnyTokenizer) -> list[tuple[list[int], list[int]]]:
    """(ids, mask) of every row's examples; plain text is trained on from its second token, with an end token.

    Raises UserError for a row that the model's template refuses or would lose a part of, by its place.
    """
    encoded: list[tuple[list[int], list[int]]] = []
    for row in rows:
        if "text" in row:
            ids = [*tokenizer.start_ids, *tokenizer.encode(row["text"]), tokenizer.end_id]
            encoded.append((ids, [1] * len(ids)))
            continue
        try:
            encoded += examples(row["messages"], tokenizer, row.get("tools") or ())
        except UserError as error:
            raise UserError(f"{row['place']}: {error}" if row.get("place") else str(error)) from None
    return encoded
