"""LoRA adapters on disk, in mlx-lm's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mlxrlhf.backends.protocol import Backend, Model, ModelSettings
from mlxrlhf.errors import UserError
from mlxrlhf.models import checkpoint
from mlxrlhf.models.checkpoint import save_arrays
from mlxrlhf.models.identity import check_same, trunk_digest
from mlxrlhf.settings import Fields, read_json


def write_adapters(
    folder: Path, weights: dict[str, np.ndarray], *, scale: float, num_layers: int, base: Path | None = None
) -> None:
    """Write LoRA adapters as mlx-lm does, for `mlx_lm.generate --adapter-path`; names end in lora_a and lora_b.

    base: the checkpoint they were trained on; its digest is kept beside them.
    """
    folder.mkdir()
    save_arrays(folder / "adapters.safetensors", weights)
    rank = next(v.shape[1] for k, v in weights.items() if k.endswith("lora_a"))
    keys = sorted({".".join(name.split(".")[3:-1]) for name in weights})
    described: dict[str, Any] = {
        "fine_tune_type": "lora",
        "num_layers": num_layers,
        "lora_parameters": {"rank": rank, "scale": scale, "dropout": 0.0, "keys": keys},
    }
    if base:
        described |= {"base": str(base), "base_digest": trunk_digest(base)}
    (folder / "adapter_config.json").write_text(json.dumps(described, indent=2) + "\n")


def check_base(folder: Path, adapter: Path) -> None:
    """Raises UserError where adapters were trained on other weights than those of the checkpoint `folder`.

    Adapters that do not say what they were trained on (mlx-lm's, those of earlier versions) are taken.
    """
    try:
        described = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        trained_on = {"base": str(described["base_digest"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    remedy = f"give the --model they were trained on ({described.get('base')})"
    check_same(trained_on, {"base": trunk_digest(folder)}, f"{adapter}", remedy)


def read_adapter_config(folder: Path) -> tuple[int, float]:
    """Rank and scale of the adapters in a folder. Raises UserError when adapter_config.json does not say them."""
    path, remedy = folder / "adapter_config.json", "give the adapters folder that mlxrlhf or mlx-lm wrote"
    described = Fields(path, Fields(path, read_json(path, remedy), remedy).object("lora_parameters"), remedy)
    return described.size("rank"), described.number("scale")


def load_model(
    backend: Backend, folder: Path, adapter: str = "", *, dtype: str = "float32", quantize: int = 0
) -> Model:
    """The model of a checkpoint folder, LoRA adapters of ours or mlx-lm's put on it; quantize: bits to pack it into.

    Raises UserError when they cannot be read or do not fit.
    """
    shape = checkpoint.read_config(folder, quantize)
    if not adapter:
        return backend.Model(shape, ModelSettings(folder=folder, dtype=dtype))
    rank, scale = read_adapter_config(Path(adapter))
    check_base(folder, Path(adapter))
    model = backend.Model(shape, ModelSettings(folder=folder, lora_rank=rank, lora_scale=scale, dtype=dtype))
    state = {k: v for k, v in model.state().items() if k.startswith("weights/")}
    # Layers without an adapter of their own keep B at zero.
    for name, array in checkpoint.load_arrays(Path(adapter) / "adapters.safetensors").items():
        key = f"weights/trunk.{name}"
        if key not in state or state[key].shape != array.shape:
            raise UserError(
                f"{adapter}: {name} {array.shape} does not fit {folder}; give the --model it was trained on"
            )
        state[key] = array.astype("float32")
    model.load_state(state)
    return model


def save_adapters(model, folder: Path) -> None:
    """Write FOLDER/adapters."""
    prefix = "weights/trunk."
    weights = {k.removeprefix(prefix): v for k, v in model.state().items() if k.startswith(prefix) and "lora_" in k}
    write_adapters(
        folder / "adapters",
        weights,
        scale=model.adapters[0].scale,
        num_layers=min(model.settings.lora_layers or model.config.num_layers, model.config.num_layers),
        base=model.settings.folder,
    )
