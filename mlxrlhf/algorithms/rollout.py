"""From prompts and sampled responses to the arrays PPO works on, in NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from mlxrlhf.algorithms.batch import Batch

#: share of a batch that must have ended before the rest is copied into a smaller one
LEAVE_SHARE = 0.25
#: rows of one batch that is sampled, and of one that the reward stage reads
SAMPLE_ROWS, READ_ROWS = 64, 32


#: lengths are rounded up to multiples of it
STEP = 32
#: prompts up to this length are read together
SHORT = 64


def bucket(length: int, step: int = STEP) -> int:
    """Round a length up, so that a compiled step meets a handful of shapes."""
    return math.ceil(max(length, 1) / step) * step


def distinct(prompts: Sequence[Sequence[int]]) -> tuple[list[Sequence[int]], np.ndarray]:
    """The prompts without repetitions, and for each of `prompts` its place among them."""
    places = {tuple(prompt): i for i, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    return list(places), np.array([places[tuple(prompt)] for prompt in prompts])


def arrange(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad_id: int) -> Batch:
    """Prompts padded on the left, responses on the right, so that responses start in one column.

    Returns tokens and segments (B, P + R) int32 (segment 0 is padding), mask (B, R) float32 over response tokens
    (the end token included), and start = P.
    """
    width, length = bucket(max(map(len, prompts))), bucket(max(map(len, responses)))
    rows = len(prompts)
    tokens = np.full((rows, width + length), pad_id, np.int32)
    segments = np.zeros((rows, width + length), np.int32)
    mask = np.zeros((rows, length), np.float32)
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        if not len(response):
            raise ValueError(f"response {i} is empty: sampling must return at least one token")
        end = width + len(response)
        tokens[i, width - len(prompt) : width] = prompt
        tokens[i, width:end] = response
        segments[i, width - len(prompt) : end] = 1
        mask[i, : len(response)] = 1
    return {"tokens": tokens, "segments": segments, "mask": mask, "start": np.int32(width)}


def pad_right(sequences: Sequence[Sequence[int]], starts: Sequence[int], pad_id: int) -> Batch:
    """Whole sequences, padded on the right, where a causal model cannot see it; the mask counts from each start on.

    starts: index of each answer's first token, at least 1. Returns tokens (B, T) int32, mask (B, T - 1) float32 and
    start = 1.
    """
    width = bucket(max(map(len, sequences)))
    tokens = np.full((len(sequences), width), pad_id, np.int32)
    mask = np.zeros((len(sequences), width - 1), np.float32)
    for i, (sequence, start) in enumerate(zip(sequences, starts, strict=True)):
        tokens[i, : len(sequence)] = sequence
        mask[i, start - 1 : len(sequence) - 1] = 1
    return {"tokens": tokens, "start": np.int32(1), "mask": mask}


def of_similar_length(lengths: Sequence[int], size: int) -> list[np.ndarray]:
    """Numbers of prompts that are read together: at most `size`, none longer than twice the shortest beside it.

    Prompts within one SHORT are all of similar length: splitting those would cost more than their padding.
    """
    groups: list[list[int]] = []
    shortest = 0
    for number in np.argsort(lengths, kind="stable").tolist():
        if not groups or len(groups[-1]) == size or lengths[number] > max(2 * shortest, SHORT):
            groups.append([])
            shortest = lengths[number]
        groups[-1].append(number)
    return [np.sort(group) for group in groups]


def by_length(batch: Batch, rows: np.ndarray, size: int) -> list[np.ndarray]:
    """`rows` in micro-batches of at most `size`, prompts and responses of similar length together."""
    start = int(batch["start"])
    prompts = (batch["segments"][rows, :start] != 0).sum(axis=1)
    responses = batch["mask"][rows].sum(axis=1)
    parts: list[np.ndarray] = []
    for group in of_similar_length(prompts.tolist(), len(rows)):
        order = group[np.lexsort((responses[group], np.ceil(prompts[group] / STEP)))]
        parts += np.array_split(rows[order], math.ceil(len(group) / size))
    return parts


def by_tokens(lengths: Sequence[int], tokens: int, size: int) -> list[np.ndarray]:
    """Numbers of micro-batches of pairs of similar length: at most `size` pairs, and at most `tokens` in a forward.

    lengths: tokens of the longer sequence of each pair. A forward holds two rows for each, padding included; a pair
    above `tokens` is a micro-batch of its own.
    """
    parts: list[list[int]] = []
    for number in np.argsort(lengths, kind="stable").tolist():
        count = len(parts[-1]) + 1 if parts else 1
        if not parts or count > size or 2 * count * bucket(lengths[number]) > tokens:
            parts.append([])
        parts[-1].append(number)
    return [np.array(part) for part in parts]


def cut(batch: Batch, rows: np.ndarray) -> Batch:
    """The chosen rows, without the first and the last columns where those hold only padding."""
    start = int(batch["start"])
    width = bucket(int((batch["segments"][rows, :start] != 0).sum(axis=1).max()))
    length = bucket(int(batch["mask"][rows].sum(axis=1).max()))
    arrays: dict[str, Any] = {**batch, "start": np.int32(width)}
    for name, array in arrays.items():
        if np.ndim(array):
            whole = name in ("tokens", "segments")  # the others begin where the responses do
            arrays[name] = array[rows][:, start - width : start + length] if whole else array[rows][:, :length]
    return cast(Batch, arrays)


def ends(responses: Sequence[Sequence[int]], end_ids: Sequence[int]) -> np.ndarray:
    """True where a response closes with an end token, (B,)."""
    return np.array([response[-1] in end_ids for response in responses])
