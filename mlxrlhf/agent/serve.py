"""OpenAI's chat completions over HTTP, by mlx-lm's server: streaming, tool calls, several requests at once."""

from __future__ import annotations

from pathlib import Path

from mlxrlhf import backends, checkpoint
from mlxrlhf.agent.chat import find_model
from mlxrlhf.config import ServeConfig
from mlxrlhf.data.tokenizer import open_tokenizer
from mlxrlhf.errors import UserError


def run(config: ServeConfig) -> None:
    """Serve until Ctrl-C. Raises UserError for a model or an address that cannot be served."""
    backends.load("mlx", config.device)  # before anything imports mlx: it puts a fast BLAS under it
    from mlxrlhf.backends.mlx import serve

    folder = find_model(config)
    shape = checkpoint.read_config(folder)
    checkpoint.check_safetensors(folder)
    open_tokenizer(folder)
    if not checkpoint.mlx_lm_reads_rope(folder, shape):
        raise UserError(f"{folder}/config.json keeps its rope settings where mlx-lm does not read them; write the "
                        f"model again: mlxrlhf export --to hf --model {folder} --out DIR")
    if config.adapter and not (Path(config.adapter) / "adapter_config.json").is_file():
        raise UserError(f"{config.adapter} holds no adapter_config.json; give the adapters folder that mlxrlhf or "
                        "mlx-lm wrote")
    serve.serve(folder, config.model or str(folder), config)
