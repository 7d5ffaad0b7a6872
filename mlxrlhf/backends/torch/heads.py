"""The reward head: the value head's network on pooled features, and its own optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from mlxrlhf.algorithms import losses
from mlxrlhf.backends.torch.device import device
from mlxrlhf.backends.torch.network import ValueHead
from mlxrlhf.backends.torch.train import AdamW, load_weights, to_numpy


class Head:
    """`protocol.Head` on PyTorch. The last layer starts at std 1/sqrt(d + 1)."""

    def __init__(self, dims: int, *, seed: int = 0, weight_decay: float = 0.0, max_grad_norm: float = 1.0):
        torch.manual_seed(seed)
        self.device = device()
        self.net = ValueHead(dims, last_std=1 / math.sqrt(dims + 1)).to(self.device)
        self.max_grad_norm = max_grad_norm
        self.optimizer = AdamW(dict(self.net.named_parameters()), weight_decay)

    @torch.inference_mode()
    def scores(self, features: np.ndarray) -> np.ndarray:
        return self.net(torch.as_tensor(features, device=self.device)).cpu().numpy()

    def step(
        self,
        loss: str,
        margin: float,
        chosen: np.ndarray,
        rejected: np.ndarray,
        learning_rate: float,
        weights: np.ndarray | None = None,
    ) -> dict[str, float]:
        weighing = None if weights is None else torch.as_tensor(weights, device=self.device)
        r_chosen, r_rejected = (self.net(torch.as_tensor(x, device=self.device)) for x in (chosen, rejected))
        value = losses.ranking(torch, loss, margin, r_chosen, r_rejected, weighing)
        parameters = self.optimizer.parameters
        gradients = dict(zip(parameters, torch.autograd.grad(value, list(parameters.values()))))
        norm = nn.utils.get_total_norm(gradients.values())
        scale = torch.clamp((self.max_grad_norm or math.inf) / (norm + 1e-6), max=1.0)
        self.optimizer.step({k: g * scale for k, g in gradients.items()}, learning_rate)
        return {
            "loss": float(value.detach()),
            "accuracy": float((r_chosen > r_rejected).float().mean()),
            "margin": float((r_chosen - r_rejected).detach().mean()),
            "grad_norm": float(norm),
        }

    def state(self) -> dict[str, np.ndarray]:
        arrays = {f"weights/{k}": to_numpy(v) for k, v in self.optimizer.parameters.items()}
        arrays.update({f"optimizer/{k}": v for k, v in self.optimizer.named_arrays()})
        return arrays

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        load_weights(self.optimizer.parameters, arrays)
        self.optimizer.load_state(arrays, "optimizer/")
