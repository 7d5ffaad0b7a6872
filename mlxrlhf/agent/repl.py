"""`mlxrlhf chat`: one answer, or a conversation in the terminal."""

from __future__ import annotations

from pathlib import Path

from mlxrlhf import backends
from mlxrlhf.agent import commands, own_tools, terminal
from mlxrlhf.agent.chat import Chat, LoadedModel
from mlxrlhf.config import ChatConfig
from mlxrlhf.errors import UserError
from mlxrlhf.models import folders


def run(config: ChatConfig) -> None:
    """Answer --prompt, or talk until end of input (Ctrl-D)."""
    own = own_tools.load(Path(config.tools)) if config.tools not in ("", "off") else {}
    wanted = folders.find_model(config.model, size=config.size, adapter=config.adapter)
    backend = backends.load(config.backend, config.device)
    chat = Chat(LoadedModel.load(wanted, backend, config), backend, config, own)
    if config.prompt:
        chat.send(config.prompt)
        return
    print(
        f"{chat.loaded.name}: {chat.loaded.model.config.parameters() / 1e6:.1f}M parameters. Ctrl-C stops an answer, "
        "Ctrl-D leaves, /help lists the commands."
    )
    read = terminal.reader()
    while True:
        try:
            text = read()
            if text.startswith("/"):
                commands.run(chat, text)
            elif terminal.unwrapped(text).strip():
                chat.send(terminal.unwrapped(text))
        except KeyboardInterrupt:
            print()
        except EOFError:
            return
        except UserError as error:
            terminal.note(terminal.cleaned(f"mlxrlhf: {error}"))
