"""The device that PyTorch computes on."""

from __future__ import annotations

import os
import platform
import sys

import torch

from mlxrlhf import parallel
from mlxrlhf.errors import UserError

_device = torch.device("cpu")


def device() -> torch.device:
    """Where models made from now on live."""
    return _device


def use_device(name: str = "") -> None:
    """Put every model made from now on onto cuda, mps or cpu; the first of them that is there when empty.

    Of several processes each takes a GPU of its own. Raises UserError for a device that is not there.
    """
    global _device
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    there = [kind for kind, usable in available.items() if usable]
    name = name or there[0]
    if name.partition(":")[0] not in there:
        raise UserError(f"--device {name} is not available to PyTorch here; choose one of {', '.join(there)}")
    _device = torch.device(_own_gpu() if name == "cuda" else name)
    if _device.type == "cuda":
        torch.cuda.set_device(_device)


def _own_gpu() -> str:
    """cuda, or of several processes on one machine each its own: torchrun numbers them in LOCAL_RANK.

    Raises UserError where there are more processes than GPUs.
    """
    if parallel.world()[1] == 1 or "LOCAL_RANK" not in os.environ:
        return "cuda"
    number, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if number >= count:
        raise UserError(f"process {number} of this machine finds no GPU of its own: there are {count}; start fewer")
    return f"cuda:{number}"


def device_name() -> str:
    """The device in use, as `use_device` takes it."""
    return str(_device)


def peak_memory() -> int:
    """Most bytes held at once: by tensors on CUDA, by the driver (now) on MPS, by the process on the CPU.

    0 where the platform does not say.
    """
    if _device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    if _device.type == "mps":
        return torch.mps.driver_allocated_memory()
    try:
        import resource  # not on Windows
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def describe_device() -> dict[str, str]:
    """What `mlxrlhf doctor` prints of the device."""
    memory = None
    if _device.type == "cuda":
        memory = torch.cuda.get_device_properties(_device).total_memory
    elif _device.type == "mps":
        memory = torch.mps.recommended_max_memory()
    return {
        "torch": torch.__version__,
        "device": f"cuda ({torch.cuda.get_device_name()})" if _device.type == "cuda" else _device.type,
        "machine": platform.platform(),
        "memory": "unknown" if memory is None else f"{memory / 2**30:.0f} GB",
        "blas": "MKL" if torch.backends.mkl.is_available() else "torch's own",
        "threads": str(torch.get_num_threads()),
    }
