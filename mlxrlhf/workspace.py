"""The folder that weights/, data/ and runs/ hang on: the working folder, or another one (`--root`)."""

from __future__ import annotations

from pathlib import Path

_root = Path()


def use_root(folder: Path) -> None:
    """Let weights/, data/ and runs/ hang on `folder` from now on, in this process."""
    global _root
    _root = Path(folder)


def under_root(path: str | Path) -> Path:
    """A path of ours, seen from the root; one that starts at the file system's root or at home stays as it is."""
    return _root / Path(path).expanduser()
