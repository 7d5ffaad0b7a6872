"""OpenAI's chat completions over HTTP, by mlx-lm's server: streaming, tool calls, several requests at once.

Prompts are made as in training: text from a user never becomes a special token, which it does in the stock server.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mlxrlhf import backends
from mlxrlhf.config import ServeConfig
from mlxrlhf.data import dialogue
from mlxrlhf.data.dialogue import AnyTokenizer
from mlxrlhf.data.tokenizer import TOOL_PARSER, PublishedTokenizer
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
    tokenizer = folders.tokenizer_for(config, folder, adapter)
    serve.serve(
        folder,
        name,
        replace(config, adapter=adapter),
        prompt=prompt_maker(tokenizer),
        tool_parser=tool_parser(tokenizer),
        ends=tokenizer.ends,
        max_positions=shape.max_positions,
    )


def prompt_maker(tokenizer: AnyTokenizer) -> Callable[[list[dict], list[dict] | None], list[int]]:
    """A function from a request's messages and tools to the ids that this model was trained to see."""

    def make(messages: list[dict], tools: list[dict] | None) -> list[int]:
        if not messages:
            raise UserError("a request needs at least one message")
        return dialogue.prompt(messages, tokenizer, tools or ())

    return make


def tool_parser(tokenizer: AnyTokenizer) -> str:
    """The module of mlx_lm.tool_parsers that reads this model's calls, "" where mlx-lm finds it by the template.

    A template that writes no calls leaves them to us, who ask for our own form.
    """
    own = isinstance(tokenizer, PublishedTokenizer) and tokenizer.has_template and tokenizer.template.writes_calls
    return "" if own else TOOL_PARSER
