"""Token arrays to training batches. Every batch is a function of (seed, step): there is no cursor to save."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, TypeAlias

import numpy as np

from mlxrlhf.algorithms.batch import Batch
from mlxrlhf.errors import UserError


@dataclass(frozen=True)
class Rows:
    """Fixed-length rows ready to train on: tokens, segments and mask (N, T); mask counts a token as a target."""

    tokens: np.ndarray
    segments: np.ndarray
    mask: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def length(self) -> int:
        return self.tokens.shape[1]

    def draw(self, size: int, seed: int, step: int) -> Rows:
        """The rows of batch `step`."""
        return self.take(pick(len(self), size, seed, step))

    def take(self, rows: np.ndarray) -> Rows:
        """The chosen rows."""
        return Rows(self.tokens[rows], self.segments[rows], self.mask[rows])

    def batch(self) -> Batch:
        """All rows as the backend takes them; column t is predicted from the columns before it."""
        mask = self.mask[:, 1:].astype(np.float32)
        batch: Batch = {
            "tokens": self.tokens.astype(np.int32),
            "start": np.int32(1),
            "mask": mask,
            "total": np.float32(max(mask.sum(), 1)),
        }
        segments = self.segments.astype(np.int32)
        if (segments != 1).any():
            batch["segments"] = segments
        return batch


@dataclass(frozen=True)
class Stream:
    """Rows of `length` cut from one long memory-mapped array of documents, each document closed by `end_id`.

    A row may hold the end of one document and the start of the next: they are segments that do not see each other.
    """

    tokens: np.ndarray
    length: int
    end_id: int

    def __len__(self) -> int:
        return len(self.tokens) // self.length

    def draw(self, size: int, seed: int, step: int) -> Rows:
        """The rows of batch `step`."""
        return self.take(pick(len(self), size, seed, step))

    def take(self, rows: np.ndarray) -> Rows:
        """The chosen rows, read from disk."""
        tokens = np.stack([self.tokens[r * self.length : (r + 1) * self.length] for r in rows]).astype(np.int32)
        first = np.zeros_like(tokens)
        first[:, 1:] = tokens[:, :-1] == self.end_id  # a document starts after an end token
        return Rows(tokens, 1 + np.cumsum(first, axis=1), 1 - first)


Source: TypeAlias = "Rows | Stream | PackedRows | Mixture"


@dataclass(frozen=True)
class Mixture:
    """Batches with a fixed share of rows from `first`, the rest from `second`; both of one length."""

    first: Source
    second: Source
    share: float

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    @property
    def length(self) -> int:
        return self.first.length

    def draw(self, size: int, seed: int, step: int) -> Rows:
        """The rows of batch `step`, those of `first` first."""
        # Floors of consecutive multiples, so that the share also holds where share * size is no whole number.
        count = int((step + 1) * size * self.share) - int(step * size * self.share)
        parts = [part.draw(n, seed, step) for part, n in ((self.first, count), (self.second, size - count)) if n]
        return Rows(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("tokens", "segments", "mask")))


class Packer:
    """Packs (ids, mask) examples into rows without attending across, first fit in the order given.

    Finished rows go to a temporary file, so that data of any size takes the memory of the rows still open.
    """

    #: rows that still take examples: a full search is quadratic and packs hardly better
    OPEN = 64

    def __init__(self, length: int, pad_id: int):
        self.length, self.pad_id = length, pad_id
        self._form = np.dtype([("tokens", "i4", length), ("segments", "i4", length), ("mask", "i1", length)])
        self._file = tempfile.TemporaryFile()
        self._digest = hashlib.sha256()
        self._open: list[np.ndarray] = []
        self._used: list[int] = []
        self._written = 0

    def __len__(self) -> int:
        """Rows begun so far."""
        return self._written + len(self._open)

    def add(self, ids: Sequence[int], mask: Sequence[int]) -> bool:
        """Put an example into a row; False when it is longer than one."""
        if len(ids) > self.length:
            return False
        at = next((i for i, used in enumerate(self._used) if used + len(ids) <= self.length), None)
        if at is None:
            at = self._begin()
        row, start, end = self._open[at], self._used[at], self._used[at] + len(ids)
        row["tokens"][start:end], row["mask"][start:end] = ids, mask
        row["segments"][start:end] = row["segments"][start - 1] + 1 if start else 1
        row["mask"][start] = 0  # nothing in its own segment predicts a first token
        self._used[at] = end
        return True

    def _begin(self) -> int:
        if len(self._open) == self.OPEN:
            self._write(1)
        row = np.zeros((), self._form)
        row["tokens"] = self.pad_id
        self._open.append(row)
        self._used.append(0)
        return len(self._open) - 1

    def _write(self, count: int) -> None:
        """Close the oldest rows. Raises UserError when the disk is full."""
        content = b"".join(row.tobytes() for row in self._open[:count])
        self._digest.update(content)
        try:
            self._file.write(content)
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"the packed data cannot be written to {tempfile.gettempdir()} ({error.strerror}); make room there, or "
                "name another folder in the environment variable TMPDIR"
            ) from None
        self._written += count
        del self._open[:count], self._used[:count]

    def rows(self) -> PackedRows:
        """All rows, in the order in which they were begun. Nothing can be added afterwards."""
        self._write(len(self._open))
        return PackedRows(self._file, self._form, self._written, self._digest.hexdigest())


class PackedRows:
    """The rows of a Packer, read from its file when they are drawn."""

    def __init__(self, file: IO[bytes], form: np.dtype, count: int, digest: str):
        self.file, self.form, self.count, self.digest = file, form, count, digest

    def __repr__(self) -> str:
        """The same for the same rows: by it a resumed run knows its data (models/identity.py)."""
        return f"{self.count} packed rows of {self.length} tokens, sha256 {self.digest}"

    def __len__(self) -> int:
        return self.count

    @property
    def length(self) -> int:
        return self.form["tokens"].shape[0]

    def draw(self, size: int, seed: int, step: int) -> Rows:
        """The rows of batch `step`."""
        return self.take(pick(len(self), size, seed, step))

    def take(self, rows: np.ndarray) -> Rows:
        """The chosen rows."""
        size = self.form.itemsize
        content = b"".join(os.pread(self.file.fileno(), size, int(row) * size) for row in rows)
        records = np.frombuffer(content, self.form)
        return Rows(records["tokens"], records["segments"], records["mask"].astype(np.int32))


def pick(count: int, size: int, seed: int, step: int) -> np.ndarray:
    """Row numbers of batch `step` (from 0): shuffled passes over `count` rows, each row once a pass."""
    wanted = np.arange(step * size, (step + 1) * size)
    rows = np.empty(size, np.int64)
    for epoch in np.unique(wanted // count):
        inside = wanted // count == epoch
        order = np.random.default_rng([seed, int(epoch)]).permutation(count)
        rows[inside] = order[wanted[inside] % count]
    return rows
