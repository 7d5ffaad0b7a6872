"""Weights that MLX packed into a few bits: the output layer, which may be one of them, and their whole form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

#: what stands beside a packed weight
PARTS = ("scales", "biases")


@dataclass(frozen=True)
class Head:
    """An output layer: states (..., d) to logits (..., V), in the trunk's precision.

    arrays: the weight (V, d) or, where it is packed, its codes, scales and biases. bits, group_size, mode: how it is
    packed; 0 bits: it is not. finish: what the model does to its logits, such as a cap.
    """

    arrays: tuple[mx.array, ...]
    bits: int = 0
    group_size: int = 0
    mode: str = "affine"
    finish: Callable[[mx.array], mx.array] | None = None

    @classmethod
    def of(cls, layer: nn.Module, finish: Callable[[mx.array], mx.array] | None = None) -> Head:
        """The output layer that a linear layer or a tied embedding is."""
        if "scales" not in layer:
            return cls((layer.weight,), finish=finish)
        arrays = tuple(layer[name] for name in ("weight", "scales", "biases") if layer.get(name) is not None)
        return cls(arrays, layer.bits, layer.group_size, layer.mode, finish)

    @property
    def vocabulary(self) -> int:
        return self.arrays[0].shape[0]

    def copy(self) -> Head:
        """One with arrays of its own."""
        # A sum is a copy; mx.array(x) would be the same array, and an input of the compiled step.
        copied = Head(tuple(a + 0 for a in self.arrays), self.bits, self.group_size, self.mode, self.finish)
        mx.eval(copied.arrays)
        return copied

    def logits(self, hidden: mx.array, arrays: Sequence[mx.array] = ()) -> mx.array:
        """arrays: the head's own, where a function that is recomputed takes them as arguments."""
        weight, *beside = arrays or self.arrays
        if self.bits:
            # Packed weights are frozen, and recomputation would ask for a gradient of whatever it is given.
            weight, *beside = map(mx.stop_gradient, (weight, *beside))
            product = mx.quantized_matmul(
                hidden,
                weight,
                beside[0],
                beside[1] if len(beside) > 1 else None,
                transpose=True,
                group_size=self.group_size,
                bits=self.bits,
                mode=self.mode,
            )
        else:
            product = hidden @ weight.T
        return self.finish(product) if self.finish else product


def whole_weight(layer: nn.Module) -> mx.array:
    """The weight of a layer, (out, in) of a linear one, unpacked where it is packed, float32."""
    if "scales" not in layer:
        return layer.weight.astype(mx.float32)
    scales, biases = layer.scales, layer.get("biases")
    if biases is not None:  # the affine packing; in others the scales are codes too
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    whole = mx.dequantize(layer.weight, scales, biases, group_size=layer.group_size, bits=layer.bits, mode=layer.mode)
    return whole.astype(mx.float32)
