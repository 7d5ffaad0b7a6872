"""`protocol.Model` on PyTorch: a trunk with what is trained on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mlxrlhf.backends.protocol import Batch, Check, ModelSettings, Objective
from mlxrlhf.backends.torch import parallel
from mlxrlhf.backends.torch.device import device
from mlxrlhf.backends.torch.generate import generate
from mlxrlhf.backends.torch.lora import LoRALinear, add_lora
from mlxrlhf.backends.torch.network import Llama, Network
from mlxrlhf.backends.torch.train import DTYPES, Trainer, load_weights, tensors_of, to_numpy
from mlxrlhf.config import ModelConfig
from mlxrlhf.errors import UserError
from mlxrlhf.models import checkpoint


class Model:
    """`protocol.Model` on PyTorch."""

    def __init__(self, config: ModelConfig, settings: ModelSettings | None = None, **named: Any):
        self.config, self.settings = config, ModelSettings.of(settings, named)
        s = self.settings
        if config.family != "llama":
            raise UserError(f"{s.folder} is a {config.family} model; other families than Llama run on --backend mlx")
        if s.optimizer_dtype != "float32":
            raise UserError("--optimizer-dtype bfloat16 runs on --backend mlx; PyTorch keeps its moments in float32")
        torch.manual_seed(s.seed)
        self.device, self.world = device(), parallel.world()
        self.network = Network(config, s.value_head)
        self.trunk = self.network.trunk
        if s.value_start:
            load_weights(dict(self.network.value_head.named_parameters()), s.value_start)
        _fill(self.trunk, config, s)
        self.adapters: list[LoRALinear] = []
        if s.lora_rank:
            self.adapters = add_lora(self.trunk, s.lora_rank, s.lora_scale, s.lora_layers)
        self.network.to(self.device)
        reference_weight = self.trunk.head_weight().detach().clone() if s.keep_reference_head else None
        self.trainer = Trainer(self.network, s, reference_weight, self.device)

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

    @torch.inference_mode()
    def evaluate(
        self, batch: Batch, want: Sequence[str], *, temperature: float = 1.0, adapters: bool = True
    ) -> dict[str, np.ndarray]:
        self._prepare(adapters=adapters, training=False)
        out = self.network(tensors_of(batch, self.device), want, temperature, self.trainer.reference_weight)
        return {name: value.cpu().numpy() for name, value in out.items()}

    @torch.inference_mode()
    def logits(self, tokens: np.ndarray) -> np.ndarray:
        return self.trunk.logits(self.trunk(torch.as_tensor(tokens, device=self.device))).float().cpu().numpy()

    def gather(self, array: np.ndarray) -> np.ndarray:
        return parallel.gather(array, self.device)

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
        arrays = {name: to_numpy(g) for name, g in gradient.items()}
        return arrays, {name: float(value) for name, value in metrics.items()}

    def _prepare(self, *, adapters: bool, training: bool) -> None:
        """Adapters on or off, and the mode."""
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

    @torch.no_grad()
    def save(self, folder: Path, *, pad_id: int, end_id: int) -> None:
        weights, dtype = {}, self.settings.dtype
        for path, module in self.trunk.named_modules():
            if isinstance(module, LoRALinear):
                weights[f"{path}.weight"] = module.merged().to(DTYPES[dtype])
        for name, value in self.trunk.named_parameters():
            if "lora_" not in name and not name.endswith(".linear.weight"):
                weights[name.replace(".linear.bias", ".bias")] = value.detach()
        save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        checkpoint.write_config(folder, self.config, dtype=dtype, pad_id=pad_id, end_id=end_id)


def _fill(trunk: Llama, config: ModelConfig, settings: ModelSettings) -> None:
    """Give a trunk on the meta device its weights, on the CPU and in its precision."""
    dtype = DTYPES[settings.dtype]
    if settings.folder is None:
        trunk.to(dtype).to_empty(device="cpu").initialise(settings.seed)
    else:
        files = checkpoint.weight_files(settings.folder, config)
        packings = checkpoint.packings(settings.folder, config)
        if config.bits and not packings:
            raise UserError(f"--quantize {config.bits} runs on --backend mlx; leave it out here")
        if packings:
            trunk.load_state_dict(_unpacked(files, packings, dtype), strict=False, assign=True)
            files = []
        for file in files:
            # Copied: load_file's tensors are the mapped file itself.
            weights = {name: w.to(dtype, copy=True) for name, w in load_file(file).items()}
            for name, array in weights.items():
                checkpoint.check_finite(file, name, bool(torch.isfinite(array).all()))
            trunk.load_state_dict(weights, strict=False, assign=True)
    trunk.to(dtype)
    trunk.gradient_checkpointing = settings.gradient_checkpointing


def _unpacked(files: Sequence[Path], packings: Mapping[str, tuple[int, int]], dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a checkpoint whose weights MLX packed, whole again: PyTorch has no product with those."""
    weights: dict[str, Tensor] = {}
    for file in files:
        weights |= load_file(file)
        checkpoint.check_finite(file, "a tensor", all(bool(torch.isfinite(w).all()) for w in weights.values()))
    for path, (bits, _) in packings.items():
        codes, scales, biases = (weights.pop(f"{path}.{part}") for part in ("weight", "scales", "biases"))
        whole = checkpoint.unpacked(codes.numpy(), scales.float().numpy(), biases.float().numpy(), bits)
        weights[f"{path}.weight"] = torch.from_numpy(whole).to(dtype)
    return {name: w.to(dtype, copy=True) for name, w in weights.items()}
