"""OpenAI's chat completions over HTTP, by mlx-lm's server: streaming, tool calls, several requests at once.

Prompts are made as in training: text from a user never becomes a special token, which it does in the stock server.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mlxrlhf import backends
from mlxrlhf.config import ServeConfig
from mlxrlhf.data import tokenizer as names
from mlxrlhf.data.dialogue import AnyTokenizer, render_prompt, with_tools
from mlxrlhf.data.rows import ROLES
from mlxrlhf.data.tokenizer import PublishedTokenizer, open_tokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.models import checkpoint, folders


def run(config: ServeConfig) -> None:
    """Serve until Ctrl-C. Raises UserError for a model or an address that cannot be served."""
    backends.load("mlx", config.device)  # before anything imports mlx: it puts a fast BLAS under it
    from mlxrlhf.backends.mlx import serve

    name, folder, adapter = folders.find_model(config.model, size=config.size, adapter=config.adapter)
    shape = checkpoint.read_config(folder)
    checkpoint.check_safetensors(folder)
    if not checkpoint.mlx_lm_reads_rope(folder, shape):
        raise UserError(
            f"{folder}/config.json keeps its rope settings where mlx-lm does not read them; write the "
            f"model again: mlxrlhf export --to hf --model {folder} --out DIR"
        )
    if adapter and not (Path(adapter) / "adapter_config.json").is_file():
        raise UserError(
            f"{adapter} holds no adapter_config.json; give the adapters folder that mlxrlhf or mlx-lm wrote"
        )
    prompt = prompt_maker(open_tokenizer(folder))
    serve.serve(folder, name, replace(config, adapter=adapter), prompt=prompt, max_positions=shape.max_positions)


def prompt_maker(tokenizer: AnyTokenizer) -> Callable[[list[dict], list[dict] | None], list[int]] | None:
    """A function from messages and tools to prompt ids; None for a published model whose own template takes tools.

    Tools join the system turn and calls are spelled in the assistant's, the form that our tool dialogues are in.
    """
    if isinstance(tokenizer, PublishedTokenizer) and tokenizer.takes_tools:
        return None

    def make(messages: list[dict], tools: list[dict] | None) -> list[int]:
        turns = []
        for message in messages:
            role = {"developer": "system"}.get(message.get("role"), message.get("role"))  # OpenAI's newer name
            if role not in ROLES:
                raise UserError(f"a message has role {role!r}; use one of {', '.join(ROLES)}")
            calls = [call["function"] for call in message.get("tool_calls") or ()]
            content = (message.get("content") or "") + "".join(
                names.TOOL_CALL
                + json.dumps({"name": call["name"], "arguments": call["arguments"]}, ensure_ascii=False)
                + names.TOOL_CALL_END
                for call in calls
            )
            turns.append({"role": role, "content": content})
        if not turns:
            raise UserError("a request needs at least one message")
        if tools:
            turns = with_tools(turns, tools, explained=isinstance(tokenizer, PublishedTokenizer))
        return render_prompt(turns, tokenizer)

    return make
