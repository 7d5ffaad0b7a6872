"""The PyTorch backend: the reference that MLX is checked against, and the way to run on CUDA and on Windows."""

from mlxrlhf.backends.torch import memory
from mlxrlhf.backends.torch.device import describe_device, device_name, peak_memory, use_device
from mlxrlhf.backends.torch.heads import Head
from mlxrlhf.backends.torch.model import Model
from mlxrlhf.backends.torch.parallel import world

NAME = "torch"

__all__ = ["NAME", "Head", "Model", "describe_device", "device_name", "memory", "peak_memory", "use_device", "world"]
