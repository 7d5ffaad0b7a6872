"""Merge LoRA adapters, ours or mlx-lm's, into the checkpoint they were trained on."""

from __future__ import annotations

from pathlib import Path

from mlxrlhf import backends
from mlxrlhf.config import FuseConfig
from mlxrlhf.data.tokenizer import open_tokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.models import checkpoint, folders, published
from mlxrlhf.models.adapters import load_model
from mlxrlhf.models.outputs import OutputFolder


def run(config: FuseConfig) -> Path:
    """Write a whole checkpoint to --out. Raises UserError when the adapters do not fit the model."""
    if not (config.model and config.adapter and config.out):
        raise UserError("fuse needs --model (what the adapters were trained on), --adapter (their folder) and --out")
    base = published.fetch(config.model)
    room = 4 * checkpoint.read_config(base).parameters()
    with OutputFolder(Path(config.out), stage="fuse", need_bytes=room, sources=(base, Path(config.adapter))) as out:
        backend = backends.load(config.backend, config.device)
        model = load_model(backend, base, config.adapter, dtype=config.dtype)
        with out.replace() as folder:
            folders.save_checkpoint(model, folder, open_tokenizer(base))
    return out.folder
