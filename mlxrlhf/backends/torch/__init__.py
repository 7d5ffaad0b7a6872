"""The PyTorch backend: the reference that MLX is checked against, and the way to run on CUDA and on Windows."""

from mlxrlhf.backends.torch import memory
from mlxrlhf.backends.torch.parallel import world
from mlxrlhf.backends.torch.train import TorchHead as Head
from mlxrlhf.backends.torch.train import TorchModel as Model
from mlxrlhf.backends.torch.train import (
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
