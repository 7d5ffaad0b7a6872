"""Dialogues to token ids and training masks.

    <|user|>What is 2 + 2?<|end|><|assistant|>4<|end|>

Assistant tokens are trained on, their closing <|end|> and their tool calls included; nothing else is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from mlxrlhf.data import tokenizer as names
from mlxrlhf.data.tokenizer import PublishedTokenizer, Tokenizer
from mlxrlhf.errors import UserError

_CALLS = re.compile(f"{names.TOOL_CALL}(.*?){names.TOOL_CALL_END}", re.DOTALL)


AnyTokenizer = Tokenizer | PublishedTokenizer


def render(messages: Sequence[dict], tokenizer: AnyTokenizer) -> tuple[list[int], list[int]]:
    """Ids and mask (1: trained on) of a whole dialogue, the same ids as the chat template gives."""
    if isinstance(tokenizer, PublishedTokenizer):
        return _render_template(messages, tokenizer)
    ids: list[int] = []
    mask: list[int] = []

    def add(new: list[int], counted: bool) -> None:
        ids.extend(new)
        mask.extend([int(counted)] * len(new))

    end = [tokenizer.end_id]
    for message in messages:
        role, content = message["role"], message.get("content") or ""
        if role == "tool":
            add(
                [
                    tokenizer.special(names.TOOL_RESPONSE),
                    *tokenizer.encode(content),
                    tokenizer.special(names.TOOL_RESPONSE_END),
                    *end,
                ],
                False,
            )
        elif role == "assistant":
            add([tokenizer.special(names.ASSISTANT)], False)
            add([*_assistant(content, message.get("tool_calls") or (), tokenizer), *end], True)
        else:
            add([tokenizer.special(f"<|{role}|>"), *tokenizer.encode(content), *end], False)
    return ids, mask


def render_prompt(messages: Sequence[dict], tokenizer: AnyTokenizer, tools: Sequence[dict] = ()) -> list[int]:
    """Ids up to where the assistant answers. `tools` are schemas for a published template that lists them itself."""
    if isinstance(tokenizer, PublishedTokenizer):
        return _template_ids(messages, tokenizer, generation=True, tools=tools)[0]
    return [*render(messages, tokenizer)[0], tokenizer.special(names.ASSISTANT)]


def encode_answer(answer: str, tokenizer: AnyTokenizer) -> list[int]:
    """Ids of an assistant's turn, its tool calls and its closing end token included."""
    if isinstance(tokenizer, PublishedTokenizer):
        return [*tokenizer.encode(answer), tokenizer.end_id]
    return [*_assistant(answer, (), tokenizer), tokenizer.end_id]


def decode_answer(ids: Sequence[int], tokenizer: AnyTokenizer) -> str:
    """The text of a sampled answer, without the end token where it has one."""
    return tokenizer.decode(ids[:-1] if ids[-1] == tokenizer.end_id else ids)


def _assistant(content: str, tool_calls: Sequence[dict], tokenizer: Tokenizer) -> list[int]:
    for call in tool_calls:
        call = call.get("function", call)
        arguments = call["arguments"]
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        body = json.dumps({"name": call["name"], "arguments": arguments}, ensure_ascii=False)
        content += f"{names.TOOL_CALL}{body}{names.TOOL_CALL_END}"
    ids: list[int] = []
    for i, part in enumerate(_CALLS.split(content)):
        if i % 2:
            ids += [tokenizer.special(names.TOOL_CALL), *tokenizer.encode(part), tokenizer.special(names.TOOL_CALL_END)]
        elif part:
            ids += tokenizer.encode(part)
    return ids


# --- published chat templates ---------------------------------------------------------------------------------------


def _render_template(messages: Sequence[dict], tokenizer: PublishedTokenizer) -> tuple[list[int], list[int]]:
    """Ids and mask by a model's own template: what it writes for an assistant's turn, up to the end token, counts."""
    ids: list[int] = []
    mask: list[int] = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt, before = _template_ids(messages[:i], tokenizer, generation=True)
        _, after = _template_ids(messages[: i + 1], tokenizer, generation=False)
        if prompt[: len(ids)] != ids or not after.startswith(before):
            raise UserError(
                f"the chat template of {tokenizer.folder} rewrites earlier turns, so their tokens cannot "
                "be told apart; train on dialogues with one answer each"
            )
        said = after[len(before) :]
        answer = said[: said.rindex(tokenizer.end)] if tokenizer.end in said else said
        answer_ids = [
            *(
                tokenizer.encode(answer)
                if tokenizer.spells_special(message.get("content") or "")
                else tokenizer.encode_template(answer)
            ),
            tokenizer.end_id,
        ]
        mask += [0] * (len(prompt) - len(ids)) + [1] * len(answer_ids)
        ids = [*prompt, *answer_ids]
    return ids, mask


def _template_ids(
    messages: Sequence[dict], tokenizer: PublishedTokenizer, *, generation: bool, tools: Sequence[dict] = ()
) -> tuple[list[int], str]:
    """Ids and text of a dialogue. A turn that spells a special token is encoded apart, as the plain text it is."""
    text = tokenizer.apply_template(messages, generation=generation, tools=tools)
    spelled = [m["content"] for m in messages if tokenizer.spells_special(m.get("content") or "")]
    if not spelled:
        return tokenizer.encode_template(text), text
    ids: list[int] = []
    for part in re.split("(" + "|".join(re.escape(content.strip()) for content in spelled) + ")", text):
        plain = any(part == content.strip() for content in spelled)
        ids += tokenizer.encode(part) if plain else tokenizer.encode_template(part)
    return ids, text


# --- tools and examples --------------------------------------------------------------------------------------------


def with_tools(messages: Sequence[dict], tools: Sequence[dict], *, explained: bool = False) -> list[dict]:
    """Tool schemas join the system turn, as in the chat template.

    `explained` also says how to call one, for a model that was not trained on such dialogues.
    """
    listing = json.dumps(list(tools), ensure_ascii=False)
    if explained:
        listing = (
            f"You may call these tools:\n{listing}\nTo call one, answer {names.TOOL_CALL}"
            f'{{"name": ..., "arguments": {{...}}}}{names.TOOL_CALL_END} and wait for its result.'
        )
    if messages and messages[0]["role"] == "system":
        return [{"role": "system", "content": messages[0]["content"] + "\n" + listing}, *messages[1:]]
    return [{"role": "system", "content": listing}, *messages]


def encode_examples(rows: Sequence[dict], tokenizer: AnyTokenizer) -> list[tuple[list[int], list[int]]]:
    """(ids, mask) of every row; plain text is trained on from its second token, with an end token."""
    examples = []
    for row in rows:
        if "text" in row:
            ids = [*tokenizer.encode(row["text"]), tokenizer.end_id]
            examples.append((ids, [1] * len(ids)))
        else:
            messages = with_tools(row["messages"], row["tools"]) if row.get("tools") else row["messages"]
            examples.append(render(messages, tokenizer))
    return examples
