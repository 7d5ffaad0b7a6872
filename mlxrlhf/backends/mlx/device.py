"""The device that MLX computes on."""

from __future__ import annotations

import importlib.metadata
import platform

import mlx.core as mx

from mlxrlhf.backends.mlx import blas
from mlxrlhf.errors import UserError


def use_device(name: str = "") -> None:
    """Run on gpu (Metal, CUDA) or cpu from now on; the best there is when empty.

    Raises UserError for one that is not there.
    """
    if name not in ("", "cpu", "gpu") or (name == "gpu" and not mx.is_available(mx.gpu)):
        there = "gpu, cpu" if mx.is_available(mx.gpu) else "cpu"
        raise UserError(f"--device {name} is not available to MLX here; choose one of {there}")
    if name:
        mx.set_default_device(mx.gpu if name == "gpu" else mx.cpu)


def device_name() -> str:
    """gpu or cpu"""
    return "gpu" if on_gpu() else "cpu"


def on_gpu() -> bool:
    """True where MLX computes on a GPU."""
    return mx.default_device() == mx.Device(mx.gpu)


def peak_memory() -> int:
    """Most bytes MLX has held at once."""
    return mx.get_peak_memory()


def describe_device() -> dict[str, str]:
    """What `mlxrlhf doctor` prints of the device."""
    memory = mx.device_info().get("memory_size")
    return {
        "mlx": importlib.metadata.version("mlx"),
        "device": str(mx.default_device()),
        "machine": platform.platform(),
        "memory": "unknown" if memory is None else f"{int(memory) / 2**30:.0f} GB",
        "blas": blas.status(),
    }
