"""Merge LoRA adapters, ours or mlx-lm's, into the checkpoint they were trained on."""

from __future__ import annotations

import json
from pathlib import Path

from mlxrlhf import backends, checkpoint, published
from mlxrlhf.config import FuseConfig
from mlxrlhf.data.tokenizer import open_tokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.stages import folders


def run(config: FuseConfig) -> Path:
    """Write a whole checkpoint to --out. Raises UserError when the adapters do not fit the model."""
    if not (config.model and config.adapter and config.out):
        raise UserError("fuse needs --model (what the adapters were trained on), --adapter (their folder) and --out")
    base, adapter = published.fetch(config.model), Path(config.adapter)
    try:
        described = json.loads((adapter / "adapter_config.json").read_text())
        rank, scale = int(described["lora_parameters"]["rank"]), float(described["lora_parameters"]["scale"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{adapter} holds no readable adapter_config.json ({error}); give the adapters folder that "
                        "mlxrlhf or mlx-lm wrote") from None
    backend = backends.load(config.backend, config.device)
    shape, tokenizer = checkpoint.read_config(base), open_tokenizer(base)
    model = backend.Model(shape, folder=base, lora_rank=rank, lora_scale=scale, dtype=config.dtype)
    state = {k: v for k, v in model.state().items() if k.startswith("weights/")}
    # Layers without an adapter of their own keep B at zero.
    for name, array in checkpoint.load_arrays(adapter / "adapters.safetensors").items():
        key = f"weights/trunk.{name}"
        if key not in state or state[key].shape != array.shape:
            raise UserError(f"{adapter}: {name} {array.shape} does not fit {base}; give the --model it was trained on")
        state[key] = array
    model.load_state(state)
    out = Path(config.out)
    with checkpoint.atomic_folder(out) as folder:
        folders.save_checkpoint(model, folder, tokenizer)
    return out
