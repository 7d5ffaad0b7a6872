"""What a model holds on PyTorch, counted from network.py, and what this machine has: for mlxrlhf/plan.py.

On the CPU the plan is approximate: it is compared with the size of the whole process, libraries and the allocator's
leftovers included, which at size nano are most of it.
"""

from __future__ import annotations

import sys
import time

import torch

from mlxrlhf.backends.host import host_memory, resident_memory
from mlxrlhf.backends.torch.device import device
from mlxrlhf.backends.torch.network import LOGITS_CHUNK
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

#: bytes beside each bfloat16 weight that is trained: its float32 master; and of its gradient, in both precisions
MASTER, GRADIENT = 4, 6
#: 1 where the gradient of the logits stays to the end of the backward pass
LOGITS_LEFT = 0
#: blocks at work in the backward pass, in what a block keeps: the gradients of one; with checkpointing, also the one
#: that is computed again
WORKING, RECOMPUTED = 1, 2
#: bytes of what torch loads at the first optimizer step: its compiler
LOADED_LATER = 92_000_000
#: elements updated at once: no matter here, where AdamW works in place
UPDATE_CHUNK = 0


def block(c: ModelConfig, length: int, size: int, scales: bool) -> int:
    """Bytes per token that a block keeps for its backward pass, in rows of `length` tokens.

    size: bytes of a number of the trunk; scales: the weights themselves are trained, RMSNorm's scales among them.
    """
    q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    # x, in bfloat16 its float32 copy instead, and the normalised, scaled x that the next layer reads; in bfloat16, for
    # the gradient of the scale, the normalised x before it.
    norm = c.hidden_size * (4 + size + (size if scales and size < 4 else 0))
    attention = q + 2 * kv + q  # queries, keys, values, output: the scores are never whole
    mlp = 3 * c.intermediate_size  # gate, up, silu(gate) * up
    return 2 * norm + size * (attention + mlp)


def logits(size: int, softmax: bool, waits: bool) -> int:
    """Bytes for each token and piece of the vocabulary: float32 logits and log-softmax, in bfloat16 also the logits as
    they were computed.

    softmax: a gradient or an entropy is wanted: one more array of float32. waits: no matter here, where nothing is
    allocated ahead of its use.
    """
    return 4 * (3 if softmax else 2) + (size if size < 4 else 0)


def gradients(gradient: int, summed: int, tied: int) -> int:
    """Bytes of gradients at the end of a backward pass: all of its own are there before any is added to the sums."""
    return gradient + summed + tied


def update(masters: bool) -> int:
    """Bytes that an AdamW step makes anew for each weight: none."""
    return 0


def limit() -> int:
    """Bytes that a run cannot exceed without swapping: all of CUDA's, or of the machine's."""
    if device().type == "cuda":
        return torch.cuda.get_device_properties(device()).total_memory
    return host_memory()


def held() -> int:
    """Bytes that count towards `peak_memory` whatever the model: on the CPU, those of Python and its libraries."""
    if device().type == "cuda":
        return torch.cuda.memory_allocated()
    if device().type == "mps":
        return torch.mps.driver_allocated_memory()
    return resident_memory() + LOADED_LATER * ("torch._dynamo" not in sys.modules)


@torch.inference_mode()
def matmul_rate(dtype: str, rows: int, seconds: float = 0.2) -> float:
    """Operations per second of a linear layer, `rows` rows and a square matrix, measured now; on a GPU a larger one."""
    width = 1024 if device().type == "cpu" else 4096
    x, w = (torch.randn(shape, device=device()).to(getattr(torch, dtype)) for shape in ((rows, width), (width, width)))
    float((x @ w.T)[0, 0])  # reading one number waits for the device
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        float((x @ w.T)[0, 0])
        count += 1
    return count * 2 * rows * width**2 / (time.perf_counter() - began)
