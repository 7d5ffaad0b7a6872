"""What a training batch holds, by name and shape: the stages make it, the backends and the objectives read it."""

from __future__ import annotations

from typing import Required, TypedDict

import numpy as np


class Batch(TypedDict, total=False):
    """B rows of T tokens; the columns from `start` on are predicted, R = T - start of them. Ids are int32, the rest
    float32. Inside a backend the same names hold its own arrays."""

    #: (B, T) ids
    tokens: Required[np.ndarray]
    #: () first column that is predicted, at least 1: the state one column to its left predicts it
    start: Required[int | np.integer]
    #: (B, T) int32: documents of a packed row, numbered from 1, do not see each other; 0 is padding. Absent: all 1
    segments: np.ndarray
    #: (B, R) 1 where a token counts. With it, what is predicted is computed only there and is 0 elsewhere
    mask: np.ndarray
    #: () counted tokens (pairs, in the objectives of pairs) of the whole optimizer step, all processes together
    total: np.ndarray | np.floating

    # PPO and GRPO
    #: (B, R) log-probability of each token when it was sampled, by the training forward
    old_logp: np.ndarray
    #: (B, R) PPO: the value head's estimate then
    old_value: np.ndarray
    #: (B, R)
    advantages: np.ndarray
    #: (B, R) PPO: what the value head learns
    returns: np.ndarray
    #: () weight of the KL in the loss
    kl_coef: np.ndarray | np.floating
    #: (B, R, d) PPO with the KL in the loss: the reference's states that predict each token
    reference_hidden: np.ndarray

    #: GRPO: (B, R) log-probabilities of the reference. DPO: (B,) summed over each answer
    ref_logp: np.ndarray
    #: GRPO: (B, R) weights of the tokens, 1 in sum over the step. Pairs: (B / 2,) weights of the pairs, 1 on average
    weight: np.ndarray
