"""`protocol.Model` on MLX: a trunk with what is trained on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlxrlhf.backends.mlx import parallel
from mlxrlhf.backends.mlx.families import MLXLMTrunk
from mlxrlhf.backends.mlx.generate import generate
from mlxrlhf.backends.mlx.lora import LoRALinear, add_lora
from mlxrlhf.backends.mlx.network import Llama, Network
from mlxrlhf.backends.mlx.train import DTYPES, Trainer, arrays_of
from mlxrlhf.backends.mlx.trees import flat, load
from mlxrlhf.backends.protocol import Batch, Check, ModelSettings, Objective
from mlxrlhf.config import ModelConfig
from mlxrlhf.models import checkpoint


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
        self.adapters: list[LoRALinear] = add_lora(self.trunk, s.lora_rank, s.lora_scale) if s.lora_rank else []
        mx.eval(self.network.parameters())
        # A sum is a copy; mx.array(x) would be the same array, and an input of the compiled step.
        reference_weight = self.trunk.head_weight() + 0 if s.keep_reference_head else None
        mx.eval(reference_weight)
        self.trainer = Trainer(self.network, s, reference_weight)

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
        out = self.network(arrays_of(batch, self.network), want, temperature, self.trainer.reference_weight)
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
        weights, dtype = {}, self.settings.dtype
        merged = {id(layer.linear): layer.merged() for layer in self.adapters}
        for path, module in self.trunk.named_modules():
            if isinstance(module, LoRALinear) and not path.startswith("_"):  # mlx-lm's own objects: the same layers
                weights[f"{path}.weight"] = merged[id(module.linear)].astype(DTYPES[dtype])
        for name, value in flat(self.trunk.parameters()).items():
            if "lora_" not in name and not name.endswith(".linear.weight"):
                weights[name.replace(".linear.bias", ".bias")] = value
        mx.save_safetensors(str(Path(folder) / "model.safetensors"), weights, metadata={"format": "pt"})
        if isinstance(self.trunk, MLXLMTrunk):
            checkpoint.copy_config(self.trunk.folder, folder, dtype=dtype)
        else:
            checkpoint.write_config(folder, self.config, dtype=dtype, pad_id=pad_id, end_id=end_id)


def _trunk(config: ModelConfig, settings: ModelSettings) -> Llama | MLXLMTrunk:
    """The decoder with its weights, in its precision, without adapters."""
    trunk: Llama | MLXLMTrunk
    if config.family != "llama":
        assert settings.folder is not None  # a shape of another family comes from a folder
        trunk = MLXLMTrunk(settings.folder)
    else:
        trunk = Llama(config)
        if settings.folder is None:
            trunk.initialise(settings.seed)
        else:
            for file in checkpoint.weight_files(settings.folder, config):
                weights = [(name, w) for name, w in load(str(file)).items() if _is_ours(name, config)]
                for name, array in weights:
                    checkpoint.check_finite(file, name, bool(mx.isfinite(array).all()))
                trunk.load_weights(weights, strict=False)
    trunk.set_dtype(DTYPES[settings.dtype])
    trunk.gradient_checkpointing = settings.gradient_checkpointing
    return trunk


def _is_ours(name: str, config: ModelConfig) -> bool:
    """False for tensors of a checkpoint that the decoder has no place for."""
    return "rotary_emb" not in name and not (name == "lm_head.weight" and config.tie_word_embeddings)
