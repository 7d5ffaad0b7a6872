"""What a model holds on MLX, counted from network.py, and what this machine has: for mlxrlhf/plan.py.

Counted as MLX's CPU build computes: on a GPU, fused kernels keep less, so there the plan is an upper bound.
"""

from __future__ import annotations

import time

import mlx.core as mx

from mlxrlhf.backends.host import host_memory
from mlxrlhf.backends.mlx.device import on_gpu
from mlxrlhf.backends.mlx.network import LOGITS_CHUNK
from mlxrlhf.backends.mlx.train import UPDATE_CHUNK
from mlxrlhf.config import ModelConfig

__all__ = [
    "GRADIENT",
    "LOGITS_CHUNK",
    "LOGITS_LEFT",
    "MASTER",
    "RECOMPUTED",
    "UPDATE_CHUNK",
    "WORKING",
    "block",
    "gradients",
    "held",
    "limit",
    "logits",
    "matmul_rate",
    "update",
]

#: bytes beside each bfloat16 weight that is trained: the lower half of its float32 master; and of its gradient
MASTER, GRADIENT = 2, 2
#: 1 where the gradient of the logits stays to the end of the backward pass: MLX computes the output layer's own last
LOGITS_LEFT = 1
#: blocks at work, in what a block keeps: MLX allocates up to ten operations ahead of the one it computes, about a
#: block's; with checkpointing, also the block that is computed again and its gradients
WORKING, RECOMPUTED = 1, 3


def block(c: ModelConfig, length: int, size: int, scales: bool) -> int:
    """Bytes per token that a block keeps for its backward pass, in rows of `length` tokens.

    size: bytes of a number of the trunk; scales: the weights themselves are trained, RMSNorm's scales among them.
    """
    q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    # x and the normalised, scaled x that the next layer reads; in bfloat16 x once more in float32, in which the norm is
    # computed; and for the gradient of the scale, the normalised x before it.
    norm = c.hidden_size * (size + size + (4 if size < 4 else 0) + (size if scales else 0))
    attention = q + 2 * kv + c.num_heads * length + q  # queries, keys, values, softmax of the scores, output
    mlp = 5 * c.intermediate_size  # gate, its sigmoid, silu, up, their product
    return 2 * norm + size * (attention + mlp)


def logits(size: int, softmax: bool, waits: bool) -> int:
    """Bytes for each token and piece of the vocabulary: float32 logits, in bfloat16 also as they were computed.

    softmax: a gradient or an entropy is wanted, which takes the softmax, and its product with what is summed. waits:
    the gradient waits for sums over answers, so that MLX cannot allocate it while the forward pass is still at work.
    """
    arrays = 1
    if softmax:
        arrays = 2 if waits else 3
    return 4 * arrays + (size if size < 4 else 0)


def gradients(gradient: int, summed: int, tied: int) -> int:
    """Bytes of gradients at the end of a backward pass: its own, or what earlier forwards left, to which each is added
    as soon as it is there. The last of them is the embedding's, in two parts and their sum where it is tied."""
    return max(gradient + tied, summed + 3 * tied if summed else 0)


def update(masters: bool) -> int:
    """Bytes that an AdamW step makes anew for each weight of a portion: update, moments, scaled gradient.

    masters: the weights are bfloat16 and their float32 masters are put together and taken apart again.
    """
    return 4 * (10 if masters else 4)


def limit() -> int:
    """Bytes that a run cannot exceed without swapping: on Metal the working set that the system recommends (some two
    thirds to three quarters of a Mac's memory), on other devices all there is."""
    info = mx.device_info() if on_gpu() else {}
    return int(info.get("max_recommended_working_set_size") or info.get("memory_size") or host_memory())


def held() -> int:
    """Bytes that count towards `peak_memory` whatever the model."""
    return mx.get_active_memory()


def matmul_rate(dtype: str, rows: int, seconds: float = 0.2) -> float:
    """Operations per second of a linear layer, `rows` rows and a square matrix, measured now; on a GPU a larger one."""
    width = 4096 if on_gpu() else 1024
    x, w = (mx.random.normal(shape).astype(getattr(mx, dtype)) for shape in ((rows, width), (width, width)))
    mx.eval(x @ w.T)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        mx.eval(x @ w.T)
        count += 1
    return count * 2 * rows * width**2 / (time.perf_counter() - began)
