"""Does this machine compute right? A small model's gradients against the CPU's, and against the loss itself."""

from __future__ import annotations

import math

import numpy as np

from mlxrlhf.algorithms import losses
from mlxrlhf.backends.protocol import Backend, Batch, Model
from mlxrlhf.config import ModelConfig


def device_check(backend: Backend) -> float:
    """Largest relative difference between this device and the CPU over the loss and every gradient of a small model."""
    results, device = [], backend.device_name()
    for target in ("cpu", device):
        backend.use_device(target)
        model, batch = _small(backend)
        gradient, metrics = model.gradient(losses.language_modelling, batch, ("logp",))
        results.append([np.array(metrics["loss"]), *gradient.values()])
    return max(float(np.abs(a - b).max() / (np.abs(a).max() + 1e-12)) for a, b in zip(*results))


def gradient_check(backend: Backend, step: float = 0.02) -> float:
    """Relative difference between the gradient's norm and the loss's measured slope along the gradient.

    The slope is a central difference over `step`: it needs the forward pass only, so it judges the backward pass on
    any device.
    """
    model, batch = _small(backend)
    gradient, _ = model.gradient(losses.language_modelling, batch, ("logp",))
    norm = math.sqrt(sum(float(np.square(g, dtype=np.float64).sum()) for g in gradient.values()))
    start, sides = model.state(), []
    for sign in (1, -1):
        moved = {f"weights/{k}": start[f"weights/{k}"] + sign * step / norm * g for k, g in gradient.items()}
        model.load_state({**start, **moved})
        sides.append(-model.evaluate(batch, ("logp",))["logp"].mean(dtype=np.float64))
    return float(abs((sides[0] - sides[1]) / (2 * step) - norm) / norm)


def _small(backend: Backend) -> tuple[Model, Batch]:
    """A model small enough to check in a second, and one batch for it."""
    config = ModelConfig(128, 64, 2, 2, 1, 128, head_dim=32)
    tokens = np.random.default_rng(0).integers(0, 128, (2, 33), dtype=np.int32)
    batch: Batch = {"tokens": tokens, "start": 1, "mask": np.ones((2, 32), np.float32), "total": np.float32(64)}
    return backend.Model(config), batch
