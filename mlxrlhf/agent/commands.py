"""The commands of a conversation: lines that begin with a slash."""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mlxrlhf.agent import terminal
from mlxrlhf.agent.chat import Chat, LoadedModel
from mlxrlhf.data import files, rows
from mlxrlhf.errors import UserError
from mlxrlhf.files import atomic_text
from mlxrlhf.models import folders, published
from mlxrlhf.workspace import under_root


def run(chat: Chat, line: str) -> None:
    """Do what a line such as "/temp 0.7" says. Raises UserError for an unknown command or a wrong argument."""
    name, _, argument = line[1:].strip().partition(" ")
    if name not in COMMANDS:
        raise UserError(
            f"/{terminal.cleaned(name)} is no command; /help lists them (put a space before a message that "
            "begins with a slash)"
        )
    COMMANDS[name][0](chat, argument.strip())


def _help(chat: Chat, argument: str) -> None:
    for name, (_, usage, text) in COMMANDS.items():
        print(f"/{name + ' ' + usage:21} {text}")
    print(
        '\nA line of """ begins a block of several lines, and another ends it.\n'
        "Ctrl-C stops an answer or clears the line, Ctrl-D leaves."
    )


def _system(chat: Chat, argument: str) -> None:
    has = bool(chat.messages) and chat.messages[0]["role"] == "system"
    if not argument:
        print(terminal.cleaned(chat.messages[0].get("content") or "") if has else "there is no system message")
        return
    chat.messages[:has] = [] if argument == "-" else [{"role": "system", "content": argument}]


def _temp(chat: Chat, argument: str) -> None:
    if argument:
        try:
            value = float(argument)
        except ValueError:
            value = -1.0
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"/temp {terminal.cleaned(argument)}: give a number of at least 0, such as /temp 0.7")
        chat.temp = value
    print(f"the temperature is {chat.temp:g}")


def _tools(chat: Chat, argument: str) -> None:
    if argument in ("on", "off"):
        chat.tools_on = argument == "on"
    elif argument not in ("", "list"):
        raise UserError(f"/tools {terminal.cleaned(argument)}: give on, off or list")
    print(f"tools are {'on' if chat.tools_on else 'off'}")
    if argument in ("", "list"):
        for name, tool in chat.available.items():
            asked = "runs without asking" if chat.config.yes or name in chat.always else "asks first"
            where = ", outside the sandbox" if name in chat.own else ""
            print(f"{name:16} {' '.join(tool.description.split())} ({asked}{where})")


# --- files ---------------------------------------------------------------------------------------------------------


def _path(argument: str, command: str) -> Path:
    if not argument:
        raise UserError(f"/{command} needs a file, such as /{command} talk.json")
    return Path(argument).expanduser()


def _save(chat: Chat, argument: str) -> None:
    path, row = _path(argument, "save"), {"messages": chat.messages}
    if not chat.messages:
        raise UserError("there is nothing to save yet; say something first")
    try:
        if path.suffix == ".jsonl":
            append(path, row)
        else:
            if path.exists():
                _read(path)  # anything but a conversation is not overwritten
            atomic_text(path, json.dumps(row, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); choose another file") from None
    print(f"{'appended to' if path.suffix == '.jsonl' else 'saved'} {path}: {len(chat.messages)} messages")


def _load(chat: Chat, argument: str) -> None:
    path = _path(argument, "load")
    chat.messages, chat.compared = _read(path), None
    print(f"loaded {path}: {len(chat.messages)} messages")


def _read(path: Path) -> list[dict]:
    """The messages of a saved conversation; of several the last one's."""
    place, row = deque(files.rows(path), maxlen=1)[0]
    if "messages" not in row:
        raise UserError(f'{place} has no "messages"; give a file that /save wrote')
    return rows.messages_of(row["messages"], f"{place}: messages")


def append(path: Path, row: dict) -> None:
    """Add one line to a JSONL file, on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
    with open(path, "ab+") as file:
        if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
            line = b"\n" + line  # the last line was written by an editor, or half
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


# --- the turns so far ----------------------------------------------------------------------------------------------


def _last_user(chat: Chat) -> int:
    """Index of the last message of the user's."""
    for index in range(len(chat.messages) - 1, -1, -1):
        if chat.messages[index]["role"] == "user":
            return index
    raise UserError("nothing has been asked yet; say something first")


def _retry(chat: Chat, argument: str) -> None:
    del chat.messages[_last_user(chat) + 1 :]
    chat.compared = None
    chat.respond()


def _undo(chat: Chat, argument: str) -> None:
    del chat.messages[_last_user(chat) :]
    chat.compared = None
    print("took back the last message and its answer")


def _clear(chat: Chat, argument: str) -> None:
    chat.messages = [m for m in chat.messages[:1] if m["role"] == "system"]
    chat.compared = None
    print("the conversation starts anew" + ("; the system message stays" if chat.messages else ""))


# --- preferences ---------------------------------------------------------------------------------------------------


def _compare(chat: Chat, argument: str) -> None:
    """Two models' answers to the same turns; tools are not run, and the conversation stays as it is."""
    name, _, prompt = argument.partition(" ")
    if not name:
        raise UserError("/compare needs a checkpoint folder or a model's name, such as /compare weights/nano/tools")
    if prompt.strip():
        messages = [*chat.messages, {"role": "user", "content": prompt.strip()}]
    else:
        messages = chat.messages[: _last_user(chat) + 1]
    folder = published.fetch(os.path.expanduser(name))
    if chat.other is None or chat.other.name != name:
        chat.other = None  # its memory is free before the next is loaded
        # What --template-args and --chat-template say is about the first model.
        config = replace(chat.config, template_args="", chat_template="")
        chat.other = LoadedModel.load(folders.Found(name, folder, ""), chat.backend, config)
    first = chat.answers
    sides = []
    for loaded in (chat.loaded, chat.other):
        chat.answers = first  # the same random numbers for both
        sides.append((loaded.name, chat.answer(loaded, messages, show=False).text))
    _show(chat, messages, *sides)


def _show(
    chat: Chat, messages: list[dict], left: tuple[str, str], right: tuple[str, str]
) -> tuple[list[dict], tuple[str, str], tuple[str, str]]:
    """Print two answers side by side and remember them for /rate."""
    terminal.side_by_side((f"left: {left[0]}", left[1]), (f"right: {right[0]}", right[1]))
    chat.compared = (messages, left, right)
    return chat.compared


def _rate(chat: Chat, argument: str) -> None:
    """Ask which of two answers is better and store it as a preference pair."""
    if chat.compared is None:
        if not chat.messages or chat.messages[-1]["role"] != "assistant":
            raise UserError("there is no answer to rate yet; ask something first")
        messages = chat.messages[:-1]
        second = chat.answer(chat.loaded, messages, show=False).text
        last = chat.messages[-1].get("content") or ""
        compared = _show(chat, messages, (chat.loaded.name, last), (chat.loaded.name, second))
    else:
        compared = chat.compared
    messages, left, right = compared
    if left[1] == right[1]:
        chat.compared = None
        raise UserError("the two answers are the same, so there is nothing to prefer; raise /temp and try again")
    if not (left[1].strip() and right[1].strip()):
        chat.compared = None
        raise UserError("one of the answers is empty, so there is no pair to store; try again")
    while (reply := terminal.ask("which is better? [l]eft, [r]ight, [t]ie: ").strip().lower()) not in _SIDES:
        pass
    if _SIDES[reply] == "tie":
        chat.compared = None
        print("a tie prefers neither, so nothing was stored")
        return
    reason = terminal.ask("why? (Enter leaves it out) ").strip()
    (winner, chosen), (loser, rejected) = (left, right) if _SIDES[reply] == "left" else (right, left)
    alone = len(messages) == 1 and messages[0]["role"] == "user"
    path = under_root(chat.config.ratings)
    try:
        append(
            path,
            {
                "prompt": messages[0]["content"] if alone else messages,
                "chosen": chosen,
                "rejected": rejected,
                "criterion": "preference",
                "rationale": reason,
                "chosen_model": winner,
                "rejected_model": loser,
            },
        )
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); choose another with --ratings") from None
    chat.compared = None
    print(f"stored in {path}; train on it with: mlxrlhf reward --data {path}")


_SIDES = {"l": "left", "left": "left", "r": "right", "right": "right", "t": "tie", "tie": "tie"}

#: name -> (what it does, its argument, a line of help)
COMMANDS: dict[str, tuple[Callable[[Chat, str], None], str, str]] = {
    "help": (_help, "", "list the commands"),
    "system": (_system, "TEXT", "set the system message; alone, show it; - removes it"),
    "temp": (_temp, "X", "set the sampling temperature; 0 is greedy"),
    "tools": (_tools, "[on|off|list]", "let the model call tools or not, or list them"),
    "save": (_save, "FILE", "write the conversation; a .jsonl grows by it"),
    "load": (_load, "FILE", "go on with a saved conversation (of a .jsonl, the last)"),
    "retry": (_retry, "", "answer the last message again"),
    "undo": (_undo, "", "take back the last message and its answer"),
    "clear": (_clear, "", "forget all but the system message"),
    "compare": (_compare, "DIR [PROMPT]", "two models' answers side by side, without tools run"),
    "rate": (_rate, "", "prefer one: of /compare, or of the last and a new answer"),
}
