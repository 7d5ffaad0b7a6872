"""`protocol.Model` on MLX: a trunk with what is trained on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlxrlhf.backends.mlx import parallel
from mlxrlhf.backends.mlx.families import MLXLMTrunk
from mlxrlhf.backends.mlx.generate import generate
from mlxrlhf.backends.mlx.lora import LoRALinear, add_lora
from mlxrlhf.backends.mlx.network import Llama, Network
from mlxrlhf.backends.mlx.packed import PARTS, whole_weight
from mlxrlhf.backends.mlx.train import DTYPES, Trainer, arrays_of
from mlxrlhf.backends.mlx.trees import flat, load
from mlxrlhf.backends.protocol import Batch, Check, ModelSettings, Objective
from mlxrlhf.config import ModelConfig
from mlxrlhf.models import checkpoint

#: bytes of one file of a checkpoint: what is computed and held at once while it is written
FILE_BYTES = 2**31


class Model:
    """`protocol.Model` on MLX."""

    def __init__(self, config: ModelConfig, settings: ModelSettings | None = None, **named: Any):
        self.config, self.settings = config, ModelSettings.of(settings, named)
        s = self.settings
        mx.random.seed(s.seed)
        self.world = parallel.world()
        self.trunk = _trunk(config, s)
        self.network = Network(self.trunk, config.hidden_size, s.value_head)
        if s.value_start:
            self.network.value_head.load_saved(s.value_start)
        self.adapters: list[LoRALinear] = []
        if s.lora_rank:
            self.adapters = add_lora(self.trunk, s.lora_rank, s.lora_scale, s.lora_layers)
        mx.eval(self.network.parameters())
        self.trainer = Trainer(self.network, s, self.trunk.head().copy() if s.keep_reference_head else None)

    # --- forward ---------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        uniforms: np.ndarray | None,
        max_tokens: int,
        temperature: float,
        stop_ids: Sequence[int],
        pad_id: int,
        on_token: Callable[[int], None] | None = None,
        adapters: bool = True,
    ) -> list[list[int]]:
        self._prepare(adapters=adapters, training=False)
        return generate(
            self.trunk,
            prompts,
            uniforms=uniforms,
            max_tokens=max_tokens,
            temperature=temperature,
            stop_ids=stop_ids,
            pad_id=pad_id,
            on_token=on_token,
        )

    def evaluate(
        self, batch: Batch, want: Sequence[str], *, temperature: float = 1.0, adapters: bool = True
    ) -> dict[str, np.ndarray]:
        self._prepare(adapters=adapters, training=False)
        out = self.network(arrays_of(batch, self.network), want, temperature, self.trainer.reference_head)
        mx.eval(out)
        return {name: np.array(value) for name, value in out.items()}

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        return np.array(self.trunk.logits(self.trunk(mx.array(tokens))).astype(mx.float32))

    def gather(self, array: np.ndarray) -> np.ndarray:
        return parallel.gather(array)

    # --- training --------------------------------------------------------------------------------------------------

    @property
    def traces(self) -> int:
        return self.trainer.traces

    def step(
        self,
        objective: Objective,
        batches: Sequence[Batch],
        *,
        want: Sequence[str],
        learning_rate: float,
        temperature: float = 1.0,
        check: Check | None = None,
    ) -> dict[str, float]:
        self._prepare(adapters=True, training=True)
        return self.trainer.step(objective, batches, want, learning_rate, temperature, self.world[1], check)

    def gradient(
        self, objective: Objective, batch: Batch, want: Sequence[str], temperature: float = 1.0
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        self._prepare(adapters=True, training=True)
        gradient, metrics = self.trainer.gradient(objective, batch, tuple(want), temperature)
        arrays = {name: np.array(g.astype(mx.float32)) for name, g in gradient.items()}
        return arrays, {name: float(value) for name, value in metrics.items()}

    def _prepare(self, *, adapters: bool, training: bool) -> None:
        """Adapters on or off, and the mode: some of mlx-lm's families have kernels without a gradient for sampling."""
        for layer in self.adapters:
            layer.enabled = adapters
        if self.network.training != training:
            self.network.train(training)

    # --- state and saving ------------------------------------------------------------------------------------------

    def named_arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        return self.trainer.named_arrays()

    def state(self) -> dict[str, np.ndarray]:
        return dict(self.named_arrays())

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.trainer.load_state(arrays)

    def save(self, folder: Path, *, pad_id: int, end_id: int) -> None:
        weights, dtype = {}, checkpoint.saved_dtype(self.config, self.settings.dtype)
        merged = {id(layer.linear): layer.merged() for layer in self.adapters}
        packed = set()
        for path, module in self.trunk.named_modules():
            if path.startswith("_"):  # mlx-lm's own objects: the same layers
                continue
            if isinstance(module, LoRALinear):
                weights[f"{path}.weight"] = merged[id(module.linear)].astype(DTYPES[dtype])
            elif "scales" in module:
                packed.add(path)
                weights.setdefault(f"{path.removesuffix('.linear')}.weight", whole_weight(module).astype(DTYPES[dtype]))
        for name, value in flat(self.trunk.parameters()).items():
            path, _, part = name.rpartition(".")
            if "lora_" in name or name.endswith(".linear.weight") or (path in packed and part != "bias"):
                continue
            weights[name.replace(".linear.bias", ".bias")] = value.astype(DTYPES[dtype]) if packed else value
        _write(Path(folder), weights)
        if isinstance(self.trunk, MLXLMTrunk):
            checkpoint.copy_config(self.trunk.folder, folder, dtype=dtype)
        else:
            checkpoint.write_config(folder, self.config, dtype=dtype, pad_id=pad_id, end_id=end_id)


def _write(folder: Path, weights: dict[str, mx.array]) -> None:
    """Write tensors, which are computed as they are written, in files of about `FILE_BYTES`; `weights` is emptied."""
    parts: list[list[str]] = [[]]
    room = FILE_BYTES
    for name, value in weights.items():
        if value.nbytes > room and parts[-1]:
            parts.append([])
            room = FILE_BYTES
        parts[-1].append(name)
        room -= value.nbytes
    places: dict[str, str] = {}
    total = sum(value.nbytes for value in weights.values())
    for number, names in enumerate(parts, start=1):
        whole = len(parts) == 1
        file = "model.safetensors" if whole else f"model-{number:05}-of-{len(parts):05}.safetensors"
        part = {name: weights.pop(name) for name in names}
        mx.save_safetensors(str(folder / file), part, metadata={"format": "pt"})
        places |= dict.fromkeys(names, file)
    if len(parts) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _trunk(config: ModelConfig, settings: ModelSettings) -> Llama | MLXLMTrunk:
    """The decoder with its weights, in its precision, without adapters."""
    trunk: Llama | MLXLMTrunk
    if config.family != "llama":
        assert settings.folder is not None  # a shape of another family comes from a folder
        trunk = MLXLMTrunk(settings.folder, config.bits, config.group_size)
    else:
        trunk = Llama(config)
        if settings.folder is None:
            trunk.initialise(settings.seed)
            _pack(trunk, _packable(trunk, config))
        else:
            files = checkpoint.weight_files(settings.folder, config)
            packings = checkpoint.packings(settings.folder, config)
            made = {} if packings else _packable(trunk, config)
            _pack(trunk, packings or made)
            for file in files:
                trunk.load_weights(_read(file, config, made), strict=False)
    trunk.set_dtype(DTYPES[settings.dtype])  # of packed weights, the scales
    if config.bits:
        trunk.freeze()
    trunk.gradient_checkpointing = settings.gradient_checkpointing
    return trunk


def _packable(trunk: Llama, config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Bits and group size of the layers that --quantize packs, those whose rows are whole groups, by name."""
    if not config.bits:
        return {}
    return {
        path: (config.bits, config.group_size)
        for path, module in trunk.named_modules()
        if isinstance(module, (nn.Linear, nn.Embedding)) and module.weight.shape[-1] % config.group_size == 0
    }


def _pack(trunk: Llama, packings: Mapping[str, tuple[int, int]]) -> None:
    """Make these layers packed ones."""

    def packing(path: str, _: nn.Module) -> bool | dict[str, Any]:
        return dict(zip(("bits", "group_size"), packings[path])) if path in packings else False

    if packings:
        nn.quantize(trunk, class_predicate=packing)


def _read(file: Path, config: ModelConfig, made: Mapping[str, tuple[int, int]]) -> list[tuple[str, mx.array]]:
    """The tensors of a file that are the decoder's, those of the layers `made` packed one after the other: so that they
    are never there whole together."""
    weights, arrays = [], load(str(file))
    for name in list(arrays):
        array = arrays.pop(name)
        if not _is_ours(name, config):
            continue
        checkpoint.check_finite(file, name, bool(mx.isfinite(array).all()))
        path, _, part = name.rpartition(".")
        if part == "weight" and path in made:
            bits, group_size = made[path]
            parts = mx.quantize(array, bits=bits, group_size=group_size)
            mx.eval(parts)
            weights += [(f"{path}.{kind}", value) for kind, value in zip(("weight", *PARTS), parts)]
        else:
            weights.append((name, array))
    return weights


def _is_ours(name: str, config: ModelConfig) -> bool:
    """False for tensors of a checkpoint that the decoder has no place for."""
    return "rotary_emb" not in name and not (name == "lm_head.weight" and config.tie_word_embeddings)
