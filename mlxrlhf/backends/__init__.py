"""Array libraries behind one contract (protocol.py); each is imported only when it is asked for."""

from __future__ import annotations

import importlib
import importlib.util

from mlxrlhf.errors import UserError


def load(name: str = "auto"):
    """The backend module `mlx`. Raises UserError when its library is not installed."""
    if name in ("auto", "mlx"):
        if importlib.util.find_spec("mlx") is None:
            raise UserError("MLX is not installed; run: pip install mlx (on Linux: pip install 'mlx[cpu]')")
        return importlib.import_module("mlxrlhf.backends.mlx")
    raise UserError(f"--backend is {name!r}; choose auto or mlx")
