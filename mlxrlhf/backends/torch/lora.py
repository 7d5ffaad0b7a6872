"""Low-rank adapters on linear layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mlxrlhf.backends.torch.network import Llama


class LoRALinear(nn.Module):
    """A frozen linear layer plus a trained low-rank update (Hu et al. 2021): y = W x + scale * (x A) B.

    A (in, r) and B (r, out) have mlx-lm's names and layout; B starts at zero, so training starts at the base.
    """

    def __init__(self, base: nn.Linear, rank: int, scale: float):
        super().__init__()
        out_dims, in_dims = base.weight.shape
        self.linear = base
        bound = 1 / math.sqrt(in_dims)
        self.lora_a = nn.Parameter(torch.empty(in_dims, rank).uniform_(-bound, bound))
        self.lora_b = nn.Parameter(torch.zeros(rank, out_dims))
        self.scale = scale
        self.enabled = True

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        if not self.enabled:
            return y
        # The float32 adapters are cast, not x: a float32 copy of every input would be kept for the backward pass.
        low = self.scale * (x @ self.lora_a.to(x.dtype))  # (..., r): the cheap place to scale
        return torch.addmm(y.flatten(0, -2), low.flatten(0, -2), self.lora_b.to(x.dtype)).view(y.shape)

    def merged(self) -> Tensor:
        """The weight (out, in) with the update added, float32."""
        return self.linear.weight.float() + self.scale * (self.lora_a @ self.lora_b).T


def add_lora(trunk: Llama, rank: int, scale: float, blocks: int = 0) -> list[LoRALinear]:
    """Freeze the trunk and put an adapter on every linear layer of its last `blocks` blocks; 0: of all."""
    trunk.requires_grad_(False)
    layers = []
    for block in trunk.layers[-blocks:]:
        for parent in (block.self_attn, block.mlp):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear):
                    layer = LoRALinear(child, rank, scale)
                    setattr(parent, name, layer)
                    layers.append(layer)
    return layers
