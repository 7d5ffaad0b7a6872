"""What the rows of people's files mean: conversations to learn from and prompts to answer, in the forms in use.

    to learn from   {messages[, tools]}                      a conversation; {conversations: [{from, value}]} (ShareGPT)
                    {prompt, completion}                     text, or lists of messages
                    {instruction[, input], output}           Alpaca
                    {text}                                   plain text
    prompts         {prompt} as text or messages, {messages[, tools]}, {conversations}, {instruction[, input]}

One rule holds for every reader. A malformed row stops with its file and line. A row that is sound but of no use (an
empty answer, two equal ones) is left out, and Report says how many there were and where the first is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxrlhf.data import files
from mlxrlhf.data.files import Row
from mlxrlhf.errors import UserError
from mlxrlhf.settings import keys_of, parse_json, shown

Messages = list[dict[str, Any]]

ROLES = ("system", "user", "assistant", "tool")
#: other names of a role, in OpenAI's and older forms
_ALIASES = {"developer": "system", "function": "tool"}
#: what ShareGPT's files call them
_FROM = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}
_FORMS = "prompt and completion, messages, conversations (ShareGPT), instruction and output (Alpaca), or text"


@dataclass
class Report:
    """What was read: rows by form, and rows left out by reason with the first place of each."""

    forms: Counter = field(default_factory=Counter)
    left_out: Counter = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def leave_out(self, reason: str, place: str) -> None:
        self.left_out[reason] += 1
        self.first.setdefault(reason, place)

    def __str__(self) -> str:
        text = ", ".join(f"{count:,} {form}" for form, count in self.forms.items())
        reasons = [f"{count:,} {reason} (the first: {self.first[reason]})" for reason, count in self.left_out.items()]
        return text + (f"; left out: {'; '.join(reasons)}" if reasons else "")


# --- conversations ---------------------------------------------------------------------------------------------------


def messages_of(value: Any, place: str) -> Messages:
    """The turns of a list of messages: known roles, content as text, tool calls as objects.

    Content may be a list of text parts, and null beside tool calls. What a Parquet file writes as null is left away.
    Raises UserError for what is no dialogue.
    """
    if not isinstance(value, list) or not value:
        raise UserError(f"{place} must be a list of turns, each with role and content")
    return [_message(message, f"message {i}", place) for i, message in enumerate(value, start=1)]


def _message(message: Any, name: str, place: str) -> dict[str, Any]:
    role = message.get("role") if isinstance(message, dict) else None
    role = _ALIASES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise UserError(f"{place}: {name} has role {shown(role)}; use one of {', '.join(ROLES)}")
    calls = message.get("tool_calls")
    turn = {key: value for key, value in message.items() if value is not None}
    turn |= {"role": role, "content": _content(message.get("content"), bool(calls), f"{place}: the content of {name}")}
    if calls:
        if role != "assistant" or not isinstance(calls, list):
            raise UserError(f"{place}: tool_calls of {name} must be a list, in a turn of the assistant")
        turn["tool_calls"] = [_call(call, f"{place}: tool call {i} of {name}") for i, call in enumerate(calls, 1)]
    else:
        turn.pop("tool_calls", None)
    return turn


def _content(value: Any, calls: bool, name: str) -> str:
    if value is None and calls:
        return ""
    if isinstance(value, list) and all(
        isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(part.get("text"), str)
        for part in value
    ):
        return "".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise UserError(f"{name} must be text")
    return value


def _call(call: Any, name: str) -> dict[str, Any]:
    """{"type": "function", "function": {"name", "arguments"}} of OpenAI's form or of {name, arguments} alone."""
    inner = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str) or not inner["name"]:
        raise UserError(f'{name} must be {{"function": {{"name": ..., "arguments": {{...}}}}}}')
    arguments = inner.get("arguments")
    if isinstance(arguments, str):
        arguments = parse_json(arguments, f"{name}: arguments") if arguments.strip() else {}
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise UserError(f"{name}: arguments must be an object, or the JSON text of one")
    kept = {key: call[key] for key in ("id",) if call.get(key) is not None}
    return {**kept, "type": "function", "function": {"name": inner["name"], "arguments": arguments}}


def _sharegpt(value: Any, place: str) -> Messages:
    """The turns of ShareGPT's [{from, value}]."""
    if not isinstance(value, list) or not value:
        raise UserError(f"{place}: conversations must be a list of turns, each with from and value")
    messages = []
    for i, turn in enumerate(value, start=1):
        if isinstance(turn, dict) and "role" in turn:
            messages.append({"role": turn["role"], "content": turn.get("content")})
            continue
        said_by = turn.get("from") if isinstance(turn, dict) else None
        if not isinstance(said_by, str) or said_by not in _FROM:
            raise UserError(f"{place}: turn {i} is from {shown(said_by)}; use one of {', '.join(_FROM)}")
        messages.append({"role": _FROM[said_by], "content": turn.get("value")})
    return messages_of(messages, f"{place}: conversations")


def _instruction(row: dict[str, Any], place: str) -> str:
    """The request of Alpaca's {instruction, input}."""
    parts = [row["instruction"], row.get("input") or ""]
    if not all(isinstance(part, str) for part in parts) or not parts[0].strip():
        raise UserError(f"{place}: instruction must be text that is not empty, and input text")
    return "\n\n".join(part for part in parts if part.strip())


def tools_of(row: dict[str, Any], place: str) -> list[dict[str, Any]]:
    """The tool schemas of a row, which may also be the JSON text of a list. Raises UserError for anything else."""
    tools = row.get("tools") or []
    if isinstance(tools, str):
        tools = parse_json(tools, f"{place}: tools")
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise UserError(f"{place}: tools must be a list of schemas, each an object")
    return tools


# --- rows to learn from ----------------------------------------------------------------------------------------------


def dialogue(row: dict[str, Any], place: str, report: Report) -> dict[str, Any] | None:
    """{"messages": [...][, "tools"]} or {"text": ...} of a row of any form; None where there is nothing to learn."""
    form, content = _dialogue(row, place)
    report.forms[form] += 1
    answers = [m for m in content.get("messages", []) if m["role"] == "assistant"]
    if (
        any(not m["content"].strip() and not m.get("tool_calls") for m in answers)
        or not content.get("text", "x").strip()
    ):
        report.leave_out("with an empty answer" if answers else "with empty text", place)
        return None
    return content


def _dialogue(row: dict[str, Any], place: str) -> tuple[str, dict[str, Any]]:
    if row.get("messages") is not None:
        form, messages = "conversations", messages_of(row["messages"], f"{place}: messages")
    elif row.get("conversations") is not None:
        form, messages = "ShareGPT rows", _sharegpt(row["conversations"], place)
    elif row.get("prompt") is not None and row.get("completion") is not None:
        form, messages = "rows of prompt and completion", _completed(row["prompt"], row["completion"], place)
    elif row.get("instruction") is not None and row.get("output") is not None:
        form, messages = "Alpaca rows", _completed(_instruction(row, place), row["output"], place)
    elif isinstance(row.get("text"), str):
        return "texts", {"text": row["text"]}
    else:
        raise UserError(f"{place} has the keys {keys_of(row)}; give {_FORMS}")
    if not any(m["role"] == "assistant" for m in messages):
        raise UserError(f"{place} has no assistant turn, so there is nothing to learn from; add one")
    tools = tools_of(row, place)
    return form, {"messages": messages, "tools": tools} if tools else {"messages": messages}


def _completed(prompt: Any, completion: Any, place: str) -> Messages:
    """A prompt and its answer, each as text or as messages."""
    return [*_turns(prompt, "user", f"{place}: prompt"), *_turns(completion, "assistant", f"{place}: completion")]


def _turns(value: Any, role: str, place: str) -> Messages:
    if isinstance(value, list):
        return messages_of(value, place)
    if not isinstance(value, str):
        raise UserError(f"{place} must be text or a list of messages")
    if role == "user" and not value.strip():
        raise UserError(f"{place} must not be empty")
    return [{"role": role, "content": value}]


def dialogues(source: str | Path, report: Report, prompt_field: str = "", answer_field: str = "") -> Iterator[Row]:
    """(place, {"messages": [...][, "tools"]} or {"text": ...}) of every row of a source that can be learnt from.

    A row of messages holds its place too: whether a model's template can write it shows only later. prompt_field and
    answer_field name two columns that are a prompt and its completion.
    """
    if bool(prompt_field) != bool(answer_field):
        raise UserError("--prompt-field and --answer-field go together; give both")
    for place, row in files.rows(source):
        if prompt_field:
            prompt = _column(row, prompt_field, place, "--prompt-field")
            row = {"prompt": prompt, "completion": _column(row, answer_field, place, "--answer-field")}
        read = dialogue(row, place, report)
        if read is not None:
            yield place, {**read, "place": place} if "messages" in read else read


def load_dialogues(source: str | Path) -> list[dict[str, Any]]:
    """The rows of `dialogues`, in memory."""
    return [row for _, row in dialogues(source, Report())]


# --- prompts ---------------------------------------------------------------------------------------------------------


def prompt_row(
    row: dict[str, Any], place: str, *, system: str = "", prompt_field: str = "", answer_field: str = ""
) -> dict[str, Any]:
    """The row with its "prompt" as text or as the messages of a conversation up to where the assistant answers.

    Whatever else it holds stays, for rewards. prompt_field and answer_field name the columns that are called "prompt"
    and "answer" from here on; system is the system turn of rows that have none of their own. The last answer of a whole
    conversation is what the model is to write itself: it becomes "answer" where the row has no such column.
    """
    messages, answer = _asked(row, place, prompt_field)
    fields = {**row, **({"answer": answer} if answer and row.get("answer") is None else {})}
    if answer_field:
        fields["answer"] = _column(row, answer_field, place, "--answer-field")
    if system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    if tools := tools_of(row, place):
        fields["tools"] = tools
    return {**fields, "prompt": simplest(messages)}


def _column(row: dict[str, Any], name: str, place: str, flag: str) -> Any:
    if row.get(name) is None:
        raise UserError(f"{place} has no column {name!r}, which {flag} names; it has {keys_of(row)}")
    return row[name]


def _asked(row: dict[str, Any], place: str, prompt_field: str) -> tuple[Messages, str]:
    """The turns of a row's prompt, and the answer that the row itself gives."""
    if prompt_field or row.get("prompt") is not None:
        value = _column(row, prompt_field, place, "--prompt-field") if prompt_field else row["prompt"]
        messages = _turns(value, "user", f"{place}: prompt")
        if messages[-1]["role"] == "assistant":
            raise UserError(f"{place}: prompt ends with the assistant's turn; it must end where the assistant answers")
        return messages, ""
    if row.get("instruction") is not None:
        output = row.get("output")
        return [{"role": "user", "content": _instruction(row, place)}], output if isinstance(output, str) else ""
    if row.get("messages") is not None:
        messages = messages_of(row["messages"], f"{place}: messages")
    elif row.get("conversations") is not None:
        messages = _sharegpt(row["conversations"], place)
    else:
        raise UserError(
            f'{place} has no "prompt", "messages", "conversations" or "instruction", only {keys_of(row)}; name the '
            "column with --prompt-field"
        )
    answer = messages.pop()["content"] if messages[-1]["role"] == "assistant" else ""
    if not messages:
        raise UserError(f"{place}: the conversation holds nothing but the assistant's turn; there is nothing to answer")
    return messages, answer


def simplest(messages: Messages) -> str | Messages:
    """One user's turn as its text; anything longer stays messages."""
    return messages[0]["content"] if len(messages) == 1 and messages[0]["role"] == "user" else messages


def conversation(prompt: str | Messages) -> Messages:
    """A prompt as messages, whichever it is."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
