"""The MLX backend: Metal on a Mac, the same code on Linux through MLX's CPU build."""

from mlxrlhf.backends.mlx import blas

blas.preload()  # before mlx.core is imported: afterwards it has no effect

from mlxrlhf.backends.mlx import memory  # noqa: E402
from mlxrlhf.backends.mlx.parallel import world  # noqa: E402
from mlxrlhf.backends.mlx.train import MLXHead as Head  # noqa: E402
from mlxrlhf.backends.mlx.train import MLXModel as Model  # noqa: E402
from mlxrlhf.backends.mlx.train import (  # noqa: E402
    describe_device,
    device_check,
    gradient_check,
    peak_memory,
    use_device,
)

__all__ = [
    "Head",
    "Model",
    "describe_device",
    "device_check",
    "gradient_check",
    "memory",
    "peak_memory",
    "use_device",
    "world",
]
