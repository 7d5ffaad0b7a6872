"""Files written so that a reader sees the old one or the new one, never half of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mlxrlhf.errors import UserError


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the block ends well, and vanishes when it does not.

    A folder already at `path` is replaced; sub-folders of the old one (save points, reports) are kept.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise UserError(f"cannot write to {path}: {error.strerror}; choose another folder with --out") from None
    try:
        yield temporary
        for file in temporary.iterdir():
            _fsync(file)
        os.chmod(temporary, 0o755)
        if path.exists():
            for kept in path.iterdir():
                if not (temporary / kept.name).exists() and not kept.name.endswith(".safetensors"):
                    shutil.move(kept, temporary / kept.name)
            old = path.with_name(f".{path.name}-old-{os.getpid()}")
            os.rename(path, old)
            os.rename(temporary, path)
            shutil.rmtree(old)
        else:
            os.rename(temporary, path)
        _fsync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def atomic_text(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, never half of it."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    _fsync(temporary)
    os.replace(temporary, path)
