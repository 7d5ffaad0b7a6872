"""Array libraries behind one contract (protocol.py); each is imported only when it is asked for."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
import sys
import typing

from mlxrlhf.errors import UserError

if typing.TYPE_CHECKING:  # the libraries themselves are imported when they are asked for
    from mlxrlhf.backends import mlx, torch
    from mlxrlhf.backends.protocol import Backend

    _keep_the_contract: tuple[Backend, Backend] = (mlx, torch)

_INSTALL = {"mlx": "pip install mlx (on Linux: pip install 'mlx[cpu]')", "torch": "pip install 'mlxrlhf[torch]'"}


def load(name: str = "auto", device: str = "") -> Backend:
    """The backend `mlx` or `torch`, a module, set to a device (empty: the best there is).

    Raises UserError when the library is not installed or the device not there.
    """
    name = choose() if name == "auto" else name
    if name not in _INSTALL:
        raise UserError(f"--backend is {name!r}; choose auto, mlx or torch")
    if importlib.util.find_spec(name) is None:
        library = {"mlx": "MLX", "torch": "PyTorch"}[name]
        raise UserError(f"{library} is not installed; run: {_INSTALL[name]}")
    backend = typing.cast("Backend", importlib.import_module(f"mlxrlhf.backends.{name}"))
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
