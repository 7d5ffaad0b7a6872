"""Low-rank adapters on linear layers."""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from mlxrlhf.backends.mlx.network import Trunk
from mlxrlhf.backends.mlx.packed import whole_weight


class LoRALinear(nn.Module):
    """A frozen linear layer plus a trained low-rank update (Hu et al. 2021): y = W x + scale * (x A) B.

    A (in, r) and B (r, out) have mlx-lm's names and layout; B starts at zero, so training starts at the base.
    """

    def __init__(self, base: nn.Linear | nn.QuantizedLinear, rank: int, scale: float):
        super().__init__()
        out_dims, in_dims = base.weight.shape
        if isinstance(base, nn.QuantizedLinear):
            in_dims = in_dims * 32 // base.bits
        self.linear = base
        self.lora_a = mx.random.uniform(-1 / math.sqrt(in_dims), 1 / math.sqrt(in_dims), (in_dims, rank))
        self.lora_b = mx.zeros((rank, out_dims))
        self.scale = scale
        self.enabled = True

    def __call__(self, x: mx.array) -> mx.array:
        y = self.linear(x)
        if not self.enabled:
            return y
        # The float32 adapters are cast, not x: a float32 copy of every input would be kept for the backward pass.
        low = self.scale * (x @ self.lora_a.astype(x.dtype))  # (..., r): the cheap place to scale
        return mx.addmm(y, low, self.lora_b.astype(x.dtype))

    def merged(self) -> mx.array:
        """The weight (out, in) with the update added, float32."""
        return whole_weight(self.linear) + self.scale * (self.lora_a @ self.lora_b).T


def add_lora(trunk: Trunk, rank: int, scale: float, blocks: int = 0) -> list[LoRALinear]:
    """Freeze the trunk and put an adapter on every linear layer of its last `blocks` blocks; 0: of all."""
    trunk.freeze()
    layers = []
    for block in trunk.layers[-blocks:]:
        adapted = [
            (path, LoRALinear(child, rank, scale))
            for path, child in block.named_modules()
            if isinstance(child, (nn.Linear, nn.QuantizedLinear))
        ]
        for _, layer in adapted:
            layer.linear.freeze()
        block.update_modules(tree_unflatten(adapted))
        layers += [layer for _, layer in adapted]
    return layers
