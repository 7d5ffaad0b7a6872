"""The reward model: a two-layer head on the last-token features of a frozen base (Ziegler et al. 2019; Stiennon 2020).

The base never changes, so it runs once over the pairs; every epoch after that trains the head on cached features.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlxrlhf.algorithms.rollout import bucket
from mlxrlhf.config import RewardConfig
from mlxrlhf.data.batches import pick


@dataclass(frozen=True)
class EncodedPair:
    """Token ids of prompt and answer, the end token included, and what the preference was about."""

    chosen: list[int]
    rejected: list[int]
    criterion: str


def features(base, sequences: Sequence[Sequence[int]], pad_id: int, batch_size: int = 32) -> np.ndarray:
    """Hidden state of the frozen base at each sequence's last token, (N, d) float32; adapters, if any, are off.

    Sequences are taken in order of length, so that a batch is hardly padded.
    """
    order = np.argsort([len(s) for s in sequences], kind="stable")
    out = None
    for at in range(0, len(order), batch_size):
        rows = order[at:at + batch_size]
        width = bucket(max(len(sequences[i]) for i in rows))
        tokens = np.full((len(rows), width), pad_id, np.int32)
        for row, i in zip(tokens, rows):
            row[:len(sequences[i])] = sequences[i]
        last = np.array([len(sequences[i]) - 1 for i in rows], np.int32)
        # Padding lies to the right of every real token, where a causal model cannot see it.
        batch = {"tokens": tokens, "start": np.int32(1), "last": last}
        found = base.evaluate(batch, ("features",), adapters=False)["features"]
        out = np.empty((len(sequences), found.shape[1]), np.float32) if out is None else out
        out[rows] = found
    return out


def accuracy(head, chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    """Per pair: 1 where the chosen answer scores higher, 0.5 on a tie; features (N, d) -> (N,)."""
    difference = head.scores(chosen) - head.scores(rejected)
    return (np.sign(difference) + 1) / 2


def by_criterion(correct: np.ndarray, pairs: Sequence[EncodedPair]) -> dict[str, float]:
    """Mean accuracy for each criterion."""
    groups = defaultdict(list)
    for value, pair in zip(correct, pairs):
        groups[pair.criterion].append(value)
    return {name: float(np.mean(values)) for name, values in sorted(groups.items())}


def train_head(head, chosen: np.ndarray, rejected: np.ndarray, config: RewardConfig, *, start: int = 0,
               on_step=lambda step, metrics: None) -> None:
    """`num_epochs` passes of the chosen loss over cached features (N, d), from optimizer step `start`."""
    size = min(config.batch_size, len(chosen))
    total = config.num_epochs * -(-len(chosen) // size)
    for step in range(start, total):
        rows = pick(len(chosen), size, config.seed, step)
        rate = config.learning_rate * (1 - step / total)
        on_step(step + 1, {**head.step(config.loss, config.margin, chosen[rows], rejected[rows], rate), "lr": rate})


@dataclass(frozen=True)
class Normaliser:
    """Mean and deviation of scores over reference answers: a ranking loss leaves both arbitrary."""

    mean: float
    std: float

    @classmethod
    def fit(cls, scores: np.ndarray) -> Normaliser:
        return cls(float(scores.mean()), float(max(scores.std(), 1e-6)))

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        return ((scores - self.mean) / self.std).astype(np.float32)
