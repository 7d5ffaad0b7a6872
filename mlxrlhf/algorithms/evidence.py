"""What a reward model's accuracy is worth: calibration, dependence on length, and what plain counting achieves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: what the counting baseline looks at: its matrix stays below 350 MB
MOST_TOKENS, MOST_PAIRS = 4_096, 20_000


@dataclass(frozen=True)
class Bin:
    """Predictions between `low` and `high`: how many, their mean, and how often what they predict holds."""

    low: float
    high: float
    count: int
    predicted: float
    observed: float


def calibration(differences: np.ndarray, bins: int = 10) -> list[Bin]:
    """Predicted against observed preferences; empty bins are left out (Bradley and Terry 1952; Guo et al. 2017).

    differences: r_chosen - r_rejected of held-out pairs, (N,). The model gives an answer the probability
    p = 1 / (1 + exp(-difference)) of being the preferred one. Every pair counts in both orders, as p of the chosen
    answer (it holds) and 1 - p of the rejected one (it does not): the order in which a pair is written says nothing.
    """
    p = _sigmoid(np.asarray(differences, np.float64))
    predicted = np.concatenate([p, 1 - p])
    holds = np.concatenate([np.ones_like(p), np.zeros_like(p)])
    place = np.minimum((predicted * bins).astype(int), bins - 1)
    return [
        Bin(i / bins, (i + 1) / bins, int(inside.sum()), float(predicted[inside].mean()), float(holds[inside].mean()))
        for i in range(bins)
        if (inside := place == i).any()
    ]


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """sum over bins of count / N * |observed - predicted| (Guo et al. 2017, eq. 3)."""
    return sum(b.count * abs(b.observed - b.predicted) for b in bins) / sum(b.count for b in bins)


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's r; 0 where one of them does not vary."""
    x, y = np.asarray(x, np.float64) - np.mean(x), np.asarray(y, np.float64) - np.mean(y)
    scale = np.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum() / scale) if scale > 0 else 0.0


def wins(differences: np.ndarray) -> np.ndarray:
    """1 for a positive difference of scores, 0.5 for a tie, 0 for a negative one."""
    return (np.sign(differences) + 1) / 2


@dataclass(frozen=True)
class Change:
    """A mean difference after - before, and half the width of its 95% interval (NaN for a single prompt)."""

    difference: float
    interval: float

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval leaves out zero."""
        return abs(self.difference) > self.interval


def paired_change(before: np.ndarray, after: np.ndarray, prompts: Sequence[object]) -> Change:
    """The change of a measure between two models that answered the same prompts, (N,) each; NaN: no value.

    Answers to one prompt are not independent, so each prompt counts once, by the mean of its differences. The interval
    is 1.96 standard errors of those means (Miller 2024, "Adding Error Bars to Evals", section 2.3 and 4.2).

    >>> paired_change(np.array([0.0, 0, 1, 1]), np.array([1.0, 1, 1, 1]), ["a", "a", "b", "b"]).difference
    0.5
    """
    by_prompt: dict[object, list[float]] = {}
    for prompt, difference in zip(prompts, np.asarray(after, float) - np.asarray(before, float), strict=True):
        if not np.isnan(difference):
            by_prompt.setdefault(prompt, []).append(float(difference))
    means = np.array([np.mean(differences) for differences in by_prompt.values()])
    if not len(means):
        return Change(float("nan"), float("nan"))
    error = means.std(ddof=1) / np.sqrt(len(means)) if len(means) > 1 else float("nan")
    return Change(float(means.mean()), float(1.96 * error))


def token_margins(
    train: Sequence[tuple[Sequence[int], Sequence[int]]],
    held_out: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    penalty: float = 1.0,
    steps: int = 500,
) -> np.ndarray:
    """By how much a judge that only counts tokens prefers the chosen answer of each held-out pair, (pairs,).

    A logistic regression P(chosen over rejected) = sigmoid(w . (counts_chosen - counts_rejected)) without intercept,
    with penalty / 2 * |w|^2 beside the summed loss, by Nesterov's accelerated gradient. Pairs are (chosen, rejected)
    token ids. Only the MOST_TOKENS most frequent tokens of the first MOST_PAIRS training pairs count.
    """
    train = train[:MOST_PAIRS]
    frequent = Counter(i for pair in train for side in pair for i in side).most_common(MOST_TOKENS)
    pieces = {i: column for column, (i, _) in enumerate(frequent)}
    x, unseen = _count_differences(train, pieces), _count_differences(held_out, pieces)
    # The gradient's steepest change: |X|^2 / 4 + penalty, with |X|^2 by power iteration.
    v = np.random.default_rng(0).normal(size=(x.shape[1],)).astype(np.float32)
    for _ in range(30):
        v = x.T @ (x @ v)
        v /= max(float(np.linalg.norm(v)), 1e-12)
    rate = 1 / (np.linalg.norm(x @ v) ** 2 / 4 * 1.05 + penalty)
    w = ahead = np.zeros_like(v)
    for k in range(steps):
        gradient = penalty * ahead - x.T @ _sigmoid(-(x @ ahead))
        after = ahead - rate * gradient
        ahead = after + k / (k + 3) * (after - w)
        w = after
    return unseen @ w


def _count_differences(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], pieces: dict[int, int]) -> np.ndarray:
    """(N, V) float32: how often each piece occurs in chosen less how often in rejected."""
    x = np.zeros((len(pairs), len(pieces)), np.float32)
    for row, (chosen, rejected) in zip(x, pairs):
        for ids, sign in ((chosen, 1), (rejected, -1)):
            np.add.at(row, np.array([pieces[i] for i in ids if i in pieces], int), sign)
    return x


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))
