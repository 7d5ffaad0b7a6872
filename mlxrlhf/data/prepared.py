"""Prepared data as a set: manifest.json names every file of DATA_DIR/SIZE, its sha256, and whose ids it holds.

A part is built beside its place; its files then take their places one by one, and the manifest is written last. A
reader that finds another file than the manifest says knows that a part was replaced half-way.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mlxrlhf import files
from mlxrlhf.errors import UserError

MANIFEST = "manifest.json"


@contextlib.contextmanager
def writing(folder: Path, tokenizer: str = "", say: files.Say = print) -> Iterator[Path]:
    """Yield an empty folder; when the block ends well its files take their places in `folder`, then the manifest.

    A file there that somebody else wrote or changed is set aside as NAME.old-1, which is said.
    tokenizer: the fingerprint of the tokenizer whose ids the .npy files hold. Raises UserError where nothing can be
    written, or another process is writing there.
    """
    try:
        files.make_folder(folder)
        with files.locked(folder), files.scratch(folder / "part") as new:
            yield new
            _put(new, folder, tokenizer, say)
    except BaseException as error:
        if files.is_file_system_error(error):
            raise UserError(f"cannot write to {folder}: {files.reason(error)}; choose another --data-dir") from None
        raise


def _put(new: Path, folder: Path, tokenizer: str, say: files.Say) -> None:
    names = [str(name) for name in files.walk(new) if str(name) != files.MARKER]
    entries = {name: _describe(new / name, tokenizer) for name in names}
    for name in names:
        files.sync(new / name)
    before = _read(folder)
    for name in names:
        _set_aside(folder / name, before.get(name), entries[name]["sha256"], say)
    # What will come is written down first: a file that is there when this is killed is known as ours.
    coming = {name: {**(before.get(name) or {}), "next": entry["sha256"]} for name, entry in entries.items()}
    _write(folder, {**before, **coming})
    for name in names:
        os.replace(new / name, folder / name)
    files.sync(folder)
    _write(folder, {**before, **entries})


def _set_aside(path: Path, entry: Any, new: str, say: files.Say) -> None:
    """Move a file that somebody else wrote or changed out of the way, unless it is the one that will be written."""
    if not os.path.lexists(path):
        return
    known = entry if isinstance(entry, dict) else {}
    if path.is_file() and files.digest(path) in (new, known.get("sha256"), known.get("next")):
        return
    aside = files.set_aside_name(path)
    os.rename(path, aside)
    say(f"{path} is not as mlxrlhf prepare wrote it; it is now {aside}")


def _describe(path: Path, tokenizer: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"sha256": files.digest(path)}
    if path.suffix == ".npy":
        ids = np.load(path, mmap_mode="r")
        entry |= {"tokenizer": tokenizer, "highest": int(ids.max()) if ids.size else -1}
    return entry


def load_ids(folder: Path, name: str, command: str, tokenizer: str, vocabulary: int) -> np.ndarray:
    """A memory-mapped array of ids of the prepared data, of the tokenizer with this fingerprint and vocabulary.

    Raises UserError, naming `command`, where it was not prepared, is damaged, or was replaced half-way.
    """
    path = Path(folder) / name
    if not path.is_file():
        raise UserError(f"{path} does not exist; run: {command}")
    entry = _read(folder).get(name)
    if not isinstance(entry, dict):
        raise UserError(f"{path} is not in {MANIFEST}: it was prepared by an earlier version; run again: {command}")
    if entry.get("tokenizer") != tokenizer:
        raise UserError(
            f"{path} holds ids of the tokenizer {entry.get('tokenizer')}, and {folder / 'tokenizer'} is {tokenizer}: "
            f"the data were prepared in part; run again: {command}"
        )
    if entry.get("sha256") != files.digest(path):
        raise UserError(f"{path} is not what {MANIFEST} says: it is damaged or half replaced; run again: {command}")
    try:
        ids = np.load(path, mmap_mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}); run again: {command}") from None
    if not ids.size or ids.dtype.kind not in "iu":
        raise UserError(f"{path} holds no ids; run again: {command}")
    if int(entry.get("highest", -1)) >= vocabulary:
        raise UserError(
            f"{path} holds the id {entry['highest']}, beyond the vocabulary of {vocabulary:,}; run again: {command}"
        )
    return ids


def _read(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((Path(folder) / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(folder: Path, entries: dict[str, Any]) -> None:
    files.atomic_text(folder / MANIFEST, json.dumps(entries, indent=1) + "\n")
