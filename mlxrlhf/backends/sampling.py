"""The bookkeeping of sampling, once for both backends: prompts side by side, and which rows still write."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mlxrlhf.algorithms.rollout import LEAVE_SHARE, distinct


def draws(uniforms: np.ndarray | None) -> np.ndarray | None:
    """Numbers in [0, 1) as float32 below 1: what lies above 1 - 2^-25 would round up to it, and past every token."""
    if uniforms is None:
        return None
    return np.minimum(uniforms.astype(np.float32), np.nextafter(np.float32(1), np.float32(0)))


class Prompts:
    """The distinct prompts of a batch, padded on the left.

    tokens (D, P) int32; real (D, P + max_tokens) bool: which keys of the cache are tokens; copies (B,): the prompt of
    each response; padded: whether any prompt is.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], max_tokens: int, pad_id: int):
        rows, self.copies = distinct(prompts)
        self.width = max(len(row) for row in rows)
        self.tokens = np.full((len(rows), self.width), pad_id, np.int32)
        self.real = np.ones((len(rows), self.width + max_tokens), bool)
        for ids, keys, row in zip(self.tokens, self.real, rows):
            ids[self.width - len(row) :] = row
            keys[: self.width - len(row)] = False
        self.padded = not self.real.all()

    @property
    def repeated(self) -> bool:
        """Whether a prompt has several responses."""
        return len(self.tokens) < len(self.copies)


class Responses:
    """The responses of a batch while they are sampled.

    active: which response each row of the batch writes; a row that has ended stays, unread, until enough have.
    """

    def __init__(self, count: int, stop_ids: Sequence[int], on_token: Callable[[int], None] | None = None):
        self.ids: list[list[int]] = [[] for _ in range(count)]
        self.active: np.ndarray = np.arange(count)
        self._ended = np.zeros(count, bool)
        self._stop_ids, self._on_token = frozenset(stop_ids), on_token

    def add(self, tokens: Sequence[int]) -> None:
        """One token of each row of the batch."""
        for number, token in zip(self.active.tolist(), tokens, strict=True):
            if not self._ended[number]:
                self.ids[number].append(token)
                self._ended[number] = token in self._stop_ids
                if self._on_token and number == 0:
                    self._on_token(token)

    @property
    def finished(self) -> bool:
        """True when every response has ended."""
        return bool(self._ended.all())

    def leave(self) -> np.ndarray | None:
        """Rows of the batch that go on, once so many have ended that a smaller batch pays; otherwise None: all stay."""
        ended = self._ended[self.active]
        if ended.mean() < LEAVE_SHARE:
            return None
        rows = np.flatnonzero(~ended)
        self.active = self.active[rows]
        return rows
