"""What an artefact depends on, as digests: of a trunk's weights, of a tokenizer with its template, of data.

A reward head scores the states of one trunk, adapters change one trunk, a save continues one run on one set of data.
Each carries the digests of what it was made with; they are compared when it is used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import mmap
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlxrlhf import files
from mlxrlhf.errors import UserError
from mlxrlhf.models import published

#: what decides how text becomes ids, beside the chat template
TOKENIZER_PARTS = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json")
#: from this size on a digest is remembered between runs, by the file's size and time
REMEMBERED_BYTES = 2**26
#: characters of a digest: 64 bits, enough to tell two artefacts apart
LENGTH = 16

_known: dict[tuple[str, ...], str] = {}


def trunk_digest(folder: Path, pattern: str = "model*.safetensors") -> str:
    """Digest of every tensor's name, type, shape and bytes, however they are spread over files. Raises UserError."""
    paths = sorted(Path(folder).glob(pattern))
    if not paths:
        raise UserError(f"{folder} holds no {pattern}; the checkpoint is incomplete")
    return _remembered("weights", paths, _tensors_digest)


def data_digest(paths: Iterable[Path]) -> str:
    """Digest of the content of data files, in the order given; their names do not count. Raises UserError."""
    return _remembered("data", list(paths), _contents_digest)


def content_digest(value: Any) -> str:
    """Digest of what is in memory: arrays, text, numbers, and sequences, mappings and dataclasses of them."""
    digest = hashlib.sha256()
    _add(digest, value)
    return digest.hexdigest()[:LENGTH]


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).view(np.uint8).data)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _add(digest, [getattr(value, f.name) for f in dataclasses.fields(value)])
    elif isinstance(value, Mapping):
        _add(digest, sorted(value.items()))
    elif isinstance(value, (list, tuple)) and not all(isinstance(part, int) for part in value):
        digest.update(f"{len(value)} parts".encode())
        for part in value:
            _add(digest, part)
    else:
        digest.update(repr(value).encode("utf-8", "surrogatepass"))


def tokenizer_digest(folder: Path) -> str:
    """Digest of a tokenizer's vocabulary and of its chat template. Raises UserError where there is no tokenizer."""
    folder = Path(folder)
    parts = {name: folder / name for name in TOKENIZER_PARTS if (folder / name).is_file()}
    if not parts:
        raise UserError(f"{folder} has no tokenizer.json; run: mlxrlhf prepare tokenizer")
    digest = hashlib.sha256()
    for name, path in parts.items():
        digest.update(f"{name} {files.digest(path)}\n".encode())
    digest.update(_template(folder).encode("utf-8", "replace"))
    return digest.hexdigest()[:LENGTH]


def check_same(saved: Mapping[str, str], now: Mapping[str, str], subject: str, remedy: str) -> None:
    """Raises UserError for the first thing, named by its key, whose digest differs, naming both sides.

    subject: what carries the digests `saved`. Keys of one side only are not compared.
    """
    for name, digest in saved.items():
        if name in now and now[name] != digest:
            raise UserError(
                f"{subject} was made with another {name} ({digest}) than it would meet ({now[name]}); {remedy}"
            )


# --- how they are taken ------------------------------------------------------------------------------------------


def _template(folder: Path) -> str:
    with contextlib.suppress(OSError):
        return (folder / "chat_template.jinja").read_text(encoding="utf-8", errors="replace")
    with contextlib.suppress(OSError, ValueError, RecursionError, AttributeError):
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        return json.dumps(settings.get("chat_template"), sort_keys=True)
    return ""


def _tensors_digest(paths: Sequence[Path]) -> str:
    where: dict[str, tuple[Path, str, int, int]] = {}
    for path in paths:
        with open(path, "rb") as stream:
            size = struct.unpack("<Q", stream.read(8))[0]
            header = json.loads(stream.read(min(size, 100_000_000)))
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = (8 + size + offset for offset in entry["data_offsets"])
                where[name] = path, f"{name} {entry['dtype']} {entry['shape']}", start, end
    digest = hashlib.sha256()
    with contextlib.ExitStack() as held:
        opened: dict[Path, mmap.mmap] = {}
        for path in {entry[0] for entry in where.values()}:
            stream = held.enter_context(open(path, "rb"))
            opened[path] = held.enter_context(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        for name in sorted(where):
            path, described, start, end = where[name]
            digest.update(described.encode())
            with memoryview(opened[path]) as content, content[start:end] as part:
                digest.update(part)
    return digest.hexdigest()[:LENGTH]


def _contents_digest(paths: Sequence[Path]) -> str:
    return hashlib.sha256("".join(files.digest(path) for path in paths).encode()).hexdigest()[:LENGTH]


def _remembered(kind: str, paths: Sequence[Path], take) -> str:
    """The digest of files as it was taken before, where none of them has changed since."""
    try:
        stamps = [os.stat(path) for path in paths]
        places = [os.path.realpath(path) for path in paths]
        key = (kind, *(f"{p} {s.st_size} {s.st_mtime_ns}" for p, s in zip(places, stamps, strict=True)))
        if key in _known:
            return _known[key]
        large = sum(s.st_size for s in stamps) >= REMEMBERED_BYTES
        store = published.cache().parent / "digests.json"
        name = hashlib.sha256("\n".join(key).encode("utf-8", "surrogateescape")).hexdigest()
        before = _read(store) if large else {}
        _known[key] = before[name] if name in before else take(paths)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise UserError(
            f"{', '.join(map(str, paths))} cannot be read ({error}); copy it again or make it again"
        ) from None
    if large and name not in before:
        with contextlib.suppress(OSError):  # a home that cannot be written costs time only
            files.make_folder(store.parent)
            files.atomic_text(store, json.dumps({**_read(store), name: _known[key]}))
    return _known[key]


def _read(store: Path) -> dict[str, str]:
    try:
        content = json.loads(store.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    good = isinstance(content, dict) and all(isinstance(value, str) for value in content.values())
    return content if good else {}
