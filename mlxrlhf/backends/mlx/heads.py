"""The reward head: the value head's network on pooled features, and its own optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np

from mlxrlhf.algorithms import losses
from mlxrlhf.backends.mlx.network import ValueHead
from mlxrlhf.backends.mlx.train import AdamW, Pack
from mlxrlhf.backends.mlx.trees import flat, number


class Head:
    """`protocol.Head` on MLX. The last layer starts at std 1/sqrt(d + 1)."""

    def __init__(self, dims: int, *, seed: int = 0, weight_decay: float = 0.0, max_grad_norm: float = 1.0):
        mx.random.seed(seed)
        self.net = ValueHead(dims, last_std=1 / math.sqrt(dims + 1))
        self.max_grad_norm, self.optimizer = max_grad_norm, AdamW(weight_decay)
        mx.eval(self.net.parameters())

    def scores(self, features: np.ndarray) -> np.ndarray:
        return np.array(self.net(mx.array(features)))

    def step(
        self,
        loss: str,
        margin: float,
        chosen: np.ndarray,
        rejected: np.ndarray,
        learning_rate: float,
        weights: np.ndarray | None = None,
    ) -> dict[str, float]:
        weighing = None if weights is None else mx.array(weights)

        def objective(chosen: mx.array, rejected: mx.array) -> tuple[mx.array, mx.array, mx.array]:
            r_chosen, r_rejected = self.net(chosen), self.net(rejected)
            value = losses.ranking(mx, loss, margin, r_chosen, r_rejected, weighing)
            return value, (r_chosen > r_rejected).mean(), (r_chosen - r_rejected).mean()

        gradient = nn.value_and_grad(self.net, objective)
        (value, accuracy, difference), gradients = gradient(mx.array(chosen), mx.array(rejected))
        gradients, norm = optim.clip_grad_norm(gradients, self.max_grad_norm or math.inf)
        parameters, one = flat(self.net.parameters()), mx.array(1.0)
        self.optimizer.begin(learning_rate)
        for name, gradient in flat(gradients).items():
            list(self.optimizer.move(name, parameters[name], gradient, one))
        mx.eval(self.net.parameters(), self.optimizer.moments)
        figures = {"loss": value, "accuracy": accuracy, "margin": difference, "grad_norm": norm}
        return {name: number(figure) for name, figure in figures.items()}

    def state(self) -> dict[str, np.ndarray]:
        arrays = {f"weights/{k}": np.array(v) for k, v in flat(self.net.parameters()).items()}
        arrays |= {f"optimizer/{name}": array for name, array in self.optimizer.named_arrays()}
        return arrays

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.net.load_saved(arrays)
        if "optimizer/step" in arrays:
            own = {name: Pack({name: tuple(w.shape)}) for name, w in flat(self.net.parameters()).items()}
            self.optimizer.load_state(arrays, "optimizer/", own)
