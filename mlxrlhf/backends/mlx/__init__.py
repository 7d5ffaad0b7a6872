"""The MLX backend: Metal on a Mac, the same code on Linux through MLX's CPU build."""

from mlxrlhf.backends.mlx import blas

blas.preload()  # before mlx.core is imported: afterwards it has no effect

from mlxrlhf.backends.mlx import memory  # noqa: E402
from mlxrlhf.backends.mlx.device import describe_device, device_name, peak_memory, use_device  # noqa: E402
from mlxrlhf.backends.mlx.heads import Head  # noqa: E402
from mlxrlhf.backends.mlx.model import Model  # noqa: E402
from mlxrlhf.backends.mlx.parallel import world  # noqa: E402

NAME = "mlx"

__all__ = ["NAME", "Head", "Model", "describe_device", "device_name", "memory", "peak_memory", "use_device", "world"]
