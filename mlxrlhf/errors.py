"""What is said when something goes wrong: by us, in one sentence, or of an error that nobody foresaw."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import traceback
from importlib import metadata


class UserError(Exception):
    """Something the user can put right: one sentence saying what is wrong, where, and what to do."""


def unforeseen(error: BaseException, doing: str) -> str:
    """The sentence about an error that nobody foresaw: what was being done, and where its traceback was written.

    The file holds the traceback, the command and the versions, for its owner's eyes alone.
    """
    what = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    what = what if len(what) <= 300 else what[:297] + "..."
    said = f"{doing} stopped on an error that nobody foresaw ({what})"
    text = "".join(traceback.format_exception(error))
    try:
        descriptor, path = tempfile.mkstemp(prefix="mlxrlhf-error-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{_circumstances()}\n\n{text}")
    except OSError:  # a full disk: the traceback is better on the terminal than nowhere
        return f"{said}; please report it with the command and these lines:\n{text}"
    return f"{said}; please report it with the file {path}, which holds the command, the versions and the traceback"


def _circumstances() -> str:
    versions = []
    for name in ("mlxrlhf", "mlx", "mlx-lm", "torch", "transformers", "numpy"):
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    machine = f"{platform.platform()}, Python {platform.python_version()}"
    return f"command: {sys.argv!r}\n{machine}\n{', '.join(versions)}"
