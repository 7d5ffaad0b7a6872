"""Array libraries behind one contract (protocol.py); each is imported only when it is asked for."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys

from mlxrlhf.errors import UserError

_INSTALL = {"mlx": "pip install mlx (on Linux: pip install 'mlx[cpu]')", "torch": "pip install 'mlxrlhf[torch]'"}


def load(name: str = "auto", device: str = ""):
    """The backend module `mlx` or `torch`, set to a device (empty: the best there is).

    Raises UserError when the library is not installed or the device not there.
    """
    name = choose() if name == "auto" else name
    if name not in _INSTALL:
        raise UserError(f"--backend is {name!r}; choose auto, mlx or torch")
    if importlib.util.find_spec(name) is None:
        library = {"mlx": "MLX", "torch": "PyTorch"}[name]
        raise UserError(f"{library} is not installed; run: {_INSTALL[name]}")
    backend = importlib.import_module(f"mlxrlhf.backends.{name}")
    backend.use_device(device)
    return backend


def choose() -> str:
    """What `auto` means: MLX where it has a GPU, otherwise PyTorch where it is installed, otherwise MLX."""
    installed = {name for name in _INSTALL if importlib.util.find_spec(name)}
    if "mlx" in installed and (_apple_silicon() or _mlx_cuda()):
        return "mlx"
    return "torch" if "torch" in installed else "mlx"


def _apple_silicon() -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"


def _mlx_cuda() -> bool:
    return any((d.name or "").startswith("mlx-cuda") for d in importlib.metadata.distributions())


def host_memory() -> int:
    """Bytes that a process may take on this machine: what is available on Linux, all there is elsewhere."""
    try:
        with open("/proc/meminfo") as stream:
            return 1024 * next(int(line.split()[1]) for line in stream if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else sys.maxsize
