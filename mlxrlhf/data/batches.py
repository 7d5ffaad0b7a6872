"""Token arrays to training batches. Every batch is a function of (seed, step): there is no cursor to save."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlxrlhf.algorithms.batch import Batch


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


@dataclass(frozen=True)
class Mixture:
    """Batches with a fixed share of rows from `first`, the rest from `second`; both of one length."""

    first: Rows | Stream
    second: Rows | Stream
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


def packed_rows(examples: Sequence[tuple[Sequence[int], Sequence[int]]], length: int, pad_id: int) -> tuple[Rows, int]:
    """Pack (ids, mask) examples into rows without attending across, first fit in the order given.

    Returns the rows and how many examples were left out because they are longer than a row.
    """
    shelves: list[list[int]] = []
    room: list[int] = []
    left_out = 0
    for i, (ids, _) in enumerate(examples):
        if len(ids) > length:
            left_out += 1
            continue
        # Only the latest shelves are searched: a full search is quadratic and packs hardly better.
        found = next((s for s in range(max(0, len(room) - 64), len(room)) if room[s] >= len(ids)), None)
        if found is None:
            shelves.append([])
            room.append(length)
            found = len(room) - 1
        shelves[found].append(i)
        room[found] -= len(ids)
    tokens = np.full((len(shelves), length), pad_id, np.int32)
    segments, mask = np.zeros_like(tokens), np.zeros_like(tokens)
    for row, shelf in enumerate(shelves):
        at = 0
        for segment, i in enumerate(shelf, start=1):
            ids, counted = examples[i]
            end = at + len(ids)
            tokens[row, at:end], segments[row, at:end], mask[row, at:end] = ids, segment, counted
            mask[row, at] = 0  # nothing in its own segment predicts a first token
            at = end
    return Rows(tokens, segments, mask), left_out


def pick(count: int, size: int, seed: int, step: int) -> np.ndarray:
    """Row numbers of batch `step` (from 0): shuffled passes over `count` rows, each row once a pass."""
    wanted = np.arange(step * size, (step + 1) * size)
    rows = np.empty(size, np.int64)
    for epoch in np.unique(wanted // count):
        inside = wanted // count == epoch
        order = np.random.default_rng([seed, int(epoch)]).permutation(count)
        rows[inside] = order[wanted[inside] % count]
    return rows
