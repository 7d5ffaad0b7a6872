"""Merge LoRA adapters, ours or mlx-lm's, into the checkpoint they were trained on."""

from __future__ import annotations

from pathlib import Path

from mlxrlhf import backends
from mlxrlhf.config import FuseConfig
from mlxrlhf.data.tokenizer import open_tokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.files import atomic_folder
from mlxrlhf.models import folders, published
from mlxrlhf.models.adapters import load_model


def run(config: FuseConfig) -> Path:
    """Write a whole checkpoint to --out. Raises UserError when the adapters do not fit the model."""
    if not (config.model and config.adapter and config.out):
        raise UserError("fuse needs --model (what the adapters were trained on), --adapter (their folder) and --out")
    base = published.fetch(config.model)
    tokenizer = open_tokenizer(base)
    model = load_model(backends.load(config.backend, config.device), base, config.adapter, dtype=config.dtype)
    out = Path(config.out)
    with atomic_folder(out) as folder:
        folders.save_checkpoint(model, folder, tokenizer)
    return out
