"""Rewards, returns and advantages of a rollout, in NumPy. All arrays are (B, T) float32; masks count 1."""

from __future__ import annotations

import numpy as np


def kl_estimate(logp: np.ndarray, ref_logp: np.ndarray, kind: str = "k1") -> np.ndarray:
    """Per-token estimate of KL(policy || reference) from samples of the policy (Schulman 2020).

    With r = p_ref / p: k1 = -log r (unbiased), k2 = (log r)^2 / 2, k3 = (r - 1) - log r (unbiased, never negative).
    """
    log_ratio = ref_logp - logp
    if kind == "k1":
        return -log_ratio
    if kind == "k2":
        return np.square(log_ratio) / 2
    if kind == "k3":
        return np.expm1(log_ratio) - log_ratio
    raise ValueError(f"unknown KL estimator {kind!r}")


def shaped_rewards(scores: np.ndarray, kl: np.ndarray, mask: np.ndarray, beta: float) -> np.ndarray:
    """-beta * KL on every response token, and the score (B,) on the last one (Ziegler et al. 2019, eq. 2)."""
    rewards = -beta * kl * mask
    rewards[np.arange(len(scores)), last_index(mask)] += scores
    return rewards.astype(np.float32)


def last_index(mask: np.ndarray) -> np.ndarray:
    """Index of the last counted position of each row, (B,)."""
    return mask.shape[1] - 1 - np.argmax(mask[:, ::-1] > 0, axis=1)


def gae(
    rewards: np.ndarray, values: np.ndarray, mask: np.ndarray, gamma: float, lam: float
) -> tuple[np.ndarray, np.ndarray]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16) and the returns it implies.

    delta_t = r_t + gamma V_{t+1} - V_t;  A_t = delta_t + gamma lam A_{t+1};  R_t = A_t + V_t.
    Counted positions are contiguous; the value after the last one is 0, for the episode ends there.
    """
    advantages = np.zeros_like(rewards, dtype=np.float64)
    running = np.zeros(len(rewards))
    following = np.zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * following - values[:, t]
        running = (delta + gamma * lam * running) * mask[:, t]
        following = values[:, t] * mask[:, t]
        advantages[:, t] = running
    returns = (advantages + values) * mask
    return advantages.astype(np.float32), returns.astype(np.float32)


def group_advantages(scores: np.ndarray, size: int, *, scale: bool = True) -> np.ndarray:
    """Scores (B,) relative to the other responses to their prompt (Shao et al. 2024, section 4.1.2), (B,).

    Rows of a prompt are adjacent, `size` of them. A_i = (r_i - mean(r)) / (std(r) + 1e-4); without `scale` the
    deviation is left out (Liu et al. 2025). A group that scores alike gets zeros.
    """
    groups = scores.reshape(-1, size).astype(np.float64)
    centred = groups - groups.mean(axis=1, keepdims=True)
    if scale:
        centred /= groups.std(axis=1, keepdims=True) + 1e-4
    return centred.reshape(-1).astype(np.float32)


def token_weights(mask: np.ndarray, loss_type: str, max_tokens: int) -> np.ndarray:
    """Weight of each token in GRPO's loss, (B, T), by TRL's names for the loss.

    grpo: 1 / length of its response, averaged over responses (Shao et al. 2024); dapo: all tokens alike (Yu et al.
    2025); dr_grpo: 1 / max_tokens, averaged over responses, so that length changes nothing (Liu et al. 2025).
    """
    if loss_type == "grpo":
        weight = mask / mask.sum(axis=1, keepdims=True) / len(mask)
    elif loss_type == "dapo":
        weight = mask / mask.sum()
    elif loss_type == "dr_grpo":
        weight = mask / (max_tokens * len(mask))
    else:
        raise ValueError(f"unknown loss type {loss_type!r}")
    return weight.astype(np.float32)


def whiten(x: np.ndarray, mask: np.ndarray, *, shift_mean: bool) -> np.ndarray:
    """Scale counted entries to unit population variance; remove their mean only when `shift_mean`.

    Advantages lose their mean; rewards keep it, for removing it would change which behaviour pays.
    """
    count = mask.sum()
    mean = (x * mask).sum() / count
    variance = (np.square(x - mean) * mask).sum() / count
    scaled = (x - mean) / np.sqrt(variance + 1e-8)
    return ((scaled if shift_mean else scaled + mean) * mask).astype(np.float32)


def explained_variance(values: np.ndarray, returns: np.ndarray, mask: np.ndarray) -> float:
    """1 - Var(returns - values) / Var(returns) over counted entries; 0 says the value head predicts nothing."""
    kept = mask > 0
    variance = returns[kept].var()
    return float(1 - (returns[kept] - values[kept]).var() / variance) if variance > 0 else 0.0


class KLController:
    """Fixed or adaptive weight of the KL penalty (after Ziegler et al. 2019, section 2.2).

    With a target, beta is multiplied by 1 + clip(kl / target - 1, -0.2, 0.2) * rate after every update. Two things
    differ from the paper's. Beta never falls below where it starts: a policy starts at its reference, where a KL of 0
    says nothing of the penalty, and lowering it until the target is met overshoots the target. And the rate is 1
    instead of 0.1, for runs of some dozens of updates instead of thousands.
    """

    def __init__(self, beta: float, target: float = 0.0, rate: float = 1.0):
        self.beta, self.least, self.target, self.rate = beta, beta, target, rate

    def update(self, kl: float) -> None:
        """kl: observed nats per response."""
        if self.target > 0:
            change = 1 + float(np.clip(kl / self.target - 1, -0.2, 0.2)) * self.rate
            self.beta = max(self.least, self.beta * change)
